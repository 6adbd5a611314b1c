"""Amazon's Route53 as a zone.

A batch of changes is done whole or not at all, and the DELETE of a set is done only if that set is exactly what the
DELETE says: so each of our batches begins with the DELETE of the fence that was read, or with a CREATE where there was
none, and the fence is compared in the step that writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from i12e import aws, nameservers
from i12e.stores import passes
from i12e.zones import (
    Addresses,
    Changed,
    Fence,
    NotThere,
    Occupied,
    Records,
    Refused,
    ZoneError,
    admitted,
    fence_name,
)

_T = TypeVar("_T")
_Set = Mapping[str, Any]
_PASSING = (
    "PriorRequestNotComplete",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "InternalFailure",
    "InternalError",
    "Unavailable",
)
_REFUSED = (
    "AccessDenied",
    "AccessDeniedException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
)
_LOST = re.compile(r"but it was not found|do not match the current values|but it already exists")
_CLOCK = re.compile(r"Signature (?:expired|not yet current)")


class Route53:
    """A hosted zone of Route53's; see zones.Zone.

    `settings` has zone_id, and `endpoint` for tests; `credentials` has access_key, secret_key and perhaps
    session_token, or nothing: then boto3 looks where it always does.
    """

    name = "route53"
    atomic = True

    def __init__(self, origin: str, settings: Any, credentials: Mapping[str, str], endpoint: str | None = None) -> None:
        self._origin = origin
        self._id = settings.zone_id
        self.place = f"{origin}, Route53's {self._id}"
        self.before_write: Callable[[], None] = lambda: None
        """Called between reading and writing; for tests."""
        try:
            self._client = aws.client("route53", credentials, None, endpoint)
        except ValueError as error:
            raise ZoneError(self.name, str(error), "mend dns in the cluster's file") from None

    def read(self, name: str) -> Records:
        """See Zone."""
        return _records(self._sets(name), self._sets(fence_name(name)))

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """See Zone."""
        there, fences = self._sets(name), self._sets(fence_name(name))
        admitted(self.name, name, _records(there, fences), addresses, fence, expected)
        self.before_write()
        changes = [{"Action": "DELETE", "ResourceRecordSet": fences["TXT"]}] if "TXT" in fences else []
        changes.append(_change("CREATE", fence_name(name), "TXT", ttl, [f'"{fence.text}"']))
        for kind, texts in addresses.by_kind().items():
            if texts:
                changes.append(_change("UPSERT", name, kind, ttl, list(texts)))
            elif kind in there:
                changes.append({"Action": "DELETE", "ResourceRecordSet": there[kind]})
        batch = {"Comment": f"i12e: {fence}", "Changes": changes}
        try:
            self._asked(
                lambda: self._client.change_resource_record_sets(HostedZoneId=self._id, ChangeBatch=batch), name
            )
        except Changed:
            admitted(self.name, name, self.read(name), addresses, fence, expected)  # tells who was there first
            raise

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """See Zone. No server outside of its network answers for a private zone: there, Route53 itself is asked."""
        zone = self._asked(lambda: self._client.get_hosted_zone(Id=self._id), name)
        origin = str(zone["HostedZone"]["Name"]).rstrip(".")
        if origin != self._origin:
            raise NotThere(
                self.name, f"{self._id} is the zone {origin}, not {self._origin}", "mend dns.route53.zone_id"
            )
        if zone["HostedZone"].get("Config", {}).get("PrivateZone"):
            return {"route53": self.read(name)}
        servers = nameservers.of_names(self.name, zone["DelegationSet"]["NameServers"])
        return nameservers.look(self.name, servers, self._origin, name)

    def permissions(self, name: str) -> str:
        """See Zone."""
        zone = f"arn:aws:route53:::hostedzone/{self._id}"
        condition = {
            "route53:ChangeResourceRecordSetsNormalizedRecordNames": [name, fence_name(name)],
            "route53:ChangeResourceRecordSetsRecordTypes": ["A", "AAAA", "TXT"],
        }
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["route53:GetHostedZone", "route53:ListResourceRecordSets"],
                    "Resource": zone,
                },
                {
                    "Effect": "Allow",
                    "Action": "route53:ChangeResourceRecordSets",
                    "Resource": zone,
                    "Condition": {"ForAllValues:StringEquals": condition},
                },
            ],
        }
        return f"A user of IAM's of its own, with this policy:\n{json.dumps(policy, indent=2)}\n"

    def close(self) -> None:
        """See Zone."""
        self._client.close()

    def _sets(self, name: str) -> dict[str, _Set]:
        """Given a name, return its sets of records by their type, as Route53 has them."""
        return {str(each["Type"]): each for each in self._listed(name)}

    def _listed(self, name: str) -> Iterator[_Set]:
        """Yield the sets at a name: they come in the order of names, and the first of another name ends them."""
        start: dict[str, Any] = {"StartRecordName": f"{name}."}
        while True:
            listing = partial(self._client.list_resource_record_sets, HostedZoneId=self._id, **start)
            page = self._asked(listing, name)
            for each in page["ResourceRecordSets"]:
                if _plain(each["Name"]) != name:
                    return
                yield each
            if not page.get("IsTruncated"):
                return
            start = {"StartRecordName": page["NextRecordName"], "StartRecordType": page["NextRecordType"]}
            if page.get("NextRecordIdentifier"):
                start["StartRecordIdentifier"] = page["NextRecordIdentifier"]

    def _asked(self, action: Callable[[], _T], name: str) -> _T:
        """Given a request, return its answer; say what comes instead as a ZoneError."""
        try:
            return aws.asked(action)
        except aws.Answered as error:
            raise self._told(error, name) from None
        except aws.Unanswered as error:
            raise self._failed(error) from None

    def _told(self, error: aws.Answered, name: str) -> ZoneError:
        messages = error.response.get("messages") or error.response.get("Messages") or []
        said = " ".join([error.said, *(str(each) for each in messages)]).strip("[] ") or error.what
        said = " ".join(said.split())[:300]
        if error.code == "InvalidChangeBatch" and _LOST.search(said):
            return Changed(self.name, "the records are not what they were when they were read", "run it again")
        if error.code == "InvalidChangeBatch" and "conflicting RRSet" in said:
            return Occupied(self.name, said, f"delete what else stands at {name}")
        if error.code in ("NoSuchHostedZone", "InvalidHostedZoneId"):
            return NotThere(self.name, f"there is no hosted zone {self._id}", "mend dns.route53.zone_id")
        if _CLOCK.search(said) or error.code == "RequestTimeTooSkewed":
            return Refused(
                self.name, "its clock and ours differ by too much", "set the clock of this machine (timedatectl)"
            )
        if error.code in _REFUSED or error.status in (401, 403):
            remedy = "secrets/ENV/dns.yaml has the keys; docs/providers.md what they have to be allowed"
            return Refused(self.name, said if error.code in said else f"{error.code}: {said}", remedy)
        passing = error.code in _PASSING or error.status == 429 or error.status >= 500
        return ZoneError(
            self.name, error.what[:300], "" if passing else "look at the zone", passing, _wait(error.headers)
        )

    def _failed(self, error: aws.Unanswered) -> ZoneError:
        if error.kind == "credentials":
            return Refused(self.name, "no keys are known for it", "secrets/ENV/dns.yaml has to hold them")
        passing = error.kind == "connection" or (error.kind == "certificate" and passes(error.why))
        return ZoneError(self.name, error.why, "" if passing else "mend dns in the cluster's file", passing)


def _wait(headers: Mapping[str, str]) -> float:
    said = str(headers.get("retry-after", ""))
    return float(said) if said.isdigit() else 0.0


def _plain(name: str) -> str:
    """Given a name as Route53 has it, with signs such as * and _ perhaps as \\052, return it as we write it."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name).rstrip(".").lower()


def _records(there: Mapping[str, _Set], fences: Mapping[str, _Set]) -> Records:
    addresses = [each["Value"] for kind in ("A", "AAAA") for each in there.get(kind, {}).get("ResourceRecords", ())]
    ttls = [int(there[kind]["TTL"]) for kind in ("A", "AAAA") if "TTL" in there.get(kind, {})]
    texts = [_unquoted(each["Value"]) for each in fences.get("TXT", {}).get("ResourceRecords", ())]
    return Records.of(addresses, ttls, texts, next(_others(there), "") or next(_others(fences), ""))


def _others(there: Mapping[str, _Set]) -> Iterator[str]:
    """Yield what keeps plain addresses from standing at a name."""
    for kind, each in there.items():
        if kind == "CNAME":
            yield f"an alias (CNAME) to {each['ResourceRecords'][0]['Value'].rstrip('.')}"
        elif each.get("AliasTarget") and kind in ("A", "AAAA"):
            yield f"an alias of Route53's to {each['AliasTarget']['DNSName'].rstrip('.')}"
        elif each.get("SetIdentifier"):
            yield f"a record with a routing policy ({kind}, {each['SetIdentifier']})"


def _unquoted(value: str) -> str:
    """Given a TXT value as Route53 has it, strings in quotes, return its text."""
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"', value)
    return re.sub(r"\\(.)", r"\1", "".join(parts)) if parts else value


def _change(action: str, name: str, kind: str, ttl: int, values: list[str]) -> dict[str, Any]:
    records = [{"Value": value} for value in values]
    return {
        "Action": action,
        "ResourceRecordSet": {"Name": f"{name}.", "Type": kind, "TTL": ttl, "ResourceRecords": records},
    }

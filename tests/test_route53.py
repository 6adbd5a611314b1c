"""Route53 as a zone: against moto, a simulated one, behind a proxy of ours that is as strict as Amazon says it is.

moto applies a batch one change after the other, and lets a DELETE pass that names values which are no longer there. The
proxy does what the API's reference promises instead: a batch is done whole or not at all, one after the other, and a
DELETE or CREATE that does not fit refuses all of it, in Amazon's words.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

from faulty import Answer, Forward, Proxy, Request, Rule, failing, faulty, losing
from i12e import nameservers
from i12e.nameservers import Server
from i12e.route53 import Route53
from i12e.zones import Changed, Fence, NotThere, Occupied, Records, Refused, ZoneError, fence_name
from weed import moto
from zone_suite import BOTH, FOUR, OURS, TTL, Place, Suite, patient, raised

pytestmark = pytest.mark.slow  # a web server of Flask's answers each request

ACCESS, SECRET = "test-access-key", "planted-secret-key-0123456789"
ZONE = "example.com"
_NS = "{https://route53.amazonaws.com/doc/2013-04-01/}"


@dataclass
class Settings:
    """The settings as the model gives them."""

    zone_id: str


@dataclass
class Given:
    """A hosted zone on the simulated Route53: its id, a client of it, and the proxy before it."""

    id: str
    client: Any
    proxy: Proxy

    def zone(self, secret: str = SECRET, zone_id: str = "", origin: str = ZONE) -> Route53:
        """Return it as a zone of ours."""
        settings = Settings(zone_id or self.id)
        return Route53(origin, settings, {"access_key": ACCESS, "secret_key": secret}, self.proxy.url)

    def plant(self, name: str, addresses: dict[str, int], texts: list[str], alias: str) -> None:
        """Given what is to stand at a name and its fence's, put it there, past the proxy."""
        sets: dict[tuple[str, str], tuple[int, list[str]]] = {}
        for address, ttl in addresses.items():
            sets.setdefault((name, "AAAA" if ":" in address else "A"), (ttl, []))[1].append(address)
        for text in texts:
            quoted = '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
            sets.setdefault((fence_name(name), "TXT"), (60, []))[1].append(quoted)
        if alias:
            sets[name, "CNAME"] = (60, [f"{alias}."])
        for (at, kind), (ttl, values) in sets.items():
            self.change("UPSERT", {"Name": f"{at}.", "Type": kind, "TTL": ttl, "ResourceRecords": records(values)})

    def change(self, action: str, record_set: dict[str, Any]) -> None:
        """Given a change, do it, past the proxy."""
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record_set}]}
        self.client.change_resource_record_sets(HostedZoneId=self.id, ChangeBatch=batch)


def records(values: list[str]) -> list[dict[str, str]]:
    """Given values, return them as Route53's API has them."""
    return [{"Value": value} for value in values]


def strict(given: Given) -> Rule:
    """Given a hosted zone, return the rule that refuses a batch as Amazon does."""
    mutex = threading.Lock()

    def rule(request: Request, forward: Forward) -> Answer:
        if request.method != "POST" or not request.path.rstrip("/").endswith("/rrset"):
            return forward(request)
        with mutex:
            there = _there(given)
            wrong = []
            for change in ET.fromstring(request.body).iter(f"{_NS}Change"):  # noqa: S314  # our own client's
                wrong += _wrong(change, there)
            if wrong:
                return _invalid(wrong)
            # moto does not see that a CREATE follows the DELETE of the same set in one batch
            request.body = request.body.replace(b"<Action>CREATE</Action>", b"<Action>UPSERT</Action>")
            return forward(request)

    return rule


def _there(given: Given) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """Return all sets of the zone: TTL and values, by name and type."""
    found = {}
    for page in given.client.get_paginator("list_resource_record_sets").paginate(HostedZoneId=given.id):
        for each in page["ResourceRecordSets"]:
            values = sorted(record["Value"] for record in each.get("ResourceRecords", ()))
            found[each["Name"], each["Type"]] = str(each.get("TTL")), values
    return found


def _wrong(change: ET.Element, there: dict[tuple[str, str], tuple[str, list[str]]]) -> list[str]:
    """Given a change and what is there, return why it does not fit, and note what is there after it."""
    name, kind = (str(change.findtext(f".//{_NS}{tag}")) for tag in ("Name", "Type"))
    action, ttl = change.findtext(f"{_NS}Action"), str(change.findtext(f".//{_NS}TTL"))
    values = sorted(str(each.text) for each in change.iter(f"{_NS}Value"))
    what = f"resource record set [name='{name}', type='{kind}']"
    if action == "DELETE":
        held = there.pop((name, kind), None)
        if held is None:
            return [f"Tried to delete {what} but it was not found"]
        return (
            []
            if held == (ttl, values)
            else [f"Tried to delete {what} but the values provided do not match the current values"]
        )
    if action == "CREATE" and (name, kind) in there:
        return [f"Tried to create {what} but it already exists"]
    if kind != "CNAME" and (name, "CNAME") in there:
        rule = f"RRSet of type {kind} with DNS name {name} is not permitted because a conflicting RRSet of type CNAME"
        return [f"{rule} with the same DNS name already exists in zone {ZONE}."]
    there[name, kind] = ttl, values
    return []


def _invalid(wrong: list[str]) -> Answer:
    return _error("InvalidChangeBatch", f"[{', '.join(wrong)}]", 400)


def _error(code: str, said: str, status: int, headers: dict[str, str] | None = None) -> Answer:
    body = (
        '<?xml version="1.0"?><ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error>'
        f"<Type>Sender</Type><Code>{code}</Code><Message>{escape(said)}</Message></Error>"
        "<RequestId>1</RequestId></ErrorResponse>"
    )
    return Answer(status, {"Content-Type": "text/xml", **(headers or {})}, body.encode())


def refusing(code: str, said: str, status: int, times: int = 10**6, headers: dict[str, str] | None = None) -> Rule:
    """Return a rule that answers so many times with an error in Amazon's form."""
    left = [times]

    def rule(request: Request, forward: Forward) -> Answer:
        if left[0]:
            left[0] -= 1
            return _error(code, said, status, headers)
        return forward(request)

    return rule


@pytest.fixture(scope="module")
def simulated() -> Iterator[Given]:
    """moto with a hosted zone, and the proxy before it."""
    import boto3

    keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    with moto() as server, faulty(server.url) as proxy:
        client = boto3.session.Session(**keys).client("route53", endpoint_url=server.url)
        zone = client.create_hosted_zone(Name=ZONE, CallerReference="1")["HostedZone"]["Id"].rpartition("/")[2]
        yield Given(zone, client, proxy)
        client.close()


@pytest.fixture
def given(simulated: Given) -> Given:
    """The hosted zone, behind the strict proxy."""
    simulated.proxy.rule = strict(simulated)
    simulated.proxy.asked.clear()
    return simulated


def place_in(given: Given) -> Place:
    """Given a hosted zone, return a place in it."""
    zone = given.zone()

    def cut_in(action: Callable[[], None]) -> None:
        def act() -> None:
            zone.before_write = lambda: None
            action()

        zone.before_write = act

    return Place(zone, given.plant, cut_in)


class TestMoto(Suite):
    """moto, behind the strict proxy."""

    @pytest.fixture
    def place(self, given: Given) -> Place:
        return place_in(given)


def test_all_is_written_by_one_batch(given: Given) -> None:
    place = place_in(given)
    place.zone.ensure(place.api, BOTH, TTL, OURS, None)
    place.zone.ensure(place.api, FOUR, TTL, OURS, OURS)
    assert place.zone.read(place.api).shows(FOUR, TTL, OURS)
    assert len([each for each in given.proxy.asked if each.startswith("POST")]) == 2


def test_a_batch_that_comes_too_late_writes_nothing_at_all(given: Given) -> None:
    """The exact fence is in the batch: what changed after our reading refuses it in the step that would write."""
    place = place_in(given)
    place.zone.ensure(place.api, FOUR, TTL, Fence("other", 1), None)
    place.cut_in(lambda: given.zone().ensure(place.api, FOUR, TTL, Fence("other", 2), Fence("other", 1)))
    error = raised(lambda: place.zone.ensure(place.api, BOTH, TTL, OURS, Fence("other", 1)))
    assert isinstance(error, Changed)
    assert place.zone.read(place.api).shows(FOUR, TTL, Fence("other", 2))


def test_many_names_in_the_zone_do_not_hide_ours(given: Given) -> None:
    place = place_in(given)
    for number in range(3):
        given.plant(f"a{number}-{place.api}", {"192.0.2.1": 60}, [], "")
    given.plant(f"z-{place.api}", {"192.0.2.1": 60}, [], "")
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    assert place.zone.read(place.api).shows(FOUR, TTL, OURS)


def test_an_alias_of_route53s_and_a_weighted_record_are_told(given: Given) -> None:
    place = place_in(given)
    target = {"HostedZoneId": "Z2FDTNDATAQYW2", "DNSName": "d1.cloudfront.net.", "EvaluateTargetHealth": False}
    given.change("UPSERT", {"Name": f"{place.api}.", "Type": "A", "AliasTarget": target})
    assert place.zone.read(place.api).other == "an alias of Route53's to d1.cloudfront.net"
    assert isinstance(raised(lambda: place.zone.ensure(place.api, FOUR, TTL, OURS, None)), Occupied)
    place = place_in(given)
    weighted = {"Type": "A", "TTL": 60, "SetIdentifier": "blue", "Weight": 1, "ResourceRecords": records(["192.0.2.1"])}
    given.change("UPSERT", {"Name": f"{place.api}.", **weighted})
    assert "routing policy (A, blue)" in place.zone.read(place.api).other


@pytest.mark.parametrize(
    ("code", "said", "status", "kind", "passing"),
    [
        ("Throttling", "Rate exceeded", 400, ZoneError, True),
        ("PriorRequestNotComplete", "The request was rejected", 400, ZoneError, True),
        ("ServiceUnavailable", "", 503, ZoneError, True),
        ("InternalFailure", "", 500, ZoneError, True),
        ("AccessDenied", "User: arn:aws:iam::1:user/x is not authorized", 403, Refused, False),
        ("InvalidClientTokenId", "The security token included is invalid", 403, Refused, False),
        ("SignatureDoesNotMatch", "The signature does not match", 403, Refused, False),
        ("SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than", 403, Refused, False),
        ("ExpiredToken", "The security token included in the request is expired", 403, Refused, False),
        ("NoSuchHostedZone", "No hosted zone found with ID: Z1", 404, NotThere, False),
        ("InvalidInput", "bad", 400, ZoneError, False),
    ],
)
def test_what_amazon_answers_is_told_by_what_to_do_about_it(
    given: Given, code: str, said: str, status: int, kind: type[ZoneError], passing: bool
) -> None:
    place = place_in(given)
    given.proxy.rule = refusing(code, said, status)
    for action in (lambda: place.zone.read(place.api), lambda: place.zone.ensure(place.api, FOUR, TTL, OURS, None)):
        error = raised(action)
        assert type(error) is kind
        assert error.passing is passing
        assert error.why
        assert SECRET not in str(error)
    if "expired: 2026" in said:
        assert "timedatectl" in error.remedy


def test_throttling_is_waited_out(given: Given) -> None:
    place = place_in(given)
    throttling, normal = refusing("Throttling", "Rate exceeded", 400, times=3), strict(given)
    given.proxy.rule = lambda request, forward: throttling(request, lambda again: normal(again, forward))
    zone, said = patient(place.zone)
    zone.ensure(place.api, FOUR, TTL, OURS, None)
    assert len(said) == 3
    assert place.zone.read(place.api).shows(FOUR, TTL, OURS)


def test_how_long_to_wait_is_told(given: Given) -> None:
    given.proxy.rule = refusing("Throttling", "Rate exceeded", 400, headers={"Retry-After": "7"})
    assert raised(lambda: given.zone().read(f"k8s.{ZONE}")).wait == 7


def test_a_batch_whose_answer_is_lost_is_found_done(given: Given) -> None:
    place = place_in(given)
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    lost, normal = losing(1, lambda request: request.method == "POST"), strict(given)
    given.proxy.rule = lambda request, forward: lost(request, lambda again: normal(again, forward))
    zone, said = patient(place.zone)
    zone.ensure(place.api, BOTH, TTL, Fence(OURS.cluster, 4), OURS)
    assert place.zone.read(place.api).shows(BOTH, TTL, Fence(OURS.cluster, 4))
    assert len(said) == 1


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_gateway_that_fails_passes(given: Given, status: int) -> None:
    given.proxy.rule = failing(10**6, status)
    assert raised(lambda: given.zone().read(f"k8s.{ZONE}")).passing


def test_nobody_who_answers_passes() -> None:
    zone = Route53(ZONE, Settings("Z1"), {"access_key": ACCESS, "secret_key": SECRET}, "http://127.0.0.1:9")
    error = raised(lambda: zone.read(f"k8s.{ZONE}"))
    assert error.passing
    zone.close()


def test_without_keys_it_tells_where_they_belong(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    zone = Route53(ZONE, Settings(given.id), {}, given.proxy.url)
    error = raised(lambda: zone.read(f"k8s.{ZONE}"))
    assert isinstance(error, Refused)
    assert "secrets/ENV/dns.yaml" in error.remedy
    zone.close()


def test_the_zones_own_servers_are_read(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Server]] = []

    def look(zone: str, servers: Any, origin: str, name: str) -> dict[str, Records | ZoneError]:
        asked.extend(servers)
        return {each[0].name: Records() for each in servers}

    monkeypatch.setattr(nameservers, "look", look)
    monkeypatch.setattr(nameservers, "_resolved", lambda zone, name: ["192.0.2.53", "2001:db8::53"])
    shown = given.zone().authoritative(f"k8s.{ZONE}")
    told = given.client.get_hosted_zone(Id=given.id)["DelegationSet"]["NameServers"]
    assert sorted(shown) == sorted(each.rstrip(".") for each in told)
    assert [each.address for each in asked[0]] == ["192.0.2.53", "2001:db8::53"]
    error = raised(lambda: given.zone(origin="example.net").authoritative("k8s.example.net"))
    assert isinstance(error, NotThere)
    assert f"is the zone {ZONE}, not example.net" in error.why


def test_of_a_private_zone_route53_itself_is_read(given: Given) -> None:
    vpc = {"VPCRegion": "us-east-1", "VPCId": "vpc-0123456789abcdef0"}
    made = given.client.create_hosted_zone(
        Name="internal.example", CallerReference="2", VPC=vpc, HostedZoneConfig={"PrivateZone": True}
    )
    private = Given(made["HostedZone"]["Id"].rpartition("/")[2], given.client, given.proxy)
    given.proxy.rule = strict(private)
    zone = private.zone(origin="internal.example")
    zone.ensure("k8s.internal.example", FOUR, TTL, OURS, None)
    assert zone.authoritative("k8s.internal.example") == {"route53": Records(FOUR, frozenset({TTL}), OURS)}


def test_the_policy_allows_both_names_of_this_zone_and_nothing_else(given: Given) -> None:
    import json

    said = given.zone().permissions(f"k8s.{ZONE}")
    policy = json.loads(said.partition("\n")[2])
    assert {each["Resource"] for each in policy["Statement"]} == {f"arn:aws:route53:::hostedzone/{given.id}"}
    (writing,) = [each for each in policy["Statement"] if "Condition" in each]
    assert writing["Action"] == "route53:ChangeResourceRecordSets"
    condition = writing["Condition"]["ForAllValues:StringEquals"]
    assert condition["route53:ChangeResourceRecordSetsNormalizedRecordNames"] == [f"k8s.{ZONE}", f"_i12e.k8s.{ZONE}"]

"""Cloudflare as a zone, by its HTTP API (v4).

It edits single records, each of which has an id, and takes a batch of edits in one transaction of its database. It
knows no conditions; but a batch that deletes a record which is gone fails as a whole, and every write of ours deletes
the fence that it read and makes a new one: its id is the version that is compared. Cloudflare promises the transaction,
not that this holds for two batches at the very same time, nor that there are no two fences where there was none: so
`atomic` is False, what was written is read again, and of two fences the older one counts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from i12e import nameservers, web
from i12e.zones import Addresses, Changed, Fence, NotThere, Occupied, Records, Refused, ZoneError, admitted, fence_name

API = "https://api.cloudflare.com/client/v4"
SECONDS = 30.0
_TRIES = 3  # of writing, where what is there afterwards is not what was written
_MOST = 1 << 20  # bytes of an answer
_PAGE = 100
_NAME, _FENCE = ("A", "AAAA", "CNAME"), ("TXT", "CNAME")  # what is read at the name, and at the fence's
_NEW_TOKEN = "secrets/ENV/dns.yaml has the token; it needs the zone's DNS:Edit and Zone:Read"  # noqa: S105  # none
_GONE = (81044,)  # Record does not exist
_THERE = (81057, 81058)  # The record already exists; an identical one does
_OTHER = (81053, 81054, 81055, 81056)  # another kind of record stands there
_NO_ZONE = (7000, 7003, 1001, 1049)
_TOKEN = (6003, 6111, 9103, 9106, 9107, 9109, 10000, 10001)
_TTL = (9020, 9021)


@dataclass(frozen=True)
class _Record:
    """A record as Cloudflare has it."""

    id: str
    kind: str
    content: str
    ttl: int
    proxied: bool
    created: str


class _Failed(ZoneError):
    """The API answered with errors, by their codes."""

    def __init__(self, zone: str, why: str, remedy: str, passing: bool, wait: float, codes: tuple[int, ...]) -> None:
        super().__init__(zone, why, remedy, passing, wait)
        self.codes = codes


class Cloudflare:
    """A zone of Cloudflare's; see zones.Zone.

    `settings` has zone_id; `credentials` has token, an API token. `api` is the address of the API. Raise Refused
    without a token.
    """

    name = "cloudflare"
    atomic = False

    def __init__(self, origin: str, settings: Any, credentials: Mapping[str, str], api: str = API) -> None:
        self._token = credentials.get("token", "").strip()
        if not self._token or not self._token.isascii() or not self._token.isprintable():
            remedy = "secrets/ENV/dns.yaml has to hold cloudflare: {token: ...}"
            raise Refused(self.name, "there is no token, or it is none", remedy)
        self._origin = origin
        self._id = settings.zone_id
        self._api = api
        self.place = f"{origin}, Cloudflare's {self._id}"
        self.before_write: Callable[[], None] = lambda: None
        """Called between reading and writing; for tests."""

    def read(self, name: str) -> Records:
        """See Zone."""
        return _records(self._listed(name), self._listed(fence_name(name), _FENCE))

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """See Zone."""
        ours: list[str] = []
        for _ in range(_TRIES):
            there, fences = self._listed(name), self._listed(fence_name(name), _FENCE)
            found = _records(there, fences)
            try:
                admitted(self.name, name, found, addresses, fence, expected)
            except ZoneError:
                self._take_back(ours)
                raise
            if found.shows(addresses, ttl, fence) and not any(each.proxied for each in there):
                return
            self.before_write()
            try:
                ours = self._write(name, there, fences, addresses, ttl, fence)
            except Changed:
                admitted(self.name, name, self.read(name), addresses, fence, expected)  # tells who was there first
                raise
            if self.read(name).shows(addresses, ttl, fence):
                return
            expected = fence  # it was ours for a moment: what is there now comes from one who wrote at the same time
        raise Changed(self.name, f"{name} is not what was written: somebody else writes it, too", "run it again")

    def _write(
        self,
        name: str,
        there: list[_Record],
        fences: list[_Record],
        addresses: Addresses,
        ttl: int,
        fence: Fence,
    ) -> list[str]:
        """Write in one batch; return the ids of what is new. Records that stay are not touched: they are never away."""
        wanted = {(kind, text) for kind, texts in addresses.by_kind().items() for text in texts}
        kept: dict[tuple[str, str], _Record] = {}
        for each in there:
            kept.setdefault((each.kind, _canonical(each)), each)
        stale = [each for each in there if kept.get((each.kind, _canonical(each))) is not each]
        stale += [each for key, each in kept.items() if key not in wanted]
        change = {"ttl": ttl, "proxied": False}
        batch = {
            "deletes": [{"id": each.id} for each in (*fences, *stale)],
            "patches": [
                {"id": each.id, **change}
                for key, each in kept.items()
                if key in wanted and (each.ttl, each.proxied) != (ttl, False)
            ],
            "posts": [
                *({"type": k, "name": name, "content": text, **change} for k, text in sorted(wanted - kept.keys())),
                {"type": "TXT", "name": fence_name(name), "content": f'"{fence.text}"', "ttl": ttl},
            ],
        }
        try:
            made = self._batch(batch)
        except _Failed as error:
            if {*_GONE, *_THERE} & {*error.codes}:
                raise Changed(
                    self.name, "the records are not what they were when they were read", "run it again"
                ) from None
            if {*_OTHER} & {*error.codes}:
                raise Occupied(self.name, error.why, f"delete what else stands at {name}") from None
            raise
        return [str(each["id"]) for each in (made.get("posts") or ())]

    def _batch(self, batch: Mapping[str, Any]) -> Any:
        return self._asked("POST", f"/zones/{self._id}/dns_records/batch", batch)["result"] or {}

    def _take_back(self, ids: list[str]) -> None:
        """Given what we wrote to a name that turned out to be another's in that moment, remove it, if that can be."""
        if ids:
            with contextlib.suppress(ZoneError):  # what stays is removed when the holder writes the next time
                self._batch({"deletes": [{"id": each} for each in ids]})

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """See Zone."""
        zone = self._asked("GET", f"/zones/{self._id}")["result"]
        if str(zone["name"]) != self._origin:
            why = f"{self._id} is the zone {zone['name']}, not {self._origin}"
            raise NotThere(self.name, why, "mend dns.cloudflare.zone_id")
        servers = nameservers.of_names(self.name, zone["name_servers"])
        return nameservers.look(self.name, servers, self._origin, name)

    def permissions(self, name: str) -> str:
        """See Zone."""
        return (
            "An API token of its own (My Profile, API Tokens, Create Custom Token):\n"
            "  Permissions:     Zone - DNS - Edit\n"
            "                   Zone - Zone - Read\n"
            f"  Zone Resources:  Include - Specific zone - {self._origin}\n"
            f"Cloudflare knows none for {name} and {fence_name(name)} alone: the token can write the whole zone.\n"
            "  Client IP Address Filtering: the machines that run i12e, if they have addresses of their own\n"
        )

    def close(self) -> None:
        """See Zone."""

    def _listed(self, name: str, kinds: tuple[str, ...] = _NAME) -> list[_Record]:
        """Given a name and types, return all records of these that stand there; the others are none of our business."""
        found: list[_Record] = []
        page = 1
        while True:
            query = urlencode({"name.exact": name, "per_page": _PAGE, "page": page})
            answer = self._asked("GET", f"/zones/{self._id}/dns_records?{query}")
            here = (each for each in answer["result"] if str(each["name"]).lower() == name)
            found += [_record(each) for each in here if each["type"] in kinds]
            if page >= int((answer.get("result_info") or {}).get("total_pages") or 1):
                return found
            page += 1

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        """Given a request, return the answer, which says that it succeeded; raise ZoneError."""
        headers = {"Authorization": f"Bearer {self._token}", "User-Agent": "i12e", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._api + path, data, headers, method=method)  # noqa: S310  # https alone
        status, said, wait = self._sent(request)
        try:
            answer = json.loads(said)
            succeeded = status < 300 and answer["success"] is True and "result" in answer
            errors = [] if succeeded else [(int(each["code"]), str(each["message"])) for each in answer["errors"]]
        except (ValueError, KeyError, TypeError):
            passing = status < 300 or status >= 500 or status in (408, 429)
            raise ZoneError(
                self.name, f"the API answered {status}, and no JSON of its own", "", passing, wait
            ) from None
        if succeeded:
            return answer
        raise self._told(status, errors, wait)

    def _sent(self, request: urllib.request.Request) -> tuple[int, bytes, float]:
        """Given a request, return the status, the answer, and after how many seconds to come again; raise ZoneError."""
        opener = urllib.request.build_opener(web.Stays)
        try:
            with contextlib.closing(opener.open(request, timeout=SECONDS)) as answer:
                return int(answer.status), answer.read(_MOST), 0.0
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                said = b""
                with contextlib.suppress(OSError, http.client.HTTPException):
                    said = error.read(_MOST)
                after = str(error.headers.get("Retry-After", ""))
                return error.code, said, float(after) if after.isdigit() else 0.0
        except (OSError, http.client.HTTPException, ValueError) as error:
            why, passing = web.trouble(error, "the API")
            raise ZoneError(self.name, why, "" if passing else "is a proxy between?", passing) from None

    def _told(self, status: int, errors: list[tuple[int, str]], wait: float) -> ZoneError:
        """Given the status and the errors of an answer, return what they mean."""
        codes = tuple(code for code, _ in errors)
        said = "; ".join(f"{text.rstrip('.')} ({code})" for code, text in errors) or f"status {status}"
        said = " ".join(said.replace(self._token, "***").split())[:300]
        if status == 429:
            return ZoneError(self.name, f"asks us to wait: {said}", "", True, wait)
        if {*codes} & {*_NO_ZONE} and status != 403:
            return NotThere(self.name, f"there is no zone {self._id}: {said}", "mend dns.cloudflare.zone_id")
        if {*codes} & {*_TTL}:
            return ZoneError(self.name, said, "set dns.ttl to 60")
        if {*codes} & {*_TOKEN} or status in (401, 403):
            return Refused(self.name, said, _NEW_TOKEN)
        passing = status >= 500
        return _Failed(self.name, said, "" if passing else "look at the zone", passing, wait, codes)


def _record(raw: Mapping[str, Any]) -> _Record:
    kind, content = str(raw["type"]), str(raw["content"])
    if kind == "TXT" and len(content) > 1 and content[0] == content[-1] == '"':
        content = content[1:-1]
    return _Record(
        str(raw["id"]), kind, content, int(raw["ttl"]), bool(raw.get("proxied")), str(raw.get("created_on", ""))
    )


def _canonical(each: _Record) -> str:
    """Return an address as we write it."""
    return next(iter(Addresses.of([each.content]))) if each.kind in ("A", "AAAA") else each.content


def _records(there: list[_Record], fences: list[_Record]) -> Records:
    addresses = [each for each in there if each.kind in ("A", "AAAA")]
    oldest_first = sorted(fences, key=lambda each: (each.created, each.id))
    texts = [each.content for each in oldest_first if each.kind == "TXT"]
    other = next(_others([*there, *fences]), "")
    return Records.of((each.content for each in addresses), (each.ttl for each in addresses), texts, other, by_age=True)


def _others(found: list[_Record]) -> Iterator[str]:
    """Yield what keeps plain addresses from standing at a name."""
    for each in found:
        if each.kind == "CNAME":
            yield f"an alias (CNAME) to {each.content.rstrip('.')}"

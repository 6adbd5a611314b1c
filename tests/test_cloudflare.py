"""Cloudflare as a zone, against a small server of ours that behaves as its API is documented (tests/cloud.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cloud import TOKEN, ZONE, ZONE_ID, Answered, Cloud, cloud, failed
from i12e import nameservers
from i12e.cloudflare import Cloudflare
from i12e.zones import Addresses, Changed, Fence, Fenced, NotThere, Records, Refused, ZoneError
from zone_suite import BOTH, FOUR, OTHER, OURS, TTL, Place, Suite, patient, raised


@dataclass
class Settings:
    """The settings as the model gives them."""

    zone_id: str = ZONE_ID


@pytest.fixture
def server() -> Iterator[Cloud]:
    """The server."""
    with cloud() as made:
        yield made


def zone_on(server: Cloud, token: str = TOKEN, origin: str = ZONE, zone_id: str = ZONE_ID) -> Cloudflare:
    """Given the server, return the zone on it."""
    return Cloudflare(origin, Settings(zone_id), {"token": token}, server.url)


def place_on(server: Cloud) -> Place:
    """Given the server, return a place in its zone."""
    zone = zone_on(server)

    def cut_in(action: Callable[[], None]) -> None:
        def act() -> None:
            zone.before_write = lambda: None
            action()

        zone.before_write = act

    return Place(zone, server.plant, cut_in)


class TestCloudflare(Suite):
    """The server of ours."""

    @pytest.fixture
    def place(self, server: Cloud) -> Place:
        return place_on(server)


def batches(server: Cloud) -> list[str]:
    """Given the server, return the batches that it was asked for."""
    return [each for each in server.asked if each.endswith("/batch")]


def test_a_change_is_one_batch_and_leaves_alone_what_stays(server: Cloud) -> None:
    place = place_on(server)
    place.zone.ensure(place.api, BOTH, TTL, OURS, None)
    before = {each["content"]: each["id"] for each in server.records.values() if each["type"] != "TXT"}
    place.zone.ensure(place.api, Addresses.of(["192.0.2.11", "192.0.2.99", "2001:db8::12"]), TTL, OURS, OURS)
    after = {each["content"]: each["id"] for each in server.records.values() if each["type"] != "TXT"}
    assert len(batches(server)) == 2
    assert before["192.0.2.11"] == after["192.0.2.11"]
    assert before["2001:db8::12"] == after["2001:db8::12"]
    assert {*after} == {"192.0.2.11", "192.0.2.99", "2001:db8::12"}


def test_what_is_right_already_is_not_written(server: Cloud) -> None:
    place = place_on(server)
    place.zone.ensure(place.api, BOTH, TTL, OURS, None)
    place.zone.ensure(place.api, BOTH, TTL, OURS, OURS)
    assert len(batches(server)) == 1


def test_many_records_come_in_pages(server: Cloud) -> None:
    server.page = 2
    place = place_on(server)
    many = Addresses.of([f"192.0.2.{n}" for n in range(1, 8)])
    place.zone.ensure(place.api, many, TTL, OURS, None)
    assert place.zone.read(place.api).shows(many, TTL, OURS)


def test_a_proxied_record_and_one_that_is_there_twice_are_brought_in_order(server: Cloud) -> None:
    place = place_on(server)
    server.put({"type": "A", "name": place.api, "content": "192.0.2.11", "ttl": 1, "proxied": True})
    server.put({"type": "A", "name": place.api, "content": "192.0.2.11", "ttl": 60})
    server.put({"type": "AAAA", "name": place.api, "content": "2001:DB8:0:0::11", "ttl": 60})
    server.put({"type": "MX", "name": place.api, "content": "mail.example.com", "ttl": 300})
    place.zone.ensure(place.api, Addresses.of(["192.0.2.11", "2001:db8::11"]), TTL, OURS, None)
    assert place.zone.read(place.api).shows(Addresses.of(["192.0.2.11", "2001:db8::11"]), TTL, OURS)
    assert not any(each.get("proxied") for each in server.records.values())
    assert [each["content"] for each in server.records.values() if each["type"] == "MX"] == ["mail.example.com"]


def test_of_two_that_claim_a_free_name_at_once_the_first_keeps_it_also_if_the_other_dies(server: Cloud) -> None:
    """No condition of Cloudflare's keeps a second fence away; of two, the older one counts."""
    place = place_on(server)
    first = Addresses.of(["192.0.2.1"])
    place.cut_in(lambda: zone_on(server).ensure(place.api, first, TTL, OTHER, None))
    server.rule = lambda method, path: (500, {}, b"") if len(batches(server)) == 2 and method == "GET" else None
    raised(lambda: place.zone.ensure(place.api, FOUR, TTL, OURS, None))
    server.rule = lambda method, path: None
    found = place.zone.read(place.api)
    assert (found.fence, found.rivals) == (OTHER, (OURS,))
    assert isinstance(raised(lambda: place.zone.ensure(place.api, FOUR, TTL, OURS, None)), Fenced)
    zone_on(server).ensure(place.api, first, TTL, OTHER, OTHER)
    assert place.zone.read(place.api).shows(first, TTL, OTHER)


def test_who_writes_all_the_time_beside_us_is_told_and_the_writing_ends(server: Cloud) -> None:
    place = place_on(server)
    other = {"type": "A", "name": place.api, "ttl": 60}

    def meddle() -> None:
        server.put({**other, "content": f"198.51.100.{len(server.records) + len(server.asked)}"})

    zone = zone_on(server)
    zone.before_write = meddle
    error = raised(lambda: zone.ensure(place.api, FOUR, TTL, OURS, None))
    assert isinstance(error, Changed)
    assert "somebody else writes it, too" in error.why
    assert len(batches(server)) == 3
    zone.before_write = lambda: None
    zone.ensure(place.api, FOUR, TTL, OURS, OURS)
    assert zone.read(place.api).shows(FOUR, TTL, OURS)


@pytest.mark.parametrize(
    ("status", "answer", "kind", "passing"),
    [
        (403, failed(9109, "Invalid access token"), Refused, False),
        (400, failed(6003, "Invalid request headers"), Refused, False),
        (403, failed(10000, "Authentication error"), Refused, False),
        (404, failed(7003, "Could not route to /zones/x"), NotThere, False),
        (400, failed(1004, "DNS Validation Error"), ZoneError, False),
        (400, failed(9021, "Invalid TTL"), ZoneError, False),
        (429, failed(971, "Please wait and consider throttling your request speed"), ZoneError, True),
        (500, failed(1000, "Internal error"), ZoneError, True),
        (502, b"<html>Bad gateway</html>", ZoneError, True),
        (429, b"error code: 1015", ZoneError, True),
        (200, b"<html>a hotel's own page</html>", ZoneError, True),
        (200, {"success": True}, ZoneError, True),
        (200, b"", ZoneError, True),
        (404, b"", ZoneError, False),
        (302, b"", ZoneError, False),
    ],
)
def test_what_the_api_answers_is_told_by_what_to_do_about_it(
    server: Cloud, status: int, answer: Any, kind: type[ZoneError], passing: bool
) -> None:
    place = place_on(server)
    server.rule = lambda method, path: (status, {"Retry-After": "7"} if status == 429 else {}, answer)
    for action in (lambda: place.zone.read(place.api), lambda: place.zone.ensure(place.api, FOUR, TTL, OURS, None)):
        error = raised(action)
        assert isinstance(error, kind)
        assert error.passing is passing
        assert error.wait == (7 if status == 429 else 0)
        assert TOKEN not in str(error)


def test_a_token_that_the_server_repeats_is_not_told(server: Cloud) -> None:
    server.rule = lambda method, path: (400, {}, failed(6003, f"Invalid token {TOKEN}"))
    error = raised(lambda: zone_on(server).read(f"k8s.{ZONE}"))
    assert TOKEN not in str(error) + repr(error)
    assert "***" in error.why


def test_a_wrong_token_is_refused_by_the_server(server: Cloud) -> None:
    error = raised(lambda: zone_on(server, token="another").read(f"k8s.{ZONE}"))
    assert isinstance(error, Refused)
    assert "DNS:Edit" in error.remedy


@pytest.mark.parametrize("token", ["", " \n", "a b\x00", "tökén"])
def test_what_is_no_token_is_told_before_anything_is_asked(server: Cloud, token: str) -> None:
    assert isinstance(raised(lambda: zone_on(server, token=token)), Refused)
    assert server.asked == []


def test_a_redirect_does_not_take_the_token_elsewhere(server: Cloud) -> None:
    with cloud() as elsewhere:
        server.rule = lambda method, path: (302, {"Location": f"{elsewhere.url}{path}"}, b"")
        raised(lambda: zone_on(server).read(f"k8s.{ZONE}"))
        assert elsewhere.asked == []


def test_throttling_is_waited_out(server: Cloud) -> None:
    place = place_on(server)
    left = [3]

    def rule(method: str, path: str) -> Answered | None:
        left[0] -= 1
        return (429, {}, failed(971, "Please wait")) if left[0] >= 0 else None

    server.rule = rule
    zone, said = patient(place.zone)
    zone.ensure(place.api, FOUR, TTL, OURS, None)
    assert len(said) == 3
    assert all("Please wait (971)" in line for line in said)
    assert place.zone.read(place.api).shows(FOUR, TTL, OURS)


def test_a_batch_whose_answer_is_lost_is_found_done(server: Cloud) -> None:
    place = place_on(server)
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    server.lose = 2
    zone, said = patient(place.zone)
    later = Fence(OURS.cluster, 4)
    zone.ensure(place.api, BOTH, TTL, later, OURS)
    assert place.zone.read(place.api).shows(BOTH, TTL, later)
    assert len(said) == 1


def test_a_batch_that_fails_writes_nothing(server: Cloud) -> None:
    place = place_on(server)
    place.zone.ensure(place.api, BOTH, TTL, OURS, None)
    before = json.dumps(server.records)
    error = raised(lambda: place.zone.ensure(place.api, FOUR, 30, OURS, OURS))
    assert "set dns.ttl to 60" in error.remedy
    assert json.dumps(server.records) == before


def test_nobody_who_answers_passes() -> None:
    zone = Cloudflare(ZONE, Settings(), {"token": TOKEN}, "http://127.0.0.1:9")
    error = raised(lambda: zone.read(f"k8s.{ZONE}"))
    assert (error.passing, "Connection refused" in error.why) == (True, True)


def test_the_zones_own_servers_are_read(server: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "_resolved", lambda zone, name: ["192.0.2.53"])
    monkeypatch.setattr(
        nameservers, "look", lambda zone, servers, origin, name: {each[0].name: Records() for each in servers}
    )
    shown = zone_on(server).authoritative(f"k8s.{ZONE}")
    assert sorted(shown) == ["ada.ns.cloudflare.com", "bob.ns.cloudflare.com"]
    error = raised(lambda: zone_on(server, origin="example.net").authoritative("k8s.example.net"))
    assert isinstance(error, NotThere)
    assert isinstance(raised(lambda: zone_on(server, zone_id="f" * 32).authoritative(f"k8s.{ZONE}")), NotThere)

"""Dynamic updates against a real name server: Debian's knot, with TSIG."""

from __future__ import annotations

import socket
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from i12e import nameservers
from i12e.byhand import Hand
from i12e.patience import Patience
from i12e.rfc2136 import Rfc2136
from i12e.zones import (
    Addresses,
    ByHand,
    Fence,
    Fenced,
    NotThere,
    Records,
    Refused,
    ZoneError,
    fence_name,
    lines,
    wait_until_visible,
)
from nameserver import ALGORITHM, KEY, SECRET, WEAK, ZONE, Knot, bind, knot
from zone_suite import BOTH, FOUR, OURS, TTL, Place, Suite, patient, raised

_QUICK = Patience(print, 20.0, first=0.02, longest=0.1)


@dataclass
class Settings:
    """The settings as the model gives them."""

    server: str = "127.0.0.1"
    port: int = 53
    key_name: str = KEY
    algorithm: str = ALGORITHM


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Knot]]:
    """A primary and its secondary, for all tests."""
    with knot(tmp_path_factory.mktemp("knot"), secondary=True) as all_:
        yield all_


@pytest.fixture
def primary(servers: list[Knot]) -> Knot:
    return servers[0]


pytestmark = pytest.mark.slow  # real name servers have to start
_ALL = "acl: [update, weak, transfer]"  # of a test server's zone


def zone_on(knot: Knot, secret: str = SECRET, origin: str = ZONE, **more: str) -> Rfc2136:
    """Given a server, return the zone on it."""
    return Rfc2136(origin, Settings(port=knot.port, **more), {"secret": secret}, port_of_others=knot.port)


def once(zone: Rfc2136) -> Callable[[Callable[[], None]], None]:
    """Given a zone, return what has an action done once, between its reading and its writing."""

    def cut_in(action: Callable[[], None]) -> None:
        def act() -> None:
            zone.before_write = lambda: None
            action()

        zone.before_write = act

    return cut_in


def place_on(server: Knot) -> Place:
    """Given a server, return a place in its zone."""
    zone = zone_on(server)
    return Place(zone, server.plant, once(zone))


class TestKnot(Suite):
    """knot, over IPv4."""

    @pytest.fixture
    def place(self, primary: Knot) -> Place:
        return place_on(primary)


def test_the_server_may_have_a_name_or_an_address_of_ipv6(primary: Knot) -> None:
    api = place_on(primary).api
    for server in ("localhost", "::1"):
        zone = zone_on(primary, server=server)
        zone.ensure(api, FOUR, TTL, OURS, None)
        assert zone.read(api).shows(FOUR, TTL, OURS)
    error = raised(lambda: zone_on(primary, server="nowhere.invalid").read(api))
    assert "nowhere.invalid" in error.why


def test_all_servers_of_the_zone_are_read_and_the_secondary_follows(servers: list[Knot]) -> None:
    place = place_on(servers[0])
    place.zone.ensure(place.api, BOTH, TTL, OURS, None)
    assert wait_until_visible(place.zone, place.api, BOTH, TTL, OURS, _QUICK) == []
    assert {*place.zone.authoritative(place.api)} == {"127.0.0.1", f"ns2.{ZONE}"}


def test_a_server_that_lags_is_waited_for_and_told_when_the_time_is_over(servers: list[Knot]) -> None:
    first, second = servers
    place = place_on(first)
    second.control("zone-freeze", ZONE)  # it answers, and takes no transfers
    try:
        place.zone.ensure(place.api, FOUR, TTL, OURS, None)
        said: list[str] = []
        patience = Patience(said.append, 0.3, first=0.05, longest=0.1)
        left = wait_until_visible(place.zone, place.api, FOUR, TTL, OURS, patience)
        assert left == [f"ns2.{ZONE} has nothing"]
        assert len(said) == 1
    finally:
        second.control("zone-thaw", ZONE)
    second.control("zone-refresh", ZONE)
    assert wait_until_visible(place.zone, place.api, FOUR, TTL, OURS, _QUICK) == []


def test_a_server_that_is_silent_is_told(servers: list[Knot], monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_on(servers[0])
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    monkeypatch.setattr(nameservers, "SECONDS", 1.0)
    with servers[1].paused():
        (left,) = wait_until_visible(place.zone, place.api, FOUR, TTL, OURS, Patience(print, 0.1))
    assert left.startswith(f"ns2.{ZONE} does not tell: ")
    assert "no answer within 1 s" in left


def test_a_primary_that_is_silent_is_an_error_that_passes(primary: Knot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "SECONDS", 0.2)
    place = place_on(primary)
    with primary.paused():
        error = raised(lambda: place.zone.read(place.api))
        assert (error.passing, "no answer within 0.2 s" in error.why) == (True, True)
    zone, said = patient(place.zone)
    with primary.paused():
        threading.Timer(0.5, primary.wake).start()
        zone.ensure(place.api, FOUR, TTL, OURS, None)
    assert zone.read(place.api).shows(FOUR, TTL, OURS)
    assert any("trying again" in line for line in said)


def test_nobody_who_listens_is_an_error_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "SECONDS", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    error = raised(lambda: Rfc2136(ZONE, Settings(port=port), {"secret": SECRET}).read(f"k8s.{ZONE}"))
    assert error.passing


@pytest.mark.parametrize(
    ("settings", "secret", "why"),
    [
        ({"key_name": "unknown-key"}, SECRET, "does not know our key, or"),
        ({}, WEAK, "does not take our signature"),
        ({"algorithm": "hmac-sha512"}, SECRET, "does not"),
        ({}, "no base64!", "is not base64"),
    ],
)
def test_a_wrong_key_is_told_without_its_secret(primary: Knot, settings: dict[str, str], secret: str, why: str) -> None:
    place = place_on(primary)
    zone = zone_on(primary, secret, **settings)
    for action in (lambda: zone.read(place.api), lambda: zone.ensure(place.api, FOUR, TTL, OURS, None)):
        error = raised(action)
        assert isinstance(error, Refused), error
        assert why in error.why
        assert not error.passing
        assert secret not in repr(error) + str(error) + error.remedy
    assert place.zone.read(place.api) == Records()


def test_a_key_without_a_secret_is_told(primary: Knot) -> None:
    error = raised(lambda: zone_on(primary, ""))
    assert isinstance(error, Refused)
    assert "has no secret" in error.why


def test_a_key_that_may_not_write_this_name_is_refused(primary: Knot) -> None:
    place = place_on(primary)
    zone = zone_on(primary, WEAK, key_name="weak-key")
    assert zone.read(place.api) == Records()
    error = raised(lambda: zone.ensure(place.api, FOUR, TTL, OURS, None))
    assert isinstance(error, Refused)
    assert "does not let it do this" in error.why
    assert place.zone.read(place.api) == Records()


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_wrong_is_told(primary: Knot, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_on(primary)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    error = raised(lambda: place.zone.ensure(place.api, FOUR, TTL, OURS, None))
    monkeypatch.undo()
    assert isinstance(error, Refused)
    assert "its clock and ours differ" in error.why
    assert "timedatectl" in error.remedy


def test_a_zone_that_the_server_does_not_have_is_told(primary: Knot) -> None:
    error = raised(lambda: zone_on(primary, origin="example.net").read("k8s.example.net"))
    assert isinstance(error, Refused | NotThere)
    assert "REFUSED" in error.why or "NOTAUTH" in error.why


def test_a_server_that_fails_is_asked_again(primary: Knot) -> None:
    place = place_on(primary)
    with _between(primary, lambda answer: answer[:3] + bytes([answer[3] & 0xF0 | 2]) + answer[4:]) as port:
        zone = Rfc2136(ZONE, Settings(port=port), {"secret": SECRET})
        zone._key = None  # type: ignore[assignment]  # the signature would tell that the answer was changed
        error = raised(lambda: zone.read(place.api))
    assert (error.passing, "SERVFAIL" in error.why) == (True, True)


def test_an_answer_that_was_changed_on_its_way_is_not_believed(primary: Knot) -> None:
    place = place_on(primary)
    place.zone.ensure(place.api, Addresses.of(["192.0.2.11"]), TTL, OURS, None)
    old, new = socket.inet_aton("192.0.2.11"), socket.inet_aton("203.0.113.66")
    with _between(primary, lambda answer: answer.replace(old, new)) as port:
        error = raised(lambda: Rfc2136(ZONE, Settings(port=port), {"secret": SECRET}).read(place.api))
    assert isinstance(error, Refused)
    assert "its own signature is wrong" in error.why


class _between:  # noqa: N801  # used as a function
    """A UDP proxy of ours, which changes the server's answers."""

    def __init__(self, server: Knot, change: Callable[[bytes], bytes]) -> None:
        self._server = server
        self._change = change
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> int:
        self._socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())

    def _serve(self) -> None:
        with self._socket:
            while True:
                query, sender = self._socket.recvfrom(4096)
                if not query:
                    return
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward:
                    onward.settimeout(5)
                    onward.sendto(query, (self._server.address, self._server.port))
                    self._socket.sendto(self._change(onward.recv(4096)), sender)


def test_an_update_whose_answer_is_lost_is_found_done(primary: Knot) -> None:
    """Taking over, where doing it twice could refuse us our own name."""
    place = place_on(primary)
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    later = Fence(OURS.cluster, 4)
    zone = zone_on(primary)
    lost = [True]

    class Losing(Rfc2136):
        def ensure(self, *given: object) -> None:
            super().ensure(*given)  # type: ignore[arg-type]
            if lost.pop() if lost else False:
                raise ZoneError("rfc2136", "the connection ended before the answer", passing=True)

    losing = Losing(ZONE, Settings(port=primary.port), {"secret": SECRET})
    tried, said = patient(losing)
    tried.ensure(place.api, BOTH, TTL, later, OURS)
    assert zone.read(place.api).shows(BOTH, TTL, later)
    assert len(said) == 1


def test_what_permissions_prints_is_enough_and_no_more(tmp_path: Path) -> None:
    """knot's part of it, put into the config of a knot."""
    with knot(tmp_path) as (server,):
        name = f"k8s.{ZONE}"
        printed = zone_on(server).permissions(name).partition("knot.conf:\n")[2].partition("\nnamed.conf:")[0]
        acl = textwrap.dedent(printed.partition("  zone:")[0].replace("  acl:\n", ""))
        server.stop()
        server.start(change=lambda config: config.replace("acl:\n", f"acl:\n{acl}", 1).replace(_ALL, "acl: [i12e]"))
        writes_this_name_and_no_other(zone_on(server), name)
        assert fence_name(name) in printed


def test_what_permissions_prints_for_bind_is_enough_and_no_more(tmp_path: Path) -> None:
    """BIND's part of it, as its zone: another server, which does all of it too."""
    name = f"k8s.{ZONE}"
    settings = Settings()
    printed = Rfc2136(ZONE, settings, {"secret": SECRET}).permissions(name).partition("named.conf:\n")[2]
    with bind(tmp_path, textwrap.dedent(printed)) as port:
        zone = Rfc2136(ZONE, Settings(port=port), {"secret": SECRET})
        writes_this_name_and_no_other(zone, name)
        with pytest.raises(Fenced):
            zone.ensure(name, BOTH, TTL, Fence("other", 3), OURS)
        zone.before_write = lambda: zone_on_port(port).ensure(name, BOTH, TTL, Fence(OURS.cluster, 4), OURS)
        with pytest.raises(Fenced):
            zone.ensure(name, FOUR, TTL, OURS, OURS)
        assert zone.read(name).shows(BOTH, TTL, Fence(OURS.cluster, 4))
        for wrong in ({"key_name": "unknown"}, {"algorithm": "hmac-sha512"}):
            settings = Settings(port=port, **wrong)
            assert isinstance(raised(lambda: Rfc2136(ZONE, settings, {"secret": SECRET}).read(name)), Refused)  # noqa: B023
        assert isinstance(raised(lambda: Rfc2136(ZONE, Settings(port=port), {"secret": WEAK}).read(name)), Refused)


def zone_on_port(port: int) -> Rfc2136:
    """Given a port of this machine, return the zone of the server there."""
    return Rfc2136(ZONE, Settings(port=port), {"secret": SECRET})


def writes_this_name_and_no_other(zone: Rfc2136, name: str) -> None:
    """Given a zone whose key may write one name, try that and others."""
    zone.ensure(name, BOTH, TTL, OURS, None)
    zone.ensure(name, FOUR, TTL, OURS, OURS)
    assert zone.read(name).shows(FOUR, TTL, OURS)
    for other in (f"www.{ZONE}", f"x.{name}", ZONE):
        assert isinstance(raised(lambda: zone.ensure(other, FOUR, TTL, OURS, None)), Refused)  # noqa: B023


@pytest.fixture
def resolver(servers: list[Knot], monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's resolver is the zone's primary, which knows no other zone; names are looked up as it has them."""
    import dns.resolver

    mine = dns.resolver.Resolver(configure=False)
    mine.nameservers, mine.port = [servers[0].address], servers[0].port
    monkeypatch.setattr(dns.resolver, "default_resolver", mine)
    places = {f"ns1.{ZONE}": ["127.0.0.1"], f"ns2.{ZONE}": ["127.0.0.2"]}
    monkeypatch.setattr(nameservers, "_resolved", lambda zone, name: places.get(name.rstrip("."), []))


@pytest.mark.usefixtures("resolver")
def test_by_hand_the_servers_of_the_delegation_are_read(servers: list[Knot]) -> None:
    place = place_on(servers[0])
    hand = Hand(ZONE, lambda: nameservers.authorities("none", ZONE, port=servers[0].port))
    with pytest.raises(ByHand) as caught:
        hand.ensure(place.api, FOUR, TTL, OURS, None)
    assert caught.value.lines == lines(place.api, FOUR, TTL, OURS)
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    assert wait_until_visible(hand, place.api, FOUR, TTL, OURS, _QUICK) == []
    hand.ensure(place.api, FOUR, TTL, OURS, OURS)
    assert {*hand.authoritative(place.api)} == {f"ns1.{ZONE}", f"ns2.{ZONE}"}


@pytest.mark.usefixtures("resolver")
def test_by_hand_a_zone_that_nobody_finds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = raised(lambda: Hand(f"no.{ZONE}").read(f"k8s.no.{ZONE}"))
    assert isinstance(error, NotThere)
    assert f"there is no zone no.{ZONE}" in error.why
    monkeypatch.setattr(nameservers, "SECONDS", 0.2)
    assert raised(lambda: Hand("example.net").read("k8s.example.net")).passing, "the resolver refuses to say"


def test_a_server_whose_name_has_no_address_is_told_and_others_are_read(
    servers: list[Knot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameservers, "_addresses_at", lambda zone, server, name: [])
    monkeypatch.setattr(nameservers, "_resolved", lambda zone, name: [])
    place = place_on(servers[0])
    place.zone.ensure(place.api, FOUR, TTL, OURS, None)
    shown = place.zone.authoritative(place.api)
    assert shown["127.0.0.1"] == Records(FOUR, frozenset({TTL}), OURS)
    error = shown[f"ns2.{ZONE}"]
    assert isinstance(error, ZoneError)
    assert "has no address" in error.why

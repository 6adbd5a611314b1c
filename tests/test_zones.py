"""Zones: the fence, what may be written, the twin in memory, retries, and the wait for all servers."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from i12e import openzone, zones
from i12e.byhand import Hand
from i12e.cloudflare import Cloudflare
from i12e.nameservers import Server
from i12e.patience import Patience
from i12e.rfc2136 import Rfc2136
from i12e.route53 import Route53
from i12e.secrets import Secret
from i12e.zones import (
    Addresses,
    ByHand,
    Changed,
    Fence,
    Fenced,
    Occupied,
    Patient,
    Records,
    Refused,
    ZoneError,
    admitted,
    fence_name,
    fence_of,
    lines,
    wait_until_visible,
)
from memoryzone import Memory
from zone_suite import BOTH, FOUR, OTHER, OURS, TTL, Place, Suite, patient, raised

NAME = "k8s.example.com"


class TestMemory(Suite):
    """The twin in memory."""

    @pytest.fixture
    def place(self) -> Place:
        zone = Memory()

        def cut_in(action: Callable[[], None]) -> None:
            def act(operation: str, name: str) -> None:
                if operation == "commit":
                    zone.before = lambda operation, name: None
                    action()

            zone.before = act

        return Place(
            zone, lambda name, addresses, texts, alias: zone.plant(name, addresses, texts, _other(alias)), cut_in
        )


def _other(alias: str) -> str:
    return f"an alias (CNAME) to {alias}" if alias else ""


clusters = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
fences = st.builds(Fence, clusters, st.integers(1, 10**15 - 1))


@given(fences)
def test_a_fence_is_read_as_it_was_written(fence: Fence) -> None:
    assert fence_of(fence.text) == fence
    assert len(fence.text) <= 255, "one string of a TXT record"
    assert '"' not in fence.text
    assert fence_name(NAME) == f"_i12e.{NAME}"


@pytest.mark.parametrize(
    ("cluster", "epoch"), [("", 1), ("a b", 1), ("a", 0), ("a", -1), ("a" * 101, 1), ('"', 1), ("a\n", 1)]
)
def test_what_cannot_be_written_is_no_fence(cluster: str, epoch: int) -> None:
    with pytest.raises(ValueError, match="no fence"):
        Fence(cluster, epoch)


@pytest.mark.parametrize(
    "text", ["", "i12e", "i12e cluster=a epoch=01", "i12e cluster=a epoch=1 ", "i12e cluster=a epoch=1\n"]
)
def test_what_is_not_exactly_a_fence_is_none(text: str) -> None:
    assert fence_of(text) is None


@given(fences, st.none() | fences)
def test_a_fence_after_another_is_above_both(ours: Fence, other: Fence | None) -> None:
    if max(ours.epoch, other.epoch if other else 0) < 10**15 - 1:
        after = ours.after(other)
        assert after.cluster == ours.cluster
        assert after.epoch > ours.epoch
        assert other is None or after.epoch > other.epoch


few = st.builds(Fence, st.sampled_from("ab"), st.integers(1, 4))


@given(st.none() | few, few, st.none() | few)
def test_only_the_holder_or_a_higher_epoch_that_read_the_fence_is_admitted(
    found: Fence | None, ours: Fence, expected: Fence | None
) -> None:
    """The rule of the module, said in another way: as a table of who may."""
    may = (
        found == ours
        or (found is None and expected is None)
        or (found is not None and found == expected and found.epoch < ours.epoch)
    )
    if may:
        admitted("z", NAME, Records(fence=found), FOUR, ours, expected)
        return
    error = raised(lambda: admitted("z", NAME, Records(fence=found), FOUR, ours, expected))
    if found is not None and found.epoch >= ours.epoch:
        assert isinstance(error, Fenced)
        assert error.holder == found
    else:
        assert isinstance(error, Changed)


@given(st.permutations([Fence("a", 1), Fence("b", 2), Fence("a", 2), Fence("c", 1)]))
def test_of_several_fences_all_see_the_same_one_as_the_holders(order: list[Fence]) -> None:
    found = Records.of([], [], [each.text for each in order])
    assert found.fence == Fence("a", 2)
    assert found.rivals == (Fence("b", 2), Fence("a", 1), Fence("c", 1))


def test_addresses_are_told_apart_by_family_and_written_in_one_way() -> None:
    found = Addresses.of(["2001:DB8:0::1", "192.0.2.10", "192.0.2.9", "2001:db8::1"])
    assert list(found) == ["192.0.2.9", "192.0.2.10", "2001:db8::1"]
    assert found.by_kind() == {"A": ("192.0.2.9", "192.0.2.10"), "AAAA": ("2001:db8::1",)}
    assert (bool(found), bool(Addresses()), str(Addresses())) == (True, False, "nothing")
    with pytest.raises(ValueError, match="host"):
        Addresses.of(["host"])


def test_what_is_to_be_entered_by_hand_is_lines_of_a_zone_file() -> None:
    assert lines(NAME, Addresses.of(["192.0.2.2", "192.0.2.1", "2001:db8::1"]), 30, Fence("u", 2)) == (
        f"{NAME}. 30 IN A 192.0.2.1",
        f"{NAME}. 30 IN A 192.0.2.2",
        f"{NAME}. 30 IN AAAA 2001:db8::1",
        f'_i12e.{NAME}. 30 IN TXT "i12e cluster=u epoch=2"',
    )


def _slow(why: str = "no answer", wait: float = 0.0) -> ZoneError:
    return ZoneError("memory", why, passing=True, wait=wait)


class _Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, say: Callable[[str], None] = print, limit: float = 60.0) -> Patience:
        return Patience(say, limit, longest=10.0, clock=lambda: self.now, sleep=self.sleep)


def test_what_passes_is_tried_again_and_told() -> None:
    memory = Memory()
    zone, said = patient(memory)
    memory.fail("read", _slow("SERVFAIL"), times=3)
    assert zone.read(NAME) == Records()
    assert len(said) == 3
    assert all(re.match(r"memory: trying again, \d+ s of \d+ s: SERVFAIL\Z", line) for line in said)


@pytest.mark.parametrize("after", [False, True])
def test_a_write_whose_answer_is_lost_is_done_once_in_effect(after: bool) -> None:
    memory = Memory()
    memory.ensure(NAME, FOUR, TTL, OURS, None)
    later = Fence(OURS.cluster, 4)
    memory.fail("ensure", _slow(), times=2, after=after)
    zone, _ = patient(memory)
    zone.ensure(NAME, BOTH, TTL, later, OURS)
    assert memory.read(NAME).shows(BOTH, TTL, later)


def test_what_does_not_pass_is_raised_at_once() -> None:
    memory, clock = Memory(), _Clock()
    memory.fail("read", Refused("memory", "the key is wrong"), times=9)
    zone = Patient(memory, clock.patience())
    assert isinstance(raised(lambda: zone.read(NAME)), Refused)
    assert clock.slept == []


def test_patience_ends_with_its_limit_and_the_last_error_is_told() -> None:
    memory, clock = Memory(), _Clock()
    memory.fail("read", _slow("SERVFAIL"), times=10**6)
    error = raised(lambda: Patient(memory, clock.patience(limit=60.0)).read(NAME))
    assert error.why == "SERVFAIL"
    assert 45 < clock.now - 1000 <= 60
    assert max(clock.slept) <= 10


def test_a_provider_that_says_how_long_to_wait_is_obeyed_within_the_limit() -> None:
    memory, clock = Memory(), _Clock()
    memory.fail("read", _slow("throttled", wait=17), times=2)
    Patient(memory, clock.patience(limit=60.0)).read(NAME)
    assert clock.slept == [17, 17]
    memory.fail("read", _slow("throttled", wait=3600), times=2)
    assert raised(lambda: Patient(memory, clock.patience(limit=60.0)).read(NAME)).wait == 3600
    assert clock.slept == [17, 17], "an hour is not within a minute"


def test_a_server_that_lags_is_waited_for_and_told_of_once() -> None:
    memory, clock = Memory(), _Clock()
    memory.ensure(NAME, FOUR, TTL, OURS, None)
    memory.lag("ns2", 3)
    memory.ensure(NAME, BOTH, TTL, OURS, OURS)
    said: list[str] = []
    assert wait_until_visible(memory, NAME, BOTH, TTL, OURS, clock.patience(said.append)) == []
    assert len(clock.slept) == 3
    assert said == [f"{NAME}: not everywhere yet, 0 s of 60 s: ns2 has {FOUR}"]


@pytest.mark.parametrize(
    ("addresses", "ttl", "fence", "told"),
    [
        (FOUR, TTL, OURS, f"has {FOUR}"),
        (BOTH, 300, OURS, "has a TTL of 300 s"),
        (BOTH, TTL, OTHER, f"has the fence of {OTHER}"),
    ],
)
def test_what_a_server_does_not_show_in_time_is_told(addresses: Addresses, ttl: int, fence: Fence, told: str) -> None:
    memory, clock = Memory(), _Clock()
    memory.ensure(NAME, addresses, ttl, fence, None)
    left = wait_until_visible(memory, NAME, BOTH, TTL, OURS, clock.patience(limit=60.0))
    assert left == [f"ns1 {told}", f"ns2 {told}"]
    assert 59 < clock.now - 1000 <= 60


def test_a_server_that_does_not_answer_is_waited_for_and_told() -> None:
    memory, clock = Memory(), _Clock()
    memory.ensure(NAME, FOUR, TTL, OURS, None)
    memory.silence("ns2", _slow("no answer within 5 s"))
    assert wait_until_visible(memory, NAME, FOUR, TTL, OURS, clock.patience(limit=5.0)) == [
        "ns2 does not tell: no answer within 5 s"
    ]
    assert clock.now - 1000 == 5
    memory.silence("ns2", Refused("memory", "REFUSED"))
    assert wait_until_visible(memory, NAME, FOUR, TTL, OURS, clock.patience(limit=5.0)) == [
        "ns2 does not tell: REFUSED"
    ]
    assert clock.now - 1000 == 5, "nobody waits for what does not pass"


def test_servers_that_cannot_be_found_now_are_waited_for_and_others_are_an_error() -> None:
    memory, clock = Memory(), _Clock()
    memory.ensure(NAME, FOUR, TTL, OURS, None)
    memory.fail("authoritative", _slow("no resolver answers"), times=2)
    assert wait_until_visible(memory, NAME, FOUR, TTL, OURS, clock.patience()) == []
    assert len(clock.slept) == 2
    memory.fail("authoritative", Refused("memory", "wrong token"))
    assert isinstance(raised(lambda: wait_until_visible(memory, NAME, FOUR, TTL, OURS, clock.patience())), Refused)


def test_where_no_server_is_known_nothing_is_visible() -> None:
    memory, clock = Memory(servers=()), _Clock()
    memory.ensure(NAME, FOUR, TTL, OURS, None)
    left = wait_until_visible(memory, NAME, FOUR, TTL, OURS, clock.patience())
    assert (left, clock.slept) == (["no server of the zone is known"], [])


def test_an_error_is_told_with_its_remedy_and_as_a_problem() -> None:
    error = Fenced("route53", NAME, OTHER, OURS)
    assert str(error).startswith(f"route53: {NAME} is held by cluster {OTHER.cluster}, epoch 3; this is cluster ")
    problem = error.problem()
    assert (problem.message, problem.remedy) == (f"route53: {error.why}", error.remedy)


def test_a_text_of_a_newer_i12e_is_not_to_be_deleted() -> None:
    with pytest.raises(Occupied, match="a newer i12e may have written it"):
        admitted("z", NAME, Records(foreign=("i12e v2 cluster=a",)), FOUR, OURS, None)
    with pytest.raises(Occupied, match="delete that TXT record"):
        admitted("z", NAME, Records(foreign=("v=spf1",)), FOUR, OURS, None)


class _Settings:
    """`dns` of the model."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.zone = "example.com"
        self.zone_id = "Z1"
        self.server, self.port, self.key_name, self.algorithm = "192.0.2.53", 53, "key", "hmac-sha256"
        self.route53 = self.rfc2136 = self.cloudflare = self


@pytest.mark.parametrize(
    ("provider", "kind", "credentials"),
    [
        ("route53", Route53, {"access_key": "a", "secret_key": Secret("planted")}),
        ("rfc2136", Rfc2136, {"secret": Secret("cGxhbnRlZA==")}),
        ("cloudflare", Cloudflare, {"token": Secret("planted")}),
        ("none", Hand, {}),
    ],
)
def test_the_zone_that_the_model_names_is_opened_without_a_question(
    provider: str, kind: type[object], credentials: dict[str, Secret | str]
) -> None:
    zone = openzone.open_zone(_Settings(provider), credentials, print)
    assert isinstance(zone, Patient)
    assert isinstance(zone._zone, kind)
    assert (zone.name, zone.place.startswith("example.com")) == (provider, True)
    zone.close()


@pytest.mark.parametrize("provider", ["rfc2136", "cloudflare"])
def test_without_credentials_a_provider_tells_where_they_belong(provider: str) -> None:
    error = raised(lambda: openzone.open_zone(_Settings(provider), {}, print))
    assert isinstance(error, Refused)
    assert f"secrets/ENV/dns.yaml has to hold {provider}: {{" in error.remedy


def test_the_docs_have_the_permissions_that_are_printed() -> None:
    page = (ROOT / "docs/providers.md").read_text()
    settings = _Settings("route53")
    settings.zone_id, settings.key_name = "ZONE_ID", "i12e-key"
    policy = Route53("example.com", settings, {}).permissions(NAME).partition("\n")[2]
    assert json.loads(page.partition("```json\n")[2].partition("```")[0]) == json.loads(policy)
    printed = Rfc2136("example.com", settings, {"secret": "cGxhbnRlZA=="}).permissions(NAME)
    for part in (
        printed.partition("knot.conf:\n")[2].partition("\nnamed.conf:")[0],
        printed.partition("named.conf:\n")[2],
    ):
        assert textwrap.dedent(part) in page
    for word in ("Zone - DNS - Edit", "Zone - Zone - Read"):
        assert word in page
        assert word in Cloudflare("example.com", settings, {"token": "planted"}).permissions(NAME)


def hand(monkeypatch: pytest.MonkeyPatch, said: dict[str, Records | ZoneError]) -> Hand:
    """Given what servers say, return a zone that is kept by hand and has these."""
    monkeypatch.setattr("i12e.nameservers.look", lambda zone, servers, origin, name: said)
    return Hand("example.com", lambda: [[Server(each, "192.0.2.53")] for each in said])


def test_by_hand_tells_what_to_enter_and_nothing_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Records | ZoneError] = {"ns1": _slow(), "ns2": Records(FOUR, frozenset({300}))}
    zone = hand(monkeypatch, said)
    assert zone.read(NAME) == said["ns2"]
    with pytest.raises(ByHand) as caught:
        zone.ensure(NAME, BOTH, TTL, OURS, None)
    assert caught.value.lines == lines(NAME, BOTH, TTL, OURS)
    assert "by hand" in caught.value.remedy
    said["ns2"] = Records(BOTH, frozenset({TTL}), OURS)
    zone.ensure(NAME, BOTH, TTL, OURS, OURS)
    said["ns2"] = Records(BOTH, frozenset({TTL}), OTHER)
    assert isinstance(raised(lambda: zone.ensure(NAME, BOTH, TTL, OURS, OURS)), Fenced)


def test_by_hand_without_any_answer_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert raised(lambda: hand(monkeypatch, {"ns1": _slow("no answer")}).read(NAME)).why == "no answer"
    assert "has no servers" in raised(lambda: hand(monkeypatch, {}).read(NAME)).why
    assert zones.LABEL in hand(monkeypatch, {}).permissions(NAME)

"""What every zone keeps: one suite for all of them (zones.Zone says it in words).

A module of tests makes a class of `Suite` with a fixture `place` that gives a Place. Each test has a name of its own,
so that one server serves them all.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from i12e.patience import Patience
from i12e.zones import (
    Addresses,
    Changed,
    Fence,
    Fenced,
    Occupied,
    Patient,
    Records,
    Zone,
    ZoneError,
    fence_name,
)

TTL = 60
OURS = Fence("5e2d7a60-8a0c-4c4e-9d7a-3c1f5b1f0a11", 3)
OTHER = Fence("b0b0b0b0-0000-4000-8000-00000000b0b0", 3)
FOUR = Addresses.of(["192.0.2.11", "192.0.2.12", "192.0.2.13"])
BOTH = Addresses.of(["192.0.2.11", "192.0.2.12", "2001:db8::11", "2001:db8::12"])


@dataclass
class Place:
    """A zone to test: `plant` puts addresses (with a TTL), texts of TXT records and a CNAME at a name.

    It does so past the zone: as a person does, or another program. `cut_in` has something done once, between the
    zone's reading and its writing.
    """

    zone: Zone
    plant: Callable[[str, dict[str, int], list[str], str], None]
    cut_in: Callable[[Callable[[], None]], None]
    origin: str = "example.com"
    name: str = field(default_factory=lambda: f"k8s-{secrets.token_hex(4)}")

    @property
    def api(self) -> str:
        """This test's own name."""
        return f"{self.name}.{self.origin}"


class Suite:
    """The tests."""

    @pytest.fixture
    def zone(self, place: Place) -> Zone:
        return place.zone

    def test_a_name_that_nobody_wrote_has_nothing(self, place: Place, zone: Zone) -> None:
        assert zone.read(place.api) == Records()

    @pytest.mark.parametrize("addresses", [FOUR, BOTH, Addresses.of(["2001:db8::1"]), Addresses.of(["192.0.2.1"])])
    def test_what_is_ensured_is_read_exactly_so(self, place: Place, zone: Zone, addresses: Addresses) -> None:
        zone.ensure(place.api, addresses, TTL, OURS, None)
        assert zone.read(place.api) == Records(addresses, frozenset({TTL}), OURS)

    def test_ensuring_it_again_changes_nothing(self, place: Place, zone: Zone) -> None:
        for expected in (None, OURS, OURS):
            zone.ensure(place.api, BOTH, TTL, OURS, expected)
            assert zone.read(place.api).shows(BOTH, TTL, OURS)

    def test_a_set_takes_the_place_of_another_whatever_they_share(self, place: Place, zone: Zone) -> None:
        sets = [
            ["192.0.2.1"],
            ["192.0.2.1", "192.0.2.2"],
            ["192.0.2.2"],
            ["192.0.2.3", "2001:db8::3"],
            ["2001:db8::3"],
            ["2001:db8::4", "192.0.2.3"],
            ["192.0.2.3"],
        ]
        expected = None
        for texts in sets:
            zone.ensure(place.api, Addresses.of(texts), TTL, OURS, expected)
            assert zone.read(place.api) == Records(Addresses.of(texts), frozenset({TTL}), OURS), texts
            expected = OURS

    def test_another_ttl_is_written(self, place: Place, zone: Zone) -> None:
        zone.ensure(place.api, BOTH, TTL, OURS, None)
        zone.ensure(place.api, BOTH, 120, OURS, OURS)
        assert zone.read(place.api).shows(BOTH, 120, OURS)

    def test_what_a_person_entered_is_brought_in_order(self, place: Place, zone: Zone) -> None:
        place.plant(place.api, {"198.51.100.7": 300, "192.0.2.11": 300, "2001:db8::99": 300}, [], "")
        assert zone.read(place.api) == Records(
            Addresses.of(["198.51.100.7", "192.0.2.11", "2001:db8::99"]), frozenset({300})
        )
        zone.ensure(place.api, FOUR, TTL, OURS, None)
        assert zone.read(place.api).shows(FOUR, TTL, OURS)

    def test_the_neighbours_of_a_name_stay_as_they_are(self, place: Place, zone: Zone) -> None:
        other = f"other-{place.api}"
        below = f"below.{place.api}"
        place.plant(other, {"198.51.100.1": 300}, ["v=spf1 -all"], "")
        place.plant(below, {"198.51.100.2": 300}, [], "")
        zone.ensure(place.api, FOUR, TTL, OURS, None)
        zone.ensure(place.api, Addresses.of(["192.0.2.9"]), TTL, OURS, OURS)
        assert zone.read(other) == Records(Addresses.of(["198.51.100.1"]), frozenset({300}), foreign=("v=spf1 -all",))
        assert zone.read(below) == Records(Addresses.of(["198.51.100.2"]), frozenset({300}))

    def test_an_empty_set_is_never_written(self, place: Place, zone: Zone) -> None:
        zone.ensure(place.api, FOUR, TTL, OURS, None)
        with pytest.raises(ZoneError, match="an empty name is never written"):
            zone.ensure(place.api, Addresses(), TTL, OURS, OURS)
        assert zone.read(place.api).shows(FOUR, TTL, OURS)

    @pytest.mark.parametrize("holder", [OTHER, Fence(OURS.cluster, 4), Fence(OTHER.cluster, 9)])
    def test_who_is_not_the_holder_is_refused_and_nothing_is_written(
        self, place: Place, zone: Zone, holder: Fence
    ) -> None:
        zone.ensure(place.api, BOTH, TTL, holder, None)
        for expected in (None, OURS, holder):
            with pytest.raises(Fenced) as caught:
                zone.ensure(place.api, FOUR, TTL, OURS, expected)
            assert caught.value.holder == holder
            assert not caught.value.passing
        assert zone.read(place.api).shows(BOTH, TTL, holder)

    def test_a_higher_epoch_takes_the_name_and_the_older_one_is_refused_from_then_on(
        self, place: Place, zone: Zone
    ) -> None:
        zone.ensure(place.api, FOUR, TTL, OTHER, None)
        ours = OURS.after(zone.read(place.api).fence)
        assert ours.epoch == OTHER.epoch + 1
        zone.ensure(place.api, BOTH, TTL, ours, OTHER)
        assert zone.read(place.api).shows(BOTH, TTL, ours)
        with pytest.raises(Fenced):
            zone.ensure(place.api, FOUR, TTL, OTHER, OTHER)
        assert zone.read(place.api).shows(BOTH, TTL, ours)

    def test_a_fence_that_nobody_expected_is_taken_by_nobody(self, place: Place, zone: Zone) -> None:
        zone.ensure(place.api, FOUR, TTL, Fence(OTHER.cluster, 1), None)
        for expected in (None, Fence(OTHER.cluster, 2), Fence(OURS.cluster, 1)):
            with pytest.raises(Changed):
                zone.ensure(place.api, BOTH, TTL, OURS, expected)
        assert zone.read(place.api).shows(FOUR, TTL, Fence(OTHER.cluster, 1))

    def test_a_fence_that_is_gone_is_told(self, place: Place, zone: Zone) -> None:
        place.plant(place.api, {"192.0.2.1": TTL}, [], "")
        with pytest.raises(Changed, match="is gone"):
            zone.ensure(place.api, BOTH, TTL, OURS, OURS)
        assert zone.read(place.api) == Records(Addresses.of(["192.0.2.1"]), frozenset({TTL}))

    @pytest.mark.parametrize(
        "text", ["v=spf1 -all", "i12e cluster= epoch=3", 'a "quoted" \\ text', "i12e cluster=a epoch=x"]
    )
    def test_a_text_that_is_no_fence_keeps_everybody_away(self, place: Place, zone: Zone, text: str) -> None:
        place.plant(place.api, {"192.0.2.1": TTL}, [text], "")
        assert zone.read(place.api).foreign == (text,)
        with pytest.raises(Occupied) as caught:
            zone.ensure(place.api, FOUR, TTL, OURS, None)
        assert text in str(caught.value)
        assert zone.read(place.api) == Records(Addresses.of(["192.0.2.1"]), frozenset({TTL}), foreign=(text,))

    def test_an_alias_is_told_and_left_alone(self, place: Place, zone: Zone) -> None:
        place.plant(place.api, {}, [], f"elsewhere.{place.origin}")
        found = zone.read(place.api)
        assert found.other == f"an alias (CNAME) to elsewhere.{place.origin}"
        with pytest.raises(Occupied, match="an alias"):
            zone.ensure(place.api, FOUR, TTL, OURS, None)
        assert zone.read(place.api) == found

    def test_who_takes_over_between_our_reading_and_our_writing_keeps_the_name(self, place: Place, zone: Zone) -> None:
        zone.ensure(place.api, FOUR, TTL, OURS, None)
        later = Fence(OURS.cluster, 4)
        place.cut_in(lambda: zone.ensure(place.api, BOTH, TTL, later, OURS))
        with pytest.raises(Fenced) as caught:
            zone.ensure(place.api, Addresses.of(["192.0.2.99"]), TTL, OURS, OURS)
        assert caught.value.holder == later
        assert zone.read(place.api).shows(BOTH, TTL, later)

    def test_who_claims_between_our_reading_and_our_writing_is_not_mixed_with_us(
        self, place: Place, zone: Zone
    ) -> None:
        first = Addresses.of(["192.0.2.1"])
        place.cut_in(lambda: zone.ensure(place.api, first, TTL, OTHER, None))
        with pytest.raises(ZoneError):
            zone.ensure(place.api, FOUR, TTL, OURS, None)
        assert zone.read(place.api).shows(first, TTL, OTHER)

    def test_an_alias_that_is_made_between_our_reading_and_our_writing_hides_nothing(
        self, place: Place, zone: Zone
    ) -> None:
        place.cut_in(lambda: place.plant(place.api, {}, [], f"elsewhere.{place.origin}"))
        with pytest.raises((Occupied, Changed)):
            zone.ensure(place.api, FOUR, TTL, OURS, None)
        assert zone.read(place.api).other

    def test_of_many_that_write_at_once_one_set_stands_there_and_no_mixture(self, place: Place, zone: Zone) -> None:
        zone.ensure(place.api, Addresses.of(["192.0.2.200"]), TTL, OURS, None)
        sets = [Addresses.of([f"192.0.2.{n}", f"192.0.2.{n + 1}", f"2001:db8::{n}"]) for n in range(10, 60, 10)]
        start = threading.Barrier(len(sets))

        def write(addresses: Addresses) -> Addresses | None:
            start.wait(90)
            try:
                zone.ensure(place.api, addresses, TTL, OURS, OURS)
            except Changed:
                return None
            return addresses

        with ThreadPoolExecutor(len(sets)) as pool:
            done = [each for each in pool.map(write, sets) if each]
        found = zone.read(place.api)
        assert done, "somebody has to get through"
        assert found.addresses in done
        assert found.shows(found.addresses, TTL, OURS)

    def test_of_many_that_take_over_at_once_one_gets_the_name(self, place: Place, zone: Zone) -> None:
        zone.ensure(place.api, FOUR, TTL, OURS, None)
        rivals = [Fence(f"rival-{n}", 4) for n in range(5)]
        start = threading.Barrier(len(rivals))

        def take(fence: Fence) -> Fence | None:
            start.wait(90)
            addresses = Addresses.of([f"192.0.2.{100 + rivals.index(fence)}"])
            try:
                zone.ensure(place.api, addresses, TTL, fence, OURS)
            except (Changed, Fenced):
                return None
            return fence

        with ThreadPoolExecutor(len(rivals)) as pool:
            done = [each for each in pool.map(take, rivals) if each]
        assert len(done) == 1
        expected = Addresses.of([f"192.0.2.{100 + rivals.index(done[0])}"])
        assert zone.read(place.api).shows(expected, TTL, done[0])

    def test_the_permissions_name_what_is_written(self, place: Place, zone: Zone) -> None:
        said = zone.permissions(place.api)
        assert place.api in said
        assert fence_name(place.api) in said


def patient(zone: Zone, limit: float = 20.0) -> tuple[Patient, list[str]]:
    """Given a zone, return it with patience that is quick, and what it will have said."""
    said: list[str] = []
    return Patient(zone, Patience(said.append, limit, first=0.01, longest=0.05)), said


def raised(action: Callable[[], Any]) -> ZoneError:
    """Given what fails, return how."""
    with pytest.raises(ZoneError) as caught:
        action()
    return caught.value

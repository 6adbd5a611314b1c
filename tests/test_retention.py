"""Which backups stay: the rules one by one, and what holds whatever a store has in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i12e.retention import DAY, NOT_KEPT, Kept, State, choose

NOW = datetime(2026, 11, 26, 22, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Rules:
    """How many to keep, as the model's own class has it."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


def made(number: int, ago: timedelta, state: State = "good", **more: object) -> Kept:
    """Return a backup of a number that was made so long ago."""
    return replace(Kept(f"b{number}", (NOW - ago).timestamp(), number, state), **more)  # type: ignore[arg-type]


def chosen(backups: Sequence[Kept], rules: Rules = Rules()) -> dict[str, tuple[bool, str]]:
    """Choose among backups now."""
    return choose(backups, rules, NOW.timestamp())


def stay(backups: Sequence[Kept], rules: Rules = Rules()) -> list[str]:
    """Return the ids of those that stay, the newest first."""
    return [name for name, (stays, _) in chosen(backups, rules).items() if stays]


def every(step: timedelta, count: int) -> list[Kept]:
    """Return good backups at equal distances, up to now."""
    return [made(number, (count - number) * step) for number in range(1, count + 1)]


# --- the rules


def test_the_last_ones_are_counted_by_their_numbers() -> None:
    found = chosen(every(timedelta(hours=1), 5), Rules(last=3))
    assert found == {
        "b5": (True, "newest good, last 1 of 3"),
        "b4": (True, "last 2 of 3"),
        "b3": (True, "last 3 of 3"),
        "b2": (False, NOT_KEPT),
        "b1": (False, NOT_KEPT),
    }


@pytest.mark.parametrize(
    ("rules", "step", "reasons"),
    [
        (Rules(hourly=2), timedelta(minutes=20), {"b9": "hourly 2026-11-26 22:00", "b7": "hourly 2026-11-26 21:00"}),
        (Rules(daily=2), timedelta(hours=8), {"b9": "daily 2026-11-26", "b6": "daily 2026-11-25"}),
        (Rules(weekly=2), timedelta(days=3), {"b9": "weekly 2026-W48", "b7": "weekly 2026-W47"}),
        (Rules(monthly=2), timedelta(days=14), {"b9": "monthly 2026-11", "b7": "monthly 2026-10"}),
    ],
    ids=["hourly", "daily", "weekly", "monthly"],
)
def test_the_newest_of_each_period_counts(rules: Rules, step: timedelta, reasons: dict[str, str]) -> None:
    found = chosen(every(step, 9), rules)
    assert {name: why.removeprefix("newest good, ") for name, (stays, why) in found.items() if stays} == reasons


def test_days_are_those_of_utc_and_weeks_begin_on_monday() -> None:
    sunday, monday = datetime(2026, 11, 22, 23, 59, tzinfo=UTC), datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
    found = chosen([made(1, NOW - sunday), made(2, NOW - monday)], Rules(daily=2, weekly=2))
    assert found["b1"] == (True, "daily 2026-11-22, weekly 2026-W47")
    assert found["b2"] == (True, "newest good, daily 2026-11-23, weekly 2026-W48")


def test_the_days_around_new_year_are_of_the_week_that_iso_says() -> None:
    days = [datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    found = choose([made(n, NOW - day) for n, day in enumerate(days)], Rules(weekly=5), days[1].timestamp())
    assert found == {"b1": (True, "newest good, weekly 2026-W53"), "b0": (False, NOT_KEPT)}


def test_hours_in_which_nothing_was_made_do_not_count() -> None:
    backups = [made(1, timedelta(days=300)), made(2, timedelta(days=200)), made(3, timedelta(days=100))]
    assert stay(backups, Rules(hourly=2)) == ["b3", "b2"]


def test_a_series_of_broken_ones_pushes_no_good_one_out() -> None:
    good = every(timedelta(days=1), 3)
    broken = [made(10 + n, timedelta(minutes=n), "broken") for n in range(9)]
    assert [name for name in stay([*good, *broken], Rules(daily=3, last=2)) if name in {"b1", "b2", "b3"}] == [
        "b3",
        "b2",
        "b1",
    ]


# --- what stays whatever the rules say


def test_the_newest_good_one_stays_under_rules_that_keep_nothing() -> None:
    assert stay([made(1, timedelta(days=900)), made(2, timedelta(days=800))]) == ["b2"]


def test_what_a_restore_holds_and_what_the_store_locks_stays() -> None:
    until = (NOW + timedelta(days=2)).timestamp()
    old = timedelta(days=400)
    found = chosen(
        [
            made(9, timedelta()),
            made(1, old, held=True),
            made(2, old, locked_until=until),
            made(3, old, "unfinished", held=True),
            made(4, old, "broken", locked_until=until),
            made(5, old, locked_until=NOW.timestamp()),
        ]
    )
    assert {name: why for name, (stays, why) in found.items() if stays and name != "b9"} == {
        "b1": "held by a restore",
        "b2": "locked until 2026-11-28 22:30 UTC",
        "b3": "held by a restore",
        "b4": "locked until 2026-11-28 22:30 UTC",
    }


@pytest.mark.parametrize("state", ["unfinished", "abandoned"])
def test_what_is_not_complete_is_left_alone_for_a_day(state: State) -> None:
    good = made(9, timedelta(days=30))
    almost, old = made(1, timedelta(hours=23), state), made(2, timedelta(hours=24), state)
    ahead = made(3, -timedelta(days=700), state)
    found = chosen([good, almost, old, ahead])
    assert found["b1"] == found["b3"] == (True, f"younger than a day and {state}")
    assert found["b2"] == (False, NOT_KEPT)


def test_a_tombstone_with_nothing_under_it_stays_a_month() -> None:
    good = made(9, timedelta(days=60))
    young, old = made(1, timedelta(days=29), "tombstone"), made(2, timedelta(days=30), "tombstone")
    found = chosen([good, young, old, made(3, -timedelta(days=700), "tombstone")])
    assert found["b1"] == found["b3"] == (True, "a tombstone, younger than 30 days")
    assert found["b2"] == (False, NOT_KEPT)


def test_a_broken_one_stays_until_a_newer_good_one_has_stood_for_a_day() -> None:
    broken = made(5, timedelta(days=50), "broken")
    older, fresh, stood = made(4, timedelta(days=60)), made(6, timedelta(hours=3)), made(6, timedelta(days=2))
    assert chosen([broken])["b5"] == (True, "broken, but no newer one is good")
    assert chosen([broken, older])["b5"] == (True, "broken, but no newer one is good")
    assert chosen([broken, fresh])["b5"] == (True, "broken, and the newer good ones are younger than a day")
    assert chosen([broken, stood])["b5"] == (False, NOT_KEPT)


def test_which_one_is_newer_is_told_by_the_number_and_not_by_a_clock_that_jumped() -> None:
    ahead = made(1, -timedelta(days=365 * 30))
    behind = made(2, timedelta(days=365 * 50))
    assert chosen([ahead, behind])["b2"] == (True, "newest good")
    assert chosen([ahead, behind])["b1"] == (False, NOT_KEPT)


@pytest.mark.parametrize("at", [float("inf"), float("-inf"), float("nan"), 1e300, -1e300, 253402300800.0])
def test_a_time_that_no_calendar_has_neither_stops_the_choice_nor_makes_anything_old(at: float) -> None:
    backups = [
        made(3, timedelta()),
        replace(made(2, timedelta()), at=at),
        replace(made(1, timedelta(), "unfinished"), at=at, locked_until=at),
    ]
    found = chosen(backups, Rules(1, 1, 1, 1, 1))
    assert found["b3"][0]
    assert found["b1"][0] == (not at < 0)  # long ago is long ago; the rest is the future, or nobody knows


def test_two_of_the_same_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        chosen([made(1, timedelta()), made(1, timedelta(days=1))])


# --- what holds for every store


numbers = st.integers(0, 4)
rules = st.builds(Rules, numbers, numbers, numbers, numbers, numbers)
_now = NOW.timestamp()
times = st.one_of(
    st.integers(0, 96).map(lambda hours: _now - hours * 3600.0),
    st.floats(_now - 800 * DAY, _now + 3 * DAY),
    st.just(_now - DAY),
)


@st.composite
def stores(
    draw: st.DrawFn, states: Sequence[State] = ("good", "good", "unfinished", "broken", "abandoned", "tombstone")
) -> list[Kept]:
    """Draw what a store holds; the clocks of those who made it went as they liked."""
    count = draw(st.integers(0, 14))
    locks = st.one_of(st.none(), st.none(), st.floats(_now - 9 * DAY, _now + 9 * DAY))
    return [
        Kept(
            f"b{number}",
            draw(times),
            number,
            draw(st.sampled_from(states)),
            draw(st.sampled_from([False, False, False, True])),
            draw(locks),
        )
        for number in draw(st.permutations(range(count)))
    ]


@settings(max_examples=30, deadline=None)
@given(stores(), rules)
def test_the_newest_good_one_and_all_that_is_bound_or_young_are_never_removed(held: list[Kept], keep: Rules) -> None:
    found = chosen(held, keep)
    assert set(found) == {one.id for one in held}
    good = [one for one in held if one.state == "good"]
    if good:
        assert found[max(good, key=lambda one: one.number).id][0]
    for one in held:
        locked = one.locked_until is not None and one.locked_until > _now
        young = one.state in ("unfinished", "abandoned") and one.at > _now - DAY
        if one.held or locked or young:
            assert found[one.id][0], one


@settings(max_examples=30, deadline=None)
@given(stores(), rules)
def test_choosing_again_among_those_that_stay_removes_nothing(held: list[Kept], keep: Rules) -> None:
    names = set(stay(held, keep))
    left = [one for one in held if one.id in names]
    assert set(stay(left, keep)) == names


@settings(max_examples=30, deadline=None)
@given(stores(), rules, rules)
def test_to_keep_more_never_keeps_less(held: list[Kept], keep: Rules, more: Rules) -> None:
    larger = Rules(
        keep.last + more.last,
        keep.hourly + more.hourly,
        keep.daily + more.daily,
        keep.weekly + more.weekly,
        keep.monthly + more.monthly,
    )
    assert set(stay(held, keep)) <= set(stay(held, larger))


@settings(max_examples=30, deadline=None)
@given(stores(), rules, st.randoms(use_true_random=False))
def test_the_order_in_which_a_store_lists_does_not_matter(held: list[Kept], keep: Rules, dice: random.Random) -> None:
    mixed = list(held)
    dice.shuffle(mixed)
    assert list(chosen(mixed, keep).items()) == list(chosen(held, keep).items())


@settings(max_examples=30, deadline=None)
@given(stores(states=("unfinished", "broken", "abandoned")), rules)
def test_where_nothing_is_good_nothing_with_a_manifest_is_removed(held: list[Kept], keep: Rules) -> None:
    found = chosen(held, keep)
    assert all(found[one.id][0] for one in held if one.state == "broken")


@settings(max_examples=30, deadline=None)
@given(stores(), rules)
def test_a_bad_one_more_removes_no_good_one(held: list[Kept], keep: Rules) -> None:
    good = [one for one in held if one.state == "good"]
    assert {one.id for one in good} & set(stay(held, keep)) == set(stay(good, keep))


@settings(max_examples=30, deadline=None)
@given(stores(), rules)
def test_each_rule_keeps_as_many_as_it_says_where_there_are_as_many(held: list[Kept], keep: Rules) -> None:
    good = sum(one.state == "good" for one in held)
    reasons = [reason for _, why in chosen(held, keep).values() for reason in why.split(", ")]
    assert sum(reason.startswith("last ") for reason in reasons) == min(keep.last, good)
    days = {datetime.fromtimestamp(one.at, UTC).date() for one in held if one.state == "good"}
    assert sum(reason.startswith("daily ") for reason in reasons) == min(keep.daily, len(days))

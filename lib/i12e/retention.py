"""Which backups stay, and why: a pure decision from what a store holds, taken before anything is removed.

Rules such as restic's and borg's: of each hour, day, week and month the newest good backup counts, in as many of
these as the cluster's file says. Times are UTC, weeks are ISO's (from Monday). Which of two backups is newer is told
by their numbers, the lease's, which only grow: a clock may have jumped. Only good backups count and fill the rules,
so that a series of broken ones pushes nothing out. Whatever the rules say, these stay:

- the newest good backup, what a restore holds, and what the store itself keeps locked;
- an unfinished or abandoned one that is younger than a day, since somebody may be at work on it;
- a tombstone with nothing under it for a month: whoever it shuts out may only be stopped;
- a broken one, until a good one that is newer than it has stood for a day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

State = Literal["good", "unfinished", "broken", "abandoned", "tombstone"]
DAY = 86400.0  # seconds
STONE = 30 * DAY
"""For how long a tombstone stays, in seconds."""
NOT_KEPT = "not kept by any rule"
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


class Keep(Protocol):
    """How many of each to keep: the last ones, and the newest of so many hours, days, weeks, months."""

    @property
    def last(self) -> int: ...
    @property
    def hourly(self) -> int: ...
    @property
    def daily(self) -> int: ...
    @property
    def weekly(self) -> int: ...
    @property
    def monthly(self) -> int: ...


@dataclass(frozen=True)
class Kept:
    """One backup of a store.

    `at`: when it was made, or when something was last written to it (seconds since 1970, the store's clock);
    `number`: the lease's that it was made under; `state`: good (whole, as far as is known), unfinished (no manifest),
    broken (a check found it so), abandoned (its maker lost the lease), tombstone (nothing of such a one is left but
    that); `held`: a restore needs it; `locked_until`:
    until when the store refuses to remove it (seconds since 1970).
    """

    id: str
    at: float
    number: int
    state: State
    held: bool = False
    locked_until: float | None = None


def choose(backups: Sequence[Kept], keep: Keep, now: float) -> dict[str, tuple[bool, str]]:
    """Given all backups of a store, the rules and the store's time, return by id whether one stays, and why.

    The newest comes first. Raise ValueError if two have the same id.
    """
    newest_first = sorted(backups, key=lambda one: (one.number, one.at, one.id), reverse=True)
    if len({one.id for one in backups}) < len(backups):
        raise ValueError("two backups have the same id")
    good = [one for one in newest_first if one.state == "good"]
    ruled = _ruled(good, keep)
    chosen = {}
    for one in newest_first:
        reasons = [*(["newest good"] if good[:1] == [one] else []), *_bound(one, now), *ruled.get(one.id, [])]
        if one.state != "good":
            reasons += _waiting(one, good, now)
        chosen[one.id] = (bool(reasons), ", ".join(reasons) or NOT_KEPT)
    return chosen


def _bound(one: Kept, now: float) -> list[str]:
    """Return why a backup cannot be removed, whatever it is."""
    held = ["held by a restore"] if one.held else []
    if one.locked_until is not None and not one.locked_until <= now:
        held.append(f"locked until {_time(one.locked_until):%Y-%m-%d %H:%M} UTC")
    return held


def _waiting(one: Kept, good: Sequence[Kept], now: float) -> list[str]:
    """Return why a backup that is not good is not removed yet."""
    if one.state == "broken":
        if not any(other.number > one.number for other in good):
            return ["broken, but no newer one is good"]
        if not any(other.number > one.number and not _young(other, now) for other in good):
            return ["broken, and the newer good ones are younger than a day"]
        return []
    if one.state == "tombstone":
        return ["a tombstone, younger than 30 days"] if _young(one, now, STONE) else []
    return [f"younger than a day and {one.state}"] if _young(one, now) else []


def _young(one: Kept, now: float, age: float = DAY) -> bool:
    """Tell whether it is younger; what is from the future is: a clock jumped, and nobody knows how far."""
    return not one.at <= now - age


def _ruled(good: Sequence[Kept], keep: Keep) -> dict[str, list[str]]:
    """Given the good backups, the newest first, return by id the rules that keep one."""
    found: dict[str, list[str]] = {}
    for place, one in enumerate(good[: max(keep.last, 0)], start=1):
        found.setdefault(one.id, []).append(f"last {place} of {keep.last}")
    rules: tuple[tuple[str, int, Callable[[datetime], str]], ...] = (
        ("hourly", keep.hourly, lambda time: f"{time:%Y-%m-%d %H}:00"),
        ("daily", keep.daily, lambda time: f"{time:%Y-%m-%d}"),
        ("weekly", keep.weekly, lambda time: "{}-W{:02}".format(*time.isocalendar())),
        ("monthly", keep.monthly, lambda time: f"{time:%Y-%m}"),
    )
    for name, most, period in rules:
        seen: set[str] = set()
        for one in good:
            its = period(_time(one.at))
            if its not in seen and len(seen) < most:
                seen.add(its)
                found.setdefault(one.id, []).append(f"{name} {its}")
    return found


def _time(seconds: float) -> datetime:
    """Return a time as a date; one that no calendar has, out of a damaged manifest, is the first or the last."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST) if math.isfinite(seconds) else 0.0, UTC)

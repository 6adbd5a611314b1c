"""The backups that a store has: which are good, which is the newest, what is known of them beside their manifests.

    CLUSTER/lease.json                    who is at work
    CLUSTER/backups/ID/...                the parts, and manifest.json, which makes them a backup
    CLUSTER/marks/ID/verified.json        when it was last verified, and how that ended; drilled.json likewise
    CLUSTER/holds/ID/WHO.json             who needs it and until when: it is not pruned meanwhile
    CLUSTER.eN/...                        the same of the cluster's epoch N, from the second on
    CLUSTER.eN/epoch.json                 makes the epoch be there: who has claimed it (see fence)

A cluster that is restored and promoted is the next epoch of the one that was, and has a folder of its own. A name of a
cluster has no dot in it, so the folders of two cannot be mistaken for each other.

A mark is no part of a backup: it says what was found, and a backup of which one says that it is bad counts as none,
whatever its manifest says, until the same is done again and finds it good. A drill that was good does not outdo a bad
verification, nor the other way round: each has the last word on what it alone has looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from i12e import bundle, retention
from i12e.bundle import Abandoned, Manifest
from i12e.damaged import Damaged
from i12e.stores import Changed, Entry, Exists, Missing, Store, StoreError, TooBig

GOOD, UNFINISHED, ABANDONED, DAMAGED = "good", "unfinished", "abandoned", "damaged"
VERIFIED, DRILLED = "verified", "drilled"
CLAIM = "epoch.json"
_EPOCH = re.compile(r"[1-9][0-9]{0,14}\Z", re.ASCII)
_MANY = 8  # manifests that are read at once
_TRIES = 5
_SKEW = 300.0  # seconds by which clocks may differ
_NONSENSE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # what JSON may be, and is no mark or hold


@dataclass(frozen=True)
class Mark:
    """What was found of a backup, and when (seconds since 1970, the store's clock)."""

    at: float
    by: str
    ok: bool
    why: str = ""
    seconds: float = 0.0
    how: str = ""
    """Of a drill: what kind it was, and by which program."""


@dataclass(frozen=True)
class Backup:
    """A backup of a store, or what is left of one."""

    id: str
    store: str
    state: str
    """good, unfinished (no manifest), abandoned (its writer lost the lease) or damaged."""
    why: str = ""
    """What is wrong with it."""
    manifest: Manifest | None = None
    size: int = 0
    """Bytes of all that lies there."""
    modified: float = 0.0
    """When something was last written to it, by the store's clock."""
    number: int = 0
    keys: tuple[str, ...] = ()
    verified: Mark | None = None
    drilled: Mark | None = None
    held: tuple[str, ...] = ()
    """Who needs it now."""
    epoch: int = 1
    """Of the cluster, in whose folder it lies."""

    @property
    def at(self) -> float:
        """When it was begun, by the store's clock; when it was last written to, where no manifest says it."""
        return float(self.manifest.at) if self.manifest else self.modified

    @property
    def is_good(self) -> bool:
        """Whether it can be restored, as far as is known."""
        return self.state == GOOD

    @property
    def is_whole(self) -> bool:
        """Whether it is good and has all that it was to have."""
        return self.is_good and self.manifest is not None and not self.manifest.lacks


@dataclass(frozen=True)
class Place:
    """A cluster's folder in a store, that of one epoch."""

    store: Store
    cluster: str
    epoch: int = 1

    @property
    def folder(self) -> str:
        """Its name."""
        return self.cluster if self.epoch == 1 else f"{_later_folder(self.cluster)}{self.epoch}"

    def of(self, epoch: int) -> Place:
        """Given an epoch, return the cluster's folder for that in the same store."""
        return replace(self, epoch=epoch)

    def key(self, *parts: str) -> str:
        """Given the parts of a path below the cluster's folder, return the store's key."""
        return "/".join((self.folder, *parts))

    def part(self, backup: str, name: str) -> str:
        """Given a backup's id and a part's name, return its key."""
        return self.key("backups", backup, name)

    @property
    def lease(self) -> str:
        """The key of the lease."""
        return self.key("lease.json")

    def mark(self, backup: str, kind: str, mark: Mark) -> None:
        """Given a backup's id, verified or drilled, and what was found, write it down in place of what was."""
        _put(self.store, self.key("marks", backup, f"{kind}.json"), _text(mark.__dict__))

    def hold(self, backup: str, who: str, until: float) -> None:
        """Given a backup's id, a name and a time, keep the backup from being pruned until then; again: another time."""
        _put(self.store, self.key("holds", backup, f"{who}.json"), _text({"who": who, "until": until}))

    def holders(self, backup: str) -> tuple[str, ...]:
        """Given a backup's id, return who needs it now."""
        keys = [entry.key for entry in self.store.list(self.key("holds", backup, ""))]
        return _holders(self, keys, self.store.now())

    def let_go(self, backup: str, who: str) -> None:
        """Given a backup's id and a name, end that hold."""
        self.store.delete(self.key("holds", backup, f"{who}.json"))


def epochs(place: Place) -> list[int]:
    """Given a cluster's folder in a store, return the epochs that are there, the latest first; the first always is.

    A later one is there when it was claimed, or has backups. Raise StoreError if the store does not list all of them.
    """
    return [*sorted(_later(place), reverse=True), 1]


def _later(place: Place) -> dict[int, list[Entry]]:
    """Return by epoch what is there of all but the first one."""
    start = _later_folder(place.cluster)
    found: dict[int, list[Entry]] = {}
    there = set()
    for entry in place.store.list(start):
        number, _, rest = entry.key[len(start) :].partition("/")
        if _EPOCH.match(number) and number != "1":
            found.setdefault(int(number), []).append(entry)
            if rest == CLAIM or rest.startswith("backups/"):
                there.add(int(number))
    return {epoch: entries for epoch, entries in found.items() if epoch in there}


def _later_folder(cluster: str) -> str:
    return f"{cluster}.e"


def survey(place: Place) -> list[Backup]:
    """Given a cluster's folder in a store, return all backups and what is left of such, the newest first.

    Newest is by number, not by a clock. Raise StoreError if the store does not list all of them.
    """
    return _surveyed(place, place.store.list(place.key("")))


def survey_epochs(place: Place) -> dict[int, list[Backup]]:
    """Given a cluster's folder in a store, return what survey() does of each epoch that is there, the latest first."""
    later = _later(place)
    found = {epoch: _surveyed(place.of(epoch), later[epoch]) for epoch in sorted(later, reverse=True)}
    return {**found, 1: survey(place.of(1))}


def survey_all(place: Place) -> list[Backup]:
    """Given a cluster's folder in a store, return what survey() does of all epochs, the latest epoch first.

    Each backup says its epoch: place.of(that) is the folder that it lies in.
    """
    return [each for found in survey_epochs(place).values() for each in found]


def _surveyed(place: Place, entries: Iterable[Entry]) -> list[Backup]:
    now = place.store.now()
    groups: dict[str, list[Entry]] = {}
    beside: dict[str, dict[str, list[str]]] = {"marks": {}, "holds": {}}
    start = len(place.key(""))
    for entry in entries:
        kind, _, rest = entry.key[start:].partition("/")
        name, _, last = rest.partition("/")
        if kind == "backups" and last:
            groups.setdefault(name, []).append(entry)
        elif kind in beside and last:
            beside[kind].setdefault(name, []).append(entry.key)
    with ThreadPoolExecutor(_MANY) as pool:
        looks = [
            (place, name, found, beside["marks"].get(name, ()), beside["holds"].get(name, ()), now)
            for name, found in groups.items()
        ]
        backups = list(pool.map(lambda look: _look(*look), looks))
    return sorted(backups, key=lambda each: (each.number, each.at, each.id), reverse=True)


def newest(found: Sequence[Backup]) -> Backup | None:
    """Given a survey, of all epochs or one, return the newest good backup of the latest epoch that has any, or None."""
    return next((each for each in found if each.is_good), None)


def in_slot(found: Iterable[Backup], slot: str) -> Backup | None:
    """Given a survey and a slot of the schedule, return the good backup that fills it, if there is one."""
    return next((each for each in found if each.is_good and each.manifest and each.manifest.slot == slot), None)


def highest(found: Iterable[Backup]) -> int:
    """Given a survey, return the highest number in it, 0 if there is none."""
    return max((each.number for each in found), default=0)


def read_manifest(place: Place, backup: str) -> Manifest | Abandoned:
    """Given a backup's id, return its manifest; raise Missing, StoreError, or Damaged if it is none."""
    try:
        content, _ = place.store.get(place.part(backup, bundle.MANIFEST))
    except TooBig:
        raise Damaged("its manifest is far too big") from None
    made = bundle.read_manifest(content, backup)
    if isinstance(made, Manifest) and made.cluster != place.cluster:
        raise Damaged(f"its manifest is that of another cluster, {made.cluster}")
    return made


def _look(
    place: Place, name: str, entries: Sequence[Entry], marks: Iterable[str], holds: Iterable[str], now: float
) -> Backup:
    keys = tuple(entry.key for entry in entries)
    common = _Common(
        name, place.store.name, sum(entry.size for entry in entries), max(entry.modified for entry in entries), keys,
        _holders(place, holds, now), place.epoch,
    )  # fmt: skip
    if not bundle.is_id(name):
        return common.made(DAMAGED, "its name is not one of a backup")
    if place.part(name, bundle.MANIFEST) not in keys:
        return common.made(UNFINISHED, "it has no manifest: it was not completed")
    try:
        manifest = read_manifest(place, name)
    except Missing:  # removed meanwhile
        return common.made(UNFINISHED, "it has no manifest: it was not completed")
    except Damaged as error:
        return common.made(DAMAGED, error.why)
    if isinstance(manifest, Abandoned):
        return common.made(ABANDONED, f"its writer lost the lease to {manifest.by}", number=manifest.number)
    known = {kind: _mark(place, place.key("marks", name, f"{kind}.json"), marks) for kind in (VERIFIED, DRILLED)}
    why = _differs(place, manifest, {entry.key: entry.size for entry in entries})
    bad = next((mark for mark in known.values() if mark is not None and not mark.ok), None)
    if not why and bad is not None:
        why = f"it was found bad: {bad.why}"
    return common.made(DAMAGED if why else GOOD, why, manifest, manifest.number, known[VERIFIED], known[DRILLED])


@dataclass(frozen=True)
class _Common:
    name: str
    store: str
    size: int
    modified: float
    keys: tuple[str, ...]
    held: tuple[str, ...]
    epoch: int

    def made(
        self, state: str, why: str, manifest: Manifest | None = None, number: int = 0,
        verified: Mark | None = None, drilled: Mark | None = None,
    ) -> Backup:  # fmt: skip
        return Backup(
            self.name, self.store, state, why, manifest, self.size, self.modified, number, self.keys, verified,
            drilled, self.held, self.epoch,
        )  # fmt: skip


def _differs(place: Place, manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """Return what of a backup is not there as its manifest says, by names and sizes alone."""
    wanted = {place.part(manifest.id, part.name): part.size for part in manifest.parts}
    for key, size in wanted.items():
        name = key.rpartition("/")[2]
        if key not in sizes:
            return f"its part {name} is missing"
        if sizes[key] != size:
            return f"its part {name} has {sizes[key]} bytes, not {size}"
    more = sizes.keys() - wanted.keys() - {place.part(manifest.id, bundle.MANIFEST)}
    return f"there is a file that is none of its parts: {min(more).rpartition('/')[2]}" if more else ""


def _mark(place: Place, key: str, there: Iterable[str]) -> Mark | None:
    """Return a mark; None where there is none, and where it says nothing."""
    if key not in there:
        return None
    try:
        content, _ = place.store.get(key)
        said = json.loads(content)
        at, seconds, how = float(said["at"]), float(said["seconds"]), str(said.get("how", ""))
        return Mark(at, str(said["by"]), bool(said["ok"]), str(said["why"]), seconds, how)
    except (Missing, TooBig, *_NONSENSE):
        return None


def _holders(place: Place, holds: Iterable[str], now: float) -> tuple[str, ...]:
    found = []
    for key in holds:
        try:
            content, _ = place.store.get(key)
            said = json.loads(content)
            if float(said["until"]) > now:
                found.append(str(said["who"]))
        except Missing:
            continue
        except (TooBig, *_NONSENSE):
            found.append("somebody whose hold cannot be read")
    return tuple(found)


def _put(store: Store, key: str, content: bytes) -> None:
    for _ in range(_TRIES):
        try:
            try:
                _, version = store.get(key)
            except Missing:
                store.create(key, content)
            else:
                store.swap(key, content, version)
        except (Exists, Changed):
            continue
        return
    raise StoreError(store.name, f"{key} changes all the time", passing=True)


def _text(said: Mapping[str, object]) -> bytes:
    return json.dumps(said, indent=1).encode() + b"\n"


def kept(found: Iterable[Backup], locks: Mapping[str, float] = {}) -> list[retention.Kept]:
    """Given a survey and until when the store locks which backup, return it as the retention takes it."""
    return [
        retention.Kept(
            id=each.id,
            at=each.at if each.is_good else each.modified,
            number=each.number,
            state=_state(each),
            held=bool(each.held),
            locked_until=locks.get(each.id),
        )
        for each in found
    ]


def _state(each: Backup) -> retention.State:
    if each.state == ABANDONED:
        return "tombstone" if len(each.keys) == 1 else "abandoned"
    known: Mapping[str, retention.State] = {GOOD: "good", UNFINISHED: "unfinished", DAMAGED: "broken"}
    return known[each.state]


@dataclass(frozen=True)
class Age:
    """How old the newest good backup is against the schedule."""

    seconds: float | None
    """None where there is no good backup."""
    every: int | None
    """The schedule's length in seconds, None without one."""
    problem: str = ""
    """What is wrong with the clocks."""

    @property
    def is_stale(self) -> bool:
        """Whether a slot of the schedule has passed without a backup, and half a slot more."""
        return self.every is not None and (self.seconds is None or self.seconds > 1.5 * self.every)


def age(found: Sequence[Backup], every: int | None, now: float) -> Age:
    """Given a survey, the schedule's length in seconds and the store's time, return the age of the newest good one."""
    last = newest(found)
    if last is None:
        return Age(None, every)
    jumped = last.at > now + _SKEW
    why = f"the newest good backup, {last.id}, is from the future: a clock has jumped" if jumped else ""
    return Age(now - last.at, every, why)

"""`backup_list`, and what `status` says of backups: what there is, how old against the schedule, how well proven."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i12e import backups
from i12e.backups import Age, Backup, Mark, Place
from i12e.bell import Bell
from i12e.build import Build
from i12e.errors import Problem, UserError
from i12e.lock import roughly
from i12e.openplaces import open_places
from i12e.paths import shown
from i12e.settings import Cluster
from i12e.stores import NotThere, StoreError

_UNKNOWN = Age(None, None)
_PATIENCE = 15.0  # seconds for which a store that does not answer is asked again


@dataclass(frozen=True)
class Shelf:
    """What one store has, or why that is not known."""

    name: str
    place: str
    found: tuple[Backup, ...] = ()
    age: Age = _UNKNOWN
    """That of the newest good backup of the latest epoch."""
    now: float = 0.0
    why: str = ""
    remedy: str = ""
    epoch: int = 1
    """The latest one of the cluster that is there."""

    @property
    def problems(self) -> list[Problem]:
        """What somebody should be told of it."""
        if self.why:
            return [Problem("", None, None, f"{self.name}: {self.why}", self.remedy)]
        said = [self.age.problem] if self.age.problem else []
        if self.age.is_stale and self.age.every is not None:
            old = f"there is no good backup{_of(self.epoch)}"
            if self.age.seconds is not None:
                old = f"the newest good backup is {roughly(self.age.seconds)} old"
            said.append(f"{old}, and one is due every {roughly(self.age.every)}")
        remedy = "./doit backup takes one, and says what is wrong"
        return [Problem("", None, None, f"{self.name}: {text}", remedy) for text in said]


def look(build: Build, cluster: Cluster, only: str = "") -> list[Shelf]:
    """Given a cluster and the name of one of its stores ("": all), return what they have; changes nothing."""
    places, problems = open_places(build, cluster, only, probe=False, patience=_PATIENCE)
    with ThreadPoolExecutor(max(1, len(places))) as pool:
        shelves = list(pool.map(lambda place: _shelf(place, cluster), places))
    for place in places:
        place.store.close()
    for problem in problems:
        name, _, why = problem.message.partition(": ")
        shelves.append(Shelf(name, "", why=why, remedy=problem.remedy))
    return shelves


def _shelf(place: Place, cluster: Cluster) -> Shelf:
    try:
        found, now = backups.survey_epochs(place), place.store.now()
    except NotThere as error:
        if cluster.backup.stores:
            return Shelf(place.store.name, place.store.place, why=error.why, remedy=error.remedy)
        found, now = {1: []}, time.time()  # the default one, which the first backup makes
    except StoreError as error:
        return Shelf(place.store.name, place.store.place, why=error.why, remedy=error.remedy)
    latest = max(found)
    age = backups.age(found[latest], cluster.backup.slot_seconds, now)
    all_ = tuple(each for there in found.values() for each in there)
    return Shelf(place.store.name, place.store.place, all_, age, now, epoch=latest)


def run(build: Build, store: str, alarm: bool) -> None:
    """Given a store ("": all) and whether those are told whom the cluster's file names, tell what backups there are.

    Raise UserError if a store does not say it, or has no good backup as young as the schedule wants it.
    """
    cluster = build.cluster()
    shelves = look(build, cluster, store)
    text = "".join(f"{line}\n" for line in lines(cluster, shelves))
    build.tell("BACKUPS", cluster.name, "", "told", {"stores": [as_json(shelf) for shelf in shelves]}, text)
    problems = [problem for shelf in shelves for problem in shelf.problems]
    if problems and alarm:
        Bell(build, cluster).stale(f"backups of {cluster.name} are due", problems)
    if problems:
        raise UserError(problems)


def lines(cluster: Cluster, shelves: Sequence[Shelf]) -> Iterator[str]:
    """Given what the stores have, yield the screen: a line for each store, then a table of the backups."""
    yield from heads(cluster, shelves)
    rows = list(_rows(shelves))
    if rows:
        table = [
            ("BACKUP", "EPOCH", "AGE", "SIZE", "STORES", "OF", "K3S", "OBJECTS", "VERIFIED", "DRILLED", "REMARK"),
            *rows,
        ]
        if {row[1] for row in rows} == {"1"}:  # of a cluster that was never restored, nobody has to know of epochs
            table = [(row[0], *row[2:]) for row in table]
        widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
        yield ""
        for row in table:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def heads(cluster: Cluster, shelves: Sequence[Shelf]) -> Iterator[str]:
    """Given what the stores have, yield a line for each."""
    width = max((len(shelf.name) for shelf in shelves), default=0)
    every = cluster.backup.slot_seconds
    due = f"one is due every {roughly(every)}" if every else "no schedule"
    for shelf in shelves:
        if shelf.why:
            yield f"{shelf.name.ljust(width)}  {_where(shelf)}: {shelf.why}"
            continue
        last = backups.newest(shelf.found)
        state = f"no good backup{_of(shelf.epoch)}"
        if last is not None:
            none = f"{state}, " if last.epoch != shelf.epoch else ""
            state = f"{none}newest good backup{_of(last.epoch)} {roughly(shelf.now - last.at)} ago"
        late = "  TOO OLD" if shelf.age.is_stale else ""
        yield f"{shelf.name.ljust(width)}  {_where(shelf)}: {state}, {due}{late}{_proven(last, shelf.now)}"


def _of(epoch: int) -> str:
    return f" of epoch {epoch}" if epoch > 1 else ""


def _where(shelf: Shelf) -> str:
    return shown(Path(shelf.place)) if shelf.place.startswith("/") else shelf.place


def _proven(last: Backup | None, now: float) -> str:
    if last is None:
        return ""
    verified = f", verified {roughly(now - last.verified.at)} ago" if last.verified and last.verified.ok else ""
    if last.drilled is None or not last.drilled.ok:
        return f"{verified}, never drilled"
    how = f" ({last.drilled.how})" if last.drilled.how else ""
    return f"{verified}, drilled {roughly(now - last.drilled.at)} ago{how}"


def _rows(shelves: Sequence[Shelf]) -> Iterator[tuple[str, ...]]:
    now = max((shelf.now for shelf in shelves), default=time.time())
    grouped: dict[tuple[int, str], list[Backup]] = {}
    for shelf in shelves:
        for each in shelf.found:
            grouped.setdefault((-each.epoch, each.id), []).append(each)
    newest = max(shelves, key=lambda shelf: len(shelf.found), default=None)
    order = {each.id: at for at, each in enumerate(newest.found)} if newest else {}
    for epoch, name in sorted(grouped, key=lambda each: (each[0], order.get(each[1], -1), each[1])):
        yield _row(name, grouped[epoch, name], now)


def _row(name: str, copies: Sequence[Backup], now: float) -> tuple[str, ...]:
    good = [each for each in copies if each.is_good]
    first = (good or list(copies))[0]
    manifest = first.manifest
    stores = ", ".join(each.store for each in good) or "-"
    remarks = [f"{each.store}: {each.state}: {each.why}" for each in copies if not each.is_good]
    remarks += [f"lacks {text}" for text in (manifest.lacks if manifest else ())]
    remarks += [f"held by {who}" for who in dict.fromkeys(who for each in copies for who in each.held)]
    return (
        name,
        str(first.epoch),
        roughly(now - first.at),
        size(first.size),
        stores,
        f"{manifest.server} ({manifest.datastore})" if manifest else "-",
        manifest.k3s if manifest else "-",
        str(sum(manifest.objects.values())) if manifest else "-",
        _mark((each.verified for each in copies), now),
        _mark((each.drilled for each in copies), now),
        "; ".join(remarks),
    )


def _mark(marks: Iterable[Mark | None], now: float) -> str:
    found = [mark for mark in marks if mark is not None]
    if not found:
        return "-"
    if any(not mark.ok for mark in found):
        return "FAILED"
    return f"{roughly(now - max(mark.at for mark in found))} ago"


def size(number: int) -> str:
    """Given a number of bytes, return it as one looks at it."""
    for unit, much in (("GB", 1e9), ("MB", 1e6)):
        if number >= much:
            return f"{number / much:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def as_json(shelf: Shelf) -> Mapping[str, Any]:
    """Given what a store has, return what a JSON document says of it."""
    return {
        "store": shelf.name,
        "place": shelf.place,
        "reachable": not shelf.why,
        "why": shelf.why or None,
        "epoch": shelf.epoch,
        "age_seconds": None if shelf.age.seconds is None else round(shelf.age.seconds),
        "every_seconds": shelf.age.every,
        "stale": shelf.age.is_stale,
        "backups": [_backup_json(each) for each in shelf.found],
    }


def _backup_json(each: Backup) -> Mapping[str, Any]:
    manifest = each.manifest
    return {
        "backup": each.id,
        "state": each.state,
        "why": each.why or None,
        "bytes": each.size,
        "at": round(each.at),
        "epoch": each.epoch,
        "number": each.number,
        "slot": (manifest.slot or None) if manifest else None,
        "server": manifest.server if manifest else None,
        "datastore": manifest.datastore if manifest else None,
        "k3s": manifest.k3s if manifest else None,
        "uid": manifest.uid if manifest else None,
        "objects": sum(manifest.objects.values()) if manifest else None,
        "lacks": list(manifest.lacks) if manifest else [],
        "verified": vars(each.verified) if each.verified else None,
        "drilled": vars(each.drilled) if each.drilled else None,
        "held": list(each.held),
    }

"""The offline drill: what can be proven of a backup without a host.

It is opened and checked whole, as `backup_verify` does, and a snapshot of etcd's is then restored by etcd's own tool
into an etcd on this machine alone, which is asked for all that the manifest says. Where no such etcd is installed,
i12e's own readers have the last word, and that is told. A SQLite database is what SQLite itself has checked; kine reads
it as it is.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from i12e import bundle, collect, database, localetcd, screen, verify
from i12e.backups import Place
from i12e.damaged import Damaged
from i12e.localetcd import Live, Programs, Refused, Server, Unable, Version
from i12e.secrets import Secret
from i12e.snapshots import EtcdSnapshot

_K3S = re.compile(r"v1\.(\d+)\.")
_ETCD_OF = ((37, (3, 7)), (34, (3, 6)), (0, (3, 5)))
"""From which minor of k3s on it has which etcd (k3s's release notes); for a snapshot that does not say it."""

_FACTS = ("datastore", "k3s", "objects", "by", "made_by")


@dataclass(frozen=True)
class Step:
    """A step that was taken: its name, how many seconds it took, and what was found."""

    name: str
    seconds: float
    what: str


@dataclass
class Report:
    """What a drill has found so far."""

    how: str = "offline"
    """What the mark says of it: what kind of drill, and by which program."""
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=lambda: dict.fromkeys(_FACTS))
    """For JSON documents."""

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Until the block ends without an error, take a step; given its name and what is found then."""
        began = time.monotonic()
        yield
        self.add(name, time.monotonic() - began, what)

    def add(self, name: str, seconds: float, what: str) -> None:
        """Given a step, add it."""
        self.steps.append(Step(name, round(seconds, 2), what))


class _Clock:
    """Passes on how much has come, and knows when the last of it came."""

    def __init__(self, progress: verify.Progress) -> None:
        self._progress = progress
        self.began = self.last = time.monotonic()

    def __call__(self, done: int, size: int | None) -> None:
        self._progress(done, size)
        self.last = time.monotonic()


def run(
    place: Place, backup: str, keys: Sequence[Secret], folders: tuple[Path, Path], known: Sequence[Secret],
    report: Report, say: Callable[[str], None] = screen.say,
) -> None:  # fmt: skip
    """Given a store, a backup's id, the keys that open it, two folders and the cluster's tokens, drill it.

    The folders: for files without names, and one that nobody else has, for an etcd. `report` gets the steps as they
    are taken. Raise Damaged if the backup would not restore; Unable if this machine cannot tell; what verify.opened
    raises else.
    """
    with reading(place, backup, keys, folders[0], known, report) as opened:
        manifest = opened.manifest
        if isinstance(opened.snapshot, EtcdSnapshot):
            found = _etcd_for(opened.snapshot, manifest.k3s, report)
            if found is not None:
                _start(opened, opened.snapshot, found, folders[1], report, say)
        else:
            report.how = f"offline, SQLite {sqlite3.sqlite_version}"
            report.facts |= {"by": f"SQLite {sqlite3.sqlite_version}"}


@contextmanager
def reading(
    place: Place, backup: str, keys: Sequence[Secret], folder: Path, known: Sequence[Secret], report: Report
) -> Iterator[verify.Opened]:
    """Given what verify.opened takes and a report, have a backup, read and checked, until the end; raise that."""
    clock = _Clock(screen.meter(f"reads {backup} in {place.store.name}"))
    with verify.opened(place, backup, keys, folder, clock, known) as opened:
        manifest, now = opened.manifest, time.monotonic()
        objects = sum(manifest.objects.values())
        report.facts |= {"datastore": manifest.datastore, "k3s": manifest.k3s, "objects": objects}
        read = f"{manifest.size / 1e6:.1f} MB in {screen.count(len(manifest.parts), 'part')}, opened with the key"
        report.add("read", clock.last - clock.began, read)
        report.add("check", now - clock.last, f"{_checked(opened)}; {_same(objects)}")
        yield opened


def _checked(opened: verify.Opened) -> str:
    if isinstance(opened.snapshot, EtcdSnapshot):
        return "hash and pages are sound, its token opens it"
    return f"SQLite {sqlite3.sqlite_version} finds it sound, its token opens it"


def _same(objects: int) -> str:
    return f"UID, {screen.count(objects, 'object')} and sentinel are as its manifest says"


def _etcd_for(snapshot: EtcdSnapshot, k3s: str, report: Report) -> Programs | None:
    """Return the etcd to start on a snapshot; None where there is none, with a note that says why."""
    made = snapshot.made_by() or _etcd_of(k3s)
    report.how = "offline, no etcd"
    try:
        found = localetcd.installed()
    except localetcd.NotInstalled as error:
        report.notes.append(f"{error.why}: not started, only i12e's own readers have read the snapshot")
        return None
    if found.version[:2] < made:
        said = f"{found.name} here is older than what made the snapshot ({localetcd.shown(made)}): not started"
        report.notes.append(f"{said}, only i12e's own readers have read it")
        return None
    report.how = f"offline, {found.name}"
    report.facts |= {"by": found.name, "made_by": f"etcd {localetcd.shown(made)}"}
    return found


def _etcd_of(k3s: str) -> Version:
    minor = _K3S.match(k3s)
    return next(etcd for first, etcd in _ETCD_OF if minor is None or int(minor[1]) >= first)


def _start(
    opened: verify.Opened, snapshot: EtcdSnapshot, found: Programs, folder: Path, report: Report,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Start an etcd on a snapshot and compare; raise Damaged, or Unable if it may be this machine's or etcd's fault."""
    own = Path(tempfile.mkdtemp(dir=folder))
    with Server(found, own, say) as server:
        try:
            with report.step("restore", f"{found.name} takes the snapshot"):
                server.restore(opened.database, opened.index.plain[bundle.DATABASE].size)
            with report.step("start", "it runs on it, without a network"):
                server.start()
            objects = sum(opened.manifest.objects.values())
            with report.step("compare", f"it was asked for every key; {_same(objects)}"):
                compare(Live(server, snapshot.revision()), opened)
        except Refused as error:
            made = snapshot.made_by() or _etcd_of(opened.manifest.k3s)
            if found.version[:2] != made:
                said = f"{error.why}; it was made by etcd {localetcd.shown(made)}, and {found.name} is another one"
                raise Unable(said, f"drill again with etcd {localetcd.shown(made)} on PATH") from None
            if not server.starts_on_nothing():
                raise Unable(f"{error.why}; and it does not start on an empty folder either") from None
            raise Damaged(f"{found.name} does not take its snapshot: {error.why}") from None


def compare(live: Live, opened: verify.Opened) -> None:
    """Given an etcd that runs on the snapshot of a backup that was opened, see that it says what the manifest says.

    Raise Damaged, or what asking it raises.
    """
    manifest = opened.manifest
    try:
        uid, why = database.identity(live, opened.token, collect.Sentinel(**opened.index.sentinel))
    except database.Failed as error:
        raise Damaged(f"out of an etcd that runs on it: {error}") from None
    if uid != manifest.uid:
        raise Damaged(f"an etcd that runs on it is of another cluster: its kube-system is {uid or 'missing'}")
    if why:
        raise Damaged(f"out of an etcd that runs on it: {why}")
    counts = live.counts()
    if counts != dict(manifest.objects):
        raise Damaged(f"an etcd that runs on it has other objects: {differences(manifest.objects, counts)}")


def differences(wanted: Mapping[str, int], found: Mapping[str, int]) -> str:
    """Given how many objects there should be and how many there are, by their prefix, return where they differ."""
    wrong = [name for name in sorted({*wanted, *found}) if wanted.get(name, 0) != found.get(name, 0)]
    said = [f"{name} {found.get(name, 0)} instead of {wanted.get(name, 0)}" for name in wrong[:5]]
    return ", ".join([*said, *([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else [])])

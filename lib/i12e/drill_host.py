"""The drill on a host: a backup restored by k3s itself, on a machine that is no server, and proven by its API there.

What it does on the host is in drilling. It goes onto any machine that ssh reaches: an agent of the cluster, or one that
has never seen i12e. Before the backup is read it is clear that the host can do it; after it, nothing of it is left.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from i12e import database, drilling, facts, remote, restore_plan, restored, restoring, screen, verify
from i12e.artifacts import Entry
from i12e.backups import Place
from i12e.bundle import DATABASE, ETCD, SQLITE
from i12e.damaged import Damaged
from i12e.drill_offline import Report, reading
from i12e.drilling import FOLDER, Inside, Outs
from i12e.facts import HostFacts
from i12e.localetcd import Unable
from i12e.lock import duration, operator
from i12e.model import Host
from i12e.releases import k3s as release
from i12e.remote import Held, Remote, Target
from i12e.restoring import CONVERT, Job, Progress
from i12e.secrets import Secret

_LOOK = 0.5  # seconds between two looks at the host
_NEWS = 10.0
_LIMIT = 3600.0  # seconds in which k3s restores and is ready
_PROGRAM = 400 << 20  # bytes for k3s and what it unpacks
_MEMORY = 600 << 10  # KB that k3s needs without its agent
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_AGAIN, _ELSEWHERE = "drill again once that is mended", "drill on another host"
_FREE = "df -Pk /var/lib | awk 'NR == 2 { print $4 }'"
_THERE = f"du -sk {FOLDER} | cut -f1"
_NOT_THE_BACKUPS = re.compile(
    r"\(status (?:137|143)\)|no space left|out of memory|cannot allocate|too many open files|input/output error"
    r"|does not get ready",
    re.IGNORECASE,
)
"""What is said when it is the host that fails: by k3s and the kernel, and by restoring.SERVE of a k3s that is slow."""


@dataclass(frozen=True)
class Release:
    """The k3s that a restore would have, and where it is had."""

    host: Host
    """Of whose configuration it is."""
    entries: Mapping[str, Entry]
    """Of artifacts.lock, by URL."""

    @property
    def version(self) -> str:
        """Its version."""
        return self.host.k3s.version

    def entry(self, machine: str) -> Entry | None:
        """Given what uname -m says, return the entry of the lock file, if there is one."""
        os = self.host.os.model_copy(update={"arch": _ARCH.get(machine, machine)})
        return self.entries.get(release(self.host.model_copy(update={"os": os})).url)


@dataclass(frozen=True)
class Site:
    """Where a drill goes."""

    name: str
    """For messages."""
    target: Target
    how: str
    """What the mark says of it, in front of k3s's version."""
    release: Release
    """The k3s that it has there."""
    outs: Outs
    """What of the cluster must not be reached from in there."""
    machine_id: str = ""
    """The one that it is known by, if it is."""
    notes: Sequence[str] = field(default=())


def run(
    place: Place, backup: str, keys: Sequence[Secret], folder: Path, known: Sequence[Secret], report: Report,
    site: AbstractContextManager[Site], say: Callable[[str], None] = screen.say,
) -> None:  # fmt: skip
    """Given a store, a backup's id, the keys that open it, a folder for files without names, the cluster's tokens,
    and where the drill goes, drill it.

    `report` gets the steps as they are taken. Raise Damaged if it does not restore; Unable if that cannot be told; what
    verify.opened raises else.
    """
    with site as there:
        report.notes += there.notes
        with Remote(there.target) as host:
            try:
                _Drill(there, host, report, say).run(place, backup, keys, folder, known)
            except remote.Unreachable as error:
                raise Unable(f"{there.name}: {error.why}", error.remedy) from None


class _Drill:
    def __init__(self, site: Site, host: Remote, report: Report, say: Callable[[str], None]) -> None:
        self._site = site
        self._host = host
        self._wanted = site.release
        self._report = report
        self._say = say
        self._k3s = site.release.version
        self._outs = ""
        self._memory = 0
        self._held: Held | None = None

    def run(self, place: Place, backup: str, keys: Sequence[Secret], folder: Path, known: Sequence[Secret]) -> None:
        with self._claimed():
            self._fits()
            with reading(place, backup, keys, folder, known, self._report) as opened:
                self._report.how = f"{self._site.how} k3s {self._k3s}"
                self._report.facts |= {"by": f"k3s {self._k3s}", "made_by": f"k3s {opened.manifest.k3s}"}
                self._is_new_enough(opened.manifest.k3s)
                job = self._job(opened)
                self._has_room(job.size)
                began = time.monotonic()
                self._send(job, opened)
                size = f"{job.size / 1e6:.1f} MB to {self._site.name}"
                self._report.add("send", time.monotonic() - began, size)
                try:
                    self._try(job, opened)
                except database.Failed as error:
                    self._again(job, opened, error)
            began = time.monotonic()
            if self._cleaned():
                self._report.add("end", time.monotonic() - began, f"nothing of it is left on {self._site.name}")

    # --- may it

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Until the block ends, have the host for ourselves, with an empty folder; nothing of that stays."""
        who = f"{operator()}, since {time.strftime('%H:%M:%S')}"
        with self._host.hold(f"{drilling.CLAIM}{shlex.quote(who)}") as self._held:
            held = self._held
            line = held.first_line(60)
            if line.startswith("busy"):
                whose = line.removeprefix("busy").strip() or "it says not whose"
                raise Unable(f"{self._site.name}: another drill is at work: {whose}", "wait for its end")
            if line != "held":
                said = (held.complaint() or line).strip()[-300:]
                raise Unable(f"{self._site.name}: no drill can begin: {said or 'it says not why'}", _ELSEWHERE)
            try:
                yield
            finally:
                with suppress(remote.Unreachable):  # the host ends it by itself
                    if held.alive():
                        self._cleaned()

    def _need_the_host(self) -> None:
        """See that the host is still ours; raise Unable."""
        if self._held is None or not self._held.alive():
            said = "the host has given this drill up: it heard nothing of us for a minute, or the connection broke"
            raise Unable(f"{self._site.name}: {said}", "drill again")

    def _cleaned(self) -> bool:
        """Remove all of the drill from the host; tell whether that went well, which says nothing of the backup."""
        done = self._host.run(drilling.CLEAN, limit=120)
        said = f"{self._site.name}: {FOLDER}, which has secrets, cannot be removed: {done.complaint.strip()[-200:]}"
        if done.status and said not in self._report.notes:
            self._report.notes.append(said)
        return not done.status

    def _fits(self) -> None:
        """See that a drill can be done there, and bring k3s there; raise Unable with all that speaks against it."""
        name = self._site.name
        found = facts.parse(self._host.run(facts.script(False), limit=90).output)
        said = self._host.run(drilling.HAS, limit=60).output.split("\n")
        machine, memory, lacks, version = (*(line.strip() for line in said), "", "", "", "")[:4]
        wrong = [*self._strange(found)]
        if lacks:
            wrong.append(f"it lacks {lacks}")
        if memory.isdecimal() and int(memory) < _MEMORY:
            wrong.append(f"it has {int(memory) >> 10} MB of memory free, and k3s needs {_MEMORY >> 10}")
        entry = self._wanted.entry(machine)
        has, no_k3s = version == self._wanted.version, ""
        if not has and entry is None:
            theirs = f"k3s {version}" if version else "no k3s"
            no_k3s = f"it has {theirs}, and artifacts.lock has no k3s {self._wanted.version} for {machine}"
            wrong.append(no_k3s)
        if wrong:
            remedy = "./doit lock" if wrong == [no_k3s] else _ELSEWHERE
            raise Unable(f"{name}: {'; '.join(wrong)}", remedy)
        if found.unit == "k3s-agent" and found.active == "active":
            self._report.notes.append(f"{name} is a node of the cluster: the drill shares its memory and its disk")
        self._memory = int(memory) << 10 if memory.isdecimal() else 0
        self._bring(None if has else entry)
        script, outs = drilling.outside(self._site.outs)
        self._outs = self._do(script, outs, 60)

    def _strange(self, found: HostFacts) -> Iterator[str]:
        if found.datastore or found.mark:
            yield f"it has the datastore of {found.mark or 'a k3s server'}, and a drill goes onto no server"
        if found.staged or found.hold is not None:
            yield f"somebody is at work on it: {found.hold or 'a reset is staged'}"
        if self._site.machine_id and found.machine_id != self._site.machine_id:
            yield f"it is another machine ({found.machine_id}) than the one that machines.lock pins"

    def _bring(self, entry: Entry | None) -> None:
        """Bring k3s into the drill's folder: the host's own, or the one of the lock file."""
        if entry is None:
            self._do(drilling.TAKE)
            return
        self._say(f"{self._site.name}: fetches k3s {self._k3s}")
        try:
            self._do(drilling.fetch(entry.url, entry.sha256), limit=900)
        except Unable as error:
            raise Unable(
                f"{self._site.name}: k3s {self._k3s} is not to be had from {entry.url}: {error.why}", _AGAIN
            ) from None

    def _is_new_enough(self, theirs: str) -> None:
        if restore_plan.is_older(self._k3s, theirs):
            said = f"the backup was made by k3s {theirs}, and the configuration has {self._k3s}, an older one"
            raise Unable(said, f"a restore refuses that, too: set k3s.version: {theirs}, or a newer one")

    def _has_room(self, size: int, there: int = 0) -> None:
        """See that there is room for a database of so many bytes, of which so many are there; raise Unable."""
        free = int(self._do(_FREE).strip() or 0) << 10
        needed = restoring.room_for(size) + _PROGRAM - there
        if free < needed:
            said = f"it has {free >> 20} MB free in /var/lib, and {needed >> 20} are needed"
            raise Unable(f"{self._site.name}: {said}", "make room there")
        if self._memory < (_MEMORY << 10) + 2 * size:
            said = f"it has {self._memory >> 20} MB of memory free, and k3s needs more for a database of that size"
            raise Unable(f"{self._site.name}: {said}", _ELSEWHERE)

    # --- the restore

    def _job(self, opened: verify.Opened) -> Job:
        sealed = opened.index.plain[DATABASE]
        manifest = opened.manifest
        kind = restoring.kind(self._wanted.host.k3s.datastore, manifest.datastore)
        return Job(manifest.id, "", kind, "", manifest.uid, sealed.size, sealed.sha256, operator(), time.time())

    def _send(self, job: Job, opened: verify.Opened) -> None:
        theirs = opened.k3s_settings().get(opened.manifest.server, {})
        self._write("etc/k3s/config.yaml", drilling.config(opened.token, theirs))
        self._write("outs", self._outs.encode())
        self._write("run.sh", drilling.script(job).encode())
        self._write("control.sh", drilling.control(job).encode())
        meter, put = screen.meter(f"sends the database to {self._site.name}"), partial(self._do, limit=600)
        if not restoring.send(put, opened.database, job.size, meter, folder=FOLDER):
            raise Unable(f"{self._site.name}: the database did not arrive whole", _AGAIN)

    def _restore(self, job: Job) -> None:
        """Have k3s serve it; raise Unable where it did not come so far, Failed if k3s does not take it."""
        self._say(f"{self._site.name}: restores, with no way out")
        progress, began, marks = self._follow("run.sh")
        if progress.failed and drilling.FENCED not in progress.done:
            raise Unable(f"{self._site.name}: {progress.failed}", _AGAIN)
        tried = len(self._outs.splitlines())
        fence = f"{self._site.name} reaches nothing of the cluster anyway"
        if tried:
            fence = f"from in there none is reached of what {self._site.name} reaches ({screen.count(tried, 'port')})"
        takes = {ETCD: "the snapshot", SQLITE: "the database", CONVERT: "the database"}[job.kind]
        ready = "it is ready, without agent, scheduler and controllers"
        if job.kind == CONVERT:
            ready += ", and converted to etcd"
        said = {
            drilling.FENCED: ("fence", fence),
            restoring.PLACED: ("restore", f"k3s takes {takes}"),
            restoring.READY: ("start", ready),
        }
        for step, (name, what) in said.items():
            if step in marks:
                self._report.add(name, marks[step] - began, what)
                began = marks[step]
        if progress.failed:
            raise database.Failed(progress.failed)

    def _follow(self, name: str) -> tuple[Progress, float, dict[str, float]]:
        """Run a script of the folder until it is ready or has failed; return how far it came, when it began, and when
        each step was seen to be done, by our clock."""
        self._do(f"{drilling.START}{name}")
        began = told = time.monotonic()
        marks: dict[str, float] = {}
        while True:
            progress = restoring.read(self._do(drilling.LOOK))
            if not progress.quiet and not progress.failed:
                progress = restoring.read(self._do(drilling.LOOK))  # it may have failed between the two looks
            now = time.monotonic()
            for step in progress.done:
                marks.setdefault(step, now)
            if progress.failed or (restoring.READY in progress.done and progress.quiet):
                return progress, began, marks
            if not progress.quiet:
                self._need_the_host()
                free = self._do(_FREE).strip()
                said = f"the drill's unit ended: {progress.last or 'it says not why'}; {free} KB are free there"
                raise Unable(f"{self._site.name}: {said}", f"journalctl -u {drilling.UNIT} there; {_AGAIN}")
            if now - began > _LIMIT:
                raise Unable(f"{self._site.name}: not ready after {duration(_LIMIT)}: {progress.last}", _ELSEWHERE)
            if now - told > _NEWS:
                told = now
                self._say(f"{self._site.name}: restores, {duration(now - began)}: {progress.last}")
            time.sleep(_LOOK)

    def _try(self, job: Job, opened: verify.Opened) -> None:
        """Restore it and prove it; raise Failed, or Unable."""
        self._restore(job)
        with self._report.step("compare", "its API has all that was backed up, and opens the sentinel"):
            restored.compare(Inside(self._host), opened, say=self._say)

    def _again(self, job: Job, opened: verify.Opened, first: database.Failed) -> None:
        """Given why a backup did not restore, find out whose fault that is: of a bad one the newest good is another.

        Raise Damaged only if the same k3s starts there on nothing, and the backup fails a second time. A backup that
        restores then is good.
        """
        why = first.why
        self._rule_out_the_host(job, opened, first)
        self._say(f"{self._site.name}: it failed ({why}); sees whether k3s starts there at all")
        progress, _, _ = self._follow("control.sh")
        if progress.failed:
            raise Unable(f"{why}; and it does not start there on nothing either: {progress.failed}", _AGAIN)
        self._say(f"{self._site.name}: it does; restores a second time")
        self._report.steps[:] = [step for step in self._report.steps if step.name in ("read", "check", "send")]
        try:
            self._try(job, opened)
        except database.Failed as error:
            self._rule_out_the_host(job, opened, error)
            raise Damaged(f"k3s {self._k3s} on {self._site.name}, twice: {error.why}") from None
        self._report.notes.append(f"{self._site.name}: it restored at the second try; the first one ended so: {why}")

    def _rule_out_the_host(self, job: Job, opened: verify.Opened, error: database.Failed) -> None:
        """Raise Unable if what went wrong may be the host's fault, or somebody's who ended the drill."""
        self._need_the_host()
        why = error.why
        if opened.manifest.k3s != self._k3s:
            said = f"{why}; it was made by k3s {opened.manifest.k3s}, and {self._k3s} is another one"
            raise Unable(said, f"drill again with k3s.version: {opened.manifest.k3s}")
        if isinstance(error, database.Unasked) or _NOT_THE_BACKUPS.search(why):
            raise Unable(f"{self._site.name}: {why}", _AGAIN)
        progress = restoring.read(self._do(drilling.LOOK))
        if not progress.quiet and not progress.failed:
            raise Unable(f"{self._site.name}: {why}; the drill's unit was ended meanwhile", _AGAIN)
        self._has_room(job.size, there=int(self._do(_THERE).strip() or 0) << 10)

    # --- by what

    def _do(self, script: str, stdin: bytes = b"", limit: float = 120) -> str:
        done = self._host.run(script, stdin, limit)
        if done.status:
            said = (done.complaint or done.output).strip()[-300:] or f"status {done.status}"
            raise Unable(f"{self._site.name}: a command on it failed: {said}", _AGAIN)
        return done.output

    def _write(self, name: str, content: bytes) -> None:
        self._do(restoring.write(name, len(content), FOLDER), content)


def outs(hosts: Sequence[Host], endpoints: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Given the hosts of a cluster and its further servers (stores, DNS), return what a drill must not reach."""
    found = [(str(host.addresses[0]), 6443) for host in hosts if host.role == "server" and host.addresses]
    found += [(str(host.addresses[0]), host.ssh.port) for host in hosts if host.addresses]
    return list(dict.fromkeys([*found, *endpoints]))

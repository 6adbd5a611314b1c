"""Two machines on one schedule: `python tests/rounds.py --rounds 100 --store folder|s3 [--seed N] [--record]`.

Each machine is a process of its own that runs `backup --scheduled` again and again, as cron does; the store and all
that is done on it are real, the cluster is bundles.py's stand-in. In each slot of the schedule, machines are killed
(SIGKILL), stopped for longer than the lease lasts (SIGSTOP, SIGCONT) and get other clocks, at random moments. What is
demanded is in `Rounds.check`. `--record` writes the outcome into docs/rounds.md.

At least one machine is left alone from `_CALM` of each slot on: that is what "a machine ran in the slot" means here.
One that is stopped or dead may stay so for several slots.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import datetime as dt
import heapq
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import botocore.auth  # here, and not in each machine that is switched on

import bundles
import weed
from i12e import backup, backup_prune, backups, fence, lease, retention, screen, verify
from i12e.backups import Place
from i12e.damaged import Damaged
from i12e.errors import UserError
from i12e.openstore import open_store
from i12e.settings import Backup
from i12e.stores import Keys, Store, StoreError

PAGE = Path(__file__).resolve().parent.parent / "docs/rounds.md"
_CALM = 0.45  # of a slot: after that, one machine is left alone
_HIT = 0.3  # of a slot: before that, faults begin
_LOOK = 0.6  # of a slot: then all is looked at
_PRUNE = 20  # slots after which all is verified and pruned
_MORE = "  every: 5m\n  keep: {last: 5, hourly: 0, daily: 0, weekly: 0, monthly: 0}\n"
_PATIENCE = 60.0
_DAYS = retention.STONE + 86400.0  # after so many seconds nothing of a leftover may be there
_YEAR = 366 * 86400.0
_LATE = 1.0  # seconds: if this program itself is later than that, a slot says nothing of the machines
_STEPS = {
    "database": "the database",
    "seals and stores": "sealing, storing",
    "reads back": "the read-back",
    "last steps": "the manifest, giving the lease back",
}
_FORK = multiprocessing.get_context("fork")  # so that a machine that was killed is back at once


@dataclass(frozen=True)
class Pace:
    """Seconds: of a slot; of a lease, between two renewals and as a whole; between two runs of a machine."""

    slot: int
    every: float
    length: float
    tick: float


PACES = {"folder": Pace(8, 0.4, 2.0, 0.25), "s3": Pace(12, 0.6, 3.0, 1.0)}


class Short(Backup):
    """What a cluster's file says of backups, with slots that are shorter than it may say."""

    @property
    def slot_seconds(self) -> int | None:
        """See Backup."""
        return _slot


_slot = 0


class Machine:
    """A process that runs `backup --scheduled` again and again, and what is done to it."""

    def __init__(self, name: str, folder: Path, world: bundles.World, opener: Callable[[], Store], pace: Pace) -> None:
        self.name = name
        self.stopped = False
        self.offset = _FORK.Value("d", 0.0)
        self._log = folder / f"{name}.log"
        self._opener = opener
        self._pace = pace
        shutil.copytree(folder / "world/datastore", folder / name)
        datastore = copy.copy(world.datastore)
        assert isinstance(datastore, bundles.Kine)
        datastore._path = folder / name / "state.db"
        self._world = replace(world, datastore=datastore)
        self._process: Any = None

    @property
    def up(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and not self.stopped

    def start(self) -> None:
        """Switch it on."""
        self._process = _FORK.Process(target=_machine, args=(self, self._world, self._opener, self._pace, self._log))
        self._process.start()

    def kill(self) -> None:
        """Take its power away."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process, self.stopped = None, False

    def stop(self) -> None:
        """Let it stand still."""
        os.kill(self._process.pid, signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        """Let it go on, or switch it on if it has no power."""
        if self._process is None:
            self.start()
        elif self.stopped:
            os.kill(self._process.pid, signal.SIGCONT)
            self.stopped = False
        if self._process.exitcode is not None:
            raise AssertionError(f"{self.name} ended by itself: see {self._log}")

    def lines(self) -> list[tuple[float, str]]:
        """Return what it has said so far, with the times."""
        try:
            found = [line.split(" ", 1) for line in self._log.read_text().splitlines()]
        except FileNotFoundError:
            return []
        return [(float(at), text) for at, text in found]

    def step(self) -> str:
        """Return in which step of a backup it is, by its last line."""
        said = self.lines()
        return _step_of(said[-1][1]) if said else "start"


def _step_of(line: str) -> str:
    if "waiting for it" in line or "taken over" in line:
        return "taking a lease over"
    found = next((step for words, step in _STEPS.items() if f" {words} " in f" {line} "), "between two runs")
    return "looking, the lease" if line == "run" else found


def _machine(machine: Machine, world: bundles.World, opener: Callable[[], Store], pace: Pace, log: Path) -> None:
    """Be a machine, until somebody ends it."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(text: str) -> None:
        os.write(handle, f"{_clock():.3f} {' '.join(text.split())}\n".encode())

    _be(machine.name, machine.offset)
    screen.say = say
    backup._Taking.pace = (pace.every, pace.length)
    _announced(say)
    parent = os.getppid()
    while os.getppid() == parent:  # not without the one who ends it
        say("run")
        try:
            made = bundles.make(world, Place(opener(), world.cluster.name), scheduled=True)
            said = f"made {made}" if made else "nothing to do"
        except UserError as error:
            said = f"failed {'; '.join(map(str, error.problems))}"
        except StoreError as error:  # of its probe, which open_places tells as a problem
            said = f"failed {error}"
        except Exception as error:  # noqa: BLE001  # a mistake of ours, which the record shows
            said = f"bug {type(error).__name__} {error}"
        say(said)
        world.build.told.clear()
        world.build.notes.clear()
        time.sleep(pace.tick)


def _be(name: str, offset: Synchronized[float]) -> None:
    """Let this process be one of another machine: with a boot and a clock of its own."""
    real, sooner = time.time, offset.get_obj() if hasattr(offset, "get_obj") else offset
    lease._boot = lambda: f"the boot of {name}"
    time.time = lambda: real() + sooner.value
    current = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda *args, **more: (
        current(*args, **more) + dt.timedelta(seconds=sooner.value)
    )


def _announced(say: Callable[[str], None]) -> None:
    """Let a run tell of the steps about which it is silent."""
    for name, text in (("_database", "database"), ("_commit", "last steps")):
        action = getattr(bundles.Taking, name)

        def told(self: Any, *args: Any, action: Any = action, text: str = text) -> Any:
            say(text)
            return action(self, *args)

        setattr(bundles.Taking, name, told)


class _Later(Store):
    """A store as it is long after: also tombstones are old then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name, self.place, self.shares = store.name, store.place, store.shares

    def now(self) -> float:
        """See Store."""
        return self._store.now() + _DAYS

    def sweep(self, age: float) -> Keys:
        """See Store."""
        return self._store.sweep(age - _DAYS)


def _handed_on(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self._store, name)(*args)


for _name in ("put", "read", "get", "list", "create", "swap", "delete", "locked_until", "probe", "close"):
    setattr(_Later, _name, _handed_on(_name))


@dataclass
class Outcome:
    """What a run came to."""

    store: str
    seed: int
    pace: Pace
    slots: int = 0
    quiet: int = 0
    excused: set[str] = field(default_factory=set)
    backups: int = 0
    verified: int = 0
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    hit: collections.Counter[str] = field(default_factory=collections.Counter)
    said: collections.Counter[str] = field(default_factory=collections.Counter)
    pruned: int = 0
    leftovers: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    took: float = 0.0


class Rounds:
    """A run: slot by slot, with the faults that chance chooses."""

    def __init__(self, folder: Path, opener: Callable[[], Store], outcome: Outcome) -> None:
        global _slot  # for Short, which pydantic makes
        self._out = outcome
        self._pace = outcome.pace
        _slot = self._pace.slot
        self._dice = random.Random(f"{outcome.seed} {outcome.store}")  # noqa: S311  # to be the same again
        world = bundles.world(folder / "world", count=60, more=_MORE)
        short = Short.model_construct(**dict(world.cluster.backup))
        self._world = replace(world, cluster=world.cluster.model_copy(update={"backup": short}))
        self._place = Place(opener(), world.cluster.name)
        self._place.store.probe()
        self._machines = [Machine(f"machine-{n}", folder, self._world, opener, self._pace) for n in (1, 2)]
        self._events: list[tuple[float, int, Machine, str]] = []
        self._order = itertools.count()
        self._slots: dict[str, int] = {}  # by slot the number of its backup
        self._since = 0  # when the first slot began in which a backup is demanded
        self._proven: set[str] = set()
        self._long = 0.1 * self._pace.slot  # how long a backup takes
        self._lag = outcome.pace.tick + (
            1.0 if outcome.store == "s3" else 0.0
        )  # an S3 server's clock has whole seconds

    def run(self, rounds: int) -> None:
        """Given how many slots get faults, run."""
        began = _clock()
        for machine in self._machines:
            machine.start()
        try:
            self._begin()
            for number in range(1, rounds + 1):
                if self._is_late():
                    self._out.quiet += 1
                else:
                    self._plan()
                self._pass_until(self._now() + _LOOK * self._pace.slot)
                self.check()
                self._until_next()
                if number % _PRUNE == 0 or number == rounds:
                    self._intermission()
        finally:
            for machine in self._machines:
                machine.kill()
        self._count_lines()
        self._out.seconds = _clock() - began

    # --- time

    def _begin(self) -> None:
        """Let the next slot begin: it is the first one in which a backup is demanded."""
        self._until_next()
        self._since = self._now()

    def _now(self) -> int:
        """Return when the slot of now began."""
        return int(time.time() // self._pace.slot * self._pace.slot)

    def _until_next(self) -> None:
        """Wait until a slot begins."""
        self._pass_until(self._now() + self._pace.slot)

    def _pass_until(self, when: float) -> None:
        """Let the time go on, and do what is due."""
        while (left := when - time.time()) > 0:
            if self._events and self._events[0][0] <= time.time():
                due, _, machine, action = heapq.heappop(self._events)
                self._do(machine, action)
                if action == "back" and time.time() - due > _LATE:
                    self._out.excused.add(backup.slot_of(time.time(), self._pace.slot))
                continue
            soon = self._events[0][0] - time.time() if self._events else left
            time.sleep(max(0.0, min(left, soon, 0.2)))

    def _intermission(self) -> None:
        """Let all come back; verify what was not, and prune, as if days had passed."""
        while self._events:
            _, _, machine, action = heapq.heappop(self._events)
            self._do(machine, action)
        for machine in self._machines:
            machine.offset.value = 0.0
        self._until_next()
        self._verify()
        self._until_next()
        self._pass_until(self._now() + self._long)  # they are at work on the next one
        end = self._now()
        for machine in self._machines:
            machine.kill()
        self._prune(end)
        for machine in self._machines:
            machine.start()
        self._begin()

    # --- faults

    def _is_late(self) -> bool:
        """Tell whether the slot before has no backup yet: whoever is at work on it is then left alone."""
        before = backup.slot_of(self._now() - self._pace.slot, self._pace.slot)
        return before not in self._slots and backups.in_slot(backups.survey(self._place), before) is None

    def _plan(self) -> None:
        """Choose what happens in the slot that has just begun."""
        now, slot = self._now(), self._pace.slot
        down = {each[2] for each in self._events}
        free = [machine for machine in self._machines if machine not in down]
        calm = self._dice.choice(free)  # the one that is back early, and of the two that is down has not to be
        for machine in free:
            kind = self._dice.choices(("none", "kill", "stop", "kills"), (2, 4, 5, 1))[0]
            latest = now + _CALM * slot if machine is calm else now + self._dice.choice((0.7, 1.2, 2.6)) * slot
            hit = now + self._moment()
            for _ in range({"none": 0, "kills": 3}.get(kind, 1)):
                back = hit + self._away(kind, latest - hit)
                self._add(hit, machine, kind.removesuffix("s"))
                self._add(back, machine, "back")
                hit = back + self._dice.uniform(0.0, self._long)
                if hit > now + _HIT * slot:
                    break
            self._clocks(machine, calm)

    def _moment(self) -> float:
        """Return after how many seconds of a slot a fault comes: mostly while a backup of it is made."""
        most = _HIT * self._pace.slot
        soon = min(1.3 * self._long + self._lag, most)
        return self._dice.uniform(0.0, soon if self._dice.random() < 0.8 else most)

    def _away(self, kind: str, most: float) -> float:
        """Return for how many seconds a machine is away."""
        least = self._pace.length * 1.1 if kind == "stop" else 0.0
        return most if most <= least else self._dice.uniform(least, most)

    def _clocks(self, machine: Machine, calm: Machine) -> None:
        if self._dice.random() > 0.25:
            return
        far = machine is not calm and self._dice.random() < 0.3  # so far that an S3 server refuses it
        self._add(time.time() + self._moment(), machine, "far clock" if far else "clock")
        if far:  # the next slot may need it
            self._add(time.time() + (1 - 0.1) * self._pace.slot, machine, "right clock")

    def _add(self, at: float, machine: Machine, action: str) -> None:
        heapq.heappush(self._events, (at, next(self._order), machine, action))

    def _do(self, machine: Machine, action: str) -> None:
        if action == "back":
            machine.go_on()
        elif action.endswith("clock"):
            span = {"far clock": _YEAR, "clock": 600.0}.get(action, 0.0)
            machine.offset.value = self._dice.uniform(-span, span)
            if span:
                self._out.faults[action] += 1
        elif machine.up:
            self._out.faults[action] += 1
            getattr(machine, action)()
            self._out.hit[machine.step()] += 1

    # --- what is demanded

    def check(self) -> None:
        """Demand of what is committed: one backup of a slot at the most, with numbers that grow; none is missing."""
        found = [each for each in backups.survey(self._place) if each.manifest is not None]
        for each in found:
            if not each.is_good:
                self._wrong(f"{each.id} is {each.state}: {each.why}")
        by_slot = collections.Counter(each.manifest.slot for each in found if each.manifest)
        for slot, count in by_slot.items():
            if count > 1:
                self._wrong(f"{slot} has {count} backups")
        ordered = sorted((each.number, each.manifest.slot) for each in found if each.manifest)
        if len({number for number, _ in ordered}) < len(ordered):
            self._wrong("a number was given twice")
        if ordered != sorted(ordered, key=lambda each: each[1]):
            self._wrong("the number of a later slot is lower than that of an earlier one")
        before = max(self._slots.values(), default=0)
        for number, slot in ordered:
            if slot not in self._slots:
                if number <= before:
                    self._wrong(f"{slot} was committed with {number}, after {before}")
                self._slots[slot] = number
        taken = [each.manifest.seconds for each in found if each.manifest and each.manifest.seconds]
        self._long = statistics.median(taken[-10:]) if taken else self._long
        self._missing(self._now())

    def _missing(self, end: int) -> int:
        """Demand that each slot that ended before that has its backup; return how many slots that are."""
        slots = [backup.slot_of(at, self._pace.slot) for at in range(self._since, end, self._pace.slot)]
        slots = [slot for slot in slots if slot not in self._out.excused]
        for slot in slots:
            if slot not in self._slots:
                self._wrong(f"{slot} has no backup")
        return len(slots)

    def _verify(self) -> None:
        for each in backups.survey(self._place):
            if each.is_good and each.id not in self._proven:
                try:
                    verify.check(self._place, each.id, [self._world.key], self._world.folder)
                except Damaged as error:
                    self._wrong(f"{each.id} does not verify: {error.why}")
                else:
                    self._out.verified += 1
                    self._proven.add(each.id)

    def _prune(self, end: int) -> None:
        """Demand that all is there until then, and that prunes, long after, leave what the rules keep, no more."""
        later = Place(_Later(self._place.store), self._place.cluster)  # type: ignore[abstract]
        with fence.taken(self._place, "a look at all of it", wait=60.0):
            pass  # whoever was at work is buried
        self._verify()
        self.check()
        self._out.slots += self._missing(end)
        self._out.backups = len(self._slots)
        before = backups.survey(self._place)
        for each in before:
            self._out.leftovers[each.state] += each.state != backups.GOOD
        for _ in range(2):  # the parts of what was shut out, then its tombstones
            backup_prune._prune(self._world.build, self._world.cluster, later, dry_run=False, yes=True)
        after = backups.survey(self._place)
        keep = [each.id for each in before if each.is_good][: self._world.cluster.backup.keep.last]
        if [each.id for each in after] != keep:
            self._wrong(f"a prune left {[(each.id, each.state) for each in after]}, not {keep}")
        self._out.pruned += len(before) - len(after)
        if swept := self._place.store.sweep(-1.0 if self._out.store == "folder" else 0.0):
            self._wrong(f"a prune left the uploads {swept}")

    def _wrong(self, what: str) -> None:
        if what not in self._out.wrong:
            self._out.wrong.append(what)
            print(f"WRONG    {what}", file=sys.stderr, flush=True)

    def _count_lines(self) -> None:
        known = {
            "made": "a backup", "nothing to do": "nothing to do", "failed": "a failure, which was told",
            "bug": "BUG",
        }  # fmt: skip
        for machine in self._machines:
            for _, line in machine.lines():
                if "taken over" in line:
                    self._out.said["leases taken over"] += 1
                for word, text in known.items():
                    if line.startswith(word):
                        self._out.said[f"runs that ended with {text}"] += 1
                if line.startswith("bug"):
                    self._wrong(f"{machine.name}: {line}")
        self._out.took = self._long


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@contextlib.contextmanager
def opened(store: str, folder: Path) -> Iterator[Callable[[], Store]]:
    """Given which kind of store and a folder, have such a store until the block ends; give what opens it."""

    def quiet(line: str) -> None:
        screen.say(line)

    if store == "folder":
        settings = types.SimpleNamespace(name="folder", folder=str(folder / "store"), s3=None, rclone=None)
        yield lambda: open_store(settings, {}, quiet, _PATIENCE)
        return
    (folder / "weed").mkdir()
    with weed.seaweed(folder / "weed") as server:
        server.bucket("rounds")
        s3 = types.SimpleNamespace(
            bucket="rounds", region=weed.REGION, endpoint=server.url, path_style=True, prefix="", lock_days=0
        )
        settings = types.SimpleNamespace(name="s3", folder=None, s3=s3, rclone=None)
        yield lambda: open_store(settings, server.credentials, quiet, _PATIENCE)


def play(store: str, rounds: int, seed: int, pace: Pace) -> Outcome:
    """Given a store's kind, the slots, a seed and the pace, return what it came to."""
    outcome = Outcome(store, seed, pace)
    with tempfile.TemporaryDirectory(prefix="rounds-") as place:
        folder = Path(place)
        try:
            with opened(store, folder) as opener:
                Rounds(folder, opener, outcome).run(rounds)
        finally:
            if outcome.wrong:
                kept = tempfile.mkdtemp(prefix="rounds-logs-")
                for log in folder.glob("*.log"):
                    shutil.copy(log, kept)
                print(f"the machines' logs: {kept}", file=sys.stderr)
    return outcome


def told(outcome: Outcome) -> str:
    """Given an outcome, return it as text."""
    pace = outcome.pace
    wrong = "".join(f"\n- {each}" for each in outcome.wrong) or " nothing"
    return "\n".join(
        [
            f"Seed {outcome.seed}, slots of {pace.slot} s, leases of {pace.length:g} s; {outcome.seconds / 60:.0f} min",
            "",
            f"- slots that had to have one backup each: {outcome.slots}",
            # the others are of slots in which the machines were switched on or off
            f"- backups committed: {outcome.backups}, verified: {outcome.verified}",
            f"- faults: {_counts(outcome.faults)}",
            # as the slot before had no backup yet; as the program that makes the faults was late
            f"- slots that were left without faults: {outcome.quiet}, not counted: {len(outcome.excused)}",
            f"- where kills and stops hit: {_counts(outcome.hit)}",
            f"- the machines' runs: {_counts(outcome.said)}",
            f"- removed by prunes: {outcome.pruned}, of these no backups: {_counts(+outcome.leftovers) or 'none'}",
            f"- wrong:{wrong}",
        ]
    )


def _counts(found: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(found.items(), key=lambda each: -each[1]))


def record(outcome: Outcome) -> None:
    """Given an outcome, put it into the page, in the place of the last one of its store."""
    start, end = f"<!-- {outcome.store} -->", f"<!-- end of {outcome.store} -->"
    before, _, rest = PAGE.read_text().partition(start)
    _, _, after = rest.partition(end)
    day = f"{dt.datetime.now(tz=dt.UTC).date()}, load {os.getloadavg()[2]:.0f} on {os.cpu_count()} cores. "
    PAGE.write_text(f"{before}{start}\n{day}{told(outcome)}\n{end}{after}")


def main() -> int:
    """Run, tell, record; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--store", choices=tuple(PACES), default="folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slot", type=int, default=0, help="seconds of a slot")
    parser.add_argument("--record", action="store_true", help=f"into docs/{PAGE.name}, too")
    options = parser.parse_args()
    pace = PACES[options.store]
    outcome = play(options.store, options.rounds, options.seed, replace(pace, slot=options.slot or pace.slot))
    print(told(outcome))
    if options.record:
        record(outcome)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

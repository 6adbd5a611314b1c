"""The lease: one at a time, numbers that only grow, and never two backups of one slot, whoever stops whenever."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

import actors
from actors import FAULTS, Racer, World
from i12e import lease as module
from i12e.errors import UserError
from i12e.folders import Folder
from i12e.lease import KEY, Busy, Lease, Lost, held_by, take
from i12e.stores import StoreError
from memorystore import Memory
from sweeps import FULL, sampled

SILENT = StoreError("memory", "no answer", passing=True)


class Clock:
    """A clock that goes only when somebody waits; what happens meanwhile is `meanwhile`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], None] = lambda: None

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Our own clock."""
    found = Clock()
    monkeypatch.setattr(module, "_clock", lambda: found.now)
    return found


@pytest.fixture
def store(clock: Clock) -> Memory:
    """A store whose clock is years from ours."""
    return Memory(clock=lambda: clock.now + 1e9)


def taken(store: Any, clock: Clock, what: str = "backup", **more: Any) -> Lease:
    """Take the lease with nobody who renews it but the test."""
    return take(store, what, pause=clock.pause, thread=False, **more)


def lost(lease: Lease) -> bool:
    """Tell whether it is lost (a function: what was true a moment ago is not the type checker's to remember)."""
    return lease.lost


def told(store: Memory) -> dict[str, Any]:
    """Return what the object says."""
    found: dict[str, Any] = json.loads(store.contents()[KEY])
    return found


# --- taking, keeping, giving back


def test_each_lease_has_the_next_number_and_the_object_stays_when_it_is_given_back(store: Memory, clock: Clock) -> None:
    for number in (1, 2, 3):
        with taken(store, clock) as lease:
            assert lease.number == number == told(store)["number"]
            lease.check()
        assert (told(store)["number"], told(store)["holder"]) == (number, None)


def test_a_number_is_larger_than_all_that_were_seen_though_somebody_removed_the_object(
    store: Memory, clock: Clock
) -> None:
    taken(store, clock).release()
    store.delete(KEY)
    with taken(store, clock, above=17) as lease:
        assert lease.number == 18
    assert taken(store, clock, above=3).number == 19


def test_the_object_says_who_does_what_since_when(store: Memory, clock: Clock) -> None:
    with taken(store, clock) as lease:
        lease.making("b-1")
        began = clock.now
        clock.pause(20)
        lease.check()
        found = told(store)
        assert found["backup"] == "b-1"
        assert (found["since"], found["at"]) == (began + 1e9, began + 1e9 + 20)
        assert found["holder"]["pid"] == os.getpid()
        said = held_by(store)
        assert said
        assert f"@{os.uname().nodename} (pid {os.getpid()}) is at work there (backup b-1), for 20 s" in said
    assert held_by(store) is None
    assert held_by(Memory()) is None


def test_no_two_contents_of_the_object_are_the_same(store: Memory, clock: Clock) -> None:
    seen = []
    for _ in range(3):
        lease = taken(store, clock)  # the clocks stand still
        seen.append(store.contents()[KEY])
        for _ in range(3):
            lease.check()
            seen.append(store.contents()[KEY])
        lease.release()
        seen.append(store.contents()[KEY])
    assert len(set(seen)) == len(seen) == 15
    lease = taken(store, clock)
    store.fail("swap", SILENT, after=True, times=99)  # every write is done, and none is answered
    for _ in range(4):
        seen.append(store.contents()[KEY])
        with pytest.raises(StoreError):
            lease.check()
    assert len(set(seen)) == len(seen) == 19


def test_a_thread_renews_it_until_it_is_given_back() -> None:
    store, renewed = Memory(), threading.Event()
    lease = take(store, "backup", every=0.01, length=60)
    store.before = lambda operation, key: renewed.set() if operation == "swap" else None
    assert renewed.wait(60)
    store.before = lambda operation, key: None
    lease.release()
    assert not lease._thread.is_alive()
    with pytest.raises(Lost):
        lease.check()


@pytest.mark.parametrize(("every", "length"), [(0.0, 9.0), (5.0, 9.0), (-1.0, 9.0), (1.0, 1e9), (float("nan"), 9.0)])
def test_times_that_cannot_work_are_refused(store: Memory, clock: Clock, every: float, length: float) -> None:
    with pytest.raises(ValueError, match="a lease of"):
        taken(store, clock, every=every, length=length)


# --- another one has it


def test_a_second_one_is_told_at_once_who_has_it_since_when(store: Memory, clock: Clock) -> None:
    holder = taken(store, clock)
    holder.making("b-1")
    began = store.now()
    clock.pause(14)
    with pytest.raises(Busy) as caught:
        taken(store, clock)
    assert clock.now == began - 1e9 + 14
    assert caught.value.since == began
    assert caught.value.who.endswith(f"(pid {os.getpid()})")
    assert "is at work there (backup b-1), for 14 s, last heard of 14 s ago" in str(caught.value)
    assert str(caught.value).startswith("memory: ")
    holder.check()


def test_who_waits_gets_it_when_it_is_given_back_and_is_told_meanwhile(store: Memory, clock: Clock) -> None:
    holder, lines = taken(store, clock), list[str]()
    began = clock.now
    clock.meanwhile = lambda: holder.release() if clock.now > began + 25 else holder.check()
    assert taken(store, clock, wait=60, tell=lines.append).number == 2
    assert clock.now < began + 30
    assert len(lines) == 3  # now and then
    assert all(line.endswith("waiting for it") for line in lines)


def test_a_living_holder_is_waited_for_as_long_as_was_said(store: Memory, clock: Clock) -> None:
    holder = taken(store, clock)
    began, clock.meanwhile = clock.now, holder.check
    with pytest.raises(Busy):
        taken(store, clock, wait=300)
    assert 300 <= clock.now - began < 310
    holder.check()


@pytest.mark.parametrize("jump", [0.0, 5e8, -5e8], ids=["none", "ahead", "back"])
def test_a_dead_holder_is_followed_after_its_time_whatever_the_store_s_clock_does(
    store: Memory, clock: Clock, jump: float
) -> None:
    dead, lines = taken(store, clock), list[str]()
    dead.making("b-1")
    clock.now += 200
    began = clock.now
    store.clock = lambda: clock.now + 1e9 + jump
    lease = taken(store, clock, tell=lines.append)  # without `wait`: only who lives is not waited for
    assert lease.number == 2
    assert lease.open == ("b-1",)
    assert module.LENGTH <= clock.now - began < module.LENGTH + 3
    assert lines[-1].endswith("for 90 s: taken over")
    dead._renewed = clock.now  # as if it had been stopped the whole time, and did not know
    with pytest.raises(Lost, match=r"the lease 1 was lost: .* is at work there"):
        dead.check()
    assert dead.lost


@pytest.mark.parametrize("jump", [0.0, 5e8, -5e8], ids=["none", "ahead", "back"])
def test_a_living_holder_keeps_it_whatever_the_clocks_say(store: Memory, clock: Clock, jump: float) -> None:
    holder = taken(store, clock)
    began = clock.now

    def jumps() -> None:
        if clock.now < began + 1000:
            store.clock = lambda: clock.now + 1e9 + (jump if int(clock.now) % 2 else -jump)
        if int(clock.now) % 10 == 0:
            holder.check()

    clock.meanwhile = jumps
    with pytest.raises(Busy):
        taken(store, clock, wait=900)
    holder.check()


def test_the_holder_s_own_promise_counts_and_not_ours(store: Memory, clock: Clock) -> None:
    taken(store, clock, every=100, length=400)
    clock.now += 300
    began = clock.now
    taken(store, clock, every=1, length=3)
    assert 400 <= clock.now - began < 403


def test_who_slept_while_it_watched_takes_nothing_that_was_renewed_meanwhile(store: Memory, clock: Clock) -> None:
    holder = taken(store, clock)
    clock.now += 31  # not fresh any more: the second one has to watch
    slept = [False]

    def asleep(operation: str, key: str) -> None:
        if operation == "swap" and not slept[0]:  # right before it takes over
            slept[0] = True
            holder._renewed = clock.now
            holder.check()

    store.before = asleep
    with pytest.raises(Busy):
        taken(store, clock)
    holder.check()


# --- the holder is a process of this machine


HOLD = """
import sys, time
from i12e.folders import Folder
from i12e.lease import take
lease = take(Folder("f", sys.argv[1]), "backup", every=100, length=3600)
lease.making("b-1")
print("held", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def another(script: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in a process of its own; it is killed in the end."""
    environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdin=pipe, stdout=pipe, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_of_this_machine_that_was_killed_is_followed_at_once(tmp_path: Path, clock: Clock) -> None:
    store = Folder("f", tmp_path / "store")
    store.probe()
    with another(HOLD, str(tmp_path / "store")) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=rf"pid {process.pid}\) is at work there \(backup b-1\)"):
            taken(store, clock)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(Busy):
            taken(store, clock)  # it may go on
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody asked how
        began, lines = clock.now, list[str]()
        lease = taken(store, clock, tell=lines.append)
        assert (lease.number, lease.open, clock.now) == (2, ("b-1",), began)
        assert lines == [f"{store.place}: {lines[0].split(': ')[1]}: it is taken over"]
        assert f"(pid {process.pid}) ended without giving the lease back" in lines[0]


def test_only_who_is_surely_dead_is_dead() -> None:
    me = module.this_process()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = replace(me, pid=int(gone.stdout))
    assert not module._dead(me)
    assert module._dead(dead)
    assert module._dead(replace(me, start=me.start + 1)), "another process has its id now"
    assert not module._dead(replace(dead, boot="another machine pid:[1]")), "ids of elsewhere say nothing here"
    assert not module._dead(replace(dead, boot="")), "a system that does not tell"
    assert not module._dead(replace(dead, start=0))
    assert not module._dead(replace(me, pid=1, start=module._start(1) or 0)), "another user's process"
    assert not module._dead(replace(dead, pid=0)), "0 and below are groups of processes"
    assert not module._dead(replace(dead, pid=-1))


# --- it is lost


def test_nothing_heard_of_the_store_for_two_thirds_of_its_length_is_a_loss(store: Memory, clock: Clock) -> None:
    lease = taken(store, clock)
    clock.now += 59
    lease.check()
    clock.now += 59
    store.fail("swap", SILENT)
    with pytest.raises(StoreError, match="no answer"):
        lease.check()
    assert not lost(lease)
    clock.now += 2
    assert lost(lease)
    with pytest.raises(Lost, match="the lease 1 was lost: it could not be renewed for 61 s"):
        lease.check()
    lease.release()
    assert told(store)["holder"] is None, "nobody else had it, so it can be given back all the same"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[" * 100_000], ids=["removed", "empty", "other", "deep"])
def test_an_object_that_is_gone_or_another_is_a_loss(store: Memory, clock: Clock, content: bytes | None) -> None:
    lease = taken(store, clock)
    version = store.get(KEY)[1]
    if content is None:
        store.delete(KEY)
    else:
        store.swap(KEY, content, version)
    with pytest.raises(Lost, match="somebody"):
        lease.check()
    with pytest.raises(Lost):
        lease.making("b-1")
    before = store.contents()
    lease.release()
    assert store.contents() == before


def test_a_store_that_hangs_cannot_keep_the_holder_believing(store: Memory, clock: Clock) -> None:
    lease = take(store, "backup", every=0.01, length=0.5)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(operation: str, key: str) -> None:
        if operation == "swap":
            hangs.set()
            goes_on.wait(60)

    store.before = hang
    assert hangs.wait(60)
    clock.now += 1
    assert lease.lost
    with pytest.raises(Lost):
        lease.check()  # though the thread is at it
    store.before = lambda operation, key: None
    goes_on.set()
    lease.release()


def test_a_store_that_does_not_take_it_back_is_told_of(store: Memory, clock: Clock) -> None:
    lines: list[str] = []
    lease = taken(store, clock, tell=lines.append)
    store.fail("swap", SILENT)
    lease.release()
    assert lines == ["the lease was not given back, the next one has to wait 90 s for it: memory: no answer"]


def test_what_went_wrong_within_is_raised_and_the_lease_is_given_back(store: Memory, clock: Clock) -> None:
    with pytest.raises(KeyError), taken(store, clock):
        raise KeyError
    assert told(store)["holder"] is None


@pytest.mark.parametrize("operation", ["create", "check", "making", "release", "take over"])
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_an_answer_that_was_lost_does_not_lose_the_lease(
    store: Memory, clock: Clock, operation: str, done: bool
) -> None:
    if operation == "take over":
        taken(store, clock).release()
    number = 2 if operation == "take over" else 1
    if operation in ("create", "take over"):
        store.fail("create" if number == 1 else "swap", SILENT, after=done)
        lease = taken(store, clock)
    else:
        lease = taken(store, clock)
        store.fail("swap", SILENT, after=done)
        act = {"check": lease.check, "making": lambda: lease.making("b-1"), "release": lease.release}[operation]
        with contextlib.suppress(StoreError):
            act()
    assert lease.number == number == told(store)["number"]
    if operation == "release":
        assert (told(store)["holder"] is None) == done
        return
    lease.making("b-1")
    lease.check()
    assert told(store)["backup"] == "b-1"


def test_a_store_that_never_answers_is_given_up() -> None:
    clock, store = Clock(), Memory()
    store.fail("create", SILENT, times=99)
    with pytest.raises(StoreError, match="no answer"):
        taken(store, clock)
    store.fail("get", StoreError("memory", "no permission"))
    with pytest.raises(StoreError, match="no permission"):
        taken(store, clock)


# --- what earlier holders were making


def test_what_a_dead_holder_was_making_is_told_until_it_is_settled(store: Memory, clock: Clock) -> None:
    taken(store, clock).making("b-1")
    clock.now += 100
    second = taken(store, clock)
    assert second.open == ("b-1",)
    second.making("b-2")  # and dies too, before it has settled anything
    clock.now += 100
    third = taken(store, clock)
    assert list(third.open) == ["b-1", "b-2"]
    third.settle("b-1")
    assert list(third.open) == ["b-2"]
    third.making("b-3")
    third.settle("b-3")
    third.release()
    fourth = taken(store, clock)
    assert fourth.open == ("b-2",)
    fourth.settle("b-2")
    fourth.release()
    assert list(taken(store, clock).open) == []


def test_what_was_neither_committed_nor_buried_stays_open_when_the_lease_is_given_back(
    store: Memory, clock: Clock
) -> None:
    lease = taken(store, clock)
    lease.making("b-1")
    lease.release()
    assert taken(store, clock).open == ("b-1",)


def test_one_backup_is_settled_before_the_next_one_is_begun(store: Memory, clock: Clock) -> None:
    lease = taken(store, clock)
    lease.making("b-1")
    lease.making("b-1")
    with pytest.raises(ValueError, match="b-1 is not settled"):
        lease.making("b-2")
    lease.settle("b-1")
    lease.making("b-2")
    lease.release()
    assert taken(store, clock).open == ("b-2",)


# --- what is there is no lease


GOOD: dict[str, Any] = {
    "format": 1,
    "number": 7,
    "writes": 3,
    "holder": None,
    "what": "",
    "backup": "",
    "open": ["b-1"],
    "since": 1.0,
    "at": 2,
    "every": 5.0,
    "length": 20.0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"number": "7"},
        {"number": -1},
        {"number": True},
        {"number": 7.5},
        {"holder": "me"},
        {"holder": {"name": "me"}},
        {"open": "b-1"},
        {"open": [1]},
        {"at": "now"},
        {"at": float("nan")},
        {"since": float("inf")},
        {"length": 1e9},
        {"every": 0},
        {"every": 21},
        {"what": None},
    ],
    ids=repr,
)
def test_an_object_that_says_something_else_is_refused_with_what_to_do(clock: Clock, change: dict[str, Any]) -> None:
    store = Memory()
    store.create(KEY, json.dumps({**GOOD, **change}).encode())
    before = store.contents()
    with pytest.raises(UserError, match=r"memory: lease.json is not a lease, .*\(see that nobody is at work"):
        taken(store, clock)
    assert store.contents() == before


def test_an_object_of_this_format_is_understood_also_with_more_in_it(clock: Clock) -> None:
    store = Memory()
    store.create(KEY, json.dumps({**GOOD, "later": 1}).encode())
    lease = taken(store, clock)
    assert (lease.number, lease.open) == (8, ("b-1",))


# --- all orders in which things can happen


def play(world: World, choices: Iterator[int]) -> None:
    """Let the actors that are not at their end go on in the order that is chosen, then finish."""
    for choice in choices:
        going = world.going()
        if not going:
            break
        going[choice % len(going)].step()
    world.finish()


def every_order(make: Callable[..., World], count: int, depth: int, **more: bool) -> int:
    """Play all orders of the first steps of some actors; return how many that are."""
    plays = 0
    for order in itertools.product(range(count), repeat=depth):
        world = make(**more)
        for _ in range(count):
            world.actor()
        play(world, iter(order))
        plays += 1
    return plays


def at_random(make: Callable[..., World], seed: int, **more: bool) -> None:
    """Play a long random order of up to four actors, with operations and answers that are lost or late."""
    dice, world = random.Random(seed), make(**more)  # noqa: S311
    for _ in range(dice.randint(2, 4)):
        world.actor()
    faults = dice.choice([0.0, 0.1, 0.3])
    for _ in range(dice.randint(5, 60)):
        if world.later and dice.random() < 0.2:
            world.arrive(dice.randrange(len(world.later)))
            assert len(world.committed()) <= 1
        elif going := world.going():
            favoured = going[0] if dice.random() < 0.3 else dice.choice(going)
            for _ in range(dice.choice([1, 1, 1, 4, 9])):
                favoured.step(dice.choice(FAULTS) if dice.random() < faults else FAULTS[0])
    world.finish()


def test_in_every_order_of_the_first_steps_one_slot_gets_one_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    with actors.clocks(monkeypatch) as make:
        assert every_order(make, 2, 7) == 128


def test_whatever_is_killed_lost_or_late_one_slot_gets_one_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    with actors.clocks(monkeypatch) as make:
        for seed in range(60):
            at_random(make, seed)


def test_wherever_one_stops_for_ever_or_for_a_while_the_next_one_makes_the_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with actors.clocks(monkeypatch) as make:
        for steps in range(14):
            for fate in FAULTS:
                world = make()
                actor = world.actor()
                for _ in range(steps):
                    actor.step()
                actor.step(fate)
                world.finish()


def test_without_the_tombstones_the_same_orders_find_two_backups_of_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which shows that the orders above can fail, and what the tombstones are for."""
    with actors.clocks(monkeypatch) as make, pytest.raises(AssertionError, match="two backups of one slot"):
        every_order(make, 2, 7, fenced=False)


@pytest.mark.slow
def test_in_every_order_of_more_steps_and_actors_one_slot_gets_one_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    with actors.clocks(monkeypatch) as make:
        assert every_order(make, 2, 11 if FULL else 9) == (2048 if FULL else 512)
        assert every_order(make, 3, 7 if FULL else 6) == (2187 if FULL else 729)
        for seed in range(1000, 1000 + sampled(2000)):
            at_random(make, seed)


# --- for real: threads and processes, with the time as it goes


def made(contents: dict[str, bytes]) -> list[str]:
    """Return the slots of the manifests that are there, which are no tombstones."""
    return sorted(content.decode() for content in contents.values() if content.startswith(b"slot "))


def test_many_threads_with_pauses_beyond_the_lease_make_one_backup_of_each_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actors, "EVERY", 0.01)
    monkeypatch.setattr(actors, "LENGTH", 0.05)
    store, racers = Memory(), [Racer(number, 0.5) for number in range(6)]
    threads = [threading.Thread(target=racer.race, args=(store, 8)) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made(store.contents()) == sorted(f"slot {slot}" for slot in range(8))
    for racer in racers:
        assert racer.numbers == sorted(set(racer.numbers))
    given = [number for racer in racers for number in racer.numbers]
    assert len(set(given)) == len(given) <= told(store)["number"]


class Crowd:
    """Processes that race on a store; in the end none of them is left."""

    def __init__(self, store: Folder, slots: int) -> None:
        self._store = store
        self._slots = slots
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more; it has begun."""
        environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
        command = [sys.executable, actors.__file__, self._store.place, str(len(self.all)), str(self._slots)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ)
        self.all.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.all:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_processes_that_are_stopped_and_killed_at_any_point_make_one_backup_of_each_slot(tmp_path: Path) -> None:
    store, slots, dice = Folder("f", tmp_path / "store"), 20, random.Random(7)  # noqa: S311
    store.probe()
    with Crowd(store, slots) as crowd:
        running, stopped = [crowd.start() for _ in range(3)], list[subprocess.Popen[bytes]]()
        for turn in range(12):
            place = dice.randrange(len(running))
            victim = running[place]
            with contextlib.suppress(subprocess.TimeoutExpired):
                victim.wait(dice.uniform(0.0, 1.0))  # so long it is left alone
            running[place] = crowd.start()
            if turn % 2:
                victim.kill()
            elif victim.poll() is None:
                victim.send_signal(signal.SIGSTOP)
                stopped.append(victim)
            if len(stopped) > 2:  # one comes back, long after
                running.append(stopped.pop(0))
                running[-1].send_signal(signal.SIGCONT)
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        for process in [*running, *stopped]:
            assert process.wait(240) == 0
    contents = {entry.key: store.get(entry.key)[0] for entry in store.list("backups/")}
    assert made(contents) == sorted(f"slot {slot}" for slot in range(slots))

"""Several machines on one lease, in one process, a step at a time: which of them goes next is the test's choice.

Each actor is a thread that runs the real code against one real store, and stands still ahead of every operation on
it until it is told to go on. Each has a clock of its own, which runs only while it waits, and then as far as the other
one's lease is long: so a lease is taken over as early as it can ever be, from holders that live just as well. One that
is never told to go on again was killed, or stopped. An operation can also be lost, or its answer, or it can be done
later, when the one who asked for it has long given up.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from i12e import lease as module
from i12e.folders import Folder
from i12e.lease import Lease, Lost, take
from i12e.stores import Exists, StoreError
from memorystore import Memory

EVERY, LENGTH = 1.0, 3.0
SLOT = "slot"
TOMBSTONE = b"tombstone"
NEVER = StoreError("memory", "no answer", passing=True)
FAULTS = ("done", "lost answer", "not done", "done later")


@dataclass
class World:
    """The store, who acts on it, what is under way to it, and the numbers that were given."""

    fenced: bool = True  # whether they bury what earlier ones were making
    store: Memory = field(default_factory=lambda: Memory(clock=lambda: 0.0))
    actors: list[Actor] = field(default_factory=list)
    later: list[Callable[[], object]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    clocks: dict[int, Actor] = field(default_factory=dict)

    def actor(self) -> Actor:
        """Return one more actor, which waits for its first step."""
        actor = Actor(self, len(self.actors))
        self.actors.append(actor)
        return actor

    def committed(self) -> list[str]:
        """Return the manifests that are there, which are no tombstones."""
        return [key for key, content in self.store.contents().items() if content == SLOT.encode()]

    def going(self) -> list[Actor]:
        """Return those that are not at their end."""
        return [actor for actor in self.actors if not actor.ended]

    def arrive(self, which: int) -> None:
        """Let what was under way to the store arrive."""
        with contextlib.suppress(StoreError):
            self.later.pop(which)()

    def finish(self) -> None:
        """Let a further actor go to its end alone; then all that was under way arrives, and the others go on."""
        self.actor().run()
        assert len(self.committed()) == 1, "not one backup of the slot, though one actor ran undisturbed"
        while self.later:
            self.arrive(0)
        for actor in self.actors:
            actor.run()
        assert len(self.committed()) == 1, "not one backup of the slot in the end"
        assert len(set(self.numbers)) == len(self.numbers), "a number was given twice"


class Maker(Protocol):
    """Who makes a backup; the hooks are called where it is interesting to be slow."""

    number: int
    renews: bool

    @property
    def fenced(self) -> bool: ...
    def pause(self, seconds: float) -> None: ...
    def begun(self, lease: Lease) -> None: ...
    def checked(self, lease: Lease) -> None: ...


class Actor:
    """One machine that makes the backup of the slot, unless there is one."""

    renews = False

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.ended = False
        self.clock = 0.0
        self.failure: BaseException | None = None
        self._world = world
        self._fate = FAULTS[0]
        self._go, self._stands = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stands.acquire()
        self._thread = threading.Thread(target=self._act, daemon=True)
        self._thread.start()
        self._stands.acquire()

    def step(self, fate: str = FAULTS[0]) -> None:
        """Let the operation that it stands before have its fate, and the actor go on to the next one."""
        if self.ended:
            return
        self._fate = fate
        self._go.release()
        self._stands.acquire()
        if self.failure:
            raise self.failure
        assert len(self._world.committed()) <= 1, "two backups of one slot"

    def run(self) -> None:
        """Let it go to its end."""
        for _ in range(200):
            if self.ended:
                return
            self.step()
        raise AssertionError("it never comes to its end")

    def _act(self) -> None:
        self._world.clocks[threading.get_ident()] = self
        try:
            self._wait()
            with contextlib.suppress(Lost, StoreError):
                backup_once(_Stepped(self._world.store, self), self)
        except BaseException as error:  # noqa: BLE001  # raised in the thread of the test
            self.failure = error
        finally:
            del self._world.clocks[threading.get_ident()]
            self.ended = True
            self._stands.release()

    def _wait(self) -> None:
        self._stands.release()
        self._go.acquire()

    def operate(self, action: Callable[[], Any]) -> Any:
        """Do an operation on the store when it is our turn, with its fate."""
        if self._fate == "not done":
            self._wait()
            raise NEVER
        if self._fate == "done later":
            self._world.later.append(action)
            self._wait()
            raise NEVER
        lost = self._fate == "lost answer"
        try:
            return action()
        finally:
            self._wait()
            if lost:
                raise NEVER

    def pause(self, seconds: float) -> None:
        """Wait for longer than asked, as far as one's own clock goes."""
        self.clock += max(seconds, LENGTH)

    def begun(self, lease: Lease) -> None:
        """Note the number of a lease that was taken."""
        self._world.numbers.append(lease.number)

    @property
    def fenced(self) -> bool:
        """Whether it keeps what earlier ones were making from being committed."""
        return self._world.fenced

    def checked(self, lease: Lease) -> None:
        """Go on: where an actor may be stopped is ahead of every operation."""


class _Stepped:
    """The store as an actor sees it."""

    shares = True

    def __init__(self, store: Memory, actor: Actor) -> None:
        self._store = store
        self._actor = actor
        self.name = self.place = store.name

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name == "now":  # which changes nothing, so that nobody can come in between
            return method
        return lambda *args: self._actor.operate(lambda: method(*args))


def manifest(backup: str) -> str:
    """Return where the manifest of a backup is."""
    return f"backups/{backup}/manifest"


def backup_once(store: Any, actor: Maker, slot: str = SLOT) -> None:
    """Make the backup of a slot as the protocol of lease.py says, unless there is one."""
    with take(
        store,
        "backup",
        wait=float("inf"),
        every=EVERY,
        length=LENGTH,
        pause=actor.pause,
        thread=actor.renews,
    ) as lease:
        actor.begun(lease)
        if actor.fenced:
            for earlier in lease.open:
                with contextlib.suppress(Exists):
                    store.create(manifest(earlier), TOMBSTONE)
                lease.settle(earlier)
        there = [store.get(entry.key)[0] for entry in store.list("backups/")]
        if slot.encode() in there:
            return
        backup = f"{lease.number}-{actor.number}"
        lease.making(backup)
        lease.check()
        actor.checked(lease)
        with contextlib.suppress(Exists):
            store.create(manifest(backup), slot.encode())
        lease.settle(backup)


@contextlib.contextmanager
def clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Let every actor have a clock of its own meanwhile; yield how worlds are made."""
    owners: dict[int, Actor] = {}

    def clock() -> float:
        return owners[threading.get_ident()].clock

    with monkeypatch.context() as patch:
        patch.setattr(module, "_clock", clock)
        patch.setattr(module, "_boot", lambda: "")  # they are many machines
        yield lambda **more: World(clocks=owners, **more)


class Racer:
    """One of many that make the backups of slots at the same time, and dawdle beyond the lease's length."""

    renews = fenced = True

    def __init__(self, number: int, pauses: float) -> None:
        self.number = number
        self.numbers: list[int] = []
        self._dice = random.Random(number)  # noqa: S311
        self._pauses = pauses

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds * self._dice.random())

    def begun(self, lease: Lease) -> None:
        """Note the number, and dawdle."""
        self.numbers.append(lease.number)
        self._dawdle(lease)

    def checked(self, lease: Lease) -> None:
        """Dawdle where it is worst: the lease was ours a moment ago."""
        self._dawdle(lease)

    def _dawdle(self, lease: Lease) -> None:
        if self._dice.random() < self._pauses:
            with lease._mutex:  # its thread does not renew it meanwhile: as if the process was stopped
                time.sleep(LENGTH * 3 * self._dice.random())

    def race(self, store: Any, slots: int) -> None:
        """Given a store and how many slots there are, see that each has its backup."""
        for slot in range(slots):
            made = False
            while not made:
                try:
                    backup_once(store, self, f"slot {slot}")
                    made = True
                except Lost:
                    pass
                except StoreError as error:
                    if not error.passing:  # a folder's lock, say, which one that is stopped holds
                        raise


def main(root: str, number: str, slots: str) -> None:
    """Race in a process of its own, with pauses only as far as somebody stops it."""
    racer = Racer(int(number), 0.0)
    print("begun", flush=True)
    racer.race(Folder("f", root), int(slots))


if __name__ == "__main__":
    EVERY, LENGTH = 0.25, 1.5
    main(*sys.argv[1:])

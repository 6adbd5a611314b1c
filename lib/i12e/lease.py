"""One at a time on a store: a lease by compare-and-swap, with a number that only grows.

The lease is one small object. It is taken by create or by swap, which a store that shares grants to one of many.
Nothing is decided by comparing clocks of two machines: whoever wants a lease that another one has watches, by its own
clock, whether the object changes, and takes over only what did not for as long as its holder promised to renew it.
So a clock that jumps, there or here, neither takes a lease from a living holder nor keeps a dead one in it. A holder
that is a dead process of this very machine is not waited for.

A lease alone keeps nobody from acting on: a holder may be stopped for an hour right after it was told that all is
well. What closes that gap is in the store too, and this is the whole protocol:

1. `take` it.
2. For each of `open`, what earlier holders were making when they were last seen: create() a tombstone in the place of
   its manifest. Either that succeeds, and the earlier holder's create() of the manifest fails for ever; or there is a
   manifest, and the earlier holder was done. `settle` it then. Only now look at what the store has, and decide.
3. `making(backup)`, before anything of it is written: the object names it.
4. `check` right before the own manifest is committed by create(). If that finds a tombstone, somebody took over.
5. `settle` the own backup once its manifest is there, or a tombstone; then `release`. What is not settled stays in
   `open` for whoever comes next: also when nobody knows whether a commit was done, as its answer was lost.

The number is the fence and the order of backups: each take has the next one, and none is given twice, as long as the
object is there; `above` covers the case that somebody deleted it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from i12e.errors import Problem, UserError
from i12e.lock import duration, operator
from i12e.stores import Changed, Exists, Missing, Store, StoreError

KEY = "lease.json"
FORMAT = 1
EVERY, LENGTH = 15.0, 90.0  # seconds
_LONGEST = 86400.0  # seconds; what says more than this is no lease of ours
_TRIES = 4
_NEWS = 10.0  # seconds between two lines about the same wait
# A machine that slept, or a process that was stopped, has to count that time: this clock goes on meanwhile.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Busy(UserError):
    """Another one has the lease, and lives. `who` it is, `since` when (seconds since 1970, the store's clock)."""

    def __init__(self, place: str, state: _State, now: float) -> None:
        self.who = state.holder.name if state.holder else "nobody"
        self.since = state.since
        remedy = "--wait TIME waits for it; one that died is followed by itself"
        super().__init__(Problem("", None, None, f"{place}: {_described(state, now)}", remedy))


class Lost(Exception):
    """The lease is another one's, or may be: whatever was to be committed under it must not be."""

    def __init__(self, place: str, why: str) -> None:
        self.place = place
        self.why = why
        super().__init__(f"{place}: {why}")

    def problem(self) -> Problem:
        """Return it as a person is told it."""
        return Problem("", None, None, f"{self.place}: {self.why}", "nothing was committed: try again")


@dataclass(frozen=True)
class Holder:
    """Who has a lease: which process, for people and for those on the same machine.

    `boot` is the machine's boot id and its namespace of process ids, `pid` and `start` the process in it ("" and 0
    where the system does not tell); `uuid` is another one for each lease that is taken.
    """

    name: str
    uuid: str
    boot: str
    pid: int
    start: int


@dataclass(frozen=True)
class _State:
    """The object. Its content is never the same twice: (number, writes) differs, and a version may be made of it."""

    number: int
    writes: int
    holder: Holder | None
    what: str
    backup: str
    open: tuple[str, ...]
    since: float
    at: float
    every: float
    length: float


class Lease:
    """A lease that is held, and renewed by a thread until release() or the end of the process."""

    def __init__(self, store: Store, key: str, state: _State, version: str, asked: float, tell: _Tell) -> None:
        self.number = state.number
        self._store = store
        self._key = key
        self._state = state
        self._version = version
        self._renewed = asked
        self._tell = tell
        self._over: str = ""
        self._settled: set[str] = set()
        self._mutex = threading.RLock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    @property
    def open(self) -> tuple[str, ...]:
        """The backups that earlier holders may still commit, as they were stopped while making them; see `settle`."""
        return tuple(one for one in self._state.open if one not in self._settled)

    @property
    def lost(self) -> bool:
        """Whether it is another one's, or may soon be: nothing was heard of the store for two thirds of its length."""
        late = _clock() - self._renewed
        if not self._over and late > self._state.length * 2 / 3:
            self._over = f"it could not be renewed for {duration(late)}"
        return bool(self._over)

    def making(self, backup: str) -> None:
        """Given the id of the backup that is begun now, put it into the lease: before anything of it is written.

        Raise Lost, or StoreError if the store does not answer.
        """
        with self._alone():
            earlier = self._state.backup
            if earlier and earlier != backup and earlier not in self._settled:
                raise ValueError(f"{earlier} is not settled")
            self._ours()
            self._write(replace(self._state, backup=backup))

    def settle(self, *backups: str) -> None:
        """Given the ids of backups that are committed, or can never be, let the next holder not care about them."""
        with self._mutex:
            self._settled.update(backups)

    def check(self) -> None:
        """Return if the lease is ours, by the store's word now; raise Lost if not, StoreError if it does not answer.

        It is renewed by that, so that there is time left for what comes next.
        """
        with self._alone():
            self._ours()
            self._write(self._state)

    def release(self) -> None:
        """Give it back, if it is ours. A store that does not answer is told of, and the lease then ends by itself."""
        self._end.set()
        try:
            with self._alone():
                backup = self._state.backup
                left = (*self._state.open, *([backup] if backup else []))  # _write drops what is settled
                self._write(replace(self._state, holder=None, what="", backup="", open=left))
        except Lost:
            pass  # nothing to give back
        except StoreError as error:
            wait = duration(self._state.length)
            self._tell(f"the lease was not given back, the next one has to wait {wait} for it: {error}")
        self._over = self._over or "it was given back"
        if self._thread.is_alive():
            self._thread.join(1.0)  # it may be waiting for a store that does not answer; it does no harm any more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _keep_renewing(self) -> None:
        while not self._end.wait(self._state.every) and not self.lost:
            with contextlib.suppress(Lost, StoreError):  # told by `lost`, and by check()
                self.check()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Until the block ends, be the only one who writes; raise Lost if another waits too long for the store."""
        if not self._mutex.acquire(timeout=self._state.length):
            self._over = self._over or "the store does not answer"
            raise self._gone()
        try:
            yield
        finally:
            self._mutex.release()

    def _ours(self) -> None:
        if self.lost:
            raise self._gone()

    def _gone(self) -> Lost:
        return Lost(self._store.place, f"the lease {self.number} was lost: {self._over}")

    def _write(self, state: _State) -> None:
        """Put a state of ours in the place of ours; raise Lost if there is none any more."""
        asked, writes = _clock(), self._state.writes
        left = tuple(dict.fromkeys(one for one in state.open if one not in self._settled))
        for _ in range(_TRIES):
            writes += 1
            state = replace(state, writes=writes, open=left, at=self._store.now())
            try:
                self._version = self._store.swap(self._key, _encoded(state), self._version)
            except Changed:
                writes = self._look()  # the answer to an earlier write may have been lost: then it is ours all the same
            else:
                self._state, self._renewed = state, asked
                return
        raise StoreError(self._store.name, f"{self._key} changes all the time", passing=True)

    def _look(self) -> int:
        """Learn the version of what is there; return how many writes it has. Raise Lost if it is not ours."""
        try:
            found, version = _read(self._store, self._key)
        except Missing:
            self._over = "somebody removed it"
        except UserError:
            self._over = "somebody put something else there"
        else:
            if (found.number, found.holder) == (self.number, self._state.holder):
                self._version = version
                return found.writes
            self._over = _described(found, found.at)
        raise self._gone()


_Tell = Callable[[str], None]


def take(
    store: Store,
    what: str,
    *,
    key: str = KEY,
    wait: float = 0.0,
    tell: _Tell = lambda line: None,
    above: int = 0,
    every: float = EVERY,
    length: float = LENGTH,
    pause: Callable[[float], None] = time.sleep,
    thread: bool = True,
) -> Lease:
    """Given a store and what is to be done (for people: "backup"), return the lease on it.

    `key`: the object's; `wait`: seconds for which a living holder is waited for; `tell` is given what is waited for;
    `above`: the number is larger than this one; `every`, `length`: seconds between two renewals, and without one
    after which the lease may be taken over (at least three times `every`).

    A holder of which nobody knows whether it lives is watched, also without `wait`, for as long as its own lease is
    long; then it is taken from it, or Busy is raised. Raise Busy if the holder lives and the time is over, UserError
    if the object is none of ours, StoreError if the store does not answer.
    """
    if not 0 < 3 * every <= length <= _LONGEST:
        raise ValueError(f"a lease of {length} s that is renewed every {every} s")
    watch = _Watch(store, key, wait, tell, pause)
    me = this_process()
    asked = _clock()
    while True:
        now = store.now()
        try:
            found, version = _read(store, key)
        except Missing:
            found, version = None, ""
        if found and found.holder == me:  # the answer to our own create or swap was lost
            return _begun(Lease(store, key, found, version, asked, tell), thread)
        if found and found.holder and not watch.over(found, found.holder, version, now):
            continue
        state = _State(
            number=max(found.number if found else 0, above) + 1,
            writes=1,
            holder=me,
            what=what,
            backup="",
            open=_left(found) if found else (),
            since=now,
            at=now,
            every=every,
            length=length,
        )
        if not watch.failures:  # else an earlier try may be what is there
            asked = _clock()
        content = _encoded(state)
        try:
            version = store.swap(key, content, version) if found else store.create(key, content)
        except (Changed, Exists):
            continue  # somebody was faster, or it was ourselves
        except StoreError as error:
            watch.failed(error)
            continue
        return _begun(Lease(store, key, state, version, asked, tell), thread)


def held_by(store: Store, key: str = KEY) -> str | None:
    """Given a store, return in one line who has its lease, by what the object says, or None. Raise as take does."""
    try:
        found, _ = _read(store, key)
    except Missing:
        return None
    return _described(found, store.now()) if found.holder else None


class _Watch:
    """How long one version of the object was seen, by our own clock, and how long we wait at all."""

    def __init__(self, store: Store, key: str, wait: float, tell: _Tell, pause: Callable[[float], None]) -> None:
        self._place = store.place
        self._tell = tell
        self._pause = pause
        self._began = self._first_seen = _clock()
        self._wait = wait
        self._version = ""
        self._lives = False
        self._told = -math.inf
        self.failures = 0

    def over(self, found: _State, by: Holder, version: str, now: float) -> bool:
        """Given what is there and the store's time, tell whether its holder is dead; else wait a little.

        Raise Busy if it lives, or seems to, and the time is over.
        """
        clock = _clock()
        if version != self._version:
            self._lives = bool(self._version)  # it changed while we looked
            self._version, self._first_seen = version, clock
        if _dead(by):
            self._tell(f"{self._place}: {by.name} ended without giving the lease back: it is taken over")
            return True
        seen = clock - self._first_seen
        if seen >= found.length:
            self._tell(f"{self._place}: nothing was heard of {by.name} for {duration(seen)}: taken over")
            return True
        # By the store's clock it was just renewed. Should that clock have jumped, this is wrong, and harmless: to be
        # told that somebody is busy, or to watch for a while, are both no decision about who has the lease.
        fresh = 0 <= now - found.at <= 2 * found.every
        if clock - self._began >= self._wait and (self._lives or (fresh and seen == 0)):
            raise Busy(self._place, found, now)
        if clock - self._told >= _NEWS:
            self._tell(f"{self._place}: {_described(found, now)}: waiting for it")
            self._told = clock
        self._pause(min(found.every / 2, 2.0, max(found.length - seen, 0.01)))
        return False

    def failed(self, error: StoreError) -> None:
        """Given an error of which nobody knows whether the lease is ours now, look again, a few times."""
        self.failures += 1
        if not error.passing or self.failures > 3:
            raise error
        self._pause(0.5 * self.failures)


def this_process() -> Holder:
    """Return this process as the holder of a lease; each call gives another one."""
    pid = os.getpid()
    start = _start(pid)
    return Holder(f"{operator()} (pid {pid})", str(uuid.uuid4()), _boot(), pid, start or 0)


def _dead(holder: Holder) -> bool:
    """Tell whether a holder is surely a process of this very machine that ended."""
    if not holder.boot or holder.boot != _boot() or not holder.start or holder.pid <= 0:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's: it is there
    start = _start(holder.pid)
    return start is not None and start != holder.start  # None: we may not look; 0: it ended and nobody asked how


def _start(pid: int) -> int | None:
    """Return when a process began, in ticks since the boot; 0 if it has ended, None if that cannot be told."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = said.rpartition(")")[2].split()  # the name before may have anything in it; see proc_pid_stat(5)
    return 0 if fields[0] in "ZX" else int(fields[19])


def _boot() -> str:
    """Return what this boot of this machine alone has, and its namespace of process ids; "" if that cannot be told."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _clock() -> float:
    return time.clock_gettime(_CLOCK)


def _begun(lease: Lease, thread: bool) -> Lease:
    if thread:
        lease._thread.start()  # noqa: SLF001  # of this module
    return lease


def _left(state: _State) -> tuple[str, ...]:
    """Given the object of an earlier holder, return the backups that may still be committed."""
    held = [*state.open, *([state.backup] if state.backup else [])]
    return tuple(dict.fromkeys(held))


def _described(state: _State, now: float) -> str:
    if not state.holder:
        return f"nobody has it, after {state.number}"
    doing = f"{state.what or 'work'} {state.backup}".rstrip()
    began, heard = duration(now - state.since), duration(now - state.at)
    return f"{state.holder.name} is at work there ({doing}), for {began}, last heard of {heard} ago"


def _read(store: Store, key: str) -> tuple[_State, str]:
    """Return what is there and its version; raise Missing, or UserError if it is no lease."""
    content, version = store.get(key)
    try:
        return _decoded(json.loads(content)), version
    except (ValueError, KeyError, TypeError, RecursionError):
        said = f"{store.place}: {key} is not a lease, or one of a later i12e"
        remedy = "see that nobody is at work on this store, then remove it"
        raise UserError(Problem("", None, None, said, remedy)) from None


def _encoded(state: _State) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(state)}, indent=1).encode() + b"\n"


def _decoded(told: Mapping[str, Any]) -> _State:
    """Raise KeyError, TypeError or ValueError if it is no lease of ours."""
    if told["format"] != FORMAT:
        raise ValueError("format")
    whole: dict[str, Any] = {name: _typed(told[name], int) for name in ("number", "writes")}
    texts: dict[str, Any] = {name: _typed(told[name], str) for name in ("what", "backup")}
    times: dict[str, Any] = {name: float(_typed(told[name], int, float)) for name in ("since", "at", "every", "length")}
    if whole["number"] < 0 or not all(map(math.isfinite, times.values())):
        raise ValueError("number")
    if not 0 < times["every"] <= times["length"] <= _LONGEST:
        raise ValueError("length")
    by = None if told["holder"] is None else _holder(told["holder"])
    left = tuple(_typed(one, str) for one in _typed(told["open"], list))
    return _State(holder=by, open=left, **whole, **texts, **times)


def _holder(told: Mapping[str, Any]) -> Holder:
    texts = {name: _typed(told[name], str) for name in ("name", "uuid", "boot")}
    whole = {name: _typed(told[name], int) for name in ("pid", "start")}
    return Holder(**texts, **whole)


def _typed(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(type(value).__name__)
    return value

"""A store in this process, for tests: what the suite wants of every store, and faults to order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from i12e.stores import BLOCK, Changed, Entry, Exists, Keys, Listing, Locked, Missing, checked, small, try_out


@dataclass
class _Object:
    content: bytes
    version: int
    modified: float
    until: float | None = None


@dataclass
class _Fault:
    operation: str
    error: Exception
    after: bool
    times: int


@dataclass
class Memory:
    """A store in this process, for tests: it is lost with that. Compare-and-swap for real, between threads.

    `before` is called with the operation ("put", "create"...) and the key (or prefix, or "") ahead of everything that
    is done, and once more as "commit" when a put has all its chunks; what it raises is raised. `forgets`: from now on
    it says that it took what it is given, and keeps nothing of it.
    """

    name: str = "memory"
    place: str = "memory"
    shares: bool = True
    clock: Callable[[], float] = time.time
    before: Callable[[str, str], None] = lambda operation, key: None
    forgets: bool = False
    _objects: dict[str, _Object] = field(default_factory=dict)
    _uploads: dict[int, tuple[str, float]] = field(default_factory=dict)
    _faults: list[_Fault] = field(default_factory=list)
    _counter: int = 0
    _mutex: threading.RLock = field(default_factory=threading.RLock)

    def fail(self, operation: str, error: Exception, after: bool = False, times: int = 1) -> None:
        """Let the next `times` calls of an operation raise an error; `after` it was done: its answer is lost."""
        self._faults.append(_Fault(operation, error, after, times))

    def tamper(self, key: str, content: bytes | None) -> None:
        """Given a key, let another content be there as if it had always been; None: as if it was never there."""
        with self._mutex:
            if content is None:
                del self._objects[key]
            else:
                self._objects[key].content = content

    def hold(self, key: str, until: float) -> None:
        """Given a key and a time in seconds since 1970, keep the object against everybody until then."""
        self._objects[key].until = until

    def contents(self) -> dict[str, bytes]:
        """Return all that is there, by key."""
        with self._mutex:
            return {key: self._objects[key].content for key in sorted(self._objects)}

    def abandon(self, key: str) -> None:
        """Leave what a put of a key leaves that was killed."""
        with self._mutex:
            self._counter += 1
            self._uploads[self._counter] = (key, self.clock())

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """See Store."""
        checked(self.name, key)
        fault = self._enter("put", key)
        self._vacant(key)
        parts = [bytes(chunk) for chunk in chunks]
        self.before("commit", key)
        with self._mutex:
            self._vacant(key)
            self._keep(key, b"".join(parts))
        self._leave(fault)
        return sum(map(len, parts))

    def read(self, key: str, start: int = 0) -> Iterator[bytes]:
        """See Store."""
        checked(self.name, key)
        fault = self._enter("read", key)
        content = self._found(key).content
        for at in range(start, len(content), BLOCK):
            yield content[at : at + BLOCK]
            self._leave(fault)

    def get(self, key: str) -> tuple[bytes, str]:
        """See Store."""
        checked(self.name, key)
        fault = self._enter("get", key)
        with self._mutex:
            found = self._found(key)
            answer = small(self.name, key, found.content), str(found.version)
        self._leave(fault)
        return answer

    def list(self, prefix: str) -> Listing:
        """See Store."""
        fault = self._enter("list", prefix)
        with self._mutex:
            keys = sorted(key for key in self._objects if key.startswith(prefix))
            found = [Entry(key, len(self._objects[key].content), self._objects[key].modified) for key in keys]
        self._leave(fault)
        return found

    def create(self, key: str, content: bytes) -> str:
        """See Store."""
        checked(self.name, key)
        small(self.name, key, content)
        fault = self._enter("create", key)
        with self._mutex:
            self._vacant(key)
            version = self._keep(key, content)
        self._leave(fault)
        return version

    def swap(self, key: str, content: bytes, version: str) -> str:
        """See Store."""
        checked(self.name, key)
        small(self.name, key, content)
        fault = self._enter("swap", key)
        with self._mutex:
            if key not in self._objects or str(self._objects[key].version) != version:
                raise Changed(self.name, f"{key} is not what it was")
            new = self._keep(key, content)
        self._leave(fault)
        return new

    def delete(self, key: str) -> None:
        """See Store."""
        checked(self.name, key)
        fault = self._enter("delete", key)
        with self._mutex:
            until = self._objects[key].until if key in self._objects else None
            if until is not None and until > self.clock():
                raise Locked(self.name, f"{key} is kept")
            self._objects.pop(key, None)
        self._leave(fault)

    def locked_until(self, key: str) -> float | None:
        """See Store."""
        checked(self.name, key)
        fault = self._enter("locked_until", key)
        until = self._found(key).until
        self._leave(fault)
        return until if until is not None and until > self.clock() else None

    def sweep(self, age: float) -> Keys:
        """See Store."""
        fault = self._enter("sweep", "")
        with self._mutex:
            old = [number for number, (_, begun) in self._uploads.items() if begun < self.clock() - age]
            keys = [self._uploads.pop(number)[0] for number in old]
        self._leave(fault)
        return sorted(keys)

    def now(self) -> float:
        """See Store."""
        fault = self._enter("now", "")
        now = self.clock()
        self._leave(fault)
        return now

    def probe(self) -> None:
        """See Store."""
        held = try_out(self, f"{random.getrandbits(64):016x}")
        self.shares = self.shares and held

    def close(self) -> None:
        """See Store."""

    def _enter(self, operation: str, key: str) -> _Fault | None:
        self.before(operation, key)
        with self._mutex:
            fault = next((fault for fault in self._faults if fault.operation == operation), None)
            if fault is None:
                return None
            fault.times -= 1
            if fault.times <= 0:
                self._faults.remove(fault)
        if not fault.after:
            raise fault.error
        return fault

    def _leave(self, fault: _Fault | None) -> None:
        if fault is not None:
            raise fault.error

    def _vacant(self, key: str) -> None:
        if key in self._objects:
            raise Exists(self.name, f"{key} is there already")

    def _found(self, key: str) -> _Object:
        try:
            return self._objects[key]
        except KeyError:
            raise Missing(self.name, f"{key} is not there") from None

    def _keep(self, key: str, content: bytes) -> str:
        self._counter += 1
        if not self.forgets:
            self._objects[key] = _Object(content, self._counter, self.clock())
        return str(self._counter)

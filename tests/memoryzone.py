"""A zone in this process, for tests: what the suite wants of every zone, and faults to order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from i12e.zones import Addresses, Fence, Records, ZoneError, admitted, fence_name


@dataclass
class _Fault:
    operation: str
    error: ZoneError
    times: int
    after: bool


@dataclass
class _Held:
    addresses: dict[str, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    other: str = ""


class Memory:
    """A zone in memory, for tests: keeps the suite, and fails as it is told."""

    def __init__(self, name: str = "memory", servers: Iterable[str] = ("ns1", "ns2")) -> None:
        self.name = name
        self.place = f"{name} in memory"
        self.atomic = True
        self.before: Callable[[str, str], None] = lambda operation, name: None
        """Called with the operation and the name, between reading and writing, too ("commit")."""
        self._servers = list(servers)
        self._names: dict[str, _Held] = {}
        self._lags: dict[str, tuple[int, dict[str, Records]]] = {}
        self._silent: dict[str, ZoneError] = {}
        self._faults: list[_Fault] = []
        self._mutex = threading.RLock()

    def fail(self, operation: str, error: ZoneError, times: int = 1, after: bool = False) -> None:
        """Given an operation, have it fail so many times, before or after it did what it was asked for."""
        self._faults.append(_Fault(operation, error, times, after))

    def plant(self, name: str, addresses: Mapping[str, int], texts: Iterable[str] = (), other: str = "") -> None:
        """Given addresses with their TTLs, texts at the fence's name, and what else stands there, put it all there."""
        with self._mutex:
            self._names[name] = _Held(dict(addresses), list(texts), other)

    def lag(self, server: str, looks: int) -> None:
        """Given a server, have it say for so many looks what it says now."""
        with self._mutex:
            self._lags[server] = looks, {name: self._found(name) for name in self._names}

    def silence(self, server: str, error: ZoneError | None) -> None:
        """Given a server, have it answer with an error, or as it should again."""
        if error:
            self._silent[server] = error
        else:
            self._silent.pop(server, None)

    def read(self, name: str) -> Records:
        """See Zone."""
        fault = self._enter("read", name)
        found = self._found(name)
        self._leave(fault)
        return found

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """See Zone."""
        fault = self._enter("ensure", name)
        self.before("commit", name)
        with self._mutex:
            admitted(self.name, name, self._found(name), addresses, fence, expected)
            self._names[name] = _Held(dict.fromkeys(addresses, ttl), [fence.text])
        self._leave(fault)

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """See Zone."""
        fault = self._enter("authoritative", name)
        with self._mutex:
            shown = {server: self._silent.get(server) or self._shown(server, name) for server in self._servers}
        self._leave(fault)
        return shown

    def _shown(self, server: str, name: str) -> Records:
        looks, old = self._lags.get(server, (0, {}))
        if not looks:
            return self._found(name)
        self._lags[server] = looks - 1, old
        return old.get(name, Records())

    def permissions(self, name: str) -> str:
        """See Zone."""
        return f"to write {name} and {fence_name(name)}"

    def close(self) -> None:
        """See Zone."""

    def _found(self, name: str) -> Records:
        with self._mutex:
            held = self._names.get(name, _Held())
            return Records.of(held.addresses, held.addresses.values(), held.texts, held.other)

    def _enter(self, operation: str, name: str) -> _Fault | None:
        self.before(operation, name)
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

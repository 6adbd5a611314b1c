"""Ports for servers that have to be told theirs, and begin to listen only later."""

from __future__ import annotations

import contextlib
import random
import socket

_FIRST, _LAST = 20000, 32000  # below those that connections and port 0 get: nobody takes one in the meantime


def free_ports(count: int) -> list[int]:
    """Return as many ports of 127.0.0.1 on which nobody listens now."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(_FIRST, _LAST), _LAST - _FIRST):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")

"""A host's network cable: from its interface to the lab's bridge; pulled out or slow on demand.

This kernel may have no netem: a slow cable is a thread that holds every frame back for a while.
"""

from __future__ import annotations

import collections
import select
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from lab import places
from lab.disk import Failed, run

_SOL_PACKET, _VNET_HEADER, _IGNORE_OUTGOING, _MEMBERSHIP = 263, 15, 23, 1
_ALL = 0x0003
_PROMISCUOUS = 1
_QUEUE = 2000  # frames on the way; a cable that is fuller loses some


class Cable:
    """The network of one host. An interface is there while the host is up, or while its initrd needs one."""

    def __init__(self, host: str) -> None:
        self.end = places.cable(host)
        self.address = places.address(host)
        self.mac = places.mac(host)
        self.pulled = False
        self.delay = 0.0
        self._slow: _Slow | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str], cwd: Path, env: dict[str, str], output: IO[bytes]) -> int:
        """Given a command, run it in a network of its own, where it has the host's address; return its status."""
        inside = (
            'echo ready; read -r go; ip link set lo up; ip link set host0 address "$1"; '
            'ip addr add "$2/24" dev host0; ip link set host0 up; ip route add default via "$3"; shift 3; exec "$@" >&2'
        )
        with subprocess.Popen(
            ["unshare", "--net", "sh", "-ec", inside, "sh", self.mac, self.address, places.GATEWAY, *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
        ) as process:
            self._process = process
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            netns = str(process.pid)
            run("ip", "link", "add", self.end, "type", "veth", "peer", "name", "host0", "netns", netns)
            self.plug()
            process.stdin.write(b"go\n")
            process.stdin.close()
            status = process.wait()
        self._process = None
        self.unplug()
        return status

    def kill(self) -> None:
        """End what `run` runs."""
        process = self._process
        if process is not None:
            process.kill()

    def wait(self, alive: threading.Event) -> bool:
        """Wait until the host's interface is there, and plug it in; return False if `alive` is cleared before."""
        while alive.is_set():
            if _there(self.end):
                self.plug()
                return True
            time.sleep(0.02)
        return False

    def name_card(self, process: int) -> None:
        """Given a process of the guest, give the guest's network card the address that it has always had."""
        with suppress(Failed):  # the guest may have ended
            run("nsenter", "--target", str(process), "--net", "ip", "link", "set", "host0", "address", self.mac)

    def plug(self) -> None:
        """Connect the interface to the bridge as the faults say."""
        with self._lock:
            if not _there(self.end):
                return
            self._end_slow()
            if self.delay:
                self._slow = _Slow(self.end, self.delay)
            else:
                run("ip", "link", "set", self.end, "master", places.BRIDGE)
            run("ip", "link", "set", self.end, "down" if self.pulled else "up")
            if self.pulled:
                self._forget()

    def unplug(self) -> None:
        """The interface goes away."""
        with self._lock:
            self._end_slow()
            with suppress(Failed):  # it goes by itself with the network that it leads into, a moment later
                run("ip", "link", "del", self.end)
            self._forget()

    def _forget(self) -> None:
        """Let the bridge's own network ask anew who has the address: nobody answers within 3 seconds, not within 10."""
        run("ip", "neigh", "flush", "to", self.address, "dev", places.BRIDGE)

    def _end_slow(self) -> None:
        if self._slow is not None:
            self._slow.close()
            self._slow = None


def _there(name: str) -> bool:
    return any(name == there for _, there in socket.if_nameindex())


class _Slow:
    """A piece of cable between an interface and the bridge in which every frame stays for `delay` seconds."""

    def __init__(self, end: str, delay: float) -> None:
        self._near, far = end.replace("vb-", "sn-"), end.replace("vb-", "sf-")
        run("ip", "link", "set", end, "nomaster")
        run("ip", "link", "add", self._near, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", far, "master", places.BRIDGE)
        for name in (far, self._near):
            run("ip", "link", "set", name, "up")
        self._delay = delay
        self._sockets = [_raw(end), _raw(self._near)]
        self._open = True
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def _forward(self) -> None:
        one, other = self._sockets
        waiting: collections.deque[tuple[float, socket.socket, bytes]] = collections.deque()
        while self._open:
            until = waiting[0][0] - time.monotonic() if waiting else 0.2
            ready, _, _ = select.select(self._sockets, [], [], max(0.0, min(until, 0.2)))
            now = time.monotonic()
            for source in ready:
                target = other if source is one else one
                try:
                    frame = source.recv(1 << 17)
                except OSError:  # the interface is down
                    time.sleep(0.01)
                    continue
                if len(waiting) < _QUEUE:
                    waiting.append((now + self._delay, target, frame))
            while waiting and waiting[0][0] <= now:
                _, target, frame = waiting.popleft()
                try:
                    target.send(frame)
                except OSError:  # the interface is down: the frame is lost
                    continue

    def close(self) -> None:
        self._open = False
        self._thread.join()
        for one in self._sockets:
            one.close()
        run("ip", "link", "del", self._near)


def _raw(interface: str) -> socket.socket:
    """Return a socket of all frames of an interface, with the header that says what the kernel left to be done."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
    found.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    found.bind((interface, _ALL))
    index = socket.if_nametoindex(interface)
    membership = index.to_bytes(4, "little") + _PROMISCUOUS.to_bytes(2, "little") + bytes(10)
    found.setsockopt(_SOL_PACKET, _MEMBERSHIP, membership)
    return found

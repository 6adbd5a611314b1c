"""Real name servers for tests, Debian's knot and BIND: a zone that takes signed updates, perhaps with a secondary."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import need

ZONE = "example.com"
KEY, ALGORITHM = "i12e-key", "hmac-sha256"
SECRET = base64.b64encode(b"a secret of the tests' own, 32 B").decode()
WEAK = base64.b64encode(b"one that may write no thing here").decode()
_ADDRESSES = ("127.0.0.1", "127.0.0.2")
_READY = 90.0  # seconds

_ZONE_FILE = """\
$ORIGIN {zone}.
$TTL 300
@ SOA ns1 hostmaster 1 3600 600 86400 60
@ NS ns1
{more}
ns1 A 127.0.0.1
ns2 A 127.0.0.2
"""
_CONFIG = """\
server:
    rundir: "{folder}/run"
    listen: {address}@{port}
    listen: ::1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: "{folder}/db"
    journal-db-mode: asynchronous
key:
  - id: {key}
    algorithm: {algorithm}
    secret: {secret}
  - id: weak-key
    algorithm: {algorithm}
    secret: {weak}
remote:
  - id: other
    address: {other}@{port}
acl:
  - id: update
    key: {key}
    action: update
    update-type: [A, AAAA, TXT, CNAME]
  - id: weak
    key: weak-key
    action: update
    update-owner: name
    update-owner-match: equal
    update-owner-name: [allowed]
  - id: transfer
    address: 127.0.0.0/8
    action: [transfer, notify]
template:
  - id: default
    storage: "{folder}"
    zonefile-sync: -1
    journal-content: all
zone:
  - domain: {zone}
    acl: [update, weak, transfer]
{role}
"""


@dataclass
class Knot:
    """A knot that runs: its folder, address, port and zone."""

    folder: Path
    port: int
    address: str = _ADDRESSES[0]
    secondary: bool = False
    zone: str = ZONE
    enter: tuple[str, ...] = ()
    """What runs a command in the network that it is to be in."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, others: int = 0, change: Callable[[str], str] = str) -> None:
        """Start it and wait until it has the zone; `others` is how many secondaries it tells, `change` its config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("run", "db"):
            (self.folder / name).mkdir(exist_ok=True)
        if self.secondary:
            role = "    master: other\n"
        else:
            role = f'    file: "{self.folder}/zone"\n' + ("    notify: other\n" if others else "")
            (self.folder / "zone").write_text(_ZONE_FILE.format(zone=self.zone, more="@ NS ns2" if others else ""))
        other = _ADDRESSES[0] if self.secondary else _ADDRESSES[1]
        place = {"folder": self.folder, "address": self.address, "port": self.port, "other": other, "role": role}
        keys = {"key": KEY, "algorithm": ALGORITHM, "secret": SECRET, "weak": WEAK, "zone": self.zone}
        config = _CONFIG.format(**place, **keys)
        if self.secondary:
            config = config.replace(f"    listen: ::1@{self.port}\n", "")
        (self.folder / "knot.conf").write_text(change(config))
        program = shutil.which("knotd") or "/usr/sbin/knotd"
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.enter, program, "-c", str(self.folder / "knot.conf")], stdout=log, stderr=log, cwd=self.folder
            )
        self._until(self._is_ready, "does not get ready")

    def _is_ready(self) -> bool:
        if not self.enter:
            return self.serial() is not None
        with contextlib.suppress(AssertionError):
            return "SOA" in self.control("zone-read", self.zone)
        return False

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have it say nothing until the block ends."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.wake()

    def wake(self) -> None:
        """Have it go on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        """Given knotc's arguments, run it and return what it says."""
        program = shutil.which("knotc") or "/usr/sbin/knotc"
        command = [program, "-s", str(self.folder / "run/knot.sock"), "-t", "10", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def plant(self, name: str, addresses: dict[str, int], texts: list[str], alias: str) -> None:
        """Given what is to stand at a name and its fence's, put it there, past everything that checks."""
        self.control("zone-begin", self.zone)
        for address, ttl in addresses.items():
            kind = "AAAA" if ":" in address else "A"
            self.control("zone-set", self.zone, f"{name}.", str(ttl), kind, address)
        for text in texts:
            quoted = '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
            self.control("zone-set", self.zone, f"_i12e.{name}.", "60", "TXT", quoted)
        if alias:
            self.control("zone-set", self.zone, f"{name}.", "60", "CNAME", f"{alias}.")
        self.control("zone-commit", self.zone)

    def serial(self) -> int | None:
        """Return the zone's serial, None while it does not answer."""
        return serial(self.zone, self.address, self.port)

    def _until(self, there: Callable[[], bool], what: str) -> None:
        assert self.process
        until(self.process, self.folder / "log", there, f"knot {what}")


def serial(zone: str, address: str, port: int) -> int | None:
    """Given a zone and where its server is, return the zone's serial, None while that does not answer."""
    query = b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    query += b"".join(bytes([len(part)]) + part.encode() for part in zone.split(".")) + b"\x00\x00\x06\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(0.5)
        try:
            channel.sendto(query, (address, port))
            answer = channel.recv(4096)
        except OSError:
            return None
    if answer[3] & 15 or not answer[7]:
        return None
    return int.from_bytes(answer[-20:-16], "big")


def until(process: subprocess.Popen[bytes], log: Path, there: Callable[[], bool], what: str) -> None:
    """Given a program that runs, its log and a condition, wait for that, or fail the test with `what`."""
    deadline = time.monotonic() + _READY
    while not there():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{what}: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that is free on all addresses that are used here, for UDP and TCP."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind((_ADDRESSES[0], 0))
            port = int(first.getsockname()[1])
            try:
                for address in _ADDRESSES:
                    stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((address, port))
                stack.enter_context(socket.socket()).bind((_ADDRESSES[1], port))
            except OSError:
                continue
            return port


@contextlib.contextmanager
def knot(folder: Path, secondary: bool = False) -> Iterator[list[Knot]]:
    """Given an empty folder, run a knot until the block ends, and perhaps one more that has the zone from the first."""
    need(shutil.which("knotd") or os.access("/usr/sbin/knotd", os.X_OK), "knotd (Debian: apt-get install knot)")
    port = free_port()
    all_ = [Knot(folder / "first", port)]
    if secondary:
        all_.append(Knot(folder / "second", port, _ADDRESSES[1], secondary=True))
    try:
        for each in all_:
            each.start(others=len(all_) - 1)
        yield all_
    finally:
        for each in all_:
            each.stop()


_NAMED = """\
options {{
    directory "{folder}";
    pid-file none;
    session-keyfile none;
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    allow-transfer {{ none; }};
    dnssec-validation no;
}};
controls {{ }};
key "{key}" {{ algorithm {algorithm}; secret "{secret}"; }};
{zone}
"""


@contextlib.contextmanager
def bind(folder: Path, zone: str) -> Iterator[int]:
    """Given an empty folder and a zone of named.conf, without its type and file, run BIND; yield its port."""
    program = shutil.which("named") or "/usr/sbin/named"
    need(os.access(program, os.X_OK), "named (Debian: apt-get install bind9)")
    port = free_port()
    (folder / "zone").write_text(_ZONE_FILE.format(zone=ZONE, more=""))
    text = zone.replace("{\n", '{\n    type primary;\n    file "zone";\n', 1)
    keys = {"key": KEY, "algorithm": ALGORITHM, "secret": SECRET}
    (folder / "named.conf").write_text(_NAMED.format(folder=folder, port=port, zone=text, **keys))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [program, "-f", "-c", str(folder / "named.conf"), "-n", "1", "-L", str(folder / "log")],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        until(process, folder / "log", lambda: serial(ZONE, "127.0.0.1", port) is not None, "BIND does not get ready")
        yield port
    finally:
        process.kill()
        process.wait()


_RESOLVER = """\
options {{
    directory "{folder}";
    pid-file none;
    session-keyfile none;
    listen-on port 53 {{ {address}; }};
    listen-on-v6 {{ none; }};
    recursion yes;
    allow-query {{ any; }};
    allow-recursion {{ any; }};
    dnssec-validation no;
}};
controls {{ }};
zone "{zone}" {{ type static-stub; server-addresses {{ 127.0.0.1; }}; }};
zone "." {{ type primary; file "root"; }};
"""
_NO_ROOT = ". 60 IN SOA . . 1 3600 600 86400 60\n. 60 IN NS .\n"


@contextlib.contextmanager
def resolver(folder: Path, zone: str, address: str, enter: tuple[str, ...]) -> Iterator[None]:
    """Given an empty folder, run BIND as a resolver that caches until the block ends.

    It is at an address of the network that `enter` enters, and asks the server on 127.0.0.1 there for the zone; of all
    other names it says that there are none.
    """
    program = shutil.which("named") or "/usr/sbin/named"
    need(os.access(program, os.X_OK), "named (Debian: apt-get install bind9)")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "root").write_text(_NO_ROOT)
    (folder / "named.conf").write_text(_RESOLVER.format(folder=folder, zone=zone, address=address))
    log = folder / "log"
    with log.open("wb") as out:
        command = [*enter, program, "-f", "-c", str(folder / "named.conf"), "-n", "1", "-L", str(log)]
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
    try:
        until(process, log, lambda: b" running" in log.read_bytes(), "BIND does not get ready")
        yield
    finally:
        process.kill()
        process.wait()

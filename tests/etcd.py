"""A real etcd for tests: filled through its JSON gateway, snapshots taken with its own etcdctl."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import need
from ports import free_ports
from sshd import until

UID = "3f2c1a8e-0d5b-4a6f-9c7e-1b2d3e4f5a6b"
KUBE_SYSTEM = b"/registry/namespaces/kube-system"
BIG = b"/registry/configmaps/default/big"
_AT_ONCE = 100  # operations in a transaction; etcd takes 128


class Etcd:
    """An etcd with an empty data directory, on the loopback."""

    def __init__(self, folder: Path) -> None:
        need(shutil.which("etcd") and shutil.which("etcdctl"), "etcd and etcdctl (Debian: etcd-server, etcd-client)")
        self._folder = folder
        client, peer = free_ports(2)
        self._port = client
        url, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        options = {
            "data-dir": folder / "data",
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "log-level": "error",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(["etcd", *arguments], stdout=self._log, stderr=self._log)
        self._connection = http.client.HTTPConnection("127.0.0.1", client, timeout=60)
        until(self._healthy, f"etcd is ready: {(folder / 'log').read_text()}")

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _healthy(self) -> bool:
        try:
            return b"true" in self._ask("GET", "/health", None)
        except OSError:
            self._connection.close()
            return False

    def _ask(self, method: str, path: str, body: object) -> bytes:
        self._connection.request(method, path, None if body is None else json.dumps(body))
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    def put(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Given keys and values, put them, each in a transaction with others; a key comes once."""
        self._transactions([{"requestPut": {"key": _b64(key), "value": _b64(value)}} for key, value in pairs])

    def delete(self, keys: Sequence[bytes]) -> None:
        """Given keys, delete them."""
        self._transactions([{"requestDeleteRange": {"key": _b64(key)}} for key in keys])

    def _transactions(self, operations: list[dict[str, Any]]) -> None:
        for at in range(0, len(operations), _AT_ONCE):
            self._ask("POST", "/v3/kv/txn", {"success": operations[at : at + _AT_ONCE]})

    def compact(self) -> None:
        """Forget all revisions but the newest."""
        revision = self._ask("POST", "/v3/kv/range", {"key": _b64(b"x")})
        newest = json.loads(revision)["header"]["revision"]
        self._ask("POST", "/v3/kv/compaction", {"revision": newest, "physical": True})

    def control(self, *arguments: str) -> str:
        """Given etcdctl's arguments, run it and return what it printed."""
        environ = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"http://127.0.0.1:{self._port}"}
        return subprocess.run(["etcdctl", *arguments], env=environ, check=True, capture_output=True, text=True).stdout

    def snapshot(self) -> tuple[bytes, dict[str, int]]:
        """Return a snapshot, and what etcdctl says of it."""
        path = self._folder / "snapshot"
        path.unlink(missing_ok=True)
        self.control("snapshot", "save", str(path))
        return path.read_bytes(), json.loads(self.control("snapshot", "status", str(path), "-w", "json"))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Etcd]:
    """Given an empty folder, run an etcd there until the block ends."""
    etcd = Etcd(folder)
    try:
        yield etcd
    finally:
        etcd.close()


@dataclass(frozen=True)
class Taken:
    """A snapshot, what etcdctl says of it, and the live keys and values in it."""

    content: bytes
    status: dict[str, int]
    live: dict[bytes, bytes]


@functools.cache
def snapshots() -> dict[str, Taken]:
    """Return snapshots of one etcd: with its history, compacted, and defragmented; made once in a test run."""
    chance = random.Random(6)  # noqa: S311 - the same data each time, not a secret
    live: dict[bytes, bytes] = {}
    taken: dict[str, Taken] = {}
    folder = Path(tempfile.mkdtemp())
    try:
        with running(folder) as etcd:
            for _ in range(4):
                _change(etcd, live, chance)
            taken["history"] = Taken(*etcd.snapshot(), dict(live))
            etcd.compact()
            _change(etcd, live, chance)
            taken["compacted"] = Taken(*etcd.snapshot(), dict(live))
            etcd.compact()
            etcd.control("defrag")
            taken["defragmented"] = Taken(*etcd.snapshot(), dict(live))
    finally:
        shutil.rmtree(folder)
    return taken


def _change(etcd: Etcd, live: dict[bytes, bytes], chance: random.Random) -> None:
    kinds = (
        "pods/default",
        "services/specs/default",
        "minions",
        "persistentvolumes",
        "k3s.cattle.io/addons/kube-system",
        "secrets/a",
    )
    keys = [f"/registry/{kind}/name-{number}".encode() for kind in kinds for number in range(60)]
    pairs = {key: chance.randbytes(chance.choice((0, 20, 300, 900))) for key in chance.sample(keys, 250)}
    pairs[KUBE_SYSTEM] = json.dumps({"kind": "Namespace", "metadata": {"name": "kube-system", "uid": UID}}).encode()
    pairs[BIG] = chance.randbytes(30_000)  # more than a page
    pairs[b"/bootstrap/0123456789ab"] = chance.randbytes(1000).hex().encode()
    pairs[b"compact_rev_key"] = b"1"
    etcd.put(list(pairs.items()))
    live |= pairs
    gone = chance.sample(sorted(live), 40)
    gone = [key for key in gone if key.startswith(b"/registry/") and key not in (KUBE_SYSTEM, BIG)]
    etcd.delete(gone)
    for key in gone:
        del live[key]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()

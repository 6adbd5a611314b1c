"""An etcd on a snapshot, on this machine alone: whether it takes it, and what it then says is in it.

It listens on two sockets in a folder that nobody else may enter, and on no port: what a cluster has of Secrets is in
it, and whoever asks it needs no password. It is a child of a shell that waits for us: if this process is killed,
however that is done, the shell ends etcd and removes the folder. A shell that is killed too leaves the folder to
the next run.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from i12e import programs, registry
from i12e.lock import duration

Version = tuple[int, ...]

_CLIENT, _PEER = "client:0", "peer:0"  # sockets; etcd wants names with a port
_DATA, _LOG = "data", "log"
_ENDS_WITH_US = """
folder=$1
shift
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
{
    read -r word <&3 || word=gone
    [ "$word" = ended ] || kill -9 "$program" 2>/dev/null
    [ "$word" = gone ] && for each in 1 2 3 4 5; do rm -rf -- "$folder" 2>/dev/null && break; sleep 1; done
} &
exec 3<&-
wait "$program"
"""
_ROOM = 192 << 20  # bytes: two segments of etcd's log, and what else it writes
_QUOTA = 8 << 30  # bytes, etcd's own highest; a snapshot above its default of 2 GB is taken too
_LOOK = 0.05
_NEWS = 10.0  # seconds between two lines that say what is waited for
_LIMIT = 1800.0  # seconds in which a snapshot is restored, and again in which etcd is ready
_ANSWER = 300.0  # seconds in which it answers a question
_PAGE = 5000  # keys that are asked for at once
_MOST_ROWS = 1000  # of /bootstrap/
_OLDEST = (3, 4)  # with the options that are given to it, and its JSON gateway where it is asked
# gRPC's OutOfRange and DataLoss: a revision that etcd has forgotten; a database that it knows to be corrupt
_COMPACTED, _DATA_LOSS = 11, 15
_FROM_OUTSIDE = (128 + 9, 128 + 15)
_ARCHITECTURES = {"aarch64": "arm64", "armv7l": "arm", "i686": "386"}  # etcd 3.4 wants to be told of them


class Refused(Exception):
    """etcd, or its tool, does not take the snapshot; `why` is what it says."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Unable(Exception):
    """This machine cannot do it now, which says nothing of the snapshot."""

    def __init__(self, why: str, remedy: str = "") -> None:
        self.why = why
        self.remedy = remedy
        super().__init__(why)


class NotInstalled(Exception):
    """There is no etcd here that could be started; `why` says what is missing."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


@dataclass(frozen=True)
class Programs:
    """The etcd that is installed here."""

    server: str
    restorer: str
    """What makes a data directory of a snapshot: etcdutl, or an etcdctl that still does."""
    version: Version

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"etcd {shown(self.version)}"


def shown(version: Version) -> str:
    """Given a version, return it as it is written."""
    return ".".join(map(str, version))


def installed() -> Programs:
    """Return the etcd that is on PATH; raise NotInstalled."""
    server = programs.which("etcd")
    if server is None:
        raise NotInstalled("no etcd is installed here")
    version = programs.version(server, "--version", environ=_environ())
    if not any(version):
        raise NotInstalled("the etcd that is installed here does not run")
    if version < _OLDEST:
        raise NotInstalled(f"etcd {shown(version)} is installed here, and {shown(_OLDEST)} is the oldest that will do")
    restorer = programs.which("etcdutl")
    if restorer is None:
        restorer = programs.which("etcdctl")
        if restorer is None or not _OLDEST <= programs.version(restorer, "version", environ=_environ()) < (3, 6):
            raise NotInstalled(f"etcd {shown(version)} is installed here without its etcdutl")
    return Programs(server, restorer, version)


def sweep(folder: Path) -> None:
    """Given a folder that nobody is at work in, remove what killed runs left there in folders."""
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.is_dir() and not left.is_symlink():
            _remove(left)


def _remove(folder: Path) -> None:
    for _ in range(50):  # an etcd that is just being killed may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(folder)


class Server:
    """An etcd in a folder of its own; a context, which ends it."""

    def __init__(self, found: Programs, folder: Path, say: Callable[[str], None]) -> None:
        """Given the programs, an empty private folder and who is told what is waited for."""
        self._programs = found
        self._folder = folder
        self.say = say
        self._child: _Child | None = None

    def restore(self, snapshot: IO[bytes], size: int) -> None:
        """Given an open snapshot and its size in bytes, make a data directory of it; raise Refused or Unable."""
        free = shutil.disk_usage(self._folder).free
        if free < size + _ROOM:
            said = f"an etcd needs {(size + _ROOM) / 1e6:.0f} MB to be started on it, and {free / 1e6:.0f} MB are free"
            raise Unable(said, f"make room on the disk of {self._folder.parent}")
        snapshot.flush()
        snapshot.seek(0)  # where /dev/fd has the position of the one that is open
        handle = fcntl.fcntl(snapshot.fileno(), fcntl.F_DUPFD_CLOEXEC, 64)  # below 10 are the shell's own
        command = [self._programs.restorer, "snapshot", "restore", f"/dev/fd/{handle}", *_MEMBER]
        try:
            with _Child(self._folder, command, (handle,)) as child:
                waiting = _Waiting(self.say, "waits for the snapshot to be restored")
                while (status := child.status()) is None:
                    waiting.look(child.said())
                if status:
                    raise child.fault(status, Path(self._programs.restorer).name)
        finally:
            os.close(handle)

    def start(self) -> None:
        """Start etcd on what was restored, and wait until it answers; raise Refused or Unable."""
        self._start(_DATA)

    def starts_on_nothing(self) -> bool:
        """Tell whether this etcd starts here at all: on an empty data directory, with all else as it was."""
        self.end()
        with suppress(Refused, Unable):
            self._start("empty")
            return True
        return False

    def _start(self, data: str) -> None:
        options = {
            "name": "default",
            "data-dir": data,
            "listen-client-urls": f"unix://{_CLIENT}",
            "advertise-client-urls": f"unix://{_CLIENT}",
            "listen-peer-urls": f"unix://{_PEER}",
            "initial-advertise-peer-urls": f"unix://{_PEER}",
            "initial-cluster": f"default=unix://{_PEER}",
            "quota-backend-bytes": str(_QUOTA),
            "logger": "zap",
            "log-level": "warn",
        }
        for name in (_CLIENT, _PEER):
            (self._folder / name).unlink(missing_ok=True)
        self._child = _Child(self._folder, [self._programs.server, *(f"--{k}={v}" for k, v in options.items())])
        waiting = _Waiting(self.say, "waits for etcd to be ready")
        while not self._is_ready():
            status = self._child.status()
            if status is not None:
                raise self._child.fault(status, "etcd")
            waiting.look(self._child.said())

    def _is_ready(self) -> bool:
        try:
            self.ask("kv/range", {"key": _b64(registry.KUBE_SYSTEM), "count_only": True})
        except _No as error:
            if error.code == _DATA_LOSS:
                raise
            return False
        except (OSError, http.client.HTTPException):
            return False
        return True

    def ask(self, what: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Given the path of one of etcd's calls and its message as JSON, return the answer.

        Raise Refused if that is an error, with its code; OSError or HTTPException without an answer.
        """
        with contextlib.closing(_Connection(self._folder)) as connection:
            connection.request("POST", f"/v3/{what}", json.dumps(question))
            answer = connection.getresponse()
            content = answer.read()
        try:
            said = json.loads(content)
        except ValueError:
            said = None
        if not isinstance(said, dict) or answer.status != http.HTTPStatus.OK:
            raise _No(said if isinstance(said, dict) else {})
        return said

    def fault(self, error: Exception) -> Refused | Unable:
        """Given why a question had no answer, return what that means."""
        status = self._child.status() if self._child else None
        if self._child and status is not None:
            return self._child.fault(status, "etcd")
        if isinstance(error, TimeoutError):
            return Unable(f"etcd did not answer for {duration(_ANSWER)}")
        return Refused(f"etcd answers with nonsense: {type(error).__name__}")

    def end(self) -> None:
        """End it, if it runs."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()


_MEMBER = (
    *("--data-dir", _DATA, "--name", "default"),
    *("--initial-cluster", f"default=unix://{_PEER}", "--initial-advertise-peer-urls", f"unix://{_PEER}"),
)


class _No(Refused):
    """etcd answered with an error."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self.code = said.get("code")
        super().__init__(f"etcd says: {str(said.get('message') or said.get('error') or 'nothing that is known')[:300]}")


class Live:
    """What an etcd that runs has, all of one revision: what expires meanwhile is still there."""

    def __init__(self, server: Server, revision: int) -> None:
        """Given an etcd and the newest revision of the snapshot; raise Refused or Unable."""
        self._server = server
        self.revision = revision
        try:
            self._range(registry.KUBE_SYSTEM, keys_only=True)
        except _No as error:
            if error.code != _COMPACTED:
                raise
            # The newest revision was a deletion, and was forgotten: what is there now is of a later number.
            self.revision = 0
            found = self._range(registry.KUBE_SYSTEM, keys_only=True)
            self.revision = int(found["header"]["revision"])

    def get(self, key: bytes) -> bytes | None:
        """Given a key, return its value, or None."""
        rows = self._range(key).get("kvs") or []
        return base64.b64decode(rows[0].get("value", "")) if rows else None

    def bootstrap(self) -> dict[str, bytes]:
        """Return the values of the rows below /bootstrap/, by their names."""
        rows = self._range(b"/bootstrap/", b"/bootstrap0", limit=str(_MOST_ROWS)).get("kvs") or []
        return {_key(row).decode("utf-8", "replace"): base64.b64decode(row.get("value", "")) for row in rows}

    def counts(self) -> dict[str, int]:
        """Return how many objects there are, by the prefix of their resource."""
        counted: Counter[str] = Counter()
        told = time.monotonic()
        for key in self._keys():
            if (prefix := registry.prefix(key)) is not None:
                counted[prefix] += 1
            if time.monotonic() - told > _NEWS:
                told = time.monotonic()
                self._server.say(f"asks etcd for every key: {counted.total()} objects so far")
        return dict(sorted(counted.items()))

    def _keys(self) -> Iterator[bytes]:
        start, more = registry.ROOT, True
        while more:
            found = self._range(start, registry.ROOT[:-1] + b"0", limit=str(_PAGE), keys_only=True)
            keys = [_key(row) for row in found.get("kvs") or []]
            yield from keys
            more = bool(found.get("more") and keys)
            start = keys[-1] + b"\0" if keys else start

    def _range(self, key: bytes, end: bytes = b"", **more: object) -> dict[str, Any]:
        question = {"key": _b64(key), "revision": str(self.revision), **more}
        if end:
            question["range_end"] = _b64(end)
        try:
            return self._server.ask("kv/range", question)
        except (OSError, http.client.HTTPException) as error:
            raise self._server.fault(error) from None


class _Child:
    """A program below a shell that ends it when we are gone."""

    def __init__(self, folder: Path, command: Sequence[str], files: Sequence[int] = ()) -> None:
        self._log = folder / _LOG
        with self._log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _ENDS_WITH_US, "sh", str(folder), *command],
                    cwd=folder, env=_environ(), stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=files,
                    start_new_session=True,  # Ctrl-C is ours
                )  # fmt: skip
            except OSError as error:
                raise Unable(f"{command[0]} cannot be run: {error.strerror}") from None

    def status(self) -> int | None:
        """Return the program's exit status, None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """Return the last thing that it said."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 65536, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return _told(lines)

    def fault(self, status: int, name: str) -> Refused | Unable:
        """Given how it ended and its name, return what that means."""
        said = self.said()
        if status in _FROM_OUTSIDE or status < 0:
            return Unable(f"{name} was ended from outside", "was there memory for it?")
        if "no space left" in said.lower():
            return Unable(f"{name} had no room on the disk", f"make room on the disk of {self._log.parent.parent}")
        return Refused(f"{name} ended with status {status}: {said or 'it said nothing'}")

    def close(self) -> None:
        """End it, if it has not ended."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101  # for the type
        with suppress(OSError):
            pipe.write(b"stop\n" if self._process.poll() is None else b"ended\n")
            pipe.flush()
        with suppress(OSError):
            pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _Waiting:
    """Says now and then what is waited for, and not for longer than the limit."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        self._say = say
        self._what = what
        self._began = self._told = time.monotonic()

    def look(self, said: str) -> None:
        """Given the last thing that was said, wait a moment; raise Unable once that was long enough."""
        now = time.monotonic()
        if now - self._began > _LIMIT:
            raise Unable(f"{self._what}: not after {duration(_LIMIT)}{f'; it says: {said}' if said else ''}")
        if now - self._told > _NEWS:
            self._told = now
            last = f": {said}" if said else ""
            self._say(f"{self._what}, {duration(now - self._began)} of {duration(_LIMIT)}{last}")
        time.sleep(_LOOK)


class _Connection(http.client.HTTPConnection):
    """To the socket in a folder, however long the folder's path is."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER)
        self._folder = folder

    def connect(self) -> None:
        """See HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        path = str(self._folder / _CLIENT)
        if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").is_dir():  # systems take 104 or 108 bytes
            self.sock.connect(path)
            return
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{handle}/{_CLIENT}")
        finally:
            os.close(handle)


def _environ() -> dict[str, str]:
    """Return what etcd gets of our environment: it would take each ETCD_... for an option, and needs no key of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    machine = _ARCHITECTURES.get(os.uname().machine)
    return {**kept, "ETCDCTL_API": "3"} | ({"ETCD_UNSUPPORTED_ARCH": machine} if machine else {})


def _told(lines: Sequence[str]) -> str:
    """Given the lines of etcd's log, return what tells most of why it ended, on one line."""
    found = ""
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if isinstance(said, dict):
            if said.get("level") in ("error", "fatal", "panic", "dpanic"):
                found = f"{said.get('msg', '')}: {said['error']}" if said.get("error") else str(said.get("msg", ""))
        elif line.startswith(("panic:", "Error:", "fatal error:", "runtime:")):
            found = line
            break  # behind it is a trace
        elif line.strip():
            found = line.strip()
    return "".join(char if char.isprintable() else " " for char in found)[:300]


def _key(row: Mapping[str, Any]) -> bytes:
    return base64.b64decode(row["key"])


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()

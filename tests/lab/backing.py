"""What tests of backups need beside hosts: somebody who is told, a search for secrets, a look at what lies around."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from i12e import programs
from i12e.paths import LAB_MACHINES
from lab.api import Trouble
from lab.clones import Ended, Operator

SNAPSHOTS = "/var/lib/rancher/k3s/server/db/snapshots"
DATABASES = "/var/lib/rancher/k3s/server/db"


# --- the operator's files


def seal(operator: Operator, name: str, plain: str) -> None:
    """Given a secret file's name and content, seal it to the lab's own key with the real sops."""
    key = (operator.root / LAB_MACHINES / "age-key.txt").read_text()
    recipient = next(line.split()[-1] for line in key.splitlines() if "public key" in line)
    kinds = ("--input-type", "yaml", "--output-type", "yaml")
    command = ("--disable-version-check", "--config", "/dev/null", "encrypt", "--age", recipient, *kinds, "/dev/stdin")
    done = programs.run(programs.sops(), *command, stdin=plain)
    assert done.status == 0, done.complaint
    (operator.root / "secrets/lab" / f"{name}.yaml").write_text(done.output)


def opened(operator: Operator, name: str) -> dict[str, str]:
    """Given a secret file's name, return what is in it."""
    environ = {**os.environ, "SOPS_AGE_KEY_FILE": str(operator.root / LAB_MACHINES / "age-key.txt")}
    path = str(operator.root / "secrets/lab" / f"{name}.yaml")
    command = ("--disable-version-check", "decrypt", "--output-type", "json", path)
    done = programs.run(programs.sops(), *command, environ=environ)
    assert done.status == 0, done.complaint
    found: dict[str, str] = json.loads(done.output)
    return found


def listing(operator: Operator, *options: str) -> dict[str, list[dict[str, Any]]]:
    """Return the backups of each store as `backup_list --json` tells them, the newest first."""
    done = operator.doit("backup_list", "--json", *options)
    assert done.status == 0, done.err
    (told,) = json.loads(done.out)["results"]
    return {store["store"]: store["backups"] for store in told["stores"]}


def good(operator: Operator) -> dict[str, str]:
    """Return the id of the newest good backup of each store, "" where there is none."""
    found = listing(operator)
    return {name: next((each["backup"] for each in found[name] if each["state"] == "good"), "") for name in found}


def made(done: Ended) -> list[str]:
    """Given how a backup ended, return the ids that it told, one for each store."""
    return [line.split()[1] for line in done.out.splitlines() if line.startswith("BACKUP ")]


# --- who is told


@dataclass
class Listener:
    """A server of this machine that takes every request, and remembers it."""

    url: str
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    def heard(self) -> list[tuple[str, str, str]]:
        """Return method, path and body of each request since the last call."""
        found = list(self.requests)
        self.requests.clear()
        return found


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Have a listener until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            listener.requests.append((self.command, self.path, self.rfile.read(length).decode()))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener = Listener(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- secrets


def leaks(values: Mapping[str, str], places: Iterable[Path], since: float, but: Callable[[Path], bool]) -> list[str]:
    """Given secrets by name, return where one of them is, plain or in base64, in files changed since a time.

    `but` says which files may have them.
    """
    found = []
    wanted = {name: _forms(value) for name, value in values.items() if value}
    for path in _files(places):
        with contextlib.suppress(OSError):  # gone meanwhile, or a socket
            if path.stat().st_mtime < since or but(path):
                continue
            content = path.read_bytes()
            found += [f"{name} in {path}" for name, forms in wanted.items() if any(form in content for form in forms)]
    return found


def in_text(values: Mapping[str, str], text: str) -> list[str]:
    """Given secrets by name and a text, return the names of those that are in it, plain or in base64."""
    content = text.encode()
    return [name for name, value in values.items() if value and any(form in content for form in _forms(value))]


def _forms(value: str) -> list[bytes]:
    shifted = [base64.b64encode(b"x" * skip + value.encode())[4:-4] for skip in range(3)]
    return [value.encode(), *shifted]


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink() and path.is_file():
                    yield path


@contextlib.contextmanager
def watched(values: Mapping[str, str]) -> Iterator[list[str]]:
    """Until the block ends, look whether a process of this machine or of a host has a secret among its arguments."""
    found: list[str] = []
    ended = threading.Event()
    wanted = {name: value.encode() for name, value in values.items() if value}

    def look() -> None:
        while not ended.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    content = path.read_bytes()
                    found.extend(f"{name} in {content!r}" for name, value in wanted.items() if value in content)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


# --- processes


def until(process: subprocess.Popen[str], text: str) -> str:
    """Read what a process says on standard error until a line has a text; return all of it."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return "".join(said)
    raise AssertionError(f"it never said {text}: {''.join(said)}")


def wait(so: Callable[[], bool], limit: float = 180) -> None:
    """Wait until it is so; a host that does not answer, and an etcd that elects a leader, say nothing of it."""
    deadline = time.monotonic() + limit
    while True:
        with contextlib.suppress(Trouble):
            if so():
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""The cgroups of a lab's hosts: each has its own, by which all of its processes are found and killed.

Both versions: one tree with all controllers, or one tree a controller.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TOP = Path("/sys/fs/cgroup")


def unified() -> bool:
    """Tell whether this machine has one tree of cgroups (version 2)."""
    return (_TOP / "cgroup.controllers").exists()


def _trees() -> list[Path]:
    if unified():
        return [_TOP]
    # A process cannot be put into a cpuset that has no processors yet.
    found = [place for place in _TOP.iterdir() if (place / "cgroup.procs").exists() and place.name != "cpuset"]
    return sorted({place.resolve() for place in found})


def _of(lab: str, host: str = "") -> Iterator[Path]:
    yield from (tree / f"i12e-lab-{lab}" / host for tree in _trees())


def make(lab: str, host: str) -> list[Path]:
    """Given a lab and a host, make the host's cgroups; return the files that a process writes itself into."""
    found: list[Path] = []
    for folder in _of(lab, host):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            found.append(folder / "cgroup.procs")
    return found


def processes(lab: str, host: str) -> set[int]:
    """Given a lab and a host, return all processes of the host, as seen from here."""
    found: set[int] = set()
    for folder in _of(lab, host):
        for place, _, _ in os.walk(folder):
            with suppress(OSError):
                found.update(map(int, (Path(place) / "cgroup.procs").read_text().split()))
    return found - {0}  # of another pid namespace


def kill(lab: str, host: str) -> None:
    """Given a lab and a host, kill all processes of the host; raise TimeoutError if some live on."""
    deadline = time.monotonic() + 60
    while found := processes(lab, host):
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{host}: processes {sorted(found)} do not end")
        time.sleep(0.01)


def remove(lab: str) -> list[Path]:
    """Given a lab whose hosts have no processes any more, remove its cgroups; return those that stay."""
    for top in _of(lab):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
    return [top for top in _of(lab) if top.exists()]

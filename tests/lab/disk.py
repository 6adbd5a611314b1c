"""A host's disk: the ROOT partition over the shared root, and the OEM and boot partitions beside it.

ROOT is a tmpfs of limited size, which holds what the host has written; below lies what comes with the system, which
no reset removes. /usr is a mount of its own and cannot be written to, as on Flatcar.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

SIZE = os.environ.get("I12E_LAB_DISK", "1g")  # of its tmpfs; a benchmark needs more
_INITRD = ("bin", "dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "sysroot", "tmp", "usr", "var")


class Failed(Exception):
    """A program ended with an error."""


def run(*command: str | Path) -> str:
    """Given a command, run it; return what it says. Raise Failed if it fails."""
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


class Disk:
    """The partitions of one host below a folder of the supervisor's."""

    def __init__(self, place: Path, base: Path, layer: Path) -> None:
        self.place = place
        self._base = base
        self._layer = layer
        self.initrd = place / "initrd"
        self.root = self.initrd / "sysroot"
        self.partition = place / "disk"
        self.upper = self.partition / "upper"
        self.oem = place / "oem"
        self.boot = place / "boot"
        self.told = place / "lab"
        """What the host finds at /lab: a file for each fault that it has to play itself."""
        self._mounted: list[Path] = []

    def make(self) -> None:
        """Make an empty disk; there is none."""
        for folder in (self.partition, self.oem, self.boot, self.told, *(self.initrd / name for name in _INITRD)):
            folder.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "lab-root", self.partition)
        for folder in (self.upper, self.partition / "work"):
            folder.mkdir()
        self.upper.chmod(0o755)
        (self.boot / "flatcar").mkdir()

    def destroy(self) -> None:
        """Throw it away, with all that is on it."""
        self.unmount()
        if self.place.exists():
            run("umount", self.partition)
            shutil.rmtree(self.place)

    @property
    def mounted(self) -> bool:
        """Whether the root is mounted."""
        return bool(self._mounted)

    def mount(self) -> None:
        """Mount the root as the host sees it, if it is not."""
        if self._mounted:
            return
        lower = f"{self._layer}:{self._base}"
        options = f"lowerdir={lower},upperdir={self.upper},workdir={self.partition}/work"
        self._mount(self.root, "-t", "overlay", "-o", options, "lab-root")
        self._mount(self.root / "usr", "-t", "overlay", "-o", f"lowerdir={self._layer}/usr:{self._base}/usr", "lab-usr")
        for source, name in ((self.oem, "oem"), (self.boot, "boot"), (self.told, "lab")):
            (self.root / name).mkdir(exist_ok=True)  # the host may have removed it
            self._mount(self.root / name, "--bind", str(source))
        run("mount", "-o", "remount,bind,ro", self.root / "lab")

    def _mount(self, target: Path, *arguments: str) -> None:
        run("mount", *arguments, target)
        self._mounted.append(target)

    def unmount(self) -> None:
        """Unmount the root, if it is mounted."""
        while self._mounted:
            run("umount", self._mounted[-1])
            self._mounted.pop()

    def from_below(self, action: Callable[[], None]) -> None:
        """Given an action on the partition itself, do it; what is changed there under a mounted root has no meaning."""
        mounted = bool(self._mounted)
        self.unmount()
        action()
        if mounted:
            self.mount()

    def show_defaults(self) -> None:
        """Let what comes with the system be seen again where the host has removed or hidden it."""
        self.from_below(self._uncover)

    def _uncover(self) -> None:
        for entry in _walk(self.upper):
            info = os.lstat(entry)
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                os.unlink(entry)
            elif stat.S_ISDIR(info.st_mode):
                with suppress(OSError):
                    os.removexattr(entry, "trusted.overlay.opaque")

    def fill(self) -> None:
        """Leave no space on it."""
        with (self.partition / "filler").open("wb") as file:
            free = os.statvfs(self.partition)
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize, 1))
            with suppress(OSError):  # what became free or was taken meanwhile
                while True:
                    os.pwrite(file.fileno(), bytes(4096), os.fstat(file.fileno()).st_size)

    def empty(self) -> None:
        """Take away what `fill` has put there."""
        (self.partition / "filler").unlink(missing_ok=True)


def _walk(top: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(top, topdown=False):
        yield from (os.path.join(folder, name) for name in (*files, *folders))

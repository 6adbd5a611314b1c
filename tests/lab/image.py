"""The root that all hosts of a lab share: a Debian, made once by mmdebstrap and kept below /var/cache.

Its name comes from the list of its packages, so that another list is another root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path("/var/cache/i12e-lab")
SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "procps", "kmod", "util-linux"),
    "libnss-myhostname",  # or sudo complains of a hostname that nobody resolves
    *("curl", "jq", "ca-certificates", "openssl", "zstd"),
    *("etcd-server", "etcd-client", "python3-minimal", "libpython3-stdlib"),
    *("python3-cryptography", "python3-nacl", "python3-yaml"),
)
# What is a machine's own, and what only a package manager wants.
_NOT_SHARED = (
    *("etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf"),
    "etc/systemd/system/*",  # what Debian enables by itself
    *("var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/lib/etcd", "dev/*", "run/*", "tmp/*", "var/log/*.log"),
)


class Failed(Exception):
    """The root could not be made."""


def place() -> Path:
    """Return where the root is, or will be."""
    text = "\n".join((SUITE, *PACKAGES, *_NOT_SHARED))
    return CACHE / f"root-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def ready() -> bool:
    """Tell whether the root is there."""
    return place().is_dir()


def root(say: Callable[[str], None]) -> Path:
    """Return the root; make it if it is not there, which takes half a minute and the network.

    It gets its name when it is whole. Raise Failed with mmdebstrap's last words if it cannot be made.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        if not ready():
            say(f"making the hosts' common root, a Debian of {len(PACKAGES)} packages and what they need: once")
            _make(place())
    return place()


@contextmanager
def _alone() -> Iterator[None]:
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(target: Path) -> None:
    for left in CACHE.glob("*.making"):  # of a run that was killed; nobody else is here
        shutil.rmtree(left)
    making = target.with_suffix(".making")
    command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}", SUITE, str(making)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Failed(f"mmdebstrap: exit status {done.returncode}\n{said}")
    for pattern in _NOT_SHARED:
        for path in making.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    os.sync()
    making.rename(target)


# --- what makes it look like Flatcar

GUEST = Path(__file__).resolve().parent / "guest"
_CORE = 500  # the id of core and of its group on Flatcar
_MASKED = ("etcd", "ssh", "systemd-firstboot", "apt-daily", "apt-daily-upgrade", "dpkg-db-backup")
_WANTED = {
    "sysinit.target": ("systemd-network-generator.service",),
    "sockets.target": ("sshd.socket", "systemd-networkd.socket"),
    "multi-user.target": ("systemd-networkd.service", "sshd-keygen.service"),
    "network-online.target": ("systemd-networkd-wait-online.service",),
}
_FOLDERS = ("opt/bin", "oem", "boot", "lab", "var/log/journal", "var/lib/private", "usr/share/flatcar")
_DATABASES = {
    "passwd": f"core:x:{_CORE}:{_CORE}:CoreOS Admin:/home/core:/bin/bash\n",
    "shadow": "core:*:15887:0:::::\n",
    "group": f"core:x:{_CORE}:\ndocker:x:233:core\nwheel:x:250:core\n",
    "gshadow": "core:*::\ndocker:*::core\nwheel:*::core\n",
}


def layer(folder: Path, base: Path) -> None:
    """Given an empty folder and the shared root, put there what lies over the root: the lab's own part of a host."""
    shutil.copytree(GUEST, folder, symlinks=True, dirs_exist_ok=True)
    for path in _FOLDERS:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for place in (folder, *folder.rglob("*")):  # a checkout may have other permissions
        place.chmod(0o755 if place.is_dir() or place.stat().st_mode & 0o100 else 0o644)
    (folder / "etc/sudoers.d/core").chmod(0o440)
    for database, lines in _DATABASES.items():
        theirs, ours = base / "etc" / database, folder / "etc" / database
        text = theirs.read_text()
        if database in ("group", "gshadow"):
            text = re.sub(r"(?m)^((?:sudo|systemd-journal):.*:)$", r"\1core", text)
        ours.write_text(text + lines)
        shutil.copymode(theirs, ours)
        os.chown(ours, theirs.stat().st_uid, theirs.stat().st_gid)
    home = folder / "home/core"
    home.mkdir(parents=True)
    os.chown(home, _CORE, _CORE)
    units = folder / "usr/lib/systemd/system"
    for unit in _MASKED:
        (units / f"{unit}.service").symlink_to("/dev/null")
    # It stands before the address of the kernel's command line.
    (folder / "usr/lib/systemd/network/80-container-host0.network").symlink_to("/dev/null")
    (units / "default.target").symlink_to("multi-user.target")
    for target, names in _WANTED.items():
        wants = units / f"{target}.wants"
        wants.mkdir()
        for name in names:
            (wants / name).symlink_to(f"../{name}")
    # What /etc is by itself, as Flatcar has it there.
    defaults = folder / "usr/share/flatcar/etc"
    shutil.copytree(base / "etc", defaults, symlinks=True)
    shutil.copytree(folder / "etc", defaults, symlinks=True, dirs_exist_ok=True)

"""What happens between two starts of a host: Flatcar's initrd, played from outside.

A staged reset is done as initrd-setup-root does it (flatcar/bootengine, dracut/99setup-root), and at a first boot the
real Ignition applies /oem/config.ign.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import ignition
from lab.cable import Cable
from lab.disk import Disk

_CLEARING = Path(__file__).with_name("clearing.py")


class IgnitionFailed(Exception):
    """Ignition ended with an error: a real host would be in the emergency shell now."""


def reset(disk: Disk) -> bool:
    """Given a disk, do the reset that is staged on it; return whether there was one.

    All that does not match the pattern is removed, and the machine id always. What comes with the system comes back.
    """
    staged = disk.root / "selective-os-reset"
    if not staged.is_file() or not staged.stat().st_size:
        return False
    pattern = staged.read_text().rstrip("\n")
    find = ["chroot", str(disk.root), "/usr/bin/find", "/", "-xdev", "-depth", "-regextype", "egrep"]
    done = subprocess.run([*find, "-not", "-regex", pattern, "-print0"], capture_output=True, check=False)
    upper = os.fsencode(disk.upper)
    listed = [path for path in done.stdout.split(b"\0") if path and os.path.lexists(upper + path)]
    clearing = [sys.executable, "-I", "-S", str(_CLEARING), str(disk.initrd)]
    subprocess.run(clearing, input=b"\0".join(listed), check=True)
    staged.unlink(missing_ok=True)
    (disk.root / "etc/machine-id").unlink(missing_ok=True)
    disk.show_defaults()
    return True


def is_first_boot(disk: Disk) -> bool:
    """Given a disk, tell whether Ignition is to run."""
    return (disk.boot / "flatcar/first_boot").exists()


def ignite(disk: Disk, cable: Cable, work: Path, config: bytes | None) -> None:
    """Given a disk, the host's network and a folder for Ignition's own files, apply a config to the root.

    The config is the disk's own unless another one is given; without any, nothing is done. Raise IgnitionFailed with
    Ignition's last words if it fails; the host then stays a first boot.
    """
    config = config or _config(disk)
    if config is not None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, mode=0o755)
        (work / "config.ign").write_bytes(ignition.for_debian(config))
        (work / "root").symlink_to(disk.root)
        for stage in ("fetch", "files"):
            with (work / f"{stage}.log").open("w+b") as log:
                command, environ = ignition.command(stage, work), ignition.environ(work)
                status = cable.run(command, cwd=work / "root", env=environ, output=log)
                log.seek(0)
                if status:
                    raise IgnitionFailed(f"stage {stage}: {ignition.last_words(log.read())}")
    (disk.boot / "flatcar/first_boot").unlink()


def _config(disk: Disk) -> bytes | None:
    """Return the config that Ignition would find, in its order: the kernel's URL, then the disk's own file."""
    url = kernel_arguments(disk).get("ignition.config.url")
    if url:
        replaced = {"ignition": {"version": "3.3.0", "config": {"replace": {"source": url}}}}
        return json.dumps(replaced).encode()
    own = disk.oem / "config.ign"
    return own.read_bytes() if own.exists() else None


def kernel_arguments(disk: Disk) -> dict[str, str]:
    """Given a disk, return what its grub.cfg adds to the kernel's command line."""
    try:
        text = (disk.oem / "grub.cfg").read_text()
    except OSError:
        return {}
    words = [word for line in re.findall(r'linux_append="\$linux_append ([^"]*)"', text) for word in line.split()]
    return dict(word.split("=", 1) for word in words if "=" in word)


def machine_id(disk: Disk) -> str:
    """Given a disk, return the id that the host boots with: the kernel's, the one it has, or else a new one."""
    given = kernel_arguments(disk).get("systemd.machine_id", "")
    try:
        own = (disk.root / "etc/machine-id").read_text().strip()
    except OSError:
        own = ""
    return next((text for text in (given, own) if re.fullmatch(r"[0-9a-f]{32}", text)), uuid.uuid4().hex)

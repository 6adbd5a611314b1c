"""What this machine must have for a lab, and how it gets it."""

from __future__ import annotations

import os
import shutil

import ignition
from lab import image

_PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "usermod": "passwd",
}

ROOT = "root: it makes mounts and networks of its own, which only root may (sudo ./doit lab_up)"


def missing() -> str:
    """Return what is missing here for a lab and how to get it, or "" if nothing is."""
    if os.uname().sysname != "Linux":
        return "Linux: a lab's hosts share its kernel"
    packages = {package for program, package in _PROGRAMS.items() if not shutil.which(program)}
    if image.ready():
        packages.discard("mmdebstrap")
    if not os.access(ignition.ENGINE, os.X_OK):
        packages.add("ignition")
    if packages:
        return f"packages: apt-get install {' '.join(sorted(packages))}"
    if os.geteuid() != 0:
        return ROOT
    return ""

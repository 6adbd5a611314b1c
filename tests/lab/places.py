"""Where a lab's things are, and how its hosts are called and addressed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

GATEWAY = "10.77.0.1"
NETWORK = "10.77.0.0/24"
BRIDGE = "br0"
RUN = Path("/run/i12e-lab")
FAULTS = {
    "unreachable": "the network cable is out",
    "slow": "each packet to the host and from it takes a while (--delay SECONDS, 0.3)",
    "no_boot": "from the next boot on nothing comes up",
    "wrong_host_key": "sshd has another host key; switched off, it has the old one again",
    "disk_full": "there is no space left on the disk",
    "ignition_fails": "Ignition fails at the next first boot, and the host lands in the emergency shell",
    "no_artifacts": "the server of artifacts tells this host that it has nothing",
    "k3s_never_ready": "k3s runs and never gets ready (the stand-in for k3s is told so)",
    "ssh_drops": "all ssh connections break when a command runs (--pattern REGEX) or after a time (--after SECONDS)",
}
_HOST = re.compile(r"(server-[1-9]|agent-[1-9][0-9]?)")
_BASE = {"server": 10, "agent": 20}


def lab_id(folder: Path) -> str:
    """Given a lab's folder, return its name for the kernel: no two folders have the same."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:10]


def run_folder(lab: str) -> Path:
    """Given a lab's id, return its folder below /run."""
    return RUN / lab


def control(lab: str) -> Path:
    """Given a lab's id, return its supervisor's socket, whose path is short: more than 107 bytes are refused."""
    return run_folder(lab) / "control"


def address(host: str) -> str:
    """Given a host's name, return its address: server-N has .1N, agent-N .20 + N; raise ValueError for others."""
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host}: the lab's hosts are server-1 to server-9 and agent-1 to agent-99")
    role, _, number = host.partition("-")
    return f"10.77.0.{_BASE[role] + int(number)}"


def mac(host: str) -> str:
    """Given a host, return the address of its network card, which stays the same for ever."""
    return f"52:54:00:77:00:{int(address(host).rpartition('.')[2]):02x}"


def cable(host: str) -> str:
    """Given a host, return the name of its network interface's outer end (systemd-nspawn gives it)."""
    return f"vb-{host}"

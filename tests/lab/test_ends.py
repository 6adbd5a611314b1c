"""However a lab ends, nothing of it stays: no process, mount, network, interface or cgroup; and labs are apart."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab import Lab, cgroups, places
from lab.fixtures import running

pytestmark = pytest.mark.lab


def namespaces() -> set[str]:
    """Return the network namespaces of all processes."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(process / "ns/net"))
        except OSError:
            continue
    return found


def traces(lab: Lab, network: str) -> list[str]:
    """Return what is there of a lab."""
    name = places.run_folder(lab.id)
    found = [f"process {line}" for line in _output("ps", "-eo", "pid,args").splitlines() if str(name) in line]
    found += [f"process {line}" for line in _output("ps", "-eo", "pid,args").splitlines() if str(lab.folder) in line]
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if lab.id in line]
    found += [f"network {network}"] if network in namespaces() else []
    found += [f"interface {line}" for line in _output("ip", "-br", "link").splitlines() if "vb-" in line]
    return found


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def gone(lab: Lab, network: str) -> bool:
    """Wait until nothing of the lab is there; tell whether that came to be."""
    deadline = time.monotonic() + 120
    while traces(lab, network):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def network_of(lab: Lab) -> str:
    return os.readlink(f"/proc/{lab.pid}/ns/net")


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_traces_are_those_of_a_lab_that_runs(tmp_path: Path) -> None:
    with running(tmp_path / "lab", ["server-1"]) as lab:
        kinds = {trace.split()[0] for trace in traces(lab, network_of(lab))}
        assert kinds == {"process", "network"}  # its mounts and interfaces are in namespaces of its own


@pytest.mark.parametrize("whom", ["the supervisor", "its shell", "unshare"])
def test_kill_9_leaves_nothing_and_the_lab_starts_again(tmp_path: Path, whom: str) -> None:
    with running(tmp_path / "lab", ["server-1", "agent-1"]) as lab:
        network, victim = network_of(lab), lab.pid
        for _ in range(["the supervisor", "its shell", "unshare"].index(whom)):
            victim = parent(victim)
        os.kill(victim, signal.SIGKILL)
        assert gone(lab, network), traces(lab, network)
        assert Lab.find(lab.folder) is None
        again = Lab.start(lab.folder, ["server-1"])
        assert again.ssh("server-1", "true").status == 0


def test_after_the_end_ssh_says_so_and_goes_nowhere(tmp_path: Path) -> None:
    with running(tmp_path / "lab", ["server-1"]) as lab:
        lab.stop()
        done = lab.ssh("server-1", "true")
        assert (done.status, done.complaint.splitlines()[0][:18]) == (255, "the lab is not up ")


def test_stop_leaves_nothing_but_the_folder(tmp_path: Path) -> None:
    with running(tmp_path / "lab", ["server-1", "agent-1"]) as lab:
        network = network_of(lab)
        lab.read("agent-1", "systemd-run --quiet sleep 66666; nohup setsid sleep 66667 >/dev/null 2>&1 &")
        lab.stop()
        assert traces(lab, network) == []
        assert not places.run_folder(lab.id).exists()
        assert not list(Path("/sys/fs/cgroup").rglob(f"i12e-lab-{lab.id}*"))
        assert lab.key.exists()
        lab.stop()  # once more does no harm


def test_a_lab_whose_supervisor_was_killed_is_swept_by_stop(tmp_path: Path) -> None:
    with running(tmp_path / "lab", ["server-1"]) as lab:
        network = network_of(lab)
        os.kill(lab.pid, signal.SIGKILL)
        assert gone(lab, network)
        lab.stop()
        assert cgroups.remove(lab.id) == []
        assert not places.run_folder(lab.id).exists()


def test_two_labs_with_the_same_addresses_do_not_see_each_other(tmp_path: Path) -> None:
    with running(tmp_path / "one", ["server-1"]) as one, running(tmp_path / "two", ["server-1"]) as two:
        one.read("server-1", "echo one >/etc/which")
        two.read("server-1", "echo two >/etc/which")
        assert [lab.ssh("server-1", "cat /etc/which").output for lab in (one, two)] == ["one\n", "two\n"]
        two.fault("server-1", "unreachable")
        assert one.ssh("server-1", "true").status == 0
        two.stop()
        assert one.ssh("server-1", "cat /etc/which").output == "one\n"


def test_a_folder_with_a_long_path_and_spaces_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("a folder with a name that is long " * 4).strip() / "lab"
    assert len(str(folder)) > 150
    with running(folder, ["server-1"]) as lab:
        assert lab.ssh("server-1", "echo in").output == "in\n"

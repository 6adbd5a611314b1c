"""Each fault of the lab is what it says: seen from outside, as i12e sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lab import FAULTS, Done, Lab, Trouble

pytestmark = pytest.mark.lab
HOST = "agent-1"


@pytest.fixture(scope="module")
def machines(lab_of: Callable[..., Lab]) -> Lab:
    return lab_of(HOST, "agent-2")


@pytest.fixture
def lab(machines: Lab) -> Iterator[Lab]:
    """The lab, whose host is up and whole again afterwards."""
    yield machines
    for kind in machines.status()[HOST]["faults"]:
        machines.fault(HOST, kind, False)
    machines.power_off(HOST)
    machines.power_on(HOST)
    machines.wait(HOST)
    machines.trust(HOST)


def until(lab: Lab, state: str) -> str:
    """Wait until the host is in a state; return why."""
    deadline = time.monotonic() + 120
    while lab.status()[HOST]["state"] != state:
        assert time.monotonic() < deadline, lab.status()[HOST]
        time.sleep(0.02)
    return str(lab.status()[HOST]["why"])


def test_unreachable_ssh_says_as_much_and_the_host_runs_on(lab: Lab) -> None:
    lab.fault(HOST, "unreachable")
    done = lab.ssh(HOST, "true")
    assert (done.status, "port 22: No route to host" in done.complaint) == (255, True)
    assert lab.read(HOST, "echo on") == "on"
    lab.fault(HOST, "unreachable", False)
    assert lab.ssh(HOST, "true").status == 0


def test_a_host_whose_cable_is_out_stays_unreachable_over_a_reboot(lab: Lab) -> None:
    lab.fault(HOST, "unreachable")
    lab.reboot(HOST)
    assert lab.ssh(HOST, "true").status == 255


def test_unreachable_also_breaks_a_connection_that_is_there(lab: Lab) -> None:
    found: list[Done] = []
    thread = threading.Thread(target=lambda: found.append(lab.ssh(HOST, "sleep 1; echo late", limit=30)))
    thread.start()
    wait_for_command(lab, "sleep 1")
    lab.fault(HOST, "unreachable")
    time.sleep(1.5)  # the answer is on its way, into nothing
    assert found == []
    lab.fault(HOST, "unreachable", False)
    thread.join()
    assert found[0].output == "late\n"  # TCP has tried again


def wait_for_command(lab: Lab, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while lab.shell(HOST, f"pgrep -f '^{pattern}$'").status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_slow_every_packet_takes_its_time_and_nothing_is_lost(lab: Lab) -> None:
    before = duration(lab, "true")
    lab.fault(HOST, "slow", delay=0.1)
    done = lab.ssh(HOST, "head -c 2000000 /dev/zero | tr '\\0' x")
    assert done.output == "x" * 2000000
    slow = duration(lab, "true")
    assert slow > before + 1
    lab.fault(HOST, "slow", False)
    assert duration(lab, "true") < slow


def duration(lab: Lab, script: str) -> float:
    began = time.monotonic()
    assert lab.ssh(HOST, script).status == 0
    return time.monotonic() - began


def test_slow_lasts_over_a_reboot_and_other_hosts_are_as_fast_as_ever(lab: Lab) -> None:
    lab.fault(HOST, "slow", delay=0.1)
    lab.reboot(HOST)
    slow = duration(lab, "true")
    assert slow > 1
    began = time.monotonic()
    assert lab.ssh("agent-2", "true").status == 0
    assert time.monotonic() - began < slow


def test_no_boot_the_host_reboots_into_nothing(lab: Lab) -> None:
    lab.fault(HOST, "no_boot")
    assert lab.ssh(HOST, "true").status == 0
    lab.ask("reboot", host=HOST)
    assert "no_boot" in until(lab, "no_boot")
    assert lab.ssh(HOST, "true").status == 255


def test_wrong_host_key_stops_ssh_and_is_taken_back(lab: Lab) -> None:
    lab.fault(HOST, "wrong_host_key")
    assert "IDENTIFICATION HAS CHANGED" in lab.ssh(HOST, "true").complaint
    lab.reboot(HOST)
    assert "IDENTIFICATION HAS CHANGED" in lab.ssh(HOST, "true").complaint
    lab.fault(HOST, "wrong_host_key", False)
    assert lab.ssh(HOST, "true").status == 0


def test_disk_full_nothing_can_be_written_and_ssh_works(lab: Lab) -> None:
    lab.fault(HOST, "disk_full")
    done = lab.ssh(HOST, "df --output=avail / | tail -n 1; sudo sh -c 'echo x >/var/lib/x && sync'")
    assert (done.status == 0, done.output.strip()) == (False, "0")
    lab.fault(HOST, "disk_full", False)
    assert lab.ssh(HOST, "sudo sh -c 'echo x >/var/lib/x'").status == 0


def test_ignition_fails_at_the_next_first_boot_and_not_before(lab: Lab) -> None:
    lab.fault(HOST, "ignition_fails")
    lab.reboot(HOST)
    lab.read(HOST, "flatcar-reset -M -K '/etc/ssh/ssh_host_.*'")
    lab.ask("reboot", host=HOST)
    assert "Ignition failed: stage fetch" in until(lab, "emergency")
    with pytest.raises(Trouble, match="is emergency"):
        lab.shell(HOST, "true")


def test_a_host_in_the_emergency_shell_fails_again_until_the_fault_is_gone(lab: Lab) -> None:
    lab.fault(HOST, "ignition_fails")
    lab.read(HOST, "flatcar-reset -M -K '/etc/ssh/ssh_host_.*'")
    lab.ask("reboot", host=HOST)
    until(lab, "emergency")
    lab.power_off(HOST)
    lab.power_on(HOST)
    until(lab, "emergency")
    lab.fault(HOST, "ignition_fails", False)
    lab.power_off(HOST)
    lab.power_on(HOST)
    lab.wait(HOST)
    assert lab.ssh(HOST, "true").status == 0


def test_no_artifacts_one_host_is_refused_and_the_others_are_not(lab: Lab) -> None:
    (lab.artifacts / "file").write_text("there")
    lab.fault(HOST, "no_artifacts")
    ask = "curl -s -o /dev/null -w '%{http_code}' http://10.77.0.1/file"
    assert (lab.read(HOST, ask), lab.read("agent-2", ask)) == ("404", "200")


def test_k3s_never_ready_is_told_to_the_stand_in_also_after_a_reboot(lab: Lab) -> None:
    told = "ls /lab"
    assert lab.read(HOST, told) == ""
    lab.fault(HOST, "k3s_never_ready")
    assert lab.read(HOST, told) == "k3s_never_ready"
    lab.reboot(HOST)
    assert lab.read(HOST, told) == "k3s_never_ready"
    lab.fault(HOST, "k3s_never_ready", False)
    assert lab.read(HOST, told) == ""


def test_ssh_drops_in_the_middle_of_a_command_which_goes_on_without_us(lab: Lab) -> None:
    lab.fault(HOST, "ssh_drops", pattern="^sleep 1.25 $")
    done = lab.ssh(HOST, "echo begun; sleep 1.25; touch /tmp/ended")
    assert (done.status, done.output) == (255, "begun\n")
    assert "closed by remote host" in done.complaint
    assert lab.status()[HOST]["ssh_drops"] == 1
    deadline = time.monotonic() + 60
    while lab.shell(HOST, "test -e /tmp/ended").status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ssh_drops_once_and_the_next_connection_holds(lab: Lab) -> None:
    lab.fault(HOST, "ssh_drops", pattern="^sleep 0.9")
    assert lab.ssh(HOST, "sleep 0.9").status == 255
    assert lab.status()[HOST]["faults"] == {}
    assert lab.ssh(HOST, "sleep 0.9").status == 0


def test_ssh_drops_after_a_time(lab: Lab) -> None:
    lab.fault(HOST, "ssh_drops", after=0.7)
    began = time.monotonic()
    assert lab.ssh(HOST, "sleep 50").status == 255
    assert time.monotonic() - began < 45


def test_ssh_drops_can_be_taken_back_before_it_has_happened(lab: Lab) -> None:
    lab.fault(HOST, "ssh_drops", pattern="^sleep 0.9")
    lab.fault(HOST, "ssh_drops", False)
    assert lab.ssh(HOST, "sleep 0.9").status == 0


def test_a_fault_that_nobody_knows_is_refused_with_those_that_there_are(lab: Lab) -> None:
    with pytest.raises(Trouble, match=f"fire: there is no such fault \\(there are {', '.join(FAULTS)}"):
        lab.fault(HOST, "fire")

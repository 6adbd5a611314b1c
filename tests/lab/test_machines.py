"""The lab's hosts are what i12e takes them for: machines that boot, reboot, are switched off and lose their disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from lab import Done, Lab, Trouble, places

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(lab_of: Callable[..., Lab]) -> Lab:
    return lab_of("server-1", "agent-1")


def boot_id(lab: Lab, host: str) -> str:
    return lab.read(host, "cat /proc/sys/kernel/random/boot_id")


def machine_id(lab: Lab, host: str) -> str:
    return lab.read(host, "cat /etc/machine-id")


def test_a_bare_host_lets_core_in_who_is_root_by_sudo(lab: Lab) -> None:
    done = lab.ssh("server-1", "id -un; sudo -n id -un; systemctl is-system-running")
    assert (done.status, done.output.split(), done.complaint) == (0, ["core", "root", "running"], "")


def test_a_bare_host_has_no_name_and_nothing_of_ours(lab: Lab) -> None:
    assert lab.read("server-1", "hostname; ls /etc/hostname /etc/i12e /opt/bin/* 2>/dev/null || :") == "localhost"


def test_it_says_flatcar_to_programs_and_stand_in_to_people(lab: Lab) -> None:
    told = lab.read("server-1", "cat /etc/os-release")
    assert "ID=flatcar\n" in told
    assert "stands in for Flatcar" in told


def test_usr_cannot_be_written_to(lab: Lab) -> None:
    assert "Read-only" in lab.shell("server-1", "touch /usr/bin/x").complaint


def test_hosts_differ_in_machine_id_and_ssh_keys(lab: Lab) -> None:
    assert machine_id(lab, "server-1") != machine_id(lab, "agent-1")
    key = "cat /etc/ssh/ssh_host_ed25519_key.pub"
    assert lab.read("server-1", key) != lab.read("agent-1", key)


def test_hosts_reach_each_other_and_the_machine_around_them_reaches_none(lab: Lab) -> None:
    assert "SSH-2.0" in lab.read(
        "agent-1", f"curl -s --max-time 2 telnet://{lab.address('server-1')}:22 </dev/null || :"
    )
    outside = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert "10.77.0." not in outside
    assert places.cable("server-1") not in links


def test_a_reboot_gives_another_boot_id_and_leaves_all_else(lab: Lab) -> None:
    before = boot_id(lab, "agent-1"), machine_id(lab, "agent-1")
    lab.read("agent-1", "echo kept >/etc/kept")
    lab.reboot("agent-1")
    assert boot_id(lab, "agent-1") != before[0]
    assert machine_id(lab, "agent-1") == before[1]
    assert lab.read("agent-1", "cat /etc/kept") == "kept"
    assert lab.ssh("agent-1", "true").status == 0


def test_a_reboot_asked_for_over_ssh_ends_that_connection(lab: Lab) -> None:
    boots = lab.status()["agent-1"]["boots"]
    assert lab.ssh("agent-1", "sudo systemctl reboot; sleep 30").status == 255
    lab.wait("agent-1", boots + 1)


def test_a_host_is_shut_down_and_switched_on(lab: Lab) -> None:
    lab.power_off("agent-1")
    assert lab.status()["agent-1"]["state"] == "off"
    with pytest.raises(Trouble, match="agent-1 is off: it has no power"):
        lab.shell("agent-1", "true")
    lab.power_on("agent-1")
    lab.wait("agent-1")
    assert lab.ssh("agent-1", "true").status == 0


def test_a_script_past_the_network_has_its_input_its_outputs_and_its_status(lab: Lab) -> None:
    assert lab.shell("agent-1", "cat; echo 'so \"said\"' >&2; exit 7", b"in") == Done(7, "in", 'so "said"\n')


def test_a_script_past_the_network_is_not_waited_for_beyond_its_end_or_its_limit(lab: Lab) -> None:
    began = time.monotonic()
    assert lab.shell("agent-1", "sleep 30 >/dev/null 2>&1 &").status == 0
    with pytest.raises(Trouble, match=r"agent-1: it did not end within 0\.5 s"):
        lab.shell("agent-1", "sleep 30", limit=0.5)
    assert time.monotonic() - began < 25


def test_a_script_past_the_network_does_not_hold_up_a_reboot(lab: Lab) -> None:
    """systemd-shutdown would wait for 90 seconds for a process that is not its child."""
    began = time.monotonic()
    lab.read("agent-1", "setsid sleep 600 >/dev/null 2>&1 </dev/null &")
    lab.reboot("agent-1")
    assert time.monotonic() - began < 80


def test_a_pulled_plug_ends_everything_on_the_host_and_its_disk_stays(lab: Lab) -> None:
    lab.read("agent-1", "echo written >/var/lib/written; systemd-run --quiet sleep 77777")
    lab.kill("agent-1")
    assert subprocess.run(["pgrep", "-f", "sleep 77777"], check=False, capture_output=True).returncode == 1
    lab.power_on("agent-1")
    lab.wait("agent-1")
    assert lab.read("agent-1", "cat /var/lib/written") == "written"


def test_a_host_that_shuts_itself_down_stays_off(lab: Lab) -> None:
    lab.ssh("agent-1", "sudo systemctl poweroff")
    deadline = time.monotonic() + 120
    while lab.status()["agent-1"]["state"] != "off":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert lab.status()["agent-1"]["why"] == "it was shut down"
    lab.power_on("agent-1")
    lab.wait("agent-1")


def test_a_host_with_a_new_disk_is_another_machine_which_ssh_does_not_know(lab: Lab) -> None:
    before = machine_id(lab, "agent-1")
    lab.read("agent-1", "echo gone >/var/lib/gone")
    lab.wipe("agent-1")
    assert machine_id(lab, "agent-1") != before
    assert "IDENTIFICATION HAS CHANGED" in lab.ssh("agent-1", "true").complaint
    lab.trust("agent-1")
    assert lab.ssh("agent-1", "ls /var/lib/gone").status == 2


def test_a_lab_that_is_up_takes_further_hosts_and_leaves_the_others(lab: Lab, lab_of: Callable[..., Lab]) -> None:
    before = boot_id(lab, "server-1")
    lab_of("server-1", "server-2")
    assert lab.ssh("server-2", "true").status == 0
    assert boot_id(lab, "server-1") == before


def test_a_name_that_has_no_address_is_refused(lab: Lab) -> None:
    with pytest.raises(Trouble, match="web: the lab's hosts are server-1 to server-9"):
        lab.add("web")

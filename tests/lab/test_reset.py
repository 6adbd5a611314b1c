"""A reset on a host of the lab is Flatcar's: flatcar-reset stages it, the next boot does it, the real Ignition follows.

The rules are those of flatcar/init (bin/flatcar-reset) and flatcar/bootengine (dracut/99setup-root).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from lab import Done, Lab

pytestmark = pytest.mark.lab
HOST = "server-1"
KEYS = "/etc/ssh/ssh_host_.*"


@pytest.fixture(scope="module")
def lab(lab_of: Callable[..., Lab]) -> Lab:
    return lab_of(HOST)


def config(lab: Lab, *files: dict[str, Any], units: tuple[dict[str, Any], ...] = ()) -> bytes:
    """Return a config that lets core in and has these files and units."""
    core = {"name": "core", "sshAuthorizedKeys": [lab.public_key]}
    found = {
        "ignition": {"version": "3.4.0"},
        "passwd": {"users": [core]},
        "storage": {"files": files},
        "systemd": {"units": units},
    }
    return json.dumps(found).encode()


def stage(lab: Lab, *keep: str, options: str = "-M", content: bytes = b"") -> Done:
    """Stage a reset that keeps the ssh keys and what is told, with a config of this content or one of nothing."""
    kept = " ".join(f"'{path}'" for path in (KEYS, *keep))
    done = lab.ssh(HOST, f"sudo flatcar-reset {options} -F /dev/stdin -K {kept}", content or config(lab))
    assert done.status == 0, done.complaint
    return done


def there(lab: Lab, *paths: str) -> set[str]:
    """Return which of these paths are there."""
    found = lab.shell(HOST, f"ls -d {' '.join(paths)} 2>/dev/null").output.split()
    return set(found)


def test_it_keeps_what_it_is_told_and_nothing_else(lab: Lab) -> None:
    lab.read(
        HOST,
        "mkdir -p /var/lib/k/keep/deep /var/lib/k/go /srv/only/inside && touch /var/lib/k/keep/deep/file"
        " /var/lib/k/keep-not /var/lib/k/go/file /srv/only/inside/file /etc/own /opt/bin/own /home/core/own /root/own",
    )
    key = lab.read(HOST, "cat /etc/ssh/ssh_host_ed25519_key")
    stage(lab, "/var/lib/k/keep", "/srv/only/.*/file")
    lab.reboot(HOST)
    paths = ["keep/deep/file", "keep-not", "go"]
    assert there(lab, *(f"/var/lib/k/{path}" for path in paths)) == {"/var/lib/k/keep/deep/file"}
    assert there(lab, "/srv/only/inside/file") == {"/srv/only/inside/file"}
    assert there(lab, "/etc/own", "/opt/bin/own", "/home/core/own", "/root/own") == set()
    assert lab.read(HOST, "cat /etc/ssh/ssh_host_ed25519_key") == key
    assert lab.ssh(HOST, "true").status == 0


def test_what_comes_with_the_system_is_there_again_as_it_was(lab: Lab) -> None:
    lab.read(HOST, "rm -r /etc/skel /etc/login.defs; mkdir /etc/skel; echo broken >/etc/hosts")
    stage(lab)
    lab.reboot(HOST)
    paths = {"/etc/login.defs", "/etc/skel/.bashrc"}
    assert there(lab, *paths) == paths
    assert "localhost" in lab.read(HOST, "cat /etc/hosts")
    assert lab.ssh(HOST, "true").status == 0


def test_the_machine_id_stays_by_its_flag_alone(lab: Lab) -> None:
    first = lab.read(HOST, "cat /etc/machine-id")
    stage(lab)
    lab.reboot(HOST)
    assert lab.read(HOST, "cat /etc/machine-id") == first
    assert f"systemd.machine_id={first}" in lab.read(HOST, "cat /oem/grub.cfg")
    stage(lab, "/etc/machine-id", options="")
    lab.reboot(HOST)
    assert lab.read(HOST, "cat /etc/machine-id") != first
    assert "machine_id" not in lab.read(HOST, "cat /oem/grub.cfg")


def test_a_boot_after_a_reset_is_a_first_boot_also_with_the_machine_id_kept(lab: Lab) -> None:
    text = (
        "[Unit]\nConditionFirstBoot=yes\n[Service]\nType=oneshot\nExecStart=/bin/touch /var/first\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    stage(lab, content=config(lab, units=({"name": "first.service", "enabled": True, "contents": text},)))
    lab.reboot(HOST)
    lab.read(HOST, "systemctl is-system-running --wait; rm /var/first")  # by its preset it was wanted, and it has run
    lab.reboot(HOST)
    lab.read(HOST, "systemctl is-system-running --wait; test ! -e /var/first")


def test_without_a_pattern_everything_goes_also_the_ssh_keys(lab: Lab) -> None:
    lab.read(HOST, "echo x >/var/lib/x")
    done = lab.ssh(HOST, "sudo flatcar-reset -F /dev/stdin", config(lab))
    assert done.status == 0
    lab.reboot(HOST)
    assert there(lab, "/var/lib/x") == set()
    assert "IDENTIFICATION HAS CHANGED" in lab.ssh(HOST, "true").complaint
    lab.trust(HOST)


def test_it_neither_reboots_nor_changes_the_root_nor_looks_at_the_config(lab: Lab) -> None:
    boots = lab.status()[HOST]["boots"]
    done = lab.ssh(HOST, "sudo flatcar-reset -F /dev/stdin", b"this is no config")
    assert (done.status, done.output.splitlines()[-1]) == (0, "Staged OS reset, you can reboot now")
    assert lab.read(HOST, "cat /oem/config.ign") == "this is no config"
    assert lab.status()[HOST]["boots"] == boots
    assert lab.ssh(HOST, "sudo flatcar-reset --stop").status == 0
    assert there(lab, "/selective-os-reset", "/boot/flatcar/first_boot") == set()
    lab.reboot(HOST)


def test_a_link_to_a_folder_survives_with_the_folders_that_it_is_in(lab: Lab) -> None:
    """flatcar/Flatcar#1690: `[ -d ]` follows the link, and rmdir does not take it."""
    lab.read(
        HOST,
        "mkdir -p /srv/trap /srv/plain && ln -s ../../usr/share /srv/trap/link && touch /srv/trap/file"
        " && ln -s /nowhere /srv/plain/dangling && ln -s ../../etc/passwd /srv/plain/to-file",
    )
    stage(lab)
    lab.reboot(HOST)
    assert there(lab, "/srv/trap/*", "/srv/plain") == {"/srv/trap/link"}
    stage(lab)
    lab.reboot(HOST)
    assert there(lab, "/srv/trap/link") == {"/srv/trap/link"}


def test_an_absolute_link_leads_where_it_does_in_the_initrd(lab: Lab) -> None:
    lab.read(HOST, "mkdir -p /srv/a /var/lib/there && ln -s /var/lib/there /srv/a/hosts-own && ln -s /etc /srv/a/both")
    stage(lab, "/var/lib/there")
    lab.reboot(HOST)
    assert there(lab, "/srv/a/*") == {"/srv/a/both"}


def test_other_partitions_are_not_touched(lab: Lab) -> None:
    lab.read(HOST, "touch /oem/mine /boot/mine")
    stage(lab)
    lab.reboot(HOST)
    assert there(lab, "/oem/mine", "/boot/mine") == {"/oem/mine", "/boot/mine"}


def test_the_config_stays_and_counts_again_at_the_next_reset(lab: Lab) -> None:
    file = {"path": "/etc/of-config", "mode": 0o640, "contents": {"source": "data:,here"}}
    stage(lab, content=config(lab, file))
    lab.reboot(HOST)
    lab.read(HOST, "rm /etc/of-config")
    assert lab.ssh(HOST, f"sudo flatcar-reset -M -K '{KEYS}'").status == 0
    lab.reboot(HOST)
    assert lab.read(HOST, "stat -c %a /etc/of-config; cat /etc/of-config") == "640\nhere"


def test_a_url_takes_the_place_of_the_file_and_a_file_that_of_the_url(lab: Lab) -> None:
    file = {"path": "/etc/by-url", "contents": {"source": "data:,url"}}
    (lab.artifacts / "url.ign").write_bytes(config(lab, file).replace(b"3.4.0", b"3.3.0"))
    done = lab.ssh(HOST, f"sudo flatcar-reset -M -U http://10.77.0.1/url.ign -K '{KEYS}'")
    assert done.status == 0
    assert there(lab, "/oem/config.ign") == set()
    lab.reboot(HOST)
    assert lab.read(HOST, "cat /etc/by-url") == "url"
    stage(lab)
    assert "ignition.config.url" not in lab.read(HOST, "cat /oem/grub.cfg")
    lab.reboot(HOST)
    assert there(lab, "/etc/by-url") == set()


def fetched(lab: Lab, content: bytes) -> dict[str, Any]:
    """Let the lab's server have a content; return a file of it, with its hash."""
    (lab.artifacts / "content").write_bytes(content)
    source = {
        "source": "http://10.77.0.1/content",
        "verification": {"hash": f"sha256-{hashlib.sha256(content).hexdigest()}"},
    }
    return {"path": "/etc/fetched", "contents": source}


def test_ignition_fetches_by_the_hosts_network_and_checks_the_hash(lab: Lab) -> None:
    stage(lab, content=config(lab, fetched(lab, b"good")))
    lab.reboot(HOST)
    assert lab.read(HOST, "cat /etc/fetched") == "good"
    assert f'{lab.address(HOST)} "GET /content' in (lab.folder / "artifacts.log").read_text()


def test_a_wrong_hash_ends_in_the_emergency_shell_and_ignition_is_tried_again_at_the_next_boot(lab: Lab) -> None:
    stage(lab, "/var/lib/kept", content=config(lab, fetched(lab, b"good")))
    lab.read(HOST, "echo x >/var/lib/kept; echo x >/var/lib/gone")
    (lab.artifacts / "content").write_bytes(b"evil")
    lab.ask("reboot", host=HOST)
    deadline = time.monotonic() + 120
    while lab.status()[HOST]["state"] != "emergency":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "hash verification failed" in lab.status()[HOST]["why"]
    assert lab.ssh(HOST, "true").status == 255
    (lab.artifacts / "content").write_bytes(b"good")
    lab.power_off(HOST)
    lab.power_on(HOST)
    lab.wait(HOST)
    assert there(lab, "/etc/fetched", "/var/lib/kept", "/var/lib/gone") == {"/etc/fetched", "/var/lib/kept"}


def test_a_previewed_reset_is_none(lab: Lab) -> None:
    lab.read(HOST, "mkdir -p /srv/seen && touch /srv/seen/a /etc/mine")
    deleted = lab.read(HOST, "flatcar-reset -P -K /srv/seen").splitlines()
    kept = lab.read(HOST, "flatcar-reset -W -K /srv/seen").splitlines()
    assert {"/etc/mine", "/srv"} <= set(deleted)
    assert set(kept) >= {"/srv/seen", "/srv/seen/a"}
    assert not set(deleted) & {"/srv/seen", "/srv/seen/a", "/etc/login.defs"}
    assert there(lab, "/selective-os-reset") == set()


def test_a_backup_survives_and_is_put_back(lab: Lab) -> None:
    lab.read(HOST, "mkdir -p /srv/b && echo old >/srv/b/file")
    stage(lab, options="-M -B")
    lab.reboot(HOST)
    assert there(lab, "/srv/b") == set()
    lab.read(HOST, "flatcar-reset -R")
    assert lab.read(HOST, "cat /srv/b/file") == "old"
    lab.read(HOST, "flatcar-reset -D")
    assert there(lab, "/flatcar-backup") == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--help", "THIS IS NOT FLATCAR'S"),
        ("-K", "Error: No paths to keep specified for --keep-paths argument"),
        ("/var/log", "Error: Found unused arguments: /var/log"),
        ("-K var/log", "Error: Invalid path to keep, must be an absolute path"),
        ("-F /dev/null -U http://example.com", "exclude each other"),
        ("-S -P", "Error: Only one exclusive action allowed"),
        ("--no-such-option", "unrecognized option"),
    ],
)
def test_it_ends_with_1_and_stages_nothing(lab: Lab, arguments: str, said: str) -> None:
    done = lab.ssh(HOST, f"sudo flatcar-reset {arguments}")
    assert done.status == 1
    assert said in done.output + done.complaint
    assert there(lab, "/selective-os-reset", "/boot/flatcar/first_boot") == set()


def test_it_wants_root(lab: Lab) -> None:
    done = lab.ssh(HOST, "flatcar-reset -K /var/log")
    assert (done.status, "Need to be root" in done.complaint) == (1, True)


def test_long_options_may_be_cut_short_as_getopt_allows(lab: Lab) -> None:
    assert lab.ssh(HOST, "sudo flatcar-reset --keep-m --keep-path /var/log && sudo flatcar-reset -S").status == 0

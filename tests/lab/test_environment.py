"""The environment lab is a cluster like any other, which opens and renders by itself; what a person edits stays."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT, Project, copy_of_example
from i12e import age, backup_keys
from i12e.model import Cluster, load_fleet
from i12e.paths import LAB, Paths, host_names
from i12e.secrets import LAB_KEY, Vault, demo_recipients, demo_values, fingerprint
from lab import Lab, environment
from lab.__main__ import main

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(lab_of: Callable[..., Lab]) -> Lab:
    return lab_of("server-1", "agent-1")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A checkout, in whose environment lab doit runs."""
    monkeypatch.setenv("I12E_ENV", LAB)
    return copy_of_example(tmp_path / "checkout")


def test_it_renders_as_it_was_written_with_a_key_that_nobody_had_to_name(lab: Lab, project: Project) -> None:
    told = environment.write(project.root, lab, servers=1, agents=1)
    assert [line.split()[:2] for line in told] == [
        ["WRITE", f"{folder}/lab/{name}"]
        for folder, name in (
            ("secrets", "cluster.yaml"),
            *(("hosts", f"{name}.yaml") for name in ("server-1", "agent-1")),
            *(("hosts", name) for name in ("artifacts.lock", "ssh_config", "cluster.yaml")),
        )
    ]
    done = project.doit()
    assert (done.status, done.err) == (0, "")
    assert sorted(project.outputs(LAB)) == ["agent-1", "server-1"]


def test_its_tokens_are_its_own_and_sealed_to_its_own_key(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    sealed = (project.root / "secrets/lab/cluster.yaml").read_text()
    assert not [name for name in demo_recipients(ROOT) if name in sealed]
    assert (project.root / LAB_KEY).stat().st_mode & 0o777 == 0o600
    assert "ENC[" in sealed
    from i12e.files import Files

    group = Vault(Paths(project.root, LAB), Files(project.root)).group("cluster")
    assert {fingerprint(group[name]) for name in group}.isdisjoint(demo_values(ROOT))


def test_what_is_there_and_fits_stays_to_the_byte(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    project.edit("hosts/lab/agent-1.yaml", "role: agent\n", "role: agent\nlabels: {mine: here}\n")
    project.edit("hosts/lab/cluster.yaml", "disable: [traefik, servicelb]", "disable: [traefik]")
    before = {path: path.read_bytes() for path in project.root.glob("*/lab/*") if path.is_file()}
    told = environment.write(project.root, lab, 3, 2)
    assert [line.split()[:2] for line in told] == [
        ["KEEP", f"{name}/lab/cluster.yaml"] for name in ("secrets", "hosts")
    ]
    assert {path: path.read_bytes() for path in project.root.glob("*/lab/*") if path.is_file()} == before


def test_a_lost_key_gives_new_tokens_that_open(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    (project.root / LAB_KEY).unlink()
    assert project.doit().status == 1
    assert any("secrets/lab" in line and line.startswith("WRITE") for line in environment.write(project.root, lab))
    assert project.doit().status == 0


def of_lab(project: Project) -> tuple[Paths, Cluster]:
    """Given a project, return the paths and the model of its environment lab."""
    paths = Paths(project.root, LAB)
    fleet = load_fleet(paths.hosts, LAB, host_names(paths), lambda path: (project.root / path).read_bytes())
    assert (fleet.problems, fleet.warnings) == ([], [])
    assert fleet.cluster
    return paths, fleet.cluster


def test_its_backups_have_a_key_of_their_own_and_go_with_the_lab(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    paths, cluster = of_lab(project)
    backup_keys.check(paths, cluster)
    (private,) = backup_keys.private(paths, cluster.name, os.environ)
    assert cluster.backup.recipients == (age.recipient_of(private),)
    (store,) = backup_keys.stores(paths, cluster, os.environ)
    assert store.folder
    Path(store.folder, "x").mkdir(parents=True)
    assert "build/lab" in environment.remove(project.root)
    assert not Path(store.folder).exists()
    assert not (project.root / backup_keys.LAB_BACKUP_KEY).exists()


def test_a_lab_of_before_or_with_a_lost_key_gets_its_recipient_and_keeps_what_a_person_wrote(
    lab: Lab, project: Project
) -> None:
    environment.write(project.root, lab, 1, 1)
    _, cluster = of_lab(project)
    place = project.root / "hosts/lab/cluster.yaml"
    text = place.read_text()
    section = f"backup:\n  recipients: [{cluster.backup.recipients[0]}]\n"
    assert section in text
    place.write_text(text.replace(section, "backup: {every: 1h} # mine\n"))
    assert "WRITE    hosts/lab/cluster.yaml" in environment.write(project.root, lab)
    (project.root / backup_keys.LAB_BACKUP_KEY).unlink()
    environment.write(project.root, lab)
    paths, now = of_lab(project)
    (private,) = backup_keys.private(paths, now.name, os.environ)
    assert now.backup.recipients == (*cluster.backup.recipients, age.recipient_of(private))
    assert now.backup.every == "1h"
    assert "# mine" in place.read_text()
    place.write_text(text.replace(section, "backup: ~\n"))
    told = environment.write(project.root, lab)
    assert any(line.startswith("warning: hosts/lab/cluster.yaml has not the lab's key for backups") for line in told)


def test_another_ssh_key_of_the_labs_takes_the_place_of_the_old_one(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    project.edit("hosts/lab/cluster.yaml", lab.public_key, "ssh-ed25519 AAAAold i12e-lab")
    environment.write(project.root, lab)
    assert lab.public_key in (project.root / "hosts/lab/cluster.yaml").read_text()


def test_the_lock_file_follows_the_stand_in(
    lab: Lab, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.write(project.root, lab, 1, 1)
    other = tmp_path / "k3s"
    other.write_text('#!/bin/sh\nVERSION = "other"\n')
    monkeypatch.setattr(environment, "stand_in", lambda: other)
    assert "WRITE    hosts/lab/artifacts.lock" in environment.write(project.root, lab)
    assert project.doit().status == 0
    monkeypatch.undo()


def test_each_release_in_the_lock_file_can_be_had_and_says_its_version(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    for version in environment.VERSIONS:
        url = f"http://10.77.0.1/k3s-io/k3s/releases/download/{version.replace('+', '%2B')}/k3s"
        said = lab.read("agent-1", f"curl -sf {url} -o /tmp/k3s && chmod +x /tmp/k3s && /tmp/k3s --version")
        assert version in said
        assert "stand-in" in said


def test_a_bare_host_becomes_what_its_config_says(lab: Lab, project: Project) -> None:
    environment.write(project.root, lab, 1, 1)
    assert project.doit().status == 0
    config = project.outputs(LAB)["agent-1"]
    reset = "sudo flatcar-reset -M -F /dev/stdin -K '/etc/ssh/ssh_host_.*' >/dev/null"
    assert lab.ssh("agent-1", reset, config).status == 0
    lab.reboot("agent-1")
    assert lab.ssh("agent-1", "hostname; sudo -n true").output == "agent-1\n"
    told = json.loads(lab.read("agent-1", "cat /etc/i12e/host.json"))
    assert (told["cluster"], told["host"]) == ("lab", "agent-1")
    assert "stand-in" in lab.read("agent-1", "/opt/bin/k3s --version")
    assert lab.read("agent-1", "systemctl is-enabled k3s-agent") == "enabled"
    assert "waits for a server" in lab.read("agent-1", "journalctl -u k3s-agent --no-pager")


def test_new_machines_are_not_known_by_the_ids_of_the_old_ones(lab: Lab, project: Project) -> None:
    project.write("hosts/lab/machines.lock", f"# ids\nserver-1 {'1' * 32}\nagent-1 {'2' * 32}\n")
    environment.forget(project.root, ["agent-1", "agent-2"])
    assert (project.root / "hosts/lab/machines.lock").read_text() == f"# ids\nserver-1 {'1' * 32}\n"


def test_nothing_of_it_gets_into_git() -> None:
    paths = ["hosts/lab/cluster.yaml", "secrets/lab/cluster.yaml", LAB_KEY, backup_keys.LAB_BACKUP_KEY]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("no git checkout")
    assert done.stdout.split() == paths


def test_up_status_fault_and_down_from_a_shell(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(project.root)]

    def lab(*arguments: str) -> tuple[int, str]:
        status = main([*root, *arguments])
        return status, capsys.readouterr().out

    try:
        assert lab("status") == (0, "the lab is not up: ./doit lab_up\n")
        status, out = lab("up", "--servers", "1", "--agents", "0")
        assert (status, "BOOT     server-1  (bare:" in out) == (0, True)
        assert lab("fault", "server-1", "slow", "--delay", "0.01") == (0, "")
        assert lab("status") == (0, "server-1   10.77.0.11   up         1 boot; faults: slow delay=0.01\n")
        assert "KEEP     server-1  (the lab was up)" in lab("up")[1]
        assert "note: hosts/lab is there and has server-1" in lab("up", "--agents", "2")[1]
        assert lab("shell", "server-1", "echo in; exit 7") == (7, "in\n")
        login = ["ssh", "-F", "hosts/lab/ssh_config", "server-1", "id -un"]
        done = subprocess.run(login, cwd=project.root, capture_output=True, text=True, check=True)
        assert done.stdout == "core\n"
    finally:
        status, out = lab("down", "--purge")
    assert out.splitlines()[1:] == [f"REMOVE   {name}/" for name in ("hosts/lab", "secrets/lab", "build/lab")]
    assert main([*root, "fault", "server-1", "slow"]) == 1
    assert capsys.readouterr().err == "the lab is not up: ./doit lab_up\n"

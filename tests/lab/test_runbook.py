"""docs/runbooks/disaster.md is true: its commands, typed line by line where all is lost, bring the cluster back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import test_readme
from conftest import need
from i12e.paths import LAB_MACHINES
from lab import Lab, environment
from lab.clones import Operator
from lab.fixtures import running
from lab.restores import Scene
from terminal import Typed
from test_restore_docs import commands

pytestmark = pytest.mark.lab

HOSTS = ["server-1", "agent-1"]
COPIES = ("age-key.txt", "backup-key.txt")


def environ() -> dict[str, str]:
    """Return the environment of a person who has nothing of i12e's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SOPS_", "DOIT_", "I12E_"))}
    return {**own, "PYTHONDONTWRITEBYTECODE": "1"}


class Person:
    """Somebody who types commands into a shell, and answers what is asked."""

    def __init__(self, folder: Path, answers: dict[str, str]) -> None:
        self._folder = folder
        self._answers = answers
        self.seen = ""

    def types(self, *lines: str, host: str = "") -> None:
        """Given commands, type them into one shell, which has to end well."""
        text = "\n".join(["set -e", *lines])
        shell = Typed(["/bin/sh", "-c", text], self._folder, environ())
        answers = dict(self._answers) | ({f"Type the host's name, {host}": host} if host else {})
        while shell._more():
            for question, answer in list(answers.items()):
                if question in shell.seen:
                    shell.type(answer)
                    del answers[question]
        status = shell.end()
        self.seen += shell.seen
        assert status == 0, shell.seen


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[tuple[Lab, Scene, Path]]:
    """A cluster that was backed up, its repository pushed and its keys copied; then laptop and hosts are gone."""
    need((Path(sys.prefix) / "requirements.lock").exists(), "the environment that the launcher makes: ./doit test")
    laptop = test_readme.clone(tmp_path / "laptop")  # with its .venv, so that no clone of it has to make one
    operator = Operator(laptop)
    with running(tmp_path / "machines", HOSTS) as lab:
        environment.write(laptop, lab, 1, 1)
        scene = Scene(operator, lab, HOSTS)
        scene.settings("\nbackup:\n", f"\nbackup:\n  stores: [{{name: nas, folder: {tmp_path / 'nas'}}}]\n")
        (tmp_path / "nas").mkdir()
        operator.deploys()
        scene.fill(300)
        scene.back_up()
        copies = tmp_path / "safe"
        copies.mkdir()
        for name in COPIES:
            shutil.copy(laptop / LAB_MACHINES / name, copies)
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        for command in (["add", "-f", "hosts/lab", "secrets/lab"], [*identity, "commit", "-q", "-m", "lab"]):
            subprocess.run(["git", *command], cwd=laptop, check=True)
        subprocess.run(["git", "clone", "-q", "--bare", str(laptop), str(tmp_path / "remote")], check=True)
        told = json.loads(operator.doit("recovery_kit", "--json").out)["results"][0]
        (tmp_path / "kit").write_text("\n".join(told["commands"]))
        shutil.rmtree(laptop)
        for host in HOSTS:
            lab.kill(host)
            lab.wipe(host)
            lab.power_on(host)
        (tmp_path / "machines/known_hosts").unlink()
        yield lab, scene, tmp_path


@pytest.mark.sweep  # two minutes
def test_the_laptop_and_all_hosts_are_gone_and_the_lines_of_the_page_bring_the_cluster_back(
    lost: tuple[Lab, Scene, Path],
) -> None:
    _, scene, folder = lost
    told = (folder / "kit").read_text().splitlines()
    clone, files = told.index("cd i12e"), [line for line in told if line.startswith("install")]
    person = Person(folder, {"Is it the same?": "yes", "to go on:": "lab"})
    # what differs from cluster to cluster is in the kit: where the copies are, the repository, and the keys' files
    own = [f"copies={folder / 'safe'}", f"git clone {folder / 'remote'} i12e"]
    person.types(*own, *told[2 : clone + 2], *files)
    checkout = Person(folder / "i12e", person._answers)
    names = [line for line in commands("The laptop is gone too") if line.startswith("./doit")]
    before = names[: names.index("./doit restore --only-plan")]
    checkout.types("export I12E_ENV=lab", *before)
    for line in commands("All hosts are gone"):
        for host in HOSTS if "HOST" in line else [""]:
            checkout.types("export I12E_ENV=lab", line.replace("HOST", host), host=host)
    assert "restored and proven in" in checkout.seen
    back = Scene(Operator(folder / "i12e"), scene.lab, HOSTS, scene.uid, scene.objects)
    back.is_back()
    assert back.epoch() == 2

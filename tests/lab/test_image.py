"""The hosts' common root is there whole or not at all; what a lab lacks is told with what brings it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import ignition
from conftest import need
from lab import image, needs

# As mmdebstrap is called, the folder is the last argument.
MAKES = 'for root; do :; done; mkdir -p "$root/etc/ssh"; touch "$root/etc/ssh/ssh_host_key" "$root/whole"'
DIES = 'for root; do :; done; mkdir -p "$root/etc"; echo "E: no network" >&2; kill -9 $$'


@pytest.fixture
def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of mmdebstrap, whose text a test writes; the cache is empty."""
    monkeypatch.setattr(image, "CACHE", tmp_path / "cache")
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def write(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_it_is_made_once_and_has_no_machines_own_files(mmdebstrap: Path, tmp_path: Path) -> None:
    write(mmdebstrap, f'echo run >>"{tmp_path}/runs"; {MAKES}')
    told: list[str] = []
    root = image.root(told.append)
    assert image.root(told.append) == root
    assert (tmp_path / "runs").read_text() == "run\n"
    assert len(told) == 1
    assert (root / "whole").exists()
    assert not (root / "etc/ssh/ssh_host_key").exists()


def test_a_root_that_was_not_finished_is_not_taken_for_a_whole_one(mmdebstrap: Path) -> None:
    write(mmdebstrap, DIES)
    with pytest.raises(image.Failed, match="E: no network"):
        image.root(print)
    assert not image.ready()
    write(mmdebstrap, MAKES)
    root = image.root(print)
    assert [path.name for path in root.parent.iterdir() if path.name != "lock"] == [root.name]


def test_another_list_of_packages_is_another_root(mmdebstrap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.place()
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "another"))
    assert image.place() != before


def test_what_is_missing_is_told_as_the_line_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"unshare", "nsenter", "ssh", "ssh-keygen", "usermod"}
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(ignition, "ENGINE", "/nowhere")
    monkeypatch.setattr(image, "ready", lambda: False)
    assert needs.missing() == "packages: apt-get install ignition iproute2 mmdebstrap systemd-container"


def test_who_is_not_root_is_told_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo ./doit lab_up" in needs.missing()


def test_shellcheck_has_nothing_against_the_stand_in_for_flatcar_reset() -> None:
    need(shutil.which("shellcheck"), "shellcheck")
    script = image.GUEST / "usr/bin/flatcar-reset"
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")

"""The README is true: its session, typed into a fresh clone, gives what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT, need

pytestmark = pytest.mark.slow


@dataclass
class Step:
    """A command of the README and the output that it shows."""

    command: str
    output: str


def session() -> list[Step]:
    """Return the commands of the README's console blocks in their order."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    steps: list[Step] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], ""))
        else:
            steps[-1].output += f"{line}\n"
    return steps


def clone(place: Path) -> Path:
    """Given a folder, make a clone of this checkout as it is now, with the environment that runs these tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode)
    (place / ".venv").symlink_to(sys.prefix)
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


def plain(text: str) -> str:
    """Given an output, return it without what differs from run to run: times."""
    return re.sub(r"\(\d+\.\d s\)", "(N s)", text)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A fresh clone."""
    need((Path(sys.prefix) / "requirements.lock").exists(), "the environment that the launcher makes: ./doit test")
    return clone(tmp_path / "i12e")


def test_the_session_of_the_readme_gives_what_it_shows(fresh: Path) -> None:
    steps = session()
    assert len(steps) >= 6
    for step in steps:
        shell = ["/bin/sh", "-c", f"exec 2>&1; {step.command}"]
        done = subprocess.run(shell, cwd=fresh, check=False, text=True, stdout=subprocess.PIPE)
        assert plain(done.stdout) == plain(step.output), step.command


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / name).exists(), name


def test_the_launcher_works_from_elsewhere_through_a_link_and_in_a_path_with_spaces(
    fresh: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "a place with spaces"
    fresh.rename(moved)
    link = tmp_path / "bin"
    link.symlink_to(moved / "doit")
    done = subprocess.run([link, "list"], cwd="/", check=True, capture_output=True, text=True)
    assert "\nrender " in done.stdout


def test_the_launcher_says_in_one_line_which_python_it_needs(fresh: Path, tmp_path: Path) -> None:
    (fresh / ".venv").unlink()
    old = tmp_path / "bin/python3"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("cmp", "readlink"):
        (old.parent / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/sh", "./doit"], cwd=fresh, check=False, capture_output=True, text=True, env={"PATH": str(old.parent)}
    )
    assert done.returncode == 1
    assert (
        done.stderr == "i12e needs Python 3.11 or newer: none on PATH (Debian: apt-get install python3 python3-venv)\n"
    )


def test_a_changed_lock_makes_the_environment_again_and_a_failing_setup_says_what_to_do(fresh: Path) -> None:
    (fresh / ".venv").unlink()
    (fresh / "requirements.lock").write_text("no-such-package-of-i12e==1.0 --hash=sha256:" + "0" * 64 + "\n")
    environ = {**os.environ, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_NO_INDEX": "1"}
    done = subprocess.run(["./doit"], cwd=fresh, check=False, capture_output=True, text=True, env=environ)
    assert done.returncode == 1
    assert "failed" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (fresh / ".venv/requirements.lock").exists()

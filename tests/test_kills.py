"""A run that is killed at any moment: the next one reaches the same end, and does not repeat what was done.

The kill points are the audit events of the run (files opened, renamed, made, removed; the database
opened), each counted once; the full sweep is I12E_SWEEP=full, otherwise a seeded sample.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import ROOT, Project, small_project
from killing import killed_at

FULL = os.environ.get("I12E_SWEEP") == "full"
SAMPLE = 40


def fleet(root: Path) -> Project:
    """Given a folder, make a project of five hosts with edits to be built: a new, a changed and a removed host."""
    project = small_project(root)
    for number in range(2, 5):
        project.write(f"hosts/example/agent-{number}.yaml", f"role: agent\naddresses: [192.0.2.{30 + number}]\n")
    assert project.doit().status == 0
    project.write("templates/local/files/hostname", "{{ host.name }} new\n")
    project.write("hosts/example/agent-5.yaml", "role: agent\naddresses: [192.0.2.50]\n")
    (project.root / "hosts/example/agent-2.yaml").unlink()
    return project


def killed_build(project: Project, point: int) -> tuple[bool, str]:
    """Given a project and a number, build it in a child that dies at that event below build/.

    Return whether it was killed, and what it had printed.
    """
    printed = project.root.parent / "printed"

    def build() -> None:
        with printed.open("w", buffering=1) as out:  # a line is out when it is written, as on a terminal
            assert project.run([], out, out) == 0

    return killed_at(point, build, "/build/"), printed.read_text()


def points(project: Project, place: Path) -> int:
    """Given a project, return how many kill points its build has."""
    number = 64
    while killed_build(copy_of(project, place), number)[0]:
        number *= 2
    low, high = number // 2, number
    while high - low > 1:
        middle = (low + high) // 2
        if killed_build(copy_of(project, place), middle)[0]:
            low = middle
        else:
            high = middle
    return low


def copy_of(project: Project, place: Path) -> Project:
    """Given a project and a folder, copy the project there as it is."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(project.root, place / "checkout", symlinks=True)
    return Project(place / "checkout")


@pytest.mark.slow
def test_a_build_killed_at_any_event_is_finished_by_the_next_one(tmp_path: Path) -> None:
    start = fleet(tmp_path / "start")
    end = copy_of(start, tmp_path / "end")
    end.doit()
    number = points(start, tmp_path / "count")
    assert number > 20
    chosen = range(1, number + 1)
    sample = chosen if FULL else sorted(random.Random(7).sample(chosen, min(SAMPLE, number)))  # noqa: S311
    killed = sum(check_kill(copy_of(start, tmp_path / "victim"), point, end) for point in sample)
    assert killed > len(sample) * 0.8  # the last points are not reached by each run: stamps settle or they do not


def check_kill(project: Project, point: int, end: Project) -> bool:
    """Given a project, a kill point and the project as it should end, kill a build there and finish it.

    Return whether it came to that point.
    """
    killed, printed = killed_build(project, point)
    for path in (project.root / "build").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, (point, path)
    done = project.doit()
    assert done.status == 0, (point, done.err)
    assert project.outputs() == end.outputs(), point
    finished = set(re.findall(r"^RENDER +(\S+)", printed, re.MULTILINE))
    again = {line.split()[1] for line in done.lines if line.startswith("RENDER")}
    assert not finished & again, (point, printed, done.out)
    assert not project.doit().lines, point
    left = {path.name for path in (project.root / "build/example").rglob("*") if path.suffix == ".new"}
    assert not left, point
    return killed


@pytest.mark.slow
def test_a_process_killed_at_random_times_leaves_nothing_that_the_next_run_does_not_mend(tmp_path: Path) -> None:
    start = fleet(tmp_path / "start")
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, start.root / name)
    end = copy_of(start, tmp_path / "end")
    end.doit()
    rng = random.Random(11)  # noqa: S311
    for _ in range(40 if FULL else 6):
        project = copy_of(start, tmp_path / "victim")
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
        command = [sys.executable, "-m", "doit"]
        child = subprocess.Popen(command, cwd=project.root, env=environ, stdout=subprocess.PIPE, text=True)
        killer = threading.Timer(rng.uniform(0.05, 1.0), child.kill)
        killer.start()
        printed, _ = child.communicate(timeout=60)
        killer.cancel()
        done = project.doit()
        assert done.status == 0, done.err
        assert project.outputs() == end.outputs()
        finished = set(re.findall(r"^RENDER +(\S+)", printed, re.MULTILINE))
        assert not finished & {line.split()[1] for line in done.lines if line.startswith("RENDER")}

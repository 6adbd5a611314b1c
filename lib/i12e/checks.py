"""What is done for this checkout as a whole: ./doit test, bench, schema, and the lab of hosts on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from i12e.errors import Problem, UserError

SIDE_BY_SIDE = ("-n", "auto", "-m", "not lab")
LAB = ("-m", "lab")
"""By themselves: they watch clocks, and a lab keeps the machine busy."""
_SOME_FAILED = 1  # pytest's status: it ran all of them


def run_tests(root: Path) -> None:
    """Given the checkout, install the tools of its tests if they are not there, and run them."""
    from i12e import bootstrap  # slow to import, and no other task has use for it

    try:
        bootstrap.install(root, bootstrap.DEVELOPMENT)
    except bootstrap.SetupError as error:
        raise UserError(Problem("", None, None, str(error))) from None
    statuses = [_status_of(root, "pytest", *SIDE_BY_SIDE)]
    if statuses[0] in (0, _SOME_FAILED):
        statuses.append(_status_of(root, "pytest", *LAB))
    if any(statuses):
        raise UserError(Problem("", None, None, f"pytest: exit status {next(filter(None, statuses))}"))


BENCHMARKS = (
    {"name": "hosts", "long": "hosts", "type": int, "default": 1000, "help": "how many hosts the fleet has"},
    {"name": "rounds", "long": "rounds", "type": int, "default": 5, "help": "a figure is the best of so many"},
    {"name": "alone", "long": "alone", "type": bool, "default": False, "help": "without ansible-core and helm"},
    {"name": "record", "long": "record", "type": bool, "default": False, "help": "into docs/performance.md, too"},
)


def run_benchmarks(root: Path, hosts: int, rounds: int, alone: bool, record: bool) -> None:
    """Given the checkout and what `BENCHMARKS` says, measure how long a fleet takes, and print the tables."""
    flags = [flag for flag, wanted in (("--alone", alone), ("--record", record)) if wanted]
    _run_module(root, "benchmarks", f"--hosts={hosts}", f"--rounds={rounds}", *flags)


LAB_UP = (
    {"name": "servers", "long": "servers", "type": int, "default": -1, "help": "how many servers a new lab has (3)"},
    {"name": "agents", "long": "agents", "type": int, "default": -1, "help": "how many agents a new lab has (2)"},
)
LAB_DOWN = (
    {"name": "purge", "long": "purge", "type": bool, "default": False, "help": "remove hosts/lab and its keys, too"},
)


def lab_up(root: Path, servers: int, agents: int) -> None:
    """Given the checkout and how many hosts there are to be (less than 0: as always), start its lab."""
    asked = (("servers", servers), ("agents", agents))
    _run_lab(root, "up", *(f"--{name}={number}" for name, number in asked if number >= 0))


def lab_down(root: Path, purge: bool) -> None:
    """Given the checkout, end its lab; with `purge`, remove what is the lab's in the checkout."""
    _run_lab(root, "down", *(["--purge"] if purge else []))


def lab_status(root: Path) -> None:
    """Given the checkout, print what its lab's hosts do."""
    _run_lab(root, "status")


def _run_lab(root: Path, *arguments: str) -> None:
    import os
    import subprocess

    environ = {**os.environ, "PYTHONPATH": str(root / "tests")}
    command = [sys.executable, "-m", "lab", *arguments]
    done = subprocess.run(command, cwd=root, env=environ, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(Problem("", None, None, done.stderr.strip() or f"lab: exit status {done.returncode}"))


def _run_module(root: Path, *arguments: str) -> None:
    if status := _status_of(root, *arguments):
        raise UserError(Problem("", None, None, f"{arguments[0]}: exit status {status}"))


def _status_of(root: Path, *arguments: str) -> int:
    import subprocess

    return subprocess.run([sys.executable, "-m", *arguments], cwd=root, check=False).returncode


def write_schemas(root: Path) -> None:
    """Given the checkout, write what is made of the model for editors and readers."""
    from i12e import reference  # it needs pydantic, which no task's name waits for

    reference.write(root)

"""What is done for this checkout as a whole: ./doit test, ./doit bench and ./doit schema."""

from __future__ import annotations

import sys
from pathlib import Path

from i12e.errors import Problem, UserError


def run_tests(root: Path) -> None:
    """Given the checkout, install the tools of its tests if they are not there, and run them."""
    from i12e import bootstrap  # slow to import, and no other task has use for it

    try:
        bootstrap.install(root, bootstrap.DEVELOPMENT)
    except bootstrap.SetupError as error:
        raise UserError(Problem("", None, None, str(error))) from None
    _run_module(root, "pytest")


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


def _run_module(root: Path, *arguments: str) -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-m", *arguments], cwd=root, check=False)
    if done.returncode:
        raise UserError(Problem("", None, None, f"{arguments[0]}: exit status {done.returncode}"))


def write_schemas(root: Path) -> None:
    """Given the checkout, write what is made of the model for editors and readers."""
    from i12e import reference  # it needs pydantic, which no task's name waits for

    reference.write(root)

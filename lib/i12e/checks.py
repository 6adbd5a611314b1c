"""What is done for the checkout itself: ./doit test and ./doit schema."""

from __future__ import annotations

import sys
from pathlib import Path

from i12e.errors import Problem, UserError


def run_tests(root: Path) -> None:
    """Given the checkout, install the tools of its tests if they are not there, and run them."""
    import subprocess

    from i12e import bootstrap  # slow to import, and no other task has use for it

    try:
        bootstrap.install(root, bootstrap.DEVELOPMENT)
    except bootstrap.SetupError as error:
        raise UserError(Problem("", None, None, str(error))) from None
    done = subprocess.run([sys.executable, "-m", "pytest"], cwd=root, check=False)
    if done.returncode:
        raise UserError(Problem("", None, None, f"pytest: exit status {done.returncode}"))


def write_schemas(root: Path) -> None:
    """Given the checkout, write what is made of the model for editors and readers."""
    from i12e import reference  # it needs pydantic, which no task's name waits for

    reference.write(root)

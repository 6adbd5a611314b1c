"""Operators, as tests need them: a clone of the repository each, and ./doit in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from i12e.paths import LAB, LAB_MACHINES

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How ./doit ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """A clone of the repository, and ./doit in it."""

    root: Path
    enter: tuple[str, ...] = ()
    """What runs a command in the network that the operator is in."""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ./doit."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SOPS_", "DOIT_"))}
        environ = {**own, "I12E_ENV": LAB, "PYTHONPATH": str(self.root / "lib")}
        command = [*self.enter, sys.executable, "-m", "i12e", *arguments]
        out = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True
        )

    def doit(self, *arguments: str) -> Ended:
        """Run ./doit to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, out, err)

    def deploys(self, *arguments: str) -> Ended:
        """Run os_deploy, which has to go well."""
        done = self.doit(*(arguments or ("os_deploy",)), "--yes", "--timeout", "60s")
        assert done.status == 0, done.out + done.err
        return done

    def edit(self, path: str, old: str, new: str) -> None:
        """Put a text in the place of another one."""
        place = self.root / path
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new, 1))


def clone(root: Path) -> Operator:
    """Given a folder that is not there, make it a clone without any state."""
    for name in ("hosts/example", "hosts/example-fcos", "secrets", "templates", "lib"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.pyc", "lab"))
    for name in (".sops.yaml", "dodo.py", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    return Operator(root)


def another_clone(operator: Operator, root: Path) -> Operator:
    """Given an operator, return one with the same repository and keys, and an empty database."""
    other = clone(root)
    for name in ("hosts/lab", "secrets/lab", LAB_MACHINES):
        shutil.copytree(operator.root / name, root / name, ignore=shutil.ignore_patterns("*.console", "*.log"))
    return replace(other, enter=operator.enter)

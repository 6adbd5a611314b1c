"""Where sops changes files: on copies in a private folder below build/, which then take the files' places at once.

So a kill, an editor that crashes and two people at once leave whole files, and nothing decrypted lies
anywhere else.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i12e import files, programs
from i12e.errors import Problem, UserError
from i12e.paths import Paths
from i12e.secrets import complaint, sops_environ

RULES = ".sops.yaml"
_QUIET = "--disable-version-check"  # which would ask the network


@contextmanager
def workbench(paths: Paths, rules: str) -> Iterator[Path]:
    """Given an environment and the text of its .sops.yaml, give a private folder with that text until the block ends.

    Copies have the paths in it that the files have in the checkout, so that sops finds their rules.
    """
    tidy(paths)
    folder = paths.root / paths.build / f"workbench-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    files.replace(folder / RULES, rules.encode())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tidy(paths: Paths) -> None:
    """Given an environment, remove what killed runs left: their workbenches, and what was to become a file."""
    for old in (paths.root / paths.build).glob("workbench-*"):
        if not files.lives(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    files.sweep(paths.root, RULES)
    files.sweep(paths.root / paths.hosts)
    for folder in (paths.root / "secrets", *(paths.root / "secrets").rglob("*/")):
        files.sweep(folder)


def flags(folder: Path) -> tuple[str, ...]:
    """Given a workbench, return the flags with which sops works there."""
    return (_QUIET, "--config", str(folder / RULES))


def sops() -> str:
    """Return the path of sops; raise UserError if there is none."""
    try:
        return programs.sops()
    except programs.Missing as error:
        raise UserError(Problem("", None, None, str(error))) from None


def seal(folder: Path, path: str, text: str) -> bytes:
    """Given a workbench, a path in it and a YAML text, return the text sealed by the path's rule.

    The text goes through a pipe. Raise UserError if sops cannot do that.
    """
    types = ("--input-type", "yaml", "--output-type", "yaml", "--filename-override", str(folder / path))
    done = programs.run(sops(), *flags(folder), "encrypt", *types, stdin=text)
    if done.status:
        raise UserError(Problem(path, None, None, f"sops cannot seal it: {last_line(done)}"))
    return done.output.encode()


def opened(paths: Paths, name: str, path: Path) -> str:
    """Given an environment, a sealed file's name for messages and where it lies, return its text, in memory.

    Raise UserError if it does not open.
    """
    done = programs.run(sops(), _QUIET, "decrypt", str(path), environ=sops_environ(paths))
    if done.status:
        raise UserError(complaint(name, done, path.read_bytes()))
    return done.output


def put(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Given a file of the checkout and its new content, put that there at once; `mode` is for a file that is new."""
    new = files.part(path)
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        if path.exists():
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def last_line(done: programs.Done) -> str:
    """Given how a program ended, return the last thing that it said."""
    return (done.complaint.strip().splitlines() or [f"exit status {done.status}"])[-1]

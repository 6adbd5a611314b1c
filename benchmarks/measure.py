"""What a command takes: time, time of a processor, memory; and several commands in turns."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Prepare = Callable[[int], object]


class Failed(Exception):
    """A command that is measured ended with an error; says which, and its last line."""


def nothing(number: int) -> None:
    """What is done before a round where nothing is."""


@dataclass(frozen=True)
class Spent:
    """What something took; `processor` is less noisy than `seconds` on a machine that has other work to do."""

    seconds: float
    """By the clock on the wall."""
    processor: float
    """Seconds of a processor, in the program and in the system for it, with all processes that it waited for."""
    memory: int = 0
    """Peak of the largest process, MB."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds, self.processor + other.processor, max(self.memory, other.memory)
        )  # fmt: skip

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.seconds - other.seconds, self.processor - other.processor, self.memory)

    def over(self, parts: float) -> Spent:
        """Given a number of parts, return what one of them took."""
        return Spent(self.seconds / parts, self.processor / parts, self.memory)


@dataclass(frozen=True)
class Job:
    """Commands, run one after another in a folder, and what is done before the clock starts, given the round."""

    place: Path
    commands: Sequence[Sequence[str]]
    prepare: Prepare = nothing
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(self, number: int) -> Spent:
        """Given the round's number, prepare and run; return what the commands took; raise Failed if one fails."""
        self.prepare(number)
        spent = Spent(0, 0)
        for command in self.commands:
            spent += run(command, self.place, self.environ)
        return spent


def run(command: Sequence[str], place: Path, environ: Mapping[str, str]) -> Spent:
    """Given a command, its folder and additions to the environment, return what it took; raise Failed if it fails.

    The memory is not less than our own: a process begins as a copy of the one that starts it.
    """
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=place, env=own | dict(environ), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"{Path(command[0]).name}: {lines[-1] if lines else f'exit status {process.returncode}'}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // _PER_MB)


_PER_MB = 1 << 20 if os.uname().sysname == "Darwin" else 1 << 10


def best(found: Sequence[Spent]) -> Spent:
    """Given what rounds took, return the least time of each kind, and the most memory."""
    return Spent(
        min(spent.seconds for spent in found),
        min(spent.processor for spent in found),
        max(spent.memory for spent in found),
    )


def in_turns(rounds: int, *jobs: Job) -> list[Spent]:
    """Given a number of rounds and jobs, run each job once a round; return the best of each."""
    found: list[list[Spent]] = [[] for _ in jobs]
    os.sync()  # what was written so far is not to be written back while the clock runs
    for number in range(rounds):
        for spent, job in zip(found, jobs, strict=True):
            spent.append(job.run(number))
    return [best(spent) for spent in found]

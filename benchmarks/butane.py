"""How long lib/butane takes beside the least that any translator must do: `python -m benchmarks.butane`.

The floor is libyaml's reading of the same text into nodes and the printing of the outcome by Python's json, in the
same run. The text is that of a server of the example. Its files are also taken 4, 16 and 64 times.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import butane
from benchmarks.fleet import Fleet
from benchmarks.measure import Job, in_turns, nothing
from butane import dataurls

TIMES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Translated:
    """Seconds that one text takes: the floor, ours with contents that were met before, and ours without."""

    files: int
    floor: float
    warm: float
    first: float


@dataclass(frozen=True)
class Measured:
    """The text with ever more files, and `python -m butane` as a process of its own with the first of them."""

    sizes: list[Translated]
    process: float


def measure(text: str, folder: Path, rounds: int) -> Measured:
    """Given a Butane text, a folder to work in and the rounds, return what its translation takes."""
    path = folder / "server.bu"
    path.write_text(text)
    [spent] = in_turns(rounds, Job(folder, [[sys.executable, "-m", "butane", str(path)]]))
    return Measured([_translated(with_files(text, times), rounds) for times in TIMES], spent.seconds)


def with_files(text: str, times: int) -> str:
    """Given a Butane text with files, return it with each of them that many times, under as many paths."""
    lines = text.splitlines(keepends=True)
    files = _at(_at(yaml.compose(text, yaml.CLoader), "storage"), "files")
    start, end = files.start_mark.line, files.end_mark.line
    paths = {_at(file, "path").start_mark.line for file in files.value}
    copies = (_renamed(lines, range(start, end), paths, copy) for copy in range(1, times))
    return "".join(lines[:end]) + "".join(copies) + "".join(lines[end:])


def _renamed(lines: list[str], block: range, paths: set[int], copy: int) -> str:
    return "".join(f"{lines[n].rstrip()}.{copy}\n" if n in paths else lines[n] for n in block)


def _at(node: Any, key: str) -> Any:
    return next(value for name, value in node.value if name.value == key)


def _translated(text: str, rounds: int) -> Translated:
    config = butane.translate(text).config
    floor, warm, first = _best(
        rounds,
        (nothing, lambda: (yaml.CLoader(text).get_single_node(), json.dumps(config))),
        (nothing, lambda: butane.translate(text).json),
        # private, but there is no other way to make it forget, and nobody else wants one
        (lambda number: dataurls._remembered.cache_clear(), lambda: butane.translate(text).json),  # noqa: SLF001
    )
    return Translated(len(config["storage"]["files"]), floor, warm, first)


def _best(rounds: int, *actions: tuple[Callable[[int], object], Callable[[], Any]]) -> list[float]:
    """Given a number of rounds and actions with what goes before, run them in turns; return the best of each."""
    best = [float("inf")] * len(actions)
    for number in range(5 * rounds):
        for place, (prepare, action) in enumerate(actions):
            prepare(number)
            action()  # what the one before left in the processor's caches is not this one's
            prepare(number)
            start = time.perf_counter()
            action()
            best[place] = min(best[place], time.perf_counter() - start)
    return best


def main() -> None:
    """Print what the example's server takes."""
    from benchmarks import table  # which knows all benchmarks

    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), 5)
        fleet.job().run(0)
        [text] = fleet.texts("server", 1).values()
        print(table.of_butane(measure(text, Path(folder), 5)))


if __name__ == "__main__":
    main()

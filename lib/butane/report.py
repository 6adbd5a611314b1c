"""What is wrong with a config, and where.

No message holds the content of a file or a value, because that may be a secret: only names, paths and
types. Names are what the config itself gives to units and keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
Path = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes (from 0) of lists."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with a value, known by its path alone."""

    path: Path
    message: str
    kind: Severity = "error"
    at_key: bool = False
    """The place is the key at the end of the path, not its value."""


@dataclass(frozen=True)
class Entry:
    """Something wrong with a config, and its place in the user's text (line and column from 1)."""

    kind: Severity
    path: str
    line: int | None
    column: int | None
    message: str
    hint: str = ""
    """What to write instead, where it was asked for and is known."""

    def __str__(self) -> str:
        at = [] if self.path == "$" else [self.path]
        if self.line is not None:
            at.append(f"line {self.line} col {self.column}")
        return f"{self.kind}{' at ' if at else ''}{', '.join(at)}: {self.message}"


class BadConfig(Exception):
    """The config cannot be translated.

    `report` holds every entry, warnings too, in Butane's order; `error` is the last word of Butane,
    which it prints after "Error translating config: ". Where the text could not be read as a config,
    `unread` is true: Butane tells nothing but that last word then, and the entries are ours.
    """

    def __init__(self, report: Iterable[Entry], error: str = "", unread: bool = False) -> None:
        self.report = tuple(report)
        self.error = error
        self.unread = unread
        super().__init__("\n".join(str(entry) for entry in self.report))


def has_errors(faults: Iterable[Fault | Entry]) -> bool:
    """Given what was found, tell whether one of it is an error."""
    return any(fault.kind == "error" for fault in faults)


def dotted(path: Path) -> str:
    """Given a path, return it as Butane prints it: `$.storage.files.0`."""
    return ".".join(("$", *(str(part) for part in path)))


Chain = tuple["Chain", str | int] | None
"""A path as it grows: what is above, and the last part. Made for every value, and rarely read."""


def unchained(chain: Chain) -> Path:
    """Given a path as it grew, return it as a path."""
    return tuple(_parts(chain))[::-1]


def _parts(chain: Chain) -> Iterator[str | int]:
    while chain is not None:
        chain, part = chain
        yield part

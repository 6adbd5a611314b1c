"""What is wrong with a config, and where.

No message holds the content of a file, because that may be a secret: only names, paths and types.
"""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass(frozen=True)
class Entry:
    """Something wrong with a config, and its place in the user's text (line and column from 1)."""

    kind: Severity
    path: str
    line: int | None
    column: int | None
    message: str

    def __str__(self) -> str:
        place = "" if self.line is None else f", line {self.line} col {self.column}"
        return f"{self.kind} at {self.path}{place}: {self.message}"


class BadConfig(Exception):
    """The config cannot be translated; `report` holds every reason, by position."""

    def __init__(self, report: Iterable[Entry]) -> None:
        self.report = ordered(report)
        super().__init__("\n".join(str(entry) for entry in self.report))


def ordered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Given entries in any order, return each once, by position and then in the order given."""
    return tuple(sorted(dict.fromkeys(entries), key=lambda e: (e.line or 0, e.column or 0)))


def dotted(path: Path) -> str:
    """Given a path, return it as Butane prints it: `$.storage.files.0`."""
    return ".".join(("$", *(str(part) for part in path)))

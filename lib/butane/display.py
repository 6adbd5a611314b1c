"""A report as Butane's command shows it: raw lines, or the user's own lines with a mark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from butane.report import Entry

_RED, _YELLOW, _BLUE, _RESET = "\033[1;31m", "\033[1;33m", "\033[1;34m", "\033[0m"
_AROUND = 2
"""How many lines are shown before and after the one that is meant."""


def raw(report: Iterable[Entry]) -> str:
    """Given a report, return a line an entry."""
    return "".join(f"{entry}\n" for entry in report)


def pretty(report: Iterable[Entry], name: str, text: str, color: bool = False) -> str:
    """Given a report and the text of the file with that name, return each entry with the lines around its place."""
    lines = text.split("\n")
    return "\n".join("".join(_entry(entry, name, lines, color)) for entry in report)


def _entry(entry: Entry, name: str, lines: list[str], color: bool) -> Iterator[str]:
    number, column = entry.line or 0, entry.column or 0
    # Butane counts the columns of a line in bytes here
    line = lines[number - 1].encode() if 0 < number <= len(lines) else b""
    if not 0 < column <= len(line):
        yield f"{entry}\n"
    else:
        yield from _excerpt(entry, name, lines, line, color)
    if entry.hint:
        yield f"  hint: {entry.hint}\n"


def _excerpt(entry: Entry, name: str, lines: list[str], line: bytes, color: bool) -> Iterator[str]:
    def painted(text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if color else text

    number, column = entry.line or 0, entry.column or 0
    first, last = max(1, number - _AROUND), min(len(lines), number + _AROUND)
    width = len(str(last))
    empty = f" {' ' * width} |"
    place = "" if entry.path == "$" else f"[{entry.path}]"
    yield f"{painted(entry.kind, _RED if entry.kind == 'error' else _YELLOW)}{place}:\n"
    yield f"  {painted('-->', _BLUE)} {name}:{number}:{column}\n{empty}\n"
    for shown in range(first, last + 1):
        yield f" {painted(f'{shown:{width}}', _BLUE)} | {lines[shown - 1]}\n"
        if shown == number:
            word = "".join(takewhile(lambda char: not char.isspace(), line[column - 1 :].decode("utf-8", "replace")))
            mark = painted("^" * len(word.encode()), _BLUE)
            yield f"{empty} {' ' * (column - 1)}{mark} {entry.message}\n"
    yield f"{empty}\n"

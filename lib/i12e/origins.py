"""Where each piece of a rendered text came from: the template and its line.

A traced text is an ordinary text that also knows its origins. Joining keeps them; anything else that is
done with it gives a text without any, which belongs to the line that outputs it. Marks inside the text
would go through more filters, but change what some of them do: blank lines would no longer be blank.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

_TEMPLATE_LINE = re.compile(r"\r\n|\r|\n")  # as Jinja counts
_YAML_LINE = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


@dataclass(frozen=True)
class Origin:
    """A place in a template: its path, line and column (from 1), and the path of what is embedded there."""

    file: str
    line: int
    column: int | None = None
    embedded: str = ""


class Traced(str):
    """A text with its origins: each with the offset from which on it holds, in order."""

    origins: Sequence[tuple[int, Origin]]

    def __new__(cls, text: str, origins: Sequence[tuple[int, Origin]]) -> Self:
        """Given a text and its origins, return it."""
        made = super().__new__(cls, text)
        made.origins = origins
        return made

    def __str__(self) -> str:
        return self  # str() of another kind of text is a copy, without what makes it another


class Embedded(str):
    """A text that is one value of a template's, and the path of the template or file that it was made of."""

    path: str

    def __new__(cls, text: str, path: str) -> Self:
        """Given a text and the path of what it was made of, return it."""
        made = super().__new__(cls, text)
        made.path = path
        return made


def literal(text: str, file: str, line: int) -> Traced:
    """Given text that stands in a template as it is, and where it begins, return it with its origins."""
    starts = [0, *(found.end() for found in re.finditer(r"\n(?!\Z)", text))]
    return Traced(text, [(start, Origin(file, line + number)) for number, start in enumerate(starts)])


def piece(value: str, file: str, line: int) -> Traced:
    """Given what an expression gave, and where it stands, return it with its origins: those that it has, or that."""
    here = Origin(file, line, embedded=value.path if isinstance(value, Embedded) else "")
    return Traced(value, [(0, here), *(value.origins if isinstance(value, Traced) else ())])


def join(pieces: Iterable[str]) -> Traced:
    """Given the pieces of a text, return it with the origins of all."""
    origins: list[tuple[int, Origin]] = []
    parts: list[str] = []
    length = 0
    for part in pieces:
        if isinstance(part, Traced):
            origins += [(length + start, origin) for start, origin in part.origins]
        parts.append(part)
        length += len(part)
    return Traced("".join(parts), origins)


def by_line(work: Callable[..., str]) -> Callable[..., str]:
    """Given a filter that works line by line, return it so that its result has the origins of what it was given."""

    @functools.wraps(work)
    def keeping(value: Any, *args: Any, **kwargs: Any) -> str:
        result = work(value, *args, **kwargs)
        if not isinstance(value, Traced) or value.count("\n") != result.count("\n"):
            return result
        return Traced(result, _moved(value, result))

    return keeping


def _moved(value: Traced, result: str) -> list[tuple[int, Origin]]:
    """Given a text and what it is with more at the start of some lines, return the origins of that."""
    old, new = value.split("\n"), result.split("\n")
    starts, ends = _starts(old), _starts(new)
    origins = []
    for offset, origin in value.origins:
        row = bisect_right(starts, offset) - 1
        column = offset - starts[row]
        grown = len(new[row]) - len(old[row]) if column else 0  # what is new at its start belongs to the line
        origins.append((ends[row] + column + grown, origin))
    return origins


def _starts(lines: Sequence[str]) -> list[int]:
    return list(accumulate((len(line) + 1 for line in lines[:-1]), initial=0))


class Trace:
    """A rendered text whose every place can be told in the templates; its first origin is at its start."""

    def __init__(self, text: Traced, sources: Mapping[str, str]) -> None:
        self._text = text
        self._starts = [0, *(found.end() for found in _YAML_LINE.finditer(text))]
        self._offsets = [offset for offset, _ in text.origins]
        self._sources = sources

    def at(self, line: int, column: int) -> Origin:
        """Given line and column (from 1) of the text, as YAML counts, return where that came from.

        The column is told where the template's line is the text's up to there.
        """
        start = self._starts[min(line, len(self._starts)) - 1]
        place = start + column - 1
        _, origin = self._text.origins[bisect_right(self._offsets, place) - 1]
        source = _TEMPLATE_LINE.split(self._sources[origin.file])[origin.line - 1]
        same = source[: column - 1] == self._text[start:place]
        return replace(origin, column=column) if same else origin

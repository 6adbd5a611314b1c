"""What a person sees: lines for what was done, one summary, a bar where there is a terminal and much to do.

The rules: what was done goes to standard output, one line each, a verb and its thing; problems, warnings
and progress go to standard error; what is up to date is silent; no colour without a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

_MANY = 20


def line(verb: str, what: str, remark: str = "") -> str:
    """Given a verb, its thing and a remark, return the line that tells of it."""
    return f"{verb:<8} {what}{f'  ({remark})' if remark else ''}"


def is_terminal(stream: IO[Any]) -> bool:
    """Given a stream, tell whether a person looks at it."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def progress(items: Sequence[str], what: str) -> Iterable[str]:
    """Given the things to do, return them one by one, with a bar on a terminal when they are many."""
    if len(items) < _MANY or not is_terminal(sys.stderr):
        return items
    return _bar(items, what)


def _bar(items: Sequence[str], what: str) -> Iterable[str]:
    from rich.console import Console  # slow to import, and seldom needed
    from rich.progress import track

    yield from track(items, description=what, console=Console(stderr=True), transient=True)


def count(number: int, what: str) -> str:
    """Given a number and what is counted, return both: 1 host, 2 hosts."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

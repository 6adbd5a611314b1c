"""What a person sees: lines for what was done, one summary, a bar where there is a terminal and much to do.

The rules: what was done goes to standard output, one line each, a verb and its thing; problems, warnings
and progress go to standard error; what is up to date is silent; no colour without a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, TypeVar

_MANY = 20
_BLINK = 0.2  # seconds between two looks at a terminal, and
_NEWS = 10.0  # between two lines elsewhere
_Thing = TypeVar("_Thing")


def line(verb: str, what: str, remark: str = "") -> str:
    """Given a verb, its thing and a remark, return the line that tells of it."""
    return f"{verb:<8} {what}{f'  ({remark})' if remark else ''}"


def is_terminal(stream: IO[Any]) -> bool:
    """Given a stream, tell whether a person looks at it."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def progress(items: Sequence[_Thing], what: str) -> Iterable[_Thing]:
    """Given the things to do, return them one by one, with a bar on a terminal when they are many."""
    if len(items) < _MANY or not is_terminal(sys.stderr):
        return items
    return _bar(items, what)


def _bar(items: Sequence[_Thing], what: str) -> Iterable[_Thing]:
    from rich.console import Console  # slow to import, and seldom needed
    from rich.progress import track

    yield from track(items, description=what, console=Console(stderr=True), transient=True)


def say(text: str) -> None:
    """Given what is waited for, tell it."""
    print(text, file=sys.stderr, flush=True)


def meter(what: str) -> Callable[[int, int | None], None]:
    """Given what comes, return what is to be told how much of it is there, of how much: it says so now and then."""
    told = time.monotonic()
    there = is_terminal(sys.stderr)

    def tell(done: int, size: int | None) -> None:
        nonlocal told
        whole = done == size
        if time.monotonic() - told < (_BLINK if there else _NEWS) and not (there and whole):
            return
        told = time.monotonic()
        text = f"{what}: {done / 1e6:.1f}{f' of {size / 1e6:.1f}' if size else ''} MB"
        print(text, end="\n" if whole or not there else "\r", file=sys.stderr, flush=True)

    return tell


def count(number: int, what: str) -> str:
    """Given a number and what is counted, return both: 1 host, 2 hosts."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

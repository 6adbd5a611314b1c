"""What a person sees: lines for what was done, one summary, a bar where there is a terminal and much to do.

The rules: what was done goes to standard output, one line each, a verb and its thing; problems, warnings
and progress go to standard error; what is up to date is silent; no colour without a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

_MANY = 20
_BLINK = 0.2  # seconds between two looks at a terminal, and
_NEWS = 10.0  # between two lines elsewhere
_Thing = TypeVar("_Thing")


class Terminal:
    """The terminal of whoever started us, for questions and answers, wherever the output goes.

    What is said here is in no file and no pipe.
    """

    def __init__(self) -> None:
        both = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        self._in = open(both, encoding="utf-8", errors="replace")  # noqa: SIM115  # closed by close()
        self._out = open(os.dup(both), "w", encoding="utf-8", errors="replace")  # noqa: SIM115

    @property
    def handle(self) -> int:
        """The open terminal, for a program that is to run on it."""
        return self._in.fileno()

    def say(self, text: str = "") -> None:
        """Given a text, show it on lines of its own."""
        self._out.write(f"{text}\n")
        self._out.flush()

    def ask(self, question: str) -> str:
        """Given a question, return the answer without blanks around it; raise EOFError on the end of input."""
        self._out.write(f"{question} ")
        self._out.flush()
        answer = self._in.readline()
        if not answer:
            self.say()
            raise EOFError
        return answer.strip()

    @contextmanager
    def page(self) -> Iterator[None]:
        """Until the block ends, show what is said on a page of its own, of which nothing is left to scroll back to."""
        clears = os.environ.get("TERM", "dumb") != "dumb"
        self._out.write("\033[?1049h\033[H\033[2J" if clears else "")
        try:
            yield
        finally:
            self._out.write("\033[?1049l" if clears else "")
            self._out.flush()

    def close(self) -> None:
        """Let go of the terminal."""
        self._in.close()
        self._out.close()


@contextmanager
def terminal() -> Iterator[Terminal | None]:
    """Until the block ends, give the terminal on which a person can be asked; None where there is none."""
    found = None
    if sys.stdin is not None and sys.stdin.isatty():
        with suppress(OSError):
            found = Terminal()
    try:
        yield found
    finally:
        if found:
            found.close()


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

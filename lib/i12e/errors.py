"""What went wrong, for the person who has to mend it.

The rules of every message are here, where all modules take them from: an error says what is wrong,
where, and what to do; all problems are told at once; no full stop at the end; a user's mistake never
shows a traceback, a bug always does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FAILED = 1
CHANGES = 2
USAGE = 3


@dataclass(frozen=True)
class Problem:
    """One fault of one file: its path relative to the checkout, line and column (from 1) where it has them."""

    file: str
    line: int | None
    column: int | None
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text} ({self.remedy})" if self.remedy else text

    def sort_key(self) -> tuple[str, int, int, str, str]:
        """Return the order in which problems are told: by file, then by place."""
        return (self.file, self.line or 0, self.column or 0, self.message, self.remedy)


class UserError(Exception):
    """What a user can mend; carries every problem that was found."""

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        self.problems = ordered([problems] if isinstance(problems, Problem) else problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Outside(Exception):
    """A host, a store or a zone did not do what it was asked for.

    `who` is its name, `why` one line, `remedy` what to do. `passing`: trying again may help, after `wait` seconds if it
    said so; it is then not known whether what was asked for was done, unless the class says so.
    """

    def __init__(self, who: str, why: str, remedy: str = "", passing: bool = False, wait: float = 0.0) -> None:
        self.who = who
        self.why = why
        self.remedy = remedy
        self.passing = passing
        self.wait = wait
        super().__init__(f"{who}: {why}" + (f" ({remedy})" if remedy else ""))

    def problem(self) -> Problem:
        """Return it as a person is told it."""
        return Problem("", None, None, f"{self.who}: {self.why}", self.remedy)


class Changes(Exception):
    """Raised by an action of `plan` and `drift`: all went well, and there are changes."""


class UsageError(UserError):
    """What is wrong with the command line itself: options that do not fit; the exit status is USAGE."""


def ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Given problems in any order, return each once, by file and place."""
    return tuple(sorted(set(problems), key=Problem.sort_key))


def did_you_mean(word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """Given a misspelt word and the words that exist, return "did you mean X?" or an empty string.

    `alike` is from 0 to 1, how much they have to have in common.
    """
    import difflib  # only needed where something is wrong

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return f"did you mean {close[0]}?" if close else ""

"""The syntax of systemd units, as far as Ignition reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

LINE_MAX = 2048
_NEWLINES = ("\n", "\r")
# Go's white space. Python's own idea has four control characters more.
_SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


class BadUnit(Exception):
    """The text is no unit file; the message says why without quoting it."""


@lru_cache(maxsize=512)
def option_sections(text: str) -> frozenset[str]:
    """Given the text of a unit, return the names of the sections that hold an option.

    Raise BadUnit if Ignition's parser would refuse the text.
    """
    reader = _Reader(text)
    while reader.step():
        pass
    return frozenset(reader.found)


@dataclass
class _Reader:
    """Walks through the text as Ignition's parser does, whose steps are not lines: what stands
    before the first section is skipped character by character, and a name may span lines."""

    text: str
    at: int = 0
    section: str | None = None
    found: set[str] = field(default_factory=set)

    def step(self) -> bool:
        """Read one section header, comment or option; return whether there is more."""
        self.check_length()
        self.skip()
        if self.at >= len(self.text):
            return False
        self.check_length()
        first = self.text[self.at]
        if first == "[":
            self.header()
        elif first in "#;":
            self.at += 1
            self.comment()
        else:
            self.option()
        return True

    def skip(self) -> None:
        """Go to the next character that means something."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "[#;" or (self.section is not None and char not in _SPACES):
                return
            self.at += 1
            if char in _NEWLINES and self.section is None:
                self.check_length()

    def check_length(self) -> None:
        if self.text.find("\n", self.at, self.at + LINE_MAX // 4) >= 0:
            return  # soon enough, however many bytes a character takes
        rest = self.text[self.at : self.at + LINE_MAX].encode("utf-8", "surrogatepass")[:LINE_MAX]
        if len(rest) == LINE_MAX and b"\n" not in rest and b"\r" not in rest:
            raise BadUnit(f"line too long (max {LINE_MAX} bytes)")

    def rest_of_line(self) -> tuple[str, bool]:
        """Return the text up to the end of the line, and whether the line ended."""
        end = self.text.find("\n", self.at)
        line = self.text[self.at :] if end < 0 else self.text[self.at : end]
        self.at = len(self.text) if end < 0 else end + 1
        return line, end >= 0

    def header(self) -> None:
        end = self.text.find("]", self.at)
        if end < 0:
            raise BadUnit("unable to find end of section")
        self.section = self.text[self.at + 1 : end]
        self.at = end + 1
        self.check_length()
        if self.rest_of_line()[0].strip(_SPACES):
            raise BadUnit("found garbage after section name")

    def comment(self) -> None:
        while True:
            line, more = self.rest_of_line()
            if not line.removesuffix(" ").endswith("\\") or not more:
                return

    def option(self) -> None:
        end = self.text.find("=", self.at)
        name = self.text[self.at : end] if end >= 0 else self.text[self.at :]
        if any(newline in name for newline in _NEWLINES):
            raise BadUnit("unexpected newline encountered while parsing option name")
        if end < 0:
            raise BadUnit("EOF")
        self.at = end + 1
        self.value()
        self.found.add(self.section or "")

    def value(self) -> None:
        while True:
            self.check_length()
            line, more = self.rest_of_line()
            if not line.strip(_SPACES) or not line.endswith("\\") or not more:
                return

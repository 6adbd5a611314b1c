"""The syntax of systemd units, as far as Ignition reads it.

The reader is Go's, whose steps are not lines: what stands before the first section is skipped character
by character, a name may span lines, and whether a line is too long is asked only between steps, of what
the buffer happens to hold.

Source: unit/deserialize.go of github.com/coreos/go-systemd 22.7, and bufio of Go.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

LINE_MAX = 2048
_BUFFER = 4096
_LONGEST_RUNE = 4
# Go's white space. Python's own idea has four control characters more.
_SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_SHORT = 2000
"""A text of so few bytes has no line that is too long."""
_CACHED_SIZE = 64 * 1024


class BadUnit(Exception):
    """The text is no unit file; the message says why without quoting it."""


def option_sections(text: str) -> frozenset[str]:
    """Given the text of a unit, return the names of the sections that hold an option.

    Raise BadUnit if Ignition's parser would refuse the text. Small texts are remembered, because the same
    units go to many hosts.
    """
    return _remembered(text) if len(text) <= _CACHED_SIZE else _option_sections(text)


def _option_sections(text: str) -> frozenset[str]:
    reader = _Reader(text.encode("utf-8", "surrogateescape"))
    reader.run()
    return frozenset(reader.found)


_remembered = lru_cache(maxsize=512)(_option_sections)

_Step = Callable[[], "_Step | None"]


class _Reader:
    """The text, the place in it, and how far the buffer reaches."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.filled = 0
        self.section = ""
        self.found: set[str] = set()

    def run(self) -> None:
        step: _Step | None = self.next_section
        check = len(self.data) > _SHORT
        while step is not None:
            if check:
                self.check_length()
            step = step()

    def check_length(self) -> None:
        if self.filled - self.at >= LINE_MAX:
            seen = self.data[self.at : self.at + LINE_MAX]
            if b"\n" not in seen and b"\r" not in seen:
                raise BadUnit(f"line too long (max {LINE_MAX} bytes)")

    def fill(self) -> None:
        self.filled = min(len(self.data), self.at + _BUFFER)

    def rune(self) -> str:
        """Return the next character, nothing at the end; a byte that is no text is one, too."""
        if self.filled - self.at < _LONGEST_RUNE and not _is_whole(self.data[self.at : self.filled]):
            self.fill()
        if self.at >= len(self.data):
            return ""
        byte = self.data[self.at]
        char = chr(byte) if byte < 0x80 else _first(self.data[self.at : self.at + _LONGEST_RUNE])
        self.at += 1 if byte < 0x80 else len(char.encode("utf-8", "surrogateescape"))
        return char

    def until(self, stop: bytes) -> tuple[bytes, bool]:
        """Return what comes up to a byte, with it, and whether it was there."""
        end = self.data.find(stop, self.at)
        found = end >= 0
        end = end + 1 if found else len(self.data)
        start = self.at
        while self.filled < end:
            # the buffer is emptied where it is full, and filled up where it is not
            self.at = self.filled if self.filled - self.at >= _BUFFER else self.at
            self.fill()
        self.at = end
        return self.data[start:end], found

    def line(self) -> bytes:
        return self.until(b"\n")[0].removesuffix(b"\r").removesuffix(b"\n")

    def next_section(self) -> _Step | None:
        char = self.rune()
        if char == "[":
            return self.header
        if char in ("#", ";"):
            return lambda: self.comment(self.next_section)
        return self.next_section if char else None

    def header(self) -> _Step | None:
        name, found = self.until(b"]")
        if not found:
            raise BadUnit("unable to find end of section")
        self.section = name[:-1].decode("utf-8", "surrogateescape")
        return self.header_end

    def header_end(self) -> _Step | None:
        if not _is_blank(self.line()):
            raise BadUnit("found garbage after section name")
        return self.next_option

    def comment(self, then: _Step) -> _Step | None:
        while self.line().removesuffix(b" ").endswith(b"\\"):
            pass
        return then

    def next_option(self) -> _Step | None:
        before = self.at
        char = self.rune()
        if not char:
            return None
        if char in _SPACES:
            return self.next_option
        if char == "[":
            return self.header
        if char in ("#", ";"):
            return lambda: self.comment(self.next_option)
        self.at = before
        return self.name

    def name(self) -> _Step | None:
        while (char := self.rune()) != "=":
            if not char:
                raise BadUnit("EOF")
            if char in ("\n", "\r"):
                raise BadUnit("unexpected newline encountered while parsing option name")
        return self.value

    def value(self) -> _Step | None:
        line = self.line()
        if line.endswith(b"\\") and not _is_blank(line):
            return self.value
        self.found.add(self.section)
        return self.next_option


def _is_blank(line: bytes) -> bool:
    return not line.decode("utf-8", "surrogateescape").strip(_SPACES)


def _first(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")[0]


def _is_whole(data: bytes) -> bool:
    """Tell whether bytes begin with a whole character, or with what can be none."""
    if not data:
        return False
    length = 1 if data[0] < 0xC0 else 2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4
    return len(data) >= length or any(byte & 0xC0 != 0x80 for byte in data[1:])

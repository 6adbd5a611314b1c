"""Version numbers, as Butane and Ignition read them.

Source: github.com/coreos/go-semver, which both use: a pre-release or a build may be there and be empty.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from butane.schema import LATEST

_IDENTIFIER = r"(?:[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
_SEMVER = re.compile(rf"0*(\d+)\.0*(\d+)\.0*(\d+)(?:-({_IDENTIFIER}))?(?:\+({_IDENTIFIER}))?", re.ASCII)
_LONGEST, _MOST = len(str(2**63)), 2**63


class Semver(NamedTuple):
    """A version: its three numbers, and what follows them."""

    numbers: tuple[int, int, int]
    suffix: str = ""

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers)) + self.suffix


def semver(text: str) -> Semver | None:
    """Given a version, return its parts, None where it is not three numbers (below 2**63) and what may follow them."""
    match = _SEMVER.fullmatch(text)
    if match is None or any(len(match[i]) > _LONGEST or int(match[i]) >= _MOST for i in (1, 2, 3)):
        return None
    suffix = (f"-{match[4]}" if match[4] else "") + (f"+{match[5]}" if match[5] else "")
    return Semver((int(match[1]), int(match[2]), int(match[3])), suffix)


def minor_of(version: str) -> int:
    """Given a version of Ignition, return its minor number; where it is none that is known, the latest one."""
    found = semver(version)
    return min(found.numbers[1], LATEST) if found is not None and found.numbers[0] == 3 else LATEST

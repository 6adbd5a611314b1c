"""How what we make of a config is compared with what the original butane makes of it."""

from __future__ import annotations

import base64
import errno
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import butane

_GO_TYPE = re.compile(r"\b(?:v\d+_\d+|types)\.[A-Z]\w*|\bGo (?:struct field|value) ")
_SYSTEM_ERRORS = tuple(f": {os.strerror(number).lower()}" for number in errno.errorcode)
# What the original quotes of the user's text: no message of ours does, since it may be a secret
_QUOTING = re.compile(r"(found garbage after section name|expected base64)\b.*")
_NAMED_LINE = re.compile(r"^(?:Error .*yaml: )?\s*line (\d+):")


@dataclass(frozen=True)
class Outcome:
    """What we make of a config: `config` is None where we refuse it."""

    config: dict[str, Any] | None
    report: tuple[butane.Entry, ...]


def outcome(text: str, files_dir: Path | str | None = None) -> Outcome:
    """Given a Butane config and its directory of files, return what we make of it."""
    try:
        translation = butane.translate(text, files_dir)
    except butane.BadConfig as error:
        return Outcome(None, tuple(error.report))
    return Outcome(translation.config, tuple(translation.report))


def comparable(value: Any) -> Any:
    """Return a config with the contents of its gzip resources in place of the compressed bytes."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {name: comparable(item) for name, item in value.items()}
    source = value.get("source") or ""
    if value.get("compression") == "gzip" and source.startswith("data:;base64,"):
        value["source"] = _unpacked(base64.b64decode(source.removeprefix("data:;base64,")))
    return value


def _unpacked(packed: bytes) -> bytes:
    """Given what is said to be gzip, return what is in it; itself where it is none, as in some cases."""
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):
        return packed


def disagreements(ours: Outcome, ignition: dict[str, Any] | None, report: Sequence[str]) -> list[str]:
    """Given our outcome and the original's, return a line for everything in which they differ.

    `report` is what `--raw-errors` prints, `Error ...` closing line included. A message that names a type of
    Go's or ends in an operating system's error text is not compared, its place is; nor is what it quotes.
    """
    refused = any(line.startswith("Error ") for line in report)
    if refused and ours.config is not None:
        return ["ours takes what the original refuses"]
    if refused and report[0].startswith("Error "):
        # for what is no YAML at all, the original tells the line where its reader was, and ours where the fault is
        return _lines_not_named(ours, report) if "unmarshal errors" in report[0] else []
    config = [] if comparable(ours.config) == comparable(ignition) else [f"config: {ours.config}"]
    return config + _differences(report, [str(entry) for entry in ours.report])


def canonical(report: Iterable[str]) -> list[str]:
    """Given a report, return its lines in order, without the words that are not compared."""
    return sorted(place(line) if uncompared(line) else line for line in report)


def place(line: str) -> str:
    """Given a line of a report, return it without its message."""
    return line.partition(": ")[0]


def uncompared(line: str) -> bool:
    """Given a line of a report, return whether its message is Go's or the operating system's."""
    return _GO_TYPE.search(line) is not None or line.endswith(_SYSTEM_ERRORS)


def _differences(theirs: Iterable[str], ours: Iterable[str]) -> list[str]:
    """Return what the one says and the other does not."""
    theirs = [_QUOTING.sub(r"\1", line) for line in theirs if not line.startswith("Error ")]
    loose = {place(line) for line in theirs if uncompared(line)}
    expected, said = ({place(line) if place(line) in loose else line for line in lines} for lines in (theirs, ours))
    return [f"missing: {line}" for line in sorted(expected - said)] + [
        f"not expected: {line}" for line in sorted(said - expected)
    ]


def _lines_not_named(ours: Outcome, closing: Iterable[str]) -> list[str]:
    """Return the lines that the original names where it gives up before it has a report, and we do not name."""
    named = {int(found[1]) for line in closing if (found := _NAMED_LINE.match(line))}
    return [f"no entry at line {line}" for line in sorted(named - {entry.line for entry in ours.report})]

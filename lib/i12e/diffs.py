"""Differences of texts by lines, with masks in place of what is secret."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from i12e import masks
from i12e.secrets import MASK

_LONGEST = 4000  # lines of a text; comparing takes their square


class Told:
    """What is told of a content: lines, notes, and whether something secret changed."""

    def __init__(self, notes: Iterable[str] = (), lines: Iterable[str] = (), secret: bool = False) -> None:
        self.notes, self.lines, self.secret = list(notes), list(lines), secret

    def __add__(self, other: Told) -> Told:
        return Told(self.notes + other.notes, self.lines + other.lines, self.secret or other.secret)


def of(before: bytes | None, after: bytes, masked: bytes | None, closed: bool) -> Told:
    """Given a content before, after, and after with masks, tell what differs.

    Of one that is `closed`, which not everybody may read, no more than the keys are told of what was there. Without
    one with masks (None), nobody knows the secrets of the later one either, and it is shown as the earlier one is.
    """
    was, is_, shown = decode(before if before is not None else b""), decode(after), decode(masked)
    if was is None or is_ is None:
        return Told([f"{len(after)} bytes" if before is None else f"{len(before)} -> {len(after)} bytes"])
    old, new = _split(was), _split(is_)
    if max(len(old), len(new)) > _LONGEST:
        return Told([f"{len(old)} -> {len(new)} lines"])
    visible = _visible(new, None if masked is None else _split(shown or ""), closed)
    if closed:
        words = {masks.key(line) for line in visible} - {""}
        hidden = [masks.private(line, words) for line in old]
    else:
        hidden = masks.unknown_lines(old)
    told = Told()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(1):
        if told.lines:
            told.lines.append("  ...")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                told.lines += [f"  {line}" for line in visible[j1:j2]]
                continue
            covered = any(visible[j] != new[j] for j in range(j1, j2))
            gone = any(masks.secret_name(masks.key(old[i])) if closed else hidden[i] != old[i] for i in range(i1, i2))
            told.secret = told.secret or covered or gone
            told.lines += _replaced(old[i1:i2], hidden[i1:i2], new[j1:j2], visible[j1:j2])
    if was.endswith("\n") != is_.endswith("\n") and (was or not is_.endswith("\n")):
        told.lines.append(f"  ({'a' if is_.endswith(chr(10)) else 'no'} newline at its end)")
    return told


def _visible(new: list[str], masked: list[str] | None, closed: bool) -> list[str]:
    if masked is None:
        return [masks.private(line, ()) for line in new] if closed else masks.unknown_lines(new)
    lines = [MASK if line is None else line for line in _masked_lines(new, masked)]
    return [masks.known(line) for line in lines] if closed else masks.known_lines(lines)


def _replaced(old: list[str], hidden: list[str], new: list[str], visible: list[str]) -> Iterator[str]:
    """Yield the lines that tell of a replaced part; a value that changed under its mask is one line."""
    keys = [masks.key(line) for line in old]
    twins = {
        index: masks.key(line)
        for index, line in enumerate(visible)
        if masks.key(line) in keys and masks.key(line) and line != new[index] and (MASK in line or "<secret " in line)
    }
    silent = {keys.index(key) for key in twins.values()}
    yield from (f"- {line}" for index, line in enumerate(hidden) if index not in silent)
    for index, line in enumerate(visible):
        yield f"~ {line} (secret)" if index in twins else f"+ {line}"


def _split(content: str) -> list[str]:
    lines = content.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _masked_lines(new: list[str], masked: list[str]) -> list[str | None]:
    """Given the lines of a text, and those of the same with masks, return for each line the one with masks.

    None where no line can be told to be the same.
    """
    if len(new) == len(masked):
        return list(masked)
    found: list[str | None] = [None] * len(new)
    if len(masked) > _LONGEST:
        return found
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, new, masked, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and i2 - i1 == j2 - j1):
            found[i1:i2] = masked[j1:j2]
    return found


def decode(content: bytes | None) -> str | None:
    """Given a content, return it as text, None if it is none."""
    if content is None or b"\0" in content:
        return None
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None

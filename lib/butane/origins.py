"""Which place of the Butane config a place of the Ignition config was made of.

Nearly always it is the same path, with Butane's names. This module knows the exceptions: contents that
became a data URL, keys and units from files, trees, what Butane made itself, and the merges that moved
entries of lists. It is asked only where something is to be reported, so nothing is recorded while a
config is translated that can be found out again.

As in Butane, the place of what has no value after a merge is told by its path after the merge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from butane.merge import Sources, value_at
from butane.report import Path
from butane.schema import DROPIN, RESOURCE, UNIT, Shape
from butane.sugar import Made, Origin
from butane.trees import Trees

_WORD = re.compile(r"(MiB|[A-Z])")


class Origins:
    """The way back, built up as the config is."""

    def __init__(self, values: dict[str, Any], shape: Shape) -> None:
        self.values = values
        self.shape = shape
        self.keys: dict[Path, Sequence[int]] = {}
        """For a user with keys from files: the number of the file that each of these keys is from."""
        self._origin: Origin = self._translated

    def of(self, path: Path) -> Path:
        """Given a path of Ignition, return the path of Butane that it was made of."""
        return self._origin(path) or snake(path)

    def merged(self, made: Made, child: dict[str, Any], result: dict[str, Any]) -> None:
        """Take note that a config was merged into what Butane made, and became the result."""
        below, shape = self._origin, self.shape
        sources = Sources(made.config, child, shape)

        def origin(path: Path) -> Path | None:
            if _is_zero(result, shape, path):
                return None
            parent_path, child_path = sources.of(path)
            if child_path is not None and not _is_zero(child, shape, child_path):
                return below(child_path)
            return made.origin(parent_path) if parent_path is not None else None

        self._origin = origin

    def grown(self, trees: Trees) -> None:
        """Take note that trees were added to the config."""
        below = self._origin

        def origin(path: Path) -> Path | None:
            return trees.parts.get(path) or trees.whole.get(path[:3]) or below(path)

        self._origin = origin

    def _translated(self, path: Path) -> Path:
        if path == ("ignition", "version"):
            return ("version",)
        written = snake(path)
        holder, last = written[:-1], written[-1] if written else ""
        struct = self._struct(path[:-1])
        values = value_at(self.values, holder)
        if struct is RESOURCE and values and last in ("source", "compression"):
            embedded = next((name for name in ("inline", "local") if name in values), None)
            if embedded and (last == "source" or not values.get("compression")):
                return (*holder, embedded)
        if struct in (UNIT, DROPIN) and last == "contents" and values and values.get("contents_local"):
            return (*holder, "contents_local")
        return self._key(path, written) or written

    def _key(self, path: Path, written: Path) -> Path | None:
        """Return where an ssh key is from, if it may be from a file."""
        user = path[:3]
        files = self.keys.get(user)
        if files is None or path[3:4] != ("sshAuthorizedKeys",):
            return None
        local = (*user, "ssh_authorized_keys_local")
        if len(path) == 4:
            return local
        own = len(value_at(self.values, (*user, "ssh_authorized_keys")) or ())
        number = path[4]
        return (*local, files[number - own]) if isinstance(number, int) and number >= own else written

    def _struct(self, path: Path) -> Any:
        shape = self.shape
        for part in path:
            if isinstance(part, str):
                slot = shape.by_json.get(part)
                if slot is None or slot.shape is None:
                    return None
                shape = slot.shape
        return shape.struct


def _is_zero(config: dict[str, Any], shape: Shape, path: Path) -> bool:
    """Tell whether there is nothing at a path; an empty text where a text must be is nothing."""
    value: Any = config
    slot = None
    for part in path:
        if isinstance(part, int):
            if not isinstance(value, list) or part >= len(value):
                return True
            value = value[part]
            if part == path[-1] and slot is not None and slot.shape is None:
                return bool(value == slot.empty)
        else:
            if slot is not None and slot.shape is not None:
                shape = slot.shape
            slot = shape.by_json.get(part)
            if slot is None or not isinstance(value, dict) or value.get(part) is None:
                return True
            value = value[part]
    if slot is None:
        return not value
    if path and isinstance(path[-1], int):
        return slot.shape is not None and slot.shape.is_zero(value)
    return slot.is_zero(value)


def snake(path: Path) -> Path:
    """Given a path of Ignition, return it with Butane's names."""
    return tuple(_WORD.sub(r"_\1", part).lower() if isinstance(part, str) else part for part in path)

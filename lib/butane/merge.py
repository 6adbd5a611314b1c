"""Ignition's merge of two configs.

A value that the child gives replaces the parent's; mappings merge field by field, so a child's contents
without `compression` keep the parent's (which is why our own contents always say it); lists merge by
key, the parent's entries first and in their order, then what only the child has; a key that moved to
another list of the same storage leaves the parent's; `append` lists are joined; an HTTP header that the
child names without a value is removed.

Source: config/merge of Ignition 2.26.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from butane.printing import ordered, version_of
from butane.report import Path
from butane.schema import HEADER, Shape, Slot, ignition_shape
from butane.versions import minor_of, semver

Pair = tuple[int | None, int | None]
"""Where an entry of a merged list comes from: its index in the parent's list and in the child's."""


def merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Given two Ignition configs, return a new one in which the child wins as in Ignition.

    The spec version of the result is the newer one. The result is not validated: two valid
    configs can make an invalid one. Raise ValueError for a field that this version does not have, and for a
    value that is not of its field's type.
    """
    versions = [version for version in map(version_of, (parent, child)) if version]
    newest = max(versions, key=_numbers, default="")
    shape = ignition_shape(minor_of(newest))
    merged = merged_structs(ordered(parent, shape), ordered(child, shape), shape)
    if versions:
        merged["ignition"]["version"] = newest
    return ordered(merged, shape)


def _numbers(version: str) -> tuple[int, ...]:
    found = semver(version)
    return () if found is None else found.numbers


def merged_structs(parent: dict[str, Any], child: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Given two mappings of one shape, return what a merge makes of them."""
    result: dict[str, Any] = {}
    for name, slot in shape.by_json.items():
        one, other = parent.get(name), child.get(name)
        if slot.many:
            # even without entries of its own the child can take the parent's to another list
            if one or other:
                result[name] = _merged_list(one or [], child, shape, slot)
        elif slot.shape is not None and one is not None and other is not None:
            result[name] = merged_structs(one, other, slot.shape)
        elif slot.plain and other is not None:
            result[name] = other
        elif other is not None or one is not None:
            result[name] = one if other is None else other
    return result


def _merged_list(parent: list[Any], child: dict[str, Any], shape: Shape, slot: Slot) -> list[Any]:
    own = child.get(slot.json) or []
    result = []
    for i, j in pairs(parent, child, shape, slot):
        if j is None:
            result.append(parent[i or 0])
        elif i is None or slot.shape is None:
            result.append(own[j])
        else:
            result.append(merged_structs(parent[i], own[j], slot.shape))
    return result


def pairs(parent: list[Any], child: dict[str, Any], shape: Shape, slot: Slot) -> Iterator[Pair]:
    """Given a parent's list and the child that it is merged with, yield where each entry of the result comes from."""
    own = child.get(slot.json) or []
    if slot.field.appends:
        yield from ((i, None) for i in range(len(parent)))
        yield from ((None, j) for j in range(len(own)))
        return
    # of entries with one key the last one counts
    mine = {key_of(item, slot): j for j, item in enumerate(own)}
    elsewhere = _keys_of_sisters(child, shape, slot)
    for i, item in enumerate(parent):
        key = key_of(item, slot)
        if key in mine:
            if not _is_removed(own[mine[key]], slot):
                yield i, mine[key]
        elif key not in elsewhere:
            yield i, None
    known = {key_of(item, slot) for item in parent}
    yield from ((None, j) for j, item in enumerate(own) if key_of(item, slot) not in known)


def _is_removed(item: Any, slot: Slot) -> bool:
    return slot.shape is not None and slot.shape.struct is HEADER and item.get("value") is None


def _keys_of_sisters(child: dict[str, Any], shape: Shape, slot: Slot) -> set[Any]:
    """Return the keys in the child's other lists that share one set of keys with this one."""
    shares = slot.field.shares
    sisters = [other for other in shape.lists if shares and other.field.shares == shares and other is not slot]
    return {key_of(item, other) for other in sisters for item in child.get(other.json) or ()}


def key_of(item: Any, slot: Slot) -> Any:
    """Given an entry of a list, return what tells it from others."""
    return item if slot.shape is None else slot.shape.struct.key(item)


def value_at(config: Any, path: Path) -> Any:
    """Given a config and a path, return the value there, None where nothing is."""
    for part in path:
        if isinstance(part, int):
            config = config[part] if isinstance(config, list) and part < len(config) else None
        else:
            config = config.get(part) if isinstance(config, dict) else None
    return config


class Sources:
    """Finds again what the parts of a merge were made of."""

    def __init__(self, parent: dict[str, Any], child: dict[str, Any], shape: Shape) -> None:
        self.parent = parent
        self.child = child
        self.shape = shape
        self.pairs: dict[Path, list[Pair]] = {}
        """By the path of a list, since a list in which much is wrong is asked for as often."""

    def of(self, path: Path) -> tuple[Path | None, Path | None]:
        """Given a path of the merge, return the paths of what it was made of, in parent and child."""
        parent: Any = self.parent
        child: Any = self.child
        shape = self.shape
        above: Path | None = ()
        below: Path | None = ()
        slot: Slot | None = None
        holder = child
        for at, part in enumerate(path):
            if isinstance(part, int):
                if slot is None:
                    return None, None
                if path[:at] not in self.pairs:
                    self.pairs[path[:at]] = list(pairs(parent or [], holder, shape, slot))
                found = self.pairs[path[:at]]
                if part >= len(found):
                    return None, None
                i, j = found[part]
                child = None if j is None else child[j]
                parent = None if i is None else parent[i]
                above = None if above is None or i is None else (*above, i)
                below = None if below is None or j is None else (*below, j)
                shape = slot.shape or shape
                slot = None
            else:
                shape = slot.shape if slot is not None and slot.shape is not None else shape
                slot = shape.by_json.get(part)
                if slot is None:
                    return None, None
                holder = child or {}
                parent, child = (parent or {}).get(part), holder.get(part)
                above = None if above is None else (*above, part)
                below = None if below is None else (*below, part)
        return above, below

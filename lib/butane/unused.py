"""Keys that nothing takes, as Butane finds them: it goes through the values and looks for each in the text.

It does so by path, without following aliases and counting entries that were null. So does this: what
stands behind an alias is not looked at, and the place where Butane loses its way is told in its words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from yaml.nodes import MappingNode, Node

from butane.parse import child, keys
from butane.report import Fault, Path, dotted
from butane.schema import Shape


def unused_keys(root: Node | None, values: dict[str, Any], shape: Shape) -> Iterator[Fault]:
    """Given a text and what was decoded of it, yield the keys that nothing took."""
    return _unused(root, values, shape, ())


def _unused(node: Node | None, values: dict[str, Any], shape: Shape, path: Path) -> Iterator[Fault]:
    yield from _of_node(node, shape, path)
    for name, slot, inner in shape.inner:
        given, below = values.get(name), _below(node, name)
        if slot.many:
            for i, item in enumerate(given or ()):
                yield from _unused(_below(below, i), item, inner, (*path, name, i))
        elif given is not None or not slot.pointer:
            yield from _unused(below, given or {}, inner, (*path, name))


def _below(node: Node | None, part: str | int) -> Node | None:
    return None if node is None else child(node, part)


def _of_node(node: Node | None, shape: Shape, path: Path) -> Iterator[Fault]:
    if isinstance(node, MappingNode):
        for name in dict.fromkeys(keys(node)):
            if name not in shape.by_name:
                yield _unused_key(name, path)
    elif node is not None:
        yield _lost(path)


def unused_json_keys(data: Any, config: dict[str, Any], shape: Shape, path: Path = ()) -> Iterator[Fault]:
    """Given the data of an Ignition config and what its types took of it, yield the keys that nothing took."""
    if not isinstance(data, dict):
        yield _lost(path)
        return
    yield from (_unused_key(name, path) for name in data if name not in shape.by_json)
    for slot in shape.nested:
        if slot.shape is None or slot.json not in data:
            continue
        taken, given = config.get(slot.json), data[slot.json]
        if slot.many:
            for i, (item, part) in enumerate(zip(given or (), taken or (), strict=False)):
                yield from unused_json_keys(item, part, slot.shape, (*path, slot.json, i))
        else:
            yield from unused_json_keys(given, taken or {}, slot.shape, (*path, slot.json))


def _unused_key(name: str, path: Path) -> Fault:
    return Fault((*path, name), f"unused key {name}", "warning", at_key=True)


def _lost(path: Path) -> Fault:
    message = (
        f"context tree does not match content tree at {dotted(path)}. Line and column reporting may be "
        "inconsistent. Unused keys may not be reported"
    )
    return Fault(path, message, "warning")

"""Ignition's merge of two configs, and its printing: the order and omission of fields.

The rules of the merge: a value that the child gives replaces the parent's; mappings merge field by
field, so a child's contents without `compression` keep the parent's (which is why our own contents
always say it); lists merge by key, the parent's entries first and in their order, then what only
the child has; a key that moved to another list of the same storage leaves the parent's; `append`
lists are joined; an HTTP header that the child names without a value is removed.
"""

from __future__ import annotations

import json
import re
from typing import Any

from butane.schema import CONFIG, HEADER, Field, Struct

_ESCAPES = str.maketrans(
    {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
)


def merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Given two Ignition configs, return a new one in which the child wins as in Ignition.

    The spec version of the result is the newer one. The result is not validated: two valid
    configs can make an invalid one. Raise ValueError for a field that this package does not know.
    """
    merged = _merged(ordered(parent), ordered(child), CONFIG)
    versions = [c["ignition"]["version"] for c in (parent, child) if c.get("ignition")]
    if versions:
        merged["ignition"]["version"] = max(versions, key=_numbers)
    return ordered(merged)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _merged(parent: dict[str, Any], child: dict[str, Any], struct: Struct) -> dict[str, Any]:
    result: dict[str, Any] = {**parent, **child}
    for name, field in struct.by_json.items():
        if field.many:
            # even without entries of its own the child can take the parent's to another list
            result[name] = _merged_list(parent.get(name, []), child, struct, field)
        elif isinstance(field.type, Struct) and name in parent and name in child:
            result[name] = _merged(parent[name], child[name], field.type)
    return result


def _merged_list(parent: list[Any], child: dict[str, Any], struct: Struct, field: Field) -> list[Any]:
    own = child.get(field.json, [])
    if field.appends:
        return [*parent, *own]
    mine = {_key(item, field): item for item in own}
    elsewhere = _keys_of_sisters(child, struct, field)
    result: list[Any] = []
    for item in parent:
        key = _key(item, field)
        if key in mine:
            result += _merged_item(item, mine[key], field)
        elif key not in elsewhere:
            result.append(item)
    known = {_key(item, field) for item in parent}
    return result + [item for item in own if _key(item, field) not in known]


def _merged_item(parent: Any, child: Any, field: Field) -> list[Any]:
    if not isinstance(field.type, Struct):
        return [child]
    if field.type is HEADER and child.get("value") is None:
        return []
    return [_merged(parent, child, field.type)]


def _keys_of_sisters(child: dict[str, Any], struct: Struct, field: Field) -> set[Any]:
    """Return the keys in the child's other lists that share one set of keys with this one."""
    sisters = [other for other in struct.fields if field.shares and other.shares == field.shares]
    return {_key(item, other) for other in sisters if other is not field for item in child.get(other.json, [])}


def _key(item: Any, field: Field) -> Any:
    return item.get(field.type.key, "") if isinstance(field.type, Struct) else item


def ordered(config: dict[str, Any]) -> dict[str, Any]:
    """Given an Ignition config, return it in Ignition's order of fields, without empty parts.

    Raise ValueError for a field that this package does not know.
    """
    result = _ordered(config, CONFIG, "$")
    result.setdefault("ignition", {"version": ""})
    return {name: result[name] for name in CONFIG.by_json if name in result}


def _ordered(values: dict[str, Any], struct: Struct, path: str) -> dict[str, Any]:
    for name in values:
        if name not in struct.by_json:
            raise ValueError(f"{path}.{name}: this field of Ignition is not supported")
    result: dict[str, Any] = {}
    for name, field in struct.by_json.items():
        value = values.get(name)
        if value is None:
            if field.always:
                result[name] = ""
        elif not isinstance(field.type, Struct):
            if value != []:
                result[name] = list(value) if field.many else value
        else:
            here = f"{path}.{name}"
            part: Any
            if field.many:
                part = [_ordered(v, field.type, f"{here}.{i}") for i, v in enumerate(value)]
            else:
                part = _ordered(value, field.type, here)
            if part:
                result[name] = part
    return result


def to_json(config: dict[str, Any]) -> bytes:
    """Given an Ignition config, return it as Go prints it: Ignition's order of fields, empty parts
    left out, `<`, `>` and `&` escaped, one newline at the end.

    Raise ValueError for a field that this package does not know.
    """
    return dump(ordered(config))


def dump(config: dict[str, Any]) -> bytes:
    """Given an Ignition config whose fields are in order already, return it as Go prints it."""
    text = json.dumps(config, ensure_ascii=False, separators=(",", ":"))
    # these characters occur in strings alone, so the whole text can be searched
    if not text.isascii() or "<" in text or ">" in text or "&" in text:
        text = text.translate(_ESCAPES)
    return text.encode("utf-8") + b"\n"

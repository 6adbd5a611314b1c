"""Ignition configs as Go prints them: Ignition's order of fields, empty parts left out, Go's escapes."""

from __future__ import annotations

import json
import re
from typing import Any

from butane.schema import LATEST, Shape, ignition_shape

_ESCAPES = str.maketrans(
    {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
)
# Go has no short escapes for these
_LONG = {"\\b": "\\u0008", "\\f": "\\u000c"}
_ESCAPE = re.compile(r"\\.")
# A byte that is not UTF-8; Go prints U+FFFD for each, escaped
_NO_TEXT = re.compile(r"[\ud800-\udfff]")


def ordered(config: dict[str, Any], shape: Shape | None = None) -> dict[str, Any]:
    """Given an Ignition config, return it in Ignition's order of fields, without empty parts.

    Raise ValueError for a field that this package (or, where a shape is given, that version) does not know.
    """
    shape = shape or ignition_shape(LATEST)
    result = _ordered(config, shape, "$")
    result.setdefault("ignition", {"version": ""})
    return {name: result[name] for name in shape.by_json if name in result}


def _ordered(values: dict[str, Any], shape: Shape, path: str) -> dict[str, Any]:
    for name in values:
        if name not in shape.by_json:
            raise ValueError(f"{path}.{name}: this field of Ignition is not known")
    result: dict[str, Any] = {}
    for name, slot in shape.by_json.items():
        value = values.get(name)
        if value is None:
            if (slot.plain and not slot.field.hidden) or (slot.null and name in values):
                result[name] = slot.empty if slot.plain else None
            continue
        if slot.shape is not None:
            here = f"{path}.{name}"
            if slot.many:
                value = [_ordered(item, slot.shape, f"{here}.{i}") for i, item in enumerate(value)]
            else:
                value = _ordered(value, slot.shape, here)
                if not value and not slot.pointer:
                    continue
        if value != [] and not (slot.field.hidden and value == slot.empty):
            result[name] = list(value) if slot.many else value
    return result


def to_json(config: dict[str, Any]) -> bytes:
    """Given an Ignition config, return it as Go prints it, with one newline at the end.

    Raise ValueError for a field that this package does not know.
    """
    return dump(ordered(config))


def dump(config: dict[str, Any], pretty: bool = False) -> bytes:
    """Given an Ignition config whose fields are in order already, return it as Go prints it."""
    separators = (",", ": ") if pretty else (",", ":")
    text = json.dumps(config, ensure_ascii=False, separators=separators, indent=2 if pretty else None)
    # these characters occur in strings alone, so the whole text can be searched
    if not text.isascii() or "<" in text or ">" in text or "&" in text:
        text = _NO_TEXT.sub(r"\\ufffd", text.translate(_ESCAPES))
    if "\\b" in text or "\\f" in text:
        text = _ESCAPE.sub(lambda match: _LONG.get(match[0], match[0]), text)
    return text.encode("utf-8") + b"\n"

"""Ignition configs as Go reads and prints them: its types, its order of fields, empty parts left out, its escapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from butane.report import Chain, dotted, unchained
from butane.schema import Kind, Shape, Slot, ignition_shape
from butane.versions import minor_of

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


_TYPES: dict[Kind, tuple[type, str]] = {
    Kind.STRING: (str, "text"),
    Kind.INTEGER: (int, "a whole number"),
    Kind.BOOLEAN: (bool, "true or false"),
}


def version_of(config: Mapping[str, Any]) -> str:
    """Given an Ignition config, return its version, nothing where it says none."""
    ignition = config.get("ignition") if isinstance(config, Mapping) else None
    version = ignition.get("version") if isinstance(ignition, Mapping) else None
    return version if isinstance(version, str) else ""


def ordered(config: Mapping[str, Any], shape: Shape | None = None) -> dict[str, Any]:
    """Given an Ignition config, return it in Ignition's order of fields, without empty parts.

    The fields are those of the shape, else those of the config's own version. Raise ValueError for any other
    field, and for a value that is not of its field's type.
    """
    shape = shape or ignition_shape(minor_of(version_of(config)))
    result = _ordered(config, shape, None)
    result.setdefault("ignition", {"version": ""})
    return {name: result[name] for name in shape.by_json if name in result}


def _ordered(values: Any, shape: Shape, chain: Chain) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise _unfit(chain, "must be a mapping")
    for name in values:
        if name not in shape.by_json:
            raise _unfit((chain, name), "this field of Ignition is not known")
    result: dict[str, Any] = {}
    for name, slot in shape.by_json.items():
        value = values.get(name)
        if value is None:
            if (slot.plain and not slot.field.hidden) or (slot.null and name in values):
                result[name] = slot.empty if slot.plain else None
            continue
        value = _typed(value, slot, (chain, name))
        is_nothing = slot.shape is not None and not slot.pointer and value == {}
        if value != [] and not is_nothing and not (slot.field.hidden and value == slot.empty):
            result[name] = value
    return result


def _typed(value: Any, slot: Slot, chain: Chain) -> Any:
    if not slot.many:
        return _one(value, slot, chain)
    if not isinstance(value, (list, tuple)):
        raise _unfit(chain, "must be a list")
    return [_one(item, slot, (chain, i)) for i, item in enumerate(value)]


def _one(value: Any, slot: Slot, chain: Chain) -> Any:
    if slot.shape is not None:
        return _ordered(value, slot.shape, chain)
    wanted, name = _TYPES[slot.kind or Kind.STRING]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise _unfit(chain, f"must be {name}")
    return value


def _unfit(chain: Chain, problem: str) -> ValueError:
    return ValueError(f"{dotted(unchained(chain))}: {problem}")


def to_json(config: Mapping[str, Any]) -> bytes:
    """Given an Ignition config, return it as Go prints it, with one newline at the end.

    Raise ValueError for a field that its version does not have, and for a value that is not of its field's type.
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

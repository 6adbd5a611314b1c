"""JSON as Go reads it into Ignition's types, with Go's words for what is wrong.

Needed for Ignition configs that stand in a Butane config. Python's own reader takes more (NaN, control
characters) and has other words.
"""

from __future__ import annotations

import json
import re
from typing import Any

from butane.schema import Kind, Shape, Slot

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_STRING_START = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None}
_MAX_DEPTH = 10000
_KINDS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
_INT_RANGE = 2**63


class BadJson(ValueError):
    """The text is no JSON, or not of the types that belong there; the message is Go's."""


def parse_json(text: str) -> Any:
    """Given JSON, return its data, numbers that are no integers as float; raise BadJson in Go's words."""
    reader = _Reader(text)
    value = reader.value("looking for beginning of value")
    reader.space()
    if reader.at < len(text):
        raise reader.fault("after top-level value")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def space(self) -> str:
        """Skip white space; return the character behind it, nothing at the end."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def fault(self, where: str) -> BadJson:
        if self.at >= len(self.text):
            return BadJson("unexpected end of JSON input")
        return BadJson(f"invalid character {_quoted(self.text[self.at])} {where}")

    def value(self, where: str) -> Any:
        char = self.space()
        if char == "{":
            return self.nested(self.members)
        if char == "[":
            return self.nested(self.items)
        if char == '"':
            return self.string()
        if char and char in "-0123456789":
            return self.number()
        word = next((word for word in _LITERALS if char and word.startswith(char)), None)
        if word is None:
            raise self.fault(where)
        return self.literal(word)

    def nested(self, read: Any) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise BadJson("exceeded max depth")
        self.at += 1
        try:
            return read()
        except RecursionError:
            raise BadJson("exceeded max depth") from None
        finally:
            self.depth -= 1

    def members(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self.space() == "}":
            self.at += 1
            return result
        while True:
            if self.space() != '"':
                raise self.fault("looking for beginning of object key string")
            name = self.string()
            if self.space() != ":":
                raise self.fault("after object key")
            self.at += 1
            value = self.value("looking for beginning of value")
            before = result.get(name)
            # an object that comes again is read into the same struct
            result[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
            char = self.space()
            if char not in (",", "}"):
                raise self.fault("after object key:value pair")
            self.at += 1
            if char == "}":
                return result

    def items(self) -> list[Any]:
        result: list[Any] = []
        if self.space() == "]":
            self.at += 1
            return result
        while True:
            result.append(self.value("looking for beginning of value"))
            char = self.space()
            if char not in (",", "]"):
                raise self.fault("after array element")
            self.at += 1
            if char == "]":
                return result

    def string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            text: str = json.loads(match[0])
            return re.sub("[\ud800-\udfff]", "\ufffd", text)
        start = _STRING_START.match(self.text, self.at)
        self.at = start.end() if start else self.at
        if self.text[self.at : self.at + 1] != "\\":
            raise self.fault("in string literal")
        self.at += 1
        if self.text[self.at : self.at + 1] != "u":
            raise self.fault("in string escape code")
        self.at += 1
        while self.text[self.at : self.at + 1] in tuple("0123456789abcdefABCDEF"):
            self.at += 1
        raise self.fault("in \\u hexadecimal character escape")

    def number(self) -> int | float:
        match = _NUMBER.match(self.text, self.at)
        if match is None:
            self.at += 1
            raise self.fault("in numeric literal")
        self.at = match.end()
        rest = self.text[self.at : self.at + 1]
        if rest == "." and "." not in match[0] and "e" not in match[0].lower():
            self.at += 1
            raise self.fault("after decimal point in numeric literal")
        if rest in ("e", "E") and "e" not in match[0].lower():
            self.at += 1
            if self.text[self.at : self.at + 1] in ("+", "-"):
                self.at += 1
            raise self.fault("in exponent of numeric literal")
        return int(match[0]) if match[0].lstrip("-").isdigit() and len(match[0]) < 100 else float(match[0])

    def literal(self, word: str) -> Any:
        for char in word[1:]:
            self.at += 1
            if self.text[self.at : self.at + 1] != char:
                raise self.fault(f"in literal {word} (expecting {_quoted(char)})")
        self.at += 1
        return _LITERALS[word]


def _quoted(char: str) -> str:
    if char == "'":
        return r"'\''"
    if char == '"':
        return "'\"'"
    escapes = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\v": r"\v", "\a": r"\a"}
    if char in escapes:
        return f"'{escapes[char]}'"
    return (
        f"'{char}'" if char.isprintable() else f"'\\x{ord(char):02x}'" if ord(char) < 0x80 else f"'\\u{ord(char):04x}'"
    )


def typed(data: Any, shape: Shape) -> dict[str, Any]:
    """Given the data of an Ignition config, return it as its types take it: unknown keys dropped, null as nothing.

    Raise BadJson where a value is not of the type that belongs there.
    """
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadJson(f"json: cannot unmarshal {_kind(data)} into Go value of type types.{shape.struct.name}")
    result: dict[str, Any] = {}
    folded = {name.lower(): slot for name, slot in shape.by_json.items()}
    for name, value in data.items():
        slot = shape.by_json.get(name) or folded.get(name.lower())
        if slot is None or value is None:
            continue
        result[slot.json] = _field(value, slot, shape)
    return result


def _field(value: Any, slot: Slot, owner: Shape) -> Any:
    if slot.many:
        if not isinstance(value, list):
            raise _mismatch(value, slot, owner)
        return [_item(item, slot, owner) for item in value]
    return _item(value, slot, owner)


def _item(value: Any, slot: Slot, owner: Shape) -> Any:
    if slot.shape is not None:
        if value is not None and not isinstance(value, dict):
            raise _mismatch(value, slot, owner)
        return typed(value, slot.shape)
    if value is None:
        return slot.empty
    fits = {
        Kind.STRING: isinstance(value, str),
        Kind.BOOLEAN: isinstance(value, bool),
        Kind.INTEGER: type(value) is int and -_INT_RANGE <= value < _INT_RANGE,
    }
    if slot.kind is None or not fits[slot.kind]:
        raise _mismatch(value, slot, owner)
    return value


def _mismatch(value: Any, slot: Slot, owner: Shape) -> BadJson:
    wanted = slot.kind.value if slot.kind is not None else f"types.{slot.shape.struct.name if slot.shape else ''}"
    place = f"{owner.struct.name}.{slot.json}"
    return BadJson(f"json: cannot unmarshal {_kind(value)} into Go struct field {place} of type {wanted}")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null")

"""A tree of YAML nodes to values of the types that belong in their places, by the rules of Butane's decoder.

Types come from the table of fields, not from how a value looks: `yes` is true where a boolean belongs
and the word where a string belongs. Text is kept as `str`; bytes that are not UTF-8 (from `!!binary`)
are in it as Python's "surrogateescape" keeps them.

Source: yaml.v3, whose rules these are, its odd ones too: an entry of a list that is null is left out,
and a fraction where a whole number belongs is cut off.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from butane.parse import PLAIN, TEXT, AliasNode, keys
from butane.report import Chain, Entry, Fault, Path, unchained
from butane.schema import Kind, Shape, Slot

_PREFIX = "tag:yaml.org,2002:"
_BINARY = _PREFIX + "binary"
_RESOLVABLE = {_PREFIX + name: f"!!{name}" for name in ("bool", "int", "float", "null", "timestamp")}
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
# Words that only a place for a boolean takes (YAML 1.1)
_YES = frozenset({"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"})
_NO = frozenset({"n", "N", "no", "No", "NO", "off", "Off", "OFF"})
_SPECIAL = {
    sign + word: value
    for word, value in ((".inf", math.inf), (".Inf", math.inf), (".INF", math.inf))
    for sign, value in (("", value), ("+", value), ("-", -value))
} | {".nan": math.nan, ".NaN": math.nan, ".NAN": math.nan}
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)"
    r"|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*))"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[tT ][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?.*)?")
# A key that stands in a mapping time and again is told beside this many of those before it, not beside all
_TWINS_TOLD = 10
_LINE_BREAKS = str.maketrans("", "", "\r\n")
_MAX_INT = 2**63
# yaml.v3's guard against aliases that unfold to more than anybody wrote: it counts the nodes that it decodes, and
# how many of them are behind an alias
_MANY_ALIASED, _MANY_DECODED, _ALIASED_RATIO = 100, 1000, 0.99
_DECODED_LOW, _DECODED_HIGH, _RATIO_SPAN = 400_000, 4_000_000, 0.89


class Unreadable(Exception):
    """The decoder gives up at once; `entry` says where and why."""

    def __init__(self, node: Node, message: str) -> None:
        super().__init__(message)
        self.entry = Entry("error", "$", node.start_mark.line + 1, node.start_mark.column + 1, message)


class _Mismatch(Exception):
    """A scalar that is not of the type that belongs in its place."""


class Decoder:
    """Decodes one text; `faults` are the mismatches with their lines and columns, `broken` their paths.

    `odd` is set where the text has something that Butane's check for unused keys would tell.
    """

    def __init__(self, go_package: str) -> None:
        self.faults: list[tuple[Fault, int, int]] = []
        self.broken: set[Path] = set()
        self.odd = False
        self._go_package = go_package
        self._aliases: set[int] = set()
        self._decoded = 1  # the document, which is a node there
        self._aliased = 0

    def config(self, root: Node | None, shape: Shape) -> dict[str, Any]:
        """Given a root node and the shape it should have, return its values by Butane name.

        What was not given, or given as null, is left out. Raise Unreadable where the decoder gives up.
        """
        values: dict[str, Any] = {}
        if root is not None:
            self._struct(root, shape, None, values, None)
        return values

    def _error(self, chain: Chain, node: Node, message: str) -> None:
        path = unchained(chain)
        self.broken.add(path)
        mark = node.start_mark
        self.faults.append((Fault(path, message), mark.line + 1, mark.column + 1))

    def _mismatch(self, chain: Chain, node: Node, slot: Slot | None, shape: Shape | None, many: bool) -> None:
        if isinstance(node, MappingNode) and self._has_twins(node, chain):
            return
        kind = slot.kind.value if slot is not None and slot.kind is not None else ""
        wanted = kind or f"{self._go_package}.{shape.struct.name if shape else ''}"
        self._error(chain, node, f"cannot unmarshal {_tag(node)} into {'[]' * many}{wanted}")

    def _struct(
        self, node: Node, shape: Shape, chain: Chain, values: dict[str, Any], merged: set[str] | None
    ) -> dict[str, Any] | None:
        """Fill values from a mapping; return them, or None where the node is null or no mapping."""
        self._count(node)
        if isinstance(node, AliasNode):
            self.odd = True
            with self._unfolded(node) as target:
                return self._struct(target, shape, chain, values, merged)
        if not isinstance(node, MappingNode):
            self.odd = True
            if not _is_null(node):
                self._mismatch(chain, node, None, shape, False)
            return None
        if self._has_twins(node, chain):
            return None
        by_name = shape.by_name
        merge: Node | None = None
        for name, value in self._pairs(node, chain, merged):
            slot = None if name is None else by_name.get(name)
            if slot is not None:
                self._field(value, slot, (chain, slot.name), values)
            else:
                self.odd = True
                merge = value if name is None else merge
        if merge is not None:
            self._merge(node, merge, shape, chain, values, merged)
        return values

    def _pairs(self, node: MappingNode, chain: Chain, merged: set[str] | None) -> Iterator[tuple[str | None, Node]]:
        """Yield names and values of a mapping, None as the name of a merge; leave out what is merged already."""
        for key, value in node.value:
            if key.value == "<<" and key.tag == PLAIN and isinstance(key, ScalarNode):
                yield None, value
                continue
            name = self._name(key, chain)
            if name is None:
                self.odd = True
            elif merged is None:
                yield name, value
            elif name not in merged:
                merged.add(name)
                yield name, value

    def _name(self, key: Node, chain: Chain) -> str | None:
        self._count(key)
        if isinstance(key, ScalarNode) and key.tag in (PLAIN, TEXT):
            name: str = key.value
            return None if key.tag == PLAIN and name in _NULL else name
        if isinstance(key, AliasNode):
            with self._unfolded(key) as target:
                return self._name(target, chain)
        self.odd = True
        if isinstance(key, ScalarNode):
            text: str | None = _scalar(key, Kind.STRING)
            return text
        self._error(chain, key, f"cannot unmarshal {_tag(key)} into string")
        return None

    def _has_twins(self, node: MappingNode, chain: Chain) -> bool:
        """Tell a key that stands twice in a mapping; Butane reads nothing of it then."""
        names = [key.value for key, _ in node.value]
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return False
        seen: dict[tuple[type[Node], str], list[int]] = {}
        found = False
        for (key, _), name in zip(node.value, keys(node), strict=True):
            before = seen.setdefault((type(key), name), [])
            for line in before[:_TWINS_TOLD]:
                found = True
                self._error((chain, name), key, f'mapping key "{name}" already defined at line {line}')
            before.append(key.start_mark.line + 1)
        if found:
            self.broken.add(unchained(chain))
        return found

    def _field(self, node: Node, slot: Slot, chain: Chain, values: dict[str, Any]) -> None:
        found: Any
        if slot.many:
            found = self._many(node, slot, chain)
        elif slot.shape is not None:
            found = self._struct(node, slot.shape, chain, {}, None)
        else:
            found = self._one(node, slot, chain)
        if found is not None:
            values[slot.name] = found

    def _many(self, node: Node, slot: Slot, chain: Chain) -> list[Any] | None:
        self._count(node)
        if isinstance(node, AliasNode):
            self.odd = True
            with self._unfolded(node) as target:
                return self._many(target, slot, chain)
        if not isinstance(node, SequenceNode):
            if not _is_null(node):
                self._mismatch(chain, node, slot, slot.shape, True)
            return None
        result: list[Any] = []
        for item in node.value:
            here = (chain, len(result))  # Butane counts without those that are null
            if slot.shape is not None:
                value: Any = self._struct(item, slot.shape, here, {}, None)
            else:
                value = self._one(item, slot, here)
            if value is not None:
                result.append(value)
            elif self.broken and unchained(here) in self.broken:
                # nobody will see it; it keeps the places of the entries behind it
                result.append({} if slot.shape is not None else slot.empty)
        return result

    def _one(self, node: Node, slot: Slot, chain: Chain) -> Any:
        self._count(node)
        if isinstance(node, AliasNode):
            with self._unfolded(node) as target:
                return self._one(target, slot, chain)
        if not isinstance(node, ScalarNode):
            self._mismatch(chain, node, slot, None, False)
            return None
        tag, value = node.tag, node.value
        if tag == TEXT and slot.kind is Kind.STRING:
            return value
        if tag == PLAIN:
            if value in _NULL:
                return None
            if slot.kind is Kind.STRING:
                return value
        try:
            return _scalar(node, slot.kind)
        except _Mismatch:
            self._mismatch(chain, node, slot, None, False)
            return None

    def _merge(
        self,
        parent: MappingNode,
        merge: Node,
        shape: Shape,
        chain: Chain,
        values: dict[str, Any],
        above: set[str] | None,
    ) -> None:
        """Fill in what `<<` brings: whatever stands in the mapping itself, or came before, wins."""
        merged = above
        if merged is None:
            self._count(parent, len(parent.value))  # Butane reads the keys once more
            merged = set(keys(parent))
        many = isinstance(merge, SequenceNode)
        for node in merge.value if many else [merge]:
            target = node.target if isinstance(node, AliasNode) else node
            if not isinstance(target, MappingNode):
                raise Unreadable(node, "map merge requires map or sequence of maps as the value")
            self._struct(node, shape, chain, values, merged)

    def _count(self, node: Node, nodes: int = 1) -> None:
        """Count what is decoded; raise Unreadable where too much of it is behind aliases."""
        self._decoded += nodes
        if not self._aliases:
            return
        self._aliased += nodes
        span = (self._decoded - _DECODED_LOW) / (_DECODED_HIGH - _DECODED_LOW)
        allowed = _ALIASED_RATIO - _RATIO_SPAN * min(1.0, max(0.0, span))
        many = self._aliased > _MANY_ALIASED and self._decoded > _MANY_DECODED
        if many and self._aliased / self._decoded > allowed:
            raise Unreadable(node, "document contains excessive aliasing")

    @contextmanager
    def _unfolded(self, node: AliasNode) -> Iterator[Node]:
        """Yield what an alias stands for, to be read meanwhile; raise Unreadable where it holds itself."""
        if id(node) in self._aliases:
            raise Unreadable(node, "anchor value contains itself")
        self._aliases.add(id(node))
        yield node.target
        self._aliases.discard(id(node))


def _is_null(node: Node) -> bool:
    if isinstance(node, ScalarNode) and node.tag == _PREFIX + "null":
        return _scalar(node, Kind.STRING) is None
    return isinstance(node, ScalarNode) and node.tag == PLAIN and node.value in _NULL


def _tag(node: Node) -> str:
    """Return the short tag of a node as messages name it; never a tag of the user's making."""
    if isinstance(node, MappingNode):
        return "!!map"
    if isinstance(node, SequenceNode):
        return "!!seq"
    if node.tag == PLAIN:
        return _resolved(node.value)[0]
    return _RESOLVABLE.get(node.tag) or {TEXT: "!!str", _BINARY: "!!binary"}.get(node.tag, "a value with a tag")


def _scalar(node: ScalarNode, kind: Kind | None) -> Any:
    """Return the value of a scalar in a place of a kind, None for null; raise _Mismatch where it does not fit."""
    tag, text = node.tag, node.value
    value: Any = text
    if tag == PLAIN:
        value = _resolved(text)[1]
    elif tag in _RESOLVABLE:
        value = _as_tagged(node)
    elif tag == _BINARY:
        value = text = _binary(node)
    if value is None:
        return None
    if kind is Kind.STRING:
        return text
    return _integer(value) if kind is Kind.INTEGER else _boolean(value)


def _as_tagged(node: ScalarNode) -> Any:
    wanted = _RESOLVABLE[node.tag]
    found, value = _resolved(node.value)
    if wanted == "!!timestamp" and _DATE.fullmatch(node.value):
        return node.value
    if found != wanted and (found, wanted) != ("!!int", "!!float"):
        raise Unreadable(node, f"cannot decode {found} as a {wanted}")
    return value


def _binary(node: ScalarNode) -> str:
    try:
        data = base64.b64decode(node.value.translate(_LINE_BREAKS).encode("ascii"), validate=True)
    except ValueError:
        raise Unreadable(node, "!!binary value contains invalid base64 data") from None
    return data.decode("utf-8", "surrogateescape")


def _resolved(text: str) -> tuple[str, Any]:
    """Return the short tag and the value that a plain scalar has by itself."""
    if text in _NULL:
        return "!!null", None
    if text in _TRUE or text in _FALSE:
        return "!!bool", text in _TRUE
    if text in _SPECIAL:
        return "!!float", _SPECIAL[text]
    number = _number(text if text.startswith(".") else text.replace("_", "")) if text[0] in "+-.0123456789" else None
    if number is not None:
        return ("!!int" if isinstance(number, int) else "!!float"), number
    return "!!str", text


def _number(text: str) -> int | float | None:
    """Given a number without underscores, return it; a leading zero means octal if it can."""
    match = _INTEGER.fullmatch(text)
    if match is not None:
        for name, base in (("hex", 16), ("bin", 2), ("oct", 8), ("dec", 10)):
            if match[name] is not None and len(match[name]) < 100:
                number = int(match["sign"] + match[name], base)
                if -_MAX_INT <= number < (2 * _MAX_INT if not match["sign"] else _MAX_INT):
                    return number
    if _FLOAT.fullmatch(text) is None or len(text) > 400:
        return None
    number_ = float(text)
    return None if math.isinf(number_) else number_


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Mismatch
    if isinstance(value, int):
        if value >= _MAX_INT:
            raise _Mismatch
        return value
    if not value <= _MAX_INT:  # not a number is never less
        raise _Mismatch
    # beyond what an integer holds, processors give the least one
    return int(value) if -_MAX_INT <= value < _MAX_INT else -_MAX_INT


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (value in _YES or value in _NO):
        return value in _YES
    raise _Mismatch

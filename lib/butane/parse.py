"""YAML text to typed values, with every value's place in the text.

Types come from the schema, not from how a value looks: `yes` is true where a boolean belongs and
the word where a string belongs, as in Butane. Positions are looked up only for what goes into a
report; the tree of nodes keeps them.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from butane.report import BadConfig, Entry, Path, dotted
from butane.schema import Kind, Struct

try:
    from yaml._yaml import CParser
except ImportError:  # PyYAML without libyaml: slower, the same otherwise
    CParser = None  # type: ignore[assignment,misc]

MAX_DEPTH = 100
PLAIN = "?"
"""The tag of a plain scalar: what it is depends on where it stands."""
_STR = "tag:yaml.org,2002:str"
_BINARY = "tag:yaml.org,2002:binary"
_NUMBERS = frozenset({PLAIN, "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
# Words that only a plain or quoted string in the place of a boolean may use (YAML 1.1)
_YES = frozenset({"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"})
_NO = frozenset({"n", "N", "no", "No", "NO", "off", "Off", "OFF"})
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)"
    r"|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*))"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_QUOTED = re.compile(r"""\s*\b[bu]?(['"])(?!<)..+?\1|\s*(['"])(?!<)..+?\2""")
_MAX_INT = 2**63


class _Mismatch(Exception):
    """A scalar that is not of the type that belongs in its place."""


class _TooDeep(yaml.YAMLError):
    def __init__(self, node: Node) -> None:
        self.problem = "nested too deeply"
        self.problem_mark = node.start_mark


class _Tags:
    """The part of a loader that tells tags: nothing is resolved before its place is known."""

    depth = 0

    def resolve(self, _kind: type[Node], _value: Any, implicit: Any) -> str:
        return PLAIN if implicit is True or (implicit and implicit[0]) else _STR

    def descend_resolver(self, parent: Node | None, _index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH and parent is not None:
            raise _TooDeep(parent)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class _PythonComposer(_Tags, Reader, Scanner, Parser, Composer):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)


_composer: Callable[[str], Any] = _PythonComposer
if CParser is not None:
    _composer = type("_FastComposer", (_Tags, CParser), {})


def compose(text: str) -> Node | None:
    """Given YAML text, return the root node of its first document, None where it is empty.

    Raise BadConfig with one entry if it is not YAML.
    """
    text = text.removeprefix("\ufeff")
    try:
        text.encode("utf-8")  # what cannot be encoded is not YAML, and libyaml is given UTF-8
        loader = _composer(text)
        try:
            return loader.get_node() if loader.check_node() else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        entry = _syntax_entry(error, text)
    # outside the handler: the original error quotes the text
    raise BadConfig([entry])


def _syntax_entry(error: Exception, text: str) -> Entry:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return _character_entry(error, text)
    problem = _QUOTED.sub("", str(getattr(error, "problem", None) or "cannot be parsed"))
    return Entry("error", "$", mark.line + 1, mark.column + 1, f"not valid YAML: {problem}")


def _character_entry(error: Exception, text: str) -> Entry:
    """Report a character that YAML forbids; libyaml counts its place in bytes."""
    offset = getattr(error, "position", getattr(error, "start", 0))
    if isinstance(error, yaml.reader.ReaderError) and _composer is not _PythonComposer:
        offset = len(text.encode("utf-8")[:offset].decode("utf-8", "ignore"))
    before = text[:offset]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Entry("error", "$", line, column, "not valid YAML: character is not allowed")


def decode(root: Node | None, struct: Struct) -> tuple[dict[str, Any], list[Entry], set[Path]]:
    """Given a root node and the struct it should be, return its values by Butane name.

    What was not given, or given as null, is left out. Beside the values return what is wrong,
    and the paths of values that were given but could not be understood.
    """
    decoder = _Decoder()
    values = {} if root is None else decoder.struct(root, struct, ())
    return values, decoder.entries, decoder.broken


class _Decoder:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.broken: set[Path] = set()

    def mismatch(self, path: Path, node: Node, wanted: str) -> None:
        self.broken.add(path)
        self.error(path, node, f"cannot read {_described(node)} as {wanted}")

    def error(self, path: Path, node: Node, message: str) -> None:
        mark = node.start_mark
        self.entries.append(Entry("error", dotted(path), mark.line + 1, mark.column + 1, message))

    def struct(self, node: Node, struct: Struct, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value_node in self.pairs(node, struct, path):
            field = struct.by_name[key]
            here = (*path, key)
            read = self.many if field.many else self.one
            value = read(value_node, field.type, here)
            if value is not None:
                values[key] = value
        return values

    def pairs(self, node: Node, struct: Struct, path: Path) -> Iterator[tuple[str, Node]]:
        """Yield the keys that the struct has, each once, with their values."""
        if not isinstance(node, MappingNode):
            if not _is_null(node):
                self.mismatch(path, node, "a mapping")
            return
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            key = key_node.value
            if not isinstance(key, str):
                self.error(path, key_node, "a key must be a scalar")
            elif key in seen:
                message = f"mapping key {key} is already defined at line {seen[key]}"
                self.error((*path, key), key_node, message)
            else:
                seen[key] = key_node.start_mark.line + 1
                if key in struct.by_name:
                    yield key, value
                else:
                    self.error((*path, key), key_node, _unknown(key, struct))

    def many(self, node: Node, kind: Kind | Struct, path: Path) -> list[Any] | None:
        if not isinstance(node, SequenceNode):
            if not _is_null(node):
                self.mismatch(path, node, "a list")
            return None
        empty: Any = {} if isinstance(kind, Struct) else ""
        items = (self.one(item, kind, (*path, i)) for i, item in enumerate(node.value))
        return [empty if item is None else item for item in items]

    def one(self, node: Node, kind: Kind | Struct, path: Path) -> Any:
        if isinstance(kind, Struct):
            return self.struct(node, kind, path)
        if not isinstance(node, ScalarNode):
            self.mismatch(path, node, _ARTICLES[kind])
            return None
        if node.tag == PLAIN and node.value in _NULL:
            return None
        try:
            return _SCALARS[kind](node)
        except _Mismatch:
            self.mismatch(path, node, _ARTICLES[kind])
            return None


_ARTICLES = {
    Kind.STRING: "a string",
    Kind.DATA: "a string",
    Kind.INTEGER: "an integer",
    Kind.BOOLEAN: "a boolean",
}


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == PLAIN and node.value in _NULL


def _described(node: Node) -> str:
    """Name the type of a node; never its value, nor a tag of the user's making."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "a string" if node.tag in (PLAIN, _STR) else "a value with this tag"


def _unknown(key: str, struct: Struct) -> str:
    if key in struct.foreign:
        return f"key {key} is not supported"
    close = difflib.get_close_matches(key, list(struct.by_name), n=1)
    return f"unused key {key}" + (f" (did you mean {close[0]}?)" if close else "")


def _string(node: ScalarNode) -> str:
    value: str = node.value
    if node.tag == _BINARY or not value.isascii():
        try:
            return _data(node).decode("utf-8")
        except UnicodeDecodeError:
            raise _Mismatch from None
    return value


def _data(node: ScalarNode) -> bytes:
    value: str = node.value
    try:
        if node.tag == _BINARY:
            return base64.b64decode("".join(value.split()), validate=True)
        return value.encode("utf-8")
    except ValueError:  # no base64; or half a character, which libyaml would not let through
        raise _Mismatch from None


def _integer(node: ScalarNode) -> int:
    if node.tag not in _NUMBERS:
        raise _Mismatch
    number = _number(node.value.replace("_", ""))
    if number is None or not -_MAX_INT <= number < _MAX_INT:
        raise _Mismatch
    return number


def _number(text: str) -> int | None:
    """Given a number without underscores, return it; a leading zero means octal if it can."""
    match = _INTEGER.fullmatch(text)
    if match is not None:
        for name, base in (("hex", 16), ("bin", 2), ("oct", 8), ("dec", 10)):
            if match[name] is not None and len(match[name]) < 100:
                return int(match["sign"] + match[name], base)
        return None
    if _FLOAT.fullmatch(text) is None or len(text) > 100:
        return None
    number = float(text)
    return int(number) if number.is_integer() else None


def _boolean(node: ScalarNode) -> bool:
    value = node.value
    given = node.tag != _STR
    if value in _YES or (given and value in _TRUE):
        return True
    if value in _NO or (given and value in _FALSE):
        return False
    raise _Mismatch


_SCALARS: dict[Kind, Callable[[ScalarNode], Any]] = {
    Kind.STRING: _string,
    Kind.DATA: _data,
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
}


def locate(root: Node | None, path: Path) -> tuple[int, int]:
    """Given a path, return line and column (from 1) of the deepest node on it that exists."""
    if root is None:
        return 1, 1
    node = root
    for part in path:
        below = _child(node, part)
        if below is None:
            break
        node = below
    return node.start_mark.line + 1, node.start_mark.column + 1


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node, MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        child: Node = node.value[part]
        return child
    return None

"""Reading YAML with the place of everything.

YAML 1.1, which PyYAML speaks, turns `no` into False, 12:34:56 into 45296 and 2026-01-01 into a
date: in files about countries, mac addresses and versions each of these is a fault that nobody
sees. So plain scalars are read here by a shorter table: YAML 1.2's core schema, but for

- only `true` and `false` are bools; `yes`, `no`, `on`, `off` and `True` are text, as an editor's
  YAML 1.2 mode shows them, and a field that wants a bool says so;
- `0644` is octal as in YAML 1.1 (and `0o644` as in 1.2), since it is a file mode whenever a person
  writes it; it is an `Octal`, an int that knows it was written so;
- infinities and NaN are text, since no JSON can carry them.

Keys are always text as written. Aliases work; merge keys (`<<`) and tags of programs do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from i12e.errors import Problem, UserError

Loc = tuple[str | int, ...]

# CBaseLoader where PyYAML was built with libyaml: 10 times faster, same nodes, same marks
_Base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_OCTAL = re.compile(r"0o?[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "false": False,
}
_NOTHING = ("", "~", "null", "Null", "NULL")
_TAG = "tag:yaml.org,2002:"
_PLAIN = ""
_NESTING = 64
_STACK = 500
_NODES = 200_000
_DIGITS = 300

_WORDING = {
    "mapping values are not allowed in this context": (
        "a second `:` or a wrong indentation",
        "indent keys of one mapping alike, put text that holds `: ` in quotes",
    ),
    "block sequence entries are not allowed in this context": (
        "a list cannot start here",
        "put `- ` on a line of its own below the key",
    ),
    "did not find expected key": (
        "a key was expected here",
        "is the indentation the same as above?",
    ),
    "could not find expected ':'": ("a `:` was expected before this", ""),
    "found unexpected end of stream": ("a quote is never closed", ""),
    "did not find expected ',' or ']'": ("a `,` or `]` was expected here", ""),
    "did not find expected ',' or '}'": ("a `,` or `}` was expected here", ""),
    "did not find expected node content": ("a value was expected here", ""),
    "found undefined alias": ("an alias (`*name`) of an anchor that does not exist", ""),
    "found unknown escape character": (
        "an unknown `\\` escape",
        "in single quotes a `\\` is only itself",
    ),
    "but found another document": ("a second document begins here", "one file holds one document"),
    "second occurrence": ("an anchor (`&name`) that exists already", ""),
}


class Octal(int):
    """An int that was written as `0644` or `0o644`."""


class Document:
    """What a YAML file holds, and on demand where each part of it stands."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.data: dict[str, Any] = {}
        self.problems: tuple[Problem, ...] = ()
        self.text = text
        self._root: Any = None

    def place(self, loc: Loc, key: bool = False) -> tuple[int, int]:
        """Given a path of keys and indexes, return line and column (from 1) of its value.

        With `key`, of the key itself. Of a path that does not exist: of its deepest part that does.
        The file's first character stands for the top level, and for a file that cannot be read.
        """
        place, node = (1, 1), self._compose()
        for depth, step in enumerate(loc, start=1):
            found = _step(node, step)
            if found is None:
                break
            key_node, node = found
            wants_key = (key and depth == len(loc)) or node.start_mark.index == node.end_mark.index
            place = self._at((key_node if wants_key and key_node else node).start_mark)
        return place

    def has(self, loc: Loc) -> bool:
        """Return whether the file holds a value at this path."""
        data: Any = self.data
        for step in loc:
            if (isinstance(data, dict) and step in data) or _holds_index(data, step):
                data = data[step]
            else:
                return False
        return True

    def source(self, loc: Loc) -> str | None:
        """Return a scalar as the file spells it (without quotes), None where there is no scalar."""
        node = self._compose()
        for step in loc:
            found = _step(node, step)
            if found is None:
                return None
            node = found[1]
        return str(node.value) if isinstance(node, yaml.ScalarNode) else None

    def span(self, loc: Loc) -> tuple[int, int]:
        """Given a path, return where in `text` its value begins and ends, (0, 0) where there is no such path.

        Of a list or mapping in block style the end is where what follows begins.
        """
        node = self._compose()
        for step in loc:
            found = _step(node, step)
            if found is None:
                return (0, 0)
            node = found[1]
        lines = self.text.splitlines(keepends=True)
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line))
        begin, end = ((starts[min(mark.line, len(lines))] + mark.column) for mark in (node.start_mark, node.end_mark))
        return begin, min(end, len(self.text))

    def _compose(self) -> Any:
        """Return the tree of nodes, made when the first fault asks for a place."""
        if self._root is None:
            try:
                self._root = _compose(self.text)
            except yaml.YAMLError:
                self._root = False
        return self._root

    def _at(self, mark: Any) -> tuple[int, int]:
        return _within(self.text, mark.line, mark.column)


def load(text: bytes, file: str) -> Document:
    """Given a file's bytes and its name, return its document; raise UserError with all problems."""
    document = examine(text, file)
    if document.problems:
        raise UserError(document.problems)
    return document


def examine(text: bytes, file: str) -> Document:
    """Given a file's bytes and name, return what could be read; its `.problems` say the rest."""
    try:
        document = Document(file, text.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        document = Document(file, "")
        before = text[: error.start].decode("utf-8").removeprefix("\ufeff")
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        document.problems = (Problem(file, *place, "is not UTF-8 text from here on", "save it as UTF-8"),)
        return document
    _read(document)
    return document


def without(text: str, key: str) -> str:
    """Given the text of a mapping that can be read, return it without what stands at a key of its top level."""
    pairs = [(pair[0].value, pair[0].start_mark.index) for pair in getattr(_compose(text), "value", ())]
    for place, (name, start) in enumerate(pairs):
        if name == key:
            return text[:start] + (text[pairs[place + 1][1] :] if pairs[place + 1 :] else "")
    return text


def split(text: str, other: str, hidden: Callable[[str], bool]) -> tuple[str, str]:
    """Given a mapping's text that can be read, and what it would be with other secrets, return it in two parts.

    The second part has what differs and what `hidden` says of a scalar; the first part all else. As mappings that
    are merged they are the whole: a list goes to one of them entire. Each is YAML, and empty where nothing is in it.
    """
    root = _compose(text)
    try:
        twin = None if _too_deep(other) else _compose(other)
    except yaml.YAMLError:
        twin = None
    public, secret = _parted(root, twin, hidden)
    return _written(public, ""), _written(secret, "")


def overlaid(text: str, other: str, key: str) -> str:
    """Given the texts of two mappings that can be read, return the first with the second laid over it.

    Of lists at the top level, entries of the second take the place of those that have the same at `key`, or are
    added; else the second says what the first lacks or has empty. What is plain stays as it is spelt, so every
    program reads it as before; comments, anchors and the layout go.
    """
    base, over = (getattr(_compose(part), "value", None) or [] for part in (text, other))
    theirs = {name.value: (name, value) for name, value in over}
    pairs = []
    for name, value in base:
        found = theirs.pop(name.value, None)
        if found is not None and _is_empty(value):
            value = found[1]
        elif found is not None and isinstance(value, yaml.SequenceNode):
            value = yaml.SequenceNode(value.tag, _with_entries(value.value, found[1].value, key))
        pairs.append((name, value))
    return _written(yaml.MappingNode(_TAG + "map", [*pairs, *theirs.values()]), "")


def _with_entries(entries: list[Any], over: list[Any], key: str) -> list[Any]:
    """Return entries with others in the place of the first of each same name, and without the further ones."""
    left = {_scalar_at(entry, key): entry for entry in over}
    names = set(left)
    kept = []
    for entry in entries:
        name = _scalar_at(entry, key)
        if name not in names:
            kept.append(entry)
        elif name in left:
            kept.append(left.pop(name))
    return [*kept, *left.values()]


def _scalar_at(node: Any, key: str) -> str | None:
    found = _step(node, key)
    return str(found[1].value) if found and isinstance(found[1], yaml.ScalarNode) else None


def _is_empty(node: Any) -> bool:
    nothing = not isinstance(node, yaml.ScalarNode) or node.tag != _TAG + "str"
    return not node.value or (nothing and node.value in _NOTHING)


def _parted(node: Any, twin: Any, hidden: Callable[[str], bool]) -> tuple[Any, Any]:
    """Given a node and its twin, return what of it is public and what is secret, None for nothing."""
    if not isinstance(node, yaml.MappingNode) or not node.value or not isinstance(twin, yaml.MappingNode):
        return (node, None) if _same(node, twin, hidden) else (None, node)
    parts: tuple[list[Any], list[Any]] = ([], [])
    twins = {key.value: value for key, value in twin.value}
    for key, value in node.value:
        found = (None, value) if hidden(key.value) else _parted(value, twins.get(key.value), hidden)
        for part, kept in zip(parts, found, strict=True):
            if kept is not None:
                part.append((key, kept))
    public, secret = (yaml.MappingNode(node.tag, part) if part else None for part in parts)
    return public, secret


def _same(node: Any, twin: Any, hidden: Callable[[str], bool]) -> bool:
    """Return whether two nodes say the same, and nothing hidden."""
    if type(node) is not type(twin) or node is None:
        return False
    if isinstance(node, yaml.ScalarNode):
        return (node.tag, node.value) == (twin.tag, twin.value) and not hidden(node.value)
    pairs = zip(_flattened(node), _flattened(twin), strict=False)
    return len(node.value) == len(twin.value) and all(_same(one, other, hidden) for one, other in pairs)


def _flattened(node: Any) -> Iterator[Any]:
    for item in node.value:
        yield from item if isinstance(item, tuple) else (item,)


def _written(node: Any, indent: str) -> str:
    """Return a node as YAML in block style: what was plain stays as it was spelt, so every program reads it alike."""
    if node is None:
        return ""
    if isinstance(node, yaml.ScalarNode):
        return _scalar_text(node)
    if not node.value:
        return "{}" if isinstance(node, yaml.MappingNode) else "[]"
    lines = []
    for item in node.value:
        head, value = (f"{_scalar_text(item[0])}:", item[1]) if isinstance(item, tuple) else ("-", item)
        nested = not isinstance(value, yaml.ScalarNode) and value.value
        text = _written(value, indent + "  ")
        if nested and head == "-":
            lines.append(f"{indent}- {text[len(indent) + 2 :]}")
        else:
            lines.append(f"{indent}{head}\n{text}" if nested else f"{indent}{head} {text}".rstrip(" ") + "\n")
    return "".join(lines)


def _scalar_text(node: Any) -> str:
    plain = node.tag != _TAG + "str" and "\n" not in node.value
    return str(node.value) if plain else flow(node.value)


def flow(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Given a value, return it as JSON that is YAML too; `default` gives JSON's form of what JSON does not know.

    They differ in characters: YAML wants beyond U+FFFF one escape where JSON has two, and folds or refuses
    some that JSON leaves as they are.
    """
    text = json.dumps(value, default=default, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    return re.sub(r"[^\x20-\x7e]", lambda found: f"\\U{ord(found[0]):08x}", text)


def _read(document: Document) -> None:
    """Fill in the data of a document, or its problems."""
    text = document.text
    if _too_deep(text):
        document.problems = (_problem(document, 0, 0, "is nested too deeply"),)
        return
    try:
        root = _compose(text)
    except yaml.YAMLError as error:
        document.problems = (_syntax(document, error),)
        return
    if root is None:
        return
    builder = _Builder()
    data = builder.value(root)
    if isinstance(data, dict):
        document.data = data
    elif data is not None and not builder.faults:
        builder.fault(root, "is not a mapping", "write `key: value` lines")
    document.problems = tuple(
        _problem(document, node.start_mark.line, node.start_mark.column, message, remedy)
        for node, message, remedy in builder.faults
    )


def _compose(text: str) -> Any:
    """Return the root node of the only document, None when there is none; raise YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Loader(_Base):  # type: ignore[misc]  # chosen at import: with or without libyaml
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Mark plain scalars, so that the reader below tells them from quoted and tagged ones."""
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TAG + "str"
        return _TAG + ("map" if kind is yaml.MappingNode else "seq")


class _Builder:
    """Turns nodes into plain data and collects what is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[tuple[Any, str, str]] = []
        self._open: set[int] = set()
        self._count = 0

    def fault(self, node: Any, message: str, remedy: str = "") -> None:
        """Note a fault of a node."""
        self.faults.append((node, message, remedy))

    def value(self, node: Any) -> Any:
        """Return the data of a node."""
        self._count += 1
        if self._count == _NODES:
            self.fault(node, "aliases make this too big")
        if self._count >= _NODES:
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            return self.fault(node, "an anchor that holds itself")
        if len(self._open) >= _NESTING:
            return self.fault(node, "is nested too deeply")
        self._open.add(id(node))
        sequence = isinstance(node, yaml.SequenceNode)
        self._tag(node, "seq" if sequence else "map")
        data = [self.value(item) for item in node.value] if sequence else self._mapping(node)
        self._open.discard(id(node))
        return data

    def _mapping(self, node: Any) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fault(key_node, "a key must be text, not a list or a mapping")
                continue
            key = key_node.value
            if key in data:
                self.fault(key_node, f"{key}: is there twice", "keep one of them")
            if key == "<<" and key_node.tag == _PLAIN:
                remedy = "write the keys out, cluster.yaml holds what hosts share"
                self.fault(key_node, "merge keys (`<<`) are not supported", remedy)
                continue
            data[key] = self.value(value_node)
        return data

    def _scalar(self, node: Any) -> Any:
        tag, text = node.tag, node.value
        if tag == _PLAIN:
            return _plain(text)
        if tag == _TAG + "str":
            return text
        value = _plain(text)
        known = {"int": int, "float": (int, float), "bool": bool, "null": type(None)}
        wanted: Any = known.get(tag.removeprefix(_TAG), ())
        if not isinstance(value, wanted):
            self._tag(node, "str")
        return value

    def _tag(self, node: Any, kind: str) -> None:
        if node.tag != _TAG + kind:
            tag = node.tag.replace(_TAG, "!!")
            self.fault(node, f"the tag {tag} does not fit here", "leave the tag out")


def _plain(text: str) -> Any:
    """Given a plain scalar, return its value."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > _DIGITS:
        return text
    if _INT.match(text):
        return int(text)
    if _OCTAL.match(text):
        return Octal(text.replace("o", ""), 8)
    if _HEX.match(text):
        return int(text, 16)
    if _FLOAT.match(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return text


def _step(node: Any, step: str | int) -> tuple[Any, Any] | None:
    """Return (key node, value node) of one step into a node, None where there is no such step."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in reversed(node.value):
            if isinstance(key_node, yaml.ScalarNode) and key_node.value == step:
                return key_node, value_node
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None


def _holds_index(data: Any, step: str | int) -> bool:
    return isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data)


def _too_deep(text: str) -> bool:
    """Return whether composing the text could overflow the C stack: it recurses unguarded."""
    if sum(text.count(mark) for mark in ("[", "{", "- ", "? ", ":")) <= _STACK:
        return False
    try:
        return any(depth > _STACK for depth in _depths(text))
    except yaml.YAMLError:
        return False  # told with its place when the text is composed


def _depths(text: str) -> Iterator[int]:
    depth = 0
    loader = _Loader(text)
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                yield depth
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    finally:
        loader.dispose()


def _syntax(document: Document, error: yaml.YAMLError) -> Problem:
    """Given what PyYAML says, return it in plain words at its place."""
    if isinstance(error, yaml.reader.ReaderError):
        return _unreadable(document, error)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line, mark.column) if mark else (0, 0)
    said = str(getattr(error, "problem", None) or error)
    message, remedy = _WORDING.get(said, (said, ""))
    if "cannot start any token" in said:
        message, remedy = _bad_start(document.text, line, column)
    opened = getattr(error, "context_mark", None)
    if opened and (opened.line, opened.column) < (line, column) and "quote" in message + said:
        line, column = opened.line, opened.column
    return _problem(document, line, column, f"YAML: {message}", remedy)


def _bad_start(text: str, line: int, column: int) -> tuple[str, str]:
    lines = text.splitlines()
    rest = lines[line][column:] if line < len(lines) else ""
    if rest.startswith("\t"):
        return "a tab cannot indent", "use spaces"
    return f"a value cannot start with `{rest[:1]}`", "put it in quotes"


def _unreadable(document: Document, error: yaml.reader.ReaderError) -> Problem:
    """Say where the first forbidden character is: libyaml gives its place in bytes only."""
    text = document.text
    bad = next((n for n, char in enumerate(text) if _forbidden(char)), 0)
    before = text[:bad]
    message = f"the character U+{ord(text[bad]):04X} is not allowed in YAML" if text else str(error)
    return _problem(document, before.count("\n"), bad - before.rfind("\n") - 1, message, "delete it")


def _forbidden(char: str) -> bool:
    code = ord(char)
    control = (code < 32 and char not in "\t\n\r") or (0x7F <= code <= 0x9F and code != 0x85)
    return control or code in (0xFFFE, 0xFFFF, 0xFEFF)


def _problem(document: Document, line: int, column: int, message: str, remedy: str = "") -> Problem:
    return Problem(document.file, *_within(document.text, line, column), message, remedy)


def _within(text: str, line: int, column: int) -> tuple[int, int]:
    """Given a mark (from 0), return it from 1; one behind the end is the end of the last line."""
    lines = text.splitlines()
    if not lines:
        return (1, 1)
    if line >= len(lines):
        return (len(lines), len(lines[-1]) + 1)
    return (line + 1, column + 1)

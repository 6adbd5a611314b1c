"""YAML text to a tree of nodes, and the places of values in it.

The tree is PyYAML's, read with libyaml where that is there. Tags are not resolved: what a value is
depends on where it stands. Aliases need a second, slower reading, which keeps them as nodes of their own,
because Butane tells the place of an alias and not of what it stands for. So does a lone `!`, the tag that
says nothing: libyaml's own composer no longer knows whether what it is put on is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from yaml.composer import Composer, ComposerError
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner, ScannerError

from butane.report import BadConfig, Entry, Path

try:
    from yaml._yaml import CParser
except ImportError:  # PyYAML without libyaml: slower, the same otherwise
    CParser = None  # type: ignore[assignment,misc]

MAX_DEPTH = 100
PLAIN = "?"
"""The tag of a plain scalar: what it is depends on where it stands."""
TEXT = "tag:yaml.org,2002:str"
_QUOTED = re.compile(r"""\s*\b[bu]?(['"])(?!<)..+?\1|\s*(['"])(?!<)..+?\2""")
_ALIAS_OR_LONE_TAG = re.compile(r"\*[\w-]|!(?=[\s\x85,\]}]|\Z)")
# Ends of lines, as YAML has them, and what else a value may stand behind
_BEFORE_VALUE = "\r\n\x85\u2028\u2029[{,:?-"


class AliasNode(Node):
    """An alias: `value` is its name, `target` what it stands for."""

    id = "alias"
    target: Node


class _Tags:
    """The part of a loader that tells tags: nothing is resolved before its place is known."""

    depth = 0

    def resolve(self, _kind: type[Node], _value: Any, implicit: Any) -> str:
        return PLAIN if implicit is True or (implicit and implicit[0]) else TEXT

    def descend_resolver(self, parent: Node | None, _index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH and parent is not None:
            raise _unfit("nested too deeply", parent.start_mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class _PythonComposer(_Tags, Reader, Scanner, Parser, Composer):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: Any) -> list[str]:
        """Refuse, as libyaml does, an escape for what is no character."""
        try:
            chunks: list[str] = super().scan_flow_scalar_non_spaces(double, start_mark)
            "".join(chunks).encode("utf-8")
        except (ValueError, OverflowError):
            problem = "found invalid Unicode character escape code"
        else:
            return chunks
        raise ScannerError("while parsing a quoted scalar", start_mark, problem, self.get_mark())


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
        if not text.startswith("%") and not _needs_events(text):
            try:
                return _loaded(text, lambda loader: loader.get_node() if loader.check_node() else None)
            except ComposerError:  # an anchor that is there twice
                pass
        return _loaded(text, lambda loader: _FromEvents(loader).root())
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        entry = _syntax_entry(error, text)
    # outside the handler: the original error quotes the text
    raise unread([entry])


def _loaded(text: str, read: Callable[[Any], Node | None]) -> Node | None:
    loader = _composer(text)
    try:
        return read(loader)
    finally:
        loader.dispose()


def _needs_events(text: str) -> bool:
    """Tell whether an alias or a lone tag may be in a text: at the start of a line, or behind what begins a value."""
    for match in _ALIAS_OR_LONE_TAG.finditer(text):
        at = match.start() - 1
        while at >= 0 and text[at] in " \t":
            at -= 1
        if at < 0 or text[at] in _BEFORE_VALUE:
            return True
    return False


def unread(entries: list[Entry]) -> BadConfig:
    """Given why a text is no YAML, return what Butane would fail with."""
    lines = (f"line {entry.line}: {entry.message}" for entry in entries)
    return BadConfig(entries, "Error unmarshaling yaml: yaml: " + "\n  ".join(lines), unread=True)


_KINDS: dict[type, type[Node]] = {
    ScalarEvent: ScalarNode,
    SequenceStartEvent: SequenceNode,
    MappingStartEvent: MappingNode,
}


class _FromEvents:
    """Builds the tree from a loader's events, as its own composer would, with aliases as nodes.

    An anchor may be used again for something else; libyaml's own composer refuses that.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.anchors: dict[str, Node] = {}
        self.depth = 0

    def root(self) -> Node | None:
        self.loader.get_event()
        if self.loader.check_event(StreamEndEvent):
            return None
        start = self.loader.get_event()
        if start.version not in (None, (1, 1)):
            raise _unfit("found incompatible YAML document", start.start_mark)
        node = self.node()
        self.loader.get_event()
        return node

    def node(self) -> Node:
        event: Any = self.loader.get_event()
        if isinstance(event, AliasEvent):
            return self.alias(event)
        kind = _KINDS[type(event)]
        untagged = TEXT if kind is ScalarNode and event.style else PLAIN
        tag = event.tag if event.tag not in (None, "!") else untagged
        node: Node = kind(tag, event.value if kind is ScalarNode else [], event.start_mark, event.end_mark)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        self.fill(node, event)
        return node

    def fill(self, node: Node, event: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _unfit("nested too deeply", node.start_mark)
        if isinstance(event, SequenceStartEvent):
            while not self.loader.check_event(SequenceEndEvent):
                node.value.append(self.node())
            self.loader.get_event()
        elif isinstance(event, MappingStartEvent):
            while not self.loader.check_event(MappingEndEvent):
                node.value.append((self.node(), self.node()))
            self.loader.get_event()
        self.depth -= 1

    def alias(self, event: Any) -> AliasNode:
        if event.anchor not in self.anchors:
            raise _unfit("unknown anchor", event.start_mark)
        node = AliasNode(PLAIN, event.anchor, event.start_mark, event.end_mark)
        node.target = self.anchors[event.anchor]
        return node


def _unfit(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


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


def locate(root: Node | None, path: Path, at_key: bool = False) -> tuple[int, int]:
    """Given a path, return line and column (from 1) of the deepest node on it that exists.

    With `at_key` it is the place of the key at the path's end. An alias is not followed.
    """
    if root is None:
        return 1, 1
    node = root
    for part in path[:-1] if at_key else path:
        below = child(node, part)
        if below is None:
            return _place(node)
        node = below
    return _place((_key(node, path[-1]) if at_key else None) or node)


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def child(node: Node, part: str | int) -> Node | None:
    """Given a node and a key or an index, return what is there, None where nothing is."""
    if isinstance(node, MappingNode):
        return _index(node).get(part, (None, None))[1]
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        found: Node = node.value[part]
        return found
    return None


def _key(node: Node, name: str | int) -> Node | None:
    return _index(node).get(name, (None, None))[0] if isinstance(node, MappingNode) else None


def _index(node: MappingNode) -> dict[str | int, tuple[Node, Node]]:
    """Return keys and values of a mapping by name; of a key that stands there twice the first, but the last value.

    That is Butane's index of the text. It is kept with the node, for a mapping in which thousands are looked up.
    """
    index: dict[str | int, tuple[Node, Node]] | None = vars(node).get("index")
    if index is None:
        index = vars(node)["index"] = {}
        for key, value in node.value:
            if isinstance(key.value, str):
                index[key.value] = (index.get(key.value, (key,))[0], value)
    return index


def keys(node: MappingNode) -> Iterator[str]:
    """Given a mapping, yield the text of its keys; of one that is no scalar, nothing ("")."""
    for key, _ in node.value:
        yield key.value if isinstance(key.value, str) else ""

"""Folders of the files directory, whole, as files, directories and links of the host.

A file's mode is 0755 where anybody may execute it, else 0644; other permissions and owners of the
source do not count. What the user wrote at the same path is filled in where it has no contents yet.
Symlinks become links with the same target and are never followed.

Source: processTrees of Butane's base 0.2 to 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from butane.dataurls import data_url, plain_data_url
from butane.gopath import join
from butane.localfiles import NO_DIRECTORY, LocalFiles, Node, NoFile
from butane.report import Fault, Path
from butane.schema import Dialect

Values = dict[str, Any]
_EXISTS = "matching filesystem node has existing contents or different type"
_DIRECTORY_MODE = 0o755


class Trees:
    """Adds trees to the storage of an Ignition config; `faults` and `origins` tell what came of it."""

    def __init__(self, storage: Values, files: LocalFiles, dialect: Dialect) -> None:
        self.storage = storage
        self.files = files
        self.dialect = dialect
        self.faults: list[Fault] = []
        self.whole: dict[Path, Path] = {}
        """Entries that a tree made: their path in Ignition, and the tree's in Butane."""
        self.parts: dict[Path, Path] = {}
        """Fields that a tree filled in."""
        self.sources: set[str] = set()
        self.at: dict[str, dict[str, int]] = {
            kind: {node.get("path", ""): i for i, node in enumerate(storage.get(kind, ()))}
            for kind in ("files", "directories", "links")
        }

    def add(self, trees: list[Values]) -> None:
        """Given the trees of a Butane config, add what is in them."""
        for i, tree in enumerate(trees):
            place: Path = ("storage", "trees", i)
            if not self.files.directory:
                self.fault(place, NO_DIRECTORY)
                return
            try:
                root = self.files.top(tree.get("local", ""))
            except NoFile as error:
                self.fault(place, str(error))
                continue
            if root.kind not in ("directory", "link"):
                self.fault(place, "root of tree must be a directory")
                continue
            for node in self.walk(root, place):
                below = node.path.removeprefix(root.path).lstrip("/")
                self.node(node, join(tree.get("path") or "/", below), tree, place)

    def fault(self, place: Path, message: str) -> None:
        self.faults.append(Fault(place, message))

    def walk(self, node: Node, place: Path) -> Iterator[Node]:
        """Yield a node and what is below it, a folder before its entries, entries by name."""
        waiting = [node]
        while waiting:
            node = waiting.pop()
            yield node
            if node.kind == "directory":
                try:
                    waiting += reversed(self.files.entries(node.path))
                except NoFile as error:
                    self.fault(place, str(error))

    def node(self, node: Node, path: str, tree: Values, place: Path) -> None:
        if node.kind == "directory":
            self.directory(path, tree, place)
        elif node.kind == "file":
            self.file(node, path, tree, place)
        elif node.kind == "link":
            self.link(node, path, tree, place)
        else:
            self.fault(place, "trees may only contain files, directories, and symlinks")

    def directory(self, path: str, tree: Values, place: Path) -> None:
        owners = {name: tree[name] for name in ("group", "user") if tree.get(name)}
        if "dir_mode" not in tree and not owners:
            return
        if self.taken(path):
            self.fault(place, _EXISTS)
            return
        self.new("directories", {**owners, "path": path, "mode": tree.get("dir_mode", _DIRECTORY_MODE)}, place)

    def file(self, node: Node, path: str, tree: Values, place: Path) -> None:
        found = self.claim("files", path, tree, place, lambda file: file.get("contents", {}).get("source"))
        if found is None:
            return
        i, file = found
        try:
            data = self.files.read(node.path)
        except NoFile as error:
            self.fault(place, str(error))
            return
        here: Path = ("storage", "files", i)
        contents = file.setdefault("contents", {})
        given = contents.get("compression")
        source, compression = (plain_data_url(data), given) if given else data_url(data)
        contents |= {"source": source, "compression": compression}
        self.sources.add(source)
        filled = ("contents", "contents.source", *(() if given else ("contents.compression",)))
        self.parts |= {(*here, *name.split(".")): place for name in filled}
        if "mode" not in file:
            file["mode"] = tree.get("file_mode", 0o755 if node.executable else 0o644)
            self.parts[*here, "mode"] = place

    def link(self, node: Node, path: str, tree: Values, place: Path) -> None:
        found = self.claim("links", path, tree, place, lambda link: link.get("target"))
        if found is not None:
            i, link = found
            link["target"] = node.target
            self.parts["storage", "links", i, "target"] = place

    def claim(self, kind: str, path: str, tree: Values, place: Path, is_full: Any) -> tuple[int, Values] | None:
        """Return the entry at a path that is to be filled in, a new one where there is none; None where it is taken."""
        i = self.at[kind].get(path)
        if i is not None:
            entry: Values = self.storage[kind][i]
            if not is_full(entry):
                return i, entry
        elif not self.taken(path):
            owners = {name: tree[name] for name in ("group", "user") if tree.get(name)}
            return self.new(kind, {**owners, "path": path}, place)
        self.fault(place, _EXISTS)
        return None

    def taken(self, path: str) -> bool:
        return any(path in there for there in self.at.values())

    def new(self, kind: str, entry: Values, place: Path) -> tuple[int, Values]:
        entries = self.storage.setdefault(kind, [])
        i = len(entries)
        entries.append(entry)
        self.at[kind][entry["path"]] = i
        self.whole["storage", kind, i] = place
        if i == 0:
            self.parts["storage", kind] = place
        return i, entry

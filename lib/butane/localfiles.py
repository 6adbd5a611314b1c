"""Files that a config embeds with `local`, `contents_local`, `ssh_authorized_keys_local` and `trees`.

No path leaves the files directory, and no symlink either: what is read lies in it. (Butane follows
symlinks out of it.)
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass
from typing import Literal

NO_DIRECTORY = "local file paths are relative to a files directory that must be specified with -d/--files-dir"
ESCAPES = "local file path traverses outside the files directory"
ESCAPES_BY_LINK = "local file path leaves the files directory by a symlink"


class NoFile(Exception):
    """A local file that cannot be had; the message names it."""


@dataclass(frozen=True)
class Node:
    """What is at a path; a symlink is not followed."""

    path: str
    kind: Literal["file", "directory", "link", "other"]
    executable: bool = False
    target: str = ""


class LocalFiles:
    """A files directory, and what of it was looked at.

    A program that tracks dependencies, or has its files elsewhere, overrides `load` and `scan`, which
    are asked only for paths within the directory.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, root: str | os.PathLike[str] = "") -> None:
        """Take the files directory; a relative one counts from `root`, which no path and message names."""
        self.directory = os.fspath(directory) if directory is not None else ""
        self.root = os.fspath(root)
        self.contents: dict[str, bytes] = {}
        """What was read, by path: the directory and `local`, joined."""
        self.folders: dict[str, tuple[Node, ...]] = {}
        """The folders of trees that were listed, with what is in them."""

    def load(self, path: str) -> bytes:
        """Given a path, return the file's bytes; raise OSError where it cannot be read."""
        with open(self._real(path), "rb") as file:
            return file.read()

    def scan(self, path: str) -> list[Node]:
        """Given a folder's path, return what is in it, in any order; raise OSError where it cannot be listed."""
        return [self._node(f"{path}/{name}") for name in os.listdir(self._real(path))]

    def get(self, local: str) -> bytes:
        """Given a path relative to the files directory, return the file's bytes.

        Raise NoFile if there is no files directory, the path leaves it, or the file cannot be read.
        """
        return self.read(self.path(local))

    def read(self, path: str) -> bytes:
        """Given a path within the files directory, return the file's bytes; raise NoFile if it cannot be read."""
        if path not in self.contents:
            self._stay_inside(path)
            try:
                self.contents[path] = self.load(path)
            except OSError as error:
                verb = "read" if isinstance(error, IsADirectoryError) else "open"
                raise NoFile(f"{verb} {path}: {_reason(error)}") from None
        return self.contents[path]

    def path(self, local: str) -> str:
        """Given a path relative to the files directory, return it joined to that; raise NoFile if it leaves it."""
        if not self.directory:
            raise NoFile(NO_DIRECTORY)
        if "\0" in local:
            raise NoFile(f"open {self.directory}: invalid argument")
        whole = clean(f"{self.directory}/{local}")
        base = clean(os.path.abspath(self.directory))
        place = clean(os.path.abspath(whole))
        if place != base and not place.startswith(base.rstrip("/") + "/"):
            raise NoFile(ESCAPES)
        return whole

    def top(self, local: str) -> Node:
        """Given the path of a tree, return what it is; raise NoFile if it leaves the directory or is not there."""
        path = self.path(local)
        self._stay_inside(path)
        try:
            is_directory = stat.S_ISDIR(os.stat(self._real(path)).st_mode)
            return self._node(path) if is_directory else Node(path, "file")
        except OSError as error:
            raise NoFile(f"stat {path}: {_reason(error)}") from None

    def entries(self, path: str) -> tuple[Node, ...]:
        """Given a folder within the files directory, return what is in it, in the order of names."""
        if path not in self.folders:
            self._stay_inside(path)
            try:
                found = self.scan(path)
            except OSError as error:
                raise NoFile(f"open {path}: {_reason(error)}") from None
            self.folders[path] = tuple(sorted(found, key=lambda node: os.fsencode(node.path)))
        return self.folders[path]

    def _stay_inside(self, path: str) -> None:
        base = os.path.realpath(self._real(self.directory))
        if os.path.commonpath([base, os.path.realpath(self._real(path))]) != base:
            raise NoFile(ESCAPES_BY_LINK)

    def _real(self, path: str) -> str:
        return os.path.join(self.root, path)

    def _node(self, path: str) -> Node:
        mode = os.lstat(self._real(path)).st_mode
        if stat.S_ISLNK(mode):
            return Node(path, "link", target=os.readlink(self._real(path)))
        if stat.S_ISDIR(mode):
            return Node(path, "directory")
        return Node(path, "file" if stat.S_ISREG(mode) else "other", executable=bool(mode & 0o111))


def clean(path: str) -> str:
    """Given a path, return it without what says nothing, as Go's path.Clean does."""
    normal = posixpath.normpath(path)
    # POSIX keeps two leading slashes, Go does not
    return "/" + normal.lstrip("/") if normal.startswith("/") else normal


def _reason(error: OSError) -> str:
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
    return os.strerror(number).lower() if number else "cannot be read"

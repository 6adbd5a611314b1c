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

from butane.gopath import clean

NO_DIRECTORY = "local file paths are relative to a files directory that must be specified with -d/--files-dir"
ESCAPES = "local file path traverses outside the files directory"
ESCAPES_BY_LINK = "local file path leaves the files directory by a symlink"


_PATH_MAX = 4096
"""As long a path no system call takes, so none is made."""


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

    A program that tracks dependencies, or has its files elsewhere, overrides `load`, `look` and `scan`,
    which are asked only for paths within the directory. What was read once is not read again: take a new
    one for each translation. Names are UTF-8, whatever the locale.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, root: str | os.PathLike[str] = "") -> None:
        """Take the files directory; a relative one counts from `root`, which no path and message names."""
        self.directory = _text(os.fsencode(directory)) if directory is not None else ""
        self.root = _text(os.fsencode(root))
        self.contents: dict[str, bytes] = {}
        """What was read, by path: the directory and `local`, joined."""
        self.folders: dict[str, tuple[Node, ...]] = {}
        """The folders of trees that were listed, with what is in them."""

    def load(self, path: str) -> bytes:
        """Given a path, return the file's bytes; raise OSError or NoFile where it cannot be read."""
        # a pipe that nobody writes to would not even open otherwise
        with open(self._real(path), "rb", opener=lambda real, flags: os.open(real, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NoFile(f"read {path}: not a regular file")
            return file.read()

    def look(self, path: str) -> Node:
        """Given a path, return what is there, a symlink not followed; raise OSError where nothing is."""
        real = self._real(path)
        mode = os.lstat(real).st_mode
        if stat.S_ISLNK(mode):
            return Node(path, "link", target=_text(os.readlink(real)))
        if stat.S_ISDIR(mode):
            return Node(path, "directory")
        return Node(path, "file" if stat.S_ISREG(mode) else "other", executable=bool(mode & 0o111))

    def scan(self, path: str) -> list[Node]:
        """Given a folder's path, return what is in it, in any order; raise OSError where it cannot be listed."""
        return [self.look(posixpath.join(path, _text(name))) for name in os.listdir(self._real(path))]

    def get(self, local: str) -> bytes:
        """Given a path relative to the files directory, return the file's bytes.

        Raise NoFile if there is no files directory, the path leaves it, or the file cannot be read.
        """
        return self.read(self.path(local))

    def read(self, path: str) -> bytes:
        """Given a path within the files directory, return the file's bytes; raise NoFile if it cannot be read."""
        if path not in self.contents:
            try:
                self._stay_inside(path)
                self.contents[path] = self.load(path)
            except OSError as error:
                verb = "read" if isinstance(error, IsADirectoryError) else "open"
                raise NoFile(f"{verb} {path}: {_reason(error)}") from None
        return self.contents[path]

    def path(self, local: str) -> str:
        """Given a path relative to the files directory, return it joined to that; raise NoFile if it leaves it."""
        if not self.directory:
            raise NoFile(NO_DIRECTORY)
        if "\0" in local or "\0" in self.directory:
            raise NoFile(f"open {self.directory}: invalid argument")
        whole = clean(f"{self.directory}/{local}")
        try:
            base, place = (clean(os.path.abspath(path)) for path in (self.directory, whole))
        except OSError as error:  # there is no working directory any more
            raise NoFile(f"open {whole}: {_reason(error)}") from None
        if place != base and not place.startswith(base.rstrip("/") + "/"):
            raise NoFile(ESCAPES)
        return whole

    def top(self, local: str) -> Node:
        """Given the path of a tree, return what it is; raise NoFile if it leaves the directory or is not there."""
        path = self.path(local)
        try:
            self._stay_inside(path)
            node = self.look(path)
            if node.kind == "link" and not stat.S_ISDIR(os.stat(self._real(path)).st_mode):
                return Node(path, "file")
            return node
        except OSError as error:
            raise NoFile(f"stat {path}: {_reason(error)}") from None

    def entries(self, path: str) -> tuple[Node, ...]:
        """Given a folder within the files directory, return what is in it, in the order of names."""
        if path not in self.folders:
            try:
                self._stay_inside(path)
                found = self.scan(path)
            except OSError as error:
                raise NoFile(f"open {path}: {_reason(error)}") from None
            self.folders[path] = tuple(sorted(found, key=lambda node: _bytes(node.path)))
        return self.folders[path]

    def _stay_inside(self, path: str) -> None:
        base, real = self._real(self.directory), self._real(path)
        if len(real) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        base = os.path.realpath(base)
        if os.path.commonpath([base, os.path.realpath(real)]) != base:
            raise NoFile(ESCAPES_BY_LINK)

    def _real(self, path: str) -> bytes:
        return _bytes(os.path.join(self.root, path))


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _reason(error: OSError) -> str:
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
    return os.strerror(number).lower() if number else "cannot be read"

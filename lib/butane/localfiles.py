"""Files that a config embeds with `local`."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable
from pathlib import Path


class NoFile(Exception):
    """A local file that cannot be had; the message names it."""


class LocalFiles:
    """A files directory, and the files of it that were read."""

    def __init__(self, directory: Path | str | None, read: Callable[[str], bytes] | None = None) -> None:
        self.directory = None if directory is None else os.fspath(directory)
        self.read = read
        self.contents: dict[str, bytes] = {}

    def get(self, local: str) -> bytes:
        """Given a path relative to the files directory, return the file's bytes.

        Raise NoFile if there is no files directory, the path leaves it (by `..`, or by a symlink
        where we read from disk ourselves), or the file cannot be read.
        """
        path = self.path(local)
        if path not in self.contents:
            try:
                self.contents[path] = self.load(path)
            except OSError as error:
                raise NoFile(f"open {path}: {_reason(error)}") from None
        return self.contents[path]

    def path(self, local: str) -> str:
        """Given a path relative to the files directory, return it joined to the directory."""
        if self.directory is None and self.read is None:
            raise NoFile(
                "local file paths are relative to a files directory that must be specified with -d/--files-dir"
            )
        if "\0" in local:
            raise NoFile("local file path is not valid")
        inside = posixpath.normpath(local.lstrip("/"))
        if inside == ".." or inside.startswith("../"):
            raise NoFile("local file path traverses outside the files directory")
        return posixpath.join(self.directory or "", inside)

    def load(self, path: str) -> bytes:
        if self.read is not None:
            return self.read(path)
        base = os.path.realpath(self.directory or "")
        real = os.path.realpath(path)
        if os.path.commonpath([base, real]) != base:
            raise NoFile("local file path leaves the files directory by a symlink")
        return Path(real).read_bytes()


def _reason(error: OSError) -> str:
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
    return os.strerror(number).lower() if number else "cannot be read"

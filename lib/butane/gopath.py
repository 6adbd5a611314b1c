"""Paths with slashes, as Go's package path makes them simple."""

from __future__ import annotations

import posixpath


def clean(path: str) -> str:
    """Given a path, return it without what says nothing, as Go's path.Clean does."""
    normal = posixpath.normpath(path)
    # POSIX keeps two leading slashes, Go does not
    return "/" + normal.lstrip("/") if normal.startswith("/") else normal


def join(*parts: str) -> str:
    """Given parts of a path, return them as one, as Go's path.Join does; empty if all are."""
    whole = "/".join(part for part in parts if part)
    return clean(whole) if whole else ""

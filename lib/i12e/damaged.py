"""What is said of a file that is not what it should be: for all that reads snapshots and bundles."""

from __future__ import annotations


class Damaged(Exception):
    """A file is not sound; `why` says what is wrong and where, and holds nothing of the file's content."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)

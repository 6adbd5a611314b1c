"""A writer of bbolt files for tests: what etcd does not write (a list of free pages, nested buckets), and wrong ones.

It follows bbolt's node.go: elements and their keys and values lie one behind the other; small buckets are inline.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Bucket: TypeAlias = Mapping[bytes, "bytes | Bucket"]
NO_FREELIST = 2**64 - 1
BRANCH, LEAF, META, FREELIST = 1, 2, 4, 16


class Draft:
    """A bbolt file in the making: `pages` may be changed before `content` is asked for."""

    def __init__(self, buckets: Mapping[bytes, Bucket], page_size: int = 4096, per_page: int = 8) -> None:
        self.page_size = page_size
        self.pages: dict[int, bytearray] = {}
        self.high_water = 2
        self.freelist = NO_FREELIST
        self._per_page = per_page
        self.root = self._tree([(1, key, self._bucket(bucket)) for key, bucket in sorted(buckets.items())])

    def add(self, flags: int, elements: bytes, count: int) -> int:
        """Given a page's kind, its content and how many elements that is, add it and return its number."""
        number = self.high_water
        pages = -(-(16 + len(elements)) // self.page_size)
        page = struct.pack("<QHHI", number, flags, count, pages - 1) + elements
        self.pages[number] = bytearray(page.ljust(pages * self.page_size, b"\0"))
        self.high_water += pages
        return number

    def free(self, numbers: Sequence[int], many: bool = False) -> None:
        """Given page numbers, write the list of free pages; `many` as bbolt does from 65535 on."""
        count = [len(numbers)] if many else []
        data = struct.pack(f"<{len(count) + len(numbers)}Q", *count, *numbers)
        self.freelist = self.add(FREELIST, data, 0xFFFF if many else len(numbers))

    def content(self) -> bytes:
        """Return the file."""
        blank = bytes(self.page_size)
        file = bytearray(blank * self.high_water)
        for number in (0, 1):
            at = number * self.page_size
            header = struct.pack("<QHHI", number, META, 0, 0) + self._meta(7 - number)
            file[at : at + len(header)] = header
        for number, page in self.pages.items():
            file[number * self.page_size : number * self.page_size + len(page)] = page
        return bytes(file)

    def _meta(self, txid: int) -> bytes:
        fields = (0xED0CDAED, 2, self.page_size, 0, self.root, 0, self.freelist, self.high_water, txid)
        data = struct.pack("<IIIIQQQQQ", *fields)
        return data + struct.pack("<Q", fnv64a(data))

    def _bucket(self, bucket: Bucket) -> bytes:
        rows = [_row(key, value, self._bucket) for key, value in sorted(bucket.items())]
        small = sum(len(key) + len(value) + 16 for _, key, value in rows) < self.page_size // 4
        if small and not any(flags for flags, _, _ in rows):  # bbolt's own rule for what is inline
            page = struct.pack("<QHHI", 0, LEAF, len(rows), 0) + leaf(rows)
            return struct.pack("<QQ", 0, 5) + page
        return struct.pack("<QQ", self._tree(rows), 5)

    def _tree(self, rows: list[tuple[int, bytes, bytes]]) -> int:
        step = self._per_page
        level = []
        for at in range(0, max(len(rows), 1), step):
            part = rows[at : at + step]
            level.append((part[0][1] if part else b"", self.add(LEAF, leaf(part), len(part))))
        while len(level) > 1:
            parts = [level[at : at + step] for at in range(0, len(level), step)]
            level = [(part[0][0], self.add(BRANCH, branch(part), len(part))) for part in parts]
        return level[0][1]


def _row(key: bytes, value: bytes | Bucket, made: object) -> tuple[int, bytes, bytes]:
    if isinstance(value, bytes):
        return 0, key, value
    assert callable(made)
    return 1, key, made(value)


def leaf(rows: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Given flags, keys and values, return the elements of a leaf page."""
    table, data, at = b"", b"", 16 * len(rows)
    for index, (flags, key, value) in enumerate(rows):
        table += struct.pack("<IIII", flags, at + len(data) - 16 * index, len(key), len(value))
        data += key + value
    return table + data


def branch(children: Sequence[tuple[bytes, int]]) -> bytes:
    """Given first keys and page numbers, return the elements of a branch page."""
    table, data, at = b"", b"", 16 * len(children)
    for index, (key, number) in enumerate(children):
        table += struct.pack("<IIQ", at + len(data) - 16 * index, len(key), number)
        data += key
    return table + data


def fnv64a(data: bytes) -> int:
    """Given bytes, return their 64-bit FNV-1a hash."""
    number = 14695981039346656037
    for byte in data:
        number = (number ^ byte) * 1099511628211 % 2**64
    return number

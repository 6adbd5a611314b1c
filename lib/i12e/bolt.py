"""A read-only, checking reader of bbolt files, which etcd keeps its data in (etcd 3.4 to 3.7: bbolt 1.3 and 1.4).

The format, as bbolt's page.go, meta.go and node.go have it: pages of a fixed size; pages 0 and 1 are meta pages, the
valid one with the higher transaction id holds. A page has a header (its id, flags, how many elements, how many more
pages belong to it) and a table of elements, whose keys and values follow, each right behind the last. Branch pages
point to pages, leaf pages have the data; a leaf element may be a bucket, a tree of its own or, if small, one page in
the element itself. All numbers are little-endian (bbolt writes the machine's order; etcd runs on nothing else).

The file is untrusted: every page is visited once at most, nothing recurs, no length is believed before it was held
against what is there. Only one page (with those that belong to it) is in memory at a time, and one bit for each page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from i12e.damaged import Damaged

_MAGIC, _VERSION = 0xED0CDAED, 2
_BRANCH, _LEAF, _META, _FREELIST = 0x01, 0x02, 0x04, 0x10
_IS_BUCKET = 0x01
_NO_FREELIST = 0xFFFFFFFFFFFFFFFF  # etcd does not write its list of free pages
_HEADER = struct.Struct("<QHHI")  # id, flags, count, overflow
_META_FIELDS = struct.Struct("<IIIIQQQQQQ")  # magic ... txid, checksum
_BRANCH_ELEMENT = struct.Struct("<IIQ")  # pos, ksize, page
_LEAF_ELEMENT = struct.Struct("<IIII")  # flags, pos, ksize, vsize
_BUCKET = struct.Struct("<QQ")  # root page (0: inline), sequence
_ELEMENT = 16  # bytes, of both kinds
_MANY = 0xFFFF  # a freelist of this count has its real count as its first number
_PAGE_SIZES = tuple(1024 << bits for bits in range(7))  # to 64 KiB: what systems have as their page size, and bbolt's
_LONGEST_KEY = 32768  # bbolt's limit
_LONGEST_PAGE = 64 << 20  # bytes; etcd's largest request is 1.5 MB by default, and two of them share a page at most


@dataclass(frozen=True)
class _Meta:
    page_size: int
    root: int
    freelist: int
    high_water: int
    txid: int


@dataclass(frozen=True)
class _Page:
    name: str
    """As messages call it."""
    flags: int
    count: int
    data: bytes
    """With the header, and with the pages that belong to it."""


class Bolt:
    """An open bbolt file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Given an open file, and how many of its bytes are the bbolt file; raise Damaged if it has no valid meta page.

        The file must have a descriptor; its position is neither used nor changed.
        """
        self._fd = file.fileno()
        self._size = size
        self._meta = self._newest_meta()

    @property
    def pages(self) -> int:
        """How many pages are in use or free: the high-water mark."""
        return self._meta.high_water

    def check(self) -> None:
        """Raise Damaged unless the whole file is sound."""
        for _ in self.entries():
            pass

    def entries(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield bucket, key and value of all buckets at the top, in order, and check the whole file on the way.

        Raise Damaged as soon as something is not sound; only once this has ended, the file as a whole is. Buckets in
        buckets, of which etcd has none, are checked and not given.
        """
        self._check_metas()
        seen = _Seen(self._meta.high_water)
        free = self._freelist(seen)
        nested: list[tuple[bytes, str]] = []
        for name, value in self._top(seen):
            where = _named(name)
            for flags, key, content in self._bucket(value, where, seen):
                if flags:
                    nested.append((content, f"a bucket in {where}"))
                else:
                    yield name, key, content
        while nested:
            value, where = nested.pop()
            nested += [(content, where) for flags, _, content in self._bucket(value, where, seen) if flags]
        self._check_free(free, seen)

    def bucket(self, name: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Given a bucket at the top, yield its keys and values in order, from the first key that is not below `start`.

        Nothing if there is no such bucket. Raise Damaged if what is read on the way is not sound.
        """
        for found, value in self._top(_Seen(self._meta.high_water)):
            if found == name:
                rows = self._bucket(value, _named(name), _Seen(self._meta.high_water), start)
                yield from ((key, content) for flags, key, content in rows if not flags and key >= start)
                return

    def _top(self, seen: _Seen) -> Iterator[tuple[bytes, bytes]]:
        for flags, key, value in self._tree(self._meta.root, "the root", seen):
            if not flags:
                raise Damaged("the root has a key that is no bucket")
            yield key, value

    def _bucket(self, value: bytes, where: str, seen: _Seen, start: bytes = b"") -> Iterator[tuple[int, bytes, bytes]]:
        """Given a bucket's value in its parent, yield flags, key and value of what is in it."""
        if len(value) < _BUCKET.size:
            raise Damaged(f"{where}: its header is cut")
        root, _ = _BUCKET.unpack_from(value)
        if root:
            if len(value) != _BUCKET.size:
                raise Damaged(f"{where}: has both a page of its own and an inline one")
            return self._tree(root, where, seen, start)
        return self._inline(value[_BUCKET.size :], where)

    def _inline(self, data: bytes, where: str) -> Iterator[tuple[int, bytes, bytes]]:
        if len(data) < _HEADER.size:
            raise Damaged(f"{where}: its inline page is cut")
        number, flags, count, overflow = _HEADER.unpack_from(data)
        if number or flags != _LEAF or overflow:
            raise Damaged(f"{where}: its inline page has a wrong header")
        yield from _ordered(_leaf(_Page(f"the inline page of {where}", flags, count, data)), where, b"", None)

    def _tree(self, root: int, where: str, seen: _Seen, start: bytes = b"") -> Iterator[tuple[int, bytes, bytes]]:
        """Given a tree's root, yield flags, key and value of its leaves in order; skip what is wholly below `start`."""
        todo: list[tuple[int, bytes, bytes | None]] = [(root, b"", None)]
        while todo:
            number, low, high = todo.pop()
            page = self._page(number, seen)
            if page.flags == _BRANCH:
                children = _branch(page, low, high)
                above = [key for key, _ in children[1:]]
                bounds = zip(children, [*above, high], strict=True)
                inside = [(child, key, top) for (key, child), top in bounds if top is None or top > start]
                todo.extend(reversed(inside))
            elif page.flags == _LEAF:
                if not page.count and number != root:
                    raise Damaged(f"{page.name} of {where} is empty")
                yield from _ordered(_leaf(page), page.name, low, high)
            else:
                raise Damaged(f"{page.name} of {where} is of another kind ({page.flags:#x})")

    def _page(self, number: int, seen: _Seen) -> _Page:
        size = self._meta.page_size
        if not 2 <= number < self._meta.high_water:
            raise Damaged(f"there is no page {number}, which something points to")
        data = self._read(number * size, size)
        identity, flags, count, overflow = _HEADER.unpack_from(data)
        if identity != number:
            raise Damaged(f"page {number} says that it is another one")
        if overflow:
            if overflow >= self._meta.high_water - number or (overflow + 1) * size > _LONGEST_PAGE:
                raise Damaged(f"page {number} is longer than can be")
            data += self._read((number + 1) * size, overflow * size)
        seen.add(number, overflow + 1)
        return _Page(f"page {number}", flags, count, data)

    def _read(self, at: int, size: int) -> bytes:
        if at + size > self._size:
            raise Damaged("the file is cut: it ends before its last page")
        data = os.pread(self._fd, size, at)
        while len(data) < size:  # a read may give less than there is
            more = os.pread(self._fd, size - len(data), at + len(data))
            if not more:
                raise Damaged("the file is cut: it ends before its last page")
            data += more
        return data

    def _newest_meta(self) -> _Meta:
        found = []
        for at in (0, *_PAGE_SIZES):
            try:
                meta = self._meta_at(at)
            except Damaged:
                continue
            if at in (0, meta.page_size):
                found.append(meta)
        if not found:
            raise Damaged("no valid meta page: this is no bbolt file, or its beginning is damaged")
        return max(found, key=lambda meta: meta.txid)

    def _meta_at(self, at: int) -> _Meta:
        data = self._read(at, _HEADER.size + _META_FIELDS.size)
        number, flags, _, _ = _HEADER.unpack_from(data)
        fields = _META_FIELDS.unpack_from(data, _HEADER.size)
        magic, version, page_size, _, root, _, freelist, high_water, txid, checksum = fields
        name = f"meta page {0 if at == 0 else 1}"
        if magic != _MAGIC or version != _VERSION:
            raise Damaged(f"{name} has another magic or version")
        if checksum != _fnv64a(data[_HEADER.size : -8]):
            raise Damaged(f"{name} does not fit its checksum")
        if number != (at != 0) or flags != _META:
            raise Damaged(f"{name} has a wrong header")
        if page_size not in _PAGE_SIZES:
            raise Damaged(f"{name} says pages of {page_size} bytes")
        return _Meta(page_size, root, freelist, high_water, txid)

    def _check_metas(self) -> None:
        """Both must be valid: what copies a bbolt file while it is in use (Tx.WriteTo) writes both anew."""
        for at in (0, self._meta.page_size):
            if self._meta_at(at).page_size != self._meta.page_size:
                raise Damaged("the meta pages say different page sizes")
        if self._meta.high_water * self._meta.page_size > self._size:
            raise Damaged("the file is cut: it ends before its last page")

    def _freelist(self, seen: _Seen) -> tuple[int, ...] | None:
        """Return the free pages, or None if the file does not say which are."""
        if self._meta.freelist == _NO_FREELIST:
            return None
        page = self._page(self._meta.freelist, seen)
        if page.flags != _FREELIST:
            raise Damaged(f"{page.name}, the list of free pages, is of another kind")
        at, count = _HEADER.size, page.count
        if count == _MANY:
            (count,) = struct.unpack_from("<Q", page.data, at)
            at += 8
        if count > (len(page.data) - at) // 8:
            raise Damaged("the list of free pages is longer than its page")
        return struct.unpack_from(f"<{count}Q", page.data, at)

    def _check_free(self, free: tuple[int, ...] | None, seen: _Seen) -> None:
        if free is None:
            return
        for number in free:
            if not 2 <= number < self._meta.high_water:
                raise Damaged(f"there is no page {number}, which is said to be free")
            seen.add(number, 1, "both free and in use, or free twice")
        missing = seen.first_missing()
        if missing is not None:
            raise Damaged(f"page {missing} is neither in use nor free")


class _Seen:
    """Which pages were visited: one bit each."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._bits = bytearray(0)
        self.add(0, min(pages, 2))

    def add(self, number: int, count: int, what: str = "in use twice") -> None:
        """Given pages, note them; raise Damaged if one was noted before."""
        for page in range(number, number + count):
            byte, bit = page >> 3, 1 << (page & 7)
            if byte >= len(self._bits):  # grows with the file that is there, not with the one that is claimed
                self._bits.extend(bytes(byte + 1 - len(self._bits)))
            if self._bits[byte] & bit:
                raise Damaged(f"page {page} is {what}")
            self._bits[byte] |= bit

    def first_missing(self) -> int | None:
        """Return the first page that was not noted, or None."""
        for page in range(self._pages):
            if page >> 3 >= len(self._bits) or not self._bits[page >> 3] & 1 << (page & 7):
                return page
        return None


def _branch(page: _Page, low: bytes, high: bytes | None) -> list[tuple[bytes, int]]:
    """Given a branch page and its parent's bounds, return the first key and the number of each child."""
    if not page.count:
        raise Damaged(f"{page.name} is a branch without children")
    at = _table(page)
    children: list[tuple[bytes, int]] = []
    table = page.data[_HEADER.size : at]
    for index, (pos, ksize, child) in enumerate(_BRANCH_ELEMENT.iter_unpack(table)):
        if pos + _HEADER.size + index * _ELEMENT != at or ksize > len(page.data) - at:
            raise Damaged(f"{page.name}: its element {index} lies elsewhere")
        key = page.data[at : at + ksize]
        at += ksize
        if not 0 < ksize <= _LONGEST_KEY or key < low or (high is not None and key >= high):
            raise Damaged(f"{page.name}: the key of its element {index} is out of bounds")
        if children and key <= children[-1][0]:
            raise Damaged(f"{page.name}: its keys are not in order")
        children.append((key, child))
    return children


def _leaf(page: _Page) -> Iterator[tuple[int, bytes, bytes]]:
    """Given a leaf page, yield flags, key and value of its elements."""
    at, data, total = _table(page), page.data, len(page.data)
    behind = _HEADER.size  # where the element's own entry in the table is
    for flags, pos, ksize, vsize in _LEAF_ELEMENT.iter_unpack(data[_HEADER.size : at]):
        middle = at + ksize
        end = middle + vsize
        if pos + behind != at or end > total:
            raise Damaged(f"{page.name}: an element lies elsewhere")
        if flags > _IS_BUCKET or not 0 < ksize <= _LONGEST_KEY:
            raise Damaged(f"{page.name}: an element has wrong flags or a wrong key")
        yield flags, data[at:middle], data[middle:end]
        at = end
        behind += _ELEMENT


def _table(page: _Page) -> int:
    """Return where a page's table of elements ends; raise Damaged if that is not in the page."""
    end = _HEADER.size + page.count * _ELEMENT
    if end > len(page.data):
        raise Damaged(f"{page.name} says more elements than fit into it")
    return end


def _ordered(
    rows: Iterator[tuple[int, bytes, bytes]], where: str, low: bytes, high: bytes | None
) -> Iterator[tuple[int, bytes, bytes]]:
    """Given a page's rows and its parent's bounds, yield them; raise Damaged if the keys are not in that order."""
    last: bytes | None = None
    for row in rows:
        key = row[1]
        if key < low or (last is not None and key <= last):
            raise Damaged(f"{where}: its keys are not in order")
        last = key
        yield row
    if high is not None and last is not None and last >= high:
        raise Damaged(f"{where}: its last key belongs to the next page")


def _fnv64a(data: bytes) -> int:
    """Given bytes, return their FNV-1a hash of 64 bits, the checksum of meta pages."""
    number = 0xCBF29CE484222325
    for byte in data:
        number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return number


def _named(bucket: bytes) -> str:
    return f"bucket {bucket[:40].decode('ascii', 'replace')!r}"

"""Applies SQLite's write-ahead log to its database, as SQLite itself does when it opens the two after a crash.

For a database that was copied with its log from a host, into files without a name: SQLite looks for the log by the
database's name, so it would not find it. The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log;
which frames count is decided as in walIndexRecover() of SQLite's wal.c: those up to the last commit before the first
frame whose salts or whose checksum, which runs over all frames, do not fit.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from i12e.damaged import Damaged

_MAGIC = 0x377F0682  # its lowest bit: checksums read their data as big-endian numbers
_VERSION = 3007000
_HEADER = struct.Struct(">IIIIIIII")  # magic, version, page size, checkpoint, two salts, two checksums
_FRAME = struct.Struct(">IIIIII")  # page, size of the database in pages if a commit, two salts, two checksums
_SMALLEST, _LARGEST = 512, 65536  # bytes of a page
_U32 = 0xFFFFFFFF


def apply(database: BinaryIO, wal: BinaryIO) -> int:
    """Given an open database and its open log, write into the database what the log holds; return how many frames.

    No frames, and nothing is written, if no transaction in the log is complete. Both files must have a descriptor;
    their positions are neither used nor changed. Raise Damaged if the log is of a version that SQLite refuses too.
    Whether the outcome is a sound database is for SQLite's integrity check to say.
    """
    source, target = wal.fileno(), database.fileno()
    page_size, frames, pages = _committed(source)
    for index in range(frames):
        at = _HEADER.size + index * (_FRAME.size + page_size)
        number = _FRAME.unpack(_read(source, _FRAME.size, at))[0]
        if number <= pages:  # a page that the last commit cut off
            _write(target, _read(source, page_size, at + _FRAME.size), (number - 1) * page_size)
    if frames:
        os.ftruncate(target, pages * page_size)
    return frames


def _committed(source: int) -> tuple[int, int, int]:
    """Given a log, return its page size, how many frames count, and the database's size in pages after them."""
    header = _read(source, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return 0, 0, 0
    magic, version, page_size, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC or not _SMALLEST <= page_size <= _LARGEST or page_size & (page_size - 1):
        return 0, 0, 0
    order = ">" if magic & 1 else "<"
    sums = _checksum(header[:-8], (0, 0), order)
    if sums != (sum_1, sum_2):
        return 0, 0, 0
    if version != _VERSION:
        raise Damaged(f"SQLite's log is of the unknown version {version}")
    frames = pages = 0
    for index, commit in enumerate(_fitting(source, page_size, (salt_1, salt_2), sums, order), start=1):
        if commit:
            frames, pages = index, commit
    return page_size, frames, pages


def _fitting(source: int, page_size: int, salts: tuple[int, int], sums: tuple[int, int], order: str) -> Iterator[int]:
    """Yield of each frame the database's size in pages if it is a commit, else 0; until one is cut or does not fit."""
    at = _HEADER.size
    while True:
        frame = _read(source, _FRAME.size + page_size, at)
        if len(frame) < _FRAME.size + page_size:
            return
        number, commit, salt_1, salt_2, sum_1, sum_2 = _FRAME.unpack_from(frame)
        if (salt_1, salt_2) != salts or not number:
            return
        sums = _checksum(frame[_FRAME.size :], _checksum(frame[:8], sums, order), order)
        if sums != (sum_1, sum_2):
            return
        yield commit
        at += len(frame)


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """Given data of a multiple of 8 bytes and the checksum so far, return the checksum with it."""
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}II", data):
        one = (one + first + two) & _U32
        two = (two + second + one) & _U32
    return one, two


def _read(source: int, size: int, at: int) -> bytes:
    """Given a descriptor, return so many bytes from there, or what there is."""
    data = os.pread(source, size, at)
    while data and len(data) < size:
        more = os.pread(source, size - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


def _write(target: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(target, data, at)
        data, at = data[written:], at + written

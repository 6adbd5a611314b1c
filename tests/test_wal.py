"""A log that is applied to its database: the same as what the real SQLite makes of the two."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest

import kine
from i12e import snapshots, wal
from i12e.damaged import Damaged
from sweeps import sampled

Found = str | tuple[list[object], list[object]]
REFUSED = "unable to open database file"  # SQLite's word for a log of another version
ALL = "SELECT id, CAST(name AS BLOB), deleted, value FROM kine ORDER BY id"


def found(connection: sqlite3.Connection) -> Found:
    """Given an open database, return what the integrity check says and all rows, or why they cannot be read.

    A log that was cut after a checkpoint takes the database back in part: SQLite itself finds it malformed then.
    """
    connection.text_factory = bytes
    try:
        return connection.execute("PRAGMA integrity_check").fetchall(), connection.execute(ALL).fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)


def recovered(folder: Path, database: bytes, log: bytes) -> Found:
    """Given a database and its log, return what SQLite itself finds in files of their names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "state.db").write_bytes(database)
    (folder / "state.db-wal").write_bytes(log)
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as connection:
        return found(connection)


def applied(database: bytes, log: bytes, folder: Path) -> Found:
    """Given a database and its log, return what is found by us."""
    path = folder / "log"
    path.write_bytes(log)
    with snapshots.Receiving("sqlite") as receiving, path.open("r+b") as file:
        receiving.file.write(database)
        try:
            receiving.opened(file)
        except Damaged:
            return REFUSED
        assert receiving._connection
        return found(receiving._connection)


def states(folder: Path, chance: random.Random) -> list[tuple[bytes, bytes]]:
    """Return a database and its log as they are after each of a few rounds of transactions."""
    made = []
    size = chance.choice((512, 1024, 4096, 65536))
    path = folder / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as first:
        first.execute("PRAGMA synchronous = OFF")
        first.execute(f"PRAGMA page_size = {size}")
        first.execute("CREATE TABLE other (x)")
    connection = kine.connect(path)
    connection.execute(f"PRAGMA wal_autocheckpoint = {chance.choice((0, 0, 0, 5, 30))}")
    for _ in range(4):
        for _ in range(chance.randint(1, 4)):
            step(connection, chance)
        made.append((path.read_bytes(), (folder / "state.db-wal").read_bytes()))
    connection.close()
    return made


def step(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Change the database somehow: put keys, roll back, compact, checkpoint, shrink."""
    kind = chance.randrange(10)
    keys = [f"/registry/pods/default/p{number}".encode() for number in range(30)]
    pairs = {key: chance.randbytes(chance.choice((0, 50, 3000))) for key in chance.sample(keys, 8)}
    if kind < 6:
        kine.put_all(connection, {key: value if chance.random() < 0.8 else None for key, value in pairs.items()})
    elif kind == 6:
        connection.execute("BEGIN")
        for key, value in pairs.items():
            kine.put(connection, key, value)
        connection.execute("ROLLBACK")
    elif kind == 7:
        connection.execute(f"PRAGMA wal_checkpoint({chance.choice(('PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'))})")
    elif kind == 8:
        connection.execute("DELETE FROM kine WHERE id < (SELECT max(id) FROM kine) - 10")
    else:
        connection.execute("VACUUM")


def harmed(log: bytes, chance: random.Random) -> bytes:
    """Given a log, return it cut, changed or as it is."""
    kind = chance.randrange(6)
    if not log or kind == 0:
        return log
    if kind == 1:
        return log[: chance.randrange(len(log))]
    changed = bytearray(log)
    at = chance.randrange(min(len(log), 80)) if kind == 2 else chance.randrange(len(log))
    if kind == 5:
        size = chance.choice((1, 24, 512))
        changed[at : at + size] = chance.randbytes(len(changed[at : at + size]))
    else:
        changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def sweep(folder: Path, seed: int, rounds: int) -> tuple[int, int]:
    """Compare ourselves with SQLite so often; return in how many cases the log counted, and in how many it did not."""
    chance = random.Random(seed)  # noqa: S311 - a sweep, not a secret
    counted = not_counted = 0
    for number in range(rounds):
        own = folder / str(number)
        own.mkdir()
        for database, log in states(own, chance):
            log = harmed(log, chance)
            expected = recovered(own / "sqlite", database, log)
            assert applied(database, log, own) == expected, f"seed {seed}, round {number}"
            alone = recovered(own / "sqlite", database, b"")
            if alone == expected:
                not_counted += 1
            else:
                counted += 1
        shutil.rmtree(own)
    return counted, not_counted


def test_a_log_is_applied_as_sqlite_does_it_also_when_it_is_cut_or_damaged(tmp_path: Path) -> None:
    counted, not_counted = sweep(tmp_path, 6, 12)
    assert min(counted, not_counted) > 3


@pytest.mark.slow
def test_many_logs_are_applied_as_sqlite_does_it(tmp_path: Path) -> None:
    counted, not_counted = sweep(tmp_path, 7, sampled(300))
    assert min(counted, not_counted) > sampled(300) / 3


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A database of three transactions that are all in its log."""
    connection = kine.connect(tmp_path / "state.db")
    for number in range(3):
        kine.put(connection, b"/registry/pods/default/p", b"%d" % number)
    for name in ("state.db", "state.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    connection.close()
    return tmp_path / "copy-state.db", tmp_path / "copy-state.db-wal"


def frames(files: tuple[Path, Path]) -> int:
    """Given a database and a log, apply it and return how many frames counted."""
    with files[0].open("r+b") as database, files[1].open("rb") as log:
        return wal.apply(database, log)


def test_all_frames_count_and_the_log_is_left_as_it_is(files: tuple[Path, Path]) -> None:
    log = files[1].read_bytes()
    (page_size,) = struct.unpack_from(">I", log, 8)
    assert frames(files) == (len(log) - 32) // (24 + page_size)
    assert files[1].read_bytes() == log


@pytest.mark.parametrize("size", [0, 1, 31, 32, 32 + 23, 32 + 24 + 4095])
def test_a_log_without_a_whole_transaction_changes_nothing(files: tuple[Path, Path], size: int) -> None:
    files[1].write_bytes(files[1].read_bytes()[:size])
    before = files[0].read_bytes()
    assert frames(files) == 0
    assert files[0].read_bytes() == before


def test_a_log_of_another_version_is_refused_as_sqlite_does(files: tuple[Path, Path], tmp_path: Path) -> None:
    log = bytearray(files[1].read_bytes())
    struct.pack_into(">I", log, 4, 3007001)
    order = ">" if log[3] & 1 else "<"
    struct.pack_into(">II", log, 24, *wal._checksum(bytes(log[:24]), (0, 0), order))
    files[1].write_bytes(log)
    assert recovered(tmp_path / "sqlite", files[0].read_bytes(), bytes(log)) == REFUSED
    with pytest.raises(Damaged) as caught:
        frames(files)
    assert caught.value.why == "SQLite's log is of the unknown version 3007001"

"""Reads what a snapshot of a cluster's datastore holds, and whether it is sound: etcd's, or kine's SQLite database.

Nothing is told of a snapshot that was not checked: the first question checks it, in one pass over the file, and the
answers are kept. The file has no name, so that nothing plain stays if this process is killed; it is read in blocks.
Of each live key only its 64-bit hash is in memory (a million keys: 110 MB), so of two keys with the same hash, a
chance of one in 30 million among a million keys, one would not be counted.

An etcd snapshot is a bbolt file with its SHA-256 behind it. Its bucket "key" has all revisions in order: the key is
the revision (8 bytes, `_`, 8 bytes; `t` behind it if the revision deletes), the value an mvccpb.KeyValue.

In kine's database a row of the table "kine" is a revision, its id the revision's number.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self, cast

from i12e import protobuf, registry, wal
from i12e.bolt import Bolt
from i12e.damaged import Damaged

Kind = Literal["etcd", "sqlite"]

_BLOCK = 1 << 20  # bytes
_DIGEST = 32  # bytes, of SHA-256
_SECTOR = 512  # bytes; a database is a multiple of it, so what is left over is the hash (etcd's hasChecksum)
_BOOTSTRAP = b"/bootstrap/"
_MOST_ROWS = 1000  # of /bootstrap/: one is usual, two in a rotation
_MOST_VOLUMES = 10_000  # whose keys are kept
_MINOR = re.compile(r"(\d{1,4})\.(\d{1,4})\.")


@dataclass
class _Facts:
    """What one pass over all revisions finds."""

    revision: int = 0
    live: dict[int, int] = field(default_factory=dict)
    """The newest revision of each live key, by the key's hash."""
    counts: Counter[str] = field(default_factory=Counter)
    bootstrap: set[bytes] = field(default_factory=set)
    volumes: set[bytes] = field(default_factory=set)

    def add(self, key: bytes, revision: int, deleted: bool) -> None:
        """Given the next revision, note it."""
        self.revision = revision
        number = hash(key)  # of 64 bits, keyed anew in each process: nobody can make two keys collide
        known = number in self.live
        if deleted:
            if known:
                del self.live[number]
                self._count(key, -1)
        else:
            self.live[number] = revision
            if not known:
                self._count(key, 1)

    def _count(self, key: bytes, more: int) -> None:
        if (prefix := registry.prefix(key)) is not None:
            self.counts[prefix] += more
            if prefix == registry.VOLUMES:
                self._keep_volume(key, more > 0)
        elif key.startswith(_BOOTSTRAP):
            (self.bootstrap.add if more > 0 else self.bootstrap.discard)(key)
            if len(self.bootstrap) > _MOST_ROWS:
                raise Damaged(f"more than {_MOST_ROWS} rows below /bootstrap/")

    def _keep_volume(self, key: bytes, lives: bool) -> None:
        if not lives:
            self.volumes.discard(key)
        elif len(self.volumes) < _MOST_VOLUMES:
            self.volumes.add(key)


class Snapshot(ABC):
    """A snapshot whose content is all there; every question raises Damaged if it is not sound."""

    def __init__(self) -> None:
        self._facts: _Facts | None = None

    def check(self) -> None:
        """Raise Damaged unless the whole file is sound; done once."""
        self._known()

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Given a key, return its live value, or None."""

    def counts(self) -> dict[str, int]:
        """Return how many live objects there are, by the prefix of their resource; no prefix without an object."""
        return {prefix: count for prefix, count in sorted(self._known().counts.items()) if count}

    def bootstrap(self) -> dict[str, bytes]:
        """Return the values of the rows below /bootstrap/, by their names, as `tokens.row_name` has them."""
        rows = {key: self.get(key) for key in sorted(self._known().bootstrap)}
        return {key.decode("utf-8", "replace"): value for key, value in rows.items() if value is not None}

    def volumes(self) -> list[bytes]:
        """Return the values of the PersistentVolumes; of more than 10,000 of them not all."""
        values = (self.get(key) for key in sorted(self._known().volumes))
        return [value for value in values if value is not None]

    def revision(self) -> int:
        """Return the number of the newest revision in it."""
        return self._known().revision

    def keys(self) -> int:
        """Return how many live keys there are, objects or not."""
        return len(self._known().live)

    def _known(self) -> _Facts:
        if self._facts is None:
            facts = self._read()
            if not facts.live:
                raise Damaged("the snapshot holds no key: it is of no cluster")
            self._facts = facts
        return self._facts

    @abstractmethod
    def _read(self) -> _Facts:
        """Check the whole file, and return what is in it."""


class EtcdSnapshot(Snapshot):
    """What `etcdctl snapshot save` and `k3s etcd-snapshot save` write."""

    def __init__(self, file: BinaryIO) -> None:
        """Given the open file; its position is neither used nor changed."""
        super().__init__()
        self._file = file
        self._bolt: Bolt | None = None
        self.rows = 0
        """After the check: how many keys all buckets have together, etcdctl's totalKey."""

    def get(self, key: bytes) -> bytes | None:
        """Given a key, return its live value, or None."""
        wanted = self._known().live.get(hash(key))
        if wanted is None or self._bolt is None:
            return None
        found = None
        for revision, content in self._bolt.bucket(b"key", wanted.to_bytes(8, "big")):
            if _revision(revision)[0] != wanted:
                break
            name, value, _ = _key_value(content)
            if name == key:
                found = value
        return found

    def made_by(self) -> tuple[int, int] | None:
        """Return the minor version of the etcd that its data are of, as it says itself; None where it says nothing.

        storageVersion (etcd 3.6 and later) and clusterVersion, of which the newer one counts: an older etcd may not
        know what it reads.
        """
        said = [self._row(b"meta", b"storageVersion"), self._row(b"cluster", b"clusterVersion")]
        found = [_MINOR.match(each.decode("ascii", "replace")) for each in said if each is not None]
        return max(((int(each[1]), int(each[2])) for each in found if each), default=None)

    def _row(self, bucket: bytes, name: bytes) -> bytes | None:
        self._known()
        rows = self._bolt.bucket(bucket, name) if self._bolt else iter(())
        return next((value for key, value in rows if key == name), None)

    def _read(self) -> _Facts:
        size = os.fstat(self._file.fileno()).st_size
        if size % _SECTOR != _DIGEST:
            raise Damaged("the snapshot does not end with its hash: it is cut, or is a database file and no snapshot")
        self._check_hash(size - _DIGEST)
        self._bolt = Bolt(self._file, size - _DIGEST)
        facts = _Facts()
        for bucket, key, value in self._bolt.entries():
            self.rows += 1
            if bucket == b"key":
                number, deleted = _revision(key)
                name, _, written = _key_value(value)
                if not deleted and written != number:
                    raise Damaged(f"revision {number} says that it is another one")
                facts.add(name, number, deleted)
        return facts

    def _check_hash(self, size: int) -> None:
        made = hashlib.sha256()
        for block in _blocks(self._file.fileno(), size):
            made.update(block)
        if made.digest() != os.pread(self._file.fileno(), _DIGEST, size):
            raise Damaged("the snapshot does not fit the hash at its end")


class SqliteSnapshot(Snapshot):
    """A copy of kine's database, in one file: what was in its log is in it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Given an open connection that only reads."""
        super().__init__()
        self._connection = connection

    def get(self, key: bytes) -> bytes | None:
        """Given a key, return its live value, or None."""
        if hash(key) not in self._known().live:
            return None
        question = "SELECT value, deleted FROM kine WHERE name = CAST(? AS TEXT) ORDER BY id DESC LIMIT 1"
        with _sqlites_word():
            row = self._connection.execute(question, (key,)).fetchone()
        if row is None or row[1]:
            return None
        if not isinstance(row[0], bytes | None):
            raise Damaged("a row of kine has a number for its value")
        return row[0] or b""

    def _read(self) -> _Facts:
        facts = _Facts()
        with _sqlites_word():
            if (said := self._connection.execute("PRAGMA integrity_check(1)").fetchone()) != (b"ok",):
                raise Damaged(f"SQLite's integrity check: {_line(said[0] if said else b'no answer')}")
            kind = self._connection.execute("SELECT type FROM sqlite_master WHERE name = 'kine'").fetchone()
            if kind != (b"table",):
                raise Damaged("the database has no table kine: it is not k3s's")
            for number, name, deleted in self._connection.execute("SELECT id, name, deleted FROM kine ORDER BY id"):
                if not isinstance(name, bytes) or not isinstance(number, int):
                    raise Damaged("a row of kine has no name or no number")
                facts.add(name, number, bool(deleted))
        return facts


class Receiving:
    """A file without a name that a snapshot is written into, and then read: a context, which closes it.

    SQLite opens databases by name alone. So it is given an empty file in a folder of our own, whose name is gone
    before anything is written into it.
    """

    def __init__(self, kind: Kind, folder: Path | None = None) -> None:
        """Given the datastore's kind, and the folder whose file system has the room (else the one for temporaries)."""
        self._kind = kind
        self._connection: sqlite3.Connection | None = None
        if kind == "etcd":
            self.file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - close() closes it
        else:
            self.file, self._connection = _sqlite_file(folder)

    def opened(self, log: BinaryIO | None = None) -> Snapshot:
        """Once all is written, return the snapshot; what `log`, the file state.db-wal, holds is put into it first.

        The file of a SQLite snapshot is changed by that: afterwards it is a database that needs no log, as `VACUUM
        INTO` would have written it. Raise Damaged if the log is not one that SQLite takes.
        """
        self.file.flush()
        if self._connection is None:
            return EtcdSnapshot(self.file)
        if log is not None:
            log.flush()
            wal.apply(self.file, log)
        _leave_wal_mode(self.file.fileno())
        return SqliteSnapshot(self._connection)

    def close(self) -> None:
        """Close the file, which is gone then."""
        if self._connection is not None:
            self._connection.close()
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def open_snapshot(kind: Kind, file: BinaryIO, log: BinaryIO | None = None) -> Iterator[Snapshot]:
    """Given the datastore's kind and a file with all of a snapshot, give the snapshot until the block ends.

    A SQLite snapshot is copied first, into a file without a name next to the temporary ones; to save that, write it
    into a Receiving at once. `log` is the file state.db-wal.
    """
    if kind == "etcd":
        yield EtcdSnapshot(file)
        return
    with Receiving(kind) as receiving:
        for block in _blocks(file.fileno(), os.fstat(file.fileno()).st_size):
            receiving.file.write(block)
        yield receiving.opened(log)


def _blocks(source: int, size: int) -> Iterator[bytes]:
    """Given a descriptor, yield its first `size` bytes, or what there is of them."""
    at = 0
    while at < size and (block := os.pread(source, min(_BLOCK, size - at), at)):
        yield block
        at += len(block)


def _revision(key: bytes) -> tuple[int, bool]:
    """Given a key of the bucket "key", return the number of the revision and whether it deletes."""
    if len(key) not in (17, 18) or key[8:9] != b"_" or key[17:] not in (b"", b"t"):
        raise Damaged("a revision's key is not NUMBER_NUMBER")
    return int.from_bytes(key[:8], "big"), len(key) == 18


def _key_value(content: bytes) -> tuple[bytes, bytes, int]:
    """Given an mvccpb.KeyValue, return key, value and the revision that wrote it (0 where that is not said)."""
    key, value, revision = b"", b"", 0
    for number, found in protobuf.fields(content):
        if isinstance(found, int):
            if number == 3:
                revision = found
            elif number not in (2, 4, 6):  # create_revision, version, lease
                raise Damaged("a revision's value is not what etcd writes")
        elif number == 1:
            key = found
        elif number == 5:
            value = found
        else:
            raise Damaged("a revision's value is not what etcd writes")
    if not key:
        raise Damaged("a revision has no key")
    return key, value, revision


def _sqlite_file(folder: Path | None) -> tuple[BinaryIO, sqlite3.Connection]:
    """Return an empty file without a name, and a connection that reads what will be in it."""
    own = tempfile.mkdtemp(prefix="i12e-", dir=folder)
    try:
        path = os.path.join(own, "empty")
        file = cast(BinaryIO, os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b"))
        try:
            # nolock: nobody else has the file; and a lock is taken by name
            connection = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro&nolock=1", uri=True, isolation_level=None)
        except BaseException:
            file.close()
            raise
    finally:
        shutil.rmtree(own)
    connection.text_factory = bytes
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 64 << 20)  # bytes of a value, whatever the file says
    connection.execute("PRAGMA trusted_schema = OFF")  # a schema from elsewhere calls no functions
    connection.execute("PRAGMA cache_size = -16000")
    return file, connection


def _leave_wal_mode(database: int) -> None:
    """Let the database's header say that it has no log: SQLite refuses to read one without a name otherwise.

    See https://www.sqlite.org/fileformat2.html#file_format_version_numbers; k3s sets its mode again when it starts.
    """
    if os.pread(database, 20, 0).startswith(b"SQLite format 3\0") and os.pread(database, 2, 18) == b"\2\2":
        os.pwrite(database, b"\1\1", 18)


@contextlib.contextmanager
def _sqlites_word() -> Iterator[None]:
    """Until the block ends, what SQLite finds wrong is Damaged."""
    try:
        yield
    except sqlite3.Error as error:
        raise Damaged(f"SQLite: {_line(str(error).encode())}") from None


def _line(said: object) -> str:
    """Given what SQLite said, which may quote the file, return what can be shown of it."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return "".join(char if char.isprintable() else " " for char in text)[:200]

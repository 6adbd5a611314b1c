"""The database of what was done: one SQLite file an environment, written as each task ends.

doit saves only at the end of a run and its own backends lose a killed run's work, so this is a backend
of ours behind doit's interface (get, set, in_, remove, remove_all, dump). It is a cache: lost or
damaged, everything is made again and nothing else happens. It holds no secret: names, digests, stamps.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from i12e.files import Files, private_folder

_SCHEMA = """
create table if not exists tasks (name text primary key, record text not null) without rowid;
create table if not exists stamps (
    path text primary key, size integer, mtime integer, ctime integer, inode integer, state text
) without rowid;
create table if not exists outputs (path text primary key, state text not null) without rowid;
create table if not exists commits (number integer not null);
insert into commits select 0 where not exists (select * from commits);
"""
_DAMAGE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR")  # the last: a table is not as it should be
_VERSION = 2  # of the schema; another one is a cache that cannot be read: it is made anew


class State:
    """What was done in one environment: a record for each task, a stamp for each file, a state for each output.

    `read_only` is for what takes no lock: it saves nothing.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self.name = str(path)
        self.damaged = False
        self.read_only = False
        self._unusable = False
        self._commits = 0
        self._path = path
        self._files = files
        self._raw: dict[str, str] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._dirty: set[str] = set()
        self._gone: set[str] = set()
        self._database: sqlite3.Connection | None = None
        self._load()

    def get(self, task: str, key: str) -> Any:
        """Given a task's name and a key of its record, return the value, or None."""
        return self.record(task).get(key)

    def set(self, task: str, key: str, value: Any) -> None:
        """Given a task's name, a key and a value that JSON can hold, put it into the task's record."""
        self.record(task)[key] = value
        self._dirty.add(task)
        self._gone.discard(task)

    def in_(self, task: str) -> bool:
        """Given a task's name, tell whether it has a record."""
        return task in self._raw or bool(self._records.get(task))

    def remove(self, task: str) -> None:
        """Given a task's name, forget that it was done."""
        self._raw.pop(task, None)
        self._records.pop(task, None)
        self._dirty.discard(task)
        self._gone.add(task)

    def remove_all(self) -> None:
        """Forget everything."""
        for task in self.tasks():
            self.remove(task)

    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks that have a record."""
        return frozenset(self._raw).union(name for name, record in self._records.items() if record)

    def commit(self) -> None:
        """Save all that was set or removed since the last time, at once or not at all."""
        files = self._files
        if self.read_only or not (self._dirty or self._gone or files.new_stamps or files.new_outputs):
            return
        database = self._open()
        with database:
            database.execute("update commits set number = number + 1")
            database.executemany("delete from tasks where name = ?", [(task,) for task in self._gone])
            database.executemany(
                "insert or replace into tasks values (?, ?)",
                [(task, json.dumps(self._records[task])) for task in self._dirty],
            )
            database.executemany(
                "insert or replace into stamps values (?, ?, ?, ?, ?, ?)",
                [(path, *files.stamps[path][0], files.stamps[path][1]) for path in files.new_stamps],
            )
            database.executemany(
                "insert or replace into outputs values (?, ?)",
                [(path, files.outputs[path]) for path in files.new_outputs],
            )
        for done in (self._dirty, self._gone, files.new_stamps, files.new_outputs):
            done.clear()

    def is_outdated(self) -> bool:
        """Tell whether another process has saved something since this one read the database."""
        if self._unusable or not self._path.exists():
            return False
        with contextlib.closing(_connect(self._path)) as database:
            return _commits(database) != self._commits

    def drop_paths(self, paths: list[str]) -> None:
        """Given paths that are of no interest any more, forget their stamps and outputs."""
        if not paths:
            return
        for path in paths:
            self._files.stamps.pop(path, None)
            self._files.outputs.pop(path, None)
            self._files.new_stamps.discard(path)
            self._files.new_outputs.discard(path)
            self._files.forget(path)
        with self._open() as database:
            database.execute("update commits set number = number + 1")
            database.executemany("delete from stamps where path = ?", [(path,) for path in paths])
            database.executemany("delete from outputs where path = ?", [(path,) for path in paths])

    def dump(self) -> None:
        """Save and close; doit calls it when a command ends."""
        self.commit()
        if self._database is not None:
            self._database.close()
            self._database = None

    def record(self, task: str) -> dict[str, Any]:
        """Given a task's name, return what is recorded of it: empty if it was never done."""
        record = self._records.get(task)
        if record is None:
            raw = self._raw.pop(task, None)
            record = self._records[task] = json.loads(raw) if raw else {}
        return record

    def _load(self) -> None:
        if not self._path.exists():
            return
        try:
            with contextlib.closing(_connect(self._path)) as database:
                self._read(database)
        except ValueError:
            self._start_again()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname not in _DAMAGE:  # busy, no room, not allowed: the database may be whole
                raise
            self._start_again()

    def _read(self, database: sqlite3.Connection) -> None:
        if not database.execute("select count(*) from sqlite_master").fetchone()[0]:
            return  # another process is making it right now, or was killed while it did
        if database.execute("pragma user_version").fetchone()[0] != _VERSION:
            raise ValueError("another version's state")
        self._commits = _commits(database)
        self._raw = dict(database.execute("select name, record from tasks"))
        stamps = database.execute("select path, size, mtime, ctime, inode, state from stamps")
        self._files.stamps.update((path, ((a, b, c, d), state)) for path, a, b, c, d, state in stamps)
        self._files.outputs.update(database.execute("select path, state from outputs"))

    def _start_again(self) -> None:
        self.damaged = self._unusable = True
        self._raw, self._records = {}, {}
        self._files.stamps.clear()
        self._files.outputs.clear()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            private_folder(self._path.parent)
            if self._unusable:
                self._unlink()
            self._path.touch(mode=0o600)
            self._database = _connect(self._path)
            self._database.executescript(f"begin; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
        return self._database

    def _unlink(self) -> None:
        """Remove a database that cannot be read; not before something is written, for then the run holds the lock."""
        for end in ("", "-wal", "-shm"):
            Path(self.name + end).unlink(missing_ok=True)
        self._unusable = False


def _commits(database: sqlite3.Connection) -> int:
    try:
        return int(database.execute("select number from commits").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # another process is making it right now


def _connect(path: Path) -> sqlite3.Connection:
    os.chmod(path, 0o600)  # SQLite gives its -wal and -shm the mode of the database
    database = sqlite3.connect(path, check_same_thread=False, timeout=30)
    try:
        # WAL with synchronous=normal: a kill loses nothing that was committed; a power cut may lose the last
        # commits of what is only a cache.
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = normal")
    except sqlite3.Error:
        database.close()
        raise
    return database

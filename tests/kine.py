"""Databases as kine has them (pkg/drivers/sqlite/sqlite.go), for tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS kine (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, deleted INTEGER, create_revision INTEGER,
    prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name);
CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id);
CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id, deleted);
CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision);
"""


def connect(path: Path) -> sqlite3.Connection:
    """Given a path, open kine's database there in WAL mode, as k3s does, and make it if need be."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # the same bytes, sooner
    connection.executescript(SCHEMA)
    return connection


def put(connection: sqlite3.Connection, key: bytes, value: bytes | None) -> None:
    """Given a key and a value, write a revision; no value deletes the key."""
    name = key.decode()
    last = connection.execute("SELECT max(id) FROM kine WHERE name = ?", (name,)).fetchone()[0] or 0
    row = (name, not last, value is None, last, last, 0, value, None)
    columns = "name, created, deleted, create_revision, prev_revision, lease, value, old_value"
    connection.execute(f"INSERT INTO kine ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608 - constants


def put_all(connection: sqlite3.Connection, pairs: Mapping[bytes, bytes | None]) -> None:
    """Given keys and values, write a revision of each in one transaction."""
    connection.execute("BEGIN")
    for key, value in pairs.items():
        put(connection, key, value)
    connection.execute("COMMIT")

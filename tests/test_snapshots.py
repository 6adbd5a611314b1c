"""What a snapshot holds, from a real etcd and from kine's database, and that nothing that is not sound is believed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import boltfile
import etcd
import kine
import test_registry
from conftest import ROOT
from i12e import registry, snapshots
from i12e.damaged import Damaged
from i12e.snapshots import EtcdSnapshot, Receiving, Snapshot
from sweeps import sampled

TRAILER = 32
PAGE = 4096
ROW = b"/bootstrap/0123456789ab"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Whatever a test opened is closed after it."""
    yield
    while _open:
        _open.pop().close()


_open: list[Receiving] = []


def received(kind: snapshots.Kind, content: bytes, log: bytes | None = None, folder: Path | None = None) -> Snapshot:
    """Given a snapshot's content, receive it and return it."""
    receiving = Receiving(kind, folder)
    _open.append(receiving)
    receiving.file.write(content)
    if log is None:
        return receiving.opened()
    with tempfile.TemporaryFile() as file:
        file.write(log)
        return receiving.opened(file)


def why(kind: snapshots.Kind, content: bytes) -> str:
    """Given a snapshot that is not sound, return why."""
    with pytest.raises(Damaged) as caught:
        received(kind, content).check()
    _open.pop().close()
    return caught.value.why


def hashed(content: bytes) -> bytes:
    """Given a bbolt file, return it with its hash, as etcd sends it."""
    return content + hashlib.sha256(content).digest()


def counted(live: dict[bytes, bytes]) -> dict[str, int]:
    """Given live keys, return how many objects there are by prefix, counted another way than the code does."""
    names = [key.decode().removeprefix("/registry/").split("/") for key in live if key.startswith(b"/registry/")]
    long = ("services", "k3s.cattle.io")
    return dict(Counter("/".join(name[:2]) if name[0] in long else name[0] for name in names))


def volumes(live: dict[bytes, bytes]) -> list[bytes]:
    """Given live keys and values, return the values of PersistentVolumes."""
    return [live[key] for key in sorted(live) if key.startswith(b"/registry/persistentvolumes/")]


@pytest.fixture(params=["history", "compacted", "defragmented"])
def taken(request: pytest.FixtureRequest) -> etcd.Taken:
    """A real snapshot of etcd."""
    return etcd.snapshots()[request.param]


def database(folder: Path, rounds: int = 4) -> tuple[bytes, bytes, dict[bytes, bytes]]:
    """Given a folder, return kine's database with some history, its log, and the live keys and values."""
    chance = random.Random(6)  # noqa: S311 - the same data each time, not a secret
    path = folder / "state.db"
    connection = kine.connect(path)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    live: dict[bytes, bytes] = {}
    kinds = (
        "pods/default",
        "services/specs/default",
        "minions",
        "persistentvolumes",
        "k3s.cattle.io/addons/kube-system",
    )
    keys = [f"/registry/{kind}/name-{number}".encode() for kind in kinds for number in range(20)]
    for number in range(rounds):
        pairs: dict[bytes, bytes | None] = {
            key: chance.randbytes(chance.choice((0, 9000))) for key in chance.sample(keys, 40)
        }
        pairs |= {ROW: b"sealed %d" % number, b"compact_rev_key": b"", b"/registry/health": b'{"health":"true"}'}
        pairs[etcd.KUBE_SYSTEM] = json.dumps({"metadata": {"uid": etcd.UID}}).encode()
        pairs |= dict.fromkeys(chance.sample(sorted(key for key in live if b"name" in key), 10) if live else [])
        kine.put_all(connection, pairs)
        live |= {key: value for key, value in pairs.items() if value is not None}
        live = {key: value for key, value in live.items() if pairs.get(key, b"") is not None}
        if number == rounds - 2:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes(), (folder / "state.db-wal").read_bytes()
    connection.close()
    return *content, live


def merged(folder: Path) -> bytes:
    """Given a folder, return kine's database in one file."""
    content, log, _ = database(folder)
    with Receiving("sqlite") as receiving, tempfile.TemporaryFile() as file:
        receiving.file.write(content)
        file.write(log)
        receiving.opened(file)
        receiving.file.seek(0)
        return receiving.file.read()


def test_etcdctl_and_we_say_the_same_of_a_snapshot(taken: etcd.Taken) -> None:
    snapshot = received("etcd", taken.content)
    assert isinstance(snapshot, EtcdSnapshot)
    snapshot.check()
    assert {"totalKey": snapshot.rows, "revision": snapshot.revision()}.items() <= taken.status.items()


def test_every_live_key_of_etcd_has_its_newest_value_and_no_other_has_one(taken: etcd.Taken) -> None:
    snapshot = received("etcd", taken.content)
    assert {key: snapshot.get(key) for key in taken.live} == taken.live
    assert snapshot.keys() == len(taken.live)
    every = set().union(*(one.live for one in etcd.snapshots().values()))
    gone = every - set(taken.live)
    assert gone
    assert {snapshot.get(key) for key in gone | {b"", b"/registry/pods/default/none"}} == {None}


def test_live_objects_of_etcd_are_counted_by_resource(taken: etcd.Taken) -> None:
    snapshot = received("etcd", taken.content)
    assert snapshot.counts() == counted(taken.live)
    assert snapshot.volumes() == volumes(taken.live)
    assert len(snapshot.volumes()) > 5
    assert snapshot.bootstrap() == {ROW.decode(): taken.live[ROW]}
    assert registry.uid_of(snapshot.get(registry.KUBE_SYSTEM) or b"") == etcd.UID


def test_of_very_many_volumes_some_are_kept_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "_MOST_VOLUMES", 3)
    taken = etcd.snapshots()["history"]
    snapshot = received("etcd", taken.content)
    assert len(snapshot.volumes()) <= 3
    assert set(snapshot.volumes()) <= set(volumes(taken.live))
    assert snapshot.counts() == counted(taken.live)


def test_a_sqlite_database_and_its_log_are_read_as_one(tmp_path: Path) -> None:
    content, log, live = database(tmp_path)
    snapshot = received("sqlite", content, log)
    assert {key: snapshot.get(key) for key in live} == live
    assert snapshot.keys() == len(live)
    assert snapshot.get(b"/registry/pods/default/none") is None
    del live[b"/registry/health"]
    assert snapshot.counts() == counted(live)
    assert snapshot.volumes() == volumes(live)
    assert len(snapshot.volumes()) > 5
    assert snapshot.bootstrap() == {ROW.decode(): live[ROW]}
    assert registry.uid_of(snapshot.get(registry.KUBE_SYSTEM) or b"") == etcd.UID


def test_the_log_is_needed_for_what_is_newest(tmp_path: Path) -> None:
    content, log, live = database(tmp_path)
    without, whole = received("sqlite", content), received("sqlite", content, log)
    assert without.revision() < whole.revision()
    assert without.get(ROW) != whole.get(ROW) == live[ROW]


def test_a_backup_by_sqlite_itself_is_read(tmp_path: Path) -> None:
    _, _, live = database(tmp_path)
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "out.db"),))
    connection.close()
    snapshot = received("sqlite", (tmp_path / "out.db").read_bytes())
    assert {key: snapshot.get(key) for key in live} == live


@pytest.mark.parametrize("kind", ["etcd", "sqlite"])
def test_a_file_that_was_received_elsewhere_can_be_opened_too(kind: snapshots.Kind, tmp_path: Path) -> None:
    content = etcd.snapshots()["history"].content if kind == "etcd" else merged(tmp_path)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with snapshots.open_snapshot(kind, file) as snapshot:
            assert snapshot.get(ROW)
        file.seek(0)
        assert file.read() == content


def test_what_is_received_has_no_name_at_any_time(tmp_path: Path) -> None:
    """Not even the empty file that SQLite is given stays."""
    content = merged(tmp_path)
    for kind in ("etcd", "sqlite"):
        folder = tmp_path / kind
        folder.mkdir()
        with Receiving(kind, folder) as receiving:
            assert list(folder.iterdir()) == []
            assert os.fstat(receiving.file.fileno()).st_nlink == 0
            assert stat.S_IMODE(os.fstat(receiving.file.fileno()).st_mode) == 0o600
            receiving.file.write(content if kind == "sqlite" else etcd.snapshots()["history"].content)
            receiving.opened().check()
            assert list(folder.iterdir()) == []
        assert receiving.file.closed


def test_a_snapshot_is_read_once_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    real = EtcdSnapshot._read

    def noted(self: EtcdSnapshot) -> Any:
        times.append(1)
        return real(self)

    monkeypatch.setattr(EtcdSnapshot, "_read", noted)
    snapshot = received("etcd", etcd.snapshots()["history"].content)
    for ask in (snapshot.check, snapshot.counts, snapshot.revision, snapshot.keys, snapshot.bootstrap, snapshot.check):
        ask()
    assert times == [1]


ASKING: list[Callable[[Snapshot], Any]] = [
    *(Snapshot.check, Snapshot.counts, Snapshot.bootstrap, Snapshot.revision, Snapshot.keys),
    lambda snapshot: snapshot.get(ROW),
]


@pytest.mark.parametrize("ask", ASKING, ids=range(len(ASKING)))
def test_nothing_is_told_of_a_snapshot_that_is_not_sound(ask: Callable[[Snapshot], Any], tmp_path: Path) -> None:
    spoilt = bytearray(etcd.snapshots()["history"].content)
    spoilt[len(spoilt) // 2] ^= 1
    with pytest.raises(Damaged):
        ask(received("etcd", bytes(spoilt)))
    content, _, _ = database(tmp_path)
    with pytest.raises(Damaged):
        ask(received("sqlite", content[: len(content) // 2]))


def test_a_copy_of_the_database_file_is_no_snapshot_of_etcd() -> None:
    content = etcd.snapshots()["history"].content
    assert "no snapshot" in why("etcd", content[:-TRAILER])
    assert why("etcd", b"") == why("etcd", content[:-TRAILER])


def test_a_hash_that_fits_what_is_no_database_helps_nothing() -> None:
    for content in (b"", bytes(8 * PAGE)):
        assert "no valid meta page" in why("etcd", hashed(content))


def harmed(content: bytes, chance: random.Random) -> bytes:
    """Given a snapshot, return it with one fault: a bit, a cut, a byte more, pages swapped, zeroed, doubled, lost."""
    page = chance.randrange(len(content) // PAGE) * PAGE
    other = chance.randrange(len(content) // PAGE) * PAGE
    changed = bytearray(content)
    kind = chance.randrange(7)
    if kind == 0:
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del changed[chance.randrange(len(content)) :]
    elif kind == 2:
        changed.insert(chance.randrange(len(content)), chance.randrange(256))
    elif kind == 3:
        changed[page : page + PAGE], changed[other : other + PAGE] = (
            content[other : other + PAGE],
            content[page : page + PAGE],
        )
    elif kind == 4:
        changed[page : page + PAGE] = bytes(PAGE)
    elif kind == 5:
        changed[page:page] = content[page : page + PAGE]
    else:
        del changed[page : page + PAGE]
    return bytes(changed)


def sweep_with_the_hash(seed: int, rounds: int) -> None:
    """Given a seed, harm etcd's snapshots that often; each time that changes one, it is Damaged."""
    chance = random.Random(seed)  # noqa: S311 - a sweep, not a secret
    for number in range(rounds):
        content = etcd.snapshots()[chance.choice(("history", "compacted", "defragmented"))].content
        changed = harmed(content, chance)
        if changed != content:
            assert why("etcd", changed), f"seed {seed}, round {number}"


def sweep_without(kind: snapshots.Kind, content: bytes, seed: int, rounds: int) -> int:
    """Given a snapshot that no hash protects, harm it that often; return how often that was Damaged, the only error."""
    chance = random.Random(seed)  # noqa: S311 - a sweep, not a secret
    noticed = 0
    for _ in range(rounds):
        changed = harmed(content, chance)
        snapshot = received(kind, changed if kind == "sqlite" else hashed(changed[: len(changed) // 512 * 512]))
        try:
            snapshot.check()
            snapshot.bootstrap()
        except Damaged:
            noticed += 1
        finally:
            _open.pop().close()
    return noticed


def test_every_harm_to_a_snapshot_of_etcd_is_noticed() -> None:
    sweep_with_the_hash(6, 200)


def test_harm_that_the_hash_hides_is_damaged_or_read_and_nothing_else_happens() -> None:
    assert sweep_without("etcd", etcd.snapshots()["defragmented"].content[:-TRAILER], 6, 80) > 30


def test_harm_to_a_sqlite_database_is_damaged_or_read_and_nothing_else_happens(tmp_path: Path) -> None:
    """SQLite has no hashes: a bit of a value is not noticed here, but by the hash that the host gives with the file."""
    assert sweep_without("sqlite", merged(tmp_path), 6, 80) > 30


@pytest.mark.slow
def test_thousands_of_harms_are_noticed(tmp_path: Path) -> None:
    sweep_with_the_hash(7, sampled(10_000))
    number = sampled(5000)
    assert sweep_without("etcd", etcd.snapshots()["defragmented"].content[:-TRAILER], 7, number) > 0.4 * number
    assert sweep_without("sqlite", merged(tmp_path), 7, number) > 0.4 * number


def revised(change: Callable[[bytearray, int], None]) -> bytes:
    """Return a snapshot of etcd whose last live revision of kube-system was changed, with a hash that fits."""
    content = bytearray(etcd.snapshots()["defragmented"].content[:-TRAILER])
    at = content.rindex(b"\x0a" + bytes([len(etcd.KUBE_SYSTEM)]) + etcd.KUBE_SYSTEM)
    change(content, at)
    return hashed(bytes(content))


def other_revision(content: bytearray, at: int) -> None:
    """Let the value say that another revision wrote it."""
    where = content.index(b"\x18", at + 2 + len(etcd.KUBE_SYSTEM))
    content[where + 1] ^= 1


def no_message(content: bytearray, at: int) -> None:
    """Let the value be no protobuf message."""
    content[at] = 0x0B


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_revision, "says that it is another one"),
        (no_message, "unknown type 3"),
    ],
)
def test_a_revision_that_is_none_is_damaged(change: Callable[[bytearray, int], None], said: str) -> None:
    assert said in why("etcd", revised(change))


NUMBER = b"\0\0\0\0\0\0\0\2_\0\0\0\0\0\0\0\0"
WRONG = [
    ({b"short": b"\x0a\x01k\x18\x02"}, "is not NUMBER_NUMBER"),
    ({NUMBER.replace(b"_", b"-"): b"\x0a\x01k\x18\x02"}, "is not NUMBER_NUMBER"),
    ({NUMBER + b"x": b"\x0a\x01k\x18\x02"}, "is not NUMBER_NUMBER"),
    ({NUMBER: b""}, "has no key"),
    ({NUMBER: b"\x0a\x00\x18\x02"}, "has no key"),
    ({NUMBER: b"\x08\x01\x18\x02"}, "is not what etcd writes"),
    ({NUMBER: b"\x0a\x01k\x18\x02\x3a\x00"}, "is not what etcd writes"),
    ({NUMBER: b"\x0a\x01k"}, "says that it is another one"),
    ({NUMBER: b"\x0a\x01k\x18\x03"}, "says that it is another one"),
    ({NUMBER + b"t": b"\x0a\x01k"}, "holds no key"),
    ({}, "holds no key"),
]


@pytest.mark.parametrize(("bucket", "said"), WRONG, ids=range(len(WRONG)))
def test_a_bucket_of_revisions_that_etcd_would_not_write_is_damaged(bucket: dict[bytes, bytes], said: str) -> None:
    right = hashed(boltfile.Draft({b"key": {NUMBER: b"\x0a\x01k\x18\x02\x2a\x01v"}}).content())
    assert received("etcd", right).get(b"k") == b"v"
    assert said in why("etcd", hashed(boltfile.Draft({b"key": bucket}).content()))


def with_row(values: str) -> str:
    """Given a name and whether it is deleted, in SQL, return a script that makes kine's table with that row."""
    return kine.SCHEMA + "".join(("INSERT INTO kine (name, deleted) VALUES (", values, ")"))


def sql(folder: Path, script: str) -> bytes:
    """Given a script, return the database that SQLite makes of it."""
    path = folder / "made.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("CREATE TABLE other (x)", "no table kine"),
        ("CREATE TABLE other (id, name, deleted); CREATE VIEW kine AS SELECT * FROM other", "no table kine"),
        ("CREATE TABLE kine (x)", "no such column"),
        (kine.SCHEMA, "holds no key"),
        (with_row("'gone', 1"), "holds no key"),
        (with_row("NULL, 0"), "no name"),
        (with_row("5, 0"), "no name"),
    ],
)
def test_a_database_that_is_not_kines_is_damaged(tmp_path: Path, script: str, said: str) -> None:
    assert said in why("sqlite", sql(tmp_path, script))


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 10_000, b"SQLite format 3\0", bytes(100_000)])
def test_what_is_no_database_is_damaged(content: bytes) -> None:
    assert why("sqlite", content)


def test_an_index_that_does_not_fit_its_table_is_noticed(tmp_path: Path) -> None:
    content = sql(tmp_path, with_row("'/registry/pods/a/unmistakable', 0"))
    at = content.rindex(b"unmistakable")
    assert "integrity check" in why("sqlite", content[:at] + b"U" + content[at + 1 :])


READ = """
import pathlib, resource, sys
from i12e import snapshots
with snapshots.Receiving(sys.argv[1]) as receiving, open(sys.argv[2], "rb") as file:
    while block := file.read(1 << 20):
        receiving.file.write(block)
    snapshot = receiving.opened()
    assert snapshot.counts() == {"pods": int(sys.argv[3])}, snapshot.counts()
status = pathlib.Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss is at least what the parent had
    print(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def megabytes(kind: snapshots.Kind, path: Path, objects: int) -> float:
    """Given a snapshot of so many pods, return how much memory a process needs that reads it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-c", READ, kind, str(path), str(objects)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / (1 << (20 if sys.platform == "darwin" else 10))  # macOS counts bytes, Linux kilobytes


def test_a_large_sqlite_database_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(kine.SCHEMA + "BEGIN;")
    row = "INSERT INTO kine (name, deleted, value) VALUES (?, 0, zeroblob(1000000))"
    for number in range(100):
        connection.execute(row, (f"/registry/pods/a/{number}",))
    connection.execute("COMMIT")
    connection.close()
    assert path.stat().st_size > 100_000_000
    assert megabytes("sqlite", path, 100) < 80


def test_a_large_snapshot_of_etcd_is_read_in_little_memory(tmp_path: Path) -> None:
    value = bytes(1_000_000)
    rows = {}
    for number in range(1, 61):
        key = f"/registry/pods/a/{number}".encode()
        fields = ((1, key), (3, number), (5, value))
        rows[number.to_bytes(8, "big") + b"_" + bytes(8)] = test_registry.message(*fields)
    path = tmp_path / "large"
    path.write_bytes(hashed(boltfile.Draft({b"key": rows}, per_page=2).content()))
    assert path.stat().st_size > 60_000_000
    assert megabytes("etcd", path, 60) < 50


@pytest.mark.slow
def test_half_a_million_keys_are_counted_in_little_memory(tmp_path: Path) -> None:
    rows = {}
    for number in range(1, 500_001):
        fields = ((1, f"/registry/pods/a/{number}".encode()), (3, number), (5, b"x"))
        rows[number.to_bytes(8, "big") + b"_" + bytes(8)] = test_registry.message(*fields)
    path = tmp_path / "many"
    path.write_bytes(hashed(boltfile.Draft({b"key": rows}, per_page=50).content()))
    assert megabytes("etcd", path, 500_000) < 130

"""The offline drill: on real backups, with the real etcd; what it proves, refuses, writes down and leaves behind."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest

import bundles
from boltfile import Draft
from bundles import World
from conftest import ROOT, Project, need
from i12e import (
    age,
    alarms,
    backup_keys,
    backup_list,
    backups,
    bundle,
    drill,
    drill_offline,
    engine,
    localetcd,
    remote,
    snapshots,
)
from i12e.backups import Mark, Place
from i12e.errors import UsageError, UserError
from i12e.snapshots import EtcdSnapshot
from i12e.stores import StoreError
from memorystore import Memory
from sshd import until
from test_json import same_shape

CLUSTER = "example"


@pytest.fixture(scope="module")
def etcd_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster on a real etcd, with a lease in it."""
    with bundles.etcd_running() as running:
        running._ask("POST", "/v3/lease/grant", {"ID": str(LEASE), "TTL": "3600"})
        yield bundles.world(tmp_path_factory.mktemp("etcd") / "checkout", CLUSTER, running, count=6000)


LEASE = 0x0123456789ABCDEF


@pytest.fixture(scope="module")
def etcd_backup(etcd_world: World) -> tuple[Memory, str]:
    """A store with a backup of that cluster, and its id."""
    store = Memory()
    return store, bundles.make(etcd_world, Place(store, CLUSTER))


@pytest.fixture(scope="module")
def sqlite_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A cluster on SQLite."""
    return bundles.world(tmp_path_factory.mktemp("sqlite") / "checkout", CLUSTER, count=50)


@dataclasses.dataclass
class Scene:
    """A cluster whose one store has a backup."""

    world: World
    place: Place
    backup: str
    rung: mock.Mock
    """The alarms that were given."""

    def drill(self, *more: Place, backup: str = "", problems: Any = ()) -> dict[str, Any]:
        """Given further stores, run the drill; return what its document says of it. Raise UserError."""
        build = self.world.build
        build.told.clear()
        build.notes.clear()
        with mock.patch.object(drill, "open_places", return_value=([self.place, *more], list(problems))):
            drill.run(build, backup, "", on="", offline=True)
        (told,) = build.told
        return told.facts

    def mark(self) -> Mark | None:
        """Return what is written down of the drill."""
        return backups.survey(self.place)[0].drilled

    @property
    def folder(self) -> Path:
        """Where etcds are started."""
        return self.world.folder / "drill"

    def left(self) -> list[str]:
        """Return what drills left: nothing but the file of their lock."""
        return [path.name for path in self.folder.iterdir() if path.name != "lock"]


def writes(store: Memory) -> list[tuple[str, str]]:
    """Given a store, return the list into which what is written there goes from now on."""
    found: list[tuple[str, str]] = []

    def before(operation: str, key: str) -> None:
        if operation in ("put", "create", "swap", "delete", "commit"):
            found.append((operation, key))

    store.before = before
    return found


@contextlib.contextmanager
def scene_of(world: World, store: Memory, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Given a cluster and its store with a backup, give a scene with a copy of it."""
    rung = mock.Mock(return_value=[])
    monkeypatch.setattr(alarms.Alarms, "failed", rung)
    world.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = world.build.paths.root / "key.txt"
    key.write_text(world.key.reveal())
    monkeypatch.setenv(backup_keys.KEY_FILE, str(key))
    copy = Memory(store.name)
    for each, found in store._objects.items():
        copy._keep(each, found.content)
    yield Scene(world, Place(copy, CLUSTER), name, rung)


@pytest.fixture
def etcd_scene(etcd_world: World, etcd_backup: tuple[Memory, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A backup of a cluster on etcd."""
    with scene_of(etcd_world, *etcd_backup, monkeypatch) as scene:
        yield scene


@pytest.fixture
def sqlite_scene(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A backup of a cluster on SQLite."""
    store = Memory()
    made = bundles.make(sqlite_world, Place(store, CLUSTER))
    with scene_of(sqlite_world, store, made, monkeypatch) as scene:
        yield scene


def said(error: pytest.ExceptionInfo[UserError]) -> str:
    """Given what was raised, return what a person reads."""
    return "\n".join(str(problem) for problem in error.value.problems)


# --- good ones


def test_a_snapshot_is_proven_by_an_etcd_that_runs_on_it_and_nothing_but_the_mark_is_written(
    etcd_scene: Scene,
) -> None:
    assert isinstance(etcd_scene.place.store, Memory)
    written = writes(etcd_scene.place.store)
    told = etcd_scene.drill()
    assert [step["step"] for step in told["steps"]] == ["read", "check", "restore", "start", "compare"]
    assert told["ok"]
    assert told["objects"] > 6000  # more than etcd is asked for at once
    mark = etcd_scene.mark()
    assert mark is not None
    assert mark.ok
    assert mark.how == told["how"]
    assert mark.how.startswith("offline, etcd 3.")
    assert {key for _, key in written} == {etcd_scene.place.key("marks", etcd_scene.backup, "drilled.json")}
    assert etcd_scene.left() == []
    etcd_scene.rung.assert_not_called()


def test_a_sqlite_backup_is_proven_by_sqlite_and_starts_no_etcd(sqlite_scene: Scene) -> None:
    with mock.patch.object(localetcd, "installed", side_effect=AssertionError):
        told = sqlite_scene.drill()
    assert [step["step"] for step in told["steps"]] == ["read", "check"]
    assert "SQLite" in told["steps"][1]["what"]
    mark = sqlite_scene.mark()
    assert mark is not None
    assert (mark.ok, mark.how[:16]) == (True, "offline, SQLite ")


def test_the_last_drill_is_shown_by_the_list_and_by_status_with_what_it_was(sqlite_scene: Scene) -> None:
    cluster = sqlite_scene.world.cluster
    before = backup_list._shelf(sqlite_scene.place, cluster)
    assert "never drilled" in "".join(backup_list.heads(cluster, [before]))  # what status shows too
    sqlite_scene.drill()
    shelf = backup_list._shelf(sqlite_scene.place, cluster)
    (head,) = backup_list.heads(cluster, [shelf])
    assert "s ago (offline, SQLite " in head
    row = list(backup_list.lines(cluster, [shelf]))[-1]
    assert row.split("  ")[-1].strip().endswith("s ago")
    assert backup_list.as_json(shelf)["backups"][0]["drilled"]["how"].startswith("offline, SQLite ")


def test_a_mark_of_before_there_were_kinds_of_drills_is_read(sqlite_scene: Scene) -> None:
    key = sqlite_scene.place.key("marks", sqlite_scene.backup, "drilled.json")
    old = {"at": time.time(), "by": "me@here", "ok": True, "why": "", "seconds": 1.0}
    sqlite_scene.place.store.create(key, json.dumps(old).encode())
    mark = sqlite_scene.mark()
    assert mark is not None
    assert (mark.ok, mark.how) == (True, "")


def test_no_host_and_no_secret_of_the_repository_is_needed(etcd_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    root = etcd_scene.world.build.paths.root
    hidden = root / "no-key"
    (root / "secrets").rename(hidden)
    monkeypatch.setattr(remote, "_start", mock.Mock(side_effect=AssertionError))
    try:
        assert etcd_scene.drill()["ok"]
    finally:
        hidden.rename(root / "secrets")


@pytest.mark.parametrize("environ", [{"ETCD_NAME": "other"}, {"ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:1"}])
def test_what_is_said_to_another_etcd_by_the_environment_does_not_count(
    etcd_scene: Scene, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert etcd_scene.drill()["ok"]


def test_etcd_listens_on_no_port_and_in_a_folder_that_nobody_else_may_enter(etcd_scene: Scene) -> None:
    seen: list[Any] = []

    def look(live: localetcd.Live, opened: object) -> None:
        (own,) = (path for path in etcd_scene.folder.iterdir() if path.is_dir())
        sockets = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        (pid,) = etcds(own)
        inodes = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
        ports = [line for line in sockets.splitlines()[1:] if f"socket:[{line.split()[9]}]" in inodes]
        seen.append((own.stat().st_mode & 0o777, ports))

    need(Path("/proc/net/tcp").exists(), "Linux")
    with mock.patch.object(drill_offline, "compare", look):
        etcd_scene.drill()
    assert seen == [(0o700, [])]


def etcds(folder: Path) -> list[int]:
    """Given a folder, return the processes that have it as their working directory and are an etcd."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(each / "cwd").startswith(str(folder)) and (each / "comm").read_text() == "etcd\n":
                found.append(int(each.name))
    return found


def test_a_checkout_with_a_long_path_is_none_too_long_for_a_socket(etcd_scene: Scene, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    keys, report = [etcd_scene.world.key], drill_offline.Report()
    drill_offline.run(etcd_scene.place, etcd_scene.backup, keys, (deep, deep), [], report)
    assert report.steps[-1].name == "compare"


@pytest.mark.slow
def test_a_snapshot_whose_last_revision_was_forgotten_is_read_as_of_now(tmp_path: Path) -> None:
    """etcd counts the deletion that a compaction removed; the newest revision in the file is an older one."""
    with bundles.etcd_running() as running:
        running.put([(b"/registry/namespaces/kube-system", b"{}"), (b"/registry/pods/a/b", b"1")])
        running.delete([b"/registry/pods/a/b"])
        running.compact()
        until(lambda: asked(running.snapshot()[0], EtcdSnapshot.revision) < 4, "the deletion is forgotten")
        content, _ = running.snapshot()
    with started(content, tmp_path) as server:
        live = localetcd.Live(server, asked(content, EtcdSnapshot.revision))
        assert live.counts() == {"namespaces": 1}
        assert live.get(b"/registry/pods/a/b") is None


@pytest.mark.slow
def test_what_expires_while_the_drill_runs_is_counted_all_the_same(tmp_path: Path) -> None:
    with bundles.etcd_running() as running:
        running._ask("POST", "/v3/lease/grant", {"ID": "7", "TTL": "3600"})
        put = {"key": _b64(b"/registry/masterleases/192.0.2.1"), "value": "", "lease": "7"}
        running._ask("POST", "/v3/kv/put", put)
        running.put([(b"/registry/namespaces/kube-system", b"{}")])
        content, _ = running.snapshot()
    with started(content, tmp_path) as server:
        live = localetcd.Live(server, asked(content, EtcdSnapshot.revision))
        server.ask("kv/lease/revoke", {"ID": "7"})
        assert live.counts() == {"masterleases": 1, "namespaces": 1}


@contextlib.contextmanager
def started(content: bytes, folder: Path) -> Iterator[localetcd.Server]:
    """Given a snapshot and a folder, run an etcd on it until the block ends."""
    file = folder / "snapshot"
    file.write_bytes(content)
    own = folder / "own"
    own.mkdir()
    with file.open("rb") as opened, localetcd.Server(localetcd.installed(), own, print) as server:
        server.restore(opened, len(content))
        server.start()
        yield server


def asked(content: bytes, question: Callable[[EtcdSnapshot], Any]) -> Any:
    """Given a snapshot's content, and what is asked of it, return the answer."""
    with snapshots.Receiving("etcd") as receiving:
        receiving.file.write(content)
        snapshot = receiving.opened()
        assert isinstance(snapshot, EtcdSnapshot)
        return question(snapshot)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- bad ones


class Spoilt:
    """A cluster's etcd whose snapshots are changed before anybody sees them; their hash fits them."""

    kind: Literal["etcd", "sqlite"] = "etcd"
    method = "etcd-snapshot"

    def __init__(self, real: bundles.Datastore, change: Callable[[bytearray], None]) -> None:
        self._real = real
        self._change = change

    def snapshot(self, more: Any) -> bytes:
        """See bundles.Datastore."""
        content = bytearray(self._real.snapshot(more)[:-32])
        self._change(content)
        return bytes(content) + hashlib.sha256(content).digest()


def break_the_lease(content: bytearray) -> None:
    """Given a bbolt file of etcd's, let the lease in it be none; no key and no revision is touched."""
    lease = b"\x08" + _varint(LEASE)  # the protobuf of the lease: its number first
    at = content.index(lease)
    while at >= 0:  # pages that are free have old copies
        content[at] = 0x0F  # a field of a kind that there is not
        at = content.find(lease)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


@pytest.fixture
def spoilt_scene(etcd_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A backup that says ok to all of our readers, and that no etcd starts on."""
    world = dataclasses.replace(etcd_world, datastore=Spoilt(etcd_world.datastore, break_the_lease))
    store = Memory()
    made = bundles.make(world, Place(store, CLUSTER))
    with scene_of(world, store, made, monkeypatch) as scene:
        yield scene


def test_a_snapshot_that_only_etcd_finds_bad_is_marked_and_rung_and_is_no_good_backup_any_more(
    spoilt_scene: Scene,
) -> None:
    assert bundles.faults(spoilt_scene.world, spoilt_scene.place, backups.survey(spoilt_scene.place)[0]) == []
    with pytest.raises(UserError, match="does not take its snapshot: etcdctl ended with status 2: panic: ") as error:
        spoilt_scene.drill()
    assert spoilt_scene.backup in said(error)
    (found,) = backups.survey(spoilt_scene.place)
    assert found.drilled is not None
    assert not found.drilled.ok
    assert "panic" in found.drilled.why
    assert (found.state, found.why) == (backups.DAMAGED, f"it was found bad: {found.drilled.why}")
    spoilt_scene.rung.assert_called_once()
    assert spoilt_scene.left() == []
    shelf = backup_list._shelf(spoilt_scene.place, spoilt_scene.world.cluster)
    assert "FAILED" in list(backup_list.lines(spoilt_scene.world.cluster, [shelf]))[-1]


def test_a_bad_drill_has_the_last_word_until_another_one_is_good(sqlite_scene: Scene) -> None:
    place, name = sqlite_scene.place, sqlite_scene.backup

    def state(kind: str, ok: bool) -> str:
        place.mark(name, kind, Mark(time.time(), "me", ok, "" if ok else "bad"))
        return backups.survey(place)[0].state

    assert state(backups.VERIFIED, True) == backups.GOOD
    assert state(backups.DRILLED, False) == backups.DAMAGED
    assert state(backups.VERIFIED, True) == backups.DAMAGED
    assert sqlite_scene.drill(backup=name)["ok"]
    assert backups.survey(place)[0].state == backups.GOOD
    assert state(backups.VERIFIED, False) == backups.DAMAGED


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Given a folder and what stands in for programs, by name, put them on PATH ahead of the real ones.

    In a script REAL is the real one.
    """
    path = os.environ["PATH"]
    folder.mkdir()
    for name, text in scripts.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{text.replace('REAL', str(shutil.which(name)))}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{path}")


def undecided(scene: Scene, text: str) -> str:
    """Given a scene, see that its drill says this, rings, and holds nothing against the backup; return what it says."""
    with pytest.raises(UserError, match=text) as error:
        scene.drill()
    assert scene.mark() is None
    assert backups.survey(scene.place)[0].is_good
    assert scene.left() == []
    scene.rung.assert_called_once()
    return said(error)


NOT_ON_DATA = 'case "$*" in *--data-dir=data*) echo "panic: page 5 freed"; exit 2 ;; *) exec REAL "$@" ;; esac'
NOT_AT_ALL = 'case "$*" in --version) exec REAL "$@" ;; *) echo "cannot run on this machine"; exit 1 ;; esac'
FULL = 'case "$*" in --version) exec REAL "$@" ;; *) echo "panic: write data: no space left on device"; exit 2 ;; esac'
KILLED = 'case "$*" in --version) exec REAL "$@" ;; *) kill -9 $$ ;; esac'
HANGS = 'case "$*" in --version) exec REAL "$@" ;; *) echo "reads"; exec sleep 60 ;; esac'


def test_an_etcd_that_starts_on_nothing_and_not_on_the_backup_is_the_backups_fault(
    etcd_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path / "bin", monkeypatch, etcd=NOT_ON_DATA)
    with pytest.raises(UserError, match="etcd ended with status 2: panic: page 5 freed"):
        etcd_scene.drill()
    mark = etcd_scene.mark()
    assert mark is not None
    assert not mark.ok


def test_an_etcd_that_starts_on_nothing_either_says_nothing_of_the_backup(
    etcd_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path / "bin", monkeypatch, etcd=NOT_AT_ALL)
    undecided(etcd_scene, "cannot run on this machine; and it does not start on an empty folder either")


@pytest.mark.parametrize(
    ("script", "text"), [(FULL, "etcd had no room on the disk"), (KILLED, "etcd was ended from outside")]
)
def test_a_full_disk_and_a_kill_say_nothing_of_the_backup(
    etcd_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    fake(tmp_path / "bin", monkeypatch, etcd=script)
    undecided(etcd_scene, text)


def test_an_etcd_that_hangs_is_waited_for_aloud_and_not_for_ever(
    etcd_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake(tmp_path / "bin", monkeypatch, etcd=HANGS)
    monkeypatch.setattr(localetcd, "_LIMIT", 0.5)
    monkeypatch.setattr(localetcd, "_NEWS", 0.1)
    undecided(etcd_scene, "waits for etcd to be ready: not after 0 s; it says: reads")
    assert "waits for etcd to be ready, 0 s of 0 s: reads" in capfd.readouterr().err


def test_many_keys_are_counted_aloud(
    etcd_scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(localetcd, "_NEWS", 0.01)
    etcd_scene.drill()
    assert re.search(r"asks etcd for every key: \d+ objects so far", capfd.readouterr().err)


def test_too_little_room_is_told_before_etcd_needs_it(etcd_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100 << 20))
    assert "make room" in undecided(etcd_scene, "an etcd needs 20. MB to be started on it, and 105 MB are free")


def test_what_a_newer_etcd_refuses_is_for_one_of_the_backups_own_version_to_decide(
    spoilt_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EtcdSnapshot, "made_by", lambda snapshot: (3, 3))
    assert "drill again with etcd 3.3 on PATH" in undecided(spoilt_scene, "it was made by etcd 3.3, and etcd 3.4")


@pytest.mark.parametrize(
    ("name", "gives", "text"),
    [
        ("counts", {"pods": 1}, "has other objects: .* instead of "),
        ("get", None, "is of another cluster: its kube-system is missing"),
        ("bootstrap", {}, "out of an etcd that runs on it: the token .* is not the one"),
    ],
)
def test_an_etcd_that_says_something_else_than_the_manifest_is_the_backups_fault(
    etcd_scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str, gives: Any, text: str
) -> None:
    monkeypatch.setattr(localetcd.Live, name, lambda *asked: gives)
    with pytest.raises(UserError, match=text):
        etcd_scene.drill()
    mark = etcd_scene.mark()
    assert mark is not None
    assert (mark.ok, mark.how[:16]) == (False, "offline, etcd 3.")
    etcd_scene.rung.assert_called_once()


def test_a_part_that_is_not_as_it_was_stored_is_marked(sqlite_scene: Scene) -> None:
    place = sqlite_scene.place
    assert isinstance(place.store, Memory)
    key = place.part(sqlite_scene.backup, bundle.DATABASE)
    place.store.tamper(key, bytes(len(place.store.get(key)[0])))
    with pytest.raises(UserError, match=bundle.DATABASE):
        sqlite_scene.drill()
    mark = sqlite_scene.mark()
    assert mark is not None
    assert (mark.ok, mark.how) == (False, "offline")
    sqlite_scene.rung.assert_called_once()


def test_another_key_rings_nobody_and_is_not_held_against_the_backup(
    sqlite_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.txt").write_text(age.make()[0].reveal())
    monkeypatch.setenv(backup_keys.KEY_FILE, str(tmp_path / "other.txt"))
    with pytest.raises(UserError, match="the key here is another one"):
        sqlite_scene.drill()
    assert sqlite_scene.mark() is None
    sqlite_scene.rung.assert_not_called()


# --- which etcd


def test_without_an_etcd_our_readers_have_the_last_word_and_it_says_so(
    etcd_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = etcd_scene.drill()
    assert told["how"] == "offline, no etcd"
    assert etcd_scene.world.build.notes == [
        "no etcd is installed here: not started, only i12e's own readers have read the snapshot"
    ]
    assert [step["step"] for step in told["steps"]] == ["read", "check"]


def test_an_older_etcd_than_the_snapshot_needs_is_not_started(
    etcd_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EtcdSnapshot, "made_by", lambda snapshot: (3, 99))
    assert etcd_scene.drill()["how"] == "offline, no etcd"
    (note,) = etcd_scene.world.build.notes
    assert "here is older than what made the snapshot (3.99): not started" in note


OLD, NEW = 'echo "etcdctl version: 3.4.23"', 'echo "etcdctl version: 3.6.4"'
VERSION = "echo etcd Version: 3.6.4"


@pytest.mark.parametrize(
    ("scripts", "restorer"),
    [
        ({"etcd": VERSION, "etcdutl": "exit 1", "etcdctl": NEW}, "etcdutl"),
        ({"etcd": VERSION, "etcdctl": OLD}, "etcdctl"),
        ({"etcd": VERSION, "etcdctl": NEW}, "etcd 3.6.4 is installed here without its etcdutl"),
        ({"etcd": VERSION}, "etcd 3.6.4 is installed here without its etcdutl"),
        ({"etcd": "exit 1", "etcdctl": OLD}, "the etcd that is installed here does not run"),
        ({"etcd": "echo etcd Version: 3.3.25", "etcdctl": OLD}, "etcd 3.3.25 is installed here, and 3.4 is the oldest"),
    ],
)
def test_the_tool_is_the_one_that_restores_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str], restorer: str
) -> None:
    fake(tmp_path / "bin", monkeypatch, **scripts)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    if " " in restorer:
        with pytest.raises(localetcd.NotInstalled, match=restorer):
            localetcd.installed()
        return
    found = localetcd.installed()
    assert (Path(found.restorer).name, found.version) == (restorer, (3, 6, 4))


@pytest.mark.parametrize(
    ("meta", "cluster", "made"),
    [
        ({}, {b"clusterVersion": b"3.4.0"}, (3, 4)),
        ({b"storageVersion": b"3.6.0"}, {b"clusterVersion": b"3.5.0"}, (3, 6)),
        ({b"storageVersion": b"3.6.0"}, {}, (3, 6)),
        ({b"consistent_index": b"12345678"}, {b"downgrade": b"{}"}, None),
        ({}, {b"clusterVersion": b"?"}, None),
    ],
)
def test_a_snapshot_says_which_etcd_it_is_of(
    meta: dict[bytes, bytes], cluster: dict[bytes, bytes], made: tuple[int, int] | None
) -> None:
    row = b"\x0a\x0b/registry/a\x18\x01\x2a\x01v"
    key = {(1).to_bytes(8, "big") + b"_" + bytes(8): row}
    content = Draft({b"cluster": cluster, b"key": key, b"meta": meta}).content()
    assert asked(content + hashlib.sha256(content).digest(), EtcdSnapshot.made_by) == made


def test_the_snapshot_of_a_real_etcd_says_its_version(etcd_world: World) -> None:
    content, _ = etcd_world.snapshot()
    assert asked(content, EtcdSnapshot.made_by) == localetcd.installed().version[:2]


@pytest.mark.parametrize(
    ("k3s", "etcd"),
    [("v1.33.4+k3s1", (3, 5)), ("v1.34.0+k3s1", (3, 6)), ("v1.37.1+k3s1", (3, 7)), ("v1.50.0+k3s1", (3, 7)),
     ("", (3, 7))],
)  # fmt: skip
def test_what_a_snapshot_does_not_say_k3s_version_does(k3s: str, etcd: tuple[int, int]) -> None:
    assert drill_offline._etcd_of(k3s) == etcd


# --- which backup, which store


def test_the_newest_good_backup_of_all_stores_is_drilled_and_marked_where_it_is_from(sqlite_scene: Scene) -> None:
    older = sqlite_scene.place
    newer = Place(Memory("newer"), CLUSTER)
    time.sleep(1.0)  # the time of a backup is in whole seconds
    made = bundles.make(sqlite_scene.world, newer)
    assert sqlite_scene.drill(newer)["store"] == "newer"
    assert sqlite_scene.mark() is None
    assert sqlite_scene.drill(newer, backup=sqlite_scene.backup)["store"] == older.store.name
    newer.mark(made, backups.VERIFIED, Mark(time.time(), "me", False, "bad"))
    assert sqlite_scene.drill(newer)["backup"] == sqlite_scene.backup


def test_the_latest_epoch_that_has_a_good_backup_comes_first_and_has_the_mark(sqlite_scene: Scene) -> None:
    """A cluster that was restored has folders of its own; what its earlier self has is older, whatever its time."""
    first = sqlite_scene.place
    restored = dataclasses.replace(sqlite_scene.world, epoch=2)
    second = bundles.make(restored, first)
    assert sqlite_scene.drill()["backup"] == second
    assert [bool(each.drilled) for each in backups.survey(first)] == [False]
    assert [bool(each.drilled) for each in backups.survey(first.of(2))] == [True]
    assert sqlite_scene.drill(backup=sqlite_scene.backup)["ok"]
    assert [bool(each.drilled) for each in backups.survey(first)] == [True]


def test_a_store_that_does_not_answer_is_a_note_where_another_one_has_the_backup(sqlite_scene: Scene) -> None:
    broken = Memory("broken")
    broken.fail("list", StoreError("broken", "timed out"))
    assert sqlite_scene.drill(Place(broken, CLUSTER))["ok"]
    assert "broken: timed out" in sqlite_scene.world.build.notes[0]
    broken.fail("list", StoreError("broken", "timed out"))
    alone = dataclasses.replace(sqlite_scene, place=Place(broken, CLUSTER))
    with pytest.raises(UserError, match="broken: timed out"):
        alone.drill()
    sqlite_scene.rung.assert_called_once()
    broken.fail("list", StoreError("broken", "timed out"))
    with pytest.raises(UserError, match="no store that answers has it"):
        alone.drill(backup=sqlite_scene.backup)


def test_no_backup_is_a_failed_drill_and_a_typing_error_is_none(sqlite_scene: Scene) -> None:
    with pytest.raises(UsageError, match="there is no such backup"):
        sqlite_scene.drill(backup="20270101T000000Z-0a1b2c")
    sqlite_scene.rung.assert_not_called()
    with pytest.raises(UserError, match="there is no good backup"):
        dataclasses.replace(sqlite_scene, place=Place(Memory(), CLUSTER)).drill()
    sqlite_scene.rung.assert_called_once()


def test_a_store_that_does_not_take_the_mark_is_told(sqlite_scene: Scene) -> None:
    assert isinstance(sqlite_scene.place.store, Memory)
    sqlite_scene.place.store.fail("create", StoreError("memory", "read-only"))
    with pytest.raises(UserError, match="read-only"):
        sqlite_scene.drill()


def test_the_task_takes_its_options_and_tells_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    more = f"  stores: [{{name: disk, folder: {tmp_path / 'store'}}}]\n"
    world = bundles.world(tmp_path / "checkout", CLUSTER, count=5, more=more)
    made = bundles.make(world)
    (tmp_path / "key.txt").write_text(world.key.reveal())
    monkeypatch.setenv(backup_keys.KEY_FILE, str(tmp_path / "key.txt"))
    project = Project(tmp_path / "checkout")
    done = project.doit("drill", "--from", "disk", "--backup", made, "--offline", tasks=engine.backup_tasks)
    assert (done.status, done.err) == (0, "")
    assert re.match(rf"DRILL    {made} in disk  \(offline, SQLite .*: good, \d+\.\d s\)\n    read ", done.out)
    assert "nothing was changed" not in done.out
    told = json.loads(project.doit("drill", "--json", tasks=engine.backup_tasks).out)
    found = told["results"][0]
    assert found["backup"] == made
    assert documented().keys() == found.keys() - {"task", "verb", "what", "result", "seconds", "remark", "text"}
    wrong = project.doit("drill", "--from", "nowhere", tasks=engine.backup_tasks)
    assert (wrong.status, wrong.err.split(" (")[0]) == (3, "--from nowhere: there is no such store")


def documented() -> dict[str, Any]:
    """Return what docs/json.md shows of a drill."""
    page = (ROOT / "docs/json.md").read_text()
    found = re.search(r"^## A drill.*?^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    made: dict[str, Any] = json.loads(found[1])
    return made


def test_what_a_drill_tells_in_json_is_as_documented(etcd_scene: Scene) -> None:
    same_shape(documented(), etcd_scene.drill())


# --- what is left behind


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_a_drill_that_is_stopped_leaves_no_etcd_and_no_data(etcd_scene: Scene, ending: type[BaseException]) -> None:
    with mock.patch.object(drill_offline, "compare", side_effect=ending), pytest.raises(ending):
        etcd_scene.drill()
    assert etcd_scene.left() == []
    assert etcds(etcd_scene.folder) == []


def killed(scene: Scene, also: Callable[[], object] = lambda: None) -> None:
    """Given a scene, kill its drill once its etcd runs, in a process of its own, and do something right before."""

    def compare(*given: object) -> None:
        also()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:  # pragma: no cover  # the child's lines are not measured
        with contextlib.suppress(BaseException), mock.patch.object(drill_offline, "compare", compare):
            scene.drill()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


@pytest.mark.slow
def test_a_kill_in_mid_drill_leaves_no_etcd_and_nothing_plain(etcd_scene: Scene) -> None:
    killed(etcd_scene)
    until(lambda: etcds(etcd_scene.folder) == [] and etcd_scene.left() == [], "all is gone")
    assert etcd_scene.drill()["ok"]


@pytest.mark.slow
def test_what_a_kill_of_everything_leaves_is_removed_by_the_next_drill(etcd_scene: Scene) -> None:
    need(Path("/proc").is_dir(), "Linux")

    def kill_all() -> None:
        for etcd in etcds(etcd_scene.folder):
            os.killpg(os.getpgid(etcd), signal.SIGKILL)  # the shell that would clear up is of its group

    killed(etcd_scene, kill_all)
    until(lambda: etcds(etcd_scene.folder) == [], "etcd is gone")
    assert list(etcd_scene.folder.glob("*/data/member/snap/db"))
    assert etcd_scene.drill()["ok"]
    assert etcd_scene.left() == []


def test_two_drills_at_once_are_one_too_many(sqlite_scene: Scene) -> None:
    code = """if True:
        import pathlib, sys, time
        from i12e import lock
        held = lock.take(pathlib.Path(sys.argv[1]), "drill")
        print(1, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", code, str(sqlite_scene.folder / "lock")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(UserError, match=r"another run is at work here.*it is a drill too"):
                sqlite_scene.drill()
        finally:
            other.kill()
    assert sqlite_scene.drill()["ok"]

"""Each bug of k3s that a restore meets, with hosts of the lab: it is survived or refused, and nothing comes back empty.

That the lab's k3s has these bugs, and what they do where nobody minds them, is in test_k3s.py; docs/restore.md has both
in a table. Each test goes on with the cluster that the one before has left, so they are run in this order and together.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import corruptions
import kine
from i12e import backup_keys, bundle
from i12e.backups import Place
from i12e.folders import Folder
from i12e.paths import LAB_MACHINES
from i12e.restoring import FOLDER
from lab import environment, places
from lab.backing import DATABASES, SNAPSHOTS, opened, seal, wait
from lab.clones import clone
from lab.fixtures import running
from lab.restores import Scene

pytestmark = pytest.mark.lab

SERVER = "/var/lib/rancher/k3s/server"
PASSWORD = "/etc/rancher/node/password"
TLS = f"{SERVER}/tls/etcd"
MEMBERS = (
    f"ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert={TLS}/server-ca.crt --cert={TLS}/client.crt"
    f" --key={TLS}/client.key member list -w json"
)
# What would tell that a host was touched: it booted, k3s started, a file came.
TOUCHED = "cat /proc/sys/kernel/random/boot_id; systemctl show -p InvocationID k3s; ls -A /var/lib/i12e {0}/.. {0}/db"


@dataclass
class Bugs(Scene):
    """A cluster, and the store that its backups lie in."""

    store: Path = field(default_factory=Path)

    @property
    def place(self) -> Place:
        """The cluster's folder in the store."""
        return Place(Folder("disk", self.store), "lab")

    def look(self) -> list[str]:
        """Return what would be another text if a host had been touched meanwhile."""
        return [self.lab.read(host, TOUCHED.format(SERVER)) for host in self.hosts]

    def members(self) -> dict[str, int]:
        """Return the members of etcd: host -> the member's id."""
        found = json.loads(self.lab.read(self.first, MEMBERS))["members"]
        return {member["name"].rpartition("-")[0]: member["ID"] for member in found}

    def plant(self, host: str, path: str, content: bytes) -> None:
        """Write a file there."""
        done = self.lab.shell(host, f"mkdir -p $(dirname {path}) && cat >{path}", content)
        assert done.status == 0, done.complaint

    def aside(self, path: str) -> str:
        """Return the hash of a file that the last restore set aside on the first server."""
        return self.lab.read(self.first, f"sha256sum <$(ls -d {SERVER}.before-* | tail -n 1)/{path}").split()[0]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def scene(folder: Path, hosts: list[str], datastore: str) -> Iterator[Bugs]:
    """Given an empty folder and servers, have a cluster of them with some objects and a backup until the block ends."""
    operator = clone(folder / "one")
    with running(operator.root / LAB_MACHINES, hosts) as lab:
        environment.write(operator.root, lab, len(hosts), 0)
        made = Bugs(operator, lab, hosts, store=folder / "disk")
        made.store.mkdir()
        made.settings("\nbackup:\n", f"\nbackup:\n  stores: [{{name: disk, folder: {made.store}}}]\n")
        made.settings("datastore: etcd", f"datastore: {datastore}")
        operator.deploys()
        made.fill(300)
        made.back_up()
        yield made


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bugs]:
    """Two servers on etcd."""
    yield from scene(tmp_path_factory.mktemp("two"), ["server-1", "server-2"], "etcd")


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bugs]:
    """A server on SQLite."""
    yield from scene(tmp_path_factory.mktemp("lite"), ["server-1"], "sqlite")


# --- on etcd


def test_interrupted_and_cut_snapshots_of_k3s_become_no_backup(two: Bugs) -> None:
    cut, part = f"{SNAPSHOTS}/etcd-snapshot-cut-1", f"{SNAPSHOTS}/i12e-20261127T000000Z-aaaaaa-server-1-1.part"
    for host in two.hosts:
        two.lab.read(
            host,
            f"/opt/bin/k3s etcd-snapshot save --name whole 2>/dev/null; cd {SNAPSHOTS}; "
            f"head -c -51200 whole-* >{cut}; head -c -32 whole-* >{part}; rm whole-*; touch -d '1 hour' {cut} {part}",
        )
        for each in (cut, part):  # nobody can restore them
            restored = two.lab.shell(host, f"ETCDCTL_API=3 etcdctl snapshot restore {each} --data-dir $(mktemp -u)")
            assert restored.status == 1
            assert re.search("expected sha256|missing hash", restored.complaint), restored.complaint
    backup = two.back_up()
    done = two.operator.doit("backup_verify", "--backup", backup)
    assert done.status == 0, done.err
    for host in two.hosts:
        assert two.lab.read(host, f"ls {cut} {part}").split() == [cut, part]


def test_a_backup_that_was_made_of_a_cut_snapshot_is_refused_before_anything_is_touched(two: Bugs) -> None:
    backup = two.back_up()
    (key,) = backup_keys._keys(two.operator.root / backup_keys.LAB_BACKUP_KEY)
    apart = corruptions.taken_apart(two.place, backup, key)
    whole, before = apart.plain[bundle.DATABASE], two.look()

    def refuses(lost: int, why: str, *commands: str) -> None:
        apart.put(bundle.DATABASE, whole[:-lost])
        for path, content in apart.written(vouched=True).items():  # all its hashes fit, as if it had been made so
            assert content is not None
            (two.store / path).write_bytes(content)
        for command in commands:
            done = two.operator.doit(*command.split(), "--backup", backup)
            assert done.status == 1, command
            assert f"{backup} in disk: {why}" in done.err, command
            assert two.look() == before, command

    refuses(51200, "the snapshot does not fit the hash at its end", "restore --only-plan")
    why = "the snapshot does not end with its hash"  # as that of a .part
    refuses(32, why, "restore --only-plan", "restore --yes", "backup_verify", "drill")


def test_another_token_in_the_secrets_is_refused_before_anything_is_touched(two: Bugs) -> None:
    file = two.operator.root / "secrets/lab/cluster.yaml"
    sealed, before = file.read_bytes(), two.look()
    seal(two.operator, "cluster", json.dumps({**opened(two.operator, "cluster"), "server_token": "0" * 64}))
    try:
        done = two.operator.doit("restore", "--yes")
    finally:
        file.write_bytes(sealed)
    assert done.status == 1
    assert "the server token of the secrets is not the one" in done.err
    assert two.look() == before


def test_members_that_are_no_more_are_none_and_other_node_passwords_are_taken(two: Bugs) -> None:
    old = two.members()
    assert sorted(old) == ["server-1", "server-2"]
    passwords = {two.lab.read(host, f"cat {PASSWORD}") for host in two.hosts}
    two.move("server-3", "server-2")  # server-2 is another machine of that name, which joins
    two.lab.trust("server-2")
    for host in two.hosts:
        two.plant(host, PASSWORD, f"planted on {host}\n".encode())
    two.restores("--to", two.first)
    now = two.members()
    assert sorted(now) == ["server-2", "server-3"]
    assert not set(now.values()) & set(old.values())
    planted = {two.lab.read(host, f"cat {PASSWORD}") for host in two.hosts}
    assert planted == {f"planted on {host}" for host in two.hosts}
    assert not planted & passwords


@pytest.mark.sweep  # half a minute; i12e's config has the token, so that this file alone never bites
def test_a_token_file_of_another_cluster_is_set_aside(two: Bugs) -> None:
    two.lab.kill("server-2")
    (two.operator.root / "hosts/lab/server-2.yaml").unlink()
    two.hosts = ["server-3"]
    two.lab.read(two.first, "systemctl stop k3s")  # which would write the file anew at each start
    other = f"K10{'ab' * 32}::server:{'0' * 64}\n".encode()
    two.plant(two.first, f"{SERVER}/token", other)
    two.restores()
    own = opened(two.operator, "cluster")["server_token"]
    assert two.lab.read(two.first, f"cat {SERVER}/token").endswith(f"::server:{own}")
    assert two.aside("token") == sha256(other)
    assert list(two.members()) == ["server-3"]


def test_snapshots_of_k3s_own_that_were_set_aside_with_its_data_are_no_loss(two: Bugs) -> None:
    for name in ("one", "two"):
        two.lab.read(two.first, f"/opt/bin/k3s etcd-snapshot save --name {name} 2>/dev/null")
    two.back_up()
    two.restores()


def test_a_reset_flag_of_before_does_not_keep_k3s_from_the_next_reset(two: Bugs) -> None:
    flag = b"of before"
    two.plant(two.first, f"{DATABASES}/reset-flag", flag)
    two.restores()
    assert two.aside("db/reset-flag") == sha256(flag)
    assert "reset-flag" not in two.lab.read(two.first, f"ls {DATABASES}").split()


@pytest.mark.sweep  # half a minute, and the one before it is of the same flag
def test_a_reset_flag_that_a_killed_restore_left_does_not_keep_it_from_its_end(two: Bugs) -> None:
    process = two.operator.start("restore", "--yes", "--timeout", "60s")
    said = f"until grep -qs 'membership has been reset' {FOLDER}/reset.log; do sleep 0.05; done"
    try:
        assert two.lab.shell(two.first, said, limit=120).status == 0
        two.lab.kill(two.first)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    two.lab.power_on(two.first)
    wait(lambda: two.lab.ssh(two.first, "true").status == 0, 90)
    left = two.lab.read(two.first, f"ls {DATABASES}; cat {FOLDER}/progress; systemctl is-active k3s || true").split()
    assert "reset-flag" in left
    assert "ready" not in left
    assert left[-1] != "active"
    two.restores()
    assert "reset-flag" not in two.lab.read(two.first, f"ls {DATABASES}").split()


# --- on SQLite, and from it


def stale(folder: Path) -> dict[str, bytes]:
    """Return the log of another database, and its index, as a k3s that died has left them: sound by themselves."""
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "strange", "namespace": "default"}}
    with closing(kine.connect(folder / "other.db")) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        kine.put(other, b"/registry/configmaps/default/strange", json.dumps(item).encode())
        return {name: (folder / f"other.db-{name}").read_bytes() for name in ("wal", "shm")}


def test_a_stale_log_is_not_read_into_the_database_that_was_restored(lite: Bugs, tmp_path: Path) -> None:
    lite.lab.read(lite.first, "systemctl stop k3s")
    logs = stale(tmp_path)
    # What it would do: whoever puts the backup's database beside it reads something else than the backup.
    with closing(kine.connect(tmp_path / "sound.db")) as sound:
        kine.put(sound, b"/registry/configmaps/default/c1", b"{}")
    (tmp_path / "sound.db-wal").write_bytes(logs["wal"])
    with closing(kine.connect(tmp_path / "sound.db")) as spoilt:
        assert spoilt.execute("SELECT name FROM kine").fetchall() == [("/registry/configmaps/default/strange",)]
    for name, content in logs.items():
        lite.plant(lite.first, f"{DATABASES}/state.db-{name}", content)
    lite.restores()
    assert lite.aside("db/state.db-wal") == sha256(logs["wal"])


def test_another_node_password_is_taken_by_a_server_whose_k3s_does_not_forget_the_old_one(lite: Bugs) -> None:
    lite.plant(lite.first, PASSWORD, b"another machine's\n")
    lite.restores()
    assert lite.lab.read(lite.first, f"cat {PASSWORD}") == "another machine's"


def test_a_stale_etcd_beside_the_sqlite_database_is_not_taken_for_the_converted_one(lite: Bugs) -> None:
    name, peer, client = "server-1-0123abcd", f"https://{places.address('server-1')}:2380", "http://127.0.0.1:12379"
    lite.lab.read(
        lite.first,
        f"""
systemctl stop k3s; cd {DATABASES}; ls state.db >/dev/null
etcd --name {name} --data-dir etcd --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls {peer} \
    --initial-cluster {name}={peer} --listen-client-urls {client} --advertise-client-urls {client} >/dev/null 2>&1 &
export ETCDCTL_API=3
until etcdctl --endpoints={client} put /registry/configmaps/default/strange '{{}}' 2>/dev/null; do sleep 0.1; done
kill $!; wait $! || :
printf %s {name} >etcd/name; test -d etcd/member/wal
""",
    )
    etcd = lite.lab.read(lite.first, f"sha256sum <{DATABASES}/etcd/member/snap/db").split()[0]
    lite.settings("datastore: sqlite", "datastore: etcd")
    done = lite.restores()
    assert "SQLite, converted to etcd" in done.out + done.err
    there = lite.lab.read(lite.first, f"ls {DATABASES}").split()
    assert "state.db.migrated" in there
    assert "state.db" not in there
    assert lite.aside("db/etcd/member/snap/db") == etcd

"""Real backups without hosts: all of `backup` but the ssh; the cluster is a database and a few files, made here.

The database is a real one, of kine's schema or out of a real etcd. Its bootstrap row opens with the token, its Secrets
are encrypted as k3s encrypts them, the sentinel of each backup is in it. What is a stand-in is whoever hands it over:
`Taking` in place of a server that takes a snapshot, and `Hosts` in place of hosts that answer over ssh.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import secrets
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from unittest import mock

from nacl.secret import SecretBox

import etcd
import kine
import rows
from conftest import small_project
from i12e import (
    age,
    backup,
    backup_verify,
    backups,
    bundle,
    collect,
    database,
    fleet,
    proof,
    registry,
    snapshots,
    tokens,
)
from i12e.backups import Place
from i12e.build import Build
from i12e.database import Database
from i12e.deploy import Situation, Wanted
from i12e.epoch import Identity
from i12e.errors import Problem
from i12e.facts import Facts, HostFacts, Node
from i12e.paths import Paths
from i12e.programs import Done
from i12e.remote import Remote
from i12e.secrets import Secret
from i12e.settings import Cluster

VERSION = "v1.35.4+k3s1"
_TOKEN = "var/lib/rancher/k3s/server/token"
_CLUSTER = """\
name: {name}
k3s: {{version: v1.35.4+k3s1}}
api: {{name: k8s.example.com, vip: {{address: 192.0.2.10, version: v1.0.1, interface: eth0}}}}
network: {{hosts: [192.0.2.0/24]}}
ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 demo"]
backup:
  recipients: [{recipient}]
"""


class Datastore(Protocol):
    """A cluster's datastore, from which snapshots are taken."""

    kind: Literal["etcd", "sqlite"]
    method: str

    def snapshot(self, more: Mapping[bytes, bytes]) -> bytes:
        """Given keys and values that are there for the moment, return a snapshot with them."""
        ...


class Kine:
    """kine's database: a file that no process has open."""

    kind: Literal["etcd", "sqlite"] = "sqlite"
    method = "sqlite-online"

    def __init__(self, folder: Path, pairs: Mapping[bytes, bytes]) -> None:
        folder.mkdir(parents=True)
        self._path = folder / "state.db"
        with contextlib.closing(kine.connect(self._path)) as connection:
            kine.put_all(connection, pairs)

    def snapshot(self, more: Mapping[bytes, bytes]) -> bytes:
        """See Datastore."""
        with contextlib.closing(kine.connect(self._path)) as connection:
            kine.put_all(connection, more)
        content = self._path.read_bytes()  # the last connection has put the log into it
        with contextlib.closing(kine.connect(self._path)) as connection:
            kine.put_all(connection, dict.fromkeys(more))
        return content


class Etcd:
    """An etcd that runs."""

    kind: Literal["etcd", "sqlite"] = "etcd"
    method = "etcd-snapshot"

    def __init__(self, running: etcd.Etcd, pairs: Mapping[bytes, bytes]) -> None:
        self._etcd = running
        running.put(list(pairs.items()))

    def snapshot(self, more: Mapping[bytes, bytes]) -> bytes:
        """See Datastore."""
        self._etcd.put(list(more.items()))
        content, _ = self._etcd.snapshot()
        self._etcd.delete(list(more))
        return content


@dataclass
class World:
    """A cluster that is backed up: the checkout that does it, and what there is in place of the hosts."""

    build: Build
    cluster: Cluster
    key: Secret
    """The private key of its backups."""
    uid: str
    token: Secret
    encryption: bytes
    """The key that its Secrets are encrypted with."""
    datastore: Datastore
    wanted: Mapping[str, Wanted]
    files: dict[str, dict[str, bytes]]
    """By host what the script for files finds there."""
    paths: dict[str, bytes] = field(default_factory=dict)
    """By path what is in its one file, on every host."""
    epoch: int = 1
    """What the live cluster says that it is."""
    taken: bytes = b""
    """The last snapshot."""
    last: collect.Sentinel | None = None

    @property
    def folder(self) -> Path:
        """Where files without names may be."""
        return self.build.paths.root / self.build.paths.build

    def snapshot(self) -> tuple[bytes, collect.Sentinel]:
        """Return a snapshot of now, and the sentinel that is in it."""
        sentinel = collect.Sentinel(f"{collect.SENTINEL}-{secrets.token_hex(3)}", secrets.token_hex(16))
        sealed = encrypted(sentinel.manifest().encode(), self.encryption)
        self.last, self.taken = sentinel, self.datastore.snapshot({sentinel.row.encode(): sealed})
        return self.taken, sentinel


def encrypted(value: bytes, key: bytes) -> bytes:
    """Given a Secret's value and a key, return it as it is stored."""
    return b"k8s:enc:secretbox:v1:key1:" + bytes(SecretBox(key).encrypt(value))


def objects(
    uid: str, token: Secret, encryption: bytes, count: int, chance: random.Random, value: int = 40
) -> dict[bytes, bytes]:
    """Given what makes a cluster one of its own, return the keys and values of its datastore, `count` objects."""
    kinds = ("pods/default", "configmaps/default", "services/specs/default", "minions", "k3s.cattle.io/addons/a")
    pairs = {
        f"/registry/{kinds[number % len(kinds)]}/name-{number}".encode(): chance.randbytes(value)
        for number in range(count)
    }
    for number in range(5):
        content = json.dumps({"kind": "Secret", "data": {"word": base64.b64encode(b"planted").decode()}}).encode()
        pairs[f"/registry/secrets/default/name-{number}".encode()] = encrypted(content, encryption)
    config = rows.encryption_config("secretbox", {"key1": encryption})
    word = tokens.password(token).reveal()
    pairs[tokens.row_name(token).encode()] = rows.row({"EncryptionConfig": config, "ServerCA": "a CA"}, word)
    pairs[registry.KUBE_SYSTEM] = json.dumps({"kind": "Namespace", "metadata": {"uid": uid}}).encode()
    return pairs


def world(
    folder: Path,
    name: str = "example",
    running: etcd.Etcd | None = None,
    count: int = 2000,
    more: str = "",
    seed: int = 6,
    value: int = 40,
    key: Secret | None = None,
) -> World:
    """Given a folder that is not there, return a cluster whose checkout it is.

    `running`: an empty etcd that is its datastore, else that is kine's database; `count`: how many objects it has, and
    `value` bytes of each; `more`: what its file says of backups beside the recipient, indented by two; `key`: a private
    key, else one is made.
    """
    chance = random.Random(f"{seed} {name}")  # noqa: S311  # the same objects each time, no secret
    private = key or age.make()[0]
    project = small_project(folder)
    text = _CLUSTER.format(name=name, recipient=age.recipient_of(private))
    project.write("hosts/example/cluster.yaml", text + more)
    build = Build(Paths(folder, "example"))
    token = Secret(f"K10{'ab' * 32}::server:{secrets.token_hex(8)}")
    uid = "-".join(chance.randbytes(size).hex() for size in (4, 2, 2, 2, 6))
    encryption = chance.randbytes(32)
    pairs = objects(uid, token, encryption, count, chance, value)
    datastore = Etcd(running, pairs) if running else Kine(folder / "datastore", pairs)
    wanted = {each.name: Wanted(each, b"", f"digest-{each.name}") for each in build.checked_hosts()}
    files = {
        each: {"etc/rancher/node/password": secrets.token_hex(16).encode(), "etc/i12e/host.json": b"{}\n"}
        for each in wanted
    }
    hash12 = tokens.hash12(token)
    for each in (_TOKEN, f"{collect.TOKENS.strip('/')}/{hash12}"):
        files["server-1"][each] = token.reveal().encode() + b"\n"
    return World(build, build.cluster(), private, uid, token, encryption, datastore, wanted, files)


class _Host(Remote):
    """In place of a host over ssh: it sends what it would send."""

    def __init__(self, name: str, world: World) -> None:
        self._name = name
        self._world = world

    def stream(
        self,
        script: str,
        take: Callable[[bytes], None],
        stdin: bytes = b"",
        quiet: float = 60.0,
        root: bool = True,
    ) -> Done:
        """See Remote: of the scripts it knows those that send a tar."""
        if script == collect.files_script():
            take(tar_of(self._world.files[self._name]))
            return Done(0, "", "")
        for each in self._world.cluster.backup.paths:
            if script == collect.path_script(each.path, each.before, each.after):
                if each.path not in self._world.paths:
                    return Done(collect.ABSENT, "", "")
                take(tar_of({f"{each.path.strip('/')}/file": self._world.paths[each.path]}))
                return Done(0, "", "")
        raise AssertionError(script)

    def close(self) -> None:
        """There is nothing to close."""


class Hosts(fleet.Hosts):
    """In place of hosts over ssh: all of them answer, and are well."""

    def __init__(self, world: World) -> None:
        super().__init__(world.build, world.wanted)
        self._world = world

    def __getitem__(self, name: str) -> Remote:
        return _Host(name, self._world)

    def ask(self, name: str, whole: bool = False) -> Facts:
        """See fleet.Hosts."""
        wanted = self.wanted[name]
        identity = {"cluster": self._world.cluster.name, "host": name, "digest": wanted.digest}
        if wanted.host.role != "server":
            return HostFacts(identity=identity, agent_data=True, version=VERSION)
        nodes = {name: Node(name, True, False, True, VERSION, "boot")}
        return HostFacts(identity=identity, datastore=self._world.datastore.kind, version=VERSION, nodes=nodes)


class Taking(backup._Taking):
    """A run of `backup` that is given a database; it believes it no more than one that comes over ssh."""

    world: World

    def _identity(self, server: str) -> Identity:
        return Identity(self.world.uid, self.world.epoch)

    def _database(self, now: Situation) -> Database:
        self.world.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content, sentinel = self.world.snapshot()
        return proven(self.world, content, sentinel)


def proven(world: World, content: bytes, sentinel: collect.Sentinel) -> Database:
    """Given a snapshot and its sentinel, return it as database.take returns one; raise as that does."""
    kind = world.datastore.kind
    receiving = snapshots.Receiving(kind, world.folder)
    receiving.file.write(content)
    snapshot = receiving.opened()
    snapshot.check()
    database._prove_identity(snapshot, world.uid, world.token, sentinel)
    counts = snapshot.counts()
    assert not proof.differences(counts, counts, counts)
    return Database(
        "server-1", receiving.file, database._summed(receiving.file), kind, world.datastore.method, VERSION,
        world.uid, tokens.hash12(world.token), snapshot.revision(), counts, sentinel,
    )  # fmt: skip


def make(world: World, *places: Place, scheduled: bool = False, only: str = "", wait: float = 0.0) -> str:
    """Given a cluster and places (else those that its file names), take a backup as `./doit backup` does.

    Return its id, "" where none was due. Raise UserError.
    """

    def taking(*given: Any, **more: Any) -> Taking:
        made = Taking(*given, **more)
        made.world = world
        return made

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(backup, "_Taking", taking))
        if places:
            for place in places:
                place.store.probe()
            stack.enter_context(mock.patch.object(backup, "open_places", return_value=(list(places), [])))
        return backup.take(world.build, world.cluster, Hosts(world), scheduled, only, wait)


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Given files by name, return a tar of them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def opened(place: Place, backup_id: str, name: str, key: Secret) -> bytes:
    """Given a place, a backup's id, a part's name and a private key, return what was sealed."""
    found: list[bytes] = []
    bundle.unseal(place.store.read(place.part(backup_id, name)), [key], ".gz." in name, found.append)
    return b"".join(found)


@contextlib.contextmanager
def etcd_running() -> Iterator[etcd.Etcd]:
    """Run an empty etcd until the block ends."""
    with tempfile.TemporaryDirectory() as folder, etcd.running(Path(folder)) as running:
        yield running


def faults(world: World, place: Place, each: backups.Backup, key: Secret | None = None) -> list[Problem]:
    """Given a backup of a store, return what backup_verify finds wrong with it, with the cluster's key or another."""
    verifying = backup_verify.Verifying(world.build, [key or world.key], [])
    verifying.check(place, each)
    return [*verifying.problems, *verifying.other_key]

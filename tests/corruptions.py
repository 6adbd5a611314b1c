"""The sweep of corruptions: a store's newest backup is spoilt in one way a round, and that has to be noticed.

    .venv/bin/python tests/corruptions.py --rounds 10000 --seed 0 --record

writes docs/corruptions.md. In each round: what is told without any key, what `backup_verify` says with the key, that
the next older backup is the newest good one once that is written down, that listing never fails, and that nothing of
any other backup was touched. Then stores that lie while a backup is being made: nothing may be committed.

A liar here has whatever is not the private key: he can write to the store, seals to the public recipient, and makes
hashes fit; where it says "of the maker's", he also knows all that was sealed, as who made the backup does.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

import bundles
import etcd
from i12e import age, backup_list, backups, bundle, snapshots, verify
from i12e.backups import Place
from i12e.bundle import Abandoned, Manifest
from i12e.damaged import Damaged
from i12e.errors import UserError
from i12e.folders import Folder
from i12e.secrets import Secret
from i12e.stores import Missing, StoreError
from memorystore import Memory

RECORD = Path(__file__).resolve().parent.parent / "docs/corruptions.md"
CLUSTER, OTHER = "example", "other"

Changes = dict[str, bytes | None]
"""By path below the store what is there now; None: it is gone."""


@dataclass
class Ground:
    """A store's folder with backups of two clusters, as it was before anything was spoilt."""

    root: Path
    world: bundles.World
    ids: list[str]
    """The cluster's backups, the newest last."""
    other: str
    """The other cluster's newest backup, and"""
    others: bundles.World
    """that cluster."""
    base: dict[str, bytes] = field(default_factory=dict)
    """By path all files."""
    plain: dict[str, bytes] = field(default_factory=dict)
    """By part what was sealed in the newest one."""
    databases: dict[str, bytes] = field(default_factory=dict)
    """By name other databases of the same kind: of an older backup, of the other cluster."""

    @property
    def place(self) -> Place:
        """The cluster's folder in the store."""
        return Place(Folder("folder", self.root), CLUSTER)

    def path(self, name: str, backup: str = "") -> str:
        """Given a file of a backup (the newest one), return its path below the store."""
        return self.place.part(backup or self.ids[-1], name)

    def names(self) -> list[str]:
        """Return the names of the newest backup's files."""
        start = self.path("")
        return [path.removeprefix(start) for path in self.base if path.startswith(start)]

    def content(self, name: str, backup: str = "") -> bytes:
        """Given a file of a backup (the newest one), return its content."""
        return self.base[self.path(name, backup)]

    def there(self) -> dict[str, bytes]:
        """Return all files of the store, but for those that are its own."""
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}

    def apply(self, changes: Mapping[str, bytes | None]) -> None:
        """Given changes, make them; no store's protocol is asked."""
        for path, content in changes.items():
            place = self.root / path
            if content is None:
                place.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    place.parent.rmdir()
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)


def ground(folder: Path, running: etcd.Etcd | None, count: int = 700) -> Ground:
    """Given an empty folder, return a ground in it.

    `running`: an empty etcd, which the newest backup is then of, and an older one of SQLite; else all are of SQLite.
    """
    world = bundles.world(folder / "world", CLUSTER, None, count)
    others = bundles.world(folder / "other", OTHER, None, count)
    made = Ground(folder / "store", world, [], "", others)
    elsewhere = Place(Folder("folder", made.root), OTHER)
    made.ids.append(bundles.make(world, made.place))
    older = world.taken
    if running:
        pairs = bundles.objects(world.uid, world.token, world.encryption, count, random.Random(1))  # noqa: S311
        world.datastore = bundles.Etcd(running, pairs)
    made.ids += [bundles.make(world, made.place) for _ in range(2)]
    second = bundles.opened(made.place, made.ids[1], bundle.DATABASE, world.key)
    made.other = bundles.make(others, elsewhere)
    made.base = made.there()
    for name in made.names():
        if name != bundle.MANIFEST:
            made.plain[name] = bundles.opened(made.place, made.ids[-1], name, world.key)
    made.databases = {
        "an older one's database": second,
        "a database of before the move": older,
        "the other cluster's database": bundles.opened(elsewhere, made.other, bundle.DATABASE, others.key),
    }
    return made


# --- what is done to it


@dataclass
class Liar:
    """A backup, taken apart: it is changed and put together again so that all hashes fit."""

    path: Callable[[str], str]
    """Given one of its files, says its path below the store."""
    recipients: tuple[str, str]
    """Who it is sealed to: its maker, and its own key."""
    document: dict[str, Any]
    """The manifest."""
    index: dict[str, Any]
    plain: dict[str, bytes]
    changed: set[str] = field(default_factory=set)
    """Parts that are to be sealed anew."""

    def put(self, name: str, plain: bytes) -> None:
        """Given a part's name and a content, seal that in place of what was there; all is told as it is then."""
        self.plain[name] = plain
        self.changed.add(name)
        self.index["plain"][name] = {"size": len(plain), "sha256": hashlib.sha256(plain).hexdigest()}

    def written(self, vouched: bool) -> Changes:
        """Return the changes; `vouched`: the index vouches for the manifest as it is then: the maker's lie."""
        made: Changes = {}
        for name in sorted(self.changed):
            found: list[bytes] = []
            bundle.seal([self.plain[name]], self.recipients, ".gz." in name, found.append)
            made[self.path(name)] = content = b"".join(found)
            self._list(name, content)
        self.document.pop("sha256", None)
        if vouched:
            with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
                manifest = bundle._made(Manifest, self.document)
                self.index["manifests"] = [manifest.essence]
        if vouched or self.changed:
            content = age.seal_small(json.dumps(self.index, indent=2).encode(), self.recipients)
            made[self.path(bundle.INDEX)] = content
            self._list(bundle.INDEX, content)
        made[self.path(bundle.MANIFEST)] = hashed(self.document)
        return made

    def _list(self, name: str, content: bytes) -> None:
        for part in self.document["parts"]:
            if part["name"] == name:
                part |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                if name != bundle.INDEX:
                    self.index["sealed"][name] = part["sha256"]


def hashed(document: Mapping[str, Any]) -> bytes:
    """Given a manifest's document, return it with the hash that it then has."""
    return bundle._written({key: value for key, value in document.items() if key != "sha256"})


def liar(at: Ground) -> Liar:
    """Given a ground, return its newest backup taken apart."""
    return _apart(at.path, at.world.cluster.backup.recipients[0], at.content(bundle.MANIFEST), dict(at.plain))


def taken_apart(place: Place, backup: str, key: Secret) -> Liar:
    """Given a backup of a store and the private key of its maker, return it taken apart."""
    document, _ = place.store.get(place.part(backup, bundle.MANIFEST))
    names = [part["name"] for part in json.loads(document)["parts"]]
    plain = {name: bundles.opened(place, backup, name, key) for name in names}
    return _apart(lambda name: place.part(backup, name), age.recipient_of(key), document, plain)


def _apart(path: Callable[[str], str], recipient: str, document: bytes, plain: dict[str, bytes]) -> Liar:
    recipients = (recipient, age.recipient_of(Secret(plain[bundle.KEY].decode().strip())))
    return Liar(path, recipients, json.loads(document), json.loads(plain[bundle.INDEX]), plain)


Kind = Callable[[Ground, random.Random], Changes]
KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    """Given what is done, register the function that does it."""

    def register(function: Kind) -> Kind:
        KINDS[name] = function
        return function

    return register


def _any(at: Ground, chance: random.Random) -> tuple[str, bytes]:
    name = chance.choice(at.names())
    return at.path(name), at.content(name)


@kind("one bit flipped")
def _flip(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    return {path: flipped(content, chance)}


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Given a content, return it with one bit changed."""
    spoilt = bytearray(content)
    spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


@kind("cut at the end")
def _cut(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    return {path: content[: -chance.choice((1, 2, 16, chance.randrange(1, len(content))))]}


@kind("bytes taken out")
def _taken_out(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    start = chance.randrange(len(content))
    return {path: content[:start] + content[start + chance.randrange(1, 5000) :]}


@kind("bytes added at the end")
def _appended(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    more = chance.choice((b"\n", b"\0", bytes(512), chance.randbytes(chance.randrange(1, 300)), content))
    return {path: content + more}


@kind("bytes put in")
def _put_in(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    start = chance.randrange(len(content))
    return {path: content[:start] + chance.randbytes(chance.randrange(1, 300)) + content[start:]}


@kind("a block of zeros")
def _zeroed(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    size = chance.choice((16, 512, 4096))
    start = chance.randrange(len(content)) // size * size
    piece = content[start : start + size]
    return {path: content[:start] + bytes(len(piece)) + content[start + len(piece) :]}


@kind("two blocks of a file exchanged")
def _blocks_swapped(at: Ground, chance: random.Random) -> Changes:
    path, content = _any(at, chance)
    size = min(chance.choice((16, 512, 65536 + 16)), len(content) // 2)
    first = chance.randrange(len(content) - 2 * size + 1)
    second = chance.randrange(first + size, len(content) - size + 1)
    one, two = content[first : first + size], content[second : second + size]
    return {path: content[:first] + two + content[first + size : second] + one + content[second + size :]}


@kind("truncated to nothing")
def _emptied(at: Ground, chance: random.Random) -> Changes:
    return {_any(at, chance)[0]: b""}


@kind("a file removed")
def _removed(at: Ground, chance: random.Random) -> Changes:
    return {_any(at, chance)[0]: None}


@kind("two files exchanged")
def _swapped(at: Ground, chance: random.Random) -> Changes:
    one, two = chance.sample(at.names(), 2)
    return {at.path(one): at.content(two), at.path(two): at.content(one)}


@kind("a file under one more name")
def _duplicated(at: Ground, chance: random.Random) -> Changes:
    name = chance.choice(at.names())
    more = chance.choice((f"path-agent-1-{chance.randrange(9)}.tar.gz.age", f"{name}.bak", f"old/{name}", "x.age"))
    return {at.path(more): at.content(name)}


@kind("a file of an older backup")
def _of_older(at: Ground, chance: random.Random) -> Changes:
    name = chance.choice(at.names())
    return {at.path(name): at.content(name, chance.choice(at.ids[:-1]))}


@kind("a file of another cluster's backup")
def _of_other(at: Ground, chance: random.Random) -> Changes:
    name = chance.choice(at.names())
    return {at.path(name): at.base[f"{OTHER}/backups/{at.other}/{name}"]}


@kind("all files of an older backup")
def _all_of_older(at: Ground, chance: random.Random) -> Changes:
    which = chance.choice(at.ids[:-1])
    return {at.path(name): at.content(name, which) for name in at.names()}


@kind("all files of another cluster's backup")
def _all_of_other(at: Ground, chance: random.Random) -> Changes:
    return {at.path(name): at.base[f"{OTHER}/backups/{at.other}/{name}"] for name in at.names()}


@kind("the manifest of another version, or a tombstone")
def _version(at: Ground, chance: random.Random) -> Changes:
    document = json.loads(at.content(bundle.MANIFEST))
    if chance.random() < 0.3:
        stone = Abandoned(at.ids[-1], "somebody", document["at"], document["number"] + chance.randrange(2))
        return {at.path(bundle.MANIFEST): stone.content()}
    document["version"] = chance.choice((0, 2, "1", 1.0, None, True))
    return {at.path(bundle.MANIFEST): hashed(document)}


@kind("the manifest written otherwise, with its hash")
def _otherwise(at: Ground, chance: random.Random) -> Changes:
    document = json.loads(at.content(bundle.MANIFEST))
    document.pop("sha256")
    how = chance.randrange(4)
    if how == 0:
        document = dict(chance.sample(sorted(document.items()), len(document)))
    elif how == 1:
        document["more"] = chance.randrange(100)
    elif how == 2:
        del document[chance.choice(sorted(document))]
    body = json.dumps({**document, "sha256": ""}, indent=2 if how < 3 else 3).encode() + b"\n"
    told = hashlib.sha256(re.sub(rb'(?m)^  "sha256": .*\n', b"", body)).hexdigest()
    return {at.path(bundle.MANIFEST): body.replace(b'"sha256": ""', f'"sha256": "{told}"'.encode())}


def _edited(document: dict[str, Any], chance: random.Random) -> None:
    """Change one thing that a manifest says."""
    name = chance.choice([each for each in document if each not in ("format", "version", "seconds", "sha256")])
    value = document[name]
    if name == "parts":
        part = chance.choice(value)
        what = chance.choice(("sha256", "size", "what", "host", "path", "consistency", "gone", "order"))
        if what == "gone":
            value.remove(part)
        elif what == "order":
            value.reverse()
        else:
            part[what] = hashlib.sha256(b"x").hexdigest() if what == "sha256" else _another(part[what], chance)
    elif name == "objects" and chance.random() < 0.7:
        which = chance.choice(sorted(value))
        value[which] += chance.choice((-1, 1))
    elif name == "recipients" and chance.random() < 0.5:
        document[name] = [age.make()[1]]
    else:
        document[name] = _another(value, chance)


def _another(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.1:  # not even of its kind
        others: list[Any] = [None, [], {}, 5, "text", True, 10**400, [5]]
        return chance.choice([each for each in others if each != value])
    if isinstance(value, dict):
        return {**value, f"more-{chance.randrange(9)}": 1}
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, str):
        return value[1:] if value and chance.random() < 0.5 else f"{value}0"
    return value + chance.choice((-1, 1, 1000))


@kind("the manifest edited, with its hash")
def _manifest_lies(at: Ground, chance: random.Random) -> Changes:
    lie = liar(at)
    _edited(lie.document, chance)
    return lie.written(vouched=False)


@kind("a part sealed anew with other content")
def _part_lies(at: Ground, chance: random.Random) -> Changes:
    """The liar does not know the index, and leaves it."""
    lie = liar(at)
    name = chance.choice([each for each in at.plain if each != bundle.INDEX])
    content = at.plain[name]
    found: list[bytes] = []
    recipients = [at.world.cluster.backup.recipients[0]]
    bundle.seal([chance.choice((content, flipped(content, chance), b""))], recipients, ".gz." in name, found.append)
    sealed = b"".join(found)
    lie._list(name, sealed)
    return {at.path(name): sealed, at.path(bundle.MANIFEST): hashed(lie.document)}


@kind("an index of the liar's own")
def _index_lies(at: Ground, chance: random.Random) -> Changes:
    lie = liar(at)
    made = lie.index
    name = chance.choice(("id", "cluster", "uid", "token", "sentinel", "plain", "sealed", "manifests", "all", "key"))
    if name == "all":
        content = chance.choice((b"", b"{}", b"[]", chance.randbytes(300)))
    elif name == "key":  # it is what it was, and the backup's own key does not open it any more
        content = at.plain[bundle.INDEX]
    else:
        if name in ("plain", "sealed"):
            which = chance.choice(sorted(made[name]))
            made[name] = {**made[name], which: made[name][chance.choice(sorted(set(made[name]) - {which}))]}
        elif name == "sentinel":
            which = chance.choice(sorted(made[name]))
            made[name] = {**made[name], which: f"{made[name][which]}0"}
        else:
            made[name] = ["0" * 64] if name == "manifests" else f"{made[name]}0"
        content = json.dumps(made, indent=2).encode()
    own = [] if name == "key" else [lie.recipients[1]]
    sealed = age.seal_small(content, [at.world.cluster.backup.recipients[0], *own])
    lie._list(bundle.INDEX, sealed)
    return {at.path(bundle.INDEX): sealed, at.path(bundle.MANIFEST): hashed(lie.document)}


@kind("another key in key.age, of the maker's")
def _key_lies(at: Ground, chance: random.Random) -> Changes:
    lie = liar(at)
    plain = chance.choice((age.make()[0].reveal().encode() + b"\n", b"", b"no key", chance.randbytes(74)))
    sealed = age.seal_small(plain, [at.world.cluster.backup.recipients[0]])
    lie._list(bundle.KEY, sealed)
    return {**lie.written(vouched=True), at.path(bundle.KEY): sealed}


@kind("another token among the hosts' files, of the maker's")
def _token_lies(at: Ground, chance: random.Random) -> Changes:
    lie = liar(at)
    how = chance.randrange(4)
    files = {name: dict(found) for name, found in at.world.files.items()}
    tokens_of = [name for name in files["server-1"] if "token" in name]
    for name in tokens_of:
        if how == 0:
            del files["server-1"][name]
        else:
            text = files["server-1"][name]
            files["server-1"][name] = at.others.token.reveal().encode() if how == 1 else text.strip() + b"0\n"
    made = {f"{host}/{name}": content for host, found in files.items() for name, content in found.items()}
    content = bundles.tar_of(made)
    if how == 3:
        content = chance.choice((b"", chance.randbytes(5000), content[: len(content) // 3]))
    lie.put(bundle.HOSTS, content)
    return lie.written(vouched=True)


@kind("another database, of the maker's")
def _database_lies(at: Ground, chance: random.Random) -> Changes:
    """The counts and the revision that the manifest tells are those of the other database, where it can be read."""
    lie = liar(at)
    name = chance.choice((*at.databases, "cut", "an object less", "flipped"))
    content = at.plain[bundle.DATABASE]
    if name in at.databases:
        content = at.databases[name]
    elif name == "cut":
        content = content[: chance.randrange(len(content))]
    elif name == "an object less" and at.world.datastore.kind == bundle.SQLITE:
        content = without_an_object(content, chance)
        lie.put(bundle.DATABASE, content)
        return lie.written(vouched=True)
    else:
        content = flipped(content, chance) if at.world.datastore.kind == bundle.ETCD else chance.randbytes(9000)
    lie.put(bundle.DATABASE, content)
    with contextlib.suppress(Damaged), snapshots.Receiving(at.world.datastore.kind) as receiving:
        receiving.file.write(content)
        snapshot = receiving.opened()
        lie.document |= {"objects": dict(sorted(snapshot.counts().items())), "revision": snapshot.revision()}
    return lie.written(vouched=True)


def without_an_object(content: bytes, chance: random.Random) -> bytes:
    """Given kine's database, return it with one live object less; SQLite finds nothing wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        path.write_bytes(content)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT name FROM kine WHERE name LIKE '/registry/pods/%' ORDER BY id").fetchall()
            connection.execute("DELETE FROM kine WHERE name = ?", chance.choice(rows))
            connection.commit()
        return path.read_bytes()


@kind("counts and identity told otherwise, of the maker's")
def _counts_lie(at: Ground, chance: random.Random) -> Changes:
    """Manifest and index agree; the database does not."""
    lie = liar(at)
    what = chance.choice(("objects", "revision", "uid", "token", "sentinel", "datastore"))
    if what == "objects":
        which = chance.choice(sorted(lie.document["objects"]))
        lie.document["objects"][which] += chance.choice((-1, 1))
    elif what == "revision":
        lie.document["revision"] += chance.choice((-1, 1))
    elif what == "sentinel":
        which = chance.choice(sorted(lie.index["sentinel"]))
        lie.index["sentinel"][which] += chance.choice(("0", "\ud800"))
    elif what == "datastore":
        lie.document["datastore"] = bundle.ETCD if lie.document["datastore"] == bundle.SQLITE else bundle.SQLITE
    else:
        value = at.others.uid if what == "uid" else hashlib.sha256(b"x").hexdigest()[:12]
        lie.document[what] = lie.index[what] = value
    return lie.written(vouched=True)


@kind("something that is no part")
def _strange(at: Ground, chance: random.Random) -> Changes:
    """Beside the good backup: names and files that nobody wrote."""
    newest = at.ids[-1]
    path = chance.choice(
        (
            f"{CLUSTER}/backups/{newest}/readme",
            f"{CLUSTER}/backups/{newest}/{'x' * 100}.age",
            f"{CLUSTER}/backups/{newest}/manifest.json.new",
            f"{CLUSTER}/backups/{newest}/sub/manifest.json",
        )
    )
    return {path: chance.choice((b"", b"{}", chance.randbytes(300)))}


# --- a round


@dataclass
class Tally:
    """What became of the rounds of one kind."""

    rounds: int = 0
    listing: int = 0
    """Noticed by the listing alone, which reads manifests, names and sizes."""
    sealed: int = 0
    """Noticed without the key, by reading all files."""
    key: int = 0
    """Noticed with the key."""
    wrong: list[str] = field(default_factory=list)


def spoil(at: Ground, name: str, chance: random.Random) -> Changes:
    """Given a ground and a kind, return changes that change something."""
    while True:
        changes = {path: new for path, new in KINDS[name](at, chance).items() if at.base.get(path) != new}
        if changes:
            return changes


def round_of(at: Ground, name: str, changes: Changes, tally: Tally) -> None:
    """Given changes to the newest backup, make them, look who notices, and undo them; the tally takes it down."""
    tally.rounds += 1
    at.apply(changes)
    spoilt = {path: new for path, new in {**at.base, **changes}.items() if new is not None}
    wrong: list[str] = []
    newest, older = at.ids[-1], at.ids[-2]
    try:
        found = backups.survey(at.place)
        first = backups.newest(found)
        each = next((one for one in found if one.id == newest), None)
        told = first is not None and first.id == older
        tally.listing += told
        tally.sealed += _noticed_sealed(at, newest)
        if each is None:
            tally.key += 1  # nothing is left of it
        else:
            with _quiet():
                problems = bundles.faults(at.world, at.place, each)
            tally.key += bool(problems)
            wrong += [] if problems else ["backup_verify finds nothing wrong"]
        after = backups.survey(at.place)
        last = backups.newest(after)
        if last is None or last.id != older:
            wrong.append(f"the newest good one is {last.id if last else 'none'} then, not the next older one")
        shelf = backup_list.Shelf("folder", str(at.root), tuple(after), backups.age(after, None, time.time()))
        list(backup_list.lines(at.world.cluster, [shelf]))
        json.dumps(backup_list.as_json(shelf), allow_nan=False)
        elsewhere = backups.newest(backups.survey(Place(Folder("folder", at.root), OTHER)))
        if elsewhere is None or elsewhere.id != at.other:
            wrong.append("the other cluster's newest good one is another now")
    except Exception as error:  # noqa: BLE001  # any of them is what this looks for
        wrong.append(f"{type(error).__name__}: {error}")
    marks = f"{CLUSTER}/marks/{newest}/{backups.VERIFIED}.json"
    now = at.there()
    if {path: content for path, content in now.items() if path != marks} != spoilt:
        wrong.append("other files were changed")
    tally.wrong += [f"{name}: {text} ({', '.join(changes)})" for text in wrong]
    at.apply({marks: None, **{path: at.base.get(path) for path in changes}})
    if wrong or tally.rounds % 50 == 0:
        assert at.there() == at.base


def _noticed_sealed(at: Ground, newest: str) -> bool:
    try:
        verify.check_sealed(at.place, newest)
    except (Damaged, Missing):
        return True
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open("/dev/null", "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def wrong_key(at: Ground, tally: Tally) -> None:
    """Verify the newest backup, which is good, with a key that is not its own: told, and nothing is held against it."""
    tally.rounds += 1
    each = backups.survey(at.place)[0]
    with _quiet():
        problems = bundles.faults(at.world, at.place, each, age.make()[0])
    tally.key += bool(problems)
    last = backups.newest(backups.survey(at.place))
    if not problems or last is None or last.id != at.ids[-1] or at.there() != at.base:
        tally.wrong.append("wrong key: it was taken, or held against the backup")


def sweep(grounds: Iterable[Ground], rounds: int, seed: int) -> dict[str, Tally]:
    """Given grounds, a number of rounds in all and a seed, return what became of them, by kind."""
    chance = random.Random(seed)  # noqa: S311  # to be repeated
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    places = list(grounds)
    names = [*KINDS, "wrong key"]
    for number in range(rounds):
        at, name = places[number % len(places)], names[number // len(places) % len(names)]
        if name == "wrong key":
            wrong_key(at, tallies[name])
        else:
            round_of(at, name, spoil(at, name, chance), tallies[name])
    return dict(tallies)


# --- stores that lie while a backup is made


class Lying(Memory):
    """A store in memory that does something else than it says with one file of a backup."""

    lie: str = ""
    about: str = ""
    """The file's name."""
    seed: int = 0
    done: int = 0
    """How often it lied."""

    def begin(self, lie: str, about: str, seed: int) -> None:
        """Lie from now on, about what is put from now on."""
        self.lie, self.about, self.seed = lie, about, seed
        good = set(self._objects)
        chance = random.Random(seed)  # noqa: S311

        def later(operation: str, key: str) -> None:
            if self.done or operation not in ("read", "create") or "/backups/" not in key:
                return
            mine = [path for path in self._objects if "/backups/" in path and path not in good]
            if lie == "exchanges two files" and len(mine) > 1:
                one, two = chance.sample(mine, 2)
                self._objects[one], self._objects[two] = self._objects[two], self._objects[one]
                self.done += 1
            if lie == "loses a file later" and mine and (operation == "create") == (about == bundle.MANIFEST):
                del self._objects[chance.choice(mine)]
                self.done += 1

        def forget(operation: str, key: str) -> None:
            if key.endswith(about):
                self.forgets = True
                self.done += 1

        self.before = forget if lie == "keeps nothing" else later

    def end(self) -> None:
        """Lie no more."""
        self.lie, self.forgets, self.before = "", False, lambda operation, key: None

    def _keep(self, key: str, content: bytes) -> str:
        return super()._keep(key, self._told(key, content))

    def _told(self, key: str, content: bytes) -> bytes:
        if not self._is_about(key):
            return content
        chance = random.Random(self.seed)  # noqa: S311
        old = next((text for path, text in self._older(key)), b"")
        made = {
            "flips a bit": lambda: flipped(content, chance),
            "loses the end": lambda: content[: -chance.randrange(1, len(content) + 1)],
            "adds something": lambda: content + chance.randbytes(9),
            "keeps what was there before": lambda: old,
            "keeps zeros": lambda: bytes(len(content)),
        }.get(self.lie)
        if made is None:
            return content
        self.done += 1
        return made()

    def _found(self, key: str) -> Any:
        found = super()._found(key)
        if self.lie == "reads what was there before" and self._is_about(key):
            self.done += 1
            _, old = next(self._older(key))
            return dataclasses.replace(found, content=old)
        return found

    def _is_about(self, key: str) -> bool:
        return "/backups/" in key and key.rpartition("/")[2] == self.about

    def _older(self, key: str) -> Iterator[tuple[str, bytes]]:
        name = key.rpartition("/")[2]
        return ((path, one.content) for path, one in list(self._objects.items()) if path.endswith(f"/{name}"))


LIES = (
    "flips a bit",
    "loses the end",
    "adds something",
    "keeps what was there before",
    "keeps zeros",
    "reads what was there before",
    "exchanges two files",
    "keeps nothing",
    "loses a file later",
)
FILES = (bundle.DATABASE, bundle.CLUSTER, bundle.HOSTS, bundle.KEY, bundle.INDEX, bundle.MANIFEST)


def lying_run(world: bundles.World, good: Mapping[str, bytes], lie: str, about: str, seed: int) -> list[str]:
    """Given a cluster, what a store has and how it lies about which file, make a backup; return what was wrong."""
    store = Lying()
    for key, content in good.items():
        Memory._keep(store, key, content)
    place = Place(store, CLUSTER)
    before = backups.newest(backups.survey(place))
    assert before is not None
    store.begin(lie, about, seed)
    wrong = []
    try:
        with _quiet():
            wrong.append(f"made {bundles.make(world, place)}")
    except (UserError, StoreError):
        pass
    store.end()
    found = backups.survey(place)
    last = backups.newest(found)
    if not store.done:
        wrong.append("it did not lie")
    if last is None or last.id != before.id or sum(one.is_good for one in found) != 1:
        wrong.append(f"the newest good one is {last}")
    there = store.contents()
    if any(there.get(key) != content for key, content in good.items() if "/backups/" in key):
        wrong.append("the older backup was touched")
    return [f"{lie}, {about}: {text}" for text in wrong]


def lying_sweep(world: bundles.World, rounds: int, seed: int) -> tuple[dict[str, int], list[str]]:
    """Given a cluster, a number of rounds and a seed, return how often each lie was told, and what was wrong."""
    good = Memory()
    with _quiet():
        bundles.make(world, Place(good, CLUSTER))
    counted: dict[str, int] = collections.Counter()
    wrong: list[str] = []
    for number in range(rounds):
        lie, about = LIES[number % len(LIES)], FILES[number // len(LIES) % len(FILES)]
        wrong += lying_run(world, good.contents(), lie, about, seed + number)
        counted[lie] += 1
    return dict(counted), wrong


# --- the record

_HEAD = """\
# Corruptions

What becomes of a store whose newest backup was spoilt, tried with a folder that has three backups of a cluster, of
SQLite and of etcd, and one of another cluster. Written by
`.venv/bin/python tests/corruptions.py --rounds {rounds} --seed {seed} --record`; the tests try a sample of it.
**{total} corruptions, {missed} of them unnoticed; {lied} backups made into stores that lie, {committed} committed.**

In each round the newest backup is spoilt in one way. Demanded: `backup_verify` with the key says so (exit status 1)
and writes it down; the next older backup is the newest good one then, for `backup_list`, `status`, restore and the
retention; listing and showing never fail; not a byte of another backup, of another cluster or of the lease changes.
The columns tell who notices it: the listing alone, which reads manifests and compares names and sizes;
`backup_verify --sealed`, which reads all files and needs no key; `backup_verify` with the key.

A liar has all but the private key: he can write to the store, seals to the public recipient and makes the hashes fit.
"Of the maker's": he also knows what was sealed, as the machine does that makes backups, and has index and manifest
agree. What nobody can notice, as no one signs a backup: a whole backup that such a machine makes of a whole database
of the same cluster, with its sentinel; and the time that a manifest says it took (`seconds`), if the hash is made to
fit. Nor that the newest backup was removed whole: only its age tells then, in `backup_list`, `status` and the alarms.
The wrong key is told, and nothing is written down: that says nothing of the backup.

| what was done | rounds | by the listing | without the key | with the key | unnoticed |
|---|---|---|---|---|---|
"""

_LIES = """
## Stores that lie while a backup is made

A store says that it took a file, and did something else with it. The backup is read back before it counts, so
demanded is: nothing is committed, the task fails, the backup that was there before is the newest good one.

| the store | backups | committed |
|---|---|---|
"""


def record(tallies: Mapping[str, Tally], lies: Mapping[str, int], wrong: list[str], rounds: int, seed: int) -> str:
    """Given what became of all rounds, return the record."""
    total = sum(tally.rounds for tally in tallies.values())
    missed = sum(tally.rounds - tally.key for tally in tallies.values())
    head = _HEAD.format(
        rounds=rounds, seed=seed, total=total, missed=missed, lied=sum(lies.values()), committed=len(wrong)
    )
    rows = [
        f"| {name} | {one.rounds} | {one.listing} | {one.sealed} | {one.key} | {one.rounds - one.key} |\n"
        for name, one in tallies.items()
    ]
    faults = [text for tally in tallies.values() for text in tally.wrong] + wrong
    said = [f"| {lie} | {count} | {sum(text.startswith(lie) for text in wrong)} |\n" for lie, count in lies.items()]
    end = "".join(f"- {text}\n" for text in faults)
    return head + "".join(rows) + _LIES + "".join(said) + (f"\n## Wrong\n\n{end}" if end else "")


@contextlib.contextmanager
def grounds(with_etcd: bool = True) -> Iterator[list[Ground]]:
    """Give the grounds, one whose newest backup is SQLite's and one whose is etcd's, until the block ends."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(_quiet())
        made = [ground(Path(folder, "sqlite"), None)]
        if with_etcd:
            made.append(ground(Path(folder, "etcd"), stack.enter_context(bundles.etcd_running())))
        yield made


def main() -> None:
    """Run the sweep as the command line says."""
    parser = argparse.ArgumentParser(description="spoil backups, and see that it is noticed")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--made", type=int, default=540, help="backups into stores that lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write docs/corruptions.md")
    given = parser.parse_args()
    with grounds() as places:
        tallies = sweep(places, given.rounds, given.seed)
        lies, wrong = lying_sweep(places[0].world, given.made, given.seed)
    text = record(tallies, lies, wrong, given.rounds, given.seed)
    if given.record:
        RECORD.write_text(text)
    print(text)
    sys.exit(bool(wrong or any(tally.wrong or tally.rounds != tally.key for tally in tallies.values())))


if __name__ == "__main__":
    main()

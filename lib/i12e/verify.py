"""A backup out of a store, read whole: every part as it was stored, opened with the key, and a database that restores.

It is what `backup_verify` does, and what restore and drill do before they touch anything.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from i12e import age, backups, bundle, collect, database, snapshots, spread, tokens
from i12e.backups import Place
from i12e.bundle import Abandoned, Index, Manifest, Part, Sums
from i12e.damaged import Damaged
from i12e.secrets import Secret

_TOKEN = "var/lib/rancher/k3s/server/token"  # noqa: S105  # where it is
_LONGEST = 1 << 20  # bytes of a file that is read out of a tar
_ENDS = 100  # times that the end of a stream may be met
_SMALL = 8 << 20  # bytes of what is held in memory

Progress = Callable[[int, int | None], None]


class OtherKey(Exception):
    """The keys are others than those that a backup is sealed to: that says nothing of the backup."""

    def __init__(self, manifest: Manifest) -> None:
        self.why = f"is sealed to {', '.join(manifest.recipients)}, and the key here is another one"
        super().__init__(self.why)


@dataclass(frozen=True)
class Checked:
    """What a backup was found to be."""

    manifest: Manifest
    index: Index
    token: Secret
    """The server token that the database opens with."""


def check_sealed(place: Place, backup: str, progress: Progress = lambda done, size: None) -> Manifest:
    """Given a backup's id, read its sealed parts and compare them with its manifest; return that.

    No key is needed. Raise Damaged, or StoreError if the store does not give it.
    """
    manifest = _manifest(place, backup)
    done = 0
    for part in manifest.parts:
        summing = bundle.Summing()
        for block in place.store.read(place.part(backup, part.name)):
            summing.add(block)
            progress(done + summing.size, manifest.size)
        done += part.size
        _compare(part, summing.sums())
    return manifest


@dataclass(frozen=True)
class Opened(Checked):
    """A backup that was checked whole, with its database at hand."""

    key: Secret
    """The backup's own: it opens this one alone."""
    reading: Reading
    """For its other parts, with that key."""
    database: IO[bytes]
    """As k3s restores it: a snapshot of etcd's, or a SQLite file that needs no log; it has no name."""
    snapshot: snapshots.Snapshot
    """What is in the database."""

    def k3s_settings(self) -> dict[str, dict[str, str]]:
        """Return, of each host that has a config of k3s in the backup, its settings of one line each."""
        place = f"/{collect.K3S_CONFIG}"
        said = self.reading.files(bundle.HOSTS, self.index, lambda name: name.endswith(place))
        return {name.removesuffix(place): collect.k3s_settings(text.decode(errors="replace")) for name, text in said}


def check(
    place: Place,
    backup: str,
    keys: Sequence[Secret],
    folder: Path,
    progress: Progress = lambda done, size: None,
    known: Sequence[Secret] = (),
) -> Checked:
    """Given what opened() takes, read and check all of a backup; raise what that raises."""
    with opened(place, backup, keys, folder, progress, known) as found:
        return found


@contextmanager
def opened(
    place: Place,
    backup: str,
    keys: Sequence[Secret],
    folder: Path,
    progress: Progress = lambda done, size: None,
    known: Sequence[Secret] = (),
) -> Iterator[Opened]:
    """Given a backup's id, the keys that open it and a folder for files without names, read and check all of it.

    Give it with its database, which is there until the block ends. `known`: server tokens of the cluster, as its
    operator has them: a manifest names a token by 12 digits, which somebody else's token can be made to have too.

    Raise Damaged, OtherKey if none of the keys is one of its own, or StoreError if the store does not give it.
    """
    manifest = _manifest(place, backup)
    reading = Reading(place, manifest, keys, progress)
    try:
        index = reading.index()
    except Damaged:
        # The manifest may lie about who opens it; only if none of the keys does, it is asked whether one should.
        if {age.recipient_of(key) for key in keys} & {*manifest.recipients}:
            raise
        raise OtherKey(manifest) from None
    bundle.agree(manifest, index)
    key = Secret(reading.small(bundle.KEY).decode(errors="replace").strip())
    if not age.recipient_of(key):
        raise Damaged(f"{bundle.KEY} holds no key")
    own = Reading(place, manifest, [key])
    own.index()  # what it is for: it opens the parts too
    token = _token(reading, index, known)
    with _database(reading, index, token, folder) as (file, snapshot):
        yield Opened(manifest, index, token, key, own, file, snapshot)


def _token(reading: Reading, index: Index, known: Sequence[Secret]) -> Secret:
    """Read all tars, and return the server token that is among the hosts' files; raise Damaged."""
    manifest = reading.manifest
    found: list[Secret] = []
    for part in manifest.parts:
        if part.name in (bundle.INDEX, bundle.KEY, bundle.DATABASE):
            continue
        for _, content in reading.files(part.name, index, _is_token if part.name == bundle.HOSTS else _none):
            token = Secret(content.decode(errors="replace").strip())
            found += [token] if _hash(token) == manifest.token else []
    if not found:
        raise Damaged(f"the token {manifest.token}, without which its database opens to nobody, is not in it")
    for own in known:
        if _hash(own) == manifest.token and tokens.password(own) != tokens.password(found[0]):
            raise Damaged("its token is not the cluster's own, only named like it: somebody else made this backup")
    return found[0]


@contextmanager
def _database(
    reading: Reading, index: Index, token: Secret, folder: Path
) -> Iterator[tuple[IO[bytes], snapshots.Snapshot]]:
    """Given a backup that is read, its index and token, check its database with our own readers and give it.

    Raise Damaged.
    """
    manifest = reading.manifest
    kind: Literal["etcd", "sqlite"] = "etcd" if manifest.datastore == bundle.ETCD else "sqlite"
    with snapshots.Receiving(kind, folder) as receiving:
        reading.into(bundle.DATABASE, receiving.file, index)
        snapshot = receiving.opened()
        snapshot.check()
        try:
            sentinel = collect.Sentinel(**index.sentinel)
            uid, why = database.identity(snapshot, token, sentinel)
        except (TypeError, UnicodeError):
            raise Damaged("its index names no sentinel") from None
        except database.Failed as error:
            raise Damaged(error.why) from None
        if uid != manifest.uid:
            raise Damaged(f"its database is of another cluster: its kube-system is {uid or 'missing'}")
        if why:
            raise Damaged(why)
        if snapshot.counts() != dict(manifest.objects) or snapshot.revision() != manifest.revision:
            raise Damaged("its database has other objects than its manifest says")
        yield receiving.file, snapshot


class Reading:
    """The parts of a backup, as they come out of a store and are opened."""

    def __init__(
        self, place: Place, manifest: Manifest, keys: Sequence[Secret], progress: Progress = lambda done, size: None
    ) -> None:
        self.manifest = manifest
        self._place = place
        self._keys = keys
        self._progress = progress
        self._done = 0

    def index(self) -> Index:
        """Return its index; raise Damaged."""
        return bundle.read_index(self.small(bundle.INDEX))

    def small(self, name: str) -> bytes:
        """Given the name of a small part that is not compressed, return what was sealed; raise Damaged."""
        if self.manifest.part(name).size > _SMALL:
            raise Damaged(f"{name} is far too big")
        found: list[bytes] = []
        self._open(self.manifest.part(name), found.append)
        return b"".join(found)

    def into(self, name: str, file: IO[bytes], index: Index) -> None:
        """Given a part's name, an open file and the index, write there what was sealed; raise Damaged."""
        self._compare_plain(name, self._open(self.manifest.part(name), lambda block: _write(file, block)), index)

    def files(self, name: str, index: Index, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Given the name of a part that is a tar, read it to its end; yield the small files in it that are wanted.

        Raise Damaged if it is no tar, or not what was sealed.
        """
        sums: list[Sums] = []
        part = self.manifest.part(name)
        blocks = spread.pulled(lambda take: sums.append(self._open(part, take)))
        stream = io.BufferedReader(Stream(blocks), 1 << 16)  # type: ignore[type-var]  # a RawIOBase is what it wants
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for entry in tar:
                    if entry.isreg() and entry.size < _LONGEST and wanted(entry.name):
                        content = tar.extractfile(entry)
                        yield entry.name, content.read() if content else b""
            while stream.read(1 << 16):
                pass
        except tarfile.TarError as error:
            raise Damaged(f"{name} is no tar: {error}") from None
        self._compare_plain(name, sums[0], index)

    def _open(self, part: Part, take: Callable[[bytes], None]) -> Sums:
        source = self._told(self._place.store.read(self._place.part(self.manifest.id, part.name)))
        try:
            plain, sealed = bundle.unseal(source, self._keys, ".gz." in part.name, take)
        except Damaged as error:
            raise Damaged(f"{part.name}: {error.why}") from None
        _compare(part, sealed)
        return plain

    def _told(self, source: Iterable[bytes]) -> Iterator[bytes]:
        for block in source:
            self._done += len(block)
            self._progress(min(self._done, self.manifest.size), self.manifest.size)
            yield block

    def _compare_plain(self, name: str, found: Sums, index: Index) -> None:
        if index.plain.get(name) != found:
            raise Damaged(f"{name} does not hold what its index says")


class Stream(io.RawIOBase):
    """Blocks as a file that is read once; Damaged is raised where somebody goes on and on behind its end.

    tarfile does, for years, behind an entry that says that it is as large as all the disks of the world.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")
        self._left = _ENDS

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # what BufferedReader gives
        """Given a buffer, put the next bytes there; return how many, 0 at the end."""
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                self._left -= 1
                if self._left < 0:
                    raise Damaged("it ends in the middle of a file")
                return 0
            self._block = memoryview(block)
        taken = self._block[: len(buffer)]
        buffer[: len(taken)] = taken
        self._block = self._block[len(taken) :]
        return len(taken)


def _manifest(place: Place, backup: str) -> Manifest:
    manifest = backups.read_manifest(place, backup)
    if isinstance(manifest, Abandoned):
        raise Damaged("it is no backup: its writer lost the lease before it was whole")
    start = place.part(backup, "")
    there = {entry.key.removeprefix(start) for entry in place.store.list(start)}
    wanted = {part.name for part in manifest.parts} | {bundle.MANIFEST}
    if there != wanted:
        lacking, more = sorted(wanted - there), sorted(there - wanted)
        said = [
            f"{', '.join(lacking)} is missing" if lacking else "",
            f"{', '.join(more)} is none of its parts" if more else "",
        ]
        raise Damaged("; ".join(filter(None, said)))
    return manifest


def _compare(part: Part, found: Sums) -> None:
    if found != Sums(part.size, part.sha256):
        raise Damaged(f"{part.name} is not as it was stored")


def _none(name: str) -> bool:
    return False


def _is_token(name: str) -> bool:
    return name.endswith(f"/{_TOKEN}") or f"/{collect.TOKENS.strip('/')}/" in name


def _hash(token: Secret) -> str:
    try:
        return tokens.hash12(token)
    except tokens.NoToken:
        return ""


def _write(file: IO[bytes], block: bytes) -> None:
    file.write(block)

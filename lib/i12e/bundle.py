"""A backup as it lies in a store: sealed parts, and the manifest whose being there makes them one.

The format is docs/backup-format.md; the rules that are checked here are its invariants. A manifest that is not byte
for byte as it would be written is damaged: no bit of it may change without being noticed.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from i12e import age
from i12e.damaged import Damaged
from i12e.secrets import Secret

FORMAT, VERSION = "i12e backup", 1
MANIFEST = "manifest.json"
INDEX, KEY, DATABASE = "index.json.age", "key.age", "database.gz.age"
CLUSTER, HOSTS = "cluster.tar.gz.age", "hosts.tar.gz.age"
ETCD, SQLITE = "etcd", "sqlite"
CRASH, QUIESCED = "crash-consistent", "quiesced"

_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}\Z", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,120}\.age\Z", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_HASH_LINE = re.compile(rb'(?m)^  "sha256": .*\n')
_LATEST = 253402300799  # seconds since 1970: the last one that has a date of four digits
_MOST = 1 << 63
_BLOCK = 1 << 20  # bytes that are compressed at a time, each to a gzip member of its own
_TASTE = 1 << 11  # bytes at four places of a block that tell whether it can be compressed at all
_WORTH = 0.7  # of its size: what gets no smaller than that is not worth the time
_STORED = 0xFFFF  # bytes of a deflate block that is not compressed, at the most
_SIMPLE: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Sums:
    """What a stream was: its length in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A sealed file of a backup."""

    name: str
    size: int
    """Bytes, sealed."""
    sha256: str
    """Of the sealed file."""
    what: str
    """index, key, database, cluster, hosts, or path."""
    host: str = ""
    """Of a path: where it is."""
    path: str = ""
    consistency: str = ""
    """Of a path: crash-consistent, or quiesced where a command stopped the writers before."""


@dataclass(frozen=True)
class Manifest:
    """What a backup is, for everybody who may read the store: nothing in it is secret."""

    id: str
    cluster: str
    uid: str
    """Of the namespace kube-system: the cluster's identity."""
    at: int
    """When it was begun, in seconds since 1970, by the store's clock."""
    seconds: float
    """How long it took."""
    by: str
    """USER@HOST of the operator."""
    server: str
    """The server that the database is from."""
    i12e: str
    k3s: str
    datastore: str
    """etcd or sqlite."""
    method: str
    """How the database was taken: etcd-snapshot, sqlite-online or sqlite-stopped."""
    revision: int
    """Of the datastore."""
    token: str
    """The first 12 digits of the SHA-256 of the server token's password, as k3s itself names it."""
    number: int
    """The fencing number of the store's lease: of two backups in a store, the newer one has the higher number."""
    slot: str
    """The slot of the schedule that it fills, as its begin in UTC; empty for one that was made by hand."""
    recipients: tuple[str, ...]
    parts: tuple[Part, ...]
    objects: Mapping[str, int] = field(default_factory=dict)
    """Live objects by their prefix below /registry/."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """The digests of the configs that the hosts ran."""
    lacks: tuple[str, ...] = ()
    """What it should have had and has not."""

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def part(self, name: str) -> Part:
        """Given a part's name, return it; raise Damaged if there is none."""
        for each in self.parts:
            if each.name == name:
                return each
        raise Damaged(f"it has no part {name}")

    @property
    def essence(self) -> str:
        """The SHA-256 of what the index can vouch for: of all but how long it took, and the size and hash of itself."""
        parts = tuple(replace(part, size=0, sha256="") if part.name == INDEX else part for part in self.parts)
        return hashlib.sha256(replace(self, seconds=0.0, parts=parts).content()).hexdigest()

    def content(self) -> bytes:
        """Return it as it is stored."""
        return _written({"format": FORMAT, "version": VERSION, **_plain(self)})


@dataclass(frozen=True)
class Abandoned:
    """What lies in the place of a manifest whose writer lost the lease: it can be no backup any more."""

    id: str
    by: str
    at: int
    number: int

    def content(self) -> bytes:
        """Return it as it is stored."""
        return _written({"format": FORMAT, "version": VERSION, "abandoned": True, **_plain(self)})


@dataclass(frozen=True)
class Index:
    """What only the keys of a backup show: the proof that its parts belong together, and to what cluster."""

    id: str
    cluster: str
    uid: str
    token: str
    sentinel: Mapping[str, str]
    """The namespace, name, key and value of a Secret that was made for this backup alone, and that is in it."""
    plain: Mapping[str, Sums]
    """Of each part what was sealed, compressed parts before they were compressed."""
    sealed: Mapping[str, str]
    """Of each part the SHA-256 of the sealed file."""
    manifests: tuple[str, ...]
    """The essence of its manifests: each store's has a number of its own."""

    def content(self) -> bytes:
        """Return it as it is sealed."""
        return (json.dumps(_plain(self), indent=2) + "\n").encode()


def new_id(now: float) -> str:
    """Given the time in seconds since 1970, return the name of a new backup."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{secrets.token_hex(3)}"


def is_id(text: str) -> bool:
    """Given a text, tell whether it is a backup's name."""
    return _ID.match(text) is not None


def read_manifest(content: bytes, name: str) -> Manifest | Abandoned:
    """Given a manifest's bytes and the name of the backup in whose place it lies, return it; raise Damaged."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Damaged("its manifest is no JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise Damaged("its manifest is none of ours")
    if document.get("version") != VERSION:
        raise Damaged(f"its manifest is of version {document.get('version')!r}: this i12e reads {VERSION}")
    body = _HASH_LINE.sub(b"", content)
    if document.get("sha256") != hashlib.sha256(body).hexdigest():
        raise Damaged("its manifest was changed: it does not have its own SHA-256")
    made: Manifest | Abandoned
    try:
        made = _made(Abandoned, document) if document.get("abandoned") else _made(Manifest, document)
        whole = made.content()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"its manifest is incomplete: {error}") from None
    if whole != content:
        raise Damaged("its manifest is not as i12e writes it")
    if made.id != name or not is_id(made.id):
        raise Damaged(f"its manifest is that of another backup, {made.id}")
    if not 0 <= made.at <= _LATEST or not 0 <= made.number < _MOST:
        raise Damaged("its manifest has a time or a number that cannot be")
    if isinstance(made, Manifest):
        _check_parts(made)
    return made


def _check_parts(made: Manifest) -> None:
    if not 0 <= made.seconds < _MOST:
        raise Damaged("its manifest has a time that cannot be")
    names = [part.name for part in made.parts]
    if len(set(names)) != len(names):
        raise Damaged("its manifest names a part twice")
    for part in made.parts:
        if not _NAME.match(part.name) or not _SHA256.match(part.sha256) or not 0 <= part.size < _MOST:
            raise Damaged(f"its manifest has a part that cannot be: {part.name!r}")
    for needed in (INDEX, KEY, DATABASE, CLUSTER, HOSTS):
        made.part(needed)


def read_index(content: bytes) -> Index:
    """Given an index as it was sealed, return it; raise Damaged."""
    try:
        return _made(Index, json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged("its index is none of ours") from None


def agree(manifest: Manifest, index: Index) -> None:
    """Given a backup's manifest and its index, raise Damaged if one of them is another backup's."""
    for name in ("id", "cluster", "uid", "token"):
        if getattr(manifest, name) != getattr(index, name):
            raise Damaged(f"its manifest and its index differ in {name}: one of them is another backup's")
    listed = {part.name: part.sha256 for part in manifest.parts if part.name != INDEX}
    if listed != dict(index.sealed):
        raise Damaged("its manifest and its index name other parts: one of them is another backup's")
    if {*index.plain} != {*listed} - {KEY}:
        raise Damaged("its index does not say what its parts hold")
    if manifest.essence not in index.manifests:
        raise Damaged("its manifest is not the one that its index was made with")


# --- parts


def seal(
    source: Iterable[bytes], recipients: Iterable[str], gz: bool, take: Callable[[bytes], object]
) -> tuple[Sums, Sums]:
    """Given blocks, compress (`gz`) and seal them, hand the sealed ones to `take`; return the plain and sealed sums."""
    plain, sealed = Summing(), Summing()
    blocks = plain.passing(source)

    def out(block: bytes) -> None:
        sealed.add(block)
        take(block)

    age.seal(squeezed(blocks) if gz else blocks, recipients, out)
    return plain.sums(), sealed.sums()


def unseal(
    source: Iterable[bytes], identities: Iterable[Secret], gz: bool, take: Callable[[bytes], object]
) -> tuple[Sums, Sums]:
    """Given a sealed part's blocks and keys, hand what was sealed to `take`; return the plain and the sealed sums.

    Raise Damaged if it is not what was sealed, or sealed to none of the keys.
    """
    plain, sealed = Summing(), Summing()

    def out(block: bytes) -> None:
        plain.add(block)
        take(block)

    expander = _Expander(out) if gz else None
    try:
        age.open_sealed(sealed.passing(source), identities, expander.add if expander else out)
    except age.NotOpened as error:
        raise Damaged(f"it cannot be opened: {error}") from None
    if expander:
        expander.end()
    return plain.sums(), sealed.sums()


class Summing:
    """The sums of blocks that pass."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    def add(self, block: bytes) -> None:
        """Given the next block, count it."""
        self._hash.update(block)
        self.size += len(block)

    def passing(self, source: Iterable[bytes]) -> Iterator[bytes]:
        """Given blocks, yield them as they are, counted."""
        for block in source:
            self.add(block)
            yield block

    def sums(self) -> Sums:
        """Return the sums of what has passed."""
        return Sums(self.size, self._hash.hexdigest())


def squeezed(source: Iterable[bytes]) -> Iterator[bytes]:
    """Given blocks, yield them as gzip: a member for each MB, made side by side; what cannot be compressed is not."""
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="gzip") as pool:
        waiting: collections.deque[Future[bytes]] = collections.deque()
        for block in _even(source):
            waiting.append(pool.submit(_member, block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _even(source: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks of one size; an empty stream is one empty block, so that it is a gzip file too."""
    gathered: list[memoryview] = []
    size = 0
    some = False
    for block in source:
        rest = memoryview(block)
        while size + len(rest) >= _BLOCK:
            some = True
            room = _BLOCK - size
            yield b"".join([*gathered, rest[:room]]) if gathered or len(block) > room else block
            gathered, size, rest = [], 0, rest[room:]
        if rest:
            gathered.append(rest)
            size += len(rest)
    if gathered or not some:
        yield b"".join(gathered)


def _member(block: bytes) -> bytes:
    from isal import isal_zlib  # gzip as zlib makes it, three times as fast; imported late, as it is not always needed

    taste = b"".join(block[at : at + _TASTE] for at in range(0, len(block), max(_TASTE, len(block) // 4)))
    if len(isal_zlib.compress(taste, 1)) < _WORTH * len(taste):
        packer = isal_zlib.compressobj(2, zlib.DEFLATED, 31)
        return bytes(packer.compress(block) + packer.flush())
    return _stored(block)


def _stored(block: bytes) -> bytes:
    """Given a block, return it as a gzip member in which nothing is compressed; zlib takes three times as long for it.

    RFC 1952; RFC 1951, 3.2.4.
    """
    pieces: list[bytes | memoryview] = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for at in range(0, max(len(block), 1), _STORED):
        piece = memoryview(block)[at : at + _STORED]
        last = at + _STORED >= len(block)
        pieces += [struct.pack("<BHH", last, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join([*pieces, struct.pack("<II", zlib.crc32(block), len(block))])


class _Expander:
    """gzip's members back to what they were, in pieces of at most 1 MB."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._member: Any = None
        self._some = False

    def add(self, block: bytes) -> None:
        try:
            while block:
                if self._member is None:
                    self._member = zlib.decompressobj(31)
                    self._some = True
                self._hand_on(self._member.decompress(block, _BLOCK))
                block = self._member.unconsumed_tail
                if self._member.eof:
                    block, self._member = self._member.unused_data, None
        except zlib.error as error:
            raise Damaged(f"it is no gzip: {error}") from None

    def end(self) -> None:
        if self._member is not None or not self._some:
            raise Damaged("it ends in the middle of its gzip")

    def _hand_on(self, piece: bytes) -> None:
        if piece:
            self._take(piece)


# --- JSON


def _written(document: Mapping[str, Any]) -> bytes:
    """Return a document with its own SHA-256 as the last entry, on a line of its own that is not counted."""
    text = json.dumps({**document, "sha256": ""}, indent=2) + "\n"
    body = _HASH_LINE.sub(b"", text.encode())
    return text.replace('\n  "sha256": ""\n', f'\n  "sha256": "{hashlib.sha256(body).hexdigest()}"\n').encode()


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: fields in their order, mappings in that of their keys."""
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


def _made(kind: type[_Made], document: Mapping[str, Any]) -> _Made:
    """Given a class and what JSON says, return its instance; raise KeyError, TypeError or ValueError."""
    found = {}
    for each in fields(kind):  # type: ignore[arg-type]
        found[each.name] = _typed(each.name, str(each.type), document[each.name])
    return kind(**found)


def _typed(name: str, kind: str, value: Any) -> Any:
    if kind in _SIMPLE:
        if not isinstance(value, _SIMPLE[kind]) or isinstance(value, bool):
            raise TypeError(f"{name} is not {kind}")
        return value
    if kind.startswith("tuple["):
        inner = kind.removeprefix("tuple[").partition(",")[0]
        return tuple(_made(Part, each) if inner == "Part" else _typed(name, inner, each) for each in value)
    inner = kind.removeprefix("Mapping[str, ").removesuffix("]")
    items = {_typed(name, "str", key): each for key, each in value.items()}
    return {key: _made(Sums, each) if inner == "Sums" else _typed(name, inner, each) for key, each in items.items()}

"""Stores: where backups are kept. The protocol, what goes wrong, and a store that tries again what fails for a while.

The stores themselves are folders, s3 and rclone; openstore opens what the model names. tests/store_suite.py is what
every one of them keeps, and the docstring of `Store` says it in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from i12e.errors import Outside
from i12e.patience import Patience

BLOCK = 1 << 20  # bytes that read() yields at the most
SMALL = 8 << 20  # bytes that get(), create() and swap() take at the most
_LONGEST = 512  # bytes of a key
_PART = 140  # bytes between two slashes of it: rclone's crypt makes 1.6 times as many of them, and files have 255
_T = TypeVar("_T")
Keys = list[str]  # a name of its own: inside the classes below, list is a method


class StoreError(Outside):
    """A store did not do what it was asked for."""


class Missing(StoreError):
    """There is nothing under the key."""


class Exists(StoreError):
    """There is something under the key already; that is as it was."""


class Changed(StoreError):
    """What is under the key is not the version that was meant, or is gone; nothing was written."""


class Locked(StoreError):
    """The store keeps it, against everybody, for a time."""


class Full(StoreError):
    """The store has no space left; nothing of what was written is there."""


class Refused(StoreError):
    """The store does not let us: wrong or missing credentials, or no permission."""


class NotThere(StoreError):
    """The store itself is not there: no such folder, bucket or remote. It does not mean that it is empty."""


class TooBig(StoreError):
    """It is too big for what it was asked for in one piece (SMALL)."""


class BadKey(StoreError):
    """The key is none that every store can have; nothing was done."""


@dataclass(frozen=True)
class Entry:
    """What a listing tells of an object: its key, its size in bytes, and when it was written.

    `modified` is in seconds since 1970, by the store's own clock.
    """

    key: str
    size: int
    modified: float


Listing = list[Entry]


class Store(Protocol):
    """A place for objects that are written once, and for a few small ones that are swapped.

    Keys are parts between slashes (see `checked`); one part does not begin with a dot: such names are the store's own,
    and no listing shows them. An object is seen by all as soon as its writing has returned, whole, and never before
    that: whoever writes may be killed at any point. Everything raises StoreError or a class of it, and nothing else
    for what happens outside of this program. Threads may share a store.

    A store tries nothing again by itself but the parts of one put, which nobody else can; `Patient` does the rest.
    """

    name: str
    """What messages call it."""

    place: str
    """Where it is, for people: /srv/backups, s3://bucket/prefix, rclone b2:bucket/x."""

    shares: bool
    """Whether create and swap are compare-and-swap for real, so that several machines can share a schedule here.

    False while it is not known: probe() finds it out.
    """

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Given a key and its content in chunks of any size, store it; return how many bytes that are.

        Whole or not at all: if `chunks` raises, or the process is killed, there is nothing under the key. What has
        returned is on the disk, as far as the store can tell. Not to be repeated with an iterator that was begun.
        Raise Exists if there is something under the key, where that is cheap to tell: two that put the same key at
        the same time are the caller's mistake, and one of them wins, whole.
        """
        ...

    def read(self, key: str, start: int = 0) -> Iterator[bytes]:
        """Given a key and how many bytes to skip, yield the rest in blocks of at most BLOCK bytes, none of them empty.

        Raise Missing, at the latest on the first block. A content that comes to its end too early is an error that
        passes.
        """
        ...

    def get(self, key: str) -> tuple[bytes, str]:
        """Given the key of a small object, return its content and version; raise Missing, or TooBig above SMALL.

        A version is told apart from the others of its key as long as these have other contents.
        """
        ...

    def list(self, prefix: str) -> Listing:
        """Given how keys begin ("" is all), return all of those by key, or raise: never a part of them."""
        ...

    def create(self, key: str, content: bytes) -> str:
        """Given a key and a small content, store it if there is nothing; return its version. Raise Exists.

        Atomic where the store `shares`: of many that try, one returns.
        """
        ...

    def swap(self, key: str, content: bytes, version: str) -> str:
        """Given a key, another small content and a version, store it if the key still has that; return the new version.

        Raise Changed if it has another one, or nothing. Atomic where the store `shares`; a reader sees the old or the
        new content.
        """
        ...

    def delete(self, key: str) -> None:
        """Given a key, remove what is there; if that is nothing, that is fine. Raise Locked if the store keeps it."""
        ...

    def locked_until(self, key: str) -> float | None:
        """Given a key, return until when the store keeps it against everybody, in seconds since 1970, or None.

        Raise Missing.
        """
        ...

    def sweep(self, age: float) -> Keys:
        """Remove what uploads left that were begun more than `age` seconds ago and never completed; return their keys.

        What is still being written, where that can be told, is left alone however old it is.
        """
        ...

    def now(self) -> float:
        """Return the time by the store's clock, in seconds since 1970; by ours where it shows none."""
        ...

    def probe(self) -> None:
        """Find out by doing it that we may write, read, list and delete, and whether the store `shares`.

        Leaves nothing. Makes the folder of a local store if only that is missing. Raise StoreError with the remedy.
        """
        ...

    def close(self) -> None:
        """Let go of connections and programs."""
        ...


def checked(store: str, key: str) -> str:
    """Given a store's name and a key, return the key; raise BadKey if not every store can have it."""
    parts = key.split("/")
    bad = (
        len(key.encode(errors="replace")) > _LONGEST
        or any(not part or part.startswith(".") or len(part.encode(errors="replace")) > _PART for part in parts)
        or not key.isprintable()  # control characters, and what is not even Unicode
        or "\\" in key
    )
    if bad:
        shown = key.encode("unicode_escape").decode()[:100]
        raise BadKey(store, f'"{shown}" is no key', "parts between slashes, none of them empty or with a dot first")
    return key


def small(store: str, key: str, content: bytes) -> bytes:
    """Given a store's name, a key and a content, return the content; raise TooBig if it is above SMALL."""
    if len(content) > SMALL:
        raise TooBig(store, f"{key} has more than {SMALL >> 20} MB")
    return content


def try_out(store: Store, tag: str) -> bool:
    """Given a store and a text that no one else uses, write, read, list, swap and delete an object named for it.

    Return whether create and swap refuse what they have to refuse. Raise StoreError with the remedy if the store does
    not even keep what it takes.
    """
    key = f"probe/{tag}"
    try:
        version = store.create(key, b"one " + tag.encode())
        _kept(store, key, b"one " + tag.encode())
        held = _refuses(Exists, lambda: store.create(key, b"two " + tag.encode()))
        if held:
            _kept(store, key, b"one " + tag.encode())
            newer = store.swap(key, b"three " + tag.encode(), version)
            held = _refuses(Changed, lambda: store.swap(key, b"four " + tag.encode(), version))
            held = held and newer != version
            if held:
                _kept(store, key, b"three " + tag.encode())
        if not any(entry.key == key for entry in store.list("probe/")):
            raise StoreError(store.name, "does not list what was just written", "a listing has to be complete")
    finally:
        store.delete(key)
    try:
        store.get(key)
    except Missing:
        return held
    raise StoreError(store.name, "keeps what was deleted", "is the bucket served from a cache?")


def _kept(store: Store, key: str, content: bytes) -> None:
    try:
        found, _ = store.get(key)
    except Missing:
        found = b""
    if found != content:
        raise StoreError(store.name, "does not have what it said it took", "nothing that is put there can be relied on")


def _refuses(error: type[StoreError], action: Callable[[], object]) -> bool:
    try:
        action()
    except error:
        return True
    return False


class Patient:
    """A store that tries again, with limits, what failed for a while; else the one that it is given.

    A read goes on where it broke. A put is repeated only if its chunks are a list or a tuple. If the answer to a
    create, swap or put was lost and the repetition finds the key taken, by exactly that content, it was ours: contents
    that are swapped therefore have to name their writer.
    """

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self.name = store.name
        self.place = store.place

    @property
    def shares(self) -> bool:
        """Whether create and swap are compare-and-swap for real."""
        return self._store.shares

    @shares.setter
    def shares(self, value: bool) -> None:
        self._store.shares = value

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """See Store."""
        if not isinstance(chunks, list | tuple):
            return self._store.put(key, chunks)
        return self._once(Exists, lambda: self._store.put(key, chunks), lambda: self._stored(key, chunks))

    def read(self, key: str, start: int = 0) -> Iterator[bytes]:
        """See Store."""
        wait = self._patience.wait()
        while True:
            try:
                for block in self._store.read(key, start):
                    start += len(block)
                    wait = self._patience.wait()  # it moves: the limit is for standing still
                    yield block
                return
            except StoreError as error:
                wait.after(error)

    def get(self, key: str) -> tuple[bytes, str]:
        """See Store."""
        return self._patience.call(lambda: self._store.get(key))

    def list(self, prefix: str) -> Listing:
        """See Store."""
        return self._patience.call(lambda: self._store.list(prefix))

    def create(self, key: str, content: bytes) -> str:
        """See Store."""
        return self._once(Exists, lambda: self._store.create(key, content), lambda: self._same(key, content))

    def swap(self, key: str, content: bytes, version: str) -> str:
        """See Store."""
        return self._once(Changed, lambda: self._store.swap(key, content, version), lambda: self._same(key, content))

    def delete(self, key: str) -> None:
        """See Store."""
        self._patience.call(lambda: self._store.delete(key))

    def locked_until(self, key: str) -> float | None:
        """See Store."""
        return self._patience.call(lambda: self._store.locked_until(key))

    def sweep(self, age: float) -> Keys:
        """See Store."""
        return self._patience.call(lambda: self._store.sweep(age))

    def now(self) -> float:
        """See Store."""
        return self._patience.call(self._store.now)

    def probe(self) -> None:
        """See Store."""
        self._patience.call(self._store.probe)

    def close(self) -> None:
        """See Store."""
        self._store.close()

    def _once(self, taken: type[StoreError], action: Callable[[], _T], ours: Callable[[], _T | None]) -> _T:
        """Given an action that finds the key taken if it was done before, do it until its outcome is known."""
        wait = self._patience.wait()
        while True:
            try:
                return action()
            except taken:
                found = ours() if wait.failures else None
                if found is None:
                    raise
                return found
            except StoreError as error:
                wait.after(error)

    def _same(self, key: str, content: bytes) -> str | None:
        try:
            found, version = self.get(key)
        except (Missing, TooBig):
            return None
        return version if found == content else None

    def _stored(self, key: str, chunks: Sequence[bytes]) -> int | None:
        content = b"".join(chunks)
        try:
            return len(content) if b"".join(self.read(key)) == content else None
        except Missing:
            return None


_PASSES = re.compile(
    r"timed? ?out|refused|reset|no such host|no route|unreachable|broken pipe|\beof\b|temporar|try again"
    r"|too many requests|slow ?down|service unavailable|internal ?(server )?error|bad gateway|\b(429|50[0234])\b",
    re.IGNORECASE,
)


def passes(said: str) -> bool:
    """Given what a program or a server said, tell whether that sounds like something that passes."""
    return bool(_PASSES.search(said))

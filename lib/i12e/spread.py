"""One stream to several stores at once: none of them waits for a broken one, and each is whole or not there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from i12e.stores import Store, StoreError

_WAITING = 4  # blocks that may wait for a slow store


class _Aborted(Exception):
    """The stream did not come to its end: whoever stores it is to forget it."""


class _Feed:
    """Blocks on their way to one store."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_WAITING)
        self._over = threading.Event()

    def put(self, block: bytes | BaseException | None) -> None:
        """Give it a block, None at the end, or an exception where the end is missing."""
        while not self._over.is_set():
            try:
                self._queue.put(block, timeout=0.2)
            except queue.Full:
                continue
            return

    def blocks(self) -> Iterator[bytes]:
        """Yield what is given."""
        while True:
            block = self._queue.get()
            if block is None:
                return
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self) -> None:
        """Take no more."""
        self._over.set()


def spread(
    key: str, stores: Mapping[str, Store], produce: Callable[[Callable[[bytes], None]], None]
) -> dict[str, StoreError]:
    """Given a key, stores by name, and what hands the blocks of a stream on, put it into all of them.

    Return what went wrong with those that do not have it now. Raise what `produce` raises; then none has it.
    """
    feeds = {name: _Feed() for name in stores}

    def take(block: bytes) -> None:
        for feed in feeds.values():
            feed.put(block)

    def store(name: str) -> None:
        try:
            stores[name].put(key, feeds[name].blocks())
        finally:
            feeds[name].close()

    with ThreadPoolExecutor(max(1, len(stores)), thread_name_prefix="store") as pool:
        running = {name: pool.submit(store, name) for name in stores}
        try:
            produce(take)
        except BaseException:
            for feed in feeds.values():
                feed.put(_Aborted())
            raise
        for feed in feeds.values():
            feed.put(None)
        return _failures(running)


def _failures(running: Mapping[str, Future[None]]) -> dict[str, StoreError]:
    found = {}
    for name, each in running.items():
        error = each.exception()
        if isinstance(error, StoreError):
            found[name] = error
        elif error is not None:
            raise error
    return found


def pulled(push: Callable[[Callable[[bytes], None]], None]) -> Iterator[bytes]:
    """Given what hands blocks on, yield them: it works in a thread and waits for whoever takes them.

    Raise what it raises. Whoever stops taking ends it: the next block that it hands on raises there.
    """
    feed = _Feed()
    ended = threading.Event()

    def take(block: bytes) -> None:
        if ended.is_set():
            raise _Aborted
        feed.put(block)

    def run() -> None:
        try:
            push(take)
        except BaseException as error:  # noqa: BLE001  # it is raised where the blocks are taken
            feed.put(error)
        else:
            feed.put(None)

    thread = threading.Thread(target=run, name="pushing", daemon=True)
    thread.start()
    try:
        yield from feed.blocks()
    finally:
        ended.set()
        feed.close()
        thread.join()


def copied(key: str, source: Store, target: Store) -> None:
    """Given a key and two stores, let the target have what the source has; raise StoreError."""
    target.put(key, source.read(key))

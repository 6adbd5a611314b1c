"""One stream to several stores: each has all of it or nothing, and a broken one holds nobody up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

import pytest

from i12e.spread import pulled, spread
from i12e.stores import Full
from memorystore import Memory


class Breaking(Memory):
    """A store that is full after some blocks."""

    def __init__(self, name: str, after: int) -> None:
        super().__init__(name)
        self._after = after

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        for number, _ in enumerate(chunks):
            if number >= self._after:
                raise Full(self.name, "no space left")
        return super().put(key, [])


def _of(blocks: list[bytes]) -> Callable[[Callable[[bytes], None]], None]:
    def produce(take: Callable[[bytes], None]) -> None:
        for block in blocks:
            take(block)

    return produce


BLOCKS = [os.urandom(1000) for _ in range(50)]


def test_every_store_has_all_of_it() -> None:
    stores = {name: Memory(name) for name in "abc"}
    assert spread("x", stores, _of(BLOCKS)) == {}
    assert all(store.get("x")[0] == b"".join(BLOCKS) for store in stores.values())


@pytest.mark.parametrize("after", [0, 1, 5, 49])
def test_a_store_that_breaks_is_told_and_the_others_have_it(after: int) -> None:
    stores = {"good": Memory("good"), "bad": Breaking("bad", after)}
    assert {name: type(error) for name, error in spread("x", stores, _of(BLOCKS)).items()} == {"bad": Full}
    assert stores["good"].get("x")[0] == b"".join(BLOCKS)
    assert stores["bad"].list("") == []


@pytest.mark.parametrize("after", [0, 1, 30])
def test_a_stream_that_breaks_is_in_no_store(after: int) -> None:
    def produce(take: Callable[[bytes], None]) -> None:
        _of(BLOCKS[:after])(take)
        raise ValueError("the host is gone")

    stores = {name: Memory(name) for name in "ab"}
    with pytest.raises(ValueError, match="the host is gone"):
        spread("x", stores, produce)
    assert [store.list("") for store in stores.values()] == [[], []]


def test_what_is_pushed_is_pulled_and_its_error_too() -> None:
    assert list(pulled(_of(BLOCKS))) == BLOCKS

    def breaks(take: Callable[[bytes], None]) -> None:
        take(b"one")
        raise ValueError("broken")

    found = pulled(breaks)
    assert next(found) == b"one"
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_whoever_stops_pulling_ends_the_pusher() -> None:
    before = threading.active_count()
    ended = threading.Event()

    def forever(take: Callable[[bytes], None]) -> None:
        try:
            while True:
                take(b"more")
        finally:
            ended.set()

    found = pulled(forever)
    assert next(found) == b"more"
    found.close()  # type: ignore[attr-defined]
    assert ended.wait(60)
    assert threading.active_count() == before

"""What every store keeps: one suite for all of them (stores.Store says it in words).

A module of tests makes a class of `Suite` with a fixture `place` that gives a Place, and one of `Processes` where
other processes can open the same store. Each test has keys of its own, so that one server serves them all.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from i12e import openstore
from i12e.stores import BLOCK, SMALL, BadKey, Changed, Exists, Missing, Store, StoreError, TooBig

ROOM = "backups"
ODD = (
    "plain",
    "with space",
    " blank first",
    "blank last ",
    "a+b%20c&d=e?f#g",
    "quote'\"quote",
    "ünï/çödé/日本",
    "percent%2Fslash",
    "$HOME ~ * [x] {y}",
    "-dash",
    "--flag=1",
    "a:b;c,d",
    "UPPER",
    "upper",
    "trailing.",
    "x.part",
    "deep/er/and/deep/er/still",
    "l" * 140,
)


@dataclass
class Place:
    """A store to test, and how another process opens it: settings and credentials as openstore takes them."""

    store: Store
    settings: dict[str, Any] | None = None
    credentials: dict[str, str] = field(default_factory=dict)
    big: int = 20 * 1000 * 1000 + 7  # bytes of what is called big
    many: int = 1103  # objects that make more than one page of a listing
    shares: bool = True
    room: str = field(default_factory=lambda: f"{ROOM}/{secrets.token_hex(4)}")

    def key(self, name: str) -> str:
        """Given a name, return a key of this test's own."""
        return f"{self.room}/{name}"

    def seed(self, names: list[str]) -> None:
        """Given names, put an object of each name, with that as its content."""
        for name in names:
            self.store.put(self.key(name), [name.encode()])

    def keys(self) -> list[str]:
        """Return all names that this test sees."""
        return [entry.key.removeprefix(f"{self.room}/") for entry in self.store.list(f"{self.room}/")]


@dataclass
class Given:
    """Settings as the model gives them."""

    name: str
    folder: str | None = None
    s3: Any = None
    rclone: str | None = None


@dataclass
class S3:
    """The settings of an S3 store as the model gives them."""

    bucket: str
    region: str | None = None
    endpoint: str | None = None
    path_style: bool = False
    prefix: str = ""
    lock_days: int | None = None


def opened(settings: dict[str, Any], credentials: dict[str, str], say: Callable[[str], None] = print) -> Store:
    """Given what Place has, return the store."""
    given = Given(**settings)
    if given.s3:
        given.s3 = S3(**given.s3)
    return openstore.open_store(given, credentials, say)


def content(size: int, seed: int = 1) -> bytes:
    """Given a size, return as many bytes, the same every time, which no compression makes smaller."""
    return random.Random(seed).randbytes(size)  # noqa: S311  # not for a secret


def whole(store: Store, key: str, start: int = 0) -> bytes:
    """Given a key, return what read() gives of it."""
    return b"".join(store.read(key, start))


class Broken(Exception):
    """What a source raises here in the middle."""


class Suite:
    """The tests for one process."""

    @pytest.fixture
    def store(self, place: Place) -> Store:
        return place.store

    @pytest.mark.parametrize("size", [0, 1, 65_537, BLOCK, 3 * BLOCK + 5])
    def test_what_is_put_is_read_as_it_was(self, place: Place, store: Store, size: int) -> None:
        data = content(size)
        assert store.put(place.key("a"), [data]) == size
        assert whole(store, place.key("a")) == data
        [entry] = store.list(place.key("a"))
        assert (entry.key, entry.size) == (place.key("a"), size)
        assert abs(entry.modified - store.now()) < 60

    def test_chunks_of_any_size_make_one_content(self, place: Place, store: Store) -> None:
        chunks = [b"", b"a", content(100_000), b"", b"b" * 3, content(2 * BLOCK + 1), b""]
        assert store.put(place.key("a"), iter(chunks)) == sum(map(len, chunks))
        assert whole(store, place.key("a")) == b"".join(chunks)

    def test_a_big_content_is_put_and_read(self, place: Place, store: Store) -> None:
        data = content(place.big)
        pieces = (data[at : at + 70_001] for at in range(0, len(data), 70_001))
        assert store.put(place.key("big"), pieces) == place.big
        blocks = list(store.read(place.key("big")))
        assert max(map(len, blocks)) <= BLOCK
        assert all(blocks)
        assert b"".join(blocks) == data

    def test_a_reading_begins_where_it_is_told(self, place: Place, store: Store) -> None:
        data = content(3 * BLOCK)
        store.put(place.key("a"), [data])
        for start in (1, BLOCK - 1, BLOCK, 2 * BLOCK + 17, len(data) - 1, len(data)):
            assert whole(store, place.key("a"), start) == data[start:], start

    def test_a_reading_that_is_given_up_does_no_harm(self, place: Place, store: Store) -> None:
        data = content(5 * BLOCK)
        store.put(place.key("a"), [data])
        for _ in range(3):
            reading = iter(store.read(place.key("a")))
            assert next(reading)
            reading.close()  # type: ignore[attr-defined]  # all of ours are generators
        assert whole(store, place.key("a")) == data

    @pytest.mark.parametrize("size", [10, BLOCK, 17 * BLOCK])
    def test_of_a_source_that_breaks_nothing_is_left(self, place: Place, store: Store, size: int) -> None:
        def source() -> Iterator[bytes]:
            for _ in range(max(1, size // BLOCK)):
                yield content(min(size, BLOCK))
            raise Broken

        with pytest.raises(Broken):
            store.put(place.key("a"), source())
        assert place.keys() == []
        with pytest.raises(Missing):
            store.get(place.key("a"))
        store.put(place.key("a"), [b"now"])
        assert store.get(place.key("a"))[0] == b"now"

    def test_an_error_of_the_source_is_raised_as_it_is(self, place: Place, store: Store) -> None:
        def source() -> Iterator[bytes]:
            yield b"a"
            raise ConnectionResetError("the host went away")

        with pytest.raises(ConnectionResetError, match="the host went away"):
            store.put(place.key("a"), source())
        assert place.keys() == []

    def test_nothing_is_seen_of_a_put_before_it_is_complete(self, place: Place, store: Store) -> None:
        seen: list[Any] = []

        def source() -> Iterator[bytes]:
            for _ in range(18):
                yield content(BLOCK)
            seen.append(place.keys())
            with pytest.raises(Missing):
                store.get(place.key("a"))

        store.put(place.key("a"), source())
        assert seen == [[]]
        assert place.keys() == ["a"]

    def test_a_put_does_not_take_the_place_of_another_content(self, place: Place, store: Store) -> None:
        store.put(place.key("a"), [b"first"])
        with pytest.raises(Exists):
            store.put(place.key("a"), [b"second"])
        assert store.get(place.key("a"))[0] == b"first"

    def test_what_is_missing_is_missing(self, place: Place, store: Store) -> None:
        store.put(place.key("a/b"), [b""])
        for name in ("nothing", "a", "a/b/c", "a/nothing"):
            with pytest.raises(Missing):
                whole(store, place.key(name))
            with pytest.raises(Missing):
                store.get(place.key(name))
            with pytest.raises(Missing):
                store.locked_until(place.key(name))
            with pytest.raises(Changed):
                store.swap(place.key(name), b"x", "1")
        assert place.keys() == ["a/b"]

    def test_delete_removes_and_does_so_twice(self, place: Place, store: Store) -> None:
        store.put(place.key("a"), [b"a"])
        store.put(place.key("ab"), [b"b"])
        store.delete(place.key("a"))
        assert place.keys() == ["ab"]
        store.delete(place.key("a"))
        store.delete(place.key("never/there"))
        assert place.keys() == ["ab"]
        store.put(place.key("a"), [b"again"])
        assert store.get(place.key("a"))[0] == b"again"

    def test_nothing_is_locked_by_itself(self, place: Place, store: Store) -> None:
        store.put(place.key("a"), [b"a"])
        assert store.locked_until(place.key("a")) is None

    def test_odd_keys_are_kept_as_they_are(self, place: Place, store: Store) -> None:
        def check(name: str) -> None:
            assert store.get(place.key(name))[0] == name.encode()
            assert whole(store, place.key(name), 1) == name.encode()[1:]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: store.put(place.key(name), [name.encode()]), ODD))
            assert sorted(place.keys()) == sorted(ODD)
            list(pool.map(check, ODD))
            list(pool.map(lambda name: store.delete(place.key(name)), ODD))
        assert place.keys() == []

    @pytest.mark.parametrize(
        "key", ["", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", ".a", "a/.b", "a\0b", "a\nb", "a\\b"]
    )
    def test_keys_that_lead_elsewhere_are_refused(self, store: Store, key: str) -> None:
        for action in (
            lambda: store.put(key, [b""]),
            lambda: whole(store, key),
            lambda: store.get(key),
            lambda: store.create(key, b""),
            lambda: store.swap(key, b"", "1"),
            lambda: store.delete(key),
            lambda: store.locked_until(key),
        ):
            with pytest.raises(BadKey):
                action()

    def test_keys_that_are_too_long_are_refused(self, store: Store) -> None:
        for key in ("l" * 141, "é" * 71, "/".join(["part"] * 110)):
            with pytest.raises(BadKey):
                store.create(key, b"")

    def test_a_listing_is_complete_and_only_of_its_prefix(self, place: Place, store: Store) -> None:
        names = sorted(f"many/{number:05d}" for number in range(place.many))
        place.seed(names)
        store.put(place.key("manyfold"), [b""])
        store.put(place.key("other/x"), [b""])
        assert [entry.key for entry in store.list(place.key("many/"))] == [place.key(name) for name in names]
        assert place.keys() == sorted([*names, "manyfold", "other/x"])
        assert [entry.key for entry in store.list(place.key("many/0000"))] == [place.key(name) for name in names[:10]]
        assert len(store.list(place.key("many"))) == len(names) + 1
        assert store.list(place.key("none")) == []
        assert {entry.size for entry in store.list(place.key("many/"))} == {10}

    def test_get_refuses_what_is_not_small(self, place: Place, store: Store) -> None:
        store.put(place.key("big"), [content(SMALL + 1)])
        with pytest.raises(TooBig):
            store.get(place.key("big"))
        with pytest.raises(TooBig):
            store.create(place.key("a"), bytes(SMALL + 1))
        store.put(place.key("small"), [content(SMALL)])
        assert len(store.get(place.key("small"))[0]) == SMALL

    def test_create_makes_what_is_not_there_and_only_that(self, place: Place, store: Store) -> None:
        version = store.create(place.key("a"), b"one")
        assert store.get(place.key("a")) == (b"one", version)
        with pytest.raises(Exists):
            store.create(place.key("a"), b"two")
        with pytest.raises(Exists):
            store.create(place.key("a"), b"one")
        assert store.get(place.key("a")) == (b"one", version)
        store.delete(place.key("a"))
        store.create(place.key("a"), b"")
        assert store.get(place.key("a"))[0] == b""

    def test_swap_takes_the_version_that_is_there_and_only_that(self, place: Place, store: Store) -> None:
        first = store.create(place.key("a"), b"one")
        second = store.swap(place.key("a"), b"two", first)
        assert store.get(place.key("a")) == (b"two", second)
        assert second != first
        for version in (first, "", "1", "nonsense"):
            with pytest.raises(Changed):
                store.swap(place.key("a"), b"three", version)
        assert store.get(place.key("a")) == (b"two", second)
        third = store.swap(place.key("a"), b"longer than it was", second)
        assert store.get(place.key("a")) == (b"longer than it was", third)
        store.delete(place.key("a"))
        with pytest.raises(Changed):
            store.swap(place.key("a"), b"four", third)
        assert place.keys() == []

    def test_of_many_who_create_or_swap_at_once_one_wins(self, place: Place, store: Store) -> None:
        if not place.shares:
            store.probe()
            assert not store.shares  # and says so: nothing leans on it
            return

        def each(action: Callable[[int], str], fails: type[StoreError]) -> list[tuple[int, str]]:
            together = threading.Barrier(8)

            def attempt(number: int) -> tuple[int, str] | None:
                together.wait()
                while True:
                    try:
                        return number, action(number)
                    except fails:
                        return None
                    except StoreError as error:  # a conflict that the store has not decided
                        if not error.passing:
                            raise

            with ThreadPoolExecutor(8) as pool:
                return [won for won in pool.map(attempt, range(8)) if won]

        for number in range(4):
            key = place.key(f"race-{number}")
            [(winner, version)] = each(lambda who, key=key: store.create(key, b"by %d" % who), Exists)  # type: ignore[misc]
            assert store.get(key) == (b"by %d" % winner, version)
            for turn in range(3):
                [(winner, version)] = each(
                    lambda who, key=key, turn=turn, version=version: store.swap(
                        key, b"%d in %d" % (who, turn), version
                    ),  # type: ignore[misc]
                    Changed,
                )
                assert store.get(key) == (b"%d in %d" % (winner, turn), version)

    def test_different_keys_are_put_at_the_same_time(self, place: Place, store: Store) -> None:
        def one(number: int) -> None:
            store.put(place.key(f"same/folder/{number}"), [content(50_000, number), content(50_000, number + 100)])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(16)))
        assert len(place.keys()) == 16
        for number in range(16):
            expected = content(50_000, number) + content(50_000, number + 100)
            assert whole(store, place.key(f"same/folder/{number}")) == expected

    def test_sweep_removes_nothing_that_is_complete(self, place: Place, store: Store) -> None:
        store.put(place.key("a"), [b"a"])
        store.create(place.key("b.part"), b"b")
        store.sweep(-60)
        assert place.keys() == ["a", "b.part"]

    def test_a_probe_finds_out_whether_it_shares_and_leaves_nothing(self, place: Place, store: Store) -> None:
        store.probe()
        assert store.shares is place.shares
        assert [entry for entry in store.list("") if entry.key.startswith("probe")] == []


_WRITER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from store_suite import content, opened
settings, credentials, key, blocks = json.loads(sys.stdin.readline())
store = opened(settings, credentials)

def source():
    for number in range(blocks):
        yield content(1 << 20, number)
    print("written", flush=True)
    sys.stdin.readline()

store.put(key, source())
print("done", flush=True)
"""
_RACER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from store_suite import opened
from i12e.stores import Changed, Exists, Missing, StoreError
settings, credentials, key, name, rounds = json.loads(sys.stdin.readline())
store = opened(settings, credentials, lambda line: None)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(rounds):
    while True:
        try:
            content, version = store.get(key)
        except Missing:
            try:
                store.create(key, b"%s 1" % name.encode())
                break
            except Exists:
                continue
        try:
            store.swap(key, b"%s %d" % (name.encode(), int(content.split()[-1]) + 1), version)
            break
        except Changed:
            continue
print("done", flush=True)
"""


class Processes:
    """The tests with several processes."""

    def start(self, place: Place, program: str, *given: Any) -> subprocess.Popen[str]:
        """Given a program of Python and what it is to know, start it."""
        path = json.dumps([entry for entry in sys.path if entry])
        process = subprocess.Popen(
            [sys.executable, "-c", program, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdin
        process.stdin.write(json.dumps([place.settings, place.credentials, *given]) + "\n")
        process.stdin.flush()
        return process

    @pytest.mark.parametrize("blocks", [1, 20])
    def test_of_a_writer_that_is_killed_in_the_middle_nothing_is_seen(self, place: Place, blocks: int) -> None:
        with self.start(place, _WRITER, place.key("a"), blocks) as process:
            assert process.stdout
            assert process.stdout.readline() == "written\n"
            os.kill(process.pid, signal.SIGKILL)
        self.settle(process.pid)
        assert place.keys() == []
        with pytest.raises(Missing):
            place.store.get(place.key("a"))
        place.store.sweep(-60)
        place.store.put(place.key("a"), [b"now"])
        assert place.store.get(place.key("a"))[0] == b"now"
        assert place.store.sweep(-60) == []

    def test_a_counter_that_many_processes_swap_loses_no_turn(self, place: Place) -> None:
        if not place.shares:
            place.store.probe()
            assert not place.store.shares
            return
        rounds = 5
        racers = [self.start(place, _RACER, place.key("counter"), f"p{number}", rounds) for number in range(4)]
        for racer in racers:
            assert racer.stdout
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("\n")
            racer.stdin.flush()
        for racer in racers:
            out, _ = racer.communicate(timeout=120)
            assert out == "done\n"
        assert place.store.get(place.key("counter"))[0].split()[-1] == b"%d" % (4 * rounds)

    def settle(self, group: int) -> None:
        """Given the group of a killed process, wait until the programs that it started have ended by themselves."""
        until = time.monotonic() + 60
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(group, 0)
                time.sleep(0.01)
            pytest.fail("what a killed process has started does not end")

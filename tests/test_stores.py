"""The store in memory, the one in a folder, and retries."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i12e import folders, openstore
from i12e.folders import Folder
from i12e.patience import Patience
from i12e.secrets import Secret
from i12e.stores import (
    BLOCK,
    Changed,
    Exists,
    Full,
    Locked,
    Missing,
    NotThere,
    Patient,
    Refused,
    Store,
    StoreError,
    passes,
)
from memorystore import Memory
from store_suite import Given, Place, Processes, Suite, content, whole


class TestMemory(Suite):
    """The twin in memory is a store like the others."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(Memory())


class TestPatient(Suite):
    """Retries change nothing where nothing fails."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(Patient(Memory(), Patience(print)))


class TestFolder(Suite, Processes):
    """A local folder."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        root = tmp_path / "store"
        store = Folder("local", root)
        store.probe()
        return Place(store, {"name": "local", "folder": str(root)})

    def test_all_that_it_makes_is_private(self, place: Place, tmp_path: Path) -> None:
        place.store.put(place.key("a/b"), [b"x"])
        place.store.create("c", b"x")
        for folder, _, names in os.walk(tmp_path / "store"):
            assert os.stat(folder).st_mode & 0o777 == 0o700, folder
            for name in names:
                assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600, name

    def test_a_folder_is_made_one_level_deep_and_not_deeper(self, tmp_path: Path) -> None:
        Folder("local", tmp_path / "new").put("a", [b"x"])
        assert (tmp_path / "new/a").read_bytes() == b"x"
        away = Folder("local", tmp_path / "not/mounted")
        for action in (lambda: away.put("a", [b""]), lambda: away.create("a", b""), away.probe):
            with pytest.raises(NotThere, match=r"mount its disk"):
                action()
        assert not (tmp_path / "not").exists()

    def test_a_folder_that_is_not_there_is_not_an_empty_one(self, tmp_path: Path) -> None:
        store = Folder("local", tmp_path / "away")
        for action in (
            lambda: store.list(""),
            lambda: store.get("a"),
            lambda: whole(store, "a"),
            lambda: store.swap("a", b"", "1"),
            lambda: store.delete("a"),
            lambda: store.sweep(0),
            store.now,
        ):
            with pytest.raises(NotThere, match="is its disk mounted"):
                action()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_is_told_as_that_and_nothing_is_left(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        write = os.write

        def fills(handle: int, data: bytes) -> int:
            if os.fstat(handle).st_size >= BLOCK:
                raise OSError(number, os.strerror(number))
            return write(handle, data)

        monkeypatch.setattr(os, "write", fills)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(Full, match="make room"):
            place.store.put(place.key("a"), [content(BLOCK), content(BLOCK)])
        assert sorted(tmp_path.rglob("*")) == before

    def test_nothing_gets_its_name_that_is_not_on_the_disk(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(handle: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(StoreError, match="Input/output error"):
            place.store.put(place.key("a"), [b"x"])
        monkeypatch.undo()
        assert place.keys() == []

    def test_a_lock_that_is_held_too_long_is_an_error_that_passes_and_says_by_whom(self, place: Place) -> None:
        store = Folder("local", place.store.place, wait=0.1)
        version = store.create(place.key("a"), b"one")
        handle = os.open(Path(place.store.place, ".i12e-lock"), os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for action in (
                lambda: store.swap(place.key("a"), b"two", version),
                lambda: store.delete(place.key("a")),
            ):
                with pytest.raises(StoreError, match=f"pid {os.getpid()} on .* holds") as told:
                    action()
                assert told.value.passing
            assert store.get(place.key("a")) == (b"one", version)
            assert place.keys() == ["a"]
            store.create(place.key("b"), b"two")  # which a link decides, so that it needs no lock
        finally:
            os.close(handle)
        store.swap(place.key("a"), b"two", version)

    def test_a_lock_that_is_given_back_is_waited_for(self, place: Place) -> None:
        version = place.store.create(place.key("a"), b"x")
        handle = os.open(Path(place.store.place, ".i12e-lock"), os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        tried = threading.Event()

        class Waits(Folder):
            def _alone(self) -> object:  # type: ignore[override]
                tried.set()
                return super()._alone()

        waits = Waits("local", place.store.place)
        swapped = threading.Thread(target=lambda: waits.swap(place.key("a"), b"y", version))
        swapped.start()
        assert tried.wait(60)
        assert swapped.is_alive()
        os.close(handle)
        swapped.join(timeout=60)
        assert place.store.get(place.key("a"))[0] == b"y"

    def test_sweep_leaves_what_is_being_written_and_what_is_young(self, place: Place) -> None:
        swept: list[list[str]] = []

        def source() -> Iterator[bytes]:
            yield b"x"
            swept.append(place.store.sweep(-60))

        assert place.store.put(place.key("a"), source()) == 1
        assert swept == [[]]
        left = Path(place.store.place, f"{place.room}/.b.part.{'0' * 16}.part")
        left.write_bytes(b"x")
        assert place.store.sweep(3600) == []
        os.utime(left, (0, 0))
        assert place.store.sweep(3600) == [place.key("b.part")]
        assert not left.exists()

    def test_a_link_out_of_it_is_not_followed(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/secret").write_bytes(b"x")
        Path(place.store.place, "out").symlink_to(tmp_path / "elsewhere")
        Path(place.store.place, "file").symlink_to(tmp_path / "elsewhere/secret")
        assert place.store.list("") == []
        for key in ("out/secret", "file"):
            with pytest.raises(StoreError):
                place.store.get(key)
        with pytest.raises(StoreError, match="is a link"):
            place.store.put("out/new", [b"x"])
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["secret"]

    def test_no_empty_folders_stay(self, place: Place) -> None:
        place.store.put("x/y/z", [b""])
        place.store.delete("x/y/z")
        assert [path.name for path in Path(place.store.place).iterdir() if path.is_dir()] == []

    def test_puts_and_deletes_in_the_same_folder_do_not_disturb_each_other(self, place: Place) -> None:
        def work(name: str) -> None:
            for _ in range(40):
                place.store.put(f"shared/{name}", [b"x"])
                place.store.delete(f"shared/{name}")

        threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        place.store.put("shared/last", [b"x"])
        assert [entry.key for entry in place.store.list("")] == ["shared/last"]

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
    def test_a_folder_that_is_not_ours_is_told_as_that(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuses(path: object, flags: int, *more: object, **most: object) -> int:
            raise OSError(number, os.strerror(number))  # root, as which the tests may run, is refused nothing

        monkeypatch.setattr(os, "open", refuses)
        for action in (lambda: place.store.put("a", [b""]), lambda: place.store.get("a"), place.store.now):
            with pytest.raises(Refused, match="ours to write"):
                action()

    def test_a_file_system_without_links_does_not_share(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(*args: object, **more: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", none)
        place.store.put(place.key("a"), [b"x"])
        with pytest.raises(Exists):
            place.store.create(place.key("a"), b"y")
        place.store.probe()
        assert not place.store.shares
        assert place.store.list("probe") == []


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


def patient(memory: Memory, clock: Clock, said: list[str], limit: float = 60.0) -> Store:
    """Given a store that fails, return one that tries again, by a clock of its own."""
    return Patient(memory, Patience(said.append, limit, clock=clock, sleep=clock.sleep))


def lost(why: str = "connection reset") -> StoreError:
    """Return an error that passes."""
    return StoreError("memory", why, passing=True)


Action = Callable[[Store], object]
ACTIONS: dict[str, Action] = {
    "get": lambda store: store.get("a"),
    "list": lambda store: store.list(""),
    "delete": lambda store: store.delete("a"),
    "locked_until": lambda store: store.locked_until("a"),
    "sweep": lambda store: store.sweep(0),
    "now": lambda store: store.now(),
    "read": lambda store: whole(store, "a"),
    "create": lambda store: store.create("new", b"ours"),
    "swap": lambda store: store.swap("a", b"ours", "1"),
    "put": lambda store: store.put("new", [b"ours"]),
}


@pytest.mark.parametrize("operation", ACTIONS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_fails_three_times_is_done_once(operation: str, after: bool, clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.create("a", b"x")
    memory.fail(operation, lost(), after, times=1 if operation in ("swap", "create", "put") else 3)
    ACTIONS[operation](patient(memory, clock, said))
    assert clock.slept
    assert "memory: trying again, 0 s of 60 s: connection reset" in said
    if operation in ("create", "put"):
        assert memory.contents()["new"] == b"ours"


@pytest.mark.parametrize("operation", ACTIONS)
def test_what_does_not_pass_is_not_tried_again(operation: str, clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.create("a", b"x")
    memory.fail(operation, Refused("memory", "wrong key"))
    with pytest.raises(Refused):
        ACTIONS[operation](patient(memory, clock, said))
    assert (clock.slept, said) == ([], [])


def test_patience_has_an_end_and_its_pauses_grow_up_to_a_limit(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.fail("list", lost("slow down"), times=10_000)
    with pytest.raises(StoreError, match="slow down"):
        patient(memory, clock, said, limit=300).list("")
    assert 299 < clock.time - 100 <= 301
    assert clock.slept[0] <= 0.5
    assert max(clock.slept) <= 20
    assert len(clock.slept) > 15
    assert len({round(pause, 6) for pause in clock.slept[6:-1]}) > 3  # chance keeps those apart that failed together


def test_a_reading_goes_on_where_it_broke(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    data = content(9 * BLOCK)
    memory.put("a", [data])
    starts: list[int] = []
    read = memory.read

    def noted(key: str, start: int = 0) -> Iterator[bytes]:
        starts.append(start)
        return read(key, start)

    memory.read = noted  # type: ignore[method-assign]
    memory.fail("read", lost(), after=True, times=4)
    assert whole(patient(memory, clock, said), "a", 5) == data[5:]
    assert starts == [5 + number * BLOCK for number in range(5)]


def test_a_reading_that_stands_still_ends_and_one_that_moves_does_not(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.put("a", [content(12 * BLOCK)])
    memory.before = lambda operation, key: clock.sleep(50) if operation == "read" else None
    memory.fail("read", lost(), after=True, times=10)
    assert len(whole(patient(memory, clock, said, limit=60), "a")) == 12 * BLOCK
    memory.fail("read", lost("gone"), times=10_000)
    with pytest.raises(StoreError, match="gone"):
        whole(patient(memory, clock, said, limit=60), "a")


def test_a_stream_is_not_put_twice(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.fail("put", lost())
    with pytest.raises(StoreError):
        patient(memory, clock, said).put("a", iter([b"x"]))
    assert (clock.slept, memory.contents()) == ([], {})


def test_a_create_whose_answer_was_lost_is_not_told_as_anothers(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.fail("create", lost(), after=True)
    version = patient(memory, clock, said).create("a", b"ours")
    assert memory.get("a") == (b"ours", version)
    memory.create("b", b"theirs")
    memory.fail("create", lost(), after=False)
    with pytest.raises(Exists):
        patient(memory, clock, said).create("b", b"ours")
    with pytest.raises(Exists):
        patient(memory, clock, said).create("a", b"ours")  # nothing was lost this time: it was there before


def test_a_swap_whose_answer_was_lost_is_told_as_what_it_was(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    first = memory.create("a", b"one")
    memory.fail("swap", lost(), after=True)
    second = patient(memory, clock, said).swap("a", b"ours", first)
    assert memory.get("a") == (b"ours", second)
    memory.swap("a", b"theirs", second)
    memory.fail("swap", lost(), after=False)
    with pytest.raises(Changed):
        patient(memory, clock, said).swap("a", b"ours again", second)
    memory.fail("swap", lost(), after=False)
    memory.delete("a")
    with pytest.raises(Changed):
        patient(memory, clock, said).swap("a", b"ours again", second)


def test_a_put_whose_answer_was_lost_is_told_as_what_it_was(clock: Clock, said: list[str]) -> None:
    memory = Memory()
    memory.fail("put", lost(), after=True)
    assert patient(memory, clock, said).put("a", [b"ou", b"rs"]) == 4
    memory.fail("put", lost(), after=False)
    with pytest.raises(Exists):
        patient(memory, clock, said).put("a", [b"others"])


def test_a_store_that_forgets_fails_its_probe() -> None:
    memory = Memory(forgets=True)
    with pytest.raises(StoreError, match="does not have what it said it took"):
        memory.probe()


@pytest.mark.parametrize("lies", ["create", "swap"])
def test_a_store_that_swaps_without_comparing_does_not_share(lies: str) -> None:
    class Overwrites(Memory):
        def create(self, key: str, content: bytes) -> str:
            if lies == "create":
                self.delete(key)
            return super().create(key, content)

        def swap(self, key: str, content: bytes, version: str) -> str:
            return super().swap(key, content, self.get(key)[1] if lies == "swap" else version)

    store = Overwrites()
    store.probe()
    assert not store.shares
    assert store.contents() == {}


def test_memory_keeps_what_is_locked_until_the_time_is_over() -> None:
    now = [1000.0]
    memory = Memory(clock=lambda: now[0])
    memory.put("a", [b"x"])
    memory.hold("a", 2000.0)
    assert memory.locked_until("a") == 2000.0
    with pytest.raises(Locked):
        memory.delete("a")
    now[0] = 2001.0
    assert memory.locked_until("a") is None
    memory.delete("a")


def test_memory_sweeps_what_was_abandoned_and_is_old() -> None:
    now = [1000.0]
    memory = Memory(clock=lambda: now[0])
    memory.abandon("a")
    now[0] = 1100.0
    memory.abandon("b")
    assert memory.sweep(50) == ["a"]
    assert memory.sweep(50) == []
    assert memory.sweep(-1) == ["b"]


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = StoreError("offsite", "the disk is gone", "mount it")
    assert str(error) == "offsite: the disk is gone (mount it)"
    assert str(error.problem()) == str(error)
    assert isinstance(Missing("offsite", "x"), StoreError)


@pytest.mark.parametrize(
    ("said", "passing"),
    [
        ("dial tcp 192.0.2.1:22: connect: connection refused", True),
        ("read: connection reset by peer", True),
        ("unexpected EOF", True),
        ("429 Too Many Requests", True),
        ("HTTP 503 Service Unavailable", True),
        ("SSH: handshake failed: unable to authenticate", False),
        ("directory not found", False),
        ("wrote 5034 bytes", False),
    ],
)
def test_what_passes_is_told_from_what_was_said(said: str, passing: bool) -> None:
    assert passes(said) is passing


def test_the_model_opens_a_folder_with_patience(tmp_path: Path) -> None:
    store = openstore.open_store(Given("local", folder=str(tmp_path / "s")), {"unused": Secret("x")}, print)
    assert isinstance(store, Patient)
    store.probe()
    assert (store.name, store.place, store.shares) == ("local", str(tmp_path / "s"), True)
    assert folders._LOCK in os.listdir(tmp_path / "s")


@pytest.mark.parametrize("operation", ["create", "swap", "put"])
def test_nobody_waits_for_one_who_is_stopped_while_his_bytes_go_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    mine, other = (Folder("f", tmp_path / "store", wait=0.0) for _ in range(2))
    mine.probe()
    version = mine.create("lease", b"one")
    there = mine.create("other", b"two")
    real, said = os.fsync, list[str]()

    def stopped(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        said.append(other.swap("other", b"three", there))
        other.create("another", b"four")
        other.delete("another")
        real(handle)

    monkeypatch.setattr(os, "fsync", stopped)
    actions: dict[str, Callable[[], object]] = {
        "create": lambda: mine.create("new", b"x"),
        "swap": lambda: mine.swap("lease", b"x", version),
        "put": lambda: mine.put("new", [b"x"]),
    }
    actions[operation]()
    assert said

"""The reader of bbolt files: what real etcd wrote, what bbolt may write besides, and what is not sound."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import boltfile
import etcd
from boltfile import Draft
from i12e.bolt import Bolt
from i12e.damaged import Damaged
from sweeps import sampled

TRAILER = 32  # etcd's hash behind the bbolt file
PAGE = 4096
KEYS = st.binary(min_size=1, max_size=40)
VALUES = st.binary(max_size=60) | st.binary(min_size=300, max_size=5000)
_files: list[Any] = []
BUCKETS: Any = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=60), max_size=6)


def opened(content: bytes) -> Bolt:
    """Given a file's content, open it until the test ends."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - _closed closes it
    _files.append(file)
    file.write(content)
    file.flush()
    return Bolt(file, len(content))


def checked(content: bytes) -> None:
    """Given a file's content, check it."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        Bolt(file, len(content)).check()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _files:
        _files.pop().close()


def why(content: bytes) -> str:
    """Given a file that is not sound, return why."""
    with pytest.raises(Damaged) as caught:
        checked(content)
    return caught.value.why


def draft(**more: Any) -> Draft:
    """Return a file of three buckets: a tree of two levels, an inline one, and one with a key of several pages."""
    rows = {b"%03d" % number: b"x" * 100 for number in range(200)}
    return Draft({b"big": {b"one": b"y" * 10_000}, b"inline": {b"a": b"1"}, b"tree": rows}, **more)


@pytest.fixture(params=["history", "compacted", "defragmented"])
def taken(request: pytest.FixtureRequest) -> etcd.Taken:
    """A real snapshot."""
    return etcd.snapshots()[request.param]


def test_what_etcd_wrote_is_sound_and_all_of_it_is_read(taken: etcd.Taken) -> None:
    bolt = opened(taken.content[:-TRAILER])
    entries = list(bolt.entries())
    assert len(entries) == taken.status["totalKey"]
    assert bolt.pages * PAGE == taken.status["totalSize"]
    assert {"key", "meta", "members", "cluster"} <= {bucket.decode() for bucket, _, _ in entries}


def test_etcdctl_has_the_same_hash_over_all_that_was_read(taken: etcd.Taken) -> None:
    """It hashes each bucket's name, then its keys and values."""
    bolt = opened(taken.content[:-TRAILER])
    data = b""
    for name, _ in bolt._top(_seen(bolt)):
        data += name + b"".join(key + value for key, value in bolt.bucket(name))
    assert crc32c(data) == taken.status["hash"]


def test_a_bucket_is_read_from_any_key_on(taken: etcd.Taken) -> None:
    bolt = opened(taken.content[:-TRAILER])
    rows = list(bolt.bucket(b"key"))
    assert len(rows) > 100
    for at in range(0, len(rows), 17):
        assert list(bolt.bucket(b"key", rows[at][0])) == rows[at:]
        assert list(bolt.bucket(b"key", rows[at][0] + b"\0")) == rows[at + 1 :]
    assert list(bolt.bucket(b"key", b"\xff")) == []
    assert list(bolt.bucket(b"no such bucket")) == []


def _seen(bolt: Bolt) -> Any:
    from i12e.bolt import _Seen

    return _Seen(bolt.pages)


@settings(max_examples=40, deadline=None)
@given(buckets=BUCKETS, per_page=st.integers(2, 9), size=st.sampled_from([1024, 4096, 16384, 65536]))
def test_any_buckets_with_any_keys_and_values_are_read_as_they_were_written(
    buckets: dict[bytes, dict[bytes, bytes]], per_page: int, size: int
) -> None:
    bolt = opened(Draft(buckets, size, per_page).content())
    expected = [(name, *row) for name, rows in sorted(buckets.items()) for row in sorted(rows.items())]
    assert list(bolt.entries()) == expected
    for name, rows in buckets.items():
        assert list(bolt.bucket(name)) == sorted(rows.items())


def test_buckets_in_buckets_are_checked_and_not_given() -> None:
    rows = {b"%02d" % number: b"z" * 300 for number in range(40)}
    file = Draft({b"outer": {b"a": b"1", b"inner": {b"deep": {b"x": b"y"}, **rows}}})
    assert list(opened(file.content()).entries()) == [(b"outer", b"a", b"1")]
    inner = next(number for number, page in file.pages.items() if b"z" * 300 in page)
    file.pages[inner][8] = boltfile.BRANCH
    assert "element" in why(file.content())


@pytest.mark.parametrize("many", [False, True])
def test_a_list_of_free_pages_is_held_against_the_pages_in_use(many: bool) -> None:
    file = draft()
    unused = file.add(boltfile.LEAF, b"", 0)
    file.free([unused], many)
    opened(file.content()).check()
    file = draft()
    file.free([next(iter(file.pages))], many)
    assert why(file.content()).endswith("is both free and in use, or free twice")
    file = draft()
    unused = file.add(boltfile.LEAF, b"", 0)
    file.free([unused, unused], many)
    assert why(file.content()) == f"page {unused} is both free and in use, or free twice"
    file = draft()
    unused = file.add(boltfile.LEAF, b"", 0)
    file.free([], many)
    assert why(file.content()) == f"page {unused} is neither in use nor free"
    file = draft()
    file.free([10**6], many)
    assert why(file.content()) == "there is no page 1000000, which is said to be free"


def test_a_list_of_free_pages_that_lies_about_its_length_is_not_believed() -> None:
    file = draft()
    file.free([], many=True)
    struct.pack_into("<Q", file.pages[file.freelist], 16, 2**63)
    assert why(file.content()) == "the list of free pages is longer than its page"


def test_the_newer_valid_meta_page_holds_and_a_snapshot_needs_both() -> None:
    content = bytearray(draft().content())
    assert opened(bytes(content))._meta.txid == 7
    content[PAGE + 30] ^= 1
    assert opened(bytes(content))._meta.txid == 7
    assert why(bytes(content)) == "meta page 1 does not fit its checksum"
    content[PAGE + 30] ^= 1
    content[30] ^= 1
    assert opened(bytes(content))._meta.txid == 6
    assert why(bytes(content)) == "meta page 0 does not fit its checksum"
    content[PAGE + 30] ^= 1
    assert why(bytes(content)).startswith("no valid meta page")


def flagged(file: Draft, flags: int, least: int = 1) -> int:
    """Given a file, return the number of its first page of a kind with at least some elements."""
    return next(n for n, page in file.pages.items() if page[8] == flags and page[10] >= least)


def loop(file: Draft) -> None:
    """Let a branch point to itself."""
    number = flagged(file, boltfile.BRANCH)
    struct.pack_into("<Q", file.pages[number], 16 + 8, number)


def shared(file: Draft) -> None:
    """Let two elements of a branch point to one page."""
    number = flagged(file, boltfile.BRANCH, 2)
    file.pages[number][16 + 8 : 16 + 16] = file.pages[number][32 + 8 : 32 + 16]


def outside(file: Draft) -> None:
    """Let a branch point to a page behind the end."""
    struct.pack_into("<Q", file.pages[flagged(file, boltfile.BRANCH)], 16 + 8, 2**60)


def meta(file: Draft) -> None:
    """Let a branch point to a meta page."""
    struct.pack_into("<Q", file.pages[flagged(file, boltfile.BRANCH)], 16 + 8, 1)


def huge_overflow(file: Draft) -> None:
    """Let a page be longer than the file."""
    struct.pack_into("<I", file.pages[flagged(file, boltfile.LEAF)], 12, 2**32 - 1)


def huge_count(file: Draft) -> None:
    """Let a page have more elements than fit."""
    struct.pack_into("<H", file.pages[flagged(file, boltfile.LEAF)], 10, 65535)


def huge_value(file: Draft) -> None:
    """Let a value reach behind its page."""
    struct.pack_into("<I", file.pages[flagged(file, boltfile.LEAF)], 16 + 12, 2**32 - 1)


def huge_key(file: Draft) -> None:
    """Let a branch's key reach behind its page."""
    struct.pack_into("<I", file.pages[flagged(file, boltfile.BRANCH)], 16 + 4, 2**32 - 1)


def moved(file: Draft) -> None:
    """Let an element lie in the one before it."""
    page = file.pages[flagged(file, boltfile.LEAF, 2)]
    (pos,) = struct.unpack_from("<I", page, 32 + 4)
    struct.pack_into("<I", page, 32 + 4, pos - 1)


def empty(file: Draft) -> None:
    """Let a leaf below a branch lose all its elements."""
    page = file.pages[flagged(file, boltfile.LEAF, 8)]
    struct.pack_into("<H", page, 10, 0)


def flags(file: Draft) -> None:
    """Let a page be of two kinds."""
    file.pages[flagged(file, boltfile.LEAF)][8] = boltfile.LEAF | boltfile.BRANCH


def unordered(file: Draft) -> None:
    """Let two keys of a leaf be the wrong way round."""
    page = file.pages[flagged(file, boltfile.LEAF, 8)]
    first, second = page.index(b"000"), page.index(b"001")
    page[first : first + 3], page[second : second + 3] = b"001", b"000"


def too_low(file: Draft) -> None:
    """Let a leaf's first key be below what the branch says."""
    page = file.pages[[n for n, page in file.pages.items() if page[8] == boltfile.LEAF and page[10] == 8][1]]
    at = page.index(b"008")
    page[at : at + 3] = b"007"


def too_high(file: Draft) -> None:
    """Let a leaf's last key be one of the next leaf."""
    page = file.pages[flagged(file, boltfile.LEAF, 8)]
    at = page.index(b"007")
    page[at : at + 3] = b"008"


def bare_key(file: Draft) -> None:
    """Let the root have a key that is no bucket."""
    file.pages[file.root][16] = 0


FAULTS = [
    *(loop, shared, outside, meta, huge_overflow, huge_count, huge_value, huge_key, moved, empty, flags),
    *(unordered, too_low, too_high, bare_key),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_what_is_not_sound_is_damaged(fault: Callable[[Draft], None]) -> None:
    file = draft()
    opened(file.content()).check()
    fault(file)
    assert why(file.content())


def test_a_tree_as_deep_as_the_file_has_pages_is_read_without_recursion() -> None:
    file = Draft({})
    child = file.add(boltfile.LEAF, boltfile.leaf([(0, b"k", b"v")]), 1)
    for _ in range(3000):
        child = file.add(boltfile.BRANCH, boltfile.branch([(b"k", child)]), 1)
    row = (1, b"deep", struct.pack("<QQ", child, 0))
    file.root = file.add(boltfile.LEAF, boltfile.leaf([row]), 1)
    assert list(opened(file.content()).entries()) == [(b"deep", b"k", b"v")]


def test_a_bucket_that_is_nested_in_itself_ends() -> None:
    file = Draft({})
    number = file.high_water
    file.add(boltfile.LEAF, boltfile.leaf([(1, b"again", struct.pack("<QQ", number, 0))]), 1)
    row = (1, b"top", struct.pack("<QQ", number, 0))
    file.root = file.add(boltfile.LEAF, boltfile.leaf([row]), 1)
    assert why(file.content()) == f"page {number} is in use twice"


@pytest.mark.parametrize("size", [0, 1, 79, 80, 4096, 8192])
def test_a_file_that_is_cut_early_is_damaged(size: int) -> None:
    assert why(etcd.snapshots()["history"].content[:size])


def in_use(content: bytes) -> list[int]:
    """Given a sound file, return the first page of each that is in use, but for the meta pages."""
    bolt = opened(content)
    seen = _seen(bolt)
    pages: list[int] = []
    add = seen.add

    def noted(number: int, count: int) -> None:
        pages.append(number)
        add(number, count)

    seen.add = noted
    for _, value in bolt._top(seen):
        list(bolt._bucket(value, "", seen))
    return pages


def test_every_page_in_use_that_is_zeroed_or_swapped_or_cut_is_noticed() -> None:
    content = etcd.snapshots()["defragmented"].content[:-TRAILER]
    pages = in_use(content)
    assert len(pages) > 20
    for number in pages:
        at = number * PAGE
        assert why(content[:at] + bytes(PAGE) + content[at + PAGE :])
        other = pages[pages.index(number) - 1] * PAGE
        swapped = bytearray(content)
        swapped[at : at + PAGE], swapped[other : other + PAGE] = content[other : other + PAGE], content[at : at + PAGE]
        assert why(bytes(swapped))
        assert why(content[: at + PAGE - 1])


def broken(content: bytes, chance: random.Random) -> bytes:
    """Given a file, return it with one to three faults in places that decide: page headers and tables of elements."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        page = chance.randrange(len(content) // PAGE) * PAGE
        at = page + chance.randrange(chance.choice((16, 80, 400, PAGE)))
        if chance.random() < 0.5:
            changed[at] ^= 1 << chance.randrange(8)
        else:
            size = chance.choice((1, 2, 4, 8))
            changed[at : at + size] = chance.choice((b"\xff" * size, bytes(size), chance.randbytes(size)))
    return bytes(changed[: len(content)])


def sweep(seed: int, rounds: int) -> int:
    """Given a seed, break the file that often; return how often that was noticed. Anything but Damaged is a failure."""
    chance = random.Random(seed)  # noqa: S311 - a sweep, not a secret
    noticed = 0
    for _ in range(rounds):
        name = chance.choice(("defragmented", "history"))
        content = broken(etcd.snapshots()[name].content[:-TRAILER], chance)
        try:
            checked(content)
        except Damaged:
            noticed += 1
    return noticed


def test_a_broken_file_is_damaged_or_read_and_nothing_else_happens() -> None:
    """Where the hash behind it does not help: what hits only values or unused bytes is not noticed, and need not be."""
    assert sweep(6, 200) > 100


@pytest.mark.slow
def test_thousands_of_broken_files_are_damaged_or_read_and_nothing_else_happens() -> None:
    assert sweep(7, sampled(10_000)) > sampled(10_000) / 2


def crc32c(data: bytes) -> int:
    """Given bytes, return their CRC-32C (Castagnoli), which etcdctl calls the hash of a snapshot."""
    table = []
    for byte in range(256):
        number = byte
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    number = 0xFFFFFFFF
    for byte in data:
        number = number >> 8 ^ table[(number ^ byte) & 0xFF]
    return number ^ 0xFFFFFFFF

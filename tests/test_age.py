"""Sealed streams: the real age opens them, and what is not what was sealed is never taken for it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from i12e import age
from i12e.programs import which
from i12e.secrets import Secret


def sealed_of(content: bytes, *recipients: str) -> bytes:
    return age.seal_small(content, recipients)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_000])
def test_what_is_sealed_is_opened_by_each_of_its_keys_and_by_no_other(size: int) -> None:
    (first, one), (second, two), (other, _) = age.make(), age.make(), age.make()
    content = os.urandom(size)
    sealed = sealed_of(content, one, two)
    assert age.open_small(sealed, [first]) == content
    assert age.open_small(sealed, [other, second]) == content
    with pytest.raises(age.NotOpened):
        age.open_small(sealed, [other])


def test_the_real_age_opens_it(tmp_path: Path) -> None:
    program = which("age")
    need(program is not None, "age")
    private, recipient = age.make()
    content = os.urandom(200_000)
    (tmp_path / "sealed").write_bytes(sealed_of(content, recipient))
    (tmp_path / "key").write_text(private.reveal())
    done = subprocess.run(
        [str(program), "-d", "-i", tmp_path / "key", tmp_path / "sealed"], capture_output=True, check=True
    )
    assert done.stdout == content


def test_a_stream_that_was_changed_anywhere_is_not_opened() -> None:
    private, recipient = age.make()
    sealed = sealed_of(os.urandom(150_000), recipient)
    chance = random.Random(0)  # noqa: S311  # places to spoil
    places = [*range(0, 250, 7), *(chance.randrange(len(sealed)) for _ in range(200))]
    for place in places:
        spoilt = bytearray(sealed)
        spoilt[place] ^= 1 << chance.randrange(8)
        with pytest.raises(age.NotOpened):
            age.open_small(bytes(spoilt), [private])
    for length in [0, 1, 100, 200, *(chance.randrange(len(sealed)) for _ in range(50)), len(sealed) - 1]:
        with pytest.raises(age.NotOpened):
            age.open_small(sealed[:length], [private])
    with pytest.raises(age.NotOpened):
        age.open_small(sealed + b"x", [private])


class _Broken(Exception):
    pass


def _breaks(after: int) -> Iterator[bytes]:
    for _ in range(after):
        yield bytes(100_000)
    raise _Broken


@pytest.mark.parametrize("error", [_Broken, KeyboardInterrupt, SystemExit])
def test_what_the_source_or_the_taker_raises_comes_out_as_it_is(error: type[BaseException]) -> None:
    private, recipient = age.make()

    def take(block: bytes) -> None:
        raise error

    with pytest.raises(_Broken):
        age.seal(_breaks(30), [recipient], lambda block: None)
    with pytest.raises(error):
        age.seal([bytes(3_000_000)], [recipient], take)
    with pytest.raises(error):
        age.open_sealed([sealed_of(bytes(3_000_000), recipient)], [private], take)


def test_a_private_key_has_a_recipient_and_other_text_has_none() -> None:
    private, recipient = age.make()
    assert age.recipient_of(private) == recipient
    assert age.recipient_of(Secret("AGE-SECRET-KEY-1")) == ""
    assert age.is_recipient(recipient)
    assert not age.is_recipient(recipient[:-1])

"""k3s's tokens and the row that a token opens."""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rows
from i12e import ciphers, tokens
from i12e.damaged import Damaged
from i12e.secrets import Secret

FILES = {"ServerCA": "-----BEGIN CERTIFICATE-----\n", "EncryptionConfig": "{}", "IPSECKey": "", "Passwd": "a,b,c\n"}


@pytest.mark.parametrize(
    ("token", "password"),
    [
        ("simple", "simple"),
        ("simple\n", "simple"),
        ("with:colons::in it", "with:colons::in it"),
        (rows.FULL_TOKEN, rows.TOKEN),
        (f"K10{'ab' * 32}::server:pass:with::colons", "pass:with::colons"),
        (f"K10{'ab' * 32}::node:abc", "abc"),
        ("K10::server:abc", "abc"),
        ("K10server:abc", "abc"),
    ],
)
def test_the_password_is_what_k3s_takes_for_it(token: str, password: str) -> None:
    assert tokens.password(Secret(token)).reveal() == password


CA = "ab" * 32
NO_TOKENS = [
    *("", " \n", "K10", "K10abc", "K10abcd::server:x", f"K10{CA}::server:", f"K10{CA}::nouser"),
    *("abcdef.0123456789abcdef", f"K10{CA}::abcdef.0123456789abcdef"),
]


@pytest.mark.parametrize("token", NO_TOKENS)
def test_what_is_no_server_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(tokens.NoToken) as caught:
        tokens.password(Secret(token))
    assert "abcdef" not in str(caught.value)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_no_text_makes_it_fail_otherwise(token: str) -> None:
    with contextlib.suppress(tokens.NoToken):
        assert tokens.password(Secret(token)).reveal()


def test_the_short_and_the_full_token_have_the_same_row() -> None:
    digits = hashlib.sha256(rows.TOKEN.encode()).hexdigest()[:12]
    for token in (rows.TOKEN, rows.FULL_TOKEN):
        assert tokens.hash12(Secret(token)) == digits
        assert tokens.row_name(Secret(token)) == f"/bootstrap/{digits}"


def test_a_row_opens_with_its_token() -> None:
    value = rows.row(FILES)
    for token in (rows.TOKEN, rows.FULL_TOKEN):
        opened = tokens.open_row(value, Secret(token))
        assert {name: content.reveal() for name, content in opened.items()} == FILES


def test_the_key_is_made_as_rfc_6070_has_it() -> None:
    """Its fourth test vector has as many rounds as k3s; the first 20 of our 32 bytes are the same."""
    made = ciphers.key_of_password(b"password", b"salt")
    assert made[:20].hex() == "4b007901b765489abead49d926f721d065a429c1"
    assert len(made) == 32


def test_another_token_does_not_open_it() -> None:
    with pytest.raises(tokens.WrongToken):
        tokens.open_row(rows.row(FILES), Secret("another"))


@pytest.mark.parametrize("value", [b"", b"no colon", b"salt:", b"salt:AAAA", b"salt:***", b"salt:A", b":" * 100])
def test_a_value_that_is_no_row_is_damaged_or_does_not_open(value: bytes) -> None:
    with pytest.raises((Damaged, tokens.WrongToken)):
        tokens.open_row(value, Secret(rows.TOKEN))


OTHER_CONTENTS = [
    *(b"", b"{", b"[]", b"{}", b'"planted"', b'{"a": 1}', b'{"a": {"Content": 5}}', b'{"a": {"Content": "?planted"}}'),
    *(b'{"a": {"Content": "\xff"}}', b"[" * 100_000),
]


@pytest.mark.parametrize("plain", OTHER_CONTENTS, ids=range(len(OTHER_CONTENTS)))
def test_a_row_that_opens_and_holds_something_else_is_damaged_and_not_shown(plain: bytes) -> None:
    with pytest.raises(Damaged) as caught:
        tokens.open_row(rows.sealed(plain, rows.TOKEN), Secret(rows.TOKEN))
    assert "planted" not in str(caught.value)


def test_a_file_without_content_is_empty() -> None:
    plain = b'{"a": {"Timestamp": "2026-01-02T03:04:05Z", "Content": null}, "b": {}}'
    opened = tokens.open_row(rows.sealed(plain, rows.TOKEN), Secret(rows.TOKEN))
    assert {name: content.reveal() for name, content in opened.items()} == {"a": "", "b": ""}


def test_each_changed_bit_of_a_row_is_noticed() -> None:
    value = rows.row({"ServerCA": "x"})
    chance = random.Random(6)  # noqa: S311 - places to spoil
    for at in chance.sample(range(len(value)), 60):
        spoilt = bytearray(value)
        spoilt[at] ^= 1 << chance.randrange(6)  # the upper bits of letters are what base64 may not tell apart
        if bytes(spoilt) != value:
            with pytest.raises((Damaged, tokens.WrongToken)):
                tokens.open_row(bytes(spoilt), Secret(rows.TOKEN))


def test_no_secret_is_in_what_is_printed() -> None:
    opened = tokens.open_row(rows.row(FILES), Secret(rows.TOKEN))
    assert "CERTIFICATE" not in repr(opened)
    assert rows.TOKEN not in repr(tokens.password(Secret(rows.FULL_TOKEN)))

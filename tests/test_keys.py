"""age keys: found where sops finds them, made, saved, and told apart from what is none."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from i12e import keys, programs
from i12e.fields import Wrong
from i12e.secrets import DEMO_KEY

HOME = {"HOME": "/home/me"}


@pytest.mark.parametrize(
    ("environ", "platform", "file"),
    [
        (HOME, "linux", "/home/me/.config/sops/age/keys.txt"),
        (HOME, "darwin", "/home/me/Library/Application Support/sops/age/keys.txt"),
        ({**HOME, "XDG_CONFIG_HOME": "/xdg"}, "linux", "/xdg/sops/age/keys.txt"),
        ({**HOME, "XDG_CONFIG_HOME": "/xdg"}, "darwin", "/xdg/sops/age/keys.txt"),
        ({**HOME, "XDG_CONFIG_HOME": ""}, "linux", "/home/me/.config/sops/age/keys.txt"),
        ({**HOME, "SOPS_AGE_KEY_FILE": "/there/key"}, "darwin", "/there/key"),
        ({**HOME, "SOPS_AGE_KEY_FILE": ""}, "linux", "/home/me/.config/sops/age/keys.txt"),
    ],
)
def test_a_key_belongs_where_sops_looks_for_it(environ: dict[str, str], platform: str, file: str) -> None:
    assert keys.key_file(environ, platform) == Path(file)


def test_a_new_key_is_saved_private_and_the_real_sops_opens_with_it(tmp_path: Path) -> None:
    pair = keys.make()
    file = keys.key_file(os.environ, sys.platform)
    assert keys.save(pair, file)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    flags = ("--disable-version-check", "--config", "/dev/null")
    yaml = ("--input-type", "yaml", "--output-type", "yaml", "/dev/stdin")
    done = programs.run(programs.sops(), *flags, "encrypt", "--age", pair.recipient, *yaml, stdin="a: b\n")
    opened = programs.run(programs.sops(), *flags, "decrypt", *yaml, stdin=done.output)
    assert opened.output == "a: b\n"


def test_a_key_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert keys.save(keys.make(), file)
    before = file.read_bytes()
    assert not keys.save(keys.make(), file)
    assert file.read_bytes() == before


def test_keys_are_found_in_all_places_where_sops_looks(tmp_path: Path) -> None:
    pairs = [keys.make() for _ in range(4)]
    keys.save(pairs[1], tmp_path / "named")
    keys.save(pairs[2], tmp_path / "printed")
    keys.save(pairs[3], keys.key_file(os.environ))
    environ = {
        **os.environ,
        "SOPS_AGE_KEY": pairs[0].private.reveal(),
        "SOPS_AGE_KEY_FILE": str(tmp_path / "named"),
        "SOPS_AGE_KEY_CMD": f"cat {tmp_path / 'printed'}",
    }
    assert keys.found(environ) == [pair.recipient for pair in pairs]


def test_what_is_no_key_is_not_found_and_several_in_a_file_are(tmp_path: Path) -> None:
    first, second = keys.make(), keys.make()
    text = f"# x\nAGE-SECRET-KEY-1WRONG\nAGE-PLUGIN-YUBIKEY-1ABC\n{first.private.reveal()}\n\n{second.private.reveal()}"
    (tmp_path / "key").write_text(text)
    assert keys.found({"HOME": "/x", "SOPS_AGE_KEY_FILE": str(tmp_path / "key")}) == [
        first.recipient,
        second.recipient,
    ]
    assert keys.found({"HOME": str(tmp_path)}) == []


def test_a_key_does_not_show(tmp_path: Path) -> None:
    pair = keys.make()
    assert "SECRET" not in repr(pair) + str(pair) + f"{pair.private}"


PUBLIC = "age1vzan8lmrydhvx2qdh537kvfcshc6p7tl5h6en2r7f8j0kf06pswq09w4g9"


@pytest.mark.parametrize("text", [PUBLIC, "age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt"])
def test_a_public_key_is_taken(text: str) -> None:
    assert keys.recipient(text) == text


@pytest.mark.parametrize("text", ["", "age1", "age1abc", PUBLIC[:-1] + "b1", "ssh-ed25519 AAAA", "me"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(Wrong, match="is not an age public key") as caught:
        keys.recipient(text)
    assert caught.value.show


def test_a_private_key_is_refused_without_being_shown() -> None:
    for text in (keys.make().private.reveal(), (ROOT / DEMO_KEY).read_text(), keys.make().private.reveal().lower()):
        with pytest.raises(Wrong, match="PRIVATE key") as caught:
            keys.recipient(text)
        assert not caught.value.show

"""The store behind rclone: the real rclone, with a local remote and with an encrypted one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from i12e import openstore, programs
from i12e.rclone import Rclone
from i12e.secrets import Secret
from i12e.stores import BLOCK, Full, Missing, NotThere, Refused, StoreError
from store_suite import Given, Place, Processes, Suite, content, whole

PLANTED = "planted-SECRET-value"


@pytest.fixture(scope="session")
def program() -> str:
    """The path of the real rclone."""
    try:
        return programs.rclone()
    except programs.Missing as missing:
        need(None, str(missing))
        raise


def place_at(remote: str, conf: str | None) -> Place:
    """Given a remote, return a place in it."""
    store = Rclone("elsewhere", remote, conf)
    store._ran("mkdir", remote)  # probe() has a test of its own, and starts rclone 20 times
    credentials = {} if conf is None else {"rclone_conf": conf}
    return Place(store, {"name": "elsewhere", "rclone": remote}, credentials, many=12, shares=False)


@pytest.mark.slow
class TestLocal(Suite, Processes):
    """A local remote."""

    @pytest.fixture
    def place(self, tmp_path: Path, program: str) -> Place:
        return place_at(f"disk:{tmp_path}/store", "[disk]\ntype = local\n")


@pytest.mark.slow
class TestCrypt(Suite, Processes):
    """An encrypted remote over a local one: names and contents are encrypted by rclone."""

    @pytest.fixture
    def place(self, tmp_path: Path, program: str) -> Place:
        return place_at("safe:below", crypt(tmp_path, obscured(program)))

    def test_nothing_is_there_in_clear(self, place: Place, tmp_path: Path) -> None:
        place.store.put(place.key("name-in-clear"), [b"content in clear " * 100])
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if "name-in-clear" in str(path) or b"in clear" in path.read_bytes()]


def obscured(program: str) -> str:
    """Return a password as rclone.conf has it."""
    done = programs.run(program, "obscure", "-", stdin="a pass phrase")
    assert done.status == 0, done.complaint
    return done.output.strip()


def crypt(folder: Path, password: str) -> str:
    """Given a folder, return an rclone.conf with an encrypted remote in it."""
    return f"[Disk]\ntype = local\n\n[safe]\ntype = crypt\nremote = Disk:{folder}/sealed\npassword = {password}\n"


@pytest.fixture
def store(tmp_path: Path, program: str) -> Rclone:
    made = Rclone("elsewhere", f"disk:{tmp_path}/store", f"[disk]\ntype = local\nsecret_thing = {PLANTED}\n")
    (tmp_path / "store").mkdir()
    return made


def fake(tmp_path: Path, script: str) -> Rclone:
    """Given what a stand-in for rclone does, as a shell script, return a store that uses it."""
    place = tmp_path / "rclone"
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return Rclone("elsewhere", "b2:bucket", f"[b2]\ntype = b2\nkey = {PLANTED}\n", str(place))


def test_no_secret_is_in_the_arguments_and_the_users_own_config_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCLONE_CONFIG_B2_ACCOUNT", "the user's")
    monkeypatch.setenv("RCLONE_CONFIG", "/the/users")
    store = fake(tmp_path, f'echo "$@" >> {tmp_path}/args; env > {tmp_path}/env; echo "[]"')
    store.list("")
    assert PLANTED not in (tmp_path / "args").read_text()
    assert "--config= " in (tmp_path / "args").read_text()
    environ = (tmp_path / "env").read_text().splitlines()
    assert f"RCLONE_CONFIG_B2_KEY={PLANTED}" in environ
    assert [line for line in environ if "the" in line and "RCLONE" in line] == []


def test_without_a_config_of_its_own_the_users_is_read(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(os.environ["XDG_CONFIG_HOME"], "rclone/rclone.conf")
    config.parent.mkdir(parents=True)
    config.write_text(f"[mine-too]\ntype = alias\nremote = {tmp_path}/store\n")
    store = Rclone("elsewhere", "mine-too:")
    store.probe()
    store.put("a", [b"x"])
    assert (tmp_path / "store/a").read_bytes() == b"x"
    with pytest.raises(StoreError, match=r"didn't find section.*rclone_conf of its secrets has to describe"):
        Rclone("elsewhere", "mine-too:", "[other]\ntype = local\n").probe()


def test_messages_say_what_rclone_said_without_secrets(tmp_path: Path) -> None:
    said = f'{{"level":"error","msg":"failed with {PLANTED}: 403 Forbidden","time":"x"}}'
    store = fake(tmp_path, f"cat >/dev/null; echo '{said}' >&2; exit 1")
    for action in (
        lambda: store.put("a", [b"x"]),
        lambda: store.list(""),
        lambda: store.get("a"),
        lambda: store.delete("a"),
        store.probe,
    ):
        with pytest.raises(Refused, match=r"failed with \*\*\*: 403 Forbidden") as told:
            action()
        assert PLANTED not in repr(told.value)


@pytest.mark.parametrize(
    ("status", "said", "kind", "passing"),
    [
        (1, "write /x: no space left on device", Full, False),
        (1, "googleapi: Error 403: The user's Drive storage quota has been exceeded", Full, False),
        (1, "ssh: handshake failed: ssh: unable to authenticate", Refused, False),
        (1, "dial tcp: lookup b2.example: no such host", StoreError, True),
        (5, "something", StoreError, True),
        (7, "account is closed", StoreError, False),
        (1, "", StoreError, False),
    ],
)
def test_how_rclone_ended_is_told_apart(
    tmp_path: Path, status: int, said: str, kind: type[StoreError], passing: bool
) -> None:
    store = fake(tmp_path, f'cat >/dev/null; echo "{said}" >&2; exit {status}')
    with pytest.raises(StoreError, match=said.partition(":")[0] or "status 1") as told:
        store.list("")
    assert (type(told.value), told.value.passing) == (kind, passing)


def test_what_rclone_took_and_did_not_keep_is_noticed(tmp_path: Path) -> None:
    store = fake(tmp_path, 'case "$*" in *lsjson*) exit 3;; esac; cat >/dev/null')
    with pytest.raises(StoreError, match="said that it took the 3 bytes of a, and there are nothing"):
        store.put("a", [b"abc"])
    shorter = '{"Path":"a","Size":2,"ModTime":"2026-01-01T00:00:00Z","IsDir":false}'
    store = fake(tmp_path, f"case \"$*\" in *i12e-part*) echo '{shorter}';; *lsjson*) exit 3;; esac; cat >/dev/null")
    with pytest.raises(StoreError, match="said that it took the 3 bytes of a, and there are 2 bytes"):
        store.put("a", [b"abc"])


def test_a_reading_that_ends_too_early_is_noticed(tmp_path: Path) -> None:
    five = '{"Path":"a","Size":5,"ModTime":"2026-01-01T00:00:00Z","IsDir":false}'
    store = fake(tmp_path, f"case \"$*\" in *lsjson*) echo '{five}';; *) printf abc;; esac")
    with pytest.raises(StoreError, match="after 3 of 5 bytes") as told:
        whole(store, "a")
    assert told.value.passing


def test_an_rclone_that_dies_in_the_middle_is_noticed(tmp_path: Path) -> None:
    store = fake(tmp_path, 'case "$*" in *lsjson*) exit 3;; *rcat*) head -c 10 >/dev/null; kill -9 $$;; esac')
    with pytest.raises(StoreError, match="status -9") as told:
        store.put("a", [content(BLOCK) for _ in range(4)])
    assert told.value.passing


def test_a_source_that_breaks_ends_rclone_before_it_takes_that_for_the_end(store: Rclone, tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield content(3 * BLOCK)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.put("a", source())
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_sweep_removes_what_was_begun_long_ago(store: Rclone, tmp_path: Path) -> None:
    store.put("kept", [b"x"])
    parts = tmp_path / "store/.i12e-part"
    parts.mkdir(exist_ok=True)
    (parts / f"{time.time() - 7200:.0f}-00000000-backups%2Fold").write_bytes(b"x")
    (parts / f"{time.time() - 60:.0f}-00000000-backups%2Fyoung").write_bytes(b"x")
    copied = tmp_path / "store/copied.0123abcd.partial"
    copied.write_bytes(b"x")
    os.utime(copied, (0, 0))
    assert [entry.key for entry in store.list("")] == ["kept"]
    assert store.sweep(3600) == ["backups/old", "copied"]
    assert sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())[1:] == ["kept"]


def test_a_remote_that_is_not_there_is_not_an_empty_one(tmp_path: Path, program: str) -> None:
    store = Rclone("elsewhere", f"disk:{tmp_path}/away", "[disk]\ntype = local\n")
    for action in (lambda: store.list(""), lambda: store.list("backups/"), lambda: store.sweep(0)):
        with pytest.raises(NotThere, match="is it mounted"):
            action()
    with pytest.raises(Missing):
        store.get("a")
    store.probe()
    assert store.list("backups/") == []


@pytest.mark.parametrize(
    ("conf", "why"),
    [
        ("[a-b]\ntype = local\n", 'a remote "a-b"'),
        ("[ab]\ntype = local\n[AB]\ntype = local\n", "two remotes"),
        ("type = local\n", "no rclone.conf"),
        (f"[ab]\n{PLANTED}\n", "no rclone.conf"),
    ],
)
def test_a_config_that_the_environment_cannot_say_is_refused(conf: str, why: str) -> None:
    with pytest.raises(StoreError, match=why) as told:
        Rclone("elsewhere", "ab:x", conf)
    assert PLANTED not in str(told.value)


@pytest.mark.parametrize("remote", [":sftp,host=h,pass=secret:x", "b2,key=secret:x", "-x", ""])
def test_a_remote_that_would_show_its_secrets_is_refused(remote: str) -> None:
    with pytest.raises(StoreError, match="REMOTE:PATH") as told:
        Rclone("elsewhere", remote)
    assert "secret:" not in str(told.value)


def test_the_model_opens_a_remote(tmp_path: Path, program: str) -> None:
    conf = Secret("[disk]\ntype = local\n")
    given = Given("elsewhere", rclone=f"disk:{tmp_path}/s")
    store = openstore.open_store(given, {"rclone_conf": conf}, print)
    store.probe()
    assert (store.place, store.shares) == (f"rclone disk:{tmp_path}/s", False)


def test_of_names_that_begin_alike_no_other_folder_is_looked_into(
    store: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("home/big/1", "home.e2/epoch.json", "home.e2/backups/a", "home.e1", "home-2/x"):
        store.put(key, [b""])
    asked: list[str] = []
    named = Rclone._named

    def told(self: Rclone, folder: str, *options: str) -> Any:
        asked.append(folder)
        return named(self, folder, *options)

    monkeypatch.setattr(Rclone, "_named", told)
    assert [entry.key for entry in store.list("home.e")] == ["home.e1", "home.e2/backups/a", "home.e2/epoch.json"]
    assert asked == ["", "home.e2"]

"""What a spark is given, how it stands, and its script on a tree of our own, with the real rclone and the real age."""

from __future__ import annotations

import base64
import configparser
import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import ROOT, need
from i12e import age, alone, programs, sparking
from i12e.collect import Sentinel
from i12e.errors import UserError
from i12e.restoring import Job
from i12e.secrets import Secret
from i12e.sparking import ALONE, NONE, OVER, SPARK, Given, Piece
from test_deploy import HOSTS

JOB = Job("20261126T231252Z-63e260", "nas", "etcd", "lab", "uid-1", 3, "a" * 64, "me@here", 1795734772.0)
PROOF = alone.Proof("uid-1", {"namespaces": 1}, Sentinel("s", "v"), ["server-1"])
SCRIPT = ROOT / "templates/files/spark.sh"
DATABASE = b"a database " * 5000


def store(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "nas", "s3": None, "rclone": None, "folder": None, **more})


def s3(**more: Any) -> SimpleNamespace:
    made = {"bucket": "b", "region": "r", "endpoint": None, "path_style": False, "prefix": "", **more}
    return store(s3=SimpleNamespace(**made))


KEYS = {"access_key": Secret("AK"), "secret_key": Secret("SK=/x%")}


def options(conf: Secret) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    parser.read_string(conf.reveal())
    return {name: dict(parser.items(name)) for name in parser.sections()}


# --- the way to a store


def test_a_bucket_is_a_remote_of_rclones_with_its_keys_and_without_asking_the_environment() -> None:
    made = sparking.source(s3(endpoint="http://nas:9000", path_style=True, prefix="/a/b/"), KEYS)
    assert made.remote == "i12e:b/a/b"
    (told,) = options(made.conf).values()
    assert (told["provider"], told["endpoint"]) == ("Other", "http://nas:9000")
    assert (told["access_key_id"], told["secret_access_key"], told["force_path_style"]) == ("AK", "SK=/x%", "true")
    assert "session_token" not in told
    amazon = sparking.source(s3(), {**KEYS, "session_token": Secret("T")})
    assert amazon.remote == "i12e:b"
    (told,) = options(amazon.conf).values()
    assert (told["provider"], told["session_token"]) == ("AWS", "T")
    assert "endpoint" not in told


def test_a_remote_goes_with_those_that_it_stands_on_and_with_no_other_password() -> None:
    conf = "[nas]\ntype = sftp\npass = one\n[sealed]\ntype = crypt\nremote = nas:x\npassword = two\n[b2]\nkey = three\n"
    made = sparking.source(store(rclone="sealed:y/"), {"rclone_conf": Secret(conf)})
    assert made.remote == "sealed:y"
    assert sorted(options(made.conf)) == ["nas", "sealed"]
    assert "three" not in made.conf.reveal()


@pytest.mark.parametrize(
    ("settings", "given", "why"),
    [
        (store(folder="/x"), {}, "is a folder of this machine"),
        (s3(), {}, "its keys are this machine's own"),
        (store(rclone="nas:x"), {}, "its rclone.conf is your own"),
        (store(rclone="/srv"), {"rclone_conf": Secret("[a]\ntype = sftp\n")}, "a path of this machine"),
        (store(rclone="a:x"), {"rclone_conf": Secret("[a]\ntype = local\n")}, "a path of this machine"),
        (store(rclone="a:x"), {"rclone_conf": Secret("[a]\ntype = sftp\nkey_file = ~/k\n")}, "names a file of this"),
    ],
)
def test_what_a_host_cannot_reach_is_told_with_the_way_round(settings: Any, given: Any, why: str) -> None:
    with pytest.raises(UserError) as raised:
        sparking.source(settings, given)
    assert why in str(raised.value)
    assert "--push" in str(raised.value)


# --- where it stands


def said(**texts: str) -> str:
    return "".join(f"{name} {base64.b64encode(text.encode()).decode()}\n" for name, text in texts.items())


def test_where_it_stands_is_read_from_what_is_there() -> None:
    job = JOB.content().decode()
    assert sparking.read("").stage == NONE
    spark = sparking.read(said(spark="ID", spark_how="push", spark_unit="active", spark_last="fetches", failed="old"))
    assert (spark.stage, spark.backup, spark.failed, spark.last, spark.waits) == (SPARK, "ID", "", "fetches", True)
    burnt = sparking.read(said(spark="ID", spark_how="fetch", spark_unit="failed", spark_failed="no way"))
    assert (burnt.failed, burnt.waits) == ("no way", False)
    works = sparking.read(said(job=job, alone="yes", alone_unit="active", failed="of a try before"))
    assert (works.stage, works.backup, works.failed) == (ALONE, JOB.backup, "")
    assert sparking.read(said(job=job, alone="yes", alone_unit="failed", failed="why")).failed == "why"
    assert sparking.read(said(job=job, progress="staged 1\nreleased 2\n")).stage == OVER
    assert sparking.read(said(job=job, progress="staged 1\n")).stage == NONE


# --- its script


@dataclass
class Tree:
    """A host's files and a store, for a spark's script."""

    root: Path

    @property
    def given(self) -> Path:
        return self.root / "etc/i12e/spark"

    @property
    def restore(self) -> Path:
        return self.root / "var/lib/i12e/restore"

    @property
    def part(self) -> Path:
        return self.root / "store/lab/backups/ID/database.gz.age"

    def runs(self, path: str = "", **environ: str) -> int:
        own = {"I12E_ROOT": str(self.root), "I12E_PAUSE": "0", "PATH": f"{path}{os.environ['PATH']}", **environ}
        command = ["setsid", "--wait", "sh", str(SCRIPT)]
        return subprocess.run(command, env={**os.environ, **own}, check=False).returncode

    @property
    def failed(self) -> str:
        place = self.root / "var/lib/i12e/spark/failed"
        return place.read_text().strip() if place.exists() else ""

    def is_done(self) -> bool:
        """Tell whether all is staged, and the reset was begun."""
        state = self.root / "var/lib/i12e"
        names = {path.name for path in self.restore.iterdir()}
        whole = (self.restore / "database").read_bytes() == DATABASE
        return (
            {"job", "run.sh", "alone", "database", "progress"} <= names
            and whole
            and (state / "hold").read_text() == "restore of ID by me\n"
            and (state / "next.ign").read_text() == "final\n"
            and (self.root / "reset").exists()
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    need(shutil.which("age"), "age")
    made = Tree(tmp_path)
    key, recipient = age.make()
    sealed: list[bytes] = []
    age.seal([gzip.compress(DATABASE)], [recipient], sealed.append)
    content = b"".join(sealed)
    for folder in (made.given / "restore", made.part.parent, tmp_path / "bin", tmp_path / "var/lib/i12e"):
        folder.mkdir(parents=True)
    made.part.write_bytes(content)
    manifest = made.part.with_name("manifest.json")
    manifest.write_text("{}")
    sums = [hashlib.sha256(each).hexdigest() for each in (manifest.read_bytes(), content, DATABASE)]
    files = {
        "settings": f"backup=ID\nhow=fetch\nplace=disk:{made.part.parent}\nmanifest={sums[0]}\n"
        "hold='restore of ID by me'\n",
        "parts": f"database.gz.age {sums[1]} {sums[2]} database\n",
        "rclone.conf": "[disk]\ntype = local\n", "key": key.reveal() + "\n", "final.ign": "final\n",
        "final.sh": f"touch {tmp_path}/reset\n", "restore/job": "job",
        "restore/run.sh": "run", "restore/alone": "alone",
    }  # fmt: skip
    for name, text in files.items():
        (made.given / name).write_text(text)
    (tmp_path / "var/lib/i12e/hold").write_text("spark of ID by me\n")
    (tmp_path / "bin/rclone").symlink_to(programs.rclone())
    return made


def run(tree: Tree, **environ: str) -> int:
    return tree.runs(f"{tree.root}/bin:", **environ)


def test_a_spark_fetches_opens_stages_and_resets_and_keeps_no_sealed_part(tree: Tree) -> None:
    (tree.root / "var/lib/i12e/next.ign").write_text("the spark's own, with the key")
    assert run(tree) == 0, tree.failed
    assert tree.is_done()
    assert not list((tree.root / "var/lib/i12e/spark").glob("*.age"))
    assert not [path for path in tree.restore.rglob("*") if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("what", ["part", "manifest", "missing", "key", "hold"])
def test_a_spark_that_does_not_get_what_was_verified_stages_nothing_and_says_why(tree: Tree, what: str) -> None:
    whole = tree.part.read_bytes()
    why = "database.gz.age in the store is not what was verified"
    if what == "part":
        tree.part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif what == "manifest":
        tree.part.with_name("manifest.json").write_text("{ }")
        why = "manifest.json in the store is not what was verified"
    elif what == "missing":
        tree.part.unlink()
        why = "database.gz.age is not in the store"
    elif what == "key":
        (tree.given / "key").write_text(age.make()[0].reveal() + "\n")
        why = "what is sealed in database.gz.age is not what its index says"
    else:
        (tree.root / "var/lib/i12e/hold").unlink()
        why = "somebody removed"
    assert run(tree) == 1
    assert why in tree.failed
    assert not (tree.root / "reset").exists()
    assert not (tree.restore / "alone").exists()
    if what in ("part", "missing"):
        tree.part.write_bytes(whole)
        assert run(tree) == 0, tree.failed
        assert tree.is_done()


def test_what_an_earlier_restore_left_is_not_gone_on_with(tree: Tree) -> None:
    tree.restore.mkdir()
    for name in ("job", "progress", "aside", "alone"):
        (tree.restore / name).write_text("proven 1\n")
    assert run(tree) == 0, tree.failed
    assert "proven" not in (tree.restore / "progress").read_text()
    assert tree.is_done()


def test_a_spark_without_a_way_out_waits_for_what_is_sent(tree: Tree) -> None:
    settings = (tree.given / "settings").read_text()
    (tree.given / "settings").write_text(settings.replace("how=fetch", "how=push"))
    tree.restore.mkdir()
    (tree.restore / "job").write_text("job")
    (tree.restore / "progress").write_text("staged 1\n")
    (tree.restore / "database").write_bytes(DATABASE[:-1])
    assert run(tree) == 1
    assert "did not arrive as it was sent" in tree.failed
    (tree.restore / "database").write_bytes(DATABASE)
    (tree.restore / "progress").write_text("staged 1\n")
    assert run(tree) == 0, tree.failed
    assert tree.is_done()


CRASHER = """#!/bin/sh
echo >>"$I12E_ROOT/ran"
[ "$(wc -l <"$I12E_ROOT/ran")" != "${I12E_CRASH_AT:-0}" ] || kill -9 0
PATH=${PATH#*:}
exec "${0##*/}" "$@"
"""


def test_a_spark_that_is_killed_at_any_program_that_it_runs_comes_to_the_same_end(tree: Tree) -> None:
    for name in ("cp", "mv", "sync", "sha256sum", "age", "gzip", "rm", "mkdir", "cmp"):
        (tree.root / "bin" / name).write_text(CRASHER)
        (tree.root / "bin" / name).chmod(0o755)
    assert run(tree) == 0
    last = len((tree.root / "ran").read_text().splitlines())
    for at in sorted(random.Random(8).sample(range(1, last + 1), 8)):  # noqa: S311  # to be had again
        for place in (tree.root / "var", tree.root / "reset", tree.root / "ran"):
            shutil.rmtree(place, ignore_errors=True)
            place.unlink(missing_ok=True)
        (tree.root / "var/lib/i12e").mkdir(parents=True)
        (tree.root / "var/lib/i12e/hold").write_text("spark of ID by me\n")
        run(tree, I12E_CRASH_AT=str(at))
        assert run(tree) == 0, (at, tree.failed)
        assert tree.is_done(), at


# --- what it is given


def test_what_opens_all_backups_or_founds_anything_is_not_among_what_a_spark_is_given() -> None:
    host = HOSTS["server-1"]
    given = Given(JOB, PROOF, [Piece("database.gz.age", "b" * 64, "c" * 64, "database")], Secret("throw-away"))
    pushed = sparking.files(given, host, b"final", "d" * 64)
    assert not {f"{sparking.GIVEN}/key", f"{sparking.GIVEN}/rclone.conf"} & set(pushed)
    fetched = replace(given, folder="nas:x/lab/backups/ID", conf=Secret("[nas]\n"), key=Secret("AGE-SECRET-KEY-1X"))
    files = sparking.files(fetched, host, b"final", "d" * 64)
    assert files[f"{sparking.GIVEN}/key"] == b"AGE-SECRET-KEY-1X\n"
    assert files["/var/lib/i12e/hold"].startswith(b"spark of ")
    config = json.loads(files["/etc/rancher/k3s/config.yaml"])
    assert (config["token"], config["bind-address"]) == ("throw-away", "127.0.0.1")
    assert "cluster-init" not in config
    keep = sparking.keep_paths(host)
    assert "/var/lib/i12e" in keep
    assert not [path for path in keep if "rancher" in path]
    assert b"rancher/k3s/server" not in files[f"{sparking.GIVEN}/final.sh"]
    assert "AGE-SECRET" not in repr(fetched)

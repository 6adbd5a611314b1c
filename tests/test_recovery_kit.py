"""The recovery kit: what it says is needed, what it finds at risk, and that it shows no secret and writes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import bundles
from bundles import World
from conftest import ROOT, Project
from i12e import backup_keys, backup_list, backups, engine, keys, kit, recovery_kit
from i12e.backups import Mark, Place
from i12e.build import Build
from i12e.errors import Problem, UsageError, UserError
from i12e.kit import Known, Repository
from i12e.secrets import demo_recipients
from memorystore import Memory
from terminal import Typed
from test_json import documented, same_shape

DAY = 86400.0


@dataclass
class Scene:
    """A checkout with its keys, and a store in which there is a backup."""

    world: World
    place: Place
    backup: str

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.world.build.paths.root

    def git(self, *arguments: str) -> None:
        """Run git in the checkout."""
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True)

    def known(self) -> Known:
        """Return what the kit is made of; the store is asked as `status` asks it."""
        build, cluster = self.world.build, self.world.build.cluster()
        shelf = backup_list._shelf(self.place, cluster)
        with mock.patch.object(backup_list, "look", return_value=[replace(shelf, name="local")]):
            return recovery_kit.gather(build, cluster)

    def points(self) -> dict[str, str]:
        """Return by name what is at risk."""
        return {point.name: point.said for point in kit.judged(self.known()) if not point.ok}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A checkout, committed and pushed; its key is where it belongs, and is the only one."""
    world = bundles.world(tmp_path / "checkout", count=20)
    place = Place(Memory(), world.cluster.name)
    scene = Scene(world, place, bundles.make(world, place))
    file = backup_keys.key_file(world.build.paths, world.cluster.name, os.environ)
    file.parent.mkdir(parents=True)
    file.write_text(f"{world.key.reveal()}\n")
    file.chmod(0o600)
    (scene.root / ".gitignore").write_text("/build/\n/datastore/\n")
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "remote")], check=True)
    scene.git("init", "-q")
    scene.git("add", "-A")
    scene.git("commit", "-q", "-m", "all")
    scene.git("remote", "add", "origin", str(tmp_path / "remote"))
    scene.git("push", "-q", "-u", "origin", "HEAD")
    return scene


def is_complete(scene: Scene) -> Known:
    """Return what is known of the scene where nothing is missing."""
    known = scene.known()
    (copies,) = known.stores
    recipients = known.backup_key.recipients
    secrets = known.secrets_key.recipients
    return replace(
        known,
        backup_key=replace(known.backup_key, recipients=(*recipients, keys.make().recipient)),
        secrets_key=replace(known.secrets_key, recipients=(*secrets, keys.make().recipient)),
        repository=replace(known.repository, remotes=("git@example.com:me/i12e.git",)),
        stores=(replace(copies, here=False, shelf=replace(copies.shelf, found=drilled(copies.shelf.found, DAY))),),
    )


def drilled(found: Any, ago: float) -> Any:
    """Given backups, return them drilled that long ago."""
    mark = Mark(found[0].at - ago, "me@here", True, "", 1.0, "offline")
    return tuple(replace(each, drilled=mark) for each in found)


def bad(known: Known) -> list[str]:
    """Given what is known, return the names of the points at risk."""
    return [point.name for point in kit.judged(known) if not point.ok]


def test_where_all_is_as_it_should_be_the_checklist_is_complete(scene: Scene) -> None:
    known = is_complete(scene)
    assert bad(known) == []
    assert kit.as_json(known, list(kit.judged(known)))["complete"]


def test_a_cluster_as_it_begins_lacks_a_second_key_a_store_elsewhere_and_a_drill(scene: Scene) -> None:
    assert set(scene.points()) == {
        "a second one", "a second one of it", "the repository", "a copy elsewhere", "a drill"
    }  # fmt: skip
    assert "its remote is of this machine" in scene.points()["the repository"]


def test_a_key_that_is_not_here_or_is_another_one_or_in_a_bad_place_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup_keys.key_file(scene.world.build.paths, scene.world.cluster.name, os.environ)
    file.chmod(0o644)
    assert scene.points()["its file"] == "others may read it"
    inside = scene.root / "backup-keys/mine.txt"
    inside.parent.mkdir()
    shutil.copy(file, inside)
    inside.chmod(0o600)
    monkeypatch.setenv(backup_keys.KEY_FILE, str(inside))
    assert "inside of the checkout" in scene.points()["its file"]
    store = backup_keys.default_store(scene.world.build.paths, os.environ).folder
    beside = Path(store or "") / "key.txt"
    beside.parent.mkdir(parents=True)
    shutil.move(inside, beside)
    monkeypatch.setenv(backup_keys.KEY_FILE, str(beside))
    assert "it lies beside the backups, in the store local" in scene.points()["its file"]
    beside.write_text(f"{keys.make().private.reveal()}\n")
    assert "nothing here opens a backup" in scene.points()["the backups' key"]
    beside.unlink()
    assert "nothing here opens a backup" in scene.points()["the backups' key"]


def test_a_cluster_without_any_key_is_told_that_once(scene: Scene) -> None:
    known = replace(is_complete(scene), backup_key=kit.Key("/k", (), ()))
    assert [point.said for point in kit.judged(known) if "key" in point.name and not point.ok] == [
        "there is none: nobody could open a backup"
    ]


def test_a_second_key_in_the_same_file_is_none(scene: Scene) -> None:
    known = is_complete(scene)
    together = replace(known.backup_key, opens=known.backup_key.recipients)
    assert bad(replace(known, backup_key=together)) == ["a second one"]


def test_a_backup_that_is_sealed_to_keys_of_before_is_told(scene: Scene) -> None:
    known = is_complete(scene)
    other = (keys.make().recipient, keys.make().recipient)
    points = list(kit.judged(replace(known, backup_key=replace(known.backup_key, recipients=other, opens=other[:1]))))
    assert [point.said for point in points if "none of the keys opens it" in point.said]


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        (Repository(), "no git repository"),
        (Repository(commit="abc"), "no remote"),
        (Repository(("/srv/git/i12e",), "abc", pushed=True), "of this machine"),
        (Repository(("ssh://git@example.com/i12e",), "abc"), "no remote has the commit abc"),
        (Repository(("ssh://git@example.com/i12e",), "abc", ("hosts/a.yaml",), pushed=True), "not committed: hosts/a"),
        (Repository(("ssh://git@example.com/i12e",), "abc", ignored=True, pushed=True), "are not in it"),
    ],
)
def test_a_repository_that_a_clone_would_lack_something_of_is_told(
    scene: Scene, repository: Repository, said: str
) -> None:
    points = [point for point in kit.judged(replace(is_complete(scene), repository=repository)) if not point.ok]
    assert [said in point.said for point in points] == [True]


def test_what_is_not_committed_and_not_pushed_is_seen(scene: Scene) -> None:
    found = scene.known().repository
    assert (found.changed, found.pushed, found.ignored) == ((), True, False)
    (scene.root / "hosts/example/agent-2.yaml").write_text("role: agent\naddresses: [192.0.2.22]\n")
    assert scene.known().repository.changed == ("hosts/example/agent-2.yaml",)
    scene.git("add", "-A")
    scene.git("commit", "-q", "-m", "more")
    assert not scene.known().repository.pushed
    scene.git("rm", "-q", "--cached", "-r", "hosts/example")
    assert scene.known().repository.ignored


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:token@example.com/i12e", "https://example.com/i12e"),
        ("https://token@example.com/i12e", "https://example.com/i12e"),
        ("ssh://git:word@example.com/i12e", "ssh://git@example.com/i12e"),
        ("git@example.com:me/i12e.git", "git@example.com:me/i12e.git"),
    ],
)
def test_credentials_in_a_remote_are_not_shown(scene: Scene, url: str, shown: str) -> None:
    scene.git("remote", "set-url", "origin", url)
    known = scene.known()
    assert known.repository.remotes == (shown,)
    assert f"git clone {shown} i12e" in kit.commands(known)


def test_a_store_that_is_silent_empty_or_opened_by_this_machine_alone_is_told(scene: Scene) -> None:
    known = is_complete(scene)
    (copies,) = known.stores
    silent = replace(copies, shelf=replace(copies.shelf, why="it does not answer", found=()))
    assert "the store local" in bad(replace(known, stores=(silent,)))
    empty = replace(copies, shelf=replace(copies.shelf, found=()))
    assert set(bad(replace(known, stores=(empty,)))) == {"the store local", "a copy elsewhere", "a drill"}
    own = replace(copies, portable=False, credentials="the rclone.conf of this machine")
    assert bad(replace(known, stores=(own,))) == ["the store local"]
    assert bad(replace(known, stores=(), unread=("secrets/backup.yaml: no age key here opens it",))) == ["stores"]


def test_a_drill_counts_for_ninety_days_and_any_backup(scene: Scene) -> None:
    known = is_complete(scene)
    (copies,) = known.stores
    old = replace(copies, shelf=replace(copies.shelf, found=drilled(copies.shelf.found, kit.DRILLED + DAY)))
    assert bad(replace(known, stores=(old,))) == ["a drill"]
    scene.place.mark(scene.backup, backups.DRILLED, Mark(scene.place.store.now(), "me", False, "it is broken", 1.0))
    assert "a drill" in scene.points()


def test_the_commands_are_those_of_a_new_machine_with_the_keys_where_they_are_looked_for(scene: Scene) -> None:
    said = kit.commands(scene.known())
    assert [line.split()[0] for line in said[-4:]] == ["./doit"] * 4
    assert "export I12E_ENV=example" in said
    assert any(line.endswith("~/.config/i12e/backup-keys/example.txt") for line in said)
    assert "export" not in "".join(kit.commands(replace(scene.known(), env="default")))


def test_it_is_told_in_json_as_documented(scene: Scene) -> None:
    known = scene.known()
    told = json.loads(json.dumps(kit.as_json(known, list(kit.judged(known)))))
    same_shape(documented("The recovery kit"), told)


def recovery(config: dict[str, Any]) -> Any:
    """Give doit the tasks of backups."""
    return engine.backup_tasks(config)


@pytest.mark.parametrize("form", [["recovery_kit"], ["recovery_kit", "--json"], ["--json", "recovery_kit"]])
def test_the_task_tells_the_kit_shows_no_secret_writes_nothing_and_fails_where_something_is_at_risk(
    scene: Scene, form: list[str]
) -> None:
    files = {path: path.read_bytes() for path in scene.root.rglob("*") if path.is_file() and "build" not in path.parts}
    done = Project(scene.root).doit(*form, tasks=recovery)
    assert done.status == 1
    assert "points are missing or at risk" in done.err + done.out
    assert "there is no good backup in it" in done.out  # the default store has none
    assert scene.world.key.reveal() not in done.out + done.err
    assert not re.search(r"AGE-SECRET-KEY-1", done.out + done.err)
    now = {path: path.read_bytes() for path in scene.root.rglob("*") if path.is_file() and "build" not in path.parts}
    assert now == files
    if "--json" in form:
        told = json.loads(done.out)["results"][0]
        assert not told["complete"]


def test_stores_whose_credentials_do_not_open_are_told_and_the_rest_of_the_kit_is_there(scene: Scene) -> None:
    build = scene.world.build
    problem = UserError(Problem("secrets/example/backup.yaml", None, None, "no age key here opens it"))
    with mock.patch.object(Build, "group", side_effect=problem):
        known = recovery_kit.gather(build, build.cluster())
    assert known.unread
    assert "stores" in bad(known)
    assert known.secrets_key.opens == tuple(demo_recipients(scene.root))


def test_a_key_is_put_on_paper_on_a_terminal_only(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="--paper: a key is shown on a terminal only"):
        recovery_kit.run(scene.world.build, paper=True)


@pytest.mark.slow
def test_with_paper_the_key_that_is_here_is_shown_on_a_page_until_its_end_was_typed(scene: Scene) -> None:
    shutil.copy(ROOT / "dodo.py", scene.root)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "I12E_ENV": "example"}
    run = Typed([sys.executable, "-m", "i12e", "recovery_kit", "--paper"], scene.root, environ)
    shown = run.expect("from your paper:")
    private = scene.world.key.reveal()
    assert private in shown
    run.type(private[-6:])
    run.expect("Checklist:")
    assert run.end() == 1
    assert run.seen.count(private) == 1

"""A secret file in the user's editor: on a real terminal, with the real sops, and nobody is kept waiting."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Project
from i12e import lock
from people import Person, person, rules, seal
from terminal import Typed

pytestmark = pytest.mark.slow

PATH = "secrets/cluster.yaml"
PLANTED = "planted-7Kq-value"


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Whose checkout it is."""
    found = person(tmp_path, "me")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(found.file))
    return found


@pytest.fixture
def own(tmp_path: Path, me: Person) -> Project:
    """A checkout with a sealed file of one's own, and the tasks of dodo.py."""
    project = Project(tmp_path / "checkout")
    shutil.copytree(ROOT / "secrets", project.root / "secrets")
    shutil.copy(ROOT / "dodo.py", project.root)
    project.write(".sops.yaml", rules(me))
    project.write("hosts/cluster.yaml", "name: x\n")
    seal(project.root, PATH, "server_token: abc\n# why\nagent_token: def\n", me)
    return project


def editor(project: Project, script: str) -> dict[str, str]:
    """Given a project and what an editor does with the file "$1", return an environment in which it is the user's."""
    path = project.root.parent / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "EDITOR": str(path)}


def edit(project: Project, script: str, *args: str) -> Typed:
    """Given a project, an editor's script and arguments, start the edit on a terminal."""
    return Typed([sys.executable, "-m", "i12e", *args], project.root, editor(project, script))


def is_held(project: Project) -> bool:
    """Given a project, tell whether a run holds the lock."""
    try:
        lock.take(project.root / "build/default/lock", "test").release()
    except lock.Held:
        return True
    return False


@pytest.mark.parametrize("args", [["secrets_edit:cluster"], ["secrets_edit", "--name", "cluster"], ["secrets_edit"]])
def test_what_is_edited_is_sealed_again_and_it_is_said_that_it_changed(
    own: Project, me: Person, args: list[str]
) -> None:
    run = edit(own, 'sed -i s/abc/xyz/ "$1"', *args)
    assert run.end() == 0, run.text
    assert "EDIT     secrets/cluster.yaml  (changed)" in run.text
    assert me.opens(own.root / PATH) == "server_token: xyz\n# why\nagent_token: def\n"
    assert list((own.root / "build").rglob("workbench-*")) == []


def test_what_is_not_changed_stays_as_it_is_and_that_is_said(own: Project) -> None:
    before = (own.root / PATH).read_bytes()
    run = edit(own, "true", "secrets_edit:cluster")
    assert run.end() == 0, run.text
    assert "EDIT     secrets/cluster.yaml  (nothing changed)" in run.text
    assert "nothing to do" in run.text
    assert (own.root / PATH).read_bytes() == before


def test_a_new_file_is_made_private_with_a_line_to_begin_with(own: Project, me: Person) -> None:
    run = edit(own, 'sed -i "s/^key: value/pushover: xyz/" "$1"', "secrets_edit", "--name", "alerts")
    assert run.end() == 0, run.text
    assert "EDIT     secrets/alerts.yaml  (new)" in run.text
    path = own.root / "secrets/alerts.yaml"
    opened = me.opens(path)
    assert opened
    assert opened.endswith("pushover: xyz\n")
    assert "secrets.alerts.key" in opened
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_file_that_was_left_as_it_was_offered_is_not_made(own: Project) -> None:
    run = edit(own, "true", "secrets_edit", "--name", "alerts")
    assert run.end() == 0, run.text
    assert "(not made)" in run.text
    assert not (own.root / "secrets/alerts.yaml").exists()


def test_others_may_write_while_the_editor_is_open(own: Project, me: Person) -> None:
    run = edit(own, 'echo open; read answer; sed -i "s/abc/$answer/" "$1"', "secrets_edit:cluster")
    run.expect("open")
    assert not is_held(own)
    run.type("typed")
    assert run.end() == 0, run.text
    assert "typed" in str(me.opens(own.root / PATH))


def test_an_edit_does_not_undo_what_somebody_else_did_meanwhile_and_is_kept(own: Project, me: Person) -> None:
    run = edit(own, 'echo open; read answer; sed -i "s/abc/$answer/" "$1"', "secrets_edit:cluster")
    run.expect("open")
    theirs = seal(own.root, PATH, "server_token: theirs\nagent_token: def\n", me).read_bytes()
    run.type("mine")
    assert run.end() == 1, run.text
    assert "was changed by somebody else while you edited it" in run.text
    assert (own.root / PATH).read_bytes() == theirs
    kept = own.root / "build/default/cluster-edited.yaml"
    assert str(kept.relative_to(own.root)) in run.text
    assert str(me.opens(kept)).startswith("server_token: mine\n")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_value_that_would_stay_plain_is_not_taken_over(own: Project) -> None:
    before = (own.root / PATH).read_bytes()
    run = edit(own, f'echo "x_unencrypted: {PLANTED}" >> "$1"', "secrets_edit:cluster")
    assert run.end() == 1, run.text
    assert "x_unencrypted: is not encrypted: sops leaves plain what is below a key that ends" in run.text
    assert PLANTED not in run.text
    assert (own.root / PATH).read_bytes() == before


def test_an_editor_that_fails_changes_nothing_and_is_named(own: Project) -> None:
    before = (own.root / PATH).read_bytes()
    run = edit(own, 'echo changed: yes >> "$1"; exit 3', "secrets_edit:cluster")
    assert run.end() == 1, run.text
    assert "secrets/cluster.yaml: was not changed: the editor could not be run, or failed" in run.text
    assert (own.root / PATH).read_bytes() == before


def test_who_has_no_key_for_a_file_is_told_so_before_the_editor_opens(
    own: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(person(tmp_path, "mallory").file))
    run = edit(own, "echo opened", "secrets_edit:cluster")
    assert run.end() == 1
    assert "secrets/cluster.yaml: no age key here opens it" in run.text
    assert "opened\n" not in run.text


def test_ctrl_c_in_the_editor_is_the_editors_and_leaves_nothing_decrypted_behind(own: Project) -> None:
    before = (own.root / PATH).read_bytes()
    run = edit(own, "trap '' INT; echo open; read answer", "secrets_edit:cluster")
    run.expect("open")
    run.press(b"\x03")
    run.type("")
    assert run.end() == 1, run.text  # sops itself is ended by it
    assert "Traceback" not in run.text
    assert (own.root / PATH).read_bytes() == before
    assert list((own.root / "build").rglob("workbench-*")) == []


def test_what_the_editor_opens_lies_in_a_private_folder_below_build_and_is_gone_afterwards(own: Project) -> None:
    note = own.root.parent / "where"
    run = edit(own, f'ls -ld "$1" "$(dirname "$(dirname "$1")")" > {note}; echo "$1" >> {note}', "secrets_edit:cluster")
    assert run.end() == 0, run.text
    folder, file, path = note.read_text().splitlines()
    assert path.startswith(str(own.root / "build/default/workbench-"))
    assert not Path(path).exists()
    assert (file[:10], folder[:10]) == ("-rw-------", "drwx------")


def test_what_a_killed_edit_left_is_removed_by_the_next_one(own: Project) -> None:
    run = edit(own, "echo open; read answer", "secrets_edit:cluster")
    run.expect("open")
    run.kill()
    assert len(list((own.root / "build").rglob("workbench-*"))) == 1
    assert edit(own, "true", "secrets_edit:cluster").end() == 0
    assert list((own.root / "build").rglob("workbench-*")) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["secrets_edit", "--name", "../x"], '--name "../x": is no name of a secret file'),
        (["secrets_edit:cluster", "--name", "other"], "--name other: the task names cluster"),
        (["secrets_edit:nosuch"], "secrets_edit:nosuch: there is no such task"),
        (["secrets_edit:cluster", "--bogus"], "--bogus"),
    ],
)
def test_what_makes_no_sense_is_usage(own: Project, args: list[str], said: str) -> None:
    run = edit(own, "echo opened", *args)
    assert run.end() == 3, run.text
    assert said in run.text


def test_of_several_files_one_has_to_be_named(own: Project, me: Person) -> None:
    seal(own.root, "secrets/other.yaml", "a: b\n", me)
    run = edit(own, "echo opened", "secrets_edit")
    assert run.end() == 3
    assert "which secret file? (--name NAME; there are cluster, other)" in run.text


def test_a_file_that_no_rule_would_seal_is_not_begun(own: Project) -> None:
    shutil.copy(ROOT / ".sops.yaml", own.root)
    run = edit(own, "echo opened", "secrets_edit", "--name", "new")
    assert run.end() == 1
    assert "secrets/new.yaml: no rule of .sops.yaml seals it" in run.text


def test_without_a_terminal_no_editor_is_started(own: Project) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "i12e", "secrets_edit:cluster"],
        cwd=own.root,
        env=editor(own, "echo opened"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "your editor needs a terminal, and here is none\n"


def test_a_terminated_edit_ends_its_editor_and_leaves_nothing(own: Project) -> None:
    note = own.root.parent / "pid"
    run = edit(own, f"echo $PPID > {note}; echo open; read answer", "secrets_edit:cluster")
    run.expect("open")
    run.signal(signal.SIGTERM)
    assert run.end() == 143, run.text
    assert list((own.root / "build").rglob("workbench-*")) == []

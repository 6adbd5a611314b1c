"""The database of what was done: kept as each task ends, private, and nothing worse than lost time when it breaks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from i12e import state as module
from i12e.files import Files
from i12e.state import State

LIB = str(Path(module.__file__).parents[1])


def open_state(root: Path) -> State:
    """Given a checkout, open its state as a run does."""
    return State(root / "build/example/state.db", Files(root))


def database(root: Path) -> Path:
    """Given a checkout, return the path of its database."""
    return root / "build/example/state.db"


def saved(root: Path) -> State:
    """Given a checkout, save the records of two tasks, an output and a stamp; return the state."""
    state = open_state(root)
    state.set("render:a", "deps:", ["x", "y"])
    state.set("render:a", "result:", None)
    state.set("render:b", "deps:", [])
    state._files.outputs["build/out"] = "b2-1"
    state._files.new_outputs.add("build/out")
    state._files.stamps["hosts/a.yaml"] = ((1, 2, 3, 2**63 - 1), "b2-2")
    state._files.new_stamps.add("hosts/a.yaml")
    state.commit()
    return state


def test_what_was_committed_is_there_in_the_next_run(tmp_path: Path) -> None:
    saved(tmp_path).dump()
    after = open_state(tmp_path)
    assert after.get("render:a", "deps:") == ["x", "y"]
    assert after.get("render:a", "result:") is None
    assert after.in_("render:b")
    assert after._files.outputs == {"build/out": "b2-1"}
    assert after._files.stamps == {"hosts/a.yaml": ((1, 2, 3, 2**63 - 1), "b2-2")}
    assert sorted(after.tasks()) == ["render:a", "render:b"]
    assert not after.damaged


def test_what_was_committed_is_there_though_nobody_closed_the_database(tmp_path: Path) -> None:
    kept = saved(tmp_path)
    assert open_state(tmp_path).get("render:a", "deps:") == ["x", "y"]
    kept.dump()


def test_what_was_not_committed_is_not_there(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.set("render:c", "deps:", [])
    state.remove("render:a")
    assert sorted(open_state(tmp_path).tasks()) == ["render:a", "render:b"]
    state.dump()
    assert sorted(open_state(tmp_path).tasks()) == ["render:b", "render:c"]


def test_a_task_that_was_never_set_is_not_in_it_also_after_it_was_asked_for(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    assert state.get("no", "deps:") is None
    assert not state.in_("no")
    assert sorted(state.tasks()) == []


def test_a_key_is_added_to_the_record_that_was_saved_before(tmp_path: Path) -> None:
    saved(tmp_path).dump()
    state = open_state(tmp_path)
    state.set("render:a", "new", 1)
    state.dump()
    after = open_state(tmp_path)
    assert (after.get("render:a", "deps:"), after.get("render:a", "new")) == (["x", "y"], 1)


def test_a_task_that_was_removed_is_gone_and_its_record_does_not_come_back_when_it_is_set_anew(tmp_path: Path) -> None:
    saved(tmp_path).dump()
    state = open_state(tmp_path)
    state.remove("render:a")
    assert not state.in_("render:a")
    assert state.get("render:a", "deps:") is None
    state.set("render:a", "new", 1)
    state.dump()
    after = open_state(tmp_path)
    assert (after.get("render:a", "deps:"), after.get("render:a", "new")) == (None, 1)


def test_a_task_that_was_set_and_removed_before_the_commit_is_not_saved(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.set("render:c", "deps:", [])
    state.remove("render:c")
    state.dump()
    assert sorted(open_state(tmp_path).tasks()) == ["render:a", "render:b"]


def test_everything_can_be_removed_and_stamps_of_files_stay(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.remove_all()
    state.dump()
    after = open_state(tmp_path)
    assert sorted(after.tasks()) == []
    assert after._files.stamps


def test_a_path_that_is_dropped_takes_its_stamp_and_its_output_along(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.drop_paths(["build/out", "hosts/a.yaml", "never/heard/of"])
    state.dump()
    after = open_state(tmp_path)
    assert (after._files.outputs, after._files.stamps) == ({}, {})
    assert sorted(after.tasks()) == ["render:a", "render:b"]


def test_a_run_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    open_state(tmp_path).dump()
    assert not (tmp_path / "build").exists()
    saved(tmp_path).dump()
    before = database(tmp_path).stat()
    state = open_state(tmp_path)
    state.get("render:a", "deps:")
    state.dump()
    after = database(tmp_path).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_commit_is_whole_or_not_at_all(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.remove("render:a")
    state._files.outputs["build/bad"] = None  # type: ignore[assignment]  # which the database refuses
    state._files.new_outputs.add("build/bad")
    with pytest.raises(sqlite3.IntegrityError):
        state.commit()
    assert sorted(open_state(tmp_path).tasks()) == ["render:a", "render:b"]
    state._files.new_outputs.clear()
    state.dump()
    assert sorted(open_state(tmp_path).tasks()) == ["render:b"]


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_database_and_what_sqlite_puts_beside_it_are_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        state = saved(tmp_path)
        modes = {path.name: path.stat().st_mode & 0o777 for path in database(tmp_path).parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    state.dump()


def test_a_database_that_others_may_read_is_private_after_the_next_look(tmp_path: Path) -> None:
    saved(tmp_path).dump()
    database(tmp_path).chmod(0o644)
    state = open_state(tmp_path)
    state.set("render:c", "deps:", [])
    state.commit()
    assert {path.stat().st_mode & 0o777 for path in database(tmp_path).parent.iterdir()} == {0o600}
    state.dump()


def older_version(path: Path) -> None:
    """Make a database one of another version."""
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 99")
    connection.close()


def other_tables(path: Path) -> None:
    """Make a database one without our tables."""
    with sqlite3.connect(path) as connection:
        connection.execute("drop table stamps")
    connection.close()


def garbage(path: Path) -> None:
    """Make a database none."""
    path.write_bytes(b"not a database at all" * 100)


def torn(path: Path) -> None:
    """Cut a database short."""
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [older_version, other_tables, garbage, torn])
def test_a_database_that_cannot_be_read_is_made_anew_and_said_to_be(tmp_path: Path, damage: object) -> None:
    saved(tmp_path).dump()
    assert callable(damage)
    damage(database(tmp_path))
    state = open_state(tmp_path)
    assert state.damaged
    assert (state.tasks(), state._files.stamps, state._files.outputs) == (frozenset(), {}, {})
    state.set("render:c", "deps:", [])
    state.dump()
    after = open_state(tmp_path)
    assert (after.tasks(), after.damaged) == (frozenset({"render:c"}), False)


def test_a_database_that_cannot_be_read_stays_until_something_is_written(tmp_path: Path) -> None:
    """What only reads holds no lock, and must not take the file from under a run that does."""
    saved(tmp_path).dump()
    older_version(database(tmp_path))
    before = database(tmp_path).stat().st_ino
    open_state(tmp_path).dump()
    assert database(tmp_path).stat().st_ino == before


def test_a_database_that_another_run_is_just_making_is_empty_and_not_damaged(tmp_path: Path) -> None:
    database(tmp_path).parent.mkdir(parents=True)
    database(tmp_path).touch()
    state = open_state(tmp_path)
    assert not state.damaged
    assert sorted(state.tasks()) == []
    state.set("render:a", "deps:", [])
    state.dump()
    assert sorted(open_state(tmp_path).tasks()) == ["render:a"]


def test_one_who_looks_while_another_commits_sees_what_was_committed_and_disturbs_nothing(tmp_path: Path) -> None:
    writer = open_state(tmp_path)
    for number in range(20):
        writer.set(f"render:{number}", "deps:", [])
        writer.commit()
        assert len(open_state(tmp_path).tasks()) == number + 1
    writer.dump()
    assert len(open_state(tmp_path).tasks()) == 20


def test_the_state_is_good_in_a_checkout_that_was_moved(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "a").write_text("x")
    state = saved(here)
    assert str(here) not in "".join(state._files.stamps) + "".join(state._files.outputs)
    state.dump()
    here.rename(there)
    after = open_state(there)
    assert sorted(after.tasks()) == ["render:a", "render:b"]
    assert str(here).encode() not in database(there).read_bytes()


def test_a_killed_process_loses_nothing_that_it_committed(tmp_path: Path, python: str) -> None:
    code = (
        "import sys; from pathlib import Path; from i12e.files import Files; from i12e.state import State\n"
        "root = Path(sys.argv[1])\n"
        "state = State(root / 'build/example/state.db', Files(root))\n"
        "for number in range(10**9):\n"
        "    state.set(f'render:{number}', 'deps:', [])\n"
        "    state.commit()\n"
        "    print(number, flush=True)\n"
    )
    environ = {**os.environ, "PYTHONPATH": LIB}
    with subprocess.Popen([python, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=environ) as writer:
        assert writer.stdout
        for _ in range(30):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split(b"\n")[:-1])])
    state = open_state(tmp_path)
    assert not state.damaged
    assert {f"render:{number}" for number in range(last + 1)} <= set(state.tasks())

"""States of files: told by content, hashed only when needed, and never by a stamp that proves nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i12e import files as module
from i12e.files import ABSENT, UNREADABLE, Files, create, replace

LONG_AGO = 100 * 365 * 86400 * 10**9  # ns


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of an empty checkout."""
    return Files(tmp_path)


def later(files: Files) -> Files:
    """Given files, return those of a next run, which has the stamps of this one."""
    after = Files(files.root)
    after.stamps = dict(files.stamps)
    after.outputs = dict(files.outputs)
    return after


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be far ahead, so that every file was changed long ago."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + LONG_AGO)


def mode(path: Path) -> int:
    """Given a path, return its permissions."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths whose content was read, as they come."""
    seen: list[str] = []
    load: Callable[[Files, str], bytes] = Files._load

    def counted(self: Files, path: str) -> bytes:
        seen.append(path)
        return load(self, path)

    monkeypatch.setattr(Files, "_load", counted)
    return seen


def test_equal_contents_have_equal_states_and_different_ones_different(files: Files) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "")):
        (files.root / name).write_text(text)
    assert files.state("a") == files.state("b")
    assert len({files.state(name) for name in "acd"}) == 3
    assert all(files.state(name).startswith("b2-") for name in "acd")


def test_what_is_not_there_is_absent_also_below_a_file(files: Files) -> None:
    (files.root / "file").touch()
    assert [files.state(path) for path in ("no", "no/such", "file/below")] == [ABSENT] * 3


def test_a_link_to_nowhere_is_not_absent_because_somebody_put_it_there(files: Files) -> None:
    (files.root / "broken").symlink_to("nowhere")
    assert files.state("broken") == UNREADABLE


def test_what_python_caches_and_editors_leave_behind_is_not_listed(files: Files) -> None:
    before = files.state(".")
    for name in ("x~", "#x#", ".x.swp", "x.orig", "x.rej", "x.bak"):
        (files.root / name).touch()
    (files.root / "__pycache__").mkdir()
    assert Files(files.root).state(".") == before
    assert files.names(".") == []


def test_what_cannot_be_read_is_unreadable_and_reading_it_raises(files: Files) -> None:
    (files.root / "loop").symlink_to("loop")
    assert files.state("loop") == UNREADABLE
    assert not files.exists("loop")
    with pytest.raises(OSError, match="symbolic links"):
        files.read("loop")


def test_a_file_without_permission_is_unreadable(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")  # which root, who runs CI, never meets

    (files.root / "closed").touch()
    monkeypatch.setattr(module, "open", refuse, raising=False)
    assert files.state("closed") == UNREADABLE


def test_a_link_has_the_state_of_what_it_points_to_and_changes_with_it(files: Files) -> None:
    (files.root / "real").write_text("x")
    (files.root / "link").symlink_to("real")
    assert files.state("link") == files.state("real")
    (files.root / "other").write_text("y")
    (files.root / "link").unlink()
    (files.root / "link").symlink_to("other")
    assert later(files).state("link") == later(files).state("other") != files.state("link")


def test_a_folders_state_is_its_names_and_not_what_the_files_contain(files: Files) -> None:
    (files.root / "folder").mkdir()
    (files.root / "folder/a").write_text("x")
    before = files.state("folder")
    (files.root / "folder/a").write_text("y")
    assert later(files).state("folder") == before
    (files.root / "folder/b").touch()
    assert later(files).state("folder") != before
    (files.root / "folder/b").unlink()
    assert later(files).state("folder") == before


def test_a_file_that_becomes_a_folder_of_the_same_name_changes_the_listing(files: Files) -> None:
    (files.root / "folder").mkdir()
    (files.root / "folder/a").touch()
    before = files.state("folder")
    (files.root / "folder/a").unlink()
    (files.root / "folder/a").mkdir()
    assert later(files).state("folder") != before


@pytest.mark.parametrize("name", [".file.swp", "file~", ".#file"])
def test_what_an_editor_leaves_beside_a_file_is_not_in_the_listing(files: Files, name: str) -> None:
    (files.root / "folder").mkdir()
    before = files.state("folder")
    (files.root / "folder" / name).touch()
    assert later(files).state("folder") == before
    assert later(files).names("folder") == []


def test_an_empty_folder_and_one_that_is_absent_differ(files: Files) -> None:
    (files.root / "folder").mkdir()
    assert files.state("folder") != files.state("no") == ABSENT
    assert files.names("folder") == files.names("no") == []


def test_names_are_sorted_and_are_those_of_files_only(files: Files) -> None:
    (files.root / "folder/inner").mkdir(parents=True)
    for name in ("b", "a", "c"):
        (files.root / "folder" / name).touch()
    (files.root / "folder/to-itself").symlink_to("to-itself")
    (files.root / "folder/broken").symlink_to("nowhere")
    assert files.names("folder") == ["a", "b", "c"]
    assert files.state("folder").startswith("dir-")


def test_a_name_that_is_not_utf8_is_a_name(files: Files) -> None:
    (files.root / "folder").mkdir()
    before = files.state("folder")
    with open(os.fsencode(files.root / "folder") + b"/caf\xe9", "wb"):
        pass
    assert later(files).state("folder") not in (before, UNREADABLE)


def test_a_file_whose_name_is_not_utf8_has_a_state_but_no_stamp_for_the_database(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"caf\xe9")
    (files.root / name).write_text("x")
    (files.root / "a").write_text("x")
    settle(monkeypatch)
    assert files.state(name) == files.state("a")
    assert files.new_stamps == {"a"}


def test_a_path_keeps_the_state_and_the_content_of_its_first_reading_for_the_whole_run(files: Files) -> None:
    (files.root / "a").write_text("one")
    state = files.state("a")
    assert files.read("a") == b"one"
    (files.root / "a").write_text("two")
    assert (files.state("a"), files.read("a")) == (state, b"one")
    files.forget("a")
    assert files.read("a") == b"two"
    assert files.state("a") != state


def test_a_file_that_was_not_touched_since_is_not_read_again(
    files: Files, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    (files.root / "a").write_text("x")
    settle(monkeypatch)
    state = files.state("a")
    assert later(files).state("a") == state
    assert loads == ["a"]


@pytest.mark.parametrize("change", ["content", "touch", "mode", "replaced"])
def test_a_file_whose_stamp_changed_is_read_again(
    files: Files, monkeypatch: pytest.MonkeyPatch, loads: list[str], change: str
) -> None:
    path = files.root / "a"
    path.write_text("one")
    info = path.stat()
    settle(monkeypatch)
    before = files.state("a")
    changes: dict[str, Callable[[], Any]] = {
        "content": lambda: path.write_text("three"),
        "touch": lambda: os.utime(path, (1, 1)),
        "mode": lambda: path.chmod(0o600),
        "replaced": lambda: ((files.root / "b").write_text("two"), (files.root / "b").rename(path)),
    }
    wait_for_tick(files.root)
    changes[change]()
    if change != "touch":
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    same = later(files).state("a") == before
    assert same is (change in ("touch", "mode"))
    assert loads == ["a", "a"]


def wait_for_tick(folder: Path) -> None:
    """Wait until a change gets another time than one before this call."""
    probe = folder / "tick"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        os.utime(probe)
    probe.unlink()


def test_a_write_of_the_same_size_in_the_tick_of_the_hashing_is_seen(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The racy-clean rule: stamps stand still while the clock does, so what is that young is hashed again."""
    real = os.fstat, os.stat
    frozen: dict[str, os.stat_result] = {}

    def still(info: os.stat_result) -> os.stat_result:
        return frozen.setdefault("info", info)

    path = files.root / "a"
    path.write_text("one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda handle: still(real[0](handle)))
        patch.setattr(os, "stat", lambda name: still(real[1](name)))
        before = files.state("a")
        path.write_text("two")
        after = later(files).state("a")
    assert after != before


def test_a_write_right_after_the_hashing_is_seen_however_the_clock_ticks(files: Files) -> None:
    path = files.root / "a"
    path.write_text("000")
    for number in range(1, 200):
        files = later(files)
        before = files.state("a")
        path.write_text(f"{number:03}")
        assert later(files).state("a") != before


@pytest.mark.parametrize(
    ("ctime", "age", "kept"),
    [
        (10**18 + 1, 51_000_000, True),
        (10**18 + 1, 49_000_000, False),
        (10**18 + 1, -1, False),
        (10**18, 51_000_000, False),
        (10**18, 1_999_999_999, False),
        (10**18, 2_000_000_001, True),
    ],
    ids=["old", "young", "in the future", "whole seconds", "whole seconds, young", "whole seconds, old"],
)
def test_a_stamp_is_kept_only_when_no_later_write_can_have_the_same(ctime: int, age: int, kept: bool) -> None:
    class Info:
        st_ctime_ns = ctime

    assert module._settled(Info(), ctime + age) is kept  # type: ignore[arg-type]  # only this field counts


@pytest.mark.parametrize("write_first", [True, False])
def test_a_write_during_the_reading_is_seen_by_the_next_run(
    files: Files, monkeypatch: pytest.MonkeyPatch, write_first: bool
) -> None:
    path = files.root / "a"
    path.write_text("one")
    settle(monkeypatch)
    wait_for_tick(files.root)
    real = os.fstat

    def written_meanwhile(handle: int) -> os.stat_result:
        info = real(handle)
        path.write_text("two")
        return real(handle) if write_first else info

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", written_meanwhile)
        files.state("a")
    assert later(files).state("a") == Files(files.root).state("a")


def test_an_inode_number_of_64_bits_fits_into_the_database(files: Files) -> None:
    class Info:
        st_size, st_mtime_ns, st_ctime_ns, st_ino = 5, 6, 7, 2**64 - 1

    assert max(module._stamp(Info())) < 2**63  # type: ignore[arg-type]  # only these fields count


def test_every_look_is_recorded_found_or_not(files: Files) -> None:
    (files.root / "a").touch()
    (files.root / "folder").mkdir()
    with files.recording() as seen:
        files.read("a")
        files.exists("b")
        files.names("folder")
        files.note("c")
        with pytest.raises(FileNotFoundError):
            files.read("d")
    assert seen == {"a", "b", "folder", "c", "d"}
    files.note("later")
    assert "later" not in seen


def test_a_second_look_is_recorded_too_though_the_file_is_known(files: Files) -> None:
    (files.root / "a").touch()
    files.read("a")
    with files.recording() as seen:
        files.read("a")
    assert seen == {"a"}


def test_recordings_inside_each_other_all_see_a_look_and_each_ends_by_itself(files: Files) -> None:
    with files.recording() as outer:
        with files.recording() as inner:  # equal to the outer one when it ends
            files.note("a")
        files.note("b")
    assert (outer, inner) == ({"a", "b"}, {"a"})


def test_a_recording_ends_with_an_exception_too(files: Files) -> None:
    seen: set[str] = set()

    def fail() -> None:
        nonlocal seen
        with files.recording() as seen:
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    files.note("a")
    assert seen == set()


def test_only_a_file_that_is_as_it_was_made_is_an_output(files: Files) -> None:
    assert not files.is_output("build/x/out")
    files.write("build/x/out", b"x")
    assert later(files).is_output("build/x/out")
    files.root.joinpath("build/x/out").write_text("y")
    assert not later(files).is_output("build/x/out")
    files.root.joinpath("build/x/out").unlink()
    assert not later(files).is_output("build/x/out")


def test_an_output_that_others_may_read_is_none_and_is_written_again(files: Files) -> None:
    files.write("build/out", b"x")
    (files.root / "build/out").chmod(0o640)
    after = later(files)
    assert not after.is_output("build/out")
    assert after.write("build/out", b"x")
    assert mode(files.root / "build/out") == 0o600


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_outputs_are_0600_and_their_folders_0700_whatever_the_umask(files: Files, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.write("build/x/hosts/a/config.ign", b"x")
    finally:
        os.umask(before)
    assert mode(files.root / "build/x/hosts/a/config.ign") == 0o600
    folders = ("build", "build/x", "build/x/hosts", "build/x/hosts/a")
    assert {mode(files.root / folder) for folder in folders} == {0o700}


def test_writing_the_same_content_leaves_the_file_alone(files: Files) -> None:
    assert files.write("build/out", b"x")
    before = (files.root / "build/out").stat()
    assert not later(files).write("build/out", b"x")
    assert not files.write("build/out", b"x")
    assert (files.root / "build/out").stat() == before


def test_what_was_written_is_what_is_read_in_the_same_run(files: Files) -> None:
    files.write("build/out", b"one")
    assert files.read("build/out") == b"one"
    files.write("build/out", b"two")
    assert files.read("build/out") == b"two"
    assert files.state("build/out") == later(files).state("build/out") == files.outputs["build/out"]


def test_a_reader_sees_the_old_or_the_new_content_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    replace(path, b"old")
    seen: list[bytes] = []
    real = os.replace

    def looked(source: Any, target: Any) -> None:
        seen.append(path.read_bytes())
        real(source, target)
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "replace", looked)
    replace(path, b"new" * 100_000)
    assert seen == [b"old", b"new" * 100_000]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    replace(path, b"old")

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            replace(path, b"new")
    assert path.read_bytes() == b"old"
    replace(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_a_killed_write_left_is_neither_kept_nor_written_through(tmp_path: Path) -> None:
    (tmp_path / "out.new").write_text("half, and longer than the new content")
    (tmp_path / "out.new").chmod(0o666)
    replace(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert mode(tmp_path / "out") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out.new").symlink_to("precious")
    replace(tmp_path / "out", b"new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out").is_symlink()


def test_the_new_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o000)
    modes: list[int] = []
    real = os.open

    def looked(path: Any, flags: int, permissions: int = 0o777) -> int:
        handle = real(path, flags, permissions)
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    monkeypatch.setattr(os, "open", looked)
    try:
        replace(tmp_path / "out", b"secret")
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_process_that_is_killed_while_it_writes_leaves_old_or_new(tmp_path: Path, python: str) -> None:
    code = (
        "import sys; from pathlib import Path; from i12e.files import replace\n"
        "path = Path(sys.argv[1])\n"
        "while True:\n"
        "    for letter in b'ab':\n"
        "        replace(path, bytes([letter]) * 300_000)\n"
        "        print(flush=True)\n"
    )
    path = tmp_path / "out"
    environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    for _ in range(3):
        with subprocess.Popen([python, "-c", code, str(path)], stdout=subprocess.PIPE, env=environ) as writer:
            assert writer.stdout
            for _ in range(5):
                writer.stdout.readline()
            writer.kill()
        assert path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)


def test_a_file_is_created_whole_and_private_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    assert create(tmp_path / "key", b"text")
    assert (tmp_path / "key").read_bytes() == b"text"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("there", ["file", "link to nowhere"])
def test_what_is_there_is_never_created_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
        assert create(tmp_path / "new", b"text")
    path = tmp_path / "key"
    if there == "file":
        path.write_bytes(b"old")
    else:
        path.symlink_to("nowhere")
    assert not create(path, b"text")
    assert path.is_symlink() or path.read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()
    assert not list(tmp_path.glob("*.new"))

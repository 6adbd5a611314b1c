"""Programs of others: which one is chosen, what it gets, what comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from i12e import programs
from i12e.programs import Missing

Script = Callable[[str], Path]


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a program of this text as the only one on PATH, called sops."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(text: str) -> Path:
        return script(folder / "sops", text)

    return put


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pinned sops, of a wheel of its own."""
    path = script(tmp_path / "venv/bin/sops", "#!/bin/sh\nexit 9\n")
    monkeypatch.setattr(programs, "_pinned", lambda: str(path) if path.exists() else None)
    return path


def script(path: Path, text: str) -> Path:
    """Given a path and a text, make it a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def version(said: str, status: int = 0) -> str:
    """Return a program that says this when asked for its version, and fails when it may look for a newer one."""
    return f'#!/bin/sh\n[ "$*" = "--disable-version-check --version" ] || exit 7\necho "{said}"\nexit {status}\n'


@pytest.mark.parametrize("said", ["sops 3.9.0", "sops 3.9.0 (latest)", "sops 3.11.0", "sops 3.10.2", "sops 10.0.0"])
def test_the_users_own_sops_is_used_when_it_is_new_enough(on_path: Script, pinned: Path, said: str) -> None:
    own = on_path(version(said))
    assert programs.sops() == str(own)


@pytest.mark.parametrize("said", ["sops 3.8.9", "sops 3.7.3 (latest)", "sops 2.99.99", "sops", "", "3.11"])
def test_the_pinned_sops_is_used_when_the_users_is_too_old_or_says_no_version(
    on_path: Script, pinned: Path, said: str
) -> None:
    on_path(version(said))
    assert programs.sops() == str(pinned)


@pytest.mark.parametrize(
    "text", ["", "\x7fELF not for this machine", "#!/no/such/interpreter\n", "#!/bin/sh\nexit 1\n"]
)
def test_the_pinned_sops_is_used_when_the_users_does_not_run(on_path: Script, pinned: Path, text: str) -> None:
    on_path(text)
    assert programs.sops() == str(pinned)


def test_the_pinned_sops_is_used_when_there_is_none_on_path(on_path: Script, pinned: Path) -> None:
    assert programs.sops() == str(pinned)


def test_a_file_that_is_no_program_is_passed_over(on_path: Script, pinned: Path) -> None:
    on_path(version("sops 3.11.0")).chmod(0o644)
    assert programs.sops() == str(pinned)


def test_the_pinned_sops_is_not_asked_for_its_version(
    on_path: Script, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "version", lambda program: pytest.fail("asked"))
    assert programs.sops() == str(pinned)


def test_the_pinned_sops_is_the_program_itself_which_a_moved_checkout_still_finds() -> None:
    pinned = programs._pinned()
    assert pinned is not None
    assert Path(pinned).read_bytes()[:2] != b"#!"


@pytest.mark.parametrize("there", [None, "sops 3.7.3"])
def test_no_usable_sops_at_all_is_told_with_what_to_do(on_path: Script, pinned: Path, there: str | None) -> None:
    pinned.unlink()
    if there:
        on_path(version(there))
    with pytest.raises(Missing, match=r"^sops: not found, .*: rm -r \.venv, then \./doit makes it anew$"):
        programs.sops()


def test_a_path_that_changes_while_the_process_runs_counts_as_it_is_now(on_path: Script) -> None:
    assert programs.which("sops") is None
    put = on_path(version("sops 3.11.0"))
    assert programs.which("sops") == str(put)


def test_how_a_program_ended_is_told_and_is_no_exception() -> None:
    done = programs.run("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.status, done.output, done.complaint) == (3, "out\n", "err\n")


def test_arguments_and_input_arrive_as_they_are() -> None:
    nasty = ["", " ", "a b", "$HOME", "`id`", "*", "'\"\\", "\n", "-x", "ä→"]
    assert programs.run("/usr/bin/printf", r"%s\0", *nasty).output.split("\0")[:-1] == nasty
    assert programs.run("/bin/cat", stdin="ä\n\n").output == "ä\n\n"


def test_a_program_without_input_does_not_wait_for_any() -> None:
    assert programs.run("/bin/cat").output == ""


def test_much_output_on_both_ways_out_does_not_block() -> None:
    done = programs.run("/bin/sh", "-c", "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero")
    assert (len(done.output), len(done.complaint)) == (300_000, 300_000)


def test_a_program_gets_exactly_the_environment_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "ours")
    assert programs.run("/usr/bin/env", environ={"GIVEN": "given"}).output == "GIVEN=given\n"
    assert "OURS=ours\n" in programs.run("/usr/bin/env").output
    monkeypatch.delenv("OURS")
    assert "OURS=" not in programs.run("/usr/bin/env").output


def test_a_program_runs_where_this_process_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert programs.run("/bin/sh", "-c", "pwd -P").output == f"{tmp_path.resolve()}\n"


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_output_is_utf8_and_whole_whatever_the_locale(locale: str) -> None:
    code = r"from i12e import programs; print(ascii(programs.run('/usr/bin/printf', r'p\303\244ss\377').output))"
    environ = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    environ["PYTHONPATH"] = str(Path(programs.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (r"'p\xe4ss\udcff'" + "\n", "")

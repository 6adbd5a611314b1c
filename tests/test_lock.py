"""The lock: one writing run at a time, told who holds it, and never left behind by a process that is gone."""

from __future__ import annotations

import getpass
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from i12e import lock as module
from i12e.lock import Held, describe, duration, roughly, seconds, take

HOLD = (
    "import sys; from pathlib import Path; from i12e import lock\n"
    "held = lock.take(Path(sys.argv[1]), 'doit render')\n"
    "print('held', flush=True)\n"
    "sys.stdin.readline()\n"
    "held.release()\n"
    "print('released', flush=True)\n"
    "sys.stdin.readline()\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the lock goes."""
    return tmp_path / "build/example/lock"


@contextmanager
def other(path: Path, python: str) -> Iterator[subprocess.Popen[bytes]]:
    """Given the lock's path, hold it in a process of its own until that reads a line or is killed."""
    environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    pipe = subprocess.PIPE
    with subprocess.Popen([python, "-c", HOLD, str(path)], stdin=pipe, stdout=pipe, env=environ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[bytes]) -> None:
    """Let the process give the lock back, and wait until it did."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"released\n"


def test_a_second_process_is_told_in_one_line_who_holds_the_lock_and_since_when(path: Path, python: str) -> None:
    with other(path, python) as holder:
        with pytest.raises(Held) as caught:
            take(path, "doit")
        told = re.fullmatch(
            r"another run is at work here: pid (\d+) \(doit render\) of (\S+)@\S+, since \d\d:\d\d:\d\d \(\d+ s ago\)",
            str(caught.value),
        )
        assert told, str(caught.value)
        assert (int(told[1]), told[2]) == (holder.pid, getpass.getuser())


def test_asking_in_vain_does_not_take_the_lock_from_its_holder(path: Path, python: str) -> None:
    with other(path, python):
        for _ in range(3):
            with pytest.raises(Held):
                take(path, "doit")


def test_the_lock_is_free_as_soon_as_its_holder_gives_it_back(path: Path, python: str) -> None:
    with other(path, python) as holder:
        tell(holder)
        take(path, "doit").release()


def test_the_lock_ends_with_a_holder_that_is_killed(path: Path, python: str) -> None:
    with other(path, python) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        take(path, "doit").release()


def test_one_who_waits_gets_the_lock_when_it_is_given_back(path: Path, python: str) -> None:
    with other(path, python) as holder:
        waits = threading.Event()

        def give_back() -> None:
            waits.wait()
            tell(holder)

        helper = threading.Thread(target=give_back)
        helper.start()
        real = module._try

        def tried(handle: int) -> bool:
            done = real(handle)
            waits.set()
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_try", tried)
            take(path, "doit", wait=60).release()
        helper.join()
        assert "doit" in path.read_text()


def test_one_who_waits_in_vain_waits_so_long_and_no_longer(path: Path, python: str) -> None:
    with other(path, python):
        start = time.monotonic()
        with pytest.raises(Held, match="another run is at work here: pid"):
            take(path, "doit", wait=0.25)
        assert 0.25 <= time.monotonic() - start < 30


def test_the_lock_of_this_process_keeps_another_process_out(path: Path, python: str) -> None:
    held = take(path, "doit render")
    code = "import sys; from pathlib import Path; from i12e import lock; lock.take(Path(sys.argv[1]), 'x')"
    environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True, env=environ, check=False)
    held.release()
    assert f"Held: another run is at work here: pid {os.getpid()} (doit render)" in done.stderr


def test_a_program_that_the_holder_started_does_not_keep_the_lock(path: Path, python: str) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path; from i12e import lock\n"
        "held = lock.take(Path(sys.argv[1]), 'x')\n"
        "child = subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3, close_fds=False)\n"
        "print(child.pid, flush=True)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True, env=environ, check=True)
    try:
        take(path, "doit").release()
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


def test_the_lock_is_private_and_so_is_its_folder(path: Path) -> None:
    take(path, "doit").release()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_shorter_holder_leaves_nothing_of_a_longer_one(path: Path) -> None:
    take(path, "doit " + "x" * 500).release()
    take(path, "doit").release()
    assert "(doit)" in describe(path)


def test_giving_back_twice_closes_no_file_of_another(path: Path) -> None:
    held = take(path, "doit")
    held.release()
    with path.open() as file:  # gets the number that has just become free
        held.release()
        assert file.read()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b'{"since": 5}', b'{"since": "soon"}', b'{"since": 1e300}', b"\xff"]
)
def test_a_lock_file_that_says_nothing_still_says_that_a_run_is_at_work(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    assert describe(tmp_path / "lock") == "another run is at work here"


def test_a_lock_file_that_is_gone_still_says_that_a_run_is_at_work(tmp_path: Path) -> None:
    assert describe(tmp_path / "lock") == "another run is at work here"


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.4, "0 s"),
        (4, "4 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (120, "2 min"),
        (719, "11 min"),
        (7199, "119 min"),
        (7200, "2 h 0 min"),
        (11100, "3 h 5 min"),
        (100000, "27 h 46 min"),
    ],
)
def test_a_duration_is_told_as_a_person_tells_it(time: float, text: str) -> None:
    assert duration(time) == text


@pytest.mark.parametrize(
    ("text", "time"), [("0", 0), ("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("1.5h", 5400), ("0.5", 0.5)]
)
def test_a_time_is_read_with_its_unit_and_is_in_seconds_without_one(text: str, time: float) -> None:
    assert seconds(text) == time


@pytest.mark.parametrize("text", ["", "s", "soon", "-1", "-1h", "5 min", "1h30m", "1d", "inf", "nan", "infh", "1e999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the text is the caller's to tell
        seconds(text)


def test_a_lock_that_is_paused_is_free_for_others_and_held_again_afterwards(path: Path, python: str) -> None:
    held = take(path, "doit secrets_edit")
    with held.paused(pytest.fail), other(path, python) as holder:
        tell(holder)
    waits = waiting(path, python)
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(timeout=1)
    held.release()
    assert waits.wait(timeout=60) == 0


def waiting(path: Path, python: str) -> subprocess.Popen[bytes]:
    """Given the lock's path, start a process that waits for it and ends when it has it."""
    code = "import sys; from pathlib import Path; from i12e import lock; lock.take(Path(sys.argv[1]), 'x', 60)"
    environ = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    return subprocess.Popen([python, "-c", code, str(path)], env=environ)


def test_who_pauses_waits_for_the_one_who_took_the_lock_meanwhile_and_is_told_who_that_is(
    path: Path, python: str
) -> None:
    held, told = take(path, "doit secrets_edit"), list[str]()
    with ExitStack() as stack:

        def tell_and_free(text: str) -> None:
            told.append(text)
            tell(holder)

        with held.paused(tell_and_free):
            holder = stack.enter_context(other(path, python))
    assert len(told) == 1
    assert f"pid {holder.pid} (doit render)" in told[0]
    held.release()


def test_a_pause_that_ends_with_an_error_leaves_the_lock_free(path: Path, python: str) -> None:
    held = take(path, "doit secrets_edit")
    with pytest.raises(KeyError), held.paused(pytest.fail):
        raise KeyError
    with other(path, python):
        held.release()
        with pytest.raises(Held):
            take(path, "doit")


@pytest.mark.parametrize(
    ("time", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (21600, "6 h"), (86400, "24 h"), (259200, "3 d")],
)
def test_how_long_ago_is_told_in_one_unit(time: float, text: str) -> None:
    assert roughly(time) == text
    assert roughly(-time - 1) == "in the future"

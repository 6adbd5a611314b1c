"""The machine ids that are pinned: what the file says, what is wrong with it, and writers at once."""

from __future__ import annotations

import itertools
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i12e import machines
from i12e.errors import UserError
from i12e.paths import DEFAULT, Paths, natural

ONE, TWO = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
IDS = st.integers(1, 16**32 - 1).map(lambda number: f"{number:032x}")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An environment of a checkout of its own."""
    (tmp_path / "hosts").mkdir()
    return Paths(tmp_path, DEFAULT)


def text(paths: Paths) -> str:
    """Return the file's lines that are no comment."""
    lines = (paths.root / paths.machines).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def faults(paths: Paths, content: bytes) -> list[str]:
    """Given a file's content, return all that is wrong with it."""
    (paths.root / paths.machines).write_bytes(content)
    with pytest.raises(UserError) as caught:
        machines.load(paths)
    return [str(problem) for problem in caught.value.problems]


def test_without_the_file_no_host_is_pinned_and_no_file_is_made(paths: Paths) -> None:
    assert machines.load(paths) == {}
    machines.unpin(paths, "server-1")
    assert not (paths.root / paths.machines).exists()


def test_each_environment_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert Paths(tmp_path, "prod").machines == "hosts/prod/machines.lock"
    assert Paths(tmp_path, DEFAULT).machines == "hosts/machines.lock"


def test_a_host_has_one_line_and_the_lines_are_in_natural_order(paths: Paths) -> None:
    for number in (10, 2, 1):
        machines.pin(paths, f"server-{number}", f"{number:032x}")
    assert text(paths) == f"server-1 {1:032x}\nserver-2 {2:032x}\nserver-10 {10:032x}\n"
    assert list(machines.load(paths)) == ["server-1", "server-2", "server-10"]


def test_pinning_changes_the_line_of_that_host_alone(paths: Paths) -> None:
    machines.pin(paths, "server-1", ONE)
    machines.pin(paths, "server-2", f"{2:032x}")
    machines.pin(paths, "server-1", TWO)
    assert machines.load(paths) == {"server-1": TWO, "server-2": f"{2:032x}"}


def test_a_host_that_is_unpinned_is_gone_and_the_others_stay(paths: Paths) -> None:
    machines.pin(paths, "server-1", ONE)
    machines.pin(paths, "agent-1", TWO)
    machines.unpin(paths, "server-1")
    machines.unpin(paths, "server-7")
    assert machines.load(paths) == {"agent-1": TWO}


def test_the_file_is_for_everybody_to_read_and_untouched_where_nothing_changes(paths: Paths) -> None:
    machines.pin(paths, "server-1", ONE)
    before = (paths.root / paths.machines).stat()
    machines.pin(paths, "server-1", ONE)
    machines.unpin(paths, "agent-1")
    after = (paths.root / paths.machines).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert stat.S_IMODE(after.st_mode) & 0o600 == 0o600
    assert [entry.name for entry in (paths.root / "hosts").iterdir()] == ["machines.lock"]


def test_all_faults_are_told_at_once_with_their_lines(paths: Paths) -> None:
    lines = ["# comment", "", f"server-1 {ONE}", "server-2", f"Server_3 {TWO}", "server-4 0123", f"server-1 {TWO}"]
    lines += [f"server-5 {ONE}", f"server-6 {'0' * 32}", f"server-7 {TWO} more", "<<<<<<< HEAD", f"ok {3:032x}"]
    told = faults(paths, "\n".join(lines).encode())
    assert [line.split(":")[1] for line in told] == ["4", "5", "6", "7", "8", "9", "10", "11"]
    assert told[0].startswith("hosts/machines.lock:4: is not a host and its machine id (like server-1 ")
    assert "server-1 has a line already, line 3" in told[3]
    assert "server-5 and server-1 have the same machine id" in told[4]
    assert "a merge was not finished here (keep one line of each host)" in told[7]


def test_a_file_of_other_bytes_is_a_fault_and_no_traceback(paths: Paths) -> None:
    assert len(faults(paths, b"\xff\xfe\x00\nserver-1 \xff")) == 2


def test_a_file_of_a_windows_editor_is_read(paths: Paths) -> None:
    (paths.root / paths.machines).write_bytes(f"# x\r\nserver-1\t{ONE}\r\n".encode())
    assert machines.load(paths) == {"server-1": ONE}


def test_a_file_with_a_fault_is_not_written_over(paths: Paths) -> None:
    (paths.root / paths.machines).write_text("nonsense\n")
    with pytest.raises(UserError):
        machines.pin(paths, "server-1", ONE)
    with pytest.raises(UserError):
        machines.unpin(paths, "server-1")
    assert (paths.root / paths.machines).read_text() == "nonsense\n"


@pytest.mark.parametrize("wrong", ["", "uninitialized", ONE.upper(), f"{ONE}\n", "0" * 32, ONE[:31]])
def test_what_is_no_machine_id_is_not_pinned(paths: Paths, wrong: str) -> None:
    with pytest.raises(UserError, match=r"^server-1: its machine id .* is none"):
        machines.pin(paths, "server-1", wrong)
    assert machines.load(paths) == {}


def test_two_hosts_cannot_be_one_machine(paths: Paths) -> None:
    machines.pin(paths, "server-1", ONE)
    with pytest.raises(UserError, match="server-2: has the machine id that is pinned for server-1"):
        machines.pin(paths, "server-2", ONE)
    assert machines.load(paths) == {"server-1": ONE}


FOLDERS = itertools.count()


@settings(max_examples=60, deadline=None)
@given(pins=st.dictionaries(NAMES, IDS, max_size=8).filter(lambda pins: len(set(pins.values())) == len(pins)))
def test_what_was_pinned_is_read_back_in_natural_order(
    tmp_path_factory: pytest.TempPathFactory, pins: dict[str, str]
) -> None:
    paths = Paths(tmp_path_factory.getbasetemp() / f"pins-{next(FOLDERS)}", DEFAULT)
    (paths.root / "hosts").mkdir(parents=True)
    for host, machine_id in pins.items():
        machines.pin(paths, host, machine_id)
    assert machines.load(paths) == pins
    assert list(machines.load(paths)) == sorted(pins, key=natural)


def test_threads_that_pin_at_once_lose_no_line(paths: Paths) -> None:
    hosts = {f"agent-{number}": f"{number:032x}" for number in range(1, 41)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda host: machines.pin(paths, host, hosts[host]), hosts))
    assert machines.load(paths) == hosts


def test_processes_that_pin_at_once_lose_no_line(paths: Paths) -> None:
    code = (
        "import sys; from pathlib import Path; from i12e import machines; from i12e.paths import Paths\n"
        "start, paths = int(sys.argv[2]), Paths(Path(sys.argv[1]), 'default')\n"
        "sys.stdin.read()\n"
        "for number in range(start, start + 30): machines.pin(paths, f'agent-{number}', f'{number:032x}')\n"
    )
    command = [sys.executable, "-c", code, str(paths.root)]
    environ = {"PYTHONPATH": str(Path(machines.__file__).parents[1])}
    writers = [subprocess.Popen([*command, str(start)], stdin=subprocess.PIPE, env=environ) for start in (1, 101, 201)]
    for writer in writers:
        assert writer.stdin
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(machines.load(paths)) == 90

"""Commands on a host over the real OpenSSH, with a real sshd: what comes back, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Project
from i12e import remote, unreachable
from i12e.model import Host, load_fleet
from i12e.remote import (
    ChangedKey,
    Lost,
    NotAllowed,
    Refused,
    Remote,
    Slow,
    Target,
    TooMuch,
    UnknownKey,
    Unreachable,
    ask_key,
    offered_key,
    patiently,
    target,
)
from i12e.screen import Terminal
from sshd import PATIENCE, Sshd, lives, processes, until

Start = Callable[..., Sshd]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts sshds; they end with the test."""
    running: list[Sshd] = []

    def begin(name: str = "sshd", options: str = "", path: str = os.defpath) -> Sshd:
        running.append(Sshd(tmp_path / name, options, path))
        return running[-1]

    yield begin
    for server in running:
        server.end()


@pytest.fixture
def sshd(start: Start) -> Sshd:
    """An sshd whose key is known, and which takes ours."""
    return start()


@pytest.fixture
def host(sshd: Sshd) -> Iterator[Remote]:
    """The host behind it."""
    with Remote(sshd.target()) as opened:
        yield opened


def folder(host: Remote) -> Path:
    """Return where a Remote has its socket."""
    assert host._folder
    return host._folder[0]


# what comes back


def test_what_a_script_wrote_and_its_status_come_back(host: Remote) -> None:
    done = host.run("echo out; echo err >&2; exit 3")
    assert (done.status, done.output, done.complaint) == (3, "out\n", "err\n")


@pytest.mark.parametrize("status", [0, 1, 127, 254, 255])
def test_every_status_is_the_scripts_own_also_the_one_that_is_sshs(host: Remote, status: int) -> None:
    assert host.run(f"exit {status}").status == status


def test_a_script_that_a_signal_ended_has_the_shells_status_for_it(host: Remote) -> None:
    done = host.run("echo before; kill -9 $$")
    assert (done.status, done.output, done.complaint) == (137, "before\n", "")


def test_a_syntax_error_is_the_scripts_failure_and_not_a_lack_of_permission(host: Remote) -> None:
    done = host.run("if")
    assert done.status == 2
    assert "yntax error" in done.complaint


def test_twenty_megabytes_of_any_bytes_arrive_whole_and_come_back_whole(host: Remote) -> None:
    content = os.urandom(1 << 20) * 20
    digest = hashlib.sha256(content).hexdigest()
    assert host.run("sha256sum", stdin=content).output == f"{digest}  -\n"
    back = host.run("cat", stdin=content).output.encode(errors="surrogateescape")
    assert hashlib.sha256(back).hexdigest() == digest


def test_a_script_that_reads_none_of_its_input_ends_all_the_same(host: Remote) -> None:
    assert host.run("exit 4", stdin=b"x" * 20_000_000).status == 4


def test_a_script_without_input_finds_its_end_at_once(host: Remote) -> None:
    assert host.run("cat; echo end").output == "end\n"


def test_a_script_that_is_too_long_for_an_argument_runs_with_its_input(host: Remote) -> None:
    script = "# " + "x" * 300_000 + "\nprintf '<%s>' \"$(cat)\"\nexit 5\n"
    done = host.run(script, stdin=b"input")
    assert (done.status, done.output, done.complaint) == (5, "<input>", "")


def test_what_a_script_leaves_in_the_background_is_not_waited_for(
    host: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_END", 0.2)
    done = host.run("echo $$; sleep 60 & echo $!", limit=PATIENCE)
    os.kill(int(done.output.split()[1]), signal.SIGKILL)
    assert done.status == 0


def test_what_a_login_says_is_no_part_of_the_output(start: Start) -> None:
    noise = 'echo noise; echo noise >&2; eval "$SSH_ORIGINAL_COMMAND"'
    sshd = start(options=f"ForceCommand {noise}")
    with Remote(sshd.target()) as host:
        done = host.run("echo out; echo err >&2")
    assert (done.output, done.complaint) == ("out\n", "err\n")


ALPHABET = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
PIECES = st.sampled_from(
    [
        *"'\"\\`$!*?~#&;(){}[]<>| \n\t%",
        "$(",
        "${",
        "$'",
        "echo ",
        "a=1",
        "$a",
        "\\n",
        "<<E\n",
        "\nE\n",
        "|cat",
        "-n",
        "ä→",
    ]
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    """A host for many scripts."""
    server = Sshd(tmp_path_factory.mktemp("kept") / "sshd")
    with Remote(server.target()) as opened:
        yield opened
    server.end()


@settings(max_examples=40, deadline=None)
@given(text=st.text(ALPHABET, max_size=200))
def test_any_text_in_a_script_arrives_as_it_is(kept: Remote, text: str) -> None:
    assert kept.run(f"printf %s {shlex.quote(text)}").output == text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=12))
def test_any_script_does_what_the_shell_does_here(kept: Remote, tmp_path: Path, pieces: list[str]) -> None:
    script = f"cd {shlex.quote(str(tmp_path))}\n{''.join(pieces)}"
    local = subprocess.run(["sh", "-c", script, "sh"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    done = kept.run(script)
    assert (done.status, done.output.encode(errors="surrogateescape")) == (local.returncode, local.stdout)


# one connection


def test_many_commands_go_over_one_connection(sshd: Sshd, host: Remote) -> None:
    assert [host.run(f"exit {number}").status for number in range(8)] == list(range(8))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: host.run(f"echo {n}").output, range(8))) == [f"{n}\n" for n in range(8)]
    assert len(sshd.connections) == 1


def test_several_hosts_are_worked_on_at_once(start: Start) -> None:
    servers = [start(f"sshd-{number}") for number in range(3)]

    def work(server: Sshd) -> str:
        with Remote(server.target()) as host:
            return host.run("cat", stdin=str(server.port).encode()).output

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, servers)) == [str(server.port) for server in servers]


def test_after_drop_the_next_command_connects_anew(sshd: Sshd, host: Remote) -> None:
    host.run("true")
    host.drop()
    until(lambda: sshd.connections[0][1].poll() is not None, "the first connection's end")
    assert host.run("echo again").output == "again\n"
    assert len(sshd.connections) == 2


@pytest.mark.parametrize("how", ["cut", "kill", "freeze"])
def test_a_kept_connection_that_died_is_replaced_and_the_command_runs_once(
    sshd: Sshd, host: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    host.run("true")
    match how:
        case "cut":
            sshd.cut()
        case "kill":
            sshd.signal(signal.SIGKILL)
        case "freeze":  # a host that was switched off: no word, and nothing that says so
            monkeypatch.setattr(remote, "_READY", 1.0)
            sshd.signal(signal.SIGSTOP)
    assert host.run(f"echo x >> {tmp_path}/ran; echo ran").output == "ran\n"
    sshd.signal(signal.SIGCONT)
    assert len(sshd.connections) == 2
    assert (tmp_path / "ran").read_text() == "x\n"


def test_close_leaves_no_process_and_no_file(sshd: Sshd) -> None:
    host = Remote(sshd.target())
    host.run("true")
    place = folder(host)
    assert place.stat().st_mode & 0o777 == 0o700
    assert processes(str(place))
    host.close()
    assert processes(str(place)) == []
    assert not place.exists()
    host.close()


CHILD = """
import sys, time
from i12e.remote import Remote, Target
host = Remote(Target("server-1", sys.argv[1], tuple(sys.argv[2:])))
host.run("true")
print(host._folder[0], flush=True)
"""


def child(sshd: Sshd, code: str) -> tuple[subprocess.Popen[str], Path]:
    """Given what it does, start a process that has a Remote; return it and the Remote's folder."""
    target = sshd.target()
    environ = {**os.environ, "PYTHONPATH": str(Path(remote.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD + code, target.destination, *target.options]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_process_that_ends_without_close_leaves_nothing(sshd: Sshd) -> None:
    process, place = child(sshd, "")
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert not place.exists()
    assert processes(str(place)) == []


def test_a_process_that_is_killed_leaves_no_ssh_and_its_folder_goes_later(
    sshd: Sshd, host: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, place = child(sshd, f"host.run('touch {sshd.folder}/began; sleep 60', limit=60)")
    until((sshd.folder / "began").exists, "the command's start")
    process.kill()
    process.communicate(timeout=PATIENCE)
    until(lambda: not processes(str(place)), "the end of its sshs")
    assert place.exists()
    monkeypatch.setattr(remote, "_NEW", 0.0)
    host.run("true")
    assert not place.exists()


def test_the_folder_of_a_process_that_lives_is_left_alone(
    sshd: Sshd, host: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_NEW", 0.0)
    host.run("true")
    with Remote(sshd.target()) as other:
        other.run("true")
        assert folder(host).exists()
        assert host.run("echo still").output == "still\n"


def test_ctrl_c_ends_a_command_at_once_and_leaves_nothing(sshd: Sshd) -> None:
    process, place = child(sshd, f"host.run('touch {sshd.folder}/began; sleep 60', limit=60)")
    until((sshd.folder / "began").exists, "the command's start")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
    assert processes(str(place)) == []
    assert not place.exists()


# what goes wrong


def test_a_closed_port_is_temporary(sshd: Sshd, host: Remote) -> None:
    sshd.close()
    with pytest.raises(Refused) as caught:
        host.run("true")
    assert caught.value.why == f"connect to host 127.0.0.1 port {sshd.port}: Connection refused"
    assert str(caught.value) == f"server-1: {caught.value.why}"
    sshd.open_again()
    assert host.run("echo there").output == "there\n"


def test_a_host_that_accepts_and_says_nothing_is_temporary(
    sshd: Sshd, host: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_CONNECT", 1)
    sshd.mute = True
    with pytest.raises(Refused, match="timed out"):
        host.run("true")


def test_a_host_that_hangs_up_before_the_login_is_temporary(start: Start) -> None:
    sshd = start(options="NoSuchOption yes")  # so that sshd ends at once
    with Remote(sshd.target()) as host, pytest.raises(Refused, match=r"Connection (closed|reset)"):
        host.run("true")


def test_a_login_that_takes_too_long_is_temporary(sshd: Sshd, host: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_LOGIN", 0.5)
    sshd.mute = True
    with pytest.raises(Refused, match="no login within"):
        host.run("true")


def test_a_key_that_the_host_does_not_take_is_permanent(sshd: Sshd, host: Remote) -> None:
    (sshd.folder / "authorized_keys").write_text("")
    with pytest.raises(NotAllowed, match=r"Permission denied \(publickey") as caught:
        host.run("true")
    assert "ssh_keys" in caught.value.remedy


def test_a_user_that_the_host_does_not_have_is_permanent(sshd: Sshd) -> None:
    with Remote(sshd.target(user="nobody-of-this-name")) as host, pytest.raises(NotAllowed, match="Permission denied"):
        host.run("true")


def test_a_host_key_that_is_not_known_stops(sshd: Sshd, host: Remote) -> None:
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(UnknownKey) as caught:
        host.run("true")
    assert caught.value.why == "its ssh host key (ED25519) is not known"
    assert caught.value.remedy == "./doit host_trust:server-1 shows it and asks"
    assert (sshd.folder / "known_hosts").read_text() == ""


def test_a_host_key_that_changed_stops_and_says_what_and_where(sshd: Sshd, host: Remote) -> None:
    sshd.make_key("host_key")
    with pytest.raises(ChangedKey) as caught:
        host.run("true")
    known = sshd.folder / "known_hosts"
    assert caught.value.why == (
        f"its ssh host key has changed: it has {sshd.fingerprint()} (ED25519), not the one in {known}:1"
    )
    assert caught.value.remedy.endswith(
        f"only then ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f {known} and ./doit host_trust:server-1"
    )


def test_a_host_key_that_was_revoked_stops(sshd: Sshd, host: Remote) -> None:
    known = sshd.folder / "known_hosts"
    known.write_text(f"@revoked {known.read_text()}")
    with pytest.raises(ChangedKey, match="is marked as revoked"):
        host.run("true")


def test_a_faulty_ssh_config_is_permanent_and_says_so(sshd: Sshd, host: Remote) -> None:
    sshd.configure("NoSuchOption yes")
    with pytest.raises(Unreachable, match="terminating, 1 bad configuration options") as caught:
        host.run("true")
    assert type(caught.value) is Unreachable


@pytest.mark.parametrize("how", ["cut", "kill", "shell"])
def test_a_connection_that_breaks_in_the_middle_is_lost_and_the_next_command_runs(
    sshd: Sshd, host: Remote, tmp_path: Path, how: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, f"echo working >&2; echo $PPID > {tmp_path}/pid; sleep 60; echo no", b"", 60.0)
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the command's start")
        time.sleep(1)  # until its word has come over, which nothing here tells
        match how:
            case "cut":
                sshd.cut()
            case "kill":
                sshd.signal(signal.SIGKILL)
            case "shell":
                os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        with pytest.raises(Lost) as caught:
            running.result(PATIENCE)
    assert caught.value.why.endswith("its last word was: working")
    assert host.run("echo next").output == "next\n"


def test_a_link_that_falls_silent_in_the_middle_is_lost_in_time(
    sshd: Sshd, host: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_ALIVE", (1, 1))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, f"touch {tmp_path}/began; sleep 60", b"", 60.0)
        until((tmp_path / "began").exists, "the command's start")
        sshd.signal(signal.SIGSTOP)
        with pytest.raises(Lost, match="not responding"):
            running.result(PATIENCE)


def test_a_command_that_hangs_ends_at_its_limit_here_and_there(sshd: Sshd, host: Remote) -> None:
    with pytest.raises(Slow, match=r"no end after 1 s, its last word was: (\d+)") as caught:
        host.run("trap '' HUP; sleep 60 & echo $! >&2; wait", limit=1.0)
    over_there = int(caught.value.why.rpartition(" ")[2])
    until(lambda: not lives(over_there), "the end of the command")
    assert host.run("echo next").output == "next\n"
    assert len(sshd.connections) == 1


def test_a_command_that_ignores_the_wish_that_it_ends_is_killed(host: Remote) -> None:
    with pytest.raises(Slow, match=r"its last word was: (\d+)") as caught:
        host.run("trap '' TERM HUP PIPE; echo $$ >&2; while :; do sleep 1; done", limit=0.5)
    until(lambda: not lives(int(caught.value.why.rpartition(" ")[2])), "the end of the command")


def test_a_host_that_writes_without_end_is_broken_off(host: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST", 1_000_000)
    with pytest.raises(TooMuch, match="wrote more than 1 MB and was broken off"):
        host.run("yes")
    assert host.run("echo next").output == "next\n"


def test_no_more_sessions_is_temporary_and_breaks_nothing_that_runs(start: Start) -> None:
    sshd = start(options="MaxSessions 2")  # the connection's own is one
    with Remote(sshd.target()) as host, host.hold("echo here; cat") as held:
        assert held.first_line(PATIENCE) == "here"
        with pytest.raises(Refused, match="Session open refused by peer"):
            host.run("true")
        assert held.alive()


# what is streamed


def collected(pieces: list[bytes]) -> bytes:
    assert all(pieces)
    return b"".join(pieces)


def test_what_is_streamed_is_handed_on_and_not_kept(host: Remote) -> None:
    pieces: list[bytes] = []
    done = host.stream("cat; echo err >&2; exit 3", pieces.append, b"in\0\xff\n")
    assert (done.status, done.output, done.complaint) == (3, "", "err\n")
    assert collected(pieces) == b"in\0\xff\n"


def test_a_stream_of_nothing_is_nothing(host: Remote) -> None:
    pieces: list[bytes] = []
    assert host.stream("true", pieces.append).status == 0
    assert pieces == []


def test_what_is_streamed_comes_as_it_is_written(host: Remote, tmp_path: Path) -> None:
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        if collected(pieces) == b"i12e is it":  # which begins as a mark does
            (tmp_path / "go").touch()

    script = f"printf 'i12e is it'; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; printf ' all'"
    assert host.stream(script, take, quiet=PATIENCE).status == 0
    assert collected(pieces) == b"i12e is it all"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_stream_cut_anywhere_is_handed_on_to_the_byte(data: st.DataObject) -> None:
    mark = "i12e-0123456789abcdef"
    like = st.sampled_from([f"{mark}\n", f"{mark} end", mark[:7], f"{mark} e", f"{mark} ended 0\n", "\n"])
    content = b"".join(data.draw(st.lists(st.one_of(st.binary(max_size=9), like.map(str.encode)), max_size=8)))
    begin, end = f"{mark}\n".encode(), f"{mark} end\n".encode()
    whole = b"noise " + begin + content + end + b"from the background"
    expected = content.partition(end)[0]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces: list[bytes] = []
    tap = remote._Tap(mark, pieces.append)
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        tap(whole[start:stop])
    assert tap.ended
    assert collected(pieces) == expected


def test_what_a_login_says_is_no_part_of_a_stream(start: Start) -> None:
    sshd = start(options='ForceCommand echo noise; eval "$SSH_ORIGINAL_COMMAND"; echo bye')
    pieces: list[bytes] = []
    with Remote(sshd.target()) as host:
        assert host.stream("echo out", pieces.append).status == 0
    assert collected(pieces) == b"out\n"


LARGE = """
import hashlib, resource
file, digest = sys.argv[1], hashlib.sha256()
host.stream(f"cat {file}", digest.update)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
digest = hashlib.sha256()
done = host.stream(f"for n in $(seq 300); do cat {file}; done", digest.update)
print(done.status, digest.hexdigest(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_300_megabytes_arrive_whole_and_take_no_memory(sshd: Sshd, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    (tmp_path / "content").write_bytes(content)
    digest = hashlib.sha256()
    for _ in range(300):
        digest.update(content)
    process, _ = child(sshd, LARGE.replace("sys.argv[1]", repr(str(tmp_path / "content"))))
    out, err = process.communicate(timeout=120)
    assert err == ""
    status, found, kilobytes = out.split()
    assert (status, found) == ("0", digest.hexdigest())
    assert int(kilobytes) < 50_000


def test_while_the_taker_works_the_script_waits(host: Remote, tmp_path: Path) -> None:
    """What is on its way is less than 8 MB: pipes, and the windows of ssh."""
    wrote = tmp_path / "wrote"
    script = f"n=0; while [ $n -lt 64 ]; do head -c 1000000 /dev/zero; n=$((n + 1)); echo $n > {wrote}; done"
    got, taken, seen = 0, 0, list[int]()

    def take(piece: bytes) -> None:
        nonlocal got, taken
        got += len(piece)
        if taken == 0 and got > 1_000_000:
            taken = 1
            until(lambda: still(wrote, seen), "the script's wait")
        assert got > 0

    assert host.stream(script, take).status == 0
    assert got == 64_000_000
    assert seen[-1] < 8


def still(file: Path, seen: list[int]) -> bool:
    """Tell whether the number in a file stays what it is, seen again for half a second."""
    seen.append(int(file.read_text() or "0") if file.exists() else 0)
    time.sleep(0.04)
    return len(seen) > 12 and len(set(seen[-12:])) == 1


def test_a_taker_that_takes_its_time_is_no_silence(host: Remote) -> None:
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        if not pieces:
            time.sleep(1.7)
        pieces.append(piece)

    assert host.stream("head -c 1000000 /dev/zero", take, quiet=1.5).status == 0
    assert len(collected(pieces)) == 1_000_000


def test_a_script_that_fails_after_half_of_a_stream_has_its_status(host: Remote) -> None:
    pieces: list[bytes] = []
    done = host.stream("head -c 5000000 /dev/zero; echo 'the disk is gone' >&2; exit 74", pieces.append)
    assert (done.status, done.complaint) == (74, "the disk is gone\n")
    assert len(collected(pieces)) == 5_000_000


@pytest.mark.parametrize("how", ["cut", "kill", "shell"])
def test_a_stream_whose_connection_breaks_is_lost(sshd: Sshd, host: Remote, tmp_path: Path, how: str) -> None:
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        if not pieces:
            match how:
                case "cut":
                    sshd.cut()
                case "kill":
                    sshd.signal(signal.SIGKILL)
                case "shell":
                    os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        pieces.append(piece)

    script = f"echo working >&2; echo $PPID > {tmp_path}/pid; while head -c 100000 /dev/zero; do :; done"
    with pytest.raises(Lost) as caught:
        host.stream(script, take)
    assert caught.value.why.endswith("its last word was: working")
    assert pieces
    assert host.run("echo next").output == "next\n"


def test_a_stream_that_lacks_its_end_is_lost_though_the_scripts_status_came(
    host: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the connection breaks between the status, which has a way of its own, and the last of the output."""
    monkeypatch.setattr(remote, "_END_OF_STREAM", "exec >&-; ")
    with pytest.raises(Lost):
        host.stream("echo part", lambda piece: None)


def test_what_the_taker_raises_ends_the_script_and_is_raised(host: Remote, tmp_path: Path) -> None:
    class Full(Exception):
        pass

    def take(piece: bytes) -> None:
        raise Full

    script = f"trap '' HUP PIPE; echo $$ > {tmp_path}/pid; while :; do head -c 100000 /dev/zero; done"
    with pytest.raises(Full):
        host.stream(script, take)
    until(lambda: not lives(int((tmp_path / "pid").read_text())), "the end of the script")
    assert host.run("echo next").output == "next\n"


def test_a_taker_that_would_block_is_not_taken_for_an_empty_pipe(host: Remote) -> None:
    def take(piece: bytes) -> None:
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        host.stream("echo out", take)


def test_a_stream_that_falls_silent_is_slow_and_its_script_ends(host: Remote) -> None:
    pieces: list[bytes] = []
    with pytest.raises(Slow, match=r"not a byte for \S+ s, its last word was: (\d+)") as caught:
        host.stream("trap '' HUP; echo $$ >&2; echo first; sleep 60; echo no", pieces.append, quiet=1.5)
    assert collected(pieces) == b"first\n"
    until(lambda: not lives(int(caught.value.why.rpartition(" ")[2])), "the end of the script")


def test_a_script_that_complains_without_end_is_broken_off_in_a_stream(
    host: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MOST", 1_000_000)
    pieces: list[bytes] = []
    assert host.stream("head -c 3000000 /dev/zero", pieces.append).status == 0
    assert len(collected(pieces)) == 3_000_000
    with pytest.raises(TooMuch, match="wrote more than 1 MB"):
        host.stream("yes >&2", pieces.append)


def test_a_stream_is_logged_without_what_the_taker_says(sshd: Sshd) -> None:
    lines: list[str] = []

    def take(piece: bytes) -> None:
        raise ValueError("a-secret")

    with Remote(sshd.target(), lines.append) as host:
        host.stream("echo out", lambda piece: None)
        with pytest.raises(ValueError, match="a-secret"):
            host.stream("echo out", take)
    told = [line for line in lines if not line.startswith("connecting")]
    assert [re.sub(r"[\d.]+ s", "T", line) for line in told] == [
        "$ echo out",
        "= 0 in T",
        "$ echo out",
        "= ValueError (T)",
    ]


# becoming root


STAND_IN = """#!/bin/sh
[ "$1" = -n ] || exit 9
if [ -e {folder}/forbidden ]; then echo 'sudo: a password is required' >&2; exit 1; fi
shift
echo sudo >> {folder}/asked
exec "$@"
"""


@pytest.fixture
def user(start: Start, tmp_path: Path) -> Iterator[Remote]:
    """A host that takes us for a user who is not root, where sudo is a stand-in."""
    place = tmp_path / "path"
    place.mkdir()
    for name, text in (("id", "#!/bin/sh\necho 1000\n"), ("sudo", STAND_IN.format(folder=tmp_path))):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    server = start(path=f"{place}:{os.defpath}")
    with Remote(server.target()) as opened:
        yield opened


def test_a_script_runs_as_root_by_sudo_with_its_input_and_status(user: Remote, tmp_path: Path) -> None:
    done = user.run("cat; exit 7", stdin=b"in")
    assert (done.status, done.output, done.complaint) == (7, "in", "")
    assert (tmp_path / "asked").read_text() == "sudo\n"


def test_a_script_that_need_not_be_root_runs_without_sudo(user: Remote, tmp_path: Path) -> None:
    assert user.run("echo me", root=False).output == "me\n"
    assert not (tmp_path / "asked").exists()


def test_a_user_who_may_not_become_root_is_no_failure_of_the_script(user: Remote, tmp_path: Path) -> None:
    (tmp_path / "forbidden").touch()
    with pytest.raises(NotAllowed, match="sudo: a password is required") as caught:
        user.run("true")
    assert caught.value.remedy == "the user has to be allowed sudo -n"


def test_a_stream_is_roots_too_and_none_where_that_is_not_allowed(user: Remote, tmp_path: Path) -> None:
    pieces: list[bytes] = []
    assert user.stream("cat", pieces.append, b"in").status == 0
    assert pieces == [b"in"]
    assert (tmp_path / "asked").read_text() == "sudo\n"
    (tmp_path / "forbidden").touch()
    with pytest.raises(NotAllowed, match="sudo: a password is required"):
        user.stream("echo no", pieces.append)
    assert pieces == [b"in"]


# what can be seen


def test_what_is_given_as_input_is_in_no_argument_and_in_no_log(sshd: Sshd, tmp_path: Path) -> None:
    secret, lines = "a-secret-value-that-nobody-sees", list[str]()
    script = f"cat > /dev/null; touch {tmp_path}/read; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    with Remote(sshd.target(), lines.append) as host, ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, script, secret.encode())
        until((tmp_path / "read").exists, "the command's start")
        assert processes(f"{tmp_path}/read")
        assert processes(secret) == []
        (tmp_path / "go").touch()
        assert running.result(PATIENCE).status == 0
    assert lines[0] == f"$ {script}  # with {len(secret)} bytes of input"
    assert secret not in "\n".join(lines)


def test_the_log_tells_each_command_and_how_it_ended(sshd: Sshd) -> None:
    lines: list[str] = []
    with Remote(sshd.target(), lines.append) as host:
        host.run("echo out; echo why >&2; exit 3")
        sshd.close()
        host.drop()
        with pytest.raises(Refused):
            host.run("true")
    assert lines[0] == "$ echo out; echo why >&2; exit 3"
    assert lines[2].startswith("= 3 in ")
    assert lines[2].endswith(" s: why")
    assert lines[-1].startswith("= Refused: connect to host 127.0.0.1 port ")


# the user's own config


def test_a_proxy_command_of_the_users_config_is_used(sshd: Sshd, tmp_path: Path) -> None:
    code = "import socket,sys,threading as t,os;s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
    code += "def up():\n while b:=os.read(0,65536): s.sendall(b)\n s.shutdown(1)\n"
    code += "t.Thread(target=up,daemon=True).start()\nwhile b:=s.recv(65536): os.write(1,b)\n"
    (tmp_path / "proxy.py").write_text(f"open({str(tmp_path / 'used')!r},'a').write('x')\n{code}")
    sshd.configure(f"ProxyCommand {sys.executable} {tmp_path}/proxy.py 127.0.0.1 {sshd.port}")
    with Remote(Target("server-1", f"{sshd.user}@127.0.0.1", sshd.target().options)) as host:
        assert [host.run("echo through").output for _ in range(2)] == ["through\n"] * 2
        assert (tmp_path / "used").read_text() == "x"
        assert processes(f"{tmp_path}/proxy.py")
    until(lambda: not processes(f"{tmp_path}/proxy.py"), "the end of the proxy")


@pytest.fixture
def jump(start: Start, sshd: Sshd) -> Sshd:
    """Another sshd, over which the host is reached; its key is known, and it takes the same key of ours."""
    server = start("jump")
    (server.folder / "authorized_keys").write_bytes((sshd.folder / "authorized_keys").read_bytes())
    with (sshd.folder / "known_hosts").open("a") as file:
        file.write((server.folder / "known_hosts").read_text())
    sshd.configure(f"Host 127.0.0.1\n  ProxyJump jump\nHost jump\n  HostName 127.0.0.1\n  Port {server.port}")
    text = (
        (sshd.folder / "ssh_config")
        .read_text()
        .replace("ProxyJump jump", f"ProxyJump {sshd.user}@localhost:{server.port}")
    )
    (sshd.folder / "ssh_config").write_text(text + "Host localhost\n  HostKeyAlias jump\n")
    known = (sshd.folder / "known_hosts").read_text()
    (sshd.folder / "known_hosts").write_text(known.replace(f"[127.0.0.1]:{server.port}", "jump"))
    return server


def test_a_jump_host_of_the_users_config_is_used(sshd: Sshd, jump: Sshd, host: Remote) -> None:
    assert [host.run("echo through").output for _ in range(2)] == ["through\n"] * 2
    assert (len(jump.connections), len(sshd.connections)) == (1, 1)


def test_a_jump_host_that_refuses_is_temporary(sshd: Sshd, jump: Sshd, host: Remote) -> None:
    jump.close()
    with pytest.raises(Refused, match=f"port {jump.port}: Connection refused"):
        host.run("true")


def test_a_host_that_its_jump_host_cannot_reach_is_temporary(sshd: Sshd, jump: Sshd, host: Remote) -> None:
    sshd.close()
    with pytest.raises(Refused, match=r"open failed: connect failed: Connection refused"):
        host.run("true")


def test_a_jump_host_that_is_not_known_stops_and_asks_nothing(sshd: Sshd, jump: Sshd, host: Remote) -> None:
    known = (sshd.folder / "known_hosts").read_text().splitlines(keepends=True)
    (sshd.folder / "known_hosts").write_text(known[0])
    with pytest.raises(UnknownKey, match="or for a jump host on the way"):
        host.run("true")
    with pytest.raises(UnknownKey, match="or for a jump host on the way"):
        offered_key(sshd.target())


def test_what_a_users_config_has_for_logins_by_hand_is_left_out(sshd: Sshd, host: Remote, tmp_path: Path) -> None:
    extra = f"RemoteCommand touch {tmp_path}/wrong\nRequestTTY force\nPermitLocalCommand yes\n"
    extra += f"LocalCommand touch {tmp_path}/wrong\nLocalForward {sshd.port} 127.0.0.1:1\nExitOnForwardFailure yes\n"
    sshd.configure(extra + "ControlMaster auto\nControlPersist yes\nLogLevel QUIET\nBatchMode no\nUser other\n")
    assert host.run("echo mine").output == "mine\n"
    assert not (tmp_path / "wrong").exists()


# where a host is


def hosts(project: Project, cluster: str = "", own: str = "") -> dict[str, Host]:
    """Given what the cluster's file and a server's say of ssh, return the hosts."""
    project.edit("hosts/example/cluster.yaml", "name: example\n", f"name: example\n{cluster}")
    project.edit("hosts/example/server-1.yaml", "role: server\n", f"role: server\n{own}")
    names = ["server-1", "agent-1"]
    fleet = load_fleet("hosts/example", "example", names, lambda path: (project.root / path).read_bytes())
    assert fleet.problems == []
    return fleet.hosts


def test_a_host_is_reached_as_core_at_its_first_address_by_the_users_own_config(small: Project) -> None:
    small.edit("hosts/example/server-1.yaml", "[192.0.2.11]", "[192.0.2.11, 192.0.2.111]")
    assert target(hosts(small)["server-1"], small.root) == Target("server-1", "core@192.0.2.11")


def test_a_host_is_reached_as_its_files_say(small: Project) -> None:
    found = hosts(small, "ssh: {user: me, config: ssh/config}\n", "ssh: {address: s1.example.com, port: 2222}\n")
    config = ("-F", str(small.root / "hosts/example/ssh/config"))
    assert target(found["server-1"], small.root) == Target("server-1", "me@s1.example.com", (*config, "-p", "2222"))
    assert target(found["agent-1"], small.root) == Target("agent-1", "me@192.0.2.21", config)


# host keys


class Person:
    """Stands for a terminal: what it was told, and what is answered."""

    def __init__(self, answer: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.shown = ""
        self._answer = answer
        self._meanwhile = meanwhile
        self.asked = 0

    def say(self, text: str = "") -> None:
        self.shown += f"{text}\n"

    def ask(self, question: str) -> str:
        self.asked += 1
        self._meanwhile()
        return self._answer

    @property
    def terminal(self) -> Terminal:
        """It, as what it stands for."""
        return cast(Terminal, self)


def test_the_key_that_a_host_offers_is_told_and_not_believed(sshd: Sshd) -> None:
    (sshd.folder / "known_hosts").write_text("")
    assert offered_key(sshd.target()) == f"{sshd.fingerprint()} (ED25519)"
    assert (sshd.folder / "known_hosts").read_text() == ""
    sshd.close()
    with pytest.raises(Refused, match="Connection refused"):
        offered_key(sshd.target())


def test_a_key_that_a_person_accepts_is_noted_by_ssh_where_ssh_looks_for_it(sshd: Sshd, host: Remote) -> None:
    (sshd.folder / "known_hosts").write_text("")
    person = Person("yes")
    ask_key(sshd.target(), person.terminal)
    assert person.asked == 1
    assert sshd.fingerprint() in person.shown
    assert (sshd.folder / "known_hosts").read_text().split()[0] == f"[127.0.0.1]:{sshd.port}"
    assert host.run("echo known").output == "known\n"


@pytest.mark.parametrize("answer", ["", "no", "n", "maybe"])
def test_a_key_that_is_not_accepted_is_not_noted(sshd: Sshd, answer: str) -> None:
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(UnknownKey, match="that was not accepted"):
        ask_key(sshd.target(), Person(answer).terminal)
    assert (sshd.folder / "known_hosts").read_text() == ""


def test_a_key_that_is_another_one_when_it_is_accepted_is_not_noted(sshd: Sshd) -> None:
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(UnknownKey, match="ssh did not note it"):
        ask_key(sshd.target(), Person("yes", lambda: sshd.make_key("host_key")).terminal)
    assert (sshd.folder / "known_hosts").read_text() == ""


def test_without_a_terminal_the_error_says_what_to_type(sshd: Sshd) -> None:
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(UnknownKey) as caught:
        ask_key(sshd.target(), None)
    target = sshd.target()
    assert sshd.fingerprint() in caught.value.why
    assert caught.value.remedy.endswith(f"by hand: ssh {shlex.join(target.options)} {target.destination}")


# what is held


def test_what_is_held_runs_until_it_is_closed_and_ends_in_order(host: Remote, tmp_path: Path) -> None:
    held = host.hold(f"echo got it; cat > /dev/null; echo bye > {tmp_path}/bye")
    assert held.first_line(PATIENCE) == "got it"
    assert held.alive()
    assert host.run("echo beside").output == "beside\n"
    assert not (tmp_path / "bye").exists()
    held.close()
    assert (tmp_path / "bye").read_text() == "bye\n"
    assert not held.alive()


def test_what_is_held_gets_a_beat_now_and_then(host: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "_END", 0.05)
    with host.hold(f"echo here; while read -r beat; do echo x >> {tmp_path}/beats; done"):
        until(lambda: (tmp_path / "beats").exists() and len((tmp_path / "beats").read_text()) >= 6, "three beats")


def test_what_is_held_and_ends_by_itself_is_not_alive_and_told_with_what_it_said(host: Remote) -> None:
    with host.hold("echo busy >&2; exit 1") as held:
        assert held.first_line(PATIENCE) == ""
        assert not held.alive()
        assert held.complaint() == "busy\n"


def test_what_is_held_and_says_nothing_is_slow(host: Remote) -> None:
    with host.hold("cat") as held:
        with pytest.raises(Slow, match="no word after"):
            held.first_line(0.2)
        assert held.alive()


@pytest.mark.parametrize("how", ["cut", "drop"])
def test_what_is_held_over_a_connection_that_broke_is_not_alive_and_ends_over_there(
    sshd: Sshd, host: Remote, tmp_path: Path, how: str
) -> None:
    with host.hold(f"echo here; cat > /dev/null; echo bye > {tmp_path}/bye") as held:
        held.first_line(PATIENCE)
        sshd.cut() if how == "cut" else host.drop()
        until(lambda: not held.alive(), "the end of what was held")
        until((tmp_path / "bye").exists, "its end over there")


# patience


def test_a_host_that_comes_back_is_waited_for(sshd: Sshd, host: Remote) -> None:
    sshd.close()
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        sshd.open_again()

    assert patiently(lambda: host.run("echo back"), 30.0, tell).output == "back\n"
    assert told == [
        f"server-1: waiting for it, 0 s of 30 s: connect to host 127.0.0.1 port {sshd.port}: Connection refused"
    ]


class Clock:
    """A clock that goes on when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds


def raises(*errors: Exception) -> Callable[[], Any]:
    """Return an action that raises these, one at each try, and then the last one always."""
    left = list(errors)

    def action() -> None:
        raise left.pop(0) if len(left) > 1 else left[0]

    return action


def test_a_wait_ends_at_its_limit_and_tells_now_and_then_and_when_something_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, told = Clock(monkeypatch), list[str]()
    action = raises(*[Refused("a", "one")] * 3, Refused("a", "two"))
    with pytest.raises(Refused, match="a: two"):
        patiently(action, 60.0, told.append)
    assert clock.now == 1060.0
    assert [line.partition("it, ")[2] for line in told[:3]] == [
        "0 s of 60 s: one",
        "2 s of 60 s: two",
        "13 s of 60 s: two",
    ]
    assert len(told) <= 8


@pytest.mark.parametrize("kind", [UnknownKey, ChangedKey, NotAllowed, Lost, Slow, TooMuch, Unreachable])
def test_what_waiting_does_not_help_is_told_at_once(monkeypatch: pytest.MonkeyPatch, kind: type[Unreachable]) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(kind):
        patiently(raises(kind("a", "why")), 60.0, lambda line: pytest.fail(line))
    assert clock.now == 1000.0


def test_what_was_lost_is_tried_again_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(NotAllowed):
        patiently(
            raises(Lost("a", "x"), Refused("a", "y"), NotAllowed("a", "z")), 60.0, lambda line: None, (Lost, Refused)
        )
    assert clock.now > 1000.0


# what ssh says, of versions and faults that are not to be had here


@pytest.mark.parametrize(
    ("said", "kind", "why"),
    [
        ("ssh: Could not resolve hostname x: Name or service not known\r", Refused, "Could not resolve hostname x: .*"),
        ("ssh: connect to host 192.0.2.1 port 22: No route to host\r", Refused, "connect to .*: No route to host"),
        ("ssh: connect to host 192.0.2.1 port 22: Permission denied", Refused, "connect to .*: Permission denied"),
        (
            "Connection timed out during banner exchange\nConnection to 1 port 2 timed out",
            Refused,
            "Connection timed out.*",
        ),
        (
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 1 port 2",
            Refused,
            "kex_.*",
        ),
        ("kex_exchange_identification: Connection closed by remote host", Refused, ".*closed by remote host"),
        ("Not allowed at this time\nkex_exchange_identification: x", Refused, "Not allowed at this time"),
        ("banner exchange: Connection to UNKNOWN port 65535: Broken pipe", Refused, ".*Broken pipe"),
        ("Received disconnect from 1 port 2:2: Too many authentication failures", NotAllowed, ".*Too many .*"),
        ("a@b: Permission denied (publickey,password).", NotAllowed, r"a@b: Permission denied \(publickey,password\)"),
        ("Connection closed by UNKNOWN port 65535", Refused, "Connection closed by UNKNOWN port 65535"),
        ("Unable to negotiate with 1 port 2: no matching cipher found. Their offer: x", Unreachable, "Unable to .*"),
        ("Can't open user config file /x: No such file or directory", Unreachable, "Can't open .*"),
        ("", Unreachable, "ssh ended and said nothing"),
    ],
)
def test_each_message_of_ssh_is_taken_for_what_it_is(said: str, kind: type[Unreachable], why: str) -> None:
    error = unreachable.reason("server-1", said)
    assert type(error) is kind
    assert re.fullmatch(why, error.why), error.why


def test_what_a_host_says_moves_no_cursor() -> None:
    assert unreachable.clean("\x1b[2Jbad\r\x07") == "[2Jbad"

"""What hosts are asked to do for a backup: the scripts, run here with programs that play k3s and systemd."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import sqlite3
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from i12e import collect
from i12e.damaged import Damaged

ID = "20260102T030405Z-abcdef"
# It saves as it is told by SAVES.
K3S = """\
#!/bin/sh
case "$1 $2" in
"etcd-snapshot save")
    eval "$SAVES" ;;
"etcd-snapshot ls") echo '{"items": []}' ;;
*) echo "$*" >>"$DIR/called" ;;
esac
"""
RUN = '#!/bin/sh\necho "$0 $*" >>"$DIR/called"\n'


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment with programs that play k3s and systemd; DIR is where k3s has its snapshots."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"k3s": K3S, "systemd-run": RUN, "systemctl": RUN}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    snapshots = tmp_path / "snapshots"
    snapshots.mkdir()
    save = f'echo content >"$DIR/i12e-{ID}-server-1-7"'
    return {"PATH": f"{folder}:{os.environ['PATH']}", "DIR": str(snapshots), "SAVES": save}


def run(script: str, environ: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    # /opt/bin and /usr/local/bin come first on a host; here what plays them has to.
    script = script.replace("export PATH=/opt/bin:/usr/local/bin:$PATH", "")
    return subprocess.run(["sh", "-c", script], env=environ, capture_output=True, check=False, timeout=120)


def etcd(environ: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return run(collect.database_script("etcd", ID, folder=environ["DIR"]), environ)


def named(environ: dict[str, str]) -> list[str]:
    return sorted(path.name for path in Path(environ["DIR"]).glob("i12e-*"))


def test_a_snapshot_comes_whole_and_has_no_name_any_more(programs: dict[str, str]) -> None:
    done = etcd(programs)
    assert done.returncode == 0, done.stderr
    file = io.BytesIO()
    receiver = collect.Receiver([file])
    receiver.take(done.stdout)
    receiver.end()
    assert (file.getvalue(), receiver.said["method"]) == (b"content\n", "etcd-snapshot")
    assert named(programs) == []


def test_a_timer_of_ten_minutes_is_there_before_k3s_is_asked_and_goes_when_all_is_done(
    programs: dict[str, str],
) -> None:
    programs["SAVES"] += '; cp "$DIR/called" "$DIR/before"'
    etcd(programs)
    before = Path(programs["DIR"], "before").read_text()
    assert f"--on-active=600 --unit=i12e-backup-{ID}" in before
    assert f"rm -f '{programs['DIR']}'/i12e-{ID}-*" in before
    assert f"systemctl stop i12e-backup-{ID}.timer" in Path(programs["DIR"], "called").read_text()


@pytest.mark.parametrize(
    ("saves", "said"),
    [
        ("true", "k3s said that it saved a snapshot, and there is none"),
        (f'echo x >"$DIR/i12e-{ID}-server-1-7.part"', "k3s did not complete its snapshot"),
        (f'echo x >"$DIR/i12e-{ID}-a"; echo x >"$DIR/i12e-{ID}-b"', "several snapshots of one name"),
        (f'echo x >"$DIR/i12e-{ID}-a"; echo no space left >&2; exit 1', "no space left"),
    ],
)
def test_what_k3s_did_not_do_is_told_and_what_it_left_goes_at_once(
    programs: dict[str, str], saves: str, said: str
) -> None:
    done = etcd(programs | {"SAVES": saves})
    assert (done.returncode, said in done.stderr.decode()) == (1, True), done.stderr
    assert named(programs) == []


def test_a_snapshot_goes_when_nobody_reads_it_any_more(programs: dict[str, str]) -> None:
    script = collect.database_script("etcd", ID, folder=programs["DIR"])
    nobody, output = os.pipe()
    os.close(nobody)  # as when the connection breaks while k3s saves
    script = script.replace("export PATH=/opt/bin:/usr/local/bin:$PATH", "")
    subprocess.run(["sh", "-c", script], env=programs, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert named(programs) == []


def test_what_is_older_than_ten_minutes_goes_and_what_is_not_ours_stays(programs: dict[str, str]) -> None:
    folder = Path(programs["DIR"])
    for name, age in {"i12e-old-1": 700, "i12e-new-1": 100, "on-demand-1": 70_000}.items():
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    etcd(programs)
    assert sorted(path.name for path in folder.glob("*-1")) == ["i12e-new-1", "on-demand-1"]


def test_a_copy_of_sqlite_leaves_everything_beside_the_database(
    programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "db/state.db"
    database.parent.mkdir()
    opened = sqlite3.connect(database)
    opened.execute("create table kine (id integer)")
    opened.close()
    for name in ("i12e-cluster", "i12e-older.db"):
        (database.parent / name).touch()
        os.utime(database.parent / name, (time.time() - 7000,) * 2)
    monkeypatch.setattr(collect, "_DATABASE", str(database))
    done = run(collect.database_script("sqlite", ID), programs)
    assert (done.returncode, b"sqlite-online" not in done.stdout) == (0, True), done.stderr
    assert sorted(path.name for path in database.parent.iterdir()) == ["i12e-cluster", "state.db"]


def test_sqlite_is_not_copied_while_somebody_starts_k3s_again(
    programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer that starts it after two minutes may do so in the middle of a long copy."""
    database = tmp_path / "db/state.db"
    database.parent.mkdir()
    database.write_bytes(b"x")
    monkeypatch.setattr(collect, "_DATABASE", str(database))
    active = '#!/bin/sh\necho "$*" >>"$DIR/called"; [ "$1" != is-active ] || echo active\n'
    Path(programs["PATH"].partition(":")[0], "systemctl").write_text(active)
    done = run(collect.database_script("sqlite", ID, collect.STOPPED), programs)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"k3s was started while" in done.stderr
    assert "start --no-block k3s" in Path(programs["DIR"], "called").read_text()
    assert [path.name for path in database.parent.iterdir()] == ["state.db"]


# --- paths


def path(
    tmp_path: Path, before: str | None, after: str | None, what: str = "data"
) -> subprocess.CompletedProcess[bytes]:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/file").write_text("content")
    return run(collect.path_script(str(tmp_path / what), before, after), {**os.environ})


def test_a_path_is_read_between_its_commands(tmp_path: Path) -> None:
    done = path(tmp_path, f"touch {tmp_path}/data/quiet", f"rm {tmp_path}/data/quiet; echo noise")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert {Path(name).name for name in tar.getnames()} == {"data", "file", "quiet"}
    assert not (tmp_path / "data/quiet").exists()


def test_a_path_that_is_not_there_runs_no_command(tmp_path: Path) -> None:
    done = path(tmp_path, f"touch {tmp_path}/ran", None, "nothing")
    assert (done.returncode, (tmp_path / "ran").exists()) == (collect.ABSENT, False)


def test_of_a_command_before_that_fails_its_own_words_are_the_last(tmp_path: Path) -> None:
    done = path(tmp_path, "echo it is locked >&2; exit 3", f"touch {tmp_path}/ended; echo nothing to end >&2; exit 1")
    assert (done.returncode, done.stdout, done.stderr) == (collect.BEFORE_FAILED, b"", b"it is locked\n")
    assert (tmp_path / "ended").exists()


def test_a_command_after_that_fails_is_told_after_a_whole_tar(tmp_path: Path) -> None:
    done = path(tmp_path, None, "echo it does not start >&2; exit 4")
    assert (done.returncode, done.stderr) == (collect.AFTER_FAILED, b"it does not start\n")
    tarfile.open(fileobj=io.BytesIO(done.stdout)).close()


def test_a_tar_that_fails_is_not_taken_for_whole_when_the_command_after_it_fails_too(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "tar").write_text("#!/bin/sh\n[ $2 = --version ] && exit 1\necho it broke off >&2; exit 2\n")
    (folder / "tar").chmod(0o755)
    (tmp_path / "data").mkdir()
    script = collect.path_script(str(tmp_path / "data"), None, f"touch {tmp_path}/ended; exit 1")
    done = run(script, {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
    assert (done.returncode, done.stderr) == (2, b"it broke off\n")
    assert (tmp_path / "ended").exists()


# --- answers


def test_only_sentinels_that_are_an_hour_old_are_left_ones() -> None:
    now = 1_800_000_000.0

    def item(name: str, age: float) -> dict[str, object]:
        made = dt.datetime.fromtimestamp(now - age, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"metadata": {"name": name, "creationTimestamp": made}}

    listed = json.dumps({"items": [item("old", 3700), item("young", 3500), {"metadata": {"name": "timeless"}}]})
    assert collect.left_sentinels(listed, now) == ["old"]
    assert collect.left_sentinels("", now) == []


def test_what_a_host_sends_is_believed_only_as_it_was_announced() -> None:
    head = b"file a 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\n"
    for sent, why in {
        b"": "the host sent nothing",
        head + b"ab": "did not arrive whole",
        head + b"abd": "is not what the host had read",
        head + b"abcd": "more than it announced",
        b"file a 0 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\n": "a is empty",
    }.items():
        with pytest.raises(Damaged, match=why):  # noqa: PT012  # either of them
            receiver = collect.Receiver([io.BytesIO()])
            receiver.take(sent)
            receiver.end()

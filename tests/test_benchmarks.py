"""The benchmarks: that they tell all, go on without what cannot be had, and compare what is the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import butane
from benchmarks import backup, measure, peers, restore, table
from benchmarks.butane import with_files
from benchmarks.fleet import SERVERS, Fleet
from benchmarks.measure import Spent
from conftest import ROOT, Project, need
from i12e import age
from i12e.damaged import Damaged
from i12e.programs import which

TEXT = """\
variant: flatcar
version: 1.1.0
storage:
  files:
    - path: /etc/a
      contents: {inline: "a\\n"}
    - contents:
        inline: b
      path: /etc/b
  links:
    - {path: /etc/l, target: /etc/a}
"""


@pytest.mark.slow
def test_one_run_tells_every_case_with_its_figures() -> None:
    page = (ROOT / "docs/performance.md").read_bytes()
    command = [sys.executable, "-m", "benchmarks", "--hosts=5", "--rounds=1", "--alone", "--large=5"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    told = [row[0] for row in rows]
    for case in ("cold", "nothing to do", "one host edited", "a shared template edited", "cluster.yaml edited"):
        row = rows[told.index(case)]
        assert all(float(figure) > 0 for figure in row[1:]), row
    assert told.count("one host edited") == 2  # also ten times as many hosts
    assert {"a process: `true`", "`python -m butane`", "peak memory, 50 hosts"} <= set(told)
    assert "seal and store, seconds" in told or "not measured: " in done.stdout
    assert (ROOT / "docs/performance.md").read_bytes() == page


@pytest.mark.slow
def test_a_tool_that_cannot_be_had_says_so_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(peers, "_uv", lambda: False)  # which may have an index of its own, by a file
    cold = peers.Way("i12e", measure.Job(tmp_path, [["true"]]), 1)
    found = peers.measure(cold, Fleet(tmp_path, peers.HOSTS + SERVERS), tmp_path, tmp_path / "cache", 1, alone=False)
    assert [tool.name.partition(" ")[0] for tool in found.tools] == ["ansible-core", "helm"]
    assert found.tools[0].spent is None
    assert "not measured: could not be installed" in table.of_others(found)
    assert all(start.spent and start.spent.seconds > 0 for start in found.starts)


def test_the_start_of_a_tool_is_left_out_where_it_ran_for_fewer_hosts_too(tmp_path: Path) -> None:
    job = measure.Job(tmp_path, [["true"]])
    assert peers.Way("x", job, 20, job, 2).per_host([Spent(10, 19, 3), Spent(1, 1, 2)]) == Spent(0.5, 1, 3)
    assert peers.Way("x", job, 20).per_host([Spent(10, 20, 3)]) == Spent(0.5, 1, 3)


def test_lines_that_differ_are_variables_and_the_rest_is_literal() -> None:
    texts = peers.shared_lines({"a": "one\nmy name is a\nthree\n", "b": "one\nmy name is b\nthree\n"})
    assert texts.same == ["one\n", "\nthree\n"]
    assert texts.variables("b") == {"v0": "my name is b"}


def test_more_files_are_the_same_under_other_paths() -> None:
    one, three = (butane.translate(with_files(TEXT, times)).config["storage"] for times in (1, 3))
    assert [file["path"] for file in one["files"]] == ["/etc/a", "/etc/b"]
    assert [file["path"] for file in three["files"]] == [
        *("/etc/a", "/etc/b", "/etc/a.1", "/etc/b.1", "/etc/a.2", "/etc/b.2")
    ]  # fmt: skip
    assert {file["contents"]["source"] for file in three["files"]} == {
        file["contents"]["source"] for file in one["files"]
    }
    assert three["links"] == one["links"]


def test_what_a_command_took_is_told_with_its_processor_time_and_memory(tmp_path: Path) -> None:
    """In a small process of its own: a process begins as a copy of the one that starts it, and this one is large."""
    work = "import time\ndata = bytearray(120 << 20)\nwhile time.process_time() < 0.2: pass"
    code = (
        "import json, pathlib, sys; from benchmarks import measure\n"
        f"spent = measure.run([sys.executable, '-c', {work!r}], pathlib.Path(sys.argv[1]), {{}})\n"
        "print(json.dumps([spent.seconds, spent.processor, spent.memory]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, processor, memory = json.loads(done.stdout)
    assert seconds >= processor * 0.9
    assert 0.2 <= processor < 5
    assert 120 <= memory < 250


def test_a_command_that_fails_is_named_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(measure.Failed, match=r"^sh: no such thing$"):
        measure.run(["sh", "-c", "echo first; echo no such thing; exit 3"], tmp_path, {})


def test_jobs_run_in_turns_and_the_best_of_each_counts(tmp_path: Path) -> None:
    order: list[int] = []
    jobs = [
        measure.Job(tmp_path, [["true"]], order.append),
        measure.Job(tmp_path, [["true"]], lambda n: order.append(-n)),
    ]
    found = measure.in_turns(3, *jobs)
    assert order == [0, 0, 1, -1, 2, -2]
    assert len(found) == 2
    assert measure.best([Spent(1, 5, 7), Spent(2, 4, 8)]) == Spent(1, 4, 8)


def test_the_tables_are_put_between_the_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    for text in ("new", "newer"):
        table.record(page, text)
    assert page.read_text() == f"before\n{table.START}\nnewer\n{table.END}\nafter\n"


def test_the_page_has_all_markers_once() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    markers = (table.START, table.END, *table.BACKUP)
    assert [len(re.findall(re.escape(marker), page)) for marker in markers] == [1, 1, 1, 1]


def test_what_is_sealed_and_stored_is_compared_with_age_and_rclone_and_is_what_it_was(tmp_path: Path) -> None:
    need(which("age"), "age")
    (tmp_path / "many").mkdir()
    for name in ("a", "b"):
        (tmp_path / "many" / name).write_bytes(os.urandom(5000))
    place = backup._folder(tmp_path)
    found = backup.compare(backup.Case("some files", tmp_path / "many"), place, 1)
    assert found.ours.seconds > 0
    assert found.theirs.seconds > 0
    assert found.ours.memory > 10  # at least what this process has: what it starts begins as a copy of it
    assert not (tmp_path / "store/ours").exists()
    text = table.of_backup(backup.Measured([found], ["S3 was not measured: no reason"]))
    assert "some files, folder: over age and rclone" in text
    assert text.endswith("S3 was not measured: no reason")


def test_what_is_not_what_was_to_be_stored_is_a_failure(tmp_path: Path) -> None:
    place = backup._folder(tmp_path)
    key, recipient = age.make()
    (tmp_path / "file").write_bytes(b"content")
    with contextlib.closing(place.opened()) as store:
        for name in ("ours", "theirs"):
            store.put(name, [age.seal_small(b"another", [recipient])])
    with pytest.raises((measure.Failed, Damaged)):
        backup._check(place, backup.Case("a file", tmp_path / "file"), key, whole=True)


@pytest.mark.parametrize(
    ("aim", "row"),
    [
        (table.Aim("x", 1 / 20, 1 / 22, 1 / 18, "/"), ["x", "1/22", "1/18", "1/20", "yes"]),
        (table.Aim("x", 0.5, 0.62, None, "s"), ["x", "0.62 s", "", "0.50 s", "**no**"]),
        (table.Aim("x", 300, 263, None, "MB"), ["x", "263 MB", "", "300 MB", "yes"]),
        (table.Aim("x", 1.3, None, None), ["x", "", "", "1.30", "not measured"]),
    ],
)
def test_an_aim_tells_whether_it_is_met(aim: table.Aim, row: list[str]) -> None:
    assert aim.row() == row


def test_options_of_the_task_reach_the_benchmarks(project: Project) -> None:
    from i12e import checks, engine  # what dodo.py puts together

    seen: list[object] = []

    def action(hosts: int, rounds: int, alone: bool, record: bool) -> None:
        seen.append((hosts, rounds, alone, record))

    tasks = lambda config: engine.aside("bench", action, "measure", "measured", checks.BENCHMARKS)  # noqa: E731
    assert project.doit("bench", "--hosts", "7", "--record", tasks=tasks).status == 0
    assert project.doit("bench", "--rounds=2", "--alone", tasks=tasks).status == 0
    assert seen == [(7, 5, False, True), (1000, 2, True, False)]
    assert project.doit("bench", "--hosts", "many", tasks=tasks).status == 3


def test_a_restore_is_told_as_a_ratio_to_the_floor_with_the_share_of_each_step() -> None:
    steps = {"send": 2.0, "restore": 5.0}
    text = restore.markdown([restore.Measured(100.0, 10.0, steps, 3.0, 1.0), restore.Measured(1000.0, 40.0, {}, 9, 1)])
    assert "| 100 MB | 10.0 s | 3.0 s | 1.0 s | 2.50 |" in text
    assert "| 1,000 MB | 40.0 s | 9.0 s | 1.0 s | 4.00 |" in text
    assert "| database | send | restore | rest |" in text
    assert "| 100 MB | 20 % | 50 % | 30 % |" in text
    page = (ROOT / "docs/performance.md").read_text()
    assert [page.count(mark) for mark in restore.MARKS] == [1, 1]

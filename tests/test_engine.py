"""doit as i12e uses it: exit statuses, options, the lock, signals, what is printed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doit.doit_cmd import DoitMain

from conftest import ROOT, Project
from i12e import engine, lock
from i12e.errors import Changes, Problem, UsageError, UserError
from i12e.files import Files
from i12e.state import State

YES = {"name": "yes", "long": "yes", "type": bool, "default": False}


class Verb:
    """Task creators of a verb with an option, as later issues have them; remembers its calls."""

    def __init__(self, reads: bool = False, fails: bool = False, changes: bool = False) -> None:
        self.calls: list[tuple[str | None, bool]] = []
        self.reads = reads
        self.fails = fails
        self.changes = changes

    def __call__(self, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
        return engine.each("os_deploy", config["build"].hosts, self.act, "deploy", [YES], self.reads)

    def act(self, host: str | None, yes: bool) -> None:
        self.calls.append((host, yes))
        if self.fails:
            raise UserError([Problem("a", 1, 2, "one"), Problem("b", None, None, "two", "mend it")])
        if self.changes:
            raise Changes


@pytest.mark.parametrize("name", ["os_deploy", "os_deploy:server-1"])
@pytest.mark.parametrize("given", [True, False])
def test_an_option_works_on_the_verb_and_on_the_verb_with_a_host(small: Project, name: str, given: bool) -> None:
    verb = Verb()
    done = small.doit(name, *(["--yes"] if given else []), tasks=verb)
    assert done.status == 0, done.err
    assert verb.calls == [(name.partition(":")[2] or None, given)]


@pytest.mark.parametrize(
    "args",
    [
        ["rendr"],
        ["render", "--bogus"],
        ["--bogus"],
        ["render", "nosuch", "--yes"],
        ["os_deploy", "--yess"],
        ["os_deploy", "server-1", "--yes"],
        ["os_deploy:server-9"],
        ["--wait", "long"],
        ["info", "nosuch"],
        ["forget", "nosuch"],
        ["strace", "render"],
        ["ignore", "render"],
        ["-s", "render"],
        ["--db-file=x", "render"],
        ["--backend", "json"],
        ["tabcompletion"],
    ],
)
def test_wrong_usage_is_status_3_with_one_line_and_does_nothing(small: Project, args: list[str]) -> None:
    verb = Verb()
    done = small.doit(*args, tasks=verb)
    assert done.status == 3
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err + done.out
    assert not verb.calls
    assert not small.outputs()


def test_a_misspelt_task_or_a_bare_host_gets_a_suggestion(small: Project) -> None:
    assert "did you mean render?" in small.doit("rendr").err
    assert "did you mean render:server-1?" in small.doit("server-1").err


def test_a_users_mistake_is_status_1_with_all_problems_and_no_traceback(small: Project) -> None:
    done = small.doit("os_deploy", tasks=Verb(fails=True))
    assert done.status == 1
    assert done.err.splitlines() == ["a:1:2: one", "b: two (mend it)"]


def test_a_bug_is_status_1_with_a_traceback(small: Project) -> None:
    def broken(config: dict[str, Any]) -> dict[str, Any]:
        return {"basename": "bug", "actions": [(engine.step(lambda: 1 / 0),)]}

    done = small.doit("bug", tasks=broken)
    assert done.status == 1
    assert "ZeroDivisionError" in done.err


def test_changes_found_are_status_2(small: Project) -> None:
    assert small.doit("os_deploy", tasks=Verb(reads=True, changes=True)).status == 2
    assert small.doit("os_deploy", tasks=Verb(reads=True)).status == 0


@pytest.mark.parametrize("args", [["--json"], ["render", "--json"], ["--json", "render"], ["render:agent-1", "--json"]])
def test_json_is_one_document_wherever_the_option_stands(small: Project, args: list[str]) -> None:
    document = json.loads(small.doit(*args).out)
    assert document["environment"] == "example"
    assert {result["what"] for result in document["results"]} <= {"agent-1", "server-1"}
    assert document["problems"] == []
    again = json.loads(small.doit(*args).out)
    assert again["results"] == []
    assert again["up_to_date"] >= 1


def test_json_tells_problems_with_their_places(small: Project) -> None:
    small.write("hosts/example/agent-1.yaml", "rolle: agent\naddresses: [192.0.2.21]\n")
    document = json.loads(small.doit("--json").out)
    assert {"file": "hosts/example/agent-1.yaml", "line": 1, "column": 1}.items() <= document["problems"][0].items()


def test_list_shows_each_verb_once_and_with_all_every_host(small: Project) -> None:
    assert [line.split()[0] for line in small.doit("list").out.splitlines()] == ["helm_values", "render"]
    names = [line.split()[0] for line in small.doit("list", "--all").out.splitlines()]
    assert names == ["helm_values", "render", "render:agent-1", "render:server-1"]


def test_info_shows_every_input_down_to_the_secret_file(small: Project) -> None:
    small.doit()
    told = small.doit("info", "render:server-1")
    assert told.status == 0
    for path in ("hosts/example/server-1.yaml", "secrets/example/cluster.yaml", "templates/local/files/hostname"):
        assert f" - {path}\n" in told.out


def test_forget_makes_one_host_or_all_be_rendered_again(small: Project) -> None:
    small.doit()
    small.doit("forget", "render:agent-1")
    assert [line.split()[1] for line in small.doit().lines] == ["agent-1"]
    small.doit("forget")
    assert len(small.doit().lines) == 2


def test_clean_removes_what_was_made_and_a_dry_run_does_not(small: Project) -> None:
    small.doit()
    before = small.outputs()
    assert "--dry-run" in small.doit("clean", "--dry-run").out
    assert small.outputs() == before
    assert "CLEAN    render:agent-1" in small.doit("clean").out
    assert not small.outputs()
    small.doit()
    assert small.outputs() == before


def test_a_mistake_that_is_taken_back_leaves_nothing_to_do(small: Project) -> None:
    small.doit()
    good = (small.root / "hosts/example/agent-1.yaml").read_text()
    small.write("hosts/example/agent-1.yaml", good + "rolle: x\n")
    assert small.doit("-c").status == 1
    small.write("hosts/example/agent-1.yaml", good)
    assert not small.doit().lines


def test_warnings_are_told_at_every_run(small: Project) -> None:
    small.write("hosts/example/server-2.yaml", "role: server\naddresses: [192.0.2.12]\n")
    for _ in range(2):
        done = small.doit()
        assert done.status == 0
        assert "warning: " in done.err
        assert "even" in done.err


def test_a_bare_doit_gets_the_same_parts_from_pyproject_as_the_launcher() -> None:
    plugins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["doit"]["plugins"]
    assert {kind.upper(): names for kind, names in plugins.items()} == engine.PLUGINS


# --- waiting for a person

IS_FREE = (
    "import sys; from pathlib import Path; from i12e import lock\n"
    "try: lock.take(Path(sys.argv[1]), 'x')\n"
    "except lock.Held: sys.exit(1)\n"
)


def is_free(project: Project) -> bool:
    """Given a project, tell whether another process could write now."""
    command = [sys.executable, "-c", IS_FREE, str(project.root / "build/example/lock")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    return subprocess.run(command, env=environ, check=False).returncode == 0


def asks(action: Callable[..., Any], *names: str) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """Given an action of a build, return task creators of tasks that wait for a person."""

    def tasks(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
        build = config["build"]
        return (engine.asking(name, functools.partial(action, build), "ask") for name in names or ("ask",))

    return tasks


def test_while_a_person_is_waited_for_others_may_write_and_before_and_after_they_may_not(small: Project) -> None:
    seen: list[bool] = []

    def action(build: Any) -> None:
        seen.append(is_free(small))
        with build.request.pause():
            seen.append(is_free(small))
        seen.append(is_free(small))

    assert small.doit("ask", tasks=asks(action)).status == 0
    assert seen == [False, True, False]


def test_tasks_that_wait_for_a_person_run_one_after_another_also_with_n(small: Project) -> None:
    threads: list[bool] = []
    here = threading.current_thread()
    action = asks(lambda build: threads.append(threading.current_thread() is here), "a", "b", "c")
    assert small.doit("-n", "3", "a", "b", "c", tasks=action).status == 0
    assert threads == [True, True, True]


def test_what_was_done_before_a_pause_is_kept_when_the_run_is_killed_in_it(small: Project) -> None:
    def action(build: Any) -> None:
        build.state.set("mark", "deps:", ["x"])
        with build.request.pause():
            assert State(small.root / "build/example/state.db", Files(small.root)).get("mark", "deps:") == ["x"]

    assert small.doit("ask", tasks=asks(action)).status == 0


def test_steps_and_notes_are_told_as_lines_or_in_the_document(small: Project) -> None:
    def action(build: Any) -> None:
        build.tell("WRITE", "a", "new")
        build.tell("KEEP", "b", result="kept")
        build.note("think of it")

    done = small.doit("ask", tasks=asks(action))
    assert done.lines == ["WRITE    a  (new)", "KEEP     b"]
    assert "1 done" in done.out
    assert done.err == "think of it\n"
    document = json.loads(small.doit("--json", "ask", tasks=asks(action)).out)
    assert [(step["what"], step["result"]) for step in document["results"]] == [("a", "done"), ("b", "kept")]
    assert document["warnings"] == ["think of it"]


def test_steps_that_were_done_before_a_task_failed_are_told_too(small: Project) -> None:
    def action(build: Any) -> None:
        build.tell("WRITE", "a")
        raise UserError(Problem("b", None, None, "cannot be"))

    done = small.doit("ask", tasks=asks(action))
    assert done.lines == ["WRITE    a"]
    assert "1 problem, 1 done before that" in done.out


def test_options_that_do_not_fit_are_status_3_with_all_that_is_wrong(small: Project) -> None:
    def action(build: Any) -> None:
        raise UsageError([Problem("", None, None, "--a: is wrong"), Problem("", None, None, "--b: too")])

    done = small.doit("ask", tasks=asks(action))
    assert done.status == 3
    assert done.err.splitlines() == ["--a: is wrong", "--b: too"]


def test_what_an_action_needs_is_imported_when_it_is_run_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    action = engine.later("nosuch.function", 1)
    with pytest.raises(ImportError):
        action()
    monkeypatch.setattr(sys.modules["i12e.lock"], "seconds", lambda *words, **named: (words, named))
    assert engine.later("lock.seconds", 1)(two=2) == ((1,), {"two": 2})


# --- with processes of their own


@pytest.fixture
def real(small: Project) -> Project:
    """A small project that ./doit's own dodo.py and configuration run in."""
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, small.root / name)
    return small


def process(project: Project, *args: str, **more: Any) -> subprocess.Popen[str]:
    """Given a project and arguments, start doit in it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), **more.pop("env", {})}
    command = [sys.executable, "-m", "doit", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project.root, env=environ, **{**pipes, **more})


def holding(place: Path) -> lock.Lock:
    """Given the lock's path, hold it as another run would."""
    return lock.take(place, "doit os_deploy")


def test_a_second_run_is_told_in_one_line_who_holds_the_lock_and_since_when(real: Project) -> None:
    held = holding(real.root / "build/example/lock")
    try:
        second = process(real)
        out, err = second.communicate(timeout=60)
    finally:
        held.release()
    assert second.returncode == 1
    assert out == ""
    assert err.count("\n") == 1
    assert f"pid {os.getpid()} (doit os_deploy)" in err
    assert "since" in err
    assert not real.outputs()


def test_a_second_run_waits_for_the_first_one_if_it_is_asked_to(real: Project) -> None:
    held = holding(real.root / "build/example/lock")
    second = process(real, "render", "--wait", "60s")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1)
    held.release()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "RENDER   server-1" in out


def test_what_only_reads_neither_takes_nor_waits_for_the_lock(small: Project, real: Project) -> None:
    held = holding(real.root / "build/example/lock")
    try:
        for args in (["list"], ["info", "render:server-1"], ["help", "run"]):
            second = process(real, *args)
            _, err = second.communicate(timeout=60)
            assert second.returncode in (0, 1), err
            assert "another run" not in err
    finally:
        held.release()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_its_status_and_one_line_and_keeps_what_was_done(
    real: Project, number: signal.Signals, status: int
) -> None:
    fifo = real.root / "templates/files/hostname"
    fifo.unlink()
    os.mkfifo(fifo)  # the run waits for a writer: a place to be stopped at that does not depend on time
    first = process(real)
    opened = os.open(fifo, os.O_WRONLY)  # returns when the run has it open
    first.send_signal(number)
    out, err = first.communicate(timeout=60)
    os.close(opened)
    assert first.returncode == status, out + err
    assert "interrupted, nothing was written" in out
    assert "the same command goes on from there" in err
    assert "Traceback" not in err


def test_output_that_nobody_reads_is_no_traceback(real: Project) -> None:
    first = process(real)
    assert first.stdout is not None
    first.stdout.close()
    _, err = first.communicate(timeout=60)
    assert "Traceback" not in err


def test_a_run_that_waited_sees_what_the_other_one_did_and_does_not_repeat_it(real: Project) -> None:
    fifo = real.root / "templates/files/hostname"
    text = fifo.read_bytes()
    fifo.unlink()
    os.mkfifo(fifo)  # the first run waits for a writer, and holds the lock
    first = process(real)
    opened = os.open(fifo, os.O_WRONLY)
    second = process(real, "--wait", "60s")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1)
    new = fifo.with_name("new")
    new.write_bytes(text)
    new.rename(fifo)
    os.write(opened, text)
    os.close(opened)
    assert "2 done" in first.communicate(timeout=60)[0]
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert out.startswith("example: nothing to do, 2 hosts up to date")


def test_a_run_that_waited_looks_anew_at_everything_also_at_hosts_that_came_meanwhile(real: Project) -> None:
    assert real.doit().status == 0
    held = holding(real.root / "build/example/lock")
    second = process(real, "--wait", "60s")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1)
    real.write("hosts/example/agent-8.yaml", "role: agent\naddresses: [192.0.2.28]\n")
    held.release()
    out, err = second.communicate(timeout=60)
    assert "RENDER   agent-8" in out, err


@pytest.mark.parametrize("command", ["forget", "clean"])
def test_forget_and_clean_keep_out_of_a_run(real: Project, command: str) -> None:
    assert real.doit().status == 0
    held = holding(real.root / "build/example/lock")
    try:
        second = process(real, command)
        _, err = second.communicate(timeout=60)
    finally:
        held.release()
    assert second.returncode == 1
    assert "another run" in err
    assert len(real.outputs()) == 2
    assert not real.doit().lines


def test_a_word_with_an_equals_sign_is_no_variable_but_a_mistake(real: Project) -> None:
    assert engine.main(["plan=3"]) == 3


def test_the_value_of_an_option_may_have_an_equals_sign_and_a_flag_takes_none(
    real: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(real.root)
    assert engine.main(["restore", "--yes", "a=b"]) == 3
    assert "--yes" in capsys.readouterr().err
    seen: list[list[str]] = []

    def run(self: DoitMain, args: list[str]) -> int:
        seen.append(args)
        return 0

    monkeypatch.setattr(DoitMain, "run", run)
    assert engine.main(["restore", "--move", "a=b,c=d", "--yes"]) == 0
    assert seen == [["restore", "--move=a=b,c=d", "--yes"]]


def test_a_build_folder_of_someone_else_is_one_line(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    small.doit()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted", "build/example/state.db")

    monkeypatch.setattr(os, "chmod", refuse)
    done = small.doit()
    assert done.status == 1
    assert done.err == (
        "build/example/state.db: Operation not permitted (whose is it? mend that and run the same again)\n"
    )


@pytest.mark.parametrize("args", [["--json", "nosuch"], ["render", "--json", "--bogus"], ["--json", "--wait", "x"]])
def test_json_is_a_document_also_when_the_run_did_not_begin(small: Project, args: list[str]) -> None:
    done = small.doit(*args)
    document = json.loads(done.out)
    assert document["status"] == done.status == 3
    assert document["problems"][0]["message"]


def test_an_empty_argument_is_a_mistake_and_no_traceback() -> None:
    assert engine.main([""]) == 3
    assert engine.main(["--wait", ""]) == 3

"""./doit show:HOST: what a host is rendered to, without secrets, and without leaving a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Done, Project
from i12e import engine
from i12e.files import Files
from i12e.paths import Paths
from i12e.render import readable
from i12e.secrets import Group, Masked, Vault, flat
from test_engine import holding, process
from test_leaks import PLANTED, forms, plant

pytestmark = pytest.mark.slow


def show(project: Project, *args: str) -> Done:
    return project.doit(*args, tasks=engine.show_tasks)


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def test_it_prints_the_butane_text_alone_with_the_names_of_secrets(small: Project) -> None:
    done = show(small, "show:agent-1")
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        "variant: flatcar\nversion: 1.1.0\nstorage:\n  files:\n    - path: /etc/hostname\n      mode: 0644\n"
        '      contents: {inline: "agent-1\\n"}\n    - path: /etc/token\n      mode: 0600\n'
        '      contents: {inline: "<secret cluster.server_token>"}\n'
    )


def test_with_reveal_it_is_the_text_that_the_config_is_made_of(small: Project) -> None:
    plant(small)
    assert f'inline: "{PLANTED}"' in show(small, "show:agent-1", "--reveal").out
    assert PLANTED not in show(small, "show:agent-1").out


def test_with_ignition_it_is_the_config_decoded_and_with_its_digest(project: Project) -> None:
    assert project.doit().status == 0
    built = json.loads(project.outputs()["server-1"])
    for more in ([], ["--reveal"]):
        shown = json.loads(show(project, "show:server-1", "--ignition", *more).out)
        texts = {file["path"]: file["contents"]["text"] for file in shown["storage"]["files"]}
        real = {file["path"]: file["contents"]["text"] for file in readable(built)["storage"]["files"]}
        assert texts.keys() == real.keys()
        assert texts["/etc/i12e/host.json"] == real["/etc/i12e/host.json"]
        assert (texts == real) == bool(more)
        assert ("<secret cluster.server_token>" in texts["/etc/rancher/k3s/config.yaml"]) != bool(more)


@pytest.mark.parametrize("args", [[], ["--ignition"], ["--json"], ["--ignition", "--json"]])
def test_no_value_of_a_secret_is_shown_unasked(project: Project, args: list[str]) -> None:
    plant(project)
    done = show(project, "show:server-1", *args)
    assert done.status == 0, done.err
    assert not any(form in (done.out + done.err).encode() for form in forms())
    assert "<secret cluster.server_token>" in done.out


@pytest.mark.parametrize("fault", ["{{ secrets.cluster.server_token + 1 }}", "{{ nosuch }}"])
def test_a_fault_is_told_on_standard_error_and_shows_no_secret(small: Project, fault: str) -> None:
    plant(small)
    small.write("templates/files/hostname", fault)
    for args in ([], ["--reveal"]):
        done = show(small, "show:agent-1", *args)
        assert (done.status, done.out) == (1, "")
        assert "templates/files/hostname:1: " in done.err
        assert PLANTED not in done.err
        assert "Traceback" not in done.err


def test_what_the_butane_text_is_wrong_in_can_be_seen(small: Project) -> None:
    small.write("templates/butane/agent.bu.j2", "variant: flatcar\nversion: 1.1.0\nstorge: {}\n")
    assert small.doit().status == 1
    assert "storge: {}" in show(small, "show:agent-1").out
    assert "storge" in show(small, "show:agent-1", "--ignition").err


def test_a_wrong_host_is_told_with_its_place(small: Project) -> None:
    small.write("hosts/example/agent-1.yaml", "rolle: agent\naddresses: [192.0.2.21]\n")
    done = show(small, "show:agent-1")
    assert (done.status, done.out) == (1, "")
    assert "hosts/example/agent-1.yaml:1:1: rolle: " in done.err


@pytest.mark.parametrize("built", [True, False])
def test_it_writes_nothing(small: Project, built: bool) -> None:
    if built:
        small.doit()
        small.write("templates/files/hostname", "{{ host.name }} new\n")
    before = files(small.root)
    for args in ([], ["--ignition"], ["--reveal"]):
        assert show(small, "show:agent-1", *args).status == 0
    assert files(small.root) == before


def test_a_host_that_is_shown_is_rendered_all_the_same_when_its_time_comes(small: Project) -> None:
    small.doit()
    small.write("templates/files/hostname", "{{ host.name }} new\n")
    show(small, "show:agent-1")
    assert len(small.doit().lines) == 2


def test_it_takes_no_lock_and_waits_for_none(small: Project) -> None:
    for name in ("dodo.py", "pyproject.toml"):
        (small.root / name).write_bytes((ROOT / name).read_bytes())
    assert small.doit().status == 0
    held = holding(small.root / "build/example/lock")
    try:
        second = process(small, "show:server-1")
        out, err = second.communicate(timeout=60)
    finally:
        held.release()
    assert second.returncode == 0, err
    assert out.startswith("variant: flatcar\n")


def test_without_a_host_it_is_usage_and_names_the_hosts(small: Project) -> None:
    done = show(small, "show")
    assert (done.status, done.out) == (3, "")
    assert done.err == "show: of which host? ./doit show:HOST, with one of agent-1, server-1\n"
    done = show(small, "show:sever-1")
    assert done.status == 3
    assert "did you mean show:server-1?" in done.err


def test_several_hosts_are_shown_one_after_the_other(small: Project) -> None:
    done = show(small, "show:server-1", "show:agent-1")
    assert done.status == 0
    assert [line for line in done.out.splitlines() if "-1" in line] == [
        '      contents: {inline: "server-1\\n"}',
        '      contents: {inline: "agent-1\\n"}',
    ]


def test_beside_a_task_that_does_something_there_are_lines_and_a_summary(small: Project) -> None:
    done = show(small, "render", "show:agent-1")
    assert done.status == 0
    assert "RENDER   agent-1\n" in done.out
    assert "variant: flatcar\n" in done.out
    assert done.out.splitlines()[-1].startswith("example: ")


def test_a_secret_of_any_kind_is_masked_by_its_place(tmp_path: Path) -> None:
    class Plain(Vault):
        def group(self, name: str) -> Group:
            return Group(name, {"a": 1, "b": ["x", None, ["y"]], "c": {"d": True, "e": None}})

    paths, files_ = Paths(tmp_path, "example"), Files(tmp_path)
    group = Masked(Plain(paths, files_), paths, files_).group("cluster")
    assert {place: secret.reveal() for place, secret in flat(group)} == {
        place: f"<secret cluster.{place}>" for place in ("a", "b.0", "b.2.0", "c.d")
    }
    assert (group.b[1], group.c.e) == (None, None)


def test_contents_that_are_no_text_stay_as_they_are() -> None:
    config: Any = {"a": [{"contents": {"source": "data:;base64,//4=", "compression": ""}}, {"source": "data:,b%20c"}]}
    assert readable(config) == {"a": [config["a"][0], {"text": "b c"}]}
    assert readable({"source": "https://example.com/x"}) == {"source": "https://example.com/x"}


def test_a_run_makes_the_tasks_of_single_hosts_only_for_a_verb_that_it_names(small: Project) -> None:
    made: list[str] = []

    def tasks(config: dict[str, Any]) -> Any:
        for task in engine.show_tasks(config):
            made.append(task["basename"])
            yield task

    small.doit("render", tasks=tasks)
    assert made == ["show"]
    for args in (["show:agent-1"], ["show:*"], ["list"], ["info", "show:agent-1"], ["help", "show:agent-1"]):
        made.clear()
        small.doit(*args, tasks=tasks)
        assert made == ["show", "show:agent-1", "show:server-1"], args

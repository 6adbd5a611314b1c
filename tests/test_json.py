"""The JSON documents: their shapes are the documented ones, and other tools read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from conftest import ROOT, Done, Project, need
from i12e import engine
from i12e.errors import Changes, Problem, UserError

pytestmark = pytest.mark.slow


PAGE = (ROOT / "docs/json.md").read_text()


def documented(heading: str) -> Any:
    """Given the start of a heading of docs/json.md, return the example below it."""
    found = re.search(rf"^## {re.escape(heading)}.*?^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return json.loads(found[1])


def same_shape(example: Any, real: Any, place: str = "") -> None:
    """Compare keys and types of two documents; null and an empty list go with everything."""
    if isinstance(example, dict) and isinstance(real, dict):
        assert example.keys() == real.keys(), place
        for key in example:
            same_shape(example[key], real[key], f"{place}.{key}")
    elif isinstance(example, list) and isinstance(real, list):
        for item in real if example else ():
            same_shape(example[0], item, f"{place}[]")
    elif example is not None and real is not None:
        number = isinstance(example, float) and type(real) in (int, float)
        assert number or type(example) is type(real), place


def document(done: Done) -> Any:
    found = json.loads(done.out)
    assert found["status"] == done.status
    return found


def test_a_run_has_the_documented_shape_done_failed_and_with_nothing_to_do(small: Project) -> None:
    shape = documented("A run")
    first = document(small.doit("--json"))
    same_shape(shape, first)
    assert [result["result"] for result in first["results"]] == ["done", "done"]
    again = document(small.doit("render", "--json"))
    same_shape(shape, again)
    assert (again["results"], again["up_to_date"]) == ([], 2)
    (small.root / "hosts/example/agent-1.yaml").unlink()
    removed = document(small.doit("--json"))
    same_shape(shape, removed)
    assert "removed" in [result["result"] for result in removed["results"]]
    small.write("hosts/example/agent-1.yaml", "rolle: agent\naddresses: [192.0.2.21]\n")
    failed = document(small.doit("--json"))
    same_shape(shape, failed)
    assert failed["results"][-1] == failed["results"][-1] | {"verb": None, "what": None, "result": "failed"}
    assert (failed["status"], failed["problems"][0]["line"]) == (1, 1)


def test_a_task_that_fails_and_one_that_finds_changes_have_that_shape_too(small: Project) -> None:
    def act(host: str | None) -> None:
        raise UserError(Problem("a", 1, 2, "one", "mend it")) if host else Changes

    def tasks(config: dict[str, Any]) -> Any:
        return engine.each("plan", config["build"].hosts, act, "plan", reads=True)

    failed = document(small.doit("plan:agent-1", "--json", tasks=tasks))
    same_shape(documented("A run"), failed)
    assert {"verb": "PLAN", "what": "agent-1", "result": "failed"}.items() <= failed["results"][0].items()
    changes = document(small.doit("plan", "--json", tasks=tasks))
    assert (changes["status"], changes["problems"]) == (2, [])


@pytest.mark.parametrize(
    "args",
    [
        ["list", "--json"],
        ["--json", "list"][::-1],
        ["list", "--all", "-s", "--deps", "--json"],
        ["list", "-p", "--json", "render:agent-1"],
    ],
)
@pytest.mark.parametrize("built", [True, False])
def test_the_list_has_the_documented_shape_and_the_tasks_of_the_lines(
    small: Project, args: list[str], built: bool
) -> None:
    if built:
        small.doit()
    found = document(small.doit(*args))
    same_shape(documented("The tasks"), found)
    plain = small.doit(*(word for word in args if word not in ("--json", "-s", "--deps")))
    assert [task["name"] for task in found["tasks"]] == [line.split()[0] for line in plain.out.splitlines()]
    hosts = [task for task in found["tasks"] if task["what"]]
    assert {task["status"] for task in hosts} <= ({"up-to-date" if built else "run"} if "-s" in args else {None})
    assert all((task["inputs"] is None) == ("--deps" not in args) for task in hosts)


def test_info_has_the_documented_shape_and_says_what_changed(small: Project) -> None:
    shape = documented("One task")
    before = document(small.doit("info", "render:agent-1", "--json"))
    same_shape(shape, before)
    assert before["task"]["reasons"]["missing_outputs"] == ["build/example/hosts/agent-1/config.ign"]
    small.doit()
    current = document(small.doit("info", "--json", "render:agent-1"))
    assert (current["task"]["status"], current["status"]) == ("up-to-date", 0)
    assert "secrets/example/cluster.yaml" in current["task"]["inputs"]
    small.write("templates/files/hostname", "{{ host.name }}.example\n")
    changed = document(small.doit("info", "render:agent-1", "--json"))
    same_shape(shape, changed)
    assert changed["task"]["reasons"]["changed"] == ["templates/files/hostname"]
    quick = document(small.doit("info", "--no-status", "render:agent-1", "--json"))
    same_shape(shape, quick)
    assert (quick["task"]["status"], quick["task"]["reasons"], quick["status"]) == (None, None, 0)
    shown = document(small.doit("info", "show:agent-1", "--json", tasks=engine.show_tasks))
    same_shape(shape, shown)
    assert (shown["task"]["always"], shown["task"]["options"]) == (True, ["--ignition", "--reveal"])


def test_clean_has_the_documented_shape(small: Project) -> None:
    small.doit()
    planned = document(small.doit("clean", "--dry-run", "--json"))
    same_shape(documented("What was made"), planned)
    assert {result["result"] for result in planned["results"]} == {"not done"}
    done = document(small.doit("clean", "--json"))
    assert sorted(result["task"] for result in done["results"]) == ["render:agent-1", "render:server-1"]
    assert document(small.doit("clean", "--json"))["results"] == []


@pytest.mark.parametrize(
    ("heading", "args", "status"),
    [
        ("A run", ["nosuch", "--json"], 3),
        ("A run", ["show", "--json"], 3),
        ("A run", ["render", "--json", "--bogus"], 3),
        ("The tasks", ["list", "nosuch", "--json"], 3),
        ("The tasks", ["list", "--json", "--bogus"], 3),
        ("One task", ["info", "nosuch", "--json"], 3),
        ("One task", ["info", "--json"], 3),
        ("What was made", ["clean", "nosuch", "--json"], 3),
    ],
)
def test_what_did_not_begin_has_the_shape_of_its_command(
    small: Project, heading: str, args: list[str], status: int
) -> None:
    found = document(small.doit(*args, tasks=engine.show_tasks))
    assert found["status"] == status
    same_shape(documented(heading), found)
    assert found["problems"][0]["message"]


@pytest.mark.parametrize("tool", ["jq", "yq"])
@pytest.mark.parametrize(
    ("args", "expression", "expected"),
    [
        (["--json"], '.results[] | select(.result == "done") | .what', ["agent-1", "server-1"]),
        (["list", "--all", "--json"], ".tasks[].name", ["helm_values", "render", "render:agent-1", "render:server-1"]),
        (["list", "--all", "--json"], ".tasks[] | select(.what) | .what", ["agent-1", "server-1"]),
        (["info", "render:agent-1", "--json"], ".task.outputs[]", ["build/example/hosts/agent-1/config.ign"]),
        (["clean", "-n", "--json"], ".results | length", ["0"]),
        (["nosuch", "--json"], ".status", ["3"]),
        (["show:agent-1", "--json"], ".results[0].what", ["agent-1"]),
        (["show:agent-1", "--ignition"], '.storage.files[0].contents.text | rtrimstr("\\n")', ["agent-1"]),
    ],
)
def test_other_tools_read_them(
    small: Project, tool: str, args: list[str], expression: str, expected: list[str]
) -> None:
    need(shutil.which(tool), f"{tool} (Debian: apt-get install {tool})")
    text = small.doit(*args, tasks=None if "list" in args else engine.show_tasks).out
    assert read(tool, expression, text) == expected


def test_yq_reads_the_butane_text_and_the_files_of_cluster_and_hosts(small: Project) -> None:
    need(shutil.which("yq"), "yq (Debian: apt-get install yq)")
    text = small.doit("show:agent-1", tasks=engine.show_tasks).out
    assert read("yq", ".storage.files[].path", text) == ["/etc/hostname", "/etc/token"]
    for path in (ROOT / "hosts/example").glob("*.yaml"):
        assert read("yq", ".role // .name", path.read_text()) in (["example"], ["server"], ["agent"])


def read(tool: str, expression: str, text: str) -> list[str]:
    """Given jq or yq, an expression and a text, return the lines that it gives."""
    done = subprocess.run([tool, "-r", expression], input=text, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()

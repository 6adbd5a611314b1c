"""docs/parity.md: what it says to be on a host is there, and what it says that it is made of exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT, copy_of_example

PAGE = (ROOT / "docs/parity.md").read_text(encoding="utf-8")
ROWS = [row.split("|")[1:-1] for row in PAGE.partition("\n## ")[0].splitlines() if row.count("|") == 5][2:]
WHOSE = {"all": ("server", "agent"), "servers": ("server",), "agents": ("agent",)}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The paths of files and links that the example's hosts get, by host."""
    project = copy_of_example(tmp_path_factory.mktemp("parity") / "checkout")
    assert project.doit().status == 0
    return {host: set(placed(json.loads(config))) for host, config in project.outputs().items()}


def placed(config: dict[str, dict[str, list[dict[str, str]]]]) -> Iterator[str]:
    for kind in ("files", "links"):
        yield from (node["path"] for node in config["storage"].get(kind, ()))


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_table_has_rows() -> None:
    assert len(ROWS) > 10


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip() for row in ROWS])
def test_what_a_row_says_is_on_the_hosts_that_it_names(row: list[str], paths: dict[str, set[str]]) -> None:
    _, where, whose, _ = row
    roles = next(roles for word, roles in WHOSE.items() if whose.strip().split()[0].rstrip(",") == word)
    hosts = [host for host in paths if host.startswith(roles)]
    assert hosts
    assert quoted(where)
    for path in quoted(where):
        assert [host for host in hosts if path not in paths[host]] == []


def test_every_template_that_is_named_exists() -> None:
    named = [path for path in quoted(PAGE) if path.startswith("templates/")]
    assert named
    assert [path for path in named if not Path(ROOT, path).is_file()] == []


def test_every_setting_of_ours_is_in_the_table() -> None:
    template = (ROOT / "templates/files/k3s-config.yaml.j2").read_text()
    settings = set(re.findall(r"^([a-z][a-z-]+):", template, re.MULTILINE))
    assert {setting for setting in settings if f"`{setting}`" not in PAGE.partition("\n## ")[2]} == set()

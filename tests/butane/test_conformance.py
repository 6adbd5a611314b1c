"""Butane's own cases, where they are at hand: what we make of each is what Butane makes of it.

The table of docs/butane.md is what this run comes to: `I12E_RECORD=1 pytest tests/butane/test_conformance.py`
writes it anew.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from comparing import disagreements, outcome

CASES = Path(__file__).parents[3] / "shared" / "conformance" / "butane" / "cases.jsonl"
DOCS = Path(__file__).parents[2] / "docs" / "butane.md"
TABLE = re.compile(r"(<!-- conformance -->\n).*?(?=<!-- end -->)", re.DOTALL)


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def lay_out(case: dict[str, Any], directory: Path) -> None:
    for name, file in case["files"].items():
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(file["b64"]))
        path.chmod(int(file["mode"], 8))
    for name, target in case["symlinks"].items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(target)


def table(equal: Counter[str], total: Counter[str]) -> str:
    """Given how many cases of each version are equal and how many there are, return the table of the docs."""
    rows = "".join(f"| {version} | {equal[version]} | {total[version]} |\n" for version in sorted(total))
    return (
        "| version | equal | cases |\n|---|---|---|\n"
        f"{rows}| **all** | **{sum(equal.values())}** | **{sum(total.values())}** |\n"
    )


@pytest.mark.skipif(not CASES.exists(), reason="no conformance cases beside the checkout")
def test_what_we_make_of_a_config_is_what_butane_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal: Counter[str] = Counter()
    total: Counter[str] = Counter()
    different: dict[str, list[str]] = {}
    for number, case in enumerate(cases()):
        directory = tmp_path / str(number)
        (directory / "files").mkdir(parents=True)
        monkeypatch.chdir(directory)
        lay_out(case, directory / "files")
        ours = outcome(case["butane"], "files" if case["files_dir"] else None)
        found = disagreements(ours, case["ignition"], case["report"])
        version = case["id"].rpartition("__")[2].replace("-", " ")
        total[version] += 1
        if found:
            different[case["id"]] = found
        else:
            equal[version] += 1
    assert different == {}
    told = DOCS.read_text(encoding="utf-8")
    now = TABLE.sub(lambda match: match[1] + table(equal, total), told)
    if os.environ.get("I12E_RECORD"):
        DOCS.write_text(now, encoding="utf-8")
    else:
        assert told == now, "docs/butane.md has another table than this run: run it with I12E_RECORD=1"

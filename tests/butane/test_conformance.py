"""Butane's own cases, where they are at hand: what we translate is what Butane translates."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from comparing import comparable, outcome

CASES = Path(__file__).parents[3] / "shared" / "conformance" / "butane" / "cases.jsonl"
UNSUPPORTED = re.compile(r"is not supported$|No translator exists|^unused key")


def cases() -> list[dict[str, Any]]:
    if not CASES.exists():
        return []
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def lay_out(case: dict[str, Any], directory: Path) -> None:
    for name, file in case["files"].items():
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(file["b64"]))
        path.chmod(int(file["mode"], 8) if isinstance(file["mode"], str) else file["mode"])
    for name, target in case["symlinks"].items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(target)


@pytest.mark.skipif(not CASES.exists(), reason="no conformance cases beside the checkout")
def test_what_we_translate_is_what_butane_translates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    for number, case in enumerate(cases()):
        directory = tmp_path / str(number)
        (directory / "files").mkdir(parents=True)
        monkeypatch.chdir(directory)
        lay_out(case, directory / "files")
        ours = outcome(case["butane"], "files" if case["files_dir"] else None)
        if any(UNSUPPORTED.search(entry.message) for entry in ours.report):
            assert ours.config is None, case["id"]
            continue
        compared += 1
        assert comparable(ours.config) == comparable(case["ignition"]), case["id"]
        # ours goes on where Butane stops, so it says no less
        said = {line for line in case["report"] if not line.startswith("Error")}
        assert said <= {str(entry) for entry in ours.report}, case["id"]
    assert compared > 100

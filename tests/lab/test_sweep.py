"""A sample of the sweep of faults, on every run; all of it is lab.sweep's, with its record in docs/faults.md."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from conftest import ROOT, need
from lab import FAULTS, needs, sweep

FULL = os.environ.get("I12E_SWEEP") == "full"
SEED = int(os.environ.get("I12E_SWEEP_SEED", "0"))


def test_every_fault_of_the_lab_is_swept_at_every_step_where_it_could_show() -> None:
    every = sweep.combinations()
    assert {each.fault for each in every} == {*FAULTS, sweep.KILLED}
    assert {each.step for each in every} == set(sweep.STEPS)
    assert {each.kind for each in every} == {"server", "agent"}
    assert len(every) == len(set(every)) >= 40


def test_a_sample_is_the_same_for_the_same_seed_and_has_each_fault_before_one_twice() -> None:
    assert sweep.sample(7, 5) == sweep.sample(7, 5) != sweep.sample(8, 5)
    assert len({each.fault for each in sweep.sample(7, 10)}) == 10
    assert set(sweep.sample(7, 1000)) == set(sweep.combinations())


def test_the_record_has_combinations_that_there_are() -> None:
    page = (ROOT / "docs/faults.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\w+) \| ((?:server|agent)-\d) \|", page, re.MULTILINE)
    assert len(rows) >= 40
    assert {sweep.Combination(*row) for row in rows} <= set(sweep.combinations())


@pytest.mark.lab
def test_a_sample_of_faults_loses_no_quorum_touches_no_other_host_and_ends_well(tmp_path: Path) -> None:
    """I12E_SWEEP_SEED=N tries other ones, I12E_SWEEP=full all."""
    need(not needs.missing(), needs.missing())
    outcomes: list[sweep.Outcome] = []
    tried = sweep.combinations() if FULL else sweep.sample(SEED, 5)
    sweep.sweep(tried, tmp_path, 2 if FULL else 1, outcomes.append)
    assert {str(each.tried): each.wrong for each in outcomes if each.wrong} == {}
    assert len(outcomes) == len(tried)

"""How much of a sweep is run: a sample, or with I12E_SWEEP=full all of it (docs/sweeps.md)."""

from __future__ import annotations

import os

FULL = os.environ.get("I12E_SWEEP") == "full"


def sampled(number: int) -> int:
    """Given how many random examples a full sweep takes, return how many are tried now."""
    return number if FULL else max(20, number // 5)

"""The environment: when it counts as the one of a lock file."""

from __future__ import annotations

from pathlib import Path

import pytest

from i12e import bootstrap


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose environment was made from its lock."""
    python = tmp_path / "python3.11"
    python.write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(python)
    (tmp_path / ".venv/base-python").write_text(f"{python}\n")
    for place in (tmp_path, tmp_path / ".venv"):
        (place / bootstrap.RUNTIME).write_text("lock 1\n")
    return tmp_path


def test_an_environment_made_from_this_very_lock_is_current(root: Path) -> None:
    assert bootstrap.is_current(root, bootstrap.RUNTIME)
    assert not bootstrap.is_current(root, bootstrap.DEVELOPMENT)


def test_another_lock_makes_it_anew(root: Path) -> None:
    (root / bootstrap.RUNTIME).write_text("lock 2\n")
    assert not bootstrap.is_current(root, bootstrap.RUNTIME)


def test_a_python_that_was_upgraded_or_is_gone_makes_it_anew(root: Path) -> None:
    new = root / "python3.12"
    new.write_text("")
    python = root / ".venv/bin/python"
    python.unlink()
    python.symlink_to(new)
    assert not bootstrap.is_current(root, bootstrap.RUNTIME)
    new.unlink()
    assert not bootstrap.is_current(root, bootstrap.RUNTIME)


def test_an_installation_that_was_stopped_halfway_counts_as_none(root: Path) -> None:
    (root / ".venv" / bootstrap.RUNTIME).unlink()
    assert not bootstrap.is_current(root, bootstrap.RUNTIME)

"""A lab for tests: `with running(folder, hosts) as lab`, or the fixture `lab_of`, which keeps it for a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import needs
from lab.api import Lab


@contextmanager
def running(folder: Path, hosts: Sequence[str]) -> Iterator[Lab]:
    """Given a folder and hosts, have a lab of them until the block ends; skip the test where there can be none."""
    _need_lab()
    try:
        yield Lab.start(folder, hosts)
    finally:
        Lab(folder).stop()


@pytest.fixture(scope="module")
def lab_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lab]]:
    """Given hosts' names, a lab that has them, bare at first; one for the whole module, which ends with it."""
    folder = tmp_path_factory.mktemp("lab") / "machines"

    def lab_of(*hosts: str) -> Lab:
        _need_lab()
        return Lab.start(folder, hosts)

    yield lab_of
    if Lab.find(folder):
        Lab(folder).stop()


def _need_lab() -> None:
    from conftest import need  # which imports this module

    lacking = needs.missing()
    need(not lacking, lacking)

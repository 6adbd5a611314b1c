"""What restore does beside its plan and its scripts, as far as it takes no host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from i12e import restore
from i12e.programs import Done
from i12e.restore import Options, Restoring
from i12e.rollout import Stopped


class Watching(Restoring):
    """A restore whose target says of a node's lease what it is told to."""

    def __init__(self, said: list[str], timeout: str) -> None:
        self.given = Options(timeout=timeout)
        self.said = said
        self.asked = 0

    @property
    def remote(self) -> Any:
        return self

    def run(self, script: Any = "", stdin: bytes = b"", limit: float = 60) -> Any:
        """Answer as the target does."""
        assert "kube-node-lease get lease server-1" in script
        self.asked += 1
        said = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        return Done(1 if said == "etcdserver: leader changed" else 0, said, "")


def lease(renewed: str) -> str:
    return json.dumps({"spec": {"renewTime": renewed}})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "_LOOK", 0.0)


def test_a_node_lives_once_its_lease_is_renewed_and_not_because_the_database_has_one() -> None:
    there = Watching(["", lease("1"), lease("1"), "etcdserver: leader changed", lease("2")], "60s")
    there._lives("server-1")
    assert there.asked == 5


@pytest.mark.parametrize("said", ["", lease("1"), "[]"])
def test_a_node_of_which_only_the_database_speaks_stops_the_restore(said: str) -> None:
    there: Any = Watching([said], "0.05s")
    with pytest.raises(Stopped) as caught:
        there._lives("server-1")
    assert "gave no sign of life" in str(caught.value.problem)

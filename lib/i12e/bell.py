"""Who the cluster's file names is told of what went wrong with its backups; what they are told has no secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i12e import screen
from i12e.alarms import Alarms
from i12e.build import Build
from i12e.errors import Problem
from i12e.settings import Cluster


class Bell:
    """The alarms of a cluster; that one of them did not get through is a note of the run."""

    def __init__(self, build: Build, cluster: Cluster) -> None:
        self._build = build
        self._cluster = cluster.name
        self._alarms = Alarms(cluster.backup.alarms, build.group, screen.say)

    def started(self) -> None:
        """Tell the watchdogs that a backup begins."""
        self._note(self._alarms.started())

    def good(self) -> None:
        """Tell the watchdogs that a backup is good."""
        self._note(self._alarms.good())

    def failed(self, title: str, problems: Sequence[Problem], **facts: Any) -> None:
        """Given what failed, in a line, and what is wrong, tell everybody."""
        self._note(self._alarms.failed(f"i12e: {title}", self._text(problems), {"cluster": self._cluster, **facts}))

    def stale(self, title: str, problems: Sequence[Problem]) -> None:
        """Given that backups are too old, in a line, and which, tell everybody."""
        self._note(self._alarms.stale(f"i12e: {title}", self._text(problems), {"cluster": self._cluster}))

    def _text(self, problems: Sequence[Problem]) -> str:
        return self._build.redact("\n".join(str(problem) for problem in problems))

    def _note(self, problems: Sequence[Problem]) -> None:
        self._build.notes += [str(problem) for problem in problems]

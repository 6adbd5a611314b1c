"""Kill a process at one of its events on files: the points at which a run can be found half done.

An event is an audit event of Python's; each counts once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

EVENTS = frozenset(
    {
        "open",
        "os.chmod",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "shutil.rmtree",
        "sqlite3.connect",
    }
)


def killed_at(point: int, work: Callable[[], object], *places: str) -> bool:
    """Given a number and work, do it in a child that is killed at that event on a path with one of `places` in it.

    Return whether it came that far; raise AssertionError if what it was to do failed by itself.
    """
    child = os.fork()
    if child == 0:  # pragma: no cover  # the child's lines are not measured
        with contextlib.suppress(BaseException):
            _count_down(point, places)
            work()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _count_down(point: int, places: tuple[str, ...]) -> None:
    left = point

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        if event in EVENTS and any(place in str(args[0]) for place in places):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)  # unasked and at once: no handler runs

    sys.addaudithook(count)

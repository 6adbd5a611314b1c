"""i12e's tasks: a table of contents. `./doit` renders what changed, `./doit list` shows the rest.

Each creator names its tasks and what they do; the work is in lib/i12e.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from i12e import checks, engine

ROOT = Path(__file__).resolve().parent
DOIT_CONFIG = engine.configure(ROOT, default_tasks=["render"])


def task_build() -> Iterator[engine.TaskDict]:
    """Hosts, secrets and templates to one Ignition config a host."""
    yield from engine.build_tasks(DOIT_CONFIG)


def task_secrets_check() -> engine.TaskDict:
    """See that nothing under secrets/ is plain; also the pre-commit hook."""
    return engine.aside("secrets_check", "all sealed", engine.later("sealed.check", ROOT))


def task_test() -> engine.TaskDict:
    """The tests, with the packages that they need."""
    return engine.aside("test", "all passed", partial(checks.run_tests, ROOT))

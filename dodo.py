"""i12e's tasks: a table of contents. `./doit` renders what changed, `./doit list` shows the rest.

Each creator names its tasks and what they do; the work is in lib/i12e.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from i12e import checks, engine

ROOT = Path(__file__).resolve().parent
DOIT_CONFIG = engine.configure(ROOT, default_tasks=["render", "helm_values"])


def task_build() -> Iterator[engine.TaskDict]:
    """Hosts, secrets and templates to one Ignition config a host and the values of each Helm release."""
    yield from engine.build_tasks(DOIT_CONFIG)


def task_lock() -> engine.TaskDict:
    """What hosts download, with hashes: into artifacts.lock (--check: compare only)."""
    return engine.lock_task(DOIT_CONFIG)


def task_show() -> Iterator[engine.TaskDict]:
    """What a host is rendered to, for a person to look at (--ignition, --reveal)."""
    yield from engine.show_tasks(DOIT_CONFIG)


def task_schema() -> engine.TaskDict:
    """The JSON Schemas of cluster and host files, and docs/reference.md."""
    return engine.aside("schema", "docs/schema, docs/reference.md", partial(checks.write_schemas, ROOT))


def task_test() -> engine.TaskDict:
    """The tests, with the packages that they need."""
    return engine.aside("test", "all passed", partial(checks.run_tests, ROOT))

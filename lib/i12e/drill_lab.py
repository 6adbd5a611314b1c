"""The drill in a lab: a host that this machine makes for it, and that is gone afterwards. Its k3s is a stand-in.

It belongs to the tests (docs/simulated.md), and runs as a child of ours, which ends it when we are gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i12e.drill_host import Release, Site
from i12e.localetcd import Unable
from i12e.remote import Target

NAME = "lab"


@contextmanager
def host(root: Path, folder: Path, release: Release) -> Iterator[Site]:
    """Given the checkout, a private folder and a k3s, have a host of a lab of its own until the block ends.

    Raise Unable where there can be none.
    """
    if not (root / "tests/lab").is_dir():
        raise Unable("this checkout has no tests/lab, which makes the hosts of a lab", "drill on a host")
    command = [sys.executable, "-m", "lab", "scratch", str(folder / "lab"), release.version]
    process = subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root / "tests")}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101  # for the type
        line = process.stdout.readline()
        if not line:
            _, said = process.communicate()
            raise Unable(f"no lab: {said.strip()[-300:]}", "docs/simulated.md says what it needs; or drill on a host")
        told = json.loads(line)
        note = "the lab's k3s is a stand-in on a real etcd: it proves the database, and the way there, but not k3s"
        target = Target(NAME, told["host"], ("-F", told["ssh_config"]))
        outs = [(address, port) for address, port in told["outs"]]
        yield Site(NAME, target, "lab, a stand-in for", release, outs, notes=[note])
    finally:
        process.communicate()

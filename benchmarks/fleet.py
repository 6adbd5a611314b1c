"""A fleet of hosts from the real templates, with the real sops, beside bare doit with as many tasks.

A task of bare doit has one file dependency and one target. Both sides run in turns, as processes of their own.
"""

from __future__ import annotations

import compileall
import functools
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Job, Prepare, Spent, in_turns, nothing
from i12e import model
from i12e.errors import UserError
from i12e.files import Files
from i12e.paths import EXAMPLE, Paths, host_names
from i12e.render import Renderer
from i12e.secrets import Vault

SERVERS = 3
ROOT = Path(__file__).resolve().parent.parent
COLD, NO_OP, ONE_HOST = "cold", "nothing to do", "one host edited"
TEMPLATE, CLUSTER = "a shared template edited", "cluster.yaml edited"
ALL = (COLD, NO_OP, ONE_HOST, TEMPLATE, CLUSTER)
# What takes a moment is timed more often: the machine's noise is as long.
_TIMES = {NO_OP: 5, ONE_HOST: 3}
_BARE = """
import os
NAMES = sorted(os.listdir("in"))

def copy(name):
    with open(f"in/{name}") as source, open(f"out/{name}", "w") as target:
        target.write(source.read())

def task_copy():
    for name in NAMES:
        yield {"name": name, "actions": [(copy, [name])], "file_dep": [f"in/{name}"], "targets": [f"out/{name}"]}
"""


@dataclass(frozen=True)
class Pair:
    """What i12e took, and bare doit."""

    ours: Spent
    bare: Spent


class Fleet:
    """A checkout with many hosts, and a doit project of as many tasks."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.hosts = hosts
        self.place = folder / f"fleet-{hosts}"
        self.bare = folder / f"bare-{hosts}"
        make(self.place, hosts)
        make_bare(self.bare, hosts)

    def measure(self, case: str, rounds: int) -> Pair:
        """Given an edit and the rounds, return what both sides take after it."""
        ours, bare = self._edits(case)
        return Pair(*in_turns(rounds * _TIMES.get(case, 1), self.job(ours), self._bare_job(bare)))

    def texts(self, role: str, count: int) -> dict[str, str]:
        """Given a role and a number, return the Butane texts of the first hosts of that role."""
        paths = Paths(self.place, EXAMPLE)
        files = Files(paths.root)
        names = host_names(paths)
        servers = [name for name in names if name.startswith("server")]
        wanted = [name for name in names if name.startswith(role)][:count]
        found = model.load_fleet(paths.hosts, paths.env, list(dict.fromkeys([*servers, *wanted])), files.read)
        hosts, cluster = found.hosts, found.cluster
        if cluster is None or found.problems:
            raise UserError(found.problems)
        renderer = Renderer(paths, files, Vault(paths, files), lambda: model.servers(hosts), lambda: cluster)
        return {name: renderer.text(hosts[name]) for name in wanted}

    def settle(self) -> None:
        """Do what the last edit left to do, twice: stamps of outputs prove something only after a moment."""
        for number in range(2):
            self.job().run(number)
            self._bare_job().run(number)

    def job(self, prepare: Prepare = nothing) -> Job:
        """Given what is done before each round, return a build of this fleet, with its own copy of the code."""
        return Job(self.place, [["./doit"]], prepare, {"PYTHONPATH": str(self.place / "lib")})

    def _bare_job(self, prepare: Prepare = nothing) -> Job:
        return Job(self.bare, [[sys.executable, "-m", "doit"]], prepare)

    def _edits(self, case: str) -> tuple[Prepare, Prepare]:
        example = self.place / "hosts/example"
        one = functools.partial(_append, self.bare / "in/f1", "more {}\n")
        edits: dict[str, tuple[Prepare, Prepare]] = {
            COLD: (functools.partial(_remove, self.place), functools.partial(_remove, self.bare)),
            NO_OP: (nothing, nothing),
            ONE_HOST: (functools.partial(_append, example / "agent-1.yaml", "  edit-{}: x\n"), one),
            TEMPLATE: (functools.partial(_append, self.place / "templates/files/system.conf", "# {}\n"), one),
            CLUSTER: (
                functools.partial(_prepend, example / "cluster.yaml", "# {}\n"),
                one,
            ),  # the end belongs to a release
        }
        return edits[case]


def _append(path: Path, text: str, number: int) -> None:
    with path.open("a") as file:
        file.write(text.format(number))


def _prepend(path: Path, text: str, number: int) -> None:
    path.write_text(text.format(number) + path.read_text())


def _remove(place: Path, number: int) -> None:
    shutil.rmtree(place / "build", ignore_errors=True)
    for path in (*place.glob("out/*"), *place.glob(".doit.db*")):
        path.unlink()


def make(place: Path, hosts: int) -> None:
    """Given a folder that is not there and a number, make a checkout with that many hosts, three of them servers."""
    folder = place / "hosts/example"
    folder.mkdir(parents=True)
    for name in ("dodo.py", "doit", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, place)
    for name in ("lib", "templates", "secrets"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(place / "lib", quiet=1)
    (place / ".venv").symlink_to(Path(sys.prefix))
    cluster = (ROOT / "hosts/example/cluster.yaml").read_text().replace("10.42.0.0/16", "10.128.0.0/10")
    (folder / "cluster.yaml").write_text(
        cluster.replace("192.0.2.0/24", "10.0.0.0/12").replace("192.0.2.10", "10.1.0.1")
    )
    for number in range(hosts):
        role, index = ("server", number + 1) if number < SERVERS else ("agent", number - SERVERS + 1)
        address = f"10.2.{number // 250}.{number % 250 + 2}"
        text = f"role: {role}\naddresses: [{address}]\nlabels:\n  disk: ssd\n  rack: r{number % 40}\n"
        (folder / f"{role}-{index}.yaml").write_text(text)


def make_bare(place: Path, files: int) -> None:
    """Given a folder that is not there and a number, make a doit project of that many tasks."""
    (place / "in").mkdir(parents=True)
    (place / "out").mkdir()
    (place / "dodo.py").write_text(_BARE)
    for number in range(files):
        (place / f"in/f{number}").write_text(f"content {number}\n")


def measure(fleet: Fleet, cases: tuple[str, ...], rounds: int) -> dict[str, Pair]:
    """Given a fleet that was never built, edits and the rounds, return what each edit takes."""
    found: dict[str, Pair] = {}
    for case in cases:
        if case != COLD or rounds > 1:  # a fleet that was never built is as cold as can be
            fleet.settle()
        found[case] = fleet.measure(case, rounds)
    return found

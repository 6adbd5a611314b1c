"""What the tests share: a project to build in, runs of doit in this process, and how a test is skipped."""

from __future__ import annotations

import gc
import io
import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain
from hypothesis import HealthCheck, settings

import helm
from i12e import engine, programs
from lab.fixtures import lab_of
from sweeps import FULL

__all__ = ["lab_of"]  # a fixture for all tests

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests with -n auto: one more than there are cores, as most tests wait a little."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return what gives each file to one process as a whole, in our order: its fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only a full sweep has; let several processes begin with the files that have most slow tests, so
    that none is last and alone."""
    if not FULL:
        left_out = [item for item in items if item.get_closest_marker("sweep")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Spare the garbage collector the thousands of tests, which stay."""
    gc.collect()
    gc.freeze()


def need(there: object, what: str) -> None:
    """Given what a test needs, skip the test without it; fail instead where CI asks for all (I12E_REQUIRE=all)."""
    if there:
        return
    if os.environ.get("I12E_REQUIRE") == "all":
        pytest.fail(f"I12E_REQUIRE=all, but this is missing: {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def ignition_validate() -> str:
    """The path of the real ignition-validate."""
    found = shutil.which("ignition-validate")
    need(found, "ignition-validate (Debian: apt-get install ignition)")
    assert found
    return found


@pytest.fixture(scope="session")
def real_helm() -> str:
    """The path of the real helm."""
    found = helm.find()
    need(found, "helm (python tests/helm.py brings it)")
    assert found
    return found


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet: numbered here, as pytest reads all names for each new number."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path]) -> None:
    """No test sees the user's keys, environment or home."""
    for name in list(os.environ):
        if name.startswith(("SOPS_", "I12E_ENV", "I12E_BACKUP_", "DOIT_")):
            monkeypatch.delenv(name)
    home = next(_homes)
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


@dataclass
class Done:
    """How a run ended: its exit status, and what it printed."""

    status: int
    out: str
    err: str
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = [line for line in self.out.splitlines() if not line.startswith(f"{self.env}:")]

    @property
    def env(self) -> str:
        """The environment, as the summary names it."""
        return self.out.splitlines()[-1].partition(":")[0] if self.out else ""


Tasks = Callable[[dict[str, Any]], Any]


@dataclass
class Project:
    """A checkout in a temporary folder, and doit in it."""

    root: Path

    def write(self, path: str, text: str) -> None:
        """Given a path and a text, put it there."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        """Given a path, a text that stands in the file and another one, put that in its place."""
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new, 1))

    def seal(self, name: str, plain: str) -> None:
        """Given a secret file's name and its content, seal that to the demo key with the real sops."""
        key = (ROOT / "secrets/example/demo-key-PUBLIC.txt").read_text()
        recipient = next(line.split()[-1] for line in key.splitlines() if "public key" in line)
        kinds = ("--input-type", "yaml", "--output-type", "yaml")
        command = ("--config", "/dev/null", "encrypt", "--age", recipient, *kinds, "/dev/stdin")
        done = programs.run(programs.sops(), "--disable-version-check", *command, stdin=plain)
        assert done.status == 0, done.complaint
        self.write(f"secrets/example/{name}.yaml", done.output)

    def doit(self, *args: str, tasks: Tasks | None = None) -> Done:
        """Given arguments, run doit in this process as ./doit would; `tasks` gives further task creators."""
        out, err = io.StringIO(), io.StringIO()
        status = self.run(list(args), out, err, tasks)
        return Done(status, out.getvalue(), err.getvalue())

    def run(self, args: list[str], out: IO[str], err: IO[str], tasks: Tasks | None = None) -> int:
        """Given arguments and where the output goes, run doit in this process; return its exit status."""
        before = Path.cwd()
        os.chdir(self.root)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                return int(self._main(tasks).run(args))
        finally:
            os.chdir(before)

    def _main(self, tasks: Tasks | None) -> DoitMain:
        return DoitMain(_Loader(self.root, tasks), (), engine.PLUGINS)

    def outputs(self, env: str = "example") -> dict[str, bytes]:
        """Given an environment, return the rendered configs by host."""
        folder = self.root / "build" / env / "hosts"
        return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/config.ign"))}


class _Loader(ModuleTaskLoader):
    """What dodo.py is to ./doit, made when doit asks for it, as importing dodo.py would."""

    def __init__(self, root: Path, tasks: Tasks | None) -> None:
        super().__init__({})
        self._root = root
        self._tasks = tasks

    def setup(self, opt_values: Any) -> None:
        config = engine.configure(self._root, default_tasks=["render", "helm_values"])
        self.namespace = {"DOIT_CONFIG": config, "task_build": lambda: engine.build_tasks(config)}
        if self._tasks:
            more = self._tasks
            self.namespace["task_more"] = lambda: more(config)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of this checkout's example, without its code."""
    return copy_of_example(tmp_path / "checkout")


def copy_of_example(root: Path) -> Project:
    """Given a folder that is not there, make it a checkout of the example, without the code."""
    for name in ("hosts/example", "hosts/example-fcos", "secrets", "templates"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / ".sops.yaml", root)
    return Project(root)


SMALL_TEMPLATE = """\
variant: {{ host.os.name }}
version: {{ butane_version }}
storage:
  files:
    - path: /etc/hostname
      mode: 0644
      contents: {inline: {{ embed("files/hostname") }}}
    - path: /etc/token
      mode: 0600
      contents: {inline: {{ secrets.cluster.server_token | quote }}}
"""


SMALL_CLUSTER = """\
name: example
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com, vip: {address: 192.0.2.10, version: v1.0.1, interface: eth0}}
network: {hosts: [192.0.2.0/24]}
ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 demo"]
"""


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """A project of one server and one agent with templates of a few lines: fast, and all its inputs are known."""
    return small_project(tmp_path / "checkout")


def small_project(root: Path) -> Project:
    """Given a folder that is not there, make it a small project."""
    project = Project(root)
    shutil.copytree(ROOT / "secrets", root / "secrets")
    for name in ("server", "agent"):
        project.write(f"templates/butane/{name}.bu.j2", SMALL_TEMPLATE)
    project.write("templates/files/hostname", "{{ host.name }}\n")
    project.write("hosts/example/cluster.yaml", SMALL_CLUSTER)
    project.write("hosts/example/server-1.yaml", "role: server\naddresses: [192.0.2.11]\n")
    project.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\n")
    return project


@pytest.fixture(scope="session")
def python() -> str:
    """This Python, for processes of their own."""
    return sys.executable

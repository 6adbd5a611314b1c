"""The build: which hosts are rendered again, all problems first, then one config after another.

    _model            hosts/*.yaml -> build/ENV/servers.json, what hosts may know of the servers
    _inputs:SET       templates, secrets, code -> build/ENV/inputs/SET, their digest: one for each distinct set
    _prepare          renders every host that is out of date into memory; any problem stops the run here
    render:HOST       puts one rendered config into its place
    render            removes what belongs to hosts that are no more

A host's task depends on its own file, the cluster's, the digest of its set, and what else it looked at.
Nothing is written before everything is rendered, so a problem anywhere leaves all configs as they were;
then each config is a task that is done, and stays done if the run is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from i12e import paths as places
from i12e.errors import Problem, UserError
from i12e.files import Files, private_folder
from i12e.paths import Paths
from i12e.state import State

if TYPE_CHECKING:
    from i12e.model import Fleet, Host
    from i12e.render import Renderer
    from i12e.secrets import Vault

# The folders whose files many hosts share: their states are kept as one digest for each distinct set.
_SHARED = ("templates", "secrets/", "lib/", "requirements.lock")

SPOOL = 1 << 26

Progress = Callable[[Sequence[str], str], Iterable[str]]


def _quietly(items: Sequence[str], what: str) -> Iterable[str]:
    return items


@dataclass
class Request:
    """What the command line asks of a build, and what the engine lends it."""

    wanted: list[str] = field(default_factory=list)
    always: bool = False
    save_set: Callable[[str, list[str]], None] = lambda set_id, inputs: None
    progress: Progress = _quietly
    pause: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within `with pause():` a person may be waited for: the lock is not held. See engine.asking."""


class Told(NamedTuple):
    """One line of what a task did, or left as it is (`done` is False)."""

    verb: str
    what: str
    remark: str
    done: bool


class Build:
    """The build of one environment, for the length of one process."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.files = Files(paths.root)
        self.state = State(paths.root / paths.state, self.files)
        self.hosts = places.host_names(paths)
        self._sets_folder = paths.inputs("")
        self.request = Request()
        self.mutex = threading.RLock()  # with -n, actions run in threads; files and state are one for all
        self.same: set[str] = set()
        self.removed: list[str] = []
        self.told: list[Told] = []
        self.notes: list[str] = []
        self._fleet: Fleet | None = None
        self._renderer: Renderer | None = None
        self._vault: Vault | None = None
        self._rendered: dict[str, tuple[int, int, frozenset[str]]] = {}
        self._spool: IO[bytes] | None = None

    def tell(self, verb: str, what: str, remark: str = "", done: bool = True) -> None:
        """Given a verb, its thing and a remark, have the line told when the task ends."""
        self.told.append(Told(verb, what, remark, done))

    def note(self, text: str) -> None:
        """Given a text that the user should know, have it told at the end of the run."""
        self.notes.append(text)

    # --- what tasks depend on, told without reading any file

    def model_inputs(self) -> list[str]:
        """Return the inputs of the model: the folder of the hosts, their files, the code."""
        code = ("errors", "fields", "model", "paths", "rules", "settings", "yamlfile")
        files = [
            self.paths.hosts,
            self.paths.cluster_file,
            *(self.paths.host_file(host) for host in self.hosts),
        ]
        return [*files, *(f"lib/i12e/{name}.py" for name in code)]

    def host_inputs(self, host: str) -> list[str] | None:
        """Given a host, return the inputs that it had when it was last rendered, or None.

        None too if what is known of its set is gone: a digest that nobody brings up to date proves nothing.
        """
        found = self.recorded(f"render:{host}")
        start = len(self._sets_folder)
        sets = [path[start:] for path in found or () if path.startswith(self._sets_folder)]
        return found if all(self.state.in_(f"_inputs:{set_id}") for set_id in sets) else None

    def recorded(self, task: str) -> list[str] | None:
        """Given a task's name, return the inputs that it had when it was last done, or None."""
        found: list[str] | None = self.state.get(task, "deps:")
        return found

    def sets(self) -> list[str]:
        """Return the ids of the sets of inputs that hosts were rendered from."""
        return sorted(name.partition(":")[2] for name in self.state.tasks() if name.startswith("_inputs:"))

    def is_current(self, host: str) -> bool:
        """Given a host, tell whether its config is there as it was made and none of its inputs has changed.

        It says what doit would, in a tenth of the time.
        """
        inputs = self.host_inputs(host)
        same = bool(inputs) and not self._changed(f"render:{host}", inputs)
        return same and self.files.is_output(self.paths.config(host))

    def changed(self, host: str) -> list[str]:
        """Given a host, return which of its inputs have changed since it was rendered, down to those of its set."""
        found: list[str] = []
        for path in self.host_inputs(host) or ():
            if path.startswith(self._sets_folder):
                task = f"_inputs:{path.removeprefix(self._sets_folder)}"
                found += self._changed(task, self.recorded(task))
            else:
                found += self._changed(f"render:{host}", [path])
        return sorted(found)

    def _changed(self, task: str, inputs: Iterable[str] | None) -> list[str]:
        record, state = self.state.record(task), self.files.state
        return [path for path in inputs or () if record.get(path) != state(path)]

    # --- the actions

    def check_model(self) -> dict[str, Any]:
        """Read and check all hosts; raise UserError with every problem, also those of secrets and templates.

        Return the warnings, for the runs that find everything as it was.
        """
        fleet = self._load(self.hosts)
        problems = [*self._strays(), *fleet.problems]
        if problems:
            raise UserError([*problems, *self._other_problems(fleet)])
        self._fleet = fleet
        self.files.write(self.paths.servers, _json(self._servers()))
        return {"warnings": [str(problem) for problem in fleet.warnings]}

    def digest_inputs(self, set_id: str, inputs: Iterable[str]) -> None:
        """Given a set's id and its inputs, write their digest."""
        states = "".join(f"{self.files.state(path)} {path}\n" for path in sorted(inputs))
        self.files.write(self.paths.inputs(set_id), f"{hashlib.sha256(states.encode()).hexdigest()}\n".encode())

    def prepare(self) -> None:
        """Render all wanted hosts that are out of date into memory; raise UserError with all problems of all."""
        stale = [host for host in self.request.wanted if self.request.always or not self.is_current(host)]
        if stale:
            self._render_all(stale)

    def place(self, host: str) -> list[str]:
        """Given a host, put its rendered config into its place and return the task's inputs."""
        with self.mutex:
            if host not in self._rendered:  # an input was edited after prepare() had found it as it was
                self._render_all([host])
            start, size, inputs = self._rendered[host]
            spool = self._spool_file()
            spool.seek(start)
            if not self.files.write(self.paths.config(host), spool.read(size)):
                self.same.add(host)
        return [*_own(inputs), self.paths.inputs(_set_id(_shared(inputs)))]

    def remove_orphans(self) -> None:
        """Remove outputs and state of hosts that are no more, and the digests of sets that no host uses."""
        known = set(self.hosts)
        folder = self.paths.root / self.paths.build / "hosts"
        there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
        records = {name.partition(":")[2] for name in self.state.tasks() if name.startswith("render:")}
        for host in sorted((there | records) - known, key=places.natural):
            self.clean(host)
            self.state.remove(f"render:{host}")
            self.removed.append(host)
        if self._rendered or self.removed:
            self._remove_sets()

    def clean(self, host: str) -> None:
        """Given a host, remove its outputs."""
        import shutil

        shutil.rmtree(self.paths.root / self.paths.build / "hosts" / host, ignore_errors=True)
        self.state.drop_paths([self.paths.config(host)])

    def close(self) -> None:
        """Forget what was rendered."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._rendered.clear()

    def warnings(self) -> list[str]:
        """Return the warnings of the model as it was last read."""
        values = self.state.get("_model", "_values_:") or {}
        return list(values.get("warnings", ()))

    def explain(self, task: str) -> list[str]:
        """Given a task's name, return all its recorded inputs, those of its set among them."""
        found: list[str] = []
        for path in self.recorded(task) or ():
            folder, _, set_id = path.rpartition("/")
            found.extend((self.recorded(f"_inputs:{set_id}") or ()) if folder.endswith("/inputs") else [path])
        return sorted(found)

    # --- how

    def _load(self, names: Sequence[str]) -> Fleet:
        from i12e.model import load_fleet

        return load_fleet(self.paths.hosts, self.paths.env, list(names), self.files.read)

    def _models(self, names: Sequence[str]) -> dict[str, Host]:
        """Given names of hosts, return their models; the model as a whole was found right before."""
        if self._fleet is None:
            fleet = self._load(names)
            if any(name not in fleet.hosts for name in names):
                raise UserError(fleet.problems)
            return fleet.hosts
        return self._fleet.hosts

    def _render_all(self, names: Sequence[str]) -> None:
        hosts = self._models(names)
        met: list[tuple[str, Problem]] = []
        for name in self.request.progress(names, "rendering"):
            try:
                self._render(hosts[name])
            except UserError as error:
                met.extend((name, problem) for problem in error.problems)
        if met:
            raise UserError([*_merge(met), *self._vault_problems()])
        for set_id, inputs in {_set_id(shared): shared for shared in map(_shared, self._inputs())}.items():
            self.digest_inputs(set_id, inputs)
            self.request.save_set(set_id, inputs)

    def _render(self, host: Host) -> None:
        rendered = self._rendering().render(host)
        spool = self._spool_file()
        start = spool.seek(0, os.SEEK_END)
        spool.write(rendered.config)
        self._rendered[host.name] = (start, len(rendered.config), rendered.inputs)

    def _spool_file(self) -> IO[bytes]:
        """Return the file of rendered configs: in memory, and beyond SPOOL bytes on disk without a name.

        So memory stays bounded, and a kill leaves nothing behind.
        """
        if self._spool is None:
            import tempfile  # here and below: slow to import, and a run with nothing to do has no use for it

            folder = self.paths.root / self.paths.build
            private_folder(folder)
            self._spool = tempfile.SpooledTemporaryFile(SPOOL, dir=str(folder))  # noqa: SIM115
        return self._spool

    def _rendering(self) -> Renderer:
        if self._renderer is None:
            from i12e.render import Renderer

            self._renderer = Renderer(self.paths, self.files, self._secrets(), self._servers)
        return self._renderer

    def _secrets(self) -> Vault:
        if self._vault is None:
            from i12e.secrets import Vault

            self._vault = Vault(self.paths, self.files)
        return self._vault

    def _servers(self) -> list[dict[str, Any]]:
        if self._fleet is not None:
            from i12e.model import servers

            return servers(self._fleet.hosts)
        found: list[dict[str, Any]] = json.loads(self.files.read(self.paths.servers))
        return found

    def _strays(self) -> list[Problem]:
        if not (self.paths.root / self.paths.hosts).is_dir():
            return []
        return places.strays(self.paths)

    def _other_problems(self, fleet: Fleet) -> list[Problem]:
        """Given hosts that have problems, return also those of the secrets and of the templates."""
        self._fleet = fleet
        met: list[tuple[str, Problem]] = []
        for host in fleet.hosts.values():
            try:
                self._rendering().render(host)
            except UserError as error:
                met.extend((host.name, problem) for problem in error.problems)
        return [*_merge(met), *self._vault_problems(), *self._rendering().templates.syntax_problems()]

    def _vault_problems(self) -> list[Problem]:
        return self._secrets().problems()

    def _inputs(self) -> list[frozenset[str]]:
        return [inputs for _, _, inputs in self._rendered.values()]

    def _remove_sets(self) -> None:
        used = {Path(path).name for host in self.hosts for path in self.recorded(f"render:{host}") or ()}
        for set_id in self.sets():
            if set_id not in used:
                self.state.remove(f"_inputs:{set_id}")
                (self.paths.root / self.paths.inputs(set_id)).unlink(missing_ok=True)
                self.state.drop_paths([self.paths.inputs(set_id)])


def _shared(inputs: Iterable[str]) -> list[str]:
    return sorted(path for path in inputs if path.startswith(_SHARED))


def _own(inputs: Iterable[str]) -> list[str]:
    return sorted(path for path in inputs if not path.startswith(_SHARED))


def _set_id(inputs: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def _merge(met: list[tuple[str, Problem]]) -> tuple[Problem, ...]:
    from i12e.render import merge_problems

    return merge_problems(met)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, default=str) + "\n").encode()

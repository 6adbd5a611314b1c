"""The build: which products are made again, all problems first, then one after another.

    _model                hosts/*.yaml -> what products may know of the servers, the cluster and the releases
    _inputs:SET           templates, secrets, code -> build/ENV/inputs/SET, their digest: one for each distinct set
    _prepare              renders every product that is out of date into memory; any problem stops the run here
    render:HOST           puts one rendered config into its place
    helm_values:RELEASE   puts one release's values into their place
    render, helm_values   remove what belongs to hosts and releases that are no more

A product's task depends on the digest of its set and on what else it looked at: a host's on its own file and the
cluster's but for the releases, the backups and DNS, a release's on its own entry and on those as well.
Nothing is written before everything is rendered, so a problem anywhere leaves all products as they were;
then each product is a task that is done, and stays done if the run is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from i12e import paths as places
from i12e.errors import Problem, UserError
from i12e.files import Files, private_folder
from i12e.paths import Paths
from i12e.state import State

if TYPE_CHECKING:
    from i12e.model import Cluster, Fleet, Host, Release
    from i12e.render import Rendered, Renderer
    from i12e.secrets import Vault

# The folders whose files many hosts share: their states are kept as one digest for each distinct set.
_SHARED = ("templates", "secrets/", "lib/", "requirements.lock")

SPOOL = 1 << 26
HOST, RELEASE = "host", "release"
TASKS = {HOST: "render", RELEASE: "helm_values"}
"""By the kind of a product, the task that makes all of them; TASK:NAME makes one."""

_Thing = TypeVar("_Thing")


class Progress(Protocol):
    """Goes through things one by one, and shows how far it is."""

    def __call__(self, items: Sequence[_Thing], what: str) -> Iterable[_Thing]:
        """Given things and what is done with them, yield them."""
        ...


def _quietly(items: Sequence[_Thing], what: str) -> Iterable[_Thing]:
    return items


class _Spooled(NamedTuple):
    """A product that was rendered: where it is in the spool, its own inputs, and the set that it shares."""

    start: int
    size: int
    own: list[str]
    set_id: str


@dataclass(frozen=True)
class Product:
    """What is made of one host or of one release: its kind, its name, and the path of the file."""

    kind: str
    name: str
    output: str

    @property
    def task(self) -> str:
        """The task that makes it."""
        return f"{TASKS[self.kind]}:{self.name}"


@dataclass
class Request:
    """What the command line asks of a build, and what the engine lends it; `named` are the tasks that it names."""

    wanted: list[Product] = field(default_factory=list)
    named: frozenset[str] = frozenset()
    always: bool = False
    save_set: Callable[[str, list[str]], None] = lambda set_id, inputs: None
    progress: Progress = _quietly
    pause: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within `with pause():` a person may be waited for: the lock is not held. See engine.asking."""


class Told(NamedTuple):
    """One line of what a task did (`result` is "done"), left as it is ("kept") or took away ("removed")."""

    verb: str
    what: str
    remark: str
    result: str
    facts: dict[str, Any]
    """What a document says beside the line."""
    text: str | None = None
    """What a person is told instead of the line."""


class Build:
    """The build of one environment, for the length of one process."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.files = Files(paths.root)
        self.state = State(paths.root / paths.state, self.files)
        self.hosts = places.host_names(paths)
        self.products = [Product(HOST, host, paths.config(host)) for host in self.hosts]
        self.with_values = places.values_names(paths.root)
        self.products += [Product(RELEASE, name, paths.values(name)) for name in self.with_values]
        self._sets_folder = paths.inputs("")
        self.request = Request()
        self.mutex = threading.RLock()  # with -n, actions run in threads; files and state are one for all
        self.same: set[str] = set()
        self.unused: set[str] = set()
        self.removed: list[Product] = []
        self.told: list[Told] = []
        self.touched = False  # whether anything was done to a host
        self.notes: list[str] = []
        self.said: dict[str, str] = {}  # what a task found that is asked for a text, by its name
        self._fleet: Fleet | None = None
        self._of_all: Cluster | None = None
        self._renderer: Renderer | None = None
        self._vault: Vault | None = None
        self._rendered: dict[Product, _Spooled] = {}
        self._shared: dict[str, list[str]] = {}  # by the id of a set of inputs, the set
        self._spool: IO[bytes] | None = None

    def tell(
        self,
        verb: str,
        what: str,
        remark: str = "",
        result: str = "done",
        facts: dict[str, Any] | None = None,
        text: str | None = None,
    ) -> None:
        """Given a verb, its thing and a remark, have the line told when the task ends, or `text` instead of it."""
        self.told.append(Told(verb, what, remark, result, facts or {}, text))

    def note(self, text: str) -> None:
        """Given a text that the user should know, have it told at the end of the run."""
        self.notes.append(text)

    # --- what tasks depend on, told without reading any file

    def model_inputs(self) -> list[str]:
        """Return the inputs of the model: the folder of the hosts, their files, the names of values, the code."""
        code = ("errors", "fields", "model", "paths", "rules", "settings", "yamlfile")
        files = [
            self.paths.hosts,
            self.paths.cluster_file,
            *(self.paths.host_file(host) for host in self.hosts),
            *places.VALUES,
        ]
        return [*files, *(f"lib/i12e/{name}.py" for name in code)]

    def model_outputs(self) -> list[str]:
        """Return what the model always writes."""
        return [self.paths.servers, self.paths.cluster, self.paths.manifests]

    def inputs(self, product: Product) -> list[str] | None:
        """Given a product, return the inputs that it had when it was last made, or None.

        None too if what is known of its set is gone: a digest that nobody brings up to date proves nothing.
        """
        found = self.recorded(product.task)
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

    def is_current(self, product: Product) -> bool:
        """Given a product, tell whether it is there as it was made and none of its inputs has changed.

        It says what doit would, in a tenth of the time.
        """
        inputs = self.inputs(product)
        same = bool(inputs) and not self._changed(product.task, inputs)
        return same and self.files.is_output(product.output)

    def is_unused(self, product: Product) -> bool:
        """Given a product, tell whether it is the values of no release of this cluster, as the model was last read."""
        return product.kind == RELEASE and product.name not in self._last_model("releases")

    def changed(self, product: Product) -> list[str]:
        """Given a product, return which of its inputs have changed since it was made, down to those of its set."""
        found: list[str] = []
        for path in self.inputs(product) or ():
            if path.startswith(self._sets_folder):
                task = f"_inputs:{path.removeprefix(self._sets_folder)}"
                found += self._changed(task, self.recorded(task))
            elif self._is_of_cluster(path):
                found += self._changed("_model", [self.paths.cluster_file])
            else:
                found += self._changed(product.task, [path])
        return sorted(set(found))

    def _is_of_cluster(self, path: str) -> bool:
        """Given an input, tell whether it is a part of the cluster's file, as the model wrote it."""
        return path in (self.paths.cluster, self.paths.manifests) or path.startswith(self.paths.release("")[:-5])

    def _changed(self, task: str, inputs: Iterable[str] | None) -> list[str]:
        record, state = self.state.record(task), self.files.state
        return [path for path in inputs or () if record.get(path) != state(path)]

    # --- the actions

    def check_model(self) -> dict[str, Any]:
        """Read and check all hosts; raise UserError with every problem, also those of secrets and templates.

        Return the warnings and the releases, for the runs that find everything as it was.
        """
        fleet = self._load(self.hosts)
        problems = [*self._strays(), *fleet.problems]
        if problems:
            raise UserError([*problems, *self._other_problems(fleet)])
        self._fleet = fleet
        releases = self._cluster().helm
        self._write_model(releases)
        return {"warnings": [str(problem) for problem in fleet.warnings], "releases": sorted(releases)}

    def digest_inputs(self, set_id: str, inputs: Iterable[str]) -> None:
        """Given a set's id and its inputs, write their digest."""
        states = "".join(f"{self.files.state(path)} {path}\n" for path in sorted(inputs))
        self.files.write(self.paths.inputs(set_id), f"{hashlib.sha256(states.encode()).hexdigest()}\n".encode())

    def prepare(self) -> None:
        """Render all wanted products that are out of date into memory; raise UserError with all problems of all."""
        stale = [product for product in self.request.wanted if self.request.always or not self.is_current(product)]
        if stale:
            self._render_all(stale)

    def place(self, product: Product) -> list[str]:
        """Given a product, put it as it was rendered into its place and return the task's inputs.

        Of a release that is none of this cluster nothing is made.
        """
        with self.mutex:
            if product.kind == RELEASE and product.name not in self._cluster().helm:
                return self._not_a_release(product)
            if product not in self._rendered:  # an input was edited after prepare() had found it as it was
                self._render_all([product])
            made = self._rendered[product]
            spool = self._spool_file()
            spool.seek(made.start)
            if not self.files.write(product.output, spool.read(made.size)):
                self.same.add(product.task)
        return [*made.own, self.paths.inputs(made.set_id)]

    def show(self, host: str, ignition: bool, reveal: bool) -> str:
        """Given a host, return the Butane text that its template gives, or its Ignition config with contents decoded.

        Secrets are named and not shown unless `reveal`. Raise UserError with all problems; write nothing.
        """
        self._fleet = fleet = self._checked_fleet()
        renderer = self._rendering() if reveal else self._masking()
        if not ignition:
            return renderer.text(fleet.hosts[host])
        config = renderer.render(fleet.hosts[host]).content
        return self._readable(config, self._rendering().render(fleet.hosts[host]).content)

    def masked(self, host: str) -> bytes:
        """Given a host, return its config as it is rendered now, with masks for the values of secrets."""
        return self._masking().render(self._checked_fleet().hosts[host]).content

    def redact(self, text: str) -> str:
        """Given a text, return it with every secret value masked that was read in this run."""
        return self._secrets().redact(text)

    def rendered_all(self) -> Iterator[tuple[Host, bytes]]:
        """Yield all hosts with their configs as they are rendered now; write nothing.

        Raise UserError with all problems.
        """
        self._fleet = fleet = self._checked_fleet()
        for host in self.request.progress(list(fleet.hosts.values()), "rendering"):
            yield host, self._rendering().render(host).content

    def rendered(self, host: str) -> tuple[Host, bytes]:
        """Given a host, return its model and its config as it is rendered now; write nothing.

        Raise UserError with all problems.
        """
        self._fleet = fleet = self._checked_fleet()
        return fleet.hosts[host], self._rendering().render(fleet.hosts[host]).content

    def spark(self, host: str) -> dict[str, Any]:
        """Given a host, return the config of its spark, as render.Renderer.spark() has it; raise UserError."""
        self._fleet = fleet = self._checked_fleet()
        return self._rendering().spark(fleet.hosts[host])

    def remove_orphans(self, kind: str) -> None:
        """Given a kind, remove outputs and state of products that are no more, and digests of sets that none uses."""
        known = {product.name for product in self.products if product.kind == kind and not self.is_unused(product)}
        prefix = f"{TASKS[kind]}:"
        records = {name.removeprefix(prefix) for name in self.state.tasks() if name.startswith(prefix)}
        for name in sorted((self._there(kind) | records) - known, key=places.natural):
            gone = Product(kind, name, self.paths.config(name) if kind == HOST else self.paths.values(name))
            made = kind == HOST or (self.paths.root / gone.output).exists()
            self.clean(gone)
            self.state.remove(gone.task)
            self.removed += [gone] if made else []
            if kind == RELEASE:
                (self.paths.root / self.paths.release(name)).unlink(missing_ok=True)
                self.state.drop_paths([self.paths.release(name)])
        if self._rendered or self.removed:
            self._remove_sets()

    def clean(self, product: Product) -> None:
        """Given a product, remove its outputs."""
        import shutil

        if product.kind == HOST:
            shutil.rmtree((self.paths.root / product.output).parent, ignore_errors=True)
            shutil.rmtree(self.paths.root / self.paths.install(product.name), ignore_errors=True)
        (self.paths.root / product.output).unlink(missing_ok=True)
        self.state.drop_paths([product.output])

    def close(self) -> None:
        """Forget what was rendered."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._rendered.clear()
        self._shared.clear()

    def checked_hosts(self) -> list[Host]:
        """Return the models of all hosts, read anew; raise UserError if anything is wrong with one."""
        return list(self._checked_fleet().hosts.values())

    def cluster(self) -> Cluster:
        """Return the cluster's model, read anew; raise UserError if anything is wrong with it or with a host."""
        found = self._checked_fleet().cluster
        assert found is not None  # noqa: S101  # without one there are problems
        return found

    def group(self, name: str) -> Mapping[str, Any]:
        """Given the name of a secret file, return its secrets, none where there is no such file; raise UserError."""
        from i12e.secrets import NoSuchFile

        try:
            return self._secrets().group(name)
        except NoSuchFile:
            return {}

    def warnings(self) -> list[str]:
        """Return the warnings of the model as it was last read."""
        return self._last_model("warnings")

    def _last_model(self, key: str) -> list[str]:
        values = self.state.get("_model", "_values_:") or {}
        return list(values.get(key, ()))

    def explain(self, task: str) -> list[str]:
        """Given a task's name, return all its recorded inputs, those of its set among them."""
        found: list[str] = []
        for path in self.recorded(task) or ():
            folder, _, set_id = path.rpartition("/")
            whole = self.paths.cluster_file if self._is_of_cluster(path) else path
            found.extend((self.recorded(f"_inputs:{set_id}") or ()) if folder.endswith("/inputs") else [whole])
        return sorted(set(found))

    # --- how

    def _load(self, names: Sequence[str]) -> Fleet:
        from i12e.model import load_fleet

        return load_fleet(self.paths.hosts, self.paths.env, list(names), self.files.read, self.with_values)

    def _checked_fleet(self) -> Fleet:
        fleet = self._load(self.hosts)
        problems = [*self._strays(), *fleet.problems]
        if problems:
            raise UserError(problems)
        return fleet

    def _cluster(self) -> Cluster:
        """Return the cluster's model; the model as a whole was found right before."""
        if self._of_all is None:
            fleet = self._fleet or self._load(())
            if fleet.cluster is None:
                raise UserError(fleet.problems)
            self._of_all = fleet.cluster
        return self._of_all

    def _write_model(self, releases: Mapping[str, Release]) -> None:
        """Write what products may know of the model, each part a file: who depends on it is made again with it."""
        from i12e import yamlfile

        text = self.files.read(self.paths.cluster_file).decode()
        by_k3s = sorted(name for name, release in releases.items() if release.manifest or release.packaged)
        self.files.write(self.paths.servers, _json(self._servers()))
        for section in ("helm", "backup", "dns"):  # no input of any host
            text = yamlfile.without(text, section)
        text += f"# hosts join by {name}\n" if (name := self._cluster().join_name) else ""  # all that they have of dns
        self.files.write(self.paths.cluster, text.encode())
        self.files.write(self.paths.manifests, _json(by_k3s))
        for name, release in releases.items():
            self.files.write(self.paths.release(name), _json(release.model_dump()))

    def _models(self, names: Sequence[str]) -> dict[str, Host]:
        """Given names of hosts, return their models; the model as a whole was found right before."""
        if self._fleet is None:
            fleet = self._load(names)
            if any(name not in fleet.hosts for name in names):
                raise UserError(fleet.problems)
            return fleet.hosts
        return self._fleet.hosts

    def _render_all(self, products: Sequence[Product]) -> None:
        hosts = self._models([product.name for product in products if product.kind == HOST])
        releases = self._cluster().helm  # read now: what is read while a product is rendered is its input
        met: list[tuple[str, Problem]] = []
        there = [product for product in products if product.kind == HOST or product.name in releases]
        for product in self.request.progress(there, "rendering"):
            try:
                self._render(product, hosts)
            except UserError as error:
                met.extend((product.name, problem) for problem in error.problems)
        if met:
            raise UserError([*_merge(met), *self._vault_problems()])
        for set_id, inputs in self._shared.items():
            self.digest_inputs(set_id, inputs)
            self.request.save_set(set_id, inputs)

    def _render(self, product: Product, hosts: Mapping[str, Host]) -> None:
        rendered = self._made(product.kind, product.name, hosts)
        spool = self._spool_file()
        start = spool.seek(0, os.SEEK_END)
        spool.write(rendered.content)
        shared, own = _parted(rendered.inputs)
        set_id = _set_id(shared)
        self._shared[set_id] = shared
        self._rendered[product] = _Spooled(start, len(rendered.content), own, set_id)

    def _made(self, kind: str, name: str, hosts: Mapping[str, Host]) -> Rendered:
        renderer = self._rendering()
        return renderer.render(hosts[name]) if kind == HOST else renderer.render_values(name)

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

            self._renderer = Renderer(self.paths, self.files, self._secrets(), self._servers, self._cluster)
        return self._renderer

    def _masking(self) -> Renderer:
        from i12e.render import Renderer
        from i12e.secrets import Masked

        vault = Masked(self._secrets(), self.paths, self.files)
        return Renderer(self.paths, self.files, vault, self._servers, self._cluster)

    def _readable(self, shown: bytes, real: bytes) -> str:
        """Given a config to show, perhaps with secrets masked, and the real one, return a text with the real digest."""
        from i12e import render

        config = json.loads(shown)
        text = json.dumps(render.readable(config), indent=2, ensure_ascii=False)
        return text.replace(render.digest_in(config), render.digest_in(json.loads(real))) + "\n"

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

    def _not_a_release(self, product: Product) -> list[str]:
        """Given the values of no release of this cluster, return the task's inputs; raise UserError if it was named."""
        if product.task in self.request.named:
            remedy = "write it below helm:"
            raise UserError(Problem(self.paths.cluster_file, None, None, f"has no release {product.name}", remedy))
        self.unused.add(product.task)
        return [self.paths.cluster_file]

    def _there(self, kind: str) -> set[str]:
        """Return the names of the products of a kind whose outputs are there."""
        folder = self.paths.root / self.paths.build / ("hosts" if kind == HOST else "helm")
        found = list(folder.iterdir()) if folder.is_dir() else []
        if kind == HOST:
            return {path.name for path in found if path.is_dir()}
        return {path.name.removesuffix(".yaml") for path in found if path.name.endswith(".yaml")}

    def _strays(self) -> list[Problem]:
        if not (self.paths.root / self.paths.hosts).is_dir():
            return []
        return places.strays(self.paths)

    def _other_problems(self, fleet: Fleet) -> list[Problem]:
        """Given hosts that have problems, return also those of the secrets and of the templates."""
        self._fleet = fleet
        met: list[tuple[str, Problem]] = []
        releases = fleet.cluster.helm if fleet.cluster else {}
        for kind, name in (*((HOST, name) for name in fleet.hosts), *((RELEASE, name) for name in releases)):
            try:
                self._made(kind, name, fleet.hosts)
            except UserError as error:
                met.extend((name, problem) for problem in error.problems)
        return [*_merge(met), *self._vault_problems(), *self._rendering().templates.syntax_problems()]

    def _vault_problems(self) -> list[Problem]:
        return self._secrets().problems()

    def _remove_sets(self) -> None:
        start = len(self._sets_folder)
        recorded = (path for product in self.products for path in self.recorded(product.task) or ())
        used = {path[start:] for path in recorded if path.startswith(self._sets_folder)}
        used |= {made.set_id for made in self._rendered.values()}  # of what is still to be put into its place
        for set_id in self.sets():
            if set_id not in used:
                self.state.remove(f"_inputs:{set_id}")
                (self.paths.root / self.paths.inputs(set_id)).unlink(missing_ok=True)
                self.state.drop_paths([self.paths.inputs(set_id)])


def _parted(inputs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Given inputs, return those that many products share, and the others, each sorted."""
    parts: tuple[list[str], list[str]] = ([], [])
    for path in sorted(inputs):
        parts[not path.startswith(_SHARED)].append(path)
    return parts


def _set_id(inputs: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def _merge(met: list[tuple[str, Problem]]) -> tuple[Problem, ...]:
    from i12e.render import merge_problems

    return merge_problems(met)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, default=str) + "\n").encode()

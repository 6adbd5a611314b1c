"""Where things are: the environment's hosts, secrets, templates and outputs.

All paths are relative to the checkout, so that a state that was saved survives its being moved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from i12e.errors import Problem, UserError, did_you_mean

CLUSTER_FILE = "cluster.yaml"
DEFAULT = "default"
EXAMPLE = "example"
LAB = "lab"
LAB_MACHINES = "build/lab/machines"
"""The folder of the lab's hosts and of its keys (./doit lab_up)."""
SCHEMAS = "docs/schema"
"""The JSON Schemas of cluster and host files: cluster.json and host.json."""
VALUES = ("templates/helm", "templates/local/helm")
_VALUES_END = ".yaml.j2"
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
NOT_ENVIRONMENTS = frozenset({DEFAULT, "files", "butane", "helm", "local"})


@dataclass(frozen=True)
class Paths:
    """The places of one environment of one checkout; all but `root` are relative to `root`."""

    root: Path
    env: str

    @property
    def hosts(self) -> str:
        """Folder of cluster.yaml and the hosts' files."""
        return "hosts" if self.env == DEFAULT else f"hosts/{self.env}"

    @property
    def secrets(self) -> str:
        """Folder of the sops files."""
        return "secrets" if self.env == DEFAULT else f"secrets/{self.env}"

    @property
    def build(self) -> str:
        """Folder of everything that is made here; may be deleted at any time."""
        return f"build/{self.env}"

    @property
    def is_example(self) -> bool:
        """Whether this is one of the environments that come with i12e, whose secrets are public."""
        return self.env == EXAMPLE or self.env.startswith(f"{EXAMPLE}-")

    @property
    def state(self) -> str:
        """The database of what was done; a cache."""
        return f"{self.build}/state.db"

    @property
    def lock(self) -> str:
        """The file that the one writing run holds."""
        return f"{self.build}/lock"

    @property
    def servers(self) -> str:
        """What hosts may know of the servers; written when hosts or cluster change."""
        return f"{self.build}/servers.json"

    @property
    def cluster_file(self) -> str:
        """The cluster's file."""
        return f"{self.hosts}/{CLUSTER_FILE}"

    @property
    def artifacts(self) -> str:
        """What hosts may fetch, with hashes: the lock file of `./doit lock`."""
        return f"{self.hosts}/artifacts.lock"

    @property
    def machines(self) -> str:
        """The machine ids that the hosts are known by."""
        return f"{self.hosts}/machines.lock"

    def host_file(self, host: str) -> str:
        """Given a host's name, return its file."""
        return f"{self.hosts}/{host}.yaml"

    def config(self, host: str) -> str:
        """Given a host's name, return where its Ignition config goes."""
        return f"{self.build}/hosts/{host}/config.ign"

    def install(self, host: str) -> str:
        """Given a host's name, return the folder of what its first install needs."""
        return f"{self.build}/install/{host}"

    def log(self, host: str) -> str:
        """Given a host's name, return the log of what was done to it."""
        return f"{self.build}/logs/{host}.log"

    def modeline(self, kind: str) -> str:
        """Given `cluster` or `host`, return the first line of such a file: where an editor finds its JSON Schema."""
        return f"# yaml-language-server: $schema={os.path.relpath(SCHEMAS, self.hosts)}/{kind}.json"

    def values(self, release: str) -> str:
        """Given a release's name, return where its Helm values go."""
        return f"{self.build}/helm/{release}.yaml"

    @property
    def cluster(self) -> str:
        """The cluster's file without its releases; written when that changes, so that a release changes no host."""
        return f"{self.build}/cluster.yaml"

    @property
    def manifests(self) -> str:
        """The releases that servers hand to k3s; written when one of them changes."""
        return f"{self.build}/manifests.json"

    def release(self, name: str) -> str:
        """Given a release's name, return what the cluster's file says of it; written when that changes."""
        return f"{self.build}/releases/{name}.json"

    def inputs(self, set_id: str) -> str:
        """Given the id of a set of inputs, return its digest file."""
        return f"{self.build}/inputs/{set_id}"


def find(root: Path, environ: Mapping[str, str], new: bool = False) -> Paths:
    """Given a checkout and the process's environment, return the paths of the environment in use.

    I12E_ENV names it; without one it is the user's own cluster (hosts/cluster.yaml), or the example
    while there is none. With `new` it is one of the user's, which need not be there yet.
    Raise UserError if there is no such environment, or if none of that name can be made.
    """
    name = environ.get("I12E_ENV", "")
    if new:
        return _new(root, name or DEFAULT)
    own = (root / "hosts" / CLUSTER_FILE).exists()
    if not name:
        return Paths(root, DEFAULT if own else EXAMPLE)
    known = environments(root)
    if name not in known:
        raise UserError(Problem("", None, None, f'I12E_ENV="{name}": no such environment', _remedy(name, known)))
    return Paths(root, name)


def _new(root: Path, name: str) -> Paths:
    paths = Paths(root, name)
    told = f'I12E_ENV="{name}"'
    if paths.is_example:
        remedy = "leave I12E_ENV out for your own cluster, or give another name"
        raise UserError(Problem("", None, None, f"{told}: is i12e's own example", remedy))
    if name != DEFAULT and (name in NOT_ENVIRONMENTS | {"lab", "cluster"} or not _NAME.fullmatch(name)):
        remedy = "a-z, 0-9 and - inside, like prod"
        raise UserError(Problem("", None, None, f"{told}: cannot be an environment's name", remedy))
    return paths


def environments(root: Path) -> list[str]:
    """Given a checkout, return the names of its environments, sorted."""
    found = [entry.name for entry in _folders(root / "hosts") if (entry / CLUSTER_FILE).exists()]
    own = [DEFAULT] if (root / "hosts" / CLUSTER_FILE).exists() else []
    return sorted(own + [name for name in found if name not in NOT_ENVIRONMENTS])


def _folders(place: Path) -> list[Path]:
    return [entry for entry in place.iterdir() if entry.is_dir()] if place.is_dir() else []


def _remedy(name: str, known: list[str]) -> str:
    if name == LAB:
        return "without I12E_ENV, ./doit lab_up makes it"
    there = f"there are {', '.join(known)}" if known else "there is none: hosts/ has no cluster.yaml"
    return did_you_mean(name, known) or there


def shown(path: Path) -> str:
    """Given a path, return it as a person says it, from the home folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


_PARTS = re.compile(r"\d+|\D+")


def natural(name: str) -> list[tuple[int, int, str]]:
    """Given a name, return a key by which server-2 sorts before server-10; no two names have the same."""
    parts = _PARTS.findall(name)
    return [*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (-1, 0, name)]


def host_names(paths: Paths) -> list[str]:
    """Given an environment, return the names of its hosts in natural order; reads no file."""
    try:
        entries = os.listdir(paths.root / paths.hosts)
    except FileNotFoundError:
        return []
    files = [name for name in entries if name.endswith(".yaml") and not name.startswith(".")]
    return sorted((name[:-5] for name in files if name != CLUSTER_FILE), key=natural)


def values_names(root: Path) -> list[str]:
    """Given a checkout, return the names that have a template of Helm values, sorted; reads no file."""
    entries = [entry for folder in VALUES for entry in _names(root / folder)]
    files = {name for name in entries if name.endswith(_VALUES_END) and not name.startswith(".")}
    return sorted((name.removesuffix(_VALUES_END) for name in files), key=natural)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def secret_names(paths: Paths) -> list[str]:
    """Given an environment, return the names of its secret files, without their endings; reads no file."""
    folder = paths.root / paths.secrets
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name[:-5] for name in names if name.endswith(".yaml") and not name.startswith("."))


def strays(paths: Paths) -> list[Problem]:
    """Given an environment, return a problem for each file that looks like a host's but is not read as one."""
    entries = sorted(os.listdir(paths.root / paths.hosts))
    wrong = [name for name in entries if name.endswith((".yml", ".YAML", ".YML", ".json"))]
    return [
        Problem(
            f"{paths.hosts}/{name}",
            None,
            None,
            "is not read: a host's file ends in .yaml",
            "rename it",
        )
        for name in wrong
    ]

"""The cluster and its hosts, as the files under hosts/ describe them.

`load_fleet` reads all files and tells all their problems at once. A host's settings are the cluster's,
with its own merged into them: mappings key by key, everything else replaces. Of the cluster's k3s.config,
an agent has what agents know.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from i12e import fields, rules, yamlfile
from i12e.errors import Problem, ordered
from i12e.fields import RESERVED, Fault, Loc
from i12e.paths import natural
from i12e.settings import OWN, SHARED, Cluster, Host, Release, check, unknown_key

__all__ = ["RESERVED", "Cluster", "Fleet", "Host", "Release", "load_fleet", "servers"]

Read = Callable[[str], bytes]

# what stands in for a value that is missing or wrong, so that the rest can be checked all the same
_STAND_INS: dict[Loc, Any] = {
    ("name",): "unknown",
    ("k3s",): {},
    ("k3s", "version"): "v1.37.1+k3s1",
    ("api",): {},
    ("api", "name"): "unknown.invalid",
    ("ssh_keys",): ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
    ("role",): "agent",
    ("addresses",): ["198.51.100.254"],
}
_OF_CLUSTER = ("helm", "backup", "dns")
"""Sections that only the cluster's file has."""
_MISSING = object()
_REQUIRED = (("name",), ("k3s",), ("k3s", "version"), ("api",), ("api", "name"), ("ssh_keys",))


@dataclass
class Fleet:
    """All that an environment's files say."""

    cluster: Cluster | None
    """None if the cluster's file is missing, or lacks what no host can do without."""
    hosts: dict[str, Host] = field(default_factory=dict)
    """The hosts without a fault of their own, server-2 before server-10."""
    problems: list[Problem] = field(default_factory=list)
    """Everything that is wrong, by file and place. Unless this is empty, nothing may be made."""
    warnings: list[Problem] = field(default_factory=list)
    """What works, but probably is not meant."""


def servers(hosts: Mapping[str, Host]) -> list[dict[str, Any]]:
    """Return what other hosts may know of the servers: names and addresses, in natural order."""
    chosen = sorted((h for h in hosts.values() if h.role == "server"), key=lambda h: natural(h.name))
    return [{"name": host.name, "addresses": list(host.addresses)} for host in chosen]


@dataclass
class _Source:
    """A file, what was made of it, and what is wrong with it."""

    document: yamlfile.Document
    faults: list[Fault] = field(default_factory=list)

    def problems(self, faults: Iterable[Fault]) -> list[Problem]:
        """Return faults with their places in the file."""
        return [self.problem(fault) for fault in faults]

    def problem(self, fault: Fault) -> Problem:
        """Return a fault with its place in the file; one of no key in particular has none."""
        if not fault.loc:
            return Problem(self.document.file, None, None, fault.rule, fault.remedy)
        place = self.document.place(self._nearest(fault), fault.key)
        if fault.value and fault.value[0] != '"':  # 1.30 and 0644 are told as they are spelt
            spelt = self.document.source(fault.loc) or fault.value
            fault = dataclasses.replace(fault, value=spelt)
        return Problem(self.document.file, *place, fault.message(), fault.remedy)

    def place(self, loc: Loc) -> str:
        """Return file:line of a path."""
        return f"{self.document.file}:{self.document.place(loc)[0]}"

    def _nearest(self, fault: Fault) -> Loc:
        """Return which of the places that a fault was told from this file really has."""
        places = (fault.loc, *fault.needs)
        return next((loc for loc in places if self.document.has(loc)), fault.loc)


@dataclass
class _ClusterFile(_Source):
    cluster: Cluster = field(kw_only=True)
    """With stand-ins for what is wrong."""
    raw: dict[str, Any] = field(default_factory=dict)
    wrong: frozenset[Loc] = frozenset()
    """The paths whose values are not the file's."""
    told: frozenset[tuple[Loc, str]] = frozenset()


@dataclass
class _HostFile(_Source):
    host: Host | None = None
    wrong: frozenset[Loc] = frozenset()


def load_fleet(
    directory: str, env: str, names: Sequence[str], read: Read, values: Collection[str] | None = None
) -> Fleet:
    """Given an environment's directory and its hosts' names, return the fleet with all problems.

    `read` gives a file's bytes by its path; `values` are the names that have a template of Helm values,
    None if that is not to be checked. Raises nothing for a user's mistake.
    """
    cluster = _cluster_file(directory, read)
    files = {name: _host_file(directory, env, name, read, cluster) for name in sorted(names, key=natural)}
    known = {name: file.host for name, file in files.items() if file.host is not None}
    if values is not None:
        lacking = list(rules.without_values(cluster.cluster, values))
        cluster = dataclasses.replace(
            cluster, faults=[*cluster.faults, *lacking]
        )  # the one that is kept stays as it is
    problems, warnings = _tell(cluster)
    for file in files.values():
        found = _tell(file)
        problems += found[0]
        warnings += found[1]
    good = {name: host for name, host in known.items() if not _faulty(files[name])}
    for fault, problem in _between(cluster, files, known):
        (warnings if fault.warning else problems).append(problem)
    usable = _with_good_releases(cluster) if not _unusable(cluster) else None
    return Fleet(usable, good if usable else {}, list(ordered(problems)), list(ordered(warnings)))


def _between(
    cluster: _ClusterFile, files: Mapping[str, _HostFile], known: Mapping[str, Host]
) -> Iterator[tuple[Fault, Problem]]:
    """Yield what is wrong between the files, but for what follows from a fault of one of them."""
    complete = all(file.host and ("role",) not in file.wrong for file in files.values())
    for cross in rules.of_fleet(cluster.cluster, known, complete):
        source: _Source = files[cross.name] if cross.name else cluster
        other: _Source = files[cross.other] if cross.other else cluster
        if _about(cross.fault, source, cluster):
            continue
        if cross.other is not None and _about(Fault(cross.other_loc, ""), other, cluster):
            continue
        rule = cross.fault.rule.replace("{other}", other.place(cross.other_loc))
        fault = dataclasses.replace(cross.fault, rule=rule)
        yield fault, source.problem(fault)


def _faulty(source: _Source) -> bool:
    return bool(source.document.problems) or any(not fault.warning for fault in source.faults)


def _with_good_releases(file: _ClusterFile) -> Cluster:
    """Return the cluster without the releases that have a fault."""
    faulty = {
        fault.loc[1] for fault in file.faults if fault.loc[:1] == ("helm",) and fault.loc[1:] and not fault.warning
    }
    good = {name: release for name, release in file.cluster.helm.items() if name not in faulty}
    return file.cluster.model_copy(update={"helm": good})


def _unusable(cluster: _ClusterFile) -> bool:
    """Return whether the cluster's file lacks what no host can do without."""
    return bool(cluster.document.problems) or any(loc in _REQUIRED for loc in cluster.wrong)


def _tell(source: _Source) -> tuple[list[Problem], list[Problem]]:
    """Return the problems and the warnings of one file."""
    problems = source.problems(fault for fault in source.faults if not fault.warning)
    warnings = source.problems(fault for fault in source.faults if fault.warning)
    return [*source.document.problems, *problems], warnings


def _document(path: str, read: Read, remedy: str) -> yamlfile.Document:
    """Read a file; that it cannot be read is its problem."""
    try:
        return yamlfile.examine(read(path), path)
    except FileNotFoundError:
        reason = "is missing"
    except OSError as error:
        reason, remedy = f"cannot be read: {error.strerror or error}", ""
    document = yamlfile.Document(path, "")
    document.problems = (Problem(path, None, None, reason, remedy),)
    return document


def _cluster_file(directory: str, read: Read) -> _ClusterFile:
    """Read and check the cluster's file; the work is kept while its bytes stay the same."""
    path = f"{directory}/cluster.yaml"
    try:
        return _checked_cluster(path, read(path))
    except OSError:
        example = "hosts/example/cluster.yaml"
        remedy = f"git checkout {path}" if path == example else f"{example} is one to copy"
        return _check_cluster(_document(path, read, remedy))


@functools.lru_cache(maxsize=4)
def _checked_cluster(path: str, text: bytes) -> _ClusterFile:
    return _check_cluster(yamlfile.examine(text, path))


def _check_cluster(document: yamlfile.Document) -> _ClusterFile:
    raw = _without_empty(document.data)
    cluster, faults, wrong, raw = _check_repaired(Cluster, raw)
    if document.problems and not document.data:
        faults = []  # the file could not be read: what is missing in it is no news
    file = _ClusterFile(document, faults, cluster=cluster, raw=raw, wrong=wrong)
    of_cluster = (*rules.of_releases(cluster), *rules.of_backup(cluster), *rules.of_dns(cluster))
    found = (*rules.of_settings(cluster), *of_cluster)
    file.faults += [fault for fault in found if not _hit(fault, wrong)]
    file.told = frozenset((fault.loc, fault.rule) for fault in file.faults)
    return file


def _host_file(directory: str, env: str, name: str, read: Read, cluster: _ClusterFile) -> _HostFile:
    document = _document(f"{directory}/{name}.yaml", read, "")
    file = _HostFile(document, _name_faults(name))
    if document.problems and not document.data:
        return file
    data = _without_empty(document.data)
    faults = [unknown_key(Host, (key,)) for key in OWN if key in data]
    merged = _merged(data, cluster)
    merged.update(name=name, env=env)
    host, found, wrong, _ = _check_repaired(Host, merged)
    file.faults += faults + found
    file.wrong = wrong
    file.host = host
    if data.keys() & SHARED:
        shared = (f for f in rules.of_settings(host) if (f.loc, f.rule) not in cluster.told)
        file.faults += [fault for fault in shared if not _about(fault, file, cluster)]
    file.faults += [fault for fault in rules.of_host(host) if not _about(fault, file, cluster)]
    return file


def _name_faults(name: str) -> list[Fault]:
    """Return what is wrong with a host's name, which is its file's."""
    try:
        fields.label(name)
    except fields.Wrong as wrong:
        remedy = wrong.remedy.replace("write", "rename the file to") + ".yaml" if wrong.remedy else ""
        return [Fault((), f"the host's name {wrong.rule}", remedy)]
    if name in RESERVED:
        return [Fault((), f"the name {name} is i12e's own", "rename the file, it is the host's name")]
    return []


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out sections that have nothing but comments in them: they say nothing."""
    return {key: value for key, value in data.items() if value is not None or key not in (*SHARED, *_OF_CLUSTER)}


def _merged(data: dict[str, Any], cluster: _ClusterFile) -> dict[str, Any]:
    """Return what a host's file says with what it has from the cluster, checked parts as such."""
    merged = {key: value for key, value in data.items() if key not in OWN}
    agent = data.get("role") == "agent"
    for key in SHARED:
        if key not in merged:
            merged[key] = getattr(cluster.cluster, key)
            if agent and key == "k3s":
                merged[key] = merged[key].model_copy(update={"config": _for_agents(merged[key].config)})
        elif isinstance(merged[key], dict):
            base = cluster.raw.get(key)
            if agent and key == "k3s" and isinstance(base, dict) and "config" in base:
                base = base | {"config": _for_agents(base["config"])}
            merged[key] = merge(base, merged[key])
    return merged | {"cluster": cluster.cluster.name, "join_name": cluster.cluster.join_name}


def _for_agents(config: dict[str, Any]) -> dict[str, Any]:
    """Given the cluster's k3s.config, return what of it goes to an agent, which does not start with other flags."""
    return {key: value for key, value in config.items() if rules.known_to_agents(key)}


def merge(base: Any, over: Any) -> Any:
    """Merge mappings key by key; of everything else `over` replaces `base`."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: merge(base.get(key), value) for key, value in over.items()}


def _hit(fault: Fault, wrong: frozenset[Loc]) -> bool:
    """Return whether a fault was told from a value that is not the file's."""
    told_from = [loc for loc in (fault.loc, *fault.needs) if loc]
    return any(loc[: len(bad)] == bad or bad[: len(loc)] == loc for loc in told_from for bad in wrong)


def _about(fault: Fault, source: _Source, cluster: _ClusterFile) -> bool:
    """Return whether a fault only follows from one that was told already."""
    return _hit(fault, getattr(source, "wrong", frozenset()) | cluster.wrong)


def _check_repaired(model: type[Any], data: dict[str, Any]) -> tuple[Any, list[Fault], frozenset[Loc], dict[str, Any]]:
    """Check data; where it is wrong, go on without the wrong values.

    Return an instance, the faults of the data as they were, the paths that were repaired, and the
    data that the instance was made from.
    """
    instance, faults = check(model, data)
    found, wrong = faults, set[Loc]()
    if faults:
        data = copy.deepcopy(data)
    while instance is None:
        for fault in found:
            wrong.add(_repair(data, fault.loc, {} if fault.key else _STAND_INS))
        instance, found = check(model, data)
    return instance, faults, frozenset(wrong), data


def _repair(data: dict[str, Any], loc: Loc, stand_ins: Mapping[Loc, Any]) -> Loc:
    """Take a wrong value out; put a stand-in where one must be, else take out what needs it.

    A wrong entry takes its list with it: the places of the others must stay what they are.
    """
    while isinstance(loc[-1], int):
        loc = loc[:-1]
    parent: Any = data
    for depth, step in enumerate(loc[:-1], start=1):
        if not _holds(parent, step):
            return loc  # an earlier repair took it out
        if not isinstance(parent[step], dict | list):
            return _repair(data, loc[:depth], stand_ins)
        parent = parent[step]
    missing = parent.pop(loc[-1], _MISSING) is _MISSING
    if loc in stand_ins:
        parent[loc[-1]] = copy.deepcopy(stand_ins[loc])
    elif missing and len(loc) > 1:
        return _repair(data, loc[:-1], stand_ins)
    return loc


def _holds(parent: Any, step: str | int) -> bool:
    if isinstance(parent, dict):
        return step in parent
    return isinstance(step, int) and step < len(parent)

"""`status` and `drift`: how hosts and cluster are, from reads side by side, each with a short limit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from i12e import backup_list, drift, fleet, remote, screen
from i12e.build import Build
from i12e.deploy import Situation, Wanted
from i12e.errors import Changes, Problem, UserError
from i12e.facts import Facts, HostFacts, Silent
from i12e.settings import Cluster


def run(build: Build) -> None:
    """Tell how the hosts and the cluster are."""
    hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
    try:
        now = fleet.situation(hosts, list(hosts.wanted), whole=False)
    finally:
        hosts.close()
    cluster = build.cluster()
    shelves = backup_list.look(build, cluster) if cluster.backup.recipients else []
    told = [*lines(now), *_backups(cluster, shelves)]
    facts = {"hosts": as_json(now), "stores": [backup_list.as_json(shelf) for shelf in shelves]}
    build.tell("STATUS", _title(now), "", "told", facts, "".join(f"{line}\n" for line in told))
    problems = [problem for shelf in shelves for problem in shelf.problems]
    if problems:
        raise UserError(problems)


def _backups(cluster: Cluster, shelves: Sequence[backup_list.Shelf]) -> Iterator[str]:
    yield ""
    if not cluster.backup.recipients:
        yield "backups: none, nobody could open them: ./doit backup_keys makes a key"
        return
    yield "backups:"
    for line in backup_list.heads(cluster, shelves):
        yield f"  {line}"


def find_drift(build: Build, host: str | None) -> None:
    """Given a host (None: all), tell what on it is not as the config that it runs; raise Changes if anything is."""
    wanted = fleet.wanted_hosts(build)
    hosts = fleet.Hosts(build, wanted)
    targets = [host] if host else list(wanted)
    try:
        found = hosts.ask_all(targets, targets)
        with ThreadPoolExecutor(8) as pool:
            drifts = list(pool.map(lambda name: _drift(build, hosts, name, found[name]), targets))
    finally:
        hosts.close()
    problems = [made for made in drifts if isinstance(made, Problem)]
    for name, made in zip(targets, drifts, strict=True):
        if not isinstance(made, Problem):
            told = [f"{name}: {'as its config says' if not made else screen.count(len(made), 'difference')}"]
            text = "".join(f"{line}\n" for line in [*told, *(f"    {line}" for line in drift.text(made))])
            build.tell("DRIFT", name, "", "told", {"drift": drift.as_json(made)}, text)
    if problems:
        raise UserError(problems)
    if any(not each.unknown for made in drifts if not isinstance(made, Problem) for each in made):
        raise Changes


def _drift(build: Build, hosts: fleet.Hosts, name: str, found: Facts) -> list[drift.Difference] | Problem:
    if isinstance(found, Silent):
        return Problem("", None, None, f"{name}: it cannot be reached: {found.why}", found.remedy)
    if found.identity is None:
        return Problem("", None, None, f"{name}: it is bare: there is nothing to compare", f"doit os_deploy:{name}")
    config = json.loads(found.config or hosts.wanted[name].config)
    try:
        done = hosts[name].run(drift.script(config), limit=120)
    except remote.Unreachable as error:
        return error.problem()
    try:
        return drift.compare(config, done.output, build.redact)
    except UserError as error:
        return error.problems[0]


def _title(now: Situation) -> str:
    voters = now.view.voters()
    healthy = [name for name in voters if now.view.healthy(name)]
    up = len(now.view.answering())
    etcd = f", etcd {len(healthy)} of {len(voters)} healthy" if voters else ""
    return f"{up} of {len(now.servers)} servers answer{etcd}"


def lines(now: Situation) -> Iterator[str]:
    """Given the situation, yield the table."""
    rows: list[tuple[str, ...]] = [("HOST", "ROLE", "CONFIG", "K3S", "NODE", "ETCD", "OS", "REMARK")]
    rows += [_row(wanted, now.view.facts[name], now) for name, wanted in now.wanted.items()]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(wanted: Wanted, found: Facts, now: Situation) -> tuple[str, ...]:
    role = wanted.host.role
    node = now.view.nodes.get(wanted.name)
    ready = "-" if node is None else "ready" if node.ready else "not ready"
    if node is not None and node.cordoned:
        ready += ", cordoned"
    if isinstance(found, Silent):
        return (wanted.name, role, "?", "?", ready, "?", "?", found.why)
    config = "bare" if found.identity is None else "current" if found.digest == wanted.digest else "outdated"
    if config == "current" and found.proven != wanted.digest:
        config = "unproven"
    etcd = "-" if node is None or node.voter is None else "member" if node.voter else "learner"
    if found.etcd_healthy is False:
        etcd += ", unhealthy"
    return (
        wanted.name,
        role,
        config,
        f"{found.version} {found.active}".strip() or "-",
        ready,
        etcd,
        f"{found.os} {found.os_version}",
        _remark(found),
    )


def _remark(found: HostFacts) -> str:
    if found.hold is not None:
        return f"held: {found.hold}"
    if found.staged:
        return "a reset waits for the next boot"
    if found.intent is not None:
        return f"a deployment by {found.intent.get('operator')} has not ended"
    return found.last if found.active in ("failed", "activating") else ""


def as_json(now: Situation) -> list[Mapping[str, Any]]:
    """Given the situation, return what a JSON document says of each host."""
    return [_host_json(wanted, now.view.facts[name], now) for name, wanted in now.wanted.items()]


def _host_json(wanted: Wanted, found: Facts, now: Situation) -> Mapping[str, Any]:
    node = now.view.nodes.get(wanted.name)
    base = {
        "host": wanted.name,
        "role": wanted.host.role,
        "wanted": wanted.digest,
        "node_ready": node.ready if node else None,
        "cordoned": node.cordoned if node else None,
        "etcd_voter": node.voter if node else None,
    }
    if isinstance(found, Silent):
        return {**base, "reachable": False, "why": found.why}
    return {
        **base,
        "reachable": True,
        "digest": found.digest or None,
        "proven": found.proven or None,
        "boot_id": found.boot_id,
        "machine_id": found.machine_id,
        "os": found.os,
        "os_version": found.os_version,
        "k3s": found.version or None,
        "k3s_state": found.active or None,
        "etcd_healthy": found.etcd_healthy,
        "datastore": found.datastore or None,
        "held": found.hold,
        "staged": found.staged or None,
        "free_kb": found.free,
    }

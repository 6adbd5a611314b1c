"""`plan`: what os_deploy would do, told for a person and as JSON; it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from i12e import deploy
from i12e.build import Build
from i12e.deploy import NOTHING, HostPlan, Situation
from i12e.facts import HostFacts

_WORDS = {
    deploy.NOTHING: "nothing to do",
    deploy.PROVE: "prove",
    deploy.FOUND: "found the cluster",
    deploy.REBOOT: "reboot",
    deploy.RESET: "reset and reboot",
    deploy.INSTALL: "first install",
    deploy.REFUSE: "refused",
}


def tell(build: Build, now: Situation, targets: Sequence[str]) -> bool:
    """Given the situation and the targets, tell what would be done to each; return whether that is anything."""
    todo = [deploy.plan(name, now) for name in deploy.order(now, targets)]
    for plan in todo:
        told = {"plan": {**as_json(plan), "changes": _changes_json(build, plan, now)}}
        text = "".join(f"{line}\n" for line in lines(build, [plan], now))
        build.tell("PLAN", plan.name, _WORDS[plan.action], "planned", told, text)
    return any(plan.action != NOTHING for plan in todo)


def lines(build: Build, plans: Sequence[HostPlan], now: Situation) -> Iterator[str]:
    """Given plans, yield the lines that tell a person what they do to each host."""
    for plan in plans:
        yield f"{plan.name}: {_WORDS[plan.action]}: {plan.why}" + (f" ({plan.remedy})" if plan.remedy else "")
        if plan.founds:
            yield f"    founds a NEW, EMPTY cluster {now.wanted[plan.name].host.cluster}: no server of it has data"
        if plan.forgets:
            yield "    the cluster's node of this name is deleted first: its machine is no more"
        if plan.resets:
            yield from _reset_lines(build, plan, now)


def _reset_lines(build: Build, plan: HostPlan, now: Situation) -> Iterator[str]:
    if plan.after_backup:
        yield "    a backup of the cluster is taken first, unless a good one is fresh"
    if plan.downtime:
        yield "    the API is away meanwhile: no other server answers"
    if plan.leaves:
        yield f"    {plan.leaves.name} is without it first, and for its TTL, {plan.leaves.ttl} s, that is waited for"
    if plan.drains:
        yield "    its pods are moved to other hosts first"
    yield f"    keeps    {', '.join(plan.keeps)}, the machine id"
    if plan.datastore:
        yield f"    keeps    the {plan.datastore} datastore in /var/lib/rancher/k3s/server/db"
    for kept in plan.aside:
        yield f"    keeps    what a restore set aside in {kept}"
    for volume in plan.volumes:
        yield f"    keeps    volume {volume}"
    for gone in plan.deletes:
        yield f"    deletes  {gone}"
    yield from (f"    {line}" for line in _changes(build, plan, now))


def _differences(build: Build, plan: HostPlan, now: Situation) -> list[Any]:
    from i12e import changes

    found = now.view.facts[plan.name]
    if not plan.resets or not isinstance(found, HostFacts) or found.config is None or not found.identity:
        return []
    try:
        old = json.loads(found.config)
    except ValueError:
        return []
    new = json.loads(now.wanted[plan.name].config)
    return list(changes.between(old, new, json.loads(build.masked(plan.name)), build.redact))


def _changes(build: Build, plan: HostPlan, now: Situation) -> list[str]:
    from i12e import changes

    return changes.text(_differences(build, plan, now))


def _changes_json(build: Build, plan: HostPlan, now: Situation) -> Any:
    from i12e import changes

    return changes.as_json(_differences(build, plan, now))


def as_json(plan: HostPlan) -> Mapping[str, Any]:
    """Given a plan, return what a JSON document says of it."""
    return {
        "action": plan.action,
        "why": plan.why,
        "remedy": plan.remedy,
        "founds_cluster": plan.founds,
        "deletes_old_node": plan.forgets,
        "drains": plan.drains,
        "api_away": plan.downtime,
        "after_backup": plan.after_backup,
        "leaves": {"name": plan.leaves.name, "ttl": plan.leaves.ttl} if plan.leaves else None,
        "keeps": list(plan.keeps),
        "deletes": list(plan.deletes),
        "datastore": plan.datastore or None,
        "volumes": list(plan.volumes),
        "aside": list(plan.aside),
    }

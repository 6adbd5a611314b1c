"""What the API's name should be, and whether it may be written: a pure decision from what was asked before.

The name is the healthy servers: those whose node is Ready, whose etcd is healthy, and whose API answers where it was
asked. It is never emptied, neither as a whole nor of one family: an old address may still answer, none certainly does
not. The fence decides who writes (see zones).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from i12e.facts import ClusterView, HostFacts, Silent
from i12e.zones import NONE, Addresses, Fence, Records, fence_name

LEAVES, TTL = "leaves", "ttl"
"""What the intent on a host (deploy.json) says of a server that is taken out of the name, to be reset."""
_LEFT = 3600.0  # seconds, and the TTL, after which a run that took a server out is taken not to come back


@dataclass(frozen=True)
class Healthy:
    """Which servers the name should have, and why not the others, by their names."""

    servers: tuple[str, ...]
    unfit: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """What is to be done with a name.

    `why` is a line for people: what changes, why nothing does, or why it is refused. `notes` are what is so and might
    not be meant. `expected` is the fence that was read, for Zone.ensure.
    """

    action: Literal["nothing", "write", "refuse"]
    why: str
    addresses: Addresses = NONE
    expected: Fence | None = None
    notes: tuple[str, ...] = ()
    remedy: str = ""
    claims: bool = False
    """Whether the name has no fence yet: it is ours from then on, and what stands there was another's, perhaps."""
    takes_over: bool = False
    """Whether it is another cluster's until then, or an earlier epoch's."""


def healthy(view: ClusterView, now: float, without: Collection[str] = (), sqlite: bool = False) -> Healthy:
    """Given what the servers say, when that was (in seconds since 1970), and those that are about to be reset, return
    which of them the name should have.

    With `sqlite` there is no etcd to be healthy. Whether a server is Ready is told by any server that answers: one that
    we cannot reach may be reached by others. A server that another run is about to reset, by its deploy.json, is left
    out; while it reboots and cannot say so, that it is cordoned tells.
    """
    unfit: dict[str, str] = {}
    for name in view.servers:
        why = _leaves(view.facts.get(name), now) or _unfit(view, name, sqlite)
        if why or name in without:
            unfit[name] = why or "is taken out"
    return Healthy(tuple(name for name in view.servers if name not in unfit), unfit)


def _unfit(view: ClusterView, name: str, sqlite: bool) -> str:
    """Return why the name should not have a server, "" if it should."""
    node, found = view.nodes.get(name), view.facts.get(name)
    if node is None:
        return "is no node of the cluster" if view.nodes else f"does not answer{_because(found)}"
    if not node.ready:
        return "is not Ready"
    if not sqlite and not node.voter:
        return "is no voting member of etcd"
    if not isinstance(found, HostFacts):
        return "is cordoned, and we do not reach it" if node.cordoned else ""
    if not sqlite and found.etcd_healthy is False:
        return "has an etcd that is not healthy"
    return "" if found.serves else "has an API that does not answer"


def _leaves(found: object, now: float) -> str:
    """Return that a server is being reset, where a run that is not too long ago says so."""
    intent: Mapping[str, Any] = (isinstance(found, HostFacts) and found.intent) or {}
    if not intent.get(LEAVES):
        return ""
    try:
        fresh = abs(now - float(intent.get("at", 0))) < _LEFT + float(intent.get(TTL) or 0)
    except (TypeError, ValueError):
        return ""
    return f"is being reset by {intent.get('operator') or 'somebody'}" if fresh else ""


def _because(found: object) -> str:
    return f": {found.why}" if isinstance(found, Silent) and found.why else ""


def wanted(fit: Healthy, addresses: Mapping[str, Sequence[str]], found: Addresses) -> tuple[Addresses, tuple[str, ...]]:
    """Given the healthy servers, all servers' addresses and those that the name has, return the set, and notes.

    A family that some server has but no healthy one stays as it is; one that no server has goes away. Without a healthy
    server, everything stays.
    """
    all_ = Addresses.of(each for texts in addresses.values() for each in texts)
    good = Addresses.of(each for name in fit.servers for each in addresses.get(name, ()))
    notes: list[str] = []

    def of_family(family: Literal["v4", "v6"], told: str) -> frozenset[str]:
        mine, there = getattr(good, family), getattr(found, family)
        if mine or not there:
            return frozenset(mine)
        if good and not getattr(all_, family):
            return frozenset()
        notes.append(f"no healthy server has an address of {told}: what the name has of it stays")
        return frozenset(there)

    return Addresses(of_family("v4", "IPv4"), of_family("v6", "IPv6")), tuple(notes) if good else ()


def plan(
    name: str,
    fit: Healthy,
    addresses: Mapping[str, Sequence[str]],
    found: Records,
    ours: Fence,
    ttl: int,
    take_over: bool = False,
) -> Plan:
    """Given a name, the healthy servers, the addresses of all, what stands there, our fence and a TTL, return the plan.

    `take_over` is for the command that takes the name from another cluster; then our epoch has to be above its one
    (Fence.after). Without it, a name that another cluster holds is refused whatever the epochs are.
    """
    refused = occupied(name, found) or _fenced(name, found.fence, ours, take_over)
    if refused:
        return replace(refused, expected=found.fence)
    if not fit.servers:
        reasons = "; ".join(f"{server} {why}" for server, why in fit.unfit.items()) or "there is no server"
        why = f"no server is healthy, so {name} stays as it is, {found.addresses}: {reasons}"
        return Plan("nothing", why, found.addresses, found.fence)
    should, notes = wanted(fit, addresses, found.addresses)
    if not should:
        return Plan("nothing", f"the healthy servers have no addresses, so {name} stays as it is", found.addresses)
    if found.shows(should, ttl, ours):
        return Plan("nothing", f"{name} is {should}, as it should be", should, ours, notes)
    return Plan(
        "write",
        _changes(name, found, should, ttl, ours),
        should,
        found.fence,
        notes,
        claims=found.fence is None,
        takes_over=found.fence not in (None, ours),
    )


def occupied(name: str, found: Records) -> Plan | None:
    """Given a name and what stands there, return the plan to refuse, where that is not ours to write over."""
    if found.other:
        return Plan("refuse", f"{name} is {found.other}", remedy="delete that, or give api.name another name")
    if found.foreign:
        why = f'{fence_name(name)} says "{found.foreign[0][:60]}", which is no fence'
        return Plan("refuse", why, remedy="delete that TXT record, if it is nobody's")
    return None


def _fenced(name: str, holder: Fence | None, ours: Fence, take_over: bool) -> Plan | None:
    if holder is None or holder == ours:
        return None
    if holder.epoch >= ours.epoch:
        same = holder.cluster == ours.cluster
        who = "a later epoch of this cluster" if same else "another cluster"
        remedy = (
            "this one was replaced by it: shut it down, or ./doit dns --take-over"
            if same
            else "give api.name another name, or ./doit dns --take-over"
        )
        return Plan("refuse", f"{name} is held by {who}: by {holder}; this is {ours}", remedy=remedy)
    if holder.cluster != ours.cluster and not take_over:
        why = f"{name} is held by another cluster: by {holder}; this is {ours}"
        return Plan("refuse", why, remedy="give api.name another name, or ./doit dns --take-over")
    return None


def _changes(name: str, found: Records, should: Addresses, ttl: int, ours: Fence) -> str:
    """Return what changes, in a line."""
    before, after = set(found.addresses), set(should)
    parts = [f"+ {each}" for each in should if each not in before]
    parts += [f"- {each}" for each in found.addresses if each not in after]
    if found.ttls and found.ttls != {ttl}:
        parts.append(f"TTL {', '.join(map(str, sorted(found.ttls)))} s -> {ttl} s")
    if found.fence is None:
        parts.append(f"fence: {ours}")
    elif found.fence != ours:
        parts.append(f"fence: {found.fence} -> {ours}")
    parts += [f"fence: without {each}" for each in found.rivals]
    return f"{name}: {', '.join(parts)}"

"""Whether a snapshot is this cluster's, whole, and of now: pure, from what was read of it and what the cluster said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from i12e import registry

VOLATILE = frozenset({
    *("events", "leases", "endpointslices", "pods", "jobs", "replicasets", "controllerrevisions"),
    "etcdsnapshotfiles",  # k3s has of them what lies on its disk, and deletes the others when it starts
})  # fmt: skip
"""What comes and goes by itself while one looks, by its plural."""
_BESIDE = {
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
}  # Kubernetes' own, and kept as custom resources are
NEEDED = ("namespaces", "secrets", "minions")
"""Without these, by their place below /registry/, there is no cluster."""


def prefix(group: str, plural: str, custom: AbstractSet[tuple[str, str]]) -> str | None:
    """Given a resource's group and plural and the custom resources, return where it is kept, below /registry/.

    None where that is not known: what a later Kubernetes may bring, what is shown under two groups (events), and what
    is kept nowhere (componentstatuses).
    """
    wanted = registry.Resource(group, plural)
    built_in = next((place for place, resource in registry.RESOURCES.items() if resource == wanted), None)
    if built_in is not None or (group, plural) not in custom | _BESIDE:
        return built_in
    return f"{group}/{plural}"


def differences(
    before: Mapping[str, int], after: Mapping[str, int], there: Mapping[str, int], volatile: Iterable[str] = VOLATILE
) -> list[str]:
    """Given how many objects the cluster had before the snapshot and after it, and how many are in it, by their place
    below /registry/, return what cannot be: one line each.

    Between the two looks objects may have come and gone; so what is in the snapshot may be a little outside of both.
    """
    found = [f"the cluster did not say how many {name} it has" for name in NEEDED if name not in before]
    moving = frozenset(volatile)
    for name in sorted(before.keys() & after.keys()):
        low, high = sorted((before[name], after[name]))
        room = _room(high, high - low, name.rpartition("/")[2] in moving)
        if not low - room <= there.get(name, 0) <= high + room:
            live = f"{low}" if low == high else f"{low} to {high}"
            found.append(f"{name}: the snapshot has {there.get(name, 0)}, the cluster has {live}")
    return found


def lost(wanted: Mapping[str, int], there: Mapping[str, int], volatile: Iterable[str] = VOLATILE) -> list[str]:
    """Given how many objects a backup has and how many a cluster has that was restored from it, by their place below
    /registry/, return what is missing: one line each.

    More may be there: an API server makes some when it starts, a newer one more. What the cluster does not list any
    more cannot be counted. k3s itself removes the password of its own node after a restore.
    """
    found = [f"the cluster does not say how many {name} it has" for name in NEEDED if name not in there]
    for name in sorted(wanted.keys() & there.keys()):
        if name.rpartition("/")[2] in volatile:
            continue
        if there[name] < wanted[name] - (name == "secrets"):
            found.append(f"{name}: the backup has {wanted[name]}, the cluster {there[name]}")
    return found


def _room(most: int, moved: int, moves: bool) -> int:
    """Return by how many a count may be off: of what moves by itself more than of what people make."""
    return moved + (max(10, most // 5) if moves else max(1, most // 100))

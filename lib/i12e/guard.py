"""What a host's own files, units and snippets may not touch: the hold and the gate before k3s.

A config that lost them could found a second, empty cluster with the same name; that would be noticed only
when the host starts, so it is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

OURS = ("/etc/i12e/", "/opt/i12e/", "/var/lib/i12e/")
K3S = ("k3s.service", "k3s-agent.service")
_RESET = re.compile(r"^[ \t]*(ExecStartPre|Condition[A-Za-z]*|ExecStart)[ \t]*=[ \t]*$", re.MULTILINE)

Config = Mapping[str, Any]


def faults(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    """Given what the template gave and what the host's own parts made of it, yield each wrong thing and its remedy."""
    yield from _paths(template, config)
    yield from _units(template, config)


def _paths(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    ours = _nodes(template)
    for path, node in _nodes(config).items():
        if node != ours.get(path) and f"{path}/".startswith(OURS):
            yield f"{path} is i12e's own", "put the file elsewhere"


def _nodes(config: Config) -> dict[str, Any]:
    storage = config.get("storage", {})
    kinds = ("files", "links", "directories")
    return {node["path"]: (kind, node) for kind in kinds for node in storage.get(kind, ())}


def _units(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    ours, merged = _unit_map(template), _unit_map(config)
    for name in K3S:
        before, after = ours.get(name, {}), merged.get(name, {})
        if before.get("contents") != after.get("contents") or before.get("mask") != after.get("mask"):
            yield f"{name} is i12e's own", "change it by a drop-in"
        kept = _dropins(before)
        for dropin, contents in _dropins(after).items():
            if dropin in kept and contents != kept[dropin]:
                yield (
                    f"{name}: the drop-in {dropin} is i12e's own: it holds k3s back until it may start",
                    "name yours otherwise",
                )
            elif dropin not in kept and (reset := _RESET.search(contents)):
                yield f"{name}: the drop-in {dropin} empties {reset[1]}=, by which k3s is held back", "only add to it"


def _unit_map(config: Config) -> dict[str, Any]:
    return {unit["name"]: unit for unit in config.get("systemd", {}).get("units", ())}


def _dropins(unit: Config) -> dict[str, str]:
    return {dropin["name"]: str(dropin.get("contents", "")) for dropin in unit.get("dropins", ())}

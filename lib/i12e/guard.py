"""What a host's own files, units and snippets may not touch: the hold and the gate before k3s, and k3s's settings.

A config that lost them could found a second, empty cluster with the same name; that would be noticed only
when the host starts, so it is refused here. It is a guard against mistakes, not against somebody who may
write the host's file and means harm: a unit of its own can do anything.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

OURS = ("/etc/i12e/", "/opt/i12e/", "/var/lib/i12e/")
# The last is where systemd looks for drop-ins of k3s-agent.service too (systemd.unit(5)).
K3S = ("k3s.service", "k3s-agent.service", "k3s-.service")
# k3s's install script writes the variables that it is run with into k3s's own env file.
INSTALL = "k3s-install.service"

_PINNED = "choose another release in k3s: or artifacts:, or another path"
_SETTING = "use k3s.config in the host's file"
_DROPIN = "write it in units:, where a drop-in may set Environment= and limits"
_UNITS = r"/(?:etc|run|usr/lib|usr/local/lib)/systemd/system(?:\.control|\.attached)?"
# Where k3s and systemd read what k3s does; the env files are those of the unit that k3s's install script writes.
_PLACES = (
    (re.compile(r"/etc/rancher/k3s/config[^/]*(?:/.*)?\Z", re.DOTALL), "k3s's settings", _SETTING),
    (re.compile(r"/etc/(?:default|sysconfig)/k3s[^/]*(?:/.*)?\Z", re.DOTALL), "k3s's environment", _SETTING),
    (re.compile(_UNITS + r"/k3s[^/]*\.service\.env(?:/.*)?\Z", re.DOTALL), "k3s's environment", _SETTING),
    (re.compile(_UNITS + r"/k3s[^/]*\.service[^/]*(?:/.*)?\Z", re.DOTALL), "k3s's unit", _DROPIN),
    (re.compile(_UNITS + r"/service\.d(?:/.*)?\Z", re.DOTALL), "k3s's unit, as every service's", _DROPIN),
)
_MANAGER = re.compile(r"/(?:etc|run|usr/lib|usr/local/lib)/systemd/system\.conf(?:\.d/.*)?\Z", re.DOTALL)
# On Fedora CoreOS /opt and /usr/local are links (reference: the docs of Fedora CoreOS).
_LINKED = (("/var/opt/", "/opt/"), ("/var/usrlocal/", "/usr/local/"))
# A variable of k3s's, by which it takes any of its settings; INSTALL_K3S_ is the install script's.
_VARIABLE = re.compile(r"""(?:\A|[\s"'=])K3S_""")

Config = Mapping[str, Any]


def faults(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    """Given what the template gave and what the host's own parts made of it, yield each wrong thing and its remedy."""
    yield from _paths(template, config)
    yield from _units(template, config)
    yield from _kernel(template, config)


def _paths(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    ours = _nodes(template)
    for path, node in _nodes(config).items():
        if node == ours.get(path):
            continue
        if path in ours and ours[path][1].get("contents", {}).get("verification"):
            # merged, it would keep the hash, and the host would stop at its first boot
            yield f"{path} is fetched by artifacts.lock, whose hash another content does not have", _PINNED
        else:
            yield from _path(path, node)


def _path(path: str, node: tuple[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a file, link or directory that is not the template's."""
    real = next((new + path.removeprefix(old) for old, new in _LINKED if path.startswith(old)), path)
    if f"{real}/".startswith(OURS):
        yield f"{path} is i12e's own", "put the file elsewhere"
        return
    for pattern, what, remedy in _PLACES:
        if pattern.match(real):
            yield f"{path} would change {what}, past the gate that holds k3s back", remedy
            return
    if _MANAGER.match(real) and _sets_k3s(_text(node[1]), ("DefaultEnvironment", "ManagerEnvironment")):
        yield f"{path} gives K3S_ variables to every service", _SETTING


def _nodes(config: Config) -> dict[str, tuple[str, Any]]:
    storage = config.get("storage", {})
    kinds = ("files", "links", "directories")
    return {node["path"]: (kind, node) for kind in kinds for node in storage.get(kind, ())}


def _text(node: Any) -> str:
    """Return what a file says of itself in the config, nothing of what it fetches."""
    parts = [node.get("contents") or {}, *node.get("append", ())]
    return "\n".join(_decoded(str(part.get("source") or ""), part.get("compression")) for part in parts)


def _decoded(source: str, compression: Any) -> str:
    if not source.startswith("data:"):
        return ""
    head, _, body = source.partition(",")
    content = base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    return (gzip.decompress(content) if compression == "gzip" else content).decode(errors="replace")


def _units(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    ours, merged = _unit_map(template), _unit_map(config)
    for name in K3S:
        before, after = ours.get(name, {}), merged.get(name, {})
        if any(before.get(key) != after.get(key) for key in ("contents", "mask")):
            yield f"{name} is i12e's own", "change it by a drop-in"
        kept = _dropins(before)
        for dropin, contents in _dropins(after).items():
            if dropin in kept and contents != kept[dropin]:
                yield (
                    f"{name}: the drop-in {dropin} is i12e's own: it holds k3s back until it may start",
                    "name yours otherwise",
                )
            elif dropin not in kept:
                yield from ((f"{name}: the drop-in {dropin} {said}", remedy) for said, remedy in _dropin(contents))
    before, after = ours.get(INSTALL, {}), merged.get(INSTALL, {})
    for what, contents in (("its text", after.get("contents") or ""), *_dropins(after).items()):
        if contents not in (before.get("contents"), _dropins(before).get(what)) and _sets_k3s(contents):
            what = what if what == "its text" else f"the drop-in {what}"
            yield f"{INSTALL}: {what} sets K3S_ variables, which the install script hands on to k3s", _SETTING


def _unit_map(config: Config) -> dict[str, Any]:
    return {unit["name"]: unit for unit in config.get("systemd", {}).get("units", ())}


def _dropins(unit: Config) -> dict[str, str]:
    return {dropin["name"]: str(dropin.get("contents") or "") for dropin in unit.get("dropins", ())}


def _dropin(contents: str) -> Iterator[tuple[str, str]]:
    """Given a further drop-in of k3s's unit, yield what it says that could lead past the gate, and the remedy."""
    for key, value in _assignments(contents):
        if key == "EnvironmentFile":
            yield "has EnvironmentFile=, whose variables are not seen here", "write Environment=, or " + _SETTING
        elif key in ("Environment", "PassEnvironment") and _VARIABLE.search(value):
            yield "sets K3S_ variables, which are k3s's settings", _SETTING
        elif key == "ExecStart" and value:
            yield "changes ExecStart=, what k3s is started with", _SETTING
        elif key == "SuccessExitStatus" and value:  # systemd takes it for ExecStartPre= too
            yield "sets SuccessExitStatus=, by which a gate that refuses counts as passed", "leave it out"
        elif not value and key.startswith(("Exec", "Condition", "Assert")):
            yield f"empties {key}=, by which k3s is held back", "only add to it"


def _sets_k3s(contents: str, keys: tuple[str, ...] = ("Environment", "PassEnvironment", "EnvironmentFile")) -> bool:
    found = [(key, value) for key, value in _assignments(contents) if key in keys]
    return any(key == "EnvironmentFile" or _VARIABLE.search(value) for key, value in found)


def _assignments(contents: str) -> Iterator[tuple[str, str]]:
    r"""Given a unit's text, yield its keys and values as systemd reads them (systemd.syntax(7)).

    A line that ends in an odd number of \ goes on in the next one that is no comment.
    """
    line = ""
    for piece in re.split(r"[\n\r\0]", contents.removeprefix("\ufeff")):
        if piece.lstrip(" \t")[:1] in ("#", ";"):
            continue
        line += piece
        if (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1] + " "
            continue
        yield from _assignment(line)
        line = ""
    yield from _assignment(line)


def _assignment(line: str) -> Iterator[tuple[str, str]]:
    key, equals, value = line.partition("=")
    if equals:
        yield key.strip(), value.strip()


def _kernel(template: Config, config: Config) -> Iterator[tuple[str, str]]:
    """systemd.setenv= of the kernel's command line gives variables to every service."""
    ours, merged = (set(at.get("kernelArguments", {}).get("shouldExist", ())) for at in (template, config))
    for argument in sorted(merged - ours):
        if "systemd.setenv" in argument and _VARIABLE.search(argument):
            yield f'the kernel argument "{argument}" gives K3S_ variables to every service', _SETTING

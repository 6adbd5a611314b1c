"""Hosts that have other names now: their extra paths and PersistentVolumes go to the hosts that take their place.

An extra path is unpacked on another host, and that is all. A PersistentVolume that lies on a node says so in its
nodeAffinity, which cannot be changed once it is set (kubernetes pkg/apis/core/validation: "field is immutable"). So
it is deleted and created anew, by its name and with its claimRef, while the k3s of the proof runs: that has no
controllers, which would call its claim lost, and no scheduler. Its finalizers are taken off first: whoever waits for
them does not run.

What was there is written down on the target before the first volume is deleted. From that file each run makes what is
to be: what a killed one had deleted is created, and what it moved to another host is moved from there.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import combinations
from typing import Any

from i12e import registry, restoring
from i12e.bundle import Manifest, Part
from i12e.damaged import Damaged
from i12e.errors import Problem
from i12e.restoring import FOLDER, QUIET

Volume = dict[str, Any]
"""A PersistentVolume, as the API has it."""

MOVES, SAVED = "moves", "volumes"
"""The files in the restore's folder: what is moved, and the volumes as they were."""
_SELECTED = "local.path.provisioner/selected-node"
"""The annotation by which rancher/local-path-provisioner knows where to remove a volume's folder."""
_FRESH = (
    "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
    "managedFields", "selfLink",
)  # fmt: skip
"""Of an object's metadata, what the API makes itself."""
_ROUNDS = 3


# What is asked for


def parse(text: str, hosts: Collection[str]) -> tuple[dict[str, str], list[Problem]]:
    """Given what --move says and the hosts of the configuration, return where which host's things go.

    Beside it everything that is wrong with it, as far as the configuration tells.
    """
    moves: dict[str, str] = {}
    problems = []
    for pair in text.split(",") if text else ():
        old, equals, new = (word.strip() for word in pair.partition("="))
        if not old or not equals or not new or "=" in new:
            problems.append(_problem(f'--move "{pair}": it names no two hosts', "write OLD=NEW[,OLD=NEW...]"))
        elif old in moves:
            problems.append(_problem(f"--move {pair}: {old} is there twice", "a host's things go to one host"))
        else:
            moves[old] = new
    return moves, [*problems, *misfits(moves, hosts)]


def misfits(moves: Mapping[str, str], hosts: Collection[str]) -> list[Problem]:
    """Given what is to be moved and the hosts of the configuration, return where the two do not fit."""
    problems = []
    for old, new in moves.items():
        if old in hosts:
            said = f"--move {old}={new}: {old} is a host here, and gets its own things back"
            problems.append(_problem(said, "only what a host had that is no more can be moved"))
        if new not in hosts:
            said = f"--move {old}={new}: {new} is no host of the configuration"
            problems.append(_problem(said, f"there are {', '.join(hosts)}"))
    return problems


def unfit(
    moves: Mapping[str, str], manifest: Manifest, nodes: Collection[str], silent: Collection[str]
) -> list[Problem]:
    """Given what is to be moved and a backup, return why that cannot be.

    `nodes`: which of the hosts that are to be moved are nodes in its database; `silent`: the hosts that do not answer.
    """
    known = {*manifest.hosts, *nodes, *(part.host for part in _paths(manifest.parts))}
    problems = [
        _problem(f"--move {old}={new}: the backup knows no host {old}", f"it knows {', '.join(sorted(known))}")
        for old, new in moves.items()
        if old not in known
    ]
    problems += [
        _problem(
            f"--move {old}={new}: {new} cannot be reached, and would not get what is moved to it",
            "bring it up, or move that to another host",
        )
        for old, new in moves.items()
        if new in silent
    ]
    for new in sorted(set(moves.values())):
        theirs = [part for part in _paths(manifest.parts) if goes_to(part.host, moves) == new]
        problems += [_both(one, other, new) for one, other in combinations(theirs, 2) if _clash(one, other)]
    return problems


def goes_to(host: str, moves: Mapping[str, str]) -> str:
    """Given a host of a backup, return the host that gets its things."""
    return moves.get(host, host)


def told(moves: Mapping[str, str]) -> str:
    """Given what is moved, return it as the command line has it."""
    return ",".join(f"{old}={new}" for old, new in moves.items())


def _paths(parts: Iterable[Part]) -> list[Part]:
    return [part for part in parts if part.what == "path"]


def _clash(one: Part, other: Part) -> bool:
    """Tell whether two hosts' paths would come upon each other: whatever comes second sets the first one aside."""
    first, second = f"{one.path.rstrip('/')}/", f"{other.path.rstrip('/')}/"
    return one.host != other.host and (first.startswith(second) or second.startswith(first))


def _both(one: Part, other: Part, new: str) -> Problem:
    if one.path == other.path:
        said = f"{one.host} and {other.host} both have {one.path}"
    else:
        said = f"{one.path} of {one.host} and {other.path} of {other.host} are one inside of the other"
    return _problem(f"--move: {said}, and {new} would get both", "move them to different hosts")


def _problem(said: str, remedy: str) -> Problem:
    return Problem("", None, None, said, remedy)


# What an earlier run was asked for


LOOK = f"cat {FOLDER}/{MOVES} 2>/dev/null || :"
"""The script whose output read() reads."""


def content(backup: str, moves: Mapping[str, str]) -> bytes:
    """Given a backup's id and what is moved, return how that is written down."""
    return json.dumps({"backup": backup, "moves": moves}).encode() + b"\n"


def read(output: str, backup: str) -> dict[str, str] | None:
    """Given what LOOK printed, return what a run of this backup was to move; None if there is nothing of it."""
    found = _of(output, backup, "moves")
    return {str(old): str(new) for old, new in found.items()} if isinstance(found, dict) else None


def _of(text: str, backup: str, name: str) -> Any:
    """Return what a file of ours says, None if it is of another backup."""
    with suppress(ValueError, TypeError, AttributeError):
        said = json.loads(text)
        return said.get(name) if said.get("backup") == backup else None
    return None


# Volumes


def counted(values: Iterable[bytes]) -> dict[str, int]:
    """Given the PersistentVolumes of a database, return how many are bound to which host; what is unreadable is not."""
    found: Counter[str] = Counter()
    for value in values:
        with suppress(Damaged):
            found.update(registry.hosts_of(value))
    return dict(found)


def moved(volume: Volume, moves: Mapping[str, str]) -> Volume:
    """Given a volume as it was and what is moved, return the object to create in its place."""
    made = {"apiVersion": "v1", "kind": "PersistentVolume", **deepcopy(volume)}
    made.pop("status", None)
    meta = made["metadata"]
    for name in _FRESH:
        meta.pop(name, None)
    if not registry.bound_to(volume) & moves.keys():
        return made
    for term in made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]:
        for each in term.get("matchExpressions") or ():
            if each.get("key") == registry.HOSTNAME and each.get("operator") == "In":
                each["values"] = list(dict.fromkeys(goes_to(host, moves) for host in each["values"]))
    notes = meta.get("annotations") or {}
    if notes.get(_SELECTED) in moves:
        notes[_SELECTED] = moves[notes[_SELECTED]]
    return made


class Stuck(Exception):
    """Volumes are not where they are to be; `why` names them."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


def volumes(do: restoring.Do, backup: str, moves: Mapping[str, str]) -> int:
    """Given a backup's id and what is moved, have its volumes where they are to be; return how many have moved.

    `do` runs scripts on the target, where the k3s of the proof runs. Raise Stuck, or what `do` raises.
    """
    kept = _of(do(_SHOW_SAVED), backup, "volumes") or []
    saved: dict[str, Volume] = {_name(each): each for each in kept}
    wrong: Sequence[str] = ()
    for _ in range(_ROUNDS):
        there = {_name(each): each for each in json.loads(do(_LIST))["items"]}
        fresh = {
            name: each for name, each in there.items() if name not in saved and registry.bound_to(each) & moves.keys()
        }
        if fresh:
            saved |= fresh
            written = json.dumps({"backup": backup, "volumes": list(saved.values())}).encode()
            do(restoring.write(SAVED, len(written)), written)
        wrong = [name for name, each in saved.items() if not _fits(there.get(name), each, moves)]
        if not wrong:
            return sum(bool(registry.bound_to(each) & moves.keys()) for each in saved.values())
        for name in wrong:
            do(_replace(name, _is_going(saved[name])), json.dumps(moved(saved[name], moves)).encode())
    raise Stuck(f"the PersistentVolumes {', '.join(wrong)} are not what they are to be")


def _name(volume: Volume) -> str:
    return str(volume["metadata"]["name"])


def _is_going(volume: Volume) -> bool:
    """Tell whether somebody has deleted a volume, and a finalizer holds it."""
    return bool(volume["metadata"].get("deletionTimestamp"))


def _fits(there: Volume | None, saved: Volume, moves: Mapping[str, str]) -> bool:
    """Tell whether a volume is there as one that was saved is to be."""
    if there is None or _is_going(there) != _is_going(saved):
        return False
    if not _finalizers(saved) <= _finalizers(there):  # the API may add its own
        return False
    return _where(there) == _where(moved(saved, moves))


def _finalizers(volume: Volume) -> set[str]:
    return set(volume["metadata"].get("finalizers") or ())


def _where(volume: Volume) -> tuple[Any, Any]:
    return volume["spec"].get("nodeAffinity"), (volume["metadata"].get("annotations") or {}).get(_SELECTED)


_SHOW_SAVED = f"cat {FOLDER}/{SAVED} 2>/dev/null || :"
_QUIET = f"""
export PATH=/opt/bin:/usr/local/bin:$PATH
systemctl is-active --quiet {QUIET} || {{ echo "the k3s of the proof does not run" >&2; exit 1; }}
"""
_LIST = f"""{_QUIET}
n=0
until [ "$(timeout 10 k3s kubectl get --raw /readyz 2>/dev/null)" = ok ]; do
    n=$((n + 1))
    [ $n -lt 60 ] || {{ echo "its API is not ready" >&2; exit 1; }}
    sleep 1
done
exec k3s kubectl get persistentvolumes -o json
"""


def _replace(name: str, going: bool) -> str:
    """Given a volume's name, return the script that has the object that it is given in its place.

    `going`: it is deleted again at once, which its finalizers hold.
    """
    return f"""{_QUIET}
name={shlex.quote(name)}
at() {{ k3s kubectl "$1" persistentvolume "$name" "$2" "$3" </dev/null; }}
if there=$(at get -o=name --ignore-not-found) && [ "$there" ]; then
    at patch --type=merge '--patch={{"metadata":{{"finalizers":null}}}}' || exit 1
    at delete --ignore-not-found --wait=false || exit 1
fi
said=$(k3s kubectl create -f - 2>&1) || case $said in
    *AlreadyExists*) ;;
    *) echo "$said" >&2; exit 1 ;;
esac
{"at delete --ignore-not-found --wait=false" if going else ""}
"""

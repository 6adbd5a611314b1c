"""Who a cluster is, and since which epoch: kept in the cluster itself, where an old copy of it has the older one.

A cluster that is restored elsewhere has the name and the UID of the old one. Its promotion gives it the next epoch: in
a ConfigMap of its own, in the fence of its name (zones) and in each store (fence). So the old one, when it wakes up,
is told apart from it, and gets neither the name nor a backup into the folder of the new one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from i12e.errors import Problem, UserError
from i12e.programs import Done
from i12e.remote import Remote

NAME = "i12e-epoch"
"""The ConfigMap in kube-system that has the epoch; without one, it is 1."""
_SPLIT = "@i12e"
_PATH = "export PATH=/opt/bin:/usr/local/bin:$PATH\n"
ASK = f"""
{_PATH}k3s kubectl get namespace kube-system -o json || exit 1
echo
echo {_SPLIT}
k3s kubectl -n kube-system get configmap {NAME} -o json --ignore-not-found || exit 1
"""
"""The script for a server that parse() understands."""
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z", re.ASCII)
_HIGHEST = 10**15 - 1  # as the fence of a name has it
_LIMIT = 60.0  # seconds for a script of these
_SAID = 200  # characters of what went wrong


@dataclass(frozen=True)
class Identity:
    """Who a cluster is."""

    uid: str
    """Of the namespace kube-system; a restored cluster has that of the old one."""
    epoch: int = 1
    written: bool = False
    """Whether the cluster has its epoch written down."""


def parse(server: str, done: Done) -> Identity:
    """Given a server's name and how ASK ended there, return who its cluster is; raise UserError if it does not say."""
    namespace, _, map_ = done.output.partition(f"\n{_SPLIT}\n")
    try:
        uid = json.loads(namespace)["metadata"]["uid"]
        epoch = int(json.loads(map_)["data"]["epoch"]) if map_.strip() else 1
        if done.status or not _UID.match(uid) or not 1 <= epoch <= _HIGHEST:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        said = done.complaint.strip()[-_SAID:] or f"its ConfigMap {NAME} says no epoch"
        raise UserError(Problem("", None, None, f"{server}: who the cluster is cannot be told: {said}")) from None
    return Identity(uid, epoch, bool(map_.strip()))


def read(server: Remote) -> Identity:
    """Given a server, ask its cluster who it is; raise UserError, or remote.Unreachable."""
    return parse(server.target.name, server.run(ASK, limit=_LIMIT))


def write(server: Remote, epoch: int, new: bool = False) -> None:
    """Given a server and an epoch, write it down in the cluster; `new`: only if none is there yet.

    Raise UserError, or remote.Unreachable.
    """
    metadata = {"name": NAME, "namespace": "kube-system", "labels": {"app.kubernetes.io/managed-by": "i12e"}}
    text = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"epoch": str(epoch)}})
    verb = "create" if new else "apply"
    done = server.run(f"{_PATH}exec k3s kubectl {verb} -f -", text.encode(), _LIMIT)
    if done.status and not (new and "AlreadyExists" in done.complaint):
        said = done.complaint.strip()[-_SAID:]
        raise UserError(Problem("", None, None, f"{server.target.name}: the epoch cannot be written down: {said}"))

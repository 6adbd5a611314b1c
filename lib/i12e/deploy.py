"""What a host needs to get to its config: a plan, made of facts alone.

Rules of design.md: 6 (what is refused), 7 (what a reset keeps), 8 (who may found a cluster).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from i12e import dns
from i12e.facts import STATE, ClusterView, Facts, HostFacts, Silent, quorum
from i12e.model import Host

NOTHING, PROVE, FOUND, REBOOT, RESET, INSTALL, REFUSE = (
    *("nothing", "prove", "found", "reboot", "reset", "install", "refuse"),
)
FAILED = "/run/i12e-reset.failed"  # there is always room
_CONTAINERD = "/var/lib/rancher/k3s/agent/containerd"
_SERVER = ("/var/lib/rancher/k3s/server", "/var/lib/rancher/k3s/server.before-.*")
"""What a server has of the cluster, and what restores set aside beside it (restoring.kept)."""
_ROOM = 200 * 1024  # KB that a host has to have free


@dataclass(frozen=True)
class Wanted:
    """A host as it is to be."""

    host: Host
    config: bytes
    digest: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.host.name


@dataclass(frozen=True)
class Named:
    """The API's name, where it is kept equal to the healthy servers, and for how many seconds resolvers keep it."""

    name: str
    ttl: int


@dataclass(frozen=True)
class HostPlan:
    """What is done to one host, and why; `changes` are told by the diff of the configs."""

    name: str
    action: str
    why: str
    remedy: str = ""
    founds: bool = False
    """Whether it founds a new, empty cluster."""
    forgets: bool = False
    """Whether the cluster's node of this name is deleted first: it was of a machine that is no more."""
    drains: bool = False
    keeps: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    """Local volumes with their sizes, all of which are kept."""
    datastore: str = ""
    """What datastore it has, which is kept: etcd, sqlite or none."""
    aside: tuple[str, ...] = ()
    """What restores set aside on it, with their sizes, all of which are kept."""
    downtime: bool = False
    """Whether the API is away meanwhile."""
    after_backup: bool = False
    """Whether a fresh good backup has to be there before: the cluster lives, and it could be lost by a reset."""
    leaves: Named | None = None
    """The API's name, which it leaves before it is reset."""

    @property
    def resets(self) -> bool:
        """Whether the host is reset, or reboots for a reset that is staged."""
        return self.action in (REBOOT, RESET, INSTALL)

    @property
    def is_gated(self) -> bool:
        """Whether it needs a person's word."""
        return self.resets or self.founds or self.forgets

    @property
    def pending(self) -> bool:
        """Whether there is anything to do, proving included."""
        return self.action != NOTHING


@dataclass(frozen=True)
class Situation:
    """All that a plan is made of."""

    wanted: Mapping[str, Wanted]
    """All hosts of the environment."""
    view: ClusterView
    pins: Mapping[str, str]
    """The machine ids that hosts are known by."""
    targets: Sequence[str] = ()
    """The hosts that are to be brought to their configs."""
    force: bool = False
    problems: Mapping[str, str] = field(default_factory=dict)
    name: Named | None = None
    """The API's name, where os_deploy keeps it right."""
    at: float = 0.0
    """When that was so, in seconds since 1970."""

    @property
    def servers(self) -> list[str]:
        """The servers by their files, in order."""
        return [name for name, wanted in self.wanted.items() if wanted.host.role == "server"]


def keep_paths(host: Host) -> list[str]:
    """Given a host, return what a reset keeps, as flatcar-reset takes it: patterns of egrep's."""
    server = _SERVER if host.role == "server" else ()
    images = [_CONTAINERD] if host.keep_images else []
    return [
        "/etc/ssh/ssh_host_.*",
        "/var/log",
        "/etc/rancher/node",
        STATE,
        "/var/lib/rancher/k3s/storage",
        *server,
        *images,
        *host.keep,
    ]


def founder(now: Situation) -> tuple[str | None, str]:
    """Return who founds the cluster, or None and why nobody may; "" where there is nothing to found.

    Nobody who has data is overlooked: each server was seen without any, or has never been deployed.
    """
    view = now.view
    if view.with_data() or view.answering():
        return None, ""
    joined = [n for n in now.wanted if isinstance(f := view.facts.get(n), HostFacts) and f.agent_data]
    unseen = [name for name in view.silent() if name in now.pins]
    if unseen:
        return None, (
            f"no server of the cluster answers, but {_list(unseen)} cannot be asked and may have its data: a new "
            "cluster beside it would split it"
        )
    if joined:
        return None, f"{_list(joined)} belongs to a cluster whose servers have no data"
    can = [name for name in now.targets if name in now.servers and isinstance(view.facts.get(name), HostFacts)]
    return (can[0], "") if can else (None, "no server of the cluster lives, and none is to be deployed")


def plan(name: str, now: Situation) -> HostPlan:
    """Given a host, return what is done to it."""
    wanted, found = now.wanted[name], now.view.facts[name]
    refused = _refusal(wanted, found, now)
    if refused:
        return HostPlan(name, REFUSE, *refused)
    if isinstance(found, Silent):  # told above; this is for the types
        return HostPlan(name, REFUSE, found.why)
    action, why = needed(wanted, found)
    founds, why_not = (False, "") if action == NOTHING or _runs(found) else _founds(wanted, now)
    if why_not:
        return HostPlan(name, REFUSE, why_not, _NO_CLUSTER)
    if action != NOTHING and wanted.host.role == "agent" and not _has_server(now):
        return HostPlan(name, REFUSE, "no server of the cluster answers: it could not be proven", _NO_CLUSTER)
    node = now.view.nodes.get(name)
    # The host may have been asked right before k3s wrote its password, and the cluster for its node right after.
    forgets = node is not None and not found.password and not (node.boot_id and node.boot_id == found.boot_id)
    if forgets and node is not None and node.ready:
        why = f"the cluster has a node {name} that is ready, and this machine is another one: two hosts have one name"
        return HostPlan(name, REFUSE, why, "switch the other one off, or rename one of them")
    if action in (NOTHING, PROVE):
        if founds:
            action, why = FOUND, "it runs its config, and waits for the permit to found the cluster"
        return HostPlan(name, action, why, founds=founds, forgets=forgets, volumes=found.volumes)
    if action != INSTALL or found.datastore:
        lost = _quorum(name, now)
        if lost and not now.force:
            return HostPlan(name, REFUSE, lost, "bring the others up first; --force REASON does it all the same")
    host = wanted.host
    others = [each for each in now.view.answering() if each != name]
    return HostPlan(
        name,
        action,
        why,
        founds=founds,
        forgets=forgets,
        drains=node is not None and node.ready and len(now.view.nodes) > 1,
        keeps=tuple(keep_paths(host)),
        deletes=_deleted(host),
        volumes=found.volumes,
        datastore=found.datastore,
        aside=found.aside if host.role == "server" else (),
        downtime=host.role == "server" and bool(found.datastore) and not others,
        after_backup=action == RESET and bool(now.view.answering()),
        leaves=_leaves(wanted, now) if node is not None else None,
    )


def _leaves(wanted: Wanted, now: Situation) -> Named | None:
    """Return the API's name that a server of the cluster leaves: not as the last healthy one."""
    if now.name is None or wanted.host.role != "server":
        return None
    others = dns.healthy(now.view, now.at, [wanted.name], wanted.host.k3s.datastore == "sqlite").servers
    return now.name if others else None


_NO_CLUSTER = "bring its servers up, or get its data back: doit restore"


def needed(wanted: Wanted, found: HostFacts) -> tuple[str, str]:
    """Given a host and its facts, return what brings it to its config, and why, whatever speaks against it."""
    if found.staged and found.staged == wanted.digest:
        return REBOOT, "its reset is staged already and waits for the reboot"
    if found.identity is None:
        return INSTALL, "it is bare: nothing of a cluster is on it"
    if found.digest != wanted.digest:
        return RESET, f"its config differs (it runs {found.digest[:12]}, {wanted.digest[:12]} is wanted)"
    if found.staged:
        return PROVE, "it runs its config, but a reset to another one is staged: that is taken back"
    if found.proven != wanted.digest:
        return PROVE, "it runs its config, which has not been proven yet"
    if found.intent is not None:
        return PROVE, "it runs its config, but the deployment did not come to its end"
    if found.hold is not None:
        return NOTHING, f"it runs its config; k3s is held back: {found.hold}"
    return NOTHING, "it runs its config"


def _refusal(wanted: Wanted, found: Facts, now: Situation) -> tuple[str, str] | None:
    """Return why a host is not touched and what to do, or None."""
    if isinstance(found, Silent):
        return f"it cannot be reached: {found.why}", found.remedy
    return not_the_one(wanted, found, now) or cannot_be_reset(wanted, found)


def not_the_one(wanted: Wanted, found: HostFacts, now: Situation) -> tuple[str, str] | None:
    """Given a host, its facts and the situation, return why it is not the host that is meant and what to do."""
    name, cluster = wanted.name, wanted.host.cluster
    identity = found.identity or {}
    who = (identity.get("cluster"), identity.get("host"))
    if identity and who != (cluster, name):
        said = f"this is {who[1]} of the cluster {who[0]} by its own /etc/i12e/host.json, not {name} of {cluster}"
        return said, f"look at addresses of {name}; a machine that is to become another host is installed anew"
    pinned = now.pins.get(name)
    if pinned and pinned != found.machine_id:
        said = f"it is another machine ({found.machine_id}) than the one that machines.lock pins ({pinned})"
        return said, f"if it was replaced, or its disk: doit host_trust:{name}"
    if found.mark and found.mark != cluster:
        return f"it has the data of the cluster {found.mark}", "look at addresses: is it the host that is meant?"
    if not identity and (found.datastore or found.agent_data):
        said = "it has data of a cluster, but no config of i12e's"
        return said, "if they may go, wipe /var/lib/rancher by hand first"
    if found.os != wanted.host.os.name:
        return f"it runs {found.os or 'an unknown system'}, and its file says {wanted.host.os.name}", "mend os.name"
    return None


def cannot_be_reset(wanted: Wanted, found: HostFacts) -> tuple[str, str] | None:
    """Given a host and its facts, return why it cannot have a reset that it needs and what to do, or None."""
    if wanted.digest in (found.digest, found.staged):
        return None
    if not found.can_reset:
        fcos = wanted.host.os.name == "fcos"
        said = "Fedora CoreOS cannot be reset: a changed config takes a new install" if fcos else _TOO_OLD
        return said, f"doit os_install:{wanted.name} says how, and what of its data stays"
    if found.free < _ROOM:
        return f"it has only {found.free // 1024} MB free in /var/lib, {_ROOM // 1024} are needed", "make room there"
    if found.free_oem * 1024 < 2 * len(wanted.config):
        return f"it has only {found.free_oem} KB free in /oem, where the config goes", "make room there"
    if found.hold is not None:
        return f"it is held: {found.hold}", f"whoever holds it releases it by removing {STATE}/hold"
    return None


_TOO_OLD = "it has no flatcar-reset, which Flatcar has since 3602 (2023)"


def _runs(found: HostFacts) -> bool:
    """Tell whether it is of a cluster that lives, or has data to start from."""
    return found.active == "active" or bool(found.datastore)


def _has_server(now: Situation) -> bool:
    """Tell whether a server answers, or will have been deployed before the agents."""
    return bool(now.view.answering()) or any(name in now.servers for name in now.targets)


def _founds(wanted: Wanted, now: Situation) -> tuple[bool, str]:
    """Return whether it founds a cluster; or why it cannot be deployed, which would leave it waiting for ever."""
    who, why_not = founder(now)
    return who == wanted.name, why_not if who is None else ""


def _quorum(name: str, now: Situation) -> str:
    """Return why a reset of this host would lose etcd's quorum, or "" if it would not."""
    if not now.view.nodes:
        return _quorum_unknown(name, now)
    voters = now.view.voters()
    node = now.view.nodes.get(name)
    if not voters or node is None or not node.is_server:
        return ""
    others = [each for each in voters if each != name]
    healthy = [each for each in others if now.view.healthy(each)]
    needed = quorum(voters)
    if not others or len(healthy) >= needed:
        return ""  # a cluster of one server: it is away meanwhile, and loses nothing
    sick = [each for each in others if each not in healthy]
    said = f", for {_list(sick)} is not" if sick else ""
    return (
        f"etcd would lose its quorum: of {len(voters)} members {needed} must live, and without {name} only "
        f"{len(healthy)} would be healthy{said}"
    )


def _quorum_unknown(name: str, now: Situation) -> str:
    """Return why a server is not to be reset while no API answers: others may be members that only it keeps alive."""
    others = [each for each in now.servers if each != name and _may_have_data(now.view.facts.get(each))]
    if name not in now.servers or not others:
        return ""
    return f"no API of the cluster answers, so it cannot be told what {_list(others)} would be without it"


def _may_have_data(found: Facts | None) -> bool:
    return bool(found.datastore) if isinstance(found, HostFacts) else found is not None


def _deleted(host: Host) -> tuple[str, ...]:
    gone = ["everything else of the root file system: /etc, /opt, /home, /root and the rest of /var"]
    if not host.keep_images:
        gone.append("images and containers of k3s (they are pulled again)")
    return tuple(gone)


def order(now: Situation, targets: Iterable[str]) -> list[str]:
    """Given the targets, return them in the order in which they are deployed: servers first, a founder first of all.

    Among the servers, those that are sick come first: each one mended adds to the quorum.
    """
    wanted = list(targets)
    who = founder(now)[0]
    servers = [name for name in wanted if name in now.servers]
    agents = [name for name in wanted if name not in servers]
    member = {name: now.view.healthy(name) for name in servers}
    servers.sort(key=lambda name: (name != who, member[name]))
    return servers + agents


def reset_script(
    host: Host, digest: str, log: str = f"{STATE}/next.log", complaint: str = FAILED, keep: Sequence[str] = ()
) -> str:
    """Given a host and the digest of the config that lies in next.ign, return the script that resets and reboots it.

    It runs apart from any ssh session. What fails leaves the host as it was, with k3s started again. `keep`: what is
    kept instead of keep_paths(host).
    """
    paths = keep or keep_paths(host)
    kept = " ".join(shlex.quote(path) for path in paths)
    wipe = "" if _CONTAINERD in paths else f"rm -rf {_CONTAINERD}\n"
    return f"""\
#!/bin/sh
# Made by doit os_deploy: resets this host to {digest[:12]} and reboots it.
set -eu
exec >>{log} 2>&1
export PATH=/opt/bin:/usr/local/bin:$PATH
unit=''
for each in k3s k3s-agent; do
    if systemctl is-active --quiet "$each" || systemctl is-failed --quiet "$each"; then unit=$each; fi
done
why=''
failed() {{
    status=$?
    set +e  # on a disk that is full, what is said here is an error too
    echo "failed with status $status; this host stays as it is${{why:+: $why}}" | tee {complaint}
    flatcar-reset --stop || true
    rm -f {STATE}/next.sum
    if [ "$unit" ]; then systemctl start --no-block "$unit"; fi
    exit "$status"
}}
trap failed EXIT
free=$(df -Pk /var/lib | awk 'NR == 2 {{ print $4 }}')
if [ "$free" -lt {_ROOM} ]; then why="only $free KB are free, with which it would not come up again"; exit 1; fi
echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) reset to {digest[:12]}"
systemctl stop k3s k3s-agent 2>/dev/null || true
killall=$(command -v k3s-killall.sh || true)
if [ "$killall" ]; then sh "$killall" || true; fi
# flatcar-reset stumbles over links in there (flatcar/Flatcar#1690): it is kept whole, or goes whole.
{wipe}flatcar-reset --keep-machine-id --ignition-file {STATE}/next.ign --keep-paths {kept}
echo {digest} >{STATE}/next.sum
sync
trap - EXIT
systemctl reboot
"""


def permit(host: Host, found: HostFacts, servers: Iterable[Host], identity: str, action: str = "found") -> str:
    """Given a host, its facts, all servers and a new id, return the permit to found (docs/hold-and-permit.md)."""
    others = [_url(str(each.addresses[0])) for each in servers if each.name != host.name]
    return (
        f"permit=1\nid={identity}\naction={action}\ncluster={host.cluster}\nhost={host.name}\n"
        f"machine-id={found.machine_id}\nservers={' '.join(others)}\nby=os_deploy\n"
    )


def _url(address: str) -> str:
    return f"https://[{address}]:6443" if ":" in address else f"https://{address}:6443"


def unhealthy(host: Host, found: HostFacts, view: ClusterView) -> str:
    """Given a host that runs its config, its facts and the cluster's view, return what it lacks to be proven, or "".

    The node's boot id is compared, because a node is told to be ready for a while after its host has gone.
    """
    last = f": {found.last}" if found.last else ""
    if found.active != "active":
        return f"k3s is {found.active or 'not installed yet'}{last}"
    if host.role == "server" and found.nodes is None:
        return f"the API does not answer yet{last}"
    node = (found.nodes if found.nodes is not None else view.nodes).get(host.name)
    if node is None:
        return f"the cluster does not know the node {host.name} yet{last}"
    if node.boot_id and node.boot_id != found.boot_id:
        return f"the cluster knows the node as it was before the reboot{last}"
    if not node.ready:
        return f"the node is not ready{last}"
    if node.version and node.version != host.k3s.version:
        return f"k3s is {node.version}, {host.k3s.version} is wanted"
    return _sick_server(host, found, node.voter) if host.role == "server" else ""


def _sick_server(host: Host, found: HostFacts, voter: bool | None) -> str:
    if found.readyz is not True:
        return "the API is not ready"
    if host.k3s.datastore == "etcd" and found.etcd_healthy is not True:
        return "etcd is not healthy"
    return "it is no voting member of etcd yet" if voter is False else ""


def sources(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Given an Ignition config, return what it fetches: each URL with the hash that it must have, or ""."""
    found: dict[str, str] = {}

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            source = value.get("source")
            if isinstance(source, str) and not source.startswith("data:"):
                found[source] = str((value.get("verification") or {}).get("hash") or found.get(source, ""))
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(config)
    return sorted(found.items())


def check_sources(config: Mapping[str, Any]) -> str:
    """Given an Ignition config, return a script that fetches all of it on the host, and prints what is wrong.

    Only http and https: others need what Ignition alone has.
    """
    lines = []
    for url, hashed in sources(config):
        if not url.startswith(("http://", "https://")):
            continue
        kind, _, value = hashed.partition("-")
        fetch = f"curl --silent --show-error --fail --location --connect-timeout 10 --max-time 600 {shlex.quote(url)}"
        if kind in ("sha256", "sha512"):
            lines.append(
                f"if found=$({{ {fetch} || echo failed; }} 2>&1 | {kind}sum); then :; fi\n"
                f'if [ "${{found%% *}}" != {value} ]; then said=$({fetch} 2>&1 >/dev/null || true)\n'
                f'echo {shlex.quote(url)}": ${{said:-its content has another hash than the config says}}"; fi'
            )
        else:
            lines.append(f'said=$({fetch} 2>&1 >/dev/null) || echo {shlex.quote(url)}": $said"')
    return "\n".join([*lines, "exit 0"])


def _list(names: Collection[str]) -> str:
    return ", ".join(names)

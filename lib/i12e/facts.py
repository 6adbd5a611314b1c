"""What is so on a host, asked in one call over ssh and changed by nothing here; and what its cluster says of itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STATE = "/var/lib/i12e"
K3S = "/opt/bin/k3s"
STORAGE = "/var/lib/rancher/k3s/storage"
"""Where volumes of local-path are."""

# Prints "KEY BASE64" lines. A thing that is not there has no line; nothing here waits longer than its limit.
_SCRIPT = r"""
export PATH=/opt/bin:/usr/local/bin:$PATH
say() { printf '%s ' "$1"; base64 -w0; echo; }
file() { if [ -f "$2" ]; then say "$1" <"$2"; fi; }
sizes() {
    for each; do
        if [ -d "$each" ]; then timeout 5 du -sk "$each" 2>/dev/null || printf '?\t%s\n' "$each"; fi
    done
}
there() { if [ -e "$2" ] || [ -L "$2" ]; then echo yes | say "$1"; fi; }
file os_release /etc/os-release
file boot_id /proc/sys/kernel/random/boot_id
file machine_id /etc/machine-id
file identity /etc/i12e/host.json
file intent /var/lib/i12e/deploy.json
file proven /var/lib/i12e/proven.json
there hold /var/lib/i12e/hold
head -n 1 /var/lib/i12e/hold 2>/dev/null | say hold_text
there permit /var/lib/i12e/permit
there staged /selective-os-reset
file staged_config /var/lib/i12e/next.sum
there reset /usr/bin/flatcar-reset
there etcd /var/lib/rancher/k3s/server/db/etcd/member/wal
there tombstone /var/lib/rancher/k3s/server/db/etcd/tombstone
there sqlite /var/lib/rancher/k3s/server/db/state.db
there agent_data /var/lib/rancher/k3s/agent/etc
file mark /var/lib/rancher/k3s/server/db/i12e-cluster
there password /etc/rancher/node/password
if [ "$1" = config ]; then file config /oem/config.ign; fi
uptime=$(cut -d. -f1 /proc/uptime); echo "$uptime" | say uptime
df -Pk /var/lib 2>/dev/null | awk 'NR == 2 { print $4 }' | say free
df -Pk /oem 2>/dev/null | awk 'NR == 2 { print $4 }' | say free_oem
if [ "$1" = config ]; then
    sizes /var/lib/rancher/k3s/storage/* | say volumes
    sizes /var/lib/rancher/k3s/server.before-* | say aside
    findmnt -rn -o TARGET,FSTYPE 2>/dev/null | awk '$2 ~ /^(ext4|xfs|btrfs|zfs|f2fs|vfat)$/ { print $1 }' | say mounts
fi
for unit in k3s k3s-agent; do
    state=$(systemctl show -p ActiveState --value "$unit.service" 2>/dev/null)
    if [ "$state" ] && [ -e "/etc/systemd/system/$unit.service" ]; then
        echo "$unit $state" | say unit
        journalctl -u "$unit" -n 1 -o cat --no-pager 2>/dev/null | tail -c 300 | say last
    fi
done
k3s=$(command -v k3s) || exit 0
timeout 10 "$k3s" --version 2>/dev/null | head -n 1 | say version
if [ -f /etc/rancher/k3s/k3s.yaml ]; then
    curl -s --noproxy '*' -m 5 http://127.0.0.1:2381/health 2>/dev/null | say etcd_health
    timeout 15 "$k3s" kubectl get --raw /readyz 2>/dev/null | say readyz
    timeout 15 "$k3s" kubectl get nodes -o json 2>/dev/null | say nodes
    # Once more: k3s makes the password, then the node. Whoever saw no password and then the node saw another machine's.
    there password /etc/rancher/node/password
fi
exit 0
"""


@dataclass(frozen=True)
class Node:
    """A node as the cluster knows it."""

    name: str
    ready: bool
    cordoned: bool
    voter: bool | None
    """Whether it is a voting member of etcd; None for a node that is none at all."""
    version: str
    boot_id: str

    @property
    def is_server(self) -> bool:
        """Whether it is a member of the etcd cluster, voting or not."""
        return self.voter is not None


@dataclass(frozen=True)
class HostFacts:
    """What a host said of itself."""

    os: str = ""
    os_version: str = ""
    boot_id: str = ""
    machine_id: str = ""
    uptime: int = 0
    """Seconds since it booted."""
    identity: Mapping[str, Any] | None = None
    """Its /etc/i12e/host.json: cluster, host, role, digest. None on a host that i12e has not made."""
    intent: Mapping[str, Any] | None = None
    """What a deployment that has not ended wanted."""
    proven: str = ""
    """The digest of the config that was last proven here."""
    hold: str | None = None
    """Who holds k3s back and why; None where nobody does."""
    permit: bool = False
    staged: str = ""
    """The digest of the config of a reset that waits for the next boot; "?" where that is not known."""
    can_reset: bool = False
    datastore: str = ""
    """etcd, sqlite, or "" where there is no data of a server."""
    removed: bool = False
    """Whether its etcd member was removed from the cluster."""
    mark: str = ""
    """The cluster whose data is here."""
    agent_data: bool = False
    password: bool = False
    """Whether it has the password of its node."""
    config: bytes | None = None
    """/oem/config.ign, with its secrets."""
    free: int = 0
    """KB of room in /var/lib, and"""
    free_oem: int = 0
    """in /oem."""
    volumes: tuple[str, ...] = ()
    """Local volumes, each as its folder's name and its size."""
    aside: tuple[str, ...] = ()
    """What restores set aside, each as its path and its size."""
    mounts: tuple[str, ...] = ()
    unit: str = ""
    active: str = ""
    last: str = ""
    """What k3s or its gate said last."""
    version: str = ""
    etcd_healthy: bool | None = None
    readyz: bool | None = None
    nodes: Mapping[str, Node] | None = None
    """All nodes of its cluster, where it is a server that answers."""

    @property
    def digest(self) -> str:
        """The digest of the config that it runs, "" where there is none."""
        return str((self.identity or {}).get("digest", ""))

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing of i12e and nothing of a cluster on it."""
        return self.identity is None and not (self.datastore or self.agent_data or self.mark)

    @property
    def serves(self) -> bool:
        """Whether it is a server whose API answers."""
        return self.nodes is not None


@dataclass(frozen=True)
class Silent:
    """A host that could not be asked, and why."""

    why: str
    remedy: str = ""
    passing: bool = True
    """Whether it may answer later: no permission and a changed host key do not pass."""


Facts = HostFacts | Silent


def script(whole: bool) -> str:
    """Return the script that asks; `whole` also brings the config and the sizes of what is kept, for a plan."""
    return f"set -- {'config' if whole else 'short'}\n{_SCRIPT}"


def parse(output: str) -> HostFacts:
    """Given what the script printed, return the facts."""
    said: dict[str, bytes] = {}
    for line in output.splitlines():
        key, _, value = line.partition(" ")
        said[key] = base64.b64decode(value)
    text = {key: value.decode(errors="replace").strip() for key, value in said.items()}
    release = dict(line.partition("=")[::2] for line in text.get("os_release", "").splitlines())
    unit, _, active = text.get("unit", "").partition(" ")
    health = _json(text.get("etcd_health", ""))
    nodes = _json(text.get("nodes", ""))
    proven = _json(text.get("proven", "")) or {}
    return HostFacts(
        os=release.get("ID", "").strip('"'),
        os_version=release.get("VERSION_ID", "").strip('"'),
        boot_id=text.get("boot_id", ""),
        machine_id=text.get("machine_id", ""),
        uptime=_number(text.get("uptime", "")),
        identity=_json(text.get("identity", "")),
        intent=_json(text.get("intent", "")),
        proven=str(proven.get("digest", "")),
        hold=(text.get("hold_text") or "it says not why") if "hold" in text else None,
        permit="permit" in text,
        staged=(text.get("staged_config") or "?") if "staged" in text else "",
        can_reset="reset" in text,
        datastore="etcd" if "etcd" in text else "sqlite" if "sqlite" in text else "",
        removed="tombstone" in text,
        mark=text.get("mark", ""),
        agent_data="agent_data" in text,
        password="password" in text,
        config=said.get("config"),
        free=_number(text.get("free", "")),
        free_oem=_number(text.get("free_oem", "")),
        volumes=tuple(_sized(line).removeprefix(f"{STORAGE}/") for line in text.get("volumes", "").splitlines()),
        aside=tuple(_sized(line) for line in text.get("aside", "").splitlines()),
        mounts=tuple(text.get("mounts", "").splitlines()),
        unit=unit,
        active=active,
        last=text.get("last", ""),
        version=text.get("version", "").removeprefix("k3s version ").partition(" ")[0],
        etcd_healthy=None if health is None else str(health.get("health")) in ("true", "True"),
        readyz=None if "readyz" not in text else text["readyz"] == "ok",
        nodes=None if nodes is None else {node.name: node for node in map(_node, nodes.get("items", ()))},
    )


def _node(item: Mapping[str, Any]) -> Node:
    conditions = {each["type"]: each["status"] for each in item.get("status", {}).get("conditions", ())}
    voter = None if "EtcdIsVoter" not in conditions else conditions["EtcdIsVoter"] == "True"
    info = item.get("status", {}).get("nodeInfo", {})
    return Node(
        item["metadata"]["name"],
        conditions.get("Ready") == "True",
        bool(item.get("spec", {}).get("unschedulable")),
        voter,
        str(info.get("kubeletVersion", "")),
        str(info.get("bootID", "")),
    )


def _json(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _sized(line: str) -> str:
    size, _, path = line.partition("\t")
    return f"{path} ({size} KB)" if size != "?" else path


@dataclass(frozen=True)
class ClusterView:
    """What all servers together say of the cluster."""

    facts: Mapping[str, Facts] = field(default_factory=dict)
    """All hosts that were asked."""
    servers: tuple[str, ...] = ()
    """The hosts that are servers by their files."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes, as a server that answers knows them; none where none answers."""
        for name in self.servers:
            found = self.facts.get(name)
            if isinstance(found, HostFacts) and found.nodes is not None:
                return found.nodes
        return {}

    def answering(self, but: str = "") -> list[str]:
        """Return the servers whose API answers, without one."""
        return [name for name in self.servers if name != but and _serves(self.facts.get(name))]

    def with_data(self) -> list[str]:
        """Return the servers that have data of a cluster, whether they run or not."""
        return [
            name for name in self.servers if isinstance(found := self.facts.get(name), HostFacts) and found.datastore
        ]

    def silent(self) -> list[str]:
        """Return the servers that could not be asked."""
        return [name for name in self.servers if isinstance(self.facts.get(name), Silent)]

    def voters(self) -> list[str]:
        """Return the nodes that are voting members of etcd."""
        return [name for name, node in self.nodes.items() if node.voter]

    def healthy(self, name: str) -> bool:
        """Tell whether a voting member of etcd is healthy: its node is ready, and so says its etcd if we asked it."""
        node, found = self.nodes.get(name), self.facts.get(name)
        if node is None or not node.ready or not node.voter:
            return False
        return not isinstance(found, HostFacts) or found.etcd_healthy is not False


def _serves(found: Facts | None) -> bool:
    return isinstance(found, HostFacts) and found.serves


def quorum(members: Iterable[str]) -> int:
    """Given the voting members, return how many of them must live."""
    return len(list(members)) // 2 + 1

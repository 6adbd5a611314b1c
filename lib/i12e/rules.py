"""What values must not be together: within one file, between files, and with a version of k3s.

Each rule yields faults; where a fault's place is, and whether it only follows from another one, is
decided by `model`. Sources: k3s's docs (cli/server.md, "Critical Configuration Values"), its
release notes and issues where a line names one.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from i12e.errors import did_you_mean
from i12e.fields import DEMO_KEY_COMMENT, EXAMPLE_RECIPIENT, FINAL, PACKAGED, Fault, Loc, is_address, version_of
from i12e.settings import ALARMS, PROVIDERS, STORES, Alarm, Backup, Cluster, Host, Release, Store, shown
from i12e.yamlfile import Octal

_Net = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

VERSION: Loc = ("k3s", "version")
CONFIG: Loc = ("k3s", "config")
BACKEND: Loc = ("network", "backend")
HOSTS: Loc = ("network", "hosts")
PODS: Loc = ("network", "cluster_cidr")
SERVICES: Loc = ("network", "service_cidr")
VIP: Loc = ("api", "vip", "address")
ADDRESSES: Loc = ("addresses",)

# The first release of each minor that has an option; of minors before the first: none, of minors
# after the last: all.
_Since = tuple[tuple[int, int, int], ...]
SECRETBOX: _Since = ((1, 30, 12), (1, 31, 8), (1, 32, 4), (1, 33, 0))  # k3s#12222
# helm-controller v0.16.7 has valuesSecrets; the k3s releases whose notes name it or a later one
VALUES_SECRETS: _Since = ((1, 32, 4), (1, 33, 0))
SKEW = 3  # kubernetes.io/releases/version-skew-policy: so many minors may a kubelet be older than the API
WILDCARD: _Since = ((1, 36, 3), (1, 37, 0))  # k3s#14314: v1.36.2 still leaves it out, silently
OPTIONS: dict[str, _Since] = {
    "embedded-registry": (
        (1, 26, 13),
        (1, 27, 10),
        (1, 28, 6),
        (1, 29, 1),
    ),  # docs, registry-mirror
    "etcd-s3-config-secret": ((1, 28, 13), (1, 29, 8), (1, 30, 4), (1, 31, 0)),
    "etcd-s3-retention": ((1, 31, 12), (1, 32, 8), (1, 33, 4), (1, 34, 0)),  # k3s#12694 to #12696
    "write-kubeconfig-group": ((1, 27, 15), (1, 28, 11), (1, 29, 6), (1, 30, 2)),  # k3s#9209
    "write-kubeconfig-name": ((1, 37, 0),),
}

# k3s settings that i12e renders, and what to write instead
_TOKENS = "tokens are secrets: secrets/ENV/cluster.yaml"
_PERMIT = "os_deploy and restore do that, never a config"
_JOIN = "hosts join by api.name, api.vip or another server's address"
_PLACE = "i12e needs k3s's own place"
_ADDRESSES = "use addresses"
RENDERED = {
    "token": _TOKENS,
    "t": _TOKENS,
    "token-file": _TOKENS,
    "cluster-secret": _TOKENS,
    "agent-token": _TOKENS,
    "agent-token-file": _TOKENS,
    "server": _JOIN,
    "s": _JOIN,
    "cluster-init": _PERMIT,
    "cluster-reset": _PERMIT,
    "cluster-reset-restore-path": _PERMIT,
    "datastore-endpoint": "use k3s.datastore",
    "data-dir": _PLACE,
    "d": _PLACE,
    "tls-san": "use api.name and api.sans",
    "node-ip": _ADDRESSES,
    "i": _ADDRESSES,
    "node-name": "the file's name is the host's name",
    "node-label": "use labels",
    "node-taint": "use taints",
    "flannel-backend": "use network.backend",
    "flannel-iface": "use network.interface",
    "cluster-cidr": "use network.cluster_cidr",
    "service-cidr": "use network.service_cidr",
    "secrets-encryption": "use k3s.secrets_encryption",
    "secrets-encryption-provider": "use k3s.secrets_encryption",
    "disable": "use k3s.disable",
    "etcd-snapshot-schedule-cron": "use k3s.snapshots.schedule",
    "etcd-snapshot-retention": "use k3s.snapshots.retention",
}

# settings that i12e does not render, and that take k3s away from where it and its gate look
REFUSED = {
    "rootless": "moves k3s's data away from where i12e looks for it",
    "config": "names another config.yaml, past the gate that holds k3s back",
    "c": "names another config.yaml, past the gate that holds k3s back",
}

# The flags of `k3s agent` (docs, cli/agent.md; k3s pkg/cli/cmds/agent.go), one letter each for their short forms.
# With any other in its config.yaml it does not start: k3s#6565.
AGENT_FLAGS = frozenset(
    (
        *("config", "c", "debug", "v", "vmodule", "log", "l", "alsologtostderr"),
        *("token", "t", "token-file", "server", "s", "data-dir", "d", "bind-address"),
        *("node-name", "with-node-id", "node-label", "node-taint", "protect-kernel-defaults", "selinux"),
        *("image-credential-provider-bin-dir", "image-credential-provider-config", "lb-server-port"),
        *("container-runtime-endpoint", "default-runtime", "image-service-endpoint", "pause-image", "snapshotter"),
        *("private-registry", "airgap-extra-registry", "disable-default-registry-endpoint", "nonroot-devices"),
        *("node-ip", "i", "node-external-ip", "node-internal-dns", "node-external-dns", "resolv-conf"),
        *("flannel-iface", "flannel-conf", "flannel-cni-conf", "kubelet-arg", "kube-proxy-arg"),
        *("rootless", "docker", "enable-pprof", "prefer-bundled-bin", "vpn-auth", "vpn-auth-file"),
        "disable-apiserver-lb",
    )
)
# The flags that only `k3s server` has (docs, cli/server.md; k3s pkg/cli/cmds/server.go).
SERVER_FLAGS = frozenset(
    (
        *("https-listen-port", "advertise-address", "advertise-port", "tls-san", "tls-san-security"),
        *("cluster-cidr", "service-cidr", "service-node-port-range", "cluster-dns", "cluster-domain"),
        *("flannel-backend", "flannel-ipv6-masq", "flannel-external-ip", "egress-selector-mode"),
        *("servicelb-namespace", "helm-job-image", "agent-token", "agent-token-file"),
        *("write-kubeconfig", "o", "write-kubeconfig-mode", "write-kubeconfig-group", "write-kubeconfig-name"),
        *("cluster-init", "cluster-reset", "cluster-reset-restore-path"),
        *("kube-apiserver-arg", "kube-scheduler-arg", "kube-controller-manager-arg", "kube-controller-arg"),
        *("kube-cloud-controller-manager-arg", "kube-cloud-controller-arg", "etcd-arg"),
        *("datastore-endpoint", "datastore-cafile", "datastore-certfile", "datastore-keyfile"),
        *("etcd-expose-metrics", "etcd-disable-snapshots", "etcd-snapshot-name", "etcd-snapshot-dir"),
        *("etcd-snapshot-schedule-cron", "etcd-snapshot-retention", "etcd-snapshot-compress"),
        *("etcd-s3", "etcd-s3-endpoint", "etcd-s3-endpoint-ca", "etcd-s3-skip-ssl-verify"),
        *("etcd-s3-access-key", "etcd-s3-secret-key", "etcd-s3-session-token", "etcd-s3-bucket"),
        *("etcd-s3-bucket-lookup-type", "etcd-s3-region", "etcd-s3-folder", "etcd-s3-proxy"),
        *("etcd-s3-config-secret", "etcd-s3-insecure", "etcd-s3-timeout", "etcd-s3-retention"),
        *("default-local-storage-path", "disable", "disable-scheduler", "disable-cloud-controller"),
        *("disable-kube-proxy", "disable-network-policy", "disable-helm-controller", "disable-apiserver"),
        *("disable-controller-manager", "disable-etcd", "disable-agent", "embedded-registry"),
        *("supervisor-metrics", "system-default-registry"),
        *("secrets-encryption", "secrets-encryption-provider"),
    )
)
_NAME = re.compile(r"[a-z][a-z0-9-]*\+?\Z")

# further settings of k3s's that must be equal on all servers
_CRITICAL = (
    *("cluster-dns", "cluster-domain", "disable-cloud-controller", "disable-helm-controller"),
    *("disable-network-policy", "egress-selector-mode", "embedded-registry"),
    *("flannel-external-ip", "flannel-ipv6-masq"),
)


@dataclass(frozen=True)
class Cross:
    """A fault between two files: in `name`'s ("" is the cluster's), with a place in `other`'s."""

    name: str
    fault: Fault
    other: str | None = None
    other_loc: Loc = ()
    """Where `{other}` in the fault's rule points to."""


def has(version: str, since: _Since) -> bool:
    """Return whether a k3s release has an option."""
    major, minor, patch, candidate, _ = version_of(version)
    for first in since:
        if (major, minor) == first[:2]:
            return (patch, candidate) >= (first[2], FINAL)
    return (major, minor) > since[-1][:2]


def _firsts(since: _Since) -> str:
    names = [f"v{'.'.join(map(str, first))}" for first in since]
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def of_settings(settings: Cluster | Host) -> Iterator[Fault]:
    """Yield what is wrong with settings that a cluster's and a host's file share."""
    yield from _k3s(settings)
    yield from _config(settings)
    yield from _sans(settings)
    yield from _cidrs(settings)
    yield from _vip(settings)
    yield from _os(settings)


def _k3s(settings: Cluster | Host) -> Iterator[Fault]:
    k3s = settings.k3s
    if k3s.secrets_encryption == "secretbox" and not has(k3s.version, SECRETBOX):
        rule = f"needs k3s {_firsts(SECRETBOX)}, this is {k3s.version}"
        loc, remedy = ("k3s", "secrets_encryption"), "a newer version, or aescbc"
        yield Fault(loc, rule, remedy, '"secretbox"', needs=(VERSION,))
    if k3s.datastore == "sqlite":
        if "snapshots" in k3s.model_fields_set:
            rule = "has no effect with sqlite: k3s takes snapshots of etcd only"
            yield Fault(("k3s", "snapshots"), rule, "", warning=True, needs=(("k3s", "datastore"),))
        if settings.api.vip is not None:
            rule = "is of no use with sqlite: there is one server only"
            yield Fault(("api", "vip"), rule, "", warning=True, needs=(("k3s", "datastore"),))


def _config(settings: Cluster | Host) -> Iterator[Fault]:
    """Check settings that go to k3s verbatim. Their values may be secret: never show them."""
    version = settings.k3s.version
    for key, value in settings.k3s.config.items():
        loc, name = (*CONFIG, key), key.rstrip("+")
        if name in RENDERED:
            yield Fault(loc, "is a setting that i12e renders itself", RENDERED[name], key=True)
        elif name in REFUSED:
            yield Fault(loc, REFUSED[name], "leave it out", key=True)
        elif key.strip() != key:
            yield Fault(loc, "has spaces around it", f"write {key.strip()}", key=True)
        elif name.replace("_", "-").lstrip("-") != name:
            remedy = f"write {name.replace('_', '-').lstrip('-')}"
            yield Fault(loc, "is not spelt as k3s does", remedy, key=True)
        elif not _NAME.match(key):
            yield Fault(loc, "is not the name of a setting of k3s's", "like kubelet-arg", key=True)
        elif _is_agent(settings) and name in SERVER_FLAGS:
            rule = "is a setting of servers only, with it k3s does not start on an agent"
            yield Fault(loc, rule, "leave it out", key=True, needs=(("role",),))
        elif name in OPTIONS and not has(version, OPTIONS[name]):
            rule = f"needs k3s {_firsts(OPTIONS[name])}, this is {version}"
            yield Fault(loc, rule, "", key=True, needs=(VERSION,))
        else:
            yield from _config_value(loc, value)


def known_to_agents(key: str) -> bool:
    """Given a key of k3s.config, return whether it is a flag of `k3s agent` (wrong spellings are told elsewhere)."""
    return key.rstrip("+") in AGENT_FLAGS


def _is_agent(settings: Cluster | Host) -> bool:
    return isinstance(settings, Host) and settings.role == "agent"


def _config_value(loc: Loc, value: Any) -> Iterator[Fault]:
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Octal):  # k3s would read 0644, which is 420, as the text "420"
            yield Fault(loc, "is a number with a leading 0", f'put it in quotes: "{part:04o}"')
        elif part is None:
            yield Fault(loc, "is empty", "give it a value, or delete the key")
        elif isinstance(part, dict | list):
            yield Fault(loc, "is neither a single value nor a list of them, k3s takes no other")


def _sans(settings: Cluster | Host) -> Iterator[Fault]:
    version = settings.k3s.version
    for place, name in enumerate(settings.api.sans):
        if name.startswith("*.") and not has(version, WILDCARD):
            rule = f"is a wildcard, which needs k3s {_firsts(WILDCARD)}, this is {version}"
            yield Fault(("api", "sans", place), rule, "name each", f'"{name}"', needs=(VERSION,))


# All hosts of a cluster have the same networks, and an address is looked for in several.
@functools.lru_cache(maxsize=256)
def _net(text: str) -> _Net:
    return ipaddress.ip_network(text)


@functools.lru_cache(maxsize=16)
def _address(text: str) -> _Address:
    return ipaddress.ip_address(text)


def _family(text: str) -> str:
    return "IPv6" if ":" in text else "IPv4"


def _families(texts: Iterable[str]) -> str:
    return " then ".join(_family(text) for text in texts)


def _overlap(one: str, other: str) -> bool:
    return _family(one) == _family(other) and bool(_net(one).overlaps(_net(other)))


def _cidrs(settings: Cluster | Host) -> Iterator[Fault]:
    network = settings.network
    for loc, pair in ((PODS, network.cluster_cidr), (SERVICES, network.service_cidr)):
        if len(pair) == 2 and _family(pair[0]) == _family(pair[1]):
            yield Fault(loc, f"has two {_family(pair[0])} networks", "dual stack is one of each family")
    known = _plausible(network.cluster_cidr) and _plausible(network.service_cidr)
    if known and _families(network.cluster_cidr) != _families(network.service_cidr):
        rule = f"is {_families(network.service_cidr)}, but network.cluster_cidr is "
        rule += _families(network.cluster_cidr)
        yield Fault(SERVICES, rule, "the same families in the same order", needs=(PODS,))
    yield from _service_sizes(settings)
    yield from _cluster_dns(settings)
    yield from _overlaps(SERVICES, network.service_cidr, PODS, network.cluster_cidr)
    yield from _overlaps(PODS, network.cluster_cidr, HOSTS, network.hosts)
    yield from _overlaps(SERVICES, network.service_cidr, HOSTS, network.hosts)


def _service_sizes(settings: Cluster | Host) -> Iterator[Fault]:
    """Check the services' networks by kube-apiserver's rules (cmd/kube-apiserver/app/options/validation.go).

    Its limit fell with two gates that are locked to on since v1.35; since then IPv6 may be a /64 at most.
    """
    version = settings.k3s.version
    old = version_of(version)[:2] < (1, 35)
    least = {"IPv4": 12 if old else 0, "IPv6": 108 if old else 64}
    for place, net in enumerate(settings.network.service_cidr):
        length = least[_family(net)]
        if _net(net).prefixlen < length:
            rule = f"is larger than a /{length}, which kube-apiserver of k3s {version} refuses"
            loc = (*SERVICES, place) if len(settings.network.service_cidr) > 1 else SERVICES
            yield Fault(loc, rule, f"a /{length} or smaller", f'"{net}"', needs=(SERVICES, VERSION))


def _cluster_dns(settings: Cluster | Host) -> Iterator[Fault]:
    config, nets = settings.k3s.config, settings.network.service_cidr
    for key in ("cluster-dns", "cluster-dns+"):
        value = config.get(key)
        for given in value if isinstance(value, list) else [value]:
            for address in given.split(",") if isinstance(given, str) else ():
                if not is_address(address.strip()):
                    yield Fault((*CONFIG, key), "is not an IP address", "one of network.service_cidr")
                elif not _within(address.strip(), nets):
                    rule = f"is outside of network.service_cidr ({', '.join(nets)})"
                    yield Fault((*CONFIG, key), rule, needs=(SERVICES,))


def _plausible(pair: tuple[str, ...]) -> bool:
    return len(pair) == 1 or _family(pair[0]) != _family(pair[1])


def _overlaps(loc: Loc, mine: tuple[str, ...], other_loc: Loc, others: tuple[str, ...]) -> Iterator[Fault]:
    for one in mine:
        for other in others:
            if _overlap(one, other):
                rule = f"overlaps {'.'.join(map(str, other_loc))} ({other})"
                yield Fault(loc, rule, "", f'"{one}"', needs=(other_loc,))


def _within(address: str, networks: Iterable[str]) -> bool:
    return any(_family(address) == _family(net) and _address(address) in _net(net) for net in networks)


def _placed(address: str, loc: Loc, settings: Cluster | Host) -> Iterator[Fault]:
    """Yield what is wrong with where an address of a host or a VIP lies."""
    network, value = settings.network, f'"{address}"'
    elsewhere = loc == VIP and _is_agent(settings)  # the servers hold it, an agent may live in another network
    if network.hosts and not elsewhere and not _within(address, network.hosts):
        rule = f"is outside of network.hosts ({', '.join(network.hosts)})"
        yield Fault(loc, rule, "", value, needs=(HOSTS,))
    for inner_loc, nets in ((PODS, network.cluster_cidr), (SERVICES, network.service_cidr)):
        if _within(address, nets):
            rule = f"is inside of {'.'.join(map(str, inner_loc))} ({', '.join(nets)})"
            yield Fault(loc, rule, "", value, needs=(inner_loc,))


def _vip(settings: Cluster | Host) -> Iterator[Fault]:
    if settings.api.vip is not None:
        yield from _placed(settings.api.vip.address, VIP, settings)


def _os(settings: Cluster | Host) -> Iterator[Fault]:
    update, name = settings.os.update, ("os", "name")
    strategy, days = ("os", "update", "strategy"), ("os", "update", "window", "days")
    if settings.os.name == "fcos" and update.strategy == "etcd-lock":
        rule = "is Flatcar's, Fedora CoreOS has no such lock"
        yield Fault(strategy, rule, "write reboot", '"etcd-lock"', needs=(name,))
    if settings.os.name == "flatcar" and update.strategy == "etcd-lock":
        # locksmith's lock speaks etcd's v2 API (lock/etcd.go), which the etcd inside of k3s does not offer
        rule = "needs an etcd of your own, k3s's has no lock for it: a host would wait for it and never reboot"
        yield Fault(strategy, rule, "write reboot", '"etcd-lock"', warning=True, needs=(name,))
    if settings.os.name == "fcos" and any(settings.artifacts.sysexts.values()):
        rule = "are built for Flatcar, Fedora CoreOS does not take them"
        yield Fault(("artifacts", "sysexts"), rule, "in a host's own file: NAME: null", needs=(name,))
    if settings.os.name == "flatcar" and len(update.window.days) > 1:
        # locksmith's window is one time of day, or of one day of the week (pkg/timeutil)
        rule = "has several days, Flatcar knows one day or all"
        yield Fault(days, rule, "write one day, or [] for all", needs=(name,))


def of_releases(cluster: Cluster) -> Iterator[Fault]:
    """Yield what is wrong with the cluster's Helm releases."""
    for name, release in cluster.helm.items():
        loc: Loc = ("helm", name)
        yield from _packaged(loc, release, cluster) if release.packaged else _chart(loc, release, cluster)
        if release.manifest or release.packaged:
            yield from _by_k3s(loc, cluster)


def without_values(cluster: Cluster, names: Collection[str]) -> Iterator[Fault]:
    """Given the names that have a template of Helm values, yield the releases that have none."""
    for name in cluster.helm:
        if name not in names:
            remedy = f"make templates/local/helm/{name}.yaml.j2, an empty file if the chart's own values will do"
            yield Fault(("helm", name), "has no template of its values", remedy, key=True)


def _packaged(loc: Loc, release: Release, cluster: Cluster) -> Iterator[Fault]:
    """Check a chart that k3s brings."""
    name = str(loc[-1])
    for key in ("chart", "repository", "version", "namespace"):
        if getattr(release, key) is not None:
            rule = "cannot be there beside packaged: k3s chooses it"
            yield Fault((*loc, key), rule, "delete it", key=True, needs=((*loc, "packaged"),))
    if name not in PACKAGED:
        yield Fault(
            (*loc, "packaged"), f"is not for {name}: k3s packages {', '.join(PACKAGED)} as charts", "name a chart"
        )
    elif "traefik" in cluster.k3s.disable:
        yield Fault(
            (*loc, "packaged"), "has no effect: k3s.disable has traefik", warning=True, needs=(("k3s", "disable"),)
        )


def _chart(loc: Loc, release: Release, cluster: Cluster) -> Iterator[Fault]:
    """Check where a chart comes from, and that k3s can have it from there."""
    chart, kind = release.chart, _kind(release.chart)
    for key in _NEEDED[kind]:
        if getattr(release, key) is None:
            yield Fault((*loc, key), "is missing", f"write {key}: {_NEEDED[kind][key]}")
    for key in ("repository", "version") if chart else ():
        if key not in _NEEDED[kind] and getattr(release, key) is not None:
            rule = f"cannot be there: the chart is {kind}"
            yield Fault((*loc, key), rule, "delete it", key=True, needs=((*loc, "chart"),))
    if release.manifest and kind == CHECKOUT and not str(chart).endswith(".tgz"):
        rule = "is no packed chart, as k3s takes it"
        remedy = f"helm package {chart}, and name the .tgz that it makes, or manifest: false"
        yield Fault((*loc, "chart"), rule, remedy, shown(chart), needs=((*loc, "manifest"),))
    if release.manifest and loc[-1] in PACKAGED and "traefik" not in cluster.k3s.disable:
        rule = "is the name of a chart that k3s deploys itself"
        yield Fault(loc, rule, "packaged: true changes that one, k3s.disable: [traefik] takes it away", key=True)


CHECKOUT = "of the checkout"
_JOB = 50  # of the 63 of a job's name: helm-controller's is helm-install-NAME (pkg/controllers/chart, jobName)
_NAMESPACE = {"namespace": "default"}
_NEEDED: dict[str, dict[str, str]] = {
    "": {"chart": "NAME, with repository: and version:", **_NAMESPACE},
    "of a repository": {"repository": "https://charts.example.com", "version": "1.2.3", **_NAMESPACE},
    "of an OCI registry": {"version": "1.2.3", **_NAMESPACE},
    CHECKOUT: _NAMESPACE,
}
"""By where a chart comes from, the keys that a release must have, with an example."""


def _kind(chart: str | None) -> str:
    if not chart:
        return ""
    if chart.startswith("./"):
        return CHECKOUT
    return "of an OCI registry" if chart.startswith("oci://") else "of a repository"


def _by_k3s(loc: Loc, cluster: Cluster) -> Iterator[Fault]:
    """Check that the cluster's k3s deploys charts as we write them."""
    version = cluster.k3s.version
    if len(str(loc[-1])) > _JOB:
        yield Fault(loc, f"is longer than the {_JOB} characters that k3s's helm-controller takes", key=True)
    if not has(version, VALUES_SECRETS):
        rule = f"is for k3s to deploy, which needs k3s {_firsts(VALUES_SECRETS)}, this is {version}"
        yield Fault(loc, rule, "a newer version, or manifest: false", key=True, needs=(VERSION,))
    if cluster.k3s.config.get("disable-helm-controller"):
        rule = "is for k3s to deploy, but k3s.config has disable-helm-controller"
        yield Fault(
            loc, rule, "manifest: false, or take that out", key=True, needs=((*CONFIG, "disable-helm-controller"),)
        )


BACKUP: Loc = ("backup",)


def of_backup(cluster: Cluster) -> Iterator[Fault]:
    """Yield what is wrong with what the cluster's file says of backups."""
    backup = cluster.backup
    yield from _twice((*BACKUP, "recipients"), backup.recipients)
    for place, recipient in enumerate(backup.recipients):
        if recipient == EXAMPLE_RECIPIENT:
            rule = "is the docs' example, nobody can open what is sealed to it"
            yield Fault((*BACKUP, "recipients", place), rule, "put your own public key there", warning=True)
    yield from _twice((*BACKUP, "stores"), (store.name for store in backup.stores), "name")
    for place, store in enumerate(backup.stores):
        yield from _one_kind((*BACKUP, "stores", place), store, STORES)
    for place, alarm in enumerate(backup.alarms):
        yield from _one_kind((*BACKUP, "alarms", place), alarm, ALARMS)
    if not any(backup.keep.model_dump().values()):
        yield Fault((*BACKUP, "keep"), "names no backup that would be kept", "write last: 1, at least")
    yield from _paths_twice(backup)
    if backup.model_fields_set - {"recipients"} and not backup.recipients:
        rule = "names no one who could open the backups: none can be taken"
        yield Fault((*BACKUP, "recipients"), rule, "./doit backup_keys makes a key", warning=True)


DNS: Loc = ("dns",)
_FENCED = 253 - len("_i12e.")
_CLOUDFLARE = 60  # seconds of TTL, but in its Enterprise plan


def of_dns(cluster: Cluster) -> Iterator[Fault]:
    """Yield what is wrong with what the cluster's file says of DNS."""
    dns, name = cluster.dns, cluster.api.name
    if dns is None:
        return
    for provider in PROVIDERS:
        there = getattr(dns, provider) is not None
        if provider == dns.provider and not there:
            yield Fault((*DNS, provider), "is missing, which the provider needs", f"write {provider}: {{...}}")
        elif there and provider != dns.provider:
            rule = f"is not used: the provider is {dns.provider}"
            yield Fault((*DNS, provider), rule, "", key=True, warning=True, needs=((*DNS, "provider"),))
    if dns.provider == "none" and dns.join == "name" and "join" in dns.model_fields_set:
        rule = "has no effect: the provider is none, and hosts join as without dns"
        yield Fault((*DNS, "join"), rule, "", shown(dns.join), warning=True, needs=((*DNS, "provider"),))
    if not f".{name}".endswith(f".{dns.zone}"):
        rule = f"does not have api.name in it, {name}"
        yield Fault((*DNS, "zone"), rule, "name the zone that has it", shown(dns.zone), needs=(("api", "name"),))
    elif len(name) > _FENCED:
        rule = "is too long: the name of its fence has _i12e. before it"
        yield Fault(("api", "name"), rule, f"{_FENCED} characters at the most", needs=(DNS,))
    if dns.provider == "cloudflare" and dns.ttl is not None and dns.ttl < _CLOUDFLARE:
        rule = "is less than 60, which Cloudflare takes for zones of its Enterprise plan only"
        yield Fault((*DNS, "ttl"), rule, "", shown(dns.ttl), warning=True, needs=((*DNS, "provider"),))


def _one_kind(loc: Loc, part: Store | Alarm, kinds: Sequence[str]) -> Iterator[Fault]:
    """Yield what is wrong where not exactly one of some keys is there."""
    there = [kind for kind in kinds if getattr(part, kind) not in (None, False)]
    if not there:
        yield Fault(loc, "is of no kind", f"write one of {', '.join(kinds)}")
    for kind in there[1:]:
        yield Fault(
            (*loc, kind), f"cannot be there beside {there[0]}", "keep one, the other in an entry of its own", key=True
        )


def _paths_twice(backup: Backup) -> Iterator[Fault]:
    """Yield paths that an entry above has of the same hosts already."""
    for place, one in enumerate(backup.paths):
        for other in backup.paths[:place]:
            both = one.hosts is None or other.hosts is None or set(one.hosts) & set(other.hosts)
            if one.path == other.path and both:
                yield Fault((*BACKUP, "paths", place, "path"), "is there twice", "", shown(one.path))
                break


def _backup_hosts(cluster: Cluster, names: Collection[str]) -> Iterator[Cross]:
    """Yield hosts that a backup is to have files of, and that do not exist."""
    for place, path in enumerate(cluster.backup.paths):
        for index, name in enumerate(path.hosts or ()):
            if name not in names:
                remedy = did_you_mean(name, names) or f"there are {', '.join(names)}"
                loc: Loc = (*BACKUP, "paths", place, "hosts", index)
                yield Cross("", Fault(loc, "is no host of this cluster", remedy, shown(name)))


def of_host(host: Host) -> Iterator[Fault]:
    """Yield what is wrong with what only a host's file says."""
    yield from _host_addresses(host)
    yield from _files(host)
    yield from _units(host)


def _host_addresses(host: Host) -> Iterator[Fault]:
    wanted, given = _families(host.network.cluster_cidr), _families(host.addresses)
    dual = len(host.network.cluster_cidr) == 2
    if dual and given != wanted and _plausible(host.network.cluster_cidr):
        rule = f"is {given}, but network.cluster_cidr is dual stack"
        yield Fault(ADDRESSES, rule, f"two addresses, {wanted}", needs=(PODS,))
    elif not dual and _family(host.addresses[0]) != wanted:
        rule = f"is {_family(host.addresses[0])}, but network.cluster_cidr is {wanted}"
        value = f'"{host.addresses[0]}"'
        yield Fault((*ADDRESSES, 0), rule, f"the first is the node's: {wanted}", value, needs=(PODS,))
    for place, address in enumerate(host.addresses):
        yield from _placed(address, (*ADDRESSES, place), host)
    yield from _twice(ADDRESSES, host.addresses)


def _twice(loc: Loc, names: Iterable[str], key: str = "") -> Iterator[Fault]:
    """Yield a fault for each entry of a list that is there already."""
    seen: set[str] = set()
    for place, name in enumerate(names):
        if name in seen:
            yield Fault((*loc, place, *([key] if key else [])), "is there twice", "", shown(name))
        seen.add(name)


def _files(host: Host) -> Iterator[Fault]:
    for place, file in enumerate(host.files):
        loc: Loc = ("files", place)
        if file.contents is None and file.local is None:
            yield Fault(loc, "has no text", "write contents: or local:")
        if file.contents is not None and file.local is not None:
            yield Fault((*loc, "local"), "cannot be there beside contents", "keep one", key=True)
        if host.os.name == "flatcar" and file.path.startswith("/usr/"):
            rule, remedy = (
                "cannot be written: /usr is read-only on Flatcar",
                "programs go to /opt/bin",
            )
            yield Fault((*loc, "path"), rule, remedy, shown(file.path), needs=(("os", "name"),))
    yield from _twice(("files",), (file.path for file in host.files), "path")


def _units(host: Host) -> Iterator[Fault]:
    for place, unit in enumerate(host.units):
        if unit.enabled is None and unit.contents is None and not unit.dropins:
            yield Fault(("units", place), "does nothing", "write enabled:, contents: or dropins:")
        yield from _twice(("units", place, "dropins"), (d.name for d in unit.dropins), "name")
    yield from _twice(("units",), (unit.name for unit in host.units), "name")


def of_fleet(cluster: Cluster, hosts: Mapping[str, Host], complete: bool) -> Iterator[Cross]:
    """Yield what is wrong between files; `complete`: all hosts are here with their right role."""
    servers = [host for host in hosts.values() if host.role == "server"]
    yield from _unique(cluster, hosts)
    yield from _equal(cluster, servers)
    yield from _versions(cluster, servers, [host for host in hosts.values() if host.role == "agent"])
    yield from _pod_sizes(cluster, servers, len(hosts))
    yield from _demo_keys(cluster, hosts)
    if complete:
        yield from _server_count(cluster, servers)
        yield from _backup_hosts(cluster, list(hosts))


def _demo_keys(cluster: Cluster, hosts: Mapping[str, Host]) -> Iterator[Cross]:
    """Warn of the example's ssh key in a cluster that is no example: who copies the example may forget it."""
    if any(host.env.partition("-")[0] == "example" for host in hosts.values()):
        return
    for index, key in enumerate(cluster.ssh_keys):
        if key.endswith(DEMO_KEY_COMMENT):
            rule = "is the example's, nobody can log in with it"
            yield Cross("", Fault(("ssh_keys", index), rule, "put your own public key there", warning=True))


def _server_count(cluster: Cluster, servers: list[Host]) -> Iterator[Cross]:
    count = len(servers)
    names = ", ".join(host.name for host in servers)
    if not count:
        rule = "the cluster has no server"
        yield Cross("", Fault((), rule, "write role: server in a host's file"))
    elif cluster.k3s.datastore == "sqlite" and count > 1:
        loc, rule = ("k3s", "datastore"), f"allows one server, here are {count}: {names}"
        yield Cross("", Fault(loc, rule, "write etcd", '"sqlite"'))
    elif count % 2 == 0:
        rule = f"the cluster has {count} servers ({names}), an even number: it bears the loss of no "
        rule += f"more servers than {count - 1}" if count > 2 else "server, one alone is safer"
        yield Cross("", Fault((), rule, "1, 3 or 5", warning=True))


def _pod_sizes(cluster: Cluster, servers: list[Host], count: int) -> Iterator[Cross]:
    """Yield pods' networks that have no part for each node (kube-controller-manager: a /24 or a /64 each).

    With another size of the parts (node-cidr-mask-size) nothing is said, nor with a network plugin of one's own,
    which may not take them from there.
    """
    for name, at in (("", cluster), *((host.name, host) for host in servers)):
        pods = at.network.cluster_cidr
        arguments = repr([value for key, value in at.k3s.config.items() if key.startswith("kube-controller-")])
        if (name and pods == cluster.network.cluster_cidr) or "node-cidr-mask" in arguments:
            continue
        for place, net in enumerate(pods):
            node = 24 if _family(net) == "IPv4" else 64
            bits = node - _net(net).prefixlen
            loc, value = ((*PODS, place) if len(pods) > 1 else PODS), f'"{net}"'
            if bits > 16:  # kubernetes: pkg/controller/nodeipam/ipam/cidrset, clusterSubnetMaxDiff
                rule = f"is larger than a /{node - 16}, which kube-controller-manager refuses"
                yield Cross(name, Fault(loc, rule, f"a /{node - 16} or smaller", value, needs=(PODS,)))
            elif bits < 0 or (2**bits < count and at.network.backend != "none"):
                wanted = node - (count - 1).bit_length()
                rule = f"is too small for {count} host{'s' if count > 1 else ''}: each takes a /{node}"
                yield Cross(name, Fault(loc, rule, f"a /{wanted} or larger", value, needs=(PODS,)))


def _unique(cluster: Cluster, hosts: Mapping[str, Host]) -> Iterator[Cross]:
    """Yield addresses and macs that two files have: the later one, with the earlier's place."""
    seen: dict[str, tuple[str, Loc]] = {}
    for host in hosts.values():
        if host.mac is not None:
            yield from _taken(seen, host.mac, host.name, ("mac",))
        for place, address in enumerate(host.addresses):
            yield from _taken(seen, address, host.name, (*ADDRESSES, place))
    for name, host in hosts.items():
        vip = host.api.vip.address if host.api.vip else None
        if vip is not None and vip in host.addresses:
            loc = (*ADDRESSES, host.addresses.index(vip))
            rule = "is api.vip.address too, at {other}"
            own = cluster.api.vip is None or cluster.api.vip.address != vip
            yield Cross(name, Fault(loc, rule, "", f'"{vip}"', needs=(VIP,)), name if own else "", VIP)


def _taken(seen: dict[str, tuple[str, Loc]], value: str, name: str, loc: Loc) -> Iterator[Cross]:
    other, other_loc = seen.setdefault(value, (name, loc))
    if other != name:
        rule = f"is also {other}'s, at {{other}}"
        yield Cross(name, Fault(loc, rule, "", f'"{value}"'), other, other_loc)


def _equal(cluster: Cluster, servers: list[Host]) -> Iterator[Cross]:
    """Yield settings of single servers that k3s needs equal on all."""
    for loc, get in _equals():
        values = Counter(repr(get(host)) for host in servers)
        for host in servers if len(values) > 1 else ():
            mine = get(host)
            if mine == get(cluster):
                continue
            other = next(one for one in servers if get(one) != mine)
            rule = f"is {_told(mine)} here and {_told(get(other))} on {other.name}, "
            rule += "it must be equal on all servers"
            yield Cross(host.name, Fault(loc, rule, "say it in cluster.yaml"))


def _told(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value is None else str(value)


_Get = Callable[[Cluster | Host], Any]


def _equals() -> list[tuple[Loc, _Get]]:
    """Return path and getter of each setting that must be equal on all servers."""
    found: list[tuple[Loc, _Get]] = [
        (("k3s", "datastore"), lambda at: at.k3s.datastore),
        (("k3s", "secrets_encryption"), lambda at: at.k3s.secrets_encryption),
        (("k3s", "disable"), lambda at: "servicelb" if "servicelb" in at.k3s.disable else None),
        (BACKEND, lambda at: at.network.backend),
        (PODS, lambda at: at.network.cluster_cidr),
        (SERVICES, lambda at: at.network.service_cidr),
        (VIP, lambda at: at.api.vip.address if at.api.vip else None),
    ]
    return found + [((*CONFIG, key), _config_getter(key)) for key in _CRITICAL]


def _config_getter(key: str) -> _Get:
    return lambda at: at.k3s.config.get(key, at.k3s.config.get(f"{key}+"))


def _minor(host: Host | Cluster) -> tuple[int, int]:
    return version_of(host.k3s.version)[:2]


def _versions(cluster: Cluster, servers: list[Host], agents: list[Host]) -> Iterator[Cross]:
    """Yield hosts whose k3s does not go with the others'."""
    oldest = min(servers, key=_minor, default=None)
    newest = max(servers, key=_minor, default=None)
    for host in servers:
        if host.k3s.version != cluster.k3s.version:
            rule = f"is not the cluster's ({cluster.k3s.version})"
            remedy = "fine for the time of an upgrade"
            yield Cross(host.name, _version_fault(host, rule, remedy, warning=True))
    for host in agents:
        if oldest is not None and _minor(host) > _minor(oldest):
            rule = f"is newer than {oldest.name}'s {oldest.k3s.version}"
            yield _newer(cluster, host, oldest, rule)
        elif newest is not None and _behind(host, newest) > SKEW:
            rule = f"is more than {SKEW} minors older than {newest.name}'s {newest.k3s.version}: its kubelet may not be"
            yield Cross(host.name, _version_fault(host, rule, "upgrade the agents before the servers go on"))
        elif _minor(host) != _minor(cluster):
            rule = f"is of another minor than the cluster's ({cluster.k3s.version})"
            yield Cross(host.name, _version_fault(host, rule, "", warning=True))


def _behind(agent: Host, server: Host) -> int:
    """Return how many minors an agent is older than a server; of two majors: too many."""
    (major, minor), (other, newer) = _minor(agent), _minor(server)
    return newer - minor if major == other else SKEW + 1


def _newer(cluster: Cluster, agent: Host, server: Host, rule: str) -> Cross:
    """Blame the agent, or the server where that is the one that left the cluster's version."""
    remedy = "servers are upgraded first"
    if agent.k3s.version != cluster.k3s.version:
        return Cross(agent.name, _version_fault(agent, rule, remedy))
    rule = f"is older than {agent.name}'s {agent.k3s.version}, no agent may be newer than a server"
    return Cross(server.name, _version_fault(server, rule, remedy))


def _version_fault(host: Host, rule: str, remedy: str, warning: bool = False) -> Fault:
    return Fault(VERSION, rule, remedy, f'"{host.k3s.version}"', warning=warning)

"""The model: every message with its place, the merge, all files' problems at once, and no crash."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i12e import model, rules
from i12e.paths import natural
from i12e.settings import Cluster, Host, Settings
from sweeps import sampled

ROOT = Path(__file__).parents[1]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 demo"
CLUSTER = f"""\
name: test
k3s:
  version: v1.35.4+k3s1
api:
  name: k8s.example.com
ssh_keys: [{KEY}]
"""
SERVER = "role: server\naddresses: [192.0.2.11]\n"
AGENT = "role: agent\naddresses: [192.0.2.21]\n"
VIP = "{address: 192.0.2.10, version: v1.0.1, interface: eth0}"
DUAL = """\
network:
  cluster_cidr: [10.42.0.0/16, "2001:db8:42::/56"]
  service_cidr: [10.43.0.0/16, "2001:db8:43::/112"]
"""


def reader(files: dict[str, str | bytes]) -> Callable[[str], bytes]:
    """Return what reads files of this environment from memory."""

    def read(path: str) -> bytes:
        name = path.removeprefix("hosts/test/").removesuffix(".yaml")
        if name not in files:
            raise FileNotFoundError(path)
        text = files[name]
        return text if isinstance(text, bytes) else text.encode()

    return read


def load(cluster: str | bytes | None = CLUSTER, /, **hosts: str | bytes) -> model.Fleet:
    """Return the fleet of a cluster's file and hosts' files (server_1 is server-1)."""
    files = {name.replace("_", "-"): text for name, text in hosts.items()}
    names = list(files)
    if cluster is not None:
        files["cluster"] = cluster
    return model.load_fleet("hosts/test", "test", names, reader(files))


def problems(fleet: model.Fleet) -> list[str]:
    """Return all problems as they are printed, without the directory."""
    return [str(problem).removeprefix("hosts/test/") for problem in fleet.problems]


def warnings(fleet: model.Fleet) -> list[str]:
    """Return all warnings as they are printed, without the directory."""
    return [str(problem).removeprefix("hosts/test/") for problem in fleet.warnings]


def changed(old: str, new: str) -> str:
    """Return the cluster's file with one place changed."""
    assert old in CLUSTER
    return CLUSTER.replace(old, new)


# What is added to a server's good file of two lines, and what is then said of it.
BROKEN_LINES = """\
rol: x
=> 3:1: rol: is not a known key (did you mean role?)

name: server-1
=> 3:1: name: is not a known key (the file's name is the host's name)

version: v1.35.4+k3s1
=> 3:1: version: is not a known key (write it below k3s:)

zzz: 1
=> 3:1: zzz: is not a known key (known: addresses, api, artifacts, butane, files, k3s, keep, keep_images, labels, mac, mirror, network, os, role, ssh, ssh_keys, taints, units)

address: 192.0.2.3
=> 3:1: address: is not a known key (write addresses: [...])

token: abc
=> 3:1: token: is not a known key (tokens are secrets: secrets/ENV/cluster.yaml)

mac: 52:54:00:00:00
=> 3:6: mac: "52:54:00:00:00" is not a mac address (like 52:54:00:12:34:56)

mac: 01:00:5e:00:00:01
=> 3:6: mac: "01:00:5e:00:00:01" is not the mac address of one card

mac: 5254
=> 3:6: mac: 5254 is not text (like "52:54:00:12:34:56")

labels: {node-role.kubernetes.io/worker: 'true'}
=> 3:10: labels."node-role.kubernetes.io/worker": is a label that a node may not give to itself, its kubelet would not start (choose another prefix, or label the node with kubectl later)

labels: {foo.k8s.io/a: b}
=> 3:10: labels."foo.k8s.io/a": is a label that a node may not give to itself, its kubelet would not start (choose another prefix, or label the node with kubectl later)

labels: {a b: c}
=> 3:10: labels."a b": is not a Kubernetes key (letters, digits, - _ . inside, at most 63 characters)

labels: {a: b c}
=> 3:13: labels.a: "b c" is not a label's value (letters, digits, - _ . inside, at most 63 characters)

labels: {tier: 1.30}
=> 3:16: labels.tier: 1.30 is not text (put it in quotes)

labels: {on: true}
=> 3:14: labels.on: true is not text (put it in quotes)

labels: [a]
=> 3:9: labels: is a list, not a mapping

labels: {example.com/Disk_1: x, node.kubernetes.io/x: y, -a/b: c}
=> 3:58: labels."-a/b": is not a Kubernetes key: before the / stands a DNS name in small letters

taints: ['a=b']
=> 3:10: taints[0]: "a=b" has no effect (write a=b:NoSchedule)

taints: [a=b:NoShedule]
=> 3:10: taints[0]: "a=b:NoShedule" has none of the effects NoSchedule, PreferNoSchedule, NoExecute (did you mean NoSchedule?)

taints: ['a b:NoSchedule']
=> 3:10: taints[0]: "a b:NoSchedule" is not a taint, its key breaks Kubernetes' rules

taints: a=b:NoSchedule
=> 3:9: taints: "a=b:NoSchedule" is not a list (put it in [ ])

taints: [1]
=> 3:10: taints[0]: 1 is not text (put it in quotes)

files: [{path: etc/motd, contents: x}]
=> 3:16: files[0].path: "etc/motd" is not an absolute path (write /etc/motd)

files: [{path: /etc/motd, mode: 644, contents: x}]
=> 3:33: files[0].mode: 644 is decimal, file modes are octal (write 0644)

files: [{path: /etc/motd, mode: '0644', contents: x}]
=> 3:33: files[0].mode: "0644" is text (without quotes: 0644)

files: [{path: /etc/motd, mode: 01777777, contents: x}]
=> 3:33: files[0].mode: 01777777 is not a file mode (like 0644)

files: [{path: /etc/motd}]
=> 3:9: files[0]: has no text (write contents: or local:)

files: [{path: /etc/motd, contents: a, local: b}]
=> 3:40: files[0].local: cannot be there beside contents (keep one)

files: [{path: /a, contents: a}, {path: /a, contents: b}]
=> 3:41: files[1].path: "/a" is there twice

files: [{path: /a, local: ../b}]
=> 3:27: files[0].local: "../b" is not a path inside the environment's own directory

files: [{path: /usr/bin/x, contents: a}]
=> 3:16: files[0].path: "/usr/bin/x" cannot be written: /usr is read-only (programs go to /opt/bin)

files: [{path: /usr/local/bin/x, contents: a}]
=> 3:16: files[0].path: "/usr/local/bin/x" cannot be written: /usr is read-only on Flatcar (programs go to /opt/bin)

files: [{path: /etc//x, contents: a}]
=> 3:16: files[0].path: "/etc//x" is not a clean path (write /etc/x)

files: [{path: /etc/x, contents: a, user: Root!}]
=> 3:43: files[0].user: "Root!" is not a user's or group's name

files: [{contents: a, pth: /x}]
=> 3:9: files[0].path: is missing
=> 3:23: files[0].pth: is not a known key (did you mean path?)

files: [x]
=> 3:9: files[0]: "x" is not a mapping

files: [{path: /etc/i12e/host.json, contents: ''}]
=> 3:16: files[0].path: "/etc/i12e/host.json" is a file of i12e's own

files: [{path: /run/x, contents: ''}]
=> 3:16: files[0].path: "/run/x" cannot be written: /run is not on the disk

units: [{name: x, enabled: true}]
=> 3:16: units[0].name: "x" has no suffix (write x.service)

units: [{name: x.servce, enabled: true}]
=> 3:16: units[0].name: "x.servce" is not a systemd unit's name (did you mean service?)

units: [{name: x.service, enabled: yes}]
=> 3:36: units[0].enabled: "yes" is not true or false (write true)

units: [{name: x.service}]
=> 3:9: units[0]: does nothing (write enabled:, contents: or dropins:)

units: [{name: x.service, dropins: [{name: a, contents: b}]}]
=> 3:44: units[0].dropins[0].name: "a" is not a drop-in's name (like 10-memory.conf)

units: [{name: x.service, enabled: true}, {name: x.service, enabled: false}]
=> 3:50: units[1].name: "x.service" is there twice

butane: [/a.bu]
=> 3:10: butane[0]: "/a.bu" is not a path inside the environment's own directory

butane: [../a.bu]
=> 3:10: butane[0]: "../a.bu" is not a path inside the environment's own directory

keep: [/]
=> 3:8: keep[0]: "/" is too much to keep: the old config would stay (name what you need below it)

keep: [/usr/lib]
=> 3:8: keep[0]: "/usr/lib" cannot be kept: /usr is read-only and comes with the OS

keep: [/etc/i12e/x]
=> 3:8: keep[0]: "/etc/i12e/x" cannot be kept: /etc/i12e says which config a host runs, a kept one would lie

keep: [/srv/data/]
=> 3:8: keep[0]: "/srv/data/" is not a clean path (write /srv/data)

keep: [/etc/rancher]
=> 3:8: keep[0]: "/etc/rancher" cannot be kept: /etc/rancher/k3s in it comes from the config, a kept one would be the old one (name what you need below it)

keep: ["/srv/a b"]
=> 3:8: keep[0]: "/srv/a b" holds a space, which flatcar-reset cannot keep (letters, digits and . _ / @ : - only)

keep: ["/srv/c++"]
=> 3:8: keep[0]: "/srv/c++" holds a +, which flatcar-reset cannot keep (letters, digits and . _ / @ : - only)

keep: [srv]
=> 3:8: keep[0]: "srv" is not an absolute path (write /srv)

keep: ["/srv/it's"]
=> 3:8: keep[0]: "/srv/it's" holds a ', which flatcar-reset cannot keep (letters, digits and . _ / @ : - only)

keep: [/var]
=> 3:8: keep[0]: "/var" is too much to keep: the old config would stay (name what you need below it)

mirror: ftp://x
=> 3:9: mirror: "ftp://x" is not an http or https URL (like https://mirror.example.com)

mirror: https://u:p@x.example.com
=> 3:9: mirror: holds a user or password, which every host would show

mirror: https://x.example.com/?a=b
=> 3:9: mirror: "https://x.example.com/?a=b" is not a base URL: nothing may follow the path

mirror: https://x.example.com/?
=> 3:9: mirror: "https://x.example.com/?" is not a base URL: nothing may follow the path

mirror: "https://[2001:db8::1]80"
=> 3:9: mirror: "https://[2001:db8::1]80" is not an http or https URL (like https://mirror.example.com)

mirror: mirror.example.com
=> 3:9: mirror: "mirror.example.com" is not an http or https URL (like https://mirror.example.com)

artifacts: {rclone: 1.71.0}
=> 3:21: artifacts.rclone: "1.71.0" is not a version of the form vX.Y.Z (write v1.71.0)

artifacts: {ager: v1.2.1}
=> 3:13: artifacts.ager: is not a known key (did you mean age?)

artifacts: {sysexts: {wasmtime: 24.0}}
=> 3:33: artifacts.sysexts.wasmtime: 24.0 is not text (put it in quotes)

artifacts: {sysexts: {"../x": "1"}}
=> 3:23: artifacts.sysexts."../x": is not a system extension's name (as extensions.flatcar.org has it, like wasmtime)

artifacts: {sysexts: {wasmtime: "../1"}}
=> 3:33: artifacts.sysexts.wasmtime: "../1" is not a system extension's version (what stands between its name and the processor's)

os: {name: fcos}
artifacts: {sysexts: {wasmtime: v24.0.0}}
=> 4:22: artifacts.sysexts: are built for Flatcar, Fedora CoreOS does not take them (in a host's own file: NAME: null)

os: {arch: x86_64}
=> 3:12: os.arch: "x86_64" is not one of amd64, arm64

ssh_keys: []
=> 3:11: ssh_keys: is an empty list (one at least)

ssh_keys: [ssh-ed25519 AAAA x]
=> 3:12: ssh_keys[0]: is a damaged ssh-ed25519 key (copy the .pub file's line again)

ssh_keys: ['-----BEGIN OPENSSH PRIVATE KEY----- b3Blb']
=> 3:12: ssh_keys[0]: is a PRIVATE key: take it out of the file, and make a new pair if it was committed (write the .pub file's line)

ssh_keys: [ssh-ed25519]
=> 3:12: ssh_keys[0]: is a damaged ssh-ed25519 key (copy the .pub file's line again)

ssh_keys: [ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 x]
=> 3:12: ssh_keys[0]: is a damaged ssh-rsa key (copy the .pub file's line again)

ssh_keys: [AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4]
=> 3:12: ssh_keys[0]: is not an ssh public key (like ssh-ed25519 AAAA... name)

ssh_keys: [ssh-ed2551 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4]
=> 3:12: ssh_keys[0]: is not an ssh public key (did you mean ssh-ed25519?)

k3s: {version: v1.35.4}
=> 3:16: k3s.version: "v1.35.4" is not the full name of a k3s release (write v1.35.4+k3s1)

k3s: {version: 1.35.4+k3s1}
=> 3:16: k3s.version: "1.35.4+k3s1" is not the full name of a k3s release (write v1.35.4+k3s1)

k3s: {version: v1.35}
=> 3:16: k3s.version: "v1.35" is not pinned to one release (like v1.35.4+k3s1)

k3s: {version: 1.35}
=> 3:16: k3s.version: 1.35 is not text (like v1.35.4+k3s1)

k3s: {version: v1.36.0-rc1}
=> 3:16: k3s.version: "v1.36.0-rc1" is not the full name of a k3s release (write v1.36.0-rc1+k3s1)

k3s: {version: latest}
=> 3:16: k3s.version: "latest" is not a k3s release (like v1.35.4+k3s1)

k3s: {version: v1.35.4-k3s2}
=> 3:16: k3s.version: "v1.35.4-k3s2" is not the full name of a k3s release (write v1.35.4+k3s2)

k3s: {version: v1.29.3+k3s1}
=> 3:16: k3s.secrets_encryption: "secretbox" needs k3s v1.30.12, v1.31.8, v1.32.4 or v1.33.0, this is v1.29.3+k3s1 (a newer version, or aescbc)

k3s: {verson: v1.29.3+k3s1}
=> 3:7: k3s.verson: is not a known key (did you mean version?)

k3s: {datastore: postgres}
=> 3:18: k3s.datastore: "postgres" is not one of etcd, sqlite

k3s: {datastore: Etcd}
=> 3:18: k3s.datastore: "Etcd" is not one of etcd, sqlite (did you mean etcd?)

k3s: {disable: [treafik]}
=> 3:17: k3s.disable[0]: "treafik" is not one of coredns, servicelb, traefik, local-storage, metrics-server, runtimes (did you mean traefik?)

k3s: {disable: traefik}
=> 3:16: k3s.disable: "traefik" is not a list (put it in [ ])

k3s: {secrets_encryption: true}
=> 3:27: k3s.secrets_encryption: true is not one of secretbox, aescbc, none

k3s: {snapshots: {schedule: 0 0 * * 7}}
=> 3:29: k3s.snapshots.schedule: "0 0 * * 7" has a wrong day of the week: 7 (0 to 6)

k3s: {snapshots: {schedule: '* * * *'}}
=> 3:29: k3s.snapshots.schedule: "* * * *" has not the five fields minute, hour, day of the month, month, day of the week (like "0 */6 * * *")

k3s: {snapshots: {schedule: '@dayly'}}
=> 3:29: k3s.snapshots.schedule: "@dayly" is not a schedule (did you mean @daily?)

k3s: {snapshots: {schedule: '61 * * * *'}}
=> 3:29: k3s.snapshots.schedule: "61 * * * *" has a wrong minute: 61 (0 to 59)

k3s: {snapshots: {schedule: '*/0 * * * *'}}
=> 3:29: k3s.snapshots.schedule: "*/0 * * * *" has a wrong minute: */0 (0 to 59)

k3s: {snapshots: {retention: 0}}
=> 3:30: k3s.snapshots.retention: 0 is less than 1

k3s: {snapshots: {retention: 12h}}
=> 3:30: k3s.snapshots.retention: "12h" is not a whole number

k3s: {snapshots: {retention: true}}
=> 3:30: k3s.snapshots.retention: true is not a whole number

k3s: {snapshots: 5}
=> 3:18: k3s.snapshots: 5 is not a mapping

k3s: {config: {token: hunter2}}
=> 3:16: k3s.config.token: is a setting that i12e renders itself (tokens are secrets: secrets/ENV/cluster.yaml)

k3s: {config: {tls-san: [a]}}
=> 3:16: k3s.config.tls-san: is a setting that i12e renders itself (use api.name and api.sans)

k3s: {config: {node_label: [a]}}
=> 3:16: k3s.config.node_label: is not spelt as k3s does (write node-label)

k3s: {config: {write-kubeconfig-mode: 0644}}
=> 3:39: k3s.config.write-kubeconfig-mode: is a number with a leading 0 (put it in quotes: "0644")

k3s: {config: {write-kubeconfig-name: x}}
=> 3:16: k3s.config.write-kubeconfig-name: needs k3s v1.37.0, this is v1.35.4+k3s1

k3s: {config: {kubelet-arg: {a: b}}}
=> 3:29: k3s.config.kubelet-arg: is neither a single value nor a list of them, k3s takes no other

k3s: {config: [a]}
=> 3:15: k3s.config: is a list, not a mapping

k3s: {config: {rootless: true}}
=> 3:16: k3s.config.rootless: moves k3s's data away from where i12e looks for it (leave it out)

k3s: {config: {data-dir: /srv/k3s, d: /srv/k3s}}
=> 3:16: k3s.config.data-dir: is a setting that i12e renders itself (i12e needs k3s's own place)
=> 3:36: k3s.config.d: is a setting that i12e renders itself (i12e needs k3s's own place)

k3s: {config: {config: /srv/x, t: x, s: x}}
=> 3:16: k3s.config.config: names another config.yaml, past the gate that holds k3s back (leave it out)
=> 3:32: k3s.config.t: is a setting that i12e renders itself (tokens are secrets: secrets/ENV/cluster.yaml)
=> 3:38: k3s.config.s: is a setting that i12e renders itself (hosts join by api.name, api.vip or another server's address)

k3s: {config: {' cluster-init': true, 'debug ': true}}
=> 3:16: k3s.config." cluster-init": has spaces around it (write cluster-init)
=> 3:39: k3s.config."debug ": has spaces around it (write debug)

k3s: {config: {'debug=true': x, '': x, debug++: x}}
=> 3:16: k3s.config."debug=true": is not the name of a setting of k3s's (like kubelet-arg)
=> 3:33: k3s.config."": is not the name of a setting of k3s's (like kubelet-arg)
=> 3:40: k3s.config."debug++": is not the name of a setting of k3s's (like kubelet-arg)

k3s: {config: {cluster-dns: 10.44.0.10}}
=> 3:29: k3s.config.cluster-dns: is outside of network.service_cidr (10.43.0.0/16)

k3s: {config: {cluster-dns+: '10.43.0.10,10.44.0.10'}}
=> 3:30: k3s.config."cluster-dns+": is outside of network.service_cidr (10.43.0.0/16)

k3s: {config: {cluster-dns: [10.43.0.10, here]}}
=> 3:29: k3s.config.cluster-dns: is not an IP address (one of network.service_cidr)

k3s: {config: {cluster-init: true}}
=> 3:16: k3s.config.cluster-init: is a setting that i12e renders itself (os_deploy and restore do that, never a config)

k3s: {config: {debug: }}
=> 3:16: k3s.config.debug: is empty (give it a value, or delete the key)

k3s: v1.35.4+k3s1
=> 3:6: k3s: "v1.35.4+k3s1" is not a mapping

k3s: [a]
=> 3:6: k3s: is a list, not a mapping

api: {name: https://k8s.example.com:6443}
=> 3:13: api.name: "https://k8s.example.com:6443" is a URL, not a DNS name (only the name, without https:// and port)

api: {name: K8S.example.com}
=> 3:13: api.name: "K8S.example.com" is not a DNS name in small letters (write k8s.example.com)

api: {name: 192.0.2.4}
=> 3:13: api.name: "192.0.2.4" is an address, not a name (a name here, addresses in api.vip and api.sans)

api: {sans: ['*.example.com']}
=> 3:14: api.sans[0]: "*.example.com" is a wildcard, which needs k3s v1.36.3 or v1.37.0, this is v1.35.4+k3s1 (name each)

api: {sans: [a_b]}
=> 3:14: api.sans[0]: "a_b" is not a DNS name

api: {vip: {address: 192.0.2.10, version: v1.0.1}}
=> 3:12: api.vip.interface: is missing (write interface: eth0)

api: {vip: {address: 192.0.2.10, version: 1.0.1, interface: eth0}}
=> 3:43: api.vip.version: "1.0.1" is not a version of the form vX.Y.Z (write v1.0.1)

api: {vip: {address: 192.0.2.11, version: v1.0.1, interface: eth0}}
=> 2:13: addresses[0]: "192.0.2.11" is api.vip.address too, at hosts/test/server-1.yaml:3

api: {vip: {address: 192.0.2.300, version: v1.0.1, interface: abcdefghijklmnopq}}
=> 3:22: api.vip.address: "192.0.2.300" is not an IP address
=> 3:63: api.vip.interface: "abcdefghijklmnopq" is not an interface's name (at most 15 characters, no space, / or :)

network: {hosts: [198.51.100.0/24]}
=> 2:13: addresses[0]: "192.0.2.11" is outside of network.hosts (198.51.100.0/24)

network: {hosts: [192.0.2.1/24]}
=> 3:19: network.hosts[0]: "192.0.2.1/24" is a host's address, not a network (write 192.0.2.0/24)

network: {hosts: 192.0.2.0}
=> 3:18: network.hosts[0]: "192.0.2.0" has no length (like 192.0.2.0/24)

network: {hosts: '2001:db8::%0/64'}
=> 3:18: network.hosts[0]: "2001:db8::%0/64" is not an IP network (like 2001:db8::/64)

network: {backend: wireguard}
=> 3:20: network.backend: "wireguard" is not one of wireguard-native, vxlan, host-gw, none (k3s v1.27 removed it, write wireguard-native)

network: {backend: ipsec}
=> 3:20: network.backend: "ipsec" is not one of wireguard-native, vxlan, host-gw, none (k3s v1.27 removed it, wireguard-native encrypts too)

network: {backend: vxlna}
=> 3:20: network.backend: "vxlna" is not one of wireguard-native, vxlan, host-gw, none (did you mean vxlan?)

network: {interface: 'a b'}
=> 3:22: network.interface: "a b" is not an interface's name (at most 15 characters, no space, / or :)

network: {cluster_cidr: 10.43.0.0/17}
=> 3:25: network.service_cidr: "10.43.0.0/16" overlaps network.cluster_cidr (10.43.0.0/17)

network: {cluster_cidr: [10.42.0.0/16, 10.44.0.0/16]}
=> 3:25: network.cluster_cidr: has two IPv4 networks (dual stack is one of each family)

network: {cluster_cidr: [10.42.0.0/16, '2001:db8::/56']}
=> 2:12: addresses: is IPv4, but network.cluster_cidr is dual stack (two addresses, IPv4 then IPv6)
=> 3:25: network.service_cidr: is IPv4, but network.cluster_cidr is IPv4 then IPv6 (the same families in the same order)

network: {cluster_cidr: [10.42.0.0/16, '2001:db8::/56'], service_cidr: [10.43.0.0/16, '2001:db8:1::/112']}
=> 2:12: addresses: is IPv4, but network.cluster_cidr is dual stack (two addresses, IPv4 then IPv6)

network: {cluster_cidr: '2001:db8::/56', service_cidr: '2001:db8:1::/112'}
=> 2:13: addresses[0]: "192.0.2.11" is IPv4, but network.cluster_cidr is IPv6 (the first is the node's: IPv6)

network: {cluster_cidr: 192.0.0.0/16}
=> 2:13: addresses[0]: "192.0.2.11" is inside of network.cluster_cidr (192.0.0.0/16)

network: {hosts: [10.42.1.0/24]}
=> 2:13: addresses[0]: "192.0.2.11" is outside of network.hosts (10.42.1.0/24)
=> 3:18: network.cluster_cidr: "10.42.0.0/16" overlaps network.hosts (10.42.1.0/24)

network: {cluster_cidr: 10.32.0.0/25}
=> 3:25: network.cluster_cidr: "10.32.0.0/25" is too small for 1 host: each takes a /24 (a /24 or larger)

network: {cluster_cidr: 0.0.0.0/7}
=> 3:25: network.cluster_cidr: "0.0.0.0/7" is larger than a /8, which kube-controller-manager refuses (a /8 or smaller)

network: {cluster_cidr: []}
=> 3:25: network.cluster_cidr: is an empty list (one at least)

network: {cluster_cidr: [10.42.0.0/16, 10.44.0.0/16, 10.45.0.0/16]}
=> 3:25: network.cluster_cidr: has more than 2 entries

os: {name: ubuntu}
=> 3:12: os.name: "ubuntu" is not one of flatcar, fcos

os: {name: fcos, update: {strategy: etcd-lock}}
=> 3:37: os.update.strategy: "etcd-lock" is Flatcar's, Fedora CoreOS has no such lock (write reboot)

os: {update: {window: {start: 2:00}}}
=> 3:31: os.update.window.start: "2:00" is not a time of day (write 02:00)

os: {update: {window: {start: '25:00'}}}
=> 3:31: os.update.window.start: "25:00" is not a time of day (like 02:00)

os: {update: {window: {length: 24h}}}
=> 3:32: os.update.window.length: "24h" is not at least 1m and less than 24h

os: {update: {window: {length: 60}}}
=> 3:32: os.update.window.length: 60 is not text (like 30m, 1h or 1h30m)

os: {update: {window: {days: [Monday]}}}
=> 3:31: os.update.window.days[0]: "Monday" is not one of Mon, Tue, Wed, Thu, Fri, Sat, Sun (did you mean Mon?)

os: {update: {window: {days: [Sat, Sun]}}}
=> 3:30: os.update.window.days: has several days, Flatcar knows one day or all (write one day, or [] for all)

os: {update: {window: {stagger: yes}}}
=> 3:33: os.update.window.stagger: "yes" is not true or false (write true)

os: {update: {strategy: 'off '}}
=> 3:25: os.update.strategy: "off " is not one of reboot, etcd-lock, off (did you mean off?)

os:
  update:
=> 4:3: os.update: is empty (give it a mapping, or delete the key)

\tx: 1
=> 3:1: YAML: a tab cannot indent (use spaces)

x: [1
=> 3:6: YAML: a `,` or `]` was expected here

x: 'a
=> 3:4: YAML: a quote is never closed

x: &a [*a]
=> 3:1: x: is not a known key (known: addresses, api, artifacts, butane, files, k3s, keep, keep_images, labels, mac, mirror, network, os, role, ssh, ssh_keys, taints, units)
=> 3:4: an anchor that holds itself

x: *b
=> 3:4: YAML: an alias (`*name`) of an anchor that does not exist

x: !!binary aGk=
=> 3:1: x: is not a known key (known: addresses, api, artifacts, butane, files, k3s, keep, keep_images, labels, mac, mirror, network, os, role, ssh, ssh_keys, taints, units)
=> 3:4: the tag !!binary does not fit here (leave the tag out)

x: !vault a
=> 3:1: x: is not a known key (known: addresses, api, artifacts, butane, files, k3s, keep, keep_images, labels, mac, mirror, network, os, role, ssh, ssh_keys, taints, units)
=> 3:4: the tag !vault does not fit here (leave the tag out)

<<: {a: b}
=> 3:1: merge keys (`<<`) are not supported (write the keys out, cluster.yaml holds what hosts share)

? [a]
: b
=> 3:3: a key must be text, not a list or a mapping

x: @a
=> 3:4: YAML: a value cannot start with `@` (put it in quotes)

x: a: b
=> 3:5: YAML: a second `:` or a wrong indentation (indent keys of one mapping alike, put text that holds `: ` in quotes)

---
x: 1
=> 3:1: YAML: a second document begins here (one file holds one document)

x: \x07
=> 3:4: the character U+0007 is not allowed in YAML (delete it)

x: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
=> 3:1: x: is not a known key (known: addresses, api, artifacts, butane, files, k3s, keep, keep_images, labels, mac, mirror, network, os, role, ssh, ssh_keys, taints, units)
=> 3:67: is nested too deeply
"""  # noqa: E501  # messages are one line each

# A whole host's file, and what is then said of it.
BROKEN_FILES = """\
# nothing
=> 1:1: addresses: is missing (write addresses: [192.0.2.11])
=> 1:1: role: is missing (write role: server or role: agent)

- a
=> 1:1: is not a mapping (write `key: value` lines)

just text
=> 1:1: is not a mapping (write `key: value` lines)

role: sever
addresses: [192.0.2.11]
=> 1:7: role: "sever" is not one of server, agent (did you mean server?)

role: Server
addresses: [192.0.2.11]
=> 1:7: role: "Server" is not one of server, agent (did you mean server?)

role:
addresses:
=> 1:1: role: is empty (one of server, agent)
=> 2:1: addresses: is empty (give it a list, or delete the key)

role: server
addresses: []
=> 2:12: addresses: is an empty list (one at least)

role: server
addresses: [192.0.2.300]
=> 2:13: addresses[0]: "192.0.2.300" is not an IP address

role: server
addresses: [192.0.2.1/24]
=> 2:13: addresses[0]: "192.0.2.1/24" is not an IP address (leave the / and what follows out)

role: server
addresses: [169.254.1.1, 'fe80::1', 224.0.0.1, 0.0.0.0, 255.255.255.255, '::']
=> 2:13: addresses[0]: "169.254.1.1" is no address that other hosts can reach
=> 2:26: addresses[1]: "fe80::1" is no address that other hosts can reach
=> 2:37: addresses[2]: "224.0.0.1" is no address that other hosts can reach
=> 2:48: addresses[3]: "0.0.0.0" is no address that other hosts can reach
=> 2:57: addresses[4]: "255.255.255.255" is no address that other hosts can reach
=> 2:74: addresses[5]: "::" is no address that other hosts can reach

role: server
addresses: [127.0.0.1]
=> 2:13: addresses[0]: "127.0.0.1" is no address that other hosts can reach

role: server
addresses: [192.0.2.11, 192.0.2.11]
=> 2:25: addresses[1]: "192.0.2.11" is there twice

role: server
addresses: [2001:db8::1]
=> 2:13: addresses[0]: "2001:db8::1" is IPv6, but network.cluster_cidr is IPv4 (the first is the node's: IPv4)

role: server
addresses: [10.42.3.1]
=> 2:13: addresses[0]: "10.42.3.1" is inside of network.cluster_cidr (10.42.0.0/16)

role: server
addresses: {a: b}
=> 2:12: addresses: is a mapping, not a list

addresses: [192.0.2.11]
=> 1:1: role: is missing (write role: server or role: agent)

role: 5
addresses: [5]
=> 1:7: role: 5 is not one of server, agent
=> 2:13: addresses[0]: 5 is not text (like 192.0.2.11)
"""

Case = tuple[str, list[str]]


def cases(table: str) -> list[Case]:
    """Given text with the messages it earns (=>) below it, return (text, messages) of each."""
    found = []
    for block in table.strip("\n").split("\n\n"):
        lines = block.split("\n")
        text = "\n".join(line for line in lines if not line.startswith("=> "))
        found.append((text, [line[3:] for line in lines if line.startswith("=> ")]))
    return found


@pytest.mark.parametrize(("added", "expected"), cases(BROKEN_LINES))
def test_a_broken_line_is_told_with_its_place_and_remedy(added: str, expected: list[str]) -> None:
    found = problems(load(server_1=f"{SERVER}{added}\n"))
    assert found == [f"server-1.yaml:{line}" for line in expected]


@pytest.mark.parametrize(("text", "expected"), cases(BROKEN_FILES))
def test_a_broken_file_is_told_with_its_place_and_remedy(text: str, expected: list[str]) -> None:
    assert problems(load(server_1=f"{text}\n")) == [f"server-1.yaml:{line}" for line in expected]


@pytest.mark.parametrize("text", ["", "# nothing", "---"])
def test_an_empty_file_lacks_what_must_be_there(text: str) -> None:
    assert problems(load(server_1=text)) == [
        "server-1.yaml:1:1: addresses: is missing (write addresses: [192.0.2.11])",
        "server-1.yaml:1:1: role: is missing (write role: server or role: agent)",
    ]


GOOD = [
    "mac: 52-54-00-AA-00-01",
    "labels: {disktype: ssd, example.com/rack: '', node.kubernetes.io/pool: a}",
    "taints: ['dedicated=db:NoSchedule', 'node.cilium.io/agent-not-ready:NoExecute']",
    "files: [{path: /etc/motd, mode: 0644, contents: x}, {path: /etc/a, mode: 0, local: d/a}]",
    "units: [{name: getty@.service, enabled: false}, {name: a.timer, contents: x}]",
    "butane: [disk.bu, sub/disk.bu]",
    "keep: [/srv/data, /var/lib/rancher/k3s/agent/images]",
    "mirror: https://mirror.example.com:8443/k3s/",
    "os: {arch: arm64}\nartifacts: {etcdctl: v3.6.7, rclone: v1.71.0, age: v1.2.1, sysexts: {k: v1.2.3+k3s1}}",
    "os: {name: fcos}\nartifacts: {age: null, sysexts: {wasmtime: null}}",
    f"ssh_keys: ['from=\"192.0.2.0/24\" {KEY}']",
    "k3s: {snapshots: {schedule: '@every 1h30m'}}",
    "k3s: {snapshots: {schedule: 'CRON_TZ=UTC 5,35 0-6/2 ? JAN-mar MON'}}",
    "k3s: {config: {write-kubeconfig-mode: '0644', kubelet-arg: [max-pods=200], debug: true}}",
    "k3s: {version: v1.36.3+k3s1}\napi: {sans: ['*.example.com', 192.0.2.99]}",
    "k3s: {version: v1.36.0-rc1+k3s1}",
    "k3s: {config: {cluster-dns: '10.43.0.10', kubelet-arg+: [v=2], flag-of-next-year: 1}}",
    "k3s: {config: {kube-controller-manager-arg: [node-cidr-mask-size=26]}}\nnetwork: {cluster_cidr: 10.32.0.0/25}",
    "keep: [/etc/rancher/node, '/srv/a-b_c.d@e:f']",
    "network: {interface: bond0.100, backend: none}",
    "os: {update: {strategy: off, window: {length: 23h59m, days: [Sat]}}}",
    "os: {name: fcos, update: {window: {days: [Sat, Sun]}}}",
    "# nothing\nlabels: {}\nnetwork:\nos:\n",
]


@pytest.mark.parametrize("added", GOOD)
def test_what_is_right_is_not_complained_about(added: str) -> None:
    fleet = load(server_1=f"{SERVER}{added}\n")
    assert problems(fleet) == []
    assert list(fleet.hosts) == ["server-1"]


def test_values_get_their_canonical_form() -> None:
    added = "mac: 52-54-00-AA-00-01\nmirror: https://m.example.com/\nnetwork: {hosts: 192.0.2.0/24}\n"
    host = load(server_1=SERVER + added).hosts["server-1"]
    assert host.mac == "52:54:00:aa:00:01"
    assert host.mirror == "https://m.example.com"
    assert host.network.hosts == ("192.0.2.0/24",)
    assert host.network.cluster_cidr == ("10.42.0.0/16",)


def test_a_host_has_the_clusters_settings_and_its_own_merged_into_them() -> None:
    cluster = changed("  version", "  disable: [traefik]\n  config: {debug: true, v: 2}\n  version")
    own = "k3s: {disable: [servicelb, coredns], config: {v: 4}}\nssh_keys: [" + KEY + "2]\n"
    fleet = load(cluster, server_1=SERVER + own, agent_1=AGENT)
    assert problems(fleet) == []
    server, agent = fleet.hosts["server-1"], fleet.hosts["agent-1"]
    assert server.k3s.disable == ("servicelb", "coredns")
    assert server.k3s.config == {"debug": True, "v": 4}
    assert server.k3s.version == "v1.35.4+k3s1"
    assert server.ssh_keys == (KEY + "2",)
    assert (agent.k3s.disable, agent.k3s.config) == (("traefik",), {"debug": True, "v": 2})
    assert (agent.name, agent.cluster, agent.env) == ("agent-1", "test", "test")


def test_a_host_can_do_without_what_the_cluster_has() -> None:
    fleet = load(changed("  name: k8s", f"  vip: {VIP}\n  name: k8s"), server_1=SERVER + "api: {vip: ~}\n")
    assert fleet.cluster is not None
    assert fleet.cluster.api.vip is not None
    assert fleet.hosts["server-1"].api.vip is None


def test_a_host_cannot_be_changed() -> None:
    host = load(server_1=SERVER).hosts["server-1"]
    with pytest.raises(ValueError, match="frozen"):
        host.role = "agent"


def test_names_are_in_natural_order() -> None:
    names = ["server-10", "server-2", "agent-1", "server-1b", "1", "server-1"]
    expected = ["1", "agent-1", "server-1", "server-1b", "server-2", "server-10"]
    assert sorted(names, key=natural) == expected
    hosts = {f"server_{n}": SERVER.replace("11", str(n)) for n in (10, 2, 9)}
    fleet = load(**hosts)
    assert list(fleet.hosts) == ["server-2", "server-9", "server-10"]
    assert model.servers(fleet.hosts)[2] == {"name": "server-10", "addresses": ["192.0.2.10"]}


def test_all_problems_of_all_files_are_told_at_once() -> None:
    fleet = load(
        CLUSTER + "netwrok: {}\nkeep: [srv]\n",
        server_1="role: sever\naddresses: [192.0.2.11]\nmac: x\n",
        server_2=SERVER + "labels: {a: b}\nlabels: {c: 1}\n",
        server_3="role: [\n",
        agent_1=AGENT.replace("21", "11"),
    )
    assert problems(fleet) == [
        "cluster.yaml:7:1: netwrok: is not a known key (did you mean network?)",
        'cluster.yaml:8:8: keep[0]: "srv" is not an absolute path (write /srv)',
        'server-1.yaml:1:7: role: "sever" is not one of server, agent (did you mean server?)',
        ('server-1.yaml:2:13: addresses[0]: "192.0.2.11" is also agent-1\'s, at hosts/test/agent-1.yaml:2'),
        'server-1.yaml:3:6: mac: "x" is not a mac address (like 52:54:00:12:34:56)',
        ('server-2.yaml:2:13: addresses[0]: "192.0.2.11" is also agent-1\'s, at hosts/test/agent-1.yaml:2'),
        "server-2.yaml:4:1: labels: is there twice (keep one of them)",
        "server-2.yaml:4:13: labels.c: 1 is not text (put it in quotes)",
        "server-3.yaml:1:8: YAML: a value was expected here",
    ]
    assert fleet.cluster is not None
    assert list(fleet.hosts) == ["agent-1"]


def test_a_clusters_fault_is_told_once_and_not_for_each_host() -> None:
    cluster = changed("v1.35.4", "v1.29.0") + "network: {cluster_cidr: 10.43.0.0/16}\n"
    own = "network: {interface: eth1}\n"
    fleet = load(cluster, server_1=SERVER + own, agent_1=AGENT + own)
    assert problems(fleet) == [
        (
            'cluster.yaml:3:12: k3s.secrets_encryption: "secretbox" needs k3s v1.30.12, v1.31.8, '
            "v1.32.4 or v1.33.0, this is v1.29.0+k3s1 (a newer version, or aescbc)"
        ),
        ('cluster.yaml:7:25: network.service_cidr: "10.43.0.0/16" overlaps network.cluster_cidr (10.43.0.0/16)'),
    ]


def test_a_fault_of_the_merge_is_told_at_the_hosts_file() -> None:
    cluster = CLUSTER + "os: {update: {strategy: etcd-lock}}\n"
    fleet = load(cluster, server_1=SERVER + "os: {name: fcos}\n")
    assert problems(fleet) == [
        (
            'server-1.yaml:3:12: os.update.strategy: "etcd-lock" is Flatcar\'s, Fedora CoreOS has '
            "no such lock (write reboot)"
        )
    ]


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (None, ["cluster.yaml: is missing (hosts/example/cluster.yaml is one to copy)"]),
        (
            "",
            [
                "cluster.yaml:1:1: api: is missing (write api: {name: k8s.example.com})",
                "cluster.yaml:1:1: k3s: is missing (write k3s: {version: v1.35.4+k3s1})",
                "cluster.yaml:1:1: name: is missing (write name: my-cluster)",
                ("cluster.yaml:1:1: ssh_keys: is missing (write ssh_keys: [ssh-ed25519 AAAA... name])"),
            ],
        ),
        ("name: [\n", ["cluster.yaml:1:8: YAML: a value was expected here"]),
        (
            changed("  version: v1.35.4+k3s1", "  datastore: etcd"),
            ["cluster.yaml:3:3: k3s.version: is missing (write version: v1.35.4+k3s1)"],
        ),
        (
            changed("name: test", "name: Test_1"),
            ['cluster.yaml:1:7: name: "Test_1" is not a DNS label (write test-1)'],
        ),
    ],
)
def test_a_cluster_that_cannot_be_used_does_not_hide_a_hosts_fault(cluster: str | None, expected: list[str]) -> None:
    fleet = load(cluster, server_1="role: sever\naddresses: [192.0.2.11]\n", server_2=SERVER)
    told = 'server-1.yaml:1:7: role: "sever" is not one of server, agent (did you mean server?)'
    clash = 'server-2.yaml:2:13: addresses[0]: "192.0.2.11" is also server-1\'s, at '
    assert problems(fleet) == [*expected, told, clash + "hosts/test/server-1.yaml:2"]
    assert fleet.cluster is None
    assert fleet.hosts == {}


def test_keys_of_a_hosts_file_are_refused_in_a_clusters() -> None:
    fleet = load(CLUSTER + "role: server\ntaints: []\n", server_1=SERVER)
    remedy = "is not a known key (a host's file says it, not the cluster's)"
    assert problems(fleet) == [
        f"cluster.yaml:7:1: role: {remedy}",
        f"cluster.yaml:8:1: taints: {remedy}",
    ]


def test_two_hosts_do_not_share_an_address_or_a_mac() -> None:
    mac = "mac: 52:54:00:00:00:01\n"
    fleet = load(server_1=SERVER + mac, agent_1=AGENT.replace("21", "11") + mac.upper().lower())
    assert problems(fleet) == [
        ('server-1.yaml:2:13: addresses[0]: "192.0.2.11" is also agent-1\'s, at hosts/test/agent-1.yaml:2'),
        ('server-1.yaml:3:6: mac: "52:54:00:00:00:01" is also agent-1\'s, at hosts/test/agent-1.yaml:3'),
    ]


def test_the_vip_is_no_hosts_address_and_inside_the_network() -> None:
    vip = changed("  name: k8s", f"  vip: {VIP.replace('.10', '.21')}\n  name: k8s")
    assert problems(load(vip, server_1=SERVER, agent_1=AGENT)) == [
        ('agent-1.yaml:2:13: addresses[0]: "192.0.2.21" is api.vip.address too, at hosts/test/cluster.yaml:5')
    ]
    vip = changed("  name: k8s", f"  vip: {VIP}\n  name: k8s") + "network: {hosts: 198.51.100.0/24}\n"
    assert problems(load(vip, server_1=SERVER.replace("192.0.2", "198.51.100"))) == [
        ('cluster.yaml:5:18: api.vip.address: "192.0.2.10" is outside of network.hosts (198.51.100.0/24)')
    ]


def test_a_cluster_has_a_server() -> None:
    told = ["cluster.yaml: the cluster has no server (write role: server in a host's file)"]
    assert problems(load(agent_1=AGENT)) == told
    assert problems(load()) == told


def test_an_even_number_of_servers_is_warned_of() -> None:
    hosts = {f"server_{n}": SERVER.replace("11", str(n)) for n in range(1, 5)}
    fleet = load(**hosts)
    assert problems(fleet) == []
    assert warnings(fleet) == [
        (
            "cluster.yaml: the cluster has 4 servers (server-1, server-2, server-3, server-4), an "
            "even number: it bears the loss of no more servers than 3 (1, 3 or 5)"
        )
    ]


def test_a_vip_is_checked_against_the_networks_of_servers_and_not_of_an_agent_elsewhere() -> None:
    vip = changed("  name: k8s", f"  vip: {VIP}\n  name: k8s") + "network: {hosts: 192.0.2.0/24}\n"
    own = "network: {hosts: 198.51.100.0/24}\n"
    assert problems(load(vip, server_1=SERVER, agent_1=AGENT.replace("192.0.2", "198.51.100") + own)) == []
    assert problems(load(vip, server_1=SERVER.replace("192.0.2", "198.51.100") + own)) == [
        'server-1.yaml:3:18: api.vip.address: "192.0.2.10" is outside of network.hosts (198.51.100.0/24)'
    ]


@pytest.mark.parametrize(
    ("version", "net", "told"),
    [
        ("v1.34.9", "10.0.0.0/11", "is larger than a /12, which kube-apiserver of k3s v1.34.9+k3s1 refuses"),
        ("v1.34.9", "10.0.0.0/12", ""),
        ("v1.34.9", "2001:db8::/107", "is larger than a /108"),
        ("v1.34.9", "2001:db8::/108", ""),
        ("v1.35.4", "10.0.0.0/11", ""),
        ("v1.35.4", "2001:db8::/63", "is larger than a /64"),
        ("v1.35.4", "2001:db8::/64", ""),
    ],
)
def test_the_services_network_is_not_larger_than_the_api_server_takes(version: str, net: str, told: str) -> None:
    pods, host = ("2001:db8:42::/56", "2001:db8:1::b") if ":" in net else ("10.42.0.0/16", "192.0.2.11")
    cluster = changed("v1.35.4", version) + f'network: {{cluster_cidr: "{pods}", service_cidr: "{net}"}}\n'
    found = problems(load(cluster, server_1=f'role: server\naddresses: ["{host}"]\n'))
    assert [told in line for line in found] == ([True] if told else [])


def test_the_pods_network_has_a_part_for_each_host() -> None:
    hosts = {f"server_{n}": SERVER.replace("11", str(n)) for n in (1, 2, 3)}
    small = CLUSTER + "network: {cluster_cidr: 10.42.0.0/23}\n"
    assert problems(load(small, server_1=SERVER, agent_1=AGENT)) == []
    assert problems(load(small, **hosts)) == [
        (
            'cluster.yaml:7:25: network.cluster_cidr: "10.42.0.0/23" is too small for 3 hosts: '
            "each takes a /24 (a /22 or larger)"
        )
    ]
    assert problems(load(small.replace("{cl", "{backend: none, cl"), **hosts)) == []
    parts = changed("  version", "  config: {kube-controller-manager-arg: [node-cidr-mask-size-ipv4=26]}\n  version")
    assert problems(load(parts + "network: {cluster_cidr: 10.42.0.0/23}\n", **hosts)) == []
    dual = CLUSTER + DUAL.replace("/56", "/63").replace("/16", "/20", 1)
    both = {name: f'role: server\naddresses: [192.0.2.{n}, "2001:db8::{n}"]\n' for n, name in enumerate(hosts, 1)}
    assert [line.partition(" (")[0] for line in problems(load(dual, **both))] == [
        'cluster.yaml:8:32: network.cluster_cidr[1]: "2001:db8:42::/63" is too small for 3 hosts: each takes a /64'
    ]


def test_an_agent_has_of_the_clusters_settings_what_agents_know() -> None:
    more = "  config: {kubelet-arg: [v=2], kubelet-arg+: [x=1], etcd-arg: [a=b], tls-san-security: true, of-later: 1}\n"
    cluster = changed("  version", more + "  version")
    own = "k3s: {config: {of-later: 2, debug: true}}\n"
    fleet = load(cluster, server_1=SERVER, agent_1=AGENT, agent_2=AGENT.replace("21", "22") + own)
    assert problems(fleet) == []
    assert list(fleet.hosts["server-1"].k3s.config) == [
        *("kubelet-arg", "kubelet-arg+", "etcd-arg", "tls-san-security", "of-later")
    ]
    assert list(fleet.hosts["agent-1"].k3s.config) == ["kubelet-arg", "kubelet-arg+"]
    assert fleet.hosts["agent-2"].k3s.config == {
        "kubelet-arg": ["v=2"],
        "kubelet-arg+": ["x=1"],
        "of-later": 2,
        "debug": True,
    }


@pytest.mark.parametrize("key", ["etcd-arg", "kube-apiserver-arg+", "write-kubeconfig-mode", "cluster-dns"])
def test_a_setting_of_servers_is_refused_in_an_agents_file(key: str) -> None:
    own = f"k3s: {{config: {{{key}: x}}}}\n"
    shown = f'"{key}"' if key.endswith("+") else key
    assert problems(load(server_1=SERVER, agent_1=AGENT + own))[0] == (
        f"agent-1.yaml:3:16: k3s.config.{shown}: is a setting of servers only, "
        "with it k3s does not start on an agent (leave it out)"
    )


def test_no_flag_is_of_servers_alone_and_of_agents() -> None:
    assert not rules.AGENT_FLAGS & rules.SERVER_FLAGS


def test_sqlite_is_for_one_server_without_vip_and_snapshots() -> None:
    sqlite = "  datastore: sqlite\n  snapshots: {retention: 3}\n  version"
    cluster = changed("  version", sqlite).replace("  name: k8s", f"  vip: {VIP}\n  name: k8s")
    fleet = load(cluster, server_1=SERVER, server_2=SERVER.replace("11", "12"))
    assert problems(fleet) == [
        ('cluster.yaml:3:14: k3s.datastore: "sqlite" allows one server, here are 2: server-1, server-2 (write etcd)')
    ]
    assert warnings(fleet) == [
        ("cluster.yaml:4:14: k3s.snapshots: has no effect with sqlite: k3s takes snapshots of etcd only"),
        "cluster.yaml:7:8: api.vip: is of no use with sqlite: there is one server only",
    ]


def test_settings_that_k3s_needs_equal_are_equal_on_all_servers() -> None:
    own = "k3s: {config: {cluster-domain: a.example, flannel-ipv6-masq: true}, disable: [servicelb]}"
    fleet = load(
        server_1=SERVER,
        server_2=SERVER.replace("11", "12") + "network: {backend: vxlan}\n",
        server_3=SERVER.replace("11", "13") + own,
        agent_1=AGENT + "k3s: {disable: [servicelb]}\n",
    )
    end = "it must be equal on all servers (say it in cluster.yaml)"
    assert problems(fleet) == [
        "server-2.yaml:3:20: network.backend: is vxlan here and wireguard-native on server-1, " + end,
        "server-3.yaml:3:32: k3s.config.cluster-domain: is a.example here and not set on server-1, " + end,
        "server-3.yaml:3:62: k3s.config.flannel-ipv6-masq: is true here and not set on server-1, " + end,
        "server-3.yaml:3:78: k3s.disable: is servicelb here and not set on server-1, " + end,
    ]


# https://docs.k3s.io/cli/server, "Critical Configuration Values", but for those that i12e renders
@pytest.mark.parametrize(
    "key",
    [
        *("cluster-dns", "cluster-domain", "disable-cloud-controller", "disable-helm-controller"),
        *("disable-network-policy", "egress-selector-mode", "embedded-registry"),
        *("flannel-external-ip", "flannel-ipv6-masq"),
    ],
)
@pytest.mark.parametrize("plus", ["", "+"])
def test_each_critical_setting_of_k3s_is_equal_on_all_servers(key: str, plus: str) -> None:
    own = f"k3s: {{config: {{{key}{plus}: 10.43.0.11}}}}\n"
    told = problems(load(server_1=SERVER, server_2=SERVER.replace("11", "12") + own))
    rule = "is 10.43.0.11 here and not set on server-1, it must be equal on all servers (say it in cluster.yaml)"
    assert [line.partition(": ")[2] for line in told] == [f"k3s.config.{key}: {rule}"]
    assert len(rules._CRITICAL) == 9


def test_no_agent_is_more_than_three_minors_older_than_a_server() -> None:
    server = SERVER + "k3s: {version: v1.36.0-rc2+k3s1}\n"
    old = load(server_1=server, agent_1=AGENT + "k3s: {version: v1.32.9+k3s1}\n")
    assert problems(old) == [
        (
            'agent-1.yaml:3:16: k3s.version: "v1.32.9+k3s1" is more than 3 minors older than server-1\'s '
            "v1.36.0-rc2+k3s1: its kubelet may not be (upgrade the agents before the servers go on)"
        )
    ]
    three = load(server_1=server, agent_1=AGENT + "k3s: {version: v1.33.9+k3s1}\n")
    assert problems(three) == []
    assert "agent-1.yaml:3:16: k3s.version" in warnings(three)[0]


@pytest.mark.parametrize(
    ("version", "has"),
    [("v1.33.0-rc1", False), ("v1.33.0", True), ("v1.33.1-rc1", True), ("v1.34.0-rc1", True), ("v1.32.4-rc9", False)],
)
def test_a_release_candidate_comes_before_its_release(version: str, has: bool) -> None:
    assert rules.has(f"{version}+k3s1", rules.SECRETBOX) is has


def test_no_agent_is_newer_than_a_server() -> None:
    newer = load(server_1=SERVER, agent_1=AGENT + "k3s: {version: v1.36.1+k3s1}\n")
    assert problems(newer) == [
        (
            'agent-1.yaml:3:16: k3s.version: "v1.36.1+k3s1" is newer than server-1\'s v1.35.4+k3s1 '
            "(servers are upgraded first)"
        )
    ]
    older = load(server_1=SERVER + "k3s: {version: v1.34.1+k3s1}\n", agent_1=AGENT)
    assert problems(older) == [
        (
            'server-1.yaml:3:16: k3s.version: "v1.34.1+k3s1" is older than agent-1\'s '
            "v1.35.4+k3s1, no agent may be newer than a server (servers are upgraded first)"
        )
    ]


def test_an_upgrade_that_is_under_way_is_only_warned_of() -> None:
    own = "k3s: {version: v1.36.1+k3s1}\n"
    older = "k3s: {version: v1.34.1+k3s1}\n"
    fleet = load(server_1=SERVER + own, agent_1=AGENT + older)
    assert problems(fleet) == []
    assert warnings(fleet) == [
        ('agent-1.yaml:3:16: k3s.version: "v1.34.1+k3s1" is of another minor than the cluster\'s (v1.35.4+k3s1)'),
        (
            'server-1.yaml:3:16: k3s.version: "v1.36.1+k3s1" is not the cluster\'s (v1.35.4+k3s1) '
            "(fine for the time of an upgrade)"
        ),
    ]


def test_dual_stack_and_ipv6_alone_work() -> None:
    server = 'role: server\naddresses: [192.0.2.11, "2001:db8::B"]\n'
    assert load(CLUSTER + DUAL, server_1=server).hosts["server-1"].addresses[1] == "2001:db8::b"
    assert problems(load(CLUSTER + DUAL, server_1=SERVER)) == [
        (
            "server-1.yaml:2:12: addresses: is IPv4, but network.cluster_cidr is dual stack "
            "(two addresses, IPv4 then IPv6)"
        )
    ]
    six = 'network: {cluster_cidr: "2001:db8:42::/56", service_cidr: "2001:db8:43::/112"}\n'
    assert problems(load(CLUSTER + six, server_1='role: server\naddresses: "2001:db8::b"\n')) == []


def test_a_hosts_name_is_its_files_and_not_one_of_ours() -> None:
    fleet = load(server_1=SERVER, helm=AGENT, Bad_1=AGENT.replace("21", "22"))
    assert problems(fleet) == [
        "Bad-1.yaml: the host's name is not a DNS label (rename the file to bad-1.yaml)",
        "helm.yaml: the name helm is i12e's own (rename the file, it is the host's name)",
    ]


@pytest.mark.parametrize("version", ["v1.30.12", "v1.31.8", "v1.32.4", "v1.33.0", "v1.37.1", "v2.0.0"])
def test_secretbox_goes_with_the_releases_that_have_it(version: str) -> None:
    assert problems(load(changed("v1.35.4", version), server_1=SERVER)) == []


@pytest.mark.parametrize("version", ["v1.29.99", "v1.30.11", "v1.31.7", "v1.32.3"])
def test_secretbox_is_refused_before(version: str) -> None:
    assert "secretbox" in problems(load(changed("v1.35.4", version), server_1=SERVER))[0]


def test_no_message_shows_a_secret() -> None:
    planted = "hunter2hunter2"
    own = [
        f"k3s: {{config: {{token: {planted}, etcd-s3-secret-key: {{a: {planted}}}}}}}",
        f"ssh_keys: ['-----BEGIN OPENSSH PRIVATE KEY----- {planted}']",
        f"mirror: https://u:{planted}@example.com",
        f"token: {planted}",
        f"files: [{{path: /etc/a, contents: {{a: {planted}}}}}]",
    ]
    told = problems(load(server_1=SERVER + "\n".join(own)))
    assert len(told) == 6
    assert planted not in "\n".join(told)


@pytest.mark.parametrize("env", ["example", "example-fcos"])
def test_the_example_environments_are_free_of_problems_and_warnings(env: str) -> None:
    names = [path.stem for path in (ROOT / "hosts" / env).glob("*.yaml") if path.stem != "cluster"]
    fleet = model.load_fleet(f"hosts/{env}", env, names, lambda path: (ROOT / path).read_bytes())
    assert (fleet.problems, fleet.warnings) == ([], [])
    assert sorted(fleet.hosts, key=natural) == sorted(names, key=natural)
    assert fleet.cluster is not None
    assert (fleet.cluster.api.vip is None) == (env == "example-fcos")


def test_a_key_that_looks_like_pydantics_own_mark_is_told_like_any_other() -> None:
    told = problems(load(server_1=SERVER + "'[key]': 1\nlabels: {'[key]': b}\n"))
    assert [line.partition(" (")[0] for line in told] == [
        'server-1.yaml:3:1: "[key]": is not a known key',
        'server-1.yaml:4:10: labels."[key]": is not a Kubernetes key',
    ]


@pytest.mark.parametrize("kind", [Cluster, Host])
def test_each_field_has_a_description(kind: type[Settings]) -> None:
    schema = kind.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        assert part["description"]
        for name, field in part["properties"].items():
            # what only repeats its class's description is left out beside a $ref
            assert field.get("description") or "$ref" in field, f"{part['title']}.{name}"


SAMPLE = (ROOT / "hosts/example/agent-1.yaml").read_text()
SHARED = (ROOT / "hosts/example/cluster.yaml").read_text()
JUNK = [
    "",
    "~",
    "5",
    "-1",
    "1.5",
    "true",
    "0644",
    "[]",
    "{}",
    "[a]",
    "{a: b}",
    "x" * 99,
    "'",
    "[",
    "&a [*a]",
]
JUNK += [
    "\t",
    "\x00",
    "\ud7ff",
    "---",
    "*a",
    "!x y",
    "|",
    "2026-01-01",
    "1e400",
    "9" * 400,
    "²",
    "v²",
]


def damaged(text: str, rng: random.Random) -> str:
    """Return a text with characters deleted or inserted, or one value replaced by junk."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        line, choice = lines[at], rng.randrange(4)
        column = rng.randrange(len(line) + 1)
        if choice == 0:
            lines[at] = line[:column] + line[column + rng.randint(1, 9) :]
        elif choice == 1:
            lines[at] = line[:column] + rng.choice(JUNK) + line[column:]
        elif choice == 2:
            lines[at] = line.partition(":")[0] + ": " + rng.choice(JUNK)
        else:
            lines.insert(at, lines[rng.randrange(len(lines))])
    return "\n".join(lines)


@settings(max_examples=sampled(300), deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_no_damage_raises_anything_and_each_place_lies_within_its_file(
    seed: int, of_cluster: bool, of_host: bool
) -> None:
    rng = random.Random(seed)  # noqa: S311  # seeded by hypothesis
    cluster = damaged(SHARED, rng) if of_cluster else SHARED
    agent = damaged(SAMPLE, rng) if of_host else SAMPLE
    fleet = load(cluster, server_1=SERVER, agent_1=agent)
    texts = {"cluster": cluster, "server-1": SERVER, "agent-1": agent}
    for problem in fleet.problems + fleet.warnings:
        lines = texts[problem.file.removeprefix("hosts/test/").removesuffix(".yaml")].splitlines()
        assert problem.line is None or 1 <= problem.line <= max(len(lines), 1)
        assert problem.column is None or problem.column >= 1
        assert "Input should be" not in str(problem)
        assert "pydantic" not in str(problem)
    assert fleet.problems or len(fleet.hosts) == 2

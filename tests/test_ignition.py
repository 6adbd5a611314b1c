"""The real Ignition takes every config, and makes of each example host's what the host is to be.

Validating needs Debian's ignition; applying needs root too.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import ignition
from applied import differences
from conftest import ROOT, Project, copy_of_example, need
from i12e import model, render
from i12e.files import Files
from i12e.paths import Paths
from i12e.secrets import Vault
from ignition import Tree

pytestmark = pytest.mark.ignition

EXAMPLES = {
    "example": ("agent-1", "agent-2", "server-1", "server-2", "server-3"),
    "example-fcos": ("agent-1", "server-1"),
}

# --- two more environments, of settings that the examples do not have

ONE = {  # one server on SQLite, dual stack, agents of both systems
    "cluster.yaml": """\
name: one
k3s: {version: v1.35.4+k3s1, datastore: sqlite, secrets_encryption: none, disable: [], config: {debug: true}}
api: {name: one.example.com, sans: [192.0.2.99, k8s.internal]}
network:
  hosts: [192.0.2.0/24, "2001:db8::/64"]
  backend: host-gw
  cluster_cidr: [10.42.0.0/16, "2001:db8:42::/56"]
  service_cidr: [10.43.0.0/16, "2001:db8:43::/112"]
os: {name: flatcar, update: {strategy: "off"}}
ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 one"]
mirror: https://mirror.example.com
""",
    "server-1.yaml": 'role: server\naddresses: [192.0.2.11, "2001:db8::11"]\n',
    "agent-1.yaml": 'role: agent\naddresses: [192.0.2.21, "2001:db8::21"]\n',
    "agent-2.yaml": 'role: agent\naddresses: [192.0.2.22, "2001:db8::22"]\nos: {name: fcos}\n',
}
OWN_SERVER = """\
role: server
addresses: [192.0.2.12]
labels: {"example.com/own": a.b_c}
keep: [/srv/data, /srv/own]
files:
  - {path: /etc/motd, mode: 0644, contents: "from the host's file"}
  - {path: /etc/own/secret.conf, mode: 0640, user: core, group: docker, local: own.conf}
  - {path: /opt/own/run, mode: 0755, contents: "#!/bin/sh\\necho own\\n"}
  - {path: /etc/crictl.yaml, mode: 0600, contents: "timeout: 99\\n"}
units:
  - name: own.service
    enabled: true
    contents: |
      [Service]
      ExecStart=/opt/own/run
      [Install]
      WantedBy=multi-user.target
  - {name: fstrim.timer, enabled: true}
  - {name: locksmithd.service, enabled: false}
  - {name: k3s.service, dropins: [{name: 20-own.conf, contents: "[Service]\\nEnvironment=OWN=1\\n"}]}
  - {name: k3s-install.service, dropins: [{name: own.conf, contents: "[Service]\\nRestartSec=99\\n"}]}
butane: [extra.bu, last.bu]
"""
EXTRA = """\
variant: flatcar
version: 1.1.0
passwd:
  groups: [{name: operators, gid: 2000}]
  users:
    - {name: core, ssh_authorized_keys: ["ssh-ed25519 AAAAsecond"]}
    - {name: ops, uid: 2000, primary_group: operators, ssh_authorized_keys: ["ssh-ed25519 AAAAops"]}
storage:
  directories: [{path: /srv/own, mode: 0750, user: {name: ops}}]
  files:
    - {path: /etc/motd, mode: 0600, overwrite: true, contents: {inline: "from the snippet"}}
    - {path: /etc/systemd/system.conf.d/10-i12e.conf, mode: 0644, overwrite: true, contents: {inline: "[Manager]\\n"}}
    - {path: /etc/base.conf, contents: {inline: "one\\n"}, append: [{inline: "two\\n"}]}
  links: [{path: /etc/localtime, target: /usr/share/zoneinfo/Europe/Berlin}]
systemd:
  units:
    - {name: update-engine.service, mask: true}
    - {name: k3s-install.service, dropins: [{name: own.conf, contents: "[Service]\\nRestartSec=98\\n"}]}
"""
LAST = """\
variant: flatcar
version: 1.1.0
storage: {files: [{path: /etc/last, mode: 0644, contents: {local: own.conf}}]}
systemd: {units: [{name: fstrim.timer, enabled: false}]}
"""
THREE = {  # three servers without a virtual address; the second has files, units and snippets of its own
    "cluster.yaml": """\
name: three
k3s: {version: v1.35.4+k3s1, secrets_encryption: aescbc}
api: {name: k8s.example.com}
network: {hosts: [192.0.2.0/24]}
os: {name: flatcar, update: {strategy: etcd-lock, window: {start: "23:30", length: 1h30m, days: [Sun]}}}
ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 first"]
""",
    "server-1.yaml": "role: server\naddresses: [192.0.2.11]\n",
    "server-2.yaml": OWN_SERVER,
    "server-3.yaml": "role: server\naddresses: [192.0.2.13]\n",
    "agent-1.yaml": "role: agent\naddresses: [192.0.2.21]\n",
    "files/own.conf": "own = yes\n",
    "butane/extra.bu": EXTRA,
    "butane/last.bu": LAST,
}
MORE = {"example-one": ONE, "example-three": THREE}
ENVIRONMENTS = {**EXAMPLES, "example-one": ("agent-1", "agent-2", "server-1")} | {
    "example-three": ("agent-1", "server-1", "server-2", "server-3")
}

# --- what there is to look at


@dataclass(frozen=True)
class Machine:
    """A host: its model, its config, its cluster's tokens, and the tree that Ignition made of the config."""

    host: model.Host
    config: bytes
    tokens: dict[str, str]
    tree: Tree

    @property
    def id(self) -> str:
        """Environment and name."""
        return f"{self.host.env}/{self.host.name}"

    @property
    def traits(self) -> list[str]:
        """What decides which files it has."""
        found = ["any", self.host.os.name, self.host.role, self.id]
        if self.host.role == "server":
            found += [f"{self.host.os.name} {self.host.k3s.datastore}", *(["vip"] if self.host.api.vip else [])]
        return found

    @property
    def unit(self) -> str:
        """The unit of its k3s."""
        return "k3s.service" if self.host.role == "server" else "k3s-agent.service"

    def k3s(self) -> dict[str, Any]:
        """Return the settings of its k3s."""
        return unique(yaml.compose(self.tree.text("/etc/rancher/k3s/config.yaml")))

    def manifests(self) -> dict[str, list[dict[str, Any]]]:
        """Return the manifests that its k3s deploys, by file name, each as its documents."""
        folder = self.tree.place("/var/lib/rancher/k3s/server/manifests")
        return {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(folder.glob("*"))}


def unique(node: yaml.Node | None) -> dict[str, Any]:
    """Given a YAML mapping, return it; fail if a key is there twice, of which a parser would take either."""
    assert isinstance(node, yaml.MappingNode)
    keys = [key.value for key, _ in node.value]
    assert sorted(keys) == sorted(set(keys))
    found = yaml.safe_load(yaml.serialize(node))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with all environments, rendered."""
    project = copy_of_example(tmp_path_factory.mktemp("ignition") / "checkout")
    for env, files in MORE.items():
        shutil.copytree(project.root / "secrets/example", project.root / "secrets" / env)
        for name, text in files.items():
            project.write(f"hosts/{env}/{name}", text)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("SOPS_", "DOIT_")):
                patch.delenv(name)
        for env in ENVIRONMENTS:
            patch.setenv("I12E_ENV", env)
            done = project.doit()
            if done.status:
                pytest.fail(done.err, pytrace=False)
    return project


@pytest.fixture(scope="session")
def machines(checkout: Project, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Machine]:
    """Gives a host by its environment and name; its config is applied when it is first asked for."""
    lacking = ignition.missing()
    need(not lacking, lacking)
    files = Files(checkout.root)
    hosts = {
        f"{env}/{name}": host
        for env in ENVIRONMENTS
        for name, host in model.load_fleet(f"hosts/{env}", env, ENVIRONMENTS[env], files.read).hosts.items()
    }
    tokens = {env: demo_tokens(checkout, env) for env in ENVIRONMENTS}
    known: dict[str, Machine] = {}

    def machine(name: str) -> Machine:
        if name not in known:
            host = hosts[name]
            config = checkout.outputs(host.env)[host.name]
            tree = ignition.apply(config, tmp_path_factory.mktemp("host"), host.os.name)
            known[name] = Machine(host, config, tokens[host.env], tree)
        return known[name]

    return machine


def demo_tokens(project: Project, env: str) -> dict[str, str]:
    """Given an environment of the examples, return the tokens of its cluster."""
    group = Vault(Paths(project.root, env), Files(project.root)).group("cluster")
    return {key: group[key].reveal() for key in ("server_token", "agent_token")}


@pytest.fixture
def machine(request: pytest.FixtureRequest, machines: Callable[[str], Machine]) -> Machine:
    """The host that a test is about."""
    return machines(request.param)


@pytest.fixture
def own(machines: Callable[[str], Machine]) -> Machine:
    """The server with files, units and snippets of its own."""
    return machines("example-three/server-2")


def hosts_of(environments: dict[str, tuple[str, ...]], role: str = "") -> list[str]:
    """Given environments, return their hosts of a role, or all."""
    return [f"{env}/{name}" for env, names in environments.items() for name in names if name.startswith(role)]


def each(names: list[str]) -> pytest.MarkDecorator:
    """Given hosts, return the mark by which a test runs on each of them."""
    return pytest.mark.parametrize("machine", names, indirect=True)


ALL = hosts_of(ENVIRONMENTS)
on_every_host = each(ALL)
on_every_example = each(hosts_of(EXAMPLES))
on_every_server = each(hosts_of(ENVIRONMENTS, "server"))
on_every_agent = each(hosts_of(ENVIRONMENTS, "agent"))
FCOS = [*hosts_of({"example-fcos": EXAMPLES["example-fcos"]}), "example-one/agent-2"]
FLATCAR = [name for name in ALL if name not in FCOS]

# --- what a host is to have, by its traits: files and folders with their modes, links, units

ALONE = "i12e-restore-alone.service"
FILES = {
    "any": {
        "/etc/hostname": 0o644,
        "/etc/crictl.yaml": 0o644,
        "/etc/i12e/host.json": 0o644,
        "/etc/i12e/k3s.conf": 0o644,
        "/etc/rancher/k3s/config.yaml": 0o600,
        "/etc/systemd/system.conf.d/10-i12e.conf": 0o644,
        "/etc/systemd/system/k3s-install.service": 0o644,
        "/opt/i12e/bin/k3s-gate": 0o755,
        "/opt/i12e/bin/k3s-install": 0o755,
    },
    "flatcar": {"/etc/flatcar/update.conf": 0o644},
    "fcos": {
        "/etc/systemd/system/k3s-selinux.service": 0o644,
        "/etc/yum.repos.d/rancher-k3s-common.repo": 0o644,
        "/etc/zincati/config.d/55-i12e.toml": 0o644,
        "/opt/i12e/bin/k3s-selinux": 0o755,
    },
    "server": {
        "/etc/i12e/manifests": 0o644,
        f"/etc/systemd/system/{ALONE}": 0o644,
        "/etc/systemd/system/k3s.service.d/10-i12e.conf": 0o644,
    },
    "agent": {"/etc/systemd/system/k3s-agent.service.d/10-i12e.conf": 0o644},
    "flatcar etcd": {"/opt/bin/e": 0o755},
    "fcos etcd": {"/usr/local/bin/e": 0o755},
    "vip": {
        "/var/lib/rancher/k3s/server/manifests/i12e-kube-vip.yaml": 0o600,
        "/var/lib/rancher/k3s/server/manifests/i12e-kube-vip-rbac.yaml": 0o600,
    },
    "example/agent-1": {"/etc/motd": 0o644},
    **{
        f"example/server-{number}": {"/var/lib/rancher/k3s/server/manifests/i12e-helm-prometheus.yaml": 0o600}
        for number in (1, 2, 3)
    },
    "example-three/server-2": {
        "/etc/base.conf": 0o644,
        "/etc/crictl.yaml": 0o600,
        "/etc/last": 0o644,
        "/etc/motd": 0o600,
        "/etc/own/secret.conf": 0o640,
        "/etc/systemd/system/k3s-install.service.d/own.conf": 0o644,
        "/etc/systemd/system/k3s.service.d/20-own.conf": 0o644,
        "/etc/systemd/system/own.service": 0o644,
        "/opt/own/run": 0o755,
    },
}
FOLDERS = {
    "any": {"/etc/rancher/k3s/config.yaml.d": 0o700, "/var/lib/i12e": 0o700},
    "server": {"/var/lib/rancher/k3s/server": 0o700, "/var/lib/rancher/k3s/server/manifests": 0o700},
    "example-three/server-2": {"/srv/own": 0o750},
}
LINKS = {
    "any": {
        "/etc/systemd/system/multi-user.target.wants/k3s-install.service": "/etc/systemd/system/k3s-install.service",
    },
    "server": {
        f"/etc/systemd/system/multi-user.target.wants/{ALONE}": f"/etc/systemd/system/{ALONE}",
    },
    "flatcar": {
        "/etc/extensions/containerd-flatcar.raw": "/dev/null",
        "/etc/extensions/docker-flatcar.raw": "/dev/null",
    },
    "example-three/server-2": {
        "/etc/localtime": "/usr/share/zoneinfo/Europe/Berlin",
        "/etc/systemd/system/update-engine.service": "/dev/null",
    },
}
OWNERS = {"example-three/server-2": {"/etc/own/secret.conf": (500, 233), "/srv/own": (2000, 0)}}
ENABLED = {
    "any": {"k3s-install.service": True},
    "server": {ALONE: True},
    "fcos": {"k3s-selinux.service": True},
    "example/agent-1": {"fstrim.timer": True},
    "example-three/server-2": {"own.service": True, "fstrim.timer": False, "locksmithd.service": False},
}
OF_THE_OS = {"fstrim.timer", "locksmithd.service"}  # units that we only switch on or off
# systemd-analyze leaves a stamp in /run, whatever the root is that it is told.
OTHER_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs run /run && exec "$@"', "sh")
PROGRAMS_OF_THE_OS = {"/bin/sh"}


def expected(table: dict[str, dict[str, Any]], machine: Machine) -> dict[str, Any]:
    """Given a table by trait, return what it says of a machine: of two sayings, the host's own holds."""
    found: dict[str, Any] = {}
    for trait in sorted(machine.traits, key=lambda trait: trait == machine.id):
        found |= table.get(trait, {})
    return found


def of_homes(path: str) -> bool:
    """Given a path, return whether it is in the home of a user."""
    return path.startswith(("/home/", "/var/home/"))


# --- configs as such


def test_the_hosts_that_are_looked_at_here_are_all_hosts_of_all_examples(checkout: Project) -> None:
    assert {env: tuple(checkout.outputs(env)) for env in ENVIRONMENTS} == ENVIRONMENTS
    assert sorted(EXAMPLES) == sorted(path.parent.name for path in ROOT.glob("hosts/example*/cluster.yaml"))


@pytest.mark.parametrize("name", ALL)
def test_ignition_validate_has_nothing_against_any_config(checkout: Project, ignition_validate: str, name: str) -> None:
    env, _, host = name.partition("/")
    assert ignition.verdict(ignition_validate, checkout.outputs(env)[host]) == ""


def test_ignition_validate_has_something_against_a_config_that_is_wrong(
    checkout: Project, ignition_validate: str
) -> None:
    config = checkout.outputs()["server-1"]
    assert "not absolute" in ignition.verdict(ignition_validate, config.replace(b'"/etc/hostname"', b'"etc/hostname"'))


# --- files, folders, links, owners


@on_every_host
def test_a_host_is_all_that_its_config_says_and_nothing_else(machine: Machine) -> None:
    assert differences(ignition.load(machine.config), machine.tree) == []


@on_every_host
def test_a_host_gets_exactly_its_files_with_their_modes(machine: Machine) -> None:
    tree = machine.tree
    found = {path: oct(tree.mode(path)) for path in tree.files() if not of_homes(path)}
    assert found == {tree.real(path): oct(mode) for path, mode in expected(FILES, machine).items()}


@on_every_host
def test_a_host_gets_exactly_its_links_and_flatcars_own_containers_are_masked(machine: Machine) -> None:
    assert machine.tree.links() == expected(LINKS, machine)


@on_every_host
def test_folders_that_hold_secrets_or_state_are_private_and_all_others_are_open_to_read_alone(machine: Machine) -> None:
    tree = machine.tree
    private = {tree.real(path): mode for path, mode in expected(FOLDERS, machine).items()}
    assert set(private) <= set(tree.folders())
    for path in tree.folders():
        if not of_homes(path):
            assert oct(tree.mode(path)) == oct(private.get(path, 0o755)), path


@on_every_host
def test_everything_but_the_homes_is_roots_unless_the_host_says_otherwise(machine: Machine) -> None:
    owners = expected(OWNERS, machine)
    for path in machine.tree.made():
        if not of_homes(path):
            assert machine.tree.owner(path) == owners.get(path, (0, 0)), path


@on_every_host
def test_nobody_but_the_owner_may_write_to_any_file(machine: Machine) -> None:
    tree = machine.tree
    assert [path for path in (*tree.files(), *tree.folders()) if tree.mode(path) & 0o022] == []


# --- secrets


@on_every_agent
def test_an_agent_knows_the_agents_token_alone(machine: Machine) -> None:
    holders = holders_of(machine.tokens["server_token"], machine)
    assert holders == []
    assert machine.tokens["server_token"].encode() not in json.dumps(decoded(machine.config)).encode()
    assert holders_of(machine.tokens["agent_token"], machine) == ["/etc/rancher/k3s/config.yaml"]


@on_every_server
def test_a_server_has_its_tokens_in_one_file(machine: Machine) -> None:
    for token in machine.tokens.values():
        assert holders_of(token, machine) == ["/etc/rancher/k3s/config.yaml"]


@on_every_host
def test_nothing_that_holds_a_token_can_be_read_by_anyone_but_root(machine: Machine) -> None:
    tree = machine.tree
    holders = [path for token in machine.tokens.values() for path in holders_of(token, machine)]
    assert holders
    for path in holders:
        assert tree.mode(path) & 0o077 == 0, path
        assert tree.owner(path) == (0, 0), path


def holders_of(token: str, machine: Machine) -> list[str]:
    """Given a token, return the paths of all files of the tree that hold it, whoever made them."""
    paths = (path for path in machine.tree.walk() if not machine.tree.place(path).is_symlink())
    files = [path for path in paths if machine.tree.place(path).is_file()]
    assert len(files) > 10
    return sorted(path for path in files if token.encode() in machine.tree.place(path).read_bytes())


def decoded(config: bytes) -> dict[str, Any]:
    """Given a config, return it with its data URLs in clear."""
    found = ignition.load(config)
    for file in ignition.files(found).values():
        for part in (file.get("contents"), *file.get("append", ())):
            if part:
                part["source"] = ignition.content(part).decode()
    return found


# --- k3s

AGENT = {"node-name": "agent-1", "token": "agent_token"}
SERVER = {
    "token": "server_token",
    "agent-token": "agent_token",
    "cluster-cidr": "10.42.0.0/16",
    "service-cidr": "10.43.0.0/16",
    "flannel-backend": "wireguard-native",
    "secrets-encryption": True,
    "secrets-encryption-provider": "secretbox",
    "etcd-snapshot-schedule-cron": "0 */6 * * *",
    "etcd-snapshot-retention": 12,
}
OF_EXAMPLE = {"flannel-iface": "eth0", "kubelet-arg": ["max-pods=200"]}
SERVER_OF_EXAMPLE = {
    **SERVER,
    **OF_EXAMPLE,
    "disable": ["traefik", "servicelb"],
    "tls-san": ["k8s.example.com", "192.0.2.10"],
}
BY_VIP = {"server": "https://192.0.2.10:6443"}
SERVER_OF_THREE = {**SERVER, "secrets-encryption-provider": "aescbc", "tls-san": ["k8s.example.com"]}

K3S: dict[str, dict[str, Any]] = {
    "example/server-1": {**SERVER_OF_EXAMPLE, "node-name": "server-1", "node-ip": "192.0.2.11"},
    "example/server-2": {**SERVER_OF_EXAMPLE, "node-name": "server-2", "node-ip": "192.0.2.12"},
    "example/server-3": {**SERVER_OF_EXAMPLE, "node-name": "server-3", "node-ip": "192.0.2.13"},
    "example/agent-1": {
        **AGENT,
        **OF_EXAMPLE,
        **BY_VIP,
        "node-ip": "192.0.2.21",
        "node-label": ["disktype=ssd", "topology.kubernetes.io/zone=rack-1"],
    },
    "example/agent-2": {
        **AGENT,
        **OF_EXAMPLE,
        **BY_VIP,
        "node-name": "agent-2",
        "node-ip": "192.0.2.22",
        "node-label": ["dedicated=db"],
        "node-taint": ["dedicated=db:NoSchedule"],
    },
    "example-fcos/server-1": {
        **SERVER,
        "node-name": "server-1",
        "node-ip": "198.51.100.11",
        "tls-san": ["k8s.fcos.example.com"],
        "selinux": True,
    },
    "example-fcos/agent-1": {
        **AGENT,
        "node-ip": "198.51.100.21",
        "server": "https://198.51.100.11:6443",
        "node-label": ["disktype=hdd"],
        "selinux": True,
    },
    "example-one/server-1": {
        "token": "server_token",
        "agent-token": "agent_token",
        "node-name": "server-1",
        "node-ip": "192.0.2.11,2001:db8::11",
        "cluster-cidr": "10.42.0.0/16,2001:db8:42::/56",
        "service-cidr": "10.43.0.0/16,2001:db8:43::/112",
        "flannel-backend": "host-gw",
        "tls-san": ["one.example.com", "192.0.2.99", "k8s.internal"],
        "debug": True,
    },
    "example-one/agent-1": {
        **AGENT,
        "node-ip": "192.0.2.21,2001:db8::21",
        "server": "https://192.0.2.11:6443",
        "debug": True,
    },
    "example-one/agent-2": {
        **AGENT,
        "node-name": "agent-2",
        "node-ip": "192.0.2.22,2001:db8::22",
        "server": "https://192.0.2.11:6443",
        "debug": True,
        "selinux": True,
    },
    "example-three/server-1": {**SERVER_OF_THREE, "node-name": "server-1", "node-ip": "192.0.2.11"},
    "example-three/server-2": {
        **SERVER_OF_THREE,
        "node-name": "server-2",
        "node-ip": "192.0.2.12",
        "node-label": ["example.com/own=a.b_c"],
    },
    "example-three/server-3": {**SERVER_OF_THREE, "node-name": "server-3", "node-ip": "192.0.2.13"},
    "example-three/agent-1": {**AGENT, "node-ip": "192.0.2.21", "server": "https://192.0.2.11:6443"},
}


@on_every_host
def test_k3s_is_told_exactly_what_the_hosts_and_the_clusters_files_say(machine: Machine) -> None:
    wanted = dict(K3S[machine.id])
    for key in ("token", "agent-token"):
        if key in wanted:
            wanted[key] = machine.tokens[wanted[key]]
    assert machine.k3s() == wanted


@on_every_server
def test_no_servers_config_can_found_a_cluster_or_join_one_by_itself(machine: Machine) -> None:
    assert {"cluster-init", "server"} & machine.k3s().keys() == set()
    assert machine.tree.exists("/etc/rancher/k3s/config.yaml.d")
    assert list(machine.tree.place("/etc/rancher/k3s/config.yaml.d").iterdir()) == []


@on_every_host
def test_no_host_is_born_with_a_permit_a_hold_or_data(machine: Machine) -> None:
    assert list(machine.tree.place("/var/lib/i12e").iterdir()) == []
    assert not machine.tree.exists("/var/lib/rancher/k3s/server/db")


JOIN = {
    "example": "https://192.0.2.10:6443",
    "example-fcos/server-1": "",
    "example-fcos/agent-1": "https://198.51.100.11:6443",
    "example-one/server-1": "",
    "example-one": "https://192.0.2.11:6443",
    "example-three/server-1": "https://192.0.2.12:6443 https://192.0.2.13:6443",
    "example-three/server-2": "https://192.0.2.11:6443 https://192.0.2.13:6443",
    "example-three/server-3": "https://192.0.2.11:6443 https://192.0.2.12:6443",
    "example-three/agent-1": "https://192.0.2.11:6443 https://192.0.2.12:6443 https://192.0.2.13:6443",
}


@on_every_host
def test_a_shell_reads_in_k3s_conf_who_the_host_is_and_whom_it_joins(machine: Machine) -> None:
    fcos = machine.host.os.name == "fcos"
    mirror = "https://mirror.example.com" if machine.host.env == "example-one" else ""
    assert settings_of(machine) == {
        "cluster": machine.host.cluster,
        "host": machine.host.name,
        "role": machine.host.role,
        "datastore": "sqlite" if machine.host.env == "example-one" else "etcd",
        "join_urls": JOIN.get(machine.id, JOIN.get(machine.host.env)),
        "k3s_version": "v1.35.4+k3s1",
        "bin": "/usr/local/bin" if fcos else "/opt/bin",
        "selinux": "yes" if fcos else "no",
        "script_url": f"{mirror or 'https://raw.githubusercontent.com'}/k3s-io/k3s/v1.35.4%2Bk3s1/install.sh",
        "releases_url": f"{mirror or 'https://github.com'}/k3s-io/k3s/releases",
    }


def settings_of(machine: Machine) -> dict[str, str]:
    """Given a machine, return what a shell knows after reading its k3s.conf."""
    path = "/etc/i12e/k3s.conf"
    names = re.findall(r"^(\w+)=", machine.tree.text(path), re.MULTILINE)
    values = " ".join(f'"${name}"' for name in names)
    found = shell("-euc", f'. "$1"; printf "%s\\n" {values}', "sh", str(machine.tree.place(path)))
    return dict(zip(names, found.stdout.split("\n")[:-1], strict=True))


def shell(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Given arguments, run sh with them and nothing else in its environment."""
    environ = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(["sh", *args], env=environ, capture_output=True, text=True, check=False, timeout=120)


# --- the hold and the permit


@on_every_host
def test_k3s_starts_only_past_the_gate_and_never_while_the_host_is_held(machine: Machine) -> None:
    settings = machine.tree.units()[f"{ignition.UNITS}/{machine.unit}.d/10-i12e.conf"]
    assert ("Unit", "ConditionPathExists", "!/var/lib/i12e/hold") in settings
    assert ["/bin/sh", "/opt/i12e/bin/k3s-gate"] in ignition.commands(settings)
    assert ("Service", "ExecStartPre", "/bin/sh /opt/i12e/bin/k3s-gate") in settings
    assert ("Unit", "StartLimitIntervalSec", "0") in settings
    assert ("Unit", "RequiresMountsFor", "/var/lib/i12e /var/lib/rancher/k3s") in settings


@on_every_host
def test_a_host_fresh_from_ignition_does_not_start_k3s_while_no_server_answers(
    machine: Machine, tmp_path: Path
) -> None:
    done = gate(copied(machine, tmp_path), tmp_path)
    assert done.returncode == 1, done.stdout
    wanted = "this server has no data" if machine.host.role == "server" else "this agent waits"
    assert wanted in done.stderr


@on_every_server
def test_a_permit_makes_a_server_fresh_from_ignition_found_its_cluster(machine: Machine, tmp_path: Path) -> None:
    tree = copied(machine, tmp_path)
    tree.place("/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    permit = tree.place("/var/lib/i12e/permit")
    permit.write_text(
        f"permit=1\nid=one\naction=found\ncluster={machine.host.cluster}\nhost={machine.host.name}\n"
        "machine-id=0123456789abcdef0123456789abcdef\nservers=\n"
    )
    done = gate(tree, tmp_path)
    assert done.returncode == 0, done.stderr
    decision = "/etc/rancher/k3s/config.yaml.d/90-i12e.yaml"
    etcd = machine.host.k3s.datastore == "etcd"
    assert yaml.safe_load(tree.text(decision)) == ({"cluster-init": True} if etcd else {})
    assert tree.mode(decision) == 0o600
    assert not permit.exists()


def copied(machine: Machine, folder: Path) -> Tree:
    """Given a machine and a folder, return a copy of its tree in there, to change."""
    shutil.copytree(machine.tree.root, folder / "copy", symlinks=True)
    return Tree(folder / "copy", machine.tree.before)


def gate(tree: Tree, folder: Path) -> subprocess.CompletedProcess[str]:
    """Given a tree, run its gate, as systemd would before k3s, in a world where no server answers."""
    curl = folder / "bin/curl"
    curl.parent.mkdir()
    curl.write_text("#!/bin/sh\nexit 7\n")
    curl.chmod(0o755)
    path = f"{curl.parent}:{os.environ['PATH']}"
    return shell(str(tree.place("/opt/i12e/bin/k3s-gate")), PATH=path, I12E_ROOT=str(tree.root))


# --- who the host is, and who may enter


@on_every_host
def test_a_host_has_its_name(machine: Machine) -> None:
    assert machine.tree.text("/etc/hostname") == f"{machine.host.name}\n"


@on_every_host
def test_host_json_says_whose_the_host_is_and_the_digest_of_the_config_without_it(machine: Machine) -> None:
    config = ignition.load(machine.config)
    config["storage"]["files"] = [file for file in config["storage"]["files"] if file["path"] != render.HOST_JSON]
    assert json.loads(machine.tree.text("/etc/i12e/host.json")) == {
        "cluster": machine.host.cluster,
        "host": machine.host.name,
        "role": machine.host.role,
        "digest": render.digest(config),
    }


def test_no_two_hosts_have_the_same_digest(machines: Callable[[str], Machine]) -> None:
    digests = {json.loads(machines(name).tree.text("/etc/i12e/host.json"))["digest"] for name in ALL}
    assert len(digests) == len(ALL)


@on_every_host
def test_core_lets_in_the_keys_of_the_cluster_and_keeps_them_to_itself(machine: Machine) -> None:
    tree, core = machine.tree, ignition.CORE[machine.host.os.name]
    more = ["ssh-ed25519 AAAAsecond"]
    assert tree.keys("core") == [*machine.host.ssh_keys, *(more if machine.id == "example-three/server-2" else [])]
    homes = [path for path in tree.made() if f"{path}/".startswith(f"{tree.real('/home/core')}/")]
    assert homes
    for path in homes:
        assert tree.owner(path) == (core, core), path
        assert tree.mode(path) & 0o077 == 0, path


# --- updates

# A server waits for the one before it: windows of one length, one after the other. Agents are spread behind them.
WINDOWS = {
    "example/server-1": ("02:00", "1h"),
    "example/server-2": ("03:00", "1h"),
    "example/server-3": ("04:00", "1h"),
    "example/agent-1": ("02:00", "1h"),
    "example/agent-2": ("03:30", "30m"),
    "example-three/server-1": ("Sun 23:30", "1h30m"),
    "example-three/server-2": ("Mon 01:00", "1h30m"),
    "example-three/server-3": ("Mon 02:30", "1h30m"),
    "example-three/agent-1": ("Sun 23:30", "1h30m"),
}


@each(FLATCAR)
def test_flatcar_reboots_in_the_hosts_own_window_or_fetches_no_updates_at_all(machine: Machine) -> None:
    lines = shlex.split(machine.tree.text("/etc/flatcar/update.conf"), comments=True)
    found = dict(line.split("=", 1) for line in lines)
    if machine.id not in WINDOWS:
        assert found == {"REBOOT_STRATEGY": "off", "SERVER": "disabled"}
        return
    start, length = WINDOWS[machine.id]
    assert found == {
        "REBOOT_STRATEGY": "reboot" if machine.host.env == "example" else "etcd-lock",
        "LOCKSMITHD_REBOOT_WINDOW_START": start,
        "LOCKSMITHD_REBOOT_WINDOW_LENGTH": length,
    }


@each(FCOS)
def test_fedora_coreos_reboots_in_the_hosts_window_or_not_by_itself(machine: Machine) -> None:
    found = tomllib.loads(machine.tree.text("/etc/zincati/config.d/55-i12e.toml"))
    if machine.host.env == "example-one":
        assert found == {"updates": {"enabled": False}}
        return
    start = "03:30"  # server-1 is the first, and agent-1 has the first window by its name
    window = {"days": ["Sat", "Sun"], "start_time": start, "length_minutes": 90}
    assert found == {"updates": {"enabled": True, "strategy": "periodic", "periodic": {"window": [window]}}}


# --- what else a host is told


@on_every_host
def test_a_reboot_waits_half_a_minute_for_what_does_not_stop(machine: Machine) -> None:
    dropin = machine.tree.units()[f"{ignition.UNITS}/{machine.unit}.d/10-i12e.conf"]
    assert ("Service", "TimeoutStopSec", "30s") in dropin
    if machine.id != "example-three/server-2":  # which puts its own in the place of this one
        system = ignition.unit(machine.tree.text("/etc/systemd/system.conf.d/10-i12e.conf"))
        assert ("Manager", "DefaultTimeoutStopSec", "30s") in system


@on_every_example
def test_crictl_talks_to_the_containerd_of_k3s(machine: Machine) -> None:
    found = unique(yaml.compose(machine.tree.text("/etc/crictl.yaml")))
    socket = "unix:///run/k3s/containerd/containerd.sock"
    assert (found["runtime-endpoint"], found["image-endpoint"]) == (socket, socket)


@each(FCOS)
def test_fedora_coreos_takes_the_selinux_policy_of_k3s_signed_and_from_the_mirror_if_there_is_one(
    machine: Machine,
) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(machine.tree.text("/etc/yum.repos.d/rancher-k3s-common.repo"))
    (name,) = parser.sections()
    site = "https://mirror.example.com" if machine.host.env == "example-one" else "https://rpm.rancher.io"
    assert parser[name]["baseurl"] == f"{site}/k3s/stable/common/coreos/noarch"
    assert parser[name]["gpgkey"] == f"{site}/public.key"
    assert parser.getboolean(name, "gpgcheck")
    assert parser.getboolean(name, "enabled")


@each([name for name in hosts_of(ENVIRONMENTS, "server") if not name.startswith("example-one/")])
def test_e_says_that_k3s_has_not_started_on_a_host_fresh_from_ignition(machine: Machine) -> None:
    folder = "/opt/bin" if machine.host.os.name == "flatcar" else "/usr/local/bin"
    done = shell(str(machine.tree.place(f"{folder}/e")), "member", "list", I12E_ROOT=str(machine.tree.root))
    assert done.returncode == 1
    assert "it has not started yet" in done.stderr


# --- manifests


@on_every_server
def test_a_server_says_what_it_deploys_so_that_the_gate_removes_the_rest(machine: Machine) -> None:
    assert sorted(machine.tree.text("/etc/i12e/manifests").split()) == sorted(machine.manifests())
    assert [name for name in machine.manifests() if not name.startswith("i12e-") or "_" in name] == []


@on_every_host
def test_kube_vip_is_deployed_by_servers_alone_and_only_with_a_virtual_address(machine: Machine) -> None:
    wanted = machine.host.role == "server" and machine.host.api.vip is not None
    assert any("kube-vip" in path for path in machine.tree.walk()) == wanted
    assert wanted == machine.id.startswith("example/server-")


@each(hosts_of({"example": EXAMPLES["example"]}, "server"))
def test_kube_vip_is_of_the_pinned_version_and_announces_the_clusters_address(machine: Machine) -> None:
    (daemonset,) = machine.manifests()["i12e-kube-vip.yaml"]
    assert (daemonset["kind"], daemonset["metadata"]["namespace"]) == ("DaemonSet", "kube-system")
    template = daemonset["spec"]["template"]
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert container["image"] == "ghcr.io/kube-vip/kube-vip:v1.0.1"
    environ = {variable["name"]: variable.get("value") for variable in container["env"]}
    told = {"address": "192.0.2.10", "vip_interface": "eth0", "vip_subnet": "32", "cp_enable": "true", "port": "6443"}
    assert told.items() <= environ.items()
    assert all(isinstance(value, str) for value in environ.values() if value is not None)
    assert template["spec"]["hostNetwork"] is True
    (rule,) = template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert rule["matchExpressions"] == [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]


@each(hosts_of({"example": EXAMPLES["example"]}, "server"))
def test_kube_vip_runs_as_an_account_that_is_there_and_may_hold_the_lease(machine: Machine) -> None:
    (daemonset,) = machine.manifests()["i12e-kube-vip.yaml"]
    rbac = {document["kind"]: document for document in machine.manifests()["i12e-kube-vip-rbac.yaml"]}
    assert sorted(rbac) == ["ClusterRole", "ClusterRoleBinding", "ServiceAccount"]
    account = rbac["ServiceAccount"]["metadata"]
    assert account["name"] == daemonset["spec"]["template"]["spec"]["serviceAccountName"]
    (subject,) = rbac["ClusterRoleBinding"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    assert rbac["ClusterRoleBinding"]["roleRef"]["name"] == rbac["ClusterRole"]["metadata"]["name"]
    (leases,) = [rule for rule in rbac["ClusterRole"]["rules"] if rule["resources"] == ["leases"]]
    assert {"get", "create", "update"} <= set(leases["verbs"])


# --- units and scripts


@on_every_host
def test_exactly_the_units_that_are_to_run_are_enabled(machine: Machine) -> None:
    wanted = expected(ENABLED, machine)
    assert machine.tree.preset("enable") == {name for name, enabled in wanted.items() if enabled}
    assert machine.tree.preset("disable") == {name for name, enabled in wanted.items() if not enabled}


@on_every_host
def test_a_unit_that_is_enabled_is_ours_and_says_what_wants_it_or_is_the_oss(machine: Machine) -> None:
    units = machine.tree.units()
    for name in machine.tree.preset("enable") - OF_THE_OS:
        assert ("Install", "WantedBy", "multi-user.target") in units[f"{ignition.UNITS}/{name}"], name


@on_every_host
def test_a_link_by_which_a_target_wants_a_unit_leads_to_a_unit_that_is_there(machine: Machine) -> None:
    wanted = {path: target for path, target in machine.tree.links().items() if ".wants/" in path}
    assert wanted
    for path, target in wanted.items():
        assert target in machine.tree.units()
        assert path.rpartition("/")[2] == target.rpartition("/")[2]


@on_every_host
def test_every_file_that_a_unit_runs_is_there_and_executable(machine: Machine) -> None:
    runs = [command for settings in machine.tree.units().values() for command in ignition.commands(settings)]
    assert ["/bin/sh", "/opt/i12e/bin/k3s-install"] in runs
    for command in runs:
        programs = [command[0], *(word for word in command[1:] if word.startswith(("/opt/", "/usr/local/", "/etc/")))]
        for program in set(programs) - PROGRAMS_OF_THE_OS:
            assert machine.tree.exists(program), command
            assert machine.tree.mode(program) & 0o111 == 0o111, command


@on_every_host
def test_every_script_is_executable_and_free_of_syntax_errors(machine: Machine) -> None:
    tree = machine.tree
    scripts = [path for path in tree.files() if tree.place(path).read_bytes().startswith(b"#!")]
    assert set(scripts) == {path for path in tree.files() if tree.mode(path) & 0o111}
    for path in scripts:
        assert tree.text(path).splitlines()[0] == "#!/bin/sh", path
        done = shell("-n", str(tree.place(path)))
        assert (done.returncode, done.stderr) == (0, ""), path


@on_every_host
def test_systemd_enables_the_units_that_the_preset_names(machine: Machine, tmp_path: Path) -> None:
    if not shutil.which("systemctl"):
        pytest.skip("systemctl is not there; the preset itself is looked at elsewhere")
    tree = copied(machine, tmp_path)
    ours = sorted(tree.preset("enable") - OF_THE_OS)
    done = subprocess.run(
        ["systemctl", f"--root={tree.root}", "preset", *ours], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    wants = tree.place(f"{ignition.UNITS}/multi-user.target.wants")
    assert sorted(path.name for path in wants.iterdir()) == ours


@on_every_host
def test_systemd_understands_every_line_of_our_units(machine: Machine, tmp_path: Path) -> None:
    there = all(shutil.which(name) for name in ("systemd-analyze", "unshare"))
    if not there or subprocess.run([*OTHER_RUN, "true"], check=False).returncode:
        pytest.skip("there is no systemd-analyze, or no way to keep it from the machine's own /run")
    tree = copied(machine, tmp_path)
    shell_of_the_os = tree.place("/bin/sh")
    shell_of_the_os.parent.mkdir()
    shell_of_the_os.touch(0o755)
    for target in ("sysinit", "basic", "shutdown", "multi-user", "network-online"):
        tree.place(f"{ignition.UNITS}/{target}.target").write_text("[Unit]\n")
    k3s = tree.place(f"{ignition.UNITS}/{machine.unit}")  # which comes with k3s
    k3s.write_text("[Unit]\nDescription=k3s\n[Service]\nType=notify\nExecStart=/bin/sh\n")
    units = [str(path) for path in k3s.parent.glob("*.service") if path.is_file()]
    done = subprocess.run(
        [*OTHER_RUN, "systemd-analyze", f"--root={tree.root}", "--man=no", "verify", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""


# --- what a host's own file adds, and what it puts in place of ours


def test_a_file_of_the_host_replaces_one_of_our_templates_with_its_mode(own: Machine) -> None:
    assert own.tree.text("/etc/crictl.yaml") == "timeout: 99\n"
    assert own.tree.mode("/etc/crictl.yaml") == 0o600


def test_a_files_owner_is_found_by_name_and_its_text_in_the_folder_of_local_files(own: Machine) -> None:
    assert own.tree.text("/etc/own/secret.conf") == "own = yes\n"
    assert own.tree.owner("/etc/own/secret.conf") == (500, 233)
    assert own.tree.text("/etc/last") == "own = yes\n"


def test_a_snippet_wins_over_the_hosts_file_and_over_our_templates(own: Machine) -> None:
    assert own.tree.text("/etc/motd") == "from the snippet"
    assert own.tree.mode("/etc/motd") == 0o600
    assert own.tree.text("/etc/systemd/system.conf.d/10-i12e.conf") == "[Manager]\n"


def test_of_two_snippets_the_later_one_wins(own: Machine) -> None:
    assert "fstrim.timer" in own.tree.preset("disable")


def test_a_drop_in_of_the_host_stands_beside_ours_and_beside_the_unit(
    machines: Callable[[str], Machine], own: Machine
) -> None:
    assert own.tree.text("/etc/systemd/system/k3s.service.d/20-own.conf") == "[Service]\nEnvironment=OWN=1\n"
    install = "/etc/systemd/system/k3s-install.service"
    assert own.tree.text(install) == machines("example-three/server-1").tree.text(install)


def test_a_drop_in_of_a_snippet_replaces_the_hosts_of_the_same_name(own: Machine) -> None:
    assert own.tree.text("/etc/systemd/system/k3s-install.service.d/own.conf") == "[Service]\nRestartSec=98\n"


def test_a_snippet_adds_users_keys_folders_links_and_masks(own: Machine) -> None:
    tree = own.tree
    assert tree.keys("core")[-1].endswith("AAAAsecond")
    assert tree.keys("ops") == ["ssh-ed25519 AAAAops"]
    assert "\noperators:x:2000:" in tree.text("/etc/group")
    assert tree.owner("/srv/own") == (2000, 0)
    assert tree.text("/etc/base.conf") == "one\ntwo\n"


def test_a_unit_of_the_host_is_put_enabled_and_its_program_runs(own: Machine) -> None:
    assert "own.service" in own.tree.preset("enable")
    assert shell(str(own.tree.place("/opt/own/run"))).stdout == "own\n"


def test_paths_to_keep_change_nothing_on_the_host_itself(own: Machine) -> None:
    assert own.host.keep == ("/srv/data", "/srv/own")
    assert not own.tree.exists("/srv/data")


def test_what_one_hosts_file_says_is_on_no_other_host(machines: Callable[[str], Machine], own: Machine) -> None:
    ours = set(machines("example-three/server-1").tree.made()) | {"/etc/motd"}
    mine = set(own.tree.made()) - ours
    assert mine
    for name in ALL:
        if name != own.id:
            assert not mine & set(machines(name).tree.made()), name


# --- this test itself


def test_a_config_that_does_not_apply_is_told_with_ignitions_words(
    checkout: Project, machines: Callable[[str], Machine], tmp_path: Path
) -> None:
    config = ignition.load(checkout.outputs()["agent-1"])
    config["storage"]["files"].append({"path": "/etc/x", "user": {"name": "nobody-known"}})
    text = json.dumps(config, separators=(",", ":")).encode()
    with pytest.raises(ignition.Refused, match="nobody-known"):
        ignition.apply(text, tmp_path, "flatcar")

"""A cluster in this process for tests of os_deploy: hosts that do as they are told, a zone in memory, its own clock.

Everything that is done is in `World.events`, in order, with its time; a test may end the run, as a kill would, before
any of it.
"""

from __future__ import annotations

import base64
import json
import re
import time as real_time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from i12e import epoch, fleet, remote, rollout
from i12e.build import Build
from i12e.deploy import Wanted
from i12e.model import Cluster, Host, load_fleet
from i12e.paths import Paths
from i12e.zones import Fence
from memoryzone import Memory

NAME, TTL = "k8s.example.com", 30
DNS = f"dns: {{provider: route53, zone: example.com, ttl: {TTL}, route53: {{zone_id: Z1}}}}\n"
CLUSTER = """\
name: c
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
network: {hosts: [192.0.2.0/24]}
ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA]
"""
UID = "uid-of-c"
FENCE = Fence(UID, 1)
_CONFIG = b'{"ignition": {"version": "3.4.0"}}'
_BEGIN = 1_800_000_000.0
_MODULES = ("leaving", "naming", "rollout", "fleet", "patience")


class Killed(BaseException):
    """The operator's process ends here."""


class Event(NamedTuple):
    """What was done, and when."""

    at: float
    what: str


class Clock:
    """A clock that goes on when somebody sleeps, and a little whenever it is asked."""

    def __init__(self) -> None:
        self.now = _BEGIN

    def time(self) -> float:
        """Return the time."""
        self.now += 0.001
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        self.now += seconds

    strftime = staticmethod(real_time.strftime)
    gmtime = staticmethod(real_time.gmtime)


@dataclass
class Machine:
    """A host: what it runs, and the files below /var/lib/i12e."""

    name: str
    role: str
    digest: str
    boot: int = 1
    proven: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    founded: bool = True
    """Whether it has data of a cluster: it is a member."""
    bare: bool = False
    ready: bool = True
    cordoned: bool = False
    silent: bool = False
    staged: bool = False
    """Whether a reset to its new config waits for the reboot."""

    @property
    def intent(self) -> dict[str, Any] | None:
        """What its deploy.json says."""
        text = self.files.get("deploy.json")
        return None if text is None else json.loads(text)

    @property
    def machine_id(self) -> str:
        """Its machine id."""
        return f"{int(self.name[-1]) + (16 if self.role == 'agent' else 0):032x}"


class World:
    """The cluster, its zone, and a run of os_deploy."""

    def __init__(self, root: Path, servers: int = 3, agents: int = 0, dns: str = DNS) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.kill_at: int | None = None
        self.before: Callable[[str], None] = lambda what: None
        """Called with each event, before it happens."""
        self.zone = Memory()
        self.zone.before = self._zone_event
        self.build = Build(Paths(root, "test"))
        self.cluster, models = _models(servers, agents, dns)
        self.wanted = {host.name: Wanted(host, _CONFIG, f"new of {host.name}") for host in models}
        self.machines = {
            host.name: Machine(host.name, host.role, f"old of {host.name}", proven=f"old of {host.name}")
            for host in models
        }
        self.epoch: int | None = 1
        self.said: list[str] = []

    # --- what a test sets and asks

    @property
    def servers(self) -> list[Machine]:
        """The servers."""
        return [machine for machine in self.machines.values() if machine.role == "server"]

    def address(self, name: str) -> str:
        """Given a host, return its address."""
        return str(self.wanted[name].host.addresses[0])

    def name_is(self, *names: str, ttl: int = TTL, fence: Fence | None = FENCE) -> None:
        """Given hosts, have the name be them."""
        self.zone.plant(NAME, {self.address(name): ttl for name in names}, [fence.text] if fence else [])

    @property
    def shown(self) -> list[str]:
        """The hosts that the name is; an address that is of none of them is named itself."""
        hosts = {self.address(name): name for name in self.machines}
        return [hosts.get(address, address) for address in self.zone.read(NAME).addresses]

    def bare(self) -> None:
        """Have nothing of a cluster anywhere."""
        for machine in self.machines.values():
            machine.bare, machine.founded, machine.ready, machine.proven = True, False, False, ""
        self.epoch = None

    def happened(self, *words: str) -> list[str]:
        """Return the events that have one of some words in them, all without any."""
        return [each.what for each in self.events if not words or any(word in each.what for word in words)]

    def at(self, what: str) -> float:
        """Return when an event was, the last time."""
        return [each.at for each in self.events if each.what == what][-1]

    def event(self, what: str) -> None:
        """Note what is about to happen; raise Killed where the run ends."""
        self.before(what)
        if self.kill_at is not None and len(self.events) >= self.kill_at:
            raise Killed
        self.events.append(Event(self.clock.time(), what))

    def _zone_event(self, operation: str, name: str) -> None:
        if operation in ("commit", "ensure"):
            self.event(f"zone {operation}")

    # --- running

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Have the modules of i12e use this world."""
        with ExitStack() as stack:
            for module in _MODULES:
                stack.enter_context(mock.patch(f"i12e.{module}.time", self.clock))
            stack.enter_context(mock.patch.object(Build, "cluster", return_value=self.cluster))
            stack.enter_context(mock.patch("i12e.naming.zone", return_value=self.zone))
            stack.enter_context(mock.patch("i12e.screen.say", self.said.append))
            yield

    def hosts(self) -> fleet.Hosts:
        """Return the hosts over what is ssh elsewhere."""
        return _Hosts(self)

    def deploy(self, *targets: str, **given: Any) -> None:
        """Run os_deploy over some hosts, all without any; raise what it raises."""
        options = rollout.Options(yes=True, no_backup="a test", timeout=60.0, **given)
        self.build.told.clear()
        with self.patched():
            rollout.Rollout(self.build, self.hosts(), list(targets or self.wanted), options).run()

    # --- what hosts do

    def serves(self) -> list[Machine]:
        """Return the servers whose API answers."""
        return [machine for machine in self.servers if machine.founded and machine.ready and not machine.silent]

    def nodes(self) -> dict[str, Any]:
        """Return the nodes as kubectl lists them."""
        return {"items": [self._node(machine) for machine in self.machines.values() if machine.founded]}

    def _node(self, machine: Machine) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": str(machine.ready)}]
        if machine.role == "server":
            conditions.append({"type": "EtcdIsVoter", "status": "True"})
        info = {"kubeletVersion": "v1.35.4+k3s1", "bootID": f"boot {machine.boot}"}
        return {
            "metadata": {"name": machine.name},
            "spec": {"unschedulable": machine.cordoned},
            "status": {"conditions": conditions, "nodeInfo": info},
        }

    def facts(self, machine: Machine) -> str:
        """Return what the script of facts prints on a host."""
        serves = machine in self.serves()
        said = {"os_release": "ID=flatcar\n", "boot_id": f"boot {machine.boot}", "machine_id": machine.machine_id,
                "reset": "yes", "uptime": "99", "free": "9999999", "free_oem": "9999999"}  # fmt: skip
        if "deploy.json" in machine.files:
            said["intent"] = machine.files["deploy.json"].decode()
        if machine.staged:
            said |= {"staged": "yes", "staged_config": f"new of {machine.name}"}
        if not machine.bare:
            said |= {"identity": json.dumps({"cluster": "c", "host": machine.name, "digest": machine.digest}),
                     "proven": json.dumps({"digest": machine.proven}), "unit": "k3s active"}  # fmt: skip
        if machine.founded:
            said |= {"password": "yes", "agent_data": "yes"}
            said |= {"etcd": "yes", "mark": "c"} if machine.role == "server" else {}
        if serves:
            said |= {"nodes": json.dumps(self.nodes()), "readyz": "ok", "etcd_health": '{"health": "true"}'}
        return "\n".join(f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in said.items())

    def kubectl(self, line: str, stdin: bytes) -> remote.Done:
        """Do what kubectl is told."""
        verb, *rest = line.split()
        if verb in ("create", "apply"):
            self.event("epoch is written down")
            self.epoch = int(json.loads(stdin)["data"]["epoch"])
        else:
            self.event(f"{rest[0]} {verb}")
            self.machines[rest[0]].cordoned = verb == "drain"
        return remote.Done(0, "", "")

    def reset(self, machine: Machine) -> None:
        """Reset a host: it comes up with its new config at once, and joins, or founds."""
        self.event(f"{machine.name} reset")
        machine.boot += 1
        machine.staged = False
        machine.digest, machine.bare = f"new of {machine.name}", False
        machine.founded = machine.ready = True
        if machine.files.pop("permit", None):
            self.event(f"{machine.name} founds")


class _Hosts(fleet.Hosts):
    def __init__(self, world: World) -> None:
        super().__init__(world.build, world.wanted)
        self._world = world

    def __getitem__(self, name: str) -> Any:
        return _Remote(self._world, self._world.machines[name])

    def trust(self, names: Any) -> None:
        """Trust everybody."""


@dataclass
class _Remote:
    world: World
    machine: Machine

    @property
    def target(self) -> Any:
        """What has its name."""
        return SimpleNamespace(name=self.machine.name)

    def hold(self, script: str) -> Any:
        """Return a lock that is held."""
        held = mock.Mock()
        held.first_line.return_value, held.alive.return_value = "held", True
        return held

    def run(self, script: str, stdin: bytes = b"", limit: float = 60.0) -> remote.Done:
        """Do what a script of os_deploy's says."""
        world, machine = self.world, self.machine
        if machine.silent:
            raise remote.Refused(machine.name, "no route to host")
        if script.startswith("set -- "):
            return remote.Done(0, world.facts(machine), "")
        if script == epoch.ASK:
            map_ = "" if world.epoch is None else json.dumps({"data": {"epoch": str(world.epoch)}})
            return remote.Done(0, f"{json.dumps({'metadata': {'uid': UID}})}\n@i12e\n{map_}", "")
        if found := re.search(r"exec k3s kubectl (.*)", script):
            return world.kubectl(found[1], stdin)
        if "boot_id" in script:
            return remote.Done(0, f"boot {machine.boot}\n", "")
        if "systemd-run" in script:
            world.reset(machine)
        else:
            self._files(script, stdin)
        return remote.Done(0, "", "")

    def _files(self, script: str, stdin: bytes) -> None:
        machine = self.machine
        if found := re.search(r"cat >/var/lib/i12e/([\w.]+)\.new", script):
            leaves = " (leaves)" if found[1] == "deploy.json" and b'"leaves": true' in stdin else ""
            self.world.event(f"{machine.name} {found[1]}{leaves}")
            machine.files[found[1]] = stdin
            if found[1] == "proven.json":
                machine.proven = json.loads(stdin)["digest"]
        elif script.startswith("rm -f"):
            names = re.findall(r"i12e/([a-z.]+)", script)
            self.world.event(f"{machine.name} removes {', '.join(names)}")
            for name in names:
                machine.files.pop(name, None)


def _models(servers: int, agents: int, dns: str) -> tuple[Cluster, list[Host]]:
    files = {"hosts/cluster.yaml": CLUSTER + dns}
    for number in range(1, servers + 1):
        files[f"hosts/server-{number}.yaml"] = f"role: server\naddresses: [192.0.2.{10 + number}]\n"
    for number in range(1, agents + 1):
        files[f"hosts/agent-{number}.yaml"] = f"role: agent\naddresses: [192.0.2.{20 + number}]\n"
    names = [path[6:-5] for path in files if "cluster" not in path]
    found = load_fleet("hosts", "test", names, lambda path: files[path].encode())
    assert found.problems == []
    assert found.cluster is not None
    return found.cluster, list(found.hosts.values())

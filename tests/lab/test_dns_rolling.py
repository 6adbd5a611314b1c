"""Hosts that join by the API's name, and a caching resolver before a real name server, during a deployment.

All of it is in the lab's own network: knot has the zone, BIND is the resolver of the hosts and is asked all the time,
and the operator writes to knot. Each test goes on with what the one before has left, so they are run in this order.
"""

from __future__ import annotations

import calendar
import contextlib
import ctypes
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest

from i12e.paths import LAB_MACHINES
from lab import Lab, environment, places
from lab.backing import seal, until
from lab.clones import Operator, another_clone, clone
from lab.fixtures import running
from nameserver import ALGORITHM, KEY, SECRET, Knot, resolver

pytestmark = pytest.mark.lab

SERVERS = ["server-1", "server-2", "server-3"]
HOSTS = [*SERVERS, "agent-1"]
ADDRESSES = {server: places.address(server) for server in SERVERS}
ZONE, NAME = "lab.example", "k8s.lab.example"
TTL = 5
_NETWORK = 0x40000000  # CLONE_NEWNET
NO_BACKUP = ("--no-backup", "the test is of the name")
RESOLV = f"files: [{{path: /etc/resolv.conf, contents: 'nameserver {places.GATEWAY}'}}]\n"


@dataclass
class Scene:
    """The lab, its name server, and an operator in its network."""

    lab: Lab
    knot: Knot
    operator: Operator

    def shown(self) -> list[str]:
        """Return the servers whose addresses the name server has."""
        text = self.knot.control("zone-read", ZONE)
        found = re.findall(rf"{re.escape(NAME)}\. \d+ A (\S+)", text)
        return sorted(name for name, address in ADDRESSES.items() if address in found)

    def deploys(self, *arguments: str) -> str:
        """Run os_deploy, which has to go well; return what it said."""
        done = self.operator.deploys(*(arguments or ("os_deploy",)), *NO_BACKUP)
        return done.out + done.err

    def boots(self) -> dict[str, int]:
        """Return how often each host was started."""
        return {host: state["boots"] for host, state in self.lab.status().items()}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("rolling")
    first = clone(place / "one")
    settings = {
        "provider": "rfc2136", "zone": ZONE, "ttl": TTL,
        "rfc2136": {"server": "localhost", "key_name": KEY, "algorithm": ALGORITHM},
    }  # fmt: skip
    with running(first.root / LAB_MACHINES, HOSTS) as lab:
        knot = Knot(place / "knot", 53, zone=ZONE, enter=lab.enter)
        knot.start()
        try:
            with resolver(place / "named", ZONE, places.GATEWAY, lab.enter):
                operator = Operator(first.root, lab.enter)
                environment.write(operator.root, lab, 3, 1)
                cluster = operator.root / "hosts/lab/cluster.yaml"
                cluster.write_text(f"{cluster.read_text()}\ndns: {json.dumps(settings)}\n")
                for host in HOSTS:
                    file = operator.root / f"hosts/lab/{host}.yaml"
                    file.write_text(file.read_text() + RESOLV)
                seal(operator, "dns", f"rfc2136: {{secret: {SECRET}}}\n")
                yield Scene(lab, knot, operator)
        finally:
            knot.stop()


@dataclass
class Asked:
    """What a resolver said, each time that it was asked: when, its rcode, and the addresses."""

    answers: list[tuple[float, str, frozenset[str]]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def during(self, begin: float, end: float) -> list[frozenset[str]]:
        """Return the addresses that were given between two times."""
        return [addresses for at, _, addresses in self.answers if begin <= at < end]


@contextlib.contextmanager
def asking(lab: Lab) -> Iterator[Asked]:
    """Ask the resolver for the name every 50 ms until the block ends, from within the lab's network."""
    asked, ended = Asked(), threading.Event()
    question = dns.message.make_query(NAME, "A")

    def ask() -> None:
        with open(f"/proc/{lab.pid}/ns/net") as network:
            if ctypes.CDLL(None).setns(network.fileno(), _NETWORK):  # this thread alone
                asked.lost.append("the network cannot be entered")
                return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            while not ended.wait(0.05):
                try:
                    said = dns.query.udp(question, places.GATEWAY, timeout=5, sock=channel, ignore_unexpected=True)
                except dns.exception.DNSException as error:
                    asked.lost.append(str(error))
                    continue
                found = frozenset(each.address for rrset in said.answer for each in rrset if rrset.rdtype == 1)
                asked.answers.append((time.time(), dns.rcode.to_text(said.rcode()), found))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def writing_elsewhere(operator: Operator) -> Iterator[list[str]]:
    """Run `./doit dns` of another clone again and again until the block ends; yield what it said."""
    said: list[str] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(1.0):
            done = operator.doit("dns")
            said.append(done.out + done.err)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield said
    finally:
        ended.set()
        thread.join()


def reset_and_proven(lab: Lab, host: str) -> tuple[float, float]:
    """Return when a host began its last reset, and when it was proven after that, by its own files."""
    log = lab.read(host, "head -n 1 /var/lib/i12e/next.log")
    proven: dict[str, Any] = json.loads(lab.read(host, "cat /var/lib/i12e/proven.json"))
    form = "%Y-%m-%dT%H:%M:%SZ"
    return tuple(float(calendar.timegm(time.strptime(text, form))) for text in (log.split()[0], proven["at"]))  # type: ignore[return-value]


def test_hosts_found_and_join_a_cluster_by_the_name_alone(scene: Scene) -> None:
    """The name is the first server's alone at first, which nobody holds: so it is entered by hand for a new cluster."""
    scene.knot.plant(NAME, {ADDRESSES["server-1"]: TTL}, [], "")
    scene.deploys()
    assert scene.shown() == SERVERS
    for host in HOSTS:
        conf = scene.lab.read(host, "cat /etc/i12e/k3s.conf")
        assert f"join_urls=https://{NAME}:6443\n" in conf
        assert "10.77" not in conf
    nodes = json.loads(scene.lab.read("server-1", "/opt/bin/k3s kubectl get nodes -o json"))["items"]
    assert sorted(node["metadata"]["name"] for node in nodes) == sorted(HOSTS)
    assert scene.operator.doit("plan").status == 0


def test_a_resolver_never_gives_a_server_that_is_being_reset_and_never_nothing(scene: Scene, tmp_path: Path) -> None:
    """Also while another machine runs `./doit dns` all the time."""
    scene.operator.edit("hosts/lab/cluster.yaml", "  name: k8s.lab", "  sans: [other.lab.example]\n  name: k8s.lab")
    plan = scene.operator.doit("plan:server-1")
    assert f"{NAME} is without it first, and for its TTL, {TTL} s, that is waited for" in plan.out
    other = another_clone(scene.operator, tmp_path / "two")
    before = scene.boots()
    with asking(scene.lab) as asked, writing_elsewhere(other) as said:
        scene.deploys("os_deploy")
    assert scene.boots() == {host: count + (host in SERVERS) for host, count in before.items()}
    assert scene.shown() == SERVERS
    assert asked.lost == []
    assert len(asked.answers) > 200
    assert {rcode for _, rcode, _ in asked.answers} == {"NOERROR"}
    assert all(addresses for _, _, addresses in asked.answers)
    for server in SERVERS:
        begin, end = reset_and_proven(scene.lab, server)
        given = asked.during(begin, end)
        assert given, f"{server} was reset in no time"
        assert not [addresses for addresses in given if ADDRESSES[server] in addresses], server
    assert len(said) > 2
    assert sum("DNS " in each for each in said) > 2, said


def test_a_run_that_was_killed_when_a_server_had_left_goes_on_and_dns_leaves_it_out_meanwhile(scene: Scene) -> None:
    scene.operator.edit("hosts/lab/server-2.yaml", "role: server", "role: server\nlabels: {a: b}")
    before = scene.boots()
    process = scene.operator.start("os_deploy:server-2", "--yes", "--timeout", "60s", *NO_BACKUP)
    until(process, f"is out of {NAME}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert scene.shown() == ["server-1", "server-3"]
    assert scene.operator.doit("dns").status == 0
    assert scene.shown() == ["server-1", "server-3"]
    began = time.time()
    said = scene.deploys("os_deploy:server-2")
    assert f"is out of {NAME}" in said
    begin, _ = reset_and_proven(scene.lab, "server-2")
    assert begin - began >= TTL - 1, "it waits for the TTL again"
    assert scene.boots() == before | {"server-2": before["server-2"] + 1}
    assert scene.shown() == SERVERS
    assert scene.operator.doit("plan").status == 0


def test_while_another_cluster_holds_the_name_nothing_is_reset(scene: Scene) -> None:
    scene.operator.edit("hosts/lab/server-3.yaml", "role: server", "role: server\nlabels: {a: b}")
    before = scene.boots()
    scene.knot.control("zone-begin", ZONE)
    scene.knot.control("zone-set", ZONE, f"_i12e.{NAME}.", "5", "TXT", '"i12e cluster=another epoch=9"')
    scene.knot.control("zone-commit", ZONE)
    done = scene.operator.doit("os_deploy:server-3", "--yes", "--timeout", "60s", *NO_BACKUP)
    assert (done.status, "another cluster" in done.err, "nothing was changed" in done.err) == (1, True, True)
    assert scene.boots() == before

"""`dns` with a real cluster's servers and a real name server that takes signed updates (knot, in the lab's network).

Each test goes on with what the one before has left, so they are run in this order and together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i12e.paths import LAB_MACHINES
from lab import Lab, environment, places
from lab.backing import seal, wait
from lab.clones import Ended, Operator, clone
from lab.fixtures import running
from nameserver import ALGORITHM, KEY, SECRET, Knot

pytestmark = pytest.mark.lab

SERVERS = ["server-1", "server-2", "server-3"]
ADDRESSES = {server: places.address(server) for server in SERVERS}
ZONE, NAME = "lab.example", "k8s.lab.example"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dns")


@pytest.fixture(scope="module")
def bare(place: Path) -> Iterator[Lab]:
    root = clone(place / "one").root
    with running(root / LAB_MACHINES, SERVERS) as lab:
        yield lab


@pytest.fixture(scope="module")
def knot(place: Path, bare: Lab) -> Iterator[Knot]:
    """In the lab's network: on port 53, where the other servers of a zone are asked."""
    server = Knot(place / "knot", 53, zone=ZONE, enter=bare.enter)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def operator(place: Path, bare: Lab) -> Operator:
    return Operator(place / "one", bare.enter)


@pytest.fixture(scope="module")
def lab(operator: Operator, bare: Lab, knot: Knot) -> Lab:
    dns = {
        "provider": "rfc2136", "zone": ZONE, "ttl": 5, "join": "addresses",
        "rfc2136": {"server": "localhost", "port": knot.port, "key_name": KEY, "algorithm": ALGORITHM},
    }  # fmt: skip
    environment.write(operator.root, bare, 3, 0)
    cluster = operator.root / "hosts/lab/cluster.yaml"
    cluster.write_text(f"{cluster.read_text()}\ndns: {json.dumps(dns)}\n")
    seal(operator, "dns", f"rfc2136: {{secret: {SECRET}}}\n")
    operator.deploys("os_deploy", "--no-dns", "the tests do that themselves")
    return bare


def shown(knot: Knot) -> tuple[list[str], str]:
    """Return the addresses that the server gives, and the fence."""
    text = knot.control("zone-read", ZONE)
    addresses = re.findall(rf"{re.escape(NAME)}\. \d+ A (\S+)", text)
    fence = re.findall(rf'_i12e\.{re.escape(NAME)}\. \d+ TXT "([^"]*)"', text)
    return sorted(addresses), fence[0] if fence else ""


def dns(operator: Operator, *options: str, status: int = 0) -> Ended:
    done = operator.doit("dns", *options)
    assert done.status == status, done.out + done.err
    return done


def kubectl(lab: Lab, arguments: str) -> Any:
    return json.loads(lab.read("server-1", f"/opt/bin/k3s kubectl -n kube-system {arguments} -o json"))


def uid(lab: Lab) -> str:
    return str(kubectl(lab, "get namespace kube-system")["metadata"]["uid"])


def ready(lab: Lab) -> set[str]:
    """Return the nodes that are ready."""
    nodes = kubectl(lab, "get nodes")["items"]
    told = {node["metadata"]["name"]: node["status"]["conditions"] for node in nodes}
    return {name for name in told if ("Ready", "True") in [(each["type"], each["status"]) for each in told[name]]}


def test_the_name_is_the_servers_and_a_second_run_writes_nothing(operator: Operator, lab: Lab, knot: Knot) -> None:
    assert "fence: cluster" in dns(operator, "--only-plan").out
    assert shown(knot) == ([], "")
    dns(operator)
    addresses, fence = shown(knot)
    assert addresses == sorted(ADDRESSES.values())
    assert fence == f"i12e cluster={uid(lab)} epoch=1"
    before = knot.serial()
    dns(operator)
    assert knot.serial() == before


def test_a_server_that_died_is_out_and_back_when_it_lives(operator: Operator, lab: Lab, knot: Knot) -> None:
    lab.kill("server-2")
    wait(lambda: "server-2" not in ready(lab))
    dns(operator)
    assert shown(knot)[0] == sorted(address for name, address in ADDRESSES.items() if name != "server-2")
    lab.power_on("server-2")
    wait(lambda: "server-2" in ready(lab), 120)
    dns(operator)
    assert shown(knot)[0] == sorted(ADDRESSES.values())


def test_an_older_epoch_gets_nothing_until_it_takes_over(operator: Operator, lab: Lab, knot: Knot) -> None:
    knot.control("zone-begin", ZONE)
    knot.control("zone-unset", ZONE, f"_i12e.{NAME}.", "TXT")
    knot.control("zone-set", ZONE, f"_i12e.{NAME}.", "5", "TXT", f'"i12e cluster={uid(lab)} epoch=7"')
    knot.control("zone-commit", ZONE)
    before = shown(knot)
    done = dns(operator, status=1)
    assert "a later epoch of this cluster" in done.err
    assert "--take-over" in done.err
    assert shown(knot) == before
    assert "nobody can be asked here" in dns(operator, "--take-over", status=1).err
    assert shown(knot) == before
    dns(operator, "--take-over", "--yes")
    assert shown(knot) == (before[0], f"i12e cluster={uid(lab)} epoch=8")
    dns(operator)
    assert kubectl(lab, "get configmap i12e-epoch")["data"] == {"epoch": "8"}


def test_another_cluster_gets_nothing(operator: Operator, lab: Lab, knot: Knot) -> None:
    knot.control("zone-begin", ZONE)
    knot.control("zone-unset", ZONE, f"_i12e.{NAME}.", "TXT")
    knot.control("zone-set", ZONE, f"_i12e.{NAME}.", "5", "TXT", '"i12e cluster=another epoch=1"')
    knot.control("zone-commit", ZONE)
    before = shown(knot)
    assert "another cluster" in dns(operator, status=1).err
    assert shown(knot) == before


def test_without_a_healthy_server_the_name_stays(operator: Operator, lab: Lab, knot: Knot) -> None:
    before = shown(knot)
    for server in SERVERS:
        lab.kill(server)
    assert f"no server is healthy, so {NAME} stays as it is" in dns(operator, status=1).err
    assert shown(knot) == before

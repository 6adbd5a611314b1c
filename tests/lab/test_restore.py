"""`restore` with hosts of the lab, on a real etcd and a real SQLite: what comes back is what was backed up, or nothing.

Each test goes on with the cluster that the one before has left, so they are run in this order and together.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from i12e.paths import LAB_MACHINES
from lab import Lab, environment, places
from lab.api import Trouble
from lab.backing import seal, wait
from lab.clones import another_clone, clone
from lab.fixtures import running
from lab.restores import K3S, Scene, killed
from nameserver import ALGORITHM, KEY, SECRET, Knot

pytestmark = pytest.mark.lab

SERVERS = ["server-1", "server-2", "server-3"]
HOSTS = [*SERVERS, "agent-1"]
DATABASES = "/var/lib/rancher/k3s/server/db"
DATA = "/var/lib/app data"
FAULTS = "/run/i12e-lab-faults"
KILLS = 2
ZONE = "lab.example"


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knot]:
    server = Knot(tmp_path_factory.mktemp("knot"), 53, zone=ZONE)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, knot: Knot) -> Iterator[Scene]:
    """Three servers on etcd and an agent, which holds a path that is backed up; the name is kept by a real knot."""
    folder = tmp_path_factory.mktemp("restore")
    operator = clone(folder / "one")
    server = {"server": "localhost", "port": knot.port, "key_name": KEY, "algorithm": ALGORITHM}
    dns = {"provider": "rfc2136", "zone": ZONE, "ttl": 5, "join": "addresses", "rfc2136": server}
    with running(operator.root / LAB_MACHINES, HOSTS) as lab:
        environment.write(operator.root, lab, 3, 1)
        scene = Scene(operator, lab, HOSTS)
        store = f"{{name: disk, folder: {folder / 'disk'}}}"
        paths = f'{{path: "{DATA}", hosts: [agent-1]}}'
        scene.settings("\nbackup:\n", f"\ndns: {json.dumps(dns)}\nbackup:\n  stores: [{store}]\n  paths: [{paths}]\n")
        seal(operator, "dns", f"rfc2136: {{secret: {SECRET}}}\n")
        (folder / "disk").mkdir()
        operator.deploys()
        file = f'"{DATA}/file"'
        lab.read("agent-1", f'mkdir -p "{DATA}" && echo old >{file} && chown 1234:77 {file} && chmod 640 {file}')
        yield scene


def ready(lab: Lab, server: str) -> int:
    """Return how many nodes are ready by a server, 0 while it boots."""
    with suppress(Trouble):
        return lab.shell(server, f"{K3S} get nodes", limit=60).output.count(" Ready")
    return 0


def addresses(knot: Knot) -> list[str]:
    """Return the addresses of the API's name."""
    return sorted(re.findall(r"k8s\.lab\.example\. \d+ A (\S+)", knot.control("zone-read", ZONE)))


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One server on SQLite."""
    operator = clone(tmp_path_factory.mktemp("lite") / "one")
    with running(operator.root / LAB_MACHINES, ["server-1"]) as lab:
        environment.write(operator.root, lab, 1, 0)
        scene = Scene(operator, lab, ["server-1"])
        scene.settings("datastore: etcd", "datastore: sqlite")
        operator.deploys()
        yield scene


def test_a_living_cluster_is_rolled_back_in_place(three: Scene) -> None:
    three.fill(1500)
    three.back_up()
    three.kubectl("delete configmap c1 c2 c3 >/dev/null")
    three.kubectl("create -f -", '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}}')
    three.lab.read("agent-1", f'echo new >"{DATA}/file"')
    planned = three.operator.doit("restore", "--only-plan")
    assert planned.status == 0, planned.err
    assert "the cluster LIVES on server-1, server-2, server-3" in planned.out
    assert "later" in three.found()[1]
    refused = three.operator.doit("restore")
    assert (refused.status, "nobody can be asked here" in refused.err) == (1, True)
    done = three.restores()
    assert "restored and proven in" in done.out
    assert three.lab.read("agent-1", f'cat "{DATA}/file"; stat -c %u:%g:%a "{DATA}/file"') == "old\n1234:77:640"
    kept = three.lab.read("agent-1", f'cat "{DATA}".before-*/file')
    assert kept == "new"
    assert three.lab.read("server-1", "ls -d /var/lib/rancher/k3s/server.before-*/db")
    assert three.epoch() == 2


def test_all_hosts_are_destroyed_and_others_with_other_names_and_addresses_are_the_cluster(
    three: Scene, knot: Knot, tmp_path_factory: pytest.TempPathFactory
) -> None:
    three.back_up()
    epoch = three.epoch()
    old = another_clone(three.operator, tmp_path_factory.mktemp("old") / "two")
    three.move("server-4", "server-5", "server-6")
    three.settings(", hosts: [agent-1]", "")
    done = three.restores()
    assert f"{DATA} of agent-1 has no host here" in done.err
    assert three.epoch() == epoch + 1
    now = [places.address(host) for host in three.hosts]
    assert addresses(knot) == now
    # The old cluster wakes up: it has the same name, the same UID, and an older epoch.
    for host in SERVERS:
        three.lab.power_on(host)
    (old.root / "hosts/lab/ssh_config").write_text(three.lab.ssh_config.read_text())
    wait(lambda: ready(three.lab, "server-1") >= 3, 240)
    before = sorted(path.name for path in (old.root.parents[1]).glob("restore*/disk/*/backups/*"))
    for task in ("dns", "backup"):
        done = old.doit(task)
        assert done.status == 1, done.out
        assert "a later epoch of this cluster" in done.err
    assert addresses(knot) == now
    assert sorted(path.name for path in (old.root.parents[1]).glob("restore*/disk/*/backups/*")) == before
    for host in SERVERS:
        three.lab.kill(host)


def test_what_does_not_fit_is_told_before_anything_is_touched(three: Scene) -> None:
    three.settings("cluster_cidr: 10.42.0.0/16", "cluster_cidr: 10.99.0.0/16")
    boots = three.lab.read("server-4", "cat /proc/sys/kernel/random/boot_id")
    done = three.operator.doit("restore", "--yes")
    assert done.status == 1
    assert "cluster-cidr: the backup's cluster has 10.42.0.0/16" in done.err
    three.is_back()
    assert three.lab.read("server-4", "cat /proc/sys/kernel/random/boot_id") == boots


@pytest.mark.sweep  # a minute; the next one is from SQLite, too
def test_from_sqlite_onto_another_host_and_back_onto_one_with_a_stale_log(lite: Scene) -> None:
    lite.fill(1500)
    lite.back_up()
    lite.kubectl("delete configmap c1 >/dev/null")
    # what runs there has a -wal, which would be read into a state.db that was put beside it
    assert lite.lab.read("server-1", f"ls {DATABASES}").split().count("state.db-wal") == 1
    lite.restores()
    lite.back_up()
    lite.move("server-2")
    lite.restores()


def test_from_sqlite_to_etcd_also_after_a_conversion_that_failed_half_way(lite: Scene) -> None:
    if not lite.objects:
        lite.fill(1000)
    lite.back_up()
    lite.move("server-3")
    lite.settings("datastore: sqlite", "datastore: etcd")
    process = lite.operator.start("restore", "--yes", "--timeout", "60s")
    while process.poll() is None:  # the host reboots meanwhile, and forgets it
        with suppress(Trouble, OSError):
            lite.lab.shell("server-3", f"mkdir -p {FAULTS}; touch {FAULTS}/migration_fails", limit=5)
        time.sleep(0.2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "does not start on what was restored" in err
    lite.lab.read("server-3", f"rm -f {FAULTS}/migration_fails")
    lite.restores()
    assert "state.db.migrated" in lite.lab.read("server-3", f"ls {DATABASES}")


def test_a_restore_that_is_killed_anywhere_is_ended_by_the_same_command(lite: Scene) -> None:
    lite.back_up()
    chance = random.Random(8)  # noqa: S311  # to be had again
    for _ in range(KILLS):
        killed(lite, chance, 14.0)

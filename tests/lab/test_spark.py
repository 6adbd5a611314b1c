"""`spark_deploy` with a host of the lab: the real rclone fetches from a real S3 and a real sftp server, and real age
opens; the host ends alone what an operator began.

Each test goes on with the cluster that the one before has left, so they are run in this order and together.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import weed
from i12e.backup_keys import LAB_BACKUP_KEY
from i12e.paths import LAB_MACHINES
from lab import environment, fileservers, places
from lab.api import Trouble
from lab.backing import in_text, opened, seal, until, wait
from lab.clones import Operator, clone
from lab.fixtures import running
from lab.restores import Scene

pytestmark = pytest.mark.lab

HOST = "server-1"
DATA = "/var/lib/app data"
BUCKET = "backups"
LIT = "the spark is lit"
SECRET = "/etc/i12e/spark /etc/rancher /var/lib/i12e/spark /var/lib/i12e/restore /var/lib/i12e/next.ign"
PLACES = "/oem /etc /opt /var/lib/i12e /var/log"
GONE = "/etc/i12e/spark /var/lib/i12e/spark /var/lib/i12e/restore/database /var/lib/i12e/restore/alone"


@dataclass
class Sparks(Scene):
    """A cluster of one server, and what its backups lie in."""

    folder: Path = Path()
    """Of the sftp server."""
    stores: dict[str, tuple[dict[str, Any], dict[str, str]]] = field(default_factory=dict)
    """By name, how it is written in the cluster's file and what its secrets are."""

    def keeps_in(self, name: str) -> None:
        """Have the backups in one of the stores from now on."""
        store, credentials = self.stores[name]
        seal(self.operator, "backup", json.dumps({name: credentials}))
        file = self.operator.root / "hosts/lab/cluster.yaml"
        lines = [line for line in file.read_text().splitlines() if not line.startswith("  stores:")]
        lines.insert(lines.index("backup:") + 1, f"  stores: {json.dumps([{'name': name, **store}])}")
        file.write_text("".join(f"{line}\n" for line in lines))

    def bare(self) -> None:
        """Have another machine of that name, with nothing on it."""
        with suppress(Trouble):
            self.lab.kill(HOST)
        self.lab.wipe(HOST)
        self.lab.trust(HOST)
        environment.forget(self.operator.root, [HOST])

    def lights(self, *options: str) -> subprocess.Popen[str]:
        """Begin a spark_deploy, and return as soon as the spark is lit."""
        process = self.operator.start(f"spark_deploy:{HOST}", "--yes", "--timeout", "5m", *options)
        until(process, LIT)
        return process

    def sparks(self, *options: str) -> str:
        """Spark, or go on, which has to go well, and be what was backed up."""
        done = self.operator.doit(f"spark_deploy:{HOST}", "--yes", "--timeout", "5m", *options)
        assert done.status == 0, done.out + done.err
        self.is_back()
        assert self.epoch() > 1
        return done.out + done.err

    def there(self, script: str) -> str:
        """Run a script on the host past the network, "" while it is not up."""
        with suppress(Trouble, OSError):
            return self.lab.shell(HOST, script, limit=20).output.strip()
        return ""

    def released(self) -> bool:
        """Tell whether the host has restored by itself."""
        return "released" in self.there("cat /var/lib/i12e/restore/progress; [ ! -e /var/lib/i12e/restore/alone ]")


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe
        pipe.close()


@contextmanager
def sparks(place: Path, hosts: list[str]) -> Iterator[Sparks]:
    """Given an empty folder and hosts of a lab, have them bare, with a configuration and both file servers."""
    first = clone(place / "one")
    for name in ("weed", "sftp"):
        (place / name).mkdir()
    with (
        running(first.root / LAB_MACHINES, hosts) as lab,
        weed.seaweed(place / "weed", places.GATEWAY, lab.enter) as s3,
        fileservers.sftp(place / "sftp", lab.enter) as nas,
    ):
        operator = Operator(first.root, lab.enter)
        servers = sum(host.startswith("server") for host in hosts)
        environment.write(operator.root, lab, servers, len(hosts) - servers)
        fileservers.publish(operator, lab)
        bucket = {"bucket": BUCKET, "endpoint": s3.url, "region": weed.REGION, "path_style": True, "prefix": "one"}
        stores: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
            "weed": ({"s3": bucket}, s3.credentials),
            "nas": ({"rclone": f"nas:{nas.folder}"}, {"rclone_conf": nas.conf}),
        }
        scene = Sparks(operator, lab, hosts, folder=nas.folder, stores=stores)
        scene.settings("\nbackup:\n", f"\nbackup:\n  paths: {json.dumps([{'path': DATA, 'hosts': [HOST]}])}\n")
        scene.keeps_in("weed")
        options = {"type": "s3", "provider": "Other", "endpoint": s3.url, "region": weed.REGION,
                   "access_key_id": s3.access, "secret_access_key": s3.secret, "force_path_style": "true"}  # fmt: skip
        conf = "[i12e]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        fileservers.rclone(operator, conf, "mkdir", f"i12e:{BUCKET}")
        yield scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sparks]:
    with sparks(tmp_path_factory.mktemp("spark"), [HOST]) as scene:
        yield scene


def test_without_any_backup_a_new_cluster_is_founded_and_that_is_said(scene: Sparks) -> None:
    planned = scene.operator.doit(f"spark_deploy:{HOST}", "--only-plan")
    assert planned.status == 0, planned.out + planned.err
    assert "there is no backup yet: it founds a new cluster" in planned.err
    done = scene.operator.doit("spark_deploy", "--yes", "--timeout", "5m")
    assert done.status == 0, done.out + done.err
    assert "installed and proven" in done.out
    assert "etcd" in scene.there("ls /var/lib/rancher/k3s/server/db")


def test_a_living_cluster_is_left_alone(scene: Sparks) -> None:
    scene.fill(300)
    scene.lab.read(HOST, f'mkdir -p "{DATA}" && echo old >"{DATA}/file" && chown 1234:77 "{DATA}/file"')
    scene.back_up()
    done = scene.operator.doit(f"spark_deploy:{HOST}", "--yes")
    assert (done.status, "the cluster lives on server-1" in done.err) == (1, True)
    assert scene.found() == (scene.uid, scene.objects)


def test_a_host_ends_alone_what_an_operator_lit_and_was_killed_and_keeps_no_key(scene: Sparks) -> None:
    scene.bare()
    killed(scene.lights())
    wait(lambda: "rclone.conf" in scene.there("ls /etc/i12e/spark"), 300)
    key = scene.lab.read(HOST, "cat /etc/i12e/spark/key")
    assert key.startswith("AGE-SECRET-KEY-1")
    assert key not in (scene.operator.root / LAB_BACKUP_KEY).read_text()
    tokens = opened(scene.operator, "cluster")
    assert not in_text(tokens, scene.lab.read(HOST, "cat /etc/rancher/k3s/config.yaml"))
    assert scene.lab.read(HOST, f"find {SECRET} -type f -perm /077 2>/dev/null; true") == ""
    wait(scene.released, 400)
    wait(lambda: scene.there("systemctl is-active k3s") == "active", 300)
    assert scene.lab.read(HOST, f"ls -d {GONE} 2>/dev/null; true") == ""
    script = f"cat >/run/key; grep -rlFf /run/key {PLACES} 2>/dev/null; true"
    assert scene.lab.shell(HOST, script, key.encode()).output == ""
    assert scene.lab.read(HOST, f'cat "{DATA}/file"; stat -c %u:%g "{DATA}/file"') == "old\n1234:77"
    assert "restored and proven in" in scene.sparks()
    assert "etcd" in scene.there("ls /var/lib/rancher/k3s/server/db")


@pytest.mark.sweep  # two minutes, of which the sftp server takes most
def test_what_is_not_what_was_verified_is_not_restored_and_a_host_that_dies_meanwhile_ends_once_it_is_mended(
    scene: Sparks,
) -> None:
    scene.keeps_in("nas")
    scene.back_up()
    scene.bare()
    process = scene.lights()
    (part,) = scene.folder.rglob("database.gz.age")
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, out + err
    assert "database.gz.age in the store is not what was verified" in err
    assert "spark of" in scene.lab.read(HOST, "cat /var/lib/i12e/hold")
    assert scene.lab.read(HOST, "ls -d /var/lib/rancher/k3s/server/db/etcd /etc/i12e/host.json 2>/dev/null; true") == ""
    held = scene.operator.doit("os_deploy", "--yes")
    assert held.status == 1, held.out
    part.write_bytes(whole)
    process = scene.operator.start(f"spark_deploy:{HOST}", "--yes", "--timeout", "5m")
    for stage in (
        "systemctl is-active i12e-spark",
        "[ -e /var/lib/i12e/restore/alone ] && ! [ -e /etc/i12e/spark ] && systemctl is-active i12e-restore-alone",
    ):
        wait(lambda stage=stage: scene.there(stage) == "active", 300)  # type: ignore[misc]
        scene.lab.kill(HOST)
        scene.lab.power_on(HOST)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    scene.is_back()


def test_a_host_without_a_way_out_gets_the_backup_over_ssh(scene: Sparks) -> None:
    scene.keeps_in("weed")
    scene.bare()
    scene.sparks("--push")
    assert scene.lab.read(HOST, f'cat "{DATA}/file"') == "old"


@pytest.mark.sweep  # two minutes
def test_a_spark_makes_etcd_of_a_backup_of_sqlite_and_the_other_hosts_join_it(tmp_path: Path) -> None:
    with sparks(tmp_path, [HOST, "agent-1"]) as scene:
        scene.settings("datastore: etcd", "datastore: sqlite")
        scene.operator.deploys()
        scene.fill(1000)
        scene.lab.read(HOST, f'mkdir -p "{DATA}" && echo old >"{DATA}/file"')
        scene.back_up()
        assert "state.db" in scene.there("ls /var/lib/rancher/k3s/server/db")
        scene.move(HOST, "server-2", "agent-1")
        for host in scene.hosts:
            scene.lab.trust(host)
        scene.settings("datastore: sqlite", "datastore: etcd")
        killed(scene.lights())
        wait(scene.released, 400)
        scene.sparks()
        assert "state.db.migrated" in scene.there("ls /var/lib/rancher/k3s/server/db")
        assert "etcd" in scene.lab.read("server-2", "ls /var/lib/rancher/k3s/server/db")


@pytest.mark.sweep  # a minute
def test_a_spark_leaves_a_backup_of_sqlite_what_it_is(tmp_path: Path) -> None:
    with sparks(tmp_path, [HOST]) as scene:
        scene.settings("datastore: etcd", "datastore: sqlite")
        scene.operator.deploys()
        scene.fill(1000)
        scene.lab.read(HOST, f'mkdir -p "{DATA}" && echo old >"{DATA}/file"')
        scene.back_up()
        scene.bare()
        scene.sparks()
        assert "state.db" in scene.there("ls /var/lib/rancher/k3s/server/db").split()

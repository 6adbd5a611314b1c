"""A cluster of the lab that is restored, and what is known of it; a restore that is killed anywhere, and run again.

`PYTHONPATH=tests .venv/bin/python -m lab.restores --points 30` is the full sweep of kill points: docs/restores.md.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i12e.paths import LAB_MACHINES
from lab import Lab, environment, places
from lab.backing import made, wait
from lab.clones import Ended, Operator, clone
from lab.fixtures import running

K3S = "/opt/bin/k3s kubectl"
_LIMIT = 300.0  # seconds for one restore


@dataclass
class Scene:
    """A cluster with its operator, and what it had when it was backed up."""

    operator: Operator
    lab: Lab
    hosts: list[str]
    """The hosts of the configuration now, the first server first."""
    uid: str = ""
    objects: dict[str, dict[str, str]] = field(default_factory=dict)
    """The ConfigMaps of the namespace default: name -> data."""

    @property
    def first(self) -> str:
        """The server that is restored onto."""
        return self.hosts[0]

    def settings(self, old: str, new: str) -> None:
        """Change the cluster's file."""
        self.operator.edit("hosts/lab/cluster.yaml", old, new)

    def kubectl(self, arguments: str, stdin: str = "") -> str:
        """Run kubectl on the first server."""
        done = self.lab.shell(self.first, f"{K3S} {arguments}", stdin.encode(), 300)
        assert done.status == 0, done.complaint + done.output
        return done.output

    def get(self, arguments: str) -> Any:
        """Return what kubectl gets."""
        return json.loads(self.kubectl(f"get {arguments} -o json"))

    def fill(self, count: int) -> None:
        """Make so many objects."""
        documents = [
            json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}"}, "data": {"n": str(n)}})
            for n in range(count)
        ]
        self.kubectl("create -f - >/dev/null", "\n---\n".join(documents))

    def found(self) -> tuple[str, dict[str, dict[str, str]]]:
        """Return who the cluster is, and what it has."""
        uid = self.get("namespace kube-system")["metadata"]["uid"]
        items = self.get("configmaps")["items"]
        return uid, {item["metadata"]["name"]: item.get("data", {}) for item in items}

    def back_up(self) -> str:
        """Take a backup, which has to go well, and remember what the cluster has; return its id."""
        self.uid, self.objects = self.found()
        done = self.operator.doit("backup")
        assert done.status == 0, done.out + done.err
        return made(done)[0]

    def move(self, *hosts: str) -> None:
        """Destroy all hosts, and have others, bare, in the configuration in their place."""
        for host in self.lab.hosts():
            with suppress(Exception):
                self.lab.kill(host)
        for file in (self.operator.root / "hosts/lab").glob("*-*.yaml"):
            file.unlink()
        for host in hosts:
            if host in self.lab.hosts():
                self.lab.wipe(host)
                self.lab.power_on(host)
            else:
                self.lab.add(host)
            text = f"role: {host.partition('-')[0]}\naddresses: [{places.address(host)}]\n"
            (self.operator.root / f"hosts/lab/{host}.yaml").write_text(text)
        (self.operator.root / "hosts/lab/ssh_config").write_text(self.lab.ssh_config.read_text())
        environment.forget(self.operator.root, list(hosts))
        self.hosts = list(hosts)

    def restores(self, *options: str) -> Ended:
        """Restore, which has to go well, and be what was backed up."""
        done = self.operator.doit("restore", "--yes", "--timeout", "90s", *options)
        assert done.status == 0, done.out + done.err
        self.is_back()
        return done

    def is_back(self) -> None:
        """See that the cluster has what it had, with the nodes that the configuration has, all of them ready."""
        assert self.found() == (self.uid, self.objects)
        nodes = {item["metadata"]["name"]: item for item in self.get("nodes")["items"]}
        assert sorted(nodes) == sorted(self.hosts)
        for name, node in nodes.items():
            ready = [each["status"] for each in node["status"]["conditions"] if each["type"] == "Ready"]
            assert ready == ["True"], name
            assert not node["spec"].get("unschedulable"), name
        for host in self.hosts:
            left = self.lab.read(host, "ls -A /var/lib/i12e; systemctl is-active i12e-restore-k3s || true")
            assert not {"hold", "permit", "restore", "active"} & set(left.split()), f"{host}: {left}"

    def epoch(self) -> int:
        """Return the cluster's epoch."""
        there = self.kubectl("-n kube-system get configmap i12e-epoch -o json --ignore-not-found")
        return int(json.loads(there)["data"]["epoch"]) if there.strip() else 1


def killed(scene: Scene, chance: random.Random, longest: float) -> str:
    """Given a scene and how long a restore takes, kill one at a random moment, on one side or both; run it again.

    Return what was killed when. The same end is a cluster that is_back().
    """
    when = chance.uniform(0.5, longest)
    what = chance.choice(("operator", "operator", "host", "both"))
    scene.lab.read(scene.first, "rm -rf /var/lib/rancher/k3s/server.before-*")  # its disk is small
    process = scene.operator.start("restore", "--yes", "--timeout", "60s")
    deadline = time.monotonic() + when
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    if what in ("operator", "both"):
        process.send_signal(signal.SIGKILL)
    if what in ("host", "both"):
        scene.lab.kill(scene.first)
        scene.lab.power_on(scene.first)
    process.communicate(timeout=_LIMIT)
    ended = process.returncode
    wait(lambda: scene.lab.ssh(scene.first, "true").status == 0, 90)
    done = scene.operator.doit("restore", "--yes", "--timeout", "90s")
    assert done.status == 0, f"after {what} killed at {when:.1f} s ({ended}):\n{done.out}{done.err}"
    scene.is_back()
    return f"{what} at {when:.1f} s"


def main() -> None:
    """Kill restores of one server on etcd at as many points as are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)  # noqa: S311  # to be had again
    with tempfile.TemporaryDirectory() as folder:
        operator = clone(Path(folder) / "one")
        with running(operator.root / LAB_MACHINES, ["server-1"]) as lab:
            environment.write(operator.root, lab, 1, 0)
            operator.deploys()
            scene = Scene(operator, lab, ["server-1"])
            scene.fill(500)
            backup = scene.back_up()
            began = time.monotonic()
            scene.restores("--backup", backup)
            longest = time.monotonic() - began
            print(f"a restore takes {longest:.1f} s", flush=True)
            for number in range(1, given.points + 1):
                print(f"{number}: {killed(scene, chance, longest)}", flush=True)


if __name__ == "__main__":
    main()

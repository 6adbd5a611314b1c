"""`restore --move` with hosts of the lab: what lay on a host that is no more lies on another, and its claim has it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from i12e.paths import LAB_MACHINES
from i12e.registry import HOSTNAME
from lab import environment
from lab.api import Trouble
from lab.backing import until, wait
from lab.clones import clone
from lab.fixtures import running
from lab.restores import K3S, Scene

pytestmark = pytest.mark.lab

STORAGE = "/var/lib/rancher/k3s/storage"
FAULTS = "/run/i12e-lab-faults"
SAVED = "/var/lib/i12e/restore/volumes"
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, annotations: {volume.kubernetes.io/selected-node: agent-1}}
spec: {accessModes: [ReadWriteOnce], storageClassName: local-path, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: writer}
spec:
  replicas: 1
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      containers: [{name: writer, image: none}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""
BY_HAND = {
    "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"},
    "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "local": {"path": f"{STORAGE}/by-hand"},
        "nodeAffinity": {
            "required": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": ["agent-1"]}]}
                ]
            }
        },
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "by-hand",
    },
}  # fmt: skip
ELSEWHERE = {
    **BY_HAND, "metadata": {"name": "elsewhere"}, "spec": {**BY_HAND["spec"], "nodeAffinity": None},  # type: ignore[dict-item]
}  # fmt: skip


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A server on SQLite and an agent, which has volumes; its storage is backed up."""
    folder = tmp_path_factory.mktemp("moved")
    operator = clone(folder / "one")
    with running(operator.root / LAB_MACHINES, ["server-1", "agent-1"]) as lab:
        environment.write(operator.root, lab, 1, 1)
        scene = Scene(operator, lab, ["server-1", "agent-1"])
        scene.settings("datastore: etcd", "datastore: sqlite")
        store = f"{{name: disk, folder: {folder / 'disk'}}}"
        paths = f"{{path: {STORAGE}, hosts: [agent-1]}}"
        scene.settings("\nbackup:\n", f"\nbackup:\n  stores: [{store}]\n  paths: [{paths}]\n")
        (folder / "disk").mkdir()
        operator.deploys()
        yield scene


def volumes(scene: Scene) -> dict[str, Any]:
    """Return the PersistentVolumes by name."""
    return {each["metadata"]["name"]: each for each in scene.get("pv")["items"]}


def where(volume: dict[str, Any]) -> list[str]:
    """Return the hosts that a PersistentVolume is bound to."""
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    found: list[str] = expression["values"]
    return found


def names(scene: Scene) -> set[str]:
    """Return the names of the volumes that the first server has now."""
    with suppress(Trouble):
        done = scene.lab.shell(scene.first, f"test -f {SAVED} && {K3S} get pv -o name", limit=30)
        if done.status == 0:
            return {line.rpartition("/")[2] for line in done.output.split()}
    return set()


def test_volumes_of_a_host_with_another_name_are_their_claims_also_after_a_kill_between_delete_and_create(
    scene: Scene,
) -> None:
    lab, agent = scene.lab, scene.hosts[1]
    scene.kubectl("apply -f - >/dev/null", CLAIM)
    for each in (BY_HAND, ELSEWHERE):
        scene.kubectl("create -f - >/dev/null", json.dumps(each))
    wait(lambda: len(volumes(scene)) == 3 and lab.read(agent, f"ls {STORAGE}") != "")
    before = volumes(scene)
    (own,) = before.keys() - {"by-hand", "elsewhere"}
    wait(lambda: bool(volumes(scene)[own]["status"]["phase"] == "Bound"))
    place = before[own]["spec"]["hostPath"]["path"]
    lab.read(agent, f"cd {place} && echo kept >file && chown 1234:77 file && chmod 640 file && chmod 2750 .")
    claim = scene.get("pvc data")
    scene.back_up()

    scene.move("server-2", "agent-2")
    scene.settings("hosts: [agent-1]", "hosts: [agent-2]")
    planned = scene.operator.doit("restore", "--only-plan")
    assert planned.status == 0, planned.err
    assert "2 volumes are bound to agent-1, which is no host here (./doit restore --move agent-1=NEW)" in planned.out
    assert f"{STORAGE} of agent-1 has no host here" in planned.out
    refused = scene.operator.doit("restore", "--yes", "--move", "agent-1=agent-9")
    assert (refused.status, "agent-9 is no host of the configuration" in refused.err) == (3, True), refused.err
    assert lab.read("server-2", "ls -A /var/lib/i12e 2>/dev/null || :") == ""

    # A volume is deleted, and the one in its place is not made: there the operator is killed.
    process = scene.operator.start("restore", "--yes", "--timeout", "60s", "--move", "agent-1=agent-2")

    said = until(process, f"{scene.first}: restores")  # it has rebooted, and has forgotten what was in /run
    assert "moves volumes" not in said
    lab.read(scene.first, f"mkdir -p {FAULTS} && touch {FAULTS}/volumes_hang")

    def hangs() -> bool:
        assert process.poll() is None, process.communicate()
        return len(names(scene)) == 2

    wait(hangs)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (lost,) = before.keys() - names(scene)
    assert lost in (own, "by-hand")
    lab.read(scene.first, f"rm {FAULTS}/volumes_hang")
    done = scene.restores("--move", "agent-1=agent-2")
    assert "goes on with what an earlier run began" in done.out + done.err
    assert "moves    paths and volumes of agent-1 to agent-2" in done.out + done.err

    after = volumes(scene)
    assert after.keys() == before.keys()
    assert (where(after[own]), where(after["by-hand"])) == (["agent-2"], ["agent-2"])
    for name in before:
        for kept in ("claimRef", "capacity", "hostPath", "local", "storageClassName", "persistentVolumeReclaimPolicy"):
            assert after[name]["spec"].get(kept) == before[name]["spec"].get(kept), (name, kept)
        assert after[name]["metadata"].get("finalizers") == before[name]["metadata"].get("finalizers")
    assert after["elsewhere"]["metadata"]["uid"] == before["elsewhere"]["metadata"]["uid"]
    assert after[own]["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"]
    assert after[own]["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
    wait(lambda: bool(volumes(scene)[own]["status"]["phase"] == "Bound"))
    now = scene.get("pvc data")
    assert (now["metadata"]["uid"], now["status"]["phase"]) == (claim["metadata"]["uid"], "Bound")
    wait(lambda: [pod["spec"].get("nodeName") for pod in scene.get("pods -l app=writer")["items"]] == ["agent-2"])
    found = lab.read("agent-2", f"cd {place} && cat file && stat -c %u:%g:%a file && stat -c %a .")
    assert found.split() == ["kept", "1234:77:640", "2750"]

"""What a host does with a staged restore by itself, on a tree of our own: its k3s and its API are scripts here."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, need
from i12e import alone, restoring, sparking
from i12e.alone import Proof
from i12e.collect import Sentinel
from i12e.restoring import Job

JOB = Job("20261126T231252Z-63e260", "nas", "etcd", "lab", "uid-1", 3, "a" * 64, "me@here", 1795734772.0)
SENTINEL = Sentinel("i12e-sentinel-1", "a value")
OBJECTS = {"namespaces": 2, "secrets": 3, "minions": 1, "configmaps": 5, "helm.cattle.io/helmcharts": 2, "pods": 9}
API = {
    "/api/v1/namespaces/kube-system": {"metadata": {"uid": "uid-1"}},
    "/apis": {"groups": [{"name": "helm.cattle.io", "preferredVersion": {"groupVersion": "helm.cattle.io/v1"}}]},
    f"/api/v1/namespaces/kube-system/secrets/{SENTINEL.name}": {
        "data": {"value": base64.b64encode(b"a value").decode()}
    },
    "/api/v1/namespaces?limit=1": {"metadata": {"remainingItemCount": 1}, "items": [{}]},
    "/api/v1/secrets?limit=1": {"metadata": {"continue": "x"}, "items": [{}]},
    "/api/v1/secrets": {"metadata": {}, "items": [{}, {}]},
    "/api/v1/nodes?limit=1": {"metadata": {}, "items": [{}]},
    "/api/v1/configmaps?limit=1": {"metadata": {"remainingItemCount": 7}, "items": [{}]},
    "/apis/helm.cattle.io/v1/helmcharts?limit=1": {"metadata": {"remainingItemCount": 1}, "items": [{}]},
}
CURL = """#!/bin/sh
for url; do :; done
echo "$url" >>"$TREE/asked"
exec cat "$TREE/api/$(printf %s "${url#https://api}" | tr / _)"
"""
PROGRAMS = {
    "curl": CURL,
    "k3s": '#!/bin/sh\necho "$*" >>"$TREE/k3s"\n',
    "systemctl": '#!/bin/sh\necho "$*" >>"$TREE/systemctl"\n',
    "mountpoint": "#!/bin/sh\nexit 1\n",
}


class Tree:
    """A host's files, the parts of them that matter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "state/restore"
        self.api: dict[str, Any] = dict(API)
        for place in ("state/restore", "api", "bin", "node", "rancher", "etc"):
            (root / place).mkdir(parents=True)
        for name, text in PROGRAMS.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        (root / "etc/k3s.yaml").write_text("    server: https://api\n")
        (root / "state/hold").write_text(f"restore of {JOB.backup} by me\n")

    def stage(self, shown: Proof | None = None, run: str = "exit 0\n") -> None:
        """Stage a restore, with a script that does the part before the proof."""
        proof = shown or Proof("uid-1", OBJECTS, SENTINEL, ["server-1", "server-2"])
        for name, content in alone.files(JOB, proof):
            (self.folder / name).write_text(self.here(content.decode()))
        (self.folder / "run.sh").write_text(run)
        (self.folder / "progress").write_text("staged 1\n")

    def here(self, text: str) -> str:
        """Return a script that means this tree."""
        moved = {"/var/lib/i12e": "state", "/etc/rancher/k3s": "etc", "/etc/rancher/node": "node",
                 "/var/lib/rancher": "rancher", "/opt/bin:/usr/local/bin": "bin"}  # fmt: skip
        for old, new in moved.items():
            text = text.replace(old, str(self.root / new))
        return text

    def runs(self) -> int:
        """Run what the unit runs, and return its status."""
        for path, said in self.api.items():
            (self.root / "api" / path.replace("/", "_")).write_text(json.dumps(said))
        environ = {**os.environ, "TREE": str(self.root)}
        return subprocess.run(["sh", str(self.folder / "alone")], env=environ, check=False).returncode

    def read(self, name: str) -> str:
        """Return a file's text, "" if there is none."""
        place = self.root / name
        return place.read_text() if place.exists() else ""

    @property
    def failed(self) -> str:
        """Why it says that it failed."""
        return self.read("state/restore/failed").strip()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    need(shutil.which("jq"), "jq, which Flatcar has")
    return Tree(tmp_path)


def test_what_is_all_there_is_released_and_nothing_of_it_stays_but_the_progress(tree: Tree) -> None:
    tree.stage()
    assert tree.runs() == 0
    steps = [line.split()[0] for line in tree.read("state/restore/progress").splitlines()]
    assert steps == ["staged", restoring.PROVEN, restoring.RELEASED]
    assert sorted(path.name for path in tree.folder.iterdir()) == ["job", "progress"]
    assert not (tree.root / "state/hold").exists()
    assert "start --no-block k3s" in tree.read("systemctl")
    assert "delete secret server-1.node-password.k3s server-2.node-password.k3s" in tree.read("k3s")
    assert "pods" not in tree.read("asked")
    assert len(tree.read("node/password")) == 32


@pytest.mark.parametrize(
    ("path", "said", "why"),
    [
        ("/api/v1/namespaces/kube-system", {"metadata": {"uid": "uid-2"}}, "another cluster"),
        (f"/api/v1/namespaces/kube-system/secrets/{SENTINEL.name}", {"data": {"value": "eA=="}}, "does not open"),
        ("/api/v1/configmaps?limit=1", {"metadata": {}, "items": [{}]}, "configmaps: the backup has 5, the cluster 1"),
        ("/api/v1/configmaps?limit=1", {"metadata": {}, "items": []}, "configmaps: the backup has 5, the cluster 0"),
        ("/api/v1/namespaces?limit=1", {}, "it does not say how many namespaces"),
        ("/apis/helm.cattle.io/v1/helmcharts?limit=1", {"items": [{}]}, "helmcharts: the backup has 2"),
    ],
)
def test_what_lacks_stays_under_the_hold_and_is_told(tree: Tree, path: str, said: Any, why: str) -> None:
    tree.stage()
    tree.api[path] = said
    assert tree.runs() == 1
    assert why in tree.failed
    assert (tree.root / "state/hold").exists()
    assert "start" not in tree.read("systemctl")
    tree.api = dict(API)
    assert tree.runs() == 0
    assert tree.failed == ""


def test_a_database_that_cannot_be_put_in_place_is_not_proven(tree: Tree) -> None:
    tree.stage(run="echo 'k3s did not take the snapshot' >failed\nexit 1\n")
    assert tree.runs() == 1
    assert tree.failed == "k3s did not take the snapshot"
    assert tree.read("asked") == ""


def test_what_was_proven_before_a_power_failure_is_released_and_not_restored_again(tree: Tree) -> None:
    tree.stage(run="exit 1\n")
    (tree.folder / "progress").write_text("staged 1\nproven 2\n")
    assert tree.runs() == 0
    assert not (tree.root / "state/hold").exists()


def test_a_hold_of_somebody_else_is_not_released(tree: Tree) -> None:
    tree.stage(run=f"echo 'stop, says Ann' >{tree.root}/state/hold\n")
    assert tree.runs() == 1
    assert tree.failed == "it is held for another reason: stop, says Ann"
    assert tree.read("state/hold") == "stop, says Ann\n"
    assert "start" not in tree.read("systemctl")


def test_paths_come_back_once_and_one_that_cannot_keeps_the_hold(tree: Tree) -> None:
    target = tree.root / "data/app data"
    shown = Proof("uid-1", OBJECTS, SENTINEL, ["server-1"], [str(target)])
    tree.stage(shown)
    assert tree.runs() == 1
    assert "cannot be put back" in tree.failed
    assert (tree.root / "state/hold").exists()
    (tree.root / "file").write_text("old")
    with tarfile.open(tree.folder / alone.tar(1), "w") as tar:
        tar.add(tree.root / "file", f"{str(target).strip('/')}/file")
    assert tree.runs() == 0
    assert (target / "file").read_text() == "old"
    assert not list(tree.folder.glob("*.tar"))


def test_what_moves_by_itself_or_no_api_shows_is_not_counted() -> None:
    objects = {"pods": 4, "events": 1, "masterleases": 2, "services/specs": 3, "minions": 1, "secrets": 7}
    found = {each.prefix: each for each in alone.wanted(objects)}
    assert sorted(found) == ["minions", "secrets", "services/specs"]
    assert (found["minions"].plural, found["services/specs"].plural) == ("nodes", "services")
    assert found["secrets"].number == 6  # k3s itself removes one


def test_shellcheck_finds_nothing_in_what_hosts_run() -> None:
    need(shutil.which("shellcheck"), "shellcheck (Debian: apt-get install shellcheck)")
    shown = Proof("u", OBJECTS, SENTINEL, ["server-1"], ["/var/lib/app data"])
    command = ["shellcheck", "--shell=sh", "--severity=warning", "-"]
    spark = (ROOT / "templates/files/spark.sh").read_text()
    for script in (alone.script(JOB, shown), spark, sparking.LOOK, sparking.AGAIN):
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_its_scripts_are_sh_and_quote_what_they_are_given() -> None:
    shown = Proof("u'id", OBJECTS, dataclasses.replace(SENTINEL, value="'\"$(x)"), ["a"], ["/var/it's here"])
    for name, content in alone.files(JOB, shown):
        if name != "job":
            assert subprocess.run(["sh", "-n"], input=content, check=False).returncode == 0

"""Hosts that have other names now: what may be moved, and volumes that are not lost wherever a run is killed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import need
from i12e import moving, registry, restoring
from i12e.bundle import Manifest, Part
from i12e.moving import Volume

HOSTS = ("server-8", "agent-9")
BACKUP = "20261127T000000Z-abcdef"


def parsed(text: str) -> str:
    return "\n".join(map(str, moving.parse(text, HOSTS)[1]))


def test_what_is_moved_is_read_and_nothing_is_moved_where_nothing_is_said() -> None:
    assert moving.parse("agent-1=agent-9, agent-2=agent-9", HOSTS) == ({"agent-1": "agent-9", "agent-2": "agent-9"}, [])
    assert moving.parse("", HOSTS) == ({}, [])


@pytest.mark.parametrize("text", ["agent-1", "agent-1=", "=agent-9", "a=agent-9,", ",", "a=agent-9=b", " "])
def test_what_names_no_two_hosts_is_refused_with_how_it_is_written(text: str) -> None:
    assert "write OLD=NEW[,OLD=NEW...]" in parsed(text)


def test_all_that_does_not_fit_the_configuration_is_told_at_once() -> None:
    said = parsed("a=agent-9,a=server-8,agent-9=server-8,b=agent-1,c")
    for part in ("a is there twice", "agent-9 is a host here", "agent-1 is no host", '"c": it names no two hosts'):
        assert part in said
    assert "there are server-8, agent-9" in said


def manifest(*paths: tuple[str, str], hosts: Mapping[str, str] | None = None) -> Manifest:
    parts = tuple(Part(f"path-{n}.tar.gz.age", 1, "0" * 64, "path", host, path) for n, (host, path) in enumerate(paths))
    return Manifest(
        id=BACKUP, cluster="test", uid="u", at=1000, seconds=1.0, by="a@b", server="server-1", i12e="",
        k3s="v1.36.3+k3s1", datastore="etcd", method="etcd-snapshot", revision=1, token="0" * 12, number=1, slot="",
        recipients=(), parts=parts, objects={}, hosts=hosts or {},
    )  # fmt: skip


def unfit(moves: Mapping[str, str], backup: Manifest, nodes: tuple[str, ...] = (), silent: tuple[str, ...] = ()) -> str:
    return "\n".join(map(str, moving.unfit(moves, backup, nodes, silent)))


def test_a_host_is_known_by_a_path_a_config_or_a_node_and_another_one_is_refused() -> None:
    backup = manifest(("a", "/var/lib/a"), hosts={"b": "digest"})
    assert unfit(dict.fromkeys("abc", "agent-9"), backup, ("c",)) == ""
    assert "the backup knows no host d (it knows a, b)" in unfit({"d": "agent-9"}, backup)


def test_a_host_that_does_not_answer_gets_nothing() -> None:
    backup = manifest(("a", "/var/lib/a"))
    assert "agent-9 cannot be reached" in unfit({"a": "agent-9"}, backup, silent=("agent-9",))
    assert unfit({"a": "agent-9"}, backup, silent=("server-8",)) == ""


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([("a", "/x"), ("b", "/x")], "a and b both have /x"),
        ([("a", "/x"), ("agent-9", "/x/")], "/x of a and /x/ of agent-9 are one inside of the other"),
        ([("a", "/x/y"), ("b", "/x")], "/x/y of a and /x of b are one inside of the other"),
    ],
)
def test_paths_that_would_come_upon_each_other_on_one_host_are_refused(paths: list[Any], said: str) -> None:
    moves = {"a": "agent-9", "b": "agent-9"}
    assert said in unfit(moves, manifest(*paths), ("a", "b"))
    assert unfit({**moves, "a": "server-8"}, manifest(*paths), ("a", "b")) == ""


def test_two_hosts_may_go_to_one_and_one_host_may_have_a_path_in_another() -> None:
    assert unfit(dict.fromkeys("ab", "agent-9"), manifest(("a", "/x"), ("a", "/x/y"), ("b", "/xy"))) == ""


def test_what_an_earlier_run_was_to_move_counts_for_its_backup_alone() -> None:
    text = moving.content(BACKUP, {"a": "b"}).decode()
    assert moving.read(text, BACKUP) == {"a": "b"}
    for other in (moving.read(text, "another"), *(moving.read(each, BACKUP) for each in ("", "[]", "{", "5"))):
        assert other is None


def volume(name: str, *hosts: str, **meta: Any) -> Volume:
    expressions = [{"key": registry.HOSTNAME, "operator": "In", "values": list(hosts)}] if hosts else []
    expressions.append({"key": "zone", "operator": "NotIn", "values": ["a"]})
    notes = {"local.path.provisioner/selected-node": hosts[0]} if hosts else {}
    return {
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name, "uid": f"first-{name}", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["kubernetes.io/pv-protection"], "annotations": {**notes, "more": "a"}, **meta,
        },
        "spec": {
            "claimRef": {"name": name, "namespace": "default", "uid": f"claim-{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}},
        },
        "status": {"phase": "Bound"},
    }  # fmt: skip


def test_only_the_host_of_a_volume_changes() -> None:
    old = volume("v", "a", "b")
    new = moving.moved(old, {"a": "c"})
    assert registry.bound_to(new) == {"c", "b"}
    assert new["metadata"]["annotations"] == {"local.path.provisioner/selected-node": "c", "more": "a"}
    assert new["metadata"]["finalizers"] == old["metadata"]["finalizers"]
    assert new["spec"]["claimRef"] == old["spec"]["claimRef"]
    assert not {"uid", "resourceVersion", "creationTimestamp"} & new["metadata"].keys()
    assert "status" not in new
    assert registry.bound_to(old) == {"a", "b"}
    untouched = moving.moved(old, {"z": "c"})
    assert untouched["spec"] == old["spec"]


class Killed(Exception):
    """Nobody goes on with a run."""


class Target:
    """A host whose k3s of the proof runs, with the rules of Kubernetes for what is deleted and created."""

    def __init__(self, *volumes: Volume) -> None:
        self.first = {each["metadata"]["name"]: each for each in volumes}
        self.there = deepcopy(self.first)
        self.saved = ""
        self.steps = 10**6
        """How many more it does until the run is killed."""

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Killed

    def __call__(self, script: str, stdin: bytes = b"") -> str:
        self.step()
        if script == moving._SHOW_SAVED:
            return self.saved
        if script == moving._LIST:
            return json.dumps({"items": list(self.there.values())})
        if script == restoring.write(moving.SAVED, len(stdin)):
            self.saved = stdin.decode()
            return ""
        assert script.startswith(moving._QUIET)
        found = re.search(r"^name=(\S+)$", script, re.MULTILINE)
        assert found
        for verb in re.findall(r"^ *(?:at|.*kubectl) (patch|delete|create) ", script, re.MULTILINE):
            self.step()
            self.do(verb, found[1], stdin)
        return ""

    def do(self, verb: str, name: str, stdin: bytes) -> None:
        there = self.there.get(name)
        if verb == "create":
            made = json.loads(stdin)
            assert made["metadata"]["name"] == name
            assert not {"uid", "resourceVersion"} & made["metadata"].keys()
            if not there:
                self.there[name] = {**made, "metadata": {**made["metadata"], "uid": f"new-{self.steps}"}}
        elif there and verb == "patch":
            there["metadata"].pop("finalizers", None)
            if "deletionTimestamp" in there["metadata"]:
                del self.there[name]
        elif there and there["metadata"].get("finalizers"):
            there["metadata"]["deletionTimestamp"] = "now"
        elif there:
            del self.there[name]


def seen(target: Target) -> dict[str, Any]:
    """What of the volumes has to stay as it was, and where they are."""
    return {
        name: (
            each["spec"], each["metadata"].get("finalizers"), each["metadata"]["annotations"],
            "deletionTimestamp" in each["metadata"],
        )
        for name, each in target.there.items()
    }  # fmt: skip


def going(each: Volume) -> bool:
    return "deletionTimestamp" in each["metadata"]


RUNS = st.lists(
    st.tuples(st.integers(0, 30), st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")), st.booleans()),
    max_size=5,
)
SETS = st.lists(
    st.tuples(st.lists(st.sampled_from("abc"), max_size=2, unique=True), st.booleans()), min_size=1, max_size=5
)


@settings(max_examples=500)
@given(SETS, RUNS, st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")))
def test_no_volume_is_lost_wherever_runs_are_killed_and_the_last_one_says_where_they_are(
    sets: list[tuple[list[str], bool]], runs: list[tuple[int, dict[str, str], bool]], last: dict[str, str]
) -> None:
    times: tuple[dict[str, str], ...] = ({}, {"deletionTimestamp": "then"})
    volumes = [volume(f"v{n}", *hosts, **times[deleted]) for n, (hosts, deleted) in enumerate(sets)]
    target = Target(*volumes)
    for steps, moves, anew in runs:
        if anew:  # the database was put in its place once more
            target.there = deepcopy(target.first)
        target.steps = steps
        try:
            moving.volumes(target, BACKUP, moves)
        except Killed:
            continue
    target.steps = 10**6
    count = moving.volumes(target, BACKUP, last)
    wanted = Target(*(moving.moved(each, last) | {"status": {}} for each in volumes))
    for name, each in target.first.items():
        if going(each):
            wanted.there[name]["metadata"]["deletionTimestamp"] = "then"
    assert seen(target) == seen(wanted)
    assert count == sum(bool(registry.bound_to(each) & last.keys()) for each in volumes)
    assert not any(registry.bound_to(each) & last.keys() for each in target.there.values())


def test_what_an_earlier_restore_of_another_backup_saved_is_not_put_back() -> None:
    target = Target(volume("v", "a"))
    moving.volumes(target, BACKUP, {"a": "x"})
    target.there = {}
    assert moving.volumes(target, "another", {"a": "x"}) == 0
    assert target.there == {}


def test_volumes_that_do_not_go_are_told() -> None:
    class Stubborn(Target):
        def do(self, verb: str, name: str, stdin: bytes) -> None:
            pass

    with pytest.raises(moving.Stuck, match="PersistentVolumes v are not"):
        moving.volumes(Stubborn(volume("v", "a")), BACKUP, {"a": "x"})


def test_nothing_is_asked_for_twice_where_all_is_as_it_is_to_be() -> None:
    target = Target(volume("v", "a"), volume("w", "c"))
    assert moving.volumes(target, BACKUP, {"a": "x"}) == 1
    target.steps = 2  # to read what is saved, and to look
    assert moving.volumes(target, BACKUP, {"a": "x"}) == 1


def test_volumes_are_counted_by_host_and_unreadable_ones_are_not() -> None:
    values = [json.dumps(volume("v", *hosts)).encode() for hosts in (("a",), ("a", "b"), ())]
    assert moving.counted([*values, b"k8s:enc:aescbc:v1:key:x", b"{}"]) == {"a": 2, "b": 1}


def test_shellcheck_finds_nothing_in_what_the_target_runs() -> None:
    need(shutil.which("shellcheck"), "shellcheck (Debian: apt-get install shellcheck)")
    command = ["shellcheck", "--shell=sh", "--severity=warning", "-"]
    for script in (moving.LOOK, moving._LIST, moving._SHOW_SAVED, *(moving._replace("a b", x) for x in (True, False))):
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout

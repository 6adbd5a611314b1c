"""Plans, made of facts without any host: what is refused, who founds, what a reset keeps, in which order."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i12e import deploy, facts
from i12e.deploy import FOUND, INSTALL, NOTHING, PROVE, REBOOT, REFUSE, RESET, Situation, Wanted
from i12e.facts import ClusterView, Facts, HostFacts, Node, Silent
from i12e.model import Host, load_fleet
from i12e.restoring import Job, kept

CLUSTER = """\
name: c
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
network: {hosts: [192.0.2.0/24]}
ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA]
keep: [/srv/data]
"""
NAMES = ("server-1", "server-2", "server-3", "agent-1")


def models(cluster: str = CLUSTER) -> dict[str, Host]:
    files = {"hosts/cluster.yaml": cluster}
    for number, name in enumerate(NAMES, start=11):
        files[f"hosts/{name}.yaml"] = f"role: {name.partition('-')[0]}\naddresses: [192.0.2.{number}]\n"
    fleet = load_fleet("hosts", "default", NAMES, lambda path: files[path].encode())
    assert fleet.problems == []
    return fleet.hosts


HOSTS = models()
WANTED = {name: Wanted(HOSTS[name], b"{}", f"digest of {name}") for name in NAMES}
BARE = HostFacts(os="flatcar", boot_id="b", can_reset=True, free=10**6, free_oem=10**6)


def node(name: str, **more: Any) -> Node:
    voter = True if name.startswith("server") else None
    return replace(Node(name, True, False, voter, "v1.35.4+k3s1", "b"), **more)


def healthy(name: str, nodes: Mapping[str, Node], **more: Any) -> HostFacts:
    """A host that runs its config and is proven, of a cluster of these nodes."""
    server = name.startswith("server")
    found = replace(
        BARE,
        machine_id=f"id of {name}",
        identity={"cluster": "c", "host": name, "digest": f"digest of {name}"},
        proven=f"digest of {name}",
        datastore="etcd" if server else "",
        mark="c" if server else "",
        agent_data=True,
        password=True,
        unit="k3s",
        active="active",
        version="v1.35.4+k3s1",
        etcd_healthy=True if server else None,
        readyz=True if server else None,
        nodes=nodes if server else None,
    )
    return replace(found, **more)


def stopped(name: str, **more: Any) -> HostFacts:
    """A server whose k3s does not run."""
    found = replace(healthy(name, {}), active="failed", nodes=None, etcd_healthy=None, readyz=None)
    return replace(found, **more)


def outdated(name: str) -> dict[str, Any]:
    return {"identity": {"cluster": "c", "host": name, "digest": "old"}, "proven": "old"}


def cluster(nodes: Mapping[str, Node] | None = None, **changed: Facts) -> Situation:
    """A cluster that is all well, but for what is changed (server_1=...)."""
    nodes = {name: node(name) for name in NAMES} if nodes is None else nodes
    found: dict[str, Facts] = {name: healthy(name, nodes) for name in NAMES}
    found |= {name.replace("_", "-"): each for name, each in changed.items()}
    return Situation(WANTED, ClusterView(found, NAMES[:3]), {}, NAMES)


def bare(**changed: Facts) -> Situation:
    found: dict[str, Facts] = dict.fromkeys(NAMES, BARE)
    found |= {name.replace("_", "-"): each for name, each in changed.items()}
    return Situation(WANTED, ClusterView(found, NAMES[:3]), {}, NAMES)


def test_a_cluster_that_runs_its_configs_has_nothing_to_do() -> None:
    assert [deploy.plan(name, cluster()).action for name in NAMES] == [NOTHING] * 4


def test_one_edited_host_is_reset_and_no_other() -> None:
    now = cluster(agent_1=healthy("agent-1", {}, **outdated("agent-1")))
    assert [deploy.plan(name, now).action for name in NAMES] == [NOTHING, NOTHING, NOTHING, RESET]


def test_a_reset_of_a_host_of_a_living_cluster_wants_a_backup_before_it() -> None:
    old = cluster(agent_1=healthy("agent-1", {}, **outdated("agent-1")))
    assert deploy.plan("agent-1", old).after_backup
    assert not any(deploy.plan(name, cluster()).after_backup for name in NAMES)
    assert not any(deploy.plan(name, bare()).after_backup for name in NAMES), "there is nothing to lose"
    only = {"server-1": WANTED["server-1"]}
    view = ClusterView({"server-1": stopped("server-1", **outdated("server-1"))}, ("server-1",))
    silent = deploy.plan("server-1", Situation(only, view, {}, ["server-1"]))
    assert (silent.action, silent.after_backup) == (RESET, False), "of a cluster that does not answer none can be taken"


def test_of_bare_hosts_the_first_server_alone_founds() -> None:
    plans = [deploy.plan(name, bare()) for name in NAMES]
    assert [plan.action for plan in plans] == [INSTALL] * 4
    assert [plan.founds for plan in plans] == [True, False, False, False]
    assert deploy.order(bare(), NAMES) == list(NAMES)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("server-1", {"identity": {"cluster": "other", "host": "server-1"}}, "of the cluster other"),
        ("server-1", {"identity": {"cluster": "c", "host": "server-2"}}, "this is server-2"),
        ("server-1", {"mark": "other"}, "has the data of the cluster other"),
        ("server-1", {"identity": None}, "no config of i12e's"),
        ("server-1", {"os": "debian"}, "it runs debian"),
        ("agent-1", {"can_reset": False, **outdated("agent-1")}, "flatcar-reset"),
        ("agent-1", {"free": 1000, **outdated("agent-1")}, "MB free"),
        ("agent-1", {"free_oem": 0, **outdated("agent-1")}, "/oem"),
        ("agent-1", {"hold": "restore by me", **outdated("agent-1")}, "held: restore by me"),
    ],
)
def test_a_host_that_is_not_the_one_meant_or_cannot_be_reset_is_refused(
    name: str, change: dict[str, Any], said: str
) -> None:
    nodes = {each: node(each) for each in NAMES}
    changed: dict[str, Facts] = {name.replace("-", "_"): healthy(name, nodes, **change)}
    plan = deploy.plan(name, cluster(None, **changed))
    assert plan.action == REFUSE
    assert said in plan.why


def test_a_server_that_was_installed_with_its_config_gets_the_permit_and_no_reset() -> None:
    identity = {"cluster": "c", "host": "server-1", "digest": "digest of server-1"}
    waiting = replace(BARE, boot_id="now", identity=identity, unit="k3s", active="activating")
    plan = deploy.plan("server-1", bare(server_1=waiting))
    assert (plan.action, plan.founds, plan.resets, plan.is_gated) == (FOUND, True, False, True)
    nodes = {name: node(name) for name in NAMES} | {"server-1": node("server-1", ready=False)}
    plan = deploy.plan("server-1", cluster(nodes, server_1=waiting))
    assert (plan.action, plan.founds, plan.forgets, plan.is_gated) == (PROVE, False, True, True)


def test_another_machine_than_the_pinned_one_is_refused() -> None:
    now = replace(cluster(), pins={"server-1": "id of another"})
    plan = deploy.plan("server-1", now)
    assert (plan.action, plan.remedy) == (REFUSE, "if it was replaced, or its disk: doit host_trust:server-1")


def test_a_dead_server_that_comes_back_empty_joins_and_founds_nothing() -> None:
    nodes = {name: node(name) for name in NAMES} | {"server-1": node("server-1", ready=False)}
    now = cluster(nodes, server_1=replace(BARE, boot_id="now"))
    plan = deploy.plan("server-1", now)
    assert (plan.action, plan.founds, plan.forgets) == (INSTALL, False, True)


def test_a_bare_machine_is_refused_while_the_node_of_its_name_is_ready() -> None:
    assert deploy.plan("server-1", cluster(server_1=replace(BARE, boot_id="now"))).action == REFUSE


def test_a_machine_that_joined_between_two_looks_is_no_other_machine() -> None:
    """It was asked right before k3s wrote its password, and the cluster for its node right after."""
    plan = deploy.plan("server-1", cluster(server_1=replace(healthy("server-1", {}), password=False, proven="")))
    assert (plan.action, plan.forgets) == (PROVE, False)


def test_a_server_is_not_reset_while_another_is_sick() -> None:
    nodes = {name: node(name) for name in NAMES} | {"server-3": node("server-3", ready=False)}
    now = cluster(nodes, server_1=healthy("server-1", nodes, **outdated("server-1")), server_3=Silent("down"))
    plan = deploy.plan("server-1", now)
    assert plan.action == REFUSE
    assert "of 3 members 2 must live, and without server-1 only 1 would be healthy, for server-3 is not" in plan.why
    assert deploy.plan("server-1", replace(now, force=True)).action == RESET


def test_no_server_is_reset_while_no_api_tells_what_would_be_left() -> None:
    found: dict[str, Facts] = {f"server_{n}": stopped(f"server-{n}", **outdated(f"server-{n}")) for n in (1, 2, 3)}
    now = cluster({}, **found)
    plan = deploy.plan("server-1", now)
    assert (plan.action, "what server-2, server-3 would be without it" in plan.why) == (REFUSE, True)
    assert deploy.plan("server-1", replace(now, force=True)).action == RESET


def test_an_agent_is_not_reset_while_no_server_could_prove_it() -> None:
    found: dict[str, Facts] = {f"server_{n}": stopped(f"server-{n}") for n in (1, 2, 3)}
    found["agent_1"] = healthy("agent-1", {}, **outdated("agent-1"))
    now = replace(cluster({}, **found), targets=["agent-1"])
    assert deploy.plan("agent-1", now).action == REFUSE


def test_the_sick_server_itself_may_be_reset() -> None:
    nodes = {name: node(name) for name in NAMES} | {"server-1": node("server-1", ready=False)}
    assert (
        deploy.plan("server-1", cluster(nodes, server_1=healthy("server-1", nodes, **outdated("server-1")))).action
        == RESET
    )


def test_the_only_server_may_be_reset_for_its_data_stays() -> None:
    nodes = {"server-1": node("server-1")}
    only = {"server-1": WANTED["server-1"]}
    view = ClusterView({"server-1": healthy("server-1", nodes, **outdated("server-1"))}, ("server-1",))
    plan = deploy.plan("server-1", Situation(only, view, {}, ["server-1"]))
    assert (plan.action, plan.downtime, plan.founds, plan.drains) == (RESET, True, False, False)
    assert "/var/lib/rancher/k3s/server" in plan.keeps


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({"proven": "old"}, PROVE),
        ({"intent": {"digest": "x"}}, PROVE),
        ({"staged": "another"}, PROVE),
        ({**outdated("agent-1"), "staged": "digest of agent-1"}, REBOOT),
        ({**outdated("agent-1"), "staged": "another"}, RESET),
    ],
)
def test_what_was_interrupted_goes_on_where_it_stopped(change: dict[str, Any], action: str) -> None:
    assert deploy.plan("agent-1", cluster(agent_1=healthy("agent-1", {}, **change))).action == action


def test_no_cluster_is_founded_while_a_server_that_was_deployed_once_is_silent() -> None:
    now = replace(bare(server_2=Silent("no route")), pins={"server-2": "x"})
    assert deploy.plan("server-1", now).action == REFUSE
    assert deploy.plan("server-1", replace(now, pins={})).founds


def test_an_agent_alone_is_refused_where_no_server_lives() -> None:
    plan = deploy.plan("agent-1", replace(bare(), targets=["agent-1"]))
    assert (plan.action, plan.why) == (REFUSE, "no server of the cluster lives, and none is to be deployed")


_STATES = st.sampled_from(["bare", "healthy", "outdated", "silent", "stopped", "sick"])


@given(states=st.tuples(_STATES, _STATES, _STATES), pinned=st.sets(st.sampled_from(NAMES[:3])), force=st.booleans())
def test_whatever_the_servers_are_no_plan_splits_a_cluster_or_loses_its_quorum(
    states: tuple[str, str, str], pinned: set[str], force: bool
) -> None:
    """The two rules that nothing overrides by accident: 6 (quorum) and 8 (founding)."""
    servers = dict(zip(NAMES, states, strict=False))
    ready = ("healthy", "outdated")
    living = any(state in (*ready, "sick") for state in states)
    members = [name for name, state in servers.items() if state in (*ready, "sick", "stopped", "silent")]
    nodes = {name: node(name, ready=servers[name] in ready) for name in members} if living else {}
    found: dict[str, Facts] = {"agent-1": BARE}
    for name, state in servers.items():
        all_states: dict[str, Facts] = {
            "bare": BARE,
            "silent": Silent("no route"),
            "healthy": healthy(name, nodes),
            "outdated": healthy(name, nodes, **outdated(name)),
            "sick": healthy(name, nodes, etcd_healthy=False, **outdated(name)),
            "stopped": stopped(name, **outdated(name)),
        }
        found[name] = all_states[state]
    view = ClusterView(found, NAMES[:3])
    now = Situation(WANTED, view, {name: f"id of {name}" for name in pinned if servers[name] != "bare"}, NAMES, force)
    plans = [deploy.plan(name, now) for name in NAMES]
    founding = [plan.name for plan in plans if plan.founds]
    with_data = [name for name, state in servers.items() if state not in ("bare", "silent")]
    unseen = [name for name, state in servers.items() if state == "silent" and name in pinned]
    assert len(founding) <= 1
    assert not (founding and (with_data or unseen))
    voters = [name for name in members if living]
    for plan in plans[:3]:
        if plan.action == RESET and not force and plan.name in voters and len(voters) > 1:
            well = [each for each in voters if each != plan.name and servers[each] in ready]
            assert len(well) >= len(voters) // 2 + 1, (states, plan.name)


# --- health


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"active": "activating", "last": "k3s-gate: waits"}, "k3s is activating: k3s-gate: waits"),
        ({"nodes": None}, "the API does not answer yet"),
        ({"nodes": {}}, "the cluster does not know the node server-1 yet"),
        ({"nodes": {"server-1": node("server-1", ready=False)}}, "the node is not ready"),
        ({"nodes": {"server-1": node("server-1", boot_id="old")}}, "the cluster knows the node as it was before"),
        ({"nodes": {"server-1": node("server-1", version="v1")}}, "k3s is v1, v1.35.4+k3s1 is wanted"),
        ({"nodes": {"server-1": node("server-1", voter=False)}}, "it is no voting member of etcd yet"),
        ({"readyz": False}, "the API is not ready"),
        ({"etcd_healthy": False}, "etcd is not healthy"),
    ],
)
def test_a_server_is_proven_only_when_nothing_lacks(change: dict[str, Any], said: str) -> None:
    nodes = {"server-1": node("server-1")}
    found = replace(healthy("server-1", nodes), **change)
    lacks = deploy.unhealthy(HOSTS["server-1"], found, ClusterView())
    assert lacks == said if not said else lacks.startswith(said)


# --- what goes to the host


def test_a_reset_keeps_what_rule_7_says() -> None:
    agent, server = deploy.keep_paths(HOSTS["agent-1"]), deploy.keep_paths(HOSTS["server-1"])
    always = {"/etc/ssh/ssh_host_.*", "/var/log", "/etc/rancher/node", "/var/lib/i12e", "/var/lib/rancher/k3s/storage"}
    assert set(agent) == always | {"/srv/data"}
    assert set(server) == set(agent) | {"/var/lib/rancher/k3s/server", "/var/lib/rancher/k3s/server.before-.*"}
    images = models(CLUSTER + "keep_images: true\n")["agent-1"]
    assert set(deploy.keep_paths(images)) == set(agent) | {"/var/lib/rancher/k3s/agent/containerd"}
    assert "rm -rf /var/lib/rancher/k3s/agent/containerd" in deploy.reset_script(HOSTS["agent-1"], "d")
    assert "rm -rf" not in deploy.reset_script(images, "d")


def test_what_a_restore_set_aside_is_kept_by_the_next_reset_of_a_server_and_named_by_its_plan() -> None:
    job = Job("ID", "disk", "etcd", "home", "uid", 1, "0" * 64, "me", 1795749544.0)
    assert any(re.fullmatch(pattern, f"{kept(job)}/db/state.db") for pattern in deploy.keep_paths(HOSTS["server-1"]))
    aside = f"8\t{kept(job)}\n?\t/var/lib/rancher/k3s/server.before-20261101T000000Z\n"
    found = facts.parse(f"aside {base64.b64encode(aside.encode()).decode()}")
    told = (f"{kept(job)} (8 KB)", "/var/lib/rancher/k3s/server.before-20261101T000000Z")
    assert found.aside == told
    nodes = {"server-1": node("server-1")}
    view = ClusterView({"server-1": healthy("server-1", nodes, aside=told, **outdated("server-1"))}, ("server-1",))
    plan = deploy.plan("server-1", Situation({"server-1": WANTED["server-1"]}, view, {}, ["server-1"]))
    assert (plan.action, plan.aside) == (RESET, told)


def run_reset(tmp_path: Path, free: int) -> tuple[int, list[str]]:
    """Run the script of a reset with programs that only note what they are told to; flatcar-reset fails."""
    programs = tmp_path / "bin"
    programs.mkdir()
    said = tmp_path / "said"
    for name in ("systemctl", "flatcar-reset", "sync", "k3s-killall.sh"):
        fails = 'case "$*" in *--ignition-file*) exit 7 ;; esac' if name == "flatcar-reset" else ""
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{said}\n{fails}\n')
    (programs / "df").write_text(f"#!/bin/sh\necho head\necho disk 1 1 {free} 1% /\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    script = deploy.reset_script(HOSTS["server-1"], "d" * 64, str(tmp_path / "log"), str(tmp_path / "complaint"))
    script = script.replace("/opt/bin:/usr/local/bin:$PATH", f"{programs}:/usr/bin:/bin")
    script = script.replace("/var/lib/", f"{tmp_path}/")
    done = subprocess.run(["sh", "-c", script], check=False, capture_output=True)
    return done.returncode, said.read_text().splitlines()


def test_a_reset_that_fails_takes_itself_back_and_starts_k3s_again(tmp_path: Path) -> None:
    status, lines = run_reset(tmp_path, 1 << 30)
    assert status == 7
    assert lines[-2] == "flatcar-reset --stop"
    assert lines[-1] in ("systemctl start --no-block k3s-agent", "systemctl start --no-block k3s")
    assert "systemctl reboot" not in lines
    for told in ("log", "complaint"):
        assert "failed with status 7" in (tmp_path / told).read_text()


def test_a_host_whose_disk_has_become_full_is_not_reset_and_k3s_runs_on(tmp_path: Path) -> None:
    status, lines = run_reset(tmp_path, 1000)
    assert status == 1
    assert not [line for line in lines if "stop k3s" in line or "--ignition-file" in line or "reboot" in line]
    assert "only 1000 KB are free" in (tmp_path / "complaint").read_text()


def test_a_permit_has_the_form_that_the_gate_reads() -> None:
    found = replace(BARE, machine_id="m")
    servers = [HOSTS[name] for name in NAMES[:3]]
    lines = dict(line.split("=", 1) for line in deploy.permit(HOSTS["server-1"], found, servers, "id-1").splitlines())
    assert lines == {
        "permit": "1",
        "id": "id-1",
        "action": "found",
        "cluster": "c",
        "host": "server-1",
        "machine-id": "m",
        "servers": "https://192.0.2.12:6443 https://192.0.2.13:6443",
        "by": "os_deploy",
    }


def test_all_that_a_config_fetches_is_checked_with_its_hash(tmp_path: Path) -> None:
    good, bad, gone = (tmp_path / name for name in ("good", "bad", "gone"))
    good.write_text("x")
    bad.write_text("y")
    sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of x
    files = [
        {"contents": {"source": f"file://{each}", "verification": {"hash": f"sha256-{sha}"}}}
        for each in (good, bad, gone)
    ]
    config = {"storage": {"files": [*files, {"contents": {"source": "data:,abc"}}]}}
    assert [url for url, _ in deploy.sources(config)] == [f"file://{each}" for each in (bad, gone, good)]
    script = deploy.check_sources(json.loads(json.dumps(config).replace("file://", "http://")))
    done = subprocess.run(
        ["sh", "-c", script.replace("http://", "file://")], capture_output=True, text=True, check=False
    )
    told = done.stdout.splitlines()
    assert done.returncode == 0
    assert [line.partition(": ")[0] for line in told] == [f"file://{bad}", f"file://{gone}"]
    assert "another hash" in told[0]


def test_what_a_host_says_is_read_back() -> None:
    conditions = [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "False"}]
    listed = {"metadata": {"name": "a"}, "spec": {"unschedulable": True}, "status": {"conditions": conditions}}
    said = {
        "os_release": 'ID=flatcar\nVERSION_ID="1.2"\n',
        "identity": '{"digest": "d"}',
        "etcd_health": '{"health":"true"}',
        "nodes": json.dumps({"items": [listed]}),
        "hold_text": "me",
        "hold": "yes",
        "unit": "k3s active",
        "readyz": "ok",
    }
    found = facts.parse("\n".join(f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in said.items()))
    assert (found.os, found.os_version, found.digest, found.etcd_healthy, found.hold) == (
        "flatcar",
        "1.2",
        "d",
        True,
        "me",
    )
    assert found.nodes == {"a": Node("a", True, True, False, "", "")}
    assert (found.unit, found.active, found.readyz) == ("k3s", "active", True)


def test_the_script_of_facts_runs_in_a_posix_shell_and_names_what_is_here() -> None:
    done = subprocess.run(["sh", "-c", facts.script(True)], capture_output=True, text=True, check=True)
    found = facts.parse(done.stdout)
    assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found.free > 0

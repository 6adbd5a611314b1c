"""What a restore would do, and why it may not: from facts alone, without a host."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from conftest import need
from i12e import restore_page, restore_plan, restoring
from i12e.bundle import Manifest, Part
from i12e.deploy import Situation, Wanted
from i12e.facts import ClusterView, Facts, HostFacts, Node, Silent
from i12e.model import Host
from i12e.restore_plan import Asked, Plan
from i12e.restoring import ASIDE, CONVERT, ETCD, RELEASED, SQLITE, Job, Progress

NAMES = ("server-1", "server-2", "agent-1")
MB = 1_000_000


def host(name: str, **settings: Any) -> Host:
    k3s = {"version": "v1.36.3+k3s1", "datastore": "etcd", **settings}
    return Host.model_validate(
        {
            "name": name, "cluster": "test", "env": "test", "role": name.partition("-")[0], "k3s": k3s,
            "addresses": [f"192.0.2.{NAMES.index(name) + 1}"], "api": {"name": "k8s.example.com"}, "join_name": "",
            "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
        }
    )  # fmt: skip


def bare(name: str) -> HostFacts:
    return HostFacts(os="flatcar", boot_id="b", machine_id=f"id-{name}", can_reset=True, free=10**7, free_oem=10**6)


def living(name: str, nodes: Mapping[str, Node] | None = None) -> HostFacts:
    server = name.startswith("server")
    return replace(
        bare(name), identity={"cluster": "test", "host": name, "digest": "d"}, proven="d", active="active",
        datastore="etcd" if server else "", nodes=nodes if server else None, agent_data=True, password=True,
    )  # fmt: skip


def alive() -> dict[str, Facts]:
    nodes = {name: Node(name, True, False, True if name.startswith("server") else None, "", "b") for name in NAMES}
    return {name: living(name, nodes) for name in NAMES}


def situation(found: Mapping[str, Facts], **settings: Any) -> Situation:
    wanted = {name: Wanted(host(name, **settings), b"{}", "d") for name in NAMES}
    return Situation(wanted, ClusterView(found, NAMES[:2]), {}, NAMES)


def manifest(**changes: Any) -> Manifest:
    parts = tuple(Part(name, 1, "0" * 64, "what") for name in ("index.json.age",))
    made = Manifest(
        id="20261127T000000Z-abcdef", cluster="test", uid="u", at=1000, seconds=1.0, by="a@b", server="server-1",
        i12e="", k3s="v1.36.3+k3s1", datastore="etcd", method="etcd-snapshot", revision=1, token="0" * 12, number=1,
        slot="", recipients=(), parts=parts, objects={"configmaps": 7},
    )  # fmt: skip
    return replace(made, **changes)


def asked(**changes: Any) -> Asked:
    plain = Asked(
        target="server-1", manifest=manifest(), store="local", size=MB, token_fits=True,
        newest="20261127T000000Z-abcdef", now=4600.0,
    )  # fmt: skip
    return replace(plain, **changes)


def planned(now: Situation, about: Asked) -> Plan:
    made, problems = restore_plan.plan(now, about)
    assert problems == []
    assert made is not None
    return made


def refused(now: Situation, about: Asked) -> str:
    made, problems = restore_plan.plan(now, about)
    assert made is None
    return "\n".join(map(str, problems))


def test_bare_hosts_are_deployed_and_nothing_of_theirs_is_stopped_or_kept() -> None:
    made = planned(situation({name: bare(name) for name in NAMES}), asked())
    assert (made.kind, made.deploys[0], made.stops, made.aside, made.living) == (ETCD, "install", (), (), ())
    assert made.joins == ("server-2", "agent-1")


def test_a_living_cluster_is_told_to_live_and_is_stopped_on_all_hosts_first() -> None:
    now = situation(alive())
    made = planned(now, asked())
    assert made.living == ("server-1", "server-2")
    assert set(made.stops) == set(NAMES)
    assert made.aside == ("server-1", "server-2")
    assert made.deploys == ("", "")
    text = "\n".join(restore_plan.lines(made, asked()))
    assert "LIVES on server-1, server-2" in text
    assert "60 min" in text  # how much is lost


def test_a_server_that_cannot_be_reached_is_no_reason_and_is_named() -> None:
    made = planned(situation({**alive(), "server-2": Silent("no route")}), asked())
    assert made.joins == ("agent-1",)
    assert any("server-2 cannot be reached" in note for note in made.notes)
    assert any("neither the API's name nor backups" in note for note in made.notes)


@pytest.mark.parametrize(
    ("theirs", "ours", "kind"), [("etcd", "etcd", ETCD), ("sqlite", "sqlite", SQLITE), ("sqlite", "etcd", CONVERT)]
)
def test_what_becomes_of_the_datastore(theirs: str, ours: str, kind: str) -> None:
    now = situation({name: bare(name) for name in NAMES}, datastore=ours)
    assert planned(now, asked(manifest=manifest(datastore=theirs))).kind == kind


def test_everything_that_speaks_against_it_is_told_at_once() -> None:
    found = {**alive(), "server-2": replace(living("server-2"), identity={"cluster": "other", "host": "x"})}
    said = refused(
        situation(found, datastore="sqlite", version="v1.36.2+k3s1"),
        asked(
            token_fits=False, alive={"https://198.51.100.1:6443": "server-9"}, old_settings={"cluster-cidr": "a"},
            settings={"cluster-cidr": "b"}, size=10**11,
        ),
    )  # fmt: skip
    for part in (
        "cannot become SQLite", "an older one", "server token of the secrets", "cluster-cidr", "MB free", "server-9",
        "this is x of the cluster other",
    ):  # fmt: skip
        assert part in said


@pytest.mark.parametrize("target", [Silent("no route"), replace(bare("server-1"), os="fcos")])
def test_a_target_that_is_not_there_or_is_not_the_one_is_refused(target: Facts) -> None:
    assert "server-1: it" in refused(situation({**alive(), "server-1": target}), asked())


def test_another_ones_hold_is_respected_and_our_own_is_gone_on_with() -> None:
    held = replace(living("server-1"), hold="maintenance by b")
    assert "held: maintenance" in refused(situation({**alive(), "server-1": held}), asked())
    ours = replace(living("server-1"), hold="restore of X by a")
    assert planned(situation({**alive(), "server-1": ours}), asked()).target == "server-1"


def test_what_an_earlier_run_has_put_in_place_is_neither_living_nor_kept() -> None:
    job = Job(manifest().id, "local", ETCD, "test", "u", MB, "0" * 64, "a@b", 0.0)
    now = situation({**alive(), "server-1": replace(living("server-1", {}), hold="restore of X by a")})
    made = planned(now, asked(progress=Progress(job, {ASIDE: 1.0})))
    assert made.resumes
    assert "server-1" not in (*made.living, *made.aside)


PATH = Part("path-agent-9-1.tar.gz.age", 1, "0" * 64, "path", "agent-9", "/var/lib/app")


def test_what_is_of_a_host_that_is_no_more_is_told_with_how_it_is_moved() -> None:
    about = asked(manifest=manifest(parts=(PATH,)), bound={"agent-9": 2, "agent-8": 1, "agent-1": 4})
    notes = planned(situation(alive()), about).notes
    assert (
        "/var/lib/app of agent-9 has no host here: it stays in the backup (./doit restore --move agent-9=NEW)" in notes
    )
    assert "2 volumes are bound to agent-9, which is no host here (./doit restore --move agent-9=NEW)" in notes
    assert "1 volume is bound to agent-8, which is no host here (./doit restore --move agent-8=NEW)" in notes
    assert "agent-1" not in "".join(notes)


def test_what_is_moved_is_told_and_nothing_of_it_stays() -> None:
    volumes = replace(PATH, path="/var/lib/rancher/k3s/storage")
    about = asked(manifest=manifest(parts=(PATH, volumes)), bound={"agent-9": 2}, moves={"agent-9": "agent-1"})
    made = planned(situation(alive()), about)
    assert "    moves    paths and volumes of agent-9 to agent-1" in restore_plan.lines(made, about)
    assert made.notes == ()


@pytest.mark.parametrize(
    ("path", "moves", "machine", "told"),
    [
        ("", {"agent-9": "agent-1"}, "living", "2 volumes of agent-9 will be empty on agent-1"),
        ("/var/lib/app", {"agent-9": "agent-1"}, "living", "2 volumes of agent-9 will be empty on agent-1"),
        ("/var/lib/rancher/k3s/storage/pvc-1", {"agent-9": "agent-1"}, "living", ""),
        ("/var/lib/rancher", {"agent-9": "agent-1"}, "living", ""),
        ("", {}, "bare", "1 volume of agent-1 will be empty on agent-1"),
        ("", {}, "living", ""),
    ],
)
def test_volumes_whose_content_is_neither_in_the_backup_nor_on_the_host_are_told_to_be_empty(
    path: str, moves: dict[str, str], machine: str, told: str
) -> None:
    there = situation({**alive(), "agent-1": bare("agent-1") if machine == "bare" else living("agent-1")})
    bound = {"agent-9": 2} if moves else {"agent-1": 1}
    parts = (replace(PATH, host=next(iter(bound)), path=path),) if path else ()
    notes = planned(there, asked(manifest=manifest(parts=parts), bound=bound, moves=moves, nodes=["agent-9"])).notes
    assert any(note.startswith(told) for note in notes) if told else not [n for n in notes if "empty" in n]


def test_all_that_speaks_against_a_move_is_told_with_all_that_speaks_against_the_restore() -> None:
    moves = {"agent-9": "server-2", "agent-1": "server-1", "agent-8": "agent-7", "agent-7": "server-1"}
    about = asked(manifest=manifest(parts=(PATH,)), token_fits=False, moves=moves, nodes=["agent-8"])
    said = refused(situation({**alive(), "server-2": Silent("no route")}), about)
    for part in (
        "server token of the secrets", "server-2 cannot be reached", "agent-1 is a host here", "agent-7 is no host",
        "the backup knows no host agent-7",
    ):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(
    ("before", "now"), [({"agent-9": "agent-1"}, {"agent-9": "server-2"}), (None, {"agent-9": "agent-1"})]
)
def test_after_the_release_nothing_else_is_moved_than_what_was_to_be(
    before: dict[str, str] | None, now: dict[str, str]
) -> None:
    job = Job(manifest().id, "local", ETCD, "test", "u", MB, "0" * 64, "a@b", 0.0)
    about = asked(manifest=manifest(parts=(PATH,)), moves=now, moved=before, progress=Progress(job, {ASIDE: 1.0}))
    assert planned(situation(alive()), about).moves == now
    released = replace(about, progress=Progress(job, {ASIDE: 1.0, RELEASED: 2.0}))
    said = refused(situation(alive()), released)
    assert "volumes are moved before the release" in said
    assert ("go on as it was begun: --move agent-9=agent-1" if before else "go on without --move") in said
    assert planned(situation(alive()), replace(released, moves=before or {})).moves == (before or {})


def test_how_far_a_host_is_is_read_back_and_nonsense_is_nothing() -> None:
    job = Job(manifest().id, "local", ETCD, "test", "u", MB, "0" * 64, "a@b", 1.5)
    said = {
        "job": job.content(), "progress": b"staged 12\naside 13\nbroken\n", "failed": b"no room\n", "quiet": b"active",
    }  # fmt: skip
    output = "".join(f"{key} {base64.b64encode(value).decode()}\n" for key, value in said.items())
    found = restoring.read(output)
    assert found.job == job
    assert found.done == {"staged": 12.0, "aside": 13.0}
    assert (found.failed, found.quiet, found.works) == ("no room", True, False)
    assert restoring.read(f"job {base64.b64encode(b'[]').decode()}\n").job is None
    assert restoring.read("") == Progress()


def test_shellcheck_finds_nothing_in_what_hosts_run() -> None:
    need(shutil.which("shellcheck"), "shellcheck (Debian: apt-get install shellcheck)")
    job = Job(manifest().id, "local", CONVERT, "test", "u", MB, "0" * 64, "a@b", 1.5)
    scripts = (
        restoring.script(job), restoring.LOOK, restoring.START, restoring.BEGIN, restoring.BACK, restoring.RELEASE,
        restoring.hold("restore of x"), restoring.forget_data(job), restoring.unpack("/var/lib/a b", "now"),
        restoring.piece(3), restoring.write("job", 3), restoring.staged("0" * 64), restoring.let_go("k3s"),
    )  # fmt: skip
    command = ["shellcheck", "--shell=sh", "--severity=warning", "-"]
    for script in scripts:
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_page_shows_each_step_and_takes_no_markup_from_names() -> None:
    told = {
        "backup": "20261127T000000Z-abcdef", "store": "<b>", "target": "server-1", "bytes": 2_500_000,
        "proven_seconds": 11.0,
        "seconds": 12.5,
        "steps": {"send": 1.0, "restore": 4.0}, "first_backup": "",
    }  # fmt: skip
    page = restore_page.html("test", told)
    assert page.count("<tr><td>") == 2
    assert "&lt;b&gt;" in page
    assert 'style="width: 25.0%"' in page

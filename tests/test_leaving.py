"""os_deploy and the API's name: who is reset is out of it before, and in it again when it is proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from i12e import api_name, deploy, engine, fleet, naming, plans, rollout
from i12e.deploy import Named
from i12e.errors import UserError
from i12e.zones import Addresses, Fence, NotThere, Records, Refused, ZoneError
from rolling import DNS, FENCE, NAME, TTL, UID, Killed, World

SERVERS = ["server-1", "server-2", "server-3"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three servers that run an old config, and a name that is these three."""
    found = World(tmp_path)
    found.name_is(*SERVERS)
    return found


def fails(world: World, *targets: str, **given: Any) -> str:
    """Run os_deploy, which has to stop; return what is said."""
    with pytest.raises(UserError) as caught:
        world.deploy(*targets, **given)
    return str(caught.value)


def record_at(world: World, what: str) -> dict[str, list[str]]:
    """Return a mapping that fills itself: by the event's host, what the name was when such an event came."""
    found: dict[str, list[str]] = {}
    others = world.before

    def look(event: str) -> None:
        others(event)
        host, _, rest = event.partition(" ")
        if rest == what:
            found[host] = world.shown

    world.before = look
    return found


# --- the order


def test_a_server_is_out_of_the_name_for_the_ttl_before_it_is_drained_and_in_it_when_it_is_proven(world: World) -> None:
    drained, reset = record_at(world, "drain"), record_at(world, "reset")
    world.deploy()
    assert [each for each in world.happened("server-1", "zone") if "server-2" not in each][:14] == [
        "server-1 deploy.json (leaves)", "zone ensure", "zone commit",
        "server-1 drain", "server-1 next.ign", "server-1 next.sh", "server-1 reset",
        "server-1 uncordon", "server-1 deploy.json", "server-1 proven.ign", "server-1 proven.json",
        "zone ensure", "zone commit", "server-1 removes deploy.json, next.ign, next.sh, next.sum",
    ]  # fmt: skip
    assert drained == reset == {name: [each for each in SERVERS if each != name] for name in SERVERS}
    for name in SERVERS:
        assert world.at(f"{name} drain") - world.at(f"{name} deploy.json (leaves)") > TTL
    assert world.shown == SERVERS
    assert [machine.intent for machine in world.servers] == [None] * 3


def test_the_ttl_that_the_name_had_is_waited_for_where_it_is_the_longer_one(world: World) -> None:
    world.name_is(*SERVERS, ttl=300)
    world.deploy("server-2")
    assert world.at("server-2 drain") - world.at("server-2 deploy.json (leaves)") > 300
    world.deploy("server-3")
    assert TTL < world.at("server-3 drain") - world.at("server-3 deploy.json (leaves)") < 2 * TTL, "it is ours by now"


def test_what_is_waited_for_is_said(world: World) -> None:
    world.deploy("server-1")
    assert f"server-1: is out of {NAME}; for 30 s, its TTL, resolvers may still have it" in world.said
    assert f"server-1: is in {NAME}" in world.said


def test_agents_have_nothing_to_do_with_the_name(tmp_path: Path) -> None:
    world = World(tmp_path, agents=2)
    world.zone.fail("read", ZoneError("z", "is not to be asked"), times=9)
    world.deploy("agent-1", "agent-2")
    assert world.happened("zone") == []
    assert "agent-1 reset" in world.happened()


def test_without_dns_or_with_a_provider_that_is_a_person_nothing_of_it_is_done(tmp_path: Path) -> None:
    for dns in ("", "dns: {provider: none, zone: example.com}\n"):
        world = World(tmp_path, dns=dns)
        world.zone.fail("read", ZoneError("z", "is not to be asked"), times=9)
        world.deploy()
        assert world.happened("zone", "leaves") == []
        assert world.clock.now < 1_800_000_010, "nothing is waited for"


# --- never empty


def test_the_only_server_stays_in_the_name_and_nothing_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, servers=1)
    world.name_is("server-1")
    reset = record_at(world, "reset")
    world.deploy()
    assert reset == {"server-1": ["server-1"]}
    assert world.happened("zone", "leaves") == []
    assert f"server-1: {NAME} stays as it is meanwhile: no other server is healthy" in world.said
    assert world.clock.now < 1_800_000_010
    assert world.shown == ["server-1"]


def test_the_last_healthy_server_stays_in_the_name(world: World) -> None:
    for name in ("server-2", "server-3"):
        world.machines[name].ready = False
    world.name_is("server-1")
    world.deploy("server-1", force="the others are gone")
    assert world.happened("leaves") == []
    assert world.shown == ["server-1"]


def test_of_a_server_that_was_not_in_the_name_nothing_is_waited_for(world: World) -> None:
    world.machines["server-2"].ready = False
    world.name_is("server-1", "server-3")
    world.deploy("server-2")
    assert world.clock.now < 1_800_000_010
    assert world.shown == SERVERS


# --- kills


def test_what_an_earlier_run_took_out_a_moment_ago_is_waited_for_again(world: World) -> None:
    world.name_is(*SERVERS, ttl=300)
    world.kill_at = 3
    with pytest.raises(Killed):
        world.deploy("server-2")
    assert world.shown == ["server-1", "server-3"]
    assert world.machines["server-2"].intent is not None
    world.kill_at = None
    before = world.clock.now
    world.deploy("server-2")
    assert world.at("server-2 drain") - before > 300, "for as long as the name had it"
    assert world.shown == SERVERS


def _steps(tmp_path: Path) -> int:
    world = World(tmp_path / "whole")
    world.name_is(*SERVERS)
    world.deploy("server-2")
    return len(world.events)


def test_a_kill_anywhere_is_followed_by_the_same_command_which_ends_the_same(tmp_path: Path) -> None:
    for step in range(_steps(tmp_path)):
        world = World(tmp_path / str(step))
        world.name_is(*SERVERS)
        reset = record_at(world, "reset")
        world.kill_at = step
        with pytest.raises(Killed):
            world.deploy("server-2")
        out = "server-2" not in world.shown
        taken_out = world.clock.now
        world.kill_at = None
        world.deploy("server-2")
        machine = world.machines["server-2"]
        assert (machine.proven, machine.intent, machine.cordoned) == ("new of server-2", None, False), step
        assert world.shown == SERVERS, step
        assert world.happened("reset") == ["server-2 reset"], step
        assert reset == {"server-2": ["server-1", "server-3"]}, step
        if out and world.at("server-2 reset") > taken_out:
            assert world.at("server-2 reset") - taken_out > TTL, step
        world.deploy("server-2")
        assert len(world.build.told) == 1, "and then there is nothing to do"


def test_a_server_whose_reset_is_staged_leaves_before_it_reboots(tmp_path: Path) -> None:
    for dns, begun in ((DNS, ["server-2 deploy.json (leaves)", "zone ensure", "zone commit"]), ("", [])):
        world = World(tmp_path / f"{len(dns)}", dns=dns)
        world.name_is(*SERVERS)
        world.machines["server-2"].staged = True
        world.deploy("server-2")
        events = world.happened()
        assert events[: events.index("server-2 reset")] == begun
        assert world.machines["server-2"].proven == "new of server-2"
        assert world.shown == SERVERS


def test_a_dns_that_runs_elsewhere_meanwhile_does_not_put_it_back(world: World) -> None:
    shown = []

    def other_dns(event: str) -> None:
        if event in ("server-2 drain", "server-2 reset", "server-2 uncordon"):
            name = naming.Name(world.build, world.cluster, world.cluster.dns, world.zone, world.hosts())  # type: ignore[arg-type]
            now = fleet.situation(world.hosts(), [], whole=False)
            found = name.planned(name.healthy(now.view), "server-1")
            shown.append(list(found.plan.addresses))

    world.before = other_dns
    world.deploy("server-2")
    out = [world.address(name) for name in ("server-1", "server-3")]
    assert shown == [out, out, out]


def test_one_that_a_slow_dns_has_put_back_all_the_same_is_taken_out_again(world: World) -> None:
    sleep = world.clock.sleep
    times: list[float] = []

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if not times and "zone commit" in world.happened() and "server-2" not in world.shown:
            times.append(world.clock.now)
            world.name_is(*SERVERS)

    world.clock.sleep = sleeping  # type: ignore[method-assign]  # a test's own
    reset = record_at(world, "reset")
    world.deploy("server-2")
    assert reset == {"server-2": ["server-1", "server-3"]}
    assert any("somebody has put it into" in line for line in world.said)
    assert world.at("server-2 drain") - times[0] > 2 * TTL - 2


@pytest.mark.parametrize("late", [False, True])
def test_a_dns_whose_look_is_old_when_it_writes_looks_again(world: World, late: bool) -> None:
    """It saw server-3 out, or in, and writes when that is over: a deployment has come between."""
    with world.patched():
        world.machines["server-3"].ready = late
        name = naming.Name(world.build, world.cluster, world.cluster.dns, world.zone, world.hosts())  # type: ignore[arg-type]
        slow = api_name._Run(world.build, name)
        world.machines["server-3"].ready = not late
        world.name_is(*(SERVERS[:2] if late else SERVERS))
        slow.make(only_plan=False, take_over=False, yes=True)
        assert world.shown == (SERVERS[:2] if late else SERVERS)
        assert world.build.told[-1].facts["servers"] == world.shown


# --- what goes wrong before the reset


def untouched(world: World, name: str) -> None:
    """See that a server was not reset, and is as it was."""
    assert world.happened("reset", "drain") == []
    machine = world.machines[name]
    assert (machine.intent, machine.cordoned, machine.digest) == (None, False, f"old of {name}")


def test_a_zone_that_cannot_be_written_leaves_the_server_as_it_was(world: World) -> None:
    world.zone.fail("ensure", Refused("zone", "the key may not write"), times=9)
    said = fails(world)
    assert "server-1: not reset, for " in said
    assert "the key may not write" in said
    assert "--no-dns REASON" in said
    untouched(world, "server-1")
    assert world.shown == SERVERS
    assert any("not touched any more: server-2, server-3" in note for note in world.build.notes)


def test_a_name_that_became_a_strangers_meanwhile_is_not_written(world: World) -> None:
    world.before = lambda event: (
        world.zone.plant(NAME, {"198.51.100.7": 30}) if event == "server-1 deploy.json (leaves)" else None
    )
    said = fails(world, "server-1")
    assert "not reset, for" in said
    assert "198.51.100.7, which no server of ours has" in said
    untouched(world, "server-1")
    assert world.shown == ["198.51.100.7"]


def test_what_an_earlier_run_had_begun_is_there_again_and_its_node_is_not_cordoned(world: World) -> None:
    world.kill_at = 4  # after the drain
    with pytest.raises(Killed):
        world.deploy("server-1")
    world.kill_at = None
    before = world.machines["server-1"].intent
    assert before is not None
    assert world.machines["server-1"].cordoned
    world.name_is(*SERVERS)
    world.zone.fail("ensure", Refused("zone", "the key may not write"), times=9)
    assert "not reset" in fails(world, "server-1")
    assert (world.machines["server-1"].intent, world.machines["server-1"].cordoned) == (before, False)


def test_a_name_server_that_goes_on_to_show_it_keeps_it_from_being_reset(world: World) -> None:
    world.zone.lag("ns2", 1000)
    said = fails(world, "server-1")
    assert "not all of the zone's servers show it: ns2 has" in said
    untouched(world, "server-1")
    assert world.shown == SERVERS, "and it is put back"


def test_a_server_whose_pods_do_not_leave_is_put_back(world: World) -> None:
    kubectl = world.kubectl

    def holding(line: str, stdin: bytes) -> Any:
        done = kubectl(line, stdin)
        return replace(done, status=1, complaint="a budget holds web-1") if line.startswith("drain") else done

    world.kubectl = holding  # type: ignore[method-assign]  # a test's own
    assert "its pods do not leave: a budget holds web-1" in fails(world, "server-1")
    machine = world.machines["server-1"]
    assert (machine.cordoned, world.happened("reset")) == (False, [])
    assert machine.intent is not None
    assert "leaves" not in machine.intent
    assert world.shown == SERVERS


def test_a_server_is_not_reset_if_another_one_became_sick_while_the_ttl_was_waited_for(world: World) -> None:
    sleep = world.clock.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        world.machines["server-3"].ready = "server-1" in world.shown

    world.clock.sleep = sleeping  # type: ignore[method-assign]  # a test's own
    assert "etcd would lose its quorum" in fails(world, "server-1")
    untouched(world, "server-1")
    assert world.shown == ["server-1", "server-2"], "and the name has who is healthy"


# --- what goes wrong after the proof


def test_a_server_that_is_proven_and_not_in_the_name_stops_the_run_and_the_next_one_mends_it(world: World) -> None:
    writes: list[str] = []

    def second_write(event: str) -> None:
        writes.extend([event] if event == "zone ensure" else [])
        if len(writes) == 2 and event == "zone ensure":
            raise ZoneError("zone", "is not there")

    world.before = second_write
    said = fails(world)
    assert f"server-1: proven, but {NAME}: zone: is not there (./doit dns, or the same again)" in said
    machine = world.machines["server-1"]
    assert machine.proven == "new of server-1"
    assert machine.intent is not None
    assert "leaves" not in machine.intent
    assert world.happened("server-2") == []
    world.before = lambda event: None
    world.deploy("server-1")
    assert world.happened("reset") == ["server-1 reset"]
    assert "deploy.json" not in machine.files
    assert world.shown == SERVERS


def test_a_server_that_the_others_do_not_see_as_healthy_is_not_told_as_done(world: World) -> None:
    def sick(event: str) -> None:
        if event == "server-1 proven.json":
            world.machines["server-1"].ready = False

    world.before = sick
    said = fails(world, "server-1")
    assert f"proven, but {NAME} is without it: it is not Ready" in said
    assert world.build.told == []


# --- before anything is changed

ANOTHER, LATER = Fence("uid-of-another", 1), Fence(UID, 7)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda zone: zone.plant(NAME, {"192.0.2.11": 30}, [ANOTHER.text]), ("another cluster", "dns --take-over")),
        (lambda zone: zone.plant(NAME, {"192.0.2.11": 30}, [LATER.text]), ("a later epoch", "./doit dns --take-over")),
        (lambda zone: zone.plant(NAME, {"192.0.2.11": 30}, ["v=spf1"]), ('"v=spf1", which is no fence', "delete that")),
        (lambda zone: zone.plant(NAME, {}, [], "an alias (CNAME) to x"), ("an alias", "another name")),
        (lambda zone: zone.plant(NAME, {"192.0.2.11": 30, "198.51.100.7": 30}), ("198.51.100.7", "./doit dns asks")),
        (lambda zone: zone.fail("read", Refused("zone", "does not know our key")), ("our key", "--no-dns REASON")),
        (lambda zone: zone.fail("read", NotThere("zone", "is not there")), ("is not there", "--no-dns REASON")),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_right_stops_the_run_before_anything_is_changed(
    world: World, plant: Callable[[Any], None], said: tuple[str, str]
) -> None:
    plant(world.zone)
    found = fails(world)
    for each in (*said, f"{NAME} cannot be kept right, so nothing was changed"):
        assert each in found
    assert world.events == []


def test_a_name_that_nobody_holds_is_claimed_silently_if_it_is_ours_or_empty(tmp_path: Path) -> None:
    for number, names in enumerate(([], ["server-1"], SERVERS)):
        world = World(tmp_path / str(number))
        world.name_is(*names, fence=None)
        world.epoch = None
        world.deploy()
        assert world.shown == SERVERS
        assert world.zone.read(NAME).fence == FENCE
        first = world.happened("epoch", "zone commit")
        assert first[0] == "epoch is written down", "before anybody can see it"


def test_a_cluster_that_was_promoted_takes_its_name_from_its_earlier_epoch(world: World) -> None:
    world.epoch = 2
    world.deploy("server-1")
    assert world.zone.read(NAME) == Records(
        Addresses.of(world.address(name) for name in SERVERS), frozenset({TTL}), Fence(UID, 2)
    )


# --- founding


def test_a_founder_is_in_the_name_before_the_next_server_joins_by_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.bare()
    reset = record_at(world, "reset")
    world.deploy()
    assert reset == {"server-1": [], "server-2": ["server-1"], "server-3": ["server-1", "server-2"]}
    assert world.shown == SERVERS
    assert world.clock.now < 1_800_000_020, "nobody had them: nothing is waited for"


def test_a_new_cluster_does_not_take_the_name_of_the_one_before_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.bare()
    world.zone.plant(NAME, {"192.0.2.11": 30}, [ANOTHER.text])
    said = fails(world)
    assert any("./doit dns --take-over alone" in line for line in world.said)
    assert f"server-1: proven, but {NAME} is held by another cluster" in said
    assert world.happened("server-2") == []
    assert world.zone.read(NAME).fence == ANOTHER


def test_nothing_is_founded_while_a_name_that_nobody_holds_is_a_strangers(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.bare()
    world.zone.plant(NAME, {"198.51.100.7": 30})
    assert "198.51.100.7, which no server of ours has" in fails(world)
    assert world.events == []


def test_a_server_that_only_has_to_be_proven_is_in_the_name_then(world: World) -> None:
    world.name_is("server-1")
    world.machines["server-2"].digest = "new of server-2"
    for step in range(6):
        world.kill_at = len(world.events) + step
        with pytest.raises(Killed):
            world.deploy("server-2")
    world.kill_at = None
    world.deploy("server-2")
    assert world.shown == SERVERS
    assert world.happened("reset", "drain", "leaves") == []


# --- --no-dns


def test_with_a_reason_the_name_is_left_alone_and_that_is_said(world: World) -> None:
    world.zone.fail("read", ZoneError("zone", "is down"), times=99)
    before = dict(world.zone._names[NAME].addresses)
    world.deploy(no_dns="the provider is down")
    assert world.happened("zone", "leaves") == []
    assert len(world.happened("server-1 deploy.json")) == 1
    assert world.zone._names[NAME].addresses == before
    assert [machine.proven for machine in world.servers] == [f"new of {name}" for name in SERVERS]
    assert f"--no-dns: the provider is down: {NAME} is left as it is; ./doit dns makes it right" in world.said


# --- the plan


def planned(world: World, name: str, named: Named | None) -> deploy.HostPlan:
    """Return the plan for a host."""
    with world.patched():
        now = fleet.situation(world.hosts(), list(world.wanted))
    return deploy.plan(name, replace(now, name=named, force=True))


def test_the_plan_says_which_name_a_server_leaves_and_for_how_long_that_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, agents=1)
    named = naming.kept(world.cluster)
    assert named == Named(NAME, TTL)
    plan = planned(world, "server-1", named)
    with world.patched():
        told = list(plans.lines(world.build, [plan], fleet.situation(world.hosts(), ["server-1"])))
    assert f"    {NAME} is without it first, and for its TTL, 30 s, that is waited for" in told
    assert json.loads(json.dumps(plans.as_json(plan)))["leaves"] == {"name": NAME, "ttl": TTL}
    assert planned(world, "agent-1", named).leaves is None
    assert planned(world, "server-1", None).leaves is None, "with --no-dns, or without dns"
    for name in ("server-2", "server-3"):
        world.machines[name].ready = False
    plan = planned(world, "server-1", named)
    assert (plan.action, plan.leaves) == (deploy.RESET, None), "the last healthy one stays"


def test_the_plan_of_a_run_that_leaves_the_name_alone_says_nothing_of_it(world: World) -> None:
    for reason, leaves in (("", {"name": NAME, "ttl": TTL}), ("the provider is down", None)):
        world.deploy("server-1", only_plan=True, no_dns=reason)
        (told,) = world.build.told
        assert told.facts["plan"]["leaves"] == leaves
        assert (f"{NAME} is without it first" in (told.text or "")) is (leaves is not None)
    assert world.events == []


@pytest.mark.parametrize("dns", [DNS, "", "dns: {provider: none, zone: example.com}\n"])
def test_a_name_is_kept_where_a_provider_writes_it(tmp_path: Path, dns: str) -> None:
    assert naming.kept(World(tmp_path, dns=dns).cluster) == (Named(NAME, TTL) if dns == DNS else None)


def test_both_commands_that_reset_hosts_take_the_reason_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "hosts/example").mkdir(parents=True)
    (tmp_path / "hosts/example/server-1.yaml").write_text("")
    config = engine.configure(tmp_path, default_tasks=[])
    params = {task["basename"]: {each["long"] for each in task["params"]} for task in engine.deploy_tasks(config)}
    for task in ("os_deploy", "os_deploy:server-1", "os_rollback", "os_rollback:server-1"):
        assert {"no-dns", "no-backup"} <= params[task]
    assert rollout.options(True, False, "", 1, "1m", "1m", "", "down").no_dns == "down"

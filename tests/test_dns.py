"""What the API's name should be: facts in, a plan out, without any host or server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i12e.dns import Healthy, Plan, healthy, plan, wanted
from i12e.facts import ClusterView, Facts, HostFacts, Node, Silent
from i12e.zones import Addresses, Fence, Fenced, Records, ZoneError, admitted
from memoryzone import Memory

NAME, TTL = "k8s.example.com", 30
NOW = 1_800_000_000.0
OURS = Fence("uid-a", 3)
SERVERS = ("server-1", "server-2", "server-3")
V4 = {name: [f"192.0.2.1{name[-1]}"] for name in SERVERS}
DUAL = {name: [f"192.0.2.1{name[-1]}", f"2001:db8::{name[-1]}"] for name in SERVERS}
ALL = Addresses.of(each for texts in V4.values() for each in texts)


def node(name: str, ready: bool = True, voter: bool | None = True, cordoned: bool = False) -> Node:
    """Given what is so, return a node."""
    return Node(name, ready, cordoned, voter, "v1.35.4+k3s1", "boot")


def view(nodes: Sequence[Node] = (), **facts: Facts) -> ClusterView:
    """Given the nodes as every server that answers has them, and what is else so of hosts, return the view."""
    known = {each.name: each for each in nodes}
    named = {name.replace("_", "-"): found for name, found in facts.items()}
    answering: Facts = HostFacts(nodes=known, etcd_healthy=True)
    return ClusterView({name: named.get(name, answering) for name in SERVERS}, SERVERS)


def good() -> list[Node]:
    """Return three nodes that are well."""
    return [node(name) for name in SERVERS]


def fit(*names: str) -> Healthy:
    """Given names, return these as the healthy ones."""
    return Healthy(names, {name: "is not Ready" for name in SERVERS if name not in names})


def decided(
    found: Records,
    *names: str,
    ours: Fence = OURS,
    addresses: dict[str, list[str]] = V4,
    take_over: bool = False,
) -> Plan:
    """Given what stands there, and the healthy servers, return the plan."""
    return plan(NAME, fit(*names), addresses, found, ours, TTL, take_over)


def held(*texts: str, fence: Fence | None = OURS, ttl: int = TTL) -> Records:
    """Given addresses, return them as records."""
    return Records(Addresses.of(texts), frozenset({ttl}), fence)


def test_all_servers_that_are_ready_and_whose_etcd_is_healthy_are_healthy() -> None:
    assert healthy(view(good()), NOW) == Healthy(SERVERS, {})


@pytest.mark.parametrize(
    ("nodes", "facts", "why"),
    [
        ([node("server-1"), node("server-2", ready=False), node("server-3")], {}, "is not Ready"),
        ([node("server-1"), node("server-3")], {}, "is no node of the cluster"),
        ([node("server-1"), node("server-2", voter=False), node("server-3")], {}, "is no voting member of etcd"),
        ([node("server-1"), node("server-2", voter=None), node("server-3")], {}, "is no voting member of etcd"),
        (good(), {"server_2": HostFacts(nodes={}, etcd_healthy=False)}, "has an etcd that is not healthy"),
        (good(), {"server_2": HostFacts(nodes=None)}, "has an API that does not answer"),
    ],
)
def test_a_server_that_is_not_well_is_not_healthy_and_why_is_told(
    nodes: list[Node], facts: dict[str, Facts], why: str
) -> None:
    assert healthy(view(nodes, **facts), NOW) == Healthy(("server-1", "server-3"), {"server-2": why})


def test_a_server_that_we_do_not_reach_and_that_the_cluster_calls_ready_is_healthy() -> None:
    assert healthy(view(good(), server_2=Silent("no route")), NOW).servers == SERVERS


def test_where_no_server_answers_none_is_healthy_and_why_is_told() -> None:
    silent = Silent("no route to host")
    found = healthy(view([], server_1=silent, server_2=silent, server_3=HostFacts()), NOW)
    assert found == Healthy(
        (),
        {
            "server-1": "does not answer: no route to host",
            "server-2": "does not answer: no route to host",
            "server-3": "does not answer",
        },
    )


def test_a_server_that_is_taken_out_is_not_among_them() -> None:
    found = healthy(view(good()), NOW, without=["server-2"])
    assert found == Healthy(("server-1", "server-3"), {"server-2": "is taken out"})


LEAVING = {"operator": "me@there", "at": NOW - 60, "leaves": True, "ttl": 30}


def test_a_server_that_another_run_is_about_to_reset_is_not_put_back_by_a_dns_that_runs_elsewhere() -> None:
    def of(**more: object) -> tuple[str, ...]:
        known = {each.name: each for each in good()}
        leaving = HostFacts(nodes=known, etcd_healthy=True, intent={**LEAVING, **more})
        return healthy(view(good(), server_2=leaving), NOW).servers

    out = ("server-1", "server-3")
    assert of() == out
    assert of(at=NOW + 300) == out, "that operator's clock may be another one"
    assert of(at=NOW - 3629) == out
    assert of(at=NOW - 3631) == SERVERS, "a run that never came back keeps nobody out for ever"
    assert of(at=NOW - 7000, ttl=3600) == out
    assert of(leaves=False) == of(at="x") == of(at=None) == SERVERS


def test_a_server_that_reboots_in_a_deployment_is_cordoned_and_not_put_back_while_its_node_is_still_ready() -> None:
    nodes = [node("server-1"), node("server-2", cordoned=True), node("server-3")]
    found = healthy(view(nodes, server_2=Silent("no route")), NOW)
    assert found.unfit == {"server-2": "is cordoned, and we do not reach it"}
    assert healthy(view(nodes), NOW).servers == SERVERS, "one that answers is as healthy as others"


def test_on_sqlite_there_is_no_etcd_to_be_healthy() -> None:
    only = ClusterView({"server-1": HostFacts(nodes={"server-1": node("server-1", voter=None)})}, ("server-1",))
    assert healthy(only, NOW).servers == ()
    assert healthy(only, NOW, sqlite=True).servers == ("server-1",)


def test_a_server_that_died_is_taken_out_and_one_that_came_back_is_put_in() -> None:
    before = held(*ALL)
    assert decided(before, *SERVERS) == Plan("nothing", f"{NAME} is {ALL}, as it should be", ALL, OURS)
    less = decided(before, "server-1", "server-3")
    assert (less.action, less.why, less.expected) == ("write", f"{NAME}: - 192.0.2.12", OURS)
    assert list(less.addresses) == ["192.0.2.11", "192.0.2.13"]
    more = decided(held(*less.addresses), *SERVERS)
    assert (more.action, more.why, more.addresses) == ("write", f"{NAME}: + 192.0.2.12", ALL)


def test_another_ttl_alone_is_a_change() -> None:
    assert decided(held(*ALL, ttl=300), *SERVERS).why == f"{NAME}: TTL 300 s -> 30 s"


def test_without_a_healthy_server_nothing_changes_and_why_is_told() -> None:
    for found in (held(*ALL), held("198.51.100.1"), Records(fence=OURS), Records()):
        done = decided(found)
        assert (done.action, done.addresses) == ("nothing", found.addresses)
        assert done.why.startswith(f"no server is healthy, so {NAME} stays as it is, {found.addresses}: server-1 is ")


def test_both_families_are_kept_each_for_itself() -> None:
    found = held("192.0.2.11", "2001:db8::1")
    assert list(decided(found, "server-2", addresses=DUAL).addresses) == ["192.0.2.12", "2001:db8::2"]
    mixed = {"server-1": ["192.0.2.11", "2001:db8::1"], "server-2": ["192.0.2.12"]}
    kept = decided(found, "server-2", addresses=mixed)
    assert list(kept.addresses) == ["192.0.2.12", "2001:db8::1"]
    assert kept.notes == ("no healthy server has an address of IPv6: what the name has of it stays",)


def test_a_family_that_the_cluster_no_longer_has_goes_away() -> None:
    assert list(decided(held("192.0.2.11", "2001:db8::1"), "server-1").addresses) == ["192.0.2.11"]


def test_a_name_without_a_fence_is_claimed_and_that_is_told() -> None:
    done = decided(held("198.51.100.9", fence=None, ttl=300), "server-1")
    assert (done.action, done.claims, done.takes_over, done.expected) == ("write", True, False, None)
    assert done.why == f"{NAME}: + 192.0.2.11, - 198.51.100.9, TTL 300 s -> 30 s, fence: {OURS}"


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize("holder", [Fence("uid-a", 4), Fence("uid-b", 3), Fence("uid-b", 4)])
def test_a_later_epoch_or_another_cluster_of_the_same_one_is_never_written_over(holder: Fence, take_over: bool) -> None:
    done = decided(held(*ALL, fence=holder), *SERVERS, take_over=take_over)
    assert (done.action, done.expected) == ("refuse", holder)
    assert str(holder) in done.why
    assert done.remedy


def test_another_clusters_name_is_taken_only_by_the_command_for_it() -> None:
    other = Fence("uid-b", 2)
    assert decided(held(*ALL, fence=other), *SERVERS).action == "refuse"
    ours = OURS.after(other)
    assert decided(held(*ALL, fence=other), *SERVERS, ours=ours).action == "refuse"
    done = decided(held(*ALL, fence=other), *SERVERS, ours=ours, take_over=True)
    assert (done.action, done.takes_over, done.claims, done.expected) == ("write", True, False, other)


def test_a_restored_cluster_that_was_promoted_writes_over_its_own_earlier_epoch() -> None:
    done = decided(held("203.0.113.1", fence=Fence("uid-a", 2)), "server-1")
    assert (done.action, done.takes_over) == ("write", True)
    assert f"fence: cluster uid-a, epoch 2 -> {OURS}" in done.why


def test_what_is_not_ours_to_write_over_is_refused() -> None:
    alias = decided(Records(other="an alias (CNAME) to x"), *SERVERS)
    assert (alias.action, "an alias (CNAME) to x" in alias.why) == ("refuse", True)
    foreign = decided(Records(foreign=("v=spf1",)), *SERVERS)
    assert (foreign.action, '"v=spf1"' in foreign.why) == ("refuse", True)


def test_a_rival_fence_is_removed() -> None:
    done = decided(Records(ALL, frozenset({TTL}), OURS, (Fence("uid-z", 1),)), *SERVERS)
    assert (done.action, done.why) == ("write", f"{NAME}: fence: without cluster uid-z, epoch 1")


addresses = st.fixed_dictionaries({}, optional={name: st.sampled_from([V4[name], DUAL[name]]) for name in SERVERS})
few = st.builds(Fence, st.sampled_from(["uid-a", "uid-b"]), st.integers(1, 4))
sets = st.lists(st.sampled_from([*ALL, "198.51.100.1", "2001:db8::1", "2001:db8::99"]), unique=True)


@given(sets, st.sets(st.sampled_from(SERVERS)), addresses, st.none() | few, few, st.booleans())
def test_whatever_is_so_no_family_is_emptied_and_every_write_is_one_that_a_zone_takes(
    texts: list[str],
    names: set[str],
    has: dict[str, list[str]],
    fence: Fence | None,
    ours: Fence,
    take_over: bool,
) -> None:
    found = Records(Addresses.of(texts), frozenset({TTL} if texts else ()), fence)
    done = plan(NAME, fit(*sorted(names)), has, found, ours, TTL, take_over)
    everything = Addresses.of(each for each_has in has.values() for each in each_has)
    if done.action == "write":
        admitted("z", NAME, found, done.addresses, ours, done.expected)
        assert done.addresses
        for family in ("v4", "v6"):
            if getattr(found.addresses, family) and getattr(everything, family):
                assert getattr(done.addresses, family)
        assert not found.shows(done.addresses, TTL, ours)
        memory = Memory()
        memory.plant(NAME, dict.fromkeys(found.addresses, TTL), [fence.text] if fence else [])
        memory.ensure(NAME, done.addresses, TTL, ours, done.expected)
        again = plan(NAME, fit(*sorted(names)), has, memory.read(NAME), ours, TTL, take_over)
        assert again.action == "nothing", "what was written is what is planned the next time"
    if done.action == "refuse":
        assert fence not in (None, ours)


@given(sets, addresses, st.sets(st.sampled_from(SERVERS)))
def test_an_address_of_a_healthy_server_is_always_there(
    texts: list[str], has: dict[str, list[str]], names: set[str]
) -> None:
    should, _ = wanted(fit(*names), has, Addresses.of(texts))
    for name in names:
        assert {*Addresses.of(has.get(name, ()))} <= {*should}


def test_a_plan_that_was_overtaken_is_refused_by_the_zone() -> None:
    memory = Memory()
    memory.ensure(NAME, ALL, TTL, OURS, None)
    done = decided(memory.read(NAME), "server-1")
    memory.ensure(NAME, ALL, TTL, Fence("uid-a", 4), OURS)
    with pytest.raises(Fenced):
        memory.ensure(NAME, done.addresses, TTL, OURS, done.expected)
    assert issubclass(Fenced, ZoneError)

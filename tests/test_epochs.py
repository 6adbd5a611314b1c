"""Epochs of a cluster: the one that was restored and the one that it was never write into the same folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

import bundles
from bundles import Taking, World
from i12e import alarms, backup, backup_list, backup_prune, backup_verify, backups, bundle, fence, remote, verify
from i12e.backups import Mark, Place
from i12e.epoch import Identity
from i12e.errors import Problem, UserError
from i12e.folders import Folder
from i12e.settings import Retention
from i12e.stores import Missing, StoreError
from memorystore import Memory
from test_backup import CLUSTER, changed, copy_of, good, inside, memory, points_of, said

REPLACED = r"a later epoch of this cluster \(2\) has this store: this one was replaced by it"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small cluster."""
    return bundles.world(tmp_path_factory.mktemp("made") / "checkout", CLUSTER, count=5)


@pytest.fixture
def world(made: World) -> World:
    """The small cluster, in its first epoch."""
    made.build.notes.clear()
    made.build.told.clear()
    return dataclasses.replace(made, epoch=1)


def restored(world: World, epoch: int = 2) -> World:
    """Given a cluster, return what it is after it was restored and promoted."""
    return dataclasses.replace(world, epoch=epoch)


def numbers(place: Place) -> list[int]:
    """Given a place, return the numbers of the good backups of all epochs, the latest epoch first."""
    return [each.number for each in backups.survey_all(place) if each.is_good]


def grow(place: Place) -> bool:
    """Given a place, tell whether no two backups have the same number, and those of later epochs higher ones."""
    found = numbers(place)
    return found == sorted(set(found), reverse=True)


@pytest.fixture(scope="module")
def one_good(made: World) -> Memory:
    """A store with one good backup of the first epoch."""
    place = memory()
    bundles.make(made, place)
    return inside(place)


# --- folders


def test_the_first_epochs_folder_is_the_one_that_it_always_was(world: World) -> None:
    place = memory()
    bundles.make(world, place)
    assert {key.split("/")[0] for key in inside(place).contents()} == {CLUSTER}
    assert place.key(backups.CLAIM) not in inside(place).contents()
    assert backups.epochs(place) == [1]


def test_a_later_epoch_writes_to_a_folder_of_its_own_and_leaves_the_earlier_one_as_it_is(world: World) -> None:
    place = memory()
    first = [bundles.make(world, place) for _ in range(2)]
    before = inside(place).contents()
    second = bundles.make(restored(world), place)
    after = inside(place).contents()
    assert {key: after[key] for key in before} == before
    assert {key.split("/")[0] for key in after.keys() - before.keys()} == {"example.e2"}
    assert good(place) == first[::-1]
    assert good(place.of(2)) == [second]
    assert [(each.id, each.epoch) for each in backups.survey_all(place)] == [(second, 2), (first[1], 1), (first[0], 1)]
    assert verify.check(place.of(2), second, [world.key], world.folder).manifest.cluster == CLUSTER
    assert json.loads(after["example.e2/epoch.json"])["uid"] == world.uid


@pytest.mark.parametrize("shares", [True, False])
def test_no_two_epochs_share_a_number_and_a_later_one_has_the_higher(shares: bool, world: World) -> None:
    place = memory(shares=shares)
    with mock.patch.object(Memory, "probe"):  # which would find out that this one shares all the same
        for epoch in (1, 1, 2, 2, 5, 5):
            bundles.make(restored(world, epoch), place)
    assert numbers(place) == [6, 5, 4, 3, 2, 1]
    assert backups.epochs(place) == [5, 2, 1]


def test_a_prune_that_is_the_first_in_an_epoch_takes_no_number_of_an_earlier_one(world: World) -> None:
    place = memory()
    for _ in range(3):
        bundles.make(world, place)
    fence.claim(place.of(2), world.uid)
    inside(place).create("example.e2/backups/20270101T000000Z-0a1b2c/x.age", b"unfinished")
    assert backup_prune._prune(world.build, world.cluster, place.of(2), False, True) == []
    bundles.make(restored(world), place)
    assert grow(place)


def test_an_epoch_is_told_by_its_claim_or_its_backups_and_by_nothing_else() -> None:
    store = Memory()
    place = Place(store, CLUSTER)
    for key in (
        "example/epoch.json", "example.e1/epoch.json", "example.e03/epoch.json", "example.ex/epoch.json",
        "example.e4/holds/x/me.json", "example.e5/epoch.json/x", "example-b.e7/epoch.json", "example.e8",
        "example.e/epoch.json", "example.e-9/epoch.json", f"example.e{10**15}/epoch.json",
    ):  # fmt: skip
        store.put(key, [b""])
    assert backups.epochs(place) == [1]
    store.put("example.e12/epoch.json", [b""])
    store.put("example.e3/backups/20270101T000000Z-0a1b2c/manifest.json", [b""])  # somebody removed the claim
    assert backups.epochs(place) == [12, 3, 1]
    assert (place.folder, place.of(3).folder, place.of(3).of(1).folder) == ("example", "example.e3", "example")


def test_each_store_is_claimed_for_itself(world: World) -> None:
    one, two = memory("one"), memory("two")
    bundles.make(world, one, two)
    fence.claim(one.of(2), world.uid)
    assert backups.epochs(two) == [1]
    backup_id = bundles.make(restored(world), one, two)  # the promotion did not reach the second one
    assert good(one.of(2)) == good(two.of(2)) == [backup_id]
    assert backups.epochs(two) == [2, 1]


# --- the old cluster


def test_the_old_cluster_that_wakes_up_gets_nothing_into_the_store_and_is_told_to_go(world: World) -> None:
    place = memory()
    bundles.make(world, place)
    fence.claim(place.of(2), world.uid)
    before = inside(place).contents()
    with mock.patch.object(alarms.Alarms, "failed", return_value=[]) as rung, pytest.raises(UserError) as error:
        bundles.make(world, place)
    assert "a later epoch of this cluster (2) has this store: this one was replaced by it (shut it down)" in said(error)
    assert inside(place).contents() == before
    assert rung.call_count == 1


def test_what_one_store_knows_of_a_later_epoch_counts_for_all(world: World) -> None:
    one, two = memory("one"), memory("two")
    bundles.make(world, one, two)
    fence.claim(two.of(2), world.uid)
    before = inside(one).contents()
    with pytest.raises(UserError, match=REPLACED):
        bundles.make(world, one, two)
    assert inside(one).contents() == before


def test_the_old_cluster_is_refused_also_where_somebody_removed_the_claim(world: World) -> None:
    place = memory()
    bundles.make(restored(world), place)
    place.store.delete("example.e2/epoch.json")
    with pytest.raises(UserError, match=REPLACED):
        bundles.make(world, place)
    bundles.make(restored(world), place)
    assert "example.e2/epoch.json" in inside(place).contents()


def promoted_at(world: World, before: Memory, point: int, promote: Callable[[Place], None]) -> tuple[Place, bool]:
    """Given a cluster and a store, back the old one up, with a promotion before the operation of that number.

    Return the place, and whether it came so far. Demand that nothing was committed after the promotion.
    """
    place = Place(copy_of(before, shares=before.shares), CLUSTER)
    store = inside(place)
    left = point
    then: list[str] = []

    def act(operation: str, key: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            store.before = lambda operation, key: None
            promote(place)
            then.extend(good(place))

    store.before = act
    try:
        bundles.make(world, place)
    except UserError:
        pass
    else:
        assert not then or len(then) == 2  # it was committed before
    reached = left <= 0
    store.before = lambda operation, key: None
    if reached:
        assert good(place) == then
        for backup_id in then:
            verify.check_sealed(place, backup_id)
        with pytest.raises(UserError, match=REPLACED):
            bundles.make(world, place)
        bundles.make(restored(world), place)
        assert good(place) == then
        assert grow(place)
    return place, reached


def claims(world: World) -> Callable[[Place], None]:
    """Return a promotion."""

    def promote(place: Place) -> None:
        fence.claim(place.of(2), world.uid)

    return promote


@pytest.mark.parametrize("shares", [True, False])
def test_a_promotion_between_lease_and_manifest_shuts_the_old_cluster_out(
    shares: bool, world: World, one_good: Memory
) -> None:
    store = copy_of(one_good, shares=shares)
    with mock.patch.object(Memory, "probe"):
        points = points_of(store, lambda: bundles.make(world, Place(store, CLUSTER)))
        assert points > 25
        chance = random.Random(8)  # noqa: S311
        for point in (1, *sorted(chance.sample(range(2, points), 6)), points):
            _, reached = promoted_at(world, copy_of(one_good, shares=shares), point, claims(world))
            assert reached


def test_a_promotion_right_before_the_manifest_wins(world: World, one_good: Memory) -> None:
    """The old cluster has just seen that there is no later epoch: what shuts it out lies where its manifest would."""
    place = Place(copy_of(one_good), CLUSTER)

    def act(operation: str, key: str) -> None:
        if operation == "create" and key.endswith(bundle.MANIFEST):
            inside(place).before = lambda operation, key: None
            fence.claim(place.of(2), world.uid)

    inside(place).before = act
    before = good(place)
    with pytest.raises(UserError, match="somebody else took over while this backup was made, and shut it out"):
        bundles.make(world, place)
    assert good(place) == before


def test_a_manifest_that_is_faster_than_its_tombstone_counts_and_has_its_number_alone(
    world: World, one_good: Memory
) -> None:
    place = Place(copy_of(one_good), CLUSTER)
    store = inside(place)
    manifest = place.part(bundles.make(world, place), bundle.MANIFEST)
    content = store.contents()[manifest]
    store.delete(manifest)

    def act(operation: str, key: str) -> None:
        if (operation, key) == ("create", manifest):
            store.before = lambda operation, key: None
            store.create(manifest, content)

    store.create(place.of(2).key(backups.CLAIM), json.dumps({"epoch": 2, "uid": world.uid, "at": 1, "by": ""}).encode())
    store.before = act
    bundles.make(restored(world), place)
    assert numbers(place) == [3, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("shares", [True, False])
def test_a_promotion_at_any_operation_shuts_the_old_cluster_out(shares: bool, world: World, one_good: Memory) -> None:
    with mock.patch.object(Memory, "probe"):
        point = 1
        while promoted_at(world, copy_of(one_good, shares=shares), point, claims(world))[1]:
            point += 1
    assert point > 25


class Killed(BaseException):
    """The process is gone."""


def broken_off(world: World, point: int) -> Callable[[Place], None]:
    """Return a promotion that is killed before the operation of that number, and is followed by a backup."""

    def promote(place: Place) -> None:
        store, left = inside(place), point

        def act(operation: str, key: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        store.before = act
        with contextlib.suppress(Killed):
            fence.claim(place.of(2), world.uid)
        store.before = lambda operation, key: None
        bundles.make(restored(world), place)

    return promote


@pytest.mark.parametrize("point", [1, 3, 5, 8, 9, 99])
def test_a_promotion_that_is_killed_is_made_whole_by_the_first_backup_of_its_epoch(
    point: int, world: World, one_good: Memory
) -> None:
    """The old cluster stands right before its manifest meanwhile: it has seen that no later epoch is there."""
    place = Place(copy_of(one_good), CLUSTER)
    store = inside(place)
    first = good(place)

    def act(operation: str, key: str) -> None:
        if operation == "create" and key.endswith(bundle.MANIFEST):
            store.before = lambda operation, key: None
            broken_off(world, point)(place)

    store.before = act
    with pytest.raises(UserError, match="somebody else took over"):
        bundles.make(world, place)
    assert good(place) == first
    assert len(good(place.of(2))) == 1
    assert grow(place)
    assert fence.claim(place.of(2), world.uid).epoch == 2  # again, and nothing changes
    assert good(place) == first


def test_what_the_old_cluster_committed_before_the_promotion_counts(world: World, one_good: Memory) -> None:
    place = Place(copy_of(one_good), CLUSTER)
    taking: list[str] = []

    def act(operation: str, key: str) -> None:
        if operation == "create" and key == place.of(2).key(backups.CLAIM):
            inside(place).before = lambda operation, key: None
            taking.append(bundles.make(world, place))

    inside(place).before = act
    fence.claim(place.of(2), world.uid)
    assert good(place)[0] == taking[0]
    bundles.make(restored(world), place)
    assert numbers(place) == [3, 2, 1]


# --- who the cluster is


def test_a_cluster_whose_epoch_changes_while_it_is_backed_up_gets_nothing_committed(world: World) -> None:
    place = memory()
    first = bundles.make(world, place)
    changing = restored(world, 1)

    def act(operation: str, key: str) -> None:
        if operation == "put" and "/backups/" in key:
            changing.epoch = 2

    inside(place).before = act
    with pytest.raises(UserError, match=r"its cluster was \S+ of epoch 1, and is \S+ of epoch 2 now"):
        bundles.make(changing, place)
    inside(place).before = lambda operation, key: None
    assert good(place) == [first]
    assert [each.state for each in backups.survey_all(place)] == [backups.GOOD]


def test_a_cluster_that_falls_silent_at_the_end_has_its_backup_unless_it_was_replaced(world: World) -> None:
    identity = Taking._identity
    asked: list[str] = []

    def once(self: Taking, server: str) -> Identity:
        asked.append(server)
        if len(asked) > 1:
            raise remote.Lost("server-1", "the connection broke")
        return identity(self, server)

    place = memory()
    with mock.patch.object(Taking, "_identity", once):
        backup_id = bundles.make(world, place)
        assert good(place) == [backup_id]
        asked.clear()

        def act(operation: str, key: str) -> None:
            if operation == "put" and key.endswith(bundle.INDEX):
                fence.claim(place.of(2), world.uid)

        inside(place).before = act
        with pytest.raises(UserError, match=REPLACED):
            bundles.make(world, place)
    assert good(place) == [backup_id]


def test_where_no_server_says_who_it_is_nothing_is_written(world: World) -> None:
    place = memory()
    why = UserError(Problem("", None, None, "server-1: who the cluster is cannot be told: refused"))
    with mock.patch.object(Taking, "_identity", side_effect=why), pytest.raises(UserError, match="cannot be told"):
        bundles.make(world, place)
    assert inside(place).contents() == {}
    with mock.patch.object(backup, "_servers", return_value=[]), pytest.raises(UserError, match="nothing to back up"):
        bundles.make(world, place)
    assert inside(place).contents() == {}


def test_a_schedule_whose_slot_is_filled_does_not_mind_that_no_server_answers(world: World) -> None:
    world = changed(world, every="6h")
    place = memory(clock=lambda: 1_800_000_000.0)
    with mock.patch.object(backup, "_servers", return_value=[]), pytest.raises(UserError, match="nothing to back up"):
        bundles.make(world, place, scheduled=True)
    bundles.make(world, place, scheduled=True)
    with mock.patch.object(backup, "_servers", return_value=[]):
        assert bundles.make(world, place, scheduled=True) == ""
        fence.claim(place.of(2), world.uid)
        with pytest.raises(UserError, match="nothing to back up"):
            bundles.make(world, place, scheduled=True)


def test_an_earlier_epochs_backup_fills_no_slot_of_a_later_one(world: World) -> None:
    world = changed(world, every="6h")
    place = memory(clock=lambda: 1_800_000_000.0)
    assert bundles.make(world, place, scheduled=True)
    second = bundles.make(restored(world), place, scheduled=True)
    assert good(place.of(2)) == [second]
    assert bundles.make(restored(world), place, scheduled=True) == ""


def test_another_cluster_of_the_same_name_is_no_later_epoch_of_this_one(world: World, tmp_path: Path) -> None:
    place, free = memory("one"), memory("two")
    other = bundles.world(tmp_path / "other", CLUSTER, count=5, seed=7)
    bundles.make(restored(other), place)
    for epoch in (1, 2):
        before = inside(place).contents()
        with pytest.raises(UserError, match="e2 is another cluster's of the same name") as error:
            bundles.make(restored(world, epoch), place, free)
        assert other.uid in said(error)
        assert inside(place).contents() == before
        assert len(good(free.of(epoch))) == 1  # in which there is no such


# --- claims


def test_a_claim_that_is_there_stands_and_says_whose_it_is(world: World) -> None:
    place = memory().of(2)
    first = fence.claim(place, world.uid, "restore of a")
    assert (first.epoch, first.uid, first.by) == (2, world.uid, "restore of a")
    before = inside(place).contents()
    assert fence.claim(place, world.uid, "restore of b") == first
    with pytest.raises(StoreError, match="another cluster's of the same name"):
        fence.claim(place, "another")
    assert inside(place).contents() == before


def test_the_next_epoch_is_above_all_that_are_there_and_the_same_for_whoever_goes_on(world: World) -> None:
    places = [memory("one"), memory("two")]

    def next_one(by: str, epoch: int = 1) -> int:
        return fence.next_epoch(places, Identity(world.uid, epoch), by)

    assert (next_one("a"), next_one("a", 7)) == (2, 8)
    fence.claim(places[1].of(2), world.uid, "a")
    assert (next_one("a"), next_one("a", 2), next_one("b"), next_one("b", 2)) == (2, 2, 3, 3)
    fence.claim(places[0].of(3), world.uid, "b")  # an epoch of a that nobody goes on with
    assert (next_one("a"), next_one("b"), next_one("b", 4)) == (4, 3, 5)
    with pytest.raises(StoreError, match="another cluster's of the same name"):
        fence.next_epoch(places, Identity("another"), "c")


def test_of_an_epoch_below_the_latest_there_is_no_claim(world: World) -> None:
    place = memory()
    fence.claim(place.of(3), world.uid)
    with pytest.raises(fence.Replaced):
        fence.claim(place.of(2), world.uid)
    with pytest.raises(ValueError, match="needs no claim"):
        fence.claim(place, world.uid)
    assert backups.epochs(place) == [3, 1]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"5", b"null", b"\xff", b"[" * 99_999, b'{"epoch": 3, "uid": "x", "at": 1, "by": ""}',
     b'{"epoch": 2, "uid": "x", "at": "y", "by": ""}', b" " * (8 << 20) + b"  "],
)  # fmt: skip
def test_a_claim_that_says_nothing_lets_nobody_in(content: bytes, world: World) -> None:
    place = memory()
    inside(place).put("example.e2/epoch.json", [content])
    for epoch in (1, 2):
        with pytest.raises(UserError, match="does not say whose it is"):
            bundles.make(restored(world, epoch), place)
    assert list(inside(place).contents()) == ["example.e2/epoch.json"]


def test_a_store_that_lies_or_does_not_answer_has_no_claim(world: World) -> None:
    place = memory()
    inside(place).forgets = True
    with pytest.raises(Missing):
        fence.claim(place.of(2), world.uid)
    for operation in ("list", "create", "get"):
        other = memory()
        inside(other).fail(operation, StoreError("memory", "timed out"))
        with pytest.raises(StoreError, match="timed out"):
            fence.claim(other.of(2), world.uid)


def test_a_store_that_does_not_say_which_epochs_it_has_gets_no_manifest(world: World) -> None:
    one, two = memory("one"), memory("two")
    bundles.make(world, one, two)
    before = good(one)

    def act(operation: str, key: str) -> None:
        if operation == "put" and key.endswith(bundle.INDEX):
            inside(one).fail("list", StoreError("one", "timed out"))

    inside(one).before = act
    with pytest.raises(UserError, match="one: timed out"):
        bundles.make(world, one, two)
    assert good(one) == before
    assert len(good(two)) == 2


# --- what is told of them, and what goes


@pytest.fixture
def two_epochs(world: World, tmp_path: Path) -> tuple[World, Place, list[str], list[str]]:
    """A folder with three backups of the first epoch and two of the second, and their ids, the newest first."""
    place = Place(Folder("disk", tmp_path / "store"), CLUSTER)
    first = [bundles.make(world, place) for _ in range(3)]
    second = [bundles.make(restored(world), place) for _ in range(2)]
    return restored(world), place, first[::-1], second[::-1]


def test_a_list_has_an_epoch_where_there_are_several_and_json_always(
    two_epochs: tuple[World, Place, list[str], list[str]], one_good: Memory
) -> None:
    world, place, first, second = two_epochs
    shelf = backup_list._shelf(place, world.cluster)
    lines = list(backup_list.lines(world.cluster, [shelf]))
    table = [line.split()[:2] for line in lines[2:]]
    assert table == [["BACKUP", "EPOCH"], *([each, "2"] for each in second), *([each, "1"] for each in first)]
    assert "newest good backup of epoch 2" in lines[0]
    told = backup_list.as_json(shelf)
    assert (told["epoch"], [each["epoch"] for each in told["backups"]]) == (2, [2, 2, 1, 1, 1])
    alone = backup_list._shelf(Place(copy_of(one_good), CLUSTER), world.cluster)
    assert "poch" not in "\n".join(backup_list.lines(world.cluster, [alone]))
    assert backup_list.as_json(alone)["backups"][0]["epoch"] == backup_list.as_json(alone)["epoch"] == 1


def test_a_backup_is_due_as_soon_as_an_epoch_is_there_and_the_newest_is_that_of_the_one_before(
    two_epochs: tuple[World, Place, list[str], list[str]],
) -> None:
    world, place, _, second = two_epochs
    world = changed(world, every="6h")
    fence.claim(place.of(3), world.uid)
    shelf = backup_list._shelf(place, world.cluster)
    assert shelf.age.is_stale
    assert "there is no good backup of epoch 3, and one is due every 6 h" in str(shelf.problems[0])
    (head,) = backup_list.heads(world.cluster, [shelf])
    assert "no good backup of epoch 3, newest good backup of epoch 2" in head
    newest = backups.newest(shelf.found)
    assert newest is not None
    assert newest.id == second[0]


def test_the_newest_good_one_is_of_the_latest_epoch_that_has_one(
    two_epochs: tuple[World, Place, list[str], list[str]],
) -> None:
    _, place, first, second = two_epochs
    for backup_id, then in zip(second, (second[1], first[0]), strict=True):
        place.of(2).mark(backup_id, backups.VERIFIED, Mark(time.time(), "me", False, "found bad"))
        newest = backups.newest(backups.survey_all(place))
        assert newest is not None
        assert newest.id == then


def test_verify_reads_all_epochs_and_marks_each_in_its_own_folder(
    two_epochs: tuple[World, Place, list[str], list[str]],
) -> None:
    world, place, first, second = two_epochs
    verifying = backup_verify.Verifying(world.build, [world.key], [])
    verifying.run([place], "", False)
    verifying.run([place], first[1], False)
    marked = [each.id for each in backups.survey_all(place) if each.verified and each.verified.ok]
    assert marked == [second[0], first[1]]
    verifying.run([place], "", True)
    assert all(each.verified and each.verified.ok for each in backups.survey_all(place))
    assert verifying.problems == []


def test_each_epoch_is_pruned_for_itself_and_keeps_its_newest_good_one(
    two_epochs: tuple[World, Place, list[str], list[str]],
) -> None:
    world, place, first, second = two_epochs
    world = changed(world, keep=Retention(last=1, hourly=0, daily=0, weekly=0, monthly=0))
    fence.claim(place.of(3), world.uid)
    with (
        mock.patch.object(backup_prune, "open_places", return_value=([place], [])),
        mock.patch.object(type(world.build), "cluster", return_value=world.cluster),
    ):
        backup_prune.run(world.build, "", dry_run=True, yes=False)
        assert len(backups.survey_all(place)) == 5
        backup_prune.run(world.build, "", dry_run=False, yes=True)
    assert [each.id for each in backups.survey_all(place)] == [second[0], first[0]]


def test_a_fresh_backup_is_one_of_the_latest_epoch_in_any_store(world: World) -> None:
    one, two = memory("one"), memory("two")
    old = bundles.make(world, one, two)
    with mock.patch.object(backup, "open_places", return_value=([one, two], [])):
        assert backup.fresh(world.build, world.cluster) == old
        fence.claim(two.of(2), world.uid)
        assert backup.fresh(world.build, world.cluster) is None
        new = bundles.make(restored(world), one)
        assert backup.fresh(world.build, world.cluster) == new

"""Taking backups, and what is said of them afterwards: all of it but the hosts, on stores in memory and in folders."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import bundles
from bundles import Taking, World
from i12e import (
    age,
    alarms,
    backup,
    backup_keys,
    backup_list,
    backup_prune,
    backup_verify,
    backups,
    bundle,
    collect,
    database,
    fleet,
    lease,
    verify,
)
from i12e.backups import Mark, Place
from i12e.build import Build
from i12e.contents import Contents
from i12e.damaged import Damaged
from i12e.database import Database
from i12e.deploy import Situation
from i12e.errors import Problem, UsageError, UserError
from i12e.folders import Folder
from i12e.programs import Done
from i12e.remote import Remote, Target
from i12e.settings import ExtraPath, Retention, Store
from i12e.stores import Full, StoreError
from memorystore import Memory

CLUSTER = "example"
DAY = 86400.0
KEEP = Retention(last=2, hourly=0, daily=0, weekly=0, monthly=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small cluster."""
    return bundles.world(tmp_path_factory.mktemp("made") / "checkout", CLUSTER, count=5)


@pytest.fixture
def world(made: World) -> World:
    """The small cluster, whose notes and lines are of this test alone."""
    made.build.notes.clear()
    made.build.told.clear()
    return dataclasses.replace(made, files={name: dict(files) for name, files in made.files.items()})


def changed(world: World, **more: Any) -> World:
    """Given a cluster and what its file is to say of backups, return it so."""
    settings = world.cluster.backup.model_copy(update=more)
    return dataclasses.replace(world, cluster=world.cluster.model_copy(update={"backup": settings}))


def memory(name: str = "memory", **more: Any) -> Place:
    """Return the cluster's folder in a new store."""
    return Place(Memory(name, **more), CLUSTER)


def inside(place: Place) -> Memory:
    """Given a place in memory, return its store."""
    assert isinstance(place.store, Memory)
    return place.store


def states(place: Place) -> dict[str, str]:
    """Given a place, return the states of all backups, the newest first."""
    return {each.id: each.state for each in backups.survey(place)}


def good(place: Place) -> list[str]:
    """Given a place, return the good backups, the newest first."""
    return [each.id for each in backups.survey(place) if each.is_good]


def copy_of(store: Memory, **more: Any) -> Memory:
    """Given a store, return another one with the same in it, and with the same times."""
    other = Memory(store.name, **more)
    for key, each in store._objects.items():
        Memory._keep(other, key, each.content)
        other._objects[key].modified = each.modified
    return other


def said(error: pytest.ExceptionInfo[UserError]) -> str:
    """Given what was raised, return what a person reads."""
    return "\n".join(str(problem) for problem in error.value.problems)


# --- taking one


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_backup_is_good_opens_with_the_key_and_leaves_nothing_plain(kind: str, world: World, tmp_path: Path) -> None:
    place = memory() if kind == "memory" else Place(Folder("folder", tmp_path / "store"), CLUSTER)
    first = bundles.make(world, place)
    second = bundles.make(world, place)
    assert good(place) == [second, first]
    found = verify.check(place, second, [world.key], world.folder)
    assert found.token == world.token
    assert (found.manifest.uid, found.manifest.server, found.manifest.datastore) == (world.uid, "server-1", "sqlite")
    assert bundles.opened(place, second, bundle.DATABASE, world.key)[100:] == world.taken[100:]  # but for the header
    assert world.last is not None
    assert found.index.sentinel == world.last.fields()
    assert [path for path in world.folder.rglob("*") if path.is_file()] == []
    assert lease.held_by(place.store, place.lease) is None


def test_a_machine_without_the_private_key_makes_and_proves_a_backup(world: World) -> None:
    place, opened = memory(), []
    real = bundle.unseal

    def unseal(source: Any, identities: Any, *more: Any) -> Any:
        opened.extend(identities)
        return real(source, identities, *more)

    with mock.patch.object(bundle, "unseal", unseal):
        bundles.make(world, place)
    assert world.key not in opened
    assert len({key.reveal() for key in opened}) == 1  # the key that was made for it, and is in it for the operator
    assert opened[0].reveal().encode() == bundles.opened(place, good(place)[0], bundle.KEY, world.key).strip()


def test_no_secret_is_in_clear_in_the_store(world: World) -> None:
    place = memory()
    bundles.make(world, place)
    assert world.last is not None
    there = b"".join(inside(place).contents().values())
    for secret in (world.token.reveal(), world.key.reveal(), world.last.value, "SQLite format"):
        assert secret.encode() not in there


def test_two_stores_have_the_same_backup_and_each_counts_for_itself(world: World) -> None:
    one, two = memory("one"), memory("two")
    bundles.make(world, one)
    backup_id = bundles.make(world, one, two)
    assert good(one)[0] == good(two)[0] == backup_id
    for place, number in ((one, 2), (two, 1)):
        assert verify.check(place, backup_id, [world.key], world.folder).manifest.number == number


def test_a_store_that_breaks_keeps_no_other_from_its_backup(world: World) -> None:
    one, two = memory("one"), memory("two")
    inside(two).fail("put", StoreError("two", "is on fire"))
    with pytest.raises(UserError) as error:
        bundles.make(world, one, two)
    assert "two: is on fire (the other stores have it)" in said(error)
    assert len(good(one)) == 1
    assert states(two) == {}


def test_a_store_that_lost_the_stream_for_a_moment_gets_the_part_from_another_one(world: World) -> None:
    one, two = memory("one"), memory("two")
    inside(two).fail("put", StoreError("two", "connection reset", passing=True))
    backup_id = bundles.make(world, one, two)
    assert good(one) == good(two) == [backup_id]
    assert verify.check(two, backup_id, [world.key], world.folder).index.id == backup_id


def test_a_store_that_fails_right_after_its_probe_is_told_and_the_others_have_a_backup(world: World) -> None:
    one, two = memory("one"), memory("two")
    inside(one).fail("now", StoreError("one", "went away"))
    with pytest.raises(UserError) as error:
        bundles.make(world, one, two)
    assert "one: went away" in said(error)
    assert len(good(two)) == 1


def test_what_is_no_lease_in_a_store_is_told_and_the_others_have_a_backup(world: World) -> None:
    one, two = memory("one"), memory("two")
    one.store.create(one.lease, b"not a lease")
    with pytest.raises(UserError) as error:
        bundles.make(world, one, two)
    assert "is not a lease" in said(error)
    assert len(good(two)) == 1


def test_whoever_lives_and_has_the_lease_is_told_and_a_schedule_leaves_it_to_him(world: World) -> None:
    place = memory()
    bundles.make(world, place)
    with lease.take(place.store, "backup", key=place.lease):
        with pytest.raises(UserError, match="is at work there"):
            bundles.make(world, place)
        assert bundles.make(changed(world, every="6h"), place, scheduled=True) == ""
    assert len(good(place)) == 1


def test_a_slot_of_the_schedule_gets_one_backup_and_one_by_hand_fills_none(world: World) -> None:
    world = changed(world, every="6h")
    clock = [1_800_000_000.0 // 21600 * 21600]
    place = memory(clock=lambda: clock[0])
    by_hand = bundles.make(world, place)
    first = bundles.make(world, place, scheduled=True)
    clock[0] += 21599
    assert bundles.make(world, place, scheduled=True) == ""
    clock[0] += 1
    second = bundles.make(world, place, scheduled=True)
    assert good(place) == [second, first, by_hand]
    slots = [each.manifest.slot for each in backups.survey(place) if each.manifest]
    assert slots == ["2027-01-15T12:00:00Z", "2027-01-15T06:00:00Z", ""]


def test_a_bad_backup_fills_no_slot(world: World) -> None:
    world = changed(world, every="6h")
    place = memory()
    first = bundles.make(world, place, scheduled=True)
    place.mark(first, backups.VERIFIED, Mark(0.0, "me", False, "found bad"))
    second = bundles.make(world, place, scheduled=True)
    assert second
    assert good(place) == [second]


def test_whatever_breaks_a_backup_off_the_alarm_rings(world: World) -> None:
    place = memory()
    for error in (RuntimeError("a bug"), KeyboardInterrupt(), SystemExit(143)):
        with (
            mock.patch.object(Taking, "_database", side_effect=error),
            mock.patch.object(alarms.Alarms, "failed", return_value=[]) as failed,
            pytest.raises(type(error)),
        ):
            bundles.make(world, place)
        assert failed.call_count == 1
        assert "broken off" in failed.call_args.args[1]
    assert good(place) == []


def test_a_full_disk_of_this_machine_is_told_and_nothing_is_committed(world: World) -> None:
    place = memory()
    first = bundles.make(world, place)
    full = OSError(28, "No space left on device")
    with mock.patch.object(Taking, "_database", side_effect=full), pytest.raises(UserError, match="No space left"):
        bundles.make(world, place)
    with mock.patch.object(Contents, "of_cluster", side_effect=full), pytest.raises(UserError, match="No space left"):
        bundles.make(world, place)
    assert states(place) == {first: backups.GOOD}
    with mock.patch.object(verify, "_database", side_effect=full):
        (problem,) = bundles.faults(world, place, backups.survey(place)[0])
    assert "cannot be checked here: No space left on device" in str(problem)
    assert good(place) == [first]
    assert backups.survey(place)[0].verified is None


def test_a_log_without_room_keeps_no_host_from_being_tidied_up() -> None:
    ran: list[str] = []

    class Logged(Remote):
        def run(self, script: str, stdin: bytes = b"", limit: float = 60.0, root: bool = True) -> Done:
            self._log(script)
            ran.append(script)
            return Done(0, "", "")

    server = Logged(Target("server-1", "core@192.0.2.1"), fleet._Log(Path("/dev/full")))
    with pytest.raises(OSError, match="No space left"), database._sentinel(server) as sentinel:
        raise OSError(28, "No space left on device")
    assert ran[-1] == collect.drop_sentinels([sentinel.name])


def test_a_store_without_room_is_told_and_the_newest_good_one_stays(world: World) -> None:
    place = memory()
    first = bundles.make(world, place)
    for operation in ("put", "create"):

        def before(asked: str, key: str, operation: str = operation) -> None:
            if asked == operation and "/backups/" in key:
                raise Full("memory", "has no space left")

        inside(place).before = before
        with pytest.raises(UserError, match="has no space left"):
            bundles.make(world, place)
        inside(place).before = lambda operation, key: None
        assert good(place) == [first]


def test_an_error_of_a_user_rings_once_and_a_good_backup_tells_the_watchdogs(world: World) -> None:
    place = memory()
    with mock.patch.object(alarms.Alarms, "failed", return_value=[]) as failed:
        broken = UserError(Problem("", None, None, "no server"))
        with mock.patch.object(Taking, "_database", side_effect=broken), pytest.raises(UserError):
            bundles.make(world, place)
        with mock.patch.object(alarms.Alarms, "good", return_value=[]) as told:
            bundles.make(world, place)
    assert (failed.call_count, told.call_count) == (1, 1)


def test_a_database_that_changes_after_it_was_proven_is_no_backup(world: World) -> None:
    place = memory()
    real = Taking._database

    def other(self: Taking, now: Situation) -> Database:
        taken = real(self, now)
        taken.file.seek(5000)
        taken.file.write(b"changed")
        taken.file.flush()
        return taken

    with mock.patch.object(Taking, "_database", other), pytest.raises(UserError, match="is not what was proven"):
        bundles.make(world, place)
    assert states(place) == {}


@pytest.mark.parametrize("sent", [b"", b"no tar " * 999, bundles.tar_of({"a": b"x" * 20_000})[:9000]])
def test_hosts_files_that_are_no_tar_are_no_backup(sent: bytes, world: World) -> None:
    place = memory()
    with (
        mock.patch.object(bundles, "tar_of", return_value=sent),
        pytest.raises(UserError, match="did not come as a tar"),
    ):
        bundles.make(world, place)
    assert states(place) == {}


def test_a_backup_without_its_clusters_token_is_found_bad(world: World) -> None:
    place = memory()
    for name in [each for each in world.files["server-1"] if "token" in each]:
        del world.files["server-1"][name]
    backup_id = bundles.make(world, place)
    with pytest.raises(Damaged, match="opens to nobody"):
        verify.check(place, backup_id, [world.key], world.folder)


def test_extra_paths_are_parts_and_what_is_missing_is_told(world: World) -> None:
    paths = (ExtraPath(path="/srv/data", before="stop"), ExtraPath(path="/srv/none", hosts=("agent-1",)))
    world = changed(world, paths=paths)
    world.paths = {"/srv/data": b"x" * 3_000_000}
    place = memory()
    with pytest.raises(UserError) as error:
        bundles.make(world, place)
    assert "the backup lacks /srv/none of agent-1" in said(error)
    found = backups.survey(place)[0]
    assert found.is_good
    assert not found.is_whole
    assert found.manifest is not None
    parts = [(part.host, part.path, part.consistency) for part in found.manifest.parts if part.what == "path"]
    assert parts == [("agent-1", "/srv/data", bundle.QUIESCED), ("server-1", "/srv/data", bundle.QUIESCED)]
    verify.check(place, found.id, [world.key], world.folder)


def test_a_path_that_everybody_may_have_and_nobody_has_is_no_problem(world: World) -> None:
    place = memory()
    bundles.make(changed(world, paths=(ExtraPath(path="/srv/none"),)), place)
    assert backups.survey(place)[0].is_whole


def test_who_took_over_while_it_was_made_shuts_it_out(world: World) -> None:
    place = memory()
    first = bundles.make(world, place)

    def before(operation: str, key: str) -> None:
        if operation == "create" and key.endswith(bundle.MANIFEST):
            inside(place).before = lambda operation, key: None
            place.store.create(key, bundle.Abandoned(key.split("/")[2], "other", 5, 9).content())

    inside(place).before = before
    with pytest.raises(UserError, match="somebody else took over"):
        bundles.make(world, place)
    assert good(place) == [first]
    (stone,) = [key for key in inside(place).contents() if "/backups/" in key and first not in key]
    assert stone.endswith(bundle.MANIFEST)  # it stays: nobody can commit in its place


def test_the_lease_names_a_backup_before_anything_of_it_is_written(world: World) -> None:
    place = memory()
    named: list[str] = []

    def before(operation: str, key: str) -> None:
        if operation == "put" and "/backups/" in key:
            named.append(json.loads(inside(place).contents()[place.lease])["backup"])

    inside(place).before = before
    backup_id = bundles.make(world, place)
    assert named == [backup_id] * 5


def test_of_a_manifest_whose_answer_was_lost_the_next_run_knows(world: World) -> None:
    place = memory()

    def before(operation: str, key: str) -> None:
        if operation == "create" and key.endswith(bundle.MANIFEST):
            inside(place).before = lambda operation, key: None
            inside(place).fail("create", StoreError("memory", "connection reset", passing=True), after=True)

    inside(place).before = before
    with pytest.raises(UserError, match="nobody knows whether its manifest is there"):
        bundles.make(world, place)
    second = bundles.make(world, place)
    assert good(place)[0] == second
    assert len(good(place)) == 2
    for backup_id in good(place):
        verify.check(place, backup_id, [world.key], world.folder)


# --- killed at any point


class Killed(BaseException):
    """The process is gone: it does nothing any more."""


def killed_at(store: Memory, point: int, run: Callable[[], object]) -> bool:
    """Given a store, the number of an operation on it and work, do the work as if it was killed before that one.

    Nothing of the work does anything on the store after that, as of a process that is gone. Return whether it came
    that far.
    """
    left, dead = point, False

    def before(operation: str, key: str) -> None:
        nonlocal left, dead
        left -= 1
        if dead or left == 0:
            dead = True
            raise Killed

    gone = subprocess.Popen(["true"])
    gone.wait()
    holder = lease.Holder("gone@here", f"killed-{point}", lease._boot(), gone.pid, 1)
    store.before = before
    try:
        with mock.patch.object(lease, "this_process", return_value=holder):
            run()
    except Killed:
        pass
    finally:
        store.before = lambda operation, key: None
    return dead


def points_of(store: Memory, run: Callable[[], object]) -> int:
    """Given a store and work, do the work and return how many operations it was."""
    counted = 0

    def before(operation: str, key: str) -> None:
        nonlocal counted
        counted += 1

    store.before = before
    run()
    store.before = lambda operation, key: None
    return counted


@pytest.fixture(scope="module")
def one_good(made: World) -> Memory:
    """A store with one good backup."""
    place = memory()
    bundles.make(made, place)
    return inside(place)


def _killed_and_again(world: World, before: Memory, point: int) -> None:
    now = [time.time()]
    place = Place(copy_of(before, clock=lambda: now[0]), CLUSTER)
    store, first = inside(place), good(place)[0]
    assert killed_at(store, point, lambda: bundles.make(world, place))
    there = states(place)
    assert there[first] == backups.GOOD
    committed = [name for name, state in there.items() if state == backups.GOOD and name != first]
    second = bundles.make(world, place)
    assert good(place) == [second, *committed, first]
    for name in (second, *committed):
        verify.check(place, name, [world.key], world.folder)
    assert {state for name, state in states(place).items() if name not in good(place)} <= {
        backups.UNFINISHED,
        backups.ABANDONED,
    }
    numbers = [each.number for each in backups.survey(place) if each.is_good]
    assert numbers == sorted(set(numbers), reverse=True)
    kept = good(place)
    now[0] += DAY / 2
    backup_prune._prune(world.build, world.cluster, place, False, True)
    assert good(place) == kept
    for days in (2, 40):  # what is left of it goes after a day, the tombstone later
        now[0] += days * DAY
        backup_prune._prune(world.build, changed(world, keep=Retention(last=9)).cluster, place, False, True)
    assert list(states(place)) == kept == good(place)
    left = {
        key.split("/")[2] for key in store.contents() if key.startswith((f"{CLUSTER}/backups/", f"{CLUSTER}/marks/"))
    }
    assert left == set(kept)


def test_a_backup_that_is_killed_loses_nothing_and_the_next_one_is_the_newest(made: World, one_good: Memory) -> None:
    store = copy_of(one_good)
    points = points_of(store, lambda: bundles.make(made, Place(store, CLUSTER)))
    chance = random.Random(6)  # noqa: S311
    for point in (1, *chance.sample(range(2, points), 4), points):
        _killed_and_again(made, one_good, point)


@pytest.mark.slow
def test_a_backup_that_is_killed_at_any_operation_loses_nothing(made: World, one_good: Memory) -> None:
    store = copy_of(one_good)
    points = points_of(store, lambda: bundles.make(made, Place(store, CLUSTER)))
    assert points > 30
    for point in range(1, points + 1):
        _killed_and_again(made, one_good, point)


@pytest.fixture(scope="module")
def old_ones(made: World) -> tuple[Memory, float]:
    """A store with five good backups, one that was found bad, one that was never finished, and the time afterwards."""
    now = [1_800_000_000.0]
    place = memory(clock=lambda: now[0])
    for _ in range(4):
        bundles.make(made, place)
        now[0] += DAY
    bad, *_ = good(place)
    place.mark(bad, backups.VERIFIED, Mark(now[0], "me", False, "found bad"))
    place.mark(good(place)[-1], backups.VERIFIED, Mark(now[0], "me", True))
    place.store.create(place.part("20270101T000000Z-0a1b2c", bundle.DATABASE), b"unfinished")
    for _ in range(2):
        now[0] += DAY
        bundles.make(made, place)
    return inside(place), now[0] + 2 * DAY


def _prune_killed(world: World, before: Memory, now: float, point: int, expected: dict[str, bytes]) -> bool:
    world = changed(world, keep=KEEP)
    clock = [now]
    place = Place(copy_of(before, clock=lambda: clock[0]), CLUSTER)
    keep = good(place)[:2]

    def prune() -> None:
        backup_prune._prune(world.build, world.cluster, place, False, True)

    killed = killed_at(inside(place), point, prune)
    assert good(place)[:2] == keep
    for name in good(place):  # what is called good is whole
        verify.check_sealed(place, name)
    for days in (0, 2, 40):  # what lost its manifest alone looks unfinished: it goes a day later, its tombstone then
        clock[0] += days * DAY
        prune()
        assert good(place) == keep
    after = inside(place).contents()
    del after[place.lease]
    assert after == expected
    return killed


def _pruned(world: World, before: Memory, now: float) -> tuple[dict[str, bytes], int]:
    """Return what is left of a store when nobody kills a prune, and how many operations one takes."""
    world = changed(world, keep=KEEP)
    clock = [now]
    place = Place(copy_of(before, clock=lambda: clock[0]), CLUSTER)
    keep = good(place)[:2]
    points = 0
    for days in (0, 2, 40):
        clock[0] += days * DAY
        done = points_of(inside(place), lambda: backup_prune._prune(world.build, world.cluster, place, False, True))
        points = points or done
    after = inside(place).contents()
    del after[place.lease]
    assert {key.split("/")[2] for key in after if "/backups/" in key or "/marks/" in key} == set(keep)
    return after, points


def test_a_prune_that_is_killed_loses_nothing_that_is_kept_and_the_next_one_ends_it(
    made: World, old_ones: tuple[Memory, float]
) -> None:
    expected, points = _pruned(made, *old_ones)
    chance = random.Random(6)  # noqa: S311
    for point in (1, *chance.sample(range(2, points), 12), points):
        assert _prune_killed(made, *old_ones, point, expected)


@pytest.mark.slow
def test_a_prune_that_is_killed_at_any_operation_loses_nothing_that_is_kept(
    made: World, old_ones: tuple[Memory, float]
) -> None:
    expected, points = _pruned(made, *old_ones)
    assert points > 30
    for point in range(1, points + 1):
        assert _prune_killed(made, *old_ones, point, expected)


def test_of_a_pruned_backup_the_manifest_goes_first_and_its_parts_last(
    made: World, old_ones: tuple[Memory, float]
) -> None:
    store, now = old_ones
    place = Place(copy_of(store, clock=lambda: now), CLUSTER)
    oldest = good(place)[-1]
    deleted: list[str] = []

    def before(operation: str, key: str) -> None:
        if operation == "delete" and oldest in key:
            deleted.append(key.removeprefix(f"{CLUSTER}/").partition("/")[0] + "/" + key.rpartition("/")[2])

    inside(place).before = before
    backup_prune._prune(made.build, changed(made, keep=KEEP).cluster, place, False, True)
    assert deleted[:2] == [f"backups/{bundle.MANIFEST}", f"marks/{backups.VERIFIED}.json"]
    assert len(deleted) == 7


# --- clocks


@pytest.mark.parametrize("jump", [3 * 3600.0, -3 * 3600.0, 366 * DAY, -366 * DAY])
def test_the_newest_is_told_by_numbers_whatever_the_clocks_do(jump: float, world: World) -> None:
    now = [1_800_000_000.0]
    place = memory(clock=lambda: now[0])
    first = bundles.make(world, place)
    now[0] += jump
    second = bundles.make(world, place)
    now[0] -= jump
    third = bundles.make(world, place)
    found = backups.survey(place)
    assert [each.id for each in found] == [third, second, first]
    assert [each.number for each in found] == [3, 2, 1]
    late = backups.age(found[1:], 3600, now[0])
    assert bool(late.problem) == (jump > 0)  # the second is from the future then
    assert any("a clock has jumped" in note for note in world.build.notes)
    assert any("its clock and ours differ" in note for note in world.build.notes)
    backup_prune._prune(world.build, changed(world, keep=KEEP).cluster, place, False, True)
    assert good(place)[:2] == [third, second]


def test_a_fresh_backup_is_none_from_the_future(world: World) -> None:
    now = [1_800_000_000.0]
    place = memory(clock=lambda: now[0])
    bundles.make(world, place)
    with mock.patch.object(backup, "open_places", return_value=([place], [])):
        for seconds, is_fresh in ((0.0, True), (3599.0, True), (3601.0, False), (-3600.0, False)):
            now[0] = 1_800_000_000.0 + seconds
            assert bool(backup.fresh(world.build, world.cluster)) == is_fresh


# --- what there is


def test_a_backup_that_a_liar_gives_another_name_and_number_is_found_bad_and_then_is_none(world: World) -> None:
    place = memory()
    first = bundles.make(world, place)
    second = bundles.make(world, place)
    false = "20991231T000000Z-ffffff"
    store = inside(place)
    for key, content in store.contents().items():
        if f"/{first}/" in key:
            if key.endswith(bundle.MANIFEST):
                document = {**json.loads(content), "id": false, "number": 99}
                del document["sha256"]
                content = bundle._written(document)
            store.create(key.replace(first, false), content)
    assert good(place)[0] == false  # nobody can tell without the key
    with pytest.raises(Damaged, match="another backup's"):
        verify.check(place, false, [world.key], world.folder)
    each = backups.survey(place)[0]
    assert bundles.faults(world, place, each)
    assert good(place) == [second, first]


NONSENSE = [
    *(b"", b"{}", b"[]", b"5", b"null", b"\xff", b"[" * 99_999, b'{"until": 1e999}', b'{"at": "x"}'),
    b'{"at": %s, "by": "", "ok": false, "why": "", "seconds": 0}' % (b"9" * 400),
    b" " * (8 << 20) + b"  ",
]


@pytest.mark.parametrize("content", NONSENSE, ids=range(len(NONSENSE)))
def test_marks_and_holds_that_say_nothing_are_no_reason_to_see_no_backups(content: bytes, one_good: Memory) -> None:
    place = Place(copy_of(one_good), CLUSTER)
    name = good(place)[0]
    for key in (f"marks/{name}/verified.json", f"marks/{name}/drilled.json", f"holds/{name}/restore.json", "marks/x"):
        place.store.put(place.key(key), [content])
    found = backups.survey(place)
    assert [each.is_good for each in found] == [True]
    assert found[0].held  # whoever it is
    shelf = backup_list.Shelf("memory", "memory", tuple(found))
    assert json.loads(json.dumps(backup_list.as_json(shelf)))["backups"][0]["held"]


@pytest.mark.parametrize("name", ["x", "20270101T000000Z-0a1b2", "20270101T000000Z-0A1B2C", "ü"])
@pytest.mark.parametrize("content", [b"", b"{}", b" " * (8 << 20) + b"  "])
def test_what_nobody_of_us_wrote_is_no_backup_and_hides_none(name: str, content: bytes, one_good: Memory) -> None:
    place = Place(copy_of(one_good), CLUSTER)
    first = good(place)
    place.store.put(place.part(name, bundle.MANIFEST), [content])
    place.store.put(place.part(name, "deep/er"), [content])
    place.store.put(place.part("20270101T000000Z-0a1b2c", bundle.MANIFEST), [content])
    assert good(place) == first
    assert set(states(place).values()) == {backups.GOOD, backups.DAMAGED}


def test_a_store_that_does_not_list_all_is_an_error_and_no_empty_store(one_good: Memory) -> None:
    place = Place(copy_of(one_good), CLUSTER)
    for operation in ("list", "get"):
        inside(place).fail(operation, StoreError("memory", "timed out"))
        with pytest.raises(StoreError):
            backups.survey(place)


def test_a_mark_is_replaced_and_a_hold_ends(one_good: Memory) -> None:
    place = Place(copy_of(one_good), CLUSTER)
    name = good(place)[0]
    for mark in (Mark(5.0, "me", False, "bad", 1.0), Mark(6.0, "me", True)):
        place.mark(name, backups.VERIFIED, mark)
        assert backups.survey(place)[0].verified == mark
        assert backups.survey(place)[0].is_good == mark.ok
    place.hold(name, "restore", time.time() + 60)
    assert backups.survey(place)[0].held == ("restore",)
    place.hold(name, "restore", time.time() - 1)
    assert backups.survey(place)[0].held == ()
    place.hold(name, "restore", time.time() + 60)
    place.let_go(name, "restore")
    assert backups.survey(place)[0].held == ()


# --- the tasks


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[World, Place]]:
    """A cluster whose file names a folder, and its key where the tasks look for it."""
    project = world.build.paths.root / "hosts/example/cluster.yaml"
    text = project.read_text()
    more = "  every: 6h\n  keep: {last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0}\n"
    project.write_text(f"{text}{more}  stores:\n    - {{name: disk, folder: {tmp_path}/store}}\n")
    key = tmp_path / "key.txt"
    key.write_text(f"{world.key.reveal()}\n")
    monkeypatch.setenv(backup_keys.KEY_FILE, str(key))
    build = Build(world.build.paths)
    yield (
        dataclasses.replace(world, build=build, cluster=build.cluster()),
        Place(Folder("disk", tmp_path / "store"), CLUSTER),
    )
    project.write_text(text)


def told(world: World) -> list[str]:
    """Given a cluster, return the lines that its tasks told, and forget them."""
    lines = [f"{each.verb} {each.text or each.remark}" for each in world.build.told]
    world.build.told.clear()
    return lines


def test_verify_writes_down_what_it_finds_and_raises_what_is_wrong(folder: tuple[World, Place]) -> None:
    world, place = folder
    first, second = (bundles.make(world) for _ in range(2))
    backup_verify.run(world.build, "", "", all=False, sealed=False)
    assert [bool(each.verified) for each in backups.survey(place)] == [True, False]
    path = Path(place.store.place, place.part(second, bundle.CLUSTER))
    path.write_bytes(bytes(len(path.read_bytes())))
    backup_verify.run(world.build, first, "", all=False, sealed=True)
    with pytest.raises(UserError, match=bundle.CLUSTER):
        backup_verify.run(world.build, "", "", all=True, sealed=True)
    assert good(place) == [first]
    backup_verify.run(world.build, "", "", all=False, sealed=False)  # the newest good one now
    with pytest.raises(UserError, match="there is no such backup"):
        backup_verify.run(world.build, "20270101T000000Z-0a1b2c", "", all=False, sealed=True)


def test_verify_with_another_key_holds_nothing_against_a_backup(
    folder: tuple[World, Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, place = folder
    first = bundles.make(world)
    (tmp_path / "other.txt").write_text(age.make()[0].reveal())
    monkeypatch.setenv(backup_keys.KEY_FILE, str(tmp_path / "other.txt"))
    rung = mock.Mock(return_value=[])
    monkeypatch.setattr(alarms.Alarms, "failed", rung)
    with pytest.raises(UserError, match="the key here is another one"):
        backup_verify.run(world.build, "", "", all=False, sealed=False)
    rung.assert_not_called()
    assert good(place) == [first]
    assert backups.survey(place)[0].verified is None


def test_a_typing_error_rings_nobody_out_of_bed(folder: tuple[World, Place]) -> None:
    world, _ = folder
    bundles.make(world)
    with mock.patch.object(alarms.Alarms, "failed", return_value=[]) as rung:
        with pytest.raises(UsageError, match="there is no such store"):
            bundles.make(world, only="nowhere")
        with pytest.raises(UsageError, match="there is no such backup"):
            backup_verify.run(world.build, "20270101T000000Z-0a1b2c", "", all=False, sealed=True)
        with pytest.raises(UsageError, match="write a time such as 90s"):
            backup.run(world.build, False, "", "soon")
    rung.assert_not_called()


def test_the_list_tells_what_there_is_and_fails_where_a_backup_is_due(folder: tuple[World, Place]) -> None:
    world, place = folder
    place.store.probe()
    with pytest.raises(UserError, match="there is no good backup, and one is due every 6 h"):
        backup_list.run(world.build, "", alarm=False)
    first = bundles.make(world)
    second = bundles.make(world)
    place.mark(second, backups.VERIFIED, Mark(time.time(), "me", False, "its token is gone"))
    told(world)
    backup_list.run(world.build, "", alarm=False)
    (text,) = told(world)
    assert "newest good backup" in text
    assert "FAILED" in text
    assert "its token is gone" in text
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("20") or " 20" in line[:3]]
    assert rows == [second, first]
    with mock.patch.object(Folder, "now", return_value=time.time() + 10 * 3600), pytest.raises(UserError) as error:
        backup_list.run(world.build, "", alarm=False)
    assert "the newest good backup is 10 h old" in said(error)
    with mock.patch.object(Folder, "now", return_value=time.time() - 10 * 3600), pytest.raises(UserError) as error:
        backup_list.run(world.build, "", alarm=False)
    assert "a clock has jumped" in said(error)


def test_prune_asks_shows_and_removes_what_no_rule_keeps(folder: tuple[World, Place]) -> None:
    world, place = folder
    made = [bundles.make(world) for _ in range(4)]
    place.hold(made[1], "restore", time.time() + 600)
    told(world)
    backup_prune.run(world.build, "", dry_run=True, yes=False)
    assert len([line for line in told(world) if line.startswith("REMOVE")]) == 2
    with pytest.raises(UserError, match="nobody can be asked here"):
        backup_prune.run(world.build, "", dry_run=False, yes=False)
    assert len(good(place)) == 4
    backup_prune.run(world.build, "", dry_run=False, yes=True)
    assert good(place) == [made[3], made[1]]
    there = {path.name for path in Path(place.store.place, CLUSTER, "backups").iterdir()}
    assert there == {made[3], made[1]}


def test_a_hold_that_has_ended_keeps_nothing(folder: tuple[World, Place]) -> None:
    world, place = folder
    made = [bundles.make(world) for _ in range(4)]
    place.hold(made[0], "restore", time.time() - 1)
    place.hold(made[1], "restore", time.time() + 600)
    assert (place.holders(made[0]), place.holders(made[1])) == ((), ("restore",))
    backup_prune.run(world.build, "", dry_run=False, yes=True)
    assert good(place) == [made[3], made[1]]


def test_prune_removes_nothing_that_the_store_keeps_and_nothing_where_it_cannot_list(world: World) -> None:
    world = changed(world, keep=KEEP)
    place = memory()
    made = [bundles.make(world, place) for _ in range(4)]
    inside(place).hold(place.part(made[0], bundle.MANIFEST), time.time() + 600)
    inside(place).fail("list", StoreError("memory", "timed out"))
    with pytest.raises(StoreError):
        backup_prune._prune(world.build, world.cluster, place, False, True)
    assert len(good(place)) == 4
    assert backup_prune._prune(world.build, world.cluster, place, False, True) == []
    assert good(place) == [made[3], made[2], made[0]]


def test_the_default_store_is_a_folder_of_the_users_that_needs_nothing(world: World) -> None:
    assert world.cluster.backup.stores == ()
    backup_id = bundles.make(world)
    root = Path(os.environ["HOME"], ".local/share/i12e/backups")
    assert good(Place(Folder("local", root), CLUSTER)) == [backup_id]
    assert root.stat().st_mode & 0o777 == root.parent.stat().st_mode & 0o777 == 0o700


def test_the_folder_of_a_named_store_is_not_made_where_its_disk_is_missing(
    folder: tuple[World, Place], tmp_path: Path
) -> None:
    world, _ = folder
    gone = Store(name="nas", folder=str(tmp_path / "mnt/nas"))
    with pytest.raises(UserError, match="there is no folder"):
        bundles.make(changed(world, stores=(gone,)))
    assert not (tmp_path / "mnt").exists()


def test_a_store_that_is_named_and_is_not_there_is_told(folder: tuple[World, Place]) -> None:
    world, _ = folder
    for run in (
        lambda: bundles.make(world, only="nas"),
        lambda: backup_list.run(world.build, "nas", alarm=False),
        lambda: backup_prune.run(world.build, "nas", dry_run=True, yes=False),
    ):
        with pytest.raises(UserError, match="--store nas: there is no such store"):
            run()

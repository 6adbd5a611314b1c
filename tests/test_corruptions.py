"""Whatever a backup in a store suffers is noticed: a seeded sample of the sweep in corruptions.py."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from unittest import mock

import pytest

import bundles
import corruptions
from conftest import need
from corruptions import Ground, Tally
from i12e import backups, bundle, verify
from sweeps import sampled

SEED = 20261126


@pytest.fixture(scope="module")
def grounds() -> Iterator[list[Ground]]:
    """Stores whose newest backup is of SQLite and of etcd, or of SQLite alone where there is no etcd."""
    with corruptions.grounds(bool(shutil.which("etcd") and shutil.which("etcdctl"))) as made:
        yield made


@pytest.fixture(params=[bundle.SQLITE, bundle.ETCD])
def ground(request: pytest.FixtureRequest, grounds: list[Ground]) -> Ground:
    """A store whose newest backup is of SQLite, or of etcd."""
    found = [each for each in grounds if each.world.datastore.kind == request.param]
    need(found, "etcd and etcdctl (Debian: etcd-server, etcd-client)")
    return found[0]


def test_every_kind_of_corruption_is_noticed_and_costs_one_backup_alone(ground: Ground) -> None:
    names = [*corruptions.KINDS, "wrong key"]
    tallies = corruptions.sweep([ground], 4 * len(names), SEED)
    assert [text for tally in tallies.values() for text in tally.wrong] == []
    assert {name: tally.key for name, tally in tallies.items()} == dict.fromkeys(names, 4)


@pytest.mark.slow
def test_many_corruptions_are_noticed(grounds: list[Ground]) -> None:
    number = sampled(1000)
    tallies = corruptions.sweep(grounds, number, SEED + 1)
    assert [text for tally in tallies.values() for text in tally.wrong] == []
    assert sum(tally.key for tally in tallies.values()) == number


def test_the_sweep_tells_of_a_check_that_looks_at_nothing(grounds: list[Ground]) -> None:
    tally = Tally()
    path = grounds[0].path(bundle.DATABASE)
    changed = bytearray(grounds[0].base[path])
    changed[5000] ^= 1
    with mock.patch.object(verify, "check"):
        corruptions.round_of(grounds[0], "one bit flipped", {path: bytes(changed)}, tally)
    assert tally.key == 0
    assert any("finds nothing wrong" in text for text in tally.wrong)
    assert any("not the next older one" in text for text in tally.wrong)


def test_the_sweep_tells_of_a_listing_that_fails(grounds: list[Ground]) -> None:
    tally = Tally()
    with mock.patch.object(backups, "survey", side_effect=OverflowError("too large")):
        corruptions.round_of(grounds[0], "a file removed", {grounds[0].path(bundle.KEY): None}, tally)
    assert any("OverflowError" in text for text in tally.wrong)


def test_a_good_backup_is_found_good(ground: Ground) -> None:
    for backup in ground.ids:
        assert verify.check(ground.place, backup, [ground.world.key], ground.world.folder).token == ground.world.token
        assert verify.check_sealed(ground.place, backup).id == backup
    each = backups.survey(ground.place)[0]
    assert bundles.faults(ground.world, ground.place, each) == []
    newest = backups.survey(ground.place)[0]
    assert newest.verified is not None
    assert newest.verified.ok
    assert newest.is_good
    ground.apply({f"{corruptions.CLUSTER}/marks/{newest.id}/{backups.VERIFIED}.json": None})


def test_an_entry_as_large_as_all_disks_of_the_world_ends_the_reading(grounds: list[Ground]) -> None:
    entry = tarfile.TarInfo("server-1/etc/huge")
    entry.size = 1 << 60
    lie = corruptions.liar(grounds[0])
    lie.put(bundle.HOSTS, entry.tobuf(tarfile.GNU_FORMAT) + bytes(20_000))
    tally = Tally()
    corruptions.round_of(grounds[0], "a huge entry", lie.written(vouched=True), tally)
    assert (tally.key, tally.wrong) == (1, [])


def test_the_record_is_of_all_kinds_of_a_whole_sweep_and_nothing_in_it_was_wrong() -> None:
    page = corruptions.RECORD.read_text()
    rows = {cells[1]: cells[2:-1] for line in page.splitlines() if len(cells := re.split(r" ?\| ?", line)) > 4}
    assert {*corruptions.KINDS, "wrong key", *corruptions.LIES} <= rows.keys()
    sweep = [rows[name] for name in (*corruptions.KINDS, "wrong key")]
    assert sum(int(row[0]) for row in sweep) >= 10_000
    assert {row[-1] for row in sweep} == {"0"}
    assert {rows[lie][-1] for lie in corruptions.LIES} == {"0"}
    assert "## Wrong" not in page


@pytest.mark.parametrize("lie", corruptions.LIES)
def test_no_backup_into_a_store_that_lies_is_committed(lie: str, grounds: list[Ground]) -> None:
    with mock.patch.object(corruptions, "LIES", (lie,)):
        told, wrong = corruptions.lying_sweep(grounds[0].world, len(corruptions.FILES), SEED)
    assert wrong == []
    assert told == {lie: len(corruptions.FILES)}

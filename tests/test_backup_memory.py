"""A backup is streamed: however large the database is, its memory stays what it is (issue 6: less than 200 MB)."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bundles
import kine
from conftest import ROOT
from i12e import backups, bundle, collect, database, snapshots, tokens, verify
from i12e.backups import Place
from i12e.database import Database
from i12e.deploy import Situation
from i12e.folders import Folder

_PER_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10


class Large(bundles.Taking):
    """A run that is given a large database as a host would send it: never whole in memory."""

    def _database(self, now: Situation) -> Database:
        world, datastore = self.world, self.world.datastore
        assert isinstance(datastore, bundles.Kine)
        world.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sentinel = collect.Sentinel(f"{collect.SENTINEL}-{secrets.token_hex(3)}", secrets.token_hex(16))
        sealed = bundles.encrypted(sentinel.manifest().encode(), world.encryption)
        with contextlib.closing(kine.connect(datastore._path)) as connection:
            kine.put(connection, sentinel.row.encode(), sealed)
        receiving = snapshots.Receiving("sqlite", world.folder)
        with datastore._path.open("rb") as file:
            shutil.copyfileobj(file, receiving.file, 1 << 20)
        snapshot = receiving.opened()
        snapshot.check()
        database._prove_identity(snapshot, world.uid, world.token, sentinel)
        return Database(
            "server-1", receiving.file, database._summed(receiving.file), "sqlite", datastore.method,
            bundles.VERSION, world.uid, tokens.hash12(world.token), snapshot.revision(), snapshot.counts(), sentinel,
        )  # fmt: skip


def grown(world: bundles.World, megabytes: int) -> None:
    """Given a cluster, let its database have so many MB more, half of them such as can be compressed."""
    assert isinstance(world.datastore, bundles.Kine)
    text = (b"apiVersion: v1, kind: ConfigMap, " * 40_000)[:1_000_000]
    with contextlib.closing(kine.connect(world.datastore._path)) as connection:
        for number in range(megabytes):
            content = text if number % 2 else os.urandom(1_000_000)
            kine.put(connection, f"/registry/configmaps/default/large-{number}".encode(), content)


def main(folder: Path, megabytes: int) -> None:
    """Take a backup and verify it; print the most memory in MB before, after the backup, and after both."""
    world = bundles.world(folder / "world", count=100)
    grown(world, megabytes)
    bundles.Taking = Large  # type: ignore[misc]
    place = Place(Folder("f", folder / "store"), world.cluster.name)
    most = [_most()]
    made = bundles.make(world, place)
    most.append(_most())
    verify.check(place, made, [world.key], world.folder)
    most.append(_most())
    [found] = backups.survey(place)
    assert found.is_good
    assert found.manifest
    assert found.manifest.part(bundle.DATABASE).size > 1e6 * megabytes / 3
    print(json.dumps({"most": most, "size": found.size / 1e6}))


def _most() -> int:
    """Return the most MB that this process had; Linux's getrusage also counts what it was a copy of before exec."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _PER_MB


@pytest.mark.slow
def test_a_backup_of_a_database_that_is_larger_than_its_memory_may_be(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("lib", "tests", "."))}
    command = [sys.executable, __file__, str(tmp_path), "300"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["size"] > 150
    assert max(told["most"]) < 200, told


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

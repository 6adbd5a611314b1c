"""A backup is opened without i12e, by the commands of its docs and of the leaflet in each store, word for word."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import bundles
from conftest import ROOT, need
from i12e import age, backups, bundle, leaflet, tokens
from i12e.backups import Mark, Place
from i12e.bundle import Abandoned
from i12e.folders import Folder
from i12e.stores import Full
from memorystore import Memory

PROGRAMS = ("age", "gzip", "tar", "sha256sum")
PATHS = """\
  paths: [{path: /srv/data, hosts: [agent-1]}]
"""
NOTES = b"notes\n" * 1000


def steps(text: str) -> list[str]:
    """Given a leaflet, return the commands of its steps but the last, which is for hosts."""
    found = re.findall(r"^\d\. .*?(?=^\d\. )", text, re.MULTILINE | re.DOTALL)
    return ["".join(f"{line[4:]}\n" for line in step.splitlines() if line.startswith("    ")) for step in found]


def documented() -> list[str]:
    """Return the commands of docs/backup-format.md for who has nothing but these programs."""
    page = (ROOT / "docs/backup-format.md").read_text()
    part = page[page.index("\n## Opened by hand") :]
    return re.findall(r"^```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL)


@dataclass
class Hand:
    """A person with a store's folder, a key, and hardly any programs."""

    world: bundles.World
    place: Place
    folder: Path
    shell: str = "/bin/sh"
    ids: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store" / self.place.folder

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def part(self, name: str) -> Path:
        """Given the name of a part of the newest backup, return its file."""
        return self.store / "backups" / self.ids[-1] / name

    def take(self) -> str:
        """Take a backup; return its id."""
        self.ids.append(bundles.make(self.world, self.place))
        return self.ids[-1]

    def types(self, commands: list[str]) -> str:
        """Type commands into a shell, the first of them with this person's own places; return what is shown."""
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        for name in (*PROGRAMS, "mkdir"):
            where = shutil.which(name)
            need(where, name)
            assert where
            if not (programs / name).exists():
                (programs / name).symlink_to(where)
        key = self.folder / "key.txt"
        key.write_text(f"# a comment\n{self.world.key.reveal()}\n")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        places = {"store": self.store, "key": key, "work": self.work}
        begin = re.sub(
            r"^(store|key|work)=.*$", lambda found: f"{found[1]}='{places[found[1]]}'", commands[0], flags=re.MULTILINE
        )
        assert begin != commands[0]
        done = subprocess.run(
            [self.shell],
            input="".join([begin, *commands[1:]]),
            cwd=self.folder,
            env={"PATH": str(programs)},
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout


@contextlib.contextmanager
def hand(folder: Path, **more: object) -> Iterator[Hand]:
    world = bundles.world(folder / "checkout", count=60, more=PATHS, **more)  # type: ignore[arg-type]
    world.paths["/srv/data"] = NOTES
    (folder / "store").mkdir()
    yield Hand(world, Place(Folder("local", folder / "store"), world.cluster.name), folder)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Hand]:
    with hand(tmp_path) as made:
        yield made


def opened_whole(alone: Hand, commands: list[str]) -> None:
    """Type the commands; what comes out is what was put in."""
    alone.take()
    last = alone.take()
    said = alone.types(commands)
    assert f"the newest: {last}\n" in said
    assert said.count(": OK\n") == 1 + 6 + 5 + 1 + 1 + 1, (
        said
    )  # manifest, its parts, those of the index, both, database, token
    assert "FAILED" not in said.upper(), said
    assert "not found" not in said
    token = alone.world.token
    assert (alone.work / "token").read_text() == f"{tokens.password(token).reveal()}\n"
    assert oct((alone.work / "token").stat().st_mode & 0o777) == "0o600"
    for host, files in alone.world.files.items():
        for name, content in files.items():
            assert (alone.work / "hosts" / host / name).read_bytes() == content
    assert (alone.work / "hosts/agent-1/srv/data/file").read_bytes() == NOTES
    repo = alone.work / "cluster/repo"
    own = alone.world.build.paths.root
    assert (repo / "hosts/example/cluster.yaml").read_bytes() == (own / "hosts/example/cluster.yaml").read_bytes()


def test_the_leaflet_and_the_docs_have_the_same_commands() -> None:
    assert len(documented()) == 7
    assert documented() == steps(leaflet.content("cluster", "CLUSTER").decode())


@pytest.mark.parametrize("shell", ["dash", "bash", *filter(shutil.which, ["busybox", "ksh", "mksh"])])
def test_a_backup_of_sqlite_is_opened_with_age_tar_gzip_and_a_shell(alone: Hand, shell: str) -> None:
    where = shutil.which(shell)
    need(where, shell)
    link = alone.folder / "sh"  # by this name, bash and busybox are what POSIX wants
    link.symlink_to(str(where))
    alone.shell = str(link)
    opened_whole(alone, documented())
    put_in = bytearray(alone.world.taken)
    put_in[18:20] = b"\1\1"  # where SQLite says whether it keeps a log: in a backup, that is in the database already
    assert (alone.work / "database").read_bytes() == put_in


def test_a_snapshot_of_etcd_comes_out_byte_for_byte(tmp_path: Path) -> None:
    with bundles.etcd_running() as running, hand(tmp_path, running=running) as alone:
        opened_whole(alone, documented())
        assert (alone.work / "database").read_bytes() == alone.world.taken


def test_the_store_itself_says_how(alone: Hand) -> None:
    alone.take()
    text = (alone.store / "README.txt").read_text()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 120
    said = alone.types(steps(text))
    assert "database: OK\n" in said
    assert "token: OK\n" in said


def test_a_cluster_that_was_restored_has_the_same_in_its_own_folder(alone: Hand) -> None:
    alone.take()
    alone.world.epoch = 2
    alone.place = alone.place.of(2)
    opened_whole(alone, documented())
    assert alone.store.name == "example.e2"
    text = (alone.store / "README.txt").read_text()
    assert "the one of\n   example, example.e2, example.e3... with the highest number" in text
    assert "database: OK\n" in alone.types(steps(text))


def test_the_leaflet_is_no_backup_and_is_not_written_again(alone: Hand) -> None:
    alone.take()
    (alone.store / "README.txt").write_text("ours\n")
    alone.take()
    assert (alone.store / "README.txt").read_text() == "ours\n"
    assert [each.id for each in backups.survey(alone.place)] == alone.ids[::-1]


def test_a_store_that_does_not_take_the_leaflet_gets_the_backup_all_the_same(alone: Hand) -> None:
    class Picky(Memory):
        def create(self, key: str, content: bytes) -> str:
            if key.endswith(leaflet.NAME):
                raise Full(self.name, "nothing more of that kind")
            return super().create(key, content)

    place = Place(Picky(), alone.world.cluster.name)
    made = bundles.make(alone.world, place)
    assert [each.id for each in backups.survey(place) if each.is_good] == [made]
    assert any("nothing more of that kind" in note for note in alone.world.build.notes)


def test_what_is_no_backup_is_not_chosen(alone: Hand) -> None:
    good = alone.take()
    bad = alone.take()
    alone.place.mark(bad, backups.VERIFIED, Mark(1.0, "me", False, "a bit is wrong"))
    stone = Abandoned("20991231T235959Z-abcdef", "me", 1, 99)
    alone.place.store.create(alone.place.part(stone.id, bundle.MANIFEST), stone.content())
    alone.place.store.put(alone.place.part("20991231T235959Z-000000", bundle.DATABASE), [b"unfinished"])
    said = alone.types(documented()[:2])
    assert f"the newest: {good}\n" in said
    assert re.search(rf"{bad} of .* FOUND BAD\n", said)
    assert stone.id not in said


def test_a_flipped_bit_is_seen_by_the_manifest_and_a_changed_manifest_by_itself(alone: Hand) -> None:
    alone.take()
    part = alone.part(bundle.HOSTS)
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    said = alone.types(documented()[:3])
    assert f"{bundle.HOSTS}: FAILED\n" in said
    assert "manifest.json: OK\n" in said
    manifest = alone.part(bundle.MANIFEST)
    manifest.write_text(manifest.read_text().replace('"server-1"', '"server-2"', 1))
    assert "manifest.json: CHANGED\n" in alone.types(documented()[:3])


def test_a_part_of_another_backup_is_seen_by_the_index_though_the_manifest_names_it(alone: Hand) -> None:
    alone.take()
    other = alone.part(bundle.DATABASE).read_bytes()
    alone.take()
    alone.part(bundle.DATABASE).write_bytes(other)
    summing = bundle.Summing()
    summing.add(other)
    document = json.loads(alone.part(bundle.MANIFEST).read_text())
    for part in document["parts"]:
        if part["name"] == bundle.DATABASE:
            part["size"], part["sha256"] = summing.size, summing.sums().sha256
    del document["sha256"]
    alone.part(bundle.MANIFEST).write_bytes(bundle._written(document))
    said = alone.types(documented())
    assert "manifest.json: OK\n" in said
    assert said.count(f"{bundle.DATABASE}: OK\n") == 1
    assert said.count(f"{bundle.DATABASE}: FAILED\n") == 1
    assert "database: DAMAGED\n" in said


def test_with_another_key_nothing_is_opened_and_nothing_called_good(alone: Hand) -> None:
    alone.take()
    other, _ = age.make()
    alone.world.key = other
    said = alone.types(documented())
    assert "database: DAMAGED\n" in said
    assert "token: MISSING\n" in said
    assert "no identity matched" in said
    assert not any(alone.work.glob("hosts/*"))


def test_a_manifest_that_was_written_anew_is_seen_by_the_index(alone: Hand) -> None:
    alone.take()
    manifest = alone.part(bundle.MANIFEST)
    document = json.loads(manifest.read_text())
    del document["sha256"]
    document["k3s"] = "v9.9.9+k3s1"
    manifest.write_bytes(bundle._written(document))
    said = alone.types(documented()[:4])
    assert "manifest.json: OK\n" in said
    assert "manifest and index: OF TWO BACKUPS\n" in said

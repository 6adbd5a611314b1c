"""How long a build of many hosts takes, beside bare doit with as many tasks of one file and one target each.

    .venv/bin/python benchmarks/fleet.py [HOSTS] [ROUNDS]

Both run in the same minute on the same machine, in turns, as processes of their own; the figures are the
best of the rounds and their ratio. The hosts are rendered from the real templates, with the real sops.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import os
NAMES = sorted(os.listdir("in"))

def copy(name):
    with open(f"in/{name}") as source, open(f"out/{name}", "w") as target:
        target.write(source.read())

def task_copy():
    for name in NAMES:
        yield {"name": name, "actions": [(copy, [name])], "file_dep": [f"in/{name}"], "targets": [f"out/{name}"]}
"""


def fleet(place: Path, hosts: int) -> None:
    """Given a folder and a number, make a checkout with that many hosts, three of them servers."""
    for name in ("dodo.py", "doit", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, place)
    for name in ("lib", "templates", "secrets"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / ".venv").symlink_to(Path(sys.prefix))
    folder = place / "hosts/example"
    folder.mkdir(parents=True)
    cluster = (ROOT / "hosts/example/cluster.yaml").read_text().replace("10.42.0.0/16", "10.128.0.0/10")
    (folder / "cluster.yaml").write_text(
        cluster.replace("192.0.2.0/24", "10.0.0.0/12").replace("192.0.2.10", "10.1.0.1")
    )
    for number in range(hosts):
        role, index = ("server", number + 1) if number < 3 else ("agent", number - 2)
        address = f"10.2.{number // 250}.{number % 250 + 2}"
        text = f"role: {role}\naddresses: [{address}]\nlabels:\n  disk: ssd\n  rack: r{number % 40}\n"
        (folder / f"{role}-{index}.yaml").write_text(text)


def bare(place: Path, files: int) -> None:
    """Given a folder and a number, make a doit project of that many tasks."""
    (place / "in").mkdir(parents=True)
    (place / "out").mkdir()
    (place / "dodo.py").write_text(BARE)
    for number in range(files):
        (place / f"in/f{number}").write_text(f"content {number}\n")


def timed(place: Path, *command: str) -> float:
    """Given a folder and a command, run it there; return the seconds that it took."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL, env=environ)
    return time.perf_counter() - start


def main(hosts: int, rounds: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder, "fleet"), Path(folder, "bare")
        ours.mkdir()
        fleet(ours, hosts)
        bare(plain, hosts)
        print(f"{hosts} hosts, best of {rounds} (nothing to do: of {5 * rounds}), seconds\n")
        print("| | i12e | bare doit | ratio |\n|---|---|---|---|")
        for name, prepare_ours, prepare_bare in cases(ours, plain):
            # what takes a moment is timed more often: the machine's noise is as long
            report(name, ours, plain, prepare_ours, prepare_bare, rounds * (5 if name == "nothing to do" else 1))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(f"\npeak memory of any process: {peak} MB")


Prepare = Callable[[int], object]


def cases(ours: Path, plain: Path) -> list[tuple[str, Prepare, Prepare]]:
    """Given both projects, return the edits to be timed, as actions of the round's number."""

    def cold(place: Path, *made: str) -> Prepare:
        def remove(number: int) -> None:
            for name in made:
                shutil.rmtree(place / name, ignore_errors=True)
                Path(place, name).unlink(missing_ok=True) if Path(place, name).is_file() else None
            if "out" in made:
                (place / "out").mkdir()

        return remove

    def append(path: Path, text: str) -> Prepare:
        return lambda number: path.open("a").write(text.format(number))

    def prepend(path: Path, text: str) -> Prepare:
        return lambda number: path.write_text(text.format(number) + path.read_text())

    example = ours / "hosts/example"
    one = append(plain / "in/f7", "more {}\n")
    return [
        ("cold", cold(ours, "build"), cold(plain, "out", ".doit.db", ".doit.db.dat", ".doit.db.dir", ".doit.db.bak")),
        ("nothing to do", lambda number: None, lambda number: None),
        ("one host edited", append(example / "agent-5.yaml", "  edit-{0}: x\n"), one),
        ("a shared template edited", append(ours / "templates/files/system.conf", "# {}\n"), one),
        ("cluster.yaml edited", prepend(example / "cluster.yaml", "# {}\n"), one),  # the end belongs to a release
    ]


def report(name: str, ours: Path, plain: Path, prepare_ours: Prepare, prepare_bare: Prepare, rounds: int) -> None:
    """Given an edit, time both sides in turns and print their row."""
    best_ours = best_bare = float("inf")
    timed(ours, "./doit")  # what the last case left is done, and its stamps have settled
    timed(ours, "./doit")
    os.sync()  # what was written so far is not to be written back while the clock runs
    for number in range(rounds):
        prepare_ours(number)
        best_ours = min(best_ours, timed(ours, "./doit"))
        prepare_bare(number)
        best_bare = min(best_bare, timed(plain, sys.executable, "-m", "doit"))
    print(f"| {name} | {best_ours:.2f} | {best_bare:.2f} | {best_ours / best_bare:.2f} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["1000", "5"][len(sys.argv) - 1 :])))

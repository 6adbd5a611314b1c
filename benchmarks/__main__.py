"""All benchmarks in one run: `./doit bench`, or `python -m benchmarks --hosts 1000 --rounds 5`."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import backup, butane, fleet, peers, table
from benchmarks.measure import Failed

LARGER = 10
PAGE = fleet.ROOT / "docs/performance.md"
CACHE = fleet.ROOT / "build/bench"


def main() -> int:
    """Measure, print the tables, record them if asked to; return the exit status."""
    options = _options()
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="i12e-bench-") as folder:
            found = measured(Path(folder), options.hosts, options.rounds, options.alone)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    text = f"{_circumstances(options.hosts, options.rounds, load)}\n\n{table.markdown(found)}"
    print(text)
    if options.record:
        table.record(PAGE, text)
    return backup.run(options.large, min(options.rounds, 3), options.record)


def measured(folder: Path, hosts: int, rounds: int, alone: bool) -> table.Result:
    """Given a folder to work in, the hosts, the rounds, and whether no other tool is wanted, measure everything.

    Raise Failed if a program fails that has to be there.
    """
    small, large = fleet.Fleet(folder, hosts), fleet.Fleet(folder, hosts * LARGER)
    _say(f"{hosts} hosts")
    cases = fleet.measure(small, fleet.ALL, rounds)
    _say(f"{large.hosts} hosts")
    beside, cold = fleet.measure_growth(small, large)
    more = {fleet.COLD: cold, **fleet.measure(large, (fleet.NO_OP, fleet.ONE_HOST), 1)}
    _say("processes, other tools")
    build = peers.Way("i12e", small.jobs(fleet.COLD)[0], hosts)
    others = peers.measure(build, large, folder, CACHE, rounds, alone)
    _say("butane")
    [text] = small.texts("server", 1).values()
    return table.Result(hosts, LARGER, cases, beside, more, others, butane.measure(text, folder, rounds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without ansible-core and helm")
    parser.add_argument("--large", type=int, default=1000, help="MB of the large files that are sealed and stored")
    parser.add_argument("--record", action="store_true", help=f"write the tables into {PAGE.name}, too")
    options = parser.parse_args()
    if options.hosts < _FEWEST or options.rounds < 1:
        parser.error(f"at least {_FEWEST} hosts and one round")
    return options


_FEWEST = 5  # three servers and two agents


def _circumstances(hosts: int, rounds: int, load: float) -> str:
    today = dt.datetime.now(tz=dt.UTC).date()
    return (
        f"{today}, {hosts:,} hosts, best of {rounds} rounds and of more of what is short;\n"
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"load {load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end."
    )


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

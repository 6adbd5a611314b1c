"""What was measured, as markdown: aims first, then all figures; on the page between its two markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import backup, fleet
from benchmarks.butane import Measured
from benchmarks.fleet import Pair
from benchmarks.measure import Spent
from benchmarks.peers import Others, PerHost

START, END = "<!-- benchmark -->", "<!-- end -->"
BACKUP = "<!-- backup -->", "<!-- end of backup -->"


@dataclass(frozen=True)
class Result:
    """All that one run measured; `more` is of a fleet that is `larger` times as large."""

    hosts: int
    larger: int
    cases: dict[str, Pair]
    beside: Spent
    """A cold build in turns with the one of the larger fleet."""
    more: dict[str, Pair]
    others: Others
    butane: Measured


@dataclass(frozen=True)
class Aim:
    """What was aimed at: what was measured by the clock and by the processor's, and the most that it may be."""

    what: str
    limit: float
    measured: float | None
    processor: float | None
    unit: str = ""
    """Empty for a ratio, "/" for one that is told as 1/N, else the unit."""

    def row(self) -> list[str]:
        """Return its row."""
        met = "not measured" if self.measured is None else "yes" if self.measured <= self.limit else "**no**"
        return [self.what, self._text(self.measured), self._text(self.processor), self._text(self.limit), met]

    def _text(self, value: float | None) -> str:
        if value is None:
            return ""
        if self.unit == "/":
            return f"1/{1 / value:.0f}"
        return f"{value:.0f} {self.unit}" if self.unit == "MB" else f"{value:.2f} {self.unit}".strip()


def markdown(result: Result) -> str:
    """Given what was measured, return the tables."""
    return "\n\n".join(
        [
            of_aims(aims(result)),
            of_fleet(result.hosts, result.cases),
            of_fleet(result.hosts * result.larger, result.more),
            of_others(result.others),
            of_butane(result.butane),
        ]
    )


def aims(result: Result) -> list[Aim]:
    """Given what was measured, return the aims of issue 4, and of lib/butane's."""
    no_op, one = result.cases[fleet.NO_OP], result.cases[fleet.ONE_HOST]
    above = one.ours - no_op.ours
    memory = max(pair.ours.memory for pair in result.more.values())
    many = result.hosts * result.larger
    linear = _ratio(result.more[fleet.COLD].ours.over(many), result.beside.over(result.hosts))
    ours, tools = result.others.ours, result.others.tools
    return [
        *(_share(tool, limit, ours) for tool, limit in zip(tools, (25, 20), strict=False)),
        Aim("nothing to do, over bare doit", 1.3, *_ratio(no_op.ours, no_op.bare)),
        Aim("one host edited, above nothing to do", 0.5, above.seconds, above.processor, "s"),
        Aim(f"cold, for each of {many:,} hosts, over {result.hosts:,}", 1.2, *linear),
        Aim(f"peak memory, {many:,} hosts", 300, memory, None, "MB"),
        *_aims_of_butane(result.butane),
    ]


def _share(other: PerHost, limit: int, per_host: Spent) -> Aim:
    clock, processor = _ratio(per_host, other.spent) if other.spent else (None, None)
    return Aim(f"cold, for each host, over {other.name}", 1 / limit, clock, processor, "/")


def _aims_of_butane(measured: Measured) -> list[Aim]:
    one, most = measured.sizes[0], measured.sizes[-1]
    linear = most.warm / one.warm / (most.files / one.files)
    return [
        Aim("butane, contents met before, over the floor", 3, one.warm / one.floor, None),
        Aim("butane, contents not met before, over the floor", 3, one.first / one.floor, None),
        Aim(f"butane, for each of {most.files} files, over {one.files}", 1.2, linear, None),
    ]


def of_aims(found: Iterable[Aim]) -> str:
    """Given aims, return their table."""
    return _table(["", "measured", "by processor time", "at most", "met"], (aim.row() for aim in found))


def of_fleet(hosts: int, cases: dict[str, Pair]) -> str:
    """Given the number of hosts and what each edit took, return the table."""
    head = [f"{hosts:,} hosts, seconds", "i12e", "bare doit", "ratio", "by processor time", "MB"]
    return _table(head, ([case, *_pair(pair)] for case, pair in cases.items()))


def _pair(pair: Pair) -> list[str]:
    ratio, processor = _ratio(pair.ours, pair.bare)
    times = [f"{value:.2f}" for value in (pair.ours.seconds, pair.bare.seconds, ratio, processor)]
    return [*times, str(pair.ours.memory)]


def of_others(others: Others) -> str:
    """Given what a host takes in a cold build and otherwise, return the table."""
    head = ["for each host, ms", "by the clock", "of a processor", "i12e takes", "by processor time"]
    ours = ["i12e, cold", *_milliseconds(others.ours), "", ""]
    return _table(head, [ours, *(_other(other, others.ours) for other in (*others.starts, *others.tools))])


def _other(other: PerHost, per_host: Spent) -> list[str]:
    if other.spent is None:
        return [other.name, f"not measured: {other.why_not}", "", "", ""]
    return [other.name, *_milliseconds(other.spent), *(_part(value) for value in _ratio(per_host, other.spent))]


def _milliseconds(spent: Spent) -> list[str]:
    return [f"{1000 * value:.1f}" for value in (spent.seconds, spent.processor)]


def _part(value: float) -> str:
    return f"1/{1 / value:.1f}" if value < 1 else f"{value:.1f} times"


def of_butane(measured: Measured) -> str:
    """Given what butane took, return the table."""
    head = ["butane, ms", "floor", "met before", "ratio", "for each file", "not met before", "ratio"]
    rows = [
        [
            f"{one.files} files",
            *(f"{1000 * one.floor:.2f}", f"{1000 * one.warm:.2f}", f"{one.warm / one.floor:.2f}"),
            f"{1000 * one.warm / one.files:.3f}",
            *(f"{1000 * one.first:.2f}", f"{one.first / one.floor:.2f}"),
        ]
        for one in measured.sizes
    ]
    alone, floor = measured.process, measured.sizes[0].floor
    process = ["`python -m butane`", "", "", "", "", f"{1000 * alone:.2f}", f"{alone / floor:.2f}"]
    return _table(head, [*rows, process])


def of_backup(measured: backup.Measured) -> str:
    """Given what storing took, return its aims, the table, and what was not measured."""
    head = ["seal and store, seconds", "i12e", "age, rclone", "ratio", "by processor time", "MB"]
    rows = ([f"{row.what}, {row.store}", *_pair(Pair(row.ours, row.theirs))] for row in measured.rows)
    tables = [of_aims(aims_of_backup(measured)), _table(head, rows)] if measured.rows else []
    return "\n\n".join([*tables, *measured.lacks])


def aims_of_backup(measured: backup.Measured) -> list[Aim]:
    """Given what storing took, return the aims of issue 6."""
    ratios = {f"{row.what}, {row.store}": _ratio(row.ours, row.theirs) for row in measured.rows}
    memory = max(row.ours.memory for row in measured.rows)
    return [
        *(Aim(f"{what}: over age and rclone", backup.SLOWEST, *both) for what, both in ratios.items()),
        Aim("seal and store, peak memory", backup.MOST, memory, None, "MB"),
    ]


def record(page: Path, text: str, start: str = START, end: str = END) -> None:
    """Given a page with two markers and a text, put the text between them."""
    before, _, rest = page.read_text().partition(start)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{start}\n{text}\n{end}{after}")


def _ratio(ours: Spent, other: Spent) -> tuple[float, float]:
    return ours.seconds / other.seconds, ours.processor / other.processor


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

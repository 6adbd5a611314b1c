"""Records what PROGRAM, the original butane, says of the cases.

usage: record.py PROGRAM [FILE...]

For a new release of butane, or for new cases: rewrites `report` and `ignition` of every case in the files (all of
tests/butane/cases without FILE) in place, and `output` where it is there; all else is kept, comments too. Read what
changed before you commit it. A case whose dialects disagree is left as it is and named, and the exit status is 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from casefiles import CASES, Case, load
from comparing import canonical, comparable

RECORDED = ("report", "ignition", "output")
QUOTED = '"'


@dataclass(frozen=True)
class Said:
    """What the program prints for a config: `ignition` is None where it refuses it."""

    report: list[str]
    ignition: dict[str, Any] | None
    output: str

    @property
    def compared(self) -> tuple[Any, ...]:
        """What the dialects of a case must agree on."""
        return canonical(self.report), comparable(self.ignition)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and everything in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value.rstrip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def main(arguments: list[str]) -> int:
    """Given the program and files of cases, record; return the exit status."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 3
    files = [Path(name) for name in arguments[1:]] or sorted(CASES.glob("*.yaml"))
    faults = [fault for file in files for fault in record(arguments[0], file)]
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


def record(program: str, file: Path) -> list[str]:
    """Given the program and a file of cases, rewrite the file; return a line for each case that was left as it is."""
    faults = []
    parts = []
    for case, part in zip(load(file), split(file.read_text()), strict=True):
        answers = {dialect: ask(program, case, dialect) for dialect in case.dialects}
        first = next(iter(answers.values()))
        others = [dialect for dialect, said in answers.items() if said.compared != first.compared]
        if others:
            faults.append(f"{file}: {case.name}: {case.dialects[0]} and {', '.join(others)} disagree")
            parts.append(part)
        else:
            parts.append(rewritten(part, case, first))
    file.write_text(comments_before(file.read_text()) + "".join(parts))
    return faults


def ask(program: str, case: Case, dialect: str) -> Said:
    """Given the program, a case and one of its dialects, return what the program prints."""
    with tempfile.TemporaryDirectory() as directory:
        files_dir = case.lay_out(Path(directory))
        options = ["--files-dir", files_dir] if files_dir else []
        command = [program, "--raw-errors", *options]
        text = case.text(dialect).encode()
        done = subprocess.run(command, input=text, cwd=directory, capture_output=True, check=False)
    ignition = json.loads(done.stdout) if done.returncode == 0 else None
    if ignition is not None:
        del ignition["ignition"]["version"]
        ignition = {name: value for name, value in ignition.items() if value}
    return Said(done.stderr.decode().splitlines(), ignition, done.stdout.decode())


def starts(text: str) -> list[int]:
    """Given a file of cases, return the numbers of the lines where a case begins."""
    root = yaml.compose(text, yaml.CSafeLoader)
    assert root is not None
    return [node.start_mark.line for node in root.value]


def comments_before(text: str) -> str:
    """Given a file of cases, return what is before the first."""
    return "".join(text.splitlines(keepends=True)[: starts(text)[0]])


def split(text: str) -> list[str]:
    """Given a file of cases, return the text of each, with what is before the next."""
    lines = text.splitlines(keepends=True)
    begin = starts(text)
    return ["".join(lines[here:there]) for here, there in zip(begin, [*begin[1:], len(lines)], strict=True)]


def rewritten(part: str, case: Case, said: Said) -> str:
    """Given the text of a case and what the program says of it, return the text that says so."""
    lines = part.splitlines(keepends=True)
    after = len(lines)
    while lines[after - 1].strip() == "" or lines[after - 1].startswith("#"):
        after -= 1
    # a case may use an anchor of one before it, so it is read by its lines, not alone
    keys = [n for n, line in enumerate(lines[:after]) if line[2:3].isalpha() and line[:2] in ("- ", "  ")]
    kept: list[str] = []
    for here, there in zip(keys, [*keys[1:], after], strict=True):
        if lines[here][2:].partition(":")[0] not in RECORDED:
            kept += lines[here:there]
    return "".join([*kept, *expectation(case, said), *lines[after:]])


def expectation(case: Case, said: Said) -> list[str]:
    """Given a case and what the program says of it, return the lines that record it."""
    values: dict[str, Any] = {}
    lines = []
    if "output" in case.said:
        lines.append(f"  output: {yaml.dump(said.output, default_style=QUOTED, width=10**6)}")
    if said.report:
        # some lines come in any order; those that were right stay as they are
        same = sorted(case.said.get("report", [])) == sorted(said.report)
        values["report"] = case.said["report"] if same else said.report
    if said.ignition is not None:
        values["ignition"] = said.ignition
    for name, value in values.items():
        flow = False if name == "report" else None
        dumped = yaml.dump(
            {name: value}, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=10**6, allow_unicode=True
        )
        lines += [f"  {line}" if line.strip() else line for line in dumped.splitlines(keepends=True)]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The script that records what the original says, tried with programs of a few lines in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from casefiles import CASES, load
from record import Said, main, rewritten, split

BEFORE = """\
# What is before the first case.

- name: a warning and a config
  dialects: &two [fcos 1.5.0, flatcar 1.1.0]
  butane: |
    a: b
  report: [what it was]
  ignition: {what: it was}

# What is between.
- name: the same again
  dialects: *two
  butane: ""
  output: ""
"""
AFTER = """\
# What is before the first case.

- name: a warning and a config
  dialects: &two [fcos 1.5.0, flatcar 1.1.0]
  butane: |
    a: b
  report:
  - 'warning at $.a, line 3 col 1: unused key a'
  ignition:
    storage:
      files:
      - {path: /a}

# What is between.
- name: the same again
  dialects: *two
  butane: ""
  output: "{\\"ignition\\":{\\"version\\":\\"3.4.0\\"},\\"storage\\":{\\"files\\":[{\\"path\\":\\"/a\\"}]}}\\n"
  report:
  - 'warning at $.a, line 3 col 1: unused key a'
  ignition:
    storage:
      files:
      - {path: /a}
"""
SAYS_THE_SAME = """\
#!/bin/sh
cat > /dev/null
echo 'warning at $.a, line 3 col 1: unused key a' >&2
echo '{"ignition":{"version":"3.4.0"},"storage":{"files":[{"path":"/a"}]}}'
"""
SAYS_THE_VARIANT = """\
#!/bin/sh
echo "Error translating config: $(head -n 1)" >&2
exit 1
"""


def record(folder: Path, program: str) -> tuple[int, str]:
    """Given a folder and a program's text, record what the program says of two cases; return status and file."""
    (folder / "butane").write_text(program)
    (folder / "butane").chmod(0o755)
    file = folder / "cases.yaml"
    file.write_text(BEFORE)
    return main([str(folder / "butane"), str(file)]), file.read_text()


def test_what_the_program_says_is_recorded_and_all_else_is_kept(tmp_path: Path) -> None:
    assert record(tmp_path, SAYS_THE_SAME) == (0, AFTER)


def test_cases_whose_dialects_disagree_are_named_and_left_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(tmp_path, SAYS_THE_VARIANT) == (1, BEFORE)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in said] == [
        "a warning and a config: fcos 1.5.0 and flatcar 1.1.0 disagree",
        "the same again: fcos 1.5.0 and flatcar 1.1.0 disagree",
    ]


@pytest.mark.parametrize("file", sorted(CASES.glob("*.yaml")), ids=lambda file: file.stem)
def test_our_cases_are_as_the_script_writes_them(file: Path) -> None:
    for case, part in zip(load(file), split(file.read_text()), strict=True):
        said = Said(case.said.get("report", []), case.said.get("ignition"), case.said.get("output", ""))
        assert rewritten(part, case, said) == part, case.name

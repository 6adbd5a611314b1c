"""docs/restore.md and docs/runbooks/disaster.md: their commands, messages and links are ones that there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from i12e import kit
from i12e.kit import Key, Known, Repository
from i12e.paths import DEFAULT

RUNBOOK, RESTORE = "docs/runbooks/disaster.md", "docs/restore.md"
PAGE = (ROOT / RUNBOOK).read_text()


def section(heading: str) -> str:
    """Given a heading of the page, return what is below it."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def commands(heading: str) -> list[str]:
    """Given a heading of the page, return the commands below it: the block that is a shell's, else what is indented."""
    text = section(heading)
    block = re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return block[1].splitlines() if block else re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)


def test_the_page_has_the_lines_that_the_kit_prints() -> None:
    keys = [Key(str(Path.home() / place), (), ()) for place in PLACES]
    known = Known("home", DEFAULT, keys[0], (), keys[1], (), Repository(("URL",)), ())
    assert commands("The laptop is gone too") == kit.commands(known)


PLACES = (".config/i12e/backup-keys/home.txt", ".config/sops/age/keys.txt")


def test_every_command_of_the_page_is_one_that_there_is() -> None:
    listed = (ROOT / "README.md").read_text() + (ROOT / "lib/i12e/engine.py").read_text()
    found = set(re.findall(r"\./doit ([a-z_]+)", PAGE))
    assert len(found) > 8
    assert [name for name in found if name not in listed] == []
    options = set(re.findall(r"\./doit [^`\n]*?--([a-z-]+)", PAGE))
    assert [name for name in options if f'"{name}"' not in listed] == []


@pytest.mark.parametrize("page", [RUNBOOK, RESTORE])
def test_every_link_of_the_pages_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), name
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}, anchor


def test_every_message_of_the_tables_is_one_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "lib/i12e").glob("*.py"))
    rows = (ROOT / RESTORE).read_text().splitlines()
    texts = [text for row in rows if row.startswith("| `") for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    parts = [part.strip() for text in texts for part in re.split(r"\.\.\.|age1|15 min for", text)]
    found = [part for part in parts if len(part) > 5]
    assert len(found) > 15
    assert [each for each in found if each not in code] == []


def test_every_bug_of_k3s_has_an_end_and_a_test_in_the_lab() -> None:
    rows = [row.split(" | ") for row in (ROOT / RESTORE).read_text().splitlines() if row.startswith("| ")]
    bugs = [row for row in rows if len(row) == 3 and "`test_" in row[1]]
    assert len(bugs) == 11
    assert {end.rstrip(" |") for _, _, end in bugs} == {"survived", "refused"}
    lab = "".join(path.read_text() for path in (ROOT / "tests/lab").glob("test_restore*.py"))
    named = {name for _, tests, _ in bugs for name in re.findall(r"`(test_\w+)`", tests)}
    assert named - set(re.findall(r"^def (test_\w+)", lab, re.MULTILINE)) == set()
    bugs_file = (ROOT / "tests/lab/test_restore_bugs.py").read_text()
    assert set(re.findall(r"^def (test_\w+)", bugs_file, re.MULTILINE)) - named == set()


@pytest.mark.parametrize("page", [RUNBOOK, RESTORE])
def test_every_command_of_the_pages_is_one_that_a_shell_reads(page: str) -> None:
    text = (ROOT / page).read_text()
    lines = re.findall(r"^ {4}((?:\./doit|ssh|sudo|cd|cp|rm|echo|I12E_\w+=).*)$", text, re.MULTILINE)
    assert len(lines) > 8
    subprocess.run(["/bin/sh", "-n"], input="\n".join(lines), text=True, check=True)

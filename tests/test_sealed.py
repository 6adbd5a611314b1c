"""Sealed files and rules as they stand there: what is plain is found, rules are edited in place."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from i12e import programs, sealed
from i12e.errors import UserError
from i12e.sealed import Rules
from people import Person, commit, person, rules, seal

ALICE, BOB, CAROL = (f"age1{letter * 58}" for letter in "qpz")
OWN = "secrets/cluster.yaml"
TEXT = "server_token: abc\n# a comment\nempty: ''\nnothing:\nlist: [a, 1, true, 1.5]\nmap: {deep: {er: x}}\nnone: {}\n"


@pytest.fixture
def me(tmp_path: Path) -> Person:
    """Whose checkout it is."""
    return person(tmp_path, "me")


@pytest.fixture
def root(tmp_path: Path, me: Person) -> Path:
    """A checkout with a sealed file of one's own beside the examples'."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "secrets", checkout / "secrets")
    (checkout / ".sops.yaml").write_text(rules(me))
    seal(checkout, OWN, TEXT, me)
    return checkout


def told(root: Path) -> list[str]:
    """Given a checkout, return what the check says."""
    try:
        sealed.check(root)
    except UserError as error:
        return [str(problem) for problem in error.problems]
    return []


def edit(root: Path, change: Callable[[str], str], path: str = OWN) -> None:
    """Given a checkout and a change of a text, make it in a file."""
    text = (root / path).read_text()
    assert change(text) != text
    (root / path).write_text(change(text))


# --- the check


def test_this_checkout_passes_its_own_check() -> None:
    assert told(ROOT) == []


def test_what_sops_sealed_whole_passes_with_comments_empty_values_lists_and_numbers(root: Path) -> None:
    assert told(root) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: f"added: hunter2\n{text}", f"{OWN}:1:8: added: is not encrypted (./doit secrets_edit:cluster"),
        (lambda text: re.sub(r"(?m)^server_token: .*$", "server_token: x", text), f"{OWN}:1:15: server_token: is not"),
        (lambda text: re.sub(r"er: ENC.*", "er: 5", text), ": map.deep.er: is not encrypted"),
        (lambda text: re.sub(r"    - ENC[^\n]*", "    - x", text, count=1), ": list[0]: is not encrypted"),
        (lambda text: f"x_unencrypted: hunter2\n{text}", "below a key that ends in _unencrypted (rename x_unencrypted"),
        (lambda text: f"x_unencrypted: {{a: [hunter2]}}\n{text}", f"{OWN}:1:21: x_unencrypted.a[0]: is not encrypted"),
        (lambda text: text.replace("tag:", "tg:", 1), f"{OWN}:1:15: server_token: is not encrypted"),
        (lambda text: f"# hunter2\n{text}", f"{OWN}:1:1: a comment that is not encrypted (delete it"),
        (lambda text: text.replace("type:str]\n", "type:str]  # hunter2\n", 1), "a comment that is not encrypted"),
        (lambda text: f"{text}more: hunter2\n", ": more: is not encrypted"),
        (lambda text: f"{text}# hunter2\n", "a comment that is not encrypted"),
        (lambda text: text.replace("unencrypted_suffix: _unencrypted", "unencrypted_suffix: token"), "leaves values"),
        (lambda text: text.replace("unencrypted_suffix: _un", "encrypted_regex: ^token$ #"), "sops.encrypted_regex"),
        (lambda text: re.sub(r"(?m)^    mac: .*$", "    mac: ''", text), "its seal is not whole"),
        (lambda text: text[: text.index("sops:")], f"{OWN}: is not encrypted (.venv/bin/sops encrypt"),
        (lambda text: "server_token: hunter2\n", f"{OWN}: is not encrypted (.venv/bin/sops encrypt"),
        (lambda text: "just text", f"{OWN}: is not encrypted"),
        (lambda text: f"a: [\n{text}", f"{OWN}:"),
    ],
)
def test_what_is_plain_in_a_sealed_file_is_told_with_its_place(
    root: Path, change: Callable[[str], str], said: str
) -> None:
    edit(root, change)
    (first, *_) = told(root)
    assert said in first
    assert first.startswith(f"{OWN}:")
    assert "hunter2" not in "".join(told(root))


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("secrets/more.yaml", "a: hunter2\n", "is not encrypted"),
        ("secrets/prod/more.yml", "a: hunter2\n", "is not encrypted"),
        ("secrets/notes.txt", "hunter2\n", "is not encrypted"),
        ("secrets/.env", "A=hunter2\n", "is not encrypted"),
        ("secrets/cluster.yaml~", "a: hunter2\n", "is not encrypted"),
        ("secrets/mine.txt", "# mine\nAGE-SECRET-KEY-1ABC\n", "secrets/mine.txt:2: holds a PRIVATE key"),
        ("secrets/data.json", '{\n\t"a": "hunter2"\n}\n', "is not encrypted"),
        ("secrets/bin.yaml", "\0\1", "is not encrypted"),
    ],
)
def test_a_plain_file_is_found_wherever_it_lies_and_whatever_it_is(root: Path, path: str, text: str, said: str) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text)
    (problem,) = told(root)
    assert problem.startswith(path)
    assert said in problem
    assert "hunter2" not in problem


def test_files_that_say_that_they_are_public_and_empty_ones_are_left_alone(root: Path) -> None:
    for name in ("README-PUBLIC.md", "key-PUBLIC.txt"):
        (root / "secrets" / name).write_text("everybody may read this\n")
    (root / "secrets/.gitkeep").touch()
    assert told(root) == []


def test_what_git_ignores_is_left_alone_but_not_when_it_was_committed_all_the_same(root: Path) -> None:
    (root / ".gitignore").write_text("keys.txt\n")
    (root / "secrets/keys.txt").write_text("AGE-SECRET-KEY-1ABC\n")
    assert len(told(root)) == 1
    commit(root)
    assert told(root) == []
    subprocess.run(["git", "add", "-f", "secrets/keys.txt"], cwd=root, check=True)
    assert len(told(root)) == 1


def test_a_json_file_of_sops_is_read_as_one(root: Path, me: Person) -> None:
    types = ("--input-type", "binary", "--output-type", "json")
    flags = ("--disable-version-check", "--config", "/dev/null", "encrypt", "--age", me.recipient)
    done = programs.run(programs.sops(), *flags, *types, "/dev/stdin", stdin="[remote]\nkey = x\n")
    (root / "secrets/rclone.conf").write_text(done.output)
    (root / ".sops.yaml").write_text(rules(me, pattern="secrets/.*"))
    assert told(root) == []
    edit(root, lambda text: re.sub(r'"ENC[^"]*"', '"hunter2"', text, count=1), "secrets/rclone.conf")
    (problem,) = told(root)
    assert re.match(r"secrets/rclone\.conf:2:10: data: is not encrypted", problem)


def test_all_that_is_wrong_is_told_at_once(root: Path) -> None:
    edit(root, lambda text: f"# note\nx_unencrypted: 1\nb: plain\n{text}")
    (root / "secrets/notes.txt").write_text("x\n")
    assert len(told(root)) == 4


# --- the check: rules


def test_a_file_that_no_rule_seals_is_told(root: Path) -> None:
    shutil.copy(ROOT / ".sops.yaml", root)
    (problem,) = told(root)
    assert problem.startswith(f"{OWN}: no rule of .sops.yaml seals it (./doit init makes one")


def test_a_file_that_is_sealed_to_others_than_its_rule_says_is_told_both_ways(
    root: Path, me: Person, tmp_path: Path
) -> None:
    other = person(tmp_path, "other")
    (root / ".sops.yaml").write_text(rules(other))
    second, first = told(root)
    assert f"is sealed to {me.recipient}, which .sops.yaml:7 does not name (./doit secrets_rekey)" in first
    assert f"is not sealed to {other.recipient}, which .sops.yaml:7 names (./doit secrets_rekey)" in second


def test_a_file_of_ones_own_that_is_sealed_to_the_demo_key_is_told(root: Path) -> None:
    shutil.copy(root / "secrets/example/cluster.yaml", root / "secrets/other.yaml")
    assert any("is sealed to the demo key" in problem for problem in told(root))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("unencrypted_suffix: _token", "unencrypted_suffix: leaves values plain in the files"),
        ("encrypted_regex: ^data$", "encrypted_regex: leaves values plain in the files"),
    ],
)
def test_a_rule_that_leaves_values_plain_is_told_with_its_place(root: Path, line: str, said: str) -> None:
    edit(root, lambda text: f"{text}    {line}\n", ".sops.yaml")
    (problem,) = told(root)
    assert re.match(rf"\.sops\.yaml:\d+:5: {re.escape(said)}", problem)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("creation_rules: x\n", ".sops.yaml:1:17: is not a list of rules"),
        ("creation_rules:\n  - path_regex: '['\n", "is not a pattern"),
        ("creation_rules: [\n", ".sops.yaml:"),
    ],
)
def test_rules_that_cannot_be_read_are_told_and_the_files_are_looked_at_all_the_same(
    root: Path, text: str, said: str
) -> None:
    (root / ".sops.yaml").write_text(text)
    (root / "secrets/notes.txt").write_text("x\n")
    problems = told(root)
    assert len(problems) == 2
    assert said in problems[0]


def test_rules_with_keys_that_are_not_ages_are_left_to_sops(root: Path) -> None:
    edit(root, lambda text: f"{text}    pgp: 85D77543B3D624B63CEA9E6DBC17301B491B3F21\n", ".sops.yaml")
    assert told(root) == []


def test_a_hundred_files_are_checked_in_less_than_a_second(root: Path) -> None:
    for number in range(100):
        shutil.copy(root / OWN, root / f"secrets/file-{number}.yaml")
    commit(root)
    start = time.process_time()
    assert told(root) == []
    assert time.process_time() - start < 1


# --- rules, edited in place


SHAPES = {
    "one": f"    age: {ALICE}  # me\n",
    "commas": f"    age: {ALICE},{BOB}\n",
    "quotes": f'    age: "{ALICE}, {BOB}"\n',
    "folded": f"    age: >-\n      {ALICE},\n      {BOB}\n\n",
    "folded, one": f"    age: >-\n      {ALICE}\n",
    "list": f'    age:\n      # people\n      - {ALICE}  # alice\n      - "{BOB}"  # bob\n      # nobody\n',
    "list, not indented": f"    age:\n    - {ALICE}\n    - {BOB}\n",
    "brackets": f"    age: [{ALICE}, {BOB}]\n",
    "quoted brackets": f'    age: ["{ALICE}", "{BOB}"]\n',
    "brackets over lines": f"    age: [\n      {ALICE},\n      {BOB}\n    ]\n",
    "one group": f"    key_groups:\n      - age:\n          - {ALICE}\n          - {BOB}\n",
}
HEAD = "# head\ncreation_rules:\n  # first\n  - path_regex: a\n    age: " + CAROL + "\n  # second\n  - path_regex: b\n"
TAIL = "  # third\n  - age: " + ALICE + "\nstores: {yaml: {indent: 2}}\n# tail\n"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_recipient_is_added_to_a_rule_and_everything_else_stays(shape: str) -> None:
    text = HEAD + shape + TAIL
    before = Rules(text)
    new = before.edited(before.rules[1], [CAROL], [])
    assert new.replace(CAROL, "", 2).count(CAROL) == 0
    assert set(re.findall(r"#.*", new)) == set(re.findall(r"#.*", text))
    assert [one.recipients for one in Rules(new).rules] == [
        (CAROL,),
        (*before.rules[1].recipients, CAROL),
        (ALICE,),
    ]
    lines = new.splitlines()
    assert [line for line in lines if line in text.splitlines()] == [
        line for line in text.splitlines() if line in lines
    ]


@pytest.mark.parametrize("gone", [ALICE, BOB])
@pytest.mark.parametrize("shape", [text for text in SHAPES.values() if BOB in text])
def test_a_recipient_is_retired_from_a_rule_and_its_own_comment_goes_with_it(shape: str, gone: str) -> None:
    before = Rules(HEAD + shape + TAIL)
    new = before.edited(before.rules[1], [], [gone])
    (left,) = {ALICE, BOB} - {gone}
    assert [one.recipients for one in Rules(new).rules] == [(CAROL,), (left,), (ALICE,)]
    assert "# people" not in shape or ("# people" in new and "# nobody" in new)
    assert ("# alice" in new) == ("# alice" in shape and gone is BOB)


def test_the_last_recipient_can_be_replaced() -> None:
    before = Rules(HEAD + SHAPES["one"] + TAIL)
    new = before.edited(before.rules[1], [BOB], [ALICE])
    assert f"    age: {BOB}  # me\n" in new


@pytest.mark.parametrize(
    "text",
    [
        f"me: &me {ALICE}\ncreation_rules:\n  - age: *me\n  - age: *me\n",
        f"creation_rules:\n  - key_groups:\n      - age: [{ALICE}]\n      - age: [{BOB}]\n",
        f"creation_rules:\n  - age: {ALICE}\n    pgp: ABC\n",
    ],
)
def test_a_rule_that_cannot_be_edited_in_place_is_told_and_never_damaged(text: str) -> None:
    before = Rules(text)
    with pytest.raises(UserError, match=r"^\.sops\.yaml:\d: i12e cannot edit the recipients of this rule"):
        before.edited(before.rules[0], [CAROL], [ALICE])


recipients = st.lists(st.sampled_from([ALICE, BOB, CAROL, "age1" + "x" * 58]), unique=True)


@given(shape=st.sampled_from(list(SHAPES.values())), add=recipients, remove=recipients)
def test_an_edit_makes_exactly_what_was_asked_for_or_is_refused(shape: str, add: list[str], remove: list[str]) -> None:
    before = Rules(HEAD + shape + TAIL)
    try:
        new = before.edited(before.rules[1], add, remove)
    except UserError:
        return
    wanted = [name for name in before.rules[1].recipients if name not in remove]
    assert Rules(new).rules[1].recipients == (*wanted, *(name for name in add if name not in wanted))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "creation_rules:\n",
        f"creation_rules:\n- path_regex: a\n  age: {ALICE}",
        f"creation_rules:\n  - path_regex: a\n    age: {ALICE}\nstores: {{}}\n",
        (ROOT / ".sops.yaml").read_text(),
    ],
)
def test_a_rule_is_added_behind_the_others(text: str) -> None:
    before = Rules(text)
    new = before.with_rule("secrets/x", [ALICE, BOB], "ours")
    assert [one.recipients for one in Rules(new).rules] == [*(one.recipients for one in before.rules), (ALICE, BOB)]
    assert new.startswith(text.rstrip()[:40])


def test_a_rule_that_cannot_be_added_is_told_to_be_added_by_hand() -> None:
    with pytest.raises(UserError, match="cannot add a rule here") as caught:
        Rules(f"creation_rules: [{{path_regex: a, age: {ALICE}}}]\n").with_rule("secrets/x", [BOB], "ours")
    assert "path_regex: secrets/x" in str(caught.value)


def test_the_hook_before_a_commit_is_the_check_for_all_that_it_is_about() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    hook = text[text.index("id: secrets-check") : text.index("id: ruff-check")]
    assert "entry: ./doit secrets_check\n" in hook
    (pattern,) = re.findall(r"files: (.*)", hook)
    assert all(re.search(pattern, path) for path in ("secrets/a.yaml", "secrets/x/y", ".sops.yaml"))
    assert not re.search(pattern, "hosts/secrets.yaml")

"""Other recipients: every file opens for those who are left and for nobody else, and nothing else changes."""

from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from conftest import ROOT
from i12e import keys, rekey, sealed, workbench
from i12e.build import Build
from i12e.errors import UsageError, UserError
from i12e.paths import Paths
from i12e.secrets import demo_recipients
from killing import killed_at
from people import Person, person, rules, seal

pytestmark = pytest.mark.slow


TEXTS = {
    "secrets/cluster.yaml": "# the tokens\nserver_token: abc\nagent_token: def\n",
    "secrets/backup.yaml": "list: [a, {b: c}]\nnumber: 5\nlong: |\n  one\n  two\n",
    "secrets/prod/cluster.yaml": "server_token: ghi\nagent_token: jkl\n",
}


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Whose checkout it is, and whose key is here."""
    found = person(tmp_path, "alice")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(found.file))
    return found


@pytest.fixture
def bob(tmp_path: Path) -> Person:
    """Who has access too."""
    return person(tmp_path, "bob")


@pytest.fixture
def root(tmp_path: Path, alice: Person, bob: Person) -> Path:
    """A checkout with three files of two environments, sealed to both."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "secrets", checkout / "secrets")
    (checkout / ".sops.yaml").write_text(rules(alice, bob))
    for path, text in TEXTS.items():
        seal(checkout, path, text, alice, bob)
    (checkout / "hosts").mkdir()
    (checkout / "hosts/cluster.yaml").write_text("name: x\n")
    return checkout


def run(root: Path, env: str = "", **options: str) -> Build:
    """Given a checkout and options, run the task's action as I12E_ENV has it; return the build with what it told."""
    build = Build(Paths(root, env or "default"))
    environ = {"I12E_ENV": env} if env else {}
    rekey.rekey(build, options.get("add", ""), options.get("retire", ""), environ)
    return build


def refused(root: Path, env: str = "", **options: str) -> str:
    """Given a checkout and options, return what is said when they are refused; nothing has changed then."""
    before = content(root)
    with pytest.raises(UserError) as caught:
        run(root, env, **options)
    assert content(root) == before
    return str(caught.value)


def content(root: Path) -> dict[str, bytes]:
    """Given a checkout, return the content of every file but the outputs."""
    files = [path for path in root.rglob("*") if path.is_file() and "build" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def values(root: Path, path: str) -> list[str]:
    """Given a file, return its sealed values, each of which changes with the data key."""
    return re.findall(r"data:([^,]*),", (root / path).read_text().partition("sops:")[0])


def test_who_is_retired_opens_no_file_any_more_and_who_is_left_every_one_with_the_same_values(
    root: Path, alice: Person, bob: Person
) -> None:
    before, texts = content(root), {path: alice.opens(root / path) for path in TEXTS}
    old = {path: values(root, path) for path in TEXTS}
    build = run(root, retire=bob.recipient)
    assert {path: alice.opens(root / path) for path in TEXTS} == texts
    assert [path for path in TEXTS if bob.opens(root / path) is not None] == []
    assert [path for path in TEXTS if set(values(root, path)) & set(old[path])] == []
    after = content(root)
    assert {path for path in before if before[path] != after.pop(path)} == {*TEXTS, ".sops.yaml"}
    assert after == {}
    sealed.check(root)
    assert any("still knows the values as they were" in note and "history still" in note for note in build.notes)
    assert any(bob.recipient in note for note in build.notes)


def test_the_old_data_key_opens_nothing_of_the_new_files(root: Path, alice: Person, bob: Person) -> None:
    """A seal that was kept from before, put onto the new file, does not open it."""
    path = root / "secrets/cluster.yaml"
    old_seal = path.read_text().partition("sops:")[2]
    run(root, retire=bob.recipient)
    path.write_text(path.read_text().partition("sops:")[0] + "sops:" + old_seal)
    assert bob.opens(path) is None


def test_who_is_added_opens_every_file_and_the_values_are_not_sealed_anew(
    root: Path, alice: Person, bob: Person, tmp_path: Path
) -> None:
    carol = person(tmp_path, "carol")
    texts, old = {path: alice.opens(root / path) for path in TEXTS}, {path: values(root, path) for path in TEXTS}
    build = run(root, add=carol.recipient)
    assert {path: carol.opens(root / path) for path in TEXTS} == texts
    assert {path: bob.opens(root / path) for path in TEXTS} == texts
    assert {path: values(root, path) for path in TEXTS} == old
    assert not any("still knows" in note for note in build.notes)
    sealed.check(root)


def test_one_is_replaced_by_another_in_one_go(root: Path, alice: Person, bob: Person, tmp_path: Path) -> None:
    carol = person(tmp_path, "carol")
    build = run(root, add=carol.recipient, retire=bob.recipient)
    assert all(carol.opens(root / path) and not bob.opens(root / path) for path in TEXTS)
    assert [(step.verb, step.what) for step in build.told] == [
        ("RULES", ".sops.yaml"),
        *(("SEAL", path) for path in sorted(TEXTS)),
    ]
    assert all(f"+ {carol.recipient}, - {bob.recipient}" in step.remark for step in build.told[1:])


def test_again_nothing_is_done(root: Path, bob: Person) -> None:
    run(root, retire=bob.recipient)
    before = content(root)
    assert run(root).told == []
    assert content(root) == before


def test_what_was_written_into_the_rules_by_hand_is_carried_out(root: Path, alice: Person, bob: Person) -> None:
    (root / ".sops.yaml").write_text(rules(alice))
    run(root)
    assert all(alice.opens(root / path) and not bob.opens(root / path) for path in TEXTS)


def test_the_rules_keep_their_comments_and_the_examples_rule(root: Path, bob: Person) -> None:
    run(root, retire=bob.recipient)
    text = (root / ".sops.yaml").read_text()
    assert text.startswith((ROOT / ".sops.yaml").read_text())
    assert "  # ours\n" in text


def test_modes_stay_as_they_are(root: Path, bob: Person) -> None:
    (root / "secrets/cluster.yaml").chmod(0o640)
    run(root, retire=bob.recipient)
    assert (root / "secrets/cluster.yaml").stat().st_mode & 0o777 == 0o640


# --- environments


def test_an_environment_can_be_given_people_of_its_own_by_a_rule_of_its_own(
    root: Path, alice: Person, bob: Person
) -> None:
    own = f"  - path_regex: secrets/prod/.*\n    age: {alice.recipient},{bob.recipient}\n"
    (root / ".sops.yaml").write_text(rules(alice, bob, before=own))
    run(root, "prod", retire=bob.recipient)
    opened = {path: bob.opens(root / path) is not None for path in TEXTS}
    assert opened == {"secrets/cluster.yaml": True, "secrets/backup.yaml": True, "secrets/prod/cluster.yaml": False}


def test_a_rule_that_seals_other_environments_too_is_not_edited_for_one(root: Path, bob: Person) -> None:
    said = refused(root, "prod", retire=bob.recipient)
    assert ".sops.yaml:7: this rule seals also secrets/backup.yaml (write a rule of its own above" in said


def test_the_users_own_environment_alone_is_its_files_at_the_top(root: Path, alice: Person, bob: Person) -> None:
    (root / ".sops.yaml").write_text(rules(alice))
    run(root, "default")
    assert bob.opens(root / "secrets/prod/cluster.yaml")
    assert not bob.opens(root / "secrets/cluster.yaml")


def test_the_examples_files_are_never_touched(root: Path, bob: Person) -> None:
    assert "stay sealed to the demo key" in refused(root, "example")
    before = (root / "secrets/example/cluster.yaml").read_bytes()
    run(root, retire=bob.recipient)
    assert (root / "secrets/example/cluster.yaml").read_bytes() == before


# --- what is refused, and then nothing has changed


def test_nobody_locks_themselves_out(root: Path, alice: Person) -> None:
    said = refused(root, retire=alice.recipient)
    assert said.count("would be closed to you: none of your keys here is one of the new recipients") == len(TEXTS)


def test_who_has_a_second_key_here_may_retire_the_first(
    root: Path, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOPS_AGE_KEY", bob.file.read_text())
    run(root, retire=alice.recipient)
    assert all(bob.opens(root / path) and not alice.opens(root / path) for path in TEXTS)


def test_who_has_no_access_cannot_give_any(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mallory = person(tmp_path, "mallory")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(mallory.file))
    assert refused(root, add=mallory.recipient).count("no age key here opens it") == len(TEXTS)


def test_a_rule_is_not_left_without_anybody(root: Path, alice: Person, bob: Person) -> None:
    said = refused(root, retire=f"{alice.recipient},{bob.recipient}")
    assert ".sops.yaml:7: would be left without any recipient" in said


def test_options_that_make_no_sense_are_usage_all_told_at_once_and_show_no_private_key(
    root: Path, alice: Person
) -> None:
    private = keys.make().private.reveal()
    (demo,) = demo_recipients(root)
    before = content(root)
    with pytest.raises(UsageError) as caught:
        run(root, add=f"age1x,{private},{alice.recipient},{demo}", retire=f"{alice.recipient},{private},nobody")
    said = str(caught.value)
    assert content(root) == before
    for text in (
        '--add "age1x": is not an age public key',
        "--add: is a PRIVATE key",
        "--retire: is a PRIVATE key",
        '--retire "nobody": is not an age public key',
        f"{alice.recipient}: is both to be added and to be retired",
        f"--add {demo}: is the demo key",
    ):
        assert text in said
    assert private not in said


def test_retiring_somebody_who_has_no_access_changes_nothing_and_is_told(root: Path, tmp_path: Path) -> None:
    before, nobody = content(root), person(tmp_path, "nobody")
    build = run(root, retire=nobody.recipient)
    assert content(root) == before
    assert f"{nobody.recipient}: no rule and no file names it, so it cannot be retired" in build.notes


def test_a_misspelt_public_key_is_retired_from_nothing_and_refused(root: Path, bob: Person) -> None:
    wrong = bob.recipient[:-1] + ("q" if bob.recipient[-1] != "q" else "p")
    assert f'--retire "{wrong}": is not an age public key' in refused(root, retire=wrong)


def test_a_file_that_is_plain_or_damaged_stops_everything(root: Path, bob: Person) -> None:
    (root / "secrets/plain.yaml").write_text("a: b\n")
    text = (root / "secrets/backup.yaml").read_text()
    (root / "secrets/backup.yaml").write_text(text.replace("data:", "data:AA", 1))
    said = refused(root, retire=bob.recipient)
    assert "secrets/plain.yaml: is not encrypted" in said
    assert "secrets/backup.yaml: is damaged" in said


def test_a_file_without_a_rule_stops_everything(root: Path, alice: Person, bob: Person) -> None:
    (root / ".sops.yaml").write_text(rules(alice, bob, pattern=r"secrets/[^/]+\.yaml$"))
    assert "secrets/prod/cluster.yaml: no rule of .sops.yaml seals it" in refused(root, retire=bob.recipient)


def test_a_rule_that_names_the_demo_key_is_refused(root: Path, alice: Person) -> None:
    (demo,) = demo_recipients(root)
    path = root / ".sops.yaml"
    path.write_text(path.read_text().replace(alice.recipient, f"{alice.recipient},\n      {demo}"))
    assert "its rule names the demo key" in refused(root)


def test_a_checkout_without_secrets_of_ones_own_says_so(root: Path) -> None:
    for path in TEXTS:
        (root / path).unlink()
    assert "no secret file of yours (./doit init makes one)" in refused(root)


# --- killed


@pytest.mark.slow
def test_a_change_that_is_killed_anywhere_leaves_whole_files_and_the_next_one_completes_it(
    root: Path, alice: Person, bob: Person, tmp_path: Path
) -> None:
    for path in ("secrets/backup.yaml", "secrets/prod/cluster.yaml"):
        (root / path).unlink()
    point, step = 1, 1 if os.environ.get("I12E_SWEEP") == "full" else 5
    while True:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        if not killed_at(point, partial(run, copy, retire=bob.recipient), str(copy)):
            break
        file = copy / "secrets/cluster.yaml"
        assert alice.opens(file), f"after a kill at {point}"
        run(copy, retire=bob.recipient)
        assert alice.opens(file)
        assert bob.opens(file) is None
        assert [path for path in copy.rglob("*") if path.suffix == ".new" or "workbench-" in path.name] == []
        sealed.check(copy)
        point += step
    assert point > 5


def test_a_run_that_was_killed_between_the_rules_and_the_files_is_completed_without_options(
    root: Path, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = workbench.put, list[Path]()

    def put(path: Path, text: bytes, mode: int = 0o600) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        real(path, text, mode)

    monkeypatch.setattr(workbench, "put", put)
    with pytest.raises(KeyboardInterrupt):
        run(root, retire=bob.recipient)
    monkeypatch.setattr(workbench, "put", real)
    assert sum(bob.opens(root / path) is not None for path in TEXTS) == 2
    run(root)
    assert [path for path in TEXTS if bob.opens(root / path) is not None or alice.opens(root / path) is None] == []

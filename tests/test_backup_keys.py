"""The keys of backups: where they are, what no backup is sealed to, and cluster.yaml with one more recipient."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, Project
from i12e import age, backup_keys, keys, newkey, yamlfile
from i12e.build import Build
from i12e.errors import UsageError, UserError
from i12e.fields import EXAMPLE_RECIPIENT
from i12e.model import Cluster, load_fleet
from i12e.paths import DEFAULT, LAB, Paths
from i12e.secrets import Secret, demo_recipients
from killing import killed_at
from sweeps import sampled
from terminal import Typed
from test_model import CLUSTER, SERVER

HOME = {"HOME": "/home/me"}
HERE = Paths(Path("/checkout"), DEFAULT)
LABS = Paths(Path("/checkout"), LAB)
OTHER = "age1" + "q" * 58


@pytest.mark.parametrize(
    ("paths", "environ", "platform", "file"),
    [
        (HERE, HOME, "linux", "/home/me/.config/i12e/backup-keys/mine.txt"),
        (HERE, HOME, "darwin", "/home/me/Library/Application Support/i12e/backup-keys/mine.txt"),
        (HERE, {**HOME, "XDG_CONFIG_HOME": "/xdg"}, "darwin", "/xdg/i12e/backup-keys/mine.txt"),
        (HERE, {**HOME, "XDG_CONFIG_HOME": ""}, "linux", "/home/me/.config/i12e/backup-keys/mine.txt"),
        (HERE, {**HOME, "I12E_BACKUP_KEY_FILE": "/there/key"}, "linux", "/there/key"),
        (LABS, HOME, "linux", "/checkout/build/lab/machines/backup-key.txt"),
        (LABS, {**HOME, "I12E_BACKUP_KEY_FILE": "/there/key"}, "linux", "/checkout/build/lab/machines/backup-key.txt"),
    ],
)
def test_the_private_keys_are_on_the_operators_side(
    paths: Paths, environ: dict[str, str], platform: str, file: str
) -> None:
    assert backup_keys.key_file(paths, "mine", environ, platform) == Path(file)


@pytest.mark.parametrize(
    ("paths", "environ", "platform", "folder"),
    [
        (HERE, HOME, "linux", "/home/me/.local/share/i12e/backups"),
        (HERE, HOME, "darwin", "/home/me/Library/Application Support/i12e/backups"),
        (HERE, {**HOME, "XDG_DATA_HOME": "/data"}, "linux", "/data/i12e/backups"),
        (LABS, {**HOME, "XDG_DATA_HOME": "/data"}, "linux", "/checkout/build/lab/backups"),
    ],
)
def test_where_nobody_says_backups_go_to_a_folder_of_the_users(
    paths: Paths, environ: dict[str, str], platform: str, folder: str
) -> None:
    store = backup_keys.default_store(paths, environ, platform)
    assert (store.name, store.folder, store.kind) == ("local", folder, "folder")


def test_a_folder_of_the_home_folder_is_told_whole_and_other_stores_as_they_are(tmp_path: Path) -> None:
    text = "backup: {stores: [{name: a, folder: ~/x/y}, {name: b, folder: /z}, {name: c, rclone: 'b2:~/x'}]}\n"
    cluster = model(CLUSTER + text)
    found = backup_keys.stores(HERE, cluster, HOME)
    assert [store.folder or store.rclone for store in found] == ["/home/me/x/y", "/z", "b2:~/x"]
    assert [store.name for store in backup_keys.stores(HERE, model(CLUSTER), HOME)] == ["local"]


def model(text: str) -> Cluster:
    """Given the text of a cluster's file, return its model."""
    files = {"hosts/cluster.yaml": text, "hosts/server-1.yaml": SERVER}
    fleet = load_fleet("hosts", DEFAULT, ["server-1"], lambda path: files[path].encode())
    assert fleet.problems == []
    assert fleet.cluster
    return fleet.cluster


# --- the private keys


def test_a_key_is_saved_private_opens_what_is_sealed_to_it_and_is_never_overwritten(tmp_path: Path) -> None:
    pair, file = keys.make(), tmp_path / "a/b/key.txt"
    assert backup_keys.save(pair, file, "mine")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    environ = {"I12E_BACKUP_KEY_FILE": str(file)}
    found = backup_keys.private(HERE, "mine", environ)
    assert age.open_small(age.seal_small(b"x", [pair.recipient]), found) == b"x"
    assert backup_keys.recipients_of(file) == [pair.recipient]
    before = file.read_bytes()
    assert not backup_keys.save(keys.make(), file, "mine")
    assert file.read_bytes() == before


def test_all_keys_of_a_file_open_backups_since_recipients_change(tmp_path: Path) -> None:
    pairs, file = [keys.make(), keys.make()], tmp_path / "keys"
    file.write_text("# old and new\n" + "\n".join(f"  {pair.private.reveal()} " for pair in pairs) + "\n")
    assert backup_keys.recipients_of(file) == [pair.recipient for pair in pairs]
    assert len(backup_keys.private(HERE, "mine", {"I12E_BACKUP_KEY_FILE": str(file)})) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"is missing: it holds the key that opens the backups of mine \(bring it from where you keep a copy"),
        ("", r"holds no private key of age's"),
        ("age-encryption.org/v1\n-> scrypt x\n", r"one that a passphrase locks is opened by age -d"),
        ("AGE-SECRET-KEY-1QQQQ\n", r"holds no private key of age's"),
    ],
)
def test_a_key_that_is_not_here_is_told_with_what_to_do_and_never_shown(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        backup_keys.private(HERE, "mine", {"I12E_BACKUP_KEY_FILE": str(file)})
    assert str(caught.value).startswith(f"{file}: ")
    assert "SECRET-KEY-1Q" not in str(caught.value)


# --- what no backup is sealed to


@pytest.fixture
def mine(small: Project) -> Paths:
    """The environment of a cluster of one's own."""
    (small.root / "hosts/mine").mkdir()
    small.write("hosts/mine/cluster.yaml", CLUSTER.replace("name: test", "name: mine"))
    small.write("hosts/mine/server-1.yaml", SERVER)
    (small.root / ".sops.yaml").write_bytes((ROOT / ".sops.yaml").read_bytes())
    return Paths(small.root, "mine")


def sealed_to(paths: Paths, *recipients: str) -> str:
    """Given public keys, check a cluster that has them as recipients; return what is said."""
    text = CLUSTER + "backup:\n  recipients:\n" + "".join(f"    - {name}\n" for name in recipients)
    (paths.root / paths.cluster_file).write_text(text)
    try:
        backup_keys.check(paths, model(text))
    except UserError as error:
        return str(error)
    return ""


def test_a_key_of_its_own_is_taken(mine: Paths) -> None:
    assert sealed_to(mine, keys.make().recipient, keys.make().recipient) == ""


def test_a_cluster_without_a_recipient_cannot_be_backed_up(mine: Paths) -> None:
    with pytest.raises(UserError, match=r"hosts/mine/cluster.yaml:1:1: backup.recipients: is missing: nobody could"):
        backup_keys.check(mine, model(CLUSTER))


def test_the_demo_key_and_the_docs_example_are_refused_each_at_its_place(mine: Paths) -> None:
    (demo,) = demo_recipients(mine.root)
    own = keys.make().recipient
    first, second = sealed_to(mine, EXAMPLE_RECIPIENT, own, demo).splitlines()[:2]
    assert first.startswith(
        f'hosts/mine/cluster.yaml:9:7: backup.recipients: "{EXAMPLE_RECIPIENT}" is the docs\' example'
    )
    assert second.startswith(f'hosts/mine/cluster.yaml:11:7: backup.recipients: "{demo}" ')


def test_the_demo_key_does_for_an_example(project: Project) -> None:
    (demo,) = demo_recipients(project.root)
    assert list(backup_keys.faults(Paths(project.root, "example"), demo)) == []
    assert [rule for rule, _ in backup_keys.faults(Paths(project.root, "mine"), demo)] == [
        "is the demo key, which everybody has"
    ]


def test_a_key_of_the_rules_and_one_that_a_secret_file_is_sealed_to_are_refused(mine: Paths) -> None:
    ruled, used = keys.make().recipient, keys.make().recipient
    rules = f"creation_rules:\n  - path_regex: secrets/x\n    age: {ruled}\n"
    (mine.root / ".sops.yaml").write_text(rules)
    folder = mine.root / mine.secrets
    folder.mkdir(parents=True)
    (folder / "cluster.yaml").write_text(f"a: ENC[x]\nsops:\n    age:\n        - recipient: {used}\n          enc: x\n")
    told = sealed_to(mine, ruled, used).splitlines()
    assert "opens the repo's secrets too (.sops.yaml:2) (a key for backups alone: " in told[0]
    assert "opens the repo's secrets too (secrets/mine/cluster.yaml)" in told[1]


# --- cluster.yaml with one more recipient

ONE = "age1vzan8lmrydhvx2qdh537kvfcshc6p7tl5h6en2r7f8j0kf06pswq09w4g9"
TWO = "age1gekzuz60u2sjftynvudveksjv8x749ne9p5stqan67qjagqgsaes3rekcl"
SECTIONS = [
    *("", "backup:\n", "backup: # nothing yet\n", "backup: {}\n", "backup: {every: 6h} # flow\n"),
    *("backup:\n  every: 6h # often\n", "backup:\n    # deep\n    every: 6h\n    fresh: 1h\n"),
    *("backup:\n  recipients:\n  every: 6h\n", "backup:\n  recipients: []\n", "backup: {recipients: [ ]}\n"),
    *(f"backup:\n  recipients: {ONE} # mine\n", f"backup:\n  recipients: [{ONE}] # mine\n  every: 6h\n"),
    *(f"backup:\n  recipients:\n  - {ONE} # mine\n  # more?\n\nkeep: []\n", f"backup: {{recipients: {ONE}}}\n"),
    *(f"backup:\n  every: 6h\n  recipients:\n    - '{ONE}'", f"backup:\n  recipients: [\n    {ONE},\n  ]\n"),
    f"backup:\n  recipients:\n    -   {ONE}\n    -   {OTHER}\n",
]


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_recipient_is_added_and_every_line_and_comment_stays(section: str, ends: str) -> None:
    text = (CLUSTER + section).replace("\n", ends)
    edited = backup_keys.with_recipient(text, TWO)
    assert edited is not None
    before, after = (yamlfile.examine(one.encode(), "").data for one in (text, edited))
    old = (before.get("backup") or {}).get("recipients") or []
    assert after["backup"]["recipients"] == [*([old] if isinstance(old, str) else old), TWO]
    assert {**after, "backup": {**after["backup"], "recipients": 0}} == {
        **before,
        "backup": {**(before.get("backup") or {}), "recipients": 0},
    }
    assert re.findall(r"#.*", edited)[-section.count("#") :] == re.findall(r"#.*", text) or not section.count("#")
    left = edited
    for line in filter(str.strip, text.splitlines()):
        stays = line.split("{")[0].split("[")[0].partition(ONE)[0].rstrip()
        assert stays in left, line
        left = left[left.index(stays) + len(stays) :]


@pytest.mark.parametrize(
    "section",
    ["backup: ~\n", "backup: 6h\n", "backup:\n  recipients: ~\n", "backup: &a\n  recipients: {x: y}\n", "x: [\n"],
)
def test_what_cannot_be_edited_safely_is_left_alone(section: str) -> None:
    assert backup_keys.with_recipient(CLUSTER + section, TWO) is None


VALUES = ("6h", "[a, b]", "{a: [b]}", "", "|\n   x", "&x [a]", "*x", "'recipients: ['")


@settings(max_examples=sampled(150), deadline=None)
@given(
    st.dictionaries(st.sampled_from(["every", "recipients", "fresh", "zz"]), st.sampled_from(VALUES)),
    st.sampled_from(["backup:\n", "'backup':\n", "backup:   # [\n"]),
    st.sampled_from(["", "keep: []\n", "# the end: [\n", "...\n"]),
)
def test_an_edit_says_what_the_file_said_and_the_recipient_or_it_is_none(
    parts: dict[str, str], head: str, tail: str
) -> None:
    text = f"name: x\n{head}" + "".join(f"  {key}: {value}\n" for key, value in parts.items()) + tail
    edited = backup_keys.with_recipient(text, TWO)
    if edited is not None:
        before, after = (yamlfile.examine(one.encode(), "").data for one in (text, edited))
        assert after["backup"].pop("recipients")[-1] == TWO
        (before.get("backup") or {}).pop("recipients", None)
        assert after == before | {"backup": before.get("backup") or {}}


# --- ./doit backup_keys


def run(paths: Paths) -> Build:
    """Given an environment, run the task's action without a terminal; return the build with what it told."""
    build = Build(paths)
    newkey.make(build, paper=False)
    return build


def named(paths: Paths) -> list[str]:
    data = yamlfile.examine((paths.root / paths.cluster_file).read_bytes(), "").data
    return list(data["backup"]["recipients"])


def test_a_key_is_made_once_named_and_not_in_the_repo(mine: Paths) -> None:
    first = run(mine)
    file = Path.home() / ".config/i12e/backup-keys/mine.txt"
    (recipient,) = backup_keys.recipients_of(file)
    assert named(mine) == [recipient]
    assert [step.result for step in first.told] == ["done", "done"]
    assert any("keep a copy of ~/.config/i12e/backup-keys/mine.txt in a safe place" in note for note in first.notes)
    before = (file.read_bytes(), (mine.root / mine.cluster_file).read_bytes())
    assert [step.result for step in run(mine).told] == ["kept", "kept"]
    assert (file.read_bytes(), (mine.root / mine.cluster_file).read_bytes()) == before
    (private,) = re.findall(r"AGE-SECRET-KEY-1\S+", file.read_text())
    holding = [path for path in mine.root.rglob("*") if path.is_file() and private.encode() in path.read_bytes()]
    assert holding == []
    assert private not in f"{first.told} {first.notes}"


def test_a_run_that_was_killed_behind_the_key_is_completed_with_that_key(mine: Paths) -> None:
    pair = keys.make()
    backup_keys.save(pair, backup_keys.key_file(mine, "mine", os.environ), "mine")
    run(mine)
    assert named(mine) == [pair.recipient]


def test_a_file_that_cannot_be_edited_is_left_with_what_to_add(mine: Paths) -> None:
    place = mine.root / mine.cluster_file
    place.write_text(place.read_text() + "backup: ~\n")
    before = place.read_bytes()
    with pytest.raises(UserError, match=r"cluster.yaml:7:1: i12e cannot add .* \(add it yourself: backup: .*age1"):
        run(mine)
    assert place.read_bytes() == before


def test_a_key_in_the_checkout_or_of_the_example_is_refused(mine: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I12E_BACKUP_KEY_FILE", str(mine.root / "keys/backup.txt"))
    with pytest.raises(UsageError, match="names a file of this checkout, which could be committed"):
        run(mine)
    assert not (mine.root / "keys").exists()
    with pytest.raises(UserError, match="is i12e's own example"):
        run(Paths(mine.root, "example"))


def test_the_sops_key_is_not_made_the_backups_key_too(mine: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = keys.make()
    keys.save(pair, keys.key_file(os.environ))
    (mine.root / ".sops.yaml").write_text(f"creation_rules:\n  - path_regex: x\n    age: {pair.recipient}\n")
    monkeypatch.setenv("I12E_BACKUP_KEY_FILE", str(keys.key_file(os.environ)))
    before = (mine.root / mine.cluster_file).read_bytes()
    with pytest.raises(UserError, match=r"opens the repo's secrets too \(.sops.yaml:2\)"):
        run(mine)
    assert (mine.root / mine.cluster_file).read_bytes() == before


def test_a_key_that_others_may_read_is_warned_of(mine: Paths) -> None:
    run(mine)
    file = backup_keys.key_file(mine, "mine", os.environ)
    file.chmod(0o644)
    assert any("others may read ~/.config/i12e/backup-keys/mine.txt" in note for note in run(mine).notes)


def test_a_key_on_paper_needs_a_terminal_and_makes_nothing_without(
    mine: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    before = (mine.root / mine.cluster_file).read_bytes()
    with pytest.raises(UsageError, match="--paper: a new key is shown on a terminal only"):
        newkey.make(Build(mine), paper=True)
    assert (mine.root / mine.cluster_file).read_bytes() == before
    assert not backup_keys.key_file(mine, "mine", os.environ).exists()


@pytest.mark.slow
def test_a_key_on_paper_is_shown_once_named_and_nowhere_else(mine: Paths) -> None:
    shutil.copy(ROOT / "dodo.py", mine.root)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "I12E_ENV": "mine"}
    run_ = Typed([sys.executable, "-m", "i12e", "backup_keys", "--paper"], mine.root, environ)
    shown = run_.expect("from your paper:")
    (private,) = re.findall(r"AGE-SECRET-KEY-1[0-9A-Z]+", shown)
    assert "point I12E_BACKUP_KEY_FILE at that" in shown
    assert "recipients" not in (mine.root / mine.cluster_file).read_text()
    run_.type(private[-6:])
    assert run_.end() == 0, run_.text
    assert named(mine) == [age.recipient_of(Secret(private))]
    holding = [path for place in (mine.root, Path.home()) for path in place.rglob("*") if path.is_file()]
    assert [path for path in holding if private.encode() in path.read_bytes()] == []
    run(mine)  # and one in a file beside it
    assert len(named(mine)) == 2


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_is_completed_by_the_next_one(mine: Paths, tmp_path: Path) -> None:
    killed = 0
    for point in range(1, 200):
        copy = Paths(tmp_path / "copy" / "checkout", mine.env)
        shutil.rmtree(copy.root, ignore_errors=True)
        shutil.rmtree(Path.home() / ".config", ignore_errors=True)
        shutil.copytree(mine.root, copy.root)
        if not killed_at(point, partial(run, copy), str(copy.root.parent), str(Path.home())):
            break
        killed += 1
        file = backup_keys.key_file(copy, "mine", os.environ)
        before = backup_keys.recipients_of(file)
        run(copy)
        assert before in ([], backup_keys.recipients_of(file))
        assert named(copy) == backup_keys.recipients_of(file)
        left = [path for place in (copy.root, Path.home()) for path in place.rglob("*.new")]
        assert left == []
    assert killed > 3

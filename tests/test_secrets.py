"""Secrets: real sops files, opened once, told exactly when they cannot be, and never shown."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import re
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from i12e import programs, secrets
from i12e.errors import UserError
from i12e.files import Files
from i12e.paths import Paths
from i12e.secrets import (
    DEMO_HASHES,
    DEMO_KEY,
    Group,
    MaskedError,
    Secret,
    Vault,
    demo_values,
    fingerprint,
    flat,
    no_masks,
)

VALUE = "planted-pässwörd-4711"
RECIPIENT = re.search(r"age1[0-9a-z]+", (ROOT / DEMO_KEY).read_text())[0]  # type: ignore[index]  # it is there
CLUSTER = "secrets/example/cluster.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with the demo key and the example's secrets."""
    shutil.copytree(ROOT / "secrets", tmp_path / "secrets")
    return tmp_path


def vault(root: Path, env: str = "example") -> Vault:
    """Given a checkout, return what a run opens its secrets with."""
    return Vault(Paths(root, env), Files(root))


def seal(root: Path, name: str, text: str) -> Path:
    """Given a checkout, a name and a text, seal the text to the demo key with the real sops."""
    plain = root / "plain.yaml"
    plain.write_text(text, encoding="utf-8")
    to = ("--config", "/dev/null", "encrypt", "--age", RECIPIENT)
    done = programs.run(programs.sops(), "--disable-version-check", *to, str(plain))
    assert done.status == 0, done.complaint
    path = root / f"secrets/example/{name}.yaml"
    path.write_text(done.output)
    return path


def complaint(root: Path, name: str = "cluster", env: str = "example") -> str:
    """Given a checkout and a secret file that cannot be opened, return what is said."""
    with pytest.raises(UserError) as caught:
        vault(root, env).group(name)
    return str(caught.value)


# --- what a file gives


def test_a_sops_file_gives_its_values_in_their_places(root: Path) -> None:
    seal(
        root,
        "own",
        f'text: {VALUE}\nnumber: 5\nyes: true\nempty: ""\nnothing:\nlist: [a, {{b: c}}]\nmap: {{deep: {{er: x}}}}\n',
    )
    own = vault(root).group("own")
    assert own.text.reveal() == own["text"].reveal() == VALUE
    assert (own.number.reveal(), own.yes.reveal(), own.empty.reveal()) == ("5", "true", "")
    assert own.nothing is None
    assert (own.list[0].reveal(), own.list[1].b.reveal(), own.map.deep.er.reveal()) == ("a", "c", "x")
    places = [place for place, _ in flat(own)]
    assert places == ["text", "number", "yes", "empty", "list.0", "list.1.b", "map.deep.er"]


def test_a_value_of_many_lines_and_of_every_kind_of_character_arrives_as_it_is(root: Path) -> None:
    nasty = "line 1\n  line 2\ttab 'quotes\" \\ backslash ä → 😀 \n\n"
    seal(root, "own", json.dumps({"nasty": nasty}, ensure_ascii=False))
    assert vault(root).group("own").nasty.reveal() == nasty


def test_a_key_that_is_not_there_is_an_error_that_names_the_place_and_no_value(root: Path) -> None:
    group = vault(root).group("cluster")
    with pytest.raises(AttributeError, match=r"^cluster has no tokn$"):
        _ = group.tokn
    with pytest.raises(KeyError):
        group["tokn"]


def test_each_file_is_opened_once_a_run_and_only_when_it_is_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = seal(root, "other", "a: b\n")
    opened: list[str] = []
    run = programs.run

    def counted(program: str, *arguments: str, **more: Any) -> programs.Done:
        if "decrypt" in arguments:
            opened.append(next(path.stem for path in sealed.parent.glob("*.yaml") if path.read_text() == more["stdin"]))
        return run(program, *arguments, **more)

    monkeypatch.setattr(programs, "run", counted)
    one = vault(root)
    assert opened == []
    for _ in range(3):
        assert one.group("cluster").server_token.reveal()
    assert opened == ["cluster"]
    assert one.problems() == []
    assert sorted(opened) == ["cluster", "other", "pushover"]


def test_a_file_that_cannot_be_opened_is_tried_once_and_told_each_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / DEMO_KEY).unlink()
    one = vault(root)
    with pytest.raises(UserError):
        one.group("cluster")
    monkeypatch.setattr(programs, "run", lambda *arguments, **more: pytest.fail("opened again"))
    with pytest.raises(UserError, match="no age key here opens it"):
        one.group("cluster")


def test_a_file_that_is_read_is_recorded_as_an_input_each_time_also_in_vain(root: Path) -> None:
    files = Files(root)
    one = Vault(Paths(root, "example"), files)
    for _ in range(2):
        with files.recording() as seen:
            one.group("cluster")
        assert CLUSTER in seen
        with files.recording() as seen, pytest.raises(UserError):
            one.group("missing")
        assert "secrets/example/missing.yaml" in seen


def test_all_files_are_tried_and_every_problem_is_told(root: Path) -> None:
    seal(root, "good", "a: b\n")
    (root / "secrets/example/plain.yaml").write_text("a: b\n")
    path = root / CLUSTER
    path.write_text(re.sub(r"(?m)^agent_token: .*\n", "", path.read_text()))
    assert [problem.file for problem in vault(root).problems()] == [CLUSTER, "secrets/example/plain.yaml"]


def test_no_value_is_in_the_arguments_or_in_the_environment_of_sops(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(root, "own", f"a: {VALUE}\n")
    given: list[str] = []
    run = programs.run

    def looked(program: str, *arguments: str, **more: Any) -> programs.Done:
        given.extend([program, *arguments, *map(str, (more.get("environ") or {}).items())])
        return run(program, *arguments, **more)

    monkeypatch.setattr(programs, "run", looked)
    assert vault(root).group("own").a.reveal() == VALUE
    assert not any(VALUE in word or ("AGE-SECRET-KEY" in word and "SOPS_AGE_KEY" not in word) for word in given)
    arguments = [word for word in given if not word.startswith("(")]
    assert not any("AGE-SECRET-KEY" in word for word in arguments)


# --- which key


def test_the_users_own_key_opens_files_of_other_environments_and_the_demo_key_does_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "secrets/example", root / "secrets/prod")
    told = complaint(root, env="prod")
    assert told == (
        f"secrets/prod/cluster.yaml: no age key here opens it: it is sealed to {RECIPIENT} "
        "(put that key where sops looks: SOPS_AGE_KEY_FILE, or ~/.config/sops/age/keys.txt)"
    )
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(root / DEMO_KEY))
    assert "is the example's value" in complaint(root, env="prod")  # it was opened, and read


def test_a_key_where_sops_looks_by_itself_is_found(root: Path) -> None:
    shutil.copytree(root / "secrets/example", root / "secrets/prod")
    keys = Path(os.environ["XDG_CONFIG_HOME"]) / "sops/age/keys.txt"
    keys.parent.mkdir(parents=True)
    shutil.copy(root / DEMO_KEY, keys)
    assert "is the example's value" in complaint(root, env="prod")


def test_what_everybody_has_is_refused_for_every_cluster_but_the_examples(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "secrets/example", root / "secrets/prod")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(root / DEMO_KEY))
    told = complaint(root, env="prod")
    assert "secrets/prod/cluster.yaml: is sealed to the demo key, which everybody has" in told
    for name in ("server_token", "agent_token"):
        assert (
            f"{name} is the example's value, which everybody has (make one of your own: openssl rand -hex 32)" in told
        )
    assert vault(root, "example").group("cluster").server_token.reveal()


def test_the_demo_key_stands_beside_the_users_own_keys_for_every_example(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "AGE-SECRET-KEY-1LRGRFMCKPN4NAH4EK76NEZ7T0Y65LTTR2HGUKE4HMKEYEAPWDESQLJGSDV"
    monkeypatch.setattr(os, "environ", {**os.environ, "SOPS_AGE_KEY": other})
    key = secrets.sops_environ(Paths(root, "example-fcos"))["SOPS_AGE_KEY"]
    assert key == f"{other}\n{(root / DEMO_KEY).read_text()}"
    assert secrets.sops_environ(Paths(root, "prod"))["SOPS_AGE_KEY"] == other


# --- what is said of a file that cannot be opened


def test_a_missing_file_is_told_with_the_one_that_was_probably_meant(root: Path) -> None:
    told = "secrets/example/clutser.yaml: there is no such secret file (did you mean cluster?)"
    assert complaint(root, "clutser") == told


def test_a_missing_file_that_resembles_none_is_told_with_how_to_make_it(root: Path) -> None:
    path = "secrets/example/xyz.yaml"
    assert complaint(root, "xyz") == f"{path}: there is no such secret file (make it: ./doit secrets_edit --name xyz)"


def without(pattern: str) -> Callable[[str], str]:
    """Return an edit that takes the lines that match away."""
    return lambda text: re.sub(rf"(?m)^{pattern}.*\n", "", text)


GIT = f"(git checkout {CLUSTER})"
PLAIN = f"{CLUSTER}: is not encrypted (seal it before it is committed: sops encrypt --in-place {CLUSTER})"
NO_MATCH = f"{CLUSTER}: is damaged: its content does not match its seal {GIT}"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda text: "a: b\n", PLAIN),
        (lambda text: "", PLAIN),
        (without("agent_token"), NO_MATCH),
        (without("    mac"), NO_MATCH),
        (lambda text: text + "more: words\n", None),
        (lambda text: text.replace("data:", "data:AA", 1), NO_MATCH),
        (lambda text: text[: text.index("sops:")], f"{CLUSTER}: is damaged: its seal is missing {GIT}"),
        (lambda text: text[: text.index("age:") + 10], None),
        (lambda text: text[: text.index("BEGIN")], None),
        (lambda text: "x: [\n" + text, f"{CLUSTER}:1: sops cannot read it: "),
        (lambda text: text + "\tx: y\n", f"{CLUSTER}:1"),  # 17 or 18: go-yaml miscounts by one
        (lambda text: text + "\0", f"{CLUSTER}: sops cannot read it: "),
    ],
    ids=(
        "plain", "empty", "a value taken out", "no mac", "a plain value added", "a value changed",
        "cut before the seal", "cut in the seal", "cut in the key",
        "not yaml at the top", "not yaml at the end", "binary",
    ),
)  # fmt: skip
def test_a_file_that_was_damaged_is_told_in_one_line_with_what_to_do(
    root: Path, edit: Callable[[str], str], told: str | None
) -> None:
    path = root / CLUSTER
    path.write_text(edit(path.read_text()))
    said = complaint(root)
    assert "\n" not in said
    assert said.startswith(f"{CLUSTER}:")
    assert said.endswith(")")
    if told:
        assert said.startswith(told)


def test_what_is_said_of_a_damaged_file_holds_none_of_its_values(root: Path) -> None:
    path = seal(root, "own", f"a: {VALUE}\nb: other\n")
    path.write_text(without("b:")(path.read_text()))
    assert VALUE not in complaint(root, "own")


def test_a_file_that_cannot_be_read_is_not_told_to_be_missing(root: Path) -> None:
    (root / "secrets/example/own.yaml").symlink_to("own.yaml")
    assert complaint(root, "own").startswith("secrets/example/own.yaml: cannot be read (")


def test_a_checkout_without_any_sops_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise programs.Missing("sops: not found; run ./doit once")

    monkeypatch.setattr(programs, "sops", missing)
    assert complaint(root) == f"{CLUSTER}: cannot be opened (sops: not found; run ./doit once)"


def test_a_file_that_is_sealed_to_no_age_key_says_so(root: Path) -> None:
    done = programs.Done(128, "", "Failed to get the data key\n")
    assert "sealed to keys that are not age's" in str(secrets.complaint(CLUSTER, done, b"sops: {pgp: []}"))


# --- a secret does not show


def test_a_secret_shows_a_mask_however_it_is_made_text_of() -> None:
    secret = Secret(VALUE)
    group = Group("cluster", {"token": VALUE, "list": [VALUE], "map": {"deep": VALUE}})
    texts = [
        *(
            str(secret),
            repr(secret),
            f"{secret}",
            f"{secret!r}",
            f"{secret!s}",
            "%s %r" % (secret, secret),  # noqa: UP031  # one of the ways
        ),
        *(str([secret]), str({"a": secret}), str((secret,)), str(group), repr(group), f"{group}", str(dict(group))),
        *(ascii(secret), format(secret), str(ValueError(secret)), repr(ValueError("x", secret))),
    ]
    assert not [text for text in texts if VALUE in text or "planted" in text]
    assert str(secret) == repr(secret) == "***"


@pytest.mark.parametrize(
    "leak",
    [
        json.dumps,
        lambda secret: json.dumps({"a": secret}),
        pickle.dumps,
        lambda secret: pickle.dumps([secret], 0),
        lambda secret: f"{secret:>40}",
        lambda secret: f"{secret:s}",
        lambda secret: "x" + secret,
        lambda secret: "".join([secret]),
        lambda secret: os.fspath(secret),
        bytes,
        len,
        list,
        vars,
    ],
)
def test_what_would_need_the_value_fails_without_showing_it(leak: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        leak(Secret(VALUE))
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_a_secret_in_a_log_or_in_a_traceback_does_not_show(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(VALUE)
    try:
        raise RuntimeError("failed with", secret, [secret])
    except RuntimeError:
        logging.getLogger("test").exception("%s %r", secret, {"a": secret})
    assert "***" in caplog.text
    assert "planted" not in caplog.text


def test_opening_a_file_logs_no_value(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    seal(root, "own", f"a: {VALUE}\n")
    with caplog.at_level(logging.DEBUG):
        assert vault(root).group("own").a.reveal() == VALUE
    assert "planted" not in caplog.text
    assert "AGE-SECRET-KEY" not in caplog.text


def test_secrets_are_compared_by_value_and_are_no_text() -> None:
    assert Secret("ä") == Secret("ä") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_a_copy_of_a_secret_is_the_secret() -> None:
    secret = Secret(VALUE)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": [secret]})["a"][0] is secret


def test_where_masks_are_an_error_a_secret_is_no_text_at_all_and_afterwards_it_is_again() -> None:
    secret, group = Secret(VALUE), Group("cluster", {"token": VALUE})
    with no_masks():
        for text in (str, repr, "{}".format, lambda value: str([value]), lambda value: f"{value}"):
            for value in (secret, group):
                with pytest.raises(MaskedError, match="only be output whole"):
                    text(value)
        assert secret.reveal() == VALUE
    assert str(secret) == "***"
    with pytest.raises(KeyError), no_masks():
        raise KeyError
    assert str(secret) == "***"


# --- redaction


def redact(root: Path, text: str, values: dict[str, Any]) -> str:
    """Given a text and values of an opened file, return the redacted text."""
    one = vault(root)
    one._groups["own"] = Group("own", values)
    return one.redact(text)


def test_every_value_of_the_opened_files_is_masked_wherever_it_stands(root: Path) -> None:
    values = {"a": VALUE, "list": ["second-value"], "map": {"deep": "third-value"}}
    told = redact(root, f"x{VALUE}y second-value third-value {VALUE}", values)
    assert told == "x***y *** *** ***"


def test_a_value_that_begins_like_a_shorter_one_is_masked_whole(root: Path) -> None:
    for values in ({"a": "abcd", "b": "abcdefgh"}, {"b": "abcdefgh", "a": "abcd"}):
        assert redact(root, "abcdefgh abcd", values) == "*** ***"


@pytest.mark.parametrize(
    "spell", [repr, json.dumps, lambda value: json.dumps(value, ensure_ascii=False), str.splitlines, str]
)
def test_a_value_is_masked_also_where_a_message_spells_it_escaped_or_by_lines(
    root: Path, spell: Callable[[str], Any]
) -> None:
    value = "BEGIN planted-1\n\tplanted-2 ä\"'\\\nplanted-3\n"
    assert "planted" not in redact(root, f"bad: {spell(value)}", {"key": value})


def test_values_too_short_to_be_told_from_words_are_left(root: Path) -> None:
    assert redact(root, "a no yes", {"a": "a", "b": "no", "c": "", "d": None}) == "a no yes"


def test_a_file_that_could_not_be_opened_does_not_keep_others_from_being_masked(root: Path) -> None:
    one = vault(root)
    with pytest.raises(UserError):
        one.group("missing")
    token = one.group("cluster").server_token.reveal()
    assert one.redact(f"x {token}") == "x ***"


# --- demo values


def example_files() -> list[Path]:
    """Return every sops file that comes with i12e."""
    return sorted((ROOT / "secrets").glob("example*/*.yaml"))


def test_every_value_of_every_example_is_known_by_its_hash_and_nothing_else_is() -> None:
    found: set[str] = set()
    for path in example_files():
        group = vault(ROOT, path.parent.name).group(path.stem)
        found |= {fingerprint(secret) for _, secret in flat(group)}
    assert len(example_files()) >= 2
    assert demo_values(ROOT) == found


def test_each_hash_is_listed_with_the_place_of_its_value() -> None:
    listed: dict[str, str] = {}
    for line in (ROOT / DEMO_HASHES).read_text().splitlines():
        if not line.startswith("#"):
            value, place = line.split(maxsplit=1)
            listed[place] = value
    expected = {
        f"{path.parent.name}/{path.name} {place}": fingerprint(secret)
        for path in example_files()
        for place, secret in flat(vault(ROOT, path.parent.name).group(path.stem))
    }
    assert listed == expected


def test_no_two_demo_values_are_the_same_and_none_stands_in_the_clear() -> None:
    assert len(demo_values(ROOT)) == sum(
        len(list(flat(vault(ROOT, path.parent.name).group(path.stem)))) for path in example_files()
    )
    secret = vault(ROOT).group("cluster").server_token.reveal()
    assert not any(secret in path.read_text() for path in (ROOT / "secrets").rglob("*") if path.is_file())


def test_the_demo_key_is_marked_as_public_by_its_name_and_by_its_first_line() -> None:
    assert "PUBLIC" in DEMO_KEY
    assert (ROOT / DEMO_KEY).read_text().startswith("# THIS KEY IS PUBLIC.")


def test_every_example_is_sealed_to_the_demo_key_alone() -> None:
    for path in example_files():
        assert set(re.findall(r"age1[0-9a-z]{20,}", path.read_text())) == {RECIPIENT}, path


def test_a_value_that_is_no_demo_value_is_not_taken_for_one() -> None:
    assert fingerprint(Secret("mine")) not in demo_values(ROOT)
    assert fingerprint(Secret("mine")) == fingerprint(Secret("mine")) != fingerprint(Secret("mine "))

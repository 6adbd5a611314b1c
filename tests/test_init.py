"""A cluster of one's own: by questions or by options, nothing overwritten, nothing shown, completed after a kill."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from conftest import ROOT, Project, copy_of_example
from i12e import backup_keys, init, keys, lock, programs, questions, schema, sealed
from i12e.build import Build
from i12e.errors import UsageError, UserError
from i12e.files import Files
from i12e.model import load_fleet
from i12e.paths import DEFAULT, Paths
from i12e.secrets import Vault, demo_recipients, demo_values, fingerprint, flat
from i12e.yamlfile import load
from killing import killed_at
from people import Person, person, rules, seal
from terminal import Typed

pytestmark = pytest.mark.slow


SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l7 me: at #home"
THREE = "10.0.0.11,10.0.0.12,10.0.0.13"
GIVEN = {"servers": THREE, "agents": "10.0.0.21", "vip": "10.0.0.10", "ssh_key": SSH, "api": "k8s.my.org"}
MADE = [".sops.yaml", "secrets/cluster.yaml", *(f"hosts/server-{n}.yaml" for n in (1, 2, 3))]
MADE += ["hosts/agent-1.yaml", "hosts/cluster.yaml"]


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """A fresh checkout of the example with its tasks."""
    project = copy_of_example(tmp_path / "checkout")
    shutil.copy(ROOT / "dodo.py", project.root)
    return project


def key_file() -> Path:
    """Return where sops looks for keys in this test."""
    return keys.key_file(os.environ)


def backup_key_file(name: str = "home") -> Path:
    """Given a cluster's name, return where the key of its backups is in this test."""
    return backup_keys.key_file(Paths(ROOT, DEFAULT), name, os.environ)


def make(project: Project, env: str = DEFAULT, **given: str) -> Build:
    """Given a project and options, run the task's action without a terminal; return the build with what it told."""
    build = Build(Paths(project.root, env))
    options = {question.key: "" for question in questions.CLUSTER} | given
    init.make(build, True, False, options.pop("recipient", ""), **options)
    return build


def refused(project: Project, **given: str) -> list[str]:
    """Given options that are wrong, return what is said; nothing has been made then."""
    with pytest.raises(UsageError) as caught:
        make(project, **given)
    assert not (project.root / "hosts/cluster.yaml").exists()
    assert not key_file().exists()
    assert (project.root / ".sops.yaml").read_bytes() == (ROOT / ".sops.yaml").read_bytes()
    return [str(problem) for problem in caught.value.problems]


def tokens(project: Project, env: str = DEFAULT) -> list[str]:
    """Given a project, return its tokens, opened with the keys of this test."""
    group = Vault(Paths(project.root, env), Files(project.root)).group("cluster")
    return [secret.reveal() for _, secret in flat(group)]


def run(project: Project, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Given a project and arguments, run ./doit in a process of its own, without a terminal."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), **environ}
    command = [sys.executable, "-m", "i12e", *args]
    return subprocess.run(
        command, cwd=project.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def typed(project: Project, *args: str, **environ: str) -> Typed:
    """Given a project and arguments, run ./doit on a terminal."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), **environ}
    return Typed([sys.executable, "-m", "i12e", *args], project.root, env)


# --- by options


def test_a_cluster_of_ones_own_is_rendered_with_no_demo_value_in_it(checkout: Project) -> None:
    done = run(checkout, "init", "--yes", *(f"--{key.replace('_', '-')}={value}" for key, value in GIVEN.items()))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("WRITE")][2:] == MADE
    rendered = run(checkout)
    assert rendered.returncode == 0, rendered.stderr
    assert "default: 4 done" in rendered.stdout
    assert rendered.stderr == ""
    text = everything(checkout)
    example = (ROOT / "hosts/example/cluster.yaml").read_text()
    for demo in (*re.findall(r"192\.0\.2\.\d+|k8s\.example\.com|AAAAC3\S+", example), "demo", '"example'):
        assert demo not in text, demo
    assert all(token in text for token in tokens(checkout))
    assert run(checkout, "secrets_check").returncode == 0


def everything(project: Project) -> str:
    """Given a project that was rendered, return all that its own configs hold, unpacked."""
    parts: list[str] = []
    for config in project.outputs(DEFAULT).values():
        document = json.loads(config)
        parts.append(json.dumps(document))
        for file in document["storage"]["files"]:
            contents = file.get("contents", {})
            body = contents.get("source", "").partition(",")[2]
            if contents.get("compression") == "gzip":
                parts.append(gzip.decompress(base64.b64decode(body)).decode())
            elif ";base64" in contents.get("source", ""):
                parts.append(base64.b64decode(body).decode(errors="replace"))
    return "\n".join(parts)


def test_tokens_are_long_random_different_and_nobody_elses(checkout: Project) -> None:
    make(checkout, **GIVEN)
    found = tokens(checkout)
    assert len(found) == len(set(found)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{64}", token) for token in found)
    known = demo_values(checkout.root)
    group = Vault(Paths(checkout.root, DEFAULT), Files(checkout.root)).group("cluster")
    assert not known & {fingerprint(secret) for _, secret in flat(group)}


def test_keys_and_secrets_are_private_and_other_files_are_not(checkout: Project) -> None:
    make(checkout, **GIVEN)
    modes = {path: stat.S_IMODE((checkout.root / path).stat().st_mode) for path in MADE}
    assert modes["secrets/cluster.yaml"] == 0o600
    assert modes["hosts/cluster.yaml"] == modes[".sops.yaml"] == 0o666 & ~current_umask()
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file().parent.stat().st_mode) == 0o700


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_no_private_key_and_no_token_is_told_or_given_to_a_program(
    checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    real = programs.run

    def looked(program: str, *arguments: str, **more: object) -> programs.Done:
        given.extend([program, *arguments])
        return real(program, *arguments, **more)  # type: ignore[arg-type]  # the same

    monkeypatch.setattr(programs, "run", looked)
    build = make(checkout, **GIVEN)
    words = "\n".join([*given, *build.notes, *(f"{step}" for step in build.told)])
    keys_ = [file.read_text().splitlines()[-1] for file in (key_file(), backup_key_file())]
    assert [key[:16] for key in keys_] == ["AGE-SECRET-KEY-1"] * 2
    assert not [secret for secret in (*keys_, *tokens(checkout)) if secret in words]
    files = [path for path in checkout.root.rglob("*") if path.is_file()]
    hidden = [secret.encode() for secret in (*keys_, *tokens(checkout))]
    assert [path for path in files if any(secret in path.read_bytes() for secret in hidden)] == []


def test_what_is_written_is_commented_and_says_what_was_asked(checkout: Project) -> None:
    make(checkout, name="mine", network="10.0.0.0/16", interface="enp1s0", os="fcos", k3s="v1.34.1+k3s1", **GIVEN)
    text = (checkout.root / "hosts/cluster.yaml").read_text()
    for line in (
        "name: mine", "version: v1.34.1+k3s1", "name: k8s.my.org", "address: 10.0.0.10", "interface: enp1s0",
        "hosts: [10.0.0.0/16]", "name: fcos", f"- {json.dumps(SSH)}",
    ):  # fmt: skip
        assert re.search(rf"(?m)^ *{re.escape(line)}$", text), line
    assert text.count("#") >= 20
    assert "addresses: [10.0.0.12]" in (checkout.root / "hosts/server-2.yaml").read_text()


@pytest.mark.parametrize("env", [DEFAULT, "prod"])
def test_an_editor_finds_the_schema_of_each_file_and_nothing_wrong_in_it(checkout: Project, env: str) -> None:
    make(checkout, env, **GIVEN)
    paths = Paths(checkout.root, env)
    files = sorted((checkout.root / paths.hosts).glob("*.yaml"))
    assert len(files) == 5
    for file in files:
        kind = "cluster" if file.stem == "cluster" else "host"
        assert file.read_text().startswith(paths.modeline(kind) + "\n")
        found = Draft7Validator(schema.schema(kind)).iter_errors(load(file.read_bytes(), str(file)).data)
        assert [error.message for error in found] == []


def test_defaults_are_there_for_all_but_the_servers_and_a_key_that_is_nowhere(checkout: Project) -> None:
    said = refused(checkout)
    assert [problem.partition(":")[0] for problem in said] == ["--servers", "--ssh-key"]
    folder = Path.home() / ".ssh"
    folder.mkdir()
    (folder / "id_ed25519.pub").write_text(f"{SSH}\n")
    make(checkout, servers="10.0.0.1")
    text = (checkout.root / "hosts/cluster.yaml").read_text()
    assert SSH in text
    assert "hosts: [10.0.0.0/24]" in text
    assert "name: api.home.internal" in text
    assert "  # vip: {" in text


def test_an_ssh_key_may_be_named_by_its_file(checkout: Project, tmp_path: Path) -> None:
    (tmp_path / "my.pub").write_text(f"{SSH}\n")
    make(checkout, **{**GIVEN, "ssh_key": str(tmp_path / "my.pub")})
    assert SSH in (checkout.root / "hosts/cluster.yaml").read_text()
    assert '--ssh-key: "/nowhere/x.pub" cannot be read: No such file' in refused_text(checkout, "/nowhere/x.pub")


def refused_text(project: Project, ssh_key: str) -> str:
    options = {question.key: "" for question in questions.CLUSTER} | GIVEN | {"ssh_key": ssh_key}
    (project.root / "hosts/cluster.yaml").unlink()
    with pytest.raises(UsageError) as caught:
        init.make(Build(Paths(project.root, DEFAULT)), True, False, "", **options)
    return str(caught.value)


def test_all_options_that_are_wrong_are_told_at_once_in_the_models_words(checkout: Project) -> None:
    (demo,) = demo_recipients(checkout.root)
    private = keys.make().private.reveal()
    said = refused(
        checkout, name="My_Home", api="https://x", servers="10.0.0.300,web", vip="::1", os="win", k3s="1.35",
        interface="a b", network="10.0.0.1/24", ssh_key="nope", recipient=f"age1x,{private},{demo}",
    )  # fmt: skip
    for problem in (
        '--name: "My_Home" is not a DNS label (write my-home)',
        '--api: "https://x" is a URL, not a DNS name (only the name, without https:// and port)',
        '--servers: "10.0.0.300" is not an IP address',
        '--servers: "web" is not an IP address',
        '--vip: "::1" is no address that other hosts can reach',
        '--os: "win" is not one of flatcar, fcos',
        '--k3s: "1.35" is not pinned to one release (like v1.35.4+k3s1)',
        '--interface: "a b" is not an interface\'s name (at most 15 characters, no space, / or :)',
        '--network: "10.0.0.1/24" is a host\'s address, not a network (write 10.0.0.0/24)',
        "--ssh-key: is not an ssh public key (like ssh-ed25519 AAAA... name)",
        '--recipient: "age1x" is not an age public key (like age1..., 62 characters)',
        f'--recipient: "{demo}" is the demo key, which everybody has',
    ):
        assert problem in said
    assert len(said) == 13
    assert private not in "".join(said)


def test_what_does_not_fit_together_is_told_by_the_models_checks(checkout: Project) -> None:
    said = refused(checkout, **{**GIVEN, "network": "10.1.0.0/24", "vip": "10.0.0.11"})
    assert any('hosts/server-1.yaml: addresses[0]: "10.0.0.11" is api.vip.address too' in problem for problem in said)
    assert sum("is outside of network.hosts (10.1.0.0/24)" in problem for problem in said) >= 3


@pytest.mark.parametrize("name", ["true", "1234", "null", "on", "0x1"])
def test_a_name_that_yaml_would_take_for_something_else_is_quoted(checkout: Project, name: str) -> None:
    make(checkout, name=name, **GIVEN)
    assert checkout.doit().status == 0


def test_without_a_terminal_and_without_yes_it_says_what_is_missing_and_makes_nothing(checkout: Project) -> None:
    done = run(checkout, "init", "--api", "not a name")
    assert done.returncode == 3
    assert "--api: " in done.stderr
    assert "--servers: is missing: the servers' addresses" in done.stderr
    assert "there is no terminal to ask on (--yes takes the default" in done.stderr
    assert "Traceback" not in done.stderr
    assert not key_file().exists()


@pytest.mark.parametrize("args", [["init", "--bogus"], ["init", "render"], ["init", "home"], ["init:x"]])
def test_what_init_does_not_know_is_usage(checkout: Project, args: list[str]) -> None:
    done = run(checkout, *args)
    assert done.returncode == 3, done.stderr
    assert not key_file().exists()


# --- the key of the backups


def recipients(project: Project) -> list[str]:
    """Given a project, return who can open the backups of its cluster."""
    data = load((project.root / "hosts/cluster.yaml").read_bytes(), "").data
    return list(data["backup"]["recipients"])


def test_backups_have_a_key_of_their_own_that_the_secrets_do_not_have(checkout: Project) -> None:
    build = make(checkout, **GIVEN)
    file = backup_key_file()
    assert recipients(checkout) == backup_keys.recipients_of(file)
    assert len(recipients(checkout)) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert recipients(checkout)[0] not in (checkout.root / ".sops.yaml").read_text()
    assert keys.found(os.environ) != recipients(checkout)
    assert any(note.startswith("keep a copy of ~/.config/i12e/backup-keys/home.txt") for note in build.notes)
    fleet = load_fleet("hosts", DEFAULT, ["server-1"], Files(checkout.root).read)
    assert fleet.cluster
    backup_keys.check(Paths(checkout.root, DEFAULT), fleet.cluster)


def test_a_key_of_the_backups_that_is_there_is_used_and_kept(checkout: Project) -> None:
    pair = keys.make()
    backup_keys.save(pair, backup_key_file("mine"), "mine")
    build = make(checkout, name="mine", **GIVEN)
    assert recipients(checkout) == [pair.recipient]
    assert pair.private.reveal() in backup_key_file("mine").read_text()
    assert [step.result for step in build.told if "backup-keys" in step.what] == ["kept"]


def test_a_file_in_the_place_of_that_key_is_never_overwritten(checkout: Project) -> None:
    backup_key_file().parent.mkdir(parents=True)
    backup_key_file().write_text("of something else\n")
    with pytest.raises(UsageError, match=r"backup-keys/home.txt: holds no private key .* \(put it elsewhere\)"):
        make(checkout, **GIVEN)
    assert backup_key_file().read_text() == "of something else\n"
    assert not (checkout.root / "hosts/cluster.yaml").exists()


def test_the_key_of_the_backups_is_not_put_into_the_checkout(
    checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I12E_BACKUP_KEY_FILE", str(checkout.root / "backup.txt"))
    with pytest.raises(UsageError, match="names a file of this checkout"):
        make(checkout, **GIVEN)
    assert not (checkout.root / "backup.txt").exists()
    assert not key_file().exists()


# --- what is there stays


def test_again_everything_is_kept_and_said_so(checkout: Project) -> None:
    make(checkout, **GIVEN)
    before = {path: (checkout.root / path).read_bytes() for path in MADE}
    key = key_file().read_bytes()
    build = make(checkout, **GIVEN)
    assert {path: (checkout.root / path).read_bytes() for path in MADE} == before
    assert key_file().read_bytes() == key
    assert [(step.verb, step.result == "done") for step in build.told] == [("KEEP", False)] * 4


def test_options_that_come_too_late_are_named(checkout: Project) -> None:
    assert not [note for note in make(checkout, **GIVEN).notes if note.startswith("not used")]
    note = make(checkout, servers="10.0.0.8", vip="10.0.0.9").notes[0]
    assert note.startswith("not used: --servers, --vip, since hosts/cluster.yaml is there")


@pytest.mark.parametrize("gone", MADE)
def test_what_is_missing_is_made_and_the_rest_kept(checkout: Project, gone: str) -> None:
    make(checkout, **GIVEN)
    before = {path: (checkout.root / path).read_bytes() for path in MADE}
    if gone == ".sops.yaml":
        shutil.copy(ROOT / gone, checkout.root)
    else:
        (checkout.root / gone).unlink()
    made = {gone, "hosts/cluster.yaml"} if gone.startswith("hosts/") else {gone}
    if gone.startswith("hosts/"):
        (checkout.root / "hosts/cluster.yaml").unlink(missing_ok=True)  # as a run leaves it that is killed there
    build = make(checkout, **GIVEN)
    after = {path: (checkout.root / path).read_bytes() for path in MADE}
    assert {path for path in MADE if before[path] != after[path]} <= {"secrets/cluster.yaml"} & {gone}
    assert {step.what for step in build.told if step.result == "done"} == made


def test_a_key_that_is_there_is_used(checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = person(tmp_path, "me")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(me.file))
    build = make(checkout, **GIVEN)
    assert me.recipient in (checkout.root / ".sops.yaml").read_text()
    assert build.told[0].verb == "KEEP"
    assert me.opens(checkout.root / "secrets/cluster.yaml")


def test_a_new_key_goes_where_the_environment_says(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "keys/mine"))
    make(checkout, **GIVEN)
    assert stat.S_IMODE((tmp_path / "keys/mine").stat().st_mode) == 0o600
    assert tokens(checkout)


def test_the_demo_key_is_nobodys_own(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = (checkout.root / "secrets/example/demo-key-PUBLIC.txt").read_text()
    monkeypatch.setenv("SOPS_AGE_KEY", demo)
    make(checkout, **GIVEN)
    assert key_file().exists()
    (recipient,) = demo_recipients(checkout.root)
    assert recipient not in (checkout.root / ".sops.yaml").read_text().partition("# Yours")[2]


def test_a_key_file_without_a_key_is_never_overwritten_and_told(checkout: Project) -> None:
    key_file().parent.mkdir(parents=True)
    key_file().write_text("AGE-PLUGIN-YUBIKEY-1ABC\n")
    with pytest.raises(UsageError, match=r"holds no key whose public half .* \(--recipient age1\.\.\. names it\)"):
        make(checkout, **GIVEN)
    assert key_file().read_text() == "AGE-PLUGIN-YUBIKEY-1ABC\n"


def test_a_key_that_others_may_read_is_warned_of(checkout: Project) -> None:
    keys.save(keys.make(), key_file())
    key_file().chmod(0o644)
    assert any("others may read ~/.config/sops/age/keys.txt" in note for note in make(checkout, **GIVEN).notes)


def test_further_recipients_open_the_secrets_too(checkout: Project, tmp_path: Path) -> None:
    bob = person(tmp_path, "bob")
    make(checkout, recipient=bob.recipient, **GIVEN)
    assert bob.opens(checkout.root / "secrets/cluster.yaml")
    assert tokens(checkout)


def test_who_comes_second_gets_a_key_and_is_told_who_can_let_them_in(checkout: Project, tmp_path: Path) -> None:
    alice = person(tmp_path, "alice")
    (checkout.root / ".sops.yaml").write_text(rules(alice))
    seal(checkout.root, "secrets/cluster.yaml", "server_token: a\nagent_token: b\n", alice)
    before = (checkout.root / ".sops.yaml").read_bytes()
    build = make(checkout, **GIVEN)
    (own,) = keys.found(os.environ)
    assert (checkout.root / ".sops.yaml").read_bytes() == before
    assert any(f"whoever has access says ./doit secrets_rekey --add {own}" in note for note in build.notes)
    done = [step.what for step in make(checkout, **GIVEN).told if step.result == "done"]
    assert done == []


def test_no_tokens_are_sealed_that_their_maker_could_not_open(checkout: Project, tmp_path: Path) -> None:
    (checkout.root / ".sops.yaml").write_text(rules(person(tmp_path, "alice")))
    with pytest.raises(UserError, match="has to be among the recipients of this rule"):
        make(checkout, **GIVEN)
    assert not (checkout.root / "secrets/cluster.yaml").exists()


def test_a_checkout_without_rules_gets_them(checkout: Project) -> None:
    (checkout.root / ".sops.yaml").unlink()
    shutil.rmtree(checkout.root / "secrets/example-fcos")
    make(checkout, **GIVEN)
    assert tokens(checkout)


# --- further environments


def test_a_further_environment_is_made_beside_the_first(checkout: Project) -> None:
    make(checkout, **GIVEN)
    environ = {"I12E_ENV": "prod"}
    done = run(checkout, "init", "--yes", "--servers=10.9.0.1", f"--ssh-key={SSH}", **environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("prod: ")
    assert "I12E_ENV=prod ./doit renders it" in done.stderr
    assert "name: prod\n" in (checkout.root / "hosts/prod/cluster.yaml").read_text()
    assert set(tokens(checkout)).isdisjoint(tokens(checkout, "prod"))
    rendered = run(checkout, **environ)
    assert rendered.returncode == 0, rendered.stderr
    assert "RENDER   server-1" in rendered.stdout


def test_an_environment_that_is_not_there_is_for_init_alone(checkout: Project) -> None:
    for args in (["render"], ["list"], ["secrets_edit", "--name", "x"], ["secrets_rekey"]):
        done = run(checkout, *args, I12E_ENV="prod")
        assert done.returncode in (1, 3)
        assert "no such environment" in done.stderr


@pytest.mark.parametrize("env", ["example", "example-mine", "lab", "Prod"])
def test_no_environment_is_made_of_a_name_that_is_taken(checkout: Project, env: str) -> None:
    done = run(checkout, "init", "--yes", I12E_ENV=env)
    assert done.returncode in (1, 3)
    assert f'I12E_ENV="{env}"' in done.stderr
    assert "Traceback" not in done.stderr


# --- on a terminal


def answer(run: Typed, *answers: tuple[str, str]) -> None:
    """Given a run and pairs of what is asked and what is typed, answer."""
    for asked, typed_ in answers:
        run.expect(asked)
        run.type(typed_)


REST = (("[eth0]:", ""), ("[none]:", ""), ("[flatcar]:", ""), ("+k3s1]:", ""))


def test_a_new_user_answers_questions_and_mistakes_are_asked_again(checkout: Project) -> None:
    run_ = typed(checkout, "init")
    answer(run_, ("[home]:", "My_Home"))
    assert "is not a DNS label (write my-home)" in run_.expect("[home]:")
    run_.type("mine")
    answer(run_, ("[api.mine.internal]:", ""), ("5):", ""))
    assert "an answer is needed" in run_.expect("5):")
    run_.type("10.0.0.11, 10.0.0.12 10.0.0.13")
    answer(run_, ("[none]:", "10.0.0.21"), ("[10.0.0.0/24]:", ""), *REST, ("holds it:", "not a key"))
    assert "is not an ssh public key" in run_.expect("holds it:")
    run_.type(SSH)
    answer(run_, ("Which one [paper]:", "none"))
    assert run_.end() == 0, run_.text
    assert "default: 9 done" in run_.text
    assert "only one key opens your secrets" in run_.text
    assert "now ./doit renders it; then git add .sops.yaml hosts secrets, and commit" in run_.text
    done = run(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "RENDER   server-3" in done.stdout


def test_answers_that_do_not_fit_together_are_asked_again_with_what_was_said(checkout: Project) -> None:
    run_ = typed(checkout, "init", "--name=x", "--ssh-key", SSH)
    answer(run_, ("[api.x.internal]:", "a.b"), ("5):", THREE), ("[none]:", ""), ("/24]:", "10.1.0.0/24"), *REST)
    assert "is outside of network.hosts" in run_.expect("Once more")
    answer(run_, ("[a.b]:", ""), (f"[{THREE}]:", ""), ("[none]:", ""), ("[10.1.0.0/24]:", "none"), *REST)
    answer(run_, ("[paper]:", "none"))
    assert run_.end() == 0, run_.text
    assert "hosts: []" in (checkout.root / "hosts/cluster.yaml").read_text()


def test_a_key_on_paper_is_shown_once_on_the_terminal_and_is_nowhere_else(checkout: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = f"exec {sys.executable} -m i12e init --yes --paper --servers={THREE} --ssh-key='{SSH}' >{log} 2>&1"
    run_ = Typed(["/bin/sh", "-c", command], checkout.root, {**os.environ, "PYTHONPATH": str(ROOT / "lib")})
    shown = run_.expect("from your paper:")
    (private,) = re.findall(r"AGE-SECRET-KEY-1[0-9A-Z]+", shown)
    assert "\x1b[?1049h" in shown  # a page of its own
    run_.type("wrong")
    run_.expect("from your paper:")
    run_.type(private[-6:].lower())
    assert run_.end() == 0, log.read_text()
    assert "\x1b[?1049l" in run_.seen
    assert run_.seen.count(private) == 1
    assert private not in log.read_text()
    holding = [path for place in (checkout.root, Path.home()) for path in place.rglob("*") if path.is_file()]
    assert [path for path in holding if private.encode() in path.read_bytes()] == []
    (tmp_path / "paper").write_text(f"{private}\n")
    assert Person("", tmp_path / "paper").opens(checkout.root / "secrets/cluster.yaml")


def test_a_key_on_paper_needs_a_terminal(checkout: Project) -> None:
    done = run(checkout, "init", "--yes", "--paper", f"--servers={THREE}", f"--ssh-key={SSH}")
    assert done.returncode == 3
    assert "--paper: a new key is shown on a terminal only, and here is none" in done.stderr
    assert not key_file().exists()


@pytest.mark.parametrize("stop", [b"\x03", b"\x04"], ids=["Ctrl-C", "end of input"])
def test_who_stops_at_a_question_has_changed_nothing(checkout: Project, stop: bytes) -> None:
    before = {path: path.read_bytes() for path in checkout.root.rglob("*") if path.is_file()}
    run_ = typed(checkout, "init")
    run_.expect("[home]:")
    run_.press(stop)
    assert run_.end() in (1, 130)
    assert "Traceback" not in run_.text
    after = {path: path.read_bytes() for path in checkout.root.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path] and "build" not in path.parts} == set()
    assert not key_file().exists()


def test_questions_keep_nobody_from_writing(checkout: Project) -> None:
    run_ = typed(checkout, "init")
    run_.expect("[home]:")
    lock.take(checkout.root / "build/default/lock", "test").release()
    run_.kill()


def test_options_are_not_asked_for(checkout: Project) -> None:
    given = [f"--{key.replace('_', '-')}={value}" for key, value in GIVEN.items()]
    more = ["--name=x", "--network=none", "--interface=eth0", "--os=flatcar", "--k3s=v1.35.4+k3s1"]
    run_ = typed(checkout, "init", *given, *more)
    answer(run_, ("[paper]:", "none"))
    assert run_.end() == 0, run_.text
    assert "Enter takes" not in run_.text


# --- killed


@pytest.mark.slow
def test_an_init_that_is_killed_anywhere_is_completed_by_the_next_one(checkout: Project, tmp_path: Path) -> None:
    killed, step = 0, 1 if os.environ.get("I12E_SWEEP") == "full" else 7
    for point in range(1, 1000, step):
        copy = Project(tmp_path / "copy" / "checkout")
        shutil.rmtree(copy.root, ignore_errors=True)
        shutil.rmtree(Path.home() / ".config", ignore_errors=True)
        shutil.copytree(checkout.root, copy.root)
        if not killed_at(point, partial(make, copy, **GIVEN), str(copy.root.parent), str(Path.home())):
            break
        killed += 1
        key = key_file().read_bytes() if key_file().exists() else None
        make(copy, **GIVEN)
        assert key in (None, key_file().read_bytes())
        assert copy.doit().status == 0
        sealed.check(copy.root)
        left = [path for place in (copy.root, Path.home()) for path in place.rglob("*")]
        assert [path for path in left if path.suffix == ".new" or path.name.startswith("workbench-")] == []
    assert killed > 5

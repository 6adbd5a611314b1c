"""./doit kubeconfig: nothing in the user's file is lost, and the right server is pointed at."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Done, Project, need
from i12e import engine, kubeconfig, remote
from i12e.errors import Problem, UserError
from sshd import Sshd
from sweeps import sampled

K3S = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
users:
- name: default
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
"""
URL = "https://192.0.2.10:6443"
NEW = kubeconfig.rename(K3S, "home", URL)
KINDS = ("clusters", "users", "contexts")

HELM = """\
# written by hand
apiVersion: v1
kind: Config
preferences: {}
current-context: work
clusters:
  - name: work
    cluster: {server: "https://work.example.com", insecure-skip-tls-verify: yes}  # why
  - {name: 'home', cluster: {server: "https://old.example.com"}}
contexts:
  - name: work
    context: &c {cluster: work, user: 1e3, namespace: on}
  - name: again
    context: *c
users:
  - name: 1e3
    user:
      exec: {command: aws, args: [eks, get-token, "012"], env: null}
      token: 0123
"""


def named(text: str, kind: str) -> dict[str, Any]:
    return {entry["name"]: entry for entry in yaml.safe_load(text)[kind] or ()}


# --- what k3s wrote gets names


def test_what_k3s_wrote_gets_the_clusters_name_everywhere_and_the_apis_address() -> None:
    assert yaml.safe_load(NEW) == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "home", "cluster": {"certificate-authority-data": "Q0E=", "server": URL}}],
        "users": [{"name": "home", "user": {"client-certificate-data": "Q0VSVA==", "client-key-data": "S0VZ"}}],
        "contexts": [{"name": "home", "context": {"cluster": "home", "user": "home"}}],
        "current-context": "home",
    }


def test_it_is_the_current_context_that_counts_and_what_else_it_says_stays() -> None:
    text = K3S.replace("users:\n", "users:\n- name: other\n  user: {token: no}\n")
    text = text.replace("clusters:\n", "clusters:\n- name: other\n  cluster: {server: 'https://no'}\n")
    text = text.replace("    user: default\n", "    user: default\n    namespace: web\n")
    found = yaml.safe_load(kubeconfig.rename(text, "home", URL))
    assert found["clusters"] == yaml.safe_load(NEW)["clusters"]
    assert found["users"] == yaml.safe_load(NEW)["users"]
    assert found["contexts"][0]["context"] == {"cluster": "home", "user": "home", "namespace": "web"}


@pytest.mark.parametrize(
    "text", ["", "kind: Config\n", "no such file", "clusters: []\n", K3S.replace("name: default", "name: x"), "a: {"]
)
def test_what_is_no_kubeconfig_is_told_with_the_host_and_not_written(text: str) -> None:
    with pytest.raises(UserError) as error:
        kubeconfig.rename(text, "home", URL, "server-1:/etc/rancher/k3s/k3s.yaml")
    assert str(error.value).startswith("server-1:/etc/rancher/k3s/k3s.yaml")


@pytest.mark.parametrize(
    ("cluster", "env", "expected"),
    [
        ("home", "default", "home"),
        ("home", "prod", "home-prod"),
        ("home-prod", "prod", "home-prod"),
        ("lab", "lab", "lab"),
        ("example", "example-fcos", "example-example-fcos"),
    ],
)
def test_the_context_is_named_by_the_cluster_and_tells_environments_apart(
    cluster: str, env: str, expected: str
) -> None:
    assert kubeconfig.name(cluster, env) == expected


@pytest.mark.parametrize(
    ("text", "expected", "host"),
    [
        ("192.0.2.10", "https://192.0.2.10:6443", "192.0.2.10"),
        ("k8s.example.com", "https://k8s.example.com:6443", "k8s.example.com"),
        ("k8s.example.com:443", "https://k8s.example.com:443", "k8s.example.com"),
        ("2001:db8::1", "https://[2001:db8::1]:6443", "2001:db8::1"),
        ("[2001:db8::1]:7443", "https://[2001:db8::1]:7443", "2001:db8::1"),
        ("https://127.0.0.1:6443/", "https://127.0.0.1:6443", "127.0.0.1"),
        (" https://k8s.example.com ", "https://k8s.example.com:6443", "k8s.example.com"),
    ],
)
def test_an_address_a_name_or_a_url_says_where_the_api_is(text: str, expected: str, host: str) -> None:
    assert kubeconfig.url(text) == expected
    assert kubeconfig.host_of(expected) == host


@pytest.mark.parametrize("text", ["http://a.example", "a b", "a.example/path", "u@a.example", "a.example:0", "a:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text[:1]):
        kubeconfig.url(text)


# --- into the user's file


def test_into_nothing_it_is_the_whole_file() -> None:
    for nothing in (
        "",
        "\n# a comment\n",
        "---\n",
        "apiVersion: v1\nkind: Config\nclusters: null\ncontexts: []\nusers:\n",
    ):
        assert yaml.safe_load(kubeconfig.merge(nothing, NEW)) == yaml.safe_load(NEW)


def test_a_hand_written_file_keeps_every_spelling_that_programs_read_differently() -> None:
    """kubectl reads YAML 1.1, where yes is a bool and 0123 a number: other programs do not."""
    merged = kubeconfig.merge(HELM, NEW)
    before, after = (yaml.load(text, yaml.BaseLoader) for text in (HELM, merged))  # noqa: S506  # scalars as spelt
    assert after["current-context"] == "work"
    for kind in KINDS:
        old = {entry["name"]: entry for entry in before[kind] if entry["name"] != "home"}
        assert {entry["name"]: entry for entry in after[kind] if entry["name"] != "home"} == old
    for text, dialect in ((HELM, yaml.SafeLoader), (HELM, yaml.FullLoader)):
        old_user = yaml.load(text, dialect)["users"][0]  # noqa: S506  # safe ones
        assert yaml.load(merged, dialect)["users"][0] == old_user  # noqa: S506
    assert named(merged, "clusters")["home"]["cluster"]["server"] == URL


def test_an_entry_stays_in_its_place_and_a_second_one_of_the_name_goes() -> None:
    twice = HELM.replace("contexts:\n", "  - {name: home, cluster: {server: x}}\ncontexts:\n")
    merged = yaml.safe_load(kubeconfig.merge(twice, NEW))
    assert [entry["name"] for entry in merged["clusters"]] == ["work", "home"]
    assert [entry["name"] for entry in merged["contexts"]] == ["work", "again", "home"]


@pytest.mark.parametrize("empty", ['""', "null", "", "~"])
def test_an_empty_current_context_becomes_the_new_one(empty: str) -> None:
    merged = kubeconfig.merge(HELM.replace("current-context: work", f"current-context: {empty}"), NEW)
    assert yaml.safe_load(merged)["current-context"] == "home"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("clusters:\n  - name: a\n\tcluster: b\n", "config:3:"),
        ("a: 1\na: 2\n", "config:2:1"),
        ("clusters: {a: b}\n", "config:1:11"),
        ("users:\n  - name: a\n  - nothing\n", "config:3:5"),
        ("contexts:\n  - {context: {}}\n", "config:2:5"),
        ("just text\n", "config:1:1"),
        ("a: [\n", "config:"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text: str, place: str) -> None:
    with pytest.raises(UserError) as error:
        kubeconfig.merge(text, NEW, "config")
    assert str(error.value).startswith(place)


NAMES = st.sampled_from(["home", "work", "~", "0123", "on", "null", "1e3", "a b", "ü", "- x", "", "#", "'", "x: y"])
PRINTED = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(PRINTED, max_size=12), NAMES)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)


def entries(kind: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    content = st.dictionaries(st.sampled_from(["server", "token", "user", "cluster", "exec"]), VALUES, max_size=3)
    entry = st.builds(lambda name, value: {"name": name, kind: value}, NAMES, content)
    return st.lists(entry, max_size=4, unique_by=lambda found: str(found["name"]))


CONFIGS = st.fixed_dictionaries(
    {"clusters": entries("cluster"), "users": entries("user"), "contexts": entries("context")},
    optional={"apiVersion": st.just("v1"), "current-context": NAMES, "preferences": VALUES, "extensions": VALUES},
)
STYLES = st.sampled_from([None, True, False])


@settings(max_examples=sampled(300), deadline=None)
@given(config=CONFIGS, style=STYLES, indent=st.integers(1, 6))
def test_whatever_else_is_in_the_file_means_the_same_afterwards(config: Any, style: bool | None, indent: int) -> None:
    """Written in every style of another program, read back by that program: only what is named home differs."""
    text = yaml.safe_dump(config, default_flow_style=style, indent=indent, allow_unicode=True, sort_keys=False)
    merged = yaml.safe_load(kubeconfig.merge(text, NEW))
    new = yaml.safe_load(NEW)
    for kind in KINDS:
        kept = [entry for entry in merged[kind] if entry["name"] != "home"]
        assert kept == [entry for entry in config[kind] if entry["name"] != "home"]
        assert [entry for entry in merged[kind] if entry["name"] == "home"] == new[kind]
    assert merged["current-context"] == (config.get("current-context") or "home")
    for key in config.keys() - {*KINDS, "current-context"}:
        assert merged[key] == config[key]
    assert merged.keys() == config.keys() | new.keys()


@settings(max_examples=sampled(100), deadline=None)
@given(config=CONFIGS)
def test_the_same_again_changes_nothing(config: Any) -> None:
    once = kubeconfig.merge(yaml.safe_dump(config, allow_unicode=True), NEW)
    assert kubeconfig.merge(once, NEW) == once


# --- the file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


def test_the_file_is_kubectls(tmp_path: Path) -> None:
    """Of several, kubectl writes new entries to the first that is there, and makes the last one if none is."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert kubeconfig.place({"HOME": "/me"}) == Path("/me/.kube/config")
    assert kubeconfig.place({"HOME": "/me", "KUBECONFIG": ""}) == Path("/me/.kube/config")
    assert kubeconfig.place({"KUBECONFIG": f"{one}"}) == one
    assert kubeconfig.place({"KUBECONFIG": f":{one}:{two}:"}) == two
    two.touch()
    assert kubeconfig.place({"KUBECONFIG": f"{one}:{two}"}) == two
    one.touch()
    assert kubeconfig.place({"KUBECONFIG": f"{one}:{two}"}) == one


def test_a_relative_path_is_refused_for_nobody_knows_to_what() -> None:
    with pytest.raises(UserError, match="relative"):
        kubeconfig.place({"KUBECONFIG": "config"})


def test_it_is_private_and_its_folder_too(home: Path) -> None:
    path = home / ".kube/config"
    assert kubeconfig.put(path, NEW, "home")
    assert path.read_text() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["config"]


def test_a_file_that_others_could_read_is_private_afterwards_and_then_left_alone(home: Path) -> None:
    path = home / "config"
    home.mkdir()
    path.write_text(NEW)
    path.chmod(0o644)
    assert kubeconfig.put(path, NEW, "home")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat().st_ino
    assert not kubeconfig.put(path, NEW, "home")
    assert path.stat().st_ino == before


def test_a_link_stays_and_leads_to_the_new_text(home: Path) -> None:
    (home / "files").mkdir(parents=True)
    path, target = home / "config", home / "files/kube"
    target.write_text(HELM)
    path.symlink_to("files/kube")
    kubeconfig.put(path, NEW, "home")
    assert path.is_symlink()
    assert os.readlink(path) == "files/kube"
    assert set(named(target.read_text(), "clusters")) == {"work", "home"}


def test_a_link_to_nothing_yet_is_filled(home: Path) -> None:
    home.mkdir()
    (home / "config").symlink_to(home / "elsewhere/kube")
    kubeconfig.put(home / "config", NEW, "home")
    assert (home / "elsewhere/kube").read_text() == NEW


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_refused_and_stays(home: Path, make: Callable[[Path], None]) -> None:
    home.mkdir()
    make(home / "config")
    with pytest.raises(UserError):
        kubeconfig.put(home / "config", NEW, "home")
    with pytest.raises(UserError):
        kubeconfig.write(home / "config", NEW)
    assert os.listdir(home) == ["config"]


def test_nothing_is_lost_of_a_broken_file_and_nothing_left_beside_it(home: Path) -> None:
    home.mkdir()
    (home / "config").write_text("clusters: [\n")
    with pytest.raises(UserError):
        kubeconfig.put(home / "config", NEW, "home")
    assert (home / "config").read_text() == "clusters: [\n"
    assert os.listdir(home) == ["config"]


def test_a_write_that_fails_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config").write_text(HELM)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        kubeconfig.put(home / "config", NEW, "home")
    assert (home / "config").read_text() == HELM
    assert os.listdir(home) == ["config"]


def test_kubectls_own_lock_is_respected_and_its_neighbours_are_left_alone(home: Path) -> None:
    home.mkdir()
    (home / "config.lock").touch()
    (home / "config.new").write_text("mine")
    with pytest.raises(UserError, match=r"config\.lock: is there"):
        kubeconfig.put(home / "config", NEW, "home")
    (home / "config.lock").unlink()
    kubeconfig.put(home / "config", NEW, "home")
    assert sorted(os.listdir(home)) == ["config", "config.new"]
    assert (home / "config.new").read_text() == "mine"


def test_of_many_that_write_at_once_nobodys_context_is_lost(home: Path) -> None:
    path = home / "config"

    def add(name: str) -> None:
        new = kubeconfig.rename(K3S, name, URL)
        for _ in range(10000):
            try:
                kubeconfig.put(path, new, name)
            except UserError:  # the lock is there, as for a second kubectl
                continue
            return

    names = [f"c{number}" for number in range(8)]
    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(named(path.read_text(), "contexts")) == set(names)


# --- the task


def run(project: Project, *args: str, fetch: Any = None, known: bool = True) -> Done:
    def resolve(name: str) -> None:
        if not known:
            raise OSError("unknown")

    def tasks(config: dict[str, Any]) -> Iterator[engine.TaskDict]:
        def action(server: str) -> None:
            kubeconfig.run(config["build"], server, fetch or (lambda servers: ("server-1", K3S)), resolve)

        yield engine.aside("kubeconfig", action, "", "", [engine.option("server", "")])

    return project.doit("kubeconfig", *args, tasks=tasks)


@pytest.mark.slow
def test_the_task_writes_the_users_file_and_says_what_it_did(small: Project, home: Path) -> None:
    done = run(small)
    path = home / ".kube/config"
    assert (done.status, done.err) == (0, "")
    assert done.lines[0] == f"CONTEXT  example  (https://192.0.2.10:6443, from server-1, in {path})"
    assert named(path.read_text(), "clusters")["example"]["cluster"]["server"] == "https://192.0.2.10:6443"
    assert ", as it was)" in run(small).lines[0]


@pytest.mark.slow
def test_without_a_virtual_address_it_is_the_apis_name_and_one_that_is_unknown_is_told(
    small: Project, home: Path
) -> None:
    small.edit("hosts/example/cluster.yaml", ", vip: {address: 192.0.2.10, version: v1.0.1, interface: eth0}", "")
    done = run(small, known=False)
    assert done.status == 0
    assert "https://k8s.example.com:6443" in done.out
    assert "k8s.example.com has no address here" in done.err
    assert "./doit kubeconfig --server 192.0.2.11" in done.err
    assert run(small).err == ""


@pytest.mark.slow
def test_another_server_can_be_said_and_one_that_the_certificate_lacks_is_told(small: Project, home: Path) -> None:
    done = run(small, "--server", "192.0.2.11")
    assert ("https://192.0.2.11:6443" in done.out, done.err) == (True, "")
    assert "certificate does not carry 198.51.100.7" in run(small, "--server", "198.51.100.7:443").err
    wrong = run(small, "--server", "http://x")
    assert (wrong.status, wrong.err) == (3, '--server "http://x": is no address (192.0.2.11, or a https URL)\n')


@pytest.mark.slow
def test_a_cluster_with_another_authority_is_told(small: Project, home: Path) -> None:
    run(small)
    done = run(small, fetch=lambda servers: ("server-1", K3S.replace("Q0E=", "TkVX")))
    assert "another certificate authority than before" in done.err


@pytest.mark.slow
def test_a_broken_file_is_told_before_any_host_is_asked(small: Project, home: Path) -> None:
    (home / ".kube").mkdir(parents=True)
    (home / ".kube/config").write_text("clusters: [\n")
    done = run(small, fetch=lambda servers: pytest.fail("asked"))
    assert done.status == 1
    assert done.err.startswith(f"{home}/.kube/config:1:")


@pytest.mark.slow
def test_no_key_is_in_what_is_printed(small: Project, home: Path) -> None:
    for args in ((), ("--json",)):
        done = run(small, *args)
        assert not any(secret in done.out + done.err for secret in ("S0VZ", "Q0VSVA"))


class _Host:
    def __init__(self, name: str, cluster: str = "home") -> None:
        self.name = name
        self.cluster = cluster


def test_the_first_server_that_answers_counts_and_the_failures_before_it_are_noted() -> None:
    asked: list[str] = []
    noted: list[str] = []

    def ask(host: Any) -> str:
        asked.append(host.name)
        if host.name == "server-1":
            raise UserError(Problem("", None, None, "server-1: no route"))
        return K3S

    servers: list[Any] = [_Host(f"server-{number}") for number in (1, 2, 3)]
    assert kubeconfig.first_of(servers, ask, noted.append) == ("server-2", K3S)
    assert (asked, noted) == (["server-1", "server-2"], ["server-1: no route"])


def test_where_none_answers_all_failures_are_told() -> None:
    def ask(host: Any) -> str:
        raise UserError(Problem("", None, None, f"{host.name}: no route"))

    servers: list[Any] = [_Host(f"server-{number}") for number in (1, 2, 3)]
    with pytest.raises(UserError) as error:
        kubeconfig.first_of(servers, ask, pytest.fail)
    assert len(error.value.problems) == 3


def test_a_changed_host_key_stops_at_once() -> None:
    def ask(host: Any) -> str:
        raise kubeconfig.Unsafe(Problem("", None, None, f"{host.name}: another key"))

    servers: list[Any] = [_Host("server-1"), _Host("server-2")]
    with pytest.raises(UserError, match="server-1: another key") as error:
        kubeconfig.first_of(servers, ask, pytest.fail)
    assert len(error.value.problems) == 1


def test_a_machine_of_another_cluster_gives_nothing() -> None:
    host: Any = _Host("server-1")
    identity = json.dumps({"cluster": "home", "host": "server-1"}, indent=2)
    assert kubeconfig.checked(f"{identity}\n\n---\n{K3S}", host) == K3S
    for wrong in (identity.replace('"home"', '"away"'), "", "[]", "{}"):
        with pytest.raises(UserError, match="server-1: the machine is of cluster"):
            kubeconfig.checked(f"{wrong}\n\n---\n{K3S}", host)


# --- over the real ssh


_CAT = """\
#!/bin/sh
[ $# -gt 0 ] || exec /bin/cat
for file; do /bin/cat "{root}$file" || exit 1; done
"""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A real sshd on whose host `cat` finds files below a folder of the test's."""
    tool = tmp_path / "bin/cat"
    tool.parent.mkdir()
    tool.write_text(_CAT.format(root=tmp_path / "host"))
    tool.chmod(0o755)
    for path, text in (("i12e/host.json", json.dumps({"cluster": "example"}) + "\n"), ("rancher/k3s/k3s.yaml", K3S)):
        (tmp_path / "host/etc" / path).parent.mkdir(parents=True)
        (tmp_path / "host/etc" / path).write_text(text)
    server = Sshd(tmp_path / "sshd", path=f"{tool.parent}:{os.defpath}")
    yield server
    server.end()


def over_ssh(small: Project, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Done:
    """Given an sshd, run the task with server-1 there."""
    need(os.geteuid() == 0 or shutil.which("sudo"), "sudo")
    monkeypatch.setattr(remote, "target", lambda host, root: sshd.target())

    def tasks(config: dict[str, Any]) -> Iterator[engine.TaskDict]:
        def action() -> None:
            kubeconfig.run(config["build"], "", resolve=lambda name: None)

        yield engine.aside("kubeconfig", action, "", "")

    return small.doit("kubeconfig", tasks=tasks)


@pytest.mark.slow
def test_it_comes_over_ssh_and_no_key_of_it_is_told(
    small: Project, home: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = over_ssh(small, sshd, monkeypatch)
    assert (done.status, done.err) == (0, "")
    assert (home / ".kube/config").read_text() == kubeconfig.rename(K3S, "example", URL)
    assert "S0VZ" not in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("rancher/k3s/k3s.yaml", None, "No such file or directory (is k3s up there? it writes the file)"),
        ("i12e/host.json", '{"cluster": "other"}', "server-1: the machine is of cluster other, not example"),
        ("rancher/k3s/k3s.yaml", "a: [", "server-1:/etc/rancher/k3s/k3s.yaml:1:"),
    ],
)
def test_what_a_server_lacks_is_told_and_the_users_file_stays(
    small: Project, home: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch, path: str, text: str | None, told: str
) -> None:
    file = sshd.folder.parent / "host/etc" / path
    file.unlink()
    if text is not None:
        file.write_text(text)
    done = over_ssh(small, sshd, monkeypatch)
    assert done.status == 1
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (home / ".kube").exists()


@pytest.mark.slow
def test_a_host_key_that_is_not_known_or_another_one_gives_nothing(
    small: Project, home: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sshd.folder / "known_hosts").write_text("")
    done = over_ssh(small, sshd, monkeypatch)
    assert (done.status, "its ssh host key is not known" in done.err) == (1, True)
    sshd.make_key("other")
    sshd.know("other")
    done = over_ssh(small, sshd, monkeypatch)
    assert (done.status, "its ssh host key has changed" in done.err) == (1, True)
    assert not (home / ".kube").exists()

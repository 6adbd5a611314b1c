"""The lock file: its form, what is wrong with one, and what hosts get by one; without one, nothing changes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import ignition
from conftest import Project
from i12e import artifacts, releases
from i12e.artifacts import Entry, OfHost
from i12e.errors import UserError
from i12e.files import Files
from i12e.model import Host, load_fleet

LOCK = "hosts/example/artifacts.lock"
PROGRAMS = "artifacts: {etcdctl: v3.6.7, rclone: v1.71.0, age: v1.2.1, sysexts: {wasmtime: v24.0.0}}\n"
HASH = "0123456789abcdef" * 4  # of tests alone
GOOD = f"""\
version: 1
artifacts:
  - artifact: "k3s v1.35.4+k3s1 amd64"
    url: "https://example.com/k3s"
    sha256: "{HASH}"
    size: 12
    checksums: "https://example.com/sums"
"""


def hosts(project: Project, env: str = "example") -> dict[str, Host]:
    """Return the models of an environment's hosts."""
    folder = project.root / "hosts" / env
    names = [path.stem for path in folder.glob("*.yaml") if path.stem != "cluster"]
    fleet = load_fleet(f"hosts/{env}", env, names, Files(project.root).read)
    assert fleet.problems == []
    return fleet.hosts


def configure(project: Project, more: str) -> None:
    """Add to the cluster's file."""
    path = project.root / "hosts/example/cluster.yaml"
    path.write_text(path.read_text() + more)


def lock(project: Project, env: str = "example", **hashes: str) -> list[Entry]:
    """Write a lock file of all that an environment's hosts fetch, with hashes of our own; return its entries."""
    wanted = {one.url: one for host in hosts(project, env).values() for one in releases.wanted(host)}
    entries = [Entry(a.title, a.url, hashes.get(a.name, HASH), 12, a.checksums) for a in wanted.values()]
    (project.root / f"hosts/{env}/artifacts.lock").write_bytes(artifacts.text(entries))
    return entries


def load(project: Project) -> dict[str, Entry]:
    found = artifacts.load(Files(project.root), LOCK)
    assert found is not None
    return found


def wrong(project: Project, text: str) -> list[str]:
    """Return what is said of a lock file's text."""
    project.write(LOCK, text)
    with pytest.raises(UserError) as caught:
        artifacts.load(Files(project.root), LOCK)
    return [str(problem).removeprefix(LOCK) for problem in caught.value.problems]


# --- the file


def test_entries_are_written_sorted_and_read_as_they_were(small: Project) -> None:
    entries = [Entry(f"a v{n} amd64", f"https://example.com/{n}", HASH, n or None, "none") for n in range(9)]
    text = artifacts.text(entries)
    for _ in range(5):
        assert artifacts.text(random.sample(entries, 9)) == text
    small.write(LOCK, text.decode())
    found = load(small)
    assert list(found.values()) == entries
    assert [text.decode().splitlines()[entry.line - 1] for entry in entries and found.values()] == [
        f'  - artifact: "a v{n} amd64"' for n in range(9)
    ]


def test_there_need_not_be_one(small: Project) -> None:
    assert artifacts.load(Files(small.root), LOCK) is None


def test_a_link_to_nothing_is_not_taken_for_no_file(small: Project) -> None:
    (small.root / LOCK).symlink_to("nowhere")
    with pytest.raises(UserError, match="cannot be read"):
        artifacts.load(Files(small.root), LOCK)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1", "version: 2", ":1: is not a lock file of version 1"),
        ("version: 1\n", "", ":1: is not a lock file of version 1"),
        ("artifacts:", "more: x\nartifacts:", ":1: is not a lock file of version 1"),
        (HASH, HASH[1:], ":5:13: sha256: is not a sha256"),
        (HASH, HASH.upper(), ":5:13: sha256: is not a sha256"),
        ("    sha256:", "    sha512:", ":3:5: sha256: is missing, or no text"),
        ("https://example.com/k3s", "ftp://example.com/k3s", ":4:10: url: is not a URL"),
        ("https://example.com/k3s", "https://example.com/k 3s", ":4:10: url: is not a URL"),
        ("size: 12", "size: 0", ":6:11: size: is not a number of bytes"),
        ("size: 12", 'size: "12"', ":6:11: size: is not a number of bytes"),
        ("    size: 12", "<<<<<<< HEAD\n    size: 12", ":7:9: YAML"),
        ("  - artifact", "  - x\n  - artifact", ":3:5: is not an entry"),
    ],
)
def test_a_damaged_file_is_told_with_its_place(small: Project, old: str, new: str, said: str) -> None:
    assert old in GOOD
    problems = wrong(small, GOOD.replace(old, new))
    assert any(problem.startswith(said) for problem in problems), problems


def test_all_that_is_wrong_is_told_at_once(small: Project) -> None:
    text = GOOD.replace(HASH, "x").replace("size: 12", "size: no").replace("https://example.com/k3s", "k3s")
    assert [problem.split(":")[1] for problem in wrong(small, text)] == ["4", "5", "6"]


def test_one_url_is_there_once_and_one_release_has_one_hash(small: Project) -> None:
    entry = GOOD.partition("artifacts:\n")[2]
    (problem,) = wrong(small, GOOD + entry)
    assert problem.startswith(":8:5: https://example.com/k3s is there twice")
    other = entry.replace("example.com", "mirror.example.com").replace(HASH, "f" * 64)
    (problem,) = wrong(small, GOOD + other)
    assert problem.startswith(":8:5: k3s v1.35.4+k3s1 amd64 has another sha256 at https://mirror.example.com/k3s than")


# --- what a host gets


def test_without_a_lock_file_a_host_fetches_nothing_by_one(small: Project) -> None:
    for host in hosts(small).values():
        assert artifacts.of_host(host, None, LOCK) == OfHost()


def test_a_host_gets_what_it_is_to_have_with_the_locked_hash(small: Project) -> None:
    configure(small, PROGRAMS)
    lock(small, k3s="a" * 64)
    found = artifacts.of_host(hosts(small)["server-1"], load(small), LOCK)
    assert found.k3s is not None
    assert (found.k3s.hash, found.k3s.file) == (f"sha256-{'a' * 64}", "k3s")
    assert [one.name for one in found.programs] == ["etcdctl", "rclone", "age"]
    assert [(one.name, one.file) for one in found.sysexts] == [("wasmtime", "wasmtime-v24.0.0-x86-64.raw")]
    agent = artifacts.of_host(hosts(small)["agent-1"], load(small), LOCK)
    assert [one.name for one in agent.programs] == ["rclone", "age"]


def test_a_lock_file_that_lacks_something_is_told_with_everything_that_it_lacks(small: Project) -> None:
    configure(small, PROGRAMS)
    small.write(LOCK, GOOD)
    with pytest.raises(UserError) as caught:
        artifacts.of_host(hosts(small)["server-1"], load(small), LOCK)
    said = [str(problem) for problem in caught.value.problems]
    assert [line.partition(" (")[0] for line in said] == [
        f"{LOCK}: lacks age v1.2.1 amd64",
        f"{LOCK}: lacks etcdctl v3.6.7 amd64",
        f"{LOCK}: lacks k3s v1.35.4+k3s1 amd64",
        f"{LOCK}: lacks rclone v1.71.0 amd64",
        f"{LOCK}: lacks wasmtime v24.0.0 amd64",
    ]
    assert all(line.endswith("(./doit lock adds it)") for line in said)


# --- rendering


def config(project: Project, host: str = "server-1", env: str = "example") -> dict[str, Any]:
    return ignition.load(project.outputs(env)[host])


def test_programs_without_a_lock_file_are_a_mistake_and_not_left_out_in_silence(project: Project) -> None:
    configure(project, "artifacts: {rclone: v1.71.0}\n")
    done = project.doit()
    assert done.status == 1
    assert f"{LOCK}: is not there, and rclone v1.71.0 amd64 needs it (./doit lock makes it)" in done.err
    assert project.outputs() == {}


def test_a_new_version_without_its_entry_is_not_rendered(project: Project) -> None:
    lock(project)
    assert project.doit().status == 0
    path = project.root / "hosts/example/cluster.yaml"
    path.write_text(path.read_text().replace("v1.35.4+k3s1", "v1.35.5+k3s1"))
    done = project.doit()
    assert done.status == 1
    lines = [line for line in done.err.splitlines() if LOCK in line]
    assert [line.partition(" (")[0] for line in lines] == [f"{LOCK}: lacks k3s v1.35.5+k3s1 amd64"]


def test_by_the_lock_ignition_fetches_k3s_and_nothing_runs_an_installer(project: Project) -> None:
    (k3s,) = lock(project)
    assert project.doit().status == 0
    for host in project.outputs():
        found = config(project, host)
        file = ignition.files(found)["/opt/bin/k3s"]
        assert file["contents"]["source"] == k3s.url
        assert file["contents"]["verification"] == {"hash": f"sha256-{HASH}"}
        assert (file["mode"], file["overwrite"]) == (0o755, True)
        assert "install" not in json.dumps([unit["name"] for unit in found["systemd"]["units"]])
        assert "/opt/i12e/bin/k3s-install" not in ignition.files(found)
        conf = ignition.content(ignition.files(found)["/etc/i12e/k3s.conf"]["contents"]).decode()
        assert "_url=" not in conf


def test_the_lock_is_an_input_and_only_hosts_whose_config_changes_get_another(project: Project) -> None:
    project.write("hosts/example/agent-2.yaml", "role: agent\naddresses: [192.0.2.22]\nos: {arch: arm64}\n")
    assert project.doit().status == 0
    lock(project)
    assert len(project.doit().lines) == 5  # there was none, and everybody had looked for it
    before = project.outputs()
    path = project.root / LOCK
    text = path.read_text()
    place = text.index("sha256", text.index("k3s-arm64"))
    path.write_text(text[:place] + text[place:].replace(HASH, "f" * 64))
    done = project.doit()
    assert sorted(line for line in done.lines if "same output" not in line) == ["RENDER   agent-2"]
    after = project.outputs()
    assert [host for host in after if after[host] != before[host]] == ["agent-2"]
    assert project.doit().lines == []


def test_a_lock_that_goes_is_seen(project: Project) -> None:
    assert project.doit().status == 0
    before = project.outputs()
    lock(project)
    project.doit()
    assert project.outputs() != before
    (project.root / LOCK).unlink()
    project.doit()
    assert project.outputs() == before


def test_templates_that_ask_for_no_artifact_do_not_depend_on_the_lock(small: Project) -> None:
    assert small.doit().status == 0
    lock(small)
    assert small.doit().lines == []


def test_a_hosts_own_file_cannot_take_the_place_of_k3ss_unit(project: Project) -> None:
    lock(project)
    text = "[Service]\\nExecStart=/opt/bin/k3s server --cluster-init\\n[Install]\\nWantedBy=multi-user.target\\n"
    unit = f'units: [{{name: k3s.service, contents: "{text}"}}]\n'
    path = project.root / "hosts/example/server-1.yaml"
    path.write_text(path.read_text() + unit)
    done = project.doit()
    assert done.status == 1
    assert "k3s.service is i12e's own" in done.err


def test_a_hosts_own_file_cannot_take_the_place_of_one_that_is_verified(project: Project) -> None:
    """Merged into it, it would keep the hash of the other, and the host would stop at its first boot."""
    lock(project)
    path = project.root / "hosts/example/server-1.yaml"
    path.write_text(path.read_text() + 'files: [{path: /opt/bin/k3s, mode: 0755, contents: "mine"}]\n')
    done = project.doit()
    assert done.status == 1
    assert "/opt/bin/k3s is fetched by artifacts.lock" in done.err


def test_each_environment_has_a_lock_file_of_its_own(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lock(project)
    monkeypatch.setenv("I12E_ENV", "example-fcos")
    assert project.doit().status == 0
    assert "/usr/local/bin/k3s" not in ignition.files(config(project, env="example-fcos"))


def test_the_example_has_no_lock_file_that_nobody_made_from_the_releases() -> None:
    root = Path(__file__).parent.parent
    assert list(root.glob("hosts/**/artifacts.lock")) == []

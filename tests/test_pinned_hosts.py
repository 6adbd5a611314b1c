"""Hosts by a lock file, for real: ./doit lock from a mirror on this machine, rendered, and applied by Ignition.

Ignition fetches from the mirror itself, verifies, and refuses what has another hash.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ignition
import website
from conftest import Project, copy_of_example, need
from i12e import engine
from ignition import UNITS, Tree
from website import Site

pytestmark = pytest.mark.ignition

VERSION = "v1.35.4+k3s1"
PROGRAMS = "artifacts: {etcdctl: v3.6.7, rclone: v1.71.0, age: v1.2.1, sysexts: {wasmtime: v24.0.0}}\n"
K3S = b"#!/bin/sh\necho 'k3s version v1.35.4+k3s1 (deadbeef)'\n" + os.urandom(1 << 20)
IMAGE = b"an image of wasmtime"
FOLDERS = {
    "k3s": f"/k3s-io/k3s/releases/download/{VERSION}",
    "etcd": "/etcd-io/etcd/releases/download/v3.6.7",
    "rclone": "/rclone/rclone/releases/download/v1.71.0",
    "age": "/FiloSottile/age/releases/download/v1.2.1",
    "wasmtime": "/flatcar/sysext-bakery/releases/download/wasmtime-v24.0.0",
}
ENVIRONMENTS = {
    "example": ("agent-1", "agent-2", "server-1", "server-2", "server-3"),
    "example-fcos": ("agent-1", "server-1"),
}
ALL = [f"{env}/{name}" for env, names in ENVIRONMENTS.items() for name in names]
BIN = {"example": "/opt/bin", "example-fcos": "/usr/local/bin"}


def program(name: str) -> bytes:
    """Return a program that says its name."""
    return f"#!/bin/sh\necho {name} is here\n".encode()


def tar_gz(*paths: str) -> bytes:
    """Return an archive of programs, with a file that nobody wants."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as archive:
        for path in (*paths, "README.md"):
            content = program(Path(path).name)
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return found.getvalue()


def zipped(*paths: str) -> bytes:
    """Return an archive of programs as rclone's is."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.writestr(path, program(Path(path).name))
    return found.getvalue()


ETCD = tar_gz("etcd-v3.6.7-linux-amd64/etcdctl", "etcd-v3.6.7-linux-amd64/etcdutl", "etcd-v3.6.7-linux-amd64/etcd")
RCLONE = zipped("rclone-v1.71.0-linux-amd64/README.txt", "rclone-v1.71.0-linux-amd64/rclone")
AGE = tar_gz("age/LICENSE", "age/age", "age/age-keygen")
CONTENTS = {
    f"{FOLDERS['k3s']}/k3s": K3S,
    f"{FOLDERS['etcd']}/etcd-v3.6.7-linux-amd64.tar.gz": ETCD,
    f"{FOLDERS['rclone']}/rclone-v1.71.0-linux-amd64.zip": RCLONE,
    f"{FOLDERS['age']}/age-v1.2.1-linux-amd64.tar.gz": AGE,
    f"{FOLDERS['wasmtime']}/wasmtime-v24.0.0-x86-64.raw": IMAGE,
}
LISTS = {"k3s": "sha256sum-amd64.txt"}


@dataclass
class World:
    """A mirror, the checkout whose hosts fetch from it, and what Ignition made of them."""

    site: Site
    project: Project

    def config(self, name: str) -> bytes:
        env, _, host = name.partition("/")
        return self.project.outputs(env)[host]

    def apply(self, name: str, folder: Path) -> Tree:
        """Given a host, apply its config in an empty folder; raise Refused if Ignition refuses it."""
        return ignition.apply(self.config(name), folder, "fcos" if "fcos" in name else "flatcar")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both examples with a mirror and programs, locked by ./doit lock and rendered."""
    lacking = ignition.missing()
    need(not lacking, lacking)
    project = copy_of_example(tmp_path_factory.mktemp("pinned") / "checkout")
    with website.serve() as site, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        site.files |= dict(CONTENTS)
        for name, folder in FOLDERS.items():
            sums = [f"{hashlib.sha256(c).hexdigest()}  {Path(p).name}\n" for p, c in CONTENTS.items() if folder in p]
            if name != "age":  # which publishes none
                site.files[f"{folder}/{LISTS.get(name, 'SHA256SUMS')}"] = "".join(sums).encode()
        for env in ENVIRONMENTS:
            path = project.root / f"hosts/{env}/cluster.yaml"
            wanted = PROGRAMS if env == "example" else PROGRAMS.partition(", sysexts")[0] + "}\n"
            path.write_text(f"{path.read_text()}mirror: {site.url}\n{wanted}")
            patch.setenv("I12E_ENV", env)
            for args in (["lock", "--trust", "age"], ["lock", "--check"], []):
                done = project.doit(*args, tasks=engine.lock_task)
                if done.status:
                    pytest.fail(done.err, pytrace=False)
        yield World(site, project)


@pytest.fixture(scope="module")
def trees(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tree]:
    """Gives the tree of a host by its environment and name."""
    known: dict[str, Tree] = {}

    def tree(name: str) -> Tree:
        if name not in known:
            known[name] = world.apply(name, tmp_path_factory.mktemp("host"))
        return known[name]

    return tree


def sh(script: Path, tree: Tree, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script of a tree on that tree."""
    environ = {"PATH": f"{path}:{os.environ['PATH']}", "I12E_ROOT": str(tree.root)}
    command = ["sh", str(script), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def unit_of(name: str) -> str:
    return "k3s.service" if "server" in name else "k3s-agent.service"


# --- what Ignition makes


@pytest.mark.parametrize("name", ALL)
def test_ignition_validate_has_nothing_against_a_config_by_the_lock(
    world: World, ignition_validate: str, name: str
) -> None:
    assert ignition.verdict(ignition_validate, world.config(name)) == ""


@pytest.mark.parametrize("name", ALL)
def test_ignition_fetches_the_right_bytes_with_the_right_modes(trees: Callable[[str], Tree], name: str) -> None:
    env = name.partition("/")[0]
    tree = trees(name)
    wanted = {
        f"{BIN[env]}/k3s": (K3S, 0o755),
        "/opt/i12e/artifacts/rclone-v1.71.0-linux-amd64.zip": (RCLONE, 0o644),
        "/opt/i12e/artifacts/age-v1.2.1-linux-amd64.tar.gz": (AGE, 0o644),
    }
    if "server" in name:
        wanted["/opt/i12e/artifacts/etcd-v3.6.7-linux-amd64.tar.gz"] = (ETCD, 0o644)
    if env == "example":
        wanted["/opt/extensions/wasmtime/wasmtime-v24.0.0-x86-64.raw"] = (IMAGE, 0o644)
    for path, (content, mode) in wanted.items():
        assert tree.place(path).read_bytes() == content, path
        assert (tree.mode(path), tree.owner(path)) == (mode, (0, 0)), path
    fetched = [path for path in tree.files() if path.startswith(("/opt/i12e/artifacts/", "/opt/extensions/"))]
    assert {tree.real(path) for path in wanted} - {tree.real(f"{BIN[env]}/k3s")} >= set(fetched)


@pytest.mark.parametrize("name", ALL)
def test_links_lead_to_k3s_to_the_images_and_to_the_units_that_start(trees: Callable[[str], Tree], name: str) -> None:
    env = name.partition("/")[0]
    tree, links = trees(name), trees(name).links()
    names = ["kubectl", "crictl", "ctr"] if env == "example" else ["kubectl", "crictl"]
    for command in names:
        assert links[tree.real(f"{BIN[env]}/{command}")] == "k3s"
        done = subprocess.run([tree.place(f"{BIN[env]}/{command}")], capture_output=True, check=False)
        assert VERSION.encode() in done.stdout
    assert ("/etc/extensions/wasmtime.raw" in links) == (env == "example")
    for unit in (unit_of(name), "i12e-programs.service"):
        assert links[f"{UNITS}/multi-user.target.wants/{unit}"] == f"{UNITS}/{unit}"
        assert unit in tree.preset("enable")
    assert not any("k3s-install" in path for path in tree.walk())


@pytest.mark.parametrize("path", sorted(CONTENTS))
def test_ignition_refuses_what_has_another_hash(world: World, tmp_path: Path, path: str) -> None:
    content = CONTENTS[path]
    world.site.files[path] = content[:-1] + bytes([content[-1] ^ 1])
    try:
        with pytest.raises(ignition.Refused, match="hash verification failed"):
            world.apply("example/server-1", tmp_path)
    finally:
        world.site.files[path] = content


@pytest.mark.parametrize("answer", [website.cut(K3S, 1000), website.status(404)], ids=["cut", "404"])
def test_ignition_puts_nothing_where_the_file_is_not_whole_or_not_there(
    world: World, tmp_path: Path, answer: website.Answer
) -> None:
    path = f"{FOLDERS['k3s']}/k3s"
    world.site.files[path] = answer
    try:
        with pytest.raises(ignition.Refused):
            world.apply("example/server-1", tmp_path)
    finally:
        world.site.files[path] = K3S
    assert not (tmp_path / "root/opt/bin/k3s").exists()


def test_the_digest_of_a_host_changes_with_a_hash(world: World) -> None:
    config = world.config("example/server-1")
    found = hashlib.sha256(K3S).hexdigest().encode()
    assert config.count(found) == 1
    assert config.count(hashlib.sha256(AGE).hexdigest().encode()) == 1


# --- k3s's unit

# What k3s's install script writes (install.sh of v1.35, create_systemd_service_file), but for RestartSec,
# which our drop-in has.
BY_THE_SCRIPT = {
    ("Unit", "Documentation", "https://docs.k3s.io"),
    ("Unit", "Wants", "network-online.target"),
    ("Unit", "After", "network-online.target"),
    ("Install", "WantedBy", "multi-user.target"),
    ("Service", "Type", "notify"),
    ("Service", "EnvironmentFile", "-/etc/default/%N"),
    ("Service", "EnvironmentFile", "-/etc/sysconfig/%N"),
    ("Service", "EnvironmentFile", "-/etc/systemd/system/%N.service.env"),
    ("Service", "KillMode", "process"),
    ("Service", "Delegate", "yes"),
    ("Service", "LimitNOFILE", "1048576"),
    ("Service", "LimitNPROC", "infinity"),
    ("Service", "LimitCORE", "infinity"),
    ("Service", "TasksMax", "infinity"),
    ("Service", "TimeoutStartSec", "0"),
    ("Service", "Restart", "always"),
    ("Service", "ExecStartPre", "-/sbin/modprobe br_netfilter"),
    ("Service", "ExecStartPre", "-/sbin/modprobe overlay"),
}


@pytest.mark.parametrize("name", ALL)
def test_k3ss_unit_is_what_its_install_script_makes_and_the_gate_stands_before_it(
    trees: Callable[[str], Tree], name: str
) -> None:
    env, _, host = name.partition("/")
    units = trees(name).units()
    found = units[f"{UNITS}/{unit_of(name)}"]
    role = host.partition("-")[0]
    own = {("Service", "ExecStart", f"{BIN[env]}/k3s {role}"), ("Unit", "Description", f"k3s {VERSION}, {role}")}
    if env == "example-fcos":
        own.add(("Service", "ExecStartPre", "/bin/sh /opt/i12e/bin/k3s-selinux --label"))
    assert set(found) == BY_THE_SCRIPT | own
    assert len(found) == len(set(found))
    drop_in = units[f"{UNITS}/{unit_of(name)}.d/10-i12e.conf"]
    assert ("Service", "ExecStartPre", "/bin/sh /opt/i12e/bin/k3s-gate") in drop_in
    assert ("Unit", "ConditionPathExists", "!/var/lib/i12e/hold") in drop_in


@pytest.mark.parametrize("name", ALL)
def test_systemd_understands_every_line_of_the_units(trees: Callable[[str], Tree], name: str, tmp_path: Path) -> None:
    need(shutil.which("systemd-analyze"), "systemd-analyze")
    other_run = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs run /run && exec "$@"', "sh")
    need(not subprocess.run([*other_run, "true"], check=False).returncode, "unshare --mount")
    shutil.copytree(trees(name).root, tmp_path / "copy", symlinks=True)
    tree = Tree(tmp_path / "copy", frozenset())
    for path in ("/bin/sh", "/sbin/modprobe"):
        tree.place(path).parent.mkdir(exist_ok=True)
        tree.place(path).touch(0o755)
    for target in ("sysinit", "basic", "shutdown", "multi-user", "network-online"):
        tree.place(f"{UNITS}/{target}.target").write_text("[Unit]\n")
    units = [str(path) for path in tree.place(UNITS).glob("*.service")]
    command = [*other_run, "systemd-analyze", f"--root={tree.root}", "--man=no", "verify", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert any(path.endswith(unit_of(name)) for path in units)


@pytest.mark.parametrize("name", ALL)
def test_every_file_that_a_unit_runs_is_there_and_executable(trees: Callable[[str], Tree], name: str) -> None:
    tree = trees(name)
    runs = [command for settings in tree.units().values() for command in ignition.commands(settings)]
    for word in {word for command in runs for word in command if word.startswith(("/opt/", "/usr/local/"))}:
        assert tree.mode(word) & 0o111 == 0o111, word


def test_no_config_runs_a_script_that_was_fetched_or_reads_one_from_a_pipe(world: World) -> None:
    for name in ALL:
        for path, file in ignition.files(ignition.load(world.config(name))).items():
            text = ignition.content(file["contents"]) if "data:" in file["contents"]["source"] else b""
            assert b"curl -sfL" not in text, path
            assert b"install.sh" not in text, path


# --- the programs


@pytest.mark.parametrize("name", ["example/server-1", "example/agent-1", "example-fcos/server-1"])
@pytest.mark.parametrize("tools", ["tar and unzip", "bsdtar"])
def test_the_programs_are_taken_out_of_what_ignition_verified(
    trees: Callable[[str], Tree], name: str, tools: str, tmp_path: Path
) -> None:
    wanted = ("tar", "unzip") if tools != "bsdtar" else ("bsdtar",)
    for tool in wanted:
        need(shutil.which(tool), f"{tool} (Debian: apt-get install {tool.replace('bsdtar', 'libarchive-tools')})")
    folder = tmp_path / "programs"
    folder.mkdir()
    for tool in ("cat", "chmod", "dirname", "gzip", "mkdir", "mv", "rm", "sh", "sync", *wanted):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    shutil.copytree(trees(name).root, tmp_path / "copy", symlinks=True)
    tree = Tree(tmp_path / "copy", frozenset())
    environ = {"PATH": str(folder), "I12E_ROOT": str(tree.root)}
    command = [str(shutil.which("sh")), str(tree.place("/opt/i12e/bin/unpack-programs"))]
    place = BIN[name.partition("/")[0]]
    before = set(os.listdir(tree.place(place)))
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    names = {"rclone", "age", "age-keygen"} | ({"etcdctl", "etcdutl"} if "server" in name else set())
    assert set(os.listdir(tree.place(place))) - before == names
    for one in names:
        assert tree.mode(f"{place}/{one}") == 0o755
        said = subprocess.run([tree.place(f"{place}/{one}")], capture_output=True, text=True, check=True).stdout
        assert said == f"{one} is here\n"
    again = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert again.stdout == "unpack-programs: they are there\n"

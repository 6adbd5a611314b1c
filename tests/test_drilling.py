"""A drill on a host, as far as it takes no host: its scripts, what is asked of it, and what it is told of a cluster."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from conftest import need
from i12e import artifacts, drill, drill_host, drilling, restoring
from i12e.build import Build
from i12e.collect import k3s_settings
from i12e.drill_host import Release
from i12e.errors import UsageError
from i12e.paths import Paths
from i12e.restoring import CONVERT, ETCD, SQLITE, Job
from i12e.secrets import Secret

JOB = Job("20261127T000000Z-000000", "disk", ETCD, "c", "uid", 10, "0" * 64, "me@here", 1795735269.0)


@pytest.mark.parametrize("kind", [ETCD, SQLITE, CONVERT])
def test_shellcheck_finds_nothing_in_what_hosts_run(kind: str) -> None:
    need(shutil.which("shellcheck"), "shellcheck (Debian: apt-get install shellcheck)")
    job = Job(**{**JOB.__dict__, "kind": kind})
    claim, start = f"{drilling.CLAIM}me", f"{drilling.START}run.sh"
    outside, _ = drilling.outside([("192.0.2.7", 22)])
    scripts = (drilling.script(job), drilling.control(job), outside, drilling.CLEAN, drilling.LOOK, drilling.HAS, start)
    for script in (*scripts, claim, drilling.TAKE, drilling.fetch("https://example.com/k3s", "0" * 64)):
        command = ["shellcheck", "--shell=sh", "--severity=warning", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_control_is_the_same_but_for_the_database() -> None:
    script, control = drilling.script(JOB), drilling.control(JOB)
    assert drilling._BEGIN in script
    assert drilling._BEGIN in control
    assert "--cluster-reset" in script
    assert "--cluster-reset" not in control
    assert restoring.SERVE in script
    assert restoring.SERVE in control
    assert "--cluster-init" in control
    assert "--cluster-init" not in drilling.control(Job(**{**JOB.__dict__, "kind": SQLITE}))


def test_k3s_gets_the_backups_token_and_what_its_database_is_read_by_and_no_more() -> None:
    theirs = """\
token: their-secret
server: https://k8s.example.com:6443
node-ip: 10.0.0.1
cluster-cidr: 10.42.0.0/16,fd00:1::/56
service-cidr: "10.43.0.0/16"
cluster-dns: 10.43.0.10
secrets-encryption: true
secrets-encryption-provider: secretbox
etcd-s3: true
tls-san: [k8s.example.com]
kube-apiserver-arg: [audit-policy-file=/etc/audit.yaml]
datastore-endpoint: mysql://elsewhere
"""
    found = json.loads(drilling.config(Secret("the-backups-own"), k3s_settings(theirs)))
    assert found == {
        "cluster-cidr": "10.42.0.0/16,fd00:1::/56",
        "service-cidr": "10.43.0.0/16",
        "cluster-dns": "10.43.0.10",
        "secrets-encryption": True,
        "secrets-encryption-provider": "secretbox",
        "token": "the-backups-own",
        "node-name": "drill",
        "node-ip": "192.0.2.1,2001:db8::1",
        "advertise-address": "192.0.2.1",
        "etcd-disable-snapshots": True,
        "etcd-arg": ["quota-backend-bytes=8589934592"],
    }
    assert set(json.loads(drilling.config(Secret("t"), {}))) == {
        "token", "node-name", "node-ip", "advertise-address", "etcd-disable-snapshots", "etcd-arg"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranges", "addresses"),
    [
        ("10.42.0.0/16", "192.0.2.1"),
        ("fd00:1::/56", "2001:db8::1"),
        ("fd00:1::/56,10.42.0.0/16", "2001:db8::1,192.0.2.1"),
    ],
)
def test_k3s_has_an_address_of_each_family_that_the_cluster_has(ranges: str, addresses: str) -> None:
    assert json.loads(drilling.config(Secret("t"), {"cluster-cidr": ranges}))["node-ip"] == addresses


@contextmanager
def listening() -> Iterator[int]:
    """Have a server that takes connections and says nothing, as most do that one should not speak to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in taken:
            each.close()


def closed_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_who_takes_a_connection_and_says_nothing_is_reached_and_who_takes_none_is_not() -> None:
    need(shutil.which("curl"), "curl")
    with listening() as port:
        script, stdin = drilling.outside([("127.0.0.1", port), ("localhost", port), ("127.0.0.1", closed_port())])
        done = subprocess.run(["sh", "-c", script], input=stdin, capture_output=True, check=False)
    # localhost may be ::1 first, where nobody listens
    assert {*done.stdout.decode().split("\n")} - {f"[::1] {port}"} == {f"127.0.0.1 {port}", ""}


@pytest.mark.parametrize("reached", [True, False])
def test_the_fence_ends_a_drill_that_reaches_one_of_its_addresses(tmp_path: Path, reached: bool) -> None:
    need(shutil.which("curl"), "curl")
    with listening() as port:
        ports = [closed_port(), port if reached else closed_port(), closed_port()]
        (tmp_path / "outs").write_text("".join(f"127.0.0.1 {each}\n" for each in ports))
        head = f"folder={tmp_path}\n{restoring.PRELUDE}\nstop_quiet() {{ :; }}\n"
        done = subprocess.run(["sh", "-c", head + drilling._FENCE], capture_output=True, text=True, check=False)
    progress = tmp_path / "progress"
    if reached:
        assert done.returncode == 1
        assert (tmp_path / "failed").read_text() == f"it has a way out: it reaches 127.0.0.1 port {port}\n"
        assert not progress.exists()
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert progress.read_text().startswith("fenced ")


def example() -> Build:
    from conftest import ROOT

    return Build(Paths(ROOT, "example"))


def test_every_server_each_ssh_and_what_the_cluster_names_has_to_be_out_of_reach() -> None:
    hosts = example().checked_hosts()
    outs = drill_host.outs(hosts, [("nas.example.com", 9000), (str(hosts[0].addresses[0]), 22)])
    servers = [str(host.addresses[0]) for host in hosts if host.role == "server"]
    assert [address for address, port in outs if port == 6443] == servers
    assert {address for address, port in outs if port == 22} == {str(host.addresses[0]) for host in hosts}
    assert ("nas.example.com", 9000) in outs
    assert len(outs) == len(set(outs))


@pytest.mark.parametrize(("machine", "file"), [("x86_64", "k3s"), ("aarch64", "k3s-arm64"), ("riscv64", "")])
def test_the_k3s_of_the_lock_file_is_that_for_the_hosts_processor(machine: str, file: str) -> None:
    host = next(host for host in example().checked_hosts() if host.role == "server")
    base = "https://github.com/k3s-io/k3s/releases/download"
    version = host.k3s.version.replace("+", "%2B")
    urls = [f"{base}/{version}/{name}" for name in ("k3s", "k3s-arm64")]
    release = Release(host, {url: artifacts.Entry("k3s", url, "0" * 64, 1, "") for url in urls})
    found = release.entry(machine)
    assert (found.url.rpartition("/")[2] if found else "") == file


@pytest.mark.parametrize(
    ("on", "offline", "says"),
    [
        ("nix", False, "--on nix: there is no such host (there are agent-1"),
        ("agent-1", True, "--on and --offline"),
    ],
)
def test_what_is_no_host_is_told_before_anything_is_read(on: str, offline: bool, says: str) -> None:
    with mock.patch.object(drill, "open_places") as opened, pytest.raises(UsageError) as caught:
        drill.run(example(), "", "", on, offline)
    assert says in str(caught.value)
    opened.assert_not_called()


def test_a_machine_that_is_none_of_the_clusters_is_called_as_it_is_written() -> None:
    build = example()
    where = drill._where(build, build.cluster(), "core@192.0.2.77")
    with where(Path("unused")) as site:
        assert (site.target.destination, site.target.options, site.how) == (
            "core@192.0.2.77", (), "on core@192.0.2.77,"
        )  # fmt: skip
        assert site.machine_id == ""


def test_a_key_in_what_is_run_in_there_is_quoted() -> None:
    inside = drilling._inside("echo 'a b' \"$x\"")
    assert re.search(r"sh -c '.*'$", inside.strip().splitlines()[-1])
    done = subprocess.run(["sh", "-nc", inside], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr

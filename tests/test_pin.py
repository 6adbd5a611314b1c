"""./doit lock against a mirror on this machine, which has what it should have, or does not."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

import website
from conftest import Done, Project, need
from i12e import engine, pin, screen
from i12e.fetch import Client
from website import Site

K3S = "/k3s-io/k3s/releases/download/v1.35.4+k3s1"
ETCD = "/etcd-io/etcd/releases/download/v3.6.7"
RCLONE = "/rclone/rclone/releases/download/v1.71.0"
AGE = "/FiloSottile/age/releases/download/v1.2.1/age-v1.2.1-linux-amd64.tar.gz"
AGE_RELEASE = "/repos/FiloSottile/age/releases/tags/v1.2.1"
PROGRAMS = "artifacts: {etcdctl: v3.6.7, rclone: v1.71.0, age: v1.2.1}\n"
LOCK = "hosts/example/artifacts.lock"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Place:
    """A project whose cluster has a mirror, and the mirror."""

    project: Project
    site: Site

    def put(self, folder: str, sums: str, **contents: bytes) -> None:
        """Put files of a release onto the mirror, and the list of their checksums."""
        for name, content in contents.items():
            self.site.files[f"{folder}/{name}"] = content
        lines = (f"{sha256(content)}  {name}\n" for name, content in contents.items())
        self.site.files[f"{folder}/{sums}"] = "".join(lines).encode()

    def configure(self, more: str = "") -> None:
        """Write the cluster's file, with the mirror and what else a test wants."""
        path = self.project.root / "hosts/example/cluster.yaml"
        text = path.read_text().partition("mirror:")[0]
        path.write_text(f"{text}mirror: {self.site.url}\n{more}")

    def doit(self, *args: str) -> Done:
        return self.project.doit(*args, tasks=engine.lock_task)

    def lock(self, *args: str) -> str:
        """Run ./doit lock, which must succeed; return the lock file."""
        done = self.doit("lock", *args)
        assert done.status == 0, done.err
        return self.text()

    def fails(self, *args: str) -> list[str]:
        """Run ./doit lock, which must fail and leave the lock file as it is; return the problems, a line each."""
        before = self.text() if self.path.exists() else None
        done = self.doit("lock", *args)
        assert done.status == 1, done.out
        assert "Traceback" not in done.err
        assert (self.text() if self.path.exists() else None) == before
        waits = ("reading ", "looking at ", "downloading ")
        said = [line for line in done.err.splitlines() if not line.startswith(waits) and "; trying again" not in line]
        return [line.replace(self.site.url, "MIRROR") for line in said]

    @property
    def path(self) -> Any:
        return self.project.root / LOCK

    def text(self) -> str:
        return str(self.path.read_text())

    def entries(self) -> dict[str, dict[str, Any]]:
        return {entry["artifact"]: entry for entry in yaml.safe_load(self.text())["artifacts"]}


@pytest.fixture
def place(small: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pin, "Client", functools.partial(Client, pause=lambda seconds: None))
    with website.serve() as site:
        found = Place(small, site)
        found.put(K3S, "sha256sum-amd64.txt", **{"k3s": b"k3s of amd64", "k3s-airgap-images-amd64.tar": b"x"})
        found.put(K3S, "sha256sum-arm64.txt", **{"k3s-arm64": b"k3s of arm64"})
        etcd = {f"etcd-v3.6.7-linux-{arch}.tar.gz": f"etcd of {arch}".encode() for arch in ("amd64", "arm64")}
        found.put(ETCD, "SHA256SUMS", **etcd)
        found.put(RCLONE, "SHA256SUMS", **{"rclone-v1.71.0-linux-amd64.zip": b"rclone"})
        site.files[AGE] = b"age"
        site.files[AGE_RELEASE] = release(b"age")
        found.configure(PROGRAMS)
        yield found


def release(age: bytes) -> bytes:
    """Return what GitHub's API would tell of age's release."""
    asset = {"name": AGE.rpartition("/")[2], "digest": f"sha256:{sha256(age)}", "size": len(age)}
    return json.dumps({"assets": [asset]}).encode()


# --- what it writes


def test_it_pins_everything_that_hosts_fetch_with_the_hashes_of_the_lists(place: Place) -> None:
    place.lock()
    assert place.entries() == {
        "k3s v1.35.4+k3s1 amd64": {
            "artifact": "k3s v1.35.4+k3s1 amd64",
            "url": f"{place.site.url}/k3s-io/k3s/releases/download/v1.35.4%2Bk3s1/k3s",
            "sha256": sha256(b"k3s of amd64"),
            "size": 12,
            "checksums": f"{place.site.url}/k3s-io/k3s/releases/download/v1.35.4%2Bk3s1/sha256sum-amd64.txt",
        },
        "etcdctl v3.6.7 amd64": {
            "artifact": "etcdctl v3.6.7 amd64",
            "url": f"{place.site.url}{ETCD}/etcd-v3.6.7-linux-amd64.tar.gz",
            "sha256": sha256(b"etcd of amd64"),
            "size": 13,
            "checksums": f"{place.site.url}{ETCD}/SHA256SUMS",
        },
        "rclone v1.71.0 amd64": {
            "artifact": "rclone v1.71.0 amd64",
            "url": f"{place.site.url}{RCLONE}/rclone-v1.71.0-linux-amd64.zip",
            "sha256": sha256(b"rclone"),
            "size": 6,
            "checksums": f"{place.site.url}{RCLONE}/SHA256SUMS",
        },
        "age v1.2.1 amd64": {
            "artifact": "age v1.2.1 amd64",
            "url": f"{place.site.url}{AGE}",
            "sha256": sha256(b"age"),
            "size": 3,
            "checksums": f"{place.site.url}{AGE_RELEASE}",
        },
    }


def test_no_file_is_downloaded_where_a_list_gives_its_hash(place: Place) -> None:
    place.site.files[f"{K3S}/k3s"] = website.drip
    place.lock()
    assert place.entries()["k3s v1.35.4+k3s1 amd64"]["size"] == 1 << 30


def test_the_file_is_sorted_and_the_same_again(place: Place) -> None:
    text = place.lock()
    urls = [line for line in text.splitlines() if "    url: " in line]
    assert urls == sorted(urls)
    assert len(urls) == 4
    inode = place.path.stat().st_ino
    done = place.doit("lock")
    assert (done.status, done.out.splitlines()) == (0, [done.out.strip()])
    assert "nothing to do" in done.out
    assert (place.text(), place.path.stat().st_ino) == (text, inode)


def test_a_host_of_another_processor_adds_its_files_and_changes_no_line_of_the_others(place: Place) -> None:
    before = place.lock()
    place.project.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\nos: {arch: arm64}\n"
                        "artifacts: {rclone: null, age: null}\n")  # fmt: skip
    done = place.doit("lock")
    assert done.lines == ["LOCK     k3s v1.35.4+k3s1 arm64  (new)"]
    after = place.text()
    assert set(before.splitlines()) < set(after.splitlines())
    assert place.entries()["k3s v1.35.4+k3s1 arm64"]["sha256"] == sha256(b"k3s of arm64")


def test_what_no_host_fetches_any_more_goes(place: Place) -> None:
    place.lock()
    place.configure("artifacts: {rclone: v1.71.0}\n")
    done = place.doit("lock")
    assert done.lines == [
        "LOCK     age v1.2.1 amd64  (no host fetches it)",
        "LOCK     etcdctl v3.6.7 amd64  (no host fetches it)",
    ]
    assert sorted(place.entries()) == ["k3s v1.35.4+k3s1 amd64", "rclone v1.71.0 amd64"]


def test_everybody_may_read_the_file_and_nothing_else_is_left(place: Place) -> None:
    before = os.umask(0o022)
    try:
        place.lock()
    finally:
        os.umask(before)
    assert place.path.stat().st_mode & 0o777 == 0o644
    assert [name for name in os.listdir(place.path.parent) if "lock" in name] == ["artifacts.lock"]


def test_json_tells_urls_and_hashes(place: Place) -> None:
    document = json.loads(place.doit("lock", "--json").out)
    assert document["problems"] == []
    told = {result["what"]: result["sha256"] for result in document["results"]}
    assert told == {title: entry["sha256"] for title, entry in place.entries().items()}


def test_jq_reads_it(place: Place) -> None:
    need(shutil.which("jq"), "jq (Debian: apt-get install jq)")
    out = place.doit("lock", "--json").out
    done = subprocess.run(["jq", "-r", ".results[].url"], input=out, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(entry["url"] for entry in place.entries().values())


# --- what it refuses, all at once


def test_all_problems_are_told_at_once_and_nothing_is_written(place: Place) -> None:
    place.site.files |= {
        f"{K3S}/sha256sum-amd64.txt": f"{'a' * 64}  k3s-armhf\n".encode(),
        f"{ETCD}/SHA256SUMS": website.cut(b"x" * 1000, 10),
        f"{RCLONE}/rclone-v1.71.0-linux-amd64.zip": website.status(404),
        AGE_RELEASE: website.status(403),
    }
    k3s, file = "MIRROR/k3s-io/k3s/releases/download/v1.35.4%2Bk3s1/sha256sum-amd64.txt", LOCK
    server = place.site.url.removeprefix("http://")
    asked, again = (
        f"(is the release named right, and does {server} have it?)",
        f"(look at the way to {server}, and try again)",
    )
    lost, absent = "the connection was lost after 10 of 1000 bytes (3 tries)", "the server answered 404 Not Found"
    trust = "(./doit lock --trust k3s downloads it and takes the hash of what comes)"
    assert place.fails() == [
        f"{file}: age v1.2.1 amd64: MIRROR{AGE_RELEASE}: the server answered 403 Forbidden {again}",
        f"{file}: etcdctl v3.6.7 amd64: MIRROR{ETCD}/SHA256SUMS: {lost} {again}",
        f"{file}: k3s v1.35.4+k3s1 amd64: no list gives its sha256: {k3s} does not tell one for k3s {trust}",
        f"{file}: rclone v1.71.0 amd64: MIRROR{RCLONE}/rclone-v1.71.0-linux-amd64.zip: {absent} {asked}",
    ]


def test_a_list_that_says_two_things_is_refused(place: Place) -> None:
    place.site.files[f"{K3S}/sha256sum-amd64.txt"] = f"{'a' * 64}  k3s\n{'b' * 64}  k3s\n".encode()
    (problem,) = place.fails()
    assert "tells more than one sha256 of k3s" in problem


def test_a_file_of_another_size_than_its_list_says_is_refused(place: Place) -> None:
    place.site.files[AGE] = b"<html>log in</html>"
    (problem,) = place.fails()
    assert f"MIRROR{AGE} has 19 bytes, its list says 3" in problem


def test_a_fault_of_a_hosts_file_is_told_and_nothing_is_fetched(place: Place) -> None:
    place.project.write("hosts/example/agent-1.yaml", "rolle: agent\n")
    assert any("rolle: is not a known key" in line for line in place.fails())
    assert place.site.asked == []


def test_a_mirror_by_http_is_only_that_of_the_cluster(place: Place) -> None:
    with website.serve() as other:
        other.files["/sums"] = f"{'a' * 64}  k3s\n".encode()
        place.site.files[f"{K3S}/sha256sum-amd64.txt"] = website.moved(f"{other.url}/sums")
        (problem,) = place.fails()
        assert f"{other.url}/sums is not https" in problem
        assert other.asked == []


# --- a release that changes


def test_a_hash_that_is_another_one_now_is_refused_until_the_entry_is_deleted(place: Place) -> None:
    text = place.lock()
    place.put(K3S, "sha256sum-amd64.txt", k3s=b"k3s of a MAN")
    (problem,) = place.fails()
    line = next(n for n, told in enumerate(text.splitlines(), 1) if "artifact: " in told and '"k3s ' in told)
    assert problem.startswith(f"{LOCK}:{line}: k3s v1.35.4+k3s1 amd64: MIRROR")
    assert f"says sha256 {sha256(b'k3s of a MAN')}, but it is locked with {sha256(b'k3s of amd64')}" in problem
    assert "a release does not change" in problem
    place.path.unlink()
    place.lock()
    assert place.entries()["k3s v1.35.4+k3s1 amd64"]["sha256"] == sha256(b"k3s of a MAN")


def test_a_file_whose_size_is_another_one_now_is_refused(place: Place) -> None:
    place.lock()
    place.site.files[f"{K3S}/k3s"] = b"<html>"
    (problem,) = place.fails()
    assert "has 6 bytes, it is locked with 12" in problem


def test_another_mirror_must_have_the_same_release(place: Place) -> None:
    place.lock()
    with website.serve() as other:
        mirror = Place(place.project, other)
        other.files |= place.site.files
        mirror.put(K3S, "sha256sum-amd64.txt", k3s=b"k3s of other")
        mirror.configure(PROGRAMS)
        (problem,) = mirror.fails()
        assert f"but the same release at {place.site.url}" in problem
        other.files |= place.site.files
        assert place.site.url not in mirror.lock()


# --- no list: only what the user asks for


def test_a_hash_that_no_list_gives_is_refused_with_what_to_do(place: Place) -> None:
    del place.site.files[AGE_RELEASE]
    (problem,) = place.fails()
    assert problem == (
        f"{LOCK}: age v1.2.1 amd64: no list gives its sha256: MIRROR{AGE_RELEASE}: the server answered 404 Not Found"
        " (./doit lock --trust age downloads it and takes the hash of what comes)"
    )


def test_by_trust_the_hash_is_that_of_the_download_and_the_file_says_so(place: Place) -> None:
    del place.site.files[AGE_RELEASE]
    done = place.doit("lock", "--trust", "age")
    assert "LOCK     age v1.2.1 amd64  (trusted on first use)" in done.lines
    entry = place.entries()["age v1.2.1 amd64"]
    assert (entry["sha256"], entry["size"]) == (sha256(b"age"), 3)
    assert entry["checksums"] == "none, trusted on first use"


def test_what_is_trusted_once_is_not_downloaded_again_and_stays_as_it_is(place: Place) -> None:
    del place.site.files[AGE_RELEASE]
    text = place.lock("--trust", "age")
    place.site.files[AGE] = b"AGE"
    assert place.lock() == text
    assert place.lock("--trust", "age") == text


def test_what_was_trusted_is_compared_once_a_list_gives_a_hash(place: Place) -> None:
    del place.site.files[AGE_RELEASE]
    place.lock("--trust", "age")
    place.site.files[AGE_RELEASE] = release(b"EGA")
    (problem,) = place.fails()
    assert f"but it is locked with {sha256(b'age')}" in problem
    place.site.files[AGE_RELEASE] = release(b"age")
    assert place.doit("lock").lines == ["LOCK     age v1.2.1 amd64  (changed)"]
    assert place.entries()["age v1.2.1 amd64"]["checksums"] == f"{place.site.url}{AGE_RELEASE}"


def test_trust_does_not_reach_what_a_list_gives_and_does_not_cover_a_server_that_fails(place: Place) -> None:
    place.lock("--trust", "k3s")
    assert place.entries()["k3s v1.35.4+k3s1 amd64"]["checksums"] != "none, trusted on first use"
    place.site.files[f"{K3S}/sha256sum-amd64.txt"] = website.status(503)
    (problem,) = place.fails("--trust", "k3s")
    assert "503" in problem


def test_a_list_that_is_gone_lets_nobody_in_with_another_hash(place: Place) -> None:
    place.lock()
    del place.site.files[f"{K3S}/sha256sum-amd64.txt"]
    (problem,) = place.fails()
    assert "no list gives its sha256" in problem
    place.site.files[f"{K3S}/k3s"] = b"k3s of a MAN"
    (problem,) = place.fails("--trust", "k3s")
    assert f"the download says sha256 {sha256(b'k3s of a MAN')}, but it is locked with" in problem


@pytest.mark.parametrize("answer", [website.cut(b"age" * 1000, 10), website.unsized(b"age")], ids=["cut", "unsized"])
def test_a_download_that_is_not_whole_is_not_trusted(place: Place, answer: website.Answer) -> None:
    del place.site.files[AGE_RELEASE]
    place.site.files[AGE] = answer
    (problem,) = place.fails("--trust", "age")
    assert "age v1.2.1 amd64: MIRROR" in problem


def test_trust_in_what_nobody_fetches_is_a_mistake(place: Place) -> None:
    assert place.fails("--trust", "etcd") == ["--trust etcd: no host fetches it (did you mean etcdctl?)"]
    assert place.site.asked == []


# --- lock --check


def test_check_says_that_all_is_as_published(place: Place) -> None:
    text = place.lock()
    done = place.doit("lock", "--check")
    assert done.status == 0, done.err
    assert done.lines == [
        "CHECK    age v1.2.1 amd64  (as published)",
        "CHECK    etcdctl v3.6.7 amd64  (as published)",
        "CHECK    k3s v1.35.4+k3s1 amd64  (as published)",
        "CHECK    rclone v1.71.0 amd64  (as published)",
    ]
    assert place.text() == text


def test_check_names_what_was_only_trusted(place: Place) -> None:
    del place.site.files[AGE_RELEASE]
    place.lock("--trust", "age")
    done = place.doit("lock", "--check")
    assert done.status == 0
    assert done.lines[0] == "CHECK    age v1.2.1 amd64  (not checked: none, trusted on first use)"


def test_check_without_a_lock_file_fails(place: Place) -> None:
    assert place.fails("--check") == [
        f"{LOCK}: is not there (./doit lock makes it; until then hosts install k3s by its own script)"
    ]


def test_check_tells_all_that_is_lacking_stale_or_changed_and_writes_nothing(place: Place) -> None:
    place.configure("artifacts: {rclone: v1.71.0, age: v1.2.1}\n")
    text = place.lock()
    place.configure("artifacts: {rclone: v1.71.0, etcdctl: v3.6.7}\n")
    place.put(K3S, "sha256sum-amd64.txt", k3s=b"k3s of a MAN")
    problems = place.fails("--check")
    sums = "MIRROR/k3s-io/k3s/releases/download/v1.35.4%2Bk3s1/sha256sum-amd64.txt"
    says = f"says sha256 {sha256(b'k3s of a MAN')}, but it is locked with {sha256(b'k3s of amd64')}"
    assert [problem.partition(" (")[0].removeprefix(LOCK) for problem in problems] == [
        ": lacks etcdctl v3.6.7 amd64",
        ":5: has age v1.2.1 amd64",
        f":10: k3s v1.35.4+k3s1 amd64: {sums} {says}",
    ]
    assert place.text() == text
    document = json.loads(place.doit("lock", "--check", "--json").out)
    assert [problem["line"] for problem in document["problems"]] == [None, 5, 10]


def test_check_needs_no_right_to_write_and_no_lock_of_the_run(place: Place) -> None:
    place.lock()
    shutil.rmtree(place.project.root / "build", ignore_errors=True)
    place.doit("lock", "--check")
    assert not (place.project.root / "build/example/lock").exists()


# --- progress


def test_each_wait_is_told(place: Place) -> None:
    err = place.doit("lock").err.splitlines()
    assert f"reading {place.site.url}{ETCD}/SHA256SUMS" in err
    assert f"looking at {place.site.url}{AGE}" in err


def test_a_long_download_tells_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("i12e.screen.time.monotonic", lambda: now[0])
    tell = screen.meter("age")
    for second in range(25):
        now[0] = second
        tell(second * 1_000_000, 25_000_000)
    assert capsys.readouterr().err.splitlines() == ["age: 10.0 of 25.0 MB", "age: 20.0 of 25.0 MB"]

"""Where makers publish what hosts fetch, and what their lists of checksums say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from i12e import releases
from i12e.model import Host
from i12e.releases import Artifact, Published
from test_model import CLUSTER, SERVER, load

A, B = "a" * 64, "b" * 64
GITHUB = "https://github.com"
ALL = "artifacts: {etcdctl: v3.6.7, rclone: v1.71.0, age: v1.3.1, sysexts: {wasmtime: v24.0.0}}\n"

# As rclone's release has it: k3s's, etcd's and the bakery's are the same without the signature.
SIGNED = f"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA1

{A}  rclone-v1.71.0-linux-amd64.zip
{B}  rclone-v1.71.0-linux-arm64.zip
-----BEGIN PGP SIGNATURE-----

iF0EARECAB0WIQT79zfs6firGGBL0qyTk14C/ztU+gUCZLVKJQAKCRCTk14C/ztU
-----END PGP SIGNATURE-----
"""
RELEASE = {  # of what GitHub's API tells of a release, the part that counts
    "tag_name": "v1.3.1",
    "assets": [
        {"name": "age-v1.3.1-linux-amd64.tar.gz", "size": 123, "digest": f"sha256:{A}"},
        {"name": "age-v1.3.1-linux-arm64.tar.gz", "size": 456, "digest": None},
        {"name": "age-v1.3.1-linux-arm.tar.gz", "size": 456, "digest": f"sha512:{A}{A}"},
        {"name": "age-v1.3.1-source.tar.gz"},
    ],
}


def host(more: str = "", cluster: str = CLUSTER) -> Host:
    """Return a server with what its file says more."""
    fleet = load(cluster, server_1=SERVER + more)
    assert fleet.problems == []
    return fleet.hosts["server-1"]


def urls(artifacts: list[Artifact]) -> dict[str, tuple[str, str]]:
    return {artifact.title: (artifact.url, artifact.checksums) for artifact in artifacts}


def test_a_server_fetches_what_its_file_names_from_where_the_makers_have_it() -> None:
    k3s, etcd = (
        f"{GITHUB}/k3s-io/k3s/releases/download/v1.35.4%2Bk3s1",
        f"{GITHUB}/etcd-io/etcd/releases/download/v3.6.7",
    )
    rclone = f"{GITHUB}/rclone/rclone/releases/download/v1.71.0"
    age = f"{GITHUB}/FiloSottile/age/releases/download/v1.3.1"
    bakery = f"{GITHUB}/flatcar/sysext-bakery/releases/download/wasmtime-v24.0.0"
    assert urls(releases.wanted(host(ALL))) == {
        "k3s v1.35.4+k3s1 amd64": (f"{k3s}/k3s", f"{k3s}/sha256sum-amd64.txt"),
        "etcdctl v3.6.7 amd64": (f"{etcd}/etcd-v3.6.7-linux-amd64.tar.gz", f"{etcd}/SHA256SUMS"),
        "rclone v1.71.0 amd64": (f"{rclone}/rclone-v1.71.0-linux-amd64.zip", f"{rclone}/SHA256SUMS"),
        "age v1.3.1 amd64": (
            f"{age}/age-v1.3.1-linux-amd64.tar.gz",
            "https://api.github.com/repos/FiloSottile/age/releases/tags/v1.3.1",
        ),
        "wasmtime v24.0.0 amd64": (f"{bakery}/wasmtime-v24.0.0-x86-64.raw", f"{bakery}/SHA256SUMS"),
    }


def test_on_arm64_files_have_the_names_that_the_makers_give_them() -> None:
    found = [artifact.file for artifact in releases.wanted(host(ALL + "os: {arch: arm64}\n"))]
    assert found == [
        "k3s-arm64",
        "etcd-v3.6.7-linux-arm64.tar.gz",
        "rclone-v1.71.0-linux-arm64.zip",
        "age-v1.3.1-linux-arm64.tar.gz",
        "wasmtime-v24.0.0-arm64.raw",
    ]
    assert releases.k3s(host("os: {arch: arm64}\n")).checksums.endswith("/sha256sum-arm64.txt")


def test_a_mirror_has_everything_under_the_same_paths() -> None:
    upstream = urls(releases.wanted(host(ALL)))
    mirrored = urls(releases.wanted(host(ALL + "mirror: http://mirror.example.com/pub\n")))
    for title, places in upstream.items():
        for place, other in zip(places, mirrored[title], strict=True):
            assert other == "http://mirror.example.com/pub/" + place.split("/", 3)[3]


def test_etcdctl_is_for_servers_on_etcd_and_the_other_programs_are_for_all() -> None:
    fleet = load(CLUSTER + ALL, server_1=SERVER, agent_1="role: agent\naddresses: [192.0.2.21]\n")
    assert [one.name for one in releases.programs(fleet.hosts["agent-1"])] == ["rclone", "age"]
    sqlite = CLUSTER.replace("version:", "datastore: sqlite\n  version:")
    assert [one.name for one in releases.programs(host(ALL, sqlite))] == ["rclone", "age"]


def test_without_anything_named_a_host_fetches_k3s_alone_and_can_refuse_what_the_cluster_has() -> None:
    assert [one.name for one in releases.wanted(host())] == ["k3s"]
    refused = "artifacts: {etcdctl: null, rclone: null, age: null, sysexts: {wasmtime: null}}\n"
    assert [one.name for one in releases.wanted(host(refused, CLUSTER + ALL))] == ["k3s"]


# --- checksums


@pytest.mark.parametrize(
    "line",
    ["{A}  k3s", "{A} *k3s", "{A}  ./k3s", "{A}  k3s\r", "{A}  k3s  "],
    ids=["text", "binary", "with ./", "of Windows", "with spaces behind"],
)
def test_a_line_of_sha256sums_gives_the_hash_of_its_file(line: str) -> None:
    text = f"{B}  k3s-arm64\n{B}  k3s-airgap-images-amd64.tar\n{line.format(A=A)}\n".encode()
    assert releases.published(text, "k3s") == Published(A)


def test_a_hash_in_capitals_is_the_same_hash() -> None:
    assert releases.published(f"{A.upper()}  k3s\n".encode(), "k3s") == Published(A)


def test_a_signed_list_gives_the_hashes_between_the_lines_of_its_signature() -> None:
    assert releases.published(SIGNED.encode(), "rclone-v1.71.0-linux-arm64.zip") == Published(B)


@pytest.mark.parametrize(
    "text",
    ["", f"{A}\n", f"{A[1:]}  k3s\n", f"{A}  k3s-arm64\n", f"{A}  bin/k3s\n", f"{A}k3s\n", "<html>log in</html>\n"],
)
def test_a_list_without_the_files_name_gives_nothing(text: str) -> None:
    assert releases.published(text.encode(), "k3s") is None


def test_a_list_with_two_hashes_for_a_file_is_refused_and_one_that_says_the_same_twice_is_not() -> None:
    with pytest.raises(ValueError, match="more than one sha256 of k3s"):
        releases.published(f"{A}  k3s\n{B}  k3s\n".encode(), "k3s")
    assert releases.published(f"{A}  k3s\n{A}  k3s\n".encode(), "k3s") == Published(A)


def test_what_github_tells_of_a_release_gives_hash_and_size() -> None:
    assert releases.published(json.dumps(RELEASE).encode(), "age-v1.3.1-linux-amd64.tar.gz") == Published(A, 123)


@pytest.mark.parametrize(
    "file", ["age-v1.3.1-linux-arm64.tar.gz", "age-v1.3.1-linux-arm.tar.gz", "age-v1.3.1-source.tar.gz", "x"]
)
def test_a_file_without_a_digest_of_sha256_has_none(file: str) -> None:
    assert releases.published(json.dumps(RELEASE).encode(), file) is None


@pytest.mark.parametrize(
    "told",
    [{}, {"assets": None}, {"assets": {}}, {"assets": [1]}, {"assets": [{}]}, {"assets": [{"name": "x", "digest": 1}]}],
)
def test_json_of_another_kind_gives_nothing(told: Any) -> None:
    assert releases.published(json.dumps(told).encode(), "x") is None
    assert releases.published(b"{" + json.dumps(told).encode(), "x") is None

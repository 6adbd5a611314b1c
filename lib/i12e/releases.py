"""What makers of programs publish where: a release's files, and the lists of their checksums.

The places, looked up at the makers' (docs/artifacts.md has them in words):

    k3s      github.com/k3s-io/k3s            sha256sum-ARCH.txt
    etcd     github.com/etcd-io/etcd          SHA256SUMS
    rclone   github.com/rclone/rclone         SHA256SUMS, inside of a PGP signature
    age      github.com/FiloSottile/age       no list; GitHub's API tells a digest for what came since June 2025
    sysexts  github.com/flatcar/sysext-bakery SHA256SUMS

A mirror has them under the same paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from i12e.model import Host

FILES = "https://github.com"
API = "https://api.github.com"

_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(\S+)\Z")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})\Z")
_OF_SYSEXTS = {"amd64": "x86-64", "arm64": "arm64"}  # how systemd names processors


@dataclass(frozen=True)
class Artifact:
    """A file of a release, for one processor; `url` is where hosts fetch it."""

    name: str
    version: str
    arch: str
    url: str
    checksums: str
    """The URL of what tells its sha256."""
    programs: tuple[str, ...] = ()
    """What hosts take out of it, as paths in the archive; nothing if it is no archive."""

    @property
    def title(self) -> str:
        """Its name, version and processor, as people read them."""
        return f"{self.name} {self.version} {self.arch}"

    @property
    def file(self) -> str:
        """The file's name."""
        return unquote(self.url.rpartition("/")[2])


@dataclass(frozen=True)
class Published:
    """What a list of checksums says of a file: its sha256 in small letters, its size if told."""

    sha256: str
    size: int | None = None


def k3s(host: Host) -> Artifact:
    """Given a host, return its k3s: one program, no archive."""
    version, arch = host.k3s.version, host.os.arch
    file = "k3s" if arch == "amd64" else f"k3s-{arch}"
    return _artifact(host, "k3s", version, "k3s-io/k3s", file, f"sha256sum-{arch}.txt")


def programs(host: Host) -> Iterator[Artifact]:
    """Given a host, yield the archives of the further programs that it is to have."""
    chosen, arch = host.artifacts, host.os.arch
    if chosen.etcdctl and host.role == "server" and host.k3s.datastore == "etcd":
        folder = f"etcd-{chosen.etcdctl}-linux-{arch}"
        both = (f"{folder}/etcdctl", f"{folder}/etcdutl")
        yield _artifact(host, "etcdctl", chosen.etcdctl, "etcd-io/etcd", f"{folder}.tar.gz", "SHA256SUMS", both)
    if chosen.rclone:
        folder = f"rclone-{chosen.rclone}-linux-{arch}"
        one = (f"{folder}/rclone",)
        yield _artifact(host, "rclone", chosen.rclone, "rclone/rclone", f"{folder}.zip", "SHA256SUMS", one)
    if chosen.age:
        file, two = f"age-{chosen.age}-linux-{arch}.tar.gz", ("age/age", "age/age-keygen")
        release = f"{host.mirror or API}/repos/FiloSottile/age/releases/tags/{quote(chosen.age, safe='')}"
        yield _artifact(host, "age", chosen.age, "FiloSottile/age", file, release, two)


def sysexts(host: Host) -> Iterator[Artifact]:
    """Given a host, yield the images of the system extensions that it is to have."""
    for name, version in sorted(host.artifacts.sysexts.items()):
        if version:
            file = f"{name}-{version}-{_OF_SYSEXTS[host.os.arch]}.raw"
            url = _url(host, "flatcar/sysext-bakery", f"{name}-{version}", file)
            sums = _url(host, "flatcar/sysext-bakery", f"{name}-{version}", "SHA256SUMS")
            yield Artifact(name, version, host.os.arch, url, sums)


def wanted(host: Host) -> list[Artifact]:
    """Given a host, return everything that it fetches if it fetches by a lock file."""
    return [k3s(host), *programs(host), *sysexts(host)]


def _artifact(
    host: Host, name: str, version: str, repository: str, file: str, checksums: str, inside: tuple[str, ...] = ()
) -> Artifact:
    if "://" not in checksums:
        checksums = _url(host, repository, version, checksums)
    return Artifact(name, version, host.os.arch, _url(host, repository, version, file), checksums, inside)


def _url(host: Host, repository: str, tag: str, file: str) -> str:
    # + becomes %2B: some storage behind mirrors reads a + as a space
    release = f"{host.mirror or FILES}/{repository}/releases/download/{quote(tag, safe='')}"
    return f"{release}/{quote(file, safe='')}"


def published(text: bytes, file: str) -> Published | None:
    """Given a list of checksums and a file's name, return what it says of the file, or None if nothing.

    The list is one of sha256sum's, whatever stands around its lines (a PGP signature does, which is not checked
    here), or the JSON that GitHub's API tells of a release. Raise ValueError if it says two things.
    """
    found = set(_of_release(text, file) if text.lstrip()[:1] == b"{" else _of_sums(text, file))
    if len({one.sha256 for one in found}) > 1:
        raise ValueError(f"tells more than one sha256 of {file}")
    return next(iter(found), None)


def _of_sums(text: bytes, file: str) -> Iterator[Published]:
    for line in text.decode(errors="replace").splitlines():
        match = _SUM.match(line.rstrip())
        if match and match[2] == file:
            yield Published(match[1].lower())


def _of_release(text: bytes, file: str) -> Iterator[Published]:
    try:
        assets: Any = json.loads(text)["assets"]
        told = [(asset["name"], asset.get("digest"), asset.get("size")) for asset in assets]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for name, digest, size in told:
        match = _DIGEST.match(digest) if isinstance(digest, str) else None
        if match and name == file:
            yield Published(match[1].lower(), size if type(size) is int and size > 0 else None)

"""What a backup has beside the database: files of the repository, of the hosts, and the paths that the user names."""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from i12e import collect, paths, remote, spread
from i12e.build import Build
from i12e.bundle import Sums
from i12e.errors import Problem, UserError
from i12e.facts import Facts, HostFacts, Silent
from i12e.fleet import Hosts
from i12e.paths import Paths
from i12e.secrets import Secret
from i12e.settings import Cluster, ExtraPath

_COMMAND = 3600.0  # seconds in which a command before or after a path may be silent
_MANY = 8  # hosts whose files are taken at once
_PIECE = 1 << 20


@dataclass(frozen=True)
class Content:
    """A part that is to be sealed."""

    name: str
    what: str
    source: Callable[[], Iterable[bytes]]
    expected: Sums | None = None
    """What it has to be, where that was checked before."""
    host: str = ""
    path: ExtraPath | None = None


@dataclass
class Report:
    """What a backup should have had and has not, and what went wrong on the way."""

    lacks: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def lack(self, said: str) -> None:
        """Given what the backup will not have, and why, write that down."""
        self.lacks.append(said)
        self.problems.append(Problem("", None, None, f"the backup lacks {said}"))


class Unread(Exception):
    """A path of a host could not be read; `why` is empty where it is not there."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Contents:
    """The files of a cluster; what is missing goes into the report."""

    def __init__(
        self, build: Build, cluster: Cluster, hosts: Hosts, facts: Mapping[str, Facts], report: Report
    ) -> None:
        self.report = report
        self._build = build
        self._cluster = cluster
        self._hosts = hosts
        self._facts = facts

    def of_cluster(self) -> Iterator[bytes]:
        """Yield a tar of the repository's files of this environment, and of the tokens that it has now."""
        own = self._build.paths
        with tempfile.TemporaryFile(dir=own.root / own.build) as file:
            with tarfile.open(fileobj=file, mode="w|") as tar:
                for name in (own.hosts, own.secrets, ".sops.yaml", "templates/local"):
                    if (own.root / name).exists():
                        tar.add(own.root / name, f"repo/{name}", filter=_plain_entry(own))
                for name, value in self._tokens():
                    _add(tar, f"tokens/{name}", value.reveal().encode() + b"\n")
            yield from blocks(file)

    def _tokens(self) -> Iterator[tuple[str, Secret]]:
        group = self._build.group("cluster")
        for name in ("server_token", "agent_token"):
            if isinstance(value := group.get(name), Secret):
                yield name, value

    def of_hosts(self) -> Iterator[bytes]:
        """Yield a tar with a folder for each host: its tokens, configs, manifests, the password of its node."""
        names = [name for name, found in self._facts.items() if isinstance(found, HostFacts) and not found.is_bare]
        folder = self._build.paths.root / self._build.paths.build
        with ExitStack() as stack:
            with ThreadPoolExecutor(_MANY) as pool:
                sent = dict(zip(names, pool.map(lambda name: self._host_files(name, folder), names), strict=True))
            for each in sent.values():
                if not isinstance(each, str):
                    stack.enter_context(each)
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            with tarfile.open(fileobj=file, mode="w|") as tar:
                for name, each in sent.items():
                    if isinstance(each, str):
                        self.report.lack(f"the files of {name}: {each}")
                        continue
                    try:
                        _copied(each, tar, name)
                    except tarfile.TarError as error:
                        said = f"the files of {name} did not come as a tar: {error}"
                        raise UserError(Problem("", None, None, said)) from None
            yield from blocks(file)
        for name, found in self._facts.items():
            if isinstance(found, Silent):
                self.report.lack(f"the files of {name}: {found.why}")

    def _host_files(self, name: str, folder: Path) -> IO[bytes] | str:
        """Return a file without a name with the tar that a host sent, or why there is none."""
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by whoever reads it
        try:
            done = self._hosts[name].stream(collect.files_script(), lambda block: _write(file, block), quiet=120)
        except remote.Unreachable as error:
            file.close()
            return error.why
        if done.status:
            file.close()
            return (done.complaint.strip().splitlines() or [f"tar ended with status {done.status}"])[-1][:300]
        file.seek(0)
        return file

    def of_paths(self) -> Iterator[Content]:
        """Yield the extra paths, of the hosts that hold them."""
        for number, each in enumerate(self._cluster.backup.paths, start=1):
            for name, found in self._facts.items():
                if not each.on(name):
                    continue
                if isinstance(found, Silent):
                    self.report.lack(f"{each.path} of {name}: {found.why}")
                elif not found.is_bare:
                    source = self._path_source(name, each)
                    yield Content(f"path-{name}-{number}.tar.gz.age", "path", source, None, name, each)

    def _path_source(self, name: str, each: ExtraPath) -> Callable[[], Iterable[bytes]]:
        script = collect.path_script(each.path, each.before, each.after)

        def push(take: Callable[[bytes], None]) -> None:
            done = self._hosts[name].stream(script, take, quiet=_COMMAND)
            if done.status == collect.AFTER_FAILED:
                said = done.complaint.strip()[-300:]
                why = f"{name}: the command after {each.path} failed: {said}"
                self.report.problems.append(Problem("", None, None, why, "what it starts may be stopped: look"))
            elif done.status:
                raise Unread(_why_unread(done.status, done.complaint))

        return lambda: spread.pulled(push)


def _why_unread(status: int, complaint: str) -> str:
    said = (complaint.strip().splitlines() or [f"tar ended with status {status}"])[-1][:300]
    if status == collect.ABSENT:
        return ""
    return f"the command before it failed: {said}" if status == collect.BEFORE_FAILED else said


def blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield all of a file."""
    file.seek(0)
    while block := file.read(_PIECE):
        yield block


def _write(file: IO[bytes], block: bytes) -> None:
    file.write(block)


def _copied(sent: IO[bytes], tar: tarfile.TarFile, folder: str) -> None:
    """Given a tar, another one and a folder, put the entries of the first one into the second, below the folder."""
    with tarfile.open(fileobj=sent, mode="r|") as inner:
        for entry in inner:
            content = inner.extractfile(entry) if entry.isreg() else None
            entry.name = f"{folder}/{entry.name}"
            entry.linkname = f"{folder}/{entry.linkname}" if entry.islnk() else entry.linkname
            tar.addfile(entry, content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    tar.addfile(entry, io.BytesIO(content))


def _plain_entry(of: Paths) -> Callable[[tarfile.TarInfo], tarfile.TarInfo | None]:
    """Return what leaves out of a tar what is of other environments, and what is neither a file nor a folder."""
    others = {f"repo/{kind}/{name}" for kind in ("hosts", "secrets") for name in _environments(of)}

    def choose(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        regular = entry.isfile() or entry.isdir() or entry.issym()
        return entry if regular and entry.name not in others else None

    return choose


def _environments(of: Paths) -> list[str]:
    """Return the other environments of a checkout."""
    return [name for name in (*paths.environments(of.root), "example", "example-fcos") if name != of.env]

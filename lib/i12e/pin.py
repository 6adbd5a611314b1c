"""`./doit lock`: what the hosts fetch, looked up at the makers or at the mirror, into the lock file.

A hash comes from a list that the maker publishes, or is the one that the lock file has. Where no list gives
one, it is that of a download, if and only if the user asks for just that (--trust), and says so for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from i12e import artifacts, files, releases
from i12e.artifacts import TRUSTED, Entry
from i12e.errors import Problem, UserError, did_you_mean
from i12e.fetch import Client, Meter, NotFetched
from i12e.files import Files
from i12e.model import Host
from i12e.releases import Artifact, Published

Metered = Callable[[str], Meter]

_ASK = "ask who publishes it"
_CHANGED = "a release does not change: find out why; if it may, delete the entry, ./doit lock adds the new one"


def client_for(hosts: Iterable[Host], tell: Callable[[str], None]) -> Client:
    """Given the hosts and what takes a line for each wait, return a client that may fetch where they fetch."""
    return Client([host.mirror for host in hosts if host.mirror], tell)


def lock(
    place: Files, path: str, hosts: Iterable[Host], client: Client, trust: Iterable[str], meter: Metered
) -> list[dict[str, Any]]:
    """Given the lock file's path, the hosts, and the names of artifacts whose downloads are trusted, write the file.

    Return what was added, changed and removed, as lines for the report. Raise UserError with all problems, and
    write nothing then.
    """
    wanted = _wanted(hosts)
    trusted = _trusted(trust, wanted)
    before = artifacts.load(place, path)
    found = _Search(client, path, before or {}, trusted, meter).run(wanted)
    if found.problems:
        raise UserError(found.problems)
    content = artifacts.text(found.entries)
    if before is None or content != place.read(path):
        files.replace(place.root / path, content, mode=0o644)
        place.forget(path)
    return list(_changes(before or {}, found.entries))


def check(place: Files, path: str, hosts: Iterable[Host], client: Client) -> list[dict[str, Any]]:
    """Given the lock file's path and the hosts, return a line for the report if the file is what it should be.

    Raise UserError if it lacks something, has something that no host fetches, or says something else than what is
    published now. Nothing is written.
    """
    wanted = _wanted(hosts)
    before = artifacts.load(place, path)
    if before is None:
        remedy = "./doit lock makes it; until then hosts install k3s by its own script"
        raise UserError(Problem(path, None, None, "is not there", remedy))
    urls = {artifact.url for artifact in wanted}
    problems = [_missing(artifact, path) for artifact in wanted if artifact.url not in before]
    problems += [_stale(entry, path) for entry in before.values() if entry.url not in urls]
    there = [artifact for artifact in wanted if artifact.url in before]
    found = _Search(client, path, before, frozenset(), lambda name: lambda done, size: None).run(there)
    if problems or found.problems:
        raise UserError([*problems, *found.problems])
    return [_line(entry, "as published" if entry.checksums != TRUSTED else "not checked: " + TRUSTED, "CHECK")
            for entry in found.entries]  # fmt: skip


def _wanted(hosts: Iterable[Host]) -> list[Artifact]:
    found = {artifact.url: artifact for host in hosts for artifact in releases.wanted(host)}
    return [found[url] for url in sorted(found)]


def _trusted(names: Iterable[str], wanted: Iterable[Artifact]) -> frozenset[str]:
    known = sorted({artifact.name for artifact in wanted})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            Problem("", None, None, f"--trust {name}: no host fetches it", did_you_mean(name, known) or _one_of(known))
            for name in unknown
        )
    return frozenset(names)


def _one_of(known: list[str]) -> str:
    return f"they fetch {', '.join(known)}"


def _missing(artifact: Artifact, path: str) -> Problem:
    return Problem(path, None, None, f"lacks {artifact.title} ({artifact.url})", "./doit lock adds it")


def _stale(entry: Entry, path: str) -> Problem:
    rule = f"has {entry.artifact} ({entry.url}), which no host fetches"
    return Problem(path, entry.line, None, rule, "./doit lock removes it")


def _changes(before: Mapping[str, Entry], after: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    now = {entry.url: entry for entry in after}
    for entry in sorted(now.values(), key=lambda entry: entry.url):
        if entry.url not in before:
            yield _line(entry, TRUSTED.partition(", ")[2] if entry.checksums == TRUSTED else "new")
        elif entry != before[entry.url]:
            yield _line(entry, "changed")
    for url in sorted(before.keys() - now.keys()):
        yield _line(before[url], "no host fetches it", result="removed")


def _line(entry: Entry, remark: str, verb: str = "LOCK", result: str = "done") -> dict[str, Any]:
    facts = {"url": entry.url, "sha256": entry.sha256, "size": entry.size, "checksums": entry.checksums}
    return {"verb": verb, "what": entry.artifact, "result": result, "remark": remark, "facts": facts}


class _Wrong(Exception):
    """What is wrong with one artifact, what to do, and the line of the lock file that it is about."""

    def __init__(self, rule: str, remedy: str, line: int | None = None) -> None:
        super().__init__(rule)
        self.rule, self.remedy, self.line = rule, remedy, line or None


@dataclass
class _Search:
    """The looking up of artifacts: what was found, and everything that was not."""

    client: Client
    path: str
    before: Mapping[str, Entry]
    trusted: frozenset[str]
    meter: Metered
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _lists: dict[str, bytes | NotFetched] = field(default_factory=dict)

    def run(self, wanted: Iterable[Artifact]) -> _Search:
        """Given artifacts, look all of them up; return self."""
        for artifact in wanted:
            try:
                self.entries.append(self._entry(artifact))
            except _Wrong as wrong:
                rule = f"{artifact.title}: {wrong.rule}"
                self.problems.append(Problem(self.path, wrong.line, None, rule, wrong.remedy))
        return self

    def _entry(self, artifact: Artifact) -> Entry:
        known = self.before.get(artifact.url)
        found, why = self._published(artifact)
        if found is None:
            entry = self._without_list(artifact, known, why)
        else:
            self._compare(artifact, known, found.sha256, artifact.checksums)
            size = self._size(artifact)
            if found.size and size and found.size != size:
                raise _Wrong(f"{artifact.url} has {size} bytes, its list says {found.size}", _ASK)
            entry = Entry(artifact.title, artifact.url, found.sha256, size or found.size, artifact.checksums)
        if known and known.size and entry.size and known.size != entry.size:
            raise _Wrong(f"{artifact.url} has {entry.size} bytes, it is locked with {known.size}", _CHANGED, known.line)
        return replace(entry, size=entry.size or (known.size if known else None))

    def _published(self, artifact: Artifact) -> tuple[Published | None, str]:
        """Given an artifact, return what its list says of it, or None and why no list says anything."""
        where = artifact.checksums
        content = self._list(where)
        if isinstance(content, NotFetched):
            if content.absent:
                return None, f"{where}: {content}"
            raise _Wrong(f"{where}: {content}", _at(where, content))
        try:
            found = releases.published(content, artifact.file)
        except ValueError as error:
            raise _Wrong(f"{where} {error}", _ASK) from None
        return found, f"{where} does not tell one for {artifact.file}"

    def _list(self, url: str) -> bytes | NotFetched:
        if url not in self._lists:
            try:
                self._lists[url] = self.client.text(url)
            except NotFetched as error:
                self._lists[url] = error
        return self._lists[url]

    def _without_list(self, artifact: Artifact, known: Entry | None, why: str) -> Entry:
        if known and known.checksums == TRUSTED:
            return replace(known, size=self._size(artifact))
        if artifact.name not in self.trusted:
            remedy = f"./doit lock --trust {artifact.name} downloads it and takes the hash of what comes"
            raise _Wrong(f"no list gives its sha256: {why}", remedy)
        try:
            sha256, size = self.client.sha256(artifact.url, self.meter(artifact.title))
        except NotFetched as error:
            raise _Wrong(f"{artifact.url}: {error}", _at(artifact.url, error)) from None
        self._compare(artifact, known, sha256, "the download")
        return Entry(artifact.title, artifact.url, sha256, size, TRUSTED)

    def _size(self, artifact: Artifact) -> int | None:
        try:
            return self.client.size(artifact.url)
        except NotFetched as error:
            raise _Wrong(f"{artifact.url}: {error}", _at(artifact.url, error)) from None

    def _compare(self, artifact: Artifact, known: Entry | None, sha256: str, source: str) -> None:
        """Raise _Wrong if the lock file has another hash for this URL, or for the same release at another place."""
        alike = [entry for entry in self.before.values() if entry.artifact == artifact.title]
        for entry in [known] if known else alike:
            if entry.sha256 != sha256:
                where = "it" if known else f"the same release at {entry.url}"
                rule = f"{source} says sha256 {sha256}, but {where} is locked with {entry.sha256}"
                raise _Wrong(rule, _CHANGED, entry.line)


def _at(url: str, error: NotFetched) -> str:
    """Given a URL that gave nothing and why, return what to look at."""
    server = urlsplit(url).netloc
    if error.absent:
        return f"is the release named right, and does {server} have it?"
    return f"look at the way to {server}, and try again"

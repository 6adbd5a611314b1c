"""The lock file: which files hosts may fetch, each by its URL with the sha256 that it must have.

`hosts/ENV/artifacts.lock` is made by `./doit lock` (see `pin`), read in review and committed. While there
is none, hosts install k3s by its own script; where there is one, everything that they fetch is in it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from i12e import releases, yamlfile
from i12e.errors import Problem, UserError
from i12e.files import ABSENT, Files
from i12e.model import Host
from i12e.releases import Artifact

TRUSTED = "none, trusted on first use"
"""What stands for the list of checksums of a file whose hash is that of a download."""

_HEAD = """\
# Made by ./doit lock: what the hosts fetch, and the sha256 without which they refuse it. Read what changed, then
# commit it. A hash comes from the list that `checksums` names.
version: 1
artifacts:
"""
_KEYS = ("artifact", "url", "sha256", "size", "checksums")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_URL = re.compile(r"https?://[!-~]+\Z")


@dataclass(frozen=True)
class Entry:
    """What the lock file says of one URL."""

    artifact: str
    """Name, version and processor, for people."""
    url: str
    sha256: str
    size: int | None
    """In bytes; None where the server does not tell."""
    checksums: str
    """The list that the hash is from, or TRUSTED."""
    line: int = field(default=0, compare=False)
    """Where it stands in the file."""


@dataclass(frozen=True)
class Pinned:
    """A file that a host fetches: what it is, and the hash that Ignition verifies."""

    artifact: Artifact
    hash: str
    """As Ignition writes it: sha256-HEX."""

    @property
    def name(self) -> str:
        """The artifact's name."""
        return self.artifact.name

    @property
    def url(self) -> str:
        """Where the host fetches it."""
        return self.artifact.url

    @property
    def file(self) -> str:
        """Its name as a file."""
        return self.artifact.file

    @property
    def programs(self) -> tuple[str, ...]:
        """What the host takes out of it."""
        return self.artifact.programs


@dataclass(frozen=True)
class OfHost:
    """What a host fetches by the lock file; without one: nothing."""

    k3s: Pinned | None = None
    programs: tuple[Pinned, ...] = ()
    sysexts: tuple[Pinned, ...] = ()


def of_host(host: Host, entries: dict[str, Entry] | None, path: str) -> OfHost:
    """Given a host, the lock file's entries (None: there is no such file) and its path, return what the host fetches.

    Raise UserError if the host is to have something that the lock file lacks.
    """
    programs, sysexts = tuple(releases.programs(host)), tuple(releases.sysexts(host))
    if entries is None and not (programs or sysexts):
        return OfHost()
    needed = (releases.k3s(host), *programs, *sysexts) if entries is not None else (*programs, *sysexts)
    lacking = [artifact for artifact in needed if artifact.url not in (entries or {})]
    if lacking:
        raise UserError(_lacks(artifact, entries is None, path) for artifact in lacking)
    pinned = {url: f"sha256-{entry.sha256}" for url, entry in (entries or {}).items()}
    return OfHost(
        Pinned(needed[0], pinned[needed[0].url]),
        tuple(Pinned(program, pinned[program.url]) for program in programs),
        tuple(Pinned(sysext, pinned[sysext.url]) for sysext in sysexts),
    )


def _lacks(artifact: Artifact, no_file: bool, path: str) -> Problem:
    said = f"is not there, and {artifact.title} needs it" if no_file else f"lacks {artifact.title} ({artifact.url})"
    return Problem(path, None, None, said, "./doit lock makes it" if no_file else "./doit lock adds it")


def load(files: Files, path: str) -> dict[str, Entry] | None:
    """Given the lock file's path, return its entries by URL, or None if there is no such file.

    The look is recorded as an input, also one in vain. Raise UserError with all that is wrong with it.
    """
    files.note(path)
    if files.state(path) == ABSENT:
        return None
    try:
        return _parsed(files.read(path), path)
    except OSError as error:
        raise UserError(Problem(path, None, None, f"cannot be read: {error.strerror or error}")) from None


def text(entries: Iterable[Entry]) -> bytes:
    """Given entries in any order, return the lock file: the same entries, the same bytes."""
    lines = [_HEAD]
    for entry in sorted(entries, key=lambda entry: entry.url):
        values = [(key, getattr(entry, key)) for key in _KEYS]
        told = [f"{key}: {json.dumps(value)}\n" for key, value in values if value is not None]
        lines.append("  - " + "    ".join(told))
    return "".join(lines).encode()


@functools.lru_cache(maxsize=4)
def _parsed(content: bytes, path: str) -> dict[str, Entry]:
    document = yamlfile.examine(content, path)
    problems = list(document.problems)
    if not problems:
        problems = [*_wrong(document), *_contradictions(document)]
    if problems:
        raise UserError(problems)
    found = [_entry(item, document.place(("artifacts", n))[0]) for n, item in enumerate(document.data["artifacts"])]
    return {entry.url: entry for entry in found}


def _entry(item: dict[str, Any], line: int) -> Entry:
    return Entry(item["artifact"], item["url"], item["sha256"], item.get("size"), item["checksums"], line)


def _wrong(document: yamlfile.Document) -> Iterator[Problem]:
    """Yield what is wrong with the form of a lock file."""
    data, remedy = document.data, "./doit lock makes it anew when it is deleted"
    if set(data) != {"version", "artifacts"} or data["version"] != 1 or not isinstance(data["artifacts"], list):
        yield Problem(document.file, 1, None, "is not a lock file of version 1", remedy)
        return
    for place, item in enumerate(data["artifacts"]):
        for key, rule in _faults(item):
            loc: yamlfile.Loc = ("artifacts", place, key) if key else ("artifacts", place)
            at = document.place(loc if document.has(loc) else ("artifacts", place))
            yield Problem(
                document.file, *at, f"{key}: {rule}" if key else rule, "delete the entry, ./doit lock adds it"
            )


def _faults(item: Any) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an entry, as a key ("" for the entry itself) and a rule."""
    if not isinstance(item, dict):
        yield "", "is not an entry"
        return
    yield from ((key, "is not known here") for key in item if key not in _KEYS)
    for key in ("artifact", "url", "sha256", "checksums"):
        if not isinstance(item.get(key), str) or not item[key]:
            yield key, "is missing, or no text"
    if isinstance(item.get("url"), str) and not _URL.match(item["url"]):
        yield "url", "is not a URL"
    if isinstance(item.get("sha256"), str) and not _HASH.match(item["sha256"]):
        yield "sha256", "is not a sha256: 64 of 0-9 and a-f"
    if "size" in item and (type(item["size"]) is not int or item["size"] < 1):
        yield "size", "is not a number of bytes"


def _contradictions(document: yamlfile.Document) -> Iterator[Problem]:
    """Yield URLs that are there twice, and artifacts that have another hash at another place: one of them is wrong."""
    data = document.data.get("artifacts")
    seen: dict[str, dict[str, Any]] = {}
    for place, item in enumerate(data if isinstance(data, list) else ()):
        if any(_faults(item)):
            continue
        line, column = document.place(("artifacts", place))
        if item["url"] in seen:
            yield Problem(document.file, line, column, f"{item['url']} is there twice", "keep one")
        other = seen.setdefault(f"title {item['artifact']}", item)
        if other["sha256"] != item["sha256"]:
            rule = f"{item['artifact']} has another sha256 at {item['url']} than at {other['url']}"
            yield Problem(document.file, line, column, rule, "one of the two is not what it says: find out which")
        seen[item["url"]] = item

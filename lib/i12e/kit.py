"""The recovery kit: what is known of keys, repository and stores, what is at risk, and how one comes back; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i12e import backup_keys, backups
from i12e.backup_list import Shelf
from i12e.backups import Mark
from i12e.lock import roughly
from i12e.paths import DEFAULT, shown

DRILLED = 90 * 86400.0
"""Seconds after which a drill says too little about the backups of now."""


@dataclass(frozen=True)
class Key:
    """A kind of keys: where the private ones are, to whom the files are sealed, and which of those open here."""

    file: str
    recipients: tuple[str, ...]
    opens: tuple[str, ...]
    """The recipients whose private halves are here, and open all of it."""
    others: bool = False
    """Whether something else than age's keys opens it too."""


@dataclass(frozen=True)
class Repository:
    """The repository, as this checkout knows it."""

    remotes: tuple[str, ...] = ()
    """Their URLs, without credentials."""
    commit: str = ""
    """The one that is checked out, "" where there is none."""
    changed: tuple[str, ...] = ()
    """What is not committed of hosts, secrets and templates."""
    ignored: bool = False
    """Whether this environment's files are kept out of the repository."""
    pushed: bool = False
    """Whether a remote had this commit when it was last asked."""


@dataclass(frozen=True)
class Copies:
    """A store: how it is opened, whether it is elsewhere, and what is in it."""

    shelf: Shelf
    kind: str
    credentials: str
    portable: bool
    """Whether the credentials are in the repository, or none are needed."""
    here: bool
    """Whether it is on a disk of this machine, as far as can be told."""


@dataclass(frozen=True)
class Known:
    """All that the kit is made of."""

    cluster: str
    env: str
    backup_key: Key
    faults: tuple[str, ...]
    """What is wrong with the file of the backups' key."""
    secrets_key: Key
    ssh_keys: tuple[str, ...]
    """The comments of the public ssh keys that hosts let in."""
    repository: Repository
    stores: tuple[Copies, ...]
    unread: tuple[str, ...] = ()
    """Why the stores could not be asked."""


@dataclass(frozen=True)
class Point:
    """A point of the checklist."""

    name: str
    said: str
    remedy: str = ""
    """What to do; "" where it is as it should be."""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return not self.remedy


def judged(known: Known) -> Iterator[Point]:
    """Given what is known, yield the checklist; pure."""
    yield _backup_key(known.backup_key)
    if known.faults:
        yield Point("its file", "; ".join(known.faults), f"move it, chmod 600, {backup_keys.KEY_FILE} names the place")
    if known.backup_key.recipients:
        yield _second_key(known.backup_key)
    yield from _secrets(known.secrets_key)
    yield from _git(known)
    for why in known.unread:
        yield Point("stores", f"they were not asked: {why}", "mend that: nobody knows here what they have")
    for copies in known.stores:
        yield _store(copies, known.backup_key)
    if known.stores:
        yield _elsewhere(known.stores)
        yield _drilled(known.stores)


def _backup_key(key: Key) -> Point:
    name = "the backups' key"
    if not key.recipients:
        return Point(name, "there is none: nobody could open a backup", backup_keys.TASK)
    if not key.opens:
        remedy = f"bring it from where you keep a copy, or name it: {backup_keys.KEY_FILE}=FILE"
        return Point(name, f"{_place(key.file)} has none that cluster.yaml names: nothing here opens a backup", remedy)
    return Point(name, f"{_place(key.file)} opens them ({', '.join(key.opens)})")


def _second_key(key: Key) -> Point:
    name = "a second one"
    others = [each for each in key.recipients if each not in key.opens]
    if len(key.recipients) < 2:
        return Point(name, "one key alone opens the backups", f"{backup_keys.TASK} --paper, and commit cluster.yaml")
    said = f"{', '.join(others)}: not here, so on paper or with somebody" if others else "all of them are in that file"
    return Point(name, said, "" if others else f"{backup_keys.TASK} --paper: a key that is in no file")


def _secrets(key: Key) -> Iterator[Point]:
    name = "the secrets' key"
    if not key.recipients and not key.others:
        said = "no age key opens all of secrets/"
        yield Point(name, said, "./doit secrets_rekey seals all to the recipients of .sops.yaml")
        return
    if not key.opens and not key.others:
        yield Point(name, "no key here opens the secrets", f"put it into {_place(key.file)}")
    else:
        opens = ", ".join(key.opens) or "a key that is not age's"
        yield Point(name, f"{_place(key.file)} opens them ({opens})")
    if len(key.recipients) < 2 and not key.others:
        yield Point(
            "a second one of it",
            "one key alone opens the secrets",
            "./doit secrets_rekey --add age1..., a key of another person or on paper",
        )


def _git(known: Known) -> Iterator[Point]:
    repository, name = known.repository, "the repository"
    if not repository.commit:
        yield Point(name, "this checkout is no git repository, or has no commit", "git init, commit, push it elsewhere")
        return
    if not repository.remotes:
        yield Point(
            name, "it has no remote: it is nowhere but here", "git remote add origin URL; git push -u origin HEAD"
        )
        return
    if all(map(_is_local, repository.remotes)):
        said = f"its remote is of this machine: {', '.join(repository.remotes)}"
        yield Point(name, said, "push it to another machine too")
    elif not repository.pushed:
        yield Point(name, f"no remote has the commit {repository.commit}", "git push")
    else:
        yield Point(name, f"{', '.join(repository.remotes)} has {repository.commit}")
    if repository.ignored:
        said = f"the files of the environment {known.env} are not in it"
        yield Point("what it has", said, "git add them (.gitignore may name them), commit, push")
    elif repository.changed:
        said = f"not committed: {', '.join(repository.changed[:5])}{' ...' if len(repository.changed) > 5 else ''}"
        yield Point("what it has", said, "git commit, git push")


def _is_local(url: str) -> bool:
    return url.startswith(("/", ".", "file:", "~")) or ":" not in url


def _store(copies: Copies, key: Key) -> Point:
    shelf, name = copies.shelf, f"the store {copies.shelf.name}"
    if shelf.why:
        return Point(name, shelf.why, shelf.remedy or "mend it: what is in it cannot be told")
    last = backups.newest(shelf.found)
    if last is None or last.manifest is None:
        return Point(name, "there is no good backup in it", "./doit backup")
    said = f"its newest good backup {last.id} is {roughly(shelf.now - last.at)} old{_proven(last.verified, shelf.now)}"
    if not set(last.manifest.recipients) & set(key.opens or key.recipients):
        return Point(name, f"{said}; none of the keys opens it", "./doit backup, with the recipients of now")
    problems = shelf.problems
    if problems:
        return Point(name, f"{said}; {problems[0].message.partition(': ')[2]}", problems[0].remedy or "./doit backup")
    if not copies.portable:
        said += f"; it is opened by {copies.credentials}"
        return Point(name, said, "./doit secrets_edit --name backup takes its credentials, so that a clone opens it")
    return Point(name, said)


def _proven(mark: Mark | None, now: float) -> str:
    return f", verified {roughly(now - mark.at)} ago" if mark and mark.ok else ""


def _elsewhere(stores: Sequence[Copies]) -> Point:
    name = "a copy elsewhere"
    there = [each.shelf.name for each in stores if not each.here and backups.newest(each.shelf.found)]
    if there:
        return Point(name, f"{', '.join(there)}: on no disk of this machine, as far as can be told from here")
    said = "every good backup is on this machine's own disk, and goes with it"
    return Point(name, said, "one more of backup.stores: docs/backups.md")


def _drilled(stores: Sequence[Copies]) -> Point:
    name = "a drill"
    ages = [
        (each.shelf.now - found.drilled.at, found.id, found.drilled.how)
        for each in stores
        for found in each.shelf.found
        if found.drilled and found.drilled.ok
    ]
    if not ages:
        return Point(name, "no backup was ever drilled", "./doit drill")
    age, backup, how = min(ages)
    said = f"{backup}, {roughly(age)} ago{f' ({how})' if how else ''}"
    return Point(name, said, "./doit drill: that is long ago" if age > DRILLED else "")


def commands(known: Known) -> list[str]:
    """Given what is known, return what is typed on a new machine, a line each."""
    url = known.repository.remotes[0] if known.repository.remotes else "URL"
    return [
        "copies=/path/to/the/copies",
        f"git clone {url} i12e",
        "cd i12e",
        *([f"export I12E_ENV={known.env}"] if known.env != DEFAULT else []),
        f"install -D -m 600 $copies/{Path(known.secrets_key.file).name} {_place(known.secrets_key.file)}",
        f"install -D -m 600 $copies/{Path(known.backup_key.file).name} {_place(known.backup_key.file)}",
        "./doit",
        "./doit backup_list",
        "./doit backup_verify",
        "./doit restore --only-plan",
        "./doit restore",
    ]


def lines(known: Known, points: Sequence[Point]) -> Iterator[str]:
    """Given what is known and the checklist, yield the kit as it is printed."""
    repository = known.repository
    yield f"What brings {known.cluster} back when this machine is gone too."
    yield ""
    yield "Keep copies of these in two safe places, none of them this machine, a host, or a store of the backups:"
    rows = [
        ("the backups' key", _place(known.backup_key.file), "opens the backups; without it they are noise"),
        ("the secrets' key", _place(known.secrets_key.file), "opens secrets/: tokens, credentials of stores and DNS"),
        ("the repository", ", ".join(repository.remotes) or "here alone", f"at {repository.commit or 'no commit'}"),
        (
            "an ssh key of",
            ", ".join(known.ssh_keys),
            "gets into the hosts that live; new hosts get what cluster.yaml says",
        ),
    ]
    yield from _table(rows)
    yield ""
    yield "Stores:"
    stores = [(each.shelf.name, _place(each.shelf.place), f"opened by: {each.credentials}") for each in known.stores]
    yield from _table(stores or [("?", "they were not asked", "")])
    yield ""
    yield "On a new machine (git, Python 3.11 or newer with venv, OpenSSH), with the copies at hand:"
    yield from (f"    {line}" for line in commands(known))
    yield "Hosts that are gone too: ./doit os_install:HOST says how one is made, and ./doit host_trust:HOST takes a new"
    yield "machine for an old name, before the restore. The runbook is docs/runbooks/disaster.md; README.txt beside the"
    yield "backups says how they are opened without i12e."
    yield ""
    yield "Checklist:"
    for point in points:
        yield f"    [{'x' if point.ok else ' '}] {point.name}: {point.said}"
        if not point.ok:
            yield f"        AT RISK: {point.remedy}"


def _table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
    for row in rows:
        yield f"    {row[0].ljust(first)}  {row[1].ljust(second)}  {row[2]}".rstrip()


def _place(path: str) -> str:
    """Return a path as a person types it: from the checkout, or from the home folder."""
    if not path.startswith("/"):
        return path
    return path.removeprefix(f"{Path.cwd()}/") if path.startswith(f"{Path.cwd()}/") else shown(Path(path))


def as_json(known: Known, points: Sequence[Point]) -> dict[str, Any]:
    """Given what is known and the checklist, return what a JSON document says of it."""
    return {
        "cluster": known.cluster,
        "complete": all(point.ok for point in points),
        "backup_key": _key_json(known.backup_key),
        "secrets_key": _key_json(known.secrets_key),
        "ssh_keys": list(known.ssh_keys),
        "repository": {
            "remotes": list(known.repository.remotes),
            "commit": known.repository.commit or None,
            "changed": list(known.repository.changed),
            "pushed": known.repository.pushed,
        },
        "stores": [_store_json(each) for each in known.stores],
        "commands": commands(known),
        "checks": [
            {"check": point.name, "ok": point.ok, "what": point.said, "remedy": point.remedy or None}
            for point in points
        ],
    }  # fmt: skip


def _key_json(key: Key) -> dict[str, Any]:
    return {"file": key.file, "recipients": list(key.recipients), "opens": list(key.opens)}


def _store_json(copies: Copies) -> dict[str, Any]:
    shelf = copies.shelf
    last = backups.newest(shelf.found)
    return {
        "store": shelf.name,
        "place": shelf.place,
        "kind": copies.kind,
        "credentials": copies.credentials,
        "here": copies.here,
        "reachable": not shelf.why,
        "newest": last.id if last else None,
        "age_seconds": round(shelf.now - last.at) if last else None,
        "verified_seconds": _since(last.verified, shelf.now) if last else None,
        "drilled_seconds": _since(last.drilled, shelf.now) if last else None,
    }


def _since(mark: Mark | None, now: float) -> int | None:
    return round(now - mark.at) if mark and mark.ok else None

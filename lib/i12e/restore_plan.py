"""What a restore would do, and why it may not: a plan, made of facts and a backup that was checked, and pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from i12e import deploy, moving, restoring
from i12e.bundle import ETCD, Manifest
from i12e.deploy import Situation
from i12e.errors import Problem
from i12e.facts import STORAGE, HostFacts, Silent
from i12e.lock import duration
from i12e.restoring import CONVERT, SQLITE, Progress

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)(?:-rc\d+)?\+k3s(\d+)")


@dataclass(frozen=True)
class Asked:
    """What was found out beside the hosts' facts."""

    target: str
    manifest: Manifest
    store: str
    size: int
    """Bytes of the database."""
    token_fits: bool | None
    """Whether the server token of the repo's secrets is the backup's; None where the secrets have none."""
    newest: str
    """The id of the newest good backup of that store."""
    now: float
    """By the store's clock."""
    alive: Mapping[str, str] = field(default_factory=dict)
    """Where a k3s answers that none of these hosts is: URL -> whose it is, by the backup."""
    old_settings: Mapping[str, str] = field(default_factory=dict)
    """Of the server that the backup is from: what all servers of a cluster have to share, and cannot be changed."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The same of the target's config as it is now."""
    progress: Progress = field(default_factory=Progress)
    """How far an earlier run came on the target."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """Hosts of the backup whose paths and volumes go to another host: name -> that host's."""
    moved: Mapping[str, str] | None = None
    """What an earlier run of this backup was to move; None if there was none."""
    nodes: Collection[str] = ()
    """Those of the hosts that are moved which are nodes in the database."""
    bound: Mapping[str, int] = field(default_factory=dict)
    """How many PersistentVolumes are bound to which host."""


@dataclass(frozen=True)
class Plan:
    """What is done, in this order."""

    target: str
    kind: str
    resumes: bool = False
    """Whether an earlier run of the same backup is gone on with."""
    living: tuple[str, ...] = ()
    """The servers of the cluster that answer now, and whose state of now is lost."""
    stops: tuple[str, ...] = ()
    """The hosts whose k3s is stopped and held first."""
    deploys: tuple[str, str] = ("", "")
    """What brings the target to its config, and why; empty where it runs it."""
    aside: tuple[str, ...] = ()
    """The servers whose data of now is set aside."""
    joins: tuple[str, ...] = ()
    """The hosts that join again afterwards, in this order."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """The hosts of the backup whose paths and volumes go to another host: name -> that host's."""
    lost: str = ""
    notes: tuple[str, ...] = ()


def plan(now: Situation, asked: Asked) -> tuple[Plan | None, list[Problem]]:
    """Given the situation of all hosts and what was asked, return the plan, or everything that speaks against it."""
    problems = [*_backup_fits(now, asked), *_target(now, asked), *_others(now, asked), *_moves(now, asked)]
    if problems:
        return None, problems
    found = now.view.facts[asked.target]
    assert isinstance(found, HostFacts)  # noqa: S101  # _target told it otherwise
    wanted = now.wanted[asked.target]
    living = tuple(name for name in now.view.answering() if _hold_of(now, name) is None)
    reached = [name for name, facts in now.view.facts.items() if isinstance(facts, HostFacts) and not facts.is_bare]
    order = deploy.order(now, [name for name in now.wanted if name != asked.target])
    silent = [name for name in order if isinstance(now.view.facts[name], Silent)]
    notes = [
        f"{name} cannot be reached, and does not join now ({_why(now, name)}): doit os_deploy:{name} afterwards"
        for name in silent
    ]
    if silent and any(name in now.servers for name in silent):
        notes.append("a server that comes up again with its old data alone gets neither the API's name nor backups")
    notes += [*_stay(now, asked), *_empty(now, asked)]
    if asked.manifest.lacks:
        notes.append(f"the backup lacks {'; '.join(asked.manifest.lacks)}")
    if asked.manifest.id != asked.newest:
        notes.append(f"it is not the newest good backup, which is {asked.newest}")
    action, why = deploy.needed(wanted, found)
    runs = action in (deploy.NOTHING, deploy.PROVE)
    return Plan(
        target=asked.target,
        kind=restoring.kind(wanted.host.k3s.datastore, asked.manifest.datastore),
        resumes=_resumes(asked),
        living=living,
        stops=tuple(reached),
        deploys=("", "") if runs else (action, why),
        aside=tuple(name for name in now.view.with_data() if not (name == asked.target and _is_aside(asked))),
        joins=tuple(name for name in order if name not in silent),
        moves=asked.moves,
        lost=_lost(asked, living),
        notes=tuple(notes),
    ), []


def lines(made: Plan, asked: Asked) -> list[str]:
    """Given a plan, return it for a person, a line each."""
    manifest = asked.manifest
    kinds = {ETCD: "etcd", SQLITE: "SQLite", CONVERT: "SQLite, converted to etcd"}
    what = (
        f"{kinds[made.kind]}, k3s {manifest.k3s}, {asked.size / 1e6:.1f} MB, {sum(manifest.objects.values())} objects"
    )
    said = [f"{manifest.id} of {asked.store}: {what}, made by {manifest.by}", f"    {made.lost}"]
    if made.resumes:
        said.append(f"    goes on with what an earlier run began on {made.target}")
    if made.living:
        said.append(f"    the cluster LIVES on {', '.join(made.living)}: its state of now is replaced by the backup's")
    if made.stops:
        said.append(f"    stops    k3s on {', '.join(made.stops)}, until each of them joins again (pods go on)")
    if made.deploys[0]:
        said.append(f"    deploys  {made.target}: {made.deploys[1]}")
    if made.aside:
        said.append(f"    keeps    the datastores of now, beside their places, on {', '.join(made.aside)}")
    said.append(f"    restores onto {made.target}, and proves it before any workload starts")
    said += [f"    moves    paths and volumes of {old} to {new}" for old, new in made.moves.items()]
    said.append("    promotes it: a new epoch, so that no older copy of the cluster gets its name or its backups")
    if made.joins:
        said.append(f"    joins    {', '.join(made.joins)}, one after the other")
    return said + [f"    note: {note}" for note in made.notes]


def _stay(now: Situation, asked: Asked) -> list[str]:
    """Return what is of hosts that are no more, and stays where nobody gets it."""
    theirs = {part.host for part in asked.manifest.parts if part.what == "path"} | asked.bound.keys()
    gone = sorted(theirs - now.wanted.keys() - asked.moves.keys())
    said = []
    for host in gone:
        way = f"./doit restore --move {host}=NEW"
        said += [
            f"{part.path} of {host} has no host here: it stays in the backup ({way})"
            for part in asked.manifest.parts
            if part.what == "path" and part.host == host
        ]
        count = asked.bound.get(host, 0)
        volumes = "1 volume is" if count == 1 else f"{count} volumes are"
        said += [f"{volumes} bound to {host}, which is no host here ({way})"] if count else []
    return said


def _empty(now: Situation, asked: Asked) -> list[str]:
    """Return which volumes come back without what was in them: it is neither in the backup nor on the host."""
    said = []
    for old, count in sorted(asked.bound.items()):
        host = moving.goes_to(old, asked.moves)
        found = now.view.facts.get(host)
        if host == old and not (isinstance(found, HostFacts) and found.is_bare):
            continue
        if not any(part.host == old and _has_volumes(part.path) for part in asked.manifest.parts):
            volumes = "1 volume" if count == 1 else f"{count} volumes"
            said.append(f"{volumes} of {old} will be empty on {host}: backup.paths did not have {STORAGE} of it")
    return said


def _has_volumes(path: str) -> bool:
    """Tell whether a path that was backed up has volumes, some of them at least."""
    one, other = f"{path.rstrip('/')}/", f"{STORAGE}/"
    return bool(path) and (one.startswith(other) or other.startswith(one))


def _lost(asked: Asked, living: Sequence[str]) -> str:
    ago = duration(max(0.0, asked.now - asked.manifest.at))
    what = "what the cluster did since then is lost" if living else "what the cluster did after that is lost"
    return f"it was begun {ago} ago: {what}"


def _resumes(asked: Asked) -> bool:
    job = asked.progress.job
    return job is not None and job.backup == asked.manifest.id


def _is_aside(asked: Asked) -> bool:
    """Tell whether what the target had before is aside already, and what it has now is the restore's own."""
    return restoring.ASIDE in asked.progress.done


def _backup_fits(now: Situation, asked: Asked) -> list[Problem]:
    """Return why this backup cannot be restored into this configuration."""
    manifest, host = asked.manifest, now.wanted[asked.target].host
    problems: list[Problem] = []

    def refuse(said: str, remedy: str) -> None:
        problems.append(Problem("", None, None, said, remedy))

    if manifest.datastore == ETCD and host.k3s.datastore != "etcd":
        refuse("the backup is a snapshot of etcd, which cannot become SQLite", "set k3s.datastore: etcd")
    if is_older(host.k3s.version, manifest.k3s):
        refuse(
            f"the backup was made by k3s {manifest.k3s}, and {asked.target} is to run {host.k3s.version}, an older one",
            f"set k3s.version: {manifest.k3s}, or a newer one",
        )
    if asked.token_fits is False:
        refuse(
            f"the server token of the secrets is not the one ({manifest.token}...) that the backup's database opens "
            "with",
            "give server_token in the secrets the value that docs/backup-format.md, step 6, reads out of the backup",
        )
    if asked.token_fits is None:
        refuse("the secrets have no server_token", "docs/backup-format.md, step 6, reads it out of the backup")
    for name, old in asked.old_settings.items():
        new = asked.settings.get(name, "")
        if old != new:
            refuse(
                f"{name}: the backup's cluster has {old or 'none'}, and the config now says {new or 'none'}; a cluster "
                "cannot change that",
                "set it as it was",
            )
    return problems


def _target(now: Situation, asked: Asked) -> list[Problem]:
    """Return why this host cannot be the one that the backup is put onto."""
    found = now.view.facts[asked.target]
    wanted = now.wanted[asked.target]
    if isinstance(found, Silent):
        return [Problem("", None, None, f"{asked.target}: it cannot be reached: {found.why}", found.remedy)]
    strange = deploy.not_the_one(wanted, found, now) or _held_by_another(found)
    if strange is None:
        strange = deploy.cannot_be_reset(wanted, _without_hold(found))
    problems = [Problem("", None, None, f"{asked.target}: {strange[0]}", strange[1])] if strange else []
    needed = restoring.room_for(asked.size) // 1024
    if found.free < needed and not _resumes(asked):
        said = f"{asked.target}: it has {found.free // 1024} MB free in /var/lib, and {needed // 1024} are needed"
        remedy = "make room there; what earlier restores set aside is in /var/lib/rancher/k3s/server.before-*"
        problems.append(Problem("", None, None, said, remedy))
    return problems


def _others(now: Situation, asked: Asked) -> list[Problem]:
    """Return which hosts stand against it: strangers, held ones, and an old cluster that lives elsewhere."""
    problems: list[Problem] = []
    for name, found in now.view.facts.items():
        if name == asked.target or isinstance(found, Silent):
            continue
        strange = deploy.not_the_one(now.wanted[name], found, now) or _held_by_another(found)
        if strange:
            problems.append(Problem("", None, None, f"{name}: {strange[0]}", strange[1]))
    for url, whose in asked.alive.items():
        said = f"the old cluster still answers at {url} ({whose}), which is none of these hosts: there would be two"
        problems.append(Problem("", None, None, said, "shut it down first"))
    return problems


def _moves(now: Situation, asked: Asked) -> list[Problem]:
    """Return why the paths and volumes of hosts that are no more cannot go where they are to."""
    silent = [name for name, found in now.view.facts.items() if isinstance(found, Silent)]
    problems = moving.misfits(asked.moves, now.wanted)
    problems += moving.unfit(asked.moves, asked.manifest, asked.nodes, silent)
    before = asked.moved or {}
    if _resumes(asked) and restoring.RELEASED in asked.progress.done and asked.moves != before:
        said = f"--move {moving.told(asked.moves)}: volumes are moved before the release, and that was done"
        remedy = f"go on as it was begun: --move {moving.told(before)}" if before else "go on without --move"
        problems.append(Problem("", None, None, said, remedy))
    return problems


def _held_by_another(found: HostFacts) -> tuple[str, str] | None:
    if found.hold is not None and not found.hold.startswith("restore of "):
        return f"it is held: {found.hold}", "whoever holds it releases it by removing /var/lib/i12e/hold"
    return None


def _without_hold(found: HostFacts) -> HostFacts:
    return replace(found, hold=None)


def _hold_of(now: Situation, name: str) -> str | None:
    found = now.view.facts[name]
    return found.hold if isinstance(found, HostFacts) else None


def _why(now: Situation, name: str) -> str:
    found = now.view.facts[name]
    return found.why if isinstance(found, Silent) else ""


def is_older(ours: str, theirs: str) -> bool:
    """Given two versions of k3s, tell whether the first one is older, which does not take a datastore of the other."""
    found, wanted = _number(ours), _number(theirs)
    return found is not None and wanted is not None and found < wanted


def _number(version: str) -> tuple[int, ...] | None:
    found = _VERSION.fullmatch(version)
    return tuple(map(int, found.groups())) if found else None

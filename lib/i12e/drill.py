"""`drill`: proves that the newest good backup restores, tells how long that takes, and writes it down beside it.

Nothing else is written to the store, and no name and no cluster is asked for anything: the key that opens backups, this
checkout and the store are all it takes, and a host if it is to be k3s itself that restores. What a drill does is in
drill_offline and drill_host; which backup, where, and what becomes of the result, is here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from i12e import (
    artifacts,
    backup_keys,
    backups,
    drill_host,
    drill_lab,
    drill_offline,
    localetcd,
    lock,
    machines,
    remote,
    screen,
    verify,
)
from i12e.backup_verify import known
from i12e.backups import Backup, Mark, Place
from i12e.bell import Bell
from i12e.build import Build
from i12e.damaged import Damaged
from i12e.drill_host import Release, Site
from i12e.drill_offline import Report
from i12e.errors import Problem, UsageError, UserError
from i12e.files import private_folder
from i12e.lock import operator
from i12e.openplaces import open_places
from i12e.secrets import Secret
from i12e.settings import Cluster
from i12e.stores import Missing, StoreError

_LIST = "./doit backup_list shows what there is"


def run(build: Build, backup: str, store: str, on: str, offline: bool) -> None:
    """Given a backup's id ("": the newest good one), a store ("": all) and a host, drill that backup there.

    `on`: a host of the configuration, USER@ADDRESS, "lab", or "" for a drill without a host, which `offline` asks for.
    Raise UserError with what is wrong.
    """
    if on and offline:
        said = "--on and --offline: an offline drill is one without a host"
        raise UsageError(Problem("", None, None, said, "leave one of them out"))
    cluster = build.cluster()
    somewhere = _where(build, cluster, on) if on else None
    keys = backup_keys.private(build.paths, cluster.name, os.environ)
    with _alone(build) as folder:
        places, problems = open_places(build, cluster, store, probe=False, option="--from")
        drilling = Drilling(build, keys, folder, problems, somewhere)
        try:
            drilling.run(places, backup)
        finally:
            for place in places:
                place.store.close()
    if drilling.problems:
        Bell(build, cluster).failed(f"the drill of {cluster.name}'s backup failed", drilling.problems)
    if drilling.problems or drilling.other_key:
        raise UserError([*drilling.problems, *drilling.other_key])


@contextmanager
def _alone(build: Build) -> Iterator[Path]:
    """Until the block ends, have the folder for etcds, without what killed drills left there; raise UserError."""
    folder = build.paths.root / build.paths.build / "drill"
    private_folder(folder)
    try:
        held = lock.take(folder / "lock", "drill")
    except lock.Held as error:
        raise UserError(Problem("", None, None, str(error), "it is a drill too: wait for its end")) from None
    try:
        localetcd.sweep(folder)
        yield folder
    finally:
        localetcd.sweep(folder)
        held.release()


Where = Callable[[Path], AbstractContextManager[Site]]
"""Given a private folder, has the place of a drill that needs a host."""


def _where(build: Build, cluster: Cluster, on: str) -> Where:
    """Given what --on says, return where that is; raise UserError."""
    hosts = {host.name: host for host in build.checked_hosts()}
    first = next((host for host in hosts.values() if host.role == "server"), None)
    if first is None:
        raise UserError(Problem(build.paths.hosts, None, None, "there is no server, so no k3s to drill with"))
    entries = artifacts.load(build.files, build.paths.artifacts) or {}
    release = Release(first, entries)
    if on == drill_lab.NAME and on not in hosts:
        return lambda folder: drill_lab.host(build.paths.root, folder, release)
    outs = drill_host.outs(list(hosts.values()), [*_stores(build, cluster), *_name_servers(cluster)])
    if on in hosts:
        pinned = machines.load(build.paths).get(on, "")
        site = Site(on, remote.target(hosts[on], build.paths.root), f"on {on},", release, outs, pinned)
    elif "@" in on:
        site = Site(on, remote.Target(on, on), f"on {on},", release, outs)
    else:
        remedy = f"there are {', '.join(hosts)}; USER@ADDRESS is any other machine, and lab makes one here"
        raise UsageError(Problem("", None, None, f"--on {on}: there is no such host", remedy))
    return lambda folder: nullcontext(site)


def _stores(build: Build, cluster: Cluster) -> Iterator[tuple[str, int]]:
    """Yield where the servers of the stores are, as far as they are told."""
    for store in backup_keys.stores(build.paths, cluster, os.environ):
        found = urlsplit((store.s3 and store.s3.endpoint) or "")
        if found.hostname:
            yield found.hostname, found.port or (80 if found.scheme == "http" else 443)


def _name_servers(cluster: Cluster) -> Iterator[tuple[str, int]]:
    if cluster.dns is not None and cluster.dns.rfc2136 is not None:
        yield cluster.dns.rfc2136.server, cluster.dns.rfc2136.port


class Drilling:
    """One run of drill."""

    def __init__(
        self, build: Build, keys: Sequence[Secret], folder: Path, problems: Sequence[Problem],
        where: Where | None = None,
    ) -> None:  # fmt: skip
        self.problems = list(problems)
        self.other_key: list[Problem] = []
        """Of a backup that is sealed to other keys than ours: that is no reason for an alarm."""
        self._build = build
        self._keys = keys
        self._folder = folder
        self._where = where

    def run(self, places: Sequence[Place], backup: str) -> None:
        """Given the stores and a backup's id ("": the newest good one), drill it in one of them."""
        found: list[tuple[Place, list[Backup]]] = []
        for place in places:
            try:
                found.append((place, backups.survey_all(place)))
            except StoreError as error:
                self.problems.append(error.problem())
        chosen = choose(found, backup)
        if chosen is None:
            if found and not backup:
                self.problems.append(Problem("", None, None, "there is no good backup", _LIST))
            if backup and self.problems:
                said = f"--backup {backup}: no store that answers has it"
                self.problems.append(Problem("", None, None, said, _LIST))
            elif backup:
                raise UsageError(Problem("", None, None, f"--backup {backup}: there is no such backup", _LIST))
            return
        # Another store than the one that is asked is the matter of backup_list.
        self._build.notes += [str(problem) for problem in self.problems]
        self.problems.clear()
        place, each = chosen
        self.drill(place.of(each.epoch), each)

    def drill(self, place: Place, each: Backup) -> None:
        """Given a store and a backup of it, drill it, and tell and write down what was found."""
        what = f"{each.id} in {place.store.name}"
        report, why, began = Report(), "", time.monotonic()
        folders = (self._folder.parent, self._folder)
        try:
            if self._where is None:
                drill_offline.run(place, each.id, self._keys, folders, known(self._build), report)
            else:
                there = self._where(self._folder)
                drill_host.run(place, each.id, self._keys, folders[0], known(self._build), report, there)
        except (Missing, Damaged) as error:
            why = error.why
        except verify.OtherKey as error:
            remedy = f"{backup_keys.KEY_FILE}=FILE names another one"
            self.other_key.append(Problem("", None, None, f"{what}: {error.why}", remedy))
            return
        except StoreError as error:
            self.problems.append(error.problem())
            return
        except localetcd.Unable as error:
            self.problems.append(Problem("", None, None, f"{what}: not drilled: {error.why}", error.remedy))
            return
        except OSError as error:
            said = f"{what}: not drilled: {error.strerror or error}"
            remedy = f"{self._build.paths.build} has to have room for its database, twice"
            self.problems.append(Problem("", None, None, said, remedy))
            return
        self._tell(place, each, report, why, round(time.monotonic() - began, 1))

    def _tell(self, place: Place, each: Backup, report: Report, why: str, took: float) -> None:
        """Write down what was found, and tell it."""
        what = f"{each.id} in {place.store.name}"
        self._build.notes += report.notes
        try:
            mark = Mark(place.store.now(), operator(), not why, why, took, report.how)
            place.mark(each.id, backups.DRILLED, mark)
        except StoreError as error:
            self.problems.append(error.problem())
        if why:
            remedy = "the newest good one is another now: ./doit backup_list"
            self.problems.append(Problem("", None, None, f"{what}: {why}", remedy))
        facts = {
            "backup": each.id,
            "store": place.store.name,
            "ok": not why,
            "why": why or None,
            "how": report.how,
            "took_seconds": took,
            **report.facts,
            "steps": [{"step": each.name, "seconds": each.seconds, "what": each.what} for each in report.steps],
        }
        result = "failed" if why else "done"
        text = "".join(f"{line}\n" for line in lines(what, report, why, took))
        self._build.tell("DRILL", what, report.how, result, facts, text)


def choose(found: Sequence[tuple[Place, Sequence[Backup]]], backup: str = "") -> tuple[Place, Backup] | None:
    """Given what stores have and a backup's id ("": the newest good one), return it and a store that has it.

    Of stores that have the same, the first one, but rather one whose copy is good. None if no store has it.
    """
    if backup:
        copies = [(place, each) for place, there in found for each in there if each.id == backup]
    else:
        copies = [(place, each) for place, there in found if (each := backups.newest(there)) is not None]
    # Numbers are of a store's own: of the newest ones of several stores, the epoch and the time of their begin tell.
    return max(copies, key=lambda copy: (copy[1].is_good, copy[1].epoch, copy[1].at), default=None)


def lines(what: str, report: Report, why: str, took: float) -> Iterator[str]:
    """Given what was drilled, the steps, what is wrong with it and how many seconds all took, yield the screen."""
    width = max((len(step.name) for step in report.steps), default=0)
    verdict = "FAILED" if why else "good"
    yield screen.line("DRILL", what, f"{report.how}: {verdict}, {took:.1f} s")
    for step in report.steps:
        yield f"    {step.name.ljust(width)}  {step.seconds:5.1f} s  {step.what}"

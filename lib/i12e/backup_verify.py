"""`backup_verify`: backups read whole and checked; what was found is written down beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from i12e import backup_keys, backups, screen, verify
from i12e.backups import Backup, Mark, Place
from i12e.bell import Bell
from i12e.build import Build
from i12e.damaged import Damaged
from i12e.errors import Problem, UsageError, UserError
from i12e.files import private_folder
from i12e.lock import operator
from i12e.openplaces import open_places
from i12e.secrets import Secret
from i12e.stores import Missing, StoreError


def run(build: Build, backup: str, store: str, all: bool, sealed: bool) -> None:  # noqa: A002  # the option's name
    """Given a backup's id ("": the newest good one), a store ("": all), whether all backups are meant, and whether
    only the sealed files are to be compared, check them; raise UserError with what is wrong.
    """
    cluster = build.cluster()
    keys = [] if sealed else backup_keys.private(build.paths, cluster.name, os.environ)
    places, problems = open_places(build, cluster, store, probe=False)
    verifying = Verifying(build, keys, problems)
    try:
        verifying.run(places, backup, all)
    finally:
        for place in places:
            place.store.close()
    if verifying.problems:
        Bell(build, cluster).failed(f"backups of {cluster.name} could not be verified", verifying.problems)
    if verifying.problems or verifying.other_key:
        raise UserError([*verifying.problems, *verifying.other_key])


class Verifying:
    """One run of backup_verify."""

    def __init__(self, build: Build, keys: Sequence[Secret], problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        self.other_key: list[Problem] = []
        """Of backups that are sealed to other keys than ours: that is no reason for an alarm."""
        self._build = build
        self._keys = keys
        self._folder = build.paths.root / build.paths.build
        private_folder(self._folder)

    def run(self, places: Sequence[Place], backup: str, every: bool) -> None:
        """Given the stores and what is to be checked there, check it."""
        found: list[tuple[Place, list[Backup]]] = []
        for place in places:
            try:
                found.append((place, backups.survey_all(place)))
            except StoreError as error:
                self.problems.append(error.problem())
        if backup and found and not any(_chosen(each, backup, False) for _, each in found):
            said = f"--backup {backup}: there is no such backup"
            raise UsageError(Problem("", None, None, said, "./doit backup_list shows what there is"))
        for place, there in found:
            chosen = _chosen(there, backup, every)
            for each in chosen:
                self.check(place.of(each.epoch), each)
            if not chosen:
                what = f"there is no backup {backup}" if backup else "there is no good backup"
                said = f"{place.store.name}: {what}"
                self.problems.append(Problem("", None, None, said, "./doit backup_list shows what there is"))

    def check(self, place: Place, each: Backup) -> None:
        """Given a store and a backup of it, read it and tell how it is."""
        what = f"{each.id} in {place.store.name}"
        began = time.monotonic()
        why = ""
        try:
            self._read(place, each, screen.meter(f"reads {what}"))
        except (Missing, Damaged) as error:  # what is missing is not there for a restore either
            why = error.why
        except verify.OtherKey as error:
            remedy = f"{backup_keys.KEY_FILE}=FILE names another one"
            self.other_key.append(Problem("", None, None, f"{what}: {error.why}", remedy))
            return
        except StoreError as error:
            self.problems.append(error.problem())
            return
        except OSError as error:  # of this machine, as a full disk: that says nothing of the backup
            said = f"{what}: cannot be checked here: {error.strerror or error}"
            remedy = f"{self._build.paths.build} has to have room for its database"
            self.problems.append(Problem("", None, None, said, remedy))
            return
        self._tell(place, each, why, round(time.monotonic() - began, 1))

    def _read(self, place: Place, each: Backup, meter: verify.Progress) -> None:
        if self._keys:
            verify.check(place, each.id, self._keys, self._folder, meter, known(self._build))
        else:
            verify.check_sealed(place, each.id, meter)

    def _tell(self, place: Place, each: Backup, why: str, took: float) -> None:
        """Write down what was found, and tell it."""
        what = f"{each.id} in {place.store.name}"
        if self._keys or why:  # without a key, that the files are the same proves less than a mark says
            try:
                place.mark(each.id, backups.VERIFIED, Mark(place.store.now(), operator(), not why, why, took))
            except StoreError as error:
                self.problems.append(error.problem())
        if why:
            remedy = "the newest good one is another now: ./doit backup_list"
            self.problems.append(Problem("", None, None, f"{what}: {why}", remedy))
            return
        done = "opened, checked and restorable" if self._keys else "the sealed files are as they were stored"
        facts = {"backup": each.id, "store": place.store.name, "seconds": took, "opened": bool(self._keys)}
        self._build.tell("VERIFY", what, f"{each.size / 1e6:.1f} MB, {done}; {took:.1f} s", facts=facts)


def known(build: Build) -> list[Secret]:
    """Given the build, return the server token of the repo's secrets, where they open here."""
    try:
        token = build.group("cluster").get("server_token")
    except UserError:
        return []
    return [token] if isinstance(token, Secret) else []


def _chosen(found: Sequence[Backup], backup: str, every: bool) -> list[Backup]:
    if backup:
        return [each for each in found if each.id == backup]
    if every:
        return [each for each in found if each.state in (backups.GOOD, backups.DAMAGED)]
    newest = backups.newest(found)
    return [newest] if newest else []

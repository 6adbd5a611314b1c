"""`backup_verify`: backups read whole and checked; what was found is written down beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from i12e import alarms, backup_keys, backups, screen, verify
from i12e.backups import Backup, Mark, Place
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
    folder = build.paths.root / build.paths.build
    private_folder(folder)
    try:
        found = []
        for place in places:
            try:
                found.append((place, backups.survey(place)))
            except StoreError as error:
                problems.append(error.problem())
        if backup and found and not any(_chosen(each, backup, False) for _, each in found):
            said = f"--backup {backup}: there is no such backup"
            raise UsageError(Problem("", None, None, said, "./doit backup_list shows what there is"))
        for place, each in found:
            problems += _check_place(build, place, _chosen(each, backup, all), backup, keys)
    finally:
        for place in places:
            place.store.close()
    if problems:
        bell = alarms.Alarms(cluster.backup.alarms, build.group, screen.say)
        text = build.redact("\n".join(str(problem) for problem in problems))
        for problem in bell.failed(f"i12e: a backup of {cluster.name} is not sound", text, {"cluster": cluster.name}):
            build.note(str(problem))
        raise UserError(problems)


def _check_place(
    build: Build, place: Place, chosen: Sequence[Backup], backup: str, keys: Sequence[Secret]
) -> list[Problem]:
    name = place.store.name
    if not chosen:
        said = f"{name}: there is no backup {backup}" if backup else f"{name}: there is no good backup"
        return [Problem("", None, None, said, "./doit backup_list shows what there is")]
    problems: list[Problem] = []
    for each in chosen:
        problems += _check(build, place, each, keys)
    return problems


def _known(build: Build) -> list[Secret]:
    """Return the server token of the repo's secrets, where they open here."""
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


def _check(build: Build, place: Place, each: Backup, keys: Sequence[Secret]) -> list[Problem]:
    what = f"{each.id} in {place.store.name}"
    began = time.monotonic()
    meter = screen.meter(f"reads {what}")
    why = ""
    try:
        if keys:
            verify.check(place, each.id, keys, build.paths.root / build.paths.build, meter, _known(build))
        else:
            verify.check_sealed(place, each.id, meter)
    except (Missing, Damaged) as error:  # what is missing is not there for a restore either
        why = error.why
    except verify.OtherKey as error:
        remedy = f"{backup_keys.KEY_FILE}=FILE names another one"
        return [Problem("", None, None, f"{what}: {error.why}", remedy)]
    except StoreError as error:
        return [error.problem()]
    except OSError as error:  # of this machine, as a full disk: that says nothing of the backup
        said = f"{what}: cannot be checked here: {error.strerror or error}"
        return [Problem("", None, None, said, f"{build.paths.build} has to have room for its database")]
    took = time.monotonic() - began
    problems: list[Problem] = []
    if keys or why:  # without a key, that the files are the same proves less than a mark says
        mark = Mark(place.store.now(), operator(), not why, why, round(took, 1))
        try:
            place.mark(each.id, backups.VERIFIED, mark)
        except StoreError as error:
            problems.append(error.problem())
    if why:
        remedy = "the newest good one is another now: ./doit backup_list"
        return [*problems, Problem("", None, None, f"{what}: {why}", remedy)]
    done = "opened, checked and restorable" if keys else "the sealed files are as they were stored"
    facts = {"backup": each.id, "store": place.store.name, "seconds": round(took, 1), "opened": bool(keys)}
    build.tell("VERIFY", what, f"{each.size / 1e6:.1f} MB, {done}; {took:.1f} s", facts=facts)
    return problems

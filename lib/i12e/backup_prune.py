"""`backup_prune`: removes the backups that no rule keeps, under the store's lease, one after the other.

The manifest goes first: what is left of a backup when this is killed is none, and goes with the next prune. Each epoch
of a cluster is pruned for itself: to the earlier ones one goes back if what was restored turns out to be bad.
"""

from __future__ import annotations

from collections.abc import Sequence

from i12e import backups, bundle, fence, lease, retention, screen
from i12e.backups import Backup, Place
from i12e.build import Build
from i12e.errors import Problem, UserError
from i12e.openplaces import open_places
from i12e.settings import Cluster
from i12e.stores import Locked, Missing, StoreError

_DAY = 86400.0
Condemned = Sequence[tuple[Backup, tuple[bool, str]]]


def run(build: Build, store: str, dry_run: bool, yes: bool) -> None:
    """Given a store ("": all), whether only to say what would be done, and whether nobody is to be asked, prune."""
    cluster = build.cluster()
    places, problems = open_places(build, cluster, store, probe=not dry_run)
    try:
        for place in places:
            try:
                for epoch in backups.epochs(place):
                    problems += _prune(build, cluster, place.of(epoch), dry_run, yes)
            except UserError as error:
                problems += error.problems
            except StoreError as error:
                problems.append(error.problem())
            except lease.Lost as error:
                problems.append(error.problem())
    finally:
        for place in places:
            place.store.close()
    if problems:
        raise UserError(problems)


def _prune(build: Build, cluster: Cluster, place: Place, dry_run: bool, yes: bool) -> list[Problem]:
    """Given a cluster's folder of one epoch, prune that."""
    if dry_run:
        for each, (_, why) in _condemned(cluster, place):
            build.tell(
                "REMOVE", _named(place, each), f"{why}; not done: --dry-run", "planned", _facts(place, each, why)
            )
        return []
    if not place.store.shares:
        build.note(f"{place.store.name}: cannot be locked, it has no compare-and-swap: let one machine alone prune it")
        return _remove(build, place, _condemned(cluster, place), None, yes)
    with fence.taken(place, "prune") as held:
        return _remove(build, place, _condemned(cluster, place), held, yes)


def _condemned(cluster: Cluster, place: Place) -> Condemned:
    """Return the backups that are to go, and why, by all that the store has."""
    found = backups.survey(place)
    keep, now = cluster.backup.keep, place.store.now()
    chosen = retention.choose(backups.kept(found), keep, now)
    going = [each for each in found if not chosen[each.id][0]]
    locks = {each.id: until for each in going if (until := _locked_until(place, each)) is not None}
    chosen = retention.choose(backups.kept(found, locks), keep, now)
    return [(each, chosen[each.id]) for each in going if not chosen[each.id][0]]


def _locked_until(place: Place, each: Backup) -> float | None:
    found = []
    for key in each.keys:
        try:
            found.append(place.store.locked_until(key) or 0.0)
        except Missing:
            continue
    return max(found, default=0.0) or None


def _remove(
    build: Build,
    place: Place,
    condemned: Condemned,
    held: lease.Lease | None,
    yes: bool,
) -> list[Problem]:
    swept = place.store.sweep(_DAY)
    if swept:
        build.tell("SWEEP", place.store.name, f"{screen.count(len(swept), 'upload')} that never ended", "removed")
    if not condemned:
        build.tell("KEEP", _title(place), "nothing to remove", "kept")
        return []
    _confirm(build, place, condemned, yes)
    problems: list[Problem] = []
    for each, (_, why) in condemned:
        if held is not None:
            held.check()
        if who := place.holders(each.id):  # since we looked
            build.tell("KEEP", _named(place, each), f"held by {', '.join(who)}", "kept")
            continue
        try:
            _delete(place, each)
        except Locked as error:
            problems.append(error.problem())
        else:
            build.tell("REMOVE", _named(place, each), why, "removed", _facts(place, each, why))
    return problems


def _confirm(build: Build, place: Place, condemned: Condemned, yes: bool) -> None:
    if yes:
        return
    count = screen.count(len(condemned), "backup")
    with build.request.pause(), screen.terminal() as terminal:
        if terminal is None:
            said = f"{_title(place)}: {count} would be removed, and nobody can be asked here"
            raise UserError(Problem("", None, None, said, "look at --dry-run, then give --yes"))
        terminal.say(f"{_title(place)}:")
        for each, (_, why) in condemned:
            terminal.say(f"{each.id}  {each.size / 1e6:10.1f} MB  {why}")
        try:
            answer = terminal.ask(f"\nType the store's name, {place.store.name}, to remove {count} there:")
        except EOFError:
            answer = ""
    if answer != place.store.name:
        raise UserError(Problem("", None, None, f'"{answer}" is not {place.store.name}: nothing was removed there'))


def _delete(place: Place, each: Backup) -> None:
    manifest = place.part(each.id, bundle.MANIFEST)
    parts = [key for key in each.keys if key != manifest]
    stone = each.state == backups.ABANDONED and bool(parts)  # which stays, for whoever is stopped before his commit
    # The marks before the parts: nobody would look for those of a backup of which nothing else is left.
    marks = [entry.key for entry in place.store.list(place.key("marks", each.id, ""))]
    for key in [*([] if stone or manifest not in each.keys else [manifest]), *marks, *parts]:
        place.store.delete(key)


def _title(place: Place) -> str:
    return place.store.name if place.epoch == 1 else f"{place.store.name}, epoch {place.epoch}"


def _named(place: Place, each: Backup) -> str:
    return f"{each.id} in {place.store.name}"


def _facts(place: Place, each: Backup, why: str) -> dict[str, object]:
    return {"backup": each.id, "store": place.store.name, "epoch": place.epoch, "bytes": each.size, "why": why}

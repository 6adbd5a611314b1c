"""Who may not commit any more: whoever held a store's lease before, and every earlier epoch of the cluster.

For both there is the tombstone in the place of a manifest (see lease). What an epoch adds is its claim, an object in
its folder: who makes a backup looks for claims of later epochs right before the manifest, when all parts are there; who
claims an epoch lays tombstones, when the claim is there, for all parts of earlier epochs that have no manifest. So
either the one sees the claim, or the other sees the parts, whatever was stopped for how long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from i12e import backups, bundle, lease, screen
from i12e.backups import Backup, Place
from i12e.bundle import Abandoned
from i12e.epoch import Identity
from i12e.lock import operator
from i12e.stores import Exists, Missing, StoreError, TooBig


class Replaced(StoreError):
    """A later epoch of the cluster has the store: whatever was to be committed there must not be."""


@dataclass(frozen=True)
class Claim:
    """Who has an epoch of a cluster in a store, by whom and since when (seconds since 1970, the store's clock)."""

    epoch: int
    uid: str
    at: float
    by: str


def check(place: Place, who: Identity) -> None:
    """Given a cluster's folder in a store and who the live cluster is, return if no later epoch of it is there.

    Raise Replaced if one is, and StoreError if that is another cluster's of the same name, or is not known.
    """
    latest = backups.epochs(place)[0]
    if latest <= who.epoch:
        return
    with suppress(Missing):  # somebody removed it, and left the backups
        _claimed(place.of(latest), who.uid)
    why = f"a later epoch of this cluster ({latest}) has this store: this one was replaced by it"
    raise Replaced(place.store.name, why, "shut it down")


def enter(place: Place, who: Identity) -> Place:
    """Given a cluster's folder in a store and who the live cluster is, return the folder of its epoch.

    It is claimed if nobody did that. Raise as check() does.
    """
    own = place.of(who.epoch)
    if who.epoch > 1:
        try:
            _claimed(own, who.uid)
        except Missing:
            claim(own, who.uid)
    return own


def claim(place: Place, uid: str, by: str = "") -> Claim:
    """Given the folder of an epoch, the cluster's UID and who claims it (us), let it be there; return whose it is.

    It may have been claimed before: then that stands, and `by` and `at` tell whether it was somebody else. Afterwards
    nobody commits a backup in an earlier epoch any more. To be called again if it was broken off. Raise Replaced if
    there is a later epoch, and StoreError if it is another cluster's of the same name, or the store fails.
    """
    if place.epoch < 2:
        raise ValueError("the first epoch needs no claim")
    check(place, Identity(uid, place.epoch))
    ours = Claim(place.epoch, uid, place.store.now(), by or operator())
    with suppress(Exists):
        place.store.create(place.key(backups.CLAIM), json.dumps(asdict(ours), indent=1).encode() + b"\n")
    found = _claimed(place, uid)
    _close_earlier(place)
    return found


def next_epoch(places: Iterable[Place], who: Identity, by: str) -> int:
    """Given a cluster's folders in its stores, who it says that it is and who is to claim, return the epoch to claim.

    It is above all that are there, and above the cluster's own; but the latest one again if that is claimed by the
    same already, whose promotion was broken off then: `by` has to be of this one promotion alone. Raise StoreError as
    check() does.
    """
    latest, mine = who.epoch, 0
    for place in places:
        epoch = backups.epochs(place)[0]
        latest = max(latest, epoch)
        with suppress(Missing):
            if epoch > 1 and _claimed(place.of(epoch), who.uid).by == by:
                mine = max(mine, epoch)
    return mine if mine == latest else latest + 1


def _claimed(place: Place, uid: str) -> Claim:
    """Return who has an epoch; raise Missing if nobody has, StoreError if it is not the cluster of that UID."""
    key = place.key(backups.CLAIM)
    try:
        content, _ = place.store.get(key)
        said = json.loads(content)
        found = Claim(int(said["epoch"]), str(said["uid"]), float(said["at"]), str(said["by"]))
        if found.epoch != place.epoch:
            raise ValueError
    except (TooBig, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        remedy = "remove it, if no other cluster has this name: the next backup writes it"
        raise StoreError(place.store.name, f"{key} does not say whose it is", remedy) from None
    if found.uid != uid:
        why = f"{place.folder} is another cluster's of the same name (its kube-system is {found.uid[:100]})"
        raise StoreError(place.store.name, why, "give one of the two another name, or another store")
    return found


def last_number(place: Place, found: Sequence[Backup]) -> int:
    """Given a folder and its survey, return the number that the next one has to be above.

    The first one of an epoch is above those of all earlier ones. In these, what is in the making is shut out then.
    """
    return backups.highest(found) or _close_earlier(place)


def _close_earlier(place: Place) -> int:
    """Shut out what earlier epochs have in the making, and return the highest number that they have."""
    earlier = [place.of(epoch) for epoch in backups.epochs(place) if epoch < place.epoch] if place.epoch > 1 else []
    return max(map(_close, earlier), default=0)


def _close(place: Place) -> int:
    found = backups.survey(place)
    unfinished = _unfinished(found)
    for each in unfinished:
        _bury(place, each, backups.highest(found))
    return backups.highest(backups.survey(place) if unfinished else found)  # one may just have been committed


def _unfinished(found: Sequence[Backup]) -> list[str]:
    return [each.id for each in found if each.state == backups.UNFINISHED and bundle.is_id(each.id)]


def _bury(place: Place, backup: str, number: int) -> None:
    """Lay a tombstone for a backup; if it has a manifest by now, it counts."""
    stone = Abandoned(backup, operator(), int(place.store.now()), number)
    with suppress(Exists):
        place.store.create(place.part(backup, bundle.MANIFEST), stone.content())


def take(
    place: Place, what: str, wait: float = 0.0, every: float = lease.EVERY, length: float = lease.LENGTH
) -> lease.Lease:
    """Given a cluster's folder in a store, what is to be done there and how many seconds to wait, take its lease.

    `every`, `length`: as lease.take has them. A manifest that an earlier holder was stopped before can then be written
    by nobody. Raise lease.Busy, lease.Lost, UserError, or StoreError.
    """
    above = last_number(place, backups.survey(place))
    held = lease.take(
        place.store, what, key=place.lease, wait=wait, tell=screen.say, above=above, every=every, length=length
    )
    try:
        # Also what the lease does not name: somebody may have removed it under a holder who was stopped.
        for earlier in dict.fromkeys([*held.open, *_unfinished(backups.survey(place))]):
            _bury(place, earlier, held.number)
            held.settle(earlier)
    except BaseException:
        held.release()
        raise
    return held


@contextmanager
def taken(place: Place, what: str, wait: float = 0.0) -> Iterator[lease.Lease]:
    """Given what take() takes, have the lease until the block ends."""
    held = take(place, what, wait)
    try:
        yield held
    finally:
        held.release()

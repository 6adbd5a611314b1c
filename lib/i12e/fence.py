"""A store's lease, with the tombstones that it needs: whoever held it before cannot commit any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from i12e import backups, bundle, lease, screen
from i12e.backups import Place
from i12e.bundle import Abandoned
from i12e.lock import operator
from i12e.stores import Exists


def take(
    place: Place, what: str, wait: float = 0.0, every: float = lease.EVERY, length: float = lease.LENGTH
) -> lease.Lease:
    """Given a cluster's folder in a store, what is to be done there and how many seconds to wait, take its lease.

    `every`, `length`: as lease.take has them. A manifest that an earlier holder was stopped before can then be written
    by nobody. Raise lease.Busy, lease.Lost, UserError, or StoreError.
    """
    highest = backups.highest(backups.survey(place))
    held = lease.take(
        place.store, what, key=place.lease, wait=wait, tell=screen.say, above=highest, every=every, length=length
    )
    try:
        # Also what the lease does not name: somebody may have removed it under a holder who was stopped.
        unfinished = [each.id for each in backups.survey(place) if each.state == backups.UNFINISHED]
        for earlier in dict.fromkeys([*held.open, *filter(bundle.is_id, unfinished)]):
            stone = Abandoned(earlier, operator(), int(place.store.now()), held.number)
            with suppress(Exists):
                place.store.create(place.part(earlier, bundle.MANIFEST), stone.content())
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

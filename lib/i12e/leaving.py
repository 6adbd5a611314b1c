"""A server leaves the API's name before os_deploy resets it, and comes back when it is proven.

The name is never emptied: the last healthy server stays in it. What a resolver may still have is waited for. The
host's deploy.json says that the server leaves, so that a `dns` which runs elsewhere does not put it back meanwhile, and
so that the run after one that was killed waits anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from i12e import dns, fleet, remote, screen
from i12e.deploy import Named, Situation
from i12e.dns import Healthy
from i12e.errors import Problem, UserError
from i12e.facts import ClusterView
from i12e.lock import duration
from i12e.naming import Name, NotVisible, Planned, told
from i12e.zones import Records, ZoneError

LEAVES, TTL = dns.LEAVES, dns.TTL
"""The keys of an intent: that the server leaves the name, and for how long resolvers may have it then."""
TROUBLE = (ZoneError, UserError, remote.Unreachable)
"""What may go wrong with a name."""
_ROUNDED = 1.0  # seconds by which a resolver may round up what is left of a TTL
_NEWS = 10.0  # seconds between two lines about the wait
_TRIES = 3
_WELL = 60.0  # seconds in which a server that is proven has to be seen as healthy by the others
_LOOK = 1.0
MEND = "mend that, or say why the name may be left alone: --no-dns REASON"


def check(name: Name, now: Situation, founds: bool) -> None:
    """Given the name and what is so, see that it may be written, before anything is changed; raise UserError.

    While no server answers nobody knows who we are: what stands there is judged alone.
    """
    try:
        answering = now.view.answering()
        if answering:
            found = name.planned(name.healthy(now.view), answering[0]).found
        else:
            found = name.zone.read(name.text)
            refused = dns.occupied(name.text, found)
            if refused:
                raise UserError(Problem("", None, None, refused.why, refused.remedy))
        _admit(name, found)
    except TROUBLE as error:
        problems = error.problems if isinstance(error, UserError) else (error.problem(),)
        raise UserError([*problems, nothing_changed(name.text)]) from None
    if founds and found.fence:
        screen.say(f"{name.text} is held by {found.fence}: a new cluster gets it by ./doit dns --take-over alone")
    elif founds and not found.addresses:
        screen.say(f"{name.text} is not there yet: resolvers that were asked may not see it at once")


def nothing_changed(name: str) -> Problem:
    """Given the name, return what is told beside the reason why it cannot be kept right."""
    return Problem("", None, None, f"{name} cannot be kept right, so nothing was changed", MEND)


def complaint(name: Named | None, error: Exception) -> str:
    """Given the name and what went wrong with it, return that in a line."""
    said = told(error)
    return said if name is None or name.name in said else f"{name.name}: {said}"


def _admit(name: Name, found: Records) -> None:
    """Raise UserError where a name without a fence has addresses that are none of ours: it may be somebody's."""
    strangers = name.strangers(found)
    if strangers:
        said = f"{name.text} is {', '.join(strangers)}, which no server of ours has, and nobody holds it by a fence"
        raise UserError(Problem("", None, None, said, "./doit dns asks, and takes it"))


class Leaving:
    """One server and the API's name."""

    def __init__(self, name: Name, server: str) -> None:
        self.name = name
        self.server = server
        self.wrote = False
        """Whether the name was written without it, or was so."""

    def go(self, view: ClusterView, intent: Mapping[str, Any] | None, begin: Callable[[float | None], None]) -> bool:
        """Take the server out, and wait until no resolver has it; return whether that took any time.

        `intent` is what an earlier run has begun. `begin` is called before anything is written, with the seconds for
        which resolvers may have the server, None where it stays in the name. Raise what is in TROUBLE.
        """
        fit = self.name.healthy(view, [self.server])
        if not fit.servers:
            begin(None)
            if view.answering():
                self._say(f"{self.name.text} stays as it is meanwhile: no other server is healthy")
            return False
        witness = [*view.answering(self.server), *view.answering()][0]
        planned = self.name.planned(fit, witness)
        earlier = float((intent or {}).get(TTL) or 0) if (intent or {}).get(LEAVES) else 0.0
        ttl = max(*planned.found.ttls, self.name.ttl, earlier)
        begin(ttl)
        for turn in range(_TRIES):
            made = self._make(fit, witness)
            had = self._has(made, made.found.addresses)
            if not had and not earlier and not turn:
                return False
            self._wait(max(*made.found.ttls, ttl))
            if not self._has(made, self.name.zone.read(self.name.text).addresses):
                return True
            self._say(f"somebody has put it into {self.name.text} again")
        said = f"{self.name.text}: somebody puts {self.server} into it all the time"
        raise UserError(Problem("", None, None, said, "is there a ./doit dns of an older version?"))

    def _make(self, fit: Healthy, witness: str) -> Planned:
        try:
            made = self.name.make(fit, witness, lambda made: _admit(self.name, made.found))
        except NotVisible:
            self.wrote = True
            raise
        self.wrote = True
        return made

    def _has(self, made: Planned, addresses: Iterable[str]) -> bool:
        """Tell whether the server is among addresses; one that stays, as the last of its family, does not count."""
        return bool(self.name.of(self.server) & (set(addresses) - set(made.plan.addresses)))

    def _wait(self, ttl: float) -> None:
        self._say(f"is out of {self.name.text}; for {duration(ttl)}, its TTL, resolvers may still have it")
        until = time.monotonic() + ttl + _ROUNDED
        said = time.monotonic()
        while (left := until - time.monotonic()) > 0:
            if time.monotonic() - said > _NEWS:
                self._say(f"waits until no resolver has it any more, {duration(left)} left")
                said = time.monotonic()
            time.sleep(min(left, _LOOK))

    def come_back(self, patient: bool = True) -> None:
        """Make the name the healthy servers, this one among them; raise what is in TROUBLE.

        `patient`: wait for a while until it is seen as healthy, and raise UserError if it is not.
        """
        until = time.monotonic() + (_WELL if patient else 0.0)
        servers = list(self.name.addresses)
        while True:
            view = fleet.situation(self.name.hosts, [], whole=False, whom=servers).view
            fit = self.name.healthy(view)
            if self.server in fit.servers or time.monotonic() >= until:
                break
            time.sleep(_LOOK)
        if fit.servers and view.answering():
            made = self.name.make(fit, view.answering()[0], lambda made: _admit(self.name, made.found))
            if made.plan.action == "write" and self.server in fit.servers:
                self._say(f"is in {self.name.text}")
        if self.server not in fit.servers:
            said = f"{self.name.text} is without it: it {fit.unfit.get(self.server, 'does not answer')}"
            raise UserError(Problem("", None, None, said))

    def _say(self, text: str) -> None:
        screen.say(f"{self.server}: {text}")

"""The API's name, as `dns` and os_deploy write it: who we are, what the plan says, written, and read back.

`dns` (the plan) decides, a zone's provider writes. Who the cluster is, and since which epoch, is kept in the cluster
itself: an old copy of it that wakes up has an older epoch, and the name's fence, which says the newer one, keeps it
away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from i12e import credentials, dns, epoch, screen, zones
from i12e.build import Build
from i12e.deploy import Named
from i12e.dns import Healthy, Plan
from i12e.errors import Problem, UserError
from i12e.facts import ClusterView
from i12e.fleet import Hosts
from i12e.openzone import open_zone
from i12e.patience import Patience
from i12e.settings import Cluster, Dns
from i12e.zones import Addresses, Changed, Fence, Records, Zone

_TRIES = 5
_VISIBLE = 60.0  # seconds in which what was written is to be everywhere


@dataclass(frozen=True)
class Planned:
    """What is to be done with the name, by whom, and what stood there."""

    plan: Plan
    ours: Fence
    found: Records

    @property
    def takes(self) -> bool:
        """Whether somebody else may have the name until then."""
        return self.plan.takes_over or (self.plan.claims and bool(self.found.addresses))


class NotVisible(UserError):
    """It was written, and not all servers of the zone show it."""


def kept(cluster: Cluster) -> Named | None:
    """Given the cluster, return the name that os_deploy keeps right, None where there is none or a person writes it."""
    settings = cluster.dns
    return None if settings is None or settings.provider == "none" else Named(cluster.api.name, settings.ttl_seconds)


def zone(build: Build, settings: Dns) -> Zone:
    """Given what the cluster's file says of DNS, return the zone, open; raise UserError or ZoneError."""
    path = f"{build.paths.secrets}/dns.yaml"
    return open_zone(settings, credentials.of_dns(settings, build.group("dns"), path), screen.say)


class Name:
    """The API's name in its zone, and the servers that it may be."""

    def __init__(self, build: Build, cluster: Cluster, settings: Dns, zone: Zone, hosts: Hosts) -> None:
        self.text = cluster.api.name
        self.ttl = settings.ttl_seconds
        self.zone = zone
        self.hosts = hosts
        self._build = build
        self._sqlite = cluster.k3s.datastore == "sqlite"

    def close(self) -> None:
        """Let go of the zone."""
        self.zone.close()

    @property
    def addresses(self) -> Mapping[str, tuple[str, ...]]:
        """The addresses of all servers, by their names."""
        servers = [wanted.host for wanted in self.hosts.wanted.values() if wanted.host.role == "server"]
        return {host.name: tuple(map(str, host.addresses)) for host in servers}

    def healthy(self, view: ClusterView, without: Collection[str] = ()) -> Healthy:
        """Given what the servers say now, and those that are about to be reset, return which of them it should have."""
        return dns.healthy(view, time.time(), without, self._sqlite)

    def of(self, server: str) -> frozenset[str]:
        """Given a server, return its addresses as a zone has them."""
        return frozenset(Addresses.of(self.addresses.get(server, ())))

    def strangers(self, found: Records) -> list[str]:
        """Given what stands there, return the addresses of a name that nobody holds, and that are of none of ours."""
        ours = {address for server in self.addresses for address in self.of(server)}
        return [] if found.fence else [address for address in found.addresses if address not in ours]

    def planned(self, fit: Healthy, server: str, take_over: bool = False) -> Planned:
        """Given the healthy servers and one that answers, return what is to be done.

        Raise UserError for what is refused, and ZoneError, or remote.Unreachable.
        """
        identity = epoch.read(self.hosts[server])
        return self._planned(fit, Fence(identity.uid, identity.epoch), take_over)

    def _planned(self, fit: Healthy, ours: Fence, take_over: bool) -> Planned:
        found = self.zone.read(self.text)
        if take_over and found.fence not in (None, ours):
            ours = ours.after(found.fence)
        plan = dns.plan(self.text, fit, self.addresses, found, ours, self.ttl, take_over)
        self._build.notes += [note for note in plan.notes if note not in self._build.notes]
        if plan.action == "refuse":
            raise UserError(Problem("", None, None, plan.why, plan.remedy))
        return Planned(plan, ours, found)

    def make(self, fit: Healthy, server: str, admit: Callable[[Planned], None], take_over: bool = False) -> Planned:
        """Given the healthy servers and one that answers, do what is to be done, and return it.

        `admit` gets what will be written, and raises what speaks against it; where somebody else wrote meanwhile, it is
        planned again. The epoch is written into the cluster before anybody can see it elsewhere: a copy of before has
        an older one. Raise as `planned`, and NotVisible.
        """
        identity = epoch.read(self.hosts[server])
        ours, written = Fence(identity.uid, identity.epoch), identity.written
        for _ in range(_TRIES):
            made = self._planned(fit, ours, take_over)
            if made.plan.action == "nothing":
                return made
            admit(made)
            if made.ours != ours or not written:
                epoch.write(self.hosts[server], made.ours.epoch, new=not written)
                ours, written = made.ours, True
            with suppress(Changed):
                self._write(made)
                return made
        raise UserError(Problem("", None, None, f"{self.text}: somebody else writes it all the time", "run it again"))

    def _write(self, made: Planned) -> None:
        addresses = made.plan.addresses
        self.zone.ensure(self.text, addresses, self.ttl, made.ours, made.plan.expected)
        patience = Patience(screen.say, _VISIBLE, longest=10.0)
        behind = zones.wait_until_visible(self.zone, self.text, addresses, self.ttl, made.ours, patience)
        if behind:
            said = f"{self.text} was written, and not all of the zone's servers show it: {'; '.join(behind)}"
            raise NotVisible(Problem("", None, None, said, "run it again: it only looks, if all is well by then"))


def told(error: Exception) -> str:
    """Given what went wrong with a name, return it in a line."""
    if isinstance(error, UserError):
        return "; ".join(problem.message for problem in error.problems)
    return str(error)

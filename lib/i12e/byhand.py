"""A zone that nobody but a person can write: its servers are read, and what is to be entered is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from i12e import nameservers
from i12e.nameservers import Server
from i12e.zones import Addresses, ByHand, Fence, Records, ZoneError, admitted, fence_name, lines


class Hand:
    """A zone without a provider (`none`); see zones.Zone. What ensure() would write is in the ByHand that it raises.

    `servers` finds the authoritative servers; by default those that the zone's delegation names.
    """

    name = "none"
    atomic = False

    def __init__(self, origin: str, servers: Callable[[], Sequence[Sequence[Server]]] | None = None) -> None:
        self._origin = origin
        self._servers = servers or (lambda: nameservers.authorities(self.name, origin))
        self.place = f"{origin}, by hand"

    def read(self, name: str) -> Records:
        """See Zone. The first server that answers is believed: a person enters things into one place."""
        said = list(self.authoritative(name).values())
        for each in said:
            if isinstance(each, Records):
                return each
        if isinstance(said[0], ZoneError):
            raise said[0]
        raise AssertionError("neither records nor an error")

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """See Zone."""
        found = self.read(name)
        admitted(self.name, name, found, addresses, fence, expected)
        if not found.shows(addresses, ttl, fence):
            why = f"{name} has to be {addresses}, and is {found.addresses}"
            raise ByHand(self.name, why, lines(name, addresses, ttl, fence))

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """See Zone."""
        servers = self._servers()
        if not servers:
            raise ZoneError(self.name, f"the zone {self._origin} has no servers", "is dns.zone the zone?")
        return nameservers.look(self.name, servers, self._origin, name)

    def permissions(self, name: str) -> str:
        """See Zone."""
        return f"You enter {name} and {fence_name(name)} yourself; i12e reads them.\n"

    def close(self) -> None:
        """See Zone."""

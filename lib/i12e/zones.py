"""Zones: where the API's name is kept. The protocol, the fence, what goes wrong, and a zone that is patient.

The providers are route53, rfc2136, cloudflare and byhand; openzone opens the one that the model names.
tests/zone_suite.py is what every one of them keeps, the docstring of `Zone` says it in words, docs/providers.md how
another is written.

The fence is a TXT record beside the name: it says which cluster holds the name, and since which epoch. Whoever writes
names the fence that it read; a provider writes only if that still stands. So a cluster that was restored elsewhere,
once promoted, does not lose its name to the old one that wakes up again, and of two that write at once, one is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from i12e.errors import Outside
from i12e.patience import Patience

LABEL = "_i12e"
"""The label before the API's name at which the fence stands."""
_FENCE = re.compile(r"i12e cluster=([A-Za-z0-9][A-Za-z0-9._-]{0,99}) epoch=([1-9][0-9]{0,14})\Z")
_OURS = re.compile(r"\s*i12e\b")


class ZoneError(Outside):
    """A zone did not do what it was asked for."""


class Refused(ZoneError):
    """The provider does not let us: wrong or missing credentials, no permission, or a clock that is wrong."""


class NotThere(ZoneError):
    """The zone itself is not there, or this server does not have it."""


class Occupied(ZoneError):
    """Something stands at the name, or at the fence's, that is not ours to overwrite: an alias, a foreign text."""


class Changed(ZoneError):
    """Somebody else wrote since the fence was read; read again, and decide again."""


class ByHand(ZoneError):
    """Nobody but a person can write there; `lines` are what is to be entered."""

    def __init__(self, zone: str, why: str, lines: tuple[str, ...]) -> None:
        super().__init__(zone, why, "enter it by hand, then run this again")
        self.lines = lines


@dataclass(frozen=True)
class Fence:
    """Who holds a name: a cluster, by an identity that no other one has, and the epoch since which it does.

    A cluster that was restored has the identity of the old one: the epoch, which a promotion makes one higher, tells
    them apart. `cluster` is of letters, digits and . _ -, 100 of them at the most; epochs begin with 1.
    """

    cluster: str
    epoch: int

    def __post_init__(self) -> None:
        if not _FENCE.match(self.text):
            raise ValueError(f"no fence: {self.text!r}")

    @property
    def text(self) -> str:
        """What the TXT record says."""
        return f"i12e cluster={self.cluster} epoch={self.epoch}"

    def __str__(self) -> str:
        return f"cluster {self.cluster}, epoch {self.epoch}"

    def after(self, other: Fence | None) -> Fence:
        """Given who holds the name, return this cluster's fence with an epoch that is higher than both."""
        return replace(self, epoch=max(self.epoch, other.epoch if other else 0) + 1)


class Fenced(ZoneError):
    """Another cluster, or a later epoch of ours, holds the name; nothing was written."""

    def __init__(self, zone: str, name: str, holder: Fence, ours: Fence) -> None:
        self.holder = holder
        remedy = "if this cluster is to have the name: ./doit dns --take-over"
        super().__init__(zone, f"{name} is held by {holder}; this is {ours}", remedy)


def fence_of(text: str) -> Fence | None:
    """Given the text of a TXT record, return the fence that it is, or None."""
    found = _FENCE.match(text)
    return Fence(found[1], int(found[2])) if found else None


def fence_name(name: str) -> str:
    """Given the API's name, return the name of its fence."""
    return f"{LABEL}.{name}"


@dataclass(frozen=True)
class Addresses:
    """A set of addresses, by family, each in its canonical form."""

    v4: frozenset[str] = frozenset()
    v6: frozenset[str] = frozenset()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Addresses:
        """Given addresses of both families, return them; raise ValueError if one is none."""
        found = [ipaddress.ip_address(text) for text in texts]
        return cls(*(frozenset(str(each) for each in found if each.version == version) for version in (4, 6)))

    def __bool__(self) -> bool:
        return bool(self.v4 or self.v6)

    def __iter__(self) -> Iterator[str]:
        """Yield all of them, IPv4 first, by number."""
        yield from (str(each) for each in sorted(map(ipaddress.IPv4Address, self.v4)))
        yield from (str(each) for each in sorted(map(ipaddress.IPv6Address, self.v6)))

    def by_kind(self) -> dict[Literal["A", "AAAA"], tuple[str, ...]]:
        """Return them by the type of their records, each in the order of numbers."""
        return {"A": tuple(Addresses(self.v4)), "AAAA": tuple(Addresses(v6=self.v6))}

    def __str__(self) -> str:
        return ", ".join(self) or "nothing"


NONE = Addresses()
"""No address."""


@dataclass(frozen=True)
class Records:
    """What stands at a name and at its fence."""

    addresses: Addresses = NONE
    ttls: frozenset[int] = frozenset()
    """The TTLs of the sets of addresses that are there, in seconds."""
    fence: Fence | None = None
    """Who holds the name; of several (which only a provider without conditions lets happen), the one that all agree
    on: of the highest epoch, and of those the one that was there first, or the first by name."""
    rivals: tuple[Fence, ...] = ()
    """The others."""
    foreign: tuple[str, ...] = ()
    """Texts at the fence's name that no i12e wrote, or that it cannot read."""
    other: str = ""
    """What else stands at the name, and keeps addresses from standing there: "an alias (CNAME) to x"."""

    @classmethod
    def of(
        cls, addresses: Iterable[str], ttls: Iterable[int], texts: Iterable[str], other: str = "", by_age: bool = False
    ) -> Records:
        """Given addresses, TTLs and what the TXT records of the fence say (`by_age`: in that order), return them."""
        read = [(text, fence_of(text)) for text in texts]
        fences = sorted(
            (fence for _, fence in read if fence), key=lambda each: (-each.epoch, "" if by_age else each.cluster)
        )
        foreign = tuple(sorted(text for text, fence in read if not fence))
        first, rest = (fences[0], tuple(fences[1:])) if fences else (None, ())
        return cls(Addresses.of(addresses), frozenset(ttls), first, rest, foreign, other)

    def shows(self, addresses: Addresses, ttl: int, fence: Fence) -> bool:
        """Tell whether it is exactly that."""
        return self == Records(addresses, frozenset({ttl}), fence)


class Zone(Protocol):
    """A zone of DNS as its provider gives it to us: one name and its fence are read and written, nothing else.

    Everything raises ZoneError or a class of it, and nothing else for what happens outside of this program. Nothing is
    tried again here: `Patient` does that, and all of this may be done twice. Threads may share a zone.
    """

    name: str
    """What messages call it: the provider."""

    place: str
    """Where it is, for people: example.com on 192.0.2.53."""

    atomic: bool
    """Whether the fence is compared and everything written in one step that the provider takes whole or not at all.

    Where it is False, `ensure` reads again what it wrote, and tells if it is not that.
    """

    def read(self, name: str) -> Records:
        """Given a name, return what stands there, as the provider or its primary server has it: no cache is asked."""
        ...

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """Make the records of a name exactly these addresses with this TTL, and its fence ours; see `admitted`.

        `expected` is the fence that was read before (None: there was none), and is not `fence` where a higher epoch
        takes the name over. Of two that write at once, the set of one stands there in the end, never a mixture.
        Addresses that stay are there all the time. Raise Changed, Fenced or Occupied, and nothing is written.
        """
        ...

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """Given a name, return what each authoritative server of the zone says of it, by the server's name.

        A server that does not answer has its error there. Raise ZoneError if it is not known which servers they are.
        """
        ...

    def permissions(self, name: str) -> str:
        """Given a name, return the smallest permissions that all of this needs, as the provider's own config has it."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def admitted(zone: str, name: str, found: Records, addresses: Addresses, fence: Fence, expected: Fence | None) -> None:
    """Given what stands at a name, what is to be written, and what was read before, return if it may be written.

    It may if there is our fence, the expected one with an older epoch, or none where none was expected. Raise Fenced,
    Changed or Occupied; and ZoneError for an empty set, which no provider may ever write.
    """
    if not addresses:
        raise ZoneError(zone, f"nothing was left of {name}: an empty name is never written")
    if found.other:
        raise Occupied(zone, f"{name} is {found.other}", "delete that, or give api.name another name")
    if found.foreign:
        said = found.foreign[0]
        why = f'{fence_name(name)} says "{said[:60]}", which is no fence'
        newer = "a newer i12e may have written it" if _OURS.match(said) else "delete that TXT record"
        raise Occupied(zone, why, newer)
    holder = found.fence
    if holder == fence or (holder is None and expected is None):
        return
    if holder is None:
        raise Changed(zone, f"the fence of {name} is gone, which was {expected}", "run it again")
    if holder.epoch >= fence.epoch:
        raise Fenced(zone, name, holder, fence)
    if holder != expected:
        raise Changed(zone, f"{name} is held by {holder}, and was by {expected or 'nobody'}", "run it again")


def lines(name: str, addresses: Addresses, ttl: int, fence: Fence) -> tuple[str, ...]:
    """Given what is to stand at a name, return it as lines of a zone file."""
    told = [f"{name}. {ttl} IN {kind} {each}" for kind, all_ in addresses.by_kind().items() for each in all_]
    return (*told, f'{fence_name(name)}. {ttl} IN TXT "{fence.text}"')


def wait_until_visible(
    zone: Zone, name: str, addresses: Addresses, ttl: int, fence: Fence, patience: Patience
) -> list[str]:
    """Given what was written, wait until every authoritative server shows it; return what does not yet, a line a
    server.

    An empty list: it is everywhere. A server that does not answer counts as one that does not show it; what is wrong
    for good is told at once, as the others show it.
    """
    wanted = Records(addresses, frozenset({ttl}), fence)

    def look() -> list[str]:
        behind = _behind(zone, name, wanted)
        if any(waits for _, waits in behind):
            raise _NotYet(name, [line for line, _ in behind])
        return [line for line, _ in behind]

    try:
        return replace(patience, doing="not everywhere yet", news=patience.limit).call(look)
    except _NotYet as error:
        return error.lines


class _NotYet(ZoneError):
    def __init__(self, name: str, lines: list[str]) -> None:
        self.lines = lines
        super().__init__(name, "; ".join(lines), passing=True)


def _behind(zone: Zone, name: str, wanted: Records) -> list[tuple[str, bool]]:
    """Return what is not as wanted, and whether waiting may help."""
    try:
        shown = zone.authoritative(name)
    except ZoneError as error:
        if not error.passing:
            raise
        return [(f"which servers have the zone is not known: {error.why}", True)]
    # where nobody was asked, nothing is known to be anywhere
    found: list[tuple[str, bool]] = [] if shown else [("no server of the zone is known", False)]
    for server, said in sorted(shown.items()):
        if isinstance(said, ZoneError):
            found.append((f"{server} does not tell: {said.why}", said.passing))
        elif said != wanted:
            found.append((f"{server} {_unlike(said, wanted)}", True))
    return found


def _unlike(said: Records, wanted: Records) -> str:
    if said.addresses != wanted.addresses:
        return f"has {said.addresses}"
    if said.ttls != wanted.ttls:
        return f"has a TTL of {', '.join(map(str, sorted(said.ttls)))} s"
    return f"has the fence of {said.fence or 'nobody'}"


class Patient:
    """A zone that tries again, with limits, what failed for a while; else the one that it is given."""

    def __init__(self, zone: Zone, patience: Patience) -> None:
        self._zone = zone
        self._patience = patience
        self.name = zone.name
        self.place = zone.place
        self.atomic = zone.atomic

    def read(self, name: str) -> Records:
        """See Zone."""
        return self._patience.call(lambda: self._zone.read(name))

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """See Zone. It may be done twice: what was done already is found there with our fence."""
        self._patience.call(lambda: self._zone.ensure(name, addresses, ttl, fence, expected))

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """See Zone. Nothing is tried again: who waits for a server's answer asks until it is the right one."""
        return self._zone.authoritative(name)

    def permissions(self, name: str) -> str:
        """See Zone."""
        return self._zone.permissions(name)

    def close(self) -> None:
        """See Zone."""
        self._zone.close()

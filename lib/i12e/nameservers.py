"""Name servers that are asked and updated: the one home of dnspython.

Servers are asked themselves, without a resolver between: what a cache says is what was so. A read from the server that
takes our updates is signed as these are, so that nobody between can tell us anything else.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from i12e.zones import Changed, NotThere, Records, Refused, ZoneError, fence_name

if TYPE_CHECKING:
    from dns.message import Message
    from dns.rdatatype import RdataType

PORT = 53
SECONDS = 5.0  # for one answer
_ASKED_AT_ONCE = 8
_T = TypeVar("_T")


@dataclass(frozen=True)
class Server:
    """A name server: what messages call it, where it is, and on which port it listens."""

    name: str
    address: str
    port: int = PORT

    @property
    def place(self) -> str:
        """Where it is, for people."""
        there = f"[{self.address}]" if ":" in self.address else self.address
        return there if self.port == PORT else f"{there}:{self.port}"


@dataclass(frozen=True)
class Key:
    """A key of TSIG's (RFC 8945): its name, algorithm (hmac-sha256), and secret in base64."""

    name: str
    algorithm: str
    secret: str

    def __repr__(self) -> str:
        return f"Key({self.name})"


class _Unsigned(Refused):
    """A signed message was answered without a signature."""


@dataclass(frozen=True)
class Given:
    """What has to be so for an update to be done (RFC 2136, 2.4): the set of records of a type is exactly `texts`.

    No texts: there is none of that type.
    """

    name: str
    kind: Literal["A", "AAAA", "TXT", "CNAME"]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Set:
    """A set of records that an update makes: all of a type at a name; none of them where there are no texts."""

    name: str
    kind: Literal["A", "AAAA", "TXT"]
    texts: tuple[str, ...]
    ttl: int


def address_of(zone: str, machine: str) -> str:
    """Given what messages call a zone, and a name or an address, return an address; raise ZoneError."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(machine))
    found = _resolved(zone, machine)
    if not found:
        raise NotThere(zone, f"{machine} has no address", "is it spelt right?")
    return found[0]


def authorities(zone: str, origin: str, primary: Server | None = None, port: int = PORT) -> list[list[Server]]:
    """Given what messages call a zone and its name, return its authoritative servers, each with all its addresses.

    They are the zone's NS records, as the primary says, or the resolver of this machine where there is none. The
    primary itself comes first. `port` is that of the others. Raise ZoneError.
    """
    if primary is None:
        names = [str(each.target) for each in _lookup(zone, origin, "NS")]
        return of_names(zone, names, port)
    found = [[primary]]
    answer = _exchange(zone, primary, _query(origin, "NS"))
    _expect(zone, primary, answer, origin)
    for name in _texts(answer, origin, "NS"):
        there = _addresses_at(zone, primary, name) or _resolved(zone, name)
        if primary.address not in there:
            found.append(
                [Server(name.rstrip("."), each, port) for each in there] or [Server(name.rstrip("."), "", port)]
            )
    return found


def of_names(zone: str, names: Iterable[str], port: int = PORT) -> list[list[Server]]:
    """Given the names of servers, return them with their addresses, by this machine's resolver."""
    found = []
    for name in sorted({each.rstrip(".").lower() for each in names}):
        there = _resolved(zone, name)
        found.append([Server(name, each, port) for each in there] or [Server(name, "", port)])
    return found


def look(zone: str, servers: Iterable[Sequence[Server]], origin: str, name: str) -> dict[str, Records | ZoneError]:
    """Given a zone's servers, each with its addresses, return what each says of a name, or why it does not."""

    def one(each: Sequence[Server]) -> tuple[str, Records | ZoneError]:
        error: ZoneError = ZoneError(zone, "it has no address that this machine finds", passing=True)
        for server in each:
            if not server.address:
                continue
            try:
                return server.name, records(zone, server, origin, name)
            except ZoneError as caught:
                error = caught
        return each[0].name, error

    with ThreadPoolExecutor(_ASKED_AT_ONCE, "dns") as pool:
        return dict(pool.map(one, servers))


def records(zone: str, server: Server, origin: str, name: str, key: Key | None = None) -> Records:
    """Given a server of a zone, return what it says of a name and of its fence; raise ZoneError.

    One answer after the other: what is written in between is seen at the latest in the last, the fence's.
    """
    found: list[str] = []
    ttls: list[int] = []
    other = ""
    for kind in ("A", "AAAA"):
        answer = _exchange(zone, server, _query(name, kind), key)
        _expect(zone, server, answer, origin)
        other = other or _alias(answer, name)
        found += _texts(answer, name, kind)
        ttls += _ttls(answer, name, kind)
    answer = _exchange(zone, server, _query(fence_name(name), "TXT"), key)
    _expect(zone, server, answer, origin)
    return Records.of(found, ttls, _texts(answer, fence_name(name), "TXT"), other)


def update(zone: str, server: Server, origin: str, key: Key, given: Iterable[Given], sets: Iterable[Set]) -> None:
    """Given a zone's primary server and what has to be so, make sets of records, all in one step, or none.

    Raise Changed if something else is so than was given, and ZoneError.
    """
    import dns.rdatatype
    import dns.update

    message = dns.update.UpdateMessage(_absolute(origin))
    for each in given:
        if each.texts:
            message.present(
                _absolute(each.name), dns.rdatatype.from_text(each.kind), *map(_quoted(each.kind), each.texts)
            )
        else:
            message.absent(_absolute(each.name), dns.rdatatype.from_text(each.kind))
    for each_set in sets:
        kind = dns.rdatatype.from_text(each_set.kind)
        if each_set.texts:
            texts = map(_quoted(each_set.kind), each_set.texts)
            message.replace(_absolute(each_set.name), each_set.ttl, kind, *texts)
        else:
            message.delete(_absolute(each_set.name), kind)
    answer = _exchange(zone, server, message, key, tcp=True)
    code = _rcode(answer)
    if code in ("YXRRSET", "NXRRSET", "YXDOMAIN", "NXDOMAIN"):
        raise Changed(zone, "the records are not what they were when they were read", "run it again")
    if code != "NOERROR":
        raise _refusal(zone, server, code, origin)


def _quoted(kind: str) -> Callable[[str], str]:
    return (lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"') if kind == "TXT" else str


def _absolute(name: str) -> Any:
    import dns.name

    return dns.name.from_text(name)


def _query(name: str, kind: str) -> Message:
    import dns.flags
    import dns.message

    return dns.message.make_query(_absolute(name), kind, flags=dns.flags.Flag(0), use_edns=0, payload=1232)


def _exchange(zone: str, server: Server, message: Message, key: Key | None = None, tcp: bool = False) -> Message:
    """Given a message, return the server's answer; raise ZoneError if there is none that can be believed."""
    import dns.query

    if key:
        _sign(zone, message, key)

    def exchange() -> Message:
        if tcp:
            return dns.query.tcp(message, server.address, SECONDS, server.port)
        return dns.query.udp_with_fallback(
            message, server.address, SECONDS, server.port, ignore_unexpected=True, ignore_errors=not key
        )[0]

    try:
        return _told(zone, server, exchange)
    except _Unsigned:
        # Also who does not have the zone answers so: a refusal may be believed without a signature, nothing else.
        answer = _exchange(zone, server, _query(str(message.question[0].name), "SOA")) if message.question else None
        if answer is not None and _rcode(answer) not in ("NOERROR", "NXDOMAIN"):
            return answer
        raise


def _sign(zone: str, message: Message, key: Key) -> None:
    import dns.name
    import dns.tsig

    try:
        ring = dns.tsig.Key(key.name, base64.b64decode(key.secret, validate=True), key.algorithm)
    except ValueError:
        raise Refused(
            zone, f"the secret of the key {key.name} is not base64", "copy it again from the server"
        ) from None
    message.use_tsig(ring)


def _told(zone: str, server: Server, action: Callable[[], _T]) -> _T:
    """Given an exchange with a server, return its answer; say what dnspython says as a ZoneError, without secrets."""
    import dns.exception
    import dns.message
    import dns.tsig

    where = f"{server.name} ({server.place})" if server.name != server.address else server.place
    try:
        return action()
    except (dns.tsig.PeerError, dns.message.UnknownTSIGKey, dns.tsig.BadSignature, dns.tsig.BadKey) as error:
        raise _of_key(zone, where, type(error).__name__) from None
    except (dns.tsig.BadTime, dns.tsig.BadAlgorithm) as error:
        raise _of_key(zone, where, type(error).__name__) from None
    except dns.exception.Timeout:
        raise ZoneError(zone, f"{where}: no answer within {SECONDS:g} s", passing=True) from None
    except EOFError:
        raise ZoneError(zone, f"{where}: the connection ended before the answer", passing=True) from None
    except OSError as error:
        raise ZoneError(zone, f"{where}: {error.strerror or type(error).__name__}", passing=True) from None
    except (dns.exception.DNSException, ValueError) as error:  # an answer that is none, perhaps another's
        if "TSIG" in str(error):
            raise _Unsigned(zone, f"{where}: answers without a signature", "it has to know our key") from None
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ZoneError(zone, f"{where}: {said}", "is that a name server?", passing=True) from None


def _of_key(zone: str, where: str, what: str) -> Refused:
    """Given the name of an error of TSIG's, return what it means (RFC 8945, 5.2)."""
    remedy = "compare the key's name, algorithm and secret with the server's, and which names it may write"
    if what in ("PeerBadTime", "BadTime"):
        remedy = "set the clock of this machine (timedatectl), or the server's"
        return Refused(zone, f"{where}: its clock and ours differ by too much", remedy)
    if what in ("PeerBadKey", "UnknownTSIGKey"):
        return Refused(zone, f"{where}: does not know our key, or does not let it do this", remedy)
    if what.startswith("Peer"):
        return Refused(zone, f"{where}: does not take our signature", remedy)
    return Refused(zone, f"{where}: its own signature is wrong", remedy)


def _rcode(answer: Message) -> str:
    import dns.rcode

    return dns.rcode.to_text(answer.rcode())


def _expect(zone: str, server: Server, answer: Message, origin: str) -> None:
    """Raise ZoneError if an answer is none of a server that has the zone."""
    import dns.flags

    code = _rcode(answer)
    if code not in ("NOERROR", "NXDOMAIN"):
        raise _refusal(zone, server, code, origin)
    if not answer.flags & dns.flags.AA:
        raise NotThere(zone, f"{server.place} is not authoritative for {origin}", "is it the right server?")


def _refusal(zone: str, server: Server, code: str, origin: str) -> ZoneError:
    """Given the code of an answer that is a refusal, return what it means."""
    where = server.place
    if code == "REFUSED":
        return Refused(zone, f"{where} refuses it (REFUSED)", "it has to let our key read and update these names")
    if code in ("NOTAUTH", "NOTZONE"):
        return NotThere(zone, f"{where} does not have the zone {origin} ({code})", "it is not the zone's primary")
    if code in ("NOTIMP", "FORMERR"):
        return ZoneError(zone, f"{where} knows no updates ({code})", "it has to take RFC 2136's")
    return ZoneError(
        zone, f"{where} fails ({code})", "" if code == "SERVFAIL" else "look at the server", code == "SERVFAIL"
    )


def _rrsets(answer: Message, name: str, kind: str) -> list[Any]:
    wanted, rdtype = _absolute(name), _kind(kind)
    return [each for each in answer.answer if each.name == wanted and each.rdtype == rdtype]


def _kind(kind: str) -> RdataType:
    import dns.rdatatype

    return dns.rdatatype.from_text(kind)


def _texts(answer: Message, name: str, kind: str) -> list[str]:
    found = [rdata for each in _rrsets(answer, name, kind) for rdata in each]
    if kind == "TXT":
        return [b"".join(rdata.strings).decode(errors="replace") for rdata in found]
    return [rdata.to_text() for rdata in found]


def _ttls(answer: Message, name: str, kind: str) -> list[int]:
    return [int(each.ttl) for each in _rrsets(answer, name, kind)]


def _alias(answer: Message, name: str) -> str:
    return "".join(f"an alias (CNAME) to {text.rstrip('.')}" for text in _texts(answer, name, "CNAME")[:1])


def _addresses_at(zone: str, server: Server, name: str) -> list[str]:
    """Given a server, return the addresses that it itself has of a name, IPv4 first; none if it does not say."""
    found: list[str] = []
    for kind in ("A", "AAAA"):
        with contextlib.suppress(ZoneError):
            found += _texts(_exchange(zone, server, _query(name, kind)), name, kind)
    return found


def _resolved(zone: str, name: str) -> list[str]:
    """Given a name, return its addresses by this machine's resolver, IPv4 first."""
    import socket

    try:
        found = socket.getaddrinfo(name.rstrip("."), None, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise ZoneError(zone, f"the name {name} cannot be looked up now", passing=True) from None
        return []
    except UnicodeError:
        return []
    return list(dict.fromkeys(str(each[4][0]) for each in sorted(found, key=lambda each: each[0] != socket.AF_INET)))


def _lookup(zone: str, name: str, kind: str) -> list[Any]:
    """Given a name, return its records of a kind by this machine's resolver; raise ZoneError."""
    import dns.exception
    import dns.resolver

    try:
        return list(dns.resolver.resolve(_absolute(name), kind, lifetime=2 * SECONDS))
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        remedy = "is dns.zone the zone, and is it delegated?"
        raise NotThere(zone, f"there is no zone {name} that this machine finds", remedy) from None
    except dns.resolver.NoResolverConfiguration:
        raise ZoneError(zone, "this machine has no resolver", "look at /etc/resolv.conf") from None
    except (dns.exception.DNSException, OSError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ZoneError(zone, f"the servers of {name} cannot be looked up now: {said}", passing=True) from None

"""Dynamic updates (RFC 2136), signed by TSIG, as a zone: knot, BIND, PowerDNS and many others take them.

One message holds what has to be so and what is to be written, and the server does all of it or nothing: the fence is
compared there, and of two that write at once, the second is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from i12e import nameservers
from i12e.nameservers import Given, Key, Server, Set
from i12e.zones import Addresses, Changed, Fence, Records, Refused, ZoneError, admitted, fence_name


class Rfc2136:
    """A zone at its primary server; see zones.Zone.

    `settings` has server, port, key_name and algorithm; `credentials` has secret, TSIG's in base64. `port_of_others` is
    that of the zone's other servers. Raise Refused without a secret.
    """

    name = "rfc2136"
    atomic = True

    def __init__(
        self,
        origin: str,
        settings: Any,
        credentials: Mapping[str, str],
        port_of_others: int = nameservers.PORT,
    ) -> None:
        secret = credentials.get("secret", "").strip()
        if not secret:
            remedy = "secrets/ENV/dns.yaml has to hold rfc2136: {secret: ...}"
            raise Refused(self.name, f"the key {settings.key_name} has no secret", remedy)
        self._origin = origin
        self._settings = settings
        self._key = Key(settings.key_name, settings.algorithm, secret)
        self._port_of_others = port_of_others
        self._address = ""
        self.place = f"{origin} on {settings.server}"
        self.before_write: Callable[[], None] = lambda: None
        """Called between reading and writing; for tests."""

    @property
    def _server(self) -> Server:
        self._address = self._address or nameservers.address_of(self.name, self._settings.server)
        return Server(self._settings.server, self._address, self._settings.port)

    def read(self, name: str) -> Records:
        """See Zone."""
        return nameservers.records(self.name, self._server, self._origin, name, self._key)

    def ensure(self, name: str, addresses: Addresses, ttl: int, fence: Fence, expected: Fence | None) -> None:
        """See Zone."""
        found = self.read(name)
        admitted(self.name, name, found, addresses, fence, expected)
        self.before_write()
        held = (found.fence, *found.rivals) if found.fence else ()
        given = [
            Given(fence_name(name), "TXT", tuple(each.text for each in held)),
            Given(name, "CNAME"),  # beside one, the server would pass over our addresses and say nothing (3.4.2.2)
        ]
        sets = [Set(name, kind, texts, ttl) for kind, texts in addresses.by_kind().items()]
        sets.append(Set(fence_name(name), "TXT", (fence.text,), ttl))
        try:
            nameservers.update(self.name, self._server, self._origin, self._key, given, sets)
        except Changed:
            admitted(self.name, name, self.read(name), addresses, fence, expected)  # tells who was there first
            raise

    def authoritative(self, name: str) -> Mapping[str, Records | ZoneError]:
        """See Zone. The server that takes the updates is asked, too, where it is none of the zone's NS records."""
        servers = nameservers.authorities(self.name, self._origin, self._server, self._port_of_others)
        return nameservers.look(self.name, servers, self._origin, name)

    def permissions(self, name: str) -> str:
        """See Zone."""
        return _PERMISSIONS.format(
            key=self._key.name, algorithm=self._key.algorithm, zone=self._origin, name=name, fence=fence_name(name)
        )

    def close(self) -> None:
        """See Zone."""


_PERMISSIONS = """\
A key of its own, made by `keymgr -t {key} {algorithm}` (knot) or `tsig-keygen -a {algorithm} {key}` (BIND), which may
write two names and nothing else.

knot.conf:
  acl:
    - id: i12e
      key: {key}
      action: update
      update-owner: name
      update-owner-match: equal
      update-owner-name: [ "{name}.", "{fence}." ]
      update-type: [ A, AAAA, TXT ]
  zone:
    - domain: {zone}
      acl: i12e

named.conf:
  zone "{zone}" {{
    update-policy {{
      grant {key} name {name}. A AAAA;
      grant {key} name {fence}. TXT;
    }};
  }};
"""

"""What a host works out from itself and the other servers: whom it joins, and when it may reboot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from i12e.fields import DAYS, minutes
from i12e.model import Host

Peers = Callable[[], list[dict[str, Any]]]


def join_urls(host: Host, peers: Peers) -> list[str]:
    """Given a host, return the URLs by which it may join: that of the name which is kept right (dns), else the VIP's,
    else those of the other servers in order.
    """
    if host.join_name:
        return [_api_url(host.join_name)]
    if host.api.vip is not None:
        return [_api_url(host.api.vip.address)]
    return [_api_url(server["addresses"][0]) for server in peers() if server["name"] != host.name]


def _api_url(address: Any) -> str:
    text = str(address)
    return f"https://[{text}]:6443" if ":" in text else f"https://{text}:6443"


def position(host: Host, servers: list[dict[str, Any]]) -> int:
    """Given a server and all servers, return its place among them, from 0; raise LookupError for an agent."""
    for place, server in enumerate(servers):
        if server["name"] == host.name:
            return place
    raise LookupError(f"{host.name} is no server: position() is for servers")


def reboot_window(host: Host, peers: Peers) -> dict[str, Any]:
    """Given a host, return when it may reboot for an update: start (HH:MM), length (as written), minutes, days.

    A day has as many slots as windows of this length fit into it, counted from the window's start. Servers
    take one after another, so that no two of them reboot in the same window; where they are more than the
    slots, the next one begins again at the first one's. An agent has one of the first four, by a hash of its
    name, so that agents do not reboot all at once, none depends on another host, and the night that was asked for
    stays a night. A window that is moved past midnight moves to the next day.
    """
    window = host.os.update.window
    length, start = minutes(window.length), _minutes(window.start)
    slots = max(1, _DAY // length)
    if window.stagger and host.role == "server":
        start += position(host, peers()) % slots * length
    elif window.stagger:
        start += _hash(host.name) % min(slots, _AGENTS) * length
    days = [DAYS[(DAYS.index(day) + start // _DAY) % 7] for day in window.days]
    return {
        "start": f"{start % _DAY // 60:02}:{start % 60:02}",
        "length": window.length,
        "minutes": length,
        "days": days,
    }


_DAY = 24 * 60
_AGENTS = 4  # slots that agents are spread over


def _minutes(clock: str) -> int:
    hours, rest = clock.split(":")
    return int(hours) * 60 + int(rest)


def _hash(name: str) -> int:
    """Return a number that is a name's for ever, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")

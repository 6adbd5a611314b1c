"""What a host works out from itself and the other servers: whom it joins, and when it may reboot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from i12e.model import Host

Peers = Callable[[], list[dict[str, Any]]]


def join_urls(host: Host, peers: Peers) -> list[str]:
    """Given a host, return the URLs by which it may join: the VIP's, else those of the other servers in order."""
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
    """Given a host, return when it may reboot for an update: start (HH:MM), length, days.

    Servers start one length after another, so that no two of them reboot in the same window; as many
    as fit into a day do, and the next one begins again at the first one's time. A window that is moved
    past midnight moves to the next day.
    """
    window = host.os.update.window
    start = _minutes(window.start)
    if window.stagger and host.role == "server":
        length = length_minutes(window.length)
        start += position(host, peers()) % max(1, _DAY // length) * length
    days = [_DAYS[(_DAYS.index(day) + start // _DAY) % 7] for day in window.days]
    return {
        "start": f"{start % _DAY // 60:02}:{start % 60:02}",
        "length": window.length,
        "days": days,
    }


_DAY = 24 * 60
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def length_minutes(length: str) -> int:
    """Given a length such as 30m, 1h or 1h30m, return minutes."""
    hours, _, minutes = length.rpartition("h")
    return int(hours or 0) * 60 + int(minutes.removesuffix("m") or 0)

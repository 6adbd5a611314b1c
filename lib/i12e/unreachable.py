"""Why a host cannot be reached: what OpenSSH says, and whether waiting helps.

ssh ends with 255 for everything of its own, so its messages are all that tells one reason from another. They are
not translated. Where each one is made: sshconnect.c (connecting, host keys), sshconnect2.c (permission), kex.c and
packet.c (what breaks before and after), clientloop.c (silence), channels.c (what a jump host says), mux.c (the kept
connection) of openssh-portable; as of 8.4 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from i12e.errors import Outside
from i12e.patience import Patience

_T = TypeVar("_T")


class Unreachable(Outside):
    """A host was not reached, or not to the end. Of this class itself where no waiting helps: a faulty ssh config."""


class Refused(Unreachable):
    """No connection for now: refused, no route, timed out, name not found, closed before the login. Nothing ran."""


class UnknownKey(Unreachable):
    """The host's ssh key is in no known_hosts. Nothing ran."""


class ChangedKey(Unreachable):
    """The host has another ssh key than known_hosts says, or a revoked one. Nothing ran."""


class NotAllowed(Unreachable):
    """The host takes no key of ours, or lets the user run nothing as root. Nothing ran."""


class Lost(Unreachable):
    """The connection broke while a command ran: whether it ended, and how, is not known."""


class Slow(Unreachable):
    """A command's time limit passed. It was told to end, but may go on over there."""


class TooMuch(Unreachable):
    """A command wrote more than is kept in memory; it was broken off."""


# The first that matches any line is the reason: what tells more comes first.
_CHANGED = (
    r"(?P<type>\S+) host key for (?P<name>\S+) was revoked and you have requested strict checking",
    r"Host key for (?P<name>\S+) has changed and you have requested strict checking",
    r"Warning: the \S+ host key for '(?P<name>[^']+)' differs from the key for the IP address",
    r"@\s+WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!",
    r"Host key \S+ \S+ revoked by file",
)
_UNKNOWN = (r"No (?P<type>\S+) host key is known for (?P<name>\S+) and you have requested strict checking",)
_NOT_ALLOWED = (
    r".*Permission denied \(.*\)",  # with the ways that the host would take, unlike the system's own message
    r"Received disconnect from .*: Too many authentication failures",
    r"Authentication failed\.",
)
_REFUSED = (
    r"ssh: connect to host .* port .*: .+",
    r"ssh: Could not resolve hostname .+",
    r"(?:\S+: )?[Cc]ould not resolve host.*",
    r"channel \d+: open failed: .+",  # a jump host: connect failed: No route to host
    r"Timeout, server .* not responding\.",
    r"Not allowed at this time.*",
    r"Exceeded MaxStartups.*",
    r"(?:ssh_exchange_identification|kex_exchange_identification|banner exchange): .+",
    r"Connection timed out during banner exchange",
    r"Connection (?:to|from) .* timed out",
    r"Connection (?:reset|closed) by .+",
    r"Received disconnect from .+",
    r"Disconnected from .+",
    r"Read from remote host .+",
    r"client_loop: send disconnect: .+",
    r".*: Connection (?:to|from) .+",  # packet.c: WHAT: Connection to ADDRESS port N: Broken pipe
    r"(?:ssh_dispatch_run_fatal|ssh_packet_\w+): .+",
)
_VERIFY = r"Host key verification failed\."
_SENT = re.compile(r"The fingerprint for the (\S+) key sent by the remote host is\r?\n(\S+?)\.?\r?$", re.MULTILINE)
_OFFENDING = re.compile(r"^Offending (?:\S+ )?key (?:for IP )?in (.+:\d+)\r?$", re.MULTILINE)


def reason(host: str, said: str) -> Unreachable:
    """Given a host's name and all that ssh said when it could not connect, return why."""
    lines = [clean(line) for line in said.splitlines()]
    if found := _first(_CHANGED, lines):
        return ChangedKey(host, _changed(said), _changed_remedy(host, found, said))
    if found := _first(_UNKNOWN, lines):
        why = f"its ssh host key ({found['type']}) is not known"
        return UnknownKey(host, why, f"./doit host_trust:{host} shows it and asks")
    if found := _first(_NOT_ALLOWED, lines):
        remedy = "ssh_keys in the cluster's file has to hold a key of yours, and ssh-add -l or your ssh config that key"
        return NotAllowed(host, found[0], remedy)
    if found := _first((_VERIFY,), lines):
        why = "Host key verification failed, for this host or for a jump host on the way"
        return UnknownKey(host, why, "log in by hand once, with ssh, to see which key is meant")
    if found := _first(_REFUSED, lines):
        return Refused(host, found[0].removeprefix("ssh: "))
    told = [line for line in lines if line]
    return Unreachable(host, told[-1].removeprefix("ssh: ") if told else "ssh ended and said nothing")


def clean(line: str) -> str:
    """Given a line from elsewhere, return what of it can be shown: nothing that moves a cursor, and not too much."""
    return "".join(char for char in line if char.isprintable()).strip()[:500]


def _first(patterns: tuple[str, ...], lines: list[str]) -> re.Match[str] | None:
    matches = (re.match(pattern, line) for pattern in patterns for line in lines)
    return next((match for match in matches if match), None)


def _changed(said: str) -> str:
    if "REVOKED" in said or "revoked by file" in said:
        return "its ssh host key is marked as revoked"
    sent, offending = _SENT.search(said), _OFFENDING.search(said)
    why = "its ssh host key has changed"
    if sent:
        why += f": it has {clean(sent[2])} ({clean(sent[1])})"
    return f"{why}, not the one in {clean(offending[1])}" if offending else why


def _changed_remedy(host: str, found: re.Match[str], said: str) -> str:
    why = "either another machine answers there, or it was installed anew: find out which"
    name, offending = found.groupdict().get("name"), _OFFENDING.search(said)
    if not name or not offending or "revoked" in found[0]:
        return why
    file = clean(offending[1]).rpartition(":")[0]
    return f"{why}; only then ssh-keygen -R '{name}' -f {file} and ./doit host_trust:{host}"


_FIRST, _LONGEST = 0.25, 5.0  # seconds between two tries
_NEWS = 10.0  # seconds between two lines about the same wait


def patiently(
    action: Callable[[], _T],
    limit: float,
    tell: Callable[[str], None],
    again: tuple[type[Unreachable], ...] = (Refused,),
) -> _T:
    """Given an action, return what it returns, trying again while the host refuses and `limit` seconds are not over.

    `tell` gets what is waited for, for how long already, and the last thing that was said: at once, when that
    changes, and now and then. `again` is what is tried again; only an action that may be done twice adds Lost.
    Raise what the action raised where that is not of these, or when the time is over.
    """
    patience = Patience(tell, limit, _FIRST, _LONGEST, chance=0.0, news=_NEWS, doing="waiting for it")
    return patience.call(action, lambda error: isinstance(error, again))

"""The forms of `fields` as an editor can check them: in JSON Schema, in words, with an example.

A pattern never refuses what its form takes (a test tries that), and finds what a regular expression of both
ECMAScript and Python can find. Where the form has an expression of its own, the pattern is made of that one.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from i12e.fields import (
    _BUCKET,
    _CHART,
    _CLOCK,
    _CLOUD_ZONE,
    _CRON,
    _CRON_WORDS,
    _EVERY,
    _HOSTED_ZONE,
    _INTERFACE,
    _K3S,
    _KEY_NAME,
    _KUBELET_LABELS,
    _KUBELET_NAMESPACES,
    _LABEL,
    _NEVER_KEPT,
    _OCI,
    _QUALIFIED,
    _RECIPIENT,
    _REGION,
    _REMOTE,
    _SEMVER,
    _SPAN,
    _SSH_TYPES,
    _SYSEXT,
    _SYSEXT_VERSION,
    _TOO_MUCH,
    _UNIT,
    _UNIT_KINDS,
    _URL,
    _USER,
    _VERSION,
    COMPONENTS,
    DATABASE,
    DEMO_KEY_COMMENT,
    EXAMPLE_RECIPIENT,
)


@dataclass(frozen=True)
class Form:
    """A form in words (`an IP address`), with an example, the unit of what is counted, and what JSON Schema says."""

    what: str
    example: Any
    schema: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    octal: bool = False
    """A number that files write in octal: JSON cannot show it."""


def _whole(expression: re.Pattern[str]) -> str:
    """Given an expression that is matched from the start to its `\\Z`, return it for ECMAScript."""
    return "^" + expression.pattern.removesuffix(r"\Z").replace(r"\d", "[0-9]") + "$"


def _part(expression: re.Pattern[str]) -> str:
    return f"(?:{_whole(expression)[1:-1]})"


def _any(choices: Iterable[str]) -> str:
    return "(?:" + "|".join(choices) + ")"


def _words(words: Iterable[str]) -> str:
    return _any(re.sub(r"([.+*?|\\])", r"\\\1", word) for word in words)


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_V4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_HEX = "[0-9a-fA-F]{1,4}"
_V6 = _any(
    (
        f"(?:{_HEX}:){{7}}{_HEX}",
        *(f"(?:{_HEX}:){{1,{7 - after}}}(?::{_HEX}){{1,{after}}}" for after in range(1, 7)),
        f"(?:{_HEX}:){{1,7}}:",
        f":(?::{_HEX}){{1,7}}",
        "::",
        f"[0-9a-fA-F:]{{1,30}}:{_V4}",
    )
)
# what `address` calls no address that other hosts can reach: class D and E, 127/8, 169.254/16; ::1, fe80::/10, ff00::/8
_REACHABLE_V4 = (
    r"(?!0\.0\.0\.0$|127\.|169\.254\.)(?:22[0-3]|2[01][0-9]|1[0-9][0-9]|[1-9]?[0-9])" + rf"(?:\.{_OCTET}){{3}}"
)
_REACHABLE_V6 = "(?!::1?$|[fF][eE][89abAB][0-9a-fA-F]:|[fF][fF][0-9a-fA-F]{2}:)" + _V6
_REACHABLE = f"(?:{_REACHABLE_V4}|{_REACHABLE_V6})"
_DNS = rf"(?!{_V4}$){_part(_LABEL)}(?:\.{_part(_LABEL)})*"
_NETWORK = _any((rf"{_V4}/(?:0*(?:3[0-2]|[12]?[0-9])|{_V4})", rf"{_V6}/0*(?:12[0-8]|1[01][0-9]|[1-9]?[0-9])"))

_KEY = rf"(?:{_part(_LABEL)}(?:\.{_part(_LABEL)})*/)?{_part(_QUALIFIED)}"
_KUBERNETES = r"(?:[^/]*\.)?(?:kubernetes|k8s)\.io/"
_KUBELETS = rf"(?:[^/]*\.)?{_words(_KUBELET_NAMESPACES)}/"

# a part of a path that is neither empty nor . nor ..
_NAME = r"(?!\.{1,2}(?:/|$))"
_PATH = rf"(?:/{_NAME}[^/\u0000-\u001f\u007f]+)+"


def _kept() -> str:
    """Return the pattern of a path that a reset may keep."""
    never = _words(sorted(_NEVER_KEPT))
    above = {path[:end] for path in _NEVER_KEPT for end in range(1, len(path)) if path[end] == "/"}
    much = _words(sorted((above | set(_TOO_MUCH)) - {"/"}))
    return rf"^(?!{never}(?:/|$))(?!{much}$)(?:/{_NAME}[A-Za-z0-9._@:-]+)+$"


def _ssh_key() -> str:
    """Return the pattern of a public key: a type, and base64 that begins with that type."""
    keys = _any(rf"{_words((kind,))}[^\S\n]+{_blob(kind)}" for kind in _SSH_TYPES)
    return rf"^(?![\s\S]*PRIVATE KEY)\s*(?:[^\n]*[^\S\n])?{keys}(?:[^\S\n][^\n]*)?\s*$"


def _blob(kind: str) -> str:
    """Given a type of key, return the pattern of its base64, which begins with the type's length and name."""
    head = struct.pack(">I", len(kind)) + kind.encode()
    if kind == "ssh-ed25519":  # always 32 bytes: 68 characters in all
        start = base64.b64encode(head + struct.pack(">I", 32))[:25].decode()
        return start + "[A-Za-z0-9+/]{43}"
    start = base64.b64encode(head[: len(head) // 3 * 3]).decode()
    return start.replace("+", r"\+") + "[A-Za-z0-9+/]+={0,2}"


def _cron() -> str:
    """Return the pattern of a schedule: five fields with their ranges, or a word."""
    parts = [_cron_field(low, high, names) for _, low, high, names in _CRON]
    five = r"(?:(?:CRON_)?TZ=\S+\s+)?" + r"\s+".join(parts)
    return rf"^(?:{_words(_CRON_WORDS)}|{_part(_EVERY)}|\s*{five}\s*)$"


def _cron_field(low: int, high: int, names: tuple[str, ...]) -> str:
    words = ["".join(f"[{letter}{letter.upper()}]" for letter in name) for name in names]
    end = _any([f"0*{_any(_numbers(low, high))}", *words])
    entry = rf"(?:\*|\?|{end}(?:-{end})?)(?:/0*[1-9][0-9]*)?"
    return f"{entry}(?:,{entry})*"


def _numbers(low: int, high: int) -> Iterator[str]:
    """Given a range below 100, yield a pattern for each ten in it."""
    for ten in range(high // 10, low // 10 - 1, -1):
        first, last = max(low - ten * 10, 0), min(high - ten * 10, 9)
        yield f"{ten or ''}[{first}-{last}]"


_ABOVE_DATABASE = [DATABASE[:end] for end in range(1, len(DATABASE)) if DATABASE[end] == "/"]


def _pattern(text: str) -> dict[str, Any]:
    return {"pattern": text}


# every form of `fields` by its function's name
FORMS: dict[str, Form] = {
    "label": Form("a DNS label", "my-cluster", _pattern(_whole(_LABEL))),
    "dns_name": Form("a DNS name in small letters", "k8s.example.com", {"maxLength": 253} | _pattern(f"^{_DNS}$")),
    "san": Form("an IP address or a DNS name", "api.example.com", _pattern(rf"^(?:{_REACHABLE}|(?:\*\.)?{_DNS})$")),
    "machine": Form("an IP address or a DNS name", "host.example.com", _pattern(rf"^(?:{_REACHABLE}|{_DNS})$")),
    "address": Form("an IP address that other hosts can reach", "192.0.2.11", _pattern(f"^{_REACHABLE}$")),
    "network": Form("an IP network", "192.0.2.0/24", _pattern(f"^{_NETWORK}$")),
    "mac": Form(
        "the mac address of one card",
        "52:54:00:12:34:56",
        _pattern("^(?!00(?:[:-]00){5}$)[0-9a-fA-F][02468aceACE](?:[:-][0-9a-fA-F]{2}){5}$"),
    ),
    "interface": Form("an interface's name", "eth0", _pattern(r"^(?!\.{1,2}$)" + _whole(_INTERFACE).removeprefix("^"))),
    "k3s_version": Form("the full name of a k3s release", "v1.35.4+k3s1", _pattern(_whole(_K3S))),
    "release_tag": Form("a version of the form vX.Y.Z", "v1.0.1", _pattern(_whole(_VERSION))),
    "component": Form("a component that k3s brings", "traefik", {"enum": list(COMPONENTS)}),
    "label_key": Form(
        "a label's key that a node may give to itself",
        "disktype",
        _pattern(rf"^(?:{_words(sorted(_KUBELET_LABELS))}|(?={_KUBELETS}){_KEY}|(?!{_KUBERNETES}){_KEY})$"),
    ),
    "label_value": Form("a label's value", "ssd", _pattern(f"^{_part(_QUALIFIED)}?$")),
    "taint": Form(
        "a taint, key=value:Effect",
        "dedicated=db:NoSchedule",
        _pattern(rf"^{_KEY}(?:={_part(_QUALIFIED)}?)?:(?:NoSchedule|PreferNoSchedule|NoExecute)$"),
    ),
    "ssh_key": Form(
        "an ssh public key",
        f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 {DEMO_KEY_COMMENT}",
        _pattern(_ssh_key()),
    ),
    "cron": Form("a schedule of cron's", "30 1 * * *", _pattern(_cron())),
    "clock": Form("a time of day, HH:MM", "03:30", _pattern(_whole(_CLOCK))),
    "length": Form(
        "a length of time of less than a day",
        "1h30m",
        _pattern(
            "^(?!(?:0+h)?(?:0+m)?$)(?:0*(?:2[0-3]|1?[0-9])h(?:[0-9]{1,4}m)?|0*(?:14[0-3][0-9]|1[0-3][0-9]{2}|[0-9]{1,3})m)$"
        ),
        unit="hours and minutes (h, m)",
    ),
    "keep": Form("a path that a reset may keep", "/srv/data", _pattern(_kept())),
    "file_path": Form(
        "an absolute path that can be written",
        "/etc/motd",
        _pattern(rf"^(?!/(?:dev|proc|sys|run)(?:/|$)|/usr(?:$|/(?!local/))|/etc/i12e/){_PATH}$"),
    ),
    "local": Form(
        "a path inside the environment's own directory",
        "example.bu",
        _pattern(rf"^{_NAME}[^/\u0000]+(?:/{_NAME}[^/\u0000]+)*$"),
    ),
    # an editor reads YAML 1.2, where 0644 is the number 644, and cannot tell it from one without the 0
    "mode": Form("file permissions", 0o600, {"minimum": 0, "maximum": 7777}, unit="octal", octal=True),
    "release": Form("a Helm release's name", "prometheus", {"maxLength": 53} | _pattern(_whole(_LABEL))),
    "chart": Form(
        "a chart: its name, oci://HOST/PATH or ./PATH",
        "prometheus",
        _pattern(rf"^(?:\./(?:\.|{_NAME}[^/]+(?:/{_NAME}[^/]+)*)|{_part(_OCI)}|{_part(_CHART)})$"),
    ),
    "chart_version": Form("one version of a chart", "1.2.3", _pattern(_whole(_SEMVER))),
    "sysext": Form("a system extension's name", "wasmtime", _pattern(_whole(_SYSEXT))),
    "sysext_version": Form("a system extension's version", "v24.0.0", _pattern(_whole(_SYSEXT_VERSION))),
    "user": Form("a user's or group's name", "core", _pattern(_whole(_USER))),
    "unit": Form(
        "a systemd unit's name",
        "backup.timer",
        {"maxLength": 255} | _pattern(_whole(_UNIT).replace("([a-z]+)", _words(_UNIT_KINDS))),
    ),
    "dropin": Form("a drop-in's name", "10-memory.conf", _pattern(r"^[^/]+\.conf$")),
    "url": Form(
        "an http or https URL without a query",
        "https://mirror.example.com",
        _pattern(_whole(_URL)),
    ),
    "recipient": Form(
        "an age public key",
        EXAMPLE_RECIPIENT,
        _pattern(_whole(_RECIPIENT)),
    ),
    "span": Form(
        "a span of time", "1d12h", _pattern(f"^(?=.){_part(_SPAN)}$"), unit="days, hours and minutes (d, h, m)"
    ),
    "slot": Form(
        "a length of time that divides a day, or whole days",
        "6h",
        _pattern(f"^(?=.){_part(_SPAN)}$"),
        unit="days, hours and minutes (d, h, m)",
    ),
    "folder": Form("a folder, /... or ~/...", "/mnt/nas/backups", _pattern(f"^~?{_PATH}$")),
    "bucket": Form("a bucket's name", "my-backups", _pattern(_whole(_BUCKET))),
    "region": Form("a region's name", "eu-central-1", _pattern(_whole(_REGION))),
    "endpoint": Form(
        "an http or https URL without a path",
        "https://s3.example.com",
        _pattern(r"^[hH][tT]{2}[pP][sS]?://[^\s/?#@]+/*$"),
    ),
    "prefix": Form(
        "a folder in a bucket", "i12e", _pattern(rf"^(?:{_NAME}[A-Za-z0-9._-]+(?:/{_NAME}[A-Za-z0-9._-]+)*)?$")
    ),
    "remote": Form("a remote of rclone's, REMOTE:PATH", "b2:bucket/path", _pattern(_whole(_REMOTE))),
    "backed_up": Form(
        "an absolute path of files on the host's disk",
        "/srv/data",
        _pattern(
            rf"^(?!/(?:dev|proc|sys|run)(?:/|$))(?!{_words([DATABASE])}(?:/|$))(?!{_words(_ABOVE_DATABASE)}$){_PATH}$"
        ),
    ),
    "hosted_zone": Form("the id of a hosted zone", "Z0123456789ABCDEFGHIJ", _pattern(_whole(_HOSTED_ZONE))),
    "cloud_zone": Form(
        "the id of a zone of Cloudflare's", "0123456789abcdef0123456789abcdef", _pattern(_whole(_CLOUD_ZONE))
    ),
    "key_name": Form("the name of a key in a file of secrets", "ops", _pattern(_whole(_KEY_NAME))),
    "argument": Form("a program or an argument", "/usr/local/bin/notify", _pattern(r"^[^\u0000-\u001f\u007f]+$")),
    "script": Form("a command of the shell's", "systemctl stop app", _pattern(r"\S")),
}

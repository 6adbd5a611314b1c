"""The URLs that Ignition takes, read as Go reads them.

Source: net/url of Go, and config/v3_0 to config/v3_6 of Ignition 2.26.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote_plus

from butane.dataurls import data_url_fault
from butane.report import Severity

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST_CHARS = r"""A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>"\x80-\U0010ffff\ud800-\udfff"""
# A host may escape what is not ASCII, and the percent sign; a zone what a host has anyway, and a space
_HOST = re.compile(rf"(?:[{_HOST_CHARS}]|%[89A-Fa-f][0-9A-Fa-f]|%25)*")
_ZONE = re.compile(rf"(?:[{_HOST_CHARS}]|%[0-9A-Fa-f]{{2}})*")
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_OF_ZONE = re.compile(rf"[{_HOST_CHARS} %]")
_PORT = re.compile(r"(?::[0-9]*)?")
_USER = re.compile(r"(?:[A-Za-z0-9\-._:~!$&'()*+,;=@]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True)
class _Url:
    scheme: str
    """In small letters; empty for a URL without."""
    opaque: str
    """What follows the scheme where that is no path."""
    query: str


def _parse(text: str) -> _Url | None:
    """Given a URL, return its parts, None where Go cannot parse it."""
    whole, _, fragment = text.partition("#")
    if _CONTROL.search(whole) or whole.startswith(":"):
        return None
    match = _SCHEME.match(whole)
    scheme = match[1].lower() if match is not None else ""
    rest, _, query = (whole[match.end() :] if match is not None else whole).partition("?")
    opaque = ""
    if rest.startswith("/"):
        sound = _is_sound(scheme, rest)
    elif scheme:
        opaque, sound = rest, True
    else:
        sound = ":" not in rest.partition("/")[0] and not _BAD_ESCAPE.search(rest)
    return _Url(scheme, opaque, query) if sound and not _BAD_ESCAPE.search(fragment) else None


def _is_sound(scheme: str, rest: str) -> bool:
    """Judge an authority and a path."""
    path = rest
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        user, at, host = authority.rpartition("@")
        if not _is_host(host) or (at and _USER.fullmatch(user) is None):
            return False
        path = slash + path
    return not _BAD_ESCAPE.search(path)


def _is_host(host: str) -> bool:
    bracket = host.rfind("[")
    if bracket == 0:
        inside, _, port = host[1:].rpartition("]")
        return "]" in host and _PORT.fullmatch(port) is not None and _is_address(inside)
    colon = host.rfind(":")
    sound = colon < 0 or _PORT.fullmatch(host, colon) is not None
    return bracket < 0 and sound and _HOST.fullmatch(host) is not None


def _is_address(text: str) -> bool:
    """Judge what is in brackets: an address of IPv6, with a zone behind %25."""
    zone_at = text.find("%25")
    address, zone = (text, "") if zone_at < 0 else (text[:zone_at], text[zone_at:])
    escaped = (chr(int(digits, 16)) for digits in _ESCAPED.findall(zone))
    sound = _ZONE.fullmatch(zone) is not None and all(_OF_ZONE.fullmatch(char) for char in escaped)
    if _HOST.fullmatch(address) is None or not sound or zone == "%25":
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def url_fault(url: str, minor: int) -> str | None:
    """Given the source of a resource, return what Ignition 3.`minor` has against it, or None."""
    parsed = _parse(url)
    if parsed is None:
        return "unable to parse url"
    if parsed.scheme not in SCHEMES or minor < SCHEMES[parsed.scheme]:
        return "invalid url scheme"
    if parsed.scheme == "data":
        return data_url_fault(url)
    if parsed.scheme == "arn" and not _is_object(parsed.opaque):
        return "invalid S3 ARN format"
    if parsed.scheme in ("s3", "arn") and _has_empty_version(parsed.query):
        return "invalid S3 object VersionId"
    return None


# The minor version of Ignition 3 that first knew a scheme
SCHEMES = {"http": 0, "https": 0, "tftp": 0, "s3": 0, "data": 0, "gs": 2, "arn": 4}


def _is_object(opaque: str) -> bool:
    """Judge an ARN, without its scheme: does it name an object of S3, in a bucket or behind an access point?"""
    parts = opaque.split(":", 4)
    if len(parts) < len(("partition", "service", "region", "account", "resource")) or parts[1] != "s3":
        return False
    return opaque.count("/") >= (2 if parts[4].startswith("accesspoint/") else 1)


def _has_empty_version(query: str) -> bool:
    """Tell whether the first versionId of a query is empty; Go passes over pairs that it cannot read."""
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if ";" not in pair and not _BAD_ESCAPE.search(pair) and unquote_plus(key) == "versionId":
            return not value
    return False


def tang_fault(url: str) -> str | None:
    """Given the URL of a tang server, return what Ignition has against it, or None."""
    parsed = _parse(url)
    if parsed is None:
        return "unable to parse url"
    return None if parsed.scheme in ("http", "https") else "invalid url scheme"


def proxy_fault(url: str, may_be_plain: bool) -> tuple[str, Severity] | None:
    """Given the URL of a proxy, return what Ignition has against it and how much, or None."""
    parsed = _parse(url)
    if parsed is None:
        return "unable to parse url", "error"
    if parsed.scheme not in ("http", "https"):
        return "proxies must be http(s)", "error"
    if parsed.scheme == "http" and not may_be_plain:
        return "insecure plaintext HTTP proxy specified for HTTPS resources", "warning"
    return None


def header_fault(url: str) -> str | None:
    """Given the source of a resource with HTTP headers, return what is wrong with it, or None."""
    parsed = _parse(url) if url else None
    if parsed is None:
        return "unable to parse url"
    return None if parsed.scheme in ("http", "https") else "cannot use HTTP headers with this source scheme"

"""Data URLs as Butane makes them, and the URLs that Ignition takes."""

from __future__ import annotations

import base64
import ipaddress
import re
import zlib
from functools import lru_cache
from urllib.parse import parse_qs, quote_from_bytes

from butane.dataurls import data_url_fault
from butane.report import Severity

_UNESCAPED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()"
_GZIP_HEADER = bytes.fromhex("1f8b08000000000002ff")
# An empty block that Go's compressor appends. It is no part of our bytes, but Butane counts it
# when it chooses the shortest form, and the choice has to be the same.
_GO_TAIL = 5
# Header, trailer and the shortest deflate stream, as base64, with what introduces them: contents
# whose other forms are no longer than this need not be compressed to know the answer.
_SHORTEST_GZIP = len(";base64,") + 36 + len("gzip")
_CACHED_SIZE = 256 * 1024
_CACHED_COUNT = 1024

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ADDRESS = r"\[(?P<ip>[0-9A-Fa-f:.]*)(?:%25[A-Za-z0-9\-_.~]+)?\]"
_NAME = r"""(?:[A-Za-z0-9\-_.~!$&'()*+,;=<>"\x80-\U0010ffff]|%[89A-Fa-f][0-9A-Fa-f])*"""
_HOST = re.compile(rf"(?:{_ADDRESS}|{_NAME})(?::[0-9]*)?")
_USER = re.compile(r"(?:[A-Za-z0-9\-._:~!$&'()*+,;=@]|%[0-9A-Fa-f]{2})*")


def data_url(data: bytes) -> tuple[str, str]:
    """Given bytes, return the shortest data URL that Butane would choose, and its compression.

    The compression is "gzip" or "". The result depends on nothing but the bytes; small contents
    are remembered, because the same ones go to many hosts.
    """
    return _remembered(data) if len(data) <= _CACHED_SIZE else _shortest(data)


def escaped_data_url(data: bytes) -> str:
    """Given bytes, return the only data URL that the first version of Butane made."""
    return "data:," + quote_from_bytes(data, safe="!~*'()")


def plain_data_url(data: bytes) -> str:
    """Given bytes that are compressed already, return the shorter of their two plain data URLs."""
    return _plain(data)[0]


def _escaped_length(data: bytes) -> int:
    return 1 + len(data) + 2 * len(data.translate(None, _UNESCAPED))


def _plain_length(data: bytes) -> int:
    return min(_escaped_length(data), len(";base64,") + 4 * ((len(data) + 2) // 3))


def _plain(data: bytes) -> tuple[str, str]:
    if _escaped_length(data) == _plain_length(data):
        return escaped_data_url(data), ""
    return "data:;base64," + base64.b64encode(data).decode("ascii"), ""


def _shortest(data: bytes) -> tuple[str, str]:
    limit = _plain_length(data)
    if limit <= _SHORTEST_GZIP:
        return _plain(data)
    packed = _gzip(data)
    length = len(";base64,") + 4 * ((len(packed) + _GO_TAIL + 2) // 3)
    if length + len("gzip") >= limit:
        return _plain(data)
    return "data:;base64," + base64.b64encode(packed).decode("ascii"), "gzip"


_remembered = lru_cache(maxsize=_CACHED_COUNT)(_shortest)


def _gzip(data: bytes) -> bytes:
    body = zlib.compress(data, 9, wbits=-15)
    tail = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return _GZIP_HEADER + body + tail


def url_fault(url: str, minor: int) -> str | None:
    """Given the source of a resource, return what Ignition 3.`minor` has against it, or None."""
    scheme, rest = _split(url)
    if rest is None:
        return "unable to parse url"
    check = _CHECKS.get(scheme)
    if check is None or minor < _FIRST_WITH.get(scheme, 0):
        return "invalid url scheme"
    return check(url, rest)


def tang_fault(url: str) -> str | None:
    """Given the URL of a tang server, return what Ignition has against it, or None."""
    scheme, rest = _split(url)
    if rest is None:
        return "unable to parse url"
    return None if scheme in ("http", "https") else "invalid url scheme"


def proxy_fault(url: str, may_be_plain: bool) -> tuple[str, Severity] | None:
    """Given the URL of a proxy, return what Ignition has against it and how much, or None."""
    scheme, rest = _split(url)
    if rest is None:
        return "unable to parse url", "error"
    if scheme not in ("http", "https"):
        return "proxies must be http(s)", "error"
    if scheme == "http" and not may_be_plain:
        return "insecure plaintext HTTP proxy specified for HTTPS resources", "warning"
    return None


def header_fault(url: str) -> str | None:
    """Given the source of a resource with HTTP headers, return what is wrong with it, or None."""
    scheme, rest = _split(url)
    if not url or rest is None:
        return "unable to parse url"
    if scheme not in ("http", "https"):
        return "cannot use HTTP headers with this source scheme"
    return None


def _split(url: str) -> tuple[str, str | None]:
    """Return the scheme (lower case) and the rest; None for the rest of what is no URL."""
    match = _SCHEME.fullmatch(url)
    if re.search(r"[\x00-\x1f\x7f]", url):
        return "", None
    if match is None:
        path, _, fragment = url.partition("#")
        path = path.partition("?")[0]
        relative = ":" not in path.partition("/")[0] and not _BAD_ESCAPE.search(path + fragment)
        return "", "" if relative else None
    rest, _, fragment = match[2].partition("#")
    sound = not _BAD_ESCAPE.search(fragment) and _sound_hierarchy(rest.partition("?")[0])
    return match[1].lower(), rest if sound else None


def _sound_hierarchy(rest: str) -> bool:
    if not rest.startswith("/"):
        return True  # opaque, as in data:
    authority, path = "", rest
    if rest.startswith("//") and not rest.startswith("///"):
        authority, _, path = rest[2:].partition("/")
    user, _, host = authority.rpartition("@")
    sound = _USER.fullmatch(user) is not None and _sound_host(host)
    return sound and not _BAD_ESCAPE.search(path)


def _sound_host(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None or match["ip"] is None:
        return match is not None
    try:
        return bool(ipaddress.IPv6Address(match["ip"]))
    except ValueError:
        return False


def _no_fault(_url: str, _rest: str) -> str | None:
    return None


def _data_fault(url: str, _rest: str) -> str | None:
    return data_url_fault(url)


def _s3_fault(_url: str, rest: str) -> str | None:
    query = parse_qs(rest.partition("?")[2], keep_blank_values=True)
    empty = "versionId" in query and not query["versionId"][0]
    return "invalid S3 object VersionId" if empty else None


def _arn_fault(url: str, rest: str) -> str | None:
    parts = ("arn:" + rest.partition("?")[0]).split(":", 5)
    if rest.startswith("/") or len(parts) < 6 or parts[2] != "s3":
        return "invalid S3 ARN format"
    pieces = ":".join(parts).count("/") + 1
    if pieces < (3 if parts[5].startswith("accesspoint/") else 2):
        return "invalid S3 ARN format"
    return _s3_fault(url, rest)


# The minor version of Ignition 3 that first knew a scheme
_FIRST_WITH = {"gs": 2, "arn": 4}
_CHECKS = {
    "http": _no_fault,
    "https": _no_fault,
    "tftp": _no_fault,
    "gs": _no_fault,
    "s3": _s3_fault,
    "arn": _arn_fault,
    "data": _data_fault,
}

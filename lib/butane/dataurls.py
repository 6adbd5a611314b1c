"""Data URLs, as Butane makes them and as the program that decodes them on the host judges them.

Source of the judgement: github.com/vincent-petithory/dataurl 1.0.0, which Ignition uses, its odd rules
too. Its messages are kept, but for what they quote of the URL.
"""

from __future__ import annotations

import base64
import re
import zlib
from functools import lru_cache
from urllib.parse import quote_from_bytes

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

_PREFIX = "data:"
_WORD = r"!#$%&'*+\-.0-9A-Z^_`a-z{|}~"
_WORDS = re.compile(rf"[{_WORD}]*")
_TYPES = ("text", "image", "audio", "video", "application", "message", "multipart")
_QUOTED = re.compile(r"(?:[^\"\\\x80-\U0010ffff]|\\[\x00-\x7f])*")
_ESCAPES = re.compile(
    r'(?:[^"\\\n]|\\(?:[abfnrtv\\"]|x[0-9A-Fa-f]{2}|[0-3][0-7]{2}'
    r"|u(?![dD][89a-fA-F])[0-9A-Fa-f]{4}|U000(?!0[dD][89a-fA-F])[0-9A-Fa-f]{5}|U0010[0-9A-Fa-f]{4}))*"
)
_DATA = re.compile(r"[!$-;=?-Z_a-z~]*")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\n]*")
_HEX = frozenset("0123456789abcdefABCDEF")


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


class _Bad(Exception):
    """The URL cannot be decoded; the message says why."""


def data_url_fault(url: str) -> str | None:
    """Given a data URL, return what is wrong with it, or None."""
    try:
        _check(url)
    except _Bad as fault:
        return str(fault)
    return None


def _check(url: str) -> None:
    if not url.startswith(_PREFIX):
        raise _Bad("missing data prefix")
    at, is_base64 = _media_type(url, len(_PREFIX)), False
    while url[at] == ";":
        at, is_base64 = _parameter(url, at + 1)
    data = url[at + 1 :]
    if (_BASE64 if is_base64 else _DATA).fullmatch(data) is None:
        raise _Bad("invalid data character")
    if is_base64:
        _check_base64(data)
    else:
        _check_escapes(data)


def _after_word(url: str, at: int) -> int:
    match = _WORDS.match(url, at)
    return match.end() if match is not None else at


def _media_type(url: str, start: int) -> int:
    """Return where a semicolon or the comma stands behind the media type, which may be left out."""
    first = url[start : start + 1]
    if first in (";", ","):
        return start
    if not first:
        raise _Bad("missing comma before data")
    if _after_word(url, start) == start:
        raise _Bad("invalid character after data prefix")
    odd = first in ("x", "X")  # the character behind an x is passed over unseen
    end = _after_word(url, min(start + 2 if odd else start + 1, len(url)))
    if url[end : end + 1] != "/":
        raise _Bad("invalid character for media type" if url[end:] else "missing media type slash")
    if not (odd and url[start + 1] == "-") and not url[start:end].startswith(_TYPES):
        raise _Bad("invalid media type")
    end = _after_word(url, end + 1)
    if url[end : end + 1] not in (";", ","):
        raise _Bad("invalid character for media subtype" if url[end:] else "incomplete media type")
    return end


def _parameter(url: str, start: int) -> tuple[int, bool]:
    """Return where a parameter ends, and whether it says that the data are base64."""
    if url[start : start + 1] in ("", "=", ","):
        raise _Bad("unterminated parameter sequence")
    end = _after_word(url, start)
    stop = url[end : end + 1]
    if stop == ",":
        if url[start:end] != "base64":
            raise _Bad("expected base64")
        return end, True
    if stop != "=" or end == start:
        raise _Bad("invalid character for parameter attribute" if stop else "unterminated parameter sequence")
    return (_quoted if url[end + 1 : end + 2] == '"' else _unquoted)(url, end + 1), False


def _unquoted(url: str, start: int) -> int:
    end = _after_word(url, start)
    stop = url[end : end + 1]
    if not stop:
        raise _Bad("missing comma before data")
    if stop not in (";", ",") or end == start:
        raise _Bad("invalid character for parameter value")
    _check_escapes(url[start:end])
    return end


def _quoted(url: str, start: int) -> int:
    match = _QUOTED.match(url, start + 1)
    end = match.end() if match is not None else start + 1
    stop = url[end : end + 1]
    if stop != '"':
        escaped = stop == "\\" and url[end + 1 : end + 2]
        raise _Bad(
            "invalid escaped character"
            if escaped
            else "invalid character for parameter value"
            if stop and stop != "\\"
            else "unclosed quoted string"
        )
    if _ESCAPES.fullmatch(url, start + 1, end) is None:
        raise _Bad("invalid syntax")
    if url[end + 1 : end + 2] not in (";", ","):
        raise _Bad("expected semicolon or comma" if url[end + 1 :] else "missing comma before data")
    return end + 1


def _check_escapes(data: str) -> None:
    at = data.find("%")
    while at >= 0:
        digits = data[at + 1 : at + 3]
        if any(digit not in _HEX for digit in digits):
            raise _Bad("rfc2396: invalid char 0x25 in unescape sequence")
        if len(digits) < len("00"):
            raise _Bad("rfc2396: unexpected end of unescape sequence")
        at = data.find("%", at + 3)


def _check_base64(data: str) -> None:
    """Judge as Go's decoder, which names the byte where it stopped."""
    padded = data.find("=")
    whole = len(data) if padded < 0 else padded
    inside = whole % 4
    if padded < 0:
        if inside:
            raise _illegal(whole - inside)
        return
    if inside < len("ab"):
        raise _illegal(padded)
    if inside == len("ab"):
        if padded + 1 >= len(data):
            raise _illegal(len(data))
        if data[padded + 1] != "=":
            raise _illegal(padded)
    end = padded + (4 - inside)
    if end < len(data):
        raise _illegal(end)


def _illegal(byte: int) -> _Bad:
    return _Bad(f"illegal base64 data at input byte {byte}")

"""Fetching files by http: with limits, with tries, and only from where it is allowed.

A server may be slow, lie about a file's size, stop in the middle or never stop. Each try is bounded in
bytes and in time; what may pass is tried again, here and nowhere else; what will not pass stops at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from socket import SHUT_RDWR, socket
from typing import Any, TypeVar
from urllib.parse import urlsplit

TRIES = 3
_CHUNK = 1 << 16
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # and all of 5xx

_Answer = TypeVar("_Answer")
Meter = Callable[[int, int | None], None]


class NotFetched(Exception):
    """A file could not be had; says why. `absent`: the server answered that there is no such file."""

    def __init__(self, why: str, absent: bool = False) -> None:
        super().__init__(why)
        self.absent = absent


class _Passing(Exception):
    """A try failed in a way that another try may not."""


@dataclass(frozen=True)
class Limits:
    """How long and how much: seconds of silence, seconds a try, bytes."""

    silence: float = 30
    text_seconds: float = 60
    text_bytes: int = 1 << 20
    file_seconds: float = 1800
    file_bytes: int = 1 << 30


class Client:
    """Fetches by https, and by http only from the servers of the base URLs in `plain`.

    `tell` is given a line for each wait, `pause` waits between tries.
    """

    def __init__(
        self,
        plain: Collection[str] = (),
        tell: Callable[[str], None] = lambda line: None,
        pause: Callable[[float], None] = time.sleep,
        limits: Limits | None = None,
    ) -> None:
        self._plain = {_server(url) for url in plain if urlsplit(url).scheme == "http"}
        self._tell = tell
        self._pause = pause
        self._limits = limits or Limits()

    def text(self, url: str) -> bytes:
        """Given the URL of a small file, return its content; raise NotFetched if it cannot be had whole."""
        limits = self._limits
        return self._try(
            url, limits.text_seconds, lambda answer: b"".join(_content(answer, limits.text_bytes)), "reading"
        )

    def size(self, url: str) -> int | None:
        """Given a file's URL, return its size in bytes, or None if the server does not tell; nothing of it is read.

        It is asked for with GET: the storage that GitHub leads to signs its addresses for that alone. Raise
        NotFetched if it is not there.
        """
        return self._try(url, self._limits.text_seconds, _length, "looking at")

    def sha256(self, url: str, meter: Meter = lambda done, size: None) -> tuple[str, int]:
        """Given a file's URL, fetch it whole; return the sha256 of its content (hex) and its size in bytes.

        `meter` is told how much there is, and of how much. Raise NotFetched if the file cannot be had whole.
        """
        limits = self._limits

        def digest(answer: http.client.HTTPResponse) -> tuple[str, int]:
            found, size = hashlib.sha256(), 0
            for chunk in _content(answer, limits.file_bytes):
                found.update(chunk)
                size += len(chunk)
                meter(size, _length(answer))
            return found.hexdigest(), size

        return self._try(url, limits.file_seconds, digest, "downloading")

    def _try(self, url: str, seconds: float, act: Callable[[http.client.HTTPResponse], _Answer], doing: str) -> _Answer:
        self._tell(f"{doing} {url}")
        for attempt in range(1, TRIES + 1):
            try:
                return self._once(url, seconds, act)
            except _Passing as error:
                if attempt == TRIES:
                    raise NotFetched(f"{error} ({TRIES} tries)") from None
                self._tell(f"{url}: {error}; trying again in {attempt} s")
                self._pause(attempt)
        raise AssertionError

    def _once(self, url: str, seconds: float, act: Callable[[http.client.HTTPResponse], _Answer]) -> _Answer:
        self._check(url)
        clock = _Clock(seconds)
        try:
            return self._answered(url, clock, act)
        except urllib.error.HTTPError as error:
            error.close()
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException, NotFetched, _Passing) as error:
            if clock.over:  # whatever was seen of an answer that was cut
                raise _Passing(f"took longer than {seconds:g} s") from None
            raise _trouble(error) from None

    def _answered(self, url: str, clock: _Clock, act: Callable[[http.client.HTTPResponse], _Answer]) -> _Answer:
        with clock, contextlib.closing(self._open(url, clock)) as answer:
            if answer.status != HTTPStatus.OK:
                raise NotFetched(f"the server answered {answer.status} {_phrase(answer.status)}".rstrip())
            found = act(answer)
        if clock.over:
            raise _Passing("was cut")
        return found

    def _open(self, url: str, clock: _Clock) -> http.client.HTTPResponse:
        handlers = (_Http(clock), _Https(clock), _Redirects(self._check))
        request = urllib.request.Request(url, headers={"User-Agent": "i12e", "Accept-Encoding": "identity"})  # noqa: S310  # checked
        answer: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(
            request, timeout=self._limits.silence
        )
        return answer

    def _check(self, url: str) -> None:
        """Raise NotFetched if a URL, the first or one that a server leads to, is not one to fetch from."""
        scheme = urlsplit(url).scheme
        if scheme != "https" and not (scheme == "http" and _server(url) in self._plain):
            raise NotFetched(f"{url} is not https (only a mirror that cluster.yaml names with http:// may be)")


class _Clock:
    """Cuts the connection of a try when its time is over: a socket's own timeout begins anew with each byte."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._sockets: list[socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()

    def watched(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        """Given a connection that is not made yet, return it; once it is made, it is cut in time."""
        connect = connection.connect

        def watching() -> None:
            connect()
            self._sockets.append(connection.sock)

        connection.connect = watching  # type: ignore[method-assign]  # on this one connection
        return connection

    def _cut(self) -> None:
        self.over = True
        for held in self._sockets:
            with contextlib.suppress(OSError):
                socket.shutdown(held, SHUT_RDWR)  # not SSLSocket's, which is not for another thread's reading


class _Http(urllib.request.HTTPHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, **named: Any) -> http.client.HTTPConnection:
        return self._clock.watched(http.client.HTTPConnection(host, **named))


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req, context=ssl.create_default_context())

    def _connection(self, host: str, **named: Any) -> http.client.HTTPConnection:
        return self._clock.watched(http.client.HTTPSConnection(host, **named))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server leads, to other hosts too, but nowhere that we would not go ourselves."""

    max_redirections = 5

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            self._check(newurl)
        except NotFetched:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _length(answer: http.client.HTTPResponse) -> int | None:
    told = str(answer.headers.get("Content-Length", ""))
    return int(told) if told.isascii() and told.isdigit() else None


def _content(answer: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
    """Yield what a server sends; raise _Passing if that is less than it said, NotFetched if it is too much."""
    size = _length(answer)
    if size is None and not answer.chunked:
        raise NotFetched("the server does not tell the file's size, so a part of it would pass for the whole")
    if size == 0:
        raise NotFetched("is empty")
    done = 0
    while size is None or done < size:
        chunk = answer.read1(_CHUNK)  # returns with whatever has come: the clock is heard after each
        if not chunk:
            break
        done += len(chunk)
        if done > most:
            raise NotFetched(f"is larger than {most} bytes, which no such file is")
        yield chunk
    if size is not None and done < size:
        raise _Passing(f"the connection was lost after {done} of {size} bytes")


def _refusal(error: urllib.error.HTTPError) -> Exception:
    told = f"the server answered {error.code} {_phrase(error.code)}".rstrip()
    if error.code < HTTPStatus.BAD_REQUEST:
        return NotFetched("the server leads from address to address without end")
    if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code in _PASSING:
        return _Passing(told)
    return NotFetched(told, absent=error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE))


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""


def _trouble(error: Exception) -> Exception:
    """Given what went wrong between us and a server, return it as what is to be done about it."""
    if isinstance(error, (_Passing, NotFetched)):
        return error
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return NotFetched(f"the server's certificate is not good: {cause.verify_message}")
    if isinstance(cause, TimeoutError):
        return _Passing("the server says nothing")
    if isinstance(cause, http.client.IncompleteRead):
        return _Passing("the connection was lost in the middle")
    said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return _Passing(f"the connection failed: {said}")

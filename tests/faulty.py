"""A proxy of ours in front of an S3 server, which does wrong what a test tells it to: no server is like this."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Request:
    """What came: a rule may change it before it goes on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What goes back. `cut`: the connection ends after so many bytes of the body; -1: before anything."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None


Forward = Callable[[Request], Answer]
Rule = Callable[[Request, Forward], Answer]


def honest(request: Request, forward: Forward) -> Answer:
    """Do nothing wrong."""
    return forward(request)


class Proxy:
    """The proxy: its URL, its rule, and what came."""

    def __init__(self, url: str, behind: str) -> None:
        self.url = url
        self.behind = urlsplit(behind).netloc
        self.rule: Rule = honest
        self.asked: list[str] = []

    def forward(self, request: Request) -> Answer:
        """Given a request, return the server's answer."""
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        with contextlib.closing(connection):
            connection.request(request.method, request.path, request.body or None, request.headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())


def failing(times: int, status: int, wanted: Callable[[Request], bool] = lambda request: True) -> Rule:
    """Return a rule that answers with an error so many times."""
    left = [times]

    def rule(request: Request, forward: Forward) -> Answer:
        if left[0] and wanted(request):
            left[0] -= 1
            return Answer(status)
        return forward(request)

    return rule


def losing(times: int, wanted: Callable[[Request], bool]) -> Rule:
    """Return a rule that does what it is asked for and, so many times, gives no answer."""
    left = [times]

    def rule(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        if left[0] and wanted(request):
            left[0] -= 1
            answer.cut = -1
        return answer

    return rule


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        self.proxy.asked.append(f"{self.command} {self.path} {headers.get('Range', '')}".strip())
        answer = self.proxy.rule(Request(self.command, self.path, headers, body), self.proxy.forward)
        if answer.cut == -1:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        skipped = ("transfer-encoding", "connection", "content-length")
        for name, value in answer.headers.items():
            if name.lower() not in skipped:
                self.send_header(name, value)
        # to a HEAD the length is that of what a GET would bring
        told = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", told or str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
        if answer.cut is not None:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815  # http.server's names

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be quiet: who asked has gone away."""


@contextlib.contextmanager
def faulty(behind: str) -> Iterator[Proxy]:
    """Given a server's URL, run a proxy in front of it until the block ends."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}", behind)
        handler.proxy = proxy  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()

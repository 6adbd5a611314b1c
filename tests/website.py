"""A web server on this machine that behaves, or misbehaves, as a test tells it to."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Answer = Callable[["Visit"], None]


class Site:
    """What a server has: contents, or answers of another kind, by path; and the paths that were asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes | Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()


class Visit(BaseHTTPRequestHandler):
    """One request."""

    site: Site
    timeout = 60

    def do_GET(self) -> None:
        """Answer with what the site has."""
        path = unquote(self.path.partition("?")[0])
        self.site.asked.append(path)
        found = self.site.files.get(path)
        if found is None:
            self.send_error(404)
        elif callable(found):
            found(self)
        else:
            self.start(len(found))
            self.wfile.write(found)

    def start(self, size: int | None, status: int = 200, **headers: str) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        if size is not None:
            self.send_header("Content-Length", str(size))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of our errors."""


@contextlib.contextmanager
def serve(certificate: Path | None = None) -> Iterator[Site]:
    """Given the file of a certificate and its key, or None for plain http, return a site that is up meanwhile."""
    site = Site("")
    server = _Server(("127.0.0.1", 0), type("Here", (Visit,), {"site": site}))
    site.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def cut(content: bytes, after: int, times: int = 1 << 30) -> Answer:
    """Return an answer that promises all of a content and hangs up in the middle, so many times; then it is whole."""
    left = [times]

    def answer(visit: Visit) -> None:
        visit.start(len(content))
        left[0] -= 1
        visit.wfile.write(content[:after] if left[0] >= 0 else content)

    return answer


def drip(visit: Visit) -> None:
    """Answer with a byte now and then, for ever."""
    visit.start(1 << 30)
    while not visit.site.closing.wait(0.02):
        visit.wfile.write(b"x")


def drip_head(visit: Visit) -> None:
    """Answer with a head that goes on for ever."""
    visit.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not visit.site.closing.wait(0.02):
        visit.wfile.write(b"x")


def flood(visit: Visit) -> None:
    """Answer with bytes without end, in chunks, so that no size is told."""
    visit.protocol_version = "HTTP/1.1"
    visit.start(None, Transfer_Encoding="chunked")
    while not visit.site.closing.is_set():
        visit.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def chunked(content: bytes) -> Answer:
    """Return an answer that sends a content in two chunks."""

    def answer(visit: Visit) -> None:
        visit.protocol_version = "HTTP/1.1"
        visit.start(None, Transfer_Encoding="chunked", Connection="close")
        half = len(content) // 2
        for part in (content[:half], content[half:], b""):
            visit.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

    return answer


def unsized(content: bytes) -> Answer:
    """Return an answer that does not tell how long it is."""

    def answer(visit: Visit) -> None:
        visit.start(None)
        visit.wfile.write(content)

    return answer


def status(code: int, times: int = 1 << 30, then: bytes = b"") -> Answer:
    """Return an answer of a status, so many times; then it is a content."""
    left = [times]

    def answer(visit: Visit) -> None:
        left[0] -= 1
        if left[0] >= 0:
            visit.start(0, code)
        else:
            visit.start(len(then))
            visit.wfile.write(then)

    return answer


def moved(url: str) -> Answer:
    """Return an answer that leads elsewhere."""
    return lambda visit: visit.start(0, 302, Location=url)

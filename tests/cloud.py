"""A small server of ours that behaves as Cloudflare's API (v4) is documented, for DNS records. It is not Cloudflare.

What it keeps to: records have ids; a list is asked for by name and comes in pages; a batch is deletes, patches, puts
and posts, in this order, in one transaction; a record that is gone, one that is there already and a name that has a
CNAME are errors with Cloudflare's codes; a TTL is 1 (automatic) or 60 to 86400; a proxied record's TTL is 1.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "planted-token-0123456789abcdefghijklmnop"
ZONE, ZONE_ID = "example.com", "0123456789abcdef0123456789abcdef"
Answered = tuple[int, dict[str, str], Any]


class Wrong(Exception):
    """A request that the API refuses: a status, a code and a text."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


@dataclass
class Cloud:
    """The server: its address, and what it has."""

    url: str = ""
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    page: int = 100
    """Records of a page at the most, whatever is asked for."""
    rule: Callable[[str, str], Answered | None] = lambda method, path: None
    """Given a request, the answer instead of the right one, or None."""
    lose: int = 0
    """So many batches are done and not answered."""
    asked: list[str] = field(default_factory=list)
    mutex: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 0

    def plant(self, name: str, addresses: dict[str, int], texts: list[str], alias: str) -> None:
        """Given what is to stand at a name and its fence's, put it there, past everything that checks."""
        for address, ttl in addresses.items():
            self.put({"type": "AAAA" if ":" in address else "A", "name": name, "content": address, "ttl": ttl})
        for text in texts:
            self.put({"type": "TXT", "name": f"_i12e.{name}", "content": f'"{text}"', "ttl": 60})
        if alias:
            self.put({"type": "CNAME", "name": name, "content": alias, "ttl": 60})

    def put(self, record: dict[str, Any]) -> str:
        """Given a record, keep it; return its id."""
        self._next += 1
        id_ = f"{self._next:032x}"
        created = f"2026-01-01T00:00:00.{self._next:06d}Z"
        self.records[id_] = {"id": id_, "proxied": False, "created_on": created, **record}
        return id_

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Given a request of somebody who may ask, return the result; raise Wrong."""
        parts = urlsplit(path)
        steps = parts.path.strip("/").split("/")
        if steps[:2] != ["zones", ZONE_ID]:
            raise Wrong(404, 7003, f"Could not route to {parts.path}, perhaps your object identifier is invalid?")
        if steps[2:] == [] and method == "GET":
            return {"id": ZONE_ID, "name": ZONE, "name_servers": ["ada.ns.cloudflare.com", "bob.ns.cloudflare.com"]}
        if steps[2:] == ["dns_records"] and method == "GET":
            return self._list(parse_qs(parts.query))
        if steps[2:] == ["dns_records", "batch"] and method == "POST":
            return self._batch(body)
        raise Wrong(405, 10405, "Method not allowed")

    def _list(self, query: dict[str, list[str]]) -> Any:
        name = query.get("name.exact", [""])[0]
        found = [each for each in self.records.values() if not name or each["name"] == name]
        size = min(self.page, int(query.get("per_page", ["100"])[0]))
        page = int(query.get("page", ["1"])[0])
        pages = max(1, -(-len(found) // size))
        info = {"page": page, "per_page": size, "count": len(found), "total_count": len(found), "total_pages": pages}
        return found[(page - 1) * size : page * size], info

    def _batch(self, body: Any) -> Any:
        before = copy.deepcopy(self.records)
        try:
            done: dict[str, list[Any]] = {"deletes": [], "patches": [], "puts": [], "posts": []}
            for each in body.get("deletes", ()):
                done["deletes"].append(self._found(each["id"]) and self.records.pop(each["id"]))
            for each in body.get("patches", ()):
                self._found(each["id"]).update({key: value for key, value in each.items() if key != "id"})
                done["patches"].append(self._checked(self.records[each["id"]]))
            for each in body.get("posts", ()):
                self._checked(each)
                self._vacant(each)
                done["posts"].append(self.records[self.put(each)])
        except Wrong:
            self.records = before
            raise
        return done

    def _found(self, id_: str) -> dict[str, Any]:
        if id_ not in self.records:
            raise Wrong(404, 81044, "Record does not exist.")
        return self.records[id_]

    def _vacant(self, new: dict[str, Any]) -> None:
        for each in self.records.values():
            if each["name"] != new["name"]:
                continue
            if each["type"] == "CNAME":
                raise Wrong(400, 81054, "A CNAME record with that host already exists.")
            if (each["type"], each["content"]) == (new["type"], new["content"]):
                raise Wrong(400, 81058, "An identical record already exists.")

    def _checked(self, record: dict[str, Any]) -> dict[str, Any]:
        ttl = record["ttl"]
        if ttl != 1 and not 60 <= ttl <= 86400:
            raise Wrong(400, 9021, "Invalid TTL. Must be between 60 and 86,400 seconds, or 1 for Automatic.")
        return record


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.cloud.asked.append(f"{self.command} {self.path}")
        instead = self.cloud.rule(self.command, self.path)
        status, headers, answer = instead or self._right(raw)
        if self.command == "POST" and self.cloud.lose and status == 200:
            self.cloud.lose -= 1
            self.close_connection = True
            return
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _right(self, raw: bytes) -> Answered:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 403, {}, failed(9109, "Invalid access token")
        try:
            with self.cloud.mutex:
                result = self.cloud.answer(self.command, self.path, json.loads(raw) if raw else None)
                result = copy.deepcopy(result)
        except Wrong as error:
            return error.status, {}, failed(error.code, str(error))
        told, info = result if isinstance(result, tuple) else (result, None)
        return 200, {}, {"success": True, "errors": [], "messages": [], "result": told, "result_info": info}

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  # http.server's names

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


def failed(code: int, text: str) -> dict[str, Any]:
    """Given a code and a text, return the answer that says so."""
    return {"success": False, "errors": [{"code": code, "message": text}], "messages": [], "result": None}


@contextlib.contextmanager
def cloud() -> Iterator[Cloud]:
    """Run the server until the block ends."""
    made = Cloud()
    handler = type("Handler", (_Handler,), {"cloud": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

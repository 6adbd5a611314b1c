"""Fetching from a real server that behaves in all the ways in which servers do not."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import website
from conftest import need
from i12e.fetch import TRIES, Client, Limits, NotFetched
from website import Site

TEXT = b"what the file says\n" * 10_000
LIMITS = Limits(silence=5, text_seconds=10, file_seconds=10, text_bytes=1 << 20, file_bytes=1 << 21)
SHORT = Limits(silence=5, text_seconds=0.3, file_seconds=0.3)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    with website.serve() as found:
        yield found


@dataclass
class Told:
    """A client of a site, the lines that it told, and how long it waited between tries."""

    site: Site
    limits: Limits = LIMITS
    lines: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    @property
    def client(self) -> Client:
        return Client([self.site.url], self.lines.append, self.pauses.append, self.limits)

    def refuses(self, path: str = "/file") -> str:
        """Read a text, which must fail; return why."""
        with pytest.raises(NotFetched) as caught:
            self.client.text(self.site.url + path)
        return str(caught.value)


@pytest.mark.parametrize("answer", [TEXT, website.chunked(TEXT)], ids=["with its size", "in chunks"])
def test_a_file_comes_whole_and_its_hash_is_that_of_its_content(site: Site, answer: bytes | website.Answer) -> None:
    site.files["/file"] = answer
    told = Told(site)
    assert told.client.text(f"{site.url}/file") == TEXT
    assert told.client.sha256(f"{site.url}/file") == (hashlib.sha256(TEXT).hexdigest(), len(TEXT))
    assert told.pauses == []


def test_a_size_is_asked_for_without_reading_the_file(site: Site) -> None:
    site.files["/file"] = website.drip
    assert Told(site, SHORT).client.size(f"{site.url}/file") == 1 << 30
    site.files["/file"] = website.unsized(TEXT)
    assert Told(site).client.size(f"{site.url}/file") is None


def test_a_download_tells_how_far_it_is(site: Site) -> None:
    site.files["/file"] = TEXT
    seen: list[tuple[int, int | None]] = []
    Told(site).client.sha256(f"{site.url}/file", lambda done, size: seen.append((done, size)))
    assert seen[-1] == (len(TEXT), len(TEXT))
    assert seen == sorted(seen)
    assert len(seen) > 1


# --- what passes is tried again, with a limit


def test_a_connection_that_is_lost_in_the_middle_is_tried_again(site: Site) -> None:
    site.files["/file"] = website.cut(TEXT, 1000, times=1)
    told = Told(site)
    assert told.client.text(f"{site.url}/file") == TEXT
    assert told.pauses == [1]
    assert told.lines == [
        f"reading {site.url}/file",
        f"{site.url}/file: the connection was lost after 1000 of {len(TEXT)} bytes; trying again in 1 s",
    ]


def test_a_connection_that_is_always_lost_is_told_after_the_last_try(site: Site) -> None:
    site.files["/file"] = website.cut(TEXT, 1000)
    told = Told(site)
    assert told.refuses() == f"the connection was lost after 1000 of {len(TEXT)} bytes (3 tries)"
    assert len(site.asked) == TRIES
    assert told.pauses == [1, 2]
    with pytest.raises(NotFetched, match="lost after 1000"):
        told.client.sha256(f"{site.url}/file")


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(site: Site, code: int) -> None:
    site.files["/file"] = website.status(code, times=2, then=TEXT)
    assert Told(site).client.text(f"{site.url}/file") == TEXT
    site.files["/file"] = website.status(code)
    assert f"answered {code} " in Told(site).refuses()


def test_nobody_who_listens_is_told_after_the_last_try() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        here = Site(f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert Told(here).refuses() == "the connection failed: Connection refused (3 tries)"


@pytest.mark.parametrize("answer", [website.drip, website.drip_head], ids=["content", "head"])
def test_a_server_that_never_ends_is_cut_off(site: Site, answer: website.Answer) -> None:
    site.files["/file"] = answer
    start = time.monotonic()
    assert Told(site, SHORT).refuses() == "took longer than 0.3 s (3 tries)"
    assert time.monotonic() - start < LIMITS.silence


def test_a_server_that_takes_the_connection_and_is_silent_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = Site(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert Told(here, Limits(silence=0.1)).refuses() == "the server says nothing (3 tries)"


# --- what does not pass stops at once


@pytest.mark.parametrize(("code", "absent"), [(404, True), (410, True), (403, False), (401, False)])
def test_a_refusal_is_not_asked_again(site: Site, code: int, absent: bool) -> None:
    site.files["/file"] = website.status(code)
    with pytest.raises(NotFetched, match=f"the server answered {code} ") as caught:
        Told(site).client.text(f"{site.url}/file")
    assert caught.value.absent == absent
    assert len(site.asked) == 1


def test_a_file_that_is_too_large_is_not_read_to_its_end(site: Site) -> None:
    for answer in (website.flood, b"x" * (LIMITS.text_bytes + 1)):
        site.files["/file"] = answer
        assert "is larger than 1048576 bytes" in Told(site).refuses()
    site.files["/file"] = website.flood
    with pytest.raises(NotFetched, match="is larger than 2097152 bytes"):
        Told(site).client.sha256(f"{site.url}/file")


def test_a_file_whose_size_nobody_tells_is_not_taken_because_a_part_would_pass_for_it(site: Site) -> None:
    site.files["/file"] = website.unsized(TEXT)
    assert "does not tell the file's size" in Told(site).refuses()


@pytest.mark.parametrize(("answer", "why"), [(b"", "is empty"), (website.status(204), "the server answered 204")])
def test_an_answer_that_is_no_file_is_not_taken(site: Site, answer: bytes | website.Answer, why: str) -> None:
    site.files["/file"] = answer
    assert why in Told(site).refuses()


# --- where it goes


def test_a_server_may_lead_to_another_host(site: Site) -> None:
    with website.serve() as other:
        other.files["/real"] = TEXT
        site.files["/file"] = website.moved(f"{other.url}/real")
        assert Client([site.url, other.url]).text(f"{site.url}/file") == TEXT


def test_a_server_may_not_lead_to_another_host_that_is_not_https(site: Site) -> None:
    with website.serve() as other:
        other.files["/real"] = TEXT
        site.files["/file"] = website.moved(f"{other.url}/real")
        assert f"{other.url}/real is not https" in Told(site).refuses()
        assert other.asked == []


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_a_server_may_not_lead_to_a_file_of_this_machine(site: Site, target: str) -> None:
    site.files["/file"] = website.moved(target)
    with pytest.raises(NotFetched):
        Told(site).client.text(f"{site.url}/file")


def test_a_circle_of_addresses_ends(site: Site) -> None:
    site.files["/file"] = website.moved("/file")
    assert "from address to address" in Told(site).refuses()
    assert len(site.asked) < 10


def test_without_a_mirror_that_is_named_nothing_is_fetched_by_http(site: Site) -> None:
    site.files["/file"] = TEXT
    with pytest.raises(NotFetched, match="is not https"):
        Client(["https://127.0.0.1"]).text(f"{site.url}/file")
    with pytest.raises(NotFetched, match="is not https"):
        Client([site.url]).text("file:///etc/hostname")
    assert site.asked == []


# --- https


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed, and its key."""
    need(shutil.which("openssl"), "openssl")
    file = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", str(tmp_path / "public.pem")]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "public.pem").read_text())
    return file


def test_by_https_a_file_comes_whole_and_a_server_that_never_ends_is_cut_off(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with website.serve(certificate) as site:
        site.files |= {"/file": TEXT, "/drip": website.drip, "/cut": website.cut(TEXT, 100)}
        assert Told(site).client.text(f"{site.url}/file") == TEXT
        assert Told(site, SHORT).refuses("/drip") == "took longer than 0.3 s (3 tries)"
        assert "lost" in Told(site).refuses("/cut")


def test_a_certificate_that_nobody_signed_is_not_taken_and_not_tried_again(certificate: Path) -> None:
    with website.serve(certificate) as site:
        site.files["/file"] = TEXT
        told = Told(site)
        assert "the server's certificate is not good: self-signed certificate" in told.refuses()
        assert (told.pauses, site.asked) == ([], [])

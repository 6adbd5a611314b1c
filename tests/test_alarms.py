"""Alarms, with a real server that takes or refuses them and real commands; and that nothing secret is in a message."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from i12e.alarms import Alarms, Limits
from i12e.errors import Problem, UserError
from i12e.secrets import Group, Secret

TOKEN, USER = "azGDORePK8gMaC0QOYAMyEEuzJnyUi", "uQiRzpo4DXghDmr9QzzfQu27cmVRsG"
PLACE = "T024BE7LD/B02Q9KLJ8/planted0Secret"
FACTS = {"slot": "2026-11-26T18:00Z", "hosts": ["server-1"], "seconds": 12.5}
LIMITS = Limits(request=20, silence=5, command=20)
OK = (200, b"ok")


@dataclass
class Alarm:
    """An alarm as the model's own class has it."""

    command: list[str] | None = None
    webhook: str | None = None
    pushover: bool = False
    ping: str | None = None


@dataclass
class Got:
    """One request."""

    method: str
    path: str
    kind: str | None
    body: bytes


Answer = tuple[int, bytes] | Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Site:
    """A server: what it got, and what it answers, the last one for ever."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=lambda: [OK])
    closing: threading.Event = field(default_factory=threading.Event)

    def secrets(self) -> dict[str, Any]:
        """Return secrets that lead here."""
        hook = f"{self.url}/services/{PLACE}"
        return {
            "alarms": {"ops": hook, "dog": f"{self.url}/ping/{PLACE}", "slug": f"{self.url}/{PLACE}?create=1"},
            "pushover": {"token": TOKEN, "user_key": USER},
        }


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Visit(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.got.append(Got(self.command, self.path, self.headers.get("Content-Type"), body))
            answer = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            if callable(answer):
                answer(self)
                return
            self.send_response(answer[0])
            self.send_header("Location", f"{found.url}/elsewhere")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Visit)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Told:
    """Alarms, the lines that they told, and how long they waited between tries."""

    alarms: Alarms
    lines: list[str]
    pauses: list[float]

    def failed(self, title: str = "backup failed", text: str = "server-1: no snapshot") -> list[str]:
        """Raise the alarm; return what did not get through. Nothing secret is in that or in the lines."""
        return self.clean(self.alarms.failed(title, text, FACTS))

    def clean(self, problems: list[Problem]) -> list[str]:
        """Return problems as a person is told them, after a look whether anything secret is in there or was told."""
        said = [str(problem) for problem in problems]
        for text in (*said, *self.lines):
            for secret in (TOKEN, USER, PLACE, *PLACE.split("/"), "127.0.0.1", "services"):
                assert secret not in text
        return said


def raising(
    *alarms: Alarm, secrets: dict[str, Any] | None = None, limits: Limits = LIMITS, pushover: str = "http://127.0.0.1:9"
) -> Told:
    """Return these alarms, with these secrets."""
    lines, pauses = list[str](), list[float]()
    groups = {name: Group(name, values) for name, values in (secrets or {}).items()}

    def group(name: str) -> Group:
        if name not in groups:
            raise UserError(Problem(f"secrets/{name}.yaml", None, None, "there is no such secret file", "make it"))
        return groups[name]

    return Told(Alarms(alarms, group, lines.append, limits, pushover, pauses.append), lines, pauses)


# --- commands


SAVE = (
    "import json, os, sys; file = sys.argv[1]\n"
    "json.dump([os.environ['I12E_ALARM'], json.load(sys.stdin), 'SOPS_AGE_KEY' in os.environ], open(file, 'w'))"
)


def test_a_command_reads_the_facts_and_is_told_whether_it_failed_or_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOPS_AGE_KEY", "planted")
    told = raising(Alarm(command=[sys.executable, "-c", SAVE, str(tmp_path / "got")]))
    assert told.failed() == []
    kind, said, key = json.loads((tmp_path / "got").read_text())
    assert (kind, said["alarm"], said["title"], said["facts"]) == ("failed", "failed", "backup failed", FACTS)
    assert said["text"] == "backup failed\nserver-1: no snapshot"
    assert not key, "the key of the repo's secrets is none of its business"
    assert told.alarms.stale("too old", "", {}) == []
    assert json.loads((tmp_path / "got").read_text())[0] == "stale"


def test_a_command_that_fails_is_told_with_its_last_line_and_without_what_looks_secret() -> None:
    fails = "import sys; print('first'); print('no route: \\x1b[1m password=hunter22', file=sys.stderr); sys.exit(3)"
    assert raising(Alarm(command=[sys.executable, "-c", fails])).failed() == [
        f"alarm command {sys.executable}: ended with 3: no route: \\x1b[1m password=***"
    ]
    kills = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert raising(Alarm(command=[sys.executable, "-c", kills])).failed() == [
        f"alarm command {sys.executable}: was ended by signal 9: it said nothing"
    ]


@pytest.mark.parametrize(
    ("command", "why"), [("/no/such/program", "No such file or directory"), ("/etc", "Permission denied")]
)
def test_a_command_that_cannot_be_run_is_told(command: str, why: str) -> None:
    assert raising(Alarm(command=[command])).failed() == [f"alarm command {command}: cannot be run: {why}"]


def test_a_command_that_does_not_read_its_input_is_fine() -> None:
    told = raising(Alarm(command=["true"]))
    assert told.clean(told.alarms.failed("t", "x" * 1_000_000, {"much": "x" * 1_000_000})) == []


def test_a_command_that_never_ends_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 1000 & echo $! >{pid}; wait"]
    assert raising(Alarm(command=command), limits=Limits(command=1)).failed() == [
        "alarm command sh: took longer than 1 s"
    ]
    child, ends = int(pid.read_text()), time.monotonic() + 60
    while ended(child) is False:
        assert time.monotonic() < ends
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Tell whether a process is gone, or only waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    began = time.monotonic()
    assert raising(Alarm(command=["sh", "-c", "sleep 60 & exit 0"])).failed() == []
    assert time.monotonic() - began < 50


# --- webhooks


def test_a_webhook_gets_what_chats_show_and_the_facts(site: Site) -> None:
    assert raising(Alarm(webhook="ops"), secrets=site.secrets()).failed() == []
    (got,) = site.got
    assert (got.method, got.path, got.kind) == ("POST", f"/services/{PLACE}", "application/json")
    text = "backup failed\nserver-1: no snapshot"
    assert json.loads(got.body) == {
        "alarm": "failed",
        "title": "backup failed",
        "text": text,
        "content": text,
        "facts": FACTS,
    }


def test_a_long_text_is_cut_to_what_chats_take(site: Site) -> None:
    raising(Alarm(webhook="ops"), secrets=site.secrets()).failed("t", "ü" * 9000)
    said = json.loads(site.got[0].body)
    assert (len(said["text"]), len(said["content"])) == (4000, 2000)
    assert said["text"][-1] == said["content"][-1] == "…"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_busy_is_asked_again(site: Site, status: int) -> None:
    site.answers = [(status, b""), (status, b""), (204, b"")]
    told = raising(Alarm(webhook="ops"), secrets=site.secrets())
    assert told.failed() == []
    assert told.pauses == [1, 2]
    assert told.lines == [
        f"webhook ops: the server answered {status}; trying again in 1 s",
        f"webhook ops: the server answered {status}; trying again in 2 s",
    ]


def test_a_server_that_stays_busy_is_told_after_the_last_try(site: Site) -> None:
    site.answers = [(500, b"")]
    assert raising(Alarm(webhook="ops"), secrets=site.secrets()).failed() == [
        "alarm webhook ops: the server answered 500 (3 tries)"
    ]
    assert len(site.got) == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no_service", ": no_service"),
        (b"<html><title>Not what you want</title></html>", ""),
        (f"no such hook: /services/{PLACE}".encode(), ": no such hook"),
        (PLACE.rpartition("/")[2].encode(), ""),
        (b"\xff\x00\x1b[1m", ""),
    ],
)
def test_a_refusal_is_told_at_once_in_the_server_s_words_but_nothing_secret(site: Site, body: bytes, said: str) -> None:
    site.answers = [(404, body)]
    assert raising(Alarm(webhook="ops"), secrets=site.secrets()).failed() == [
        f"alarm webhook ops: the server answered 404{said}"
    ]
    assert len(site.got) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_message_is_not_carried_elsewhere(site: Site, status: int) -> None:
    site.answers = [(status, b""), OK]
    assert raising(Alarm(webhook="ops"), secrets=site.secrets()).failed() == [
        f"alarm webhook ops: the server answered {status}, which leads elsewhere (give the address that it leads to)"
    ]
    assert len(site.got) == 1


def test_nobody_who_listens_is_told_after_the_last_try() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        here = Site(f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert raising(Alarm(webhook="ops"), secrets=here.secrets()).failed() == [
            "alarm webhook ops: the connection failed: Connection refused (3 tries)"
        ]


def test_a_server_that_never_comes_to_an_end_costs_no_more_than_its_time(site: Site) -> None:
    def drip(visit: BaseHTTPRequestHandler) -> None:
        visit.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not site.closing.wait(0.1):
            visit.wfile.write(b"X: x\r\n")

    site.answers = [drip]
    began = time.monotonic()
    said = raising(Alarm(webhook="ops"), secrets=site.secrets(), limits=Limits(request=0.5)).failed()
    assert said == ["alarm webhook ops: no answer in time (1 try)"]
    assert time.monotonic() - began < 30


def test_a_server_that_takes_the_connection_and_is_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = Site(f"http://127.0.0.1:{server.getsockname()[1]}")
        told = raising(Alarm(webhook="ops"), secrets=here.secrets(), limits=Limits(silence=0.1))
        assert told.failed() == ["alarm webhook ops: the server says nothing (3 tries)"]


@pytest.mark.parametrize(
    "url",
    [
        f"file:///{PLACE}",
        f"ftp://h/{PLACE}",
        PLACE,
        f"https:///{PLACE}",
        f"http://[{PLACE}",
        f"http://h:{PLACE}/",
        f"http://h/{PLACE} x\n",
        f"http://h/{PLACE}ü",
    ],
)
@pytest.mark.parametrize("alarm", [Alarm(webhook="ops"), Alarm(ping="ops")], ids=["webhook", "ping"])
def test_a_secret_that_is_no_url_is_told_without_it(url: str, alarm: Alarm) -> None:
    (said,) = raising(alarm, secrets={"alarms": {"ops": url}}).failed()
    assert "ops: the secret is not a URL (it begins with https:// or http://)" in said


def test_a_secret_that_is_not_there_is_told_with_what_to_do(site: Site) -> None:
    assert raising(Alarm(webhook="opps"), secrets=site.secrets()).failed() == [
        "alarm webhook opps: the secret alarms.opps is not there (did you mean ops?)"
    ]
    assert raising(Alarm(pushover=True), secrets={"pushover": {"token": None}}).failed() == [
        "alarm pushover: the secret pushover.token is not there (./doit secrets_edit --name pushover)"
    ]
    assert raising(Alarm(webhook="ops")).failed() == ["secrets/alarms.yaml: there is no such secret file (make it)"]


# --- Pushover


def test_pushover_gets_its_form_within_its_limits(site: Site) -> None:
    site.answers = [(200, b'{"status":1,"request":"x"}')]
    told = raising(Alarm(pushover=True), secrets=site.secrets(), pushover=f"{site.url}/1/messages.json")
    assert told.failed("t" * 999, "ü" * 9999) == []
    (got,) = site.got
    assert (got.method, got.path, got.kind) == ("POST", "/1/messages.json", "application/x-www-form-urlencoded")
    form = {name: values[0] for name, values in parse_qs(got.body.decode()).items()}
    assert (form["token"], form["user"], form["priority"]) == (TOKEN, USER, "1")
    assert (len(form["title"]), len(form["message"])) == (250, 1024)


def test_pushover_is_left_five_seconds_between_tries(site: Site) -> None:
    site.answers = [(500, b""), (200, b'{"status":1}')]
    told = raising(Alarm(pushover=True), secrets=site.secrets(), pushover=site.url)
    assert told.failed() == []
    assert told.pauses == [5]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            (400, b'{"user":"invalid","errors":["user identifier is invalid"],"status":0}'),
            "400: user identifier is invalid",
        ),
        ((400, f'{{"token":"{TOKEN}","errors":["{TOKEN} is wrong"]}}'.encode()), "400"),
    ],
)
def test_pushover_s_refusal_is_told(site: Site, answer: tuple[int, bytes], why: str) -> None:
    site.answers = [answer]
    told = raising(Alarm(pushover=True), secrets=site.secrets(), pushover=site.url)
    (said,) = told.failed()
    assert said.startswith(f"alarm pushover: the server answered {why}")
    assert len(site.got) == 1


@pytest.mark.parametrize("body", [b'{"status":0}', b"", b"<html>log in to this network</html>", b"[]"])
def test_what_is_not_pushover_s_yes_is_none(site: Site, body: bytes) -> None:
    site.answers = [(200, body)]
    told = raising(Alarm(pushover=True), secrets=site.secrets(), pushover=site.url)
    assert told.failed() == ["alarm pushover: the server did not say that it took the message"]


# --- watchdogs


def test_a_watchdog_is_told_of_the_start_and_of_what_is_good_or_failed(site: Site) -> None:
    told = raising(Alarm(ping="dog"), secrets=site.secrets())
    assert told.clean([*told.alarms.started(), *told.alarms.good()]) == []
    assert told.failed() == []
    assert [(got.method, got.path, got.body) for got in site.got] == [
        ("GET", f"/ping/{PLACE}/start", b""),
        ("GET", f"/ping/{PLACE}", b""),
        ("POST", f"/ping/{PLACE}/fail", b"backup failed\nserver-1: no snapshot"),
    ]


def test_the_query_of_a_watchdog_s_url_stays_behind_its_path(site: Site) -> None:
    told = raising(Alarm(ping="slug"), secrets=site.secrets())
    told.alarms.started()
    told.alarms.good()
    assert [got.path for got in site.got] == [f"/{PLACE}/start?create=1", f"/{PLACE}?create=1"]


def test_a_watchdog_that_knows_no_such_check_is_told(site: Site) -> None:
    site.answers = [(200, b"OK (not found)")]
    told = raising(Alarm(ping="dog"), secrets=site.secrets())
    assert told.clean(told.alarms.good()) == ["alarm ping dog: the server answered not found"]


def test_what_is_good_is_told_to_watchdogs_alone(site: Site) -> None:
    others = (Alarm(command=["/no/such/program"]), Alarm(webhook="ops"), Alarm(pushover=True))
    told = raising(*others, secrets=site.secrets(), pushover=site.url)
    assert told.alarms.started() == told.alarms.good() == []
    assert site.got == []


# --- all of them


def test_one_that_fails_does_not_keep_the_others_from_being_raised(site: Site, tmp_path: Path) -> None:
    site.answers = [(404, b""), OK]
    told = raising(
        Alarm(command=["/no/such/program"]),
        Alarm(webhook="nowhere"),
        Alarm(webhook="ops"),
        Alarm(pushover=True),
        Alarm(ping="dog"),
        Alarm(command=["touch", str(tmp_path / "last")]),
        secrets={"alarms": site.secrets()["alarms"]},
    )
    assert [line.partition(": ")[0] for line in told.failed()] == [
        "alarm command /no/such/program",
        "alarm webhook nowhere",
        "alarm webhook ops",
        "secrets/pushover.yaml",
    ]
    assert site.got[-1].path.endswith("/fail")
    assert (tmp_path / "last").exists()


def test_a_fault_of_our_own_is_told_by_its_kind_alone(site: Site) -> None:
    class Broken(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            raise RuntimeError(PLACE)

    told = Alarms([Alarm(webhook="ops")], lambda name: Broken())
    assert [str(problem) for problem in told.failed("t", "x", {})] == [
        "alarm webhook ops: a fault of i12e: RuntimeError"
    ]


def test_facts_that_json_does_not_know_are_told_as_text(site: Site) -> None:
    told = raising(Alarm(webhook="ops"), secrets=site.secrets())
    facts = {"path": Path("/x"), "secret": Secret("planted0Secret")}
    assert told.alarms.failed("t", "x", facts) == []
    assert json.loads(site.got[0].body)["facts"] == {"path": "/x", "secret": "***"}


def test_the_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", site.url)
    assert raising(Alarm(webhook="ops"), secrets={"alarms": {"ops": "http://hooks.example/x"}}).failed() == []
    assert site.got[0].path == "http://hooks.example/x"

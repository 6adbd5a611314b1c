"""Telling people: that a backup failed or is too old, and to a watchdog also that one is good.

The alarms are those of cluster.yaml, each of one kind:

- `command`: a program is run; it reads the facts as JSON from its standard input, and I12E_ALARM says failed or stale.
- `webhook`: a POST of JSON. Its `text` is what Slack and Mattermost show, `content` what Discord does (at most 2000
  characters); ntfy shows `text` where the topic's URL ends with ?template=yes&message={{.text}}. Others take what they
  like: `alarm`, `title`, `facts`.
- `pushover`: Pushover's message API (https://pushover.net/api): at most 1024 characters, 250 in the title.
- `ping`: a watchdog that raises the alarm itself when nothing comes, by the protocol of healthchecks.io
  (https://healthchecks.io/docs/http_api/): GET of the URL for a good backup, of URL/start when one begins, POST to
  URL/fail with the text. This is what tells of a machine that is gone: nothing that runs on it could.

An alarm must never be the reason that a failure is not told: nothing here raises, each alarm has its tries and its
time, and what went wrong is returned. URLs and tokens are secrets, so no message has anything of them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, Protocol
from urllib.parse import SplitResult, quote, urlencode, urlsplit, urlunsplit

from i12e import masks, web
from i12e.errors import Problem, UserError, did_you_mean
from i12e.secrets import MASK, Secret

PUSHOVER = "https://api.pushover.net/1/messages.json"
FILE, PUSHOVER_FILE = "alarms", "pushover"  # of the environment's secrets
Kind = Literal["failed", "stale"]
_TEXT, _DISCORD, _PUSHOVER_TEXT, _PUSHOVER_TITLE, _PING = 4000, 2000, 1024, 250, 10_000  # characters; the last: bytes
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # and all of 5xx
# What of an answer is told: words such as Slack's no_service, and nothing that a token could be.
_WORDS = re.compile(r"\b[A-Za-z][a-z]*(?:[ _'-][a-z]+){1,12}")


class Alarm(Protocol):
    """One alarm of cluster.yaml; exactly one of these is set. `webhook` and `ping` are names of secrets."""

    @property
    def command(self) -> Sequence[str] | None: ...
    @property
    def webhook(self) -> str | None: ...
    @property
    def pushover(self) -> bool: ...
    @property
    def ping(self) -> str | None: ...


@dataclass(frozen=True)
class Limits:
    """How often and how long, in seconds: all tries of one request together, one of them, a command."""

    tries: int = 3
    request: float = 30.0
    silence: float = 10.0
    command: float = 60.0


class _Failed(Exception):
    """An alarm did not get through; says why, without anything secret. `passing`: another try may."""

    def __init__(self, why: str, remedy: str = "", passing: bool = False) -> None:
        super().__init__(why)
        self.remedy = remedy
        self.passing = passing


class Alarms:
    """The alarms of a cluster.

    `secrets` gives, by the name of a secret file, what is in it (Vault.group); `tell` is given a line for each try
    that is repeated. `pushover` is the address of its API.
    """

    def __init__(
        self,
        alarms: Sequence[Alarm],
        secrets: Callable[[str], Mapping[str, Any]],
        tell: Callable[[str], None] = lambda line: None,
        limits: Limits | None = None,
        pushover: str = PUSHOVER,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._alarms = list(alarms)
        self._secrets = secrets
        self._tell = tell
        self._limits = limits or Limits()
        self._pushover = pushover
        self._pause = pause

    def started(self) -> list[Problem]:
        """Tell the watchdogs that a backup begins; return what did not get through."""
        return self._each(lambda alarm: self._ping(alarm.ping, "start", None) if alarm.ping else None)

    def good(self) -> list[Problem]:
        """Tell the watchdogs that a backup is good; return what did not get through."""
        return self._each(lambda alarm: self._ping(alarm.ping, "", None) if alarm.ping else None)

    def failed(self, title: str, text: str, facts: Mapping[str, Any]) -> list[Problem]:
        """Given what failed, in a line, in some lines, and as data for programs, tell all of it to everybody.

        Return what did not get through. What is given here is shown to others: nothing in it may be a secret.
        """
        return self._raise("failed", title, text, facts)

    def stale(self, title: str, text: str, facts: Mapping[str, Any]) -> list[Problem]:
        """Given that the newest good backup is too old, do as failed() does."""
        return self._raise("stale", title, text, facts)

    def _raise(self, kind: Kind, title: str, text: str, facts: Mapping[str, Any]) -> list[Problem]:
        news = _News(kind, title, text, facts)

        def tell(alarm: Alarm) -> None:
            if alarm.command:
                _run(alarm.command, news, self._limits.command)
            if alarm.webhook:
                self._hook(alarm.webhook, news)
            if alarm.pushover:
                self._push(news)
            if alarm.ping:
                self._ping(alarm.ping, "fail", f"{title}\n{text}")

        return self._each(tell)

    def _each(self, tell: Callable[[Alarm], None]) -> list[Problem]:
        found = []
        for alarm in self._alarms:
            named = _named(alarm)
            try:
                tell(alarm)
            except _Failed as error:
                found.append(Problem("", None, None, f"{named}: {error}", error.remedy))
            except UserError as error:  # the secrets cannot be had
                found += error.problems
            except Exception as error:  # noqa: BLE001  # it must not hide why the alarm was raised; its text may be secret
                found.append(Problem("", None, None, f"{named}: a fault of i12e: {type(error).__name__}"))
        return found

    def _hook(self, name: str, news: _News) -> None:
        url = self._secret(FILE, name)
        request = _Request(url, news.json(), "application/json")
        self._send(f"webhook {name}", request, lambda body: None)

    def _push(self, news: _News) -> None:
        token, user = (self._secret(PUSHOVER_FILE, key) for key in ("token", "user_key"))
        fields = {
            "token": token.reveal(),
            "user": user.reveal(),
            "title": _cut(news.title, _PUSHOVER_TITLE),
            "message": _cut(news.text or news.title, _PUSHOVER_TEXT),
            "priority": "1",  # past the quiet hours, without an answer being asked for
        }
        form = urlencode(fields).encode()
        request = _Request(Secret(self._pushover), form, "application/x-www-form-urlencoded", (token, user))
        # It asks for 5 seconds between two tries, and blocks those who do not leave them.
        self._send("pushover", request, _pushed, least=5.0)

    def _ping(self, name: str, action: str, text: str | None) -> None:
        url = self._secret(FILE, name)
        parts = _split(url)
        path = f"{parts.path.rstrip('/')}/{action}" if action else parts.path
        its = Secret(urlunsplit(parts._replace(path=path)))  # a slug's URL may end with ?create=1
        body = None if text is None else text.encode()[:_PING]
        self._send(f"ping {name}", _Request(its, body, "text/plain; charset=utf-8", (url,)), _pinged)

    def _secret(self, file: str, key: str) -> Secret:
        held = self._secrets(file)
        value = held.get(key)
        if isinstance(value, Secret) and value.reveal():
            return value
        guess = "" if key in held else did_you_mean(key, held)  # there, and empty
        remedy = guess or f"./doit secrets_edit --name {file}"
        raise _Failed(f"the secret {file}.{key} is not there", remedy)

    def _send(self, named: str, request: _Request, answered: Callable[[str], None], least: float = 1.0) -> None:
        """Send a request until it is answered as it should be, as long as its time lasts; raise _Failed."""
        limits = self._limits
        ends = time.monotonic() + limits.request
        for attempt in range(1, limits.tries + 1):
            left = ends - time.monotonic()
            try:
                answered(_within(left, partial(request.send, min(left, limits.silence))))
                return
            except _Failed as error:
                wait = least * attempt
                if not error.passing:
                    raise
                if attempt == limits.tries or time.monotonic() + wait >= ends:
                    raise _Failed(f"{error} ({attempt} {'try' if attempt == 1 else 'tries'})", error.remedy) from None
                self._tell(f"{named}: {error}; trying again in {wait:g} s")
                self._pause(wait)


@dataclass(frozen=True)
class _News:
    kind: Kind
    title: str
    text: str
    facts: Mapping[str, Any]

    def json(self) -> bytes:
        """Return it for programs, and for those that show one key of it to people."""
        whole = f"{self.title}\n{self.text}".strip()
        told = {
            "alarm": self.kind,
            "title": self.title,
            "text": _cut(whole, _TEXT),
            "content": _cut(whole, _DISCORD),
            "facts": self.facts,
        }
        return json.dumps(told, default=str).encode()


@dataclass(frozen=True)
class _Request:
    """A request to a URL that is a secret; `others` are what else in it is one."""

    url: Secret
    body: bytes | None
    kind: str
    others: tuple[Secret, ...] = ()

    def send(self, seconds: float) -> str:
        """Send it; return the beginning of the answer, without anything secret. Raise _Failed if it is a refusal."""
        _split(self.url)
        headers = {"User-Agent": "i12e", **({} if self.body is None else {"Content-Type": self.kind})}
        try:
            request = urllib.request.Request(self.url.reveal(), self.body, headers)  # noqa: S310  # http alone
            opener = urllib.request.build_opener(web.Stays)
            with contextlib.closing(opener.open(request, timeout=seconds)) as answer:
                return self._shown(answer.read(1 << 16))
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _trouble(error) from None

    def _refusal(self, error: urllib.error.HTTPError) -> _Failed:
        said = ""
        with contextlib.suppress(OSError, http.client.HTTPException):
            said = _words(self._shown(error.read(1 << 12)))
        told = f"the server answered {error.code}" + (f": {said}" if said else "")
        if error.code < HTTPStatus.BAD_REQUEST:
            return _Failed(f"{told}, which leads elsewhere", "give the address that it leads to")
        return _Failed(told, passing=error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code in _PASSING)

    def _shown(self, answer: bytes) -> str:
        text = answer.decode(errors="replace")
        for secret in sorted(self._pieces(), key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text

    def _pieces(self) -> Iterator[str]:
        """Yield what a server could answer of what it was asked."""
        for whole in (self.url, *self.others):
            value = whole.reveal()
            yield from (value, quote(value), quote(value, safe=""))
            yield from (piece for piece in re.split(r"[/?&=:@#]", value) if len(piece) >= 4)


def _within(seconds: float, action: Callable[[], str]) -> str:
    """Given an action, return what it returns; raise _Failed if that takes longer, and leave it to itself.

    In a thread of its own: no timeout of a socket bounds a name that is being looked up, or an answer that drips.
    """
    found: list[str] = []
    failures: list[BaseException] = []

    def act() -> None:
        try:
            found.append(action())
        except BaseException as error:  # noqa: BLE001  # raised by the one who waits
            failures.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(max(seconds, 0.0))
    if failures:
        raise failures[0]
    if not found:
        raise _Failed("no answer in time", passing=True)
    return found[0]


def _split(url: Secret) -> SplitResult:
    """Return a URL in parts; raise _Failed if it is none."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url.reveal())
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts
    raise _Failed("the secret is not a URL", "it begins with https:// or http://")


def _trouble(error: Exception) -> _Failed:
    """Given what went wrong, return it as an alarm tells it."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, http.client.InvalidURL | UnicodeError):
        return _Failed("the secret is not a URL", "it begins with https:// or http://")
    why, passing = web.trouble(error)
    return _Failed(why, passing=passing)


def _pushed(answer: str) -> None:
    """Raise _Failed if Pushover did not take it."""
    try:
        taken = json.loads(answer)["status"] == 1
    except (ValueError, KeyError, TypeError):
        taken = False
    if not taken:
        raise _Failed("the server did not say that it took the message")


def _pinged(answer: str) -> None:
    """Raise _Failed if the watchdog knows no such check: healthchecks.io may say so as "OK (not found)", status 200."""
    if answer.startswith("OK ("):
        raise _Failed(f"the server answered {_words(answer[3:]) or 'that it did not take it'}")


def _run(command: Sequence[str], news: _News, seconds: float) -> None:
    """Given a command, run it with the news; raise _Failed if it does not end well and in time."""
    # The key of the repo's secrets is none of its business.
    environ = {name: value for name, value in os.environ.items() if name != "SOPS_AGE_KEY"}
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        told.write(news.json() + b"\n")
        told.seek(0)
        try:
            process = subprocess.Popen(
                list(command),
                stdin=told,
                stdout=said,
                stderr=said,
                env={**environ, "I12E_ALARM": news.kind},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _Failed(f"cannot be run: {getattr(error, 'strerror', None) or type(error).__name__}") from None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise _Failed(f"took longer than {seconds:g} s") from None
        finally:
            if process.poll() is None:  # also when we are being stopped ourselves
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            said.seek(max(said.seek(0, os.SEEK_END) - 4096, 0))
            lines = said.read().decode(errors="replace").strip().splitlines()
            last = masks.printable(masks.known(lines[-1].strip()))[:200] if lines else "it said nothing"
            how = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
            raise _Failed(f"{how}: {last}")


def _named(alarm: Alarm) -> str:
    if alarm.command:
        return f"alarm command {alarm.command[0]}"
    if alarm.webhook:
        return f"alarm webhook {alarm.webhook}"
    return "alarm pushover" if alarm.pushover else f"alarm ping {alarm.ping}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _words(text: str) -> str:
    """Return the first words of an answer that are nothing but words; none of a page for people."""
    found = None if text.lstrip().startswith("<") else _WORDS.search(text)
    return found[0] if found else ""

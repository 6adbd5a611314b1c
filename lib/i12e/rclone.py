"""Any remote of rclone as a store, through the real rclone.

What is put goes to a name in a folder of our own first, and is moved when all of it is there and rclone has ended
well: if we are killed, rclone takes the end of its input for the end of the content, and ends well too.

No remote compares and swaps through rclone, so such a store never shares a schedule, and create and swap ask first.
Whether what has returned is on a disk is the remote's to say; rclone does not wait for that on local ones.
"""

from __future__ import annotations

import configparser
import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import os
import re
import secrets
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from i12e import programs
from i12e.stores import (
    BLOCK,
    SMALL,
    Changed,
    Entry,
    Exists,
    Full,
    Keys,
    Listing,
    Missing,
    NotThere,
    Refused,
    StoreError,
    TooBig,
    checked,
    passes,
    small,
    try_out,
)

_PARTS = ".i12e-part"
_PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial")  # what rclone itself calls a copy that is not complete
_COMMON = (
    "--use-json-log",
    "--log-level=NOTICE",
    "--ask-password=false",  # of a config that is encrypted: RCLONE_CONFIG_PASS or --password-command give it
    "--retries=1",  # stores.Patience tries again
    "--low-level-retries=3",
    "--contimeout=20s",
    "--timeout=60s",
)
_NO_DIRECTORY, _NO_FILE, _TEMPORARY = 3, 4, 5  # exit statuses: rclone.org/docs/#exit-code
_REMOTE = re.compile(r"/|[^-:,/][^:,/]*:")  # a path or a name; not options between commas, which may be secrets
_NAME = re.compile(r"[A-Za-z0-9_]+")  # of a remote that the environment can describe
_PUBLIC = ("type", "provider", "region", "remote", "endpoint", "host", "url", "vendor", "upstreams", "port", "user")
_WORTH = 4  # characters of an option's value that are not in every other message too
_FULL = re.compile(r"no space left|quota|insufficient ?storage|storage ?full|disk full|\b507\b", re.IGNORECASE)
_REFUSED = re.compile(
    r"permission denied|access ?denied|forbidden|unauthori[sz]ed|unable to authenticate|\b40[13]\b"
    r"|invalid_?(grant|client|credentials|access)|InvalidAccessKeyId|SignatureDoesNotMatch|read-only file system",
    re.IGNORECASE,
)
_PIPE = 1 << 20  # bytes that a pipe is to hold


@dataclass
class _Child:
    """An rclone that runs, the one pipe that leads there, and the file for its complaints."""

    process: subprocess.Popen[bytes]
    pipe: IO[bytes]
    complaint: IO[bytes]

    def said(self) -> str:
        """Return what it has complained about."""
        self.complaint.seek(0)
        return self.complaint.read().decode(errors="replace")


class Rclone:
    """What is below a path of a remote as a store; see stores.Store.

    `remote` is as rclone takes it: b2:bucket/path. `conf` is the text of an rclone.conf, which only the environment of
    rclone gets to know, and with which the user's own one is not read; None: that one is used. Raise StoreError if
    they do not fit. rclone's own clock is this machine's.
    """

    def __init__(self, name: str, remote: str, conf: str | None = None, program: str | None = None) -> None:
        self.name = name
        self.place = f"rclone {remote}"
        self.shares = False
        self._remote = remote if remote.endswith(":") else remote.rstrip("/")
        self._program = program
        self._secrets: tuple[str, ...] = ()
        self._environ = {name: value for name, value in os.environ.items() if conf is None or _is_not_rclone(name)}
        self._options: tuple[str, ...] = _COMMON
        if not _REMOTE.match(remote):
            remedy = "REMOTE:PATH; what the remote is goes into rclone_conf of its secrets, since everybody sees this"
            raise StoreError(name, "its rclone remote is not of the kind REMOTE:PATH", remedy)
        if conf is not None:
            self._options = ("--config=", *_COMMON)
            described, self._secrets = _described(name, conf)
            self._environ.update(described)

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """See Store."""
        checked(self.name, key)
        with ThreadPoolExecutor(1) as pool:
            before = pool.submit(self._stat, key)  # while the content is already on its way: each start takes 0.1 s
            with self._sent(key, chunks, before) as (part, size):
                self._vacant(key, before)
                self._ran("moveto", "--ignore-times", self._full(part), self._full(key))
        return size

    def read(self, key: str, start: int = 0) -> Iterator[bytes]:
        """See Store."""
        size = self._there(key).size
        if start >= size:
            return
        with self._started("cat", f"--offset={start}", self._full(key)) as child:
            while block := os.read(child.pipe.fileno(), BLOCK):
                start += len(block)
                yield block
            self._ended(child)
        if start < size:
            raise StoreError(self.name, f"{key} came to its end after {start} of {size} bytes", passing=True)

    def get(self, key: str) -> tuple[bytes, str]:
        """See Store."""
        if self._there(key).size > SMALL:
            raise TooBig(self.name, f"{key} has more than {SMALL >> 20} MB")
        content = b"".join(self.read(key))
        return content, _version(content)

    def list(self, prefix: str) -> Listing:
        """See Store."""
        folder, _, start = prefix.rpartition("/")
        found = self._listed(folder, start)
        if found is None:
            if folder and self._named("") is not None:
                return []
            self._not_there()
        entries = [entry for entry in found or () if entry.key.startswith(prefix) and _is_key(entry.key)]
        return sorted(entries, key=lambda entry: entry.key)

    def create(self, key: str, content: bytes) -> str:
        """See Store. Not atomic: of two at the same time, both may succeed."""
        small(self.name, key, content)
        self.put(key, [content])
        return _version(content)

    def swap(self, key: str, content: bytes, version: str) -> str:
        """See Store. Not atomic: of two at the same time, both may succeed."""
        checked(self.name, key)
        small(self.name, key, content)
        try:
            _, found = self.get(key)
        except Missing:
            found = ""
        if found != version:
            raise Changed(self.name, f"{key} is not what it was")
        with self._sent(key, [content], None) as (part, _):
            # not moveto, which removes what is there before it moves
            self._ran("copyto", "--ignore-times", self._full(part), self._full(key))
            self._remove(part)
        return _version(content)

    def delete(self, key: str) -> None:
        """See Store."""
        self._remove(checked(self.name, key))

    def locked_until(self, key: str) -> float | None:
        """See Store. What keeps objects on the far side is not seen through rclone."""
        self._there(key)
        return None

    def sweep(self, age: float) -> Keys:
        """See Store. Whether an upload is still being written cannot be told here: `age` has to leave it the time.

        The key is cut at its beginning if it is a very long one. Parts of uploads that the remote itself hides
        (multipart uploads) are not found: `rclone cleanup` is for those.
        """
        oldest = self.now() - age
        entries = self._listed("")
        if entries is None:
            self._not_there()
        swept: Keys = []
        for entry in entries or ():
            folder, _, name = entry.key.rpartition("/")
            if folder == _PARTS:
                begun, _, rest = name.partition("-")
                if begun.isdecimal() and float(begun) < oldest:
                    self._remove(entry.key)
                    swept.append(urllib.parse.unquote(rest.partition("-")[2]))
            elif _is_partial(name) and entry.modified < oldest:
                self._remove(entry.key)
                swept.append(_PARTIAL.sub("", entry.key))
        return sorted(swept)

    def now(self) -> float:
        """See Store: by our clock."""
        return time.time()

    def probe(self) -> None:
        """See Store. Makes the folder or bucket, as rclone does with every put."""
        self._ran("mkdir", self._remote)
        try_out(self, secrets.token_hex(8))

    def close(self) -> None:
        """See Store."""

    def _full(self, key: str) -> str:
        if not key:
            return self._remote
        return f"{self._remote}{key}" if self._remote.endswith(":") else f"{self._remote}/{key}"

    def _vacant(self, key: str, before: Future[Entry | None]) -> None:
        if before.result() is not None:
            raise Exists(self.name, f"{key} is there already")

    def _there(self, key: str) -> Entry:
        found = self._stat(checked(self.name, key))
        if found is None:
            raise Missing(self.name, f"{key} is not there")
        return found

    def _stat(self, key: str) -> Entry | None:
        status, out, said = self._run("lsjson", "--stat", "--no-mimetype", self._full(key))
        if status in (_NO_DIRECTORY, _NO_FILE):
            return None
        if status:
            raise self._error(status, said)
        found = json.loads(out)
        return None if found["IsDir"] else _entry(key, found)

    def _listed(self, folder: str, start: str = "") -> Listing | None:
        """Given a folder and how names in it begin ("": all), return all such files in it, and below, ours too.

        None if there is no such folder. No other folder is looked into, which for a large remote is what takes long.
        """
        before = f"{folder}/" if folder else ""
        if not start:
            found = self._named(folder, "--recursive", "--files-only")
            return None if found is None else [_entry(before + each["Path"], each) for each in found]
        found = self._named(folder)
        if found is None:
            return None
        entries: Listing = []
        for each in found:
            if each["Path"].startswith(start):
                key = before + each["Path"]
                entries += self._listed(key) or () if each["IsDir"] else [_entry(key, each)]
        return entries

    def _named(self, folder: str, *options: str) -> Sequence[Mapping[str, Any]] | None:
        """Given a folder, return what rclone tells of each thing in it; None if there is no such folder."""
        status, out, said = self._run("lsjson", "--no-mimetype", *options, self._full(folder))
        if status == _NO_DIRECTORY:
            return None
        if status:
            raise self._error(status, said)
        names: Sequence[Mapping[str, Any]] = json.loads(out)
        return names

    def _not_there(self) -> None:
        remedy = "is it mounted? The first backup makes it if the remote can be written to"
        raise NotThere(self.name, f"there is no {self._remote}", remedy)

    def _remove(self, key: str) -> None:
        status, _, said = self._run("deletefile", self._full(key))
        if status and status not in (_NO_DIRECTORY, _NO_FILE):
            raise self._error(status, said)

    @contextlib.contextmanager
    def _sent(
        self, key: str, chunks: Iterable[bytes], before: Future[Entry | None] | None
    ) -> Iterator[tuple[str, int]]:
        """Until the block ends, have the content under a name of our own; give that, and how many bytes it has.

        `before` tells that the key is taken, perhaps only on the way. If anything goes wrong, nothing stays.
        """
        tail = urllib.parse.quote(key, safe="")[-80:]
        part = f"{_PARTS}/{time.time():.0f}-{secrets.token_hex(4)}-{tail}"
        try:
            size = self._fed(part, key, chunks, before)
            found = self._stat(part)
            if found is None or found.size != size:
                there = "nothing" if found is None else f"{found.size} bytes"
                why = f"rclone said that it took the {size} bytes of {key}, and there are {there}"
                raise StoreError(self.name, why, "nothing that is put there can be relied on")
            yield part, size
        except BaseException:
            with contextlib.suppress(StoreError):  # a later sweep does it
                self._remove(part)
            raise

    def _fed(self, part: str, key: str, chunks: Iterable[bytes], before: Future[Entry | None] | None) -> int:
        size = 0
        with self._started("rcat", self._full(part), feed=True) as child:
            try:
                for chunk in chunks:
                    if before is not None and before.done():
                        self._vacant(key, before)
                    if not _wrote(child.pipe, chunk):
                        break
                    size += len(chunk)
                with contextlib.suppress(BrokenPipeError):
                    child.pipe.close()
            except BaseException:
                child.process.terminate()  # ahead of the end of its input, which it would take for the content's
                child.process.wait()
                raise
            self._ended(child)
        return size

    @contextlib.contextmanager
    def _started(self, *arguments: str, feed: bool = False) -> Iterator[_Child]:
        """Until the block ends, run rclone, with a pipe from its output, or to its input (`feed`)."""
        with tempfile.TemporaryFile() as complaint:  # unnamed: a pipe would have to be emptied at the same time
            command = [self._path(), *self._options, *arguments]
            inward = subprocess.PIPE if feed else subprocess.DEVNULL
            outward = subprocess.DEVNULL if feed else subprocess.PIPE
            process = subprocess.Popen(
                command, env=self._environ, stdin=inward, stdout=outward, stderr=complaint, bufsize=0
            )
            pipe = process.stdin or process.stdout
            try:
                if pipe is None:
                    raise ValueError("one of the two is a pipe")
                _widen(pipe)
                yield _Child(process, pipe, complaint)
            finally:
                if process.poll() is None:
                    process.terminate()
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
                process.wait()

    def _ended(self, child: _Child) -> None:
        """Given an rclone that has nothing more to do, wait for its end; raise what it complains about."""
        status = child.process.wait()
        if status:
            raise self._error(status, child.said())

    def _run(self, *arguments: str) -> tuple[int, bytes, str]:
        """Given arguments, run rclone; return its exit status, output, and what it complained about."""
        with self._started(*arguments) as child:
            out = b"".join(iter(lambda: os.read(child.pipe.fileno(), BLOCK), b""))
            return child.process.wait(), out, child.said()

    def _ran(self, *arguments: str) -> None:
        status, _, said = self._run(*arguments)
        if status:
            raise self._error(status, said)

    def _path(self) -> str:
        if self._program is None:
            try:
                self._program = programs.rclone()
            except programs.Missing as error:
                raise StoreError(self.name, str(error)) from None
        return self._program

    def _error(self, status: int, said: str) -> StoreError:
        """Given how rclone ended, return what it means; none of the secrets is in it."""
        message = self._masked(_message(said)) or f"rclone ended with status {status}"
        if "didn't find section in config file" in message:
            remedy = "rclone_conf of its secrets has to describe the remote, or, without that, rclone's own config"
            return StoreError(self.name, message, remedy)
        if _FULL.search(message):
            return Full(self.name, message, "make room there, or prune older backups")
        if _REFUSED.search(message):
            return Refused(self.name, message, "look at the remote's credentials and permissions")
        if status in (_NO_DIRECTORY, _NO_FILE):
            return Missing(self.name, message)
        passing = status == _TEMPORARY or status < 0 or passes(message)
        return StoreError(
            self.name, message, "" if passing else f"look at it by hand: rclone lsf {self._remote}", passing
        )

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


@dataclass(frozen=True)
class _Section:
    name: str
    options: Mapping[str, str]


def _described(store: str, conf: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Given an rclone.conf, return the environment that says the same, and the values that nobody is to see."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), default_section="\0")
    try:
        parser.read_string(conf)
    except configparser.Error:  # which shows the line that is wrong, and may be a secret
        remedy = "it is as rclone config show prints it: [REMOTE], below that OPTION = VALUE, each option once"
        raise StoreError(store, "rclone_conf of its secrets is no rclone.conf", remedy) from None
    sections = [_Section(name, dict(parser.items(name))) for name in parser.sections()]
    environ: dict[str, str] = {}
    hidden: set[str] = set()
    for section in sections:
        if not _NAME.fullmatch(section.name):
            why = f'rclone_conf of its secrets has a remote "{section.name}"'
            raise StoreError(store, why, "letters, digits and _ are what rclone can be told: give it another name")
        for option, value in section.options.items():
            variable = f"RCLONE_CONFIG_{section.name}_{option}".upper()
            if variable in environ:
                raise StoreError(store, f"rclone_conf of its secrets has two remotes {section.name}", "tell them apart")
            environ[variable] = value
            if option not in _PUBLIC:
                hidden.update({value, *re.split(r'["{}:,\s]+', value)})
    shown = ("true", "false")
    return environ, tuple(sorted((v for v in hidden if len(v) >= _WORTH and v not in shown), key=len, reverse=True))


def _is_not_rclone(variable: str) -> bool:
    return not variable.startswith("RCLONE_")


def _entry(key: str, found: Mapping[str, Any]) -> Entry:
    return Entry(key, int(found["Size"]), dt.datetime.fromisoformat(found["ModTime"]).timestamp())


def _is_key(key: str) -> bool:
    parts = key.split("/")
    return not any(part.startswith(".") for part in parts) and not _is_partial(parts[-1])


def _is_partial(name: str) -> bool:
    return bool(_PARTIAL.search(name)) and name.endswith(".partial")


def _message(said: str) -> str:
    """Given what rclone wrote, return the last thing that it complained about, in one line."""
    messages = []
    for line in said.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = line
        message = str(entry.get("msg", "")) if isinstance(entry, dict) else line
        messages.append("".join(char for char in message if char.isprintable()).strip())
    return next((message for message in reversed(messages) if message), "")[:500]


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _wrote(pipe: IO[bytes], chunk: bytes) -> bool:
    """Given a pipe, write to it; return whether somebody is there who reads."""
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(pipe.fileno(), view) :]
        except BrokenPipeError:
            return False
    return True


def _widen(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it; not above what the system allows
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)

"""Commands on hosts, over the OpenSSH of this machine: its config, agent, known hosts and jump hosts count.

To each host there is one connection, which is made when it is first needed and kept (ControlMaster). It is a
child process whose session over there ends when we do, however we end. A command goes over it as a session of
its own, which says when it is ready and starts when we say so: what was never begun is known not to have run,
and may be tried again; what broke afterwards is Lost. The command's end and status are told by a mark of its own,
because 255 may be the command's as well as ssh's. ssh's own messages go to a file, the command's to us.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import select
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from i12e import programs
from i12e.lock import duration
from i12e.paths import Paths
from i12e.programs import Done
from i12e.unreachable import (
    ChangedKey,
    Lost,
    NotAllowed,
    Refused,
    Slow,
    TooMuch,
    UnknownKey,
    Unreachable,
    clean,
    patiently,
    reason,
)

if TYPE_CHECKING:
    from i12e.model import Host
    from i12e.screen import Terminal

__all__ = [
    "ChangedKey",
    "Done",
    "Held",
    "Lost",
    "NotAllowed",
    "Refused",
    "Remote",
    "Slow",
    "Target",
    "TooMuch",
    "UnknownKey",
    "Unreachable",
    "ask_key",
    "offered_key",
    "patiently",
    "target",
]

Log = Callable[[str], None]

_CONNECT = 10  # seconds for one hop's TCP connection and greeting, and
_LOGIN = 45.0  # for the whole way: jump hosts, keys that have to be touched
_READY = 15.0  # until a session on a connection that is there says something: two round trips
_ALIVE = (5, 4)  # a connection is dead after so many seconds of silence, asked so many times: 20 s
_END = 5.0  # for what should end by itself
_MOST = 64_000_000  # bytes that one command may write
_LONG = 100_000  # bytes of a command that fits into an argument: Linux takes 131071 of one
_PREFIX = "i12e-ssh-"
_NEW = 60.0  # seconds for which a folder may be there and not be locked yet
_SHORT = 60  # bytes of a folder's path below which a socket's name fits: macOS takes 103 in all


@dataclass(frozen=True)
class Target:
    """A host as ssh is called for it."""

    name: str
    """The host's name, for people."""
    destination: str
    """USER@ADDRESS."""
    options: tuple[str, ...] = ()
    """Of ssh, like -p 2222 or -F /absolute/path."""


def target(host: Host, root: Path) -> Target:
    """Given a host and the checkout, return how ssh is called for it.

    A port that is ssh's own default is not given: a port in the user's ssh config counts then.
    """
    ssh = host.ssh
    options: tuple[str, ...] = ()
    if ssh.config is not None:
        folder = root.absolute() / Paths(root, host.env).hosts
        options = ("-F", str(folder / ssh.config))
    if ssh.port != 22:
        options += ("-p", str(ssh.port))
    return Target(host.name, f"{ssh.user}@{ssh.address or host.addresses[0]}", options)


# What the login shell over there does, of any POSIX kind: it says that it is ready, starts when it is told to, and
# says how that ended. `read` takes one byte at a time, so the rest of the input is the command's. What the shell
# itself would say, as that the script was killed, is no part of what the script said.
_WRAPPER = (
    "printf '{mark} ready %s\\n' $$ >&2; IFS= read -r go && [ \"$go\" = {mark} ] || exit 0; set --; {become}"
    "printf '{mark}\\n'; exec 3>&2 2>/dev/null; \"$@\" sh -c {script} sh 2>&3 3>&-; "
    "set -- $?; {end}printf '{mark} ended %s\\n' $1 >&3"
)
_END_OF_STREAM = "printf '{mark} end\\n'; "
_BECOME = 'if [ "$(id -u)" != 0 ]; then set -- sudo -n; fi; '
_BEGUN = "printf '{mark} begun\\n' >&2\n"
# head takes no more than it is told to; a script that is too long for an argument comes before the command's input.
_FROM_INPUT = 'eval "$(head -c {size})"'
# The kept connection's own session. When its input ends, so does the connection, with all that runs over it: by the
# end of sshd's process for it, which is the shell's parent as long as it lives.
_KEEPER = 'echo {mark}; cat >/dev/null; read -r _ _ _ parent _ </proc/$$/stat; [ "$parent" = $PPID ] && kill $PPID'
# Ends a session's process group, if it is still that session's.
_STOP = (
    "grep -aqs {mark} /proc/{pid}/cmdline || exit 0; kill -s TERM -- -{pid}; n=0\n"
    "while [ $n -lt 10 ] && kill -s 0 -- -{pid}; do sleep 0.1; n=$((n + 1)); done 2>/dev/null\n"
    "kill -s KILL -- -{pid} 2>/dev/null"
)


class Remote:
    """A host, over one kept connection. Several threads may use it; close() ends it, and so does our own end."""

    def __init__(self, target: Target, log: Log | None = None) -> None:
        self.target = target
        self._log = log or (lambda line: None)
        self._folder: tuple[Path, int] | None = None
        self._master: _Master | None = None
        self._count = 0
        self._lock = threading.RLock()
        self._process = os.getpid()
        _open.add(self)

    def run(self, script: str, stdin: bytes = b"", limit: float = 60.0, root: bool = True) -> Done:
        """Given a script for sh, its input and its time limit in seconds, return how it ended.

        With `root` it runs by `sudo -n`, unless the user is root. The script can be seen by everybody over there
        and is logged: secrets go into `stdin`. Ends when the script does; what it leaves in the background should
        write elsewhere. Raise Refused, UnknownKey, ChangedKey, NotAllowed or Unreachable if nothing ran, Lost if
        the connection broke meanwhile, Slow when the limit passed, TooMuch for more than 64 MB of output.
        """
        return self._logged(script, stdin, lambda: self._run(script, stdin, limit, root))

    def stream(
        self,
        script: str,
        take: Callable[[bytes], None],
        stdin: bytes = b"",
        quiet: float = 60.0,
        root: bool = True,
    ) -> Done:
        """Given a script for sh and who takes its output, return how it ended, with an output of "".

        `take` gets what the script writes to standard output as it comes, in pieces that are never empty; while it
        works nothing is read, and so the script waits. Whoever gets a Done got all of it. What take raises is
        raised, after the script was told to end. `quiet` is how many seconds may pass without a byte from or to the
        script; take's own time does not count. Raise Slow when they passed, else as run() does; TooMuch counts
        standard error alone.
        """
        return self._logged(script, stdin, lambda: self._stream(script, take, stdin, quiet, root))

    def hold(self, script: str, root: bool = True) -> Held:
        """Given a script for sh that ends when its input does, start it and return it while it runs.

        Every few seconds it gets an empty line: without one for longer than that, it may take us for gone.
        Raise as run() does.
        """
        self._log(f"$ {script}  # held")
        return Held(self._begin(script, b"", root, keep=True), self.target.name)

    def drop(self) -> None:
        """End the connection and what is held over it; the next command connects anew."""
        with self._lock:
            if self._master is not None:
                self._master.end()
                self._master = None

    def close(self) -> None:
        """End the connection and leave nothing behind."""
        with self._lock:
            self.drop()
            if self._folder is not None:
                folder, handle = self._folder
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)
                self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _logged(self, script: str, stdin: bytes, action: Callable[[], Done]) -> Done:
        began = time.monotonic()
        self._log(f"$ {script}" + (f"  # with {len(stdin)} bytes of input" if stdin else ""))
        try:
            done = action()
        except BaseException as error:
            why = f": {error.why}" if isinstance(error, Unreachable) else ""  # another's text may hold anything
            self._log(f"= {type(error).__name__}{why} ({duration(time.monotonic() - began)})")
            raise
        last = clean((done.complaint.splitlines() or [""])[-1]) if done.status else ""
        self._log(f"= {done.status} in {time.monotonic() - began:.1f} s{f': {last}' if last else ''}")
        return done

    def _run(self, script: str, stdin: bytes, limit: float, root: bool) -> Done:
        session = self._begin(script, stdin, root)
        try:
            try:
                session.pump(lambda: session.status is not None, time.monotonic() + limit)
            except TooMuch:
                self._stop(session)
                raise
            if session.status is None and session.is_open:
                self._stop(session)
                raise Slow(self.target.name, f"no end after {duration(limit)}, {_last(session)}")
            if session.status is None:
                raise self._lost(session)
            session.drain()
            return self._done(session)
        finally:
            session.kill()

    def _stream(self, script: str, take: Callable[[bytes], None], stdin: bytes, quiet: float, root: bool) -> Done:
        session = self._begin(script, stdin, root, take=take)
        try:
            try:
                flowed = session.flow(quiet)
            except BaseException:
                self._stop(session)
                raise
            if not flowed:
                self._stop(session)
                raise Slow(self.target.name, f"not a byte for {duration(quiet)}, {_last(session)}")
            if not session.is_whole:
                raise self._lost(session)
            return self._done(session)
        finally:
            session.kill()

    def _lost(self, session: _Session) -> Lost:
        why = session.said() or self._said() or "the connection broke"
        return Lost(self.target.name, f"{clean(why)}; {_last(session)}")

    def _done(self, session: _Session) -> Done:
        if not session.begun:
            raise NotAllowed(self.target.name, _last(session), "the user has to be allowed sudo -n")
        return session.done()

    def _begin(
        self, script: str, stdin: bytes, root: bool, keep: bool = False, take: Callable[[bytes], None] | None = None
    ) -> _Session:
        """Start a script; where the kept connection turns out to be dead, once more over a new one."""
        while True:
            with self._lock:
                fresh = self._master is None or not self._master.lives
                master = self._connect() if fresh or self._master is None else self._master
            session = self._session(master, script, stdin, root, take)
            try:
                session.pump(lambda: session.pid is not None, time.monotonic() + _READY)  # noqa: B023  # ended below
                if session.pid is not None:
                    session.go(keep)
                    return session
                why = session.said()
                session.kill()
            except BaseException:
                session.kill()
                raise
            if fresh or "refused by peer" in why:
                why = why or self._said() or f"the host is silent, no answer for {duration(_READY)}"
                raise Refused(self.target.name, clean(why.splitlines()[0]))
            self._log("the kept connection is dead, a new one is made")
            with self._lock:
                if self._master is master:
                    self.drop()

    def _session(
        self, master: _Master, script: str, stdin: bytes, root: bool, take: Callable[[bytes], None] | None = None
    ) -> _Session:
        mark = f"i12e-{secrets.token_hex(8)}"
        text = _BEGUN.format(mark=mark) + script
        become = _BECOME if root else ""
        end = _END_OF_STREAM.format(mark=mark) if take else ""
        command = _WRAPPER.format(mark=mark, become=become, end=end, script=shlex.quote(text))
        if len(_bytes(command)) > _LONG:
            stdin = _bytes(text) + stdin
            short = shlex.quote(_FROM_INPUT.format(size=len(_bytes(text))))
            command = _WRAPPER.format(mark=mark, become=become, end=end, script=short)
        tap = _Tap(mark, take) if take else None
        return _Session(self.target, master, mark, command, stdin, self._file("session"), tap)

    def _stop(self, session: _Session) -> None:
        """Do what can be done to end a session's processes over there."""
        script = _STOP.format(mark=session.mark, pid=session.pid)
        master = self._master
        if master is None or not master.lives:
            return
        with contextlib.suppress(Unreachable):
            stop = self._session(master, script, b"", root=True)
            try:
                stop.pump(lambda: stop.pid is not None, time.monotonic() + _END)
                if stop.pid is not None:
                    stop.go(keep=False)
                    stop.pump(lambda: stop.status is not None, time.monotonic() + _END)
            finally:
                stop.kill()

    def _connect(self) -> _Master:
        self.drop()
        self._log(f"connecting to {self.target.destination}")
        self._master = _Master(self.target, self._file("master"), self._file("said"))
        try:
            self._master.wait()
        except BaseException:
            self.drop()
            raise
        return self._master

    def _said(self) -> str:
        master = self._master
        return "" if master is None else (master.said().splitlines() or [""])[-1]

    def _file(self, kind: str) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = _private_folder()
            self._count += 1
            return self._folder[0] / f"{self._count}.{kind}"


class Held:
    """A script that runs on a host until close(), or until the connection breaks."""

    def __init__(self, session: _Session, host: str) -> None:
        self._session = session
        self._host = host
        self._closing = threading.Event()
        self._beats = threading.Thread(target=self._beat, name=f"beats-{host}", daemon=True)
        self._beats.start()

    def first_line(self, limit: float) -> str:
        """Return the first line that the script wrote, "" if it ended without one.

        Raise Slow if there is none within `limit` seconds, Lost if the connection broke before.
        """
        session = self._session
        session.pump(lambda: session.status is not None or "\n" in session.done().output, time.monotonic() + limit)
        if session.status is not None:
            session.drain()
        line, newline, _ = session.done().output.partition("\n")
        if newline or session.status is not None:
            return line
        if session.is_open:
            raise Slow(self._host, f"no word after {duration(limit)}, {_last(session)}")
        raise Lost(self._host, session.said() or "the connection broke")

    def alive(self) -> bool:
        """Tell whether the script still runs; one whose connection is dead counts as running for up to 20 s."""
        session = self._session
        session.pump(lambda: session.status is not None, 0.0)
        return session.status is None and session.is_open

    def complaint(self) -> str:
        """Return what the script wrote to standard error so far."""
        return self._session.done().complaint

    def close(self) -> None:
        """End the script's input, wait a little for its end, and let go of it."""
        self._closing.set()
        self._beats.join()
        session = self._session
        session.end_input()
        session.pump(lambda: session.status is not None, time.monotonic() + _END)
        session.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._closing.wait(_END):
            if not self._session.beat():
                return


class _Master:
    """The kept connection: an ssh whose own session waits for the end of its input, which is ours."""

    def __init__(self, target: Target, socket: Path, said: Path) -> None:
        self.socket = socket
        self._target = target
        self._log = said
        interval, count = _ALIVE
        options = {
            "ControlMaster": "yes",
            "ControlPath": socket,
            "ControlPersist": "no",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": _CONNECT,
            "ServerAliveInterval": interval,
            "ServerAliveCountMax": count,
            "LogLevel": "INFO",
            **_PLAIN,
        }
        mark = f"i12e-{secrets.token_hex(8)}"
        command = [*_ssh(options), *target.options, "--", target.destination]
        with open(said, "wb") as log:
            self.process = _start([*command, _KEEPER.format(mark=mark)], log)
        self._mark = mark.encode()

    @property
    def lives(self) -> bool:
        """Whether the process is there; its connection may be dead all the same."""
        return self.process.poll() is None

    def said(self) -> str:
        """Return what ssh said so far."""
        return _text(self._log)

    def wait(self) -> None:
        """Wait for the connection; raise an Unreachable if there is none."""
        output = _pipe(self.process.stdout)
        deadline = time.monotonic() + _LOGIN
        seen = b""
        while self._mark not in seen:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Refused(self._target.name, f"no login within {duration(_LOGIN)}")
            read = os.read(output.fileno(), 65536)
            seen = seen[-len(self._mark) :] + read
            if not read:
                self.process.wait()
                raise reason(self._target.name, self.said())

    def end(self) -> None:
        """End it, and all that is done over it."""
        _end(self.process)
        self.socket.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)


class _Tap:
    """Hands on what comes between the mark of the beginning and that of the end, and keeps none of it.

    The end's own mark tells the whole from the part: a connection that breaks ends the output too.
    """

    def __init__(self, mark: str, take: Callable[[bytes], None]) -> None:
        self.ended = False
        self._take = take
        self._begin, self._end = f"{mark}\n".encode(), f"{mark} end\n".encode()
        self._begun = False
        self._kept = b""

    def __call__(self, read: bytes) -> None:
        """Given what was read, hand on what of it is the script's."""
        if self.ended:
            return
        data = self._kept + read
        if not self._begun:
            before, begin, data = data.partition(self._begin)
            if not begin:
                self._kept = before[-len(self._begin) :]
                return
            self._begun = True
        data, end, _ = data.partition(self._end)
        self.ended = bool(end)
        size = len(data) - (0 if end else self._unsure(data))
        self._kept = data[size:]
        if size:
            self._take(data[:size])

    def _unsure(self, data: bytes) -> int:
        """Return how many of the last bytes may be the beginning of the end's mark."""
        return next((size for size in range(len(self._end) - 1, 0, -1) if data.endswith(self._end[:size])), 0)


class _Session:
    """One command over the kept connection."""

    def __init__(
        self,
        target: Target,
        master: _Master,
        mark: str,
        command: str,
        stdin: bytes,
        said: Path,
        tap: _Tap | None = None,
    ) -> None:
        self.mark = mark
        self.output = bytearray()
        self.pid: int | None = None
        """The login shell's, which leads a process group, once it is ready."""
        self.status: int | None = None
        """The script's, once it has ended."""
        self._host = target.name
        self._stdin = stdin
        self._queue = memoryview(b"")
        self._keep = False
        self._errors = bytearray()
        self._looked = 0
        self._log = said
        # Without the master, ssh would connect by itself, unseen: it must not. No config: the master's was enough.
        options = {"ControlMaster": "no", "ControlPath": master.socket, "ProxyCommand": "false", "BatchMode": "yes"}
        start = [*_ssh(options), "-F", "/dev/null", "-T", "-E", str(said), "--", target.destination, command]
        self._process = _start(start, subprocess.PIPE)
        self._input = _pipe(self._process.stdin)
        self._tap = tap
        self._streams: dict[IO[bytes], Callable[[bytes], object]] = {
            _pipe(self._process.stdout): tap or self.output.extend,
            _pipe(self._process.stderr): self._errors.extend,
        }
        for stream in (self._input, *self._streams):
            os.set_blocking(stream.fileno(), False)

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return bool(self._streams)

    @property
    def begun(self) -> bool:
        """Whether the script itself began, and not only what was to give it the right to."""
        return f"{self.mark} begun\n".encode() in self._errors

    def go(self, keep: bool) -> None:
        """Let the script begin, which was not possible before; with `keep` its input does not end."""
        self._keep = keep
        self._queue = memoryview(f"{self.mark}\n".encode() + self._stdin)
        self._feed()

    def pump(self, enough: Callable[[], bool], deadline: float) -> None:
        """Give and take until it is enough, until nothing more can come, or until the deadline; raise TooMuch."""
        while not enough() and self._streams:
            left = deadline - time.monotonic()
            self._step(max(0.0, left))
            if left <= 0:
                return

    @property
    def is_whole(self) -> bool:
        """Whether the script has ended and all of its output was handed on."""
        return self.status is not None and self._tap is not None and self._tap.ended

    def flow(self, quiet: float) -> bool:
        """Give and take until all was handed on or nothing more can come; return False if it was quiet for so long."""
        while not self.is_whole and self._streams:
            if not self._step(quiet):
                return False
        return True

    def drain(self) -> None:
        """Take what is still on its way; what runs on in the background and says nothing is not waited for."""
        while self._streams and self._step(_END):
            pass

    def done(self) -> Done:
        """Return how the script ended, or what it wrote so far."""
        _, _, output = bytes(self.output).partition(f"{self.mark}\n".encode())
        text = re.sub(rb"\A.*?%b ready \d+\n" % self.mark.encode(), b"", bytes(self._errors), flags=re.DOTALL)
        for mark in (rb"%b begun\n", rb"%b ended \d+\n"):
            text = re.sub(mark % self.mark.encode(), b"", text, count=1)
        status = -1 if self.status is None else self.status
        return Done(status, output.decode(errors="surrogateescape"), text.decode(errors="replace"))

    def said(self) -> str:
        """Return what ssh itself said."""
        return _text(self._log)

    def beat(self) -> bool:
        """Give the script an empty line; return whether there is one to take it."""
        if not self._queue:
            try:
                os.write(self._input.fileno(), b"\n")
            except BlockingIOError:
                return True
            except (OSError, ValueError):
                return False
        return True

    def end_input(self) -> None:
        """End the script's input."""
        self._queue = memoryview(b"")
        self._keep = False
        self._feed()

    def kill(self) -> None:
        """End ssh, if it has not ended, and let go of everything; over there, nothing more is read or heard."""
        for stream in (self._input, *self._streams):
            with contextlib.suppress(OSError):
                stream.close()
        self._streams.clear()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._log.unlink(missing_ok=True)

    def _step(self, wait: float) -> bool:
        """Give and take what is possible within a time; return whether there was any."""
        with selectors.DefaultSelector() as selector:
            for stream in self._streams:
                selector.register(stream, selectors.EVENT_READ)
            if self._queue:
                selector.register(self._input, selectors.EVENT_WRITE)
            ready = [key.fileobj for key, _ in selector.select(wait)]
        for stream in list(self._streams):
            if stream in ready:
                self._take(stream)
        if self._input in ready:
            self._feed()
        return bool(ready)

    def _take(self, stream: IO[bytes]) -> None:
        try:
            read = os.read(stream.fileno(), 1 << 18)
        except BlockingIOError:
            return
        if read:
            self._streams[stream](read)
        else:
            del self._streams[stream]
            stream.close()
        if len(self.output) + len(self._errors) > _MOST:
            raise TooMuch(self._host, f"a command wrote more than {_MOST // 1_000_000} MB and was broken off")
        self._look()

    def _look(self) -> None:
        """Look for the marks in what is new."""
        start, self._looked = max(0, self._looked - 100), len(self._errors)
        for found in re.finditer(rb"%b (ready|ended) (\d+)\n" % self.mark.encode(), self._errors[start:]):
            if found[1] == b"ready":
                self.pid = int(found[2])
            else:
                self.status = int(found[2])

    def _feed(self) -> None:
        try:
            while self._queue:
                self._queue = self._queue[os.write(self._input.fileno(), self._queue[: 1 << 18]) :]
        except BlockingIOError:
            return
        except (OSError, ValueError):  # the script ended, or took no interest in the rest
            self._queue = memoryview(b"")
        if not self._keep:
            with contextlib.suppress(OSError):
                self._input.close()


def offered_key(target: Target) -> str:
    """Given a target, return the ssh host key that it shows now, as SHA256:... (ED25519), without believing it.

    ssh itself asks for it, on its own way there; only the keys of jump hosts have to be known. Raise Unreachable.
    """
    with tempfile.TemporaryDirectory(prefix="i12e-key-") as folder:
        known = Path(folder) / "known_hosts"
        options = {
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "accept-new",
            "HashKnownHosts": "no",
            "CheckHostIP": "no",
            "BatchMode": "yes",
            **_NO_LOGIN,
        }
        said = _greet(target, options, {})
        words = _text(known).split()
        if len(words) < 3:
            raise reason(target.name, said)
        kind = words[1].removeprefix("ssh-").removeprefix("sk-").partition("-")[0].upper()
        digest = hashlib.sha256(base64.b64decode(words[2])).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')} ({kind})"


def ask_key(target: Target, terminal: Terminal | None) -> None:
    """Given a target whose ssh host key is not known, ask once whether it is the right one, and have ssh note it.

    ssh writes it to the known_hosts file that it uses for this host, and only if the host still shows the same.
    Raise UnknownKey with what to do where nobody can be asked or the answer is no, Unreachable as ever.
    """
    offered = offered_key(target)
    why = f"its ssh host key is not known; it shows {offered}"
    if terminal is None:
        by_hand = shlex.join(["ssh", *target.options, target.destination])
        remedy = f"compare that with the host's console, then log in once by hand: {by_hand}"
        raise UnknownKey(target.name, why, remedy)
    terminal.say(f"{target.name} ({target.destination}): its ssh host key is not known here. It shows")
    terminal.say(f"  {offered}")
    terminal.say("The host tells its own on its console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    if terminal.ask("Is it the same? yes notes it [no]:").lower() not in ("y", "yes"):
        raise UnknownKey(target.name, f"{why}, and that was not accepted", "nothing was noted")
    said = _accept(target, offered.partition(" ")[0])
    if "Permanently added" not in said:
        raise UnknownKey(target.name, f"{why}, and ssh did not note it: {clean((said.splitlines() or [''])[-1])}")


def _accept(target: Target, fingerprint: str) -> str:
    """Have ssh note a host's key, of which it compares the fingerprint itself; return what it said."""
    with tempfile.TemporaryDirectory(prefix="i12e-key-") as folder:
        answer = Path(folder) / "answer"
        # a second question is another one, of a jump host: no
        answer.write_text(f"#!/bin/sh\nmkdir '{folder}/asked' 2>/dev/null && echo {fingerprint} || echo no\n")
        answer.chmod(0o700)
        environ = {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"}
        return _greet(target, {"StrictHostKeyChecking": "ask", "BatchMode": "no", **_NO_LOGIN}, environ)


def _greet(target: Target, options: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """Connect until the host has shown its key; return what ssh said."""
    command = [*_ssh({"ConnectTimeout": _CONNECT, "LogLevel": "INFO", **options}), *target.options]
    try:
        done = subprocess.run(
            [*command, "-T", "--", target.destination, "exit"],
            env={**_environ(), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOGIN,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused(target.name, f"no answer within {duration(_LOGIN)}") from None
    return done.stderr.decode(errors="replace")


# What a user's config may say that has no place here.
_PLAIN = {
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "PermitLocalCommand": "no",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
}
_NO_LOGIN = {"PreferredAuthentications": "none", "ControlMaster": "no", "ControlPath": "none", **_PLAIN}


def _ssh(options: Mapping[str, object]) -> list[str]:
    program = programs.which("ssh")
    if program is None:
        raise programs.Missing("ssh: not found: install OpenSSH's client (Debian: openssh-client)")
    return [program, *(f"-o{name}={_value(value)}" for name, value in options.items())]


def _value(value: object) -> str:
    """Return an option's value as ssh reads it: a path may have blanks, and % is the beginning of something."""
    return f'"{value}"'.replace("%", "%%") if isinstance(value, Path) else str(value)


def _environ() -> dict[str, str]:
    """Return what ssh runs in: it asks nothing, on no screen."""
    return {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}


def _start(command: Sequence[str], errors: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start an ssh, away from the terminal: Ctrl-C is ours, and a jump host's ssh can ask nothing there."""
    return subprocess.Popen(
        [_bytes(word) for word in command],
        env=_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        start_new_session=True,
    )


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Return a stream of a process that has it."""
    if stream is None:
        raise ValueError("no pipe")
    return stream


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a master and what it started itself, as a jump host's ssh."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            _pipe(stream).close()


def _last(session: _Session) -> str:
    words = [line for line in map(clean, session.done().complaint.splitlines()) if line]
    return f"its last word was: {words[-1]}" if words else "it had said nothing"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _private_folder() -> tuple[Path, int]:
    """Make a folder whose path is short enough for a socket's, locked while we live; remove what the killed left."""
    place = Path(tempfile.gettempdir())
    if len(os.fsencode(place)) > _SHORT:
        place = Path("/tmp")  # noqa: S108  # the folder in it is private
    for other in place.glob(f"{_PREFIX}*"):
        _remove_if_left(other)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return folder, handle


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        info = folder.lstat()
        if info.st_uid != os.getuid() or time.time() - info.st_mtime < _NEW:
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # in vain while its process lives, in whatever container
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


_open: weakref.WeakSet[Remote] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for remote in list(_open):
        if remote._process == os.getpid():  # noqa: SLF001  # a fork of ours has it too, and it is not the fork's
            remote.close()

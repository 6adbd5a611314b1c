"""One writing run at a time in an environment of a checkout.

The lock is a POSIX record lock on build/ENV/lock: it ends with the process, however that ends. The
file says who holds it, for the one who is kept waiting.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from i12e.files import private_folder

_SIZE = 512  # bytes of the lock file, padded with spaces


class Held(Exception):
    """Another run holds the lock; says who and since when."""


@dataclass
class Lock:
    """A lock that is held; release() or the end of the process gives it back. `waited`: another run had it first."""

    handle: int
    path: Path
    what: str
    waited: bool = False

    def release(self) -> None:
        """Give the lock back."""
        handle, self.handle = self.handle, -1  # the number of a closed file is soon another file's
        with contextlib.suppress(OSError):
            os.close(handle)

    @contextlib.contextmanager
    def paused(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Give the lock back until the block ends, then take it again, however long another run keeps it.

        `tell` is given who has it then. A block that raises leaves the lock with nobody.
        """
        self.release()
        yield
        try:
            taken = take(self.path, self.what)
        except Held as held:
            tell(f"{held}: waiting for it")
            taken = take(self.path, self.what, float("inf"))
        self.handle = taken.handle


def take(path: Path, what: str, wait: float = 0.0) -> Lock:
    """Given the lock's path, what the run does and how long to wait (seconds), return the lock.

    Raise Held if another run has it still after that time.
    """
    private_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    waited = False
    while not _try(handle):
        waited = True
        if time.monotonic() >= deadline:
            holder = describe(path)
            os.close(handle)
            raise Held(holder)
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
    _sign(handle, what)
    return Lock(handle, path, what, waited)


def describe(path: Path) -> str:
    """Given the lock's path, return in one line who holds it and since when, as far as the file tells."""
    try:
        for _ in range(20):  # the holder may be about to sign
            if path.read_bytes():
                break
            time.sleep(0.01)
        holder = json.loads(path.read_text())
        clock = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
        ago = duration(time.time() - holder["since"])
        return (
            f"another run is at work here: pid {holder['pid']} ({holder['what']}) "
            f"of {holder['user']}@{holder['host']}, since {clock} ({ago} ago)"
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another run is at work here"


def operator() -> str:
    """Return who this is, for others who are kept waiting or want to know: USER@HOST."""
    return f"{_user()}@{os.uname().nodename}"


def duration(seconds: float) -> str:
    """Given seconds, return them as a person says them: 4 s, 12 min, 3 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """Given how long ago something was, in seconds, return it in one unit: 40 s, 12 min, 5 h, 3 d."""
    if seconds < 0:
        return "in the future"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds(text: str) -> float:
    """Given a time such as 90, 90s, 5m or 1h, return seconds; raise ValueError if it is none."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    value = float(number) * unit
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _try(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # POSIX: a record is locked; anything else is a fault
            raise
        return False
    return True


def _sign(handle: int, what: str) -> None:
    holder = {
        "pid": os.getpid(),
        "what": what,
        "user": _user(),
        "host": os.uname().nodename,
        "since": time.time(),
    }
    text = json.dumps(holder).encode().ljust(_SIZE)
    if os.fstat(handle).st_size > len(text):  # truncating costs milliseconds on some file systems: hence the fixed size
        os.ftruncate(handle, 0)
    os.pwrite(handle, text, 0)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())

"""What files contain: each looked at once a run, and told by content.

A state is a short text: `b2-...` for a file's content, `absent`, `dir-...` for the names in a folder,
`unreadable`. A folder's path with a slash behind it stands for all that is in it, hidden files, kinds,
permissions to execute and targets of links too: what a tree on a host is made of (`all-...`). A file
whose size, mtime, ctime and inode are those of its last hashing is not hashed again. The stamp of a file
that changed within the clock's last ticks proves nothing (another write in the same tick would leave it
as it is), so it is not kept: the file is hashed again next time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Stamp = tuple[int, int, int, int]

ABSENT = "absent"
UNREADABLE = "unreadable"
_PRIVATE = 0o600
_LEFT_BY_EDITORS = ("~", ".orig", ".rej", ".bak", ".swp")
_TICK = 50_000_000  # ns; Linux stamps files by the timer tick, 10 ms at the most
_COARSE_TICK = 2_000_000_000  # ns; file systems that keep whole seconds
_INODE = (1 << 63) - 1  # overlay and network file systems use the bit above too, SQLite has no place for it


class Files:
    """The files of one checkout as one run sees them: a path keeps the state and the content of its first reading."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamps: dict[str, tuple[Stamp, str]] = {}
        self.new_stamps: set[str] = set()
        self.outputs: dict[str, str] = {}
        self.new_outputs: set[str] = set()
        self._prefix = f"{root}/"
        self._states: dict[str, str] = {}
        self._contents: dict[str, bytes] = {}
        self._names: dict[str, list[str]] = {}
        self._modes: dict[str, int] = {}
        self._recorders: list[set[str]] = []

    def state(self, path: str) -> str:
        """Given a path relative to the root, return its state."""
        known = self._states.get(path)
        if known is None:
            known = self._states[path] = self._look(path)
        return known

    def read(self, path: str) -> bytes:
        """Given a path, return its content and record it as an input; raise OSError if it cannot be read."""
        self.note(path)
        content = self._contents.get(path)
        if content is None:
            content = self._contents[path] = self._load(path)
        return content

    def exists(self, path: str) -> bool:
        """Given a path, tell whether there is a file, and record the look, also one in vain, as an input."""
        self.note(path)
        return self.state(path).startswith("b2-")

    def names(self, folder: str) -> list[str]:
        """Given a folder, return the names of the files in it, sorted, and record the listing as an input.

        Hidden files and what editors leave behind do not count.
        """
        self.note(folder)
        known = self._names.get(folder)
        if known is None:
            self._states[folder] = self._listing(folder)
            known = self._names[folder] = self._names_if(folder, os.DirEntry.is_file)
        return known

    def tree(self, folder: str) -> list[str]:
        """Given a folder, return the paths below it of all files, and record each folder's listing as an input."""
        found = list(self.names(folder))
        for sub in self._names_if(folder, os.DirEntry.is_dir):
            found += [f"{sub}/{name}" for name in self.tree(f"{folder}/{sub}")]
        return sorted(found)

    def note(self, path: str) -> None:
        """Given a path, record it as an input of what is being recorded now."""
        for recorder in self._recorders:
            recorder.add(path)

    @contextmanager
    def recording(self) -> Iterator[set[str]]:
        """Return a set that fills with the paths that are looked at until the block ends."""
        seen: set[str] = set()
        self._recorders.append(seen)
        try:
            yield seen
        finally:
            self._recorders = [other for other in self._recorders if other is not seen]  # remove() goes by content

    def is_output(self, path: str) -> bool:
        """Given a path that a task made, tell whether it is there as it was made, and private."""
        return self.state(path) == self.outputs.get(path, "") and self._is_private(path)

    def write(self, path: str, content: bytes) -> bool:
        """Given an output's path and content, put it there at once or not at all (0600, folders 0700).

        Return whether anything changed: a file that has the content already is left alone.
        """
        state = _digest(content)
        same = self._look(path) == state and self._is_private(path)
        if not same:
            replace(Path(self._prefix + path), content)
            self._contents.pop(path, None)
            self._states[path], self._modes[path] = state, _PRIVATE
        if self.outputs.get(path) != state:
            self.outputs[path] = state
            self.new_outputs.add(path)
        return not same

    def forget(self, path: str) -> None:
        """Given a path, forget what is known of it."""
        for memory in (self._states, self._contents):
            memory.pop(path, None)

    def _is_private(self, path: str) -> bool:
        return self._modes.get(path) == _PRIVATE

    def _look(self, path: str) -> str:
        try:
            if path.endswith("/"):
                return self._everything(path)
            info = os.stat(self._prefix + path)
            self._modes[path] = stat.S_IMODE(info.st_mode)
            if stat.S_ISDIR(info.st_mode):
                return self._listing(path)
            known = self.stamps.get(path)
            if known is not None and known[0] == _stamp(info):
                return known[1]
            self._load(path)
            return self._states[path]
        except (FileNotFoundError, NotADirectoryError):
            # A link to nowhere is there: whoever made it did not mean that nothing is.
            return UNREADABLE if os.path.islink(self._prefix + path) else ABSENT
        except OSError:
            return UNREADABLE

    def _load(self, path: str) -> bytes:
        with open(self._prefix + path, "rb") as file:
            info = os.fstat(file.fileno())
            now = time.time_ns()
            content = file.read()
        state = self._states[path] = _digest(content)
        if _settled(info, now) and _is_text(path):
            self.stamps[path] = (_stamp(info), state)
            self.new_stamps.add(path)
        return content

    def _listing(self, folder: str) -> str:
        try:
            names = sorted(entry.name + "/" * _ask(entry.is_dir) for entry in self._entries(folder))
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        return "dir-" + _digest(os.fsencode("\0".join(names)))[3:]

    def _everything(self, folder: str) -> str:
        found = []
        for name in sorted(os.listdir(self._prefix + folder)):
            path = f"{self._prefix}{folder}{name}"
            mode = os.lstat(path).st_mode
            link = os.readlink(path) if stat.S_ISLNK(mode) else ""
            found.append(f"{name}\0{stat.S_IFMT(mode)}\0{bool(mode & 0o111)}\0{link}")
        return "all-" + _digest(os.fsencode("\0\0".join(found)))[3:]

    def _names_if(self, folder: str, kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            return sorted(entry.name for entry in self._entries(folder) if _ask(functools.partial(kind, entry)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        with os.scandir(self._prefix + folder) as entries:
            return [entry for entry in entries if _counts(entry)]


def replace(path: Path, content: bytes, mode: int = _PRIVATE) -> None:
    """Given a path and content, put it there by a rename: a reader sees the old or the new file, whole, 0600.

    `mode` is another mode, for what is not private; the umask holds for it.
    """
    private_folder(path.parent)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)  # left by a run that was killed, perhaps with another mode
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "wb") as file:
        file.write(content)
    os.replace(new, path)


def create(path: Path, content: bytes, mode: int = _PRIVATE) -> bool:
    """Given a path and content, put it there, whole, unless something is there already; return whether that was done.

    It is on the disk when this returns: what is lost of a key is lost for ever. The folder has to be there.
    """
    new = part(path)
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return _link(new, path)
    finally:
        new.unlink(missing_ok=True)


def part(path: Path) -> Path:
    """Given a file that is to be written, return where it is written before it gets its name (see sweep)."""
    return path.with_name(f"{path.name}.{os.getpid()}.new")


def sweep(folder: Path, names: str = "*") -> None:
    """Given a folder and a pattern of names, remove what killed processes left there of files of such names."""
    for left in folder.glob(f"{names}.*.new"):
        if not lives(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)


def lives(pid: str) -> bool:
    """Given a process's number as text, tell whether there is such a process, of whoever."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    return True


def _link(new: Path, path: Path) -> bool:
    """Give a file its name, which no file may have: a rename would replace that one."""
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            return False
        os.rename(new, path)
    return True


def private_folder(path: Path) -> None:
    """Given a folder below a checkout's build/, make it and what is missing above it, 0700 each."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _digest(content: bytes) -> str:
    return "b2-" + hashlib.blake2b(content, digest_size=16).hexdigest()


def _stamp(info: os.stat_result) -> Stamp:
    return (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino & _INODE)


def _settled(info: os.stat_result, now: int) -> bool:
    tick = _COARSE_TICK if info.st_ctime_ns % 1_000_000_000 == 0 else _TICK
    return now - info.st_ctime_ns > tick  # ctime: no program can set it; in the future: never settled


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8, which the database cannot hold
        return False
    return True


def _ask(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself is neither file nor folder
        return False


def _counts(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return not name.startswith((".", "#")) and not name.endswith(_LEFT_BY_EDITORS) and name != "__pycache__"

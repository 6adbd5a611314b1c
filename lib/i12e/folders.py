"""A local folder as a store: also a mounted share, as far as that keeps what it says (probe tells).

A file is written under a name that begins with a dot, is brought to the disk, and gets its name by a link, which
never takes the place of another file. Whoever writes holds a lock (flock) on that file, which ends with the process:
so it is known which leftovers nobody writes any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

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
    small,
    try_out,
)

_LOCK = ".i12e-lock"
_PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.part")
_FOLDER, _FILE = 0o700, 0o600
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EAGAIN, errno.EINTR, errno.ENOTCONN)
_AHEAD = 8 << 20  # bytes of a file after which the system is to begin to bring them to the disk
_LOOK = 0.02  # seconds between two tries for the lock


class Folder:
    """A folder as a store; see stores.Store. `wait` is how long the lock of others is waited for, in seconds.

    The folder itself is made, by what writes, if the one above it is there: where a disk is not mounted, that is
    missing as a rule, and nothing is put into its mount point.
    """

    def __init__(self, name: str, root: str | Path, wait: float = 30.0) -> None:
        self.name = name
        self.place = str(root)
        self.shares = True
        self._root = Path(root)
        self._wait = wait

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """See Store."""
        path = self._path(key)
        with self._told(key):
            self._make_root()
            if os.path.lexists(path):
                raise Exists(self.name, f"{key} is there already")
        with self._written(path, chunks, key) as (part, size):
            self._link(part, path, key)
        return size

    def read(self, key: str, start: int = 0) -> Iterator[bytes]:
        """See Store."""
        with self._opened(key) as handle:
            os.lseek(handle, start, os.SEEK_SET)
            while block := self._block(handle, key):
                yield block

    def get(self, key: str) -> tuple[bytes, str]:
        """See Store."""
        with self._opened(key) as handle, self._told(key):
            if os.fstat(handle).st_size > SMALL:
                raise TooBig(self.name, f"{key} has more than {SMALL >> 20} MB")
            content = b"".join(iter(lambda: os.read(handle, BLOCK), b""))
        return content, _version(content)

    def list(self, prefix: str) -> Listing:
        """See Store."""
        with self._told():
            self._there()
            return sorted(self._entries(self._root, "", prefix), key=lambda entry: entry.key)

    def create(self, key: str, content: bytes) -> str:
        """See Store."""
        path = self._path(key)
        small(self.name, key, content)
        with self._told(key):
            self._make_root()
        with self._written(path, [content], key) as (part, _):
            self._link(part, path, key)
        return _version(content)

    def swap(self, key: str, content: bytes, version: str) -> str:
        """See Store."""
        path = self._path(key)
        small(self.name, key, content)
        self._compare(key, version)
        # Whoever is stopped while he has the lock holds all others up: so it is held for as short as can be.
        with self._told(key), self._written(path, [content], key) as (part, _):
            with self._alone():
                self._compare(key, version)
                os.rename(part, path)
            _to_disk(path.parent)
        return _version(content)

    def _compare(self, key: str, version: str) -> None:
        try:
            _, found = self.get(key)
        except Missing:
            found = ""
        if found != version:
            raise Changed(self.name, f"{key} is not what it was")

    def delete(self, key: str) -> None:
        """See Store."""
        path = self._path(key)
        with self._told(key):
            self._there()
            with self._alone():
                path.unlink(missing_ok=True)
            self._tidy(path.parent)

    def locked_until(self, key: str) -> float | None:
        """See Store: a folder keeps nothing against its owner."""
        with self._opened(key):
            return None

    def sweep(self, age: float) -> Keys:
        """See Store."""
        swept = []
        with self._told():
            self._there()
            oldest = self.now() - age
            for folder, _, names in os.walk(self._root, onerror=_raise):
                for name in names:
                    found = _PART.fullmatch(name)
                    if found and _abandoned(Path(folder, name), oldest) and not found["name"].startswith("."):
                        swept.append(Path(folder, found["name"]).relative_to(self._root).as_posix())
        return sorted(swept)

    def now(self) -> float:
        """See Store: when the file system says that a file was made."""
        with self._told():
            self._there()
            path = self._root / f"..now.{secrets.token_hex(8)}.part"
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE)
            try:
                return os.fstat(handle).st_mtime
            finally:
                os.close(handle)
                path.unlink(missing_ok=True)

    def probe(self) -> None:
        """See Store. A file system without links cannot share: there, two could give a file the same name."""
        with self._told():
            self._make_root()
        self.shares = try_out(self, secrets.token_hex(8)) and self._has_links()

    def close(self) -> None:
        """See Store."""

    def _path(self, key: str) -> Path:
        return self._root / checked(self.name, key)

    def _there(self) -> None:
        if not self._root.is_dir():
            remedy = "is its disk mounted? The first backup makes the folder if the one above it is there"
            raise NotThere(self.name, f"there is no folder {self.place}", remedy)

    def _make_root(self) -> None:
        if self._root.is_dir():
            return
        try:
            self._root.mkdir(mode=_FOLDER)
        except FileExistsError:
            self._there()  # made by another one meanwhile, or no folder
        except FileNotFoundError:
            why = f"there is no folder {self._root.parent} in which {self._root.name} could be made"
            raise NotThere(self.name, why, "mount its disk, or make the folder by hand") from None
        else:
            _to_disk(self._root.parent)

    @contextlib.contextmanager
    def _told(self, key: str = "") -> Iterator[None]:
        """Until the block ends, say what the system says as a StoreError."""
        try:
            yield
        except OSError as error:
            raise self._error(error, key) from None

    def _error(self, error: OSError, key: str) -> StoreError:
        what = f"{self.place}/{key}".rstrip("/")
        said = error.strerror or str(error)
        if error.errno in _FULL:
            return Full(self.name, f"{what}: {said}", "make room on its disk, or prune older backups")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return Refused(self.name, f"{what}: {said}", "it has to be ours to write in")
        return StoreError(self.name, f"{what}: {said}", "look at its disk", error.errno in _PASSING)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        path = self._path(key)
        with self._told(key):
            self._there()
            try:
                handle = os.open(self._inside(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError):
                raise Missing(self.name, f"{key} is not there") from None
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise Missing(self.name, f"{key} is not there: that is no file")
            except BaseException:
                os.close(handle)
                raise
        try:
            yield handle
        finally:
            os.close(handle)

    def _block(self, handle: int, key: str) -> bytes:
        with self._told(key):
            return os.read(handle, BLOCK)

    def _inside(self, path: Path) -> Path:
        """Return a path of which no folder is a link: no listing follows those, and they lead out of the root."""
        folder = path.parent
        while folder != self._root:
            if folder.is_symlink():
                raise StoreError(self.name, f"{folder} is a link", "put the folder itself there")
            folder = folder.parent
        return path

    @contextlib.contextmanager
    def _written(self, path: Path, chunks: Iterable[bytes], key: str) -> Iterator[tuple[Path, int]]:
        """Until the block ends, have the content on the disk beside the path; give where, and how many bytes.

        What the chunks raise is not the store's, so it is raised as it is.
        """
        with self._told(key):
            part, handle = self._part(path)
        try:
            size = begun = 0
            for chunk in chunks:
                with self._told(key):
                    _write(handle, chunk)
                size += len(chunk)
                if size - begun >= _AHEAD:
                    _begin_to_disk(handle, begun, size - begun)
                    begun = size
            with self._told(key):
                os.fsync(handle)
                yield part, size
        finally:
            with contextlib.suppress(OSError):  # has got its name, or is swept later
                part.unlink()
            os.close(handle)
            self._tidy(path.parent)

    def _part(self, path: Path) -> tuple[Path, int]:
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        while True:
            self._there()
            self._make_folders(self._inside(path).parent)
            with contextlib.suppress(FileNotFoundError):  # somebody has just removed the folder, which was empty
                handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE)
                break
        with contextlib.suppress(OSError):  # without locks, age alone tells what is abandoned
            fcntl.flock(handle, fcntl.LOCK_EX)
        return part, handle

    def _make_folders(self, folder: Path) -> None:
        if folder == self._root or folder.is_dir():
            return
        self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # the next try finds out
            folder.mkdir(mode=_FOLDER)
            _to_disk(folder.parent)

    def _link(self, part: Path, path: Path, key: str) -> None:
        """Give a file its name, which no other file may have."""
        try:
            os.link(part, path, follow_symlinks=False)
        except FileExistsError:
            raise Exists(self.name, f"{key} is there already") from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            with self._alone():
                if os.path.lexists(path):  # no links here: best effort, and probe() says that it cannot be shared
                    raise Exists(self.name, f"{key} is there already") from None
                os.rename(part, path)
        _to_disk(path.parent)

    def _has_links(self) -> bool:
        names = [self._root / f"..links.{secrets.token_hex(8)}.part" for _ in range(2)]
        with self._told():
            names[0].touch(_FILE)
            try:
                os.link(*names)
            except OSError:
                return False
            finally:
                for name in names:
                    name.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Until the block ends, be the only one who changes what is there; others are waited for."""
        self._there()
        handle = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE)
        try:
            until = time.monotonic() + self._wait
            while not _try(handle):
                if time.monotonic() >= until:
                    raise self._held(os.pread(handle, 200, 0))
                time.sleep(_LOOK)
            os.pwrite(handle, f"{f'pid {os.getpid()} on {socket.gethostname()}':<100.100}".encode(), 0)
            yield
        finally:
            os.close(handle)

    def _held(self, holder: bytes) -> StoreError:
        said = "".join(char for char in holder.decode(errors="replace") if char.isprintable()).strip()
        why = f"{said or 'another process'} holds {self.place}/{_LOCK} for {self._wait:.0f} s already"
        return StoreError(self.name, why, "if it is stopped (ps shows T), let it go on or end it", passing=True)

    def _entries(self, folder: Path, before: str, prefix: str) -> Iterator[Entry]:
        """Given a folder and how its keys begin, yield what is in it, and below."""
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except FileNotFoundError:
            if folder == self._root:
                raise
            return  # removed meanwhile, as it was empty
        for entry in entries:
            key = before + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from self._entries(folder / entry.name, f"{key}/", prefix)
            elif key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        yield Entry(key, info.st_size, info.st_mtime)

    def _tidy(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone
                return
            folder = folder.parent


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(handle: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]


def _begin_to_disk(handle: int, start: int, size: int) -> None:
    """Let the system begin to write what a file got, while more of it comes: its end is then on the disk sooner.

    So does Linux when it is told that these pages are not needed any more; else it would wait for some seconds.
    """
    with contextlib.suppress(AttributeError, OSError):  # no such call: only slower
        os.posix_fadvise(handle, start, size, os.POSIX_FADV_DONTNEED)


def _to_disk(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # file systems on which a folder has no such thing
            raise
    finally:
        os.close(handle)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _abandoned(part: Path, oldest: float) -> bool:
    """Given a file that was being written, remove it if that was begun before a time and nobody writes it; say so."""
    try:
        handle = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(handle).st_mtime >= oldest:
            return False
        with contextlib.suppress(OSError):  # without locks, age alone tells what is abandoned
            if not _try(handle):
                return False
        part.unlink(missing_ok=True)
    finally:
        os.close(handle)
    return True


def _raise(error: OSError) -> None:
    raise error

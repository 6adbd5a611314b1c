"""age: keys, and streams that are sealed to them. The one home of pyrage."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from i12e.secrets import Secret

_BLOCK = 1 << 20  # bytes that are handed on at once: the library writes 64 KB at a time


class NotOpened(Exception):
    """What was to be opened is sealed to none of the keys, or it is not what was sealed."""


def make() -> tuple[Secret, str]:
    """Return a new private key and its recipient."""
    from pyrage import x25519

    from i12e.secrets import Secret

    identity = x25519.Identity.generate()
    return Secret(str(identity)), str(identity.to_public())


def recipient_of(private: Secret) -> str:
    """Given a private key, return its recipient, "" if it is none."""
    from pyrage import IdentityError, x25519

    try:
        return str(x25519.Identity.from_str(private.reveal()).to_public())
    except IdentityError:
        return ""


def is_recipient(text: str) -> bool:
    """Given a text, tell whether it is an X25519 public key of age's."""
    from pyrage import RecipientError, x25519

    try:
        x25519.Recipient.from_str(text)
    except RecipientError:
        return False
    return True


def seal(source: Iterable[bytes], recipients: Iterable[str], take: Callable[[bytes], object]) -> None:
    """Given blocks, seal them as one stream to recipients and hand it to `take` in blocks of 1 MB.

    What the source or `take` raises is raised.
    """
    from pyrage import encrypt_io, x25519

    keys = [x25519.Recipient.from_str(each) for each in recipients]
    reader, writer = _Reader(source), _Writer(take)
    try:
        encrypt_io(io.BufferedReader(reader, _BLOCK), writer, keys)
    finally:
        _raise_first(reader, writer)
    writer.end()


def open_sealed(source: Iterable[bytes], identities: Iterable[Secret], take: Callable[[bytes], object]) -> None:
    """Given the blocks of a sealed stream and private keys, hand what was sealed to `take` in blocks of 1 MB.

    What has been handed over counts only when this returns: raise NotOpened if a later part is not what was sealed.
    """
    from pyrage import decrypt_io, x25519

    keys = [x25519.Identity.from_str(each.reveal()) for each in identities]
    reader, writer = _Reader(source), _Writer(take)
    buffered = io.BufferedReader(reader, _BLOCK)
    try:
        decrypt_io(buffered, writer, keys)
    except Exception as error:  # noqa: BLE001  # DecryptError, OSError, ValueError: by what is wrong, and by the library's version
        _raise_first(reader, writer)
        raise NotOpened(str(error) or type(error).__name__) from None
    finally:
        _raise_first(reader, writer)
    if buffered.read(1):
        raise NotOpened("there is more than what was sealed")
    writer.end()


def seal_small(content: bytes, recipients: Iterable[str]) -> bytes:
    """Given a small content, return it sealed."""
    found: list[bytes] = []
    seal([content], recipients, found.append)
    return b"".join(found)


def open_small(sealed: bytes, identities: Iterable[Secret]) -> bytes:
    """Given what was sealed by seal_small, return the content; raise NotOpened."""
    found: list[bytes] = []
    open_sealed([sealed], identities, found.append)
    return b"".join(found)


def _raise_first(*parts: _Reader | _Writer) -> None:
    """Raise what went wrong on our side: the library tells it as an error of its own, or as the end of the stream."""
    for part in parts:
        if part.error is not None:
            raise part.error


class _Reader(io.RawIOBase):
    """Blocks as a file. The library reads 8 KB at a time, so a buffer that is not Python's own code lies between."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self.error: BaseException | None = None
        self._blocks = iter(source)
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        if self.error is not None:
            raise self.error
        try:
            while not self._block:
                self._block = memoryview(next(self._blocks))
        except StopIteration:
            return 0
        except BaseException as error:
            self.error = error
            raise
        size = min(len(buffer), len(self._block))
        buffer[:size] = self._block[:size]
        self._block = self._block[size:]
        return size


class _Writer:
    """What the library writes, gathered to blocks."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self.error: BaseException | None = None
        self._take = take
        self._gathered: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= _BLOCK:
            self._hand_on()
        return len(data)

    def flush(self) -> None:
        pass

    def end(self) -> None:
        if self._gathered:
            self._hand_on()

    def _hand_on(self) -> None:
        if self.error is not None:
            raise self.error
        block = b"".join(self._gathered)
        self._gathered, self._size = [], 0
        try:
            self._take(block)
        except BaseException as error:
            self.error = error
            raise

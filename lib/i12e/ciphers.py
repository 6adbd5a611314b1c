"""The ciphers that k3s and Kubernetes encrypt with, to open what they closed: home of cryptography and PyNaCl.

Nothing of what is opened, and no key, is in an error.
"""

from __future__ import annotations

import hashlib

_GCM_NONCE, _GCM_TAG = 12, 16
_CBC_BLOCK = 16
_BOX_NONCE = 24


class Unopened(Exception):
    """A key does not open this: it is another one, or what was closed is damaged."""


def open_gcm(key: bytes, sealed: bytes, bound_to: bytes | None = None) -> bytes:
    """Given a key and a nonce with AES-GCM's output behind it, return what was closed; raise Unopened if it is not so.

    `bound_to` is what else has to be the same, as the place that the value is stored at.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(sealed) < _GCM_NONCE + _GCM_TAG:
        raise Unopened("shorter than any sealed value")
    try:
        return AESGCM(key).decrypt(sealed[:_GCM_NONCE], sealed[_GCM_NONCE:], bound_to)
    except (InvalidTag, ValueError):  # ValueError: a key of another length
        raise Unopened("AES-GCM does not open it") from None


def open_cbc(key: bytes, sealed: bytes) -> bytes:
    """Given a key and an IV with AES-CBC's output behind it, return what was closed; raise Unopened if it is not so.

    CBC has no authentication: a wrong key is told by the padding alone, which fits by chance once in 256 times.
    """
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(sealed) < 2 * _CBC_BLOCK or len(sealed) % _CBC_BLOCK:
        raise Unopened("of a size that AES-CBC does not make")
    try:
        opening = Cipher(algorithms.AES(key), modes.CBC(sealed[:_CBC_BLOCK])).decryptor()
        padded = opening.update(sealed[_CBC_BLOCK:]) + opening.finalize()
        strip = padding.PKCS7(8 * _CBC_BLOCK).unpadder()
        return bytes(strip.update(padded) + strip.finalize())
    except ValueError:
        raise Unopened("AES-CBC does not open it") from None


def open_box(key: bytes, sealed: bytes) -> bytes:
    """Given a key and a nonce with a secretbox behind it, return what was closed; raise Unopened if it is not so."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    if len(key) != SecretBox.KEY_SIZE or len(sealed) < _BOX_NONCE + SecretBox.MACBYTES:
        raise Unopened("of a size that secretbox does not make")
    try:
        return SecretBox(key).decrypt(sealed[_BOX_NONCE:], sealed[:_BOX_NONCE])
    except CryptoError:
        raise Unopened("secretbox does not open it") from None


def key_of_password(password: bytes, salt: bytes) -> bytes:
    """Given a password and a salt, return the AES key that k3s makes of them: PBKDF2, SHA-1, 4096 rounds, 32 bytes."""
    return hashlib.pbkdf2_hmac("sha1", password, salt, 4096, 32)

"""k3s's tokens, and the row of the datastore that the server token opens: the cluster's CAs and encryption keys.

Without its token a snapshot restores nothing, so a backup proves that its token opens its row. Formats: k3s
pkg/clientaccess/token.go (parseToken), pkg/util/token.go and pkg/cluster/encrypt.go.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any

from i12e import ciphers
from i12e.damaged import Damaged
from i12e.secrets import Secret

ROWS = "/bootstrap/"
"""What the names of all such rows begin with; after `k3s token rotate` there may be more than one for a while."""

_SECURE = "K10"
_HASH = 64  # digits of a CA's SHA-256
_SHORT = 12  # digits, in a row's name and in the annotation etcd.k3s.cattle.io/snapshot-token-hash
_KUBEADM = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_LONGEST_ROW = 8 << 20  # bytes; a real one has about 30 kB


class NoToken(Exception):
    """A text is no server token of k3s; says why, and nothing of the text."""


class WrongToken(Exception):
    """A token does not open a row: it is another cluster's, or one from before or after a rotation."""


def password(token: Secret) -> Secret:
    """Given a server token, short (a password) or full (K10HASH::USER:PASSWORD), return its password.

    White space around it does not count, as in k3s. Raise NoToken if it is none.
    """
    text = token.reveal().strip()
    if not text:
        raise NoToken("the token is empty")
    if not text.startswith(_SECURE):
        if _KUBEADM.fullmatch(text):
            raise NoToken("this is a bootstrap token for agents, not a server token")
        return Secret(text)
    ca, found, rest = text.removeprefix(_SECURE).partition("::")
    if found and ca and len(ca) != _HASH:
        raise NoToken("the CA's hash in the token is of another length")
    user = rest if found else ca
    if _KUBEADM.fullmatch(user):
        raise NoToken("this is a bootstrap token for agents, not a server token")
    _, _, word = user.partition(":")
    if not word:
        raise NoToken("the token begins with K10, but is not K10HASH::USER:PASSWORD")
    return Secret(word)


def hash12(token: Secret) -> str:
    """Given a server token, return the 12 digits that k3s knows it by, which are no secret; raise NoToken."""
    return hashlib.sha256(_bytes(password(token))).hexdigest()[:_SHORT]


def row_name(token: Secret) -> str:
    """Given a server token, return the name of the row that it opens; raise NoToken."""
    return ROWS + hash12(token)


def open_row(value: bytes, token: Secret) -> dict[str, Secret]:
    """Given a row's value and a token, return what is in it: by name (ServerCA, EncryptionConfig...) a file's content.

    Raise WrongToken if the token does not open it, Damaged if it is no such row, NoToken.
    """
    word = _bytes(password(token))
    salt, found, sealed = value.partition(b":")
    if not found or len(value) > _LONGEST_ROW:
        raise Damaged("the bootstrap row is not SALT:BASE64")
    try:
        raw = base64.b64decode(sealed, validate=True)
    except binascii.Error:
        raise Damaged("the bootstrap row is not SALT:BASE64") from None
    try:
        plain = ciphers.open_gcm(ciphers.key_of_password(word, salt), raw)
    except ciphers.Unopened:
        raise WrongToken("the token does not open the bootstrap row") from None
    return _files(plain)


def _files(plain: bytes) -> dict[str, Secret]:
    """Given the JSON of a row, return its files; whatever is wrong with it, no part of it is told."""
    wrong = Damaged("the bootstrap row opens, but does not hold what k3s writes")
    try:
        row: Any = json.loads(plain)
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(row, dict) or not row:
        raise wrong
    return {name: _content(file, wrong) for name, file in row.items()}


def _content(file: Any, wrong: Damaged) -> Secret:
    if not isinstance(file, dict) or not isinstance(file.get("Content", ""), str | None):
        raise wrong
    try:
        content = base64.b64decode(file.get("Content") or "", validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    return Secret(content.decode("utf-8", "surrogateescape"))


def _bytes(secret: Secret) -> bytes:
    return secret.reveal().encode("utf-8", "surrogateescape")

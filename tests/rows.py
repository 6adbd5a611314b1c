"""Bootstrap rows as k3s writes them (pkg/cluster/encrypt.go, pkg/bootstrap), and an encryption config, for tests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "correct-horse-battery-staple"
FULL_TOKEN = f"K10{'ab' * 32}::server:{TOKEN}"


def sealed(plain: bytes, password: str) -> bytes:
    """Given a content and a password, return a row's value."""
    salt = os.urandom(8).hex().encode()
    key = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 4096, 32)
    nonce = os.urandom(12)
    return salt + b":" + base64.b64encode(nonce + AESGCM(key).encrypt(nonce, plain, None))


def row(files: Mapping[str, str], password: str = TOKEN) -> bytes:
    """Given files by the name that k3s gives them, return a row's value."""
    made = {
        name: {"Timestamp": "2026-01-02T03:04:05.678Z", "Content": base64.b64encode(text.encode()).decode()}
        for name, text in files.items()
    }
    return sealed(json.dumps(made).encode() + b"\n", password)


def encryption_config(provider: str, keys: Mapping[str, bytes]) -> str:
    """Given a provider and its keys by name, return the EncryptionConfig of a row."""
    listed = [{"name": name, "secret": base64.b64encode(key).decode()} for name, key in keys.items()]
    providers = [{provider: {"keys": listed}}, {"identity": {}}]
    return json.dumps(
        {
            "kind": "EncryptionConfiguration",
            "apiVersion": "apiserver.config.k8s.io/v1",
            "resources": [{"resources": ["secrets"], "providers": providers}],
        }
    )

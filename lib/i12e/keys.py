"""age keys: where sops looks for them, a new one, and what a public one looks like.

A private key is a Secret from the moment that it exists; it is shown to nobody but by the one who
has it written down.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from i12e import age, files, programs
from i12e.fields import Wrong
from i12e.secrets import Secret

KEY_FILE = "SOPS_AGE_KEY_FILE"
_PRIVATE = re.compile(r"^\s*(AGE-SECRET-KEY-1[0-9A-Z]+)\s*$", re.MULTILINE)
_PLUGIN = re.compile(r"age1[a-z0-9+._-]+1[02-9ac-hj-np-z]{6,}")


@dataclass(frozen=True)
class Pair:
    """A key: the private half opens what is sealed to the public one, the recipient."""

    private: Secret
    recipient: str


def make() -> Pair:
    """Return a new key."""
    return Pair(*age.make())


def key_file(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Given the process's environment, return the file in which sops looks for keys: there a new one belongs.

    Source: sops, age/keysource.go (loadIdentities, getUserConfigDir), and Go's os.UserConfigDir.
    """
    if environ.get(KEY_FILE):
        return Path(environ[KEY_FILE])
    config = environ.get("XDG_CONFIG_HOME")
    home = Path(environ.get("HOME") or Path.home())
    default = home / "Library/Application Support" if platform == "darwin" else home / ".config"
    return (Path(config) if config else default) / "sops/age/keys.txt"


def found(environ: Mapping[str, str]) -> list[str]:
    """Given the process's environment, return the recipients of the keys that sops would use, first the first.

    Only of plain X25519 keys: the public half of others cannot be told from the private one.
    """
    known = [age.recipient_of(Secret(key)) for text in _texts(environ) for key in _PRIVATE.findall(text)]
    return list(dict.fromkeys(filter(None, known)))


def _texts(environ: Mapping[str, str]) -> Iterator[str]:
    yield environ.get("SOPS_AGE_KEY", "")
    yield _read(key_file(environ))
    program, *arguments = shlex.split(environ.get("SOPS_AGE_KEY_CMD", "")) or [""]
    found = programs.which(program) if program else None
    if found:
        yield programs.run(found, *arguments, environ=environ).output
    yield _read(key_file({name: value for name, value in environ.items() if name != KEY_FILE}))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def save(pair: Pair, path: Path) -> bool:
    """Given a key and a file, put it there (0600, folders that are made 0700); return False if a file is there."""
    files.private_folder(path.parent)
    text = f"# made by i12e for sops; keep a copy in a safe place\n# public key: {pair.recipient}\n"
    return files.create(path, f"{text}{pair.private.reveal()}\n".encode())


def recipient(text: str) -> str:
    """Return an age public key; raise Wrong if it is none."""
    if "SECRET-KEY" in text.upper():
        rule = "is a PRIVATE key, which now stands in your shell's history: make a new pair"
        raise Wrong(rule, "give the public one: age1...", show=False)
    if _PLUGIN.fullmatch(text):
        return text
    if not age.is_recipient(text):
        raise Wrong("is not an age public key", "like age1..., 62 characters")
    return text

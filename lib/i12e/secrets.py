"""Secrets: sops files, opened by the sops program, each once a run, in memory.

A value is a `Secret`: it shows as `***` wherever it is printed, and reveal() alone gives it. The
example's values are known by their hashes (`demo_values`), so that nothing real is ever made with them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from i12e import programs
from i12e.errors import Problem, UserError, did_you_mean
from i12e.files import UNREADABLE, Files
from i12e.paths import LAB, LAB_MACHINES, Paths

DEMO_KEY = "secrets/example/demo-key-PUBLIC.txt"
LAB_KEY = f"{LAB_MACHINES}/age-key.txt"
DEMO_HASHES = "secrets/example/demo-hashes.txt"
MASK = "***"
_no_masks: ContextVar[bool] = ContextVar("no_masks", default=False)


class MaskedError(TypeError):
    """Text was made of a secret without reveal(): a config would have got the mask for the value."""


class NoSuchFile(UserError):
    """A sops file that was asked for is not there: whoever asked may have misspelt its name."""


@contextmanager
def no_masks() -> Iterator[None]:
    """Until the block ends, making text of a secret without reveal() raises MaskedError."""
    token = _no_masks.set(True)
    try:
        yield
    finally:
        _no_masks.reset(token)


class Secret:
    """A value that is not shown."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value; the only way to it."""
        return self._value

    def __str__(self) -> str:
        return _shown(MASK)

    def __repr__(self) -> str:
        return _shown(MASK)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: that would write its value")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


def _shown(text: str) -> str:
    if _no_masks.get():
        raise MaskedError("a secret can only be output whole, or go through quote, shell, yaml or embed")
    return text


class Group(Mapping[str, Any]):
    """The secrets of one file, or of a mapping in it: `group.key` or `group["key"]`."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place = place
        self._values = {key: _wrap(f"{place}.{key}", value) for key, value in values.items()}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __getattr__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise AttributeError(f"{self.place} has no {key}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return _shown(f"<secrets {self.place}: {', '.join(self._values)}>")


class Vault:
    """The sops files of one environment; a file is opened when a name of it is first asked for."""

    def __init__(self, paths: Paths, files: Files) -> None:
        self._paths = paths
        self._files = files
        self._groups: dict[str, Group | UserError] = {}

    def group(self, name: str) -> Group:
        """Given a file's name without its ending, return its secrets; raise UserError if it cannot be opened."""
        path = self.path(name)
        self._files.note(path)
        if name not in self._groups:
            self._groups[name] = self._open(name, path)
        found = self._groups[name]
        if isinstance(found, UserError):
            raise found
        return found

    def path(self, name: str) -> str:
        """Given a file's name without its ending, return its path."""
        return f"{self._paths.secrets}/{name}.yaml"

    def names(self) -> list[str]:
        """Return the names of the sops files that are there, without their endings."""
        return [name[:-5] for name in self._files.names(self._paths.secrets) if name.endswith(".yaml")]

    def problems(self) -> list[Problem]:
        """Open every file that is there; return what is wrong with any of them."""
        found: list[Problem] = []
        for name in self.names():
            try:
                self.group(name)
            except UserError as error:
                found.extend(error.problems)
        return found

    def redact(self, text: str) -> str:
        """Given a text, return it with every value of the opened files masked (values of 4 characters or more)."""
        for spelling in sorted(self._spellings(), key=len, reverse=True):  # the whole before what is a part of it
            text = text.replace(spelling, MASK)
        return text

    def values(self, inputs: Collection[str]) -> list[bytes]:
        """Given a host's inputs, return the values of the secret files among them.

        Only those that are long enough to be found in a text: 8 characters or more. Files that other hosts
        opened do not count: what is wrong with a host is not to depend on who is rendered with it.
        """
        opened = ((self.path(name), group) for name, group in self._groups.items())
        groups = [group for path, group in opened if path in inputs and isinstance(group, Group)]
        found = {secret.reveal().encode() for group in groups for _, secret in flat(group)}
        return sorted(value for value in found if len(value) >= 8)

    def _spellings(self) -> set[str]:
        """Return the values of the opened files as messages spell them: plain, by lines, escaped."""
        groups = [group for group in self._groups.values() if isinstance(group, Group)]
        values = {secret.reveal() for group in groups for _, secret in flat(group)}
        plain = values | {line.strip() for value in values for line in value.splitlines()}
        escaped = {form(text)[1:-1] for text in plain for form in (json.dumps, _raw_json, repr)}
        return {text for text in plain | escaped if len(text) >= 4}

    def _open(self, name: str, path: str) -> Group | UserError:
        if self._files.state(path) == UNREADABLE:
            return UserError(Problem(path, None, None, "cannot be read", "see who may: ls -l"))
        if not self._files.exists(path):
            guess = did_you_mean(name, self.names())
            remedy = guess or f"make it: ./doit secrets_edit --name {name}"
            return NoSuchFile(Problem(path, None, None, "there is no such secret file", remedy))
        content = self._files.read(path)
        if b"\nsops:" not in b"\n" + content and b'"sops"' not in content:
            if b"ENC[" in content:
                return UserError(Problem(path, None, None, "is damaged: its seal is missing", f"git checkout {path}"))
            remedy = f"seal it before it is committed: sops encrypt --in-place {path}"
            return UserError(Problem(path, None, None, "is not encrypted", remedy))
        return self._decrypt(name, path)

    def _decrypt(self, name: str, path: str) -> Group | UserError:
        try:
            done = programs.run(
                programs.sops(),
                *("--disable-version-check", "decrypt", "--input-type", "yaml", "--output-type", "json", "/dev/stdin"),
                environ=sops_environ(self._paths),
                stdin=self._files.read(path).decode(errors="replace"),  # the very bytes that were hashed
            )
        except programs.Missing as error:
            return UserError(Problem(path, None, None, "cannot be opened", str(error)))
        if done.status:
            return UserError(complaint(path, done, self._files.read(path)))
        group = Group(name, json.loads(done.output))
        demo = [] if self._paths.is_example else self._demo_problems(path, group)
        return UserError(demo) if demo else group

    def _demo_problems(self, path: str, group: Group) -> list[Problem]:
        """Given the secrets of a cluster that is no example, return what of them everybody has."""
        found: list[Problem] = []
        if set(_recipients(self._files.read(path))) & demo_recipients(self._paths.root):
            remedy = f"take it out of .sops.yaml, then: sops updatekeys {path}, and change the values"
            found.append(Problem(path, None, None, "is sealed to the demo key, which everybody has", remedy))
        known = demo_values(self._paths.root)
        remedy = "make one of your own: openssl rand -hex 32"
        for name, secret in flat(group):
            if fingerprint(secret) in known:
                found.append(Problem(path, None, None, f"{name} is the example's value, which everybody has", remedy))
        return found


class _Other(Vault, ABC):
    """A vault with other values in the same places."""

    def __init__(self, vault: Vault, paths: Paths, files: Files) -> None:
        super().__init__(paths, files)
        self._vault = vault

    def group(self, name: str) -> Group:
        """Given a file's name without its ending, return its secrets changed; raise UserError as the vault does."""
        found: Group = self._changed(name, self._vault.group(name))
        return found

    @abstractmethod
    def change(self, place: str, value: str) -> str:
        """Given a secret's place (`cluster.server_token`) and its value, return what stands in for it."""

    def _changed(self, place: str, value: Any) -> Any:
        if isinstance(value, Group):
            return Group(value.place, {key: self._changed(f"{place}.{key}", item) for key, item in value.items()})
        if isinstance(value, list):
            return [self._changed(f"{place}.{index}", item) for index, item in enumerate(value)]
        return None if value is None else Secret(self.change(place, value.reveal()))


class Disguised(_Other):
    """A vault with other values in the same places: a text that it changes was made of them.

    Each letter and digit is another one of its kind, so that a template that takes a value apart goes on working.
    """

    def change(self, place: str, value: str) -> str:
        """Given a secret's place and its value, return another value of its kind."""
        rotated = value.translate(_ROTATED)
        return rotated if rotated != value else f"{value}x"


class Masked(_Other):
    """A vault with the name of each secret in place of its value, for texts that a person looks at.

    The name is plain text in YAML, so that a config which is rendered with it is one all the same.
    """

    def change(self, place: str, value: str) -> str:
        """Given a secret's place and its value, return its name."""
        return f"<secret {place}>"


_ROTATED = str.maketrans(
    string.ascii_letters + string.digits,
    "".join(kind[1:] + kind[0] for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits)),
)


def _wrap(place: str, value: Any) -> Any:
    if isinstance(value, Secret | Group):
        return value
    if isinstance(value, Mapping):
        return Group(place, value)
    if isinstance(value, list):
        return [_wrap(f"{place}.{index}", item) for index, item in enumerate(value)]
    if value is None:
        return None  # nothing to hide, and to be told apart from the word null
    return Secret(value if isinstance(value, str) else json.dumps(value))


def _raw_json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def sops_environ(paths: Paths) -> dict[str, str]:
    """Return the environment for sops: the user's own keys, and the demo key for an example's files.

    For the lab's files it is the key that ./doit lab_up has made for this checkout.
    """
    environ = dict(os.environ)
    key = paths.root / (LAB_KEY if paths.env == LAB else DEMO_KEY)
    if (paths.is_example or paths.env == LAB) and key.exists():
        own = environ.get("SOPS_AGE_KEY", "")
        environ["SOPS_AGE_KEY"] = "\n".join(filter(None, (own, key.read_text())))
    return environ


# sops's exit statuses, from its package codes
NO_KEY = 128
_CANNOT_DECRYPT = 25
_MAC_MISMATCH = 51


def complaint(path: str, done: programs.Done, content: bytes) -> Problem:
    """Given a sops file's path and content, and how sops ended that was to open it, return what is wrong with it."""
    if done.status == NO_KEY:
        sealed = ", ".join(_recipients(content)) or "keys that are not age's"
        return Problem(
            path,
            None,
            None,
            f"no age key here opens it: it is sealed to {sealed}",
            _KEY_REMEDY,
        )
    if done.status in (_CANNOT_DECRYPT, _MAC_MISMATCH):
        return Problem(
            path,
            None,
            None,
            "is damaged: its content does not match its seal",
            f"git checkout {path}",
        )
    line = re.search(r"line (\d+)", done.complaint)
    said = done.complaint.strip().splitlines()[-1:] or [f"exit status {done.status}"]
    return Problem(
        path,
        int(line[1]) if line else None,
        None,
        f"sops cannot read it: {said[0]}",
        f"git checkout {path}",
    )


_KEY_REMEDY = "put that key where sops looks: SOPS_AGE_KEY_FILE, or ~/.config/sops/age/keys.txt"


def _recipients(content: bytes) -> list[str]:
    return re.findall(r"recipient\"?:\s*\"?(age1[0-9a-z]+)", content.decode(errors="replace"))


def demo_recipients(root: Path) -> frozenset[str]:
    """Given a checkout, return the public keys whose private ones everybody has."""
    key = root / DEMO_KEY
    return frozenset(re.findall(r"age1[0-9a-z]+", key.read_text()) if key.exists() else ())


def demo_values(root: Path) -> frozenset[str]:
    """Given a checkout, return the hashes of all values of the example's secrets (see fingerprint)."""
    place = root / DEMO_HASHES
    lines = place.read_text().splitlines() if place.exists() else []
    return frozenset(line.split()[0] for line in lines if line and not line.startswith("#"))


def fingerprint(secret: Secret) -> str:
    """Given a secret, return the hash by which a demo value is known."""
    return hashlib.sha256(b"i12e demo value\0" + secret.reveal().encode()).hexdigest()


def flat(group: Group) -> Iterator[tuple[str, Secret]]:
    """Given a group, return every secret in it with its dotted name."""
    yield from _flat("", group)


def _flat(place: str, value: Any) -> Iterator[tuple[str, Secret]]:
    if isinstance(value, Secret):
        yield place, value
    elif isinstance(value, Group):
        for key in value:
            yield from _flat(f"{place}.{key}".lstrip("."), value[key])
    elif value is not None:
        for index, item in enumerate(value):
            yield from _flat(f"{place}.{index}", item)

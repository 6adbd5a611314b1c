"""What a config says of a host, held against the tree that the real Ignition made of it.

All that is looked at is what a config can say of a root: files, directories, links, units with their drop-ins and
presets, users with their keys and groups; and that nothing else was made. Kernel arguments, disks and what is
beneath them are of other stages of Ignition.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ignition
from ignition import PRESET, UNITS, Tree

Config = dict[str, Any]

# Ignition 2.14 sets the special bits, and loses most of them as it changes the owner.
_PERMISSIONS = 0o777
_IDS_OF_PEOPLE = 1000


@dataclass(frozen=True)
class Thing:
    """What is to be at a path. What is None may be anything."""

    kind: str
    """file, directory, link, or hard link."""
    mode: int | None = None
    owner: tuple[int, int] | None = (0, 0)
    content: bytes = b""
    """A file's."""
    target: str = ""
    """A link's."""


_PARENT = Thing("directory", 0o755)


def differences(config: Config, tree: Tree) -> list[str]:
    """Given a config that merges no other and the tree that it made, return a line for all that is not as it says."""
    accounts = Accounts(tree)
    wanted = {tree.real(path): thing for path, thing in _things(config, accounts)}
    places = [*wanted, *([PRESET] if tree.exists(PRESET) else [])]
    above = {parent: _PARENT for path in places for parent in _parents(path) if parent not in tree.before}
    expected = above | wanted
    extra = [f"{path}: the config does not say so" for path in tree.made() if path not in expected]
    wrong = [f"{path}: {line}" for path, thing in expected.items() for line in _of_thing(thing, path, tree)]
    return sorted([*extra, *wrong, *_of_presets(config, tree), *_of_accounts(config, accounts)])


def _parents(path: str) -> Iterator[str]:
    while (path := posixpath.dirname(path)) != "/":
        yield path


# --- files, directories, links


def _things(config: Config, accounts: Accounts) -> Iterator[tuple[str, Thing]]:
    """Yield what is to be at each path; of two at one path the later one holds."""
    yield from _of_homes(config, accounts)
    storage = config.get("storage", {})
    for node in storage.get("directories", ()):
        yield node["path"], Thing("directory", node.get("mode", 0o755) & _PERMISSIONS, accounts.owner(node))
    for node in storage.get("files", ()):
        parts = [node.get("contents", {}), *node.get("append", ())]
        content = b"".join(ignition.content(part) for part in parts)
        yield node["path"], Thing("file", node.get("mode", 0o644) & _PERMISSIONS, accounts.owner(node), content)
    for node in storage.get("links", ()):
        if node.get("hard"):
            yield node["path"], Thing("hard link", owner=None, target=node["target"])
        else:
            yield node["path"], Thing("link", owner=accounts.owner(node), target=node["target"])
    yield from _of_units(config)


def _of_units(config: Config) -> Iterator[tuple[str, Thing]]:
    for unit in config.get("systemd", {}).get("units", ()):
        place = f"{UNITS}/{unit['name']}"
        if unit.get("contents"):
            yield place, Thing("file", 0o644, content=_utf8(unit["contents"]))
        if unit.get("mask"):
            yield place, Thing("link", target="/dev/null")
        for dropin in unit.get("dropins", ()):
            if dropin.get("contents") is not None:
                yield f"{place}.d/{dropin['name']}", Thing("file", 0o644, content=_utf8(dropin["contents"]))


def _of_homes(config: Config, accounts: Accounts) -> Iterator[tuple[str, Thing]]:
    """Yield the homes of those who are new, and the keys of those who have some."""
    for user in config.get("passwd", {}).get("users", ()):
        account = accounts.users.get(user["name"])
        if account is None:
            continue  # which is right where it should not exist, and told elsewhere where it should
        owner = (account.uid, account.gid)
        if user["name"] not in ("core", "root") and not user.get("noCreateHome"):
            yield account.home, Thing("directory", None, owner)
        if user.get("sshAuthorizedKeys"):
            keys = "\n".join(user["sshAuthorizedKeys"])
            ended = keys if keys.endswith("\n") else f"{keys}\n"
            for folder in (".ssh", ".ssh/authorized_keys.d"):
                yield f"{account.home}/{folder}", Thing("directory", 0o700, owner)
            yield f"{account.home}/.ssh/authorized_keys.d/ignition", Thing("file", 0o600, owner, _utf8(ended))


def _of_thing(thing: Thing, path: str, tree: Tree) -> Iterator[str]:
    if not tree.exists(path):
        yield f"is not there, the config says {thing.kind}"
        return
    place = tree.place(path)
    kind = "link" if place.is_symlink() else "directory" if place.is_dir() else "file"
    if kind != thing.kind and thing.kind != "hard link":
        yield f"is a {kind}, the config says {thing.kind}"
        return
    if thing.kind == "file" and place.read_bytes() != thing.content:
        yield f"holds {place.read_bytes()!r}, the config says {thing.content!r}"
    if thing.kind == "link" and str(place.readlink()) != _clean(thing.target):
        yield f"leads to {place.readlink()}, the config says {thing.target}"
    if thing.kind == "hard link" and not os.path.samestat(place.lstat(), tree.place(thing.target).lstat()):
        yield f"is not the same file as {thing.target}"
    if thing.mode is not None and tree.mode(path) & _PERMISSIONS != thing.mode:
        yield f"has mode {tree.mode(path):04o}, the config says {thing.mode:04o}"
    if thing.owner is not None and tree.owner(path) != thing.owner:
        yield f"is of {tree.owner(path)}, the config says {thing.owner}"


def _clean(target: str) -> str:
    # Ignition writes it without what is too much in it
    return posixpath.normpath("/" + target.lstrip("/") if target.startswith("/") else target)


# --- presets


def _of_presets(config: Config, tree: Tree) -> Iterator[str]:
    for word, value in (("enable", True), ("disable", False)):
        units = config.get("systemd", {}).get("units", ())
        said = {unit["name"] for unit in units if unit.get("enabled") is value}
        if tree.preset(word) != said:
            yield f"presets {word} {sorted(tree.preset(word))}, the config says {sorted(said)}"


# --- users and groups


@dataclass(frozen=True)
class Account:
    """A line of /etc/passwd, and the user's password."""

    uid: int
    gid: int
    gecos: str
    home: str
    shell: str
    password: str


class Accounts:
    """The users and groups of a tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @cached_property
    def users(self) -> dict[str, Account]:
        """All users, by name."""
        passwords = self._table("/etc/shadow")
        return {
            name: Account(int(uid), int(gid), gecos, home, shell, passwords[name][0])
            for name, (_, uid, gid, gecos, home, shell) in self._table("/etc/passwd").items()
        }

    @cached_property
    def groups(self) -> dict[str, tuple[int, str, set[str]]]:
        """The id, the password and the members of all groups, by name."""
        passwords = self._table("/etc/gshadow")
        return {
            name: (int(gid), passwords[name][0], set(filter(None, members.split(","))))
            for name, (_, gid, members) in self._table("/etc/group").items()
        }

    def owner(self, node: Config) -> tuple[int, int]:
        """Given a file, directory or link of a config, return the ids of its user and its group."""
        user, group = node.get("user", {}), node.get("group", {})
        uid = self.users[user["name"]].uid if user.get("name") else user.get("id", 0)
        gid = self.groups[group["name"]][0] if group.get("name") else group.get("id", 0)
        return uid, gid

    def _table(self, path: str) -> dict[str, list[str]]:
        lines = (line.split(":") for line in self._tree.text(path).splitlines())
        return {name: columns for name, *columns in lines}


def _of_accounts(config: Config, accounts: Accounts) -> Iterator[str]:
    for user in config.get("passwd", {}).get("users", ()):
        yield from (f"user {user['name']}: {line}" for line in _of_user(user, accounts))
    for group in config.get("passwd", {}).get("groups", ()):
        yield from (f"group {group['name']}: {line}" for line in _of_group(group, accounts))


def _of_user(user: Config, accounts: Accounts) -> Iterator[str]:
    account = accounts.users.get(user["name"])
    if (account is not None) != (user.get("shouldExist") is not False):
        yield "is there" if account else "is not there"
    if account is None:
        return
    has = {"uid": account.uid, "gecos": account.gecos, "homeDir": account.home, "shell": account.shell}
    yield from _of_fields(user, has | {"passwordHash": account.password})
    if user.get("system") and user.get("uid") is None and account.uid >= _IDS_OF_PEOPLE:
        yield f"is of the system, and its id is {account.uid}"
    if user.get("primaryGroup") and accounts.groups[user["primaryGroup"]][0] != account.gid:
        yield f"is of the group {account.gid}, the config says {user['primaryGroup']}"
    member = {name for name, (_, _, members) in accounts.groups.items() if user["name"] in members}
    if user.get("groups") and member != set(user["groups"]):
        yield f"is in {sorted(member)}, the config says {user['groups']}"


def _of_group(group: Config, accounts: Accounts) -> Iterator[str]:
    found = accounts.groups.get(group["name"])
    if (found is not None) != (group.get("shouldExist") is not False):
        yield "is there" if found else "is not there"
    if found:
        yield from _of_fields(group, {"gid": found[0], "passwordHash": found[1]})


def _of_fields(said: Config, has: Config) -> Iterator[str]:
    for name, value in has.items():
        # to useradd nothing is the same as an empty text, which leaves what is there
        if said.get(name) not in (None, "", value):
            yield f"has the {name} {value!r}, the config says {said[name]!r}"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

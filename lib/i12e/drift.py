"""What is really on a host, against its Ignition config: a script that looks, and a comparison of what it saw.

The script is for root on the host, prints facts and changes nothing; what it prints of a file that not everybody may
read is a hash. It is one shell function that reads nothing from its standard input, so it can be given as an argument
or, as it may be long, to `sh -s`. Names are known to both sides by their number, so that none is ever parsed.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from i12e import changes, diffs, guard, masks, render
from i12e.errors import Problem, UserError

UNITS = "/etc/systemd/system"
_CONTROL = "/etc/systemd/system.control"
_SETTINGS = "/etc/rancher/k3s/config.yaml.d"
_MANIFESTS = "/var/lib/rancher/k3s/server/manifests"
# What the gate writes at each start of k3s: docs/hold-and-permit.md.
_OF_THE_GATE = ("90-i12e.yaml", "90-i12e.yaml.new")
# Those that every system has: groups and homes of theirs are not all the config's.
_OF_THE_SYSTEM = ("core", "root")
_PERMISSIONS = 0o777
_SPECIAL = 0o7000
_LIMIT = 65536  # bytes of a file that everybody may read, up to which its lines are compared
_KINDS = {"8": "file", "4": "directory", "a": "link"}

Config = Mapping[str, Any]
Item = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One thing on a host that is not as its config says."""

    kind: str
    """file, directory, link, unit, user, group, kernel, or other."""
    name: str
    what: str
    """`missing`, `mode 0755, not 0644`: what is there, then what the config says."""
    lines: tuple[str, ...] = ()
    """Of a text that everybody may read: what the config says (`- `), and what is there (`+ `)."""
    unknown: bool = False
    """It cannot be told whether it is as the config says."""


@dataclass(frozen=True)
class Node:
    """What is to be at a path. What is None may be anything."""

    path: str
    label: tuple[str, str]
    """The kind and the name by which a person knows it."""
    kind: str
    """file, directory, link, hard link, or no file: where nothing but a link may be."""
    mode: int | None = None
    user: str | int | None = None
    group: str | int | None = None
    content: bytes | None = None
    """A file's, where the config has it."""
    hash: tuple[str, str] | None = None
    """A file's, where it is fetched: sha256 or sha512, and the sum."""
    tail: bytes | None = None
    """What is appended to a file that was there before."""
    target: str = ""
    why: str = ""
    """Why the content cannot be compared."""

    @property
    def public(self) -> bool:
        """Tell whether everybody is to be able to read it."""
        return self.kind == "file" and bool((0o644 if self.mode is None else self.mode) & 0o004)


@dataclass(frozen=True)
class Folder:
    """A folder that is the config's, and what in it is to be there."""

    path: str
    kind: str
    pattern: str
    """Of the shell: of which files it is told that they are too much."""
    known: frozenset[str]
    name: Callable[[str], str]
    """By which name a person knows a file of it."""


@dataclass(frozen=True)
class Wanted:
    """All that a config says of a host and that can be compared, each thing by its number."""

    nodes: tuple[Node, ...]
    folders: tuple[Folder, ...]
    units: tuple[Item, ...]
    users: tuple[Item, ...]
    groups: tuple[Item, ...]
    arguments: tuple[tuple[str, bool], ...]
    """The kernel's, and whether each is to be there."""
    beyond: tuple[tuple[str, str], ...] = field(default=())
    """What the config says and is not compared, with the reason."""


# --- what the config says


def wanted(config: Config) -> Wanted:
    """Given a config, return what is to be on its host."""
    nodes = {node.path: node for node in _nodes(config)}
    units = tuple(config.get("systemd", {}).get("units", ()))
    for unit in units:
        path = f"{UNITS}/{_name(unit['name'])}"
        if path not in nodes and unit["name"] not in guard.K3S:
            nodes[path] = Node(path, ("unit", _name(unit["name"])), "no file")
    passwd, kernel = config.get("passwd", {}), config.get("kernelArguments", {})
    return Wanted(
        tuple(nodes.values()),
        tuple(_folders(units, nodes)),
        units,
        tuple(passwd.get("users", ())),
        tuple(passwd.get("groups", ())),
        (
            *((word, True) for word in kernel.get("shouldExist") or ()),
            *((word, False) for word in kernel.get("shouldNotExist") or ()),
        ),
        tuple(_beyond(config)),
    )


def _beyond(config: Config) -> Iterator[tuple[str, str]]:
    base = config.get("ignition", {}).get("config", {}) or {}
    if base.get("merge") or base.get("replace"):
        yield "ignition.config", "a config that it merges is not known here"
    for key in ("disks", "raid", "filesystems", "luks"):
        if config.get("storage", {}).get(key):
            yield f"storage.{key}", "disks are not compared"


def _nodes(config: Config) -> Iterator[Node]:
    """Yield what is to be at each path; of two at one path the later one holds."""
    storage = config.get("storage", {})
    for item in storage.get("directories") or ():
        path = _name(item["path"])
        stated = item.get("overwrite") or item.get("mode") is not None
        mode = item.get("mode", 0o755 if item.get("overwrite") else None)
        owner = _owner(item, stated=bool(item.get("overwrite")))
        yield Node(path, ("directory", path), "directory", mode if stated else None, *owner)
    for item in storage.get("files") or ():
        yield _file(item)
    for item in storage.get("links") or ():
        path = _name(item["path"])
        kind = "hard link" if item.get("hard") else "link"
        owner = (None, None) if item.get("hard") else _owner(item, stated=True)
        yield Node(path, ("link", path), kind, None, *owner, target=_name(item.get("target") or ""))
    for item in config.get("systemd", {}).get("units", ()):
        yield from _unit_nodes(item)


def _file(item: Item) -> Node:
    """Given a file of a config, return it; one without contents is whatever was there before."""
    path = _name(item["path"])
    contents, appended = item.get("contents") or {}, item.get("append") or []
    set_ = bool(contents.get("source")) or bool(item.get("overwrite"))
    mode = item.get("mode", 0o644 if set_ else None)
    node = Node(path, ("file", path), "file", mode, *_owner(item, stated=set_))
    parts = [_content(part) for part in appended]
    first = _content(contents) if contents.get("source") else b""
    if any(part is None for part in parts):
        return _with(node, why="what is appended to it is fetched from elsewhere")
    tail = b"".join(part for part in parts if part is not None)
    if not set_:
        return _with(node, tail=tail) if tail else node
    if first is not None:
        return _with(node, content=first + tail)
    sum_ = _sum(contents)
    if sum_ and not tail:
        return _with(node, hash=sum_)
    return _with(node, why="it is fetched, and the config has no hash of what it is to be")


def _with(node: Node, **more: Any) -> Node:
    return Node(**{**vars(node), **more})


def _unit_nodes(unit: Item) -> Iterator[Node]:
    name = _name(unit["name"])
    place = f"{UNITS}/{name}"
    if unit.get("contents"):
        yield Node(place, ("unit", name), "file", 0o644, 0, 0, _bytes(unit["contents"]))
    if unit.get("mask"):
        yield Node(place, ("unit", name), "link", None, target="/dev/null")
    for dropin in unit.get("dropins") or ():
        if dropin.get("contents") is not None:
            known = f"{name}.d/{_name(dropin['name'])}"
            yield Node(f"{UNITS}/{known}", ("unit", known), "file", 0o644, 0, 0, _bytes(dropin["contents"]))


def _folders(units: Iterable[Item], nodes: Mapping[str, Node]) -> Iterator[Folder]:
    def known(folder: str, more: Iterable[str] = ()) -> frozenset[str]:
        return frozenset(posixpath.basename(path) for path in nodes if posixpath.dirname(path) == folder) | {*more}

    for unit in units:
        name = _name(unit["name"])
        for place in (UNITS, _CONTROL):
            folder = f"{place}/{name}.d"
            yield Folder(folder, "unit", "*.conf", known(folder), _below(folder if place != UNITS else f"{name}.d"))
    yield Folder(_SETTINGS, "file", "*", known(_SETTINGS, _OF_THE_GATE), _below(_SETTINGS))
    yield Folder(_MANIFESTS, "file", "i12e-*", known(_MANIFESTS), _below(_MANIFESTS))


def _below(folder: str) -> Callable[[str], str]:
    return lambda name: f"{folder}/{name}"


def _owner(item: Item, stated: bool) -> tuple[str | int | None, str | int | None]:
    """Given a file, directory or link, return its user and its group: names or ids, None where nothing is said."""
    said = [item.get(kind) or {} for kind in ("user", "group")]
    user, group = (one.get("name") or one.get("id", 0 if stated else None) for one in said)
    return user, group


def _content(resource: Item) -> bytes | None:
    """Given what a config says of a content, return it; None if it is fetched from elsewhere."""
    source = resource.get("source") or "data:,"
    return render.content(source, resource.get("compression") or "") if source.startswith("data:") else None


def _sum(resource: Item) -> tuple[str, str] | None:
    kind, _, sum_ = str((resource.get("verification") or {}).get("hash") or "").partition("-")
    return (kind, sum_.lower()) if kind in ("sha256", "sha512") and sum_ else None


def _bytes(text: str) -> bytes:
    return _name(text).encode()


def _name(text: str) -> str:
    # Go reads half of a surrogate pair as U+FFFD
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- the script

_SCRIPT = """\
drift() {
LC_ALL=C
export LC_ALL
root=${I12E_ROOT:-}
b64() { base64 -w 0 && echo; }
accounts=$(if [ "$root" ]; then cat "$root/etc/passwd"; else getent passwd; fi | cut -d : -f 1,3-)
groups=$(if [ "$root" ]; then cat "$root/etc/group"; else getent group; fi | cut -d : -f 1,3-)
# node NUMBER PATH HOW ...: what is at a path
node() {
    facts=$(stat -c '%f %u %g %s %d:%i' -- "$root$2" 2>/dev/null) || facts=none
    echo "node $1 $facts"
    case $facts in
    a*) printf 'link %s ' "$1" && readlink -n -- "$root$2" | b64 ;;
    8*) content "$@" ;;
    esac
}
# content NUMBER PATH HOW ...: the hash of a file; the file itself where HOW is sha256, its hash is not the one that
# is given, and everybody may read it
content() {
    case $3 in
    sha*) found=$("$3"sum <"$root$2") ;;
    tail) found=$(tail -c "$4" -- "$root$2" | sha256sum) ;;
    *) return ;;
    esac
    found=${found%% *}
    echo "hash $1 ${found:-failed}"
    size=${facts#* * * }
    case ${facts%% *} in
    ???[4567cdef])
        if [ "$3" = sha256 ] && [ "${4-}" ] && [ "$found" != "$4" ] && [ "${size%% *}" -le LIMIT ]; then
            printf 'text %s ' "$1" && b64 <"$root$2"
        fi
        ;;
    esac
}
# twin NUMBER PATH: which file it is
twin() { echo "twin $1 $(stat -c %d:%i -- "$root$2" 2>/dev/null || echo none)"; }
# entry NUMBER FILE: what is in a folder
entry() {
    if [ -e "$2" ] || [ -L "$2" ]; then printf 'entry %s ' "$1" && printf %s "${2##*/}" | b64; fi
}
unit() {
    state=$(systemctl ${root:+--root="$root"} is-enabled -- "$2" 2>/dev/null | head -n 1)
    echo "unit $1 ${state:-none}"
}
# password NUMBER NAME DATABASE: the hash of what is in the place of a password
password() {
    if [ "$root" ]; then cat "$root/etc/$3"; else getent "$3" "$2"; fi |
        while IFS=: read -r name word _; do
            if [ "$name" = "$2" ]; then
                word=$(printf %s "$word" | sha256sum)
                echo "$3 $1 ${word%% *}"
                break
            fi
        done
}
# keys NUMBER NAME: the ssh keys of a user; of what stands before a key the hash
keys() {
    home=$(printf '%s\\n' "$accounts" | while IFS=: read -r name _ _ _ home _; do
        if [ "$name" = "$2" ]; then
            printf %s "$home"
            break
        fi
    done)
    if [ ! "$home" ]; then return; fi
    for file in "$root$home/.ssh/authorized_keys" "$root$home/.ssh/authorized_keys2" \\
        "$root$home/.ssh/authorized_keys.d"/*; do
        if [ -f "$file" ]; then key_file "$1" "$file"; fi
    done
}
key_file() {
    printf 'keys %s %s ' "$1" "$(stat -L -c %f -- "$2")" && printf %s "${2#"$root$home/.ssh/"}" | b64
    while IFS= read -r line || [ "$line" ]; do
        key=$(printf '%s\\n' "$line" | sed -En 's/.*((ssh|ecdsa|sk)-[A-Za-z0-9@.-]*[[:space:]]+AAAA.*)/\\1/p')
        if [ "$key" ]; then before=${line%"$key"}; else before=$line; fi
        case $before in
        \\#* | '') if [ "$before" ] || [ ! "$key" ]; then continue; fi ;;
        esac
        before=$(printf %s "$before" | sed 's/[[:space:]]*$//' | sha256sum)
        printf 'key %s %s ' "$1" "${before%% *}" && printf %s "$key" | b64
    done <"$2"
}
# argument NUMBER WORD: whether the kernel was started with it
argument() {
    if [ ! -r "$root/proc/cmdline" ]; then return; fi
    case " $(cat "$root/proc/cmdline") " in
    *" $2 "*) echo "argument $1 yes" ;;
    *) echo "argument $1 no" ;;
    esac
}
"""
_END = """\
printf 'passwd 0 ' && printf '%s\\n' "$accounts" | b64
printf 'group 0 ' && printf '%s\\n' "$groups" | b64
echo end
}
drift </dev/null
"""


def script(config: Config) -> str:
    """Given a config, return the script that prints what is really on its host; root runs it with a POSIX sh."""
    return _script(wanted(config))


def _script(what: Wanted) -> str:
    calls = "\n".join(_calls(what)) + "\n"
    return _SCRIPT.replace("LIMIT", str(_LIMIT)) + f"echo {_mark(calls)}\n" + calls + _END


def _mark(calls: str) -> str:
    return f"i12e-drift-1 {hashlib.sha256(calls.encode()).hexdigest()[:16]}"


def _calls(what: Wanted) -> Iterator[str]:
    for number, node in enumerate(what.nodes):
        yield shlex.join(("node", str(number), node.path, *_how(node)))
        if node.kind == "hard link":
            yield shlex.join(("twin", str(number), node.target))
    for number, folder in enumerate(what.folders):
        files = f'"$root"{shlex.quote(folder.path)}'
        patterns = ("*", ".[!.]*", "..?*") if folder.pattern == "*" else (folder.pattern,)
        found = " ".join(f"{files}/{pattern}" for pattern in patterns)
        yield f'for file in {found}; do entry {number} "$file"; done'
    yield from (shlex.join(("unit", str(number), _name(unit["name"]))) for number, unit in enumerate(what.units))
    for number, user in enumerate(what.users):
        yield shlex.join(("keys", str(number), _name(user["name"])))
        if user.get("passwordHash"):
            yield shlex.join(("password", str(number), _name(user["name"]), "shadow"))
    for number, group in enumerate(what.groups):
        if group.get("passwordHash"):
            yield shlex.join(("password", str(number), _name(group["name"]), "gshadow"))
    yield from (shlex.join(("argument", str(number), _name(word))) for number, (word, _) in enumerate(what.arguments))


def _how(node: Node) -> tuple[str, ...]:
    if node.content is not None:
        # without its hash, a file that not everybody may read is never brought along
        return ("sha256", hashlib.sha256(node.content).hexdigest()) if node.public else ("sha256",)
    if node.hash:
        return (f"{node.hash[0]}",)
    return ("tail", str(len(node.tail))) if node.tail is not None else ("none",)


# --- what the script saw


@dataclass(frozen=True)
class _Account:
    name: str
    uid: str
    gid: str
    gecos: str
    home: str
    shell: str


class _Seen:
    """What the script printed."""

    def __init__(self, what: Wanted, output: str) -> None:
        self._facts: dict[tuple[str, int], list[list[str]]] = {}
        lines = output.splitlines()
        mark = _mark("\n".join(_calls(what)) + "\n")
        begin = lines.index(mark) if mark in lines else -1
        if begin < 0 or "end" not in lines[begin:]:
            said = "what the host says of itself is of another config, or not whole"
            raise UserError(Problem("", None, None, said, "ask it again"))
        for line in lines[begin + 1 : lines.index("end", begin)]:
            word, number, *rest = line.split(" ")
            self._facts.setdefault((word, int(number)), []).append(rest)

    def all(self, word: str, number: int) -> list[list[str]]:
        """Return all lines of a kind about a thing."""
        return self._facts.get((word, number), [])

    def first(self, word: str, number: int) -> list[str] | None:
        """Return the first line of a kind about a thing, None if there is none."""
        found = self.all(word, number)
        return found[0] if found else None

    @cached_property
    def accounts(self) -> dict[str, _Account]:
        """All users; of two of one name the first counts."""
        rows = [row for row in self._table("passwd") if len(row) == 6]
        return {row[0]: _Account(*row) for row in reversed(rows)}

    @cached_property
    def gids(self) -> dict[str, str]:
        """The ids of all groups."""
        return {row[0]: row[1] for row in reversed(self._table("group")) if len(row) == 3}

    def member_of(self, user: str) -> set[str]:
        """Given a user, return the groups that name it as their member."""
        return {row[0] for row in self._table("group") if len(row) == 3 and user in row[2].split(",")}

    def _table(self, word: str) -> list[list[str]]:
        found = self.first(word, 0)
        return [line.split(":") for line in _text(found[0]).splitlines()] if found else []


def _raw(encoded: str) -> bytes:
    return base64.b64decode(encoded)


def _text(encoded: str) -> str:
    return _raw(encoded).decode("utf-8", "replace")


# --- the comparison


def compare(config: Config, output: str, redact: Callable[[str], str] = str) -> list[Difference]:
    """Given a config and what its script printed on the host, return what is not as the config says.

    `redact` masks the values of our secrets in a text. Raise UserError if that is not what this config's script
    prints, whole. What cannot be told is in the list too, as `unknown`.
    """
    what = wanted(config)
    seen = _Seen(what, output)
    found = [
        *(one for number, node in enumerate(what.nodes) for one in _of_node(number, node, seen)),
        *(one for number, folder in enumerate(what.folders) for one in _of_folder(number, folder, seen)),
        *(one for number, unit in enumerate(what.units) for one in _of_unit(number, unit, seen)),
        *(one for number, user in enumerate(what.users) for one in _of_user(number, user, seen)),
        *(one for number, group in enumerate(what.groups) for one in _of_group(number, group, seen)),
        *(one for number, (word, on) in enumerate(what.arguments) for one in _of_argument(number, word, on, seen)),
        *(Difference("other", name, f"cannot be compared: {why}", unknown=True) for name, why in what.beyond),
    ]
    return [_redacted(difference, redact) for difference in dict.fromkeys(found)]


def _redacted(difference: Difference, redact: Callable[[str], str]) -> Difference:
    name, what = redact(difference.name), redact(difference.what)
    lines = tuple(redact(line) for line in difference.lines)
    return Difference(difference.kind, name, what, lines, difference.unknown)


def _of_node(number: int, node: Node, seen: _Seen) -> Iterator[Difference]:
    facts = seen.first("node", number)
    here = facts if facts and facts != ["none"] else None
    if node.kind == "no file":
        if here and here[0].startswith("8"):
            yield Difference(*node.label, f"has a file of its own in {UNITS}, the config has none")
        return
    if here is None:
        yield Difference(*node.label, "is not masked" if _is_mask(node) else "missing")
        return
    kind = _KINDS.get(here[0][0], "special file") if len(here[0]) == 4 else "special file"
    link = seen.first("link", number)
    target = _raw(link[0]).decode("utf-8", "replace") if link else ""
    if node.label[0] == "unit" and kind == "link" and target == "/dev/null" and not _is_mask(node):
        yield Difference(*node.label, "is masked")
    elif node.kind == "hard link":
        yield from _of_hard_link(number, node, here, seen)
    elif kind != node.kind:
        found = f"a link to {target}" if kind == "link" else f"a {kind}"
        yield Difference(*node.label, "is not masked" if _is_mask(node) else f"is {found}, not a {node.kind}")
    else:
        yield from _of_attributes(node, here, seen)
        if kind == "link" and _clean(target) != _clean(node.target):
            yield Difference(*node.label, f"leads to {target}, not to {node.target}")
        if kind == "file":
            yield from _of_content(number, node, int(here[3]), seen)


def _is_mask(node: Node) -> bool:
    return node.label[0] == "unit" and node.kind == "link"


def _of_hard_link(number: int, node: Node, here: list[str], seen: _Seen) -> Iterator[Difference]:
    twin = seen.first("twin", number)
    if twin != [here[4]]:
        yield Difference(*node.label, f"is not the same file as {node.target}")


def _of_attributes(node: Node, here: list[str], seen: _Seen) -> Iterator[Difference]:
    mode = int(here[0], 16) & 0o7777
    if node.mode is not None and node.kind != "link":
        # Ignition 2.14 loses special bits; that some are there which nobody asked for is told
        more = mode & _SPECIAL & ~node.mode
        if (mode ^ node.mode) & _PERMISSIONS or more:
            yield Difference(*node.label, f"mode {mode:04o}, not {node.mode:04o}")
    tables = {"owner": {account.name: account.uid for account in seen.accounts.values()}, "group": seen.gids}
    for word, said, has in (("owner", node.user, here[1]), ("group", node.group, here[2])):
        ids = tables[word]
        if said is None:
            continue
        wants = ids.get(said) if isinstance(said, str) else str(said)
        if wants != has:
            name = next((name for name, number in ids.items() if number == has), has)
            shown = said if isinstance(said, str) else next((name for name, id_ in ids.items() if id_ == wants), said)
            yield Difference(*node.label, f"{word} {name}, not {shown}")


def _of_content(number: int, node: Node, size: int, seen: _Seen) -> Iterator[Difference]:
    if node.why:
        yield Difference(*node.label, f"its content cannot be compared: {node.why}", unknown=True)
        return
    wants = _wanted_hash(node)
    found = seen.first("hash", number)
    if wants is None or found == [wants]:
        return
    if found is None or found == ["failed"]:
        yield Difference(*node.label, "its content cannot be read", unknown=True)
        return
    if node.tail is not None:
        yield Difference(*node.label, "does not end with what the config appends")
        return
    sizes = f"{size} bytes, not {len(node.content)}" if node.content is not None else f"{size} bytes, another hash"
    text = seen.first("text", number)
    lines: tuple[str, ...] = ()
    if text and node.content is not None and node.public:
        lines = tuple(diffs.of(node.content, _raw(text[0]), None, closed=False).lines)
    yield Difference(*node.label, f"content differs ({sizes})", lines)


def _wanted_hash(node: Node) -> str | None:
    if node.hash:
        return node.hash[1]
    content = node.content if node.content is not None else node.tail
    return hashlib.sha256(content).hexdigest() if content is not None else None


def _clean(target: str) -> str:
    # some releases of Ignition write it without what is too much in it
    return posixpath.normpath("/" + target.lstrip("/") if target.startswith("/") else target)


def _of_folder(number: int, folder: Folder, seen: _Seen) -> Iterator[Difference]:
    names = (_text(row[0]) for row in seen.all("entry", number))
    yield from (Difference(folder.kind, folder.name(name), "too much") for name in names if name not in folder.known)


def _of_unit(number: int, unit: Item, seen: _Seen) -> Iterator[Difference]:
    name = _name(unit["name"])
    row = seen.first("unit", number)
    state = row[0] if row else "none"
    enabled = unit.get("enabled")
    if unit.get("mask"):
        return
    if state.startswith("masked"):
        yield Difference("unit", name, "is masked")
    elif enabled is True and state in ("none", "not-found") and not unit.get("contents"):
        yield Difference("unit", name, "missing")
    elif enabled is True and state in ("disabled", "linked", "linked-runtime") and "@." not in name:
        yield Difference("unit", name, "is disabled, not enabled")
    elif enabled is False and state.startswith("enabled"):
        yield Difference("unit", name, "is enabled, not disabled")


# --- users and groups


def _of_user(number: int, user: Item, seen: _Seen) -> Iterator[Difference]:
    label = ("user", _name(user["name"]))
    account = seen.accounts.get(label[1])
    if user.get("shouldExist") is False:
        if account:
            yield Difference(*label, "is there, and the config removes it")
        return
    if account is None:
        yield Difference(*label, "missing")
        return
    fields = {"uid": account.uid, "gecos": account.gecos, "homeDir": account.home, "shell": account.shell}
    for key, has in fields.items():
        # to useradd nothing is the same as an empty text, which leaves what is there
        if user.get(key) not in (None, "") and str(user[key]) != has:
            yield Difference(*label, f"{_WORDS[key]} {has}, not {user[key]}")
    primary = user.get("primaryGroup")
    if primary and seen.gids.get(primary) != account.gid:
        name = next((name for name, gid in seen.gids.items() if gid == account.gid), account.gid)
        yield Difference(*label, f"group {name}, not {primary}")
    yield from _of_membership(user, label, seen)
    yield from _of_password(user, label, seen.first("shadow", number))
    yield from _of_keys(number, user, label, seen)


_WORDS = {"uid": "uid", "gecos": "full name", "homeDir": "home", "shell": "shell", "gid": "gid"}


def _of_membership(user: Item, label: tuple[str, str], seen: _Seen) -> Iterator[Difference]:
    has, said = seen.member_of(label[1]), set(user.get("groups") or ())
    yield from (Difference(*label, f"not in the group {name}") for name in sorted(said - has))
    if label[1] not in _OF_THE_SYSTEM:
        yield from (Difference(*label, f"in the group {name}") for name in sorted(has - said))


def _of_password(item: Item, label: tuple[str, str], row: list[str] | None) -> Iterator[Difference]:
    said = item.get("passwordHash")
    if said and row != [hashlib.sha256(_bytes(said)).hexdigest()]:
        yield Difference(*label, "another password")


@dataclass(frozen=True)
class _Key:
    """What counts of a line of authorized_keys: the key, and by its hash what stands before it."""

    before: str
    blob: str


def _of_keys(number: int, user: Item, label: tuple[str, str], seen: _Seen) -> Iterator[Difference]:
    lines = [line for key in user.get("sshAuthorizedKeys") or () for line in _name(key).split("\n")]
    said = {_key_of_line(line): line for line in lines if line.strip() and not line.startswith("#")}
    has = [(_Key(before, _blob(_text(key))), _text(key)) for before, key in seen.all("key", number)]
    blobs = {key.blob for key in said if key.blob}
    for key, line in said.items():
        if key not in {one for one, _ in has}:
            yield Difference(*label, f"ssh key missing: {changes.ssh_key(line)}")
    for key, line in has:
        if key in said:
            continue
        shown = changes.ssh_key(line) if line else "a line that is no key"
        yield Difference(
            *label, f"ssh key with other options: {shown}" if key.blob in blobs else f"extra ssh key: {shown}"
        )
    for row in seen.all("keys", number):
        if int(row[0], 16) & 0o022:
            yield Difference(*label, f".ssh/{_text(row[1])} can be written by others")


_KEY = re.compile(r".*((?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]*\s+AAAA.*)", re.DOTALL)


def _key_of_line(line: str) -> _Key:
    found = _KEY.match(line)
    before = line[: found.start(1)] if found else line
    return _Key(hashlib.sha256(before.rstrip(" \t\r\v\f").encode()).hexdigest(), _blob(found[1]) if found else "")


def _blob(key: str) -> str:
    words = key.split(None, 2)
    return words[1] if len(words) > 1 else ""


def _of_group(number: int, group: Item, seen: _Seen) -> Iterator[Difference]:
    label = ("group", _name(group["name"]))
    gid = seen.gids.get(label[1])
    if group.get("shouldExist") is False:
        if gid is not None:
            yield Difference(*label, "is there, and the config removes it")
        return
    if gid is None:
        yield Difference(*label, "missing")
        return
    if group.get("gid") is not None and str(group["gid"]) != gid:
        yield Difference(*label, f"gid {gid}, not {group['gid']}")
    yield from _of_password(group, label, seen.first("gshadow", number))


def _of_argument(number: int, word: str, on: bool, seen: _Seen) -> Iterator[Difference]:
    row = seen.first("argument", number)
    if row == ["no" if on else "yes"]:
        said = "missing" if on else "is there, and the config removes it"
        yield Difference("kernel", masks.unknown(word), said)


# --- for a person


def text(differences: Sequence[Difference], width: int = 120, most: int = 20) -> list[str]:
    """Given differences, return lines for a person, none longer than `width`, at most `most` for one content."""
    name_width = min(max((len(masks.printable(one.name)) for one in differences), default=0), 44)
    found: list[str] = []
    for one in differences:
        found.append(f"{one.kind:<10} {masks.printable(one.name):<{name_width}}  {masks.printable(one.what)}")
        shown = one.lines if len(one.lines) <= most + 1 else one.lines[:most]
        found += [f"{'':11}{masks.printable(line)}".rstrip() for line in shown]
        if len(shown) < len(one.lines):
            found.append(f"{'':11}... {len(one.lines) - len(shown)} more lines")
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in found]


def as_json(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    """Given differences, return them for a JSON document."""
    return [{**vars(one), "lines": list(one.lines)} for one in differences]

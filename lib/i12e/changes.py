"""What a new Ignition config changes of an old one, told for a person: files, units, users and settings, not JSON.

Everything that the two say differently is told, if only by its path. What is secret is told to have changed and
not shown: of the new config by the same config with masks in place of secrets, of the old one, whose secrets
nobody here knows, by showing no more than what is certainly none (see masks).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from i12e import diffs, masks, render, rules, yamlfile
from i12e.diffs import Told
from i12e.secrets import MASK

K3S_CONFIG = "/etc/rancher/k3s/config.yaml"
K3S_CONF = "/etc/i12e/k3s.conf"

_SECRET_FLAGS = frozenset(
    (
        *("token", "t", "agent-token", "datastore-endpoint", "vpn-auth"),
        *("etcd-s3-access-key", "etcd-s3-secret-key", "etcd-s3-session-token"),
    )
)
# Settings of k3s that hold no secret: those of an old config are shown. Of any other key nobody knows.
_OPEN_FLAGS = (rules.SERVER_FLAGS | rules.AGENT_FLAGS) - _SECRET_FLAGS
# Keys of Ignition's spec whose text is no secret, where they are told by their path.
_OPEN_KEYS = frozenset(
    (
        *("version", "device", "devices", "path", "label", "name", "format", "type", "level", "guid", "typeGuid"),
        *("uuid", "mountOptions", "options", "openOptions", "target", "hash", "compression", "thumbprint", "url"),
        *("source", "gecos", "homeDir", "shell", "primaryGroup"),
    )
)
_LISTS = (
    *(("storage", kind) for kind in ("files", "directories", "links")),
    *(("systemd", "units"), ("passwd", "users"), ("passwd", "groups")),
)

_HIDDEN = "(secret)"

Config = Mapping[str, Any]
Item = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing that the new config says otherwise than the old one."""

    kind: str
    """file, directory, link, unit, user, group, setting, kernel, or other."""
    name: str
    what: str
    """added, removed or changed."""
    lines: tuple[str, ...] = ()
    """What was said (`- `), what is said (`+ `), what is said under a mask (`~ `), lines around them (two blanks)."""
    secret: bool = False
    """A value that is not shown is among what changed."""
    notes: tuple[str, ...] = ()
    """In short what else changed: `mode 0644 -> 0600`."""


def between(old: Config | None, new: Config, masked_new: Config, redact: Callable[[str], str]) -> list[Change]:
    """Given the config of a host (None if it has none), the new one, and the same with masks, return what changes.

    There is none if and only if both have the same digest: what /etc/i12e/host.json says is left out. `redact`
    masks the values of our secrets in a text. Without an old config, contents are not told.
    """
    before, after = _without_identity(old or {}), _without_identity(new)
    telling = _Telling(_without_identity(masked_new), full=old is not None)
    found = list(telling.changes(before, after))
    if not found and not _same(before, after):
        found = [Change("other", "config", "changed", notes=("parts that say nothing",))]
    return [_redacted(change, redact) for change in found]


def as_json(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Given changes, return them for a JSON document."""
    keys = ("kind", "name", "what", "secret", "notes", "lines")
    return [{key: _listed(getattr(change, key)) for key in keys} for change in changes]


def text(changes: Sequence[Change], width: int = 120, most: int = 40) -> list[str]:
    """Given changes, return lines for a person, none longer than `width`, at most `most` for one content."""
    name_width = min(max((len(_shown_name(change)) for change in changes), default=0), 44)
    lines = [line for change in changes for line in _told(change, name_width, most)]
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


# --- for a person


def _told(change: Change, name_width: int, most: int) -> Iterator[str]:
    state, lines = _state(change), change.lines
    if change.kind == "setting" and change.what == "changed" and not change.notes and len(lines) == 1:
        state, lines = masks.printable(lines[0]), ()
    yield f"{change.kind:<10} {_shown_name(change):<{name_width}}  {state}"
    shown = lines if len(lines) <= most + 1 else lines[:most]
    yield from (f"{'':11}{masks.printable(line)}".rstrip() for line in shown)
    if len(shown) < len(lines):
        yield f"{'':11}... {len(lines) - len(shown)} more lines"


def _state(change: Change) -> str:
    notes = masks.printable(", ".join(change.notes))
    if change.kind == "setting":
        sign = {"added": "+ ", "removed": "- ", "changed": ""}[change.what]
        if notes:
            return f"{sign}{notes}"
    state = f"{change.what} (secret)" if change.secret and change.what == "changed" else change.what
    return f"{state}{', ' if change.what == 'added' else ': '}{notes}" if notes else state


def _shown_name(change: Change) -> str:
    return masks.printable(change.name)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _redacted(change: Change, redact: Callable[[str], str]) -> Change:
    lines, notes = (tuple(redact(line) for line in part) for part in (change.lines, change.notes))
    return replace(change, name=redact(change.name), lines=lines, notes=notes)


# --- configs


def _without_identity(config: Config) -> Config:
    storage = config.get("storage")
    if not isinstance(storage, dict) or not isinstance(storage.get("files"), list):
        return config
    files = [file for file in storage["files"] if not (isinstance(file, dict) and file.get("path") == render.HOST_JSON)]
    return {**config, "storage": {**storage, "files": files}}


_ABSENT: Any = object()


def _same(one: Any, other: Any) -> bool:
    """Tell whether two parts of configs are the same to a digest."""
    if one is other or one is _ABSENT or other is _ABSENT:
        return one is other
    return render.digest({"": one}) == render.digest({"": other})


def _at(config: Any, path: Sequence[str | int]) -> Any:
    """Given a config and a path in it, return what is there, _ABSENT if nothing is."""
    for step in path:
        within = isinstance(config, list) and isinstance(step, int) and step < len(config)
        if not within and not (isinstance(config, Mapping) and step in config):
            return _ABSENT
        config = config[step]
    return config


def _named(items: Any, key: str) -> dict[tuple[str, int], Item] | None:
    """Given a list, return its items by their names, the second of a name told from the first; None if it is none."""
    if items is _ABSENT or items is None:
        return {}
    if not isinstance(items, list):
        return None
    found: dict[tuple[str, int], Item] = {}
    seen: Counter[str] = Counter()
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get(key), str):
            return None
        found[item[key], seen[item[key]]] = item
        seen[item[key]] += 1
    return found


def _item(value: Any) -> Item:
    return value if isinstance(value, dict) else {}


class _Telling:
    """Tells the changes between two configs."""

    def __init__(self, masked: Config, full: bool) -> None:
        self._masked = masked
        self._full = full

    def changes(self, before: Config, after: Config) -> Iterator[Change]:
        """Yield all changes."""
        for path in _LISTS:
            yield from self._list(path, before, after)
        yield from self._kernel(before, after)
        yield from self._rest(before, after)

    # --- lists of things that have names

    def _list(self, path: tuple[str, str], before: Config, after: Config) -> Iterator[Change]:
        key = "path" if path[0] == "storage" else "name"
        tell = {
            "files": self._file,
            "directories": self._directory,
            "links": self._link,
            "units": self._unit,
            "users": self._user,
            "groups": self._group,
        }[path[1]]
        lists = [_at(config, path) for config in (before, after, self._masked)]
        named = [_named(items, key) for items in lists]
        old, new, masked = named
        if old is None or new is None:
            yield from self._generic(".".join(path), path, lists[0], lists[1])
            return
        found = False
        for place in (*new, *(place for place in old if place not in new)):
            for change in tell(place[0], old.get(place), new.get(place), (masked or {}).get(place, {})):
                found = True
                yield change
        moved = [place for place in old if place in new] != [place for place in new if place in old]
        if moved or (not found and old and new and not _same(lists[0], lists[1])):
            yield Change("other", ".".join(path), "changed", notes=("order of its entries",))

    def _file(self, path: str, old: Item | None, new: Item | None, masked: Item) -> Iterator[Change]:
        if _same(old, new):
            return
        notes = [*_mode(old, new, 0o644), *_owner(old, new)]
        settings = self._settings(path, old, new, masked)
        if settings is None:
            content = self._content(old, new, masked)
        else:
            content = Told() if settings else Told(["comments or layout"])
        notes += [*content.notes, *self._others(old, new, ("path", "mode", "user", "group", "contents", "append"))]
        yield from settings or ()
        if settings and not notes:
            return
        secret = content.secret or any(_HIDDEN in note for note in notes)
        yield Change("file", path, _what(old, new), tuple(content.lines), secret, tuple(notes))

    def _content(self, old: Item | None, new: Item | None, masked: Item) -> Told:
        found = Told()
        if new is None:
            return found
        closed = any(not _public(item) for item in (old, new) if item is not None)
        parts = [_parts(item) for item in (old or {}, new, masked)]
        for index in range(max(len(part) for part in parts[:2])):
            was, is_, shown = (part[index] if index < len(part) else _ABSENT for part in parts)
            found += self._resource(f"append {index}: " if index else "", was, is_, shown, closed)
        return found

    def _resource(self, label: str, was: Any, is_: Any, shown: Any, closed: bool) -> Told:
        """Given a content before, after, and with masks, tell the difference."""
        if _same(was, is_):
            return Told()
        if is_ is _ABSENT:
            return Told([f"{label}removed"])
        if label and was is _ABSENT:
            label = label.replace(":", " added:")
        before, after, masked = _bytes(was), _bytes(is_), _bytes(shown) or b""
        rest = Told([f"{label}{note}" for note in _fetched(was, is_)])
        if after is None or (before is None and not _nothing(was)):
            return rest if rest.notes or rest.secret else Told([f"{label}other content"])
        if before == after:
            return rest
        if not self._full:
            return rest
        told = diffs.of(before, after, masked, closed)
        if label:
            told.lines.insert(0, f"  {label.strip()}")
        return told + rest

    def _settings(self, path: str, old: Item | None, new: Item | None, masked: Item) -> list[Change] | None:
        """Return what changes of the settings that a file holds; None where it holds none, or it is not its content."""
        if old is None or new is None or path not in (K3S_CONFIG, K3S_CONF) or old.get("append") or new.get("append"):
            return None
        contents = [_bytes(item.get("contents", _ABSENT)) for item in (old, new, masked)]
        read = _yaml if path == K3S_CONFIG else _shell
        before, after, shown = (read(content) for content in contents)
        if before is None or after is None or contents[0] == contents[1]:
            return None
        owner = "k3s" if path == K3S_CONFIG else "host"
        keys = (*after, *(key for key in before if key not in after))
        all_ = ((key, *(values.get(key, _ABSENT) for values in (before, after, shown or {}))) for key in keys)
        return [_setting(owner, key, was, is_, mask) for key, was, is_, mask in all_ if not _equal(was, is_)]

    def _directory(self, path: str, old: Item | None, new: Item | None, masked: Item) -> Iterator[Change]:
        if not _same(old, new):
            notes = [*_mode(old, new, 0o755), *_owner(old, new)]
            notes += self._others(old, new, ("path", "mode", "user", "group"))
            yield Change("directory", path, _what(old, new), notes=tuple(notes))

    def _link(self, path: str, old: Item | None, new: Item | None, masked: Item) -> Iterator[Change]:
        if _same(old, new):
            return
        notes = list(_owner(old, new))
        was, is_ = (_item(item).get("target", _ABSENT) for item in (old, new))
        if not _same(was, is_) and new is not None:
            notes.insert(0, f"-> {is_}" if old is None else f"target {_word(was)} -> {_word(is_)}")
        notes += self._others(old, new, ("path", "target", "user", "group"))
        yield Change("link", path, _what(old, new), notes=tuple(notes))

    # --- units

    def _unit(self, name: str, old: Item | None, new: Item | None, masked: Item) -> Iterator[Change]:
        if _same(old, new):
            return
        was, is_ = _item(old), _item(new)
        notes: list[str] = []
        if new is not None:
            notes += _switch(was, is_, "enabled", ("enabled", "disabled"))
            notes += _switch(was, is_, "mask", ("masked", "not masked"))
        notes += self._others(old, new, ("name", "enabled", "mask", "contents", "dropins"))
        content = self._unit_text(old, new, masked)
        dropins = list(self._dropins(name, was, is_, masked))
        notes += content.notes
        only_dropins = dropins and set(was) | set(is_) == {"name", "dropins"}
        if notes or content.lines or content.secret or (_what(old, new) != "changed" and not only_dropins):
            yield Change("unit", name, _what(old, new), tuple(content.lines), content.secret, tuple(notes))
        elif not dropins:
            yield Change("unit", name, _what(old, new), notes=("drop-ins: order or number",))
        yield from dropins

    def _dropins(self, unit: str, was: Item, is_: Item, masked: Item) -> Iterator[Change]:
        old, new, shown = (_named(item.get("dropins", _ABSENT), "name") for item in (was, is_, masked))
        if old is None or new is None:
            yield from self._generic(f"{unit} dropins", (), was.get("dropins", _ABSENT), is_.get("dropins", _ABSENT))
            return
        for place in (*new, *(place for place in old if place not in new)):
            before, after = old.get(place), new.get(place)
            if not _same(before, after):
                content = self._unit_text(before, after, (shown or {}).get(place, {}))
                notes = [*content.notes, *self._others(before, after, ("name", "contents"))]
                name = f"{unit}.d/{place[0]}"
                yield Change("unit", name, _what(before, after), tuple(content.lines), content.secret, tuple(notes))

    def _unit_text(self, old: Item | None, new: Item | None, masked: Item) -> Told:
        was, is_, shown = (_item(item).get("contents", _ABSENT) for item in (old, new, masked))
        if new is None or _same(was, is_):
            return Told()
        if not isinstance(was, str) or not isinstance(is_, str):
            if not isinstance(is_, str):
                return Told([f"contents {_presence(was)} -> {_presence(is_)}"])
            notes = [] if old is None else [f"contents {_presence(was)} -> {_presence(is_)}"]
            was = ""
        else:
            notes = []
        if not self._full:
            return Told(notes)
        masked_text = _utf8(shown) if isinstance(shown, str) else b""
        return diffs.of(_utf8(was), _utf8(is_), masked_text, closed=False) + Told(notes)

    # --- users and groups

    def _user(self, name: str, old: Item | None, new: Item | None, masked: Item) -> Iterator[Change]:
        if _same(old, new):
            return
        secret = not _same(*(_item(item).get("passwordHash", _ABSENT) for item in (old, new)))
        notes = ["password (secret)"] if secret and new is not None else []
        lines: list[str] = []
        lists: dict[str, tuple[str, Callable[[str], str]]] = {
            "sshAuthorizedKeys": ("ssh key", ssh_key),
            "groups": ("group", str),
        }
        for field, (word, shown) in lists.items():
            was, is_ = (_item(item).get(field, _ABSENT) for item in (old, new))
            if new is None or _same(was, is_):
                continue
            if not _texts(was) or not _texts(is_):
                notes.append(f"{field} {_presence(was)} -> {_presence(is_)}")
                continue
            moved = [f"{sign} {word} {shown(item)}" for sign, item in _moved(was or (), is_ or ())]
            lines += moved
            if not moved:
                notes.append(f"{word}s: their order" if was and is_ else f"no {word}s")
        notes += self._others(old, new, ("name", "passwordHash", *lists))
        yield Change("user", name, _what(old, new), tuple(lines), secret and new is not None, tuple(notes))

    def _group(self, name: str, old: Item | None, new: Item | None, masked: Item) -> Iterator[Change]:
        if not _same(old, new):
            secret = not _same(*(_item(item).get("passwordHash", _ABSENT) for item in (old, new)))
            notes = ["password (secret)"] if secret and new is not None else []
            notes += self._others(old, new, ("name", "passwordHash"))
            yield Change("group", name, _what(old, new), (), secret and new is not None, tuple(notes))

    # --- what else a config says

    def _kernel(self, before: Config, after: Config) -> Iterator[Change]:
        lines: list[str] = []
        notes: list[str] = []
        old, new = (_at(config, ("kernelArguments",)) for config in (before, after))
        if _same(old, new):
            return
        for field, word in (("shouldExist", ""), ("shouldNotExist", "never ")):
            was, is_ = (_item(item).get(field, _ABSENT) for item in (old, new))
            if not _same(was, is_) and _texts(was) and _texts(is_):
                moved = [f"{sign} {word}{masks.unknown(item)}" for sign, item in _moved(was or (), is_ or ())]
                lines += moved
                notes += [] if moved else [f"{field}: order or number"]
            elif not _same(was, is_):
                notes.append(f"{field} changed")
        known = ("shouldExist", "shouldNotExist")
        notes += self._others(_item(old), _item(new), known)
        if lines or notes or (old is not _ABSENT and new is not _ABSENT):
            secret = any(MASK in line for line in lines)
            yield Change("kernel", "arguments", "changed", tuple(lines), secret, tuple(notes))

    def _rest(self, before: Config, after: Config) -> Iterator[Change]:
        for section in sorted({*before, *after} - {"kernelArguments"}):
            was, is_ = _at(before, (section,)), _at(after, (section,))
            if not all(value is _ABSENT or isinstance(value, Mapping) for value in (was, is_)):
                yield from self._generic(section, (section,), was, is_)
                continue
            for key in sorted({*_item(was), *_item(is_)}):
                if (section, key) not in _LISTS:
                    place = (section, key)
                    yield from self._generic(".".join(place), place, _at(was, (key,)), _at(is_, (key,)))

    def _generic(self, name: str, path: tuple[str | int, ...], was: Any, is_: Any) -> Iterator[Change]:
        if _same(was, is_):
            return
        leaves = list(self._leaves("", path, was, is_))
        what = "added" if was is _ABSENT else "removed" if is_ is _ABSENT else "changed"
        secret = any(hidden for _, hidden in leaves)
        yield Change("other", name, what, tuple(f"~ {line}" for line, _ in leaves), secret)

    def _leaves(self, place: str, path: tuple[str | int, ...], was: Any, is_: Any) -> Iterator[tuple[str, bool]]:
        """Yield a line for each value that differs, and whether it is hidden."""
        if _same(was, is_):
            return
        both = [value for value in (was, is_) if value is not _ABSENT]
        if all(isinstance(value, dict) and not _is_data(value) for value in both):
            keys: list[str | int] = sorted({key for value in both for key in value})
        elif all(isinstance(value, list) for value in both):
            keys = list(range(max(len(value) for value in both)))
        else:
            keys = []
        if not keys:
            old, new = _leaf(path, was), self._new_leaf(path, is_)
            hidden = MASK in (old, new) or "<secret " in new
            label = f"{place}: " if place else ""
            yield f"{label}{old} -> {new}{' (secret)' if old == new else ''}", hidden
            return
        for key in keys:
            step = f"[{key}]" if isinstance(key, int) else f".{key}"
            yield from self._leaves(f"{place}{step}".lstrip("."), (*path, key), _step(was, key), _step(is_, key))

    def _new_leaf(self, path: tuple[str | int, ...], value: Any) -> str:
        if not isinstance(value, str):
            return _leaf(path, value)
        masked = _at(self._masked, path) if path else _ABSENT
        key = next((step for step in reversed(path) if isinstance(step, str)), "")
        if not isinstance(masked, str) or (key not in _OPEN_KEYS and masks.secret_name(key)):
            return _leaf(path, value)
        return masks.known(masked) if not value.startswith("data:") else _leaf(path, value)

    def _others(self, old: Item | None, new: Item | None, known: Iterable[str]) -> list[str]:
        """Return notes of the keys of an item that have no words of their own."""
        if new is None or old is None:
            # `overwrite` says how Ignition writes a file, not what it is
            item = {key: value for key, value in _item(new).items() if key not in {*known, "overwrite"}}
            return [f"{key} {_leaf((key,), value)}" for key, value in item.items()]
        was, is_ = ({key: value for key, value in item.items() if key not in {*known}} for item in (old, new))
        return [line.replace(": ", " ", 1) for line, _ in self._leaves("", (), was, is_)]


# --- values


def _step(value: Any, key: str | int) -> Any:
    return _ABSENT if value is _ABSENT else _at(value, (key,))


def _is_data(value: Item) -> bool:
    return isinstance(value.get("source"), str) and value["source"].startswith("data:")


def _leaf(path: Sequence[str | int], value: Any) -> str:
    """Given the path of a value that may be an old one, return what may be shown of it."""
    if value is _ABSENT:
        return "unset"
    if isinstance(value, dict) and _is_data(value):
        content = _bytes(value)
        return f"content of {len(content)} bytes" if content is not None else "content"
    key = next((step for step in reversed(path) if isinstance(step, str)), "")
    if isinstance(value, str):
        if value.startswith("data:"):
            return "content"
        if key in ("source", "url"):
            return masks.url(value)
        return masks.unknown(value) if key in _OPEN_KEYS else MASK
    return json.dumps(value) if not isinstance(value, list | dict) or not value else MASK


def _what(old: Item | None, new: Item | None) -> str:
    return "added" if old is None else "removed" if new is None else "changed"


def _presence(value: Any) -> str:
    return "unset" if value is _ABSENT else "null" if value is None else "set" if value else "empty"


def _word(value: Any) -> str:
    return "unset" if value is _ABSENT else str(value)


def _texts(value: Any) -> bool:
    items = () if value is _ABSENT or value is None else value
    return isinstance(items, list | tuple) and all(isinstance(item, str) for item in items)


def _moved(was: Any, is_: Any) -> Iterator[tuple[str, str]]:
    old, new = (Counter(() if items is _ABSENT else items) for items in (was, is_))
    yield from (("-", item) for item in (old - new).elements())
    yield from (("+", item) for item in (new - old).elements())


def _switch(was: Item, is_: Item, key: str, words: tuple[str, str]) -> list[str]:
    old, new = was.get(key, _ABSENT), is_.get(key, _ABSENT)
    if _same(old, new):
        return []
    before, after = ({True: words[0], False: words[1]}.get(value, "unset") for value in (old, new))
    return [after] if not was else [f"{before} -> {after}"]


def _mode(old: Item | None, new: Item | None, default: int) -> Iterator[str]:
    was, is_ = (_item(item).get("mode", _ABSENT) for item in (old, new))
    if new is None or _same(was, is_):
        return
    if old is None:
        if is_ != default:
            yield f"mode {_octal(is_)}"
    else:
        yield f"mode {_octal(was)} -> {_octal(is_)}"


def _octal(mode: Any) -> str:
    return f"{mode:04o}" if isinstance(mode, int) and not isinstance(mode, bool) else _word(mode)


def _owner(old: Item | None, new: Item | None) -> Iterator[str]:
    for key, word in (("user", "owner"), ("group", "group")):
        was, is_ = (_item(item).get(key, _ABSENT) for item in (old, new))
        if new is None or _same(was, is_):
            continue
        before, after = (_whose(value) for value in (was, is_))
        if before == after:
            before, after = (_word(value) for value in (was, is_))
        yield f"{word} {after}" if old is None else f"{word} {before} -> {after}"


def _whose(value: Any) -> str:
    if value is _ABSENT:
        return "root"
    item = _item(value)
    return str(item.get("name") or item.get("id", value))


def _public(item: Item) -> bool:
    mode = item.get("mode")
    return bool((mode if isinstance(mode, int) else 0o644) & 0o004)


def ssh_key(line: str) -> str:
    """Given a line of authorized_keys, return the key's comment and its fingerprint."""
    found = re.search(r"(?:^|\s)(?:ssh-|ecdsa-|sk-)\S+\s+([A-Za-z0-9+/]+=*)(?:\s+(.*))?$", line.strip())
    try:
        blob = base64.b64decode(found[1]) if found else line.encode("utf-8", "surrogatepass")
    except binascii.Error:
        blob = line.encode("utf-8", "surrogatepass")
    print_ = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    options = ", with options" if found and found.start() else ""
    return f"{(found and found[2]) or '(no comment)'} (SHA256:{print_[:12]}…{options})"


# --- contents


def _parts(item: Item) -> list[Any]:
    appended = item.get("append")
    return [item.get("contents", _ABSENT), *(appended if isinstance(appended, list) else ())]


def _nothing(resource: Any) -> bool:
    return resource is _ABSENT or resource is None or not _item(resource).get("source")


def _bytes(resource: Any) -> bytes | None:
    """Given what a config says of a content, return it; None if it is fetched from elsewhere or is none."""
    if _nothing(resource):
        return b"" if resource is not _ABSENT and _item(resource).get("source") == "" else None
    if not _is_data(_item(resource)):
        return None
    try:
        return render.content(resource["source"], str(resource.get("compression") or ""))
    except (ValueError, OSError, EOFError):
        return None


def _fetched(was: Any, is_: Any) -> Iterator[str]:
    """Yield what differs between two contents but for the content itself."""
    old, new = _item(was), _item(is_)
    sources = [_source(resource) for resource in (was, is_)]
    if not (_is_data(new) and (was is _ABSENT or _is_data(old))):
        if sources[0] != sources[1]:
            yield f"source {sources[1]}" if was is _ABSENT else f"source {sources[0]} -> {sources[1]}"
        elif old.get("source") != new.get("source"):
            yield f"source changed {_HIDDEN}"
    for key in sorted({*old, *new} - {"source"}):
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if key == "compression" and _is_data(old if was is not _ABSENT else new) and _is_data(new):
            continue
        if _same(before, after) or (was is _ABSENT and key == "compression"):
            continue
        if key == "verification":
            hashes = [_hash(value) for value in (before, after)]
            yield f"hash {hashes[1]}" if was is _ABSENT else f"hash {hashes[0]} -> {hashes[1]}"
        elif key == "httpHeaders":
            yield f"http headers {_HIDDEN}"
        else:
            yield f"{key} {_leaf((key,), before)} -> {_leaf((key,), after)}"


def _source(resource: Any) -> str:
    source = _item(resource).get("source")
    if not isinstance(source, str):
        return "none"
    return "in the config" if source.startswith("data:") else masks.url(source)


def _hash(verification: Any) -> str:
    value = _item(verification).get("hash")
    if not isinstance(value, str):
        return _presence(verification) if set(_item(verification)) - {"hash"} or not value else "unset"
    return value if len(value) < 24 else f"{value[:19]}…"


def _utf8(content: str) -> bytes:
    return content.encode("utf-8", "surrogatepass")


# --- settings


def _yaml(content: bytes | None) -> dict[str, Any] | None:
    document = yamlfile.examine(content, "config.yaml") if content is not None else None
    return document.data if document and not document.problems else None


def _shell(content: bytes | None) -> dict[str, Any] | None:
    """Given lines of KEY=VALUE as a shell reads them, return them; None if there is something else."""
    text_ = diffs.decode(content)
    if text_ is None:
        return None
    found: dict[str, Any] = {}
    for line in text_.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            return None
        key, is_, value = words[0].partition("=") if len(words) == 1 else ("", "", "")
        if not is_ or not re.fullmatch(r"[A-Za-z_]\w*", key) or key in found:
            return None
        found[key] = value.split() if key == "join_urls" else value
    return found


def _equal(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def _setting(owner: str, key: str, was: Any, is_: Any, masked: Any) -> Change:
    """Given a setting before, after, and after with masks (_ABSENT where it is not), tell its change."""
    name = f"{owner} {key}"
    masked = MASK if masked is _ABSENT else masked
    flag = key.rstrip("+")
    covered = is_ is not _ABSENT and not _equal(is_, masked)
    closed = flag in _SECRET_FLAGS or (flag not in _OPEN_FLAGS and masks.secret_name(flag))
    secret = covered or closed
    # of a key of k3s's that nobody knows, what it is now is in the repository, and what it was is not
    open_ = not closed and (owner != "k3s" or flag in _OPEN_FLAGS)
    show_old = _old_value if open_ and not covered else lambda _: MASK
    show_new: Callable[[Any], str] = (lambda _: MASK) if closed and not covered else _new_value
    if is_ is _ABSENT:
        return Change("setting", name, "removed", secret=secret, notes=(", ".join(map(show_old, _as_list(was))),))
    if was is _ABSENT:
        return Change("setting", name, "added", secret=secret, notes=(", ".join(map(show_new, _as_list(masked))),))
    if isinstance(was, list) or isinstance(is_, list):
        return _list_setting(name, was, is_, masked, show_old, show_new, secret)
    before, after = show_old(was), show_new(masked)
    note = "changed (secret)" if secret else f"{before} -> {after}"
    return Change("setting", name, "changed", secret=secret, notes=(note,))


def _list_setting(
    name: str,
    was: Any,
    is_: Any,
    masked: Any,
    show_old: Callable[[Any], str],
    show_new: Callable[[Any], str],
    secret: bool,
) -> Change:
    old, new, shown = (_as_list(value) for value in (was, is_, masked))
    counted = Counter(_dumped(item) for item in new)
    counted.subtract(Counter(_dumped(item) for item in old))
    lines: list[str] = []
    gone = Counter({item: -count for item, count in counted.items() if count < 0})
    come = +counted
    for item in old:
        if gone[_dumped(item)] > 0:
            gone[_dumped(item)] -= 1
            lines.append(f"- {show_old(item)}")
    for index, item in enumerate(new):
        if come[_dumped(item)] > 0:
            come[_dumped(item)] -= 1
            lines.append(f"+ {show_new(shown[index]) if len(shown) == len(new) else MASK}")
    if lines:
        return Change("setting", name, "changed", tuple(lines), secret)
    return Change("setting", name, "changed", secret=secret, notes=("the order of its entries, or how it is written",))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is _ABSENT else [value]


def _dumped(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _old_value(value: Any) -> str:
    return masks.unknown(value) if isinstance(value, str) else _plain(value)


def _new_value(value: Any) -> str:
    return masks.known(value) if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, list | dict) or not value else MASK

"""What Butane and Ignition ask of values that have the right types.

`source_faults` judges a config as the user wrote it, by Butane's rules; `config_faults` judges an
Ignition config, by Ignition's. The words are theirs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

from butane.report import Entry, Fault, Path, dotted
from butane.schema import CONFIG, SPECS, Field, Struct, Version
from butane.units import BadUnit, option_sections
from butane.urls import takes_headers, url_fault

_SYSTEMD = "/etc/systemd/system/"
_UNIT_TYPES = (
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".snapshot",
    ".slice",
    ".scope",
)
_INSTANCE = re.compile(r"(.+?)@(.+?)\.service")
_DIGEST_LENGTHS = {"sha512": 128, "sha256": 64}
_SPECIAL_BITS = "setuid/setgid/sticky bits are not supported or functional in spec versions older than 3.6.0"
_DECIMAL_MODE = "unreasonable mode would be reasonable if specified in octal; remember to add a leading zero"


def source_faults(values: dict[str, Any]) -> Iterator[Fault]:
    """Given a decoded Butane config, yield what Butane has against it, by Butane's paths."""
    storage = values.get("storage", {})
    for i, file in enumerate(storage.get("files", ())):
        path: Path = ("storage", "files", i)
        yield from _decimal_mode(file, path, directory=False)
        yield from _one_source(file.get("contents", {}), (*path, "contents"))
        for j, resource in enumerate(file.get("append", ())):
            yield from _one_source(resource, (*path, "append", j))
    for i, directory in enumerate(storage.get("directories", ())):
        yield from _decimal_mode(directory, ("storage", "directories", i), directory=True)


def _one_source(resource: dict[str, Any], path: Path) -> Iterator[Fault]:
    given = [name for name in ("local", "inline", "source") if name in resource]
    if len(given) > 1:
        message = "only one of the following can be set: inline, local, source"
        yield Fault((*path, given[-1]), message)


def _decimal_mode(node: dict[str, Any], path: Path, *, directory: bool) -> Iterator[Fault]:
    mode = node.get("mode")
    if mode is not None and _looks_decimal(mode, directory):
        yield Fault((*path, "mode"), _DECIMAL_MODE, "warning")


def _looks_decimal(mode: int, directory: bool) -> bool:
    digits = str(mode)
    if not 0 <= mode <= 7777 or "8" in digits or "9" in digits:
        return False
    return not _is_usual(mode, directory) and _is_usual(int(digits, 8), directory)


def _is_usual(mode: int, directory: bool) -> bool:
    """Say whether a mode is one that people set: nobody may do what those before may not."""
    if mode == 0:
        return True
    triples = [mode >> 6 & 7, mode >> 3 & 7, mode & 7]
    wider = pairwise(triples)
    if any(other & ~one or (one & 1 and other and not other & 1) for one, other in wider):
        return False
    owner = triples[0]
    if any(triple and not triple & 4 for triple in triples) or not owner:
        return False
    special, executable, writable = mode & 0o7000, owner & 1, owner & 2
    if directory:
        return bool(executable and not special & 0o4000 and (writable or not special & 0o3000))
    if special & 0o6000 and (not executable or mode & 2):
        return False
    return not special & 0o1000


def check(config: dict[str, Any]) -> tuple[Entry, ...]:
    """Given an Ignition config, such as merge gave, return what Ignition has against it; entries have no lines."""
    return tuple(Entry(f.kind, dotted(f.path), None, None, f.message) for f in config_faults(config))


def config_faults(config: dict[str, Any], made: Collection[str] = ()) -> Iterator[Fault]:
    """Given an Ignition config, yield what Ignition has against it, by Ignition's paths.

    `made` are sources that need no check, because they are our own data URLs.
    """
    version = config.get("ignition", {}).get("version", "")
    spec = next((spec for spec in SPECS.values() if version == ".".join(map(str, spec))), None)
    if spec is None:
        yield Fault(("ignition", "version"), "unsupported config version")
        return
    yield from _duplicates(config, CONFIG, ())
    storage = config.get("storage", {})
    units = config.get("systemd", {}).get("units", ())
    yield from _Storage(storage, spec, made).faults()
    yield from _unit_faults(units)
    yield from _shadowed(storage, units)


def _duplicates(values: dict[str, Any], struct: Struct, path: Path) -> Iterator[Fault]:
    seen: dict[str, set[str]] = {}
    for field in struct.nested:
        value = values.get(field.json)
        if not value:
            continue
        here = (*path, field.json)
        if isinstance(field.type, Struct) and field.type.nested:
            for step, item in _items(value, field):
                yield from _duplicates(item, field.type, (*here, *step))
        if field.many and not field.appends:
            keys = seen.setdefault(field.shares or field.name, set())
            for i, item in enumerate(value):
                key = item.get(field.type.key) if isinstance(field.type, Struct) else item
                if key in keys:
                    yield Fault((*here, i), "duplicate entry defined")
                keys.add(key)


def _items(value: Any, field: Field) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the mappings that a field holds, one or many, with their indexes."""
    if field.many:
        yield from (((i,), item) for i, item in enumerate(value))
    else:
        yield (), value


class _Storage:
    """The rules of files, directories and links."""

    def __init__(self, storage: dict[str, Any], spec: Version, made: Collection[str]) -> None:
        self.files = storage.get("files", ())
        self.directories = storage.get("directories", ())
        self.links = storage.get("links", ())
        self.spec = spec
        self.made = made
        self.directory_paths = {directory.get("path", "") for directory in self.directories}
        self.link_paths = {link.get("path", "") for link in self.links} - {"/"}

    def faults(self) -> Iterator[Fault]:
        for i, directory in enumerate(self.directories):
            yield from self.node(directory, ("storage", "directories", i), "directory")
        for i, file in enumerate(self.files):
            yield from self.node(file, ("storage", "files", i), "file")
            yield from self.file(file, ("storage", "files", i))
        for i, link in enumerate(self.links):
            yield from self.node(link, ("storage", "links", i), "link")
            yield from self.link(link, ("storage", "links", i))

    def node(self, node: dict[str, Any], path: Path, name: str) -> Iterator[Fault]:
        where = node.get("path", "")
        message = _path_fault(where)
        if message:
            yield Fault((*path, "path"), message)
        if self.link_paths and any(parent in self.link_paths for parent in _parents(where)):
            yield Fault(path, f"{name} path includes link in config")
        yield from _mode_faults(node.get("mode"), (*path, "mode"))
        for owner in ("user", "group"):
            given = node.get(owner, {})
            if given.get("id") is not None and given.get("name"):
                yield Fault((*path, owner), "cannot set both id and name")

    def file(self, file: dict[str, Any], path: Path) -> Iterator[Fault]:
        contents = file.get("contents", {})
        if file.get("overwrite") and contents.get("source") is None:
            message = "overwrite must be false if source is unspecified"
            yield Fault((*path, "overwrite"), message)
        yield from self.resource(contents, (*path, "contents"))
        for i, resource in enumerate(file.get("append", ())):
            yield from self.resource(resource, (*path, "append", i))

    def link(self, link: dict[str, Any], path: Path) -> Iterator[Fault]:
        target = link.get("target")
        if not target:
            yield Fault((*path, "target"), "link target is required")
        elif link.get("hard"):
            # a relative target counts from the link itself: Ignition's own reading
            whole = _clean(posixpath.join(link.get("path", ""), target))
            if whole in self.directory_paths:
                yield Fault(path, "hard link target is a directory")
            for owner in ("user", "group"):
                for name in link.get(owner, {}):
                    message = "user/group ignored for hard link"
                    yield Fault((*path, owner, name), message, "warning")

    def resource(self, resource: dict[str, Any], path: Path) -> Iterator[Fault]:
        if not resource:
            return
        source = resource.get("source")
        if resource.get("compression", "") not in ("", "gzip"):
            yield Fault((*path, "compression"), "invalid compression method")
        yield from _hash_faults(resource.get("verification", {}).get("hash"), source, path)
        if source and source not in self.made:
            message = url_fault(source, self.spec)
            if message:
                yield Fault((*path, "source"), message)
        yield from _header_faults(resource.get("httpHeaders", ()), source, path)


def _hash_faults(given: str | None, source: str | None, path: Path) -> Iterator[Fault]:
    here = (*path, "verification", "hash")
    if given is None:
        return
    if source is None:
        yield Fault(here, "source must be specified if verification is specified")
    function, dash, digest = given.partition("-")
    if not dash:
        yield Fault(here, "malformed hash specifier")
    elif function not in _DIGEST_LENGTHS:
        yield Fault(here, "unrecognized hash function")
    elif len(digest.encode("utf-8", "surrogatepass")) != _DIGEST_LENGTHS[function]:
        yield Fault(here, "incorrect size for hash sum")


def _header_faults(headers: Collection[dict[str, Any]], source: str | None, path: Path) -> Iterator[Fault]:
    here = (*path, "httpHeaders")
    message = takes_headers(source or "") if headers else None
    if message:
        yield Fault(here, message)
    for i, header in enumerate(headers):
        if not header.get("name"):
            yield Fault((*here, i, "name"), "HTTP header name can't be empty")
        if header.get("value") == "":
            yield Fault((*here, i, "value"), "unable to parse HTTP header")


def _mode_faults(mode: int | None, path: Path) -> Iterator[Fault]:
    if mode is None:
        return
    if not 0 <= mode <= 0o7777:
        yield Fault(path, "illegal file mode")
    if mode & 0o7000:
        yield Fault(path, _SPECIAL_BITS, "warning")


def _path_fault(path: str) -> str | None:
    if not path:
        return "path not specified"
    if not path.startswith("/"):
        return "path not absolute"
    return None if _clean(path) == path else "path is not fully simplified"


def _clean(path: str) -> str:
    # POSIX keeps two leading slashes, Go does not
    normal = posixpath.normpath(path)
    return "/" + normal.lstrip("/") if normal.startswith("/") else normal


def _parents(path: str) -> Iterator[str]:
    at = path.rfind("/")
    while at >= 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _unit_faults(units: Collection[dict[str, Any]]) -> Iterator[Fault]:
    by_name = {unit.get("name", ""): unit for unit in units}
    for i, unit in enumerate(units):
        path: Path = ("systemd", "units", i)
        name, contents = unit.get("name", ""), unit.get("contents")
        if _extension(name) not in _UNIT_TYPES:
            yield Fault((*path, "name"), "invalid systemd unit extension")
        yield from _content_faults(contents, (*path, "contents"))
        if unit.get("enabled"):
            for message in _not_enabled(name, contents, by_name):
                yield Fault((*path, "contents"), message, "warning")
        for j, dropin in enumerate(unit.get("dropins", ())):
            here = (*path, "dropins", j)
            if _extension(dropin.get("name", "")) != ".conf":
                yield Fault((*here, "name"), "invalid systemd drop-in extension")
            yield from _content_faults(dropin.get("contents"), (*here, "contents"))


def _extension(name: str) -> str:
    last = name.rpartition("/")[2]
    return last[last.rfind(".") :] if "." in last else ""


def _content_faults(contents: str | None, path: Path) -> Iterator[Fault]:
    try:
        option_sections(contents or "")
    except BadUnit as error:
        yield Fault(path, f"invalid unit content: {error}")


def _installs(contents: str | None) -> bool:
    """Say whether a unit can be enabled; one without contents or with bad ones is not judged."""
    try:
        return not contents or "Install" in option_sections(contents)
    except BadUnit:
        return True


def _not_enabled(name: str, contents: str | None, units: dict[str, dict[str, Any]]) -> Iterator[str]:
    if not _installs(contents):
        yield f'unit "{name}" is enabled, but has no install section so enable does nothing'
    match = _INSTANCE.fullmatch(name)
    template = f"{match[1]}@.service" if match else ""
    if not _installs(units.get(template, {}).get("contents")):
        yield f'template unit "{template}" for "{name}" doesn\'t have Install section'


def _shadowed(storage: dict[str, Any], units: Collection[dict[str, Any]]) -> Iterator[Fault]:
    taken = {_SYSTEMD + unit.get("name", "") for unit in units if unit.get("contents")}
    for unit in units:
        for dropin in unit.get("dropins", ()):
            if dropin.get("contents"):
                taken.add(f"{_SYSTEMD}{unit.get('name', '')}.d/{dropin.get('name', '')}")
    for name in ("files", "directories", "links"):
        for i, node in enumerate(storage.get(name, ())):
            if node.get("path") in taken:
                path: Path = ("storage", name, i, "path")
                yield Fault(path, "path conflicts with systemd unit or dropin")

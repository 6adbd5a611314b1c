"""What Ignition asks of a config. The words are Ignition's, and so is the order.

Source: config/v3_0 to config/v3_6 and config/validate of Ignition 2.26.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from butane.gojson import BadJson, parse_json
from butane.gopath import clean, join
from butane.merge import key_of
from butane.printing import ordered, version_of
from butane.report import Entry, Fault, Path, dotted
from butane.schema import (
    CA_REFERENCE,
    CLEVIS_CUSTOM,
    CONFIG,
    CONFIG_REFERENCE,
    CUSTOM,
    DIRECTORY,
    DISK,
    DROPIN,
    FILE,
    FILESYSTEM,
    GROUP_OF_NODE,
    IGNITION,
    IGNITION_CONFIG,
    LINK,
    LUKS,
    PARTITION,
    PROXY,
    RAID,
    RESOURCE,
    STORAGE,
    SYSTEMD,
    TANG,
    TLS,
    UNIT,
    USER_OF_NODE,
    Dialect,
    Shape,
    Struct,
    ignition_shape,
    leads_to,
)
from butane.units import BadUnit, option_sections
from butane.urls import header_fault, proxy_fault, tang_fault, url_fault
from butane.versions import Semver, minor_of, semver

Values = dict[str, Any]
UNKNOWN_VERSION = "unsupported config version"

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
_INSTANCE = re.compile(r"([^\n]+?)@([^\n]+?)\.service")
_DIGEST_LENGTHS = {"sha512": 128, "sha256": 64}
SPECIAL_BITS = "setuid/setgid/sticky bits are not supported or functional in spec versions older than 3.6.0"
_LABEL_LENGTHS = {"ext4": 16, "btrfs": 256, "xfs": 12, "swap": 15, "vfat": 11}
_PARTITION_LABEL, _LUKS_LABEL = 36, 47
_GUID = re.compile(r"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")
_SLASH = re.compile("/")
_STRIPED = ("linear", "raid0", "0", "stripe")
_RAID_LEVELS = (*_STRIPED, "raid1", "1", "mirror", "raid4", "4", "raid5", "5", "raid6", "6", "raid10", "10")
_PINS = ("tpm2", "tang", "sss")


def check(config: Values) -> tuple[Entry, ...]:
    """Given an Ignition config, such as merge gave, return what Ignition has against it; entries have no lines.

    Raise ValueError for a field that its version does not have, and for a value that is not of its field's type.
    """
    minor = minor_of(version_of(config))
    shape = ignition_shape(minor)
    config = ordered(config, shape)
    faults = [*duplicates(config, shape), *ignition_faults(config, shape, minor)]
    return tuple(Entry(f.kind, dotted(f.path), None, None, f.message) for f in faults)


def filtered(config: Values, dialect: Dialect) -> Iterator[Fault]:
    """Given an Ignition config, yield what the variant does not have though its version of Ignition does."""
    if dialect.variant == "flatcar":
        for i, luks in enumerate(config.get("storage", {}).get("luks", ())):
            if luks.get("clevis"):
                yield Fault(("storage", "luks", i, "clevis"), "clevis is not supported in this spec version")


def duplicates(config: Values, shape: Shape, path: Path = ()) -> Iterator[Fault]:
    """Given an Ignition config, yield the entries of lists whose key another entry has already."""
    seen: dict[str, set[Any]] = {}
    for slot in shape.lists:
        keys = seen.setdefault(slot.field.shares or slot.json, set())
        for i, item in enumerate(config.get(slot.json) or ()):
            key = key_of(item, slot)
            if key in keys:
                yield Fault((*path, slot.json, i), "duplicate entry defined")
            keys.add(key)
    for slot in shape.nested:
        value = config.get(slot.json)
        if slot.shape is None or not slot.shape.nested or not value:
            continue
        if slot.many:
            for i, item in enumerate(value):
                yield from duplicates(item, slot.shape, (*path, slot.json, i))
        else:
            yield from duplicates(value, slot.shape, (*path, slot.json))


@dataclass(frozen=True)
class _Context:
    minor: int
    made: Collection[str]


_Check = Callable[[Values, Path, _Context], Iterator[Fault]]


def ignition_faults(config: Values, shape: Shape, minor: int, made: Collection[str] = ()) -> Iterator[Fault]:
    """Given an Ignition config of 3.`minor`, yield what Ignition has against it, by Ignition's paths.

    `made` are sources that need no check, because they are our own data URLs.
    """
    if "ignition" not in config:
        config = {**config, "ignition": {}}
    return _walk(config, shape, (), _Context(minor, made))


def _walk(values: Values, shape: Shape, path: Path, context: _Context) -> Iterator[Fault]:
    check = _CHECKS.get(shape.struct)
    if check is not None:
        yield from check(values, path, context)
    for slot in shape.nested:
        inner = slot.shape
        value = values.get(slot.json)
        if inner is None or value is None or not leads_to(inner.struct, _CHECKED):
            continue
        if slot.many:
            for i, item in enumerate(value):
                yield from _walk(item, inner, (*path, slot.json, i), context)
        else:
            yield from _walk(value, inner, (*path, slot.json), context)


def _config(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    units = values.get("systemd", {}).get("units") or ()
    taken = {_SYSTEMD + unit.get("name", "") for unit in units if unit.get("contents")}
    for unit in units:
        for dropin in unit.get("dropins") or ():
            if dropin.get("contents"):
                taken.add(f"{_SYSTEMD}{unit.get('name', '')}.d/{dropin.get('name', '')}")
    if not taken:
        return
    for name in ("files", "directories", "links"):
        for i, node in enumerate(values.get("storage", {}).get(name) or ()):
            if node.get("path") in taken:
                yield Fault((*path, "storage", name, i, "path"), "path conflicts with systemd unit or dropin")


def version_fault(config: Values, minor: int) -> str | None:
    """Given an Ignition config that should be of 3.`minor`, return what is wrong with its version, or None."""
    return _version_fault(config.get("ignition", {}), minor)


def _version_fault(ignition: Values, minor: int) -> str | None:
    version = semver(ignition.get("version") or "")
    if version is None:
        return "invalid config version (couldn't parse)"
    return None if version == Semver((3, minor, 0)) else UNKNOWN_VERSION


def _ignition(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    message = _version_fault(values, context.minor)
    if message:
        yield Fault((*path, "version"), message)


def _ignition_config(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    if context.minor:
        for i, resource in enumerate(values.get("merge") or ()):
            yield from _required_source(resource, (*path, "merge", i), context)


def _tls(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    if context.minor:
        for i, resource in enumerate(values.get("certificateAuthorities") or ()):
            yield from _required_source(resource, (*path, "certificateAuthorities", i), context)


def _required_source(resource: Values, path: Path, context: _Context) -> Iterator[Fault]:
    source = resource.get("source")
    message = _source_fault(source, context) if source else "source is required"
    if message:
        yield Fault(path, message)


def _source_fault(source: str | None, context: _Context) -> str | None:
    return None if not source or source in context.made else url_fault(source, context.minor)


def _reference(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    message = _source_fault(values.get("source"), context)
    if message:
        yield Fault((*path, "source"), message)
    yield from _hash(values, path, context)


def _ca_reference(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    message = url_fault(values.get("source", ""), context.minor)
    if message:
        yield Fault((*path, "source"), message)
    yield from _hash(values, path, context)


def _resource(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    source = values.get("source")
    if (values.get("compression") or "") not in ("", "gzip"):
        yield Fault((*path, "compression"), "invalid compression method")
    if source is None and values.get("verification", {}).get("hash") is not None:
        yield Fault((*path, "verification", "hash"), "source must be specified if verification is specified")
    message = _source_fault(source, context)
    if message:
        yield Fault((*path, "source"), message)
    headers = values.get("httpHeaders")
    message = header_fault(source or "") if headers else None
    if message:
        yield Fault((*path, "httpHeaders"), message)
    for i, header in enumerate(headers or ()):
        yield from _header(header, (*path, "httpHeaders", i))
    yield from _hash(values, path, context)


def _header(header: Values, path: Path) -> Iterator[Fault]:
    if not header.get("name"):
        yield Fault((*path, "name"), "HTTP header name can't be empty")
    if header.get("value") == "":
        yield Fault((*path, "value"), "unable to parse HTTP header")


def _hash(resource: Values, path: Path, context: _Context) -> Iterator[Fault]:
    given = resource.get("verification", {}).get("hash")
    message = _hash_fault(given, context) if given is not None else None
    if message:
        yield Fault((*path, "verification", "hash"), message)


def _hash_fault(given: str, context: _Context) -> str | None:
    function, dash, digest = given.partition("-")
    if not dash:
        return "malformed hash specifier"
    if function not in _DIGEST_LENGTHS or (function == "sha256" and not context.minor):
        return "unrecognized hash function"
    return None if len(_utf8(digest)) == _DIGEST_LENGTHS[function] else "incorrect size for hash sum"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _proxy(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    for name, plain in (("httpProxy", True), ("httpsProxy", False)):
        url = values.get(name)
        fault = proxy_fault(url, plain) if url is not None else None
        if fault:
            yield Fault((*path, name), *fault)


def _owner(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    if values.get("id") is not None and values.get("name"):
        yield Fault(path, "cannot set both id and name")


def _node(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    message = _path_fault(values.get("path", ""))
    if message:
        yield Fault((*path, "path"), message)


def _mode(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    mode = values.get("mode")
    if mode is None:
        return
    if not 0 <= mode <= 0o7777:
        yield Fault((*path, "mode"), "illegal file mode")
    if context.minor < 6 and mode & 0o7000:
        yield Fault((*path, "mode"), SPECIAL_BITS, "warning")


def _directory(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    yield from _node(values, path, context)
    yield from _mode(values, path, context)


def _file(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    yield from _directory(values, path, context)
    if values.get("overwrite") and values.get("contents", {}).get("source") is None:
        yield Fault((*path, "overwrite"), "overwrite must be false if source is unspecified")


def _path_fault(path: str) -> str | None:
    if not path:
        return "path not specified"
    if not path.startswith("/"):
        return "path not absolute"
    return None if clean(path) == path else "path is not fully simplified"


def _storage(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    links = values.get("links") or ()
    # as in Ignition, a link without a path is above everything
    above: dict[int, set[str]] = {}
    for link in links:
        above.setdefault(len(link.get("path", "")), set()).add(link.get("path", ""))
    if links:
        for name in ("directories", "files"):
            for i, node in enumerate(values.get(name) or ()):
                word = "directory" if name == "directories" else "file"
                yield from _below_link(node, (*path, name, i), above, word)
        directories = {node.get("path", "") for node in values.get("directories") or ()}
        for i, link in enumerate(links):
            yield from _below_link(link, (*path, "links", i), above, "link")
            yield from _link(link, (*path, "links", i), directories, context)
    disks = {disk.get("device", ""): disk for disk in values.get("disks") or ()}
    for i, fs in enumerate(values.get("filesystems") or ()):
        disk = disks.get(fs.get("device", ""))
        if disk is None:
            continue
        here: Path = (*path, "filesystems", i, "device")
        if disk.get("partitions"):
            yield Fault(here, "filesystem overwrites partitioned device", "warning")
        elif disk.get("wipeTable") and not fs.get("wipeFilesystem"):
            message = "device matches disk with wipeTable enabled; filesystem will be wiped"
            yield Fault(here, message, "warning")


def _below_link(node: Values, path: Path, links: dict[int, set[str]], word: str) -> Iterator[Fault]:
    """Judge a node by the paths of links, which come by length: few parts of a long path need to be looked up."""
    where = node.get("path", "")
    slashes = (match.start() for match in _SLASH.finditer(where))
    if any(at in links and where[:at] in links[at] for at in slashes):
        yield Fault(path, f"{word} path includes link in config")


def _link(link: Values, path: Path, directories: Collection[str], context: _Context) -> Iterator[Fault]:
    target = link.get("target")
    if not target and context.minor >= 3:
        yield Fault((*path, "target"), "link target is required")
        return
    if not link.get("hard"):
        return
    # a relative target counts from the link itself: Ignition's own reading
    whole = clean(target) if target and target.startswith("/") else join(link.get("path", ""), target or "")
    if whole in directories:
        yield Fault(path, "hard link target is a directory")
    for owner in ("user", "group"):
        for name in ("id", "name"):
            if link.get(owner, {}).get(name) is not None:
                yield Fault((*path, owner, name), "user/group ignored for hard link", "warning")


def _disk(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    device = values.get("device", "")
    if not device:
        yield Fault((*path, "device"), "disk device is required")
        return
    message = _path_fault(device)
    if message:
        yield Fault((*path, "device"), message)
    partitions = values.get("partitions") or []
    here: Path = (*path, "partitions")
    found = _second_of_a_number(partitions)
    if found is not None:
        yield Fault((*here, found), "partition numbers collide")
    found = _overlapping(partitions)
    if found is not None:
        yield Fault((*here, found), "partitions overlap")
    gone = any(partition.get("shouldExist") is False for partition in partitions)
    if gone and not all(partition.get("number") for partition in partitions):
        message = "shouldExist is false for a partition and other partition(s) has start or size 0"
        yield Fault(here, message)
    found = _second_of_a_label(partitions)
    if found is not None:
        yield Fault((*here, found), "cannot use the same partition label twice")


def _second_of_a_number(partitions: list[Values]) -> int | None:
    """Return the index of a partition whose number another one has already."""
    seen: set[int] = set()
    for i, partition in enumerate(partitions):
        number = partition.get("number")
        if number and number in seen:
            return i
        seen.add(number or 0)
    return None


def _second_of_a_label(partitions: list[Values]) -> int | None:
    seen: set[str | None] = {None}
    for i, partition in enumerate(partitions):
        label = partition.get("label")
        if label is not None and label in seen:
            return i
        seen.add(label)
    return None


def _overlapping(partitions: list[Values]) -> int | None:
    """Return the index of a partition that lies over another one, as far as both say where they lie."""
    placed = [(i, p["startMiB"], _end(p)) for i, p in enumerate(partitions) if p.get("startMiB") and "sizeMiB" in p]
    for i, start, end in placed if _may_overlap(placed) else ():
        for j, other_start, other_end in placed:
            inside = other_start <= start <= other_end or other_start <= end <= other_end
            if i != j and (inside or (start < other_start and end > other_end)):
                return j
    return None


def _may_overlap(placed: list[tuple[int, int, int]]) -> bool:
    """Tell whether to look for the pair that Ignition names; nearly always there is none, which is quick to see."""
    by_start = sorted(placed, key=lambda place: place[1])
    backwards = any(end < start for _, start, end in placed)  # a size below 0, which Ignition takes as it comes
    return backwards or any(end >= start for (_, _, end), (_, start, _) in pairwise(by_start))


def _end(partition: Values) -> int:
    # a size of 0 fills what is free: nobody knows where that ends
    start: int = partition["startMiB"]
    return start + partition["sizeMiB"] - 1 if partition["sizeMiB"] else start


def _partition(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    label = values.get("label")
    others = (label, values.get("startMiB"), values.get("sizeMiB"))
    named = values.get("typeGuid") or values.get("guid") or any(other is not None for other in others)
    if values.get("shouldExist") is False and named:
        yield Fault(path, "shouldExist specified false with other options also specified")
    if not values.get("number") and label is None:
        yield Fault(path, "a partition number >= 1 or a label must be specified")
    if label is not None:
        if len(_utf8(label)) > _PARTITION_LABEL:
            yield Fault((*path, "label"), "partition labels may not exceed 36 characters")
        elif ":" in label:
            yield Fault((*path, "label"), "partition label will be truncated to text before the colon")
    for name in ("guid", "typeGuid"):
        if _GUID.fullmatch(values.get(name) or "") is None:
            yield Fault((*path, name), 'doesn\'t match the form "01234567-89AB-CDEF-EDCB-A98765432101"')


def _filesystem(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    where = values.get("path")
    faults = (
        ("path", _path_fault(where) if where else None),
        ("device", _path_fault(values.get("device", ""))),
        ("format", _format_fault(values, context)),
        ("label", _label_fault(values)),
    )
    yield from (Fault((*path, name), message) for name, message in faults if message)


def _format_fault(fs: Values, context: _Context) -> str | None:
    form = fs.get("format")
    if form:
        known = (*_LABEL_LENGTHS, *(["none"] if context.minor >= 3 else []))
        return None if form in known else "invalid filesystem format"
    if any(fs.get(name) for name in ("path", "label", "uuid", "wipeFilesystem", "mountOptions", "options")):
        return "format cannot be empty when path, label, uuid, wipeFilesystem, options, or mountOptions is specified"
    return None


def _label_fault(fs: Values) -> str | None:
    label, form = fs.get("label"), fs.get("format")
    if not label:
        return None
    if not form:
        return "filesystem must specify format if label is specified"
    longest = _LABEL_LENGTHS.get(form)
    if longest is not None and len(_utf8(label)) > longest:
        return f"filesystem labels cannot be longer than {longest} characters when using {form}"
    return None


def _luks(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    if "/" in values.get("name", ""):
        yield Fault((*path, "name"), "device names cannot contain slashes")
    if len(_utf8(values.get("label") or "")) > _LUKS_LABEL:
        yield Fault((*path, "label"), "luks device labels cannot be longer than 47 characters")
    device = values.get("device")
    message = _path_fault(device) if device else "disk device is required"
    if message:
        yield Fault((*path, "device"), message)
    clevis, key_file = values.get("clevis") or {}, values.get("keyFile", {}).get("source")
    custom = clevis.get("custom")
    chosen = bool(clevis.get("tang") or clevis.get("tpm2") or clevis.get("threshold"))
    has_custom = bool(custom and custom.get("pin")) if context.minor >= 3 else custom is not None
    if has_custom and chosen:
        yield Fault((*path, "clevis"), "cannot use custom clevis config with tpm2, tang, or threshold")
    if _source_fault(key_file, context):
        yield Fault((*path, "keys"), "invalid key-file source")
    if values.get("cex", {}).get("enabled"):
        if has_custom or chosen:
            yield Fault((*path, "cex"), "cannot use cex with clevis")
        if key_file:
            yield Fault((*path, "cex"), "cannot use key file with cex")


def _custom(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    pin, config = values.get("pin"), values.get("config")
    if not pin and not config and not (context.minor >= 3 and values.get("needsNetwork")):
        return
    if not pin and context.minor >= 3:
        yield Fault((*path, "pin"), "missing required custom clevis pin")
    elif context.minor < 6 and pin not in _PINS:
        yield Fault((*path, "pin"), "unsupported clevis pin")
    if not config:
        yield Fault((*path, "config"), "missing required custom clevis config")


def _tang(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    message = tang_fault(values.get("url", ""))
    if message:
        yield Fault((*path, "url"), message)
    if not values.get("thumbprint"):
        yield Fault((*path, "thumbprint"), "thumbprint is required")
    advertisement = values.get("advertisement")
    if advertisement and not _is_json(advertisement):
        yield Fault((*path, "advertisement"), "advertisement is not valid JSON")


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except BadJson:
        return False
    return True


def _raid(values: Values, path: Path, context: _Context) -> Iterator[Fault]:
    message = _level_fault(values, context)
    if message:
        yield Fault((*path, "level"), message)
    if not values.get("devices"):
        yield Fault((*path, "devices"), "raid devices required")
    for i, device in enumerate(values.get("devices") or ()):
        message = _path_fault(device)
        if message:
            yield Fault((*path, "devices", i), message)


def _level_fault(raid: Values, context: _Context) -> str | None:
    level = raid.get("level") or ""
    if not level and context.minor >= 3:
        return "raid level is required"
    if level not in _RAID_LEVELS:
        return "unrecognized raid level"
    return "spares unsupported for linear and raid0 arrays" if level in _STRIPED and raid.get("spares") else None


def _systemd(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    units = values.get("units") or ()
    if not any("@" in unit.get("name", "") and unit.get("enabled") for unit in units):
        return
    by_name = {unit.get("name", ""): unit for unit in units}
    for i, unit in enumerate(units):
        match = _INSTANCE.fullmatch(unit.get("name", "")) if unit.get("enabled") else None
        template = f"{match[1]}@.service" if match else ""
        contents = by_name.get(template, {}).get("contents")
        if contents and not _installs(contents):
            message = f"template unit {_quoted(template)} for {_quoted(unit['name'])} doesn't have Install section"
            yield Fault((*path, "units", i, "contents"), message, "warning")


def _installs(contents: str) -> bool:
    """Say whether a unit can be enabled; one with bad contents is not judged."""
    try:
        return "Install" in option_sections(contents)
    except BadUnit:
        return True


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _unit(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    name, contents = values.get("name", ""), values.get("contents")
    if _extension(name) not in _UNIT_TYPES:
        yield Fault((*path, "name"), "invalid systemd unit extension")
    here: Path = (*path, "contents")
    try:
        sections = option_sections(contents or "")
    except BadUnit as error:
        yield Fault(here, f"invalid unit content: {error}")
        return
    if values.get("enabled") and contents and "Install" not in sections:
        message = f"unit {_quoted(name)} is enabled, but has no install section so enable does nothing"
        yield Fault(here, message, "warning")


def _dropin(values: Values, path: Path, _context: _Context) -> Iterator[Fault]:
    try:
        option_sections(values.get("contents") or "")
    except BadUnit as error:
        yield Fault((*path, "contents"), f"invalid unit content: {error}")
    if _extension(values.get("name", "")) != ".conf":
        yield Fault((*path, "name"), "invalid systemd drop-in extension")


def _extension(name: str) -> str:
    last = name.rpartition("/")[2]
    return last[last.rfind(".") :] if "." in last else ""


_CHECKS: dict[Struct, _Check] = {
    CONFIG: _config,
    IGNITION: _ignition,
    IGNITION_CONFIG: _ignition_config,
    TLS: _tls,
    CONFIG_REFERENCE: _reference,
    CA_REFERENCE: _ca_reference,
    RESOURCE: _resource,
    PROXY: _proxy,
    USER_OF_NODE: _owner,
    GROUP_OF_NODE: _owner,
    DIRECTORY: _directory,
    FILE: _file,
    LINK: _node,
    STORAGE: _storage,
    DISK: _disk,
    PARTITION: _partition,
    FILESYSTEM: _filesystem,
    LUKS: _luks,
    CUSTOM: _custom,
    CLEVIS_CUSTOM: _custom,
    TANG: _tang,
    RAID: _raid,
    SYSTEMD: _systemd,
    UNIT: _unit,
    DROPIN: _dropin,
}
_CHECKED = frozenset(_CHECKS)

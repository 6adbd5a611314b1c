"""What Butane asks of a config as the user wrote it. The words are Butane's.

Source: the Validate methods of Butane's base 0.1 to 0.7 and fcos 1.3 to 1.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from butane.gojson import BadJson, parse_json, typed
from butane.report import Fault, Path
from butane.schema import (
    BOOT_DEVICE,
    BOOT_LUKS,
    BOOT_MIRROR,
    CONFIG,
    DIRECTORY,
    DROPIN,
    FILE,
    FILESYSTEM,
    GRUB_USER,
    RESOURCE,
    TREE,
    UNIT,
    Dialect,
    Shape,
    Struct,
    ignition_shape,
    leads_to,
    shape,
)
from butane.unused import unused_json_keys
from butane.validate import UNKNOWN_VERSION, duplicates, ignition_faults, version_fault

Values = dict[str, Any]

DECIMAL_MODE = "unreasonable mode would be reasonable if specified in octal; remember to add a leading zero"
_TOO_MANY_CONTENTS = "only one of the following can be set: contents, contents_local"
_NO_FORMAT = "format is required if with_mount_unit is true"
_NO_PATH = "path is required if with_mount_unit is true and format is not swap"
_BOOT_DISK = "/dev/disk/by-id/coreos-boot-disk"
_MOUNT_POINTS = re.compile(r"/(etc|var)(/|\Z)")
_LAYOUTS = ("aarch64", "ppc64le", "x86_64")
_S390X_LAYOUTS = ("s390x-eckd", "s390x-virt", "s390x-zfcp")
# On these the user names the disk
_S390X_DISKS = {"s390x-eckd": re.compile(r"/dev/dasd[a-z]\Z"), "s390x-zfcp": re.compile(r"/dev/sd[a-z]\Z")}


def source_faults(values: Values, dialect: Dialect) -> Iterator[Fault]:
    """Given a decoded Butane config, yield what Butane has against it, by Butane's paths."""
    return _walk(values, shape(CONFIG, dialect), (), dialect)


def _walk(values: Values, shape: Shape, path: Path, dialect: Dialect) -> Iterator[Fault]:
    check = _CHECKS.get(shape.struct)
    if check is not None:
        yield from check(values, path, dialect)
    for name, slot, inner in shape.inner:
        given = values.get(name)
        if not given or not leads_to(inner.struct, _CHECKED):
            continue
        if slot.many:
            for i, item in enumerate(given):
                yield from _walk(item, inner, (*path, name, i), dialect)
        else:
            yield from _walk(given, inner, (*path, name), dialect)


def _config(values: Values, path: Path, dialect: Dialect) -> Iterator[Fault]:
    if dialect.fcos < 6:
        return
    storage = values.get("storage", {})
    mirrored = values.get("boot_device", {}).get("mirror", {}).get("devices") or ()
    for i, disk in enumerate(storage.get("disks") or ()):
        device = disk.get("device", "")
        if device == _BOOT_DISK or disk.get("wipe_table") or device in mirrored:
            continue
        for j, partition in enumerate(disk.get("partitions") or ()):
            if not partition.get("number") and "label" in partition:
                message = (
                    "partitions cannot be reused by label; number must be specified except on boot disk "
                    f"({_BOOT_DISK}) or when wipe_table is true"
                )
                yield Fault((*path, "storage", "disks", i, "partitions", j, "number"), message, "warning")
    for i, fs in enumerate(storage.get("filesystems") or ()):
        if fs.get("with_mount_unit") and "path" in fs and not _MOUNT_POINTS.match(fs["path"]):
            message = "path must be under /etc or /var if with_mount_unit is true"
            yield Fault((*path, "storage", "filesystems", i, "path"), message)


def _resource(values: Values, path: Path, dialect: Dialect) -> Iterator[Fault]:
    given = [name for name in ("local", "inline", "source") if name in values]
    if len(given) > 1:
        # the first version had no `local`, and told the place of the other one
        last = given[-1] if dialect.minor else "inline"
        yield Fault((*path, last), "only one of the following can be set: inline, local, source")
    elif given == ["inline"] and path[:2] == ("ignition", "config"):
        yield from _ignition_config(values["inline"], path, dialect)


def _ignition_config(text: str, path: Path, dialect: Dialect) -> Iterator[Fault]:
    """Judge an Ignition config that a config merges or is replaced by.

    As Butane does, by the paths in that config, though the place is then looked up in the Butane text.
    """
    final = ignition_shape(dialect.minor)
    try:
        data = parse_json(text)
        config = typed(data, final)
    except BadJson as error:
        yield Fault((), str(error))
        yield Fault((*path, "inline"), "config is not valid")
        return
    if version_fault(config, dialect.minor) == UNKNOWN_VERSION:
        message = "skipping validation for the merge/replace ignition config due to an unkown version"
        yield Fault((*path, "version"), message, "warning")
        return
    yield from ignition_faults(config, final, dialect.minor)
    yield from duplicates(config, final)
    yield from unused_json_keys(data, config, final)


def _filesystem(values: Values, path: Path, dialect: Dialect) -> Iterator[Fault]:
    if not values.get("with_mount_unit"):
        return
    pathless, formless = not values.get("path"), not values.get("format")
    if dialect.minor < 3:
        if pathless:
            yield Fault((*path, "path"), _NO_PATH)
        if formless:
            yield Fault((*path, "format"), _NO_FORMAT)
    elif formless:
        yield Fault((*path, "format"), _NO_FORMAT)
    elif pathless and values["format"] != "swap":
        yield Fault((*path, "path"), _NO_PATH)


def _file(values: Values, path: Path, _dialect: Dialect) -> Iterator[Fault]:
    return _decimal_mode(values, path, directory=False)


def _directory(values: Values, path: Path, _dialect: Dialect) -> Iterator[Fault]:
    return _decimal_mode(values, path, directory=True)


def _tree(values: Values, path: Path, _dialect: Dialect) -> Iterator[Fault]:
    if not values.get("local"):
        yield Fault(path, "local is required")


def _unit(values: Values, path: Path, _dialect: Dialect) -> Iterator[Fault]:
    if "contents" in values and "contents_local" in values:
        yield Fault((*path, "contents_local"), _TOO_MANY_CONTENTS)


def _boot_device(values: Values, path: Path, dialect: Dialect) -> Iterator[Fault]:
    layout, luks = values.get("layout"), values.get("luks", {})
    mirror = values.get("mirror", {}).get("devices")
    if mirror and layout is None:
        message = "boot_device.layout should be specified when boot_device.mirror is specified"
        yield Fault((*path, "mirror"), message, "error" if dialect.fcos >= 7 else "warning")
    if layout is not None:
        here: Path = (*path, "layout")
        yield from (Fault(here, message) for message in _layout_faults(layout, luks, dialect))
        if dialect.fcos >= 6 and layout.startswith("s390x") and mirror:
            yield Fault(here, "mirroring not supported on layouts: s390x-eckd, s390x-zfcp, s390x-virt")
    if luks.get("cex", {}).get("enabled"):
        message = "when using cex the targeted architecture must match s390x"
        if layout is None:
            yield Fault((*path, "luks", "cex"), message)
        elif not layout.startswith("s390x"):
            yield Fault((*path, "layout"), message)
        if luks.get("tang") or luks.get("tpm2"):
            yield Fault((*path, "luks"), "cannot use cex with clevis")
    # asked here and where the mirror is walked to, so it is told twice
    yield from _boot_mirror(values.get("mirror", {}), (*path, "mirror"), dialect)


def _layout_faults(layout: str, luks: Values, dialect: Dialect) -> Iterator[str]:
    if layout in _LAYOUTS:
        return
    if dialect.fcos < 6:
        yield f"layout must be one of: {', '.join(_LAYOUTS)}"
    elif layout in _S390X_DISKS:
        device = luks.get("device")
        if not device:
            yield "device is required for layouts: s390x-eckd, s390x-zfcp"
        elif not _S390X_DISKS[layout].search(device):
            yield "device name must start with /dev/dasd on s390x-eckd layout or /dev/sd on s390x-zfcp layout"
    elif layout not in _S390X_LAYOUTS:
        yield "layout must be one of: aarch64, ppc64le, s390x-eckd, s390x-virt, s390x-zfcp, x86_64"


def _boot_luks(values: Values, path: Path, dialect: Dialect) -> Iterator[Fault]:
    if dialect.fcos < 7 or not values.get("device"):
        return
    tang = any(name != "url" or item for entry in values.get("tang") or () for name, item in entry.items())
    if not (tang or values.get("tpm2") or values.get("cex", {}).get("enabled")):
        yield Fault((*path, "luks"), "no method specified for luks")


def _boot_mirror(values: Values, path: Path, _dialect: Dialect) -> Iterator[Fault]:
    if len(values.get("devices") or ()) == 1:
        yield Fault((*path, "devices"), "mirroring requires at least two devices")


def _grub_user(values: Values, path: Path, _dialect: Dialect) -> Iterator[Fault]:
    for name in ("name", "password_hash"):
        if not values.get(name):
            yield Fault((*path, name), f'field "{name}" is required')


_CHECKS: dict[Struct, Callable[[Values, Path, Dialect], Iterator[Fault]]] = {
    CONFIG: _config,
    RESOURCE: _resource,
    FILESYSTEM: _filesystem,
    FILE: _file,
    DIRECTORY: _directory,
    TREE: _tree,
    UNIT: _unit,
    DROPIN: _unit,
    BOOT_DEVICE: _boot_device,
    BOOT_LUKS: _boot_luks,
    BOOT_MIRROR: _boot_mirror,
    GRUB_USER: _grub_user,
}
_CHECKED = frozenset(_CHECKS)


def _decimal_mode(node: Values, path: Path, *, directory: bool) -> Iterator[Fault]:
    mode = node.get("mode")
    if mode is not None and _looks_decimal(mode, directory):
        yield Fault((*path, "mode"), DECIMAL_MODE, "warning")


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

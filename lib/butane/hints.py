"""What to write instead: a hint for each fault whose remedy can be told.

Hints are ours; Butane has none. Like messages, they hold no value, but for a mode. They say what the user's own
version takes, so that no second error comes of following them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from yaml.nodes import Node, ScalarNode

from butane.localfiles import ESCAPES, ESCAPES_BY_LINK
from butane.parse import child
from butane.report import Fault, Path
from butane.schema import CONFIG, DIALECTS, LATEST, Dialect, Field, Struct
from butane.source import DECIMAL_MODE
from butane.urls import SCHEMES
from butane.validate import SPECIAL_BITS

_HINTS = {
    "error parsing variant; must be specified": "begin with: variant: flatcar (or fcos)",
    "error parsing version; must be a valid semver": "write three numbers, as in: version: 1.1.0",
    "only one of the following can be set: inline, local, source": "keep one of them",
    "only one of the following can be set: contents, contents_local": "keep one of them",
    "local is required": "write local: the folder's path below the files directory",
    "root of tree must be a directory": "for a single file use storage.files with contents.local",
    "trees may only contain files, directories, and symlinks": "take sockets, pipes and devices out of the folder",
    "matching filesystem node has existing contents or different type": "take one of the two away",
    "format is required if with_mount_unit is true": "add format: ext4, xfs, btrfs, vfat or swap",
    "path is required if with_mount_unit is true and format is not swap": "add path: where to mount it",
    "path must be under /etc or /var if with_mount_unit is true": "mount it below /var, and link to it",
    "boot_device.layout should be specified when boot_device.mirror is specified": (
        "add layout: x86_64, aarch64 or ppc64le"
    ),
    "mirroring requires at least two devices": "name a second disk, or leave mirror out",
    "clevis is not supported in this spec version": "this version of flatcar has no clevis: use key_file",
    "link target is required": "add target: where the link leads",
    "path not specified": "add the path, from / on",
    "path not absolute": "begin it with /",
    "path is not fully simplified": "leave out //, . and .., and a slash at the end",
    "illegal file mode": "a mode is from 0 to 07777",
    "cannot set both id and name": "keep one of them",
    "overwrite must be false if source is unspecified": "add contents, or leave overwrite out",
    "source must be specified if verification is specified": "add source, inline or local",
    "source is required": "add source, inline or local",
    "malformed hash specifier": "write sha512- or sha256- and the digest in hex",
    "unrecognized hash function": "use sha512 or (not in the oldest version) sha256",
    "incorrect size for hash sum": "sha512 has 128 hex digits, sha256 has 64",
    "invalid compression method": "write gzip, or nothing",
    "cannot use HTTP headers with this source scheme": "only http and https have headers",
    "duplicate entry defined": "another entry has the same name, path, device or text: keep one",
    "invalid systemd unit extension": "end the name in .service, .timer, .mount, .socket, .path, .target, ...",
    "invalid systemd drop-in extension": "end the name in .conf",
    "path conflicts with systemd unit or dropin": "write it under systemd.units alone",
    "invalid filesystem format": "use ext4, btrfs, xfs, swap, vfat or (from Ignition 3.3 on) none",
    "raid level is required": "add level: raid0, raid1, raid4, raid5, raid6, raid10 or linear",
    "unrecognized raid level": "use raid0, raid1, raid4, raid5, raid6, raid10 or linear",
    "raid devices required": "add devices",
    "disk device is required": "add device",
    "a partition number >= 1 or a label must be specified": "add label, or number",
    "thumbprint is required": "add thumbprint: what `tang-show-keys` prints",
    'field "name" is required': "add name",
    'field "password_hash" is required': "add password_hash: what grub2-mkpasswd-pbkdf2 prints",
    ESCAPES: "put the file below the files directory",
    ESCAPES_BY_LINK: "put a copy of the file in place of the link",
} | {
    f"{kind} path includes link in config": "write it below what the link leads to"
    for kind in ("file", "directory", "link")
}
_NO_INSTALL = re.compile(
    r"unit .* is enabled, but has no install section|template unit .* doesn't have Install section"
)
# A mode without a leading zero; three digits are what people mean to be octal
_DIGITS = re.compile(r"[0-7]+")
_DECIMAL = re.compile(r"[1-7][0-7]{2}")
_UNUSED = re.compile(r"unused key (.*)", re.DOTALL)
_MISMATCH = re.compile(r"cannot unmarshal (\S+|a value with a tag) into (\S+)")


def hint(fault: Fault, root: Node | None, dialect: Dialect | None) -> str:
    """Given what was found in a text of a version, return what to write instead, or nothing."""
    message = fault.message
    if message in _HINTS:
        return _HINTS[message]
    unused = _UNUSED.fullmatch(message)
    if unused is not None:
        return _for_unused(unused[1], fault.path[:-1], dialect)
    if message == DECIMAL_MODE:
        return _for_decimal(fault.path, root)
    if message == SPECIAL_BITS:
        return _for_special_bits(fault.path, root, dialect)
    if message in ("invalid url scheme", "unable to parse url"):
        return _for_url(message, fault.path[-1], dialect)
    if _NO_INSTALL.match(message):
        return "add a section [Install] with WantedBy=multi-user.target, or leave enabled out"
    if message.startswith("No translator exists"):
        return f"known are {_known()}"
    mismatch = _MISMATCH.match(message)
    return _for_mismatch(mismatch[1], mismatch[2]) if mismatch is not None else ""


def _known() -> str:
    versions: dict[str, list[str]] = {}
    for variant, version in DIALECTS:
        versions.setdefault(variant, []).append(version)
    return "; ".join(f"{variant} {', '.join(numbers)}" for variant, numbers in sorted(versions.items()))


def _for_unused(name: str, path: Path, dialect: Dialect | None) -> str:
    structs = list(_structs_at(path))
    elsewhere = [field for struct in structs for field in struct.fields if field.name == name]
    having = [d for d in DIALECTS.values() if any(d.has(field) for field in elsewhere)]
    if dialect is not None and having and dialect not in having:
        mine = [d for d in having if d.variant == dialect.variant]
        return f"known from {(mine or having)[0].variant} {(mine or having)[0].version} on"
    names = {field.name for struct in structs for field in struct.fields if dialect is None or dialect.has(field)}
    close = difflib.get_close_matches(name, sorted(names), n=1)
    return f"did you mean {close[0]}?" if close else ""


def _structs_at(path: Path) -> Iterator[Struct]:
    """Yield the mappings that can stand at a path, in any version."""
    found = [CONFIG]
    for part in path:
        if isinstance(part, str):
            fields: Iterator[Field] = (field for struct in found for field in struct.fields if field.name == part)
            found = [field.type for field in fields if isinstance(field.type, Struct)]
    yield from found


def _for_decimal(path: Path, root: Node | None) -> str:
    written = _written(path, root)
    return f"write 0{written}" if _DIGITS.fullmatch(written) else "begin it with 0"


def _for_special_bits(path: Path, root: Node | None, dialect: Dialect | None) -> str:
    if _DECIMAL.fullmatch(_written(path, root)):
        return _for_decimal(path, root)
    newer = "use fcos 1.7.0, or " if dialect is not None and dialect.variant == "fcos" else ""
    return f"{newer}set the bits on the host in a unit"


def _written(path: Path, root: Node | None) -> str:
    node = root
    for part in path:
        node = None if node is None else child(node, part)
    return node.value if isinstance(node, ScalarNode) else ""


def _for_url(message: str, field: str | int, dialect: Dialect | None) -> str:
    if field == "http_headers":
        return "add source: headers are for http and https"
    minor = LATEST if dialect is None else dialect.minor
    of_resource = [scheme for scheme, since in SCHEMES.items() if since <= minor]
    schemes = ["http", "https"] if field in ("url", "http_proxy", "https_proxy") else of_resource
    known = f"{', '.join(schemes[:-1])} or {schemes[-1]}"
    if message == "invalid url scheme":
        return f"use {known}"
    return f"begin with a scheme ({known}), and escape odd characters with %"


def _for_mismatch(found: str, wanted: str) -> str:
    if wanted.startswith("[]"):
        return "write a list: each entry on a line of its own, after a dash"
    if found == "!!seq":
        return "write one value, not a list"
    if wanted == "int":
        return "write a number, without quotes" if found == "!!str" else "write a number"
    if wanted == "bool":
        return "write true or false, without quotes"
    return "write text" if wanted == "string" else "write a mapping: keys with their values, set in"

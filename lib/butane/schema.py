"""The fields of Butane and of Ignition, in one table.

A field is listed once: its Butane name, its type, and what Ignition does with it. The order of the
fields is that of Ignition's own structs, because the output is printed in that order. Decoding,
translating, printing and merging all read this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

Version = tuple[int, int, int]
"""An Ignition spec version."""


class Kind(Enum):
    """A scalar type of Butane; the value is its name in messages."""

    STRING = "string"
    DATA = "string or binary"
    """A string that is wanted as bytes, which a `!!binary` may also give."""
    INTEGER = "integer"
    BOOLEAN = "boolean"


@dataclass(frozen=True)
class Field:
    """One key of a mapping."""

    name: str
    """The key in Butane."""
    type: Kind | Struct = Kind.STRING
    many: bool = False
    """The value is a list of `type`."""
    always: bool = False
    """Ignition prints the field even where nothing was given (a plain string, not a pointer)."""
    appends: bool = False
    """A merge appends the child's list to the parent's, and equal entries are no duplicates."""
    shares: str = ""
    """Lists of one struct that share this name have one set of keys between them."""
    only: str = ""
    """"butane" or "ignition" for a field that the other format does not have."""

    @cached_property
    def json(self) -> str:
        """The key in Ignition."""
        head, *rest = self.name.split("_")
        return head + "".join(word.capitalize() for word in rest)


@dataclass(frozen=True)
class Struct:
    """A mapping with a fixed set of keys."""

    name: str
    fields: tuple[Field, ...]
    key: str = ""
    """The field by which entries of a list are told apart."""
    foreign: frozenset[str] = frozenset()
    """Keys that Butane knows and this package does not translate yet."""

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """The fields that Butane has, by their Butane names."""
        return {field.name: field for field in self.fields if field.only != "ignition"}

    @cached_property
    def nested(self) -> tuple[Field, ...]:
        """The fields of Ignition that hold lists or mappings."""
        fields = self.by_json.values()
        return tuple(field for field in fields if field.many or isinstance(field.type, Struct))

    @cached_property
    def by_json(self) -> dict[str, Field]:
        """The fields that Ignition has, by their Ignition names."""
        return {field.json: field for field in self.fields if field.only != "butane"}


def _strings(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name) for name in names)


_OWNER = (Field("id", Kind.INTEGER), Field("name"))
_NODE = (
    Field("group", Struct("group", _OWNER)),
    Field("overwrite", Kind.BOOLEAN),
    Field("path", always=True),
    Field("user", Struct("user", _OWNER)),
)
HEADER = Struct("http header", (Field("name", always=True), Field("value")), key="name")
RESOURCE = Struct(
    "resource",
    (
        Field("compression"),
        Field("http_headers", HEADER, many=True),
        Field("source"),
        Field("inline", Kind.DATA, only="butane"),
        Field("local", only="butane"),
        Field("verification", Struct("verification", _strings("hash"))),
    ),
)
FILE = Struct(
    "file",
    (
        *_NODE,
        Field("append", RESOURCE, many=True, appends=True),
        Field("contents", RESOURCE),
        Field("mode", Kind.INTEGER),
    ),
    key="path",
)
DIRECTORY = Struct("directory", (*_NODE, Field("mode", Kind.INTEGER)), key="path")
LINK = Struct("link", (*_NODE, Field("hard", Kind.BOOLEAN), Field("target")), key="path")
STORAGE = Struct(
    "storage",
    (
        Field("directories", DIRECTORY, many=True, shares="node"),
        Field("files", FILE, many=True, shares="node"),
        Field("links", LINK, many=True, shares="node"),
    ),
    foreign=frozenset({"disks", "filesystems", "luks", "raid", "trees"}),
)
GROUP = Struct(
    "group",
    (
        Field("gid", Kind.INTEGER),
        Field("name", always=True),
        Field("password_hash"),
        Field("system", Kind.BOOLEAN),
    ),
    key="name",
    foreign=frozenset({"should_exist"}),
)
USER = Struct(
    "user",
    (
        Field("gecos"),
        Field("groups", many=True),
        Field("home_dir"),
        Field("name", always=True),
        Field("no_create_home", Kind.BOOLEAN),
        Field("no_user_group", Kind.BOOLEAN),
        Field("password_hash"),
        Field("primary_group"),
        Field("ssh_authorized_keys", many=True),
        Field("shell"),
        Field("should_exist", Kind.BOOLEAN),
        Field("system", Kind.BOOLEAN),
        Field("uid", Kind.INTEGER),
    ),
    key="name",
    foreign=frozenset({"no_log_init", "ssh_authorized_keys_local"}),
)
PASSWD = Struct("passwd", (Field("groups", GROUP, many=True), Field("users", USER, many=True)))
DROPIN = Struct(
    "drop-in",
    (Field("contents"), Field("name", always=True)),
    key="name",
    foreign=frozenset({"contents_local"}),
)
UNIT = Struct(
    "unit",
    (
        Field("contents"),
        Field("dropins", DROPIN, many=True),
        Field("enabled", Kind.BOOLEAN),
        Field("mask", Kind.BOOLEAN),
        Field("name", always=True),
    ),
    key="name",
    foreign=frozenset({"contents_local"}),
)
SYSTEMD = Struct("systemd", (Field("units", UNIT, many=True),))
KERNEL_ARGUMENTS = Struct(
    "kernel_arguments",
    (
        Field("should_exist", many=True, shares="argument"),
        Field("should_not_exist", many=True, shares="argument"),
    ),
)
CONFIG = Struct(
    "config",
    (
        Field("variant", only="butane"),
        Field("version", only="butane"),
        Field("ignition", Struct("ignition", _strings("version")), only="ignition"),
        Field("kernel_arguments", KERNEL_ARGUMENTS),
        Field("passwd", PASSWD),
        Field("storage", STORAGE),
        Field("systemd", SYSTEMD),
    ),
    foreign=frozenset({"ignition", "boot_device", "grub"}),
)

SPECS: dict[tuple[str, str], Version] = {
    ("flatcar", "1.0.0"): (3, 3, 0),
    ("flatcar", "1.1.0"): (3, 4, 0),
    ("fcos", "1.4.0"): (3, 3, 0),
    ("fcos", "1.5.0"): (3, 4, 0),
}
"""The dialects that are supported, and the Ignition spec that each becomes."""

LATEST = max(SPECS.values())

"""The fields of Butane and of Ignition, in one table for all versions.

A field is listed once, with what Ignition does with it and the versions that have it; what a version
has is looked up in this table (`shape`), never written down again. The order of the fields is that of
Ignition's own structs, because the output is printed and the report is told in that order. Decoding,
translating, printing, merging, validating and explaining all read this table.

Source: the schemas of Butane 0.29 (base 0.1 to 0.7, fcos 1.0 to 1.7, flatcar 1.0 and 1.1) and the types
of Ignition 3.0 to 3.6. A base version of Butane belongs to one version of Ignition, so the minor version
of Ignition names both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from typing import Any

NEVER = 0
EVER = 99


class Kind(Enum):
    """A scalar type of Butane; the value is Go's name for it, which messages use."""

    STRING = "string"
    INTEGER = "int"
    BOOLEAN = "bool"


@dataclass(frozen=True)
class Field:
    """One key of a mapping. `since`, `until`, `plain`, `pointer` and `null` are minor versions of Ignition 3."""

    name: str
    """The key in Butane."""
    type: Kind | Struct = Kind.STRING
    many: bool = False
    """The value is a list of `type`."""
    since: int = 0
    """The first version that has the field."""
    until: int = EVER
    """The first version that has it no more, or has another type for it."""
    fcos: int = NEVER
    """The first minor version of fcos that has it; a field without this is one of every variant."""
    plain: int = NEVER
    """Before this version the value cannot be absent: nothing is an empty string or 0."""
    hidden: bool = False
    """A plain value that is not printed where it is empty."""
    pointer: int = NEVER
    """Before this version an empty mapping is not the same as none, and is printed."""
    null: int = NEVER
    """Before this version a value that is absent is printed as null."""
    appends: bool = False
    """A merge appends the child's list to the parent's, and equal entries are no duplicates."""
    shares: str = ""
    """Lists of one struct that share this name have one set of keys between them."""
    only: str = ""
    """"butane" or "ignition" for a field that the other format does not have."""

    @cached_property
    def json(self) -> str:
        """The key in Ignition."""
        return camel(self.name)


def camel(name: str) -> str:
    """Given a key of Butane, return Ignition's."""
    head, *rest = name.split("_")
    return head + "".join("MiB" if word == "mib" else word.capitalize() for word in rest)


def by_name(entry: dict[str, Any]) -> Any:
    """Given an entry of a list, return its name."""
    return entry.get("name", "")


def _by(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry.get(name) or ""


def _partition_key(entry: dict[str, Any]) -> Any:
    if entry.get("number"):
        return ("number", entry["number"])
    return ("label", entry["label"]) if "label" in entry else ""


@dataclass(frozen=True, eq=False)
class Struct:
    """A mapping with a fixed set of keys."""

    name: str
    """Go's name for it, which messages use."""
    fields: tuple[Field, ...]
    key: Callable[[dict[str, Any]], Any] = by_name
    """What tells entries of a list apart: of two with one key, the child's counts in a merge."""


def _texts(*names: str, **more: Any) -> tuple[Field, ...]:
    return tuple(Field(name, **more) for name in names)


def _flags(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.BOOLEAN) for name in names)


_NAME = Field("name", plain=EVER)
_VERIFICATION = Struct("Verification", _texts("hash"))
HEADER = Struct("HTTPHeader", (_NAME, Field("value")))
_LOCAL = Field("local", only="butane", since=1)
_INLINE = Field("inline", only="butane")
RESOURCE = Struct(
    "Resource",
    (
        Field("compression"),
        Field("http_headers", HEADER, many=True, since=1),
        Field("source"),
        _INLINE,
        _LOCAL,
        Field("verification", _VERIFICATION),
    ),
    key=_by("source"),
)
# In 3.0 a config and a certificate are no resources yet: neither has contents of its own.
CONFIG_REFERENCE = Struct(
    "ConfigReference", (Field("source", null=EVER), Field("verification", _VERIFICATION)), key=_by("source")
)
CA_REFERENCE = Struct(
    "CaReference", (Field("source", plain=EVER), Field("verification", _VERIFICATION)), key=_by("source")
)

USER_OF_NODE = Struct("NodeUser", (Field("id", Kind.INTEGER), Field("name")))
GROUP_OF_NODE = Struct("NodeGroup", (Field("id", Kind.INTEGER), Field("name")))
_GROUP, _USER = Field("group", GROUP_OF_NODE), Field("user", USER_OF_NODE)
_NODE = (_GROUP, Field("overwrite", Kind.BOOLEAN), Field("path", plain=EVER), _USER)
_MODE = Field("mode", Kind.INTEGER)
FILE = Struct(
    "File",
    (*_NODE, Field("append", RESOURCE, many=True, appends=True), Field("contents", RESOURCE), _MODE),
    key=_by("path"),
)
DIRECTORY = Struct("Directory", (*_NODE, _MODE), key=_by("path"))
LINK = Struct("Link", (*_NODE, Field("hard", Kind.BOOLEAN), Field("target", plain=3)), key=_by("path"))
TREE = Struct(
    "Tree",
    (
        Field("group", GROUP_OF_NODE, since=6, only="butane"),
        Field("local", plain=EVER, only="butane"),
        Field("path", only="butane"),
        Field("user", USER_OF_NODE, since=6, only="butane"),
        Field("file_mode", Kind.INTEGER, since=6, only="butane"),
        Field("dir_mode", Kind.INTEGER, since=6, only="butane"),
    ),
)

PARTITION = Struct(
    "Partition",
    (
        *_texts("guid", "label"),
        Field("number", Kind.INTEGER, plain=EVER, hidden=True),
        Field("resize", Kind.BOOLEAN, since=2),
        Field("should_exist", Kind.BOOLEAN),
        Field("size_mib", Kind.INTEGER),
        Field("start_mib", Kind.INTEGER),
        Field("type_guid"),
        Field("wipe_partition_entry", Kind.BOOLEAN),
    ),
    key=_partition_key,
)
DISK = Struct(
    "Disk",
    (Field("device", plain=EVER), Field("partitions", PARTITION, many=True), Field("wipe_table", Kind.BOOLEAN)),
    key=_by("device"),
)
FILESYSTEM = Struct(
    "Filesystem",
    (
        Field("device", plain=EVER),
        *_texts("format", "label"),
        Field("mount_options", many=True, appends=True, since=1),
        Field("options", many=True, appends=True),
        *_texts("path", "uuid"),
        Field("wipe_filesystem", Kind.BOOLEAN),
        Field("with_mount_unit", Kind.BOOLEAN, since=1, only="butane"),
    ),
    key=_by("device"),
)
RAID = Struct(
    "Raid",
    (
        Field("devices", many=True),
        Field("level", plain=3),
        _NAME,
        Field("options", many=True, appends=True),
        Field("spares", Kind.INTEGER),
    ),
)
CEX = Struct("Cex", _flags("enabled"))
TANG = Struct(
    "Tang",
    (Field("advertisement", since=4), Field("thumbprint"), Field("url", plain=EVER, hidden=True)),
    key=_by("url"),
)
CUSTOM = Struct("Custom", (Field("config", plain=EVER), Field("needs_network", Kind.BOOLEAN), Field("pin", plain=EVER)))
CLEVIS_CUSTOM = Struct("ClevisCustom", (Field("config"), Field("needs_network", Kind.BOOLEAN), Field("pin")))
CLEVIS = Struct(
    "Clevis",
    (
        Field("custom", CUSTOM, until=3, pointer=3),
        Field("custom", CLEVIS_CUSTOM, since=3),
        Field("tang", TANG, many=True),
        Field("threshold", Kind.INTEGER),
        Field("tpm2", Kind.BOOLEAN),
    ),
)
LUKS = Struct(
    "Luks",
    (
        Field("cex", CEX, since=5),
        Field("clevis", CLEVIS, pointer=3),
        Field("device"),
        Field("discard", Kind.BOOLEAN, since=4),
        Field("key_file", RESOURCE),
        Field("label"),
        _NAME,
        Field("open_options", many=True, since=4),
        Field("options", many=True, appends=True),
        Field("uuid"),
        Field("wipe_volume", Kind.BOOLEAN),
    ),
)
STORAGE = Struct(
    "Storage",
    (
        Field("directories", DIRECTORY, many=True, shares="node"),
        Field("disks", DISK, many=True),
        Field("files", FILE, many=True, shares="node"),
        Field("filesystems", FILESYSTEM, many=True),
        Field("links", LINK, many=True, shares="node"),
        Field("luks", LUKS, many=True, since=2),
        Field("raid", RAID, many=True),
        Field("trees", TREE, many=True, since=1, only="butane"),
    ),
)

GROUP = Struct(
    "PasswdGroup",
    (
        Field("gid", Kind.INTEGER),
        _NAME,
        Field("password_hash"),
        Field("should_exist", Kind.BOOLEAN, since=2),
        Field("system", Kind.BOOLEAN),
    ),
)
USER = Struct(
    "PasswdUser",
    (
        Field("gecos"),
        Field("groups", many=True),
        Field("home_dir"),
        _NAME,
        *_flags("no_create_home", "no_log_init", "no_user_group"),
        *_texts("password_hash", "primary_group"),
        Field("ssh_authorized_keys", many=True),
        Field("ssh_authorized_keys_local", many=True, since=4, only="butane"),
        Field("shell"),
        Field("should_exist", Kind.BOOLEAN, since=2),
        Field("system", Kind.BOOLEAN),
        Field("uid", Kind.INTEGER),
    ),
)
PASSWD = Struct("Passwd", (Field("groups", GROUP, many=True), Field("users", USER, many=True)))

_CONTENTS_LOCAL = Field("contents_local", since=4, only="butane")
DROPIN = Struct("Dropin", (Field("contents"), _CONTENTS_LOCAL, _NAME))
UNIT = Struct(
    "Unit",
    (
        Field("contents"),
        _CONTENTS_LOCAL,
        Field("dropins", DROPIN, many=True),
        *_flags("enabled", "mask"),
        _NAME,
    ),
)
SYSTEMD = Struct("Systemd", (Field("units", UNIT, many=True),))
KERNEL_ARGUMENTS = Struct(
    "KernelArguments",
    (Field("should_exist", many=True, shares="argument"), Field("should_not_exist", many=True, shares="argument")),
)

IGNITION_CONFIG = Struct(
    "IgnitionConfig",
    (
        Field("merge", CONFIG_REFERENCE, many=True, until=1),
        Field("merge", RESOURCE, many=True, since=1),
        Field("replace", CONFIG_REFERENCE, until=1),
        Field("replace", RESOURCE, since=1),
    ),
)
PROXY = Struct("Proxy", (*_texts("http_proxy", "https_proxy"), Field("no_proxy", many=True)))
TLS = Struct(
    "TLS",
    (
        Field("certificate_authorities", CA_REFERENCE, many=True, until=1),
        Field("certificate_authorities", RESOURCE, many=True, since=1),
    ),
)
IGNITION = Struct(
    "Ignition",
    (
        Field("config", IGNITION_CONFIG),
        Field("proxy", PROXY, since=1),
        Field("security", Struct("Security", (Field("tls", TLS),))),
        Field(
            "timeouts",
            Struct("Timeouts", (Field("http_response_headers", Kind.INTEGER), Field("http_total", Kind.INTEGER))),
        ),
        Field("version", plain=EVER, only="ignition"),
    ),
)

BOOT_LUKS = Struct(
    "BootDeviceLuks",
    (
        Field("cex", CEX, fcos=6),
        Field("discard", Kind.BOOLEAN, fcos=5),
        Field("device", fcos=6),
        Field("tang", TANG, many=True),
        Field("threshold", Kind.INTEGER),
        Field("tpm2", Kind.BOOLEAN),
    ),
)
BOOT_MIRROR = Struct("BootDeviceMirror", (Field("devices", many=True),))
BOOT_DEVICE = Struct("BootDevice", (Field("layout"), Field("luks", BOOT_LUKS), Field("mirror", BOOT_MIRROR)))
GRUB_USER = Struct("GrubUser", (_NAME, Field("password_hash")))

CONFIG = Struct(
    "Config",
    (
        Field("version", plain=EVER, only="butane"),
        Field("variant", plain=EVER, only="butane"),
        Field("ignition", IGNITION),
        Field("kernel_arguments", KERNEL_ARGUMENTS, since=3),
        Field("passwd", PASSWD),
        Field("storage", STORAGE),
        Field("systemd", SYSTEMD),
        Field("boot_device", BOOT_DEVICE, fcos=3, only="butane"),
        Field("grub", Struct("Grub", (Field("users", GRUB_USER, many=True),)), fcos=5, only="butane"),
    ),
)


@dataclass(frozen=True)
class Dialect:
    """One variant and version of Butane, or (without a variant) a version of Ignition alone."""

    variant: str
    version: str
    """Butane's version; empty where there is no variant."""
    minor: int
    """The minor version of Ignition 3 that it becomes."""

    @cached_property
    def fcos(self) -> int:
        """The minor version of fcos, 0 for any other variant."""
        return int(self.version.split(".")[1]) if self.variant == "fcos" else 0

    @property
    def ignition(self) -> str:
        """The version that the Ignition config has."""
        return f"3.{self.minor}.0"

    def has(self, field: Field) -> bool:
        """Given a field of the table, tell whether this version has it."""
        return field.since <= self.minor < field.until and (not field.fcos or field.fcos <= self.fcos)


DIALECTS = {
    (variant, version): Dialect(variant, version, minor)
    for variant, versions in {
        "flatcar": {"1.0.0": 3, "1.1.0": 4},
        "fcos": {"1.0.0": 0, "1.1.0": 1, "1.2.0": 2, "1.3.0": 2, "1.4.0": 3, "1.5.0": 4, "1.6.0": 5, "1.7.0": 6},
    }.items()
    for version, minor in versions.items()
}
"""What can be translated, by variant and version."""
LATEST = max(dialect.minor for dialect in DIALECTS.values())


@dataclass(frozen=True, eq=False)
class Slot:
    """A field as one version has it."""

    field: Field
    name: str
    json: str
    many: bool
    kind: Kind | None
    """The scalar type; None for a mapping."""
    shape: Shape | None
    """The mapping's shape; None for a scalar."""
    plain: bool
    pointer: bool
    null: bool
    empty: Any
    """What a plain value is where nothing was given."""

    def is_zero(self, value: Any) -> bool:
        """Given a value of Ignition, tell whether Go would call it zero: nothing was given."""
        if value is None:
            return True
        if self.many:
            return not value
        if self.shape is not None:
            return not self.pointer and self.shape.is_zero(value)
        return self.plain and value == self.empty


@dataclass(frozen=True, eq=False)
class Shape:
    """A mapping as one version has it: its fields in Ignition's order."""

    struct: Struct
    slots: tuple[Slot, ...]

    @cached_property
    def by_name(self) -> dict[str, Slot]:
        """The fields that Butane has, by their Butane names."""
        return {slot.name: slot for slot in self.slots if slot.field.only != "ignition"}

    @cached_property
    def by_json(self) -> dict[str, Slot]:
        """The fields that Ignition has, by their Ignition names."""
        return {slot.json: slot for slot in self.slots if slot.field.only != "butane"}

    @cached_property
    def nested(self) -> tuple[Slot, ...]:
        """The fields of Ignition that hold lists or mappings."""
        return tuple(slot for slot in self.by_json.values() if slot.many or slot.shape is not None)

    @cached_property
    def inner(self) -> tuple[tuple[str, Slot, Shape], ...]:
        """The fields of Butane that hold mappings, with their names and shapes."""
        return tuple((name, slot, slot.shape) for name, slot in self.by_name.items() if slot.shape is not None)

    @cached_property
    def lists(self) -> tuple[Slot, ...]:
        """The fields of Ignition that hold lists whose entries are told apart by a key."""
        return tuple(slot for slot in self.by_json.values() if slot.many and not slot.field.appends)

    def is_zero(self, value: dict[str, Any]) -> bool:
        """Given a mapping of Ignition, tell whether nothing was given in it."""
        return all(self.by_json[name].is_zero(item) for name, item in value.items())


@cache
def leads_to(struct: Struct, wanted: frozenset[Struct]) -> bool:
    """Tell whether a mapping is one of those that are wanted, or can have one of them in it."""
    inner = (field.type for field in struct.fields if isinstance(field.type, Struct))
    return struct in wanted or any(leads_to(other, wanted) for other in inner)


@cache
def shape(struct: Struct, dialect: Dialect) -> Shape:
    """Given a mapping of the table and a version, return its shape there."""
    return Shape(struct, tuple(_slot(field, dialect) for field in struct.fields if dialect.has(field)))


def _slot(field: Field, dialect: Dialect) -> Slot:
    scalar = field.type if isinstance(field.type, Kind) else None
    return Slot(
        field=field,
        name=field.name,
        json=field.json,
        many=field.many,
        kind=scalar,
        shape=None if isinstance(field.type, Kind) else shape(field.type, dialect),
        plain=dialect.minor < field.plain,
        pointer=dialect.minor < field.pointer,
        null=dialect.minor < field.null,
        empty=0 if scalar is Kind.INTEGER else "",
    )


@cache
def ignition_shape(minor: int) -> Shape:
    """Given a minor version of Ignition 3, return the shape of its configs."""
    return shape(CONFIG, Dialect("", "", minor))

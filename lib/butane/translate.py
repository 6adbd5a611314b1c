"""A Butane config to the Ignition config that it stands for.

The steps and their order are Butane's, because it stops at the first step that finds an error: read the
YAML, decode it, look for unused keys, check the source, translate, check for fields that the variant has
not, look for duplicates, check the result by Ignition's rules. `thorough` goes on to the end, for those
who want to know everything at once.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from yaml.nodes import Node

from butane import hints, sugar
from butane.consequences import Consequences
from butane.dataurls import data_url, escaped_data_url, plain_data_url
from butane.decode import Decoder, Unreadable
from butane.localfiles import NO_DIRECTORY, LocalFiles, NoFile
from butane.merge import merged_structs
from butane.origins import Origins
from butane.parse import compose, locate
from butane.printing import dump, ordered
from butane.report import BadConfig, Entry, Fault, Path, dotted, has_errors
from butane.schema import (
    CONFIG,
    DIALECTS,
    DROPIN,
    EVER,
    LATEST,
    RESOURCE,
    UNIT,
    USER,
    Dialect,
    Field,
    Shape,
    Slot,
    Struct,
    ignition_shape,
    shape,
)
from butane.source import source_faults
from butane.trees import Trees
from butane.unused import unused_keys
from butane.validate import duplicates, filtered, ignition_faults
from butane.versions import semver

_LINES = re.compile(r"\r?\n")


@dataclass(frozen=True)
class Translation:
    """The outcome of a translation."""

    config: dict[str, Any]
    """The Ignition config, its fields in Ignition's order."""
    report: tuple[Entry, ...]
    """The warnings, in Butane's order."""
    files: tuple[str, ...]
    """The local files that were read: files_dir and `local` joined, in order of first use."""
    folders: tuple[str, ...] = ()
    """The folders of trees that were listed: a new file in one of them changes the outcome."""

    @functools.cached_property
    def json(self) -> bytes:
        """The same as Go prints it, with one newline at the end."""
        return dump(self.config)

    @functools.cached_property
    def pretty(self) -> bytes:
        """The same indented by two spaces."""
        return dump(self.config, pretty=True)


def translate(
    text: str,
    files_dir: str | os.PathLike[str] | LocalFiles | None = None,
    strict: bool = False,
    *,
    thorough: bool = False,
    hints: bool = False,
) -> Translation:
    """Given a Butane config, return the Ignition config that it stands for.

    Local files are read below `files_dir`, which may be a LocalFiles of yours. Raise BadConfig with the
    errors and warnings if there is an error, or with the warnings where `strict` says that they count
    too. `thorough` finds also what Butane finds only once the first errors are mended; `hints` fills
    in what to write instead.
    """
    files = files_dir if isinstance(files_dir, LocalFiles) else LocalFiles(files_dir)
    return _Run(text, files, thorough, hints).translation(strict)


class _Run:
    """One translation: the text, and what was found out of it so far."""

    def __init__(self, text: str, files: LocalFiles, thorough: bool, hints: bool) -> None:
        self.text = text
        self.files = files
        self.thorough = thorough
        self.hints = hints
        self.root: Node | None = compose(text)
        self.known: Dialect | None = None
        self.entries: list[Entry] = []
        self.unread = Consequences(set())
        self.error = ""

    def translation(self, strict: bool) -> Translation:
        dialect = self.dialect()
        values = self.decoded(dialect)
        config = self.translated(values, dialect)
        if has_errors(self.entries):
            raise BadConfig(self.entries, self.error)
        if strict and self.entries:
            raise BadConfig(self.entries, "warnings, and strict was asked for")
        return Translation(config, tuple(self.entries), tuple(self.files.contents), tuple(self.files.folders))

    def dialect(self) -> Dialect:
        """Return the variant and version that the config names; the latest where it names none that is known."""
        decoder = Decoder("config")
        head = self.read(decoder, shape(_HEAD, _LATEST))
        if decoder.faults and not self.thorough:  # else they are told with all the others
            self.unreadable(decoder, "Error unmarshaling yaml: ")
        found = _dialect(head.get("variant", ""), head.get("version", ""))
        if isinstance(found, Dialect):
            self.known = found
            return found
        if not Consequences(decoder.broken).has(found):
            self.stop([self.placed(found)], found.message)
        return _LATEST

    def decoded(self, dialect: Dialect) -> dict[str, Any]:
        decoder = Decoder(f"v0_{dialect.minor + 1}")
        root = shape(CONFIG, self.known or _EVERY_FIELD)
        values = self.read(decoder, root)
        self.unread = Consequences(decoder.broken)
        if decoder.faults:
            self.unreadable(decoder)
        if decoder.odd:
            self.found(unused_keys(self.root, values, root))
        return values

    def unreadable(self, decoder: Decoder, prefix: str = "") -> None:
        """Take what the decoder could not read, at the nodes where it is: a path does not lead behind an alias."""
        entries = [replace(self.placed(fault), line=line, column=column) for fault, line, column in decoder.faults]
        lines = (f"line {entry.line}: {entry.message}" for entry in entries)
        self.stop(entries, "\n  ".join((f"{prefix}yaml: unmarshal errors:", *lines)))

    def read(self, decoder: Decoder, root: Shape) -> dict[str, Any]:
        try:
            return decoder.config(self.root, root)
        except Unreadable as error:
            gave_up = BadConfig([*self.entries, error.entry], f"yaml: {error.entry.message}", unread=True)
        raise gave_up

    def translated(self, values: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
        translator = _Translator(self.files, dialect)
        self.step(source_faults(values, dialect), "source config is invalid")
        config = translator.config(values)
        origins = translator.origins
        self.step([*translator.faults, *self.in_butane(translator.warnings, origins)], "source config is invalid")
        final = ignition_shape(dialect.minor)
        self.step(self.in_butane(filtered(config, dialect), origins), "source config is invalid")
        faults = [*duplicates(config, final), *ignition_faults(config, final, dialect.minor, translator.made)]
        self.step(self.in_butane(faults, origins), "config generated was invalid")
        return config

    def in_butane(self, faults: Iterable[Fault], origins: Origins) -> Iterable[Fault]:
        return (replace(fault, path=origins.of(fault.path)) for fault in faults)

    def step(self, faults: Iterable[Fault], error: str) -> None:
        """Take what a step of Butane found; stop where it stops."""
        before = len(self.entries)
        self.found(faults)
        if has_errors(self.entries[before:]):
            self.error = self.error or error
            if not self.thorough:
                raise BadConfig(self.entries, error)

    def stop(self, entries: list[Entry], error: str) -> None:
        """Take what keeps the text from being read as a config; stop unless everything is asked for."""
        self.entries += entries
        self.error = self.error or error
        if not self.thorough:
            raise BadConfig(self.entries, error, unread=True)

    def found(self, faults: Iterable[Fault]) -> None:
        self.entries += [self.placed(fault) for fault in faults if not self.unread.has(fault)]

    def placed(self, fault: Fault) -> Entry:
        line, column = locate(self.root, fault.path, fault.at_key)
        hint = hints.hint(fault, self.root, self.known) if self.hints else ""
        return Entry(fault.kind, dotted(fault.path), line, column, fault.message, hint)


class _Translator:
    """Renames and orders fields, embeds contents, and adds what Butane writes for the user."""

    def __init__(self, files: LocalFiles, dialect: Dialect) -> None:
        self.files = files
        self.dialect = dialect
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        """What is wrong with the outcome, by Ignition's paths."""
        self.made: set[str] = set()
        """Data URLs of our own making, which need no check."""
        self.grown = False
        """The config got parts that are not in Ignition's order yet."""
        self.origins: Origins

    def config(self, values: dict[str, Any]) -> dict[str, Any]:
        """Given a decoded Butane config, return the Ignition config; the attributes tell the rest."""
        final = ignition_shape(self.dialect.minor)
        self.origins = Origins(values, final)
        translated = self.struct(values, shape(CONFIG, self.dialect), ())
        ignition = {**translated.get("ignition", {}), "version": self.dialect.ignition}
        config = {"ignition": ignition, **{name: part for name, part in translated.items() if name != "ignition"}}
        if self.dialect.minor:
            config = self.with_parent(sugar.mount_units(values, self.dialect), config, final)
            self.grow(values, config)
        if self.dialect.variant == "fcos" and not has_errors(self.faults):
            config = self.with_parent(sugar.boot_device(values, self.dialect), config, final)
            self.warnings = list(partition_warnings(config, self.dialect))
            grub = sugar.grub(values)
            nothing = sugar.Made({}, lambda path: None)
            config = self.with_parent(grub or (nothing if self.dialect.fcos >= 5 else None), config, final)
        return ordered(config, final) if self.grown else config

    def with_parent(self, made: sugar.Made | None, config: dict[str, Any], final: Shape) -> dict[str, Any]:
        if made is None:
            return config
        self.grown = self.grown or bool(made.config)
        merged = merged_structs(made.config, config, final) if made.config else config
        self.origins.merged(made, config, merged)
        return merged

    def grow(self, values: dict[str, Any], config: dict[str, Any]) -> None:
        trees = values.get("storage", {}).get("trees")
        if trees:
            self.grown = True
            grown = Trees(config.setdefault("storage", {}), self.files, self.dialect)
            grown.add(trees)
            self.faults += grown.faults
            self.made |= grown.sources
            self.origins.grown(grown)

    def struct(self, values: dict[str, Any], shape: Shape, path: Path) -> dict[str, Any]:
        struct = shape.struct
        if struct is RESOURCE:
            values = self.embedded(values, path)
        elif struct is USER or struct is UNIT or struct is DROPIN:
            values = self.with_files(values, struct is USER, path)
        result: dict[str, Any] = {}
        for name, slot in shape.by_json.items():
            value = values.get(slot.name)
            if value is None:
                if slot.plain and not slot.field.hidden:
                    result[name] = slot.empty
                elif slot.null:
                    result[name] = None
            elif slot.shape is not None:
                value = self.nested(value, slot, slot.shape, (*path, slot.name))
                if value or slot.pointer:
                    result[name] = value
            elif value != [] and not (slot.field.hidden and value == slot.empty):
                result[name] = value
        return result

    def nested(self, value: Any, slot: Slot, shape: Shape, path: Path) -> Any:
        if slot.many:
            return [self.struct(item, shape, (*path, i)) for i, item in enumerate(value)]
        made = self.struct(value, shape, path)
        # a mapping in which nothing was given is none
        return made if slot.pointer or any(part is not None for part in made.values()) else None

    def embedded(self, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """Return a resource with what is inline or local in it as its source."""
        data = self.contents(values, path)
        if data is None:
            return values
        compression = values.get("compression")
        if not self.dialect.minor:
            source = escaped_data_url(data)
        elif compression:
            source = plain_data_url(data)
        else:
            source, compression = data_url(data)
        self.made.add(source)
        return {**values, "source": source, "compression": compression}

    def contents(self, values: dict[str, Any], path: Path) -> bytes | None:
        if "inline" in values:
            inline: str = values["inline"]
            return inline.encode("utf-8", "surrogateescape")
        if "local" not in values:
            return None
        # nobody will see what stands for a file that is not there, but nothing else is to be blamed for its lack
        return self.read(values["local"], (*path, "local")) or b""

    def with_files(self, values: dict[str, Any], is_user: bool, path: Path) -> dict[str, Any]:
        """Return a user, unit or drop-in with what it takes from files."""
        if is_user and values.get("ssh_authorized_keys_local"):
            return {**values, "ssh_authorized_keys": self.keys(values, path)}
        if values.get("contents_local"):
            data = self.read(values["contents_local"], (*path, "contents_local"))
            if data is not None:
                return {**values, "contents": data.decode("utf-8", "surrogateescape")}
        return values

    def keys(self, values: dict[str, Any], path: Path) -> list[str]:
        names = values["ssh_authorized_keys_local"]
        here: Path = (*path, "ssh_authorized_keys_local")
        keys = list(values.get("ssh_authorized_keys") or ())
        if not self.files.directory:
            self.faults.append(Fault(here, NO_DIRECTORY))
            return keys
        numbers: list[int] = []
        for i, name in enumerate(names):
            data = self.read(name, (*here, i)) or b""
            lines = [line for line in _LINES.split(data.decode("utf-8", "surrogateescape")) if line]
            keys += lines
            numbers += [i] * len(lines)
        self.origins.keys[path] = numbers
        return keys

    def read(self, name: str, path: Path) -> bytes | None:
        try:
            return self.files.get(name)
        except NoFile as error:
            self.faults.append(Fault(path, str(error)))
            return None


# The partitions that an image of Fedora CoreOS has, by label, and the number of each
_RESERVED_LABELS = {"BIOS-BOOT": 1, "PowerPC-PReP-boot": 1, "EFI-SYSTEM": 2, "boot": 3, "root": 4}
_ROOT_SIZE = 8192
_FIRST_FCOS_WITH_BOOT_DEVICE = 3


def partition_warnings(config: dict[str, Any], dialect: Dialect) -> Iterator[Fault]:
    """Given an Ignition config for Fedora CoreOS, yield what Butane warns of in its partitions."""
    for i, disk in enumerate(config.get("storage", {}).get("disks", ())):
        partitions = disk.get("partitions", ())
        unplaced = sum(not partition.get("startMiB") for partition in partitions)
        for j, partition in enumerate(partitions):
            path: Path = ("storage", "disks", i, "partitions", j)
            label = partition.get("label")
            if label == "root" and dialect.fcos >= _FIRST_FCOS_WITH_BOOT_DEVICE:
                yield from _root_warnings(partition, unplaced - (not partition.get("startMiB")), path)
            number = _RESERVED_LABELS.get(label)
            if number and number != partition.get("number", 0) and not disk.get("wipeTable"):
                message = "incorrect partition number; a new partition will be created using reserved label"
                yield Fault((*path, "label"), message, "warning")


def _root_warnings(root: dict[str, Any], others_unplaced: int, path: Path) -> Iterator[Fault]:
    size = root.get("sizeMiB")
    if not size:
        if others_unplaced:
            message = (
                "root partition cannot expand; it is set to fill available space but is followed by an "
                "auto-positioned partition"
            )
            yield Fault((*path, "label"), message, "warning")
    elif size < _ROOT_SIZE:
        yield Fault((*path, "size_mib"), "root should have 8GiB of space assigned", "warning")


_HEAD = Struct("commonFields", (Field("version", plain=EVER), Field("variant", plain=EVER)))
_LATEST = Dialect("", "", LATEST)
# Where nobody knows which version it is to be, no key is blamed that any of them has
_EVERY_FIELD = list(DIALECTS.values())[-1]
_RHCOS = (
    "rhcos variant has been removed; use openshift variant instead: "
    "https://coreos.github.io/butane/upgrading-openshift/"
)


def _dialect(variant: str, version: str) -> Dialect | Fault:
    """Return what a config says it is written in, or what is wrong with that."""
    if not variant:
        return Fault(("variant",), "error parsing variant; must be specified")
    parsed = semver(version)
    if parsed is None:
        return Fault(("version",), "error parsing version; must be a valid semver")
    known = DIALECTS.get((variant, str(parsed)))
    if known is not None:
        return known
    if (variant, str(parsed)) == ("rhcos", "0.1.0"):
        return Fault(("variant",), _RHCOS)
    return Fault(("version",), f"No translator exists for variant {variant} with version {parsed}")

"""A Butane config to the Ignition config that it stands for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from yaml.nodes import Node

from butane.localfiles import LocalFiles, NoFile
from butane.merge import dump
from butane.parse import compose, decode, locate
from butane.report import BadConfig, Entry, Fault, Path, dotted, ordered
from butane.schema import CONFIG, LATEST, RESOURCE, SPECS, Struct, Version
from butane.urls import data_url, plain_data_url
from butane.validate import config_faults, source_faults

_SEMVER = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Translation:
    """The outcome of a translation."""

    config: dict[str, Any]
    """The Ignition config, its fields in Ignition's order."""
    report: tuple[Entry, ...]
    """The warnings, by position."""
    files: tuple[str, ...]
    """The local files that were read: files_dir and `local` joined, in order of first use."""

    @functools.cached_property
    def json(self) -> bytes:
        """The same as Go prints it, with one newline at the end."""
        return dump(self.config)


def translate(
    text: str,
    files_dir: FilePath | str | None = None,
    strict: bool = False,
    read: Callable[[str], bytes] | None = None,
) -> Translation:
    """Given a Butane config, return the Ignition config that it stands for.

    `local` files are read below `files_dir`, by `read` where it is given. Raise BadConfig with
    every error if there is one, or with every warning where `strict` says that they count too.
    """
    root = compose(text)
    values, entries, broken = decode(root, CONFIG)
    spec, faults = _spec(values)
    translator = _Translator(LocalFiles(files_dir, read))
    config = {"ignition": {"version": ".".join(map(str, spec))}}
    config |= translator.struct(values, CONFIG, ())
    faults += source_faults(values)
    faults += translator.faults
    faults += (_in_butane(fault, values) for fault in config_faults(config, translator.made))
    entries += _entries(faults, root, broken)
    report = ordered(entries)
    if any(strict or entry.kind == "error" for entry in report):
        raise BadConfig(report)
    return Translation(config, report, tuple(translator.files.contents))


def _spec(values: dict[str, Any]) -> tuple[Version, list[Fault]]:
    """Return the Ignition spec to make; the latest where the config does not say which."""
    variant, version = values.get("variant", ""), values.get("version", "")
    if not variant:
        return LATEST, [Fault(("variant",), "error parsing variant; must be specified")]
    if _SEMVER.fullmatch(version) is None:
        return LATEST, [Fault(("version",), "error parsing version; must be a valid semver")]
    if (variant, version) not in SPECS:
        message = f"No translator exists for variant {variant} with version {version}"
        return LATEST, [Fault(("version",), message)]
    return SPECS[variant, version], []


class _Translator:
    """Renames and orders fields, and embeds contents."""

    def __init__(self, files: LocalFiles) -> None:
        self.files = files
        self.faults: list[Fault] = []
        self.made: set[str] = set()

    def struct(self, values: dict[str, Any], struct: Struct, path: Path) -> dict[str, Any]:
        if struct is RESOURCE:
            values = self.embedded(values, path)
        result: dict[str, Any] = {}
        for field in struct.fields:
            value = values.get(field.name)
            if value is None:
                if field.always:
                    result[field.json] = ""
                continue
            if field.only:
                continue
            if isinstance(field.type, Struct):
                here = (*path, field.name)
                if field.many:
                    kind = field.type
                    value = [self.struct(v, kind, (*here, i)) for i, v in enumerate(value)]
                else:
                    value = self.struct(value, field.type, here)
            if value not in ({}, []):
                result[field.json] = value
        return result

    def embedded(self, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """Return a resource with what is inline or local in it as its source."""
        data = self.contents(values, path)
        if data is None:
            return values
        compression = values.get("compression")
        if compression:
            source = plain_data_url(data)
        else:
            source, compression = data_url(data)
        self.made.add(source)
        return {**values, "source": source, "compression": compression}

    def contents(self, values: dict[str, Any], path: Path) -> bytes | None:
        if "inline" in values:
            inline: bytes = values["inline"]
            return inline
        if "local" not in values:
            return None
        try:
            return self.files.get(values["local"])
        except NoFile as error:
            self.faults.append(Fault((*path, "local"), str(error)))
            return b""  # nobody will see it, but nothing else is to be blamed for its lack


def _in_butane(fault: Fault, values: dict[str, Any]) -> Fault:
    """Given a fault of the Ignition config, return it by the path that the user wrote."""
    path: list[str | int] = []
    struct, here = CONFIG, values
    for part in fault.path:
        if isinstance(part, int):
            here = here[part]  # type: ignore[index]
            path.append(part)
            continue
        field = struct.by_json[part]
        name = field.name
        if struct is RESOURCE and name == "source":
            name = next((n for n in ("local", "inline") if n in here), name)
        path.append(name)
        here = here.get(name, {}) if isinstance(here, dict) else {}
        if isinstance(field.type, Struct):
            struct = field.type
    return Fault(tuple(path), fault.message, fault.kind)


def _entries(faults: Iterable[Fault], root: Node | None, broken: set[Path]) -> list[Entry]:
    """Place faults in the text; one that only follows from a broken value is left out."""
    above = {path[:length] for path in broken for length in range(len(path))}
    entries = []
    for fault in faults:
        path = fault.path
        if path in above or any(path[:length] in broken for length in range(len(path) + 1)):
            continue
        line, column = locate(root, path)
        entries.append(Entry(fault.kind, dotted(path), line, column, fault.message))
    return entries

"""The way back: an Ignition config as Butane that a person can read.

Contents are decoded, modes are octal, texts of several lines are blocks. What cannot be written so that
it translates to the same config again (contents that the user compressed, or a `source` that is not
encoded as Butane would) is passed on as it is.
"""

from __future__ import annotations

import base64
import gzip
import io
import re
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import yaml

from butane.dataurls import data_url, escaped_data_url
from butane.printing import ordered, version_of
from butane.schema import DIALECTS, RESOURCE, Dialect, Kind, Shape, Slot, ignition_shape

_BASE64 = re.compile(r"data:[^,]*;base64,")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
_MODES = ("mode", "file_mode", "dir_mode")
_WIDTH = 120
_MOST = 64 * 1024 * 1024
"""No content that comes to more bytes than these is unpacked: a few KB of gzip can hold GBs."""


class _Octal(int):
    pass


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # entries of a list are set in, as people write them

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _represent_mode(dumper: yaml.SafeDumper, mode: _Octal) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:int", f"0{mode:03o}")


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(_Octal, _represent_mode)


def explain(ignition: Mapping[str, Any], variant: str = "fcos", exact: bool = True) -> str:
    """Given an Ignition config, return it as Butane of a variant, contents decoded.

    What `translate` made is made again of the result, gzip apart from its bytes. Without `exact` every
    data URL is decoded, also where that would be encoded in another way. Raise ValueError for a version of
    Ignition that the variant does not have, a field that this version does not have, and a value that is not of
    its field's type.
    """
    dialect = _dialect(version_of(ignition), variant)
    shape = ignition_shape(dialect.minor)
    values = _Reader(dialect, exact).struct(ordered(ignition, shape), shape, ())
    values.get("ignition", {}).pop("version", None)
    values = {name: part for name, part in values.items() if name != "ignition" or part}
    head = {"variant": variant, "version": dialect.version}
    return yaml.dump({**head, **values}, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=_WIDTH)


def _dialect(version: str, variant: str) -> Dialect:
    found = [dialect for dialect in DIALECTS.values() if (dialect.ignition, dialect.variant) == (version, variant)]
    if not found:
        raise ValueError(f"{variant} has no version for Ignition {version}")
    return found[-1]


class _Reader:
    def __init__(self, dialect: Dialect, exact: bool) -> None:
        self.dialect = dialect
        self.exact = exact

    def struct(self, config: Mapping[str, Any], shape: Shape, path: tuple[str, ...]) -> dict[str, Any]:
        """Return a mapping of Ignition with Butane's names and readable values."""
        values: dict[str, Any] = {}
        for name, slot in shape.by_json.items():
            if config.get(name) is not None:
                values[slot.name] = self.value(config[name], slot, (*path, name))
        return self.readable(values, path) if shape.struct is RESOURCE else values

    def value(self, value: Any, slot: Slot, path: tuple[str, ...]) -> Any:
        if slot.many:
            return [self.one(item, slot, path) for item in value]
        return self.one(value, slot, path)

    def one(self, value: Any, slot: Slot, path: tuple[str, ...]) -> Any:
        if slot.shape is not None:
            return self.struct(value, slot.shape, path)
        if slot.kind is Kind.STRING:
            return _NO_TEXT.sub("\ufffd", value)
        return _Octal(value) if slot.name in _MODES and value >= 0 else value

    def readable(self, values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        """Return a resource with what its data URL holds as `inline`, where that comes to the same."""
        source, compression = values.get("source"), values.get("compression")
        # a config within the config would be judged anew, which one from a file was not
        if source is None or not source.startswith("data:") or (self.exact and path[:2] == ("ignition", "config")):
            return values
        data = decoded(source, compression or "")
        if data is None or (self.exact and not self.same(data, source, compression)):
            return values
        rest = {name: value for name, value in values.items() if name not in ("source", "compression")}
        return {"inline": _text(data), **rest}

    def same(self, data: bytes, source: str, compression: str | None) -> bool:
        if not self.dialect.minor:
            return compression is None and escaped_data_url(data) == source
        again, packed = data_url(data)
        return packed == compression and (packed == "gzip" or again == source)


def decoded(source: str, compression: str) -> bytes | None:
    """Given a data URL and its compression, return its content, None where it cannot be had."""
    head, _, body = source.partition(",")
    try:
        data = base64.b64decode(body, validate=True) if _BASE64.match(head + ",") else unquote_to_bytes(body)
        return _unpacked(data) if compression == "gzip" else data
    except (ValueError, OSError, EOFError, zlib.error):
        return None


def _unpacked(data: bytes) -> bytes | None:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        content = file.read(_MOST + 1)
    return content if len(content) <= _MOST else None


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data  # which YAML writes as !!binary

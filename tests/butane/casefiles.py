"""The cases of tests/butane/cases: what they say of a config, and how it is laid out for a run.

A file is a list of cases of one topic. A case has
- `name`: a sentence that names the rule;
- `dialects` and `butane`: the variants with versions for which the same holds, and the config without its first
  two lines, which say them; or `text`, the whole config;
- `files` and `symlinks`, optional: what is in the files directory, which is there also where they are empty. A file
  is its text, or a mapping of `text` or `base64` and `mode`, or `fifo: true`; a name that ends in / is a directory;
- `output`, optional: the bytes that are printed;
- `report` and `ignition`, both absent where empty: the lines of --raw-errors, and the config without its version.
record.py fills in the last two, and `output` where it is there.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).with_name("cases")


@dataclass(frozen=True)
class Case:
    """One case of a file; `topic` is the file's name."""

    topic: str
    said: dict[str, Any]

    @property
    def name(self) -> str:
        """The sentence that names the rule."""
        return str(self.said["name"])

    @property
    def dialects(self) -> list[str]:
        """The variants with versions that the case is for; one empty name where the config says its own."""
        return list(self.said.get("dialects", [""]))

    def text(self, dialect: str) -> str:
        """Given one of the dialects, return the whole config."""
        if not dialect:
            return str(self.said["text"])
        variant, version = dialect.split()
        return f"variant: {variant}\nversion: {version}\n{self.said['butane']}"

    @property
    def has_files(self) -> bool:
        """Whether there is a files directory, be it empty."""
        return bool({"files", "symlinks"} & set(self.said))

    def lay_out(self, directory: Path) -> str | None:
        """Given a directory, make the files directory in it; return its name there, None if the case has none."""
        if not self.has_files:
            return None
        root = directory / "files"
        root.mkdir()
        for name, file in self.said.get("files", {}).items():
            _make(root / name, file, name.endswith("/"))
        for name, target in self.said.get("symlinks", {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target)
        return root.name


def _make(path: Path, file: Any, directory: bool) -> None:
    spec = file if isinstance(file, dict) else {"text": file}
    path.parent.mkdir(parents=True, exist_ok=True)
    if directory:
        path.mkdir(exist_ok=True)
    elif "fifo" in spec:
        os.mkfifo(path)
    else:
        path.write_bytes(base64.b64decode(spec["base64"]) if "base64" in spec else spec["text"].encode())
        path.chmod(spec.get("mode", 0o644))


def load(file: Path) -> list[Case]:
    """Given a file of cases, return them."""
    return [Case(file.stem, said) for said in yaml.load(file.read_bytes(), yaml.CSafeLoader)]


def cases() -> Iterator[Case]:
    """Yield all cases, by file."""
    for file in sorted(CASES.glob("*.yaml")):
        yield from load(file)

"""People with keys, and secret files that are sealed to some of them, for tests."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from i12e import keys, programs

RULE = r"secrets/([^/]+/)?[^/]+\.yaml$"


@dataclass(frozen=True)
class Person:
    """Somebody with a key in a file."""

    recipient: str
    file: Path

    def opens(self, path: Path) -> str | None:
        """Given a sealed file, return its text as this person sees it, or None."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("SOPS_")}
        environ = {**others, "SOPS_AGE_KEY_FILE": str(self.file), "HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"}
        done = programs.run(programs.sops(), "--disable-version-check", "decrypt", str(path), environ=environ)
        return None if done.status else done.output


def person(folder: Path, name: str) -> Person:
    """Given a folder and a name, return somebody with a new key in it."""
    pair = keys.make()
    keys.save(pair, folder / f"{name}.agekey")
    return Person(pair.recipient, folder / f"{name}.agekey")


def rules(*people: Person, pattern: str = RULE, before: str = "") -> str:
    """Given people, return a .sops.yaml whose rule seals to them, behind other rules."""
    demo = (ROOT / ".sops.yaml").read_text()
    names = ",\n      ".join(one.recipient for one in people)
    return f"{demo}{before}  # ours\n  - path_regex: {pattern}\n    age: >-\n      {names}\n"


def seal(root: Path, path: str, text: str, *people: Person) -> Path:
    """Given a checkout, a path and a YAML text, seal the text to people with the real sops."""
    names = ",".join(one.recipient for one in people)
    types = ("--input-type", "yaml", "--output-type", "yaml")
    flags = ("--disable-version-check", "--config", "/dev/null")
    done = programs.run(programs.sops(), *flags, "encrypt", "--age", names, *types, "/dev/stdin", stdin=text)
    assert done.status == 0, done.complaint
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(done.output)
    return place


def commit(root: Path) -> None:
    """Given a checkout, make it a repository of git with everything in it committed."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=root, check=True)

"""The real Ignition on Debian: its verdict on a config, and the tree that a host gets from one.

Debian has Ignition 2.14, which knows spec 3.4.0 by the name that it had before its release and no later one;
apart from that and from where it puts ssh keys and presets it does what the Ignition of Flatcar and Fedora
CoreOS does.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

ENGINE = "/usr/lib/dracut/modules.d/30ignition/ignition"
PRESET = "/etc/systemd/system-preset/20-ignition.preset"
UNITS = "/etc/systemd/system"
CORE = {"flatcar": 500, "fcos": 1000}  # the id of the user core and of its group

# What Ignition, useradd and usermod write by themselves.
_BY_THE_WAY = frozenset(
    {PRESET, "/etc/.ignition-result.json", "/etc/.pwd.lock"}
    | {f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow")}
)
# Fedora CoreOS keeps what is written to outside of /etc below /var; here as there the links are relative.
_LINKS: dict[str, dict[str, str]] = {
    "flatcar": {},
    "fcos": {"/home": "var/home", "/opt": "var/opt", "/root": "var/roothome", "/usr/local": "../var/usrlocal"},
}
# The first version in a config is its own: a config within it is escaped, and no other key has that name.
_LATER = re.compile(rb'"version":\s*"3\.[456]\.0"')
_PASSWD = "root:x:0:0:root:/root:/bin/bash\ncore:x:{core}:{core}:CoreOS Admin:/home/core:/bin/bash\n"
_GROUP = "root:x:0:\nwheel:x:10:core\nsudo:x:150:core\ndocker:x:233:core\ncore:x:{core}:\n"
_TEXTS = {
    "/etc/passwd": (0o644, _PASSWD),
    "/etc/group": (0o644, _GROUP),
    "/etc/shadow": (0o600, "root:*:15887:0:::::\ncore:*:15887:0:::::\n"),
    "/etc/gshadow": (0o600, "root:*::\nwheel:*::core\nsudo:*::core\ndocker:*::core\ncore:*::\n"),
    # Debian's Ignition relabels whatever the system; these and a setfiles that does nothing content it.
    "/etc/selinux/config": (0o644, "SELINUXTYPE=targeted\n"),
    "/etc/selinux/targeted/contexts/files/file_contexts": (0o644, ""),
}


class Refused(AssertionError):
    """Ignition did not apply a config."""


def missing() -> str:
    """Return what is missing here to apply a config, or "" if nothing is."""
    if not os.access(ENGINE, os.X_OK):
        return "the real Ignition (Debian: apt-get install ignition)"
    if os.geteuid() != 0:
        return "root, to apply a config"
    absent = [name for name in ("usermod", "useradd", "groupadd") if not shutil.which(name)]
    return f"{absent[0]} (Debian: apt-get install passwd)" if absent else ""


def for_debian(config: bytes) -> bytes:
    """Given a config as we print it, return the same one with a version that Ignition 2.14 knows.

    A config of a later spec is told to be of the latest one there: what is new in it is not judged, and a key that
    is new is said to be unused.
    """
    return _LATER.sub(rb'"version":"3.4.0-experimental"', config, count=1)


def verdict(validate: str, config: bytes) -> str:
    """Given ignition-validate's path and a config, return all that it says, also mere warnings: "" for nothing."""
    refused, said = judged(validate, config)
    return said or ("refused without a word" if refused else "")


def refusal(validate: str, config: bytes) -> str:
    """Given ignition-validate's path and a config, return what it has against it: "" where it takes it."""
    refused, said = judged(validate, config)
    return (said or "refused without a word") if refused else ""


def judged(validate: str, config: bytes) -> tuple[bool, str]:
    """Given ignition-validate's path and a config, return whether it refuses it, and all that it says."""
    done = subprocess.run([validate, "-"], input=for_debian(config), capture_output=True, check=False)
    return done.returncode != 0, (done.stdout + done.stderr).decode().strip()


def apply(config: bytes, folder: Path, os_name: str) -> Tree:
    """Given a config, an empty folder and an OS, return the tree that the config makes of that OS's bare one.

    Raise Refused with Ignition's last words if it does not apply.
    """
    root = folder / "root"
    _skeleton(root, os_name)
    tree = Tree(root, frozenset(_walk(root)))
    (folder / "config.ign").write_bytes(for_debian(config))
    for stage in ("fetch", "files"):
        _run(stage, folder)
    return tree


def command(stage: str, folder: Path) -> list[str]:
    """Given a stage and a folder for Ignition's own files, return the command that does it, to be run in the root.

    By /proc/self/cwd, because Ignition writes core's keys as core, who may not pass the folders above, and useradd
    takes absolute paths alone.
    """
    places = ["-root", "/proc/self/cwd", "-config-cache", f"{folder}/cache.json", "-state-file", f"{folder}/state"]
    return [ENGINE, "-log-to-stdout", "-platform", "file", "-stage", stage, *places, "-neednet", f"{folder}/neednet"]


def environ(folder: Path) -> dict[str, str]:
    """Given a folder with config.ign, return the environment in which Ignition applies that."""
    setfiles = folder / "bin/setfiles"
    setfiles.parent.mkdir(exist_ok=True)
    setfiles.write_text("#!/bin/sh\nexit 0\n")
    setfiles.chmod(0o755)
    return {"PATH": f"{setfiles.parent}:{os.environ['PATH']}", "IGNITION_CONFIG_FILE": f"{folder}/config.ign"}


def last_words(said: bytes) -> str:
    """Given all that Ignition said, return what it complained of."""
    lines = said.decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if line.startswith(("CRITICAL", "ERR", "WARN")))


def _run(stage: str, folder: Path) -> None:
    done = subprocess.run(
        command(stage, folder),
        cwd=folder / "root",
        env=environ(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise Refused(f"stage {stage}: {last_words(done.stdout)}")


def _skeleton(root: Path, os_name: str) -> None:
    """Make what a bare host of this OS has before Ignition: a user core with a home, and no more."""
    core = CORE[os_name]
    for name in ("etc", "usr", "var"):
        (root / name).mkdir(parents=True)
    for path, target in _LINKS[os_name].items():
        (root / path.lstrip("/")).symlink_to(target)
        (root / target.removeprefix("../")).mkdir()
    home = root / "home/core"
    home.mkdir(parents=True)
    os.chown(home, core, core)
    for path, (mode, text) in _TEXTS.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text.format(core=core))
        place.chmod(mode)


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield f"/{(Path(folder) / name).relative_to(root)}"


@dataclass(frozen=True)
class Tree:
    """The root of a host. Paths in it are absolute, as the host sees them."""

    root: Path
    before: frozenset[str]
    """What was there before Ignition."""

    def place(self, path: str) -> Path:
        """Given a path, return where it is on this machine."""
        return self.root / path.lstrip("/")

    def real(self, path: str) -> str:
        """Given a path, return it with the links to folders on the way resolved, as `walk` gives it."""
        place = self.place(path)
        return f"/{(Path(os.path.realpath(place.parent)) / place.name).relative_to(self.root.resolve())}"

    def walk(self) -> list[str]:
        """Return the path of everything in the tree."""
        return list(_walk(self.root))

    def made(self) -> list[str]:
        """Return the paths of what the config made, without what Ignition writes anyway, sorted."""
        return sorted(set(self.walk()) - self.before - _BY_THE_WAY)

    def files(self) -> list[str]:
        """Return the paths of the files that the config made."""
        return [path for path in self.made() if stat.S_ISREG(self._info(path).st_mode)]

    def folders(self) -> list[str]:
        """Return the paths of the folders that the config made."""
        return [path for path in self.made() if stat.S_ISDIR(self._info(path).st_mode)]

    def links(self) -> dict[str, str]:
        """Return the symbolic links that the config made, with their targets."""
        return {path: os.readlink(self.place(path)) for path in self.made() if self.place(path).is_symlink()}

    def exists(self, path: str) -> bool:
        """Given a path, return whether there is anything."""
        return os.path.lexists(self.place(path))

    def text(self, path: str) -> str:
        """Given a file's path, return its text."""
        return self.place(path).read_text()

    def mode(self, path: str) -> int:
        """Given a path, return its permissions."""
        return stat.S_IMODE(self._info(path).st_mode)

    def owner(self, path: str) -> tuple[int, int]:
        """Given a path, return the ids of its user and its group."""
        info = self._info(path)
        return info.st_uid, info.st_gid

    def preset(self, word: str) -> set[str]:
        """Given "enable" or "disable", return the units that are preset so."""
        if not self.exists(PRESET):
            return set()
        lines = (line.partition(" ") for line in self.text(PRESET).split("\n"))
        return {unit for first, _, unit in lines if first == word}

    def units(self) -> dict[str, list[tuple[str, str, str]]]:
        """Return the unit files and drop-ins that the config made, by path, each as (section, key, value)."""
        return {path: unit(self.text(path)) for path in self.files() if path.startswith(f"{UNITS}/")}

    def keys(self, user: str) -> list[str]:
        """Given a user, return the ssh keys that let one in."""
        home = next(line.split(":")[5] for line in self.text("/etc/passwd").splitlines() if line.startswith(f"{user}:"))
        text = self.text(f"{home}/.ssh/authorized_keys.d/ignition")
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def _info(self, path: str) -> os.stat_result:
        return os.lstat(self.place(path))


def unit(text: str) -> list[tuple[str, str, str]]:
    """Given a unit file, return its settings in order, as (section, key, value)."""
    found: list[tuple[str, str, str]] = []
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        elif line.strip() and line[0] not in "#;":
            key, _, value = line.partition("=")
            found.append((section, key.strip(), value.strip()))
    return found


def commands(settings: list[tuple[str, str, str]]) -> list[list[str]]:
    """Given a unit's settings, return the commands that it runs, without systemd's marks before a program."""
    lines = (value for section, key, value in settings if section == "Service" and key.startswith("Exec"))
    return [shlex.split(line.lstrip("-+!:@")) for line in lines if line]


def load(config: bytes) -> dict[str, Any]:
    """Given the bytes of a config, return it."""
    found: dict[str, Any] = json.loads(config)
    return found


def files(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Given an Ignition config, return its files by path."""
    return {file["path"]: file for file in config.get("storage", {}).get("files", ())}


def content(resource: dict[str, Any]) -> bytes:
    """Given what an Ignition config says of a content, return the content."""
    head, _, body = str(resource.get("source") or "data:,").partition(",")
    found = b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    return gzip.decompress(found) if resource.get("compression") == "gzip" else found

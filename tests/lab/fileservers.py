"""File servers in a lab's own network, real ones, and the programs by which a host fetches from them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import need
from i12e import artifacts, programs
from i12e.paths import LAB, Paths
from lab import Lab, places
from lab.clones import Operator

_PORT = 2222
_READY = 60.0
RCLONE, AGE = "v1.75.2", "v1.1.1"


@dataclass(frozen=True)
class Sftp:
    """An sftp server of OpenSSH's, and what rclone is told of it."""

    folder: Path
    """What it gives."""
    conf: str
    log: Path
    """What sftp-server says of each file that it opens, renames or removes."""

    def writes(self) -> list[str]:
        """Return the names of the files that were written, renamed or removed since the last call."""
        text = self.log.read_text()
        self.log.write_text("")  # it is opened to append
        opened = re.findall(r'^open "(.*)" flags \S*WRITE', text, re.MULTILINE)
        return opened + re.findall(
            r'^(?:rename old|posix-rename old|remove name|mkdir name) "([^"]*)"', text, re.MULTILINE
        )


@contextlib.contextmanager
def sftp(folder: Path, enter: tuple[str, ...]) -> Iterator[Sftp]:
    """Given an empty folder and what enters the lab's network, run OpenSSH's sftp-server there until the block ends."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    need(os.access(program, os.X_OK), "sshd (Debian: openssh-server)")
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "i12e-lab", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd wants it
    (folder / "files").mkdir()
    says = f"/usr/lib/openssh/sftp-server -e -l VERBOSE 2>>{folder}/sftp.log"
    settings = {
        "Port": _PORT, "ListenAddress": places.GATEWAY, "HostKey": folder / "host_key", "PidFile": "none",
        "AuthorizedKeysFile": folder / "user_key.pub", "UsePAM": "no", "StrictModes": "no",
        "Subsystem": f"sftp {says}", "PermitRootLogin": "yes", "MaxStartups": "100",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    with (folder / "log").open("wb") as log:
        command = [*enter, program, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _READY
        while b"listening" not in (folder / "log").read_bytes():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        key = (folder / "user_key").read_text().replace("\n", "\\n")
        options = {"type": "sftp", "host": places.GATEWAY, "port": _PORT, "user": "root", "key_pem": key,
                   "shell_type": "none", "disable_hashcheck": "true"}  # fmt: skip
        conf = "[nas]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        (folder / "sftp.log").touch()
        yield Sftp(folder / "files", conf, folder / "sftp.log")
    finally:
        process.kill()
        process.wait()


def publish(operator: Operator, lab: Lab) -> None:
    """Have rclone and age in the lab's server of artifacts, in the packing of their makers, and in artifacts.lock.

    rclone is the wheel's; age is Debian's.
    """
    rclone, age = programs.rclone(), shutil.which("age")
    need(age, "age (Debian: age)")
    assert age
    arch = "amd64" if os.uname().machine == "x86_64" else "arm64"
    folder = f"rclone-{RCLONE}-linux-{arch}"
    made = [
        ("rclone", RCLONE, f"rclone/rclone/releases/download/{RCLONE}/{folder}.zip", _zip(f"{folder}/rclone", rclone)),
        ("age", AGE, f"FiloSottile/age/releases/download/{AGE}/age-{AGE}-linux-{arch}.tar.gz", _tar(age)),
    ]
    paths = Paths(operator.root, LAB)
    lock = operator.root / paths.artifacts
    said = lock.read_text()
    for name, version, path, content in made:
        place = lab.artifacts / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        url = f"http://{places.GATEWAY}/{urllib.parse.quote(path)}"
        entry = artifacts.Entry(
            f"{name} {version} {arch}", url, hashlib.sha256(content).hexdigest(), len(content),
            "tests/lab: the program of a package",
        )  # fmt: skip
        said += artifacts.text([entry]).decode().partition("artifacts:\n")[2]
    lock.write_text(said)
    cluster = operator.root / paths.cluster_file
    cluster.write_text(f"{cluster.read_text()}\nartifacts: {json.dumps({'rclone': RCLONE, 'age': AGE})}\n")


def rclone(operator: Operator, conf: str, *arguments: str) -> str:
    """Given an rclone.conf and arguments, run rclone where the operator is; return what it prints."""
    place = operator.root / "rclone.conf"
    place.write_text(conf)
    command = [*operator.enter, programs.rclone(), "--config", str(place), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _zip(name: str, path: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.write(path, name)
    return made.getvalue()


def _tar(age: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        for name in ("age", "age-keygen"):
            archive.add(str(Path(age).with_name(name)), f"age/{name}")
    return made.getvalue()

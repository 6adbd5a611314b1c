"""The lab's cluster as i12e sees it: the environment `lab` of a checkout, with keys and tokens of its own.

What a person has edited there stays as it is, as long as it fits the lab.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from i12e import artifacts, backup_keys, files, keys, programs
from i12e.errors import UserError
from i12e.paths import LAB, LAB_MACHINES, Paths, host_names
from lab import places
from lab.api import Lab, Trouble

SERVERS, AGENTS = 3, 2
"""How many hosts there are where nobody says."""
VERSIONS = ("v1.35.4+k3s1", "v1.35.5+k3s1", "v1.36.3+k3s1")
"""The releases that the lab's hosts may have; the first is the one to begin with. It is one stand-in for all."""
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_KEY = re.compile(r"ssh-ed25519 \S+ i12e-lab\b")

_CLUSTER = """\
{modeline}
# The lab's cluster, made by ./doit lab_up: hosts on this machine. Edit it as you would edit your own: lab_up keeps it.
name: lab

k3s:
  # artifacts.lock has {versions}: to upgrade, write another one.
  version: {version}
  datastore: etcd
  secrets_encryption: secretbox
  disable: [traefik, servicelb]

api:
  # Nobody knows this name: i12e reaches the API on the hosts themselves.
  name: k8s.lab.example

network:
  # Inside of the lab's own network namespace; no packet leaves it.
  hosts: [{network}]
  backend: vxlan
  interface: host0
  cluster_cidr: 10.42.0.0/16
  service_cidr: 10.43.0.0/16

os:
  name: flatcar
  arch: {arch}
  update: {{strategy: "off"}}

# The lab's own key, in {folder}.
ssh_keys:
  - {key}

# ssh_config, beside this file, knows the way into the lab's network.
ssh: {{config: ssh_config}}

# The lab's own key for backups: {backup_key}. They go to {backups}.
backup:
  recipients: [{recipient}]

# The lab's server of artifacts. It has a stand-in for k3s: docs/simulated.md.
mirror: http://{gateway}
"""
_HOST = """\
{modeline}
role: {role}
addresses: [{address}]
"""


def names(servers: int, agents: int) -> list[str]:
    """Given how many there are to be, return the names of the hosts."""
    return [*(f"server-{n + 1}" for n in range(servers)), *(f"agent-{n + 1}" for n in range(agents))]


def machines(root: Path) -> Path:
    """Given a checkout, return the folder of its lab."""
    return root / LAB_MACHINES


def hosts(root: Path) -> list[str]:
    """Given a checkout, return the hosts that its environment lab has, none if there is no such environment."""
    return host_names(Paths(root, LAB))


def write(root: Path, lab: Lab, servers: int = SERVERS, agents: int = AGENTS) -> list[str]:
    """Given a checkout and a lab, write the environment lab, or what of it is missing or does not fit any more.

    Where it is there, its hosts are those that it has, not those that are asked for. Return what was done, a line
    each. Raise Trouble if the secrets cannot be sealed.
    """
    paths = Paths(root, LAB)
    (root / paths.hosts).mkdir(parents=True, exist_ok=True)
    return list(_write(paths, lab, hosts(root) or names(servers, agents)))


def _write(paths: Paths, lab: Lab, wanted: list[str]) -> Iterator[str]:
    served = publish(lab)
    recipient = _key(paths)
    yield from _seal(paths, recipient)
    for host in wanted:
        role = host.partition("-")[0]
        text = _HOST.format(modeline=paths.modeline("host"), role=role, address=places.address(host))
        yield from _create(paths, paths.host_file(host), text)
    entries = [
        artifacts.Entry(f"k3s {version} {_arch()}", url, sha256, size, "tests/lab: the lab's stand-in for k3s")
        for version, url, sha256, size in served
    ]
    yield from _put(paths, paths.artifacts, artifacts.text(entries).decode())
    yield from _put(paths, f"{paths.hosts}/ssh_config", lab.ssh_config.read_text())
    yield from _cluster(paths, lab)


def _cluster(paths: Paths, lab: Lab) -> Iterator[str]:
    place = paths.root / paths.cluster_file
    recipient = _backup_key(paths)
    if place.exists():
        text = place.read_text()
        fitting = _KEY.sub(lab.public_key, text)
        if recipient not in fitting:
            fitting = backup_keys.with_recipient(fitting, recipient) or fitting
        if fitting != text:
            yield from _put(paths, paths.cluster_file, fitting)
        else:
            yield f"KEEP     {paths.cluster_file}  (it was there)"
        if lab.public_key not in fitting:
            yield f"warning: {paths.cluster_file} has not the lab's ssh key: after a deployment ssh does not get in"
        if recipient not in fitting:
            yield f"warning: {paths.cluster_file} has not the lab's key for backups: add backup.recipients: {recipient}"
        return
    text = _CLUSTER.format(
        modeline=paths.modeline("cluster"),
        version=VERSIONS[0],
        versions=", ".join(VERSIONS),
        network=places.NETWORK,
        arch=_arch(),
        folder=os.path.relpath(lab.folder, paths.root),
        key=lab.public_key,
        backup_key=backup_keys.LAB_BACKUP_KEY,
        backups=os.path.relpath(str(backup_keys.default_store(paths, {}).folder), paths.root),
        recipient=recipient,
        gateway=places.GATEWAY,
    )
    yield from _create(paths, paths.cluster_file, text)


def publish(lab: Lab) -> list[tuple[str, str, str, int]]:
    """Given a lab, let its server have the stand-in for k3s; return for each version its URL, sha256 and size."""
    found: list[tuple[str, str, str, int]] = []
    for version in VERSIONS:
        content = stand_in_as(version)
        name = "k3s" if _arch() == "amd64" else f"k3s-{_arch()}"
        folder = f"k3s-io/k3s/releases/download/{version}"
        files.private_folder(lab.artifacts)
        place = lab.artifacts / folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        files.replace(place, content)
        url = f"http://{places.GATEWAY}/{urllib.parse.quote(f'{folder}/{name}')}"
        found.append((version, url, hashlib.sha256(content).hexdigest(), len(content)))
    return found


def stand_in() -> Path:
    """Return the stand-in for k3s."""
    return Path(__file__).with_name("k3s.py")


def stand_in_as(version: str) -> bytes:
    """Given a version of k3s, return the stand-in that says that it is of that version."""
    source = stand_in().read_bytes()
    return re.sub(rb'(?m)^VERSION = "[^"]*"', f'VERSION = "{version}"'.encode(), source, count=1)


def forget(root: Path, hosts: list[str]) -> None:
    """Given a checkout and hosts that are new machines, forget the machine ids that i12e knows of them."""
    place = root / Paths(root, LAB).machines
    with contextlib.suppress(FileNotFoundError):
        lines = place.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.split()[:1] not in [[host] for host in hosts]]
        if kept != lines:
            files.replace(place, "".join(kept).encode(), 0o644)


def remove(root: Path) -> list[str]:
    """Given a checkout whose lab is down, remove all that is the environment lab's; return what that was."""
    paths = Paths(root, LAB)
    found = [folder for folder in (paths.hosts, paths.secrets, paths.build) if (root / folder).exists()]
    for folder in found:
        shutil.rmtree(root / folder)
    return found


def _key(paths: Paths) -> str:
    """Return the recipient of the lab's own age key; make one if there is none."""
    place = paths.root / LAB_MACHINES / "age-key.txt"
    if not place.exists():
        keys.save(keys.make(), place)
    return next(line.split()[-1] for line in place.read_text().splitlines() if "public key" in line)


def _backup_key(paths: Paths) -> str:
    """Return the recipient of the lab's own key for backups; make one if there is none."""
    place = paths.root / backup_keys.LAB_BACKUP_KEY
    backup_keys.save(keys.make(), place, LAB)
    return backup_keys.recipients_of(place)[-1]


def _seal(paths: Paths, recipient: str) -> Iterator[str]:
    path = f"{paths.secrets}/cluster.yaml"
    place = paths.root / path
    if place.exists() and recipient in place.read_text():
        yield f"KEEP     {path}  (it was there)"
        return
    tokens = "".join(f"{name}: {secrets.token_hex(32)}\n" for name in ("server_token", "agent_token"))
    kinds = ("--input-type", "yaml", "--output-type", "yaml")
    command = ("--disable-version-check", "--config", "/dev/null", "encrypt", "--age", recipient, *kinds, "/dev/stdin")
    try:
        done = programs.run(programs.sops(), *command, stdin=tokens)
    except (programs.Missing, UserError) as error:
        raise Trouble(str(error)) from None
    if done.status:
        raise Trouble(f"sops cannot seal {path}: {done.complaint.strip()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    files.replace(place, done.output.encode())
    yield f"WRITE    {path}  (two random tokens, sealed to the lab's own key)"


def _create(paths: Paths, path: str, text: str) -> Iterator[str]:
    if not (paths.root / path).exists():
        yield from _put(paths, path, text)


def _put(paths: Paths, path: str, text: str) -> Iterator[str]:
    place = paths.root / path
    if place.exists() and place.read_text() == text:
        return
    files.replace(place, text.encode(), 0o644)
    yield f"WRITE    {path}"


def _arch() -> str:
    return _ARCH.get(os.uname().machine, os.uname().machine)

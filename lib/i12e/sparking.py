"""What a spark is given for its one time, and how what it says of itself is read.

A spark is a throw-away config of a host (templates/butane/spark.bu.j2): it fetches a backup, stages it, and gives the
host its final config by itself. What it gets opens this one backup alone: the backup's own key, never one that opens
all. All of it is for root alone, in a folder that the spark's end wipes.
"""

from __future__ import annotations

import base64
import configparser
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from i12e import alone, deploy, restoring
from i12e.alone import Proof
from i12e.errors import Problem, UserError
from i12e.facts import STATE
from i12e.model import Host
from i12e.restoring import Job, Progress
from i12e.secrets import Secret

UNIT = "i12e-spark"
GIVEN = "/etc/i12e/spark"
WORK = f"{STATE}/spark"
FETCH, PUSH = "fetch", "push"
NONE, SPARK, ALONE, OVER = "none", "spark", "alone", "over"
"""Where it stands: nothing is begun; the spark works; the final config restores; the hold is released."""
_RANCHER = "/var/lib/rancher"
_REMOTE = "i12e"


@dataclass(frozen=True)
class Source:
    """The way to a store as rclone takes it: a config, and what it calls the store's folder."""

    conf: Secret
    remote: str


@dataclass(frozen=True)
class Piece:
    """A part of the backup that the host needs: its name, hashes as it is stored and of what is in it, its new name."""

    part: str
    sealed: str
    plain: str
    target: str


@dataclass(frozen=True)
class Given:
    """All that a spark is given."""

    job: Job
    proof: Proof
    pieces: Sequence[Piece]
    token: Secret
    """Of the throw-away k3s: made for it."""
    folder: str = ""
    """The backup's folder, as rclone calls it; "" where the operator sends the backup."""
    conf: Secret | None = None
    manifest: str = ""
    """The SHA-256 of the manifest."""
    key: Secret | None = field(default=None, repr=False)
    """The backup's own."""


# --- the way to a store


def source(store: Any, credentials: Mapping[str, Secret]) -> Source:
    """Given a store of the model and its credentials, return how a host reaches it; raise UserError if it cannot."""
    if store.s3:
        return _s3(store, credentials)
    if store.rclone:
        return _rclone(store, credentials)
    raise _no(store.name, "is a folder of this machine, which no host can fetch from")


def _no(name: str, why: str, remedy: str = "") -> UserError:
    more = f"{remedy}; or " if remedy else ""
    return UserError(Problem("", None, None, f"{name}: {why}", f"{more}--push sends it over ssh, --from names another"))


def _s3(store: Any, credentials: Mapping[str, Secret]) -> Source:
    if "access_key" not in credentials:
        why = "its keys are this machine's own settings of AWS, which the host has not"
        raise _no(store.name, why, f"{store.name}: {{access_key, secret_key}} in the secrets (backup.yaml)")
    options = {
        "type": "s3",
        "provider": "Other" if store.s3.endpoint else "AWS",
        "access_key_id": credentials["access_key"].reveal(),
        "secret_access_key": credentials["secret_key"].reveal(),
        "session_token": credentials["session_token"].reveal() if "session_token" in credentials else "",
        "region": store.s3.region or "",
        "endpoint": store.s3.endpoint or "",
        "force_path_style": "true" if store.s3.path_style else "false",
        "no_check_bucket": "true",
    }
    parser = _parser()
    parser[_REMOTE] = {name: value for name, value in options.items() if value}
    prefix = store.s3.prefix.strip("/")
    return Source(_text(parser), f"{_REMOTE}:{store.s3.bucket}{f'/{prefix}' if prefix else ''}")


def _rclone(store: Any, credentials: Mapping[str, Secret]) -> Source:
    if "rclone_conf" not in credentials:
        why = "its rclone.conf is your own, which the host has not"
        raise _no(store.name, why, f"{store.name}: {{rclone_conf: ...}} in the secrets (backup.yaml)")
    parser = _parser()
    parser.read_string(credentials["rclone_conf"].reveal())  # the store was opened with it: it can be read
    name = store.rclone.partition(":")[0]
    if name not in parser:
        raise _no(store.name, "is a path of this machine, which no host can fetch from")
    for section in set(parser.sections()) - _needed(parser, name):
        parser.remove_section(section)
    for section in parser.sections():
        if parser[section].get("type") in ("local", "alias") and ":" not in parser[section].get("remote", ""):
            raise _no(store.name, "is a path of this machine, which no host can fetch from")
        for option, value in parser.items(section):
            if option.endswith("_file") and value:
                why = f"the option {option} of its remote {section} names a file of this machine"
                raise _no(store.name, why, "have its content in the config, as key_pem of sftp has a key")
    return Source(_text(parser), store.rclone if store.rclone.endswith(":") else store.rclone.rstrip("/"))


def _needed(parser: configparser.RawConfigParser, name: str) -> set[str]:
    """Return a remote and those that it stands on: no other password goes to a host."""
    needed, left = set(), [name]
    while left:
        section = left.pop()
        if section in needed:
            continue
        needed.add(section)
        said = " ".join(parser[section].get(option, "") for option in ("remote", "upstreams"))
        left += [other for other in parser.sections() if f"{other}:" in said]
    return needed


def _parser() -> configparser.RawConfigParser:
    return configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), default_section="\0")


def _text(parser: configparser.RawConfigParser) -> Secret:
    text = io.StringIO()
    parser.write(text)
    return Secret(text.getvalue())


# --- what it is given


def keep_paths(host: Host) -> list[str]:
    """Given a host, return what the resets of a spark keep: what os_deploy does, and nothing of k3s's."""
    gone = (_RANCHER, "/etc/rancher/node")
    return [path for path in deploy.keep_paths(host) if not path.startswith(gone)]


def files(given: Given, host: Host, final: bytes, digest: str) -> dict[str, bytes]:
    """Given all of it, the host, its final config and that one's digest, return the files of the spark by path."""
    job = given.job
    settings = {
        "backup": job.backup, "how": FETCH if given.folder else PUSH, "place": given.folder,
        "manifest": given.manifest, "hold": hold(job),
    }  # fmt: skip
    reset = deploy.reset_script(host, digest, f"{WORK}/reset.log", f"{WORK}/failed", keep_paths(host))
    found = {
        "settings": "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()).encode(),
        "parts": "".join(f"{p.part} {p.sealed} {p.plain} {p.target}\n" for p in given.pieces).encode(),
        "final.ign": final,
        "final.sh": reset.encode(),
        **{f"restore/{name}": content for name, content in alone.files(job, given.proof)},
    }
    if given.conf is not None and given.key is not None:
        found |= {"rclone.conf": given.conf.reveal().encode(), "key": given.key.reveal().encode() + b"\n"}
    told = {f"{GIVEN}/{name}": content for name, content in found.items()}
    told["/etc/rancher/k3s/config.yaml"] = k3s_config(host, given.token).encode()
    told[f"{STATE}/hold"] = f"spark of {job.backup} by {job.by}\n".encode()
    return told


def hold(job: Job) -> str:
    """Given a job, return the first line of the hold under which it is restored."""
    return f"restore of {job.backup} by {job.by}"


def k3s_config(host: Host, token: Secret) -> str:
    """Given a host and a token, return the config of the throw-away k3s: on SQLite, and seen by nobody else."""
    settings = {
        "token": token.reveal(), "node-name": f"{host.name}-spark", "bind-address": "127.0.0.1",
        "disable": ["coredns", "local-storage", "metrics-server", "servicelb", "traefik"],
    }  # fmt: skip
    return json.dumps(settings) + "\n"


# --- where it stands


@dataclass(frozen=True)
class Standing:
    """Where a spark and what follows it stand on a host."""

    stage: str = NONE
    backup: str = ""
    failed: str = ""
    """Why it does not go on by itself."""
    last: str = ""
    progress: Progress = field(default_factory=Progress)
    waits: bool = False
    """Whether an operator has to send the backup."""


LOOK = f"""
tell() {{ printf '%s ' "$1"; base64 -w0; echo; }}
if [ -f {GIVEN}/settings ]; then
    sed -n 's/^backup=//p' {GIVEN}/settings | tell spark
    sed -n 's/^how=//p' {GIVEN}/settings | tell spark_how
fi
if [ -f {WORK}/failed ]; then tell spark_failed <{WORK}/failed; fi
if [ -f {WORK}/last ]; then tail -c 300 {WORK}/last | tell spark_last; fi
systemctl show -p ActiveState --value {UNIT} 2>/dev/null | tell spark_unit
{alone.state()}
{restoring.LOOK}
"""
"""The script whose output read() reads."""
AGAIN = f"""
for unit in {UNIT} {alone.UNIT}; do
    if systemctl is-failed --quiet "$unit"; then systemctl restart "$unit"; fi
done
"""
"""Starts again what has failed."""


def read(output: str) -> Standing:
    """Given what LOOK printed, return where it stands."""
    said: dict[str, str] = {}
    for line in output.splitlines():
        key, _, value = line.partition(" ")
        said[key] = base64.b64decode(value).decode(errors="replace").strip()
    progress = restoring.read(output)
    if "spark" in said:
        failed = (said.get("spark_failed") or "it says not why") if said.get("spark_unit") == "failed" else ""
        waits = said.get("spark_how") == PUSH
        return Standing(SPARK, said["spark"], failed, said.get("spark_last", ""), progress, waits)
    backup = progress.job.backup if progress.job else ""
    if "alone" in said:
        failed = (progress.failed or "it says not why") if said.get("alone_unit") == "failed" else ""
        return Standing(ALONE, backup, failed, progress.last or said.get("alone_last", ""), progress)
    if backup and restoring.RELEASED in progress.done:
        return Standing(OVER, backup, "", "", progress)
    return Standing(NONE, backup, "", "", progress)

"""The machine ids that hosts are known by: hosts/ENV/machines.lock, one line a host, committed.

A host whose machine id (machine-id(5)) is another one is not the machine that was meant, or was wiped: nothing is
done to it until somebody has looked (`./doit host_trust:HOST`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping

from i12e import fields, files
from i12e.errors import Problem, UserError
from i12e.paths import Paths, natural

_HEAD = """\
# Made by ./doit host_trust and the first os_deploy: the machine id that each host is known by, without which nothing
# is done to it. Read what changed, then commit it. Other comments than this one are not kept.
"""
_ID = re.compile(r"[0-9a-f]{32}")
_NONE = "0" * 32
_MERGE = ("<<<<<<<", "=======", ">>>>>>>", "|||||||")
_MODE = 0o644  # it is in git, and no secret


def load(paths: Paths) -> dict[str, str]:
    """Given an environment, return the pinned machine ids by host, server-2 before server-10; none without the file.

    Raise UserError with all that is wrong with the file.
    """
    try:
        content = (paths.root / paths.machines).read_bytes()
    except FileNotFoundError:
        return {}
    return _parsed(content, paths.machines)


def pin(paths: Paths, host: str, machine_id: str) -> None:
    """Given a host and its machine id, pin that, in place of another one.

    What others pin meanwhile, in this process or another one, is kept. Raise UserError if this is no machine id, if
    another host has it, or if the file has a fault; it stays as it is then.
    """
    if not _is_id(machine_id):
        said = f"{host}: its machine id {json.dumps(machine_id[:40])} is none"
        remedy = "32 digits 0-9a-f, which systemd writes into /etc/machine-id at the first boot"
        raise UserError(Problem("", None, None, said, remedy))
    with _alone(paths):
        pins = load(paths)
        other = next((name for name, known in pins.items() if known == machine_id and name != host), None)
        if other:
            said = f"{host}: has the machine id that is pinned for {other}"
            remedy = "either it is that machine, at another address, or one was copied from the other with its id"
            raise UserError(Problem(paths.machines, None, None, said, remedy))
        _write(paths, pins, {**pins, host: machine_id})


def unpin(paths: Paths, host: str) -> None:
    """Given a host, forget its machine id, if there is one. Raise UserError if the file has a fault."""
    with _alone(paths):
        pins = load(paths)
        _write(paths, pins, {name: known for name, known in pins.items() if name != host})


def _parsed(content: bytes, file: str) -> dict[str, str]:
    pins: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems = []
    for number, raw in enumerate(content.split(b"\n"), start=1):
        line = raw.decode(errors="replace").strip()
        if not line or line.startswith("#"):
            continue
        try:
            host, machine_id = _entry(line)
            if host in pins:
                raise fields.Wrong(f"{host} has a line already, line {lines[host]}", "keep the right one")
            other = next((name for name, known in pins.items() if known == machine_id), None)
            if other:
                raise fields.Wrong(
                    f"{host} and {other} have the same machine id", "./doit host_trust reads the real one"
                )
        except fields.Wrong as wrong:
            problems.append(Problem(file, number, None, wrong.rule, wrong.remedy))
            continue
        pins[host], lines[host] = machine_id, number
    if problems:
        raise UserError(problems)
    return {host: pins[host] for host in sorted(pins, key=natural)}


def _entry(line: str) -> tuple[str, str]:
    """Given a line, return the host and its machine id; raise fields.Wrong if it does not say that."""
    if line.startswith(_MERGE):
        raise fields.Wrong("a merge was not finished here", "keep one line of each host")
    words = line.split()
    if len(words) != 2:
        raise fields.Wrong("is not a host and its machine id", "like server-1 0123456789abcdef0123456789abcdef")
    host, machine_id = words
    try:
        fields.label(host)
    except fields.Wrong as wrong:
        raise fields.Wrong(f"the host's name {wrong.rule}", wrong.remedy) from None
    if not _is_id(machine_id):
        raise fields.Wrong(f"{host}: the machine id is none", "32 digits 0-9a-f, as in the host's /etc/machine-id")
    return host, machine_id


def _is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text)) and text != _NONE


def _write(paths: Paths, before: Mapping[str, str], pins: Mapping[str, str]) -> None:
    if pins == before:
        return
    lines = [f"{host} {pins[host]}\n" for host in sorted(pins, key=natural)]
    files.replace(paths.root / paths.machines, (_HEAD + "".join(lines)).encode(), _MODE)


@contextlib.contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """Until the block ends, be the only one who changes the file; others wait, threads of this process too."""
    place = paths.root / paths.build
    files.private_folder(place)
    handle = os.open(place / "machines.mutex", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

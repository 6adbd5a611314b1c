"""The hosts of an environment over ssh: what is asked of all of them, and what they are to be."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from i12e import facts, machines, remote, screen
from i12e.build import Build
from i12e.deploy import Situation, Wanted
from i12e.errors import Problem, UserError
from i12e.facts import ClusterView, Facts, Silent
from i12e.lock import duration
from i12e.remote import Remote

_LOOK = 1.0  # seconds between two looks at a host that is silent
_MANY = 16  # hosts that are asked at once
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Hosts:
    """The hosts of an environment over ssh, each with a log of its own."""

    def __init__(self, build: Build, wanted: Mapping[str, Wanted]) -> None:
        self.build = build
        self.wanted = wanted
        self._remotes: dict[str, Remote] = {}
        self._mutex = threading.Lock()

    def __getitem__(self, name: str) -> Remote:
        with self._mutex:
            if name not in self._remotes:
                target = remote.target(self.wanted[name].host, self.build.paths.root)
                self._remotes[name] = Remote(target, _Log(self.build.paths.root / self.build.paths.log(name)))
            return self._remotes[name]

    def close(self) -> None:
        """End all connections."""
        for each in self._remotes.values():
            each.close()

    def ask(self, name: str, whole: bool = False) -> Facts:
        """Given a host, return its facts."""
        try:
            done = self[name].run(facts.script(whole), limit=90)
        except remote.Unreachable as error:
            passing = isinstance(error, (remote.Refused, remote.Lost, remote.Slow))
            return Silent(error.why, error.remedy, passing)
        return facts.parse(done.output)

    def ask_all(self, names: Sequence[str], whole: Sequence[str] = ()) -> dict[str, Facts]:
        """Given hosts, return the facts of all, asked side by side; `whole`: those whose config is wanted too."""
        with ThreadPoolExecutor(_MANY) as pool:
            found = pool.map(lambda name: self.ask(name, name in whole), names)
            return dict(zip(names, found, strict=True))

    def trust(self, names: Sequence[str]) -> None:
        """Given hosts, ask once whether an unknown ssh host key is theirs, where a person can be asked."""
        for name in names:
            try:
                self[name].run("true", limit=30)
            except remote.UnknownKey:
                with self.build.request.pause(), screen.terminal() as terminal:
                    if terminal is not None:
                        remote.ask_key(self[name].target, terminal)
            except remote.Unreachable:
                continue


class _Log:
    """A host's log: a line with the time for each thing that was done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, line: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._path.open("a") as log:
                log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")
        except OSError as error:
            if error.errno not in _FULL:  # for want of a line, nothing is left lying on a host
                raise


def wanted_hosts(build: Build) -> dict[str, Wanted]:
    """Return all hosts with the configs that they are to have, as they are rendered now; raise UserError.

    The examples are no cluster: their keys and tokens are public, and nobody's hosts have their addresses.
    """
    from i12e import render

    if build.paths.is_example:
        said = f"{build.paths.env} is an example: its secrets are public, and its hosts are nobody's"
        remedy = "./doit init makes a cluster of your own; ./doit lab_up makes one to play with, for I12E_ENV=lab"
        raise UserError(Problem("", None, None, said, remedy))
    found = {}
    for host, config in build.rendered_all():
        found[host.name] = Wanted(host, config, render.digest_in(json.loads(config)))
    return found


def situation(
    hosts: Hosts,
    targets: Sequence[str],
    force: bool = False,
    patience: float = 0.0,
    whole: bool = True,
    whom: Sequence[str] | None = None,
) -> Situation:
    """Given the hosts and which of them are meant, ask all or `whom`; a silent target for up to `patience` seconds.

    `whole`: with what only a plan needs, the config and the volumes.
    """
    names = list(hosts.wanted) if whom is None else list(whom)
    found = hosts.ask_all(names, targets if whole else ())
    deadline = time.monotonic() + patience
    told = False
    while time.monotonic() < deadline:
        silent = [n for n in targets if isinstance(f := found.get(n), Silent) and f.passing]
        if not silent:
            break
        if not told:
            screen.say(f"{', '.join(silent)}: no answer, waits up to {duration(patience)}: it may be booting")
            told = True
        time.sleep(_LOOK)
        found |= hosts.ask_all(silent, silent if whole else ())
    servers = tuple(name for name, wanted in hosts.wanted.items() if wanted.host.role == "server")
    pins = machines.load(hosts.build.paths)
    return Situation(hosts.wanted, ClusterView(found, servers), pins, targets, force, at=time.time())

"""host_trust: the machine that answers as a host is pinned as that host, after a person has looked."""

from __future__ import annotations

from i12e import fleet, machines, screen
from i12e.build import Build
from i12e.errors import Problem, UserError
from i12e.facts import HostFacts


def run(build: Build, host: str, yes: bool) -> None:
    """Given a host, show which machine answers, and pin its id once it is confirmed; raise UserError if it is not."""
    hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
    try:
        hosts.trust([host])
        found = hosts.ask(host)
    finally:
        hosts.close()
    if not isinstance(found, HostFacts):
        raise UserError(Problem("", None, None, f"{host}: it cannot be reached: {found.why}", found.remedy))
    pinned = machines.load(build.paths).get(host)
    if pinned == found.machine_id:
        build.tell("KEEP", host, f"{found.machine_id} is pinned already", "kept")
        return
    _confirm(build, host, found, pinned, yes)
    if pinned is not None:
        machines.unpin(build.paths, host)
    machines.pin(build.paths, host, found.machine_id)
    build.tell("TRUST", host, f"{found.machine_id}, in {build.paths.machines}: commit it")


def _confirm(build: Build, host: str, found: HostFacts, pinned: str | None, yes: bool) -> None:
    identity = found.identity or {}
    is_ = f"{identity.get('host')} of {identity.get('cluster')}" if identity else "bare: nothing of i12e is on it"
    data = f", with an {found.datastore} datastore" if found.datastore else ", without a datastore"
    told = [
        f"{host}: machine {found.machine_id}, {found.os} {found.os_version}, {is_}{data}",
        f"    pinned so far: {pinned or 'none'}",
    ]
    if yes:
        return
    with build.request.pause(), screen.terminal() as terminal:
        if terminal is None:
            problem = Problem("", None, None, "; ".join(told), "nobody can be asked here: --yes pins it")
            raise UserError(problem)
        for line in told:
            terminal.say(line)
        try:
            answer = terminal.ask(f"Type the host's name, {host}, to pin this machine as it:")
        except EOFError:
            answer = ""
    if answer != host:
        raise UserError(Problem("", None, None, f'"{answer}" is not {host}: nothing was changed'))

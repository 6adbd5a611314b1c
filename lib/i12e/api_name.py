"""`dns`: makes the API's name the healthy servers, by what `dns` (the plan) says and a zone's provider does.

Who the cluster is, and since which epoch, is kept in the cluster itself: an old copy of it that wakes up has an older
epoch, and the name's fence, which says the newer one, keeps it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from i12e import credentials, dns, epoch, fleet, remote, screen, zones
from i12e.build import Build
from i12e.deploy import Situation
from i12e.dns import Plan
from i12e.errors import Problem, UsageError, UserError
from i12e.openzone import open_zone
from i12e.patience import Patience
from i12e.settings import Cluster, Dns
from i12e.zones import ByHand, Changed, Fence, Zone, ZoneError

_TRIES = 5
_VISIBLE = 60.0  # seconds in which what was written is to be everywhere


def run(build: Build, only_plan: bool, take_over: bool, yes: bool, permissions: bool) -> None:
    """Given the task's options, make the name the healthy servers, or tell what would be done; raise UserError."""
    cluster = build.cluster()
    settings = cluster.dns
    if settings is None:
        said = f"has no dns: {cluster.api.name} is yours to keep"
        raise UserError(
            Problem(build.paths.cluster_file, None, None, said, "docs/providers.md shows how it is written")
        )
    path = f"{build.paths.secrets}/dns.yaml"
    zone = open_zone(settings, credentials.of_dns(settings, build.group("dns"), path), screen.say)
    try:
        if permissions:
            build.tell("DNS", zone.place, "", "told", {"permissions": zone.permissions(cluster.api.name)},
                       zone.permissions(cluster.api.name))  # fmt: skip
            return
        hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
        try:
            now = fleet.situation(hosts, [], whole=False)
            _Name(build, cluster, settings, zone, hosts, now).make(only_plan, take_over, yes)
        finally:
            hosts.close()
    except ZoneError as error:
        raise UserError(error.problem()) from None
    except remote.Unreachable as error:
        raise UserError(error.problem()) from None
    finally:
        zone.close()


class _Name:
    """One run of `dns`."""

    def __init__(
        self, build: Build, cluster: Cluster, settings: Dns, zone: Zone, hosts: fleet.Hosts, now: Situation
    ) -> None:
        self.build = build
        self.name = cluster.api.name
        self.ttl = settings.ttl_seconds
        self.zone = zone
        self.hosts = hosts
        self.now = now
        self.fit = dns.healthy(now.view, sqlite=cluster.k3s.datastore == "sqlite")
        self.addresses: Mapping[str, tuple[str, ...]] = {name: now.wanted[name].host.addresses for name in now.servers}

    def make(self, only_plan: bool, take_over: bool, yes: bool) -> None:
        """Do what the plan says; where somebody wrote meanwhile, plan again."""
        answering = self.now.view.answering()
        if not answering or not self.fit.servers:
            raise UserError(self._nothing_healthy())
        ours, known = self._identity(answering[0])
        for _ in range(_TRIES):
            ours, plan, taken = self._plan(ours, take_over)
            if only_plan or plan.action == "nothing":
                self._told(plan, ours, "planned" if plan.action == "write" else "kept")
                return
            if taken:
                self._confirm(plan, yes)
                yes = True
            if known != ours:
                self._remember(answering[0], ours, new=known is None)
                known = ours
            with suppress(Changed):
                self._write(plan, ours)
                return
        raise UserError(Problem("", None, None, f"{self.name}: somebody else writes it all the time", "run it again"))

    def _plan(self, ours: Fence, take_over: bool) -> tuple[Fence, Plan, bool]:
        """Return who we are, with the epoch of a takeover, what is to be done, and whether that takes the name away."""
        found = self.zone.read(self.name)
        if take_over and found.fence not in (None, ours):
            ours = ours.after(found.fence)
        plan = dns.plan(self.name, self.fit, self.addresses, found, ours, self.ttl, take_over)
        self.build.notes += [note for note in plan.notes if note not in self.build.notes]
        if plan.action == "refuse":
            raise UserError(Problem("", None, None, plan.why, plan.remedy))
        return ours, plan, plan.takes_over or (plan.claims and bool(found.addresses))

    def _write(self, plan: Plan, ours: Fence) -> None:
        try:
            self.zone.ensure(self.name, plan.addresses, self.ttl, ours, plan.expected)
        except ByHand as error:
            told = [f"{error.why}; enter this by hand, then run this again:", *error.lines]
            text = "".join(f"{line}\n" for line in told)
            self.build.tell("DNS", self.name, error.why, "told", self._facts(plan, ours), text)
            return
        behind = zones.wait_until_visible(
            self.zone, self.name, plan.addresses, self.ttl, ours, Patience(screen.say, _VISIBLE, longest=10.0)
        )
        if behind:
            said = f"{self.name} was written, and not all of the zone's servers show it: {'; '.join(behind)}"
            raise UserError(Problem("", None, None, said, "run it again: it only looks, if all is well by then"))
        self._told(plan, ours, "done")

    def _nothing_healthy(self) -> Problem:
        reasons = "; ".join(f"{server} {why}" for server, why in self.fit.unfit.items()) or "there is no server"
        said = f"no server is healthy, so {self.name} stays as it is: {reasons}"
        return Problem("", None, None, said, "see ./doit status")

    def _identity(self, server: str) -> tuple[Fence, Fence | None]:
        """Return who the cluster is, and what it has of that written down, None where it has nothing yet."""
        found = epoch.read(self.hosts[server])
        ours = Fence(found.uid, found.epoch)
        return ours, ours if found.written else None

    def _remember(self, server: str, ours: Fence, new: bool) -> None:
        """Write the epoch into the cluster, before anybody else can see it: a copy of before has an older one."""
        epoch.write(self.hosts[server], ours.epoch, new)

    def _confirm(self, plan: Plan, yes: bool) -> None:
        if yes:
            return
        with self.build.request.pause(), screen.terminal() as terminal:
            if terminal is None:
                said = f"{plan.why}: that takes the name from whoever has it, and nobody can be asked here"
                raise UserError(Problem("", None, None, said, "look at --only-plan, then give --yes"))
            terminal.say(plan.why)
            try:
                answer = terminal.ask(f"\nType the name, {self.name}, to go on:")
            except EOFError:
                answer = ""
        if answer != self.name:
            raise UsageError(Problem("", None, None, f'"{answer}" is not {self.name}: nothing was changed'))

    def _told(self, plan: Plan, ours: Fence, result: str) -> None:
        self.build.tell("DNS", self.name, plan.why, result, self._facts(plan, ours))

    def _facts(self, plan: Plan, ours: Fence) -> dict[str, object]:
        return {
            "addresses": [str(each) for each in plan.addresses],
            "servers": list(self.fit.servers),
            "unfit": dict(self.fit.unfit),
            "ttl": self.ttl,
            "epoch": ours.epoch,
            "cluster": ours.cluster,
        }

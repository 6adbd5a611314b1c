"""`dns`: makes the API's name the healthy servers, after a person's word where it may be somebody else's."""

from __future__ import annotations

from collections.abc import Callable

from i12e import fleet, naming, remote, screen
from i12e.build import Build
from i12e.deploy import Situation
from i12e.dns import Healthy, Plan
from i12e.errors import Problem, UsageError, UserError
from i12e.naming import Name, Planned
from i12e.zones import ByHand, ZoneError

_TRIES = 3


def run(build: Build, only_plan: bool, take_over: bool, yes: bool, permissions: bool) -> None:
    """Given the task's options, make the name the healthy servers, or tell what would be done; raise UserError."""
    cluster = build.cluster()
    settings = cluster.dns
    if settings is None:
        said = f"has no dns: {cluster.api.name} is yours to keep"
        raise UserError(
            Problem(build.paths.cluster_file, None, None, said, "docs/providers.md shows how it is written")
        )
    zone = naming.zone(build, settings)
    try:
        if permissions:
            text = zone.permissions(cluster.api.name)
            build.tell("DNS", zone.place, "", "told", {"permissions": text}, text)
            return
        hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
        try:
            _Run(build, Name(build, cluster, settings, zone, hosts)).make(only_plan, take_over, yes)
        finally:
            hosts.close()
    except (ZoneError, remote.Unreachable) as error:
        raise UserError(error.problem()) from None
    finally:
        zone.close()


class _Run:
    """One run of `dns`."""

    def __init__(self, build: Build, name: Name) -> None:
        self.build = build
        self.name = name
        self.now, self.fit = self._look()

    def _look(self) -> tuple[Situation, Healthy]:
        now = fleet.situation(self.name.hosts, [], whole=False)
        return now, self.name.healthy(now.view)

    def make(self, only_plan: bool, take_over: bool, yes: bool) -> None:
        """Do what the plan says; where somebody wrote meanwhile, plan again."""
        answering = self.now.view.answering()
        if not answering or not self.fit.servers:
            raise UserError(self._nothing_healthy())
        if only_plan:
            planned = self.name.planned(self.fit, answering[0], take_over)
            self._told(planned, "planned" if planned.plan.action == "write" else "kept")
            return
        asked: list[Planned] = []

        def admit(planned: Planned) -> None:
            if planned.takes and not any(each.takes for each in asked):
                self._confirm(planned.plan, yes)
            asked.append(planned)

        try:
            done = self._made(answering[0], admit, take_over)
        except ByHand as error:
            told = [f"{error.why}; enter this by hand, then run this again:", *error.lines]
            text = "".join(f"{line}\n" for line in told)
            self.build.tell("DNS", self.name.text, error.why, "told", self._facts(asked[-1]), text)
            return
        self._told(done, "done" if done.plan.action == "write" else "kept")

    def _made(self, answering: str, admit: Callable[[Planned], None], take_over: bool) -> Planned:
        """Do it, and look again: a deployment elsewhere may have taken a server out, or put one back, since we looked.

        Whoever writes last has looked after it, so that no stale view stays.
        """
        done = made = self.name.make(self.fit, answering, admit, take_over)
        for _ in range(_TRIES):
            if made.plan.action != "write":
                break
            now, fit = self._look()
            if fit.servers == self.fit.servers or not fit.servers or not now.view.answering():
                break
            self.now, self.fit = now, fit
            made = self.name.make(fit, now.view.answering()[0], admit)
            done = made if made.plan.action == "write" else done
        else:
            self.build.note(f"{self.name.text}: its servers change all the time; run it again when they do not")
        return done

    def _nothing_healthy(self) -> Problem:
        reasons = "; ".join(f"{server} {why}" for server, why in self.fit.unfit.items()) or "there is no server"
        said = f"no server is healthy, so {self.name.text} stays as it is: {reasons}"
        return Problem("", None, None, said, "see ./doit status")

    def _confirm(self, plan: Plan, yes: bool) -> None:
        if yes:
            return
        with self.build.request.pause(), screen.terminal() as terminal:
            if terminal is None:
                said = f"{plan.why}: that takes the name from whoever has it, and nobody can be asked here"
                raise UserError(Problem("", None, None, said, "look at --only-plan, then give --yes"))
            terminal.say(plan.why)
            try:
                answer = terminal.ask(f"\nType the name, {self.name.text}, to go on:")
            except EOFError:
                answer = ""
        if answer != self.name.text:
            raise UsageError(Problem("", None, None, f'"{answer}" is not {self.name.text}: nothing was changed'))

    def _told(self, planned: Planned, result: str) -> None:
        self.build.tell("DNS", self.name.text, planned.plan.why, result, self._facts(planned))

    def _facts(self, planned: Planned) -> dict[str, object]:
        return {
            "addresses": [str(each) for each in planned.plan.addresses],
            "servers": list(self.fit.servers),
            "unfit": dict(self.fit.unfit),
            "ttl": self.name.ttl,
            "epoch": planned.ours.epoch,
            "cluster": planned.ours.cluster,
        }

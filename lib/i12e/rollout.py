"""os_deploy: brings hosts to their configs, one server at a time, and proves each before the next.

What a run has begun on a host is written there (deploy.json), and what the host runs is asked of the host alone: a run
that was killed anywhere is followed by the same command, which goes on from what is there.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from i12e import backup, deploy, facts, fleet, leaving, machines, naming, plans, remote, screen
from i12e.build import Build
from i12e.deploy import FOUND, INSTALL, NOTHING, PROVE, REFUSE, HostPlan, Situation, Wanted
from i12e.errors import Changes, Problem, UserError
from i12e.facts import STATE, ClusterView, HostFacts
from i12e.lock import duration, operator, seconds
from i12e.settings import Cluster

_NEWS = 10.0  # seconds between two lines about one wait
_LOOK = 1.0  # seconds between two looks at what is waited for
_ANSWER = 60.0  # seconds for which a host that is to be deployed may be silent: it may be booting
_TAKE_OVER = 30.0  # seconds in which an operator whose host has rebooted takes its lock again
_FRESH = 900  # seconds after which nobody is expected to come back to what was begun

_DONE = {PROVE: "proven", FOUND: "founded the cluster, proven", INSTALL: "installed and proven"}

# Keeps the host's lock for as long as we live: a line comes every few seconds.
_LOCK = r"""
exec bash -c '
exec 9>/run/i12e-operator.lock
if ! flock -n 9; then echo "busy $(head -n 1 /run/i12e-operator 2>/dev/null)"; exit 0; fi
printf "%s\n" "$1" >/run/i12e-operator
echo held
while read -t 60 -r _; do :; done' lock """


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    yes: bool = False
    only_plan: bool = False
    force: str = ""
    parallel: int = 1
    timeout: float = 900.0
    """Seconds that a host may take to come back, and again to be healthy."""
    drain: float = 120.0
    """Seconds that its pods may take to leave."""
    no_backup: str = ""
    """Why hosts of a living cluster are reset without a fresh backup."""
    no_dns: str = ""
    """Why the API's name is left alone, although servers are reset."""


def options(
    yes: bool, only_plan: bool, force: str, parallel: int, timeout: str, drain_timeout: str, no_backup: str, no_dns: str
) -> Options:
    """Given the task's options, return them; raise UserError for what is none."""
    wrong: list[Problem] = []

    def length(name: str, text: str) -> float:
        try:
            return seconds(text)
        except ValueError:
            wrong.append(Problem("", None, None, f'--{name} "{text}": write a time such as 90s, 5m or 1h'))
            return 0.0

    limits = length("timeout", timeout), length("drain-timeout", drain_timeout)
    made = Options(yes, only_plan, force, parallel, *limits, no_backup, no_dns)
    if not 1 <= parallel <= 100:
        wrong.append(Problem("", None, None, f"--parallel {parallel}: 1 to 100 agents at once"))
    if wrong:
        raise UserError(wrong)
    return made


class Stopped(Exception):
    """A host did not get where it should: the rollout ends here."""

    def __init__(self, host: str, why: str, remedy: str = "") -> None:
        self.problem = Problem("", None, None, f"{host}: {why}", remedy)
        super().__init__(why)


def plan(build: Build, host: str | None) -> None:
    """Given a host (None: all), tell what os_deploy would do; raise Changes if that is anything."""
    hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
    try:
        targets = [host] if host else list(hosts.wanted)
        now = replace(fleet.situation(hosts, targets), name=naming.kept(build.cluster()))
    finally:
        hosts.close()
    if plans.tell(build, now, targets):
        raise Changes


def run(
    build: Build,
    host: str | None,
    yes: bool,
    only_plan: bool,
    force: str,
    parallel: int,
    timeout: str,
    drain_timeout: str,
    no_backup: str,
    no_dns: str,
) -> None:
    """Given a host (None: all) and the task's options, bring it to its config and prove it."""
    given = options(yes, only_plan, force, parallel, timeout, drain_timeout, no_backup, no_dns)
    _run(build, host, given, lambda hosts: hosts.wanted)


def rollback(
    build: Build,
    host: str,
    yes: bool,
    only_plan: bool,
    force: str,
    timeout: str,
    drain_timeout: str,
    no_backup: str,
    no_dns: str,
) -> None:
    """Given a host and the task's options, bring it back to the config that was last proven on it."""
    given = options(yes, only_plan, force, 1, timeout, drain_timeout, no_backup, no_dns)

    def proven(hosts: fleet.Hosts) -> Mapping[str, Wanted]:
        try:
            done = hosts[host].run(f"cat {STATE}/proven.ign", limit=60)
        except remote.Unreachable as error:
            raise UserError(error.problem()) from None
        if done.status:
            said = "no config was ever proven on it, so there is none to go back to"
            raise UserError(Problem("", None, None, f"{host}: {said}", f"doit os_deploy:{host}"))
        from i12e import render

        content = done.output.encode()
        digest = render.digest_in(json.loads(content))
        return {**hosts.wanted, host: replace(hosts.wanted[host], config=content, digest=digest)}

    _run(build, host, given, proven)


def _run(build: Build, host: str | None, given: Options, choose: Callable[[fleet.Hosts], Mapping[str, Wanted]]) -> None:
    hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
    try:
        hosts.wanted = choose(hosts)
        Rollout(build, hosts, [host] if host else list(hosts.wanted), given).run()
    finally:
        hosts.close()


class Rollout:
    """One run of os_deploy over its targets."""

    def __init__(self, build: Build, hosts: fleet.Hosts, targets: Sequence[str], given: Options) -> None:
        self.build = build
        self.hosts = hosts
        self.targets = list(targets)
        self.given = given
        self.operator = operator()
        self.clone = hashlib.sha256(str(build.paths.root).encode() + socket.gethostname().encode()).hexdigest()[:12]
        self._locks: dict[str, remote.Held] = {}
        self._view = ClusterView()
        self._name: naming.Name | None = None

    def run(self) -> None:
        """Plan, ask, and bring the targets to their configs; raise UserError with what stopped it."""
        self.hosts.trust(self.targets)
        now = self._named(fleet.situation(self.hosts, self.targets, bool(self.given.force), self._patience))
        if self.given.only_plan:
            plans.tell(self.build, now, self.targets)
            return
        made = {name: deploy.plan(name, now) for name in deploy.order(now, self.targets)}
        refused = [plan for plan in made.values() if plan.action == REFUSE]
        fatal = [plan for plan in refused if plan.name in now.servers or len(self.targets) == 1]
        if fatal:
            raise UserError(Problem("", None, None, f"{plan.name}: {plan.why}", plan.remedy) for plan in fatal)
        todo = [plan for plan in made.values() if plan.action not in (NOTHING, REFUSE)]
        for plan in made.values():
            if plan.action == NOTHING:
                self.build.tell("KEEP", plan.name, plan.why, "kept")
        problems = [Problem("", None, None, f"{plan.name}: {plan.why}", plan.remedy) for plan in refused]
        if todo:
            self._confirm(todo, now)
            self._back_up(todo)
            problems += self._apply(todo, now)
        if problems:
            raise UserError(problems)

    def _confirm(self, todo: Sequence[HostPlan], now: Situation) -> None:
        destructive = [plan for plan in todo if plan.is_gated]
        if not destructive:
            return
        if self.given.force:
            screen.say(f"--force: {self.given.force}: the quorum of etcd is not looked after")
        if self.given.yes:
            return
        word = destructive[0].name if len(destructive) == 1 else now.wanted[destructive[0].name].host.cluster
        what = "host" if len(destructive) == 1 else "cluster"
        with self.build.request.pause(), screen.terminal() as terminal:
            if terminal is None:
                said = f"{', '.join(plan.name for plan in destructive)} would be changed, and nobody can be asked here"
                raise UserError(Problem("", None, None, said, "look at doit plan, then give --yes"))
            for line in plans.lines(self.build, todo, now):
                terminal.say(line)
            try:
                answer = terminal.ask(f"\nType the {what}'s name, {word}, to go on:")
            except EOFError:
                answer = ""
        if answer != word:
            raise UserError(Problem("", None, None, f'"{answer}" is not {word}: nothing was changed'))

    def _back_up(self, todo: Sequence[HostPlan]) -> None:
        """See that there is a fresh good backup, where a plan asks for one; raise UserError."""
        resets = [plan.name for plan in todo if plan.after_backup]
        if not resets:
            return
        if self.given.no_backup:
            screen.say(f"--no-backup: {self.given.no_backup}: {', '.join(resets)} will be reset without a fresh one")
            return
        cluster = self.build.cluster()
        try:
            fresh = backup.fresh(self.build, cluster)
            if fresh is None:
                fresh = self._taken(cluster)
        except UserError as error:
            said = "no fresh backup, so nothing was reset"
            remedy = "mend that, or say why it may be without one: --no-backup REASON"
            raise UserError([*error.problems, Problem("", None, None, said, remedy)]) from None
        screen.say(f"the backup to go back to is {fresh}")

    def _taken(self, cluster: Cluster) -> str:
        """Take a backup and return its id: that one store of several has it is enough here. Raise UserError."""
        try:
            return backup.take(self.build, cluster, self.hosts)
        except UserError as error:
            fresh = backup.fresh(self.build, cluster)
            if fresh is None:
                raise
            self.build.notes += [str(problem) for problem in error.problems]
            return fresh

    @property
    def _patience(self) -> float:
        """Seconds for which a target may be silent."""
        return 0.0 if self.given.only_plan else min(_ANSWER, self.given.timeout)

    # --- the order

    def _apply(self, todo: Sequence[HostPlan], now: Situation) -> list[Problem]:
        servers = [plan.name for plan in todo if plan.name in now.servers]
        agents = [plan.name for plan in todo if plan.name not in now.servers]
        with self.locked(todo, now):
            self._check_name(todo, now)
            try:
                for name in servers:
                    self.bring(name)
            except Stopped as stopped:
                left = [name for name in (*servers, *agents) if not self._is_done(name)]
                rest = [name for name in left if f"{name}:" not in str(stopped.problem)]
                note = f"not touched any more: {', '.join(rest)}" if rest else ""
                self.build.notes += [note] if note else []
                return [stopped.problem]
            problems: list[Problem] = []
            with ThreadPoolExecutor(self.given.parallel) as pool:
                for made in pool.map(self._agent, agents):
                    problems += [made] if made else []
            return problems

    def _agent(self, name: str) -> Problem | None:
        try:
            self.bring(name)
        except Stopped as stopped:
            return stopped.problem
        return None

    def _is_done(self, name: str) -> bool:
        return any(told.what == name and told.result == "done" for told in self.build.told)

    # --- one operator

    @contextmanager
    def locked(self, todo: Sequence[HostPlan], now: Situation) -> Iterator[None]:
        """Given what is to be done, until the block ends hold the locks of all servers that can be reached and of all
        hosts that are changed; raise UserError with who does."""
        chosen = [n for n in now.wanted if n in now.servers or any(plan.name == n for plan in todo)]
        reachable = [name for name in chosen if isinstance(now.view.facts[name], HostFacts)]
        try:
            for name in reachable:
                self._lock(name)
            for name in reachable:
                self._heed_intent(name, now)
            yield
        finally:
            for held in self._locks.values():
                held.close()
            self._locks.clear()
            if self._name:
                self._name.close()
                self._name = None

    def _lock(self, name: str) -> None:
        """Given a host, take its lock; raise UserError if another one has it or the host is not to be reached."""
        try:
            self.take(name)
        except remote.Unreachable as error:
            raise UserError(error.problem()) from None

    def take(self, name: str) -> None:
        """Given a host, take its lock; raise UserError if another one has it, Unreachable if it does not answer."""
        who = f"{self.operator}, since {time.strftime('%H:%M:%S')}, clone {self.clone}"
        held = self.hosts[name].hold(_LOCK + shlex.quote(who))
        line = held.first_line(20)
        if line != "held":
            held.close()
        if line.startswith("busy"):
            said = f"{name}: another os_deploy is at work: {line.removeprefix('busy').strip() or 'it says not whose'}"
            raise UserError(Problem("", None, None, said, "wait for it to end, then run the same again"))
        if line != "held":
            raise UserError(Problem("", None, None, f"{name}: its lock cannot be taken: {held.complaint() or line}"))
        self._locks[name] = held

    def let_go(self, name: str) -> None:
        """Given a host that reboots, forget its lock, which ends with that."""
        held = self._locks.pop(name, None)
        if held is not None:
            held.close()

    def _keep_locks(self) -> None:
        """Take a lock again whose connection has broken; of a host that does not answer there is none to hold."""
        for name in [name for name, held in self._locks.items() if not held.alive()]:
            self.let_go(name)
            with suppress(remote.Unreachable):
                self.take(name)

    def _heed_intent(self, name: str, now: Situation) -> None:
        """Wait a while where another operator has begun something and may come back for it after the host's reboot."""
        found = now.view.facts[name]
        intent = found.intent if isinstance(found, HostFacts) else None
        if intent is None or intent.get("clone") == self.clone:
            return
        assert isinstance(found, HostFacts)  # noqa: S101  # for the type
        age = time.time() - float(intent.get("at", 0))
        if age > _FRESH or found.uptime > _TAKE_OVER:
            screen.say(f"{name}: goes on with what {intent.get('operator')} has begun {duration(age)} ago")
            return
        said = f"{name}: {intent.get('operator')} deploys it, and it has just rebooted"
        raise UserError(Problem("", None, None, said, "wait a minute, then run the same again"))

    # --- the API's name

    @property
    def name(self) -> naming.Name | None:
        """The API's name, open, None where it is not kept right, or left alone; raise what leaving.TROUBLE has."""
        if self._name is None and not self.given.no_dns:
            cluster = self.build.cluster()
            if cluster.dns and naming.kept(cluster):
                zone = naming.zone(self.build, cluster.dns)
                self._name = naming.Name(self.build, cluster, cluster.dns, zone, self.hosts)
        return self._name

    def _named(self, now: Situation) -> Situation:
        return now if self.given.no_dns else replace(now, name=naming.kept(self.build.cluster()))

    def _check_name(self, todo: Sequence[HostPlan], now: Situation) -> None:
        """See that the API's name may be written, where servers are brought to their configs; raise UserError."""
        if not any(plan.name in now.servers for plan in todo):
            return
        kept = naming.kept(self.build.cluster())
        if kept and self.given.no_dns:
            screen.say(f"--no-dns: {self.given.no_dns}: {kept.name} is left as it is; ./doit dns makes it right")
            return
        try:
            name = self.name
        except leaving.TROUBLE as error:
            problems = error.problems if isinstance(error, UserError) else (error.problem(),)
            raise UserError([*problems, leaving.nothing_changed(kept.name if kept else "")]) from None
        if name:
            leaving.check(name, now, any(plan.founds for plan in todo))

    # --- one host

    def situation(self, name: str) -> Situation:
        """Given a host, return what is so now of it and of all servers."""
        servers = [each for each, wanted in self.hosts.wanted.items() if wanted.host.role == "server"]
        whom = list(dict.fromkeys([*servers, name]))
        now = fleet.situation(self.hosts, [name], bool(self.given.force), self._patience, whole=False, whom=whom)
        return self._named(replace(now, targets=self.targets))

    def bring(self, name: str) -> None:
        """Given a host, bring it to its config, from what is so now, and prove it; raise Stopped."""
        self._keep_locks()
        now = self.situation(name)
        self._view = now.view
        plan = deploy.plan(name, now)
        if plan.action == REFUSE:
            raise Stopped(name, plan.why, plan.remedy)
        if plan.action == NOTHING:
            return
        began = time.monotonic()
        self.build.touched = True
        Step(self, name, now, plan).run()
        done = _DONE.get(plan.action, "reset and proven")
        screen.say(f"{name}: {done}")
        self.build.tell("DEPLOY", name, f"{done} in {time.monotonic() - began:.0f} s", facts={"action": plan.action})


class Step:
    """What is done to one host: run() is all of it."""

    def __init__(self, rollout: Rollout, name: str, now: Situation, plan: HostPlan) -> None:
        self.rollout = rollout
        self.name = name
        self.now = now
        self.plan = plan
        self.wanted = now.wanted[name]
        self.remote = rollout.hosts[name]
        found = now.view.facts[name]
        assert isinstance(found, HostFacts)  # noqa: S101  # a plan of a silent host is to refuse
        self.found = found
        self._leaving: leaving.Leaving | None = None

    def run(self) -> None:
        """Do it; raise Stopped."""
        try:
            if self.plan.resets:
                if self.plan.action != deploy.REBOOT:
                    self._check_sources()
                with self._out_of_the_name():
                    if self.plan.action != deploy.REBOOT:
                        self._prepare()
                    self._begin_reset()
                self._come_up()
            elif self.plan.founds or self.plan.forgets:
                self._begin()
                self._admit()
            if not self.plan.resets and self.found.staged:
                self._do(f"flatcar-reset --stop && rm -f {STATE}/next.sum", "takes back the reset that was staged")
            self._prove()
        except remote.Unreachable as error:
            raise Stopped(self.name, error.why, error.remedy or "run the same again: it goes on from there") from None

    def configure(self) -> None:
        """Bring a host that is held to its config, and no further: its k3s does not start. Raise Stopped."""
        try:
            if self.plan.action != deploy.REBOOT:
                self._check_sources()
                self._begin()
                self._prepare()
            self._begin_reset()
            self._come_up()
            self._check_digest(self._facts())
        except remote.Unreachable as error:
            raise Stopped(self.name, error.why, error.remedy or "run the same again: it goes on from there") from None

    def _check_sources(self) -> None:
        self._say("checks what its config fetches")
        said = self._do(deploy.check_sources(json.loads(self.wanted.config)), "", limit=900).output.strip()
        if said:
            raise Stopped(self.name, f"its config fetches what is not to be had: {said}", "nothing was changed")

    # --- the API's name

    @contextmanager
    def _out_of_the_name(self) -> Iterator[None]:
        """Write what is begun; have a server out of the API's name, and in it again where the block fails."""
        try:
            name = self.rollout.name if self.plan.name in self.now.servers else None
        except leaving.TROUBLE as error:
            raise Stopped(
                self.name, f"not reset, for {leaving.complaint(self.now.name, error)}", leaving.MEND
            ) from None
        if name is None and self.plan.action != deploy.REBOOT:
            self._begin()
        if name is not None:
            self._leave(leaving.Leaving(name, self.name))
        try:
            yield
        except (Stopped, remote.Unreachable):
            self._stay()
            raise

    def _leave(self, leaves: leaving.Leaving) -> None:
        """Take a server out of the API's name, and wait; where that fails, it is left as it was. Raise Stopped."""
        try:
            waited = leaves.go(self.now.view, self.found.intent, self._begin)
            if waited:
                self._look_again()
        except leaving.TROUBLE as error:
            self._undo(leaves)
            said = f"not reset, for {leaving.complaint(self.now.name, error)}"
            raise Stopped(self.name, said, f"{leaving.MEND}; the host is as it was") from None
        except Stopped:
            self._undo(leaves)
            raise
        self._leaving = leaves if leaves.wrote else None

    def _look_again(self) -> None:
        """Others may have become sick while a TTL was waited for: raise Stopped if this host may not be reset now."""
        plan = deploy.plan(self.name, self.rollout.situation(self.name))
        if plan.action == REFUSE:
            raise Stopped(self.name, plan.why, plan.remedy)

    def _undo(self, leaves: leaving.Leaving) -> None:
        """Leave the host as it was before this run: what an earlier one has begun, its node not cordoned by one."""
        intent, node = self.found.intent, self.now.view.nodes.get(self.name)
        with suppress(remote.Unreachable, Stopped):
            if intent is None:
                self._do(f"rm -f {STATE}/deploy.json", "")
            else:
                self._write("deploy.json", json.dumps(intent).encode())
            if intent and node and node.cordoned and not intent.get("cordoned"):
                self._kubectl(f"uncordon {self.name}", 60)
        if leaves.wrote:
            self._let_in(leaves)

    def _stay(self) -> None:
        """Let a server whose reset came to nothing into the API's name again, as far as that is possible now."""
        if self._leaving:
            with suppress(remote.Unreachable, Stopped):
                self._begin()
            self._let_in(self._leaving)

    def _let_in(self, leaves: leaving.Leaving) -> None:
        try:
            leaves.come_back(patient=False)
        except leaving.TROUBLE as error:
            self._say(f"{leaving.complaint(self.now.name, error)}; ./doit dns puts it in when it is well")

    def _enter(self) -> None:
        """Have a server that is proven in the API's name; raise Stopped."""
        try:
            name = self.rollout.name
            if name:
                leaving.Leaving(name, self.name).come_back()
        except leaving.TROUBLE as error:
            said = leaving.complaint(self.now.name, error)
            raise Stopped(self.name, f"proven, but {said}", "./doit dns, or the same again") from None

    # --- what is begun

    def _begin(self, leaves: float | None = None) -> None:
        """Write what is begun here; `leaves`: for so many seconds resolvers may have the server, which leaves."""
        intent = self._intent()
        if leaves is not None:
            intent |= {leaving.LEAVES: True, leaving.TTL: leaves}
        self._write("deploy.json", json.dumps(intent).encode())

    def _prepare(self) -> None:
        self._admit()
        if self.plan.drains:
            self._drain()
        self._write("next.ign", self.wanted.config)
        host, digest = self.wanted.host, self.wanted.digest
        self._write("next.sh", deploy.reset_script(host, digest).encode())

    def _admit(self) -> None:
        """Make way for it into the cluster, or give it the permit to found one."""
        if self.plan.forgets:
            self._forget_node()
        if self.plan.founds:
            servers = [self.now.wanted[name].host for name in self.now.servers]
            self._say("gets the permit to found the cluster")
            text = deploy.permit(self.wanted.host, self.found, servers, str(uuid.uuid4()))
            self._write("permit", text.encode())

    def _intent(self) -> dict[str, Any]:
        node = self.now.view.nodes.get(self.name)
        kept = bool((self.found.intent or {}).get("cordoned"))
        cordoned = kept if self.found.intent else bool(node and node.cordoned)
        return {
            "operator": self.rollout.operator,
            "clone": self.rollout.clone,
            "digest": self.wanted.digest,
            "boot_id": self.found.boot_id,
            "at": time.time(),
            "cordoned": cordoned,
        }

    def _forget_node(self) -> None:
        """k3s refuses a node that comes without its password, and etcd a second member of its name."""
        self._say("the cluster forgets the node of that name, whose machine is no more")
        self._kubectl(f"delete node {self.name} --wait=false", 60, self.name)
        self._wait("the cluster to forget it", 60, lambda: self._is_forgotten())

    def _is_forgotten(self) -> str:
        found = self._peer_facts()
        return "its node is still there" if found is None or self.name in (found.nodes or {}) else ""

    def _drain(self) -> None:
        self._say("is drained")
        command = f"drain {self.name} --ignore-daemonsets --delete-emptydir-data"
        limit = self.rollout.given.drain
        done = self._kubectl(f"{command} --timeout={limit:.0f}s", limit + 30)
        if done.status:
            if not (self.found.intent or {}).get("cordoned"):
                self._kubectl(f"uncordon {self.name}", 60)
            said = (done.complaint or done.output).strip()[-400:]
            raise Stopped(
                self.name, f"its pods do not leave: {said}", "see what holds them; --drain-timeout waits longer"
            )

    def _begin_reset(self) -> None:
        self._say("is reset and reboots")
        unit = f"systemd-run --quiet --collect --unit=i12e-reset /bin/sh {STATE}/next.sh"
        if self.plan.action == deploy.REBOOT:
            unit = "systemd-run --quiet --collect --unit=i12e-reset systemctl reboot"
        with suppress(remote.Lost, remote.Slow):  # whether it began is seen by what comes of it
            clear = f"systemctl reset-failed i12e-reset 2>/dev/null; rm -f {STATE}/next.log {deploy.FAILED}"
            done = self.remote.run(f"{clear}; {unit}", limit=30)
            if done.status:
                raise Stopped(self.name, f"the reset did not begin: {done.complaint.strip()}")

    def _come_up(self) -> None:
        self.rollout.let_go(self.name)
        self._wait("its reboot", self.rollout.given.timeout, self._has_rebooted)
        again = (remote.Refused, remote.Lost, remote.Slow)
        remote.patiently(lambda: self.rollout.take(self.name), _ANSWER, screen.say, again)

    def _has_rebooted(self) -> str:
        script = f"cat /proc/sys/kernel/random/boot_id; cat {deploy.FAILED} 2>/dev/null || true"
        try:
            done = self.remote.run(script, limit=10)
        except (remote.Refused, remote.Lost, remote.Slow) as error:
            return error.why
        boot_id, _, log = done.output.partition("\n")
        if boot_id.strip() != self.found.boot_id:
            return ""
        if log.strip():
            self._stay()
            raise Stopped(self.name, f"the reset failed, the host is as it was: {log.strip()}", f"see {STATE}/next.log")
        return "it has not gone down yet"

    def _prove(self) -> None:
        found = self._facts()
        self._check_digest(found)
        if found.hold is not None:
            raise Stopped(self.name, f"it runs its config, but k3s is held back: {found.hold}")
        self._wait("its health", self.rollout.given.timeout, self._lacks)
        if not (found.intent or {}).get("cordoned"):
            done = self._kubectl(f"uncordon {self.name}", 60)
            if done.status:
                raise Stopped(self.name, f"it cannot be uncordoned: {done.complaint.strip()}")
        named = self.now.name is not None and self.name in self.now.servers
        if named and (found.intent is None or leaving.LEAVES in found.intent):  # until the name is right, it is begun
            intent = {key: value for key, value in (found.intent or self._intent()).items() if key != leaving.LEAVES}
            self._write("deploy.json", json.dumps(intent).encode())
        self._write("proven.ign", self.wanted.config)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write("proven.json", json.dumps({"digest": self.wanted.digest, "at": at}).encode())
        if named:
            self._enter()
        self._do(f"rm -f {STATE}/deploy.json {STATE}/next.ign {STATE}/next.sh {STATE}/next.sum", "")

    def _check_digest(self, found: HostFacts) -> None:
        """See that the host runs the config that it was given, and pin its machine."""
        if found.digest != self.wanted.digest:
            raise Stopped(
                self.name,
                f"it came back with another config (digest {found.digest[:12] or 'none'}, not "
                f"{self.wanted.digest[:12]}): the reset did not take effect",
                "see its console, and /var/lib/i12e/next.log on it",
            )
        machines.pin(self.rollout.build.paths, self.name, found.machine_id)

    def _lacks(self) -> str:
        try:
            found = self._facts()
        except (remote.Refused, remote.Lost, remote.Slow) as error:
            return error.why
        peer = self._peer_facts() if found.nodes is None else found
        view = ClusterView({"peer": peer} if peer else {}, ("peer",))
        return deploy.unhealthy(self.wanted.host, found, view)

    # --- by what

    def _facts(self) -> HostFacts:
        return facts.parse(self.remote.run(facts.script(False), limit=90).output)

    def _peer_facts(self) -> HostFacts | None:
        """Return the facts of a server that answers, this host's own last of all."""
        for name in [*(each for each in self.now.servers if each != self.name), self.name]:
            if isinstance(self.rollout.hosts.wanted.get(name), Wanted) and name in self.now.servers:
                found = self.rollout.hosts.ask(name)
                if isinstance(found, HostFacts) and found.serves:
                    return found
        return None

    def _kubectl(self, arguments: str, limit: float, but: str = "") -> remote.Done:
        """Given kubectl's arguments, ask a server that answers, another one first."""
        servers = [*self.now.view.answering(self.name), *([self.name] if self.name != but else [])]
        servers = [name for name in servers if name in self.now.servers] or self.now.servers
        last: remote.Unreachable | None = None
        script = f"PATH=/opt/bin:/usr/local/bin:$PATH; exec k3s kubectl {arguments}"
        for name in servers:
            try:
                return self.rollout.hosts[name].run(script, limit=limit)
            except (remote.Refused, remote.Lost) as error:
                last = error
        raise last or Stopped(self.name, "no server answers")

    def _do(self, script: str, doing: str, stdin: bytes = b"", limit: float = 120) -> remote.Done:
        if doing:
            self._say(doing)
        done = self.remote.run(script, stdin, limit)
        if done.status:
            said = (done.complaint or done.output).strip()[-300:]
            raise Stopped(
                self.name, f"{doing or 'a command on it'} failed: {said}", "run the same again once that is mended"
            )
        return done

    def _write(self, name: str, content: bytes) -> None:
        """Write a file of ours on the host: whole, for root alone, on the disk before it counts."""
        place, size = f"{STATE}/{name}", len(content)
        script = (
            f"set -eu; umask 077; mkdir -p {STATE}; cat >{place}.new; "
            f'[ "$(wc -c <{place}.new)" = {size} ] || {{ echo "{name} did not arrive whole" >&2; exit 1; }}; '
            f"sync {place}.new; mv -f {place}.new {place}; sync {STATE}"
        )
        done = self.remote.run(script, content, 300)
        if done.status:
            with suppress(remote.Unreachable):
                self.remote.run(f"rm -f {place}.new", limit=30)
            raise Stopped(self.name, f"{place} cannot be written: {done.complaint.strip()[-300:]}", "make room there")

    def _wait(self, what: str, limit: float, lacks: Callable[[], str]) -> None:
        """Wait until nothing is lacking; say now and then what is, raise Stopped when the time is over."""
        began = told = time.monotonic()
        while True:
            why = lacks()
            if not why:
                return
            now = time.monotonic()
            if now - began > limit:
                raise Stopped(
                    self.name,
                    f"waited {duration(limit)} for {what}: {why}",
                    f"see its console and journal; doit os_rollback:{self.name} puts back what was proven last",
                )
            if now - told > _NEWS:
                self._say(f"waits for {what}, {duration(now - began)} of {duration(limit)}: {why}")
                told = now
            time.sleep(_LOOK)

    def _say(self, text: str) -> None:
        screen.say(f"{self.name}: {text}")

"""`restore`: a backup put onto these or other hosts, proven, and only then the cluster that everybody knows.

The order, in which a kill at any point is followed by the same command and the same end:

1. The backup is held in its store and read whole; all hosts are asked; the plan is made, told, and confirmed.
2. All hosts that answer are held: no k3s of the cluster runs any more.
3. The target gets its config under the hold, and the database (see restoring); it is proven by an API without agent,
   scheduler and controllers. Only now workloads may start.
4. The target starts, and is proven as os_deploy proves a host.
5. Promotion: a new epoch. From here on no older copy of this cluster gets its name.
6. The other hosts join again, servers one by one.
7. The first backup of what is there now.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from i12e import (
    backup,
    backup_keys,
    backups,
    collect,
    database,
    deploy,
    drill,
    epoch,
    fence,
    files,
    fleet,
    lease,
    moving,
    naming,
    proof,
    registry,
    remote,
    render,
    restore_page,
    restore_plan,
    restored,
    restoring,
    rollout,
    screen,
    tokens,
    verify,
)
from i12e.backup_verify import known
from i12e.backups import Backup, Place
from i12e.build import Build
from i12e.bundle import Part
from i12e.damaged import Damaged
from i12e.deploy import HostPlan, Situation
from i12e.errors import Outside, Problem, UsageError, UserError
from i12e.facts import HostFacts
from i12e.files import private_folder
from i12e.lock import duration, operator, seconds
from i12e.openplaces import open_places
from i12e.programs import Done
from i12e.remote import Remote
from i12e.restore_plan import Asked, Plan
from i12e.restored import kubectl
from i12e.restoring import Job, Progress
from i12e.rollout import Rollout, Stopped
from i12e.secrets import Secret
from i12e.settings import Cluster
from i12e.stores import StoreError

_LOOK = 1.0  # seconds between two looks at the host
_NEWS = 10.0
_SCRIPT = 3600.0  # seconds in which a host restores
_HELD = 12 * 3600.0  # seconds for which the backup is kept from being pruned
_LEASE = 180.0  # seconds to wait for whoever has the store's lease; one who died there is waited for, too
_SHARED = ("cluster-cidr", "service-cidr")
_ALIVE = r"""
while read -r url; do
    { curl -s -f -k --noproxy '*' -m 3 "$url/cacerts" 2>/dev/null | grep -q 'BEGIN CERTIFICATE' && echo "$url"; } &
done
wait
exit 0
"""
"""Prints those of the URLs, a line each, where a server of k3s answers; asked as k3s-gate asks."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    backup: str = ""
    to: str = ""
    store: str = ""
    yes: bool = False
    only_plan: bool = False
    timeout: str = "15m"
    move: str = ""


def run(build: Build, backup: str, to: str, store: str, move: str, yes: bool, only_plan: bool, timeout: str) -> None:
    """Given the task's options, restore a backup; raise UserError with everything that speaks against it."""
    given = Options(backup, to, store, yes, only_plan, timeout, move)
    with opened(build, given) as hosts:
        Restoring(build, build.cluster(), hosts, given).run()


@contextmanager
def opened(build: Build, given: Options) -> Iterator[fleet.Hosts]:
    """Given the options, have the hosts until the block ends; raise UserError for what stopped it there."""
    try:
        seconds(given.timeout)
    except ValueError:
        said = f'--timeout "{given.timeout}": write a time such as 90s or 5m'
        raise UsageError(Problem("", None, None, said)) from None
    hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
    try:
        yield hosts
    except Stopped as error:
        raise UserError(error.problem) from None
    except Outside as error:
        raise UserError(error.problem()) from None
    except database.Failed as error:
        raise UserError(Problem("", None, None, error.why)) from None
    finally:
        hosts.close()


@dataclass
class _Times:
    """How long each step took, in seconds."""

    taken: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Count the time of a block for a step."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.taken[step] = self.taken.get(step, 0.0) + time.monotonic() - began


class Restoring:
    """One run of restore."""

    def __init__(self, build: Build, cluster: Cluster, hosts: fleet.Hosts, given: Options) -> None:
        self.build = build
        self.cluster = cluster
        self.hosts = hosts
        self.given = given
        self.times = _Times()
        self.who = f"restore-{operator().replace('@', '-')}"
        servers = [name for name, wanted in hosts.wanted.items() if wanted.host.role == "server"]
        if given.to and given.to not in servers:
            said = f"--to {given.to}: there is no such server"
            raise UsageError(Problem("", None, None, said, f"there are {', '.join(servers)}"))
        if not servers:
            raise UserError(Problem(build.paths.hosts, None, None, "there is no server to restore onto"))
        self.moves, problems = moving.parse(given.move, hosts.wanted)
        if problems:
            raise UsageError(problems)
        self.target = given.to or servers[0]
        self.rollout = Rollout(build, hosts, list(hosts.wanted), self._deploying())

    def _deploying(self) -> rollout.Options:
        why = "this is a restore"
        limit = seconds(self.given.timeout)
        return rollout.Options(yes=True, timeout=limit, no_backup=why, no_dns=why)

    @property
    def remote(self) -> Remote:
        """The target."""
        return self.hosts[self.target]

    # --- 1: which backup, and may it

    def run(self) -> None:
        """Do it."""
        keys = backup_keys.private(self.build.paths, self.cluster.name, os.environ)
        places, problems = open_places(self.build, self.cluster, self.given.store, probe=False, option="--from")
        if not places:
            raise UserError(problems)
        self.build.notes += [str(problem) for problem in problems]
        try:
            with self.times.of("look"):
                self.hosts.trust(list(self.hosts.wanted))
                now = fleet.situation(self.hosts, list(self.hosts.wanted))
                progress = self._progress()
            place, chosen, newest = self._chosen(places, progress)
            with self._kept(place, chosen.id):
                self._restore(place, chosen, newest, keys, now, progress)
        finally:
            for each in places:
                each.store.close()

    def _progress(self) -> Progress:
        try:
            return restoring.read(self.remote.run(restoring.LOOK, limit=60).output)
        except remote.Unreachable:
            return Progress()  # the plan says that it cannot be reached

    def _chosen(self, places: Sequence[Place], progress: Progress) -> tuple[Place, Backup, str]:
        """Return the backup that is meant, the folder that it lies in, and the newest good one of that store."""
        wanted = self.given.backup or (progress.job.backup if progress.job else "")
        found = [(place, backups.survey_all(place)) for place in places]
        chosen = drill.choose(found, wanted)
        if chosen is None:
            said = f"--backup {wanted}: there is no such backup" if wanted else "there is no good backup"
            raise UserError(Problem("", None, None, said, "./doit backup_list shows what there is"))
        place, each = chosen
        if not each.is_good:
            raise UserError(Problem("", None, None, f"{each.id} in {place.store.name}: {each.why}"))
        newest = backups.newest(next(there for at, there in found if at is place))
        return place.of(each.epoch), each, newest.id if newest else ""

    @contextmanager
    def _kept(self, place: Place, backup_id: str) -> Iterator[None]:
        """Until the block ends, no prune removes it; a restore that was begun and stopped still needs it."""
        if self.given.only_plan:
            yield
            return
        until = place.store.now() + _HELD
        try:
            if place.store.shares:
                with fence.taken(place, "restore", _LEASE):  # no prune has chosen it before
                    place.hold(backup_id, self.who, until)
            else:
                place.hold(backup_id, self.who, until)
        except (StoreError, lease.Lost) as error:  # who may only read there can restore all the same
            self.build.notes.append(f"{error.problem()}: nothing keeps {backup_id} from being pruned meanwhile")
        try:
            yield
        except BaseException:
            if not self.build.touched:
                self._let_go(place, backup_id)
            raise
        self._let_go(place, backup_id)

    def _let_go(self, place: Place, backup_id: str) -> None:
        with suppress(StoreError):
            place.let_go(backup_id, self.who)

    def _restore(
        self, place: Place, chosen: Backup, newest: str, keys: Sequence[Secret], now: Situation, progress: Progress
    ) -> None:
        folder = self.build.paths.root / self.build.paths.build
        private_folder(folder)
        what = f"{chosen.id} in {place.store.name}"
        with ExitStack() as stack:
            with self.times.of("read and check"):
                try:
                    found = stack.enter_context(
                        verify.opened(
                            place, chosen.id, keys, folder, screen.meter(f"reads {chosen.id}"), known(self.build)
                        )
                    )
                except verify.OtherKey as error:
                    said, remedy = error.why, f"{backup_keys.KEY_FILE}=FILE names another one"
                    raise UserError(Problem("", None, None, f"{what}: {said}", remedy)) from None
                except Damaged as error:
                    remedy = "the one before: ./doit backup_list, then --backup ID"
                    raise UserError(Problem("", None, None, f"{what}: {error.why}", remedy)) from None
            with self.times.of("look"):
                asked = self._asked(place, found, newest, now, progress)
            made, problems = self._plan(now, asked, place, found)
            if made is None:
                raise UserError(problems)
            text = "".join(f"{line}\n" for line in self._lines(made, asked))
            if self.given.only_plan:
                self.build.tell("PLAN", self.target, "restore", "planned", {"plan": made.__dict__}, text)
                return
            self._confirm(text)
            self._apply(made, asked, found, now)

    def _asked(self, place: Place, found: verify.Opened, newest: str, now: Situation, progress: Progress) -> Asked:
        own = known(self.build)
        size = os.fstat(found.database.fileno()).st_size
        said = found.k3s_settings()
        ours, theirs = collect.k3s_settings(self._rendered()), said.get(found.manifest.server, {})
        moved = self._moved(found.manifest.id, progress)
        self.moves = self.moves or moved or {}
        return Asked(
            target=self.target,
            manifest=found.manifest,
            store=place.store.name,
            size=size,
            token_fits=tokens.password(own[0]) == tokens.password(found.token) if own else None,
            newest=newest,
            now=place.store.now(),
            alive=self._alive(said, now),
            old_settings={name: theirs[name] for name in _SHARED if name in theirs},
            settings={name: ours.get(name, "") for name in _SHARED},
            progress=progress,
            moves=self.moves,
            moved=moved,
            nodes=[name for name in self.moves if found.snapshot.get(registry.node_key(name)) is not None],
            bound=moving.counted(found.snapshot.volumes()),
        )

    def _moved(self, backup: str, progress: Progress) -> dict[str, str] | None:
        """Return what an earlier run of a backup was to move; this one goes on with that where it is told nothing."""
        if progress.job is None or progress.job.backup != backup:
            return None
        return moving.read(self.remote.run(moving.LOOK, limit=60).output, backup)

    def _plan(
        self, now: Situation, asked: Asked, place: Place, found: verify.Opened
    ) -> tuple[Plan | None, list[Problem]]:
        return restore_plan.plan(now, asked)

    def _lines(self, made: Plan, asked: Asked) -> list[str]:
        return restore_plan.lines(made, asked)

    def _rendered(self) -> str:
        """Return the config of k3s that the target is to have."""
        config = json.loads(self.hosts.wanted[self.target].config)
        return render.file_in(config, f"/{collect.K3S_CONFIG}")

    def _alive(self, configs: Mapping[str, Mapping[str, str]], now: Situation) -> dict[str, str]:
        """Return where servers of the backup's cluster answer that none of our hosts is, as the target sees it."""
        ours = {str(address) for wanted in now.wanted.values() for address in wanted.host.addresses}
        urls: dict[str, str] = {}
        for name, settings in configs.items():
            for address in settings.get("node-ip", "").split(","):
                if address and address not in ours:
                    urls[f"https://[{address}]:6443" if ":" in address else f"https://{address}:6443"] = name
        if not urls or not isinstance(now.view.facts[self.target], HostFacts):
            return {}
        done = self.remote.run(_ALIVE, "".join(f"{url}\n" for url in urls).encode(), limit=30 + 4 * len(urls))
        return {url: urls[url] for url in done.output.split() if url in urls}

    def _confirm(self, text: str) -> None:
        if self.given.yes:
            screen.say(text.rstrip())
            return
        with self.build.request.pause(), screen.terminal() as terminal:
            if terminal is None:
                said = f"{self.cluster.name} would be replaced by a backup, and nobody can be asked here"
                raise UserError(Problem("", None, None, said, "look at --only-plan, then give --yes"))
            for line in text.splitlines():
                terminal.say(line)
            try:
                answer = terminal.ask(f"\nType the cluster's name, {self.cluster.name}, to go on:")
            except EOFError:
                answer = ""
        if answer != self.cluster.name:
            raise UsageError(Problem("", None, None, f'"{answer}" is not {self.cluster.name}: nothing was changed'))

    # --- 2 to 7

    def _apply(self, made: Plan, asked: Asked, found: verify.Opened, now: Situation) -> None:
        began = time.monotonic()
        self.build.touched = True
        job = asked.progress.job if made.resumes else None
        job = job or Job(
            found.manifest.id, asked.store, made.kind, self.cluster.name, found.manifest.uid, asked.size,
            _sum(found.database), operator(), time.time(),
        )  # fmt: skip
        todo = [HostPlan(name, deploy.RESET, "") for name in (self.target, *made.joins)]
        with self.rollout.locked(todo, now):
            released = made.resumes and restoring.RELEASED in asked.progress.done
            if not released:
                job = self._bring_back(job, made, asked, found)
            with self.times.of("start"):
                self.rollout.bring(self.target)
                self._lives(self.target)
            if not (made.resumes and restoring.PROMOTED in asked.progress.done):
                with self.times.of("proof"):
                    self._prove_live(found)
                with self.times.of("promotion"):
                    self._promote(job)
                    self._do(restoring.note(restoring.PROMOTED), "")
            self._do(collect.drop_sentinels([found.index.sentinel["name"]]), "")
            with self.times.of("join"):
                self._join(made, found, job)
        proven = time.monotonic() - began
        with self.times.of("backup"):
            fresh = self._first_backup()
        self._do(restoring.END, "")
        self._told(asked, fresh, proven, time.monotonic() - began)

    def _bring_back(self, job: Job, made: Plan, asked: Asked, found: verify.Opened) -> Job:
        """Have the target start on the backup's database, once that is proven; return the job as it has it."""
        with self.times.of("hold"):
            self._hold(dict.fromkeys([*made.stops, self.target]), job)
        with self.times.of("config"):
            self._config(self.target)
        if asked.moves or asked.moved:
            said = moving.content(job.backup, asked.moves)
            self._do(restoring.PREPARE + restoring.write(moving.MOVES, len(said)), "", said)
        self._put(job, found, asked.progress)
        if asked.moves or asked.moved:
            with self.times.of("move"):
                self._move(job)
        with self.times.of("proof"):
            try:
                self._prove(found)
            except (Stopped, database.Failed):
                self._do(restoring.BACK, "")
                raise
        self._paths(self.target, found)
        self._do(restoring.note(restoring.PROVEN), "")
        self._do(restoring.RELEASE, f"{self.target}: is proven, and starts")
        return job

    def _hold(self, names: Mapping[str, None], job: Job) -> None:
        """No k3s of the cluster runs any more, on no host that answers."""
        why = f"restore of {job.backup} by {job.by}"
        for name in names:
            screen.say(f"{name}: is held")
            done = self.hosts[name].run(restoring.hold(why), limit=180)
            if done.status == restoring.HELD_BY_ANOTHER:
                said = f"{name}: it is held: {done.complaint.strip()}"
                raise UserError(Problem("", None, None, said, "whoever holds it releases it"))
            if done.status:
                raise Stopped(name, f"k3s cannot be stopped: {done.complaint.strip()[-300:]}", "run the same again")

    def _config(self, name: str) -> None:
        """Bring a host to its config while it is held."""
        found = self.hosts.ask(name)
        if not isinstance(found, HostFacts):
            raise Stopped(name, found.why, "run the same again: it goes on from there")
        wanted = self.hosts.wanted[name]
        action, why = deploy.needed(wanted, found)
        if action in (deploy.NOTHING, deploy.PROVE):
            return
        now = fleet.situation(self.hosts, [name], whom=[name])
        plan = HostPlan(name, action, why, keeps=tuple(deploy.keep_paths(wanted.host)))
        rollout.Step(self.rollout, name, now, plan).configure()

    # --- 3: the database

    def _put(self, job: Job, found: verify.Opened, progress: Progress) -> None:
        """Bring the job and the database to the target, and have it put in place."""
        now = restoring.read(self._do(restoring.LOOK, "").output)
        if now.job is None or now.job.backup != job.backup or now.job.sha256 != job.sha256:
            self._do(restoring.PREPARE + restoring.BEGIN, "")
            self._write("job", job.content())
        self._write("run.sh", restoring.script(job).encode())
        if restoring.READY not in now.done or not now.quiet:
            with self.times.of("send"):
                self._send(found.database, job)
            with self.times.of("restore"):
                self._run_script()

    def _send_pieces(self, file: IO[bytes], size: int, name: str = "database") -> None:
        """Send a file in pieces: what is there already is not sent again."""
        meter = screen.meter(f"sends {name} to {self.target}")
        there = min(int(self._do(restoring.has(name), "").output.strip() or 0), size)
        if not restoring.send(self._runs(self.target), file, size, meter, name, there=there):
            raise Stopped(self.target, f"{name} is shorter than it was")

    def _send(self, file: IO[bytes], job: Job) -> None:
        """Send the database, and see that it arrived."""
        for _ in range(2):
            self._send_pieces(file, job.size)
            done = self.remote.run(restoring.staged(job.sha256), limit=600)
            if not done.status:
                return
            self._do(restoring.piece(0), "")
        raise Stopped(self.target, "what arrived there is not what was sent, twice", "look at its disk")

    def _run_script(self) -> None:
        self._do(restoring.START, f"{self.target}: restores")
        began = told = time.monotonic()
        while True:
            try:
                now = restoring.read(self.remote.run(restoring.LOOK, limit=60).output)
            except (remote.Refused, remote.Lost, remote.Slow) as error:
                now = Progress(works=True, last=error.why)
            if now.failed:
                remedy = "mend that and run the same again; what the host had before is kept beside its place"
                raise Stopped(self.target, f"the restore failed: {now.failed}", remedy)
            if not now.works and restoring.READY in now.done and now.quiet:
                return
            if not now.works:
                self._do(restoring.START, f"{self.target}: goes on")
            age = time.monotonic() - began
            if age > _SCRIPT:
                raise Stopped(self.target, f"waited {duration(_SCRIPT)} for the restore: {now.last}")
            if time.monotonic() - told > _NEWS:
                screen.say(f"{self.target}: restores, {duration(age)}: {now.last}")
                told = time.monotonic()
            time.sleep(_LOOK)

    # --- volumes of hosts that are no more

    def _move(self, job: Job) -> None:
        """Have the volumes of hosts that are no more bound to others, before they are counted for the proof."""
        screen.say(f"{self.target}: moves volumes")
        try:
            count = moving.volumes(self._runs(self.target, 300), job.backup, self.moves)
        except moving.Stuck as error:
            raise Stopped(self.target, error.why, "run the same again: it goes on from there") from None
        screen.say(f"{self.target}: volumes that are bound to other hosts now: {count}")

    # --- proof

    def _prove(self, found: verify.Opened) -> None:
        """See that what the target serves is what was backed up, while nothing else runs on it."""
        screen.say(f"{self.target}: proves the database")
        self._compare(found)
        names = " ".join(f"{name}.node-password.k3s" for name in self.hosts.wanted)
        # A machine that is a new one has another password; k3s learns it anew.
        self._do(kubectl(f"-n kube-system delete secret {names} --ignore-not-found"), "")

    def _prove_live(self, found: verify.Opened) -> None:
        """Once its controllers run, see that what no controller makes is all there."""
        makes = proof.VOLATILE | {"minions", "configmaps", "secrets", "endpoints", "serviceaccounts"}
        self._compare(found, makes)
        self._forget_nodes()

    def _compare(self, found: verify.Opened, volatile: frozenset[str] = proof.VOLATILE) -> None:
        try:
            restored.compare(self.remote, found, volatile, screen.say)
        except database.Failed as error:
            raise Stopped(self.target, error.why) from None

    def _forget_nodes(self) -> None:
        """Delete the nodes whose machines are no more: of no host of ours, or of one that is a new machine."""
        known = self.hosts.ask(self.target)
        nodes = known.nodes if isinstance(known, HostFacts) and known.nodes else {}
        gone = []
        for name in nodes:
            if name == self.target:
                continue
            there = self.hosts.ask(name) if name in self.hosts.wanted else None
            if there is None or (isinstance(there, HostFacts) and not there.password):
                gone.append(name)
        if gone:
            screen.say(f"{self.target}: forgets the nodes {', '.join(gone)}, whose machines are no more")
            self._do(kubectl(f"delete node {' '.join(map(shlex.quote, gone))} --wait=false --ignore-not-found"), "")

    # --- 5: promotion

    def _promote(self, job: Job) -> None:
        """From here on an older copy of this cluster is one: a new epoch, in the stores, in the cluster, in DNS."""
        identity = epoch.read(self.remote)
        by = f"{job.by}, restore of {job.backup} begun at {job.at:.0f}"
        name = self._name()
        places, problems = open_places(self.build, self.cluster, probe=False)
        self.build.notes += [f"{problem}: it does not know of the new epoch yet" for problem in problems]
        try:
            there = [place for place in places if self._answers(place)]
            latest = fence.next_epoch(there, identity, by)
            held = name.zone.read(name.text).fence if name else None
            if held and held.cluster == identity.uid and held.epoch > identity.epoch:
                latest = max(latest, held.epoch + 1)
            screen.say(f"{self.target}: is promoted, epoch {latest}")
            for place in there:
                self._claim(place.of(latest), identity.uid, by)
            if latest != identity.epoch:
                epoch.write(self.remote, latest)
            if name:
                view = fleet.situation(self.hosts, [], whole=False, whom=[self.target]).view
                screen.say(name.make(name.healthy(view), self.target, lambda made: None).plan.why)
        finally:
            for place in places:
                place.store.close()
            if name:
                name.close()

    def _answers(self, place: Place) -> bool:
        """Tell whether a store says its epochs; one that does not is told, and learns by the next backup."""
        try:
            backups.epochs(place)
        except StoreError as error:
            self.build.notes.append(f"{error.problem()}: it does not know of the new epoch yet")
            return False
        return True

    def _claim(self, place: Place, uid: str, by: str) -> None:
        """Claim an epoch in a store; one that fails is told, and learns of it by the next backup."""
        try:
            fence.claim(place, uid, by)
        except fence.Replaced:
            raise
        except StoreError as error:
            self.build.notes.append(f"{error.problem()}: it does not know of the new epoch yet")

    def _name(self) -> naming.Name | None:
        """Return the API's name, open, where it is ours to keep."""
        if self.cluster.dns is None or not naming.kept(self.cluster):
            return None
        zone = naming.zone(self.build, self.cluster.dns)
        return naming.Name(self.build, self.cluster, self.cluster.dns, zone, self.hosts)

    # --- 6: the others

    def _join(self, made: Plan, found: verify.Opened, job: Job) -> None:
        """Have the other hosts join again: servers one by one, each proven before the next; then agents."""
        self.rollout.given = replace(self.rollout.given, no_dns="")
        for name in made.joins:
            with self._stopping(name):
                self._join_one(name, found, job)

    @contextmanager
    def _stopping(self, name: str) -> Iterator[None]:
        try:
            yield
        except remote.Unreachable as error:
            raise Stopped(name, error.why, error.remedy or "run the same again: it goes on from there") from None

    def _join_one(self, name: str, found: verify.Opened, job: Job) -> None:
        there = self.hosts.ask(name)
        server = self.hosts.wanted[name].host.role == "server"
        if isinstance(there, HostFacts) and (there.is_bare or there.hold is not None):
            done = self.hosts[name].run(restoring.hold(f"restore of {job.backup} by {job.by}"), limit=180)
            if done.status:
                raise Stopped(name, f"it cannot be held: {done.complaint.strip()[-300:]}")
            self._config(name)
            if server:
                self._on(name, restoring.forget_data(job))
            self._paths(name, found)
            self._on(name, restoring.END)
            self._on(name, restoring.let_go("k3s" if server else "k3s-agent"))
        self.rollout.bring(name)
        self._lives(name)

    def _lives(self, name: str) -> None:
        """Wait until a node has given a sign of life: that it is ready may be the database's memory of it."""
        began, first = time.monotonic(), ""
        while True:
            # An etcd whose members have just changed may not answer for a moment.
            with suppress(ValueError, KeyError, TypeError, remote.Slow, remote.Lost, remote.Refused):
                ask = kubectl(f"-n kube-node-lease get lease {name} -o json --ignore-not-found")
                renewed = str(json.loads(self.remote.run(ask, limit=60).output)["spec"]["renewTime"])
                if first and renewed != first:
                    return
                first = renewed
            if time.monotonic() - began > seconds(self.given.timeout):
                remedy = "journalctl -u k3s (or k3s-agent) there; then run the same again: it goes on from there"
                raise Stopped(name, f"its node gave no sign of life for {self.given.timeout}", remedy)
            time.sleep(_LOOK)

    # --- extra paths

    def _paths(self, name: str, found: verify.Opened) -> None:
        """Put the extra paths that are a host's now back, with owners, modes, content; what is there is set aside."""
        for part in found.manifest.parts:
            if part.what == "path" and moving.goes_to(part.host, self.moves) == name:
                with self.times.of("paths"):
                    self._path(name, part, found)

    def _path(self, name: str, part: Part, found: verify.Opened) -> None:
        screen.say(f"{name}: gets {part.path} back")
        folder = self.build.paths.root / self.build.paths.build
        with tempfile.TemporaryFile(dir=folder) as file:
            found.reading.into(part.name, file, found.index)
            self._on(name, restoring.PREPARE)
            meter = screen.meter(f"sends {part.path} to {name}")
            if not restoring.send(self._runs(name), file, file.tell(), meter, "path.tar"):
                raise Stopped(name, f"{part.path} did not arrive whole")
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self._on(name, restoring.unpack(part.path, stamp), limit=1800)

    # --- 7

    def _first_backup(self) -> str:
        """Take a backup of what is there now; that it fails does not undo the restore."""
        try:
            return backup.take(self.build, self.cluster, self.hosts)
        except UserError as error:
            remedy = "the restore is done all the same; ./doit backup"
            raise UserError(
                [*error.problems, Problem("", None, None, "no backup of the new cluster yet", remedy)]
            ) from None

    def _told(self, asked: Asked, fresh: str, proven: float, took: float) -> None:
        steps = {name: round(each, 1) for name, each in self.times.taken.items()}
        parts = ", ".join(f"{name} {each:.0f} s" for name, each in steps.items())
        told: dict[str, Any] = {
            "backup": asked.manifest.id, "store": asked.store, "target": self.target, "bytes": asked.size,
            "proven_seconds": round(proven, 1), "seconds": round(took, 1), "steps": steps, "first_backup": fresh,
        }  # fmt: skip
        page = self.build.paths.root / self.build.paths.build / "restore.html"
        files.replace(page, restore_page.html(self.cluster.name, told).encode())
        told["page"] = str(page.relative_to(self.build.paths.root))
        screen.say(f"the times as a page: {told['page']}")
        remark = (
            f"{asked.manifest.id} restored and proven in {proven:.0f} s, {took:.0f} s with its first backup: {parts}"
        )
        self.build.tell("RESTORE", self.target, remark, facts=told)

    # --- by what

    def _do(self, script: str, doing: str, stdin: bytes = b"", limit: float = 120) -> Done:
        if doing:
            screen.say(doing)
        return self._on(self.target, script, stdin, limit)

    def _on(self, name: str, script: str, stdin: bytes = b"", limit: float = 600) -> Done:
        try:
            done = self.hosts[name].run(script, stdin, limit)
        except remote.Unreachable as error:
            raise Stopped(name, error.why, error.remedy or "run the same again: it goes on from there") from None
        if done.status:
            said = (done.complaint or done.output).strip()[-300:] or f"status {done.status}"
            raise Stopped(name, f"a command on it failed: {said}", "run the same again once that is mended")
        return done

    def _runs(self, name: str, limit: float = 600) -> restoring.Do:
        """Return who runs scripts on a host, each for so many seconds at most."""
        return lambda script, stdin=b"": self._on(name, script, stdin, limit).output

    def _write(self, name: str, content: bytes) -> None:
        self._do(restoring.write(name, len(content)), "", content)


def _sum(file: IO[bytes]) -> str:
    file.seek(0)
    summed = hashlib.sha256()
    while block := file.read(1 << 20):
        summed.update(block)
    return summed.hexdigest()

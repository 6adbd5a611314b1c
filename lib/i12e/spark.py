"""`spark_deploy`: a bare host becomes a throw-away k3s that fetches a backup, and from it the first server, by itself.

The order; from the second step on the operator may vanish, and be back at any time with the same command:

1. The backup is held in its store and read whole; the plan is made, told, and confirmed, as for a restore.
2. The spark is lit: the host gets its config by a reset, with all that it needs for this one backup.
3. The spark fetches the backup (or gets it over ssh), opens it, stages it, and resets the host to its final config.
4. The host restores under the hold, proves the database, and starts (alone.py).
5. The operator proves it as a restore does, promotes it, and has the others join.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace

from i12e import (
    alone,
    backup_keys,
    backups,
    credentials,
    deploy,
    fleet,
    remote,
    render,
    restore_plan,
    restoring,
    rollout,
    screen,
    sparking,
    verify,
)
from i12e.backups import Backup, Place
from i12e.build import Build
from i12e.bundle import DATABASE, Part
from i12e.collect import Sentinel
from i12e.deploy import HostPlan, Situation, Wanted
from i12e.errors import Problem, UsageError, UserError
from i12e.facts import STATE, HostFacts
from i12e.lock import duration, operator, seconds
from i12e.restore import Options, Restoring, opened
from i12e.restore_plan import Asked, Plan
from i12e.restoring import Job, Progress
from i12e.rollout import Stopped
from i12e.secrets import Secret
from i12e.sparking import ALONE, NONE, OVER, SPARK, Given, Piece, Source, Standing
from i12e.stores import NotThere

_LOOK = 1.0  # seconds between two looks at the host
_NEWS = 10.0
_STILL = 3600.0  # seconds in which a host that works by itself says something new
_AGAIN = "run the same again: it goes on from there"


class _NoBackup(Exception):
    """There is none, in no store: there is nothing to restore."""


def run(
    build: Build, host: str | None, backup: str, store: str, push: bool, yes: bool, only_plan: bool, timeout: str
) -> None:
    """Given a server (None: the first one) and the task's options, make it the cluster of a backup; raise UserError."""
    given = Options(backup, host or "", store, yes, only_plan, timeout)
    with opened(build, given) as hosts:
        if host and hosts.wanted[host].host.role != "server":
            raise UsageError(Problem("", None, None, f"spark_deploy:{host}: it is an agent, which has no datastore"))
        sparking_ = Sparking(build, hosts, given, push)
        try:
            sparking_.run()
        except _NoBackup:
            screen.say(f"{sparking_.target}: there is no backup yet: it founds a new cluster")
            hosts.close()
            why = "there is no backup yet"
            rollout.run(build, sparking_.target, yes, only_plan, "", 1, timeout, "2m", why, "")


class Sparking(Restoring):
    """One run of spark_deploy."""

    def __init__(self, build: Build, hosts: fleet.Hosts, given: Options, push: bool) -> None:
        super().__init__(build, build.cluster(), hosts, given)
        self.push = push
        self._standing = Standing()
        self._place: Place | None = None
        self._source: Source | None = None

    def run(self) -> None:
        """Go on with what the host does by itself, or begin; then prove and promote it."""
        if self.hosts.wanted[self.target].host.os.name == "fcos":
            said = f"{self.target}: Fedora CoreOS cannot be reset, so no spark can give it another config"
            remedy = f"install it anew (doit os_install:{self.target}), then doit restore --to {self.target}"
            raise UserError(Problem("", None, None, said, remedy))
        self.hosts.trust([self.target])
        self._standing = self._look()
        if self._goes_on():
            if self.given.only_plan:
                self._tell()
                return
            self._follow()
            self._standing = self._look()
        super().run()

    def _look(self) -> Standing:
        try:
            return sparking.read(self.remote.run(sparking.LOOK, limit=60).output)
        except remote.Unreachable:
            return Standing()  # the plan says that it cannot be reached

    def _goes_on(self) -> bool:
        """Tell whether the host is at work by itself, on what is asked for."""
        now = self._standing
        if now.stage not in (SPARK, ALONE) or self.given.backup not in ("", now.backup):
            return False
        return not now.waits or restoring.STAGED in now.progress.done  # what is sent is sent anew

    def _tell(self) -> None:
        now = self._standing
        what = "fetches" if now.stage == SPARK else "restores"
        said = f"failed: {now.failed}" if now.failed else now.last or "it says nothing yet"
        text = f"{self.target} {what} {now.backup} by itself: {said}\n"
        self.build.tell("PLAN", self.target, "spark_deploy", "planned", {"stage": now.stage}, text)

    # --- 1

    def _chosen(self, places: Sequence[Place], progress: Progress) -> tuple[Place, Backup, str]:
        asked = self.given.backup or self.given.store or progress.job
        stores = backup_keys.stores(self.build.paths, self.cluster, os.environ)
        if not asked and len(places) == len(stores) and not any(map(self._has_any, places)):
            raise _NoBackup
        return super()._chosen(places, progress)

    def _has_any(self, place: Place) -> bool:
        try:
            return bool(backups.survey_all(place))
        except NotThere:
            if self.cluster.backup.stores:
                raise
            return False  # the user's own folder, which the first backup makes

    def _plan(
        self, now: Situation, asked: Asked, place: Place, found: verify.Opened
    ) -> tuple[Plan | None, list[Problem]]:
        if self._standing.stage == OVER and asked.progress.job and asked.progress.job.backup == asked.manifest.id:
            return super()._plan(now, asked, place, found)
        self._place = place
        made, problems = super()._plan(self._without_spark(now), asked, place, found)
        living = now.view.answering()
        if living and self._standing.stage != SPARK:
            said = f"the cluster lives on {', '.join(living)}, and a spark begins on a host without any"
            problems.append(Problem("", None, None, said, "./doit restore rolls a living cluster back in place"))
        try:
            self._source = None if self.push else self._way(place)
        except UserError as error:
            problems += error.problems
        if problems or made is None:
            return None, problems
        return replace(
            made,
            resumes=False,
            stops=tuple(name for name in made.stops if name != self.target),
            deploys=("", ""),
            aside=tuple(name for name in made.aside if name != self.target),
        ), []

    def _without_spark(self, now: Situation) -> Situation:
        """Return the situation in which a spark that is burnt is a bare host: there is nothing on it."""
        found = now.view.facts[self.target]
        if self._standing.stage != SPARK or not isinstance(found, HostFacts):
            return now
        bare = replace(found, datastore="", agent_data=False, mark="", hold=None, nodes=None)
        return replace(now, view=replace(now.view, facts={**now.view.facts, self.target: bare}))

    def _way(self, place: Place) -> Source:
        """Return how the host reaches the store; raise UserError if it cannot."""
        chosen = self.hosts.wanted[self.target].host.artifacts
        lacking = [name for name in ("rclone", "age") if not getattr(chosen, name)]
        if lacking:
            said = f"{self.target} is to have no {' and no '.join(lacking)}, with which it fetches and opens a backup"
            remedy = "name releases in artifacts: of cluster.yaml, then ./doit lock; or --push sends it over ssh"
            raise UserError(Problem(self.build.paths.cluster_file, None, None, said, remedy))
        stores = backup_keys.stores(self.build.paths, self.cluster, os.environ)
        opening = credentials.of_stores(stores, self.build.group("backup"), f"{self.build.paths.secrets}/backup.yaml")
        settings = next(each for each in stores if each.name == place.store.name)
        return sparking.source(settings, opening.get(settings.name, {}))

    def _lines(self, made: Plan, asked: Asked) -> list[str]:
        said = restore_plan.lines(made, asked)
        if self._standing.stage == OVER and made.resumes:
            return said
        at = next(n for n, line in enumerate(said) if line.startswith("    restores "))
        way = "gets the backup over ssh" if self.push else f"fetches the backup from {asked.store} by itself"
        lit = f"    lights   a spark on {self.target}, which keeps nothing of /var/lib/rancher: it {way}"
        return [*said[:at], lit, *said[at:]]

    def _moved(self, backup: str, progress: Progress) -> dict[str, str] | None:
        return None  # a host that restores alone has nobody who moves volumes

    # --- 2 to 4

    def _bring_back(self, job: Job, made: Plan, asked: Asked, found: verify.Opened) -> Job:
        sealed = found.index.plain[DATABASE]
        job = replace(job, kind=made.kind, at=time.time(), by=operator(), size=sealed.size, sha256=sealed.sha256)
        with self.times.of("hold"):
            self._hold(dict.fromkeys(made.stops), job)
        with self.times.of("spark"):
            self._light(job, found)
        if self.push:
            with self.times.of("send"):
                self._send_all(job, found)
        with self.times.of("alone"):
            self._follow()
        return job

    def _mine(self, found: verify.Opened) -> list[Part]:
        """Return the paths of the target that are in a backup."""
        return [part for part in found.manifest.parts if part.what == "path" and part.host == self.target]

    def _light(self, job: Job, found: verify.Opened) -> None:
        config = render.with_files(self.build.spark(self.target), self._files(job, found))
        now = fleet.situation(self.hosts, [self.target], whom=[self.target])
        facts = now.view.facts[self.target]
        if not isinstance(facts, HostFacts):
            raise Stopped(self.target, facts.why, facts.remedy or _AGAIN)
        if facts.free_oem * 1024 < 2 * len(config):
            raise Stopped(self.target, f"it has only {facts.free_oem} KB free in /oem, where the config goes")
        wanted = Wanted(self.hosts.wanted[self.target].host, config, hashlib.sha256(config).hexdigest())
        plan = HostPlan(self.target, deploy.INSTALL, "it is to be a spark")
        wants = {**now.wanted, self.target: wanted}
        _Lighting(self.rollout, self.target, replace(now, wanted=wants), plan).light(self.hosts.wanted[self.target])
        self._standing = self._look()
        if self._standing.stage == NONE:
            said = "it came back without the spark's config: the reset did not take effect"
            raise Stopped(self.target, said, f"see its console, and {STATE}/next.log on it")

    def _files(self, job: Job, found: verify.Opened) -> dict[str, bytes]:
        manifest, plain = found.manifest, found.index.plain
        paths = self._mine(found)
        parts = [(manifest.part(DATABASE), "database")]
        parts += [(part, alone.tar(number)) for number, part in enumerate(paths, 1)]
        pieces = [Piece(part.name, part.sha256, plain[part.name].sha256, target) for part, target in parts]
        sentinel = Sentinel(**found.index.sentinel)
        hosts = list(self.hosts.wanted)
        shown = alone.Proof(manifest.uid, manifest.objects, sentinel, hosts, [part.path for part in paths])
        given = Given(job, shown, pieces, Secret(secrets.token_hex(32)))
        if self._source and self._place:
            folder = self._place.part(manifest.id, "").rstrip("/")
            given = replace(
                given,
                folder=self._source.remote + ("" if self._source.remote.endswith(":") else "/") + folder,
                conf=self._source.conf,
                manifest=hashlib.sha256(manifest.content()).hexdigest(),
                key=found.key,
            )
        wanted = self.hosts.wanted[self.target]
        return sparking.files(given, wanted.host, wanted.config, wanted.digest)

    def _send_all(self, job: Job, found: verify.Opened) -> None:
        """Send the paths, then the database: with that the spark goes on."""
        began = time.monotonic()
        while not (self._standing.progress.job and self._standing.progress.job.at == job.at):
            if self._standing.failed or time.monotonic() - began > seconds(self.given.timeout):
                raise Stopped(self.target, f"the spark does not wait for the backup: {self._standing.failed}", _AGAIN)
            time.sleep(_LOOK)
            self._standing = self._look()
        folder = self.build.paths.root / self.build.paths.build
        for number, part in enumerate(self._mine(found), 1):
            with tempfile.TemporaryFile(dir=folder) as file:
                found.reading.into(part.name, file, found.index)
                self._send_pieces(file, file.tell(), alone.tar(number))
        self._send(found.database, job)

    def _follow(self) -> None:
        """Wait until the host has restored by itself; raise Stopped with why it does not."""
        if self._standing.failed:
            screen.say(f"{self.target}: it stopped: {self._standing.failed}: is told to try again")
            self._do(sparking.AGAIN, "")
        began = told = moved = answered = time.monotonic()
        before: tuple[str, str] | None = None
        while True:
            now, silence = self._standing, ""
            try:
                now = sparking.read(self.remote.run(sparking.LOOK, limit=60).output)
                answered = time.monotonic()
            except (remote.Refused, remote.Lost, remote.Slow) as error:
                silence = error.why
            self._standing = now
            if now.stage == OVER and not silence:
                return
            self._see(now, silence, time.monotonic() - answered)
            if (now.stage, now.last) != before:
                before, moved = (now.stage, now.last), time.monotonic()
            if time.monotonic() - moved > _STILL:
                raise Stopped(self.target, f"it has said nothing new for {duration(_STILL)}: {now.last}", _AGAIN)
            if time.monotonic() - told > _NEWS:
                told = time.monotonic()
                said = silence or now.last
                screen.say(f"{self.target}: works by itself, {duration(told - began)}: {said}")
            time.sleep(_LOOK)

    def _see(self, now: Standing, silence: str, silent: float) -> None:
        if silence:
            if silent > seconds(self.given.timeout):
                raise Stopped(self.target, f"it has not answered for {duration(silent)}: {silence}", _AGAIN)
            return
        if now.stage == NONE:
            raise Stopped(self.target, "it has neither a spark nor anything staged", "run the same again")
        if now.failed:
            unit = sparking.UNIT if now.stage == SPARK else alone.UNIT
            remedy = f"mend that and run the same again, or: systemctl restart {unit} on it; or another --backup ID"
            raise Stopped(self.target, f"it stopped, and is held: {now.failed}", remedy)


class _Lighting(rollout.Step):
    """Gives a host the config of a spark."""

    def light(self, final: Wanted) -> None:
        """Given what the host is to be in the end, reset it to the spark's config; raise Stopped."""
        try:
            self._say("checks what the spark's config and its final one fetch")
            both = {"spark": json.loads(self.wanted.config), "final": json.loads(final.config)}
            said = self._do(deploy.check_sources(both), "", limit=900).output.strip()
            if said:
                raise Stopped(self.name, f"they fetch what is not to be had: {said}", "nothing was changed")
            if self.found.staged:
                self._do(f"flatcar-reset --stop && rm -f {STATE}/next.sum", "takes back the reset that was staged")
            host, digest = self.wanted.host, self.wanted.digest
            self._write("next.ign", self.wanted.config)
            self._write("next.sh", deploy.reset_script(host, digest, keep=sparking.keep_paths(host)).encode())
            self._begin_reset()
            self._say("the spark is lit: from here on the host goes on by itself")
            self._come_up()
        except remote.Unreachable as error:
            raise Stopped(self.name, error.why, error.remedy or _AGAIN) from None

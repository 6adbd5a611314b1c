"""`backup`: one backup of a live cluster, proven before it counts (design.md, rule 9).

The order, in which a kill at any point leaves the newest good backup what it was:

1. Who the cluster is, and that no store has a later epoch of it: then this one was replaced, and gets no backup.
2. Each store: its lease, and a tombstone for whoever held it before and was stopped in the middle.
3. A server: a sentinel, the counts of all objects, the snapshot, the counts again. The snapshot is checked here.
4. The parts, sealed, to all stores; nothing of them counts yet.
5. Read back from each store, opened with a key that was made for this backup and is forgotten, compared.
6. The manifest, if the epoch is still the latest and the lease still ours: now it counts.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

from i12e import (
    age,
    backup_keys,
    backups,
    bundle,
    collect,
    database,
    epoch,
    fence,
    fleet,
    leaflet,
    lease,
    remote,
    screen,
    spread,
)
from i12e.backups import Place
from i12e.bell import Bell
from i12e.build import Build
from i12e.bundle import Index, Manifest, Part, Sums
from i12e.contents import Content, Contents, Report, Unread, blocks
from i12e.damaged import Damaged
from i12e.database import Database
from i12e.deploy import Situation
from i12e.epoch import Identity
from i12e.errors import Outside, Problem, UsageError, UserError
from i12e.facts import HostFacts
from i12e.files import private_folder
from i12e.lock import duration, operator, seconds
from i12e.openplaces import open_places
from i12e.secrets import Secret
from i12e.settings import Cluster
from i12e.stores import Exists, Store, StoreError

_COMMAND = 3600.0  # seconds in which a command before or after a path may be silent
_LOOK = 15.0  # seconds for which a store that does not answer is asked for a fresh backup
_SKEW = 300.0  # seconds by which two clocks may differ before it is told
_MANY = 8  # hosts whose files are taken at once
_PIECE = 1 << 20
_OLD = 60.0  # seconds after which the hosts are asked anew how they are


@dataclass
class Target:
    """A store that this backup goes to."""

    place: Place
    number: int = 0
    slot: str = ""
    lease: lease.Lease | None = None
    """None where the store has no compare-and-swap."""
    why: str = ""
    """What went wrong with it."""
    committed: bool = False
    unknown: bool = False
    """Whether nobody knows if the manifest is there: the next one finds out."""

    @property
    def store(self) -> Store:
        """The store."""
        return self.place.store

    @property
    def name(self) -> str:
        """Its name."""
        return self.place.store.name


def slot_of(now: float, length: int) -> str:
    """Given the time and the length of the schedule's slots, return the slot's name: its begin."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now // length * length))


def run(build: Build, scheduled: bool, store: str, wait_lease: str) -> None:
    """Given whether it is for the schedule's slot, one store's name ("": all) and how long to wait for another one.

    Take a backup. Raise UserError with what went wrong, after those whom the cluster's file names were told.
    """
    try:
        limit = seconds(wait_lease)
    except ValueError:
        said = f'--wait-lease "{wait_lease}": write a time such as 90s or 5m'
        raise UsageError(Problem("", None, None, said)) from None
    hosts = fleet.Hosts(build, fleet.wanted_hosts(build))
    cluster = build.cluster()
    try:
        take(build, cluster, hosts, scheduled=scheduled, only=store, wait=limit)
    finally:
        hosts.close()


def take(
    build: Build, cluster: Cluster, hosts: fleet.Hosts, scheduled: bool = False, only: str = "", wait: float = 0.0
) -> str:
    """Given a cluster and its hosts, take a backup and return its id, "" where none was due; raise UserError."""
    bell = Bell(build, cluster)
    began = time.monotonic()
    taking = _Taking(build, cluster, hosts, bell, scheduled, only, wait)
    try:
        made = taking.run()
    except UsageError:  # a typing error at the keyboard is nobody else's alarm
        raise
    except UserError as error:
        state = "is there, but not as it should be" if taking.good else "failed"
        bell.failed(f"backup of {cluster.name} {state}", error.problems, seconds=round(time.monotonic() - began, 1))
        raise
    except BaseException as error:  # also what is a mistake of ours: that there is no backup has to be told
        said = str(error) if isinstance(error, OSError) else type(error).__name__
        why = Problem("", None, None, f"the backup was broken off: {said}")
        bell.failed(f"backup of {cluster.name} failed", [why], seconds=round(time.monotonic() - began, 1))
        raise
    if made:
        bell.good()
    return made


def fresh(build: Build, cluster: Cluster) -> str | None:
    """Given a cluster, return the id of its newest good backup if that is young enough for a reset.

    None if none can be seen. Raise UserError if none could be taken at all, as there is nobody to seal it to.
    """
    backup_keys.check(build.paths, cluster)
    places, _ = open_places(build, cluster, probe=False, patience=_LOOK)
    looks: list[tuple[dict[int, list[backups.Backup]], float]] = []
    for place in places:
        with suppress(StoreError), closing(place.store):
            looks.append((backups.survey_epochs(place), place.store.now()))
    latest = max((max(found) for found, _ in looks), default=1)  # what another store has of an earlier one is not its
    for found, now in looks:
        last = backups.newest(found.get(latest, ()))
        if last is not None and 0 <= now - last.at <= cluster.backup.fresh_seconds:
            return last.id
    return None


class _Taking:
    """One run of backup."""

    pace = (lease.EVERY, lease.LENGTH)
    """Of its leases, in seconds."""

    def __init__(
        self,
        build: Build,
        cluster: Cluster,
        hosts: fleet.Hosts,
        bell: Bell,
        scheduled: bool = False,
        only: str = "",
        wait: float = 0.0,
    ) -> None:
        self.build = build
        self.cluster = cluster
        self.hosts = hosts
        self.bell = bell
        self.scheduled = scheduled
        self.only = only
        self.wait = wait
        self.by = operator()
        self.report = Report()
        self.parts: list[Part] = []
        self.plain: dict[str, Sums] = {}
        """What was sealed in each part."""
        self.good: list[str] = []
        """The stores that have it."""
        self.id = ""
        self.at = 0.0
        self._who: Identity
        """Who the live cluster is."""
        self._seen: tuple[Situation, float] | None = None
        """How the hosts were when they were asked, and when that was."""
        self._key: Secret
        self._recipients: tuple[str, ...] = ()

    def run(self) -> str:
        """Take it; return its id, "" if none was due."""
        backup_keys.check(self.build.paths, self.cluster)
        if self.scheduled and self.cluster.backup.slot_seconds is None:
            remedy = "write backup: every: 6h, say"
            raise UserError(Problem(self.build.paths.cluster_file, None, None, "has no schedule", remedy))
        places, problems = open_places(self.build, self.cluster, self.only)
        if not places:
            raise UserError(problems)
        self.report.problems += problems
        began = time.monotonic()
        with ExitStack() as stack:
            for place in places:
                stack.callback(place.store.close)
            targets: list[Target] = []
            try:
                targets = self._admitted(places, stack)
                if targets:
                    self._take(targets, began)
            except UserError as error:
                self.report.problems += error.problems
            except Outside as error:
                self.report.problems.append(error.problem())
            except OSError as error:  # of this machine: its disk is full, or a file of the repository cannot be read
                where = str(error.filename or self.build.paths.build)
                self.report.problems.append(Problem(where, None, None, error.strerror or str(error)))
            finally:
                self._clear_up(targets)
        self.good = good = [target.name for target in targets if target.committed]
        self.report.problems += [
            Problem("", None, None, f"{target.name}: {target.why}", "the other stores have it" if good else "")
            for target in targets
            if target.why
        ]
        if self.report.problems:
            raise UserError(self.report.problems)
        return self.id if good else ""

    # --- 1: the cluster

    def _situation(self) -> Situation:
        if self._seen is None or time.monotonic() - self._seen[1] > _OLD:
            self._seen = (fleet.situation(self.hosts, [], whole=False), time.monotonic())
        return self._seen[0]

    def _ask(self) -> Identity:
        """Return who the cluster is, by the first server that says it; raise UserError if none does."""
        met: list[Problem] = []
        for name in _servers(self._situation()):
            try:
                return self._identity(name)
            except UserError as error:
                met += error.problems
            except remote.Unreachable as error:
                met.append(error.problem())
        raise UserError(met or [_nobody()])

    def _identity(self, server: str) -> Identity:
        return epoch.read(self.hosts[server])

    def _know(self, places: Sequence[Place]) -> list[Place]:
        """Learn who the cluster is; return the stores that are to get a backup, as far as that tells.

        Raise UserError if nobody says it, and a backup is due, or if one of the stores has a later epoch.
        """
        try:
            self._who = self._ask()
        except UserError:
            if self._is_nothing_due(places):
                return []
            raise
        found = []
        for place in places:
            try:
                fence.check(place, self._who)
            except fence.Replaced as error:
                raise UserError(error.problem()) from None
            except StoreError as error:
                self.report.problems.append(error.problem())
            else:
                found.append(place)
        return found

    def _is_nothing_due(self, places: Sequence[Place]) -> bool:
        """Tell whether the schedule's slot has its backup in each store, of the latest epoch that is there."""
        length = self.cluster.backup.slot_seconds
        if not self.scheduled or length is None:
            return False
        for place in places:
            try:
                found, now = backups.survey_epochs(place), place.store.now()
            except StoreError:
                return False
            latest = max(found)
            if not self._is_filled(found[latest], Target(place.of(latest), slot=slot_of(now, length))):
                return False
        return True

    # --- 2: the stores

    def _admitted(self, places: Sequence[Place], stack: ExitStack) -> list[Target]:
        """Return the stores that are to get this backup, each with its lease."""
        found: list[Target] = []
        for place in self._know(places):
            try:
                if not self.id:
                    self.at = place.store.now()
                    self.id = bundle.new_id(self.at)
                target = self._admit(place, stack)
            except StoreError as error:
                self.report.problems.append(error.problem())
            except lease.Lost as error:
                self.report.problems.append(error.problem())
            except lease.Busy as error:
                if self.scheduled:
                    self.build.tell("KEEP", place.store.name, f"{error.who} is at work there", "kept")
                else:
                    self.report.problems += error.problems
            except UserError as error:
                self.report.problems += error.problems
            else:
                found += [target] if target else []
        return found

    def _admit(self, place: Place, stack: ExitStack) -> Target | None:
        target = Target(fence.enter(place, self._who))
        place = target.place
        store, length = place.store, self.cluster.backup.slot_seconds
        now = store.now()
        if abs(now - time.time()) > _SKEW:
            self.build.note(f"{store.name}: its clock and ours differ by {duration(abs(now - time.time()))}")
        found = backups.survey(place)
        late = backups.age(found, length, now)
        self.build.notes += [f"{store.name}: {late.problem}"] if late.problem else []
        if self.scheduled and length is not None:
            target.slot = slot_of(now, length)
            if self._is_filled(found, target):
                return None
        if not store.shares:
            if self.scheduled:
                said = "cannot share a schedule: it has no compare-and-swap; let one machine alone write to it"
                self.build.note(f"{store.name}: {said}")
            target.number = fence.last_number(place, found) + 1
            return target
        target.lease = fence.take(place, "backup", self.wait, *self.pace)
        stack.callback(target.lease.release)
        target.number = target.lease.number
        if self.scheduled and self._is_filled(backups.survey(place), target):
            target.lease.release()
            return None
        target.lease.making(self.id)
        return target

    def _explain(self, place: Place) -> None:
        """Leave in the store how its backups are opened without i12e; that is no reason for having none."""
        try:
            place.store.create(place.key(leaflet.NAME), leaflet.content(place.cluster, place.folder))
        except Exists:
            pass
        except StoreError as error:
            self.build.note(f"{place.store.name}: {leaflet.NAME} was not written: {error.why}")

    def _is_filled(self, found: Sequence[backups.Backup], target: Target) -> bool:
        there = backups.in_slot(found, target.slot)
        if there is not None:
            self.build.tell("KEEP", target.name, f"{there.id} is the backup of {target.slot}", "kept")
        return there is not None

    # --- 3: the server

    def _take(self, targets: Sequence[Target], began: float) -> None:
        self.bell.started()
        self._key, own = age.make()
        self._recipients = (*self.cluster.backup.recipients, own)
        for target in targets:
            self._explain(target.place)
        now = self._situation()  # leases may have been waited for
        files = Contents(self.build, self.cluster, self.hosts, now.view.facts, self.report)
        taken = self._database(now)
        with closing(taken):
            contents = [
                Content(bundle.DATABASE, "database", lambda: blocks(taken.file), taken.sums),
                Content(bundle.CLUSTER, "cluster", files.of_cluster),
                Content(bundle.HOSTS, "hosts", files.of_hosts),
                *files.of_paths(),
            ]
            for content in contents:
                self._store(content, targets)
        key = age.seal_small(self._key.reveal().encode() + b"\n", self.cluster.backup.recipients)
        self._store_small(bundle.KEY, "key", key, targets)
        index = Index(
            id=self.id,
            cluster=self.cluster.name,
            uid=taken.uid,
            token=taken.token,
            sentinel=taken.sentinel.fields(),
            plain=self.plain,
            sealed={part.name: part.sha256 for part in self.parts},
            manifests=tuple(self._essence(self._manifest(taken, now, target)) for target in _living(targets)),
        )
        self._store_small(bundle.INDEX, "index", age.seal_small(index.content(), self._recipients), targets)
        for target in _living(targets):
            self._read_back(target)
        took = time.monotonic() - began
        self._know_again(targets, taken)
        for target in _living(targets):
            self._commit(target, replace(self._manifest(taken, now, target), seconds=round(took, 1)))
        self._told(targets, taken, took)

    def _database(self, now: Situation) -> Database:
        """Return the database of the first healthy server that gives one which is proven."""
        servers = _servers(now)
        if not servers:
            raise UserError(_nobody())
        folder = self.build.paths.root / self.build.paths.build
        private_folder(folder)
        met: list[Problem] = []
        for name in servers:
            facts = now.view.facts[name]
            assert isinstance(facts, HostFacts)  # noqa: S101  # for the type
            try:
                place = now.wanted[name].host.k3s.config.get("etcd-snapshot-dir", collect.SNAPSHOTS)
                taken = database.take(
                    self.hosts[name], name, facts, self.id, folder, screen.say, snapshot_folder=str(place)
                )
            except (database.Failed, Damaged, remote.Unreachable) as error:
                met.append(Problem("", None, None, f"{name}: {error.why}"))
                continue
            # Another one gave it, and it is good; that this one did not is for the operator to know all the same.
            self.report.problems += met
            return taken
        raise UserError(met)

    # --- 4: into the stores

    def _store(self, content: Content, targets: Sequence[Target]) -> None:
        """Seal a part and put it into all stores that are still in."""
        sums: list[tuple[Sums, Sums]] = []
        stores = {target.name: target.store for target in _living(targets)}
        if not stores:
            raise UserError(Problem("", None, None, "no store is left that takes it"))

        def produce(take: Callable[[bytes], None]) -> None:
            screen.say(f"seals and stores {content.name}")
            sums.append(bundle.seal(content.source(), self._recipients, ".gz." in content.name, take))

        try:
            failed = spread.spread(self._key_of(targets, content.name), stores, produce)
        except Unread as error:
            assert content.path is not None  # noqa: S101  # only they are read so
            if error.why or content.path.hosts is not None:
                self.report.lack(f"{content.path.path} of {content.host}: {error.why or 'it is not there'}")
            return
        plain, sealed = sums[0]
        if content.expected is not None and plain != content.expected:
            raise UserError(Problem("", None, None, f"{content.name}: what was sealed is not what was proven"))
        self._mend(content.name, targets, failed)
        self.plain[content.name] = plain
        path = content.path
        self.parts.append(
            Part(
                name=content.name,
                size=sealed.size,
                sha256=sealed.sha256,
                what=content.what,
                host=content.host,
                path=path.path if path else "",
                consistency=collect.consistency(path.before) if path else "",
            )
        )

    def _store_small(self, name: str, what: str, sealed: bytes, targets: Sequence[Target]) -> None:
        for target in _living(targets):
            try:
                target.store.put(target.place.part(self.id, name), [sealed])
            except StoreError as error:
                target.why = error.why
        summing = bundle.Summing()
        summing.add(sealed)
        sums = summing.sums()
        self.parts.append(Part(name, sums.size, sums.sha256, what))

    def _mend(self, name: str, targets: Sequence[Target], failed: Mapping[str, StoreError]) -> None:
        """Let a store that did not take the stream have it from one that did: the bytes have to be the same."""
        source = next((target for target in _living(targets) if target.name not in failed), None)
        for target in _living(targets):
            error = failed.get(target.name)
            if error is None:
                continue
            if source is None or not error.passing:
                target.why = error.why
                continue
            screen.say(f"{target.name}: {error.why}: gets {name} from {source.name}")
            try:
                spread.copied(target.place.part(self.id, name), source.store, target.store)
            except StoreError as again:
                target.why = again.why

    def _key_of(self, targets: Sequence[Target], name: str) -> str:
        return targets[0].place.part(self.id, name)  # the cluster's folder has the same name in all of them

    # --- 5: out of them

    def _read_back(self, target: Target) -> None:
        """Read every part from a store, open it with the key that is forgotten after that, and compare."""
        screen.say(f"{target.name}: reads back {screen.count(len(self.parts), 'part')}")
        for part in self.parts:
            source = target.store.read(target.place.part(self.id, part.name))
            try:
                if part.name == bundle.KEY:  # which only the recipients open
                    sealed = bundle.Summing()
                    for block in source:
                        sealed.add(block)
                    plain, told = None, sealed.sums()
                else:
                    plain, told = bundle.unseal(source, [self._key], ".gz." in part.name, lambda block: None)
            except StoreError as error:
                target.why = f"{part.name} cannot be read back: {error.why}"
                return
            except Damaged as error:
                target.why = f"{part.name} is not what was stored: {error.why}"
                return
            expected = self.plain.get(part.name)
            if told != Sums(part.size, part.sha256) or (expected is not None and plain != expected):
                target.why = f"{part.name} is not what was stored"
                return

    # --- 6: the manifest

    def _manifest(self, taken: Database, now: Situation, target: Target) -> Manifest:
        digests = {
            name: found.digest
            for name, found in now.view.facts.items()
            if isinstance(found, HostFacts) and found.digest
        }
        return Manifest(
            id=self.id,
            cluster=self.cluster.name,
            uid=taken.uid,
            at=int(self.at),
            seconds=0.0,
            by=self.by,
            server=taken.server,
            i12e=importlib.metadata.version("i12e") if _is_installed() else "",
            k3s=taken.k3s,
            datastore=taken.kind,
            method=taken.method,
            revision=taken.revision,
            token=taken.token,
            number=target.number,
            slot=target.slot,
            recipients=self.cluster.backup.recipients,
            parts=tuple(self.parts),
            objects=taken.counts,
            hosts=digests,
            lacks=tuple(self.report.lacks),
        )

    @staticmethod
    def _essence(manifest: Manifest) -> str:
        """Given a manifest without its index, which is made of it, return what the index vouches for."""
        return replace(manifest, parts=(*manifest.parts, Part(bundle.INDEX, 0, "", "index"))).essence

    def _know_again(self, targets: Sequence[Target], taken: Database) -> None:
        """See that the cluster is still the latest epoch, now that all parts are there; raise UserError if it is not.

        A cluster that does not answer any more has the backup all the same: what stores say is enough.
        """
        try:
            who = self._identity(taken.server)
        except (UserError, remote.Unreachable):
            who = self._who
        if (who.uid, who.epoch) != (self._who.uid, self._who.epoch) or taken.uid != who.uid:
            said = f"{taken.server}: its cluster was {_named(self._who)}, and is {_named(who)} now"
            raise UserError(Problem("", None, None, said, "nothing was committed: try again"))
        for target in _living(targets):
            try:
                fence.check(target.place, who)
            except fence.Replaced as error:
                raise UserError(error.problem()) from None
            except StoreError as error:
                target.why = error.why

    def _commit(self, target: Target, manifest: Manifest) -> None:
        """Let the backup count, if the lease is still ours; what lies there afterwards decides."""
        content = manifest.content()
        key = target.place.part(self.id, bundle.MANIFEST)
        try:
            if target.lease is not None:
                target.lease.check()
            target.unknown = True
            target.store.create(key, content)
            found, _ = target.store.get(key)
        except lease.Lost as error:
            target.why = error.why
            return
        except Exists:
            target.unknown = False
            target.why = "somebody else took over while this backup was made, and shut it out"
            return
        except StoreError as error:
            target.why = f"nobody knows whether its manifest is there: {error.why}"
            return
        target.unknown = False
        listed = {entry.key for entry in target.store.list(target.place.part(self.id, ""))}
        if found != content or len(listed) != len(manifest.parts) + 1:
            target.why = "it does not have what it said it took"
            return
        target.committed = True
        if target.lease is not None:
            target.lease.settle(self.id)

    def _clear_up(self, targets: Sequence[Target]) -> None:
        """Remove the parts of what will never be a backup; what cannot be removed now, a prune will."""
        for target in targets:
            if target.committed or target.unknown:
                continue
            with suppress(StoreError):
                for entry in target.store.list(target.place.part(self.id, "")):
                    if not entry.key.endswith(f"/{bundle.MANIFEST}"):
                        target.store.delete(entry.key)
                if target.lease is not None:
                    target.lease.settle(self.id)

    def _told(self, targets: Sequence[Target], taken: Database, took: float) -> None:
        size = sum(part.size for part in self.parts)
        for target in targets:
            if target.committed:
                facts = {
                    "backup": self.id,
                    "store": target.name,
                    "bytes": size,
                    "seconds": round(took, 1),
                    "server": taken.server,
                    "datastore": taken.kind,
                    "slot": target.slot,
                    "epoch": target.place.epoch,
                    "lacks": list(self.report.lacks),
                }
                what = f"{self.id} to {target.name}"
                remark = f"{taken.kind} of {taken.server}, {size / 1e6:.1f} MB, read back and proven in {took:.0f} s"
                self.build.tell("BACKUP", what, remark, facts=facts)


def _living(targets: Sequence[Target]) -> list[Target]:
    """Return the stores with which nothing went wrong so far."""
    return [target for target in targets if not target.why]


def _nobody() -> Problem:
    said = "no server of the cluster answers: there is nothing to back up"
    return Problem("", None, None, said, "see ./doit status")


def _named(who: Identity) -> str:
    return f"{who.uid} of epoch {who.epoch}"


def _servers(now: Situation) -> list[str]:
    """Return the servers that answer, healthy ones first."""
    answering = now.view.answering()
    return sorted(answering, key=lambda name: not now.view.healthy(name))


def _is_installed() -> bool:
    try:
        importlib.metadata.version("i12e")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

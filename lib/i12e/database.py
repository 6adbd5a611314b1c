"""A live cluster's database: taken off one of its servers, read here, and proven to be this cluster's, of now.

What is taken is only ever in a file without a name. Nothing here believes what k3s says of its own snapshot.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from i12e import bundle, ciphers, collect, proof, registry, remote, snapshots, tokens
from i12e.bundle import Sums
from i12e.damaged import Damaged
from i12e.facts import HostFacts
from i12e.lock import duration
from i12e.programs import Done
from i12e.remote import Remote, Target
from i12e.secrets import Secret

_SAVE = 1800.0  # seconds in which a server may make a snapshot without a word
_LOOK = 1.0
_LONG = 300.0  # seconds in which k3s, once stopped for a copy, answers again
_SHORT = 30.0


class Failed(Exception):
    """There is no proven database of this server; `why` says what is wrong."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Unasked(Failed):
    """A cluster could not be asked, which says nothing of what it has."""


@dataclass(frozen=True)
class Database:
    """A proven database."""

    server: str
    file: IO[bytes]
    """As k3s restores it: a snapshot of etcd's, or a SQLite file; it has no name."""
    sums: Sums
    kind: str
    method: str
    k3s: str
    uid: str
    token: str
    """The 12 digits that k3s knows the server token by."""
    revision: int
    counts: Mapping[str, int]
    sentinel: collect.Sentinel
    received: snapshots.Receiving | None = None

    def close(self) -> None:
        """Let go of the file, which is gone then."""
        self.file.close()
        if self.received is not None:
            self.received.close()


def take(
    host: Remote, name: str, facts: HostFacts, backup: str, folder: Path, say: Callable[[str], None],
    how: str = collect.AUTO, snapshot_folder: str = collect.SNAPSHOTS,
) -> Database:  # fmt: skip
    """Given a server, its name and facts, a backup's id and a folder for files without names, return its database.

    `how`: collect.AUTO or STOPPED, for SQLite; `snapshot_folder`: where its k3s has snapshots. Raise Failed, Damaged,
    or Unreachable.
    """
    kind: Literal["etcd", "sqlite"] = "etcd" if facts.datastore == bundle.ETCD else "sqlite"
    say(f"{name}: takes a snapshot of {kind}")
    live = Live(host)
    token = Secret(_ask(host, collect.TOKEN_SCRIPT).strip())
    with ExitStack() as stack:
        receiving = stack.enter_context(snapshots.Receiving(kind, folder))
        log = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        with _sentinel(host) as sentinel:
            before = live.counts()
            receiver = _receive(host, kind, backup, (receiving.file, log), how, snapshot_folder)
            method = receiver.said.get("method", "")
            after = live.counts(_LONG if method == "sqlite-stopped" else _SHORT, say)
        say(f"{name}: proves {_size(receiver)} of {kind}")
        snapshot = receiving.opened(log if len(receiver.files) > 1 else None)
        snapshot.check()
        _prove_identity(snapshot, live.uid, token, sentinel)
        counts = snapshot.counts()
        wrong = proof.differences(before, after, counts)
        if wrong:
            raise Failed(f"the snapshot does not agree with the cluster: {'; '.join(wrong[:5])}")
        # Of SQLite's the log has become a part of it.
        sums = receiver.files[0].sums if kind == bundle.ETCD else _summed(receiving.file)
        revision = snapshot.revision()
        stack.pop_all()  # whoever gets the database closes it
        log.close()
    return Database(
        name, receiving.file, sums, kind, method, facts.version, live.uid, tokens.hash12(token), revision, counts,
        sentinel, receiving,
    )  # fmt: skip


@contextmanager
def _sentinel(host: Remote) -> Iterator[collect.Sentinel]:
    """Until the block ends, have a Secret in the cluster that was never there before."""
    sentinel = collect.Sentinel(f"{collect.SENTINEL}-{secrets.token_hex(3)}", secrets.token_hex(16))
    _ask(host, collect.PUT_SENTINEL, sentinel.manifest().encode())
    try:
        yield sentinel
    finally:
        with suppress(remote.Unreachable):
            left = collect.left_sentinels(host.run(collect.LIST_SENTINELS, limit=60).output, time.time())
            host.run(collect.drop_sentinels([sentinel.name, *left]), limit=60)


def _receive(
    host: Remote, kind: str, backup: str, into: Sequence[IO[bytes]], how: str, folder: str
) -> collect.Receiver:
    receiver = collect.Receiver(into if kind == bundle.SQLITE else into[:1])
    done = host.stream(collect.database_script(kind, backup, how, folder), receiver.take, quiet=_SAVE)
    if done.status:
        raise Failed((done.complaint.strip() or f"the snapshot ended with status {done.status}")[-500:])
    receiver.end()
    if kind == bundle.ETCD:
        collect.check_listed(receiver.said.get("listing", ""), receiver.files[0].name, receiver.files[0].sums.size)
    return receiver


def _prove_identity(snapshot: snapshots.Snapshot, uid: str, token: Secret, sentinel: collect.Sentinel) -> None:
    """See that a snapshot opens with the token, is of the cluster of a UID, and has the sentinel; raise Failed."""
    found, has_sentinel = identity(snapshot, token, sentinel)
    if found != uid:
        raise Failed(f"the snapshot is of another cluster: its kube-system is {found or 'missing'}, not {uid}")
    if has_sentinel:
        raise Failed(has_sentinel)


class Readable(Protocol):
    """What can be asked for a cluster's rows: a snapshot, or an etcd that runs."""

    def get(self, key: bytes) -> bytes | None:
        """Given a key, return its live value, or None."""
        ...

    def bootstrap(self) -> dict[str, bytes]:
        """Return the values of the rows below /bootstrap/, by their names."""
        ...


def identity(snapshot: Readable, token: Secret, sentinel: collect.Sentinel) -> tuple[str, str]:
    """Given a snapshot, its token and sentinel, return the UID of kube-system, and what is wrong with the sentinel.

    Raise Failed if the token does not open it.
    """
    try:
        row = snapshot.bootstrap().get(tokens.row_name(token))
        if row is None:
            raise Failed(f"the token {tokens.hash12(token)} is not the one that the snapshot is sealed by")
        files = tokens.open_row(row, token)
    except (tokens.WrongToken, tokens.NoToken) as error:
        raise Failed(str(error)) from None
    namespace = snapshot.get(registry.KUBE_SYSTEM)
    uid = registry.uid_of(namespace) if namespace is not None else ""
    return uid, _sentinel_fault(snapshot, sentinel, files.get("EncryptionConfig"))


def _sentinel_fault(snapshot: Readable, sentinel: collect.Sentinel, config: Secret | None) -> str:
    key = sentinel.row.encode()
    value = snapshot.get(key)
    if value is None:
        return "the snapshot lacks what was written right before it: it is an older one"
    try:
        data = registry.secret_data(registry.decrypted(key, value, config))
    except (registry.Unreadable, ciphers.Unopened, Damaged) as error:
        return f"the sentinel in the snapshot cannot be read: {error}"
    if data.get(sentinel.key) != Secret(sentinel.value):
        return "the sentinel in the snapshot has another value"
    return ""


class Host(Protocol):
    """Where commands are run: a Remote, or what is asked as one is."""

    @property
    def target(self) -> Target:
        """Which one it is."""
        ...

    def run(self, script: str, stdin: bytes = b"", limit: float = 60.0) -> Done:
        """See Remote."""
        ...

    def stream(self, script: str, take: Callable[[bytes], None], stdin: bytes = b"", quiet: float = 60.0) -> Done:
        """See Remote."""
        ...


class Live:
    """What a cluster says of itself, by one of its servers."""

    def __init__(self, host: Host) -> None:
        """Given a server, learn who the cluster is and what can be listed; raise Failed or Unreachable."""
        self._host = host
        said = self._said(collect.FIRST)
        self.uid = collect.uid(said)
        if not self.uid:
            raise Unasked("its API does not say who the cluster is")
        listed = {collect.CORE: said.get(collect.CORE, ""), **self._said(collect.groups(said))}
        custom = collect.custom(self._said([collect.KINDS], metadata=True))
        self._resources = {
            each.path: place
            for each in collect.resources(listed)
            if (place := proof.prefix(each.group, each.plural, custom)) is not None
        }

    def counts(self, patience: float = 0.0, say: Callable[[str], None] = lambda text: None) -> dict[str, int]:
        """Return how many objects of each resource there are, by their place below /registry/.

        Wait up to `patience` seconds for an API that does not answer.
        """
        began = time.monotonic()
        while True:
            found = self._counted()
            waited = time.monotonic() - began
            if "namespaces" in found or waited >= patience:
                return found
            say(f"{self._host.target.name}: waits for its API, {duration(waited)} of {duration(patience)}")
            time.sleep(_LOOK)

    def _counted(self) -> dict[str, int]:
        firsts = {f"{path}{collect.FIRST_ONE}": path for path in self._resources}
        said = {firsts[path]: text for path, text in self._said(firsts, metadata=True).items()}
        numbers = {path: collect.count(text) for path, text in said.items()}
        untold = [path for path, number in numbers.items() if number is None]
        whole = self._said(untold, metadata=True)
        numbers |= {path: collect.whole_count(text) for path, text in whole.items()}
        return {self._resources[path]: number for path, number in numbers.items() if number is not None}

    def _said(self, paths: Collection[str], metadata: bool = False) -> dict[str, str]:
        lines = "".join(f"{path}\n" for path in paths).encode()
        found: list[bytes] = []
        done = self._host.stream(collect.asking(metadata), found.append, lines, quiet=120)
        if done.status:
            raise Unasked("its API cannot be asked")
        return collect.answers(paths, b"".join(found).decode(errors="replace"))


def _ask(host: Remote, script: str, stdin: bytes = b"") -> str:
    done = host.run(script, stdin, limit=300)
    if done.status:
        said = (done.complaint.strip().splitlines() or [f"status {done.status}"])[-1]
        raise Failed(f"a command on it failed: {said[:300]}")
    return done.output


def _summed(file: IO[bytes]) -> Sums:
    file.seek(0)
    sums = bundle.Summing()
    while block := file.read(1 << 20):
        sums.add(block)
    return sums.sums()


def _size(receiver: collect.Receiver) -> str:
    return f"{sum(each.sums.size for each in receiver.files) / 1e6:.1f} MB"

"""What a restore does on a host: the script that puts a backup's database in place, and how what it says is read.

The host is the truth. All of a restore lies in one folder there: the job (what is to be done), the database, and the
progress, a line for each step that was done. The script goes on from there, however it was ended; the restore of an
operator and the one that a host does by itself are the same script.

In an order in which nothing is lost and nothing runs behind anybody's back:

1. k3s is stopped and stays held (docs/hold-and-permit.md) until the end.
2. What the host had is set aside by a rename; nothing of it is under the new database (a `state.db-wal`, certificates
   that are newer than the datastore, a reset-flag: each of them breaks a restore, k3s-flatcar.md 1.2, 1.5, 1.6).
3. The database is put in its place: by `k3s server --cluster-reset`, or as a file.
4. k3s starts without its agent, scheduler and controllers, so that the database can be proven by its own API while no
   workload moves. A conversion to etcd happens here.

Sources: k3s-docs cli/etcd-snapshot.md, datastore/backup-restore.md, datastore/ha-embedded.md, cli/server.md.
"""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Protocol

from i12e.facts import STATE

FOLDER = f"{STATE}/restore"
UNIT, QUIET = "i12e-restore", "i12e-restore-k3s"
ETCD, SQLITE, CONVERT = "etcd", "sqlite", "convert"
STAGED, ASIDE, PLACED, READY = "staged", "aside", "placed", "ready"
PROVEN, RELEASED, PROMOTED = "proven", "released", "promoted"
HELD_BY_ANOTHER = 9
"""The exit status of hold() where somebody else holds the host."""
_SERVER = "/var/lib/rancher/k3s/server"
_READY = 600  # seconds in which k3s, once started, has to answer
_PIECE = 32 << 20  # bytes that are sent at a time
_ROOM = 3  # times the database: staged, in its place, and what k3s makes of it
_LOG = 192 << 20  # bytes beside it: etcd's log has two segments of 64 MB at once, and k3s starts anew


@dataclass(frozen=True)
class Job:
    """What is to be restored on a host, as it lies there."""

    backup: str
    store: str
    kind: str
    """etcd, sqlite, or convert: a SQLite database that becomes etcd."""
    cluster: str
    uid: str
    size: int
    """Bytes of the database, and"""
    sha256: str
    """its hash."""
    by: str
    at: float
    """When it was begun, in seconds since 1970."""

    def content(self) -> bytes:
        """Return it as it is written."""
        return json.dumps(self.__dict__, indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Progress:
    """How far a restore is on a host."""

    job: Job | None = None
    done: Mapping[str, float] = field(default_factory=dict)
    """When each step was done, in seconds since 1970, by the host's clock."""
    failed: str = ""
    aside: str = ""
    """Where what the host had before is kept."""
    works: bool = False
    """Whether the script runs."""
    quiet: bool = False
    """Whether the k3s of the proof runs."""
    last: str = ""
    """What it said last."""


def kind(wanted: str, theirs: str) -> str:
    """Given the datastores that a cluster is to have and that a backup is of, return which kind of job that is."""
    if theirs == ETCD:
        return ETCD
    return CONVERT if wanted == ETCD else SQLITE


def room_for(size: int) -> int:
    """Given the bytes of a database, return how many have to be free where it is restored."""
    return _ROOM * size + _LOG


def look(folder: str, unit: str, quiet: str) -> str:
    """Given a folder, its unit and the unit of its k3s, return the script whose output read() reads."""
    return f"""
export PATH=/opt/bin:/usr/local/bin:$PATH
say() {{ printf '%s ' "$1"; base64 -w0; echo; }}
cd {folder} 2>/dev/null || exit 0
for each in job progress failed aside; do if [ -f "$each" ]; then say "$each" <"$each"; fi; done
systemctl is-active {unit} 2>/dev/null | say unit
systemctl is-active {quiet} 2>/dev/null | say quiet
if [ -f log ]; then tail -n 1 log | tail -c 300 | say last; fi
exit 0
"""


LOOK = look(FOLDER, UNIT, QUIET)
"""For a restore."""


def read(output: str) -> Progress:
    """Given what LOOK printed, return how far a restore is there."""
    said: dict[str, str] = {}
    for line in output.splitlines():
        key, _, value = line.partition(" ")
        said[key] = base64.b64decode(value).decode(errors="replace").strip()
    done: dict[str, float] = {}
    for line in said.get("progress", "").splitlines():
        step, _, at = line.partition(" ")
        if at.isdecimal():
            done[step] = float(at)
    job = None
    with suppress(KeyError, TypeError, ValueError):
        job = Job(**json.loads(said["job"]))
    running = ("active", "activating")
    return Progress(
        job, done, said.get("failed", ""), said.get("aside", ""),
        said.get("unit") in running, said.get("quiet") in running, said.get("last", ""),
    )  # fmt: skip


def script(job: Job) -> str:
    """Given a job, return the script that does its steps on the host, up to a k3s that can be asked."""
    return f"#!/bin/sh\n{settings(job, FOLDER)}kept={kept(job)}{PRELUDE}{BY_SYSTEMD}{_ASIDE}{PUT}exit 0\n"


def settings(job: Job, folder: str, names: Sequence[str] = ("folder", "kind", "sha256", "server", "limit")) -> str:
    """Given a job, the folder that it lies in and which of them, return the settings of the scripts that do it."""
    said = {"folder": folder, "kind": job.kind, "sha256": job.sha256, "server": _SERVER, "limit": str(_READY)}
    return "".join(f"{name}={shlex.quote(said[name])}\n" for name in names)


PRELUDE = r"""
set -u; umask 077
export PATH=/opt/bin:/usr/local/bin:$PATH
cd "$folder" || exit 1
fail() {
    echo "failed: $*"
    printf '%s\n' "$*" >failed.new; mv -f failed.new failed
    stop_quiet
    exit 1
}
done_() { grep -q "^$1 " progress 2>/dev/null; }
step() {
    printf '%s %s\n' "$1" "$(date +%s)" >>progress && sync progress || fail "$folder/progress cannot be written"
    echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $1"
}
room() { df -Pk . | awk 'NR == 2 { printf "%d MB are free there", $4 / 1024 }'; }
whole() {
    [ "$(sha256sum database | cut -c1-64)" = "$1" ] || fail "the database that was staged is not the backup's"
}
"""
"""What scripts in such a folder begin with; given $folder, and stop_quiet(), which ends the k3s of the proof."""

BY_SYSTEMD = rf"""
stop_quiet() {{ systemctl stop {QUIET} 2>/dev/null; }}
start_quiet() {{
    systemctl reset-failed {QUIET} 2>/dev/null
    systemd-run --quiet --unit={QUIET} -p KillMode=process -p LimitNOFILE=1048576 -p TimeoutStopSec=30 -- "$@"
}}
quiet_lives() {{ case $(systemctl is-active {QUIET}) in active | activating) ;; *) return 1 ;; esac; }}
quiet_says() {{ journalctl -u {QUIET} -n 1 -o cat --no-pager 2>/dev/null | tail -c 300; }}
"""

# What stays where it is: manifests and charts that the host's config brought.
_ASIDE = rf"""
# Made by i12e: puts the database of a backup in the place of this host's. Run again, it goes on.
exec >>log 2>&1
rm -f failed
held() {{ [ -e {STATE}/hold ] || fail "somebody removed {STATE}/hold, which keeps k3s from starting meanwhile"; }}
k3s=$(command -v k3s) || fail "k3s is not installed yet"
held
systemctl stop k3s k3s-agent {QUIET} 2>/dev/null
for unit in k3s k3s-agent {QUIET}; do
    case $(systemctl is-active "$unit") in
    active | activating | deactivating | reloading) fail "$unit does not stop" ;;
    esac
done
whole "$sha256"

# 2. Aside: a rename for each, so that a kill leaves each of them in one of the two places.
if ! done_ {ASIDE}; then
    [ -f aside ] || {{ echo "$kept" >aside.new && sync aside.new && mv -f aside.new aside; }} || fail "no room"
    kept=$(cat aside)
    for each in "$server"/* "$server"/.[!.]*; do
        [ -e "$each" ] || [ -L "$each" ] || continue
        case ${{each##*/}} in manifests | static) continue ;; esac
        mkdir -p "$kept" || fail "$kept cannot be made"
        mv -f "$each" "$kept/" || fail "$each cannot be moved to $kept"
    done
    [ -d "$kept" ] || rm -f aside
    sync
    step {ASIDE}
fi
"""

SERVE = r"""
quiet() {
    held
    start_quiet "$k3s" server --disable-agent --disable-scheduler --disable-controller-manager \
        --disable-cloud-controller --disable-helm-controller "$@" || fail "k3s cannot be started for the proof"
    n=0
    until [ "$(timeout 10 "$k3s" kubectl get --raw /readyz 2>/dev/null)" = ok ]; do
        said=$(quiet_says)
        quiet_lives || fail "k3s does not start on what was restored: $said; $(room)"
        n=$((n + 1))
        [ $n -lt "$limit" ] || fail "k3s does not get ready on what was restored: $said"
        echo "waits for k3s: $said"
        sleep 1
    done
}
"""
"""Has quiet(), which starts that k3s with further flags, and waits for it."""

PUT = rf"""
{SERVE}
# 3. In place. What an earlier try left half done is wiped: what the host had is aside.
rm -f /etc/rancher/k3s/config.yaml.d/90-i12e.yaml
for each in "$server"/* "$server"/.[!.]*; do
    [ -e "$each" ] || [ -L "$each" ] || continue
    case ${{each##*/}} in manifests | static) continue ;; esac
    rm -rf "$each" || fail "$each cannot be removed"
done
held
case $kind in
{ETCD})
    "$k3s" server --cluster-reset --cluster-reset-restore-path="$folder/database" --etcd-s3=false >reset.log 2>&1
    status=$?
    cat reset.log
    grep -q 'Managed etcd cluster membership has been reset' reset.log ||
        fail "k3s did not take the snapshot (status $status): $(tail -n 1 reset.log | tail -c 300); $(room)"
    [ -d "$server/db/etcd/member/wal" ] || fail "k3s said that it restored, and there is no etcd"
    ;;
{SQLITE} | {CONVERT})
    mkdir -p "$server/db" && cp database "$server/db/state.db" && sync "$server/db/state.db" ||
        fail "$server/db/state.db cannot be written"
    ;;
*) fail "a job of an unknown kind: $kind" ;;
esac
step {PLACED}

# 4. Served by a k3s that moves nothing.
quiet
if [ "$kind" = {CONVERT} ]; then
    # Only what starts on SQLite once has the cluster's certificates and its key of the Secrets on the disk; k3s copies
    # neither of them into etcd (only /registry/), and would make new ones.
    stop_quiet || fail "k3s does not stop before the conversion"
    quiet --cluster-init
    # k3s takes an etcd that a failed conversion left for whole at its next start (k3s PR#3231): this is its only sign.
    [ -f "$server/db/state.db.migrated" ] && [ ! -e "$server/db/state.db" ] ||
        fail "k3s did not convert the database to etcd: there is no state.db.migrated"
fi
step {READY}
"""
"""Puts the database in place and has k3s serve it; given the settings that settings() gives, held(), which fails where
that may not go on, and how a k3s is started, seen and ended (BY_SYSTEMD)."""

START = f"""
set -eu
systemctl is-active --quiet {UNIT} || rm -f {FOLDER}/failed
systemctl reset-failed {UNIT} 2>/dev/null || :
systemctl is-active --quiet {UNIT} || systemd-run --quiet --collect --unit={UNIT} /bin/sh {FOLDER}/run.sh
"""
"""Starts the script, apart from any ssh session."""

BEGIN = f"""
systemctl stop {UNIT} {QUIET} 2>/dev/null || :
cd {FOLDER} || exit 1
rm -f job failed database
if [ -f progress ]; then grep '^{ASIDE} ' progress >progress.new || :; mv -f progress.new progress; fi
sync .
"""
"""Before another job: of an earlier one nothing stays but what the host had before it, which is aside."""

BACK = f"""
systemctl stop {UNIT} {QUIET} 2>/dev/null || :
cd {FOLDER} || exit 1
grep -v -e '^{PLACED} ' -e '^{READY} ' progress >progress.new || :
mv -f progress.new progress; sync progress
"""
"""After a proof that failed: the next run puts the database in place anew."""

PREPARE = f"set -eu; umask 077; mkdir -p {FOLDER}; chmod 700 {STATE} {FOLDER}\n"


def hold(why: str) -> str:
    """Given who holds a host and why, return the script that has it held and its k3s stopped.

    A hold of somebody else is left alone: exit status HELD_BY_ANOTHER, and its first line is told.
    """
    return f"""
set -eu; umask 077; mkdir -p {STATE}
why={shlex.quote(why)}
if [ -e {STATE}/hold ] || [ -L {STATE}/hold ]; then
    there=$(head -n 1 {STATE}/hold 2>/dev/null || :)
    case $there in
    'restore of '*) ;;
    *) printf '%s\\n' "${{there:-it says not why}}" >&2; exit {HELD_BY_ANOTHER} ;;
    esac
fi
printf '%s\\n' "$why" >{STATE}/hold.new; sync {STATE}/hold.new; mv -f {STATE}/hold.new {STATE}/hold; sync {STATE}
# What the host was to do by itself (alone.py) is ours from here on.
rm -f {FOLDER}/alone; systemctl stop {UNIT}-alone 2>/dev/null || :
systemctl stop k3s k3s-agent 2>/dev/null || :
for unit in k3s k3s-agent; do
    case $(systemctl is-active "$unit" 2>/dev/null || :) in
    active | activating | deactivating) echo "$unit does not stop" >&2; exit 1 ;;
    esac
done
"""


RELEASE = f"""
set -eu; umask 077
systemctl stop {QUIET} 2>/dev/null || :
# k3s makes it late. Until then a host without one is another machine than that of its node, which the database has.
password=/etc/rancher/node/password
if ! [ -s $password ]; then
    mkdir -p /etc/rancher/node
    od -An -N16 -tx1 /dev/urandom | tr -d ' \\n' >$password.new; sync $password.new; mv -f $password.new $password
fi
rm -f {STATE}/hold {STATE}/proven.json; sync {STATE}
systemctl start --no-block k3s
grep -q '^{RELEASED} ' {FOLDER}/progress 2>/dev/null || printf '{RELEASED} %s\\n' "$(date +%s)" >>{FOLDER}/progress
rm -f {FOLDER}/database
"""
"""Ends the proof: k3s starts as it always does."""

END = f"rm -rf {FOLDER}"
"""The restore is over: nothing of it stays but what was set aside."""


def kept(job: Job) -> str:
    """Given a job, return where what a server had before is kept: beside it, so that a rename is enough."""
    return f"{_SERVER}.before-{stamp(job)}"


def stamp(job: Job) -> str:
    """Given a job, return when it was begun, as it stands in names."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(job.at))


def forget_data(job: Job) -> str:
    """Given a job, return the script by which a held server that is to join anew has no data, but set aside."""
    return f"""
set -eu; umask 077
server={_SERVER}; kept={kept(job)}
[ -e {STATE}/hold ] || {{ echo "the hold is gone" >&2; exit 1; }}
for each in "$server"/* "$server"/.[!.]*; do
    [ -e "$each" ] || [ -L "$each" ] || continue
    case ${{each##*/}} in manifests | static) continue ;; esac
    mkdir -p "$kept"
    if [ -e "$kept/${{each##*/}}" ]; then rm -rf "$each"; else mv -f "$each" "$kept/"; fi
done
rm -f /etc/rancher/k3s/config.yaml.d/90-i12e.yaml
sync
"""


def let_go(unit: str) -> str:
    """Given k3s or k3s-agent, return the script by which a host that was held starts again."""
    start = f"systemctl start --no-block {unit} 2>/dev/null || :"
    return f"set -eu; rm -f {STATE}/hold {STATE}/proven.json; sync {STATE}; {start}\n"


def piece(size: int, name: str = "database", folder: str = FOLDER) -> str:
    """Given how many bytes of a file of a folder are there, return the script that adds the piece that it is given.

    What is behind that size is cut off first; it prints the size afterwards.
    """
    return f"set -eu; umask 077; cd {folder}; touch {name}; truncate -s {size} {name}; cat >>{name}; stat -c %s {name}"


def write(name: str, size: int, folder: str = FOLDER) -> str:
    """Given a file's name, size and folder, return the script that writes it there whole, from its input."""
    return (
        f"set -eu; umask 077; cd {folder}; cat >{name}.new; "
        f'[ "$(wc -c <{name}.new)" = {size} ] || {{ echo "{name} did not arrive whole" >&2; exit 1; }}; '
        f"sync {name}.new; mv -f {name}.new {name}; sync ."
    )


def unpack(path: str, stamp: str) -> str:
    """Given a path and the time as text, return the script that puts path.tar in its place, and keeps what is there.

    A path on a file system of its own cannot be renamed: there the files are put over what is there.
    """
    quoted = shlex.quote(path.rstrip("/"))
    return f"""
set -eu; umask 022
path={quoted}; inside={shlex.quote(path.strip("/"))}; parent=$(dirname "$path"); new=$parent/.i12e-restore-{stamp}
more=; for flag in --xattrs --acls; do tar $flag --version >/dev/null 2>&1 && more="$more $flag"; done
mkdir -p "$parent"
if mountpoint -q "$path" 2>/dev/null; then
    tar -xpf {FOLDER}/path.tar $more --numeric-owner -C /
else
    rm -rf "$parent"/.i12e-restore-*
    mkdir -m 700 "$new"
    tar -xpf {FOLDER}/path.tar $more --numeric-owner -C "$new"
    if [ -e "$path" ]; then mv -f "$path" "$path.before-{stamp}"; fi
    mv -f "$new/$inside" "$path"
    rm -rf "$new"
fi
sync
rm -f {FOLDER}/path.tar
"""


def has(name: str) -> str:
    """Given a file's name, return the script that prints how many bytes of it are there."""
    return f"cd {FOLDER} 2>/dev/null && stat -c %s {name} 2>/dev/null || echo 0"


def staged(sha256: str) -> str:
    """Given a hash, return the script that writes down that the database is there whole; status 8 if it is another."""
    return f"""
set -eu; cd {FOLDER}; sync database
[ "$(sha256sum database | cut -c1-64)" = {sha256} ] || exit 8
grep -q '^{STAGED} ' progress 2>/dev/null || printf '{STAGED} %s\\n' "$(date +%s)" >>progress; sync progress
"""


class Do(Protocol):
    """Who runs a script on a host."""

    def __call__(self, script: str, stdin: bytes = b"") -> str:
        """Given a script and its input, return its output; raise if it fails."""
        ...


def send(
    do: Do, file: IO[bytes], size: int, meter: Callable[[int, int], None],
    name: str = "database", folder: str = FOLDER, there: int = 0,
) -> bool:  # fmt: skip
    """Given who runs scripts on a host, a file of so many bytes and who is told how many have come, send it in pieces.

    It is NAME in a folder there, which has the first `there` bytes of it. Return whether all of it came.
    """
    file.seek(there)
    while there < size and (block := file.read(_PIECE)):
        there = int(do(piece(there, name, folder), block))
        meter(there, size)
    return there == size


def note(step: str) -> str:
    """Given a step that was done, return the script that writes it down."""
    return f"cd {FOLDER} && printf '%s %s\\n' {step} \"$(date +%s)\" >>progress && sync progress"

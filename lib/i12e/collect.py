"""What a backup takes from hosts: the scripts that they run, and how their answers are read.

Sources: k3s-docs cli/etcd-snapshot.md and datastore/backup-restore.md; k3s pkg/etcd/snapshot.go, for the exit status of
`etcd-snapshot save`, which proves nothing. What k3s had to name is opened and loses its name before a byte of it is
read; a timer on the host removes it where we did not come so far.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from i12e.bundle import CRASH, ETCD, QUIESCED, SQLITE, Summing, Sums
from i12e.damaged import Damaged
from i12e.facts import STATE

AUTO, STOPPED = "auto", "stopped"
SNAPSHOTS = "/var/lib/rancher/k3s/server/db/snapshots"
TOKENS = f"{STATE}/tokens"
_DATABASE = "/var/lib/rancher/k3s/server/db/state.db"
_CLEAN = 600  # seconds after which a host removes what we left there
_HEADER = 4_000_000  # bytes that may come before the files
SENTINEL = "i12e-sentinel"

_PRELUDE = r"""
set -u; umask 077; export PATH=/opt/bin:/usr/local/bin:$PATH
fail() { printf '%s\n' "$*" >&2; exit 1; }
say() { printf '%s ' "$1"; base64 -w0; echo; }
"""

# The end of both: files 3 and 4 are open and have no name any more.
_SEND = r"""
send() { printf 'file %s %s %s\n' "$1" "$(stat -Lc %s "/dev/fd/$2")" "$(sha256sum "/dev/fd/$2" | cut -c1-64)"; }
later() { systemd-run --quiet --collect --on-active="$1" --unit="$2" /bin/sh -c "$3" >&2 || fail "no timer: $2"; }
never() { systemctl stop "$1.timer" >/dev/null 2>&1; }
trap clean_up EXIT; trap 'exit 1' HUP INT TERM PIPE
"""

_ETCD = r"""
clean_up() { rm -f "$dir/i12e-$id"-*; }
[ -d "$dir" ] || mkdir -p -m 700 "$dir"
find "$dir" -maxdepth 1 -name 'i12e-*' -mmin +10 -exec rm -f {} +
later "$clean" "i12e-backup-$id" "rm -f '$dir'/i12e-$id-*"
said=$(k3s etcd-snapshot save --name "i12e-$id" --etcd-snapshot-compress=false 2>&1) || fail "k3s: $said"
set -- "$dir/i12e-$id"-*
[ -f "$1" ] || fail "k3s said that it saved a snapshot, and there is none: $(printf '%s' "$said" | tail -n 1)"
[ $# = 1 ] || fail "k3s saved several snapshots of one name: $*"
case $1 in *.part | *.tmp) fail "k3s did not complete its snapshot: $1" ;; esac
k3s etcd-snapshot ls -o json 2>/dev/null | say listing
exec 3<"$1"
name=${1##*/}
rm -f -- "$1"
echo etcd-snapshot | say method
send "$name" 3
echo
cat /dev/fd/3
exec 3<&-
k3s etcd-snapshot delete "$name" >/dev/null 2>&1
never "i12e-backup-$id"
exit 0
"""

_SQLITE = r"""
copy=$(dirname "$db")/i12e-$id.db
stopped=
again() { [ -z "$stopped" ] || systemctl start --no-block k3s; stopped=; }
clean_up() { again; rm -f "$copy" "$copy"-*; }
find "$(dirname "$db")" -maxdepth 1 -name 'i12e-*.db*' -mmin +10 -exec rm -f {} +
later "$clean" "i12e-backup-$id" "rm -f '$copy' '$copy'-*"
[ -f "$db" ] || fail "there is no $db"
method=sqlite-online
if [ "$how" = auto ] && command -v sqlite3 >/dev/null; then
    sqlite3 -cmd '.timeout 60000' "$db" ".backup '$copy'" >&2 || fail "sqlite3 cannot copy $db"
elif [ "$how" = auto ] && command -v python3 >/dev/null; then
    python3 - "$db" "$copy" >&2 <<'END' || fail "python3 cannot copy $db"
import sqlite3, sys
source, target = (sqlite3.connect(name, timeout=60) for name in sys.argv[1:])
source.backup(target)
END
else
    # Nothing here can copy a live database: the shortest stop of k3s. Pods go on meanwhile (KillMode=process).
    method=sqlite-stopped
    later 120 "i12e-backup-start-$id" 'systemctl start k3s'
    stopped=yes
    systemctl stop k3s || fail "k3s does not stop"
    cp --reflink=auto "$db" "$copy" || fail "$db cannot be copied"
    if [ -s "$db-wal" ]; then cp --reflink=auto "$db-wal" "$copy-wal" || fail "$db-wal cannot be copied"; fi
    case $(systemctl is-active k3s) in
    inactive | failed) ;;
    *) fail "k3s was started while $db was being copied" ;;
    esac
    again
    never "i12e-backup-start-$id"
fi
echo "$method" | say method
exec 3<"$copy"
send state.db 3
wal=
if [ -f "$copy-wal" ]; then wal=yes; exec 4<"$copy-wal"; send state.db-wal 4; fi
rm -f -- "$copy" "$copy"-*
echo
cat /dev/fd/3
[ -z "$wal" ] || cat /dev/fd/4
never "i12e-backup-$id"
exit 0
"""


def database_script(kind: str, backup: str, how: str = AUTO, folder: str = SNAPSHOTS) -> str:
    """Given the datastore's kind, a backup's id, how SQLite is copied and where k3s has its snapshots, return a script.

    Its output is for a Receiver.
    """
    settings = {"id": backup, "how": how, "dir": folder, "db": _DATABASE, "clean": str(_CLEAN)}
    start = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return _PRELUDE + start + _SEND + {ETCD: _ETCD, SQLITE: _SQLITE}[kind]


@dataclass(frozen=True)
class Announced:
    """A file that is to come."""

    name: str
    sums: Sums


class Receiver:
    """Takes what a database script sends: a header of lines, then the files that it names, into files of ours."""

    def __init__(self, into: Sequence[IO[bytes]]) -> None:
        self.said: dict[str, str] = {}
        self.files: list[Announced] = []
        self._into = into
        self._header = bytearray()
        self._open = False
        self._at = 0
        self._sums = Summing()

    def take(self, block: bytes) -> None:
        """Given the next bytes, put them where they belong; raise Damaged if they are more than was announced."""
        if not self._open:
            self._header += block
            head, end, rest = bytes(self._header).partition(b"\n\n")
            if not end:
                if len(self._header) > _HEADER:
                    raise Damaged("the host sends something else than a snapshot")
                return
            self._read_header(head.decode(errors="replace"))
            self._open, block = True, rest
        while block:
            if self._at >= len(self.files):
                raise Damaged("the host sent more than it announced")
            left = self.files[self._at].sums.size - self._sums.size
            piece, block = block[:left], block[left:]
            self._into[self._at].write(piece)
            self._sums.add(piece)
            self._close_full()

    def end(self) -> None:
        """Say that all has come; raise Damaged if it has not, or is not what the host had read."""
        if not self._open:
            raise Damaged("the host sent nothing")
        if self._at < len(self.files):
            raise Damaged(f"{self.files[self._at].name} did not arrive whole")

    def _close_full(self) -> None:
        while self._at < len(self.files) and self._sums.size == self.files[self._at].sums.size:
            if self._sums.sums() != self.files[self._at].sums:
                raise Damaged(f"{self.files[self._at].name} is not what the host had read")
            self._into[self._at].flush()
            self._at += 1
            self._sums = Summing()

    def _read_header(self, text: str) -> None:
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "file":
                name, size, sha256 = value.split(" ")
                self.files.append(Announced(name, Sums(int(size), sha256)))
            else:
                self.said[key] = base64.b64decode(value).decode(errors="replace").strip()
        if not self.files or len(self.files) > len(self._into):
            raise Damaged("the host sends another number of files than it should")
        for each in self.files:
            if each.sums.size == 0 and not each.name.endswith("-wal"):
                raise Damaged(f"{each.name} is empty")
        self._close_full()


def check_listed(listing: str, name: str, size: int) -> str:
    """Given what `etcd-snapshot ls -o json` said, a snapshot's name and size, return the token's hash that it tells.

    "" where it tells none. Raise Damaged if k3s does not call the snapshot complete, or knows it with another size.
    """
    try:
        items = json.loads(listing)["items"]
        found = next(item for item in items if item["spec"]["snapshotName"] == name)
        status = found["status"]
    except (ValueError, KeyError, TypeError, StopIteration):
        raise Damaged(f"k3s does not list its snapshot {name}") from None
    if not status.get("readyToUse"):
        raise Damaged(f"k3s does not call its snapshot complete: {status.get('error') or 'it says not why'}")
    if int(status.get("size", -1)) != size:
        raise Damaged(f"k3s lists its snapshot with {status.get('size')} bytes, and it has {size}")
    annotations = found["metadata"].get("annotations") or {}
    return str(annotations.get("etcd.k3s.cattle.io/snapshot-token-hash", ""))


# --- files

_FILES = (
    "etc/rancher/k3s etc/rancher/node etc/i12e oem/config.ign var/lib/i12e/proven.json "
    "var/lib/rancher/k3s/server/token var/lib/rancher/k3s/server/agent-token var/lib/rancher/k3s/server/node-token "
    "var/lib/rancher/k3s/server/manifests var/lib/rancher/k3s/agent/pod-manifests var/lib/i12e/tokens "
    "var/lib/rancher/k3s/agent/etc/containerd/*.tmpl"
)
_TAR = rf"""
token=/var/lib/rancher/k3s/server/token
if [ -f "$token" ]; then
    hash=$(tr -d '\n' <"$token" | sed 's/.*://' | tr -d '\n' | sha256sum | cut -c1-12)
    mkdir -p -m 700 {TOKENS}
    [ -e "{TOKENS}/$hash" ] || {{ cp "$token" "{TOKENS}/$hash.new" && mv "{TOKENS}/$hash.new" "{TOKENS}/$hash"; }}
fi
cd /; set --
for each in {_FILES}; do if [ -e "$each" ]; then set -- "$@" "$each"; fi; done
tar -cf - --numeric-owner --ignore-failed-read "$@"
status=$?; [ $status -le 1 ] || exit $status
"""


def files_script() -> str:
    """Return the script that sends, as a tar, what a host has and the datastore has not: tokens, configs, manifests.

    A server keeps each token that it ever had, under its hash: a snapshot opens with the token of its day alone.
    """
    return _PRELUDE + _TAR


K3S_CONFIG = "etc/rancher/k3s/config.yaml"
"""The config of a host's k3s, as a tar of its files names it."""
_SETTING = re.compile(r"^([a-z-]+):[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


def k3s_settings(text: str) -> dict[str, str]:
    """Given k3s's config as i12e writes it, return its settings of one line each."""
    return {key: value.strip('"') for key, value in _SETTING.findall(text)}


TOKEN_SCRIPT = "cat /var/lib/rancher/k3s/server/token"  # noqa: S105  # how it is read

ABSENT, BEFORE_FAILED, AFTER_FAILED = 44, 45, 46


def path_script(path: str, before: str | None, after: str | None) -> str:
    """Given a path of a host and the commands around its reading, return the script that sends it as a tar.

    Exit statuses of its own: ABSENT, BEFORE_FAILED (nothing was read), AFTER_FAILED (it was).
    """
    quoted = shlex.quote(path.strip("/"))
    run_after = f"sh -c {shlex.quote(after)} >&2 </dev/null" if after else "true"
    run_before = f"sh -c {shlex.quote(before)} >&2 </dev/null" if before else "true"
    return f"""{_PRELUDE}
cd /
[ -e {quoted} ] || exit {ABSENT}
done=
finish() {{ if [ -z "$done" ]; then done=yes; {run_after} || return 1; fi; }}
trap finish EXIT; trap 'exit 1' HUP INT TERM PIPE
{run_before} || {{ finish 2>/dev/null; exit {BEFORE_FAILED}; }}
more=; for flag in --xattrs --acls; do tar $flag --version >/dev/null 2>&1 && more="$more $flag"; done
tar -cf - $more --numeric-owner --sparse --one-file-system --warning=no-file-changed -- {quoted}
status=$?
[ $status -le 1 ] || {{ finish 2>/dev/null; exit $status; }}
finish || exit {AFTER_FAILED}
"""


def consistency(before: str | None) -> str:
    """Given the command before a path is read, return how it is read, as the manifest says it."""
    return QUIESCED if before else CRASH


# --- the live cluster

# One curl for all: kubectl takes a tenth of a second for each (docs/decisions/0007).
_ASK = r"""
api=$(sed -n 's/^ *server: *//p' /etc/rancher/k3s/k3s.yaml | head -n 1)
tls=/var/lib/rancher/k3s/server/tls
sed "s|.*|url = \"$api&\"|" | curl -s -K - -m 60 --noproxy '*' --cacert $tls/server-ca.crt \
    --cert $tls/client-admin.crt --key $tls/client-admin.key -H "Accept: $accept" -w '\n@i12e %{http_code}\n'
exit 0
"""
JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
_ANSWER = re.compile(r"\n@i12e (\d+)\n")


def asking(metadata: bool = False) -> str:
    """Return the script that asks the API for what is at each path of its input, a line each.

    `metadata`: of the objects of a list nothing else; only lists can be asked for so.
    """
    return f"{_PRELUDE}accept={shlex.quote(METADATA if metadata else JSON)}\n{_ASK}"


def answers(paths: Iterable[str], output: str) -> dict[str, str]:
    """Given the paths and what that script printed, return what is at each path, but for what was not to be had."""
    found = _ANSWER.split(output)
    return {path: text for path, text, code in zip(paths, found[::2], found[1::2], strict=False) if code == "200"}


CORE, GROUPS = "/api/v1", "/apis"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
NAMESPACE = "/api/v1/namespaces/kube-system"
FIRST = (NAMESPACE, CORE, GROUPS, SERVICES)
KINDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True)
class Resource:
    """A resource of the API that is listed, and where."""

    group: str
    plural: str
    path: str


def groups(said: Mapping[str, str]) -> list[str]:
    """Given what is at FIRST, return the paths of the groups that the cluster itself keeps, at their first version."""
    elsewhere = {
        item["spec"]["group"] for item in _items(said.get(SERVICES, "")) if (item.get("spec") or {}).get("service")
    }
    found = _json(said.get(GROUPS, "")).get("groups") or []
    return [f"/apis/{each['preferredVersion']['groupVersion']}" for each in found if each.get("name") not in elsewhere]


def resources(said: Mapping[str, str]) -> list[Resource]:
    """Given what is at CORE and at the groups, return what can be listed."""
    found: list[Resource] = []
    for path in said:
        if path == CORE or path.startswith("/apis/"):
            group = "" if path == CORE else path.split("/")[2]
            listed = (each for each in _json(said[path]).get("resources") or () if "list" in (each.get("verbs") or ()))
            names = [each["name"] for each in listed if "/" not in each["name"]]
            found += [Resource(group, name, f"{path}/{name}") for name in names]
    return found


_REMAINING = re.compile(r'"remainingItemCount":\s*(\d+)')


def custom(said: Mapping[str, str]) -> set[tuple[str, str]]:
    """Given what is at KINDS, return the group and the plural of each custom resource."""
    names = [str((item.get("metadata") or {}).get("name", "")) for item in _items(said.get(KINDS, ""))]
    return {(group, plural) for plural, _, group in (name.partition(".") for name in names)}


FIRST_ONE = "?limit=1"
"""What to put behind a list's path so that its first piece tells how long it is."""


def count(head: str) -> int | None:
    """Given how a list of one begins, return how many there are; None if it does not tell."""
    before, found, items = head.partition('"items":')
    if not found:
        return None
    if items.lstrip().startswith(("[]", "null")):
        return 0
    remaining = _REMAINING.search(before)
    if remaining:
        return 1 + int(remaining[1])
    return None if re.search(r'"continue":\s*"[^"]', before) else 1


def whole_count(text: str) -> int | None:
    """Given a whole list, return how many there are; None if it is none."""
    items = _json(text).get("items", [])
    return len(items) if isinstance(items, list) and text else None


def uid(said: Mapping[str, str]) -> str:
    """Given what is at NAMESPACE, return its UID, "" if the cluster did not tell."""
    return str((_json(said.get(NAMESPACE, "")).get("metadata") or {}).get("uid", ""))


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _items(text: str) -> Iterator[dict[str, Any]]:
    yield from _json(text).get("items") or ()


# --- the sentinel


@dataclass(frozen=True)
class Sentinel:
    """A Secret with a value that no other backup has: what has it was made for this one, and can be decrypted."""

    name: str
    value: str = field(repr=False)
    namespace: str = "kube-system"
    key: str = "value"

    def manifest(self) -> str:
        """Return it for kubectl."""
        labels = {"app.kubernetes.io/managed-by": "i12e", "i12e/sentinel": "true"}
        metadata = {"name": self.name, "namespace": self.namespace, "labels": labels}
        data = {self.key: base64.b64encode(self.value.encode()).decode()}
        return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    def fields(self) -> dict[str, str]:
        """Return it as an index has it."""
        return {"namespace": self.namespace, "name": self.name, "key": self.key, "value": self.value}

    def is_in(self, said: str) -> bool:
        """Given what kubectl says of it as JSON, tell whether it has its value."""
        try:
            value = base64.b64decode(_json(said).get("data", {})[self.key])
        except (KeyError, TypeError, ValueError):
            return False
        return value == self.value.encode()

    @property
    def row(self) -> str:
        """Its key in the datastore."""
        return f"/registry/secrets/{self.namespace}/{self.name}"


PUT_SENTINEL = f"{_PRELUDE}exec k3s kubectl create -f -\n"


LIST_SENTINELS = f"{_PRELUDE}exec k3s kubectl -n kube-system get secrets -l i12e/sentinel=true -o json\n"
_LEFT = 3600.0  # seconds after which nobody is at work any more who made one


def left_sentinels(listed: str, now: float) -> list[str]:
    """Given what LIST_SENTINELS printed and the time, return the names of those that a killed backup left."""
    found = []
    for item in _items(listed):
        metadata = item.get("metadata") or {}
        with suppress(ValueError):
            made = dt.datetime.fromisoformat(str(metadata.get("creationTimestamp", ""))).timestamp()
            if now - made > _LEFT:
                found.append(str(metadata.get("name", "")))
    return found


def drop_sentinels(names: Iterable[str]) -> str:
    """Given names of sentinels, return the script that removes them."""
    listed = " ".join(shlex.quote(name) for name in names)
    return f"{_PRELUDE}exec k3s kubectl -n kube-system delete secret {listed} --ignore-not-found\n"

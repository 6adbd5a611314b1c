"""What a drill does on a host: a backup's database under a k3s that reaches nobody and that nobody reaches.

All of it is one unit of systemd's, with a network of its own that ends in the unit, and with a view of the disk in
which all but one folder is read-only: /var/lib/rancher and /etc/rancher are folders in that one, so that k3s, and
whoever asks it, find everything where they always do. What the host itself has of k3s is neither seen nor changed. The
unit and the folder end with the session of whoever drills.

Before the database is touched, the unit tries every address that the host itself reaches: one that answers ends it.

Sources: systemd.exec(5), network_namespaces(7); k3s-docs cli/server.md; for the k3s itself, see restoring.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence

from i12e import restoring
from i12e.facts import STATE
from i12e.programs import Done
from i12e.remote import Remote, Target
from i12e.restoring import CONVERT, ETCD, Job
from i12e.secrets import Secret

FOLDER = f"{STATE}/drill"
UNIT = "i12e-drill"
FENCED = "fenced"
NODE = "drill"
_ADDRESS, _ADDRESS6 = "192.0.2.1", "2001:db8::1"  # of networks that are for documents (RFC 5737, RFC 3849)
_QUOTA = 8 << 30  # bytes, etcd's own highest: a cluster that needs it has it in its own config
_AT_BOOT = "/etc/tmpfiles.d/i12e-drill.conf"  # after a power failure
_LOCK = "/run/i12e-drill"
_LONGEST = "6h"
# By which root could look out of its namespaces: by /proc/1/root, nsenter, a device.
_WITHOUT = (
    *("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_MKNOD"),
    *("CAP_SYS_CHROOT", "CAP_SYS_TIME", "CAP_DAC_READ_SEARCH"),
)
_SOCKETS = (
    *("dbus", "containerd", "docker.sock", "k3s", "podman", "crio", "udev", "host"),
    # Not all of it: systemd needs the folder itself for the unit.
    *("systemd/private", "systemd/notify", "systemd/cgroups-agent", "systemd/io.system.ManagedOOM", "systemd/userdb"),
)
_KEPT = (
    *("cluster-cidr", "service-cidr", "cluster-dns", "cluster-domain"),
    *("secrets-encryption", "secrets-encryption-provider"),
)
"""The settings of a server without which an API server does not have what the database has."""

Outs = Sequence[tuple[str, int]]
"""Addresses or names, and ports, that a drill must not reach."""

CLEAN = f"""
# Nothing in there is to be saved, and its shell heeds no signal before what it waits for has ended.
pid=$(systemctl show -p MainPID --value {UNIT} 2>/dev/null)
children=
[ "${{pid:-0}}" = 0 ] || read -r children <"/proc/$pid/task/$pid/children"
for each in $children; do kill -9 "$each" 2>/dev/null; done
systemctl stop {UNIT} 2>/dev/null
systemctl reset-failed {UNIT} 2>/dev/null
rm -rf {FOLDER}
rm -f {_AT_BOOT}
rmdir /var/lib/rancher /etc/rancher {STATE} 2>/dev/null
[ ! -e {FOLDER} ]
"""
"""Removes all that a drill is on a host; status 1 if anything stays."""

CLAIM = rf"""
for each in bash flock; do command -v $each >/dev/null || {{ echo "it lacks $each" >&2; exit 1; }}; done
exec bash -c '
exec 9>{_LOCK}.lock
if ! flock -n 9; then echo "busy $(head -n 1 {_LOCK} 2>/dev/null)"; exit 0; fi
printf "%s\n" "$1" >{_LOCK}
clean() {{ {CLEAN} }}
trap clean EXIT; trap "exit 1" HUP INT TERM PIPE
clean
umask 077
mkdir -p /etc/tmpfiles.d && printf "R! %s\nr! %s\n" {FOLDER} {_AT_BOOT} >{_AT_BOOT} || exit 1
mkdir -p {STATE} && chmod 700 {STATE} && mkdir {FOLDER} && cd {FOLDER} && mkdir bin rancher etc etc/k3s || exit 1
mkdir -p -m 755 /var/lib/rancher /etc/rancher || exit 1
echo held
while read -t 60 -r _; do :; done' drill """
"""Held by whoever drills, who is named behind it: begins with an empty folder, and ends with none."""

START = f"""
set -eu
systemctl stop {UNIT} 2>/dev/null || :
systemctl reset-failed {UNIT} 2>/dev/null || :
rm -f {FOLDER}/failed {FOLDER}/progress
readlink /proc/self/ns/net /proc/self/ns/mnt >{FOLDER}/outer
systemd-run --quiet --unit={UNIT} \
    -p PrivateNetwork=yes -p PrivateTmp=yes -p ProtectHome=yes -p ProtectSystem=strict \
    -p ReadWritePaths='{FOLDER} /var/lib/rancher /etc/rancher' \
    -p BindPaths='{FOLDER}/rancher:/var/lib/rancher {FOLDER}/etc:/etc/rancher' \
    -p NoNewPrivileges=yes -p CapabilityBoundingSet='~{" ".join(_WITHOUT)}' \
    -p PrivateDevices=yes -p PrivateIPC=yes -p ProtectKernelTunables=yes -p ProtectControlGroups=yes \
    -p InaccessiblePaths='{" ".join(f"-/run/{name}" for name in _SOCKETS)}' -p OOMScoreAdjust=1000 \
    -p RuntimeMaxSec={_LONGEST} -p KillMode=mixed -p TimeoutStopSec=15 -p LimitNOFILE=1048576 -p Nice=5 \
    -- /bin/sh {FOLDER}/"""
"""Starts the script of the name that stands behind it."""

LOOK = restoring.look(FOLDER, UNIT, UNIT)

_REACHED = r"""
reached() {
    set -- "http://$1:$2/" -s -g -o /dev/null -m 4 --connect-timeout 3 --noproxy '*'
    took=$(curl "$@" -w '%{time_connect}' 2>/dev/null)
    case $took in '' | 0 | 0[.,]000000) return 1 ;; esac
}
"""

_OUTSIDE = rf"""
{_REACHED}
look() {{
    address=$1
    case $1 in
    *:*) address="[$1]" ;;
    *[!0-9.]*) address=$(getent ahosts "$1" | awk 'NR == 1 {{ print $1 ~ /:/ ? "[" $1 "]" : $1 }}') ;;
    esac
    [ -z "$address" ] || ! reached "$address" "$2" || echo "$address $2"
}}
while read -r host port; do look "$host" "$port" & done
wait
exit 0
"""

# The k3s is a child of ours: systemd is not to be reached from in here.
_BY_US = r"""
child=
stop_quiet() {
    [ -z "$child" ] || { kill "$child" 2>/dev/null; wait "$child" 2>/dev/null; }
    child=
}
start_quiet() { "$@" >>k3s.log 2>&1 & child=$!; }
quiet_lives() {
    ! grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$child/status" || return 0
    wait "$child"
    ended=$?
    [ $ended -lt 128 ] || fail "k3s was killed (status $ended)"
    return 1
}
quiet_says() { tail -n 1 k3s.log 2>/dev/null | tail -c 300; }
held() { :; }
trap 'stop_quiet; exit 0' TERM
"""

_BEGIN = rf"""
exec >>log 2>&1
k3s=$folder/bin/k3s
export PATH=$folder/bin:$PATH
for each in net mnt; do
    own=$(readlink "/proc/self/ns/$each") && ! grep -qxF "$own" outer ||
        fail "this systemd gives the drill no $each of its own"
done

# k3s looks for a way out and for its own address: both end in here.
ip link set lo up && ip link add drill0 type veth peer name drill1 && ip link set drill0 up && ip link set drill1 up &&
    ip address add {_ADDRESS}/24 dev drill0 && ip route add default dev drill0 || fail "no network can be made for it"
ip -6 address add {_ADDRESS6}/64 dev drill0 nodad 2>/dev/null && ip -6 route add default dev drill0
"""

_FENCE = rf"""
{_REACHED}
rm -f reached
while read -r address port; do
    {{ ! reached "$address" "$port" || echo "$address port $port" >>reached; }} &
done <outs
wait
[ ! -s reached ] || fail "it has a way out: it reaches $(head -n 1 reached)"
step {FENCED}
"""

_STAY = """
wait "$child"
fail "k3s ended (status $?): $(quiet_says)"
"""


def outside(outs: Outs) -> tuple[str, bytes]:
    """Given what must not be reached, return the script, and its input, that prints what of it the host reaches.

    A line each: a numeric address, and the port.
    """
    return _OUTSIDE, "".join(f"{host} {port}\n" for host, port in outs).encode()


def script(job: Job) -> str:
    """Given a job, return the script that proves that nothing is reached, and puts the database under a k3s."""
    head = f"#!/bin/sh\n{restoring.settings(job, FOLDER)}{restoring.PRELUDE}{_BY_US}{_BEGIN}"
    return f'{head}{_FENCE}whole "$sha256"\n{restoring.PUT}{_STAY}'


def control(job: Job) -> str:
    """Given a job, return the script that starts the same k3s on nothing: whether it does so here at all."""
    settings = restoring.settings(job, FOLDER, ("folder", "server", "limit"))
    head = f"#!/bin/sh\n{settings}{restoring.PRELUDE}{_BY_US}{_BEGIN}"
    flag = "--cluster-init" if job.kind in (ETCD, CONVERT) else ""
    return f'{head}{restoring.SERVE}rm -rf "$server"\nset -- {flag}\nquiet "$@"\nstep {restoring.READY}\n{_STAY}'


def config(token: Secret, theirs: Mapping[str, str]) -> bytes:
    """Given the backup's token and the settings of the server that it is from, return k3s's config for the drill.

    Of the other one only what the database has to be read by: files that it names, and hosts, are not here.
    """
    said = {name: theirs[name] for name in _KEPT if name in theirs}
    wanted: dict[str, object] = {
        name: value == "true" if value in ("true", "false") else value for name, value in said.items()
    }
    # An address of each family that the cluster has, the first one first.
    ranges = ",".join(value for name, value in said.items() if name.endswith("-cidr")).split(",")
    addresses = list(dict.fromkeys(_ADDRESS6 if ":" in each else _ADDRESS for each in ranges))
    wanted |= {
        "token": token.reveal(),
        "node-name": NODE,
        "node-ip": ",".join(addresses),
        "advertise-address": addresses[0],
        "etcd-disable-snapshots": True,
        "etcd-arg": [f"quota-backend-bytes={_QUOTA}"],
    }
    return json.dumps(wanted, indent=1).encode() + b"\n"


HAS = r"""
export PATH=/opt/bin:/usr/local/bin:$PATH
uname -m
awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo
for each in systemd-run curl ip nsenter jq; do command -v $each >/dev/null || printf '%s ' $each; done; echo
k3s=$(command -v k3s) && timeout 20 "$k3s" --version 2>/dev/null | head -n 1 | cut -d' ' -f3
exit 0
"""
"""Prints a host's processor, its free memory in KB, the programs that it lacks, and which k3s it has, a line each."""

TAKE = f'set -eu; PATH=/opt/bin:/usr/local/bin:$PATH; ln -s "$(command -v k3s)" {FOLDER}/bin/k3s'
"""Takes the k3s that the host has."""


def fetch(url: str, sha256: str) -> str:
    """Given where k3s is and its hash, return the script by which the host fetches it."""
    return f"""
set -eu; cd {FOLDER}/bin
curl -fsSL --retry 3 --connect-timeout 20 -o k3s.new {shlex.quote(url)}
[ "$(sha256sum k3s.new | cut -c1-64)" = {sha256} ] || {{ echo "what came has another hash" >&2; exit 1; }}
chmod 755 k3s.new; mv k3s.new k3s
"""


class Inside:
    """The drill's unit, to be asked as a host is: what is run by it, runs in there."""

    def __init__(self, host: Remote) -> None:
        self._host = host

    @property
    def target(self) -> Target:
        """The host."""
        return self._host.target

    def run(self, script: str, stdin: bytes = b"", limit: float = 60.0) -> Done:
        """See Remote."""
        return self._host.run(_inside(script), stdin, limit)

    def stream(self, script: str, take: Callable[[bytes], None], stdin: bytes = b"", quiet: float = 60.0) -> Done:
        """See Remote."""
        return self._host.stream(_inside(script), take, stdin, quiet)


def _inside(script: str) -> str:
    return f"""
pid=$(systemctl show -p MainPID --value {UNIT})
[ "${{pid:-0}}" != 0 ] || {{ echo "the drill has ended" >&2; exit 1; }}
export PATH=$PATH:{FOLDER}/bin
exec nsenter -t "$pid" -m -n -- sh -c {shlex.quote(script)}
"""

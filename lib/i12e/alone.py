"""A restore that a host ends by itself: what restoring.script() has put in place is proven there, without an operator.

Whoever stages such a restore lays one more file into its folder, `alone`, which has all that the proof needs. The unit
of that name is a part of every server's config, and does nothing while the file is not there. What it writes down is
what an operator's restore writes, so that one goes on where the other ended; the promotion is an operator's alone.
A failure stays under the hold, is in the journal and in `failed`, and is tried again by a restart of the unit.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from i12e import collect, proof, registry, restoring
from i12e.collect import Sentinel
from i12e.facts import STATE
from i12e.restoring import FOLDER, PROVEN, RELEASED, Job

UNIT = "i12e-restore-alone"
FILE = "alone"
ENDED = f"! [ -e {FOLDER}/{FILE} ]"
_SPARK = "spark"  # the folder beside ours in which what was fetched lies


class Wanted(NamedTuple):
    """How many objects of a resource have to be there: their prefix below /registry/, and where the API has them."""

    number: int
    prefix: str
    group: str
    plural: str


@dataclass(frozen=True)
class Proof:
    """What a host has to find before it believes that it has the cluster of a backup."""

    uid: str
    objects: Mapping[str, int]
    """Objects by their prefix below /registry/, as the manifest has them."""
    sentinel: Sentinel
    hosts: Sequence[str]
    """The hosts whose machines may be new ones: the cluster learns their passwords anew."""
    paths: Sequence[str] = ()
    """The paths that come back on this host, each from path-N.tar, the first one from path-1.tar."""


def tar(number: int) -> str:
    """Given the number of a path, from 1 on, return the name of its tar in the folder."""
    return f"path-{number}.tar"


def wanted(objects: Mapping[str, int]) -> list[Wanted]:
    """Given a manifest's objects, return what has to be there while no controller runs, and can be asked for."""
    found = []
    for prefix, number in sorted(objects.items()):
        resource = registry.RESOURCES.get(prefix)
        if resource is None and "." in prefix.partition("/")[0] and prefix.count("/") == 1:
            resource = registry.Resource(*prefix.split("/"))
        if resource is not None and resource.plural not in proof.VOLATILE:
            found.append(Wanted(number - (prefix == "secrets"), prefix, resource.group, resource.plural))
    return found


def script(job: Job, shown: Proof) -> str:
    """Given a job and what proves it, return the script that the unit runs."""
    sentinel = shown.sentinel
    settings = {
        "folder": FOLDER, "backup": job.backup, "uid": shown.uid,
        "sentinel": f"/api/v1/namespaces/{sentinel.namespace}/secrets/{sentinel.name}", "key": sentinel.key,
        "value": base64.b64encode(sentinel.value.encode()).decode(),
    }  # fmt: skip
    lines = "".join(
        f"{each.number} {each.prefix} {each.group or '-'} {each.plural}\n" for each in wanted(shown.objects)
    )
    parts = {
        "@SETTINGS@": "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()),
        "@WANTED@": lines,
        "@NEEDED@": "|".join(proof.NEEDED),
        "@PASSWORDS@": " ".join(shlex.quote(f"{name}.node-password.k3s") for name in shown.hosts),
        "@PATHS@": "".join(_path(number, path, job) for number, path in enumerate(shown.paths, 1)),
    }
    text = _SCRIPT
    for name, value in parts.items():
        text = text.replace(name, value)
    return text


def _path(number: int, path: str, job: Job) -> str:
    """Return what puts a path back, once: its tar is given another name, which unpack() removes."""
    name = tar(number)
    unpack = restoring.unpack(path, restoring.stamp(job))
    failed = shlex.quote(f"{path} cannot be put back: the journal says why")
    return (
        f"if ! done_ {name}; then\n    ln -f {name} path.tar || fail {failed}\n"
        f"    sh <<'I12E' || fail {failed}\n{unpack}\nI12E\n    step {name}\nfi\n"
    )


_SCRIPT = rf"""#!/bin/sh
# Made by i12e: ends the restore that was staged on this host, without an operator.
@SETTINGS@
{restoring.PRELUDE}{restoring.BY_SYSTEMD}
# Whoever holds this host for another reason is heeded. None is a power failure between the release and its note.
heed() {{
    if [ -e {STATE}/hold ]; then
        case $(head -n 1 {STATE}/hold) in
        "restore of $backup "*) ;;
        *) fail "it is held for another reason: $(head -n 1 {STATE}/hold)" ;;
        esac
    fi
}}

# The API as it is while nothing else runs.
ask() {{
    curl -s -f -m 60 --noproxy '*' --cacert "$tls/server-ca.crt" --cert "$tls/client-admin.crt" \
        --key "$tls/client-admin.key" -H "Accept: $accept" "$api$1" </dev/null
}}
count() {{
    ask "$1{collect.FIRST_ONE}" | jq -r '
        if has("items") | not then ""
        elif (.items | length) == 0 then 0
        elif .metadata.remainingItemCount then 1 + .metadata.remainingItemCount
        elif (.metadata.continue // "") != "" then "whole"
        else .items | length end'
}}
prove() {{
    api=$(sed -n 's/^ *server: *//p' /etc/rancher/k3s/k3s.yaml | head -n 1)
    tls=/var/lib/rancher/k3s/server/tls
    accept={collect.JSON}
    found=$(ask {collect.NAMESPACE} | jq -r '.metadata.uid')
    [ "$found" = "$uid" ] || fail "it serves another cluster: its kube-system is ${{found:-missing}}, the backup's $uid"
    found=$(ask "$sentinel" | jq -r --arg key "$key" '.data[$key]')
    [ "$found" = "$value" ] || fail "the Secret that was made for this backup does not open"
    groups=$(ask {collect.GROUPS} | jq -r '.groups[] | .name + " " + .preferredVersion.groupVersion')
    accept='{collect.METADATA}'
    missing='' counted=0
    while read -r least prefix group plural; do
        path={collect.CORE}/$plural
        if [ "$group" != - ]; then
            version=$(printf '%s\n' "$groups" | sed -n "s|^$group ||p")
            [ "$version" ] || continue
            path=/apis/$version/$plural
        fi
        there=$(count "$path")
        if [ "$there" = whole ]; then there=$(ask "$path" | jq -r '.items | length'); fi
        case $there in
        '' | *[!0-9]*)
            # What the cluster does not list any more cannot be counted.
            case $prefix in @NEEDED@) missing="$missing; it does not say how many $prefix it has" ;; esac
            ;;
        *)
            counted=$((counted + 1))
            [ "$there" -ge "$least" ] || missing="$missing; $prefix: the backup has $least, the cluster $there"
            ;;
        esac
    done <<'END'
@WANTED@END
    [ ! "$missing" ] || fail "it does not have all that was backed up: ${{missing#; }}"
    echo "$counted resources are counted, and have what $backup has"
}}

rm -f failed
heed
if ! done_ {PROVEN}; then
    until command -v k3s >/dev/null; do echo "waits for k3s to be installed"; sleep 5; done
    echo "restores $backup"
    sh run.sh || {{ cat failed >&2; exit 1; }}
    prove
    # A machine that is a new one has another password; k3s learns it anew.
    k3s kubectl -n kube-system delete secret @PASSWORDS@ --ignore-not-found ||
        fail "the passwords of the nodes cannot be forgotten"
    @PATHS@
    step {PROVEN}
    heed
fi
sh <<'I12E' || fail "the hold cannot be released"
{restoring.RELEASE}
I12E
done_ {RELEASED} || fail "the hold cannot be released"
echo "$backup is restored and proven: k3s starts; an operator's doit spark_deploy or restore promotes it"
rm -rf run.sh path-*.tar {STATE}/{_SPARK}
sync .
rm -f {FILE}
"""


def state() -> str:
    """Return the lines of a script that say, by a function tell(), how such a restore stands on a host."""
    return (
        f"if [ -e {FOLDER}/{FILE} ]; then echo yes | tell alone; fi\n"
        f"systemctl show -p ActiveState --value {UNIT} 2>/dev/null | tell alone_unit\n"
        f"journalctl -u {UNIT} -n 1 -o cat --no-pager 2>/dev/null | tail -c 300 | tell alone_last\n"
    )


def files(job: Job, shown: Proof) -> Iterable[tuple[str, bytes]]:
    """Given a job and what proves it, yield the files of its folder but for the database and the tars of paths."""
    yield "job", job.content()
    yield "run.sh", restoring.script(job).encode()
    yield FILE, script(job, shown).encode()  # last: from here on the unit does it

"""README.txt in each cluster's folder of a store: how a backup is opened with nothing of i12e, once i12e is no more.

The commands are those of docs/backup-format.md; tests/test_by_hand.py runs them, and sees that they are the same.
"""

from __future__ import annotations

NAME = "README.txt"

_TEXT = r"""These are backups of the Kubernetes cluster NAME (k3s), made by i12e.

You can open them with age, gzip, tar and sha256sum in any POSIX shell. What you need beside these is the private key,
a file with a line that begins with AGE-SECRET-KEY-1. No key is here. Whoever may write to this store could have
changed this text too: read the commands before you run them. i12e's docs/backup-format.md has them, explained.

  backups/ID/manifest.json     what a backup is; without it, or with "abandoned" in it, ID is no backup
  backups/ID/*.age             its parts, sealed by age; *.gz.age were compressed by gzip before
  marks/ID/*.json              what a later check found: "ok": false means that ID is bad
  lease.json, holds/ID/        who is at work, who still needs ID
  epoch.json                   since when this is the folder of the cluster as it was restored; not in the first one

0. Where things are. A cluster that was restored goes on in a folder of its own: the newest backups are in the one of
   NAME, NAME.e2, NAME.e3... with the highest number; what was before the restore is in the others.
   Copy the store's folder CLUSTER onto a disk first if it is elsewhere (aws s3 sync, rclone copy). What is opened
   below is secret and plain: choose a place that is yours, and remove it afterwards.

    umask 077
    store=/path/to/CLUSTER
    key=/path/to/key.txt
    work=/path/to/an/empty/folder
    mkdir -p "$work/hosts" "$work/cluster"

1. What there is. The newest one has the highest number; take that, unless it was found bad.

    field() {
        while IFS= read -r line; do
            case $line in
            ("  \"$1\": "*) line=${line#*: }; line=${line%,}; line=${line#\"}; printf '%s\n' "${line%\"}" ;;
            esac
        done <"$2"
    }
    newest=
    highest=0
    for manifest in "$store"/backups/*/manifest.json; do
        [ -z "$(field abandoned "$manifest")" ] || continue
        backup=${manifest%/manifest.json}
        number=$(field number "$manifest")
        found=
        mark=$store/marks/${backup##*/}/verified.json
        if [ -f "$mark" ]; then
            while IFS= read -r line; do case $line in (*'"ok": false'*) found='FOUND BAD' ;; esac; done <"$mark"
        fi
        echo "number $number: ${backup##*/} of $(field server "$manifest"), k3s $(field k3s "$manifest") $found"
        [ -n "$found" ] || [ "$number" -le "$highest" ] || { highest=$number; newest=$backup; }
    done
    [ -n "$newest" ] && cd "$newest" && echo "the newest: ${newest##*/}"

2. Whether its files are as they were stored. Each line has to end with OK.

    own=$(while IFS= read -r line; do
        case $line in ('  "sha256": '*) ;; (*) printf '%s\n' "$line" ;; esac
    done <manifest.json | sha256sum)
    [ "${own%% *}" = "$(field sha256 manifest.json)" ] && echo "manifest.json: OK" || echo "manifest.json: CHANGED"
    while IFS= read -r line; do
        case $line in
        ('      "name": "'*) line=${line%\"*}; name=${line##*\"} ;;
        ('      "sha256": "'*) line=${line%\"*}; printf '%s  %s\n' "${line##*\"}" "$name" ;;
        esac
    done <manifest.json | sha256sum -c -

3. Whether they belong together, by what was sealed with them. Again each line has to end with OK.

    age -d -i "$key" index.json.age >"$work/index.json"
    inside=
    while IFS= read -r line; do
        case $line in
        ('  "sealed": {') inside=yes ;;
        ('  }'*) inside= ;;
        ('    "'*) [ -z "$inside" ] || {
            line=${line%\"*}; name=${line#*\"}; printf '%s  %s\n' "${line##*\"}" "${name%%\"*}"; } ;;
        esac
    done <"$work/index.json" | sha256sum -c -
    essence() {
        name=
        while IFS= read -r line; do
            case $line in
            ('  "seconds": '*) line='  "seconds": 0.0,' ;;
            ('  "sha256": '*) [ -n "$1" ] || continue; line="  \"sha256\": \"$1\"" ;;
            ('      "name": '*) name=$line ;;
            ('      "size": '*) case $name in (*'"index.json.age",') line='      "size": 0,' ;; esac ;;
            ('      "sha256": '*) case $name in (*'"index.json.age",') line='      "sha256": "",' ;; esac ;;
            esac
            printf '%s\n' "$line"
        done <manifest.json | sha256sum
    }
    own=$(essence '')
    own=$(essence "${own%% *}")
    vouched=
    while IFS= read -r line; do
        case $line in ("    \"${own%% *}\""*) vouched=yes ;; esac
    done <"$work/index.json"
    [ -n "$vouched" ] && echo "manifest and index: OK" || echo "manifest and index: OF TWO BACKUPS"

4. The database, as k3s restores it.

    age -d -i "$key" database.gz.age | gzip -d >"$work/database"
    plain=
    inside=
    while IFS= read -r line; do
        case $line in
        ('    "database.gz.age": {') inside=yes ;;
        ('    }'*) inside= ;;
        ('      "sha256": "'*) [ -z "$inside" ] || { line=${line%\"*}; plain=${line##*\"}; } ;;
        esac
    done <"$work/index.json"
    [ "$plain  -" = "$(sha256sum <"$work/database")" ] && echo "database: OK" || echo "database: DAMAGED"

5. The hosts' files, a folder for each as from its /, extra paths among them; the cluster's own files and secrets.

    age -d -i "$key" hosts.tar.gz.age | gzip -d | tar -xpf - -C "$work/hosts"
    age -d -i "$key" cluster.tar.gz.age | gzip -d | tar -xpf - -C "$work/cluster"
    for part in path-*.tar.gz.age; do
        [ -f "$part" ] || continue
        host=${part#path-}
        age -d -i "$key" "$part" | gzip -d | tar -xpf - -C "$work/hosts/${host%-*}"
    done

6. The server token that the database opens with: the one whose hash the manifest names.

    for file in "$work"/hosts/*/var/lib/i12e/tokens/* "$work"/hosts/*/var/lib/rancher/k3s/server/token; do
        [ -f "$file" ] || continue
        read -r token <"$file"
        case $token in (K10*::*) token=${token#*::}; token=${token#*:} ;; esac
        hash=$(printf %s "$token" | sha256sum)
        case $hash in ("$(field token manifest.json)"*) printf '%s\n' "$token" >"$work/token" ;; esac
    done
    [ -s "$work/token" ] && echo "token: OK" || echo "token: MISSING"

7. Restoring, as root on the server that is to be the first one, with the k3s that the manifest names, or a newer one.
   $work/hosts has its /etc/rancher and /oem/config.ign. The manifest's "datastore" says which way. The lines are those
   of k3s's documentation ("Backup and Restore", "k3s etcd-snapshot").

  etcd:
    systemctl stop k3s                                        (on all servers)
    k3s server --cluster-reset --cluster-reset-restore-path=$work/database --token-file=$work/token
    systemctl start k3s
    then on each other server:  systemctl stop k3s; rm -rf /var/lib/rancher/k3s/server/db; systemctl start k3s

  sqlite, before the first start of k3s (no server/tls, no server/cred, no state.db-wal may be there):
    install -D -m 600 $work/database /var/lib/rancher/k3s/server/db/state.db
    install -D -m 600 $work/token /var/lib/rancher/k3s/server/token
    systemctl start k3s
"""


def content(cluster: str, folder: str) -> bytes:
    """Given a cluster's name and that of its folder in a store, return the text that is put there."""
    return _TEXT.replace("NAME", cluster).replace("CLUSTER", folder).encode()

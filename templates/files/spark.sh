#!/bin/sh
# spark: fetches a backup with rclone, opens it, stages it in /var/lib/i12e/restore, and resets this host to its final
# config, whose i12e-restore-alone.service restores it. What it needs is in /etc/i12e/spark; nothing of that outlives
# the reset. Ended anywhere, it is run again by the next boot. What stops it is in /var/lib/i12e/spark/failed.
set -u
umask 077
export PATH="/opt/bin:/usr/local/bin:$PATH"

root=${I12E_ROOT:-} # tests run it on a tree of their own
pause=${I12E_PAUSE:-15}
given=$root/etc/i12e/spark
state=$root/var/lib/i12e
work=$state/spark
restore=$state/restore
how='' place='' manifest='' hold=''
# shellcheck source=/dev/null
. "$given/settings"

mkdir -p "$work" || exit 1
cd "$work" || exit 1

say() {
    echo "spark: $*"
    printf '%s\n' "$*" >last
}

fail() {
    echo "spark: failed: $*" >&2
    printf '%s\n' "$*" >failed.new
    mv -f failed.new failed
    exit 1
}

sum() { sha256sum "$1" | cut -c1-64; }

# lay NAME FILE: puts a file into the folder of the restore, whole.
lay() {
    if ! cp "$2" "$restore/$1.new" || ! sync "$restore/$1.new" || ! mv -f "$restore/$1.new" "$restore/$1"; then
        fail "$restore/$1 cannot be written"
    fi
}

# fetch NAME SHA256: until it is here and is what it should be. What may pass is waited for as long as it takes; what
# is there and is something else, or is not there, is asked for three times.
fetch() {
    tries=0
    until [ -f "$1" ] && [ "$(sum "$1")" = "$2" ]; do
        if [ -f "$1" ]; then
            tries=$((tries + 1))
            why="it has the SHA-256 $(sum "$1"), and $2 is that of the backup"
            rm -f "$1"
            [ $tries -lt 3 ] || fail "$1 in the store is not what was verified: $why"
        fi
        say "fetches $1"
        status=0
        rclone --config "$given/rclone.conf" --contimeout 20s --timeout 60s --retries 1 --low-level-retries 3 \
            copyto "$place/$1" "$1" </dev/null >said 2>&1 || status=$?
        [ $status = 0 ] && [ -f "$1" ] && continue
        why=$(tail -n 1 said | cut -c 1-300)
        case $status in
        0 | 3 | 4)
            tries=$((tries + 1))
            [ $tries -lt 3 ] || fail "$1 is not in the store: $why"
            ;;
        esac
        say "cannot fetch $1, tries again in $pause s: $why"
        sleep "$pause"
    done
}

# opened SEALED PLAIN-SHA256 TARGET: opens it with the backup's own key.
opened() {
    say "opens $1"
    age --decrypt --identity "$given/key" "$1" 2>said | gzip -dc >"$restore/$3.new" 2>>said
    [ "$(sum "$restore/$3.new")" = "$2" ] ||
        fail "what is sealed in $1 is not what its index says: $(tail -n 1 said | cut -c 1-300)"
    sync "$restore/$3.new"
    mv -f "$restore/$3.new" "$restore/$3"
    rm -f "$1"
}

# What laid the spark's own config here has left a copy of it, with the key.
rm -f "$state/next.ign" "$state/next.sh" "$state/next.sum" "$work/failed"
chmod 600 "$root/oem/config.ign" 2>/dev/null # flatcar-reset leaves it the mode that the one before had
[ -e "$state/hold" ] || fail "somebody removed $state/hold, which keeps k3s from starting meanwhile"

# Nothing of an earlier restore: what that set aside was wiped.
if ! cmp -s "$given/restore/job" "$restore/job"; then
    rm -rf "$restore"
    mkdir -p "$restore" || exit 1
    lay job "$given/restore/job"
fi
rm -f "$restore/alone"

if [ "$how" = fetch ]; then
    until command -v rclone && command -v age; do
        sh "$root/opt/i12e/bin/unpack-programs" >said 2>&1 || fail "rclone and age: $(tail -n 1 said)"
    done >/dev/null
    fetch manifest.json "$manifest"
fi
# Lines: the part, the SHA-256 of it as it is stored, that of what is in it, the name that it gets.
while read -r part sealed plain target; do
    if [ -f "$restore/$target" ] && [ "$(sum "$restore/$target")" = "$plain" ]; then continue; fi
    if [ "$how" = fetch ]; then
        rm -f "$restore/$target"
        fetch "$part" "$sealed"
        opened "$part" "$plain" "$target"
        continue
    fi
    say "waits for $target, which the operator sends"
    until grep -q '^staged ' "$restore/progress" 2>/dev/null; do sleep 1; done
    if [ ! -f "$restore/$target" ] || [ "$(sum "$restore/$target")" != "$plain" ]; then
        sed -i '/^staged /d' "$restore/progress"
        fail "$target did not arrive as it was sent"
    fi
done <"$given/parts"

grep -q '^staged ' "$restore/progress" 2>/dev/null || printf 'staged %s\n' "$(date +%s)" >>"$restore/progress"
for each in run.sh alone; do lay "$each" "$given/restore/$each"; done
printf '%s\n' "$hold" >"$state/hold.new"
sync "$state/hold.new" "$restore/progress"
mv -f "$state/hold.new" "$state/hold"
if ! cp "$given/final.ign" "$state/next.ign.new" || ! sync "$state/next.ign.new" ||
    ! mv -f "$state/next.ign.new" "$state/next.ign"; then
    fail "$state/next.ign cannot be written"
fi
sync "$state" "$restore"
say "resets this host to its final config"
sh "$given/final.sh" || fail "$(tail -n 1 "$work/failed" 2>/dev/null || echo 'the reset failed')"

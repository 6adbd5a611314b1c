#!/bin/sh
# k3s-gate: decides at each start of k3s whether this host founds a cluster, joins one, or waits.
#
# systemd runs it before k3s (ExecStartPre in k3s.service.d/10-i12e.conf). Its decision goes to
# /etc/rancher/k3s/config.yaml.d/90-i12e.yaml, which k3s reads after config.yaml; when it fails, k3s does not
# start, and systemd asks again. The rules and the form of a permit: docs/hold-and-permit.md.
#
# The first rule: nothing founds a cluster but a permit, and each permit does so at most once. Wherever that
# costs comfort, it does.
set -eu
umask 077

root=${I12E_ROOT:-} # tests run it on a tree of their own
state=$root/var/lib/i12e
permit=$state/permit
used=$state/permit.used
server=$root/var/lib/rancher/k3s/server
agent=$root/var/lib/rancher/k3s/agent
drop_ins=$root/etc/rancher/k3s/config.yaml.d
decision=$drop_ins/90-i12e.yaml

cluster='' host='' role='' datastore='' join_urls=''
# shellcheck source=/dev/null
. "$root/etc/i12e/k3s.conf"

say() { echo "k3s-gate: $*"; }

fail() {
    echo "k3s-gate: k3s does not start: $*" >&2
    exit 1
}

# decide WHY [LINE]: tells k3s what to do, by one line of its config or none.
decide() {
    mkdir -p "$drop_ins"
    {
        echo "# Written by k3s-gate at each start of k3s. $1"
        # {}: a file of comments alone is nothing to some parsers, and an error to others.
        if [ $# -gt 1 ]; then echo "$2"; else echo '{}'; fi
    } >"$decision.new"
    mv -f "$decision.new" "$decision"
    say "$1"
}

# answers URL: whether a k3s server is there. --insecure, because nothing is told and only its certificates are
# asked for, which k3s gives to everyone; k3s itself checks who it is.
answers() {
    certificates=$(curl --silent --fail --insecure --noproxy '*' --max-time 3 "$1/cacerts") || return 1
    case $certificates in *'BEGIN CERTIFICATE'*) ;; *) return 1 ;; esac
}

# first_alive: prints the first join URL that answers.
first_alive() {
    for url in $join_urls; do
        if answers "$url"; then
            echo "$url"
            return 0
        fi
    done
    return 1
}

value() { sed -n "s/^$1=//p" "$permit"; } # a key that is there twice gives two lines, which match nothing

# judge_permit ACTION: prints "good", or why the permit is not good for this, here and now.
judge_permit() {
    machine=$(cat "$root/etc/machine-id" 2>/dev/null) || machine=''
    id=$(value id)
    if [ -L "$permit" ] || [ ! -f "$permit" ]; then
        echo "it is no regular file"
    elif [ "$(value permit)" != 1 ]; then
        echo "it does not say permit=1"
    elif [ "$(value action)" != "$1" ]; then
        echo "it is for action=$(value action), and this start needs action=$1"
    elif [ "$(value cluster)" != "$cluster" ]; then
        echo "it is for the cluster $(value cluster), this is $cluster"
    elif [ "$(value host)" != "$host" ]; then
        echo "it is for the host $(value host), this is $host"
    elif [ -z "$machine" ] || [ "$(value machine-id)" != "$machine" ]; then
        echo "it is for the machine $(value machine-id), this is ${machine:-a machine without /etc/machine-id}"
    elif [ -z "$id" ] || [ "$(printf %s "$id" | tr -d 'A-Za-z0-9-')" ]; then
        echo "it has no usable id"
    elif [ -e "$used" ] && grep -qxF "id=$id" "$used"; then
        echo "it was used before ($used)"
    else
        echo good
    fi
}

# consume: uses the permit up. It is gone from the disk before anything is founded: a crash from here on needs a
# new permit.
consume() {
    # Not by set -e, which is off where a function is part of a condition.
    if ! mv -f "$permit" "$used" || ! sync "$used" "$state"; then
        fail "the permit $permit could not be used up; see above"
    fi
}

drop_leftover_permit() {
    if [ -e "$permit" ] || [ -L "$permit" ]; then
        rm -f "$permit"
        say "removed a leftover permit: this host has its data already"
    fi
}

# permitted ACTION: uses up a permit for this, or says what is wrong with the one that is there.
permitted() {
    if [ ! -e "$permit" ] && [ ! -L "$permit" ]; then return 1; fi
    verdict=$(judge_permit "$1") || verdict='it cannot be read'
    if [ "$verdict" != good ]; then
        say "the permit $permit is refused: $verdict"
        return 1
    fi
    # The permit was laid when no server lived. One that lives now makes it void: two clusters would be.
    if alive=$(first_alive); then
        rm -f "$permit"
        say "the permit is void and was removed: a server of this cluster lives at $alive"
        return 1
    fi
    consume
}

# A reset keeps k3s's folder, and with it the manifests of the config before; k3s would go on applying them.
remove_old_manifests() {
    [ -f "$root/etc/i12e/manifests" ] || return 0
    for file in "$server"/manifests/i12e-*; do
        name=${file##*/}
        if [ -f "$file" ] && ! grep -qxF "$name" "$root/etc/i12e/manifests"; then
            rm -f "$file"
            say "removed the manifest $name: the config has it no more (what it made stays in the cluster)"
        fi
    done
}

start_as_member() {
    if [ ! "$join_urls" ]; then
        decide "This host has its data: it starts as a member of its cluster, which has no other server."
        return
    fi
    # k3s needs server: here only when it was stopped while it was still a learner, and without it a member
    # that was removed would found a new cluster (k3s#13623).
    url=$(first_alive) || url=${join_urls%% *}
    decide "This host has its data: it starts as a member of its cluster." "server: \"$url\""
}

# k3s puts the data of a removed member aside and joins anew. Without a server that answers it would found.
rejoin() {
    url=$(first_alive) ||
        fail "this server was removed from the etcd cluster and can only join it again, but none of the" \
            "servers answers: ${join_urls:-there is no other server}. Bring one of them up, or restore: doit restore"
    decide "This host was removed from the etcd cluster: it joins again." "server: \"$url\""
}

start_on_etcd() {
    if [ "$datastore" != etcd ]; then
        fail "its config says $datastore, but there is an etcd datastore in $server/db/etcd, and there is no way" \
            "back from etcd: set k3s.datastore: etcd, or wipe the datastore with doit os_deploy"
    fi
    if [ -f "$server/db/state.db" ] && [ -e "$used" ] && grep -qxF action=convert "$used"; then
        fail "the conversion from SQLite to etcd did not finish: $server/db/state.db is still there, and etcd" \
            "has only a part of it. Start it again: doit restore (it removes $server/db/etcd first)"
    fi
    drop_leftover_permit
    if [ -e "$server/db/etcd/tombstone" ]; then rejoin; else start_as_member; fi
}

start_on_sqlite() {
    if [ "$datastore" = sqlite ]; then
        drop_leftover_permit
        decide "This host has its data: it starts on its SQLite datastore."
    elif permitted convert; then
        decide "A permit was used up: k3s converts the SQLite datastore to etcd." "cluster-init: true"
    else
        fail "its config says etcd, but the datastore is SQLite ($server/db/state.db). Converting it takes a" \
            "permit with action=convert, which doit restore lays"
    fi
}

start_without_data() {
    if permitted found; then
        if [ "$datastore" = etcd ]; then
            decide "A permit was used up: k3s founds a cluster on etcd." "cluster-init: true"
        else
            decide "A permit was used up: k3s founds a cluster on SQLite."
        fi
    elif [ "$datastore" = etcd ] && [ "$join_urls" ]; then
        url=$(first_alive) ||
            fail "this server has no data and no permit, so it waits for a server of $cluster to join:" \
                "none answers of $join_urls. If the cluster is to be founded now: doit os_deploy"
        decide "This host has no data: it joins its cluster." "server: \"$url\""
    else
        fail "this server has no data, no good permit in $permit, and no other server to join." \
            "To found the cluster: doit os_deploy. To get its data back: doit restore"
    fi
}

gate_server() {
    remove_old_manifests
    if [ -d "$server/db/etcd/member/wal" ]; then
        start_on_etcd
    elif [ -f "$server/db/state.db" ]; then
        start_on_sqlite
    else
        start_without_data
    fi
}

gate_agent() {
    if url=$(first_alive); then
        decide "This agent joins by the first server that answers." "server: \"$url\""
    elif [ -e "$agent/etc/k3s-agent-load-balancer.json" ]; then
        # k3s remembers all servers that it saw, and may reach one that is not in the config.
        decide "No server of the config answers: k3s tries the ones that it remembers."
    else
        fail "this agent waits for a server of $cluster: none answers of ${join_urls:-(none is known)}"
    fi
}

# What the last start decided must not outlive it: cluster-init, read once more, founds once more.
rm -f "$decision" "$decision.new"

if [ -e "$state/hold" ]; then
    fail "it is held by $state/hold: $(head -n 1 "$state/hold")"
fi
# Without them, a permit that lacks them too would fit.
if [ ! "$cluster" ] || [ ! "$host" ]; then fail "$root/etc/i12e/k3s.conf names no cluster or no host"; fi
case $role in
server) gate_server ;;
agent) gate_agent ;;
*) fail "$root/etc/i12e/k3s.conf names no role" ;;
esac

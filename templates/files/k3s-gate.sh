#!/bin/sh
# k3s-gate: decides at each start of k3s whether this host founds a cluster, joins one, or waits.
#
# systemd runs it before k3s (ExecStartPre in k3s.service.d/10-i12e.conf). Its decision goes to
# /etc/rancher/k3s/config.yaml.d/90-i12e.yaml, which k3s reads after config.yaml; when it fails, k3s does not
# start, and systemd asks again. The rules and the form of a permit: docs/hold-and-permit.md.
# With --dry-run it says what it would decide, and changes nothing.
#
# The first rule: nothing founds a cluster but a permit, and each permit does so at most once. Wherever that
# costs comfort, it does.
set -eu
umask 077

case $#:${1-} in
0:) dry='' ;;
1:--dry-run) dry=yes ;;
*)
    echo "k3s-gate: usage: k3s-gate [--dry-run]; it takes nothing else, and did nothing" >&2
    exit 3
    ;;
esac

root=${I12E_ROOT:-} # tests run it on a tree of their own
state=$root/var/lib/i12e
permit=$state/permit
used=$state/permits.used
server=$root/var/lib/rancher/k3s/server
agent=$root/var/lib/rancher/k3s/agent
drop_ins=$root/etc/rancher/k3s/config.yaml.d
decision=$drop_ins/90-i12e.yaml
# Beside the data, so that whatever wipes or moves the data takes it along.
mark=$server/db/i12e-cluster
newline='
'

cluster='' host='' role='' datastore='' join_urls=''
# shellcheck source=/dev/null
. "$root/etc/i12e/k3s.conf"

say() { echo "k3s-gate: ${dry:+dry run: }$*"; }

fail() {
    if [ "$dry" ]; then
        echo "k3s-gate: dry run: k3s would not start: $*" >&2
    else
        echo "k3s-gate: k3s does not start: $*" >&2
    fi
    exit 1
}

there() { [ -e "$1" ] || [ -L "$1" ]; } # -e alone does not see a link to nothing

# remove FILE WHY
remove() {
    if [ "$dry" ]; then
        say "would remove $1: $2"
    else
        rm -f "$1"
        say "removed $1: $2"
    fi
}

# decide WHY [LINE]: tells k3s what to do, by one line of its config or none.
decide() {
    if [ "$dry" ]; then
        say "k3s would start. $1 ${2:-(no line for k3s)}"
        return
    fi
    if [ "$role" = server ]; then mark_data; fi
    mkdir -p "$drop_ins"
    {
        echo "# Written by k3s-gate at each start of k3s. $1"
        # {}: a file of comments alone is nothing to some parsers, and an error to others.
        if [ $# -gt 1 ]; then echo "$2"; else echo '{}'; fi
    } >"$decision.new"
    mv -f "$decision.new" "$decision"
    say "$1"
}

# check_mark: the data that is there must be of this cluster. Data without a mark is: k3s restored it.
check_mark() {
    there "$mark" || return 0
    marked=''
    if [ -f "$mark" ]; then marked=$(cat "$mark") || marked=''; fi
    if [ "$marked" != "$cluster" ]; then
        fail "the data in $server/db is marked as the cluster ${marked:-(nothing that can be read)}'s ($mark)," \
            "and this host is of $cluster. If the data may go: doit os_deploy. If it is $cluster's, because" \
            "the cluster was renamed or the mark broke: echo $cluster | sudo tee $mark"
    fi
}

# mark_data: what k3s makes or starts on from here on is this cluster's.
mark_data() {
    if [ -f "$mark" ] && [ "$(cat "$mark")" = "$cluster" ]; then return; fi
    if ! (umask 022 && mkdir -p "${server%/*}") || ! mkdir -p "$server/db" || ! echo "$cluster" >"$mark.new" ||
        ! sync "$mark.new" || ! mv -f "$mark.new" "$mark" || ! sync "$server/db"; then
        fail "$mark cannot be written (see above); look at the disk below $server"
    fi
}

# patience URL: the seconds for which it is asked. A name may have several addresses: of what is left of its time, curl
# gives half to one that is silent before it tries the next, and a resolver that is silent takes 5 seconds.
patience() {
    place=${1#https://}
    case ${place%:*} in
    \[*) echo 3 ;;
    *[!0-9.]*) echo 15 ;;
    *) echo 3 ;;
    esac
}

# answers URL: whether a k3s server is there. --insecure, because nothing is told and only its certificates are
# asked for, which k3s gives to everyone; k3s itself checks who it is.
answers() {
    certificates=$(curl --silent --fail --insecure --noproxy '*' --max-time "$(patience "$1")" \
        "$1/cacerts") || return 1
    case $certificates in *'BEGIN CERTIFICATE'*) ;; *) return 1 ;; esac
}

# lives URL: whether anything is there that accepts a connection, be it a k3s that only says 503: 0 if so, 1 if not,
# 2 if it cannot be told. Asked without TLS, for curl 7.88 does not tell a failed handshake from no connection
# (curl#10670).
lives() {
    curl_status=0
    connected=$(curl --silent --noproxy '*' --max-time "$(patience "$1")" --output /dev/null \
        --write-out '%{time_connect}' "http://${1#https://}/cacerts") || curl_status=$?
    case $curl_status:$connected in
    0:* | *:*[1-9]*) return 0 ;;
    6:* | 7:* | 18:* | 22:* | 28:* | 35:* | 52:* | 55:* | 56:*) return 1 ;;
    *) return 2 ;;
    esac
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

# are_urls TEXT: whether there is nothing but URLs of servers in it, or nothing at all.
are_urls() {
    case $1 in *[!][A-Za-z0-9.:/\ -]*) return 1 ;; esac
    for url in $1; do
        case $url in https://?*) ;; *) return 1 ;; esac
    done
}

# used_list: prints the permits that were used; fails when it cannot tell them all.
used_list() {
    there "$used" || return 0
    [ ! -L "$used" ] && [ -f "$used" ] && cat "$used"
}

# judge_permit ACTION: prints "good", or why the permit is not good for this, here and now.
judge_permit() {
    if [ -L "$permit" ] || [ ! -f "$permit" ]; then
        echo "it is no regular file"
        return
    fi
    machine=$(cat "$root/etc/machine-id" 2>/dev/null) || machine=''
    id=$(value id)
    if [ "$(value permit)" != 1 ]; then
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
    elif [ "$(grep -c '^servers=' "$permit")" != 1 ] || ! are_urls "$(value servers)"; then
        echo "it does not name the other servers: it needs one line servers= with their URLs, or with nothing" \
            "after the = if there are none"
    elif ! list=$(used_list); then
        echo "which permits were used before cannot be read in $used; mend or remove that, and lay a new permit"
    else
        # A line cut off by a crash has no space after its id: nothing was founded by that one.
        case $newline$list in
        *"$newline$id "*) echo "it was used before ($used); a new permit needs a new id" ;;
        *) echo good ;;
        esac
    fi
}

# consume ACTION: uses the permit up. Its id is on the disk before anything is founded: a crash from here on needs
# a new permit.
consume() {
    if [ "$dry" ]; then
        say "would use up the permit $permit"
        return
    fi
    # Not by set -e, which is off where a function is part of a condition.
    if ! line="$(value id) $1 $(date -u +%Y-%m-%dT%H:%M:%SZ)" || ! append "$line" || ! sync "$used" "$state"; then
        fail "the permit $permit could not be used up: $used cannot be written (see above)"
    fi
    if ! rm -f "$permit"; then fail "the permit $permit is used up, but cannot be removed (see above)"; fi
    say "used up the permit: $line"
}

# append LINE: to the list of used permits, whose last line may lack its end since a crash.
append() {
    if [ -s "$used" ] && [ "$(tail -c 1 "$used")" ]; then set -- "$newline$1"; fi
    echo "$1" >>"$used"
}

drop_leftover_permit() {
    if there "$permit"; then remove "$permit" "it is left over, this host has its data already"; fi
}

# permitted ACTION: uses up a permit for this, or says what is wrong with the one that is there.
permitted() {
    there "$permit" || return 1
    verdict=$(judge_permit "$1") || verdict='it cannot be read'
    if [ "$verdict" != good ]; then
        say "the permit $permit is refused: $verdict"
        return 1
    fi
    # The permit was laid when no server lived. One that lives now makes it void: two clusters would be.
    unknown=''
    for url in $join_urls $(value servers); do
        found=0
        lives "$url" || found=$?
        case $found in
        0)
            remove "$permit" "it is void, something answers at $url: a server of this cluster lives there"
            return 1
            ;;
        1) ;;
        *) unknown="$unknown $url (curl: status $curl_status)" ;;
        esac
    done
    if [ "$unknown" ]; then
        say "the permit $permit is refused for now, and stays: whether a server lives cannot be told of$unknown." \
            "See whether curl works on this host"
        return 1
    fi
    consume "$1"
}

# A reset keeps k3s's folder, and with it the manifests of the config before; k3s would go on applying them.
remove_old_manifests() {
    [ -f "$root/etc/i12e/manifests" ] || return 0
    for file in "$server"/manifests/i12e-*; do
        name=${file##*/}
        if [ -f "$file" ] && ! grep -qxF "$name" "$root/etc/i12e/manifests"; then
            remove "$file" "the config has this manifest no more (what it made stays in the cluster)"
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
    # A conversion that finished leaves state.db.migrated alone. k3s would start on etcd as it is, even empty.
    if there "$server/db/state.db"; then
        fail "there is an etcd datastore in $server/db/etcd, and SQLite's $server/db/state.db too: a conversion" \
            "from SQLite to etcd did not finish, and etcd has only a part. Start it again: doit restore (it" \
            "removes $server/db/etcd first). Only if etcd is the whole one: move state.db away"
    fi
    if [ "$datastore" != etcd ]; then
        fail "its config says $datastore, but there is an etcd datastore in $server/db/etcd, and there is no way" \
            "back from etcd: set k3s.datastore: etcd, or wipe the datastore with doit os_deploy"
    fi
    drop_leftover_permit
    if [ -e "$server/db/etcd/tombstone" ]; then rejoin; else start_as_member; fi
}

start_on_sqlite() {
    if [ "$datastore" = sqlite ]; then
        drop_leftover_permit
        decide "This host has its data: it starts on its SQLite datastore."
    elif permitted convert; then
        decide "By a permit, k3s converts the SQLite datastore to etcd." "cluster-init: true"
    else
        fail "its config says etcd, but the datastore is SQLite ($server/db/state.db). Converting it takes a" \
            "permit with action=convert, which doit restore lays"
    fi
}

start_without_data() {
    if permitted found; then
        if [ "$datastore" = etcd ]; then
            decide "By a permit, k3s founds a cluster on etcd." "cluster-init: true"
        else
            decide "By a permit, k3s founds a cluster on SQLite."
        fi
    elif [ "$datastore" = etcd ] && [ "$join_urls" ]; then
        url=$(first_alive) ||
            fail "this server has no data and no good permit, so it waits for a server of $cluster to join:" \
                "none answers of $join_urls. If the cluster is to be founded now: doit os_deploy"
        decide "This host has no data: it joins its cluster." "server: \"$url\""
    else
        fail "this server has no data, no good permit in $permit, and no other server to join." \
            "To found the cluster: doit os_deploy. To get its data back: doit restore"
    fi
}

gate_server() {
    if [ -d "$server/db/etcd/member/wal" ] || [ -f "$server/db/state.db" ]; then check_mark; fi
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
if [ ! "$dry" ]; then rm -f "$decision" "$decision.new"; fi

if there "$state/hold"; then
    fail "it is held by $state/hold: $(head -n 1 "$state/hold")"
fi
# Without them, a permit that lacks them too would fit.
if [ ! "$cluster" ] || [ ! "$host" ]; then fail "$root/etc/i12e/k3s.conf names no cluster or no host"; fi
case $role in
server) gate_server ;;
agent) gate_agent ;;
*) fail "$root/etc/i12e/k3s.conf names no role" ;;
esac

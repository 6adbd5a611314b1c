#!/bin/sh
# e: etcdctl on k3s's own etcd. For example: e member list; e endpoint status --cluster --write-out=table
set -eu

root=${I12E_ROOT:-} # tests run it on a tree of their own
tls=$root/var/lib/rancher/k3s/server/tls/etcd

if [ "$(id -u)" != 0 ] && [ ! "$root" ]; then exec sudo "$0" "$@"; fi
PATH=/opt/bin:/usr/local/bin:$PATH # sudo and units may know neither; Flatcar has an etcdctl of its own in /usr/bin
if [ ! -e "$tls/client.key" ]; then
    echo "e: k3s has made no etcd certificates in $tls: it has not started yet, or runs on SQLite" >&2
    exit 1
fi
if ! command -v etcdctl >/dev/null; then
    version=$(curl --silent --fail --max-time 3 --cacert "$tls/server-ca.crt" --cert "$tls/client.crt" \
        --key "$tls/client.key" https://127.0.0.1:2379/version) || version='unknown: etcd does not answer'
    echo "e: etcdctl is not installed: k3s brings none. Name the one of this etcd ($version) in artifacts: of" \
        "cluster.yaml, or put it into ${0%/*}, from https://github.com/etcd-io/etcd/releases" >&2
    exit 1
fi
ETCDCTL_ENDPOINTS=${ETCDCTL_ENDPOINTS:-https://127.0.0.1:2379} \
    ETCDCTL_CACERT=$tls/server-ca.crt \
    ETCDCTL_CERT=$tls/client.crt \
    ETCDCTL_KEY=$tls/client.key \
    exec etcdctl "$@"

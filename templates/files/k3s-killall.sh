#!/bin/sh
# k3s-killall.sh: stops k3s and all pods of this host, which outlive a mere stop. Their data stays.
# Rules that kube-proxy and flannel made in iptables stay too, until the next boot.
set -eu

root=${I12E_ROOT:-} # tests run it on a tree of their own
role=''
# shellcheck source=/dev/null
. "$root/etc/i12e/k3s.conf"

if [ "$(id -u)" != 0 ] && [ ! "$root" ]; then exec sudo "$0" "$@"; fi
unit=k3s.service
if [ "$role" = agent ]; then unit=k3s-agent.service; fi
cgroups=$root/sys/fs/cgroup
mounts=$root/proc/self/mounts

# The shims of containers stay in the unit's cgroup, containers are below kubepods, as systemd or k3s names it.
each_cgroup() {
    for group in "system.slice/$unit" kubepods.slice kubepods; do
        if [ -e "$cgroups/$group/cgroup.kill" ]; then "$1" "$cgroups/$group"; fi
    done
}
kill_all() { echo 1 >"$1/cgroup.kill"; }
tell_alive() { grep -q '^populated 1' "$1/cgroup.events" && echo "$1"; }

systemctl stop "$unit"
each_cgroup kill_all
left=30
while alive=$(each_cgroup tell_alive || true) && [ "$alive" ]; do
    if [ "$left" = 0 ]; then
        echo "k3s-killall.sh: still alive: $alive" >&2
        exit 1
    fi
    left=$((left - 1))
    sleep 1
done

# What is mounted inside of another mount comes after it.
sort -r -k 2 "$mounts" | while read -r _ path _; do
    case $path in
    /run/k3s/* | /var/lib/kubelet/pods/* | /var/lib/kubelet/plugins/* | /run/netns/cni-*)
        umount "$path" || echo "k3s-killall.sh: $path stays mounted" >&2
        ;;
    esac
done
for netns in "$root"/run/netns/cni-*; do
    if [ -e "$netns" ]; then ip netns delete "${netns##*/}"; fi
done
for link in cni0 flannel.1 flannel-v6.1 flannel-wg flannel-wg-v6 kube-ipvs0; do
    if [ -e "$root/sys/class/net/$link" ]; then ip link delete "$link"; fi
done

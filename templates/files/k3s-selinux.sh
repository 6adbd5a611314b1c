#!/bin/sh
# k3s-selinux: layers the SELinux policy of k3s onto Fedora CoreOS, and reboots into it, once.
# With --label it gives k3s's files the labels of that policy, and fails while it is not there: k3s.service runs it
# so before k3s where Ignition wrote them.
set -eu

case $#:${1-} in
0:) label='' ;;
1:--label) label=yes ;;
*)
    echo "k3s-selinux: usage: k3s-selinux [--label]; it takes nothing else, and did nothing" >&2
    exit 3
    ;;
esac

root=${I12E_ROOT:-} # tests run it on a tree of their own
stamp=$root/opt/i12e/k3s-selinux-layered

# Files take the label of the place where they were made; k3s's policy knows where they are now.
give_labels() {
    role='' bin=''
    # shellcheck source=/dev/null
    . "$root/etc/i12e/k3s.conf"
    restorecon -i "$root$bin/k3s" "$root/etc/systemd/system/k3s.service" "$root/etc/systemd/system/k3s-agent.service" \
        "$root/var/lib/rancher" "$root/var/lib/rancher/k3s"
    if [ "$role" = server ]; then
        restorecon -i "$root/var/lib/rancher/k3s/server"
        restorecon -iR "$root/var/lib/rancher/k3s/server/manifests"
    fi
}

if rpm -q --quiet k3s-selinux; then
    if [ "$label" ]; then
        give_labels
    else
        echo "k3s-selinux: the policy is there"
    fi
    exit 0
fi
if [ "$label" ]; then
    echo "k3s-selinux: k3s does not start before its SELinux policy is there, which k3s-selinux.service layers:" \
        "the host reboots once for it" >&2
    exit 1
fi
# Layered and rebooted, and still not there: another reboot would change nothing, and the next, and the next.
if [ -e "$stamp" ] && [ "$(cat "$stamp")" != "$(cat "$root/proc/sys/kernel/random/boot_id")" ]; then
    echo "k3s-selinux: the policy was layered, but the booted deployment does not have it: see rpm-ostree status," \
        "then remove $stamp and start k3s-selinux.service again" >&2
    exit 1
fi
rpm-ostree install --assumeyes --allow-inactive --idempotent k3s-selinux
mkdir -p "$root/opt/i12e"
cat "$root/proc/sys/kernel/random/boot_id" >"$stamp"
sync "$stamp"
echo "k3s-selinux: the policy is layered, rebooting into it"
systemctl --no-block reboot

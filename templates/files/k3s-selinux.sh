#!/bin/sh
# k3s-selinux: layers the SELinux policy of k3s onto Fedora CoreOS, and reboots into it, once.
set -eu

root=${I12E_ROOT:-} # tests run it on a tree of their own
stamp=$root/opt/i12e/k3s-selinux-layered

if rpm -q --quiet k3s-selinux; then
    echo "k3s-selinux: the policy is there"
    exit 0
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

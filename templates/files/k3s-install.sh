#!/bin/sh
# k3s-install: installs the pinned k3s with k3s's own install script, once for each version.
#
# k3s-install.service runs it at each boot and again after each failure; when the version is there, it does
# nothing. k3s's script only puts things in place; what is enabled and started is decided here.
set -eu

root=${I12E_ROOT:-} # tests run it on a tree of their own
cluster='' host='' role='' k3s_version='' bin='' selinux='' script_url='' releases_url=''
# shellcheck source=/dev/null
. "$root/etc/i12e/k3s.conf"

bin=$root$bin
units=$root/etc/systemd/system
# Beside what it speaks of: a reset wipes /opt, and /var/lib/i12e would outlive it.
stamp=$root/opt/i12e/k3s-installed
case $role in
server) unit=k3s.service ;;
agent) unit=k3s-agent.service ;;
*) echo "k3s-install: $root/etc/i12e/k3s.conf names no role" >&2 && exit 1 ;;
esac

say() { echo "k3s-install: $*"; }

fail() {
    echo "k3s-install: $*" >&2
    exit 1
}

# version_of PROGRAM: prints the release of a k3s binary; nothing when it does not run.
version_of() { "$1" --version 2>/dev/null | sed -n 's/^k3s version \([^ ]*\).*/\1/p'; }

installed() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$k3s_version $role" ] &&
        [ -f "$units/$unit" ] && [ "$(version_of "$bin/k3s")" = "$k3s_version" ]
}

# download URL FILE: to a file, whole or not at all; a script that is read from a pipe runs half when the
# connection breaks.
download() {
    curl --fail --silent --show-error --location --connect-timeout 10 --max-time 120 --output "$2.part" "$1" ||
        fail "cannot fetch $1 (curl's message is above); tried again soon"
    mv "$2.part" "$2"
}

# A portal's login page comes with status 200 too.
check_script() {
    if [ "$(head -n 1 "$1")" != '#!/bin/sh' ] || ! grep -q INSTALL_K3S_VERSION "$1" || ! sh -n "$1"; then
        fail "what $script_url gives is not k3s's install script; if a mirror is set, look at its copy"
    fi
}

run_script() {
    # SELinux is left out: on Flatcar k3s's script stops on it (k3s#14018), on Fedora CoreOS k3s-selinux.service
    # does it. TMPDIR, so that the binary is moved into place within one file system, at once.
    PATH=$bin:$PATH \
        TMPDIR=$1 \
        GITHUB_URL=$releases_url \
        INSTALL_K3S_VERSION=$k3s_version \
        INSTALL_K3S_EXEC=$role \
        INSTALL_K3S_BIN_DIR=$bin \
        INSTALL_K3S_SYSTEMD_DIR=$units \
        INSTALL_K3S_SKIP_SELINUX_RPM=true \
        INSTALL_K3S_SKIP_ENABLE=true \
        INSTALL_K3S_SKIP_START=true \
        sh "$1/install.sh" ||
        fail "k3s's install script failed (its messages are above); tried again soon"
}

verify() {
    found=$(version_of "$bin/k3s")
    [ "$found" = "$k3s_version" ] ||
        fail "$bin/k3s is ${found:-no program that runs}, not $k3s_version; tried again soon"
    [ -f "$units/$unit" ] || fail "k3s's install script left no $units/$unit; tried again soon"
}

# Files take the label of the place where they were made; k3s's policy knows where they are now.
relabel() {
    restorecon -i "$bin/k3s" "$units/$unit" "$root/var/lib/rancher" "$root/var/lib/rancher/k3s"
    if [ "$role" = server ]; then
        restorecon -i "$root/var/lib/rancher/k3s/server"
        restorecon -iR "$root/var/lib/rancher/k3s/server/manifests"
    fi
}

if installed; then
    say "k3s $k3s_version is there"
    exit 0
fi
if [ "$selinux" = yes ] && ! rpm -q --quiet k3s-selinux; then
    fail "waits for the SELinux policy of k3s, which k3s-selinux.service layers: the host reboots once for it"
fi

say "installing k3s $k3s_version on $host of $cluster"
rm -f "$stamp"
mkdir -p "$bin" "$units" "$root/opt/i12e"
rm -rf "$bin"/.k3s-install.* # of a try that was killed
work=$(mktemp -d "$bin/.k3s-install.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
download "$script_url" "$work/install.sh"
check_script "$work/install.sh"
run_script "$work"
verify
if [ "$selinux" = yes ]; then relabel; fi

systemctl daemon-reload
systemctl enable --quiet "$unit"
# --no-block: the unit is ordered after this one, waiting for it here would be waiting for ever.
systemctl restart --no-block "$unit"
echo "$k3s_version $role" >"$stamp.new"
mv -f "$stamp.new" "$stamp" # the last step: without it, the next boot does all of this again
say "k3s $k3s_version is installed"

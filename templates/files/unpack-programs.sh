#!/bin/sh
# unpack-programs: takes the programs of /etc/i12e/programs (lines: ARCHIVE PATH-IN-IT) out of the archives in
# /opt/i12e/artifacts. Ignition fetched and verified these, and unpacks nothing itself.
set -eu

root=${I12E_ROOT:-} # tests run it on a tree of their own
bin=''
# shellcheck source=/dev/null
. "$root/etc/i12e/k3s.conf"

bin=$root$bin
list=$root/etc/i12e/programs
archives=$root/opt/i12e/artifacts
# Beside what it speaks of: a reset wipes /opt.
stamp=$root/opt/i12e/programs-unpacked

unpacked() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cat "$list")" ] || return 1
    while read -r _ path; do
        [ -x "$bin/${path##*/}" ] || return 1
    done <"$list"
}

# extract ARCHIVE PATH: Fedora CoreOS has bsdtar, which reads all of them; Flatcar has tar and unzip.
extract() {
    if command -v bsdtar >/dev/null; then
        bsdtar -xOf "$1" "$2"
        return
    fi
    case $1 in
    *.zip) unzip -p "$1" "$2" ;;
    *) tar -xzOf "$1" "$2" ;;
    esac
}

if unpacked; then
    echo "unpack-programs: they are there"
    exit 0
fi
rm -f "$stamp"
mkdir -p "$bin"
while read -r archive path; do
    program=$bin/${path##*/}
    # In its own folder, so that the file takes the label that belongs there, and comes into place at once.
    extract "$archives/$archive" "$path" >"$program.new" || {
        echo "unpack-programs: cannot take $path out of $archives/$archive (the message is above)" >&2
        rm -f "$program.new"
        exit 1
    }
    chmod 0755 "$program.new"
    sync "$program.new"
    mv -f "$program.new" "$program"
    echo "unpack-programs: $program"
done <"$list"
cat "$list" >"$stamp.new"
mv -f "$stamp.new" "$stamp"

#!/usr/bin/env bash
# Gets what sandboxes of kind `microvm` need and prints it as settings, one `NAME=VALUE` a line: microvm.sh PLACE
#
# A kernel for clouds and a QEMU that runs it under software emulation, of Debian's packages, unpacked in PLACE and not
# installed. QEMU's libraries are those of the installed package (apt-get install qemu-system-x86).
set -euo pipefail
place=$(realpath -m "${1:?usage: microvm.sh PLACE}")
here=$(dirname "$0")
[ "$(uname -m)" = x86_64 ] || { echo "microvm.sh: sandboxes of kind microvm are made for x86_64 only" >&2; exit 1; }

suite=bookworm-backports
kernel=$("$here/unpacked.sh" "$place" $suite 'linux-image-cloud-amd64>linux-image-')
# Debian 12's own QEMU, 7.2, loses the flags register of newer kernels now and then.
mapfile -t parts < <("$here/unpacked.sh" "$place" $suite qemu-system-x86 qemu-system-data seabios)
# It looks for its firmware beside itself, wherever that is.
qemu=$place/$(basename "${parts[0]}")-whole
if [ ! -e "$qemu" ]; then
    rm -rf "$qemu.part" && mkdir "$qemu.part"
    for part in "${parts[@]}"; do cp -al "$part/usr" "$qemu.part/"; done
    mv "$qemu.part" "$qemu"
fi
"$qemu/usr/bin/qemu-system-x86_64" --version >/dev/null 2>&1 ||
    { echo "microvm.sh: QEMU lacks libraries: apt-get install qemu-system-x86" >&2; exit 1; }
echo "CSB_MICROVM_QEMU=$qemu/usr/bin/qemu-system-x86_64"
echo "CSB_MICROVM_KERNEL=$(ls "$kernel"/boot/vmlinuz-*)"

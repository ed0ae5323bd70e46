#!/usr/bin/env bash
# The engine's tests in a virtual machine of Debian's kernel for clouds, on cgroup v2 alone: what this host may lack.
# QEMU emulates it in software, so that it runs wherever the tests run. Nothing is installed but packages of QEMU; the
# kernel's package is only unpacked.
#
#   VM_PARTS     parts to run (default: full without-landlock systemd); `quick` leaves out what takes minutes, `cgroups` is what its name says
#   VM_TESTS     only tests whose `PROGRAM MODULE::NAME` matches this (grep -E), for those who work on them
#   VM_TIMEOUT   seconds until one part is given up (default: 1200)
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "test-vm: skipped: $1"; exit 0; }
[ "$(uname -m)" = x86_64 ] || skip 'the machine is made for x86_64 only'
for program in apt-get dpkg-deb cpio mke2fs busybox xz; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || skip "there is no $program on this host"
done
[ "$(id -u)" = 0 ] || skip 'the files of the machine belong to root: run it as root'

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
place=$target/vm
mkdir -p "$place"

# unpacked PACKAGE: the directory with its files, of the newest version in Debian's backports or, without them, in the package
# sources of this host.
apt=$place/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep '/debian/*$' | head -1 || true)
key=/usr/share/keyrings/debian-archive-keyring.gpg
[ -n "$mirror" ] || skip 'no package source of this host is a mirror of Debian'
echo "deb [signed-by=$key] $mirror bookworm-backports main" >"$apt/sources.list"
options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" -qq update >/dev/null 2>&1 || options=()
unpacked() {
    local version
    version=$(apt-cache "${options[@]}" show "$1" 2>/dev/null | sed -n 's/^Version: //p' | sort -V | tail -1)
    [ -n "$version" ] || return 1
    local directory=$place/$1_${version//:/%3a}
    if [ ! -e "$directory" ]; then
        rm -rf "$place/$1"_* "$apt"/*.deb
        (cd "$apt" && apt-get "${options[@]}" -qq download "$1=$version" >/dev/null) || return 1
        dpkg-deb -x "$apt"/*.deb "$directory.part" && mv "$directory.part" "$directory"
        rm -f "$apt"/*.deb
    fi
    echo "$directory"
}
name=$(apt-cache "${options[@]}" depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -1)
release=${name#linux-image-}
kernel=$([ -z "$name" ] || unpacked "$name") && [ -n "$kernel" ] || skip 'the package linux-image-cloud-amd64 cannot be had'
# Debian 12's own QEMU, 7.2, loses the flags register of this kernel now and then.
if emulator=$(unpacked qemu-system-x86) && data=$(unpacked qemu-system-data) && bios=$(unpacked seabios); then
    qemu=("$emulator/usr/bin/qemu-system-x86_64" -L "$data/usr/share/qemu" -L "$bios/usr/share/seabios")
else
    qemu=(qemu-system-x86_64)
fi
"${qemu[@]}" --version >/dev/null 2>&1 || skip 'QEMU cannot be had, or its libraries (apt-get install qemu-system-x86)'

echo "test-vm: building"
cargo build -q --locked -p csb
# The test programs, by name.
built=$(cargo test -q --no-run --locked --message-format=json -p csb-sys -p csb-jail -p csb-warden -p csb-tests 2>/dev/null |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(message["target"]["name"], message["executable"])')

rm -rf "$place/tree" "$place/initramfs"
scripts/vm/tree.py "$place/tree" bash dash coreutils grep sed findutils mawk util-linux mount procps hostname tar gzip python3 \
    e2fsprogs busybox-static passwd diffutils libgcc-s1 $(dpkg-query -W -f '${Package}' systemd 2>/dev/null || true)
guest=$place/tree/vm
# For part `systemd`: the units as the documentation has them.
units=$place/tree/etc/systemd/system
mkdir -p "$units/multi-user.target.wants" "$place/tree/usr/local/bin" "$place/tree/var/log"
sed -n '/^```ini/,/^```/{/^```/d;p}' docs/guides/operating.md |
    awk -v to="$units" '/^# \/etc\/systemd/ { n = split($2, parts, "/"); file = to "/" parts[n] } { print >file }'
printf '[Service]\nExecStart=/vm/systemd.sh\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\nTimeoutStartSec=infinity\n' \
    >"$units/csb-check.service"
ln -s ../csb.service ../csb-warden.service ../csb-check.service "$units/multi-user.target.wants/"
ln -s /usr/lib/systemd/system/multi-user.target "$units/default.target"
ln -s /vm/csb "$place/tree/usr/local/bin/csb"
ln -s /vm/csb "$place/tree/usr/bin/csb"
echo 0123456789abcdef0123456789abcdef >"$place/tree/etc/machine-id"
install -m755 scripts/vm/systemd.sh "$guest/systemd.sh"
mkdir "$guest/deps"
install -m755 scripts/vm/suite.sh "$guest/suite.sh"
cc -O1 -o "$guest/probe" tests/security/probe.c
strip -o "$guest/csb" "$target/debug/csb"
# `programs` needs compilers, `document` the checkout; the others left out say nothing of a kernel and take minutes emulated.
while read -r test program; do
    case $test in csb_tests | programs) continue ;; esac
    strip -o "$guest/deps/$test" "$program"
    comm -23 <("$program" --list --format=terse | sort) <("$program" --list --format=terse --ignored | sort) |
        sed -n 's/: test$//p' | grep -vE '^document::|::random::|ten_thousand|hundreds_of_commands' | sed "s/^/$test /" >>"$guest/tests" || true
done <<<"$built"
if [ -n "${VM_TESTS:-}" ]; then
    grep -E -- "$VM_TESTS" "$guest/tests" >"$guest/some" || { echo "test-vm: no test matches $VM_TESTS"; exit 2; }
    mv "$guest/some" "$guest/tests"
fi

mkdir -p "$place/initramfs/bin"
cp /bin/busybox "$place/initramfs/bin/"
install -m755 scripts/vm/init "$place/initramfs/init"
# What this kernel has built in, or no longer has (libcrc32c), is no module.
for module in virtio_blk overlay loop libcrc32c erofs vsock vmw_vsock_virtio_transport_common vsock_loopback; do
    file=$(find "$kernel/lib/modules" -name "$module.ko.xz")
    [ -z "$file" ] || xz -dc "$file" >"$place/initramfs/$module.ko"
done
(cd "$place/initramfs" && find . | cpio -o -H newc --quiet) >"$place/initramfs.cpio"
rm -f "$place/disk.img"
PATH=$PATH:/usr/sbin mke2fs -qF -t ext4 -E root_owner=0:0,lazy_itable_init=1 -d "$place/tree" "$place/disk.img" 3G
rm -rf "$place/tree" "$place/initramfs"

status=0
for part in ${VM_PARTS:-full without-landlock systemd}; do
    case $part in
    without-landlock) modules=capability,yama,bpf ;;
    *) modules=landlock,lockdown,yama,bpf ;;
    esac
    if [ "$part" = systemd ] && [ ! -e /lib/systemd/systemd ]; then
        echo "test-vm: part systemd skipped: the package systemd is not installed"
        continue
    fi
    echo "test-vm: Linux $release, cgroup v2, lsm=$modules, part $part"
    started=$SECONDS
    # The disk is thrown away with the machine.
    timeout --foreground "${VM_TIMEOUT:-1200}" "${qemu[@]}" -M q35 -accel tcg -m 3072 -smp 2 -nographic -nodefaults \
        -no-user-config -no-reboot -serial stdio -kernel "$kernel/boot/vmlinuz-$release" -initrd "$place/initramfs.cpio" \
        -append "console=ttyS0 quiet panic=-1 lsm=$modules csb.part=$part systemd.firstboot=off systemd.show_status=off" \
        -drive "id=disk,file=$place/disk.img,format=raw,if=none,snapshot=on" -device virtio-blk-pci,drive=disk \
        </dev/null 2>&1 | stdbuf -oL tr -d '\r' | tee "$place/$part.log" || true
    echo "test-vm: part $part took $((SECONDS - started)) s"
    grep -qE '^vm: [1-9][0-9]* passed, 0 failed$' "$place/$part.log" || status=1
done
rm -f "$place/disk.img"
[ $status = 0 ] || { echo "test-vm: failed"; exit 1; }

#!/usr/bin/env bash
# Prints a directory with the files of a package of Debian, downloaded and unpacked there, never installed:
# unpacked.sh PLACE SUITE PACKAGE…     one line for each package
#
# PLACE keeps what was unpacked. SUITE is one of Debian's (`trixie`), whose newest version is taken; where it cannot be
# had, or for SUITE `host`, that of the package sources of this host. Fails where there is none. `META>START` is the package
# that META depends on and whose name begins with START: `linux-image-cloud-amd64>linux-image-`.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: unpacked.sh PLACE SUITE PACKAGE…" >&2; exit 2; }
place=$1 suite=$2
shift 2

apt=$place/apt-$suite
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/answers"
# What was answered within a day is so still: to ask apt takes seconds.
answer=$apt/answers/$(echo "$place $*" | sha256sum | head -c 16)
if [ -n "$(find "$answer" -mtime -1 2>/dev/null)" ]; then
    there=1
    while read -r directory; do [ -e "$directory" ] || there=; done <"$answer"
    [ -z "$there" ] || { cat "$answer"; exit; }
fi
options=()
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep '/debian/*$' | head -1 || true)
if [ "$suite" != host ] && [ -n "$mirror" ]; then
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    # Once a day as well.
    if [ -z "$(find "$apt/updated" -mtime -1 2>/dev/null)" ]; then
        apt-get "${options[@]}" -qq update >/dev/null 2>&1 && touch "$apt/updated" || options=()
    fi
fi

newest() { apt-cache "${options[@]}" show "$1" 2>/dev/null | sed -n 's/^Version: //p' | sort -V | tail -1; }
directories=()
for package; do
    case $package in
    *">"*)
        meta=${package%%>*} start=${package#*>}
        package=$(apt-cache "${options[@]}" depends "$meta" 2>/dev/null | sed -n "s/.*Depends: \\($start[^ ]*\\)\$/\\1/p" | head -1)
        [ -n "$package" ] || { echo "unpacked.sh: no package source has $meta" >&2; exit 1; }
        ;;
    esac
    version=$(newest "$package")
    # The lists of a fresh machine may be absent.
    [ -n "$version" ] || { apt-get "${options[@]}" -qq update >/dev/null 2>&1 || true; version=$(newest "$package"); }
    [ -n "$version" ] || { echo "unpacked.sh: no package source has $package" >&2; exit 1; }
    directory=$place/${package}_${version//:/%3a}
    if [ ! -e "$directory" ]; then
        rm -rf "$place/${package}"_* "$apt"/*.deb
        (cd "$apt" && apt-get "${options[@]}" -qq -o APT::Sandbox::User=root download "$package=$version" >/dev/null)
        dpkg-deb -x "$apt"/*.deb "$directory.part" && mv "$directory.part" "$directory"
        rm -f "$apt"/*.deb
    fi
    directories+=("$directory")
done
printf '%s\n' "${directories[@]}" >"$answer.$$"
mv "$answer.$$" "$answer"
cat "$answer"

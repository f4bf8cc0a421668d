#!/usr/bin/env bash
# Prometheus and promtool for the tests of ops/. Nothing is installed, no service is started and no root is needed: the
# distribution's package is unpacked into a folder.
#
#   xtask/prometheus.sh DIR       makes DIR/prometheus and DIR/promtool where they are missing, and says the version
set -euo pipefail

if [ $# -ne 1 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)

fail() {
  echo "prometheus.sh: $1" >&2
  exit 1
}

if [ -x "$dir/prometheus" ] && [ -x "$dir/promtool" ] && "$dir/promtool" --version 2>/dev/null; then exit; fi
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
  ln -sf "$(command -v prometheus)" "$(command -v promtool)" "$dir/"
  exec "$dir/promtool" --version
fi
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || fail "no $tool here: see https://prometheus.io/download/"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
download() (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq prometheus)
# The lists may be missing or old; root can renew them.
download 2>/dev/null || { apt-get update -qq && download; } || fail "the package prometheus cannot be downloaded"
dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
# In one step each, as two tests may be fetching them.
for name in prometheus promtool; do
  cp "$work/root/usr/bin/$name" "$dir/$name.$$"
  mv "$dir/$name.$$" "$dir/$name"
done
"$dir/promtool" --version

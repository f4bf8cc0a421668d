#!/usr/bin/env bash
# Docker Compose for the test that gives it compose.yaml (`config` needs no engine). Nothing is installed and no root is
# needed: the package is unpacked into a folder.
#
#   xtask/compose.sh DIR       makes DIR/docker-compose where it is missing, and says its version
#
# It is the distribution's own package where that is version 2 (Ubuntu, Debian 13), else that of Debian 13, checked with
# the keys that Debian 12 has. Debian 12's own, 1.29, is older than what compose.yaml is written for.
set -euo pipefail

if [ $# -ne 1 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
compose=$dir/docker-compose

fail() {
  echo "compose.sh: $1" >&2
  exit 1
}

if [ -x "$compose" ] && "$compose" version; then exit; fi
for tool in apt-get apt-cache dpkg dpkg-deb; do
  command -v "$tool" >/dev/null || fail "no $tool here: see https://docs.docker.com/compose/install/"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The version of a package in the sources that `apt_options` name; fails where there is none.
candidate() {
  local version
  version=$(apt-cache "${apt_options[@]}" policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p')
  [ -n "$version" ] && [ "$version" != '(none)' ] && printf '%s' "$version"
}

# The package that holds version 2 in those sources; fails where none does.
package() {
  local name version
  for name in docker-compose-v2 docker-compose; do
    if version=$(candidate "$name") && dpkg --compare-versions "$version" ge 2; then
      printf '%s' "$name"
      return
    fi
  done
  return 1
}

apt_options=()
if ! name=$(package); then
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -r "$keyring" ] || fail "no package of Compose 2 in apt's sources (after apt-get update), and no $keyring to check Debian's with"
  mirror=${MIRROR:-http://deb.debian.org/debian}
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb [signed-by=$keyring] $mirror trixie main" >"$work/sources.list"
  # A world of its own: the machine's own lists stay as they are.
  apt_options=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Dir::Etc::PreferencesParts=/dev/null
    -o APT::Sandbox::User=root -o Acquire::Languages=none
  )
  apt-get "${apt_options[@]}" update -qq || fail "the package lists of $mirror cannot be read; MIRROR=URL chooses another mirror"
  name=$(package) || fail "no package of Compose 2 on $mirror"
fi

# Its dependencies are for those who start containers; the program itself is one file.
(cd "$work" && apt-get "${apt_options[@]}" download -qq "$name") || fail "$name cannot be downloaded"
dpkg-deb -x "$work/$name"_*.deb "$work/root"
found=$(find "$work/root" -type f -name docker-compose -perm -u+x | head -n 1)
[ -n "$found" ] || fail "no program docker-compose in the package $name"
cp "$found" "$compose.$$"
# In one step, as two tests may be fetching it.
mv "$compose.$$" "$compose"
"$compose" version

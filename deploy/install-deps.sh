#!/usr/bin/env bash
# Installs the Debian 12 packages that infercache is built, tested and measured with. This is the one
# list of them. Does nothing, and needs neither root nor network, when all are there.
#
#   deploy/install-deps.sh           everything below
#   deploy/install-deps.sh --build   what deploy/run.sh needs: compiler, libraries, the demo's tools
#   deploy/install-deps.sh --package what packages (cpack) are made with
#   deploy/install-deps.sh --list    print the packages, one a line (with --build: those)
set -euo pipefail

# What the daemon, the client and the CLI are built from.
build_packages=(
  g++ lld cmake ninja-build ccache pkg-config git ca-certificates
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  libasio-dev libspdlog-dev libfmt-dev libcli11-dev libyaml-cpp-dev
  prometheus-cpp-dev libcivetweb-dev nlohmann-json3-dev
  libxxhash-dev libisal-dev libsystemd-dev
)
# What makes Debian packages of the build.
package_packages=(dpkg-dev file)
# The second compiler, its sanitizers and checkers, and the test libraries.
test_packages=(
  clang clang-format clang-tidy libclang-rt-14-dev llvm-14
  libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev
  shellcheck spin openssl curl python3 python3-dev python3-venv groff-base
  prometheus # for promtool
  systemd # for systemd-analyze
  debootstrap systemd-container # for tests/install/packages_test.sh
)
# What the benchmarks compare with.
peer_packages=(memcached redis-server)

fail() {
  printf 'install-deps.sh: %s\n' "$*" >&2
  exit 1
}

# The packages among the arguments that are not installed.
missing_of() {
  local installed
  installed=$(dpkg-query -W -f='${db:Status-Status} ${binary:Package}\n' 2>/dev/null |
    sed -n 's/^installed \([^:]*\).*$/\1/p')
  printf '%s\n' "$@" | grep -Fxv -f <(printf '%s\n' "$installed") || true
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo -n "$@"
  fi
}

packages=("${build_packages[@]}" "${package_packages[@]}" "${test_packages[@]}" "${peer_packages[@]}")
list_only=
for argument in "$@"; do
  case $argument in
    --build) packages=("${build_packages[@]}") ;;
    --package) packages=("${package_packages[@]}") ;;
    --list) list_only=yes ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *) fail "unknown argument '$argument'; --help lists what there is" ;;
  esac
done
if [ -n "$list_only" ]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

command -v dpkg-query >/dev/null ||
  fail "this is not Debian; install by other means what corresponds to: ${packages[*]}"
mapfile -t missing < <(missing_of "${packages[@]}")
[ "${#missing[@]}" -gt 0 ] || exit 0

printf 'Installing %d packages: %s\n' "${#missing[@]}" "${missing[*]}"
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null ||
    fail "root is needed, and sudo asks for a password here. Run: sudo $0 $*"
fi

# Debian starts a server as soon as it is installed; the peers are only wanted as programs. A policy
# file that is there already stays as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'as_root rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
fi

apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -qq)
log=$(mktemp)
if ! as_root "${apt[@]}" update >"$log" 2>&1; then
  cat "$log" >&2
  fail "apt-get update failed (above): is the package mirror of /etc/apt reachable?"
fi
if ! as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null; then
  tail -30 "$log" >&2
  fail "apt-get install failed (above). On Debian 12 (bookworm) all of these are in 'main'."
fi
rm -f "$log"

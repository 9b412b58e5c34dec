#!/usr/bin/env bash
# Installs a build and uses it as others would: a project that knows nothing of the tree finds the client
# by find_package and by pkg-config, and talks to the installed daemon. Prints each command.
#
#   consumers_test.sh CMAKE BUILD_DIR INSTALL_PREFIX COMPILER
set -euo pipefail

cmake=$1 build=$2 prefix=$3 compiler=$4
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/consumer" && pwd)
work=$(mktemp -d)
daemon=

cleanup() {
  if [ -n "$daemon" ]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT

exec 3>&1
run() {
  printf '+ %s\n' "$*" >&3
  "$@"
}

fail() {
  printf 'FAILED: %s\n' "$*"
  exit 1
}

# --- Install ---
for component in client server cli; do
  run env DESTDIR="$work/root" "$cmake" --install "$build" --component $component >"$work/install.log" ||
    { cat "$work/install.log" && fail "install of $component"; }
done
root=$work/root$prefix
# The headers that others see need nothing of the tree.
[ "$(cd "$root/include/infercache" && echo *)" = 'claim.h client.h device.h types.h' ] || fail 'public headers'

# --- The installed daemon ---
run "$root/bin/infercached" --version
"$root/bin/infercached" --capacity 32MiB --grpc-listen 127.0.0.1:0 --http-listen '' --socket '' \
  --ready-file "$work/ready.json" >"$work/daemon.log" 2>&1 &
daemon=$!
for _ in $(seq 600); do
  [ ! -s "$work/ready.json" ] || break
  kill -0 "$daemon" 2>/dev/null || { cat "$work/daemon.log" && fail 'the daemon did not start'; }
  sleep 0.1
done
endpoint=$(sed -n 's/.*"grpc":"\([^"]*\)".*/\1/p' "$work/ready.json")
run "$root/bin/infercachectl" --endpoint "$endpoint" ping

# --- By CMake ---
# What an existing project would write is consumer/CMakeLists.txt.
run "$cmake" -S "$source" -B "$work/by-cmake" -DCMAKE_PREFIX_PATH="$root" \
  -DCMAKE_CXX_COMPILER="$compiler" >"$work/configure.log" 2>&1 ||
  { cat "$work/configure.log" && fail 'find_package'; }
run "$cmake" --build "$work/by-cmake"
run "$work/by-cmake/consumer" "$endpoint" | tee "$work/by-cmake.out"
grep -q '^stored: 24 bytes' "$work/by-cmake.out" || fail 'the program found by CMake'

# --- By pkg-config ---
PKG_CONFIG_PATH=$(dirname "$(find "$root" -name infercache.pc)")
export PKG_CONFIG_PATH
printf "+ PKG_CONFIG_PATH=%s %s -std=c++20 main.cc \$(pkg-config --cflags --libs infercache)\n" \
  "$PKG_CONFIG_PATH" "$compiler"
# Words are what pkg-config prints.
# shellcheck disable=SC2046
"$compiler" -std=c++20 "$source/main.cc" -o "$work/by-pkg-config" \
  $(pkg-config --cflags --libs infercache)
run "$work/by-pkg-config" "$endpoint" | tee "$work/by-pkg-config.out"
grep -q '^was there: 24 bytes' "$work/by-pkg-config.out" || fail 'the program found by pkg-config'

printf 'find_package and pkg-config: ok\n'

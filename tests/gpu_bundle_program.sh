#!/bin/sh
# Runs the program of this name in libexec/ with the bundle's libraries, its own C library among them
# only where the system's is older than the one it was built with. (Through the bundle's loader,
# /proc/self/exe is the loader: a program cannot start itself again.)
bundle=$(cd "$(dirname "$0")/.." && pwd) || exit 1
program=$bundle/libexec/$(basename "$0")
libraries=$bundle/lib
# shellcheck source=tests/gpu_bundle_glibc.sh
. "$bundle/glibc/choice.sh"
if [ "$INFERCACHE_BUNDLE_GLIBC" = bundled ]; then
  exec "$bundle/glibc/ld-linux-x86-64.so.2" --argv0 "$0" \
    --library-path "$bundle/glibc:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$program" "$@"
fi
LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$program" "$@"

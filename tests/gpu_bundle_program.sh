#!/bin/sh
# Runs the program of this name in libexec/ with the bundle's libraries, its own C library among them
# only where the system's is older than the one it was built with. (Through the bundle's loader,
# /proc/self/exe is the loader: a program cannot start itself again.)
here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
program=$here/libexec/$(basename "$0")
libraries=$here/lib
if [ -z "${INFERCACHE_BUNDLE_GLIBC:-}" ]; then
  needed=$(cat "$here/glibc/version")
  found=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
  INFERCACHE_BUNDLE_GLIBC=system
  [ "$(printf '%s\n' "$needed" "${found:-0}" | sort -V | head -n1)" = "$needed" ] ||
    INFERCACHE_BUNDLE_GLIBC=bundled
  export INFERCACHE_BUNDLE_GLIBC
fi
if [ "$INFERCACHE_BUNDLE_GLIBC" = bundled ]; then
  exec "$here/glibc/ld-linux-x86-64.so.2" --argv0 "$0" \
    --library-path "$here/glibc:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$program" "$@"
fi
LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$program" "$@"

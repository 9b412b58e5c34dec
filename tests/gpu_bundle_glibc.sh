# Sourced: sets INFERCACHE_BUNDLE_GLIBC, unless it is set, to the C library that the bundle's programs run with:
# the "system"'s, or the "bundled" one where that is older than what they were built with. `bundle` is its folder.
# shellcheck shell=sh disable=SC2154
if [ -z "${INFERCACHE_BUNDLE_GLIBC:-}" ]; then
  needed=$(cat "$bundle/glibc/version")
  found=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
  INFERCACHE_BUNDLE_GLIBC=system
  [ "$(printf '%s\n' "$needed" "${found:-0}" | sort -V | head -n1)" = "$needed" ] ||
    INFERCACHE_BUNDLE_GLIBC=bundled
  export INFERCACHE_BUNDLE_GLIBC
fi

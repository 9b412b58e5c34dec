#!/usr/bin/env bash
# None of these programs needs a library of CUDA's to start: they load the driver if there is one.
#
#   links_test.sh PROGRAM...
set -euo pipefail

command -v readelf >/dev/null || {
  echo "links_test.sh: no readelf, skipped"
  exit 77
}
for program in "$@"; do
  needed=$(readelf -d "$program" | grep NEEDED)
  # An empty list would say nothing.
  grep -q 'libc\.so' <<<"$needed" || {
    echo "$program: what does it need?"
    exit 1
  }
  if grep -E 'libcuda|libcudart|libnv' <<<"$needed"; then
    echo "$program: links CUDA"
    exit 1
  fi
done

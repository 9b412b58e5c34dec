#!/usr/bin/env bash
# Makes a GPU bundle of a build folder's programs, and runs it on the bundle's own stand-in for the
# driver, from another folder and without the build's environment.
#
#   gpu_bundle_test.sh BUILD_DIR
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
chmod 0755 "$work" # some tests have workers of another user
trap 'rm -rf "$work"' EXIT
"$tests/make_gpu_bundle.sh" --build-dir "$1" -o "$work/bundle.tar.gz"
tar -C "$work" -xzf "$work/bundle.tar.gz"
bundle=$work/infercache-gpu
# One with numpy, which the bundle was made with; the machine's own may have none.
python=$(realpath "$1")/python/venv/bin/python
cd /

# run [VARIABLE=VALUE...] ARGUMENT...
run() {
  local variables=()
  while [[ ${1:-} == [A-Z]*=* ]]; do variables+=("$1") && shift; done
  env -i PATH="$PATH" "${variables[@]}" "$bundle/run_gpu.sh" --fake "$@"
}

# is_skipped WHY [VARIABLE=VALUE...]: the Python client's test is, which fails only if it is required.
is_skipped() {
  local why=$1 required=0
  shift
  run "$@" --only python_interop | tee "$work/told"
  [ "$(tail -n 1 "$work/told")" = '0 passed, 0 failed' ]
  tail -n 2 "$work/told" | grep -q "^SKIPPED python_interop: $why"
  run "$@" --only python_interop --require-python >"$work/told" || required=$?
  [ "$required" = 1 ] && [ "$(tail -n 1 "$work/told")" = '0 passed, 1 failed' ]
}

if [ ! -d "$bundle/python" ]; then # pip reaches no package index
  run
  is_skipped 'the bundle has no Python client'
  exit
fi
run PYTHON="$python" --require-python
is_skipped "there is no $work/none" PYTHON="$work/none"
# On a machine whose Python is of another minor version.
rm "$bundle"/python/infercache/_core*.so
is_skipped '.*no compiler' PYTHON="$python" CXX="$work/none"
run PYTHON="$python" --require-python --only python_interop

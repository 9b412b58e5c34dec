#!/usr/bin/env bash
# Makes a GPU bundle of a build folder's programs, and runs it on the bundle's own stand-in for the
# driver, from another folder and without the build's environment.
#
#   gpu_bundle_test.sh BUILD_DIR
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$tests/make_gpu_bundle.sh" --build-dir "$1" -o "$work/bundle.tar.gz"
tar -C "$work" -xzf "$work/bundle.tar.gz"
cd /
env -i PATH="$PATH" "$work/infercache-gpu/run_gpu.sh" --fake

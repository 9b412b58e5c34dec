#!/usr/bin/env bash
# Makes what tests/run_gpu.sh runs on a machine that has a GPU and its driver, but none of our libraries
# and no network: daemon, CLI, the tests labelled gpu and bench/gpu, with every library they need; and, where
# pip reaches a package index, the Python client for the minor version of the python3 here, with what builds
# it there for another one.
#
#   tests/make_gpu_bundle.sh [--build-dir DIR] [-o FILE.tar.gz]
#     --build-dir  take the programs from there as they are [build them in build/bundle]
#     -o           [build/infercache-gpu.tar.gz]
#
# There: tar xzf infercache-gpu.tar.gz && infercache-gpu/run_gpu.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
build=
output=build/infercache-gpu.tar.gz
most_bytes=$((57 << 20))
# Where each is in a build folder.
programs=(bin/infercached bin/infercachectl bench/gpu/infercache_gpu_bench
  tests/conformance/conformance_test tests/cuda/cuda_test tests/cuda/cuda_holder
  tests/gpu/gpu_tiers_test tests/gpu/gpu_demoter_test tests/gpu/gpu_sessions_test
  tests/gpu/gpu_client_test tests/gpu/gpu_death_test tests/gpu/gpu_lending_test
  tests/gpu/infercache_gpu_worker tests/gpu/infercache_lending_worker tests/chaos/infercache_test_worker)

fail() {
  printf 'make_gpu_bundle.sh: %s\n' "$*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --build-dir) build=${2:?} && shift ;;
    -o) output=${2:?} && shift ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *) fail "unknown argument '$1'; --help lists what there is" ;;
  esac
  shift
done

if [ -z "$build" ]; then
  build=build/bundle
  deploy/install-deps.sh
  cmake --preset release -B "$build" -DINFERCACHE_BUILD_TESTS=ON -DINFERCACHE_BUILD_BENCH=ON >/dev/null
  cmake --build "$build" --target fake_cuda infercache_client "${programs[@]##*/}" || fail 'the build failed (above)'
fi

build=$(realpath "$build")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/infercache-gpu
mkdir -p "$bundle"/{bin,libexec,lib,glibc,fake}

for program in "${programs[@]}"; do
  name=${program##*/}
  [ -x "$build/$program" ] || fail "$build/$program is not built"
  strip -o "$bundle/libexec/$name" "$build/$program"
  install tests/gpu_bundle_program.sh "$bundle/bin/$name"
done
strip -o "$bundle/fake/libcuda.so.1" "$build/tests/fake_cuda/lib/libcuda.so.1"
install tests/run_gpu.sh "$bundle/run_gpu.sh"

# The extension finds our libraries, and these each other, in lib/, unless the process has them already:
# an RPATH, unlike a RUNPATH, is also for what a library needs in turn. From the folders of tests/run.sh python: so
# each finds compiled what the other has.
add_python_client() {
  local venv=$build/python/venv
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || return 1
  "$venv/bin/pip" install --quiet --disable-pip-version-check \
    'scikit-build-core>=0.11' 'nanobind>=3.0' 'numpy>=1.24' || return 1
  cmake --install "$build" --component client --prefix "$build/python/client" >/dev/null || return 1
  # shellcheck disable=SC2016  # $ORIGIN is the loader's
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --config-settings=cmake.define.INFERCACHE_PREBUILT="$build/python/client" \
    --config-settings=cmake.define.CMAKE_INSTALL_RPATH='$ORIGIN/../../lib' \
    --config-settings=cmake.define.CMAKE_MODULE_LINKER_FLAGS=-Wl,--disable-new-dtags \
    --target "$bundle/python" client/python || return 1
  strip "$bundle"/python/infercache/_core*.so
  rm -rf "$bundle"/python/*.dist-info "$bundle"/python/infercache/__pycache__
  install -m 644 tests/python/gpu_interop.py tests/python/gpu_memory.py "$bundle/python/"
  add_python_source "$("$venv/bin/python" -c 'import nanobind; print(nanobind.__path__[0])')"
}

# add_python_source NANOBIND: what tests/gpu_bundle_python.sh builds the extension from.
add_python_source() {
  local source=$bundle/python/source archive absl
  install tests/gpu_bundle_python.sh "$bundle/python/build.sh" &&
    mkdir -p "$source"/{client/python/ext,include,lib,nanobind/ext} &&
    cp client/python/ext/*.{cc,h} client/python/ext/exports.map "$source/client/python/ext" &&
    cp -r "$1/include" "$1/src" "$source/nanobind" &&
    cp -r "$1/ext/robin_map" "$source/nanobind/ext" &&
    cp -r "$build/python/client/include/infercache" "$source/include" || return 1
  # Where the compiler finds them by itself.
  absl=$(echo '#include <absl/base/config.h>' | c++ -x c++ -std=c++20 -M -E - | grep -o '/[^ ]*/absl/base/config.h') || return 1
  cp -r "${absl%/base/config.h}" "$source/include" || return 1
  for archive in "$build"/python/client/lib/*.a; do
    strip --strip-debug -o "$source/lib/${archive##*/}" "$archive" || return 1
  done
}
if ! add_python_client; then
  rm -rf "$bundle/python"
  printf 'make_gpu_bundle.sh: without the Python client (above)\n' >&2
fi

# The C library's own files apart: they go together, and only where the system's are older.
glibc='^(ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libanl|libutil)\.so'
mapfile -t extensions < <(find "$bundle" -path '*/python/*.so')
ldd "$bundle"/libexec/* "$bundle/fake/libcuda.so.1" "${extensions[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
  sort -u | while read -r library; do
  [[ ${library##*/} =~ $glibc ]] || install -m 644 "$(realpath "$library")" "$bundle/lib/${library##*/}"
done
system=$(dirname "$(ldd "$bundle/libexec/infercached" | awk '$1 == "libc.so.6" {print $3}')")
for library in libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libresolv.so.2; do
  install -m 755 "$(realpath "$system/$library")" "$bundle/glibc/$library"
done
install -m 755 "$(realpath /lib64/ld-linux-x86-64.so.2)" "$bundle/glibc/ld-linux-x86-64.so.2"
getconf GNU_LIBC_VERSION | cut -d' ' -f2 >"$bundle/glibc/version"
install -m 644 tests/gpu_bundle_glibc.sh "$bundle/glibc/choice.sh"
git -c safe.directory="$root" rev-parse HEAD >"$bundle/revision"

mkdir -p "$(dirname "$output")"
tar -C "$work" -cz --owner=0 --group=0 -f "$output" infercache-gpu
bytes=$(stat -c %s "$output")
printf '%s: %d MiB\n' "$output" $((bytes >> 20))
[ "$bytes" -le "$most_bytes" ] || fail "it is to be at most $((most_bytes >> 20)) MiB"

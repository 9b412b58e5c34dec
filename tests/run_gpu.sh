#!/usr/bin/env bash
# Runs the tests labelled gpu and bench/gpu on a machine with a GPU, from the bundle that
# tests/make_gpu_bundle.sh made elsewhere: needs the GPU's driver and a shell, neither gRPC nor a network. Then
# the Python client's test with PyTorch, where that is: with the client of the bundle, or, for a Python of another
# minor version, one that is built here, which takes a compiler and Python.h. Else it is skipped, and the line
# before the last says why.
#
#   run_gpu.sh [--fake] [--quick] [--require-python] [--only TEST] [BUNDLE]
#     --fake            on the bundle's stand-in for the driver: shows that the bundle works, measures nothing
#     --quick           measure briefly and give no verdict
#     --require-python  it is a failure if the Python client's test is skipped
#     --only            run this one: cuda_test, ..., doctor, python_interop, measurements
#     BUNDLE            the folder, or the .tar.gz [where this script is]
#   in the environment: PYTHON, the interpreter [python3]; CXX, the compiler [c++]
#
# Says which driver and GPU it used, and before the last line what was skipped. The last line is "N passed, N
# failed"; exit status 0 only if nothing failed and no measurement missed its target. What hangs is ended and has
# failed.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fake=
quick=
python_required=
only=
bundle=

fail() {
  printf 'run_gpu.sh: %s\n' "$*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --fake) fake=yes ;;
    --quick) quick=yes ;;
    --require-python) python_required=yes ;;
    --only) only=${2:?} && shift ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -*) fail "unknown option '$1'; --help lists what there is" ;;
    *) bundle=$1 ;;
  esac
  shift
done

work=$(mktemp -d) || exit 2
chmod 0711 "$work" || exit 2 # some tests have workers of another user
trap 'rm -rf "$work"' EXIT
if [ -z "$bundle" ]; then
  bundle=$here
elif [ -f "$bundle" ]; then
  tar -C "$work" -xzf "$bundle" || fail "$bundle: cannot be unpacked"
  bundle=$work/infercache-gpu
fi
[ -x "$bundle/bin/infercached" ] || fail "$bundle: no bundle; tests/make_gpu_bundle.sh makes one"
bundle=$(cd "$bundle" && pwd)

# --- The driver ---

# Only the driver from its folder, whatever else is there.
driver=$bundle/fake/libcuda.so.1
if [ -z "$fake" ]; then
  driver=$(ldconfig -p 2>/dev/null | awk '$1 == "libcuda.so.1" && /x86-64/ {print $NF; exit}')
  for folder in /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/local/nvidia/lib64 /usr/local/cuda/compat; do
    [ -n "$driver" ] || [ ! -e "$folder/libcuda.so.1" ] || driver=$folder/libcuda.so.1
  done
  [ -n "$driver" ] || fail 'there is no libcuda.so.1 here; --fake runs on the stand-in for it'
fi
mkdir "$work/driver" && ln -s "$(realpath "$driver")" "$work/driver/libcuda.so.1"
export LD_LIBRARY_PATH=$work/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export INFERCACHE_TEST_PROGRAMS=$bundle/bin
export TMPDIR=$work

printf 'bundle    %s\nmachine   %s, %s cores\ndriver    %s\n' "$(cat "$bundle/revision")" \
  "$(uname -srm)" "$(nproc)" "$driver"
[ -n "$fake" ] || nvidia-smi -L 2>/dev/null

# --- Tests ---

passed=0
failed=0
skipped=()

bounded=(timeout -k 10 900) # with all that the program started

# check NAME COMMAND...: counts one more that passed or failed. 77 says that it was skipped.
check() {
  local name=$1 status=0 cases
  shift
  [ -z "$only" ] || [ "$only" = "$name" ] || return 0
  printf '\n=== %s\n' "$name"
  "$@" 2>&1 | tee "$work/told" | grep --line-buffered -vE '^\[( RUN      |       OK |-+)\]'
  status=${PIPESTATUS[0]}
  cases=$(sed -n 's/^\[  SKIPPED \] \([0-9]\+ tests\?\), listed below:/\1/p' "$work/told")
  [ -z "$cases" ] || skipped+=("$name: $cases, named above")
  case $status in
    0) passed=$((passed + 1)) ;;
    77)
      skipped+=("$name: $(sed -n 's/^SKIPPED: //p' "$work/told" | tail -n 1)")
      [ -z "$python_required" ] || [ "$name" != python_interop ] || failed=$((failed + 1))
      ;;
    *)
      failed=$((failed + 1))
      grep -E '^\[ RUN      \]' "$work/told" | tail -n 1
      printf '=== %s: FAILED (%d)\n' "$name" "$status"
      ;;
  esac
}

skip() {
  printf 'SKIPPED: %s\n' "$*"
  return 77
}

python_interop() {
  local python=${PYTHON:-python3} suffix client=$bundle/python status=0
  [ -d "$bundle/python" ] || skip 'the bundle has no Python client' || return
  suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') ||
    skip "there is no $python; PYTHON names another" || return
  if [ ! -e "$client/infercache/_core$suffix" ]; then
    client=$work/python
    printf 'The bundle has no _core%s: it is built\n' "$suffix"
    "$bundle/python/build.sh" "$python" "$client" >"$work/build" 2>&1 || status=$?
    [ "$status" != 77 ] || skip "the bundle has no _core$suffix for $python, and $(cat "$work/build")" || return
    [ "$status" = 0 ] || {
      tail -n 40 "$work/build"
      return 1
    }
  fi
  PYTHONDONTWRITEBYTECODE=1 "${bounded[@]}" "$python" "$client/gpu_interop.py" \
    --daemon "$bundle/bin/infercached" ${fake:+--fake}
}

# Whether one process reads what another wrote into memory of each GPU, both ways that there are.
doctor() {
  # shellcheck source=tests/gpu_bundle_glibc.sh
  . "$bundle/glibc/choice.sh"
  [ "$INFERCACHE_BUNDLE_GLIBC" = system ] ||
    skip "the system's C library is old, and with the bundle's a program cannot start itself again" || return
  # There is no daemon, which it says too.
  FAKE_CUDA_STATE=$work/gpus "${bounded[@]}" "$bundle/bin/infercachectl" doctor --endpoint "unix:$work/none" >"$work/findings" 2>&1
  cat "$work/findings"
  grep -q 'a process reads what another one wrote, by descriptor and by legacy handle' "$work/findings"
}

for test in cuda_test gpu_tiers_test gpu_demoter_test gpu_sessions_test gpu_client_test gpu_death_test \
  gpu_lending_test; do
  check "$test" "${bounded[@]}" "$bundle/bin/$test"
done
check conformance_test "${bounded[@]}" "$bundle/bin/conformance_test" '--gtest_filter=*/Gpu.*'
check doctor doctor
check python_interop python_interop

measure=("$bundle/bin/infercache_gpu_bench" --daemon-binary "$bundle/bin/infercached")
[ -z "$fake$quick" ] || measure+=(--quick --value-bytes 1048576)
check measurements "${bounded[@]}" "${measure[@]}"

[ $((passed + failed + ${#skipped[@]})) -gt 0 ] || fail "there is no test '$only'"
printf '\n'
[ "${#skipped[@]}" = 0 ] || printf 'SKIPPED %s\n' "${skipped[@]}"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]

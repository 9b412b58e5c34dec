#!/usr/bin/env bash
# Installs what is missing, then builds and runs every test. The last line is "N passed, N failed",
# counted over all test programs of all stages; exit status 0 only if nothing failed.
#
#   tests/run.sh              every stage but those that run only when they are named
#   tests/run.sh --quick      only: style, dev
#   tests/run.sh STAGE...     only these
#
# Stages:
#   style   clang-format, shellcheck, every source file in a target
#   model   spin: the pin protocol holds in every state of its model, and the model catches its mutants
#   dev     gcc: all tests, and the micro benchmarks for a moment so that they keep working
#   asan    clang, AddressSanitizer and UBSan, -Wthread-safety -Werror: all tests, and each fuzz target for
#           some seconds from its seeds
#   python  the Python client over the client and daemon of dev: its wheel, its tests, its benchmark for a moment
#           (pip installs what they need)
#   tsan    gcc, ThreadSanitizer: the tests of what links no gRPC (store, both ends of the same-host lane)
#   pyasan  the Python client's extension and the C++ client in it with gcc's AddressSanitizer: tests/python. Only
#           when it is named
#   clang   clang: everything builds, the benchmarks too. Only when it is named: asan sees the rest
#   tidy    clang-tidy with .clang-tidy's checks: client, common, convert, server. Only when it is named
#   packages
#           the Debian packages of a release build, installed and used on a bare Debian 12 that systemd boots (takes
#           root and a mirror of Debian). Only when it is named
set -euo pipefail

all_stages=(style model dev python asan tsan)
more_stages=(clang packages pyasan tidy)
quick_stages=(style dev)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
results=$root/build/test-results

fail_usage() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 2
}

# --- Tools of the stages ---

# As many compilers as there are cores, if each gets 1.5 GiB: gRPC's headers are hungry.
job_count() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 1572864)}' /proc/meminfo)
  [ "$memory" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

# Files of the repository that match one of the patterns, whoever owns the checkout.
source_files() {
  git -c safe.directory="$root" ls-files --cached --others --exclude-standard -- "$@"
}

configure() {
  cmake --preset "$1" >"$results/$1-configure.log" 2>&1 || {
    cat "$results/$1-configure.log"
    return 1
  }
}

# build PRESET [TARGET...]: quiet where nobody watches it scroll by.
build() {
  local preset=$1 targets=() options=()
  shift
  [ $# -eq 0 ] || targets=(--target "$@")
  [ -t 1 ] || options=(-- --quiet)
  configure "$preset" &&
    cmake --build --preset "$preset" --parallel "$(job_count)" "${targets[@]}" "${options[@]}"
}

# run_ctest PRESET [ctest options...]: leaves the results where count_tests finds them. A program that
# fails is run once more, since a few tests have deadlines that a machine busy with other things can
# miss; both runs are in the log, the summary names it, and a second failure counts. A wrong byte, of
# which the stress tests' workers tell, and what a sanitizer finds are never matters of time: once is
# enough.
run_ctest() {
  local preset=$1 outcome=0
  shift
  ctest --preset "$preset" --parallel "$(nproc)" --no-tests=error --test-output-size-passed 1048576 \
    --repeat until-pass:2 \
    --output-junit "$results/$preset.xml" "$@" | tee "$results/$preset-ctest.log" || outcome=1
  ! grep -E 'WRONG bytes|(Address|Leak|Thread)Sanitizer: |runtime error: |ERROR: libFuzzer: ' "$results/$preset-ctest.log" || outcome=1
  return "$outcome"
}

# --- Stages ---

stage_style() {
  local failed=0 scripts
  check_format || failed=1
  mapfile -t scripts < <(source_files '*.sh' '.ci/run')
  shellcheck "${scripts[@]}" || failed=1
  check_every_file_is_built || failed=1
  check_pragma_once || failed=1
  return "$failed"
}

check_format() {
  local unformatted
  unformatted=$(source_files '*.h' '*.cc' | xargs clang-format --dry-run 2>&1 |
    sed -n 's/^\([^: ]*\):[0-9]*:[0-9]*: .*/\1/p' | sort -u)
  [ -z "$unformatted" ] || {
    printf 'not formatted; run: clang-format -i %s\n' "$(tr '\n' ' ' <<<"$unformatted")"
    return 1
  }
}

# A source file that no target names is neither compiled nor tested.
check_every_file_is_built() {
  local failed=0 file directory
  while read -r file; do
    directory=$(dirname "$file")
    while [ ! -e "$directory/CMakeLists.txt" ]; do directory=$(dirname "$directory"); done
    # As a word of its own: foo.cc, or foo where a loop over names adds the suffix.
    if ! grep -Eq "(^|[ /(\"])$(basename "$file" .cc)(\.cc)?([ )\"]|$)" "$directory/CMakeLists.txt"; then
      printf '%s: no target in %s/CMakeLists.txt names it\n' "$file" "$directory"
      failed=1
    fi
  done < <(source_files '*.cc')
  return "$failed"
}

check_pragma_once() {
  local lacking
  lacking=$(source_files '*.h' | xargs grep -L '^#pragma once$' || true)
  [ -z "$lacking" ] || {
    printf '%s: no #pragma once\n' "$lacking"
    return 1
  }
}

stage_model() { tests/model/run.sh --junit "$results/model.xml"; }

stage_dev() { build dev && run_ctest dev; }

# reaches_index STAGE PIP: else the stage is skipped, as a test of it is.
reaches_index() {
  local reason='pip reaches no package index'
  ! "$2" index versions nanobind >/dev/null 2>&1 || return 0
  printf '<testsuite tests="1" failures="0" skipped="1">\n[  SKIPPED ] all (%s)\n</testsuite>\n' \
    "$reason" >"$results/$1.xml"
  echo "SKIPPED: $reason"
  return 1
}

# install_client PIP SETTING...: the Python client, and what its tests need.
install_client() {
  local pip=$1
  shift
  "$pip" install --quiet --disable-pip-version-check -r tests/python/requirements.txt &&
    "$pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps --no-build-isolation \
      "${@/#/--config-settings=}" client/python
}

# run_pytest STAGE PYTHON
run_pytest() {
  INFERCACHE_BUILD_DIR=$root/build/dev "$2" -m pytest -q -rs -p no:cacheprovider \
    --junitxml="$results/$1.xml" tests/python
}

stage_python() {
  local work=$root/build/dev/python
  build dev && cmake --install build/dev --component client --prefix "$work/client" >/dev/null || return 1
  [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv" || return 1
  reaches_index python "$work/venv/bin/pip" || return 0
  install_client "$work/venv/bin/pip" cmake.define.INFERCACHE_PREBUILT="$work/client" &&
    run_pytest python "$work/venv/bin/python" &&
    BUILD_DIR=build/dev PYTHON=$work/venv/bin/python \
      bench/compare.sh --quick python_get_1k python_view_16m python_match_4096
}

stage_pyasan() {
  local work=$root/build/python-asan
  build dev infercached infercachectl || return 1
  [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv" || return 1
  reaches_index pyasan "$work/venv/bin/pip" || return 0
  install_client "$work/venv/bin/pip" cmake.define.INFERCACHE_SANITIZE=address build.targets=_core \
    build-dir="$work/build" || return 1
  # The interpreter is not sanitized: the runtime has to come before it, and libstdc++ before the module,
  # since the runtime looks for __cxa_throw at once. What Python never frees is no leak of ours. What is freed must
  # not stay for long: a test looks at resident memory.
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=4 run_pytest pyasan "$work/venv/bin/python"
}

# Without the recorded traces, which take minutes here and say nothing about memory that made ones do not.
stage_asan() { build asan && INFERCACHE_TRACE_DIR='' run_ctest asan; }

stage_tsan() { build tsan && run_ctest tsan; }

stage_clang() { build clang; }

# On the batches in which the preset compiles, so that a header is read once for several files.
stage_tidy() {
  build clang infercache_messages infercache_proto infercache_rpc_wire_proto infercache_revision || return 1
  sed -nE 's|.*"file": "(.*/build/clang/(client\|common\|convert\|server)/.*/unity_[0-9]*_cxx.cxx)".*|\1|p' \
    build/clang/compile_commands.json |
    xargs -n 1 -P "$(job_count)" clang-tidy -p build/clang --quiet 2> >(grep -v 'warnings generated' >&2)
}

# In a build folder of its own, since its prefix is another one.
stage_packages() {
  local build=$root/build/packages status=0
  cmake --preset release -B "$build" -DCMAKE_INSTALL_PREFIX=/usr >"$results/packages-configure.log" 2>&1 || {
    cat "$results/packages-configure.log"
    return 1
  }
  cmake --build "$build" --parallel "$(job_count)" -- --quiet || return 1
  rm -rf "$build/packages"
  (cd "$build" && cpack) >"$results/packages-cpack.log" 2>&1 || {
    cat "$results/packages-cpack.log"
    return 1
  }
  tests/install/packages_test.sh "$build/packages" "$results/packages.xml" || status=$?
  [ "$status" = 77 ] || return "$status" # it could not run, and said so
}

# --- Running them ---

# Prints "TESTS FAILURES SKIPPED" of a stage's ctest run (or what reports like one); nothing if it ran
# none.
count_tests() {
  [ -e "$results/$1.xml" ] || return 0
  tr '\n\t' '  ' <"$results/$1.xml" | grep -o '<testsuite [^>]*>' | head -1 | tr ' ' '\n' |
    awk -F'"' '{count[$1] = $2}
               END {print count["tests="], count["failures="] + count["errors="],
                          count["disabled="] + count["skipped="]}'
}

# How many GoogleTest cases a stage's test programs ran.
count_cases() {
  [ -e "$results/$1.xml" ] || return 0
  sed -n 's/.*\[==========\] Running \([0-9]*\) tests\{0,1\} from .*/\1/p' "$results/$1.xml" |
    awk '{sum += $1} END {print sum + 0}'
}

# Cases that passed a stage by not running, with their programs' reasons.
print_skipped() {
  [ -e "$results/$1.xml" ] || return 0
  sed -n 's/.*\(\[  SKIPPED \] [^ ]*\) (.*/\1/p' "$results/$1.xml" | sort -u | sed "s/^/  $1: /"
}

# Programs of a stage that failed and then passed.
print_repeated() {
  [ -e "$results/$1-ctest.log" ] || return 0
  sed -n '/Not Run/!s/.* Test *#[0-9]*: \([^ ]*\) \.*\*\*\*.*/\1/p' "$results/$1-ctest.log" | sort | uniq -u |
    sed "s/^/  $1: /"
}

stages=()
for argument in "$@"; do
  case $argument in
    --quick) stages+=("${quick_stages[@]}") ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *)
      printf '%s\n' "${all_stages[@]}" "${more_stages[@]}" | grep -Fxq -- "$argument" ||
        fail_usage "no stage '$argument'; there are: ${all_stages[*]} ${more_stages[*]}"
      stages+=("$argument")
      ;;
  esac
done
[ "${#stages[@]}" -gt 0 ] || stages=("${all_stages[@]}")

# Recorded traces are too large for the repository: those in a directory beside it, or one below, are used.
for directory in ../traces ../*/traces; do
  if [ -z "${INFERCACHE_TRACE_DIR:-}" ] && [ -e "$directory/conversation.jsonl" ]; then
    INFERCACHE_TRACE_DIR=$(cd "$directory" && pwd)
  fi
done
export INFERCACHE_TRACE_DIR=${INFERCACHE_TRACE_DIR:-}

deploy/install-deps.sh
rm -rf "$results"
mkdir -p "$results"

passed=0
failed=0
summary=()
for stage in "${stages[@]}"; do
  printf '\n=== %s\n' "$stage"
  start=$SECONDS
  outcome=ok
  # In a subshell of its own, so that a stage cannot change what the next one sees.
  ("stage_$stage") || outcome=FAILED
  read -r tests failures skipped < <(count_tests "$stage") || tests=
  if [ -n "$tests" ]; then
    passed=$((passed + tests - failures - skipped))
    failed=$((failed + failures))
    detail="$((tests - failures - skipped)) passed, $failures failed"
    [ "$skipped" = 0 ] || detail+=", $skipped skipped"
    cases=$(count_cases "$stage")
    [ "$cases" = 0 ] || detail+=" ($cases cases)"
  else
    detail='no tests of its own'
    failures=0
  fi
  # A stage that fails without a failing test (it does not build, a style is wrong) counts as one.
  if [ "$outcome" = FAILED ] && [ "$failures" = 0 ]; then failed=$((failed + 1)); fi
  summary+=("$(printf '  %-8s %-7s %4d s   %s' "$stage" "$outcome" $((SECONDS - start)) "$detail")")
  printf '=== %s: %s, %d s\n' "$stage" "$outcome" $((SECONDS - start))
done

printf '\nSummary (%d s)\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
skipped_cases=$(for stage in "${stages[@]}"; do print_skipped "$stage"; done)
[ -z "$skipped_cases" ] || printf 'Skipped cases\n%s\n' "$skipped_cases"
repeated=$(for stage in "${stages[@]}"; do print_repeated "$stage"; done)
[ -z "$repeated" ] || printf 'Failed once, passed when run again\n%s\n' "$repeated"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]

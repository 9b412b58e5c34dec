#!/usr/bin/env bash
# Measures infercached side by side with what else one would use: starts memcached and Redis from
# Debian's packages, a plain gRPC handler, a gRPC echo and the daemon, all on private Unix sockets
# and free loopback ports, and prints one row per comparison:
#
#   case, ours, peer, unit, ratio, spread, target, ok, note
#
#   bench/compare.sh [-o json] [--quick] [CASE...]
#     -o json   one object per line with these fields
#     --quick   one short round of everything and no verdict on times: that it works, not how fast
#     --list    print the names of the cases
#
# The cases python_... run only when they are named. They measure the Python client in BUILD_DIR/bench/venv,
# a virtual environment that is made and filled if it is not there (pip; with torch only if you install
# it there), or in the environment whose interpreter is $PYTHON.
#
# BUILD_DIR is the build folder, default build/release; programs that it lacks are built there.
# Peers that are not installed are installed (deploy/install-deps.sh). Exits with 1 if a target is
# missed, with 2 if a case could not be measured. How the numbers are taken: bench/README.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
build=${BUILD_DIR:-build/release}
programs=$build/bench/compare
daemon=$build/bin/infercached
# Cases with a program of their own; infercache_compare --list names the others.
own_cases=(overhead utilisation frees)
python_cases=(python_get_1k python_view_16m python_match_4096)

fail() {
  printf 'compare.sh: %s\n' "$*" >&2
  exit 2
}

output=text
quick=
list=
cases=()
while [ $# -gt 0 ]; do
  case $1 in
    -o)
      case ${2:-} in
        json | text) output=$2 ;;
        *) fail "-o: expected json or text" ;;
      esac
      shift
      ;;
    --quick) quick=yes ;;
    --list) list=yes ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -*) fail "unknown option '$1'; --help lists what there is" ;;
    *) cases+=("$1") ;;
  esac
  shift
done

# --- What is needed ---

build_missing() {
  local program missing=()
  [ -x "$daemon" ] || missing+=(infercached)
  for program in compare grpc_peer held_worker overhead utilisation frees; do
    [ -x "$programs/infercache_$program" ] || missing+=("infercache_$program")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  printf 'Building in %s: %s\n' "$build" "${missing[*]}" >&2
  deploy/install-deps.sh >&2
  if [ -e "$build/CMakeCache.txt" ]; then
    cmake -B "$build" -DINFERCACHE_BUILD_BENCH=ON >/dev/null
  else
    cmake --preset release -B "$build" -DINFERCACHE_BUILD_BENCH=ON >/dev/null
  fi
  cmake --build "$build" --target "${missing[@]}" >&2 || fail "the build failed (above)"
}

need_peers() {
  local tool
  for tool in memcached redis-server; do
    command -v "$tool" >/dev/null && continue
    printf '%s is not installed; installing it\n' "$tool" >&2
    deploy/install-deps.sh >&2 || fail "$tool is missing: apt-get install memcached redis-server"
  done
}

# Sets `python`: an interpreter with the Python client and its peers.
need_python() {
  local venv=$build/bench/venv
  python=${PYTHON:-$venv/bin/python}
  "$python" -c 'import infercache, numpy, redis, pymemcache' 2>/dev/null && return
  [ -z "${PYTHON:-}" ] || fail "$PYTHON lacks one of: infercache, numpy, redis, pymemcache"
  printf 'Making a virtual environment in %s\n' "$venv" >&2
  {
    python3 -m venv "$venv" &&
      "$venv/bin/pip" install --quiet 'scikit-build-core>=0.11' 'nanobind>=3.0' numpy 'redis[hiredis]' pymemcache &&
      cmake --build "$build" --target infercache_client &&
      cmake --install "$build" --component client --prefix "$build/bench/client" >/dev/null &&
      "$venv/bin/pip" install --quiet --no-deps --no-build-isolation client/python \
        --config-settings=cmake.define.INFERCACHE_PREBUILT="$(realpath "$build")/bench/client"
  } >&2 || fail "the Python client could not be installed (above); do it yourself and set PYTHON"
}

build_missing
mapfile -t server_cases < <("$programs/infercache_compare" --list)
all_cases=("${server_cases[@]}" "${own_cases[@]}")
if [ -n "$list" ]; then
  printf '%s\n' "${all_cases[@]}" "${python_cases[@]}"
  exit 0
fi
for name in "${cases[@]}"; do
  printf '%s\n' "${all_cases[@]}" "${python_cases[@]}" | grep -Fxq -- "$name" ||
    fail "no case '$name'; there are: ${all_cases[*]} ${python_cases[*]}"
  [ "${name#python_}" = "$name" ] || need_python
done
[ "${#cases[@]}" -gt 0 ] || cases=("${all_cases[@]}")
need_peers

# --- The servers ---

directory=$(mktemp -d)
pids=()
# shellcheck disable=SC2317  # reached by the trap
stop_servers() {
  [ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait
  rm -rf "$directory"
}
trap stop_servers EXIT
trap 'exit 2' INT TERM

# start NAME COMMAND...: in the background; its output goes to a file that is shown if it fails.
start() {
  local name=$1
  shift
  "$@" >"$directory/$name.log" 2>&1 &
  pids+=($!)
}

# await NAME PATH: until the server has made its socket or file.
await() {
  local tries=0
  until [ -e "$2" ]; do
    if [ "$tries" -ge 600 ] || ! kill -0 "${pids[-1]}" 2>/dev/null; then
      cat "$directory/$1.log" >&2
      fail "$1 did not start"
    fi
    tries=$((tries + 1))
    sleep 0.1
  done
}

# start_memcached NAME
start_memcached() {
  local user=()
  [ "$(id -u)" -ne 0 ] || user=(-u root)
  start "$1" memcached "${user[@]}" -s "$directory/$1.sock" -m 4096 -I 64m
  await "$1" "$directory/$1.sock"
}

start_redis() {
  start redis redis-server --port 0 --unixsocket "$directory/redis.sock" --save '' \
    --appendonly no --dir "$directory" --maxmemory 2gb --maxmemory-policy allkeys-lru
  await redis "$directory/redis.sock"
}

start_grpc_peer() {
  start "$1" "$programs/infercache_grpc_peer" "$1" --socket "$directory/$1.sock" \
    --port-file "$directory/$1.port"
  await "$1" "$directory/$1.port"
}

# The rest of the capacity is for the namespaces that cases make.
start_infercached() {
  local capacity=3GiB quota=512MiB
  [ -z "$quick" ] || capacity=768MiB quota=128MiB
  start infercached "$daemon" --capacity "$capacity" --default-quota "$quota" \
    --grpc-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --socket "$directory/infercached.sock" \
    --ready-file "$directory/infercached.json" --log-level warn
  await infercached "$directory/infercached.json"
}

port_of() { cat "$directory/$1.port"; }

start_memcached memcached
start_redis
for peer in plain-sync plain-callback echo; do start_grpc_peer "$peer"; done
start_infercached
daemon_address=$(sed -n 's/.*"grpc" *: *"\([^"]*\)".*/\1/p' "$directory/infercached.json")
[ -n "$daemon_address" ] || fail "no gRPC address in the ready file"

# --- The cases ---

run_case() {
  case $1 in
    overhead)
      # Its items are counted, and what was flushed counts until memcached comes across it.
      start_memcached memcached-overhead
      "$programs/infercache_overhead" --memcached "$directory/memcached-overhead.sock" \
        --redis "$directory/redis.sock" -o "$output" ${quick:+--objects 10000}
      ;;
    utilisation)
      "$programs/infercache_utilisation" -o "$output" ${quick:+--arena 256M --turnover 3}
      ;;
    frees)
      "$programs/infercache_frees" -o "$output" ${quick:+--seconds 0.2 --sessions 4}
      ;;
    python_*)
      "$python" bench/compare/python_cases.py -o "$output" ${quick:+--quick} \
        --ours "unix:$directory/infercached.sock" --memcached "$directory/memcached.sock" \
        --redis "$directory/redis.sock" "$1"
      ;;
    *)
      "$programs/infercache_compare" -o "$output" ${quick:+--quick} \
        --ours "$daemon_address" --ours-unix "unix:$directory/infercached.sock" \
        --plain-sync "127.0.0.1:$(port_of plain-sync)" \
        --plain-callback "127.0.0.1:$(port_of plain-callback)" \
        --echo "127.0.0.1:$(port_of echo)" \
        --memcached "$directory/memcached.sock" --redis "$directory/redis.sock" \
        --daemon-binary "$daemon" --held-worker-binary "$programs/infercache_held_worker" "$1"
      ;;
  esac
}

[ "$output" = json ] || "$programs/infercache_compare" --header
result=0
for name in "${cases[@]}"; do
  status=0
  run_case "$name" || status=$?
  [ "$status" -le 1 ] || {
    tail -n 5 "$directory"/*.log >&2
    fail "$name could not be measured"
  }
  [ "$status" -le "$result" ] || result=$status
done
exit "$result"

#!/usr/bin/env bash
# Installs what is missing, builds infercached, starts it on its built-in configuration and shows two
# workers that share a cache through it. The daemon then stays up until Ctrl-C.
#
#   deploy/run.sh [--once] [OPTION OF infercached...]
#
#   --once   stop the daemon after the demo; the exit status is the demo's
#
# Where the default ports are taken: deploy/run.sh --grpc-listen 127.0.0.1:0 --http-listen 127.0.0.1:0
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/release
log=$build/infercached.log
daemon=

step() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

# As many compilers as there are cores, if each gets 1.5 GiB: gRPC's headers are hungry.
job_count() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 1572864)}' /proc/meminfo)
  [ "$memory" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

build_release() {
  local options=()
  [ -t 1 ] || options=(-- --quiet)
  mkdir -p "$build"
  cmake -S "$root" --preset release >"$build/configure.log" 2>&1 || {
    cat "$build/configure.log" >&2
    fail "configuring failed (above)"
  }
  cmake --build "$build" --parallel "$(job_count)" --target infercached infercachectl prefill_demo \
    "${options[@]}"
}

# start_daemon [OPTION...]: returns when it serves. In a session of its own, so that Ctrl-C reaches
# only this script, which then asks it to drain; it also ends when this script is killed.
start_daemon() {
  rm -f "$build/ready.json"
  setsid setpriv --pdeathsig TERM "$build/bin/infercached" --ready-file "$build/ready.json" "$@" \
    >"$log" 2>&1 </dev/null &
  daemon=$!
  while [ ! -s "$build/ready.json" ]; do
    if ! kill -0 "$daemon" 2>/dev/null; then
      local status=0
      wait "$daemon" || status=$?
      daemon=
      cat "$log" >&2
      [ "$status" != 69 ] ||
        fail "an address is taken (above). Stop what listens there, or choose free ports: $0 --grpc-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --socket ''"
      fail "infercached exited with $status (above)"
    fi
    sleep 0.05
  done
}

# Prints one entry of the ready file.
address_of() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" "$build/ready.json"; }

stop_daemon() {
  [ -n "$daemon" ] || return 0
  local pid=$daemon status=0
  daemon=
  kill -TERM "$pid" 2>/dev/null || true
  wait "$pid" || status=$?
  [ "$status" = 0 ] || printf 'run.sh: infercached exited with %d; its log is %s\n' "$status" "$log" >&2
  return "$status"
}

print_next_commands() {
  local ctl="$build/bin/infercachectl --endpoint $1"
  step "infercached is up (pid $daemon). Ctrl-C stops it."
  cat <<END
  workers   $1
  gRPC      $3
  HTTP      $2
  log       $log

  To try, from another terminal:
    $ctl stat
    $ctl list
    echo hello | $ctl put greeting
    $ctl get greeting
    $ctl bench --op get --size 1MiB --seconds 3
    curl http://$2/metrics
    $build/bin/prefill_demo --endpoint $1
END
}

once=
case ${1:-} in
  --once)
    once=yes
    shift
    ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
esac

step 'Packages'
"$root/deploy/install-deps.sh" --build
step 'Build (release)'
build_release

step 'Daemon'
trap stop_daemon EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start_daemon "$@"
grpc=$(address_of grpc)
socket=$(address_of socket)
printf 'infercached (pid %d) serves this host on %s, gRPC on %s\n' "$daemon" "${socket:-no socket}" "$grpc"
# Workers of this host take their hits from shared memory; without a socket there is gRPC.
endpoint=${socket:+unix:$socket}
endpoint=${endpoint:-$grpc}

step 'Demo'
"$build/bin/prefill_demo" --endpoint "$endpoint" --require-hits
if [ -n "$once" ]; then
  stop_daemon
  exit 0
fi
print_next_commands "$endpoint" "$(address_of http)" "$grpc"
wait "$daemon"

#!/usr/bin/env bash
# Proves the pin protocol on a model of it, pin_protocol.pml, which says what is modelled. One line a
# check; exit status 0 only if the protocol holds in every state and each mutant goes wrong in the way
# that it must. A search that did not come to its end has proved nothing, and fails.
#
#   tests/model/run.sh                          all checks, as many at a time as there are cores: about 90 s of one, 1.3 GiB each at most
#   tests/model/run.sh --junit FILE             the same; writes the results as ctest would
#   tests/model/run.sh --story MUTANT [MACHINE] tells how a mutant (or "none") goes wrong on TSO or WEAK
set -euo pipefail

model=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pin_protocol.pml
memory_mib=2600
depth=5000000
limit_s=900

fail() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 2
}

# --- Searching ---

# generate MACHINE [spin options...]: pan.c in the current directory.
generate() {
  local machine=$1
  shift
  spin -a "-D$machine" "$@" "$model" >spin.log 2>&1 || {
    cat spin.log
    return 1
  }
}

# Generates and runs a search; its report is pan.log, its verdict the output: "holds", or what went
# wrong in the first bad state, or why the search proves nothing.
search() {
  : >pan.log
  generate "$@" || return 1
  gcc -O1 -w -DSAFETY -DCOLLAPSE -DMEMLIM="$memory_mib" -o pan pan.c || return 1
  local status=0
  timeout "$limit_s" ./pan -m"$depth" -w23 >pan.log 2>&1 || status=$?
  if grep -q '^pan:1: assertion violated *!(wrong_read)' pan.log; then
    echo 'wrong read'
  elif grep -q '^pan:1: invalid end state' pan.log; then
    echo 'stuck'
  elif grep -q '^pan:1: ' pan.log; then
    sed -n 's/^pan:1: //p' pan.log
  elif [ "$status" = 0 ] && grep -q '^Full statespace search' pan.log &&
    grep -q 'errors: 0$' pan.log && ! grep -Eq 'not completed|too small|limit|memory.*exceed' pan.log; then
    echo 'holds'
  else
    echo "unfinished (exit status $status)"
  fi
}

# Statements that the last search did not reach. A store buffer has no end.
unreached() {
  sed -n 's/^unreached in proctype //; t name; s/^\t.*pml:\([0-9]*\), state [0-9]*, \(.*\)/\1 \2/p; b
    :name; h' pan.log | grep -v '^[0-9]* "-end-"$' || true
}

# --- Checks ---

checks=() # their names; check i is run in the folder i, and leaves its outcome there, empty if all is well

# check NAME WANTED MACHINE [spin options...]: as soon as a core is free.
check() {
  local number=${#checks[@]}
  checks+=("$1")
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
  mkdir "$number"
  (cd "$number" && run_check "$@") &
}

run_check() {
  local name=$1 wanted=$2 start=$SECONDS found states missing complaint=''
  shift 2
  found=$(search "$@") || found="does not build: $found"
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log)
  if [ "$found" != "$wanted" ]; then
    complaint="$found; must be: $wanted"
  elif [ "$wanted" = holds ] && [ $# = 1 ]; then
    # The whole model: nothing in it may be idle.
    missing=$(unreached)
    [ -z "$missing" ] || complaint="holds, but these lines were never reached: ${missing//$'\n'/, }"
  fi
  case $complaint,$wanted,$name in
    ,holds,mutant*) printf '%s: harmless (%s states)\n' "$name" "$states" ;;
    ,holds,*) printf '%s: holds (%s states, %d s)\n' "$name" "$states" $((SECONDS - start)) ;;
    ,*) printf '%s: caught (%s)\n' "$name" "$wanted" ;;
    *)
      printf '%s: FAILED: %s\n' "$name" "$complaint"
      tail -n 40 pan.log
      ;;
  esac
  echo $((SECONDS - start)) >seconds
  echo "$complaint" >outcome
}

# Nothing if the check came to its end and all was well.
outcome_of() { cat "$1/outcome" 2>&1; }

# mutant NAME WANTED_ON_TSO WANTED_ON_WEAK. One reader is enough to go wrong.
mutant() {
  check "mutant $1 TSO" "$2" TSO -DALONE "-DMUTANT=${1^^}"
  check "mutant $1 WEAK" "$3" WEAK -DALONE "-DMUTANT=${1^^}"
}

run_checks() {
  check 'pin_protocol WEAK' holds WEAK # first, since it takes longer than all others
  check 'pin_protocol TSO' holds TSO
  check 'pin_protocol TSO, one reader, modulo 8' holds TSO -DALONE -DGENERATIONS=8
  check 'pin_protocol WEAK, one reader, modulo 8' holds WEAK -DALONE -DGENERATIONS=8
  mutant relaxed_slot_store 'wrong read' 'wrong read'
  mutant no_recheck 'wrong read' 'wrong read'
  mutant reuse_before_scan 'wrong read' 'wrong read'
  mutant relaxed_retire 'wrong read' 'wrong read'
  mutant late_in_use 'wrong read' 'wrong read'
  mutant keep_dead_page stuck stuck
  # Harmless on TSO, which does by itself what they leave out.
  mutant relaxed_publish holds 'wrong read'
  mutant acquire_recheck holds 'wrong read'
  wait
}

# The attributes are those of ctest's files, which tests/run.sh reads.
write_junit() {
  local i failures=0
  for i in "${!checks[@]}"; do [ -z "$(outcome_of "$i")" ] || failures=$((failures + 1)); done
  printf '<?xml version="1.0" encoding="UTF-8"?>\n'
  printf '<testsuite name="model" tests="%d" failures="%d" disabled="0" skipped="0" time="%d">\n' \
    "${#checks[@]}" "$failures" "$SECONDS"
  for i in "${!checks[@]}"; do
    if [ -z "$(outcome_of "$i")" ]; then
      printf '  <testcase name="%s" classname="model" time="%d" status="run"/>\n' "${checks[i]}" "$(cat "$i/seconds")"
    else
      printf '  <testcase name="%s" classname="model" time="%d" status="fail"><failure message="see the log"/></testcase>\n' \
        "${checks[i]}" "$(cat "$i/seconds" 2>/dev/null || echo 0)"
    fi
  done
  printf '</testsuite>\n'
}

# --- Telling ---

# The shortest way to go wrong with one reader, in words. Process 2 is the daemon.
story() {
  local name=${1^^} machine=$2
  grep -Eq "^#define $name [0-9]+( |$)" "$model" || fail "no mutant '$1' in $model"
  generate "$machine" -DALONE "-DMUTANT=$name"
  gcc -O1 -w -DSAFETY -DREACH -DMEMLIM="$memory_mib" -o pan pan.c
  timeout "$limit_s" ./pan -i -m600 >pan.log 2>&1 || true
  [ -e pin_protocol.pml.trail ] || fail "$1 does nothing wrong on $machine"
  spin -k pin_protocol.pml.trail "-D$machine" -DALONE "-DMUTANT=$name" "$model" |
    sed -n '/^spin: /q; s/^ *//p'
}

# --- What was asked for ---

for tool in spin gcc; do
  command -v "$tool" >/dev/null || fail "$tool is missing; deploy/install-deps.sh installs it"
done
junit=
told=()
case ${1-} in
  '') ;;
  --junit)
    [ $# = 2 ] || fail '--junit FILE'
    junit=$(realpath "$2")
    ;;
  --story)
    [ $# -ge 2 ] || fail '--story MUTANT [MACHINE]'
    told=("$2" "${3:-TSO}")
    ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;;
  *) fail "unknown argument '$1'; --help lists what there is" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if [ "${#told[@]}" -gt 0 ]; then
  story "${told[@]}"
  exit
fi
run_checks
[ -z "$junit" ] || write_junit >"$junit"
for i in "${!checks[@]}"; do [ -z "$(outcome_of "$i")" ] || exit 1; done

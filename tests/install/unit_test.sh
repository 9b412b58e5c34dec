#!/usr/bin/env bash
# A systemd unit of the daemon: systemd understands each line of it, its commands are there, and what it
# cannot do stays as it is. Needs systemd-analyze, not systemd as the init process.
#
#   unit_test.sh UNIT INSTALLED_BIN BIN GPU_PAGE    programs that UNIT names in INSTALLED_BIN are now in BIN;
#                                                   GPU_PAGE is the document that has the drop-in for GPUs
set -euo pipefail

built=$1 installed_bin=$2 bin=$3 gpu_page=$4
# Tenths of what `systemd-analyze security` calls the exposure, 0 to 100. Raise it with a reason.
most_exposed=14

command -v systemd-analyze >/dev/null || {
  echo '[  SKIPPED ] install_unit_test (systemd-analyze is not installed)'
  exit 77
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fail() {
  printf 'FAILED: %s\n' "$*"
  failed=1
}

# unit NAME [SED...]: the unit with the programs where they are, changed.
unit() {
  local name=$1
  shift
  sed -e "s|$installed_bin/|$bin/|" "$@" "$built" >"$work/$name.service"
}

# What systemd says about it. It only warns of what it does not know, and then leaves that out.
complaints() { systemd-analyze verify --man=no "$work/$1.service" 2>&1 | grep -F "$1.service" || true; }

# is_exposed NAME: more than it may be.
is_exposed() {
  ! systemd-analyze security --offline=true --no-pager --threshold="$most_exposed" "$work/$1.service" \
    >"$work/security.txt" 2>&1
}

unit infercached
said=$(complaints infercached)
[ -z "$said" ] || fail "systemd: $said"
if is_exposed infercached; then
  grep -v '✓' "$work/security.txt"
  fail "the unit is exposed more than $most_exposed tenths"
fi

# With the drop-in for GPUs, and what that is to allow.
unit gpu
# shellcheck disable=SC2016  # Markdown's backticks, not the shell's
sed -n '/^```ini$/,/^```$/{/^```/!p}' "$gpu_page" >>"$work/gpu.service"
said=$(complaints gpu)
[ -z "$said" ] || fail "systemd, of the drop-in for GPUs: $said"
grep -q '^After=.*nvidia-fabricmanager' "$work/gpu.service" || fail 'the drop-in for GPUs is not found'
# may_place NAME: it may make the system calls that place memory and threads.
may_place() {
  systemd-analyze security --offline=true --no-pager --json=short "$work/$1.service" 2>/dev/null |
    grep -qF '"set":false,"name":"SystemCallFilter=~@resources"'
}
may_place gpu || fail 'with the drop-in for GPUs the driver cannot place memory and threads'
! may_place infercached || fail 'without a GPU nothing has to be placed'

# That these would be found.
unit misspelt -e 's/^ProtectClock=/ProtectClocks=/'
[[ "$(complaints misspelt)" == *ProtectClocks* ]] || fail 'a misspelt line is not found'
unit gone -e 's|/infercached --config|/nothing --config|'
[[ "$(complaints gone)" == *'not executable'* ]] || fail 'a missing program is not found'
unit open -e '/^CapabilityBoundingSet=/d'
is_exposed open || fail 'a unit with every capability is not found'

[ "$failed" = 0 ] || exit 1
printf 'the unit: ok\n'

#!/usr/bin/env bash
# The Debian packages on a bare Debian 12: debootstrap makes one, systemd-nspawn boots it, and there
# on_debian.sh installs and uses them. Needs root, and a mirror of Debian within reach; the machine that is
# booted has no network.
#
#   packages_test.sh PACKAGES_DIR [JUNIT_FILE]
#
# MIRROR is where Debian comes from, default http://deb.debian.org/debian. Exits with 77 where it cannot run.
set -euo pipefail

packages=$(realpath "$1")
junit=${2:-}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}
# A boot, and everything in it.
limit_s=900

skip() {
  [ -z "$junit" ] || printf '<testsuite tests="1" failures="0" skipped="1">\n[  SKIPPED ] packages_test (%s)\n</testsuite>\n' \
    "$1" >"$junit"
  printf '[  SKIPPED ] packages_test (%s)\n' "$1"
  exit 77
}

[ "$(id -u)" = 0 ] || skip 'takes root'
for tool in debootstrap systemd-nspawn; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
curl -fsSL --max-time 30 -o /dev/null "$mirror/dists/bookworm/InRelease" || skip "$mirror is out of reach"

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

# What systemd boots, as small as there is.
make_debian() {
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log"
    return 1
  }
  mkdir "$root/packages"
  cp "$packages"/*.deb "$here"/{consumer/main.cc,on_debian.sh,unit_test.sh} "$root/packages"
  chroot "$root" sh -c 'apt-get -qq update && apt-get -qq -y --no-install-recommends --download-only install g++ /packages/*.deb'
}

# Runs on_debian.sh once the machine is up, and halts it.
add_test_unit() {
  cat >"$root/etc/systemd/system/packages-test.service" <<'UNIT'
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
ExecStart=/packages/on_debian.sh
StandardOutput=file:/packages/log
StandardError=inherit
UNIT
  ln -s ../packages-test.service "$root/etc/systemd/system/multi-user.target.wants/"
}

# Without a host's systemd there is nobody to register with and no unit to be put in.
boot() {
  timeout --signal=KILL "$limit_s" systemd-nspawn --quiet --register=no --keep-unit --private-network \
    --machine="infercache-packages-$$" --directory="$root" --boot </dev/null >"$work/console.log" 2>&1
}

write_junit() {
  local cases=$1 failed=$2
  printf '<?xml version="1.0" encoding="UTF-8"?>\n'
  printf '<testsuite name="packages" tests="%d" failures="%d" disabled="0" skipped="0" time="%d">\n' "$cases" "$failed" "$SECONDS"
  sed -n 's|^=== \(.*\) ok$|  <testcase name="\1" classname="packages" status="run"/>|p
          s|^=== \(.*\) FAILED$|  <testcase name="\1" classname="packages" status="fail"><failure message="see the log"/></testcase>|p' \
    "$root/packages/log"
  printf '</testsuite>\n'
}

if command -v lintian >/dev/null; then
  lintian --allow-root --fail-on error "$packages"/*.deb
else
  echo 'lintian is not installed, and not asked'
fi
make_debian
add_test_unit
boot || true
cat "$root/packages/log" 2>/dev/null || true
[ "$(tail -n 1 "$root/packages/log" 2>/dev/null)" = 'the end' ] || {
  tail -n 40 "$work/console.log"
  echo 'FAILED: it did not get to the end'
  exit 1
}
failed=$(grep -Ec '^=== .* FAILED$' "$root/packages/log") || true
cases=$(grep -Ec '^=== .* (ok|FAILED)$' "$root/packages/log")
[ -z "$junit" ] || write_junit "$cases" "$failed" >"$junit"
[ "$failed" = 0 ]

#!/usr/bin/env bash
# What packages_test.sh runs as root inside a bare Debian that systemd has booted: the packages in
# /packages are installed, used as on any host, upgraded, removed. Prints "=== CASE ok" or "=== CASE FAILED" after
# each case; no network is there, what apt needs has been downloaded.
set -uo pipefail

socket=/run/infercache/infercached.sock
config=/etc/infercache/infercached.yaml
export DEBIAN_FRONTEND=noninteractive

apt_get() { apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; }
main_pid() { systemctl show --property MainPID --value infercached; }

# until_true COMMAND...: it is, within a minute.
until_true() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.1
  done
  printf 'never: %s\n' "$*"
  return 1
}

# must COMMAND...: says so if it fails.
must() {
  "$@" || {
    printf 'failed: %s\n' "$*"
    return 1
  }
}

# as USER COMMAND...: with the groups that the user has.
as() {
  local user=$1
  shift
  setpriv --reuid "$user" --regid "$user" --init-groups "$@"
}

serves() { [ "$(systemctl is-active infercached)" = active ] && infercachectl --endpoint "unix:$socket" ping; }

# Nothing was restarted on the way: Type=notify, so apt returns when it serves.
installs_and_serves() {
  apt_get install /packages/infercache-server_*.deb /packages/infercache-cli_*.deb &&
    serves && infercachectl --endpoint 127.0.0.1:7400 ping &&
    [ "$(systemctl is-enabled infercached)" = enabled ] &&
    [ "$(systemctl show --property NRestarts --value infercached)" = 0 ]
}

has_all_its_files() {
  local audit
  audit=$(dpkg --audit && dpkg --verify infercache-server infercache-cli) && [ -z "$audit" ] &&
    dpkg-query -W -f '${Conffiles}' infercache-server | grep -Fq "$config" &&
    gzip -t /usr/share/man/man8/infercached.8.gz /usr/share/man/man1/infercachectl.1.gz &&
    bash -n /usr/share/bash-completion/completions/infercachectl
}

runs_as_its_own_user() {
  local process
  process=/proc/$(main_pid)
  must grep -Eq "^Uid:\s+$(id -u infercache)\s" "$process/status" &&
    must grep -Eq '^CapEff:\s+0+$' "$process/status" &&
    must grep -Eq '^Seccomp:\s+2$' "$process/status" &&
    must [ "$(stat -c %U "$process/mem")" = root ] && # nobody may look into it: PR_SET_DUMPABLE is 0
    must [ "$(getent passwd infercache | cut -d: -f7)" = /usr/sbin/nologin ]
}

its_unit_is_as_it_should_be() { /packages/unit_test.sh /lib/systemd/system/infercached.service /usr/bin /usr/bin; }

# The group infercache may connect, nobody else.
lets_its_group_in() {
  adduser --system --group --quiet worker && adduser --quiet worker infercache &&
    adduser --system --group --quiet stranger || return 1
  echo value | as worker infercachectl --endpoint "unix:$socket" put key &&
    [ "$(as worker infercachectl --endpoint "unix:$socket" get key)" = value ] &&
    ! as stranger infercachectl --endpoint "unix:$socket" ping
}

# Warnings are of the machine.
is_in_good_health() {
  infercachectl --endpoint "unix:$socket" doctor
}

reloaded() { journalctl --unit infercached --output cat | grep -q ' info reloaded .*level=debug'; }

# By ExecReload, in the unit's sandbox.
takes_a_new_log_level() {
  local before
  before=$(main_pid)
  sed -i 's/^  level: info/  level: debug/' "$config"
  must systemctl reload infercached && until_true reloaded && must [ "$(main_pid)" = "$before" ]
}

comes_back_after_a_kill() {
  local before
  before=$(main_pid)
  [ "$before" -gt 1 ] && kill -9 "$before" || return 1
  until_true serves && [ "$(main_pid)" != "$before" ]
}

refuses_a_wrong_configuration() {
  cp "$config" /root/right.yaml
  sed -i 's/^capacity:.*/capacity: a lot/' "$config"
  ! systemctl restart infercached && journalctl -u infercached | grep -q "infercached.yaml:[0-9]*: .*a lot" &&
    cp /root/right.yaml "$config" && systemctl restart infercached && serves
}

upgrade_keeps_the_configuration_and_restarts() {
  local before
  before=$(main_pid)
  sed -i 's/^capacity:.*/capacity: 64MiB/' "$config"
  apt_get install --reinstall /packages/infercache-server_*.deb &&
    grep -q '^capacity: 64MiB' "$config" && serves && [ "$(main_pid)" != "$before" ] &&
    infercachectl --endpoint "unix:$socket" -o json info | grep -q '"capacity_bytes":67108864'
}

# shellcheck disable=SC2046  # words are what pkg-config prints
client_package_compiles_a_program() {
  apt_get install g++ /packages/libinfercache-client-dev_*.deb &&
    g++ -std=c++20 /packages/main.cc -o /root/consumer $(pkg-config --cflags --libs infercache) &&
    as worker /root/consumer "unix:$socket"
}

comes_back_after_removal() {
  apt_get remove infercache-server && [ -e "$config" ] && ! serves && [ ! -e "$socket" ] &&
    apt_get install /packages/infercache-server_*.deb && serves
}

# But for the user, and for dpkg's and systemd's own logs.
purge_leaves_nothing() {
  local left
  apt_get purge infercache-server infercache-cli libinfercache-client-dev &&
    left=$(find / -xdev \( -path /packages -o -path /proc -o -path /sys -o -path /var/log -o -path /var/cache/apt \) -prune \
      -o -name '*infercache*' -print) || return 1
  [ -z "$left" ] || printf 'left: %s\n' "$left"
  [ -z "$left" ] && [ ! -e /run/infercache ] && ! systemctl cat infercached 2>/dev/null
}

for case in installs_and_serves has_all_its_files its_unit_is_as_it_should_be runs_as_its_own_user lets_its_group_in \
  is_in_good_health takes_a_new_log_level comes_back_after_a_kill refuses_a_wrong_configuration \
  upgrade_keeps_the_configuration_and_restarts client_package_compiles_a_program comes_back_after_removal purge_leaves_nothing; do
  printf '=== %s\n' "$case"
  if "$case"; then
    printf '=== %s ok\n' "$case"
  else
    printf '=== %s FAILED\n' "$case"
    systemctl status --no-pager --lines 20 infercached
    [ "$case" != installs_and_serves ] || break
  fi
done
echo 'the end'

#!/usr/bin/env bash
# The generated man pages and completions: they parse, and they know every option that --help knows.
#
#   reference_test.sh BUILD_DIR
set -euo pipefail

build=$1
failed=0

fail() {
  printf 'FAILED: %s\n' "$*"
  failed=1
}

# complete WORD...: what is offered for the last word, in the order of its letters.
complete_words() {
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  COMPREPLY=()
  "_$1" || true
  printf '%s\n' "${COMPREPLY[@]}" | LC_ALL=C sort | tr '\n' ' ' | sed 's/ $//'
}

# expect EXPECTED WORD...
expect() {
  local expected=$1 offered
  shift
  offered=$(complete_words "$@")
  [ "$offered" = "$expected" ] || fail "completion of '$*': '$offered', expected '$expected'"
}

for page in infercached.8 infercachectl.1; do
  program=${page%.*}
  man=$build/reference/$page
  bash=$build/reference/$program.bash
  warnings=$(groff -man -ww -z "$man" 2>&1) || true
  [ -z "$warnings" ] || fail "groff about $page: $warnings"
  gzip -t "$man.gz" || fail "$man.gz"
  cmp -s <(gzip -dc "$man.gz") "$man" || fail "$man.gz is not $man"
  bash -n "$bash" || fail "$bash"
  # shellcheck source=/dev/null
  source "$bash"
  mapfile -t options < <("$build/bin/$program" --help | grep -o '^ *\(-[a-z], *\)\?--[a-z][a-z-]*' |
    grep -o -- '--.*')
  [ "${#options[@]}" -gt 10 ] || fail "$program --help shows ${#options[@]} options"
  for option in "${options[@]}"; do
    sed 's/\\-/-/g' "$man" | grep -F -- "\\fB$option\\fR" >/dev/null || fail "$page lacks $option"
    [[ " $(complete_words "$program" "$option") " == *" $option "* ]] ||
      fail "the completion of $program lacks $option"
  done
  printf '%s: %d options\n' "$program" "${#options[@]}"
done

expect 'bench' infercachectl be
expect 'create delete list policy' infercachectl namespace ''
expect 'create' infercachectl --namespace x -o json namespace c
expect '--max-objects' infercachectl namespace create --max
expect 'embedding' infercachectl put --kind e
expect 'embedding' infercachectl put --kind = e
expect 'get match put' infercachectl bench --op ''
expect 'json' infercachectl list -o j
expect 'debug' infercachectl log-level d
expect '' infercachectl bench --size ''
expect '--tls --tls-ca --tls-cert --tls-key' infercachectl get key --tls
expect '--log-format --log-level' infercached --log-
expect 'json' infercached --log-format j
expect 'json' infercached --log-format = j
expect 'true' infercached --insecure-listen = t
expect '' infercached --capacity ''
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch "$work/tokens" "$work/trace.jsonl"
expect "$work/tokens" infercached --config "$work/to"
expect "$work/tokens" infercachectl get key "$work/to"
expect "$work/trace.jsonl" infercachectl replay --trace "$work/tr"

[ "$failed" = 0 ] || exit 1
printf 'man pages and completions: ok\n'

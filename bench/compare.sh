#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench: pikvd against Redis, memcached, plain sockets and copy loops, all
# in one run, and the tables into docs/BENCHMARKS.md.
#
#   BENCH=quick   three sizes and short runs, about 3 minutes (full: about 15)
#   OUT=DIR       where the programs are (out/release)
#   MARKDOWN=FILE instead of docs/BENCHMARKS.md
#
# Further arguments go to `pikv-bench compare`.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release}
args=(--markdown "${MARKDOWN:-docs/BENCHMARKS.md}")
case ${BENCH:-full} in
full) ;;
quick) args+=(--quick) ;;
*)
    echo "bench: BENCH=$BENCH is not a run; there is BENCH=quick" >&2
    exit 2
    ;;
esac

dir=$(mktemp -d "${TMPDIR:-/tmp}/pikv-bench.XXXXXX")
child=""
finish() {
    local rc=$?
    trap - EXIT INT TERM HUP
    if [ -n "$child" ] && kill -TERM "$child" 2> /dev/null; then
        wait "$child" 2> /dev/null || true
    fi
    rm -rf "$dir"
    exit "$rc"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cat << TEXT
This benchmark
  writes    ${args[1]}; sockets and logs in $dir, removed at the end
  listens   on unix sockets there and on free ports of 127.0.0.1
  starts    pikvd, redis-server, memcached and a reference server of its own,
            at a higher priority if it may, and stops them
TEXT

for name in "${!PIKVD_@}"; do unset "$name"; done
# Others on this machine shall not decide what is measured: a session of its
# own has a scheduling group of its own, which root may favour.
run=()
if [ "$(nice -n -20 nice 2> /dev/null)" = -20 ]; then run=(nice -n -20); fi
setsid --wait bash -c '(echo -20 > /proc/self/autogroup) 2> /dev/null || true
    exec "$@"' bash "${run[@]}" "$out/pikv-bench" compare --dir "$dir" \
    --pikvd "$out/pikvd" "${args[@]}" "$@" &
child=$!
wait "$child"

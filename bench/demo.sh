#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The demo: starts pikvd on its built-in settings, replays a conversation trace
# through libpikv, verifies every byte and prints one table. Nothing is left
# behind: the daemon's socket lives in a directory of its own.
#
#   DEMO=small   2,000 requests and 512 MiB of memory, for a laptop
#   OUT=DIR      where the programs are (out/release)
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release}
trace=bench/traces/conversation_trace.jsonl.gz
limit=12031
settings=()
if [ "${DEMO:-}" = small ]; then
    limit=2000
    settings+=(--set dram.capacity=512MiB)
elif [ -n "${DEMO:-}" ]; then
    echo "demo: DEMO=$DEMO is not a demo; there is DEMO=small" >&2
    exit 2
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/pikv-demo.XXXXXX")
socket=$dir/pikvd.sock
daemon=""
stop() {
    local rc=$?
    trap - EXIT INT TERM HUP
    if [ -n "$daemon" ]; then
        kill -TERM "$daemon" 2> /dev/null || true
        wait "$daemon" 2> /dev/null || true
    fi
    rm -rf "$dir"
    exit "$rc"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cat << TEXT
This demo
  writes    only into $dir, removed at the end
  listens   only on a unix socket there; no network port
  starts    $out/pikvd with built-in settings, except: socket, no admin port${settings:+,
            ${settings[*]#--set }}
  replays   $limit requests of a real conversation trace ($trace)
TEXT

# The environment of whoever runs this is not part of the demo.
for name in "${!PIKVD_@}"; do unset "$name"; done
"$out/pikvd" --set listen.shm.path="$socket" --set listen.admin.enabled=false \
    "${settings[@]}" 2> "$dir/pikvd.log" &
daemon=$!
for ((i = 0; i < 200; i++)); do
    if grep -q started "$dir/pikvd.log"; then break; fi
    if ! kill -0 "$daemon" 2> /dev/null; then break; fi
    sleep 0.05
done
if ! grep -q started "$dir/pikvd.log"; then
    echo "demo: pikvd did not start:" >&2
    cat "$dir/pikvd.log" >&2
    exit 1
fi
sed -n 's/.*\(dram=[^ ]*\).*/  memory    \1/p' "$dir/pikvd.log" | head -n 1
echo

rc=0
"$out/pikv-bench" replay --address "shm:$socket" --trace "$trace" \
    --limit "$limit" --pid "$daemon" || rc=$?

cat << 'TEXT'

64 KiB stand for the 16 to 80 MiB of a real block of 512 tokens: hit ratios
depend on the capacity in blocks only, GB/s and latencies are those of 64 KiB.
TEXT
exit "$rc"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The demo: pikvd with less memory and less SSD than the working set replays a
# conversation trace, is killed with -9 half-way, starts again and goes on with
# what its SSD kept. Beside it the second half once more after a cold restart,
# with the SSD wiped. Every byte that comes back is verified. Nothing is left
# behind: socket, log, state and the file that is the SSD lie in two
# directories of their own.
#
#   DEMO=small   2,000 requests, for a laptop
#   OUT=DIR      where the programs are (out/release)
#   DEMO_DIR=DIR where the SSD file goes (out; must not be on tmpfs)
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release}
trace=bench/traces/conversation_trace.jsonl.gz
rate=160MiB # of PUTs a second: memory would outrun many an SSD
block=16384 # bytes that stand for a block of 512 tokens
requests=12031 dram=256MiB ssd=1GiB segment=16MiB
if [ "${DEMO:-}" = small ]; then
    requests=2000 dram=64MiB ssd=256MiB segment=4MiB
elif [ -n "${DEMO:-}" ]; then
    echo "demo: DEMO=$DEMO is not a demo; there is DEMO=small" >&2
    exit 2
fi
half=$((requests / 2))
rest=$((requests - half))

run=$(mktemp -d "${TMPDIR:-/tmp}/pikv-demo.XXXXXX")
disk=$(mktemp -d "$(realpath "${DEMO_DIR:-out}")/demo.XXXXXX")
socket=$run/pikvd.sock
daemon=""
ready_s=""
stop() {
    local rc=$?
    trap - EXIT INT TERM HUP
    if [ -n "$daemon" ]; then
        kill -TERM "$daemon" 2> /dev/null || true
        wait "$daemon" 2> /dev/null || true
    fi
    rm -rf "$run" "$disk"
    exit "$rc"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The environment of whoever runs this is not part of the demo.
for name in "${!PIKVD_@}"; do unset "$name"; done

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# The daemon on the files that are there; ready_s is how long it took.
start() {
    local begin
    begin=$(now_ms)
    : > "$run/pikvd.log"
    "$out/pikvd" --set listen.shm.path="$socket" \
        --set listen.admin.enabled=false --set dram.capacity="$dram" \
        --set node.state_dir="$disk" --set ssd.paths="$disk/ssd" \
        --set ssd.capacity="$ssd" --set ssd.segment="$segment" 2> "$run/pikvd.log" &
    daemon=$!
    until grep -q ' started ' "$run/pikvd.log"; do
        if ! kill -0 "$daemon" 2> /dev/null; then
            echo "demo: pikvd did not start:" >&2
            cat "$run/pikvd.log" >&2
            exit 1
        fi
        sleep 0.01
    done
    ready_s=$(awk "BEGIN { printf \"%.2f\", ($(now_ms) - $begin) / 1000 }")
}

die_hard() {
    kill -KILL "$daemon"
    wait "$daemon" 2> /dev/null || true
    daemon=""
}

# Sum of counters: stat NAME...
stat() {
    local sum=0 name value
    for name; do
        value=$("$out/pikvctl" --address "shm:$socket" -o json stat "$name" |
            sed -n "s/.*\"$name\": *\([0-9]*\).*/\1/p" | head -n 1)
        sum=$((sum + ${value:-0}))
    done
    echo "$sum"
}

# replay NAME FROM COUNT
replay() {
    echo "replay: $1, requests $2 to $(($2 + $3 - 1))"
    "$out/pikv-bench" replay --address "shm:$socket" --trace "$trace" \
        --block "$((block >> 10))KiB" --from "$2" --limit "$3" --parts 5 \
        --put-rate "$rate" --rows "$run/$1.rows" --json "$run/$1.json" > "$run/$1.txt" || failed=1
    if [ ! -e "$run/$1.rows" ]; then exit 1; fi
    written=$((written + $(stat ssd_written_bytes)))
    payload=$((payload + $(stat ssd_payload_bytes)))
}

number() { sed -n "s/.*\"$2\": \([0-9.]*\).*/\1/p" "$run/$1.json"; }
mib() { echo $(($1 >> 20)); }

plan() {
    "$out/pikv-bench" replay --trace "$trace" --plan --from "$1" --limit "$2"
}

read -r _ refs1 distinct1 < <(plan 0 "$half")
read -r _ refs2 distinct2 < <(plan "$half" "$rest")
read -r _ _ distinct < <(plan 0 "$requests")
cat << TEXT
This demo
  replays   $requests requests of a real conversation trace ($trace):
            $distinct distinct blocks, $(mib $((distinct * block))) MiB at $((block / 1024)) KiB each
  with      $dram of memory and $ssd of SSD, less than that,
            at $rate of new blocks a second at most
  writes    at most $(mib $(((refs1 + 2 * refs2) * block))) MiB to $disk/ssd, about $(mib $(((distinct1 + 2 * distinct2) * block))) MiB most likely,
            and little into $run; both are removed at the end
  listens   only on a unix socket there; no network port

TEXT

failed=0 written=0 payload=0
start
replay first 0 "$half"
keys_before=$(stat blocks cold_blocks)
lost=$(stat blocks)
lost=$((lost - $(stat ssd_blocks) + $(stat cold_blocks)))
die_hard
start
warm_s=$ready_s
keys_warm=$(stat blocks cold_blocks)
replay warm "$half" "$rest"
die_hard
rm -f "$disk/ssd"
start
cold_s=$ready_s
keys_cold=$(stat blocks cold_blocks)
replay cold "$half" "$rest"

errors=0
for name in first warm cold; do
    errors=$((errors + $(number "$name" verify_errors)))
done
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", b ? a / b : 0 }'; }

cat << TEXT

kill -9 after $half requests, then      warm restart   cold restart (SSD wiped)
keys before the kill             $(printf '%12s' "$keys_before")
  of them in memory only         $(printf '%12s' "$lost")
keys after the restart           $(printf '%12s   %12s' "$keys_warm" "$keys_cold")
seconds to READY                 $(printf '%12s   %12s' "$warm_s" "$cold_s")
prefix-hit ratio of the rest     $(printf '%12s   %12s' \
    "$(ratio "$(number warm hits)" "$(number warm refs)")" \
    "$(ratio "$(number cold hits)" "$(number cold refs)")")

hit ratio over time              warm (from SSD)      cold (from SSD)
TEXT
i=0
paste -d ' ' "$run/first.rows" "$run/first.rows" | cat - \
    <(paste -d ' ' "$run/warm.rows" "$run/cold.rows") |
    while read -r refs hits ssd_hits crefs chits cssd; do
        i=$((i + 1))
        printf '  tenth %-2s %s           %s (%s)        %s (%s)\n' "$i" \
            "$([ "$i" -eq 6 ] && echo '<- kill -9' || echo '          ')" \
            "$(ratio "$hits" "$refs")" "$(ratio "$ssd_hits" "$refs")" \
            "$(ratio "$chits" "$crefs")" "$(ratio "$cssd" "$crefs")"
    done
cat << TEXT

bytes written to the SSD   $(mib "$written") MiB, of them blocks for the first time $(mib "$payload") MiB
write amplification        $(ratio "$written" "$payload")
verify errors              $errors

$((block / 1024)) KiB stand for the 16 to 80 MiB of a real block of 512 tokens: hit ratios
depend on the capacity in blocks only. The cold restart has no first half of its
own: with the SSD wiped nothing of it would be left.
TEXT
if [ "$errors" -ne 0 ] || [ "$failed" -ne 0 ]; then
    exit 1
fi

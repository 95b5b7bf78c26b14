#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-ssd: seconds from start to a recovered SSD tier, after kill -9 (a
# scan of all headers) and after SIGTERM (the checkpoint), and the same scaled
# to 1 TiB.
#
#   ARENA=8192   MiB of blocks     SIZES="2MiB 64KiB"    ROUNDS=3
#   OUT=out/release
#
# Writes ARENA MiB for each size below $TMPDIR, removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release} arena=${ARENA:-8192} rounds=${ROUNDS:-3}
read -ra sizes <<< "${SIZES:-2MiB 64KiB}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/pikv-recovery.XXXXXX")
server=""
finish() {
    local rc=$?
    trap - EXIT INT TERM HUP
    [ -z "$server" ] || kill -9 "$server" 2> /dev/null || true
    rm -rf "$dir"
    exit "$rc"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
echo "This benchmark writes $((arena * ${#sizes[@]})) MiB in $dir." >&2

start() { # until it serves
    "$out/pikvd" --set "node.state_dir=$dir/state" --set node.lanes=1 \
        --set "listen.shm.path=$dir/sock" --set listen.admin.enabled=false \
        --set dram.capacity=256MiB --set "ssd.paths=$dir/ssd" \
        --set "ssd.capacity=$((arena * 5 / 4))MiB" > "$dir/log" 2>&1 &
    server=$!
    for _ in $(seq 1 1000); do
        "$out/pikvctl" --address "shm:$dir/sock" ping > /dev/null 2>&1 && return
        sleep 0.02
    done
    tail -5 "$dir/log" >&2
    exit 1
}

stop() { # signal
    kill "-$1" "$server"
    wait "$server" 2> /dev/null || true
    server=""
}

opened() { # how: a line of records and ms
    sed -n 's/.* ssd_opened .*records=\([0-9]*\) ms=\([0-9]*\) from_checkpoint=\([01]\).*/\1 \2 \3/p' \
        "$dir/log" | sed "s/^/$1 /" >> "$dir/times"
}

for size in "${sizes[@]}"; do
    rm -rf "$dir/state" "$dir/ssd"
    mkdir "$dir/state"
    start
    "$out/pikv-bench" load --address "shm:$dir/sock" --size "$size" --depth 1 \
        --arena "${arena}MiB" --count 1 --durable > /dev/null 2>&1
    for _ in $(seq 1 "$rounds"); do
        stop 9
        start
        opened "$size"
        stop TERM
        start
        opened "$size"
    done
    stop 9
done

python3 - "$dir/times" "$arena" << 'PY'
import collections, statistics, sys
rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    size, records, ms, check = line.split()
    rows[size, check].append((int(records), int(ms)))
mib = int(sys.argv[2])
print(f"Recovery of {mib} MiB of blocks; scaled: times 1 TiB / {mib} MiB.\n")
print("| blocks | how | records | ms | scaled to 1 TiB |")
print("|---|---|---|---|---|")
for (size, check), v in rows.items():
    ms = statistics.median(m for _, m in v)
    print(f"| {size} | {'checkpoint' if check == '1' else 'scan after kill -9'} | {v[0][0]} | {ms:.0f} | {ms * 1048576 / mib / 1000:.2f} s |")
PY

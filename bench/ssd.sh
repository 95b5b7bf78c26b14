#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-ssd: GET of blocks that are on the SSD only, beside fio on the same
# file system, at the same sizes and depths, interleaved.
#
#   ARENA=2048          MiB of blocks (DRAM is a sixteenth of it)
#   SIZES="64k 256k 1m 4m 16m"   DEPTHS="1 4 16"   SECONDS_EACH=3   ROUNDS=3
#   MIXED=1             also reads and writes half and half, for the p99 of reads
#   OUT=out/release
#
# Writes twice ARENA MiB below $TMPDIR, and what the mixed runs write.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release} arena=${ARENA:-2048} rounds=${ROUNDS:-3}
seconds=${SECONDS_EACH:-3}
read -ra sizes <<< "${SIZES:-64k 256k 1m 4m 16m}"
read -ra depths <<< "${DEPTHS:-1 4 16}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/pikv-ssd.XXXXXX")
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
echo "This benchmark writes at least $((arena * (1 + ${#sizes[@]}))) MiB in $dir." >&2

kib() { case $1 in *k) echo "${1%k}KiB" ;; *m) echo "${1%m}MiB" ;; esac; }

start() {
    rm -rf "$dir/state" "$dir/ssd"
    mkdir "$dir/state"
    "$out/pikvd" --set "node.state_dir=$dir/state" --set node.lanes=1 \
        --set "listen.shm.path=$dir/sock" --set listen.admin.enabled=false \
        --set "dram.capacity=$((arena / 16))MiB" --set "ssd.paths=$dir/ssd" \
        --set "ssd.capacity=$((arena * 3 / 2))MiB" --set ssd.segment=64MiB \
        --set ssd.scrub=0 --set dram.hugepages=off > "$dir/pikvd.log" 2>&1 &
    server=$!
    for _ in $(seq 1 500); do
        "$out/pikvctl" --address "shm:$dir/sock" ping > /dev/null 2>&1 && return
        sleep 0.02
    done
    tail -5 "$dir/pikvd.log" >&2
    exit 1
}

stop() {
    kill -9 "$server"
    wait "$server" 2> /dev/null || true
    server=""
}

# Durable, so that all of it gets to the SSD.
fill() { # size
    "$out/pikv-bench" load --address "shm:$dir/sock" --op get \
        --size "$(kib "$1")" --depth 1 --arena "${arena}MiB" --count 1 \
        --durable > /dev/null 2>&1
    sleep 1
}

pikv() { # op size depth tag
    "$out/pikv-bench" load --address "shm:$dir/sock" --op "$1" \
        --size "$(kib "$2")" --depth "$3" --arena "${arena}MiB" --filled \
        --seconds "$seconds" --pid "$server" --json "$dir/pikv.$1.$2.$3.$4" \
        > /dev/null
}

rand() { # rw size depth tag
    fio --name=x --filename="$dir/fio" --size="${arena}M" --direct=1 \
        --ioengine=io_uring --rw="$1" --rwmixread=50 --bs="$2" --iodepth="$3" \
        --time_based --runtime="$seconds" --output-format=json \
        --output="$dir/fio.$1.$2.$3.$4" > /dev/null
}

fio --name=x --filename="$dir/fio" --size="${arena}M" --direct=1 \
    --ioengine=io_uring --rw=write --bs=1m --iodepth=4 > /dev/null
for size in "${sizes[@]}"; do
    start
    fill "$size"
    for depth in "${depths[@]}"; do
        for r in $(seq 1 "$rounds"); do
            echo "$size depth $depth round $r" >&2
            pikv get "$size" "$depth" "$r"
            rand randread "$size" "$depth" "$r"
        done
    done
    # Last: what is put here drives the arena out, so each fills it anew.
    for depth in "${depths[@]}"; do
        [ "${MIXED:-1}" = 1 ] || break
        for r in $(seq 1 "$rounds"); do
            echo "$size depth $depth round $r, mixed" >&2
            stop
            start
            fill "$size"
            pikv mixed "$size" "$depth" "$r"
            rand randrw "$size" "$depth" "$r"
        done
    done
    stop
done

python3 - "$dir" "$rounds" "${MIXED:-1}" "${sizes[*]}" "${depths[*]}" << 'PY'
import json, statistics, sys
dir, rounds, mixed = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
sizes, depths = sys.argv[4].split(), sys.argv[5].split()
med = statistics.median
def load(name):
    return [json.load(open(f"{dir}/{name}.{r}")) for r in range(1, rounds + 1)]
def fio(j):
    r = j["jobs"][0]["read"]
    return r["bw_bytes"] / 1e9, r["clat_ns"]["percentile"]["99.000000"] / 1e3, r["clat_ns"]["percentile"]["50.000000"] / 1e3
print("GET of blocks that are on the SSD only beside fio (io_uring, O_DIRECT) on the same file system, medians of", rounds, "interleaved rounds.\n")
print("| size | depth | pikvd GB/s | fio GB/s | ratio | pikvd p50 / p99 us | fio p50 / p99 us |" + (" mixed: GET p99 us | mixed: fio p99 us | ratio |" if mixed else ""))
print("|---|---|---|---|---|---|---|" + ("---|---|---|" if mixed else ""))
for s in sizes:
    for d in depths:
        p, f = load(f"pikv.get.{s}.{d}"), [fio(j) for j in load(f"fio.randread.{s}.{d}")]
        gb = [x["bytes"] / x["seconds"] / 1e9 for x in p]
        row = f"| {s} | {d} | {med(gb):.2f} | {med(x[0] for x in f):.2f} | {med(a / b[0] for a, b in zip(gb, f)):.2f} | {med(x['p50_us'] for x in p):.0f} / {med(x['p99_us'] for x in p):.0f} | {med(x[2] for x in f):.0f} / {med(x[1] for x in f):.0f} |"
        if mixed:
            m, g = load(f"pikv.mixed.{s}.{d}"), [fio(j) for j in load(f"fio.randrw.{s}.{d}")]
            row += f" {med(x['p99_us'] for x in m):.0f} | {med(x[1] for x in g):.0f} | {med(a['p99_us'] / b[1] for a, b in zip(m, g)):.2f} |"
        print(row)
PY

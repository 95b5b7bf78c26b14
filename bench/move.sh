#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# How fast blocks move between two daemons of one machine,
# beside what one client gets from the same daemon over ucx in the same round.
#
#   SIZES="64KiB 256KiB 2MiB"   of blocks     ARENA=512   MiB moved
#   ROUNDS=3                    interleaved   OUT=out/release  the programs
#   SECONDS_GET=2               of GETs in a round
#
# A row per size: the median GET rate (pikv-bench load, depth 16), the median
# rates of moves with the source reached over ucx and over shm, and the first
# move's part of the GET rate. Every block is stored by the second daemon with
# its checksum checked. Takes 2 x ARENA MiB of memory; nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release} arena=${ARENA:-512} rounds=${ROUNDS:-3}
sizes=${SIZES:-64KiB 256KiB 2MiB} get_s=${SECONDS_GET:-2}
port=${PORT:-27430}
dir=$(mktemp -d "${TMPDIR:-/tmp}/pikv-move.XXXXXX")
pids=()
stop() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2> /dev/null || true
    for p in "${pids[@]}"; do wait "$p" 2> /dev/null || true; done
    pids=()
}
finish() {
    local rc=$?
    trap - EXIT INT TERM HUP
    stop
    rm -rf "$dir"
    exit "$rc"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

start() { # name, first port
    "$out/pikvd" --set "listen.shm.path=$dir/$1.sock" \
        --set listen.admin.enabled=false --set node.lanes=1 \
        --set "dram.capacity=$((arena + arena / 4))MiB" \
        --set listen.ucx.enabled=true --set "listen.ucx.port=$2" \
        --set "listen.ucx.port_range=$(($2 + 10))-$(($2 + 109))" \
        > "$dir/$1.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 1 1000); do
        if grep -q " started " "$dir/$1.log"; then
            sleep 1 # its memory is touched meanwhile
            return
        fi
        sleep 0.01
    done
    tail -3 "$dir/$1.log" >&2
    exit 1
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

get() { # MB/s of GETs; the first one fills
    "$out/pikv-bench" load --address "ucx:127.0.0.1:$port" --op get \
        --size "$1" --arena "${arena}MiB" --seconds "$get_s" \
        --json "$dir/get.json" $2 > /dev/null
    python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))
assert r["failed"] == 0 and r["wrong"] == 0, r
print(int(r["bytes"] / r["seconds"] / 1e6))' "$dir/get.json"
}
move() { # MB/s of a move to an empty daemon
    start b "$((port + 200))"
    "$out/e2e_puller" pull "$1" "shm:$dir/b.sock" how=in seconds=120 \
        > "$dir/move.txt" 2> /dev/null
    kill "${pids[1]}"
    wait "${pids[1]}" 2> /dev/null || true
    unset 'pids[1]'
    python3 -c 'import re, sys
r = dict(re.findall(r"(\w+)=([\d.]+)", open(sys.argv[1]).read()))
assert r["failed"] == "0" and int(r["bytes"]) > 0, r
print(int(int(r["pace"]) / 1e6))' "$dir/move.txt"
}

printf '%-8s %10s %12s %12s %10s\n' size GET/ucx move/ucx move/shm part
for size in $sizes; do
    start a "$port"
    get "$size" "" > /dev/null
    for _ in $(seq "$rounds"); do
        get "$size" --filled >> "$dir/get.$size"
        move "ucx:127.0.0.1:$port" >> "$dir/ucx.$size"
        move "shm:$dir/a.sock" >> "$dir/shm.$size"
    done
    stop
    g=$(median < "$dir/get.$size") u=$(median < "$dir/ucx.$size")
    s=$(median < "$dir/shm.$size")
    printf '%-8s %6d MB/s %7d MB/s %7d MB/s %9s\n' "$size" "$g" "$u" "$s" \
        "$(awk "BEGIN { printf \"%.2f\", $u / $g }")"
done

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-tiers: the conversation trace against pikvd, memcached with
# extstore and Redis with its append-only file, each with the same DRAM and
# SSD. Every server is killed with -9 half-way and started again.
#
#   DRAM=512 SSD=4096   MiB for each       REQUESTS=12031   of the trace
#   ROUNDS=3            interleaved        OUT=out/release  the programs
#
# Writes up to SSD MiB per server and round below $TMPDIR, removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release} dram=${DRAM:-512} ssd=${SSD:-4096}
requests=${REQUESTS:-12031} rounds=${ROUNDS:-3}
trace=${TRACE:-bench/traces/conversation_trace.jsonl.gz}
half=$((requests / 2))
dir=$(mktemp -d "${TMPDIR:-/tmp}/pikv-tiers.XXXXXX")
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

echo "This benchmark runs $rounds rounds of 3 servers with $dram MiB of DRAM" \
    "and $ssd MiB of SSD in $dir;" >&2
echo "it writes at most $((rounds * 2 * ssd)) MiB for each of them." >&2

wait_for() { # a unix socket that accepts and answers
    for _ in $(seq 1 6000); do
        if "ready_$1" 2> /dev/null; then return; fi
        kill -0 "$server" 2> /dev/null || { tail -5 "$dir/$1.log" >&2; exit 1; }
        sleep 0.01
    done
    echo "tiers: $1 is not ready" >&2
    exit 1
}

start_pikvd() {
    mkdir -p "$dir/state"
    "$out/pikvd" --set "node.state_dir=$dir/state" \
        --set "listen.shm.path=$dir/pikvd.sock" --set listen.admin.enabled=false \
        --set "dram.capacity=${dram}MiB" --set "ssd.paths=$dir/pikvd.ssd" \
        --set "ssd.capacity=${ssd}MiB" --set ssd.segment=16MiB \
        >> "$dir/pikvd.log" 2>&1 &
    server=$!
}
ready_pikvd() { "$out/pikvctl" --address "shm:$dir/pikvd.sock" ping > /dev/null; }
load_pikvd() {
    "$out/pikv-bench" replay --address "shm:$dir/pikvd.sock" --quiet "$@" > /dev/null
}

start_memcached() {
    memcached -u "$(id -un)" -s "$dir/memcached.sock" -m "$dram" -I 1m -c 64 \
        -o "ext_path=$dir/memcached.ext:${ssd}M" -o ext_wbuf_size=16 \
        -o ext_item_age=0 >> "$dir/memcached.log" 2>&1 &
    server=$!
}
ready_memcached() { [ -S "$dir/memcached.sock" ] &&
    python3 -c "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(1); s.connect(sys.argv[1]); s.sendall(b'version\r\n'); assert s.recv(64)" "$dir/memcached.sock"; }
load_memcached() {
    "$out/pikv-bench" rival-replay --kind memcached --address "$dir/memcached.sock" "$@"
}

start_redis() {
    redis-server --port 0 --unixsocket "$dir/redis.sock" --dir "$dir" \
        --maxmemory "${dram}mb" --maxmemory-policy allkeys-lru --save '' \
        --appendonly yes --appendfsync everysec >> "$dir/redis.log" 2>&1 &
    server=$!
}
ready_redis() { [ "$(redis-cli -s "$dir/redis.sock" ping)" = PONG ]; }
load_redis() {
    "$out/pikv-bench" rival-replay --kind redis --address "$dir/redis.sock" "$@"
}

now() { date +%s.%N; }

run() { # name round
    local name=$1 r=$2 t0 t1
    rm -rf "$dir/state" "$dir"/pikvd.ssd "$dir"/memcached.ext "$dir"/appendonlydir
    rm -f "$dir/$name.sock"
    "start_$name"
    wait_for "$name"
    "load_$name" --trace "$trace" --limit "$half" --pid "$server" \
        --json "$dir/$name.$r.a.json"
    kill -9 "$server"
    wait "$server" 2> /dev/null || true
    rm -f "$dir/$name.sock"
    t0=$(now)
    "start_$name"
    wait_for "$name"
    t1=$(now)
    "load_$name" --trace "$trace" --from "$half" \
        --limit "$((requests - half))" \
        --pid "$server" --json "$dir/$name.$r.b.json"
    kill "$server"
    wait "$server" 2> /dev/null || true
    server=""
    echo "$t0 $t1" > "$dir/$name.$r.ready"
}

for r in $(seq 1 "$rounds"); do
    for name in pikvd memcached redis; do
        echo "round $r: $name" >&2
        run "$name" "$r"
    done
done

python3 - "$dir" "$rounds" "$dram" "$ssd" << 'PY'
import json, statistics, sys
dir, rounds, dram, ssd = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
names = ["pikvd", "memcached", "redis"]
label = {"pikvd": "pikvd", "memcached": "memcached extstore", "redis": "Redis, AOF everysec"}
med = statistics.median
rows = {}
for n in names:
    a = [json.load(open(f"{dir}/{n}.{r}.a.json")) for r in range(1, rounds + 1)]
    b = [json.load(open(f"{dir}/{n}.{r}.b.json")) for r in range(1, rounds + 1)]
    t = [list(map(float, open(f"{dir}/{n}.{r}.ready").read().split())) for r in range(1, rounds + 1)]
    both = list(zip(a, b))
    rows[n] = dict(
        hits=med([(x["hits"] + y["hits"]) / (x["refs"] + y["refs"]) for x, y in both]),
        after=med([y["hits"] / y["refs"] for y in b]),
        gbps=med([sum(z["bytes_get"] + z["bytes_put"] for z in p) / sum(z["wall_s"] for z in p) / 1e9 for p in both]),
        p50=med([y["GET_p50_us"] for y in b]), p99=med([y["GET_p99_us"] for y in b]),
        put99=med([y["PUT_p99_us"] for y in b]),
        cpu=med([sum(z["cpu_s"] for z in p) / (sum(z["bytes_get"] + z["bytes_put"] for z in p) / 2**30) for p in both]),
        ready=med([y - x for x, y in t]), wrong=sum(z["verify_errors"] for p in both for z in p))
print(f"Conversation trace, 64 KiB blocks, {dram} MiB DRAM + {ssd} MiB SSD each, kill -9 half-way, medians of {rounds} interleaved rounds.\n")
print("| | prefix hits | hits after kill -9 | GB/s | GET p50 / p99 us (batch of up to 32) | PUT p99 us | server CPU s/GiB | s to ready after kill | wrong bytes |")
print("|---|---|---|---|---|---|---|---|---|")
for n in names:
    r = rows[n]
    print(f"| {label[n]} | {r['hits']:.4f} | {r['after']:.4f} | {r['gbps']:.2f} | {r['p50']:.0f} / {r['p99']:.0f} | {r['put99']:.0f} | {r['cpu']:.2f} | {r['ready']:.2f} | {r['wrong']} |")
PY

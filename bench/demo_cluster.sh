#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The demo of a cluster: three daemons on this machine agree on who has which
# slots, blocks go in through one and come out through any, a fourth joins and
# gets its part with the blocks, one is killed with -9 and another stands in,
# it comes back to its own. Nothing is left behind.
#
#   OUT=DIR   where the programs are (out/release)
#   BLOCKS=N  how many blocks (400)
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/release}
blocks=${BLOCKS:-400}
run=$(mktemp -d "${TMPDIR:-/tmp}/pikv-cluster.XXXXXX")
declare -A pid
stop() {
    local rc=$?
    trap - EXIT INT TERM HUP
    [ ${#pid[@]} = 0 ] || kill -TERM "${pid[@]}" 2> /dev/null || true
    wait
    rm -rf "$run"
    exit "$rc"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The environment of whoever runs this is not part of the demo.
for name in "${!PIKVD_@}"; do unset "$name"; done

port=$((20000 + RANDOM % 10000))
nodes=(a b c d)
voters="a=127.0.0.1:$port,b=127.0.0.1:$((port + 1)),c=127.0.0.1:$((port + 2))"

say() { printf '\n== %s\n' "$*"; }
ctl() { local node=$1; shift; "$out/pikvctl" --deadline 20s --address "shm:$run/$node.sock" "$@"; }

start() { # NAME: the daemon of that name, on what it has
    local name=$1 i
    for i in "${!nodes[@]}"; do [ "${nodes[i]}" = "$name" ] && break; done
    mkdir -p "$run/$name"
    "$out/pikvd" --set node.name="$name" --set node.state_dir="$run/$name" \
        --set listen.shm.path="$run/$name.sock" --set listen.admin.enabled=false \
        --set dram.capacity=64MiB --set node.lanes=1 \
        --set cluster.enabled=true --set cluster.id=demo \
        --set cluster.security=plain --set cluster.voters="$voters" \
        --set cluster.port=$((port + i)) --set cluster.move_slots=4096 \
        --set cluster.advertise.peer=127.0.0.1:$((port + i)) \
        >> "$run/$name.log" 2>&1 &
    pid[$name]=$!
}

# until WORDS...: the command succeeds, or the demo ends after a minute.
until_ok() {
    for _ in $(seq 600); do
        "$@" > /dev/null 2>&1 && return
        sleep 0.1
    done
    echo "demo-cluster: did not come about: $*" >&2
    tail -n 5 "$run"/*.log >&2
    exit 1
}
settled() { # NODES: so many are up, all slots have a home, nothing moves
    local status
    status=$(ctl a cluster status)
    grep -q "nodes  *$1 up.*; 0 slots" <<< "$status" &&
        grep -q "moving_slots  *0" <<< "$status"
}
joined() { # NODE: it has its part of the slots
    [ "$(ctl a cluster nodes | awk -v n="$1" '$1 == n { print $6 }')" -gt 15000 ] && settled 4
}
is() { ctl a cluster nodes | grep -q "^$1  *$2 "; }
count() { # NODE: how many of the blocks come back whole through it
    local n=0 i
    for ((i = 0; i < blocks; i++)); do
        [ "$(ctl "$1" get "block$i" 2> /dev/null)" = "bytes of block $i" ] && n=$((n + 1))
    done
    echo "$n"
}

say "three daemons"
start a; start b; start c
until_ok settled 3
ctl a cluster nodes

say "$blocks blocks in through a, out through c"
for ((i = 0; i < blocks; i++)); do
    printf 'bytes of block %d' "$i" | ctl a put "block$i" > /dev/null
done
echo "through c: $(count c) of $blocks"

say "d joins: its part of the slots, and their blocks, move there"
start d
until_ok is d up
echo "through a while they move: $(count a) of $blocks"
until_ok joined d
ctl a placement show
echo "through d: $(count d) of $blocks"

say "b is killed with -9: the next owners stand in, its blocks are misses"
kill -9 "${pid[b]}"
wait "${pid[b]}" 2> /dev/null || true
until_ok is b down
echo "through a: $(count a) of $blocks"

say "b is back to its slots"
start b
until_ok joined b
ctl a cluster nodes
echo "through a: $(count a) of $blocks; b's memory was lost with it"

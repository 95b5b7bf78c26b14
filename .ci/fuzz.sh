#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Fuzzes every target in DIR for SECONDS, one after the other. New inputs are
# collected in out/fuzz/found, never in the sources; an input that breaks a
# target lands in tests/fuzz/regress, where `make check` replays it for ever.
#   fuzz.sh DIR SECONDS
set -euo pipefail

dir=$1 seconds=$2 failed=0
for target in "$dir"/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name=${target##*/fuzz_}
    found=out/fuzz/found/$name
    seeds=tests/fuzz/corpus/$name
    regress=tests/fuzz/regress/$name
    mkdir -p "$found" "$regress"
    echo "fuzz $name for $seconds s"
    "$target" -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="$regress/" "$found" \
        $([ -d "$seeds" ] && echo "$seeds") "$regress" || failed=1
    rmdir --ignore-fail-on-non-empty "$regress"
done
exit $failed

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-engines: each door beside its engine's own back ends, Mooncake
# Store beside us, and what Python costs. Tables in markdown on stdout.
#
#   ENGINES="lmcache sglang vllm mooncake overhead"     ROUNDS=5
#
# Engines are installed by tests/engines/setup.sh into out/engines (some 5 GB
# each from PyPI, most of it CUDA libraries that torch wants).
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-5}
read -ra engines <<< "${ENGINES:-lmcache sglang vllm mooncake overhead}"
installed=${PIKV_ENGINES:-out/engines}
export PIKV_BUILD=out/release
export PYTHONPATH=out/release/python

for e in "${engines[@]}"; do
    echo "## $e"
    echo
    case $e in
    overhead) python3 bench/engines/overhead.py --rounds "$rounds" ;;
    mooncake)
        tests/engines/setup.sh "$e" >&2
        python3 bench/engines/mooncake.py --rounds "$rounds" \
            --python "$installed/$e/bin/python"
        ;;
    *)
        tests/engines/setup.sh "$e" >&2
        "$installed/$e/bin/python" -W ignore "bench/engines/$e.py" \
            --rounds "$rounds"
        ;;
    esac
    echo
done

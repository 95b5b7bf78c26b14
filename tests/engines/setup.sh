#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs engines for tests and benchmarks, each into a virtual environment of
# its own: out/engines/NAME, from requirements-NAME.txt, without what these
# packages would like to have but nobody here imports.
#
#     tests/engines/setup.sh NAME...        PYTHON=python3.11 by default python3
#
# Says how long it took and what it takes. An environment whose requirements
# have not changed is left as it is.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
engines=${PIKV_ENGINES:-$here/../../out/engines}
[ $# -gt 0 ] || { echo "usage: $0 NAME..." >&2; exit 2; }

for name in "$@"; do
    wants=$here/requirements-$name.txt
    venv=$engines/$name
    if cmp -s "$wants" "$venv/installed.txt"; then
        echo "$name: is there"
        continue
    fi
    began=$(date +%s)
    rm -rf "$venv"
    mkdir -p "$engines"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --requirement "$wants"
    cp "$wants" "$venv/installed.txt"
    echo "$name: $(du -sm "$venv" | cut -f1) MiB," \
        "$(($(date +%s) - began)) s"
done

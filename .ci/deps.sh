#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that a target needs and this machine lacks.
#   deps.sh build|check|bench|fuzz
# When nothing is missing it asks dpkg only: no network, no root.
set -euo pipefail

build="gcc make binutils libc6-dev libucx-dev libuv1-dev libprotobuf-c-dev
  protobuf-c-compiler libjansson-dev libisal-dev libxxhash-dev
  libmicrohttpd-dev liburing-dev libraft-dev libssl-dev openssl zlib1g-dev python3 python3-dev scdoc"
check="$build check libsubunit-dev clang-format prometheus python3-numpy iproute2"
bench="$build redis-server memcached fio"
fuzz="$build check libsubunit-dev clang libclang-rt-14-dev"

what=${1:-build}
case $what in
build | check | bench | fuzz) ;;
*)
    echo "deps: unknown set '$what' (build, check, bench or fuzz)" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query > /dev/null; then
    echo "deps: not a Debian system; please see that you have:" ${!what} >&2
    exit 0
fi

have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' ${!what} \
    2> /dev/null | sed -n 's/ installed$//p' || true)
missing=$(comm -23 <(printf '%s\n' ${!what} | sort -u) \
    <(printf '%s\n' $have | sort -u))
[ -n "$missing" ] || exit 0

echo "deps: installing with apt-get:" $missing
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo > /dev/null; then
    sudo -n true 2> /dev/null || echo "deps: sudo will ask for your password"
    as_root="sudo"
else
    echo "deps: run as root: apt-get install --no-install-recommends" \
        $missing >&2
    exit 1
fi

# promtool and the benchmark's rivals are wanted as programs: Debian starts no
# service while policy-rc.d answers 101. One that is there already stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" > /dev/null
    $as_root chmod 755 "$policy"
fi

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"
}
apt install -y --no-install-recommends $missing || {
    apt update
    apt install -y --no-install-recommends $missing
}

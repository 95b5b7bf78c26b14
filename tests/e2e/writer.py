#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One writer of a block, as a process of its own.

    writer.py ADDRESS KEY BYTES WRITERS NUMBER PIECES

Begins KEY, says so, and then does a step for each line it is told: its pieces
of the block one by one (writer i of n has every n-th of WRITERS * PIECES equal
pieces), then the commit. Each step is answered with a line: what it gave.
"""

import sys

from kv import Client, crc32c


def piece(key, i, n):
    """The bytes of the i-th piece: others for every key and place."""
    seed = crc32c(key + b"%d" % i)
    unit = b"".join(((seed + 2654435761 * k) & 0xffffffff).to_bytes(4, "little")
                    for k in range(256))
    return (unit * (n // len(unit) + 1))[:n]


def main():
    address, key = sys.argv[1], sys.argv[2].encode()
    total, writers, number, pieces = map(int, sys.argv[3:])
    n = total // (writers * pieces)
    with Client(address) as kv:
        ns = kv.open("e2e")
        r = kv.begin(ns, key, total, writers)
        print(r.status, flush=True)
        for k in range(pieces):
            sys.stdin.readline()
            i = k * writers + number
            print(kv.write(ns, key, r.token, [(i * n, piece(key, i, n))])[0],
                  flush=True)
        sys.stdin.readline()
        print(kv.commit(ns, key, r.token, number), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""EPLB by the book, with exact fractions: the reference for tests/unit/
test_experts.c. Prints the rows of its table; run it by hand when the cases
change.

    tests/lib/eplb_reference.py
"""

from fractions import Fraction

# layers, experts, slots, groups, nodes, gpus
SHAPES = [
    (2, 12, 16, 4, 2, 8),
    (3, 64, 80, 8, 4, 16),
    (2, 256, 288, 8, 4, 32),
    (2, 60, 72, 3, 2, 8),  # groups do not go into nodes: one group
    (2, 16, 16, 4, 2, 4),
    (1, 8, 8, 8, 8, 8),
    (2, 8, 64, 1, 1, 8),
]


def weights(layers, experts):
    """The same numbers as the test makes: a generator, squared for skew."""
    x, out = 1, []
    for _ in range(layers):
        row = []
        for _ in range(experts):
            x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
            row.append((x >> 52) ** 2 // 1000)
        out.append(row)
    return out


def pack(loads, packs):
    """[(pack, rank)] of each item: heaviest first to the lightest pack."""
    room = len(loads) // packs
    if room == 1:
        return [(i, 0) for i in range(len(loads))]
    content = [[] for _ in range(packs)]
    where = [None] * len(loads)
    for item in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        free = [p for p in range(packs) if len(content[p]) < room]
        best = min(free, key=lambda p: (sum(loads[i] for i in content[p]), p))
        where[item] = (best, len(content[best]))
        content[best].append(item)
    return where


def replicate(loads, slots):
    owner, count = list(range(len(loads))), [1] * len(loads)
    while len(owner) < slots:
        best = max(range(len(loads)),
                   key=lambda i: (Fraction(loads[i], count[i]), -i))
        owner.append(best)
        count[best] += 1
    return owner, count


def plan_layer(row, slots, groups, nodes, gpus):
    if groups % nodes:
        groups = nodes = 1
    size = len(row) // groups
    at = pack([sum(row[g * size:(g + 1) * size]) for g in range(groups)],
              nodes)
    result = []
    for node in range(nodes):
        mine = sorted((rank, g) for g, (n, rank) in enumerate(at) if n == node)
        logical = [g * size + i for _, g in mine for i in range(size)]
        owner, count = replicate([row[e] for e in logical], slots // nodes)
        loads = [Fraction(row[logical[o]], count[o]) for o in owner]
        each = slots // gpus
        part = [None] * (slots // nodes)
        for s, (gpu, rank) in enumerate(pack(loads, gpus // nodes)):
            part[gpu * each + rank] = logical[owner[s]]
        result += part
    return result


def digest(maps):
    h = 0xcbf29ce484222325
    for row in maps:
        for e in row:
            h = ((h ^ e) * 0x100000001b3) % 2**64
    return h


def main():
    for shape in SHAPES:
        layers, experts, slots, groups, nodes, gpus = shape
        maps = [plan_layer(row, slots, groups, nodes, gpus)
                for row in weights(layers, experts)]
        print(f"    {{{{{', '.join(map(str, shape))}}}, "
              f"UINT64_C(0x{digest(maps):016x})}},")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Layouts: a block that lies in pieces moves as if its pieces were named one by
one, whoever expands it: the daemon (shm), or libpikv (ucx, a server that takes
no layouts)."""

import ctypes
import mmap
import os
import random
import unittest

from node import Node, until
from kv import Client, Get, KvError, Memory, Put

POOL = 1 << 20


class Shape:
    """A random layout within POOL bytes, and what it means."""

    def __init__(self, rng):
        self.pool_off = rng.choice([0, 1, 4096, 12345])
        self.runs, at = [], 0
        for _ in range(rng.randint(1, 4)):
            n, size = rng.randint(1, 12), rng.choice([1, 7, 64, 300, 4096])
            stride = size + rng.choice([0, 0, 1, 100, 5000])
            off = at + rng.randint(0, 50)
            self.runs.append((off, size, stride, n))
            at = off + (n - 1) * stride + size
        self.reach = at
        room = POOL - self.pool_off - self.reach
        self.block_n = rng.randint(1, 9)
        self.stride, self.table = 0, None
        if rng.random() < 0.5:
            self.table = [rng.randint(0, room) for _ in range(self.block_n)]
        else:
            self.stride = rng.randint(0, room // self.block_n)
        self.bytes = sum(n * size for _, size, _, n in self.runs)

    def pieces(self, block, off=0, n=None):
        """(offset in the pool, length) of a range, piece by piece."""
        n = self.bytes - off if n is None else n
        base = self.pool_off + (self.table[block] if self.table
                                else block * self.stride)
        for run_off, size, stride, count in self.runs:
            for i in range(count):
                skip = min(off, size)
                take = min(size - skip, n)
                if take:
                    yield base + run_off + i * stride + skip, take
                off, n = off - skip, n - take


class Layouts(unittest.TestCase):
    def register(self, kv, mem, s):
        return kv.layout(mem.p + s.pool_off, s.runs, s.block_n, s.stride,
                         s.table)

    def one(self, kv, ns, mem, rng, name):
        """PUT and GET of one random layout; the same by naming the runs."""
        s = Shape(rng)
        layout = self.register(kv, mem, s)
        before = rng.randbytes(POOL)
        mem.write(before)
        block = rng.randrange(s.block_n)
        want = b"".join(before[o:o + n] for o, n in s.pieces(block))
        r = kv.put(ns, [Put(name, None, block=block)], layout=layout)[0]
        self.assertEqual((r.status, r.len), ("OK", s.bytes))
        self.assertTrue(kv.get1(ns, name, s.bytes + 9).data == want)
        for _ in range(4):
            to = rng.randrange(s.block_n)
            off = rng.randrange(s.bytes)
            n = rng.choice([0, rng.randint(1, s.bytes - off)])
            blank = bytearray(rng.randbytes(POOL))
            mem.write(bytes(blank))
            r = kv.get(ns, [Get(name, block=to, off=off, len_=n)],
                       layout=layout, verify=rng.random() < 0.5)[0]
            n = n or s.bytes - off
            self.assertEqual((r.status, r.moved), ("OK", n))
            at = off
            for o, k in s.pieces(to, off, n):
                blank[o:o + k] = want[at:at + k]
                at += k
            self.assertTrue(bytes(mem.buf()) == bytes(blank),
                            f"{vars(s)} block {to} off {off} n {n}")
        self.assertEqual(kv.forget_layout(layout), "OK")

    def random_layouts(self, address, seed, rounds=60):
        rng = random.Random(seed)
        with Client(address) as kv:
            ns, mem = kv.open("e2e"), kv.memory(POOL)
            for i in range(rounds):
                self.one(kv, ns, mem, rng, b"s%d i%d" % (seed, i))

    def test_random_layouts_over_shm(self):
        with Node(lanes=2) as d:
            self.random_layouts(d.address, 1)
            # The last two may be lost with their connection.
            self.assertGreaterEqual(d.metrics()['requests{op="layout"}'],
                                    238)
            self.assertIs(d.at_rest(), True)

    def test_random_layouts_that_libpikv_expands(self):
        with Node("limits.layouts_per_client=0", ucx=True) as d:
            self.random_layouts(d.address, 2, 30)
            self.random_layouts(d.ucx_address, 3, 30)

    def test_memory_that_the_daemon_does_not_map(self):
        """Files without a seal are read and written by system calls."""
        rng = random.Random(7)
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            fd = os.memfd_create("pool")
            os.ftruncate(fd, POOL)
            with mmap.mmap(fd, POOL) as m:
                mem = Memory.__new__(Memory)
                hold = ctypes.c_char.from_buffer(m)
                mem.kv, mem.n = kv, POOL
                mem.p = ctypes.addressof(hold)
                self.assertEqual(kv.register_fd(fd, 0, POOL, mem.p), "OK")
                for i in range(10):
                    self.one(kv, ns, mem, rng, b"f%d" % i)
                del hold
            os.close(fd)

    def batch(self, address, name):
        """Layer-first pool, 64 pages: every page its own block."""
        layers, pages, size = 20, 64, 512
        rng = random.Random(5)
        with Client(address) as kv:
            ns, mem = kv.open(name), kv.memory(layers * pages * size)
            pool = rng.randbytes(mem.n)
            mem.write(pool)
            layout = kv.layout(mem.p, [(0, size, pages * size, layers)], pages,
                               size)
            keys = [b"page %d" % i for i in range(pages)]
            r = kv.put(ns, [Put(k, None, block=i)
                            for i, k in enumerate(keys)], layout=layout)
            self.assertEqual({x.status for x in r}, {"OK"})
            mem.write(bytes(mem.n))
            r = kv.get(ns, [Get(k, block=i) for i, k in enumerate(keys)],
                       layout=layout, verify=True)
            self.assertEqual({x.status for x in r}, {"OK"})
            self.assertTrue(bytes(mem.buf()) == pool)
            # Layer by layer, each layer of a page a part.
            mem.write(bytes(mem.n))
            call = kv.submit_get(
                ns, [Get(keys[3], block=3, off=i * size, len_=size)
                     for i in range(layers)], layout=layout, parts=True,
                deadline_ms=20000)

            def check(i):
                at = (i * pages + 3) * size
                self.assertTrue(bytes(mem.buf(at, size)) ==
                                pool[at:at + size])

            call.on_part = check
            parts, status = call.told()
            self.assertEqual(status, "OK")
            self.assertEqual(parts, [(i, "OK") for i in range(layers)])

    def test_a_layer_first_pool_goes_and_comes_back(self):
        with Node(lanes=3, ucx=True) as d:
            self.batch(d.address, "shm")
            self.batch(d.ucx_address, "ucx")

    def writers(self, address, name):
        """A block filled layer by layer, each layer from where it lies."""
        layers, pages, size = 12, 4, 3000
        rng = random.Random(8)
        with Client(address) as kv:
            ns, mem = kv.open(name), kv.memory(layers * pages * size)
            pool = rng.randbytes(mem.n)
            mem.write(pool)
            layout = kv.layout(mem.p, [(0, size, pages * size, layers)], pages,
                               size)
            token = kv.begin(ns, b"k", layers * size).token
            for i in rng.sample(range(layers), layers):
                self.assertEqual(kv.get1(ns, b"k", 1).status, "PENDING")
                self.assertEqual(kv.write(ns, b"k", token, [(i * size, None)],
                                          block=2, len_=size, layout=layout),
                                 ["OK"])
            self.assertEqual(kv.commit(ns, b"k", token), "OK")
            want = b"".join(pool[(i * pages + 2) * size:][:size]
                            for i in range(layers))
            self.assertTrue(kv.get1(ns, b"k", len(want)).data == want)

    def test_a_writer_writes_ranges_of_a_layout(self):
        with Node("limits.layouts_per_client=0", ucx=True) as d:
            self.writers(d.address, "written")
            self.writers(d.ucx_address, "ucx")
        with Node() as d:
            self.writers(d.address, "told")

    def test_a_restarted_server_is_told_again(self):
        rng = random.Random(6)
        with Node() as d, Client(d.address) as kv:
            ns, mem = kv.open("e2e"), kv.memory(POOL)
            s = Shape(rng)
            layout = self.register(kv, mem, s)
            for life in range(3):
                data = rng.randbytes(POOL)
                mem.write(data)
                want = b"".join(data[o:o + n] for o, n in s.pieces(0))
                self.assertTrue(until(lambda: self.put_or_none(
                    kv, ns, b"k", layout) == "OK"))
                self.assertTrue(kv.get1(ns, b"k", s.bytes).data == want)
                d.kill()
                d.start()

    @staticmethod
    def put_or_none(kv, ns, key, layout):
        try:
            return kv.put(ns, [Put(key, None)], layout=layout)[0].status
        except KvError as e:
            return e.name

    def refused(self, kv, *args, **kwargs):
        with self.assertRaises(KvError) as e:
            kv.layout(*args, **kwargs)
        return e.exception.name

    def test_what_is_no_layout_is_refused(self):
        with Node() as d, Client(d.address) as kv:
            mem, top = kv.memory(POOL), (1 << 64) - 1
            bad = [
                ([], 1, 0, None), ([(0, 0, 0, 1)], 1, 0, None),
                ([(0, 8, 0, 0)], 1, 0, None), ([(0, 8, 8, 1)], 0, 0, None),
                ([(0, 8, 7, 2)], 1, 0, None),  # pieces overlap
                ([(0, POOL + 1, 0, 1)], 1, 0, None),
                ([(POOL - 7, 8, 0, 1)], 1, 0, None),
                ([(0, 8, 0, 1)], 2, POOL - 7, None),
                ([(top, 8, 0, 1)], 1, 0, None),
                ([(8, top, 0, 1)], 1, 0, None),
                ([(0, 8, top, 2)], 1, 0, None),
                ([(0, 8, 1 << 62, 8)], 1, 0, None),
                ([(0, 1 << 62, 1 << 62, 8)], 1, 0, None),
                ([(0, 1 << 63, 0, 1)] * 2, 1, 0, None),
                ([(0, 8, 0, 1)], (1 << 32) - 1, 1 << 33, None),
                ([(0, 8, 0, 1)], (1 << 32) - 1, 1, None),
                ([(0, 8, 0, 1)], 2, 0, [0, POOL - 7]),
                ([(0, 8, 0, 1)], 2, 0, [top, 0]),
            ]
            for runs, n, stride, table in bad:
                self.assertEqual(self.refused(kv, mem.p, runs, n, stride,
                                              table), "BAD_REQUEST", runs)
            self.assertEqual(self.refused(kv, mem.p, [(0, 8, 9, 1025)], 1),
                             "LIMIT")
            self.assertEqual(self.refused(kv, mem.p, [(0, 8, 0, 1)] * 17, 1),
                             "LIMIT")
            self.assertEqual(self.refused(kv, mem.p + POOL, [(0, 8, 0, 1)], 1),
                             "NO_MEM")
            self.assertEqual(kv.forget_layout(99), "NO_LAYOUT")
            # Blocks may lie one over the other: 2^32 of them need no room.
            one = kv.layout(mem.p, [(0, 8, 0, 1)], (1 << 32) - 1, 0)
            self.assertEqual(kv.forget_layout(one), "OK")

    def test_items_are_checked_against_the_layout(self):
        with Node() as d, Client(d.address) as kv:
            ns, mem = kv.open("e2e"), kv.memory(4096)
            layout = kv.layout(mem.p, [(0, 10, 20, 10)], 4, 1000)

            def status(item):
                f = kv.put if isinstance(item, Put) else kv.get
                try:
                    return f(ns, [item], layout=layout)[0].status
                except KvError as e:
                    return e.name

            self.assertEqual(status(Put(b"k", None, block=3)), "OK")
            for item in (Put(b"x", None, block=4), Get(b"k", block=4),
                         Get(b"k", block=0, off=100), Get(b"k", off=1 << 63),
                         Get(b"k", off=99, len_=2), Get(b"k", loan=True),
                         Get(b"k", len_=(1 << 64) - 1)):
                self.assertEqual(status(item), "BAD_REQUEST", vars(item))
            self.assertEqual(status(Get(b"k", off=99, len_=1)), "OK")
            with self.assertRaises(KvError) as e:
                kv.put(ns, [Put(b"x", None)], layout=layout + 1)
            self.assertEqual(e.exception.name, "NO_LAYOUT")
            mem.free()
            self.assertEqual(status(Get(b"k")), "NO_MEM")
            self.assertEqual(kv.forget_layout(layout), "OK")
            self.assertEqual(status(Get(b"k")), "NO_LAYOUT")

    def test_more_layouts_than_the_server_takes_work_all_the_same(self):
        with Node("limits.layouts_per_client=3", "limits.layouts=4") as d:
            with Client(d.address) as kv, Client(d.address) as other:
                for c in (kv, other):
                    ns, mem = c.open("e2e"), c.memory(65536)
                    mem.write(random.Random(1).randbytes(65536))
                    ids = [c.layout(mem.p, [(i, 100, 200, 8)], 9, 2000)
                           for i in range(8)]
                    for i, layout in enumerate(ids):
                        key = b"%d %d" % (id(c), i)
                        self.assertEqual(c.put(ns, [Put(key, None, block=i)],
                                               layout=layout)[0].status, "OK")
                        data = bytes(mem.buf())
                        want = b"".join(
                            data[2000 * i + i + 200 * k:][:100]
                            for k in range(8))
                        self.assertTrue(c.get1(ns, key, 800).data == want)
                        self.assertEqual(c.forget_layout(layout), "OK")
            self.assertIs(d.at_rest(), True)


if __name__ == "__main__":
    unittest.main()

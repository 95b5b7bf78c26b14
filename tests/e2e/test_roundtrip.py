# SPDX-License-Identifier: Apache-2.0
"""What a client puts is what any client gets, over each transport."""

import random
import unittest

from node import SANITIZED, Node, until
from kv import Client, Get, Key, KvError, Put

SIZES = [1, 63, 4096, 4097, 65536, (1 << 20) + 1, 8 << 20, 64 << 20]


def noise(n, seed=0):
    return random.Random(f"{n} {seed}").randbytes(n)


class RoundTrip(unittest.TestCase):
    def sizes(self, address, registered):
        with Client(address) as kv:
            ns = kv.open("e2e")
            mem = kv.memory(64 << 20) if registered else None
            for n in SIZES:
                data = noise(n)
                name = b"k%d" % n
                src = mem.write(data) if mem else data
                self.assertEqual(kv.put1(ns, name, src), "OK", n)
                self.assertEqual(kv.put1(ns, name, src), "EXISTS", n)
                if mem:
                    mem.write(bytes(n))
                r = kv.get(ns, [Get(name, src if mem else n)], verify=True)[0]
                self.assertEqual((r.status, r.moved, r.len), ("OK", n, n))
                self.assertTrue(r.data == data, f"bytes of {n} differ")

    def test_sizes_over_shm_from_registered_memory(self):
        with Node(dram="256MiB") as d:
            self.sizes(d.address, True)

    def test_sizes_over_shm_through_staging(self):
        with Node(dram="256MiB") as d:
            self.sizes(d.address, False)

    def test_sizes_over_ucx_tcp(self):
        with Node(dram="256MiB", ucx=True) as d:
            self.sizes(d.ucx_address, False)

    def test_a_key_put_again_and_again_over_ucx_exists(self):
        with Node(ucx=True) as d, Client(d.ucx_address) as kv:
            ns = kv.open("e2e")
            for n in (100, 70000):
                key, data = b"key %d" % n, noise(n)
                self.assertEqual(kv.put1(ns, key, data), "OK")
                self.assertEqual({kv.put1(ns, key, data) for _ in range(400)},
                                 {"EXISTS"})

    def test_two_lanes_and_four_lanes(self):
        for lanes in (2, 4):
            with Node(lanes=lanes, ucx=True) as d:
                self.batch(d.address, "shm")
                self.batch(d.ucx_address, "ucx")
                self.assertIs(d.at_rest(), True)

    def batch(self, address, name):
        with Client(address) as kv:
            ns = kv.open(name)
            keys = [b"key %d" % i for i in range(300)]
            data = {k: noise(1 + i * 97 % 9000, i) for i, k in enumerate(keys)}
            r = kv.put(ns, [Put(k, data[k]) for k in keys])
            self.assertEqual({x.status for x in r}, {"OK"})
            order = random.Random(1).sample(keys, len(keys))
            r = kv.get(ns, [Get(k, len(data[k])) for k in order])
            self.assertEqual({x.status for x in r}, {"OK"})
            for k, x in zip(order, r):
                self.assertTrue(x.data == data[k], k)
            r = kv.get(ns, [Get(b"other %d" % i, 10) for i in range(50)])
            self.assertEqual({x.status for x in r}, {"MISS"})

    def scatter(self, address):
        with Client(address) as kv:
            ns = kv.open("e2e")
            data = noise(300000)
            cuts = [0, 1, 4097, 70000, 70001, 299999, 300000]
            parts = [data[a:b] for a, b in zip(cuts, cuts[1:])]
            self.assertEqual(kv.put1(ns, b"k", parts), "OK")
            mem = kv.memory(1 << 20)
            g = Get(b"k", [mem.buf(500000, 7), mem.buf(0, 299990),
                           mem.buf(800000, 3)])
            r = kv.get(ns, [g])[0]
            self.assertEqual((r.status, r.moved), ("OK", 300000))
            self.assertTrue(r.data == data)
            for off, n in ((0, 10), (4095, 2), (299999, 1), (1000, 200000),
                           (299000, 5000), (300000, 5)):
                r = kv.get1(ns, b"k", n, off=off)
                self.assertEqual(r.status, "OK", (off, n))
                self.assertTrue(r.data == data[off:off + n], (off, n))
            self.assertEqual(kv.get1(ns, b"k", 5, off=300001).status, "LIMIT")

    def test_scatter_lists_and_ranges_over_shm(self):
        with Node() as d:
            self.scatter(d.address)

    def test_scatter_lists_and_ranges_over_ucx(self):
        with Node(ucx=True) as d:
            self.scatter(d.ucx_address)

    def test_a_short_buffer_gets_the_first_bytes_and_the_length(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            self.assertEqual(kv.put1(ns, b"k", noise(100)), "OK")
            r = kv.get1(ns, b"k", 40)
            self.assertEqual(r.len, 100)
            self.assertIn(r.status, ("OK", "TOO_SMALL"))
            if r.status == "OK":
                self.assertEqual((r.moved, r.data), (40, noise(100)[:40]))

    def test_if_version_tells_one_put_from_the_next(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put1(ns, b"k", b"one")
            old = kv.get1(ns, b"k", 3).version
            self.assertEqual(kv.get1(ns, b"k", 3, if_version=old).status, "OK")
            self.assertEqual(kv.evict(ns, "keys", [b"k"]), 1)
            kv.put1(ns, b"k", b"two")
            self.assertEqual(kv.get1(ns, b"k", 3, if_version=old).status,
                             "VERSION")
            new = kv.get1(ns, b"k", 3)
            self.assertNotEqual(new.version, old)
            self.assertEqual(new.data, b"two")

    def test_wrong_checksum_is_refused_and_leaves_nothing(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            self.assertEqual(kv.put1(ns, b"k", b"abcd", crc=1), "CORRUPT")
            self.assertEqual(kv.get1(ns, b"k", 4).status, "MISS")
            self.assertEqual(d.metrics()["checksum_mismatches"], 1)
            self.assertEqual(d.metrics()["blocks"], 0)

    def test_one_gibibyte(self):
        if SANITIZED:
            self.skipTest("too slow under a sanitizer")
        with open("/proc/meminfo", encoding="ascii") as f:
            free = int(f.read().split("MemAvailable:")[1].split()[0]) << 10
        if free < 5 << 30:
            self.skipTest("needs 5 GiB of free memory")
        with Node(dram="1280MiB") as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            n = 1 << 30
            mem = kv.memory(n)
            whole = mem.buf()
            pattern = noise(8)
            for off in range(0, n, 1 << 20):
                mem.write(off.to_bytes(8, "little") + pattern, off)
            r = kv.put(ns, [Put(b"k", whole)], deadline_ms=60000)[0]
            self.assertEqual(r.status, "OK")
            crc = r.crc32c
            for off in range(0, n, 1 << 20):
                mem.write(bytes(4096), off)
            r = kv.get(ns, [Get(b"k", whole)], deadline_ms=60000,
                       verify=True)[0]
            self.assertEqual((r.status, r.moved, r.crc32c), ("OK", n, crc))
            for off in range(0, n, 1 << 20):
                self.assertTrue(mem.buf(off, 16).raw == off.to_bytes(
                    8, "little") + pattern, off)


class Meaning(unittest.TestCase):
    """What the other operations do to blocks, seen by a client."""

    def setUp(self):
        self.d = Node(lanes=2)
        self.d.start()
        self.addCleanup(self.d.remove)
        self.kv = Client(self.d.address)
        self.addCleanup(self.kv.close)
        self.ns = self.kv.open("e2e")

    def put_all(self, names, **attrs):
        r = self.kv.put(self.ns, [Put(n, b"x" * 100, **attrs) for n in names])
        self.assertEqual({x.status for x in r}, {"OK"})

    def have(self, names):
        r = self.kv.get(self.ns, [Get(n, 100) for n in names])
        return [x.status == "OK" for x in r]

    def test_lookup_matrix_with_columns(self):
        rows = [[b"%d.%d" % (p, c) for c in range(3)] for p in range(10)]
        # Column 0 whole up to 6; column 1 (trailing 2) only 4 and 5; column 2
        # is optional and missing.
        self.put_all([rows[p][0] for p in range(7)] +
                     [rows[p][1] for p in (4, 5)])
        r, prefix, stops = self.kv.lookup(
            self.ns, rows, [(0, 0), (1, 2), (2, 0)])
        self.assertEqual([x.state for x in r[0:3]], [2, 0, 0])
        self.assertEqual([x.state for x in r[12:15]], [2, 2, 0])
        self.assertEqual([p for p, s in enumerate(stops) if s], [5])
        self.assertEqual(prefix, 6)

    def test_lookup_pins_the_hits(self):
        self.put_all([b"a", b"c"])
        r, prefix, _ = self.kv.lookup(
            self.ns, [[b"a"], [b"b"], [b"c"]], pin_ttl_ms=60000)
        self.assertEqual([x.pinned for x in r][0], True)
        self.assertEqual(r[1].state, 0)
        self.assertEqual(prefix, 1)
        self.assertGreaterEqual(self.d.metrics()["pinned_bytes"], 100)
        self.kv.keys("unpin", self.ns, [b"a", b"c"])
        self.assertEqual(self.d.metrics()["pinned_bytes"], 0)

    def test_evict_by_key(self):
        self.put_all([b"a", b"b"])
        self.assertEqual(self.kv.evict(self.ns, "keys", [b"a", b"none"]), 1)
        self.assertEqual(self.have([b"a", b"b"]), [False, True])

    def test_evict_by_chain_takes_descendants(self):
        # One route: parents are known within a lane.
        names = [b"c%d" % i for i in range(8)]
        chain = [Key(n, route=b"root") for n in names]
        for i, k in enumerate(chain):
            self.put_all([k], parent=names[i - 1] if i else b"")
        self.put_all([b"other"])
        self.assertEqual(self.kv.evict(self.ns, "chain", [chain[3]]), 5)
        self.assertEqual(self.have(chain), [True] * 3 + [False] * 5)
        self.assertEqual(self.have([b"other"]), [True])

    def test_evict_by_label_scope_and_namespace(self):
        self.put_all([b"l%d" % i for i in range(6)], labels=(7, 9))
        self.put_all([b"m%d" % i for i in range(3)], labels=(8,))
        salt = bytes(range(16))
        scoped = [Key(b"l%d" % i, scope=salt) for i in range(4)]
        self.put_all(scoped)
        self.assertEqual(self.kv.evict(self.ns, "label", label=9), 6)
        self.assertEqual(self.have(scoped), [True] * 4)
        self.assertEqual(
            self.kv.evict(self.ns, "scope", [Key(b"x", scope=salt)]), 4)
        self.assertEqual(self.have(scoped), [False] * 4)
        self.assertEqual(self.kv.evict(self.ns, "namespace"), 3)
        self.assertEqual(self.d.metrics()["blocks"], 0)

    def test_a_bump_makes_old_blocks_unfindable_at_once(self):
        names = [b"k%d" % i for i in range(50)]
        self.put_all(names)
        self.kv.bump(self.ns)
        with Client(self.d.address) as other:
            ns = other.open("e2e")
            r = other.get(ns, [Get(n, 100) for n in names])
            self.assertEqual({x.status for x in r}, {"MISS"})
            r = other.put(ns, [Put(n, b"new") for n in names])
            self.assertEqual({x.status for x in r}, {"OK"})
        ns = self.kv.open("e2e")
        self.assertEqual(self.kv.get1(ns, b"k0", 3).data, b"new")

    def test_namespaces_do_not_see_each_other(self):
        two = self.kv.open("two")
        self.put_all([b"k"])
        self.assertEqual(self.kv.get1(two, b"k", 100).status, "MISS")
        self.assertEqual(self.kv.put1(two, b"k", b"y"), "OK")
        self.assertEqual(self.kv.get1(self.ns, b"k", 100).data, b"x" * 100)
        self.assertEqual(self.kv.evict(two, "namespace"), 1)
        self.assertEqual(self.have([b"k"]), [True])

    def test_groups_and_scopes_are_part_of_the_key(self):
        salt = b"s" * 16
        keys = [Key(b"k"), Key(b"k", group=1), Key(b"k", scope=salt)]
        for i, k in enumerate(keys):
            self.assertEqual(self.kv.put1(self.ns, k, b"%d" % i), "OK")
        for i, k in enumerate(keys):
            self.assertEqual(self.kv.get1(self.ns, k, 1).data, b"%d" % i)

    def test_a_differing_fingerprint_names_the_field(self):
        self.kv.open("fp", model="m", dtype="bf16")
        with self.assertRaises(KvError) as e:
            self.kv.open("fp", model="m", dtype="fp8")
        self.assertEqual(e.exception.name, "MISMATCH")
        self.assertIn("dtype", str(e.exception))
        self.assertIn("bf16", str(e.exception))
        self.assertIn("fp8", str(e.exception))

    def test_ttl_ends_a_block(self):
        self.put_all([b"short"], ttl_ms=1)
        self.assertTrue(until(lambda: self.have([b"short"]) == [False]))
        self.assertGreater(self.d.metrics()["get_miss_expired"], 0)

# SPDX-License-Identifier: Apache-2.0
"""GET with parts: each item is told in the order asked as soon as its bytes are
there, and nothing after the call's own completion."""

import ctypes
import random
import signal
import unittest

from node import Node, until
from kv import Client, Get, Put

LAYERS = 80


def noise(n, seed=0):
    return random.Random(f"{n} {seed}").randbytes(n)


def layers(key, n, mem=None):
    """A GET item for each layer of n bytes, in registered memory if given."""
    return [Get(key, mem.buf(i * n, n) if mem else n, off=i * n)
            for i in range(LAYERS)]


class Parts(unittest.TestCase):
    def told_in_order(self, kv, ns, gets, want, **options):
        """Each item's bytes are right when its part comes."""
        call = kv.submit_get(ns, gets, deadline_ms=20000, parts=True,
                             **options)

        def check(i):
            got = bytes(call.results()[i].data)
            self.assertTrue(got == want[i], f"bytes of item {i}")

        call.on_part = check
        parts, status = call.told()
        self.assertEqual(status, "OK")
        self.assertEqual([i for i, _ in parts], list(range(len(gets))))
        self.assertEqual({s for _, s in parts}, {"OK"})

    def layer_wise(self, address):
        with Client(address) as kv:
            ns = kv.open("e2e")
            for n in (64, 4096, 300000):
                block = noise(LAYERS * n)
                want = [block[i * n:(i + 1) * n] for i in range(LAYERS)]
                key, mem = b"block %d" % n, kv.memory(LAYERS * n)
                self.assertEqual(kv.put1(ns, key, block), "OK")
                for verify in (False, True):
                    self.told_in_order(kv, ns, layers(key, n), want,
                                       verify=verify)
                    ctypes.memset(mem.p, 0, mem.n)
                    self.told_in_order(kv, ns, layers(key, n, mem), want,
                                       verify=verify)
                mem.free()

    def test_layers_of_one_block_over_shm(self):
        with Node(dram="256MiB") as d:
            self.layer_wise(d.address)
            self.assertIs(d.at_rest(), True)

    def test_layers_of_one_block_over_ucx(self):
        with Node(dram="256MiB", ucx=True) as d:
            self.layer_wise(d.ucx_address)
            self.assertIs(d.at_rest(), True)

    def lanes(self, address):
        with Client(address) as kv:
            ns = kv.open("e2e")
            keys = [b"key %d" % i for i in range(200)]
            data = [noise(1 + i * 613 % 40000, i) for i in range(200)]
            kv.put(ns, [Put(k, b) for k, b in zip(keys, data)])
            self.told_in_order(kv, ns, [Get(k, len(b))
                                        for k, b in zip(keys, data)], data,
                               verify=True)

    def test_the_order_asked_holds_over_several_lanes(self):
        with Node(lanes=3, ucx=True) as d:
            self.lanes(d.address)
            self.lanes(d.ucx_address)

    def test_misses_are_parts_too(self):
        with Node(lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put(ns, [Put(b"k%d" % i, noise(5000, i))
                        for i in range(0, 20, 2)])
            call = kv.submit_get(ns, [Get(b"k%d" % i, 5000)
                                      for i in range(20)], parts=True,
                                 deadline_ms=20000)
            parts, status = call.told()
            self.assertEqual(status, "OK")
            self.assertEqual(parts, [(i, "MISS" if i % 2 else "OK")
                                     for i in range(20)])

    def test_loans_are_parts_too(self):
        with Node("dram.loan_capacity=32MiB", "limits.loan_share=100%") as d, \
                Client(d.address) as kv:
            ns = kv.open("e2e", loans="any")
            block = noise(40 * 4096)
            kv.put1(ns, b"k", block)
            call = kv.submit_get(ns, [Get(b"k", loan=True), Get(b"x", 10),
                                      Get(b"k", 4096, off=4096)],
                                 parts=True, deadline_ms=20000)
            parts, status = call.told()
            self.assertEqual(status, "OK")
            self.assertEqual([i for i, _ in parts], [0, 1, 2])
            r = call.results()
            self.assertTrue(r[2].data == block[4096:8192])
            self.assertTrue(r[0].data == block)
            self.assertEqual(kv.release(ns, r[0]), "OK")

    @staticmethod
    def stopped(d):
        with open(f"/proc/{d.process.pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"

    def test_only_the_calls_end_is_told_at_a_deadline(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put1(ns, b"k", noise(80000))
            d.send(signal.SIGSTOP)
            self.assertTrue(until(lambda: self.stopped(d)))
            call = kv.submit_get(ns, layers(b"k", 1000), parts=True,
                                 deadline_ms=50)
            parts, status = call.told()
            d.send(signal.SIGCONT)
            self.assertEqual((parts, status), ([], "TIMEOUT"))
            self.assertEqual({r.status for r in call.results()}, {"TIMEOUT"})
            self.assertIs(d.at_rest(peers=1), True)

    def killed(self, d, address):
        """What was told counts; of the rest only the end is heard."""
        n = 1 << 20
        with Client(address) as kv:
            ns = kv.open("e2e")
            block = noise(LAYERS * n)
            self.assertEqual(kv.put1(ns, b"k", block), "OK")
            call = kv.submit_get(ns, layers(b"k", n), parts=True,
                                 deadline_ms=20000)

            def kill(i):
                if i == 0:
                    d.kill()

            call.on_part = kill
            parts, status = call.told()
            self.assertIn(status, ("OK", "RETRY"))
            self.assertEqual(parts, [(i, "OK") for i in range(len(parts))])
            for i, r in enumerate(call.results()):
                if i < len(parts):
                    self.assertTrue(r.data == block[i * n:(i + 1) * n])
                elif status != "OK":
                    self.assertIn(r.status, ("OK", "RETRY"))

    def test_a_server_that_dies_leaves_what_was_told(self):
        with Node(dram="256MiB", ucx=True) as d:
            for address in (d.address, d.ucx_address):
                self.killed(d, address)
                d.start()

    def test_wait_takes_the_whole_call(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put1(ns, b"k", noise(80000))
            call = kv.submit_get(ns, layers(b"k", 1000), parts=True,
                                 deadline_ms=20000)
            self.assertEqual({r.status for r in call.wait()}, {"OK"})
            self.assertTrue(kv.drained())
            self.assertEqual({r.status for r in kv.get(
                ns, layers(b"k", 1000), parts=True)}, {"OK"})
            self.assertTrue(kv.drained())


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: Apache-2.0
"""One block by several writers: processes that fill it together, that die in
the middle, or that leave it open."""

import os
import signal
import subprocess
import sys
import threading
import time
import unittest

from kv import Client, Get, crc32c
from node import Node, until
from ssd import SsdNode
from writer import piece

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCK = 4 << 20


class Writer:
    """writer.py; step() tells it to go on and gives its answer."""

    def __init__(self, address, key, writers, number, pieces=4, total=BLOCK):
        self.p = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "writer.py"), address,
             key.decode(), str(total), str(writers), str(number), str(pieces)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.began = self.answer()

    def answer(self):
        return self.p.stdout.readline().strip()

    def step(self):
        self.p.stdin.write("\n")
        self.p.stdin.flush()
        return self.answer()

    def kill(self):
        self.p.send_signal(signal.SIGKILL)
        self.end()

    def end(self):
        self.p.stdin.close()
        self.p.stdout.close()
        self.p.wait()


def whole(key, pieces, total=BLOCK):
    return b"".join(piece(key, i, total // pieces) for i in range(pieces))


def state(kv, ns, key):
    return ("MISS", "PENDING", "HIT")[kv.lookup(ns, [[key]])[0][0].state]


class Writers(unittest.TestCase):
    def nothing_left(self, d):
        """No open block, no byte of one."""
        self.assertTrue(until(lambda: d.metrics()["open_blocks"] == 0))
        self.assertTrue(until(lambda: d.metrics()["extent_bytes"] == 0),
                        d.metrics()["extent_bytes"])

    def two_processes(self, d, address):
        with Client(d.address) as kv:
            ns = kv.open("e2e")
            a = Writer(address, b"k", 2, 0)
            b = Writer(address, b"k", 2, 1)
            self.assertEqual((a.began, b.began), ("OK", "OK"))
            for _ in range(4):
                self.assertEqual(a.step(), "OK")
                self.assertEqual(state(kv, ns, b"k"), "PENDING")
                self.assertEqual(b.step(), "OK")
            self.assertEqual(b.step(), "PENDING")
            self.assertEqual(state(kv, ns, b"k"), "PENDING")
            self.assertEqual(a.step(), "OK")
            r = kv.get(ns, [Get(b"k", BLOCK)], verify=True)[0]
            self.assertEqual((r.status, r.len), ("OK", BLOCK))
            self.assertEqual(r.crc32c, crc32c(whole(b"k", 8)))
            self.assertTrue(r.data == whole(b"k", 8))
            a.end()
            b.end()
            self.assertEqual(kv.get1(ns, b"k", 10).status, "OK")
            self.assertEqual(kv.evict(ns, "keys", [b"k"]), 1)
            self.nothing_left(d)

    def test_two_processes_fill_one_block_over_shm(self):
        with Node(lanes=2) as d:
            self.two_processes(d, d.address)

    def test_two_processes_fill_one_block_over_ucx(self):
        with Node(lanes=2, ucx=True) as d:
            self.two_processes(d, d.ucx_address)

    def test_one_over_shm_and_one_over_ucx(self):
        with Node(ucx=True) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            a = Writer(d.address, b"k", 2, 0, pieces=1)
            b = Writer(d.ucx_address, b"k", 2, 1, pieces=1)
            self.assertEqual([a.step(), b.step(), a.step(), b.step()],
                             ["OK", "OK", "PENDING", "OK"])
            self.assertTrue(kv.get1(ns, b"k", BLOCK).data == whole(b"k", 2))
            a.end()
            b.end()

    def killed(self, d, address):
        """At each step of its life, from its begin to its commit."""
        with Client(d.address) as kv:
            ns = kv.open("e2e")
            for steps in range(5):
                key = b"killed %d" % steps
                a, b = (Writer(address, key, 2, i) for i in range(2))
                for _ in range(4):
                    self.assertEqual(b.step(), "OK")
                self.assertEqual(b.step(), "PENDING")
                for _ in range(steps):
                    self.assertEqual(a.step(), "OK")
                a.kill()
                self.assertTrue(
                    until(lambda k=key: state(kv, ns, k) == "MISS"))
                b.end()
                self.nothing_left(d)

    def test_a_writer_killed_leaves_nothing_over_shm(self):
        with Node() as d:
            self.killed(d, d.address)

    def test_a_writer_killed_leaves_nothing_over_ucx(self):
        with Node(ucx=True) as d:
            self.killed(d, d.ucx_address)

    def killed_while_bytes_move(self, d, address):
        """At some moment between its word to write 48 MiB and its end."""
        for i in range(12):
            w = Writer(address, b"big %d" % i, 1, 0, pieces=1, total=48 << 20)
            self.assertEqual(w.began, "OK")
            w.p.stdin.write("\n\n")
            w.p.stdin.flush()
            time.sleep(0.02 * i)
            w.kill()
            self.assertTrue(until(lambda: d.metrics()["open_blocks"] == 0))
            with Client(d.address) as kv:
                ns, key = kv.open("e2e"), b"big %d" % i
                r = kv.get1(ns, key, 48 << 20)
                self.assertIn(r.status, ("OK", "MISS"))
                if r.status == "OK":
                    self.assertTrue(r.data == whole(key, 1, 48 << 20))
                kv.evict(ns, "keys", [key])
            self.nothing_left(d)

    def test_a_writer_killed_while_its_bytes_move_over_shm(self):
        with Node(dram="256MiB") as d:
            self.killed_while_bytes_move(d, d.address)

    def test_a_writer_killed_while_its_bytes_move_over_ucx(self):
        with Node(dram="256MiB", ucx=True) as d:
            self.killed_while_bytes_move(d, d.ucx_address)

    def test_who_has_committed_may_be_killed(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            a, b = (Writer(d.address, b"k", 2, i, pieces=1) for i in range(2))
            self.assertEqual([a.step(), a.step()], ["OK", "PENDING"])
            a.kill()
            self.assertTrue(until(lambda: d.metrics()["peers"] == 2))
            self.assertEqual([b.step(), b.step()], ["OK", "OK"])
            self.assertTrue(kv.get1(ns, b"k", BLOCK).data == whole(b"k", 2))
            b.end()

    def test_eight_processes(self):
        with Node(lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            all_ = [Writer(d.address, b"k", 8, i, 8, 1 << 20)
                    for i in range(8)]
            steps = [[] for _ in all_]

            def run(w, out):
                out += [w.step() for _ in range(9)]

            threads = [threading.Thread(target=run, args=x)
                       for x in zip(all_, steps)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            for w in all_:
                w.end()
            for s in steps:
                self.assertEqual(s[:8], ["OK"] * 8)
            self.assertEqual(sorted(s[8] for s in steps),
                             ["OK"] + ["PENDING"] * 7)
            r = kv.get1(ns, b"k", 1 << 20)
            self.assertTrue(r.data == whole(b"k", 64, 1 << 20))

    def layers(self, address):
        """One process, layer by layer, from registered and other memory."""
        with Client(address) as kv:
            ns, n = kv.open("e2e"), 100000
            data = [piece(b"k", i, n) for i in range(20)]
            mem = kv.memory(n)
            t = kv.begin(ns, b"k", 20 * n).token
            for i in (3, 1, 19, 0):
                self.assertEqual(
                    kv.write(ns, b"k", t, [(i * n, mem.write(data[i]))]),
                    ["OK"])
            rest = [i for i in range(20) if i not in (3, 1, 19, 0)]
            self.assertEqual(
                kv.write(ns, b"k", t, [(i * n, data[i]) for i in rest[:-1]]),
                ["OK"] * (len(rest) - 1))
            i = rest[-1]
            cut = [data[i][:7], data[i][7:50000], data[i][50000:]]
            self.assertEqual(kv.write(ns, b"k", t, [(i * n, cut)]), ["OK"])
            self.assertEqual(kv.commit(ns, b"k", t), "OK")
            self.assertTrue(kv.get1(ns, b"k", 20 * n).data == b"".join(data))

    def test_layer_by_layer(self):
        with Node(ucx=True) as d:
            self.layers(d.address)
            with Client(d.address) as kv:
                kv.evict(kv.open("e2e"), "keys", [b"k"])
            self.layers(d.ucx_address)

    def answers(self, address):
        with Client(address) as kv, Client(address) as other:
            ns = kv.open("e2e")
            self.assertEqual(other.open("e2e"), ns)
            t = kv.begin(ns, b"k", 1000, 2).token
            self.assertEqual(other.begin(ns, b"k", 999, 2).status, "MISMATCH")
            self.assertEqual(other.begin(ns, b"k", 1000, 2).token, t)
            self.assertEqual(kv.put1(ns, b"k", b"x" * 1000), "PENDING")
            x = b"x" * 500
            self.assertEqual(
                kv.write(ns, b"k", t, [(0, x)], crc=crc32c(x) ^ 1),
                ["CORRUPT"])
            self.assertEqual(kv.write(ns, b"k", t, [(0, x)], crc=crc32c(x)),
                             ["OK"])
            self.assertEqual(
                kv.write(ns, b"k", t, [(0, x), (499, b"yy"), (600, x)]),
                ["EXISTS", "BAD_REQUEST", "BAD_REQUEST"])
            self.assertEqual(kv.write(ns, b"k", t ^ 1 << 30, [(500, x)]),
                             ["MISS"])
            self.assertEqual(kv.commit(ns, b"k", t, 0), "PENDING")
            self.assertEqual(other.commit(ns, b"k", t, 1), "PARTIAL")
            self.assertEqual(kv.commit(ns, b"k", t, 0), "PARTIAL")
            self.assertEqual(state(kv, ns, b"k"), "MISS")
            t = kv.begin(ns, b"k", 1000).token
            self.assertEqual(other.commit(ns, b"k", t, abort=True), "OK")
            self.assertEqual(kv.write(ns, b"k", t, [(0, x)]), ["MISS"])
            t = kv.begin(ns, b"k", 500).token
            kv.write(ns, b"k", t, [(0, x)])
            self.assertEqual(kv.commit(ns, b"k", t), "OK")
            self.assertEqual(kv.commit(ns, b"k", t), "OK")
            self.assertEqual(kv.begin(ns, b"k", 500).status, "EXISTS")

    def test_every_answer_over_shm(self):
        with Node() as d:
            self.answers(d.address)

    def test_every_answer_over_ucx(self):
        with Node(ucx=True) as d:
            self.answers(d.ucx_address)

    def test_time_flush_and_evict_end_it(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            t = kv.begin(ns, b"k", BLOCK, open_ms=50).token
            kv.write(ns, b"k", t, [(0, b"x" * 1000)])
            self.assertTrue(until(lambda: state(kv, ns, b"k") == "MISS"))
            self.assertEqual(kv.commit(ns, b"k", t), "MISS")
            self.nothing_left(d)
            t = kv.begin(ns, b"k", BLOCK).token
            self.assertEqual(kv.evict(ns, "keys", [b"k"]), 0)
            self.assertEqual(kv.commit(ns, b"k", t), "MISS")
            self.nothing_left(d)
            t = kv.begin(ns, b"k", BLOCK).token
            kv.bump(ns)
            self.assertEqual(kv.commit(ns, b"k", t), "MISS")
            self.nothing_left(d)

    def test_limits(self):
        with Node("limits.open_blocks=2", "limits.open_share=50%") as d, \
                Client(d.address) as kv:
            ns = kv.open("e2e")
            begun = [kv.begin(ns, b"k%d" % i, 1000) for i in range(3)]
            self.assertEqual([r.status for r in begun], ["OK", "OK", "BUSY"])
            kv.commit(ns, b"k0", begun[0].token, abort=True)
            self.assertEqual(kv.begin(ns, b"big", 33 << 20).status, "BUSY")
            self.assertEqual(kv.begin(ns, b"big", 31 << 20).status, "OK")

    def test_the_daemon_stops_in_order_while_a_block_is_open(self):
        with Node() as d:
            w = Writer(d.address, b"k", 1, 0)
            self.assertEqual(w.step(), "OK")
            d.stop()
            w.end()
            d.start()
            with Client(d.address) as kv:
                self.assertEqual(state(kv, kv.open("e2e"), b"k"), "MISS")

    def test_a_durable_one_survives_kill_9(self):
        with SsdNode() as d:
            with Client(d.address) as kv:
                ns = kv.open("e2e")
                t = kv.begin(ns, b"k", 100000, durable=True).token
                data = piece(b"k", 0, 100000)
                kv.write(ns, b"k", t, [(50000, data[50000:])])
                kv.write(ns, b"k", t, [(0, data[:50000])])
                self.assertEqual(kv.commit(ns, b"k", t), "OK")
                t = kv.begin(ns, b"open", 100, durable=True).token
                kv.write(ns, b"open", t, [(0, data[:100])])
            d.kill()
            d.start()
            with Client(d.address) as kv:
                ns = kv.open("e2e")
                self.assertTrue(kv.get1(ns, b"k", 100000).data == data)
                self.assertEqual(state(kv, ns, b"open"), "MISS")


if __name__ == "__main__":
    unittest.main()

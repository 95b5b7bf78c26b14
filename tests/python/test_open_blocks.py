# SPDX-License-Identifier: Apache-2.0
"""Blocks by several writers, and events, as the package binds them."""

import signal
import threading

import pikv
from case import LONG_MS, OK, Case, payload, until


class Writers(Case):
    def test_ranges_make_a_block(self):
        data = payload(10000)
        r = self.ns.begin([b"k"], [10000])
        self.assertEqual(r.statuses, [OK])
        token = r.tokens
        self.assertEqual(self.ns.exists([b"k"]), [False])
        self.assertTrue(self.ns.write([b"k"] * 2, token * 2, [0, 4000],
                                      [data[:4000], [data[4000:7000],
                                                     data[7000:]]]).all_ok)
        self.assertEqual(self.ns.commit([b"k"], token).statuses, [OK])
        self.assertEqual(self.ns.get_bytes(b"k"), data)

    def test_two_writers_of_two_clients(self):
        other = self.connect().open(self._testMethodName)
        a = self.ns.begin([b"k"], 8, writers=2)
        b = other.begin([b"k"], 8, writers=2)
        self.assertEqual(a.tokens, b.tokens)
        self.ns.write([b"k"], a.tokens, 0, [b"left"])
        other.write([b"k"], b.tokens, 4, [b"rite"], crc32c=[
            pikv.crc32c(b"rite")])
        self.assertEqual(self.ns.commit([b"k"], a.tokens, 0).statuses,
                         [pikv.Pending.code])
        self.assertEqual(other.commit([b"k"], b.tokens, writer=1).statuses,
                         [OK])
        self.assertEqual(self.ns.get_bytes(b"k"), b"leftrite")

    def test_begin_of_what_is_there_and_of_another_shape(self):
        self.put((b"k", b"v"))
        self.assertEqual(self.ns.begin([b"k"], 5).statuses,
                         [pikv.Exists.code])
        self.ns.begin([b"o"], 5)
        self.assertEqual(self.ns.begin([b"o"], 6).statuses,
                         [pikv.Mismatch.code])

    def test_abort_leaves_nothing(self):
        token = self.ns.begin([b"k"], 5).tokens
        self.ns.write([b"k"], token, [0], [b"12345"])
        self.assertEqual(self.ns.abort([b"k"], token).statuses, [OK])
        self.assertEqual(self.ns.commit([b"k"], token).statuses,
                         [pikv.Miss.code])
        self.assertIsNone(self.ns.get_bytes(b"k"))

    def test_commit_with_bytes_missing_is_partial(self):
        token = self.ns.begin([b"k"], 5).tokens
        self.ns.write([b"k"], token, [0], [b"123"])
        self.assertEqual(self.ns.commit([b"k"], token).statuses,
                         [pikv.Partial.code])

    def test_attributes_go_with_begin(self):
        token = self.ns.begin([b"k"], [1], labels=[9], priority=3,
                              ttl_ms=LONG_MS, open_ms=LONG_MS).tokens
        self.ns.write([b"k"], token, [0], [b"1"])
        self.ns.commit([b"k"], token)
        self.assertEqual(self.ns.evict(select="label", label=9), 1)

    def test_write_by_layout(self):
        memory = self.client.alloc(8192)
        memoryview(memory)[:] = payload(8192)
        lay = self.client.layout(memory, [(0, 1024, 4096, 2)],
                                 block_stride=1024, blocks=4)
        token = self.ns.begin([b"k"], [2048]).tokens
        r = self.ns.write([b"k"], token, [0], [2], layout=lay)
        self.assertEqual(r.statuses, [OK])
        self.assertEqual(self.ns.commit([b"k"], token).statuses, [OK])
        self.assertEqual(self.ns.get_bytes(b"k"),
                         payload(8192)[2048:3072] + payload(8192)[6144:7168])

    def test_memory_of_a_layout_stays(self):
        memory = self.client.alloc(8192)
        lay = self.client.layout(memory, [(0, 4096)], block_stride=4096,
                                 blocks=2)
        with self.assertRaises(BufferError):
            memory.free()
        self.client.unlayout(lay)
        memory.free()

    def test_submitted(self):
        c = self.client
        token = c.wait(self.ns.submit_begin([b"k"], [4])).results.tokens
        c.wait(self.ns.submit_write([b"k"], token, [0], [b"1234"]))
        self.assertEqual(c.wait(self.ns.submit_commit([b"k"],
                                                      token)).status, OK)
        token = c.wait(self.ns.submit_write_begin([b"x"], 4)).results.tokens
        self.assertEqual(c.wait(self.ns.submit_abort(
            [b"x"], token)).results.statuses, [OK])

    def test_tokens_are_numbers(self):
        with self.refused(TypeError, "tokens[0]", "bytes"):
            self.ns.commit([b"k"], [b"t"])
        with self.refused(ValueError, "writers", "64"):
            self.ns.begin([b"k"], [5], writers=65)
        with self.refused(TypeError, "write()", "values"):
            self.ns.write([b"k"], [1], [0])


class Events(Case):
    def follow(self, stream, n):
        seen = []
        until(lambda: seen.extend(stream.next(wait_ms=100)) or
              len(seen) >= n)
        return seen

    def settled(self):
        """A stream that the server tells from now on."""
        stream = self.ns.events()
        self.addCleanup(stream.close)
        until(lambda: self.ns.put([b"warm"], [b"v"]) and
              self.ns.evict([b"warm"]) and stream.next(wait_ms=50))
        until(lambda: not stream.next(wait_ms=50))
        return stream

    def test_stored_and_removed_are_told(self):
        stream = self.settled()
        self.ns.put([b"k"], [b"value"], parents=[b"p"], pages=3, token_ends=32,
                    token_ns=16, labels=[7])
        self.ns.evict([b"k"])
        stored, removed = self.follow(stream, 2)
        self.assertEqual((stored.kind, removed.kind), ("stored", "removed"))
        self.assertEqual((stored.key, stored.parent, stored.len,
                          stored.page, stored.token_end, stored.token_n,
                          stored.labels), (b"k", b"p", 5, 3, 32, 16,
                                           (7, 0, 0, 0)))
        self.assertEqual(stored.hash, removed.hash)
        self.assertEqual(removed.seq, stored.seq + 1)
        self.assertEqual(stored.boot, self.client.info().boot)

    def test_from_the_beginning(self):
        self.put((b"k", b"v"))
        with self.ns.events(from_seq=[0, 0]) as stream:
            self.assertIn(b"k", [e.key for e in self.follow(stream, 1)])
        self.assertTrue(stream.closed)
        self.assertRaises(pikv.Closed, stream.next)
        with self.refused(ValueError, "from_seq", "2"):
            self.ns.events(from_seq=[1])

    def test_iteration_ends_with_close_of_the_client(self):
        stream = self.ns.events()
        timer = threading.Timer(0.1, self.client.close)
        timer.start()
        try:
            for _ in stream:
                pass
        except pikv.Closed:
            pass
        timer.join()
        self.assertTrue(stream.closed)

    def test_signal_handler_may_close_the_client(self):
        stream = self.ns.events()
        before = signal.signal(signal.SIGALRM, lambda *_: self.client.close())
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        self.assertEqual(stream.next(wait_ms=3600000), [])
        self.assertTrue(self.client.closed)
        self.assertTrue(stream.closed)

    def test_bad_max(self):
        with self.ns.events() as stream:
            with self.refused(ValueError, "max"):
                stream.next(0)

# SPDX-License-Identifier: Apache-2.0
"""Messages that break a rule: a typed error or the end of the connection, and
the daemon lives on as if nothing had been."""

import os
import random
import socket
import unittest

import kv
from node import SANITIZED, Node, until
from raw import CLOSED, OPS, PAGE, Raw, batch, key, pb, record, seg

MIB = 1 << 20


def put(c, ns=1, name=b"k", n=4, segs=b"", seg_n=0, over=None, **rec):
    """A PUT of one key; rec and over are written over what is right."""
    b = {"ns": ns, "key_n": 1, **(over or {})}
    r = {"key_len": len(name), "len": n, "seg_n": seg_n, **rec}
    return c.build("put", [batch(**b), key(**r)], name + segs)


class BadInput(unittest.TestCase):
    def setUp(self):
        self.d = Node("limits.handshake=30s")
        self.addCleanup(self.d.remove)
        self.d.start()
        self.witness = kv.Client(self.d.address)
        self.addCleanup(self.witness.close)
        self.raw = []
        self.ns = self.witness.open("e2e")
        self.assertEqual(self.witness.put1(self.ns, b"good", b"bytes"), "OK")

    def tearDown(self):
        """Nothing of it is left, and others are served."""
        for c in self.raw:
            c.close()
        r = self.witness.get1(self.ns, b"good", 5)
        self.assertEqual((r.status, r.data), ("OK", b"bytes"))
        self.assertIs(self.d.at_rest(peers=1), True)
        self.assertTrue(self.d.alive())

    def connection(self, hello=True):
        c = Raw(self.d.socket)
        self.raw.append(c)
        if hello:
            self.assertEqual(c.hello().status, "OK")
            self.assertEqual(c.open().status, "OK")
        return c

    def answer(self, c, message):
        if not c.send(message):
            return CLOSED
        r = c.receive()
        if r is None:
            return "no answer"
        if r == CLOSED:
            return CLOSED
        if r.status == "OK" and r.results:
            return kv.NAME[r.results[0]["status"]]
        return r.status

    def memory(self, c, n=MIB):
        fd = os.memfd_create("e2e", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.truncate(fd, n)
            r = c.register(fd, 0, n)
        finally:
            os.close(fd)
        self.assertEqual(r.status, "OK")
        return r.env[1][0]

    def test_bad_frames_are_answered_or_end_the_connection(self):
        good = [batch(ns=1, key_n=1), key(key_len=4, len=9)], b"good"
        cases = [
            ("magic", {"magic": 1}, {CLOSED}),
            ("version 0", {"version": 0}, {"BAD_VERSION", CLOSED}),
            ("version 2", {"version": 2}, {"BAD_VERSION", CLOSED}),
            ("kind 0", {"kind": 0}, {"BAD_REQUEST", CLOSED}),
            ("kind reply", {"kind": 2}, {"BAD_REQUEST", CLOSED}),
            ("kind data", {"kind": 3}, {"BAD_REQUEST", CLOSED}),
            ("kind event", {"kind": 4}, {"BAD_REQUEST", CLOSED}),
            ("kind 9", {"kind": 9}, {"BAD_REQUEST", CLOSED}),
            ("op 0", {"op": 0}, {"BAD_REQUEST", "UNSUPPORTED", CLOSED}),
            ("op 38", {"op": 38}, {"UNSUPPORTED", CLOSED}),
            ("op 65535", {"op": 65535}, {"UNSUPPORTED", CLOSED}),
            ("request 0", {"req": 0}, {"BAD_REQUEST", CLOSED}),
            ("deadline 0", {"deadline_us": 0}, {"BAD_REQUEST", CLOSED}),
            ("records 0", {"record_n": 0}, {"BAD_REQUEST", CLOSED}),
            ("records 1", {"record_n": 1}, {"BAD_REQUEST", CLOSED}),
            ("records 3", {"record_n": 3}, {"BAD_REQUEST", CLOSED}),
            ("records max", {"record_n": 0xffffffff}, {"BAD_REQUEST", CLOSED}),
            ("keys 3", {"keys_len": 3}, {"BAD_REQUEST", CLOSED}),
            ("keys 5", {"keys_len": 5}, {"BAD_REQUEST", CLOSED}),
            ("keys max", {"keys_len": 0xffffffff}, {"BAD_REQUEST", CLOSED}),
            ("envelope", {"env_len": 1}, {"BAD_REQUEST", CLOSED}),
            ("envelope max", {"env_len": 0xffffffff}, {"BAD_REQUEST", CLOSED}),
            ("data", {"data_len": 1}, {"BAD_REQUEST", CLOSED}),
            ("data max", {"data_len": (1 << 64) - 1}, {"BAD_REQUEST", CLOSED}),
            ("checksum", {"crc": 1}, {CLOSED}),
        ]
        for what, over, allowed in cases:
            with self.subTest(what):
                c = self.connection()
                got = self.answer(c, c.build("get", *good, **over))
                self.assertIn(got, allowed)
                if got != CLOSED:
                    self.assertEqual(c.ask("ping").status, "OK")

    def test_bad_batches_get_a_typed_error(self):
        c = self.connection()
        mem = self.memory(c)
        one = seg(mem=mem, off=0, len=4)
        long_key = b"k" * 1025
        big = (1 << 30) + 1
        end = 1 << 63
        cases = [
            ("key of 0", put(c, name=b""), "BAD_REQUEST"),
            ("key of 1025", put(c, name=long_key), "LIMIT"),
            ("route of 33", put(c, name=b"k" * 34, key_len=1, route_len=33),
             "LIMIT"),
            ("parent of 1025", put(c, name=b"k" + long_key, key_len=1,
                                   parent_len=1025), "LIMIT"),
            ("block of 0", put(c, n=0), "BAD_REQUEST"),
            ("block over 1 GiB", put(c, n=big), "LIMIT"),
            ("block of 2^64-1", put(c, n=(1 << 64) - 1), "LIMIT"),
            ("range overflows", put(c, off=(1 << 64) - 1), "BAD_REQUEST"),
            ("class", put(c, cls=3), "BAD_REQUEST"),
            ("no keys", put(c, over={"key_n": 0}), "BAD_REQUEST"),
            ("two keys, one record", put(c, over={"key_n": 2}), "BAD_REQUEST"),
            ("key_n max", put(c, over={"key_n": 0xffffffff}), "LIMIT"),
            ("columns of a PUT", put(c, over={"cols": 2}), "BAD_REQUEST"),
            ("accept", put(c, over={"accept": 2}), "BAD_REQUEST"),
            ("select", put(c, over={"select": 6}), "BAD_REQUEST"),
            ("namespace 0", put(c, ns=0), "NO_NAMESPACE"),
            ("namespace 63", put(c, ns=63), "NO_NAMESPACE"),
            ("namespace max", put(c, ns=0xffffffff), "NO_NAMESPACE"),
            ("generation", put(c, over={"generation": 99}),
             "STALE_GENERATION"),
            ("layout", put(c, over={"layout": 7}), "NO_LAYOUT"),
            ("layout with segments",
             put(c, segs=one, seg_n=1, over={"layout": 7}), "NO_LAYOUT"),
            ("memory id", put(c, segs=seg(mem=mem + 9, len=4), seg_n=1),
             "NO_MEM"),
            ("segment behind the memory",
             put(c, segs=seg(mem=mem, off=MIB, len=4), seg_n=1), None),
            ("segment far behind",
             put(c, segs=seg(mem=mem, off=end, len=4), seg_n=1), None),
            ("segment overflows",
             put(c, segs=seg(mem=mem, off=(1 << 64) - 2, len=4), seg_n=1),
             "BAD_REQUEST"),
            ("segments too short",
             put(c, segs=seg(mem=mem, len=3), seg_n=1), "BAD_REQUEST"),
            ("segments cut off", put(c, segs=one[:20], seg_n=1),
             "BAD_REQUEST"),
            ("no segments", put(c, name=b"x", n=8), None),
        ]
        for what, message, want in cases:
            with self.subTest(what):
                got = self.answer(c, message)
                if want:
                    self.assertEqual(got, want)
                else:
                    self.assertNotIn(got, ("no answer", CLOSED, "OK"))
                self.assertEqual(c.ask("ping").status, "OK")
        self.assertEqual(self.d.metrics()["blocks"], 1)

    def test_lookup_counts_that_do_not_fit(self):
        c = self.connection()
        column = record("column", rule=3)
        cases = [
            ([batch(ns=1, key_n=1, cols=0), key(key_len=1)], b"k"),
            ([batch(ns=1, key_n=3, cols=2), column, column] +
             [key(key_len=1)] * 3, b"kkk"),
            ([batch(ns=1, key_n=1, cols=1), column, key(key_len=1)], b"k"),
            ([batch(ns=1, key_n=1, cols=65535), key(key_len=1)], b"k"),
        ]
        for records, keys in cases:
            got = self.answer(c, c.build("lookup", records, keys))
            self.assertEqual(got, "BAD_REQUEST")

    def test_operations_of_later_versions_are_unsupported(self):
        c = self.connection()
        later = "session_open session_step session_close select gather".split()
        for op in later:
            self.assertEqual(self.answer(c, c.build(op)), "UNSUPPORTED", op)

    def test_nothing_is_answered_before_hello(self):
        for op in OPS:
            if op == "hello":
                continue
            c = self.connection(hello=False)
            got = self.answer(c, c.build(op))
            self.assertIn(got, ("DENIED", "UNSUPPORTED", CLOSED), op)
        c = self.connection(hello=False)
        self.assertIn(self.answer(c, put(c)), ("DENIED", CLOSED))

    def test_a_hello_of_another_version_is_refused(self):
        for version in (0, 2, 1000):
            c = self.connection(hello=False)
            self.assertEqual(c.hello(version).status, "BAD_VERSION")
            self.assertIn(self.answer(c, c.build("ping")), ("DENIED", CLOSED))

    def test_envelopes_that_are_no_protobuf(self):
        c = self.connection()
        for op in ("open", "namespace", "stat", "inspect", "mem_unregister",
                   "loan_attach", "subscribe"):
            for env in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f",
                        b"\x0a\x05abc"):
                got = self.answer(c, c.build(op, env=env))
                self.assertEqual(got, "BAD_REQUEST", (op, env))

    def test_a_mismatching_fingerprint_names_the_field(self):
        c = self.connection()
        self.assertEqual(c.open("fp", [(1, "m"), (3, "sha")]).status, "OK")
        r = c.open("fp", [(1, "m"), (3, "xxh")])
        self.assertEqual(r.status, "MISMATCH")
        self.assertIn(b"tokenizer_hash", r.env[6][0])
        self.assertEqual((r.env[7][0], r.env[8][0]), (b"sha", b"xxh"))

    def test_namespace_requests_that_make_no_sense(self):
        c = self.connection()
        self.assertEqual(c.open("none", create=False).status, "NO_NAMESPACE")
        for name in ("", "n" * 300, "a b", "\x01"):
            self.assertIn(c.open(name).status, ("BAD_REQUEST", "LIMIT"), name)
        r = c.open("pol", settings=[(1, "none-such")])
        self.assertIn(r.status, ("BAD_REQUEST", "CONFIG", "LIMIT"))

    def test_descriptors_that_are_no_memory(self):
        c = self.connection()
        a, b = socket.socketpair()
        r, w = os.pipe()
        devnull = os.open("/dev/null", os.O_RDWR)
        empty = os.memfd_create("empty")
        for fd in (a.fileno(), r, w, devnull, empty, os.open("/", 0)):
            self.assertNotEqual(c.register(fd, 0, 4096).status, "OK", fd)
        big = os.memfd_create("big")
        os.truncate(big, 8192)
        for off, n in ((0, 8193), (8192, 1), (1 << 63, 4096), (0, 0),
                       (4096, (1 << 64) - 4096)):
            self.assertNotEqual(c.register(big, off, n).status, "OK", (off, n))
        c.packet(c.build("mem_register", env=pb((3, 4096))))
        self.assertEqual(c.receive().status, "BAD_REQUEST")
        for fd in (r, w, devnull, empty, big):
            os.close(fd)
        a.close()
        b.close()
        fds = self.d.fds()
        for _ in range(50):
            fd = os.memfd_create("empty")
            c.register(fd, 0, 4096)
            os.close(fd)
        self.assertLessEqual(self.d.fds(), fds + 2)

    def test_packets_that_are_none(self):
        for message in (b"", b"x", os.urandom(63), os.urandom(64),
                        os.urandom(65536)):
            c = self.connection()
            try:
                c.packet(message)
            except OSError:
                pass
            self.assertTrue(until(lambda: c.closed() or
                                  c.ask("ping") != CLOSED))

    def test_a_packet_with_many_descriptors_leaks_none(self):
        c = self.connection()
        before = self.d.fds()
        fds = [os.memfd_create("m") for _ in range(100)]
        message = c.build("mem_register", env=pb((3, 4096)))
        socket.send_fds(c.sock, [message], fds)
        for fd in fds:
            os.close(fd)
        until(lambda: c.receive(0.2) is not None or c.closed())
        self.assertTrue(until(lambda: self.d.fds() <= before))

    def test_rings_that_lie(self):
        """Lengths and indices no producer may write."""
        def length(c, n):
            c.write(b"x" * 100)
            at = PAGE + c.head % c.ring_bytes
            c.map[at:at + 4] = n.to_bytes(4, "little")
            c.publish()

        def head(c, v):
            c.word("req", "head").value = v

        def rep_tail(c, v):
            # Looked at when the room that the daemon knew of is used up.
            c.word("rep", "tail").value = v
            for _ in range(3 * c.ring_bytes // 64):
                if c.closed() or not c.send(c.build("ping")):
                    break

        lies = [lambda c, n=n: length(c, n) for n in
                (0, 1, 63, 1 << 18, 1 << 20, 0x7fffffff, 0xfffffff0,
                 0xffffffff)]
        lies += [lambda c, v=v: head(c, v) for v in
                 (1, 63, 1 << 20, 1 << 63, (1 << 64) - 64)]
        lies += [lambda c, v=v: rep_tail(c, v) for v in
                 (1, 1 << 20, (1 << 64) - 64)]
        for i, lie in enumerate(lies):
            with self.subTest(i):
                c = self.connection()
                lie(c)
                c.ring()
                self.assertTrue(until(lambda: c.closed(), 20))

    def test_bit_flips_and_cuts_of_a_good_message(self):
        """Each bit of a PUT: 1 in 8 of them, and every length."""
        c = self.connection()
        mem = self.memory(c)
        segs = seg(mem=mem, len=4)
        good = put(c, segs=segs, seg_n=1)
        r = random.Random(2)
        bits = range(0, len(good) * 8, 8 if SANITIZED else 3)
        for bit in bits:
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << (bit + r.randrange(8)) % 8
            if bytes(bad) == good:
                continue
            c.send(bytes(bad))
            self.assertIn(self.end_of(c), (CLOSED, "BAD_VERSION"), bit)
            c.close()
            c = Raw(self.d.socket)
            c.hello()
        for n in range(1, len(good), 7):
            c.send(good[:n])
            self.assertEqual(self.end_of(c), CLOSED, n)
            c.close()
            c = Raw(self.d.socket)
            c.hello()
        c.close()
        self.assertGreater(self.d.metrics()["frames_bad"], 50)

    def end_of(self, c):
        r = c.receive()
        return r if r in (CLOSED, None) else r.status

    def random_message(self, c, r):
        """Garbage, a valid message with garbage inside, or a valid frame around
        random sections: most of the latter pass the checksum."""
        kind = r.randrange(4)
        if kind == 0:
            return r.randbytes(r.randrange(1, 300))
        if kind == 1:
            good = bytearray(put(c, name=r.randbytes(r.randrange(1, 40))))
            for _ in range(r.randrange(1, 4)):
                good[r.randrange(len(good))] = r.randrange(256)
            return bytes(good)
        op = r.randrange(1, 38)
        if kind == 2:
            return c.build(op, [r.randbytes(64)] * r.randrange(3),
                           r.randbytes(r.randrange(50)),
                           r.randbytes(r.randrange(50)))
        n = r.randrange(1, 5)
        records = [batch(ns=r.randrange(3), key_n=n, cols=r.randrange(3),
                         select=r.randrange(7), layout=r.randrange(2),
                         pin_ttl_ms=r.randrange(100))]
        names = b""
        for _ in range(n):
            size = r.choice((0, 1, 4, 20))
            records.append(key(
                key_len=size, route_len=r.choice((0, 0, 3, 40)),
                cls=r.randrange(4), group=r.randrange(20),
                flags=r.choice((0, 0, 4, 2)), seg_n=r.randrange(2),
                off=r.choice((0, 0, 5, (1 << 64) - 1)),
                len=r.choice((0, 4, 100, 1 << 31, (1 << 64) - 1))))
            names += r.randbytes(size)
        return c.build(op, records, names + bytes(r.choice((0, 24, 48))))

    def test_100000_random_frames_leave_the_daemon_as_it_was(self):
        r = random.Random(42)
        todo = 20000 if SANITIZED else 100000
        sent = connections = 0
        c = None
        first = None
        while sent < todo:
            if c is None or c.closed():
                if c:
                    c.close()
                c = Raw(self.d.socket)
                c.hello()
                connections += 1
            for _ in range(50):
                if not c.send(self.random_message(c, r)):
                    break
                sent += 1
                while c.pop():
                    pass
                if r.randrange(8) == 0 and c.closed(0.0005):
                    break
            if first is None and sent > todo / 10:
                first = self.d.anon_bytes()
        c.close()
        self.assertGreater(connections, 100)
        grown = self.d.anon_bytes() - first
        self.assertLess(grown, (64 if SANITIZED else 8) * MIB)
        self.assertGreater(self.d.metrics()["frames_bad"], 100)

# SPDX-License-Identifier: Apache-2.0
"""The door for Redis clients, over real sockets: every command, every limit,
clients that are slow, rude or gone."""

import hashlib
import os
import random
import re
import resource
import shutil
import socket
import struct
import subprocess
import threading
import time
import unittest

import kv
from node import LIMIT_S, SANITIZED, Node, free_ports, until
from resp import CLOSED, Error, Resp, pack
from ssd import SsdNode, value

KIB, MIB = 1 << 10, 1 << 20
CONFIG, UNAVAILABLE, OSERR = 78, 69, 71


def door(*sets, **node):
    """A Node with a door; .resp is its port."""
    port = free_ports(1)
    d = Node("listen.resp.enabled=true", f"listen.resp.port={port}",
             "listen.resp.value=8MiB", "listen.resp.memory=32MiB",
             "listen.resp.deadline=30s", *sets, **node)
    d.resp = port
    return d


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = door(lanes=2, dram="128MiB")
        cls.d.start()

    @classmethod
    def tearDownClass(cls):
        cls.d.remove()

    def setUp(self):
        self.r = Resp(self.d.resp)
        self.addCleanup(self.r.close)

    def error(self, prefix, *words):
        got = self.r.ask(*words)
        self.assertIsInstance(got, Error, words)
        self.assertTrue(got.startswith(prefix), got)
        self.assertEqual(self.r.ask("PING"), "PONG")

    def test_get_gives_what_was_set(self):
        r = self.r
        self.assertIsNone(r.ask("GET", "t1"))
        self.assertEqual(r.ask("SET", "t1", "v1"), "OK")
        self.assertEqual(r.ask("get", "t1"), b"v1")
        self.assertEqual(r.ask("SET", "t1", "another"), "OK")
        self.assertEqual(r.ask("GET", "t1"), b"another")
        self.assertEqual(r.ask("DEL", "t1", "t1-none"), 1)
        self.assertIsNone(r.ask("GET", "t1"))

    def test_bytes_of_keys_and_values_are_any_bytes(self):
        key, value = bytes(range(256)), bytes(range(256)) * 3
        self.assertEqual(self.r.ask("SET", key, value), "OK")
        self.assertEqual(self.r.ask("GET", key), value)
        self.assertEqual(self.r.ask("STRLEN", key), 768)

    def test_values_of_every_size(self):
        """Around what passes inside and outside the buffer, what is copied
        into replies, and pages."""
        for n in (1, 2, 4095, 4096, 4097, 16383, 16384, 16385, 32768, 65536,
                  100000, MIB - 1, MIB, MIB + 1, 8 * MIB):
            v = noise(n, n)
            self.assertEqual(self.r.ask("SET", f"size{n}", v), "OK", n)
            self.assertEqual(self.r.ask("STRLEN", f"size{n}"), n)
            got = self.r.ask("GET", f"size{n}")
            self.assertEqual(len(got), n)
            self.assertEqual(got, v)
            self.r.ask("DEL", f"size{n}")

    def test_a_larger_value_than_any_before_is_read_whole(self):
        """The guess of a GET's room starts small on each door."""
        with door() as d:
            with Resp(d.resp) as r:
                v = noise(3 * MIB)
                self.assertEqual(r.ask("SET", "big", v), "OK")
                for i in range(80):
                    self.assertEqual(r.ask("SET", f"s{i}", b"small"), "OK")
                keys = [f"s{i}" for i in range(80)]
                keys.insert(40, "big")
                want = [b"small"] * 80
                want.insert(40, v)
                self.assertEqual(r.ask("MGET", *keys), want)
                self.assertEqual(r.ask("GET", "big"), v)

    def test_set_options(self):
        r = self.r
        self.assertEqual(r.ask("SET", "o", "1", "NX"), "OK")
        self.assertIsNone(r.ask("SET", "o", "2", "nx"))
        self.assertEqual(r.ask("GET", "o"), b"1")
        self.assertEqual(r.ask("TTL", "o"), -1)
        self.assertEqual(r.ask("SET", "o", "3", "EX", "100"), "OK")
        self.assertIn(r.ask("TTL", "o"), (99, 100))
        self.assertEqual(r.ask("SET", "o", "4", "PX", 100000, "NX"), None)
        self.assertEqual(r.ask("SET", "o", b"x" * 20000, "PX", 100000), "OK")
        self.assertGreater(r.ask("PTTL", "o"), 90000)
        self.assertEqual(r.ask("SET", "o", "5"), "OK")
        self.assertEqual(r.ask("PTTL", "o"), -1)
        self.assertEqual(r.ask("TTL", "o-none"), -2)
        self.assertEqual(r.ask("SET", "o", "6", "PX", "1"), "OK")
        self.assertTrue(until(lambda: r.ask("GET", "o") is None))
        self.error("ERR syntax", "SET", "o", "v", "XX")
        self.error("ERR syntax", "SET", "o", "v", "EX")
        self.error("ERR syntax", "SET", "o", "v", "EX", "1", "PX", "1")
        self.error("ERR syntax", "SET", "o", b"v" * 20000, "KEEPTTL")
        self.error("ERR value is not", "SET", "o", "v", "EX", "soon")
        self.error("ERR invalid expire", "SET", "o", "v", "EX", "0")
        self.error("ERR invalid expire", "SET", "o", "v", "PX", "-5")
        month_s = 30 * 86400
        self.assertEqual(r.ask("SET", "o", "7", "EX", month_s), "OK")
        self.assertIn(r.ask("TTL", "o"), (month_s - 1, month_s))
        self.assertEqual(r.ask("SET", "o", "8", "EX", "9" * 15), "OK")
        self.assertIn(r.ask("TTL", "o"), range(4290000, 4294969))
        self.error("ERR value is not", "SET", "o", "v", "EX", "9" * 19)

    def test_many_keys(self):
        r = self.r
        n = 1000
        pairs = [w for i in range(n) for w in (f"m{i}", f"v{i}")]
        self.assertEqual(r.ask("MSET", *pairs), "OK")
        self.assertEqual(r.ask("MSET", "m0", "a" * 50000, "m0", "b", "m1", "c"),
                         "OK")
        want = [b"v%d" % i for i in range(n)]
        want[:2] = [b"b", b"c"]
        keys = [f"m{i}" for i in range(n)]
        self.assertEqual(r.ask("MGET", *keys, "none"), want + [None])
        self.assertEqual(r.ask("EXISTS", *keys, "none", "m0"), n + 1)
        self.assertEqual(r.ask("UNLINK", *keys, "none"), n)
        self.assertEqual(r.ask("EXISTS", *keys), 0)
        self.assertEqual(r.ask("MGET", *keys), [None] * n)
        self.error("ERR wrong number", "MSET", "a", "b", "c")

    def test_keys_and_values_that_cannot_be(self):
        long_key = "k" * 1025
        self.error("ERR a key has 1 to 1024", "GET", "")
        self.error("ERR a key has 1 to 1024", "GET", long_key)
        self.error("ERR a key has 1 to 1024", "GET", "k" * 100000)
        self.error("ERR a key has 1 to 1024", "SET", "k" * 100000, "v" * 100000)
        self.error("ERR a key has 1 to 1024", "SET", long_key, "v")
        self.error("ERR a key has 1 to 1024", "SET", long_key, b"v" * 20000)
        self.error("ERR a key has 1 to 1024", "MGET", "a", long_key)
        self.error("ERR a key has 1 to 1024", "DEL", long_key)
        self.error("ERR a key has 1 to 1024", "EXISTS", "a", "")
        self.error("ERR a key has 1 to 1024", "TTL", "")
        self.error("ERR a value has at least one byte", "SET", "k", "")
        self.error("ERR a value has at least one byte", "MSET", "k", "")
        self.assertEqual(self.r.ask("SET", "k" * 1024, "v"), "OK")
        self.assertEqual(self.r.ask("GET", "k" * 1024), b"v")

    def test_commands_that_are_not(self):
        self.error("ERR unknown command 'FLUSHALL'", "FLUSHALL")
        self.error("ERR unknown command '?x'", b"\nx", b"\r\n-ERR")
        self.error("ERR unknown command", "x" * 10000, "y" * 10000)
        self.error("ERR wrong number of arguments for 'get'", "GET")
        self.error("ERR wrong number of arguments for 'get'", "GET", "a", "b")
        self.error("ERR wrong number of arguments for 'set'", "SET", "a")
        self.error("ERR wrong number of arguments for 'dbsize'", "DBSIZE", 1)

    def test_what_tools_say(self):
        r = self.r
        self.assertEqual(r.ask("PING"), "PONG")
        self.assertEqual(r.ask("PING", "there"), b"there")
        self.assertEqual(r.ask("ECHO", "there"), b"there")
        self.assertEqual(r.ask("ECHO", b"x" * 500000), b"x" * 500000)
        self.assertEqual(r.ask("SELECT", 0), "OK")
        self.error("ERR DB index", "SELECT", 1)
        self.error("NOPROTO", "HELLO", 4)
        hello = r.ask("HELLO", 2, "SETNAME", "me")
        self.assertEqual(hello[hello.index(b"proto") + 1], 2)
        self.assertEqual(r.ask("CLIENT", "GETNAME"), b"me")
        self.assertEqual(r.ask("CLIENT", "SETNAME", "you"), "OK")
        self.assertEqual(r.ask("CLIENT", "SETINFO", "LIB-NAME", "x"), "OK")
        self.assertIn(b"name=you", r.ask("CLIENT", "INFO"))
        self.assertGreater(r.ask("CLIENT", "ID"), 0)
        self.error("ERR Client names", "CLIENT", "SETNAME", "a b")
        self.error("ERR unknown subcommand", "CLIENT", "KILL", "x")
        self.assertEqual(r.ask("COMMAND"), [])
        self.assertEqual(r.ask("COMMAND", "DOCS"), [])
        self.assertEqual(r.ask("CONFIG", "GET", "save"), [b"save", b""])
        self.assertEqual(r.ask("CONFIG", "GET", "append*"),
                         [b"appendonly", b"no"])
        self.error("ERR unknown subcommand", "CONFIG", "SET", "save", "1")
        info = r.ask("INFO").decode()
        self.assertIn("redis_version:7", info)
        self.assertIn("connected_clients:", info)
        self.assertEqual(r.ask("QUIT"), "OK")
        self.assertTrue(r.closed())

    def test_resp3_has_signs_of_its_own(self):
        """Clients of today begin with HELLO 3."""
        r = self.r
        self.assertEqual(r.ask("HELLO", 3)[b"proto"], 3)
        r.send(pack("GET", "none") + pack("MGET", "none"))
        self.assertEqual(r.f.readline(), b"_\r\n")
        self.assertEqual(r.f.read(7), b"*1\r\n_\r\n")
        self.assertEqual(r.ask("CONFIG", "GET", "save"), {b"save": b""})
        self.assertEqual(r.ask("HELLO")[b"proto"], 3)
        self.assertIn(b"proto", r.ask("HELLO", 2))
        r.send(pack("GET", "none"))
        self.assertEqual(r.f.readline(), b"$-1\r\n")

    def test_auth_without_a_password(self):
        self.error("ERR AUTH <password> called without", "AUTH", "x")
        self.assertEqual(self.r.ask("AUTH", "default", "x"), "OK")
        self.error("WRONGPASS", "AUTH", "someone", "x")

    def test_a_web_page_cannot_speak_to_it(self):
        """A browser's request, whose body would be commands."""
        for head in (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n"):
            with Resp(self.d.resp) as r:
                r.send(head + b"SET web page\r\n")
                while r.read() != CLOSED:
                    pass
        self.assertIsNone(self.r.ask("GET", "web"))

    def test_inline_commands(self):
        r = self.r
        r.send(b"SET inl \"a b\"\r\nGET inl\n\r\nPING\r\n")
        self.assertEqual([r.read() for _ in range(3)],
                         ["OK", b"a b", "PONG"])
        r.send(b"SET inl \"a b\r\n")
        self.assertEqual(r.read(), "ERR Protocol error: unbalanced quotes in "
                                   "request")
        self.assertTrue(r.closed())

    def test_every_cut_of_a_command(self):
        data = pack("SET", "cut", b"v" * 30) + pack("GET", "cut")
        for at in range(1, len(data)):
            self.r.send(data[:at])
            self.r.send(data[at:])
            self.assertEqual(self.r.read(), "OK")
            self.assertEqual(self.r.read(), b"v" * 30)

    def test_a_value_in_small_pieces(self):
        v = noise(50000)
        data = pack("SET", "pieces", v) + pack("GET", "pieces")
        for at in range(0, len(data), 777):
            self.r.send(data[at:at + 777])
        self.assertEqual(self.r.read(), "OK")
        self.assertEqual(self.r.read(), v)

    def test_protocol_errors_end_the_connection(self):
        cases = [
            (b"*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
            (b"*99999999\r\n", "ERR Protocol error: invalid multibulk length"),
            (b"*1\r\nx\r\n", "ERR Protocol error: expected '$', got 'x'"),
            (b"*2\r\n$3\r\nGET\r\n$2000000\r\n",
             "ERR Protocol error: too big command"),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (8 * MIB + 1),
             "ERR Protocol error: invalid bulk length, longer than "
             "listen.resp.value"),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n" + b"v" * 20002,
             "ERR Protocol error: expected a line end after bulk"),
            (b"*1\r\n$" + b"1" * 70,
             "ERR Protocol error: too big bulk count string"),
            (b"x" * 40000, "ERR Protocol error: too big inline request"),
            (b"*4000\r\n" + (b"$16000\r\n" + b"x" * 16000 + b"\r\n") * 70,
             "ERR Protocol error: too big command"),
        ]
        for data, want in cases:
            with self.subTest(want), Resp(self.d.resp) as r:
                r.send(pack("PING") + data)
                self.assertEqual(r.read(), "PONG")
                self.assertEqual(r.read(), want)
                self.assertEqual(r.read(), CLOSED)
        self.assertEqual(self.r.ask("PING"), "PONG")


class Large(unittest.TestCase):
    def test_the_largest_value_of_all(self):
        """As long as the default of listen.resp.value allows, and replaced."""
        n = 64 * MIB
        with door("listen.resp.value=64MiB", "listen.resp.memory=128MiB",
                  lanes=2, dram="320MiB") as d, Resp(d.resp) as r:
            for seed in (1, 2):
                v = noise(n, seed)
                self.assertEqual(r.ask("SET", "large", v), "OK")
                self.assertTrue(r.ask("GET", "large") == v)
            self.assertEqual(r.ask("STRLEN", "large"), n)
            r.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (n + 1))
            self.assertIn("longer than listen.resp.value", r.read())


class Disks(unittest.TestCase):
    def test_killed_in_the_middle_of_sets(self):
        """Each key has a whole value of one of its SETs afterwards, or none;
        and one that was dropped stays away."""
        port = free_ports(1)
        keys, rounds = 12, 2 if SANITIZED else 4
        with SsdNode("listen.resp.enabled=true", f"listen.resp.port={port}",
                     "listen.resp.value=1MiB", "listen.resp.memory=32MiB",
                     "listen.resp.deadline=30s", lanes=2) as d:
            def sized(k, i):
                return value(k, i, 1000 + (i * 37 + k[1]) % 70 * 1000)

            version = dict.fromkeys([b"k%c" % (97 + i) for i in range(keys)], 0)
            for n in range(rounds):
                with Resp(port) as r:
                    self.assertEqual(r.ask("SET", "gone%d" % n, "x" * 9000),
                                     "OK")
                    for k in version:
                        self.assertEqual(r.ask("SET", k, sized(k, version[k])),
                                         "OK")
                    d.written()
                    self.assertEqual(r.ask("DEL", "gone%d" % n), 1)
                    last = dict(version)
                    for k in version:  # none of these is waited for
                        for _ in range(5):
                            version[k] += 1
                            r.send(pack("SET", k, sized(k, version[k])))
                    self.assertEqual(r.read(), "OK")
                    d.kill()
                d.start()
                with Resp(port) as r:
                    for k in version:
                        got = r.ask("GET", k)
                        may = [sized(k, i)
                               for i in range(last[k], version[k] + 1)]
                        self.assertTrue(got is None or got in may, k)
                        version[k] += 1
                    for i in range(n + 1):
                        self.assertIsNone(r.ask("GET", "gone%d" % i))


class Pipelines(unittest.TestCase):
    def setUp(self):
        self.d = door(lanes=2, dram="128MiB")
        self.addCleanup(self.d.remove)
        self.d.start()
        self.r = Resp(self.d.resp)
        self.addCleanup(self.r.close)

    def pipe(self, commands):
        """All sent by another thread while the answers are read."""
        data = b"".join(pack(*c) for c in commands)
        t = threading.Thread(target=self.r.send, args=(data,))
        t.start()
        try:
            return [self.r.read() for _ in commands]
        finally:
            t.join()

    def test_ten_thousand_commands(self):
        n = 2000 if SANITIZED else 10000
        self.assertEqual(self.pipe([("SET", f"p{i}", f"v{i}")
                                    for i in range(n)]), ["OK"] * n)
        self.assertEqual(self.pipe([("GET", f"p{i}") for i in range(n)]),
                         [b"v%d" % i for i in range(n)])
        self.assertEqual(self.pipe([("PING",)] * n), ["PONG"] * n)

    def test_answers_are_in_the_order_of_the_commands(self):
        rnd, model, commands, want = random.Random(7), {}, [], []
        big = noise(300000)
        for i in range(1500):
            k, what = b"k%d" % rnd.randrange(20), rnd.randrange(12)
            if what < 4:
                v = b"v%d" % i if what else big[:rnd.randrange(1, 70000)]
                commands.append(("SET", k, v))
                model[k] = v
                want.append("OK")
            elif what < 8:
                commands.append(("GET", k))
                want.append(model.get(k))
            elif what == 8:
                keys = [b"k%d" % rnd.randrange(25) for _ in range(100)]
                commands.append(("MGET", *keys))
                want.append([model.get(k) for k in keys])
            elif what == 9:
                commands.append(("DEL", k))
                want.append(1 if model.pop(k, None) is not None else 0)
            elif what == 10:
                commands.append(("EXISTS", k, k))
                want.append(2 if k in model else 0)
            else:
                commands.append(("GET", k, "extra"))
                want.append(Error("ERR wrong number of arguments for 'get' "
                                  "command"))
        got = self.pipe(commands)
        for i, (g, w) in enumerate(zip(got, want)):
            self.assertEqual(g, w, (i, commands[i][:2]))

    def test_an_error_among_gets_is_in_its_place(self):
        self.r.ask("SET", "a", "1")
        got = self.pipe([("GET", "a"), ("GET", ""), ("GET", "a"),
                         ("MGET", "a", "none", "a"), ("GET",), ("GET", "a")])
        self.assertEqual(got[0], b"1")
        self.assertIsInstance(got[1], Error)
        self.assertEqual(got[2:4], [b"1", [b"1", None, b"1"]])
        self.assertIsInstance(got[4], Error)
        self.assertEqual(got[5], b"1")

    def test_the_last_of_many_sets_of_a_key_wins(self):
        got = self.pipe([("SET", "same", f"v{i}") for i in range(500)] +
                        [("GET", "same")])
        self.assertEqual(got, ["OK"] * 500 + [b"v499"])

    def test_a_protocol_error_comes_behind_the_answers(self):
        self.r.send(pack("SET", "a", "1") + pack("GET", "a") +
                    b"*1\r\n$-5\r\n")
        self.assertEqual(self.r.read(), "OK")
        self.assertEqual(self.r.read(), b"1")
        self.assertTrue(self.r.read().startswith("ERR Protocol"))
        self.assertEqual(self.r.read(), CLOSED)

    def test_half_closed_clients_get_their_answers(self):
        v = noise(200000)
        self.r.send(pack("SET", "h", v) + pack("GET", "h") + pack("PING"))
        self.r.s.shutdown(socket.SHUT_WR)
        self.assertEqual([self.r.read() for _ in range(3)], ["OK", v, "PONG"])
        self.assertEqual(self.r.read(), CLOSED)


class Together(unittest.TestCase):
    """Several connections, and libpikv beside the door."""

    def setUp(self):
        self.d = door(lanes=2, dram="128MiB")
        self.addCleanup(self.d.remove)
        self.d.start()

    def each(self, n, fn):
        failed = []

        def run(i):
            try:
                with Resp(self.d.resp) as r:
                    fn(r, i)
            except BaseException as e:  # pylint: disable=broad-except
                failed.append(repr(e)[:500])

        threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failed, [])

    def test_many_connections_set_the_same_key(self):
        """Never an error, never a mix, and what is read was written."""
        values = [bytes([i]) * (100 + 3000 * i) for i in range(16)]

        def one(r, i):
            for _ in range(60):
                self.assertEqual(r.ask("SET", "hot", values[i]), "OK")
                got = r.ask("GET", "hot")
                self.assertTrue(got is None or got in values,
                                got if isinstance(got, str) else "a mix")

        self.each(16, one)

    def test_the_error_of_one_set_is_not_that_of_another(self):
        """Three SETs of a key; the third, which would be stored for the second
        too, cannot be: the second is stored then."""
        with door("namespaces.quota=4MiB") as d, kv.Client(d.address) as c, \
                Resp(d.resp) as r, Resp(d.resp) as first, \
                Resp(d.resp) as second, Resp(d.resp) as third:
            ns = c.open("resp")
            token = c.begin(ns, b"k", 1).token
            n = d.metrics()["resp_commands"]
            for i, (x, v) in enumerate(((first, b"1"), (second, b"2" * 5000),
                                        (third, noise(6 * MIB)))):
                x.send(pack("SET", "k", v))
                self.assertTrue(until(
                    lambda i=i: d.metrics()["resp_commands"] == n + i + 1))
            self.assertEqual(c.commit(ns, b"k", token, abort=True), "OK")
            self.assertEqual(first.read(), "OK")
            self.assertTrue(third.read().startswith("OOM"))
            self.assertEqual(second.read(), "OK")
            self.assertEqual(r.ask("GET", "k"), b"2" * 5000)

    def test_set_nx_is_won_by_one(self):
        won = []

        def one(r, i):
            for k in range(50):
                if r.ask("SET", f"nx{k}", f"{i}", "NX") == "OK":
                    won.append((k, i))

        self.each(8, one)
        self.assertEqual(len(won), 50)
        with Resp(self.d.resp) as r:
            for k, i in won:
                self.assertEqual(r.ask("GET", f"nx{k}"), b"%d" % i)

    def test_more_bytes_at_once_than_the_memory(self):
        """12 values of 7 MiB at a time through 32 MiB."""
        values = [noise(7 * MIB, i) for i in range(12)]

        def one(r, i):
            self.assertEqual(r.ask("SET", f"wide{i}", values[i]), "OK")
            got = r.ask("GET", f"wide{i}")
            self.assertTrue(got == values[i])
            got = r.ask("MGET", f"wide{i}", f"wide{i}")
            self.assertTrue(got == [values[i]] * 2)

        self.each(12, one)

    def test_libpikv_and_the_door_see_the_same(self):
        with kv.Client(self.d.address) as c, Resp(self.d.resp) as r:
            ns = c.open("resp")
            self.assertEqual(c.put1(ns, b"lib", b"from libpikv"), "OK")
            self.assertEqual(r.ask("GET", "lib"), b"from libpikv")
            self.assertEqual(r.ask("SET", "door", "from the door"), "OK")
            self.assertEqual(c.get1(ns, b"door", 13).data, b"from the door")
            self.assertEqual(r.ask("SET", "lib", "replaced"), "OK")
            self.assertEqual(c.get1(ns, b"lib", 8).data, b"replaced")
            self.assertEqual(c.put1(ns, b"huge", b"h" * (9 * MIB)), "OK")
            self.assertRegex(r.ask("GET", "huge"), "longer than listen.resp")
            self.assertEqual(r.ask("STRLEN", "huge"), 9 * MIB)

    def test_a_flushed_namespace_is_empty_and_goes_on(self):
        with kv.Client(self.d.address) as c, Resp(self.d.resp) as r:
            ns = c.open("resp")
            for how in (("GET", "k"), ("EXISTS", "k"), ("STRLEN", "k"),
                        ("DEL", "k"), ("MGET", "k"), ("TTL", "k"),
                        ("SET", "x", "y"), ("MSET", "x", "y"), ("SCAN", 0)):
                self.assertEqual(r.ask("SET", "k", "v"), "OK")
                c.bump(ns)
                got = r.ask(*how)
                self.assertIn(got, (None, 0, [None], -2, "OK", [b"0", []]),
                              how)
                self.assertTrue(until(lambda: r.ask("SET", "k", "w") == "OK"
                                      and r.ask("GET", "k") == b"w"))

    def test_a_del_after_a_flush_drops_what_came_since(self):
        with kv.Client(self.d.address) as c, Resp(self.d.resp) as r:
            ns = c.open("resp")
            self.assertEqual(r.ask("SET", "k", "old"), "OK")
            c.bump(ns)
            self.assertEqual(c.put1(ns, b"k", b"new"), "OK")
            self.assertEqual(r.ask("DEL", "none", "k"), 1)
            self.assertEqual(c.get1(ns, b"k", 3).status, "MISS")

    def test_scan_finds_every_key(self):
        with Resp(self.d.resp) as r:
            want = {b"scan:%d" % i for i in range(700)}
            pairs = [w for k in want for w in (k, b"v")]
            self.assertEqual(r.ask("MSET", *pairs, "other", "v"), "OK")
            self.assertEqual(r.ask("DBSIZE"), 701)
            for options in ((), ("COUNT", 100), ("COUNT", 5000)):
                cursor, found = b"0", []
                while True:
                    cursor, keys = r.ask("SCAN", cursor, "MATCH", "scan:*",
                                         *options)
                    found += keys
                    if cursor == b"0":
                        break
                self.assertEqual(set(found), want)
                self.assertEqual(len(found), 700)
            self.assertEqual(r.ask("SCAN", 0, "MATCH", "[no]the?",
                                   "COUNT", 1000)[1], [b"other"])
            for bad in (("x",), (0, "COUNT"), (0, "COUNT", 0), (0, "COUNT", "x"),
                        (0, "TYPE", "string")):
                self.assertIsInstance(r.ask("SCAN", *bad), Error)
            self.assertEqual(r.ask("SCAN", 1 << 63)[1], [])
            rnd = random.Random(5)
            for _ in range(300):  # cursors that nobody was given
                cursor, keys = r.ask("SCAN", rnd.getrandbits(
                    rnd.choice((16, 32, 48, 50, 64))) | 1 << rnd.choice(
                        (0, 20, 31, 32, 47, 48, 49)), "COUNT", 30)
                self.assertLessEqual(len(keys), 30)
                self.assertTrue(want.issuperset(set(keys) - {b"other"}))

        def one(r, i):
            for _ in range(20):
                self.assertEqual(r.ask("DBSIZE"), 701)
                r.ask("SCAN", 0)
                self.assertEqual(r.ask("TTL", "other"), -1)

        self.each(6, one)

    def test_full_memory_evicts_or_says_oom(self):
        with Resp(self.d.resp) as r:
            for i in range(60):
                got = r.ask("SET", f"fill{i}", noise(4 * MIB, i))
                self.assertTrue(got == "OK" or got.startswith("OOM"), got)
            self.assertEqual(r.ask("SET", "after", "v"), "OK")
            self.assertEqual(r.ask("GET", "after"), b"v")

    def test_metrics_count(self):
        with Resp(self.d.resp) as r:
            r.ask("SET", "k", "v")
            r.ask("GET", "k")
            r.ask("NOPE")
            m = self.d.metrics()
            self.assertEqual(m["resp_clients"], 1)
            self.assertEqual(m["resp_commands"], 3)
            self.assertEqual(m["resp_errors"], 1)
            self.assertEqual(m["resp_bytes_out"], len("+OK$1v-") + 2 * 4 +
                             len("ERR unknown command 'NOPE', with args "
                                 "beginning with: "))
        self.assertTrue(until(lambda: self.d.metrics()["resp_clients"] == 0))
        self.assertEqual(self.d.stat("resp_commands"), 3)


class Rude(unittest.TestCase):
    """Clients that stop, die, or are too many."""

    def serve(self, *sets, **node):
        d = door(*sets, **node)
        self.addCleanup(d.remove)
        d.start()
        return d

    def alive(self, d):
        with Resp(d.resp) as r:
            self.assertEqual(r.ask("SET", "alive", "1"), "OK")
            self.assertEqual(r.ask("GET", "alive"), b"1")
        self.assertTrue(d.alive())

    def test_a_reader_that_stops_is_closed_and_costs_little(self):
        d = self.serve("listen.resp.slow=500ms", "listen.resp.output=1MiB")
        with Resp(d.resp) as r, Resp(d.resp, receive=4096) as slow:
            self.assertEqual(r.ask("SET", "v", noise(MIB)), "OK")
            try:
                slow.send(pack("GET", "v") * 2000)
            except OSError:
                pass
            self.assertTrue(until(
                lambda: d.metrics()["resp_closed_slow"] == 1))
            self.assertEqual(r.ask("PING"), "PONG")
        self.assertLess(d.metrics()["resp_bytes_out"], 64 * MIB)
        self.alive(d)

    def test_a_slow_reader_gets_everything(self):
        d = self.serve()
        v = noise(MIB)
        with Resp(d.resp) as r, Resp(d.resp, receive=4096) as slow:
            self.assertEqual(r.ask("SET", "v", v), "OK")
            slow.send(pack("GET", "v") * 40)
            self.assertEqual(r.ask("GET", "v"), v)
            for _ in range(40):
                self.assertTrue(slow.read() == v)

    def test_what_is_begun_and_not_ended_is_closed(self):
        d = self.serve("listen.resp.slow=300ms")
        halves = [b"*2\r\n$3\r\nGET\r\n", b"x",
                  b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8000000\r\n",
                  b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8000000\r\n" +
                  b"v" * 4000000]
        held = [Resp(d.resp) for _ in halves]
        idle = Resp(d.resp)
        for r, half in zip(held, halves):
            r.send(half)
        for r in held:
            self.assertEqual(r.read(), CLOSED)
            r.close()
        self.assertEqual(d.metrics()["resp_closed_slow"], len(halves))
        self.assertEqual(idle.ask("PING"), "PONG")  # idle is not slow
        idle.close()
        self.alive(d)

    def test_killed_clients_leave_nothing(self):
        """Ended by a reset, in every state, again and again."""
        d = self.serve()
        v = noise(MIB)
        rnd = random.Random(3)
        sends = [pack("GET", "v") * 20, pack("SET", "v", v),
                 pack("SET", "v", v)[:500000], pack("SET", "a", "b") * 100,
                 pack("DEL", "v"), pack("SCAN", 0) + pack("DBSIZE"),
                 pack("MGET", *["v"] * 50), b"*3\r\n$3\r\n"]
        for _ in range(100 if SANITIZED else 300):
            s = socket.create_connection(("127.0.0.1", d.resp))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                         struct.pack("ii", 1, 0))
            for _ in range(rnd.randrange(1, 4)):
                try:
                    s.sendall(rnd.choice(sends))
                except OSError:
                    break
            s.close()
        self.assertTrue(until(lambda: d.metrics()["resp_clients"] == 0))
        self.alive(d)
        with Resp(d.resp) as r:  # all of the memory is there again
            big = noise(8 * MIB)
            for i in range(3):
                self.assertEqual(r.ask("SET", f"b{i}", big), "OK")
                self.assertTrue(r.ask("GET", f"b{i}") == big)

    def test_one_client_too_many_is_told(self):
        d = self.serve("listen.resp.clients=3")
        held = [Resp(d.resp) for _ in range(3)]
        for r in held:
            self.assertEqual(r.ask("PING"), "PONG")
        with Resp(d.resp) as r:
            self.assertEqual(r.read(), "ERR max number of clients reached")
            self.assertEqual(r.read(), CLOSED)
        self.assertEqual(d.metrics()["resp_refused"], 1)
        held.pop().close()

        def again():
            with Resp(d.resp) as r:
                return r.ask("PING") == "PONG"

        self.assertTrue(until(again))
        for r in held:
            r.close()

    def test_without_descriptors_it_waits_and_goes_on(self):
        """It neither spins nor stays deaf."""
        d = self.serve()
        with Resp(d.resp) as r:
            self.assertEqual(r.ask("PING"), "PONG")
            soft, hard = resource.prlimit(d.process.pid,
                                          resource.RLIMIT_NOFILE)
            resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE,
                             (d.fds(), hard))
            with Resp(d.resp) as late:
                late.send(pack("PING"))
                self.assertTrue(until(
                    lambda: "resp_accept_failed" in d.log()))
                before = d.cpu_ticks()
                time.sleep(1)
                self.assertLess(d.cpu_ticks() - before, 50)
                self.assertEqual(r.ask("PING"), "PONG")
                resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE,
                                 (soft, hard))
                self.assertEqual(late.read(), "PONG")

    def test_stop_with_clients_connected(self):
        """In the middle of everything; the exit status is 0."""
        for _ in range(2 if SANITIZED else 5):
            d = self.serve(lanes=2)
            v = noise(MIB)
            stopped = []

            def busy(i, d=d, v=v, stopped=stopped):
                try:
                    with Resp(d.resp) as r:
                        while r.ask("SET", f"k{i}", v) != CLOSED:
                            r.ask("GET", f"k{i}")
                except (OSError, AssertionError):
                    pass
                stopped.append(i)

            threads = [threading.Thread(target=busy, args=(i,))
                       for i in range(6)]
            for t in threads:
                t.start()
            idle, half = Resp(d.resp), Resp(d.resp)
            half.send(pack("SET", "k", v)[:1000])
            until(lambda d=d: d.metrics()["resp_commands"] > 20)
            d.stop()
            for t in threads:
                t.join(LIMIT_S)
            self.assertEqual(len(stopped), 6)
            self.assertTrue(idle.closed())
            idle.close()
            half.close()

    def test_kill_and_start_again_on_the_same_port(self):
        d = self.serve()
        with Resp(d.resp) as r:
            self.assertEqual(r.ask("SET", "k", "v"), "OK")
            d.kill()
            self.assertEqual(r.read(), CLOSED)
        d.start()
        self.alive(d)


class Passwords(unittest.TestCase):
    def setUp(self):
        self.d = door("listen.resp.slow=2s")
        self.path = os.path.join(self.d.dir, "password")
        with open(self.path, "w", encoding="ascii") as f:
            f.write("sesame\nsecond line\n")
        self.d.settings["listen.resp.password_file"] = self.path
        self.addCleanup(self.d.remove)
        self.d.start()

    def test_nothing_is_answered_without_it(self):
        with Resp(self.d.resp) as r:
            for words in (("GET", "k"), ("SET", "k", "v"), ("PING",),
                          ("INFO",), ("SCAN", 0), ("NOPE",),
                          ("CLIENT", "ID")):
                self.assertEqual(r.ask(*words),
                                 "NOAUTH Authentication required.", words)
            self.assertTrue(r.ask("HELLO", 2).startswith("NOAUTH"))
            for words in (("sesam",), ("sesame ",), ("",), ("sesameX",),
                          ("default", "x"), ("other", "sesame")):
                self.assertTrue(r.ask("AUTH", *words).startswith("WRONGPASS"),
                                words)
            self.assertTrue(r.ask("GET", "k").startswith("NOAUTH"))
            self.assertEqual(r.ask("AUTH", "sesame"), "OK")
            self.assertIsNone(r.ask("GET", "k"))

    def test_it_counts_from_its_place_in_a_pipeline_on(self):
        v = noise(100000)
        with Resp(self.d.resp) as r:
            r.send(pack("SET", "k", "v") + pack("GET", "k") +
                   pack("AUTH", "wrong") + pack("GET", "k") +
                   pack("AUTH", "sesame") + pack("SET", "k", v) +
                   pack("GET", "k") + pack("AUTH", "wrong") + pack("GET", "k"))
            got = [r.read() for _ in range(9)]
            for i in (0, 1, 3):
                self.assertTrue(got[i].startswith("NOAUTH"), got[i])
            for i in (2, 7):
                self.assertTrue(got[i].startswith("WRONGPASS"), got[i])
            self.assertEqual(got[4:7] + got[8:], ["OK", "OK", v, v])

    def test_each_way_to_say_it(self):
        for words in (("AUTH", "sesame"), ("AUTH", "default", "sesame"),
                      ("HELLO", 2, "AUTH", "default", "sesame")):
            with Resp(self.d.resp) as r:
                self.assertNotIsInstance(r.ask(*words), Error)
                self.assertEqual(r.ask("SET", "k", "v"), "OK")

    def test_strangers_cannot_send_much(self):
        for data, why in ((b"*11\r\n", "multibulk"),
                          (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n",
                           "bulk")):
            with Resp(self.d.resp) as r:
                r.send(data)
                self.assertIn(why, r.read())
                self.assertEqual(r.read(), CLOSED)

    def test_strangers_that_say_nothing_are_closed(self):
        with Resp(self.d.resp) as r, \
                Resp(self.d.resp, password="sesame") as known:
            self.assertEqual(r.read(), CLOSED)
            self.assertEqual(known.ask("PING"), "PONG")

    def test_a_password_is_in_no_log(self):
        with Resp(self.d.resp) as r:
            r.ask("AUTH", "sesame-wrong")
        self.assertNotIn("sesame", self.d.log())


class Starts(unittest.TestCase):
    def refused(self, d, status, *words):
        self.addCleanup(d.remove)
        got, line = d.refused()
        self.assertEqual(got, status, line)
        for w in words:
            self.assertIn(w, line)

    def test_what_cannot_be(self):
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port = taken.getsockname()[1]
        self.refused(door(f"listen.resp.port={port}"), UNAVAILABLE,
                     "listen.resp", str(port), "fix:")
        self.refused(door("listen.resp.host=192.0.2.1",
                          "listen.resp.insecure=true"), OSERR,
                     "listen.resp.host", "fix:")
        self.refused(door("listen.resp.host=nowhere.example",
                          "listen.resp.insecure=true"), CONFIG,
                     "listen.resp.host")
        self.refused(door("listen.resp.host=0.0.0.0"), CONFIG,
                     "listen.resp.host", "password")
        self.refused(door("listen.resp.memory=10MiB"), CONFIG,
                     "listen.resp.memory")
        self.refused(door("limits.block=4MiB", "limits.bytes_per_client=4MiB"),
                     CONFIG, "listen.resp.value")
        self.refused(door("listen.resp.password_file=/none"), OSERR,
                     "listen.resp.password_file", "/none")
        d = door()
        with open(os.path.join(d.dir, "empty"), "wb"):
            pass
        d.settings["listen.resp.password_file"] = os.path.join(d.dir, "empty")
        self.refused(d, CONFIG, "listen.resp.password_file", "allowed:")

    def test_it_is_off_unless_asked_for(self):
        port = free_ports(1)
        with Node(f"listen.resp.port={port}"):
            with self.assertRaises(OSError):
                socket.create_connection(("127.0.0.1", port), 1)

    def test_a_namespace_that_may_not_be_created(self):
        """It says so, and serves as soon as somebody made it."""
        d = door("namespaces.create=false", config='{"namespaces": {}}')
        self.addCleanup(d.remove)
        d.start()
        self.assertTrue(until(lambda: "resp_not_serving" in d.log()))
        self.assertTrue(d.alive())
        d.stop()


@unittest.skipUnless(shutil.which("redis-benchmark"), "needs redis-benchmark")
class Tools(unittest.TestCase):
    def setUp(self):
        self.d = door(lanes=2, dram="128MiB")
        self.addCleanup(self.d.remove)
        self.d.start()

    def run_tool(self, *argv, data=None):
        p = subprocess.run([argv[0], "-p", str(self.d.resp), *argv[1:]],
                           input=data, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=6 * LIMIT_S)
        self.assertEqual(p.returncode, 0, p.stdout)
        return p.stdout

    def test_redis_benchmark(self):
        n = "2000" if SANITIZED else "20000"
        for more in (["-P", "1"], ["-P", "16"], ["-r", "1000"],
                     ["-d", "20000", "-n", "2000"]):
            out = self.run_tool("redis-benchmark", "-q", "-t",
                                "ping,set,get,mset", "-c", "20", "-n", n,
                                *more).decode()
            self.assertEqual(len(re.findall("requests per second", out)), 5,
                             out)
            self.assertNotIn("Error", out)
            self.assertNotIn("ERR", out)

    def test_redis_cli(self):
        v = hashlib.sha256(b"x").hexdigest().encode() * 2000
        self.assertEqual(self.run_tool("redis-cli", "-x", "SET", "k", data=v),
                         b"OK\n")
        self.assertEqual(self.run_tool("redis-cli", "GET", "k"), v + b"\n")
        self.assertEqual(self.run_tool("redis-cli", "--scan"), b"k\n")


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: Apache-2.0
"""Clients that die, stop, cheat or crowd, and a daemon that dies or stops: who
is not at fault keeps getting the right bytes, and nothing stays held."""

import os
import random
import re
import signal
import subprocess
import unittest

from kv import C, Client, Get, KvError, Put
from node import BUILD, LIMIT_S, SANITIZED, Node, until
from raw import Raw, batch, key, pb, seg

MIB = 1 << 20
GONE = {"TIMEOUT", "PEER_GONE", "NO_SERVER", "RETRY", "CANCELED"}


class Helper:
    """An e2e_client process."""

    def __init__(self, address, op, **options):
        argv = [os.path.join(BUILD, "e2e_client"), address, op]
        argv += [f"{k}={v}" for k, v in options.items()]
        self.p = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def up(self):
        line = self.p.stdout.readline()
        if line != "up\n":
            raise AssertionError(f"client said {line!r}, {self.p.wait()}")
        return self

    def kill(self):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()

    def end(self):
        """Waits for it: what it counted."""
        # Not communicate(): it reads past what up() left in the buffer of
        # stdout when the client was quick. The runner limits the time.
        out = self.p.stdout.read()
        self.p.wait(timeout=4 * LIMIT_S)
        if self.p.returncode:
            raise AssertionError(f"client ended {self.p.returncode}: {out}")
        last = out.splitlines()[-1].split()
        return {k: int(v) for k, v in (w.split("=") for w in last[1:])}


def forked(path, phase):
    """Runs phase(connection) in a child that stays where it is then: its pid,
    to be killed there, and whether it came so far."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            c = Raw(path)
            phase(c)
            os.write(w, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(w)
    told = os.read(r, 1)
    os.close(r)
    return pid, told == b"."


# ---- points at which the daemon has work of a client that dies there

OPS = ("put", "get", "loan", "pin", "lookup", "evict", "open", "namespace",
       "stat", "inspect", "reload", "ping")


def ready(c):
    """Greeted, with a namespace; the id of its memory."""
    c.hello()
    c.open(settings=[(4, "any")])
    fd = os.memfd_create("e2e", os.MFD_ALLOW_SEALING)
    os.truncate(fd, MIB)
    return c.register(fd, 0, MIB).env[1][0]


def request_of(c, op, mem):
    one = seg(mem=mem, len=MIB)
    head = {"ns": 1, "key_n": 1}
    name = b"killed" + op.encode()
    rec = {"key_len": len(name)}
    whole = key(len=MIB, seg_n=1, **rec)
    put = c.build("put", [batch(**head), whole], name + one)
    if op == "put":
        return put
    if op in ("get", "loan", "pin", "lookup"):
        c.send(put)
        c.receive()
    if op == "get":
        return c.build("get", [batch(**head), whole], name + one)
    if op == "loan":
        return c.build("get", [batch(**head), key(flags=4, **rec)], name)
    if op == "pin":
        return c.build("pin", [batch(pin_ttl_ms=60000, **head), key(**rec)],
                       name)
    if op == "lookup":
        return c.build("lookup", [batch(pin_ttl_ms=60000, cols=1, **head),
                                  bytes(64), key(**rec)], name)
    if op == "evict":
        return c.build("evict", [batch(ns=1, select=4)])
    if op == "open":
        return c.build("open", env=pb((1, "more"), (4, 1)))
    return c.build(op)


def sent(op):
    def phase(c):
        message = request_of(c, op, ready(c))
        c.send(message)
    return phase


def answered(op):
    # INSPECT needs an argument that this client does not give.
    allowed = ("OK", "NO_NAMESPACE") if op == "inspect" else ("OK",)

    def phase(c):
        c.send(request_of(c, op, ready(c)))
        r = c.receive()
        assert r.status in allowed, (op, r)
        assert op != "loan" or r.results[0]["flags"] & 4, r
    return phase


def half_record(c):
    c.hello()
    c.write(c.build("ping"))


def hello_sent(c):
    c.send(c.build("hello", env=pb((1, 1))))


def unread(c):
    """Replies are in the ring and stay there."""
    ready(c)
    for _ in range(50):
        c.send(c.build("stat"))


def packet_sent(c):
    c.hello()
    fd = os.memfd_create("e2e")
    os.truncate(fd, MIB)
    c.packet(c.build("mem_register", env=pb((3, MIB))), [fd])


PHASES = [("connected", lambda c: None), ("half record", half_record),
          ("hello sent", hello_sent), ("unread", unread),
          ("packet sent", packet_sent)]
PHASES += [(op + " sent", sent(op)) for op in OPS]
PHASES += [(op + " answered", answered(op)) for op in OPS]


class KilledClients(unittest.TestCase):
    def test_killed_in_each_phase_of_each_operation(self):
        with Node("dram.loan_capacity=32MiB", "loop.copy_slice=64KiB",
                  "limits.loan_share=100%", dram="64MiB") as d, \
                Client(d.address) as witness:
            ns = witness.open("e2e", loans="any")
            self.assertEqual(witness.put1(ns, b"good", b"x" * 1000), "OK")
            fds = None
            for name, phase in PHASES * 2:
                with self.subTest(name):
                    pid, told = forked(d.socket, phase)
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    self.assertTrue(told, "the phase was not reached")
                    self.assertIs(d.at_rest(peers=1), True)
                    witness.put1(ns, b"good", b"x" * 1000)
                    r = witness.get1(ns, b"good", 1000)
                    self.assertEqual(r.data, b"x" * 1000)
                    fds = fds or d.fds()
            self.assertLessEqual(d.fds(), fds)
            # What the dead were storing can be stored.
            for op in ("put", "get", "loan"):
                r = witness.put(ns, [Put(b"killed" + op.encode(), b"y" * 99)])
                self.assertIn(r[0].status, ("OK", "EXISTS"))

    def killed_at_random(self, ucx):
        with Node("dram.loan_capacity=32MiB", ucx=ucx, lanes=2,
                  dram="64MiB") as d, Client(d.address) as witness:
            ns = witness.open("e2e", loans="any")
            address = d.ucx_address if ucx else d.address
            ops = ["put", "get", "lookup", "pin", "evict", "mix"]
            if not ucx:
                ops += ["loan", "mem", "open"]
            r = random.Random(3)
            for i in range(12 if SANITIZED else 24):
                size = r.choice((4096, 65536, MIB))
                batch_n = r.choice((1, 4, 8))
                h = Helper(address, ops[i % len(ops)], size=size, seed=i + 1,
                           batch=batch_n, keys=200)
                h.up()
                # Requests more, so that it is in the middle of something.
                seen = d.metrics()["requests"]
                self.assertTrue(until(
                    lambda: d.metrics()["requests"] > seen + 3), h.p.args)
                self.assertIsNone(h.p.poll(), "it ended by itself")
                h.kill()
                name = b"w%d" % i
                self.assertEqual(witness.put1(ns, name, b"w" * 500), "OK")
                self.assertEqual(witness.get1(ns, name, 500).status, "OK")
            self.assertIs(d.at_rest(peers=2), True)
            r = witness.lookup(ns, [[b"k%d" % k] for k in range(1, 201)])[0]
            self.assertNotIn(1, [x.state for x in r], "PENDING for ever")

    def test_killed_at_random_over_shm(self):
        self.killed_at_random(False)

    def test_killed_at_random_over_ucx(self):
        self.killed_at_random(True)


class BadClients(unittest.TestCase):
    def test_a_stopped_client_with_unread_replies_is_closed(self):
        with Node("limits.slow_reader=50ms") as d, \
                Client(d.address) as other:
            ns = other.open("e2e")
            c = Raw(d.socket)
            self.assertEqual(c.hello().status, "OK")
            # More than a ring of replies, and they stay unread.
            name = b"k" * 1000
            keys = [batch(ns=1, key_n=150)] + [key(key_len=1000)] * 150
            for _ in range(60):
                if not c.send(c.build("touch", keys, name * 150)):
                    break
            self.assertTrue(until(c.closed))
            self.assertEqual(d.metrics()["peers_closed_slow"], 1)
            self.assertEqual(other.put1(ns, b"k", b"v"), "OK")
            self.assertIs(d.at_rest(peers=1), True)
            c.close()

    def test_a_stopped_process_harms_nobody(self):
        with Node("limits.slow_reader=100ms", "dram.loan_capacity=32MiB",
                  lanes=2) as d, \
                Client(d.address) as other:
            ns = other.open("e2e", loans="any")
            h = Helper(d.address, "mix", size=MIB, batch=4).up()
            h.p.send_signal(signal.SIGSTOP)
            for i in range(100):
                self.assertEqual(other.put1(ns, b"o%d" % i, b"v" * 5000), "OK")
            self.assertTrue(until(lambda: d.metrics()["ops_inflight"] == 0))
            h.p.send_signal(signal.SIGCONT)
            h.kill()
            self.assertIs(d.at_rest(peers=2), True)

    def truncated(self, kind, make):
        with Node() as d, Client(d.address) as other:
            ns = other.open("e2e")
            c = Raw(d.socket)
            c.hello()
            fd = make(d)
            os.truncate(fd, MIB)
            r = c.register(fd, 0, MIB, kind=kind)
            self.assertEqual(r.status, "OK")
            mem = r.env[1][0]
            head = batch(ns=1, key_n=1)
            one = seg(mem=mem, len=MIB)
            r = c.ask("put", [head, key(key_len=1, len=MIB, seg_n=1)],
                      b"a" + one)
            self.assertEqual(repr(r), "OK OK")
            os.ftruncate(fd, 4096)
            r = c.ask("put", [head, key(key_len=1, len=MIB, seg_n=1)],
                      b"b" + one)
            self.assertEqual(repr(r), "OK MEM_FAULT")
            r = c.ask("get", [head, key(key_len=1, len=MIB, seg_n=1)],
                      b"a" + one)
            self.assertIn(repr(r), ("OK MEM_FAULT", "OK OK"))
            self.assertEqual(other.get1(ns, b"b", 10).status, "MISS")
            self.assertEqual(other.get1(ns, b"a", MIB).status, "OK")
            os.close(fd)
            c.close()
            self.assertIs(d.at_rest(peers=1), True)

    def test_a_truncated_memfd_is_a_fault_of_the_client(self):
        self.truncated(0, lambda d: os.memfd_create("e2e"))

    def test_a_truncated_file_is_a_fault_of_the_client(self):
        self.truncated(1, lambda d: os.open(os.path.join(d.dir, "shared"),
                                            os.O_RDWR | os.O_CREAT, 0o600))

    def test_who_pins_all_it_can_meets_the_cap_and_others_put(self):
        with Node("dram.pin_limit=25%", "namespaces.policy=lru",
                  dram="32MiB") as d, \
                Client(d.address) as greedy, Client(d.address) as other:
            ns = greedy.open("e2e")
            names = [b"p%d" % i for i in range(300)]
            greedy.put(ns, [Put(n, b"p" * 65536) for n in names])
            r = greedy.keys("pin", ns, names, pin_ttl_ms=60000)
            got = [x.status for x in r]
            self.assertIn("PIN_LIMIT", got)
            pinned = d.metrics()["pinned_bytes"]
            self.assertGreater(pinned, 0)
            self.assertLessEqual(pinned, 8 * MIB)
            ns = other.open("e2e")
            for i in range(40):
                r = other.put(ns, [Put(b"o%d.%d" % (i, j), b"o" * 65536)
                                   for j in range(16)])
                self.assertEqual({x.status for x in r}, {"OK"})
            held = [n for n, s in zip(names, got) if s == "OK"]
            r = greedy.get(ns, [Get(n, 65536) for n in held])
            self.assertEqual({x.status for x in r}, {"OK"}, "pins held")
            greedy.close()
            self.assertIs(d.at_rest(peers=1), True)

    def test_loans_end_at_their_cap_by_release_and_by_ttl(self):
        with Node("dram.loan_capacity=32MiB", "limits.loan_share=10%",
                  "limits.loan_ttl=200ms") as d, Client(d.address) as kv:
            ns = kv.open("e2e", loans="any")
            names = [b"l%d" % i for i in range(8)]
            # A block is lent whole: of a size that lies in one piece.
            kv.put(ns, [Put(n, n * 262144) for n in names])
            r = kv.get(ns, [Get(n, loan=True) for n in names])
            lent = [(n, x) for n, x in zip(names, r) if x.loan]
            self.assertGreater(len(lent), 2)
            self.assertLess(len(lent), len(names), "the cap is met")
            for n, x in lent:
                self.assertTrue(x.data == n * 262144)
            self.assertEqual(kv.release(ns, lent[0][1]), "OK")
            self.assertTrue(until(lambda: d.metrics()["loan_bytes"] == 0))
            for _, x in lent[1:]:
                self.assertEqual(kv.release(ns, x), "STALE")

    def test_overload_answers_busy_and_all_get_through(self):
        with Node("limits.ops_per_lane=1", "limits.ops_per_client=1",
                  lanes=1) as d:
            n, rounds = 16, 300
            first = [Helper(d.address, "put", rounds=rounds, batch=4,
                            size=16384, seed=i + 1, keys=500)
                     for i in range(n)]
            [h.up() for h in first]
            before = d.anon_bytes()
            clients = first
            came = [h.end() for h in clients]
            more = [Helper(d.address, "mix", rounds=rounds, batch=4,
                           size=16384, seed=i + 1, keys=500)
                    for i in range(n)]
            came += [h.end() for h in more]
            self.assertEqual([c["rounds"] for c in came], [rounds] * 2 * n)
            self.assertGreater(d.metrics()["busy_refusals"], 0)
            self.assertLess(d.anon_bytes() - before, 32 * MIB)
            self.assertIs(d.at_rest(), True)


class DaemonFaults(unittest.TestCase):
    def memory(self, kv):
        mem = kv.memory(16 * MIB)
        C.memset(mem.p, 0xc5, mem.n)
        return mem

    def calls(self, kv, ns, mem, n=MIB):
        """Gets and puts under way, into buffers with something around them."""
        out = []
        for i in range(8):
            buf = mem.buf(2 * i * n + 4096, n - 8192)
            if i % 2:
                out.append(kv.submit_get(ns, [Get(b"k%d" % i, buf)],
                                         deadline_ms=1000))
            else:
                out.append(kv.submit_put(ns, [Put(b"new%d" % i, buf)],
                                         deadline_ms=1000))
        return out

    def ended(self, calls):
        """Each ends, by its deadline; how."""
        got = set()
        for c in calls:
            try:
                got |= {r.status for r in c.wait()}
            except KvError as e:
                got.add(e.name)
        return got

    def killed(self, ucx):
        d = Node(ucx=ucx, lanes=2)
        with d:
            address = d.ucx_address if ucx else d.address
            with Client(address) as kv:
                for turn in range(2 if SANITIZED else 4):
                    ns = kv.open("e2e")
                    kv.put(ns, [Put(b"k%d" % i, bytes([i]) * MIB)
                                for i in range(8)])
                    mem = self.memory(kv)
                    calls = self.calls(kv, ns, mem)
                    if turn % 2:
                        calls[0].wait()
                        calls = calls[1:]
                    d.kill()
                    got = self.ended(calls)
                    self.assertLessEqual(got, GONE | {"OK", "MISS"})
                    after = bytes(mem.buf())
                    for i in range(8):
                        around = after[(2 * i + 1) * MIB:(2 * i + 2) * MIB]
                        self.assertEqual(around.count(0xc5), MIB)
                    with self.assertRaises(KvError) as e:
                        kv.put(ns, [Put(b"x", b"y")], deadline_ms=300)
                        kv.get(ns, [Get(b"x", 1)], deadline_ms=300)
                        raise KvError(-29)
                    self.assertIn(e.exception.name, GONE)
                    d.start()
                    self.assertTrue(until(lambda: self.serves(kv)))
                    self.assertTrue(bytes(mem.buf()) == after, "late bytes")
                    mem.free()

    def serves(self, kv):
        try:
            ns = kv.open("e2e", deadline_ms=1000)
            kv.put1(ns, b"again", b"v")
            return kv.get1(ns, b"again", 1).data == b"v"
        except KvError:
            return False

    def test_daemon_killed_under_load_over_shm(self):
        self.killed(False)

    def test_daemon_killed_under_load_over_ucx(self):
        self.killed(True)

    def stopped(self, ucx):
        with Node(ucx=ucx) as d, \
                Client(d.ucx_address if ucx else d.address) as kv:
            ns = kv.open("e2e")
            kv.put(ns, [Put(b"k%d" % i, bytes([i]) * MIB) for i in range(8)])
            mem = self.memory(kv)
            d.send(signal.SIGSTOP)
            calls = self.calls(kv, ns, mem)
            got = self.ended(calls)
            self.assertLessEqual(got, GONE)
            after = bytes(mem.buf())
            d.send(signal.SIGCONT)
            self.assertTrue(until(lambda: self.serves(kv)))
            self.assertTrue(until(lambda: d.metrics()["ops_inflight"] == 0))
            self.assertTrue(bytes(mem.buf()) == after,
                            "bytes came after the completion")
            # A put given up is not there, or there as it was then.
            r = kv.get1(kv.open("e2e"), b"new0", MIB)
            if r.status == "OK":
                self.assertEqual(r.data.count(0xc5), MIB - 8192)

    def test_daemon_stopped_over_shm(self):
        self.stopped(False)

    def test_daemon_stopped_over_ucx(self):
        self.stopped(True)


class HostProcess(unittest.TestCase):
    """libpikv leaves its host as it was."""

    def status(self):
        """Blocked, ignored and caught signals, but for the two that the C
        library keeps for its own threads (32 and 33)."""
        own = 3 << 31
        with open("/proc/self/status", encoding="ascii") as f:
            return [(name, int(value, 16) & ~own) for name, value in
                    re.findall(r"^(Sig(?:Blk|Ign|Cgt)):\s+(\w+)", f.read(),
                               re.M)]

    def environ(self):
        env = C.POINTER(C.c_char_p).in_dll(C.CDLL(None), "environ")
        out, i = [], 0
        while env[i]:
            out.append(env[i])
            i += 1
        return out

    def maps(self):
        with open("/proc/self/maps", encoding="ascii") as f:
            return f.read()

    def test_signals_and_environment_stay_and_ucx_comes_only_when_used(self):
        with Node(ucx=True) as d:
            signals, env = self.status(), self.environ()
            with Client(d.address) as kv:
                ns = kv.open("e2e")
                self.assertEqual(kv.put1(ns, b"k", b"v"), "OK")
                self.assertEqual(self.status(), signals)
                self.assertEqual(self.environ(), env)
                self.assertNotIn("libucp", self.maps())
                self.assertNotIn("libucs", self.maps())
            with Client(d.ucx_address) as kv:
                self.assertEqual(kv.get1(kv.open("e2e"), b"k", 1).data, b"v")
                self.assertIn("libucp", self.maps())
                self.assertEqual(self.status(), signals)
                self.assertEqual(self.environ(), env)

    def test_a_forked_child_is_told_so(self):
        with Node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put1(ns, b"k", b"v")
            pid = os.fork()
            if pid == 0:
                try:
                    kv.get1(ns, b"k", 1)
                except KvError as e:
                    os._exit(7 if e.name == "FORKED" else 8)
                finally:
                    os._exit(9)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
                             7)
            self.assertEqual(kv.get1(ns, b"k", 1).data, b"v")



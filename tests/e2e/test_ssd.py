# SPDX-License-Identifier: Apache-2.0
"""The SSD tier as a client and an operator meet it: more blocks than memory,
warm after SIGTERM and kill -9, devices that fail, stores that are not ours."""

import os
import random
import statistics
import struct
import subprocess
import threading
import time
import unittest

from kv import Client, Get, KvError, Put
from node import SANITIZED, until
from ssd import MIB, SUPER_MAJOR, IoFaults, SsdNode, on_tmpfs, value

CONFIG, UNAVAILABLE, OSERR = 78, 69, 71
SIZE = 65536


def names(n, prefix=b"k"):
    return [prefix + b"%d" % i for i in range(n)]


def reopened(kv):
    """The namespace at a daemon that has just started anew: the client finds
    its way back by itself, and answers NO_SERVER meanwhile."""
    def ns():
        try:
            return [kv.open("e2e")]
        except KvError:
            return []

    return until(ns)[0]


def store(kv, ns, keys, size=SIZE, version=1, **attrs):
    for i in range(0, len(keys), 16):
        part = keys[i:i + 16]
        r = kv.put(ns, [Put(k, value(k, version, size), **attrs)
                        for k in part])
        bad = [(k, x.status) for k, x in zip(part, r) if x.status != "OK"]
        assert not bad, bad


def get_part(kv, ns, part, size):
    """Its connection to one lane may be back before that to another."""
    def got():
        try:
            return kv.get(ns, [Get(k, size) for k in part])
        except KvError as e:
            if e.name != "NO_SERVER":
                raise
            return []

    return until(got)


def found(kv, ns, keys, size=SIZE, version=1):
    """Those that are there; the bytes of each are checked."""
    out = []
    for i in range(0, len(keys), 16):
        part = keys[i:i + 16]
        for k, x in zip(part, get_part(kv, ns, part, size)):
            assert x.status in ("OK", "MISS"), (k, x)
            if x.status == "OK":
                assert x.data == value(k, version, size), k
                out.append(k)
    return out


class Tiers(unittest.TestCase):
    def test_more_blocks_than_memory_are_kept(self):
        with SsdNode(lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(1600)  # 100 MiB
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            self.assertEqual(found(kv, ns, keys), keys)
            m = d.metrics()
            self.assertGreater(m["cold_blocks"], 800)
            self.assertGreater(m["get_ssd_hits"], 800)
            self.assertEqual(m["ssd_corrupt"], 0)
            self.assertLess(m["ssd_written_bytes"],
                            1.05 * m["ssd_payload_bytes"])

    def test_a_lookup_tells_the_tier(self):
        with SsdNode() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(1200)
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            r = [kv.lookup(ns, [[k]])[0][0] for k in (keys[0], keys[-1])]
            self.assertEqual([x.state for x in r], [2, 2])
            self.assertEqual([x.raw.tier for x in r], [1, 0])
            self.assertGreater(r[0].raw.eta_us, 0)
            self.assertEqual(r[1].raw.eta_us, 0)

    def test_demote_and_prefetch_move_blocks_between_tiers(self):
        with SsdNode(lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(40)

            def tiers():
                return {kv.lookup(ns, [[k]])[0][0].raw.tier for k in keys}

            store(kv, ns, keys)
            d.written()
            self.assertEqual(tiers(), {0})
            self.assertEqual(kv.evict(ns, "keys", keys, demote=True), 40)
            self.assertTrue(until(lambda: tiers() == {1}))
            r = kv.prefetch(ns, keys + [b"none"])
            self.assertEqual([x.status for x in r], ["OK"] * 40 + ["MISS"])
            self.assertTrue(until(lambda: tiers() == {0}))
            self.assertEqual(found(kv, ns, keys), keys)
            self.assertEqual(d.metrics()["prefetched_blocks"], 40)

    def test_a_pattern_drops_and_explain_says_so(self):
        with SsdNode(lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(30)
            store(kv, ns, keys, durable=True)
            self.assertEqual(kv.explain(ns, keys[3]).reason, b"here")
            self.assertEqual(kv.evict(ns, "pattern", [b"k1*"]), 11)
            self.assertEqual(kv.explain(ns, b"k1").reason, b"dropped")
            self.assertEqual(kv.explain(ns, b"xyz").reason, b"never_seen")
            d.kill()
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, keys),
                             [k for k in keys if not k.startswith(b"k1")])

    def test_ranges_parents_and_attributes_of_cold_blocks(self):
        with SsdNode() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put(ns, [Put(b"root", value(b"root", 1, 10000), labels=(7,))])
            kv.put(ns, [Put(b"leaf", value(b"leaf", 1, 10000), parent=b"root",
                            labels=(7,))])
            d.written()
            d.kill()
            d.start()
            ns = reopened(kv)
            r = kv.get(ns, [Get(b"root", 1000, off=5000),
                            Get(b"leaf", 10000)])
            self.assertEqual(r[0].data, value(b"root", 1, 10000)[5000:6000])
            self.assertEqual(r[1].data, value(b"leaf", 1, 10000))
            self.assertEqual(kv.evict(ns, "label", label=7), 2)
            self.assertEqual(found(kv, ns, [b"root", b"leaf"], 10000), [])

    def test_sizes(self):
        sizes = (1, 4095, 4096, 4097, 65536, MIB - 1, 3 * MIB + 17)
        with SsdNode(segment="8MiB") as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            for n in sizes:
                store(kv, ns, [b"s%d" % n], n)
            d.written()
            d.kill()
            d.start()
            ns = reopened(kv)
            for n in sizes:
                with self.subTest(n):
                    self.assertEqual(found(kv, ns, [b"s%d" % n], n),
                                     [b"s%d" % n])


class Restarts(unittest.TestCase):
    def restarted(self, stop, lanes=2, after=None, n=1):
        with SsdNode(lanes=lanes, n=n) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(1000)
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            stop(d)
            d.settings["node.lanes"] = str(after or lanes)
            d.start()
            m = d.metrics()
            self.assertEqual(m["ssd_recovered_blocks"], len(keys))
            # The lanes that this client knows may be others than before.
            with Client(d.address) as anew:
                self.assertEqual(found(anew, anew.open("e2e"), keys), keys)
            self.assertEqual(d.metrics()["ssd_corrupt"], 0)

    def test_warm_after_sigterm(self):
        self.restarted(lambda d: d.stop())

    def test_warm_after_kill(self):
        self.restarted(lambda d: d.kill())

    def test_warm_with_another_number_of_lanes(self):
        self.restarted(lambda d: d.stop(), lanes=2, after=3)
        self.restarted(lambda d: d.kill(), lanes=3, after=1)

    def test_warm_from_two_devices(self):
        self.restarted(lambda d: d.kill(), n=2)

    def test_durable_puts_are_back_at_once(self):
        with SsdNode() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            for turn in range(5):
                keys = names(20, b"d%d." % turn)
                store(kv, ns, keys, durable=True)
                d.kill()
                d.start()
                ns = reopened(kv)
                self.assertEqual(found(kv, ns, keys), keys)

    def test_what_was_dropped_does_not_come_back(self):
        with SsdNode() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(60)
            store(kv, ns, keys, durable=True)
            self.assertEqual(kv.evict(ns, "keys", keys[:30]), 30)
            d.kill()
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, keys), keys[30:])
            # And again, with other bytes.
            store(kv, ns, keys[:10], version=2, durable=True)
            d.stop()
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, keys[:10], version=2), keys[:10])
            self.assertEqual(found(kv, ns, keys[10:]), keys[30:])

    def test_nothing_from_before_a_bump(self):
        with SsdNode() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(60)
            store(kv, ns, keys, durable=True)
            kv.bump(ns)
            store(kv, ns, keys[:5], version=2, durable=True)
            d.kill()
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, keys[:5], version=2), keys[:5])
            self.assertEqual(found(kv, ns, keys[5:]), [])

    def test_a_ttl_goes_on_over_a_restart(self):
        with SsdNode() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            store(kv, ns, [b"short"], durable=True, ttl_ms=1000)
            store(kv, ns, [b"long"], durable=True, ttl_ms=3600000)
            d.kill()
            time.sleep(2.1)
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, [b"short", b"long"]), [b"long"])

    def test_the_ssd_wraps_around(self):
        with SsdNode(capacity="64MiB", segment="1MiB", lanes=2) as d, \
                Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(3000)  # 187 MiB
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            m = d.metrics()
            self.assertGreater(m["ssd_reclaimed_segments"], 60)
            got = found(kv, ns, keys)
            self.assertGreater(len(got), 600)
            self.assertIn(keys[-1], got)
            d.kill()
            d.start()
            ns = reopened(kv)
            self.assertGreater(len(found(kv, ns, keys)), 500)


class Load:
    """One thread that puts, gets and drops keys of its own until the daemon
    goes, and what may be found afterwards."""

    def __init__(self, seed, prefix):
        self.r = random.Random(seed)
        self.prefix = prefix
        self.versions = 0
        self.size = {}   # key -> bytes of a block, always the same
        self.maybe = {}  # key -> versions that may be found
        self.must = {}   # key -> (version, bytes sent when it was answered)
        self.sent = 0
        self.answered = 0
        self.wrong = []

    def key(self):
        return self.prefix + b"%d" % self.r.randrange(120)

    def check(self, key, x):
        if x.status == "MISS":
            return
        if x.status != "OK":
            self.wrong.append((key, x.status))
            return
        for v in self.maybe.get(key, ()):
            if x.data == value(key, v, self.size[key]):
                self.answered += 1
                return
        self.wrong.append((key, "bytes of no PUT", sorted(self.maybe[key])))

    def put(self, kv, ns):
        durable = self.r.random() < 0.5
        keys = list({self.key() for _ in range(6)})
        puts = []
        self.versions += 1
        v = self.versions
        for k in keys:
            n = self.size.setdefault(k, self.r.choice(
                (5000, 16384, 65536, 200000)))
            self.maybe.setdefault(k, set()).add(v)
            self.sent += n
            puts.append(Put(k, value(k, v, n), durable=durable))
        for k, x in zip(keys, kv.put(ns, puts)):
            if x.status == "OK" and durable:
                self.must[k] = (v, self.sent)
            if x.status in ("EXISTS", "PENDING"):
                self.maybe[k].discard(v)
            elif x.status not in ("OK", "BUSY"):
                self.wrong.append((k, x.status))

    def get(self, kv, ns):
        keys = [self.key() for _ in range(8)]
        keys = [k for k in keys if k in self.size]
        if keys:
            gets = [Get(k, self.size[k]) for k in keys]
            for k, x in zip(keys, kv.get(ns, gets)):
                self.check(k, x)

    def drop(self, kv, ns):
        keys = list({self.key() for _ in range(4)})
        for k in keys:
            self.must.pop(k, None)
        kv.evict(ns, "keys", keys)
        for k in keys:
            if k in self.maybe:
                self.maybe[k].clear()

    def bump(self, kv, ns):
        self.must.clear()
        kv.bump(ns)
        for v in self.maybe.values():
            v.clear()

    def run(self, address, alone):
        try:
            with Client(address) as kv:
                ns = kv.open(self.prefix.decode())
                while True:
                    what = self.r.random()
                    if what < 0.45:
                        self.put(kv, ns)
                    elif what < 0.9:
                        self.get(kv, ns)
                    elif what < 0.99:
                        self.drop(kv, ns)
                    elif alone:
                        self.bump(kv, ns)
        except KvError as e:
            if e.name not in ("PEER_GONE", "NO_SERVER", "RETRY", "TIMEOUT",
                              "CANCELED", "DRAINING"):
                self.wrong.append((e.name, str(e)))

    def audit(self, kv, far):
        """After the restart: everything durable is there, nothing else."""
        ns = kv.open(self.prefix.decode())
        keys = sorted(self.size)
        for i in range(0, len(keys), 32):
            part = keys[i:i + 32]
            r = kv.get(ns, [Get(k, self.size[k]) for k in part])
            for k, x in zip(part, r):
                self.check(k, x)
                v, at = self.must.get(k, (0, 0))
                if x.status != "OK" and v and self.sent - at < far:
                    self.wrong.append((k, v, "durable, and lost", x.status))
                if x.status != "OK":
                    self.must.pop(k, None)


class Kills(unittest.TestCase):
    """kill -9 under load, again and again. PIKV_SSD_KILLS says how often; the
    seed of a failure is in its words."""

    PARTS = 4
    KILLS = int(os.environ.get("PIKV_SSD_KILLS", "100"))
    SEED = int(os.environ.get("PIKV_SSD_SEED", "0") or 0) or \
        int.from_bytes(os.urandom(3), "big")

    def campaign(self, part):
        seed = self.SEED + part
        r = random.Random(seed)
        n = max(1, self.KILLS // self.PARTS // (5 if SANITIZED else 1))
        loads = [Load(seed * 2 + i, b"ns%d" % i) for i in range(2)]
        far = 48 * MIB  # of 256: what was sent since, of each load
        with SsdNode(segment=r.choice(("1MiB", "2MiB", "4MiB")),
                     lanes=r.randint(1, 3), n=r.randint(1, 2)) as d:
            for _ in range(n):
                threads = [threading.Thread(target=x.run,
                                            args=(d.address, True))
                           for x in loads]
                [t.start() for t in threads]
                time.sleep(r.uniform(0.03, 0.25))
                if r.random() < 0.1:
                    d.stop()
                else:
                    d.kill()
                [t.join() for t in threads]
                d.settings["node.lanes"] = str(r.randint(1, 3))
                d.start()
                with Client(d.address) as kv:
                    for x in loads:
                        x.audit(kv, far)
                for x in loads:
                    self.assertEqual(x.wrong, [], f"seed {seed}")
                self.assertEqual(d.metrics()["ssd_corrupt"], 0, seed)
        print(f"{n} kills, {sum(x.answered for x in loads)} answered GETs")

    def test_clean_stops_under_load(self):
        """Each lane must end by itself, whatever its SSDs were doing."""
        loads = [Load(self.SEED * 2 + i, b"ns%d" % i) for i in range(2)]
        with SsdNode(segment="1MiB", n=2, lanes=2) as d:
            for i in range(4 if SANITIZED else 24):
                threads = [threading.Thread(target=x.run,
                                            args=(d.address, True))
                           for x in loads]
                [t.start() for t in threads]
                time.sleep(0.05 + 0.01 * (i % 8))
                d.stop()
                [t.join() for t in threads]
                d.settings["node.lanes"] = str(2 + i % 2)
                d.start()
        self.assertEqual([x.wrong for x in loads], [[], []], self.SEED)

    def test_ssd_kill_1(self):
        self.campaign(1)

    def test_ssd_kill_2(self):
        self.campaign(2)

    def test_ssd_kill_3(self):
        self.campaign(3)

    def test_ssd_kill_4(self):
        self.campaign(4)


class Refusals(unittest.TestCase):
    """A start that must not happen says why and changes nothing."""

    def refused(self, d, *words, status=(CONFIG, OSERR, UNAVAILABLE)):
        self.addCleanup(d.remove)
        got, line = d.refused()
        self.assertIn(got, status, line)
        for w in words:
            self.assertIn(w, line)

    def stopped(self):
        """A node that ran and stopped, with blocks on its SSD."""
        d = SsdNode()
        self.addCleanup(d.remove)
        d.start()
        with Client(d.address) as kv:
            store(kv, kv.open("e2e"), names(20), durable=True)
        d.stop()
        return d

    def comes_up(self, d):
        d.start()
        with Client(d.address) as kv:
            self.assertEqual(len(found(kv, kv.open("e2e"), names(20))), 20)

    def test_two_daemons_on_one_store(self):
        with SsdNode() as d:
            other = SsdNode(f"ssd.paths={d.images[0]}")
            self.refused(other, d.images[0], "in use")
            with Client(d.address) as kv:
                self.assertEqual(kv.put1(kv.open("e2e"), b"k", b"v"), "OK")

    def test_a_foreign_image_is_left_alone(self):
        d = SsdNode()
        text = b"precious " * 1000000
        with open(d.images[0], "wb") as f:
            f.write(text)
        self.refused(d, d.images[0])
        self.assertEqual(d.read(0, len(text)), text)

    def test_a_newer_format_names_its_writer(self):
        d = self.stopped()
        d.patch_super(SUPER_MAJOR, struct.pack("<I", 2))
        before = d.read(0, 2 * MIB)
        self.refused(d, d.images[0], "pikvd 0.1.0", "2")
        self.assertEqual(d.read(0, 2 * MIB), before)
        d.patch_super(SUPER_MAJOR, struct.pack("<I", 1))
        self.comes_up(d)

    def test_one_superblock_is_enough(self):
        for at in (0, MIB):
            with self.subTest(at):
                d = self.stopped()
                d.write(at, os.urandom(4096))
                d.start()
                with Client(d.address) as kv:
                    got = found(kv, kv.open("e2e"), names(20))
                self.assertEqual(len(got), 20)
                d.stop()

    def test_tmpfs(self):
        shm = "/dev/shm"
        if not on_tmpfs(shm):
            self.skipTest("no tmpfs at /dev/shm")
        path = os.path.join(shm, f"pikv-e2e-{os.getpid()}")
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        self.refused(SsdNode(f"ssd.paths={path}"), path, "tmpfs")

    def test_not_enough_space(self):
        d = SsdNode(capacity="15TiB")
        self.refused(d, d.images[0])
        self.assertLess(sum(os.stat(p).st_blocks * 512 for p in d.images
                            if os.path.exists(p)), MIB)

    def test_too_small(self):
        self.refused(SsdNode(capacity="8MiB", segment="4MiB"), "ssd.capacity")

    def test_a_read_only_file(self):
        d = self.stopped()
        if subprocess.run(["chattr", "+i", d.images[0]], check=False,
                          stderr=subprocess.DEVNULL).returncode:
            self.skipTest("needs chattr +i")
        self.addCleanup(subprocess.run, ["chattr", "-i", d.images[0]])
        try:
            self.refused(d, d.images[0], "fix:")
        finally:
            subprocess.run(["chattr", "-i", d.images[0]], check=True)
        self.comes_up(d)

    def test_no_state_dir(self):
        d = SsdNode()
        d.settings["node.state_dir"] = ""
        self.refused(d, "node.state_dir", status=(CONFIG,))

    def test_no_such_directory(self):
        d = SsdNode("ssd.paths=/none/ssd0")
        self.refused(d, "/none", "fix:")

    def test_the_same_path_twice(self):
        d = SsdNode()
        d.settings["ssd.paths"] = ",".join(d.images * 2)
        self.refused(d, "ssd.paths", "twice", status=(CONFIG,))
        d = SsdNode(n=2)
        os.symlink(d.images[0], d.images[1])
        self.refused(d, d.images[0], "same SSD")


class Faults(unittest.TestCase):
    """A device that fails: its tier goes, the service stays."""

    def setUp(self):
        self.faults = None

    def node(self, *sets, n=1, **more):
        path = "ssd0"
        self.faults = IoFaults(path)
        self.addCleanup(self.faults.close)
        return SsdNode("ssd.io_timeout=1s", *sets, n=n, engine="sync",
                       env=self.faults.env(), **more)

    def p99_ms(self, kv, ns, n=400):
        took = []
        for _ in range(n):
            t = time.monotonic()
            r = kv.get1(ns, b"hot", SIZE)
            took.append(1000 * (time.monotonic() - t))
            self.assertEqual(r.status, "OK")
        return statistics.quantiles(took, n=100)[98]

    def fails(self, state, cold, n=1, **modes):
        """Sets the fault under load, waits until the daemon says what it came
        to, and looks at the service meanwhile."""
        with self.node(n=n, lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(1000)
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            store(kv, ns, [b"hot"])
            self.assertEqual(d.ready()[0], 200)
            before = min(self.p99_ms(kv, ns) for _ in range(3))
            self.faults.set(**modes)
            stop = threading.Event()

            def load():
                i = 0
                with Client(d.address) as mine:
                    own = mine.open("e2e")
                    while not stop.is_set():
                        i += 1
                        try:
                            mine.put(own, [Put(b"n%d" % i, b"n" * SIZE)])
                            mine.get(own, [Get(keys[i % 500], SIZE)])
                        except KvError:
                            pass
                        time.sleep(0.002)

            t = threading.Thread(target=load)
            t.start()
            try:
                during = min(self.p99_ms(kv, ns) for _ in range(3))
                self.assertTrue(until(lambda: state in d.ready()[1]),
                                d.ready()[1])
                after = min(self.p99_ms(kv, ns) for _ in range(3))
            finally:
                stop.set()
                t.join()
            m = d.metrics()
            self.assertEqual(m["ssd_devices_down"], 1)
            self.assertGreater(self.faults.hits(), 0)
            print(f"p99 of DRAM hits {before:.2f} ms, {during:.2f} ms while it "
                  f"fails, {after:.2f} ms after")
            if not SANITIZED:
                # The load takes its part of the processor, too.
                self.assertLess(min(during, after), 2 * before + 2)
            self.assertEqual(kv.put1(ns, b"new", b"v"), "OK")
            self.assertEqual(kv.get1(ns, b"new", 1).data, b"v")
            got = found(kv, ns, keys[:500])
            if cold:
                self.assertGreater(len(got), 400)
            durable = kv.put1(ns, b"dur", b"v", durable=True)
            self.assertIn(durable, ("OK",) if n > 1 else
                          ("NOT_DURABLE", "UNSUPPORTED"))
            self.faults.set()
            self.assertIs(d.at_rest(peers=2), True)
            self.assertTrue(d.alive())

    def test_writes_fail(self):
        self.fails("read_only", cold=True, write="eio")

    def test_no_space(self):
        self.fails("read_only", cold=True, write="enospc")

    def test_reads_fail(self):
        self.fails("failed", cold=False, read="eio", write="eio")

    def test_the_device_hangs(self):
        self.fails("failed", cold=False, read="hang", write="hang",
                   flush="hang")

    def test_the_device_vanishes(self):
        self.fails("failed", cold=False, read="gone", write="gone",
                   flush="gone")

    def test_one_of_two_fails_and_the_other_stays(self):
        self.fails("read_only", cold=True, n=2, write="eio")

    def test_a_failed_flush_is_final(self):
        with self.node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            store(kv, ns, [b"before"], durable=True)
            self.faults.set(flush="eio")
            self.assertEqual(kv.put1(ns, b"k", b"v", durable=True),
                             "NOT_DURABLE")
            self.faults.set()
            self.assertIn(kv.put1(ns, b"k2", b"v", durable=True),
                          ("NOT_DURABLE", "UNSUPPORTED"))
            self.assertIn("read_only", d.ready()[1])
            self.assertEqual(found(kv, ns, [b"before"]), [b"before"])
            d.kill()
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, [b"before"]), [b"before"])

    def test_short_transfers_are_continued(self):
        with self.node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            self.faults.set(read="short", write="short")
            keys = names(900)
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            self.assertEqual(found(kv, ns, keys), keys)
            self.assertEqual(d.metrics()["ssd_corrupt"], 0)
            d.kill()
            d.start()
            ns = reopened(kv)
            self.assertEqual(found(kv, ns, keys), keys)
            self.assertEqual(d.metrics()["ssd_devices_down"], 0)

    def test_wrong_bytes_are_a_miss(self):
        with self.node() as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(900)
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            cold = [k for k in keys[:100]
                    if kv.lookup(ns, [[k]])[0][0].raw.tier == 1]
            self.assertGreater(len(cold), 50)
            self.faults.set(read="flip")
            self.assertEqual(found(kv, ns, cold[:20]), [])
            self.faults.set()
            self.assertGreater(d.metrics()["ssd_corrupt"], 0)
            self.assertEqual(found(kv, ns, cold[:20]), [], "quarantined")


class Engines(unittest.TestCase):
    def works(self, **more):
        with SsdNode(**more) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            keys = names(900)
            for i in range(0, len(keys), 100):
                store(kv, ns, keys[i:i + 100])
                d.written()
            self.assertEqual(found(kv, ns, keys), keys)
            status, text = d.ready()
            self.assertEqual(status, 200)
            return text, d.metrics()["ssd_fallback"]

    def test_sync(self):
        text, _ = self.works(engine="sync")
        self.assertIn("sync", text)

    def test_without_io_uring_pread_and_pwrite_serve(self):
        here = os.path.dirname(os.path.abspath(__file__))
        text, fallback = self.works(
            prefix=[os.path.join(here, "no_uring.py")])
        self.assertEqual(fallback, 1)
        self.assertIn("sync", text)

    def test_an_idle_daemon_with_an_ssd_uses_no_cpu(self):
        with SsdNode("ssd.scrub=0", lanes=2) as d, Client(d.address) as kv:
            store(kv, kv.open("e2e"), names(50))
            d.written()
            before, turns = d.cpu_ticks(), d.metrics()["loop_turns"]
            start = time.monotonic()
            time.sleep(3)
            s = time.monotonic() - start
            ticks = (d.cpu_ticks() - before) / os.sysconf("SC_CLK_TCK") / s
            turns = (d.metrics()["loop_turns"] - turns) / s
            self.assertLess(ticks, 0.1, "part of a core")
            self.assertLess(turns, 250, "turns a second of both lanes")

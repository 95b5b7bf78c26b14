# SPDX-License-Identifier: Apache-2.0
"""pikv.lmcache under LMCache's own adapter (or our stand-in for its calls,
lmcache_rig.py), against a running pikvd."""

import contextlib
import logging
import mmap
import os
import re
import signal
import subprocess
import sys
import unittest

import pikv
from case import LONG_MS, Case, clean_env, payload, until
from lmcache_rig import REAL, Real, Rig, Server, StandIn, text_of
from pikv.lmcache import Client, key_parts, mapping_of, scope_of

KIB, MIB = 1 << 10, 1 << 20
logging.getLogger("pikv").addHandler(logging.NullHandler())
NUMBERS = ("deadline_ms", "lookup_ms", "connect_ms", "pin_ttl_ms", "pin_cap",
           "staging_bytes", "retry_ms", "share", "ttl_ms", "quota_bytes")


class Blocks:
    """n blocks of size bytes to store and as many to load into, in one piece
    of memory: private, or a memfd's."""

    def __init__(self, n, size, shared=False):
        total = 2 * n * size
        if shared:
            self.fd = os.memfd_create("arena")
            os.ftruncate(self.fd, total)
            memory = mmap.mmap(self.fd, total)
            os.close(self.fd)
        else:
            memory = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE)
        view = memoryview(memory)
        cut = [view[i * size:(i + 1) * size] for i in range(2 * n)]
        self.source, self.target = cut[:n], cut[n:]
        for i, block in enumerate(self.source):
            block[:64] = payload(64, i)
            block[-64:] = payload(64, i + 1)
            block[:8] = i.to_bytes(8, "big")

    def equal(self, i):
        return self.source[i] == self.target[i]


class Doors(Case):
    """A daemon per class, a namespace per test."""

    def setUp(self):
        pass

    def door(self, rig=Rig, wrap=None, **params):
        out = rig({"address": self.node.address,
                   "namespace": self._testMethodName,
                   "deadline_ms": LONG_MS, "lookup_ms": LONG_MS,
                   "connect_ms": LONG_MS, **params}, wrap=wrap)
        self.addCleanup(out.close)
        return out

    def all_equal(self, blocks, n):
        for i in range(n):
            self.assertTrue(blocks.equal(i), f"block {i} differs")


class Basics(Doors):
    def test_what_is_stored_is_found_loaded_and_deleted(self):
        door, b, keys = self.door(), Blocks(10, 64 * KIB), list(range(10))
        self.assertEqual(door.lookup(keys), [False] * 10)
        self.assertTrue(door.store(keys, b.source))
        self.assertEqual(door.lookup(keys + [99]), [True] * 10 + [False])
        self.assertEqual(door.load(keys, b.target), [True] * 10)
        self.all_equal(b, 10)
        self.assertEqual(door.delete(keys[:4]), [True] * 4)
        self.assertEqual(door.lookup(keys), [False] * 4 + [True] * 6)
        self.assertEqual(door.strays, 0)

    def test_a_key_that_is_there_counts_as_stored(self):
        door, b = self.door(), Blocks(4, KIB)
        self.assertTrue(door.store([0, 1], b.source[:2]))
        self.assertTrue(door.store([0, 1, 2, 3], b.source))

    def test_a_load_of_another_length_is_a_miss_and_said_once(self):
        door, b = self.door(), Blocks(1, 4096)
        door.store([1], [b.source[0][:4000]])
        door.store([2], b.source)
        with self.assertLogs("pikv.lmcache", logging.WARNING) as logs:
            self.assertEqual(door.load([1], b.target), [False])
            self.assertEqual(door.load([2], [b.target[0][:4000]]), [False])
        self.assertEqual(sum("expects" in text for text in logs.output), 1)

    def test_salts_are_apart_and_can_be_dropped_alone(self):
        door, b = self.door(), Blocks(2, KIB)
        ann, bob = (7, "ann", 0, 0), (7, "bob", 0, 0)
        self.assertTrue(door.store([ann, bob], b.source))
        self.assertEqual(door.load([bob, ann], b.target), [True] * 2)
        self.assertEqual(b.target[0], b.source[1])
        with pikv.Client(self.node.address) as client:
            ns = client.open(self._testMethodName)
            ns.evict(select="scope", scope=scope_of("ann"),
                     deadline_ms=LONG_MS)
        self.assertEqual(door.lookup([ann, bob]), [False, True])

    def test_ranks_and_groups_of_a_chunk_have_one_route(self):
        routes = {key_parts(text_of((5, "", rank, group)))[0]
                  for rank in range(4) for group in range(3)}
        self.assertEqual(len(routes), 1)
        self.assertNotEqual(routes, {key_parts(text_of(1 << 200))[0]})
        self.assertEqual(key_parts(text_of((5, "s", 0, 0)))[1], "s")

    def test_a_batch_larger_than_the_servers_is_split(self):
        door, n = self.door(), 9000
        view = memoryview(bytearray(64))
        self.assertTrue(door.store(list(range(n)), [view] * n))
        self.assertEqual(door.lookup(list(range(n + 1))),
                         [True] * n + [False])

    def test_2000_blocks_of_256_kib_in_one_batch(self):
        door, n = self.door(), 2000
        for shared in (False, True):
            b = Blocks(n, 256 * KIB, shared)
            keys = list(range(n)) if shared else [n + i for i in range(n)]
            self.assertTrue(door.store(keys, b.source))
            self.assertEqual(door.load(keys, b.target), [True] * n)
            self.all_equal(b, n)
            door.delete(keys)

    settings = {"dram.capacity": "1GiB"}

    def test_a_shared_arena_is_registered_whole(self):
        door, b = self.door(), Blocks(4, MIB, shared=True)
        door.store([0], b.source[:1])
        client = door.client._store.client
        self.assertTrue(until(
            lambda: client.stats()["registered_bytes"] >= 8 * MIB))
        door.store([1, 2, 3], b.source[1:])
        self.assertEqual(door.load([0, 1, 2, 3], b.target), [True] * 4)
        self.all_equal(b, 4)


class Connector(Doors):
    """What LMCache does not do, and must not harm."""

    def test_submits_never_raise(self):
        door = self.door(StandIn)
        client = door.client
        self.assertFalse(door.store([1], []))
        self.assertEqual(door.load([1, 2], []), [False, False])
        self.assertEqual(door.call(client.submit_batch_exists, [None])[1],
                         [False])
        self.assertEqual(door.call(client.submit_batch_get, [], []),
                         (True, []))
        self.assertEqual(door.lookup([1]), [False])

    def test_draining_nothing_is_an_empty_list(self):
        client = Client(address=self.node.address)
        self.addCleanup(client.close)
        self.assertEqual(client.drain_completions(), [])
        self.assertGreaterEqual(client.event_fd(), 0)

    def test_close_twice_and_calls_after_it_are_misses(self):
        client = Client(address=self.node.address)
        client.close()
        client.close()
        client.submit_batch_exists(["a"])
        self.assertEqual([c[3] for c in client.drain_completions()],
                         [[False]])

    def test_wrong_parameters_name_the_field(self):
        for name in NUMBERS:
            for value in ("1", -1, 1.5, True):
                with self.refused(ValueError, f"adapter_params.{name}",
                                  repr(value)):
                    Client(**{name: value})
        with self.refused(ValueError, "adapter_params.dtype", "a text"):
            Client(dtype=16)
        with self.refused(ValueError, "adapter_params.nonsense", "unknown",
                          "deadline_ms"):
            Client(nonsense=1)

    def test_another_fingerprint_is_refused_with_the_field(self):
        first = self.door(StandIn, dtype="bfloat16")
        second = self.door(StandIn, dtype="float16")
        b = Blocks(1, KIB)
        self.assertTrue(first.store([1], b.source))
        self.assertEqual(second.lookup([1]), [False])
        error = second.client._store.error
        for word in ("dtype", "bfloat16", "float16"):
            self.assertIn(word, error)

    def test_a_mapping_is_found_whole_and_known_as_shared(self):
        b = Blocks(1, MIB, shared=True)
        import ctypes
        address = ctypes.addressof(ctypes.c_char.from_buffer(b.target[0]))
        start, size, shared = mapping_of(address)
        self.assertEqual((start + MIB, size, shared),
                         (address, 2 * MIB, True))
        private = Blocks(1, MIB)
        address = ctypes.addressof(
            ctypes.c_char.from_buffer(private.source[0]))
        self.assertFalse(mapping_of(address)[2])
        self.assertEqual(mapping_of(16), (0, 0, False))


class Pins(Doors):
    settings = {"node.lanes": "1", "dram.capacity": "64MiB"}

    def press(self, door):
        """More than the memory holds, of keys that nobody else has."""
        b = Blocks(32, 256 * KIB)
        for i in range(20):
            self.assertTrue(door.store(
                range(1000 + 32 * i, 1032 + 32 * i), b.source))

    def left_after_pressure(self, **params):
        door, b, keys = self.door(**params), Blocks(32, 256 * KIB), range(32)
        self.assertTrue(door.store(keys, b.source))
        self.assertEqual(door.lookup(keys), [True] * 32)
        held = door.client.stats()["pins"]
        self.press(door)
        got = door.load(keys, b.target)
        return held, got, lambda: door.client.stats()["pins"]

    def test_pressure_does_not_evict_what_was_looked_up(self):
        held, got, pins = self.left_after_pressure(pin_ttl_ms=60000)
        self.assertEqual(held, 32)
        self.assertEqual(got, [True] * 32)
        self.assertEqual(pins(), 0)

    def test_without_pins_it_does(self):
        held, got, _ = self.left_after_pressure(pin_ttl_ms=0)
        self.assertEqual(held, 0)
        self.assertIn(False, got)

    def test_what_was_loaded_is_not_held_any_longer(self):
        door, b, keys = self.door(pin_ttl_ms=60000), Blocks(
            32, 256 * KIB), range(32)
        door.store(keys, b.source)
        door.lookup(keys)
        self.assertEqual(door.load(keys, b.target), [True] * 32)
        self.press(door)
        self.assertIn(False, door.load(keys, b.target))

    def test_two_lookups_of_a_key_hold_it_for_two_loads(self):
        door, b = self.door(pin_ttl_ms=60000), Blocks(1, KIB)
        door.store([1], b.source)
        door.lookup([1])
        door.lookup([1])
        door.load([1], b.target)
        self.assertEqual(door.client.stats()["pins"], 1)
        door.load([1], b.target)
        self.assertEqual(door.client.stats()["pins"], 0)

    def test_the_cap_holds_and_what_is_over_it_is_found_all_the_same(self):
        door, b, keys = self.door(pin_cap=8), Blocks(32, KIB), range(32)
        door.store(keys, b.source)
        self.assertEqual(door.lookup(keys), [True] * 32)
        self.assertEqual(door.client.stats()["pins"], 8)
        self.assertEqual(door.lookup(range(8, 16)), [True] * 8)
        self.assertEqual(door.client.stats()["pins"], 8)
        self.assertEqual(door.load(keys, b.target), [True] * 32)
        self.assertEqual(door.client.stats()["pins"], 0)

    def test_a_delete_ends_the_pin(self):
        door, b = self.door(pin_ttl_ms=60000), Blocks(1, KIB)
        door.store([1], b.source)
        door.lookup([1])
        door.delete([1])
        self.assertEqual(door.client.stats()["pins"], 0)
        self.assertEqual(door.lookup([1]), [False])

    def test_the_servers_limit_is_no_error(self):
        door, b = self.door(pin_ttl_ms=60000), Blocks(48, 512 * KIB)
        self.assertTrue(door.store(range(48), b.source))
        self.assertEqual(door.lookup(range(48)), [True] * 48)
        self.assertLess(door.client.stats()["pins"], 48)


class Outage(Doors):
    def setUp(self):
        if not self.node.process:
            self.node.start()

    def misses(self, door, b):
        self.assertEqual(door.lookup([1, 2]), [False, False])
        self.assertEqual(door.load([1, 2], b.target), [False, False])
        self.assertFalse(door.store([1, 2], b.source))

    def works(self, door, b):
        return door.store([1, 2], b.source) and \
            door.load([1, 2], b.target) == [True, True]

    def test_without_a_daemon_all_misses_until_it_is_there(self):
        self.node.stop()
        door, b = self.door(connect_ms=50, retry_ms=10), Blocks(2, KIB)
        self.misses(door, b)
        self.misses(door, b)
        self.assertEqual(door.client.stats()["ready"], False)
        self.node.start()
        self.assertTrue(until(lambda: self.works(door, b)))
        self.all_equal(b, 2)

    def test_after_kill_all_misses_until_it_is_back(self):
        door, b = self.door(retry_ms=10), Blocks(2, MIB)
        self.assertTrue(self.works(door, b))
        door.lookup([1, 2])
        self.node.kill()
        self.misses(door, b)
        self.misses(door, b)
        self.node.start()
        self.assertTrue(until(lambda: self.works(door, b)))
        self.all_equal(b, 2)

    def test_a_flushed_namespace_is_used_again(self):
        door, b = self.door(retry_ms=10), Blocks(2, KIB)
        self.assertTrue(self.works(door, b))
        with pikv.Client(self.node.address) as client:
            client.open(self._testMethodName).bump()
        self.assertEqual(door.lookup([1, 2]), [False, False])
        self.assertTrue(until(lambda: self.works(door, b)))
        self.all_equal(b, 2)

    def test_killed_in_the_middle_of_a_batch_it_ends(self):
        door, n = self.door(retry_ms=10), 2000
        b = Blocks(n, 16 * KIB)
        self.assertTrue(door.store(range(100), b.source[:100]))
        for _ in range(5):
            killer = subprocess.Popen(
                [sys.executable, "-c", f"import os; os.kill("
                 f"{self.node.process.pid}, {signal.SIGKILL})"])
            door.store(range(n), b.source)
            door.load(range(n), b.target)
            killer.wait()
            self.node.kill()
            self.node.start()
            self.assertTrue(until(lambda: door.store([n], b.source[:1])))

    def test_a_stopped_daemon_costs_deadlines_not_the_engine(self):
        door = self.door(retry_ms=10, deadline_ms=50, lookup_ms=50)
        b = Blocks(2, MIB)
        self.assertTrue(until(lambda: self.works(door, b)))
        self.node.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.node.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            for _ in range(3):
                self.misses(door, b)
        finally:
            self.node.process.send_signal(signal.SIGCONT)
        self.assertTrue(until(lambda: self.works(door, b)))


@unittest.skipIf(REAL, REAL)
class Engine(Doors):
    """LMCache's own code."""

    settings = {"dram.capacity": "2GiB"}

    def self_test(self, n, size):
        params = (f'{{"address":"{self.node.address}","namespace":"st{n}",'
                  f'"deadline_ms":{LONG_MS},"lookup_ms":{LONG_MS}}}')
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "lmcache.v1.basic_check",
             "--mode", "test_l2_adapter", "--num-keys", str(n),
             "--obj-size", str(size // 4), "--kv-dtype", "float32",
             "--l2-adapter",
             '{"type":"native_plugin","module_path":"pikv.lmcache",'
             f'"class_name":"Client","adapter_params":{params}}}'],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=clean_env(), check=True).stdout
        rows = re.findall(rf"^\| (\w[\w ()]*?) +\|.*\| +{n}/{n} \| +100.0% \|",
                          out, re.M)
        self.assertEqual(rows, ["LOOKUP (absent)", "STORE", "LOOKUP (exist)",
                                "LOAD"], out)

    def test_self_test_16_mib_x_80(self):
        self.self_test(80, 16 * MIB)

    def test_self_test_256_kib_x_2000(self):
        self.self_test(2000, 256 * KIB)

    def test_inside_lmcaches_fault_injection_the_other_half_is_right(self):
        door = self.door(Real, {"type": "fault_inject", "rate": 0.5,
                                "seed": 3})
        b, keys = Blocks(64, KIB), range(64)
        self.assertTrue(door.store(keys, b.source))
        self.assertEqual(door.lookup(keys), [True] * 64)
        got = door.load(keys, b.target)
        self.assertIn(True, got)
        self.assertIn(False, got)
        for i in keys:
            if got[i]:
                self.assertTrue(b.equal(i))

    def test_usage_follows_stores_and_deletes(self):
        door, b = self.door(Real), Blocks(8, KIB)
        door.store(range(8), b.source)
        self.assertEqual(door.adapter.get_usage().total_bytes_used, 8 * KIB)
        door.delete(range(6))
        self.assertEqual(door.adapter.get_usage().total_bytes_used, 2 * KIB)
        self.assertTrue(door.adapter.report_status()["is_healthy"])

    @contextlib.contextmanager
    def server(self, *flags):
        out = Server({"address": self.node.address, "deadline_ms": LONG_MS,
                      "namespace": self._testMethodName,
                      "lookup_ms": LONG_MS}, *flags)
        try:
            yield out
        finally:
            out.manager.close()

    def next_life(self, *flags):
        """What one LMCache wrote, the next one reads. What it registered."""
        n, size = 24, MIB
        blocks = [payload(size, i) for i in range(n)]
        with self.server(*flags) as first:
            first.write(range(n), blocks)
            self.assertTrue(until(lambda: first.stored_bytes() == n * size))
        with self.server(*flags) as second:
            loaded, got = second.read(range(n + 8), size)
            self.assertEqual(loaded, n)
            self.assertEqual(got, blocks)
            door = second.manager.l2_adapters()[0][1]
            return door._client._store.client.stats()["registered_bytes"]

    def test_what_one_lmcache_wrote_the_next_one_reads(self):
        self.next_life("--no-l1-use-lazy", "--shm-name", "")

    def test_the_same_with_its_shared_memory_which_is_registered(self):
        name = f"pikv_test_{os.getpid()}"
        self.assertGreaterEqual(
            self.next_life("--no-l1-use-lazy", "--shm-name", name), 1 << 28)

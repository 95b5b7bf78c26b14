# SPDX-License-Identifier: Apache-2.0
"""pikv.engine.Store: what the doors hold, with and without a daemon."""

import logging
import mmap
import os
import signal
import tempfile
import unittest

import pikv
from case import LONG_MS, Case, Daemon, payload, until
from pikv.engine import Store, percentile_us

WAIT_S = LONG_MS / 1000
logging.getLogger("pikv").addHandler(logging.NullHandler())


class Stores(Case):
    def setUp(self):
        if not self.node.process:
            self.node.start()

    def store(self, **options):
        out = Store(self.node.address, self._testMethodName,
                    connect_ms=LONG_MS, retry_s=0.01, **options)
        self.addCleanup(out.close)
        return out

    def here(self, store):
        """A put and a get through it work."""
        ns = store.ns
        into = bytearray(3)
        return ns is not None and \
            ns.put([b"k"], [b"abc"], deadline_ms=LONG_MS) is not None and \
            ns.get([b"k"], [into], deadline_ms=LONG_MS).all_ok and \
            bytes(into) == b"abc"

    def test_it_opens_by_itself_and_says_so(self):
        store = self.store(engine="test", fingerprint={"dtype": "fp8"})
        self.assertTrue(store.ready(WAIT_S))
        self.assertTrue(self.here(store))
        self.assertEqual(store.error, "")
        stats = store.stats()
        self.assertEqual((stats["hits"], stats["misses"], stats["ready"]),
                         (1, 0, True))
        self.assertGreater(stats["p99_us"], 0)

    def test_unknown_names_are_refused(self):
        with self.refused(ValueError, "fingerprint", "'color'", "dtype"):
            self.store(fingerprint={"color": "red"})
        with self.refused(ValueError, "settings", "'dtype'", "policy"):
            self.store(settings={"dtype": "fp8"})

    def test_a_mismatch_is_final_and_names_the_field(self):
        self.assertTrue(self.store(fingerprint={"dtype": "fp8"}).ready(WAIT_S))
        with self.assertLogs("pikv", logging.ERROR) as logs:
            other = self.store(fingerprint={"dtype": "bf16"})
            self.assertFalse(other.first_try(WAIT_S))
        self.assertFalse(other.ready(WAIT_S))
        self.assertIsNone(other.ns)
        for word in ("dtype", "fp8", "bf16"):
            self.assertIn(word, other.error)
        self.assertEqual(len(logs.output), 1)

    def test_absent_at_first_and_there_later(self):
        self.node.stop()
        store = self.store()
        self.assertFalse(store.first_try(WAIT_S))
        self.assertIsNone(store.ns)
        self.assertIn("NO_SERVER", store.error)
        self.assertEqual(store.stats()["ready"], False)
        self.node.start()
        self.assertTrue(store.ready(WAIT_S))
        self.assertTrue(self.here(store))

    def test_the_child_of_a_fork_opens_its_own(self):
        store = self.store()
        self.assertTrue(store.ready(WAIT_S))
        parents = store.client
        child = os.fork()
        if child == 0:
            good = False
            try:
                good = store.ready(WAIT_S) and self.here(store) and \
                    store.client is not parents
            finally:
                os._exit(0 if good else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertTrue(self.here(store))

    def test_a_lost_handle_is_opened_again(self):
        store = self.store()
        self.assertTrue(store.ready(WAIT_S))
        lost = store.client
        lost.close()
        try:
            store.ns.put([b"k"], [b"v"])
        except pikv.Closed as e:
            store.note(e)
        self.assertTrue(until(lambda: store.ready() and self.here(store)))
        self.assertIsNot(store.client, lost)

    def tried(self, store):
        """A PUT whose end the store is told, as doors do it."""
        ns = store.ns
        try:
            done = store.client.wait(ns.submit_put([b"new"], [b"v"]))
        except pikv.Error as e:
            store.note(e)
            return e.code
        store.note(done.status)
        return done.status

    def test_a_flushed_namespace_is_opened_again_with_the_same_handle(self):
        store = self.store()
        self.assertTrue(store.ready(WAIT_S))
        client = store.client
        with pikv.Client(self.node.address) as other:
            other.open(self._testMethodName).bump()
        self.assertEqual(self.tried(store), pikv.StaleGeneration.code)
        self.assertTrue(store.ready(WAIT_S))
        self.assertEqual(self.tried(store), 0)
        self.assertIs(store.client, client)

    def test_another_fingerprint_after_a_restart_is_refused_and_said(self):
        store = self.store(fingerprint={"dtype": "fp8"})
        self.assertTrue(store.ready(WAIT_S))
        with Daemon() as successor, \
                pikv.Client(successor.address) as other, \
                self.assertLogs("pikv", logging.ERROR) as logs:
            other.open(self._testMethodName, dtype="bf16")
            self.node.kill()
            os.rename(successor.socket, self.node.socket)
            self.assertTrue(until(lambda: store.ns is None or
                                  self.tried(store) is None))
            self.assertTrue(until(lambda: "bf16" in store.error))
        self.assertIsNone(store.ns)
        self.assertEqual(len(logs.output), 1)

    def test_a_daemon_that_went_is_said_once_and_when_it_is_back(self):
        store = self.store()
        self.assertTrue(store.ready(WAIT_S))
        with self.assertLogs("pikv", logging.INFO) as logs:
            self.node.kill()
            self.assertTrue(until(
                lambda: self.tried(store) == pikv.NoServer.code))
            self.assertIn("NO_SERVER", store.error)
            for _ in range(10):
                self.tried(store)
            self.node.start()
            self.assertTrue(until(
                lambda: self.tried(store) == 0 and not store.error))
        self.assertEqual([r.levelname for r in logs.records],
                         ["WARNING", "INFO"])

    def test_memory_is_registered_with_every_client(self):
        store = self.store()
        fd = os.memfd_create("pool")
        os.ftruncate(fd, 1 << 20)
        pool = mmap.mmap(fd, 1 << 20)
        os.close(fd)
        store.ready(WAIT_S)
        store.register(pool)
        self.assertEqual(self.registered(store), 1 << 20)
        store.note(pikv.Closed.code)
        self.assertTrue(until(lambda: store.ready() and
                              self.registered(store) == 1 << 20))

    @staticmethod
    def registered(store):
        return store.client.stats()["registered_bytes"]

    def test_private_memory_is_no_error(self):
        store = self.store()
        store.ready(WAIT_S)
        with self.assertLogs("pikv", logging.WARNING) as logs:
            store.register(bytearray(1 << 20))
        self.assertIn("cannot be shared", logs.output[0])
        self.assertTrue(self.here(store))

    def test_a_server_that_hangs_is_left_alone_for_a_while(self):
        store = self.store()
        self.assertTrue(store.ready(WAIT_S))
        self.node.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.node.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            self.assertTrue(until(lambda: self.paused(store)))
            self.assertIn("does not answer", store.error)
        finally:
            self.node.process.send_signal(signal.SIGCONT)
        self.assertTrue(until(lambda: self.noted(store) and
                              self.here(store)))

    def noted(self, store):
        ns = store.ns
        if ns is None:
            return False
        try:
            ns.put([payload(8)], [b"v"], deadline_ms=100)
        except pikv.Error as e:
            store.note(e)
            return False
        store.note(0)
        return True

    def paused(self, store):
        self.noted(store)
        return store.ns is None

    def test_close_ends_it_for_good(self):
        store = self.store()
        store.ready(WAIT_S)
        store.close()
        store.close()
        self.assertIsNone(store.ns)
        self.assertEqual(store.error, "closed")
        self.assertFalse(store.ready(WAIT_S))


class Alone(unittest.TestCase):
    def test_percentiles_are_upper_bounds_of_buckets(self):
        self.assertEqual(percentile_us([], 50), 0)
        self.assertEqual(percentile_us([0, 0], 99), 0)
        self.assertEqual(percentile_us([99, 0, 1], 99), 1)
        self.assertEqual(percentile_us([98, 0, 2], 99), 4)

    def test_close_while_nobody_answers(self):
        with tempfile.TemporaryDirectory() as folder:
            Store(f"shm:{folder}/none.sock").close()

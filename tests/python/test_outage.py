# SPDX-License-Identifier: Apache-2.0
"""The daemon is absent, dies in the middle, and comes back."""

import os
import signal
import subprocess
import sys
import tempfile

import pikv
from case import OK, Case, payload, until

DOWN = (pikv.NoServer, pikv.Retry, pikv.Timeout, pikv.PeerGone,
        pikv.NoNamespace)


class Absent(Case):
    @classmethod
    def setUpClass(cls):
        pass

    def setUp(self):
        pass

    def test_client_without_a_daemon_says_no_server(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.refused(pikv.NoServer, "none.sock") as caught:
                pikv.Client(f"shm:{folder}/none.sock")
            self.assertEqual(caught.exception.who, "other")

    def test_import_needs_no_daemon_and_makes_no_thread(self):
        out = subprocess.run(
            [sys.executable, "-c", "import pikv, pikv.aio, threading, os;"
             "print(threading.active_count(), "
             "len(os.listdir('/proc/self/task')))"],
            stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(out.split(), ["1", "1"])


class Killed(Case):
    def back(self):
        self.node.start()
        self.assertTrue(until(self.works))

    def works(self):
        try:
            return self.ns.put([os.urandom(8)], [b"v"],
                               deadline_ms=1000).all_ok
        except DOWN:
            return False

    def test_calls_while_it_is_down_fail_and_those_after_work(self):
        self.put((b"k", b"v"))
        self.node.kill()
        self.assertTrue(until(lambda: not self.works()))
        with self.assertRaises(DOWN) as caught:
            self.ns.put([b"k"] * 3, [b"v"] * 3, deadline_ms=200)
        self.assertEqual(len(caught.exception.results), 3)
        self.assertFalse(any(caught.exception.results.ok))
        self.back()
        self.assertEqual(self.ns.exists([b"k"]), [False])
        self.assertEqual(self.client.stats()["lanes_up"], 2)

    def test_kill_with_calls_in_flight(self):
        memory = self.client.alloc(1 << 20)
        view = memoryview(memory)
        values = [payload(1 << 20, i) for i in range(4)]
        for round_ in range(3):
            sent = []
            for i in range(40):
                source = view if i % 2 else values[i % 4]
                sent.append(self.ns.submit_put([f"{round_}.{i}"], [source],
                                               deadline_ms=1000, tag=i))
                if i == 20:
                    self.node.kill()
            done = [self.client.wait(i) for i in sent]
            self.assertEqual([c.data for c in done], list(range(40)))
            self.assertTrue(any(c.status for c in done))
            for c in done:
                self.assertEqual(len(c.results), 1)
            self.assertEqual(self.client.inflight, 0)
            self.back()
        view.release()
        memory.free()

    def test_memory_is_registered_again(self):
        memory = self.client.alloc(1 << 16)
        view = memoryview(memory)
        view[:] = payload(1 << 16)
        self.node.kill()
        self.back()
        self.assertTrue(self.ns.put([b"m"], [memory]).all_ok)
        view[:] = bytes(1 << 16)
        self.assertEqual(self.ns.get([b"m"], [memory]).statuses, [OK])
        self.assertEqual(bytes(view), payload(1 << 16))

    def stopped(self):
        """All threads: a signal reaches them one after the other."""
        tasks = f"/proc/{self.node.process.pid}/task"
        states = []
        for t in os.listdir(tasks):
            with open(f"{tasks}/{t}/stat", encoding="utf-8") as f:
                states.append(f.read().rsplit(")", 1)[1].split()[0])
        return set(states) == {"T"}

    def test_stopped_daemon_is_a_timeout(self):
        self.put((b"k", b"v"))
        self.node.process.send_signal(signal.SIGSTOP)
        self.assertTrue(until(self.stopped))
        try:
            into = bytearray(1)
            with self.assertRaises(pikv.Timeout) as caught:
                self.ns.get([b"k"], [into], deadline_ms=50)
            self.assertEqual(caught.exception.results.statuses,
                             [pikv.Timeout.code])
            into.append(1)
        finally:
            self.node.process.send_signal(signal.SIGCONT)
        self.assertTrue(until(self.works))

    def test_close_while_it_is_down(self):
        value = bytearray(b"v")
        self.node.kill()
        self.ns.submit_put([b"k"], [value])
        self.client.close()
        value.append(1)
        self.node.start()

    def tearDown(self):
        if self.node.process is None:
            self.node.start()

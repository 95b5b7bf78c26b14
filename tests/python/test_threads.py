# SPDX-License-Identifier: Apache-2.0
"""One client and many threads; drains that find others' completions; close
while calls wait."""

import mmap
import subprocess
import sys
import tempfile
import threading

import pikv
from case import OK, Case, Client, payload, until

THREADS = 8


def together(n, fn):
    """fn(i) in n threads; raises what the first that failed raised."""
    failed = []

    def body(i):
        try:
            fn(i)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise failed[0]


class Threads(Case):
    def test_waiting_calls_of_all_kinds(self):
        def work(t):
            for i in range(60):
                keys = [f"{t}.{i}.{k}" for k in range(4)]
                values = [payload(3000, t + k) for k in range(4)]
                into = [bytearray(3000) for _ in keys]
                ns = self.ns
                assert ns.put(keys, values).all_ok
                assert ns.get(keys, into).all_ok
                assert [bytes(b) for b in into] == values
                assert ns.lookup(keys).prefix == 4
                assert ns.pin(keys).all_ok
                assert ns.unpin(keys).all_ok
                assert ns.evict(keys) == 4

        together(THREADS, work)
        self.assertEqual(self.client.inflight, 0)

    def test_waiting_calls_beside_a_thread_that_drains(self):
        self.put((b"k", b"v"))
        stop = threading.Event()
        found = []

        def drain():
            while not stop.is_set():
                found.extend(self.client.drain())
                found.extend(self.client.poll())

        drainer = threading.Thread(target=drain)
        drainer.start()
        try:
            together(4, lambda _: [
                self.assertEqual(self.ns.touch([b"k"]).statuses,
                                 [OK]) for _ in range(300)])
        finally:
            stop.set()
            drainer.join()
        self.assertEqual(found, [])

    def test_each_completion_is_taken_once(self):
        taken, lock = [], threading.Lock()

        def work(t):
            for i in range(100):
                if t % 2:
                    try:
                        self.ns.submit_put([f"{t}.{i}"], [b"x"], tag=(t, i))
                    except pikv.Busy:
                        pass
                done = self.client.poll() if t % 3 else self.client.drain()
                with lock:
                    taken.extend(c.data for c in done)

        together(THREADS, work)
        until(lambda: taken.extend(c.data for c in self.client.poll()) or
              not self.client.inflight)
        self.assertEqual(len(taken), len(set(taken)))
        self.assertGreater(len(taken), 100)

    def test_two_that_wait_for_one_call(self):
        for i in range(50):
            call = self.ns.submit_put([f"{i}"], [b"x"])
            got = []

            def wait(_):
                try:
                    got.append(self.client.wait(call).status)
                except pikv.BadRequest:
                    got.append("taken")

            together(2, wait)
            self.assertEqual(sorted(map(str, got)), ["0", "taken"])

    def test_large_values_from_many_threads(self):
        def work(t):
            value = payload(2 << 20, t)
            assert self.ns.put([f"{t}"], [value]).all_ok
            assert self.ns.get_bytes(f"{t}") == value

        together(THREADS, work)

    def test_close_beside_calls_ends_them_in_order(self):
        for _ in range(10):
            client = Client(self.node.address)
            ns = client.open("closing")
            begun = threading.Barrier(THREADS + 1)

            def work(t):
                begun.wait()
                for i in range(1000):
                    try:
                        ns.put([f"{t}.{i}"], [b"x"])
                        ns.submit_get([f"{t}.{i}"], [bytearray(1)])
                    except (pikv.Closed, pikv.Busy) as e:
                        if isinstance(e, pikv.Closed):
                            return

            closer = threading.Thread(
                target=lambda: (begun.wait(), client.close()))
            closer.start()
            together(THREADS, work)
            closer.join()
            self.assertTrue(client.closed)

    def test_one_buffer_registered_by_many_threads(self):
        with tempfile.TemporaryFile(dir="/dev/shm") as f:
            f.truncate(1 << 16)
            shared = mmap.mmap(f.fileno(), 1 << 16)

        def work(t):
            for _ in range(100):
                self.client.register(shared).unregister()

        together(4, work)
        self.assertEqual(self.client.stats()["registered_bytes"], 0)
        shared.close()

    def test_a_layout_is_not_ended_before_it_has_an_id(self):
        memory = self.client.alloc(4096)
        self.addCleanup(memory.free)

        def end(number):
            try:
                self.client.unlayout(number)
            except pikv.NoLayout:
                pass

        def work(t):
            for i in range(1, 200):
                if t:
                    end(i)
                    continue
                end(self.client.layout(memory, [(0, 1024, 0, 1)], blocks=1))

        together(4, work)

    def test_exit_while_a_daemon_thread_waits(self):
        """A client that is closed when nobody else runs any more."""
        code = ("import builtins, pikv, sys, threading\n"
                "client = pikv.Client(sys.argv[1], connect_ms=20000)\n"
                "ns = client.open('exit')\n"
                "stream = ns.events()\n"
                "inside = threading.Event()\n"
                "def wait():\n"
                "    inside.set()\n"
                "    stream.next(wait_ms=3600000)\n"
                "class Last:\n"
                "    def __init__(self): self.close = client.close\n"
                "    def __del__(self): self.close()\n"
                "builtins.last = Last()\n"
                "threading.Thread(target=wait, daemon=True).start()\n"
                "inside.wait()\n")
        subprocess.run([sys.executable, "-c", code, self.node.address],
                       check=True, timeout=60)

    def test_many_clients_open_and_close(self):
        def work(t):
            for i in range(5):
                with Client(self.node.address) as client:
                    ns = client.open(f"{t}.{i}")
                    assert ns.put([b"k"], [b"v"]).all_ok

        together(4, work)

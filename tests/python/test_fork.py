# SPDX-License-Identifier: Apache-2.0
"""A child after fork: its parent's handle is of no use and of no harm."""

import gc
import os
import threading
import traceback

import pikv
from case import OK, Case, Client, payload


def in_child(fn):
    """Exit status of fn() in a forked child: 0 if it returned."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Fork(Case):
    def tearDown(self):
        # The parent goes on as if nothing had been.
        self.put((b"after", b"v"))
        self.assertEqual(self.ns.get_bytes(b"after"), b"v")

    def test_calls_in_the_child_raise_forked(self):
        client, ns = self.client, self.ns
        sent = ns.submit_put([b"k"], [b"v"])

        def child():
            for call in (lambda: ns.put([b"k"], [b"v"]),
                         lambda: ns.submit_get([b"k"], [bytearray(1)]),
                         lambda: ns.lookup([b"k"]), lambda: ns.bump(),
                         lambda: ns.session(1, "idle"),
                         lambda: ns.explain(b"k"), client.drain, client.poll,
                         lambda: client.wait(sent), client.info,
                         client.fileno, client.stats,
                         lambda: client.open("x"),
                         lambda: client.alloc(4096), lambda: ns.events()):
                try:
                    call()
                except pikv.Forked:
                    continue
                raise AssertionError("not Forked")

        self.assertEqual(in_child(child), 0)
        self.assertEqual(self.client.wait(sent).status, OK)

    def test_child_opens_its_own(self):
        def child():
            with Client(self.node.address) as own:
                ns = own.open("child")
                assert ns.put([b"k"], [b"of the child"]).all_ok

        self.assertEqual(in_child(child), 0)
        self.assertEqual(self.client.open("child").get_bytes(b"k"),
                         b"of the child")

    def test_close_and_collection_in_the_child_are_safe(self):
        held = {"client": Client(self.node.address)}
        held["ns"] = held["client"].open("held")
        held["memory"] = held["client"].alloc(1 << 20)
        held["registration"] = self.client.register(held["memory"])
        held["events"] = held["ns"].events()
        held["results"] = held["ns"].put([b"k"], [b"v"])
        value = bytearray(payload(1000))
        held["ns"].submit_put([b"k2"], [value], tag=value)

        def child():
            self.client.close()
            assert self.client.closed
            held.clear()
            gc.collect()
            value.append(1)

        self.assertEqual(in_child(child), 0)
        held["ns"].put([b"k3"], [held["memory"]])
        held["events"].close()
        held["client"].close()

    def test_fork_while_another_thread_waits(self):
        stop = threading.Event()

        def work():
            while not stop.is_set():
                self.ns.put([b"k"], [b"v"])
                self.ns.evict([b"k"])

        def child():
            self.client.close()
            with Client(self.node.address) as own:
                own.open("child").put([b"k"], [b"v"])

        t = threading.Thread(target=work)
        t.start()
        try:
            self.assertEqual([in_child(child) for _ in range(10)], [0] * 10)
        finally:
            stop.set()
            t.join()

    def test_memory_is_shared_with_the_child(self):
        memory = self.client.alloc(4096)

        def child():
            memoryview(memory)[:5] = b"child"

        self.assertEqual(in_child(child), 0)
        self.assertEqual(bytes(memoryview(memory)[:5]), b"child")

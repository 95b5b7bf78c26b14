# SPDX-License-Identifier: Apache-2.0
"""Events of a real daemon as `pikvctl events` and libpikv hear them: while it
runs, over a stop, over kill -9, over a ring that is too small, over an SSD."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ctl_case import Case, MISS, Run, USAGE, WithDaemon  # noqa: E402
from daemon import Daemon, clean_env, program  # noqa: E402

LIMIT_S = 30


class Follower:
    """One `pikvctl -o json events`, its lines as they come."""

    def __init__(self, daemon, *args):
        self.process = subprocess.Popen(
            [program("pikvctl"), "--address", daemon.address, "-o", "json",
             "events", *map(str, args)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=clean_env())
        self.lines = queue.Queue()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def next(self):
        return self.lines.get(timeout=LIMIT_S)

    def until(self, wanted):
        """All events up to one for which wanted(event) is true."""
        events = [self.next()]
        while not wanted(events[-1]):
            events.append(self.next())
        return events

    def nothing(self, seconds=0.3):
        try:
            return self.lines.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(LIMIT_S)
        self.thread.join(LIMIT_S)
        self.process.stdout.close()
        self.process.stderr.close()


class EventCase(Case):
    def follow(self, daemon, *args):
        f = Follower(daemon, *args)
        self.addCleanup(f.end)
        return f

    def daemon_of(self, settings=None):
        d = Daemon(settings)
        self.addCleanup(d.remove)
        d.start()
        return d

    def put(self, d, key, *args, data=b"bytes"):
        self.expect(Run("put", key, *args, address=d.address, stdin=data), 0)

    def evict(self, d, key):
        self.expect(Run("evict", key, address=d.address), 0)


class Running(EventCase, WithDaemon):
    def test_all_that_the_ring_has_and_then_what_comes(self):
        ctl = self.ctl
        ctl("put", "a", "-N", "one", "-l", 7, "--route", "r", stdin=b"123")
        ctl("put", "b", "-N", "one", "--parent", "a", "--route", "r",
            stdin=b"1")
        f = self.follow(self.daemon, "-N", "one", "--from", 1)
        a, b = f.next(), f.next()
        self.assertEqual((a["kind"], a["key"], a["len"], a["tier"],
                          a["labels"]), ("STORED", "a", 3, "dram", ["0x7"]))
        self.assertEqual((b["kind"], b["key"], b["parent"]),
                         ("STORED", "b", "a"))
        self.assertGreater(b["seq"], a["seq"])
        self.assertLess(abs(a["when_ms"] / 1000 - time.time()), 600)
        ctl("evict", "b", "-N", "one", "--route", "r")
        ctl("namespace", "bump", "one", "--yes")
        self.assertEqual(f.next()["kind"], "REMOVED")
        cleared = [f.next(), f.next()]  # each lane says it
        self.assertEqual({e["kind"] for e in cleared}, {"CLEARED"})
        self.assertEqual({e["lane"] for e in cleared}, {0, 1})
        self.assertEqual(len({e["version"] for e in cleared}), 1)

    def test_count_ends_it_and_a_table_tells_the_same(self):
        for i in range(3):
            self.ctl("put", f"k{i}", "-N", "two", "--route", "r", stdin=b"12")
        run = self.ok("events", "-N", "two", "--from", 1, "--count", 3)
        lines = run.out.splitlines()
        self.assertEqual(len(lines), 3)
        for i, line in enumerate(lines):
            self.assertRegex(line, r"^\d\d:\d\d:\d\d\.\d{3} STORED  +[01] +\d+ "
                                   rf" dram +2  k{i}$")

    def test_other_namespaces_are_not_heard(self):
        self.ctl("put", "x", "-N", "three", stdin=b"1")
        f = self.follow(self.daemon, "-N", "three", "--from", 1)
        self.assertEqual(f.next()["key"], "x")
        self.ctl("put", "y", "-N", "four", stdin=b"1")
        self.assertIsNone(f.nothing())
        self.ctl("put", "z", "-N", "three", stdin=b"1")
        self.assertEqual(f.next()["key"], "z")

    def test_the_hash_is_that_of_keys(self):
        self.ctl("put", "h", "-N", "five", stdin=b"1")
        event = json.loads(self.ok("-o", "json", "events", "-N", "five",
                                   "--from", 1, "--count", 1).out)
        rows = self.json("keys", "-N", "five")
        self.assertEqual(rows[0]["hash"], event["hash"])

    def test_what_is_wrong_is_said(self):
        self.expect(self.ctl("events", "-N", "nowhere", "--count", 1), MISS,
                    "no such namespace")
        self.expect(self.ctl("events", "--from", "x"), USAGE, "from")

    def test_a_stop_of_a_follower_leaves_nothing_asleep(self):
        self.ctl("put", "s", "-N", "six", stdin=b"1")
        f = self.follow(self.daemon, "-N", "six", "--from", 1)
        f.next()
        end = time.monotonic() + LIMIT_S
        while self.daemon.stat("subscribers") != 2:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        f.process.kill()
        f.end()
        while self.daemon.stat("subscribers") != 0:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)


class Lives(EventCase):
    def restart(self, end):
        """A follower lives through the end of the daemon and the next run."""
        with tempfile.TemporaryDirectory() as state:
            d = self.daemon_of({"node.state_dir": state})
            self.put(d, "before")
            f = self.follow(d, "--from", 1)
            first = f.next()
            self.assertEqual(first["key"], "before")
            begun = time.monotonic()
            end(d)
            took = time.monotonic() - begun
            d.start()
            lost = [f.next(), f.next()]
            for e in lost:
                self.assertEqual((e["kind"], e["count"], e["seq"]),
                                 ("LOST", 0, 1))
                self.assertNotEqual(e["boot"], first["boot"])
            self.assertEqual({e["lane"] for e in lost}, {0, 1})
            self.put(d, "after")
            event = f.next()
            self.assertEqual((event["kind"], event["key"], event["boot"]),
                             ("STORED", "after", lost[0]["boot"]))
            self.assertLess(event["seq"], 5)
            f.end()
            return took

    def test_a_stop_does_not_wait_for_polls_and_the_next_run_is_told(self):
        self.assertLess(self.restart(Daemon.stop), 5)

    def test_after_kill_9_the_next_run_is_told(self):
        self.restart(Daemon.kill)

    def test_a_namespace_that_the_next_run_does_not_know_is_an_error(self):
        d = self.daemon_of({"namespaces.create": "true"})
        self.put(d, "a")
        f = self.follow(d, "--from", 1)
        f.next()
        d.kill()
        d.start()  # without a state_dir: it knows nothing
        self.assertEqual(f.process.wait(LIMIT_S), MISS)
        self.assertIn(b"no such namespace", f.process.stderr.read())

    def test_a_ring_that_was_overrun_says_how_many_are_lost(self):
        d = self.daemon_of({"limits.events": "64KiB", "node.lanes": "1"})
        for i in range(5):
            self.put(d, f"k{i}", data=b"x" * 100)
        # Keys of a kilobyte: sixty of them and the ring is full.
        for i in range(90):
            self.put(d, f"{i:04}" + "k" * 1000)
        events = [json.loads(line) for line in self.expect(
            Run("-o", "json", "events", "--from", 1, "--count", 20,
                address=d.address), 0).out.splitlines()]
        lost, rest = events[0], events[1:]
        self.assertEqual((lost["kind"], lost["seq"]), ("LOST", 1))
        self.assertGreater(lost["count"], 5)
        self.assertEqual([e["seq"] for e in rest],
                         list(range(1 + lost["count"],
                                    1 + lost["count"] + len(rest))))
        self.assertEqual(d.stat("events_lost"), lost["count"])

    def test_without_a_ring_it_is_said(self):
        d = self.daemon_of({"limits.events": "0"})
        self.put(d, "a")
        self.expect(Run("events", "--from", 1, address=d.address), 1,
                    "not supported")

    def test_a_follower_that_is_stopped_holds_up_nobody(self):
        d = self.daemon_of({"limits.events": "64KiB", "node.lanes": "1"})
        self.put(d, "first")
        f = self.follow(d, "--from", 1)
        f.next()
        f.process.send_signal(19)  # SIGSTOP
        begun = time.monotonic()
        for i in range(100):
            self.put(d, f"{i:04}" + "k" * 1000)
        self.assertLess(time.monotonic() - begun, LIMIT_S)
        f.process.send_signal(18)  # SIGCONT
        events = f.until(lambda e: e["key"][:4] == "0099"
                         if e["kind"] == "STORED" else False)
        lost = [e for e in events if e["kind"] == "LOST"]
        self.assertEqual(len(lost), 1)
        told = sum(e["kind"] == "STORED" for e in events)
        self.assertEqual(told + lost[0]["count"], 100)


class Ssd(EventCase):
    def test_moves_and_what_is_gone_from_the_ssd(self):
        with tempfile.TemporaryDirectory() as state:
            d = self.daemon_of({
                "node.state_dir": state, "node.lanes": "1",
                "ssd.paths": os.path.join(state, "ssd"),
                "ssd.capacity": "64MiB", "ssd.segment": "1MiB"})
            self.put(d, "cold", "--durable", data=b"c" * 9000)
            f = self.follow(d, "--from", 1)
            self.assertEqual(f.next()["kind"], "STORED")
            self.expect(Run("evict", "cold", "--demote", address=d.address), 0)
            out = f.next()
            self.assertEqual((out["kind"], out["tier"], out["key"]),
                             ("MOVED", "ssd", "cold"))
            self.expect(Run("get", "cold", os.devnull, address=d.address), 0)
            back = f.next()
            self.assertEqual((back["kind"], back["tier"], back["hash"]),
                             ("MOVED", "dram", out["hash"]))
            self.expect(Run("evict", "cold", "--demote", address=d.address), 0)
            self.assertEqual(f.next()["kind"], "MOVED")
            self.evict(d, "cold")
            gone = f.next()
            self.assertEqual((gone["kind"], gone["tier"], gone["key"],
                              gone["hash"]),
                             ("REMOVED", "ssd", None, out["hash"]))
            f.end()
            d.stop()


if __name__ == "__main__":
    unittest.main()

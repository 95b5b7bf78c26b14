# SPDX-License-Identifier: Apache-2.0
"""pikvctl and the SSD tier: the verbs that look at it, that move blocks between
memory and SSD, that explain and foretell, against a real daemon with files for
SSDs; and `size --trace`, which needs none."""

import json
import os
import re
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ctl_case import (ERROR, MISS, OK, USAGE, Case, Run,  # noqa: E402
                      WithDaemon)
from daemon import Daemon  # noqa: E402
from node import until  # noqa: E402
from ssd import MIB, SsdNode  # noqa: E402


class WithSsd(Case):
    """One daemon with n SSDs for all tests of a class."""

    n = 1
    sets = ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = SsdNode(*cls.sets, n=cls.n, lanes=2)
        cls.addClassCleanup(cls.daemon.remove)
        cls.daemon.start()

    def ctl(self, *args, **more):
        """The machine may be slow, and a flush of its disk as well."""
        return Run("--deadline", "20s", *args, address=self.daemon.address,
                   **more)

    ok = WithDaemon.ok
    json = WithDaemon.json
    put = WithDaemon.put

    def tier(self, key, *args):
        return self.json("lookup", key, *args)[0]["tier"]

    def put_cold(self, key, data=b"cold", *args):
        """A block that is on the SSD only."""
        self.put(key, data, "--durable", *args)
        where = [a for a in args if a != "-l"]
        self.json("evict", key, "--demote", *where)
        self.assertTrue(until(lambda: self.tier(key, *where) == "ssd"))


class Blocks(WithSsd):
    def test_a_durable_put_is_on_the_ssd_when_answered(self):
        done = self.put("durable", b"x" * 5000, "--durable")
        self.assertEqual(done["status"], "STORED")
        self.assertGreaterEqual(self.daemon.metrics()["ssd_flushes"], 1)

    def test_demote_and_prefetch_go_there_and_back(self):
        data = os.urandom(100000)
        self.put_cold("there", data)
        row = self.json("lookup", "there")[0]
        self.assertEqual((row["tier"], row["len"]), ("ssd", len(data)))
        self.assertGreater(row["eta_us"], 0)
        done = self.json("prefetch", "there")
        self.assertEqual(done["begun"], 1)
        self.assertEqual(done["keys"][0]["status"], "OK")
        self.assertTrue(until(lambda: self.tier("there") == "dram"))
        self.assertEqual(self.json("lookup", "there")[0]["eta_us"], 0)
        self.assertEqual(self.json("prefetch", "there")["begun"], 0)
        self.assertEqual(self.ok("get", "there", "--verify").bytes, data)

    def test_a_cold_block_is_read(self):
        data = os.urandom(300000)
        self.put_cold("cold", data)
        self.assertEqual(self.ok("get", "cold", "--verify").bytes, data)

    def test_prefetch_of_what_is_not_there_is_exit_3(self):
        self.put("half")
        run = self.ctl("prefetch", "half", "nothing")
        self.assertEqual(run.rc, MISS)
        lines = [line.split()[:2] for line in run.out.splitlines()]
        self.assertEqual(lines, [["KEY", "STATUS"], ["half", "OK"],
                                 ["nothing", "MISS"]])

    def test_a_cap_holds_prefetch_back(self):
        for i in range(3):
            self.put_cold(f"capped{i}", bytes(700 << 10), "--route", "cap")
        done = self.ctl("-o", "json", "prefetch", "capped0", "capped1",
                        "capped2", "--route", "cap", "--cap", 1)
        self.assertEqual(done.rc, MISS)
        self.assertEqual(done.json()["begun"], 1)
        self.assertEqual([k["status"] for k in done.json()["keys"]],
                         ["OK", "PARTIAL", "PARTIAL"])


class Evict(WithSsd):
    def test_by_pattern_as_foretold(self):
        for key in ("user1/a", "user1/b", "user2/a", "user12/a", "other"):
            self.put(key, b"123", "-N", "glob")
        for pattern, n in (("nothing*", 0), ("user?/b", 1), ("user?/*", 2),
                           ("*", 2)):
            dry = self.json("evict", "-N", "glob", "--pattern", pattern,
                            "--dry-run")["would"]
            self.assertEqual(dry, f"drop {n} blocks of {3 * n} bytes in "
                                  "namespace glob")
            self.assertEqual(self.json("evict", "-N", "glob", "--pattern",
                                       pattern)["dropped"], n, pattern)

    def test_by_pattern_takes_blocks_on_the_ssd_too(self):
        self.put_cold("glob-cold", b"x")
        self.assertEqual(self.json("evict", "--pattern", "glob-c*")["dropped"],
                         1)
        self.expect(self.ctl("get", "glob-cold"), MISS, "no such block")

    def test_demote_says_how_many(self):
        self.put("demoted", b"abc", "-N", "demote", "-l", 77)
        self.put("stays", b"abc", "-N", "demote")
        dry = self.json("evict", "-N", "demote", "--label", 77, "--demote",
                        "--dry-run")["would"]
        self.assertEqual(dry, "demote 1 blocks of 3 bytes in namespace demote")
        self.assertEqual(self.json("evict", "-N", "demote", "--label", 77,
                                   "--demote")["demoted"], 1)
        self.assertEqual(self.ok("get", "demoted", "-N", "demote").bytes,
                         b"abc")

    def test_a_pattern_is_one_way_to_say_what(self):
        self.expect(self.ctl("evict", "--pattern", "x", "k"), USAGE,
                    "exactly one")
        self.expect(self.ctl("evict", "--pattern", "x", "--all"), USAGE,
                    "exactly one")


class Killed(WithSsd):
    def test_a_dropped_block_stays_away_after_a_kill(self):
        self.put_cold("dropped", b"x")
        self.put_cold("kept", b"y")
        self.ok("evict", "dropped")
        self.daemon.kill()
        self.daemon.start()
        self.expect(self.ctl("get", "dropped"), MISS, "no such block")
        self.assertEqual(self.ok("get", "kept").bytes, b"y")


class Explain(WithSsd):
    def test_here_with_its_tier(self):
        self.put("e1", b"x")
        told = self.json("explain", "e1")
        self.assertEqual((told["key"], told["reason"], told["tier"],
                          told["eta_us"]), ("e1", "here", "dram", 0))
        self.put_cold("e2", b"x")
        told = self.json("explain", "e2")
        self.assertEqual((told["reason"], told["tier"]), ("here", "ssd"))
        self.assertGreater(told["eta_us"], 0)

    def test_what_became_of_it(self):
        self.put("e3", b"x")
        self.ok("evict", "e3")
        self.assertEqual(self.json("explain", "e3")["reason"], "dropped")
        self.put("e4", b"x", "--ttl", "1ms")
        self.assertTrue(until(lambda: self.ctl("get", "e4").rc == MISS))
        self.assertEqual(self.json("explain", "e4")["reason"], "expired")
        told = self.json("explain", "e5")
        self.assertEqual((told["reason"], told["tier"], told["when_ms"]),
                         ("never_seen", None, None))
        self.assertTrue(told["advice"])

    def test_scope_route_and_namespace_are_parts_of_the_key(self):
        scope = "0f" * 16
        self.put("e6", b"x", "--scope", scope, "--route", "r")
        self.assertEqual(self.json("explain", "e6", "--scope", scope,
                                   "--route", "r")["reason"], "here")
        self.assertEqual(self.json("explain", "e6")["reason"], "never_seen")
        self.expect(self.ctl("explain", "e6", "-N", "nowhere"), MISS,
                    "no such namespace")

    def test_session_is_taken_and_checked(self):
        self.put("s", b"x", "-l", 5)
        for state in ("open", "idle", "closed"):
            self.ok("session", "5", state)
        self.expect(self.ctl("session", "5", "over"), USAGE, "open, idle")
        self.expect(self.ctl("session", "0", "open"), USAGE, "no label")
        self.expect(self.ctl("session", "x", "open"), USAGE, "not a number")


class Size(WithSsd):
    def sizes(self, told):
        self.assertEqual([(r["tiers"], r["size"]) for r in told["sizes"]],
                         [(t, s) for t in ("dram", "dram+ssd")
                          for s in ("x1/2", "now", "x2", "x4")])
        ratios = [r["hit_ratio"] for r in told["sizes"]]
        self.assertEqual(ratios[:4], sorted(ratios[:4]))
        self.assertEqual(ratios[4:], sorted(ratios[4:]))
        self.assertGreaterEqual(ratios[5], ratios[1])
        return ratios

    def test_the_running_daemon_knows_what_more_would_bring(self):
        for i in range(20):
            self.put(f"size{i}", bytes(50000))
        for _ in range(3):
            for i in range(20):
                self.ok("get", f"size{i}")
        told = self.json("size")
        self.assertGreaterEqual(told["accesses"], 60)
        rows = told["sizes"]
        self.assertEqual(rows[1]["bytes"], 32 * MIB)
        self.assertEqual(rows[5]["bytes"] - rows[1]["bytes"], 256 * MIB)
        self.assertGreater(self.sizes(told)[1], 0)
        table = self.ok("size").out
        self.assertRegex(table, r"(?m)^dram\+ssd +x2 +\d+ +0\.\d+$")
        self.assertRegex(table, r"(?m)^twice the DRAM would raise the hit "
                                r"ratio from [\d.]+% to [\d.]+%$")


class Ssds(WithSsd):
    n = 2

    def test_list_shows_each(self):
        rows = self.json("ssd", "list")
        self.assertEqual([r["path"] for r in rows], self.daemon.images)
        for r in rows:
            self.assertEqual((r["state"], r["why"]), ("open", ""))
            self.assertIn(r["engine"], ("uring", "sync"))
            self.assertEqual(len(r["uuid"]), 32)
            self.assertGreater(r["segments"], 0)
        table = self.ok("ssd", "list").out
        self.assertTrue(table.startswith("PATH "))
        self.assertEqual(len(table.splitlines()), 3)

    def test_top_shows_the_tiers(self):
        self.put("top", bytes(100000))
        run = self.ok("top", "-n", 1, "-b", "--interval", "50ms")
        self.assertRegex(run.out, r"(?m)^TIER +CAPACITY")
        self.assertRegex(run.out, r"(?m)^dram +32\.0MiB .* ok$")
        self.assertRegex(run.out, r"(?m)^ssd +\d+\.\dMiB ")
        run = self.ok("top", "-n", 1, "-o", "json", "--interval", "50ms")
        dram, ssd = json.loads(run.out)["tiers"]
        self.assertEqual((dram["tier"], ssd["tier"]), ("dram", "ssd"))
        self.assertEqual(dram["capacity_bytes"], 32 * MIB)
        self.assertGreater(ssd["capacity_bytes"], 400 * MIB)
        for row in (dram, ssd):
            for name in ("used_bytes", "blocks", "read_mb_s", "write_mb_s",
                         "hits_s", "state"):
                self.assertIn(name, row)

    def test_a_path_that_is_none_is_named(self):
        for args in (("retire", "/no/such", "--dry-run"),
                     ("replace", "/no/such", "--dry-run")):
            self.expect(self.ctl("ssd", *args), MISS, "/no/such: no such SSD")
        self.expect(self.ctl("ssd", "retire", "/no/such"), ERROR,
                    "not one of ssd.paths")

    def test_replace_wants_to_be_sure_and_an_ssd_that_is_out_of_use(self):
        path = self.daemon.images[0]
        self.expect(self.ctl("ssd", "replace", path), USAGE, "say --yes")
        self.expect(self.ctl("ssd", "replace", path, "--yes"), ERROR,
                    "not in this state")
        self.assertRegex(self.ok("ssd", "replace", path, "--dry-run").out,
                         r"^would replace .* which is open and has \d+ of")

    def test_doctor_looks_at_paths_and_state(self):
        path = os.path.join(self.daemon.dir, "doctor.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"node": {"state_dir": self.daemon.dir},
                       "ssd": {"paths": ",".join(self.daemon.images),
                               "capacity": "256MiB", "segment": "4MiB"}}, f)
        rows = self.ctl("-o", "json", "doctor", "--config", path).json()
        for check in ("ssd paths", "ssd state"):
            found = [r for r in rows if r["check"] == check]
            self.assertEqual(len(found), 2, found)
            for r, image in zip(found, self.daemon.images):
                self.assertIn(image, r["found"])
                self.assertNotEqual(r["state"], "FAIL", r)


class Retire(WithSsd):
    n = 2

    def state(self, i):
        return self.json("ssd", "list")[i]["state"]

    def test_an_emptied_ssd_is_replaced(self):
        path = self.daemon.images[1]
        for i in range(8):
            self.put(f"r{i}", bytes(100000), "--durable")
        self.assertRegex(self.ok("ssd", "retire", path, "--dry-run").out,
                         "^would retire ")
        self.assertEqual(self.state(1), "open")
        rows = self.json("ssd", "retire", path)
        self.assertIn(rows[1]["state"], ("retiring", "retired"))
        self.assertTrue(until(lambda: self.state(1) == "retired"))
        self.assertEqual(self.state(0), "open")
        for i in range(8):
            self.assertIn(self.ctl("get", f"r{i}").rc, (OK, MISS))
        uuid = self.json("ssd", "list")[1]["uuid"]
        self.ok("ssd", "replace", path, "--yes")
        self.assertTrue(until(lambda: self.state(1) == "open"))
        self.assertNotEqual(self.json("ssd", "list")[1]["uuid"], uuid)
        self.put("after", b"x", "--durable")


class NoSsd(WithDaemon):
    """What a daemon with memory alone says."""

    def test_there_is_none(self):
        self.assertEqual(self.json("ssd", "list"), [])
        self.expect(self.ctl("put", "k", "--durable", stdin=b"x"), ERROR,
                    "not supported")
        self.put("k")
        self.expect(self.ctl("evict", "k", "--demote"), ERROR, "not supported")
        self.assertEqual(self.json("prefetch", "k")["begun"], 0)
        self.assertEqual(self.json("explain", "k")["tier"], "dram")

    def test_size_speaks_of_memory_alone(self):
        told = self.json("size")
        self.assertEqual({r["tiers"] for r in told["sizes"]}, {"dram"})
        self.assertEqual(told["sizes"][1]["bytes"], 64 * MIB)

    def test_top_has_one_tier(self):
        run = self.ok("top", "-n", 1, "-o", "json", "--interval", "50ms")
        self.assertEqual([t["tier"] for t in json.loads(run.out)["tiers"]],
                         ["dram"])


class WriteBuffer(WithSsd):
    def test_blocks_leave_memory_when_they_are_written(self):
        self.ok("namespace", "create", "buffer")
        now = self.json("namespace", "set", "buffer", "dram=write_buffer")
        self.assertEqual(now["dram"], "write_buffer")
        self.expect(self.ctl("namespace", "set", "buffer", "dram=attic"),
                    ERROR, "dram: attic; allowed: .*write_buffer")
        self.put("b", b"bytes", "-N", "buffer")
        self.assertTrue(until(
            lambda: self.tier("b", "-N", "buffer") == "ssd"))
        self.assertEqual(self.ok("get", "b", "-N", "buffer").bytes, b"bytes")


class Trace(Case):
    """No daemon: the curve of a trace is exact."""

    def size(self, text, *args):
        return Run("size", "--trace", "-", *args, stdin=text.encode())

    def lines(self, *requests):
        return "".join(json.dumps({"hash_ids": list(r)}) + "\n"
                       for r in requests)

    def test_the_curve_is_that_of_lru(self):
        # 1 2 3 1 2 3: each use again has two other blocks in between.
        text = self.lines((1, 2, 3), (), (1, 2, 3))
        run = self.expect(self.size(text, "--block", 100, "--dram", 200, "-o",
                                    "json"), OK)
        told = run.json()
        self.assertEqual(told["accesses"], 6)
        self.assertEqual([(r["bytes"], r["hit_ratio"])
                          for r in told["sizes"]],
                         [(100, 0), (200, 0), (400, 0.5), (800, 0.5)])
        self.assertEqual(told["advice"],
                         ["twice the DRAM would raise the hit ratio from "
                          "0.0% to 50.0%"])

    def test_the_ssd_adds_to_it(self):
        text = self.lines((1, 2, 3, 4, 1, 4))
        told = self.expect(self.size(
            text, "--block", 100, "--dram", 200, "--ssd", 200, "-o", "json"),
            OK).json()
        self.assertEqual([r["bytes"] for r in told["sizes"]],
                         [100, 200, 400, 800, 200, 400, 800, 1600])
        self.assertAlmostEqual(told["sizes"][5]["hit_ratio"], 2 / 6)
        self.assertEqual(len(told["advice"]), 2)

    def test_what_is_no_trace_is_named_by_its_line(self):
        good = self.lines((1,))
        for text, err in ((good + "nonsense\n", "-:2: not an object"),
                          (good + '{"hash_ids": ["a"]}\n', "-:2: an id"),
                          ('{"ids": [1]}\n', "-:1: not an object"),
                          ("", "no block in it"),
                          ('{"hash_ids": []}\n', "no block in it")):
            with self.subTest(text=text):
                self.expect(self.size(text, "--dram", 100), ERROR,
                            re.escape(err))
        self.expect(Run("size", "--trace", "/no/such", "--dram", 1), ERROR,
                    "/no/such: No such file")
        with tempfile.NamedTemporaryFile() as f:
            f.write(b"\x1f\x8b\x08\n")
            f.flush()
            self.expect(Run("size", "--trace", f.name, "--dram", 1), ERROR,
                        "compressed; gzip -dc")

    def test_how_much_there_is_may_come_from_the_daemon(self):
        with Daemon() as d:
            run = Run("size", "--trace", "-", "-o", "json", address=d.address,
                      stdin=self.lines((1, 1)).encode())
            self.assertEqual(self.expect(run, OK).json()["sizes"][1]["bytes"],
                             64 * MIB)

    def test_wrong_usage(self):
        for args, err in ((["size", "--block", "1"], "add --trace"),
                          (["size", "--trace", "-", "-N", "x"],
                           "no namespaces"),
                          (["size", "--trace", "-", "--block", "0"],
                           "1 byte or more"),
                          (["size", "--trace", "-", "--dram", "1GB"],
                           "not a size"),
                          (["prefetch", "k", "--cap", "1MiB"],
                           "--cap 1MiB: not a number"),
                          (["prefetch"], "0 arguments"),
                          (["explain", "a", "b"], "2 arguments"),
                          (["ssd"], "no such verb"),
                          (["ssd", "format", "/x"], "no such verb"),
                          (["ssd", "retire"], "0 arguments")):
            with self.subTest(args=args):
                run = Run(*args, stdin=b'{"hash_ids": [1]}\n')
                self.expect(run, USAGE, re.escape(err))


if __name__ == "__main__":
    unittest.main()

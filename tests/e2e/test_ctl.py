# SPDX-License-Identifier: Apache-2.0
"""Every verb of pikvctl that asks a daemon, against a real one: what it prints
in both forms, its exit status, and how it says what is wrong."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ctl_case import (ERROR, MISS, OK, TIMEOUT_S, USAGE, Run,  # noqa: E402
                      WithDaemon)
from daemon import Daemon, clean_env, program  # noqa: E402

SCOPE = "000102030405060708090a0b0c0d0e0f"


class Data(WithDaemon):
    def test_get_answers_what_was_put(self):
        data = os.urandom(300000)
        self.assertEqual(self.put("round", data)["status"], "STORED")
        self.assertEqual(self.ok("get", "round", "--verify").bytes, data)

    def test_put_and_get_take_files(self):
        with tempfile.TemporaryDirectory() as d:
            a, b = os.path.join(d, "a"), os.path.join(d, "b")
            with open(a, "wb") as f:
                f.write(b"in a file")
            self.ok("put", "file", a)
            self.ok("get", "file", b)
            with open(b, "rb") as f:
                self.assertEqual(f.read(), b"in a file")
            self.expect(self.ctl("put", "nofile", os.path.join(d, "none")),
                        ERROR, "No such file")
            self.expect(self.ctl("get", "file", os.path.join(d, "x", "y")),
                        ERROR, "No such file")

    def test_put_of_a_stored_block_says_exists(self):
        self.put("twice")
        self.assertEqual(self.put("twice")["status"], "EXISTS")

    def test_get_of_a_range(self):
        self.put("range", b"0123456789")
        self.assertEqual(self.ok("get", "range", "--offset", 3, "--length",
                                 4).bytes, b"3456")
        self.assertEqual(self.ok("get", "range", "--offset", 8).bytes, b"89")
        self.assertEqual(self.ok("get", "range", "--offset", 10).bytes, b"")
        self.expect(self.ctl("get", "range", "--offset", 8, "--length", 3),
                    USAGE, "beyond the block's 10 bytes")
        self.expect(self.ctl("get", "range", "--offset", 3, "--verify"), USAGE,
                    "whole blocks")

    def test_a_missing_block_is_exit_3(self):
        self.put("other", b"makes the namespace")
        self.expect(self.ctl("get", "never"), MISS, "no such block")
        self.expect(self.ctl("inspect", "never"), MISS, "no such block")

    def test_a_missing_namespace_is_exit_3_and_is_not_made(self):
        for verb in ("get", "lookup", "inspect"):
            self.expect(self.ctl(verb, "k", "-N", "nowhere"), MISS,
                        "no such namespace")
        self.expect(self.ctl("put", "k", "-N", "nowhere", "--no-create"), MISS,
                    "no such namespace")
        self.assertNotIn("nowhere", self.ok("namespace", "list").out)

    def test_a_key_of_any_bytes(self):
        self.put("hex:00ff20", b"binary")
        self.assertEqual(self.ok("get", "hex:00FF20").bytes, b"binary")
        self.assertEqual(self.json("inspect", "hex:00ff20")["key"],
                         "hex:00ff20")
        self.put("with space", b"s")
        self.assertEqual(self.json("inspect", "with space")["key"],
                         "hex:" + b"with space".hex())

    def test_scope_group_and_namespace_are_parts_of_the_key(self):
        self.put("same", b"plain")
        self.put("same", b"scoped", "--scope", SCOPE)
        self.put("same", b"grouped", "--group", 2)
        self.put("same", b"elsewhere", "-N", "other")
        for args, data in (([], b"plain"), (["--scope", SCOPE], b"scoped"),
                           (["--group", 2], b"grouped"),
                           (["-N", "other"], b"elsewhere")):
            self.assertEqual(self.ok("get", "same", *args).bytes, data)

    def test_a_route_leads_to_the_block(self):
        self.put("routed", b"r", "--route", "conversation 1")
        self.assertEqual(self.ok("get", "routed", "--route",
                                 "conversation 1").bytes, b"r")
        info = self.json("inspect", "routed")
        self.assertEqual(info["len"], 1)
        self.put("unrouted-0", b"r", "--route", "conversation 1")
        self.assertEqual(self.json("inspect", "unrouted-0")["slot"],
                         info["slot"])

    def test_lookup_tells_each_key(self):
        self.put("l1", b"abc")
        rows = self.json("lookup", "l1")
        self.assertEqual([(r["key"], r["state"], r["len"]) for r in rows],
                         [("l1", "HIT", 3)])
        run = self.expect(self.ctl("lookup", "l1", "l2"), MISS)
        lines = [line.split()[:2] for line in run.out.splitlines()]
        self.assertEqual(lines, [["KEY", "STATE"], ["l1", "HIT"],
                                 ["l2", "MISS"]])

    def test_put_dry_run_stores_nothing(self):
        run = self.ok("put", "dry", "-N", "drydock", "--dry-run", stdin=b"xy")
        self.assertEqual(run.out, "would create namespace drydock and store 2 "
                                  "bytes in it\n")
        self.assertNotIn("drydock", self.ok("namespace", "list").out)
        self.put("first")
        self.assertIn("store 2 bytes",
                      self.ok("put", "dry", "--dry-run", stdin=b"xy").out)
        self.assertIn("store nothing",
                      self.ok("put", "first", "--dry-run", stdin=b"xy").out)
        self.expect(self.ctl("get", "dry"), MISS, "no such block")

    def test_a_block_over_the_limit_is_refused(self):
        with Daemon({"limits.block": "64KiB"}) as d:
            self.expect(Run("put", "big", address=d.address,
                            stdin=bytes(65537)), ERROR, "more than 65536 bytes")

    def test_attributes_come_back_from_inspect(self):
        self.put("attr", b"1234", "--parent", "root", "--ttl", "100s",
                 "-l", 7, "--label", "0xffffffffffffffff")
        info = self.json("inspect", "attr")
        self.assertEqual(info["parent"], "root")
        self.assertEqual(info["labels"], ["0x7", "0xffffffffffffffff"])
        self.assertTrue(0 < info["ttl_left_ms"] <= 100000)
        self.assertEqual((info["len"], info["state"], info["tier"]),
                         (4, "LIVE", "dram"))
        table = self.ok("inspect", "attr").out
        self.assertRegex(table, r"(?m)^parent +root$")


class Evict(WithDaemon):
    def count(self, ns):
        return len(self.json("keys", "-N", ns))

    def fill(self, ns):
        """A chain a-b-c on one lane, and x aside with scope and label."""
        for key, parent in (("a", None), ("b", "a"), ("c", "b")):
            self.put(key, b"12", "-N", ns, "--route", "r",
                     *(["--parent", parent] if parent else []))
        self.put("x", b"123", "-N", ns, "--scope", SCOPE, "-l", 9)

    def both(self, ns, blocks, size, *args):
        """The dry run foretells what is done."""
        run = self.json("evict", "-N", ns, "--dry-run", *args)
        self.assertEqual(run["would"], f"drop {blocks} blocks of {size} bytes "
                                       f"in namespace {ns}")
        before = self.count(ns)
        self.assertEqual(self.json("evict", "-N", ns, *args)["dropped"],
                         blocks)
        self.assertEqual(self.count(ns), before - blocks)

    def test_by_key(self):
        self.fill("bykey")
        self.both("bykey", 2, 4, "a", "b", "--route", "r")
        run = self.ctl("evict", "a", "-N", "bykey", "--route", "r")
        self.expect(run, MISS, "evict a: no such block")

    def test_by_chain(self):
        self.fill("bychain")
        self.both("bychain", 2, 4, "--chain", "b", "--route", "r")

    def test_by_label(self):
        self.fill("bylabel")
        self.both("bylabel", 1, 3, "--label", "9")

    def test_by_scope(self):
        self.fill("byscope")
        self.both("byscope", 1, 3, "--scope", SCOPE)

    def test_all(self):
        self.fill("byall")
        self.both("byall", 4, 9, "--all")

    def test_it_must_be_said_what(self):
        for args in ((), ("--all", "k"), ("--all", "--label", "1"),
                     ("--scope", SCOPE, "--all"), ("--label", "1", "k")):
            self.expect(self.ctl("evict", *args), USAGE, "exactly one")
        self.expect(self.ctl("evict", "--chain", "--all"), USAGE, "KEY")


class Look(WithDaemon):
    def test_stat_is_all_counters_or_those_of_a_prefix(self):
        self.put("stat", b"12345")
        stat = self.json("stat")
        self.assertGreaterEqual(stat["put_stored"], 1)
        some = self.json("stat", "get_miss_")
        self.assertEqual(set(some), {n for n in stat
                                     if n.startswith("get_miss_")})
        self.assertRegex(self.ok("stat", "put_stored").out,
                         r"^put_stored +\d+\n$")
        self.assertEqual(self.ctl("stat", "nonsense").rc, MISS)
        self.assertGreaterEqual(self.daemon.stat("bytes_in"), 5)

    def test_keys_lists_blocks_of_all_lanes(self):
        for i in range(40):
            self.put(f"key{i}", b"k", "-N", "keys")
        rows = self.json("keys", "-N", "keys")
        self.assertEqual({r["key"] for r in rows},
                         {f"key{i}" for i in range(40)})
        self.assertEqual({r["lane"] for r in rows}, {0, 1})
        run = self.ctl("keys", "-N", "keys", "--limit", 5)
        self.expect(run, OK, "there are more")
        self.assertEqual(len(run.out.splitlines()), 6)
        self.assertEqual(len(self.json("keys", "-N", "keys", "--limit", 0)),
                         40)

    def test_clients_has_one_row_for_pikvctl(self):
        rows = self.json("clients")
        self.assertEqual([(r["engine"], r["transport"], r["connections"],
                           r["uid"]) for r in rows],
                         [("pikvctl", "shm", 2, os.getuid())])
        self.assertTrue(self.ok("clients").out.startswith("CLIENT "))

    def test_top_prints_a_sample(self):
        self.put("top")
        run = self.ok("top", "-n", 1, "-b", "--interval", "50ms")
        for word in ("dram ", "hits ", "GB/s ", "ops/s ", "NAMESPACE",
                     "CLIENT", "pikvctl"):
            self.assertIn(word, run.out)
        self.assertNotIn("\x1b", run.out)
        run = self.ok("top", "-n", 2, "-o", "json", "--interval", "50ms")
        samples = [json.loads(line) for line in run.out.splitlines()]
        self.assertEqual(len(samples), 2)
        self.assertGreaterEqual(samples[1]["blocks"], 1)
        self.assertGreater(samples[1]["requests_s"]["stat"], 0)
        self.assertEqual(samples[1]["clients"][0]["engine"], "pikvctl")

    def test_ping_asks_every_lane(self):
        answer = self.json("ping")
        self.assertEqual((answer["transport"], answer["lanes"]), ("shm", 2))
        self.assertTrue(answer["server"].startswith("pikvd "))

    def test_a_reader_that_leaves_is_no_error(self):
        p = subprocess.Popen(
            [program("pikvctl"), "--address", self.daemon.address, "stat"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())
        p.stdout.close()
        self.assertEqual(p.wait(TIMEOUT_S), 0)
        self.assertEqual(p.stderr.read(), b"")
        p.stderr.close()

    def test_a_full_disk_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [program("pikvctl"), "--address", self.daemon.address, "stat"],
                stdout=full, stderr=subprocess.PIPE, env=clean_env(),
                timeout=TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, ERROR)
        self.assertIn(b"No space left", done.stderr)


class LiveTop(unittest.TestCase):
    def read_until(self, fd, word):
        """What the screen got until word came."""
        seen = b""
        end = time.monotonic() + TIMEOUT_S
        while word not in seen:
            self.assertLess(time.monotonic(), end, seen)
            if select.select([fd], [], [], 0.1)[0]:
                seen += os.read(fd, 65536)
        return seen

    def test_it_survives_a_restart_and_gives_the_screen_back(self):
        screen, terminal = pty.openpty()
        with Daemon() as d:
            top = subprocess.Popen(
                [program("pikvctl"), "--address", d.address, "top",
                 "--interval", "20ms"], stdout=terminal, stderr=terminal,
                env=clean_env())
            try:
                self.assertIn(b"\x1b[?1049h", self.read_until(screen, b"GB/s"))
                d.kill()
                self.read_until(screen, b"is pikvd running")
                d.start()
                self.read_until(screen, b"GB/s")
                top.send_signal(signal.SIGINT)
                self.read_until(screen, b"\x1b[?1049l")
                self.assertEqual(top.wait(TIMEOUT_S), 0)
            finally:
                top.kill()
                top.wait()
                os.close(screen)
                os.close(terminal)


class Namespaces(WithDaemon):
    def test_create_show_and_list(self):
        made = self.json("namespace", "create", "made", "model=m", "dtype=bf16",
                         "policy=lru", "share=50", "quota=1MiB", "ttl=2s")
        self.assertEqual(made, self.json("namespace", "show", "made"))
        self.assertEqual(made["fingerprint"]["model"], "m")
        self.assertEqual(made["fingerprint"]["dtype"], "bf16")
        self.assertEqual((made["policy"], made["share"], made["quota_bytes"],
                          made["ttl_ms"]), ("lru", 50, 1 << 20, 2000))
        self.assertIn("made", [n["name"]
                               for n in self.json("namespace", "list")])
        self.assertRegex(self.ok("namespace", "list").out, r"(?m)^made ")

    def test_another_fingerprint_is_named(self):
        self.ok("namespace", "create", "print", "model=a")
        self.ok("namespace", "create", "print", "model=a")
        self.expect(self.ctl("namespace", "create", "print", "model=b"), ERROR,
                    'model is "a", not "b"')

    def test_blocks_of_a_namespace_with_a_fingerprint(self):
        self.ok("namespace", "create", "engine", "model=big")
        self.put("k", b"of an engine", "-N", "engine")
        self.assertEqual(self.ok("get", "k", "-N", "engine").bytes,
                         b"of an engine")

    def test_set_changes_live(self):
        self.ok("namespace", "create", "live", "quota=1MiB", "ttl=5s")
        dry = self.ok("namespace", "set", "live", "share=7", "--dry-run")
        self.assertEqual(dry.out, "would change namespace live: share=7\n")
        now = self.json("namespace", "set", "live", "policy=s3fifo",
                        "quota=none", "ttl=0s")
        self.assertEqual((now["policy"], now["quota_bytes"], now["ttl_ms"],
                          now["share"]), ("s3fifo", 0, 0, 100))
        self.expect(self.ctl("namespace", "set", "live", "policy=nice"), ERROR,
                    "policy: nice; allowed: .*lru")
        for bad in ("color=red", "model=x", "share", "share=0", "share=x",
                    "quota=1GB", "ttl=5", "policy="):
            self.assertEqual(self.ctl("namespace", "set", "live", bad).rc,
                             USAGE, bad)

    def test_bump_flushes_and_wants_to_be_sure(self):
        self.ok("namespace", "create", "flush")
        self.put("k", b"x", "-N", "flush")
        before = self.json("namespace", "show", "flush")["generation"]
        self.expect(self.ctl("namespace", "bump", "flush"), USAGE, "--yes")
        self.ok("namespace", "bump", "flush", "--dry-run")
        self.assertEqual(self.ok("get", "k", "-N", "flush").bytes, b"x")
        self.ok("namespace", "bump", "flush", "--yes")
        self.assertNotEqual(
            self.json("namespace", "show", "flush")["generation"], before)
        self.expect(self.ctl("get", "k", "-N", "flush"), MISS, "no such block")

    def test_one_that_is_not_there_is_exit_3(self):
        for args in (("show", "none"), ("set", "none", "share=1"),
                     ("bump", "none", "--yes"),
                     ("bump", "none", "--dry-run"),
                     ("set", "none", "share=1", "--dry-run")):
            self.expect(self.ctl("namespace", *args), MISS,
                        "none: no such namespace")


class Reload(WithDaemon):
    config = "{}"

    def setUp(self):
        self.daemon.write_config("{}")
        self.ctl("reload")

    def test_it_says_what_changed_and_what_waits(self):
        self.daemon.write_config('{"loop": {"spin": "50us"}, '
                                 '"limits": {"clients": 99}}')
        self.assertEqual(self.json("reload"), {
            "changed": ["loop.spin"], "needs_restart": ["limits.clients"]})

    def test_a_wrong_file_changes_nothing(self):
        self.daemon.write_config('{"loop": {"spin": "long"}}')
        self.expect(self.ctl("reload"), ERROR,
                    r"pikvd\.json:1:.*loop\.spin.*nothing was changed")
        self.ok("ping")


if __name__ == "__main__":
    unittest.main()

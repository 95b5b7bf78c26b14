# SPDX-License-Identifier: Apache-2.0
"""The command line of pikvctl, and the verbs that need no daemon: config,
doctor, completion."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ctl_case import (ERROR, NO_SERVER, OK, TIMEOUT_S, USAGE,  # noqa: E402
                      Case, Run)
from daemon import Daemon, ROOT, clean_env, program  # noqa: E402


class Words(Case):
    """The command line itself; no daemon."""

    def test_wrong_usage_is_exit_2_and_one_line(self):
        for args, err in (
                ([], "no verb"), (["bla"], "bla: no such verb"),
                (["namespace"], "namespace: no such verb"),
                (["namespace", "bla"], "namespace bla: no such verb"),
                (["get"], "0 arguments; usage: pikvctl get KEY"),
                (["ping", "x"], "1 arguments"),
                (["get", "k", "--frob"], "--frob: no such option"),
                (["get", "k", "-Q"], "no such option"),
                (["get", "k", "--group"], "an argument is missing"),
                (["get", "k", "--dry-run"], "does not take --dry-run"),
                (["get", "k", "--group", "16"], "--group 16: not a number"),
                (["get", "k", "--group", "-1"], "--group -1: not a number"),
                (["get", "k", "--scope", "12"], "not 32 hex digits"),
                (["get", "k", "--route", "r" * 33], "1 to 32 bytes"),
                (["get", "k", "--offset", "1KB"], "--offset 1KB: not a size"),
                (["get", ""], "1 to 1024 are possible"),
                (["get", "k" * 1025], "1 to 1024 are possible"),
                (["get", "hex:0"], "hex digits in pairs"),
                (["get", "hex:zz"], "hex digits in pairs"),
                (["put", "k", "--ttl", "5"], "--ttl 5: not a time"),
                (["put", "k", "--ttl", "1us"], "1ms to 49 days"),
                (["put", "k", "-l", "0"], "0 means no label"),
                (["put", "k"] + ["-l1"] * 5, "at most four"),
                (["put", "k", "--parent", ""], "1 to 1024"),
                (["-o", "xml", "ping"], "table or json"),
                (["--deadline", "0s", "ping"], "--deadline 0s"),
                (["--address", "tcp:x", "ping"], "want shm:PATH"),
                (["top", "-n", "0"], "a count from 1"),
                (["top", "--interval", "1us"], "an interval from 10ms"),
                (["completion", "fish"], "no such shell")):
            with self.subTest(args=args):
                self.expect(Run(*args), USAGE, re.escape(err))

    def test_no_server_is_exit_4_for_every_verb_that_asks(self):
        for args in (["put", "k"], ["get", "k"], ["lookup", "k"],
                     ["evict", "k"], ["events"], ["stat"], ["top", "-b"],
                     ["inspect", "k"], ["keys"],
                     ["clients"], ["namespace", "list"],
                     ["namespace", "show", "n"], ["namespace", "create", "n"],
                     ["namespace", "set", "n", "share=1"],
                     ["namespace", "bump", "n", "--yes"], ["reload"],
                     ["ping"], ["prefetch", "k"], ["explain", "k"],
                     ["session", "1", "idle"], ["size"], ["ssd", "list"],
                     ["ssd", "retire", "/d"],
                     ["ssd", "replace", "/d", "--yes"],
                     ["evict", "--pattern", "*"]):
            with self.subTest(args=args):
                self.expect(Run(*args, address="shm:/nowhere/pikvd.sock"),
                            NO_SERVER, "no server.*; is pikvd running")

    def test_the_address_comes_from_the_environment(self):
        self.expect(Run("ping", env={"PIKV_ADDRESS": "shm:/no/such"}),
                    NO_SERVER, "shm:/no/such")

    def test_help_is_there_for_each_verb(self):
        self.expect(Run("--version"), OK)
        out = self.expect(Run("--help"), OK).out
        verbs = re.findall(
            r"(?m)^  ((?:namespace |config |ssd |cluster |node |placement |"
            r"coord |experts )?[a-z]+) ", out)
        self.assertEqual(len(verbs), 48)
        for verb in verbs:
            text = self.expect(Run(*verb.split(), "--help"), OK).out
            self.assertTrue(text.startswith(f"usage: pikvctl {verb}"), text)

    def test_the_manual_knows_every_verb_and_option(self):
        with open(os.path.join(ROOT, "docs/man/pikvctl.1.scd"),
                  encoding="utf-8") as f:
            manual = f.read()
        script = Run("completion", "bash").out
        for verb in re.findall(r'(?m)^    "([a-z ]+)"\) word=', script):
            self.assertIn(f"*{verb}*", manual)
        for option in set(re.findall(r" (--[a-z-]+)", script)):
            if option != "--":
                self.assertIn(f"*{option}*", manual)

    def test_the_completion_is_the_one_in_the_repository(self):
        path = os.path.join(ROOT, "client/ctl/completion/pikvctl.bash")
        with open(path, encoding="utf-8") as f:
            self.assertEqual(Run("completion", "bash").out, f.read())

    def complete(self, *words):
        script = ("source <(\"$0\" completion bash); COMP_WORDS=(pikvctl "
                  "\"$@\"); COMP_CWORD=$#; _pikvctl; "
                  "echo \"${COMPREPLY[@]}\"")
        return subprocess.run(
            ["bash", "-c", script, program("pikvctl"), *words],
            stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S,
            env=clean_env(), check=True).stdout.split()

    def test_completion_offers_what_fits(self):
        self.assertEqual(self.complete("eb"), [])
        self.assertEqual(self.complete("evi"), ["evict"])
        self.assertEqual(self.complete("namespace", "s"), ["show", "set"])
        self.assertEqual(self.complete("-N", "x", "get", "k", "--ver"),
                         ["--version", "--verify"])
        self.assertEqual(self.complete("-o", ""), ["table", "json"])


class Config(Case):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def file(self, text):
        path = os.path.join(self.dir.name, "c.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_check_passes_on_what_pikvd_says(self):
        self.expect(Run("config", "check", self.file("{}")), OK)
        run = Run("config", "check", self.file('{"dramm": 1}'))
        self.assertEqual(run.rc, os.EX_CONFIG)
        self.assertRegex(run.err, r"c\.json:1:.*dramm.*dram")

    def test_dump_and_schema_are_json(self):
        path = self.file('{"dram": {"capacity": "48MiB"}}')
        dump = self.expect(Run("config", "dump", path), OK).json()
        self.assertEqual(dump["dram"]["capacity"], "48MiB")
        self.assertIn("properties",
                      self.expect(Run("config", "schema"), OK).json())

    def test_pikvd_is_found_or_asked_for(self):
        self.expect(Run("config", "schema",
                        env={"PIKVD": program("pikvd")}), OK)
        self.expect(Run("config", "schema", env={"PIKVD": "/nowhere"}), ERROR,
                    "no pikvd.*; set PIKVD")


class Doctor(Case):
    CHECKS = ["config", "daemon", "socket directory", "socket", "admin port",
              "ucx port", "memory", "cgroup", "hugepages", "thp", "/dev/shm",
              "memlock", "open files", "cpu", "clock", "io_uring",
              "ssd paths", "ssd state", "seccomp", "ucx"]

    def doctor(self, d, *args):
        run = Run("-o", "json", "doctor", *args, address=d and d.address)
        rows = {r["check"]: r for r in run.json()}
        self.assertEqual(list(rows), self.CHECKS)
        for r in rows.values():
            self.assertIn(r["state"], ("OK", "WARN", "FAIL"))
            self.assertTrue(r["found"] and r["why"], r)
        failed = any(r["state"] == "FAIL" for r in rows.values())
        self.assertEqual(run.rc, ERROR if failed else OK, run.out)
        return rows

    def config(self, d, settings):
        d.write_config(json.dumps(settings))
        return d.config_path

    def test_a_running_daemon_is_well(self):
        with Daemon() as d:
            path = self.config(d, {"listen": {"admin": {"enabled": False}}})
            rows = self.doctor(d, "--config", path)
            for check in ("config", "daemon", "socket directory", "socket",
                          "admin port", "ucx port"):
                self.assertEqual(rows[check]["state"], "OK", rows[check])
            table = Run("doctor", "--config", path, address=d.address).out
            self.assertRegex(table, r"(?m)^OK +daemon +pikvd .* answers")

    def test_a_killed_daemon_leaves_a_stale_socket(self):
        with Daemon() as d:
            d.kill()
            rows = self.doctor(d)
            self.assertEqual(rows["daemon"]["state"], "WARN")
            self.assertIn("stale", rows["socket"]["found"])
            self.assertIn("start pikvd", rows["socket"]["fix"])
            d.start()
            self.assertEqual(self.doctor(d)["socket"]["state"], "OK")

    def test_a_missing_directory(self):
        d = Daemon()
        d.address = "shm:" + os.path.join(d.dir, "none", "pikvd.sock")
        self.addCleanup(d.remove)
        rows = self.doctor(d)
        self.assertEqual(rows["socket directory"]["state"], "FAIL")
        self.assertIn("install -d", rows["socket directory"]["fix"])

    def test_a_taken_port_is_told_by_whom(self):
        d = Daemon()
        self.addCleanup(d.remove)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            rows = self.doctor(d, "--config", self.config(
                d, {"listen": {"admin": {"port": port}}}))
            self.assertEqual(rows["admin port"]["state"], "FAIL")
            self.assertIn(f"port {port} is taken by",
                          rows["admin port"]["found"])
            self.assertIn(f"pid {os.getpid()}", rows["admin port"]["found"])
        rows = self.doctor(d, "--config", d.config_path)
        self.assertEqual(rows["admin port"]["state"], "OK")

    def test_a_tier_larger_than_the_memory(self):
        d = Daemon()
        self.addCleanup(d.remove)
        rows = self.doctor(d, "--config", self.config(
            d, {"dram": {"capacity": "4TiB", "hugepages": "on",
                         "lock": True}}))
        for check in ("memory", "hugepages"):
            self.assertEqual(rows[check]["state"], "FAIL", rows[check])
        self.assertRegex(rows["hugepages"]["fix"], r"vm\.nr_hugepages=\d{7}$")
        self.assertIn("capacity", rows["memory"]["fix"])
        if rows["memlock"]["found"] != "unlimited":
            self.assertEqual(rows["memlock"]["state"], "FAIL")

    def test_a_wrong_configuration(self):
        d = Daemon()
        self.addCleanup(d.remove)
        rows = self.doctor(d, "--config", self.config(d, {"dramm": 1}))
        self.assertEqual(rows["config"]["state"], "FAIL")
        self.assertIn("dramm", rows["config"]["found"])


if __name__ == "__main__":
    unittest.main()

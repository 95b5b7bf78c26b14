# SPDX-License-Identifier: Apache-2.0
"""What an operator meets: a start that fails says why and what to do, reload,
drain, service manager, admin pages, an idle daemon."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from daemon import ROOT
from kv import Client, Get, KvError, Put
from node import BUILD, LIMIT_S, Node, until
from raw import Raw, batch, key, seg

USAGE, UNAVAILABLE, OSERR, CONFIG = 64, 69, 71, 78
MIB = 1 << 20


class Starts(unittest.TestCase):
    def refused(self, d, status, *words):
        self.addCleanup(d.remove)
        got, line = d.refused()
        self.assertEqual(got, status, line)
        for w in words:
            self.assertIn(w, line)

    def test_a_socket_in_use(self):
        with Node() as d:
            self.refused(Node(f"listen.shm.path={d.socket}"), UNAVAILABLE,
                         d.socket, str(d.process.pid), "fix:")
            self.assertEqual(d.get("/livez")[0], 200)

    def test_a_stale_socket_is_replaced(self):
        with Node() as d:
            d.kill()
            self.assertTrue(os.path.exists(d.socket))
            d.start()
            with Client(d.address) as kv:
                self.assertEqual(kv.put1(kv.open("e2e"), b"k", b"v"), "OK")

    def test_what_is_no_socket_is_not_removed(self):
        d = Node()
        with open(d.socket, "w", encoding="ascii") as f:
            f.write("precious")
        self.refused(d, CONFIG, d.socket, "not a socket")
        with open(d.socket, encoding="ascii") as f:
            self.assertEqual(f.read(), "precious")

    def test_ports_in_use(self):
        with Node(ucx=True) as d:
            admin = d.settings["listen.admin.port"]
            self.refused(Node(f"listen.admin.port={admin}"), UNAVAILABLE,
                         admin, "listen.admin", "fix:")
            other = Node(ucx=True)
            port = d.settings["listen.ucx.port"]
            other.settings["listen.ucx.port"] = port
            self.refused(other, UNAVAILABLE, port, "listen.ucx.port")

    def test_directories_that_do_not_serve(self):
        d = Node()
        gone = os.path.join(d.dir, "none/s")
        self.addCleanup(d.remove)
        self.refused(Node(f"listen.shm.path={gone}"), OSERR,
                     "listen.shm.path", "none", "fix:")
        self.refused(Node("node.state_dir=/proc"), OSERR, "/proc")
        self.refused(Node(f"node.state_dir={d.dir}/none"), OSERR,
                     "node.state_dir", "fix:")
        self.refused(Node(f"dram.backing=tmpfs:{d.dir}/none"), OSERR,
                     "dram.backing", "fix:")

    def test_an_unwritable_directory(self):
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            self.skipTest("needs root and setpriv")
        d = Node(prefix=["setpriv", "--reuid=65534", "--regid=65534",
                         "--clear-groups"])
        os.chmod(os.environ.get("TMPDIR", "/tmp"), 0o755)
        os.chmod(d.dir, 0o755)
        self.refused(d, OSERR, d.dir, "Permission denied", "fix:")

    def test_low_memlock(self):
        if not shutil.which("prlimit"):
            self.skipTest("needs prlimit")
        prefix = ["prlimit", "--memlock=65536:65536"]
        if os.geteuid() == 0:
            if not shutil.which("setpriv"):
                self.skipTest("needs setpriv")
            # Without the capability that lifts the limit.
            prefix += ["setpriv", "--bounding-set=-ipc_lock",
                       "--inh-caps=-ipc_lock"]
        self.refused(Node("dram.lock=true", prefix=prefix), OSERR,
                     "memlock", "fix:")

    def test_no_huge_pages(self):
        with open("/proc/meminfo", encoding="ascii") as f:
            free = int(re.search(r"HugePages_Free:\s+(\d+)", f.read())[1])
        if free:
            self.skipTest("there are huge pages")
        self.refused(Node("dram.hugepages=on"), OSERR, "hugepages", "fix:")

    def test_configuration_with_errors(self):
        cases = [
            ('{"dram": {"capacity": "64MiB",}}', ["1:"]),
            ('{\n "drum": {}}', ["2:", "drum", "dram"]),
            ('{"limits": {"deadline": "1 parsec"}}', ["limits.deadline"]),
            ('{"limits": {"batch_keys": 0}}', ["limits.batch_keys", "1"]),
            ('[]', []),
            ('', []),
        ]
        for text, words in cases:
            with self.subTest(text):
                d = Node(config=text)
                self.refused(d, CONFIG, "pikvd.json", *words)
        d = Node(config="{}")
        d.config_path = os.path.join(d.dir, "none.json")
        got, line = d.refused()
        self.assertNotEqual(got, 0)
        self.assertIn("none.json", line)
        d.remove()

    def test_settings_that_do_not_exist(self):
        self.refused(Node("dram.capacityy=1GiB"), CONFIG, "dram.capacity")
        self.refused(Node("dram.capacity=lots"), CONFIG, "dram.capacity")
        p = subprocess.run([os.path.join(BUILD, "pikvd"), "--bogus"],
                           stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(p.returncode, USAGE)
        self.assertIn("bogus", p.stderr)


class Reloads(unittest.TestCase):
    def reload(self, d, text):
        """Returns when the daemon has said what came of it."""
        def answers():
            return len(re.findall(" reload(ed|_failed) ", d.log()))

        before = answers()
        d.write_config(text)
        d.send(signal.SIGHUP)
        self.assertTrue(until(lambda: answers() > before))

    def test_live_keys_are_applied_and_others_reported(self):
        with Node(config="{}") as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            self.reload(d, '{"namespaces": {"create": false},'
                           ' "limits": {"message": "128KiB"}}')
            self.assertTrue(until(lambda: "key=limits.message" in d.log()))
            with self.assertRaises(KvError):
                kv.open("another")
            self.assertEqual(kv.put1(ns, b"k", b"v"), "OK")
            self.reload(d, '{"namespaces": {"create": true}}')
            kv.open("another")

    def test_a_bad_file_changes_nothing(self):
        with Node(config="{}") as d, Client(d.address) as kv:
            self.reload(d, '{"namespaces": {"create": false}, "nonsense": 1}')
            self.assertIn("nonsense", d.log())
            kv.open("still")
            self.assertTrue(d.alive())

    def test_a_policy_change_under_load_loses_nothing(self):
        with Node(lanes=2, dram="64MiB") as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            names = [b"k%d" % i for i in range(200)]
            kv.put(ns, [Put(n, n * 1000) for n in names])
            stop, bad = threading.Event(), []

            def load():
                with Client(d.address) as mine:
                    own = mine.open("e2e")
                    while not stop.is_set():
                        r = mine.get(own, [Get(n, 5000) for n in names])
                        bad.extend(n for n, x in zip(names, r)
                                   if x.status != "OK" or x.data != n * 1000)

            t = threading.Thread(target=load)
            t.start()
            for policy in ("lru", "s3fifo", "lhd", "arc") * 3:
                subprocess.run(
                    [os.path.join(BUILD, "pikvctl"), "--address", d.address,
                     "namespace", "set", "e2e", f"policy={policy}"],
                    check=True, stdout=subprocess.PIPE, timeout=LIMIT_S)
            stop.set()
            t.join()
            self.assertEqual(bad, [])


class Stops(unittest.TestCase):
    def test_a_stop_lets_requests_in_flight_end(self):
        with Node("loop.copy_slice=64KiB", dram="128MiB") as d:
            c = Raw(d.socket)
            c.hello()
            c.open()
            n = 32 * MIB
            fd = os.memfd_create("e2e", os.MFD_ALLOW_SEALING)
            os.truncate(fd, n)
            mem = c.register(fd, 0, n).env[1][0]
            os.close(fd)
            c.send(c.build("put", [batch(ns=1, key_n=1), key(
                key_len=1, len=n, seg_n=1)], b"k" + seg(mem=mem, len=n)))
            self.assertTrue(until(
                lambda: d.metrics()['requests{op="put"}'] == 1))
            d.send(signal.SIGTERM)
            self.assertEqual(repr(c.receive()), "OK OK")
            self.assertTrue(until(c.closed))
            c.close()
            self.assertEqual(d.process.wait(LIMIT_S), 0)
            self.assertFalse(os.path.exists(d.socket))

    def test_a_drain_has_an_end(self):
        """A request that waits for memory which never comes is cut."""
        with Node("drain.timeout=100ms", "limits.deadline=60s") as d, \
                Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put1(ns, b"k", b"v")
            d.stop()
            with self.assertRaises(KvError):
                kv.get(ns, [Get(b"k", 1)], deadline_ms=200)
                raise KvError(-29)
            self.assertFalse(os.path.exists(d.socket))

    def test_the_service_manager_is_told(self):
        path = os.path.join(tempfile.mkdtemp(), "notify")
        self.addCleanup(shutil.rmtree, os.path.dirname(path))
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(s.close)
        s.bind(path)
        s.settimeout(LIMIT_S)

        def next_of(*words):
            while True:
                text = s.recv(4096).decode()
                if text.split("=")[0] in words:
                    return text

        with Node(config="{}", env={"NOTIFY_SOCKET": path,
                                    "WATCHDOG_USEC": "4000000"}) as d:
            self.assertTrue(next_of("READY", "STOPPING", "RELOADING")
                            .startswith("READY=1"))
            self.assertEqual(next_of("WATCHDOG"), "WATCHDOG=1")
            self.assertEqual(next_of("WATCHDOG"), "WATCHDOG=1")
            d.send(signal.SIGHUP)
            text = next_of("READY", "STOPPING", "RELOADING")
            self.assertTrue(text.startswith("RELOADING=1\nMONOTONIC_USEC="))
            self.assertTrue(next_of("READY", "STOPPING", "RELOADING")
                            .startswith("READY=1"))
            d.stop()
            self.assertTrue(next_of("READY", "STOPPING", "RELOADING")
                            .startswith("STOPPING=1"))


class Admin(unittest.TestCase):
    def test_metrics_pass_promtool(self):
        if not shutil.which("promtool"):
            self.skipTest("needs promtool")
        with Node(lanes=2) as d, Client(d.address) as kv:
            ns = kv.open("e2e")
            kv.put(ns, [Put(b"k%d" % i, b"v") for i in range(10)])
            kv.get(ns, [Get(b"k%d" % i, 1) for i in range(20)])
            status, headers, text = d.get("/metrics")
            self.assertEqual(status, 200)
            self.assertIn("text/plain; version=0.0.4",
                          headers["Content-Type"])
            p = subprocess.run(["promtool", "check", "metrics"], input=text,
                               text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, check=False)
            self.assertEqual((p.returncode, p.stdout), (0, ""))
            m = d.metrics()
            self.assertEqual(m['results{code="OK"}'], 20)
            self.assertEqual(m['results{code="MISS"}'], 10)
            self.assertEqual(m["put_stored"], 10)
            _, headers, text = d.get("/metrics", {
                "Accept": "application/openmetrics-text; version=1.0.0"})
            self.assertIn("application/openmetrics-text",
                          headers["Content-Type"])
            self.assertTrue(text.endswith("# EOF\n"))

    def test_health_and_status(self):
        with Node(lanes=2) as d, Client(d.address) as kv:
            kv.open("e2e")
            self.assertEqual(d.get("/livez")[0], 200)
            status, _, text = d.get("/readyz?verbose")
            self.assertEqual(status, 200)
            self.assertIn("lane", text)
            s = d.status()
            self.assertTrue({"version", "lanes", "namespaces", "clients"}
                            <= set(s), sorted(s))
            self.assertEqual(len(s["lanes"]), 2)
            self.assertEqual(s["namespaces"][0]["name"], "e2e")
            json.dumps(s)

    def test_what_is_not_there(self):
        with Node() as d:
            self.assertEqual(d.get("/none")[0], 404)
            self.assertEqual(d.get("/metrics/../etc/passwd")[0], 404)
            for method in ("POST", "PUT", "DELETE"):
                status, headers, _ = d.get("/metrics", method=method)
                self.assertEqual(status, 405, method)
                self.assertIn("GET", headers["Allow"])

    def test_garbage(self):
        with Node() as d:
            for text in (b"\0" * 100, b"GET\r\n\r\n", os.urandom(5000),
                         b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000,
                         b"GET /" + b"a" * 100000, b"\r\n\r\n"):
                with socket.create_connection(
                        ("127.0.0.1", int(d.settings["listen.admin.port"])),
                        LIMIT_S) as s:
                    s.settimeout(0.5)
                    try:
                        s.sendall(text)
                        s.shutdown(socket.SHUT_WR)
                        while s.recv(65536):
                            pass
                    except OSError:
                        pass
            self.assertEqual(d.get("/livez")[0], 200)


class AtRest(unittest.TestCase):
    def test_an_idle_daemon_uses_no_cpu(self):
        with Node(lanes=2, ucx=True) as d, Client(d.address) as kv:
            kv.put1(kv.open("e2e"), b"k", b"v")
            self.assertIs(d.at_rest(peers=2), True)
            before, turns = d.cpu_ticks(), d.metrics()["loop_turns"]
            start = time.monotonic()
            time.sleep(3)
            s = time.monotonic() - start
            ticks = (d.cpu_ticks() - before) / os.sysconf("SC_CLK_TCK") / s
            turns = (d.metrics()["loop_turns"] - turns) / s
            self.assertLess(ticks, 0.1, "part of a core")
            self.assertLess(turns, 200, "turns a second of both lanes")

    def test_the_unit_is_sandboxed(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("needs systemd-analyze")
        p = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager",
             os.path.join(ROOT, "systemd/pikvd.service")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False)
        score = re.search(r"Overall exposure level.*?: ([\d.]+)", p.stdout)
        if not score:
            self.skipTest("systemd-analyze cannot: " + p.stdout.strip()[:200])
        self.assertLessEqual(float(score[1]), 2.0)

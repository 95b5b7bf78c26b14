# SPDX-License-Identifier: Apache-2.0
"""pikvctl export and import: the blocks of a namespace there and back, and
every way in which a file, a daemon or pikvctl itself can stop half way."""

import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ctl_case import (ERROR, MISS, NO_SERVER, OK, TIMEOUT_S,  # noqa: E402
                      USAGE, Case, Run)
from daemon import Daemon, clean_env, program  # noqa: E402
from kv import Client, Get, Key, Put, crc32c  # noqa: E402
from node import until  # noqa: E402
from ssd import IoFaults, SsdNode  # noqa: E402

HEAD, REC = 32, 104
SCOPE = bytes(range(16))
# What a daemon makes of a block, not what was put.
OWN = ("version", "hash", "hits", "age_ms", "idle_ms", "slot", "lane", "extents",
       "pins", "tier", "state", "ttl_left_ms")


def blocks():
    """Puts of every kind; the bytes by (key, group, scope)."""
    chance = random.Random(7)
    out = []
    for i in range(64):
        out.append(Put(Key(b"chain%d" % i, route=b"one route"),
                       chance.randbytes(5000 + i),
                       parent=b"chain%d" % (i - 1) if i else b"",
                       page=i, token_end=16 * (i + 1), token_n=16))
    for i in range(200):
        out.append(Put(Key(b"plain%d" % i), chance.randbytes(1 + i * 37)))
    for group in (0, 3):
        for scope in (None, SCOPE):
            out.append(Put(Key(b"same key", scope=scope, group=group, cls=1),
                           b"%d %r" % (group, scope), labels=(7, 2**63 + 1),
                           affinity=2**40 + 5, priority=200))
    out.append(Put(Key(bytes(range(256)) * 4, route=b"\xff" * 32, cls=2),
                   b"x", parent=b"p" * 1024))
    out.append(Put(Key(b"soon"), b"gone", ttl_ms=3600_000))
    out.append(Put(Key(b"large"), chance.randbytes(3 << 20)))
    return out


def fill(address, puts, name="demo", **settings):
    with Client(address) as kv:
        ns = kv.open(name, **settings)
        for at in range(0, len(puts), 100):
            for r in kv.put(ns, puts[at:at + 100]):
                assert r.status == "OK", r


class ExportCase(Case):
    """Daemons and a directory for files, gone at the end of each test."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.path = os.path.join(self.dir, "blocks.pikv")

    def daemon(self, settings=None):
        d = Daemon(settings)
        self.addCleanup(d.remove)
        d.start()
        return d

    def ctl(self, d, *args, **more):
        return Run(*args, address=d.address, **more)

    def json(self, d, *args, **more):
        return self.expect(self.ctl(d, "-o", "json", *args, **more),
                           OK).json()

    def rows(self, d, name="demo"):
        """What was put, by key, group and scope."""
        rows = {}
        for row in self.json(d, "keys", "-N", name, "--limit", 0):
            put = {k: v for k, v in row.items() if k not in OWN}
            put["has_ttl"] = row["ttl_left_ms"] > 0
            rows[row["key"], row["group"], row["scope"]] = put
        return rows

    def same_bytes(self, d, puts, name="demo"):
        with Client(d.address) as kv:
            ns = kv.open(name, create=False)
            for p in puts:
                r = kv.get(ns, [Get(p.key, len(p.data))], verify=True)[0]
                self.assertEqual((r.status, r.data), ("OK", p.data), p.key.key)

    def exported(self, puts=None, **settings):
        """A daemon with blocks, and the file of them."""
        d = self.daemon()
        puts = blocks() if puts is None else puts
        fill(d.address, puts, **settings)
        told = self.json(d, "export", self.path, "-N", "demo")
        self.assertEqual((told["blocks"], told["lost"]), (len(puts), 0))
        return d, puts

    def nothing_left(self):
        self.assertEqual(os.listdir(self.dir), [])

    def no_namespace(self, d):
        self.assertEqual(self.json(d, "namespace", "list"), [])


class RoundTrip(ExportCase):
    def test_every_block_comes_back_as_it_was(self):
        a, puts = self.exported()
        b = self.daemon({"node.lanes": "3"})
        told = self.json(b, "import", self.path)
        n, size = len(puts), sum(len(p.data) for p in puts)
        self.assertEqual((told["namespace"], told["blocks"], told["bytes"],
                          told["stored"], told["there"]),
                         ("demo", n, size, n, 0))
        rows = self.rows(a)
        self.assertEqual(len(rows), n)
        self.maxDiff = 2000
        self.assertEqual(self.rows(b), rows)
        self.same_bytes(b, puts)
        self.assertEqual(os.listdir(self.dir), ["blocks.pikv"])
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_chains_are_whole_though_children_were_first(self):
        """Put from the leaf up: the daemon that has them knows no link."""
        puts = [Put(Key(b"c%d" % i, route=b"r"), b"x", parent=b"c%d" % (i - 1))
                for i in range(300, 0, -1)]
        ring = [Put(Key(b"ring%d" % i, route=b"r"), b"x",
                    parent=b"ring%d" % ((i + 1) % 3)) for i in range(3)]
        root = Put(Key(b"c0", route=b"r"), b"x")
        self.exported(puts + ring + [root])
        b = self.daemon()
        self.expect(self.ctl(b, "import", self.path, "-q"), OK)
        dropped = self.json(b, "evict", "-N", "demo", "--chain", "c0",
                            "--route", "r")
        self.assertEqual(dropped["dropped"], 301)

    def test_imported_again_all_is_there(self):
        a, puts = self.exported()
        told = self.json(a, "import", self.path)
        self.assertEqual((told["stored"], told["there"]), (0, len(puts)))

    def test_into_another_namespace(self):
        a, puts = self.exported(model="m")
        told = self.json(a, "import", self.path, "-N", "copy")
        self.assertEqual((told["namespace"], told["stored"]),
                         ("copy", len(puts)))
        self.same_bytes_of(a, puts)

    def same_bytes_of(self, d, puts):
        run = self.ctl(d, "get", "plain9", "-N", "copy", "--verify")
        want = next(p.data for p in puts if p.key.key == b"plain9")
        self.assertEqual(run.bytes, want)

    def test_the_namespace_is_made_as_it_was(self):
        a = self.daemon()
        self.json(a, "namespace", "create", "demo", "model=m", "dtype=fp8",
                  "policy=s3fifo", "share=3", "quota=16MiB", "ttl=2h")
        self.expect(self.ctl(a, "put", "k", "-N", "demo", stdin=b"x",), OK)
        self.json(a, "export", self.path, "-N", "demo")
        b = self.daemon()
        self.json(b, "import", self.path)
        told = [self.json(d, "namespace", "show", "demo") for d in (a, b)]
        for row in told:
            for own in ("id", "generation", "share_bytes"):
                del row[own]
        self.assertEqual(told[0], told[1])
        self.assertEqual(told[1]["fingerprint"]["dtype"], "fp8")

    def test_none_at_all(self):
        a = self.daemon()
        self.json(a, "namespace", "create", "demo")
        self.assertEqual(self.json(a, "export", self.path, "-N",
                                   "demo")["blocks"], 0)
        self.assertEqual(self.json(a, "import", self.path)["blocks"], 0)

    def test_from_daemon_to_daemon_by_a_pipe(self):
        puts = blocks()
        a, b = self.daemon(), self.daemon()
        fill(a.address, puts)
        with subprocess.Popen(
                [program("pikvctl"), "--address", a.address, "export", "-",
                 "-N", "demo"], stdout=subprocess.PIPE, env=clean_env()) as p:
            run = subprocess.run(
                [program("pikvctl"), "--address", b.address, "-o", "json",
                 "import", "-"], stdin=p.stdout, stdout=subprocess.PIPE,
                env=clean_env(), timeout=TIMEOUT_S, check=True)
            p.stdout.close()
            self.assertEqual(p.wait(TIMEOUT_S), 0)
        self.assertEqual(json.loads(run.stdout)["stored"], len(puts))
        self.assertEqual(self.rows(b), self.rows(a))
        self.same_bytes(b, puts)


class Cold(ExportCase):
    def test_blocks_that_only_the_ssd_has(self):
        puts = blocks()
        a = SsdNode(lanes=2)
        self.addCleanup(a.remove)
        a.start()
        fill(a.address, puts)
        before = self.rows(a)
        a.written()
        self.json(a, "--deadline", "20s", "evict", "-N", "demo", "--all",
                  "--demote")
        tiers = {r["tier"] for r in self.json(a, "keys", "-N", "demo",
                                              "--limit", 0)}
        self.assertIn("ssd", tiers)
        told = self.json(a, "export", self.path, "-N", "demo")
        self.assertEqual((told["blocks"], told["lost"]), (len(puts), 0))
        b = self.daemon()
        self.json(b, "import", self.path)
        self.assertEqual(self.rows(b), before)
        self.same_bytes(b, puts)

    def test_import_waits_for_the_ssd_if_told(self):
        self.exported()
        b = SsdNode()
        self.addCleanup(b.remove)
        b.start()
        self.json(b, "import", self.path, "--durable")
        rows = self.rows(b)
        b.kill()
        b.start()
        self.assertEqual(self.rows(b).keys(), rows.keys())

    def test_no_ssd_to_wait_for(self):
        self.exported([Put(Key(b"k"), b"x")])
        self.expect(self.ctl(self.daemon(), "import", self.path, "--durable"),
                    ERROR, "after 0 blocks.*not supported")


class Fingerprint(ExportCase):
    def test_another_one_is_refused_by_the_name_of_the_field(self):
        self.exported(model="m", dtype="bf16")
        b = self.daemon()
        self.json(b, "namespace", "create", "demo", "model=m", "dtype=fp8")
        self.expect(self.ctl(b, "import", self.path), ERROR,
                    'dtype is "fp8" in namespace demo, "bf16" in the file; '
                    "--force")
        self.assertEqual(self.json(b, "keys", "-N", "demo"), [])
        told = self.json(b, "import", self.path, "--force")
        self.assertEqual(told["stored"], told["blocks"])

    def test_what_would_be_done(self):
        _, puts = self.exported()
        b = self.daemon()
        size = sum(len(p.data) for p in puts)
        self.assertEqual(
            self.json(b, "import", self.path, "--dry-run")["would"],
            f"store {len(puts)} blocks of {size} bytes in namespace demo")
        self.no_namespace(b)
        self.expect(self.ctl(b, "import", "-", "--dry-run"), USAGE, "twice")

    def test_no_namespace(self):
        self.exported([Put(Key(b"k"), b"x")])
        b = self.daemon()
        self.expect(self.ctl(b, "import", self.path, "--no-create"), MISS,
                    "no such namespace")
        self.expect(self.ctl(b, "export", self.path + "2", "-N", "none"), MISS,
                    "no such namespace")
        self.assertEqual(os.listdir(self.dir), ["blocks.pikv"])


class Damaged(ExportCase):
    """One small file, cut and bent everywhere."""

    def setUp(self):
        super().setUp()
        puts = [Put(Key(b"key%d" % i, route=b"rt"), b"%d" % i * 400,
                    parent=b"parent") for i in range(3)]
        puts.append(Put(Key(b"one"), b"1"))
        self.exported(puts)
        with open(self.path, "rb") as f:
            self.file = f.read()
        self.b = self.daemon()
        self.places = self.layout()

    def layout(self):
        """Name of each part -> where it begins."""
        at = HEAD + struct.unpack_from("<I", self.file, 12)[0]
        out = {"magic": 0, "version": 8, "json length": 12, "reserved": 16,
               "head crc": 28, "json": HEAD, "json's end": at - 1}
        n = 0
        while self.file[at:at + 4] == b"BLCK":
            length, = struct.unpack_from("<Q", self.file, at + 8)
            key, parent, route = struct.unpack_from("<HHB", self.file, at + 20)
            names = at + REC
            data = names + key + parent + route
            out.update({f"record {n}": at, f"crc {n}": at + 4,
                        f"length {n}": at + 8, f"high length {n}": at + 15,
                        f"bytes' crc {n}": at + 16, f"key length {n}": at + 20,
                        f"class {n}": at + 25, f"scoped {n}": at + 27,
                        f"reserved {n}": at + 30, f"scope {n}": at + 32,
                        f"label {n}": at + 100, f"key {n}": names,
                        f"parent {n}": data - 1, f"bytes {n}": data,
                        f"last byte {n}": data + length - 1})
            at, n = data + length, n + 1
        self.assertEqual(self.file[at:at + 4], b"TAIL")
        self.assertEqual((n, at + REC), (4, len(self.file)))
        out.update({"end": at, "end's crc": at + 4, "count": at + 8,
                    "count of bytes": at + 16, "lost": at + 24,
                    "all's crc": at + 32, "end's rest": at + REC - 1})
        return out

    def refused(self, data, err):
        """Nothing of a file is put that is not whole."""
        with open(self.path, "wb") as f:
            f.write(data)
        run = self.expect(self.ctl(self.b, "import", self.path), ERROR, err)
        self.no_namespace(self.b)
        return run

    def test_cut_anywhere(self):
        cuts = set(self.places.values())
        cuts |= {at + 3 for at in cuts} - set(range(len(self.file),
                                                    len(self.file) + 9))
        for at in sorted(cuts):
            with self.subTest(at=at):
                self.refused(self.file[:at], "not a file of pikvctl export"
                             if at < 8 else f"cut after {at} bytes")

    def test_a_flipped_bit_anywhere(self):
        for name, at in self.places.items():
            for bit in (0, 7):
                with self.subTest(name=name, bit=bit):
                    bent = bytearray(self.file)
                    bent[at] ^= 1 << bit
                    self.refused(bytes(bent), "damaged|not a file of|version"
                                 "|cut after|missing")

    def test_a_block_is_missing_or_doubled(self):
        first, second = self.places["record 0"], self.places["record 1"]
        end = self.places["end"]
        for data in (self.file[:first] + self.file[second:],
                     self.file[:second] + self.file[first:],
                     self.file[:first] + self.file[end:]):
            self.refused(data, "missing, doubled")
        self.refused(self.file + b"\0", "bytes after its end")
        self.refused(self.file + self.file, "bytes after its end")

    def test_what_is_no_export_at_all(self):
        self.refused(b"", "not a file of")
        self.refused(b"\x7fELF" + bytes(100000), "not a file of")
        self.expect(self.ctl(self.b, "import", "/no/such"), ERROR, "No such")
        self.expect(self.ctl(self.b, "import", self.dir), ERROR, "directory")

    def head(self, text):
        head = bytearray(struct.pack("<8sII12sI", b"PIKVBLKS", 1, len(text),
                                     b"", 0))
        struct.pack_into("<I", head, 28, crc32c(bytes(head) + text))
        return bytes(head) + text

    def test_a_head_that_lies(self):
        for text, err in ((b"", "its head"), (b"{", "its head"),
                          (b"[]", "names no namespace"),
                          (b'{"namespace":""}', "names no namespace"),
                          (b'{"namespace":"x","namespace":"y"}', "duplicate"),
                          (b'{"namespace":"x","fingerprint":{"model":1}}',
                           "fingerprint.model is not text"),
                          (b'{"namespace":"x","settings":{"share":-1}}',
                           "settings.share is not a number"),
                          (b'{"namespace":"x","settings":{"ttl_ms":4294967296'
                           b"}}", "settings.ttl_ms is not a number"),
                          (b'{"namespace":"x","groups":[' +
                           b",".join([b"{}"] * 17) + b"]}", "17 groups"),
                          (b"[" * 60000, "its head")):
            with self.subTest(text=text[:60]):
                self.refused(self.head(text), err)

    def test_a_block_longer_than_the_daemon_takes(self):
        small = self.daemon({"limits.block": "8KiB"})
        a = self.daemon()
        fill(a.address, [Put(Key(b"big"), bytes(10000))], name="large")
        self.json(a, "export", self.path, "-N", "large")
        self.expect(self.ctl(small, "import", self.path), ERROR,
                    "block 1 has 10000 bytes; the daemon's limits.block is "
                    "8192")

    def test_a_pipe_that_is_cut_leaves_whole_blocks(self):
        for at in (self.places["bytes 2"] + 5, self.places["record 2"],
                   self.places["end"], self.places["end"] + 50):
            with self.subTest(at=at):
                self.expect(self.ctl(self.b, "import", "-", "-N", f"p{at}",
                                     stdin=self.file[:at]), ERROR,
                            f"cut after {at} bytes")
                rows = self.json(self.b, "keys", "-N", f"p{at}")
                for row in rows:
                    self.assertEqual(row["crc32c"], "%08x" % crc32c(
                        self.bytes_of(row["key"])))
                self.assertEqual(len(rows),
                                 4 if at >= self.places["end"] else 2)

    def bytes_of(self, key):
        for n in range(4):
            at = self.places[f"key {n}"]
            if self.file[at:at + len(key)] == key.encode():
                return self.file[self.places[f"bytes {n}"]:
                                 self.places[f"last byte {n}"] + 1]
        return None


class HalfWay(ExportCase):
    def many(self, n=1000):
        d = self.daemon({"node.lanes": "1"})
        puts = [Put(Key(b"k%d" % i), bytes([i % 251]) * 1000)
                for i in range(n)]
        fill(d.address, puts)
        return d

    def reading(self, d):
        """An export whose reader has seen the first byte: at most a pipe of it
        is written, the first batches are read."""
        p = subprocess.Popen(
            [program("pikvctl"), "--address", d.address, "export", "-", "-N",
             "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_env())
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        # The head alone is less than 4096 bytes.
        return p, os.read(p.stdout.fileno(), 4096)

    def test_blocks_that_leave_meanwhile_are_told(self):
        d = self.many()
        p, first = self.reading(d)
        self.json(d, "evict", "-N", "demo", "--all")
        rest, err = p.communicate(timeout=TIMEOUT_S)
        self.assertEqual(p.returncode, OK, err)
        lost = int(re.fullmatch(
            rb"pikvctl: export: (\d+) blocks left the daemon before .*\n",
            err)[1])
        self.assertGreaterEqual(lost, 1000 - 3 * 256)
        run = self.ctl(self.daemon(), "-o", "json", "import", "-",
                       stdin=first + rest)
        told = self.expect(run, OK, f"{lost} blocks were lost").json()
        self.assertEqual((told["blocks"], told["lost"]), (1000 - lost, lost))

    def test_the_daemon_dies_under_an_export(self):
        d = self.many()
        p, first = self.reading(d)
        d.kill()
        rest, err = p.communicate(timeout=TIMEOUT_S)
        self.assertEqual(p.returncode, NO_SERVER, err)
        self.assertRegex(err.decode(), "^pikvctl: export: .*\n$")
        self.expect(self.ctl(self.daemon(), "import", "-",
                             stdin=first + rest), ERROR, "cut after")

    def test_a_flush_meanwhile_is_an_error(self):
        d = self.many()
        p, _ = self.reading(d)
        self.json(d, "namespace", "bump", "demo", "--yes")
        _, err = p.communicate(timeout=TIMEOUT_S)
        self.assertEqual(p.returncode, ERROR, err)

    def test_no_half_file_when_the_disk_is_full(self):
        d = self.daemon({"dram.capacity": "192MiB"})
        fill(d.address, [Put(Key(b"k%d" % i), bytes(4 << 20))
                         for i in range(35)])
        with open(self.path, "wb") as f:
            f.write(b"the file of yesterday")
        # Writing beyond 100 MiB fails (libpikv's own memory is less); Python
        # leaves SIGXFSZ ignored.
        run = subprocess.run(
            ["prlimit", f"--fsize={100 << 20}", program("pikvctl"), "--address",
             d.address, "export", self.path, "-N", "demo"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env(),
            restore_signals=False, timeout=TIMEOUT_S, check=False)
        self.assertEqual((run.returncode, run.stdout), (ERROR, b""))
        self.assertIn(b"File too large", run.stderr)
        self.assertEqual(os.listdir(self.dir), ["blocks.pikv"])
        with open(self.path, "rb") as f:
            self.assertEqual(f.read(), b"the file of yesterday")
        self.expect(self.ctl(d, "export", "/dev/full", "-N", "demo"), ERROR,
                    "/dev/full: No space")
        self.expect(self.ctl(d, "export", "/no/such/file", "-N", "demo"),
                    ERROR, "No such file")

    def hanging(self):
        """An export that waits for an SSD which does not answer."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "unused")
        faults = IoFaults(path)
        self.addCleanup(faults.close)
        d = SsdNode(engine="sync", env=faults.env())
        self.addCleanup(d.remove)
        faults.set()
        d.settings["ssd.io_timeout"] = "60s"
        d.prefix = [a.replace(path, d.images[0]) for a in d.prefix]
        d.start()
        self.addCleanup(faults.set)
        fill(d.address, [Put(Key(b"cold"), bytes(5000))])
        d.written()
        self.json(d, "--deadline", "20s", "evict", "-N", "demo", "--all",
                  "--demote")
        faults.set(read="hang")
        p = subprocess.Popen(
            [program("pikvctl"), "--address", d.address, "export", self.path,
             "-N", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_env())
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.assertTrue(until(lambda: os.listdir(self.dir)))
        return d, p

    def test_a_signal_leaves_nothing(self):
        _, p = self.hanging()
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=TIMEOUT_S)
        self.assertEqual(p.returncode, -signal.SIGTERM)
        self.nothing_left()

    def test_a_daemon_that_dies_leaves_nothing(self):
        d, p = self.hanging()
        d.kill()
        _, err = p.communicate(timeout=TIMEOUT_S)
        self.assertEqual(p.returncode, NO_SERVER, err)
        self.nothing_left()

    def half_import(self, d, file):
        """An import that has put something and waits for more to read."""
        p = subprocess.Popen(
            [program("pikvctl"), "--address", d.address, "import", "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=clean_env())
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        p.stdin.write(file[:len(file) * 2 // 3])
        p.stdin.flush()
        self.assertTrue(until(lambda: self.blocks_of(d) > 0))
        return p

    def blocks_of(self, d):
        rows = self.json(d, "namespace", "list")
        return rows[0]["blocks"] if rows else 0

    def test_an_import_cut_short_is_said_again(self):
        a = self.many()
        self.json(a, "export", self.path, "-N", "demo")
        with open(self.path, "rb") as f:
            file = f.read()
        b = self.daemon()
        p = self.half_import(b, file)
        p.kill()
        p.communicate()
        there = self.blocks_of(b)
        self.assertLess(there, 1000)
        told = self.json(b, "import", self.path)
        self.assertGreaterEqual(told["there"], there)
        self.assertEqual(told["there"] + told["stored"], 1000)
        self.assertEqual(self.rows(b), self.rows(a))

    def test_the_daemon_dies_under_an_import(self):
        self.json(self.many(), "export", self.path, "-N", "demo")
        with open(self.path, "rb") as f:
            file = f.read()
        b = self.daemon()
        p = self.half_import(b, file)
        b.kill()
        _, err = p.communicate(file[len(file) * 2 // 3:], timeout=TIMEOUT_S)
        self.assertEqual(p.returncode, NO_SERVER, err)
        self.assertRegex(err.decode(), r"import: after \d+ blocks")
        b.start()
        self.assertEqual(self.json(b, "import", self.path)["stored"], 1000)


class Terminal(ExportCase):
    def on_terminal(self, d, *args, stdout=subprocess.PIPE):
        """Exit status and what came on the terminal of standard error."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, 0x5414, struct.pack("4H", 25, 100, 0, 0))
        p = subprocess.Popen(
            [program("pikvctl"), "--address", d.address, *args],
            stdin=subprocess.DEVNULL, stderr=theirs,
            stdout=theirs if stdout is None else stdout, env=clean_env())
        os.close(theirs)
        text = b""
        while True:
            select.select([ours], [], [], TIMEOUT_S)
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        os.close(ours)
        if p.stdout:
            p.stdout.read()
            p.stdout.close()
        return p.wait(TIMEOUT_S), text.decode()

    def test_a_bar_and_nothing_of_it_left(self):
        d = self.daemon()
        fill(d.address, blocks())
        for verb in ("export", "import"):
            rc, text = self.on_terminal(d, verb, self.path, "-N", "demo")
            self.assertEqual(rc, OK)
            self.assertRegex(
                text, rf"\r{verb} \[#*-*\] +\d+% [\d.]+\w+ of [\d.]+\w+, \d+ "
                      r"blocks, [\d.]+ MB/s, \d+:\d\d left\x1b\[K")
            self.assertTrue(text.endswith("\r\x1b[K"), text)
            rc, text = self.on_terminal(d, verb, self.path, "-N", "demo", "-q")
            self.assertEqual((rc, text), (OK, ""))

    def test_no_blocks_onto_a_terminal(self):
        d = self.daemon()
        fill(d.address, [Put(Key(b"k"), b"x")])
        rc, text = self.on_terminal(d, "export", "-", "-N", "demo",
                                    stdout=None)
        self.assertEqual(rc, USAGE)
        self.assertIn("is a terminal", text)

    def test_no_server(self):
        d = self.daemon()
        d.kill()
        for verb in ("export", "import"):
            self.expect(self.ctl(d, verb, self.path), NO_SERVER, "is pikvd")


if __name__ == "__main__":
    unittest.main()

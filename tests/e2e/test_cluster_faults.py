# SPDX-License-Identifier: Apache-2.0
"""Three real daemons on three hosts of a network that breaks, with clients that
write and read all the time; and strangers at their peer ports.

    FAULT_S   seconds that a fault lasts              (6)
    RUNS      times that each fault happens           (1)
    CLIENTS   0: none, for times of the cluster alone (1)
    FAULTS_OUT  a file that gets a line of JSON for each

    RUNS=50 FAULT_S=20 python3 tests/e2e/test_cluster_faults.py Faults

is a campaign; it prints a summary at its end. Times of the cluster are those of
the field: beats every 500 ms, SUSPECT 1.5 s, DOWN 3 s, elections 1 s."""

import collections
import datetime
import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import netns  # noqa: E402
from cluster import Cluster, wait_s  # noqa: E402
from daemon import clean_env, program  # noqa: E402
from node import LIMIT_S, SANITIZED, until  # noqa: E402

FAULT_S = float(os.environ.get("FAULT_S", "6"))
RUNS = int(os.environ.get("RUNS", "1"))
OUT = os.environ.get("FAULTS_OUT")
CLIENTS = os.environ.get("CLIENTS", "1") != "0"

CALL_MS = 500  # deadline of every call of the clients
GRACE_MS = 10
HEAL_S = 10.0
# What a crowded machine adds to the times of the field, where a test fails.
SLACK_S = 10.0 if SANITIZED else 2.0
CRASH_S, SILENCE_S = 2.5, 5.0
CLIENT_HOST = 3
PEER, UCX = 7441, 7430

RESULTS = []


def psk(path, secret):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w",
              encoding="ascii") as f:
        f.write(secret + "\n")


class Hosts(Cluster):
    """A cluster whose nodes a, b, c are hosts 0, 1, 2 of a network."""

    def __init__(self, net, n=3):
        field = ["cluster.beat=500ms", "cluster.suspect=1500ms",
                 "cluster.down=3s", "cluster.election=1s",
                 "cluster.heartbeat=100ms", "cluster.security=psk",
                 "listen.ucx.enabled=true", f"listen.ucx.port={UCX}",
                 f"cluster.port={PEER}"]
        super().__init__(n, sets=field, dram="128MiB")
        self.net = net
        where = {m: net.address(i) for i, m in enumerate(self.names)}
        secret = secrets.token_hex(32)
        voters = ",".join(f"{m}={where[m]}:{PEER}" for m in self.names)
        for i, d in enumerate(self):
            d.prefix = net.prefix(i)
            d.host = i
            psk(os.path.join(d.dir, "psk"), secret)
            d.settings.update({
                "cluster.host": where[d.name], "cluster.port": str(PEER),
                "cluster.advertise.peer": f"{where[d.name]}:{PEER}",
                "cluster.voters": voters, "listen.ucx.host": where[d.name],
                "cluster.tls.psk_file": os.path.join(d.dir, "psk")})
        self.part_disks()

    def part_disks(self):
        """A host has not the files of the others: their sockets least of all,
        by which a client would reach them past the network."""
        for host in range(len(self.net.hosts)):
            for d in self:
                if d.host != host:
                    done = self.net.run(host, ["mount", "-t", "tmpfs",
                                               "none", d.dir])
                    assert done.returncode == 0

    def ucx(self):
        return ",".join(f"ucx:{self.net.address(d.host)}:{UCX}" for d in self)

    def has_all_up(self, d, epoch=0):
        """Its view is that old or newer, and in it all are up."""
        s = d.status()
        return s["phase"] == "member" and s["epoch"] >= epoch and all(
            n["state"] == "up" for n in d.nodes().values())

    def one_view(self, limit_s):
        """Waits until the leader has all up, and then until all nodes have
        that view or one after it: slots may move all the time, so that nodes
        asked one after the other hardly ever say one number. Seconds, or
        None."""
        from_s = time.monotonic()
        end_s = from_s + limit_s
        epoch = None
        while time.monotonic() < end_s:
            if epoch is None:
                d = self.leader()
                if d and self.has_all_up(d):
                    epoch = d.epoch()
            elif all(self.has_all_up(d, epoch) for d in self):
                return time.monotonic() - from_s
            wait_s(0.05)
        return None

    def accepts(self, d, deadline):
        """Does the cluster commit what it is told at d?"""
        return d.ctl("--deadline", deadline, "namespace", "bump", "probe",
                     "--yes").rc == 0


class Steady:
    """An e2e_steady process."""

    def __init__(self, net, host, address, me, everyone):
        self.address = address
        self.p = net.popen(
            host, [program("e2e_steady"), address, f"me={me}",
                   f"all={everyone}", f"ms={CALL_MS}", "size=8192",
                   "pause=8000"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=clean_env())

    def up(self):
        line = self.p.stdout.readline()
        if line != "up\n":
            raise AssertionError(f"client said {line!r}, {self.p.wait()}")

    def figures(self):
        """Since the time before."""
        self.p.stdin.write("\n")
        self.p.stdin.flush()
        return json.loads(self.p.stdout.readline())

    def kill(self):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


def add(row, key, figures):
    """What a client said now, to what it said of the same phase before."""
    old = row.setdefault(key, {"put": {}, "get": {}, "slack_us": 0})
    old["slack_us"] = max(old["slack_us"], figures["slack_us"])
    for side in ("put", "get"):
        to = old[side]
        for k, v in figures[side].items():
            if k == "errors":
                to[k] = collections.Counter(to.get(k, {})) + \
                    collections.Counter(v)
            elif k in ("longest_us", "late_us"):
                to[k] = max(to.get(k, 0), v)
            else:
                to[k] = to.get(k, 0) + v


ASK = 'until "$@" >/dev/null 2>&1; do :; done'


class Failover:
    """Asks these nodes, each again and again, for a command to be committed;
    took_s is when the first one says in its log that it was, None: not by the
    limit. The time at which pikvctl ends does not count."""

    def __init__(self, nodes, limit_s):
        self.nodes = nodes
        self.start_s = time.time()
        self.end_s = time.monotonic() + limit_s
        self.asking = [subprocess.Popen(
            ["sh", "-c", ASK, "sh", program("pikvctl"), "--address", d.address,
             "--deadline", "300ms", "namespace", "bump", "probe", "--yes"],
            process_group=0, env=clean_env()) for d in nodes]

    def taken_s(self):
        """Seconds from the start, of each that was taken."""
        at = [datetime.datetime.fromisoformat(line.split()[0]).timestamp()
              for d in self.nodes for line in d.log().splitlines()
              if "namespace_bumped name=probe" in line]
        return sorted(t - self.start_s for t in at if t > self.start_s)

    def join(self):
        """Returns when it is taken."""
        took = until(self.taken_s, self.end_s - time.monotonic())
        self.took_s = took[0] if took else None
        for p in self.asking:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


class Faults(unittest.TestCase):
    def setUp(self):
        why = netns.why_not()
        if why:
            self.skipTest(why)
        self.net = netns.Net(CLIENT_HOST + 1)
        self.addCleanup(self.net.close)
        self.c = Hosts(self.net)
        self.addCleanup(self.c.__exit__, None, None, None)
        self.c.form()
        self.clients = []
        self.addCleanup(self.end_clients)
        for d in self.c:
            run = d.ctl("namespace", "create", "probe")
            self.assertEqual(run.rc, 0, run.err)
            self.assertTrue(until(lambda d=d: self.c.accepts(d, "2s")),
                            self.c.report())

    def end_clients(self):
        for s in self.clients:
            s.kill()
        self.clients = []

    def roles(self):
        """The leader and the two others."""
        leader = self.c.until_leader()
        return [leader] + [d for d in self.c if d is not leader]

    def with_clients(self, nodes):
        """One beside each node, by shared memory, and one on a host of its
        own."""
        at = [(d.host, d.address + "," + self.c.ucx()) for d in nodes]
        at.append((CLIENT_HOST, self.c.ucx()))
        at = at if CLIENTS else []
        self.clients = [Steady(self.net, host, address, i, len(at))
                        for i, (host, address) in enumerate(at)]
        for s in self.clients:
            s.up()

    def figures(self, phase, row):
        """The clients' figures since the last time, checked."""
        for i, s in enumerate(self.clients):
            f = s.figures()
            add(row, f"{phase}{i}", f)
            slack_ms = GRACE_MS + 50 + 2 * f["slack_us"] / 1000
            for side in ("put", "get"):
                what = f"{phase}, client {i}, {side}: {f}"
                self.assertEqual(f[side]["wrong"], 0, what)
                self.assertLessEqual(f[side]["late_us"] / 1000, slack_ms, what)
                self.assertGreater(f[side]["calls"], 0, what)
        return row

    def served(self, row, phase, clients):
        for i in clients if CLIENTS else []:
            self.assertGreater(row[f"{phase}{i}"]["get"]["ok"], 0, row)
            self.assertGreater(row[f"{phase}{i}"]["put"]["ok"], 0, row)

    def heal(self, row):
        """Within HEAL_S all nodes have one view and no call fails; commands
        are taken."""
        def views():
            row["one_view_s"] = self.c.one_view(HEAL_S + SLACK_S)

        t = threading.Thread(target=views)
        t.start()
        row["no_failure_s"] = self.no_failure(row)
        t.join()
        self.assertIsNotNone(row["one_view_s"], (row, self.c.report()))
        self.assertIsNotNone(row["no_failure_s"], row)
        name = self.roles()[2].name
        for verb in ("drain", "undrain"):
            run = self.c["a"].ctl("node", verb, name)
            self.assertEqual(run.rc, 0, run.err)
        self.assertIsNotNone(self.c.one_view(HEAL_S + SLACK_S),
                             self.c.report())

    def no_failure(self, row):
        """When the last call failed, to a second; None: they still do."""
        from_s = time.monotonic()
        while time.monotonic() < from_s + HEAL_S + SLACK_S:
            now = {}
            wait_s(1)
            self.figures("", now)
            for key, f in now.items():
                add(row, "after" + key, f)
            if not any(f[side]["failed"] for f in now.values()
                       for side in ("put", "get")):
                return time.monotonic() - from_s - 1
        return None

    def lost(self, row, unreachable):
        """A thread of a client loses a deadline at most for each node that
        does not answer it any more."""
        for i in range(len(self.clients)):
            f = row[f"during{i}"]
            for side in ("put", "get"):
                most_ms = unreachable[i] * CALL_MS + 50 + \
                    2 * f["slack_us"] / 1000 + f[side]["failed"]
                self.assertLessEqual(f[side]["lost_us"] / 1000, most_ms,
                                     (i, side, row))

    def fault(self, name, do, undo, hit, lost, goal_s):
        """do and undo are given leader, other, third; hit: which of these are
        DOWN for the rest; lost: nodes that clients 0 to 3 cannot reach, beside
        these and on a host of its own; goal_s: of a command."""
        for run in range(RUNS):
            nodes = self.roles()
            row = {"fault": name, "run": run, "fault_s": FAULT_S}
            self.with_clients(nodes)
            wait_s(1)
            self.figures("before", row)
            self.served(row, "before", range(4))
            term = nodes[0].json("coord", "status")["term"]
            from_s = time.monotonic()
            do(*nodes)
            asked = [d for i, d in enumerate(nodes) if i not in hit]
            f = Failover(asked, max(FAULT_S, goal_s + SLACK_S))
            f.join()
            row["command_s"] = f.took_s
            wait_s(max(0, FAULT_S - (time.monotonic() - from_s)))
            self.felt(asked, [nodes[i] for i in hit])
            row["terms"] = asked[0].json("coord", "status")["term"] - term
            self.figures("during", row)
            undo(*nodes)
            try:
                self.heal(row)
            finally:
                self.keep(row)
            self.served(row, "during", [
                i for i in range(4) if i not in hit])
            self.lost(row, lost)
            self.assertIsNotNone(f.took_s, (row, self.c.report()))
            self.assertLessEqual(f.took_s, goal_s + SLACK_S, row)
            self.end_clients()
            if run + 1 < RUNS:
                self.assertTrue(self.c.settled(
                    *self.c.names, limit_s=LIMIT_S * 10), self.c.report())

    def felt(self, asked, hit):
        """Who is hit is DOWN for the others, of whom one leads."""
        want = {n.name: "down" if n in hit else "up" for n in self.c}

        def is_so(d):
            return d.status()["leader"] in [n.name for n in asked] and want \
                == {m: n["state"] for m, n in d.nodes().items()}

        for d in asked:
            self.assertTrue(until(lambda d=d: is_so(d)), self.c.report())

    def keep(self, row):
        RESULTS.append(row)
        if OUT:
            with open(OUT, "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")

    def test_the_leader_is_cut_off_from_the_others(self):
        self.fault("partition of the leader",
                   lambda a, b, c: self.net.partition(
                       [a.host], [b.host, c.host, CLIENT_HOST]),
                   lambda *_: self.net.heal(), hit=[0], lost=[2, 1, 1, 1],
                   goal_s=SILENCE_S)

    def test_a_follower_is_cut_off_from_the_others(self):
        self.fault("partition of a follower",
                   lambda a, b, c: self.net.partition(
                       [b.host], [a.host, c.host, CLIENT_HOST]),
                   lambda *_: self.net.heal(), hit=[1], lost=[1, 2, 1, 1],
                   goal_s=1)

    def test_what_the_leader_says_does_not_arrive_and_it_hears_all(self):
        def do(a, b, c):
            for to in (b.host, c.host):
                self.net.cut_one_way(a.host, to)

        self.fault("one-way cut", do, lambda *_: self.net.heal(), hit=[0],
                   lost=[2, 1, 1, 0], goal_s=SILENCE_S)

    def test_the_leader_is_killed_and_started_again(self):
        self.fault("kill -9 of the leader", lambda a, b, c: a.kill(),
                   lambda a, b, c: a.start(), hit=[0], lost=[1, 1, 1, 1],
                   goal_s=CRASH_S)

    def test_the_leader_is_stopped_for_a_while(self):
        self.fault("SIGSTOP of the leader",
                   lambda a, b, c: a.send(signal.SIGSTOP),
                   lambda a, b, c: a.send(signal.SIGCONT), hit=[0],
                   lost=[1, 1, 1, 1], goal_s=SILENCE_S)

    def test_a_link_is_slow(self):
        self.fault("slow link", lambda a, b, c: self.net.slow(
            a.host, b.host, delay_ms=100, rate_bytes=256 << 10),
            lambda *_: self.net.heal(), hit=[], lost=[1, 1, 0, 0],
            goal_s=SILENCE_S)


# ---- Strangers


class Strangers(unittest.TestCase):
    """Who is no member changes nothing, and the log says why."""

    def setUp(self):
        self.c = Cluster(4, sets=["cluster.security=psk"])
        self.addCleanup(self.c.__exit__, None, None, None)
        self.psk_path = os.path.join(self.c["a"].dir, "psk")
        psk(self.psk_path, secrets.token_hex(32))
        for d in self.c:
            d.settings["cluster.tls.psk_file"] = self.psk_path
        self.c.start("a", "b", "c")
        self.assertTrue(self.c.settled("a", "b", "c"), self.c.report())
        self.nodes = {m: n["slots"] for m, n in self.c["a"].nodes().items()}

    def logs(self):
        return "\n".join(self.c[m].log() for m in "abc")

    def said(self, *words):
        def there():
            return any(all(w in line for w in words)
                       for line in self.logs().splitlines())
        self.assertTrue(until(there), (words, self.c.report()))

    def unchanged(self):
        self.assertTrue(self.c.agree("abc"), self.c.report())
        self.assertEqual({m: n["slots"] for m, n in
                          self.c["a"].nodes().items()}, self.nodes)
        for m in "abc":
            self.assertTrue(self.c[m].alive())

    def refused(self, d, *words):
        """d runs, and the members say these words of it."""
        d.start()
        self.said(*words)
        self.assertNotEqual(d.status()["phase"], "member")
        d.kill()

    def test_bytes_that_are_no_hello(self):
        port = int(self.c["a"].settings["cluster.port"])
        for text in (b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 4096,
                     b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection(("127.0.0.1", port), 10) as s:
                s.sendall(text)
                s.shutdown(socket.SHUT_WR)
                s.settimeout(LIMIT_S)
                try:
                    while s.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        self.said("peer_refused", "127.0.0.1")
        self.unchanged()

    def test_another_secret(self):
        d = self.c["d"]
        d.settings["cluster.tls.psk_file"] = os.path.join(d.dir, "psk")
        psk(d.settings["cluster.tls.psk_file"], secrets.token_hex(32))
        self.refused(d, "peer_refused")
        self.unchanged()

    def test_another_clusters_id(self):
        d = self.c["d"]
        d.settings["cluster.id"] = "other"
        self.refused(d, "peer_refused", "another cluster's id")
        self.unchanged()

    def test_a_name_that_belongs_to_another_machine(self):
        self.c.start("d")
        self.assertTrue(self.c.settled("a", "b", "c", "d"), self.c.report())
        d = self.c["d"]
        d.stop()
        self.c.until_state("d", "down", "a")
        self.assertTrue(self.c.settled("a", "b", "c"), self.c.report())
        self.nodes = {m: n["slots"] for m, n in self.c["a"].nodes().items()}
        shutil.rmtree(d.settings["node.state_dir"])
        os.makedirs(d.settings["node.state_dir"])
        self.refused(d, "peer_refused", "belongs to another machine")
        self.assertEqual(self.c["a"].nodes()["d"]["state"], "down")
        self.unchanged()

    def test_a_state_dir_that_was_rolled_back(self):
        for name in ("d", "c"):  # a watcher, and a voter
            with self.subTest(name):
                self.rolled_back(self.c[name])

    def rolled_back(self, d):
        if not d.process:
            d.start()
            self.assertTrue(self.c.settled("a", "b", "c", d.name),
                            self.c.report())
        state = d.settings["node.state_dir"]
        d.stop()
        shutil.copytree(state, state + ".old")
        for _ in range(2):
            d.start()
            self.assertTrue(self.c.settled("a", "b", d.name),
                            self.c.report())
            d.stop()
        shutil.rmtree(state)
        os.rename(state + ".old", state)
        self.c.until_state(d.name, "down", "a")
        self.refused(d, "peer_refused", "rolled back")
        self.assertEqual(self.c["a"].nodes()[d.name]["state"], "down")


# ---- A campaign's summary


def spread(values):
    v = sorted(values)
    return "none" if not v else "min {:.2f}, median {:.2f}, p99 {:.2f}, " \
        "max {:.2f} (n={})".format(
            v[0], statistics.median(v), v[int(0.99 * (len(v) - 1) + 0.5)],
            v[-1], len(v))


def summary(rows):
    by = collections.defaultdict(list)
    for r in rows:
        by[r["fault"]].append(r)
    for fault, runs in by.items():
        sides = [r[p + str(i)][side] for r in runs
                 for p in ("during", "after") for i in range(4)
                 for side in ("put", "get") if p + str(i) in r]
        lost = [r["during" + str(i)][side]["lost_us"] / 1e6
                for r in runs for i in range(4) for side in ("put", "get")
                if "during" + str(i) in r]
        print(f"{fault}: {len(runs)} runs")
        print("  a command is taken after, s:", spread(
            [r["command_s"] for r in runs if r["command_s"] is not None]),
            "never:", sum(r["command_s"] is None for r in runs))
        print("  elections:                  ",
              collections.Counter(r["terms"] for r in runs))
        print("  one view after the heal, s: ", spread(
            [r["one_view_s"] for r in runs if r.get("one_view_s")]))
        print("  the last failed call, s:    ", spread(
            [r["no_failure_s"] for r in runs if r.get("no_failure_s")]))
        print("  lost by a thread, s:        ", spread(lost))
        print("  past a deadline, ms:        ", spread(
            [s["late_us"] / 1000 for s in sides]))
        print("  calls", sum(s["calls"] for s in sides), "wrong",
              sum(s["wrong"] for s in sides), "failed",
              sum(s["failed"] for s in sides))


if __name__ == "__main__":
    try:
        unittest.main()
    finally:
        summary(RESULTS)

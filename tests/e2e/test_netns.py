# SPDX-License-Identifier: Apache-2.0
"""The network of netns.py does what the cluster's tests take it for."""

import os
import subprocess
import sys
import time
import unittest

import netns

HOSTS = 3

# Answers each datagram; says first that it is there.
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7))
print(flush=True)
while True:
    s.sendto(*s.recvfrom(65536))
"""

# Says what came to port 8, a line for each.
HEAR = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 8))
print(flush=True)
while True:
    print(s.recv(100).decode(), flush=True)
"""

# Milliseconds until an echo of n datagrams came whole, or "none".
PING = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[2]))
t = time.monotonic()
n, size = int(sys.argv[3]), int(sys.argv[4])
try:
    for i in range(n):
        s.sendto(bytes(size), (sys.argv[1], 7))
    for i in range(n):
        s.recv(65536)
    print((time.monotonic() - t) * 1000)
except OSError:
    print("none")
"""

# Bytes sent and received again over TCP.
TCP = """
import socket, sys, threading
if len(sys.argv) == 1:
    l = socket.create_server(("", 9))
    print(flush=True)
    while True:
        c, _ = l.accept()
        while b := c.recv(65536):
            c.sendall(b)
else:
    c = socket.create_connection((sys.argv[1], 9), 20)
    n = 4 << 20
    t = threading.Thread(target=lambda: c.sendall(bytes(n)))
    t.start()
    got = 0
    while got < n:
        got += len(c.recv(65536))
    t.join()
    print("whole")
"""


class TestNet(unittest.TestCase):
    def setUp(self):
        why = netns.why_not()
        if why:
            self.skipTest(why)
        self.running = []
        self.net = netns.Net(HOSTS)
        self.addCleanup(self.end)
        for i in range(HOSTS):
            self.serve(i, ECHO)

    def end(self):
        for p in self.running:
            p.kill()
            p.wait()
            p.stdout.close()
        self.net.close()

    def serve(self, i, program):
        p = self.net.popen(i, [sys.executable, "-c", program],
                           stdout=subprocess.PIPE, text=True)
        self.running.append(p)
        self.assertEqual(p.stdout.readline(), "\n")
        return p

    def ping(self, a, b, wait_s=10.0, n=1, size=100):
        """None: no answer."""
        out = self.net.run(
            a, [sys.executable, "-c", PING, self.net.address(b), str(wait_s),
                str(n), str(size)], stdout=subprocess.PIPE, text=True).stdout
        return None if out == "none\n" else float(out)

    def reaches(self, a, b):
        return self.ping(a, b, 0.3) is not None

    def pairs(self):
        return {(a, b) for a in range(HOSTS) for b in range(HOSTS)
                if a != b and self.reaches(a, b)}

    def test_all_reach_all_and_themselves(self):
        for a in range(HOSTS):
            for b in range(HOSTS):
                self.assertIsNotNone(self.ping(a, b))

    def test_a_partition_holds_until_it_is_healed(self):
        self.net.partition([0], [1, 2])
        self.assertEqual(self.pairs(), {(1, 2), (2, 1)})
        self.net.partition([0, 1], [2])
        self.assertEqual(self.pairs(), {(0, 1), (1, 0)})
        self.net.heal()
        self.assertEqual(len(self.pairs()), HOSTS * (HOSTS - 1))
        self.net.isolate(1)
        self.assertEqual(self.pairs(), {(0, 2), (2, 0)})
        self.net.mend(0, 1)
        self.assertTrue(self.reaches(0, 1))
        self.assertFalse(self.reaches(2, 1))

    def test_one_way_is_one_way(self):
        ear = {i: self.serve(i, HEAR) for i in (0, 1)}
        self.net.cut_one_way(0, 1)
        say = ("import socket, sys; socket.socket(socket.AF_INET, "
               "socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), "
               "(sys.argv[1], 8))")

        def send(a, b, word):
            self.net.run(a, [sys.executable, "-c", say, self.net.address(b),
                             word])

        send(0, 1, "lost")
        send(1, 0, "heard")
        self.assertEqual(ear[0].stdout.readline(), "heard\n")
        self.net.heal()
        send(0, 1, "later")
        self.assertEqual(ear[1].stdout.readline(), "later\n")
        self.assertEqual(self.net.counts()[(0, 1)]["cut"], 1)
        self.assertEqual(self.net.counts()[(1, 0)]["cut"], 0)

    def test_delay_loss_and_rate(self):
        self.net.slow(0, 1, delay_ms=60)
        self.assertGreater(self.ping(0, 1), 119)
        self.net.slow(0, 1, rate_bytes=100000)
        self.assertGreater(self.ping(0, 1, n=10, size=1000), 99)
        self.net.slow(0, 1, loss=1.0)
        self.assertFalse(self.reaches(0, 1))
        self.assertTrue(self.reaches(0, 2))
        self.net.heal()
        self.assertTrue(self.reaches(0, 1))

    def test_tcp_survives_a_cut_and_loss(self):
        self.serve(1, TCP)
        self.net.slow(0, 1, delay_ms=2, loss=0.01)
        p = self.net.popen(0, [sys.executable, "-c", TCP,
                               self.net.address(1)],
                           stdout=subprocess.PIPE, text=True)
        self.running.append(p)
        while self.net.counts()[(0, 1)]["carried"] < 20:
            time.sleep(0.001)
        self.net.cut(0, 1)
        while self.net.counts()[(0, 1)]["cut"] == 0:
            time.sleep(0.001)
        self.net.heal()
        self.assertEqual(p.stdout.readline(), "whole\n")

    def test_nothing_of_it_stays(self):
        holders = [h.holder.pid for h in self.net.hosts]
        self.end()
        self.running = []
        for pid in holders:
            with self.assertRaises(ProcessLookupError):
                os.kill(pid, 0)


class TestNotAllowed(unittest.TestCase):
    def test_the_reason_is_said(self):
        real, netns.os.geteuid = netns.os.geteuid, lambda: 1000
        try:
            self.assertIn("root", netns.why_not())
        finally:
            netns.os.geteuid = real


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A network of N hosts on one machine, which can be cut, slowed and mended.

    with netns.Net(3) as net:            # 10.77.0.1, .2, .3
        p = net.popen(0, ["program", ...])   # runs on host 0
        net.cut(0, 1)                    # no packet between 0 and 1
        net.cut_one_way(0, 2)            # none from 0 to 2; from 2 to 0 they go
        net.partition([0], [1, 2])       # every pair across is cut
        net.slow(0, 1, delay_ms=50, loss=0.01, rate_bytes=1 << 20)
        net.heal()

Each host is a network namespace with a tun device; a process of its own (the
hub, this file run with --hub) holds the other ends and carries packets between
them by the rules. So nothing of the kernel is needed but namespaces and tun: no
bridge, netem, nftables or iptables, which many machines lack; and a packet that
is cut vanishes without a word, as in a broken network. Nothing of it is seen
outside: a namespace ends with its last process, the hub with its standard
input.

why_not() says why it cannot be had here, for skipTest. It needs root.
"""

import argparse
import ctypes
import errno
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import threading
import time

BASE = "10.77.0."
MTU = 9000
QUEUE = 1000  # packets on their way between two hosts
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
CLONE_NEWNET = 0x40000000


# ---- Hosts


def in_namespace(pid, do):
    """do() with the network of that process; a thread's, which then ends."""
    result = []

    def work():
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            result.append(do())
        except OSError as e:
            result.append(e)
        finally:
            os.close(fd)

    t = threading.Thread(target=work)
    t.start()
    t.join()
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def open_tun():
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF,
                    struct.pack("16sH22x", b"net0", IFF_TUN_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


class Host:
    def __init__(self, address):
        self.address = address
        self.tun = -1
        # Its first process keeps the namespace; it ends with its input. The
        # host has a /sys of its own: UCX looks there for its devices.
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c",
             "mount -t sysfs sysfs /sys && echo && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        try:
            if self.holder.stdout.readline() != b"\n":
                raise OSError(errno.EPERM,
                              self.holder.stderr.read().decode().strip())
            self.tun = in_namespace(self.holder.pid, open_tun)
            for args in (["link", "set", "lo", "up"],
                         ["addr", "add", address + "/24", "dev", "net0"],
                         ["link", "set", "net0", "mtu", str(MTU), "up"]):
                subprocess.run(self.prefix() + ["ip"] + args, check=True,
                               stderr=subprocess.PIPE)
        except BaseException:
            self.close()
            raise

    def prefix(self):
        """In front of an argv: it runs on this host, as the same process. Its
        working directory is /."""
        ns = f"/proc/{self.holder.pid}/ns"
        return ["nsenter", f"--net={ns}/net", f"--mount={ns}/mnt", "--"]

    def close(self):
        if self.tun >= 0:
            os.close(self.tun)
            self.tun = -1
        for f in (self.holder.stdin, self.holder.stdout, self.holder.stderr):
            f.close()
        self.holder.wait()


def why_not():
    """None, or the reason why there can be no Net on this machine."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    try:
        Host(BASE + "1").close()
    except FileNotFoundError as e:
        return f"{e.filename} is not installed (util-linux, iproute2)"
    except subprocess.CalledProcessError as e:
        return "ip failed: " + e.stderr.decode().strip()
    except OSError as e:
        return f"network namespaces are not allowed here: {e}"
    return None


# ---- The network


class Net:
    def __init__(self, n):
        self.hosts = []
        self.hub = None
        try:
            for i in range(n):
                self.hosts.append(Host(BASE + str(i + 1)))
            fds = [h.tun for h in self.hosts]
            self.hub = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--hub"] +
                [str(fd) for fd in fds], pass_fds=fds,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """The programs on it are the caller's to end."""
        if self.hub:
            self.hub.stdin.close()
            self.hub.wait()
            self.hub.stdout.close()
            self.hub = None
        for h in self.hosts:
            h.close()
        self.hosts = []

    def address(self, i):
        return self.hosts[i].address

    def prefix(self, i):
        return self.hosts[i].prefix()

    def popen(self, i, argv, **more):
        return subprocess.Popen(self.prefix(i) + argv, **more)

    def run(self, i, argv, **more):
        return subprocess.run(self.prefix(i) + argv, check=False, **more)

    # Each returns when the rule holds for the next packet.

    def _rule(self, pairs, **rule):
        self.hub.stdin.write(json.dumps({"pairs": pairs, "rule": rule}) + "\n")
        self.hub.stdin.flush()
        answer = self.hub.stdout.readline()
        assert answer == "ok\n", answer

    def _both(self, a, b):
        return [[a, b], [b, a]]

    def _all(self):
        r = range(len(self.hosts))
        return [[a, b] for a in r for b in r if a != b]

    def cut(self, a, b):
        self._rule(self._both(a, b), cut=True)

    def cut_one_way(self, source, to):
        self._rule([[source, to]], cut=True)

    def mend(self, a, b):
        self._rule(self._both(a, b), cut=False)

    def isolate(self, a):
        self._rule([p for p in self._all() if a in p], cut=True)

    def partition(self, *groups):
        """Hosts of different groups do not reach each other; within one they
        do. A host in no group is a group of its own."""
        of = {h: i for i, g in enumerate(groups) for h in g}
        across = [[a, b] for a, b in self._all()
                  if a not in of or b not in of or of[a] != of[b]]
        self._rule(self._all(), cut=False)
        self._rule(across, cut=True)

    def slow(self, a, b, delay_ms=0, loss=0.0, rate_bytes=0):
        """Both ways. loss: part of packets; rate_bytes: a second, 0 any."""
        self._rule(self._both(a, b), delay_s=delay_ms / 1000, loss=loss,
                   rate_bytes=rate_bytes)

    def slow_all(self, **how):
        for a in range(len(self.hosts)):
            for b in range(a):
                self.slow(a, b, **how)

    def heal(self):
        """All as in the beginning."""
        self._rule(self._all(), cut=False, delay_s=0, loss=0, rate_bytes=0)

    def counts(self):
        """Packets by pair: {(a, b): {"carried": n, "cut": n, "lost": n}}."""
        self.hub.stdin.write('{"counts": true}\n')
        self.hub.stdin.flush()
        rows = json.loads(self.hub.stdout.readline())
        return {(r["from"], r["to"]): r for r in rows}


# ---- The hub, a process of its own


class Pair:
    """Packets from one host to another."""

    def __init__(self, a, b):
        self.cut, self.delay_s, self.loss, self.rate_bytes = False, 0, 0, 0
        self.free_at = 0.0  # when the wire has carried what is on it
        self.under_way = 0
        self.counts = {"from": a, "to": b, "carried": 0, "cut": 0, "lost": 0}


class Hub:
    def __init__(self, fds):
        n = range(len(fds))
        self.fds = fds
        self.pairs = {(a, b): Pair(a, b) for a in n for b in n}
        self.later = []  # heap of (when, number, pair, packet)
        self.number = 0
        self.random = random.Random(1)
        self.loop = selectors.DefaultSelector()
        for i in n:
            self.loop.register(fds[i], selectors.EVENT_READ, i)
        self.loop.register(sys.stdin, selectors.EVENT_READ, None)

    def take(self, a, packet):
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        b = packet[19] - 1
        if packet[16:19] != bytes((10, 77, 0)) or (a, b) not in self.pairs:
            return
        pair = self.pairs[(a, b)]
        if pair.cut:
            pair.counts["cut"] += 1
        elif pair.under_way >= QUEUE or self.random.random() < pair.loss:
            pair.counts["lost"] += 1
        elif not (pair.delay_s or pair.rate_bytes or pair.under_way):
            self.give(pair, packet)
        else:
            now = time.monotonic()
            pair.free_at = max(pair.free_at, now)
            if pair.rate_bytes:
                pair.free_at += len(packet) / pair.rate_bytes
            pair.under_way += 1
            self.number += 1
            heapq.heappush(self.later, (pair.free_at + pair.delay_s,
                                        self.number, pair, packet))

    def give(self, pair, packet):
        try:
            os.write(self.fds[pair.counts["to"]], packet)
            pair.counts["carried"] += 1
        except OSError:  # the host's queue is full, or it is gone
            pair.counts["lost"] += 1

    def give_due(self):
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            _, _, pair, packet = heapq.heappop(self.later)
            pair.under_way -= 1
            if pair.cut:  # what is on a wire that is cut is gone
                pair.counts["cut"] += 1
            else:
                self.give(pair, packet)

    def command(self, line):
        c = json.loads(line)
        if "counts" in c:
            return json.dumps([p.counts for p in self.pairs.values()])
        for a, b in c["pairs"]:
            for key, value in c["rule"].items():
                setattr(self.pairs[(a, b)], key, value)
        return "ok"

    def run(self):
        while True:
            wait = None
            if self.later:
                wait = max(0, self.later[0][0] - time.monotonic())
            for key, _ in self.loop.select(wait):
                if key.data is None:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    print(self.command(line), flush=True)
                    continue
                for _ in range(64):
                    try:
                        self.take(key.data, os.read(key.fd, 65536))
                    except OSError:
                        break
            self.give_due()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--hub", nargs="+", type=int, metavar="FD",
                      required=True)
    Hub(args.parse_args().hub).run()


if __name__ == "__main__":
    main()

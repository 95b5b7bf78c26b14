# SPDX-License-Identifier: Apache-2.0
"""What the demo of many nodes runs: daemons, and clients that are watched. demo
is who looks after them (demo_cluster.py): program(name), run_dir, disk_dir,
tick() while something is waited for.

Each is in a process group of its own: a Ctrl-C is the demo's alone, which then
ends them."""

import json
import os
import random
import socket
import subprocess
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CTL_S = 20
COUNTS = ("refs", "could", "hits", "redirects", "failovers", "wrong")


class Failed(Exception):
    """The demo cannot go on, and why."""


def clean_env():
    """The environment of whoever runs this is not part of the demo."""
    return {k: v for k, v in os.environ.items()
            if not k.startswith(("PIKVD_", "PIKV_ADDRESS", "NOTIFY_SOCKET"))}


def free_ports(n):
    """n ports in a row that nobody uses, below those that the kernel gives to
    connecting sockets."""
    for _ in range(1000):
        first = random.randrange(10000, 32000 - n)
        try:
            for port in range(first, first + n):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise Failed("no free ports on 127.0.0.1")


class Node:
    """One daemon. Its state and its SSD outlive it."""

    def __init__(self, demo, name, peer):
        self.demo, self.name = demo, name
        self.socket = os.path.join(demo.run_dir, name + ".sock")
        self.address = "shm:" + self.socket
        self.log = os.path.join(demo.run_dir, name + ".log")
        self.process = None
        self.expelled = False
        state = os.path.join(demo.disk_dir, name)
        os.makedirs(state)
        self.sets = [
            f"node.name={name}", f"node.state_dir={state}", "node.lanes=1",
            f"listen.shm.path={self.socket}", "listen.admin.enabled=false",
            f"dram.capacity={demo.size.dram}", f"ssd.paths={state}/ssd",
            f"ssd.capacity={demo.size.ssd}", "ssd.segment=4MiB",
            "cluster.enabled=true", "cluster.id=demo",
            f"cluster.voters={demo.voters}", "cluster.security=psk",
            f"cluster.tls.psk_file={demo.psk}",
            f"cluster.port={peer.rsplit(':', 1)[1]}",
            f"cluster.advertise.peer={peer}", *demo.size.sets]

    def start(self):
        """Returns when clients can connect; how long that took."""
        begin = time.monotonic()
        argv = [self.demo.program("pikvd")]
        for s in self.sets:
            argv += ["--set", s]
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=clean_env(), process_group=0)
        while " started " not in self.text():
            if self.process.poll() is not None:
                raise Failed(f"pikvd {self.name} did not start:\n"
                             + self.text())
            self.demo.tick()
        return time.monotonic() - begin

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(CTL_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"pikvd {self.name} did not stop") from None
        self.process = None

    def dead(self):
        """It ended though nobody told it to."""
        return self.process is not None and self.process.poll() is not None

    def ctl(self, *args):
        """pikvctl's answer, or None if there is none now."""
        argv = [self.demo.program("pikvctl"), "--address", self.address,
                "--deadline", "2s", "-o", "json", *args]
        try:
            p = subprocess.run(argv, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, timeout=CTL_S,
                               env=clean_env(), process_group=0)
        except subprocess.TimeoutExpired:
            return None
        if p.returncode:
            self.said = p.stderr.decode(errors="replace").strip()
            return None
        return json.loads(p.stdout)

    def keys(self):
        """Blocks that it has, in memory or only on its SSD."""
        s = self.demo.asked(self, "stat")
        return s["blocks"] + s["cold_blocks"]


class Client:
    """A pikv-bench that is watched: its last line, and what it felt most."""

    def __init__(self, demo, *args):
        self.demo, self.slowest_ms, self.ended = demo, 0.0, False
        self.last = {"requests": 0, "errors": {}, **dict.fromkeys(COUNTS, 0)}
        self.log = os.path.join(demo.run_dir, args[0] + ".log")
        address = ",".join(n.address for n in demo.nodes.values()
                           if n.process)
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [demo.program("pikv-bench"), *args, "--address", address],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=clean_env(), process_group=0, cwd=ROOT)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            self.last = json.loads(line)
            self.slowest_ms = max(self.slowest_ms, self.last["slowest_ms"])

    def check(self):
        if self.process.poll() is not None and not self.ended:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                raise Failed("a client ended: " + f.read().strip())

    def stop(self):
        self.ended = True
        self.process.terminate()
        try:
            self.process.wait(CTL_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed("a client's calls did not end") from None
        self.thread.join()

    def kill(self):
        self.process.kill()
        self.process.wait()

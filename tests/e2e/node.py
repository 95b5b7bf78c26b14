# SPDX-License-Identifier: Apache-2.0
"""A Daemon as tests of the whole node want it: settings as KEY=VALUE, admin
pages, UCX ports, counters, and a way to wait for a state.

    with Node("limits.ops_per_lane=8", lanes=2, ucx=True) as d:
        d.address, d.ucx_address, d.metrics()["ops_inflight"]
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from daemon import ROOT, Daemon, clean_env

BUILD = os.path.join(ROOT, os.environ.get("PIKV_BUILD", "out/debug"))
SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")
LIMIT_S = 60.0 if SANITIZED else 20.0

SAMPLE = re.compile(r"^pikvd_(\w+?)(?:_total)?(\{[^}]*\})? (\S+)$", re.M)


def until(what, limit_s=LIMIT_S):
    """Asks again and again until what() is true; its value, or the last one
    when the limit passed."""
    end = time.monotonic() + limit_s
    while True:
        value = what()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.01)


def free_ports(n):
    """The first of n ports in a row that nobody uses, below the range that the
    kernel gives to connecting sockets."""
    while True:
        first = random.randrange(10000, 32000 - n)
        try:
            for port in range(first, first + n):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


class Node(Daemon):
    def __init__(self, *sets, lanes=1, dram="64MiB", ucx=False, config=None,
                 env=None, prefix=()):
        settings = {"node.lanes": str(lanes), "dram.capacity": dram}
        self.ucx_address = None
        if ucx:
            port = free_ports(lanes + 200)
            self.ucx_address = f"ucx:127.0.0.1:{port}"
            settings["listen.ucx.enabled"] = "true"
            settings["listen.ucx.port"] = str(port)
            settings["listen.ucx.port_range"] = \
                f"{port + lanes}-{port + lanes + 199}"
        settings.update(s.split("=", 1) for s in sets)
        super().__init__(settings, admin=True, config=config)
        self.prefix = list(prefix)
        if env:
            self.prefix += ["env"] + [f"{k}={v}" for k, v in env.items()]

    def argv(self):
        return self.prefix + super().argv()

    def refused(self):
        """Starts it where it must not start: exit status and last line."""
        p = subprocess.run(self.argv(), stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.STDOUT, env=clean_env(),
                           timeout=LIMIT_S)
        lines = p.stdout.strip().splitlines()
        return p.returncode, lines[-1] if lines else ""

    def __exit__(self, kind, value, trace):
        if kind:
            print(f"---- log of pikvd:\n{self.log()[-6000:]}", flush=True)
            self.send(signal.SIGCONT)
            self.kill()
        self.remove()

    def send(self, signum):
        if self.process:
            self.process.send_signal(signum)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    # ---- looking

    def get(self, path, headers=None, method="GET"):
        """Status, headers and text of an admin page."""
        r = urllib.request.Request(self.admin_url + path, method=method,
                                   headers=headers or {})
        try:
            with urllib.request.urlopen(r, timeout=LIMIT_S) as a:
                return a.status, a.headers, a.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.headers, e.read().decode()

    def metrics(self):
        """Every sample of /metrics by its name without pikvd_ and _total; one
        with labels is 'name{label="value"}' and also summed under 'name'."""
        out = {}
        for name, labels, value in SAMPLE.findall(self.get("/metrics")[2]):
            if labels:
                out[name + labels] = float(value)
            out[name] = out.get(name, 0.0) + float(value)
        return out

    def status(self):
        return json.loads(self.get("/api/v1/status")[2])

    def at_rest(self, peers=0):
        """Waits until nothing is held for anyone: true, or what still is."""
        want = {"ops_inflight": 0, "pinned_bytes": 0, "loan_bytes": 0,
                "peers": peers}
        got = {}

        def rest():
            m = self.metrics()
            got.update({k: m[k] for k in want})
            return got == want

        return until(rest) or got

    def anon_bytes(self):
        """Memory of the process beside its blocks, which are a shared map."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return int(re.search(r"^RssAnon:\s+(\d+)", f.read(), re.M)[1]) << 10

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_ticks(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            after = f.read().rsplit(")", 1)[1].split()
        return int(after[11]) + int(after[12])

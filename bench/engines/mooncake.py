#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pikvd beside Mooncake Store on one host: same values, batches of 32.

    bench/engines/mooncake.py --python VENV/bin/python [--rounds 5]

VENV has the wheel mooncake-transfer-engine-non-cuda (and its mooncake_master).
Ours needs `make V=release all` and the package (PYTHONPATH or a wheel). What
runs, each in a process of its own:

    mooncake   mooncake_master; a client that owns the memory (as a storage node
               does); a client without memory that is measured. TCP, loopback
    pikvd ucx  pikvd; a client over UCX with UCX_TLS=tcp,self: the same transport
    pikvd shm  pikvd; a client over shared memory: what one host would use

Rounds alternate between the three; a table of medians goes to stdout. Buffers
are registered with each. Every GET is compared with what was put, byte by byte,
beside the clock; inside it ours also checks the crc32c of each block (verify),
Mooncake's wheel has no such check. Then the servers are killed: what the next
calls cost, and what they answer.
"""

import argparse
import collections
import ctypes
import json
import mmap
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BATCH = 32
STORES = ["mooncake", "pikvd ucx", "pikvd shm"]
CHILDREN = []  # all that were started, for the end


# ---- in the measured client


class Mooncake:
    def __init__(self, a):
        from mooncake.store import MooncakeDistributedStore
        self.store = MooncakeDistributedStore()
        rc = self.store.setup(f"127.0.0.1:{a['port']}", "P2PHANDSHAKE",
                              a.get("segment", 0), 64 << 20, "tcp", "",
                              f"127.0.0.1:{a['master']}")
        if rc:
            raise RuntimeError(f"setup: {rc}")

    def buffer(self, size):
        self.map = mmap.mmap(-1, size)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        rc = self.store.register_buffer(self.base, size)
        if rc:
            raise RuntimeError(f"register_buffer: {rc}")
        return memoryview(self.map)

    def parts(self, size):
        return [self.base + i * size for i in range(BATCH)], [size] * BATCH

    def put(self, keys, parts):
        return self.store.batch_put_from(keys, *parts)

    def get(self, keys, parts):
        return [0 if n == want else n if n < 0 else "short" for n, want in
                zip(self.store.batch_get_into(keys, *parts), parts[1])]

    def exists(self, keys):
        return self.store.batch_is_exist(keys)

    def clear(self):
        self.store.remove_all(True)


class Pikv:
    def __init__(self, a):
        import pikv
        self.client = pikv.Client(a["address"], connect_ms=5000)
        self.ns = self.client.open("bench")
        self.more = {"deadline_ms": a["deadline_ms"]}

    def buffer(self, size):
        self.memory = self.client.alloc(size)
        return memoryview(self.memory)

    def parts(self, size):
        view = memoryview(self.memory)
        return [view[i * size:(i + 1) * size] for i in range(BATCH)]

    def put(self, keys, parts):
        return self.ns.put(keys, parts, **self.more).statuses

    def get(self, keys, parts):
        return self.ns.get(keys, parts, verify=True, **self.more).statuses

    def exists(self, keys):
        return [s if s else r for s, r in zip(*self.looked_up(keys))]

    def looked_up(self, keys):
        r = self.ns.lookup(keys).results
        return r.statuses, r.states

    def clear(self):
        self.ns.evict(select="namespace")


class Worker:
    """Answers one JSON line per line read."""

    def __init__(self, store):
        self.store = store
        self.base = random.Random(1).randbytes(4 << 20)

    def value(self, key, size):
        return key.encode().ljust(32) + self.base[32:size]

    def room(self, size):
        self.size = size
        self.parts = self.store.parts(size)
        return {}

    def buffer(self, size):
        self.view = self.store.buffer(size)
        return {}

    def timed(self, what, prefix, check=False):
        """One batch: seconds, and how often each answer came."""
        keys = [f"{prefix}-{i}" for i in range(BATCH)]
        size = self.size
        for i, key in enumerate(keys):
            self.view[i * size:(i + 1) * size] = \
                self.value(key, size) if what == "put" else bytes(size)
        error = None
        codes = []
        start = time.perf_counter()
        try:
            if what == "exists":
                codes = self.store.exists(keys)
            else:
                codes = getattr(self.store, what)(keys, self.parts)
        except Exception as e:  # what a caller would see
            error = f"{type(e).__name__}: {e}"
        s = time.perf_counter() - start
        if check:
            for i, key in enumerate(keys):
                if bytes(self.view[i * size:(i + 1) * size]) != \
                        self.value(key, size):
                    error = f"{key}: other bytes"
        counts = collections.Counter(str(c) for c in codes)
        return {"s": s, "codes": counts, "error": error}

    def clear(self):
        self.store.clear()
        return {}


def worker(kind, settings):
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the stores print goes to the log
    del sys.path[0]  # this file is not the package of that name
    w = Worker({"mooncake": Mooncake, "pikv": Pikv}[kind](settings))
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        name, *args = json.loads(line)
        print(json.dumps(getattr(w, name)(*args)), file=out, flush=True)
    os._exit(0)  # theirs waits for its dead master otherwise


# ---- the servers


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def tail(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return "".join(f.readlines()[-20:])


def child(argv, **more):
    CHILDREN.append(subprocess.Popen(argv, **more))
    return CHILDREN[-1]


def kill_children():
    for p in CHILDREN:
        if p.poll() is None:
            p.kill()
            p.wait()


class Client:
    """A worker process."""

    def __init__(self, python, kind, settings, log, env=None):
        self.log = log.name
        self.p = child(
            [python, os.path.abspath(__file__), "--worker", kind,
             json.dumps(settings)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, **(env or {})})
        self.answer()

    def answer(self):
        line = self.p.stdout.readline()
        if not line:
            raise RuntimeError("a client ended:\n" + tail(self.log))
        return json.loads(line)

    def __call__(self, *words):
        self.p.stdin.write(json.dumps(words) + "\n")
        self.p.stdin.flush()
        return self.answer()

    def close(self):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


class Rival:
    def __init__(self, a, folder):
        self.log = open(os.path.join(folder, "mooncake.log"), "ab")
        rpc, metrics, owner, client = free_ports(4)
        master = os.path.join(os.path.dirname(a.python), "mooncake_master")
        self.master = child(
            [a.python, master, f"-rpc_port={rpc}", f"-metrics_port={metrics}",
             "-rpc_address=127.0.0.1", "-metrics_host=127.0.0.1"],
            stdout=self.log, stderr=self.log)
        time.sleep(2)
        self.owner = Client(a.python, "mooncake", {
            "port": owner, "master": rpc, "segment": a.arena << 20}, self.log)
        self.client = Client(a.python, "mooncake",
                             {"port": client, "master": rpc}, self.log)

    def kill(self, what):
        if what == "segment owner":
            self.owner.close()
        else:
            self.master.kill()
            self.master.wait()

    def close(self):
        self.client.close()
        self.owner.close()
        self.kill("master")
        self.log.close()


class Ours:
    def __init__(self, a, folder, transport, deadline_ms):
        self.dir = tempfile.mkdtemp(dir=folder)
        self.log = open(os.path.join(self.dir, "log"), "ab")
        port = 10000 + os.getpid() % 20000
        path = os.path.join(self.dir, "sock")
        sets = {"listen.shm.path": path, "listen.admin.enabled": "false",
                "node.state_dir": self.dir, "node.lanes": str(a.lanes),
                "dram.capacity": f"{a.arena}MiB"}
        env = {}
        if transport == "ucx":
            sets.update({"listen.ucx.enabled": "true",
                         "listen.ucx.port": str(port),
                         "listen.ucx.port_range": f"{port + 64}-{port + 263}"})
            env = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"}
        argv = [os.path.join(a.out, "pikvd")]
        for k, v in sets.items():
            argv += ["--set", f"{k}={v}"]
        self.pikvd = child(argv, stdout=self.log, stderr=self.log,
                           env={**os.environ, **env})
        self.wait_ready(a, path)
        address = f"ucx:127.0.0.1:{port}" if transport == "ucx" \
            else "shm:" + path
        self.client = Client(sys.executable, "pikv", {
            "address": address, "deadline_ms": deadline_ms}, self.log, env)

    def wait_ready(self, a, path):
        for _ in range(500):
            if subprocess.run([os.path.join(a.out, "pikvctl"), "--address",
                               "shm:" + path, "ping"], check=False,
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.02)
        raise RuntimeError("pikvd did not start:\n" + tail(self.log.name))

    def kill(self, _):
        self.pikvd.kill()
        self.pikvd.wait()

    def close(self):
        self.client.close()
        if self.pikvd.poll() is None:
            self.kill("")
        self.log.close()


def start(kind, a, folder, deadline_ms):
    """deadline_ms: of our calls, 0 the default; Mooncake's have none."""
    return Rival(a, folder) if kind == "mooncake" \
        else Ours(a, folder, kind.split()[1], deadline_ms)


# ---- measuring


def good(answer, what):
    """The time of a batch that did what it was asked to."""
    want = {"put": {"0": BATCH}, "get": {"0": BATCH}}.get(what)
    if answer["error"] or want and answer["codes"] != want:
        raise RuntimeError(f"{what}: {answer}")
    return answer["s"]


def one_round(client, size, n, tag):
    """Seconds of each batch, by operation."""
    client("room", size)
    out = {}
    for what in ("put", "get"):
        out[what] = [good(client("timed", what, f"{tag}-{i}", what == "get"),
                          what) for i in range(n)]
    for what in ("get", "exists"):
        name = "miss " + what
        out[name] = [client("timed", what, f"none-{tag}-{i}")["s"]
                     for i in range(8)]
    client("clear")
    return out


def measure(a, folder, kinds):
    """{(kind, size, operation): seconds of all batches}"""
    times = collections.defaultdict(list)
    rates = collections.defaultdict(list)
    stores = {kind: start(kind, a, folder, 20000) for kind in kinds}
    try:
        for s in stores.values():
            s.client("buffer", BATCH * max(a.sizes))
        for size in a.sizes:
            n = max(2, min(64, (a.arena << 19) // (BATCH * size)))
            for r in range(a.rounds + 1):
                for kind, s in stores.items():
                    print(f"{size >> 10} KiB round {r} {kind}",
                          file=sys.stderr, flush=True)
                    got = one_round(s.client, size, n, f"{size}-{r}")
                    if r == 0:
                        continue  # warm-up: memory is touched the first time
                    for what, seconds in got.items():
                        times[kind, size, what] += seconds
                        rates[kind, size, what].append(
                            len(seconds) * BATCH * size / sum(seconds) / 1e9)
    finally:
        for s in stores.values():
            s.close()
    return times, rates


def killed(a, folder, kind, what):
    """Rows of what happens to the calls after a server was killed."""
    size = 65536
    s = start(kind, a, folder, 0)
    rows = []
    try:
        s.client("buffer", BATCH * size)
        s.client("room", size)
        good(s.client("timed", "put", "k"), "put")
        good(s.client("timed", "get", "k", True), "get")
        s.kill(what)
        for n, op in enumerate(("get", "get", "exists", "put")):
            answer = s.client("timed", op, "k" if op != "put" else f"n{n}")
            rows.append((op, answer))
            print(f"{kind}, {what} killed: {op} {answer}", file=sys.stderr,
                  flush=True)
    finally:
        s.close()
    return rows


# ---- the report


def ms(seconds):
    return f"{seconds * 1e3:.3f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))]


def report(a, kinds, times, rates):
    print(f"Batches of {BATCH}, medians of {a.rounds} alternating rounds; "
          "p50 and p99 of all batches.\n")
    print("| size | store | put GB/s | put p50 / p99 ms | get GB/s | "
          "get p50 / p99 ms | miss: get us | miss: lookup us |")
    print("|---|---|---|---|---|---|---|---|")
    for size in a.sizes:
        for kind in kinds:
            row = [f"{size >> 10} KiB", kind]
            for what in ("put", "get"):
                t = times[kind, size, what]
                row += [f"{statistics.median(rates[kind, size, what]):.2f}",
                        f"{ms(percentile(t, .5))} / {ms(percentile(t, .99))}"]
            for what in ("miss get", "miss exists"):
                t = times[kind, size, what]
                row.append(f"{percentile(t, .5) * 1e6:.0f}")
            print("| " + " | ".join(row) + " |")


def report_killed(rows):
    print("\n| killed (kill -9) | call | returned after | answer |")
    print("|---|---|---|---|")
    for kind, what, calls in rows:
        for op, answer in calls:
            text = answer["error"] or ", ".join(
                f"{n} x {code}" for code, n in answer["codes"].items())
            print(f"| {kind}: {what} | {op} | {ms(answer['s'])} ms | {text} |")


def main():
    p = argparse.ArgumentParser(description="pikvd beside Mooncake Store")
    p.add_argument("--python", help="of an environment with Mooncake's wheel")
    p.add_argument("--out", default=os.path.join(ROOT, "out/release"))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--arena", type=int, default=2048, help="MiB of each store")
    p.add_argument("--lanes", type=int, default=1)
    p.add_argument("--sizes", type=int, nargs="+",
                   default=[64 << 10, 1 << 20, 4 << 20], help="bytes")
    p.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    p.add_argument("--no-kill", action="store_true")
    p.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker:
        worker(a.worker[0], json.loads(a.worker[1]))
    kinds = [k for k in a.stores if a.python or k != "mooncake"]
    folder = tempfile.mkdtemp(prefix="pikv-mooncake.")
    try:
        report(a, kinds, *measure(a, folder, kinds))
        rows = []
        for kind in kinds if not a.no_kill else ():
            for what in (("master", "segment owner") if kind == "mooncake"
                         else ("pikvd",)):
                rows.append((kind, what, killed(a, folder, kind, what)))
        report_killed(rows)
    finally:
        kill_children()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

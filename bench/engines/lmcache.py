#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pikvd beside LMCache's own L2 back ends, through LMCache's own adapters.

    PIKV_BUILD=out/release out/engines/lmcache/bin/python \\
        bench/engines/lmcache.py [--rounds N] [--shapes 16MiB:80,256KiB:2000]
        [--backends pikv,resp,fs] [--arena shm|private] [--fs-dir DIR]

Starts what it measures, all on this machine: a pikvd (shm, memory only), a
redis-server on a loopback port without persistence (resp, LMCache's C++
client with its default of 8 workers), and a directory, default in /dev/shm
(fs). Each round of a shape visits every back end, in turn another one first;
one round before them is not counted. A visit:

    store   one task of all blocks, new keys           GB/s
    lookup  one task of all keys                       ms
    load    one task of all blocks                     GB/s
    one     tasks of one block, one after the other    p50, p99 of store, load

then deletes what it stored. Loaded bytes are compared in every round. Blocks
lie in LMCache's L1 memory: its shared memory (--arena shm, as `--no-l1-use-lazy
--shm-name NAME`), or private memory (its default). GB is 1e9 bytes. Prints a
table; the numbers are medians, with least and most of the rounds.
"""

import argparse
import json
import logging
import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.environ.setdefault("PIKV_BUILD", "out/release")
# Not this folder: it has a file of the engine's name.
sys.path[:1] = [os.path.join(ROOT, BUILD, "python"),
                os.path.join(ROOT, "tests/e2e")]
os.environ.setdefault("LMCACHE_LOG_LEVEL", "WARNING")

import torch  # noqa: E402
from daemon import Daemon, free_port  # noqa: E402
from lmcache.v1.distributed.api import (  # noqa: E402
    MemoryLayoutDesc, ObjectKey)
from lmcache.v1.distributed.config import L1MemoryManagerConfig  # noqa: E402
from lmcache.v1.distributed.l2_adapters import create_l2_adapter  # noqa: E402
from lmcache.v1.distributed.l2_adapters.config import (  # noqa: E402
    parse_args_to_l2_adapters_config)
from lmcache.v1.distributed.memory_manager import (  # noqa: E402
    l1_memory_manager)
from lmcache.v1.platform import consume_fd  # noqa: E402

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
WAIT_S = 300
ONES = 50  # tasks of one block per round


def size_of(text):
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(text[:-len(unit)]) * factor
    raise SystemExit(f"{text}: want a size such as 256KiB")


class Adapter:
    """An adapter of LMCache, with calls that wait."""

    def __init__(self, config):
        class Arguments:
            l2_adapter = [json.dumps(config)]
        made = parse_args_to_l2_adapters_config(Arguments)
        self.a = create_l2_adapter(made.adapters[0])
        self.stored = {}

    @staticmethod
    def wait(fd, ask):
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while True:
            if not poller.poll(WAIT_S * 1000):
                raise SystemExit("an operation does not end")
            consume_fd(fd)
            got = ask()
            if got is not None:
                return got

    def store(self, keys, objects):
        task = self.a.submit_store_task(keys, objects)

        def ask():
            self.stored.update(self.a.pop_completed_store_tasks())
            return self.stored.pop(task, None)
        if not self.wait(self.a.get_store_event_fd(), ask).is_successful():
            raise SystemExit("a store failed")

    def all_set(self, bits, n, what):
        missing = sum(not bits.test(i) for i in range(n))
        if missing:
            raise SystemExit(f"{what}: {missing} of {n} missing")

    def lookup(self, keys):
        task = self.a.submit_lookup_and_lock_task(keys, {})
        self.all_set(self.wait(
            self.a.get_lookup_and_lock_event_fd(),
            lambda: self.a.query_lookup_and_lock_result(task)),
            len(keys), "lookup")
        self.a.submit_unlock(keys)

    def load(self, keys, objects):
        task = self.a.submit_load_task(keys, objects)
        self.all_set(self.wait(self.a.get_load_event_fd(),
                               lambda: self.a.query_load_result(task)),
                     len(keys), "load")


class Pikv:
    def __init__(self, bytes_needed, _):
        mib = max(256, bytes_needed * 5 // 4 >> 20)
        self.node = Daemon({"dram.capacity": f"{mib}MiB",
                            "dram.prefault": "true"})
        self.node.start()
        self.config = {"type": "native_plugin", "module_path": "pikv.lmcache",
                       "class_name": "Client", "adapter_params": {
                           "address": self.node.address,
                           "deadline_ms": 60000, "lookup_ms": 10000}}

    def close(self):
        self.node.remove()


class Resp:
    def __init__(self, _, __):
        port = free_port()
        self.dir = tempfile.mkdtemp(prefix="redis-")
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1",
             "--save", "", "--appendonly", "no", "--dir", self.dir],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.config = {"type": "resp", "host": "127.0.0.1", "port": port}
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise SystemExit("redis-server does not start") from None
                time.sleep(0.05)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Fs:
    def __init__(self, _, folder):
        self.dir = tempfile.mkdtemp(prefix="pikv-bench-fs-", dir=folder)
        self.config = {"type": "fs", "base_path": self.dir}

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


BACKENDS = {"pikv": Pikv, "resp": Resp, "fs": Fs}


class Arena:
    """n blocks to store and n to load into, from LMCache's L1 memory."""

    def __init__(self, n, size, shared):
        total = 2 * n * size + (64 << 20)
        self.manager = l1_memory_manager.L1MemoryManager(L1MemoryManagerConfig(
            size_in_bytes=total, use_lazy=False,
            shm_name=f"pikv_bench_{os.getpid()}" if shared else ""))
        layout = MemoryLayoutDesc([torch.Size([size])], [torch.uint8])
        error, objects = self.manager.allocate(layout, 2 * n)
        if len(objects) != 2 * n:
            raise SystemExit(f"no memory of LMCache's: {error}")
        self.source, self.target = objects[:n], objects[n:]
        for i, o in enumerate(self.source):
            o.tensor.random_(0, 256, generator=None)
            o.tensor[:8] = torch.frombuffer(
                bytearray(i.to_bytes(8, "big")), dtype=torch.uint8)

    def forget(self):
        for o in self.target:
            o.tensor[:8] = 0
            o.tensor[-8:] = 0

    def check(self, n):
        for a, b in zip(self.source[:n], self.target[:n]):
            if not torch.equal(a.tensor, b.tensor):
                raise SystemExit("loaded bytes differ")

    def close(self):
        self.manager.free(self.source + self.target)
        self.manager.close()


def keys_of(tag, n):
    return [ObjectKey(chunk_hash=hash((tag, i)).to_bytes(
        8, "big", signed=True) * 4, model_name="bench", kv_rank=0)
        for i in range(n)]


def timed(call, *args):
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def visit(adapter, arena, tag, row):
    n = len(arena.source)
    size = arena.source[0].get_size()
    keys = keys_of((tag, "all"), n)
    arena.forget()
    row["store"].append(n * size / 1e9 / timed(
        adapter.store, keys, arena.source))
    row["lookup"].append(1e3 * timed(adapter.lookup, keys))
    row["load"].append(n * size / 1e9 / timed(
        adapter.load, keys, arena.target))
    arena.check(n)
    adapter.a.delete(keys)
    ones = min(ONES, n)
    keys = keys_of((tag, "one"), ones)
    for i in range(ones):
        row["store1"].append(1e3 * timed(
            adapter.store, keys[i:i + 1], arena.source[i:i + 1]))
    for i in range(ones):
        row["load1"].append(1e3 * timed(
            adapter.load, keys[i:i + 1], arena.target[i:i + 1]))
    adapter.a.delete(keys)


def span(values, form):
    return (f"{statistics.median(values):{form}} "
            f"({min(values):{form}}-{max(values):{form}})")


def tail(values):
    values = sorted(values)
    return (f"{values[len(values) // 2]:.2f} / "
            f"{values[min(len(values) - 1, len(values) * 99 // 100)]:.2f}")


def measure(a, size, n, names):
    arena = Arena(n, size, a.arena == "shm")
    servers, rows = {}, {}
    try:
        for name in names:
            servers[name] = BACKENDS[name](n * size, a.fs_dir)
        adapters = {b: Adapter(s.config) for b, s in servers.items()}
        for r in range(a.rounds + 1):
            if r <= 1:  # the first one is not counted
                rows = {b: {k: [] for k in ("store", "lookup", "load",
                                            "store1", "load1")}
                        for b in names}
            for i in range(len(names)):
                b = names[(i + r) % len(names)]
                visit(adapters[b], arena, (b, size, r), rows[b])
        for adapter in adapters.values():
            adapter.a.close()
    finally:
        for server in servers.values():
            server.close()
        arena.close()
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--shapes", default="16MiB:80,256KiB:2000")
    p.add_argument("--backends", default="pikv,resp,fs")
    p.add_argument("--arena", choices=("shm", "private"), default="shm")
    p.add_argument("--fs-dir", default="/dev/shm")
    a = p.parse_args()
    logging.getLogger("pikv").setLevel(logging.ERROR)
    names = a.backends.split(",")
    print(f"LMCache L1 in {a.arena} memory, {a.rounds} rounds, fs in "
          f"{a.fs_dir}, {BUILD}; GB/s and ms\n")
    print("| blocks | back end | store GB/s | load GB/s | lookup all, ms |"
          " store one p50 / p99, ms | load one p50 / p99, ms |")
    print("|---|---|---|---|---|---|---|")
    for shape in a.shapes.split(","):
        size, n = shape.split(":")
        rows = measure(a, size_of(size), int(n), names)
        for b in names:
            r = rows[b]
            print(f"| {size} x {n} | {b} | {span(r['store'], '.2f')} |"
                  f" {span(r['load'], '.2f')} | {span(r['lookup'], '.1f')} |"
                  f" {tail(r['store1'])} | {tail(r['load1'])} |", flush=True)


if __name__ == "__main__":
    main()

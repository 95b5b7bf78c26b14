#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the Python package costs over libpikv: GET of batches of 32 small blocks.

    bench/engines/overhead.py [--rounds 7]

The same calls on the same pikvd from C (overhead.c, linked to libpikv.so) and
from Python, in rounds that alternate: submit and wait, one thread, buffers
registered or not. Small blocks, because the copy is the same in both. A table
of the medians of the rounds' medians goes to stdout. Wants `make V=release all`
and a C compiler.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))


def start(a, folder):
    path = os.path.join(folder, "sock")
    log = open(os.path.join(folder, "log"), "wb")
    p = subprocess.Popen(
        [os.path.join(a.out, "pikvd"), "--set", f"listen.shm.path={path}",
         "--set", f"node.state_dir={folder}", "--set", "node.lanes=1", "--set",
         "listen.admin.enabled=false", "--set", "dram.capacity=64MiB"],
        stdout=log, stderr=log)
    return p, "shm:" + path


def in_c(a, program, address, registered):
    out = subprocess.run(
        [program, address, str(a.batches), str(a.items), str(a.size),
         str(int(registered))], stdout=subprocess.PIPE, check=True, text=True,
        env={**os.environ, "LD_LIBRARY_PATH": a.out}).stdout
    return [float(line) for line in out.split()]


def in_python(a, ns, buffers, keys):
    us = []
    for _ in range(a.batches):
        begin = time.perf_counter()
        got = ns.get(keys, buffers, deadline_ms=5000)
        us.append((time.perf_counter() - begin) * 1e6)
        assert got[-1].status == 0, got[-1]
    return us


def measure(a, folder, address):
    import pikv
    program = os.path.join(folder, "overhead")
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program,
                    os.path.join(ROOT, "bench/engines/overhead.c"), "-I", ROOT,
                    "-L", a.out, "-lpikv"], check=True)
    client = pikv.Client(address, connect_ms=10000)
    ns = client.open("overhead")
    keys = [f"key-{i}" for i in range(a.items)]
    ns.put(keys, [bytes(a.size)] * a.items).raise_for_status()
    memory = {True: client.alloc(a.items * a.size),
              False: bytearray(a.items * a.size)}
    med = {}
    for registered, m in memory.items():
        view = memoryview(m)
        buffers = [view[i * a.size:(i + 1) * a.size] for i in range(a.items)]
        med[registered] = ([], [])
        for r in range(a.rounds + 1):
            c = statistics.median(in_c(a, program, address, registered))
            py = statistics.median(in_python(a, ns, buffers, keys))
            if r:  # the first is a warm-up
                med[registered][0].append(c)
                med[registered][1].append(py)
    return med


def main():
    p = argparse.ArgumentParser(description="cost of Python over C")
    p.add_argument("--out", default=os.path.join(ROOT, "out/release"))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--batches", type=int, default=2000, help="per round")
    p.add_argument("--items", type=int, default=32)
    p.add_argument("--size", type=int, default=64, help="bytes of a block")
    a = p.parse_args()
    a.out = os.path.abspath(a.out)
    sys.path.insert(0, os.path.join(a.out, "python"))
    folder = tempfile.mkdtemp(prefix="pikv-overhead.")
    pikvd, address = start(a, folder)
    try:
        med = measure(a, folder, address)
    finally:
        pikvd.kill()
        pikvd.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"GET of {a.items} blocks of {a.size} bytes, us per batch, medians "
          f"of {a.rounds} alternating rounds.\n")
    print("| buffers | C | Python | Python over C |")
    print("|---|---|---|---|")
    for registered, (c, py) in med.items():
        over = statistics.median(y - x for x, y in zip(c, py))
        print(f"| {'registered' if registered else 'any'} | "
              f"{statistics.median(c):.1f} | {statistics.median(py):.1f} | "
              f"{over:.1f} |")


if __name__ == "__main__":
    main()

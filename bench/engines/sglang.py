#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pikvd beside SGLang's own `file` storage, under SGLang's own controller code.

    PYTHONPATH=out/release/python bench/engines/sglang.py [--page 262144]

Both backends are made by SGLang's StorageBackendFactory and called by its
HiCacheController: `file` with copies of pages (its generic path), pikv with
addresses (interface_v1). The pool is SGLang's MHATokenToKVPoolHost, page_first.
A call is 128 pages, SGLang's most; each round has new keys. What was read is
compared with what was written. GB is 10^9 bytes. Needs the packages sglang and
torch; no GPU. The daemon is of $PIKV_BUILD (out/release), all on one machine.

`file` writes to the page cache and never syncs; on /dev/shm it has no disk.
"""

import argparse
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import types

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# Not HERE: a file here has the name of the engine.
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != HERE]
os.environ.setdefault("PIKV_BUILD", "out/release")
sys.path += [os.path.join(ROOT, "tests", "e2e"),
             os.path.join(ROOT, os.environ["PIKV_BUILD"], "python")]
logging.disable(logging.WARNING)

import torch  # noqa: E402
from daemon import Daemon  # noqa: E402
from sglang.srt.managers.cache_controller import \
    HiCacheController  # noqa: E402
from sglang.srt.mem_cache.hicache_storage import (  # noqa: E402
    STORAGE_BATCH_SIZE, HiCacheStorageConfig)
from sglang.srt.mem_cache.pool_host.mha import \
    MHATokenToKVPoolHost  # noqa: E402
from sglang.srt.mem_cache.storage import StorageBackendFactory  # noqa: E402
from sglang.srt.mem_cache.storage.mmap import alloc_shm  # noqa: E402

TOKENS, HEADS, WIDTH = 64, 8, 128
LAYER = 2 * TOKENS * HEADS * WIDTH * 2  # bytes of K and V of a layer, fp16


def pool_of(page_bytes, pages, shared):
    """A host pool of pages, the constructor's work done here: it wants a
    device pool."""
    layers, rest = divmod(page_bytes, LAYER)
    if rest or not layers:
        sys.exit(f"--page: want a multiple of {LAYER}")
    pool = MHATokenToKVPoolHost.__new__(MHATokenToKVPoolHost)
    dims = (2, pages * TOKENS, layers, HEADS, WIDTH)
    for name, value in {
            "layout": "page_first", "dtype": torch.float16, "device": "cpu",
            "pin_memory": False, "page_size": TOKENS, "layer_num": layers,
            "size": pages * TOKENS, "head_num": HEADS,
            "head_dim": WIDTH, "dcp_size": 1}.items():
        setattr(pool, name, value)
    if shared:
        pool.kv_buffer, pool.shm_fd, pool.shm_map = alloc_shm(
            dims, torch.float16)
    else:
        pool.kv_buffer = torch.empty(dims, dtype=torch.float16)
    flat = pool.kv_buffer.view(torch.int16).flatten()
    for i in range(0, flat.numel(), 1 << 24):
        part = flat[i:i + (1 << 24)]
        part.copy_(torch.randint(-30000, 30000, part.shape,
                                 dtype=torch.int16))
    return pool


def config(extra):
    return HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0,
        attn_cp_size=1, is_mla_model=False, enable_storage_metrics=False,
        is_page_first_layout=True, model_name="bench/model",
        extra_config=extra)


def controller(backend, pool, zero_copy):
    """SGLang's controller, of which only the storage side is there."""
    it = HiCacheController.__new__(HiCacheController)
    it.storage_backend, it.storage_host_pool = backend, pool
    it.page_size = TOKENS
    if zero_copy:
        return it._page_set_zero_copy, it._page_get_zero_copy
    return it._generic_page_set, it._generic_page_get


def hashes(n, start):
    return [f"{start + i:08x}" * 8 for i in range(n)]


def timed(call, *args):
    began = time.perf_counter()
    answer = call(*args)
    return time.perf_counter() - began, answer


def measure(backend, pool, zero_copy, page_bytes, rounds):
    """Medians of rounds: set GB/s, get GB/s, us of a query of all pages."""
    n = STORAGE_BATCH_SIZE
    put, get = controller(backend, pool, zero_copy)
    old = torch.arange(n * TOKENS)
    new = torch.arange(n * TOKENS, 2 * n * TOKENS)
    operation = types.SimpleNamespace(request_id="bench",
                                      is_terminated=lambda: False)
    times = {"set": [], "get": [], "ask": []}
    half = n * TOKENS
    raw = pool.kv_buffer.view(torch.int16)  # as floats, NaN differs from NaN
    for r in range(rounds + 1):  # the first is for warming up
        keys = hashes(n, r * n)
        pool.kv_buffer[:, :half:TOKENS, 0, 0, 0] = r
        pool.kv_buffer[:, half:].zero_()
        for name, call, args in (("set", put, (keys, old)),
                                 ("ask", backend.batch_exists, (keys,)),
                                 ("get", get, (operation, keys, new))):
            seconds, answer = timed(call, *args)
            if answer is not True and answer != n:
                sys.exit(f"{name}: {answer!r} instead of {n} pages")
            if r:
                times[name].append(seconds)
        if not torch.equal(raw[:, :half], raw[:, half:]):
            sys.exit("other bytes came back")
    gb = n * page_bytes / 1e9
    return [gb / statistics.median(times["set"]),
            gb / statistics.median(times["get"]),
            statistics.median(times["ask"]) * 1e6]


def pikv(page_bytes, rounds, shared):
    pool = pool_of(page_bytes, 2 * STORAGE_BATCH_SIZE, shared)
    room = (rounds + 2) * STORAGE_BATCH_SIZE * page_bytes * 2
    with Daemon({"dram.capacity": f"{(room >> 20) + 256}MiB",
                 "dram.prefault": "true"}) as node:
        backend = StorageBackendFactory.create_backend("dynamic", config({
            "backend_name": "pikv", "module_path": "pikv.sglang",
            "class_name": "HiCachePikv", "interface_v1": 1,
            "deadline_ms": 60000, "address": node.address}), pool)
        backend.register_mem_pool_host(pool)
        try:
            row = measure(backend, pool, True, page_bytes, rounds)
            return row, backend.stats()["copies"]
        finally:
            backend.close()


def file(page_bytes, rounds, where):
    pool = pool_of(page_bytes, 2 * STORAGE_BATCH_SIZE, True)
    there = tempfile.mkdtemp(prefix="hicache-", dir=where)
    try:
        backend = StorageBackendFactory.create_backend(
            "file", config({"file_storage_path": there}), pool)
        backend.register_mem_pool_host(pool)
        return measure(backend, pool, False, page_bytes, rounds)
    finally:
        shutil.rmtree(there, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--page", type=int, nargs="+", default=[256 << 10, 2 << 20])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--dir", default=tempfile.gettempdir(),
                   help="for files of the `file` backend")
    a = p.parse_args()
    print(f"128 pages per call, median of {a.rounds} calls, bytes compared\n")
    print("| page | backend | set GB/s | get GB/s | query of 128, us |")
    print("|---|---|---|---|---|")

    def row(page, name, values):
        print(f"| {page >> 10} KiB | {name} | {values[0]:.2f} | "
              f"{values[1]:.2f} | {values[2]:.0f} |", flush=True)
    for page in a.page:
        values, copies = pikv(page, a.rounds, True)
        row(page, f"pikv, shared pool ({copies} copy)", values)
        values, copies = pikv(page, a.rounds, False)
        row(page, f"pikv, private pool ({copies} copies)", values)
        row(page, f"SGLang file, {a.dir}", file(page, a.rounds, a.dir))
        row(page, "SGLang file, /dev/shm", file(page, a.rounds, "/dev/shm"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

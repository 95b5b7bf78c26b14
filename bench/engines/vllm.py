#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pikvd beside vLLM's own `fs` tier, under vLLM's own tiering manager.

    PYTHONPATH=out/release/python bench/engines/vllm.py [--row 2097152]

Both tiers are made by vLLM's TieringOffloadingSpec from a configuration, over
its shared region in /dev/shm.

throughput   one job of 128 chunks from submit to the result, polled; what was
             loaded is compared with what was stored. GB is 10^9 bytes
calls        a schedule of steps, as vLLM's scheduler drives its tiers: four
             requests a step with 32 lookups each, promotions of the hits, 16
             stores; between steps the model's time, in which the scheduler
             thread sleeps. Each call of the tier is timed: how long does it
             keep the scheduler thread? waits: calls in which the thread gave
             up its CPU to wait, for Python's lock too. undisturbed: the
             longest of the calls in which the kernel took the CPU for others
             in no case, which a loaded machine does in any

Needs the packages vllm and torch; no GPU. The daemon is of $PIKV_BUILD
(out/release), all on one machine. `fs` uses O_DIRECT where the file system has
it; on /dev/shm it has no disk.
"""

import argparse
import collections
import hashlib
import logging
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# Not HERE: a file here has the name of the engine.
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != HERE]
os.environ.setdefault("PIKV_BUILD", "out/release")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path += [os.path.join(ROOT, "tests", "e2e"),
             os.path.join(ROOT, os.environ["PIKV_BUILD"], "python")]
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402
from daemon import Daemon  # noqa: E402
from vllm.utils.hashing import sha256_cbor  # noqa: E402
from vllm.v1.core import kv_cache_utils  # noqa: E402
from vllm.v1.kv_offload.base import (LookupResult, ReqContext,  # noqa: E402
                                     ScheduleEndContext)
from vllm.v1.kv_offload.config import (  # noqa: E402
    OffloadingCacheConfig, OffloadingConfig, OffloadingGroupConfig,
    OffloadingModelConfig, OffloadingParallelConfig)
from vllm.v1.kv_offload.tiering.base import TransferJob  # noqa: E402
from vllm.v1.kv_offload.tiering.spec import \
    TieringOffloadingSpec  # noqa: E402

JOB = 128
REQUESTS, LOOKUPS, STORES = 4, 32, 16
CALLS = ("lookup", "submit_load", "submit_store", "get_finished_jobs",
         "on_schedule_end", "on_new_request", "on_request_finished", "touch")
END = ScheduleEndContext(new_req_ids=[], preempted_req_ids=())


def key(n):
    return hashlib.sha256(b"%d" % n).digest() + bytes(4)


def manager_of(tier, row, rows):
    config = OffloadingConfig(
        groups=(OffloadingGroupConfig(16, ("l0",), 0),),
        worker_kv_bytes_per_block=row, enable_kv_cache_events=False,
        extra_config={"cpu_bytes_to_use": row * rows,
                      "secondary_tiers": [tier]},
        engine_id=f"pikvbench-{uuid.uuid4().hex}",
        model=OffloadingModelConfig("bench/model", "bfloat16"),
        cache=OffloadingCacheConfig(16, 1),
        parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None,
                                          False))
    return TieringOffloadingSpec(config).get_manager()


# ---- throughput

def job_done(tier, job, load):
    began = time.perf_counter()
    (tier.submit_load if load else tier.submit_store)(job)
    tier.on_schedule_end(END)
    while True:
        for result in tier.get_finished_jobs():
            if not result.success:
                sys.exit(f"a job of {tier.tier_type} failed")
            return time.perf_counter() - began
        time.sleep(0.0001)


def throughput(tier_config, row, rounds):
    """Medians: store GB/s, load GB/s."""
    manager = manager_of(tier_config, row, 2 * JOB)
    (tier,) = manager.secondary_tiers
    view = manager.primary_tier.get_kv_memoryview()
    rows = np.frombuffer(view, dtype=np.uint8).reshape(2 * JOB, row)
    ctx = ReqContext(req_id="bench")
    rows[:JOB] = np.random.default_rng(1).integers(0, 256, (JOB, row), np.uint8)
    times = {True: [], False: []}
    for r in range(rounds + 1):  # the first is for warming up
        ks = [key(r * JOB + i) for i in range(JOB)]
        rows[:JOB, 0] = r
        rows[JOB:] = 0
        for load in (False, True):
            chunks = np.arange(JOB * load, JOB * (1 + load), dtype=np.int32)
            seconds = job_done(tier, TransferJob(
                r * 2 + load, ks, chunks, load, ctx), load)
            if r:
                times[load].append(seconds)
        if not np.array_equal(rows[:JOB], rows[JOB:]):
            sys.exit("other bytes came back")
    del rows, view
    manager.shutdown()
    gb = JOB * row / 1e9
    return [gb / statistics.median(times[load]) for load in (False, True)]


# ---- calls

def timed_calls(tier, taken):
    """Each call of the tier is timed, on the thread that makes it."""
    for name in CALLS:
        call = getattr(tier, name)

        def wrapped(*args, _call=call, _times=taken[name]):
            before = resource.getrusage(resource.RUSAGE_THREAD)
            began = time.perf_counter_ns()
            out = _call(*args)
            took = time.perf_counter_ns() - began
            after = resource.getrusage(resource.RUSAGE_THREAD)
            _times.append((took, after.ru_nvcsw - before.ru_nvcsw,
                           after.ru_nivcsw - before.ru_nivcsw))
            return out
        setattr(tier, name, wrapped)


def schedule(manager, first, steps, model_s):
    """Requests come four at a time, look 32 chunks up until all are decided,
    touch them, store 16 new ones, and end. Half of what they look up has been
    stored by earlier ones and left the primary tier meanwhile."""
    stored = first * REQUESTS * STORES
    waiting = collections.deque()
    for step in range(first, first + steps):
        for i in range(REQUESTS):
            ctx = ReqContext(req_id=f"{step}.{i}")
            manager.on_new_request(ctx)
            old = [key(n % max(stored, 1)) for n in
                   range(step * 37 + i * 11, step * 37 + i * 11 + LOOKUPS // 2)]
            new = [key((1 << 40) + (step * REQUESTS + i) * LOOKUPS + n)
                   for n in range(LOOKUPS - len(old))]
            waiting.append((ctx, old + new))
        for _ in range(len(waiting)):
            ctx, ks = waiting.popleft()
            said = [manager.lookup(k, ctx) for k in ks]
            if (LookupResult.RETRY in said or
                    LookupResult.HIT_PENDING in said) and len(waiting) < 64:
                waiting.append((ctx, ks))
                continue
            manager.touch(ks, ctx)
            fresh = [key(stored + n) for n in range(STORES)]
            stored += STORES
            out = manager.prepare_store(fresh, ctx)
            if out is not None and out.keys_to_store:
                manager.complete_store(out.keys_to_store, ctx)
            manager.on_request_finished(ctx)
        manager.on_schedule_end(END)
        time.sleep(model_s)
    while manager.has_pending_work():
        manager.on_schedule_end(END)
        time.sleep(model_s)


def calls(tier_config, row, steps, model_s):
    """{call: (number, p50, p99, max, max undisturbed in us, waits)}."""
    manager = manager_of(tier_config, row, 512)
    (tier,) = manager.secondary_tiers
    warm = {name: [] for name in CALLS}
    schedule(manager, 0, 20, model_s)
    timed_calls(tier, warm)
    schedule(manager, 20, steps, model_s)
    manager.shutdown()
    out = {}
    for name, values in warm.items():
        took = sorted(t for t, _, _ in values)
        if took:
            alone = max((t for t, _, taken in values if not taken), default=0)
            out[name] = (len(took), took[len(took) // 2] / 1e3,
                         took[int(len(took) * 0.99)] / 1e3, took[-1] / 1e3,
                         alone / 1e3, sum(w > 0 for _, w, _ in values))
    return out


# ---- tables

def both(kinds, run):
    for name, make in kinds:
        with make() as tier:
            yield name, run(tier)


class Pikv:
    def __init__(self, room):
        self.node = Daemon({"dram.capacity": f"{room >> 20}MiB",
                            "dram.prefault": "true"})

    def __enter__(self):
        self.node.start()
        return {"type": "PikvTier", "module_path": "pikv.vllm",
                "address": self.node.address, "deadline_ms": 60000}

    def __exit__(self, *_):
        self.node.remove()


class Fs:
    def __init__(self, where):
        self.where = where

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="vllm-fs-", dir=self.where)
        return {"type": "fs", "root_dir": self.dir}

    def __exit__(self, *_):
        shutil.rmtree(self.dir, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--row", type=int, nargs="+", default=[256 << 10, 2 << 20],
                   help="bytes of a chunk, all workers")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--model-ms", type=float, default=5.0)
    p.add_argument("--dir", default=tempfile.gettempdir(),
                   help="for files of the fs tier")
    a = p.parse_args()
    kv_cache_utils.init_none_hash(sha256_cbor)

    def kinds(room):
        return (("pikv", lambda: Pikv(room)),
                (f"vLLM fs, {a.dir}", lambda: Fs(a.dir)),
                ("vLLM fs, /dev/shm", lambda: Fs("/dev/shm")))
    print(f"jobs of {JOB} chunks, median of {a.rounds}, bytes compared\n")
    print("| chunk | tier | store GB/s | load GB/s |\n|---|---|---|---|")
    for row in a.row:
        room = (a.rounds + 2) * JOB * row * 2 + (256 << 20)
        for name, (put, get) in both(
                kinds(room), lambda t: throughput(t, row, a.rounds)):
            print(f"| {row >> 10} KiB | {name} | {put:.2f} | {get:.2f} |",
                  flush=True)
    row = 64 << 10
    print(f"\ncalls on the scheduler thread, {a.steps} steps, chunks of "
          f"{row >> 10} KiB, us\n")
    print("| call | tier | calls | p50 | p99 | max | undisturbed | waits |")
    print("|---|---|---|---|---|---|---|---|")
    room = 4 * a.steps * REQUESTS * STORES * row + (1 << 30)
    found = dict(both(kinds(room), lambda t: calls(
        t, row, a.steps, a.model_ms / 1e3)))
    for call in CALLS:
        for name in found:
            if call in found[name]:
                n, p50, p99, most, alone, waits = found[name][call]
                print(f"| {call} | {name} | {n} | {p50:.1f} | {p99:.1f} | "
                      f"{most:.1f} | {alone:.1f} | {waits} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

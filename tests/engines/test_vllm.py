#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pikv.vllm under vLLM's own TieringOffloadingManager, against a pikvd.

With vLLM importable the tier is made by its SecondaryTierFactory from a
configuration, over its own shared region in /dev/shm, and the manager moves
chunks as the scheduler would have it; nothing of vLLM is replaced. Its GPU
side is not there: rows are filled by the test where a worker would. Without
vLLM a stand-in has the names that the tier uses, and only the tier is tested.
"""

import ctypes
import hashlib
import logging
import os
import threading
import time
import types
import unittest
import uuid
from unittest import mock

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import doors  # noqa: E402
from doors import Daemon, Mem, payload, until  # noqa: E402

base, WHY = doors.real("vllm.v1.kv_offload.base")
spec, WHY2 = doors.real("vllm.v1.kv_offload.tiering.spec")
REAL = bool(base and spec)
ENGINE = "real vLLM" if REAL else f"stand-in ({WHY or WHY2})"
if not REAL:
    import standin_vllm
    standin_vllm.install()
    base, _ = doors.real("vllm.v1.kv_offload.base")
tiering, _ = doors.real("vllm.v1.kv_offload.tiering.base")
hashing, _ = doors.real("vllm.v1.core.kv_cache_utils")

import pikv.vllm  # noqa: E402
from pikv import _moves, _vllm  # noqa: E402
from pikv.vllm import PikvTier  # noqa: E402
from ssd import SsdNode  # noqa: E402

HIT, MISS, RETRY, HIT_PENDING = (base.LookupResult[n] for n in (
    "HIT", "MISS", "RETRY", "HIT_PENDING"))
ROW = 64 << 10
ROWS = 64
SLOW = {"deadline_ms": doors.LONG_MS, "lookup_ms": doors.LONG_MS,
        "connect_ms": doors.LONG_MS, "retry_ms": 20, "pin_ttl_ms": 60_000}
_requests = iter(range(1 << 30))


def key(n, group=0):
    """An offload key: SHA-256 of a block and its group, as vLLM packs it."""
    return hashlib.sha256(b"%d" % n).digest() + group.to_bytes(4, "big")


def keys(n, start=0):
    return [key(i) for i in range(start, start + n)]


def request():
    return base.ReqContext(req_id=f"r{next(_requests)}")


def config(*, extra=None, model="org/model", dtype="bfloat16", tp=1, pp=1,
           tokens=16, free=False, layers=("l0", "l1"), row=ROW, **more):
    """vLLM's OffloadingConfig, or one of its shape."""
    if REAL:
        from vllm.v1.kv_offload import config as c
        make = types.SimpleNamespace(
            whole=c.OffloadingConfig, group=c.OffloadingGroupConfig,
            model=c.OffloadingModelConfig, cache=c.OffloadingCacheConfig,
            parallel=c.OffloadingParallelConfig)
    else:
        names = types.SimpleNamespace
        make = types.SimpleNamespace(whole=names, group=names, model=names,
                                     cache=names, parallel=names)
    return make.whole(
        groups=(make.group(tokens_per_block=tokens, layer_names=layers,
                           group_id=0),),
        worker_kv_bytes_per_block=row // (tp * pp),
        enable_kv_cache_events=more.pop("events", False),
        extra_config=extra or {}, engine_id=f"pikvtest-{uuid.uuid4().hex}",
        model=make.model(name=model, dtype=dtype),
        cache=make.cache(tokens_per_hash=16, blocks_per_chunk=1),
        parallel=make.parallel(
            rank=0, world_size=tp * pp, tp_size=tp, pp_size=pp, pcp_size=1,
            dcp_size=1, data_parallel_index=0, data_parallel_size=1,
            data_parallel_rank_local=None, is_parallelism_agnostic=free),
        replicated_layout=False, **more)


def job(number, ks, rows, ctx, load=False):
    return tiering.TransferJob(job_id=number, keys=ks, chunk_ids=rows,
                               is_promotion=load, req_context=ctx)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        logging.getLogger("pikv.vllm").setLevel(logging.CRITICAL)
        if REAL:
            from vllm.utils.hashing import sha256_cbor
            hashing.init_none_hash(sha256_cbor)
        cls.node = Daemon()
        cls.addClassCleanup(cls.node.remove)
        cls.node.start()

    def tier(self, node=None, memory=None, made=None, **settings):
        """A tier over 64 rows of shared memory."""
        memory = memory or Mem(ROWS * ROW)
        view = memoryview((ctypes.c_char * len(memory.map)).from_buffer(
            memory.map)).cast("B").cast("B", (memory.n // ROW, ROW))
        holder = types.SimpleNamespace(
            config=made or config(), blocks_per_chunk=1,
            kv_events_config=types.SimpleNamespace(
                enable_kv_cache_events=True))
        where = node or self.node
        t = PikvTier(offloading_spec=holder, primary_kv_view=view,
                     tier_type="PikvTier", **{
                         "address": getattr(where, "address", where),
                         "namespace": self._testMethodName, **SLOW,
                         **settings})
        self.addCleanup(t.shutdown)
        return t, memory

    def opened(self, t):
        self.assertTrue(until(lambda: t._opened.is_set()))

    def answer(self, t, k, ctx):
        """What a lookup says once it has been answered."""
        got = []

        def asked():
            got.append(t.lookup(k, ctx))
            t.on_schedule_end(None)
            return got[-1] is not RETRY
        self.assertTrue(until(asked))
        return got[-1]

    def done(self, t):
        t.drain_jobs()
        return {r.job_id: r for r in t.get_finished_jobs()}

    def store(self, t, memory, ks, first=0, seed=0):
        for i, _ in enumerate(ks):
            at = (first + i) * ROW
            memory[at:at + ROW] = payload(ROW, seed + i)
        t.submit_store(job(1, ks, list(range(first, first + len(ks))),
                           request()))
        return self.done(t)[1]


class TestTier(Case):
    def test_chunks_round_trip_without_a_copy(self):
        t, memory = self.tier()
        ks, ctx = keys(8), request()
        self.assertTrue(self.store(t, memory, ks).success)
        self.assertEqual([self.answer(t, k, ctx) for k in ks], [HIT] * 8)
        t.submit_load(job(2, ks, list(range(20, 28)), ctx, True))
        result = self.done(t)[2]
        self.assertTrue(result.success)
        self.assertEqual(result.transfer_bytes, 8 * ROW)
        self.assertEqual(memory[0:8 * ROW], memory[20 * ROW:28 * ROW])
        self.assertEqual(t.stats()["copies"], "one")

    def test_private_memory_works_by_way_of_the_staging_area(self):
        t, memory = self.tier(memory=Mem(ROWS * ROW, shared=False))
        self.assertTrue(self.store(t, memory, keys(4)).success)
        t.submit_load(job(2, keys(4), [9, 8, 7, 6], request(), True))
        self.assertTrue(self.done(t)[2].success)
        self.assertEqual(memory[0:ROW], memory[9 * ROW:10 * ROW])
        self.assertEqual(t.stats()["copies"], "two")

    def test_what_is_not_there_is_a_miss(self):
        t, _ = self.tier()
        ctx = request()
        self.assertEqual(self.answer(t, key(1), ctx), MISS)
        self.assertEqual(t.lookup(key(1), ctx), MISS)

    def test_a_miss_is_asked_once_by_a_request(self):
        t, memory = self.tier()
        ctx = request()
        self.assertEqual(self.answer(t, key(1), ctx), MISS)
        self.store(t, memory, [key(1)])
        self.assertEqual(self.answer(t, key(1), ctx), MISS)
        self.assertTrue(until(
            lambda: self.answer(t, key(1), request()) == HIT))
        t.on_request_finished(ctx)
        self.assertTrue(until(lambda: self.answer(t, key(1), ctx) == HIT))
        self.assertFalse(t._answers._missed.get(ctx.req_id))

    def test_a_first_lookup_does_not_wait(self):
        t, _ = self.tier()
        self.opened(t)
        self.assertEqual(t.lookup(key(1), request()), RETRY)

    def test_requests_share_a_question(self):
        t, _ = self.tier()
        self.opened(t)
        one, two = request(), request()
        t.lookup(key(1), one)
        t.lookup(key(1), two)
        self.assertEqual(len(t._batch), 1)

    def test_what_another_engine_stores_is_waited_for_and_then_a_miss(self):
        answers = _vllm.Answers(1.0)
        self.assertEqual(answers.look(b"k", "r"), (None, True))
        began = time.monotonic()
        answers.learn([b"k"], [_vllm.PENDING], began)
        self.assertTrue(until(lambda: answers.look(b"k", "r")[1]))
        answers._asked[b"k"] = began - _vllm.PENDING_MAX_S
        answers.learn([b"k"], [_vllm.PENDING], time.monotonic())
        self.assertEqual(answers.look(b"k", "r"), (False, False))

    def clocked(self):
        """Answers with a clock of its own: (answers, set the time)."""
        now = [100.0]
        fake = types.SimpleNamespace(monotonic=lambda: now[0])
        patch = mock.patch.object(_vllm, "time", fake)
        patch.start()
        self.addCleanup(patch.stop)
        return _vllm.Answers(0.0), lambda t: now.__setitem__(0, 100.0 + t)

    def test_a_step_of_any_length_gets_its_answer(self):
        for state, want in ((0, False), (_vllm.HIT, True)):
            answers, at = self.clocked()
            self.assertEqual(answers.look(b"k", "r"), (None, True))
            self.assertEqual(answers.look(b"k", "s"), (None, False))
            answers.learn([b"k"], [state], 100.0)
            at(3600)
            self.assertEqual(answers.look(b"k", "r"), (want, False))
            self.assertEqual(answers.look(b"k", "s"), (want, False))
            self.assertEqual(answers.look(b"k", "new"), (None, True))

    def test_steps_longer_than_the_wait_end_it_as_well(self):
        answers, at = self.clocked()
        self.assertEqual(answers.look(b"k", "r"), (None, True))
        for step in range(1, 4):
            answers.learn([b"k"], [_vllm.PENDING], 100.0 + step)
            at(2 * step)
            if answers.look(b"k", "r") == (False, False):
                return
        self.fail("it waits for ever")

    def test_nothing_is_kept_of_a_request_that_has_ended(self):
        answers = _vllm.Answers(1.0)
        self.assertEqual(answers.look(b"k", "r"), (None, True))
        answers.end("r")
        answers.learn([b"k"], [0], time.monotonic())
        answers.missed("r", [b"k"])
        self.assertFalse(answers._missed)

    def test_answers_are_bounded_and_do_not_last(self):
        answers = _vllm.Answers(0.1)
        n = _vllm.ANSWERS_MAX + 10
        many = [b"%d" % i for i in range(n)]
        answers.learn(many, [_vllm.HIT] * n, time.monotonic())
        self.assertEqual(len(answers._known), _vllm.ANSWERS_MAX)
        self.assertTrue(until(lambda: answers.look(many[-1], "r")[1]))

    def test_a_partial_load_says_what_came_and_makes_misses(self):
        t, memory = self.tier()
        ctx = request()
        self.store(t, memory, keys(2))
        self.assertEqual(self.answer(t, key(0), ctx), HIT)
        t.submit_load(job(2, keys(3), [10, 11, 12], ctx, True))
        result = self.done(t)[2]
        self.assertFalse(result.success)
        self.assertEqual(tuple(result.successful_keys), tuple(keys(2)))
        self.assertEqual(memory[0:2 * ROW], memory[10 * ROW:12 * ROW])
        self.assertEqual(t.lookup(key(2), ctx), MISS)

    def test_a_load_that_failed_is_a_miss_for_its_request(self):
        t, memory = self.tier()
        ctx = request()
        self.store(t, memory, keys(1))
        self.assertEqual(self.answer(t, key(0), ctx), HIT)
        t._moves.store.ns.evict(select="namespace")
        t.submit_load(job(2, keys(1), [10], ctx, True))
        self.assertFalse(self.done(t)[2].success)
        self.assertEqual(t.lookup(key(0), ctx), MISS)

    def test_rows_outside_the_primary_tier_are_refused(self):
        t, memory = self.tier()
        for rows in ([ROWS], [-1], [0, 1]):
            t.submit_load(job(3, keys(1), rows, request(), True))
            self.assertFalse(self.done(t)[3].success)

    def test_a_stored_chunk_of_another_size_is_a_failed_load(self):
        t, memory = self.tier()
        self.opened(t)
        t._moves.store.ns.put([key(0)], [b"short"], routes=[key(0)[:32]])
        t.submit_load(job(2, keys(1), [10], request(), True))
        self.assertFalse(self.done(t)[2].success)

    def test_a_chunk_stored_twice_is_stored(self):
        t, memory = self.tier()
        self.assertTrue(self.store(t, memory, keys(4)).success)
        self.assertTrue(self.store(t, memory, keys(4)).success)

    def test_groups_of_one_hash_are_different_chunks(self):
        t, memory = self.tier()
        memory[0:ROW] = payload(ROW, 1)
        memory[ROW:2 * ROW] = payload(ROW, 2)
        t.submit_store(job(1, [key(0, 0), key(0, 1)], [0, 1], request()))
        self.done(t)
        t.submit_load(job(2, [key(0, 1), key(0, 0)], [5, 6], request(), True))
        self.assertTrue(self.done(t)[2].success)
        self.assertEqual(memory[5 * ROW:6 * ROW], payload(ROW, 2))

    def test_128_chunks_are_one_job(self):
        memory = Mem(256 * ROW)
        t, _ = self.tier(memory=memory)
        ks = keys(128)
        self.assertTrue(self.store(t, memory, ks).success)
        t.submit_load(job(2, ks, list(range(128, 256)), request(), True))
        self.assertTrue(self.done(t)[2].success)
        self.assertEqual(memory[0:128 * ROW], memory[128 * ROW:256 * ROW])

    def test_every_job_is_reported_once_also_at_the_end(self):
        t, memory = self.tier()
        for n in range(20):
            t.submit_store(job(n, keys(2, 2 * n), [0, 1], request()))
            if n == 10:
                t.on_schedule_end(None)
        t.shutdown()
        t.shutdown()
        self.assertEqual(sorted(r.job_id for r in t.get_finished_jobs()),
                         list(range(20)))
        self.assertFalse(t.has_pending_work())

    def test_touches_reach_the_server_and_pile_up_to_a_limit(self):
        t, memory = self.tier()
        self.store(t, memory, keys(2))
        for _ in range(1000):
            t.touch(keys(2), request())
        self.assertEqual(len(t._touches), pikv.vllm.TOUCHES_MAX)

        def told():
            t.on_schedule_end(None)
            return not t._touches
        self.assertTrue(until(told))

    def test_stored_chunks_are_events_if_wanted(self):
        t, memory = self.tier(enable_kv_events=True)
        self.store(t, memory, keys(2))
        (event,) = t.take_events()
        self.assertEqual(event.keys, keys(2))
        self.assertFalse(event.removed)
        self.assertEqual(list(t.take_events()), [])

    def test_positions_make_chains(self):
        ctx = request()
        chains = _vllm.Chains()
        for i in range(4):
            ctx.set_offload_key_position(key(i), 16 * (i + 1))
        first = _vllm.Job(job(1, keys(2), [0, 1], ctx))
        self.assertEqual(chains.of(first), ([None, key(0)], [16, 32]))
        then = _vllm.Job(job(2, keys(2, 2), [2, 3], ctx))
        self.assertEqual(chains.of(then), ([key(1), key(2)], [48, 64]))

    def test_chains_of_many_requests_are_bounded(self):
        with mock.patch.object(_vllm, "CHAINED_MAX", 8):
            chains = _vllm.Chains()
            for i in range(20):
                ctx = request()
                for k in keys(3):
                    ctx.set_offload_key_position(k, 16 * (1 + k[0]))
                chains.of(_vllm.Job(job(i, keys(3), [0, 1, 2], ctx)))
            self.assertLessEqual(sum(map(len, chains._ends.values())), 8)

    def test_it_ends_also_before_it_has_begun(self):
        with mock.patch.object(pikv.vllm, "none_hash", lambda: None):
            t, _ = self.tier()
            t.submit_store(job(1, keys(1), [0], request()))
            end = threading.Thread(target=t.shutdown, daemon=True)
            end.start()
            end.join(doors.LONG_MS / 1000)
        self.assertFalse(end.is_alive())
        self.assertEqual([r.job_id for r in t.get_finished_jobs()], [1])

    def test_a_vllm_that_cannot_say_its_hash_turns_the_tier_off(self):
        def broken():
            raise AttributeError("half imported")
        with mock.patch.object(pikv.vllm, "none_hash", broken):
            t, memory = self.tier()
            self.opened(t)
        self.assertIn("half imported", t.error)
        self.assertEqual(t.lookup(key(0), request()), MISS)
        self.assertFalse(self.store(t, memory, keys(1)).success)

    def test_a_call_that_cannot_be_leaves_none_in_flight(self):
        t, memory = self.tier()
        self.opened(t)
        bad = [key(i) for i in range(_moves.PART_ITEMS)] + [b"k" * 2000]
        data = [(memory.at, ROW)] * len(bad)
        for move in (t._moves.put, t._moves.get):
            with self.assertRaises(ValueError):
                move(bad, data, [ROW] * len(bad))
            self.assertEqual(t._moves.store.client.stats()["inflight"], 0)

    def test_older_names_of_fields_are_understood(self):
        old = types.SimpleNamespace(job_id=7, keys=[key(0)], block_ids=[3])
        self.assertEqual(_vllm.Job(old).rows(8), [3])

        class Result:
            def __init__(self, job_id, success, **_):
                self.job_id, self.success = job_id, success
        got = _vllm.Job(old).result(Result, [True], True, 0.1, ROW)
        self.assertEqual((got.job_id, got.success), (7, True))

    def test_wrong_settings_are_named(self):
        for name, value in (("deadline_ms", 0), ("namespace", 5),
                            ("colour", "red"), ("locality", "moon")):
            with self.assertRaisesRegex(ValueError, name if name != "locality"
                                        else "moon"):
                self.tier(**{name: value})


class TestServer(Case):
    def test_a_daemon_that_comes_later_is_used(self):
        late = Daemon()
        self.addCleanup(late.remove)
        t, memory = self.tier(node=late)
        ctx = request()
        self.assertEqual(self.answer(t, key(0), ctx), MISS)
        self.assertFalse(self.store(t, memory, keys(1)).success)
        late.start()
        self.assertTrue(until(
            lambda: self.store(t, memory, keys(1)).success))
        self.assertTrue(until(
            lambda: self.answer(t, key(0), request()) == HIT))

    def test_a_killed_daemon_is_misses_and_then_used_again(self):
        node = Daemon()
        self.addCleanup(node.remove)
        node.start()
        t, memory = self.tier(node=node, pin_ttl_ms=100)
        self.store(t, memory, keys(2))
        self.assertEqual(self.answer(t, key(0), request()), HIT)
        node.kill()
        t.submit_load(job(5, keys(2), [8, 9], request(), True))
        self.assertFalse(self.done(t)[5].success)
        self.assertFalse(t.ready)
        self.assertIn("NO_SERVER", t.error)
        self.assertTrue(until(
            lambda: self.answer(t, key(0), request()) == MISS))
        node.start()
        self.assertTrue(until(
            lambda: self.store(t, memory, keys(2)).success))
        t.submit_load(job(6, keys(2), [8, 9], request(), True))
        self.assertTrue(self.done(t)[6].success)
        self.assertEqual(memory[0:2 * ROW], memory[8 * ROW:10 * ROW])
        self.assertEqual(t.stats()["copies"], "one")

    def restarted(self, end):
        with SsdNode() as node:
            t, memory = self.tier(node=node)
            self.store(t, memory, keys(8), seed=40)
            want = memory[0:8 * ROW]
            node.written()
            getattr(node, end)()
            node.start()
            t.shutdown()
            again, memory = self.tier(node=node)
            ctx = request()
            self.assertEqual([self.answer(again, k, ctx) for k in keys(8)],
                             [HIT] * 8)
            again.submit_load(job(2, keys(8), list(range(8)), ctx, True))
            self.assertTrue(self.done(again)[2].success)
            self.assertEqual(memory[0:8 * ROW], want)
            again.shutdown()

    def test_the_same_bytes_after_a_restart_from_the_ssd(self):
        self.restarted("stop")

    def test_the_same_bytes_after_a_kill_from_the_ssd(self):
        self.restarted("kill")

    def mismatch(self, field, made, **settings):
        good, memory = self.tier()
        self.store(good, memory, keys(1))
        off, other = self.tier(made=made, **settings)
        self.assertEqual(self.answer(off, key(0), request()), MISS)
        self.assertIn(field, off.error)
        self.assertFalse(off.ready)
        self.assertFalse(self.store(off, other, keys(1)).success)

    def test_another_model_is_refused_by_name(self):
        self.mismatch("model", config(model="org/other"))

    def test_another_dtype_is_refused_by_name(self):
        self.mismatch("dtype", config(dtype="fp8_e4m3"))

    def test_another_tensor_parallel_size_is_refused_by_name(self):
        self.mismatch("parallel_layout", config(tp=2))

    def test_another_pipeline_parallel_size_is_refused_by_name(self):
        self.mismatch("parallel_layout", config(pp=2))

    def test_another_block_size_is_refused_by_name(self):
        self.mismatch("tokens_per_block", config(tokens=32))

    def test_other_layers_are_refused_by_name(self):
        self.mismatch("groups", config(layers=("l0", "l7")))

    def test_other_weights_are_refused_by_name(self):
        self.mismatch("weights_version", config(), weights_version="2")

    def test_bytes_that_do_not_depend_on_it_are_shared_across_tp(self):
        a, memory = self.tier(made=config(free=True))
        self.store(a, memory, keys(1))
        b, _ = self.tier(made=config(free=True, tp=2))
        self.assertEqual(self.answer(b, key(0), request()), HIT)


class TestHashes(Case):
    def fake(self, seed, **names):
        """vLLM's hashing module as it would be with that environment."""
        old = os.environ.get("PYTHONHASHSEED")
        self.addCleanup(lambda: os.environ.__setitem__("PYTHONHASHSEED", old)
                        if old is not None
                        else os.environ.pop("PYTHONHASHSEED", None))
        os.environ.pop("PYTHONHASHSEED", None)
        if seed is not None:
            os.environ["PYTHONHASHSEED"] = seed
        module = types.SimpleNamespace(NONE_HASH=b"n" * 32, **names)
        ask, _vllm._hashing = _vllm._hashing, lambda: module
        self.addCleanup(setattr, _vllm, "_hashing", ask)

    def new(self, chosen):
        return {"DEFAULT_NONE_HASH_SEED": "fixed",
                "get_none_hash_seed": lambda: chosen}

    def test_a_random_start_of_hashes_is_refused_with_the_reason(self):
        self.fake(None, **self.new("a17f"))
        t, memory = self.tier()
        self.assertEqual(self.answer(t, key(0), request()), MISS)
        self.assertIn("PYTHONHASHSEED", t.error)
        self.assertFalse(self.store(t, memory, keys(1)).success)

    def test_an_older_vllm_without_a_seed_is_refused(self):
        self.fake(None)
        self.assertIn("not set", _vllm.hash_problem())
        self.fake("random")
        self.assertIn("`random`", _vllm.hash_problem())

    def test_what_lasts_is_taken(self):
        for seed, names in ((None, self.new("fixed")), ("0", self.new("0")),
                            ("0", {})):
            self.fake(seed, **names)
            self.assertEqual(_vllm.hash_problem(), "")

    def test_another_seed_is_a_mismatch(self):
        one, memory = self.tier()
        self.store(one, memory, keys(1))
        self.fake("5", **self.new("5"))
        off, _ = self.tier()
        self.assertEqual(self.answer(off, key(0), request()), MISS)
        self.assertIn("hash_seed", off.error)

    @unittest.skipUnless(REAL, ENGINE)
    def test_vllms_own_algorithms_are_judged(self):
        from vllm.utils import hashing as functions
        old = os.environ.pop("PYTHONHASHSEED", None)
        try:
            for name, lasts in (("sha256", True), ("sha256_cbor", True),
                                ("xxhash", False), ("xxhash_cbor", False)):
                try:
                    hashing.init_none_hash(getattr(functions, name))
                except ImportError:
                    continue  # xxhash is not installed
                self.assertEqual(_vllm.hash_problem() == "", lasts, name)
        finally:
            hashing.init_none_hash(functions.sha256_cbor)
            if old is not None:
                os.environ["PYTHONHASHSEED"] = old


@unittest.skipUnless(REAL, ENGINE)
class TestManager(Case):
    """TieringOffloadingSpec and TieringOffloadingManager with this tier."""

    def engine(self, node=None, tiers=None, rows=32):
        where = node or self.node
        made = config(extra={
            "cpu_bytes_to_use": rows * ROW, "secondary_tiers": tiers or [{
                "type": "PikvTier", "module_path": "pikv.vllm",
                "address": where.address, "namespace": self._testMethodName,
                **SLOW}]})
        manager = spec.TieringOffloadingSpec(made).get_manager()
        self.addCleanup(manager.shutdown)
        return manager

    def step(self, manager):
        manager.on_schedule_end(base.ScheduleEndContext(
            new_req_ids=[], preempted_req_ids=()))

    def store(self, manager, ks, seed=0):
        ctx = request()
        manager.on_new_request(ctx)
        out = manager.prepare_store(ks, ctx)
        view = manager.primary_tier.get_kv_memoryview().cast("B")
        for i, row in enumerate(out.store_spec.chunk_ids):
            view[int(row) * ROW:(int(row) + 1) * ROW] = payload(ROW, seed + i)
        view.release()
        manager.complete_store(ks, ctx)
        manager.on_request_finished(ctx)
        self.settle(manager)

    def settle(self, manager):
        def idle():
            self.step(manager)
            return not manager.has_pending_work()
        self.assertTrue(until(idle))

    def load(self, manager, ks):
        """As the scheduler: asks until all are hits or one is a miss."""
        ctx = request()
        manager.on_new_request(ctx)
        out = {}

        def asked():
            for k in ks:
                if out.get(k) not in (HIT, MISS):
                    out[k] = manager.lookup(k, ctx)
            self.step(manager)
            return all(out[k] in (HIT, MISS) for k in ks)
        self.assertTrue(until(asked))
        good = [k for k in ks if out[k] is HIT]
        rows = []
        if good:
            rows = [int(r) for r in
                    manager.prepare_load(good, ctx).chunk_ids]
            view = manager.primary_tier.get_kv_memoryview().cast("B")
            rows = [bytes(view[r * ROW:(r + 1) * ROW]) for r in rows]
            view.release()
            manager.complete_load(good, ctx)
        manager.on_request_finished(ctx)
        self.settle(manager)
        return [out[k] for k in ks], rows

    def test_another_engine_loads_what_one_has_stored(self):
        self.store(self.engine(), keys(8))
        found, rows = self.load(self.engine(), keys(10))
        self.assertEqual(found, [HIT] * 8 + [MISS] * 2)
        self.assertEqual(rows, [payload(ROW, i) for i in range(8)])

    def test_the_same_bytes_after_a_restart_of_engine_and_daemon(self):
        with SsdNode() as node:
            first = self.engine(node)
            self.store(first, keys(8), seed=70)
            first.shutdown()
            node.written()
            node.kill()
            node.start()
            again = self.engine(node)
            found, rows = self.load(again, keys(8))
            self.assertEqual(found, [HIT] * 8)
            self.assertEqual(rows, [payload(ROW, 70 + i) for i in range(8)])
            again.shutdown()

    def test_what_the_primary_tier_evicts_comes_back(self):
        manager = self.engine(rows=4)
        for i in range(0, 16, 4):
            self.store(manager, keys(4, i), seed=i)
        for i in range(0, 16, 4):
            found, rows = self.load(manager, keys(4, i))
            self.assertEqual(found, [HIT] * 4)
            self.assertEqual(rows, [payload(ROW, i + j) for j in range(4)])

    def test_a_reset_waits_for_the_tier(self):
        manager = self.engine()
        ctx = request()
        manager.on_new_request(ctx)
        manager.prepare_store(keys(8), ctx)
        manager.complete_store(keys(8), ctx)
        manager.reset_cache()
        manager.on_reset_flushed()
        found, _ = self.load(manager, keys(8))
        self.assertEqual(found, [HIT] * 8)

    def test_without_a_daemon_the_engine_goes_on(self):
        gone = Daemon()
        self.addCleanup(gone.remove)
        manager = self.engine(gone)
        self.store(manager, keys(4))
        found, _ = self.load(manager, keys(6))
        self.assertEqual(found, [HIT] * 4 + [MISS] * 2)  # of the primary

    def test_the_primary_tiers_file_is_shared_with_the_server(self):
        manager = self.engine()
        self.store(manager, keys(4))
        (tier,) = manager.secondary_tiers
        self.assertEqual(tier.stats()["copies"], "one")

    def test_its_metrics_are_declared_and_reported(self):
        manager = self.engine()
        self.store(manager, keys(1))
        declared = spec.TieringOffloadingSpec.build_metric_definitions(
            {"secondary_tiers": [{"type": "PikvTier",
                                  "module_path": "pikv.vllm"}]})
        self.assertIn(_vllm.READY, declared)
        stats = manager.get_stats()
        self.assertEqual(stats.data["data"][_vllm.READY], {("PikvTier",): 1})
        infos = manager.config_info()
        self.assertEqual(infos[1]["pikv_namespace"], self._testMethodName)

    def test_backpressure_of_vllm_is_taken(self):
        manager = self.engine(tiers=[{
            "type": "PikvTier", "module_path": "pikv.vllm",
            "address": self.node.address, "namespace": "bp", **SLOW,
            "locality": "LOCAL",
            "backpressure": {"backpressure_cls": "EMABackpressureDetector",
                             "policy_cls": "DropStorePolicy"}}])
        self.store(manager, keys(2))
        (tier,) = manager.secondary_tiers
        self.assertIsNotNone(tier.bp_detector)
        self.assertEqual(tier.locality, base.Locality.LOCAL)

    def test_the_start_line_of_the_docs_is_understood(self):
        import json
        text = pikv.vllm.__doc__
        text = text[text.index("'{") + 1:text.index("}'") + 1]
        extra = json.loads(text)["kv_connector_extra_config"]
        factory, _ = doors.real("vllm.v1.kv_offload.tiering.factory")
        self.assertIs(factory.SecondaryTierFactory.get_tier_class(
            extra["secondary_tiers"][0]), PikvTier)
        self.assertEqual(extra["spec_name"], "TieringOffloadingSpec")


if __name__ == "__main__":
    print(f"engine: {ENGINE}", flush=True)
    unittest.main(verbosity=1)

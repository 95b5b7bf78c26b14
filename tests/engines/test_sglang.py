#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pikv.sglang under SGLang's own interface and factory, against a pikvd.

What SGLang's tests of its file and Mooncake backends hold (round trips, the
prefix rule, hit policies of hybrid pools, wrong sizes, MLA and TP ranks), and
what is ours: zero copy, one LOOKUP, a server that is away, dies or differs.
With SGLang importable the backend is loaded by its StorageBackendFactory and
its own host pools compute addresses; without, a stand-in has its names.
"""

import json
import logging
import unittest

import doors
from doors import Daemon, Indices, Mem, payload, until

hicache, WHY = doors.real("sglang.srt.mem_cache.hicache_storage")
factory, _ = doors.real("sglang.srt.mem_cache.storage.backend_factory")
ENGINE = "real SGLang" if hicache and factory else f"stand-in ({WHY})"
if not (hicache and factory):
    import standin_sglang
    hicache = standin_sglang.install()
torch, _ = doors.real("torch")

import pikv.sglang  # noqa: E402
from pikv.sglang import HiCachePikv  # noqa: E402

PAGE = 4        # tokens
LAYERS, HEADS, WIDTH = 3, 4, 32  # WIDTH: bytes of one head of one token
KV, MAMBA, SWA = (hicache.PoolName[n] for n in ("KV", "MAMBA", "SWA"))
ALL, TRAILING, GROUPS = (hicache.PoolHitPolicy[n] for n in (
    "ALL_PAGES", "TRAILING_PAGES", "BLOCK_GROUPS"))


def hashes(n, start=0):
    """Page hashes: 64 hexadecimal digits, as SGLang's."""
    return [f"{i:08x}" * 8 for i in range(start, start + n)]


class Pool:
    """A host pool of SGLang's shape: K behind V, pages as its layouts lay
    them."""

    dtype = "bfloat16"

    def __init__(self, pages, layout="page_first", shared=True, heads=HEADS,
                 page=PAGE, width=WIDTH):
        self.page_size, self.layout = page, layout
        self.pages, self.heads = pages, heads
        self.token = heads * width           # bytes of a token in one layer
        self.half = pages * page * LAYERS * self.token
        self.kv_buffer = Mem(2 * self.half, shared)

    def extents(self, page):
        """(offset, bytes) of a page, in the order of its meta."""
        run = self.page_size * self.token
        if self.layout == "layer_first":
            step = self.pages * run
            return [(side * self.half + layer * step + page * run, run)
                    for layer in range(LAYERS) for side in (0, 1)]
        return [(side * self.half + page * LAYERS * run, LAYERS * run)
                for side in (0, 1)]

    def metas(self, indices, cut):
        assert len(indices) % self.page_size == 0
        base = self.kv_buffer.data_ptr()
        runs = [e for i in indices.tolist()[::self.page_size]
                for e in cut(i // self.page_size)]
        return [base + at for at, _ in runs], [n for _, n in runs]

    def get_page_buffer_meta(self, indices):
        return self.metas(indices, self.extents)

    def get_split_heads_page_buffer_meta(self, indices, split):
        assert self.layout == "page_head" and self.heads % split == 0

        def cut(page):
            k, v = self.extents(page)
            n = k[1] // split
            return [(side + i * n, n) for i in range(split)
                    for side in (k[0], v[0])]
        return self.metas(indices, cut)

    def fill(self, page, seed):
        for i, (at, n) in enumerate(self.extents(page)):
            self.kv_buffer[at:at + n] = payload(n, seed * 7 + i)

    def bytes_of(self, page):
        return b"".join(self.kv_buffer[at:at + n]
                        for at, n in self.extents(page))

    def of(self, *pages):
        return Indices(p * self.page_size + t for p in pages
                       for t in range(self.page_size))


class MLAPool(Pool):
    """One run per page; the ranks hold the same."""

    def extents(self, page):
        run = self.page_size * LAYERS * self.token
        return [(page * run, run)]


class StatePool(Pool):
    """A mamba pool: pages of one slot, two buffers."""

    def __init__(self, pages):
        super().__init__(pages, page=1)
        self.other = Mem(pages * 96)

    def get_hybrid_pool_buffer(self):
        return [self.kv_buffer, self.other]

    def get_page_buffer_meta(self, indices):
        at, sizes = [], []
        for i in indices.tolist():
            k, _ = self.extents(i)
            at += [self.kv_buffer.data_ptr() + k[0],
                   self.other.data_ptr() + 96 * i]
            sizes += [k[1], 96]
        return at, sizes


class Anchor:
    """Page numbers without memory."""

    kv_buffer, page_size, layout, dtype = None, PAGE, "layer_first", "uint8"


def config(node, *, extra=None, rank=0, size=1, mla=False, model="org/model",
           **more):
    return hicache.HiCacheStorageConfig(
        **{"tp_rank": rank, "tp_size": size, "pp_rank": 0, "pp_size": 1,
           "attn_cp_rank": 0, "attn_cp_size": 1, "is_mla_model": mla,
           "enable_storage_metrics": False, "is_page_first_layout": True,
           "model_name": model, **more},
        extra_config={
            "backend_name": "pikv", "module_path": "pikv.sglang",
            "class_name": "HiCachePikv", "interface_v1": 1,
            "address": getattr(node, "address", node),
            "deadline_ms": doors.LONG_MS, "lookup_ms": doors.LONG_MS,
            "connect_ms": doors.LONG_MS, "retry_ms": 20, **(extra or {})})


def load(settings, pool):
    """As SGLang does it; without it, as its factory would."""
    if factory is None or "stand-in" in ENGINE:
        made = HiCachePikv(settings, {})
    else:
        made = factory.StorageBackendFactory.create_backend(
            "dynamic", settings, pool)
    if pool is not None:
        made.register_mem_pool_host(pool)
    return made


class Case(unittest.TestCase):
    settings = {}

    @classmethod
    def setUpClass(cls):
        logging.getLogger("pikv.sglang").setLevel(logging.CRITICAL)
        cls.node = Daemon(cls.settings)
        cls.addClassCleanup(cls.node.remove)
        cls.node.start()

    def backend(self, pool, node=None, **kw):
        """A rank's backend, in a namespace of this test."""
        extra = {"namespace": self._testMethodName, **kw.pop("extra", {})}
        made = load(config(node or self.node, extra=extra, **kw), pool)
        self.addCleanup(made.close)
        return made

    def fill(self, pool, n, start=0):
        for i in range(n):
            pool.fill(start + i, start + i + 1)

    def same(self, pool, old, new):
        for a, b in zip(old, new):
            self.assertEqual(pool.bytes_of(a), pool.bytes_of(b))


class TestPages(Case):
    def round_trip(self, pool, n=8, **kw):
        b = self.backend(pool, **kw)
        self.fill(pool, n)
        keys = hashes(n)
        self.assertEqual(b.batch_set_v1(keys, pool.of(*range(n))), [True] * n)
        self.assertEqual(b.batch_exists(keys), n)
        self.assertEqual(b.batch_get_v1(keys, pool.of(*range(n, 2 * n))),
                         [True] * n)
        self.same(pool, range(n), range(n, 2 * n))
        return b

    def test_page_first_pages_round_trip_without_a_copy(self):
        b = self.round_trip(Pool(16))
        self.assertEqual(b.stats()["copies"], "one")

    def test_private_memory_works_by_way_of_the_staging_area(self):
        b = self.round_trip(Pool(16, shared=False))
        self.assertEqual(b.stats()["copies"], "two")

    def test_layer_first_pages_are_lists_of_all_layers(self):
        self.round_trip(Pool(16, "layer_first"))

    def test_mla_pages_are_one_run(self):
        self.round_trip(MLAPool(16), mla=True)

    def test_128_pages_are_one_call(self):
        b = self.round_trip(Pool(256), n=128)
        self.assertEqual(b.stats()["hits"], 128)

    def test_pages_of_a_long_request_are_counted_in_one_question(self):
        pool = Pool(8)
        b = self.backend(pool)
        self.fill(pool, 1)
        keys = hashes(3000)
        for at in range(0, 2500, 8):
            b.batch_set_v1(keys[at:at + 8], pool.of(*range(8)))
        self.assertEqual(b.batch_exists(keys), 2504)
        self.assertEqual(b.batch_exists_v2(keys).kv_hit_pages, 2504)

    def test_exists_counts_the_pages_before_the_first_gap(self):
        pool = Pool(8)
        b = self.backend(pool)
        keys = hashes(5)
        for i in (0, 1, 3):
            b.batch_set_v1([keys[i]], pool.of(i))
        self.assertEqual(b.batch_exists(keys), 2)
        self.assertTrue(b.exists(keys[3]))
        self.assertFalse(b.exists(keys[2]))

    def test_pages_that_are_not_there_are_false_one_by_one(self):
        pool = Pool(8)
        b = self.backend(pool)
        keys = hashes(3)
        b.batch_set_v1([keys[0], keys[2]], pool.of(0, 1))
        self.assertEqual(b.batch_get_v1(keys, pool.of(4, 5, 6)),
                         [True, False, True])

    def test_a_page_stored_twice_is_stored(self):
        pool = Pool(8)
        b = self.backend(pool)
        keys = hashes(2)
        self.assertEqual(b.batch_set_v1(keys, pool.of(0, 1)), [True] * 2)
        self.assertEqual(b.batch_set_v1(keys, pool.of(0, 1)), [True] * 2)

    def test_clear_leaves_nothing(self):
        b = self.round_trip(Pool(16))
        self.assertTrue(b.clear())
        self.assertEqual(b.batch_exists(hashes(8)), 0)


class TestChains(Case):
    """Parents are linked where they are in the same lane: here is one."""

    settings = {"node.lanes": "1"}

    def test_the_pages_before_are_parents(self):
        pool = Pool(8)
        b = self.backend(pool)
        keys = hashes(4)
        b.batch_set_v1(keys[:2], pool.of(0, 1),
                       hicache.HiCacheStorageExtraInfo(prefix_keys=[]))
        b.batch_set_v1(keys[2:], pool.of(2, 3),
                       hicache.HiCacheStorageExtraInfo(prefix_keys=keys[:2]))
        ns = b._open().store.ns
        self.assertEqual(ns.evict([keys[1]], select="chain",
                                  route=keys[1].encode()[:32]), 3)
        self.assertEqual(b.batch_exists(keys), 1)


class TestRanks(Case):
    def test_tp_ranks_do_not_read_each_others_pages(self):
        pools = [Pool(8), Pool(8)]
        ranks = [self.backend(p, rank=r, size=2)
                 for r, p in enumerate(pools)]
        keys = hashes(2)
        self.fill(pools[0], 2)
        ranks[0].batch_set_v1(keys, pools[0].of(0, 1))
        self.assertEqual(ranks[1].batch_exists(keys), 0)
        pools[1].fill(0, 50)
        pools[1].fill(1, 51)
        ranks[1].batch_set_v1(keys, pools[1].of(0, 1))
        for b, p in zip(ranks, pools):
            self.assertEqual(b.batch_get_v1(keys, p.of(4, 5)), [True] * 2)
            self.same(p, (0, 1), (4, 5))

    def test_mla_pages_are_stored_once_and_read_by_all_ranks(self):
        pools = [MLAPool(8), MLAPool(8)]
        ranks = [self.backend(p, rank=r, size=2, mla=True)
                 for r, p in enumerate(pools)]
        keys = hashes(2)
        pools[1].fill(0, 9)
        self.assertEqual(ranks[1].batch_set_v1(keys, pools[1].of(0, 1)),
                         [True] * 2)
        self.assertEqual(ranks[0].batch_exists(keys), 0, "not its writer")
        self.fill(pools[0], 2)
        ranks[0].batch_set_v1(keys, pools[0].of(0, 1))
        self.assertEqual(ranks[1].batch_get_v1(keys, pools[1].of(4, 5)),
                         [True] * 2)
        self.assertEqual(pools[1].bytes_of(4), pools[0].bytes_of(0))

    def test_split_heads_are_read_by_a_larger_tensor_parallel_size(self):
        wide = Pool(8, "page_head")
        b = self.backend(wide, rank=0, size=1, tp_lcm_size=2,
                         should_split_heads=True)
        self.fill(wide, 2)
        keys = hashes(2)
        self.assertEqual(b.batch_set_v1(keys, wide.of(0, 1)), [True] * 2)
        self.assertEqual(b.batch_get_v1(keys, wide.of(4, 5)), [True] * 2)
        self.same(wide, (0, 1), (4, 5))
        for rank in (0, 1):
            half = Pool(8, "page_head", heads=HEADS // 2)
            r = self.backend(half, rank=rank, size=2, tp_lcm_size=2)
            self.assertEqual(r.batch_exists(keys), 2)
            self.assertEqual(r.batch_get_v1(keys, half.of(0, 1)), [True] * 2)
            at, sizes = wide.get_split_heads_page_buffer_meta(wide.of(0), 2)
            base = wide.kv_buffer.data_ptr()
            want = b"".join(
                wide.kv_buffer[a - base:a - base + n]
                for a, n in zip(at[2 * rank:2 * rank + 2], sizes))
            self.assertEqual(half.bytes_of(0), want)

    def test_half_a_page_is_no_page(self):
        wide = Pool(8, "page_head")
        b = self.backend(wide, tp_lcm_size=2, should_split_heads=True)
        half = Pool(8, "page_head", heads=HEADS // 2)
        r = self.backend(half, rank=1, size=2, tp_lcm_size=2)
        keys = hashes(1)
        r.batch_set_v1(keys, half.of(0))
        self.assertEqual(b.batch_exists(keys), 0)
        self.assertEqual(b.batch_get_v1(keys, wide.of(0)), [False])

    def test_stages_and_context_ranks_have_keys_of_their_own(self):
        pool = Pool(8)
        self.fill(pool, 1)
        keys = hashes(1)
        places = [dict(pp_rank=0, pp_size=2), dict(pp_rank=1, pp_size=2),
                  dict(attn_cp_rank=0, attn_cp_size=2),
                  dict(attn_cp_rank=1, attn_cp_size=2)]
        backends = [self.backend(pool, **p) for p in places]
        for i, b in enumerate(backends):
            self.assertEqual(b.batch_exists(keys), 0, places[i])
            b.batch_set_v1(keys, pool.of(0))
        self.assertEqual([b.batch_exists(keys) for b in backends], [1] * 4)

    def test_decode_context_shards_are_stored_by_their_first_group(self):
        backends = []
        for rank in range(4):
            pool = MLAPool(8, page=PAGE // 2)
            pool.logical_page_size = PAGE
            backends.append((pool, self.backend(
                pool, rank=rank, size=4, mla=True, dcp_size=2,
                dcp_rank=rank % 2, logical_page_size=PAGE)))
        keys = hashes(1)
        one = Indices(range(PAGE))
        for rank, (pool, b) in enumerate(backends):
            pool.get_page_buffer_meta = lambda ix, p=pool: p.metas(
                p.of(0), p.extents)
            pool.fill(0, rank + 1)
            self.assertEqual(b.batch_set_v1(keys, one), [True])
        for rank, (pool, b) in enumerate(backends):
            self.assertEqual(b.batch_get_v1(keys, one), [True])
            want = MLAPool(8, page=PAGE // 2)
            want.fill(0, rank % 2 + 1)
            self.assertEqual(pool.bytes_of(0), want.bytes_of(0))


class TestHybrid(Case):
    def make(self, kv=None):
        pool = kv or Pool(16)
        b = self.backend(pool)
        state, window = StatePool(16), Pool(16)
        b.register_mem_host_pool_v2(pool, KV)
        b.register_mem_host_pool_v2(state, MAMBA)
        b.register_mem_host_pool_v2(window, SWA)
        return b, pool, state, window

    def store(self, b, name, pool, keys):
        t = hicache.PoolTransfer(name=name, keys=keys, host_indices=pool.of(
            *range(len(keys))))
        self.assertEqual(b.batch_set_v2([t]), {name: [True] * len(keys)})

    def ask(self, b, keys, *pools):
        return b.batch_exists_v2(keys, [
            hicache.PoolTransfer(name=n, keys=k, hit_policy=p)
            for n, p, k in pools])

    def test_pools_round_trip_in_one_call(self):
        b, kv, state, window = self.make()
        keys = hashes(3)
        self.fill(kv, 3)
        self.fill(state, 1)
        state.other[0:96] = payload(96, 77)
        self.assertEqual(b.batch_set_v2([
            hicache.PoolTransfer(KV, kv.of(0, 1, 2), keys=keys),
            hicache.PoolTransfer(MAMBA, state.of(0), keys=keys[2:])]),
            {KV: [True] * 3, MAMBA: [True]})
        got = b.batch_get_v2([
            hicache.PoolTransfer(KV, kv.of(8, 9, 10), keys=keys),
            hicache.PoolTransfer(MAMBA, state.of(5), keys=keys[2:])])
        self.assertEqual(got, {KV: [True] * 3, MAMBA: [True]})
        self.same(kv, (0, 1, 2), (8, 9, 10))
        self.assertEqual(state.other[480:576], payload(96, 77))

    def test_kv_alone(self):
        b, kv, _, _ = self.make()
        keys = hashes(4)
        self.assertEqual(b.batch_exists_v2(keys).extra_pool_hit_pages, {})
        self.assertEqual(b.batch_exists_v2([]).kv_hit_pages, 0)
        self.store(b, KV, kv, keys[:2])
        found = b.batch_exists_v2(keys)
        self.assertEqual(found.kv_hit_pages, 2)
        self.assertEqual(found.extra_pool_hit_pages, {KV: 2})
        self.assertEqual(found.restorable_prefix_pages, [1, 2])

    def test_a_pool_that_needs_all_pages_cuts_the_prefix(self):
        b, kv, _, window = self.make()
        keys = hashes(4)
        self.store(b, KV, kv, keys)
        self.store(b, SWA, window, keys[:2])
        found = self.ask(b, keys, (SWA, ALL, keys))
        self.assertEqual(found.kv_hit_pages, 2)
        self.assertEqual(found.extra_pool_hit_pages, {KV: 4, SWA: 2})

    def test_a_pool_does_not_reach_beyond_the_kv_pages(self):
        b, kv, _, window = self.make()
        keys = hashes(4)
        self.store(b, KV, kv, keys[:2])
        self.store(b, SWA, window, keys)
        self.assertEqual(self.ask(b, keys, (SWA, ALL, keys)).kv_hit_pages, 2)

    def test_trailing_pages_leave_holes_in_what_can_be_restored(self):
        b, kv, state, _ = self.make()
        keys = hashes(6)
        self.store(b, KV, kv, keys)
        for i in (1, 4):
            self.store(b, MAMBA, state, [keys[i]])
        found = self.ask(b, keys, (MAMBA, TRAILING, keys[-1:]))
        self.assertEqual(found.restorable_prefix_pages, [2, 5])
        self.assertEqual(found.kv_hit_pages, 5)
        self.assertEqual(found.extra_pool_hit_pages, {KV: 6, MAMBA: 5})

    def test_a_trailing_window_is_shorter_at_the_start(self):
        b, kv, _, window = self.make()
        keys = hashes(5)
        self.store(b, KV, kv, keys)
        self.store(b, SWA, window, [keys[i] for i in (0, 3, 4)])
        found = self.ask(b, keys, (SWA, TRAILING, keys[-2:]))
        self.assertEqual(found.restorable_prefix_pages, [1, 5])

    def test_pools_are_intersected(self):
        b, kv, state, window = self.make()
        keys = hashes(4)
        self.store(b, KV, kv, keys)
        self.store(b, SWA, window, keys[:3])
        self.store(b, MAMBA, state, [keys[1], keys[3]])
        found = self.ask(b, keys, (SWA, ALL, keys),
                         (MAMBA, TRAILING, keys[-1:]))
        self.assertEqual(found.restorable_prefix_pages, [2])
        self.assertEqual(found.extra_pool_hit_pages[MAMBA], 4)

    def test_nothing_of_the_last_pool_is_nothing(self):
        b, kv, _, _ = self.make()
        keys = hashes(3)
        self.store(b, KV, kv, keys)
        found = self.ask(b, keys, (MAMBA, TRAILING, keys[-1:]))
        self.assertEqual(found.kv_hit_pages, 0)
        self.assertEqual(found.restorable_prefix_pages, [])

    def test_block_groups_have_no_verdict_and_do_not_gate(self):
        b, kv, _, _ = self.make()
        keys = hashes(2)
        self.store(b, KV, kv, keys)
        found = self.ask(b, keys, (SWA, GROUPS, keys))
        self.assertEqual(found.kv_hit_pages, 2)
        self.assertNotIn(SWA, found.extra_pool_hit_pages)

    def test_an_anchor_without_memory_counts_all_its_pages(self):
        b, _, _, window = self.make(Anchor())
        keys = hashes(3)
        self.assertEqual(b.batch_set_v1(keys, None), [True] * 3)
        self.assertEqual(b.batch_get_v1(keys, None), [True] * 3)
        self.store(b, SWA, window, keys[:2])
        self.assertEqual(self.ask(b, keys, (SWA, ALL, keys)).kv_hit_pages, 2)

    def test_states_are_a_ranks_own_also_beside_mla(self):
        keys = hashes(1)
        made = []
        for rank in (0, 1):
            pool, state = MLAPool(8), StatePool(8)
            b = self.backend(pool, rank=rank, size=2, mla=True)
            b.register_mem_host_pool_v2(state, MAMBA)
            state.fill(0, rank + 5)
            self.store(b, MAMBA, state, keys)
            made.append((b, state))
        for rank, (b, state) in enumerate(made):
            got = b.batch_get_v2([hicache.PoolTransfer(
                MAMBA, state.of(3), keys=keys)])
            self.assertEqual(got, {MAMBA: [True]})
            # Only the K half of a state page is in its meta.
            self.assertEqual(state.kv_buffer[state.extents(0)[0][0]:][:64],
                             state.kv_buffer[state.extents(3)[0][0]:][:64])


class TestTrouble(Case):
    def test_wrong_numbers_of_indices_are_false_and_move_nothing(self):
        pool = Pool(8)
        b = self.backend(pool)
        keys = hashes(2)
        self.assertEqual(b.batch_set_v1(keys, pool.of(0)), [False] * 2)
        self.assertEqual(b.batch_set_v1(keys, None), [False] * 2)
        self.assertEqual(b.batch_get_v1(keys, Indices([0])), [False] * 2)
        t = hicache.PoolTransfer(name=SWA, keys=keys, host_indices=pool.of(0))
        self.assertEqual(b.batch_set_v2([t]), {SWA: [False] * 2},
                         "not registered")
        self.assertEqual(b.batch_exists(keys), 0)

    def test_a_pool_that_fails_is_a_failed_batch_not_an_exception(self):
        pool = Pool(8)
        b = self.backend(pool)

        def broken(_):
            raise RuntimeError("lost")
        pool.get_page_buffer_meta = broken
        self.assertEqual(b.batch_get_v1(hashes(2), pool.of(0, 1)),
                         [False] * 2)

    def test_a_stored_page_of_another_size_is_a_miss(self):
        small, large = Pool(8), Pool(8, width=2 * WIDTH)
        keys = hashes(1)
        a, b = self.backend(small), self.backend(large)
        self.fill(large, 1)
        b.batch_set_v1(keys, large.of(0))
        self.assertEqual(a.batch_get_v1(keys, small.of(0)), [False])
        a.clear()
        a.batch_set_v1(keys, small.of(0))
        self.assertEqual(b.batch_get_v1(keys, large.of(0)), [False])

    def mismatch(self, field, pool, **kw):
        good = self.backend(Pool(8))
        self.assertTrue(good.stats()["ready"])
        off = self.backend(pool, **kw)
        self.assertIn(field, off.stats()["error"])
        self.assertFalse(off.stats()["ready"])
        self.assertEqual(off.batch_exists(hashes(1)), 0)
        self.assertEqual(off.batch_set_v1(hashes(1), pool.of(0)), [False])

    def test_another_model_is_refused_by_name(self):
        self.mismatch("model", Pool(8), model="org/other")

    def test_another_layout_is_refused_by_name(self):
        self.mismatch("parallel_layout", Pool(8, "layer_first"))

    def test_another_page_size_is_refused_by_name(self):
        self.mismatch("parallel_layout", Pool(8, page=2 * PAGE))

    def test_another_dtype_is_refused_by_name(self):
        pool = Pool(8)
        pool.dtype = "float8_e4m3fn"
        self.mismatch("dtype", pool)

    def test_models_have_namespaces_of_their_own_by_default(self):
        pool = Pool(8)
        made = [load(config(self.node, model=m), pool)
                for m in ("org/a", "org/b")]
        for b in made:
            self.addCleanup(b.close)
            self.assertTrue(b.stats()["ready"])
        made[0].batch_set_v1(hashes(1), pool.of(0))
        self.assertEqual([b.batch_exists(hashes(1)) for b in made], [1, 0])

    def test_wrong_settings_are_named(self):
        for name, value in (("deadline_ms", "soon"), ("lookup_ms", 0),
                            ("address", 7), ("pin_ttl_ms", True)):
            with self.assertRaisesRegex(ValueError, name):
                HiCachePikv(config(self.node, extra={name: value}), {})

    def test_a_daemon_that_comes_later_is_used(self):
        late = Daemon()
        self.addCleanup(late.remove)
        pool = Pool(8)
        b = self.backend(pool, node=late)
        keys = hashes(1)
        self.assertEqual(b.batch_exists(keys), 0)
        self.assertEqual(b.batch_set_v1(keys, pool.of(0)), [False])
        self.assertEqual(b.batch_get_v1(keys, pool.of(0)), [False])
        self.assertIsNone(b.get(keys[0], 1, 1))
        late.start()
        until(lambda: b.batch_set_v1(keys, pool.of(0)) == [True])
        self.assertEqual(b.batch_exists(keys), 1)

    def test_a_killed_daemon_is_misses_and_then_used_again(self):
        node = Daemon()
        self.addCleanup(node.remove)
        node.start()
        pool = Pool(8)
        b = self.backend(pool, node=node)
        keys = hashes(2)
        b.batch_set_v1(keys, pool.of(0, 1))
        node.kill()
        self.assertEqual(b.batch_exists(keys), 0)
        self.assertEqual(b.batch_get_v1(keys, pool.of(0, 1)), [False] * 2)
        node.start()
        self.fill(pool, 2)
        until(lambda: b.batch_set_v1(keys, pool.of(0, 1)) == [True] * 2)
        self.assertEqual(b.batch_get_v1(keys, pool.of(4, 5)), [True] * 2)
        self.same(pool, (0, 1), (4, 5))
        self.assertEqual(b.stats()["copies"], "one")

    def test_after_close_all_is_a_miss(self):
        pool = Pool(8)
        b = self.backend(pool)
        b.batch_set_v1(hashes(1), pool.of(0))
        b.close()
        b.close()
        self.assertEqual(b.batch_exists(hashes(1)), 0)
        self.assertEqual(b.batch_get_v1(hashes(1), pool.of(0)), [False])
        self.assertEqual(b.batch_set_v1(hashes(1), pool.of(0)), [False])
        self.assertFalse(b.clear())


class TestAddresses(Case):
    """The interface with addresses and sizes, as SGLang's Mooncake test."""

    def test_one_value_at_an_address(self):
        b = self.backend(Pool(8))
        a, c = Mem(4096), Mem(4096)
        a[0:4096] = payload(4096, 3)
        self.assertTrue(b.set("k", target_location=a.at, target_sizes=4096))
        self.assertTrue(b.exists("k"))
        self.assertTrue(b.get("k", target_location=c.at, target_sizes=4096))
        self.assertEqual(a[0:4096], c[0:4096])
        self.assertIsNone(b.get("other", target_location=c.at,
                                target_sizes=4096))
        self.assertIsNone(b.get("k", target_location=c.at, target_sizes=99))

    def test_a_batch_needs_as_many_sizes(self):
        b = self.backend(Pool(8))
        a = Mem(4096)
        self.assertFalse(b.batch_set(["x", "y"], None, [a.at], [64]))
        self.assertTrue(b.batch_set(["x", "y"], None, [a.at, a.at + 64],
                                    [64, 64]))


@unittest.skipUnless(torch, "no torch")
class TestTensors(Case):
    """The interface without addresses, as SGLang's file backend has it."""

    def test_tensors_round_trip(self):
        b = self.backend(Pool(8))
        keys = ["k0", "k1"]
        values = [torch.randn(16), torch.randn(4, 4).to(torch.bfloat16)]
        self.assertTrue(b.batch_set(keys, values))
        into = [torch.zeros(16), torch.zeros(4, 4, dtype=torch.bfloat16)]
        got = b.batch_get([*keys, "no"], [*into, torch.zeros(1)])
        self.assertIsNone(got[2])
        for value, target, answer in zip(values, into, got):
            self.assertIs(answer, target)
            self.assertTrue(torch.equal(value, target))

    def test_a_strided_target_is_filled(self):
        b = self.backend(Pool(8))
        b.set("k", torch.arange(8.0))
        wide = torch.zeros(8, 2)
        self.assertIsNotNone(b.get("k", wide[:, 0]))
        self.assertTrue(torch.equal(wide[:, 0], torch.arange(8.0)))
        self.assertEqual(wide[:, 1].sum(), 0)

    def test_another_size_is_none_and_no_tensor_is_false(self):
        b = self.backend(Pool(8))
        b.set("k", torch.zeros(8))
        self.assertIsNone(b.get("k", torch.zeros(4)))
        self.assertFalse(b.set("k2", None))

    def test_a_pool_without_addresses_is_copied_page_by_page(self):
        pool = Pool(8)
        b = self.backend(pool)
        pages = torch.randn(8, 32)

        class Flat:
            page_size, layout, kv_buffer = 1, "odd", None

            def get_data_page(self, i, flat=True):
                return pages[i]

            def get_dummy_flat_data_page(self):
                return torch.zeros(32)

            def set_from_flat_data_page(self, i, page):
                pages[i] = page
        b.register_mem_host_pool_v2(Flat(), SWA)
        keys = hashes(2)
        b.batch_set_v2([hicache.PoolTransfer(SWA, Indices([0, 1]),
                                             keys=keys)])
        got = b.batch_get_v2([hicache.PoolTransfer(SWA, Indices([4, 5]),
                                                   keys=keys)])
        self.assertEqual(got, {SWA: [True, True]})
        self.assertTrue(torch.equal(pages[:2], pages[4:6]))


class TestRealPools(Case):
    """SGLang's own pool classes compute the addresses. Their constructors
    want device pools, so the fields that the host side uses are set here; the
    memory is from SGLang's shared allocator."""

    def pool(self, kind, layout, dims, **fields):
        if "stand-in" in ENGINE:
            self.skipTest(ENGINE)
        mha, why = doors.real("sglang.srt.mem_cache.pool_host.mha")
        mla, _ = doors.real("sglang.srt.mem_cache.pool_host.mla")
        shm, _ = doors.real("sglang.srt.mem_cache.storage.mmap")
        if not (mha and mla and shm):
            self.skipTest(why)
        cls = mha.MHATokenToKVPoolHost if kind == "mha" \
            else mla.MLATokenToKVPoolHost
        pool = cls.__new__(cls)
        for name, value in {"layout": layout, "dtype": torch.float16,
                            "pin_memory": False, "device": "cpu",
                            "page_size": PAGE, "layer_num": LAYERS,
                            "_is_dummy": False, **fields}.items():
            setattr(pool, name, value)
        pool.kv_buffer, self.fd, self.map = shm.alloc_shm(dims, torch.float16)
        pool.kv_buffer.copy_(torch.randn(dims))
        return pool

    def round_trip(self, pool, view, **kw):
        b = self.backend(pool, **kw)
        keys = hashes(4)
        size = 4 * PAGE
        self.assertEqual(b.batch_set_v1(keys, torch.arange(size)),
                         [True] * 4)
        self.assertEqual(b.batch_exists(keys), 4)
        self.assertEqual(b.batch_get_v1(keys, torch.arange(size, 2 * size)),
                         [True] * 4)
        self.assertTrue(torch.equal(view(0), view(4)))
        self.assertEqual(b.stats()["copies"], "one")
        return b

    def mha(self, layout, dims):
        return self.pool("mha", layout, dims, size=8 * PAGE, head_num=2,
                         head_dim=16)

    def test_mha_page_first(self):
        pool = self.mha("page_first", (2, 8 * PAGE, LAYERS, 2, 16))
        self.round_trip(pool, lambda i: pool.kv_buffer[
            :, i * PAGE:(i + 4) * PAGE])

    def test_mha_layer_first(self):
        pool = self.mha("layer_first", (2, LAYERS, 8 * PAGE, 2, 16))
        self.round_trip(pool, lambda i: pool.kv_buffer[
            :, :, i * PAGE:(i + 4) * PAGE])

    def test_mha_page_head_split(self):
        pool = self.mha("page_head", (2, 8, 2, PAGE, LAYERS, 16))
        self.round_trip(pool, lambda i: pool.kv_buffer[:, i:i + 4],
                        tp_lcm_size=2, should_split_heads=True)

    def test_mla_page_first(self):
        pool = self.pool("mla", "page_first", (8 * PAGE, LAYERS, 1, 24),
                         size=8 * PAGE, kv_lora_rank=16, qk_rope_head_dim=8,
                         kv_cache_dim=24)
        self.round_trip(pool, lambda i: pool.kv_buffer[
            i * PAGE:(i + 4) * PAGE], mla=True)

    def test_layer_first_copies_and_addresses_do_not_share_pages(self):
        pool = self.mha("layer_first", (2, LAYERS, 8 * PAGE, 2, 16))
        self.round_trip(pool, lambda i: pool.kv_buffer[
            :, :, i * PAGE:(i + 4) * PAGE])
        copies = self.backend(pool, extra={"interface_v1": 0})
        self.assertIn("parallel_layout", copies.stats()["error"])


class TestReal(Case):
    """Parts of SGLang around the backend."""

    def setUp(self):
        if "stand-in" in ENGINE:
            self.skipTest(ENGINE)

    def test_the_factory_wraps_it_for_failures(self):
        envs = doors.real("sglang.srt.environ")[0].envs
        pool = Pool(8)
        with envs.SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE.override(1.0):
            b = load(config(self.node, extra={"namespace": "inject"}), pool)
        self.addCleanup(b.close)
        self.assertEqual(type(b).__name__, "HiCacheStorageFailureInjector")
        self.assertEqual(b.batch_set_v1(hashes(1), pool.of(0)), [False])

    def test_its_prefetch_thread_counts_what_we_answer(self):
        """CacheController._page_get_zero_copy with our backend."""
        controller, why = doors.real("sglang.srt.managers.cache_controller")
        if controller is None:
            self.skipTest(why)
        pool = Pool(8)
        b = self.backend(pool)
        keys = hashes(3)
        b.batch_set_v1(keys[:2], pool.of(0, 1))
        kind = controller.HiCacheController
        it = kind.__new__(kind)
        it.storage_backend = b
        operation = type("Op", (), {"request_id": "r"})()
        self.assertEqual(it._page_get_zero_copy(operation, keys,
                                                pool.of(4, 5, 6)), 2)
        self.assertTrue(it._page_set_zero_copy(keys, pool.of(0, 1, 2)))

    def test_metrics_are_sglangs(self):
        if doors.real("sglang.srt.observability.metrics_collector")[0] is None:
            self.skipTest("metrics_collector cannot be imported")
        pool = Pool(8)
        b = self.backend(pool, enable_storage_metrics=True)
        b.batch_set_v1(hashes(2), pool.of(0, 1))
        b.batch_get_v1(hashes(2), pool.of(0, 1))
        stats = b.get_stats()
        self.assertEqual((stats.backup_pgs, stats.prefetch_pgs), ([2], [2]))
        self.assertEqual(b.get_stats().backup_pgs, [])

    def test_the_start_line_of_the_docs_is_understood(self):
        """SGLang's own parser takes what the module's docstring says."""
        hybrid, why = doors.real(
            "sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller")
        if hybrid is None:
            self.skipTest(why)
        text = pikv.sglang.__doc__
        text = text[text.index("'{") + 1:text.index("}'") + 1]
        extra, *_, prefix = hybrid.HybridCacheController \
            .parse_storage_backend_extra_config(
                json.dumps(json.loads(text)))
        self.assertTrue(prefix)
        self.assertEqual(extra["interface_v1"], 1)
        HiCachePikv(config(self.node, extra=extra), {}).close()


if __name__ == "__main__":
    print(f"engine: {ENGINE}", flush=True)
    unittest.main(verbosity=1)

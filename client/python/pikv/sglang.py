# SPDX-License-Identifier: Apache-2.0
"""pikvd as the storage (L3) of SGLang's HiCache:

    python -m sglang.launch_server ... --page-size 64 \\
        --enable-hierarchical-cache --hicache-mem-layout page_first \\
        --hicache-storage-backend dynamic \\
        --hicache-storage-backend-extra-config '{"backend_name": "pikv",
            "module_path": "pikv.sglang", "class_name": "HiCachePikv",
            "interface_v1": 1, "allocator": "shm",
            "hicache_storage_pass_prefix_keys": true}'

interface_v1 lets SGLang hand over addresses instead of copies; "allocator":
"shm" makes its host pool a shared mapping, which pikvd then reads and writes
itself: one copy in all. Without it bytes go by way of a staging area.

    page of a pool   one block; K and V, or the layers, are its scatter list
    prefetch query   one LOOKUP: pages x pools, a column for each pool
    prefetch, backup GETs and PUTs of up to 128 pages

Keys. PAGE[.POOL][@RANKS], all text:
  PAGE   SGLang's page hash: SHA-256 over the tokens, the page before, and the
         seed of LoRA adapter and cache salt
  POOL   mamba, swa, indexer, draft, ...; the KV pool has none
  RANKS  what of the page this process holds, joined by commas, if any:
         tRofN  tensor parallel rank R of N; not for what all ranks hold alike
                (MLA, compressed KV): that is stored once, by the rank that
                SGLang says writes. With tp_lcm_size and heads split, N is
                tp_lcm_size and a page is N / tp_size blocks
         pRofN, cRofN, dRofN  pipeline, attention context, decode context
         parallel rank, where there is more than one
The route is the first 32 bytes of PAGE, so that what belongs to one page is in
one lane. The block before in the same pool is the parent (SGLang must pass the
prefix keys, see above, for the first page of a call to have one).
Fingerprint of the namespace: model, weights_version, dtype, scale_format, and
as parallel_layout the order of bytes in a page and the tokens per page.

What must hold:
 1. Nothing that SGLang calls raises or answers None: without a server pages
    are misses and stores fail. Its prefetch and backup threads must live.
 2. A page is True only if all its blocks came whole. A page that is False may
    have been written to in part; SGLang does not use it.
 3. A rank that is not the writer of a pool stores nothing of it.

Threads: SGLang calls from its query, prefetch and backup threads at once.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Sequence

import pikv
from pikv._moves import HIT, Moves, fit, prefix_of
from pikv._sglang import (extent_of, extents_of, flat_bytes, give_back, of,
                          route_of, text_of, verdict)
from pikv.engine import FINGERPRINT, SETTINGS, Store
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

_log = logging.getLogger("pikv.sglang")

KV = "kv"
ALL, TRAILING = "all_pages", "trailing_pages"
SAMPLES_MAX = 4096  # of get_stats, when nobody asks
# Pools that each tensor parallel rank has a part of, whatever the KV pool is.
SHARDED = frozenset(("mamba",))
# Pools whose class says whether the ranks hold the same.
BY_CLASS = frozenset(("draft", "draft_swa", "auxiliary_swa"))
REPLICATED_CLASSES = frozenset(("MLATokenToKVPoolHost",
                                "DeepSeekV4PagedHostPool"))
# extra_config that is not ours.
THEIRS = frozenset(("backend_name", "module_path", "class_name",
                    "interface_v1", "allocator", "tp_lcm_size",
                    "prefetch_threshold", "prefetch_timeout_base",
                    "prefetch_timeout_per_ki_token",
                    "hicache_storage_pass_prefix_keys"))
# Numbers of ours: default, least, most.
NUMBERS = {
    "deadline_ms": (2000, 1, 600_000),
    "lookup_ms": (500, 1, 600_000),
    "connect_ms": (1000, 1, 600_000),
    "retry_ms": (1000, 10, 600_000),
    "pin_ttl_ms": (2000, 0, 3_600_000),
    "staging_bytes": (128 << 20, 1 << 20, 1 << 40),
}
OTHERS = ("share", "ttl_ms", "quota_bytes")
TEXTS = ("address", "namespace", "policy", "loans", "dram") + tuple(
    name for name in FINGERPRINT if name not in ("groups", "parallel_layout"))


def settings_of(extra: dict[str, Any]) -> dict[str, Any]:
    """Ours of extra_config, with defaults. ValueError names a wrong field."""
    out: dict[str, Any] = {n: row[0] for n, row in NUMBERS.items()}
    for name, value in extra.items():
        if name in THEIRS:
            continue
        if name in NUMBERS or name in OTHERS:
            _, least, most = NUMBERS.get(name, (0, 0, 1 << 62))
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"pikv: extra config {name}: {value!r} is "
                                 f"not a whole number from {least} to {most}")
        elif name in TEXTS:
            if not isinstance(value, str) or not value:
                raise ValueError(f"pikv: extra config {name}: {value!r} is "
                                 "not a text")
        else:
            _log.warning("pikv: extra config %s: not known to pikv", name)
            continue
        out[name] = value
    return out


class HiCachePikv(HiCacheStorage):
    """The backend class that SGLang's `dynamic` storage loads; one per rank.

    storage_config: SGLang's HiCacheStorageConfig. Of its extra_config ours
    are, all optional: address; namespace (default "sglang-" and the model);
    model, weights_version, tokenizer_hash, hash_seed, dtype, scale_format: the
    fingerprint; policy, loans, dram, share, ttl_ms, quota_bytes: settings of a
    namespace that is made now; deadline_ms (2000), lookup_ms (500), connect_ms
    (1000), retry_ms (1000), pin_ttl_ms: how long found pages stay for their
    load (2000), staging_bytes (128 MiB). ValueError names a field that is
    wrong; a server that is not there is no error.
    """

    def __init__(self, storage_config: Any, kwargs: Any = None,
                 *_: Any) -> None:
        self._config = storage_config
        self._extra = dict(getattr(storage_config, "extra_config", None) or {})
        self._set = settings_of(self._extra)
        self._mla = bool(storage_config.is_mla_model)
        self._tp = (storage_config.tp_rank, storage_config.tp_size)
        self._split = self._split_factor()
        ask = getattr(storage_config, "is_storage_writer", None)
        self._writer = bool(ask) if ask is not None \
            else not self._mla or storage_config.tp_rank == 0
        self._place = self._shared_ranks()
        self._metrics = bool(getattr(storage_config, "enable_storage_metrics",
                                     False))
        self._samples: dict[str, list[float]] = {
            "prefetch_pgs": [], "prefetch_bandwidth": [],
            "backup_pgs": [], "backup_bandwidth": []}
        self._mu = threading.Lock()
        self._moves: Moves | None = None
        self.mem_pool_host: Any = None
        self.registered_pools: dict[str, Any] = {}

    def _split_factor(self) -> int:
        """Blocks of a KV page: more than one if heads are split."""
        c = self._config
        if not getattr(c, "should_split_heads", False):
            return 1
        return int(c.tp_lcm_size) // int(c.tp_size)

    def _shared_ranks(self) -> list[str]:
        c = self._config
        return (of(c.pp_rank, c.pp_size, "p") +
                of(getattr(c, "attn_cp_rank", 0),
                   getattr(c, "attn_cp_size", 1), "c") +
                of(getattr(c, "dcp_rank", 0), getattr(c, "dcp_size", 1), "d"))

    # ---- the server ----

    def _open(self) -> Moves:
        """The Store, opened when the pool, and with it the layout of a page,
        is known; at the latest when the first page is asked for."""
        if self._moves is None:
            with self._mu:
                if self._moves is None:
                    self._moves = self._opened()
        return self._moves

    def _opened(self) -> Moves:
        s, c = self._set, self._config
        fingerprint = self._fingerprint()
        model = fingerprint.get("model", "")
        name = s.get("namespace") or fit(
            "-".join(["sglang", model] if model else ["sglang"]), False)
        store = Store(
            s.get("address"), name, engine="sglang", log=_log,
            fingerprint=fingerprint,
            settings={n: s[n] for n in SETTINGS if n in s},
            dp_rank=getattr(c, "dp_rank", 0), tp_rank=c.tp_rank,
            pp_rank=c.pp_rank, connect_ms=s["connect_ms"],
            staging_bytes=s["staging_bytes"], retry_s=s["retry_ms"] / 1000)
        moves = Moves(store, deadline_ms=s["deadline_ms"],
                      lookup_ms=s["lookup_ms"], pin_ttl_ms=s["pin_ttl_ms"],
                      log=_log)
        store.first_try(s["connect_ms"] / 1000)
        return moves

    def _fingerprint(self) -> dict[str, Any]:
        """What must be equal to share pages."""
        s, pool = self._set, self.mem_pool_host
        out = {n: s[n] for n in FINGERPRINT if n in s}
        out.setdefault("model", self._config.model_name or "")
        if pool is not None:
            out["parallel_layout"] = self._layout(pool)
            dtype = str(getattr(pool, "dtype", "")).removeprefix("torch.")
            tag = getattr(pool, "storage_format_tag", None)
            out.setdefault("dtype", dtype)
            out.setdefault("scale_format", str(tag or ""))
        return {n: fit(v) for n, v in out.items() if v}

    def _layout(self, pool: Any) -> str:
        """The order of bytes in a page and its tokens. SGLang's copies of a
        layer-first page have K of all layers first, its addresses K and V of
        one layer after the other: equal sizes, other bytes."""
        layout = str(getattr(pool, "layout", ""))
        if layout == "layer_first" and not self._by_copies(pool):
            layout += ",addresses"
        size = getattr(self._config, "logical_page_size", None) or \
            getattr(pool, "page_size", 0)
        return f"{layout},page={size}"

    def _by_copies(self, pool: Any) -> bool:
        """Does SGLang hand over copies of the pool's pages, in their order?"""
        return getattr(pool, "layout", "") == "layer_first" and \
            not self._extra.get("interface_v1")

    def close(self) -> None:
        """Ends all calls; the pool's memory is not touched afterwards."""
        moves = self._moves
        if moves is not None:
            moves.store.close()

    # ---- pools ----

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The KV pool. A pool without memory (kv_buffer None) is a logical
        anchor: its pages are only those of the other pools."""
        self.mem_pool_host = mem_pool_host
        if not self._extra.get("interface_v1"):
            _log.info('pikv: without "interface_v1": 1 in the extra config '
                      "SGLang copies each page twice")
        self._register(mem_pool_host)

    def register_mem_host_pool_v2(self, host_pool: Any,
                                  host_pool_name: Any) -> None:
        """A pool of a hybrid model, by its name."""
        name = text_of(host_pool_name)
        self.registered_pools[name] = host_pool
        if self._mla and name != "mamba" and self._sharded(name, host_pool) \
                and self._tp[1] > 1:
            _log.warning(
                "pikv: pool %s differs by rank, but with an MLA model SGLang "
                "lets only one rank of a `dynamic` backend store it: prefixes "
                "that need it will not hit on the other ranks", name)
        if host_pool is not self.mem_pool_host:
            self._register(host_pool)

    def _register(self, pool: Any) -> None:
        moves = self._open()
        buffers: list[Any] = []
        ask = getattr(pool, "get_hybrid_pool_buffer", None)
        if ask is not None:
            buffers += ask()
        else:
            for name in ("kv_buffer", "k_buffer", "v_buffer"):
                buffer = getattr(pool, name, None)
                buffers += buffer if isinstance(buffer, (list, tuple)) \
                    else [buffer]
        for buffer in buffers:
            if buffer is not None:
                moves.register(buffer)

    def _sharded(self, name: str, pool: Any) -> bool:
        """Does each tensor parallel rank hold a part of its own?"""
        if name in SHARDED:
            return True
        if name in BY_CLASS:
            return not any(c.__name__ in REPLICATED_CLASSES
                           for c in type(pool).__mro__)
        return not self._mla

    def _pool(self, name: str) -> Any:
        pool = self.registered_pools.get(name)
        return self.mem_pool_host if pool is None and name == KV else pool

    def _logical(self) -> bool:
        pool = self.mem_pool_host
        return pool is not None and \
            getattr(pool, "kv_buffer", self) is None

    # ---- keys ----

    def _endings(self, name: str) -> list[str]:
        """What follows PAGE, for each block of a page of this pool."""
        stem = "" if name == KV else "." + name
        ranks = [""]
        if self._sharded(name, self._pool(name)):
            rank, size = self._tp
            split = self._split if name == KV else 1
            ranks = [",".join(of(rank * split + i, size * split, "t"))
                     for i in range(split)]
        out = []
        for r in ranks:
            parts = ([r] if r else []) + self._place
            out.append(stem + ("@" + ",".join(parts) if parts else ""))
        return out

    def _key(self, key: str) -> str:
        """Of a single page, which may name its pool: PAGE or PAGE.POOL."""
        page, dot, name = key.rpartition(".")
        if dot and (name in self.registered_pools or name in SHARDED):
            return page + self._endings(name)[0]
        return key + self._endings(KV)[0]

    def _chain(self, pages: Sequence[str], endings: Sequence[str],
               extra_info: Any) -> dict[str, list[Any]]:
        """Keys, and what the server is told about them, block by block."""
        before = getattr(extra_info, "prefix_keys", None)
        out: dict[str, list[Any]] = {"keys": [], "routes": [], "parents": []}
        at = len(before) if before is not None else None
        last = before[-1] if before else None
        if at is not None:
            out["pages"] = [at + i for i in range(len(pages))
                            for _ in endings]
        for page in pages:
            for ending in endings:
                out["keys"].append(page + ending)
                out["routes"].append(route_of(page))
                out["parents"].append(last + ending if last else None)
            last = page
        return out

    # ---- what is there ----

    def exists(self, key: str) -> bool:
        """Is this page there? key may be PAGE.POOL."""
        moves = self._open()
        return moves.lookup([self._key(key)], routes=[route_of(key)]) == [HIT]

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """How many pages from the first on are there, by one LOOKUP."""
        if self._logical():
            return len(keys)
        return prefix_of(self._matrix(keys, [(KV, "all")])[0])

    def _matrix(self, pages: Sequence[str],
                wanted: Sequence[tuple[str, Any]]) -> list[list[bool]]:
        """For each (pool, rule): which pages are there whole. One LOOKUP of
        pages x blocks of a page in all pools."""
        ends = [self._endings(name) for name, _ in wanted]
        row = [e for some in ends for e in some]
        rules = [rule for some, (_, rule) in zip(ends, wanted) for _ in some]
        keys = [page + e for page in pages for e in row]
        routes = [route_of(page) for page in pages for _ in row]
        states = self._open().lookup(
            keys, rules if len(row) > 1 else None,
            chain=bool(wanted) and wanted[0][0] == KV, routes=routes)
        out, at = [], 0
        for some in ends:
            cols = [states[c::len(row)] for c in range(at, at + len(some))]
            out.append([all(s == HIT for s in cell) for cell in zip(*cols)])
            at += len(some)
        return out

    def batch_exists_v2(self, keys: list[str], pool_transfers: Any = None,
                        extra_info: Any = None) -> Any:
        """How much of the chain can be restored, pool by pool, and all
        lengths at which it can. block_groups never gates and is not reported:
        a pool without a report has no verdict."""
        wanted = []
        for t in pool_transfers or []:
            policy = text_of(getattr(t, "hit_policy", ALL))
            if policy == ALL:
                wanted.append((text_of(t.name), "all", t.name, 0))
            elif policy == TRAILING:
                n = max(1, len(t.keys) if t.keys else 1)
                wanted.append((text_of(t.name), ("trailing", n), t.name, n))
            else:
                self._open().once(f"pool {text_of(t.name)}: hit policy "
                                  f"{policy} is not supported: no verdict")
        ask = [(name, rule) for name, rule, _, _ in wanted]
        if not self._logical():
            ask.insert(0, (KV, "all"))
        found = self._matrix(keys, ask) if keys and ask else []
        kv = len(keys) if self._logical() else \
            prefix_of(found.pop(0)) if found else 0
        return verdict(kv, [(name, n, hits) for (_, _, name, n), hits
                            in zip(wanted, found)])

    # ---- pages ----

    def batch_get_v1(self, keys: list[str], host_indices: Any,
                     extra_info: Any = None) -> list[bool]:
        """Fills the pool's pages; True for each page that came whole."""
        if self._logical():
            return [True] * len(keys)
        return self._guarded(self._page_io, False, KV, keys, host_indices,
                             extra_info)

    def batch_set_v1(self, keys: list[str], host_indices: Any,
                     extra_info: Any = None) -> list[bool]:
        """Stores the pool's pages; True for each that is there now."""
        if self._logical():
            return [True] * len(keys)
        return self._guarded(self._page_io, True, KV, keys, host_indices,
                             extra_info)

    def batch_get_v2(self, transfers: Any,
                     extra_info: Any = None) -> dict[Any, list[bool]]:
        """As batch_get_v1 for several pools, by their names."""
        return self._io_v2(False, transfers, extra_info)

    def batch_set_v2(self, transfers: Any,
                     extra_info: Any = None) -> dict[Any, list[bool]]:
        """As batch_set_v1 for several pools, by their names."""
        return self._io_v2(True, transfers, extra_info)

    def _io_v2(self, store: bool, transfers: Any,
               extra_info: Any) -> dict[Any, list[bool]]:
        return {t.name: self._guarded(
            self._page_io, store, text_of(t.name), list(t.keys or []),
            t.host_indices, extra_info) for t in transfers}

    def _guarded(self, io: Any, store: bool, name: str, keys: list[str],
                 *rest: Any) -> list[bool]:
        """An error of a pool, or of ours, is a failed batch: an exception, or
        None, would end SGLang's thread."""
        try:
            return io(store, name, keys, *rest)
        except Exception as e:
            self._open().once(f"pool {name}: {e!r}", logging.ERROR)
            return [False] * len(keys)

    def _page_io(self, store: bool, name: str, pages: list[str],
                 host_indices: Any, extra_info: Any) -> list[bool]:
        pool = self._pool(name)
        if pool is None:
            raise ValueError("not registered")
        if store and not self._writer and not self._sharded(name, pool):
            return [True] * len(pages)  # its writer stores it
        endings = self._endings(name)
        chain = self._chain(pages, endings, extra_info)
        size = self._page_tokens(name, pool)
        n = 0 if host_indices is None else len(host_indices)
        if n != len(pages) * size:
            raise ValueError(f"{n} indices for {len(pages)} pages of {size}")
        if not pages:
            return []
        blocks = None
        if name != KV or not self._by_copies(pool):
            blocks = extents_of(pool, host_indices, len(pages), len(endings))
        if blocks is None:
            return self._copied(store, pool, chain, host_indices, size)
        sizes = [sum(e[1] for e in block) for block in blocks]
        return self._blocks(store, chain, blocks, sizes, len(endings))

    def _page_tokens(self, name: str, pool: Any) -> int:
        """Host indices of a page."""
        if name == KV and getattr(self._config, "dcp_size", 1) > 1:
            return int(self._config.logical_page_size)
        return getattr(pool, "page_size", 1) or 1

    def _blocks(self, store: bool, chain: dict[str, list[Any]],
                blocks: list[Any], sizes: list[int],
                per_page: int) -> list[bool]:
        """Moves blocks; True for each page, all of whose blocks are good."""
        moves = self._open()
        keys, routes = chain["keys"], chain["routes"]
        began = time.perf_counter()
        if store:
            ok = moves.put(keys, blocks, sizes, routes=routes,
                           parents=chain["parents"], pages=chain.get("pages"))
        else:
            ok = moves.get(keys, blocks, sizes, routes=routes)
            moves.unpin(keys, routes=routes)
        self._sample(store, len(keys) // per_page, sum(sizes),
                     time.perf_counter() - began)
        return [all(ok[i:i + per_page]) for i in range(0, len(ok), per_page)]

    def _copied(self, store: bool, pool: Any, chain: dict[str, list[Any]],
                indices: Any, size: int) -> list[bool]:
        """For a pool that gives no addresses: a flat copy of each page, as
        SGLang's own file backend moves them."""
        firsts = [int(indices[i * size]) for i in range(len(chain["keys"]))]
        if store:
            flat = [flat_bytes(pool.get_data_page(i, flat=True))
                    for i in firsts]
        else:
            flat = [flat_bytes(pool.get_dummy_flat_data_page())
                    for _ in firsts]
        data = [[(t.data_ptr(), t.numel())] for t in flat]
        ok = self._blocks(store, chain, data, [t.numel() for t in flat], 1)
        if not store:
            like = pool.get_dummy_flat_data_page()
            for good, i, page in zip(ok, firsts, flat):
                if good:
                    pool.set_from_flat_data_page(i, page.view(like.dtype))
        return ok

    # ---- single values: SGLang's interface without addresses ----

    def get(self, key: str, target_location: Any = None,
            target_sizes: Any = None) -> Any:
        """The tensor target_location, filled; None if the page is not there
        in this size. Or addresses and their sizes: then True."""
        return self.batch_get([key], [target_location], [target_sizes])[0]

    def batch_get(self, keys: list[str], target_locations: Any = None,
                  target_sizes: Any = None) -> list[Any]:
        """get() for each key, in one batch."""
        return self._values(False, keys, target_locations, target_sizes)

    def set(self, key: str, value: Any = None, target_location: Any = None,
            target_sizes: Any = None) -> bool:
        """Stores a tensor, or the bytes at addresses of given sizes."""
        return self.batch_set(
            [key], [target_location if value is None else value], None,
            [target_sizes])

    def batch_set(self, keys: list[str], values: Any = None,
                  target_locations: Any = None,
                  target_sizes: Any = None) -> bool:
        """True if all are there now."""
        if not self._writer and not any(self._own(key) for key in keys):
            return True
        data = target_locations if values is None else values
        return all(bool(v) for v in
                   self._values(True, keys, data, target_sizes))

    def _own(self, key: str) -> bool:
        """Does this rank store it, writer of the KV pool or not?"""
        name = key.rpartition(".")[2]
        return name in SHARDED or (
            name in self.registered_pools and
            self._sharded(name, self.registered_pools[name]))

    def _values(self, store: bool, keys: Sequence[str], data: Any,
                sizes: Any) -> list[Any]:
        none: list[Any] = [False if store else None] * len(keys)
        try:
            sizes = sizes or [None] * len(keys)
            if data is None or not len(keys) == len(data) == len(sizes):
                raise ValueError("as many keys as tensors or addresses")
            flat = [extent_of(d, s, store) for d, s in zip(data, sizes)]
            chain = {"keys": [self._key(k) for k in keys],
                     "routes": [route_of(k) for k in keys],
                     "parents": [None] * len(keys)}
            ok = self._blocks(store, chain, [e for _, e in flat],
                              [sum(n for _, n in e) for _, e in flat], 1)
        except Exception as e:
            self._open().once(f"get or set: {e!r}", logging.ERROR)
            return none
        if store:
            return ok
        return [give_back(d, kept) if good else None
                for good, d, (kept, _) in zip(ok, data, flat)]

    # ---- the rest ----

    def clear(self) -> bool:
        """Drops all pages of the namespace, those of all ranks."""
        ns = self._open().store.ns
        if ns is None:
            return False
        try:
            ns.evict(select="namespace", deadline_ms=30_000)
        except pikv.Error as e:
            _log.error("pikv: clear: %s", e)
            return False
        return True

    def stats(self) -> dict[str, Any]:
        """As of pikv.engine.Store, and copies: "one", "two" or "some"."""
        moves = self._open()
        return {**moves.store.stats(), "copies": moves.copies(),
                "error": moves.store.error}

    def _sample(self, store: bool, pages: int, nbytes: int,
                seconds: float) -> None:
        if not self._metrics:
            return
        what = "backup" if store else "prefetch"
        with self._mu:
            for name, value in ((what + "_pgs", pages), (
                    what + "_bandwidth", nbytes / max(seconds, 1e-9) / 2**30)):
                self._samples[name].append(value)
                del self._samples[name][:-SAMPLES_MAX]

    def get_stats(self) -> Any:
        """Pages and GiB/s of each batch since the last call, for SGLang's
        metrics; None unless it has them enabled."""
        if not self._metrics:
            return None
        from sglang.srt.observability.metrics_collector import StorageMetrics
        out = StorageMetrics()
        with self._mu:
            for name, values in self._samples.items():
                getattr(out, name).extend(values)
                values.clear()
        return out

# SPDX-License-Identifier: Apache-2.0
"""pikvd as a secondary tier of vLLM's OffloadingConnector:

    vllm serve ... --kv-transfer-config '{"kv_connector":
        "OffloadingConnector", "kv_role": "kv_both",
        "kv_connector_extra_config": {"spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": 17179869184, "secondary_tiers": [
                {"type": "PikvTier", "module_path": "pikv.vllm"}]}}'

    GPU <-> primary tier: a shared file in /dev/shm, rows of one chunk of all
            workers  <-- registered with pikvd: it reads and writes the rows
                         itself, so that one copy is one copy

    scheduler thread                       threads of ours
      lookup      -> answer, or asked      lookup: LOOKUPs, batched; touches
      submit_load, submit_store            load, store: GETs and PUTs in parts
      on_schedule_end  ->  all of these, once a step
      get_finished_jobs  <- list of results

What must hold:
 1. What the scheduler calls neither waits, nor calls the server, nor takes a
    lock: it reads and appends. Its only work is proportional to the keys given.
 2. A lookup answers HIT from an answer of the server that is younger than its
    pin, or that this request waited for, however long the step took; a miss is
    asked once per request; a failed load makes misses.
 3. Every submitted job is reported once, by get_finished_jobs, after the last
    byte of its rows has been touched.
 4. Without a server, or refused by it: misses, failed stores, and one line of
    log that says why.

Key: vLLM's offload key as it is (block hash and KV cache group index). A row
has the bytes of all workers, so there are no ranks in keys. Route: the first
32 bytes of the hash. Parent: the chunk before, where vLLM says positions.
Fingerprint: model, dtype, hash_seed (a digest of vLLM's NONE_HASH: seed and
algorithm of the block hashes), parallel_layout (tp, pp, pcp, dcp unless vLLM
says that the bytes do not depend on them), and per KV cache group its layers,
tokens per block, cache dtype, layout and row size. Of the tier's configuration
weights_version, tokenizer_hash and scale_format.

vLLM's hashes must be the same after a restart: the tier refuses to work where
NONE_HASH is random (hash_problem).

This interface of vLLM changes often. What is not there is done without: names
are looked up when used, arguments are taken as they come.
"""

from __future__ import annotations

import inspect
import logging
import queue
import threading
import time
from collections import deque
from typing import Any, Iterable, Sequence

import pikv
from pikv._moves import ROUTE_BYTES, Moves, address_of, fit
from pikv._vllm import (INFO_NAMES, Answers, Chains, Job, hash_digest,
                        hash_problem, layout_of, metric_definitions, none_hash,
                        settings_of, stats_of)
from pikv.engine import FINGERPRINT, SETTINGS, Store
from vllm.v1.kv_offload import base as offload
from vllm.v1.kv_offload.tiering import base as tiering
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager

_log = logging.getLogger("pikv.vllm")

TOUCHES_MAX = 64    # calls of touch() that wait; older ones are dropped
JOBS_KEYS = 256     # of jobs that are done together
POLL_S = 0.05       # how often a start looks for vLLM's NONE_HASH
DRAIN_POLL_S = 0.0005

_results = getattr(offload, "LookupResult", None)
ANSWER_HIT = getattr(_results, "HIT", True)
ANSWER_MISS = getattr(_results, "MISS", False)
ANSWER_RETRY = getattr(_results, "RETRY", None)


class PikvTier(SecondaryTierManager):
    """The class that SecondaryTierFactory loads by module_path.

    Arguments as of SecondaryTierManager, by name or in its order:
    offloading_spec, primary_kv_view (a writable memoryview, one row per
    chunk), tier_type; what else it knows is passed on. The rest is the tier's
    configuration, all optional: address; namespace (default "vllm-" and the
    model); weights_version, tokenizer_hash, scale_format; policy, loans, dram,
    share, ttl_ms, quota_bytes (of a namespace that is made now); deadline_ms
    (5000), lookup_ms (200), connect_ms (1000), retry_ms (1000), pin_ttl_ms:
    how long a hit stays for its load (2000), staging_bytes (128 MiB);
    enable_kv_events; locality (LOCAL, REMOTE). ValueError names a field that
    is wrong. A server that is not there is no error.
    """

    medium = getattr(getattr(offload, "Medium", None), "STORAGE", None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = ("offloading_spec", "primary_kv_view", "tier_type")
        given = dict(zip(names, args)) | kwargs
        known = set(inspect.signature(
            SecondaryTierManager.__init__).parameters) | set(names)
        config = {n: v for n, v in given.items() if n not in known}
        known &= set(inspect.signature(
            SecondaryTierManager.__init__).parameters)
        super().__init__(**{n: given[n] for n in known if n in given})
        self.tier_type = given.get("tier_type", "PikvTier")
        self._spec = given["offloading_spec"]
        self._set = settings_of(config)
        self._rows(given["primary_kv_view"])
        self._locality()
        self._events = self._event_list()
        self._answers = Answers(self._set["pin_ttl_ms"] / 1000)
        self._batch: list[bytes] = []
        self._loads: list[Job] = []
        self._stores: list[Job] = []
        # Threads are woken once a step, at its end, when the scheduler thread
        # has done its work: a woken thread competes for Python's lock.
        self._by_step = hasattr(SecondaryTierManager, "on_schedule_end")
        self._touches: deque[Sequence[bytes]] = deque(maxlen=TOUCHES_MAX)
        self._done: deque[tuple[Job, Any]] = deque()
        self._submitted = 0
        self._finished = [0, 0]  # by the load and by the store thread
        self._failed = 0
        self._why_off = ""
        self._moves: Moves | None = None
        self._stopping = False
        self._wanted = threading.Event()
        self._opened = threading.Event()
        self._to_lookup: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._to_load: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._to_store: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=run, name=f"pikv-{run.__name__[5:]}",
                             daemon=True)
            for run in (self._run_lookup, self._run_load, self._run_store)]
        for thread in self._threads:
            thread.start()

    def _rows(self, view: memoryview) -> None:
        """Where the primary tier's rows are. Only the address is kept: the
        primary tier releases the view when it ends, after us."""
        if view.strides is None or not view.c_contiguous:
            raise ValueError("pikv: primary_kv_view: rows are not contiguous")
        self._row_bytes = int(view.strides[0])
        self._base, nbytes = address_of(view)
        self._row_n = nbytes // self._row_bytes if self._row_bytes else 0

    def _locality(self) -> None:
        kind = getattr(offload, "Locality", None)
        if kind is None:
            return
        remote = str(self._set.get("address") or "").startswith("ucx:")
        self.locality = kind(self._set.get("locality") or
                             ("REMOTE" if remote else "LOCAL"))

    def _event_list(self) -> list[Any] | None:
        config = getattr(self._spec, "kv_events_config", None)
        on = self._set.get("enable_kv_events") and \
            getattr(config, "enable_kv_cache_events", False)
        return [] if on else None

    # ---- scheduler thread: lookups ----

    def lookup(self, key: bytes, req_context: Any) -> Any:
        """HIT, MISS, or RETRY: it has been asked, or another engine stores it
        just now. Never waits."""
        if self._moves is None:
            self._want()
            return ANSWER_MISS if self._why_off else self._unopened()
        answer, ask = self._answers.look(key, req_context.req_id)
        if ask:
            if self._moves.store.ns is None:
                self._answers.forget(key)
                return ANSWER_MISS
            self._batch.append(key)
        return ANSWER_RETRY if answer is None else \
            ANSWER_HIT if answer else ANSWER_MISS

    def _unopened(self) -> Any:
        """The first attempt to open decides, not the first request."""
        return ANSWER_MISS if self._opened.is_set() else ANSWER_RETRY

    def _want(self) -> None:
        if not self._wanted.is_set():
            self._wanted.set()

    def _send(self) -> None:
        """What the step has collected goes to the threads."""
        if self._batch:
            self._to_lookup.put(self._batch)
            self._batch = []
        elif self._touches and self._to_lookup.empty():
            self._to_lookup.put(None)
        if self._loads:
            self._to_load.put(self._loads)
            self._loads = []
        if self._stores:
            self._to_store.put(self._stores)
            self._stores = []

    def touch(self, keys: Iterable[bytes], req_context: Any = None) -> None:
        """These were used; told to the server when there is time."""
        self._touches.append(tuple(keys))

    def on_new_request(self, req_context: Any) -> Any:
        """No wish of our own about what is offloaded."""
        self._want()
        kind = getattr(offload, "RequestOffloadingContext", None)
        return kind() if kind else None

    def on_request_finished(self, req_context: Any) -> None:
        """Its misses may be asked again by others."""
        self._answers.end(req_context.req_id)

    def on_schedule_end(self, context: Any = None) -> None:
        """The step's calls go to the server while the model runs."""
        self._send()

    # ---- scheduler thread: jobs ----

    def submit_store(self, job_metadata: Any) -> None:
        """Rows of the primary tier to the server; chunks that it has are not
        sent again."""
        self._submitted += 1
        self._stores.append(Job(job_metadata))
        if not self._by_step:
            self._send()

    def submit_load(self, job_metadata: Any) -> None:
        """Chunks from the server into rows of the primary tier."""
        self._submitted += 1
        self._loads.append(Job(job_metadata))
        if not self._by_step:
            self._send()

    def get_finished_jobs(self) -> list[Any]:
        """JobResults since the last call."""
        if not self._by_step:
            self._send()
        out = []
        while self._done:
            job, result = self._done.popleft()
            if job.failed:
                self._answers.missed(job.req_id, job.failed)
            if self._events is not None and job.stored:
                self._events.append(offload.OffloadingEvent(
                    keys=job.stored, medium=self.medium, removed=False,
                    locality=getattr(self, "locality", None)))
            out.append(result)
        return out

    get_finished = get_finished_jobs  # the name of older interfaces

    def has_pending_work(self) -> bool:
        """Are jobs submitted that are not reported yet?"""
        return bool(self._done) or self._submitted != sum(self._finished)

    def take_events(self) -> Iterable[Any]:
        """Chunks stored by us, if enable_kv_events is set."""
        if self._events:
            events, self._events = self._events, []
            return events
        return ()

    def drain_jobs(self) -> None:
        """Waits until no byte of the primary tier is touched any more; the
        deadlines of calls bound it. The results are in get_finished_jobs."""
        self._send()
        while self._submitted != sum(self._finished) and not self._stopping:
            time.sleep(DRAIN_POLL_S)

    def shutdown(self) -> None:
        """Ends calls and threads. Twice is fine."""
        if self._stopping:
            return
        self._stopping = True
        self._send()
        self._wanted.set()
        for q in (self._to_lookup, self._to_load, self._to_store):
            q.put(False)
        for thread in self._threads[1:]:
            thread.join()
        self._threads[0].join()
        if self._moves is not None:
            self._moves.store.close()

    # ---- metrics ----

    @classmethod
    def build_metric_definitions(cls, extra_config: Any) -> dict[str, Any]:
        """vllm:kv_offload_pikv_ready and _failures, by tier."""
        return metric_definitions()

    def get_stats(self) -> Any:
        """Is the server there, and chunks that failed since the last call."""
        failed, self._failed = self._failed, 0
        return stats_of(self.tier_type, self.ready, failed)

    @classmethod
    def config_info_keys(cls, tier_config: Any) -> tuple[str, ...]:
        """Names of config_info()."""
        return INFO_NAMES

    def config_info(self) -> dict[str, str]:
        """Where blocks go."""
        return dict(zip(INFO_NAMES, (str(self._set.get("address") or "default"),
                                     self._namespace())))

    @property
    def ready(self) -> bool:
        """Is there a server that takes us now?"""
        moves = self._moves
        return moves is not None and moves.store.ns is not None and \
            not moves.store.error

    @property
    def error(self) -> str:
        """Why not; "" if there is."""
        if self._why_off or self._moves is None:
            return self._why_off or "not opened yet"
        return self._moves.store.error

    def stats(self) -> dict[str, Any]:
        """As of pikv.engine.Store, and copies: "one", "two" or "some"."""
        moves = self._moves
        if moves is None:
            return {"ready": False, "error": self.error}
        return {**moves.store.stats(), "copies": moves.copies(),
                "error": moves.store.error}

    # ---- opening: on the lookup thread ----

    def _namespace(self) -> str:
        model = str(getattr(getattr(self._config(), "model", None), "name", "")
                    or "")
        return self._set.get("namespace") or fit(
            "-".join(["vllm", model] if model else ["vllm"]), False)

    def _config(self) -> Any:
        return getattr(self._spec, "config", None)

    def _open(self) -> None:
        """Once NONE_HASH is known: vLLM makes it after its tiers. Whatever
        comes of it, the threads that wait for it go on."""
        why = ""
        try:
            while not self._wanted.is_set() and none_hash() is None:
                self._wanted.wait(POLL_S)
            if not self._stopping:
                why = hash_problem()
                if not why:
                    self._moves = self._opened_moves()
        except Exception as e:
            why = repr(e)
        if why:
            self._why_off = why
            _log.error("pikv: the tier stays off: %s", why)
        self._opened.set()

    def _opened_moves(self) -> Moves:
        s = self._set
        store = Store(
            s.get("address"), self._namespace(), engine="vllm", log=_log,
            fingerprint=self._fingerprint(),
            settings={n: s[n] for n in SETTINGS if n in s},
            connect_ms=s["connect_ms"], staging_bytes=s["staging_bytes"],
            retry_s=s["retry_ms"] / 1000)
        moves = Moves(store, deadline_ms=s["deadline_ms"],
                      lookup_ms=s["lookup_ms"], pin_ttl_ms=s["pin_ttl_ms"],
                      log=_log)
        moves.register_at(self._base, self._row_n * self._row_bytes)
        store.first_try(s["connect_ms"] / 1000)
        return moves

    def _fingerprint(self) -> dict[str, Any]:
        s = self._set
        out: dict[str, Any] = layout_of(self._config(), self._row_bytes)
        out.update({n: fit(s[n]) for n in FINGERPRINT if n in s})
        out.setdefault("hash_seed", hash_digest())
        return out

    # ---- threads ----

    def _run_lookup(self) -> None:
        self._open()
        while True:
            batch = self._to_lookup.get()
            if batch is False:
                return
            try:
                if batch:
                    self._ask(batch)
                elif self._touches:
                    self._tell_touches(self._touches.popleft())
            except Exception as e:
                self._answers.learn(batch or (), (), 0)
                self._once(f"lookup: {e!r}")

    def _ask(self, keys: list[bytes]) -> None:
        moves = self._moves
        if moves is None:
            return
        began = time.monotonic()
        states = moves.lookup(keys, chain=False,
                              routes=[k[:ROUTE_BYTES] for k in keys])
        self._answers.learn(keys, states, began)

    def _tell_touches(self, keys: Sequence[bytes]) -> None:
        ns = self._moves.store.ns if self._moves else None
        if ns is None or not keys:
            return
        for i in range(0, len(keys), 1024):
            some = keys[i:i + 1024]
            try:
                ns.touch(some, routes=[k[:ROUTE_BYTES] for k in some],
                         deadline_ms=self._set["lookup_ms"])
            except pikv.Error as e:
                self._moves.store.note(e)
                return

    def _run_load(self) -> None:
        self._run_jobs(self._to_load, 0, None)

    def _run_store(self) -> None:
        self._run_jobs(self._to_store, 1, Chains())

    def _run_jobs(self, jobs: queue.SimpleQueue[Any], who: int,
                  chains: Chains | None) -> None:
        self._opened.wait()
        going = True
        while going:
            some, going = taken(jobs)
            began = time.perf_counter()
            good = [job for job in some if self._fits(job)]
            ok: list[bool] = []
            try:
                if good and self._moves is not None and not self._stopping:
                    ok = self._move(self._moves, good, chains)
            except Exception as e:
                self._once(f"{'load' if chains is None else 'store'}: {e!r}")
            seconds = time.perf_counter() - began
            at = 0
            for job in some:
                n = len(job.keys)
                mine = [False] * n
                if job in good:
                    mine, at = ok[at:at + n] or mine, at + n
                self._report(job, mine, who, chains is not None, seconds)
            if chains is None and self._moves is not None:
                self._unpin(self._moves, good)

    def _fits(self, job: Job) -> bool:
        try:
            job.rows(self._row_n)
        except ValueError as e:
            self._once(f"a job that cannot be: {e}")
            return False
        return True

    def _report(self, job: Job, ok: list[bool], who: int, is_store: bool,
                seconds: float) -> None:
        result = job.result(tiering.JobResult, ok, is_store, seconds,
                            self._row_bytes)
        self._failed += ok.count(False)
        self._done.append((job, result))
        self._finished[who] += 1

    def _move(self, moves: Moves, jobs: list[Job],
              chains: Chains | None) -> list[bool]:
        n = self._row_bytes
        keys = [k for job in jobs for k in job.keys]
        data = [(self._base + r * n, n) for job in jobs
                for r in job.rows(self._row_n)]
        routes = [k[:ROUTE_BYTES] for k in keys]
        sizes = [n] * len(keys)
        if chains is None:
            return moves.get(keys, data, sizes, routes=routes)
        parents: list[bytes | None] = []
        ends: list[int] = []
        for job in jobs:
            before, where = chains.of(job)
            parents += before
            ends += where or [0] * len(before)
        return moves.put(keys, data, sizes, routes=routes, parents=parents,
                         token_ends=ends)

    def _unpin(self, moves: Moves, jobs: list[Job]) -> None:
        """After the result: nobody waits for it."""
        keys = [k for job in jobs for k in job.keys]
        for i in range(0, len(keys), 1024):
            some = keys[i:i + 1024]
            moves.unpin(some, routes=[k[:ROUTE_BYTES] for k in some])

    def _once(self, text: str) -> None:
        if self._moves is not None:
            self._moves.once(text, logging.ERROR)
        else:
            _log.error("pikv: %s", text)


def taken(jobs: queue.SimpleQueue[Any]) -> tuple[list[Job], bool]:
    """Waits for jobs; with them come those behind, up to JOBS_KEYS keys, so
    that small jobs do not wait for each other's round trips. False: the queue
    has ended."""
    out: list[Job] = []
    while sum(len(job.keys) for job in out) < JOBS_KEYS:
        try:
            some = jobs.get_nowait() if out else jobs.get()
        except queue.Empty:
            break
        if some is False:
            return out, False
        out += some
    return out, True

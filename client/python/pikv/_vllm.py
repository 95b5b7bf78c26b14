# SPDX-License-Identifier: Apache-2.0
"""Small pieces of pikv.vllm that need no server: what was answered, what a job
is, what the configuration says, and whether vLLM's block hashes last."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import fields
from typing import Any, Iterable, Sequence

from pikv._moves import HIT, PENDING, fit
from pikv.engine import FINGERPRINT

ANSWERS_MAX = 1 << 16   # keys remembered
MISS_S = 0.02           # a miss is another request's answer for so long
PENDING_S = 0.002       # what another stores is asked again after that
PENDING_MAX_S = 1.0     # and is a miss if it is not there by then
CHAINED_MAX = 1 << 17   # chunks whose chains are remembered

# Numbers of a tier's configuration: default, least, most.
NUMBERS = {
    "deadline_ms": (5000, 1, 600_000),
    "lookup_ms": (200, 1, 600_000),
    "connect_ms": (1000, 1, 600_000),
    "retry_ms": (1000, 10, 600_000),
    "pin_ttl_ms": (2000, 0, 3_600_000),
    "staging_bytes": (128 << 20, 1 << 20, 1 << 40),
}
OTHERS = ("share", "ttl_ms", "quota_bytes")
TEXTS = ("address", "namespace", "policy", "loans", "dram", "locality") + \
    tuple(n for n in FINGERPRINT if n not in ("groups", "parallel_layout"))


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """A tier's configuration with defaults. ValueError names the field."""
    out: dict[str, Any] = {n: row[0] for n, row in NUMBERS.items()}
    for name, value in config.items():
        if name in NUMBERS or name in OTHERS:
            _, least, most = NUMBERS.get(name, (0, 0, 1 << 62))
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"pikv: {name}: {value!r} is not a whole "
                                 f"number from {least} to {most}")
        elif name in TEXTS:
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"pikv: {name}: {value!r} is not a text")
        elif name == "enable_kv_events":
            value = bool(value)
        elif name != "module_path":
            raise ValueError(
                f"pikv: {name}: unknown; known are " + ", ".join(sorted(
                    [*NUMBERS, *OTHERS, *TEXTS, "enable_kv_events"])))
        if value is not None:
            out[name] = value
    return out


# ---- answers ----

class Answers:
    """What the server said about keys, for a short while.

    Written by the lookup thread (learn), read and asked by the scheduler
    thread. Each step is one operation on a dict or set, which Python makes
    whole: no lock, so that neither thread waits for the other.
    """

    def __init__(self, hit_s: float) -> None:
        self._hit_s = max(hit_s / 2, 0.05)  # half the pin: it has to load yet
        # key: (hit, True until, first asked); hit None: others store it.
        self._known: dict[bytes, tuple[bool | None, float, float]] = {}
        self._asked: dict[bytes, float] = {}
        # Of each request: what is a miss for it, and what it waits for.
        self._missed: dict[str, set[bytes]] = {}
        self._waits: dict[str, set[bytes]] = {}

    def look(self, key: bytes, req_id: str) -> tuple[bool | None, bool]:
        """(answer, ask): None is no answer yet; ask: it is to be asked now,
        and counts as asked. Who waited for an answer takes it however old it
        is, or a request would ask anew in each step that is longer than
        answers last: a hit that is none any more is a load that fails."""
        missed = self._missed.setdefault(req_id, set())
        if key in missed:
            return False, False
        waits = self._waits.setdefault(req_id, set())
        now = time.monotonic()
        asked = key in self._asked  # before known: learn writes that first
        known = self._known.get(key)
        if known is not None and (now < known[1] or (
                known[0] is not None and not asked and key in waits)):
            if known[0] is not None:
                waits.discard(key)
            if known[0] is False:
                self.missed(req_id, (key,))
            return known[0], False
        waits.add(key)
        if asked:
            return None, False
        first = known[2] if known is not None and known[0] is None else now
        self._asked[key] = first
        return None, True

    def forget(self, key: bytes) -> None:
        """It was not asked after all."""
        self._asked.pop(key, None)

    def learn(self, keys: Sequence[bytes], states: Sequence[int],
              began: float) -> None:
        """What was asked at began; without states: not answered, misses."""
        now = time.monotonic()
        began = began or now
        for i, key in enumerate(keys):
            state = states[i] if i < len(states) else 0
            first = self._asked.get(key, now)
            if state == HIT:
                answer = (True, began + self._hit_s, first)
            elif state == PENDING and now - first < PENDING_MAX_S:
                answer = (None, now + PENDING_S, first)
            else:
                answer = (False, now + MISS_S, first)
            self._known.pop(key, None)
            self._known[key] = answer
            self._asked.pop(key, None)
        while len(self._known) > ANSWERS_MAX:
            self._known.pop(next(iter(self._known)), None)

    def missed(self, req_id: str, keys: Iterable[bytes]) -> None:
        """For this request these are misses until it ends."""
        known = self._missed.get(req_id)
        for key in keys:
            if known is not None:
                known.add(key)
            answer = self._known.get(key)
            if answer is not None and answer[0]:
                self._known.pop(key, None)

    def end(self, req_id: str) -> None:
        self._missed.pop(req_id, None)
        self._waits.pop(req_id, None)


# ---- jobs ----

class Job:
    """A TransferJob, whatever its fields are called in this vLLM."""

    __slots__ = ("id", "keys", "chunks", "context", "req_id", "failed",
                 "stored")

    def __init__(self, job: Any) -> None:
        self.id = job.job_id
        self.keys = tuple(job.keys)
        chunks = getattr(job, "chunk_ids", None)
        self.chunks = getattr(job, "block_ids", ()) if chunks is None \
            else chunks
        self.context = getattr(job, "req_context", None)
        self.req_id = getattr(self.context, "req_id", "")
        self.failed: tuple[bytes, ...] = ()
        self.stored: list[bytes] = []

    def rows(self, row_n: int) -> list[int]:
        """Row numbers; ValueError for what is not in the primary tier."""
        rows = [int(c) for c in self.chunks]
        if len(rows) != len(self.keys):
            raise ValueError(f"{len(rows)} rows for {len(self.keys)} keys")
        if rows and not 0 <= min(rows) <= max(rows) < row_n:
            raise ValueError(f"rows {min(rows)} to {max(rows)} of {row_n}")
        return rows

    def result(self, kind: Any, ok: list[bool], is_store: bool,
               seconds: float, row_bytes: int) -> Any:
        """vLLM's JobResult. A load that failed in part says what came."""
        good = all(ok)
        came = tuple(k for k, fine in zip(self.keys, ok) if fine)
        if is_store:
            self.stored = list(came)
        else:
            self.failed = tuple(
                k for k, fine in zip(self.keys, ok) if not fine)
        values = {"job_id": self.id, "success": good,
                  "successful_keys": None if good or is_store or not came
                  else came,
                  "transfer_time": seconds,
                  "transfer_bytes": len(came) * row_bytes}
        try:
            known = {f.name for f in fields(kind)}
        except TypeError:  # a NamedTuple, or what takes all
            known = set(getattr(kind, "_fields", values))
        return kind(**{n: v for n, v in values.items() if n in known})


class Chains:
    """Which chunk precedes which, from the positions that vLLM records."""

    def __init__(self) -> None:
        # request: {(group, end token): key}
        self._ends: dict[str, dict[tuple[bytes, int], bytes]] = {}
        self._n = 0  # keys of all requests

    def of(self, job: Job) -> tuple[list[bytes | None], list[int] | None]:
        """(parents, end tokens) of a job's chunks; end tokens None: vLLM does
        not say."""
        where = getattr(job.context, "get_offload_key_position", None)
        ends = [where(k) for k in job.keys] if where else []
        if not ends or any(e is None for e in ends):
            return [None] * len(job.keys), None
        known = self._ends.setdefault(job.req_id, {})
        self._n -= len(known)
        for key, end in zip(job.keys, ends):
            known[key[-4:], end] = key
        self._n += len(known)
        order: dict[bytes, list[int]] = {}
        for group, end in known:
            order.setdefault(group, []).append(end)
        before: dict[tuple[bytes, int], bytes] = {}
        for group, some in order.items():
            some.sort()
            step = min((b - a for a, b in zip(some, some[1:])), default=0)
            for a, b in zip(some, some[1:]):
                if b - a == step:
                    before[group, b] = known[group, a]
        while self._n > CHAINED_MAX:  # the oldest requests have ended
            self._n -= len(self._ends.pop(next(iter(self._ends))))
        return [before.get((k[-4:], e)) for k, e in zip(job.keys, ends)], ends


# ---- configuration ----

def layout_of(config: Any, row_bytes: int) -> dict[str, Any]:
    """The fingerprint of vLLM's OffloadingConfig: model, dtype, how bytes lie
    in a row. Names that this vLLM does not have are left out."""
    if config is None:
        return {}
    model = getattr(config, "model", None)
    out: dict[str, Any] = {}
    name, dtype = getattr(model, "name", None), getattr(model, "dtype", None)
    if name:
        out["model"] = fit(str(name))
    if dtype:
        out["dtype"] = fit(str(dtype).removeprefix("torch."))
    out["parallel_layout"] = fit(_parallel(config))
    groups = _groups(config, row_bytes)
    if groups:
        out["groups"] = groups
    return out


def _parallel(config: Any) -> str:
    p = getattr(config, "parallel", None)
    free = getattr(p, "is_parallelism_agnostic", False) or \
        getattr(config, "replicated_layout", False)
    words = ["any"] if free else [
        f"{n}={getattr(p, n + '_size', 1)}" for n in
        ("tp", "pp", "pcp", "dcp")]
    cache = getattr(config, "cache", None)
    words.append(f"hash={getattr(cache, 'tokens_per_hash', 0)}")
    words.append(f"chunk={getattr(cache, 'blocks_per_chunk', 1)}")
    for flag in ("replicated_layout", "canonical_layout"):
        if getattr(config, flag, False):
            words.append(flag.removesuffix("_layout"))
    return " ".join(words)


def _groups(config: Any, row_bytes: int) -> list[Any]:
    """One per KV cache group, at most 16 (the server's limit); the layers by
    number and, in the last word, by a digest of their names."""
    import pikv
    dtype = str(getattr(getattr(config, "model", None), "dtype", ""))
    layout = getattr(config, "kv_cache_layout", None)
    out = []
    for i, g in enumerate(tuple(getattr(config, "groups", ()) or ())[:16]):
        layers = tuple(getattr(g, "layer_names", ()) or ())
        digest = hashlib.blake2b("\0".join(layers).encode(),
                                 digest_size=4).hexdigest()
        window = getattr(g, "sliding_window_size_in_chunks", None)
        out.append(pikv.Group(
            i, "sliding" if window else "attention", len(layers), 0, 0,
            int(getattr(g, "tokens_per_block", 0)),
            dtype.removeprefix("torch.")[:15],
            f"{layout or '-'}"[:6] + ":" + digest, row_bytes))
    return out


# ---- do block hashes last? ----

def _hashing() -> Any:
    try:
        from vllm.v1.core import kv_cache_utils
    except ImportError:
        return None
    return kv_cache_utils


def none_hash() -> bytes | None:
    """vLLM's start of all hash chains; None before it has made it."""
    return getattr(_hashing(), "NONE_HASH", None)


def hash_digest() -> str:
    """NONE_HASH as a text: equal only for the same seed and algorithm."""
    start = none_hash()
    if start is None:
        return ""
    return hashlib.blake2b(bytes(start), digest_size=8).hexdigest()


def hash_problem() -> str:
    """Why block hashes will be others after a restart; "" if they will not.

    vLLM derives the first hash from PYTHONHASHSEED. Where that is not set,
    newer releases take a fixed word for SHA-256 and chance for xxhash, older
    ones always chance; there `random` makes Python's own hash differ as well.
    """
    module = _hashing()
    if module is None:
        return ""
    seed = os.environ.get("PYTHONHASHSEED")
    ask = getattr(module, "get_none_hash_seed", None)
    fixed = getattr(module, "DEFAULT_NONE_HASH_SEED", None)
    if ask is None or fixed is None:
        if seed and seed != "random":
            return ""
        what = "not set" if not seed else "`random`"
        return (f"PYTHONHASHSEED is {what}, and this vLLM then starts its "
                "block hashes from chance: after a restart no key would be "
                "found again. Set PYTHONHASHSEED=0 for all engines that share "
                "a cache")
    if seed is not None or ask() == fixed:
        return ""
    return ("PYTHONHASHSEED is not set, and vLLM starts block hashes of "
            "this prefix-caching-hash-algo from chance: after a restart no "
            "key would be found again. Set PYTHONHASHSEED=0 for all engines "
            "that share a cache, or use sha256")


# ---- metrics ----

READY = "vllm:kv_offload_pikv_ready"
FAILURES = "vllm:kv_offload_pikv_failed_chunks"
INFO_NAMES = ("pikv_address", "pikv_namespace")


def metric_definitions() -> dict[str, Any]:
    from vllm.v1.kv_offload import base
    gauge = getattr(base, "OffloadingGaugeMetadata", None)
    counter = getattr(base, "OffloadingCounterMetadata", None)
    if gauge is None or counter is None:
        return {}
    return {
        READY: gauge(documentation="1 while the tier has a pikvd that takes "
                     "it, else 0.", labelnames=("tier",)),
        FAILURES: counter(documentation="Chunks that pikvd could not store or "
                          "load.", labelnames=("tier",)),
    }


def stats_of(tier: str, ready: bool, failed: int) -> Any:
    """An OffloadingConnectorStats, or None where vLLM has none."""
    try:
        from vllm.distributed.kv_transfer.kv_connector.v1.offloading \
            .metrics import OffloadingConnectorStats
        stats = OffloadingConnectorStats()
        stats.set_gauge(READY, int(ready), (tier,))
        if failed:
            stats.increase_counter(FAILURES, failed, (tier,))
    except (ImportError, AttributeError):
        return None
    return stats

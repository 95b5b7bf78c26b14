#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A tiny decoder that keeps its KV cache in pikvd, and says what that saved.

    PYTHONPATH=out/debug/python examples/decoder.py --tokens 500 --check

A decoder-only transformer with random weights from a seed, in numpy. It cuts
the prompt into blocks of 16 tokens, whose keys are a chain of hashes, so that a
key stands for all tokens before it as well:

    key[b] = sha256(key[b - 1] | tokens of block b)

One LOOKUP finds the longest prefix that is stored, one GET brings its K and V,
the rest is computed and stored. A second run of this program, on the same
prompt or on one that starts alike, computes only what is new and gives the same
logits, bit for bit.

Bit for bit, because nothing that is computed depends on what was cached: every
block is computed by itself, 16 rows at a time, with matrices whose shapes follow
from its place alone; and K and V of what comes before are read from one array,
whether they were computed or loaded. Floating-point sums then have one order.

What the namespace's fingerprint says here is what an engine must say, too:
weights, dtype, layout of a block, the hash. docs/ENGINES.md has the list.
"""

import argparse
import hashlib
import json
import select
import struct
import sys
import time
from typing import NamedTuple

import numpy as np

import pikv

BLOCK = 16  # tokens
TIERS = ("dram", "ssd", "hbm")


class Config(NamedTuple):
    seed: int = 1
    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 256
    tokens_max: int = 4096

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


# ---- the model


def norm(x):
    """RMS norm of the rows of x."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) +
                       np.float32(1e-6))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rotate(x, at):
    """Rotary positions; x: [tokens, heads, head_dim], at: the first token."""
    half = x.shape[-1] // 2
    inverse = np.float32(10000) ** (-np.arange(half, dtype=np.float32) / half)
    angle = (at + np.arange(len(x), dtype=np.float32))[:, None, None] * inverse
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Decoder:
    """Weights, and the KV cache of one sequence.

    cache: float32 [blocks][layers][K, V][BLOCK tokens][kv_heads][head_dim], so
    that a block of tokens is one run of memory: cache[b] is what is stored.
    """

    def __init__(self, c: Config, memory=None):
        self.c = c
        rng = np.random.default_rng(c.seed)

        def weights(*shape):
            w = rng.standard_normal(shape, dtype=np.float32)
            return w / np.float32(np.sqrt(shape[-2]))

        kv = c.kv_heads * c.head_dim
        self.embed = weights(c.vocab, c.width)
        self.layers = [{"q": weights(c.width, c.width),
                        "k": weights(c.width, kv), "v": weights(c.width, kv),
                        "o": weights(c.width, c.width),
                        "up": weights(c.width, 4 * c.width),
                        "down": weights(4 * c.width, c.width)}
                       for _ in range(c.layers)]
        self.out = weights(c.width, c.vocab)
        shape = self.cache_shape(c)
        self.cache = np.zeros(shape, np.float32) if memory is None else \
            np.frombuffer(memory, np.float32,
                          int(np.prod(shape))).reshape(shape)

    @staticmethod
    def cache_shape(c: Config):
        return (c.tokens_max // BLOCK, c.layers, 2, BLOCK, c.kv_heads,
                c.head_dim)

    @classmethod
    def cache_bytes(cls, c: Config) -> int:
        return int(np.prod(cls.cache_shape(c))) * 4

    def weights_version(self) -> str:
        """A name that differs whenever a weight does."""
        h = hashlib.sha256(self.embed.tobytes() + self.out.tobytes())
        for layer in self.layers:
            for name in sorted(layer):
                h.update(layer[name].tobytes())
        return h.hexdigest()[:16]

    def attend(self, q, b, layer):
        """Attention of the 16 rows of block b; q: [BLOCK, heads, head_dim]."""
        c, n = self.c, BLOCK * (b + 1)
        group = c.heads // c.kv_heads
        later = np.arange(n) > (BLOCK * b + np.arange(BLOCK))[:, None]
        out = np.empty_like(q)
        for h in range(c.heads):
            k, v = (np.ascontiguousarray(
                self.cache[:b + 1, layer, i, :, h // group]
            ).reshape(n, c.head_dim) for i in (0, 1))
            score = q[:, h] @ k.T / np.float32(np.sqrt(c.head_dim))
            out[:, h] = softmax(np.where(later, np.float32(-1e9), score)) @ v
        return out

    def block(self, tokens, b):
        """Computes block b: its K and V into the cache; the logits of its 16
        rows. tokens: up to 16; what is missing counts as token 0, which no row
        before it sees."""
        c = self.c
        ids = np.zeros(BLOCK, np.int64)
        ids[:len(tokens)] = tokens
        x = self.embed[ids]
        for i, w in enumerate(self.layers):
            y = norm(x)
            q = (y @ w["q"]).reshape(BLOCK, c.heads, c.head_dim)
            k = (y @ w["k"]).reshape(BLOCK, c.kv_heads, c.head_dim)
            v = (y @ w["v"]).reshape(BLOCK, c.kv_heads, c.head_dim)
            self.cache[b, i, 0] = rotate(k, BLOCK * b)
            self.cache[b, i, 1] = v
            a = self.attend(rotate(q, BLOCK * b), b, i)
            x = x + a.reshape(BLOCK, c.width) @ w["o"]
            x = x + np.maximum(norm(x) @ w["up"], 0) @ w["down"]
        return norm(x) @ self.out


def run(model, tokens, cached, generate):
    """Prefills all blocks but the `cached` first ones, then generates.

    Returns the logits of each new token, [generate][vocab], and the ms that
    each computed block of the prompt took."""
    tokens, logits, took = list(tokens), [], {}
    last = (len(tokens) - 1) // BLOCK
    for b in range(cached, last + 1):
        start = time.perf_counter()
        rows = model.block(tokens[BLOCK * b:BLOCK * (b + 1)], b)
        took[b] = (time.perf_counter() - start) * 1e3
    for _ in range(generate):
        row = rows[(len(tokens) - 1) % BLOCK]
        logits.append(row.copy())
        tokens.append(int(row.argmax()))
        b = (len(tokens) - 1) // BLOCK
        rows = model.block(tokens[BLOCK * b:], b)
    return np.array(logits), took


# ---- the cache in pikvd


def chain(tokens, n):
    """Keys of the first n blocks."""
    keys, key = [], b""
    for b in range(n):
        part = tokens[BLOCK * b:BLOCK * (b + 1)]
        key = hashlib.sha256(key + struct.pack(f"<{BLOCK}I", *part)).digest()
        keys.append(key)
    return keys


class Cache:
    """The blocks of one prompt in pikvd. Whatever goes wrong with pikvd is a
    miss, and self.problem says what it was."""

    def __init__(self, a, model_name):
        self.a, self.problem, self.ns, self.client = a, None, None, None
        self.model_name = model_name
        try:
            self.client = pikv.Client(a.address, engine="decoder.py")
        except pikv.Error as e:
            self.problem = str(e)

    def alloc(self, n):
        """Memory that pikvd writes into directly; None without pikvd."""
        return self.client.alloc(n) if self.client else None

    def open(self, model, keys):
        """What must be equal to share blocks is the fingerprint."""
        c = model.c
        self.model, self.keys = model, keys
        # The blocks of a prompt go to one lane: one RPC finds them all.
        self.route = keys[0] if keys else None
        if not self.client or not keys:
            return
        try:
            self.ns = self.client.open(
                self.a.namespace, model=self.model_name, dtype="float32",
                weights_version=model.weights_version(),
                hash_seed=f"sha256 chain of {BLOCK} tokens",
                parallel_layout="tp=1,pp=1",
                groups=[pikv.Group(
                    id=0, kind="attention", layers=c.layers,
                    kv_heads=c.kv_heads, head_dim=c.head_dim, dtype="float32",
                    order="layer K V", tokens_per_block=BLOCK,
                    block_bytes=model.cache[0].nbytes)])
        except pikv.Error as e:
            self.problem = str(e)

    def load(self):
        """Brings the longest prefix. One row per block of the prompt, and how
        many blocks are in the model's cache now."""
        rows = [{"block": b, "found": "miss"} for b in range(len(self.keys))]
        if not self.ns:
            return rows, 0
        try:
            found = self.ns.lookup(self.keys, route=self.route,
                                   deadline_ms=self.a.deadline_ms)
            for row, r in zip(rows, found.results):
                if r.state == 2:
                    row.update(found="hit", tier=TIERS[r.tier])
            n = self.get(rows, found.prefix)
            self.why(rows)
        except pikv.Error as e:
            self.problem = str(e)
            return [{"block": r["block"], "found": "miss"} for r in rows], 0
        return rows, n

    def get(self, rows, n):
        """GETs the first n blocks, noting when each was there. How many of them
        are whole: with a checksum that is not right, the rest counts not."""
        if n == 0:
            return 0
        start = time.perf_counter()
        call = self.ns.submit_get(
            self.keys[:n], [self.model.cache[b] for b in range(n)],
            route=self.route, verify=True, parts=True,
            deadline_ms=self.a.deadline_ms)
        done = None
        while done is None:
            select.select([self.client.fileno()], [], [], 1)
            for c in self.client.drain():
                ms = (time.perf_counter() - start) * 1e3
                if c.part:
                    rows[c.item]["loaded_ms"] = ms
                elif c.id == call:
                    done = c
        good = [s == 0 for s in done.results.statuses] + [False]
        n = good.index(False)
        for b in range(n):
            rows[b]["used"] = True
        return n

    def why(self, rows):
        """Asks pikvd why the blocks that were not loaded were not."""
        for row in rows:
            if row["found"] == "miss":
                e = self.ns.explain(self.keys[row["block"]], route=self.route)
                row.update(reason=e.reason, advice=e.advice)
            elif not row.get("used"):
                row.update(reason="a block before it is missing")

    def store(self, first):
        """Puts the blocks of the prompt from `first` on; how many are there."""
        todo = range(first, len(self.keys))
        if not self.ns or not todo:
            return 0
        try:
            r = self.ns.put(
                [self.keys[b] for b in todo],
                [self.model.cache[b] for b in todo],
                parents=[self.keys[b - 1] if b else None for b in todo],
                pages=list(todo), token_ends=[BLOCK * (b + 1) for b in todo],
                token_ns=[BLOCK] * len(todo), route=self.route,
                durable=self.a.durable, deadline_ms=self.a.deadline_ms)
        except pikv.Error as e:
            self.problem = str(e)
            return 0
        return sum(s in (0, pikv.Exists.code) for s in r.statuses)


# ---- the report


def line(row, computed):
    """One block for people."""
    b = row["block"]
    head = f"block {b:3}  tokens {BLOCK * b:4}-{BLOCK * (b + 1) - 1:<4}  "
    if row.get("used"):
        ms = f" in {row['loaded_ms']:.2f} ms" if "loaded_ms" in row else ""
        saved = f", saved {row['saved_ms']:.1f} ms" \
            if "saved_ms" in row else ""
        return head + f"hit  {row['tier']}{ms}{saved}"
    text = head + f"{row['found']:4} computed in {computed.get(b, 0):.1f} ms"
    return text + (f"; {row['reason']}" if "reason" in row else "")


def report(told):
    for row in told["blocks"]:
        print(line(row, told["computed_ms"]))
    advice = {r["reason"]: r["advice"] for r in told["blocks"]
              if r.get("advice")}
    for reason, text in advice.items():
        print(f"  {reason}: {text}")
    n = told["loaded_blocks"]
    print(f"\nloaded {n} of {len(told['blocks'])} blocks, {n * BLOCK} of "
          f"{told['tokens']} prompt tokens not computed")
    if n:
        print(f"looked up and loaded in {told['load_ms']:.2f} ms"
              + (f" instead of {told['saved_ms']:.1f} ms of prefill"
                 if "saved_ms" in told else
                 "; --check measures the prefill that it saved"))
    print(f"stored {told['stored_blocks']} blocks")
    if "bit_equal" in told:
        print("logits beside a run without cache: "
              + ("equal, bit for bit" if told["bit_equal"] else "DIFFERENT"))
    if told["problem"]:
        print(f"without pikvd: {told['problem']}")


def check(told, c, tokens, logits, generate):
    """Computes all of it again, without any cache."""
    plain, took = run(Decoder(c), tokens, 0, generate)
    told["bit_equal"] = bool(np.array_equal(plain, logits))
    for row in told["blocks"]:
        if row.get("used"):
            row["saved_ms"] = took[row["block"]]
    told["saved_ms"] = sum(r.get("saved_ms", 0) for r in told["blocks"])


def prompt(a):
    if a.prompt is not None:
        return list(a.prompt.encode())
    return np.random.default_rng(a.prompt_seed).integers(
        0, 256, a.tokens).tolist()


def play(a):
    c = Config(seed=a.seed, layers=a.layers)
    tokens = prompt(a)
    if not 0 < len(tokens) <= c.tokens_max - a.generate:
        sys.exit(f"decoder.py: 1 to {c.tokens_max - a.generate} tokens of "
                 "prompt are possible")
    cache = Cache(a, f"tiny decoder of {c.layers} layers, seed {c.seed}")
    model = Decoder(c, cache.alloc(Decoder.cache_bytes(c)))
    # The block of the last token is always computed: its logits are wanted.
    cache.open(model, chain(tokens, (len(tokens) - 1) // BLOCK))
    start = time.perf_counter()
    rows, n = cache.load()
    load_ms = (time.perf_counter() - start) * 1e3
    logits, took = run(model, tokens, n, a.generate)
    told = {"tokens": len(tokens), "blocks": rows, "loaded_blocks": n,
            "load_ms": load_ms, "computed_ms": took,
            "stored_blocks": cache.store(n), "problem": cache.problem}
    if a.check:
        check(told, c, tokens, logits, a.generate)
    return told, logits


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--address", help="shm:PATH or ucx:HOST:PORT")
    p.add_argument("--namespace", default="decoder")
    p.add_argument("--prompt", help="text; its bytes are the tokens")
    p.add_argument("--tokens", type=int, default=500,
                   help="length of a random prompt")
    p.add_argument("--prompt-seed", type=int, default=0)
    p.add_argument("--generate", type=int, default=4, help="tokens")
    p.add_argument("--seed", type=int, default=1, help="of the weights")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--durable", action="store_true",
                   help="wait until stored blocks are on the SSD")
    p.add_argument("--deadline-ms", type=int, default=2000)
    p.add_argument("--check", action="store_true",
                   help="compute it without cache as well and compare")
    p.add_argument("--logits", metavar="FILE", help="write them as .npy")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    told, logits = play(a)
    if a.logits:
        np.save(a.logits, logits)
    if a.json:
        print(json.dumps(told))
    else:
        report(told)
    return 0 if told.get("bit_equal", True) else 1


if __name__ == "__main__":
    sys.exit(main())

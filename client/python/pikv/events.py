# SPDX-License-Identifier: Apache-2.0
"""Events of a namespace, in the form that KV-cache-aware routers read.

    feed = RouterFeed(block_of=vllm_block, route_of=vllm_route,
                      check=ns.exists)
    with ns.events(from_seq=[0] * client.info().lanes) as stream, \\
            Publisher("tcp://*:5557") as out:
        while True:
            told = feed.take(stream.next(wait_ms=1000))
            if told:
                out.publish(told)

The form is vLLM's (vllm/distributed/kv_events.py), which Dynamo and llm-d read
from every engine: ZMQ PUB, three frames: topic, sequence number (8 bytes, big
endian), MessagePack of [time, [event, ...], data-parallel rank]. Events:

    BlockStored       block_hashes, parent_block_hash, token_ids, block_size,
                      lora_id, medium, lora_name, group_idx
    BlockRemoved      block_hashes, medium, group_idx
    AllBlocksCleared

medium is where the block is: "CPU" (memory of pikvd), "STORAGE" (its SSDs). A
block that moves is told as stored there and removed here.

What a router can do with it. pikvd keeps bytes under keys and never sees
tokens, so token_ids is empty and block_size 0 unless tokens_of gives them.

  - A router that looks blocks up by the engine's block hash can use everything.
  - Dynamo's and llm-d's routers make keys of their own from token_ids. A
    BlockStored without tokens is of no use to them and they leave it out.
    Where the tokens are known (the engine process, or a router that heard the
    engine's own BlockStored of the same hash) tokens_of brings both together,
    and then they work as with an engine's events.
  - BlockRemoved and AllBlocksCleared need no tokens.

Nothing is told twice or forgotten while the stream is whole. When it is not
(LOST: the ring was overwritten, or pikvd was started anew) the feed asks check
about the blocks that it knows and takes back those that are gone; blocks that
were stored unheard are not known to it until they are stored or moved again.

Threads: one at a time per feed and publisher. Memory: about 500 bytes for each
block that pikvd holds.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .client import EventStream
from .errors import Error

__all__ = [
    "AllBlocksCleared", "BlockRemoved", "BlockStored", "EventStream",
    "Publisher", "RouterFeed", "int64_block", "pack", "pack_batch",
    "raw_block", "vllm_block", "vllm_route",
]

MEDIUM = {0: "CPU", 1: "STORAGE", 2: "GPU"}
NO_SCOPE = bytes(16)
CHECK_KEYS = 512  # of one question

Hash = bytes | int
Block = tuple[Hash, int | None]  # the engine's hash, and its group or None


# ---- from a key to an engine's block ----

def raw_block(key: bytes) -> Block | None:
    """The key is the block's hash."""
    return key, None


def vllm_block(key: bytes) -> Block | None:
    """Keys of vLLM's offloading (pikv.vllm): hash, then the KV-cache group in 4
    bytes, big endian."""
    if len(key) < 5:
        return None
    return key[:-4], int.from_bytes(key[-4:], "big")


def vllm_route(key: bytes) -> bytes:
    """The route that pikv.vllm gives its keys."""
    return key[:32]


def int64_block(of: Callable[[bytes], Block | None]
                ) -> Callable[[bytes], Block | None]:
    """Hashes as 64-bit numbers, their last 8 bytes, as vLLM tells them with
    VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES."""
    def block(key: bytes) -> Block | None:
        b = of(key)
        if b is None or isinstance(b[0], int):
            return b
        return int.from_bytes(b[0][-8:], "big"), b[1]
    return block


# ---- events ----

class BlockStored(NamedTuple):
    """Blocks that can be had from medium now."""
    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    group_idx: int | None = None

    def wire(self, array: bool) -> Any:
        """As vLLM's encoder has it. array: as that of older versions, without
        names, lora_name and group_idx."""
        if array:
            return ["BlockStored", *self[:6]]
        out = {"type": "BlockStored", **self._asdict()}
        if self.group_idx is None:
            del out["group_idx"]
        return out


class BlockRemoved(NamedTuple):
    """Blocks that can not be had from medium any more."""
    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None

    def wire(self, array: bool) -> Any:
        if array:
            return ["BlockRemoved", *self[:2]]
        out = {"type": "BlockRemoved", **self._asdict()}
        if self.group_idx is None:
            del out["group_idx"]
        return out


class AllBlocksCleared(NamedTuple):
    """Nothing that was told before is there any more."""

    def wire(self, array: bool) -> Any:
        return ["AllBlocksCleared"] if array else {"type": "AllBlocksCleared"}


RouterEvent = BlockStored | BlockRemoved | AllBlocksCleared


class _Known(NamedTuple):
    block: Block
    medium: str
    key: bytes
    parent: Hash | None
    group: int
    scope: bytes


class RouterFeed:
    """Turns pikv.Event into RouterEvent.

    block_of: key -> (hash, group) of the engine's block, or None: not one.
    tokens_of: key -> the token ids of the block, or None; see above.
    parts: so many keys make a block (shards of ranks that have the same
        block_of): it is told when all are in one medium.
    check: what pikv.Namespace.exists does; None: after LOST all blocks of the
        lane are taken back. If it fails (pikv.Error) it is called again by the
        next take().
    route_of: key -> the route that it was stored with, for check: with another
        one a block is not found. None: stored without routes.
    """

    def __init__(self, *, block_of: Callable[[bytes], Block | None] = raw_block,
                 tokens_of: Callable[[bytes], Sequence[int] | None]
                 = lambda key: None,
                 parts: int = 1,
                 check: Callable[..., list[bool]] | None = None,
                 route_of: Callable[[bytes], bytes] | None = None) -> None:
        if parts < 1:
            raise ValueError(f"parts: {parts}; want 1 or more")
        self._block_of, self._tokens_of = block_of, tokens_of
        self._parts, self._check, self._route_of = parts, check, route_of
        self._doubts: set[int] = set()  # lanes that are to be checked
        self._lanes: dict[int, dict[bytes, _Known]] = {}
        self._count: Counter[tuple[Block, str]] = Counter()
        self.lost = 0  # times that events were lost

    def __len__(self) -> int:
        """Keys that are known."""
        return sum(map(len, self._lanes.values()))

    def take(self, events: Iterable[Any]) -> list[RouterEvent]:
        """What these events mean, in their order."""
        out: list[RouterEvent] = []
        for number in sorted(self._doubts):
            self._verify(number, out)
        for e in events:
            lane = self._lanes.setdefault(e.lane, {})
            if e.kind == "stored":
                self._stored(lane, e, out)
            elif e.kind == "removed":
                self._removed(lane, e.hash, out)
            elif e.kind == "moved":
                self._moved(lane, e, out)
            elif e.kind == "cleared":
                self._cleared(lane, out)
            else:
                self.lost += 1
                self._verify(e.lane, out)
        return out

    def snapshot(self) -> list[BlockStored]:
        """All blocks that are there, for a router that comes late."""
        out: list[RouterEvent] = []
        seen = set()
        for lane in self._lanes.values():
            for known in lane.values():
                place = known.block, known.medium
                if self._count[place] >= self._parts and place not in seen:
                    seen.add(place)
                    self._tell(known, out)
        return [e for e in out if isinstance(e, BlockStored)]

    def _tell(self, known: _Known, out: list[RouterEvent]) -> None:
        tokens = list(self._tokens_of(known.key) or ())
        out.append(BlockStored([known.block[0]], known.parent, tokens,
                               len(tokens), None, known.medium, None,
                               known.block[1]))

    def _enter(self, lane: dict[bytes, _Known], name: bytes, known: _Known,
               out: list[RouterEvent]) -> None:
        lane[name] = known
        self._count[known.block, known.medium] += 1
        if self._count[known.block, known.medium] == self._parts:
            self._tell(known, out)

    def _leave(self, known: _Known, out: list[RouterEvent]) -> None:
        place = known.block, known.medium
        if self._count[place] == self._parts:
            out.append(BlockRemoved([known.block[0]], known.medium,
                                    known.block[1]))
        self._count[place] -= 1
        if not self._count[place]:
            del self._count[place]

    def _stored(self, lane: dict[bytes, _Known], e: Any,
                out: list[RouterEvent]) -> None:
        block = self._block_of(e.key) if e.key else None
        if block is None:
            return
        parent = self._block_of(e.parent) if e.parent else None
        self._removed(lane, e.hash, out)  # known still: unheard that it went
        self._enter(lane, e.hash, _Known(
            block, MEDIUM.get(e.tier, "STORAGE"), e.key,
            parent[0] if parent else None, e.group, e.scope), out)

    def _removed(self, lane: dict[bytes, _Known], name: bytes,
                 out: list[RouterEvent]) -> None:
        known = lane.pop(name, None)
        if known:
            self._leave(known, out)

    def _moved(self, lane: dict[bytes, _Known], e: Any,
               out: list[RouterEvent]) -> None:
        """First there, then not here: a router never sees it nowhere."""
        known = lane.get(e.hash)
        if known is None:
            self._stored(lane, e, out)
            return
        moved = known._replace(medium=MEDIUM.get(e.tier, "STORAGE"))
        if moved != known:
            self._enter(lane, e.hash, moved, out)
            self._leave(known, out)

    def _cleared(self, lane: dict[bytes, _Known],
                 out: list[RouterEvent]) -> None:
        """Of this lane: others may have new blocks already."""
        if len(self) == len(lane):
            if lane:
                out.append(AllBlocksCleared())
            lane.clear()
            self._count.clear()
        for name in list(lane):
            self._removed(lane, name, out)

    def _verify(self, number: int, out: list[RouterEvent]) -> None:
        """Takes back what of a lane is gone; not now, if check fails."""
        lane = self._lanes[number]
        groups: dict[tuple[int, bytes], list[bytes]] = {}
        for name, known in lane.items():
            groups.setdefault((known.group, known.scope), []).append(name)
        self._doubts.add(number)
        for (group, scope), names in groups.items():
            for at in range(0, len(names), CHECK_KEYS):
                some = names[at:at + CHECK_KEYS]
                try:
                    there = self._are_there([lane[n].key for n in some],
                                            group, scope)
                except Error:
                    return
                for name, is_there in zip(some, there):
                    if not is_there:
                        self._removed(lane, name, out)
        self._doubts.discard(number)

    def _are_there(self, keys: list[bytes], group: int,
                   scope: bytes) -> list[bool]:
        if not self._check:
            return [False] * len(keys)
        how: dict[str, Any] = {} if self._route_of is None else {
            "routes": [self._route_of(key) for key in keys]}
        return self._check(keys, group=group,
                           scope=None if scope == NO_SCOPE else scope, **how)


# ---- MessagePack, what these messages need of it ----

def _pack_int(n: int) -> bytes:
    if 0 <= n < 128:
        return bytes([n])
    if -32 <= n < 0:
        return struct.pack("b", n)
    sizes = ((0xcc, "B"), (0xcd, ">H"), (0xce, ">I"), (0xcf, ">Q")) \
        if n >= 0 else ((0xd0, "b"), (0xd1, ">h"), (0xd2, ">i"), (0xd3, ">q"))
    for tag, form in sizes:
        try:
            return bytes([tag]) + struct.pack(form, n)
        except struct.error:
            continue
    raise OverflowError(f"{n}: more than 64 bits")


def _head(n: int, fix: tuple[int, int], tags: Sequence[int | None]) -> bytes:
    """A length: inside the tag below fix[1], else in 1, 2 or 4 bytes."""
    if n < fix[1]:
        return bytes([fix[0] | n])
    for tag, form, most in zip(tags, (">B", ">H", ">I"),
                               (1 << 8, 1 << 16, 1 << 32)):
        if tag is not None and n < most:
            return bytes([tag]) + struct.pack(form, n)
    raise OverflowError(f"{n}: too long")


def pack(x: Any) -> bytes:
    """x as MessagePack: None, bool, int, float, str, bytes, list, tuple,
    dict."""
    if x is None:
        return b"\xc0"
    if isinstance(x, bool):
        return b"\xc3" if x else b"\xc2"
    if isinstance(x, int):
        return _pack_int(x)
    if isinstance(x, float):
        return b"\xcb" + struct.pack(">d", x)
    if isinstance(x, str):
        b = x.encode()
        return _head(len(b), (0xa0, 32), (0xd9, 0xda, 0xdb)) + b
    if isinstance(x, bytes):
        return _head(len(x), (0, 0), (0xc4, 0xc5, 0xc6)) + x
    if isinstance(x, (list, tuple)):
        return _head(len(x), (0x90, 16), (None, 0xdc, 0xdd)) + \
            b"".join(map(pack, x))
    if isinstance(x, dict):
        return _head(len(x), (0x80, 16), (None, 0xde, 0xdf)) + \
            b"".join(pack(k) + pack(v) for k, v in x.items())
    raise TypeError(f"{type(x).__name__}: not for MessagePack")


def pack_batch(events: Sequence[RouterEvent], *, ts: float,
               dp_rank: int | None = None, array: bool = False) -> bytes:
    """One batch. ts: seconds since 1970; array: see BlockStored.wire."""
    batch: list[Any] = [ts, [e.wire(array) for e in events]]
    if dp_rank is not None:
        batch.append(dp_rank)
    return pack(batch)


class Publisher:
    """Batches over ZMQ PUB, as an engine's. Needs pyzmq (ImportError).

    endpoint: as vLLM has it: one with * or ::, ipc:// and inproc:// are bound,
    others connected to. A subscriber that is not there or slow misses batches
    and sees it by their numbers.
    """

    def __init__(self, endpoint: str, *, topic: str = "",
                 dp_rank: int | None = 0, array: bool = False) -> None:
        import zmq
        self._topic, self._rank, self._array = topic.encode(), dp_rank, array
        self._seq = 0
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        if "*" in endpoint or "::" in endpoint or \
                endpoint.startswith(("ipc://", "inproc://")):
            self._socket.bind(endpoint)
        else:
            self._socket.connect(endpoint)

    def publish(self, events: Sequence[RouterEvent]) -> int:
        """Sends one batch; returns its sequence number. Never waits."""
        payload = pack_batch(events, ts=time.time(), dp_rank=self._rank,
                             array=self._array)
        seq = self._seq
        self._socket.send_multipart(
            (self._topic, seq.to_bytes(8, "big"), payload))
        self._seq += 1
        return seq

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

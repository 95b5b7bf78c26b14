# SPDX-License-Identifier: Apache-2.0
"""Client and Namespace: the names of arguments on top of the C extension.

Every put, get, lookup, exists, evict, pin, unpin, touch, prefetch, begin,
write, commit and abort is in C (client/python/src/calls.c); help(Namespace)
shows them. What waits for one answer, and what is made of others, is here.
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Sequence

from . import _pikv, metrics
from .errors import ERRORS, Miss, TooSmall

_SESSION = {"open": 0, "idle": 1, "closed": 2}
_HEDGE = {"replicas": 0, "never": 1, "always": 2}
_MAX_MS = 4_000_000
_MISS, _TOO_SMALL, _HIT = Miss.code, TooSmall.code, 2


def error_name(code: int) -> str:
    """The name of a status: "OK", "MISS", ..."""
    return _pikv.error(code)[0]


def _us(ms: float, name: str = "deadline_ms") -> int:
    if not 0 <= ms <= _MAX_MS:
        raise ValueError(f"{name}: want 0 to {_MAX_MS} ms; 0 is the default")
    return int(ms * 1000)


def _hedge(word: str) -> int:
    if word not in _HEDGE:
        raise ValueError(f"hedge: {word!r}; want one of {', '.join(_HEDGE)}")
    return _HEDGE[word]


def is_hit(found: _pikv.Result, key: bytes | str) -> bool:
    """Of a lookup. Raises what is neither hit nor miss."""
    if found.status not in (0, _MISS):
        raise ERRORS[found.status](f"key {key!r}")
    return found.state == _HIT


def is_whole(got: _pikv.Result, found: _pikv.Result,
             key: bytes | str) -> bool | None:
    """Of a get after a lookup: True, False (gone since), or None: another
    block took its place meanwhile, ask again. Raises anything else."""
    if got.status == _MISS:
        return False
    if got.status == _TOO_SMALL or (got.status == 0 and
                                    got.len != found.len):
        return None
    if got.status:
        raise ERRORS[got.status](f"key {key!r}")
    return True


def _hold(buffer: Any) -> Any:
    """What keeps the memory of a layout where it is."""
    try:
        return memoryview(buffer)
    except TypeError:  # (address, bytes) or a tensor
        return buffer


class Group(NamedTuple):
    """One kind of block of a model, struct pikv_group of pikv.h."""

    id: int = 0
    kind: str = "attention"
    layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    tokens_per_block: int = 0
    dtype: str = ""
    order: str = ""
    block_bytes: int = 0


class Client(_pikv.Handle):
    """A connection to a pikvd.

    address: "shm:PATH" or "ucx:HOST:PORT", or several with commas between,
        tried in turn: any node of a cluster will do; None: $PIKV_ADDRESS, or
        shm:/run/pikvd/pikvd.sock.
    engine, model, dp_rank, tp_rank, pp_rank: shown by `pikvctl clients`.
    connect_ms: how long this constructor waits.
    inflight: calls submitted and not yet taken; more raise Busy.
    staging_bytes: for buffers that are not registered.
    hedge: whether a get that takes longer than 95 of 100 did lately is asked
        of a second node of the cluster: "replicas" (where others have the
        block: hot slots), "always" (the next owner in any case), "never".

    Raises NoServer, Timeout, BadVersion, Denied, NoMemory. All methods may be
    called from any thread; waiting lets the GIL go. A child after fork gets
    Forked from everything but close() and must open its own.
    """

    def __init__(self, address: str | None = None, *,
                 engine: str | None = None, model: str | None = None,
                 dp_rank: int = 0, tp_rank: int = 0, pp_rank: int = 0,
                 connect_ms: int = 1000, inflight: int = 256,
                 staging_bytes: int = 64 << 20,
                 hedge: str = "replicas") -> None:
        super().__init__()
        self._held: dict[int, Any] = {}  # layout id: its buffer
        self._ended: set[int] = set()  # layouts ended before they had one
        self._open(address, engine, model, dp_rank, tp_rank, pp_rank,
                   connect_ms, inflight, staging_bytes, _hedge(hedge))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pikv.Client{' closed' if self.closed else ''}>"

    def open(self, name: str, *, create: bool = True, model: str = "",
             weights_version: str = "", tokenizer_hash: str = "",
             hash_seed: str = "", dtype: str = "", scale_format: str = "",
             parallel_layout: str = "", groups: Sequence[Group] = (),
             policy: str | None = None, loans: str | None = None,
             share: int = 0, ttl_ms: int = 0, quota_bytes: int = 0,
             dram: str | None = None, deadline_ms: float = 0) -> Namespace:
        """A namespace; made if it is not there and create is true.

        model ... parallel_layout and groups are the fingerprint: what must be
        equal to share blocks. Mismatch says which field differs and both
        values. The others are settings on creation; 0 or None: the server's
        defaults.
        """
        number = self._open_namespace(
            name, create, model, weights_version, tokenizer_hash, hash_seed,
            dtype, scale_format, parallel_layout,
            tuple(tuple(Group(*g)) for g in groups), policy, loans, share,
            ttl_ms, quota_bytes, dram, _us(deadline_ms))
        return Namespace(self, number, name)

    def alloc(self, nbytes: int) -> _pikv.Memory:
        """Shared, registered memory of the library's making: the daemon reads
        and writes it directly. free() or a with statement gives it back."""
        return self._alloc(nbytes)

    def register(self, buffer: Any) -> _pikv.Registration:
        """Registers memory that is mapped from a memfd, /dev/shm or a file,
        shared and writable. Unsupported: memory private to the process; it is
        good for every call all the same, by one copy more. The buffer is held
        until unregister()."""
        return self._register(buffer)

    def layout(self, buffer: Any, runs: Sequence[tuple[int, int, int, int]], *,
               block_stride: int = 0, table: Sequence[int] | None = None,
               blocks: int) -> int:
        """Says once where blocks lie in registered memory; then put() and
        get() with layout=the id returned take block numbers for buffers.

        runs: (off, len, stride, n) each: n pieces of len bytes, off + i *
        stride from the block's base, which is table[b], or b * block_stride.
        BadRequest, Limit, NoMem (the memory is not registered). The buffer is
        held, and Memory cannot be freed, until unlayout() or close().
        """
        held = _hold(buffer)
        layout = self._layout(
            buffer, tuple((*r, 0, 1)[:4] if len(r) == 2 else tuple(r)
                          for r in runs),
            block_stride, None if table is None else tuple(table), blocks)
        self._held[layout] = held
        if layout in self._ended:  # by a thread that guessed its number
            self._held.pop(layout, None)
            self._ended.discard(layout)
        return layout

    def unlayout(self, layout: int) -> None:
        """Ends a layout; no call that uses it may be in flight. NoLayout."""
        self._layout_free(layout)
        # No lock, for a fork while it is held: told first, so that layout()
        # in another thread, which has yet to keep its buffer, lets it go.
        self._ended.add(layout)
        if self._held.pop(layout, None) is not None:
            self._ended.discard(layout)

    def close(self) -> None:
        """Ends everything: calls in flight, layouts, memory. BufferError while
        loans are viewed."""
        super().close()
        self._held.clear()

    def stats(self) -> dict[str, Any]:
        """What this client did: {"ops": {"get": {"calls", "items", "bytes",
        "hits", "misses", ..., "buckets"}}, "inflight", "staging_bytes",
        "registered_bytes", "lanes", "lanes_up", "reconnects", "redirects",
        "failovers", "copies_failed", "hedges", "hedges_won", "breaker_open"}. buckets[i]
        counts calls that took up to 2**i us, the last one the rest."""
        return self._stats()

    def metrics_text(self, labels: dict[str, str] | None = None) -> str:
        """stats() as Prometheus text, with these labels on every sample."""
        return metrics.text(self._stats(), labels or {})


class Namespace(_pikv.Calls):
    """The operations on one namespace; made by Client.open()."""

    def __new__(cls, client: Client, number: int, name: str) -> Namespace:
        self = super().__new__(cls, client, number)
        self._name = name
        return self

    @property
    def client(self) -> Client:
        return self._client

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<pikv.Namespace {self._name!r}>"

    write_begin = _pikv.Calls.begin
    submit_write_begin = _pikv.Calls.submit_begin

    def get_bytes(self, key: bytes | str, **options: Any) -> bytes | None:
        """The whole block as bytes; None if it is not there. Asks its length
        first. options: of get() that name the key, and deadline_ms."""
        while True:
            found = self.lookup([key], **options).results[0]
            if not is_hit(found, key):
                return None
            into = bytearray(found.len)
            got = self.get([key], [into], **options)[0]
            whole = is_whole(got, found, key)
            if whole is not None:
                return bytes(into) if whole else None

    def explain(self, key: bytes | str, *, group: int = 0,
                scope: bytes | None = None, route: bytes | str | None = None,
                deadline_ms: float = 0) -> _pikv.Explanation:
        """Why a key is, or is not, there. Waits for the answer. route: as the
        block was put with, if it was: it says which lane to ask."""
        return self._explain(key, group, scope, _us(deadline_ms), route)

    def session(self, session: int, state: str) -> None:
        """A hint: blocks that carry the label `session` are wanted soon
        ("open"), later ("idle") or no more ("closed"). Never waits."""
        if state not in _SESSION:
            raise ValueError(f"state: {state!r}; want open, idle or closed")
        self._session(session, _SESSION[state])

    def bump(self, *, deadline_ms: float = 0) -> None:
        """Flushes the namespace: its blocks are never found again."""
        self._bump(_us(deadline_ms))

    def events(self, from_seq: Sequence[int] | None = None) -> EventStream:
        """Follows the namespace. from_seq: None (from now on), or for each
        lane the next seq wanted (0: all that the server still has)."""
        return EventStream(self, None if from_seq is None
                           else tuple(from_seq))


class EventStream(_pikv.Events):
    """Events of a namespace, in order of seq per lane. One thread at a time;
    another may close() it between two next()."""

    def next(self, max: int = 256, wait_ms: int = 1000) -> list[_pikv.Event]:
        """Up to max events; waits at most wait_ms for the first. Empty while
        there are none or the server is away."""
        return self._next(max, wait_ms)

    def __iter__(self) -> Iterator[_pikv.Event]:
        """Waits for one after the other until the stream is closed."""
        while not self.closed:
            yield from self._next(256, 1000)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

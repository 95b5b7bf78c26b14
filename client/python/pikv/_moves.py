# SPDX-License-Identifier: Apache-2.0
"""Batches of blocks between an engine's memory and a Store: what the doors for
SGLang and vLLM share.

A batch is cut into calls of at most PART_BYTES and PART_ITEMS, WINDOW of them
in flight: enough to keep the server's lanes busy, little enough that memory
which is not registered fits the staging area and that no thread holds Python's
lock for long.

    items --> calls --> submit, submit, ... wait --> ok per item

What must hold:
 1. Nothing raises but for what the caller did wrong: a server that is not
    there, or fails, is False for each item that it did not do.
 2. When a function returns, no byte of the caller's memory is touched any more.
 3. A call that failed as a whole ends its batch: what is not sent yet is not
    sent. So a server that hangs costs one deadline, not one per call.
 4. A GET is good only if the stored block has exactly the length asked for.

Threads: any number, each with batches of its own.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from typing import Any, Iterable, Sequence

import pikv
from pikv.engine import Store

PART_BYTES = 16 << 20
PART_ITEMS = 64
WINDOW = 4
ROUTE_BYTES = 32
SAID_MAX = 64
MISS, PENDING, HIT = 0, 1, 2  # states of a LOOKUP

_STORED = frozenset((0, pikv.Exists.code, pikv.Pending.code))


def address_of(buffer: Any) -> tuple[int, int]:
    """(address, bytes) of a tensor or of a writable buffer, without keeping
    hold of it: the owner sees to it that it stays."""
    ask = getattr(buffer, "data_ptr", None)
    if ask is not None:
        return int(ask()), int(buffer.numel()) * int(buffer.element_size())
    import ctypes
    view = memoryview(buffer)
    at = ctypes.addressof(ctypes.c_char.from_buffer(view))
    return at, view.nbytes


class Moves:
    """put, get and lookup of batches with one Store.

    deadline_ms: of each call that moves bytes; lookup_ms: of a lookup.
    pin_ttl_ms: how long what a lookup found stays for its load; 0: no pins.
    """

    def __init__(self, store: Store, *, deadline_ms: int, lookup_ms: int,
                 pin_ttl_ms: int, log: logging.Logger) -> None:
        self.store = store
        self.deadline_ms = deadline_ms
        self.lookup_ms = lookup_ms
        self.pin_ttl_ms = pin_ttl_ms
        self._log = log
        self._mu = threading.Lock()
        self._memory: dict[int, int] = {}  # address: bytes, of what is ours
        self._told: Any = None             # the client that we told about
        self._said: set[str] = set()

    # ---- memory ----

    def register(self, buffer: Any) -> None:
        """Has the server read and write this memory itself, if it can be
        shared; else bytes go by way of the staging area. Never raises."""
        try:
            address, n = address_of(buffer)
        except Exception as e:
            self.once(f"memory of a pool cannot be registered: {e!r}")
            return
        self.register_at(address, n)

    def register_at(self, address: int, n: int) -> None:
        """As register, of n bytes that stay mapped until the Store closes. At
        once if there is a server."""
        with self._mu:
            known = self._memory.get(address, 0) >= n
            self._memory[address] = max(n, self._memory.get(address, 0))
        if n and not known:
            self.store.register((address, n))

    def copies(self) -> str:
        """"one": the memory is shared with the server; "two": by way of the
        staging area; "some": a part of it is shared; "" not known yet."""
        client = self.store.client
        want = sum(self._memory.values())
        if client is None or not want:
            return ""
        try:
            have = client.stats()["registered_bytes"]
        except pikv.Error:
            return ""
        return "one" if have >= want else "some" if have else "two"

    def _tell(self, client: Any) -> None:
        """Once for each client: how bytes move."""
        if self._told is client:
            return
        self._told = client
        how = self.copies()
        text = {"one": "zero copy: the server reads and writes the engine's "
                       "memory itself",
                "two": "the engine's memory is private: bytes are staged "
                       "(one copy more)",
                "some": "a part of the engine's memory is private and staged "
                        "(one copy more)"}.get(how)
        if text:
            self._log.info("pikv: %s (%d MiB)", text,
                           sum(self._memory.values()) >> 20)

    def once(self, text: str, level: int = logging.WARNING) -> None:
        """Says it the first time; at most SAID_MAX different texts."""
        if text not in self._said and len(self._said) < SAID_MAX:
            self._said.add(text)
            self._log.log(level, "pikv: %s", text)

    # ---- bytes ----

    def put(self, keys: Sequence[Any], values: Sequence[Any],
            sizes: Sequence[int], **per_item: Sequence[Any]) -> list[bool]:
        """True where the block is stored now, by us or by others. values: as
        of pikv.Namespace.put. per_item: lists, such as routes, parents."""
        return self._batch("submit_put", keys, values, sizes, per_item)

    def get(self, keys: Sequence[Any], buffers: Sequence[Any],
            sizes: Sequence[int], **per_item: Sequence[Any]) -> list[bool]:
        """True where a block of exactly sizes[i] bytes came."""
        return self._batch("submit_get", keys, buffers, sizes, per_item)

    def _batch(self, name: str, keys: Sequence[Any], data: Sequence[Any],
               sizes: Sequence[int],
               per_item: dict[str, Sequence[Any]]) -> list[bool]:
        ok = [False] * len(keys)
        ns, client = self.store.ns, self.store.client
        if ns is None or client is None or not keys:
            return ok
        submit = getattr(ns, name)
        flying: deque[tuple[int, int, int]] = deque()
        good = True
        try:
            for first, end in cuts(sizes):
                while good and len(flying) >= WINDOW:
                    good = self._take(client, flying, name, sizes, ok)
                some = {k: v[first:end] for k, v in per_item.items()
                        if v is not None}
                while good:
                    try:
                        call = submit(keys[first:end], data[first:end],
                                      deadline_ms=self.deadline_ms, **some)
                        flying.append((call, first, end))
                        break
                    except pikv.Busy:  # no room: when one of ours has ended
                        good = bool(flying) and \
                            self._take(client, flying, name, sizes, ok)
                    except pikv.Error as e:
                        self.store.note(e)
                        good = False
        finally:  # also behind what the caller did wrong: rule 2
            while flying:
                self._take(client, flying, name, sizes, ok)
        self._tell(client)
        return ok

    def _take(self, client: Any, flying: deque[tuple[int, int, int]],
              name: str, sizes: Sequence[int], ok: list[bool]) -> bool:
        """Waits for the oldest call. False: it failed as a whole."""
        call, first, end = flying.popleft()
        try:
            done = client.wait(call)
        except pikv.Error as e:
            self.store.note(e)
            return False
        self.store.note(done.status)
        if done.results is None:
            return False
        statuses = done.results.statuses
        if name == "submit_put":
            ok[first:end] = [s in _STORED for s in statuses]
        else:
            got = zip(statuses, done.results.moved, done.results.lengths,
                      sizes[first:end])
            ok[first:end] = [s == 0 and moved == size and length == size
                             for s, moved, length, size in got]
            self._wrong_sizes(done.results, sizes[first:end])
        return done.status == 0

    def _wrong_sizes(self, results: Any, sizes: Sequence[int]) -> None:
        for status, length, size in zip(results.statuses, results.lengths,
                                        sizes):
            if status == 0 and length != size:
                self.once(f"a stored block has {length} bytes where {size} "
                          "are wanted; such blocks are misses (another engine "
                          "with another layout uses this namespace?)",
                          logging.ERROR)
                return

    # ---- questions ----

    def lookup(self, keys: Sequence[Any], columns: Sequence[Any] | None = None,
               chain: bool = True, **per_item: Sequence[Any]) -> list[int]:
        """The state of each cell of a matrix: keys row by row, one column per
        entry of columns (None: one). MISS for what was not answered. chain:
        nothing is asked behind a call in which the first column has a miss."""
        ns = self.store.ns
        states = [MISS] * len(keys)
        if ns is None or not keys:
            return states
        cols = len(columns) if columns else 1
        some = {k: v for k, v in per_item.items() if v is not None}
        how: dict[str, Any] = {"promote": True, "pin_ttl_ms": self.pin_ttl_ms,
                               "deadline_ms": self.lookup_ms}
        if columns:
            how.update(cols=cols, columns=list(columns))
        step = max(cols, self._keys_max() // cols * cols)
        for at in range(0, len(keys), step):
            part = {k: v[at:at + step] for k, v in some.items()}
            try:
                found = ns.lookup(keys[at:at + step], **part, **how)
            except pikv.Error as e:
                self.store.note(e)
                break
            self.store.note(0)
            states[at:at + step] = found.results.states
            if chain and any(s != HIT for s in
                             states[at:at + step:cols]):
                break
        return states

    def unpin(self, keys: Sequence[Any], **per_item: Sequence[Any]) -> None:
        """What was looked up has been loaded: it may go again."""
        ns = self.store.ns
        if ns is None or not keys or not self.pin_ttl_ms:
            return
        try:
            ns.unpin(keys, deadline_ms=self.lookup_ms, **per_item)
        except pikv.Error as e:
            self.store.note(e)

    def _keys_max(self) -> int:
        client = self.store.client
        try:
            return client.info().batch_keys_max if client else 1
        except pikv.Error:
            return 1024


def fit(text: str, spaces: bool = True) -> str:
    """text as a name or a field of a fingerprint: those are printable ASCII
    below 128 bytes, without quotes and backslashes. What does not fit keeps
    its start and gets a digest."""
    plain = "".join(
        c if " " < c < "\x7f" and c not in "\"\\" or c == " " and spaces
        else "-" for c in text)
    if plain == text and len(text) < 128:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{plain[:100]}#{digest}"


def cuts(sizes: Sequence[int]) -> Iterable[tuple[int, int]]:
    """(first, end) of the calls that a batch is cut into."""
    first = nbytes = 0
    for i, size in enumerate(sizes):
        if i > first and (nbytes + size > PART_BYTES or
                          i - first >= PART_ITEMS):
            yield first, i
            first, nbytes = i, 0
        nbytes += size
    if first < len(sizes):
        yield first, len(sizes)


def prefix_of(ok: Iterable[bool]) -> int:
    """How many are True before the first that is not."""
    n = 0
    for good in ok:
        if not good:
            break
        n += 1
    return n

# SPDX-License-Identifier: Apache-2.0
"""pikvd as the L2 of LMCache's MP server (`native_plugin`):

    lmcache server ... --l2-adapter '{"type": "native_plugin",
        "module_path": "pikv.lmcache", "class_name": "Client",
        "adapter_params": {"namespace": "llama-70b", "dtype": "bfloat16"}}'

    LMCache threads              its demux thread
        |  submit_batch_*            |  poll(event_fd), drain_completions
        v                            v
    parts of at most PART_BYTES --> calls of libpikv --> completions
    sent by the submitting thread, but for large stores of private memory:
    their bytes are copied when they are sent, so the demux thread sends them,
    one part a turn

event_fd is an epoll of libpikv's eventfd and one of our own, which says that
something ended, or is to be sent, without a call of libpikv.

What must hold:
 1. A submit returns a number at once and never raises; each number comes out
    of drain_completions once, also when there is no server: then as misses.
 2. A block is loaded only whole: its stored length must be the view's.
 3. A call that failed as a whole (timeout, no server) ends its operation: what
    is not sent yet is not sent. So a server that hangs costs one deadline.
 4. LMCache locks what it looked up, but only on its side, and never tells us
    that it has done with it. So exists pins for pin_ttl_ms, at most pin_cap
    keys; a load or a delete of the key ends the pin, else the ttl does. A pin
    that the server refuses is no error.

Keys. LMCache's text model@rank@group@hash[@salt] is the key as it is. The salt
is the scope as well (16 bytes of BLAKE2b of it), so that what a user left can
be dropped alone. The route is the first 32 characters of the hash: what
belongs to one chunk (all ranks, all groups) is in one place. What is not in
LMCache's key, such as dtype or the weights' version, belongs in the
fingerprint.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import select
import threading
import time
from collections import deque
from typing import Any

import pikv
from pikv.engine import FINGERPRINT, SETTINGS, Store

PART_BYTES = 8 << 20     # of one call
WINDOW_BYTES = 64 << 20  # of calls in flight, loads and stores each
INLINE_BYTES = 1 << 20   # copied by the submitting thread
ARENAS_MAX = 64          # mappings that are looked at, for registration
ROUTE_CHARS = 32

SET, GET, EXISTS, DELETE = "set", "get", "exists", "delete"
GOOD = {
    SET: frozenset((0, pikv.Exists.code, pikv.Pending.code)),
    GET: frozenset((0,)),
    EXISTS: frozenset((0,)),
    DELETE: frozenset((0, pikv.Miss.code)),
}

_log = logging.getLogger("pikv.lmcache")

# adapter_params that are numbers: default, least, most, unit.
NUMBERS = {
    "deadline_ms": (2000, 1, 600_000, "milliseconds"),
    "lookup_ms": (200, 1, 600_000, "milliseconds"),
    "connect_ms": (1000, 1, 600_000, "milliseconds"),
    "pin_ttl_ms": (5000, 0, 3_600_000, "milliseconds; 0: no pins"),
    "pin_cap": (4096, 0, 1 << 30, "keys"),
    "staging_bytes": (128 << 20, 1 << 20, 1 << 40, "bytes"),
    "retry_ms": (1000, 10, 600_000, "milliseconds"),
}
TEXTS = ("address", "namespace") + tuple(
    name for name in FINGERPRINT + ("policy", "loans", "dram")
    if name != "groups")


def _refuse(name: str, value: Any, want: str) -> None:
    raise ValueError(f"pikv: adapter_params.{name}: {value!r} is not {want}")


def _checked(params: dict[str, Any]) -> dict[str, Any]:
    """adapter_params with defaults; ValueError names the field."""
    out: dict[str, Any] = {n: row[0] for n, row in NUMBERS.items()}
    out.update(address=None, namespace="lmcache")
    known = tuple(NUMBERS) + TEXTS + ("share", "ttl_ms", "quota_bytes")
    for name, value in params.items():
        if name in NUMBERS or name in ("share", "ttl_ms", "quota_bytes"):
            _, least, most, unit = NUMBERS.get(name, (0, 0, 1 << 62, "number"))
            if isinstance(value, bool) or not isinstance(value, int) or \
                    not least <= value <= most:
                _refuse(name, value, f"a whole number from {least} to {most}"
                        f" ({unit})")
        elif name in TEXTS:
            if not isinstance(value, str) or not value:
                _refuse(name, value, "a text")
        else:
            raise ValueError(f"pikv: adapter_params.{name}: unknown; known "
                             f"are {', '.join(sorted(known))}")
        out[name] = value
    return out


def key_parts(key: str) -> tuple[str, str]:
    """(route, salt) of LMCache's key text. A text of another form is its own
    route and has no salt."""
    words = key.split("@")
    if len(words) < 4:
        return key[:ROUTE_CHARS], ""
    return words[3][:ROUTE_CHARS], words[4] if len(words) > 4 else ""


def scope_of(salt: str) -> bytes | None:
    """The 16 bytes that a salt is to the server; None without a salt."""
    if not salt:
        return None
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


def mapping_of(address: int) -> tuple[int, int, bool]:
    """(start, bytes, shared) of the mapping around an address: the whole run
    of one file, which the kernel may list in pieces. (0, 0, False): none."""
    run: list[int] = []
    of = None
    shared = False
    with open("/proc/self/maps", encoding="utf-8",
              errors="replace") as lines:
        for line in lines:
            span, perms, offset, dev, inode = line.split(None, 5)[:5]
            start, end = (int(x, 16) for x in span.split("-"))
            at = (dev, inode, perms[3], start - int(offset, 16))
            if run and start == run[1] and at == of and inode != "0":
                run[1] = end
                continue
            if run and run[0] <= address < run[1]:
                break
            run, of = [start, end], at
            shared = perms[3] == "s" and inode.strip() != "0"
    if run and run[0] <= address < run[1]:
        return run[0], run[1] - run[0], shared
    return 0, 0, False


class _Op:
    """One submit_batch_*: ok per key, and how many parts are not done."""

    __slots__ = ("id", "kind", "ok", "left", "error")

    def __init__(self, op_id: int, kind: str, n: int) -> None:
        self.id = op_id
        self.kind = kind
        self.ok = [False] * n
        self.left = 0
        self.error = ""

    def completion(self) -> tuple[int, bool, str, list[bool]]:
        error = self.error
        if self.kind == SET and not error and not all(self.ok):
            error = f"{self.ok.count(False)} of {len(self.ok)} not stored"
        return self.id, not error, error, self.ok


class _Part:
    """What of an operation one call carries: keys of one scope."""

    __slots__ = ("op", "first", "keys", "routes", "views", "sizes", "scope",
                 "nbytes", "pin", "refused")

    def __init__(self, op: _Op, first: int, salt: str, pin: bool) -> None:
        self.op = op
        self.first = first
        self.keys: list[str] = []
        self.routes: list[str] = []
        self.views: list[memoryview] = []
        self.sizes: list[int] = []
        self.scope = scope_of(salt)
        self.nbytes = 0
        self.pin = pin
        self.refused = False  # libpikv had no room while nothing was in flight


class Client:
    """The connector class that LMCache's native_plugin loads.

    adapter_params, all optional. address: "shm:PATH" or "ucx:HOST:PORT".
    namespace: default "lmcache". model, weights_version, tokenizer_hash,
    hash_seed, dtype, scale_format, parallel_layout: the fingerprint; who says
    another value than the namespace has gets no cache. policy, loans, dram,
    share, ttl_ms, quota_bytes: settings of a namespace that is made now.
    deadline_ms: of a call that moves or deletes blocks (2000). lookup_ms: of a
    lookup (200). connect_ms: how long the start waits for a server (1000).
    pin_ttl_ms: how long a block that was looked up stays for its load (5000).
    pin_cap: most keys pinned at a time (4096). staging_bytes: for memory that
    is not shared (128 MiB). retry_ms: between attempts to open (1000).
    ValueError names a field that is wrong.

    Threads: any may submit; drain_completions by one at a time. Views belong
    to LMCache and stay valid until their operation is drained.
    """

    def __init__(self, **params: Any) -> None:
        p = _checked(params)
        self._deadline_ms = p["deadline_ms"]
        self._lookup_ms = p["lookup_ms"]
        self._pin_ttl_ms = p["pin_ttl_ms"]
        self._pin_cap = p["pin_cap"] if p["pin_ttl_ms"] else 0
        self._mu = threading.Lock()
        self._drain_mu = threading.Lock()
        self._next_id = 1
        self._finished: list[tuple[int, bool, str, list[bool]]] = []
        self._queues: dict[str, deque[_Part]] = {GET: deque(), SET: deque()}
        self._bytes = {GET: 0, SET: 0}  # in flight
        self._sent = 0                  # calls in flight
        self._pins: dict[str, list] = {}  # key: [lookups, when it ends]
        self._pins_asked = 0
        self._unpins: dict[bytes | None, list[tuple[str, str]]] = {}
        self._arenas: list[tuple[int, int, bool]] = []
        self._said: set[str] = set()
        self._closed = False
        self._client: pikv.Client | None = None
        self._keys_max = 1 << 30
        self._held = False  # a store found no room; wait for a completion
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._signalled = False
        self._epoll = select.epoll()
        self._epoll.register(self._eventfd, select.EPOLLIN)
        self._store = Store(
            p["address"], p["namespace"], engine="lmcache", log=_log,
            fingerprint={n: p[n] for n in FINGERPRINT if n in p},
            settings={n: p[n] for n in SETTINGS if n in p},
            connect_ms=p["connect_ms"], staging_bytes=p["staging_bytes"],
            retry_s=p["retry_ms"] / 1000)
        self._store.first_try(p["connect_ms"] / 1000)
        self._namespace()

    # ---- LMCache's interface ----

    def event_fd(self) -> int:
        """Readable when drain_completions has something to do."""
        return self._epoll.fileno()

    def submit_batch_set(self, keys: list[str],
                         views: list[memoryview]) -> int:
        """Stores; ok if each key is there afterwards, by us or by others."""
        return self._submit(SET, keys, views)

    def submit_batch_get(self, keys: list[str],
                         views: list[memoryview]) -> int:
        """Fills the views; True where a block of exactly that length came."""
        return self._submit(GET, keys, views)

    def submit_batch_exists(self, keys: list[str]) -> int:
        """True where a block is; it stays for pin_ttl_ms, or until loaded."""
        return self._submit(EXISTS, keys, None)

    def submit_batch_delete(self, keys: list[str]) -> int:
        """Drops; True where no block is afterwards."""
        return self._submit(DELETE, keys, None)

    def drain_completions(self) -> list[tuple[int, bool, str, list[bool]]]:
        """(number, ok, why not, per key) of each operation that ended. Sends
        what waits. Never raises."""
        with self._drain_mu:
            try:
                self._turn()
            except Exception as e:  # a bug must not end LMCache's thread
                self._once("drain", f"drain: {e!r}")
            with self._mu:
                out, self._finished = self._finished, []
                if self._sets_can_go():
                    self._signal()
                elif self._signalled and not self._closed:
                    os.eventfd_read(self._eventfd)
                    self._signalled = False
            return out

    def close(self) -> None:
        """Ends all; no view is touched afterwards. Twice is fine."""
        with self._drain_mu, self._mu:
            if self._closed:
                return
            self._closed = True
        self._store.close()
        self._epoll.close()
        os.close(self._eventfd)

    def stats(self) -> dict[str, Any]:
        """As of pikv.engine.Store, and pins: keys held for a load."""
        return {**self._store.stats(), "pins": len(self._pins)}

    # ---- from operations to parts ----

    def _submit(self, kind: str, keys: list[str],
                views: list[memoryview] | None) -> int:
        with self._mu:
            op = _Op(self._next_id, kind, len(keys))
            self._next_id += 1
        later = False
        try:
            shared = self._look_at_arena(views[0]) if views else True
            parts = self._cut(op, keys, views)
            later = kind == SET and not shared and \
                sum(part.nbytes for part in parts) > INLINE_BYTES
        except Exception as e:
            self._once("submit", f"{kind}: {e!r}")
            op.error, parts = repr(e), []
        which = SET if kind == SET else GET
        with self._mu:
            op.left = len(parts)
            if parts and not self._closed:
                self._queues[which].extend(parts)
            else:
                self._finished.append(op.completion())
                later = True
            if later:
                self._signal()
        while not later and self._send_next(which):
            pass
        return op.id

    def _cut(self, op: _Op, keys: list[str],
             views: list[memoryview] | None) -> list[_Part]:
        room = self._pin_room(len(keys)) if op.kind == EXISTS else 0
        parts: list[_Part] = []
        part, cut = None, None
        for i, key in enumerate(keys):
            route, salt = key_parts(key)
            size = views[i].nbytes if views else 0
            if part is None or cut != (salt, i < room) or \
                    len(part.keys) == self._keys_max or \
                    part.nbytes + size > PART_BYTES:
                cut = (salt, i < room)
                part = _Part(op, i, salt, i < room)
                parts.append(part)
            part.keys.append(key)
            part.routes.append(route)
            if views:
                part.views.append(views[i])
                part.sizes.append(size)
                part.nbytes += size
        return parts

    # ---- sending ----

    def _sets_can_go(self) -> bool:
        """With _mu. Is there a store to send, and nothing to wait for?"""
        if self._held or not self._queues[SET]:
            return False
        inflight = self._bytes[SET]
        return inflight == 0 or \
            inflight + self._queues[SET][0].nbytes <= WINDOW_BYTES

    def _take(self, which: str) -> _Part | None:
        with self._mu:
            queue = self._queues[which]
            if not queue:
                return None
            inflight = self._bytes[which]
            if inflight and inflight + queue[0].nbytes > WINDOW_BYTES:
                return None
            self._bytes[which] += queue[0].nbytes
            self._sent += 1
            return queue.popleft()

    def _send_next(self, which: str) -> bool:
        """False: nothing more can be sent now."""
        part = self._take(which)
        if part is None:
            return False
        if part.op.error:
            self._part_done(part, None, part.op.error)
            return True
        ns = self._namespace()
        if ns is None:
            self._part_done(part, None, self._store.error or "no server")
            return True
        try:
            self._call(ns, part)
        except pikv.Busy:
            return self._put_back(which, part)
        except Exception as e:
            self._store.note(e)
            if not isinstance(e, pikv.Error):
                self._once("call", f"{part.op.kind}: {e!r}")
            self._part_done(part, None, str(e) or repr(e))
        return True

    def _put_back(self, which: str, part: _Part) -> bool:
        """libpikv has no room: again when a call of ours has ended; at once
        if the last one ended just now, but then only once."""
        with self._mu:
            others = self._sent > 1
            again = others or not part.refused
            if again:
                self._sent -= 1
                self._bytes[which] -= part.nbytes
                self._queues[which].appendleft(part)
                self._held = others and which == SET
                part.refused = not others
        if not again:
            self._part_done(part, None, "BUSY")
        return not others

    def _call(self, ns: pikv.Namespace, part: _Part) -> None:
        how = {"routes": part.routes, "scope": part.scope, "tag": part,
               "deadline_ms": self._deadline_ms}
        kind = part.op.kind
        if kind == SET:
            ns.submit_put(part.keys, part.views, **how)
        elif kind == GET:
            ns.submit_get(part.keys, part.views, **how)
        elif kind == DELETE:
            ns.submit_evict(part.keys, **how)
        else:
            how["deadline_ms"] = self._lookup_ms
            ns.submit_lookup(
                part.keys, promote=True,
                pin_ttl_ms=self._pin_ttl_ms if part.pin else 0, **how)

    # ---- what came back ----

    def _turn(self) -> None:
        self._namespace()
        if self._client and not self._closed:
            for c in self._client.drain():
                self._held = False
                try:
                    self._completed(c)
                except Exception as e:  # each operation ends, whatever it is
                    self._once("completed", repr(e))
                    if isinstance(c.data, _Part):
                        self._part_done(c.data, None, repr(e))
        self._send_unpins()
        while self._send_next(GET):
            pass
        self._send_next(SET)

    def _completed(self, c: pikv.Completion) -> None:
        part = c.data
        if not isinstance(part, _Part):  # an unpin: nobody waits for it
            with self._mu:
                self._sent -= 1
            return
        self._store.note(c.status)
        error = pikv.error_name(c.status) if c.status else ""
        if c.results is None:
            self._part_done(part, None, error)
            return
        good = GOOD[part.op.kind]
        ok = [status in good for status in c.results.statuses]
        if part.op.kind == GET:
            self._check_lengths(part, c.results, ok)
        elif part.op.kind == EXISTS and part.pin:
            self._pinned(part, c.results)
        if part.op.kind in (GET, DELETE):
            self._unpin(part)
        self._part_done(part, ok, error)

    def _check_lengths(self, part: _Part, results: pikv.Results,
                       ok: list[bool]) -> None:
        rows = zip(part.sizes, results.lengths, results.moved)
        for i, (want, length, moved) in enumerate(rows):
            if ok[i] and (length != want or moved != want):
                ok[i] = False
                self._once("length", f"a block of {length} bytes where LMCache"
                           f" expects {want}: a miss (key {part.keys[i]}). Do "
                           "two settings (dtype, chunk size) share a namespace"
                           " without a fingerprint that tells them apart?")

    def _part_done(self, part: _Part, ok: list[bool] | None,
                   error: str) -> None:
        op = part.op
        with self._mu:
            self._sent -= 1
            self._bytes[SET if op.kind == SET else GET] -= part.nbytes
            if part.pin:
                self._pins_asked -= len(part.keys)
            if ok:
                op.ok[part.first:part.first + len(ok)] = ok
            op.error = op.error or error
            op.left -= 1
            if op.left == 0:
                self._finished.append(op.completion())
                self._signal()

    # ---- pins ----

    def _pin_room(self, n: int) -> int:
        """How many of n keys to look up may be pinned; counts them as asked
        for, which _part_done takes back."""
        with self._mu:
            held = len(self._pins) + self._pins_asked
            if held + n > self._pin_cap:
                now = time.monotonic()
                self._pins = {k: pin for k, pin in self._pins.items()
                              if pin[1] > now}
                held = len(self._pins) + self._pins_asked
            room = max(0, min(n, self._pin_cap - held))
            self._pins_asked += room
            return room

    def _pinned(self, part: _Part, results: pikv.Results) -> None:
        due = time.monotonic() + self._pin_ttl_ms / 1000
        with self._mu:
            for i, key in enumerate(part.keys):
                if results[i].pinned:
                    pin = self._pins.setdefault(key, [0, 0.0])
                    pin[0] += 1
                    pin[1] = due

    def _unpin(self, part: _Part) -> None:
        """Each load ends one lookup; the last one ends the pin."""
        with self._mu:
            for key, route in zip(part.keys, part.routes):
                pin = self._pins.get(key)
                if pin is None:
                    continue
                pin[0] -= 1
                if pin[0] <= 0 or part.op.kind == DELETE:
                    del self._pins[key]
                    self._unpins.setdefault(part.scope, []).append((key, route))

    def _send_unpins(self) -> None:
        """What a turn has collected. What cannot be sent, the ttl ends."""
        unpins, self._unpins = self._unpins, {}
        for scope, rows in unpins.items():
            for at in range(0, len(rows), self._keys_max):
                some = rows[at:at + self._keys_max]
                try:
                    self._namespace().submit_unpin(
                        [key for key, _ in some], scope=scope,
                        routes=[route for _, route in some],
                        deadline_ms=self._lookup_ms)
                except Exception:
                    break
                with self._mu:
                    self._sent += 1

    # ---- small ----

    def _signal(self) -> None:
        """With _mu: makes event_fd readable until the next drain."""
        if not self._signalled and not self._closed:
            self._signalled = True
            os.eventfd_write(self._eventfd, 1)

    def _namespace(self) -> pikv.Namespace | None:
        """The store's, whose handle wakes our event_fd. There is one handle in
        a Client's life, and none in a forked child, where LMCache's threads
        are not either."""
        ns, client = self._store.ns, self._store.client
        if client is not None and self._client is None:
            with self._mu:
                if self._client is None and not self._closed:
                    self._keys_max = client.info().batch_keys_max
                    self._epoll.register(client.fileno(), select.EPOLLIN)
                    self._client = client
        return ns if client is self._client else None

    def _look_at_arena(self, view: memoryview) -> bool:
        """Registers the mapping that LMCache's memory is in, when it is met
        for the first time. Can the server reach this memory?"""
        try:
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        except (TypeError, ValueError):  # read-only, or empty
            return False
        for start, size, shared in self._arenas:
            if start <= address < start + size:
                return shared
        if len(self._arenas) >= ARENAS_MAX:
            return False
        start, size, shared = mapping_of(address)
        self._arenas.append((start, size, shared))
        if shared:
            self._store.register((start, size), wait=False)
        else:
            self._once("private", "LMCache's L1 is private memory: each block "
                       "is copied once more. --no-l1-use-lazy --shm-name pikv "
                       "lets the server read and write it directly")
        return False

    def _once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("pikv: %s", text)

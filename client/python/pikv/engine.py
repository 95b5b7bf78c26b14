# SPDX-License-Identifier: Apache-2.0
"""What every engine's door holds: a client and a namespace that come and go.

An inference engine must start, and go on, without its cache. A Store opens the
client and the namespace in a thread of its own and tries again until it has
them; until then, and whenever they are gone, `ns` is None and the door answers
"miss".

    Store --> opening --> ready            ns is a Namespace
       ^         |          |  after fork, the handle was closed, or the
       |         |          |  namespace flushed or unknown (same handle)
       |   retry_s later    |
       +---------+<---------+
                 |
                 +--> refused              Mismatch: a person must act; said
                                           once, with the field, not retried

A daemon that ends or starts again is libpikv's business: the handle stays, its
calls answer NO_SERVER at once and succeed when the daemon is back; both are
said, once. If another engine has made the namespace in the new daemon first,
with another fingerprint, it is refused as at the start. A daemon that
hangs costs a deadline per call; after HANG_S of timeouts and nothing else the
Store says None for a while (retry_s, then twice that, up to PAUSE_MAX_S), so
that an engine does not pay a deadline for each of its requests. Doors tell it
how their calls ended: note().

Threads: everything may be called from any thread; nothing but ready(),
first_try(), close() and register() blocks. The thread ends when there is
nothing left to do.
Fork: the child's Store has no handle and opens its own when `ns` is asked for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Any

import pikv

FINGERPRINT = ("model", "weights_version", "tokenizer_hash", "hash_seed",
               "dtype", "scale_format", "parallel_layout", "groups")
SETTINGS = ("policy", "loans", "share", "ttl_ms", "quota_bytes", "dram")
HANG_S = 1.0      # timeouts over so long, nothing else: calls are held back
PAUSE_MAX_S = 16.0
AWAY = "NO_SERVER: the server is away"

_stores: "weakref.WeakSet[Store]" = weakref.WeakSet()


def _check_names(what: str, given: dict, known: tuple[str, ...]) -> dict:
    for name in given:
        if name not in known:
            raise ValueError(f"{what}: {name!r} is unknown; known are "
                             + ", ".join(known))
    return dict(given)


class Store:
    """A namespace of a pikvd that may not be there yet.

    address: as of pikv.Client. namespace: made if it does not exist.
    fingerprint: what must be equal to share blocks; names of FINGERPRINT.
    settings: of the namespace when it is made; names of SETTINGS.
    engine, model, dp_rank, tp_rank, pp_rank: who we are, for `pikvctl clients`.
    connect_ms, inflight, staging_bytes: as of pikv.Client.
    retry_s: pause between attempts to open, in seconds.
    log: a logging.Logger; default "pikv".
    Raises ValueError for unknown names, nothing else.
    """

    def __init__(self, address: str | None = None,
                 namespace: str = "default", *,
                 fingerprint: dict[str, Any] | None = None,
                 settings: dict[str, Any] | None = None,
                 engine: str = "", model: str = "", dp_rank: int = 0,
                 tp_rank: int = 0, pp_rank: int = 0, connect_ms: int = 1000,
                 inflight: int = 256, staging_bytes: int = 64 << 20,
                 retry_s: float = 1.0,
                 log: logging.Logger | None = None) -> None:
        fingerprint = _check_names("fingerprint", fingerprint or {},
                                   FINGERPRINT)
        settings = _check_names("settings", settings or {}, SETTINGS)
        self._client_args = {
            "address": address, "engine": engine or None,
            "model": model or fingerprint.get("model") or None,
            "dp_rank": dp_rank, "tp_rank": tp_rank, "pp_rank": pp_rank,
            "connect_ms": connect_ms, "inflight": inflight,
            "staging_bytes": staging_bytes}
        self._open_args = {"name": namespace, **fingerprint, **settings}
        self._retry_s = retry_s
        self._log = log or logging.getLogger("pikv")
        self._buffers: list[Any] = []
        self._said = ""
        self._closed = False
        self._abandoned: list[Any] = []
        self._private = False    # said that some memory cannot be shared
        self._reset()
        _stores.add(self)
        self._kick()

    def _reset(self) -> None:
        """The state of a Store that has no handle and no thread."""
        self._mu = threading.Lock()
        self._cond = threading.Condition(self._mu)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: pikv.Client | None = None
        self._ns: pikv.Namespace | None = None
        self._registered = 0     # of _buffers, with this client
        self._kept: list[Any] = []  # a Registration ends when it is dropped
        self._tried = False
        self._refused = False
        self._error = "not opened yet"
        self._hangs_since = 0.0
        self._pause_s = self._retry_s
        self._paused_until = 0.0
        self._away_since = 0.0   # NO_SERVER since then; 0: it is there

    # ---- what doors use ----

    @property
    def ns(self) -> pikv.Namespace | None:
        """The namespace, or None: not there now, treat everything as a miss."""
        ns = self._ns
        if ns is None:
            self._kick()
        elif self._paused_until and time.monotonic() < self._paused_until:
            return None
        return ns

    @property
    def client(self) -> pikv.Client | None:
        """The client, or None. Stays while the daemon is away."""
        return self._client

    @property
    def error(self) -> str:
        """Why there is none, for status pages: why `ns` is None, or that calls
        end with NO_SERVER; "" if all is well."""
        if self._ns is None:
            return self._error
        if self._paused_until > time.monotonic():
            return "the server does not answer"
        return AWAY if self._away_since else ""

    def ready(self, timeout: float = 0.0) -> bool:
        """Is there a namespace? Waits up to timeout seconds for one."""
        self._kick()
        with self._cond:
            self._cond.wait_for(
                lambda: self._ns or self._refused or self._closed, timeout)
            return self._ns is not None

    def first_try(self, timeout: float) -> bool:
        """Waits until the first attempt to open has ended, at most timeout
        seconds: an engine that starts beside a running daemon is to hit from
        its first request on, and one without it is not to wait."""
        with self._cond:
            self._cond.wait_for(lambda: self._tried or self._closed, timeout)
            return self._ns is not None

    def note(self, error: BaseException | int) -> None:
        """How a call ended: its status, or what was raised. Opens again after
        Forked and Closed, and the namespace after it was flushed or forgotten;
        pauses when the server hangs."""
        code = error if isinstance(error, int) else getattr(error, "code", 0)
        if code in (pikv.Forked.code, pikv.Closed.code):
            self._lost()
        elif code in (pikv.StaleGeneration.code, pikv.NoNamespace.code):
            self._flushed()
        elif code in (pikv.NoServer.code, pikv.PeerGone.code):
            if not self._away_since:
                self._away_since = time.monotonic()
                self._say(logging.WARNING, "no pikvd, everything is a miss "
                          "until it is there: " + AWAY)
        elif self._away_since and code in (0, pikv.Miss.code):
            # Lanes come back one by one: not said for each.
            if time.monotonic() - self._away_since > self._retry_s:
                self._away_since = 0.0
                self._there()
        elif code == pikv.Timeout.code:
            now = time.monotonic()
            self._hangs_since = self._hangs_since or now
            if now - self._hangs_since >= HANG_S:
                self._pause(now)
        elif self._hangs_since and code in (0, pikv.Miss.code):
            self._hangs_since = 0.0
            self._pause_s = self._retry_s
            self._paused_until = 0.0

    def register(self, buffer: Any, wait: bool = True) -> None:
        """Registers memory with the client, this one and every later one: the
        daemon then reads and writes it directly. buffer as of
        pikv.Client.register; it, or a tuple (address, bytes), is remembered:
        the memory must stay mapped until close(). Never raises: for memory
        that cannot be shared, bytes go through the staging area (one copy
        more); said once. wait=False: done by the thread, soon."""
        with self._mu:
            self._buffers.append(buffer)
        if wait and self._ns is not None:
            self._register_new()
        else:
            self._kick()

    def stats(self) -> dict[str, Any]:
        """hits, misses (items of GETs), bytes (moved by GETs and PUTs),
        errors, p50_us, p99_us (of GET calls, upper bounds of their buckets),
        ready."""
        out = {"hits": 0, "misses": 0, "bytes": 0, "errors": 0, "p50_us": 0,
               "p99_us": 0, "ready": self.ns is not None}
        client = self._client
        if client is None:
            return out
        try:
            ops = client.stats()["ops"]
        except pikv.Error as e:
            self.note(e)
            return out
        get, put = ops.get("get", {}), ops.get("put", {})
        out["hits"] = get.get("hits", 0)
        out["misses"] = get.get("misses", 0)
        out["bytes"] = get.get("bytes", 0) + put.get("bytes", 0)
        out["errors"] = sum(op.get(name, 0) for op in ops.values()
                            for name in ("timeouts", "busy", "down", "errors"))
        out["p50_us"] = percentile_us(get.get("buckets", ()), 50)
        out["p99_us"] = percentile_us(get.get("buckets", ()), 99)
        return out

    def close(self) -> None:
        """Ends the handle: calls in flight are cancelled, their buffers are
        not touched any more. Twice is fine."""
        with self._cond:
            self._closed = True
            self._stop.set()
            thread = self._thread
            self._cond.notify_all()
        if thread and thread is not threading.current_thread():
            thread.join()
        with self._mu:
            client, self._client, self._ns = self._client, None, None
            self._error = "closed"
        if client:
            client.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # ---- the thread ----

    def _kick(self) -> None:
        """Starts the thread unless it runs or has nothing to do."""
        if self._thread or self._closed or self._refused:
            return
        with self._mu:
            if self._thread or self._closed or not self._has_work():
                return
            self._thread = threading.Thread(
                target=self._run, name="pikv-open", daemon=True)
            self._thread.start()

    def _has_work(self) -> bool:
        if self._refused:
            return False
        return self._ns is None or self._registered < len(self._buffers)

    def _run(self) -> None:
        while True:
            if self._ns is None:
                self._open()
            if self._ns is not None:
                self._register_new()
            with self._cond:
                self._tried = True
                self._cond.notify_all()
                if self._closed or not self._has_work():
                    self._thread = None
                    return
            if self._ns is None:
                self._stop.wait(self._retry_s)

    def _open(self) -> None:
        made = None
        client = self._client
        try:
            if client is None:
                client = made = pikv.Client(**self._client_args)
            ns = client.open(**self._open_args)
        except pikv.Mismatch as e:
            self._failed(made, str(e), refused=True)
        except (pikv.Closed, pikv.Forked):
            self._lost()
        except Exception as e:  # whatever it is, the engine goes on
            self._failed(made, str(e) or type(e).__name__)
        else:
            with self._mu:
                self._client, self._ns = client, ns
                if made:
                    self._registered = 0
                    self._kept = []
                self._error = ""
            self._there()

    def _failed(self, client: Any, why: str, refused: bool = False) -> None:
        if client:
            client.close()
        with self._cond:
            self._error = why
            self._refused = refused
            self._cond.notify_all()
        if refused:
            self._say(logging.ERROR, "pikvd refuses this namespace, the cache "
                      f"stays off until the engine is started anew: {why}")
        else:
            self._say(logging.WARNING, "no pikvd, everything is a miss until "
                      f"it is there: {why}")

    def _there(self) -> None:
        if self._said:
            self._say(logging.INFO, "pikvd is there")
            self._said = ""

    def _register_new(self) -> None:
        """Registers what is new, in order; two threads never the same."""
        while True:
            with self._mu:
                client = self._client
                i = self._registered
                if client is None or i >= len(self._buffers):
                    return
                self._registered = i + 1
                buffer = self._buffers[i]
            try:
                self._kept.append(client.register(buffer))
            except Exception as e:
                if not self._private:
                    self._private = True
                    self._log.warning(
                        "pikv: this memory cannot be shared with the server, "
                        "its bytes are copied once more: %s", e)

    def _lost(self) -> None:
        """The handle is of no use any more; another one is opened."""
        with self._mu:
            if self._client is not None:
                self._abandoned.append((self._client, self._ns))
            self._client = self._ns = None
            self._error = "the handle was lost"
        self._kick()

    def _flushed(self) -> None:
        """The server does not know this namespace any more, or in another
        generation: it is opened again, with the same handle."""
        with self._mu:
            if self._ns is None or self._closed:
                return
            self._ns = None
            self._error = "the namespace was flushed"
        self._kick()

    def _pause(self, now: float) -> None:
        if now < self._paused_until:
            return
        self._paused_until = now + self._pause_s
        self._say(logging.WARNING, "pikvd does not answer, everything is a "
                  f"miss for {self._pause_s:g} s")
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)

    def _say(self, level: int, text: str) -> None:
        """Once, until something else is to be said."""
        if text != self._said:
            self._said = text
            self._log.log(level, "pikv: %s", text)

    def _after_fork(self) -> None:
        """In the child: the parent's handle is kept from being closed by the
        garbage collector, and nothing else of it is used."""
        self._abandoned.append((self._client, self._ns))
        self._reset()


def percentile_us(buckets: Any, percent: float) -> int:
    """The upper bound of the bucket (2^i us) where percent of the calls are
    done; 0 without calls."""
    total = sum(buckets)
    seen = 0
    for i, n in enumerate(buckets):
        seen += n
        if n and seen * 100 >= total * percent:
            return 1 << i
    return 0


def _stores_after_fork() -> None:
    for store in list(_stores):
        store._after_fork()


os.register_at_fork(after_in_child=_stores_after_fork)

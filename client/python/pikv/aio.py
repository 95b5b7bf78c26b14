# SPDX-License-Identifier: Apache-2.0
"""pikv for asyncio: the names of pikv.Client and pikv.Namespace, awaited.

    async with pikv.aio.Client() as client:
        ns = await client.open("demo")
        await ns.put(keys, values)
        results = await ns.get(keys, buffers)

One reader on the client's eventfd finishes the futures of all calls. More calls
than `inflight` wait here for room, so any number may be gathered; a call's
deadline begins when it is submitted. A cancelled await gives up the answer, not
the call: its buffers are held, and may be written, until its completion came.
Use a client from the loop that connected it. What waits for the server without
a completion (open, alloc, register, explain, events, ...) runs in the loop's
default executor.
"""

from __future__ import annotations

import asyncio
import collections
import functools
from typing import Any, AsyncIterator, Callable

from . import client as _sync
from ._pikv import Completion, Event, Lookup
from .errors import ERRORS, Busy, Closed


_SLICE_MS = 200  # how long a thread waits for events


def _failed(done: Completion) -> Exception:
    error = ERRORS[done.status]("")
    error.results = done.results
    return error


class Client:
    """As pikv.Client, with the same arguments. `async with`, or
    `await Client.connect(...)` and `await client.close()`."""

    def __init__(self, address: str | None = None, **options: Any) -> None:
        self._make = functools.partial(_sync.Client, address, **options)
        self._client: _sync.Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: set[asyncio.Future] = set()
        self._room: collections.deque[asyncio.Future] = collections.deque()

    @classmethod
    async def connect(cls, address: str | None = None,
                      **options: Any) -> Client:
        return await cls(address, **options).__aenter__()

    async def __aenter__(self) -> Client:
        self._loop = asyncio.get_running_loop()
        self._client = await self._loop.run_in_executor(None, self._make)
        self._loop.add_reader(self._client.fileno(), self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        return self._client is None

    @property
    def sync(self) -> _sync.Client:
        """The pikv.Client beneath; its drain() is taken care of."""
        if self._client is None:
            raise Closed("not connected, or closed")
        return self._client

    async def close(self) -> None:
        """Ends the connection; calls in flight raise Closed. BufferError, and
        nothing is ended, while loans are viewed."""
        client, self._client = self._client, None
        if client is None:
            return
        self._loop.remove_reader(client.fileno())
        try:
            await self._loop.run_in_executor(None, client.close)
        except BufferError:
            self._client = client
            self._loop.add_reader(client.fileno(), self._ready)
            raise
        finally:
            if self._client is None:
                self._give_up()

    def _give_up(self) -> None:
        for future in [*self._pending, *self._room]:
            if not future.done():
                future.set_exception(Closed("closed while in flight"))
        self._pending.clear()
        self._room.clear()

    async def _run(self, fn: Callable, *args: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            None, functools.partial(fn, *args, **options))

    # ---- completions

    def _ready(self) -> None:
        """The eventfd is readable: every completion ends its future, and as
        many waiters for room go on."""
        if self._client is None:
            return
        for done in self._client.drain():
            if done.part:
                continue
            future = done.data
            self._pending.discard(future)
            if not future.done():
                future.set_result(done)
            self._wake()

    def _wake(self) -> None:
        while self._room:
            waiter = self._room.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _has_room(self) -> None:
        waiter = self._loop.create_future()
        self._room.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # It was this one's turn: the next one's, then.
            if waiter.done() and not waiter.cancelled():
                self._wake()
            raise

    async def call(self, submit: Callable, *args: Any,
                   **options: Any) -> Completion:
        """Submits, and waits for the completion. Raises its error."""
        future = self._loop.create_future() if self._loop else None
        while True:
            self.sync
            try:
                submit(*args, tag=future, **options)
                break
            except Exception as e:
                if not isinstance(e, Busy) or not self._pending:
                    self._wake()  # the room that it does not take
                    raise
            await self._has_room()
        self._pending.add(future)
        done = await future
        if done.status:
            raise _failed(done)
        return done

    # ---- the names of pikv.Client

    async def open(self, name: str, **options: Any) -> Namespace:
        return Namespace(self, await self._run(self.sync.open, name,
                                               **options))

    async def info(self) -> Any:
        return self.sync.info()

    async def alloc(self, nbytes: int) -> Any:
        return await self._run(self.sync.alloc, nbytes)

    async def register(self, buffer: Any) -> Any:
        return await self._run(self.sync.register, buffer)

    async def layout(self, buffer: Any, runs: Any, **options: Any) -> int:
        return await self._run(self.sync.layout, buffer, runs, **options)

    async def unlayout(self, layout: int) -> None:
        return await self._run(self.sync.unlayout, layout)

    async def nodes(self) -> list[dict[str, Any]]:
        return self.sync.nodes()

    async def stats(self) -> dict[str, Any]:
        return self.sync.stats()

    async def metrics_text(self, labels: dict[str, str] | None = None) -> str:
        return self.sync.metrics_text(labels)


def _results(done: Completion) -> Any:
    return done.results


def _operation(name: str, answer: Callable[[Completion], Any]) -> Callable:
    async def call(self: Namespace, *args: Any, **options: Any) -> Any:
        submit = getattr(self._ns, "submit_" + name)
        return answer(await self._client.call(submit, *args, **options))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = getattr(_sync.Namespace, name).__doc__
    return call


class Namespace:
    """As pikv.Namespace; made by Client.open(). `tag` is not for callers."""

    def __init__(self, client: Client, namespace: _sync.Namespace) -> None:
        self._client = client
        self._ns = namespace

    @property
    def client(self) -> Client:
        return self._client

    @property
    def name(self) -> str:
        return self._ns.name

    put = _operation("put", _results)
    get = _operation("get", _results)
    lookup = _operation(
        "lookup", lambda done: Lookup((done.prefix, done.results, done.stops)))
    exists = _operation("exists", lambda done: done.results.hits)
    evict = _operation("evict", lambda done: done.count)
    pin = _operation("pin", _results)
    unpin = _operation("unpin", _results)
    touch = _operation("touch", _results)
    prefetch = _operation("prefetch", _results)
    begin = write_begin = _operation("begin", _results)
    write = _operation("write", _results)
    commit = _operation("commit", _results)
    abort = _operation("abort", _results)

    async def get_bytes(self, key: bytes | str,
                        **options: Any) -> bytes | None:
        """The whole block as bytes; None if it is not there."""
        while True:
            found = (await self.lookup([key], **options)).results[0]
            if not _sync.is_hit(found, key):
                return None
            into = bytearray(found.len)
            got = (await self.get([key], [into], **options))[0]
            whole = _sync.is_whole(got, found, key)
            if whole is not None:
                return bytes(into) if whole else None

    async def explain(self, key: bytes | str, **options: Any) -> Any:
        return await self._client._run(self._ns.explain, key, **options)

    async def session(self, session: int, state: str) -> None:
        self._ns.session(session, state)

    async def bump(self, **options: Any) -> None:
        await self._client._run(self._ns.bump, **options)

    async def events(self, from_seq: Any = None) -> EventStream:
        return EventStream(self._client, self._ns.events(from_seq))


class EventStream:
    """As pikv.EventStream: `async for event in stream`. A cancelled await
    loses nothing: its events are the next one's."""

    def __init__(self, client: Client, stream: _sync.EventStream) -> None:
        self._client = client
        self._stream = stream
        self._asked: asyncio.Future | None = None  # a thread is in next()
        self._awaited = False

    @property
    def closed(self) -> bool:
        return self._stream.closed

    async def next(self, max: int = 256, wait_ms: int = 1000) -> list[Event]:
        if self._awaited:
            raise RuntimeError("another task waits in next() of this stream")
        self._awaited = True
        try:
            while True:
                slice_ms = min(wait_ms, _SLICE_MS)
                events = await self._next(max, slice_ms)
                wait_ms -= slice_ms
                if events or wait_ms <= 0 or self.closed:
                    return events
        finally:
            self._awaited = False

    async def _next(self, max: int, wait_ms: int) -> list[Event]:
        """Short, for close() waits for it."""
        if self._asked is None:
            self._asked = asyncio.ensure_future(
                self._client._run(self._stream.next, max, wait_ms))
        asked = self._asked
        await asyncio.wait([asked])
        self._asked = None
        return asked.result()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while not self.closed:
            for event in await self.next():
                yield event

    async def close(self) -> None:
        if self._asked is not None:
            await asyncio.wait([self._asked])
        await self._client._run(self._stream.close)

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

# SPDX-License-Identifier: Apache-2.0
"""pikv.aio: the same names, awaited."""

import asyncio
import functools
import gc
import inspect

import pikv
import pikv.aio
from case import LONG_MS, OK, Case, Client, payload


class Aio(Case):
    def patient(self, **options):
        client = pikv.aio.Client(self.node.address, **options)
        client._make = functools.partial(Client, self.node.address, **options)
        return client

    def go(self, body, **options):
        async def main():
            async with self.patient(**options) as client:
                ns = await client.open(self._testMethodName)
                return await body(client, ns)

        return asyncio.run(main())

    def test_every_operation(self):
        async def body(client, ns):
            r = await ns.put([b"a", b"b"], [b"1", b"22"])
            self.assertEqual(r.statuses, [OK, OK])
            into = bytearray(2)
            self.assertEqual((await ns.get([b"b"], [into])).moved, [2])
            self.assertEqual(bytes(into), b"22")
            self.assertEqual(await ns.get_bytes(b"a"), b"1")
            self.assertIsNone(await ns.get_bytes(b"none"))
            found = await ns.lookup([b"a", b"b", b"none"])
            self.assertEqual((found.prefix, found.stops), (2, b"\x03"))
            self.assertEqual(await ns.exists([b"a", b"none"]), [True, False])
            for op in (ns.pin, ns.touch, ns.unpin, ns.prefetch):
                self.assertEqual((await op([b"a"])).statuses, [OK])
            self.assertEqual((await ns.explain(b"a")).reason, "here")
            await ns.session(5, "idle")
            self.assertEqual(await ns.evict([b"a"]), 1)
            await ns.bump()
            self.assertEqual(await ns.exists([b"b"]), [False])
            self.assertEqual((await client.info()).transport, "shm")
            self.assertIn("put", (await client.stats())["ops"])
            self.assertIn("pikv_client", await client.metrics_text())
            with await client.alloc(4096) as memory:
                self.assertTrue((await ns.put([b"m"], [memory])).all_ok)
                with await client.register(memory):
                    pass
                layout = await client.layout(memory, [(0, 1024, 0, 1)],
                                             block_stride=1024, blocks=4)
                self.assertTrue((await ns.put([b"l"], [1],
                                              layout=layout)).all_ok)
                await client.unlayout(layout)

        self.go(body)

    def test_open_blocks(self):
        async def body(client, ns):
            r = await ns.begin([b"k"], [6])
            token = r.tokens
            await ns.write([b"k"], token, [3], [b"def"])
            await ns.write([b"k"], token, [0], [b"abc"])
            self.assertTrue((await ns.commit([b"k"], token)).all_ok)
            self.assertEqual(await ns.get_bytes(b"k"), b"abcdef")
            r = await ns.write_begin([b"x"], [6])
            self.assertTrue((await ns.abort([b"x"], r.tokens)).all_ok)

        self.go(body)

    def test_a_thousand_calls_at_once(self):
        async def body(client, ns):
            n = 1000
            values = [payload(100 + i, i) for i in range(n)]
            puts = await asyncio.gather(
                *(ns.put([f"{i}"], [values[i]])
                  for i in range(n)))
            self.assertTrue(all(r.all_ok for r in puts))
            got = await asyncio.gather(
                *(ns.get_bytes(f"{i}")
                  for i in range(n)))
            self.assertEqual(got, values)
            self.assertEqual(client.sync.inflight, 0)

        self.go(body, inflight=16)

    def test_cancelled_await_keeps_the_buffers(self):
        async def body(client, ns):
            await ns.put([b"k"], [payload(1 << 20)])
            for _ in range(20):
                into = bytearray(1 << 20)
                task = asyncio.ensure_future(
                    ns.get([b"k"], [into]))
                await asyncio.sleep(0)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                del into
                gc.collect()
            await ns.touch([b"k"])
            while client.sync.inflight:
                await asyncio.sleep(0)
            into = bytearray(1 << 20)
            await ns.get([b"k"], [into])
            self.assertEqual(bytes(into), payload(1 << 20))

        self.go(body)

    def test_cancelled_while_waiting_for_room(self):
        async def body(client, ns):
            tasks = [asyncio.ensure_future(
                ns.put([f"{i}"], [b"v"]))
                for i in range(100)]
            await asyncio.sleep(0)
            for t in tasks[1::2]:
                t.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            self.assertTrue(all(r.all_ok for r in done[0::2]))
            self.assertEqual({type(r) for r in done[1::2]} -
                             {asyncio.CancelledError, pikv.Results}, set())

        self.go(body, inflight=2)

    def test_arguments_are_refused_at_once(self):
        async def body(client, ns):
            with self.assertRaises(ValueError):
                await ns.put([b"a"], [])
            with self.assertRaises(TypeError):
                await ns.get([b"a"], [None])
            with self.assertRaises(pikv.Mismatch):
                await client.open(self._testMethodName, model="other")

        self.go(body)

    def test_error_after_waiting_for_room_leaves_it_to_the_next(self):
        def late(*_, **__):
            raise answers.pop()

        async def body(client, ns):
            calls = [ns.put([b"a"], [b"v"]), client.call(late),
                     ns.put([b"b"], [b"v"])]
            done = await asyncio.wait_for(
                asyncio.gather(*calls, return_exceptions=True), 60)
            self.assertEqual([type(r) for r in done],
                             [pikv.Results, pikv.Limit, pikv.Results])

        answers = [pikv.Limit(""), pikv.Busy("")]
        self.go(body, inflight=1)

    def test_close_ends_what_waits(self):
        async def main():
            client = await self.patient().__aenter__()
            ns = await client.open("c")
            tasks = [asyncio.ensure_future(ns.put([f"{i}"], [b"v"]))
                     for i in range(50)]
            await asyncio.sleep(0)
            await client.close()
            await client.close()
            out = await asyncio.gather(*tasks, return_exceptions=True)
            self.assertTrue(all(isinstance(r, (pikv.Closed, pikv.Results))
                                for r in out))
            self.assertTrue(client.closed)
            with self.assertRaises(pikv.Closed):
                await ns.put([b"k"], [b"v"])

        asyncio.run(main())

    def test_events_can_be_iterated(self):
        async def body(client, ns):
            stream = await ns.events()
            while not await stream.next(wait_ms=10):
                await ns.put([b"k"], [b"v"])
                await ns.evict([b"k"])
            async for event in stream:
                self.assertIn(event.kind, ("stored", "removed"))
                break
            await stream.close()

        self.go(body)

    def test_events_of_a_cancelled_await_are_the_next_ones(self):
        async def body(client, ns):
            stream = await ns.events()
            while not await stream.next(wait_ms=10):
                await ns.put([b"warm"], [b"v"])
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.next(wait_ms=LONG_MS), 0.05)
            await ns.put([b"k"], [b"v"])
            seen = []
            while b"k" not in seen:
                events = await stream.next(wait_ms=LONG_MS)
                self.assertTrue(events)
                seen += [e.key for e in events]
            await stream.close()

        self.go(body)

    def test_iteration_can_be_cancelled(self):
        async def body(client, ns):
            async def follow():
                async with await ns.events() as stream:
                    begun.set()
                    async for _ in stream:
                        pass

            begun = asyncio.Event()
            task = asyncio.ensure_future(follow())
            await begun.wait()
            await asyncio.sleep(0.02)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        self.go(body)

    def test_connect_needs_no_with(self):
        async def main():
            client = await pikv.aio.Client.connect(self.node.address,
                                                   connect_ms=20000)
            self.assertFalse(client.closed)
            await client.close()

        asyncio.run(main())

    def test_names_are_those_of_the_synchronous_client(self):
        own = {"poll", "drain", "wait", "fileno", "inflight"}
        for sync, aio in ((pikv.Client, pikv.aio.Client),
                          (pikv.Namespace, pikv.aio.Namespace),
                          (pikv.EventStream, pikv.aio.EventStream)):
            names = {n for n in dir(sync) if not n.startswith("_") and
                     not n.startswith("submit_")} - own
            self.assertEqual(names - set(dir(aio)), set())
            for n in names - {"closed", "client", "name"}:
                self.assertTrue(
                    inspect.iscoroutinefunction(getattr(aio, n)), n)


class Loans(Case):
    settings = {"dram.loan_capacity": "32MiB", "limits.loan_share": "100%"}

    def test_close_is_refused_while_a_loan_is_viewed(self):
        async def main():
            client = await pikv.aio.Client.connect(self.node.address,
                                                   connect_ms=LONG_MS)
            ns = await client.open("loans", loans="any", deadline_ms=LONG_MS)
            await ns.put([b"k"], [b"v"], deadline_ms=LONG_MS)
            r = await ns.get([b"k"], [None], loan=True, deadline_ms=LONG_MS)
            with memoryview(r.loan(0)):
                with self.refused(BufferError, "viewed"):
                    await client.close()
                self.assertFalse(client.closed)
                self.assertEqual(
                    await ns.get_bytes(b"k", deadline_ms=LONG_MS), b"v")
            await client.close()
            self.assertTrue(client.closed)

        asyncio.run(main())

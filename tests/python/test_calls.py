# SPDX-License-Identifier: Apache-2.0
"""Every operation of a namespace, waited for and submitted."""

import gc
import weakref

import pikv
from case import LONG_MS, OK, Case, Client, payload, until

KEYS = [b"a", b"b", b"c"]


class Blocks(Case):
    def setUp(self):
        super().setUp()
        self.values = [payload(100, i) for i in range(3)]
        self.put(*zip(KEYS, self.values))

    def test_get_brings_what_put_stored(self):
        into = [bytearray(100) for _ in KEYS]
        r = self.ns.get(KEYS, into)
        self.assertEqual(r.statuses, [OK] * 3)
        self.assertEqual(r.moved, [100] * 3)
        self.assertEqual([bytes(b) for b in into], self.values)

    def test_second_put_of_a_key_says_exists(self):
        r = self.ns.put([b"a", b"new"], [b"other", b"x"])
        self.assertEqual(r.statuses, [pikv.Exists.code, OK])
        self.assertEqual(self.ns.get_bytes(b"a"), self.values[0])

    def test_miss_is_a_status_and_no_exception(self):
        r = self.ns.get([b"a", b"none"], [bytearray(100), bytearray(1)])
        self.assertEqual(r.statuses, [OK, pikv.Miss.code])
        self.assertEqual(r.ok, [True, False])
        self.assertFalse(r.all_ok)

    def test_str_and_bytes_keys_are_the_same(self):
        self.assertEqual(self.ns.get_bytes("a"), self.values[0])
        self.assertEqual(self.ns.get_bytes("ä"), None)
        self.put(("ä", b"1"))
        self.assertEqual(self.ns.get_bytes("ä".encode()), b"1")

    def test_get_scatters_and_put_gathers_lists(self):
        self.put((b"parts", [b"one", bytearray(b"two"), memoryview(b"3")]))
        self.assertEqual(self.ns.get_bytes(b"parts"), b"onetwo3")
        a, b = bytearray(4), bytearray(3)
        self.assertTrue(self.ns.get([b"parts"], [[a, b]]).all_ok)
        self.assertEqual((bytes(a), bytes(b)), (b"onet", b"wo3"))

    def test_range_of_a_block(self):
        into = bytearray(10)
        r = self.ns.get([b"a"], [into], offsets=[20])
        self.assertEqual(bytes(into), self.values[0][20:30])
        self.assertEqual(r.lengths, [100])
        whole = bytearray(100)
        r = self.ns.get([b"a"], [whole], offsets=20, lengths=5)
        self.assertEqual(r.moved, [5])
        self.assertEqual(bytes(whole[:6]), self.values[0][20:25] + b"\0")

    def test_small_buffer_is_the_items_status(self):
        into = [bytearray(99), bytearray(100), bytearray(101)]
        r = self.ns.get(KEYS, into)
        self.assertEqual(r.statuses, [pikv.TooSmall.code, OK, OK])
        self.assertEqual(r.lengths, [100] * 3)
        self.assertEqual(r.moved, [99, 100, 100])
        done = self.client.wait(self.ns.submit_get(KEYS, into))
        self.assertEqual(done.results.statuses, r.statuses)

    def test_small_buffer_of_a_range_is_what_was_asked_for(self):
        r = self.ns.get([b"a"] * 2, [bytearray(99)] * 2, offsets=[0, 50])
        self.assertEqual((r.statuses, r.moved), ([OK, OK], [99, 50]))

    def test_version_that_differs_is_not_read(self):
        v = self.ns.lookup([b"a"]).results.versions[0]
        buf = bytearray(100)
        r = self.ns.get([b"a", b"a"], [buf, bytearray(100)],
                        if_versions=[v, v + 1])
        self.assertEqual(r.statuses, [OK, pikv.Version.code])

    def test_checksum_given_must_be_the_bytes(self):
        good = pikv.crc32c(b"bytes")
        r = self.ns.put([b"good", b"bad"], [b"bytes"] * 2,
                        crc32c=[good, good ^ 1])
        self.assertEqual(r.statuses, [OK, pikv.Corrupt.code])
        r = self.ns.get([b"good"], [bytearray(5)], verify=True)
        self.assertEqual(r[0].crc32c, good)

    def test_crc32c_goes_on(self):
        self.assertEqual(pikv.crc32c(b"123456789"), 0xe3069283)
        self.assertEqual(pikv.crc32c(b"6789", pikv.crc32c(b"12345")),
                         0xe3069283)

    def test_lookup_says_prefix_and_stops(self):
        found = self.ns.lookup([b"a", b"b", b"none", b"c"])
        self.assertEqual(found.prefix, 2)
        self.assertEqual(found.results.hits, [True, True, False, True])
        self.assertEqual(found.stops, b"\x03")
        self.assertEqual(found.results.lengths[:2], [100, 100])

    def test_lookup_with_columns(self):
        self.put((b"a2", b"x"))
        found = self.ns.lookup([b"a", b"a2", b"b", b"none"], cols=2,
                               columns=["all", ("trailing", 1)])
        self.assertEqual(found.prefix, 1)
        found = self.ns.lookup([b"a", b"a2", b"b", b"none"], cols=2,
                               columns=["all", "optional"])
        self.assertEqual(found.prefix, 2)

    def test_exists(self):
        self.assertEqual(self.ns.exists([b"a", b"none"]), [True, False])

    def test_evict_of_keys_pattern_label_scope_namespace(self):
        self.assertEqual(self.ns.evict([b"a", b"none"]), 1)
        self.assertEqual(self.ns.exists(KEYS), [False, True, True])
        self.put((b"x1", b"1"), (b"x2", b"2"))
        self.assertEqual(self.ns.evict(["x*"], select="pattern"), 2)
        self.ns.put([b"l1", b"l2"], [b"1", b"2"], labels=[[7], [7, 8]])
        self.ns.put([b"l3"], [b"3"], labels=[8, 9])
        self.assertEqual(self.ns.evict(select="label", label=7), 2)
        self.assertEqual(self.ns.evict(select="label", label=9), 1)
        self.ns.put([b"s"], [b"1"], scope=b"0123456789abcdef")
        self.assertEqual(self.ns.evict(select="scope",
                                       scope=b"0123456789abcdef"), 1)
        self.assertEqual(self.ns.evict(select="namespace"), 2)
        self.assertEqual(self.ns.exists(KEYS), [False] * 3)

    def test_evict_of_a_chain_takes_descendants(self):
        one = {"route": b"one lane"}
        self.ns.put([b"p"], [b"1"], **one)
        self.ns.put([b"q"], [b"2"], parents=[b"p"], **one)
        self.ns.put([b"r"], [b"3"], parents=b"q", **one)
        self.assertEqual(self.ns.evict([b"p"], select="chain", **one), 3)

    def test_scope_and_group_are_part_of_the_name(self):
        scope = b"0123456789abcdef"
        self.ns.put([b"n", b"n"], [b"1", b"2"], scope=[None, scope])
        self.assertEqual(self.ns.get_bytes(b"n"), b"1")
        self.assertEqual(self.ns.get_bytes(b"n", scope=scope), b"2")
        self.assertTrue(self.ns.put([b"blob"], [b"3"], cls=2).all_ok)
        self.ns.put([b"n", b"n"], [b"4", b"5"], group=[1, 2])
        self.assertEqual(self.ns.get_bytes(b"n", group=2), b"5")

    def test_route_of_all_and_of_each(self):
        self.assertTrue(self.ns.put([b"r1", b"r2"], [b"1", b"2"],
                                    route=b"here").all_ok)
        self.assertEqual(self.ns.exists([b"r1", b"r2"],
                                        routes=[b"here", b"here"]),
                         [True, True])

    def test_attributes_of_all_and_of_each(self):
        r = self.ns.put([b"1", b"2"], [b"x", b"y"], parents=[None, b"1"],
                        pages=[0, 1], token_ends=[16, 32], token_ns=16,
                        affinity=5, priority=[1, 2], ttl_ms=LONG_MS,
                        pin_ttl_ms=1000, labels=3)
        self.assertTrue(r.all_ok)
        self.assertEqual([x.pinned for x in r], [True, True])

    def test_ttl_of_one_item_ends(self):
        self.ns.put([b"short", b"long"], [b"1", b"2"], ttl_ms=[1, 0])
        self.assertTrue(until(lambda: self.ns.exists([b"short", b"long"])
                              == [False, True]))

    def test_pin_unpin_touch(self):
        self.assertEqual(self.ns.pin([b"a", b"none"],
                                     pin_ttl_ms=1000).statuses,
                         [OK, pikv.Miss.code])
        self.assertEqual(self.ns.unpin([b"a"]).statuses, [OK])
        self.assertEqual(self.ns.touch([b"a", b"none"]).statuses,
                         [OK, pikv.Miss.code])

    def test_prefetch_of_what_is_in_memory_is_ok(self):
        r = self.ns.prefetch([b"a", b"none"], cap_mib=64, soft_ms=LONG_MS)
        self.assertEqual(r.statuses, [OK, pikv.Miss.code])

    def test_explain(self):
        self.assertEqual(self.ns.explain(b"a").reason, "here")
        self.ns.evict([b"a"])
        why = self.ns.explain("a")
        self.assertEqual(why.reason, "dropped")
        self.assertTrue(why.advice)

    def test_session_hint_is_taken(self):
        for state in ("open", "idle", "closed"):
            self.assertIsNone(self.ns.session(7, state))

    def test_bump_forgets_all(self):
        self.ns.bump()
        self.assertEqual(self.ns.exists(KEYS), [False] * 3)
        self.assertTrue(self.ns.put([b"a"], [b"new"]).all_ok)


class Loans(Case):
    settings = {"dram.loan_capacity": "32MiB", "limits.loan_share": "100%"}

    def setUp(self):
        super().setUp()
        self.ns = self.client.open(self._testMethodName + ".loans",
                                   loans="any")
        self.values = [payload(100)]
        self.put((b"a", self.values[0]))

    def test_loan_is_the_block_until_released(self):
        r = self.ns.get([b"a", b"none"], [None, None], loan=True)
        self.assertEqual(r.statuses, [OK, pikv.Miss.code])
        loan = r.loan(0)
        with memoryview(loan) as view:
            self.assertTrue(view.readonly)
            self.assertEqual(bytes(view), self.values[0])
            with self.refused(BufferError, "viewed"):
                loan.release()
            with self.refused(BufferError, "viewed"):
                self.client.close()
        self.assertTrue(loan.release())
        self.assertFalse(loan.release())
        with self.refused(BufferError, "ended"):
            memoryview(loan)
        with self.refused(ValueError, "item 0"):
            r.loan(0)
        with self.refused(ValueError, "item 1"):
            r.loan(1)

    def test_loan_never_taken_does_not_keep_the_client(self):
        client = Client(self.node.address)
        gone = weakref.ref(client)
        ns = client.open(self.ns.name, loans="any")
        ns.submit_get([b"a"], [None], loan=True)
        del client, ns
        gc.collect()
        self.assertIsNone(gone())

    def test_loan_that_nobody_took_goes_with_its_results(self):
        for _ in range(200):
            self.assertEqual(self.ns.get([b"a"], [None], loan=True).statuses,
                             [OK])


class Submitted(Case):
    def test_every_operation_has_a_submit(self):
        ns, get = self.ns, bytearray(3)
        self.put((b"k", b"val"))
        sent = [
            ns.submit_put([b"k2"], [b"v"], tag="put"),
            ns.submit_get([b"k"], [get], tag="get"),
            ns.submit_lookup([b"k", b"none"], tag="lookup"),
            ns.submit_exists([b"k"], tag="exists"),
            ns.submit_pin([b"k"], tag="pin"),
            ns.submit_touch([b"k"], tag="touch"),
            ns.submit_prefetch([b"k"], tag="prefetch"),
        ]
        done = {c.data: c for c in map(self.client.wait, sent)}
        self.assertEqual([c.status for c in done.values()], [OK] * len(sent))
        self.assertEqual(bytes(get), b"val")
        self.assertEqual(done["lookup"].prefix, 1)
        self.assertEqual(done["lookup"].stops, b"\x01")
        self.assertEqual(done["exists"].results.hits, [True])
        c = self.client.wait(ns.submit_unpin([b"k"]))
        self.assertEqual((c.status, c.data), (OK, None))
        c = self.client.wait(ns.submit_evict([b"k"]))
        self.assertEqual((c.count, c.part), (1, False))

    def test_drain_takes_all_and_poll_moves_bytes(self):
        ids = {self.ns.submit_put([b"%d" % i], [b"x"]) for i in range(100)}
        seen = set()
        self.assertEqual(self.client.inflight, 100)
        while seen != ids:
            seen |= {c.id for c in self.client.poll()}
            seen |= {c.id for c in self.client.drain()}
        self.assertEqual(self.client.inflight, 0)
        self.assertEqual(self.client.drain(), [])

    def test_eventfd_says_when_there_is_something(self):
        import select
        i = self.ns.submit_put([b"k"], [b"v"])
        self.assertTrue(select.select([self.client.fileno()], [], [], 20)[0])
        self.assertEqual([c.id for c in self.client.drain()], [i])
        self.assertFalse(select.select([self.client.fileno()], [], [], 0)[0])

    def test_wait_for_a_call_twice_is_bad(self):
        i = self.ns.submit_put([b"k"], [b"v"])
        self.client.wait(i)
        with self.refused(pikv.BadRequest, "taken"):
            self.client.wait(i)

    def test_calls_beyond_inflight_are_busy(self):
        client = self.connect(inflight=2)
        ns = client.open("few")
        ids = [ns.submit_put([b"%d" % i], [b"x"]) for i in range(2)]
        with self.refused(pikv.Busy):
            ns.submit_put([b"more"], [b"x"])
        for i in ids:
            client.wait(i)
        self.assertTrue(ns.put([b"more"], [b"x"]).all_ok)

    def test_call_never_taken_is_given_back_at_close(self):
        client = self.connect()
        ns = client.open("left")
        value = bytearray(b"value")
        ns.submit_put([b"k"], [value], tag=object())
        with self.assertRaises(BufferError):
            value.append(1)
        client.close()
        value.append(1)


class Handles(Case):
    def test_info_and_versions(self):
        info = self.client.info()
        self.assertTrue(info.server.startswith("pikvd "))
        self.assertEqual((info.transport, info.lanes), ("shm", 2))
        self.assertEqual(pikv.__version__, "0.1.0")

    def test_open_again_is_the_same_namespace(self):
        again = self.client.open(self._testMethodName)
        again.put([b"k"], [b"v"])
        self.assertEqual(self.ns.get_bytes(b"k"), b"v")
        self.assertEqual(again.name, self._testMethodName)
        self.assertIs(again.client, self.client)

    def test_open_with_all_settings(self):
        ns = self.client.open(
            "full", model="m", weights_version="1", tokenizer_hash="t",
            hash_seed="0", dtype="bf16", scale_format="none",
            parallel_layout="tp1", share=2, ttl_ms=1000, quota_bytes=1 << 24,
            dram="cache", deadline_ms=LONG_MS,
            groups=[pikv.Group(0, "attention", 2, 8, 64, 16, "bf16", "nhd",
                               65536), (1, "mla")])
        self.assertTrue(ns.put([b"k"], [payload(65536)]).all_ok)

    def test_closed_client_says_so(self):
        self.client.close()
        self.client.close()
        self.assertTrue(self.client.closed)
        for call in (lambda: self.ns.put([b"k"], [b"v"]),
                     lambda: self.client.open("x"), self.client.drain,
                     self.client.info, self.client.fileno,
                     lambda: self.client.alloc(1), self.client.stats,
                     lambda: self.client.wait(1)):
            self.assertRaises(pikv.Closed, call)

    def test_with_closes(self):
        with Client(self.node.address) as client:
            self.assertFalse(client.closed)
        self.assertTrue(client.closed)

    def test_a_namespace_keeps_its_client(self):
        ns = Client(self.node.address).open("kept")
        self.assertTrue(ns.put([b"k"], [b"v"]).all_ok)

    def test_results_are_a_sequence(self):
        r = self.ns.put([b"1", b"2"], [b"x", b"y"])
        self.assertEqual(len(r), 2)
        self.assertEqual([x.status for x in r], [OK, OK])
        self.assertRaises(IndexError, lambda: r[2])
        self.assertIn("2 ok", repr(r))
        self.assertIsNone(r.raise_for_status())
        r = self.ns.pin([b"1", b"none"])
        with self.refused(pikv.Miss, "item 1 of 2") as caught:
            r.raise_for_status()
        self.assertIs(caught.exception.results, r)
        self.assertIn("MISS", repr(r))

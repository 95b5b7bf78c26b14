# SPDX-License-Identifier: Apache-2.0
"""What never reaches libpikv: each kind of bad argument raises TypeError or
ValueError that names the argument and the index, and nothing is submitted."""

import array
import pikv
from case import Case


class Refused(Case):
    def tearDown(self):
        # Nothing was sent, and no buffer is held.
        self.assertEqual(self.client.inflight, 0)
        self.assertEqual(self.client._stats()["ops"].get(
            "put", {"calls": 0})["calls"], 0)

    def test_keys(self):
        put = self.ns.put
        with self.refused(TypeError, "keys", "list", "str"):
            put("key", [b"v"])
        with self.refused(TypeError, "keys", "list"):
            put(b"key", [b"v"])
        with self.refused(TypeError, "keys", "int"):
            put(5, [b"v"])
        with self.refused(TypeError, "keys[1]", "int"):
            put([b"a", 7], [b"v", b"v"])
        with self.refused(TypeError, "keys[0]", "NoneType"):
            put([None], [b"v"])
        with self.refused(ValueError, "keys[1]", "0 bytes", "1 to 1024"):
            put([b"a", b""], [b"v", b"v"])
        with self.refused(ValueError, "keys[0]", "1025 bytes"):
            put([b"k" * 1025], [b"v"])
        with self.refused(ValueError, "keys[0]", "1026 bytes"):
            put(["ä" * 513], [b"v"])
        with self.refused(ValueError, "keys[0]", "UTF-8"):
            put(["\ud800"], [b"v"])
        with self.refused(ValueError, "keys", "at least one"):
            put([], [])
        for op in (self.ns.pin, self.ns.unpin, self.ns.touch, self.ns.lookup,
                   self.ns.exists, self.ns.prefetch, self.ns.evict):
            with self.refused(ValueError, "keys"):
                op([])
            with self.refused(TypeError, "keys"):
                op("abc")

    def test_longest_key_is_good(self):
        self.assertTrue(self.ns.exists([b"k" * 1024, "k"]) == [False] * 2)

    def test_lists_of_different_lengths(self):
        two, one = [b"a", b"b"], [b"v"]
        with self.refused(ValueError, "values", "1 entries for 2 keys"):
            self.ns.put(two, one)
        with self.refused(ValueError, "buffers", "1 entries for 2 keys"):
            self.ns.get(two, [bytearray(1)])
        for name in ("pages", "token_ends", "token_ns", "affinity", "priority",
                     "ttl_ms", "pin_ttl_ms", "crc32c", "group", "cls"):
            with self.refused(ValueError, name, "3 entries for 2 keys"):
                self.ns.put(two, two, **{name: [1, 1, 1]})
        for name in ("parents", "routes"):
            with self.refused(ValueError, name, "1 entries for 2 keys"):
                self.ns.put(two, two, **{name: [b"p"]})
        for name in ("offsets", "lengths", "if_versions"):
            with self.refused(ValueError, name, "1 entries for 2 keys"):
                self.ns.get(two, [bytearray(1), bytearray(1)],
                            **{name: [0]})
        with self.refused(ValueError, "labels", "1 entries for 2 keys"):
            self.ns.put(two, two, labels=[[1]])

    def test_buffers_of_a_wrong_type(self):
        with self.refused(TypeError, "values[1]", "str"):
            self.ns.put([b"a", b"b"], [b"v", "text"])
        with self.refused(TypeError, "values[0]", "NoneType"):
            self.ns.put([b"a"], [None])
        with self.refused(TypeError, "values[0]", "float"):
            self.ns.put([b"a"], [[b"x", 1.5]])
        with self.refused(TypeError, "buffers[0]", "int"):
            self.ns.get([b"a"], [5])
        with self.refused(TypeError, "values", "bytes"):
            self.ns.put([b"a"], b"v")

    def test_buffers_that_are_not_contiguous(self):
        view = memoryview(bytearray(16))[::2]
        with self.refused(ValueError, "values[0]", "contiguous"):
            self.ns.put([b"a"], [view])
        with self.refused(ValueError, "buffers[1]", "contiguous"):
            self.ns.get([b"a", b"b"], [bytearray(1), view])

    def test_targets_that_are_read_only(self):
        for target in (b"bytes", memoryview(b"bytes"),
                       memoryview(bytearray(5)).toreadonly()):
            with self.refused(ValueError, "buffers[0]", "read-only"):
                self.ns.get([b"a"], [target])
        with self.refused(ValueError, "buffers[0]", "read-only"):
            self.ns.get([b"a"], [[bytearray(3), b"xx"]])

    def test_room_smaller_than_asked_for(self):
        with self.refused(ValueError, "lengths[1]", "9 bytes", "room for 4"):
            self.ns.get([b"a", b"b"], [bytearray(4), bytearray(4)],
                        lengths=[4, 9])
        with self.refused(ValueError, "lengths[0]", "list of parts"):
            self.ns.get([b"a"], [[bytearray(4)]], lengths=2)

    def test_values_without_bytes(self):
        with self.refused(ValueError, "values[1]", "no bytes"):
            self.ns.put([b"a", b"b"], [b"v", b""])
        with self.refused(ValueError, "values[0]", "0 parts"):
            self.ns.put([b"a"], [[]])
        with self.refused(ValueError, "values[0]", "no bytes"):
            self.ns.put([b"a"], [[b"", b""]])

    def test_addresses(self):
        with self.refused(TypeError, "values[0]", "(address, nbytes)"):
            self.ns.put([b"a"], [(1, 2, 3)])
        with self.refused(TypeError, "values[0]"):
            self.ns.put([b"a"], [(b"x", b"y")])
        with self.refused(ValueError, "values[0]"):
            self.ns.put([b"a"], [(-1, 5)])
        with self.refused(ValueError, "values[0]", "address 0"):
            self.ns.put([b"a"], [(0, 5)])

    def test_names_that_an_operation_does_not_have(self):
        with self.refused(TypeError, "put()", "'ttl'", "ttl_ms"):
            self.ns.put([b"a"], [b"v"], ttl=5)
        with self.refused(TypeError, "pin()", "'values'"):
            self.ns.pin([b"a"], values=[b"v"])
        with self.refused(TypeError, "put()", "values"):
            self.ns.put([b"a"])
        with self.refused(TypeError, "positional"):
            self.ns.put([b"a"], [b"v"], [b"p"])
        with self.refused(TypeError, "keys", "twice"):
            self.ns.put([b"a"], [b"v"], keys=[b"a"])
        with self.refused(TypeError, "get()", "buffers"):
            self.ns.get([b"a"])

    def test_numbers(self):
        put = self.ns.put
        with self.refused(ValueError, "pages", "0 to 4294967295"):
            put([b"a"], [b"v"], pages=[1 << 32])
        with self.refused(ValueError, "priority", "0 to 255"):
            put([b"a"], [b"v"], priority=256)
        with self.refused(ValueError, "group", "0 to 15"):
            put([b"a"], [b"v"], group=16)
        with self.refused(ValueError, "cls", "0 to 2"):
            put([b"a"], [b"v"], cls=3)
        with self.refused(ValueError, "ttl_ms"):
            put([b"a"], [b"v"], ttl_ms=-1)
        with self.refused(TypeError, "ttl_ms[0]", "str"):
            put([b"a"], [b"v"], ttl_ms=["x"])
        with self.refused(TypeError, "affinity", "list", "float"):
            put([b"a"], [b"v"], affinity=1.5)
        with self.refused(TypeError, "deadline_ms", "number"):
            put([b"a"], [b"v"], deadline_ms="1")
        for bad in (-1, float("nan"), float("inf"), 1e12):
            with self.refused(ValueError, "deadline_ms", "ms"):
                put([b"a"], [b"v"], deadline_ms=bad)
            with self.refused(ValueError, "deadline_ms"):
                self.ns.explain(b"a", deadline_ms=bad)

    def test_labels(self):
        with self.refused(ValueError, "labels", "at most 4"):
            self.ns.put([b"a"], [b"v"], labels=[1, 2, 3, 4, 5])
        with self.refused(ValueError, "labels[0]", "at most 4"):
            self.ns.put([b"a"], [b"v"], labels=[[1, 2, 3, 4, 5]])
        with self.refused(TypeError, "labels"):
            self.ns.put([b"a"], [b"v"], labels="x")

    def test_scope_and_route(self):
        with self.refused(ValueError, "scope", "3 bytes", "16"):
            self.ns.pin([b"a"], scope=b"abc")
        with self.refused(ValueError, "scope[1]", "3 bytes"):
            self.ns.pin([b"a", b"b"], scope=[None, b"abc"])
        with self.refused(ValueError, "route", "33 bytes"):
            self.ns.pin([b"a"], route=b"r" * 33)
        with self.refused(ValueError, "routes", "route"):
            self.ns.pin([b"a"], route=b"r", routes=[b"r"])
        with self.refused(TypeError, "scope", "int"):
            self.ns.pin([b"a"], scope=5)

    def test_lookup_columns(self):
        with self.refused(ValueError, "cols", "3 keys", "2"):
            self.ns.lookup([b"a", b"b", b"c"], cols=2,
                           columns=["all", "all"])
        with self.refused(ValueError, "columns", "rule"):
            self.ns.lookup([b"a", b"b"], cols=2)
        with self.refused(ValueError, "columns", "1 rules for 2"):
            self.ns.lookup([b"a", b"b"], cols=2, columns=["all"])
        with self.refused(ValueError, "columns[1]", "trailing"):
            self.ns.lookup([b"a", b"b"], cols=2, columns=["all", "some"])
        with self.refused(ValueError, "columns[0]"):
            self.ns.lookup([b"a"], columns=[3])
        with self.refused(ValueError, "cols"):
            self.ns.lookup([b"a"], cols=0)

    def test_evict_selects(self):
        evict = self.ns.evict
        with self.refused(ValueError, "select", "pattern"):
            evict([b"a"], select="some")
        with self.refused(ValueError, "keys", "namespace"):
            evict()
        with self.refused(ValueError, "label"):
            evict(select="label")
        with self.refused(ValueError, "scope", "16"):
            evict(select="scope")
        with self.refused(ValueError, "keys", "no keys"):
            evict([b"a"], select="namespace")
        with self.refused(ValueError, "keys", "one pattern"):
            evict([b"a", b"b"], select="pattern")

    def test_namespaces_and_memory(self):
        with self.refused(ValueError, "state", "idle"):
            self.ns.session(1, "gone")
        with self.refused(ValueError, "nbytes"):
            self.client.alloc(0)
        with self.refused(ValueError, "groups", "at most 16"):
            self.client.open("g", groups=[pikv.Group(i) for i in range(17)])
        with self.refused(ValueError, "read-only"):
            self.client.register(b"bytes")
        with self.refused(ValueError, "runs"):
            self.client.layout(bytearray(10), [], blocks=1)

    def test_object_whose_buffer_fails(self):
        class Tensor:
            is_cpu, nbytes = True, 4

            def __init__(self, contiguous):
                self.contiguous = contiguous

            def is_contiguous(self):
                return self.contiguous

            def data_ptr(self):
                raise RuntimeError("no storage")

        with self.refused(ValueError, "values[0]", "contiguous"):
            self.ns.put([b"a"], [Tensor(False)])
        with self.refused(RuntimeError, "no storage"):
            self.ns.put([b"a"], [Tensor(True)])
        Tensor.is_cpu = False
        with self.refused(ValueError, "values[0]", "host memory"):
            self.ns.put([b"a"], [Tensor(True)])

    def test_sequence_that_fails_while_it_is_read(self):
        class Keys:
            def __len__(self):
                return 2

            def __getitem__(self, i):
                if i:
                    raise KeyError("gone")
                return b"a"

        with self.assertRaises(KeyError):
            self.ns.pin(Keys())

    def test_buffers_before_the_bad_one_are_let_go(self):
        held = bytearray(b"held")
        with self.assertRaises(TypeError):
            self.ns.put([b"a", b"b"], [held, None])
        held.append(1)
        with self.assertRaises(ValueError):
            self.ns.put([b"a", b""], [held, held])
        held.append(1)
        target = array.array("B", b"1234")
        with self.assertRaises(ValueError):
            self.ns.get([b"a", b"b"], [[target, target], b"x"])
        target.append(1)


class Wire(Case):
    def test_batch_beyond_the_limit_is_the_librarys_error(self):
        info = self.client.info()
        n = info.batch_keys_max * info.lanes + 1
        with self.refused(pikv.Limit, f"exists of {n} items"):
            self.ns.exists([b"%d" % i for i in range(n)])

    def test_address(self):
        with self.refused(pikv.BadRequest, "shm:PATH"):
            pikv.Client("tcp:here")

    def test_close_from_within_a_call_is_refused(self):
        client = self.client

        class Closes:
            nbytes = 1

            def data_ptr(self):
                client.close()

        with self.refused(RuntimeError, "within"):
            self.ns.put([b"k"], [Closes()])
        self.assertFalse(client.closed)

    def test_text_that_is_cut_within_a_character(self):
        with self.refused(pikv.BadRequest, "shm:PATH"):
            pikv.Client("x" * 99 + "\u00e9")

    def test_numbers_that_do_not_fit_are_not_cut(self):
        client, ns = self.client, self.ns
        over32, over64 = 1 << 32, 1 << 64
        with client.alloc(4096) as memory:
            for run in ((over64, 1, 0, 1), (0, over64 + 1, 0, 1),
                        (0, 1, -1, 1), (0, 1, 0, over32 + 1)):
                with self.refused(ValueError, "want 0 to"):
                    client.layout(memory, [run], blocks=1)
            for more in ({"blocks": over32 + 1}, {"blocks": -1},
                         {"blocks": 1, "block_stride": over64}):
                with self.refused(ValueError, "want 0 to"):
                    client.layout(memory, [(0, 1, 0, 1)], **more)
        for name, over in (("share", over32), ("ttl_ms", over32),
                           ("quota_bytes", over64)):
            for value in (over, -1):
                with self.refused(ValueError, "want 0 to"):
                    client.open("cut", **{name: value})
        for group in (pikv.Group(id=over32), pikv.Group(layers=-1),
                      pikv.Group(block_bytes=over64)):
            with self.refused(ValueError, "want 0 to"):
                client.open("cut", groups=[group])
        for options in ({"inflight": over32}, {"connect_ms": -1},
                        {"staging_bytes": over64}, {"tp_rank": -1}):
            with self.refused(ValueError, "want 0 to"):
                pikv.Client(self.node.address, **options)
        for fn in (lambda: ns.session(over64 + 1, "open"),
                   lambda: ns.session(-1, "open"),
                   lambda: ns.explain(b"k", group=1 << 16),
                   lambda: client.unlayout(over32 + 1),
                   lambda: pikv.crc32c(b"", over32),
                   lambda: ns.events().next(wait_ms=-1)):
            with self.refused(ValueError, "want 0 to"):
                fn()

    def test_namespace_name(self):
        with self.refused(pikv.BadRequest, "name"):
            self.client.open("")

    def test_namespace_that_is_not_there(self):
        self.assertRaises(pikv.NoNamespace, self.client.open, "none",
                          create=False)

    def test_what_the_server_refuses_is_named(self):
        with self.assertRaisesRegex(pikv.Limit, "order: 100 bytes"):
            self.client.open("n", groups=[pikv.Group(order="x" * 100)])
        with self.assertRaisesRegex(pikv.BadRequest, "policy: nope.*lru"):
            self.client.open("n", policy="nope")

    def test_mismatch_names_field_and_values(self):
        self.client.open("shared", model="llama", dtype="bf16")
        for field, value, have in (("model", "qwen", "llama"),
                                   ("dtype", "fp8", "bf16")):
            with self.refused(pikv.Mismatch, field, value, have) as caught:
                self.client.open("shared", **{"model": "llama",
                                              "dtype": "bf16", field: value})
            self.assertEqual(caught.exception.who, "giveup")

    def test_errors_are_a_class_each(self):
        for code, cls in pikv.errors.ERRORS.items():
            name, text, who = pikv._pikv.error(code)
            self.assertEqual((cls.code, cls.name, cls.text),
                             (code, name, text))
            self.assertEqual(cls.who, ["nobody", "retry", "other",
                                       "giveup"][who])
            self.assertIs(getattr(pikv, cls.__name__), cls)
            self.assertEqual(pikv.error_name(code), name)
        self.assertEqual(pikv.error_name(0), "OK")

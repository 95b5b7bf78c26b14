# SPDX-License-Identifier: Apache-2.0
"""Buffers: kinds, how long they are held, Memory, registration, layouts."""

import array
import ctypes
import gc
import importlib.util
import mmap
import os
import sys
import unittest
import weakref

import pikv
from case import OK, Case, Client, payload, until

try:
    import numpy
except ImportError:
    numpy = None

HAS_TORCH = importlib.util.find_spec("torch") is not None


class Tensor:
    """What of a torch CPU tensor is used."""

    is_cpu = True

    def __init__(self, data):
        self.data = (ctypes.c_char * len(data)).from_buffer_copy(data)
        self.nbytes = len(data)

    def data_ptr(self):
        return ctypes.addressof(self.data)

    def is_contiguous(self):
        return True


class Kinds(Case):
    def round(self, value, target, read):
        data = payload(4096)
        self.assertTrue(self.ns.put([b"k"], [value]).all_ok)
        self.assertEqual(self.ns.get_bytes(b"k"), data)
        r = self.ns.get([b"k"], [target])
        self.assertEqual((r[0].status, r[0].moved), (OK, 4096))
        self.assertEqual(read(target), data)

    def test_bytes_bytearray_memoryview(self):
        data = payload(4096)
        self.round(data, bytearray(4096), bytes)
        self.ns.evict([b"k"])
        self.round(memoryview(data), memoryview(bytearray(4096)), bytes)

    def test_array_ctypes_mmap(self):
        data = payload(4096)
        self.round(array.array("I", data), array.array("Q", bytes(4096)),
                   bytes)
        self.ns.evict([b"k"])
        self.round((ctypes.c_char * 4096).from_buffer_copy(data),
                   (ctypes.c_int * 1024)(), bytes)
        self.ns.evict([b"k"])
        with mmap.mmap(-1, 4096) as a, mmap.mmap(-1, 4096) as b:
            a[:] = data
            self.round(a, b, lambda m: m[:])

    def test_address_and_length(self):
        a = ctypes.create_string_buffer(payload(4096), 4096)
        b = ctypes.create_string_buffer(4096)
        self.round((ctypes.addressof(a), 4096), (ctypes.addressof(b), 4096),
                   lambda _: b.raw)

    def test_tensor(self):
        self.round(Tensor(payload(4096)), Tensor(bytes(4096)),
                   lambda t: t.data.raw)

    def test_memory(self):
        with self.client.alloc(8192) as m:
            with memoryview(m) as v:
                v[:4096] = payload(4096)
                with v[:4096] as a, v[4096:] as b:
                    self.round(a, b, bytes)

    def test_lists_of_all_kinds(self):
        data = payload(4096)
        a, b = bytearray(1000), Tensor(bytes(2096))
        c = ctypes.create_string_buffer(1000)
        self.round([data[:1000], Tensor(data[1000:3096]),
                    memoryview(data)[3096:]],
                   [a, b, (ctypes.addressof(c), 1000)],
                   lambda _: bytes(a) + b.data.raw + c.raw)

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_numpy(self):
        data = numpy.frombuffer(payload(4096), dtype=numpy.uint16)
        self.round(data, numpy.zeros((2, 1024), numpy.float16),
                   lambda a: a.tobytes())
        with self.refused(ValueError, "buffers[0]", "contiguous"):
            self.ns.get([b"k"], [numpy.zeros((64, 64), order="F")])
        with self.refused(ValueError, "buffers[0]", "contiguous"):
            self.ns.get([b"k"], [numpy.zeros(64)[::2]])
        with self.refused(ValueError, "buffers[0]", "read-only"):
            self.ns.get([b"k"], [data])

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_numpy_numbers_as_arguments(self):
        r = self.ns.put([b"1", b"2"], [b"x", b"y"],
                        pages=numpy.arange(2), group=numpy.uint8(1))
        self.assertTrue(r.all_ok)

    @unittest.skipUnless(HAS_TORCH, "torch is not installed")
    def test_torch(self):
        import torch
        a = torch.arange(1024).to(torch.bfloat16).reshape(32, 32)
        b = torch.zeros_like(a)
        self.assertTrue(self.ns.put([b"k"], [a]).all_ok)
        self.assertTrue(self.ns.get([b"k"], [[b[:1], b[1:]]]).all_ok)
        self.assertTrue(torch.equal(a, b))
        with self.refused(ValueError, "values[0]", "contiguous"):
            self.ns.put([b"x"], [a.t()])
        with self.refused(ValueError, "values[0]", "host memory"):
            self.ns.put([b"x"], [torch.empty(3, device="meta")])
        self.assertTrue(self.ns.put([b"x"], [a],
                                    pages=torch.tensor([1])).all_ok)

    def test_value_larger_than_staging(self):
        client = self.connect(staging_bytes=1 << 20)
        ns = client.open("large")
        data = payload(3 << 20)
        self.assertTrue(ns.put([b"k"], [data]).all_ok)
        self.assertEqual(ns.get_bytes(b"k"), data)


class Held(Case):
    """A buffer is the call's until its completion is taken."""

    def test_put_holds_its_value(self):
        value = bytearray(payload(100))
        i = self.ns.submit_put([b"k"], [value])
        with self.assertRaises(BufferError):
            value.clear()
        self.client.wait(i)
        value.clear()

    def test_temporaries_live_as_long_as_the_call(self):
        ids, want = [], {}
        for i in range(64):
            key, value = f"key {i}", payload(1 << 16, i)
            ids.append(self.ns.submit_put([key], [bytearray(value)],
                                          parents=[f"parent {i}"]))
            want[key] = value
            del key, value
        gc.collect()
        for i in ids:
            self.assertEqual(self.client.wait(i).results.statuses, [OK])
        for key, value in want.items():
            self.assertEqual(self.ns.get_bytes(key), value)

    def test_targets_live_and_are_let_go(self):
        class Target(bytearray):
            pass

        self.put((b"k", payload(1000)))
        target = Target(1000)
        ref = weakref.ref(target)
        i = self.ns.submit_get([b"k"], [target])
        del target
        gc.collect()
        self.assertIsNotNone(ref())
        done = self.client.wait(i)
        self.assertIsNone(ref())
        self.assertEqual(done.results.statuses, [OK])

    def test_tensors_live_and_are_let_go(self):
        t = Tensor(payload(100))
        ref = weakref.ref(t)
        i = self.ns.submit_put([b"k"], [[t]])
        del t
        gc.collect()
        self.assertIsNotNone(ref())
        self.client.wait(i)
        self.assertIsNone(ref())

    def test_references_of_a_call_that_waited_come_back(self):
        value, key = bytearray(100), b"some key"
        keys, values = [key], [value]
        before = [sys.getrefcount(o) for o in (keys, values, value, key)]
        for _ in range(10):
            self.ns.put(keys, values)
            self.ns.get(keys, values)
            self.assertRaises(TypeError, self.ns.put, [key, 1],
                              [value, value])
        self.assertEqual([sys.getrefcount(o)
                          for o in (keys, values, value, key)], before)

    def test_cycle_through_a_tag_is_collected(self):
        class Owner:
            pass

        owner = Owner()
        owner.client = Client(self.node.address)
        owner.client.open("cycle").submit_put([b"k"], [b"v"], tag=owner)
        ref = weakref.ref(owner)
        del owner
        gc.collect()
        self.assertIsNone(ref())

    def test_nothing_is_lost_under_stress(self):
        gc.set_threshold(1, 1, 1)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        for i in range(50):
            keys = [f"{i}.{k}" for k in range(16)]
            self.assertTrue(self.ns.put(keys, [bytearray(payload(500, k))
                                               for k in range(16)]).all_ok)
            sent = self.ns.submit_get(keys, [bytearray(500) for _ in keys],
                                      tag=[keys])
            self.assertTrue(self.client.wait(sent).results.all_ok)


class Memories(Case):
    def test_is_a_buffer(self):
        m = self.client.alloc(5000)
        self.assertEqual((len(m), m.nbytes), (5000, 5000))
        v = memoryview(m)
        self.assertEqual((v.nbytes, v.readonly, bytes(v[:4])),
                         (5000, False, bytes(4)))
        v[10:15] = b"hello"
        self.assertEqual(ctypes.string_at(m.address + 10, 5), b"hello")

    def test_free_is_refused_while_it_is_viewed(self):
        m = self.client.alloc(4096)
        v = memoryview(m)
        with self.refused(BufferError, "1 views"):
            m.free()
        v.release()
        m.free()
        m.free()
        self.assertEqual(m.address, 0)
        with self.refused(BufferError, "freed"):
            memoryview(m)

    def test_free_is_refused_while_a_call_uses_it(self):
        m = self.client.alloc(4096)
        i = self.ns.submit_put([b"k"], [m])
        with self.refused(BufferError, "views"):
            m.free()
        self.client.wait(i)
        m.free()

    def test_memory_outlives_its_client(self):
        m = self.client.alloc(4096)
        v = memoryview(m)
        v[:2] = b"ok"
        self.client.close()
        del m
        gc.collect()
        self.assertEqual(bytes(v[:2]), b"ok")

    def test_memory_keeps_its_client_no_longer_than_needed(self):
        client = Client(self.node.address)
        m = client.alloc(4096)
        del client
        gc.collect()
        self.assertEqual(len(memoryview(m)), 4096)

    def test_alloc_counts_as_registered(self):
        before = self.client.stats()["registered_bytes"]
        with self.client.alloc(1 << 20):
            self.assertGreaterEqual(self.client.stats()["registered_bytes"],
                                    before + (1 << 20))
        self.assertEqual(self.client.stats()["registered_bytes"], before)

    def test_no_memory_for_the_impossible(self):
        self.assertRaises(pikv.NoMemory, self.client.alloc, 1 << 60)

    def test_registers_what_is_shared(self):
        fd = os.memfd_create("test")
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 1 << 20)
        with mmap.mmap(fd, 1 << 20) as m:
            m[:100] = payload(100)
            with self.client.register(m) as r:
                self.assertEqual(r.nbytes, 1 << 20)
                with self.assertRaises(BufferError):
                    m.resize(1 << 21)
                view = memoryview(m)
                self.assertTrue(self.ns.put([b"k"], [view[:100]]).all_ok)
                self.assertTrue(self.ns.get([b"k"], [view[100:200]]).all_ok)
                self.assertEqual(m[100:200], payload(100))
                view.release()
            r.unregister()

    def test_register_of_private_memory_is_unsupported(self):
        with self.refused(pikv.Unsupported):
            self.client.register(bytearray(1 << 20))
        with mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE |
                       mmap.MAP_ANONYMOUS) as m:
            with self.refused(pikv.Unsupported):
                self.client.register(m)
            m.resize(8192)

    def test_memory_of_another_client_can_be_registered(self):
        m = self.client.alloc(4096)
        other = self.connect()
        with other.register(m):
            memoryview(m)[:3] = b"abc"
            self.assertTrue(other.open("o").put([b"k"], [m]).all_ok)
        with self.client.register(m):
            pass
        self.assertTrue(self.ns.put([b"k"], [m]).all_ok)
        self.assertEqual(self.ns.get_bytes(b"k")[:3], b"abc")

    def test_registration_ends_with_its_object(self):
        m = self.client.alloc(4096)
        other = self.connect()
        r = other.register(m)
        del r
        gc.collect()
        m.free()


class Layouts(Case):
    def setUp(self):
        super().setUp()
        self.memory = self.client.alloc(1 << 16)
        self.view = memoryview(self.memory)
        self.addCleanup(self.view.release)
        self.view[:] = payload(1 << 16)

    def test_blocks_by_number(self):
        # Two layers of 32 pages of 1 KiB, then a place to read into.
        src = self.client.layout(self.memory, [(0, 1024, 16384, 2)],
                                 block_stride=1024, blocks=16)
        dst = self.client.layout(self.memory, [(32768, 1024, 16384, 2)],
                                 block_stride=1024, blocks=16)
        r = self.ns.put([b"3", b"5"], [3, 5], layout=src)
        self.assertEqual(r.statuses, [OK, OK])
        self.assertEqual(self.ns.get_bytes(b"3"),
                         bytes(self.view[3072:4096]) +
                         bytes(self.view[16384 + 3072:16384 + 4096]))
        r = self.ns.get([b"3", b"5"], [1, 2], layout=dst)
        self.assertEqual(r.statuses, [OK, OK])
        self.assertEqual(bytes(self.view[32768 + 2048:32768 + 3072]),
                         bytes(self.view[5120:6144]))

    def test_table_of_bases(self):
        lay = self.client.layout(self.memory, [(0, 100, 0, 1)],
                                 table=[500, 9000], blocks=2)
        self.assertTrue(self.ns.put([b"k"], [1], layout=lay).all_ok)
        self.assertEqual(self.ns.get_bytes(b"k"), bytes(self.view[9000:9100]))
        self.client.unlayout(lay)
        self.assertRaises((pikv.NoLayout, pikv.BadRequest), self.ns.put,
                          [b"x"], [1], layout=lay)

    def test_what_is_not_within_the_memory_is_refused(self):
        self.assertRaises(pikv.BadRequest, self.client.layout, self.memory,
                          [(0, 1024, 1 << 16, 2)], block_stride=1024,
                          blocks=4)
        self.assertRaises(pikv.NoMem, self.client.layout, bytearray(4096),
                          [(0, 1024, 0, 1)], block_stride=1024, blocks=4)
        with self.refused(ValueError, "table", "2 offsets"):
            self.client.layout(self.memory, [(0, 10, 0, 1)], table=[1],
                               blocks=2)

    def test_numbers_are_ints(self):
        lay = self.client.layout(self.memory, [(0, 1024, 0, 1)],
                                 block_stride=1024, blocks=4)
        with self.refused(TypeError, "values[0]", "int"):
            self.ns.put([b"k"], [b"bytes"], layout=lay)

    def test_parts_come_in_order_before_the_call(self):
        keys = [b"%d" % i for i in range(8)]
        self.put(*((k, payload(2000, i)) for i, k in enumerate(keys)))
        into = [bytearray(2000) for _ in keys]
        sent = self.ns.submit_get(keys, into, parts=True, tag="t")
        seen = []
        until(lambda: seen.extend(self.client.drain()) or
              (seen and not seen[-1].part))
        self.assertEqual([c.id for c in seen], [sent] * len(seen))
        parts = [c.item for c in seen[:-1]]
        self.assertEqual(parts, sorted(parts))
        self.assertEqual(len(parts), 8)
        self.assertEqual({c.data for c in seen}, {"t"})
        self.assertEqual(seen[-1].results.statuses, [OK] * 8)

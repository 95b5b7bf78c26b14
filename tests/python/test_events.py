# SPDX-License-Identifier: Apache-2.0
"""ns.events(), and the form of events that routers read (pikv.events)."""

import ast
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
import unittest
from collections import namedtuple

from case import LONG_MS, ROOT, Case, Daemon, clean_env, payload

import pikv
from pikv.events import (AllBlocksCleared, BlockRemoved, BlockStored,
                         Publisher, RouterFeed, int64_block, pack, pack_batch,
                         vllm_block, vllm_route)

HASH = bytes(range(32))


class Stream(Case):
    def setUp(self):
        super().setUp()
        self.stream = self.ns.events([1] * self.client.info().lanes)
        self.addCleanup(self.stream.close)

    def take(self, n):
        out = []
        while len(out) < n:
            more = self.stream.next(n - len(out), LONG_MS)
            self.assertTrue(more)
            out += more
        return out

    def test_events_say_what_was_put(self):
        self.ns.put([b"a"], [payload(100)], labels=[[7]], pages=[3],
                    token_ends=[64], token_ns=[16], parents=[b"root"])
        e, = self.take(1)
        self.assertEqual((e.kind, e.key, e.parent, e.len, e.tier, e.page,
                          e.token_end, e.token_n, e.labels),
                         ("stored", b"a", b"root", 100, 0, 3, 64, 16,
                          (7, 0, 0, 0)))
        self.assertEqual(e.boot, self.client.info().boot)
        self.assertEqual(len(e.hash), 16)
        self.ns.evict([b"a"])
        gone, = self.take(1)
        self.assertEqual((gone.kind, gone.hash), ("removed", e.hash))

    def test_a_wait_without_events_is_empty(self):
        self.assertEqual(self.stream.next(wait_ms=0), [])
        self.assertEqual(self.stream.next(wait_ms=20), [])

    def test_iteration_waits_for_what_comes(self):
        t = threading.Timer(0.05, lambda: self.put((b"late", payload(1))))
        t.start()
        self.assertEqual(next(iter(self.stream)).key, b"late")
        t.join()

    def test_from_now_on(self):
        self.put((b"before", payload(1)))
        with self.ns.events() as stream:
            self.assertEqual(stream.next(wait_ms=50), [])
            self.put((b"after", payload(1)))
            e, = stream.next(wait_ms=LONG_MS)
            self.assertEqual(e.key, b"after")

    def test_a_reader_opens_a_namespace_of_any_fingerprint(self):
        name = "engine's"
        with self.assertRaises(pikv.NoNamespace):
            self.client.open(name, create=False)
        self.client.open(name, model="m", dtype="fp8")
        self.client.open(name, create=False)
        with self.refused(pikv.Mismatch, "model"):
            self.client.open(name, create=False, model="other")
        with self.refused(pikv.Mismatch, "model"):
            self.client.open(name)

    def test_the_feed_tells_what_really_happened(self):
        feed = RouterFeed(block_of=vllm_block, check=self.ns.exists)
        keys = [bytes([i]) * 32 + struct.pack(">I", i % 2) for i in range(4)]
        self.put(*[(k, payload(10)) for k in keys])
        self.assertEqual(self.ns.evict(keys[:1]), 1)
        told = feed.take(self.take(5))
        self.assertCountEqual(
            [e.block_hashes[0][0] for e in told if isinstance(e, BlockStored)],
            range(4))
        self.assertEqual([e for e in told if isinstance(e, BlockRemoved)],
                         [BlockRemoved([bytes(32)], "CPU", 0)])
        self.assertCountEqual([e.block_hashes[0][0] for e in feed.snapshot()],
                              [1, 2, 3])
        self.ns.evict(keys[1:2])  # unheard
        lost = namedtuple("Lost", "kind lane")
        told = feed.take([lost("lost", 0), lost("lost", 1)])
        self.assertEqual(told, [BlockRemoved([b"\1" * 32], "CPU", 1)])
        self.ns.bump()
        lanes = self.client.info().lanes
        told = feed.take(self.take(1 + lanes))
        self.assertTrue(told)
        self.assertEqual(len(feed), 0)

    def test_after_a_loss_blocks_are_looked_for_where_their_route_is(self):
        feed = RouterFeed(block_of=vllm_block, route_of=vllm_route,
                          check=self.ns.exists)
        n = 3000  # more than one question may have
        keys = [i.to_bytes(32, "little") + bytes(4) for i in range(n)]
        for at in range(0, n, 500):
            some = keys[at:at + 500]
            self.ns.put(some, [b"v"] * 500, routes=[k[:32] for k in some])
        feed.take(self.take(n))
        lost = namedtuple("Lost", "kind lane")
        lanes = range(self.client.info().lanes)
        self.assertEqual(feed.take([lost("lost", i) for i in lanes]), [])
        self.assertEqual(len(feed), n)
        self.ns.evict(keys[:1], routes=[keys[0][:32]])
        self.assertEqual(feed.take([lost("lost", i) for i in lanes]),
                         [BlockRemoved([bytes(32)], "CPU", 0)])

    def test_a_daemon_without_events_says_so(self):
        with Daemon({"limits.events": "0"}) as d:
            with pikv.Client(d.address) as client:
                with client.open("x").events() as stream:
                    with self.assertRaises(pikv.Unsupported):
                        stream.next(wait_ms=LONG_MS)


class Told(namedtuple("Told", "kind lane hash key parent tier group scope")):
    """As pikv.Event, of what the feed looks at."""


def told(kind, name, key=None, lane=0, tier=0, parent=b""):
    return Told(kind, lane, name, name if key is None else key, parent, tier,
                0, bytes(16))


class Feed(unittest.TestCase):
    def setUp(self):
        self.feed = RouterFeed()

    def test_stored_moved_removed(self):
        f = self.feed
        self.assertEqual(f.take([told("stored", b"a", parent=b"p")]),
                         [BlockStored([b"a"], b"p", [], 0, None, "CPU")])
        self.assertEqual(f.take([told("moved", b"a", tier=1)]),
                         [BlockStored([b"a"], b"p", [], 0, None, "STORAGE"),
                          BlockRemoved([b"a"], "CPU")])
        # Of a block on the SSD only the name is known.
        self.assertEqual(f.take([told("removed", b"a", key=b"", tier=1)]),
                         [BlockRemoved([b"a"], "STORAGE")])
        self.assertEqual(len(f), 0)
        self.assertEqual(f.take([told("removed", b"a", key=b"", tier=1)]), [])

    def test_a_move_of_what_was_not_heard_of_is_a_block(self):
        self.assertEqual(self.feed.take([told("moved", b"a", tier=1)]),
                         [BlockStored([b"a"], None, [], 0, None, "STORAGE")])
        self.assertEqual(self.feed.take([told("moved", b"b", key=b"",
                                              tier=1)]), [])

    def test_a_lane_that_is_cleared_takes_its_own_blocks(self):
        f = self.feed
        f.take([told("stored", b"a", lane=0), told("stored", b"b", lane=1)])
        self.assertEqual(f.take([told("cleared", b"", lane=0)]),
                         [BlockRemoved([b"a"], "CPU")])
        f.take([told("stored", b"new", lane=0)])
        self.assertEqual(f.take([told("cleared", b"", lane=1)]),
                         [BlockRemoved([b"b"], "CPU")])
        self.assertEqual(f.take([told("cleared", b"", lane=0)]),
                         [AllBlocksCleared()])
        self.assertEqual(f.take([told("cleared", b"", lane=0)]), [])

    def test_without_check_a_loss_takes_all_of_the_lane(self):
        f = self.feed
        f.take([told("stored", b"a", lane=0), told("stored", b"b", lane=1)])
        self.assertEqual(f.take([told("lost", b"", lane=1)]),
                         [BlockRemoved([b"b"], "CPU")])
        self.assertEqual((len(f), f.lost), (1, 1))

    def test_a_check_that_fails_is_made_again(self):
        answers = [pikv.NoServer(""), pikv.Timeout(""), [False]]

        def check(keys, **_):
            answer = answers.pop(0)
            if isinstance(answer, list):
                return answer
            raise answer
        f = RouterFeed(check=check)
        f.take([told("stored", b"a")])
        self.assertEqual(f.take([told("lost", b"")]), [])
        self.assertEqual(f.take([]), [])
        self.assertEqual(f.take([]), [BlockRemoved([b"a"], "CPU")])
        self.assertEqual((f.take([]), f.lost), ([], 1))

    def test_a_block_of_parts_is_told_when_all_are_there(self):
        f = RouterFeed(block_of=lambda key: (key[:1], None), parts=2)
        self.assertEqual(f.take([told("stored", b"a0")]), [])
        self.assertEqual(f.snapshot(), [])
        self.assertEqual(len(f.take([told("stored", b"a1", lane=1)])), 1)
        self.assertEqual(len(f.snapshot()), 1)
        self.assertEqual(f.take([told("moved", b"a0", tier=1)]),
                         [BlockRemoved([b"a"], "CPU")])
        self.assertEqual(f.take([told("moved", b"a1", lane=1, tier=1)]),
                         [BlockStored([b"a"], None, [], 0, None, "STORAGE")])
        self.assertEqual(f.take([told("removed", b"a1", lane=1)]),
                         [BlockRemoved([b"a"], "STORAGE")])
        self.assertEqual(f.take([told("removed", b"a0")]), [])

    def test_tokens_where_they_are_known(self):
        f = RouterFeed(tokens_of={b"a": [5, 6, 7]}.get)
        a, b = f.take([told("stored", b"a"), told("stored", b"b")])
        self.assertEqual((a.token_ids, a.block_size), ([5, 6, 7], 3))
        self.assertEqual((b.token_ids, b.block_size), ([], 0))

    def test_keys_that_are_no_blocks_are_left_out(self):
        f = RouterFeed(block_of=vllm_block)
        self.assertEqual(f.take([told("stored", b"abc")]), [])
        self.assertEqual(int64_block(vllm_block)(HASH + b"\0\0\0\2"),
                         (int.from_bytes(HASH[-8:], "big"), 2))


BATCH = [BlockStored([HASH], HASH[:8], [1, 200, 70000], 3, None, "CPU"),
         BlockStored([1 << 63], None, [], 0, None, "STORAGE", None, 2),
         BlockRemoved([HASH, -5], "STORAGE"), BlockRemoved([7], None, 1),
         AllBlocksCleared()]


class Wire(unittest.TestCase):
    def test_golden_bytes(self):
        self.assertEqual(
            pack_batch([BlockRemoved([b"\1\2"], "CPU")], ts=1.5, dp_rank=0),
            b"\x93\xcb" + struct.pack(">d", 1.5) + b"\x91\x83"
            b"\xa4type\xacBlockRemoved"
            b"\xacblock_hashes\x91\xc4\x02\1\2\xa6medium\xa3CPU\x00")
        self.assertEqual(
            pack_batch([BlockStored([300], None, [7], 1, None, "CPU"),
                        AllBlocksCleared()], ts=0.0, array=True),
            b"\x92\xcb" + bytes(8) + b"\x92\x97\xabBlockStored\x91\xcd\x01\x2c"
            b"\xc0\x91\x07\x01\xc0\xa3CPU\x91\xb0AllBlocksCleared")

    def test_every_kind_of_number_and_length(self):
        for n, want in ((0, "00"), (127, "7f"), (128, "cc80"),
                        (255, "ccff"), (256, "cd0100"), (65536, "ce00010000"),
                        (1 << 32, "cf0000000100000000"), (-1, "ff"),
                        (-32, "e0"), (-33, "d0df"), (-129, "d1ff7f"),
                        (-32769, "d2ffff7fff"),
                        (-(1 << 31) - 1, "d3ffffffff7fffffff")):
            self.assertEqual(pack(n).hex(), want)
        self.assertEqual(pack("x" * 32)[:2].hex(), "d920")
        self.assertEqual(pack("x" * 300)[:3].hex(), "da012c")
        self.assertEqual(pack(b"x" * 300)[:3].hex(), "c5012c")
        self.assertEqual(pack([0] * 16)[:3].hex(), "dc0010")
        self.assertEqual(pack([True, False, None]).hex(), "93c3c2c0")
        with self.assertRaises(OverflowError):
            pack(1 << 64)
        with self.assertRaises(TypeError):
            pack(object())

    def test_vllm_reads_it_as_its_own(self):
        classes = vllm_classes()
        if not classes:
            self.skipTest("neither vLLM nor msgspec here")
        msgspec, batch_type = classes
        got = msgspec.msgpack.decode(
            pack_batch(BATCH, ts=2.25, dp_rank=3), type=batch_type)
        self.assertEqual((got.ts, got.data_parallel_rank, len(got.events)),
                         (2.25, 3, len(BATCH)))
        for ours, theirs in zip(BATCH, got.events):
            self.assertEqual(type(theirs).__name__, type(ours).__name__)
            for field, value in ours._asdict().items():
                self.assertEqual(getattr(theirs, field), value, field)
        # Its lengths are not always the shortest: what they mean is the same.
        self.assertEqual(
            msgspec.msgpack.decode(msgspec.msgpack.encode(got)),
            msgspec.msgpack.decode(pack_batch(BATCH, ts=2.25, dp_rank=3)))


def vllm_classes():
    """(msgspec, KVEventBatch) from vLLM's own file, its classes alone; None if
    there is none. PIKV_VLLM names a folder that has it."""
    where = os.environ.get("PIKV_VLLM")
    if not where:
        spec = importlib.util.find_spec("vllm")
        where = spec.submodule_search_locations[0] if spec else None
    path = where and os.path.join(where, "distributed/kv_events.py")
    if not path or not os.path.exists(path) or \
            not importlib.util.find_spec("msgspec"):
        return None
    import msgspec
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    wanted = ("EventBatch", "KVCacheEvent", "BlockStored", "BlockRemoved",
              "AllBlocksCleared", "KVEventBatch")
    tree.body = [n for n in tree.body
                 if isinstance(n, ast.ClassDef) and n.name in wanted]
    module = type(sys)("kv_events_classes")
    module.__dict__.update(msgspec=msgspec, ExternalBlockHash=bytes | int)
    exec("from typing import Any", module.__dict__)
    sys.modules[module.__name__] = module
    exec(compile(tree, path, "exec"), module.__dict__)
    return msgspec, module.KVEventBatch


class Example(Case):
    def run_example(self, *args):
        return subprocess.run(
            [sys.executable, os.path.join(ROOT, "examples/kv_events.py"),
             "--address", self.node.address, "--namespace",
             self._testMethodName, *args], capture_output=True, text=True,
            timeout=60, env=clean_env(), check=False)

    def test_it_prints_a_line_of_json_for_each_event(self):
        self.ns.put([b"\1" * 32 + bytes(4)], [payload(10)],
                    parents=[b"\2" * 32 + bytes(4)])
        run = self.run_example("--keys", "vllm", "--count", "1")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        line = json.loads(run.stdout)
        self.assertEqual((line["type"], line["block_hashes"], line["medium"],
                          line["parent_block_hash"], line["group_idx"]),
                         ("BlockStored", ["01" * 32], "CPU", "02" * 32, 0))

    def test_it_publishes_what_a_subscriber_reads(self):
        if not importlib.util.find_spec("zmq"):
            self.skipTest("no pyzmq")
        import zmq
        sub = zmq.Context.instance().socket(zmq.SUB)
        self.addCleanup(sub.close)
        port = sub.bind_to_random_port("tcp://127.0.0.1")
        sub.setsockopt(zmq.SUBSCRIBE, b"kv")
        with Publisher(f"tcp://127.0.0.1:{port}", topic="kv@x") as out:
            numbers = []
            while not sub.poll(10):
                numbers.append(out.publish([AllBlocksCleared()]))
            topic, seq, payload_ = sub.recv_multipart()
        self.assertEqual(topic, b"kv@x")
        self.assertIn(int.from_bytes(seq, "big"), numbers)
        self.assertEqual(payload_[-24:], pack([AllBlocksCleared().wire(False)]
                                              )[-23:] + b"\0")


if __name__ == "__main__":
    unittest.main()

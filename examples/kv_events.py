#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What pikvd stores and drops, for a KV-cache-aware router.

    PYTHONPATH=out/debug/python examples/kv_events.py --namespace vllm \\
        --keys vllm --zmq 'tcp://*:5557' --topic kv@pikvd@model

Follows a namespace and tells it in the form of vLLM's KV events, which Dynamo
and llm-d read. Without --zmq a line of JSON for each event, hashes in hex; with
it batches over ZMQ PUB (needs pyzmq). pikv/events.py says what a router can do
with them, above all that pikvd does not know the tokens of a block.

A router that starts after this program hears nothing of what is there already;
--again SECONDS tells all of it anew from time to time.
"""

import argparse
import json
import sys
import time

import pikv
from pikv.events import (BlockStored, Publisher, RouterFeed, int64_block,
                         raw_block, vllm_block, vllm_route)

# What a key says: the block, and the route that it was stored with.
KEYS = {"raw": (raw_block, None), "vllm": (vllm_block, vllm_route)}
WAIT_MS = 500


def arguments():
    p = argparse.ArgumentParser(
        description="events of pikvd for KV-cache-aware routers")
    p.add_argument("--address", help="default $PIKV_ADDRESS or the local one")
    p.add_argument("--namespace", default="default")
    p.add_argument("--keys", choices=KEYS, default="raw",
                   help="raw: a key is a block's hash; vllm: as pikv.vllm "
                        "makes them")
    p.add_argument("--int64", action="store_true",
                   help="hashes as 64-bit numbers, their last 8 bytes")
    p.add_argument("--parts", type=int, default=1,
                   help="so many keys make a block")
    p.add_argument("--now", action="store_true",
                   help="from now on; default all that pikvd still has")
    p.add_argument("--count", type=int, default=0,
                   help="end after so many events; default never")
    p.add_argument("--zmq", metavar="ENDPOINT", help="publish there")
    p.add_argument("--topic", default="")
    p.add_argument("--dp-rank", type=int, default=0)
    p.add_argument("--array", action="store_true",
                   help="events as arrays, for readers of older vLLM")
    p.add_argument("--again", type=float, metavar="SECONDS", default=0,
                   help="tell all that is there again so often")
    return p.parse_args()


class Printer:
    """JSON lines in place of ZMQ."""

    def publish(self, events):
        for e in events:
            line = e.wire(False)
            for field, value in line.items():
                if field == "block_hashes":
                    line[field] = [name(h) for h in value]
                elif field == "parent_block_hash" and value is not None:
                    line[field] = name(value)
            print(json.dumps({"ts": time.time(), **line}), flush=True)

    def close(self):
        pass


def name(block_hash):
    return block_hash.hex() if isinstance(block_hash, bytes) else block_hash


def follow(a, feed, stream, out):
    left = a.count or sys.maxsize
    again = time.monotonic() + a.again
    while left > 0:
        told = feed.take(stream.next(wait_ms=WAIT_MS))
        if told:
            out.publish(told[:left])
            left -= len(told)
        if a.again and time.monotonic() >= again:
            again = time.monotonic() + a.again
            there = feed.snapshot()
            assert all(isinstance(e, BlockStored) for e in there)
            if there:
                out.publish(there)


def main():
    a = arguments()
    block_of, route_of = KEYS[a.keys]
    if a.int64:
        block_of = int64_block(block_of)
    out = Publisher(a.zmq, topic=a.topic, dp_rank=a.dp_rank,
                    array=a.array) if a.zmq else Printer()
    try:
        with pikv.Client(a.address, engine="kv_events") as client:
            ns = client.open(a.namespace, create=False)
            feed = RouterFeed(block_of=block_of, parts=a.parts,
                              check=ns.exists, route_of=route_of)
            first = None if a.now else [1] * client.info().lanes
            with ns.events(first) as stream:
                follow(a, feed, stream, out)
    except KeyboardInterrupt:
        pass
    finally:
        out.close()


if __name__ == "__main__":
    main()

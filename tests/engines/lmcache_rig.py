# SPDX-License-Identifier: Apache-2.0
"""LMCache's side of its door, for tests: the real adapter, or a stand-in.

Rig(params) has store, lookup, load, delete on key numbers and memoryviews. With
the package lmcache, Rig is its NativeConnectorL2Adapter, made from the JSON
that a user writes, with its own memory objects and keys. Without it, Rig is
StandIn: OURS, the calls that LMCache 0.5.6's adapter makes on a connector
(which thread, which order, which arguments), written by hand. Server, only
with the package, is LMCache above its adapters: L1, and the threads that store
to and load from L2.
"""

import argparse
import json
import select
import threading

from pikv.lmcache import Client

try:
    import torch
    from lmcache.v1.distributed.api import (
        GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec)
    from lmcache.v1.distributed.config import (
        add_storage_manager_args, parse_args_to_config)
    from lmcache.v1.distributed.l2_adapters import create_l2_adapter
    from lmcache.v1.distributed.l2_adapters.config import (
        parse_args_to_l2_adapters_config)
    from lmcache.v1.distributed.storage_manager import StorageManager
    from lmcache.v1.memory_management import (
        MemoryFormat, MemoryObjMetadata, TensorMemoryObj)
    from lmcache.v1.platform import consume_fd
    REAL = ""
except ImportError as e:
    REAL = f"lmcache is not installed here: {e}"

WAIT_S = 120
MODEL = "meta-llama/Llama-3.1-8B"


def text_of(key):
    """LMCache's text of a key: number, or (number, salt, rank, group)."""
    n, salt, rank, group = key if isinstance(key, tuple) else (key, "", 0, 0)
    text = f"{MODEL}@{rank:08x}@{group:x}@{n.to_bytes(32, 'big').hex()}"
    return f"{text}@{salt}" if salt else text


class StandIn:
    """NativeConnectorL2Adapter's calls: submits under a lock, one thread that
    polls the connector's fd and drains it."""

    def __init__(self, params, **_):
        self.client = Client(**params)
        self.lock = threading.Lock()
        self.done = threading.Condition(self.lock)
        self.results = {}
        self.pending = set()
        self.strays = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.demux, daemon=True)
        self.thread.start()

    def demux(self):
        poller = select.poll()
        poller.register(self.client.event_fd(), select.POLLIN)
        while not self.stop.is_set():
            if not poller.poll(500):
                continue
            completions = self.client.drain_completions()
            with self.done:
                for op, ok, _, bools in completions:
                    self.strays += op not in self.pending
                    self.pending.discard(op)
                    self.results[op] = (ok, bools)
                self.done.notify_all()

    def call(self, submit, *args):
        with self.done:
            op = submit(*args)
            self.pending.add(op)
            assert self.done.wait_for(lambda: op in self.results, WAIT_S), \
                "an operation does not end"
            return self.results.pop(op)

    def store(self, keys, views):
        ok, _ = self.call(self.client.submit_batch_set,
                          [text_of(k) for k in keys], list(views))
        return ok

    def lookup(self, keys):
        ok, bools = self.call(self.client.submit_batch_exists,
                              [text_of(k) for k in keys])
        return bools if ok else [False] * len(keys)

    def load(self, keys, views):
        return self.call(self.client.submit_batch_get,
                         [text_of(k) for k in keys], list(views))[1]

    def delete(self, keys):
        return self.call(self.client.submit_batch_delete,
                         [text_of(k) for k in keys])[1]

    def close(self):
        self.stop.set()
        self.thread.join()
        self.client.close()


class Real:
    """lmcache's own adapter, through its own interface. wrap: the name of an
    adapter of lmcache around ours, and its fields."""

    def __init__(self, params, wrap=None):
        config = {"type": "native_plugin", "module_path": "pikv.lmcache",
                  "class_name": "Client", "adapter_params": params}
        if wrap:
            config = {**wrap, "inner": config}

        class Arguments:
            l2_adapter = [json.dumps(config)]
        made = parse_args_to_l2_adapters_config(Arguments)
        self.adapter = create_l2_adapter(made.adapters[0])
        inner = getattr(self.adapter, "_inner", self.adapter)
        self.client = inner._client
        self.strays = 0

    @staticmethod
    def keys(keys):
        out = []
        for key in keys:
            n, salt, rank, group = key if isinstance(key, tuple) else (
                key, "", 0, 0)
            out.append(ObjectKey(chunk_hash=n.to_bytes(32, "big"),
                                 model_name=MODEL, kv_rank=rank,
                                 object_group_id=group, cache_salt=salt))
        return out

    @staticmethod
    def objects(views):
        out = []
        for view in views:
            raw = torch.frombuffer(view, dtype=torch.uint8)
            meta = MemoryObjMetadata(
                shape=torch.Size([len(view)]), dtype=torch.uint8,
                address=raw.data_ptr(), phy_size=len(view),
                fmt=MemoryFormat.KV_2LTD, ref_count=1)
            out.append(TensorMemoryObj(raw, meta, parent_allocator=None))
        return out

    @staticmethod
    def wait(fd, task, ask):
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while True:
            assert poller.poll(WAIT_S * 1000), "an operation does not end"
            consume_fd(fd)
            got = ask(task)
            if got is not None:
                return got

    def store(self, keys, views):
        done = {}

        def ask(task):
            done.update(self.adapter.pop_completed_store_tasks())
            return done.get(task)
        task = self.adapter.submit_store_task(self.keys(keys),
                                              self.objects(views))
        return self.wait(self.adapter.get_store_event_fd(), task,
                         ask).is_successful()

    def lookup(self, keys):
        task = self.adapter.submit_lookup_and_lock_task(self.keys(keys), {})
        bits = self.wait(self.adapter.get_lookup_and_lock_event_fd(), task,
                         self.adapter.query_lookup_and_lock_result)
        self.adapter.submit_unlock(self.keys(keys))
        return [bits.test(i) for i in range(len(keys))]

    def load(self, keys, views):
        task = self.adapter.submit_load_task(self.keys(keys),
                                             self.objects(views))
        bits = self.wait(self.adapter.get_load_event_fd(), task,
                         self.adapter.query_load_result)
        return [bits.test(i) for i in range(len(keys))]

    def delete(self, keys):
        self.adapter.delete(self.keys(keys))
        return [True] * len(keys)

    def close(self):
        self.adapter.close()


Rig = StandIn if REAL else Real


class Server:
    """What `lmcache server` keeps blocks with: L1 memory, the threads that
    store to and load from L2, and our adapter, from its own flags."""

    def __init__(self, params, *flags):
        parser = argparse.ArgumentParser()
        parser.add_argument("--shm-name")
        add_storage_manager_args(parser)
        config = {"type": "native_plugin", "module_path": "pikv.lmcache",
                  "class_name": "Client", "adapter_params": params}
        self.manager = StorageManager(parse_args_to_config(parser.parse_args(
            ["--l1-size-gb", "0.25", "--eviction-policy", "LRU",
             "--l2-adapter", json.dumps(config), *flags])))

    def layout(self, size):
        return MemoryLayoutDesc([torch.Size([size])], [torch.uint8])

    def write(self, keys, blocks):
        """To L1; LMCache stores it to L2 when it likes."""
        keys = Real.keys(keys)
        made = self.manager.reserve_write(keys, self.layout(len(blocks[0])))
        for key, block in zip(keys, blocks):
            made[key].byte_array.cast("B")[:] = block
        self.manager.finish_write(keys)

    def stored_bytes(self):
        return sum(n for n, _ in self.manager.get_l2_usages())

    def read(self, keys, size):
        """(blocks loaded from L2, their bytes): a prefetch and a read."""
        keys = Real.keys(keys)
        spec = PrefetchTaskSpec([GroupedObjectKeys(keys, 0,
                                                   self.layout(size))])
        handle = self.manager.submit_prefetch_task(spec)
        assert self.manager.wait_prefetch_status(handle, WAIT_S)
        result = self.manager.query_prefetch_status(handle)
        hits = result.hit_cells[0].popcount()
        if not hits:
            return 0, []
        with self.manager.read_prefetched_results(keys[:hits]) as objects:
            data = [bytes(o.byte_array) for o in objects]
        self.manager.finish_read_prefetched(keys[:hits])
        return result.l2_hit_cells[0].popcount(), data

# SPDX-License-Identifier: Apache-2.0
"""libpikv through ctypes, as close to client/pikv.h as Python reads well.

    kv = Client(d.address)
    ns = kv.open("demo", create=True)
    kv.put(ns, [Put(b"k1", b"bytes")])        -> [Result]
    kv.get(ns, [Get(b"k1", 5)])               -> [Result], .data of each

Calls wait for their completion; submit_* give a Call, whose wait() does. The
error of a whole call raises KvError. The library of a sanitized build cannot be
loaded into a plain Python; then the debug one stands in.
"""

import ctypes as C
import os
import re
import select

from node import BUILD, ROOT, SANITIZED

LIB = os.path.join(ROOT, "out/debug" if SANITIZED else BUILD, "libpikv.so")
lib = C.CDLL(LIB, use_errno=True)

u8, u16, u32, u64 = C.c_uint8, C.c_uint16, C.c_uint32, C.c_uint64
ptr, size_t = C.c_void_p, C.c_size_t


def _errors():
    with open(os.path.join(ROOT, "proto/errors.tbl"), encoding="utf-8") as f:
        return {name: int(code) for name, code in
                re.findall(r"^ERR\((\w+),\s*(-\d+)", f.read(), re.M)}


ERR = {"OK": 0, **_errors()}
NAME = {code: name for name, code in ERR.items()}


class KvError(Exception):
    def __init__(self, code):
        self.code = code
        self.name = NAME.get(code, str(code))
        lib.pikv_last_error.restype = C.c_char_p
        super().__init__(self.name + ": " + lib.pikv_last_error().decode())


def struct(name, /, **fields):
    return type(name, (C.Structure,), {"_fields_": list(fields.items())})


Options = struct("Options", address=C.c_char_p, engine=C.c_char_p,
                 model=C.c_char_p, dp_rank=u32, tp_rank=u32, pp_rank=u32,
                 connect_ms=u32, inflight_max=u32, staging_bytes=u64,
                 no_progress_thread=C.c_bool)
Info = struct("Info", server=C.c_char * 64, transport=C.c_char * 8, lanes=u32,
              batch_keys_max=u32, block_bytes_max=u64, pin_ttl_ms_max=u32,
              boot=u64)
Namespace = struct("Namespace", name=C.c_char_p, model=C.c_char_p,
                   weights_version=C.c_char_p, tokenizer_hash=C.c_char_p,
                   hash_seed=C.c_char_p, dtype=C.c_char_p,
                   scale_format=C.c_char_p, parallel_layout=C.c_char_p,
                   groups=ptr, group_n=u32, create=C.c_bool, policy=C.c_char_p,
                   loans=C.c_char_p, share=u32, ttl_ms=u32, quota_bytes=u64,
                   dram=C.c_char_p)
CallOptions = struct("CallOptions", deadline_us=u32, soft_us=u32,
                     pin_ttl_ms=u32, promote=C.c_bool, verify=C.c_bool,
                     accept_lossy=u8, demote=C.c_bool, parts=C.c_bool,
                     layout=u32, open_ms=u32, max_err=C.c_float,
                     trace=u64, user=ptr)
Bytes = struct("Bytes", p=ptr, len=size_t)
Key_ = struct("Key_", key=Bytes, route=Bytes, scope=ptr, group=u16, cls=u8)
Put_ = struct("Put_", key=Key_, data=Bytes, iov=C.POINTER(Bytes), iov_n=u32,
              parent=Bytes, crc32c=C.POINTER(u32), page=u32, token_end=u32,
              token_n=u32, ttl_ms=u32, pin_ttl_ms=u32, affinity=u64,
              labels=u64 * 4, priority=u8, block=u32, durable=C.c_bool,
              client_keeps_copy=C.c_bool)
Get_ = struct("Get_", key=Key_, data=Bytes, iov=C.POINTER(Bytes), iov_n=u32,
              off=u64, len=u64, block=u32, if_version=u64, loan=C.c_bool)
Result_ = struct("Result_", status=C.c_int, state=u8, tier=u8,
                 pinned=C.c_bool, lossy=C.c_bool, version=u64, len=u64,
                 moved=u64, crc32c=u32, eta_us=u32, loan=ptr, loan_id=u64,
                 token=u64)
Begin_ = struct("Begin_", block=Put_, len=u64, writers=u32)
Write_ = struct("Write_", key=Key_, token=u64, off=u64, data=Bytes,
                iov=C.POINTER(Bytes), iov_n=u32, crc32c=C.POINTER(u32),
                block=u32, len=u64)
Finish_ = struct("Finish_", key=Key_, token=u64, writer=u32)
Run = struct("Run", off=u64, len=u64, stride=u64, n=u32)
Layout = struct("Layout", addr=ptr, runs=C.POINTER(Run), run_n=u32,
                block_stride=u64, table=C.POINTER(u64), block_n=u32)
Completion = struct("Completion", id=u64, user=ptr, part=C.c_bool, item=u32,
                    status=C.c_int, n=u32, prefix=u32, count=u32, results=ptr)
Explanation = struct("Explanation", reason=C.c_char * 32, tier=C.c_char * 8,
                     when_ms=u64, eta_us=u32, advice=C.c_char * 256)
Column = struct("Column", rule=u8, trailing=u16)

lib.pikv_crc32c.argtypes = [u32, C.c_char_p, size_t]
lib.pikv_crc32c.restype = u32
lib.pikv_wait.argtypes = [ptr, u64, ptr]
lib.pikv_drain.argtypes = [ptr, ptr, C.c_int]
lib.pikv_event_fd.argtypes = [ptr]
lib.pikv_close.argtypes = [ptr]
lib.pikv_mem_alloc.argtypes = [ptr, size_t, ptr]
lib.pikv_mem_free.argtypes = [ptr, ptr]
lib.pikv_mem_register_fd.argtypes = [ptr, C.c_int, u64, size_t, ptr]
lib.pikv_loan_release.argtypes = [ptr, u32, ptr]
lib.pikv_namespace_bump.argtypes = [ptr, u32, ptr]
lib.pikv_layout_register.argtypes = [ptr, ptr, ptr]
lib.pikv_layout_unregister.argtypes = [ptr, u32]


def crc32c(data, crc=0):
    return lib.pikv_crc32c(crc, bytes(data), len(data))


class Key:
    def __init__(self, key, route=b"", scope=None, group=0, cls=0):
        self.key, self.route, self.scope = key, route, scope
        self.group, self.cls = group, cls


class Put:
    """data: bytes, a buffer (ctypes array), or a list of buffers; with a
    layout, None and block=."""

    def __init__(self, key, data, parent=b"", crc=None, labels=(), **attrs):
        self.key = key if isinstance(key, Key) else Key(key)
        self.data, self.parent, self.crc = data, parent, crc
        self.labels, self.attrs = labels, attrs


class Get:
    """room: bytes to make room for, a buffer, or a list of buffers; with a
    layout, 0 and block=, len_= (0: to the end)."""

    def __init__(self, key, room=0, off=0, if_version=0, loan=False, block=0,
                 len_=0):
        self.key = key if isinstance(key, Key) else Key(key)
        if isinstance(room, int):
            room = (C.c_char * room)() if room else None
        self.room = room
        self.off, self.if_version, self.loan = off, if_version, loan
        self.block, self.len = block, len_

    def data(self, n):
        runs = self.room if isinstance(self.room, list) else [self.room]
        return b"".join(bytes(r) for r in runs if r is not None)[:n]


class Result:
    def __init__(self, r, get=None):
        self.status = NAME.get(r.status, str(r.status))
        for name in ("state", "pinned", "version", "len", "moved", "crc32c",
                     "loan", "loan_id", "token"):
            setattr(self, name, getattr(r, name))
        self.raw = r
        self.get = get

    @property
    def data(self):
        if self.loan:
            return C.string_at(self.loan, self.len)
        return self.get.data(self.moved)

    def __repr__(self):
        return f"<{self.status} moved={self.moved} len={self.len}>"


def addr(buf):
    return C.addressof(buf)


class Call:
    """One call under way. It keeps everything that libpikv may touch."""

    def __init__(self, kv, n, items=None):
        self.kv, self.n, self.items = kv, n, items
        self.results_ = (Result_ * max(n, 1))()
        self.id = u64()
        self.keep = []
        self.completion = Completion()
        self.stops = None
        self.on_part = None

    def options(self, deadline_ms=0, **options):
        self.call = CallOptions(deadline_us=deadline_ms * 1000, **options)
        return C.byref(self.call)

    def bytes_(self, data):
        if not data:
            return Bytes()
        buf = C.create_string_buffer(data, len(data)) \
            if isinstance(data, (bytes, bytearray)) else data
        self.keep.append(buf)
        return Bytes(addr(buf), C.sizeof(buf))

    def key(self, k):
        k = k if isinstance(k, Key) else Key(k)
        out = Key_(key=self.bytes_(k.key), route=self.bytes_(k.route),
                   group=k.group, cls=k.cls)
        if k.scope:
            out.scope = self.bytes_(k.scope).p
        return out

    def runs(self, item, data):
        if isinstance(data, list):
            item.iov = (Bytes * len(data))(*[self.bytes_(d) for d in data])
            item.iov_n = len(data)
        else:
            item.data = self.bytes_(data)

    def put(self, p):
        out = Put_(key=self.key(p.key), parent=self.bytes_(p.parent),
                   **p.attrs)
        self.runs(out, p.data)
        for i, label in enumerate(p.labels):
            out.labels[i] = label
        if p.crc is not None:
            out.crc32c = C.pointer(u32(p.crc))
        return out

    def get(self, g):
        out = Get_(key=self.key(g.key), off=g.off, if_version=g.if_version,
                   loan=g.loan, block=g.block, len=g.len)
        self.runs(out, g.room)
        return out

    def started(self, code):
        if code:
            raise KvError(code)
        return self

    def wait(self):
        """The results; raises what the whole call answered."""
        code = lib.pikv_wait(self.kv.h, self.id, C.byref(self.completion))
        if code:
            raise KvError(code)
        return self.results()

    def told(self):
        """Takes completions of the handle until this call's own: the items of
        its parts as they came, each with its status; then the call's. on_part
        is called with each item."""
        out, done = [], (Completion * 3)()
        while True:
            n = lib.pikv_drain(self.kv.h, done, len(done))
            if n < 0:
                raise KvError(n)
            for c in done[:n]:
                assert c.id == self.id.value, "another call's"
                if not c.part:
                    assert self.kv.drained(), "something after the call's end"
                    return out, NAME[c.status]
                out.append((c.item, NAME[c.status]))
                if self.on_part:
                    self.on_part(c.item)
            if n == 0:
                select.select([lib.pikv_event_fd(self.kv.h)], [], [])

    def results(self):
        gets = self.items or [None] * self.n
        return [Result(self.results_[i], gets[i]) for i in range(self.n)]


class Memory:
    """Registered memory; buf(off, n) is a part of it."""

    def __init__(self, kv, n):
        self.kv, p = kv, ptr()
        code = lib.pikv_mem_alloc(kv.h, n, C.byref(p))
        if code:
            raise KvError(code)
        self.p, self.n = p.value, n

    def buf(self, off=0, n=None):
        return (C.c_char * (self.n if n is None else n)).from_address(
            self.p + off)

    def write(self, data, off=0):
        """The part that holds data now."""
        C.memmove(self.p + off, data, len(data))
        return self.buf(off, len(data))

    def free(self):
        lib.pikv_mem_free(self.kv.h, self.p)


class Client:
    def __init__(self, address, connect_ms=20000, engine="e2e", **options):
        o = Options(address=address.encode(), engine=engine.encode(),
                    connect_ms=connect_ms, **options)
        self.h = ptr()
        code = lib.pikv_open(C.byref(o), C.byref(self.h))
        if code:
            raise KvError(code)

    def close(self):
        lib.pikv_close(self.h)
        self.h = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.h:
            self.close()

    def info(self):
        i = Info()
        code = lib.pikv_info(self.h, C.byref(i))
        if code:
            raise KvError(code)
        return i

    def open(self, name, create=True, deadline_ms=20000, **settings):
        n = Namespace(name=name.encode(), create=create, **{
            k: v.encode() if isinstance(v, str) else v
            for k, v in settings.items()})
        out, call = u32(), CallOptions(deadline_us=deadline_ms * 1000)
        code = lib.pikv_namespace_open(self.h, C.byref(n), C.byref(out),
                                       C.byref(call))
        if code:
            raise KvError(code)
        return out.value

    def bump(self, ns):
        code = lib.pikv_namespace_bump(self.h, ns, None)
        if code:
            raise KvError(code)

    def submit_put(self, ns, puts, **options):
        c = Call(self, len(puts))
        items = (Put_ * len(puts))(*[c.put(p) for p in puts])
        return c.started(lib.pikv_put(self.h, ns, items, len(puts),
                                      c.options(**options), c.results_,
                                      C.byref(c.id)))

    def submit_get(self, ns, gets, **options):
        c = Call(self, len(gets), gets)
        items = (Get_ * len(gets))(*[c.get(g) for g in gets])
        return c.started(lib.pikv_get(self.h, ns, items, len(gets),
                                      c.options(**options), c.results_,
                                      C.byref(c.id)))

    def put(self, ns, puts, deadline_ms=20000, **options):
        return self.submit_put(ns, puts, deadline_ms=deadline_ms,
                               **options).wait()

    def get(self, ns, gets, deadline_ms=20000, **options):
        return self.submit_get(ns, gets, deadline_ms=deadline_ms,
                               **options).wait()

    def drained(self):
        """Is there no completion to be taken?"""
        return lib.pikv_drain(self.h, C.byref(Completion()), 1) == 0

    # ---- one block by several writers

    def finished(self, f, ns, items, call, deadline_ms=20000, **options):
        return call.started(f(self.h, ns, items, len(items), call.options(
            deadline_ms=deadline_ms, **options), call.results_,
            C.byref(call.id)))

    def begin(self, ns, key, n, writers=1, parent=b"", labels=(), durable=False,
              **options):
        c = Call(self, 1)
        p = Put(key, b"", parent=parent, labels=labels, durable=durable)
        items = (Begin_ * 1)(Begin_(block=c.put(p), len=n, writers=writers))
        return self.finished(lib.pikv_put_begin, ns, items, c,
                             **options).wait()[0]

    def submit_write(self, ns, key, token, ranges, crc=None, block=0, len_=0,
                     **options):
        """ranges: [(off, data)]; with a layout data is None, block= and len_=
        say which of its bytes."""
        c = Call(self, len(ranges))
        items = (Write_ * len(ranges))()
        for item, (off, data) in zip(items, ranges):
            item.key, item.token, item.off = c.key(key), token, off
            item.block, item.len = block, len_
            c.runs(item, data)
            if crc is not None:
                item.crc32c = C.pointer(u32(crc))
        return self.finished(lib.pikv_put_write, ns, items, c, **options)

    def write(self, ns, key, token, ranges, **options):
        return [r.status for r in
                self.submit_write(ns, key, token, ranges, **options).wait()]

    def commit(self, ns, key, token, writer=0, abort=False, **options):
        c = Call(self, 1)
        items = (Finish_ * 1)(Finish_(key=c.key(key), token=token,
                                      writer=writer))
        f = lib.pikv_put_abort if abort else lib.pikv_put_commit
        return self.finished(f, ns, items, c, **options).wait()[0].status

    def put1(self, ns, key, data, **attrs):
        return self.put(ns, [Put(key, data, **attrs)])[0].status

    def get1(self, ns, key, room, **attrs):
        return self.get(ns, [Get(key, room, **attrs)])[0]

    def keys(self, what, ns, keys, deadline_ms=20000, **options):
        """pin, unpin, touch."""
        c = Call(self, len(keys))
        items = (Key_ * len(keys))(*[c.key(k) for k in keys])
        f = getattr(lib, "pikv_" + what)
        return c.started(f(self.h, ns, items, len(keys),
                           c.options(deadline_ms=deadline_ms, **options),
                           c.results_, C.byref(c.id))).wait()

    def lookup(self, ns, rows, columns=None, deadline_ms=20000, **options):
        """rows: a list of rows of keys. The results row by row, the prefix,
        the stops as a list of bools."""
        cols = len(columns) if columns else 1
        keys = [k for row in rows for k in row]
        c = Call(self, len(keys))
        items = (Key_ * len(keys))(*[c.key(k) for k in keys])
        given = (Column * cols)(*[Column(*x) for x in columns]) \
            if columns else None
        stops = (u8 * ((len(rows) + 7) // 8))()
        c.keep += [given, stops]
        r = c.started(lib.pikv_lookup(
            self.h, ns, items, len(rows), given, cols, stops,
            c.options(deadline_ms=deadline_ms, **options), c.results_,
            C.byref(c.id))).wait()
        bits = [bool(stops[p // 8] >> p % 8 & 1) for p in range(len(rows))]
        return r, c.completion.prefix, bits

    def evict(self, ns, select, keys=(), label=0, deadline_ms=20000,
              **options):
        """How many blocks were dropped, or demoted."""
        which = {"keys": 0, "chain": 1, "label": 2, "scope": 3,
                 "namespace": 4, "pattern": 5}[select]
        c = Call(self, len(keys))
        items = (Key_ * max(len(keys), 1))(*[c.key(k) for k in keys])
        c.started(lib.pikv_evict(
            self.h, ns, which, items, len(keys), u64(label),
            c.options(deadline_ms=deadline_ms, **options), c.results_,
            C.byref(c.id))).wait()
        return c.completion.count

    def prefetch(self, ns, keys, cap_mib=0, deadline_ms=20000, **options):
        c = Call(self, len(keys))
        items = (Key_ * len(keys))(*[c.key(k) for k in keys])
        return c.started(lib.pikv_prefetch(
            self.h, ns, items, len(keys), cap_mib,
            c.options(deadline_ms=deadline_ms, **options), c.results_,
            C.byref(c.id))).wait()

    def explain(self, ns, key):
        c, out = Call(self, 1), Explanation()
        code = lib.pikv_explain(self.h, ns, C.byref(c.key(key)), None,
                                C.byref(out))
        if code:
            raise KvError(code)
        return out

    def release(self, ns, result):
        return NAME[lib.pikv_loan_release(self.h, ns, C.byref(result.raw))]

    def register_fd(self, fd, offset, n, address):
        return NAME[lib.pikv_mem_register_fd(self.h, fd, offset, n, address)]

    def memory(self, n):
        return Memory(self, n)

    def layout(self, address, runs, block_n, stride=0, table=None):
        """runs: (off, len, stride, n) each. The layout's id."""
        out = u32()
        given = Layout(addr=address, runs=(Run * len(runs))(
            *[Run(*r) for r in runs]), run_n=len(runs), block_stride=stride,
            block_n=block_n)
        if table is not None:
            given.table = (u64 * len(table))(*table)
        code = lib.pikv_layout_register(self.h, C.byref(given), C.byref(out))
        if code:
            raise KvError(code)
        return out.value

    def forget_layout(self, layout):
        return NAME[lib.pikv_layout_unregister(self.h, layout)]

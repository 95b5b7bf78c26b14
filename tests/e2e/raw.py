# SPDX-License-Identifier: Apache-2.0
"""The same-host transport spoken by hand, so that a test may break any rule.

Records are laid out from proto/records.tbl. A message is built with correct
lengths and checksum; fields given by name are then written over it:

    c = Raw(d.socket); c.hello()
    c.ask("put", [batch(ns=1, key_n=1), key(key_len=1, len=4)], b"k")
      -> Reply, or CLOSED when the daemon ended the connection
"""

import array
import ctypes as C
import mmap
import os
import re
import select
import socket
import struct
import time

from node import LIMIT_S, ROOT
from kv import NAME, crc32c

MAGIC, REQUEST, DEADLINE_US = 0x564b4950, 1, 20000000
WELCOME = struct.Struct("<IIIIQ")
PAGE, RECORD, SKIP = 4096, 64, 0xffffffff
CLOSED = "closed"


def _table(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def _records():
    code = {"uint8_t": "<B", "uint16_t": "<H", "uint32_t": "<I",
            "uint64_t": "<Q", "int32_t": "<i"}
    out = {}
    for m in re.finditer(r"^(FIELD|BYTES)\((\w+),\s*(\d+), *(\w+), *(\w+),",
                         _table("proto/records.tbl"), re.M):
        kind, record, off, a, b = m.groups()
        field, fmt = (b, code[a]) if kind == "FIELD" else (a, f"<{b}s")
        out.setdefault(record, {})[field] = (int(off), fmt)
    return out


RECORDS = _records()
OPS = {name: int(i) for i, name in re.findall(
    r"^OP\(\s*(\d+), *\w+, *(\w+),", _table("proto/ops.tbl"), re.M)}


def record(kind, /, **fields):
    out = bytearray(24 if kind == "seg" else RECORD)
    for name, value in fields.items():
        off, fmt = RECORDS[kind][name]
        struct.pack_into(fmt, out, off, value)
    return bytes(out)


def parse(kind, data, at=0):
    return {name: struct.unpack_from(fmt, data, at + off)[0]
            for name, (off, fmt) in RECORDS[kind].items()}


def batch(**f):
    return record("batch", **f)


def key(**f):
    return record("key", **f)


def seg(**f):
    return record("seg", **f)


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def pb(*fields):
    """A protobuf message of (number, int or bytes or str)."""
    out = b""
    for number, value in fields:
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def unpb(data):
    """Field number -> list of values."""
    out, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n

    while at < len(data):
        tag = number()
        value = number()
        if tag & 7 == 2:
            value, at = data[at:at + value], at + value
        out.setdefault(tag >> 3, []).append(value)
    return out


def frame(op, req, records=(), keys=b"", env=b"", over=None):
    """A whole message; over: fields of wire_frame that are written last. The
    checksum is right unless it is one of them."""
    body = b"".join(records) + keys + env
    f = {"magic": MAGIC, "version": 1, "kind": REQUEST,
         "op": OPS[op] if isinstance(op, str) else op, "req": req,
         "record_n": len(b"".join(records)) // RECORD, "keys_len": len(keys),
         "env_len": len(env), "deadline_us": DEADLINE_US, **(over or {})}
    head = record("frame", **f)
    if "crc" not in f:
        head = head[:60] + struct.pack("<I", crc32c(body, crc32c(head[:60])))
    return head + body


class Reply:
    def __init__(self, data, fds=()):
        self.frame = parse("frame", data)
        self.status = NAME[self.frame["status"]]
        at = RECORD + self.frame["record_n"] * RECORD
        self.results = [parse("result", data, RECORD + i * RECORD)
                        for i in range(1, self.frame["record_n"])]
        self.keys = data[at:at + self.frame["keys_len"]]
        at += self.frame["keys_len"]
        self.env = unpb(data[at:at + self.frame["env_len"]])
        self.fds = fds

    def __repr__(self):
        return self.status + "".join(
            " " + NAME[r["status"]] for r in self.results)


class Raw:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(path)
        data, fds = self._packet()
        _, _, self.ring_bytes, status, self.bytes = WELCOME.unpack(data)
        if status:
            raise ConnectionError(NAME[-status])
        self.ring_fd, self.req_fd, self.wake_fd = fds
        self.map = mmap.mmap(self.ring_fd, self.bytes)
        # struct ring_shared (ring.h): a line of header, then req and rep, each
        # a line for head, tail, asleep and full.
        self.ctl = {"req": 64, "rep": 320}
        self.at = {"req": PAGE, "rep": PAGE + self.ring_bytes}
        self.head = self.tail = 0
        self.req = 0
        self.granted = 0

    def word(self, ring, name, kind=C.c_uint64):
        """A shared word; its .value is loaded and stored whole."""
        off = {"head": 0, "tail": 64, "asleep": 128, "full": 192}[name]
        return kind.from_buffer(self.map, self.ctl[ring] + off)

    def _packet(self):
        data, control, _, _ = self.sock.recvmsg(65536, 256)
        fds = array.array("i")
        for _, kind, raw in control:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[:len(raw) // 4 * 4])
        return data, list(fds)

    def close(self):
        if self.map.closed:
            return
        self.map.close()
        for fd in (self.ring_fd, self.req_fd, self.wake_fd):
            os.close(fd)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- rings

    def write(self, message):
        """Puts a record into the request ring, not yet visible. False: it is
        full."""
        n = len(message) + 8
        n += -n % RECORD
        at = self.head % self.ring_bytes
        skip = self.ring_bytes - at if at + n > self.ring_bytes else 0
        if self.head + skip + n - self.word("req", "tail").value > \
                self.ring_bytes:
            return False
        if skip:
            struct.pack_into("<II", self.map, PAGE + at, SKIP, 0)
            at = 0
        struct.pack_into("<II", self.map, PAGE + at, len(message), 0)
        self.map[PAGE + at + 8:PAGE + at + 8 + len(message)] = message
        self.granted = self.head + skip + n
        return True

    def publish(self):
        self.head = self.granted
        self.word("req", "head").value = self.head

    def ring(self):
        """Wakes the daemon, asleep or not."""
        try:
            os.write(self.req_fd, struct.pack("=Q", 1))
        except BlockingIOError:
            pass

    def send(self, message):
        """False when the connection ended before there was room."""
        end = time.monotonic() + LIMIT_S
        while not self.write(message):
            if self.closed(0.001):
                return False
            if time.monotonic() > end:
                raise AssertionError("no room in the request ring")
        self.publish()
        self.ring()
        return True

    def pop(self):
        """The next reply's bytes, or None."""
        while self.word("rep", "head").value != self.tail:
            at = self.tail % self.ring_bytes
            start = self.at["rep"] + at
            n, = struct.unpack_from("<I", self.map, start)
            if n == SKIP:
                self.tail += self.ring_bytes - at
                continue
            data = bytes(self.map[start + 8:start + 8 + n])
            self.tail += n + 8 + -(n + 8) % RECORD
            self.word("rep", "tail").value = self.tail
            self.word("rep", "full", C.c_uint32).value = 0
            self.ring()
            return data
        return None

    def closed(self, wait_s=0.0):
        if not select.select([self.sock], [], [], wait_s)[0]:
            return False
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except ConnectionResetError:
            return True

    def receive(self, limit_s=LIMIT_S):
        """The next reply, CLOSED, or None when the limit passed."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            gone = self.closed()
            data = self.pop()
            if data:
                return Reply(data)
            if gone:
                return CLOSED
            if select.select([self.sock], [], [], 0.0005)[0] and \
                    not self.closed():
                return Reply(*self._packet())
        return None

    # ---- messages

    def build(self, op, /, records=(), keys=b"", env=b"", **over):
        self.req += 1
        return frame(op, over.pop("req", self.req), records, keys, env, over)

    def ask(self, op, /, records=(), keys=b"", env=b"", **over):
        if not self.send(self.build(op, records, keys, env, **over)):
            return CLOSED
        return self.receive()

    def hello(self, version=1):
        return self.ask("hello", env=pb((1, version), (3, "raw"),
                                        (10, os.getpid())))

    def open(self, name="e2e", fingerprint=(), create=True, settings=()):
        """Id and generation of a namespace."""
        r = self.ask("open", env=pb((1, name), (2, pb(*fingerprint)),
                                    (4, int(create)), (5, pb(*settings))))
        return r

    def packet(self, message, fds=()):
        """A message beside the rings, with descriptors."""
        socket.send_fds(self.sock, [message], list(fds))

    def register(self, fd, offset, length, writable=True, kind=0):
        self.packet(self.build("mem_register", env=pb(
            (1, kind), (2, offset), (3, length), (5, int(writable)))), [fd])
        return self.receive()

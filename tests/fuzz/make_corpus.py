#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_frame, fuzz_msg, fuzz_ring, fuzz_seg, fuzz_export,
fuzz_resp, fuzz_view, fuzz_cmd, fuzz_peer and fuzz_raft into corpus/.

The seeds are small and well-formed, so that the fuzzers start behind the first
checks. Run it again after a change of the wire; the output is the same each
time.
"""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


# ---- frame: struct wire_frame (magic and crc are set by the target) and body


def frame(kind, op, records=(), keys=b"", env=b"", data=b"", status=0,
          data_off=0, data_idx=0):
    head = struct.pack("<IBBHQIIIIQIiQII", 0, 1, kind, op, 7, len(records),
                       len(keys), len(env), 0, len(data),
                       1000 if kind == 1 else 0, status, data_off, data_idx, 0)
    return head + b"".join(records) + keys + env + data


def batch(key_n, cols=0, select=0):
    return struct.pack("<IIQQIIIIBBHIIIQ", 1, 0, 1, 0, 0, 0, 0, 0, 0, select,
                       cols, key_n, 0, 0, 0)


def key(key_len, length=0, route=0, flags=0, parent=0, segs=0, off=0, token=0):
    return struct.pack("<HBBHHHHI16sQQQQ", key_len, route, 0, 0, flags, parent,
                       segs, 0, b"", 0, off, length, token)


def seg(mem, off, length):
    return struct.pack("<IIQQ", mem, 0, off, length)


ATTR = struct.pack("<IIIIQIBBBBQQQQ", 1, 2, 3, 4, 5, 6, 7, 0, 1, 0, 8, 9, 10,
                   11)
COLUMN = struct.pack("<BBHI56s", 1, 0, 4, 0, b"")
RESULT = struct.pack("<iBBHQQQIIIIQQ", -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)

FRAMES = {
    "hello": frame(1, 1, env=b"\x08\x01\x1a\x04vllm"),
    "put": frame(1, 6, [batch(1), key(3, 64, segs=1)],
                 b"key" + seg(1, 0, 64)),
    "put_attr": frame(1, 6, [batch(2), key(1, 8, 1, 1, 1), ATTR, key(1, 8)],
                      b"krpK"),
    "put_inline": frame(1, 6, [batch(1), key(1, 4)], b"k", data=b"data"),
    "get_range": frame(1, 11, [batch(1), key(2, 32, off=16, segs=2)],
                       b"ab" + seg(1, 0, 16) + seg(2, 4096, 16)),
    "lookup": frame(1, 12, [batch(4, 2), COLUMN, COLUMN] + [key(1)] * 4,
                    b"abcd"),
    "evict_label": frame(1, 13, [batch(1, select=2), key(0, flags=1), ATTR]),
    "loan_release": frame(1, 31, [batch(1), key(1, token=5)], b"k"),
    "reply": frame(2, 11, [batch(2), RESULT, RESULT]),
    "data": frame(3, 6, data=b"0123456789", data_off=100, data_idx=3),
}


# ---- msg: one byte for the type, then the message


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def num(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


FINGERPRINT = b"".join(text(i, b"x%d" % i) for i in range(1, 8))
GROUP = num(1, 1) + text(2, b"attention") + num(3, 32) + text(6, b"bf16")
SETTINGS = text(1, b"s3fifo") + num(3, 1 << 30)
OPEN = (text(1, b"llama") + text(2, FINGERPRINT) + text(3, GROUP) +
        text(3, GROUP) + num(4, 1) + text(5, SETTINGS))
LANE = text(1, b"shm:/run/pikvd/0") + num(3, 1)

MSGS = {
    "hello": b"\x00" + num(1, 1) + num(2, 3) + text(3, b"vllm 0.9") +
             num(8, (1 << 64) - 1) + text(11, b"\0" * 16) + num(12, 99),
    "hello_reply": b"\x01" + num(1, 1) + text(3, b"pikvd") + text(6, LANE) * 2,
    "open": b"\x02" + OPEN,
    "open_reply": b"\x03" + num(1, 5) + num(2, 1) + text(4, GROUP),
    "namespace_reply": b"\x05" + text(1, text(1, b"n") + text(4, FINGERPRINT)),
    "mem_register": b"\x06" + num(1, 0) + num(3, 1 << 20) + num(5, 1),
    "layout": b"\x09" + num(1, 1) + text(2, num(1, 5) + num(4, 2)) +
              text(3, b"\x01\x02\x03"),
    "select_reply": b"\x13" + text(1, b"\x01\x02") + text(2, b"\0\0\x80\x3f"),
    "stat_reply": b"\x1a" + text(1, text(1, b"blocks") + num(2, 7)) * 3,
    "inspect_reply": b"\x1c" + text(1, text(1, b"key") + text(17, b"\x01\x02"))
                     + num(3, 8),
}


# ---- ring: (what, u16) triples, see fuzz_ring.c


def program(*steps):
    return b"".join(struct.pack("<BH", what, arg) for what, arg in steps)


POP, GRANT, HEAD, TAIL, POKE = range(5)
RINGS = {
    "there_and_back": program((GRANT, 100), (POP, 0), (POP, 0)),
    "wrap": program(*[(GRANT, 900), (POP, 0)] * 6),
    "full": program(*[(GRANT, 1000)] * 5, (POP, 0), (GRANT, 1000)),
    "head_lies": program((GRANT, 8), (HEAD, 0x2000), (POP, 0)),
    "tail_lies": program((GRANT, 8), (TAIL, 65), *[(GRANT, 2000)] * 3),
    "length_lies": program((GRANT, 8), (POKE + 5 * 8, 0), (POP, 0)),
}


# ---- seg: one byte for the kind of page, then the page (fuzz_seg.c sets magic,
# store and crc)


def group(kind, record_pages, *records):
    body = b"".join(records)
    pages = 1 + len(records) * record_pages
    return struct.pack("<BQQ16sIIIIHHHHII", 0, 0, 7, b"", 600, 3, pages,
                       record_pages, kind, len(records), 64 + len(body), 0, 0,
                       0) + body


def record(key, length, parent=b"", route=b"", scope=b"", attr=b""):
    tail = scope + attr + key + route + parent
    tail += b"\0" * (-len(tail) % 8)
    flags = (1 if scope else 0) | (2 if attr else 0)
    return struct.pack("<QQQQIIIIIIIHHHHBBBBI", 1, 2, 3, 4, 5, length, 6,
                       length, 6, 7, 8, 80 + len(tail), 0, len(key),
                       len(parent), 0, len(route), 0, flags, 0) + tail


def superblock(major=1, segments=8, flags=0):
    return struct.pack("<BQII16sQQQIIQQQIIQIIQ64sII", 1, 0, major, 0, b"u" * 16,
                       1, 10 << 20, 1 << 20, segments, flags, 9, 0, 0, 0, 0, 0,
                       0, 0, 0, b"pikvd 0.1.0", 0, 0)


TOMB = struct.pack("<QQQQII", 1, 2, 3, 4, 5, 0)
SEGS = {
    "records": group(1, 2, record(b"key", 8000, b"parent", b"route"),
                     record(b"k2", 8192)),
    "attr": group(1, 1, record(b"k", 1, scope=b"s" * 16, attr=ATTR)),
    "longest": group(1, 1, record(b"k" * 1024, 9, b"p" * 1024, b"r" * 32)),
    "full": group(1, 1, *[record(b"k", 4096)] * 32),
    "tombs": group(2, 0, TOMB, TOMB),
    "super": superblock(),
    "super_newer": superblock(major=2),
    "check": b"\x02" + struct.pack("<QQIHHII", 0, 7, 600, 2, 0, 0, 0) +
             b"\1" * 160,
    "head": b"\x03" + struct.pack("<Q16sQIIII", 0, b"", 7, 3, 1, 0, 0),
}

# ---- export: one byte of switches (1: checksums are set by the target), file


def block(data, key_, route=b"", parent=b"", scope=b"", **at):
    return struct.pack(
        "<4sIQIHHBBBBHH16sIIIIQ4Q", b"BLCK", 0, len(data), 0, len(key_),
        len(parent), len(route), at.get("cls", 0), 3, 1 if scope else 0,
        at.get("group", 0), 0, scope, 1, 2, 3, 4, 5, 6, 7, 8, 9
    ) + key_ + route + parent + data


def exported(json, *blocks, end=True, switches=1, version=1):
    head = struct.pack("<8sII12sI", b"PIKVBLKS", version, len(json), b"", 0)
    tail = b"TAIL" + bytes(100) if end else b""
    return bytes([switches]) + head + json + b"".join(blocks) + tail


SPACE = (b'{"server":"pikvd","namespace":"n","fingerprint":{"model":"m",'
         b'"dtype":"bf16"},"settings":{"policy":"lru","share":1,'
         b'"quota_bytes":9},"groups":[{"id":0,"kind":"mla","layers":2,'
         b'"block_bytes":64}]}')
EXPORTS = {
    "none": exported(SPACE),
    "one": exported(SPACE, block(b"bytes", b"k")),
    "pieces": exported(SPACE, block(b"b" * 100, b"k", b"r", b"p", b"s" * 16,
                                    cls=2, group=15), block(b"", b"empty"),
                       switches=3),
    "longest": exported(SPACE, block(b"x", b"k" * 1024, b"r" * 32,
                                     b"p" * 1024)),
    "cut": exported(SPACE, block(b"bytes", b"k"), end=False),
    "newer": exported(SPACE, version=2),
    "bad_type": exported(SPACE.replace(b'"m"', b"5")),
    "no_json": exported(b"{", switches=1),
    "not_fixed": exported(SPACE, block(b"bytes", b"k"), switches=0),
}

# ---- resp: how the bytes are cut (one byte), and the bytes


def resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


RESPS = {
    "ping": b"\x00" + resp(b"PING"),
    "set_get": b"\x06" + resp(b"SET", b"k", b"v") + resp(b"GET", b"k"),
    "value": b"\x10" + resp(b"SET", b"k", b"v" * 40, b"EX", b"10"),
    "values": b"\x3f" + resp(b"SET", b"k", b"\r\n" * 30) * 3,
    "inline": b"\x03get k\r\nset k \"a\\x41\\n\" 'b\\'c'\r\n\r\n",
    "mget": b"\x01" + resp(b"MGET", *[b"k%d" % i for i in range(20)]),
    "none": b"\x02*0\r\n*-1\r\n*1\n$1\nx\r\n",
    "bad": b"\x05*1\r\n$-1\r\n",
    "glob": b"\x00a*[b-d]?\\*abcx*",
}

# ---- view, cmd: fuzz_view.c and fuzz_cmd.c set magic numbers and crcs

NONE = 0xffff
SKIP, OWNERS, OWNERS_X, ROWS, ROWS_X = range(5)


def node(name, state=1, uuid=1, lanes=1, weight=1, incarnation=1):
    words = [name, b"zone", b"rack", b"10.0.0.1:7070", b"shm:/run/p",
             b"ucx:10.0.0.1:7071"]
    return struct.pack("<QQIIIHBB", uuid, 0, incarnation, weight, 0, lanes,
                       state, 0) + b"".join(bytes([len(w)]) + w for w in words)


def run(kind, n, *rows):
    return struct.pack("<H", kind << 13 | n - 1) + b"".join(rows)


def owners(*o):
    return struct.pack("<3H", *o, *[NONE] * (3 - len(o)))


def row(*o, source=NONE, to=NONE, heat=0):
    return owners(*o) + struct.pack("<HHBB", source, to, heat, 0)


def view(slots, nodes=(), flushes=(), node_n=None, flush_n=None, base=None):
    out = struct.pack("<IHHQIQQ", 0x56564b50, 1, base is not None, 0, 1, 9,
                      base or 0)
    out += struct.pack("<II", len(nodes) if node_n is None else node_n,
                       len(nodes))
    out += b"".join(struct.pack("<H", i) + n for i, n in nodes)
    out += struct.pack("<II", len(flushes) if flush_n is None else flush_n,
                       len(flushes))
    out += b"".join(struct.pack("<HQQ", i, 7, 1) for i in flushes)
    return out + slots


ALL = run(SKIP, 8192)
REST = ALL * 7
THREE = [(0, node(b"a")), (1, node(b"b", uuid=2)),
         (2, node(b"c", state=3, uuid=3))]
VIEWS = {
    "empty": b"\x00" + view(ALL * 8),
    "owned": b"\x00" + view(run(OWNERS_X, 8192, owners(0, 1, 2)) * 8, THREE),
    "runs": b"\x00" + view(
        run(OWNERS, 2, owners(0), owners(1, 2)) + run(ROWS, 1, row(0, to=1)) +
        run(ROWS_X, 89, row(2, 0, source=1, heat=3)) + run(SKIP, 8100) + REST,
        THREE, [0, 1]),
    "nothing_changed": b"\x01" + view(ALL * 8, node_n=4, flush_n=1, base=5),
    "slots": b"\x01" + view(
        run(SKIP, 3) + run(ROWS, 1, row(3, 0, to=2)) + run(SKIP, 8188) + REST,
        node_n=4, flush_n=1, base=5),
    "nodes": b"\x01" + view(
        ALL * 8, [(2, node(b"c", state=3)), (4, node(b"e", state=0))],
        [0, 1], 5, 2, 5),
    "removed": b"\x01" + view(
        run(OWNERS_X, 64, owners(0, 1)) + run(SKIP, 8128) + REST,
        [(3, node(b"d", state=4))], node_n=4, flush_n=1, base=5),
}


def command(kind, body, id=5):
    out = struct.pack("<BBHQ", 1, kind, 0, id) + body
    return struct.pack("<H", len(out)) + out


def places(*rows):
    return struct.pack("<I", len(rows)) + b"".join(
        struct.pack("<QHHBBH", *r) for r in rows)


def slot_rows(epoch, *rows):
    return struct.pack("<QI", epoch, len(rows)) + b"".join(
        struct.pack("<H", slot) + r for slot, r in rows)


def become(index, state, id):
    return command(2, struct.pack("<HIBB", index, 1, state, 0), id)


def state(applied, nodes, tenants=b"\0" * 4, seen=b"\0" * 4):
    v = view(ALL * 8, nodes) + b"\0" * 4
    return (struct.pack("<IHHQI", 0x53564b50, 1, 0, applied, 0) +
            struct.pack("<I", len(v)) + v + varint(65536) + varint(0) +
            b"\0" * 4 + tenants + b"\0" * 4 + seen)


JOIN = command(1, node(b"e", uuid=9), 10)
SLOTS = command(3, slot_rows(99, (0, row(1, 2, to=0)), (7, row(2))), 11)
EXPERTS = command(4, places((1, 2, 3, 0, 0, 1), (1, 2, 3, 1, 1, 2)), 12)
TENANT = command(5, struct.pack("<BQQ32sB", 0, 1, 2, b"", 3) + b"red", 13)
FLUSH = command(6, b"\x02kv", 14)
CMDS = {
    "each": b"\x01" + JOIN + SLOTS + EXPERTS + TENANT + FLUSH +
            command(7, struct.pack("<I", 0), 15) +
            command(8, struct.pack("<IBHHH", 0, 3, 0, 1, 2), 16) +
            command(9, struct.pack("<HB", 1, 1), 17),
    "life": b"\x04" + JOIN + become(4, 1, 20) + become(4, 2, 21) +
            become(4, 3, 22) + become(4, 4, 23) +
            command(1, node(b"e", uuid=8), 24),
    "removed": b"\x01" + EXPERTS + SLOTS + become(2, 3, 20) +
               become(2, 4, 21) + become(0, 3, 22) + become(0, 4, 23),
    "twice": b"\x00" + FLUSH + FLUSH + TENANT + TENANT,
    "refused": b"\x04" + command(3, slot_rows(99, (1, row(9))), 18) +
               command(4, places((1, 1, 1, 0, 0, 9)), 19) +
               command(1, node(b"a", uuid=9, incarnation=2), 25),
    "snapshot": b"\x02" + state(9, THREE),
    "snapshot_seen": b"\x02" + state(
        9, THREE, struct.pack("<IQQ32sB", 1, 1, 2, b"", 3) + b"red",
        struct.pack("<HHQQiB", 1, 1, 5, 6, -10, 4) + b"word"),
}

for name, data in FRAMES.items():
    write("frame", name, data)
for name, data in MSGS.items():
    write("msg", name, data)
for name, data in RINGS.items():
    write("ring", name, data)
for name, data in SEGS.items():
    write("seg", name, data)
for name, data in EXPORTS.items():
    write("export", name, data)
for name, data in RESPS.items():
    write("resp", name, data)
for name, data in VIEWS.items():
    write("view", name, data)
for name, data in CMDS.items():
    write("cmd", name, data)

# ---- peer: 0 and a stream of frames, or a kind and its message


def peer_frame(kind, message, flags=0):
    return struct.pack("<IHH", len(message) + 4, kind, flags) + message


PEER_HELLO = (num(1, 1) + num(3, 7) + num(4, 1) + text(5, b"node1") +
              num(6, 99) + num(7, 1) + text(8, b"z1") + num(10, 1024) +
              text(11, text(1, b"10.0.0.1:7441") + num(4, 4)) + num(13, 1))
PEER_LOAD = (num(1, 5) + num(5, 100) + text(7, num(1, 3) + num(2, 9)) * 2 +
             text(8, num(1, 1) + num(2, 2) + text(3, b"\x01\x80\x01")))
PEER_BEAT = (num(1, 1) + num(4, 1000) + text(5, PEER_LOAD) +
             text(6, b"\x01\x02\x80\x02") + num(7, 3))
PEER_RAFT = (num(1, 3) + num(2, 5) + num(3, 6) +
             text(10, num(1, 6) + num(2, 1) + text(3, b"cmd")) * 2)
PEERS = {
    "hello": b"\x01" + PEER_HELLO,
    "bye": b"\x02" + num(1, (1 << 64) - 19) + text(2, b"another cluster"),
    "beat": b"\x03" + PEER_BEAT,
    "beat_reply": b"\x04" + num(1, 1) + text(5, b"n1") + text(6, b"h:1"),
    "view_pull": b"\x05" + num(1, 9) + num(2, 1),
    "view_push": b"\x06" + num(1, 1) + num(2, 9) + text(4, b"view"),
    "propose": b"\x07" + num(1, 4) + text(2, b"command"),
    "proposed": b"\x08" + num(1, 4) + num(3, 5) + text(4, b"why"),
    "raft": b"\x09" + PEER_RAFT,
    "stream": b"\x00" + peer_frame(1, PEER_HELLO) + peer_frame(0, b"") +
              peer_frame(3, PEER_BEAT) + peer_frame(2, b""),
    "stream_flags": b"\x00" + peer_frame(1, PEER_HELLO, 1),
    "stream_long": b"\x00" + struct.pack("<IHH", 1 << 31, 1, 0),
}

for name, data in PEERS.items():
    write("peer", name, data)

# ---- raft: records of fuzz_raft.c


def raft_conf(*servers):
    out = struct.pack("<BQ", 1, len(servers))
    for server, address, role in servers:
        out += struct.pack("<Q", server) + address + bytes([0, role])
    return out + bytes(-len(out) % 8)


def raft(kind, sender=0, term=0, a=0, b=0, c=0, flags=0, entries=(), data=b"",
         ms=5):
    return (bytes([kind, sender, term, a, b, c, flags | len(entries) << 2]) +
            b"".join(bytes(e) for e in entries) + bytes([len(data)]) + data +
            bytes([ms]))


RAFT_THREE = raft_conf((101, b"a", 1), (102, b"b", 1), (103, b"c", 1))
RAFT_LEAD = (raft(6, ms=200) + raft(4, 0, 2, 1, flags=1, ms=1) +
             raft(4, 0, 2, 2, flags=1, ms=50))
RAFTS = {
    "follow": raft(1, 0, 5, 1, 1, 1, entries=[(5, 1, 16), (5, 1, 24)]) +
              raft(1, 0, 5, 3, 5, 3) +
              raft(1, 1, 7, 2, 5, 2, entries=[(7, 1, 16)]),
    "lead": RAFT_LEAD + raft(2, 0, 2, 0, 2, ms=10) +
            raft(2, 1, 2, 0, 3, ms=10) + raft(2, 0, 3, 1, ms=10),
    "install": raft(5, 0, 7, 10, 6, 1, data=RAFT_THREE, ms=20) +
               raft(1, 0, 7, 10, 6, 12, entries=[(7, 1, 16), (7, 2, 8)]) +
               raft(1, 0, 7, 8, 6, 12, entries=[(6, 1, 8)] * 5),
    "change": raft(1, 0, 5, 1, 1, 1, entries=[(5, 3, 0)],
                   data=raft_conf((101, b"a", 1), (102, b"b", 2)), ms=20) +
              raft(1, 1, 6, 1, 1, 2, entries=[(6, 1, 16)], ms=20),
    "vote": raft(3, 0, 3, 1, 1, flags=2) + raft(3, 0, 3, 1, 1, flags=1) +
            raft(6, 0, 3, 1, 1, ms=20),
    "compact": b"".join(
        raft(1, 0, 5, 1 + 2 * i, 5 if i else 1, 1 + 2 * i,
             entries=[(5, 1, 16)] * 2, ms=10) for i in range(8)) +
               raft(1, 0, 5, entries=[(5, 1, 8)] * 3),
    "raw": b"\x00\x06" + num(1, 1) + num(2, 102) + num(3, 5),
}

for name, data in RAFTS.items():
    write("raft", name, data)

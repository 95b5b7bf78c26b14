/* SPDX-License-Identifier: Apache-2.0
 *
 * docs/PROTOCOL.md: the records from records.tbl, layouts of shared memory and
 * numbers from the structs that the code uses, prose between them. An offset or
 * a limit in the document is never typed by hand. */
#include <inttypes.h>

#include "proto/wire.h"
#include "rpc/ring.h"
#include "rpc/shm_wire.h"
#include "rpc/transport.h"
#include "server/explain.h"

static const char intro[] =
    "<!-- Made by `pikvd --explain protocol` from proto/records.tbl and\n"
    "daemon/server/explain_protocol.c: change those. -->\n"
    "# The wire, version 1\n\n"
    "Everything is little-endian. A number called *len* counts bytes, one "
    "called *n* counts items. Times on the wire are remaining times, never "
    "clock readings: peers need not agree on the time.\n\n"
    "Envelopes (`MSG` operations) are messages of `proto/pikv.proto`, whose "
    "comments are their reference. Operations: `docs/reference/ops.md`. "
    "Status codes: `docs/reference/errors.md`.\n";

static const char framing[] =
    "\n## A message\n\n"
    "    frame | records | keys | envelope | data\n\n"
    "| part | what | bytes |\n|---|---|---|\n"
    "| frame | one wire_frame | 64 |\n"
    "| records | `BATCH` operations: wire_batch, then wire_column times cols "
    "(LOOKUP), then per key a wire_key, followed by a wire_attr if its "
    "KEY_HAS_ATTR is set. Their replies: wire_batch, then one wire_result per "
    "key | 64 x record_n |\n"
    "| keys | packed, per wire_key in order: key bytes, route bytes, the "
    "parent's key bytes, seg_n x wire_seg. LOOKUP replies: the stop bitmap, "
    "one "
    "bit per position, least significant bit first | keys_len |\n"
    "| envelope | a message of pikv.proto, or nothing | env_len |\n"
    "| data | inline bytes of blocks, packed in key order (UCX, small batches) "
    "| data_len |\n\n"
    "A reader checks in this order and allocates nothing before the last step: "
    "magic, version, kind and op; each length against its limit; the sum "
    "against the bytes at hand; the crc. Then the records one by one: counts "
    "against the frame, lengths against the keys section, ranges without "
    "overflow; all sections must be used up exactly. With the magic and the "
    "crc "
    "right an error is answered with a typed status; without them nobody can "
    "say whose request it was, and the connection is closed.\n\n"
    "Kinds: 1 request, 2 reply, 3 data (bytes of one key, UCX only), 4 event "
    "(parts of a GET). A reply carries the request's req and op. Replies come "
    "in "
    "any "
    "order. A request's deadline_us is never 0; the client puts the "
    "operation's "
    "default there when its caller gave none. When it has passed the daemon "
    "answers TIMEOUT (or PARTIAL results) and touches none of the client's "
    "memory any more.\n";

static const char hello[] =
    "\n## HELLO, features, versions\n\n"
    "The first request of every connection is HELLO; until it is answered, "
    "others get BAD_REQUEST, and a connection that says nothing for "
    "`limits.handshake` is closed. The reply gives\n\n"
    "- credits: requests, block bytes and rendezvous the client may have in "
    "flight on this connection. Beyond them the answer is BUSY; a client that "
    "goes on far beyond is cut;\n"
    "- limits: keys of a batch, bytes of a message, bytes of a block;\n"
    "- all lanes with their addresses (`shm:PATH`, `ucx:HOST:PORT`). A client "
    "connects to each lane it talks to and splits batches: the lane of a key "
    "is slot mod lanes, slot = XXH3_64(route, seed = slot_seed of OPEN) mod "
    "65536, and the route of a key without one is the key;\n"
    "- boot, a random id of this run of the daemon: another one means that "
    "memory registrations, pins and loans are gone.\n\n"
    "A version says how to read frames; features say what may be used. Rules, "
    "so that a client and a daemon one version apart understand each other:\n\n"
    "1. A peer with another frame version is answered BAD_VERSION in a version "
    "1 frame and may say HELLO again in a version that both speak.\n"
    "2. HELLO carries the client's feature bits, the reply those that both "
    "know. A peer uses what is behind a bit only when the bit came back. "
    "Bits: 0x1 parts, 0x2 layouts.\n"
    "3. Reserved bytes are written 0 and not looked at, unknown envelope "
    "fields "
    "are skipped, absent ones read as 0: a later version may use them behind a "
    "bit.\n"
    "4. Ids of operations and codes of errors are never used again. An unknown "
    "operation is answered UNSUPPORTED; an unknown code counts as *give up*.\n";

static const char put_get[] =
    "\n## PUT and GET\n\n"
    "**PUT**: frame, wire_batch, per key a wire_key (len = the block's length; "
    "crc with KEY_CRC) and maybe a wire_attr. For each key the daemon looks "
    "first: a stored key is EXISTS, one that somebody is storing is PENDING, "
    "and of those no byte moves. For the others it reserves fresh memory, "
    "receives the bytes there, checks length and crc, and only then makes the "
    "block visible, all at once. The reply has one wire_result per key.\n\n"
    "**GET**: per key off and len name the range, version pins one version (0 "
    "any). A block shorter than the buffer is fine: the result's len is always "
    "the stored length, moved the bytes delivered, crc that of the whole block "
    "as stored. With soft_us set, keys that are not ready by then come back as "
    "PARTIAL and the rest is delivered.\n\n"
    "**LOOKUP**: positions x cols keys, row by row. The reply has the state of "
    "each cell, the longest restorable prefix, and the bitmap of all positions "
    "at which a client could stop; each column's wire_column says what its "
    "member must have (all positions, only the last n before the stop, or "
    "nothing). With pin_ttl_ms the hits are pinned.\n\n"
    "**Parts** (feature 0x1): a GET with BATCH_PARTS gets messages of kind 4 "
    "before its reply. Each has the results of record_n keys from data_idx on "
    "as its records: these and all before them have ended and their bytes were "
    "sent. They come in the order of the batch, each key once; those that no "
    "event told are told by the reply, which has all results.\n\n"
    "**Layouts** (feature 0x2, shm): LAYOUT registers where blocks lie in a "
    "registered memory. In a PUT, PUT_WRITE or GET with wire_batch.layout each "
    "key's only segment is {mem 0, off = block number, len = bytes}; the "
    "key's off and len are of the block's pieces in order. Ids end with the "
    "connection.\n\n"
    "**Retry**: who acts is a property of the code. After RETRY-class codes "
    "the same request may be sent again with a new req; blocks are immutable, "
    "so a PUT that was done after all answers EXISTS.\n";

static const char shm_intro[] =
    "\n## shm: the same host\n\n"
    "A SOCK_SEQPACKET unix socket (lane 0 at `listen.shm.path`, lane i with "
    "`.i` behind it); the kernel says who connected. The daemon sends a "
    "welcome "
    "with three descriptors: the ring memory (a memfd sealed against "
    "resizing), "
    "the request wake-up (an eventfd that the client rings) and the reply "
    "wake-up (the reading end of a pipe that the daemon rings). Then "
    "everything "
    "goes through two rings, but for messages that carry a descriptor "
    "(MEM_REGISTER requests, LOAN_ATTACH replies): each is one packet on the "
    "socket with that descriptor. Closing the socket ends the connection; the "
    "kernel does it for a process that dies.\n\n"
    "The ring memory: one control struct, padded to a page, then the request "
    "ring, then the reply ring, ring_bytes each.\n";

static const char shm_rules[] =
    "\nA record is a 32-bit length, 32 bits of 0 and the message, padded to a "
    "multiple of the alignment. It never wraps: a length of -1 sends the "
    "reader "
    "to the start. head and tail count all bytes ever written and read; the "
    "producer publishes head with release, the consumer tail.\n\n"
    "- A reader copies a record out before it looks at it and keeps its own "
    "copy of its index: the other side may write anything there at any time. A "
    "ring that lies ends the connection.\n"
    "- Before it sleeps a reader sets asleep and looks again; the writer rings "
    "only when it swaps asleep from 1 to 0. A writer without room sets full, "
    "looks again and waits; the reader rings it after it took records.\n"
    "- cancel: the client stores the id of a request it has given up at "
    "cancel[id mod the array's length]; the daemon looks before every piece "
    "it copies and before it commits.\n"
    "- loan_epoch: see loans.\n\n"
    "**Bytes** never travel. The client registers memory once (MEM_REGISTER "
    "with a descriptor: memfd or file, offset, length; an unsealed file is "
    "read "
    "and written through the descriptor, so that its owner cannot fault the "
    "daemon by truncating it). A wire_key's seg_n wire_seg records say where "
    "in "
    "registered memory its bytes are, and the daemon copies.\n\n"
    "**Loans**: LOAN_ATTACH answers with a descriptor that can only be read, "
    "of "
    "the memory that holds this namespace's blocks. A GET with KEY_LOAN moves "
    "nothing and answers loan_off and a loan id. The bytes count only if "
    "LOAN_RELEASE, after they were used, answers OK: STALE says that the loan "
    "had ended before.\n";

static const char ucx_intro[] =
    "\n## ucx: other hosts\n\n"
    "Active messages only, on endpoints made through the listener (lane i at "
    "`listen.ucx.port` + i). The header of each is one wire_frame; the payload "
    "is records, keys, envelope and inline data. Id 1 goes from client to "
    "daemon, id 2 back. Requests and replies are sent eagerly "
    "(UCP_AM_SEND_FLAG_EAGER), and all messages with UCP_AM_SEND_FLAG_REPLY: "
    "without it the daemon cannot tell who sent it and drops it.\n\n"
    "**PUT**, all blocks together within the inline limit: the bytes are "
    "inline "
    "data of the request. Else the client sends, after the request and in key "
    "order, one message of kind 3 per key that has bytes, whose frame has the "
    "request's req, data_idx = the key's index and data_off 0. Which keys were "
    "not wanted (EXISTS, PENDING, ...) the reply says; their bytes are dropped "
    "unread.\n\n"
    "**GET** within the inline limit: inline data of the reply, in key order. "
    "Else messages of kind 3, all sent before the reply, by size:\n\n"
    "| bytes of the key | form |\n|---|---|\n";

static const char ucx_rules[] =
    "\nA block in several extents comes run by run: any message of kind 3 may "
    "have a data_off other than 0, a rendezvous too. The client counts bytes "
    "per key against the result's moved.\n\n"
    "**Deadlines**: pieces that come after the client's deadline are dropped "
    "by "
    "req. A rendezvous still in flight costs the endpoint: it is closed by "
    "force, then nothing writes the buffer any more, and the endpoint's other "
    "requests end with RETRY. The daemon does the same with a client that dies "
    "or stops.\n\n"
    "Nothing here authenticates or encrypts, and a reachable UCX tcp port "
    "equals control of the process: bind it to networks where everybody is "
    "trusted.\n";

static void field(struct textbuf *out, unsigned off, const char *type,
                  const char *name, const char *doc)
{
    textbuf_add(out, "| %u | %s | %s | ", off, type, name);
    explain_cell(out, doc);
    textbuf_add(out, "%s", " |\n");
}

static void records(struct textbuf *out)
{
    textbuf_add(out, "%s", "\n## Records\n");
#define RECORD(rec, bytes, doc)                                                \
    textbuf_add(out, "\n### wire_%s, %d bytes: %s\n\n", #rec, bytes, doc);     \
    textbuf_add(out, "%s",                                                     \
                "| offset | type | name | meaning |\n|---|---|---|---|\n");
#define FIELD(rec, off, type, name, doc) field(out, off, #type, #name, doc);
#define BYTES(rec, off, name, n, doc)                                          \
    field(out, off, "uint8_t[" #n "]", #name, doc);
#define END(rec)
#include "proto/records.tbl"
    textbuf_add(
        out,
        "\nFlags. frame.flags: 0x%x SPINS. batch.flags: 0x%x PROMOTE, 0x%x "
        "PARTS, 0x%x DEMOTE. key.flags: 0x%x HAS_ATTR, 0x%x CRC, 0x%x LOAN. "
        "result.flags: 0x%x LOSSY, 0x%x PINNED, 0x%x LOAN.\n",
        FRAME_SPINS, BATCH_PROMOTE, BATCH_PARTS, BATCH_DEMOTE, KEY_HAS_ATTR,
        KEY_CRC, KEY_LOAN, RESULT_LOSSY, RESULT_PINNED, RESULT_LOAN);
}

static void limits(struct textbuf *out)
{
    textbuf_add(out,
                "\n## Fixed limits\n\n"
                "| what | limit |\n|---|---|\n"
                "| bytes of a key | 1 to %d |\n"
                "| bytes of a route | up to %d |\n"
                "| slots | %d |\n"
                "| bytes of a block | up to %d |\n"
                "| bytes of a UCX header | %d |\n"
                "| bytes of a packet on the shm socket | %d |\n\n"
                "The others are the daemon's to set (`limits.*` of "
                "docs/reference/config.md) and told at HELLO.\n",
                WIRE_KEY_MAX, WIRE_ROUTE_MAX, WIRE_SLOTS, 1 << 30,
                WIRE_HEADER_MAX, SHM_PACKET_MAX);
}

/* One row per member that the other side may look at. */
#define MEMBER(type, name, doc)                                                \
    field(out, (unsigned)offsetof(struct type, name), "", #name, doc)

static void shm_layout(struct textbuf *out)
{
    textbuf_add(out, "\nThe welcome, %zu bytes, magic 0x%x:\n\n",
                sizeof(struct shm_welcome), SHM_WELCOME_MAGIC);
    textbuf_add(out, "%s",
                "| offset | | name | meaning |\n|---|---|---|---|\n");
    MEMBER(shm_welcome, magic, "4 bytes");
    MEMBER(shm_welcome, version, "4 bytes; 1");
    MEMBER(shm_welcome, ring_bytes, "4 bytes; of each ring, a power of two");
    MEMBER(shm_welcome, status,
           "4 bytes; 0, or a code without its sign: then "
           "no descriptors come");
    MEMBER(shm_welcome, map_bytes, "8 bytes; of the memory to map");
    textbuf_add(out, "\nThe control struct, %zu bytes, magic 0x%x:\n\n",
                sizeof(struct ring_shared), RING_SHARED_MAGIC);
    textbuf_add(out, "%s",
                "| offset | | name | meaning |\n|---|---|---|---|\n");
    MEMBER(ring_shared, magic, "4 bytes");
    MEMBER(ring_shared, version, "4 bytes; 1");
    MEMBER(ring_shared, ring_bytes, "4 bytes");
    MEMBER(ring_shared, req.head, "8 bytes; written by the client");
    MEMBER(ring_shared, req.tail, "8 bytes; written by the daemon");
    MEMBER(ring_shared, req.asleep, "4 bytes; the daemon sleeps");
    MEMBER(ring_shared, req.full, "4 bytes; the client waits for room");
    MEMBER(ring_shared, rep.head, "8 bytes; written by the daemon");
    MEMBER(ring_shared, rep.tail, "8 bytes; written by the client");
    MEMBER(ring_shared, rep.asleep, "4 bytes; the client sleeps");
    MEMBER(ring_shared, rep.full, "4 bytes; the daemon waits for room");
    MEMBER(ring_shared, loan_epoch, "8 bytes; written by the daemon");
    MEMBER(ring_shared, cancel, "8 bytes each; written by the client");
    textbuf_add(out,
                "\ncancel has %d words. Records are aligned to %d bytes; the "
                "longest message is half a ring less one record header.\n",
                RING_CANCELS, RING_ALIGN);
}

static void ucx_sizes(struct textbuf *out)
{
    textbuf_add(out,
                "| up to %d KiB | one eager message |\n"
                "| up to %d KiB | eager pieces of %d KiB with data_off |\n"
                "| above | rendezvous into the client's buffer |\n",
                WIRE_EAGER_MAX >> 10, TP_RNDV_MIN >> 10, TP_PIECE_BYTES >> 10);
}

void explain_protocol(struct textbuf *out)
{
    textbuf_add(out, "%s", intro);
    textbuf_add(out, "%s", framing);
    records(out);
    limits(out);
    textbuf_add(out, "%s", hello);
    textbuf_add(out, "%s", put_get);
    textbuf_add(out, "%s", shm_intro);
    shm_layout(out);
    textbuf_add(out, "%s", shm_rules);
    textbuf_add(out, "%s", ucx_intro);
    ucx_sizes(out);
    textbuf_add(out, "%s", ucx_rules);
}

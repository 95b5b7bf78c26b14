/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of proto/peer.proto, with limits. protobuf-c has none of its own: a
 * few bytes may ask it for megabytes. So a message is walked first (peer_msg.c)
 * and refused unless
 *
 *   it is no longer than its kind may be (peer_msg_max);
 *   no text is longer than where it goes, and none has a NUL within;
 *   no list has more rows than its limit; messages nest at most three deep;
 *   no field that is not a list comes twice; at most 32 unknown fields, which
 *   a newer peer may send, and which are ignored;
 *
 * and what then is unpacked lives in at most PEER_MSG_MEMORY bytes. The other
 * way round the same limits hold, so nobody sends what a peer would refuse.
 *
 *   Peer__Beat *b = peer_msg_unpack(PEER_BEAT, p, n);
 *   if (!b) ...refuse...
 *   peer_msg_free(b);
 *
 * Meanings are not looked at: an index may be beyond the view, a byte string
 * may be nonsense. Any thread; keeps no state. */
#ifndef CLUSTER_PEER_MSG_H
#define CLUSTER_PEER_MSG_H

#include "cluster/bytes.h"
#include "cluster/cluster.h" /* enum peer_kind */
#include "peer.pb-c.h"

enum {
    PEER_MSG_MEMORY = 12 << 20,
    PEER_MSG_BYTES = 4 << 20, /* the longest of all kinds: peer_link's frame */
};

/* The longest message of a kind in bytes; 0: no such kind. */
size_t peer_msg_max(uint16_t kind);
/* The message as its Peer__X, to be given back to peer_msg_free; NULL: it is
 * malformed, beyond a limit, of no known kind, or there is no memory. */
void *peer_msg_unpack(uint16_t kind, const uint8_t *p, size_t n);
void peer_msg_free(void *msg); /* NULL ok */
/* Appends the packed message (a Peer__X of that kind). LIMIT: a peer would
 * refuse it; NO_MEMORY; out is then as it was, or bad. */
must_check enum err peer_msg_pack(uint16_t kind, const void *msg,
                                  struct bytes *out);

/* The limits of lists, which senders keep to. */
enum {
    PEER_MOVED_MAX = 4096,         /* Beat.moved_in */
    PEER_UNREACHABLE_MAX = 4096,   /* Beat.unreachable */
    PEER_LOAD_SLOTS_MAX = 64,      /* Load.slots */
    PEER_LOAD_EXPERTS_MAX = 256,   /* Load.experts: (model, layer)s */
    PEER_EXPERT_COUNTS_MAX = 1024, /* ExpertCount.counts */
    PEER_RAFT_ENTRIES_MAX = 4096,  /* Raft.entries */
};

#endif

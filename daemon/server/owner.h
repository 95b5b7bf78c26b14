/* SPDX-License-Identifier: Apache-2.0
 *
 * What a key means to this node, by the view that its lane has. Looked at only
 * where a block is not here or is about to be made: blocks are immutable, so
 * one that is here is served whoever owns its slot, and a hit costs nothing.
 *
 *     no view (a single node), BATCH_HERE,
 *     or the client knows a newer view   ---> as if this were the only node
 *     PUT    this node may have it       ---> OK
 *            another                     ---> WRONG_NODE, result.owner
 *     miss   this node serves the slot   ---> a miss
 *               slot.from answers        ---> PULL: it may be there (puller.h)
 *            another                     ---> WRONG_NODE, result.owner
 *            nobody                      ---> a miss
 *
 * A client with a newer view asks here because of it: sending it back would let
 * it go round in circles until this node has that view too.
 *
 * EVICT is served everywhere, and so is what goes by a token or an id. Pure;
 * the lane's thread. */
#ifndef SERVER_OWNER_H
#define SERVER_OWNER_H

#include "server/op.h"

enum owner_miss { OWNER_MISS, OWNER_ELSEWHERE, OWNER_PULL };

struct owner_at {
    uint32_t slot;
    uint16_t node; /* ELSEWHERE: to ask; PULL: has it maybe; MISS: NODE_NONE */
};

uint32_t owner_slot(const struct registry_ns *ns, const struct store_key *k);
/* head: of a batch whose namespace was found (walk_begin); k: one of its keys.
 */
enum owner_miss owner_of_miss(const struct lane *l,
                              const struct wire_batch *head,
                              const struct store_key *k, struct owner_at *at);
/* May a block of this key be made here? WRONG_NODE fills r->owner. */
must_check enum err owner_of_put(struct op *op, const struct wire_batch *head,
                                 const struct store_key *k,
                                 struct wire_result *r);
/* The answer for a key that is not here: WRONG_NODE with r->owner, or what
 * miss_of says. PULL is a miss here: who can pull asks owner_of_miss first. */
must_check enum err owner_missed(struct op *op, const struct wire_batch *head,
                                 const struct store_key *k,
                                 enum store_found why, struct wire_result *r);
/* The status of a key that walk_next refused: one of another lane is this
 * node's. */
enum err owner_lane(const struct op *op, struct wire_result *r, enum err e);

#endif

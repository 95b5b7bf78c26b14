/* SPDX-License-Identifier: Apache-2.0
 *
 * Which slots are hot: for the cluster's balancer. A lane counts one batch in
 * HEAT_EVERY (on average; the distance varies, so that requests that alternate
 * are met alike) with all of its keys:
 *
 *     lane     ops[slot / lanes], kib[slot / lanes] += one sampled batch
 *     control  reads them all now and then, works with what they grew by
 *
 * A lane has the slots that are its index modulo the lanes, so the arrays of
 * all lanes are 512 KiB together, of which only touched pages exist. Counters
 * are single words with one writer; they wrap. Other batches cost a decrement.
 *
 * Without a cluster nothing is counted: zeros are a heat that is off. */
#ifndef SERVER_HEAT_H
#define SERVER_HEAT_H

#include "base/err.h"
#include "proto/wire.h"

enum { HEAT_EVERY = 16 };

struct heat {
    uint32_t *ops, *kib; /* [n], atomic; NULL: off */
    uint32_t n, idx, lanes;
    uint32_t skip; /* batches until the next that counts */
    uint64_t seed;
};

must_check enum err heat_init(struct heat *h, uint32_t idx, uint32_t lanes);
void heat_fini(struct heat *h);

/* Is this batch one to be counted? */
static inline bool heat_due(struct heat *h)
{
    return h->ops && h->skip-- == 0;
}
/* Draws when the next one is. */
void heat_again(struct heat *h);
/* A key of a batch that counts. */
void heat_add(struct heat *h, uint32_t slot, uint64_t bytes);

/* Control's side: what the lanes' counters grew by since the last look, as
 * figures a second, decayed; the hottest first. */
struct heat_slot {
    uint32_t slot;
    uint64_t ops, bytes; /* a second */
};
struct heat_sum {
    uint32_t *seen_ops, *seen_kib; /* [WIRE_SLOTS]: counters at the last look */
    uint32_t *ops, *kib;           /* [WIRE_SLOTS]: decayed, a second */
};

must_check enum err heat_sum_init(struct heat_sum *s);
void heat_sum_fini(struct heat_sum *s);
/* Takes one lane's counters in; ms: since its last look. */
void heat_sum_add(struct heat_sum *s, const struct heat *h, uint32_t ms);
/* Fills out with up to max slots; returns how many. */
uint32_t heat_sum_top(const struct heat_sum *s, struct heat_slot *out,
                      uint32_t max);

#endif

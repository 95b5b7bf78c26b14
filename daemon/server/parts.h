/* SPDX-License-Identifier: Apache-2.0
 *
 * Part completions of a GET (BATCH_PARTS): the client is told of its keys in
 * the order of the batch, each as soon as it and all before it have ended.
 *
 *     keys that ended, in order:  1 1 1 0 1 0 ...
 *                                 ^told    ^ not before the fourth
 *     EVENT frame: data_idx = the first one told by it, their results as
 * records
 *
 * One event of an op is out at a time, and it lies in the op: what ends
 * meanwhile is told by the next one, so a client that does not read costs no
 * memory. What the last event has not told the reply tells. An op must not
 * reply while parts_out(). Thread: the lane. */
#ifndef SERVER_PARTS_H
#define SERVER_PARTS_H

#include "server/op.h"

struct parts {
    struct op *op;
    const struct op_results *r;
    bool *live; /* by place in the batch: it has not ended */
    uint32_t n, told;
    bool out; /* send is the transport's */
    struct tp_send send;
};

/* For n keys, in the op's arena. */
struct parts *parts_new(struct op *op, const struct op_results *r, uint32_t n);
/* Sends an event if there is something to tell. The op's tick is called when
 * it has left. */
void parts_tell(struct parts *p);

static inline bool parts_out(const struct parts *p)
{
    return p && p->out;
}

/* All keys count as ended until they are said to be live. */
static inline void parts_set(struct parts *p, uint32_t idx, bool live)
{
    if (p)
        p->live[idx] = live;
}

#endif

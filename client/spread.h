/* SPDX-License-Identifier: Apache-2.0
 *
 * A call over many nodes: which part of it goes where, and again where it must
 * go again. Used only where there is a view; the items are copied then, because
 * they may be sent after the submit has returned.
 *
 *     an item:  ROUTED --its line is not there yet--> WAITS --stir--> ROUTED
 *                 |
 *                 v
 *               SENT --answer--> done
 *                 |--WRONG_NODE, the first--> WAITS for the view --> ROUTED
 *                 |--no answer (not the deadline), the first time-->
 *                 |             ROUTED to the next owner that answers
 *                 |--MISS of a replica, the first--> ROUTED to the home
 *                 |--MISS of a home that has just come--> ROUTED to the next
 *                 +--anything else: the item's answer
 *
 * A leg is what is to be sent and is not: an item to who serves it, a copy of
 * it to one more owner (replicas), to one who may hold it (drops), or all items
 * to one line (selections). Legs that can go are cut into parts like any
 * request's (build.c); the others wait in kv->waiting until something stirs.
 *
 * Invariants
 *  1. Each of these ways back is gone at most once per item, and none after
 *     the deadline: so a call ends.
 *  2. While a leg waits the call is kept open by one count (spread->held).
 *  3. Nothing is sent again from inside a reply or the end of a connection: the
 *     call goes to kv->rerouted, and spread_run sends (progress.c, data.c).
 *  4. Answers of copies and of holders never go to the caller's results but to
 *     the part's own, and are counted together when the call ends.
 * With kv->mu. */
#ifndef CLIENT_SPREAD_H
#define CLIENT_SPREAD_H

#include "client/call.h"
#include "client/nodes.h"

enum leg_kind { LEG_ITEM, LEG_COPY, LEG_HOLDER, LEG_LINE, LEG_HEDGE };

struct leg {
    uint8_t kind;
    uint16_t node; /* but of LEG_ITEM, which is routed */
    uint32_t item; /* LEG_LINE: the lane */
};

/* Where an item was and is. */
struct trip {
    uint32_t slot;
    uint16_t node; /* asked last */
    uint16_t to;   /* to be asked; NO_NODE: whom the view says */
    uint16_t hint; /* by WRONG_NODE */
    bool redirected, failed_over, home_asked, waits_view;
    bool hot; /* it went to one of those that have it because it is hot */
    uint32_t fetches;           /* of the view, when it began to wait */
    int status;                 /* why the first one did not answer */
    uint8_t copies, good, late; /* copies and holders: all, OK, not reached */
    int worst;
};

struct spread {
    struct list node; /* kv->rerouted or kv->waiting */
    struct call *c;
    struct request r; /* items and what they point to: in bytes */
    struct pikv_call call;
    uint8_t *bytes;
    size_t bytes_cap;
    struct trip *trips;
    struct leg *legs;
    uint32_t trips_cap, legs_cap, leg_n;
    bool held;
    uint32_t reached, missed; /* selections: lines */
    int missed_why;
};

/* spread_copy.c: r is a copy from here on. */
int spread_begin(struct request **r, struct call *c);
void spread_end(struct call *c); /* the call is given back */
void spread_free(struct spread *s);

/* spread.c: all that can go becomes planned parts. */
int spread_plan(struct pikv *kv, struct call *c);
/* The call has begun: what could not go waits. */
void spread_started(struct pikv *kv, struct call *c);
void spread_run(struct pikv *kv);
/* At the deadline: nobody is waited for any more. */
void spread_expire(struct pikv *kv, struct call *c);
bool spread_push(struct spread *s, struct leg leg);
void spread_again(struct pikv *kv, struct call *c);

/* spread_end.c: the answers. Status of the call for a part that ended; OK if
 * its items go elsewhere. */
int spread_part_left(struct pikv *kv, struct part *p, int status);
void spread_leg_failed(struct pikv *kv, struct call *c, const struct leg *leg,
                       int why);
/* WRONG_NODE names who to ask. */
void spread_told(struct call *c, uint32_t item, uint32_t owner);
/* May the caller hear of item's result, or will it be asked for again? */
bool spread_tells(const struct pikv *kv, const struct call *c, uint32_t item);
/* The last answer has come. */
void spread_finish(struct call *c);

/* Reads that a replica may answer. */
static inline bool spread_reads(const struct request *r)
{
    return r->op == OP_GET ||
           (r->op == OP_LOOKUP && !(r->call && r->call->pin_ttl_ms));
}

#endif

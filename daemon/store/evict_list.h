/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists of blocks by id for the list policies, over node.prev and node.next.
 * A new list member goes to the newest end; victims come from the oldest.
 *
 *      newest <-> ... <-> ... <-> oldest        parked (in struct evict)
 *         ^                          |             ^      |
 *         +---- hit, chance left ----+-- HELD -----+      |
 *         ^                          ^                    |
 *         +------ release(warm) -----+---- release(cold) -+
 *
 * The functions below the line know the held states of evict.h: a HELD block
 * is in its list, a PARKED one in evict.parked instead, and node.queue names
 * its list in both cases. */
#ifndef STORE_EVICT_LIST_H
#define STORE_EVICT_LIST_H

#include "store/evict.h"

static inline void evict_list_init(struct evict_list *l)
{
    l->newest = l->oldest = EVICT_NONE;
}

/* Plain links; push is at the newest end, push_oldest at the other. */
void evict_list_push(struct evict *e, struct evict_list *l, uint32_t id);
void evict_list_push_oldest(struct evict *e, struct evict_list *l, uint32_t id);
void evict_list_del(struct evict *e, struct evict_list *l, uint32_t id);

/* ---- with the held states */
/* Moves a block from where it is (from, or parked) to the newest end of to. A
 * parked block is merely HELD after it. */
void evict_list_renew(struct evict *e, struct evict_list *from,
                      struct evict_list *to, uint32_t id);
/* Takes a block out of l or of evict.parked. */
void evict_list_drop(struct evict *e, struct evict_list *l, uint32_t id);
/* The policy's part of evict_release. */
void evict_list_release(struct evict *e, struct evict_list *l, uint32_t id,
                        bool cold);
/* The oldest MEMBER, EVICT_NONE if there is none; parks the HELD it meets. */
uint32_t evict_list_oldest(struct evict *e, struct evict_list *l);
/* The same after giving blocks their chances: one with freq > 0 loses one and
 * becomes the newest, at most EVICT_PASS_MAX times. */
uint32_t evict_list_victim(struct evict *e, struct evict_list *l);

#endif

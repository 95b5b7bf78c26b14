/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of placement (place*.c, balance.c): what one call knows of the nodes
 * of a view, and the choice of an owner. Made at the start of a call, gone at
 * its end. The contract is place.h. */
#ifndef CLUSTER_PLACE_WORK_H
#define CLUSTER_PLACE_WORK_H

#include "cluster/place.h"

struct place_site {
    uint64_t hash;             /* of the name: what rendezvous knows it by */
    uint64_t zone, rack, host; /* hashes; host 0 is not known */
    uint64_t inverse;          /* largest weight / its own, Q20 */
    uint32_t weight;
};

enum {                   /* what a node is: kind[] */
       PLACE_MEMBER = 1, /* may stand in a row */
       PLACE_SERVES = 2, /* answers */
       PLACE_PLACES = 4, /* takes slots */
       PLACE_HOLDS = 8,  /* has a share */
};

enum { PLACE_TOP = 12 };

enum place_role { PLACE_HOME, PLACE_COPY };

struct place_work {
    const struct view *v;
    uint32_t n; /* nodes */
    struct place_site *sites;
    struct place_load *load;
    uint64_t *scores; /* of slot scored - 1 */
    uint32_t scored;
    uint16_t top[PLACE_TOP]; /* of it, the best first: one of these it is,
                              * nearly always */
    uint32_t top_n;
    bool zones; /* there are several among those that take slots */
    uint32_t under_way;
    uint8_t kind[NODES_MAX]; /* small, for the looks at all slots */
};

must_check enum err work_init(struct place_work *w, const struct view *v);
void work_fini(struct place_work *w);

static inline bool work_is(const struct place_work *w, uint16_t node,
                           uint8_t kind)
{
    return node < w->n && (w->kind[node] & kind);
}
static inline bool work_member(const struct place_work *w, uint16_t node)
{
    return work_is(w, node, PLACE_MEMBER);
}
static inline bool work_serves(const struct place_work *w, uint16_t node)
{
    return work_is(w, node, PLACE_SERVES);
}
static inline bool work_places(const struct place_work *w, uint16_t node)
{
    return work_is(w, node, PLACE_PLACES);
}
static inline bool work_holds(const struct place_work *w, uint16_t node)
{
    return work_is(w, node, PLACE_HOLDS);
}

/* How far apart: 3 zones, 2 racks, 1 machines, 0 neither. */
uint32_t work_apart(const struct place_work *w, uint16_t a, uint16_t b);
/* How well the owners of a row are spread; more is better. */
uint32_t work_spread(const struct place_work *w, const struct slot *t);

/* Loads as if the row was not there (-1), or there (1). */
void work_count(struct place_work *w, const struct slot *t, int sign);
bool work_has_room(const struct place_work *w, uint16_t node,
                   enum place_role role);
/* The new owner of a slot beside those taken: farthest from them first, then
 * by rendezvous, of those that have room; of all, if none has. NODE_NONE:
 * nobody is left. */
uint16_t work_pick(struct place_work *w, uint32_t slot, const uint16_t *taken,
                   uint32_t taken_n, enum place_role role);

/* Is the relative load a/wa above b/wb? */
static inline bool work_fuller(uint64_t a, uint32_t wa, uint64_t b, uint32_t wb)
{
    return a * wb > b * wa;
}

/* Weighted rendezvous: the least of these wins (place_log.c). */
uint64_t place_log2_q32(uint64_t h); /* h >= 1 */
uint64_t place_score(uint64_t site, uint64_t inverse, uint32_t slot);

#endif

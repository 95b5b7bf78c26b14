/* SPDX-License-Identifier: Apache-2.0
 *
 * A view with a reference count, and where the nodes of a simulation share
 * equal ones: 1,000 nodes at one epoch keep one copy.
 *
 *     view_pool_take(gen, epoch)  the shared one, or NULL
 *     shared_view_new(...)        a new one, into the pool if there is one
 *
 * Equal generation and epoch mean equal bytes (view.h 3), so a node that has
 * learnt of an epoch may take the pool's; the pool's user checks now and then
 * that what was pushed makes the same (view_pool.check).
 *
 * A daemon has no pool; then a shared_view is just a counted one. */
#ifndef CLUSTER_VIEW_POOL_H
#define CLUSTER_VIEW_POOL_H

#include "cluster/view.h"

enum { VIEW_POOL_MAX = 1024 };

struct shared_view {
    struct view v;
    uint32_t refs;
    struct view_pool *pool; /* where it is listed, or NULL */
};

struct view_pool {
    struct shared_view *at[VIEW_POOL_MAX]; /* live ones, in no order */
    uint32_t n;
    uint32_t check;    /* compare one in so many; 0: none */
    uint64_t taken, compared, differed;
};

/* A copy of v, or an empty one (NULL), referenced once; NULL: no memory. */
struct shared_view *shared_view_new(const struct view *v);
struct shared_view *shared_view_ref(struct shared_view *s);
void shared_view_unref(struct shared_view *s); /* NULL ok */

/* Lists it, if there is room; pool may be NULL. */
void view_pool_add(struct view_pool *p, struct shared_view *s);
/* Referenced; NULL: not there, or it is this one's turn to be compared, which
 * *compare_out says (referenced as well). */
struct shared_view *view_pool_take(struct view_pool *p, uint32_t generation,
                                   uint64_t epoch, bool *compare_out);

#endif

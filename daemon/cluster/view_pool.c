/* SPDX-License-Identifier: Apache-2.0
 *
 * Counted views (view_pool.h). */
#include "cluster/view_pool.h"

#include <stdlib.h>

#include "base/fault.h"

/* view_copy into what view_init would have filled in vain. */
static enum err copy(struct view *to, const struct view *v)
{
    to->slots = malloc(WIRE_SLOTS * sizeof(*to->slots));
    return to->slots ? view_copy(to, v) : ERR_NO_MEMORY;
}

struct shared_view *shared_view_new(const struct view *v)
{
    struct shared_view *s =
        fault_here("shared_view_new") ? NULL : calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->refs = 1;
    if (v ? copy(&s->v, v) == OK : view_init(&s->v) == OK)
        return s;
    view_fini(&s->v);
    free(s);
    return NULL;
}

struct shared_view *shared_view_ref(struct shared_view *s)
{
    s->refs++;
    return s;
}

static void leave_pool(struct view_pool *p, const struct shared_view *s)
{
    for (uint32_t i = p->n; i-- > 0;) {
        if (p->at[i] != s)
            continue;
        p->at[i] = p->at[--p->n];
        return;
    }
}

void shared_view_unref(struct shared_view *s)
{
    if (!s || --s->refs)
        return;
    if (s->pool)
        leave_pool(s->pool, s);
    view_fini(&s->v);
    free(s);
}

void view_pool_add(struct view_pool *p, struct shared_view *s)
{
    if (!p || s->pool || p->n == VIEW_POOL_MAX)
        return;
    p->at[p->n++] = s;
    s->pool = p;
}

struct shared_view *view_pool_take(struct view_pool *p, uint32_t generation,
                                   uint64_t epoch, bool *compare_out)
{
    *compare_out = false;
    for (uint32_t i = p ? p->n : 0; i-- > 0;) {
        struct shared_view *s = p->at[i];

        if (s->v.epoch != epoch || s->v.generation != generation)
            continue;
        p->taken++;
        *compare_out = p->check && p->taken % p->check == 0;
        return shared_view_ref(s);
    }
    return NULL;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Wants of a lane (wants.h): a pool, and a list of those under way, which is
 * short: they are looked up by hash one after the other. */
#include "server/wants.h"

#include <string.h>

#include "server/puller.h"

struct want {
    struct puller_want w; /* first */
    struct list node;     /* wants.live */
    struct list waits;    /* struct want_wait */
    struct hash128 hash;
    uint32_t ns;
};

enum err wants_init(struct lane *l)
{
    list_init(&l->wants.live);
    return pool_init(&l->wants.pool, WANTS_MAX, sizeof(struct want));
}

void wants_fini(struct lane *l)
{
    pool_fini(&l->wants.pool);
}

static void want_done(struct mail *m, void *lane)
{
    struct puller_want *pw = container_of(m, struct puller_want, mail);
    struct want *x = container_of(pw, struct want, w);
    struct lane *l = lane;
    enum err e = x->w.err;
    struct list waits, *n;

    if (e == OK)
        metric_add(&l->metrics.pull_hits, 1);
    list_init(&waits);
    while ((n = list_pop(&x->waits)))
        list_add_tail(&waits, n);
    list_del(&x->node);
    pool_put(&l->wants.pool, x);
    while ((n = list_pop(&waits))) {
        struct want_wait *w = container_of(n, struct want_wait, node);

        w->done(w, e);
    }
}

static struct want *want_find(struct lane *l, const struct store_key *k)
{
    LIST_FOREACH(n, &l->wants.live)
    {
        struct want *x = container_of(n, struct want, node);

        if (x->hash.lo == k->hash.lo && x->hash.hi == k->hash.hi &&
            x->ns == k->ns)
            return x;
    }
    return NULL;
}

static void want_fill(struct want *x, struct lane *l, const struct owner_at *at,
                      const struct store_key *k, uint64_t deadline_ns)
{
    *x = (struct want){.hash = k->hash, .ns = k->ns};
    list_init(&x->waits);
    x->w = (struct puller_want){
        .lane = l,
        .from = at->node,
        .slot = at->slot,
        .group = k->group,
        .cls = k->cls,
        .route_len = k->route_len,
        .key_len = k->key_len,
        .deadline_ns = deadline_ns,
        .done = want_done,
    };
    static_assert(sizeof x->w.space >= REGISTRY_NAME, "a name fits");
    memcpy(x->w.space, l->ns[k->ns].name, REGISTRY_NAME);
    if (k->scope)
        memcpy(x->w.scope, k->scope, sizeof x->w.scope);
    memcpy(x->w.key, k->key, k->key_len);
    if (k->route_len)
        memcpy(x->w.route, k->route, k->route_len);
}

enum err wants_ask(struct lane *l, const struct owner_at *at,
                   const struct store_key *k, uint64_t deadline_ns,
                   struct want_wait *w)
{
    struct want *x;

    if (!l->moves || !l->moves->want)
        return ERR_UNSUPPORTED;
    x = want_find(l, k);
    if (!x) {
        x = pool_get(&l->wants.pool);
        if (!x)
            return ERR_BUSY;
        want_fill(x, l, at, k, deadline_ns);
        list_add_tail(&l->wants.live, &x->node);
        metric_add(&l->metrics.pull_waits, 1);
        l->moves->want(l->moves->arg, &x->w);
    }
    if (w)
        list_add_tail(&x->waits, &w->node);
    return OK;
}

void wants_leave(struct want_wait *w)
{
    list_del(&w->node);
}

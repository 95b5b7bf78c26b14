/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of drops (drops.h): a set-associative table of hashes and a short
 * list of selectors. */
#include "server/drops.h"

#include <string.h>

#include "base/mem.h"

#define DROPS_NS (DROPS_S * NS_PER_S)

enum err drops_init(struct drops *d)
{
    *d = (struct drops){0};
    d->cells = mem_reserve(DROPS_CELLS * sizeof *d->cells);
    return d->cells ? OK : ERR_NO_MEMORY;
}

void drops_fini(struct drops *d)
{
    mem_release(d->cells, DROPS_CELLS * sizeof *d->cells);
    *d = (struct drops){0};
}

static struct drops_cell *drops_set(const struct drops *d,
                                    const struct store_key *k)
{
    return &d->cells[k->hash.hi % (DROPS_CELLS / DROPS_WAYS) * DROPS_WAYS];
}

/* The cell that ends first is the one to take; if it still counts, one drop is
 * forgotten and so nothing may be taken for a while. */
void drops_key(struct drops *d, const struct store_key *k, uint64_t now_ns)
{
    struct drops_cell *set, *to;

    if (!d->cells)
        return;
    to = set = drops_set(d, k);
    for (struct drops_cell *c = set; c < set + DROPS_WAYS; c++) {
        if (c->hash == k->hash.lo && c->until_ns) {
            to = c;
            break;
        }
        if (c->until_ns < to->until_ns)
            to = c;
    }
    if (to->until_ns > now_ns && to->hash != k->hash.lo)
        d->all_until_ns = now_ns + DROPS_NS;
    *to = (struct drops_cell){k->hash.lo, now_ns + DROPS_NS};
}

static bool wide_same(const struct drops_wide *a, const struct drops_wide *b)
{
    return a->ns == b->ns && a->by == b->by &&
           memcmp(a->labels, b->labels, sizeof a->labels) == 0 &&
           memcmp(a->scope, b->scope, sizeof a->scope) == 0;
}

void drops_select(struct drops *d, uint32_t ns, enum wire_select by,
                  const uint64_t *labels, const uint8_t *scope, uint64_t now_ns)
{
    struct drops_wide w = {
        .until_ns = now_ns + DROPS_NS, .ns = ns, .by = SELECT_NAMESPACE};
    struct drops_wide *to = d->wide;

    if (!d->cells)
        return;
    if (by == SELECT_LABEL || by == SELECT_SCOPE)
        w.by = by;
    if (by == SELECT_LABEL)
        memcpy(w.labels, labels, sizeof w.labels);
    if (by == SELECT_SCOPE)
        memcpy(w.scope, scope, sizeof w.scope);
    for (struct drops_wide *x = d->wide; x < d->wide + DROPS_WIDE; x++) {
        if (wide_same(x, &w)) {
            to = x;
            break;
        }
        if (x->until_ns < to->until_ns)
            to = x;
    }
    if (to->until_ns > now_ns && !wide_same(to, &w))
        d->all_until_ns = now_ns + DROPS_NS;
    *to = w;
}

static bool label_in(const struct drops_wide *w, uint64_t label)
{
    for (uint32_t i = 0; label && i < countof(w->labels); i++)
        if (w->labels[i] == label)
            return true;
    return false;
}

static enum err wide_check(const struct drops_wide *w,
                           const struct store_key *k, const struct wire_attr *a)
{
    bool hit = false;

    if (w->by == SELECT_NAMESPACE)
        return ERR_RETRY;
    if (w->by == SELECT_SCOPE)
        hit = memcmp(k->scope, w->scope, sizeof w->scope) == 0;
    else if (a)
        hit = label_in(w, a->label0) || label_in(w, a->label1) ||
              label_in(w, a->label2) || label_in(w, a->label3);
    return hit ? ERR_CANCELED : OK;
}

enum err drops_check(const struct drops *d, const struct store_key *k,
                     const struct wire_attr *attr, uint64_t now_ns)
{
    const struct drops_cell *set;
    enum err e = d->all_until_ns > now_ns ? ERR_RETRY : OK;

    if (!d->cells)
        return OK;
    set = drops_set(d, k);
    for (const struct drops_cell *c = set; c < set + DROPS_WAYS; c++)
        if (c->hash == k->hash.lo && c->until_ns > now_ns)
            return ERR_CANCELED;
    for (const struct drops_wide *w = d->wide; w < d->wide + DROPS_WIDE; w++)
        if (!e && w->until_ns > now_ns && w->ns == k->ns)
            e = wide_check(w, k, attr);
    return e;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See fsck_finds.h. One sort by hash and version; memory is 56 bytes a record
 * and 8 more while it is decided. */
#include "fsck_finds.h"

#include <stdlib.h>

const char *fate_name(uint8_t fate)
{
    static const char *const names[FATE_N] = {"live", "old", "dead"};

    MUST(fate < FATE_N);
    return names[fate];
}

/* Room for one more: the array, which may have moved, or NULL. */
static void *grow(void *p, uint64_t n, uint64_t *cap, size_t bytes)
{
    uint64_t more = *cap ? 2 * *cap : 1024;

    if (n < *cap)
        return p;
    p = realloc(p, more * bytes);
    if (p)
        *cap = more;
    return p;
}

struct found *finds_add(struct finds *f)
{
    struct found *p = grow(f->found, f->n, &f->cap, sizeof(*p));

    if (!p)
        return NULL;
    f->found = p;
    return &p[f->n++];
}

bool finds_add_tomb(struct finds *f, const struct seg_tomb *t)
{
    struct seg_tomb *p = grow(f->tombs, f->tomb_n, &f->tomb_cap, sizeof(*p));

    if (!p)
        return false;
    f->tombs = p;
    p[f->tomb_n++] = *t;
    return true;
}

void finds_free(struct finds *f)
{
    free(f->found);
    free(f->tombs);
    *f = (struct finds){0};
}

static int by_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int by_hash(const struct hash128 *a, const struct hash128 *b)
{
    int c = by_u64(a->hi, b->hi);

    return c ? c : by_u64(a->lo, b->lo);
}

/* The one that counts comes first: the highest version; of several copies of
 * it an intact one, the last written. */
static int by_found(const void *pa, const void *pb, void *arg)
{
    const struct found *found = arg;
    const struct found *a = &found[*(const uint64_t *)pa];
    const struct found *b = &found[*(const uint64_t *)pb];
    int c = by_hash(&a->hash, &b->hash);

    if (c == 0)
        c = by_u64(b->version, a->version);
    if (c == 0)
        c = (int)a->bad - (int)b->bad;
    return c ? c : by_u64(b->generation, a->generation);
}

static int by_tomb(const void *pa, const void *pb)
{
    const struct seg_tomb *a = pa, *b = pb;
    int c = by_hash(&a->hash, &b->hash);

    return c ? c : by_u64(b->version, a->version);
}

static int tomb_of(const void *key, const void *tomb)
{
    return by_hash(key, &((const struct seg_tomb *)tomb)->hash);
}

static bool is_dead(const struct finds *f, const struct found *r)
{
    const struct seg_tomb *t =
        f->tomb_n ? bsearch(&r->hash, f->tombs, f->tomb_n, sizeof(*t), tomb_of)
                  : NULL;

    while (t && t > f->tombs && by_hash(&t[-1].hash, &r->hash) == 0)
        t--; /* the first one has the highest version */
    return t && t->version >= r->version;
}

bool finds_decide(struct finds *f)
{
    uint64_t *order = malloc((f->n + 1) * sizeof(*order));

    if (!order)
        return false;
    for (uint64_t i = 0; i < f->n; i++)
        order[i] = i;
    qsort_r(order, f->n, sizeof(*order), by_found, f->found);
    if (f->tomb_n)
        qsort(f->tombs, f->tomb_n, sizeof(*f->tombs), by_tomb);
    for (uint64_t i = 0; i < f->n; i++) {
        struct found *r = &f->found[order[i]];

        if (i > 0 && by_hash(&f->found[order[i - 1]].hash, &r->hash) == 0)
            r->fate = FATE_OLD;
        else
            r->fate = is_dead(f, r) ? FATE_DEAD : FATE_LIVE;
    }
    free(order);
    return true;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries, hot records and the linear hash over them; see catalog.h. */
#include "store/catalog.h"

#include <string.h>

#include "base/fault.h"
#include "base/mem.h"

enum { BUCKETS_FIRST = 256 };

enum err catalog_init(struct catalog *c, uint32_t cap, uint32_t hot_cap)
{
    size_t n = (size_t)cap + 1, hot_n = (size_t)hot_cap + 1;

    MUST(cap > 0 && cap < UINT32_MAX - 1 && hot_cap <= cap);
    *c = (struct catalog){.cap = cap,
                          .hot_cap = hot_cap,
                          .entry_hi = 1,
                          .hot_hi = 1,
                          .bucket_n = BUCKETS_FIRST,
                          .bucket_cap =
                              cap < BUCKETS_FIRST ? BUCKETS_FIRST : cap};
    c->entries = mem_reserve(n * sizeof *c->entries);
    c->hots = mem_reserve(hot_n * sizeof *c->hots);
    c->colds = mem_reserve(n * sizeof *c->colds);
    c->routes = mem_reserve(n * sizeof *c->routes);
    c->buckets = mem_reserve(c->bucket_cap * sizeof *c->buckets);
    if (c->entries && c->hots && c->colds && c->routes && c->buckets)
        return OK;
    catalog_fini(c);
    return ERR_NO_MEMORY;
}

void catalog_fini(struct catalog *c)
{
    size_t n = (size_t)c->cap + 1, hot_n = (size_t)c->hot_cap + 1;

    mem_release(c->entries, n * sizeof *c->entries);
    mem_release(c->hots, hot_n * sizeof *c->hots);
    mem_release(c->colds, n * sizeof *c->colds);
    mem_release(c->routes, n * sizeof *c->routes);
    mem_release(c->buckets, c->bucket_cap * sizeof *c->buckets);
    *c = (struct catalog){0};
}

/* Splits the next bucket in order: its entries stay or go to the new last
 * bucket by one more bit of their hash. */
static void split(struct catalog *c)
{
    uint32_t fresh = c->bucket_n;
    uint32_t from = fresh - (1u << (31 - __builtin_clz(fresh)));
    uint32_t *link = &c->buckets[from];

    c->bucket_n++;
    c->buckets[fresh] = 0;
    while (*link) {
        struct entry *e = &c->entries[*link];
        uint32_t at = *link;

        if (catalog_bucket(c, e->hash.lo) == from) {
            link = &e->next;
            continue;
        }
        *link = e->next;
        e->next = c->buckets[fresh];
        c->buckets[fresh] = at;
    }
}

uint32_t catalog_new(struct catalog *c, struct hash128 hash)
{
    uint32_t at = c->entry_free, *head;

    if (fault_here("catalog_new") || c->entry_n == c->cap)
        return 0;
    if (at)
        c->entry_free = c->entries[at].next;
    else
        at = c->entry_hi++;
    c->entry_n++;
    if (c->entry_n > c->bucket_n && c->bucket_n < c->bucket_cap)
        split(c);
    head = &c->buckets[catalog_bucket(c, hash.lo)];
    c->entries[at] = (struct entry){.hash = hash, .next = *head};
    *head = at;
    return at;
}

void catalog_del(struct catalog *c, uint32_t entry)
{
    struct entry *e = &c->entries[entry];
    uint32_t *link = &c->buckets[catalog_bucket(c, e->hash.lo)];

    MUST(!entry_hot(e));
    while (*link != entry) {
        MUST(*link);
        link = &c->entries[*link].next;
    }
    *link = e->next;
    *e = (struct entry){.next = c->entry_free};
    c->entry_free = entry;
    c->entry_n--;
}

uint32_t catalog_hot_new(struct catalog *c, uint32_t entry)
{
    uint32_t at = c->hot_free;

    if (c->hot_n == c->hot_cap)
        return 0;
    if (at)
        c->hot_free = c->hots[at].node.next;
    else
        at = c->hot_hi++;
    c->hot_n++;
    c->hots[at] = (struct hot){.entry = entry};
    c->entries[entry].hot = at;
    return at;
}

void catalog_hot_del(struct catalog *c, uint32_t hot)
{
    struct hot *h = &c->hots[hot];

    MUST(h->entry && c->entries[h->entry].hot == hot);
    c->entries[h->entry].hot = 0;
    *h = (struct hot){.node.next = c->hot_free};
    c->hot_free = hot;
    c->hot_n--;
}

uint64_t catalog_bytes(const struct catalog *c)
{
    return c->entry_hi * sizeof *c->entries + c->hot_hi * sizeof *c->hots +
           c->bucket_n * sizeof *c->buckets;
}

void catalog_check(const struct catalog *c)
{
    uint32_t n = 0, hots = 0;

    for (uint32_t b = 0; b < c->bucket_n; b++)
        for (uint32_t at = c->buckets[b]; at; at = c->entries[at].next) {
            const struct entry *e = &c->entries[at];

            MUST(at < c->entry_hi);
            MUST(e->state != BLOCK_FREE);
            MUST(catalog_bucket(c, e->hash.lo) == b);
            n++;
            hots += entry_hot(e) != 0;
            if (entry_hot(e))
                MUST(c->hots[e->hot].entry == at);
            MUST(!e->side || e->state == BLOCK_COLD);
        }
    MUST(n == c->entry_n);
    MUST(hots == c->hot_n);
}

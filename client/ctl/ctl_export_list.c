/* SPDX-License-Identifier: Apache-2.0
 *
 * The blocks of one lane for export: their records as they go into the file,
 * parents before their children. A daemon links a block to its parent only if
 * the parent is there when the block is put, so this order is what keeps chains
 * whole on import. A parent is in the lane of its children or it is no link.
 *
 *     records   | rec names | rec names | ...   grown by doubling
 *     items     where each begins, its version
 *     table     key -> item, open addressing, made when all are known
 *
 * Memory: about 130 bytes and the names per block of the lane. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "client/ctl/ctl_export.h"

enum { PLACED = 1, ON_PATH = 2 };

struct bf_rec *list_rec(const struct export_list *l, uint32_t i)
{
    return (struct bf_rec *)(void *)(l->records + l->items[i].off);
}

/* ---- taking what INSPECT tells ---- */

static bool list_room(struct export_list *l, size_t bytes)
{
    if (l->item_n == l->item_cap) {
        uint32_t cap = l->item_cap ? l->item_cap * 2 : 1024;
        void *p = realloc(l->items, cap * sizeof(*l->items));

        if (!p)
            return false;
        l->items = p;
        l->item_cap = cap;
    }
    if (bytes > l->record_cap - l->record_n) {
        size_t cap = max_u64(l->record_cap * 2, (size_t)1 << 18);
        void *p = realloc(l->records, cap);

        if (!p)
            return false;
        l->records = p;
        l->record_cap = cap;
    }
    return true;
}

static uint8_t *append(uint8_t *to, const ProtobufCBinaryData *d)
{
    if (d->len)
        memcpy(to, d->data, d->len);
    return to + d->len;
}

static void list_fill(struct bf_rec *rec, const Pikv__BlockInfo *b)
{
    uint8_t *names = (uint8_t *)(rec + 1);

    *rec = (struct bf_rec){
        .len = b->len,
        .bytes_crc = b->crc,
        .key_len = (uint16_t)b->key.len,
        .parent_len = (uint16_t)b->parent.len,
        .route_len = (uint8_t)b->route.len,
        .cls = (uint8_t)b->cls,
        .priority = (uint8_t)b->priority,
        .scoped = b->scope.len == sizeof(rec->scope),
        .group = (uint16_t)b->group,
        .page = b->page,
        .token_end = b->token_end,
        .token_n = b->token_n,
        .ttl_ms = b->ttl_left_ms,
        .affinity = b->affinity,
    };
    if (rec->scoped)
        memcpy(rec->scope, b->scope.data, sizeof(rec->scope));
    for (size_t i = 0; i < b->n_labels && i < countof(rec->labels); i++)
        rec->labels[i] = b->labels[i];
    append(append(append(names, &b->key), &b->route), &b->parent);
}

/* What no daemon says is left out: it could not be put again. */
static bool list_sane(const Pikv__BlockInfo *b)
{
    return b->key.len >= 1 && b->key.len <= BF_KEY_MAX &&
           b->parent.len <= BF_KEY_MAX && b->route.len <= BF_ROUTE_MAX &&
           b->cls <= UINT8_MAX && b->group <= UINT16_MAX && b->priority <= 255;
}

bool list_add(struct export_list *l, const Pikv__BlockInfo *b)
{
    size_t n =
        sizeof(struct bf_rec) + b->key.len + b->route.len + b->parent.len;

    n = (n + 7) & ~(size_t)7; /* records stay aligned */
    if (!list_sane(b))
        return true;
    if (!list_room(l, n))
        return false;
    l->items[l->item_n] =
        (struct export_item){.off = l->record_n, .version = b->version};
    list_fill(list_rec(l, l->item_n), b);
    l->record_n += n;
    l->item_n++;
    l->bytes += b->len;
    return true;
}

/* ---- the order ---- */

/* A key in its group and scope; of a parent the names begin elsewhere. */
static uint64_t key_hash(const struct bf_rec *rec, const uint8_t *key, size_t n)
{
    return hash_64(hash_64(rec->group, rec->scope, sizeof(rec->scope)), key, n);
}

static const uint8_t *parent_of(const struct bf_rec *rec)
{
    return (const uint8_t *)(rec + 1) + rec->key_len + rec->route_len;
}

/* The item of this key in rec's group and scope, or the free place for it. */
static uint32_t *table_at(const struct export_list *l, const struct bf_rec *rec,
                          const uint8_t *key, size_t n)
{
    uint64_t at = key_hash(rec, key, n);

    for (;; at++) {
        uint32_t *place = &l->table[at & l->mask];
        const struct bf_rec *o;

        if (!*place)
            return place;
        o = list_rec(l, *place - 1);
        if (o->group == rec->group && o->key_len == n &&
            memcmp(o->scope, rec->scope, sizeof(o->scope)) == 0 &&
            memcmp(o + 1, key, n) == 0)
            return place;
    }
}

/* False: no memory. A key met twice keeps its first place; both are read. */
static bool table_make(struct export_list *l)
{
    uint64_t n = 16;

    while (n < 2 * (uint64_t)l->item_n)
        n *= 2;
    l->mask = n - 1;
    l->table = calloc(n, sizeof(*l->table));
    for (uint32_t i = 0; l->table && i < l->item_n; i++) {
        const struct bf_rec *rec = list_rec(l, i);
        uint32_t *place =
            table_at(l, rec, (const uint8_t *)(rec + 1), rec->key_len);

        if (!*place)
            *place = i + 1;
    }
    return l->table != NULL;
}

/* Item of the parent + 1, or 0. */
static uint32_t list_up(const struct export_list *l, uint32_t i)
{
    const struct bf_rec *rec = list_rec(l, i);

    return rec->parent_len ? *table_at(l, rec, parent_of(rec), rec->parent_len)
                           : 0;
}

/* Puts i and those above it that are not placed yet into the order, from the
 * top. The path is kept by turning links round: next holds the way down. */
static void list_place(struct export_list *l, uint32_t i, uint32_t *at)
{
    uint32_t below = UINT32_MAX, up;

    while (!l->items[i].mark) {
        l->items[i].mark = ON_PATH;
        l->items[i].next = below;
        below = i;
        up = list_up(l, i);
        if (!up)
            break;
        i = up - 1; /* a ring ends at what is ON_PATH */
    }
    while (below != UINT32_MAX) {
        l->items[below].mark = PLACED;
        l->order[(*at)++] = below;
        below = l->items[below].next;
    }
}

bool list_order(struct export_list *l)
{
    uint32_t at = 0;

    l->order = malloc((l->item_n + 1) * sizeof(*l->order));
    if (!l->order || !table_make(l))
        return false;
    for (uint32_t i = 0; i < l->item_n; i++)
        list_place(l, i, &at);
    MUST(at == l->item_n);
    free(l->table);
    l->table = NULL;
    return true;
}

void list_fini(struct export_list *l)
{
    free(l->records);
    free(l->items);
    free(l->table);
    free(l->order);
    *l = (struct export_list){0};
}

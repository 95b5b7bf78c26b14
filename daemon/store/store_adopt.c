/* SPDX-License-Identifier: Apache-2.0
 *
 * What recovery found becomes COLD blocks; and the other way, what a checkpoint
 * says of them.
 *
 *   records, checkpoint entries, tombs, in any order --> store_adopted
 *
 * Of records of one key the highest version stays, the later one of two equal
 * ones (it was written again, its older place is about to be used anew). A tomb
 * kills all up to its version, also what comes after it, so tombs are kept in a
 * catalog of their own until the end. If there is no room for one more, nothing
 * up to its version is believed at all: blocks are lost, none comes back.
 *
 * Parents are named by hash and linked at the end, when all that is there is
 * known. Links that would close a ring are left out.
 *
 * Thread: the lane, or whoever fills its store before the lane begins. Fails
 * only in adopt_new. */
#include "store/store_impl.h"

#include "store/seg_format.h"

#include "base/mem.h"

enum { TOMBS_MAX = 1 << 24 };

struct adopt {
    struct catalog tombs;   /* hash, version, slot of the namespace */
    struct hash128 *parent; /* by entry; zeros if none */
    uint64_t floor;         /* nothing up to this version is believed */
};

static size_t parent_bytes(const struct store *s)
{
    return ((size_t)s->cat.cap + 1) * sizeof(struct hash128);
}

enum err adopt_new(struct store *s)
{
    struct adopt *a = mem_reserve(sizeof *a);

    if (!a)
        return ERR_NO_MEMORY;
    s->adopt = a;
    a->parent = mem_reserve(parent_bytes(s));
    if (a->parent && !catalog_init(&a->tombs, TOMBS_MAX, 1))
        return OK;
    adopt_free(s);
    return ERR_NO_MEMORY;
}

void adopt_free(struct store *s)
{
    struct adopt *a = s->adopt;

    if (!a)
        return;
    catalog_fini(&a->tombs);
    mem_release(a->parent, parent_bytes(s));
    mem_release(a, sizeof *a);
    s->adopt = NULL;
    s->adopting = false;
}

/* ---- records */

static bool no_hash(struct hash128 h)
{
    return !h.lo && !h.hi;
}

static uint32_t slot_of(const struct store *s, uint32_t ns, uint64_t generation)
{
    uint32_t slot = ns <= s->cfg.namespaces_max ? s->ns_of[ns] : 0;

    return slot && s->nss[slot].cfg.generation == generation ? slot : 0;
}

static uint32_t find_in(const struct catalog *c, struct hash128 hash,
                        uint32_t slot)
{
    uint32_t b = catalog_first(c, hash);

    while (b && c->entries[b].ns != slot)
        b = catalog_next(c, b, hash);
    return b;
}

static bool killed(const struct adopt *a, uint32_t slot, struct hash128 hash,
                   uint64_t version)
{
    uint32_t t = find_in(&a->tombs, hash, slot);

    return version <= a->floor || (t && version <= a->tombs.entries[t].version);
}

static uint32_t entry_make(struct store *s, uint32_t slot, struct hash128 hash)
{
    uint32_t b = catalog_new(&s->cat, hash);

    if (!b)
        return 0;
    entry_at(s, b)->ns = (uint16_t)slot;
    entry_at(s, b)->state = BLOCK_TOMB; /* for a moment, without links */
    ns_entry_added(s, slot);
    cold_new(s, b, 0, (struct cold){0});
    return b;
}

/* What is common to a record and an entry of the checkpoint. */
struct found {
    struct hash128 hash, parent;
    uint64_t version;
    uint32_t slot, len, crc, page, expires_s;
    uint16_t route;
    uint8_t tag, heat;
    bool rich;
};

/* The entry is COLD already: fresh, or an earlier record's. */
static void found_take(struct store *s, uint32_t b, const struct found *f)
{
    struct entry *e = entry_at(s, b);

    place_clear(s, b);
    e->version = f->version;
    e->len = f->len;
    e->crc = f->crc;
    e->rich = f->rich;
    e->heat = (uint8_t)(f->heat & HEAT_MAX);
    cold_expires(s, b, f->expires_s);
    place_set(s, b, f->page, f->tag);
    s->adopt->parent[b] = f->parent;
    s->cat.routes[b] = f->route;
}

static void adopt(struct store *s, const struct found *f)
{
    uint32_t b;

    s->adopting = true;
    s->version = max_u64(s->version, f->version);
    if (!f->page || !f->len || seg_dev(f->tag) >= DISK_DEVS ||
        (f->expires_s && s->env->wall_s >= f->expires_s) ||
        killed(s->adopt, f->slot, f->hash, f->version))
        return;
    b = find_in(&s->cat, f->hash, f->slot);
    if (!b)
        b = entry_make(s, f->slot, f->hash);
    else if (entry_at(s, b)->version > f->version)
        b = 0;
    if (b)
        found_take(s, b, f);
}

bool store_adopt(struct store *s, const struct seg_meta *m,
                 const struct seg_place *p)
{
    uint32_t slot = slot_of(s, m->key.ns, m->ns_generation);
    struct found f = {.hash = m->key.hash,
                      .version = m->version,
                      .slot = slot,
                      .len = m->len,
                      .crc = m->crc,
                      .page = p->page,
                      .expires_s = m->expires_s,
                      .tag = p->tag,
                      .rich = seg_meta_rich(m)};

    if (!slot || !s->adopt)
        return false;
    f.route = key_route(&s->nss[slot], &m->key);
    if (m->parent_len) {
        struct store_key up = m->key;

        up.key = m->parent;
        up.key_len = m->parent_len;
        store_key_hash(s, &up);
        f.parent = up.hash;
    }
    adopt(s, &f);
    return true;
}

bool store_adopt_check(struct store *s, const struct seg_check *c)
{
    uint32_t slot = slot_of(s, c->ns, c->ns_generation);
    struct found f = {.hash = c->hash,
                      .parent = c->parent,
                      .version = c->version,
                      .slot = slot,
                      .len = c->len,
                      .crc = c->crc,
                      .page = c->page,
                      .expires_s = c->expires_s,
                      .route = c->route,
                      .tag = c->tag,
                      .heat = c->heat,
                      .rich = c->meta != 0};

    if (!slot || !s->adopt)
        return false;
    adopt(s, &f);
    return true;
}

void store_adopt_tomb(struct store *s, const struct seg_tomb *t)
{
    uint32_t slot = slot_of(s, t->ns, t->ns_generation), b;
    struct adopt *a = s->adopt;

    if (!slot || !a)
        return;
    s->adopting = true;
    s->version = max_u64(s->version, t->version);
    b = find_in(&a->tombs, t->hash, slot);
    if (!b && (b = catalog_new(&a->tombs, t->hash))) {
        a->tombs.entries[b].ns = (uint16_t)slot;
        a->tombs.entries[b].state = BLOCK_TOMB;
    }
    if (b)
        a->tombs.entries[b].version =
            max_u64(a->tombs.entries[b].version, t->version);
    else
        a->floor = max_u64(a->floor, t->version);
    b = find_in(&s->cat, t->hash, slot);
    if (b && entry_at(s, b)->version <= t->version)
        block_gone(s, b, EVICT_GONE);
}

/* ---- the end of it */

static void parents_find(struct store *s)
{
    for (uint32_t b = 1; b < s->cat.entry_hi; b++) {
        struct entry *e = entry_at(s, b);
        struct hash128 *up = &s->adopt->parent[b];

        if (e->state == BLOCK_COLD && !no_hash(*up))
            e->parent = find_in(&s->cat, *up, e->ns);
        *up = (struct hash128){0}; /* lo: the walk that has been here */
    }
}

/* Walks up from every block until it meets a root, or what an earlier walk has
 * seen; what this walk itself has seen closes a ring. */
static void rings_cut(struct store *s)
{
    struct hash128 *seen = s->adopt->parent;

    for (uint32_t b = 1; b < s->cat.entry_hi; b++)
        for (uint32_t at = b; at && !seen[at].lo;
             at = entry_at(s, at)->parent) {
            struct entry *e = entry_at(s, at);

            seen[at].lo = b;
            if (e->parent && seen[e->parent].lo == b)
                e->parent = 0;
        }
}

void store_adopted(struct store *s)
{
    if (!s->adopt)
        return;
    for (uint32_t b = 1; s->adopt->floor && b < s->cat.entry_hi; b++)
        if (entry_at(s, b)->state == BLOCK_COLD &&
            entry_at(s, b)->version <= s->adopt->floor)
            block_gone(s, b, EVICT_GONE);
    parents_find(s);
    rings_cut(s);
    for (uint32_t b = 1; b < s->cat.entry_hi; b++)
        if (entry_at(s, b)->state == BLOCK_COLD && entry_at(s, b)->parent)
            cold_children(s, entry_at(s, b)->parent, 1);
    metric_add(&s->metrics->ssd_recovered_blocks, s->cold_n);
    adopt_free(s);
    for (uint32_t i = 0; i < STORE_POOLS; i++)
        if (s->pools[i].ready)
            ns_shares(s, i);
}

/* ---- the checkpoint */

static bool on_dev(const struct store *s, const struct entry *e, uint32_t dev)
{
    return e->ssd && seg_dev(e->tag) == dev && !ns_at(s, e)->condemned &&
           (e->state == BLOCK_COLD || e->state == BLOCK_LIVE ||
            e->state == BLOCK_LOADING);
}

static void check_fill(const struct store *s, uint32_t b, struct seg_check *out)
{
    const struct entry *e = entry_at(s, b);
    const struct hot *h = hot_find(s, b);

    *out = (struct seg_check){
        .hash = e->hash,
        .version = e->version,
        .ns_generation = ns_at(s, e)->cfg.generation,
        .ns = ns_at(s, e)->cfg.id,
        .len = e->len,
        .crc = h ? h->crc : e->crc,
        .page = e->ssd,
        .expires_s = h ? h->expires_s : cold_side(s, e).expires_s,
        .lane = (uint16_t)s->cfg.lane,
        .tag = e->tag,
        .meta = e->rich,
        .heat = e->heat,
        .route = s->cat.routes[b],
    };
    if (e->parent)
        out->parent = entry_at(s, e->parent)->hash;
}

bool store_check_next(const struct store *s, uint32_t dev, uint64_t *cursor,
                      struct seg_check *out)
{
    uint32_t b = *cursor ? (uint32_t)*cursor : 1;

    while (b < s->cat.entry_hi && !on_dev(s, entry_at(s, b), dev))
        b++;
    *cursor = (uint64_t)b + 1;
    if (b >= s->cat.entry_hi)
        return false;
    check_fill(s, b, out);
    return true;
}

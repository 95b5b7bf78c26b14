/* SPDX-License-Identifier: Apache-2.0
 *
 * What a slab does when the class meant for a length has no slot and the pool
 * no unit:
 *
 *   neat     few extents of other classes with little waste: takes from the
 *            first units of each class only, so that it costs little to fail
 *   scatter  any free runs, largest first: rounds over all units with free
 *            slots, each taking runs of at least a quarter of the round before
 *   cold     names a unit that the caller should empty
 *
 * Both ways of taking are all or nothing: a block is not left with crumbs when
 * they do not suffice. */
#include "store/slab_impl.h"

enum {
    NEAT_UNITS = 4,   /* units looked at per class */
    COLD_SAMPLE = 64, /* units compared */
};

/* The next run of free slots at or after slot; returns its length, 0 at the
 * end of the unit. */
static uint32_t run_find(const struct slab_unit *u, uint32_t slots,
                         uint32_t *slot)
{
    uint32_t at = *slot, n = 0;

    while (at < slots) {
        uint64_t w = u->free[at / 64] >> at % 64;

        if (w) {
            at += (uint32_t)__builtin_ctzll(w);
            break;
        }
        at = (at / 64 + 1) * 64;
    }
    *slot = at;
    while (at + n < slots) {
        uint64_t w = ~(u->free[(at + n) / 64] >> (at + n) % 64);
        uint32_t left = 64 - (at + n) % 64;
        uint32_t k = w ? (uint32_t)__builtin_ctzll(w) : 64;

        n += k < left ? k : left;
        if (k < left)
            break;
    }
    return at < slots ? n : 0;
}

/* Takes runs of at least least bytes (or what the rest needs) from a unit. */
static void take_runs(struct slab *s, struct tier_place *p, uint64_t len,
                      uint32_t owner, uint32_t unit, uint64_t least,
                      uint32_t extents)
{
    const struct slab_unit *u = &s->units[unit];
    uint32_t slots = s->cls[u->cls].slots, slot = 0, n;
    uint64_t bytes = s->cls[u->cls].slot_bytes;

    while (p->bytes < len && p->extents < extents && u->free_n &&
           (n = run_find(u, slots, &slot)) > 0) {
        uint64_t rest = len - p->bytes;

        if (n * bytes >= min_u64(least, rest)) {
            uint32_t need = (uint32_t)min_u64(n, (rest + bytes - 1) / bytes);

            slab_take(s, p, unit, slot, need, owner);
        }
        slot += n;
    }
}

enum err slab_neat(struct slab *s, struct tier_place *p, uint64_t len,
                   uint32_t owner)
{
    struct tier_place before = *p;
    uint64_t rest = len - p->bytes;
    uint32_t cap = p->extents + SLAB_NEAT_EXTENTS;

    if (s->free_bytes < rest)
        return ERR_BUSY;
    cap = cap < STORE_SPANS_MAX ? cap : STORE_SPANS_MAX;
    for (uint32_t i = s->cls_n - 1; i-- > 0 && p->bytes < len;) {
        const struct slab_class *c = &s->cls[s->order[i]];
        uint32_t unit = c->first;

        if (c->slot_bytes > rest + rest / 8)
            continue;
        for (int k = 0; k < NEAT_UNITS && unit != UNIT_NONE; k++) {
            uint32_t next = s->units[unit].next;

            take_runs(s, p, len, owner, unit, rest / SLAB_NEAT_EXTENTS, cap);
            unit = next;
        }
    }
    if (p->bytes >= len && p->bytes - len <= rest / 8) {
        s->scattered++;
        return OK;
    }
    slab_shrink(s, p, &before);
    return ERR_BUSY;
}

enum err slab_scatter(struct slab *s, struct tier_place *p, uint64_t len,
                      uint32_t owner)
{
    struct tier_place before = *p;

    if (s->free_bytes < len - p->bytes)
        return ERR_BUSY;
    for (uint64_t least = UNIT_BYTES; least >= SLAB_SLOT_MIN / 4; least /= 4)
        for (uint32_t i = s->cls_n - 1; i-- > 0 && p->bytes < len;) {
            uint32_t unit = s->cls[s->order[i]].first;

            while (unit != UNIT_NONE && p->bytes < len) {
                uint32_t next = s->units[unit].next;

                take_runs(s, p, len, owner, unit, least, STORE_SPANS_MAX);
                unit = next;
            }
        }
    if (p->bytes >= len) {
        s->scattered++;
        return OK;
    }
    slab_shrink(s, p, &before);
    return ERR_BUSY;
}

/* Smaller is better: eighths in use first, then age. A unit that was found in
 * use since the last access is none. */
static uint64_t cold_score(const struct slab *s, const struct slab_unit *u,
                           uint32_t newest)
{
    uint32_t slots = s->cls[u->cls].slots;
    uint64_t eighths = (uint64_t)(slots - u->free_n) * 8 / slots;
    uint32_t age = newest - u->stamp;

    return age ? eighths << 32 | (UINT32_MAX - age) : UINT64_MAX;
}

uint32_t slab_cold(struct slab *s, uint32_t not_cls, uint32_t now)
{
    uint32_t best = UNIT_NONE, seen = 0;
    uint64_t best_score = UINT64_MAX;

    for (uint32_t i = 0; i < s->pool->units && seen < COLD_SAMPLE; i++) {
        const struct slab_unit *u = &s->units[s->hand];
        uint32_t unit = s->hand;

        s->hand = s->hand + 1 < s->pool->units ? s->hand + 1 : 0;
        if (!u->cls || u->cls == not_cls)
            continue;
        seen++;
        if (cold_score(s, u, now) < best_score) {
            best_score = cold_score(s, u, now);
            best = unit;
        }
    }
    return best;
}

uint32_t slab_owners(const struct slab *s, uint32_t unit,
                     uint32_t owners[SLAB_SLOTS])
{
    const struct slab_unit *u = &s->units[unit];
    uint32_t slots = s->cls[u->cls].slots, n = 0;

    for (uint32_t slot = 0; slot < slots; slot++)
        if (s->recs[u->recs + slot].n)
            owners[n++] = s->recs[u->recs + slot].owner;
    return n;
}

/* ---- checks */

static void check_unit(const struct slab *s, uint32_t unit)
{
    const struct slab_unit *u = &s->units[unit];
    uint32_t slots = s->cls[u->cls].slots, free_n = 0, slot = 0;

    while (slot < slots) {
        uint32_t n = s->recs[u->recs + slot].n;

        if (u->free[slot / 64] >> slot % 64 & 1) {
            MUST(!n);
            free_n++;
            slot++;
            continue;
        }
        MUST(n > 0);
        for (uint32_t i = slot; i < slot + n; i++)
            MUST(!(u->free[i / 64] >> i % 64 & 1));
        slot += n;
    }
    MUST(slot == slots);
    MUST(free_n == u->free_n);
    MUST(free_n < slots);
}

static uint64_t check_list(const struct slab *s, uint32_t cls)
{
    uint32_t prev = UNIT_NONE;
    uint64_t n = 0;

    for (uint32_t u = s->cls[cls].first; u != UNIT_NONE; u = s->units[u].next) {
        MUST(s->units[u].cls == cls);
        MUST(s->units[u].prev == prev);
        MUST(s->units[u].free_n > 0);
        prev = u;
        n++;
    }
    return n;
}

void slab_check(const struct slab *s)
{
    uint64_t free_bytes = 0, used = 0, listed = 0, with_free = 0;
    uint32_t held = 0;

    for (uint32_t i = 0; i < s->pool->units; i++) {
        const struct slab_unit *u = &s->units[i];
        const struct slab_class *c = &s->cls[u->cls];

        if (!u->cls)
            continue;
        check_unit(s, i);
        held++;
        with_free += u->free_n > 0;
        free_bytes += (uint64_t)u->free_n * c->slot_bytes;
        used += (uint64_t)(c->slots - u->free_n) * c->slot_bytes;
    }
    for (uint32_t c = 1; c < s->cls_n; c++)
        listed += check_list(s, c);
    MUST(listed == with_free);
    MUST(held == s->held);
    MUST(held == unit_pool_held(s->pool, s->lane));
    MUST(free_bytes == s->free_bytes);
    MUST(used == s->used_bytes);
}

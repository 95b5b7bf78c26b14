/* SPDX-License-Identifier: Apache-2.0
 *
 * Extents out of 2 MiB units: classes, runs, chains. See slab.h for the
 * picture and the invariants; slab_scatter.c holds what is done when the class
 * meant for a length has nothing. */
#include "store/slab_impl.h"

#include <string.h>

#include "base/fault.h"
#include "base/mem.h"

/* ---- classes */

static void class_add(struct slab *s, uint32_t slot_bytes)
{
    uint32_t i = s->cls_n - 1, id = s->cls_n;

    s->cls[id] = (struct slab_class){.slot_bytes = slot_bytes,
                                     .slots = UNIT_BYTES / slot_bytes,
                                     .first = UNIT_NONE};
    while (i > 0 && s->cls[s->order[i - 1]].slot_bytes > slot_bytes) {
        s->order[i] = s->order[i - 1];
        i--;
    }
    s->order[i] = (uint8_t)id;
    s->cls_n++;
}

/* Above 32 KiB a class is a whole number of slots of a unit, rounded down to
 * 4 KiB, so that little is lost at the unit's end. */
static void classes_init(struct slab *s)
{
    static const uint8_t slots[] = {56, 48, 40, 32, 28, 24, 20, 16, 14, 12,
                                    10, 8,  7,  6,  5,  4,  3,  2,  1};

    s->cls_n = 1;
    for (uint32_t kib = 4; kib <= 32; kib += 4)
        class_add(s, kib << 10);
    for (size_t i = 0; i < countof(slots); i++)
        class_add(s, (UNIT_BYTES / slots[i]) & ~4095u);
    MUST(s->cls_n == SLAB_CLASSES - SLAB_EXACT);
}

static bool is_exact(uint32_t cls)
{
    return cls >= SLAB_CLASSES - SLAB_EXACT;
}

/* Position in order of the smallest class of at least len <= UNIT_BYTES. */
static uint32_t order_at(const struct slab *s, uint64_t len)
{
    uint32_t lo = 0, hi = s->cls_n - 2;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (s->cls[s->order[mid]].slot_bytes >= len)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* The largest common class that len fills, len >= SLAB_SLOT_MIN. */
static uint32_t class_below(const struct slab *s, uint64_t len)
{
    uint32_t i = order_at(s, len);

    while (is_exact(s->order[i]) || s->cls[s->order[i]].slot_bytes > len)
        i--;
    return s->order[i];
}

uint32_t slab_next_class(const struct slab *s, uint64_t rest)
{
    uint32_t cls = s->order[order_at(s, min_u64(rest, UNIT_BYTES))];
    uint32_t slot = s->cls[cls].slot_bytes;

    if (slot <= rest || slot <= KIB(32) || slot - rest <= rest / 8)
        return cls;
    return class_below(s, rest);
}

void slab_whole_pages(struct slab *s)
{
    s->grain = 4096;
}

/* A size that would leave more than an eighth of its units unused is cut like
 * any other, and its tail gets the exact class. */
void slab_exact(struct slab *s, uint64_t block_bytes)
{
    uint64_t rest = block_bytes % UNIT_BYTES;

    while (rest >= SLAB_SLOT_MIN) {
        uint32_t slot = (uint32_t)align_up(rest, s->grain);
        uint32_t near = s->order[order_at(s, slot)];

        if (s->cls[near].slot_bytes == slot)
            return;
        if (UNIT_BYTES % slot <= UNIT_BYTES / 8) {
            if (s->exact_n == SLAB_EXACT)
                return;
            s->exact_n++;
            class_add(s, slot);
            return;
        }
        rest -= s->cls[class_below(s, rest)].slot_bytes;
    }
}

/* ---- records */

static uint32_t rec_order(uint32_t slots)
{
    return slots <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(slots - 1);
}

/* Never fails: each order has been taken at most once per unit, and the array
 * is reserved for that. */
static uint32_t recs_get(struct slab *s, uint32_t slots)
{
    uint32_t order = rec_order(slots), at = s->rec_free[order];

    if (at != UNIT_NONE) {
        s->rec_free[order] = s->recs[at].next;
    } else {
        at = s->rec_hi;
        s->rec_hi += 1u << order;
    }
    memset(&s->recs[at], 0, sizeof *s->recs << order);
    return at;
}

static void recs_put(struct slab *s, uint32_t at, uint32_t slots)
{
    uint32_t order = rec_order(slots);

    s->recs[at].next = s->rec_free[order];
    s->rec_free[order] = at;
}

/* ---- units */

static void unit_list_add(struct slab *s, uint32_t unit)
{
    struct slab_unit *u = &s->units[unit];
    struct slab_class *c = &s->cls[u->cls];

    u->prev = UNIT_NONE;
    u->next = c->first;
    if (c->first != UNIT_NONE)
        s->units[c->first].prev = unit;
    c->first = unit;
}

static void unit_list_del(struct slab *s, uint32_t unit)
{
    struct slab_unit *u = &s->units[unit];

    if (u->prev == UNIT_NONE)
        s->cls[u->cls].first = u->next;
    else
        s->units[u->prev].next = u->next;
    if (u->next != UNIT_NONE)
        s->units[u->next].prev = u->prev;
}

static void unit_cut(struct slab *s, uint32_t unit, uint32_t cls,
                     uint32_t stamp)
{
    struct slab_unit *u = &s->units[unit];
    uint32_t slots = s->cls[cls].slots;

    memset(u->free, 0, sizeof u->free);
    memset(u->free, 0xff, slots / 64 * 8);
    if (slots % 64)
        u->free[slots / 64] = (UINT64_C(1) << slots % 64) - 1;
    u->free_n = (uint16_t)slots;
    u->cls = (uint8_t)cls;
    u->stamp = stamp;
    u->recs = recs_get(s, slots);
    unit_list_add(s, unit);
    s->cls[cls].units++;
    s->held++;
    s->free_bytes += (uint64_t)slots * s->cls[cls].slot_bytes;
}

static uint32_t unit_new(struct slab *s, uint32_t cls, uint32_t stamp)
{
    uint32_t unit;

    if (fault_here("slab_unit"))
        return UNIT_NONE;
    unit = unit_pool_get(s->pool, s->lane);
    if (unit != UNIT_NONE)
        unit_cut(s, unit, cls, stamp);
    return unit;
}

static void unit_put(struct slab *s, uint32_t unit)
{
    struct slab_unit *u = &s->units[unit];
    struct slab_class *c = &s->cls[u->cls];

    unit_list_del(s, unit);
    recs_put(s, u->recs, c->slots);
    s->free_bytes -= (uint64_t)c->slots * c->slot_bytes;
    c->units--;
    s->held--;
    u->cls = 0;
    unit_pool_put(s->pool, s->lane, unit);
}

/* ---- runs */

static void bits_set(uint64_t *w, uint32_t from, uint32_t n, bool on)
{
    while (n) {
        uint32_t bit = from % 64, k = (uint32_t)min_u64(64 - bit, n);
        uint64_t m = (k == 64 ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1) << bit;

        if (on)
            w[from / 64] |= m;
        else
            w[from / 64] &= ~m;
        from += k;
        n -= k;
    }
}

void slab_take(struct slab *s, struct tier_place *p, uint32_t unit,
               uint32_t slot, uint32_t n, uint32_t owner)
{
    struct slab_unit *u = &s->units[unit];
    uint32_t at = unit * SLAB_SLOTS + slot;
    uint64_t bytes = (uint64_t)n * s->cls[u->cls].slot_bytes;

    bits_set(u->free, slot, n, false);
    u->free_n = (uint16_t)(u->free_n - n);
    if (!u->free_n)
        unit_list_del(s, unit);
    s->recs[u->recs + slot] =
        (struct slab_rec){owner, TIER_NOWHERE, (uint16_t)n};
    s->free_bytes -= bytes;
    s->used_bytes += bytes;
    if (p->tail == TIER_NOWHERE)
        p->head = at;
    else
        slab_rec_at(s, p->tail)->next = at;
    p->tail = at;
    p->extents++;
    p->bytes += bytes;
}

static uint64_t run_free(struct slab *s, uint32_t at)
{
    uint32_t unit = slab_unit_of(at), slot = at % SLAB_SLOTS;
    struct slab_unit *u = &s->units[unit];
    struct slab_rec *r = slab_rec_at(s, at);
    uint64_t bytes = (uint64_t)r->n * s->cls[u->cls].slot_bytes;

    MUST(u->cls && r->n);
    if (!u->free_n)
        unit_list_add(s, unit);
    bits_set(u->free, slot, r->n, true);
    u->free_n = (uint16_t)(u->free_n + r->n);
    r->n = 0;
    s->free_bytes += bytes;
    s->used_bytes -= bytes;
    if (u->free_n == s->cls[u->cls].slots)
        unit_put(s, unit);
    return bytes;
}

uint64_t slab_free(struct slab *s, uint32_t head)
{
    uint64_t bytes = 0;

    while (head != TIER_NOWHERE) {
        uint32_t next = slab_rec_at(s, head)->next;

        bytes += run_free(s, head);
        head = next;
    }
    return bytes;
}

/* ---- growing */

static uint32_t first_free(const struct slab_unit *u)
{
    for (uint32_t w = 0; w < countof(u->free); w++)
        if (u->free[w])
            return w * 64 + (uint32_t)__builtin_ctzll(u->free[w]);
    MUST(!"a unit of the list has a free slot");
    return 0;
}

static enum err grow_fit(struct slab *s, struct tier_place *p, uint64_t len,
                         uint32_t owner, uint32_t stamp)
{
    while (p->bytes < len && p->extents < STORE_SPANS_MAX) {
        uint32_t cls = slab_next_class(s, len - p->bytes);
        uint32_t unit = s->cls[cls].first;

        if (unit == UNIT_NONE)
            unit = unit_new(s, cls, stamp);
        if (unit == UNIT_NONE)
            return ERR_BUSY;
        slab_take(s, p, unit, first_free(&s->units[unit]), 1, owner);
    }
    return p->bytes < len ? ERR_BUSY : OK;
}

enum err slab_grow(struct slab *s, struct tier_place *p, uint64_t len,
                   uint32_t owner, uint32_t stamp, enum tier_how how)
{
    switch (how) {
    case TIER_FIT:
        return grow_fit(s, p, len, owner, stamp);
    case TIER_NEAT:
        return slab_neat(s, p, len, owner);
    case TIER_SCATTER:
        return slab_scatter(s, p, len, owner);
    }
    return ERR_INTERNAL;
}

/* Gives back the runs behind tail, for an attempt that did not succeed. */
void slab_shrink(struct slab *s, struct tier_place *p,
                 const struct tier_place *before)
{
    if (before->tail == TIER_NOWHERE) {
        slab_free(s, p->head);
    } else {
        struct slab_rec *r = slab_rec_at(s, before->tail);

        slab_free(s, r->next);
        r->next = TIER_NOWHERE;
    }
    *p = *before;
}

/* Neighbouring extents become one span: blocks of several units that were
 * taken from a fresh pool are contiguous. */
uint32_t slab_spans(const struct slab *s, uint32_t head, uint64_t off,
                    uint64_t len, struct span *spans, uint32_t cap)
{
    uint32_t n = 0;

    for (; len; head = slab_rec_at(s, head)->next) {
        uint64_t bytes, part;
        uint8_t *at;

        MUST(head != TIER_NOWHERE);
        bytes = slab_run_bytes(s, head);
        if (off >= bytes) {
            off -= bytes;
            continue;
        }
        part = min_u64(bytes - off, len);
        at = s->pool->base + slab_run_off(s, head) + off;
        if (n && spans[n - 1].p + spans[n - 1].len == at) {
            spans[n - 1].len += part;
        } else {
            MUST(n < cap);
            spans[n++] = (struct span){at, part};
        }
        off = 0;
        len -= part;
    }
    return n;
}

/* ---- set-up */

static size_t recs_bytes(const struct slab *s)
{
    return (size_t)s->pool->units * 1024 * sizeof *s->recs;
}

enum err slab_init(struct slab *s, struct unit_pool *pool, uint32_t lane)
{
    *s = (struct slab){.pool = pool, .lane = lane, .grain = 64};
    classes_init(s);
    for (size_t i = 0; i < countof(s->rec_free); i++)
        s->rec_free[i] = UNIT_NONE;
    s->units = mem_reserve(pool->units * sizeof *s->units);
    s->recs = mem_reserve(recs_bytes(s));
    if (s->units && s->recs)
        return OK;
    slab_fini(s);
    return ERR_NO_MEMORY;
}

void slab_fini(struct slab *s)
{
    for (uint32_t i = 0; s->held && i < s->pool->units; i++)
        if (s->units[i].cls) {
            s->held--;
            unit_pool_put(s->pool, s->lane, i);
        }
    if (s->units)
        mem_release(s->units, s->pool->units * sizeof *s->units);
    if (s->recs)
        mem_release(s->recs, recs_bytes(s));
    *s = (struct slab){0};
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The lock-free pool of 2 MiB units (unit_pool.h has the picture).
 *
 *   head = tag << 32 | first free unit, or UNIT_NONE in the low half
 *
 * Invariants: 1. a unit is in the list or held by exactly one lane.
 * 2. Sum of held + free_n = units when no call is under way. 3. The tag grows
 * with every put: a unit seen at the head can only come back under a larger
 * tag, so a compare-and-swap that succeeds has read a valid link. 4. wish[i]
 * is written by lane i only.
 *
 * Threads: any; nothing blocks and nothing fails but init. */
#include "store/unit_pool.h"

#include "base/mem.h"

static uint32_t load(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static uint32_t fair(const struct unit_pool *p)
{
    return p->units / p->lanes;
}

enum err unit_pool_init(struct unit_pool *p, void *base, uint64_t bytes,
                        uint32_t lanes)
{
    uint64_t units = bytes / UNIT_BYTES;
    uint32_t *next;

    MUST(lanes > 0 && lanes <= UNIT_LANES_MAX);
    if (!units || units > UNIT_POOL_MAX)
        return ERR_LIMIT;
    next = mem_reserve(units * sizeof *next);
    if (!next)
        return ERR_NO_MEMORY;
    *p = (struct unit_pool){
        .base = base, .units = (uint32_t)units, .lanes = lanes, .next = next};
    for (uint32_t i = 0; i < p->units; i++)
        next[i] = i + 1 < p->units ? i + 1 : UNIT_NONE;
    p->free_n = p->units;
    return OK;
}

void unit_pool_fini(struct unit_pool *p)
{
    mem_release(p->next, p->units * sizeof *p->next);
    *p = (struct unit_pool){0};
}

uint32_t unit_pool_get(struct unit_pool *p, uint32_t lane)
{
    uint64_t head = __atomic_load_n(&p->head, __ATOMIC_ACQUIRE), next;
    uint32_t unit;

    do {
        unit = (uint32_t)head;
        if (unit == UNIT_NONE)
            return UNIT_NONE;
        next = (head >> 32 << 32) | load(&p->next[unit]);
    } while (!__atomic_compare_exchange_n(&p->head, &head, next, true,
                                          __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    __atomic_fetch_sub(&p->free_n, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&p->held[lane], 1, __ATOMIC_RELAXED);
    if (load(&p->wish[lane]))
        unit_pool_wish(p, lane, load(&p->wish[lane]) - 1);
    return unit;
}

void unit_pool_put(struct unit_pool *p, uint32_t lane, uint32_t unit)
{
    uint64_t head = __atomic_load_n(&p->head, __ATOMIC_RELAXED), next;

    MUST(unit < p->units);
    MUST(__atomic_fetch_sub(&p->held[lane], 1, __ATOMIC_RELAXED) > 0);
    __atomic_fetch_add(&p->free_n, 1, __ATOMIC_RELAXED);
    do {
        __atomic_store_n(&p->next[unit], (uint32_t)head, __ATOMIC_RELAXED);
        next = ((head >> 32) + 1) << 32 | unit;
    } while (!__atomic_compare_exchange_n(&p->head, &head, next, true,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}

/* A lane may wish up to its fair share, so that two lanes do not take the same
 * units from each other again and again; for one block that needs more than
 * that, up to the block. keep is what such a block leaves the others. A wish is
 * one unit more than the block needs (unit_pool.h). */
uint32_t unit_pool_wanted(struct unit_pool *p, uint32_t lane)
{
    uint32_t mine = load(&p->held[lane]), share = fair(p), keep = share;
    uint32_t free_n = unit_pool_free(p), want = 0;

    for (uint32_t i = 0; i < p->lanes; i++) {
        uint32_t held = load(&p->held[i]), wish = load(&p->wish[i]);
        uint32_t most = wish > share + 1 ? wish - 1 : share;

        if (i == lane || held >= most)
            continue;
        want += (uint32_t)min_u64(wish, most - held);
        if (most > share)
            keep = (uint32_t)min_u64(keep, p->units - min_u64(most, p->units));
    }
    if (want <= free_n || mine <= keep)
        return 0;
    return (uint32_t)min_u64(want - free_n, mine - keep);
}

void unit_pool_wish(struct unit_pool *p, uint32_t lane, uint32_t units)
{
    __atomic_store_n(&p->wish[lane], units, __ATOMIC_RELAXED);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters of slots, and their sum (heat.h). The decay halves what is not said
 * again in about two seconds at a look every 500 ms: a look weighs a quarter.
 */
#include "server/heat.h"

#include "base/mem.h"

enum { HEAT_OLD = 3, HEAT_ALL = 4 }; /* part of the old in the new */

static size_t heat_bytes(uint32_t n)
{
    return n * sizeof(uint32_t);
}

/* ---- A lane's counters --------------------------------------------------- */

enum err heat_init(struct heat *h, uint32_t idx, uint32_t lanes)
{
    uint32_t n = (WIRE_SLOTS + lanes - 1) / lanes;

    *h = (struct heat){
        .n = n, .idx = idx, .lanes = lanes, .seed = UINT64_C(1) + idx};
    h->ops = mem_reserve(heat_bytes(n));
    h->kib = mem_reserve(heat_bytes(n));
    if (h->ops && h->kib)
        return OK;
    heat_fini(h);
    return ERR_NO_MEMORY;
}

void heat_fini(struct heat *h)
{
    mem_release(h->ops, heat_bytes(h->n));
    mem_release(h->kib, heat_bytes(h->n));
    *h = (struct heat){0};
}

void heat_again(struct heat *h)
{
    h->seed ^= h->seed << 13;
    h->seed ^= h->seed >> 7;
    h->seed ^= h->seed << 17;
    h->skip = (uint32_t)(h->seed >> 32) % (2 * HEAT_EVERY - 1);
}

static void heat_count(uint32_t *word, uint32_t n)
{
    __atomic_store_n(word, *word + n, __ATOMIC_RELAXED);
}

void heat_add(struct heat *h, uint32_t slot, uint64_t bytes)
{
    uint32_t i = slot / h->lanes;

    MUST(slot < WIRE_SLOTS && i < h->n);
    if (slot % h->lanes != h->idx)
        return; /* a client that does not know the lanes */
    heat_count(&h->ops[i], 1);
    heat_count(&h->kib[i], (uint32_t)((bytes + KIB(1) - 1) / KIB(1)));
}

/* ---- Control's sum ------------------------------------------------------- */

enum err heat_sum_init(struct heat_sum *s)
{
    size_t bytes = heat_bytes(WIRE_SLOTS);

    s->seen_ops = mem_reserve(bytes);
    s->seen_kib = mem_reserve(bytes);
    s->ops = mem_reserve(bytes);
    s->kib = mem_reserve(bytes);
    if (s->seen_ops && s->seen_kib && s->ops && s->kib)
        return OK;
    heat_sum_fini(s);
    return ERR_NO_MEMORY;
}

void heat_sum_fini(struct heat_sum *s)
{
    size_t bytes = heat_bytes(WIRE_SLOTS);

    mem_release(s->seen_ops, bytes);
    mem_release(s->seen_kib, bytes);
    mem_release(s->ops, bytes);
    mem_release(s->kib, bytes);
    *s = (struct heat_sum){0};
}

/* rate: counts of the lanes a second, by its last value and what came since. */
static uint32_t heat_rate(uint32_t rate, uint32_t *seen, uint32_t now,
                          uint32_t ms)
{
    uint64_t grown = (uint64_t)(now - *seen) * HEAT_EVERY * 1000 / ms;

    *seen = now;
    return (uint32_t)min_u64(
        ((uint64_t)rate * HEAT_OLD + grown) / HEAT_ALL, UINT32_MAX);
}

void heat_sum_add(struct heat_sum *s, const struct heat *h, uint32_t ms)
{
    if (!h->ops || ms == 0)
        return;
    for (uint32_t i = 0, slot = h->idx; slot < WIRE_SLOTS;
         i++, slot += h->lanes) {
        uint32_t ops = __atomic_load_n(&h->ops[i], __ATOMIC_RELAXED);
        uint32_t kib = __atomic_load_n(&h->kib[i], __ATOMIC_RELAXED);

        if (ops == s->seen_ops[slot] && !s->ops[slot] && !s->kib[slot])
            continue; /* neither page is touched for a slot nobody uses */
        s->ops[slot] = heat_rate(s->ops[slot], &s->seen_ops[slot], ops, ms);
        s->kib[slot] = heat_rate(s->kib[slot], &s->seen_kib[slot], kib, ms);
    }
}

uint32_t heat_sum_top(const struct heat_sum *s, struct heat_slot *out,
                      uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
        uint32_t ops = s->ops[slot], at;

        if (!ops || (n == max && (!max || ops <= out[max - 1].ops)))
            continue;
        at = n < max ? n++ : max - 1;
        for (; at > 0 && out[at - 1].ops < ops; at--)
            out[at] = out[at - 1];
        out[at] = (struct heat_slot){slot, ops, KIB((uint64_t)s->kib[slot])};
    }
    return n;
}

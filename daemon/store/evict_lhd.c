/* SPDX-License-Identifier: Apache-2.0
 *
 * Hit density (after Beckmann et al., NSDI 2018) as a sampled score: how many
 * hits a block will still give, divided by the accesses it will stay for and
 * by its pages. Learnt online from what happened to blocks of its class:
 *
 *   class = (uses so far: 0, 1, 2, more) x (age: four steps to an octave)
 *
 *                sum of hits at ages >= a, this use count
 *   density(a) = ----------------------------------------
 *                sum of accesses lived through from a on
 *
 * Every period (as many events as there are blocks, at least 4096) the
 * densities are made anew and the counts fade by 1/8. To each class one hit in
 * four lives of its age is added: that orders blocks as LRU does before
 * anything is learnt, and weighs little against what was seen. The sum over
 * all older ages is in lived time, so a prior for ages that nothing reaches
 * would drown what was learnt: hence one prior for each class, not summed.
 *
 * Integers only; 8 KiB of state and 4 bytes a block. Nothing fails. */
#include "store/evict_score.h"

enum {
    LHD_USES = 4,
    LHD_AGES = 124, /* 0 to 3, then 30 octaves of 4 */
    LHD_PERIOD_MIN = 4096,
    LHD_PRIOR_LIVES = 4,
};

struct lhd_class {
    uint32_t hits, evictions;
};

struct lhd {
    struct lhd_class seen[LHD_USES][LHD_AGES];
    uint64_t density[LHD_USES][LHD_AGES]; /* hits per 2^40 accesses */
    uint32_t events, period;
};

static uint32_t lhd_age(uint32_t age)
{
    uint32_t octave;

    if (age < 4)
        return age;
    octave = 31 - (uint32_t)__builtin_clz(age);
    return octave * 4 - 4 + (age >> (octave - 2) & 3);
}

/* The first age of a class, and how many accesses the class spans. */
static uint64_t lhd_start(uint32_t a)
{
    return a < 4 ? a : (uint64_t)(4 + a % 4) << (a / 4 - 1);
}

static uint64_t lhd_width(uint32_t a)
{
    return a < 4 ? 1 : UINT64_C(1) << (a / 4 - 1);
}

static void lhd_density(const struct lhd_class *seen, uint64_t *density)
{
    unsigned __int128 lived = 0, weak;
    uint64_t hits = 0, events = 0;

    for (uint32_t a = LHD_AGES; a-- > 0;) {
        hits += seen[a].hits;
        events += (uint64_t)seen[a].hits + seen[a].evictions;
        lived += (unsigned __int128)events * lhd_width(a);
        weak = (unsigned __int128)LHD_PRIOR_LIVES * lhd_start(a) + 1;
        density[a] =
            (uint64_t)(((unsigned __int128)(hits + 1) << 40) / (lived + weak));
    }
}

static void lhd_init(void *state)
{
    struct lhd *l = state;

    l->period = LHD_PERIOD_MIN;
    for (uint32_t u = 0; u < LHD_USES; u++)
        lhd_density(l->seen[u], l->density[u]);
}

/* Counts one end of an age; every period, learns. */
static struct lhd_class *lhd_event(struct evict *e, struct lhd *l,
                                   const struct evict_node *n)
{
    uint32_t uses = n->freq < LHD_USES ? n->freq : LHD_USES - 1;

    if (++l->events >= l->period) {
        l->events = 0;
        l->period = e->members + e->held;
        if (l->period < LHD_PERIOD_MIN)
            l->period = LHD_PERIOD_MIN;
        for (uint32_t u = 0; u < LHD_USES; u++) {
            lhd_density(l->seen[u], l->density[u]);
            for (uint32_t a = 0; a < LHD_AGES; a++) {
                l->seen[u][a].hits -= l->seen[u][a].hits / 8;
                l->seen[u][a].evictions -= l->seen[u][a].evictions / 8;
            }
        }
    }
    return &l->seen[uses][lhd_age(e->clock - n->stamp)];
}

static void lhd_used(struct evict *e, void *state, const struct evict_node *n)
{
    lhd_event(e, state, n)->hits++;
}

static void lhd_evicted(struct evict *e, void *state,
                        const struct evict_node *n)
{
    lhd_event(e, state, n)->evictions++;
}

static uint64_t lhd_score(const struct evict *e, const void *state,
                          const struct evict_node *n)
{
    const struct lhd *l = state;
    uint32_t uses = n->freq < LHD_USES ? n->freq : LHD_USES - 1;

    return l->density[uses][lhd_age(e->clock - n->stamp)] / n->weight;
}

static const struct evict_score lhd_score_fns = {
    .bytes = sizeof(struct lhd),
    .init = lhd_init,
    .score = lhd_score,
    .used = lhd_used,
    .evicted = lhd_evicted,
};

static size_t lhd_state_bytes(uint64_t pages_max)
{
    return evict_score_bytes(&lhd_score_fns, pages_max);
}

const struct evict_ops evict_lhd = {
    .name = evict_lhd_name,
    .doc = evict_lhd_doc,
    .state_bytes = lhd_state_bytes,
    EVICT_SCORE_OPS,
    .score = &lhd_score_fns,
};

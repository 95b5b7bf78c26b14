/* SPDX-License-Identifier: Apache-2.0
 *
 * The Gittins index of the reuse age, as a sampled score: a block is worth the
 * best rate of hits per access that keeping it can still give,
 *
 *                      P(used again before age + h)
 *   index(age) = max  ------------------------------
 *                 h    mean time that takes, h at most
 *
 * for its class = (uses so far: 0, 1, 2, 3, more) x (age: two steps to an
 * octave). Small caches so keep a part of what came long enough for its next
 * use instead of keeping all too shortly (as frequency admission does), and
 * large ones go by recency. Three parts:
 *
 *   learner   a hash-sampled set of blocks, resident or not, followed from use
 *             to use: hits and time spent (exposure) by class. So ages that no
 *             block of the cache reaches are known too, and what is learnt
 *             does not depend on what was evicted.
 *   rows      index by class, one class in turn made anew each PERIOD / USES
 *             accesses; counts fade by 1/64 each time. A class that has little
 *             to tell follows the class with one use less, class 0 the age
 *             before: with nothing learnt the order is that of LRU.
 *   memory    use counts of evicted blocks: sets of 16-bit slots (12 bits of
 *             the hash, 4 of the count), newest first, in each set the oldest
 *             forgotten. It lasts for about eight times the blocks of a cache
 *             of 64 KiB blocks; without it a block comes back as a new one.
 *
 * The sample has a bounded number of blocks. Its rate falls when it has to
 * forget a block that is young against the cache, and rises when half of it is
 * empty. What is forgotten has been counted until then, so nothing is biased.
 *
 * Time is the number of uses and inserts that this policy saw. The index does
 * not look at weights: a hit of a large block saves more, and it takes more.
 * 14 KiB of state, 4 bytes a block and a byte a page. Nothing fails. */
#include "store/evict_score.h"

#include <string.h>

enum {
    USES = 5,
    OCTAVE_MIN = 4, /* younger than 2^4: age class 0 */
    AGES = 1 + 2 * (31 - OCTAVE_MIN),
    PERIOD = 4096,
    FADE = 64,
    HIT = 64, /* a hit as counted, so that fading has digits */
    P_ONE = 1 << 16,
    P_MAX = P_ONE * 9 / 10,
    P_START = P_ONE / 8, /* of age class 0 when nothing is known */
    PRIOR = 16 * HIT,    /* as many lives weigh what is only assumed */
    SAMPLES = 768,
    SAMPLE_WAYS = 8,
    SAMPLE_SWEEP = 2, /* looked at for each access */
    REACH = 32,       /* lifetimes of the cache that the sample spans */
    MEMORY_WAYS = 16,
    MEMORY_SETS_MAX = 1 << 20,
    MEMORY_USES_MAX = 15,
    TIE_BITS = 12,
};

struct sample {
    uint32_t tag;         /* 24 bits of the hash, 8 of the use count; 0: none */
    uint32_t stamp, seen; /* last use; counted until */
};

struct gittins {
    uint64_t index[USES][AGES]; /* hits per 2^40 accesses */
    uint64_t exposure[USES][AGES];
    uint32_t hits[USES][AGES];
    uint16_t p[USES][AGES]; /* of a hit in this age class, of P_ONE */
    struct sample samples[SAMPLES];
    uint32_t samples_n, sweep;
    uint32_t threshold; /* hashes below it are sampled */
    uint32_t now, events, row;
    uint32_t sets; /* of the memory */
};

static uint32_t age_class(uint32_t age)
{
    uint32_t octave;

    if (age < 1 << OCTAVE_MIN)
        return 0;
    octave = 31 - (uint32_t)__builtin_clz(age);
    if (octave > 30)
        return AGES - 1;
    return 1 + 2 * (octave - OCTAVE_MIN) + (age >> (octave - 1) & 1);
}

static uint32_t age_width(uint32_t a)
{
    return a ? UINT32_C(1) << (OCTAVE_MIN - 1 + (a - 1) / 2) : 1 << OCTAVE_MIN;
}

static uint32_t age_start(uint32_t a)
{
    return a ? (2 + (a - 1) % 2) * age_width(a) : 0;
}

/* ---- rows */

static void row_fade(struct gittins *g, uint32_t u)
{
    for (uint32_t a = 0; a < AGES; a++) {
        g->hits[u][a] -= (g->hits[u][a] + FADE - 1) / FADE;
        g->exposure[u][a] -= (g->exposure[u][a] + FADE - 1) / FADE;
    }
}

static void row_chances(struct gittins *g, uint32_t u)
{
    uint64_t before = P_START;

    for (uint32_t a = 0; a < AGES; a++) {
        uint64_t assumed = u ? g->p[u - 1][a] : before;
        uint64_t lives = g->exposure[u][a] * HIT / age_width(a);
        uint64_t hits = ((uint64_t)g->hits[u][a] << 16) + PRIOR * assumed;
        uint64_t p = hits / (lives + g->hits[u][a] / 2 + PRIOR);

        g->p[u][a] = (uint16_t)min_u64(p, P_MAX);
        /* Age class 0 is twice as wide as the next. */
        before = g->p[u][a] * UINT64_C(9) / (a ? 10 : 20);
    }
}

/* The best ratio of hits to time from this age class on. */
static uint64_t row_index(const uint16_t *p, uint32_t a)
{
    uint64_t alive = 1 << 30, hits = 0, lived = 0;
    uint64_t best_hits = 0, best_lived = 1;

    for (; a < AGES; a++) {
        hits += alive * p[a] >> 16;
        lived += (alive - (alive * p[a] >> 17)) * age_width(a);
        alive -= alive * p[a] >> 16;
        if ((unsigned __int128)hits * best_lived >
            (unsigned __int128)best_hits * lived) {
            best_hits = hits;
            best_lived = lived;
        }
    }
    return (uint64_t)(((unsigned __int128)best_hits << 40) / best_lived);
}

static void row_make(struct gittins *g, uint32_t u)
{
    row_chances(g, u);
    for (uint32_t a = 0; a < AGES; a++)
        g->index[u][a] = row_index(g->p[u], a);
}

/* ---- learner */

static uint32_t uses_class(uint32_t uses)
{
    return uses < USES ? uses : USES - 1;
}

/* Counts the time since it was last looked at. */
static void sample_live(struct gittins *g, struct sample *x)
{
    uint64_t *exposure = g->exposure[uses_class(x->tag & UINT8_MAX)];
    uint32_t from = x->seen - x->stamp, to = g->now - x->stamp;
    uint32_t a = age_class(from), last = age_class(to);

    for (; a < last; a++) {
        uint32_t end = age_start(a + 1);

        exposure[a] += end - from;
        from = end;
    }
    exposure[a] += to - from;
    x->seen = g->now;
}

static void sample_drop(struct gittins *g, struct sample *x)
{
    sample_live(g, x);
    x->tag = 0;
    g->samples_n--;
}

/* A few of the sample in turn: counted, or dropped if the rate has fallen. The
 * threshold compares 24 bits, those that the tag has. */
static void samples_sweep(struct gittins *g)
{
    for (uint32_t i = 0; i < SAMPLE_SWEEP; i++) {
        struct sample *x = &g->samples[g->sweep];

        g->sweep = g->sweep + 1 < SAMPLES ? g->sweep + 1 : 0;
        if (!x->tag)
            continue;
        if (x->tag >> 8 >= g->threshold >> 8)
            sample_drop(g, x);
        else
            sample_live(g, x);
    }
}

/* A free place in the set, made by forgetting its oldest if need be. */
static struct sample *sample_place(struct gittins *g, struct sample *set,
                                   uint32_t lifetime)
{
    struct sample *oldest = set;

    for (uint32_t i = 0; i < SAMPLE_WAYS; i++) {
        if (!set[i].tag)
            return &set[i];
        if (g->now - set[i].stamp > g->now - oldest->stamp)
            oldest = &set[i];
    }
    if ((g->now - oldest->stamp) / REACH < lifetime)
        g->threshold -= g->threshold / 16;
    sample_drop(g, oldest);
    return oldest;
}

static void sample_use(struct gittins *g, uint64_t hash, uint32_t lifetime)
{
    uint32_t high = (uint32_t)(hash >> 32), tag = high & ~UINT32_C(255);
    uint32_t at = (uint32_t)(hash & UINT32_MAX) % (SAMPLES / SAMPLE_WAYS);
    struct sample *set = &g->samples[at * SAMPLE_WAYS], *x = NULL;

    for (uint32_t i = 0; i < SAMPLE_WAYS; i++) {
        if (set[i].tag && (set[i].tag & ~UINT32_C(255)) == tag)
            x = &set[i];
    }
    if (x) {
        sample_live(g, x);
        g->hits[uses_class(x->tag & UINT8_MAX)][age_class(g->now - x->stamp)] +=
            HIT;
        x->tag += (x->tag & UINT8_MAX) < USES;
        x->stamp = x->seen = g->now;
        return;
    }
    x = sample_place(g, set, lifetime);
    *x = (struct sample){.tag = tag, .stamp = g->now, .seen = g->now};
    g->samples_n += tag != 0;
}

static void learn(struct evict *e, struct gittins *g, uint64_t hash)
{
    g->now++;
    samples_sweep(g);
    if (hash >> 40 < g->threshold >> 8)
        sample_use(g, hash, e->members + e->held);
    if (++g->events < PERIOD / USES)
        return;
    g->events = 0;
    row_make(g, g->row);
    row_fade(g, g->row);
    g->row = g->row + 1 < USES ? g->row + 1 : 0;
    if (g->samples_n < SAMPLES / 2)
        g->threshold +=
            (uint32_t)min_u64(g->threshold / 16, UINT32_MAX - g->threshold);
}

/* ---- memory of evicted blocks */

static uint32_t memory_sets(uint64_t pages_max)
{
    uint64_t sets = pages_max / (2 * MEMORY_WAYS);

    return (uint32_t)min_u64(max_u64(sets, 4), MEMORY_SETS_MAX);
}

static size_t memory_offset(const struct evict_score *s, uint64_t pages_max)
{
    return align_up(evict_score_bytes(s, pages_max), sizeof(uint64_t));
}

static uint16_t *memory_set(const struct evict *e, uint64_t hash)
{
    const struct gittins *g = e->state;
    char *at =
        (char *)e->state + memory_offset(e->ops->score, e->host.pages_max);
    uint64_t set = (hash & UINT32_MAX) * g->sets >> 32;

    return (uint16_t *)(void *)at + set * MEMORY_WAYS;
}

static uint16_t memory_mark(uint64_t hash)
{
    return (uint16_t)(hash >> 32 << 4);
}

static void memory_add(const struct evict *e, uint64_t hash, uint32_t uses)
{
    uint16_t *set = memory_set(e, hash);

    memmove(set + 1, set, (MEMORY_WAYS - 1) * sizeof(*set));
    set[0] = (uint16_t)(memory_mark(hash) | min_u64(uses, MEMORY_USES_MAX));
}

/* Uses before it was evicted, and the insert; 0 if not known. */
static uint8_t memory_take(const struct evict *e, uint64_t hash)
{
    uint16_t *set = memory_set(e, hash), mark = memory_mark(hash);

    for (uint32_t i = 0; i < MEMORY_WAYS; i++) {
        uint32_t uses = set[i] & MEMORY_USES_MAX;

        if (uses && (set[i] & ~MEMORY_USES_MAX) == mark) {
            memmove(set + i, set + i + 1, (MEMORY_WAYS - 1 - i) * sizeof(*set));
            set[MEMORY_WAYS - 1] = 0;
            return (uint8_t)uses;
        }
    }
    return 0;
}

/* ---- the policy */

static void gittins_init(struct evict *e)
{
    struct gittins *g = e->state;

    evict_score_init(e);
    g->threshold = UINT32_MAX;
    g->sets = memory_sets(e->host.pages_max);
    for (uint32_t u = 0; u < USES; u++)
        row_make(g, u);
}

/* A block whose hint was taken back is inserted too: no access, and its uses
 * are known to evict.c. */
static void gittins_insert(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);
    uint64_t hash = e->host.hash(e->host.arg, id);

    if (n->stamp == e->clock)
        learn(e, e->state, hash);
    n->freq = memory_take(e, hash);
    evict_score_insert(e, id);
}

static void gittins_hit(struct evict *e, uint32_t id)
{
    learn(e, e->state, e->host.hash(e->host.arg, id));
    evict_score_hit(e, id);
}

static void gittins_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    const struct evict_node *n = evict_node_at(&e->host, id);

    if (why == EVICT_PRESSURE)
        memory_add(e, e->host.hash(e->host.arg, id), n->freq + 1u);
    evict_score_remove(e, id, why);
}

/* Of two in one class the older goes. */
static uint64_t gittins_score(const struct evict *e, const void *state,
                              const struct evict_node *n)
{
    const struct gittins *g = state;
    uint32_t age = e->clock - n->stamp, a = age_class(age);
    uint64_t into = age - age_start(a), tie = UINT64_C(1) << TIE_BITS;

    into = min_u64(into * tie / age_width(a), tie - 1);
    return g->index[uses_class(n->freq)][a] * tie + (tie - 1 - into);
}

static const struct evict_score gittins_score_fns = {
    .bytes = sizeof(struct gittins),
    .score = gittins_score,
};

static size_t gittins_state_bytes(uint64_t pages_max)
{
    return memory_offset(&gittins_score_fns, pages_max) +
           memory_sets(pages_max) * MEMORY_WAYS * sizeof(uint16_t);
}

const struct evict_ops evict_gittins = {
    .name = evict_gittins_name,
    .doc = evict_gittins_doc,
    .state_bytes = gittins_state_bytes,
    .init = gittins_init,
    .insert = gittins_insert,
    .hit = gittins_hit,
    .release = evict_score_release,
    .remove = gittins_remove,
    .victim = evict_score_victim,
    .score = &gittins_score_fns,
};

/* SPDX-License-Identifier: Apache-2.0
 *
 * Miss-ratio curve: see mrc.h for the method.
 *
 *   buckets -> sample: | hash | place | pages |
 *   order    place 1 2 3 ... used       a block's last use has one place, a
 *            [s][ ][s][s]...            hole where it was used again; when the
 *                                       places are used up, holes are squeezed
 *   sums     Fenwick tree of the pages by place: the pages used since place p
 *            are all minus those up to p
 *
 * 1. order[s.at] = s + 1 for each sample s followed, and pages is their sum.
 * 2. Each followed sample has high < threshold.
 * 3. There are twice as many places as samples, so squeezing costs O(1) an
 *    access on average.
 *
 * SHARDS' correction: a sample has by chance more or fewer accesses than its
 * rate says, mostly of the hottest blocks; the difference is added to the hits
 * of the smallest distance.
 *
 * Called by one lane. Nothing fails after mrc_init. */
#include "store/mrc.h"

#include <string.h>

#include "base/mem.h"

enum { ONE = 256, PAGE_SHIFT = 12, SUB_BITS = 4, MAKE_ROOM_PART = 8 };

static uint64_t mrc_rate_one(void)
{
    return UINT64_C(1) << 32;
}

static uint32_t ceil_pow2(uint32_t n)
{
    return n < 2 ? 1 : UINT32_C(1) << (32 - __builtin_clz(n - 1));
}

enum err mrc_init(struct mrc *m, uint32_t samples_max, uint64_t max_bytes)
{
    size_t n = ceil_pow2(samples_max);
    char *p;

    MUST(samples_max >= MRC_SAMPLES_MIN && samples_max <= MRC_SAMPLES_MAX);
    *m = (struct mrc){
        .samples_max = samples_max,
        .bucket_mask = (uint32_t)n - 1,
        .places = (uint32_t)n * 2,
        .threshold = mrc_rate_one(),
        .max_pages = max_u64(max_bytes >> PAGE_SHIFT, 1),
    };
    m->mem_bytes = (n * 2 + 1) * (sizeof(*m->sums) + sizeof(*m->order)) +
                   n * (sizeof(*m->samples) + sizeof(*m->buckets));
    p = mem_reserve(m->mem_bytes);
    if (!p)
        return ERR_NO_MEMORY;
    m->sums = (uint64_t *)(void *)p;
    m->order = (uint32_t *)(void *)(m->sums + n * 2 + 1);
    m->buckets = m->order + n * 2 + 1;
    m->samples = (struct mrc_sample *)(void *)(m->buckets + n);
    return OK;
}

void mrc_fini(struct mrc *m)
{
    mem_release(m->sums, m->mem_bytes);
    *m = (struct mrc){.samples = NULL};
}

/* ---- the order of use */

static void sums_add(struct mrc *m, uint32_t place, uint64_t pages)
{
    for (; place <= m->places; place += place & -place)
        m->sums[place] += pages;
}

static uint64_t sums_to(const struct mrc *m, uint32_t place)
{
    uint64_t sum = 0;

    for (; place; place &= place - 1)
        sum += m->sums[place];
    return sum;
}

/* All samples move to the first places; the tree is made anew. */
static void order_squeeze(struct mrc *m)
{
    uint32_t to = 0;

    memset(m->sums, 0, (m->places + 1) * sizeof(*m->sums));
    for (uint32_t from = 1; from <= m->used; from++) {
        uint32_t s = m->order[from];

        if (!s)
            continue;
        m->order[from] = 0;
        m->order[++to] = s;
        m->samples[s - 1].at = to;
        m->sums[to] = m->samples[s - 1].pages;
    }
    for (uint32_t i = 1; i <= m->places; i++) {
        uint32_t up = i + (i & -i);

        if (up <= m->places)
            m->sums[up] += m->sums[i];
    }
    m->used = to;
}

static void order_enter(struct mrc *m, uint32_t s)
{
    struct mrc_sample *x = &m->samples[s];

    if (m->used == m->places)
        order_squeeze(m);
    x->at = ++m->used;
    m->order[x->at] = s + 1;
    m->pages += x->pages;
    sums_add(m, x->at, x->pages);
}

static void order_leave(struct mrc *m, uint32_t s)
{
    const struct mrc_sample *x = &m->samples[s];

    m->order[x->at] = 0;
    m->pages -= x->pages;
    sums_add(m, x->at, -(uint64_t)x->pages);
}

/* ---- samples */

/* The link that leads to the sample, or the 0 at its chain's end. */
static uint32_t *sample_link(const struct mrc *m, uint32_t high, uint32_t low)
{
    uint32_t *link = &m->buckets[low & m->bucket_mask];

    while (*link && (m->samples[*link - 1].low != low ||
                     m->samples[*link - 1].high != high))
        link = &m->samples[*link - 1].next;
    return link;
}

static void sample_forget(struct mrc *m, uint32_t s)
{
    struct mrc_sample *x = &m->samples[s];
    uint32_t *link = sample_link(m, x->high, x->low);

    MUST(*link == s + 1);
    *link = x->next;
    order_leave(m, s);
    x->next = m->free;
    m->free = s + 1;
    m->samples_n--;
}

static uint64_t mrc_scaled(const struct mrc *m, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)n << 32) / m->threshold);
}

/* Forgets what lies too far back to matter, else lowers the rate, until an
 * eighth of the samples is free. */
static void samples_make_room(struct mrc *m)
{
    uint32_t enough = m->samples_max - m->samples_max / MAKE_ROOM_PART;

    for (uint32_t place = 1; place <= m->used && m->samples_n > enough;
         place++) {
        if (mrc_scaled(m, m->pages) <= m->max_pages)
            break;
        if (m->order[place])
            sample_forget(m, m->order[place] - 1);
    }
    while (m->samples_n > enough) {
        m->threshold -= m->threshold / (2 * MAKE_ROOM_PART);
        for (uint32_t place = 1; place <= m->used; place++) {
            uint32_t s = m->order[place];

            if (s && m->samples[s - 1].high >= m->threshold)
                sample_forget(m, s - 1);
        }
    }
}

static void sample_new(struct mrc *m, uint32_t high, uint32_t low,
                       uint32_t pages)
{
    uint32_t *bucket = &m->buckets[low & m->bucket_mask];
    uint32_t s = m->free ? m->free - 1 : m->fresh++;
    struct mrc_sample *x = &m->samples[s];

    if (m->free)
        m->free = x->next;
    *x = (struct mrc_sample){
        .high = high, .low = low, .pages = pages, .next = *bucket};
    *bucket = s + 1;
    m->samples_n++;
    order_enter(m, s);
}

/* ---- the histogram */

static uint32_t bin_of(uint64_t pages)
{
    uint32_t octave;

    if (pages < 1 << SUB_BITS)
        return (uint32_t)pages;
    octave = 63 - (uint32_t)__builtin_clzll(pages);
    octave = (uint32_t)min_u64(octave, MRC_BINS / 16 + SUB_BITS - 2);
    return ((octave - SUB_BITS + 1) << SUB_BITS) +
           (uint32_t)(pages >> (octave - SUB_BITS) & 15);
}

static uint64_t bin_start(uint32_t b)
{
    return b < 16 ? b : (uint64_t)(16 + b % 16) << (b / 16 - 1);
}

void mrc_access(struct mrc *m, uint64_t hash, uint32_t pages)
{
    uint32_t high = (uint32_t)(hash >> 32), low = (uint32_t)hash, s;
    uint64_t weight;

    m->accesses++;
    if (high >= m->threshold)
        return;
    weight = mrc_scaled(m, ONE);
    m->sampled += weight;
    s = *sample_link(m, high, low);
    if (s) {
        struct mrc_sample *x = &m->samples[--s];
        uint64_t since = m->pages - sums_to(m, x->at);

        m->hits[bin_of(mrc_scaled(m, since) + pages)] += weight;
        order_leave(m, s);
        x->pages = pages;
        order_enter(m, s);
        return;
    }
    if (m->samples_n == m->samples_max)
        samples_make_room(m);
    if (high < m->threshold)
        sample_new(m, high, low, pages);
}

static uint64_t mrc_hits(const struct mrc *m, uint64_t pages)
{
    uint32_t last = bin_of(pages);
    uint64_t start = bin_start(last), width = bin_start(last + 1) - start;
    uint64_t hits = 0;

    for (uint32_t b = 0; b < last; b++)
        hits += m->hits[b];
    pages = min_u64(pages - start + 1, width);
    return hits + (uint64_t)((unsigned __int128)m->hits[last] * pages / width);
}

void mrc_curve(const struct mrc *m, struct mrc_point *points, uint32_t n)
{
    uint64_t all = m->accesses * ONE;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t pages = points[i].bytes >> PAGE_SHIFT;
        uint64_t hits = mrc_hits(m, pages);

        if (pages == 0)
            hits = 0;
        else if (all >= m->sampled)
            hits += all - m->sampled;
        else
            hits -= min_u64(hits, m->sampled - all);
        points[i].hits = min_u64(hits, all) / ONE;
        points[i].accesses = m->accesses;
    }
}

void mrc_fade(struct mrc *m)
{
    m->accesses /= 2;
    m->sampled /= 2;
    for (uint32_t b = 0; b < MRC_BINS; b++)
        m->hits[b] /= 2;
}

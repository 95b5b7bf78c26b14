/* SPDX-License-Identifier: Apache-2.0
 *
 * The failure detector (detect.h): one pass over the members per tick. */
#include "cluster/detect.h"

#include <stdlib.h>

#include "base/fault.h"

enum err detect_init(struct detect *d, const struct detect_cfg *cfg,
                     uint64_t now_ms)
{
    *d = (struct detect){
        .cfg = *cfg,
        .start_ms = now_ms,
        .tick_ms = now_ms,
    };
    if (!fault_here("detect_init"))
        d->nodes = calloc(NODES_MAX, sizeof(*d->nodes));
    return d->nodes ? OK : ERR_NO_MEMORY;
}

void detect_fini(struct detect *d)
{
    free(d->nodes);
    *d = (struct detect){0};
}

static struct detect_node *get(struct detect *d, uint16_t node, uint64_t now_ms)
{
    struct detect_node *n = &d->nodes[node];

    if (!n->known) {
        n->known = true;
        n->was = NODE_UP;
        n->heard_ms = n->steady_ms = now_ms;
    }
    return n;
}

void detect_heard(struct detect *d, uint16_t node, uint64_t now_ms)
{
    struct detect_node *n;

    if (node >= NODES_MAX)
        return;
    n = get(d, node, now_ms);
    if (now_ms - n->heard_ms >= d->cfg.suspect_ms)
        n->steady_ms = now_ms;
    n->heard_ms = now_ms;
    n->heard = true;
}

void detect_report(struct detect *d, uint16_t by, uint16_t node,
                   uint64_t now_ms)
{
    struct detect_node *n;
    uint32_t oldest = 0, fresh = 0;

    if (node >= NODES_MAX || by == node)
        return;
    n = get(d, node, now_ms);
    for (uint32_t i = 0; i < DETECT_REPORTERS; i++) {
        if (n->reported_ms[i] && n->reporter[i] == by) {
            oldest = i;
            break;
        }
        if (n->reported_ms[i] < n->reported_ms[oldest])
            oldest = i;
    }
    n->reporter[oldest] = by;
    n->reported_ms[oldest] = now_ms;
    for (uint32_t i = 0; i < DETECT_REPORTERS; i++)
        fresh += n->reported_ms[i] &&
                 now_ms - n->reported_ms[i] <= DETECT_REPORT_MS;
    if (fresh == DETECT_REPORTERS)
        n->probation_ms = now_ms + DETECT_PROBATION_MS;
}

bool detect_marked(const struct detect *d, uint16_t node, uint64_t now_ms)
{
    const struct detect_node *n = &d->nodes[node];

    return n->known && (n->suspect || now_ms < n->probation_ms);
}

/* The time this process slept is nobody's silence. */
static void forgive_sleep(struct detect *d, uint32_t node_n, uint64_t now_ms)
{
    uint64_t gap = now_ms - d->tick_ms;

    d->tick_ms = now_ms;
    if (gap < DETECT_LATE_MS)
        return;
    d->late++;
    for (uint32_t i = 0; i < node_n; i++) {
        struct detect_node *n = &d->nodes[i];

        if (n->known)
            n->heard_ms = min_u64(n->heard_ms + gap, now_ms);
    }
}

/* Marks, and how many of the serving members are silent. */
static bool half_silent(struct detect *d, const struct view *v, uint16_t self,
                        uint64_t now_ms)
{
    uint32_t serving = 0, silent = 0;

    for (uint32_t i = 0; i < v->node_n; i++) {
        if (!node_serves(&v->nodes[i]))
            continue;
        serving++;
        silent += i != self && now_ms - get(d, (uint16_t)i, now_ms)->heard_ms >=
                                   d->cfg.suspect_ms;
    }
    return serving >= 3 && 2 * silent > serving;
}

/* How long a node that was DOWN must be steady before it is UP. */
static uint64_t steady_ms(const struct detect_node *n)
{
    if (n->flaps <= 1)
        return 0;
    return min_u64(UINT64_C(1000) << (n->flaps - 2), DETECT_STEADY_MAX_MS);
}

static void note_state(struct detect_node *n, uint8_t state, uint64_t now_ms)
{
    if (state == n->was)
        return;
    if (state == NODE_DOWN) {
        if (n->flap_ms && now_ms - n->flap_ms > DETECT_FORGIVE_MS)
            n->flaps = 0;
        n->flaps = (uint8_t)(n->flaps < 8 ? n->flaps + 1 : 8);
        n->flap_ms = now_ms;
        n->down_ms = now_ms;
    }
    n->asked_ms = 0;
    n->was = state;
}

/* What is to be said of one node; false: nothing. */
static bool judge(const struct detect *d, struct detect_node *n,
                  const struct node *of, uint64_t now_ms,
                  enum detect_kind *kind_out)
{
    uint64_t silent = now_ms - n->heard_ms;
    bool heard = n->heard && silent < d->cfg.suspect_ms;
    uint64_t down = d->hold_ms ? 3 * (uint64_t)d->cfg.down_ms : d->cfg.down_ms;

    switch ((enum node_state)of->state) {
    case NODE_UP:
    case NODE_DRAINING:
        *kind_out = DETECT_DOWN;
        return silent >= down;
    case NODE_JOINING:
        *kind_out = DETECT_UP;
        return heard;
    case NODE_DOWN:
        *kind_out = DETECT_UP;
        if (heard && now_ms - n->steady_ms >= steady_ms(n))
            return true;
        *kind_out = DETECT_REMOVED;
        return !heard && now_ms - n->down_ms >= d->cfg.removed_ms;
    case NODE_REMOVED:
        return false;
    }
    return false;
}

/* The mark of a serving node changed? */
static bool mark(struct detect *d, struct detect_node *n, const struct node *of,
                 uint64_t now_ms, enum detect_kind *kind_out)
{
    bool suspect =
        node_serves(of) && now_ms - n->heard_ms >= d->cfg.suspect_ms;

    d->suspects += suspect;
    if (suspect != n->suspect) {
        n->suspect = suspect;
        *kind_out = suspect ? DETECT_SUSPECT : DETECT_CLEAR;
        return node_serves(of);
    }
    if (n->probation_ms == now_ms + DETECT_PROBATION_MS && node_serves(of)) {
        *kind_out = DETECT_PROBATION;
        return true;
    }
    return false;
}

uint32_t detect_tick(struct detect *d, const struct view *v, uint16_t self,
                     uint64_t now_ms, struct detect_verdict *out, uint32_t max)
{
    uint32_t n_out = 0;
    bool half;

    forgive_sleep(d, v->node_n, now_ms);
    half = half_silent(d, v, self, now_ms);
    if (half && !d->hold_ms && max) {
        d->hold_ms = now_ms;
        out[n_out++] = (struct detect_verdict){DETECT_SELF, self, 0};
    }
    if (!half)
        d->hold_ms = 0;
    d->suspects = 0;
    for (uint32_t i = 0; i < v->node_n && n_out + 2 <= max; i++) {
        const struct node *of = &v->nodes[i];
        struct detect_node *n = get(d, (uint16_t)i, now_ms);
        enum detect_kind kind;

        note_state(n, of->state, now_ms);
        if (i == self)
            n->heard_ms = now_ms;
        if (mark(d, n, of, now_ms, &kind))
            out[n_out++] = (struct detect_verdict){kind, (uint16_t)i,
                                                   now_ms - n->heard_ms};
        if (!judge(d, n, of, now_ms, &kind) ||
            (n->asked_ms && now_ms - n->asked_ms < DETECT_AGAIN_MS))
            continue;
        n->asked_ms = now_ms;
        out[n_out++] = (struct detect_verdict){kind, (uint16_t)i,
                                               now_ms - n->heard_ms};
    }
    return n_out;
}

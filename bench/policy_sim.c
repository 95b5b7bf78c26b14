/* SPDX-License-Identifier: Apache-2.0
 *
 * The cache that `pikv-bench policy` plays a trace through: blocks of one size,
 * requests one at a time, decisions by the daemon's policy code.
 *
 *   request:  | hit hit hit | miss miss ... |
 *               evict_hit     link to parent, evict until there is room,
 *                             evict_insert
 *
 * One tier is what a lane does with blocks of one size: the hit run from the
 * left is read, the rest is stored; a block with a resident child is HELD, so
 * leaves go before roots. A hit counts only if all earlier blocks of the
 * request hit (prefix-block hit ratio). 64 KiB stand for each block.
 *
 * With an SSD a block also has a place or none:
 *
 *   stored --admitted--> DRAM + place --victim--> place only --used--> both
 *     |                     ^    |                    |
 *     | not admitted        |    | segment reclaimed  | reclaimed, not used
 *     v                     |    v                    v
 *   DRAM only --used-------'   DRAM only            gone
 *     +--victim--> gone
 *
 * - Written when stored, while the budget lasts. When half of what may be saved
 *   up of it is spent, only blocks with predicted reuse are written: used since
 *   they came, or put again after they were gone. Others are asked again when
 *   they are used.
 * - The SSD is a ring of segments. The oldest is reclaimed whole; of its blocks
 *   those are written again, up to again_pct of the segment, that were used
 *   from SSD, are in DRAM and used, or have a resident child.
 * - Only a block without a place is held by its children, as in the daemon.
 *
 * Not in it: time (a write is done at once), group headers (less than 2 % of
 * the bytes of 64 KiB blocks), and the bounded memory of what was gone.
 *
 * Hints: after the last request of a session in the trace, the blocks which
 * that request used and the session stored are hinted DEAD. With idle, those of
 * its other requests are hinted IDLE in the same way. Nothing tells when a
 * session comes back, nor what of it will be read. */
#include "bench/policy_sim.h"

#include <stdlib.h>
#include <time.h>

enum { BLOCK_PAGES = 16, SEGMENTS = 64, HEAT_MAX = 3, BUDGET_BURST = 1024 };

struct sim {
    const struct policy_cfg *cfg;
    const struct bench_trace *t;
    struct evict e;
    struct evict_node *nodes;
    uint32_t *children; /* resident ones, by block */
    uint32_t *label;    /* session that stored it */
    uint32_t *place;    /* index in ring + 1; 0: not on SSD */
    bool *in_dram;
    bool *gone; /* was resident before */
    bool *used; /* since it was stored */
    uint8_t *heat;
    uint32_t *ring; /* block + 1 */
    uint32_t segment, segments, head;
    uint32_t storing; /* parent of what is being stored: in use */
    uint64_t used_pages, ops, tokens; /* tokens: hundredths of a block */
    struct policy_result r;
};

/* ---- sessions */

struct session {
    uint32_t blocks; /* of its latest request */
    uint32_t latest; /* request */
};

/* A request continues the session that first brought the deepest block of its
 * known prefix, if that prefix covers the session's latest request, but for
 * its last block, which may have been partial. Else it starts one. */
static uint32_t session_of(const struct bench_trace *t, const uint32_t *owner,
                           const struct session *all, uint32_t n, uint32_t r)
{
    const struct bench_request *q = &t->requests[r];
    uint32_t known = 0, s;

    while (known < q->n && owner[t->ids[q->first + known]] != 0)
        known++;
    if (known == 0)
        return n;
    s = owner[t->ids[q->first + known - 1]] - 1;
    return known + 1 >= all[s].blocks ? s : n;
}

bool sessions_make(const struct bench_trace *t, struct policy_sessions *out)
{
    uint32_t *owner = calloc(t->blocks, sizeof(*owner));
    struct session *all = calloc(t->requests_n, sizeof(*all));

    out->n = 0;
    out->session = calloc(t->requests_n, sizeof(*out->session));
    out->last = calloc(t->requests_n, sizeof(*out->last));
    if (!owner || !all || !out->session || !out->last) {
        free(owner);
        free(all);
        sessions_free(out);
        return false;
    }
    for (uint32_t r = 0; r < t->requests_n; r++) {
        const struct bench_request *q = &t->requests[r];
        uint32_t s = session_of(t, owner, all, out->n, r);

        out->n += s == out->n;
        for (uint32_t i = 0; i < q->n; i++) {
            if (owner[t->ids[q->first + i]] == 0)
                owner[t->ids[q->first + i]] = s + 1;
        }
        all[s] = (struct session){.blocks = q->n, .latest = r};
        out->session[r] = s;
    }
    for (uint32_t s = 0; s < out->n; s++)
        out->last[all[s].latest] = true;
    free(owner);
    free(all);
    return true;
}

void sessions_free(struct policy_sessions *s)
{
    free(s->session);
    free(s->last);
    *s = (struct policy_sessions){.n = 0};
}

/* ---- residence */

static uint64_t sim_hash(void *arg, uint32_t id)
{
    uint64_t x = id + UINT64_C(0x9e3779b97f4a7c15);

    (void)arg;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static bool sim_has(const struct sim *s, uint32_t id)
{
    return s->in_dram[id] || s->place[id];
}

/* Tells the policy whether the block may go. */
static void sim_settle(struct sim *s, uint32_t id)
{
    bool held = s->children[id] && !s->place[id];

    if (!s->in_dram[id] || held == (s->nodes[id].held != EVICT_MEMBER))
        return;
    if (held)
        evict_hold(&s->e, id);
    else
        evict_release(&s->e, id, true);
    s->ops++;
}

static void sim_link(struct sim *s, uint32_t parent)
{
    if (parent != BENCH_TRACE_NONE && s->children[parent]++ == 0)
        sim_settle(s, parent);
}

static void sim_unlink(struct sim *s, uint32_t parent)
{
    if (parent != BENCH_TRACE_NONE && --s->children[parent] == 0)
        sim_settle(s, parent);
}

static void sim_left(struct sim *s, uint32_t id)
{
    if (sim_has(s, id))
        return;
    s->gone[id] = true;
    sim_unlink(s, s->t->parent[id]);
}

static bool sim_held_by_children(void *arg, uint32_t id)
{
    const struct sim *s = arg;

    return s->cfg->ssd_blocks > 0 && id != s->storing;
}

/* False if everything is held. With an SSD a block that only its children hold
 * goes when nothing else can, as in the daemon. */
static bool sim_make_room(struct sim *s)
{
    while (s->used_pages + BLOCK_PAGES > s->e.capacity_pages) {
        uint32_t id = evict_victim(&s->e);

        if (id == EVICT_NONE)
            id = evict_held_victim(&s->e, sim_held_by_children, s);
        if (id == EVICT_NONE)
            return false;
        evict_remove(&s->e, id, EVICT_PRESSURE);
        s->in_dram[id] = false;
        s->used_pages -= BLOCK_PAGES;
        s->ops += 2;
        sim_left(s, id);
    }
    return true;
}

static void sim_enter(struct sim *s, uint32_t id)
{
    s->nodes[id].weight = BLOCK_PAGES;
    evict_insert(&s->e, id);
    s->in_dram[id] = true;
    s->used_pages += BLOCK_PAGES;
    s->ops++;
    sim_settle(s, id);
}

/* ---- the SSD */

static bool ssd_wants_again(const struct sim *s, uint32_t id)
{
    return s->heat[id] || (s->in_dram[id] && s->used[id]) || s->children[id];
}

static void ssd_put(struct sim *s, uint32_t id)
{
    s->ring[s->head] = id + 1;
    s->place[id] = ++s->head;
    s->heat[id] = 0;
}

/* The segment that begins at head is next: its blocks lose their places, but
 * some are written again, at its beginning. */
static void ssd_reclaim(struct sim *s)
{
    uint32_t again = s->segment * s->cfg->again_pct / 100;
    uint32_t first = s->head;

    for (uint32_t i = first; i < first + s->segment; i++) {
        uint32_t id = s->ring[i] - 1;

        if (s->ring[i] == 0 || s->place[id] != i + 1)
            continue;
        if (again > 0 && ssd_wants_again(s, id)) {
            again--;
            s->r.again++;
            ssd_put(s, id);
            continue;
        }
        s->place[id] = 0;
        sim_settle(s, id);
        sim_left(s, id);
    }
}

static void ssd_write(struct sim *s, uint32_t id)
{
    if (s->head == s->segment * s->segments)
        s->head = 0;
    if (s->head % s->segment == 0)
        ssd_reclaim(s);
    ssd_put(s, id);
    s->r.writes++;
    sim_settle(s, id);
}

static void ssd_admit(struct sim *s, uint32_t id)
{
    bool binding = s->tokens < BUDGET_BURST * 100 / 2;

    uint32_t parent = s->t->parent[id];

    if (s->cfg->ssd_blocks == 0 || s->place[id])
        return;
    if (parent != BENCH_TRACE_NONE && !s->place[parent])
        return;
    if (s->cfg->budget_pct < 100) {
        if (s->tokens < 100 || (binding && !s->used[id] && !s->gone[id]))
            return;
        s->tokens -= 100;
    }
    ssd_write(s, id);
}

/* ---- requests */

static void sim_use(struct sim *s, uint32_t id)
{
    s->used[id] = true;
    if (s->in_dram[id]) {
        evict_hit(&s->e, id);
        s->ops++;
        s->r.dram_hits++;
        ssd_admit(s, id);
        return;
    }
    s->r.ssd_hits++;
    if (s->heat[id] < HEAT_MAX)
        s->heat[id]++;
    if (sim_make_room(s))
        sim_enter(s, id);
}

/* False if everything is held by this very chain: the rest does not fit. */
static bool sim_store(struct sim *s, uint32_t id)
{
    /* It may be resident still, behind a block that is gone. */
    bool known = s->place[id];

    if (s->in_dram[id])
        return true;
    s->storing = s->t->parent[id];
    if (!known)
        sim_link(s, s->t->parent[id]);
    if (!sim_make_room(s)) {
        if (!known)
            sim_unlink(s, s->t->parent[id]);
        return false;
    }
    s->used[id] = false;
    sim_enter(s, id);
    s->r.stored++;
    s->tokens = min_u64(s->tokens + s->cfg->budget_pct, BUDGET_BURST * 100);
    ssd_admit(s, id);
    return true;
}

static void sim_hint(struct sim *s, uint32_t r)
{
    const struct policy_sessions *p = s->cfg->hints;
    enum evict_hint hint = p->last[r] ? EVICT_HINT_DEAD : EVICT_HINT_IDLE;
    const struct bench_request *q = &s->t->requests[r];

    if (!p->last[r] && !s->cfg->idle)
        return;
    for (uint32_t i = 0; i < q->n; i++) {
        uint32_t id = s->t->ids[q->first + i];

        if (s->in_dram[id] && s->label[id] == p->session[r]) {
            evict_hint(&s->e, id, hint);
            s->ops++;
        }
    }
}

static void sim_request(struct sim *s, uint32_t r)
{
    const struct bench_request *q = &s->t->requests[r];
    const uint32_t *ids = s->t->ids + q->first;
    uint32_t i = 0;

    for (; i < q->n && sim_has(s, ids[i]); i++)
        sim_use(s, ids[i]);
    for (; i < q->n && sim_store(s, ids[i]); i++) {
        if (s->cfg->hints)
            s->label[ids[i]] = s->cfg->hints->session[r];
    }
    if (s->cfg->hints)
        sim_hint(s, r);
}

static uint64_t sim_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static bool sim_init(struct sim *s)
{
    size_t n = s->t->blocks;

    s->segment =
        (uint32_t)max_u64((s->cfg->ssd_blocks + SEGMENTS - 1) / SEGMENTS, 1);
    s->segments = (uint32_t)(s->cfg->ssd_blocks / s->segment);
    s->tokens = BUDGET_BURST * 100;
    s->nodes = calloc(n, sizeof(*s->nodes));
    s->children = calloc(n, sizeof(*s->children));
    s->label = calloc(n, sizeof(*s->label));
    s->place = calloc(n, sizeof(*s->place));
    s->in_dram = calloc(n, sizeof(*s->in_dram));
    s->gone = calloc(n, sizeof(*s->gone));
    s->used = calloc(n, sizeof(*s->used));
    s->heat = calloc(n, sizeof(*s->heat));
    s->ring = calloc((size_t)s->segment * SEGMENTS, sizeof(*s->ring));
    return s->nodes && s->children && s->label && s->place && s->in_dram &&
           s->gone && s->used && s->heat && s->ring;
}

static void sim_fini(struct sim *s)
{
    free(s->nodes);
    free(s->children);
    free(s->label);
    free(s->place);
    free(s->in_dram);
    free(s->gone);
    free(s->used);
    free(s->heat);
    free(s->ring);
}

bool policy_run(const struct policy_cfg *cfg, struct policy_result *out)
{
    struct env env = {.rng = {1, 2}};
    struct sim s = {.cfg = cfg, .t = cfg->t};
    struct evict_host host = {
        .stride = sizeof(*s.nodes),
        .ids_max = cfg->t->blocks,
        .pages_max = cfg->dram_blocks * BLOCK_PAGES,
        .hash = sim_hash,
        .env = &env,
    };
    void *state = calloc(1, cfg->ops->state_bytes(host.pages_max));
    bool ok = state && sim_init(&s);
    uint64_t start_ns;

    if (ok) {
        host.nodes = s.nodes;
        evict_init(&s.e, cfg->ops, &host, state, host.pages_max);
        start_ns = sim_now_ns();
        for (uint32_t r = 0; r < s.t->requests_n; r++)
            sim_request(&s, r);
        s.r.ns_per_op = (double)(sim_now_ns() - start_ns) / (double)s.ops;
        *out = s.r;
    }
    sim_fini(&s);
    free(state);
    return ok;
}

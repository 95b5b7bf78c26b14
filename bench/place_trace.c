/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench place --trace`: a conversation trace on many nodes, by router.
 *
 * The trace is played twice, SPEED times faster than it was recorded, in
 * virtual time. Nodes report every 500 ms what they served, as daemons do; the
 * balancer looks every 5 s; moves end 3 s later. Played without balancing
 * first, then with it. What is printed is of the second playing, when the
 * balancer has seen one: max / mean of the operations of the nodes, over the
 * whole playing.
 *
 * Synthetic, labelled: `zipf` has the same number of references, to 65,536
 * blocks by rank^-1.2, instead of the trace's blocks.
 *
 * The trace names no experts. paper, paper_xor and affinity take for affinity
 * the sequence's second block (what a session-sticky scheduler would do) in
 * AFFINITIES parts; a block that sequences of several affinities share is then
 * stored several times: column copies. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bench/bench.h"
#include "bench/place.h"
#include "bench/trace.h"
#include "client/pikv.h"

enum {
    SPEED = 20,
    PLAYS = 2,
    BEAT_MS = 500,
    TICK_MS = 5000,
    MOVE_MS = 3000,
    REPORT = 64,
    ROWS = CMD_SLOTS_MAX,
    AFFINITIES = 64,
    TOKENS = 512, /* of a block */
    N_TOK = 64,
    MINUTES_MAX = 1000,
};

struct play {
    const struct bench_trace *t;
    uint32_t *slot; /* of each reference */
    uint32_t nodes;
    struct view v;
    struct balance b;
    bool balanced;
    uint64_t now_ms, beat_ms;
    uint32_t *count;                  /* [nodes][slots]: since the last beat */
    uint64_t served[PLACE_NODES_MAX]; /* in this playing */
    uint64_t touched;                 /* nodes, over all requests */
    uint32_t moved[MINUTES_MAX];
};

struct outcome {
    double skew, nodes_a_request;
    uint32_t moved, minute_most, heats;
};

/* ---- slots of references ---- */

struct route_of {
    const char *name;
    const struct pikv_router *router;
    uint32_t depth;
};

static uint32_t slot_of(const struct route_of *r, const struct bench_trace *t,
                        const struct bench_request *q, uint32_t i)
{
    const uint32_t *ids = &t->ids[q->first];
    uint32_t at = i < r->depth ? i : r->depth - 1;
    struct pikv_bytes chain = {&t->names[ids[at]], sizeof(t->names[0])};
    struct pikv_route in = {
        .chain = &chain,
        .chain_n = 1, /* the chain's end is all that is looked at */
        .depth = r->depth,
        .token = (uint64_t)i * TOKENS,
        .page_tokens = TOKENS,
        .n_tok = N_TOK,
        .n_exp = AFFINITIES,
        .affinity = t->names[ids[q->n > 1]] % AFFINITIES,
    };
    uint8_t route[PIKV_ROUTE_MAX];
    int n = r->router->route(&in, route);

    if (n > 0)
        return hash_slot(1, route, (size_t)n);
    return hash_slot(1, &t->names[ids[i]], sizeof(t->names[0]));
}

static void slots_of(const struct route_of *r, const struct bench_trace *t,
                     uint32_t *slot)
{
    for (uint32_t q = 0; q < t->requests_n; q++) {
        for (uint32_t i = 0; i < t->requests[q].n; i++)
            slot[t->requests[q].first + i] = slot_of(r, t, &t->requests[q], i);
    }
}

/* Blocks by rank^-1.2, one slot each. */
static void slots_zipf(uint32_t *slot, uint32_t n)
{
    static double upto[WIRE_SLOTS];
    uint64_t x = 1;
    double sum = 0;

    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        upto[i] = sum += pow(i + 1.0, -1.2);
    for (uint32_t k = 0; k < n; k++) {
        double at;
        uint32_t low = 0, high = WIRE_SLOTS - 1;

        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        at = (double)(x >> 11) / 9007199254740992.0 * sum;
        while (low < high) {
            uint32_t mid = (low + high) / 2;

            if (upto[mid] < at)
                low = mid + 1;
            else
                high = mid;
        }
        slot[k] = low * 40503 % WIRE_SLOTS;
    }
}

struct stored {
    uint32_t id, slot;
};

static int stored_order(const void *a, const void *b)
{
    const struct stored *x = a, *y = b;

    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* Blocks stored, in the slots where they are looked for, / blocks. */
static double copies_of(const struct bench_trace *t, const uint32_t *slot)
{
    struct stored *all = calloc(t->ids_n, sizeof(*all));
    uint32_t n = 0;

    if (!all)
        return 0;
    for (uint32_t i = 0; i < t->ids_n; i++)
        all[i] = (struct stored){t->ids[i], slot[i]};
    qsort(all, t->ids_n, sizeof(*all), stored_order);
    for (uint32_t i = 0; i < t->ids_n; i++)
        n += i == 0 || stored_order(&all[i - 1], &all[i]) != 0;
    free(all);
    return (double)n / t->blocks;
}

/* ---- playing ---- */

static int hot_order(const void *a, const void *b)
{
    const struct balance_slot *x = a, *y = b;

    if (x->ops != y->ops)
        return x->ops < y->ops ? 1 : -1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

static bool play_beat(struct play *p)
{
    static struct balance_slot hot[WIRE_SLOTS];

    for (uint16_t i = 0; i < p->nodes; i++) {
        uint32_t *count = p->count + (size_t)i * WIRE_SLOTS, n = 0;
        uint64_t ops = 0;

        for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
            if (!count[s])
                continue;
            ops += count[s];
            hot[n++] = (struct balance_slot){
                .slot = s, .ops = count[s] * UINT64_C(1000) / BEAT_MS};
            count[s] = 0;
        }
        if (n)
            qsort(hot, n, sizeof(*hot), hot_order);
        if (balance_feed(&p->b, i, ops * 1000 / BEAT_MS, 0, 0, hot,
                         n < REPORT ? n : REPORT) != OK)
            return false;
    }
    return true;
}

static bool play_tick(struct play *p)
{
    static struct slot_row rows[ROWS];
    uint32_t n;

    if (balance_tick(&p->b, &p->v, p->now_ms, rows, ROWS, &n) != OK)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        struct slot *t = &p->v.slots[rows[i].slot];

        if (rows[i].to.heat >= t->heat)
            p->moved[p->now_ms / 60000 % MINUTES_MAX]++;
        *t = rows[i].to;
    }
    return true;
}

/* Time goes on to at_ms, and what is due by then is done. */
static bool play_until(struct play *p, uint64_t at_ms)
{
    while (p->beat_ms <= at_ms) {
        p->now_ms = p->beat_ms;
        p->beat_ms += BEAT_MS;
        if (!play_beat(p))
            return false;
        if (p->balanced && p->now_ms % TICK_MS == 0 && !play_tick(p))
            return false;
        if (p->now_ms % TICK_MS == MOVE_MS)
            place_moves_end(&p->v);
    }
    p->now_ms = at_ms;
    return true;
}

static void play_request(struct play *p, uint32_t q)
{
    const struct bench_request *r = &p->t->requests[q];
    uint64_t seen = 0;

    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t s = p->slot[r->first + i];
        const struct slot *t = &p->v.slots[s];
        uint16_t node = t->owner[q % (t->heat + 1u)];

        p->count[(size_t)node * WIRE_SLOTS + s]++;
        p->served[node]++;
        p->touched += !(seen >> node & 1);
        seen |= UINT64_C(1) << node;
    }
}

static void play_outcome(struct play *p, struct outcome *out)
{
    uint64_t most = 0, sum = 0;

    for (uint32_t i = 0; i < p->nodes; i++) {
        most = max_u64(most, p->served[i]);
        sum += p->served[i];
    }
    *out = (struct outcome){
        .skew = (double)most * p->nodes / (double)sum,
        .nodes_a_request = (double)p->touched / p->t->requests_n,
        .heats = (uint32_t)p->b.heats,
    };
    for (uint32_t i = 0; i < MINUTES_MAX; i++) {
        out->moved += p->moved[i];
        if (p->moved[i] > out->minute_most)
            out->minute_most = p->moved[i];
    }
}

static bool play_all(struct play *p)
{
    uint64_t start = 0;

    for (uint32_t k = 0; k < PLAYS; k++) {
        memset(p->served, 0, sizeof(p->served));
        p->touched = 0;
        for (uint32_t q = 0; q < p->t->requests_n; q++) {
            if (!play_until(p, start + p->t->requests[q].at_ms / SPEED))
                return false;
            play_request(p, q);
        }
        start = p->now_ms + BEAT_MS;
    }
    return true;
}

static bool play(const struct bench_trace *t, uint32_t *slot, uint32_t nodes,
                 bool balanced, struct outcome *out)
{
    const struct balance_cfg cfg = {.per_mille = 0};
    struct play *p = calloc(1, sizeof(*p));
    bool good = false;

    if (!p)
        return false;
    p->t = t;
    p->slot = slot;
    p->nodes = nodes;
    p->balanced = balanced;
    p->count = calloc((size_t)nodes * WIRE_SLOTS, sizeof(*p->count));
    if (p->count && place_view(&p->v, nodes) &&
        balance_init(&p->b, &cfg) == OK && play_all(p)) {
        play_outcome(p, out);
        good = true;
    }
    balance_fini(&p->b);
    place_view_free(&p->v);
    free(p->count);
    free(p);
    return good;
}

/* ---- the table ---- */

static bool trace_row(const struct bench_trace *t, uint32_t *slot,
                      uint32_t nodes, const char *name, bool blocks)
{
    struct outcome before, after;

    if (!play(t, slot, nodes, false, &before) ||
        !play(t, slot, nodes, true, &after))
        return false;
    printf("%-12s %8.2f %8.3f %8.3f %8.3f %8u %8u %8u\n", name,
           before.nodes_a_request, blocks ? copies_of(t, slot) : 1, before.skew,
           after.skew, after.moved, after.heats, after.minute_most);
    return true;
}

static bool trace_rows(const struct bench_trace *t, uint32_t nodes)
{
    const struct route_of routes[] = {
        {"hash", pikv_router_find("hash"), 1},
        {"prefix(1)", pikv_router_find("prefix"), 1},
        {"prefix(2)", pikv_router_find("prefix"), 2},
        {"prefix(3)", pikv_router_find("prefix"), 3},
        {"prefix(4)", pikv_router_find("prefix"), 4},
        {"prefix(8)", pikv_router_find("prefix"), 8},
        {"paper", pikv_router_find("paper"), 1},
        {"paper_xor", pikv_router_find("paper_xor"), 1},
        {"affinity", pikv_router_find("affinity"), 1},
    };
    uint32_t *slot = calloc(t->ids_n, sizeof(*slot));
    bool good = slot != NULL;

    for (uint32_t i = 0; good && i < sizeof(routes) / sizeof(*routes); i++) {
        slots_of(&routes[i], t, slot);
        good = trace_row(t, slot, nodes, routes[i].name, true);
    }
    if (good) {
        slots_zipf(slot, t->ids_n);
        good = trace_row(t, slot, nodes, "zipf (synth)", false);
    }
    free(slot);
    return good;
}

int bench_place_trace(const char *path, uint32_t nodes)
{
    struct bench_trace t;
    struct errmsg m;
    int rc = 0;

    if (bench_trace_load(path, &t, &m) != OK) {
        fprintf(stderr, "pikv-bench place: %s\n", m.text);
        return 1;
    }
    printf("%u nodes, %u requests, %u references, %u blocks; played twice at "
           "%d times the speed\n\n%-12s %8s %8s %8s %8s %8s %8s %8s\n",
           nodes, t.requests_n, t.ids_n, t.blocks, SPEED, "router", "nodes/rq",
           "copies", "max/mean", "balanced", "moved", "heated", "minute");
    if (!trace_rows(&t, nodes)) {
        fprintf(stderr, "pikv-bench place: out of memory\n");
        rc = 1;
    }
    bench_trace_free(&t);
    return rc;
}

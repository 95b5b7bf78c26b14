/* SPDX-License-Identifier: Apache-2.0
 *
 * What the handle did, for the metrics of an engine: one row of counters per
 * operation that a caller submits, filled when its call completes.
 *
 *     submit (begin_ns) ... call_finish --> stats_count --> pikv_stats copies
 *
 * Cheap enough for every call: no lock of its own, no clock. The end of a call
 * is kv->now_ns, which the progress read before it looked for replies, and
 * again after it copied staged bytes. A call without items (EVICT of a label)
 * counts its own status. With kv->mu. */
#include <string.h>

#include "client/call.h"
#include "client/peer.h"

/* The rows, by place; a row's place is also its place in kv->counts. */
static const uint16_t stats_ops[] = {
    OP_GET,   OP_PUT,   OP_LOOKUP,    OP_PREFETCH,  OP_EVICT,      OP_PIN,
    OP_UNPIN, OP_TOUCH, OP_PUT_BEGIN, OP_PUT_WRITE, OP_PUT_COMMIT, OP_PUT_ABORT,
};
static_assert(countof(stats_ops) < PIKV_STATS_OPS,
              "the last row ends the list");

static const char *const op_names[OP_N] = {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) [id] = #name,
#include "proto/ops.tbl"
};

static struct pikv_op_stats *stats_row(struct pikv *kv, uint16_t op)
{
    for (uint32_t i = 0; i < countof(stats_ops); i++)
        if (stats_ops[i] == op)
            return &kv->counts[i];
    return NULL;
}

/* The i with 2^(i-1) < us <= 2^i. */
static uint32_t stats_bucket(uint64_t us)
{
    uint32_t i = us <= 1 ? 0 : 64 - (uint32_t)__builtin_clzll(us - 1);

    return i < PIKV_STATS_BUCKETS ? i : PIKV_STATS_BUCKETS - 1;
}

static void stats_status(struct pikv_op_stats *s, int status)
{
    switch (status) {
    case OK:
        s->hits++;
        break;
    case ERR_MISS:
        s->misses++;
        break;
    case ERR_EXISTS:
    case ERR_PENDING:
        s->exists++;
        break;
    case ERR_TIMEOUT:
    case ERR_PARTIAL:
        s->timeouts++;
        break;
    case ERR_BUSY:
        s->busy++;
        break;
    case ERR_NO_SERVER:
    case ERR_RETRY:
        s->down++;
        break;
    default:
        s->errors++;
        break;
    }
}

/* A LOOKUP's cell has a state as well, and a server may leave it at that. */
static int stats_of_item(const struct call *c, const struct pikv_result *r)
{
    if (c->op != OP_LOOKUP || r->status != OK || r->state == STATE_HIT)
        return r->status;
    return r->state == STATE_PENDING ? ERR_PENDING : ERR_MISS;
}

void stats_count(struct pikv *kv, const struct call *c)
{
    struct pikv_op_stats *s = stats_row(kv, c->op);
    uint64_t us;

    if (!s)
        return;
    us = (kv->now_ns - min_u64(c->begin_ns, kv->now_ns)) / NS_PER_US;
    s->calls++;
    s->items += c->n;
    s->sum_us += us;
    s->buckets[stats_bucket(us)]++;
    if (c->n == 0)
        stats_status(s, c->status);
    for (uint32_t i = 0; i < c->n; i++) {
        s->bytes += c->results[i].moved;
        stats_status(s, stats_of_item(c, &c->results[i]));
    }
}

static void stats_gauges(const struct pikv *kv, struct pikv_stats *out)
{
    out->inflight = kv->call_cap - kv->call_free_n;
    out->staging_bytes = (uint64_t)kv->staging.used_n * STAGE_UNIT;
    out->lanes = kv->line_n;
    out->reconnects = kv->reconnects;
    out->redirects = kv->redirects;
    out->failovers = kv->failovers;
    out->copies_failed = kv->copies_failed;
    out->hedges = kv->hedges;
    out->hedges_won = kv->hedges_won;
    for (uint32_t i = 0; i < kv->peer_n; i++)
        out->breaker_open +=
            !kv->peers[i]->gone && kv->peers[i]->breaker != BREAKER_CLOSED;
    LIST_FOREACH(l, &kv->regions)
    {
        const struct region *r = container_of(l, struct region, node);

        out->registered_bytes += r->callers ? r->len : 0;
    }
    for (uint32_t i = 0; i < kv->line_n; i++)
        out->lanes_up += kv->conns[i]->state == CONN_UP;
}

int pikv_stats(struct pikv *kv, struct pikv_stats *out)
{
    int e = handle_check(kv);

    if (e)
        return e;
    memset(out, 0, sizeof(*out));
    pthread_mutex_lock(&kv->mu);
    memcpy(out->ops, kv->counts, sizeof(out->ops));
    stats_gauges(kv, out);
    pthread_mutex_unlock(&kv->mu);
    for (uint32_t i = 0; i < countof(stats_ops); i++)
        strncpy(out->ops[i].name, op_names[stats_ops[i]],
                sizeof(out->ops[i].name) - 1);
    return OK;
}

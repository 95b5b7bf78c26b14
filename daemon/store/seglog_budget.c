/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be written: a token bucket of bytes, in integers.
 *
 *   tokens += write_rate * time, to write_burst at most; every byte written to
 *   the device takes one, whatever it is
 *
 * Groups of requests that are not durable wait until the bucket holds them (or
 * is full, for a group larger than the bucket). What may not wait (durable
 * requests, tombs, superblocks, checkpoints) makes tokens negative, and the
 * others wait for longer. So what is written in any time t is at most burst +
 * rate * t, plus what durable requests alone need.
 *
 * map->binding tells the lanes to write only what is likely to be read again.
 * It is set as soon as a group waits for tokens, or requests have queued for
 * LOG_BIND_MS because the device is slow, and cleared when neither is so and a
 * quarter of the bucket is there again: else every token saved would at once
 * be spent on whatever came next. */
#include "store/seglog_impl.h"

void seglog_charge(struct seglog *g, uint64_t bytes)
{
    g->tokens -= (int64_t)bytes;
    g->super.written_bytes += bytes;
    metric_add(&g->metrics->ssd_written_bytes, bytes);
}

void seglog_budget_refill(struct seglog *g)
{
    uint64_t now = g->env->now_ns;
    unsigned __int128 add;

    if (now <= g->tokens_ns)
        return;
    add = (unsigned __int128)(now - g->tokens_ns) * g->cfg.write_rate +
          g->tokens_carry;
    g->tokens_ns = now;
    g->tokens_carry = (uint64_t)(add % NS_PER_S);
    add /= NS_PER_S;
    if ((__int128)g->tokens + (__int128)add >= (__int128)g->cfg.write_burst) {
        g->tokens = (int64_t)g->cfg.write_burst;
        g->tokens_carry = 0;
    } else {
        g->tokens += (int64_t)add;
    }
}

bool seglog_budget_take(struct seglog *g, uint64_t bytes)
{
    uint64_t need = min_u64(bytes, g->cfg.write_burst);

    if (!g->cfg.write_rate)
        return true;
    seglog_budget_refill(g);
    if (g->tokens >= (int64_t)need) {
        g->tokens_need = 0;
        return true;
    }
    g->tokens_need = need;
    return false;
}

uint64_t seglog_budget_next_ns(const struct seglog *g)
{
    unsigned __int128 ns;

    if (!g->tokens_need)
        return DEADLINE_NEVER;
    if (g->tokens >= (int64_t)g->tokens_need)
        return g->tokens_ns;
    ns = (unsigned __int128)((__int128)g->tokens_need - g->tokens) * NS_PER_S;
    ns = (ns - g->tokens_carry + g->cfg.write_rate - 1) / g->cfg.write_rate;
    return g->tokens_ns +
           (ns > UINT32_MAX * NS_PER_S ? UINT32_MAX * NS_PER_S : (uint64_t)ns);
}

/* When the oldest request of this queue came; now if there is none. */
static uint64_t oldest_ns(const struct seglog *g, enum log_q q)
{
    const struct list *l = &g->queue[q];

    if (list_empty(l))
        return g->env->now_ns;
    return container_of(l->next, struct seg_req, node)->queued_ns;
}

void seglog_binding_tick(struct seglog *g)
{
    uint64_t now = g->env->now_ns;
    uint64_t oldest =
        min_u64(oldest_ns(g, LOG_Q_PUT), oldest_ns(g, LOG_Q_AGAIN));
    bool late = now - oldest >= LOG_BIND_MS * NS_PER_MS;
    bool poor = false;
    uint32_t binding;

    if (g->cfg.write_rate) {
        seglog_budget_refill(g);
        poor = g->tokens < (int64_t)(g->cfg.write_burst / 4);
    }
    binding = g->state == SEGLOG_OPEN &&
              (late || g->tokens_need || (g->map->binding && poor));
    __atomic_store_n(&g->map->binding, binding, __ATOMIC_RELAXED);
}

/* The next of: linger is over, the queue becomes binding. What is overdue
 * waits for tokens, or for a completion. */
static uint64_t queue_next_ns(const struct seglog *g, enum log_q q)
{
    uint64_t next = DEADLINE_NEVER, now = g->env->now_ns, came;

    if (list_empty(&g->queue[q]))
        return next;
    came = container_of(g->queue[q].next, struct seg_req, node)->queued_ns;
    if (came + LOG_BIND_MS * NS_PER_MS > now)
        next = came + LOG_BIND_MS * NS_PER_MS;
    if (came + g->cfg.linger_ns > now)
        next = min_u64(next, came + g->cfg.linger_ns);
    return next;
}

uint64_t seglog_write_next_ns(const struct seglog *g)
{
    uint64_t next;

    if (g->failed || g->state != SEGLOG_OPEN)
        return DEADLINE_NEVER;
    next = min_u64(queue_next_ns(g, LOG_Q_AGAIN), queue_next_ns(g, LOG_Q_PUT));
    if (list_empty(&g->groups_free))
        return next;
    return min_u64(next, seglog_budget_next_ns(g));
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * This node's figures for the leader: what its lanes counted since the last
 * look, as rates a second that move by a quarter each time (heat.c does the
 * same with slots), so that a pause of half a second is not a change of load.
 * Reads the lanes' counters where they are and asks no lane. */
#include "base/hash.h"
#include "server/cluster_loop_impl.h"
#include "server/lane.h"

enum { LOAD_PCT = 95 };

/* ---- Counters ------------------------------------------------------------ */

static uint64_t load_misses(const struct metrics *m)
{
    return m->get_miss_never + m->get_miss_expired + m->get_miss_evicted +
           m->get_miss_not_admitted + m->get_miss_late + m->get_miss_dropped +
           m->get_miss_corrupt;
}

static uint64_t load_keys(const struct metrics *m)
{
    return m->keys[OP_GET] + m->keys[OP_PUT] + m->keys[OP_LOOKUP];
}

/* rate: the last one; from, to: the counter. */
static uint64_t load_rate(uint64_t rate, uint64_t from, uint64_t to,
                          uint64_t ms)
{
    return (3 * rate + (to - from) * 1000 / ms) / 4;
}

/* Of the requests since the last look; the old figure if there were none. */
static uint32_t load_p95(const struct hist *old, const struct hist *now,
                         uint32_t last_us)
{
    uint64_t n = now->n - old->n, seen = 0;

    if (n == 0)
        return last_us;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        seen += now->bucket[i] - old->bucket[i];
        if (seen * 100 >= n * LOAD_PCT)
            return (uint32_t)min_u64(hist_bound_ns(i) / NS_PER_US, UINT32_MAX);
    }
    return last_us;
}

/* ---- Slots --------------------------------------------------------------- */

static void load_hot(struct cluster_loop *cl, uint32_t ms)
{
    const struct control *c = cl->cfg.control;
    struct heat_slot hot[countof(cl->load.hot)];

    for (uint32_t i = 0; i < c->lane_n; i++)
        heat_sum_add(&cl->rates.heat, &c->lanes[i]->heat, ms);
    cl->load.hot_n = heat_sum_top(&cl->rates.heat, hot, countof(hot));
    for (uint32_t i = 0; i < cl->load.hot_n; i++)
        cl->load.hot[i] =
            (struct slot_load){hot[i].slot, hot[i].ops, hot[i].bytes};
}

/* ---- All of it ----------------------------------------------------------- */

enum err cluster_load_init(struct cluster_loop *cl)
{
    cl->rates.at_ms = cluster_now_ms();
    return heat_sum_init(&cl->rates.heat);
}

void cluster_load_fini(struct cluster_loop *cl)
{
    heat_sum_fini(&cl->rates.heat);
}

void cluster_load_take(struct cluster_loop *cl)
{
    static struct metrics sum; /* large; this thread's only */
    struct cluster_rates *r = &cl->rates;
    struct cluster_load *to = &cl->load;
    uint64_t now = cluster_now_ms(), ms = now - r->at_ms;
    uint64_t all;

    if (ms == 0)
        return;
    sum = (struct metrics){0};
    lanes_metrics(cl->cfg.control, &sum);
    to->ops = load_rate(to->ops, r->ops, load_keys(&sum), ms);
    to->bytes =
        load_rate(to->bytes, r->bytes, sum.bytes_in + sum.bytes_out, ms);
    to->misses = load_rate(to->misses, r->misses, load_misses(&sum), ms);
    to->get_p95_us =
        load_p95(&r->get, &sum.request_seconds[OP_GET], to->get_p95_us);
    all = sum.dram_capacity_bytes + sum.ssd_capacity_bytes;
    to->used_mib = (sum.block_bytes + sum.ssd_block_bytes) / MIB(1);
    to->free_mib = all / MIB(1) - min_u64(all / MIB(1), to->used_mib);
    load_hot(cl, (uint32_t)min_u64(ms, UINT32_MAX));
    r->at_ms = now;
    r->ops = load_keys(&sum);
    r->bytes = sum.bytes_in + sum.bytes_out;
    r->misses = load_misses(&sum);
    r->get = sum.request_seconds[OP_GET];
}

/* ---- Counters of the cluster itself ------------------------------------- */

static void count_nodes(const struct cluster_loop *cl)
{
    const struct view *v = cluster_view(cl->cluster);
    struct metrics *m = cl->cfg.metrics;
    uint64_t n[NODE_REMOVED + 1] = {0};

    for (uint32_t i = 0; i < v->node_n; i++)
        if (v->nodes[i].state <= NODE_REMOVED)
            n[v->nodes[i].state]++;
    metric_set(&m->cluster_nodes_up, n[NODE_UP]);
    metric_set(&m->cluster_nodes_joining, n[NODE_JOINING]);
    metric_set(&m->cluster_nodes_draining, n[NODE_DRAINING]);
    metric_set(&m->cluster_nodes_down, n[NODE_DOWN]);
    metric_set(&m->cluster_epoch, v->epoch);
}

static void count_status(const struct cluster_loop *cl)
{
    struct metrics *m = cl->cfg.metrics;
    struct cluster_status st;
    struct peer_links_stats ls;
    struct puller_stats ps = {0};

    cluster_status(cl->cluster, &st);
    peer_links_stats(cl->links, &ls);
    if (cl->puller)
        puller_stats(cl->puller, &ps);
    metric_set(&m->cluster_member, st.phase == CLUSTER_MEMBER);
    metric_set(&m->cluster_leads, st.leads);
    metric_set(&m->cluster_cut_seconds, st.cut_ms / 1000);
    metric_set(&m->cluster_suspects, st.suspects);
    metric_set(&m->cluster_moving_slots, st.moves);
    metric_set(&m->cluster_guarded, st.coord.guarded);
    metric_set(&m->peer_links, ls.up);
    metric_set(&m->peer_links_refused, ls.refused);
    metric_set(&m->peer_bytes_in, ls.bytes_in);
    metric_set(&m->peer_bytes_out, ls.bytes_out);
    metric_set(&m->pulled_blocks, ps.blocks);
    metric_set(&m->pulled_bytes, ps.bytes);
    metric_set(&m->pull_wants, ps.wants);
    metric_set(&m->pull_want_hits, ps.want_hits);
    metric_set(&m->pull_failed, ps.failed);
}

void cluster_load_count(struct cluster_loop *cl)
{
    count_nodes(cl);
    count_status(cl);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A lane's set-up, its turn, and the mail it gets from control. One turn, in
 * this order:
 *
 *   mail        what other threads want
 *   disk        what the SSDs have read and written, their logs
 *   transports  completions first, then new requests (both may tick ops)
 *   timers      deadlines, ttls, ops that asked for another tick
 *   memory      ops that waited for it, if some was freed
 *   store       watermark eviction, old generations, units for other lanes;
 *               reads and writes for the SSDs
 *   disk        what this turn asked of the SSDs goes to the kernel
 *   events      ops that waited for one of those that this turn brought
 *
 * Each step is bounded, so that none starves the others. */
#include "server/lane.h"

#include <string.h>

#include "server/control.h"
#include "server/ctl_mail.h"
#include "server/layouts.h"
#include "server/op.h"
#include "server/peer.h"
#include "server/pins.h"
#include "server/wants.h"

enum {
    LANE_MAIL_PER_TURN = 64,
    LANE_REFUSALS = 1024,
    LANE_SPAN_ARRAYS = 256,
    LANE_WAKES_IN_VAIN = 16, /* in a turn: a thousand may be waiting */
    LANE_MRC_SAMPLES = 1 << 12,
    LANE_MRC_FADE_S = 1800,
};

/* What an op needs at most: its copy of the message, results and its own state
 * per key; or an envelope unpacked, what answers it, and that packed. Address
 * space; only what is used is touched. */
static size_t lane_op_arena(const struct config *c)
{
    size_t keys = c->limits.batch_keys + 2;

    return 2 * c->limits.message_bytes + WIRE_EAGER_MAX + OP_UNPACK_BYTES +
           OP_MSG_BYTES + keys * (WIRE_RECORD + OP_KEY_BYTES);
}

static void lane_limits(struct lane *l)
{
    l->limits = (struct frame_limits){
        .message_bytes = (uint32_t)l->cfg->limits.message_bytes,
        .batch_keys = (uint32_t)l->cfg->limits.batch_keys,
        .inline_bytes = WIRE_EAGER_MAX,
        .block_bytes = l->cfg->limits.block_bytes,
    };
}

static uint64_t lane_pool_bytes(struct unit_pool *const pools[STORE_POOLS])
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < STORE_POOLS; i++)
        bytes += pools[i] ? (uint64_t)pools[i]->units * UNIT_BYTES : 0;
    return bytes;
}

/* Blocks shorter than this are so rare on an SSD that room for their entries is
 * not set aside; where they are not, what is beyond it is not written there. */
#define LANE_SSD_BLOCK KIB(8)

static enum err lane_store(struct lane *l,
                           struct unit_pool *const pools[STORE_POOLS])
{
    const struct config *c = l->cfg;
    uint64_t bytes = lane_pool_bytes(pools); /* loan pools included */
    uint64_t tier = (uint64_t)pools[0]->units * UNIT_BYTES;
    struct store_cfg cfg = {
        .lane = l->idx,
        .lanes = l->lanes,
        .namespaces_max = (uint32_t)c->namespaces.max,
        .low_water_pct = (uint32_t)c->dram.low_water_pct,
        .high_water_pct = (uint32_t)c->dram.high_water_pct,
        .pinned_bytes_max = tier / 100 * c->dram.pin_limit_pct / l->lanes,
        .block_bytes_max = c->limits.block_bytes,
        .blocks_max = bytes / KIB(4),
        .ssd_blocks_max = l->ssd_bytes / LANE_SSD_BLOCK,
        .ghosts = (uint32_t)min_u64(bytes / KIB(16), 1 << 20),
        .events_bytes = c->limits.events_bytes,
    };

    l->dram_bytes = tier;
    return store_new(&l->store, &cfg, pools, &l->env, &l->metrics, &l->trace);
}

static enum err lane_pools(struct lane *l)
{
    uint32_t ops = (uint32_t)l->cfg->limits.ops_per_lane;
    uint32_t clients = (uint32_t)l->cfg->limits.clients;
    enum err e;

    l->op_arena_bytes = lane_op_arena(l->cfg);
    e = pool_init(&l->ops, ops, sizeof(struct op) + l->op_arena_bytes);
    if (!e)
        e = pool_init(&l->peers, clients, sizeof(struct peer));
    if (!e)
        e = pool_init(&l->refusals, LANE_REFUSALS, sizeof(struct refusal));
    if (!e)
        e = pool_init(&l->spans, LANE_SPAN_ARRAYS,
                      STORE_SPANS_MAX * sizeof(struct span));
    if (!e)
        e = pins_init(l);
    if (!e)
        e = layouts_init(l);
    if (!e)
        e = opens_init(l);
    if (!e) /* two per op, one per peer, pin, loan and open block */
        e = timers_init(&l->timers, 2 * ops + clients + l->pins.n + l->loans.n +
                                        l->opens.n);
    return e;
}

static size_t event_waits_bytes(const struct lane *l)
{
    return (l->ns_max + 1) * sizeof *l->event_waits;
}

enum err lane_init(struct lane *l, const struct config *cfg, uint32_t idx,
                   uint32_t lanes, struct unit_pool *const pools[STORE_POOLS],
                   struct control *control)
{
    enum err e;

    l->magic = LANE_MAGIC;
    l->cfg = cfg;
    l->idx = idx;
    l->lanes = lanes;
    l->control = control;
    l->self_node = NODE_NONE;
    l->viewless = cfg->cluster.enabled;
    list_init(&l->peer_list);
    list_init(&l->mem_waiters);
    for (uint32_t i = 0; i < STORE_POOLS; i++)
        l->loan_fds[i] = -1;
    lane_limits(l);
    mailbox_init(&l->mailbox,
                 (uint32_t)cfg->limits.ops_per_lane + CTL_JOBS +
                     UNIT_LANES_MAX + SSD_LINK_MAIL(lanes) + WANTS_MAX,
                 NULL, NULL);
    l->ns_max = (uint32_t)cfg->namespaces.max;
    l->ns = mem_reserve((l->ns_max + 1) * sizeof *l->ns);
    l->event_waits = mem_reserve(event_waits_bytes(l));
    e = l->ns && l->event_waits ? lane_pools(l) : ERR_NO_MEMORY;
    for (uint32_t i = 0; l->event_waits && i <= l->ns_max; i++)
        list_init(&l->event_waits[i]);
    l->events_told = 1;
    if (!e)
        e = lane_store(l, pools);
    if (!e && cfg->cluster.enabled)
        e = heat_init(&l->heat, idx, lanes);
    if (!e)
        e = moves_lane_init(l);
    if (!e)
        e = wants_init(l);
    if (!e)
        e = mrc_init(&l->mrc, LANE_MRC_SAMPLES,
                     LANE_SIZES * (l->dram_bytes + l->ssd_bytes) / lanes);
    if (e)
        lane_fini(l);
    return e;
}

void lane_fini(struct lane *l)
{
    mrc_fini(&l->mrc);
    wants_fini(l);
    moves_lane_fini(l);
    heat_fini(&l->heat);
    opens_fini(l);
    store_free(l->store);
    l->store = NULL;
    ssd_link_fini(&l->link);
    timers_fini(&l->timers);
    pins_fini(l);
    layouts_fini(l);
    pool_fini(&l->spans);
    pool_fini(&l->refusals);
    pool_fini(&l->peers);
    pool_fini(&l->ops);
    mem_release(l->event_waits, event_waits_bytes(l));
    l->event_waits = NULL;
    mem_release(l->ns, (l->ns_max + 1) * sizeof *l->ns);
    l->ns = NULL;
    mailbox_fini(&l->mailbox);
    l->magic = 0;
}

static void lane_wake_memory(struct lane *l)
{
    uint64_t freed = store_freed(l->store);
    const struct list *first = NULL; /* that waits again */
    struct list *n;
    uint32_t vain = 0;

    if (freed == l->mem_freed_seen)
        return;
    l->mem_freed_seen = freed;
    /* An op that finds too little waits again, behind the others. */
    while (vain < LANE_WAKES_IN_VAIN && l->mem_waiters.next != first &&
           (n = list_pop(&l->mem_waiters))) {
        op_wake(container_of(n, struct op, wait));
        if (l->mem_waiters.prev != n)
            continue;
        vain++;
        first = first ? first : n;
    }
}

void lane_accessed(struct lane *l, struct hash128 hash, uint64_t len)
{
    if (l->env.now_ns >= l->mrc_fade_ns) {
        l->mrc_fade_ns = l->env.now_ns + LANE_MRC_FADE_S * NS_PER_S;
        mrc_fade(&l->mrc);
    }
    mrc_access(&l->mrc, hash.lo, (uint32_t)((len + KIB(4) - 1) / KIB(4)));
}

bool lane_turn(struct lane *l)
{
    uint32_t mail = mailbox_run(&l->mailbox, l, LANE_MAIL_PER_TURN);
    bool more = mail == LANE_MAIL_PER_TURN;

    MUST(l->magic == LANE_MAGIC);
    metric_add(&l->metrics.mail_run, mail);
    more |= ssd_link_turn(&l->link);
    for (uint32_t i = 0; i < l->transport_n; i++)
        more |= l->transports[i]->ops->progress(l->transports[i]);
    more |= timers_run(&l->timers, l->env.now_ns) > 0;
    lane_wake_memory(l);
    if (!l->closing)
        more |= store_tick(l->store) || moves_turn(l);
    more |= ssd_link_flush(&l->link);
    lane_wake_events(l);
    metric_add(&l->metrics.loop_turns, 1);
    __atomic_store_n(&l->ticks, l->ticks + 1, __ATOMIC_RELAXED);
    return more;
}

uint64_t lane_next_ns(const struct lane *l)
{
    uint64_t due = min_u64(timers_next(&l->timers), ssd_link_next_ns(&l->link));

    /* A lane that closes does not tick its store: nothing of it is due. */
    if (l->closing)
        return due;
    if (l->moves) /* it looks for a sweep */
        due = min_u64(due, l->env.now_ns + NS_PER_S);
    return min_u64(due, store_next_ns(l->store));
}

void lane_drain(struct lane *l)
{
    l->draining = true;
}

bool lane_drained(const struct lane *l)
{
    return pool_used(&l->ops) == 0 && pool_used(&l->refusals) == 0;
}

enum err lane_ns_find(const struct lane *l, uint32_t id, uint64_t generation,
                      const struct registry_ns **ns_out)
{
    if (id == 0 || id > l->ns_max || l->ns[id].id != id)
        return ERR_NO_NAMESPACE;
    if (generation && generation != l->ns[id].generation)
        return ERR_STALE_GENERATION;
    *ns_out = &l->ns[id];
    return OK;
}

static void lane_nudged(struct mail *m, void *lane)
{
    struct lane_nudge *n = container_of(m, struct lane_nudge, mail);

    (void)lane; /* the turn it runs in ends with store_tick */
    __atomic_store_n(&n->posted, 0, __ATOMIC_RELEASE);
}

/* Two lanes that wait for memory see each other's vain attempts as memory that
 * was freed: without the pause they would wake each other for ever. */
void lane_nudge_others(struct lane *l)
{
    if (l->env.now_ns < l->nudge_ns)
        return;
    l->nudge_ns = l->env.now_ns + NS_PER_MS;
    for (uint32_t i = 0; i < l->lanes; i++) {
        struct lane_nudge *n = &l->nudges[i];

        if (i == l->idx || __atomic_exchange_n(&n->posted, 1, __ATOMIC_ACQ_REL))
            continue;
        n->mail.fn = lane_nudged;
        if (mailbox_post(&l->control->lanes[i]->mailbox, &n->mail))
            __atomic_store_n(&n->posted, 0, __ATOMIC_RELEASE);
    }
}

/* ---- mail from control (ctl_mail.h) ------------------------------------ */

enum err lane_ns_set(struct lane *l, const struct registry_ns *ns,
                     const struct store_ns_cfg *cfg)
{
    enum err e = ns->id <= l->ns_max ? store_ns_set(l->store, cfg) : ERR_LIMIT;

    if (e)
        return e;
    l->ns[ns->id] = *ns;
    opens_flush(l, ns->id, ns->generation);
    return OK;
}

void lane_ns_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);

    ctl_ack(ask, lane_ns_set(lane, ask->job->ns, ask->job->store));
}

/* What a running lane can take over; sizes of pools stay as they were. */
void lane_config_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    struct lane *l = lane;

    l->cfg = ask->job->cfg;
    ssd_link_config(&l->link, l->cfg);
    ctl_ack(ask, OK);
}

void lane_view_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    struct lane *l = lane;

    l->view = ask->job->view;
    l->epoch = l->view ? l->view->epoch : 0;
    l->self_node = ask->job->self_node;
    l->viewless = l->view == NULL;
    ctl_ack(ask, OK);
}

void lane_usage_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    struct lane *l = lane;
    struct ctl_usage *u = ask->job->usage + (size_t)l->idx * ask->job->usage_n;

    for (uint32_t id = 1; id <= ask->job->usage_n; id++, u++)
        if (id <= l->ns_max && l->ns[id].id == id) {
            store_ns_usage(l->store, id, &u->blocks, &u->bytes,
                           &u->share_bytes);
            store_ns_ssd_usage(l->store, id, &u->ssd_blocks, &u->ssd_bytes);
        }
    ctl_ack(ask, OK);
}

void lane_clients_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    struct lane *l = lane;
    uint32_t n = 0;

    LIST_FOREACH(node, &l->peer_list)
    {
        struct ctl_client *c = &ask->job->clients[l->idx][n];
        struct peer *p = container_of(node, struct peer, node);

        if (n == CTL_CLIENTS_MAX)
            break;
        if (!p->tp)
            continue;
        peer_describe(p, &c->info);
        memcpy(c->engine, p->engine, sizeof c->engine);
        strncpy(c->transport, p->tp->t->ops->name, sizeof c->transport - 1);
        c->info.engine = c->engine;
        c->info.transport = c->transport;
        n++;
    }
    ask->job->client_n[l->idx] = n;
    ctl_ack(ask, OK);
}

void lane_ping_mail(struct mail *m, void *lane)
{
    (void)lane;
    ctl_ack(ctl_ask_of(m), OK);
}

void lane_drain_mail(struct mail *m, void *lane)
{
    lane_drain(lane);
    ctl_ack(ctl_ask_of(m), OK);
}

void lanes_metrics(const struct control *c, struct metrics *to)
{
    for (uint32_t i = 0; i < c->lane_n; i++)
        metrics_sum(to, &c->lanes[i]->metrics);
    if (c->beside)
        metrics_sum(to, c->beside);
}

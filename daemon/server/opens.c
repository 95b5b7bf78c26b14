/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of open blocks (opens.h): slots in an array, OPEN ones chained by
 * block id, ended ones in the order of their end. */
#include "server/opens.h"

#include "base/fault.h"
#include "server/op.h"
#include "server/peer.h"

static size_t opens_bytes(const struct opens *t)
{
    return t->n * sizeof *t->all;
}

enum err opens_init(struct lane *l)
{
    struct opens *t = &l->opens;

    list_init(&t->live);
    list_init(&t->ended);
    for (uint32_t i = 0; i < OPEN_HEADS; i++)
        list_init(&t->heads[i]);
    t->n = (uint32_t)((l->cfg->limits.open_blocks + l->lanes - 1) / l->lanes);
    t->all = mem_reserve(opens_bytes(t));
    if (!t->all)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < t->n; i++) {
        list_init(&t->all[i].waiters);
        list_add_tail(&t->ended, &t->all[i].node);
    }
    return OK;
}

void opens_fini(struct lane *l)
{
    struct opens *t = &l->opens;

    if (!t->all)
        return;
    LIST_FOREACH_SAFE(n, &t->live)
    open_abort(container_of(n, struct open, node), OPEN_LOST);
    mem_release(t->all, opens_bytes(t));
    t->all = NULL;
}

static struct list *open_head(struct opens *t, uint32_t block)
{
    return &t->heads[block * UINT32_C(2654435761) >> 24];
}
static_assert(OPEN_HEADS == 1 << (32 - 24), "open_head takes 8 bits");

static void opens_gauges(struct lane *l)
{
    metric_set(&l->metrics.open_blocks, l->opens.live_n);
    metric_set(&l->metrics.open_bytes, l->opens.bytes);
}

static bool opens_slot(const struct opens *t)
{
    return t->live_n < t->n &&
           list_empty(&container_of(t->ended.next, struct open, node)->waiters);
}

/* The first one may be larger than the cap: else it could never be stored. */
bool opens_room(const struct lane *l, uint64_t len)
{
    const struct opens *t = &l->opens;
    uint64_t cap = l->dram_bytes / 100 * l->cfg->limits.open_share_pct;

    return opens_slot(t) && !fault_here("opens_room") &&
           (t->live_n == 0 || t->bytes + len <= cap / l->lanes);
}

/* ---- its beginning */

static void open_expired(struct timer *timer)
{
    open_abort(container_of(timer, struct open, timer), OPEN_LOST);
}

static uint64_t open_due_ns(const struct lane *l, uint32_t open_ms)
{
    uint64_t max_us = l->cfg->limits.open_time_us;
    uint64_t us = open_ms ? min_u64((uint64_t)open_ms * 1000, max_us) : max_us;

    return l->env.now_ns + us * NS_PER_US;
}

/* Another one for every use of a slot; the seed keeps tokens of another life of
 * the daemon from naming anything. */
static uint64_t open_token(struct lane *l, uint32_t slot)
{
    struct opens *t = &l->opens;
    uint64_t serial = ++t->serial;

    if (!t->seed)
        t->seed = env_random(&l->env) | 1;
    return hash_64(t->seed, &serial, sizeof serial) << OPEN_SLOT_BITS | slot;
}

struct open *open_new(struct lane *l, uint32_t block,
                      const struct open_spec *spec)
{
    struct opens *t = &l->opens;
    struct list *n = list_pop(&t->ended);
    struct open *o;

    MUST(n);
    o = container_of(n, struct open, node);
    MUST(o->state != OPEN_OPEN && list_empty(&o->waiters));
    o->lane = l;
    o->state = OPEN_OPEN;
    o->token = open_token(l, (uint32_t)(o - t->all));
    o->len = spec->len;
    o->committed = 0;
    o->writers = spec->writers;
    o->ns = spec->ns;
    o->block = block;
    o->pin_ttl_ms = spec->pin_ttl_ms;
    o->durable = spec->durable;
    o->synced = false;
    o->generation = spec->generation;
    o->hash = spec->hash;
    o->version = 0;
    o->crc = 0;
    o->member_n = 0;
    runs_init(&o->runs);
    list_add_tail(&t->live, &o->node);
    list_add_tail(open_head(t, block), &o->same);
    t->live_n++;
    t->bytes += o->len;
    timer_start(&l->timers, &o->timer, open_due_ns(l, spec->open_ms),
                open_expired);
    opens_gauges(l);
    return o;
}

/* ---- finding */

struct open *open_of_block(struct lane *l, uint32_t block)
{
    LIST_FOREACH(n, open_head(&l->opens, block))
    {
        struct open *o = container_of(n, struct open, same);

        if (o->block == block)
            return o;
    }
    return NULL;
}

struct open *open_find(struct lane *l, uint64_t token,
                       const struct store_key *k)
{
    uint64_t slot = token & ((1 << OPEN_SLOT_BITS) - 1);
    struct open *o;

    if (slot >= l->opens.n)
        return NULL;
    o = &l->opens.all[slot];
    if (o->state == OPEN_FREE || o->token != token || o->ns != k->ns ||
        o->hash.lo != k->hash.lo || o->hash.hi != k->hash.hi)
        return NULL;
    return o;
}

/* ---- members */

static struct open_member *member_find(struct open *o, const struct peer *p)
{
    for (uint32_t i = 0; i < o->member_n; i++)
        if (o->members[i].peer == p)
            return &o->members[i];
    return NULL;
}

enum err open_join(struct open *o, struct peer *p)
{
    struct open_member *m = member_find(o, p);

    if (!m) {
        if (o->member_n == OPEN_MEMBERS)
            return ERR_LIMIT;
        m = &o->members[o->member_n++];
        m->peer = p;
        p->open_n++;
    }
    m->done = false;
    return OK;
}

/* true: it had something to commit. */
static bool member_leave(struct open *o, struct peer *p)
{
    struct open_member *m = member_find(o, p);
    bool lost;

    if (!m)
        return false;
    lost = !m->done;
    *m = o->members[--o->member_n];
    p->open_n--;
    return lost;
}

void opens_peer_gone(struct peer *p)
{
    if (p->open_n == 0)
        return;
    LIST_FOREACH_SAFE(n, &p->lane->opens.live)
    {
        struct open *o = container_of(n, struct open, node);

        if (member_leave(o, p))
            open_abort(o, OPEN_LOST);
    }
    MUST(p->open_n == 0);
}

/* ---- its end */

static uint64_t open_everybody(const struct open *o)
{
    return ~UINT64_C(0) >> (OPEN_WRITERS - o->writers);
}

static void open_wake(struct open *o)
{
    LIST_FOREACH(n, &o->waiters)
    op_again(container_of(n, struct op, wait), 0);
}

/* The block is the caller's. */
static void open_end(struct open *o, enum open_state end)
{
    struct opens *t = &o->lane->opens;

    MUST(o->state == OPEN_OPEN);
    o->state = end;
    timer_stop(&o->lane->timers, &o->timer);
    while (o->member_n)
        o->members[--o->member_n].peer->open_n--;
    list_del(&o->same);
    list_del(&o->node);
    list_add_tail(&t->ended, &o->node);
    t->live_n--;
    t->bytes -= o->len;
    open_wake(o);
    opens_gauges(o->lane);
}

void open_abort(struct open *o, enum open_state end)
{
    metric_add(&o->lane->metrics.open_aborted, 1);
    open_end(o, end);
    store_abort(o->lane->store, o->block);
}

void open_commit(struct open *o, struct peer *p, uint32_t writer)
{
    struct open_member *m = member_find(o, p);

    MUST(writer < o->writers);
    o->committed |= UINT64_C(1) << writer;
    if (m)
        m->done = true;
}

bool open_waits(const struct open *o)
{
    return o->state == OPEN_OPEN && o->committed == open_everybody(o) &&
           o->runs.pending_n > 0;
}

void open_wait(struct open *o, struct op *op)
{
    list_del(&op->wait);
    list_add_tail(&o->waiters, &op->wait);
}

void open_settle(struct open *o)
{
    struct lane *l = o->lane;
    uint32_t crc;

    if (o->state != OPEN_OPEN || o->committed != open_everybody(o) ||
        o->runs.pending_n > 0)
        return;
    if (!runs_whole(&o->runs, o->len, &crc)) {
        open_abort(o, OPEN_PARTIAL);
        return;
    }
    open_end(o, OPEN_COMMITTED);
    o->crc = crc;
    o->version = store_commit(l->store, o->block, crc);
    lane_accessed(l, o->hash, o->len);
    store_unref(l->store, o->block);
}

void opens_flush(struct lane *l, uint32_t ns, uint64_t generation)
{
    LIST_FOREACH_SAFE(n, &l->opens.live)
    {
        struct open *o = container_of(n, struct open, node);

        if (o->ns == ns && o->generation != generation)
            open_abort(o, OPEN_LOST);
    }
}

/* Somebody is at it, or has done its part and gone. */
static void open_check(const struct open *o)
{
    MUST(o->state == OPEN_OPEN && o->block);
    MUST(o->timer.idx);
    MUST(o->member_n > 0 || o->committed);
    MUST(o->committed != open_everybody(o) || o->runs.pending_n > 0);
    for (uint32_t i = 0; i < o->member_n; i++) {
        MUST(o->members[i].peer->magic == PEER_MAGIC);
        MUST(o->members[i].peer->open_n > 0);
    }
}

void opens_check(const struct lane *l)
{
    const struct opens *t = &l->opens;
    uint64_t bytes = 0;
    uint32_t n = 0;

    LIST_FOREACH(node, &t->live)
    {
        const struct open *o = container_of(node, struct open, node);

        open_check(o);
        bytes += o->len;
        n++;
    }
    MUST(n == t->live_n && bytes == t->bytes);
}

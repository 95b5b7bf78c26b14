/* SPDX-License-Identifier: Apache-2.0
 *
 * The mover's set-up, its tick, and what it knows of devices.
 *
 * A tick: whoever cannot be served is told; loads are turned into reads, those
 * with a client waiting first; then blocks are written. Everything else happens
 * in completions, which come from the disk's progress and from ssd.submit's
 * done, never from inside a call of the store.
 *
 * A read that is older than the log allows (hang_ns) makes its device suspect:
 * its owner, who is woken by a flush, lets the log fail. A device that fails
 * (its log says so) is read no more: blocks whose load is under way become GONE
 * and whoever waits for something on it is told in the next tick (MISS, of
 * writes and tombs NOT_DURABLE), while the memory stays where it is until the
 * disk has given the io back.
 *
 * Thread: the lane. Fails only at set-up (NO_MEMORY). */
#include "store/mover_impl.h"

/* ---- set-up */

static enum err pools_new(struct mover *m)
{
    enum err e = pool_init(&m->write_pool, MOVER_WRITES, sizeof(struct write));

    if (!e)
        e = pool_init(&m->order_pool, MOVER_REQS, sizeof(struct order));
    if (!e)
        e = pool_init(&m->load_pool, MOVER_LOADS, sizeof(struct load));
    if (!e)
        e = pool_init(&m->read_pool, MOVER_READS, sizeof(struct read));
    if (!e)
        e = pool_init(&m->head_pool, MOVER_HEADS, sizeof(struct head));
    if (!e)
        e = pool_init(&m->peek_pool, MOVER_PEEKS, sizeof(struct peek));
    return e;
}

static size_t ring_bytes(const struct mover *m)
{
    return (size_t)m->ring_cap * sizeof *m->ring;
}

enum err store_ssd_set(struct store *s, struct ssd *ssd)
{
    struct mover *m = mem_reserve(sizeof *m);
    uint64_t ring = 1;
    enum err e;

    MUST(!s->mover && s->cfg.ssd_blocks_max && !s->cat.entry_n);
    MUST(ssd->n <= DISK_DEVS && ssd->n > 0);
    if (!m)
        return ERR_NO_MEMORY;
    s->mover = m;
    m->s = s;
    m->ssd = ssd;
    while (ring < s->cfg.blocks_max && ring < MOVER_RING)
        ring *= 2;
    m->ring_cap = (uint32_t)ring;
    m->ring = mem_reserve(ring_bytes(m));
    m->head_pages = mem_reserve((size_t)MOVER_HEADS * SEG_PAGE);
    list_init(&m->writes);
    list_init(&m->loading);
    for (uint32_t i = 0; i < HEAD_BUCKETS; i++)
        list_init(&m->heads[i]);
    list_init(&m->missed);
    list_init(&m->ended);
    list_init(&m->orders);
    for (uint32_t i = 0; i < DISK_DEVS; i++)
        list_init(&m->reads[i]);
    for (uint32_t i = 0; i < LOAD_CLASSES; i++)
        list_init(&m->fresh[i]);
    e = m->ring && m->head_pages ? pools_new(m) : ERR_NO_MEMORY;
    if (!e)
        e = adopt_new(s);
    if (e)
        mover_free(s);
    return e;
}

void mover_free(struct store *s)
{
    struct mover *m = s->mover;

    if (!m)
        return;
    pool_fini(&m->peek_pool);
    pool_fini(&m->head_pool);
    pool_fini(&m->read_pool);
    pool_fini(&m->load_pool);
    pool_fini(&m->order_pool);
    pool_fini(&m->write_pool);
    mem_release(m->head_pages, (size_t)MOVER_HEADS * SEG_PAGE);
    mem_release(m->ring, ring_bytes(m));
    mem_release(m, sizeof *m);
    s->mover = NULL;
}

/* ---- devices */

bool mover_readable(const struct store *s, uint32_t dev)
{
    const struct mover *m = s->mover;

    return m && dev < m->ssd->n && !(s->lost >> dev & 1) &&
           seg_map_readable(m->ssd->maps[dev]);
}

bool store_ssd_idle(const struct store *s)
{
    const struct mover *m = s->mover;

    return !m ||
           (!m->ring_n && list_empty(&m->writes) && list_empty(&m->orders) &&
            !pool_used(&m->load_pool) && !pool_used(&m->read_pool) &&
            !pool_used(&m->head_pool) && list_empty(&m->missed));
}

/* ---- the tick */

void wait_end(struct store_wait *w, enum err e)
{
    if (!w)
        return;
    MUST(w->pending > 0);
    if (e && !w->err)
        w->err = e;
    if (--w->pending == 0)
        w->done(w);
}

static void tell_missed(struct mover *m)
{
    struct list now, *n;

    list_move(&now, &m->missed);
    while ((n = list_pop(&now)))
        wait_end(container_of(n, struct store_wait, node), ERR_MISS);
}

/* Once for each device that went. Whoever is told may end others' waits. */
static void devices_dead(struct mover *m)
{
    for (uint32_t i = 0; i < m->ssd->n; i++) {
        uint32_t bit = 1u << i;

        if (mover_readable(m->s, i)) {
            m->dead &= ~bit;
        } else if (!(m->dead & bit)) {
            m->dead |= bit;
            loads_dead(m, i);
            peeks_dead(m, i);
            orders_dead(m, i);
        }
    }
}

void store_wait_cancel(struct store *s, struct store_wait *w)
{
    if (!w->pending)
        return;
    w->pending = 0;
    if (!orders_forget(s->mover, w))
        load_forget(s->mover, w);
}

bool mover_tick(struct store *s)
{
    struct mover *m = s->mover;
    bool more;

    if (!m)
        return false;
    tell_missed(m);
    orders_ended(m);
    reads_watch(m);
    devices_dead(m);
    more = reads_flush(m);
    return writes_pump(m) || more;
}

static uint32_t list_count(const struct list *l)
{
    uint32_t n = 0;

    LIST_FOREACH(at, l)
    n++;
    return n;
}

void mover_check(const struct store *s)
{
    const struct mover *m = s->mover;
    uint64_t write_bytes = 0, load_bytes = 0, fresh_bytes = 0;
    uint32_t loads = 0, reads = 0;

    if (!m)
        return;
    LIST_FOREACH(n, &m->writes)
    {
        const struct write *w = container_of(n, struct write, node);

        MUST(hot_of(s, w->block)->refs > 0);
        MUST(hot_is(hot_of(s, w->block), HOT_WRITING));
        write_bytes += w->bytes;
    }
    for (uint32_t c = 0; c <= LOAD_CLASSES; c++)
        LIST_FOREACH(n, c < LOAD_CLASSES ? &m->fresh[c] : &m->loading)
        {
            const struct load *l = container_of(n, struct load, node);

            MUST(hot_of(s, l->block)->refs > 0);
            if (entry_at(s, l->block)->state == BLOCK_LOADING)
                MUST(load_of(s, hot_of(s, l->block)) == l);
            MUST(l->flying == (c == LOAD_CLASSES));
            load_bytes += (uint64_t)l->pages * SEG_PAGE;
            fresh_bytes += l->flying ? 0 : (uint64_t)l->pages * SEG_PAGE;
            loads++;
        }
    MUST(write_bytes == m->write_bytes);
    MUST(load_bytes == m->load_bytes);
    MUST(fresh_bytes == m->fresh_bytes);
    MUST(loads == pool_used(&m->load_pool));
    for (uint32_t i = 0; i < DISK_DEVS; i++)
        reads += list_count(&m->reads[i]);
    MUST(reads == pool_used(&m->read_pool));
    MUST(list_count(&m->orders) == pool_used(&m->order_pool));
}

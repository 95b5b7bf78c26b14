/* SPDX-License-Identifier: Apache-2.0
 *
 * From requests to groups on the device.
 *
 *   submit -> queue[class] --group closed: place taken, header page made-->
 *     groups: payload ios (LOG_IOS of about LOG_IO_BYTES, of any group)
 *             --all completed, and it is the first in groups--> header io
 *             --completed--> OK, or, if durable or a tomb: flush_wait
 *     flush_wait --one FLUSH for all that are there--> OK
 *
 * Classes: tombs, durable PUTs, re-insertions, ordinary PUTs; a group is of
 * one class. The first two are written at once and make debt in the budget;
 * of the others the one whose first request is older goes first. A group takes
 * from its class, in order, all requests of the first one's size, so that
 * mixed sizes make full groups too.
 *
 * Invariants
 *  1. Places are taken in the order of groups; a header is written when its
 *     own payloads have completed and no header before it is missing. So a
 *     scan of a segment finds a prefix of its groups, whole.
 *  2. A tomb is never placed before a record that it kills: a PUT of the same
 *     hash and a version up to the tomb's that is still queued ends with MISS
 *     and is not written.
 *  3. queued_bytes is the sum over the queues of PUTs.
 *  4. A request ends when no io of its group's payload is in flight, also
 *     after a failure: its memory is the disk's until then.
 *
 * Failure: the io helper has made the log READ_ONLY and called
 * seglog_write_abort before the completions here run. */
#include <string.h>

#include "store/seglog_impl.h"

static struct seg_req *req_of(struct list *n)
{
    return container_of(n, struct seg_req, node);
}

static uint32_t req_pages(const struct seg_req *r)
{
    return r->what == SEG_REQ_TOMB ? 0 : seg_pages(r->meta.len);
}

static uint64_t req_bytes(const struct seg_req *r)
{
    return (uint64_t)req_pages(r) * SEG_PAGE;
}

/* ---- queues */

/* A queued request leaves its queue. */
static void unqueue(struct seglog *g, struct seg_req *r)
{
    list_del(&r->node);
    g->queued_bytes -= req_bytes(r);
    if (list_empty(&g->queue[LOG_Q_PUT]) && list_empty(&g->queue[LOG_Q_AGAIN]))
        g->tokens_need = 0;
}

static void queue_put(struct seglog *g, struct seg_req *r)
{
    enum log_q q = r->durable ? LOG_Q_DURABLE
                   : r->again ? LOG_Q_AGAIN
                              : LOG_Q_PUT;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < r->span_n; i++)
        bytes += r->spans[i].len;
    MUST(r->meta.len && bytes == req_bytes(r));
    if (req_pages(r) + 2 > g->segment_pages) {
        seglog_end(g, r, ERR_LIMIT);
        return;
    }
    g->queued_bytes += bytes;
    list_add_tail(&g->queue[q], &r->node);
}

static bool kills(const struct seg_tomb *t, const struct seg_meta *m)
{
    return t->hash.lo == m->key.hash.lo && t->hash.hi == m->key.hash.hi &&
           t->version >= m->version;
}

static void queue_tomb(struct seglog *g, struct seg_req *r)
{
    for (uint32_t q = LOG_Q_DURABLE; q < LOG_Q_N; q++) {
        LIST_FOREACH_SAFE(n, &g->queue[q])
        {
            struct seg_req *put = req_of(n);

            if (!kills(&r->tomb, &put->meta))
                continue;
            unqueue(g, put);
            seglog_end(g, put, ERR_MISS);
            g->tokens_need = 0; /* of a group that is another one now */
        }
    }
    list_add_tail(&g->queue[LOG_Q_TOMB], &r->node);
}

void seglog_write_queue(struct seglog *g, struct seg_req *r)
{
    switch (r->what) {
    case SEG_REQ_PUT:
        queue_put(g, r);
        break;
    case SEG_REQ_TOMB:
        queue_tomb(g, r);
        break;
    case SEG_REQ_FLUSH:
        list_add_tail(&g->flush_wait, &r->node);
        break;
    }
}

static bool in_a_hurry(const struct seglog *g, enum log_q q)
{
    return q == LOG_Q_TOMB || q == LOG_Q_DURABLE || g->closing;
}

/* The class to be served of the two that wait for budget and linger. */
static enum log_q older(const struct seglog *g)
{
    const struct list *a = &g->queue[LOG_Q_AGAIN], *p = &g->queue[LOG_Q_PUT];

    if (list_empty(a))
        return LOG_Q_PUT;
    if (list_empty(p))
        return LOG_Q_AGAIN;
    return req_of(a->next)->queued_ns <= req_of(p->next)->queued_ns
               ? LOG_Q_AGAIN
               : LOG_Q_PUT;
}

/* ---- closing a group */

/* Requests of a group of this size at most. */
static uint32_t most_of(const struct seglog *g, uint32_t pages)
{
    uint64_t n;

    if (!pages)
        return UINT32_MAX;
    n = g->cfg.group_bytes / ((uint64_t)pages * SEG_PAGE);
    return (uint32_t)min_u64(n ? n : 1, SEG_RECORDS);
}

/* How many of the first LOG_SCAN requests are of the first one's size, most
 * at most. */
static uint32_t count_alike(const struct seglog *g, enum log_q q,
                            uint32_t pages, uint32_t most)
{
    uint32_t n = 0, seen = 0;

    LIST_FOREACH(p, &g->queue[q])
    {
        if (n == most || ++seen > LOG_SCAN)
            break;
        n += req_pages(req_of(p)) == pages;
    }
    return n;
}

static bool add_to_header(uint8_t *page, const struct seg_req *r)
{
    if (r->what == SEG_REQ_TOMB)
        return seg_group_add_tomb(page, &r->tomb);
    return seg_group_add(page, &r->meta);
}

/* Moves up to n requests of this size from the queue into the group, as many
 * as its header page holds. */
static void gather(struct seglog *g, struct log_group *w, enum log_q q,
                   uint32_t n)
{
    w->n = 0;
    w->payload_bytes = 0;
    seg_group_begin(w->header, w->kind);
    LIST_FOREACH_SAFE(p, &g->queue[q])
    {
        struct seg_req *r = req_of(p);

        if (w->n == n)
            break;
        if (req_pages(r) != w->record_pages)
            continue;
        if (!add_to_header(w->header, r))
            break;
        unqueue(g, r);
        list_add_tail(&w->reqs, &r->node);
        w->payload_bytes += req_bytes(r);
        w->n++;
    }
}

/* Takes the group's place in the head. */
static void settle(struct seglog *g, struct log_group *w)
{
    struct log_seg *s = &g->segs[g->head];

    w->segment = g->head;
    w->page = seg_first_page(g, g->head) + s->used;
    w->pages = 1 + w->n * w->record_pages;
    if (w->kind == SEG_GROUP_TOMBS)
        w->pages = 1;
    s->used += w->pages;
    s->groups++;
    MUST(s->used <= g->segment_pages);
    seg_group_seal(w->header, g->super.uuid, s->generation, w->page,
                   g->head_seq++, w->record_pages);
    seglog_charge(g, (uint64_t)w->pages * SEG_PAGE);
    w->began_ns = g->env->now_ns;
    w->at = w->reqs.next;
    w->at_span = 0;
    w->at_off = w->sent = 0;
    w->header_sent = w->header_busy = w->ended = false;
    list_add_tail(&g->groups, &w->node);
}

/* The first n of a class become a group, as many as its header page holds: one
 * at least, whatever its key and parent are. */
static void make_group(struct seglog *g, enum log_q q, uint32_t n)
{
    struct log_group *w =
        container_of(list_pop(&g->groups_free), struct log_group, node);

    w->kind = q == LOG_Q_TOMB ? SEG_GROUP_TOMBS : SEG_GROUP_RECORDS;
    w->record_pages = req_pages(req_of(g->queue[q].next));
    gather(g, w, q, n);
    MUST(w->n);
    settle(g, w);
}

/* There is no room for the first of this class. While closing none will come,
 * unless a segment is being prepared. */
static bool no_room(struct seglog *g, enum log_q q)
{
    struct seg_req *r = req_of(g->queue[q].next);

    if (!g->closing || g->super_busy || g->next == NEXT_FLUSH ||
        g->next == NEXT_HEAD)
        return false;
    unqueue(g, r);
    seglog_end(g, r, ERR_BUSY);
    return true;
}

/* Is a group of this class to be closed now? n_out: of how many. */
static bool is_due(const struct seglog *g, enum log_q q, uint32_t *n_out)
{
    const struct seg_req *first = req_of(g->queue[q].next);
    uint32_t most = most_of(g, req_pages(first));

    *n_out = count_alike(g, q, req_pages(first), most);
    return in_a_hurry(g, q) || *n_out == most ||
           g->env->now_ns - first->queued_ns >= g->cfg.linger_ns;
}

/* Does what can be done for a class; true: call again. */
static bool serve(struct seglog *g, enum log_q q)
{
    uint32_t n, pages, room;

    if (list_empty(&g->queue[q]) || list_empty(&g->groups_free))
        return false;
    if (!in_a_hurry(g, q) && g->tokens_need &&
        !seglog_budget_take(g, g->tokens_need))
        return false;
    if (!is_due(g, q, &n))
        return false;
    pages = req_pages(req_of(g->queue[q].next));
    room = seglog_head_room(g, 1 + pages, q != LOG_Q_PUT);
    if (!room)
        return no_room(g, q);
    if (pages)
        n = (uint32_t)min_u64(n, (room - 1) / pages);
    if (!in_a_hurry(g, q) &&
        !seglog_budget_take(g, (1 + (uint64_t)n * pages) * SEG_PAGE))
        return false;
    make_group(g, q, n);
    return true;
}

/* ---- ending a group */

static void group_free(struct seglog *g, struct log_group *w)
{
    list_del(&w->node);
    g->segs[w->segment].groups--;
    list_add_tail(&g->groups_free, &w->node);
}

/* After a failure: its requests end when no payload io holds their memory, it
 * is free when its header's io is back too. */
static void group_abort(struct seglog *g, struct log_group *w)
{
    struct list *n;

    if (w->ios)
        return;
    while ((n = list_pop(&w->reqs)))
        seglog_end(g, req_of(n), ERR_IO);
    w->ended = true;
    if (!w->header_busy)
        group_free(g, w);
}

static void count_written(struct seglog *g, const struct seg_req *r)
{
    struct metrics *m = g->metrics;

    if (r->what == SEG_REQ_TOMB) {
        metric_add(&m->ssd_tombs, 1);
    } else if (r->again) {
        metric_add(&m->ssd_again_bytes, r->meta.len);
    } else {
        metric_add(&m->ssd_payload_bytes, r->meta.len);
        g->payload_bytes += r->meta.len;
    }
}

static void group_written(struct seglog *g, struct log_group *w)
{
    uint32_t page = w->page + 1, i = 0;
    struct list *n;

    while ((n = list_pop(&w->reqs))) {
        struct seg_req *r = req_of(n);

        if (r->what == SEG_REQ_PUT)
            r->place = (struct seg_place){page + i * w->record_pages,
                                          seg_tag(g->cfg.dev, i)};
        i++;
        count_written(g, r);
        if (r->what == SEG_REQ_TOMB || r->durable)
            list_add_tail(&g->flush_wait, &r->node);
        else
            seglog_end(g, r, OK);
    }
    metric_add(&g->metrics->ssd_groups, 1);
    hist_add(&g->metrics->ssd_write_seconds,
             env_fresh_ns(g->env) - w->began_ns);
    group_free(g, w);
}

static void header_done(struct log_io *io)
{
    struct seglog *g = io->g;
    struct log_group *w = io->arg;

    w->header_busy = false;
    if (io->io.err || w->ended || g->failed)
        group_abort(g, w);
    else
        group_written(g, w);
}

static void payload_done(struct log_io *io)
{
    struct seglog *g = io->g;
    struct log_payload *p = io->arg;
    struct log_group *w = p->group;

    p->group = NULL;
    w->ios--;
    if (g->failed)
        group_abort(g, w);
}

/* ---- ios */

/* Reads before writes: while somebody waits for this lane's disk, payloads go
 * in small pieces and one at a time, so that a read waits for little. */
static bool reads_wait(const struct seglog *g)
{
    return g->disk->in_flight > g->flying_n;
}

/* The next piece of the group's payload: spans from the cursor on. */
static void cut_payload(struct log_group *w, struct log_payload *p,
                        uint64_t most)
{
    struct disk_io *io = &p->io.io;

    io->off = (uint64_t)(w->page + 1) * SEG_PAGE + w->sent;
    io->len = 0;
    io->span_n = 0;
    io->spans = p->spans;
    while (io->len < most && io->span_n < DISK_IO_SPANS && w->at != &w->reqs) {
        const struct seg_req *r = req_of(w->at);
        const struct span *s = &r->spans[w->at_span];
        uint64_t n = min_u64(s->len - w->at_off, most - io->len);

        p->spans[io->span_n++] = (struct span){s->p + w->at_off, n};
        io->len += n;
        w->at_off += n;
        if (w->at_off < s->len)
            break;
        w->at_off = 0;
        if (++w->at_span == r->span_n) {
            w->at_span = 0;
            w->at = w->at->next;
        }
    }
    w->sent += io->len;
}

static struct log_payload *payload_free(struct seglog *g, uint32_t ios)
{
    struct log_payload *p = NULL;
    uint32_t busy = 0;

    for (uint32_t i = 0; i < LOG_IOS; i++)
        if (g->payload[i].group)
            busy++;
        else
            p = &g->payload[i];
    return busy < ios ? p : NULL;
}

static void send_payloads(struct seglog *g)
{
    bool beside = reads_wait(g);

    LIST_FOREACH(n, &g->groups)
    {
        struct log_group *w = container_of(n, struct log_group, node);

        while (w->sent < w->payload_bytes) {
            struct log_payload *p = payload_free(g, beside ? 1 : LOG_IOS);

            if (!p)
                return;
            p->group = w;
            w->ios++;
            cut_payload(w, p, beside ? LOG_IO_BESIDE : LOG_IO_BYTES);
            seglog_io_spans(&p->io, DISK_WRITE);
        }
    }
}

/* Headers go one after another: only the first group's may be written. */
static void send_header(struct seglog *g)
{
    struct log_group *w;
    struct log_io *io;

    if (list_empty(&g->groups))
        return;
    w = container_of(g->groups.next, struct log_group, node);
    if (w->header_sent || w->ios || w->sent < w->payload_bytes)
        return;
    w->header_sent = w->header_busy = true;
    io = &w->header_io;
    io->span = (struct span){w->header, SEG_PAGE};
    io->io.off = (uint64_t)w->page * SEG_PAGE;
    io->io.len = SEG_PAGE;
    io->io.spans = &io->span;
    io->io.span_n = 1;
    seglog_io_spans(io, DISK_WRITE);
}

static void end_all(struct seglog *g, struct list *l, enum err e)
{
    struct list *n;

    while ((n = list_pop(l)))
        seglog_end(g, req_of(n), e);
}

static void flush_done(struct log_io *io)
{
    struct seglog *g = io->g;

    g->flushing = false;
    end_all(g, &g->flush_now, io->io.err);
}

static void send_flush(struct seglog *g)
{
    struct list *n;

    if (g->flushing || list_empty(&g->flush_wait))
        return;
    while ((n = list_pop(&g->flush_wait)))
        list_add_tail(&g->flush_now, n);
    g->flushing = true;
    seglog_io(&g->flush_io, DISK_FLUSH, 0, NULL, 0);
}

/* ---- the step */

void seglog_write_step(struct seglog *g)
{
    if (g->failed || g->opening ||
        (g->state != SEGLOG_OPEN && g->state != SEGLOG_RETIRING))
        return;
    if (g->state == SEGLOG_OPEN) {
        /* The last call: an ordinary PUT may wait for room that the
         * re-insertions behind it may use. */
        while (serve(g, LOG_Q_TOMB) || serve(g, LOG_Q_DURABLE) ||
               serve(g, older(g)) || serve(g, LOG_Q_AGAIN))
            ;
        seglog_head_tick(g);
    }
    send_payloads(g);
    send_header(g);
    send_flush(g);
}

void seglog_write_init(struct seglog *g)
{
    for (uint32_t i = 0; i < LOG_Q_N; i++)
        list_init(&g->queue[i]);
    list_init(&g->flush_wait);
    list_init(&g->flush_now);
    list_init(&g->groups);
    list_init(&g->groups_free);
    for (uint32_t i = 0; i < LOG_GROUPS; i++) {
        list_init(&g->group[i].reqs);
        list_add_tail(&g->groups_free, &g->group[i].node);
        seglog_io_init(g, &g->group[i].header_io, header_done, &g->group[i]);
    }
    for (uint32_t i = 0; i < LOG_IOS; i++)
        seglog_io_init(g, &g->payload[i].io, payload_done, &g->payload[i]);
    seglog_io_init(g, &g->flush_io, flush_done, NULL);
}

void seglog_write_refuse(struct seglog *g, enum err e)
{
    for (uint32_t i = 0; i < LOG_Q_N; i++)
        end_all(g, &g->queue[i], e);
    g->queued_bytes = 0;
    g->tokens_need = 0;
}

void seglog_write_abort(struct seglog *g, enum err e)
{
    seglog_write_refuse(g, e);
    end_all(g, &g->flush_now, e);
    end_all(g, &g->flush_wait, e);
    LIST_FOREACH_SAFE(n, &g->groups)
    group_abort(g, container_of(n, struct log_group, node));
}

bool seglog_write_idle(const struct seglog *g)
{
    for (uint32_t i = 0; i < LOG_Q_N; i++)
        if (!list_empty(&g->queue[i]))
            return false;
    return list_empty(&g->groups) && list_empty(&g->flush_wait) &&
           list_empty(&g->flush_now) && !g->flushing;
}

void seglog_write_check(const struct seglog *g)
{
    uint64_t bytes = 0;
    uint32_t groups = 0, freed = 0, ios = 0, busy = 0;

    for (uint32_t q = 0; q < LOG_Q_N; q++)
        LIST_FOREACH(n, &g->queue[q])
    bytes += req_bytes(req_of(n));
    MUST(bytes == g->queued_bytes);
    LIST_FOREACH(n, &g->groups)
    {
        const struct log_group *w = container_of(n, struct log_group, node);

        groups++;
        ios += w->ios;
        MUST(!w->header_sent || n == g->groups.next);
        MUST(w->sent <= w->payload_bytes);
        MUST(!w->header_sent || !w->ios);
        MUST(g->segs[w->segment].groups);
    }
    LIST_FOREACH(n, &g->groups_free)
    freed++;
    for (uint32_t i = 0; i < LOG_IOS; i++)
        busy += g->payload[i].group != NULL;
    MUST(groups + freed == LOG_GROUPS);
    MUST(ios == busy);
    MUST(g->flushing || list_empty(&g->flush_now));
}

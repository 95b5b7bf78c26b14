/* SPDX-License-Identifier: Apache-2.0
 *
 * The segment log's life: its making, its states, its ios, its answers, its
 * superblocks, and the tick that drives the other files (seglog_impl.h names
 * them).
 *
 *   submit --> queue        tick, completions --> steps --> ios
 *                                                   |
 *              done(), host.changed <-- deliver <-- ended
 *
 * Invariants
 *  1. Every io is in g->flying from its submission to its completion; what is
 *     older than hang_ns makes the log FAILED, as does a lane that says so of
 *     a read of its own (map->suspect). Nothing is cancelled: the memory under
 *     a hung io stays the requester's duty until it completes.
 *  2. After the first failed WRITE or FLUSH nothing is written or flushed any
 *     more (g->failed): READ_ONLY.
 *  3. A superblock is written to the slot that holds the older one, and
 *     flushed: a valid one is on the device at every moment. The generations
 *     it promises are used only after that flush.
 *  4. done() of a request runs in seglog_deliver, from a tick or at the end of
 *     a completion.
 *
 * Thread: the lane that owns the device. Does not know what is in a group
 * (seglog_write.c), nor where the next one goes (seglog_head.c). */
#include <string.h>

#include "store/seglog_impl.h"

enum { LOG_PAGES = LOG_GROUPS + 2 + RECLAIM_SEEK }; /* super, next, headers */

/* ---- making */

static uint8_t *log_page(struct seglog *g, uint32_t i)
{
    return g->pages + (size_t)i * SEG_PAGE;
}

/* Segments that the device has room for, of the smallest size. */
static uint32_t segments_most(const struct disk *disk, uint32_t dev)
{
    uint64_t pages = min_u64(disk->dev_bytes[dev] / SEG_PAGE, UINT32_MAX);

    return (uint32_t)(pages * SEG_PAGE / SEG_BYTES_MIN);
}

static size_t segs_bytes(const struct seglog *g)
{
    return ((size_t)g->segs_cap + 1) * sizeof(*g->segs);
}

static size_t readers_bytes(const struct seglog *g)
{
    return ((size_t)g->segs_cap + 1) * sizeof(*g->map->readers);
}

static enum err new_parts(struct seglog *g)
{
    g->pages = mem_reserve((size_t)LOG_PAGES * SEG_PAGE);
    g->segs = mem_reserve(segs_bytes(g));
    g->map->readers = mem_reserve(readers_bytes(g));
    if (!g->pages || !g->segs || !g->map->readers)
        return ERR_NO_MEMORY;
    g->super_page = log_page(g, 0);
    g->next_page = log_page(g, 1);
    for (uint32_t i = 0; i < LOG_GROUPS; i++)
        g->group[i].header = log_page(g, 2 + i);
    g->reclaim.buf = log_page(g, 2 + LOG_GROUPS);
    if (seglog_open_new(g))
        return ERR_NO_MEMORY;
    return seglog_scrub_new(g);
}

static void super_written(struct log_io *io);

static void new_init(struct seglog *g)
{
    g->why = "";
    g->head = g->next_segment = SEG_NONE;
    list_init(&g->ended);
    list_init(&g->flying);
    g->tokens = (int64_t)g->cfg.write_burst;
    g->tokens_ns = g->env->now_ns;
    seglog_io_init(g, &g->super_io, super_written, NULL);
    seglog_write_init(g);
    seglog_head_init(g);
    seglog_reclaim_init(g);
}

enum err seglog_new(struct seglog **out, const struct seglog_cfg *cfg,
                    struct disk *disk, struct env *env, struct metrics *metrics,
                    struct trace *trace, struct seg_map *map,
                    const struct seglog_host *host)
{
    struct seglog *g;
    enum err e;

    MUST(cfg->dev < disk->dev_n);
    MUST(cfg->write_burst <= INT64_MAX && cfg->again_pct <= 100);
    if (cfg->segment_bytes < SEG_BYTES_MIN ||
        cfg->segment_bytes > SEG_BYTES_MAX || cfg->segment_bytes % SEG_PAGE ||
        cfg->bytes < SEG_DATA + LOG_SEGMENTS_MIN * cfg->segment_bytes)
        return ERR_LIMIT;
    g = mem_reserve(sizeof(*g));
    if (!g)
        return ERR_NO_MEMORY;
    g->cfg = *cfg;
    g->disk = disk;
    g->env = env;
    g->metrics = metrics;
    g->trace = trace;
    g->map = map;
    g->host = *host;
    g->segs_cap = segments_most(disk, cfg->dev);
    *map = (struct seg_map){
        .dev = cfg->dev, .state = SEGLOG_CLOSED, .hang_ns = cfg->hang_ns};
    e = new_parts(g);
    new_init(g);
    if (e) {
        seglog_free(g);
        return e;
    }
    *out = g;
    return OK;
}

/* Moves a gauge of the lane, which its other logs move too. */
static void gauge_set(struct seglog *g, uint64_t *gauge, uint32_t i, uint64_t v)
{
    metric_set(gauge, metric_get(gauge) - g->shown[i] + v);
    g->shown[i] = v;
}

static void gauges(struct seglog *g)
{
    struct metrics *m = g->metrics;
    bool down = g->state == SEGLOG_READ_ONLY || g->state == SEGLOG_FAILED ||
                g->state == SEGLOG_RETIRED;

    gauge_set(g, &m->ssd_capacity_bytes, 0, g->segments * g->segment_bytes);
    gauge_set(g, &m->ssd_free_bytes, 1, g->free_n * g->segment_bytes);
    gauge_set(g, &m->ssd_devices_down, 2, down);
    gauge_set(g, &m->ssd_binding, 3, g->map->binding);
    gauge_set(g, &m->ssd_queued_bytes, 4, g->queued_bytes);
}

void seglog_free(struct seglog *g)
{
    if (!g)
        return;
    MUST(list_empty(&g->flying));
    g->segments = g->free_n = 0;
    g->map->binding = 0;
    g->queued_bytes = 0;
    g->state = SEGLOG_CLOSED;
    gauges(g);
    seglog_scrub_free(g);
    seglog_open_free(g);
    mem_release(g->map->readers, readers_bytes(g));
    g->map->readers = NULL;
    g->map->segments = 0;
    __atomic_store_n(&g->map->state, SEGLOG_CLOSED, __ATOMIC_RELEASE);
    mem_release(g->segs, segs_bytes(g));
    mem_release(g->pages, (size_t)LOG_PAGES * SEG_PAGE);
    mem_release(g, sizeof(*g));
}

enum err seglog_geometry(struct seglog *g, uint64_t bytes,
                         uint64_t segment_bytes)
{
    uint64_t n;

    bytes = min_u64(bytes, (uint64_t)UINT32_MAX * SEG_PAGE);
    if (bytes > g->disk->dev_bytes[g->cfg.dev] || bytes < SEG_DATA ||
        segment_bytes < SEG_BYTES_MIN || segment_bytes > SEG_BYTES_MAX ||
        segment_bytes % SEG_PAGE)
        return ERR_LIMIT;
    n = (bytes - SEG_DATA) / segment_bytes;
    if (n < LOG_SEGMENTS_MIN || n > g->segs_cap)
        return ERR_LIMIT;
    g->segment_bytes = segment_bytes;
    g->segments = g->free_n = (uint32_t)n;
    g->segment_pages = (uint32_t)(segment_bytes / SEG_PAGE);
    memset(g->segs, 0, g->segments * sizeof(*g->segs));
    g->map->segments = g->segments;
    g->map->segment_pages = g->segment_pages;
    g->map->data_page = SEG_DATA / SEG_PAGE;
    return OK;
}

/* ---- states */

void seglog_seg_set(struct seglog *g, uint32_t segment,
                    enum log_seg_state state)
{
    struct log_seg *s = &g->segs[segment];

    MUST(segment < g->segments);
    g->free_n -= s->state == SEG_FREE;
    g->free_n += state == SEG_FREE;
    if (state == SEG_FREE)
        s->used = 0;
    s->state = (uint8_t)state;
    trace_add(g->trace, g->env->now_ns, TRACE_SEGMENT, 0, segment, state);
}

void seglog_state_set(struct seglog *g, enum seglog_state state,
                      const char *why)
{
    g->state = state;
    g->why = why;
    g->kick = true;
    __atomic_store_n(&g->map->state, state, __ATOMIC_RELEASE);
    trace_add(g->trace, g->env->now_ns, TRACE_SSD_STATE, 0, g->cfg.dev, state);
}

void seglog_fail(struct seglog *g, enum seglog_state to, const char *why)
{
    MUST(to == SEGLOG_READ_ONLY || to == SEGLOG_FAILED);
    if (g->state == SEGLOG_FAILED || g->state == to)
        return;
    g->failed = true;
    seglog_state_set(g, to, why);
    seglog_write_abort(g, ERR_IO);
}

/* ---- answers */

void seglog_end(struct seglog *g, struct seg_req *r, enum err e)
{
    r->err = e;
    list_add_tail(&g->ended, &r->node);
}

static void tell_state(struct seglog *g)
{
    enum seglog_state s = g->state;

    if (g->told == s)
        return;
    g->told = s;
    if (s == SEGLOG_READ_ONLY || s == SEGLOG_FAILED || s == SEGLOG_RETIRING ||
        s == SEGLOG_RETIRED)
        g->host.changed(g->host.arg, s, g->why);
}

void seglog_deliver(struct seglog *g)
{
    struct list now, *n;

    if (g->delivering)
        return;
    g->delivering = true;
    /* Only those that are there: done() may submit the next, which may end at
     * once. */
    list_init(&now);
    while ((n = list_pop(&g->ended)))
        list_add_tail(&now, n);
    tell_state(g);
    while ((n = list_pop(&now))) {
        struct seg_req *r = container_of(n, struct seg_req, node);

        r->done(r);
    }
    g->delivering = false;
}

void seglog_submit(struct seglog *g, struct seg_req *r)
{
    MUST(r->dev == g->cfg.dev);
    list_init(&r->node);
    r->queued_ns = g->env->now_ns;
    r->place = (struct seg_place){0};
    r->err = OK;
    g->kick = true;
    if (g->state != SEGLOG_OPEN || g->closing)
        seglog_end(g, r, ERR_BUSY);
    else
        seglog_write_queue(g, r);
}

/* ---- ios */

static void io_count(struct seglog *g, const struct disk_io *io)
{
    struct metrics *m = g->metrics;

    if (io->what == DISK_FLUSH)
        metric_add(&m->ssd_flushes, 1);
    if (io->err == OK)
        return;
    if (io->what == DISK_READ)
        metric_add(&m->ssd_read_errors, 1);
    else if (io->what != DISK_DISCARD)
        metric_add(&m->ssd_write_errors, 1);
}

static const char *io_why(const struct disk_io *io)
{
    if (io->what == DISK_FLUSH)
        return "a flush failed";
    return io->err == ERR_NO_SPACE ? "no space on the file system of the SSD"
                                   : "a write failed";
}

static void io_done(struct disk_io *dio)
{
    struct log_io *io = container_of(dio, struct log_io, io);
    struct seglog *g = io->g;
    bool change = dio->what == DISK_WRITE || dio->what == DISK_FLUSH;

    list_del(&io->node);
    g->flying_n--;
    io_count(g, dio);
    if (dio->err && change &&
        (g->state == SEGLOG_OPEN || g->state == SEGLOG_RETIRING))
        seglog_fail(g, SEGLOG_READ_ONLY, io_why(dio));
    io->done(io);
    seglog_write_step(g);
    seglog_deliver(g);
}

void seglog_io_init(struct seglog *g, struct log_io *io,
                    void (*done)(struct log_io *io), void *arg)
{
    *io = (struct log_io){.g = g, .done = done, .arg = arg};
    list_init(&io->node);
    io->io.dev = g->cfg.dev;
    io->io.done = io_done;
}

void seglog_io_spans(struct log_io *io, enum disk_what what)
{
    struct seglog *g = io->g;

    MUST(list_empty(&io->node));
    MUST(what == DISK_READ || !g->failed);
    io->io.what = what;
    list_add_tail(&g->flying, &io->node);
    g->flying_n++;
    disk_submit(g->disk, &io->io);
}

void seglog_io(struct log_io *io, enum disk_what what, uint64_t off, void *buf,
               uint64_t len)
{
    io->span = (struct span){buf, len};
    io->io.off = off;
    io->io.len = len;
    io->io.spans = buf ? &io->span : NULL;
    io->io.span_n = buf ? 1 : 0;
    if (what == DISK_WRITE)
        seglog_charge(io->g, len);
    seglog_io_spans(io, what);
}

/* ---- superblocks */

static void super_end(struct seglog *g, enum err e)
{
    if (e == OK)
        g->generation_end = g->super_promise;
    g->super_busy = false;
    g->kick = true;
    g->super_done(g, e);
}

/* Both halves come here: the write, and then the flush. */
static void super_written(struct log_io *io)
{
    struct seglog *g = io->g;

    if (io->io.err || g->failed)
        super_end(g, io->io.err ? io->io.err : ERR_IO);
    else if (io->io.what == DISK_WRITE)
        seglog_io(io, DISK_FLUSH, 0, NULL, 0);
    else
        super_end(g, OK);
}

void seglog_super_write(struct seglog *g,
                        void (*done)(struct seglog *g, enum err e))
{
    struct seg_super *s = &g->super;
    uint64_t off = g->super_slot ? SEG_SUPER_B : 0;

    MUST(!g->super_busy);
    g->super_busy = true;
    g->super_done = done;
    g->super_promise = g->next_generation + LOG_GENERATIONS;
    s->seq++;
    s->next_generation = g->super_promise;
    s->written_bytes += SEG_PAGE; /* this one; charged in memory below */
    seg_super_seal(s);
    memset(g->super_page, 0, SEG_PAGE);
    memcpy(g->super_page, s, sizeof(*s));
    s->written_bytes -= SEG_PAGE;
    g->super_slot ^= 1;
    seglog_io(&g->super_io, DISK_WRITE, off, g->super_page, SEG_PAGE);
}

/* ---- the tick */

/* The oldest io; its age is all that is looked at. */
static uint64_t hang_at(const struct seglog *g)
{
    const struct log_io *io;

    if (list_empty(&g->flying) || !g->cfg.hang_ns || g->state == SEGLOG_FAILED)
        return DEADLINE_NEVER;
    io = container_of(g->flying.next, struct log_io, node);
    return io->io.began_ns + g->cfg.hang_ns;
}

bool seglog_tick(struct seglog *g)
{
    bool more = false;

    g->kick = false;
    if (g->env->now_ns >= hang_at(g))
        seglog_fail(g, SEGLOG_FAILED, "an io did not complete in time");
    if (__atomic_load_n(&g->map->suspect, __ATOMIC_ACQUIRE) &&
        seg_map_readable(g->map))
        seglog_fail(g, SEGLOG_FAILED, "a read did not complete in time");
    if (g->opening)
        more |= seglog_open_tick(g);
    if (g->closing)
        more |= seglog_close_tick(g);
    else
        more |= seglog_reclaim_tick(g);
    seglog_write_step(g);
    if (!g->closing &&
        (g->state == SEGLOG_OPEN || g->state == SEGLOG_READ_ONLY))
        more |= seglog_scrub_tick(g);
    seglog_binding_tick(g);
    gauges(g);
    seglog_deliver(g);
    return more || g->kick || !list_empty(&g->ended);
}

uint64_t seglog_next_ns(const struct seglog *g)
{
    uint64_t next = hang_at(g);

    if (g->kick || !list_empty(&g->ended) || g->told != g->state)
        return 0;
    next = min_u64(next, seglog_write_next_ns(g));
    next = min_u64(next, seglog_reclaim_next_ns(g));
    if (!g->closing)
        next = min_u64(next, seglog_scrub_next_ns(g));
    return next;
}

bool seglog_idle(const struct seglog *g)
{
    return list_empty(&g->flying) && list_empty(&g->ended) &&
           seglog_write_idle(g);
}

/* ---- looking at it */

void seglog_info(const struct seglog *g, struct seglog_info *out)
{
    *out = (struct seglog_info){
        .state = g->state,
        .why = g->why,
        .bytes = g->segments * g->segment_bytes,
        .segment_bytes = g->segment_bytes,
        .written_bytes = g->super.written_bytes,
        .payload_bytes = g->payload_bytes,
        .segments = g->segments,
        .free_segments = g->free_n,
        .queued = g->queued_bytes,
        .tokens = g->tokens > 0 ? (uint64_t)g->tokens : 0,
        .recovered_records = g->recovered_records,
        .recovered_ms = g->recovered_ms,
        .from_checkpoint = g->from_checkpoint,
    };
    memcpy(out->uuid, g->super.uuid, sizeof(out->uuid));
}

/* Segments by state; those written are of the generations given out. */
static void check_segments(const struct seglog *g)
{
    uint32_t n[4] = {0}, groups = 0;

    for (uint32_t i = 0; i < g->segments; i++) {
        const struct log_seg *s = &g->segs[i];

        MUST(s->state <= SEG_EMPTYING);
        n[s->state]++;
        groups += s->groups;
        MUST(s->used <= g->segment_pages);
        MUST((s->state == SEG_FREE) == (s->used == 0));
        MUST(s->generation < g->next_generation || !s->generation);
        MUST(!s->groups || s->state == SEG_HEAD || s->state == SEG_FULL);
    }
    MUST(n[SEG_FREE] == g->free_n);
    MUST(n[SEG_HEAD] ==
         (uint32_t)(g->head != SEG_NONE) + (g->next != NEXT_NONE));
    MUST(n[SEG_EMPTYING] == (g->reclaim.step != RECLAIM_IDLE));
    MUST(groups <= LOG_GROUPS);
}

void seglog_check(const struct seglog *g)
{
    if (g->state != SEGLOG_CLOSED && g->state != SEGLOG_OPENING &&
        !g->opening && !g->closing && g->segments)
        check_segments(g);
    if (g->state == SEGLOG_OPEN && !g->opening)
        MUST(g->next_generation <= g->generation_end);
    MUST(g->failed ==
             (g->state == SEGLOG_READ_ONLY || g->state == SEGLOG_FAILED) ||
         g->opening || g->closing || g->state == SEGLOG_CLOSED);
    MUST(g->map->binding <= 1);
    MUST((uint32_t)g->state == g->map->state);
    seglog_write_check(g);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See logfix.h. */
#include "tests/lib/logfix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* ---- the host */

static void host_record(void *arg, const struct seg_meta *m, struct seg_place p)
{
    struct logfix *f = arg;

    if (f->record)
        f->record(f, m, p);
}

static void host_check(void *arg, const struct seg_check *c)
{
    (void)arg;
    (void)c;
}

static void host_tomb(void *arg, const struct seg_tomb *t)
{
    struct logfix *f = arg;

    if (f->tomb)
        f->tomb(f, t);
}

static void host_opened(void *arg, enum err e, const struct errmsg *m)
{
    struct logfix *f = arg;

    MUST(!f->opened);
    f->opened = true;
    f->opened_err = e;
    if (m)
        f->msg = *m;
}

static void host_reclaim(void *arg, const struct seg_reclaim *r)
{
    struct logfix *f = arg;
    uint32_t cursor = 0, n = seg_group_count(r->page);
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct seg_meta m;

        seg_group_next(r->page, &cursor, &m);
        bytes += seg_pages(m.len) * SEG_PAGE;
    }
    MUST(f->shown_n < LOGFIX_SHOWN && !f->held);
    f->shown_segment[f->shown_n] = r->segment;
    f->shown_page[f->shown_n] = r->first_page;
    f->shown_again[f->shown_n] = r->again_bytes;
    f->shown_bytes[f->shown_n++] = bytes;
    if (f->hold) {
        f->held = r;
        return;
    }
    MUST(seg_again_take(r, r->again_bytes * f->take_pct / 100));
    seglog_reclaimed(f->g);
}

static bool host_check_next(void *arg, struct seg_check *out)
{
    (void)arg;
    (void)out;
    return false;
}

static void host_closed(void *arg, enum err e)
{
    struct logfix *f = arg;

    MUST(!f->closed);
    f->closed = true;
    f->closed_err = e;
}

static void host_changed(void *arg, enum seglog_state to, const char *why)
{
    struct logfix *f = arg;

    MUST(f->told_n < LOGFIX_TOLD && why);
    f->told[f->told_n++] = to;
}

static const struct seglog_host host = {
    .record = host_record,
    .check = host_check,
    .tomb = host_tomb,
    .opened = host_opened,
    .reclaim = host_reclaim,
    .check_next = host_check_next,
    .closed = host_closed,
    .changed = host_changed,
};

/* ---- life */

void logfix_on(struct logfix *f, struct mem_media *m, uint64_t segment_bytes)
{
    struct disk_mem_cfg dc = {
        .env = &f->env, .latency_ns = 50 * NS_PER_US, .seed = 1};

    memset(f, 0, sizeof(*f));
    list_init(&f->reqs);
    f->env.now_ns = NS_PER_S;
    f->env.rng[0] = 1;
    f->media = m;
    f->check = true;
    disk_mem_init(&f->d, m, &dc);
    f->cfg = (struct seglog_cfg){
        .lanes = 1,
        .bytes = m->bytes,
        .segment_bytes = segment_bytes,
        .group_bytes = MIB(16),
        .linger_ns = 5 * NS_PER_MS,
        .again_pct = 10,
        .hang_ns = 10 * NS_PER_S,
        .writer = "test",
    };
}

void logfix_init(struct logfix *f, uint32_t segments, uint64_t segment_bytes,
                 bool record)
{
    logfix_on(f, mem_media_new(1, SEG_DATA + segments * segment_bytes, record),
              segment_bytes);
}

void logfix_open(struct logfix *f, enum seglog_open_how how)
{
    struct seglog_host h = host;
    uint8_t uuid[16] = "a store of tests";

    h.arg = f;
    MUST(seglog_new(&f->g, &f->cfg, &f->d.disk, &f->env, &f->metrics, &f->trace,
                    &f->map, &h) == OK);
    seglog_open(f->g, how, uuid);
    while (!f->opened)
        logfix_run(f, f->env.now_ns + NS_PER_S);
}

void logfix_kill(struct logfix *f)
{
    disk_mem_fini(&f->d);
    if (f->g)
        list_init(&f->g->flying);
    seglog_free(f->g);
    f->g = NULL;
    while (!list_empty(&f->reqs)) {
        struct logreq *q = container_of(f->reqs.next, struct logreq, node);

        q->busy = false;
        logfix_forget(q);
    }
}

void logfix_close(struct logfix *f)
{
    MUST(!f->g || seglog_idle(f->g));
    logfix_kill(f);
    mem_media_free(f->media);
    f->media = NULL;
}

bool logfix_turn(struct logfix *f)
{
    bool more = f->d.disk.ops->progress(&f->d.disk);

    if (f->check)
        seglog_check(f->g);
    more |= seglog_tick(f->g);
    if (f->check)
        seglog_check(f->g);
    return more;
}

void logfix_run(struct logfix *f, uint64_t until_ns)
{
    uint32_t stuck = 0;

    for (;;) {
        uint64_t next;

        if (logfix_turn(f)) {
            MUST(++stuck < 1000000);
            continue;
        }
        next = min_u64(disk_mem_next_ns(&f->d), seglog_next_ns(f->g));
        if (next == DEADLINE_NEVER || next > until_ns)
            break;
        if (next > f->env.now_ns)
            stuck = 0;
        MUST(++stuck < 1000000);
        f->env.now_ns = max_u64(f->env.now_ns, next);
    }
    if (until_ns < DEADLINE_NEVER - 1)
        f->env.now_ns = max_u64(f->env.now_ns, until_ns);
}

void logfix_settle(struct logfix *f)
{
    logfix_run(f, DEADLINE_NEVER - 1);
}

/* ---- requests */

static uint64_t word(uint64_t n, uint64_t version, uint64_t off)
{
    return (n * 31 + version) * UINT64_C(0x9e3779b97f4a7c15) ^ off;
}

static void fill(struct logreq *q, uint32_t len)
{
    memset(q->mem, 0, q->mem_bytes);
    for (uint64_t off = 0; off + 8 <= len; off += 8) {
        uint64_t w = word(q->n, q->r.meta.version, off);

        memcpy(q->mem + off, &w, 8);
    }
}

/* Spans of 1, 3, 5, ... pages, so that ios end within them. */
static void make_spans(struct logreq *q, uint32_t len)
{
    uint64_t off = 0, bytes = (uint64_t)seg_pages(len) * SEG_PAGE, n = 1;

    q->mem_bytes = bytes;
    q->mem = aligned_alloc(SEG_PAGE, bytes);
    q->spans = calloc(seg_pages(len), sizeof(*q->spans));
    MUST(q->mem && q->spans);
    for (; off < bytes; n += 2) {
        uint64_t take = min_u64(bytes - off, n * SEG_PAGE);

        q->spans[q->span_n++] = (struct span){q->mem + off, take};
        off += take;
    }
    fill(q, len);
    q->r.spans = q->spans;
    q->r.span_n = q->span_n;
    q->r.meta.crc = crc32c(0, q->mem, len);
}

static void req_done(struct seg_req *r)
{
    struct logreq *q = container_of(r, struct logreq, r);
    struct logfix *f = q->fix;

    MUST(q->busy && !q->dones);
    q->busy = false;
    q->dones++;
    if (r->place.page)
        q->generation =
            f->g->segs[seg_map_segment(&f->map, r->place.page)].generation;
    q->ended_tick = f->media->ticks;
    q->ended_ns = f->env.now_ns;
    if (f->ended)
        f->ended(f, q);
}

struct logreq *logfix_make(struct logfix *f, enum seg_req_what what, uint64_t n,
                           uint64_t version, uint32_t len)
{
    struct logreq *q = calloc(1, sizeof(*q));
    struct hash128 hash = {n * 77 + 1, ~n};

    MUST(q);
    q->fix = f;
    q->n = n;
    q->r.what = what;
    q->r.done = req_done;
    q->r.tomb = (struct seg_tomb){
        .hash = hash, .version = version, .ns_generation = 1, .ns = 1};
    snprintf(q->key, sizeof(q->key), "block %llu", (unsigned long long)n);
    q->r.meta.key = (struct store_key){.ns = 1,
                                       .hash = hash,
                                       .key = (const uint8_t *)q->key,
                                       .key_len = (uint16_t)strlen(q->key)};
    q->r.meta.version = version;
    q->r.meta.ns_generation = 1;
    q->r.meta.len = len;
    if (what == SEG_REQ_PUT)
        make_spans(q, len);
    list_add_tail(&f->reqs, &q->node);
    return q;
}

void logfix_submit(struct logfix *f, struct logreq *q)
{
    MUST(!q->busy && !q->dones);
    q->busy = true;
    seglog_submit(f->g, &q->r);
    MUST(q->busy); /* never inside */
}

struct logreq *logfix_put(struct logfix *f, uint64_t n, uint32_t len)
{
    struct logreq *q = logfix_make(f, SEG_REQ_PUT, n, 1, len);

    logfix_submit(f, q);
    return q;
}

struct logreq *logfix_durable(struct logfix *f, uint64_t n, uint32_t len)
{
    struct logreq *q = logfix_make(f, SEG_REQ_PUT, n, 1, len);

    q->r.durable = true;
    logfix_submit(f, q);
    return q;
}

struct logreq *logfix_tomb(struct logfix *f, uint64_t n)
{
    struct logreq *q = logfix_make(f, SEG_REQ_TOMB, n, 1, 0);

    logfix_submit(f, q);
    return q;
}

void logfix_forget(struct logreq *q)
{
    MUST(!q->busy);
    list_del(&q->node);
    free(q->mem);
    free(q->spans);
    free(q);
}

bool logfix_is_there(struct logfix *f, const struct logreq *q)
{
    const uint8_t *image = f->media->image[0];
    uint32_t len = q->r.meta.len, page, cursor = 0;
    uint64_t at = (uint64_t)q->r.place.page * SEG_PAGE;
    struct seg_group group;
    struct seg_meta m;

    if (!q->r.place.page || memcmp(image + at, q->mem, q->mem_bytes))
        return false;
    page = seg_header_page(q->r.place, len);
    if (seg_group_read(image + (uint64_t)page * SEG_PAGE, f->g->super.uuid,
                       f->g->segs[seg_map_segment(&f->map, page)].generation,
                       page, UINT32_MAX, &group))
        return false;
    if (seg_idx(q->r.place.tag) >= group.record_n)
        return false;
    for (uint32_t i = 0; i <= seg_idx(q->r.place.tag); i++)
        seg_group_next(image + (uint64_t)page * SEG_PAGE, &cursor, &m);
    return m.key.key_len == strlen(q->key) &&
           !memcmp(m.key.key, q->key, m.key.key_len) && m.len == len &&
           m.version == q->r.meta.version && m.crc == q->r.meta.crc;
}

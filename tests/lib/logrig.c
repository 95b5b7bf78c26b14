/* SPDX-License-Identifier: Apache-2.0
 *
 * See logrig.h. The writer's ios take some time and complete one by one, in
 * any order; those of an image that is only looked at take none. */
#include "tests/lib/logrig.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/sure.h"

const uint8_t rig_uuid[17] = "image test uuid"; /* and, +1, another */
static struct trace trace;
uint64_t rig_rng;

uint32_t chance(uint32_t n)
{
    rig_rng = rig_rng * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)((rig_rng >> 33) % n);
}

uint32_t rig_setting(const char *name, uint32_t otherwise, uint32_t slow)
{
    const char *s = getenv(name);

#ifdef __SANITIZE_ADDRESS__
    otherwise = slow;
#else
    (void)slow;
#endif
    return s ? (uint32_t)strtoul(s, NULL, 10) : otherwise;
}

/* ---- what was put and dropped */

struct rig_put rig_puts[RIG_PUTS];
struct rig_drop rig_drops[RIG_PUTS];
uint32_t rig_put_n, rig_drop_n;
uint64_t rig_last[RIG_KEYS];  /* version of the newest put */
uint64_t rig_asked[RIG_KEYS]; /* a drop up to this version was begun */
uint64_t rig_dead[RIG_KEYS];  /* and answered */

static void put_done(struct seg_req *r)
{
    struct rig_put *p = container_of(r, struct rig_put, req);

    p->answered = true;
    p->placed = r->err == OK;
}

static void drop_done(struct seg_req *r)
{
    struct rig_drop *d = container_of(r, struct rig_drop, req);

    d->answered = true;
    if (r->err == OK)
        rig_dead[d->k] = max_u64(rig_dead[d->k], r->tomb.version);
}

struct hash128 rig_hash(uint32_t k)
{
    return (struct hash128){k + 1, 0xabcdef};
}

static void forget_puts(void)
{
    for (uint32_t i = 0; i < rig_put_n; i++)
        free(rig_puts[i].span.p);
    memset(rig_puts, 0, sizeof(rig_puts));
    memset(rig_drops, 0, sizeof(rig_drops));
    memset(rig_last, 0, sizeof(rig_last));
    memset(rig_asked, 0, sizeof(rig_asked));
    memset(rig_dead, 0, sizeof(rig_dead));
    rig_put_n = rig_drop_n = 0;
}

/* ---- a log and what it reports */

static void found(struct rig *r, uint32_t k, uint64_t version, uint32_t len,
                  uint32_t crc, struct seg_place p)
{
    SURE(k < RIG_KEYS);
    SURE(version > 0);
    SURE(version <= rig_put_n);
    SURE(rig_puts[version - 1].k == k);
    SURE(rig_puts[version - 1].req.meta.len == len);
    SURE(rig_puts[version - 1].req.meta.crc == crc);
    SURE(p.page + (uint64_t)seg_pages(len) <= RIG_BYTES / SEG_PAGE);
    SURE(p.page >= SEG_DATA / SEG_PAGE + 2);
    SURE(seg_dev(p.tag) == 0);
    if (version < r->found[k])
        return;
    r->found[k] = version;
    r->place[k] = p;
}

static void on_record(void *arg, const struct seg_meta *m, struct seg_place p)
{
    struct rig *r = arg;
    uint32_t k = (uint32_t)m->key.hash.lo - 1;

    r->records++;
    found(r, k, m->version, m->len, m->crc, p);
    SURE(m->key.key_len == 8);
    SURE(memcmp(m->key.key, rig_puts[m->version - 1].key, 8) == 0);
    SURE(m->key.hash.hi == rig_hash(k).hi);
    SURE(m->key.ns == 1);
}

static void on_check(void *arg, const struct seg_check *c)
{
    struct rig *r = arg;

    r->checks++;
    SURE(c->hash.hi == rig_hash(0).hi);
    found(r, (uint32_t)c->hash.lo - 1, c->version, c->len, c->crc,
          (struct seg_place){c->page, c->tag});
}

static void on_tomb(void *arg, const struct seg_tomb *t)
{
    struct rig *r = arg;
    uint32_t k = (uint32_t)t->hash.lo - 1;

    r->tombs++;
    SURE(k < RIG_KEYS);
    SURE(t->version <= rig_asked[k]);
    r->tomb[k] = max_u64(r->tomb[k], t->version);
}

static void on_opened(void *arg, enum err e, const struct errmsg *m)
{
    struct rig *r = arg;

    SURE(!r->opened);
    r->opened = true;
    r->err = e;
    r->msg = *m;
}

static void on_reclaim(void *arg, const struct seg_reclaim *c)
{
    ((struct rig *)arg)->reclaim = c;
}

/* As a store does: what the header says is there loses its place. */
static void let_go(const void *page)
{
    struct seg_group g;
    struct seg_meta m;
    uint32_t cursor = 0;

    memcpy(&g, page, sizeof(g));
    for (uint32_t i = 0; i < g.record_n; i++) {
        seg_group_next(page, &cursor, &m);
        rig_puts[m.version - 1].placed = false;
    }
}

static bool on_check_next(void *arg, struct seg_check *out)
{
    struct rig *r = arg;

    while (r->cursor < rig_put_n) {
        const struct rig_put *p = &rig_puts[r->cursor++];
        const struct seg_meta *m = &p->req.meta;

        if (!p->placed || m->version != rig_last[p->k] ||
            rig_asked[p->k] >= m->version)
            continue;
        *out = (struct seg_check){.hash = m->key.hash,
                                  .version = m->version,
                                  .ns = 1,
                                  .len = m->len,
                                  .crc = m->crc,
                                  .page = p->req.place.page,
                                  .tag = p->req.place.tag};
        return true;
    }
    return false;
}

static void on_closed(void *arg, enum err e)
{
    struct rig *r = arg;

    r->closed = true;
    r->close_err = e;
}

static void on_changed(void *arg, enum seglog_state to, const char *why)
{
    (void)arg;
    (void)to;
    (void)why;
}

static const struct seglog_host host = {
    .record = on_record,
    .check = on_check,
    .tomb = on_tomb,
    .opened = on_opened,
    .reclaim = on_reclaim,
    .check_next = on_check_next,
    .closed = on_closed,
    .changed = on_changed,
};

void rig_init(struct rig *r, struct mem_media *media, uint32_t batch)
{
    struct disk_mem_cfg d = {.env = &r->env, .batch = batch};
    struct seglog_cfg c = {
        .lanes = r->lanes ? r->lanes : 1,
        .bytes = RIG_BYTES,
        .segment_bytes = RIG_SEGMENT,
        .group_bytes = 256 << 10,
        .linger_ns = 1000,
        .again_pct = 10,
        .hang_ns = 10 * NS_PER_S,
        .writer = "pikvd test",
    };
    struct seglog_host h = host;

    *r = (struct rig){.media = media, .lanes = c.lanes};
    r->env.now_ns = 1000;
    if (batch) /* the writer: ios take time, so that they overlap */
        d.latency_ns = 1000, d.spread_ns = 3000, d.shuffle = true;
    disk_mem_init(&r->disk, media, &d);
    h.arg = r;
    SURE((seglog_new(&r->g, &c, &r->disk.disk, &r->env, &r->metrics, &trace,
                     &r->map, &h)) == OK);
}

void rig_fini(struct rig *r)
{
    disk_mem_fini(&r->disk); /* the process died: ios end with it */
    list_init(&r->g->flying);
    seglog_free(r->g);
    r->g = NULL;
}

/* One step of the world; false: nothing will happen any more. */
bool rig_pump(struct rig *r)
{
    uint64_t next;
    bool more = r->disk.disk.ops->progress(&r->disk.disk);

    more |= seglog_tick(r->g);
    if (r->reclaim) {
        let_go(r->reclaim->page);
        r->reclaim = NULL;
        seglog_reclaimed(r->g);
        more = true;
    }
    if (more)
        return true;
    next = min_u64(disk_mem_next_ns(&r->disk), seglog_next_ns(r->g));
    if (next == DEADLINE_NEVER)
        return false;
    r->env.now_ns = max_u64(r->env.now_ns, next);
    return true;
}

void rig_open(struct rig *r, enum seglog_open_how how)
{
    seglog_open(r->g, how, how == SEGLOG_FORMAT ? rig_uuid + 1 : rig_uuid);
    while (!r->opened)
        SURE(rig_pump(r));
}

/* Is the payload of what was found as it was put? */
bool rig_intact(const struct rig *r, uint32_t k)
{
    const struct seg_meta *m = &rig_puts[r->found[k] - 1].req.meta;

    return crc32c(0, r->media->image[0] + (size_t)r->place[k].page * SEG_PAGE,
                  m->len) == m->crc;
}

bool rig_alive(const struct rig *r, uint32_t k)
{
    return r->found[k] > r->tomb[k];
}

/* ---- requests */

void rig_put(struct rig *w, uint32_t k, uint32_t len, bool durable)
{
    uint64_t size = align_up(len, SEG_PAGE);
    struct rig_put *p = &rig_puts[rig_put_n++];

    MUST(rig_put_n <= RIG_PUTS);
    p->k = k;
    snprintf((char *)p->key, sizeof(p->key), "key %03u", k);
    p->span = (struct span){aligned_alloc(SEG_PAGE, size), size};
    for (uint64_t i = 0; i < size / 8; i++)
        ((uint64_t *)(void *)p->span.p)[i] =
            rig_put_n * UINT64_C(0x9e3779b97f) + i;
    memset(p->span.p + len, 0, size - len);
    p->req = (struct seg_req){
        .what = SEG_REQ_PUT,
        .durable = durable,
        .meta =
            {.key = {.ns = 1, .key = p->key, .key_len = 8, .hash = rig_hash(k)},
             .version = rig_put_n,
             .len = len,
             .crc = crc32c(0, p->span.p, len)},
        .spans = &p->span,
        .span_n = 1,
        .done = put_done,
    };
    rig_last[k] = rig_put_n;
    seglog_submit(w->g, &p->req);
}

/* As a store does: what is neither on the SSD nor on its way is just gone. */
void rig_drop(struct rig *w, uint32_t k)
{
    const struct rig_put *p = rig_last[k] ? &rig_puts[rig_last[k] - 1] : NULL;
    struct rig_drop *d = &rig_drops[rig_drop_n];

    if (!p || rig_asked[k] >= rig_last[k])
        return;
    rig_asked[k] = rig_last[k];
    if (p->answered && !p->placed) {
        rig_dead[k] = rig_last[k];
        return;
    }
    rig_drop_n++;
    d->k = k;
    d->req = (struct seg_req){
        .what = SEG_REQ_TOMB,
        .tomb = {.hash = rig_hash(k), .version = rig_last[k], .ns = 1},
        .done = drop_done,
    };
    seglog_submit(w->g, &d->req);
}

struct mem_media *rig_scratch; /* what is stable of the writer's device */
uint64_t rig_images;
void (*rig_hook)(const struct rig *w);

void rig_page_back(const uint8_t *from, uint64_t off, uint64_t len)
{
    memcpy(rig_scratch->image[0] + off, from + off, len);
}

/* All that an open writes to. */
void rig_meta_back(const uint8_t *from)
{
    rig_page_back(from, 0, SEG_PAGE);
    rig_page_back(from, SEG_SUPER_B, SEG_PAGE);
    for (uint64_t off = SEG_DATA; off < RIG_BYTES; off += RIG_SEGMENT)
        rig_page_back(from, off, SEG_PAGE);
}

/* Steps with a crash before each; until: NULL, all that can happen. */
void rig_go(struct rig *w, uint32_t steps)
{
    for (uint64_t ticks = 0; steps > 0; steps--) {
        if (rig_hook && w->media->ticks != ticks)
            rig_hook(w);
        ticks = w->media->ticks;
        if (!rig_pump(w))
            return;
    }
}

void rig_work(struct rig *w, const struct rig_work *k)
{
    for (uint32_t i = 0; i < k->ops; i++) {
        if (chance(100) < k->drop_pct)
            rig_drop(w, chance(RIG_KEYS));
        else
            rig_put(w, chance(RIG_KEYS), 1 + chance(k->put_max),
                    chance(100) < k->durable_pct);
        rig_go(w, chance(k->steps));
    }
}

void rig_begin(struct rig *w, struct mem_media *media)
{
    rig_init(w, media, 1);
    seglog_open(w->g, SEGLOG_OPEN_OR_FORMAT, rig_uuid);
    while (!w->opened)
        rig_go(w, 1);
    SURE_MSG(w->err == OK, "%s", w->msg.text);
}

void rig_finish(struct rig *w, bool checkpoint)
{
    seglog_close(w->g, checkpoint);
    while (!w->closed)
        rig_go(w, 1);
    SURE(w->close_err == OK);
}

void rig_setup(void)
{
    forget_puts();
    rig_rng = 1;
    rig_images = 0;
    rig_hook = NULL;
    rig_scratch = mem_media_new(1, RIG_BYTES, false);
}

void rig_teardown(void)
{
    mem_media_free(rig_scratch);
    rig_scratch = NULL;
    forget_puts();
}

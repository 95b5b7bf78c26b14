/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto
 *
 * What a crash, a bad device or somebody else's bytes leave on an SSD, and
 * what the log says of it when it is opened. Small devices in memory.
 *
 * Every put of a test has a version of its own, its index + 1, so that what
 * recovery reports can be looked up in the list of all_puts: it must be one of
 * them, as it was. IMAGES=n (damaged images), SUBSETS=n (bits of a crash
 * point's unflushed writes that are all tried) and FLIPS=1 (a stride) make the
 * runs longer. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/seglog_impl.h"
#include "tests/lib/disk_mem.h"

enum {
    SEGMENTS = 8,
    SEGMENT = 1 << 20,
    BYTES = SEG_DATA + SEGMENTS * SEGMENT,
    KEYS = 24,
    PUTS = 600,
};

static const uint8_t uuid[17] = "image test uuid"; /* and, +1, another */
static struct trace trace;
static uint64_t rng;

static uint32_t chance(uint32_t n)
{
    rng = rng * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)((rng >> 33) % n);
}

static uint32_t setting(const char *name, uint32_t otherwise)
{
    const char *s = getenv(name);

    return s ? (uint32_t)strtoul(s, NULL, 10) : otherwise;
}

/* ---- what was put and dropped */

struct put {
    struct seg_req req; /* first: done() gets it */
    uint8_t key[8];
    struct span span;
    uint32_t k;
    bool answered, placed; /* placed: its place is good */
};

struct drop {
    struct seg_req req;
    uint32_t k;
    bool answered;
};

static struct put all_puts[PUTS];
static struct drop drops[PUTS];
static uint32_t put_n, drop_n;
static uint64_t last[KEYS];  /* version of the newest put */
static uint64_t asked[KEYS]; /* a drop up to this version was begun */
static uint64_t dead[KEYS];  /* and answered */

static void put_done(struct seg_req *r)
{
    struct put *p = container_of(r, struct put, req);

    p->answered = true;
    p->placed = r->err == OK;
}

static void drop_done(struct seg_req *r)
{
    struct drop *d = container_of(r, struct drop, req);

    d->answered = true;
    if (r->err == OK)
        dead[d->k] = max_u64(dead[d->k], r->tomb.version);
}

static struct hash128 hash_of(uint32_t k)
{
    return (struct hash128){k + 1, 0xabcdef};
}

static void forget_puts(void)
{
    for (uint32_t i = 0; i < put_n; i++)
        free(all_puts[i].span.p);
    memset(all_puts, 0, sizeof(all_puts));
    memset(drops, 0, sizeof(drops));
    memset(last, 0, sizeof(last));
    memset(asked, 0, sizeof(asked));
    memset(dead, 0, sizeof(dead));
    put_n = drop_n = 0;
}

/* ---- a log and what it reports */

struct rig {
    struct mem_media *media;
    struct disk_mem disk;
    struct env env;
    struct metrics metrics;
    struct seg_map map;
    struct seglog *g;
    bool opened, closed;
    enum err err, close_err;
    struct errmsg msg;
    const struct seg_reclaim *reclaim;
    uint32_t lanes, cursor, records, checks, tombs;
    uint64_t found[KEYS], tomb[KEYS]; /* versions */
    struct seg_place place[KEYS];
};

static void found(struct rig *r, uint32_t k, uint64_t version, uint32_t len,
                  uint32_t crc, struct seg_place p)
{
    ck_assert_uint_lt(k, KEYS);
    ck_assert_uint_gt(version, 0);
    ck_assert_uint_le(version, put_n);
    ck_assert_uint_eq(all_puts[version - 1].k, k);
    ck_assert_uint_eq(all_puts[version - 1].req.meta.len, len);
    ck_assert_uint_eq(all_puts[version - 1].req.meta.crc, crc);
    ck_assert_uint_le(p.page + (uint64_t)seg_pages(len), BYTES / SEG_PAGE);
    ck_assert_uint_ge(p.page, SEG_DATA / SEG_PAGE + 2);
    ck_assert_uint_eq(seg_dev(p.tag), 0);
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
    ck_assert_uint_eq(m->key.key_len, 8);
    ck_assert_mem_eq(m->key.key, all_puts[m->version - 1].key, 8);
    ck_assert_uint_eq(m->key.hash.hi, hash_of(k).hi);
    ck_assert_uint_eq(m->key.ns, 1);
}

static void on_check(void *arg, const struct seg_check *c)
{
    struct rig *r = arg;

    r->checks++;
    ck_assert_uint_eq(c->hash.hi, hash_of(0).hi);
    found(r, (uint32_t)c->hash.lo - 1, c->version, c->len, c->crc,
          (struct seg_place){c->page, c->tag});
}

static void on_tomb(void *arg, const struct seg_tomb *t)
{
    struct rig *r = arg;
    uint32_t k = (uint32_t)t->hash.lo - 1;

    r->tombs++;
    ck_assert_uint_lt(k, KEYS);
    ck_assert_uint_le(t->version, asked[k]);
    r->tomb[k] = max_u64(r->tomb[k], t->version);
}

static void on_opened(void *arg, enum err e, const struct errmsg *m)
{
    struct rig *r = arg;

    ck_assert(!r->opened);
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
        all_puts[m.version - 1].placed = false;
    }
}

static bool on_check_next(void *arg, struct seg_check *out)
{
    struct rig *r = arg;

    while (r->cursor < put_n) {
        const struct put *p = &all_puts[r->cursor++];
        const struct seg_meta *m = &p->req.meta;

        if (!p->placed || m->version != last[p->k] || asked[p->k] >= m->version)
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

static void rig_init(struct rig *r, struct mem_media *media, uint32_t batch)
{
    struct disk_mem_cfg d = {.env = &r->env, .batch = batch};
    struct seglog_cfg c = {
        .lanes = r->lanes ? r->lanes : 1,
        .bytes = BYTES,
        .segment_bytes = SEGMENT,
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
    ck_assert_int_eq(seglog_new(&r->g, &c, &r->disk.disk, &r->env, &r->metrics,
                                &trace, &r->map, &h),
                     OK);
}

static void rig_fini(struct rig *r)
{
    disk_mem_fini(&r->disk); /* the process died: ios end with it */
    list_init(&r->g->flying);
    seglog_free(r->g);
    r->g = NULL;
}

/* One step of the world; false: nothing will happen any more. */
static bool pump(struct rig *r)
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

static void open_log(struct rig *r, enum seglog_open_how how)
{
    seglog_open(r->g, how, how == SEGLOG_FORMAT ? uuid + 1 : uuid);
    while (!r->opened)
        ck_assert(pump(r));
}

/* Is the payload of what was found as it was put? */
static bool intact(const struct rig *r, uint32_t k)
{
    const struct seg_meta *m = &all_puts[r->found[k] - 1].req.meta;

    return crc32c(0, r->media->image[0] + (size_t)r->place[k].page * SEG_PAGE,
                  m->len) == m->crc;
}

static bool alive(const struct rig *r, uint32_t k)
{
    return r->found[k] > r->tomb[k];
}

/* ---- requests */

static void put(struct rig *w, uint32_t k, uint32_t len, bool durable)
{
    uint64_t size = align_up(len, SEG_PAGE);
    struct put *p = &all_puts[put_n++];

    MUST(put_n <= PUTS);
    p->k = k;
    snprintf((char *)p->key, sizeof(p->key), "key %03u", k);
    p->span = (struct span){aligned_alloc(SEG_PAGE, size), size};
    for (uint64_t i = 0; i < size / 8; i++)
        ((uint64_t *)(void *)p->span.p)[i] = put_n * UINT64_C(0x9e3779b97f) + i;
    memset(p->span.p + len, 0, size - len);
    p->req = (struct seg_req){
        .what = SEG_REQ_PUT,
        .durable = durable,
        .meta =
            {.key = {.ns = 1, .key = p->key, .key_len = 8, .hash = hash_of(k)},
             .version = put_n,
             .len = len,
             .crc = crc32c(0, p->span.p, len)},
        .spans = &p->span,
        .span_n = 1,
        .done = put_done,
    };
    last[k] = put_n;
    seglog_submit(w->g, &p->req);
}

/* As a store does: what is neither on the SSD nor on its way is just gone. */
static void drop(struct rig *w, uint32_t k)
{
    const struct put *p = last[k] ? &all_puts[last[k] - 1] : NULL;
    struct drop *d = &drops[drop_n];

    if (!p || asked[k] >= last[k])
        return;
    asked[k] = last[k];
    if (p->answered && !p->placed) {
        dead[k] = last[k];
        return;
    }
    drop_n++;
    d->k = k;
    d->req = (struct seg_req){
        .what = SEG_REQ_TOMB,
        .tomb = {.hash = hash_of(k), .version = last[k], .ns = 1},
        .done = drop_done,
    };
    seglog_submit(w->g, &d->req);
}

/* ---- crash points */

static struct mem_media *scratch; /* what is stable of the writer's device */
static uint64_t scratch_flushes, images;

static void page_back(const uint8_t *from, uint64_t off, uint64_t len)
{
    memcpy(scratch->image[0] + off, from + off, len);
}

/* All that an open writes to. */
static void meta_back(const uint8_t *from)
{
    page_back(from, 0, SEG_PAGE);
    page_back(from, SEG_SUPER_B, SEG_PAGE);
    for (uint64_t off = SEG_DATA; off < BYTES; off += SEGMENT)
        page_back(from, off, SEG_PAGE);
}

/* Must this version be there after any crash from now on? */
static bool promised(const struct rig *w, const struct put *p)
{
    uint32_t s;

    if (!p->req.durable || !p->placed || asked[p->k] >= p->req.meta.version)
        return false;
    s = seg_map_segment(&w->map, p->req.place.page);
    return w->g->segs[s].state == SEG_HEAD || w->g->segs[s].state == SEG_FULL;
}

/* Opens the scratch device and holds it against what was answered. */
static void check_crash(const struct rig *w)
{
    static struct rig r;

    rig_init(&r, scratch, 0);
    open_log(&r, SEGLOG_OPEN_OR_FORMAT);
    ck_assert_msg(r.err == OK, "%s", r.msg.text);
    seglog_check(r.g);
    for (uint32_t k = 0; k < KEYS; k++)
        if (alive(&r, k))
            ck_assert_msg(r.found[k] > dead[k],
                          "key %u: %lu was dropped up to %lu", k, r.found[k],
                          dead[k]);
    for (uint32_t i = 0; i < put_n; i++) {
        uint32_t k = all_puts[i].k;

        if (!promised(w, &all_puts[i]))
            continue;
        ck_assert_msg(alive(&r, k) && r.found[k] > i,
                      "key %u: %u was durable, %lu found, tomb %lu", k, i + 1,
                      r.found[k], r.tomb[k]);
        if (r.found[k] == i + 1)
            ck_assert(intact(&r, k));
    }
    images++;
    rig_fini(&r);
}

static void apply(const struct mem_event *e, bool part)
{
    for (uint64_t off = 0; off < e->len; off += 512)
        if (!part || chance(2))
            memcpy(scratch->image[0] + e->off + off, e->data + off, 512);
}

/* Every subset of what is not flushed, or, if there are too many, some, with
 * parts of writes. */
static void crash_here(const struct rig *w, uint32_t bits)
{
    const struct mem_media *m = w->media;
    const struct mem_event *e[64];
    uint32_t n = 0;

    if (scratch_flushes != m->flushes)
        page_back(m->stable[0], 0, BYTES);
    scratch_flushes = m->flushes;
    for (uint32_t i = m->fresh; i < m->event_n && n < 64; i++)
        if (m->events[i].data && !m->events[i].stable)
            e[n++] = &m->events[i];
    for (uint32_t s = 0; s < 1u << (n < bits ? n : bits); s++) {
        for (uint32_t i = 0; i < n; i++)
            if (n <= bits)
                (s >> i & 1) ? apply(e[i], false) : (void)0;
            else if (s == 0 || chance(3))
                apply(e[i], s > 0 && chance(4) == 0);
        check_crash(w);
        for (uint32_t i = 0; i < n; i++)
            page_back(m->stable[0], e[i]->off, e[i]->len);
        meta_back(m->stable[0]);
    }
}

static uint32_t crash_bits;

/* Steps with a crash before each; until: NULL, all that can happen. */
static void go(struct rig *w, uint32_t steps)
{
    for (uint64_t ticks = 0; steps > 0; steps--) {
        if (crash_bits && w->media->ticks != ticks)
            crash_here(w, crash_bits);
        ticks = w->media->ticks;
        if (!pump(w))
            return;
    }
}

struct work {
    uint32_t ops, put_max, durable_pct, drop_pct, steps;
};

static void work(struct rig *w, const struct work *k)
{
    for (uint32_t i = 0; i < k->ops; i++) {
        if (chance(100) < k->drop_pct)
            drop(w, chance(KEYS));
        else
            put(w, chance(KEYS), 1 + chance(k->put_max),
                chance(100) < k->durable_pct);
        go(w, chance(k->steps));
    }
}

static void begin(struct rig *w, struct mem_media *media)
{
    rig_init(w, media, 1);
    seglog_open(w->g, SEGLOG_OPEN_OR_FORMAT, uuid);
    while (!w->opened)
        go(w, 1);
    ck_assert_msg(w->err == OK, "%s", w->msg.text);
}

static void finish(struct rig *w, bool checkpoint)
{
    seglog_close(w->g, checkpoint);
    while (!w->closed)
        go(w, 1);
    ck_assert_int_eq(w->close_err, OK);
}

static struct rig writer;

static void setup(void)
{
    forget_puts();
    rng = 1;
    images = 0;
    crash_bits = 0;
    scratch = mem_media_new(1, BYTES, false);
    scratch_flushes = UINT64_MAX;
}

static void teardown(void)
{
    mem_media_free(scratch);
    scratch = NULL;
    forget_puts();
}

/* What the writer knows after a restart: what was found. What was not found
 * must never be seen again. */
static void relearn(struct rig *w)
{
    for (uint32_t i = 0; i < put_n; i++) {
        all_puts[i].answered = true;
        all_puts[i].placed = false;
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        asked[k] = max_u64(asked[k], dead[k]);
        if (alive(w, k)) {
            all_puts[w->found[k] - 1].placed = true;
            all_puts[w->found[k] - 1].req.place = w->place[k];
            last[k] = w->found[k];
        } else {
            dead[k] = asked[k] = last[k];
        }
    }
}

static void crash_run(const struct work *k, bool close, bool again)
{
    struct mem_media *m = mem_media_new(1, BYTES, true), *c;

    crash_bits = setting("SUBSETS", 5);
    begin(&writer, m);
    work(&writer, k);
    if (close) {
        go(&writer, UINT32_MAX);
        finish(&writer, true);
        go(&writer, 4);
    }
    if (again) {
        c = mem_media_crash(m, MEM_CRASH_POWER, 50, chance(1 << 30));
        rig_fini(&writer);
        mem_media_free(m);
        m = c;
        scratch_flushes = UINT64_MAX;
        for (uint32_t i = 0; i < put_n; i++)
            all_puts[i].placed = false; /* checked by the open below */
        begin(&writer, m);
        relearn(&writer);
        work(&writer, k);
    }
    rig_fini(&writer);
    mem_media_free(m);
    printf("%lu crash images\n", images);
    ck_assert_uint_gt(images, 50);
}

START_TEST(crash_while_blocks_are_written)
{
    crash_run(&(struct work){40, 60000, 0, 0, 6}, false, false);
}
END_TEST

START_TEST(crash_while_durable_blocks_and_drops_are_written)
{
    crash_run(&(struct work){60, 20000, 60, 40, 6}, false, false);
}
END_TEST

START_TEST(crash_while_segments_are_reclaimed)
{
    crash_run(&(struct work){200, 220000, 20, 30, 12}, false, false);
}
END_TEST

START_TEST(crash_in_and_after_a_close_in_order)
{
    crash_run(&(struct work){40, 60000, 30, 30, 8}, true, true);
}
END_TEST

START_TEST(crash_in_the_life_after_a_crash)
{
    crash_run(&(struct work){60, 100000, 40, 30, 8}, false, true);
}
END_TEST

/* ---- damaged images: one good image, damaged and put right again */

static uint8_t *base; /* the good one */

struct range {
    uint64_t off, len;
};
static struct range hurt[64];
static uint32_t hurt_n;

static uint8_t *hurt_at(uint64_t off, uint64_t len)
{
    MUST(hurt_n < countof(hurt) && off + len <= BYTES);
    hurt[hurt_n++] = (struct range){off, len};
    return scratch->image[0] + off;
}

static void heal(void)
{
    while (hurt_n > 0) {
        hurt_n--;
        page_back(base, hurt[hurt_n].off, hurt[hurt_n].len);
    }
    meta_back(base);
}

/* Blocks, some dropped, over most of the device; closed in order or not. */
static void make_base(bool close)
{
    struct mem_media *m = mem_media_new(1, BYTES, true);

    begin(&writer, m);
    work(&writer, &(struct work){90, 90000, 20, 25, 8});
    go(&writer, UINT32_MAX);
    if (close)
        finish(&writer, true);
    base = malloc(BYTES);
    MUST(base);
    memcpy(base, m->image[0], BYTES);
    page_back(base, 0, BYTES);
    rig_fini(&writer);
    mem_media_free(m);
}

static uint32_t served, refused;

/* Whatever happened to it: it opens or is refused with words, and what it
 * reports is what was put (the callbacks look). */
static void check_damaged(const char *what, uint64_t at)
{
    static struct rig r;

    rig_init(&r, scratch, 0);
    open_log(&r, SEGLOG_OPEN_OR_FORMAT);
    if (r.err == OK) {
        seglog_check(r.g);
        for (uint32_t k = 0; k < KEYS; k++)
            served += alive(&r, k) && intact(&r, k);
    } else {
        ck_assert_msg(r.err == ERR_CORRUPT || r.err == ERR_CONFIG,
                      "%s %lu: %d %s", what, at, r.err, r.msg.text);
        ck_assert_msg(memcmp(scratch->image[0], base, SEG_PAGE) &&
                          memcmp(scratch->image[0] + SEG_SUPER_B,
                                 base + SEG_SUPER_B, SEG_PAGE),
                      "%s %lu: refused with a good superblock", what, at);
        ck_assert(r.msg.text[0]);
        refused++;
    }
    images++;
    rig_fini(&r);
}

static void damage_end(void)
{
    printf("%lu images, %u refused, %u blocks served\n", images, refused,
           served);
    ck_assert_uint_ge(served, images / 100);
    free(base);
    base = NULL;
    served = refused = 0;
}

static void cut_run(bool close)
{
    make_base(close);
    for (uint64_t cut = BYTES - 512; cut > 0; cut -= 512) {
        memset(scratch->image[0] + cut, 0, 512);
        check_damaged("cut", cut);
        for (uint64_t off = 0; off < cut; off += SEG_PAGE)
            if (off == 0 || off == SEG_SUPER_B ||
                (off >= SEG_DATA && (off - SEG_DATA) % SEGMENT == 0))
                page_back(base, off, min_u64(SEG_PAGE, cut - off));
        if (cut % SEGMENT < SEG_PAGE)
            memset(scratch->image[0] + cut, 0,
                   SEG_PAGE - cut % SEG_PAGE); /* a head was written */
    }
    ck_assert_uint_eq(images, BYTES / 512 - 1);
    damage_end();
}

START_TEST(an_image_cut_at_any_sector_opens)
{
    cut_run(false);
}
END_TEST

START_TEST(a_closed_image_cut_at_any_sector_opens)
{
    cut_run(true);
}
END_TEST

static bool is_meta(uint64_t off)
{
    static const uint64_t magics[] = {SEG_MAGIC_SUPER, SEG_MAGIC_HEAD,
                                      SEG_MAGIC_GROUP, SEG_MAGIC_CHECK};

    for (size_t i = 0; i < countof(magics); i++)
        if (memcmp(base + off, &magics[i], 8) == 0)
            return true;
    return false;
}

static void flip_run(bool close)
{
    uint64_t step = setting("FLIPS", 61);

    make_base(close);
    for (uint64_t page = 0; page < BYTES; page += SEG_PAGE)
        for (uint64_t i = is_meta(page) ? chance((uint32_t)step)
                                        : SEG_PAGE * (chance(61) > 0);
             i < SEG_PAGE; i += is_meta(page) ? step : 997) {
            *hurt_at(page + i, 1) ^= (uint8_t)(1 << chance(8));
            check_damaged("flip", page + i);
            heal();
        }
    ck_assert_uint_eq(refused, 0);
    damage_end();
}

START_TEST(an_image_with_a_byte_flipped_opens)
{
    flip_run(false);
}
END_TEST

START_TEST(a_closed_image_with_a_byte_flipped_opens)
{
    flip_run(true);
}
END_TEST

static uint64_t sector(void)
{
    /* Half of them where it hurts most. */
    for (uint32_t n = 0; chance(2) && n < 100; n++) {
        uint64_t page = (uint64_t)chance(BYTES / SEG_PAGE) * SEG_PAGE;

        if (is_meta(page))
            return page + 512 * (uint64_t)chance(8);
    }
    return (uint64_t)chance(BYTES / 512) * 512;
}

static void damage_once(void)
{
    uint64_t len = 512 * (uint64_t)(1 + chance(16)), a = sector(), b = sector(),
             to = (uint64_t)chance(SEGMENTS);
    uint8_t *p, *q, t[SEG_PAGE];

    len = min_u64(len, BYTES - max_u64(a, b));
    switch (chance(5)) {
    case 0: /* lost */
        memset(hurt_at(a, len), 0, len);
        break;
    case 1: /* noise */
        p = hurt_at(a, len);
        for (uint64_t i = 0; i < len; i++)
            p[i] = (uint8_t)chance(256);
        break;
    case 2: /* two changed places */
        p = hurt_at(a, 512);
        q = hurt_at(b, 512);
        memcpy(t, p, 512);
        memmove(p, q, 512);
        memcpy(q, t, 512);
        break;
    case 3: /* written to the wrong place */
        memcpy(hurt_at(b, len), base + a, len);
        break;
    case 4: /* a page written to its place in another segment */
        a &= ~(uint64_t)(SEG_PAGE - 1);
        b = SEG_DATA + to * SEGMENT + a % SEGMENT;
        memcpy(hurt_at(b, SEG_PAGE), base + a, SEG_PAGE);
        break;
    }
}

static void random_run(bool close, uint32_t n)
{
    make_base(close);
    for (uint32_t i = 0; i < n; i++) {
        rng = i + 1000;
        for (uint32_t k = 1 + chance(20); k > 0; k--)
            damage_once();
        check_damaged("seed", i);
        heal();
        if (i % 256 == 0)
            ck_assert_mem_eq(scratch->image[0], base, BYTES);
    }
    damage_end();
}

START_TEST(images_with_sectors_lost_or_swapped_open)
{
    random_run(false, setting("IMAGES", 2000) / 2);
}
END_TEST

START_TEST(closed_images_with_sectors_lost_or_swapped_open)
{
    random_run(true, setting("IMAGES", 2000) / 2);
}
END_TEST

/* ---- other stores */

static struct rig reader;

static void reopen(uint32_t lanes)
{
    reader.lanes = lanes;
    rig_init(&reader, scratch, 0);
    open_log(&reader, SEGLOG_OPEN_OR_FORMAT);
}

static uint32_t living(void)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < KEYS; k++)
        n += alive(&reader, k);
    return n;
}

static uint32_t placed(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < put_n; i++)
        n += all_puts[i].placed && last[all_puts[i].k] == i + 1 &&
             asked[all_puts[i].k] <= i;
    return n;
}

START_TEST(a_checkpoint_says_what_a_scan_would)
{
    uint64_t by_check[KEYS];
    uint32_t checks;

    make_base(true);
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert(reader.g->from_checkpoint);
    ck_assert_uint_eq(reader.records, 0);
    checks = reader.checks;
    ck_assert_uint_gt(checks, 5);
    ck_assert_uint_eq(checks, placed());
    memcpy(by_check, reader.found, sizeof(by_check));
    rig_fini(&reader);
    /* The open has made it unclean: now the same by a scan. */
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert(!reader.g->from_checkpoint);
    for (uint32_t k = 0; k < KEYS; k++)
        ck_assert_uint_eq(alive(&reader, k) ? reader.found[k] : 0, by_check[k]);
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(a_checkpoint_of_others_or_with_a_bad_page_is_not_used)
{
    uint64_t page = 0;

    make_base(true);
    served = 1;
    reopen(2);
    ck_assert_int_eq(reader.err, OK);
    ck_assert(!reader.g->from_checkpoint);
    ck_assert_uint_eq(reader.checks, 0);
    ck_assert_uint_eq(living(), placed());
    rig_fini(&reader);
    heal();
    for (uint64_t off = SEG_DATA; off < BYTES; off += SEG_PAGE) {
        uint64_t magic;

        memcpy(&magic, base + off, 8);
        if (magic == SEG_MAGIC_CHECK)
            page = off;
    }
    ck_assert_uint_gt(page, 0);
    scratch->image[0][page + 100] ^= 1;
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert(!reader.g->from_checkpoint);
    ck_assert_uint_gt(metric_get(&reader.metrics.ssd_corrupt), 0);
    ck_assert_uint_eq(living(), placed());
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(after_a_scan_no_segment_is_appended_to)
{
    make_base(false);
    served = 1;
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_uint_eq(reader.g->head, SEG_NONE);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        ck_assert(reader.g->segs[i].state == SEG_FREE ||
                  reader.g->segs[i].state == SEG_FULL);
    rig_fini(&reader);
    damage_end();
}
END_TEST

static void refuse(enum err e, const char *words)
{
    uint8_t *before = malloc(BYTES);

    MUST(before);
    memcpy(before, scratch->image[0], BYTES);
    reopen(1);
    ck_assert_int_eq(reader.err, e);
    ck_assert_msg(strstr(reader.msg.text, words) != NULL, "%s",
                  reader.msg.text);
    ck_assert(strstr(reader.msg.text, "fix:") != NULL);
    ck_assert_mem_eq(scratch->image[0], before, BYTES);
    ck_assert_int_eq(reader.g->state, SEGLOG_CLOSED);
    rig_fini(&reader);
    free(before);
}

static void change_super(uint64_t off, void (*change)(struct seg_super *s))
{
    struct seg_super s;

    memcpy(&s, scratch->image[0] + off, sizeof(s));
    change(&s);
    seg_super_seal(&s);
    memcpy(scratch->image[0] + off, &s, sizeof(s));
}

static void newer_major(struct seg_super *s)
{
    s->major = 2;
    s->minor = 3;
    strcpy(s->writer, "pikvd 9.8");
}

static void retire(struct seg_super *s)
{
    s->flags = SEG_RETIRED;
    s->seq += 10;
}

static void grow(struct seg_super *s)
{
    s->bytes += MIB(1);
}

START_TEST(a_newer_format_is_refused_by_name)
{
    make_base(true);
    served = 1;
    change_super(0, newer_major);
    refuse(ERR_UNSUPPORTED, "written by pikvd 9.8 with format 2.3, this pikvd "
                            "reads up to 1.x");
    heal();
    change_super(SEG_SUPER_B, newer_major);
    refuse(ERR_UNSUPPORTED, "pikvd 9.8");
    damage_end();
}
END_TEST

START_TEST(somebody_elses_bytes_are_not_touched)
{
    scratch->image[0][SEG_DATA - 1] = 1;
    refuse(ERR_CONFIG, "not a pikvd store");
    scratch->image[0][SEG_DATA - 1] = 0;
    scratch->image[0][3] = 7;
    refuse(ERR_CONFIG, "byte 3 is 7");
}
END_TEST

START_TEST(two_damaged_superblocks_are_refused)
{
    make_base(false);
    served = 1;
    scratch->image[0][20] ^= 1;
    scratch->image[0][SEG_SUPER_B + 90] ^= 1;
    refuse(ERR_CORRUPT, "superblocks are both damaged");
    damage_end();
}
END_TEST

START_TEST(a_device_that_became_smaller_is_refused)
{
    make_base(false);
    served = 1;
    change_super(0, grow);
    change_super(SEG_SUPER_B, grow);
    refuse(ERR_CONFIG, "formatted with 11MiB, now the device is 10MiB");
    damage_end();
}
END_TEST

START_TEST(a_retired_store_stays_retired_until_it_is_formatted)
{
    make_base(false);
    served = 1;
    change_super(0, retire);
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_int_eq(reader.g->state, SEGLOG_RETIRED);
    ck_assert_uint_eq(reader.records, 0);
    rig_fini(&reader);
    rig_init(&reader, scratch, 0);
    open_log(&reader, SEGLOG_FORMAT);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_int_eq(reader.g->state, SEGLOG_OPEN);
    ck_assert_uint_eq(reader.g->free_n, SEGMENTS);
    rig_fini(&reader);
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_uint_eq(reader.records, 0);
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(a_blank_device_becomes_a_store_and_stays_one)
{
    struct seg_super s;

    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_int_eq(reader.g->state, SEGLOG_OPEN);
    for (uint64_t off = 0; off <= SEG_SUPER_B; off += SEG_SUPER_B) {
        ck_assert_int_eq(seg_super_read(scratch->image[0] + off, &s), OK);
        ck_assert_mem_eq(s.uuid, uuid, 16);
        ck_assert_str_eq(s.writer, "pikvd test");
        ck_assert_uint_eq(s.segments, SEGMENTS);
        ck_assert_uint_eq(s.flags, 0);
    }
    rig_fini(&reader);
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_uint_eq(reader.records, 0);
    rig_fini(&reader);
}
END_TEST

START_TEST(errors_of_the_device_end_the_open)
{
    for (uint32_t mask = MEM_READS; mask <= MEM_FLUSHES; mask <<= 1)
        for (uint32_t nth = 1;; nth++) {
            bool hit;

            if (!base)
                make_base(true);
            rig_init(&reader, scratch, 0);
            reader.disk.fault = (struct disk_mem_fault){
                .mask = mask, .nth = nth, .err = ERR_IO};
            open_log(&reader, SEGLOG_OPEN_OR_FORMAT);
            hit = reader.disk.fault.hits > 0;
            if (reader.err != OK) {
                ck_assert_int_eq(reader.err, ERR_IO);
                ck_assert(reader.msg.text[0]);
                ck_assert_int_eq(reader.g->state, SEGLOG_FAILED);
            }
            /* Reads may fail one by one; a write of it must not. */
            ck_assert(mask == MEM_READS || !hit || reader.err == ERR_IO ||
                      reader.g->state == SEGLOG_OPEN);
            seglog_check(reader.g);
            rig_fini(&reader);
            heal();
            if (!hit)
                break;
        }
    served = 1;
    damage_end();
}
END_TEST

START_TEST(a_hanging_device_fails_the_open)
{
    rig_init(&reader, scratch, 0);
    reader.disk.fault = (struct disk_mem_fault){
        .mask = MEM_ALL, .nth = 1, .forever = true, .hang = true};
    open_log(&reader, SEGLOG_OPEN_OR_FORMAT);
    ck_assert_int_eq(reader.err, ERR_IO);
    ck_assert_int_eq(reader.g->state, SEGLOG_FAILED);
    disk_mem_unhang(&reader.disk);
    while (pump(&reader))
        ;
    rig_fini(&reader);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("seglog_image");
    TCase *t = tcase_create("images");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 3600);
    tcase_add_test(t, a_blank_device_becomes_a_store_and_stays_one);
    tcase_add_test(t, a_checkpoint_says_what_a_scan_would);
    tcase_add_test(t, a_checkpoint_of_others_or_with_a_bad_page_is_not_used);
    tcase_add_test(t, after_a_scan_no_segment_is_appended_to);
    tcase_add_test(t, a_newer_format_is_refused_by_name);
    tcase_add_test(t, somebody_elses_bytes_are_not_touched);
    tcase_add_test(t, two_damaged_superblocks_are_refused);
    tcase_add_test(t, a_device_that_became_smaller_is_refused);
    tcase_add_test(t, a_retired_store_stays_retired_until_it_is_formatted);
    tcase_add_test(t, errors_of_the_device_end_the_open);
    tcase_add_test(t, a_hanging_device_fails_the_open);
    tcase_add_test(t, crash_while_blocks_are_written);
    tcase_add_test(t, crash_while_durable_blocks_and_drops_are_written);
    tcase_add_test(t, crash_while_segments_are_reclaimed);
    tcase_add_test(t, crash_in_and_after_a_close_in_order);
    tcase_add_test(t, crash_in_the_life_after_a_crash);
    tcase_add_test(t, an_image_cut_at_any_sector_opens);
    tcase_add_test(t, a_closed_image_cut_at_any_sector_opens);
    tcase_add_test(t, an_image_with_a_byte_flipped_opens);
    tcase_add_test(t, a_closed_image_with_a_byte_flipped_opens);
    tcase_add_test(t, images_with_sectors_lost_or_swapped_open);
    tcase_add_test(t, closed_images_with_sectors_lost_or_swapped_open);
    suite_add_tcase(s, t);
    return s;
}

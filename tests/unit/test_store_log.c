/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: store base proto
 *
 * Two lanes' stores over the real segment log and a device in memory: a random
 * life in which the log goes round the device many times, power cuts, clean
 * stops. A model knows every PUT by its version; it says what may be found:
 * never other bytes, never what was dropped, and after a crash all that was
 * durable and still had its place. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/mover.h"
#include "store/seglog_impl.h"
#include "store/store_impl.h"
#include "tests/lib/disk_mem.h"
#include "tests/lib/sfix.h"

enum {
    LANES = 2,
    KEYS = 240,
    PUTS = 400, /* of a key */
    WAITS = 24,
    UNITS = 3, /* of each lane's memory */
    SEGMENTS = 8,
    SEGMENT = 1 << 20,
    BYTES = SEG_DATA + SEGMENTS * SEGMENT,
};

struct put {
    uint64_t version;
    uint32_t len;
};

struct key {
    struct put puts[PUTS];
    uint32_t put_n;
    uint64_t asked; /* a drop up to this version was asked for in this life */
    uint64_t dead;  /* and was answered */
    uint64_t durable;
    uint32_t page; /* and where that lay when it was answered */
};

struct lane {
    struct sfix f;
    struct disk_mem disk;
    struct ssd ssd;
    struct list back; /* seg_req.node: answered, on their way home */
};

struct wait {
    struct store_wait w;
    uint32_t key, lane, block;
    uint64_t version;
    enum { FREE, LOAD, PERSIST, DROP } what;
};

static struct env env;
static struct mem_media *media;
static struct lane lanes[LANES];
static struct seg_map map;
static struct seglog *glog;
static struct list to_owner; /* seg_req.node */
static const struct seg_reclaim *shown;
static uint32_t shown_to;
static bool opened, closed;
static uint32_t check_lane;
static uint64_t check_cursor;
static struct key keys[KEYS];
static struct wait waits[WAITS];
static uint64_t generation, rng;
static bool power; /* was cut */
static uint32_t gets, loads, persists, drops;
static uint64_t reclaimed, again_bytes;

/* A ck_assert writes to a file each time that it holds. */
#define SURE(cond)                                                             \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

static uint32_t rnd(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 11) % n);
}

/* ---- the log and who carries its requests */

static void answered(struct seg_req *r)
{
    list_add_tail(&lanes[r->lane].back, &r->node);
}

static void submit(struct ssd *ssd, struct seg_req *r)
{
    if (ssd->lane == 0) {
        seglog_submit(glog, r);
        return;
    }
    r->home = r->done;
    r->done = answered;
    list_add_tail(&to_owner, &r->node);
}

static uint32_t number_of(const struct store_key *k)
{
    char text[16] = "";

    SURE(k->key_len < sizeof text);
    memcpy(text, k->key, k->key_len);
    return (uint32_t)strtoul(text + 1, NULL, 10);
}

static void on_record(void *arg, const struct seg_meta *m, struct seg_place p)
{
    (void)arg;
    store_adopt(lanes[number_of(&m->key) % LANES].f.s, m, &p);
}

static void on_check(void *arg, const struct seg_check *c)
{
    (void)arg;
    store_adopt_check(lanes[c->lane].f.s, c);
}

static void on_tomb(void *arg, const struct seg_tomb *t)
{
    (void)arg;
    for (int i = 0; i < LANES; i++)
        store_adopt_tomb(lanes[i].f.s, t);
}

static void on_opened(void *arg, enum err e, const struct errmsg *m)
{
    (void)arg;
    ck_assert_msg(e == OK, "%s", m ? m->text : "");
    opened = true;
}

static void on_reclaim(void *arg, const struct seg_reclaim *r)
{
    (void)arg;
    shown = r;
    shown_to = 0;
}

static bool on_check_next(void *arg, struct seg_check *out)
{
    (void)arg;
    for (; check_lane < LANES; check_lane++, check_cursor = 0)
        if (store_check_next(lanes[check_lane].f.s, 0, &check_cursor, out))
            return true;
    return false;
}

static void on_closed(void *arg, enum err e)
{
    (void)arg;
    ck_assert_int_eq(e, OK);
    closed = true;
}

static void on_changed(void *arg, enum seglog_state to, const char *why)
{
    (void)arg;
    ck_abort_msg("the log became %d: %s", to, why);
}

/* ---- the world */

static struct store_ns_cfg ns_cfg(void)
{
    struct store_ns_cfg ns = sfix_ns(1, generation, NULL);

    ns.policy = evict_by_idx((uint32_t)(generation % 6));
    if (!ns.policy)
        ns.policy = evict_by_name("lru");
    return ns;
}

static void lane_open(uint32_t i)
{
    struct lane *l = &lanes[i];
    struct store_ns_cfg ns = ns_cfg();
    struct unit_pool *pools[STORE_POOLS] = {&l->f.pool};

    sfix_init(&l->f, UNITS);
    l->f.cfg.lane = i;
    l->f.cfg.ssd_blocks_max = 1000;
    disk_mem_init(&l->disk, media,
                  &(struct disk_mem_cfg){.env = &env,
                                         .latency_ns = 20 * NS_PER_US,
                                         .spread_ns = 80 * NS_PER_US,
                                         .shuffle = true,
                                         .seed = rng + i});
    list_init(&l->back);
    l->ssd = (struct ssd){.disk = &l->disk.disk,
                          .n = 1,
                          .maps = {&map},
                          .lane = i,
                          .lanes = LANES,
                          .submit = submit,
                          .write_window = MIB(1),
                          .load_window = MIB(2),
                          .second_touch = i == 1};
    ck_assert_int_eq(
        store_new(&l->f.s, &l->f.cfg, pools, &env, &l->f.metrics, &l->f.trace),
        OK);
    ck_assert_int_eq(store_ssd_set(l->f.s, &l->ssd), OK);
    ck_assert_int_eq(store_ns_set(l->f.s, &ns), OK);
}

static void world_turn(void)
{
    struct list home, *n;

    for (int i = 0; i < LANES; i++)
        lanes[i].disk.disk.ops->progress(&lanes[i].disk.disk);
    for (int i = 0; i < LANES; i++) {
        list_init(&home);
        while ((n = list_pop(&lanes[i].back)))
            list_add_tail(&home, n);
        while ((n = list_pop(&home))) {
            struct seg_req *r = container_of(n, struct seg_req, node);

            r->done = r->home;
            r->done(r);
        }
    }
    while ((n = list_pop(&to_owner)))
        seglog_submit(glog, container_of(n, struct seg_req, node));
    if (shown && shown_to < LANES) {
        store_reclaim(lanes[shown_to++].f.s, shown);
    } else if (shown) {
        shown = NULL;
        seglog_reclaimed(glog);
    }
    seglog_tick(glog);
    for (int i = 0; i < LANES; i++)
        store_tick(lanes[i].f.s);
    env.now_ns += 10 * NS_PER_US;
}

static bool world_idle(void)
{
    bool idle = seglog_idle(glog) && !shown && list_empty(&to_owner);

    for (int i = 0; i < LANES; i++)
        idle &= store_ssd_idle(lanes[i].f.s) && list_empty(&lanes[i].back);
    return idle;
}

static void world_settle(void)
{
    for (int i = 0; i < 20; i++)
        world_turn();
    for (int i = 0; i < 200000 && !world_idle(); i++)
        world_turn();
    ck_assert(world_idle());
}

static void world_check(void)
{
    seglog_check(glog);
    for (int i = 0; i < LANES; i++)
        store_check(lanes[i].f.s);
}

static void world_open(void)
{
    static const uint8_t uuid[16] = "two stores' log";
    struct seglog_host host = {
        .record = on_record,
        .check = on_check,
        .tomb = on_tomb,
        .opened = on_opened,
        .reclaim = on_reclaim,
        .check_next = on_check_next,
        .closed = on_closed,
        .changed = on_changed,
    };
    struct seglog_cfg cfg = {
        .lanes = LANES,
        .bytes = BYTES,
        .segment_bytes = SEGMENT,
        .group_bytes = KIB(256),
        .linger_ns = NS_PER_MS,
        .again_pct = 25,
        .hang_ns = 10 * NS_PER_S,
        .writer = "pikvd test",
    };

    memset(&map, 0, sizeof map);
    opened = closed = false;
    env.boot_us += 1000000;
    for (uint32_t i = 0; i < LANES; i++)
        lane_open(i);
    ck_assert_int_eq(seglog_new(&glog, &cfg, &lanes[0].disk.disk, &env,
                                &lanes[0].f.metrics, &lanes[0].f.trace, &map,
                                &host),
                     OK);
    seglog_open(glog, SEGLOG_OPEN_OR_FORMAT, uuid);
    for (int i = 0; i < 100000 && !opened; i++) {
        lanes[0].disk.disk.ops->progress(&lanes[0].disk.disk);
        seglog_tick(glog);
        env.now_ns += 10 * NS_PER_US;
    }
    ck_assert(opened);
    for (int i = 0; i < LANES; i++)
        store_adopted(lanes[i].f.s);
    world_check();
}

static void world_free(void)
{
    seglog_free(glog);
    for (int i = 0; i < LANES; i++) {
        reclaimed += lanes[i].f.metrics.ssd_evicted_blocks;
        again_bytes += lanes[i].f.metrics.ssd_again_bytes;
        sfix_close(&lanes[i].f);
        disk_mem_fini(&lanes[i].disk);
    }
}

/* ---- blocks */

static struct store_key key_of(uint32_t k, char text[16])
{
    snprintf(text, 16, "k%u", k);
    return sfix_key(&lanes[k % LANES].f, 1, text);
}

/* A power cut may keep a header and lose its payload; nothing else may. */
static uint32_t find(uint32_t k)
{
    char text[16];
    struct store_key key = key_of(k, text);
    enum store_found why;
    uint32_t b = store_find(lanes[k % LANES].f.s, &key, &why);

    SURE(power || why != FOUND_MISS_CORRUPT);
    return b;
}

static uint64_t word(uint32_t k, uint64_t seed, uint64_t i)
{
    return (k + 1) * UINT64_C(0x9e3779b97f4a7c15) + seed * 0x100000001b3 + i;
}

/* Of a block's bytes word by word: written, or compared. */
static uint32_t bytes_of(uint32_t k, uint32_t b, uint64_t seed, bool write)
{
    static struct span spans[STORE_SPANS_MAX];
    struct store *s = lanes[k % LANES].f.s;
    uint32_t n = store_spans(s, b, 0, store_len(s, b), spans, STORE_SPANS_MAX),
             crc = 0;
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        for (uint64_t o = 0; o < spans[i].len; o += 8, at++) {
            uint64_t x = word(k, seed, at);
            size_t len = min_u64(8, spans[i].len - o);

            if (write)
                memcpy(spans[i].p + o, &x, len);
            else
                SURE(memcmp(spans[i].p + o, &x, len) == 0);
        }
        crc = crc32c(crc, spans[i].p, spans[i].len);
    }
    return crc;
}

static uint32_t put_of(uint32_t k, uint64_t version)
{
    const struct key *key = &keys[k];

    for (uint32_t i = key->put_n; i-- > 0;)
        if (key->puts[i].version == version)
            return i;
    ck_abort_msg("key %u has no put of version %lu", k, (unsigned long)version);
    return 0;
}

/* What is found is one of the puts, and not one that was dropped. */
static void found_check(uint32_t k, uint32_t b)
{
    struct store *s = lanes[k % LANES].f.s;
    uint64_t version = store_version(s, b);
    const struct key *key = &keys[k];

    SURE(store_len(s, b) == key->puts[put_of(k, version)].len);
    SURE(version > key->asked);
    SURE(version > key->dead);
    if (store_where(s, b) == WHERE_MEMORY)
        bytes_of(k, b, put_of(k, version), false);
}

/* ---- what goes on */

static void some_put(uint32_t k)
{
    struct store *s = lanes[k % LANES].f.s;
    struct key *key = &keys[k];
    struct wire_attr attr = {.label0 = k};
    char text[16], up[16] = "";
    struct store_key sk = key_of(k, text);
    uint32_t len = 1 + rnd(rnd(4) ? 20000 : 200000), b;
    enum err e;

    if (key->put_n == PUTS)
        return;
    if (k >= 2 * LANES && rnd(3))
        snprintf(up, sizeof up, "k%u", k - LANES * (1 + rnd(2)));
    e = store_reserve(s, &sk, rnd(2) ? &attr : NULL, (const uint8_t *)up,
                      (uint16_t)strlen(up), len, &b);
    SURE(e == OK || e == ERR_BUSY);
    if (e)
        return;
    key->puts[key->put_n].len = len;
    key->puts[key->put_n].version =
        store_commit(s, b, bytes_of(k, b, key->put_n, true));
    key->put_n++;
    store_unref(s, b);
}

static struct wait *wait_free(void)
{
    struct wait *w = &waits[rnd(WAITS)];

    return w->what == FREE ? w : NULL;
}

static void waited(struct store_wait *sw)
{
    struct wait *w = container_of(sw, struct wait, w);
    struct store *s = lanes[w->lane].f.s;
    struct key *key = &keys[w->key];
    int what = w->what;

    w->what = FREE;
    if (what == LOAD && !sw->err) {
        if (store_version(s, sw->block) > key->asked)
            found_check(w->key, sw->block);
        store_unref(s, sw->block);
        loads++;
    } else if (what == PERSIST) {
        if (!sw->err && w->version >= key->durable) {
            key->durable = w->version;
            key->page = entry_at(s, w->block)->ssd;
        }
        store_unref(s, w->block);
        persists += !sw->err;
    } else if (what == DROP && !sw->err) {
        key->dead = max_u64(key->dead, w->version);
        drops++;
    }
}

static struct wait *wait_for(struct wait *w, int what, uint32_t k, uint32_t b)
{
    *w = (struct wait){.w = {.done = waited},
                       .key = k,
                       .lane = k % LANES,
                       .block = b,
                       .version = store_version(lanes[k % LANES].f.s, b),
                       .what = what};
    return w;
}

static void some_get(uint32_t k, uint32_t b)
{
    struct store *s = lanes[k % LANES].f.s;
    char text[16];
    struct store_key key = key_of(k, text);
    struct wait *w = wait_free();

    store_use(s, b);
    gets++;
    if (store_where(s, b) == WHERE_MEMORY) {
        found_check(k, b);
        return;
    }
    if (w && store_load(s, b, &key, (enum store_load_class)rnd(3),
                        &wait_for(w, LOAD, k, b)->w))
        w->what = FREE;
}

static void some_persist(uint32_t k, uint32_t b)
{
    struct store *s = lanes[k % LANES].f.s;
    struct wait *w = wait_free();

    if (!w || store_where(s, b) != WHERE_MEMORY)
        return;
    store_ref(s, b);
    if (store_persist(s, b, &wait_for(w, PERSIST, k, b)->w)) {
        store_unref(s, b);
        w->what = FREE;
    }
}

static void some_drop(uint32_t k, uint32_t b)
{
    struct store *s = lanes[k % LANES].f.s;
    struct wait *w = wait_free();

    if (!w)
        return;
    wait_for(w, DROP, k, b);
    if (store_drop_durable(s, b, &w->w)) {
        w->what = FREE;
        return;
    }
    keys[k].asked = max_u64(keys[k].asked, w->version);
    if (!w->w.pending)
        waited(&w->w);
}

/* All that there was is gone, also after a crash: the registry says so. */
static void bump(void)
{
    struct store_ns_cfg ns;

    generation++;
    ns = ns_cfg();
    for (int i = 0; i < LANES; i++)
        if (store_ns_set(lanes[i].f.s, &ns))
            ck_abort_msg("no slot for a generation");
    for (uint32_t k = 0; k < KEYS; k++)
        if (keys[k].put_n)
            keys[k].dead =
                max_u64(keys[k].dead, keys[k].puts[keys[k].put_n - 1].version);
}

static void some_cancel(void)
{
    struct wait *w = &waits[rnd(WAITS)];

    if (w->what == FREE)
        return;
    store_wait_cancel(lanes[w->lane].f.s, &w->w);
    if (w->what == PERSIST)
        store_unref(lanes[w->lane].f.s, w->block);
    w->what = FREE;
}

static void some_step(void)
{
    uint32_t k = rnd(2) ? rnd(KEYS) : rnd(KEYS / 8), b = find(k);
    uint32_t what = rnd(100);

    if (b)
        found_check(k, b);
    if (!b)
        some_put(k);
    else if (what < 60)
        some_get(k, b);
    else if (what < 72)
        some_persist(k, b);
    else if (what < 78)
        some_drop(k, b);
    else if (what < 90)
        store_demote(lanes[k % LANES].f.s, b);
    else if (what < 92)
        some_cancel();
    for (uint32_t i = rnd(6); i > 0; i--)
        world_turn();
}

static void life(int steps)
{
    for (int i = 0; i < steps; i++) {
        some_step();
        if (i % 64 == 0)
            world_check();
        if (rnd(1500) == 0)
            bump();
    }
}

/* ---- its ends */

/* Durable, where it was then, and nobody asked for its end: neither a drop nor
 * the log, which empties its oldest segment. */
static bool must_stay(uint32_t k)
{
    uint32_t b = find(k), page;
    const struct store *s = lanes[k % LANES].f.s;

    if (!b || !store_on_ssd(s, b) || store_version(s, b) != keys[k].durable)
        return false;
    page = entry_at(s, b)->ssd;
    return page == keys[k].page &&
           glog->segs[seg_map_segment(&map, page)].state != SEG_EMPTYING;
}

static void look_again(const bool *stays, const uint64_t *versions)
{
    for (uint32_t k = 0; k < KEYS; k++) {
        uint32_t b;

        keys[k].asked = 0;
        b = find(k);
        ck_assert_msg(b || !stays[k], "key %u is lost", k);
        if (!b)
            continue;
        found_check(k, b);
        if (stays[k])
            ck_assert_uint_ge(store_version(lanes[k % LANES].f.s, b),
                              versions[k]);
    }
}

/* The old world goes on until it is idle, unseen: then it can be freed. */
static void crash(void)
{
    static bool stays[KEYS];
    static uint64_t versions[KEYS], dead[KEYS];
    struct mem_media *after;
    enum mem_crash how;

    for (uint32_t k = 0; k < KEYS; k++) {
        stays[k] = must_stay(k);
        versions[k] = keys[k].durable;
        dead[k] = keys[k].dead;
    }
    how = rnd(2) ? MEM_CRASH_KILL : MEM_CRASH_POWER;
    after = mem_media_crash(media, how, rnd(3) * 50, rng);
    world_settle();
    for (uint32_t k = 0; k < KEYS; k++) {
        keys[k].dead = dead[k];
        keys[k].durable = versions[k];
    }
    world_free();
    mem_media_free(media);
    media = after;
    power |= how == MEM_CRASH_POWER;
    world_open();
    look_again(stays, versions);
}

/* All that has a place is there afterwards. */
static void stop(void)
{
    static bool stays[KEYS];
    static uint64_t versions[KEYS];

    world_settle();
    for (uint32_t k = 0; k < KEYS; k++) {
        uint32_t b = find(k);

        stays[k] = b && store_on_ssd(lanes[k % LANES].f.s, b);
        versions[k] = b ? store_version(lanes[k % LANES].f.s, b) : 0;
    }
    check_lane = 0;
    check_cursor = 0;
    seglog_close(glog, true);
    for (int i = 0; i < 100000 && !closed; i++) {
        lanes[0].disk.disk.ops->progress(&lanes[0].disk.disk);
        seglog_tick(glog);
        env.now_ns += 10 * NS_PER_US;
    }
    ck_assert(closed);
    world_free();
    world_open();
    look_again(stays, versions);
}

START_TEST(a_random_life_over_the_log_keeps_what_it_promised)
{
    memset(keys, 0, sizeof keys);
    memset(waits, 0, sizeof waits);
    gets = loads = persists = drops = 0;
    reclaimed = again_bytes = 0;
    power = false;
    rng = 88172645463325252 + (uint64_t)_i * UINT64_C(0x9e3779b97f4a7c15);
    env = (struct env){.now_ns = NS_PER_S,
                       .wall_s = 1000,
                       .boot_us = 1000000000,
                       .rng = {1, 2}};
    generation = 1;
    list_init(&to_owner);
    media = mem_media_new(1, BYTES, true);
    world_open();
    for (int round = 0; round < 6; round++) {
        life(1500);
        ck_assert_uint_gt(media->written_bytes[0], BYTES / 4);
        if (round % 3 == 2)
            stop();
        else
            crash();
    }
    ck_assert_uint_gt(gets, 1000);
    ck_assert_uint_gt(loads, 50);
    ck_assert_uint_gt(persists, 20);
    ck_assert_uint_gt(drops, 20);
    world_settle();
    world_check();
    seglog_close(glog, false);
    while (!closed)
        world_turn();
    world_free();
    mem_media_free(media);
    ck_assert_uint_gt(reclaimed, 100);
    ck_assert_uint_gt(again_bytes, KIB(256));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("store_log");
    TCase *t = tcase_create("store_log");

    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, a_random_life_over_the_log_keeps_what_it_promised, 0,
                        6);
    suite_add_tcase(s, t);
    return s;
}

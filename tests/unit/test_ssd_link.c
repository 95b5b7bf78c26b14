/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Two lanes and one SSD: what goes between them by mail. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "lib/disk_mem.h"
#include "server/control.h"
#include "server/ctl_mail.h"
#include "server/lane.h"

enum { LANES = 2, OWNER = 0, OTHER = 1, BLOCK = 300000 };

static struct config cfg;
static struct control control;
static struct lane lanes[LANES], *list[LANES];
static struct unit_pool pool;
static void *memory;
static struct mem_media *media;
static struct disk_mem disks[LANES];
static struct ssd_node node;
static uint32_t turning; /* the lane whose turn it is */
static uint32_t done_n;

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static uint64_t some(void *arg)
{
    return ++*(uint64_t *)arg;
}

static void turn(void)
{
    bool more = true;

    while (more) {
        more = false;
        for (turning = 0; turning < LANES; turning++) {
            more |= lane_turn(&lanes[turning]);
            more |= lanes[turning].mailbox.n > 0;
        }
        for (uint32_t i = 0; i < LANES; i++)
            more |= disk_mem_next_ns(&disks[i]) <= lanes[i].env.now_ns;
    }
}

static void pass(uint64_t ms)
{
    for (; ms > 0; ms--) {
        for (uint32_t i = 0; i < LANES; i++)
            lanes[i].env.now_ns += NS_PER_MS;
        turn();
    }
}

static void start_lane(uint32_t i, struct unit_pool *pools[STORE_POOLS])
{
    struct disk_mem_cfg dc = {.env = &lanes[i].env};

    memset(&lanes[i], 0, sizeof lanes[i]);
    list[i] = &lanes[i];
    lanes[i].env = (struct env){
        .now_ns = NS_PER_S, .boot_us = 1, .wall_s = 1700000000, .rng = {1, 2}};
    lanes[i].ssd_bytes = media->bytes;
    ck_assert_int_eq(lane_init(&lanes[i], &cfg, i, LANES, pools, &control), OK);
    disk_mem_init(&disks[i], media, &dc);
    ck_assert_int_eq(
        ssd_link_init(&lanes[i].link, &lanes[i], &node, &disks[i].disk), OK);
}

static void set_up(void)
{
    static uint64_t seed;
    struct control_shell shell = {.random = some, .arg = &seed};
    struct unit_pool *pools[STORE_POOLS] = {&pool};
    struct registry_ns ns = {.name = "a", .id = 1, .generation = 5};
    struct store_ns_cfg sc;
    struct errmsg m;
    uint8_t uuid[16] = {7};

    log_sink_set(quiet, NULL);
    config_defaults(&cfg);
    cfg.ssd.segment_bytes = MIB(1);
    cfg.ssd.scrub_bytes = 0;
    cfg.limits.ops_per_lane = 8;
    cfg.limits.clients = 4;
    cfg.limits.pins_per_client = 4;
    media = mem_media_new(1, MIB(20), false);
    memory = mem_reserve(MIB(32));
    ck_assert_int_eq(unit_pool_init(&pool, memory, MIB(32), LANES), OK);
    node = (struct ssd_node){.n = 1, .lanes = list, .lane_n = LANES};
    node.devs[0].bytes = media->bytes;
    node.devs[0].why = node.devs[0].engine = "";
    ck_assert_int_eq(control_init(&control, &cfg, list, LANES, &shell), OK);
    ns.settings.policy = evict_by_name("lru");
    ns.settings.share = 1;
    registry_ns_cfg(&ns, LANES, &sc);
    for (uint32_t i = 0; i < LANES; i++) {
        start_lane(i, pools);
        ck_assert_int_eq(lane_ns_set(&lanes[i], &ns, &sc), OK);
    }
    ck_assert_int_eq(
        ssd_link_open(&lanes[OWNER].link, 0, SEGLOG_OPEN_OR_FORMAT, uuid, &m),
        OK);
    pass(10);
    ck_assert(lanes[OWNER].link.logs[0].opened);
    ck_assert_int_eq(lanes[OWNER].link.logs[0].err, OK);
    done_n = 0;
}

static void tear_down(void)
{
    for (uint32_t i = 0; i < LANES; i++) {
        lanes[i].closing = true;
        ssd_link_close(&lanes[i].link, true);
    }
    pass(200);
    for (uint32_t i = 0; i < LANES; i++) {
        ck_assert(ssd_link_closed(&lanes[i].link));
        ck_assert(ssd_link_quiet(&lanes[i].link));
        store_check(lanes[i].store);
    }
    for (uint32_t i = 0; i < LANES; i++)
        lane_fini(&lanes[i]);
    for (uint32_t i = 0; i < LANES; i++)
        disk_mem_fini(&disks[i]);
    control_fini(&control);
    unit_pool_fini(&pool);
    mem_release(memory, MIB(32));
    mem_media_free(media);
}

static struct store_key key_of(uint32_t lane, const char *name)
{
    static const uint8_t no_scope[16];
    struct store_key k = {.ns = 1,
                          .key = (const uint8_t *)name,
                          .key_len = (uint16_t)strlen(name),
                          .scope = no_scope};

    store_key_hash(lanes[lane].store, &k);
    return k;
}

/* Returns the block with a ref, or 0. */
static uint32_t put(uint32_t lane, const char *name)
{
    struct store *s = lanes[lane].store;
    struct store_key k = key_of(lane, name);
    struct span spans[16];
    uint32_t block;

    if (store_reserve(s, &k, NULL, NULL, 0, BLOCK, &block))
        return 0;
    ck_assert_uint_eq(store_spans(s, block, 0, BLOCK, spans, 16),
                      store_span_count(s, block));
    memset(spans[0].p, 5, spans[0].len);
    store_commit(s, block, 0);
    return block;
}

static void persisted(struct store_wait *w)
{
    ck_assert_int_eq(w->err, OK);
    ck_assert_uint_eq(turning, OTHER);
    done_n++;
}

START_TEST(a_lane_writes_to_an_ssd_that_another_one_owns)
{
    struct store_wait w = {.done = persisted};
    uint32_t block = put(OTHER, "k");

    ck_assert_uint_ne(block, 0);
    ck_assert_int_eq(store_persist(lanes[OTHER].store, block, &w), OK);
    ck_assert_uint_eq(done_n, 0); /* not inside the call */
    pass(50);
    ck_assert_uint_eq(done_n, 1);
    ck_assert(store_on_ssd(lanes[OTHER].store, block));
    store_unref(lanes[OTHER].store, block);
    ck_assert_uint_eq(lanes[OWNER].metrics.ssd_groups, 1);
    ck_assert_uint_eq(lanes[OTHER].metrics.ssd_groups, 0);
}
END_TEST

static struct seg_req reqs[3 * SSD_LINK_REQS];

static void flushed(struct seg_req *r)
{
    ck_assert_int_eq(r->err, OK);
    ck_assert_uint_eq(turning, OTHER);
    ck_assert_ptr_eq(r, &reqs[done_n]); /* in order */
    done_n++;
}

START_TEST(what_the_mail_has_no_room_for_waits)
{
    struct ssd_link *k = &lanes[OTHER].link;

    for (uint32_t i = 0; i < countof(reqs); i++) {
        reqs[i] = (struct seg_req){
            .what = SEG_REQ_FLUSH, .lane = OTHER, .done = flushed};
        k->ssd.submit(&k->ssd, &reqs[i]);
        ck_assert_uint_le(k->away, SSD_LINK_REQS);
    }
    ck_assert(!ssd_link_quiet(k));
    pass(100);
    ck_assert_uint_eq(done_n, countof(reqs));
    ck_assert(ssd_link_quiet(k));
}
END_TEST

/* The SSD is smaller than what both lanes write. */
START_TEST(every_lane_lets_go_of_what_a_reclaimed_segment_had)
{
    char name[16];

    for (uint32_t i = 0; i < 120; i++) {
        uint32_t lane = i % LANES, block;

        snprintf(name, sizeof name, "k%u", i);
        block = put(lane, name);
        ck_assert_uint_ne(block, 0);
        store_unref(lanes[lane].store, block);
        pass(20);
    }
    ck_assert_uint_gt(lanes[OWNER].metrics.ssd_reclaimed_segments, 10);
    for (uint32_t i = 0; i < LANES; i++) {
        ck_assert_uint_gt(lanes[i].metrics.ssd_blocks, 0);
        ck_assert_uint_lt(lanes[i].metrics.ssd_blocks, 60);
        store_check(lanes[i].store);
    }
}
END_TEST

START_TEST(a_retired_ssd_is_forgotten_by_every_lane)
{
    char name[16];

    for (uint32_t i = 0; i < 10; i++) {
        uint32_t block;

        snprintf(name, sizeof name, "k%u", i);
        block = put(i % LANES, name);
        store_unref(lanes[i % LANES].store, block);
    }
    pass(100);
    for (uint32_t i = 0; i < LANES; i++)
        ck_assert_uint_eq(lanes[i].metrics.ssd_blocks, 5);
    seglog_retire(lanes[OWNER].link.logs[0].log);
    pass(500);
    ck_assert_int_eq(seg_map_state(&node.devs[0].map), SEGLOG_RETIRED);
    for (uint32_t i = 0; i < LANES; i++)
        ck_assert_uint_eq(lanes[i].metrics.ssd_blocks, 0);
}
END_TEST

/* A disk that says what it was not told to begin. */
static const struct disk_ops *real_ops;
static struct disk_ops watching;
static bool waits;

static void watch_submit(struct disk *d, struct disk_io *io)
{
    waits = true;
    real_ops->submit(d, io);
}

static bool watch_progress(struct disk *d)
{
    waits = false;
    return real_ops->progress(d);
}

/* Reads that a turn asked for are with the kernel when it ends. */
START_TEST(a_turn_begins_the_reads_that_it_asked_for)
{
    struct lane *l = &lanes[OTHER];
    struct disk *d = &disks[OTHER].disk;
    struct store_key k = key_of(OTHER, "k");
    uint32_t block = put(OTHER, "k");

    store_demote(l->store, block);
    store_unref(l->store, block);
    pass(50);
    ck_assert_int_eq(store_where(l->store, block), WHERE_SSD);
    disks[OTHER].cfg.latency_ns = NS_PER_MS;
    real_ops = d->ops;
    watching = *real_ops;
    watching.submit = watch_submit;
    watching.progress = watch_progress;
    d->ops = &watching;
    ck_assert_int_eq(store_load(l->store, block, &k, LOAD_PREFETCH, NULL), OK);
    ck_assert_uint_eq(d->in_flight, 0);
    (void)lane_turn(l);
    ck_assert_uint_eq(d->in_flight, 1);
    ck_assert(!waits);
    d->ops = real_ops;
    pass(10);
}
END_TEST

static struct ctl_job job;

/* As control does: every lane forgets, then the owner formats. */
static enum err replace(void)
{
    mail_fn *steps[] = {lane_ssd_forget_mail, lane_ssd_replace_mail};

    for (uint32_t i = 0; i < countof(steps); i++) {
        job = (struct ctl_job){.control = &control, .ssd_dev = 0};
        for (uint32_t l = 0; l < LANES; l++) {
            job.asks[l] = (struct ctl_ask){
                .mail.fn = steps[i], .job = &job, .lane = l, .err = 1};
            ck_assert_int_eq(mailbox_post(&lanes[l].mailbox, &job.asks[l].mail),
                             OK);
        }
        pass(100);
        for (uint32_t l = 0; l < LANES; l++) {
            struct list *acked = list_pop(&control.mailbox.q);

            control.mailbox.n--;
            ck_assert_ptr_nonnull(acked);
            ck_assert_ptr_eq(
                ctl_ask_of(container_of(acked, struct mail, node))->job, &job);
        }
        for (uint32_t l = 0; l < LANES; l++)
            if (job.asks[l].err)
                return job.asks[l].err;
    }
    return OK;
}

static void retire(void)
{
    seglog_retire(lanes[OWNER].link.logs[0].log);
    pass(500);
    ck_assert_int_eq(seg_map_state(&node.devs[0].map), SEGLOG_RETIRED);
}

START_TEST(a_replaced_ssd_is_written_again_and_says_nothing_of_before)
{
    struct store_wait w = {.done = persisted};
    uint32_t block;

    retire();
    node.devs[0].why = "its last words";
    ck_assert_int_eq(replace(), OK);
    ck_assert_int_eq(seg_map_state(&node.devs[0].map), SEGLOG_OPEN);
    ck_assert_str_eq(node.devs[0].why, "");
    pass(10);
    block = put(OTHER, "k");
    ck_assert_int_eq(store_persist(lanes[OTHER].store, block, &w), OK);
    pass(50);
    ck_assert_uint_eq(done_n, 1);
    store_unref(lanes[OTHER].store, block);
}
END_TEST

static void refused(struct seg_req *r)
{
    ck_assert_int_ne(r->err, OK);
    done_n++;
}

START_TEST(what_could_not_be_replaced_refuses_and_can_be_replaced_later)
{
    struct ssd_link *k = &lanes[OTHER].link;

    retire();
    node.devs[0].bytes = MIB(3);
    ck_assert_int_eq(replace(), ERR_LIMIT);
    node.devs[0].bytes = media->bytes;
    ck_assert_ptr_null(lanes[OWNER].link.logs[0].log);
    reqs[0] =
        (struct seg_req){.what = SEG_REQ_FLUSH, .lane = OTHER, .done = refused};
    k->ssd.submit(&k->ssd, &reqs[0]);
    k = &lanes[OWNER].link;
    reqs[1] =
        (struct seg_req){.what = SEG_REQ_FLUSH, .lane = OWNER, .done = refused};
    k->ssd.submit(&k->ssd, &reqs[1]);
    pass(10);
    ck_assert_uint_eq(done_n, 2);
    ck_assert_int_eq(replace(), OK);
    ck_assert_int_eq(seg_map_state(&node.devs[0].map), SEGLOG_OPEN);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ssd_link");
    TCase *t = tcase_create("link");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, a_lane_writes_to_an_ssd_that_another_one_owns);
    tcase_add_test(t, what_the_mail_has_no_room_for_waits);
    tcase_add_test(t, every_lane_lets_go_of_what_a_reclaimed_segment_had);
    tcase_add_test(t, a_retired_ssd_is_forgotten_by_every_lane);
    tcase_add_test(t, a_turn_begins_the_reads_that_it_asked_for);
    tcase_add_test(t,
                   a_replaced_ssd_is_written_again_and_says_nothing_of_before);
    tcase_add_test(
        t, what_could_not_be_replaced_refuses_and_can_be_replaced_later);
    suite_add_tcase(s, t);
    return s;
}

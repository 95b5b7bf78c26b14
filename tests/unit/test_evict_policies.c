/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: store base
 *
 * What each eviction policy decides: LRU's order is exact; S3-FIFO and ARC name
 * the same victims as references written here from the papers (ARC with its
 * floor for new blocks) with arrays and linear searches; LHD beats LRU where
 * age tells; Gittins keeps a part of what does not fit, knows blocks again and
 * is LRU while it has learnt nothing; W-TinyLFU admits by frequency; the ghost
 * list is a FIFO of hashes against a plain array.
 *
 * The references take blocks of one page and use the daemon's order of events:
 * evict first, then insert. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "store/evict.h"
#include "store/evict_ghost.h"

enum { IDS = 512, PAGES_MAX = 1 << 18 };

/* A ck_assert that costs nothing when it holds (Check writes a record for each
 * of its own), for loops. */
#define EXPECT(cond)                                                           \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

struct bed {
    struct evict_node nodes[IDS];
    bool resident[IDS];
    struct env env;
    struct evict e;
    void *state;
    uint64_t rng;
};

static uint64_t bed_hash(void *arg, uint32_t id)
{
    (void)arg;
    return (id + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
}

static uint32_t bed_random(struct bed *b, uint32_t below)
{
    b->rng = b->rng * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)((b->rng >> 33) % below);
}

static struct bed *bed_new(const struct evict_ops *ops, uint32_t capacity)
{
    struct bed *b = calloc(1, sizeof(*b));
    struct evict_host host;

    ck_assert_ptr_nonnull(b);
    b->env.rng[0] = b->rng = 1;
    for (uint32_t id = 0; id < IDS; id++)
        b->nodes[id].weight = 1;
    host = (struct evict_host){
        .nodes = b->nodes,
        .stride = sizeof(b->nodes[0]),
        .ids_max = IDS,
        .pages_max = PAGES_MAX,
        .hash = bed_hash,
        .env = &b->env,
    };
    b->state = calloc(1, ops->state_bytes(PAGES_MAX));
    ck_assert_ptr_nonnull(b->state);
    evict_init(&b->e, ops, &host, b->state, capacity);
    return b;
}

static void bed_free(struct bed *b)
{
    free(b->state);
    free(b);
}

/* Low ids often, high ids seldom: the smaller of two draws, squared away. */
static uint32_t bed_skewed(struct bed *b)
{
    return bed_random(b, 1 + bed_random(b, 1 + bed_random(b, IDS)));
}

/* One access through the policy; returns the victim or EVICT_NONE. */
static uint32_t bed_access(struct bed *b, uint32_t id, bool *hit_out)
{
    uint32_t victim = EVICT_NONE;

    *hit_out = b->resident[id];
    if (b->resident[id]) {
        evict_hit(&b->e, id);
        return victim;
    }
    if (b->e.members == b->e.capacity_pages) {
        victim = evict_victim(&b->e);
        evict_remove(&b->e, victim, EVICT_PRESSURE);
        b->resident[victim] = false;
    }
    evict_insert(&b->e, id);
    b->resident[id] = true;
    return victim;
}

/* Blocks that the references hold: odd, round, smallest with a small queue. */
static const uint32_t capacities[] = {10, 37, 60, 99, 100, 200};

/* ---- queues of the references: [0] is the newest */

struct queue {
    uint32_t ids[4 * IDS];
    uint32_t n;
};

static void queue_push(struct queue *q, uint32_t id)
{
    memmove(q->ids + 1, q->ids, q->n * sizeof(q->ids[0]));
    q->ids[0] = id;
    q->n++;
}

static bool queue_del(struct queue *q, uint32_t id)
{
    for (uint32_t i = 0; i < q->n; i++) {
        if (q->ids[i] != id)
            continue;
        q->n--;
        memmove(q->ids + i, q->ids + i + 1, (q->n - i) * sizeof(q->ids[0]));
        return true;
    }
    return false;
}

static bool queue_has(const struct queue *q, uint32_t id)
{
    for (uint32_t i = 0; i < q->n; i++) {
        if (q->ids[i] == id)
            return true;
    }
    return false;
}

static uint32_t queue_pop(struct queue *q)
{
    EXPECT(q->n > 0);
    return q->ids[--q->n];
}

/* ---- LRU */

START_TEST(lru_victims_are_in_the_exact_order_of_last_use)
{
    struct bed *b = bed_new(&evict_lru, 100);
    struct queue q = {.n = 0};

    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t id = bed_skewed(b), victim;
        bool hit;

        victim = bed_access(b, id, &hit);
        EXPECT(queue_del(&q, id) == hit);
        EXPECT(victim == (q.n == 100 ? queue_pop(&q) : EVICT_NONE));
        queue_push(&q, id);
    }
    bed_free(b);
}
END_TEST

START_TEST(lru_gives_a_released_block_the_place_of_its_last_use)
{
    struct bed *b = bed_new(&evict_lru, 100);

    for (uint32_t id = 0; id < 6; id++)
        evict_insert(&b->e, id);
    evict_hold(&b->e, 0); /* reached by a victim search, not used again */
    evict_hold(&b->e, 1); /* reached, then used */
    evict_hold(&b->e, 3); /* not reached */
    ck_assert_uint_eq(evict_victim(&b->e), 2);
    evict_hit(&b->e, 1);
    evict_release(&b->e, 0, true);
    evict_release(&b->e, 1, true);
    evict_release(&b->e, 3, true);
    evict_hold(&b->e, 4);
    evict_release(&b->e, 4, false); /* as if used now */
    static const uint32_t order[] = {0, 2, 3, 5, 1, 4};
    for (uint32_t i = 0; i < countof(order); i++) {
        ck_assert_uint_eq(evict_victim(&b->e), order[i]);
        evict_remove(&b->e, order[i], EVICT_PRESSURE);
    }
    bed_free(b);
}
END_TEST

/* ---- S3-FIFO */

struct s3_ref {
    struct queue small, main, ghost;
    uint8_t freq[IDS];
    uint32_t c;
};

static uint32_t s3_ref_evict(struct s3_ref *r)
{
    while (r->small.n > r->c / 10) {
        uint32_t id = queue_pop(&r->small);

        if (r->freq[id] <= 1) {
            queue_push(&r->ghost, id);
            if (r->ghost.n > r->c - r->c / 10)
                queue_pop(&r->ghost);
            return id;
        }
        r->freq[id] = 0;
        queue_push(&r->main, id);
    }
    for (;;) {
        uint32_t id = queue_pop(&r->main);

        if (r->freq[id] == 0)
            return id;
        r->freq[id]--;
        queue_push(&r->main, id);
    }
}

static uint32_t s3_ref_access(struct s3_ref *r, uint32_t id)
{
    uint32_t victim = EVICT_NONE;

    if (queue_has(&r->small, id) || queue_has(&r->main, id)) {
        r->freq[id] = (uint8_t)min_u64(r->freq[id] + 1u, 3);
        return victim;
    }
    if (r->small.n + r->main.n == r->c)
        victim = s3_ref_evict(r);
    r->freq[id] = 0;
    queue_push(queue_del(&r->ghost, id) ? &r->main : &r->small, id);
    return victim;
}

START_TEST(s3fifo_names_the_victims_of_the_paper)
{
    uint32_t c = capacities[_i], victims = 0;
    struct bed *b = bed_new(&evict_s3fifo, c);
    struct s3_ref r = {.c = c};

    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t id = bed_skewed(b), victim;
        bool hit;

        victim = bed_access(b, id, &hit);
        EXPECT(victim == s3_ref_access(&r, id));
        victims += victim != EVICT_NONE;
    }
    ck_assert_uint_gt(victims, 1000);
    bed_free(b);
}
END_TEST

START_TEST(s3fifo_keeps_its_main_queue_through_a_scan)
{
    struct bed *b = bed_new(&evict_s3fifo, 100);
    uint32_t kept = 0;
    bool hit;

    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t id = 0; id < 50; id++)
            bed_access(b, id, &hit);
    }
    for (uint32_t id = 100; id < IDS; id++)
        bed_access(b, id, &hit);
    for (uint32_t id = 0; id < 50; id++)
        kept += b->resident[id];
    ck_assert_uint_eq(kept, 50);
    bed_free(b);
}
END_TEST

/* ---- ARC */

struct arc_ref {
    struct queue t1, t2, b1, b2;
    uint32_t c, p;
};

static uint32_t arc_ref_evict(struct arc_ref *r)
{
    bool from_t1 = r->t1.n > max_u64(r->p, r->c / 10) || r->t2.n == 0;
    uint32_t id = queue_pop(from_t1 ? &r->t1 : &r->t2);

    queue_push(from_t1 ? &r->b1 : &r->b2, id);
    return id;
}

static uint32_t arc_ref_access(struct arc_ref *r, uint32_t id)
{
    uint32_t victim = EVICT_NONE, n1, n2;

    if (queue_del(&r->t1, id) || queue_del(&r->t2, id)) {
        queue_push(&r->t2, id);
        return victim;
    }
    if (r->t1.n + r->t2.n == r->c)
        victim = arc_ref_evict(r);
    n1 = r->b1.n;
    n2 = r->b2.n;
    if (queue_del(&r->b1, id)) {
        r->p = (uint32_t)min_u64(r->c, r->p + (n1 >= n2 ? 1 : n2 / n1));
        queue_push(&r->t2, id);
    } else if (queue_del(&r->b2, id)) {
        r->p -= (uint32_t)min_u64(r->p, n2 >= n1 ? 1 : n1 / n2);
        queue_push(&r->t2, id);
    } else {
        queue_push(&r->t1, id);
    }
    while (r->t1.n + r->b1.n > r->c)
        queue_pop(&r->b1);
    while (r->t1.n + r->t2.n + r->b1.n + r->b2.n > 2 * r->c)
        queue_pop(&r->b2);
    return victim;
}

START_TEST(arc_names_the_victims_of_the_paper)
{
    uint32_t c = capacities[_i], victims = 0, targets = 0;
    struct bed *b = bed_new(&evict_arc, c);
    struct arc_ref r = {.c = c};

    for (uint32_t i = 0; i < 20000; i++) {
        /* Phases of skewed use and of loops move the target to and fro. */
        uint32_t id = i / 1000 % 2 ? i % (c + c / 2) : bed_skewed(b);
        uint32_t victim, p = r.p;
        bool hit;

        victim = bed_access(b, id, &hit);
        EXPECT(victim == arc_ref_access(&r, id));
        victims += victim != EVICT_NONE;
        targets += p != r.p;
    }
    ck_assert_uint_gt(victims, 1000);
    ck_assert_uint_gt(targets, 100);
    bed_free(b);
}
END_TEST

/* ---- LHD */

/* A hot set that comes round less often than the cache is long in LRU order,
 * between blocks that never come again. */
static uint32_t hits_between_scans(const struct evict_ops *ops)
{
    struct bed *b = bed_new(ops, 100);
    uint32_t hits = 0, cold = 64;
    bool hit;

    for (uint32_t i = 0; i < 60000; i++) {
        uint32_t id = i % 4 ? cold : i / 4 % 50;

        if (i % 4)
            cold = cold + 1 < IDS ? cold + 1 : 64;
        bed_access(b, id, &hit);
        hits += hit;
    }
    bed_free(b);
    return hits;
}

START_TEST(lhd_learns_which_ages_are_used_again)
{
    uint32_t lru = hits_between_scans(&evict_lru);
    uint32_t lhd = hits_between_scans(&evict_lhd);

    ck_assert_uint_eq(lru, 0);
    ck_assert_uint_gt(lhd, 14000); /* of 15000 uses of the hot set */
}
END_TEST

START_TEST(lhd_evicts_the_larger_of_two_equal_blocks)
{
    struct bed *b = bed_new(&evict_lhd, 100);

    b->nodes[0].weight = 8;
    b->nodes[1].weight = 64;
    evict_insert(&b->e, 0);
    evict_insert(&b->e, 1);
    evict_hit(&b->e, 1);
    evict_hit(&b->e, 0);
    ck_assert_uint_eq(evict_victim(&b->e), 1);
    bed_free(b);
}
END_TEST

/* ---- Gittins */

/* The cold blocks come again as well, and to wait for one that is due soon pays
 * as much as to keep a hot one: it serves some of both. */
START_TEST(gittins_learns_which_ages_are_used_again)
{
    ck_assert_uint_gt(hits_between_scans(&evict_gittins), 9000);
}
END_TEST

/* Round and round through half as many blocks again as the cache has: who
 * keeps any part of them in peace serves up to two thirds of the uses. */
static uint32_t hits_of_a_loop(const struct evict_ops *ops)
{
    struct bed *b = bed_new(ops, 100);
    uint32_t hits = 0;
    bool hit;

    for (uint32_t i = 0; i < 60000; i++) {
        bed_access(b, i % 150, &hit);
        hits += hit;
    }
    bed_free(b);
    return hits;
}

START_TEST(gittins_keeps_a_part_of_a_loop_that_does_not_fit)
{
    ck_assert_uint_eq(hits_of_a_loop(&evict_lru), 0);
    ck_assert_uint_gt(hits_of_a_loop(&evict_gittins), 30000);
}
END_TEST

/* Fewer blocks than one victim draws: the order is exact. */
START_TEST(gittins_is_lru_while_it_has_learnt_nothing)
{
    struct bed *b = bed_new(&evict_gittins, 100);

    for (uint32_t id = 0; id < 30; id++)
        evict_insert(&b->e, id);
    for (uint32_t id = 0; id < 30; id++) {
        ck_assert_uint_eq(evict_victim(&b->e), id);
        evict_remove(&b->e, id, EVICT_GONE);
    }
    bed_free(b);
}
END_TEST

START_TEST(gittins_knows_the_use_count_of_a_block_that_was_evicted)
{
    struct bed *b = bed_new(&evict_gittins, 100);

    evict_insert(&b->e, 7);
    for (uint32_t i = 0; i < 3; i++)
        evict_hit(&b->e, 7);
    evict_remove(&b->e, 7, EVICT_PRESSURE);
    evict_insert(&b->e, 7);
    ck_assert_uint_eq(b->nodes[7].freq, 4);
    evict_remove(&b->e, 7, EVICT_GONE); /* dropped: nothing to remember */
    evict_insert(&b->e, 7);
    ck_assert_uint_eq(b->nodes[7].freq, 0);
    bed_free(b);
}
END_TEST

/* What was learnt with one clock holds after a switch moved another in. */
START_TEST(gittins_goes_on_learning_when_the_clock_jumps)
{
    struct bed *b = bed_new(&evict_gittins, 100);
    uint32_t hits = 0;
    bool hit;

    for (uint32_t i = 0; i < 60000; i++) {
        if (i % 10000 == 5000)
            b->e.clock += i % 20000 < 10000 ? 1u << 31 : 1u << 30;
        bed_access(b, i % 150, &hit);
        hits += hit;
    }
    ck_assert_uint_gt(hits, 25000);
    bed_free(b);
}
END_TEST

/* ---- W-TinyLFU */

START_TEST(wtinylfu_keeps_the_often_used_through_a_scan)
{
    struct bed *b = bed_new(&evict_wtinylfu, 100);
    uint32_t kept = 0;
    bool hit;

    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t id = 0; id < 80; id++)
            bed_access(b, id, &hit);
    }
    for (uint32_t id = 100; id < IDS; id++)
        bed_access(b, id, &hit);
    for (uint32_t id = 0; id < 80; id++)
        kept += b->resident[id];
    ck_assert_uint_eq(kept, 80);
    bed_free(b);
}
END_TEST

START_TEST(wtinylfu_forgets_what_was_used_long_ago)
{
    struct bed *b = bed_new(&evict_wtinylfu, 100);
    uint32_t kept = 0;
    bool hit;

    for (uint32_t i = 0; i < 15; i++) {
        for (uint32_t id = 0; id < 100; id++)
            bed_access(b, id, &hit);
    }
    for (uint32_t i = 0; i < 3000000; i++)
        bed_access(b, 200 + bed_random(b, 120), &hit);
    for (uint32_t id = 0; id < 100; id++)
        kept += b->resident[id];
    ck_assert_uint_le(kept, 10);
    bed_free(b);
}
END_TEST

/* ---- Ghosts */

static struct evict_ghost ghost_new(uint32_t entries)
{
    struct evict_ghost g;
    void *mem = calloc(1, evict_ghost_bytes(entries));

    ck_assert_ptr_nonnull(mem);
    evict_ghost_init(&g, mem, entries);
    return g;
}

/* A hash whose upper 46 bits are the number. */
static uint64_t ghost_hash(uint64_t n)
{
    return n << 18 | 5;
}

START_TEST(ghosts_are_forgotten_oldest_first)
{
    struct evict_ghost g = ghost_new(100);

    for (uint32_t i = 0; i < 150; i++)
        evict_ghost_add(&g, ghost_hash(i), 2);
    for (uint32_t i = 0; i < 150; i++)
        ck_assert_int_eq(evict_ghost_has(&g, ghost_hash(i)), i >= 50);
    evict_ghost_trim(&g, 21);
    for (uint32_t i = 0; i < 150; i++)
        ck_assert_int_eq(evict_ghost_has(&g, ghost_hash(i)), i >= 140);
    ck_assert_uint_eq(g.pages, 20);
    evict_ghost_trim(&g, 0);
    ck_assert_uint_eq(g.n, 0);
    free(g.entries);
}
END_TEST

START_TEST(a_ghost_added_again_is_the_newest)
{
    struct evict_ghost g = ghost_new(100);

    for (uint32_t i = 0; i < 10; i++)
        evict_ghost_add(&g, ghost_hash(i), 1);
    evict_ghost_add(&g, ghost_hash(0), 3);
    ck_assert_uint_eq(g.n, 10);
    evict_ghost_trim(&g, 3);
    ck_assert_uint_eq(evict_ghost_take(&g, ghost_hash(0)), 3);
    ck_assert_uint_eq(evict_ghost_take(&g, ghost_hash(0)), 0);
    ck_assert_uint_eq(g.n, 0);
    free(g.entries);
}
END_TEST

START_TEST(the_heaviest_block_does_not_spoil_a_ghosts_hash)
{
    struct evict_ghost g = ghost_new(64);

    evict_ghost_add(&g, ghost_hash(77), UINT32_MAX);
    ck_assert_uint_eq(evict_ghost_take(&g, ghost_hash(77)),
                      EVICT_GHOST_WEIGHT_MAX);
    free(g.entries);
}
END_TEST

/* The number of entries never exceeds the ring; what is known is what was
 * added and neither taken nor pushed out, holes counted. */
START_TEST(ghosts_agree_with_an_array)
{
    struct bed *b = bed_new(&evict_lru, 1);
    struct evict_ghost g = ghost_new(70);
    struct queue ring = {.n = 0}; /* UINT32_MAX is a hole */

    for (uint32_t i = 0; i < 50000; i++) {
        uint32_t n = bed_random(b, 150), known = 0;

        for (uint32_t k = 0; k < ring.n; k++) {
            known += ring.ids[k] == n;
            if (ring.ids[k] == n)
                ring.ids[k] = UINT32_MAX;
        }
        EXPECT(evict_ghost_has(&g, ghost_hash(n)) == known);
        if (bed_random(b, 3) == 0) {
            EXPECT(evict_ghost_take(&g, ghost_hash(n)) == known);
            continue;
        }
        evict_ghost_add(&g, ghost_hash(n), 1);
        if (ring.n == 70)
            queue_pop(&ring);
        queue_push(&ring, n);
        EXPECT(g.n == g.pages);
        EXPECT(g.n <= 70);
    }
    free(g.entries);
    bed_free(b);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("evict_policies");
    TCase *tc = tcase_create("golden");

    tcase_add_test(tc, lru_victims_are_in_the_exact_order_of_last_use);
    tcase_add_test(tc, lru_gives_a_released_block_the_place_of_its_last_use);
    tcase_add_loop_test(tc, s3fifo_names_the_victims_of_the_paper, 0,
                        countof(capacities));
    tcase_add_test(tc, s3fifo_keeps_its_main_queue_through_a_scan);
    tcase_add_loop_test(tc, arc_names_the_victims_of_the_paper, 0,
                        countof(capacities));
    tcase_add_test(tc, lhd_learns_which_ages_are_used_again);
    tcase_add_test(tc, lhd_evicts_the_larger_of_two_equal_blocks);
    tcase_add_test(tc, gittins_learns_which_ages_are_used_again);
    tcase_add_test(tc, gittins_keeps_a_part_of_a_loop_that_does_not_fit);
    tcase_add_test(tc, gittins_is_lru_while_it_has_learnt_nothing);
    tcase_add_test(tc, gittins_knows_the_use_count_of_a_block_that_was_evicted);
    tcase_add_test(tc, gittins_goes_on_learning_when_the_clock_jumps);
    tcase_add_test(tc, wtinylfu_keeps_the_often_used_through_a_scan);
    tcase_add_test(tc, wtinylfu_forgets_what_was_used_long_ago);
    suite_add_tcase(s, tc);
    tc = tcase_create("ghost");
    tcase_add_test(tc, ghosts_are_forgotten_oldest_first);
    tcase_add_test(tc, a_ghost_added_again_is_the_newest);
    tcase_add_test(tc, the_heaviest_block_does_not_spoil_a_ghosts_hash);
    tcase_add_test(tc, ghosts_agree_with_an_array);
    suite_add_tcase(s, tc);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: store base
 *
 * The eviction contract (store/evict.h), run over every policy in the table:
 * random sequences against a plain model of who is a member and who is held,
 * draining, switching between every pair of policies, resizing, leaves before
 * roots, determinism, priority, hints, and the size of the state. What each
 * policy decides is tested in test_evict_policies.c.
 *
 * The policy's state lies before a canary, so that a policy that writes past
 * what state_bytes asked for is caught without a sanitizer too. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "store/evict.h"
#include "store/evict_ghost.h"

enum { IDS = 512, CANARY = 64, PAGES_MAX = 4096 };

/* A ck_assert that costs nothing when it holds (Check writes a record for each
 * of its own), for loops. */
#define EXPECT(cond)                                                           \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

enum model { ABSENT, MEMBER, HELD };

struct bed {
    struct evict_node nodes[IDS];
    enum model model[IDS];
    struct env env;
    struct evict e;
    uint8_t *state;
    size_t state_len;
    uint64_t pages_max;
    uint64_t rng; /* of the test, apart from the policy's */
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

static void *bed_state(size_t len)
{
    uint8_t *p = calloc(1, len + CANARY);

    ck_assert_ptr_nonnull(p);
    memset(p + len, 0xa5, CANARY);
    return p;
}

static void bed_state_free(uint8_t *p, size_t len)
{
    for (size_t i = 0; i < CANARY; i++)
        ck_assert_uint_eq(p[len + i], 0xa5);
    free(p);
}

static void bed_policy(struct bed *b, const struct evict_ops *ops,
                       struct evict *e)
{
    struct evict_host host = {
        .nodes = b->nodes,
        .stride = sizeof(b->nodes[0]),
        .ids_max = IDS,
        .pages_max = b->pages_max,
        .hash = bed_hash,
        .env = &b->env,
    };

    b->state_len = ops->state_bytes(b->pages_max);
    b->state = bed_state(b->state_len);
    evict_init(e, ops, &host, b->state, 1024);
}

static struct bed *bed_of(int policy, uint64_t seed, uint64_t pages_max)
{
    struct bed *b = calloc(1, sizeof(*b));

    ck_assert_ptr_nonnull(b);
    b->pages_max = pages_max;
    b->env.rng[0] = seed;
    b->env.rng[1] = 7;
    b->rng = seed;
    for (uint32_t id = 0; id < IDS; id++)
        b->nodes[id].weight = 1;
    bed_policy(b, evict_by_idx((uint32_t)policy), &b->e);
    return b;
}

static struct bed *bed_new(int policy, uint64_t seed)
{
    return bed_of(policy, seed, PAGES_MAX);
}

static void bed_free(struct bed *b)
{
    bed_state_free(b->state, b->state_len);
    free(b);
}

static void bed_insert(struct bed *b, uint32_t id)
{
    evict_insert(&b->e, id);
    b->model[id] = MEMBER;
}

static void bed_hold(struct bed *b, uint32_t id)
{
    evict_hold(&b->e, id);
    b->model[id] = HELD;
}

static void bed_release(struct bed *b, uint32_t id, bool cold)
{
    evict_release(&b->e, id, cold);
    b->model[id] = MEMBER;
}

static void bed_remove(struct bed *b, uint32_t id, enum evict_why why)
{
    evict_remove(&b->e, id, why);
    b->model[id] = ABSENT;
}

/* The victim is a member, and there is one exactly if there are members. */
static uint32_t bed_victim(struct bed *b)
{
    uint32_t id = evict_victim(&b->e);

    if (b->e.members == 0) {
        EXPECT(id == EVICT_NONE);
        return id;
    }
    EXPECT(id < IDS);
    EXPECT(b->model[id] == MEMBER);
    return id;
}

static void bed_check(const struct bed *b)
{
    uint64_t members = 0, held = 0, member_pages = 0, held_pages = 0;

    for (uint32_t id = 0; id < IDS; id++) {
        const struct evict_node *n = &b->nodes[id];

        EXPECT((b->model[id] == ABSENT) == (n->queue == 0));
        EXPECT((b->model[id] == HELD) == (n->held != EVICT_MEMBER));
        members += b->model[id] == MEMBER;
        held += b->model[id] == HELD;
        member_pages += b->model[id] == MEMBER ? n->weight : 0;
        held_pages += b->model[id] == HELD ? n->weight : 0;
    }
    EXPECT(b->e.members == members);
    EXPECT(b->e.held == held);
    EXPECT(b->e.member_pages == member_pages);
    EXPECT(b->e.held_pages == held_pages);
}

static bool bed_hinted(const struct evict_node *n)
{
    return n->queue == EVICT_QUEUE_IDLE || n->queue == EVICT_QUEUE_DEAD;
}

static void bed_random_op(struct bed *b)
{
    uint32_t id = bed_random(b, IDS), dice = bed_random(b, 16);

    if (b->model[id] != ABSENT && bed_random(b, 8) == 0)
        evict_hint(&b->e, id, (enum evict_hint)bed_random(b, 4));
    switch (b->model[id]) {
    case ABSENT:
        b->nodes[id].weight = 1 + bed_random(b, 64);
        b->nodes[id].priority = (uint8_t)bed_random(b, 256);
        bed_insert(b, id);
        break;
    case MEMBER:
        if (dice < 8)
            evict_hit(&b->e, id);
        else if (dice < 13)
            bed_hold(b, id);
        else
            bed_remove(b, id, EVICT_GONE);
        break;
    case HELD:
        if (dice < 6)
            evict_hit(&b->e, id);
        else if (dice < 15)
            bed_release(b, id, dice < 12);
        else
            bed_remove(b, id, EVICT_GONE);
        break;
    }
    while (b->e.member_pages + b->e.held_pages > b->e.capacity_pages) {
        id = bed_victim(b);
        if (id == EVICT_NONE)
            break;
        bed_remove(b, id, EVICT_PRESSURE);
    }
}

/* Evicts until nothing is left to evict; returns how many went. */
static uint32_t bed_drain(struct bed *b)
{
    uint32_t id, n = 0;

    for (; (id = bed_victim(b)) != EVICT_NONE; n++)
        bed_remove(b, id, EVICT_PRESSURE);
    return n;
}

START_TEST(random_operations_agree_with_a_model_of_membership)
{
    struct bed *b = bed_new(_i, 42);

    for (uint32_t i = 0; i < 100000; i++) {
        bed_random_op(b);
        if (i % 64 == 0) {
            bed_victim(b);
            bed_check(b);
        }
    }
    ck_assert_uint_gt(b->e.members, 0);
    ck_assert_uint_gt(b->e.held, 0);
    bed_free(b);
}
END_TEST

START_TEST(every_member_drains_and_no_held_block_does)
{
    struct bed *b = bed_new(_i, 1);

    for (uint32_t id = 0; id < IDS; id++)
        bed_insert(b, id);
    for (uint32_t id = 0; id < IDS; id += 3)
        bed_hold(b, id);
    ck_assert_uint_eq(bed_drain(b), IDS - (IDS + 2) / 3);
    ck_assert_uint_eq(b->e.held, (IDS + 2) / 3);
    for (uint32_t id = 0; id < IDS; id += 3)
        bed_release(b, id, id % 2);
    ck_assert_uint_eq(bed_drain(b), (IDS + 2) / 3);
    bed_check(b);
    bed_free(b);
}
END_TEST

/* Blocks of length 0 count as one page and own none, so there may be more. */
START_TEST(more_blocks_than_pages_stay_within_the_state)
{
    struct bed *b = bed_of(_i, 29, 64);

    for (uint32_t id = 0; id < IDS; id++)
        bed_insert(b, id);
    for (uint32_t id = 0; id < IDS; id += 3)
        bed_hold(b, id);
    for (uint32_t id = 1; id < IDS; id += 3)
        bed_remove(b, id, EVICT_GONE);
    bed_victim(b);
    for (uint32_t id = 0; id < IDS; id += 3)
        bed_release(b, id, true);
    bed_check(b);
    ck_assert_uint_eq(bed_drain(b), IDS - (IDS + 1) / 3);
    for (uint32_t i = 0; i < 20000; i++)
        bed_random_op(b);
    bed_check(b);
    bed_free(b);
}
END_TEST

START_TEST(a_victim_stays_a_member_until_it_is_removed)
{
    struct bed *b = bed_new(_i, 5);
    uint32_t id;

    for (id = 0; id < 100; id++)
        bed_insert(b, id);
    for (uint32_t i = 0; i < 1000; i++)
        bed_victim(b);
    ck_assert_uint_eq(b->e.members, 100);
    ck_assert_uint_eq(bed_drain(b), 100);
    bed_free(b);
}
END_TEST

/* A chain with a resident child each: only the leaf is a member. */
START_TEST(a_chain_is_evicted_from_leaf_to_root)
{
    struct bed *b = bed_new(_i, 3);

    for (uint32_t id = 0; id < 64; id++) {
        bed_insert(b, id);
        if (id > 0)
            bed_hold(b, id - 1);
    }
    for (uint32_t id = 0; id < 64; id++)
        evict_hit(&b->e, id);
    for (uint32_t id = 64; id-- > 0;) {
        ck_assert_uint_eq(bed_victim(b), id);
        bed_remove(b, id, EVICT_PRESSURE);
        if (id > 0)
            bed_release(b, id - 1, true);
    }
    bed_free(b);
}
END_TEST

/* Plays the same operations on two beds; one also takes and ends a reference
 * around each use, as the daemon does and the simulator does not. */
START_TEST(a_reference_held_between_victims_changes_no_decision)
{
    struct bed *plain = bed_new(_i, 9), *refs = bed_new(_i, 9);

    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t id = bed_random(plain, IDS);

        if (plain->model[id] == MEMBER) {
            evict_hit(&plain->e, id);
            bed_hold(refs, id);
            evict_hit(&refs->e, id);
            bed_release(refs, id, true);
            continue;
        }
        while (plain->e.members >= 200) {
            uint32_t victim = bed_victim(plain);

            EXPECT(bed_victim(refs) == victim);
            bed_remove(plain, victim, EVICT_PRESSURE);
            bed_remove(refs, victim, EVICT_PRESSURE);
        }
        bed_insert(plain, id);
        bed_insert(refs, id);
    }
    bed_free(plain);
    bed_free(refs);
}
END_TEST

/* A hash of the victims of a random run. */
static uint64_t victims_hash(int policy, uint64_t seed)
{
    struct bed *b = bed_new(policy, 11);
    uint64_t hash = 0;

    b->env.rng[0] = seed;
    for (uint32_t i = 0; i < 20000; i++) {
        bed_random_op(b);
        hash = hash * 31 + bed_victim(b);
    }
    bed_free(b);
    return hash;
}

START_TEST(the_same_seed_gives_the_same_victims)
{
    bool random = evict_by_idx((uint32_t)_i)->score;

    ck_assert_uint_eq(victims_hash(_i, 1), victims_hash(_i, 1));
    ck_assert_int_eq(victims_hash(_i, 1) != victims_hash(_i, 2), random);
}
END_TEST

START_TEST(shrinking_the_capacity_leaves_every_block_evictable)
{
    struct bed *b = bed_new(_i, 13);

    for (uint32_t i = 0; i < 20000; i++) {
        if (i % 1000 == 0)
            evict_resize(&b->e, 16 + bed_random(b, PAGES_MAX - 16));
        bed_random_op(b);
    }
    evict_resize(&b->e, 0);
    for (uint32_t i = 0; i < 1000; i++)
        bed_random_op(b);
    ck_assert_uint_eq(b->e.members, 0);
    for (uint32_t id = 0; id < IDS; id++) {
        if (b->model[id] == HELD)
            bed_release(b, id, true);
    }
    bed_drain(b);
    bed_check(b);
    bed_free(b);
}
END_TEST

START_TEST(blocks_of_high_priority_outlive_the_others)
{
    struct bed *b = bed_new(_i, 17);
    uint32_t low = 0;

    evict_resize(&b->e, 400);
    for (uint32_t id = 0; id < 400; id++) {
        b->nodes[id].priority = id % 2 ? 255 : 0;
        bed_insert(b, id);
    }
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t id = bed_victim(b);

        low += id % 2 == 0;
        bed_remove(b, id, EVICT_PRESSURE);
    }
    ck_assert_uint_ge(low, 95);
    ck_assert_uint_eq(bed_drain(b), 300);
    bed_free(b);
}
END_TEST

START_TEST(the_state_is_within_its_documented_size)
{
    const struct evict_ops *ops = evict_by_idx((uint32_t)_i);

    for (uint64_t pages = 1; pages <= UINT64_C(1) << 26; pages *= 4) {
        uint32_t ghosts = evict_ghost_entries(pages);

        ck_assert_uint_le(evict_ghost_bytes(ghosts), 16 * (size_t)ghosts + 8);
        ck_assert_uint_le(ops->state_bytes(pages), 20480 + 5 * pages);
    }
}
END_TEST

/* ---- hints */

START_TEST(hinted_blocks_go_first_in_the_order_of_their_hints)
{
    static const uint32_t order[] = {30, 20, 41, 11, 40};
    struct bed *b = bed_new(_i, 31);

    for (uint32_t id = 0; id < 64; id++)
        bed_insert(b, id);
    for (uint32_t id = 64; id-- > 0;)
        evict_hit(&b->e, id);
    evict_hint(&b->e, 41, EVICT_HINT_IDLE);
    evict_hint(&b->e, 30, EVICT_HINT_DEAD);
    evict_hint(&b->e, 11, EVICT_HINT_IDLE);
    evict_hint(&b->e, 20, EVICT_HINT_IDLE);
    evict_hint(&b->e, 30, EVICT_HINT_DEAD); /* said again: keeps its place */
    evict_hint(&b->e, 40, EVICT_HINT_IDLE);
    evict_hint(&b->e, 20, EVICT_HINT_DEAD);
    for (uint32_t i = 0; i < countof(order); i++) {
        ck_assert_uint_eq(bed_victim(b), order[i]);
        bed_remove(b, order[i], EVICT_PRESSURE);
    }
    ck_assert_uint_eq(bed_drain(b), 64 - countof(order));
    bed_free(b);
}
END_TEST

START_TEST(a_hit_or_another_hint_takes_a_hint_back)
{
    struct bed *b = bed_new(_i, 37);

    for (uint32_t id = 0; id < 64; id++)
        bed_insert(b, id);
    for (uint32_t id = 0; id < 8; id++)
        evict_hint(&b->e, id, id % 2 ? EVICT_HINT_DEAD : EVICT_HINT_IDLE);
    evict_hit(&b->e, 0);
    evict_hit(&b->e, 1);
    evict_hint(&b->e, 2, EVICT_HINT_NONE);
    evict_hint(&b->e, 3, EVICT_HINT_NONE);
    evict_hint(&b->e, 4, EVICT_HINT_HOT);
    evict_hint(&b->e, 5, EVICT_HINT_HOT);
    for (uint32_t id = 0; id < 8; id++)
        ck_assert_int_eq(bed_hinted(&b->nodes[id]), id > 5);
    ck_assert_uint_eq(bed_victim(b), 7);
    bed_remove(b, 7, EVICT_GONE);
    ck_assert_uint_eq(bed_victim(b), 6);
    bed_remove(b, 6, EVICT_GONE);
    for (uint32_t id = 8; id < 64; id++)
        evict_hint(&b->e, id, EVICT_HINT_DEAD);
    for (uint32_t id = 8; id < 64; id++) {
        ck_assert_uint_eq(bed_victim(b), id);
        bed_remove(b, id, EVICT_GONE);
    }
    ck_assert_uint_eq(bed_drain(b), 6);
    bed_free(b);
}
END_TEST

START_TEST(a_held_block_that_is_hinted_waits_for_its_release)
{
    struct bed *b = bed_new(_i, 41);

    for (uint32_t id = 0; id < 8; id++)
        bed_insert(b, id);
    bed_hold(b, 0);
    bed_hold(b, 1);
    bed_hold(b, 2);
    for (uint32_t id = 0; id < 4; id++)
        evict_hint(&b->e, id, EVICT_HINT_DEAD);
    ck_assert_uint_eq(bed_victim(b), 3); /* parks the others */
    bed_remove(b, 3, EVICT_PRESSURE);
    evict_hint(&b->e, 1, EVICT_HINT_HOT);
    evict_hit(&b->e, 2);
    EXPECT(bed_victim(b) != 3);
    bed_check(b);
    bed_release(b, 2, true);
    bed_release(b, 1, true);
    bed_release(b, 0, true);
    ck_assert_uint_eq(bed_victim(b), 0);
    ck_assert_uint_eq(bed_drain(b), 7);
    bed_check(b);
    bed_free(b);
}
END_TEST

/* A session of two turns: the leaf goes first, the shared root stays. */
START_TEST(a_dead_chain_goes_leaf_first_up_to_the_shared_part)
{
    struct bed *b = bed_new(_i, 43);

    for (uint32_t id = 0; id < 32; id++) {
        bed_insert(b, id);
        if (id > 0)
            bed_hold(b, id - 1);
    }
    for (uint32_t id = 8; id < 32; id++)
        evict_hint(&b->e, id, EVICT_HINT_DEAD);
    for (uint32_t id = 100; id < 120; id++)
        bed_insert(b, id);
    for (uint32_t id = 32; id-- > 8;) {
        ck_assert_uint_eq(bed_victim(b), id);
        bed_remove(b, id, EVICT_PRESSURE);
        bed_release(b, id - 1, true);
    }
    ck_assert(!bed_hinted(&b->nodes[7]));
    bed_free(b);
}
END_TEST

/* ---- switching */

static int policies(void)
{
    int n = 0;

    while (evict_by_idx((uint32_t)n))
        n++;
    return n;
}

START_TEST(switching_from_any_policy_to_any_loses_no_block)
{
    struct bed *b = bed_new(_i / policies(), 19);
    const struct evict_ops *ops = evict_by_idx((uint32_t)(_i % policies()));
    struct evict_node before[IDS];
    uint8_t *old = b->state;
    size_t old_len = b->state_len;
    uint32_t members;
    struct evict to;

    for (uint32_t i = 0; i < 5000; i++)
        bed_random_op(b);
    memcpy(before, b->nodes, sizeof(before));
    members = b->e.members;
    bed_policy(b, ops, &to);
    evict_switch(&b->e, &to);
    ck_assert_uint_eq(b->e.members + b->e.held, 0);
    ck_assert_uint_eq(b->e.member_pages + b->e.held_pages, 0);
    bed_state_free(old, old_len);
    b->e = to;
    bed_check(b);
    for (uint32_t id = 0; id < IDS; id++) {
        if (b->model[id] == ABSENT)
            continue;
        EXPECT(b->nodes[id].stamp == before[id].stamp);
        EXPECT(bed_hinted(&b->nodes[id]) == bed_hinted(&before[id]));
    }
    ck_assert_uint_eq(bed_drain(b), members);
    for (uint32_t i = 0; i < 5000; i++)
        bed_random_op(b);
    bed_check(b);
    bed_free(b);
}
END_TEST

START_TEST(a_switch_keeps_the_order_of_last_use)
{
    struct bed *b = bed_new(0, 23);
    uint8_t *old = b->state;
    size_t old_len = b->state_len;
    struct evict to;

    ck_assert_str_eq(b->e.ops->name, "lru");
    for (uint32_t id = 0; id < 64; id++)
        bed_insert(b, id);
    for (uint32_t id = 0; id < 64; id += 5)
        bed_hold(b, id);
    bed_policy(b, &evict_lru, &to);
    evict_switch(&b->e, &to);
    bed_state_free(old, old_len);
    b->e = to;
    for (uint32_t id = 0; id < 64; id += 5)
        bed_release(b, id, true);
    for (uint32_t id = 0; id < 64; id++) {
        ck_assert_uint_eq(bed_victim(b), id);
        bed_remove(b, id, EVICT_PRESSURE);
    }
    bed_free(b);
}
END_TEST

START_TEST(a_switch_keeps_hints_and_their_order)
{
    struct bed *b = bed_new(_i / policies(), 47);
    const struct evict_ops *ops = evict_by_idx((uint32_t)(_i % policies()));
    static const uint32_t order[] = {9, 4, 7, 3, 5};
    uint8_t *old = b->state;
    size_t old_len = b->state_len;
    struct evict to;

    for (uint32_t id = 0; id < 64; id++)
        bed_insert(b, id);
    bed_hold(b, 5);
    evict_hint(&b->e, 7, EVICT_HINT_IDLE);
    evict_hint(&b->e, 9, EVICT_HINT_DEAD);
    evict_hint(&b->e, 3, EVICT_HINT_IDLE);
    evict_hint(&b->e, 5, EVICT_HINT_IDLE);
    evict_hint(&b->e, 4, EVICT_HINT_DEAD);
    bed_policy(b, ops, &to);
    evict_switch(&b->e, &to);
    bed_state_free(old, old_len);
    b->e = to;
    for (uint32_t i = 0; i < countof(order); i++) {
        if (order[i] == 5)
            bed_release(b, 5, true);
        ck_assert_uint_eq(bed_victim(b), order[i]);
        bed_remove(b, order[i], EVICT_PRESSURE);
    }
    bed_free(b);
}
END_TEST

START_TEST(policies_are_found_by_name_and_have_a_doc)
{
    for (uint32_t i = 0; evict_by_idx(i); i++) {
        const struct evict_ops *ops = evict_by_idx(i);

        ck_assert_ptr_eq(evict_by_name(ops->name), ops);
        ck_assert_uint_gt(strlen(ops->doc), 10);
    }
    ck_assert_int_ge(policies(), 4);
    ck_assert_ptr_null(evict_by_name("no-such-policy"));
    ck_assert_ptr_null(evict_by_idx((uint32_t)policies()));
}
END_TEST

START_TEST(priority_makes_four_levels)
{
    static const uint8_t first[] = {0, 1, 86, 171};

    for (uint8_t level = 0; level < 4; level++) {
        struct evict_node n = {.priority = first[level]};

        ck_assert_uint_eq(evict_level(&n), level);
        n.priority = level < 3 ? (uint8_t)(first[level + 1] - 1) : 255;
        ck_assert_uint_eq(evict_level(&n), level);
    }
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("evict");
    TCase *tc = tcase_create("contract");
    int n = policies();

    tcase_add_loop_test(tc, random_operations_agree_with_a_model_of_membership,
                        0, n);
    tcase_add_loop_test(tc, every_member_drains_and_no_held_block_does, 0, n);
    tcase_add_loop_test(tc, more_blocks_than_pages_stay_within_the_state, 0, n);
    tcase_add_loop_test(tc, a_victim_stays_a_member_until_it_is_removed, 0, n);
    tcase_add_loop_test(tc, a_chain_is_evicted_from_leaf_to_root, 0, n);
    tcase_add_loop_test(
        tc, a_reference_held_between_victims_changes_no_decision, 0, n);
    tcase_add_loop_test(tc, the_same_seed_gives_the_same_victims, 0, n);
    tcase_add_loop_test(tc, shrinking_the_capacity_leaves_every_block_evictable,
                        0, n);
    tcase_add_loop_test(tc, blocks_of_high_priority_outlive_the_others, 0, n);
    tcase_add_loop_test(tc, the_state_is_within_its_documented_size, 0, n);
    tcase_add_loop_test(tc, hinted_blocks_go_first_in_the_order_of_their_hints,
                        0, n);
    tcase_add_loop_test(tc, a_hit_or_another_hint_takes_a_hint_back, 0, n);
    tcase_add_loop_test(tc, a_held_block_that_is_hinted_waits_for_its_release,
                        0, n);
    tcase_add_loop_test(tc, a_dead_chain_goes_leaf_first_up_to_the_shared_part,
                        0, n);
    tcase_add_loop_test(tc, a_switch_keeps_hints_and_their_order, 0, n * n);
    tcase_add_loop_test(tc, switching_from_any_policy_to_any_loses_no_block, 0,
                        n * n);
    tcase_add_test(tc, a_switch_keeps_the_order_of_last_use);
    tcase_add_test(tc, policies_are_found_by_name_and_have_a_doc);
    tcase_add_test(tc, priority_makes_four_levels);
    suite_add_tcase(s, tc);
    return s;
}

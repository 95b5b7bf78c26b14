/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base proto */
#include "cluster/coord.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/coord_impl.h"
#include "lib/coord_rig.h"

/* What coord.h promises, of each provider in turn; what needs several members,
 * or a disk, of those that have them. */
static const struct {
    const char *name;
    uint32_t voters;
    bool members; /* agree with each other, keep what they know */
} providers[] = {
    {"static", 1, false},
    {"raft", 1, true},
    {"raft", 3, true},
    {"raft", 5, true},
};

static struct rig *rig;

static void start(int i, uint32_t snapshot_after)
{
    struct coord_cfg cfg = {
        .provider = providers[i].name,
        .snapshot_after = snapshot_after,
        .snapshot_trailing = snapshot_after ? 2 : 0,
    };

    rig = calloc(1, sizeof *rig);
    crig_init(rig, 11, providers[i].voters, &cfg);
    crig_boot_all(rig);
    crig_run(rig, 5000);
}

static uint32_t leader(void)
{
    int l = crig_elect(rig, 10000);

    ck_assert_int_ge(l, 0);
    return (uint32_t)l;
}

static void finish(void)
{
    ck_assert_uint_eq(rig->found, 0);
    crig_fini(rig);
    free(rig);
    rig = NULL;
}

static void propose(uint32_t n)
{
    while (n--) {
        ck_assert(crig_propose(rig, leader()) != 0);
        crig_run(rig, 50);
    }
}

START_TEST(commands_are_applied_everywhere_in_one_order)
{
    start(_i, 0);
    propose(100);
    crig_run(rig, 1000);
    ck_assert_uint_eq(rig->acked, 100);
    for (uint32_t i = 0; i < rig->voter_n; i++) {
        ck_assert_uint_eq(rig->node[i].n, 100);
        ck_assert_uint_eq(rig->node[i].chain, rig->node[0].chain);
    }
    finish();
}
END_TEST

/* rig's on_done looks that it is once, and not within the propose. */
START_TEST(many_at_once_are_each_done_once_up_to_the_limit)
{
    uint64_t value;
    uint32_t l;

    start(_i, 0);
    l = leader();
    for (int i = 0; i < COORD_PROPOSALS; i++)
        ck_assert_int_eq(crig_try(rig, l, &value), OK);
    ck_assert_int_eq(crig_try(rig, l, &value), ERR_BUSY);
    ck_assert_uint_eq(rig->acked, 0);
    crig_run(rig, 20000);
    ck_assert_uint_eq(rig->acked, COORD_PROPOSALS);
    ck_assert_int_eq(crig_try(rig, l, &value), OK);
    crig_run(rig, 1000);
    finish();
}
END_TEST

static void ignore_done(void *arg, enum err e, void *answer)
{
    (void)answer;
    *(enum err *)arg = e;
}

START_TEST(a_command_beyond_the_limit_is_refused)
{
    uint8_t *big = calloc(1, COORD_COMMAND_MAX + 1);
    enum err e = OK;

    start(_i, 0);
    ck_assert_int_eq(coord_propose(rig->node[leader()].c, big,
                                   COORD_COMMAND_MAX + 1, ignore_done, &e,
                                   NULL),
                     ERR_LIMIT);
    free(big);
    finish();
}
END_TEST

START_TEST(a_close_ends_what_is_under_way)
{
    uint64_t closes;

    start(_i, 0);
    for (int i = 0; i < 5; i++)
        ck_assert(crig_propose(rig, leader()) != 0);
    closes = rig->closes;
    crig_stop(rig, leader());
    ck_assert_uint_eq(rig->closes, closes + 1);
    ck_assert_uint_eq(rig->unknown, 5);
    ck_assert_uint_eq(rig->acked, 0);
    finish();
}
END_TEST

START_TEST(the_status_names_leader_and_voters)
{
    struct coord_status s;
    uint32_t l;

    start(_i, 0);
    l = leader();
    crig_run(rig, 1000);
    for (uint32_t i = 0; i < rig->voter_n; i++) {
        coord_status(rig->node[i].c, &s);
        ck_assert_str_eq(s.provider, providers[_i].name);
        ck_assert_uint_eq(s.leader, 101 + l);
        ck_assert_uint_eq(coord_leader(rig->node[i].c), 101 + l);
        ck_assert_int_eq(s.role, i == l ? COORD_LEADER : COORD_FOLLOWER);
        ck_assert_int_eq(coord_role(rig->node[i].c), s.role);
        ck_assert_uint_eq(s.voter_n, rig->voter_n);
        ck_assert_str_eq(s.voters[0].name, "n0");
        ck_assert_str_eq(s.voters[0].peer, "10.0.0.0:1");
    }
    finish();
}
END_TEST

START_TEST(an_unknown_provider_is_refused)
{
    struct coord_cfg cfg = {.provider = "raffle"};
    struct coord_events ev = {0};
    struct coord *c;
    struct errmsg m;

    ck_assert_int_eq(coord_open(&cfg, &ev, &c, &m), ERR_CONFIG);
    ck_assert_str_eq(m.text, "no coordination provider \"raffle\"");
}
END_TEST

/* ---- Members ------------------------------------------------------------- */

START_TEST(a_restart_of_all_loses_nothing)
{
    if (!providers[_i].members)
        return;
    for (uint32_t after = 0; after < 9; after += 8) {
        start(_i, after);
        propose(30);
        crig_run(rig, 1000);
        for (uint32_t i = 0; i < rig->voter_n; i++)
            crig_stop(rig, i);
        crig_boot_all(rig);
        propose(1);
        crig_run(rig, 1000);
        for (uint32_t i = 0; i < rig->voter_n; i++) {
            ck_assert_uint_eq(rig->node[i].n, 31);
            ck_assert_uint_eq(rig->node[i].chain, rig->node[0].chain);
            ck_assert_int_eq(rig->node[i].restored > 0, after > 0);
        }
        finish();
    }
}
END_TEST

START_TEST(who_was_away_for_long_gets_a_snapshot)
{
    uint32_t restored;

    if (providers[_i].voters < 3)
        return;
    start(_i, 8);
    propose(3);
    crig_crash(rig, (leader() + 1) % rig->voter_n);
    propose(40);
    for (uint32_t i = 0; i < rig->voter_n; i++)
        if (!rig->node[i].c) {
            restored = rig->node[i].restored;
            crig_boot(rig, i);
            crig_run(rig, 10000);
            ck_assert_uint_gt(rig->node[i].restored, restored);
            ck_assert_uint_eq(rig->node[i].n, 43);
        }
    finish();
}
END_TEST

START_TEST(who_does_not_lead_says_who_does)
{
    uint64_t value;

    if (providers[_i].voters < 3)
        return;
    start(_i, 0);
    crig_run(rig, 500);
    ck_assert_int_eq(crig_try(rig, (leader() + 1) % rig->voter_n, &value),
                     ERR_WRONG_NODE);
    finish();
}
END_TEST

START_TEST(a_minority_has_no_quorum_and_the_rest_goes_on)
{
    uint64_t value, lost;
    uint32_t old, none = 0;

    if (providers[_i].voters < 3)
        return;
    start(_i, 0);
    propose(2);
    old = leader();
    none = 0xffu & ~(1u << old);
    crig_groups(rig, &none, 1);
    lost = crig_propose(rig, old);
    ck_assert(lost != 0);
    crig_run(rig, 6000);
    ck_assert_int_eq(rig->state_of[lost], VALUE_FAILED);
    ck_assert_int_eq(crig_try(rig, old, &value), ERR_NO_QUORUM);
    ck_assert_uint_ne(leader(), old);
    propose(1);
    ck_assert_uint_eq(rig->acked, 3);
    crig_settle(rig, 5000);
    ck_assert_uint_eq(rig->index_of[lost], 0);
    finish();
}
END_TEST

static enum err transfer(uint32_t from, uint64_t to)
{
    enum err e = ERR_INTERNAL, now;

    now = coord_transfer(rig->node[from].c, to, ignore_done, &e);
    crig_run(rig, 3000);
    return now == OK ? e : now;
}

START_TEST(leadership_is_handed_over)
{
    uint32_t old, to;

    if (providers[_i].voters < 3) {
        start(_i, 0);
        ck_assert_int_ne(transfer(0, 0), OK);
        finish();
        return;
    }
    start(_i, 0);
    propose(3);
    old = leader();
    to = (old + 1) % rig->voter_n;
    ck_assert_int_eq(transfer(to, 0), ERR_WRONG_NODE);
    ck_assert_int_eq(transfer(old, 999), ERR_BAD_REQUEST);
    ck_assert_int_eq(transfer(old, 101 + to), OK);
    ck_assert_uint_eq(leader(), to);
    ck_assert_int_eq(transfer(to, 0), OK);
    ck_assert_uint_ne(leader(), to);
    propose(3);
    finish();
}
END_TEST

START_TEST(voters_come_and_go)
{
    struct coord_status s;
    uint32_t fresh, gone;

    if (!providers[_i].members) {
        start(_i, 0);
        ck_assert(!crig_add(rig, 0, 5));
        ck_assert(!crig_remove(rig, 0, 0));
        finish();
        return;
    }
    start(_i, 8);
    propose(20);
    fresh = rig->voter_n;
    crig_boot(rig, fresh);
    ck_assert(crig_add(rig, leader(), fresh));
    ck_assert(!crig_add(rig, leader(), fresh + 1)); /* one at a time */
    crig_run(rig, 10000);
    ck_assert(rig->change_done);
    ck_assert_int_eq(rig->change_err, OK);
    ck_assert_uint_eq(rig->node[fresh].n, 20);
    gone = (leader() + 1) % rig->voter_n;
    if (rig->voter_n > 1) {
        ck_assert(!crig_remove(rig, leader(), leader()));
        ck_assert(crig_remove(rig, leader(), gone));
        crig_run(rig, 3000);
        ck_assert(rig->change_done);
        ck_assert_int_eq(rig->change_err, OK);
        crig_stop(rig, gone);
    }
    propose(5);
    crig_run(rig, 1000);
    coord_status(rig->node[leader()].c, &s);
    ck_assert_uint_eq(s.voter_n, rig->voter_n + (rig->voter_n == 1));
    ck_assert_uint_eq(rig->node[fresh].n, 25);
    finish();
}
END_TEST

START_TEST(a_voter_that_never_comes_is_given_up)
{
    if (providers[_i].voters < 3)
        return;
    start(_i, 0);
    propose(1);
    ck_assert(crig_add(rig, leader(), rig->voter_n)); /* not booted */
    crig_run(rig, 20000);
    ck_assert(rig->change_done);
    ck_assert_int_ne(rig->change_err, OK);
    propose(1);
    crig_boot(rig, rig->voter_n);
    ck_assert(crig_add(rig, leader(), rig->voter_n));
    crig_run(rig, 10000);
    ck_assert_int_eq(rig->change_err, OK);
    finish();
}
END_TEST

START_TEST(a_disk_that_fails_is_fatal_and_done_says_so)
{
    uint64_t value;

    if (!providers[_i].members)
        return;
    start(_i, 0);
    propose(1);
    for (uint32_t i = 0; i < rig->voter_n; i++) {
        rig->node[i].faulty = true;
        rig->w.node[i].fail_in = 0;
    }
    value = crig_propose(rig, leader());
    ck_assert(value != 0);
    crig_run(rig, 100);
    ck_assert_int_eq(rig->state_of[value], VALUE_FAILED);
    ck_assert_uint_ge(rig->closes, 1); /* rig closes who told it */
    crig_settle(rig, 5000);
    finish();
}
END_TEST

/* Two of three are lost for good; the operator says so. */
START_TEST(one_voter_goes_on_alone_when_it_is_told_to)
{
    uint32_t fresh = RAFT_MEM_NODES - 1;
    struct coord_status s;

    if (providers[_i].voters < 3)
        return;
    start(_i, 8);
    propose(20);
    crig_run(rig, 1000);
    for (uint32_t i = 0; i < rig->voter_n; i++)
        crig_stop(rig, i);
    rig->cfg.recover = true;
    crig_boot(rig, 1);
    rig->cfg.recover = false;
    propose(3);
    ck_assert_uint_eq(rig->node[1].n, 23);
    coord_status(rig->node[1].c, &s);
    ck_assert_uint_eq(s.voter_n, 1);
    crig_boot(rig, fresh);
    ck_assert(crig_add(rig, 1, fresh));
    crig_run(rig, 10000);
    ck_assert_int_eq(rig->change_err, OK);
    ck_assert_uint_eq(rig->node[fresh].n, 23);
    finish();
}
END_TEST

static void all_faulty(void)
{
    for (uint32_t i = 0; i < rig->voter_n; i++)
        rig->node[i].faulty = true;
}

START_TEST(want_of_memory_loses_nothing)
{
    uint32_t hit = 0;

    for (uint32_t nth = 1; nth < 400; nth += 1 + nth / 16) {
        uint64_t value;
        uint32_t l;

        start(_i, 8);
        propose(5);
        l = leader();
        all_faulty();
        fault_arm(nth);
        for (int i = 0; i < 4; i++) {
            enum err e = rig->node[l].c ? crig_try(rig, l, &value) : ERR_IO;

            ck_assert(e == OK || e == ERR_NO_MEMORY || e == ERR_IO ||
                      e == ERR_NO_QUORUM);
            crig_run(rig, 100);
        }
        hit += fault_hit();
        fault_arm(0);
        if (providers[_i].members)
            crig_settle(rig, 10000);
        finish();
    }
    ck_assert_uint_gt(hit, 0);
}
END_TEST

START_TEST(an_open_without_memory_is_refused)
{
    bool again = true;

    start(_i, 8);
    propose(20);
    for (uint32_t nth = 1; again; nth++) {
        crig_stop(rig, 0);
        fault_arm(nth);
        crig_boot(rig, 0);
        again = fault_hit();
        fault_arm(0);
        /* Or it is open, and ends because its first write had no memory. */
        ck_assert(again || rig->node[0].c);
        ck_assert(rig->node[0].c || rig->found == RIG_UNAVAILABLE);
        rig->found = 0;
        if (!rig->node[0].c)
            crig_boot(rig, 0);
    }
    finish();
}
END_TEST

START_TEST(a_voter_listed_twice_is_refused)
{
    struct coord_voter v[2] = {{.id = 101, .name = "a"},
                               {.id = 101, .name = "b"}};
    struct coord_cfg cfg = {
        .provider = "raft", .self = 101, .voters = v, .voter_n = 2};
    struct coord_events ev = {0};
    struct raft_mem *w = calloc(1, sizeof *w);
    struct coord *c;
    struct errmsg m;

    raft_mem_init(w, 1, NULL, NULL);
    cfg.io = raft_mem_boot(w, 0);
    ck_assert_int_eq(coord_open(&cfg, &ev, &c, &m), ERR_CONFIG);
    ck_assert_str_eq(m.text, "a voter is listed twice");
    raft_mem_fini(w);
    free(w);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("coord");
    TCase *t = tcase_create("providers");
    int n = (int)countof(providers);

    tcase_add_test(t, an_unknown_provider_is_refused);
    tcase_add_test(t, a_voter_listed_twice_is_refused);
    tcase_add_loop_test(t, commands_are_applied_everywhere_in_one_order, 0, n);
    tcase_add_loop_test(t, many_at_once_are_each_done_once_up_to_the_limit, 0,
                        n);
    tcase_add_loop_test(t, a_command_beyond_the_limit_is_refused, 0, n);
    tcase_add_loop_test(t, a_close_ends_what_is_under_way, 0, n);
    tcase_add_loop_test(t, the_status_names_leader_and_voters, 0, n);
    tcase_add_loop_test(t, a_restart_of_all_loses_nothing, 0, n);
    tcase_add_loop_test(t, who_was_away_for_long_gets_a_snapshot, 0, n);
    tcase_add_loop_test(t, who_does_not_lead_says_who_does, 0, n);
    tcase_add_loop_test(t, a_minority_has_no_quorum_and_the_rest_goes_on, 0, n);
    tcase_add_loop_test(t, leadership_is_handed_over, 0, n);
    tcase_add_loop_test(t, voters_come_and_go, 0, n);
    tcase_add_loop_test(t, a_voter_that_never_comes_is_given_up, 0, n);
    tcase_add_loop_test(t, a_disk_that_fails_is_fatal_and_done_says_so, 0, n);
    tcase_add_loop_test(t, one_voter_goes_on_alone_when_it_is_told_to, 0, n);
    tcase_add_loop_test(t, want_of_memory_loses_nothing, 0, n);
    tcase_add_loop_test(t, an_open_without_memory_is_refused, 0, n);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}

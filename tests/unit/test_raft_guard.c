/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base proto */
#include "cluster/coord_raft.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/coord_rig.h"

static struct rig *rig;

static void start(uint32_t voters, bool unguarded, uint32_t snapshot_after)
{
    struct coord_cfg cfg = {
        .provider = "raft",
        .unguarded = unguarded,
        .snapshot_after = snapshot_after,
        .snapshot_trailing = snapshot_after ? 1 : 0,
    };

    rig = calloc(1, sizeof *rig);
    crig_init(rig, 7, voters, &cfg);
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        rig->w.node[i].steady = true;
    crig_boot_all(rig);
}

static void finish(void)
{
    crig_fini(rig);
    free(rig);
    rig = NULL;
}

static void together(uint32_t mask)
{
    crig_groups(rig, &mask, 1);
}

static struct raft *raft_at(uint32_t node)
{
    return &container_of(rig->node[node].c, struct coord_raft, coord)->raft;
}

/* Only the time of one is ever up, and nobody knows of a leader. */
static void hold_back(uint32_t mask, uint32_t one)
{
    for (uint32_t i = 0; i < rig->voter_n; i++) {
        struct raft *r = rig->node[i].c ? raft_at(i) : NULL;

        if (!r || !(mask >> i & 1) || i == one || r->state == RAFT_LEADER)
            continue;
        r->election_timer_start = rig->w.now_ms;
        if (r->state == RAFT_FOLLOWER)
            r->follower_state.current_leader.id = 0;
    }
}

static bool elect_if_it_can(uint32_t mask, uint32_t one)
{
    uint64_t end = rig->w.now_ms + 20000;

    together(0);
    crig_run(rig, 3000); /* whoever led has noticed */
    together(mask);
    while (crig_leader(rig) != (int)one) {
        hold_back(mask, one);
        if (!crig_step(rig, end))
            return false;
    }
    return true;
}

static void elect(uint32_t mask, uint32_t one)
{
    ck_assert(elect_if_it_can(mask, one));
}

static void until_commit(uint32_t node, uint64_t index)
{
    uint64_t end = rig->w.now_ms + 20000;

    while (crig_commit(rig, node) < index)
        ck_assert(crig_step(rig, end));
}

static void propose(uint32_t node, uint32_t n)
{
    while (n--) {
        ck_assert(crig_propose(rig, node) != 0);
        crig_run(rig, 100);
    }
}

enum { S1 = 1, S2 = 2, S3 = 4, S4 = 8, S5 = 16, ALL = 255 };

/* Raft's figure 8, as CLUSTER.md 1.3 tells it. */
static unsigned figure_8(bool unguarded)
{
    unsigned found;

    start(5, unguarded, 0);
    elect(ALL, 0);
    crig_run(rig, 500);
    together(S1 | S2);
    ck_assert(crig_propose(rig, 0) != 0);
    crig_run(rig, 100);
    together(0);
    elect(S3 | S4 | S5, 4);
    together(0);
    ck_assert(crig_propose(rig, 4) != 0);
    crig_run(rig, 100);
    crig_crash(rig, 4);
    elect(S1 | S2 | S3, 0);
    until_commit(0, crig_commit(rig, 0) + 1);
    crig_crash(rig, 0);
    crig_boot(rig, 4);
    elect_if_it_can(S2 | S3 | S4 | S5, 4);
    crig_run(rig, 5000);
    crig_boot(rig, 0);
    if (!rig->found)
        crig_settle(rig, 20000);
    found = rig->found;
    finish();
    return found;
}

START_TEST(without_the_guard_figure_8_diverges)
{
    ck_assert(figure_8(true) & RIG_DIVERGED);
}
END_TEST

START_TEST(with_the_guard_figure_8_is_well)
{
    ck_assert_uint_eq(figure_8(false), 0);
}
END_TEST

START_TEST(a_leader_whose_write_fails_ends_and_another_leads)
{
    start(3, false, 0);
    elect(ALL, 0);
    propose(0, 2);
    rig->node[0].faulty = true;
    rig->w.node[0].fail_in = 0;
    ck_assert(crig_propose(rig, 0) != 0);
    ck_assert(crig_propose(rig, 0) != 0);
    crig_run(rig, 100);
    ck_assert_ptr_null(rig->node[0].c);
    crig_run(rig, 5000);
    ck_assert_int_gt(crig_leader(rig), 0);
    crig_settle(rig, 5000);
    ck_assert_uint_eq(rig->found, 0);
    finish();
}
END_TEST

/* The nth write of a follower's election, or of a vote. */
START_TEST(no_failing_write_does_more_than_end_its_node)
{
    for (int n = 0; n < 12; n++) {
        start(3, false, 4);
        elect(ALL, 0);
        propose(0, 6);
        for (uint32_t i = 0; i < 3; i++) {
            rig->node[i].faulty = true;
            rig->w.node[i].fail_in = (n + (int32_t)i * 3) % 12;
        }
        crig_crash(rig, 0);
        crig_run(rig, 8000);
        crig_boot(rig, 0);
        for (uint32_t i = 0; i < 3; i++)
            if (rig->node[i].role == COORD_LEADER)
                (void)crig_propose(rig, i);
        crig_settle(rig, 20000);
        ck_assert_uint_eq(rig->found, 0);
        finish();
    }
}
END_TEST

static uint32_t voters_of(uint32_t node)
{
    struct coord_status s;

    coord_status(rig->node[node].c, &s);
    return s.voter_n;
}

/* The configuration's entry is in no log any more when what changed it is cut
 * off: libraft alone aborts. */
static void change_cut_off(bool restart)
{
    start(3, false, 4);
    elect(ALL, 0);
    propose(0, 12);
    together(S1);
    ck_assert(crig_remove(rig, 0, 2));
    crig_run(rig, 100);
    ck_assert_uint_eq(voters_of(0), 2);
    if (restart) {
        crig_crash(rig, 0);
        crig_boot(rig, 0);
        ck_assert_uint_eq(voters_of(0), 2);
    }
    elect(S2 | S3, 1);
    propose(1, 1);
    together(ALL);
    crig_run(rig, 3000);
    ck_assert_uint_eq(voters_of(0), 3);
    crig_settle(rig, 5000);
    ck_assert_uint_eq(rig->found, 0);
    finish();
}

START_TEST(a_change_of_voters_that_is_cut_off_is_taken_back)
{
    change_cut_off(false);
}
END_TEST

START_TEST(also_if_the_node_was_restarted_in_between)
{
    change_cut_off(true);
}
END_TEST

/* ---- Node 0 alone, the other two are played ------------------------------ */

static void say(uint64_t from, struct raft_message m)
{
    struct bytes b = {0};

    m.server_id = 101;
    ck_assert_int_eq(coord_raft_pack(from, &m, &b), OK);
    coord_receive(rig->node[0].c, from, b.p, b.len);
    bytes_fini(&b);
    crig_run(rig, 50);
}

static void say_entries(uint64_t from, raft_term term, raft_index prev,
                        raft_term prev_term, unsigned n, raft_index commit)
{
    uint64_t command[8][2];
    struct raft_entry e[8] = {0};

    for (unsigned i = 0; i < n; i++) {
        command[i][0] = 8;
        command[i][1] = 1000 * term + prev + i;
        e[i].term = term;
        e[i].type = RAFT_COMMAND;
        e[i].buf = (struct raft_buffer){command[i], sizeof command[i]};
    }
    say(from,
        (struct raft_message){.type = RAFT_IO_APPEND_ENTRIES,
                              .append_entries = {.term = term,
                                                 .prev_log_index = prev,
                                                 .prev_log_term = prev_term,
                                                 .leader_commit = commit,
                                                 .entries = n ? e : NULL,
                                                 .n_entries = n}});
}

static void say_snapshot(uint64_t from, raft_term term, raft_index last,
                         raft_term last_term)
{
    struct raft_message m = {.type = RAFT_IO_INSTALL_SNAPSHOT};
    uint64_t state[3] = {0};

    m.install_snapshot.term = term;
    m.install_snapshot.last_index = last;
    m.install_snapshot.last_term = last_term;
    m.install_snapshot.conf_index = 1;
    m.install_snapshot.data = (struct raft_buffer){state, sizeof state};
    raft_configuration_init(&m.install_snapshot.conf);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(
            raft_configuration_add(&m.install_snapshot.conf, rig->voters[i].id,
                                   rig->voters[i].name, RAFT_VOTER),
            0);
    say(from, m);
    raft_configuration_close(&m.install_snapshot.conf);
}

static void start_alone(bool unguarded)
{
    start(3, unguarded, 0);
    crig_crash(rig, 1);
    crig_crash(rig, 2);
}

START_TEST(a_snapshot_replaces_what_contradicts_it)
{
    for (int unguarded = 0; unguarded < 2; unguarded++) {
        start_alone(unguarded);
        say_entries(102, 5, 1, 1, 3, 1);
        ck_assert_uint_eq(raft_log_last(raft_at(0)), 4);
        say_snapshot(103, 7, 3, 4);
        say_entries(103, 7, 3, 4, 2, 4);
        /* Unguarded: it has an entry 3 of term 5 and is content with it. */
        ck_assert_uint_eq(rig->node[0].restored, !unguarded);
        ck_assert_uint_eq(raft_at(0)->commit_index, unguarded ? 1 : 4);
        if (!unguarded)
            ck_assert_uint_eq(raft_log_term(raft_at(0), 3), 4);
        if (!unguarded)
            ck_assert_uint_eq(rig->w.node[0].disk.snapshot.term, 4);
        finish();
    }
}
END_TEST

START_TEST(a_commit_beyond_the_message_is_not_believed)
{
    start_alone(false);
    say_entries(102, 5, 1, 1, 4, 1); /* 2 to 5, a stale suffix */
    say_entries(103, 7, 3, 5, 0, 5); /* proves only 3 */
    ck_assert_uint_eq(raft_at(0)->commit_index, 3);
    finish();
    start_alone(true);
    say_entries(102, 5, 1, 1, 4, 1);
    say_entries(103, 7, 3, 5, 0, 5);
    ck_assert_uint_eq(raft_at(0)->commit_index, 5);
    finish();
}
END_TEST

START_TEST(a_message_from_before_the_log_is_cut_to_it)
{
    start_alone(false);
    say_snapshot(103, 7, 10, 6);
    ck_assert_uint_eq(raft_at(0)->commit_index, 10);
    say_entries(103, 7, 8, 6, 5, 13);
    ck_assert_uint_eq(raft_at(0)->commit_index, 13);
    ck_assert_uint_eq(raft_log_last(raft_at(0)), 13);
    say_entries(103, 7, 0, 0, 3, 13); /* an old one: nothing new */
    ck_assert_uint_eq(raft_log_last(raft_at(0)), 13);
    ck_assert_uint_eq(rig->found & RIG_UNAVAILABLE, 0);
    finish();
}
END_TEST

/* Only the leader knows that node 1 votes, and needs its vote to say so. */
START_TEST(a_voter_that_does_not_know_it_yet_votes)
{
    uint64_t end;

    start(1, false, 0);
    crig_run(rig, 500);
    crig_boot(rig, 1);
    ck_assert(crig_add(rig, 0, 1));
    end = rig->w.now_ms + 20000;
    while (voters_of(0) < 2)
        ck_assert(crig_step(rig, end));
    together(0);
    crig_run(rig, 100);
    crig_crash(rig, 0);
    crig_boot(rig, 0);
    ck_assert_uint_eq(voters_of(0), 2);
    ck_assert_uint_eq(voters_of(1), 1);
    together(ALL);
    crig_run(rig, 5000);
    ck_assert_uint_eq(voters_of(1), 2);
    crig_settle(rig, 5000);
    ck_assert_uint_eq(rig->found, 0);
    finish();
}
END_TEST

/* Node 1, joining, has an entry that node 0, alone, sent and lost. */
static unsigned alone_and_forgetful(bool unguarded)
{
    unsigned found;
    uint32_t n;

    start(1, unguarded, 0);
    crig_run(rig, 500);
    crig_boot(rig, 1);
    rig->w.node[1].net_ms = 900; /* catching up takes its time */
    ck_assert(crig_add(rig, 0, 1));
    crig_run(rig, 1500);
    rig->w.node[0].disk_ms = 1000;
    n = rig->w.node[0].disk.n;
    ck_assert(crig_propose(rig, 0) != 0);
    crig_run(rig, 300);
    rig->w.node[0].forgetful = true;
    rig->w.node[0].disk_ms = 10;
    crig_crash(rig, 0);
    crig_boot(rig, 0);
    ck_assert_uint_eq(rig->w.node[0].disk.n, n);
    rig->w.node[1].net_ms = 10;
    (void)crig_propose(rig, 0);
    crig_run(rig, 1000);
    for (int i = 0; i < 5 && voters_of(0) < 2; i++) {
        (void)crig_add(rig, 0, 1);
        crig_run(rig, 2000);
    }
    ck_assert_uint_eq(voters_of(0), 2);
    (void)crig_propose(rig, 0);
    crig_run(rig, 3000);
    found = rig->found;
    finish();
    return found;
}

START_TEST(the_only_voter_never_leads_twice_in_a_term)
{
    ck_assert(alone_and_forgetful(true) & RIG_DIVERGED);
    ck_assert_uint_eq(alone_and_forgetful(false), 0);
}
END_TEST

START_TEST(a_configuration_is_read_as_it_was_written)
{
    struct raft_configuration a, b;
    struct raft_buffer buf;

    raft_configuration_init(&a);
    raft_configuration_init(&b);
    ck_assert_int_eq(raft_configuration_add(&a, 5, "x 1.2.3.4:5", 1), 0);
    ck_assert_int_eq(raft_configuration_add(&a, 9, "y", RAFT_SPARE), 0);
    ck_assert_int_eq(raft_configuration_encode(&a, &buf), 0);
    ck_assert(raft_conf_decode(buf.base, buf.len, &b));
    ck_assert_uint_eq(b.n, 2);
    ck_assert_uint_eq(b.servers[0].id, 5);
    ck_assert_str_eq(b.servers[0].address, "x 1.2.3.4:5");
    ck_assert_int_eq(b.servers[1].role, RAFT_SPARE);
    raft_configuration_close(&a);
    raft_configuration_close(&b);
    raft_free(buf.base);
}
END_TEST

START_TEST(a_configuration_that_is_cut_is_refused)
{
    struct raft_configuration a, b;
    struct raft_buffer buf;

    raft_configuration_init(&a);
    ck_assert_int_eq(raft_configuration_add(&a, 5, "x 1.2.3.4:5", 1), 0);
    ck_assert_int_eq(raft_configuration_add(&a, 9, "y", RAFT_SPARE), 0);
    ck_assert_int_eq(raft_configuration_encode(&a, &buf), 0);
    for (size_t n = 0; n < 9 + 21 + 10; n++) {
        uint8_t *copy = malloc(n + 1); /* so that ASan sees an overrun */

        raft_configuration_init(&b);
        memcpy(copy, buf.base, n);
        ck_assert(!raft_conf_decode(copy, n, &b));
        ck_assert_uint_eq(b.n, 0);
        free(copy);
    }
    for (size_t i = 0; i < buf.len * 8; i++) {
        ((uint8_t *)buf.base)[i / 8] ^= (uint8_t)(1 << i % 8);
        raft_configuration_init(&b);
        if (raft_conf_decode(buf.base, buf.len, &b))
            ck_assert_uint_le(b.n, 3);
        raft_configuration_close(&b);
        ((uint8_t *)buf.base)[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    raft_configuration_close(&a);
    raft_free(buf.base);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("raft_guard");
    TCase *t = tcase_create("guard");

    tcase_add_test(t, without_the_guard_figure_8_diverges);
    tcase_add_test(t, with_the_guard_figure_8_is_well);
    tcase_add_test(t, a_leader_whose_write_fails_ends_and_another_leads);
    tcase_add_test(t, no_failing_write_does_more_than_end_its_node);
    tcase_add_test(t, a_change_of_voters_that_is_cut_off_is_taken_back);
    tcase_add_test(t, also_if_the_node_was_restarted_in_between);
    tcase_add_test(t, a_snapshot_replaces_what_contradicts_it);
    tcase_add_test(t, a_commit_beyond_the_message_is_not_believed);
    tcase_add_test(t, a_message_from_before_the_log_is_cut_to_it);
    tcase_add_test(t, a_voter_that_does_not_know_it_yet_votes);
    tcase_add_test(t, the_only_voter_never_leads_twice_in_a_term);
    tcase_add_test(t, a_configuration_is_read_as_it_was_written);
    tcase_add_test(t, a_configuration_that_is_cut_is_refused);
    suite_add_tcase(s, t);
    return s;
}

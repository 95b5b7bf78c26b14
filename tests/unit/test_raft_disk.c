/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server cluster base proto */
#include "server/raft_disk.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/coord.h"

/* Real files and a real loop: a few voters of one process, their messages
 * handed over by the loop's next turn. */
enum { VOTERS = 3, COMMANDS = 64 };

static const char *const bases[] = {"/tmp", "/dev/shm"};

struct letter {
    uint32_t to;
    uint64_t from;
    size_t n;
    uint8_t *p;
};

struct host {
    uint32_t at;
    struct raft_disk disk;
    struct coord *c;
    bool closed;
    uint64_t applied[COMMANDS];
    uint32_t n, restored;
};

static uv_loop_t loop;
static char base[64], dirs[VOTERS][80];
static struct host hosts[VOTERS];
static struct coord_voter voters[VOTERS];
static struct letter letters[4096];
static uint32_t letter_n, voter_n, done_n, fatal_n;

static void on_apply(void *arg, uint64_t index, const uint8_t *p, size_t n,
                     void *answer)
{
    struct host *h = arg;

    (void)index;
    (void)answer;
    ck_assert_uint_eq(n, 8);
    ck_assert_uint_lt(h->n, COMMANDS);
    memcpy(&h->applied[h->n++], p, n);
}

static enum err on_snapshot(void *arg, uint8_t **p_out, size_t *n_out)
{
    struct host *h = arg;

    *n_out = h->n * sizeof *h->applied;
    *p_out = malloc(*n_out);
    memcpy(*p_out, h->applied, *n_out);
    return OK;
}

static enum err on_restore(void *arg, uint64_t index, const uint8_t *p,
                           size_t n)
{
    struct host *h = arg;

    (void)index;
    memcpy(h->applied, p, n);
    h->n = (uint32_t)(n / sizeof *h->applied);
    h->restored++;
    return OK;
}

static void on_role(void *arg, enum coord_role role, uint64_t term)
{
    (void)arg;
    (void)role;
    (void)term;
}

static void on_send(void *arg, uint64_t to, const uint8_t *p, size_t n)
{
    struct host *h = arg;
    struct letter *l = &letters[letter_n];

    if (letter_n == sizeof letters / sizeof *letters || to - 101 >= VOTERS)
        return;
    *l = (struct letter){(uint32_t)(to - 101), 101 + h->at, n, malloc(n)};
    memcpy(l->p, p, n);
    letter_n++;
}

static void on_fatal(void *arg, const char *why)
{
    (void)arg;
    (void)why;
    fatal_n++;
}

static void deliver(void)
{
    uint32_t n = letter_n;

    for (uint32_t i = 0; i < n; i++) {
        struct letter l = letters[i];

        if (hosts[l.to].c)
            coord_receive(hosts[l.to].c, l.from, l.p, l.n);
        free(l.p);
    }
    memmove(letters, letters + n, (letter_n - n) * sizeof *letters);
    letter_n -= n;
}

static void turn(void)
{
    deliver();
    uv_run(&loop, UV_RUN_ONCE);
}

static enum err boot(uint32_t i, uint32_t snapshot_after, struct errmsg *m)
{
    struct host *h = &hosts[i];
    struct coord_cfg cfg = {
        .provider = "raft",
        .self = 101 + i,
        .voters = voters,
        .voter_n = voter_n,
        .io = &h->disk.io,
        .snapshot_after = snapshot_after,
        .snapshot_trailing = snapshot_after ? 2 : 0,
    };
    const struct coord_events ev = {on_apply, on_snapshot, on_restore, on_role,
                                    on_send,  on_fatal,    h};
    enum err e;

    *h = (struct host){.at = i};
    e = raft_disk_open(&h->disk, &loop, dirs[i], m);
    if (e != OK)
        return e;
    e = coord_open(&cfg, &ev, &h->c, m);
    if (e != OK)
        raft_disk_failed(&h->disk, &loop);
    return e;
}

static void boot_all(uint32_t snapshot_after)
{
    struct errmsg m = {""};

    for (uint32_t i = 0; i < voter_n; i++)
        ck_assert_msg(boot(i, snapshot_after, &m) == OK, "%s", m.text);
}

static void on_closed(void *arg)
{
    struct host *h = arg;

    h->closed = true;
    raft_disk_close(&h->disk);
}

static void stop_all(void)
{
    for (uint32_t i = 0; i < voter_n; i++) {
        if (!hosts[i].c)
            continue;
        coord_close(hosts[i].c, on_closed, &hosts[i]);
        while (!hosts[i].closed)
            turn();
        hosts[i].c = NULL;
    }
}

static void start(uint32_t n, const char *under)
{
    snprintf(base, sizeof base, "%s/pikv-raft-XXXXXX", under);
    ck_assert_ptr_nonnull(mkdtemp(base));
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    voter_n = n;
    letter_n = done_n = fatal_n = 0;
    for (uint32_t i = 0; i < VOTERS; i++) {
        snprintf(dirs[i], sizeof dirs[i], "%s/%u", base, i);
        voters[i] = (struct coord_voter){.id = 101 + i};
        snprintf(voters[i].name, sizeof voters[i].name, "n%u", i);
    }
}

static void remove_dir(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    char inner[512];

    while (d && (e = readdir(d))) {
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            unlink(inner);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static void finish(void)
{
    stop_all();
    while (letter_n)
        free(letters[--letter_n].p);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    for (uint32_t i = 0; i < VOTERS; i++)
        remove_dir(dirs[i]);
    rmdir(base);
    ck_assert_uint_eq(fatal_n, 0);
}

static void on_done(void *arg, enum err e, void *answer)
{
    (void)arg;
    (void)answer;
    ck_assert_int_eq(e, OK);
    done_n++;
}

static void on_ended(void *arg, enum err e, void *answer)
{
    uint32_t *n = arg;

    (void)answer;
    ck_assert_int_eq(e, ERR_CANCELED);
    (*n)++;
}

/* Proposes wherever it is taken, until it is done. */
static void commit(uint64_t value)
{
    uint32_t before = done_n;
    bool asked = false;

    while (done_n == before) {
        for (uint32_t i = 0; i < voter_n && !asked; i++)
            asked = hosts[i].c && coord_propose(hosts[i].c, (void *)&value, 8,
                                                on_done, NULL, NULL) == OK;
        turn();
    }
}

START_TEST(one_voter_commits_and_a_restart_brings_it_back)
{
    for (uint32_t after = 0; after <= 8; after += 8) {
        start(1, bases[_i]);
        boot_all(after);
        for (uint64_t v = 1; v <= 20; v++)
            commit(v);
        for (int life = 0; life < 3; life++) {
            stop_all();
            boot_all(after);
            commit(21 + (uint64_t)life);
            ck_assert_uint_eq(hosts[0].n, 21 + (uint32_t)life);
            for (uint64_t v = 1; v <= hosts[0].n; v++)
                ck_assert_uint_eq(hosts[0].applied[v - 1], v);
            ck_assert_uint_eq(hosts[0].restored, after > 0);
        }
        finish();
    }
}
END_TEST

START_TEST(three_voters_commit_and_come_back)
{
    start(3, bases[_i]);
    boot_all(8);
    for (uint64_t v = 1; v <= 30; v++)
        commit(v);
    stop_all();
    boot_all(8);
    commit(31);
    for (uint32_t i = 0; i < 3; i++) {
        while (hosts[i].n < 31)
            turn();
        for (uint64_t v = 1; v <= 31; v++)
            ck_assert_uint_eq(hosts[i].applied[v - 1], v);
    }
    finish();
}
END_TEST

START_TEST(a_close_with_proposals_under_way_ends)
{
    uint64_t v = 7;
    uint32_t ended = 0;

    start(1, bases[_i]);
    boot_all(0);
    commit(1);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(
            coord_propose(hosts[0].c, (void *)&v, 8, on_ended, &ended, NULL),
            OK);
    stop_all();
    ck_assert_uint_eq(ended, 10);
    finish();
}
END_TEST

static void put_file(const char *name, const void *p, size_t n)
{
    char path[160];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dirs[0], name);
    f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(p, 1, n, f), n);
    fclose(f);
}

START_TEST(a_first_start_that_was_cut_off_begins_anew)
{
    const uint64_t half[4] = {1, 1, 1, 0};

    start(1, bases[_i]);
    ck_assert_int_eq(mkdir(dirs[0], 0700), 0);
    put_file("metadata1", half, sizeof half);
    boot_all(0);
    commit(1);
    ck_assert_uint_eq(hosts[0].n, 1);
    finish();
}
END_TEST

/* Who voted without ever having had an entry keeps its vote. */
START_TEST(a_directory_with_a_vote_is_left_alone)
{
    const uint64_t voted[4] = {1, 2, 1, 102};
    struct coord_status s;

    start(1, bases[_i]);
    ck_assert_int_eq(mkdir(dirs[0], 0700), 0);
    put_file("metadata1", voted, sizeof voted);
    boot_all(0);
    coord_status(hosts[0].c, &s);
    ck_assert_uint_eq(s.term, 1);
    ck_assert_uint_eq(s.voter_n, 0);
    finish();
}
END_TEST

START_TEST(what_is_no_directory_is_refused)
{
    struct errmsg m;

    start(1, bases[_i]);
    snprintf(dirs[0], sizeof dirs[0], "%s/no/such", base);
    ck_assert_int_eq(boot(0, 0, &m), ERR_CONFIG);
    snprintf(dirs[0], sizeof dirs[0], "%s/file", base);
    fclose(fopen(dirs[0], "w"));
    ck_assert_int_eq(boot(0, 0, &m), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(m.text, "not a directory"));
    unlink(dirs[0]);
    finish();
}
END_TEST

START_TEST(a_log_that_cannot_be_read_is_refused)
{
    const uint64_t torn[4] = {1, 3, 2, 0};
    struct errmsg m = {""};

    start(1, bases[_i]);
    ck_assert_int_eq(mkdir(dirs[0], 0700), 0);
    put_file("metadata1", torn, sizeof torn);
    put_file("0000000000000005-0000000000000006", torn, sizeof torn);
    ck_assert_int_eq(boot(0, 0, &m), ERR_IO);
    ck_assert_uint_gt(strlen(m.text), 0);
    finish();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("raft_disk");
    TCase *t = tcase_create("files");

    tcase_set_timeout(t, 60); /* real disks, and elections of a second */
    tcase_add_loop_test(t, one_voter_commits_and_a_restart_brings_it_back, 0,
                        2);
    tcase_add_loop_test(t, three_voters_commit_and_come_back, 0, 2);
    tcase_add_loop_test(t, a_close_with_proposals_under_way_ends, 0, 2);
    tcase_add_loop_test(t, a_first_start_that_was_cut_off_begins_anew, 0, 2);
    tcase_add_loop_test(t, a_directory_with_a_vote_is_left_alone, 0, 2);
    tcase_add_loop_test(t, what_is_no_directory_is_refused, 0, 2);
    tcase_add_loop_test(t, a_log_that_cannot_be_read_is_refused, 0, 2);
    suite_add_tcase(s, t);
    return s;
}

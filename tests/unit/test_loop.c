/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server store rpc base proto
 *
 * The lane's thread and the control loop around a real lane, with transports
 * that only count what is done to them. Waits are for conditions, with a limit
 * that only a hang reaches. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/control.h"
#include "server/ctl_mail.h"
#include "server/files.h"
#include "server/lane.h"
#include "server/loop.h"
#include "server/loop_control.h"

enum { LANES = 2, POOL_BYTES = 16 << 20, DUE_AT_ONCE = 50 };

struct fake { /* counts are atomics: the lane's thread writes them */
    struct transport t;
    int fd;
    uint32_t progress, arms, awakes, closes, configs, got;
    uint32_t refuse; /* arm answers false while it is not 0 */
    uint64_t spin_us;
    pthread_t closer;
    struct lane *timed; /* arm starts a timer there that is due at once */
    struct timer timer;
    uint32_t fired;
};

static struct config cfg, next_cfg;
static struct unit_pool pool;
static struct unit_pool *pools[STORE_POOLS];
static void *memory;
static struct control control;
static struct lane *lanes[LANES];
static struct loop *loops[LANES];
static struct fake fakes[LANES][LANE_TRANSPORTS];
static struct errmsg msg;
static uint32_t reloads;

static uint32_t get(const uint32_t *v)
{
    return __atomic_load_n(v, __ATOMIC_ACQUIRE);
}

static void add(uint32_t *v)
{
    __atomic_add_fetch(v, 1, __ATOMIC_ACQ_REL);
}

static bool fake_progress(struct transport *t)
{
    struct fake *f = container_of(t, struct fake, t);
    uint64_t n;

    add(&f->progress);
    if (read(f->fd, &n, sizeof(n)) != sizeof(n))
        return false;
    add(&f->got);
    return true;
}

static void fake_due(struct timer *t)
{
    add(&container_of(t, struct fake, timer)->fired);
}

static bool fake_arm(struct transport *t)
{
    struct fake *f = container_of(t, struct fake, t);

    if (get(&f->refuse))
        return false;
    if (f->timed && get(&f->fired) < DUE_AT_ONCE)
        timer_start(&f->timed->timers, &f->timer, f->timed->env.now_ns,
                    fake_due);
    add(&f->arms);
    return true;
}

static void fake_awake(struct transport *t)
{
    add(&container_of(t, struct fake, t)->awakes);
}

static void fake_close(struct transport *t)
{
    struct fake *f = container_of(t, struct fake, t);

    f->closer = pthread_self();
    close(f->fd);
    add(&f->closes);
}

static void fake_config(struct transport *t, const struct config *c)
{
    struct fake *f = container_of(t, struct fake, t);

    __atomic_store_n(&f->spin_us, c->loop.spin_us, __ATOMIC_RELEASE);
    add(&f->configs);
}

static const struct tp_ops fake_ops = {.name = "fake",
                                       .progress = fake_progress,
                                       .arm = fake_arm,
                                       .awake = fake_awake};

static uint64_t counting(void *arg)
{
    static uint64_t n;

    (void)arg;
    return ++n;
}

static enum err reload_next(void *arg, struct config *out, struct errmsg *m)
{
    (void)arg;
    (void)m;
    *out = next_cfg;
    reloads++;
    return OK;
}

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void set_up(void)
{
    struct control_shell shell = {
        .random = counting, .reload = reload_next, .wall_us = 1};

    log_sink_set(quiet, NULL);
    config_defaults(&cfg);
    cfg.limits.ops_per_lane = 16;
    cfg.limits.ops_per_client = 16;
    cfg.limits.clients = 4;
    cfg.limits.unauthenticated = 4;
    cfg.drain.timeout_us = 1000;
    ck_assert_msg(config_check(&cfg, &msg) == OK, "%s", msg.text);
    next_cfg = cfg;
    reloads = 0;
    memory = mem_reserve(POOL_BYTES);
    ck_assert_ptr_nonnull(memory);
    ck_assert_int_eq(unit_pool_init(&pool, memory, POOL_BYTES, LANES), OK);
    pools[0] = &pool;
    ck_assert_int_eq(control_init(&control, &cfg, lanes, LANES, &shell), OK);
    for (uint32_t i = 0; i < LANES; i++) {
        lanes[i] = calloc(1, sizeof(*lanes[i]));
        ck_assert_int_eq(lane_init(lanes[i], &cfg, i, LANES, pools, &control),
                         OK);
    }
    memset(fakes, 0, sizeof(fakes));
}

static void tear_down(void)
{
    for (uint32_t i = 0; i < LANES; i++) {
        lane_fini(lanes[i]);
        free(lanes[i]);
    }
    control_fini(&control);
    unit_pool_fini(&pool);
    mem_release(memory, POOL_BYTES);
    log_sink_set(NULL, NULL);
}

static enum err new_loop(uint32_t i)
{
    struct loop_transport tps[LANE_TRANSPORTS];
    uint64_t seed[2] = {1, 2};

    for (uint32_t k = 0; k < LANE_TRANSPORTS; k++) {
        struct fake *f = &fakes[i][k];

        f->t.ops = &fake_ops;
        f->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        tps[k] = (struct loop_transport){&f->t, f->fd, fake_close, fake_config};
    }
    return loop_new(&loops[i], lanes[i], tps, LANE_TRANSPORTS, seed, &msg);
}

static void start(uint32_t i)
{
    ck_assert_int_eq(new_loop(i), OK);
    ck_assert_int_eq(loop_start(loops[i], &msg), OK);
}

static void end(uint32_t i)
{
    loop_stop(loops[i]);
    loop_join(loops[i]);
    loop_free(loops[i]);
    ck_assert_uint_eq(lanes[i]->transport_n, 0);
}

/* Not a measure of time: only a hang makes it fail. */
static bool wait_for(const uint32_t *v, uint32_t at_least)
{
    for (int i = 0; i < 20000; i++) {
        struct timespec ms = {0, 1000000};

        if (get(v) >= at_least)
            return true;
        nanosleep(&ms, NULL);
    }
    return false;
}

struct letter {
    struct mail mail;
    uint32_t read;
    pthread_t reader;
};

static void letter_read(struct mail *m, void *lane)
{
    struct letter *l = container_of(m, struct letter, mail);

    ck_assert_uint_eq(((struct lane *)lane)->magic, LANE_MAGIC);
    l->reader = pthread_self();
    add(&l->read);
}

static void send_letter(uint32_t lane, struct letter *l)
{
    l->mail.fn = letter_read;
    l->read = 0;
    ck_assert_int_eq(mailbox_post(&lanes[lane]->mailbox, &l->mail), OK);
    ck_assert(wait_for(&l->read, 1));
}

START_TEST(mail_wakes_a_sleeping_lane_every_time)
{
    struct letter l;

    start(0);
    for (int i = 0; i < 200; i++) {
        uint32_t arms = get(&fakes[0][0].arms);

        /* Asleep, or about to be: the next letter comes around arming. */
        ck_assert(wait_for(&fakes[0][0].arms, i % 2 ? arms : 1));
        send_letter(0, &l);
        ck_assert(!pthread_equal(l.reader, pthread_self()));
    }
    ck_assert_uint_gt(metric_get(&lanes[0]->metrics.loop_sleeps), 0);
    end(0);
}
END_TEST

START_TEST(a_readable_transport_is_progressed)
{
    uint64_t one = 1;

    start(0);
    for (uint32_t i = 1; i <= 50; i++) {
        struct fake *f = &fakes[0][i % 2];
        uint32_t got = get(&f->got);

        ck_assert_int_eq(write(f->fd, &one, sizeof(one)), sizeof(one));
        ck_assert(wait_for(&f->got, got + 1));
    }
    end(0);
}
END_TEST

START_TEST(an_idle_lane_turns_seldom)
{
    uint64_t turns;
    struct letter l;

    start(0);
    ck_assert(wait_for(&fakes[0][1].arms, 1));
    turns = metric_get(&lanes[0]->metrics.loop_turns);
    /* Sleeps, not turns, fill the time until its upkeep turns came. */
    ck_assert(wait_for(&fakes[0][1].arms, 3));
    turns = metric_get(&lanes[0]->metrics.loop_turns) - turns;
    ck_assert_uint_lt(turns, 1000);
    send_letter(0, &l);
    end(0);
}
END_TEST

/* What is due before the lane is asleep wakes it all the same: no fd, no mail
 * and no upkeep would. */
START_TEST(a_deadline_that_has_passed_wakes_the_lane)
{
    fakes[0][1].timed = lanes[0];
    start(0);
    ck_assert(wait_for(&fakes[0][1].fired, DUE_AT_ONCE));
    ck_assert(wait_for(&fakes[0][1].arms, DUE_AT_ONCE + 2));
    end(0);
}
END_TEST

START_TEST(every_arm_is_followed_by_awake)
{
    struct letter l;
    uint32_t i;

    start(0);
    for (i = 0; i < 20; i++)
        send_letter(0, &l);
    end(0);
    for (i = 0; i < LANE_TRANSPORTS; i++)
        ck_assert_uint_eq(fakes[0][i].arms, fakes[0][i].awakes);
}
END_TEST

START_TEST(a_transport_that_refuses_to_be_armed_does_not_stop_the_lane)
{
    struct letter l;

    fakes[0][1].refuse = 1;
    start(0);
    for (int i = 0; i < 20; i++)
        send_letter(0, &l);
    ck_assert(wait_for(&fakes[0][0].awakes, 10));
    ck_assert_uint_eq(get(&fakes[0][1].arms), 0);
    ck_assert_uint_eq(metric_get(&lanes[0]->metrics.loop_sleeps), 0);
    end(0);
    ck_assert_uint_eq(fakes[0][0].arms, fakes[0][0].awakes);
}
END_TEST

START_TEST(stop_closes_transports_on_the_lanes_thread)
{
    start(0);
    ck_assert(!loop_drained(loops[0]));
    loop_stop(loops[0]);
    loop_join(loops[0]);
    ck_assert(loop_drained(loops[0]));
    for (uint32_t i = 0; i < LANE_TRANSPORTS; i++) {
        ck_assert_uint_eq(fakes[0][i].closes, 1);
        ck_assert(!pthread_equal(fakes[0][i].closer, pthread_self()));
    }
    loop_free(loops[0]);
}
END_TEST

START_TEST(a_loop_that_never_ran_closes_its_transports)
{
    ck_assert_int_eq(new_loop(0), OK);
    loop_free(loops[0]);
    ck_assert_uint_eq(fakes[0][0].closes, 1);
    ck_assert_uint_eq(fakes[0][1].closes, 1);
    loop_free(NULL);
}
END_TEST

START_TEST(a_loop_that_cannot_be_made_leaves_the_transports)
{
    for (uint32_t i = 1; i <= 2; i++) {
        fault_arm(i);
        ck_assert_int_ne(new_loop(0), OK);
        ck_assert(fault_hit());
        ck_assert_ptr_nonnull(strstr(msg.text, "lane 0"));
        ck_assert_uint_eq(fakes[0][0].closes, 0);
        close(fakes[0][0].fd);
        close(fakes[0][1].fd);
    }
    fault_arm(0);
    ck_assert_int_eq(new_loop(0), OK);
    fault_arm(1);
    ck_assert_int_eq(loop_start(loops[0], &msg), ERR_IO);
    fault_arm(0);
    loop_free(loops[0]);
    ck_assert_uint_eq(fakes[0][0].closes, 1);
}
END_TEST

START_TEST(transports_hear_of_a_reload)
{
    next_cfg.loop.spin_us = 123;
    start(0);
    start(1);
    ck_assert(wait_for(&fakes[0][1].configs, 1));
    ck_assert(wait_for(&fakes[1][1].configs, 1));
    ck_assert_int_eq(control_reload(&control, NULL, &msg), OK);
    while (!control_idle(&control))
        control_turn(&control);
    ck_assert(wait_for(&fakes[0][0].configs, 2));
    ck_assert(wait_for(&fakes[1][1].configs, 2));
    ck_assert_uint_eq(__atomic_load_n(&fakes[1][1].spin_us, __ATOMIC_ACQUIRE),
                      123);
    end(0);
    end(1);
}
END_TEST

/* ---- The control loop ---- */

static struct notify silent = {.fd = -1};

static struct loop_control *new_control(void)
{
    struct loop_control_cfg c = {
        .control = &control, .loops = loops, .notify = &silent};
    struct loop_control *lc;

    ck_assert_int_eq(loop_control_open(&lc, &c, &msg), OK);
    return lc;
}

static void end_control(struct loop_control *lc)
{
    for (uint32_t i = 0; i < LANES; i++) {
        ck_assert(loop_done(loops[i]));
        loop_join(loops[i]);
        loop_free(loops[i]);
    }
    loop_control_close(lc);
}

START_TEST(a_stop_signal_drains_and_ends_every_lane)
{
    struct loop_control *lc = new_control();

    start(0);
    start(1);
    ck_assert(!loop_control_draining(lc));
    kill(getpid(), SIGTERM);
    ck_assert(loop_control_run(lc));
    ck_assert(loop_control_draining(lc));
    ck_assert(control_idle(&control));
    ck_assert_uint_eq(fakes[0][0].closes, 1);
    ck_assert_uint_eq(fakes[1][0].closes, 1);
    end_control(lc);
}
END_TEST

START_TEST(hangup_reloads_before_the_stop)
{
    struct loop_control *lc = new_control();

    start(0);
    start(1);
    next_cfg.loop.spin_us = 55;
    kill(getpid(), SIGHUP);
    kill(getpid(), SIGINT);
    ck_assert(loop_control_run(lc));
    ck_assert_uint_eq(reloads, 1);
    ck_assert_uint_eq(lanes[1]->cfg->loop.spin_us, 55);
    end_control(lc);
}
END_TEST

START_TEST(mail_to_a_cut_lane_is_still_answered)
{
    struct loop_control *lc = new_control();
    struct ctl_job *job;

    start(0);
    start(1);
    loop_stop(loops[0]);
    while (!loop_done(loops[0]))
        ;
    job = control_job(&control);
    control_job_send(job, lane_ping_mail, control_job_end);
    ck_assert(loop_control_stop(lc));
    ck_assert(control_idle(&control));
    end_control(lc);
}
END_TEST

START_TEST(memory_is_touched_in_the_background)
{
    struct arena_map arena = {
        .p = mem_reserve(MIB(80)), .bytes = MIB(80), .fd = -1, .page = 4096};
    struct loop_control_cfg c = {.control = &control,
                                 .loops = loops,
                                 .notify = &silent,
                                 .arenas = &arena,
                                 .arena_n = 1};
    struct loop_control *lc;

    ck_assert_int_eq(loop_control_open(&lc, &c, &msg), OK);
    start(0);
    start(1);
    kill(getpid(), SIGTERM);
    ck_assert(loop_control_run(lc));
    ck_assert_uint_le(loop_control_prefaulted(lc), MIB(80));
    end_control(lc);
    mem_release(arena.p, MIB(80));
}
END_TEST

START_TEST(a_control_loop_that_cannot_be_made_is_an_error)
{
    struct loop_control_cfg c = {.control = &control};
    struct loop_control *lc;

    fault_arm(1);
    ck_assert_int_eq(loop_control_open(&lc, &c, &msg), ERR_NO_MEMORY);
    fault_arm(0);
    loop_control_close(NULL);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("loop");
    TCase *t = tcase_create("loop");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, mail_wakes_a_sleeping_lane_every_time);
    tcase_add_test(t, a_readable_transport_is_progressed);
    tcase_add_test(t, an_idle_lane_turns_seldom);
    tcase_add_test(t, a_deadline_that_has_passed_wakes_the_lane);
    tcase_add_test(t, every_arm_is_followed_by_awake);
    tcase_add_test(t,
                   a_transport_that_refuses_to_be_armed_does_not_stop_the_lane);
    tcase_add_test(t, stop_closes_transports_on_the_lanes_thread);
    tcase_add_test(t, a_loop_that_never_ran_closes_its_transports);
    tcase_add_test(t, a_loop_that_cannot_be_made_leaves_the_transports);
    tcase_add_test(t, transports_hear_of_a_reload);
    tcase_add_test(t, a_stop_signal_drains_and_ends_every_lane);
    tcase_add_test(t, hangup_reloads_before_the_stop);
    tcase_add_test(t, mail_to_a_cut_lane_is_still_answered);
    tcase_add_test(t, memory_is_touched_in_the_background);
    tcase_add_test(t, a_control_loop_that_cannot_be_made_is_an_error);
    suite_add_tcase(s, t);
    return s;
}

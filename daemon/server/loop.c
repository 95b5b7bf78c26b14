/* SPDX-License-Identifier: Apache-2.0
 *
 * One thread, one lane. libuv is entered only to sleep:
 *
 *        +--> turn --more--+
 *        |     | idle for less than loop.spin
 *        |     v           |
 *        +--- spin <-------+
 *              | idle for loop.spin
 *              v
 *             arm --refused--> turn (at most ARM_TRIES times in a row)
 *              | all armed
 *              v
 *            sleep: uv_run until an fd (a transport's, the disk's), the
 *              v    mailbox or the timer
 *              v
 *            awake, turn
 *
 *  1. A wake-up is never lost: mail rings an eventfd that is looked at after
 *     arming, and arm() refuses when something arrived before it.
 *  2. A lane sleeps at most TURN_EVERY_NS: expired blocks are given back and
 *     the wall clock moves on without any client.
 *  3. Idle means idle: no timer and no fd fires without a reason.
 *
 * A transport or disk that refuses to be armed although it reports no work is
 * asked again after ARM_PAUSE_MS, so that it costs latency and not a core.
 *
 * Stop: transports are closed on this thread, which ends their connections;
 * then the lane turns on until the ops that wait for control have ended and
 * nothing is in flight on its disk, and answers control's mail until it is
 * joined. */
#include "server/loop.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/disk_open.h"
#include "server/files.h"

enum { ARM_TRIES = 64, ARM_PAUSE_MS = 1, LOOP_SPIN_DISK = 8 };

#define TURN_EVERY_NS NS_PER_S
#define REGISTER_EVERY_NS (100 * NS_PER_MS) /* of a lane that is never idle */

struct loop {
    struct lane *lane;
    struct loop_transport transports[LANE_TRANSPORTS];
    uint32_t transport_n;
    const struct config *cfg; /* as the transports know it */
    uv_loop_t uv;
    uv_async_t wake;
    uv_poll_t polls[LANE_TRANSPORTS], disk_poll;
    uv_timer_t timer;
    uv_thread_t thread;
    bool started;
    uint64_t busy_ns;     /* when something last happened */
    uint64_t events;      /* trace.n then */
    uint32_t refusals;    /* arm attempts in vain, in a row */
    bool registered;      /* all memory, or the kernel takes no more */
    uint64_t register_ns; /* when the last piece was */
    /* Atomics. */
    bool stop, drained, done, quit, memory_ready;
};

/* ---- Clocks ---- */

static uint64_t loop_clock_ns(void *arg)
{
    (void)arg;
    return files_mono_ns();
}

static void loop_clock(struct loop *lp)
{
    struct env *env = &lp->lane->env;
    uint64_t wall_us = files_wall_us();

    env->now_ns = files_mono_ns();
    env->wall_s = wall_us / 1000000;
    env->wall_ms = (uint32_t)(wall_us % 1000000 / 1000);
}

/* ---- Waking ---- */

static void loop_wake(void *arg)
{
    struct loop *lp = arg;

    MUST(uv_async_send(&lp->wake) == 0);
}

/* uv_run() returns; the turn that follows finds out why. */
static void on_wake(uv_async_t *h)
{
    (void)h;
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    (void)h;
    (void)status;
    (void)events;
}

/* A timer that is due before uv_run() polls would be used up there, and the
 * poll would wait for an fd alone (libuv before 1.45). */
static void on_timer(uv_timer_t *h)
{
    uv_stop(h->loop);
}

/* ---- Work ---- */

/* Transports take over what a reload changed for them. */
static void loop_config(struct loop *lp)
{
    if (lp->cfg == lp->lane->cfg)
        return;
    lp->cfg = lp->lane->cfg;
    for (uint32_t i = 0; i < lp->transport_n; i++)
        if (lp->transports[i].config)
            lp->transports[i].config(lp->transports[i].t, lp->cfg);
}

/* While somebody waits for an SSD the lane looks longer: the answer comes in
 * about the time that going to sleep and waking up take. */
static uint64_t loop_spin_ns(const struct lane *l)
{
    uint64_t spin = l->cfg->loop.spin_us * NS_PER_US;

    return l->link.ssd.disk && l->link.ssd.disk->in_flight
               ? spin * LOOP_SPIN_DISK
               : spin;
}

/* One turn; true if the lane should look again at once. */
static bool loop_turn(struct loop *lp)
{
    struct lane *l = lp->lane;
    bool more;

    loop_clock(lp);
    more = lane_turn(l);
    loop_config(lp);
    if (more || l->trace.n != lp->events) {
        lp->events = l->trace.n;
        /* A fresh reading: a long turn must not use up its own spin. */
        lp->busy_ns = files_mono_ns();
        return true;
    }
    return l->env.now_ns - lp->busy_ns < loop_spin_ns(l);
}

/* A piece of memory takes a few ms: one in each turn that found nothing to do,
 * or now and then if there is always something. true: there are more. */
static bool loop_register(struct loop *lp, bool idle)
{
    struct lane *l = lp->lane;
    struct disk *d = l->link.ssd.disk;

    if (lp->registered || !d || l->draining ||
        !__atomic_load_n(&lp->memory_ready, __ATOMIC_ACQUIRE) ||
        (!idle && l->env.now_ns - lp->register_ns < REGISTER_EVERY_NS))
        return false;
    lp->registered = !disk_register(d, DISK_MEM_STEP);
    lp->register_ns = files_mono_ns();
    metric_set(&l->metrics.ssd_registered_bytes, disk_registered_bytes(d));
    return !lp->registered;
}

/* All transports and the disk, or none. */
static bool loop_arm(struct loop *lp)
{
    struct lane *l = lp->lane;
    struct disk *d = l->link.ssd.disk;

    if (d && !d->ops->arm(d))
        return false;
    for (uint32_t i = 0; i < l->transport_n; i++) {
        if (l->transports[i]->ops->arm(l->transports[i]))
            continue;
        while (i-- > 0)
            l->transports[i]->ops->awake(l->transports[i]);
        if (d)
            d->ops->awake(d);
        return false;
    }
    return true;
}

static void loop_awake(struct loop *lp)
{
    struct lane *l = lp->lane;

    for (uint32_t i = 0; i < l->transport_n; i++)
        l->transports[i]->ops->awake(l->transports[i]);
    if (l->link.ssd.disk)
        l->link.ssd.disk->ops->awake(l->link.ssd.disk);
}

/* In whole milliseconds, late rather than early: an early wake-up finds
 * nothing due and would spin. */
static uint64_t loop_sleep_ms(const struct loop *lp)
{
    uint64_t now = files_mono_ns(), due = lane_next_ns(lp->lane);

    due = min_u64(due, now + TURN_EVERY_NS);
    return due > now ? (due - now + NS_PER_MS - 1) / NS_PER_MS : 0;
}

static void loop_uv(struct loop *lp, uint64_t ms)
{
    uv_update_time(&lp->uv);
    MUST(uv_timer_start(&lp->timer, on_timer, ms, 0) == 0);
    uv_run(&lp->uv, UV_RUN_ONCE);
    uv_timer_stop(&lp->timer);
}

static void loop_sleep(struct loop *lp)
{
    if (!loop_arm(lp)) {
        if (++lp->refusals >= ARM_TRIES) {
            lp->refusals = 0;
            loop_uv(lp, ARM_PAUSE_MS);
        }
        return;
    }
    lp->refusals = 0;
    metric_add(&lp->lane->metrics.loop_sleeps, 1);
    loop_uv(lp, loop_sleep_ms(lp));
    loop_awake(lp);
}

/* Turns and sleeps until until(lp) says so; asked before every sleep. */
static void loop_run(struct loop *lp, bool (*until)(struct loop *))
{
    while (!until(lp)) {
        if (loop_turn(lp)) {
            (void)loop_register(lp, false);
            continue;
        }
        if (loop_register(lp, true))
            continue;
        if (lp->lane->draining && lane_drained(lp->lane))
            __atomic_store_n(&lp->drained, true, __ATOMIC_RELEASE);
        loop_sleep(lp);
    }
}

static bool loop_stopped(struct loop *lp)
{
    return __atomic_load_n(&lp->stop, __ATOMIC_ACQUIRE);
}

/* Mail is still answered when the last op has ended: control may be asking
 * all lanes on behalf of another one's op. A lane that has none begins nothing
 * new on its SSDs; what is in flight there must end before the thread does. */
static bool loop_over(struct loop *lp)
{
    struct lane *l = lp->lane;
    bool empty;

    l->closing |= lane_drained(l);
    empty = lane_drained(l) && ssd_link_quiet(&l->link);
    if (empty) {
        __atomic_store_n(&lp->drained, true, __ATOMIC_RELEASE);
        __atomic_store_n(&lp->done, true, __ATOMIC_RELEASE);
    }
    return empty && __atomic_load_n(&lp->quit, __ATOMIC_ACQUIRE);
}

static void loop_close_transports(struct loop *lp)
{
    struct lane *l = lp->lane;

    for (uint32_t i = 0; i < lp->transport_n; i++) {
        uv_poll_stop(&lp->polls[i]);
        lp->transports[i].close(lp->transports[i].t);
    }
    lp->transport_n = l->transport_n = 0;
}

static void loop_main(void *arg)
{
    struct loop *lp = arg;
    char name[16];

    snprintf(name, sizeof(name), "pikvd-lane-%u", lp->lane->idx % 1000);
    pthread_setname_np(pthread_self(), name);
    loop_run(lp, loop_stopped);
    loop_clock(lp);
    lane_drain(lp->lane);
    loop_close_transports(lp);
    loop_run(lp, loop_over);
}

/* ---- Life ---- */

static void loop_close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void loop_uv_fini(struct loop *lp)
{
    uv_walk(&lp->uv, loop_close_handle, NULL);
    uv_run(&lp->uv, UV_RUN_DEFAULT);
    MUST(uv_loop_close(&lp->uv) == 0);
}

static int loop_uv_poll(struct loop *lp, uv_poll_t *poll, int fd)
{
    int rc = uv_poll_init(&lp->uv, poll, fd);

    return rc ? rc : uv_poll_start(poll, UV_READABLE, on_poll);
}

static int loop_uv_init(struct loop *lp)
{
    int rc = fault_here("loop_uv_init") ? UV_EMFILE : uv_loop_init(&lp->uv);

    if (rc)
        return rc;
    rc = uv_async_init(&lp->uv, &lp->wake, on_wake);
    if (!rc)
        rc = uv_timer_init(&lp->uv, &lp->timer);
    for (uint32_t i = 0; i < lp->transport_n && !rc; i++)
        rc = loop_uv_poll(lp, &lp->polls[i], lp->transports[i].fd);
    if (!rc && lp->lane->link.ssd.disk)
        rc = loop_uv_poll(lp, &lp->disk_poll, disk_fd(lp->lane->link.ssd.disk));
    if (rc)
        loop_uv_fini(lp);
    return rc;
}

/* Only once nothing can fail any more: the lane is as before on an error. */
static void loop_take_lane(struct loop *lp, const uint64_t random[2])
{
    struct lane *l = lp->lane;

    l->env.clock_ns = loop_clock_ns;
    l->env.rng[0] = random[0] | 1; /* all zeros would stay so */
    l->env.rng[1] = random[1];
    loop_clock(lp);
    lp->busy_ns = l->env.now_ns;
    l->mailbox.wake = loop_wake;
    l->mailbox.wake_arg = lp;
    for (uint32_t i = 0; i < lp->transport_n; i++)
        l->transports[i] = lp->transports[i].t;
    l->transport_n = lp->transport_n;
}

enum err loop_new(struct loop **out, struct lane *lane,
                  const struct loop_transport *transports, uint32_t n,
                  const uint64_t random[2], struct errmsg *m)
{
    struct loop *lp = fault_here("loop_new") ? NULL : calloc(1, sizeof(*lp));
    int rc;

    MUST(n <= LANE_TRANSPORTS);
    if (!lp)
        return errmsg_set(m, ERR_NO_MEMORY, "lane %u: no memory for its loop",
                          lane->idx);
    lp->lane = lane;
    if (n)
        memcpy(lp->transports, transports, n * sizeof(*transports));
    lp->transport_n = n;
    rc = loop_uv_init(lp);
    if (rc) {
        free(lp);
        return errmsg_set(m, ERR_IO,
                          "lane %u: cannot make its event loop: %s; fix: raise "
                          "the limit of open files (LimitNOFILE, ulimit -n)",
                          lane->idx, uv_strerror(rc));
    }
    loop_take_lane(lp, random);
    *out = lp;
    return OK;
}

enum err loop_start(struct loop *lp, struct errmsg *m)
{
    int rc;

    MUST(!lp->started);
    lp->started = true;
    rc = fault_here("loop_start")
             ? UV_EAGAIN
             : uv_thread_create(&lp->thread, loop_main, lp);
    if (!rc)
        return OK;
    lp->started = false;
    return errmsg_set(m, ERR_IO,
                      "lane %u: cannot start its thread: %s; fix: raise the "
                      "limit of tasks (TasksMax, ulimit -u)",
                      lp->lane->idx, uv_strerror(rc));
}

void loop_memory_ready(struct loop *lp)
{
    if (!lp)
        return;
    __atomic_store_n(&lp->memory_ready, true, __ATOMIC_RELEASE);
    loop_wake(lp);
}

void loop_stop(struct loop *lp)
{
    __atomic_store_n(&lp->stop, true, __ATOMIC_RELEASE);
    loop_wake(lp);
}

bool loop_drained(const struct loop *lp)
{
    return __atomic_load_n(&lp->drained, __ATOMIC_ACQUIRE);
}

bool loop_done(const struct loop *lp)
{
    return !lp->started || __atomic_load_n(&lp->done, __ATOMIC_ACQUIRE);
}

void loop_join(struct loop *lp)
{
    if (!lp->started)
        return;
    __atomic_store_n(&lp->quit, true, __ATOMIC_RELEASE);
    loop_wake(lp);
    MUST(uv_thread_join(&lp->thread) == 0);
    lp->started = false;
}

/* Mail that came after the last turn (another lane's nudge) is run here, since
 * whoever sent it may look at it again. */
void loop_free(struct loop *lp)
{
    if (!lp)
        return;
    MUST(!lp->started);
    loop_close_transports(lp);
    while (mailbox_run(&lp->lane->mailbox, lp->lane, 64) > 0)
        ;
    lp->lane->mailbox.wake = NULL;
    loop_uv_fini(lp);
    free(lp);
}

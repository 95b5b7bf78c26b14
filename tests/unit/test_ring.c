/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include "rpc/ring.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { CAP = 4096, MSG_MAX = CAP / 2 - 8 };

static _Alignas(64) uint8_t mem[4096 + 2 * CAP];
static struct ring tx, rx; /* two views of the request ring */
static uint8_t buf[CAP];

static void setup(void)
{
    struct ring_shared *sh = (struct ring_shared *)(void *)mem;
    struct ring other;

    memset(mem, 0, sizeof(mem));
    ring_shared_init(sh, CAP);
    ck_assert_int_eq(ring_attach(sh, sizeof(mem), &tx, &other), OK);
    ck_assert_int_eq(ring_attach(sh, sizeof(mem), &rx, &other), OK);
}

/* len bytes that tell which message they are. */
static bool put(uint32_t len, uint8_t seed)
{
    uint8_t *p = ring_grant(&tx, len);

    if (!p)
        return false;
    for (uint32_t i = 0; i < len; i++)
        p[i] = (uint8_t)(seed + i);
    ring_push(&tx, len);
    return true;
}

static void take(uint32_t len, uint8_t seed)
{
    uint32_t got = 0;

    ck_assert_int_eq(ring_pop(&rx, buf, sizeof(buf), &got), OK);
    ck_assert_uint_eq(got, len);
    for (uint32_t i = 0; i < len; i++)
        ck_assert_uint_eq(buf[i], (uint8_t)(seed + i));
}

static enum err pop_error(void)
{
    uint32_t len;

    return ring_pop(&rx, buf, sizeof(buf), &len);
}

START_TEST(attach_checks_the_header)
{
    struct ring_shared *sh = (struct ring_shared *)(void *)mem;
    struct ring a, b;

    ck_assert_uint_eq(ring_map_bytes(CAP), sizeof(mem));
    ck_assert_int_eq(ring_attach(sh, sizeof(mem) - 1, &a, &b),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(ring_attach(sh, 100, &a, &b), ERR_BAD_REQUEST);
    sh->ring_bytes = CAP + 64;
    ck_assert_int_eq(ring_attach(sh, sizeof(mem), &a, &b), ERR_BAD_REQUEST);
    sh->ring_bytes = 0;
    ck_assert_int_eq(ring_attach(sh, sizeof(mem), &a, &b), ERR_BAD_REQUEST);
    sh->ring_bytes = 1u << 31;
    ck_assert_int_eq(ring_attach(sh, SIZE_MAX, &a, &b), ERR_BAD_REQUEST);
    sh->ring_bytes = CAP;
    sh->version++;
    ck_assert_int_eq(ring_attach(sh, sizeof(mem), &a, &b), ERR_BAD_REQUEST);
    sh->version--;
    sh->magic++;
    ck_assert_int_eq(ring_attach(sh, sizeof(mem), &a, &b), ERR_BAD_REQUEST);
}
END_TEST

START_TEST(messages_come_out_as_they_went_in)
{
    ck_assert_int_eq(pop_error(), ERR_MISS);
    ck_assert(ring_empty(&rx));
    ck_assert(put(1, 3));
    ck_assert(put(MSG_MAX, 5));
    ck_assert(!ring_empty(&rx));
    take(1, 3);
    take(MSG_MAX, 5);
    ck_assert_int_eq(pop_error(), ERR_MISS);
}
END_TEST

START_TEST(sizes_that_never_fit_are_not_granted)
{
    ck_assert_ptr_null(ring_grant(&tx, 0));
    ck_assert_uint_eq(ring_message_max(CAP), MSG_MAX);
    ck_assert_ptr_null(ring_grant(&tx, MSG_MAX + 1));
    ck_assert_ptr_null(ring_grant(&tx, UINT32_MAX));
    ck_assert_ptr_null(ring_grant(&tx, UINT32_MAX - 8));
}
END_TEST

START_TEST(an_empty_ring_takes_the_largest_message_at_any_place)
{
    for (uint32_t i = 0; i < 10 * CAP / 64; i++) {
        ck_assert(put(MSG_MAX, (uint8_t)i));
        take(MSG_MAX, (uint8_t)i);
        ck_assert(put(8, (uint8_t)i));
        take(8, (uint8_t)i);
    }
}
END_TEST

/* The same sequence in every run. */
static uint32_t rnd_state;

static uint32_t rnd(uint32_t n)
{
    rnd_state = rnd_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)rnd_state * n >> 32);
}

/* A model: a queue of (length, seed), at all places, full and empty. */
START_TEST(a_long_random_run_agrees_with_a_queue)
{
    struct {
        uint32_t len;
        uint8_t seed;
    } q[CAP / 64];
    uint32_t n = 0, full = 0;

    rnd_state = 7;
    for (int i = 0; i < 20000; i++) {
        uint32_t len = 1 + rnd(rnd(8) ? 300 : MSG_MAX);

        if (rnd(2)) {
            if (!put(len, (uint8_t)i)) {
                ck_assert_uint_gt(n, 0);
                full++;
                continue;
            }
            q[n].len = len;
            q[n++].seed = (uint8_t)i;
        } else if (n) {
            take(q[0].len, q[0].seed);
            memmove(q, q + 1, --n * sizeof(q[0]));
        } else {
            ck_assert_int_eq(pop_error(), ERR_MISS);
        }
    }
    ck_assert_uint_gt(full, 10);
}
END_TEST

START_TEST(a_message_longer_than_the_buffer_breaks_the_ring)
{
    uint32_t len;

    ck_assert(put(65, 0));
    ck_assert_int_eq(ring_pop(&rx, buf, 64, &len), ERR_LIMIT);
    ck_assert_int_eq(pop_error(), ERR_BAD_REQUEST);
    ck_assert(ring_empty(&rx));
}
END_TEST

/* What a hostile producer may write; each must break the ring, not us. */
static const struct {
    const char *what;
    uint64_t head;
    uint32_t len; /* at the start of the ring */
} lies[] = {
    {"head not aligned", 63, 8},
    {"head beyond the ring", CAP + 64, 8},
    {"head far away", UINT64_MAX - 63, 8},
    {"length 0", 64, 0},
    {"length beyond head", 64, 57},
    {"length beyond the ring", CAP, CAP},
    {"length near wrap", CAP, 0xffffffc0},
    {"skip at the start", CAP, 0xffffffff},
};

START_TEST(a_lying_producer_breaks_the_ring)
{
    memcpy(mem + 4096, &lies[_i].len, 4);
    __atomic_store_n(&rx.ctl->head, lies[_i].head, __ATOMIC_RELAXED);
    ck_assert_int_eq(pop_error(), ERR_BAD_REQUEST);
    __atomic_store_n(&rx.ctl->head, 64, __ATOMIC_RELAXED);
    ck_assert_int_eq(pop_error(), ERR_BAD_REQUEST);
    ck_assert(ring_empty(&rx));
    ck_assert_uint_eq(rx.tail, 0);
}
END_TEST

START_TEST(a_head_that_goes_back_breaks_the_ring)
{
    ck_assert(put(8, 0));
    ck_assert(put(8, 0));
    take(8, 0);
    take(8, 0);
    __atomic_store_n(&rx.ctl->head, 64, __ATOMIC_RELAXED);
    ck_assert_int_eq(pop_error(), ERR_BAD_REQUEST);
}
END_TEST

START_TEST(a_skip_with_nothing_behind_it_breaks_the_ring)
{
    ck_assert(put(8, 0));
    take(8, 0);
    memset(mem + 4096 + 64, 0xff, 4);
    __atomic_store_n(&rx.ctl->head, CAP, __ATOMIC_RELAXED);
    ck_assert_int_eq(pop_error(), ERR_BAD_REQUEST);
}
END_TEST

static const uint64_t tail_lies[] = {1, 128, UINT64_MAX - 63, 1 << 20};

START_TEST(a_lying_consumer_breaks_the_ring)
{
    ck_assert(put(8, 0));
    while (put(500, 1))
        ;
    __atomic_store_n(&tx.ctl->tail, tail_lies[_i] + (_i == 1 ? CAP : 0),
                     __ATOMIC_RELAXED);
    ck_assert_ptr_null(ring_grant(&tx, 500));
    ck_assert(tx.broken);
    __atomic_store_n(&tx.ctl->tail, 64, __ATOMIC_RELAXED);
    ck_assert_ptr_null(ring_grant(&tx, 8));
    ck_assert(!ring_wait_room(&tx, 8));
}
END_TEST

START_TEST(random_bytes_in_the_ring_are_survived)
{
    uint32_t ok = 0, len;

    rnd_state = 11;
    for (int i = 0; i < 20000; i++) {
        setup();
        for (uint32_t j = 0; j < CAP; j += 64) {
            uint32_t word = rnd(5) ? rnd(200) : rnd(UINT32_MAX);

            memcpy(mem + 4096 + j, &word, 4);
        }
        rx.ctl->head = (uint64_t)rnd(70) * 64;
        while (ring_pop(&rx, buf, 256, &len) == OK) {
            ck_assert_uint_le(len, 256);
            ok++;
        }
        ck_assert_uint_le(rx.tail, CAP);
    }
    ck_assert_uint_gt(ok, 1000);
}
END_TEST

START_TEST(the_sleeper_is_woken_once)
{
    ck_assert(!ring_must_wake(&tx));
    ck_assert(ring_sleep(&rx));
    ck_assert(put(8, 0));
    ck_assert(ring_must_wake(&tx));
    ck_assert(!ring_must_wake(&tx));
    ck_assert(!ring_sleep(&rx)); /* there is a message */
    ck_assert(!ring_must_wake(&tx));
    take(8, 0);
    ck_assert(ring_sleep(&rx));
    ring_awake(&rx);
    ck_assert(!ring_must_wake(&tx));
}
END_TEST

START_TEST(who_waits_for_room_is_told)
{
    ck_assert(!ring_must_tell(&rx));
    ck_assert(!ring_wait_room(&tx, 100)); /* there is room */
    ck_assert(ring_must_tell(&rx));       /* told once, for nothing */
    while (put(1000, 9))
        ;
    ck_assert(ring_wait_room(&tx, 1000));
    take(1000, 9);
    ck_assert(ring_must_tell(&rx));
    ck_assert(!ring_must_tell(&rx));
    ck_assert(put(1000, 9));
    while (put(1000, 9))
        ;
    ck_assert(ring_wait_room(&tx, 1000));
    while (!ring_empty(&rx))
        take(1000, 9);
    ck_assert(!ring_sleep(&rx)); /* not before the waiter was told */
    ck_assert(ring_must_tell(&rx));
    ck_assert(ring_sleep(&rx));
}
END_TEST

/* Two threads and no other wake-up than the asleep and full words: a lost one
 * hangs the test. */
struct bell {
    pthread_mutex_t mu;
    pthread_cond_t cv;
    bool rung;
};

static struct bell bell_rx = {PTHREAD_MUTEX_INITIALIZER,
                              PTHREAD_COND_INITIALIZER, false};
static struct bell bell_tx = {PTHREAD_MUTEX_INITIALIZER,
                              PTHREAD_COND_INITIALIZER, false};

static void bell_ring(struct bell *b)
{
    pthread_mutex_lock(&b->mu);
    b->rung = true;
    pthread_cond_signal(&b->cv);
    pthread_mutex_unlock(&b->mu);
}

static void bell_wait(struct bell *b)
{
    pthread_mutex_lock(&b->mu);
    while (!b->rung)
        pthread_cond_wait(&b->cv, &b->mu);
    b->rung = false;
    pthread_mutex_unlock(&b->mu);
}

enum { THREAD_MSGS = 20000 };

static uint32_t thread_len(uint32_t i)
{
    return 4 + (i * 2654435761u >> 8) % (i % 16 ? 300 : MSG_MAX - 4);
}

static void *producer(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < THREAD_MSGS; i++) {
        uint32_t len = thread_len(i);
        uint8_t *p;

        while (!(p = ring_grant(&tx, len)))
            if (ring_wait_room(&tx, len))
                bell_wait(&bell_tx);
        memset(p, (int)i, len);
        memcpy(p, &i, 4);
        ring_push(&tx, len);
        if (ring_must_wake(&tx))
            bell_ring(&bell_rx);
    }
    return NULL;
}

START_TEST(two_threads_lose_neither_messages_nor_wakeups)
{
    pthread_t th;

    ck_assert_int_eq(pthread_create(&th, NULL, producer, NULL), 0);
    for (uint32_t i = 0; i < THREAD_MSGS;) {
        uint32_t len = 0, n;
        enum err e = ring_pop(&rx, buf, sizeof(buf), &len);

        if (e == OK) {
            memcpy(&n, buf, 4);
            ck_assert_uint_eq(n, i);
            ck_assert_uint_eq(len, thread_len(i));
            ck_assert(len == 4 || buf[len - 1] == (uint8_t)i);
            i++;
        }
        ck_assert(e == OK || e == ERR_MISS);
        if (ring_must_tell(&rx))
            bell_ring(&bell_tx);
        if (e == ERR_MISS && i < THREAD_MSGS && ring_sleep(&rx))
            bell_wait(&bell_rx);
    }
    ck_assert_int_eq(pthread_join(th, NULL), 0);
}
END_TEST

START_TEST(a_ring_that_is_no_power_of_two_is_a_programmer_error)
{
    ring_shared_init((struct ring_shared *)(void *)mem, CAP + 1);
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("ring");
    TCase *t = tcase_create("ring");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, attach_checks_the_header);
    tcase_add_test(t, messages_come_out_as_they_went_in);
    tcase_add_test(t, sizes_that_never_fit_are_not_granted);
    tcase_add_test(t, an_empty_ring_takes_the_largest_message_at_any_place);
    tcase_add_test(t, a_long_random_run_agrees_with_a_queue);
    tcase_add_test(t, a_message_longer_than_the_buffer_breaks_the_ring);
    tcase_add_loop_test(t, a_lying_producer_breaks_the_ring, 0,
                        (int)countof(lies));
    tcase_add_test(t, a_head_that_goes_back_breaks_the_ring);
    tcase_add_test(t, a_skip_with_nothing_behind_it_breaks_the_ring);
    tcase_add_loop_test(t, a_lying_consumer_breaks_the_ring, 0,
                        (int)countof(tail_lies));
    tcase_add_test(t, random_bytes_in_the_ring_are_survived);
    tcase_add_test(t, the_sleeper_is_woken_once);
    tcase_add_test(t, who_waits_for_room_is_told);
    tcase_add_test(t, two_threads_lose_neither_messages_nor_wakeups);
    tcase_add_test_raise_signal(
        t, a_ring_that_is_no_power_of_two_is_a_programmer_error, SIGABRT);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* What pikv_stats counts: each call and item once, by what it answered. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "client/pikv.h"
#include "tests/lib/fake_pikvd.h"

static const struct pikv_call patient = {.deadline_us = 20000000};

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;

static void begin(uint32_t lanes)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_options o = {.staging_bytes = 1 << 20};

    fake = fake_start(lanes);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
}

static void end(void)
{
    pikv_close(kv);
    fake_stop(fake);
}

static struct pikv_stats look(void)
{
    struct pikv_stats s;

    ck_assert_int_eq(pikv_stats(kv, &s), PIKV_OK);
    return s;
}

static struct pikv_op_stats of(const char *op)
{
    struct pikv_stats s = look();

    for (uint32_t i = 0; i < PIKV_STATS_OPS && s.ops[i].name[0]; i++)
        if (strcmp(s.ops[i].name, op) == 0)
            return s.ops[i];
    ck_abort_msg("no row %s", op);
}

static uint64_t bucket_sum(const struct pikv_op_stats *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < PIKV_STATS_BUCKETS; i++)
        sum += s->buckets[i];
    return sum;
}

enum { N = 6, LEN = 1000 };

static struct pikv_key key_of(uint32_t i)
{
    static const char names[] = "k0k1k2k3k4k5k6k7k8k9";

    return (struct pikv_key){.key = {names + 2 * i, 2}};
}

static int put(uint32_t first, uint32_t n, const struct pikv_call *call)
{
    static uint8_t bytes[LEN];
    struct pikv_put items[N];
    struct pikv_result r[N];

    for (uint32_t i = 0; i < n; i++)
        items[i] =
            (struct pikv_put){.key = key_of(first + i), .data = {bytes, LEN}};
    return pikv_put_sync(kv, ns, items, n, call, r);
}

static int get(uint32_t first, uint32_t n, const struct pikv_call *call)
{
    static uint8_t bytes[N][LEN];
    struct pikv_get items[N];
    struct pikv_result r[N];

    for (uint32_t i = 0; i < n; i++)
        items[i] = (struct pikv_get){.key = key_of(first + i),
                                     .data = {bytes[i], LEN}};
    return pikv_get_sync(kv, ns, items, n, call, r);
}

START_TEST(items_are_counted_by_what_they_answered)
{
    struct pikv_op_stats s;

    begin(3);
    ck_assert_int_eq(put(0, 4, &patient), PIKV_OK);
    ck_assert_int_eq(put(2, 4, &patient), PIKV_OK); /* two are there */
    ck_assert_int_eq(get(4, 5, &patient), PIKV_OK); /* two are */
    s = of("put");
    ck_assert_uint_eq(s.calls, 2);
    ck_assert_uint_eq(s.items, 8);
    ck_assert_uint_eq(s.hits, 6);
    ck_assert_uint_eq(s.exists, 2);
    ck_assert_uint_eq(bucket_sum(&s), 2);
    s = of("get");
    ck_assert_uint_eq(s.calls, 1);
    ck_assert_uint_eq(s.items, 5);
    ck_assert_uint_eq(s.hits, 2);
    ck_assert_uint_eq(s.misses, 3);
    ck_assert_uint_eq(s.bytes, 2 * LEN);
    ck_assert_uint_eq(s.timeouts + s.busy + s.down + s.errors, 0);
    ck_assert_uint_eq(of("lookup").calls, 0);
    end();
}
END_TEST

START_TEST(a_lookup_counts_hits_and_misses)
{
    struct pikv_key keys[] = {key_of(0), key_of(1), key_of(2)};
    struct pikv_result r[3];
    struct pikv_op_stats s;
    uint64_t id;

    begin(1);
    ck_assert_int_eq(put(0, 2, &patient), PIKV_OK);
    ck_assert_int_eq(
        pikv_lookup(kv, ns, keys, 3, NULL, 1, NULL, &patient, r, &id), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    s = of("lookup");
    ck_assert_uint_eq(s.hits, 2);
    ck_assert_uint_eq(s.misses, 1);
    ck_assert_uint_eq(s.bytes, 0);
    end();
}
END_TEST

START_TEST(refusals_timeouts_and_a_gone_server_have_their_own_counts)
{
    struct pikv_call brief = {.deadline_us = 20000};
    struct pikv_op_stats s;

    begin(1);
    fake_set_mode(fake, FAKE_REFUSES);
    ck_assert_int_eq(get(0, 2, &patient), PIKV_BUSY);
    ck_assert_uint_eq(of("get").busy, 2);
    fake_set_mode(fake, FAKE_HOLDS);
    ck_assert_int_eq(get(0, 3, &brief), PIKV_TIMEOUT);
    s = of("get");
    ck_assert_uint_eq(s.timeouts, 3);
    ck_assert_uint_ge(s.sum_us, 19000);
    fake_set_mode(fake, FAKE_DIES);
    ck_assert_int_eq(get(0, 1, &patient), PIKV_RETRY);
    s = of("get");
    ck_assert_uint_eq(s.down, 1);
    ck_assert_uint_eq(s.calls, 3);
    ck_assert_uint_eq(s.hits + s.misses + s.errors, 0);
    end();
}
END_TEST

START_TEST(a_call_without_items_counts_its_status)
{
    struct pikv_op_stats s;
    uint64_t id;

    begin(2);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_NAMESPACE, NULL, 0, 0, &patient, NULL, &id),
        PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    fake_set_mode(fake, FAKE_REFUSES);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_NAMESPACE, NULL, 0, 0, &patient, NULL, &id),
        PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_BUSY);
    s = of("evict");
    ck_assert_uint_eq(s.calls, 2);
    ck_assert_uint_eq(s.items, 0);
    ck_assert_uint_eq(s.hits, 1);
    ck_assert_uint_eq(s.busy, 1);
    end();
}
END_TEST

START_TEST(the_gauges_follow_what_is_in_flight)
{
    static uint8_t bytes[5000];
    struct pikv_put item = {.key = key_of(0), .data = {bytes, sizeof(bytes)}};
    struct pikv_completion done;
    struct pikv_result r;
    uint64_t id;
    void *mem;

    begin(2);
    ck_assert_uint_eq(look().lanes, 2);
    ck_assert_uint_eq(look().lanes_up, 2);
    ck_assert_uint_eq(look().registered_bytes, 0);
    ck_assert_int_eq(pikv_mem_alloc(kv, 100, &mem), PIKV_OK);
    ck_assert_uint_eq(look().registered_bytes, 4096);
    pikv_mem_free(kv, mem);
    ck_assert_uint_eq(look().registered_bytes, 0);
    fake_set_mode(fake, FAKE_HOLDS);
    ck_assert_int_eq(pikv_put(kv, ns, &item, 1, &patient, &r, &id), PIKV_OK);
    ck_assert_uint_eq(look().inflight, 1);
    ck_assert_uint_eq(look().staging_bytes, 8192);
    ck_assert_uint_eq(of("put").calls, 0);
    fake_set_mode(fake, FAKE_SERVES);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(look().inflight, 0);
    ck_assert_uint_eq(look().staging_bytes, 0);
    ck_assert_uint_eq(of("put").calls, 1);
    end();
}
END_TEST

START_TEST(connections_that_come_back_are_counted)
{
    begin(2);
    ck_assert_uint_eq(look().reconnects, 0);
    fake_restart(fake);
    for (int i = 0; i < 20000 && look().reconnects < 2; i++)
        usleep(1000);
    ck_assert_uint_eq(look().reconnects, 2);
    ck_assert_uint_eq(look().lanes_up, 2);
    end();
}
END_TEST

START_TEST(a_child_and_a_closed_handle_get_none)
{
    struct pikv_stats s;
    int status;
    pid_t child;

    begin(1);
    ck_assert_int_eq(pikv_stats(NULL, &s), PIKV_CLOSED);
    child = fork();
    if (child == 0)
        _exit(pikv_stats(kv, &s) == PIKV_FORKED ? 0 : 1);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_stats");
    TCase *t = tcase_create("counters");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, items_are_counted_by_what_they_answered);
    tcase_add_test(t, a_lookup_counts_hits_and_misses);
    tcase_add_test(t,
                   refusals_timeouts_and_a_gone_server_have_their_own_counts);
    tcase_add_test(t, a_call_without_items_counts_its_status);
    tcase_add_test(t, the_gauges_follow_what_is_in_flight);
    tcase_add_test(t, connections_that_come_back_are_counted);
    tcase_add_test(t, a_child_and_a_closed_handle_get_none);
    suite_add_tcase(s, t);
    return s;
}

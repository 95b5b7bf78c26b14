/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/metrics.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct metrics m;

static void metrics_make(void)
{
    memset(&m, 0, sizeof(m));
}

START_TEST(bounds_go_from_10_us_to_10_s_four_per_decade)
{
    ck_assert_uint_eq(hist_bound_ns(0), 10 * NS_PER_US);
    ck_assert_uint_eq(hist_bound_ns(HIST_BUCKETS - 2), 10 * NS_PER_S);
    ck_assert_uint_eq(hist_bound_ns(HIST_BUCKETS - 1), UINT64_MAX);
    for (uint32_t i = 4; i < HIST_BUCKETS - 1; i++) {
        uint64_t tenth = hist_bound_ns(i - 4);

        ck_assert_uint_gt(hist_bound_ns(i), hist_bound_ns(i - 1));
        ck_assert_uint_le(hist_bound_ns(i), tenth * 10 + 10);
        ck_assert_uint_ge(hist_bound_ns(i) + 10, tenth * 10);
    }
}
END_TEST

START_TEST(a_value_lands_in_the_first_bucket_that_holds_it)
{
    for (uint32_t i = 0; i < HIST_BUCKETS - 1; i++) {
        struct hist h = {0};

        hist_add(&h, hist_bound_ns(i));
        hist_add(&h, hist_bound_ns(i) + 1);
        ck_assert_uint_eq(h.bucket[i], 1);
        ck_assert_uint_eq(h.bucket[i + 1], 1);
        ck_assert_uint_eq(h.n, 2);
        ck_assert_uint_eq(h.sum_ns, 2 * hist_bound_ns(i) + 1);
    }
}
END_TEST

START_TEST(zero_and_the_largest_value_have_buckets)
{
    struct hist h = {0};

    hist_add(&h, 0);
    hist_add(&h, UINT64_MAX);
    ck_assert_uint_eq(h.bucket[0], 1);
    ck_assert_uint_eq(h.bucket[HIST_BUCKETS - 1], 1);
}
END_TEST

/* All but an age, of which the largest counts. */
START_TEST(sum_adds_every_member)
{
    uint64_t *all = (uint64_t *)(void *)&m;
    struct metrics sum = {0};
    const uint64_t *got = (const uint64_t *)(const void *)&sum;

    for (size_t i = 0; i < sizeof(m) / sizeof(*all); i++)
        all[i] = i;
    metrics_sum(&sum, &m);
    metrics_sum(&sum, &m);
    ck_assert_uint_eq(sum.eviction_age_seconds, m.eviction_age_seconds);
    sum.eviction_age_seconds *= 2;
    for (size_t i = 0; i < sizeof(m) / sizeof(*all); i++)
        ck_assert_uint_eq(got[i], 2 * i);
}
END_TEST

struct want {
    const char *name;
    uint64_t value;
    uint32_t found, n;
};

static void look(const char *name, uint64_t value, void *arg)
{
    struct want *w = arg;

    w->n++;
    if (strcmp(name, w->name) != 0)
        return;
    w->found++;
    ck_assert_uint_eq(value, w->value);
}

START_TEST(walk_names_values_as_stat_does)
{
    struct want wants[] = {
        {"put_stored", 1, 0, 0},
        {"peers", 2, 0, 0},
        {"requests.get", 3, 0, 0},
        {"request_seconds.get.count", 1, 0, 0},
        {"request_seconds.get.sum_ns", 77, 0, 0},
        {"stage_push_seconds.count", 1, 0, 0},
        {"results.MISS", 4, 0, 0},
        {"results.OK", 5, 0, 0},
    };

    metric_add(&m.put_stored, 1);
    metric_set(&m.peers, 2);
    metric_add(&m.requests[OP_GET], 3);
    hist_add(&m.request_seconds[OP_GET], 77);
    hist_add(&m.stage_push_seconds, 5);
    metric_add(&m.results[-ERR_MISS], 4);
    metric_add(&m.results[OK], 5);
    for (size_t i = 0; i < countof(wants); i++) {
        metrics_walk(&m, look, &wants[i]);
        ck_assert_msg(wants[i].found == 1, "%s: %u", wants[i].name,
                      wants[i].found);
        ck_assert_uint_gt(wants[i].n, 100);
    }
}
END_TEST

static char *text_of(bool openmetrics)
{
    struct textbuf t = {0};

    metrics_prometheus(&m, openmetrics, &t);
    ck_assert(!t.bad);
    ck_assert_uint_eq(strlen(t.text), t.len);
    return t.text;
}

START_TEST(prometheus_text_has_family_labels_and_cumulative_buckets)
{
    char *text;

    metric_add(&m.put_stored, 42);
    metric_add(&m.requests[OP_PUT], 7);
    hist_add(&m.request_seconds[OP_PUT], 10000);
    hist_add(&m.request_seconds[OP_PUT], 20 * NS_PER_S);
    text = text_of(false);
    ck_assert_ptr_nonnull(
        strstr(text, "# HELP pikvd_put_stored_total blocks committed\n"
                     "# TYPE pikvd_put_stored_total counter\n"
                     "pikvd_put_stored_total 42\n"));
    ck_assert_ptr_nonnull(strstr(text, "pikvd_requests_total{op=\"put\"} 7\n"));
    ck_assert_ptr_nonnull(strstr(text, "# TYPE pikvd_blocks gauge\n"));
    ck_assert_ptr_nonnull(strstr(text,
                                 "pikvd_request_seconds_bucket{op=\"put\","
                                 "le=\"0.000010000\"} 1\n"));
    ck_assert_ptr_nonnull(
        strstr(text, "pikvd_request_seconds_bucket{op=\"put\","
                     "le=\"10.000000000\"} 1\n"
                     "pikvd_request_seconds_bucket{op=\"put\","
                     "le=\"+Inf\"} 2\n"
                     "pikvd_request_seconds_sum{op=\"put\"} 20.000010000\n"
                     "pikvd_request_seconds_count{op=\"put\"} 2\n"));
    ck_assert_ptr_nonnull(
        strstr(text, "pikvd_stage_pull_seconds_bucket{le=\"+Inf\"} 0\n"
                     "pikvd_stage_pull_seconds_sum 0.000000000\n"));
    free(text);
}
END_TEST

START_TEST(openmetrics_names_counters_without_total)
{
    char *text = text_of(true);

    ck_assert_ptr_nonnull(strstr(text, "# TYPE pikvd_put_stored counter\n"
                                       "pikvd_put_stored_total 0\n"));
    free(text);
}
END_TEST

/* promtool is asked by the end-to-end tests; here only that every line is a
 * comment or a name, a space and a number. */
START_TEST(every_line_is_well_formed)
{
    char *text = text_of(false), *save = NULL;
    uint32_t n = 0;

    for (char *l = strtok_r(text, "\n", &save); l;
         l = strtok_r(NULL, "\n", &save)) {
        char *end, *value = strrchr(l, ' ');

        n++;
        ck_assert_ptr_nonnull(value);
        if (l[0] == '#')
            continue;
        ck_assert(strncmp(l, "pikvd_", 6) == 0);
        (void)strtod(value + 1, &end);
        ck_assert_int_eq(*end, '\0');
    }
    ck_assert_uint_gt(n, 500);
    free(text);
}
END_TEST

START_TEST(textbuf_grows_and_keeps_what_it_has)
{
    struct textbuf t = {0};

    for (int i = 0; i < 100000; i++)
        textbuf_add(&t, "%05d\n", i);
    ck_assert(!t.bad);
    ck_assert_uint_eq(t.len, 600000);
    ck_assert(memcmp(t.text, "00000\n00001\n", 12) == 0);
    ck_assert_str_eq(t.text + t.len - 6, "99999\n");
    free(t.text);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("metrics");
    TCase *t = tcase_create("metrics");

    tcase_add_checked_fixture(t, metrics_make, NULL);
    tcase_add_test(t, bounds_go_from_10_us_to_10_s_four_per_decade);
    tcase_add_test(t, a_value_lands_in_the_first_bucket_that_holds_it);
    tcase_add_test(t, zero_and_the_largest_value_have_buckets);
    tcase_add_test(t, sum_adds_every_member);
    tcase_add_test(t, walk_names_values_as_stat_does);
    tcase_add_test(t, prometheus_text_has_family_labels_and_cumulative_buckets);
    tcase_add_test(t, openmetrics_names_counters_without_total);
    tcase_add_test(t, every_line_is_well_formed);
    tcase_add_test(t, textbuf_grows_and_keeps_what_it_has);
    suite_add_tcase(s, t);
    return s;
}

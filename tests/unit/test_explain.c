/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/explain.h"

#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "server/config.h"

static struct textbuf out;

static void setup(void)
{
    out = (struct textbuf){0};
}

static void teardown(void)
{
    free(out.text);
}

static const char *text_of(const char *topic)
{
    ck_assert(explain(topic, &out));
    ck_assert(!out.bad);
    return out.text;
}

static void expect_in(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "missing: %s", part);
}

START_TEST(every_setting_is_in_the_reference_and_in_the_manual)
{
    const struct config_row *r;
    const char *text = text_of("config");
    char row[100];

    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind != CONFIG_ROW_KEY)
            continue;
        snprintf(row, sizeof(row), "\n| `%s` | ", r->path);
        expect_in(text, row);
        expect_in(text, r->doc);
    }
    free(out.text);
    setup();
    text = text_of("man");
    ck_assert_int_eq(strncmp(text, "pikvd.json(5)\n", 14), 0);
    /* Underscores are markup there. */
    expect_in(text, "*dram.low\\_water*\n\t");
    expect_in(text, "*listen.shm.path*\n\t");
}
END_TEST

START_TEST(every_operation_is_in_the_reference)
{
    const char *text = text_of("ops");

#define OP(id, NAME, name, body, since, us, per_mib, idem, doc)                \
    expect_in(text, "\n| " #id " | " #NAME " | ");
#include "proto/ops.tbl"
    expect_in(text, "| 6 | PUT | records | now | 50ms + 10ms per MiB | yes |");
    expect_in(text,
              "| 24 | GATHER | message | later | 50ms + 10ms per MiB | yes |");
}
END_TEST

START_TEST(every_error_is_in_the_reference_with_who_acts)
{
    const char *text = text_of("errors");

#define ERR(name, code, who, text_)                                            \
    expect_in(text, "\n| " #code " | " #name " | ");
#include "proto/errors.tbl"
    expect_in(text,
              "| -25 | WRONG_NODE | other: another node or a fresh view | ");
}
END_TEST

START_TEST(every_metric_is_in_the_reference_under_its_full_name)
{
    const char *text = text_of("metrics");

#define COUNTER(name, doc) expect_in(text, "| `pikvd_" #name "_total` | ");
#define GAUGE(name, doc) expect_in(text, "| `pikvd_" #name "` | gauge | ");
#define OP_COUNTER(name, doc) COUNTER(name, doc)
#define OP_HIST(name, doc) expect_in(text, "| `pikvd_" #name "` | histogram ");
#define STAGE_HIST(name, doc) OP_HIST(name, doc)
#define ERR_COUNTER(name, doc) COUNTER(name, doc)
#include "base/metrics.tbl"
}
END_TEST

START_TEST(every_policy_is_in_the_reference)
{
    const char *text = text_of("policies");

#define POLICY(name, ops, doc) expect_in(text, "| `" #name "` | " doc " |\n");
#include "store/evict.tbl"
}
END_TEST

START_TEST(every_field_of_every_record_is_in_the_protocol)
{
    const char *text = text_of("protocol");

#define RECORD(rec, bytes, doc)                                                \
    expect_in(text, "### wire_" #rec ", " #bytes " bytes: ");
#define FIELD(rec, off, type, name, doc)                                       \
    expect_in(text, "| " #off " | " #type " | " #name " | ");
#define BYTES(rec, off, name, n, doc)                                          \
    expect_in(text, "| " #off " | uint8_t[" #n "] | " #name " | ");
#define END(rec)
#include "proto/records.tbl"
    expect_in(text, "| bytes of a key | 1 to 1024 |");
    expect_in(text, "eager pieces of 56 KiB");
}
END_TEST

START_TEST(the_default_file_names_every_key_and_loads_to_the_defaults)
{
    const struct config_row *keys[CONFIG_ROWS];
    const char *text = text_of("defaults");
    struct config c, defaults;
    struct errmsg m;

    config_defaults(&defaults);
    c = defaults;
    ck_assert_msg(config_load_text(&c, "pikvd.json", text, strlen(text), &m) ==
                      OK,
                  "%s", m.text);
    ck_assert_uint_eq(config_diff(&c, &defaults, keys), 0);
    for (uint32_t i = 0; config_row(i); i++) {
        if (config_row(i)->kind == CONFIG_ROW_KEY)
            ck_assert_str_ne(config_origin(&c, config_row(i)), "default");
    }
}
END_TEST

START_TEST(the_schema_is_json)
{
    json_t *v = json_loads(text_of("schema"), JSON_REJECT_DUPLICATES, NULL);

    ck_assert_ptr_nonnull(json_object_get(v, "properties"));
    json_decref(v);
}
END_TEST

START_TEST(tables_stay_tables)
{
    static const char *const topics[] = {"config",  "ops",      "errors",
                                         "metrics", "policies", "protocol"};
    const char *text = text_of(topics[_i]), *line = text;
    uint32_t want = 0;

    /* Every row of a table has the cells of its head. */
    while (*line) {
        const char *end = strchr(line, '\n');
        uint32_t bars = 0;

        ck_assert_ptr_nonnull(end);
        for (const char *p = line; p < end; p++)
            bars += *p == '|' && (p == line || p[-1] != '\\');
        if (*line != '|')
            want = 0;
        else if (want == 0)
            want = bars;
        if (*line == '|')
            ck_assert_msg(bars == want, "%.*s", (int)(end - line), line);
        line = end + 1;
    }
}
END_TEST

START_TEST(an_unknown_topic_is_refused_and_the_known_ones_are_listed)
{
    char list[] = EXPLAIN_TOPICS, *at = list;
    uint32_t n = 0;

    ck_assert(!explain("polices", &out));
    ck_assert_ptr_null(out.text);
    for (char *name = strsep(&at, ", "); name; name = strsep(&at, ", ")) {
        if (!*name)
            continue;
        ck_assert_msg(explain(name, &out), "%s", name);
        n++;
    }
    ck_assert_uint_eq(n, 9);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("explain");
    TCase *t = tcase_create("explain");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, every_setting_is_in_the_reference_and_in_the_manual);
    tcase_add_test(t, every_operation_is_in_the_reference);
    tcase_add_test(t, every_error_is_in_the_reference_with_who_acts);
    tcase_add_test(t, every_metric_is_in_the_reference_under_its_full_name);
    tcase_add_test(t, every_policy_is_in_the_reference);
    tcase_add_test(t, every_field_of_every_record_is_in_the_protocol);
    tcase_add_test(t,
                   the_default_file_names_every_key_and_loads_to_the_defaults);
    tcase_add_test(t, the_schema_is_json);
    tcase_add_loop_test(t, tables_stay_tables, 0, 6);
    tcase_add_test(t,
                   an_unknown_topic_is_refused_and_the_known_ones_are_listed);
    suite_add_tcase(s, t);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/config.h"

#include <check.h>
#include <inttypes.h>
#include <jansson.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct config cfg;
static struct errmsg msg;

static void setup(void)
{
    config_defaults(&cfg);
    msg.text[0] = '\0';
}

static enum err load(const char *text)
{
    return config_load_text(&cfg, "x.json", text, strlen(text), &msg);
}

static const struct config_row *key_at(int i)
{
    const struct config_row *r = config_row((uint32_t)i);

    return r && r->kind == CONFIG_ROW_KEY ? r : NULL;
}

/* n as the type wants it written. */
static void number_text(const struct config_row *k, uint64_t n, char *buf)
{
    if (k->type == CONFIG_TYPE_TIME)
        snprintf(buf, 64, "%" PRIu64 "us", n);
    else if (k->type == CONFIG_TYPE_MODE)
        snprintf(buf, 64, "%" PRIo64, n);
    else
        snprintf(buf, 64, "%" PRIu64, n);
}

static void put_text(char buf[64], const char *text)
{
    snprintf(buf, 64, "%s", text);
}

/* ---- diff */

START_TEST(a_diff_lists_what_changed_with_its_class)
{
    const struct config_row *keys[CONFIG_ROWS];
    struct config next = cfg;

    ck_assert_uint_eq(config_diff(&cfg, &next, keys), 0);
    ck_assert_int_eq(config_set_arg(&next, "log.level=debug", &msg), OK);
    ck_assert_int_eq(config_set_arg(&next, "node.lanes=2", &msg), OK);
    ck_assert_int_eq(config_set_arg(&next, "limits.handshake=3s", &msg), OK);
    /* Set to what it was: not a change. */
    ck_assert_int_eq(config_set_arg(&next, "loop.spin=20us", &msg), OK);
    ck_assert_uint_eq(config_diff(&cfg, &next, keys), 3);
    ck_assert_str_eq(keys[0]->path, "node.lanes");
    ck_assert_int_eq(keys[0]->class, CONFIG_RESTART);
    ck_assert_str_eq(keys[1]->path, "limits.handshake");
    ck_assert_int_eq(keys[1]->class, CONFIG_DRAIN);
    ck_assert_str_eq(keys[2]->path, "log.level");
    ck_assert_int_eq(keys[2]->class, CONFIG_LIVE);
}
END_TEST

START_TEST(taking_a_class_leaves_the_others_as_they_were)
{
    const struct config_row *keys[CONFIG_ROWS];
    struct config next = cfg;

    ck_assert_int_eq(config_set_arg(&next, "log.level=debug", &msg), OK);
    ck_assert_int_eq(config_set_arg(&next, "node.name=b", &msg), OK);
    config_take(&cfg, &next, CONFIG_LIVE);
    ck_assert_uint_eq(cfg.log.level, LOG_DEBUG);
    ck_assert_str_eq(config_origin(&cfg, config_find("log.level")), "--set");
    ck_assert_uint_eq(config_diff(&cfg, &next, keys), 1);
    ck_assert_str_eq(keys[0]->path, "node.name");
}
END_TEST

START_TEST(each_key_alone_is_a_diff_of_one)
{
    const struct config_row *k = key_at(_i), *keys[CONFIG_ROWS];
    struct config next = cfg;
    char other[64] = "zzzzzzzzzzz";

    if (!k)
        return;
    if (k->type == CONFIG_TYPE_BOOL)
        put_text(other, strcmp(k->def, "true") == 0 ? "false" : "true");
    else if (k->type == CONFIG_TYPE_CHOICE)
        put_text(other, k->words[k->word_n - 1]);
    else if (k->type != CONFIG_TYPE_STRING)
        number_text(k, k->max, other);
    ck_assert_int_eq(config_set(&next, k->path, other, "--set", &msg), OK);
    if (config_diff(&cfg, &next, keys) == 0) {
        if (k->type == CONFIG_TYPE_CHOICE)
            put_text(other, k->words[0]);
        else
            number_text(k, k->min, other);
    }
    ck_assert_msg(config_set(&next, k->path, other, "--set", &msg) == OK, "%s",
                  msg.text);
    ck_assert_uint_eq(config_diff(&cfg, &next, keys), 1);
    ck_assert_ptr_eq(keys[0], k);
}
END_TEST

/* ---- dump and schema */

static void change_everything(struct config *c)
{
    const struct config_row *k;
    char other[64];

    for (int i = 0; i < CONFIG_ROWS; i++) {
        k = key_at(i);
        if (!k)
            continue;
        put_text(other, "a\"\\b{}123");
        if (k->type == CONFIG_TYPE_BOOL)
            put_text(other, strcmp(k->def, "true") == 0 ? "false" : "true");
        else if (k->type == CONFIG_TYPE_CHOICE)
            put_text(other, k->words[k->word_n - 1]);
        else if (k->type != CONFIG_TYPE_STRING)
            number_text(k, k->max - 1, other);
        ck_assert_int_eq(config_set(c, k->path, other, "--set", &msg), OK);
    }
}

START_TEST(what_is_dumped_loads_back_to_the_same_values)
{
    const struct config_row *keys[CONFIG_ROWS];
    struct config was;
    struct textbuf out = {0};

    if (_i >= 3)
        change_everything(&cfg);
    was = cfg;
    config_dump(&cfg, (enum config_dump_as)(_i % 3), &out);
    ck_assert(!out.bad);
    config_defaults(&cfg);
    ck_assert_msg(load(out.text) == OK, "%s", msg.text);
    ck_assert_uint_eq(config_diff(&was, &cfg, keys), 0);
    free(out.text);
}
END_TEST

START_TEST(a_dump_with_origins_says_who_set_what)
{
    struct textbuf out = {0};

    ck_assert_int_eq(load("{\"log\":{\"level\":\"warn\"}}"), OK);
    config_dump(&cfg, CONFIG_DUMP_ORIGINS, &out);
    ck_assert_ptr_nonnull(strstr(out.text, "\"level: x.json:1:17\""));
    ck_assert_ptr_nonnull(strstr(out.text, "\"format: default\""));
    free(out.text);
}
END_TEST

static bool schema_has_type(const json_t *type, const json_t *v)
{
    const char *name = json_is_string(v)    ? "string"
                       : json_is_integer(v) ? "integer"
                       : json_is_boolean(v) ? "boolean"
                       : json_is_object(v)  ? "object"
                                            : "array";

    if (json_is_string(type))
        return strcmp(json_string_value(type), name) == 0;
    for (size_t i = 0; i < json_array_size(type); i++) {
        if (strcmp(json_string_value(json_array_get(type, i)), name) == 0)
            return true;
    }
    return false;
}

static bool matches(const char *pattern, const char *text)
{
    regex_t re;
    int rc;

    ck_assert_int_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
    rc = regexec(&re, text, 0, NULL, 0);
    regfree(&re);
    return rc == 0;
}

/* The part of JSON Schema that config_schema writes. */
static bool accepts(const json_t *schema, const json_t *v)
{
    const json_t *type = json_object_get(schema, "type"),
                 *words = json_object_get(schema, "enum"),
                 *any = json_object_get(schema, "anyOf"),
                 *pattern = json_object_get(schema, "pattern"),
                 *min = json_object_get(schema, "minimum"),
                 *max = json_object_get(schema, "maximum"),
                 *only = json_object_get(schema, "const"), *member;
    const char *name;
    bool ok = !type || schema_has_type(type, v), found = !words && !any;

    ok = ok && (!only || json_equal(only, v));
    for (size_t i = 0; i < json_array_size(words); i++)
        found = found || json_equal(json_array_get(words, i), v);
    for (size_t i = 0; i < json_array_size(any); i++)
        found = found || accepts(json_array_get(any, i), v);
    if (pattern && json_is_string(v))
        ok = ok && matches(json_string_value(pattern), json_string_value(v));
    if (min && json_is_integer(v))
        ok = ok && json_integer_value(v) >= json_integer_value(min) &&
             json_integer_value(v) <= json_integer_value(max);
    if (!json_is_object(v))
        return ok && found;
    json_object_foreach((json_t *)(uintptr_t)v, name, member)
    {
        const json_t *sub =
            json_object_get(json_object_get(schema, "properties"), name);

        ok = ok && sub && accepts(sub, member);
    }
    return ok && found;
}

static json_t *schema_load(void)
{
    struct textbuf out = {0};
    json_t *schema;

    config_schema(&out);
    ck_assert(!out.bad);
    schema = json_loads(out.text, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(schema);
    free(out.text);
    return schema;
}

START_TEST(the_schema_is_json_and_accepts_every_dump)
{
    json_t *schema = schema_load(), *file;
    struct textbuf out = {0};

    if (_i >= 3)
        change_everything(&cfg);
    config_dump(&cfg, (enum config_dump_as)(_i % 3), &out);
    file = json_loads(out.text, 0, NULL);
    ck_assert(accepts(schema, file));
    json_decref(file);
    json_decref(schema);
    free(out.text);
}
END_TEST

/* Texts that both refuse; bounds of texts with units are the daemon's alone. */
static const char *const refused[] = {
    "{\"draam\": {}}",
    "{\"dram\": {\"capasity\": 1}}",
    "{\"log\": 3}",
    "{\"node\": {\"lanes\": 65}}",
    "{\"node\": {\"lanes\": -1}}",
    "{\"node\": {\"lanes\": \"4\"}}",
    "{\"dram\": {\"capacity\": \"24GB\"}}",
    "{\"dram\": {\"capacity\": 4096}}",
    "{\"dram\": {\"capacity\": []}}",
    "{\"dram\": {\"hugepages\": \"maybe\"}}",
    "{\"dram\": {\"lock\": \"true\"}}",
    "{\"loop\": {\"spin\": 20}}",
    "{\"loop\": {\"spin\": \"20\"}}",
    "{\"listen\": {\"shm\": {\"mode\": \"0999\"}}}",
    "{\"$comment\": 1}",
};

START_TEST(the_schema_refuses_what_the_daemon_refuses)
{
    json_t *schema = schema_load(), *file = json_loads(refused[_i], 0, NULL);

    ck_assert_int_eq(load(refused[_i]), ERR_CONFIG);
    ck_assert(!accepts(schema, file));
    json_decref(file);
    json_decref(schema);
}
END_TEST

/* ---- memory */

static int alloc_left;
static bool alloc_hit;

static void *alloc_counted(size_t n)
{
    if (alloc_left > 0 && --alloc_left == 0) {
        alloc_hit = true;
        return NULL;
    }
    return malloc(n);
}

START_TEST(a_load_that_runs_out_of_memory_changes_nothing)
{
    struct config before = cfg;
    int n;

    json_set_alloc_funcs(alloc_counted, free);
    for (n = 1; n < 1000; n++) {
        enum err e;

        alloc_left = n;
        alloc_hit = false;
        e = load("{\"log\": {\"level\": \"debug\", \"$comment\": [\"a\"]}, "
                 "\"dram\": {\"capacity\": \"1GiB\"}}");
        if (!alloc_hit) {
            ck_assert_int_eq(e, OK);
            break;
        }
        /* OK: jansson took it for bad syntax, the second look went well. */
        if (e == OK) {
            cfg = before;
            continue;
        }
        ck_assert_int_eq(e, ERR_NO_MEMORY);
        ck_assert_str_eq(msg.text, "x.json: out of memory");
        ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
    }
    json_set_alloc_funcs(malloc, free);
    ck_assert_int_gt(n, 5);
    ck_assert_uint_eq(cfg.log.level, LOG_DEBUG);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("config_dump");
    TCase *t = tcase_create("config_dump");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_diff_lists_what_changed_with_its_class);
    tcase_add_test(t, taking_a_class_leaves_the_others_as_they_were);
    tcase_add_loop_test(t, each_key_alone_is_a_diff_of_one, 0, CONFIG_ROWS);
    tcase_add_loop_test(t, what_is_dumped_loads_back_to_the_same_values, 0, 6);
    tcase_add_test(t, a_dump_with_origins_says_who_set_what);
    tcase_add_loop_test(t, the_schema_is_json_and_accepts_every_dump, 0, 6);
    tcase_add_loop_test(t, the_schema_refuses_what_the_daemon_refuses, 0,
                        countof(refused));
    tcase_add_test(t, a_load_that_runs_out_of_memory_changes_nothing);
    suite_add_tcase(s, t);
    return s;
}

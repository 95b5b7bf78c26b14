/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/config.h"

#include <check.h>
#include <inttypes.h>
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
    /* Exactly as long as the text: a read past its end is seen by ASan. */
    size_t len = strlen(text);
    char *copy = malloc(len ? len : 1);
    enum err e;

    memcpy(copy, text, len);
    e = config_load_text(&cfg, "x.json", copy, len, &msg);
    free(copy);
    return e;
}

static const struct config_row *key_at(int i)
{
    const struct config_row *r = config_row((uint32_t)i);

    return r && r->kind == CONFIG_ROW_KEY ? r : NULL;
}

/* ---- errors, word for word */

static const struct {
    const char *text, *error;
} bad[] = {
    {"", "x.json:1:0: '[' or '{' expected near end of file; allowed: strict "
         "JSON"},
    {"[]", "x.json:1:1: (whole file): not a configuration; allowed: an object"},
    {"\n  []",
     "x.json:2:3: (whole file): not a configuration; allowed: an object"},
    {"{\"log\": {\"level\": \"info\",}}",
     "x.json:1:26: string or '}' expected near '}'; allowed: strict JSON"},
    {"{\"log\": {}, \"log\": {}}",
     "x.json:1:17: duplicate object key near '\"log\"'; allowed: strict JSON"},
    {"{} x", "x.json:1:4: end of file expected near 'x'; allowed: strict JSON"},
    {"{\n  \"dram\": {\n    \"capasity\": 1\n  }\n}",
     "x.json:3:5: dram.capasity: no such setting; nearest: dram.capacity"},
    {"{\"draam\": {}}", "x.json:1:2: draam: no such setting; nearest: dram"},
    {"{\"capacity\": \"1GiB\"}",
     "x.json:1:2: capacity: no such setting; nearest: dram.capacity"},
    {"{\"log\": 3}",
     "x.json:1:9: log: a number is not a group; allowed: an object"},
    {"{\"node\": {\"lanes\":\n 65}}",
     "x.json:2:2: node.lanes: 65 is above 64; allowed: 1 to 64, auto"},
    {"{\"node\": {\"lanes\": -1}}",
     "x.json:1:20: node.lanes: \"-1\" is not a whole number; allowed: 1 to 64, "
     "auto"},
    {"{\"node\": {\"lanes\": 1.5}}",
     "x.json:1:20: node.lanes: a number with a fraction is not a whole number; "
     "allowed: 1 to 64, auto"},
    {"{\"node\": {\"lanes\": \"4\"}}",
     "x.json:1:20: node.lanes: a string is not a whole number; allowed: 1 to "
     "64, auto"},
    {"{\"dram\": {\"capacity\": \"24GB\"}}",
     "x.json:1:23: dram.capacity: \"24GB\" is not a size; allowed: 16MiB to "
     "4TiB, auto"},
    {"{\"dram\": {\"capacity\": 4096}}",
     "x.json:1:23: dram.capacity: 4096 is below 16MiB; allowed: 16MiB to "
     "4TiB, "
     "auto"},
    {"{\"dram\": {\"capacity\": []}}",
     "x.json:1:23: dram.capacity: an array is not a size; allowed: 16MiB to "
     "4TiB, auto"},
    {"{\"dram\": {\"low_water\": \"51%\"}}",
     "x.json:1:24: dram.low_water: 51% is above 50%; allowed: 1% to 50%"},
    {"{\"dram\": {\"hugepages\": \"maybe\"}}",
     "x.json:1:24: dram.hugepages: \"maybe\" is not known; allowed: auto, on, "
     "off"},
    {"{\"dram\": {\"lock\": \"true\"}}",
     "x.json:1:19: dram.lock: a string is not true or false; allowed: true, "
     "false"},
    {"{\"dram\": {\"lock\": {}}}",
     "x.json:1:19: dram.lock: an object is not true or false; allowed: true, "
     "false"},
    {"{\"loop\": {\"spin\": 20}}",
     "x.json:1:19: loop.spin: a number is not a time; allowed: 0us to 100ms"},
    {"{\"loop\": {\"spin\": \"20\"}}",
     "x.json:1:19: loop.spin: \"20\" is not a time; allowed: 0us to 100ms"},
    {"{\"listen\": {\"shm\": {\"mode\": \"0999\"}}}",
     "x.json:1:29: listen.shm.mode: \"0999\" is not an octal file mode; "
     "allowed: 0000 to 0777"},
    {"{\"listen\": {\"shm\": {\"path\": \"/\"}}}",
     "x.json:1:29: listen.shm.path: 1 characters are too few; allowed: 2 to "
     "104 "
     "printable ASCII characters"},
    {"{\"node\": {\"name\": \"a\\nb\"}}",
     "x.json:1:19: node.name: byte 2 (0x0a) is not printable; allowed: 0 to 64 "
     "printable ASCII characters"},
    {"{\"$comment\": 1}",
     "x.json:1:14: $comment: a comment is a string or a list of strings"},
    {"{\"log\": {\"$comment\": [\"a\", 1]}}",
     "x.json:1:22: log.$comment: a comment is a string or a list of strings"},
};

START_TEST(every_error_names_file_line_column_path_and_what_is_allowed)
{
    struct config before = cfg;

    ck_assert_int_eq(load(bad[_i].text), ERR_CONFIG);
    ck_assert_str_eq(msg.text, bad[_i].error);
    ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
}
END_TEST

START_TEST(an_error_in_the_last_line_leaves_the_whole_struct_untouched)
{
    struct config before = cfg;

    ck_assert_int_eq(load("{\"log\": {\"level\": \"debug\"},\n"
                          " \"loop\": {\"spin\": \"1s\"}}"),
                     ERR_CONFIG);
    ck_assert_str_eq(msg.text, "x.json:2:19: loop.spin: 1s is above 100ms; "
                               "allowed: 0us to 100ms");
    ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
}
END_TEST

START_TEST(columns_count_characters_and_skip_what_lies_before)
{
    /* Umlauts take two bytes, an escaped quote and nested comments must not
     * confuse the walk, an escaped key is still found by its place. */
    ck_assert_int_eq(load("{\"$comment\": [\"\xc3\xa4\xc3\xb6 \\\" } ] {\", "
                          "\"[\"], \"\\u006cog\": {\"level\": \"x\"}}"),
                     ERR_CONFIG);
    ck_assert_str_eq(msg.text, "x.json:1:58: log.level: \"x\" is not known; "
                               "allowed: error, warn, notice, info, debug");
}
END_TEST

START_TEST(a_long_file_name_keeps_the_position_in_the_message)
{
    char name[1001];
    const char *text = "{\"nope\": 1}";

    memset(name, 'd', 1000);
    name[1000] = '\0';
    ck_assert_int_eq(config_load_text(&cfg, name, text, strlen(text), &msg),
                     ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(msg.text, "ddd:1:2: nope: no such setting"));
}
END_TEST

START_TEST(a_text_above_the_limit_is_refused_before_it_is_parsed)
{
    size_t len = CONFIG_TEXT_MAX + 1;
    char *text = malloc(len);

    memset(text, '[', len);
    ck_assert_int_eq(config_load_text(&cfg, "x.json", text, len, &msg),
                     ERR_CONFIG);
    ck_assert_str_eq(msg.text, "x.json:1:1: 1048577 bytes are too many; "
                               "allowed: up to 1048576");
    free(text);
}
END_TEST

/* ---- every key */

START_TEST(every_default_passes_its_own_bounds_and_prints_back)
{
    const struct config_row *k = key_at(_i);
    char text[CONFIG_VALUE_TEXT];
    struct config again;

    if (!k)
        return;
    again = cfg;
    ck_assert_int_eq(config_set(&again, k->path, config_value(&cfg, k, text),
                                "default", &msg),
                     OK);
    ck_assert_mem_eq(&again, &cfg, sizeof(cfg));
    ck_assert_str_eq(config_origin(&cfg, k), "default");
    ck_assert_uint_gt(strlen(k->doc), 10);
    ck_assert_int_eq(k->doc[strlen(k->doc) - 1], '.');
}
END_TEST

static bool is_number(const struct config_row *k)
{
    return k->type != CONFIG_TYPE_BOOL && k->type != CONFIG_TYPE_CHOICE &&
           k->type != CONFIG_TYPE_STRING;
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

static void expect_set(const struct config_row *k, uint64_t n, enum err want)
{
    struct config before = cfg;
    char text[64];

    number_text(k, n, text);
    ck_assert_msg(config_set(&cfg, k->path, text, "--set", &msg) == want,
                  "%s=%s gave not %s (%s)", k->path, text, err_name(want),
                  msg.text);
    if (want != OK)
        ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
    else
        ck_assert_str_eq(config_origin(&cfg, k), "--set");
}

START_TEST(every_number_takes_its_bounds_and_nothing_beyond)
{
    const struct config_row *k = key_at(_i);
    bool is_auto;

    if (!k || !is_number(k))
        return;
    is_auto =
        k->type == CONFIG_TYPE_BYTES_AUTO || k->type == CONFIG_TYPE_UINT_AUTO;
    expect_set(k, k->min, OK);
    expect_set(k, k->max, OK);
    expect_set(k, k->max + 1, ERR_CONFIG);
    expect_set(k, UINT64_MAX, ERR_CONFIG);
    if (k->min > 1 || (k->min == 1 && !is_auto))
        expect_set(k, k->min - 1, ERR_CONFIG);
    if (is_auto)
        expect_set(k, 0, OK);
    ck_assert_int_eq(config_set(&cfg, k->path, "", "--set", &msg), ERR_CONFIG);
    ck_assert_int_eq(
        config_set(&cfg, k->path, "99999999999999999999", "--set", &msg),
        ERR_CONFIG);
}
END_TEST

START_TEST(every_string_takes_its_lengths_and_nothing_beyond)
{
    const struct config_row *k = key_at(_i);
    char text[CONFIG_STRING + 2];

    if (!k || k->type != CONFIG_TYPE_STRING)
        return;
    ck_assert_uint_lt(k->max, CONFIG_STRING);
    memset(text, 'a', sizeof(text));
    text[k->max] = '\0';
    ck_assert_int_eq(config_set(&cfg, k->path, text, "--set", &msg), OK);
    text[k->max] = 'a';
    text[k->max + 1] = '\0';
    ck_assert_int_eq(config_set(&cfg, k->path, text, "--set", &msg),
                     ERR_CONFIG);
    text[k->min] = '\0';
    ck_assert_int_eq(config_set(&cfg, k->path, text, "--set", &msg), OK);
    if (k->min > 0) {
        text[k->min - 1] = '\0';
        ck_assert_int_eq(config_set(&cfg, k->path, text, "--set", &msg),
                         ERR_CONFIG);
    }
    ck_assert_int_eq(config_set(&cfg, k->path, "a\tbcdefghijk", "--set", &msg),
                     ERR_CONFIG);
}
END_TEST

START_TEST(every_word_is_taken_and_a_boolean_takes_true_and_false_only)
{
    const struct config_row *k = key_at(_i);
    char text[CONFIG_VALUE_TEXT];

    if (!k || (k->type != CONFIG_TYPE_CHOICE && k->type != CONFIG_TYPE_BOOL))
        return;
    for (uint32_t w = 0; w < k->word_n; w++) {
        if (!k->words[w])
            continue;
        ck_assert_int_eq(config_set(&cfg, k->path, k->words[w], "--set", &msg),
                         OK);
        ck_assert_str_eq(config_value(&cfg, k, text), k->words[w]);
    }
    if (k->type == CONFIG_TYPE_BOOL) {
        ck_assert_int_eq(config_set(&cfg, k->path, "true", "--set", &msg), OK);
        ck_assert_int_eq(config_set(&cfg, k->path, "false", "--set", &msg), OK);
        ck_assert_str_eq(config_value(&cfg, k, text), "false");
    }
    ck_assert_int_eq(config_set(&cfg, k->path, "yes", "--set", &msg),
                     ERR_CONFIG);
}
END_TEST

START_TEST(every_name_is_found_and_its_variable_is_its_own)
{
    const struct config_row *k = key_at(_i), *r;
    char mine[64], other[64];

    if (!k)
        return;
    ck_assert_ptr_eq(config_find(k->path), k);
    config_env_name(k, mine);
    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind == CONFIG_ROW_KEY && r != k)
            ck_assert_str_ne(config_env_name(r, other), mine);
    }
}
END_TEST

START_TEST(words_are_the_enums_that_the_code_uses)
{
    ck_assert_int_eq(load("{\"namespaces\": {\"policy\": \"lhd\", \"loans\": "
                          "\"any\"}, \"log\": {\"level\": \"debug\", "
                          "\"format\": \"json\"}, \"dram\": {\"hugepages\": "
                          "\"off\"}, \"ssd\": {\"engine\": \"sync\", "
                          "\"promote\": \"second_touch\"}}"),
                     OK);
    ck_assert_uint_eq(cfg.namespaces.loans, LOANS_ANY);
    ck_assert_uint_eq(cfg.log.level, LOG_DEBUG);
    ck_assert_uint_eq(cfg.log.format, LOG_FORMAT_JSON);
    ck_assert_uint_eq(cfg.dram.hugepages, HUGEPAGES_OFF);
    ck_assert_uint_eq(cfg.ssd.engine, ENGINE_SYNC);
    ck_assert_uint_eq(cfg.ssd.promote, PROMOTE_SECOND_TOUCH);
    ck_assert_uint_eq(cfg.namespaces.dram, TIERING_CACHE);
    ck_assert_str_eq(
        config_find("namespaces.policy")->words[cfg.namespaces.policy], "lhd");
}
END_TEST

START_TEST(values_with_units_are_read_exactly)
{
    ck_assert_int_eq(
        load("{\"dram\": {\"capacity\": \"1.5GiB\", \"low_water\": "
             "3, \"pin_limit\": \"0%\"}, \"loop\": {\"spin\": "
             "\"0\"}, \"limits\": {\"pin_ttl\": \"1.5s\", "
             "\"block\": 8192}, \"listen\": {\"shm\": {\"mode\": "
             "\"600\"}}}"),
        OK);
    ck_assert_uint_eq(cfg.dram.capacity_bytes, MIB(1536));
    ck_assert_uint_eq(cfg.dram.low_water_pct, 3);
    ck_assert_uint_eq(cfg.dram.pin_limit_pct, 0);
    ck_assert_uint_eq(cfg.loop.spin_us, 0);
    ck_assert_uint_eq(cfg.limits.pin_ttl_us, 1500000);
    ck_assert_uint_eq(cfg.limits.block_bytes, 8192);
    ck_assert_uint_eq(cfg.listen.shm.mode, 0600);
}
END_TEST

/* ---- merging */

START_TEST(a_later_text_replaces_what_it_names_and_null_gives_the_default)
{
    ck_assert_int_eq(load("{\"listen\": {\"shm\": {\"path\": \"/a.sock\", "
                          "\"mode\": \"0600\"}}, \"log\": {\"level\": "
                          "\"debug\"}}"),
                     OK);
    ck_assert_int_eq(load("{\"listen\": {\"shm\": {\"path\": null}},\n"
                          " \"log\": {\"level\": \"warn\"}}"),
                     OK);
    ck_assert_str_eq(cfg.listen.shm.path, "/run/pikvd/pikvd.sock");
    ck_assert_uint_eq(cfg.listen.shm.mode, 0600);
    ck_assert_uint_eq(cfg.log.level, LOG_WARN);
    ck_assert_str_eq(config_origin(&cfg, config_find("log.level")),
                     "x.json:2:19");
    ck_assert_str_eq(config_origin(&cfg, config_find("listen.shm.path")),
                     "default");
    ck_assert_int_eq(load("{\"listen\": null}"), OK);
    ck_assert_uint_eq(cfg.listen.shm.mode, 0660);
    ck_assert_uint_eq(cfg.log.level, LOG_WARN);
}
END_TEST

START_TEST(variables_set_values_and_strange_ones_are_named_not_refused)
{
    char a[] = "PIKVD_DRAM_LOW_WATER=4%", b[] = "PIKVD_SERVICE_HOST=10.0.0.1",
         d[] = "HOME=/", e[] = "PIKVD_LISTEN_SHM_PATH=/x.sock", f[] = "PIKVD_X";
    char *env[] = {a, b, d, e, f, NULL};
    struct errmsg ignored;

    ck_assert_int_eq(config_load_env(&cfg, env, &ignored, &msg), OK);
    ck_assert_uint_eq(cfg.dram.low_water_pct, 4);
    ck_assert_str_eq(cfg.listen.shm.path, "/x.sock");
    ck_assert_str_eq(ignored.text, "PIKVD_SERVICE_HOST");
    ck_assert_str_eq(config_origin(&cfg, config_find("dram.low_water")),
                     "env PIKVD_DRAM_LOW_WATER");
}
END_TEST

START_TEST(a_bad_variable_changes_nothing_and_is_named)
{
    char a[] = "PIKVD_DRAM_LOW_WATER=4%", b[] = "PIKVD_LOG_LEVEL=loud";
    char *env[] = {a, b, NULL};
    struct config before = cfg;
    struct errmsg ignored;

    ck_assert_int_eq(config_load_env(&cfg, env, &ignored, &msg), ERR_CONFIG);
    ck_assert_str_eq(msg.text,
                     "env PIKVD_LOG_LEVEL: log.level: \"loud\" is not known; "
                     "allowed: error, warn, notice, info, debug");
    ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
}
END_TEST

START_TEST(set_wants_a_path_and_a_value)
{
    ck_assert_int_eq(config_set_arg(&cfg, "log.level=debug", &msg), OK);
    ck_assert_uint_eq(cfg.log.level, LOG_DEBUG);
    ck_assert_int_eq(config_set_arg(&cfg, "node.name=a=b", &msg), OK);
    ck_assert_str_eq(cfg.node.name, "a=b");
    ck_assert_int_eq(config_set_arg(&cfg, "log.level", &msg), ERR_CONFIG);
    ck_assert_str_eq(msg.text,
                     "--set: log.level: no value; allowed: path=value");
    ck_assert_int_eq(config_set_arg(&cfg, "log=1", &msg), ERR_CONFIG);
    ck_assert_str_eq(msg.text,
                     "--set: log: is a group; allowed: one of its settings");
    ck_assert_int_eq(config_set_arg(&cfg, "log.levle=info", &msg), ERR_CONFIG);
    ck_assert_str_eq(msg.text,
                     "--set: log.levle: no such setting; nearest: log.level");
    ck_assert_int_eq(config_set_arg(&cfg, "=", &msg), ERR_CONFIG);
}
END_TEST

/* ---- positions and names */

START_TEST(a_place_that_is_not_there_is_zero)
{
    const char *text = "{\"a\": {\"b\": 1}, \"c\": [1, {}]}";
    uint32_t at[2] = {0, 0};
    struct config_pos p = config_where(text, strlen(text), at, 2, true);

    ck_assert_uint_eq(p.line, 1);
    ck_assert_uint_eq(p.column, 13);
    at[1] = 1;
    p = config_where(text, strlen(text), at, 2, true);
    ck_assert_uint_eq(p.line, 0);
    at[0] = 1;
    p = config_where(text, strlen(text), at, 1, false);
    ck_assert_uint_eq(p.column, 17);
    p = config_where(text, strlen(text), at, 2, false);
    ck_assert_uint_eq(p.line, 0);
    /* A text cut anywhere ends the walk, not the process. */
    for (size_t len = 0; len < strlen(text); len++) {
        char *cut = malloc(len + 1);

        memcpy(cut, text, len);
        config_where(cut, len, at, 2, true);
        free(cut);
    }
}
END_TEST

START_TEST(the_nearest_name_is_the_one_a_person_meant)
{
    ck_assert_str_eq(config_nearest("dram.hi_water"), "dram.high_water");
    ck_assert_str_eq(config_nearest("loglevel"), "log.level");
    ck_assert_str_eq(config_nearest("limits.block_keys"), "limits.batch_keys");
    ck_assert_str_eq(config_nearest("socket.path"), "listen.shm.path");
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("config");
    TCase *t = tcase_create("config");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(
        t, every_error_names_file_line_column_path_and_what_is_allowed, 0,
        countof(bad));
    tcase_add_test(t,
                   an_error_in_the_last_line_leaves_the_whole_struct_untouched);
    tcase_add_test(t, columns_count_characters_and_skip_what_lies_before);
    tcase_add_test(t, a_long_file_name_keeps_the_position_in_the_message);
    tcase_add_test(t, a_text_above_the_limit_is_refused_before_it_is_parsed);
    tcase_add_loop_test(t, every_default_passes_its_own_bounds_and_prints_back,
                        0, CONFIG_ROWS);
    tcase_add_loop_test(t, every_number_takes_its_bounds_and_nothing_beyond, 0,
                        CONFIG_ROWS);
    tcase_add_loop_test(t, every_string_takes_its_lengths_and_nothing_beyond, 0,
                        CONFIG_ROWS);
    tcase_add_loop_test(
        t, every_word_is_taken_and_a_boolean_takes_true_and_false_only, 0,
        CONFIG_ROWS);
    tcase_add_loop_test(t, every_name_is_found_and_its_variable_is_its_own, 0,
                        CONFIG_ROWS);
    tcase_add_test(t, words_are_the_enums_that_the_code_uses);
    tcase_add_test(t, values_with_units_are_read_exactly);
    tcase_add_test(
        t, a_later_text_replaces_what_it_names_and_null_gives_the_default);
    tcase_add_test(t,
                   variables_set_values_and_strange_ones_are_named_not_refused);
    tcase_add_test(t, a_bad_variable_changes_nothing_and_is_named);
    tcase_add_test(t, set_wants_a_path_and_a_value);
    tcase_add_test(t, a_place_that_is_not_there_is_zero);
    tcase_add_test(t, the_nearest_name_is_the_one_a_person_meant);
    suite_add_tcase(s, t);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server store base proto
 *
 * What a namespace may be, who may share it, and that numbers never repeat. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "server/registry.h"

static struct config cfg;
static struct registry reg;
static struct registry_ns ns;
static struct registry_mismatch mm;
static struct errmsg msg;
static bool created;
static uint64_t seed;

static uint64_t counting(void *arg)
{
    uint64_t *n = arg;

    return ++*n * UINT64_C(0x9e3779b97f4a7c15);
}

static void set_up(void)
{
    config_defaults(&cfg);
    cfg.namespaces.max = 4;
    ck_assert_int_eq(registry_init(&reg, &cfg, 1000), OK);
    memset(&ns, 0, sizeof(ns));
    memset(&mm, 0, sizeof(mm));
    msg.text[0] = '\0';
    seed = 0;
}

static void tear_down(void)
{
    registry_fini(&reg);
}

static enum err open_ns(const Pikv__Open *want)
{
    return registry_open(&reg, &cfg, want, counting, &seed, &ns, &created, &mm,
                         &msg);
}

static char *text_of(const char *s)
{
    static char texts[32][256];
    static int n;

    n = (n + 1) % 32;
    snprintf(texts[n], sizeof(texts[n]), "%s", s);
    return texts[n];
}

struct want {
    Pikv__Open open;
    Pikv__Fingerprint fp;
    Pikv__Settings settings;
    Pikv__Group group[2];
    Pikv__Group *groups[2];
};

static struct want *want_of(const char *name)
{
    static struct want wants[8];
    static int n;
    struct want *w = &wants[n = (n + 1) % 8];

    pikv__open__init(&w->open);
    pikv__fingerprint__init(&w->fp);
    pikv__settings__init(&w->settings);
    for (int i = 0; i < 2; i++) {
        pikv__group__init(&w->group[i]);
        w->group[i].id = (uint32_t)i;
        w->group[i].block_bytes = 65536;
        w->groups[i] = &w->group[i];
    }
    w->open.name = text_of(name);
    w->open.create = true;
    w->open.fingerprint = &w->fp;
    w->open.settings = &w->settings;
    w->open.groups = w->groups;
    w->open.n_groups = 2;
    w->fp.model = text_of("llama");
    return w;
}

static void put_ns(const char *name)
{
    ck_assert_int_eq(open_ns(&want_of(name)->open), OK);
    ck_assert(created);
    registry_put(&reg, &ns);
}

START_TEST(open_creates_with_the_configured_defaults)
{
    cfg.namespaces.share = 7;
    cfg.namespaces.quota_bytes = MIB(8);
    cfg.namespaces.ttl_us = 5000;
    put_ns("a");
    ck_assert_uint_eq(ns.id, 1);
    ck_assert_uint_eq(ns.generation, UINT64_C(1000));
    ck_assert_uint_eq(ns.settings.share, 7);
    ck_assert_uint_eq(ns.settings.ttl_ms, 5);
    ck_assert_uint_eq(ns.settings.quota_bytes, MIB(8));
    ck_assert_int_eq(ns.settings.loans, LOANS_OFF);
    ck_assert_str_eq(ns.settings.policy->name, "gittins");
    ck_assert_uint_eq(ns.pool, 0);
    ck_assert_uint_ne(ns.slot_seed, 0);
}
END_TEST

START_TEST(a_draft_changes_nothing_until_it_is_put)
{
    ck_assert_int_eq(open_ns(&want_of("a")->open), OK);
    ck_assert_ptr_null(registry_find(&reg, "a"));
    ck_assert_uint_eq(reg.next_generation, UINT64_C(1000));
    registry_put(&reg, &ns);
    ck_assert_ptr_nonnull(registry_find(&reg, "a"));
    ck_assert_ptr_eq(registry_find_id(&reg, 1), registry_find(&reg, "a"));
    ck_assert_ptr_null(registry_find_id(&reg, 0));
    ck_assert_ptr_null(registry_find_id(&reg, 2));
}
END_TEST

START_TEST(opening_again_gives_the_same_namespace)
{
    uint64_t generation, slot_seed;

    put_ns("a");
    generation = ns.generation;
    slot_seed = ns.slot_seed;
    put_ns("b");
    ck_assert_uint_eq(ns.id, 2);
    ck_assert_uint_ne(ns.generation, generation);
    ck_assert_uint_ne(ns.slot_seed, slot_seed);
    ck_assert_int_eq(open_ns(&want_of("a")->open), OK);
    ck_assert(!created);
    ck_assert_uint_eq(ns.id, 1);
    ck_assert_uint_eq(ns.generation, generation);
    ck_assert_uint_eq(ns.slot_seed, slot_seed);
}
END_TEST

START_TEST(another_fingerprint_names_the_field_and_both_values)
{
    for (uint32_t i = 0; registry_fp_fields[i].name; i++) {
        const struct registry_fp_field *f = &registry_fp_fields[i];
        struct want *w;

        tear_down();
        set_up();
        put_ns("a");
        w = want_of("a");
        *(char **)(void *)((char *)&w->fp + f->wire_off) = text_of("other");
        ck_assert_int_eq(open_ns(&w->open), ERR_MISMATCH);
        ck_assert_str_eq(mm.field, f->name);
        ck_assert_str_eq(mm.have, i == 0 ? "llama" : "");
        ck_assert_str_eq(mm.want, "other");
        ck_assert_ptr_nonnull(strstr(msg.text, f->name));
    }
    ck_assert_str_eq(registry_fp_fields[6].name, "parallel_layout");
}
END_TEST

START_TEST(other_groups_are_a_mismatch_and_none_are_no_question)
{
    struct want *w = want_of("a");

    put_ns("a");
    w->group[1].kv_heads = 8;
    ck_assert_int_eq(open_ns(&w->open), ERR_MISMATCH);
    ck_assert_str_eq(mm.field, "groups[1].kv_heads");
    ck_assert_str_eq(mm.have, "0");
    ck_assert_str_eq(mm.want, "8");
    w->group[1].kv_heads = 0;
    w->group[0].dtype = text_of("fp8");
    ck_assert_int_eq(open_ns(&w->open), ERR_MISMATCH);
    ck_assert_str_eq(mm.field, "groups[0].dtype");
    w->open.n_groups = 1;
    ck_assert_int_eq(open_ns(&w->open), ERR_MISMATCH);
    ck_assert_str_eq(mm.field, "groups");
    w->open.n_groups = 0;
    ck_assert_int_eq(open_ns(&w->open), OK);
    ck_assert_uint_eq(ns.group_n, 2);
}
END_TEST

START_TEST(a_tool_may_open_without_a_fingerprint_but_not_create)
{
    struct want *w = want_of("a");

    put_ns("a");
    w->open.fingerprint = NULL;
    ck_assert_int_eq(open_ns(&w->open), ERR_MISMATCH);
    w->open.create = false;
    ck_assert_int_eq(open_ns(&w->open), OK);
    w->open.name = text_of("b");
    ck_assert_int_eq(open_ns(&w->open), ERR_NO_NAMESPACE);
}
END_TEST

START_TEST(creation_needs_the_wish_the_permission_and_room)
{
    struct want *w = want_of("z");

    w->open.create = false;
    ck_assert_int_eq(open_ns(&w->open), ERR_NO_NAMESPACE);
    w->open.create = true;
    cfg.namespaces.create = false;
    ck_assert_int_eq(open_ns(&w->open), ERR_DENIED);
    cfg.namespaces.create = true;
    put_ns("a");
    put_ns("b");
    put_ns("c");
    put_ns("d");
    ck_assert_int_eq(open_ns(&w->open), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(msg.text, "namespaces.max"));
    ck_assert_int_eq(open_ns(&want_of("d")->open), OK);
}
END_TEST

START_TEST(bad_names_and_fields_are_refused_by_name)
{
    char longest[REGISTRY_NAME + 1];
    struct want *w;

    ck_assert_int_eq(open_ns(&want_of("")->open), ERR_BAD_REQUEST);
    ck_assert_int_eq(open_ns(&want_of("a b")->open), ERR_BAD_REQUEST);
    ck_assert_int_eq(open_ns(&want_of("a\nb")->open), ERR_BAD_REQUEST);
    ck_assert_int_eq(open_ns(&want_of("a\"b")->open), ERR_BAD_REQUEST);
    ck_assert_int_eq(open_ns(&want_of("\xc3\xa9")->open), ERR_BAD_REQUEST);
    memset(longest, 'x', REGISTRY_NAME);
    longest[REGISTRY_NAME] = '\0';
    ck_assert_int_eq(open_ns(&want_of(longest)->open), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(msg.text, "name"));
    longest[REGISTRY_NAME - 1] = '\0';
    ck_assert_int_eq(open_ns(&want_of(longest)->open), OK);
    w = want_of("a");
    w->fp.hash_seed = text_of("a\tb");
    ck_assert_int_eq(open_ns(&w->open), ERR_BAD_REQUEST);
    ck_assert_ptr_nonnull(strstr(msg.text, "fingerprint: hash_seed"));
    w = want_of("a");
    w->group[1].id = 0;
    ck_assert_int_eq(open_ns(&w->open), ERR_BAD_REQUEST);
    w->group[1].id = STORE_GROUPS;
    ck_assert_int_eq(open_ns(&w->open), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(msg.text, "groups[1]"));
    w->group[1].id = 1;
    w->group[1].block_bytes = cfg.limits.block_bytes + 1;
    ck_assert_int_eq(open_ns(&w->open), ERR_LIMIT);
    w->open.n_groups = STORE_GROUPS + 1;
    ck_assert_int_eq(open_ns(&w->open), ERR_LIMIT);
}
END_TEST

START_TEST(settings_are_checked_and_absent_ones_stay)
{
    Pikv__Settings s;

    put_ns("a");
    pikv__settings__init(&s);
    ck_assert_int_eq(registry_change(&reg, "zz", &s, &ns, &msg),
                     ERR_NO_NAMESPACE);
    s.policy = text_of("lru");
    s.quota_bytes = MIB(1);
    s.ttl_ms = 50;
    s.share = REGISTRY_SHARE_MAX;
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), OK);
    registry_put(&reg, &ns);
    pikv__settings__init(&s);
    s.quota_bytes = UINT64_MAX;
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), OK);
    ck_assert_str_eq(ns.settings.policy->name, "lru");
    ck_assert_uint_eq(ns.settings.quota_bytes, 0);
    ck_assert_uint_eq(ns.settings.ttl_ms, 50);
    ck_assert_uint_eq(ns.settings.share, REGISTRY_SHARE_MAX);
    s.ttl_ms = UINT32_MAX;
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), OK);
    ck_assert_uint_eq(ns.settings.ttl_ms, 0);
    s.policy = text_of("best");
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg),
                     ERR_BAD_REQUEST);
    ck_assert_ptr_nonnull(strstr(msg.text, "settings.policy: best"));
    ck_assert_ptr_nonnull(strstr(msg.text, "lru, s3fifo, arc"));
    pikv__settings__init(&s);
    s.share = REGISTRY_SHARE_MAX + 1;
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), ERR_LIMIT);
    pikv__settings__init(&s);
    s.loans = text_of("maybe");
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg),
                     ERR_BAD_REQUEST);
    pikv__settings__init(&s);
    s.codec = text_of("zstd");
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg),
                     ERR_UNSUPPORTED);
    pikv__settings__init(&s);
    s.dram = text_of("write_buffer");
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg),
                     ERR_UNSUPPORTED);
    reg.ssd = true;
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), OK);
    ck_assert_int_eq(ns.settings.dram, TIERING_WRITE_BUFFER);
    s.dram = text_of("sometimes");
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg),
                     ERR_BAD_REQUEST);
    pikv__settings__init(&s);
    s.quota_bytes = GIB(65536) + 1;
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), ERR_LIMIT);
}
END_TEST

static enum err open_loans(const char *name)
{
    struct want *w = want_of(name);
    enum err e;

    w->settings.loans = text_of("on");
    e = open_ns(&w->open);
    if (!e)
        registry_put(&reg, &ns);
    return e;
}

START_TEST(each_loan_namespace_has_its_own_pool_as_long_as_there_are_some)
{
    Pikv__Settings s;

    ck_assert_int_eq(open_loans("a"), ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(msg.text, "dram.loan_capacity"));
    reg.loan_pools = 2;
    put_ns("plain");
    ck_assert_int_eq(open_loans("a"), OK);
    ck_assert_uint_eq(ns.pool, 1);
    ck_assert_int_eq(open_loans("b"), OK);
    ck_assert_uint_eq(ns.pool, 2);
    ck_assert_int_eq(open_loans("c"), ERR_UNSUPPORTED);
    pikv__settings__init(&s);
    s.loans = text_of("any");
    ck_assert_int_eq(registry_change(&reg, "plain", &s, &ns, &msg),
                     ERR_UNSUPPORTED);
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), OK);
    s.loans = text_of("off");
    ck_assert_int_eq(registry_change(&reg, "a", &s, &ns, &msg), OK);
    ck_assert_uint_eq(ns.pool, 1);
}
END_TEST

START_TEST(a_generation_is_never_used_twice)
{
    uint64_t last = 0;

    put_ns("a");
    for (int i = 0; i < 5; i++) {
        ck_assert_uint_gt(ns.generation, last);
        last = ns.generation;
        registry_bump(&reg, &ns, &ns);
        registry_put(&reg, &ns);
    }
    put_ns("b");
    ck_assert_uint_gt(ns.generation, last);
    ck_assert_uint_eq(registry_find(&reg, "a")->id, 1);
}
END_TEST

static void saved(struct textbuf *out, const struct registry_ns *draft)
{
    *out = (struct textbuf){0};
    registry_text(&reg, draft, out);
    ck_assert(!out->bad);
}

START_TEST(text_brings_everything_back_at_an_older_clock_too)
{
    struct registry_ns have[3];
    struct textbuf text;

    reg.loan_pools = 1;
    put_ns("a");
    ck_assert_int_eq(open_loans("b"), OK);
    have[1] = *registry_find(&reg, "b");
    registry_bump(&reg, registry_find(&reg, "a"), &ns);
    saved(&text, &ns);
    have[0] = ns;
    registry_fini(&reg);
    ck_assert_int_eq(registry_init(&reg, &cfg, 5), OK);
    reg.loan_pools = 1;
    ck_assert_int_eq(registry_load(&reg, text.text, text.len, &msg), OK);
    ck_assert_uint_eq(reg.n, 2);
    ck_assert_mem_eq(registry_find(&reg, "a"), &have[0], sizeof(have[0]));
    ck_assert_mem_eq(registry_find(&reg, "b"), &have[1], sizeof(have[1]));
    put_ns("c");
    ck_assert_uint_gt(ns.generation, have[0].generation);
    free(text.text);
}
END_TEST

START_TEST(a_newer_clock_moves_generations_on)
{
    struct textbuf text;

    put_ns("a");
    saved(&text, NULL);
    registry_fini(&reg);
    ck_assert_int_eq(registry_init(&reg, &cfg, 2000), OK);
    ck_assert_int_eq(registry_load(&reg, text.text, text.len, &msg), OK);
    ck_assert_uint_eq(reg.next_generation, UINT64_C(2000));
    free(text.text);
}
END_TEST

START_TEST(loan_pools_that_are_gone_leave_a_namespace_without)
{
    struct textbuf text;

    reg.loan_pools = 1;
    ck_assert_int_eq(open_loans("a"), OK);
    saved(&text, NULL);
    registry_fini(&reg);
    ck_assert_int_eq(registry_init(&reg, &cfg, 1), OK);
    ck_assert_int_eq(registry_load(&reg, text.text, text.len, &msg), OK);
    ck_assert_uint_eq(registry_find(&reg, "a")->pool, 0);
    free(text.text);
}
END_TEST

/* ---- In a cluster -------------------------------------------------------- */

static void enter(const char *id)
{
    registry_fini(&reg);
    cfg.cluster.enabled = true;
    snprintf(cfg.cluster.id, sizeof(cfg.cluster.id), "%s", id);
    ck_assert_int_eq(registry_init(&reg, &cfg, 5000), OK);
}

START_TEST(all_nodes_of_a_cluster_give_a_namespace_the_same_slots)
{
    uint64_t a, b;

    enter("house");
    put_ns("a");
    a = ns.slot_seed;
    put_ns("b");
    b = ns.slot_seed;
    ck_assert_uint_ne(a, b);
    enter("house"); /* another node, whose clock and chance differ */
    seed = 99;
    put_ns("b");
    ck_assert_uint_eq(ns.slot_seed, b);
    enter("garden");
    put_ns("b");
    ck_assert_uint_ne(ns.slot_seed, b);
}
END_TEST

START_TEST(a_node_that_joins_a_cluster_changes_slots_and_generations_once)
{
    struct textbuf text;
    uint64_t before;

    put_ns("a");
    before = ns.generation;
    ck_assert_uint_eq(registry_reseed(&reg), 0); /* no cluster */
    saved(&text, NULL);
    enter("house");
    ck_assert_int_eq(registry_load(&reg, text.text, text.len, &msg), OK);
    free(text.text);
    ck_assert_uint_eq(registry_reseed(&reg), 1);
    ck_assert_uint_eq(registry_find(&reg, "a")->slot_seed,
                      registry_seed(&reg, "a"));
    ck_assert_uint_gt(registry_find(&reg, "a")->generation, before);
    before = registry_find(&reg, "a")->generation;
    ck_assert_uint_eq(registry_reseed(&reg), 0);
    ck_assert_uint_eq(registry_find(&reg, "a")->generation, before);
    put_ns("b");
    ck_assert_uint_gt(ns.generation, before);
}
END_TEST

START_TEST(which_flush_was_obeyed_is_kept)
{
    struct registry_ns draft;
    struct textbuf text;

    enter("house");
    put_ns("a");
    put_ns("b");
    registry_flush(&reg, registry_find(&reg, "a"), 7, &draft);
    ck_assert_uint_gt(draft.generation, registry_find(&reg, "a")->generation);
    saved(&text, &draft);
    enter("house");
    ck_assert_int_eq(registry_load(&reg, text.text, text.len, &msg), OK);
    ck_assert_uint_eq(registry_find(&reg, "a")->flushes, 7);
    ck_assert_uint_eq(registry_find(&reg, "a")->generation, draft.generation);
    ck_assert_uint_eq(registry_find(&reg, "b")->flushes, 0);
    free(text.text);
}
END_TEST

/* What was read is written as it was read, so that a damaged text that loads
 * all the same is at least a registry that holds its invariants. */
static void load_damaged(const char *text, size_t len)
{
    enum err e = registry_load(&reg, text, len, &msg);

    if (e) {
        ck_assert_int_eq(e, ERR_CONFIG);
        ck_assert_uint_eq(reg.n, 0);
        ck_assert_int_ne(msg.text[0], '\0');
        return;
    }
    for (uint32_t i = 0; i < reg.n; i++) {
        ck_assert_uint_eq(reg.ns[i].id, i + 1);
        ck_assert_uint_lt(reg.ns[i].generation, reg.next_generation);
        ck_assert_ptr_eq(registry_find(&reg, reg.ns[i].name), &reg.ns[i]);
    }
    reg.n = 0;
}

START_TEST(a_damaged_text_is_refused_or_still_a_registry)
{
    struct textbuf text;

    put_ns("a");
    put_ns("b");
    saved(&text, NULL);
    reg.n = 0;
    for (size_t n = 0; n < text.len - 1; n++) {
        msg.text[0] = '\0';
        ck_assert_int_eq(registry_load(&reg, text.text, n, &msg), ERR_CONFIG);
    }
    for (size_t i = 0; i < text.len; i++) {
        char old = text.text[i];

        for (int bit = 0; bit < 8; bit++) {
            text.text[i] = (char)(old ^ (1 << bit));
            load_damaged(text.text, text.len);
        }
        text.text[i] = old;
    }
    free(text.text);
}
END_TEST

static void load_refused(const char *text, const char *word)
{
    ck_assert_int_eq(registry_load(&reg, text, strlen(text), &msg), ERR_CONFIG);
    ck_assert_msg(strstr(msg.text, word), "%s lacks %s", msg.text, word);
    ck_assert_uint_eq(reg.n, 0);
}

START_TEST(a_text_from_before_the_ssd_tier_is_read)
{
    struct textbuf text = {0};
    char *at;

    put_ns("a");
    registry_text(&reg, NULL, &text);
    registry_fini(&reg);
    ck_assert_int_eq(registry_init(&reg, &cfg, 1), OK);
    at = strstr(text.text, ", \"dram\": \"cache\"");
    ck_assert_ptr_nonnull(at);
    memmove(at, at + strlen(", \"dram\": \"cache\""),
            strlen(at + strlen(", \"dram\": \"cache\"")) + 1);
    ck_assert_int_eq(registry_load(&reg, text.text, strlen(text.text), &msg),
                     OK);
    ck_assert_int_eq(reg.ns[0].settings.dram, TIERING_CACHE);
    free(text.text);
}
END_TEST

START_TEST(lanes_are_told_what_memory_is_to_a_namespace)
{
    struct store_ns_cfg out;

    memset(&ns, 0, sizeof(ns));
    registry_ns_cfg(&ns, 1, &out);
    ck_assert(!out.write_buffer);
    ns.settings.dram = TIERING_WRITE_BUFFER;
    registry_ns_cfg(&ns, 1, &out);
    ck_assert(out.write_buffer);
}
END_TEST

START_TEST(a_foreign_text_says_what_is_wrong)
{
    load_refused("{", "line 1");
    load_refused("[]", "format");
    load_refused("{\"format\": 2, \"next_generation\": 1, \"namespaces\": []}",
                 "this version reads 1");
    load_refused("{\"format\": 1, \"next_generation\": -1}", "next_generation");
    load_refused("{\"format\": 1, \"next_generation\": 1, \"namespaces\": [],"
                 " \"x\": 1}",
                 "x: not known");
    load_refused("{\"format\": 1, \"next_generation\": 1,"
                 " \"namespaces\": [{}]}",
                 "namespaces[0]: name");
}
END_TEST

START_TEST(lanes_get_their_part_of_the_quota)
{
    struct store_ns_cfg out;

    put_ns("a");
    ns.settings.quota_bytes = 10;
    registry_ns_cfg(&ns, 4, &out);
    ck_assert_uint_eq(out.quota_bytes, 2);
    ns.settings.quota_bytes = 3;
    registry_ns_cfg(&ns, 4, &out);
    ck_assert_uint_eq(out.quota_bytes, 1);
    ns.settings.quota_bytes = 0;
    registry_ns_cfg(&ns, 4, &out);
    ck_assert_uint_eq(out.quota_bytes, 0);
    ck_assert_uint_eq(out.id, 1);
    ck_assert_uint_eq(out.generation, ns.generation);
    ck_assert_mem_eq(out.salt, ns.salt, 32);
    ck_assert_uint_eq(out.block_bytes[0], 65536);
    ck_assert_uint_eq(out.block_bytes[2], 0);
}
END_TEST

START_TEST(init_without_memory_is_an_error)
{
    struct registry r;

    fault_arm(1);
    ck_assert_int_eq(registry_init(&r, &cfg, 1), ERR_NO_MEMORY);
    ck_assert(fault_hit());
    fault_arm(0);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("registry");
    TCase *t = tcase_create("registry");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, open_creates_with_the_configured_defaults);
    tcase_add_test(t, a_draft_changes_nothing_until_it_is_put);
    tcase_add_test(t, opening_again_gives_the_same_namespace);
    tcase_add_test(t, another_fingerprint_names_the_field_and_both_values);
    tcase_add_test(t, other_groups_are_a_mismatch_and_none_are_no_question);
    tcase_add_test(t, a_tool_may_open_without_a_fingerprint_but_not_create);
    tcase_add_test(t, all_nodes_of_a_cluster_give_a_namespace_the_same_slots);
    tcase_add_test(
        t, a_node_that_joins_a_cluster_changes_slots_and_generations_once);
    tcase_add_test(t, which_flush_was_obeyed_is_kept);
    tcase_add_test(t, creation_needs_the_wish_the_permission_and_room);
    tcase_add_test(t, bad_names_and_fields_are_refused_by_name);
    tcase_add_test(t, settings_are_checked_and_absent_ones_stay);
    tcase_add_test(
        t, each_loan_namespace_has_its_own_pool_as_long_as_there_are_some);
    tcase_add_test(t, a_generation_is_never_used_twice);
    tcase_add_test(t, text_brings_everything_back_at_an_older_clock_too);
    tcase_add_test(t, a_newer_clock_moves_generations_on);
    tcase_add_test(t, loan_pools_that_are_gone_leave_a_namespace_without);
    tcase_add_test(t, a_damaged_text_is_refused_or_still_a_registry);
    tcase_add_test(t, a_foreign_text_says_what_is_wrong);
    tcase_add_test(t, a_text_from_before_the_ssd_tier_is_read);
    tcase_add_test(t, lanes_are_told_what_memory_is_to_a_namespace);
    tcase_add_test(t, lanes_get_their_part_of_the_quota);
    tcase_add_test(t, init_without_memory_is_an_error);
    suite_add_tcase(s, t);
    return s;
}

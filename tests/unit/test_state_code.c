/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base */
#include "cluster/state.h"

#include "base/fault.h"
#include "lib/state_say.h"

enum { CRC = 4 };

/* ---- The bytes of commands ---- */

static struct slot_row some_rows[] = {
    {.slot = 1, .to = {{0, 1, NONE}, NONE, 2, 3, 0}},
    {.slot = 9, .to = {{NONE, NONE, NONE}, NONE, NONE, 0, 0}},
};
static struct expert_place some_experts[] = {{1, 2, 3, 4, 1, 6},
                                             {7, 8, 9, 1, 2, 3}};

static void sample(struct cmd c[CMD_VOTER])
{
    c[0] = join(4, 9);
    c[0].node.speaks = 4;
    c[0].node.voter = true;
    strcpy(c[0].node.rack, "r");
    c[1] = (struct cmd){.kind = CMD_SET_STATE,
                        .index = 4,
                        .incarnation = 8,
                        .new_state = NODE_DRAINING,
                        .flag = true};
    c[2] = (struct cmd){
        .kind = CMD_SLOTS, .base_epoch = 99, .rows = some_rows, .row_n = 2};
    c[3] = experts(some_experts, 2);
    c[4] = tenant(8, "green");
    c[4].tenant.quota_bytes = 7;
    c[4].tenant.key_hash[31] = 6;
    c[4].flag = true;
    c[5] = flush("a namespace");
    c[6] = (struct cmd){.kind = CMD_FEATURE, .level = 12};
    c[7] = (struct cmd){
        .kind = CMD_GENERATION, .level = 3, .voters = {5, 6, 7}, .voter_n = 3};
    c[8] = (struct cmd){.kind = CMD_VOTER, .index = 3, .flag = true};
    for (int i = 0; i < CMD_VOTER; i++)
        c[i].id = 1000 + (uint64_t)i;
}

START_TEST(every_command_comes_back_from_its_bytes)
{
    struct bytes b = {0}, again = {0}, scratch = {0};
    struct cmd c[CMD_VOTER], d;

    sample(c);
    for (int i = 0; i < CMD_VOTER; i++) {
        encode(&c[i], &b);
        ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), OK);
        ck_assert_int_eq(d.kind, c[i].kind);
        ck_assert_uint_eq(d.id, c[i].id);
        encode(&d, &again);
        ck_assert_uint_eq(b.len, again.len);
        ck_assert_mem_eq(b.p, again.p, b.len);
        /* and not by both forgetting it */
        ck_assert_str_eq(d.node.name, c[i].node.name);
        ck_assert_uint_eq(d.incarnation, c[i].incarnation);
        ck_assert_uint_eq(d.index, c[i].index);
        ck_assert_uint_eq(d.level, c[i].level);
        ck_assert_uint_eq(d.new_state, c[i].new_state);
        ck_assert_int_eq(d.flag, c[i].flag);
        ck_assert_uint_eq(d.base_epoch, c[i].base_epoch);
        ck_assert_mem_eq(&d.tenant, &c[i].tenant, sizeof(d.tenant));
        ck_assert_str_eq(d.name, c[i].name);
        ck_assert_mem_eq(d.voters, c[i].voters, sizeof(d.voters));
        ck_assert_uint_eq(d.row_n, c[i].row_n);
        ck_assert_uint_eq(d.expert_n, c[i].expert_n);
    }
    encode(&c[2], &b);
    ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), OK);
    ck_assert_mem_eq(d.rows, some_rows, sizeof(some_rows));
    encode(&c[3], &b);
    ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), OK);
    ck_assert_mem_eq(d.experts, some_experts, sizeof(some_experts));
    bytes_fini(&b);
    bytes_fini(&again);
    bytes_fini(&scratch);
}
END_TEST

START_TEST(the_largest_commands_fit_and_larger_ones_do_not)
{
    static struct slot_row rows[CMD_SLOTS_MAX + 1];
    static struct expert_place places[CMD_EXPERTS_MAX + 1];
    struct bytes b = {0};
    struct cmd s = {.kind = CMD_SLOTS, .id = 1, .rows = rows};
    struct cmd e = {.kind = CMD_EXPERTS, .id = 1, .experts = places};
    struct cmd g = {.kind = CMD_GENERATION, .id = 1, .voter_n = 8};

    bytes_put_u8(&b, 7);
    s.row_n = CMD_SLOTS_MAX + 1;
    ck_assert_int_eq(cmd_encode(&s, &b), ERR_LIMIT);
    e.expert_n = CMD_EXPERTS_MAX + 1;
    ck_assert_int_eq(cmd_encode(&e, &b), ERR_LIMIT);
    ck_assert_int_eq(cmd_encode(&g, &b), ERR_LIMIT);
    ck_assert_uint_eq(b.len, 1);
    s.row_n--;
    encode(&s, &b);
    ck_assert_uint_le(b.len, CMD_BYTES_MAX);
    e.expert_n--;
    encode(&e, &b);
    ck_assert_uint_le(b.len, CMD_BYTES_MAX);
    bytes_fini(&b);
}
END_TEST

static void reseal(uint8_t *p, size_t n)
{
    uint32_t crc = crc32c(0, p, n - CRC);

    memcpy(p + n - CRC, &crc, sizeof(crc));
}

START_TEST(cut_longer_or_odd_commands_are_refused)
{
    struct bytes b = {0}, scratch = {0};
    struct cmd c[CMD_VOTER], d;

    sample(c);
    for (int i = 0; i < CMD_VOTER; i++) {
        encode(&c[i], &b);
        b.p[0] ^= 1; /* not under this crc */
        ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), ERR_BAD_REQUEST);
        reseal(b.p, b.len); /* a version that is not known */
        ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), ERR_BAD_REQUEST);
        b.p[0] ^= 1;
        bytes_put_u8(&b, 0);
        reseal(b.p, b.len);
        ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), ERR_BAD_REQUEST);
        while (--b.len > CRC + 1) {
            reseal(b.p, b.len - 1);
            ck_assert_int_eq(cmd_decode(&d, b.p, b.len - 1, &scratch),
                             ERR_BAD_REQUEST);
        }
    }
    bytes_fini(&b);
    bytes_fini(&scratch);
}
END_TEST

/* Offsets of the encoding: 0 version, 1 kind, 2 zero, 4 id, 12 members. */
START_TEST(members_out_of_their_range_are_refused)
{
    static const struct {
        int cmd;
        size_t at;
        uint8_t value;
    } t[] = {
        {0, 1, 0},  {0, 1, 10}, {0, 2, 1},  {1, 18, 5}, {1, 19, 2},
        {2, 20, 3}, {2, 23, 1}, {3, 12, 3}, {3, 15, 1}, {4, 12, 2},
        {7, 16, 8}, {7, 16, 4}, {8, 14, 2},
    };
    struct bytes b = {0}, scratch = {0};
    struct cmd c[CMD_VOTER], d;

    sample(c);
    for (size_t i = 0; i < countof(t); i++) {
        encode(&c[t[i].cmd], &b);
        ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), OK);
        b.p[t[i].at] = t[i].value;
        reseal(b.p, b.len);
        ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), ERR_BAD_REQUEST);
    }
    c[0].id = 0;
    encode(&c[0], &b);
    ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), ERR_BAD_REQUEST);
    bytes_fini(&b);
    bytes_fini(&scratch);
}
END_TEST

/* ---- Snapshots ---- */

static struct node *some_node(struct state *s)
{
    return &s->view.nodes[chance(s->view.node_n)];
}

static struct cmd random_join(struct state *s)
{
    struct cmd c = join(chance(14), 1 + chance(4));

    if (chance(8) == 0)
        c.node.uuid++;
    c.node.voter = chance(4) == 0;
    c.node.speaks = chance(20) ? 3 : 1;
    if (s->view.node_n && chance(2)) {
        c.node = *some_node(s);
        c.node.incarnation++;
    }
    return c;
}

static struct cmd random_slots(struct state *s)
{
    static struct slot_row rows[300];
    uint32_t n = 1 + chance(chance(4) ? 10 : 300), at = chance(WIRE_SLOTS);

    for (uint32_t i = 0; i < n; i++) {
        rows[i] = row(at + i, chance(s->view.node_n), NONE, NONE);
        if (chance(3))
            rows[i].to.owner[1] = (uint16_t)chance(s->view.node_n);
        if (chance(5) == 0)
            rows[i].to.to = (uint16_t)chance(s->view.node_n);
    }
    return (struct cmd){.kind = CMD_SLOTS,
                        .base_epoch = s->view.epoch - chance(5),
                        .rows = rows,
                        .row_n = n};
}

static struct cmd random_experts(struct state *s)
{
    static struct expert_place p[20];
    uint32_t n = 1 + chance(20);

    for (uint32_t i = 0; i < n; i++) {
        p[i] =
            place(chance(3), i + chance(2), chance(2), chance(s->view.node_n));
        p[i].tier = chance(4) ? (uint8_t)chance(3) : 0xff;
    }
    return experts(p, n);
}

static struct cmd random_cmd(struct state *s)
{
    char name[8];

    snprintf(name, sizeof(name), "x%u", chance(20));
    if (s->view.node_n < 4)
        return random_join(s);
    switch (chance(12)) {
    case 0:
        return random_join(s);
    case 1:
        return flush(name);
    case 2: {
        struct cmd c = tenant(chance(20), name);

        c.flag = chance(3) == 0;
        return c;
    }
    case 3:
        return (struct cmd){.kind = CMD_FEATURE, .level = chance(4)};
    case 4:
        return (struct cmd){.kind = CMD_GENERATION,
                            .voters = {0, 1, 2},
                            .voter_n = 1 + chance(3)};
    case 5:
        return (struct cmd){.kind = CMD_VOTER,
                            .index = (uint16_t)chance(s->view.node_n + 1),
                            .flag = chance(2)};
    case 6:
    case 7:
        return random_experts(s);
    case 8:
    case 9:
        return random_slots(s);
    default:
        return become(s, chance(s->view.node_n), (enum node_state)chance(5));
    }
}

static void restore(struct state *to, const struct state *from)
{
    struct bytes b = {0};

    state_encode(from, &b);
    ck_assert(!b.bad);
    ck_assert_uint_le(b.len, STATE_BYTES_MAX);
    ck_assert_int_eq(state_decode(to, b.p, b.len), OK);
    ck_assert_uint_eq(state_digest(to), state_digest(from));
    bytes_fini(&b);
}

/* Both hear the same; one is restored from the other, or itself, now and
 * then. */
START_TEST(replicas_agree_wherever_they_took_their_snapshots)
{
    struct bytes b = {0};
    uint32_t ok = 0, no = 0;
    struct state s, t;
    struct answer a;

    begin(&s, 0);
    begin(&t, 0);
    for (uint32_t i = 1; i <= 4000; i++) {
        struct cmd c = random_cmd(&s);

        c.id = chance(30) ? 1 + ((uint64_t)i << 8) : 1 + chance(900);
        encode(&c, &b);
        if (chance(40) == 0)
            b.p[chance((uint32_t)b.len)] ^= 4;
        state_apply(&s, i, b.p, b.len, &ans);
        state_apply(&t, i, b.p, b.len, &a);
        ck_assert_int_eq(a.err, ans.err);
        ck_assert_uint_eq(a.value, ans.value);
        ck_assert_str_eq(a.msg.text, ans.msg.text);
        if (ans.err == OK)
            ok++;
        else
            no++;
        if (chance(100) == 0)
            restore(&t, &t);
        if (chance(200) == 0)
            restore(&s, &t);
        if (i % 50 == 0) {
            ck_assert_uint_eq(state_digest(&s), state_digest(&t));
            ck_assert_ptr_null(view_wrong(&s.view));
        }
    }
    ck_assert_uint_gt(ok, 1000);
    ck_assert_uint_gt(no, 300);
    ck_assert_uint_gt(s.view.node_n, 10);
    ck_assert_uint_gt(s.view.generation, 2);
    ck_assert_uint_gt(s.tenant_n, 3);
    ck_assert_uint_gt(s.flush_n, 3);
    bytes_fini(&b);
    state_fini(&s);
    state_fini(&t);
}
END_TEST

static void full(struct state *s)
{
    static struct slot_row rows[CMD_SLOTS_MAX];
    static struct expert_place p[CMD_EXPERTS_MAX];
    char name[64];
    struct cmd c;

    begin(s, 0);
    for (uint32_t i = 0; i < 2500; i++) {
        c = join(i, 1);
        memset(c.node.shm, 's', NODE_ADDR_MAX - 1);
        memset(c.node.ucx, 'u', NODE_ADDR_MAX - 1);
        if (say(s, c) == OK && i < 50)
            ck_assert_int_eq(say(s, become(s, i, NODE_UP)), OK);
    }
    for (uint32_t i = 0; i < WIRE_SLOTS / CMD_SLOTS_MAX; i++) {
        for (uint32_t k = 0; k < CMD_SLOTS_MAX; k++) {
            rows[k] = row(k * (WIRE_SLOTS / CMD_SLOTS_MAX) + i, k % 16,
                          16 + (i + k) % 16, 32 + i % 16);
            rows[k].to.to = 49;
        }
        ck_assert_int_eq(say(s, slots(s, rows, CMD_SLOTS_MAX)), OK);
    }
    for (uint32_t n = 0; n < STATE_EXPERTS_MAX;) {
        uint32_t k = 0;

        for (; k < CMD_EXPERTS_MAX && n < STATE_EXPERTS_MAX; k++, n++)
            p[k] = place(n / 64, n % 64, 0, 0);
        ck_assert_int_eq(say(s, experts(p, k)), OK);
    }
    for (uint32_t i = 0; i < STATE_FLUSHES_MAX; i++) {
        snprintf(name, sizeof(name), "%063u", i);
        ck_assert_int_eq(say(s, flush(name)), OK);
    }
    for (uint32_t i = 0; i < STATE_TENANTS_MAX; i++) {
        snprintf(name, sizeof(name), "%063u", i);
        ck_assert_int_eq(say(s, tenant(i + 1, name)), OK);
    }
    c = join(0, 1);
    memset(c.node.peer, 'p', NODE_ADDR_MAX - 1);
    for (uint32_t i = 0; i < STATE_DEDUPE; i++)
        ck_assert_int_eq(say(s, c), ERR_DENIED);
}

START_TEST(the_largest_state_fits_a_snapshot)
{
    struct bytes b = {0};
    struct state s, t;

    full(&s);
    begin(&t, 1);
    state_encode(&s, &b);
    ck_assert_uint_le(b.len, STATE_BYTES_MAX);
    ck_assert_uint_gt(b.len, STATE_BYTES_MAX / 2); /* it was large */
    ck_assert_int_eq(state_decode(&t, b.p, b.len), OK);
    ck_assert_uint_eq(state_digest(&s), state_digest(&t));
    bytes_fini(&b);
    state_fini(&s);
    state_fini(&t);
}
END_TEST

static void small(struct state *s)
{
    struct expert_place p[] = {place(1, 1, 0, 0), place(2, 2, 0, 1)};
    struct slot_row r = row(5, 0, 1, NONE);

    begin(s, 2);
    ck_assert_int_eq(say(s, slots(s, &r, 1)), OK);
    ck_assert_int_eq(say(s, experts(p, 2)), OK);
    ck_assert_int_eq(say(s, tenant(1, "red")), OK);
    ck_assert_int_eq(say(s, flush("kv")), OK);
    ck_assert_int_eq(say(s, flush("")), ERR_BAD_REQUEST);
}

START_TEST(cut_or_changed_snapshots_are_refused)
{
    struct bytes b = {0}, x = {0};
    struct state s, t;
    uint64_t before;

    small(&s);
    begin(&t, 1);
    before = state_digest(&t);
    state_encode(&s, &b);
    for (size_t n = 0; n < b.len; n += 1 + n % 7)
        ck_assert_int_eq(state_decode(&t, b.p, n), ERR_BAD_REQUEST);
    for (size_t n = 0; n < b.len - CRC; n += 1 + n % 7) {
        x.len = 0;
        bytes_put(&x, b.p, n);
        bytes_seal(&x, 0);
        ck_assert_int_eq(state_decode(&t, x.p, x.len), ERR_BAD_REQUEST);
    }
    x.len = 0;
    bytes_put(&x, b.p, b.len - CRC);
    bytes_put_u8(&x, 0);
    bytes_seal(&x, 0);
    ck_assert_int_eq(state_decode(&t, x.p, x.len), ERR_BAD_REQUEST);
    ck_assert_uint_eq(state_digest(&t), before);
    b.p[4]++; /* the version */
    reseal(b.p, b.len);
    ck_assert_int_eq(state_decode(&t, b.p, b.len), ERR_BAD_VERSION);
    bytes_fini(&b);
    bytes_fini(&x);
    state_fini(&s);
    state_fini(&t);
}
END_TEST

/* Any byte changed: refused, or a state that goes on and keeps the rules. */
START_TEST(changed_snapshots_never_make_a_wrong_state)
{
    struct bytes b = {0}, again = {0};
    struct state s, t;

    small(&s);
    begin(&t, 0);
    state_encode(&s, &b);
    for (size_t at = 0; at < b.len - CRC; at++) {
        uint8_t was = b.p[at];

        b.p[at] ^= (uint8_t)(1u << chance(8));
        reseal(b.p, b.len);
        if (state_decode(&t, b.p, b.len) == OK) {
            ck_assert_ptr_null(view_wrong(&t.view));
            again.len = 0;
            state_encode(&t, &again);
            ck_assert_int_eq(state_decode(&t, again.p, again.len), OK);
            if (t.applied < UINT64_MAX)
                say(&t, flush("kv"));
        }
        b.p[at] = was;
    }
    bytes_fini(&b);
    bytes_fini(&again);
    state_fini(&s);
    state_fini(&t);
}
END_TEST

START_TEST(a_snapshot_with_too_many_names_is_refused)
{
    struct bytes b = {0};
    struct state s, t;

    begin(&s, 0);
    begin(&t, 1);
    for (uint32_t i = 0; i < NODES_MAX; i++) {
        s.view.nodes[i] = join(i, 1).node;
        memset(s.view.nodes[i].rack, 'r', NODE_NAME_MAX - 1);
        memset(s.view.nodes[i].shm, 's', NODE_ADDR_MAX - 1);
    }
    s.view.node_n = NODES_MAX;
    state_encode(&s, &b);
    ck_assert_int_eq(state_decode(&t, b.p, b.len), OK);
    for (uint32_t i = 0; i < NODES_MAX; i++)
        memset(s.view.nodes[i].zone, 'z', NODE_NAME_MAX - 1);
    b.len = 0;
    state_encode(&s, &b);
    ck_assert_int_eq(state_decode(&t, b.p, b.len), ERR_BAD_REQUEST);
    ck_assert_int_eq(t.view.nodes[0].zone[0], 0);
    bytes_fini(&b);
    state_fini(&s);
    state_fini(&t);
}
END_TEST

START_TEST(an_empty_state_comes_back_too)
{
    struct state s, t = {0};

    begin(&s, 0);
    restore(&t, &s);
    ck_assert_uint_eq(t.view.cluster, 77);
    ck_assert_int_eq(say(&t, join(0, 1)), OK);
    state_fini(&s);
    state_fini(&t);
    state_fini(&t); /* zeros */
}
END_TEST

/* ---- No memory ---- */

START_TEST(without_memory_nothing_is_restored)
{
    struct bytes b = {0};
    struct state s, t;
    uint64_t before;
    uint32_t i;

    small(&s);
    begin(&t, 1);
    before = state_digest(&t);
    state_encode(&s, &b);
    for (i = 1;; i++) {
        enum err e;

        fault_arm(i);
        e = state_decode(&t, b.p, b.len);
        if (!fault_hit())
            break;
        ck_assert_int_eq(e, ERR_NO_MEMORY);
        ck_assert_uint_eq(state_digest(&t), before);
    }
    ck_assert_uint_gt(i, 12);
    ck_assert_uint_eq(state_digest(&t), state_digest(&s));
    for (i = 1;; i++) {
        struct bytes x = {0};

        fault_arm(i);
        state_encode(&s, &x);
        ck_assert_int_eq(x.bad, fault_hit());
        bytes_fini(&x);
        if (!fault_hit())
            break;
    }
    for (i = 1;; i++) {
        struct state x;
        enum err e;

        fault_arm(i);
        e = state_init(&x, 1);
        ck_assert_int_eq(e, fault_hit() ? ERR_NO_MEMORY : OK);
        state_fini(&x);
        if (!fault_hit())
            break;
    }
    ck_assert_uint_gt(i, 8);
    bytes_fini(&b);
    state_fini(&s);
    state_fini(&t);
}
END_TEST

/* Or voters short of memory would come to another state. */
START_TEST(applying_takes_no_memory)
{
    struct bytes b = {0};
    struct state s;

    begin(&s, 0);
    for (uint32_t i = 1; i <= 1000; i++) {
        struct cmd c = random_cmd(&s);

        c.id = i;
        encode(&c, &b);
        fault_arm_forever(1);
        state_apply(&s, i, b.p, b.len, &ans);
        ck_assert(!fault_hit());
        fault_arm(0);
        ck_assert_int_ne(ans.err, ERR_NO_MEMORY);
    }
    bytes_fini(&b);
    state_fini(&s);
}
END_TEST

START_TEST(a_command_without_memory_is_neither_said_nor_heard)
{
    struct bytes b = {0}, scratch = {0};
    struct cmd c[CMD_VOTER], d;

    sample(c);
    for (uint32_t i = 1;; i++) {
        fault_arm(i);
        if (cmd_encode(&c[0], &b) == OK)
            break;
        ck_assert(fault_hit());
        ck_assert_uint_eq(b.len, 0);
        b.bad = false;
    }
    fault_arm(0);
    encode(&c[2], &b);
    fault_arm(1);
    ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), ERR_NO_MEMORY);
    ck_assert_int_eq(cmd_decode(&d, b.p, b.len, &scratch), OK);
    bytes_fini(&b);
    bytes_fini(&scratch);
}
END_TEST

static void start(void)
{
    seed = UINT64_C(0x9e3779b97f4a7c15);
}

static TCase *cases(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, start, NULL);
    suite_add_tcase(s, t);
    return t;
}

Suite *suite(void)
{
    Suite *s = suite_create("state_code");
    TCase *t = cases(s, "commands");

    tcase_add_test(t, every_command_comes_back_from_its_bytes);
    tcase_add_test(t, the_largest_commands_fit_and_larger_ones_do_not);
    tcase_add_test(t, cut_longer_or_odd_commands_are_refused);
    tcase_add_test(t, members_out_of_their_range_are_refused);
    t = cases(s, "snapshots");
    tcase_add_test(t, replicas_agree_wherever_they_took_their_snapshots);
    tcase_add_test(t, the_largest_state_fits_a_snapshot);
    tcase_add_test(t, cut_or_changed_snapshots_are_refused);
    tcase_add_test(t, changed_snapshots_never_make_a_wrong_state);
    tcase_add_test(t, a_snapshot_with_too_many_names_is_refused);
    tcase_add_test(t, an_empty_state_comes_back_too);
    tcase_add_test(t, without_memory_nothing_is_restored);
    tcase_add_test(t, applying_takes_no_memory);
    tcase_add_test(t, a_command_without_memory_is_neither_said_nor_heard);
    return s;
}

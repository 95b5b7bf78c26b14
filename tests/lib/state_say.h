/* SPDX-License-Identifier: Apache-2.0
 *
 * Saying commands to a struct state in tests: short words for each kind, and
 * chance with a seed. The answer of the last one is in ans. */
#ifndef TESTS_LIB_STATE_SAY_H
#define TESTS_LIB_STATE_SAY_H

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "cluster/state.h"

enum { NONE = NODE_NONE };

static uint64_t seed;
static struct answer ans; /* of the last command */

static inline uint32_t chance(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 11) % n);
}

/* ---- Saying commands ---- */

static inline void encode(const struct cmd *c, struct bytes *b)
{
    b->len = 0;
    ck_assert_int_eq(cmd_encode(c, b), OK);
}

/* The next index; a fresh id where there is none. */
static inline enum err say(struct state *s, struct cmd c)
{
    struct bytes b = {0};

    if (!c.id)
        c.id = 1 + hash_64(1, &s->applied, sizeof(s->applied));
    encode(&c, &b);
    state_apply(s, s->applied + 1, b.p, b.len, &ans);
    bytes_fini(&b);
    return ans.err;
}

static inline struct cmd join(uint32_t i, uint32_t incarnation)
{
    struct cmd c = {.kind = CMD_JOIN};
    struct node *n = &c.node;

    snprintf(n->name, sizeof(n->name), "n%u", i);
    snprintf(n->peer, sizeof(n->peer), "10.0.0.%u:7070", i);
    n->uuid = 100 + i;
    n->incarnation = incarnation;
    n->lane_n = 2;
    n->weight = 1000;
    return c;
}

static inline struct cmd become(const struct state *s, uint32_t i,
                                enum node_state to)
{
    return (struct cmd){.kind = CMD_SET_STATE,
                        .index = (uint16_t)i,
                        .incarnation = s->view.nodes[i].incarnation,
                        .new_state = (uint8_t)to};
}

static inline struct slot_row row(uint32_t slot, uint32_t a, uint32_t b,
                                  uint32_t c)
{
    return (struct slot_row){
        .slot = (uint16_t)slot,
        .to = {.owner = {(uint16_t)a, (uint16_t)b, (uint16_t)c},
               .from = NONE,
               .to = NONE}};
}

static inline struct cmd slots(const struct state *s, struct slot_row *rows,
                               uint32_t n)
{
    return (struct cmd){.kind = CMD_SLOTS,
                        .base_epoch = s->view.epoch,
                        .rows = rows,
                        .row_n = n};
}

static inline struct cmd tenant(uint64_t id, const char *name)
{
    struct cmd c = {.kind = CMD_TENANT, .tenant = {.id = id}};

    snprintf(c.tenant.name, sizeof(c.tenant.name), "%s", name);
    return c;
}

static inline struct cmd flush(const char *name)
{
    struct cmd c = {.kind = CMD_FLUSH};

    snprintf(c.name, sizeof(c.name), "%s", name);
    return c;
}

/* n nodes that are UP. */
static inline void begin(struct state *s, uint32_t n)
{
    ck_assert_int_eq(state_init(s, 77), OK);
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_int_eq(say(s, join(i, 1)), OK);
        ck_assert_int_eq(say(s, become(s, i, NODE_UP)), OK);
    }
}

static inline struct expert_place place(uint64_t model, uint32_t expert,
                                        uint32_t replica, uint32_t node)
{
    return (struct expert_place){
        model, 3, (uint16_t)expert, (uint8_t)replica, 0, (uint16_t)node};
}

static inline struct cmd experts(struct expert_place *p, uint32_t n)
{
    return (struct cmd){.kind = CMD_EXPERTS, .experts = p, .expert_n = n};
}

#endif

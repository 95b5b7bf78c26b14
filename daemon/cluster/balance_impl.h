/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of balance*.c: one tick's picture of the cluster. Loads are Q16;
 * relative loads are load / fair share in 1,024ths (BALANCE_ONE). */
#ifndef CLUSTER_BALANCE_IMPL_H
#define CLUSTER_BALANCE_IMPL_H

#include "cluster/balance.h"
#include "cluster/place_work.h"

enum { BALANCE_ONE = 1024 };

struct balance_hot { /* a tracked slot, all nodes' reports together */
    uint32_t slot;
    bool touched; /* has a row, or is under way */
    uint64_t load;
};

struct balance_work {
    struct place_work place;
    const struct view *v;
    struct balance *b;       /* NULL: only looked at */
    struct balance_hot *hot; /* by slot */
    uint32_t hot_n;
    uint64_t *load, *fair; /* of nodes */
    bool known;            /* all UP nodes have reported often enough */
    bool *spent;           /* nodes that have nothing more to give */
    uint64_t fair_mean;    /* of the UP nodes */
    uint32_t up_n;
    struct slot_row *rows;
    uint32_t n, max, budget, moves; /* rows, and what they may still be */
};

must_check enum err balance_open(struct balance_work *w,
                                 const struct balance *b, const struct view *v);
void balance_close(struct balance_work *w);

uint64_t balance_relative(const struct balance_work *w, uint16_t node,
                          uint64_t load);
/* Who serves the slot's reads, the home (or who will be) first. */
uint32_t balance_replicas(const struct balance_work *w, const struct slot *t,
                          uint16_t out[VIEW_COPIES]);
bool balance_quiet(const struct balance_work *w, const struct slot *t);
/* Puts the row in place of the old one: loads follow. */
void balance_row(struct balance_work *w, struct balance_hot *h,
                 const struct slot *t);

/* The rules (balance_rules.c). */
void balance_heat(struct balance_work *w);
void balance_cool(struct balance_work *w);
void balance_move(struct balance_work *w);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads of experts (experts.h): a table by (model, layer, expert), grown and
 * cleaned when it is 3/4 full, or knows as many as it may. What faded keeps its
 * place until then, so that searches do not break. */
#include "cluster/experts.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"

enum { TABLE_MIN = 256, DECAY_SHIFT = 4, FADED = 1 << 8 };

struct expert_key {
    uint64_t model;
    uint32_t layer, expert;
};

/* An entry that was used once has a mark in model, layer or load; a free one is
 * all zero, so model 0 is not accepted. */
static struct expert_load *table_find(struct expert_load *table, uint32_t cap,
                                      uint64_t model, uint16_t layer,
                                      uint16_t expert)
{
    const struct expert_key key = {model, layer, expert};
    uint32_t at = (uint32_t)hash_64(0, &key, sizeof(key)) & (cap - 1);

    while (table[at].model &&
           (table[at].model != model || table[at].layer != layer ||
            table[at].expert != expert))
        at = (at + 1) & (cap - 1);
    return &table[at];
}

void experts_fini(struct experts *x)
{
    free(x->table);
    *x = (struct experts){.table = NULL};
}

/* Has it no place for one more? */
static bool table_full(const struct experts *x)
{
    return x->n >= x->cap / 4 * 3 || x->n >= EXPERTS_KNOWN_MAX;
}

/* Into a table that has room for twice those that live. */
static enum err table_grow(struct experts *x)
{
    uint32_t live = 0, cap = TABLE_MIN;
    struct expert_load *table;

    for (uint32_t i = 0; i < x->cap; i++)
        live += x->table[i].load > 0;
    if (live >= EXPERTS_KNOWN_MAX)
        return ERR_LIMIT;
    while (cap < live * 2 + 2)
        cap *= 2;
    table = fault_here("experts") ? NULL : calloc(cap, sizeof(*table));
    if (!table)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < x->cap; i++) {
        const struct expert_load *e = &x->table[i];

        if (e->load)
            *table_find(table, cap, e->model, e->layer, e->expert) = *e;
    }
    free(x->table);
    *x = (struct experts){.table = table, .n = live, .cap = cap};
    return OK;
}

enum err experts_feed(struct experts *x, uint64_t model, uint16_t layer,
                      uint16_t expert, uint64_t count)
{
    struct expert_load *e;
    enum err err;

    if (model == 0 || layer >= EXPERTS_LAYERS_MAX || expert >= EXPERTS_MAX)
        return ERR_BAD_REQUEST;
    if (count == 0)
        return OK;
    e = x->cap ? table_find(x->table, x->cap, model, layer, expert) : NULL;
    if (!e || (!e->model && table_full(x))) {
        err = table_grow(x);
        if (err != OK)
            return err;
        e = table_find(x->table, x->cap, model, layer, expert);
    }
    x->n += e->model == 0;
    e->model = model;
    e->layer = layer;
    e->expert = expert;
    e->load = min_u64(e->load + (min_u64(count, UINT32_MAX) << 16),
                      EXPERTS_WEIGHT_MAX << 4);
    return OK;
}

void experts_decay(struct experts *x)
{
    for (uint32_t i = 0; i < x->cap; i++) {
        struct expert_load *e = &x->table[i];

        e->load -= e->load >> DECAY_SHIFT;
        if (e->load < FADED)
            e->load = 0;
    }
}

static int list_order(const void *a, const void *b)
{
    const struct expert_load *x = a, *y = b;

    if (x->model != y->model)
        return x->model < y->model ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

uint32_t experts_list(const struct experts *x, uint64_t model,
                      struct expert_load *out, uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < x->cap; i++) {
        const struct expert_load *e = &x->table[i];

        if (!e->load || (model && e->model != model))
            continue;
        if (n < max)
            out[n] = *e;
        n++;
    }
    if (n && max)
        qsort(out, n < max ? n : max, sizeof(*out), list_order);
    return n;
}

void experts_size(const struct experts *x, uint64_t model, uint32_t *layers_out,
                  uint32_t *experts_out)
{
    uint32_t layers = 0, experts = 0;

    for (uint32_t i = 0; i < x->cap; i++) {
        const struct expert_load *e = &x->table[i];

        if (!e->load || e->model != model)
            continue;
        layers = (uint32_t)max_u64(layers, e->layer + 1u);
        experts = (uint32_t)max_u64(experts, e->expert + 1u);
    }
    *layers_out = layers;
    *experts_out = experts;
}

void experts_weights(const struct experts *x, uint64_t model, uint32_t layers,
                     uint32_t experts, uint64_t *weight_out)
{
    memset(weight_out, 0, (size_t)layers * experts * sizeof(*weight_out));
    for (uint32_t i = 0; i < x->cap; i++) {
        const struct expert_load *e = &x->table[i];

        if (e->load && e->model == model && e->layer < layers &&
            e->expert < experts)
            weight_out[(size_t)e->layer * experts + e->expert] = e->load;
    }
}

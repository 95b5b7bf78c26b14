/* SPDX-License-Identifier: Apache-2.0
 *
 * Layouts of connections (layouts.h). A slot has room for the longest table;
 * of it only what is used is ever touched. */
#include "server/layouts.h"

#include <string.h>

#include "server/peer.h"

enum err layouts_init(struct lane *l)
{
    return pool_init(&l->layouts, (uint32_t)l->cfg->limits.layouts,
                     sizeof(struct held_layout));
}

void layouts_fini(struct lane *l)
{
    pool_fini(&l->layouts);
}

static void layout_unref(struct lane *l, struct held_layout *h)
{
    if (--h->refs == 0)
        pool_put(&l->layouts, h);
}

static struct held_layout *layout_find(struct peer *p, uint32_t id)
{
    LIST_FOREACH(n, &p->layouts)
    {
        struct held_layout *h = container_of(n, struct held_layout, node);

        if (h->id == id)
            return h;
    }
    return NULL;
}

/* What the message says, checked against the memory. */
static enum err layout_read(struct held_layout *h,
                            const Pikv__LayoutRegister *m, uint64_t mem_bytes)
{
    struct layout_run runs[LAYOUT_RUNS];

    if (m->n_runs > LAYOUT_RUNS || m->n_table > LAYOUT_TABLE)
        return ERR_LIMIT;
    if (m->n_table && m->n_table != m->block_n)
        return ERR_BAD_REQUEST;
    for (size_t i = 0; i < m->n_runs; i++)
        runs[i] = (struct layout_run){.off = m->runs[i]->off,
                                      .len = m->runs[i]->len,
                                      .stride = m->runs[i]->stride,
                                      .n = m->runs[i]->n};
    if (m->n_table)
        memcpy(h->table, m->table, m->n_table * sizeof *h->table);
    h->l.mem = m->mem;
    return layout_init(&h->l, runs, (uint32_t)m->n_runs, m->pool_off,
                       m->block_stride, m->n_table ? h->table : NULL,
                       m->block_n, mem_bytes);
}

enum err layouts_add(struct peer *p, const Pikv__LayoutRegister *m,
                     uint32_t *id_out)
{
    const struct tp_ops *tp = p->tp->t->ops;
    struct lane *l = p->lane;
    struct held_layout *h;
    uint64_t mem_bytes;
    enum err e;

    if (!tp->mem_bytes)
        return ERR_UNSUPPORTED;
    e = tp->mem_bytes(p->tp, m->mem, &mem_bytes);
    if (e)
        return e;
    if (p->layout_n >= l->cfg->limits.layouts_per_client ||
        p->layout_ids == UINT32_MAX)
        return ERR_BUSY;
    h = pool_get(&l->layouts);
    if (!h)
        return ERR_BUSY;
    e = layout_read(h, m, mem_bytes);
    if (e) {
        pool_put(&l->layouts, h);
        return e;
    }
    h->refs = 1;
    h->id = *id_out = ++p->layout_ids;
    list_add_tail(&p->layouts, &h->node);
    p->layout_n++;
    return OK;
}

static void layout_drop(struct peer *p, struct held_layout *h)
{
    list_del(&h->node);
    p->layout_n--;
    layout_unref(p->lane, h);
}

enum err layouts_forget(struct peer *p, uint32_t id)
{
    struct held_layout *h = layout_find(p, id);

    if (!h)
        return ERR_NO_LAYOUT;
    layout_drop(p, h);
    return OK;
}

void layouts_drop_peer(struct peer *p)
{
    LIST_FOREACH_SAFE(n, &p->layouts)
    layout_drop(p, container_of(n, struct held_layout, node));
}

enum err layouts_take(struct op *op, uint32_t id)
{
    struct held_layout *h = layout_find(op->peer, id);

    if (!h)
        return ERR_NO_LAYOUT;
    h->refs++;
    op->layout = h;
    return OK;
}

void layouts_give(struct op *op)
{
    if (op->layout)
        layout_unref(op->lane, op->layout);
    op->layout = NULL;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Hedges: a GET that takes longer than most is asked of another node as well,
 * and who answers first counts.
 *
 *     first SENT ----- p95 passed, budget left ----> its twin SENT elsewhere
 *       |                                              |
 *       | answers: the twin is dropped                 | answers well: CAME
 *       | fails: the twin goes on in its place         |
 *       |                                              v
 *       +<-- the first cannot be left yet ---- can it be left? -- yes --> it
 *            (bytes on their way into the        is abandoned, the twin takes
 *            caller's memory): its end decides   its place and lands
 *
 *  1. A twin lands in memory of the library's own (staging, or for ucx a
 *     buffer) and answers into its own results. Only when the first can touch
 *     nothing of the caller's any more does it become the part that it stands
 *     for: so the bytes of two PUTs are never mixed.
 *  2. A part is hedged as a whole, to one line that may have all of its items:
 *     where a slot is hot, those that have it; with PIKV_HEDGE_ALWAYS the next
 *     owner. Loans and part completions are not hedged.
 *  3. Budget: a GET earns a tenth of a hedge, ten are kept at most.
 *  4. A twin that misses, fails or is sent away leaves nothing behind.
 * With kv->mu. */
#include <stdlib.h>

#include "client/hedge.h"

enum {
    COST = 10, /* GETs */
    CREDIT_MAX = 100,
    SAMPLES_MIN = 64,
    AGAIN = 32, /* samples until p95 is looked for anew */
    P95_US_MIN = 50,
};

/* ---- when ---- */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

void hedge_took(struct pikv *kv, const struct call *c)
{
    struct nodes *ns = kv->nodes;
    uint32_t sorted[HEDGE_SAMPLES], n;

    if (c->op != OP_GET || c->status)
        return;
    ns->took_us[ns->took_n++ % HEDGE_SAMPLES] =
        (uint32_t)((kv->now_ns - min_u64(c->begin_ns, kv->now_ns)) / NS_PER_US);
    if (ns->took_n < SAMPLES_MIN || ns->took_n % AGAIN)
        return;
    n = (uint32_t)min_u64(ns->took_n, HEDGE_SAMPLES);
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = ns->took_us[i];
    qsort(sorted, n, sizeof(*sorted), by_size);
    ns->p95_us = (uint32_t)max_u64(sorted[n - 1 - n / 20], P95_US_MIN);
}

static bool hedge_may(const struct pikv *kv, const struct call *c)
{
    const struct request *r = &c->spread->r;

    if (c->op != OP_GET || c->tells || kv->hedge == PIKV_HEDGE_NEVER ||
        !kv->nodes->p95_us)
        return false;
    for (uint32_t i = 0; i < r->n; i++)
        if (r->gets[i].loan)
            return false;
    return true;
}

void hedge_arm(struct pikv *kv, struct call *c)
{
    struct nodes *ns = kv->nodes;

    if (c->op == OP_GET)
        ns->hedge_credit = (uint32_t)min_u64(ns->hedge_credit + 1, CREDIT_MAX);
    if (!hedge_may(kv, c))
        return;
    c->due_ns = min_u64(c->due_ns, c->begin_ns + ns->p95_us * NS_PER_US);
    if (c->due_ns < kv->due_ns)
        kv->due_ns = c->due_ns;
}

/* ---- where ---- */

/* Another node than was asked that may have the item; NO_NODE: none. */
static uint16_t hedge_node(struct pikv *kv, const struct trip *t)
{
    const struct cview *v = &kv->nodes->view;
    uint32_t n = kv->hedge == PIKV_HEDGE_ALWAYS
                     ? 2
                     : v->slots[t->slot].heat + UINT32_C(1);

    for (uint32_t i = 0; i < n && i < CVIEW_COPIES; i++) {
        uint16_t node = cview_replica(v, t->slot, i);

        if (node != NO_NODE && node != t->node &&
            nodes_answers(kv, node, t->slot))
            return node;
    }
    return NO_NODE;
}

/* The line that may have all items of p, or NULL. */
static struct conn *hedge_line(struct pikv *kv, const struct part *p)
{
    struct spread *s = p->call->spread;
    struct conn *line = NULL;
    int why;

    for (uint32_t i = 0; i < p->n; i++) {
        const struct trip *t = &s->trips[part_item(p, i)];
        uint16_t node = hedge_node(kv, t);
        struct peer *peer = node == NO_NODE ? NULL : nodes_peer(kv, node);
        struct conn *c = peer ? nodes_line(kv, peer, t->slot) : NULL;

        if (!c || (line && c != line))
            return NULL;
        line = c;
    }
    return line && nodes_use(kv, line, &kv->ns[s->r.ns], &why) == LINE_READY
               ? line
               : NULL;
}

/* The same items for another line; NULL: not now. */
static struct part *hedge_part(struct pikv *kv, const struct part *p,
                               struct conn *line)
{
    struct spread *s = p->call->spread;
    struct part *twin = build_part(kv, &s->r, p->call, line->line);
    bool ok = twin != NULL;

    if (!twin)
        return NULL;
    twin->kind = LEG_HEDGE;
    twin->sided = true;
    twin->layout = 0;
    for (uint32_t i = 0; i < p->n && ok; i++) {
        struct part *at = twin;

        ok = build_add(kv, &s->r, p->call, &at, part_item(p, i));
        if (at != twin) { /* its limits are lower: one part would be two */
            if (at)
                call_part_ended(kv, at, OK);
            ok = false;
        }
    }
    ok = ok && part_room((void **)&twin->side, &twin->side_cap, p->n,
                         sizeof(*twin->side));
    for (uint32_t i = 0; ok && i < p->n; i++)
        twin->side[i] = (struct pikv_result){.status = ERR_MISS};
    if (ok && build_close(kv, &s->r, twin) == OK)
        return twin;
    twin->n = ok ? twin->n : 0; /* it has no results to fill */
    call_part_ended(kv, twin, OK);
    return NULL;
}

static void hedge_send(struct pikv *kv, struct part *p, uint64_t now)
{
    struct conn *line = hedge_line(kv, p);
    struct part *twin;

    if (!line || kv->nodes->hedge_credit < COST)
        return;
    twin = hedge_part(kv, p, line);
    if (!twin)
        return;
    kv->nodes->hedge_credit -= COST;
    kv->hedges++;
    p->twin = twin;
    twin->twin = p;
    data_start(kv, &p->call->spread->r, twin, now);
}

static struct part *hedge_next(struct call *c)
{
    LIST_FOREACH(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        if (p->state == PART_SENT && p->kind == LEG_ITEM && !p->replied &&
            !p->hedged && !p->busy)
            return p;
    }
    return NULL;
}

/* Starting a part may end others: the call is kept open, and parts are looked
 * up anew. */
void hedge_due(struct pikv *kv, struct call *c, uint64_t now)
{
    struct part *p;

    c->due_ns = c->deadline_ns;
    if (lay_bind(kv, &c->spread->r))
        return;
    c->open_parts++;
    while ((p = hedge_next(c))) {
        p->hedged = true;
        hedge_send(kv, p, now);
    }
    call_unhold(kv, c);
}

/* ---- who was first ---- */

/* The part is no longer the call's; what it still gets is dropped. */
static void hedge_leave(struct pikv *kv, struct part *p)
{
    struct call *c = p->call;

    list_del(&p->call_node);
    list_del(&p->node);
    p->call = NULL;
    c->open_parts--; /* its twin keeps the call open */
    if (p->state == PART_SENT && !p->replied)
        return;
    part_give(kv, p);
}

void hedge_failed(struct part *p)
{
    if (p->twin)
        p->twin->twin = NULL;
    p->twin = NULL;
}

static void hedge_drop(struct pikv *kv, struct part *twin)
{
    if (twin->state == PART_SENT && !twin->replied)
        hedge_leave(kv, twin);
    else
        call_part_ended(kv, twin, OK);
}

/* The twin is the part from here on. What the first one answered is kept, in
 * case that the twin is sent away. */
static void hedge_adopt(struct part *twin)
{
    struct call *c = twin->call;

    for (uint32_t i = 0; i < twin->n; i++) {
        uint32_t item = part_item(twin, i);
        struct trip *t = &c->spread->trips[item];

        t->status = c->results[item].status;
        t->node = twin->conn->peer->node;
        t->failed_over = t->home_asked = true;
        c->results[item] = twin->side[i];
    }
    twin->kind = LEG_ITEM;
    twin->sided = false;
}

static bool hedge_is_good(const struct part *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (part_result(p, i)->status != OK)
            return false;
    return true;
}

void hedge_came(struct pikv *kv, struct part *twin)
{
    struct part *first = twin->twin;

    if (twin->came)
        return;
    if (!first || twin->status || !hedge_is_good(twin)) {
        hedge_failed(twin);
        call_part_ended(kv, twin, OK);
        return;
    }
    twin->came = true;
    if (first->state != PART_SENT || first->replied || first->busy ||
        !first->conn->ops->leave(first->conn, first))
        return; /* its end decides */
    hedge_failed(twin);
    hedge_leave(kv, first);
    hedge_adopt(twin);
    kv->hedges_won++;
    conn_finish(twin->conn, twin);
}

bool hedge_first_ended(struct pikv *kv, struct part *first)
{
    struct part *twin = first->twin;

    if (!twin)
        return false;
    hedge_failed(first);
    if (hedge_is_good(first) || first->call->late) {
        hedge_drop(kv, twin);
        return false;
    }
    hedge_adopt(twin);
    if (twin->came) {
        kv->hedges_won++;
        conn_finish(twin->conn, twin);
    }
    return true;
}

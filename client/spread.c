/* SPDX-License-Identifier: Apache-2.0
 *
 * Legs (spread.h): made of a request, routed by the view, cut into parts where
 * they can go, kept where they cannot go yet.
 *
 * Whom a read of a hot slot asks is chosen by chance among the owners that have
 * it, each with the share that nodes_share gives it: a node that has just come
 * gets few at first. With kv->mu. */
#include "client/spread.h"

#include <string.h>

bool spread_push(struct spread *s, struct leg leg)
{
    if (!part_room((void **)&s->legs, &s->legs_cap, s->leg_n + 1,
                   sizeof(*s->legs)))
        return false;
    s->legs[s->leg_n++] = leg;
    return true;
}

/* ---- the first legs of a request ---- */

/* All lines of all nodes; one that is DOWN is not waited for. */
static bool legs_of_selection(struct pikv *kv, struct spread *s)
{
    const struct cview *v = &kv->nodes->view;
    bool ok = true;

    for (uint32_t i = 0; i < v->node_n && ok; i++) {
        struct peer *p;

        if (v->nodes[i].state == CNODE_REMOVED ||
            v->nodes[i].state == CNODE_JOINING)
            continue;
        p = v->nodes[i].state == CNODE_DOWN ? NULL
                                            : nodes_peer(kv, (uint16_t)i);
        if (!p) {
            s->missed++;
            s->missed_why = ERR_NO_SERVER;
        }
        for (uint32_t k = 0; p && k < p->lane_n && ok; k++)
            ok = spread_push(s, (struct leg){LEG_LINE, (uint16_t)i, k});
    }
    return ok;
}

static bool legs_of_drop(struct pikv *kv, struct spread *s, uint32_t item)
{
    uint16_t to[CVIEW_COPIES + 2];
    struct trip *t = &s->trips[item];
    uint32_t n = cview_holders(&kv->nodes->view, t->slot, to);
    bool ok = true;

    for (uint32_t i = 0; i < n && ok; i++)
        ok = spread_push(s, (struct leg){LEG_HOLDER, to[i], item});
    t->copies = (uint8_t)n;
    return ok;
}

static bool legs_of_item(struct pikv *kv, struct spread *s, uint32_t item)
{
    const struct request *r = &s->r;
    uint32_t copies = r->puts ? r->puts[item].replicas : 0;
    struct trip *t = &s->trips[item];
    bool ok = spread_push(s, (struct leg){LEG_ITEM, NO_NODE, item});

    for (uint32_t i = 1; i < copies && i < CVIEW_COPIES && ok; i++) {
        uint16_t to = cview_replica(&kv->nodes->view, t->slot, i);

        if (to == NO_NODE)
            break;
        ok = spread_push(s, (struct leg){LEG_COPY, to, item});
        t->copies++;
    }
    return ok;
}

static bool legs_first(struct pikv *kv, struct spread *s)
{
    bool drops = s->r.op == OP_EVICT && !(s->r.call && s->r.call->demote);
    bool ok = true;

    if (s->r.everywhere)
        return legs_of_selection(kv, s);
    for (uint32_t i = 0; i < s->r.n && ok; i++)
        ok = drops ? legs_of_drop(kv, s, i) : legs_of_item(kv, s, i);
    return ok;
}

/* ---- routing ---- */

/* One of the owners that a hot slot's reads may go to. */
static uint16_t route_hot(struct pikv *kv, const struct trip *t)
{
    const struct cview *v = &kv->nodes->view;
    uint32_t n = v->slots[t->slot].heat + UINT32_C(1), sum = 0, share[3] = {0};
    uint16_t node[3];
    uint64_t pick;

    for (uint32_t i = 0; i < n && i < CVIEW_COPIES; i++) {
        node[i] = cview_replica(v, t->slot, i);
        if (node[i] != NO_NODE && nodes_answers(kv, node[i], t->slot))
            share[i] = nodes_share(kv, node[i], kv->now_ns);
        sum += share[i];
    }
    if (!sum)
        return cview_serving(v, t->slot);
    pick = nodes_random(kv) % sum;
    for (uint32_t i = 0; i < CVIEW_COPIES; i++) {
        if (pick < share[i])
            return node[i];
        pick -= share[i];
    }
    return cview_serving(v, t->slot);
}

static uint16_t route_token(const struct pikv *kv, const struct request *r,
                            uint32_t item)
{
    return r->writes     ? nodes_token_at(kv, r->writes[item].token)
           : r->finishes ? nodes_token_at(kv, r->finishes[item].token)
                         : NO_NODE;
}

/* The view after a redirect; or the hint, if it says what it said before. */
static uint16_t route_again(const struct pikv *kv, const struct trip *t)
{
    uint16_t node = cview_serving(&kv->nodes->view, t->slot);

    return node != t->node ? node : t->hint != t->node ? t->hint : NO_NODE;
}

static uint16_t route_item(struct pikv *kv, struct spread *s, uint32_t item)
{
    struct trip *t = &s->trips[item];
    uint16_t node = route_token(kv, &s->r, item);

    if (node != NO_NODE)
        return node;
    if (t->redirected && !t->status)
        return route_again(kv, t);
    if (kv->nodes->view.slots[t->slot].heat && spread_reads(&s->r) &&
        !t->home_asked) {
        t->hot = true;
        return route_hot(kv, t);
    }
    return cview_serving(&kv->nodes->view, t->slot);
}

static bool trip_waits_view(const struct pikv *kv, struct trip *t)
{
    t->waits_view =
        t->waits_view && nodes_asking(kv) && t->fetches == kv->nodes->fetches;
    return t->waits_view;
}

/* Where a leg goes, and whether it can go now. */
static enum line_use leg_route(struct pikv *kv, struct spread *s,
                               struct leg *leg, struct conn **c_out, int *why)
{
    struct trip *t = leg->kind == LEG_LINE ? NULL : &s->trips[leg->item];
    struct peer *p;

    *why = ERR_NO_SERVER;
    if (leg->kind == LEG_ITEM) {
        if (trip_waits_view(kv, t))
            return LINE_WAIT;
        if (t->to == NO_NODE)
            t->to = route_item(kv, s, leg->item);
        leg->node = t->to;
        if (t->to == NO_NODE && t->redirected)
            *why = ERR_RETRY;
    }
    p = leg->node == NO_NODE ? NULL : nodes_peer(kv, leg->node);
    if (!p || (leg->kind == LEG_LINE && leg->item >= p->lane_n))
        return LINE_NONE;
    *c_out = t ? nodes_line(kv, p, t->slot) : peer_conn(kv, p, leg->item);
    return nodes_use(kv, *c_out, &kv->ns[s->r.ns], why);
}

/* ---- parts ---- */

static bool leg_add(struct pikv *kv, struct spread *s, const struct leg *leg,
                    struct conn *c)
{
    struct part **p = &c->filling[leg->kind != LEG_ITEM];

    if (leg->kind == LEG_LINE)
        return build_line(kv, &s->r, s->c, c->line) == OK;
    if (!*p)
        *p = build_part(kv, &s->r, s->c, c->line);
    if (!*p)
        return false;
    (*p)->kind = leg->kind;
    if (!build_add(kv, &s->r, s->c, p, leg->item))
        return false;
    if (leg->kind == LEG_ITEM) {
        s->trips[leg->item].node = leg->node;
        s->trips[leg->item].to = NO_NODE;
        return true;
    }
    (*p)->sided = true;
    return part_room((void **)&(*p)->side, &(*p)->side_cap, (*p)->n,
                     sizeof(*(*p)->side));
}

/* One look at every leg; those that failed may have left others behind. */
static int legs_route(struct pikv *kv, struct spread *s)
{
    uint32_t keep = 0;
    int e = OK;

    for (uint32_t i = 0; i < s->leg_n; i++) {
        struct leg leg = s->legs[i];
        struct conn *c = NULL;
        enum line_use use;
        int why;

        use = leg_route(kv, s, &leg, &c, &why);
        if (use == LINE_WAIT)
            s->legs[keep++] = leg;
        else if (use == LINE_NONE)
            spread_leg_failed(kv, s->c, &leg, why);
        else if (!e && !leg_add(kv, s, &leg, c))
            e = ERR_NO_MEMORY;
    }
    s->leg_n = keep;
    return e;
}

static int spread_parts(struct pikv *kv, struct call *c)
{
    struct spread *s = c->spread;
    int e = legs_route(kv, s);

    build_caps(&s->r, c);
    LIST_FOREACH(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        p->conn->filling[0] = p->conn->filling[1] = NULL;
        if (p->state != PART_PLANNED || p->msg_len)
            continue;
        for (uint32_t i = 0; p->sided && i < p->n; i++)
            p->side[i] = (struct pikv_result){.status = ERR_MISS};
        if (!e)
            e = build_close(kv, &s->r, p);
    }
    return e;
}

int spread_plan(struct pikv *kv, struct call *c)
{
    if (!legs_first(kv, c->spread))
        return ERR_NO_MEMORY;
    return spread_parts(kv, c);
}

/* ---- waiting ---- */

static void spread_hold(struct spread *s)
{
    if (!s->held)
        s->c->open_parts++;
    s->held = true;
}

/* May finish the call. */
static void spread_unhold(struct pikv *kv, struct spread *s)
{
    if (!s->held)
        return;
    s->held = false;
    call_unhold(kv, s->c);
}

void spread_again(struct pikv *kv, struct call *c)
{
    struct spread *s = c->spread;

    spread_hold(s);
    list_del(&s->node);
    list_add_tail(&kv->rerouted, &s->node);
}

static void spread_wait(struct pikv *kv, struct spread *s)
{
    spread_hold(s);
    list_del(&s->node);
    list_add_tail(&kv->waiting, &s->node);
}

/* Staging may have let kv->mu go since the legs were looked at: what they wait
 * for may be there. */
void spread_started(struct pikv *kv, struct call *c)
{
    if (!c->spread->leg_n)
        return;
    spread_wait(kv, c->spread);
    kv->stirred = true;
}

/* Sends what can go of a call that is under way. */
static void spread_resend(struct pikv *kv, struct spread *s)
{
    struct call *c = s->c;
    uint64_t now = kv->now_ns = now_ns();
    int e = lay_bind(kv, &s->r);

    for (uint32_t i = 0; e && i < s->leg_n; i++)
        spread_leg_failed(kv, c, &s->legs[i], e);
    if (e)
        s->leg_n = 0;
    e = spread_parts(kv, c);
    LIST_FOREACH_SAFE(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        if (p->state != PART_PLANNED)
            continue;
        if (e) {
            conn_part_ends(p->conn, p, e);
            continue;
        }
        if (op_sends(p->op) && (p->stage.n || p->own))
            build_stage(kv, p);
        data_start(kv, &s->r, p, now);
    }
    if (s->leg_n)
        spread_wait(kv, s);
    else if (list_empty(&s->node))
        spread_unhold(kv, s);
    progress_submitted(kv, now);
}

void spread_run(struct pikv *kv)
{
    struct list *l;

    while (kv->stirred && (l = list_pop(&kv->waiting)))
        list_add_tail(&kv->rerouted, l);
    kv->stirred = false;
    while ((l = list_pop(&kv->rerouted)))
        spread_resend(kv, container_of(l, struct spread, node));
}

void spread_expire(struct pikv *kv, struct call *c)
{
    struct spread *s = c->spread;

    list_del(&s->node);
    for (uint32_t i = 0; i < s->leg_n; i++) {
        struct leg leg = s->legs[i];
        struct conn *line = NULL;
        int why;

        if (leg_route(kv, s, &leg, &line, &why) == LINE_WAIT && line)
            nodes_timed_out(kv, line, c->begin_ns);
        spread_leg_failed(kv, c, &leg, ERR_TIMEOUT);
    }
    s->leg_n = 0;
    spread_unhold(kv, s);
}

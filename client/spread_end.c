/* SPDX-License-Identifier: Apache-2.0
 *
 * What an answer, or none, means for an item of a call over many nodes
 * (spread.h): the ways back, and how copies, holders and lines of a
 * selection are counted together.
 *
 *     PUT with replicas   the home's answer is the item's; a home that did not
 *                         answer is made good by a copy that is there
 *     drop of keys        OK: gone from all who may have it, and one had it;
 *                         NOT_DURABLE: one of them could not be reached
 *     drop of a selection the same by lines, as status of the call
 *
 * With kv->mu. */
#include "client/hedge.h"

static const bool op_idem[OP_N] = {
    [OP_GET] = true,      [OP_LOOKUP] = true, [OP_PUT] = true,
    [OP_PIN] = true,      [OP_UNPIN] = true,  [OP_TOUCH] = true,
    [OP_PREFETCH] = true, [OP_EVICT] = true,
};

/* The node did not answer, and not for lack of time. */
static bool is_down(int status)
{
    return status == ERR_NO_SERVER || status == ERR_RETRY ||
           status == ERR_PEER_GONE || status == ERR_DRAINING;
}

static bool is_sent_away(int status)
{
    return status == ERR_WRONG_NODE || status == ERR_STALE_EPOCH;
}

static bool is_miss(const struct call *c, const struct pikv_result *r)
{
    return r->status == ERR_MISS ||
           (c->op == OP_LOOKUP && r->status == OK && r->state == STATE_MISS);
}

/* ---- the ways back ---- */

/* The next owner in order that is not the one that was asked. */
static uint16_t next_owner(struct pikv *kv, const struct trip *t)
{
    for (uint32_t i = 0; i < CVIEW_COPIES; i++) {
        uint16_t node = cview_replica(&kv->nodes->view, t->slot, i);

        if (node != NO_NODE && node != t->node &&
            nodes_answers(kv, node, t->slot))
            return node;
    }
    return NO_NODE;
}

/* true: a leg was left. */
static bool trip_fails_over(struct pikv *kv, struct call *c, uint32_t item,
                            int why)
{
    struct spread *s = c->spread;
    struct trip *t = &s->trips[item];
    uint16_t next;

    if (c->late || t->failed_over || !op_idem[c->op] || t->copies)
        return false;
    nodes_want_view(kv, NULL);
    next = next_owner(kv, t);
    if (next == NO_NODE ||
        !spread_push(s, (struct leg){LEG_ITEM, NO_NODE, item}))
        return false;
    t->failed_over = true;
    t->status = why;
    t->to = next;
    kv->failovers++;
    return true;
}

static bool trip_redirects(struct pikv *kv, struct call *c, uint32_t item)
{
    struct spread *s = c->spread;
    struct trip *t = &s->trips[item];
    uint16_t home = cview_serving(&kv->nodes->view, t->slot);

    if (c->late || t->redirected || t->status)
        return false;
    if (!spread_push(s, (struct leg){LEG_ITEM, NO_NODE, item}))
        return false;
    if (t->hot && home != NO_NODE && t->node != home && !t->home_asked) {
        t->home_asked = true; /* a replica that does not have it */
        t->to = home;
        return true;
    }
    t->redirected = true;
    t->waits_view = nodes_asking(kv);
    t->fetches = kv->nodes->fetches;
    kv->redirects++;
    return true;
}

static bool trip_asks_home(struct pikv *kv, struct call *c, uint32_t item)
{
    struct spread *s = c->spread;
    struct trip *t = &s->trips[item];
    uint16_t home = cview_serving(&kv->nodes->view, t->slot);

    if (c->late || t->home_asked || t->failed_over || t->redirected ||
        home == NO_NODE || t->node == home || !spread_reads(&s->r) ||
        !nodes_answers(kv, home, t->slot) ||
        !spread_push(s, (struct leg){LEG_ITEM, NO_NODE, item}))
        return false;
    t->home_asked = true;
    t->to = home;
    return true;
}

/* A home that has just come back does not have what its stand-in took, nor, if
 * it came back empty, the blocks whose copies are there. */
static bool trip_asks_stand_in(struct pikv *kv, struct call *c, uint32_t item)
{
    struct spread *s = c->spread;
    struct trip *t = &s->trips[item];
    uint16_t next;

    if (c->late || t->failed_over || t->status || !spread_reads(&s->r) ||
        !nodes_is_new(kv, t->node, kv->now_ns))
        return false;
    next = next_owner(kv, t);
    if (next == NO_NODE ||
        !spread_push(s, (struct leg){LEG_ITEM, NO_NODE, item}))
        return false;
    t->failed_over = t->home_asked = true;
    t->status = ERR_MISS;
    t->to = next;
    return true;
}

void spread_told(struct call *c, uint32_t item, uint32_t owner)
{
    c->spread->trips[item].hint = owner < NO_NODE ? (uint16_t)owner : NO_NODE;
}

bool spread_tells(const struct pikv *kv, const struct call *c, uint32_t item)
{
    const struct trip *t = &c->spread->trips[item];
    const struct pikv_result *r = &c->results[item];

    if (is_miss(c, r))
        return t->home_asked ||
               (t->node == cview_serving(&kv->nodes->view, t->slot) &&
                !nodes_is_new(kv, t->node, kv->now_ns));
    return !is_sent_away(r->status);
}

/* ---- answers of items ---- */

/* The item's last word: what the first node's failure was, if the second sent
 * it away; a second redirect is the caller's to try again. */
static void item_final(struct call *c, uint32_t item, int status)
{
    const struct trip *t = &c->spread->trips[item];

    if (is_sent_away(status))
        status = t->status ? t->status : ERR_RETRY;
    if (status != c->results[item].status)
        c->results[item] = (struct pikv_result){.status = status};
}

/* A leg was left for it? */
static bool item_again(struct pikv *kv, struct call *c, uint32_t item)
{
    const struct pikv_result *r = &c->results[item];

    if (is_sent_away(r->status))
        return trip_redirects(kv, c, item);
    if (is_down(r->status))
        return trip_fails_over(kv, c, item, r->status);
    return is_miss(c, r) &&
           (trip_asks_home(kv, c, item) || trip_asks_stand_in(kv, c, item));
}

/* false: the item is asked for again. */
static bool item_ended(struct pikv *kv, struct call *c, uint32_t item)
{
    if (item_again(kv, c, item))
        return false;
    item_final(c, item, c->results[item].status);
    return true;
}

static int items_left(struct pikv *kv, struct part *p, int status)
{
    struct call *c = p->call;
    uint32_t again = 0, failed = 0;

    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t item = part_item(p, i);

        if (c->tells && c->ready[item])
            continue;
        if (!item_ended(kv, c, item))
            again++;
        else
            failed += status != OK;
        if (c->op == OP_PUT_BEGIN && c->results[item].status == OK)
            nodes_token_keep(kv, c->results[item].token, p->conn->peer->node);
    }
    if (again)
        spread_again(kv, c);
    return failed || (status && !again) ? status : OK;
}

/* ---- answers of copies, holders and lines ---- */

static void side_count(struct pikv *kv, struct trip *t, uint8_t kind,
                       int status)
{
    if (kind == LEG_COPY) {
        if (status == OK || status == ERR_EXISTS)
            t->good++;
        else
            kv->copies_failed++;
    } else if (status == OK || status == ERR_NOT_DURABLE) {
        t->good++;
        if (status && !t->worst)
            t->worst = status;
    } else if (is_down(status) || status == ERR_TIMEOUT) {
        t->late++;
        if (!t->status)
            t->status = status;
    } else if (status != ERR_MISS && !t->worst) {
        t->worst = status;
    }
}

static void line_count(struct spread *s, int status)
{
    if (is_down(status) || status == ERR_TIMEOUT) {
        s->missed++;
        s->missed_why = s->missed_why ? s->missed_why : status;
    } else {
        s->reached++;
    }
}

int spread_part_left(struct pikv *kv, struct part *p, int status)
{
    struct call *c = p->call;
    struct spread *s = c->spread;

    if (status == ERR_TIMEOUT && p->state == PART_SENT)
        nodes_timed_out(kv, p->conn, p->sent_ns);
    if (c->everywhere) {
        line_count(s, status);
        return is_down(status) || status == ERR_TIMEOUT ? OK : status;
    }
    if (p->kind == LEG_HEDGE) {
        hedge_failed(p);
        return OK;
    }
    if (p->kind == LEG_ITEM && hedge_first_ended(kv, p))
        return OK;
    if (p->kind == LEG_ITEM)
        return items_left(kv, p, status);
    for (uint32_t i = 0; i < p->n; i++)
        side_count(kv, &s->trips[part_item(p, i)], p->kind, p->side[i].status);
    return OK;
}

void spread_leg_failed(struct pikv *kv, struct call *c, const struct leg *leg,
                       int why)
{
    struct spread *s = c->spread;

    if (leg->kind == LEG_LINE) {
        line_count(s, why);
        return;
    }
    if (leg->kind != LEG_ITEM) {
        side_count(kv, &s->trips[leg->item], leg->kind, why);
        return;
    }
    s->trips[leg->item].node = leg->node;
    s->trips[leg->item].to = NO_NODE;
    if (is_down(why) && trip_fails_over(kv, c, leg->item, why))
        return;
    item_final(c, leg->item, why);
    if (!c->status)
        c->status = c->results[leg->item].status;
}

/* ---- the end ---- */

static int drop_status(const struct trip *t)
{
    if (t->late)
        return t->late == t->copies ? t->status : ERR_NOT_DURABLE;
    return t->worst ? t->worst : t->good ? OK : ERR_MISS;
}

static void drops_finish(struct call *c)
{
    const struct spread *s = c->spread;

    for (uint32_t i = 0; i < s->r.n; i++) {
        int status =
            s->trips[i].copies ? drop_status(&s->trips[i]) : ERR_NO_SERVER;

        c->results[i] = (struct pikv_result){.status = status};
        if (s->trips[i].late || !s->trips[i].copies)
            c->status = c->status ? c->status : status;
    }
}

static void lines_finish(struct call *c)
{
    const struct spread *s = c->spread;

    if (s->missed && !c->status)
        c->status = s->reached ? ERR_NOT_DURABLE : s->missed_why;
}

/* A copy makes good a home that did not answer. */
static void copies_finish(struct call *c)
{
    const struct spread *s = c->spread;
    int status = OK;

    for (uint32_t i = 0; i < s->r.n; i++) {
        struct pikv_result *r = &c->results[i];

        if (!is_down(r->status) && r->status != ERR_TIMEOUT)
            continue;
        if (s->trips[i].good)
            *r = (struct pikv_result){.status = OK};
        else if (!status)
            status = r->status;
    }
    if (is_down(c->status) || c->status == ERR_TIMEOUT)
        c->status = status;
}

void spread_finish(struct call *c)
{
    const struct spread *s = c->spread;

    if (c->everywhere)
        lines_finish(c);
    else if (c->op == OP_EVICT && !(s->r.call && s->r.call->demote))
        drops_finish(c);
    else if (c->op == OP_PUT)
        copies_finish(c);
}

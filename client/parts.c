/* SPDX-License-Identifier: Apache-2.0
 *
 * Part completions of a GET (call.parts): the caller hears of its items in the
 * order asked, each as soon as its bytes are in place.
 *
 *     EVENT of a lane        its items are ANNOUNCED: results are filled in
 *       bytes in place       copied out of staging, crc checked: LANDED, READY
 *         all before READY   told: the call is in kv->telling until its parts
 *                            are taken; then, at last, its own completion
 *
 *  1. A part announces and lands its items in its own order; the order over all
 *     lanes is call->ready, a byte per item.
 *  2. After READY nothing of an item is written any more, neither its result
 *     (a reply says it again) nor its bytes (late pieces are dropped).
 *  3. Small items land under kv->mu; larger ones in progress, without it, while
 *     the part is busy: what would end it then waits (parts_landed).
 *  4. A call that fails tells what was READY by then and nothing after it. One
 *     that is OK tells all, whatever its server announced: the reply does for a
 *     server that sends no events.
 *  5. Nothing is allocated for a part completion: it is a number in the call.
 * With kv->mu. */
#include <string.h>

#include "client/spread.h"

enum { LAND_CHUNK = 256 << 10 /* without the lock, between two completions */ };

/* What is READY in a row becomes known. */
static void parts_tell(struct pikv *kv, struct call *c)
{
    while (c->ready_n < c->n && c->ready[c->ready_n])
        c->ready_n++;
    if (c->ready_n > c->told_n && !c->waited && list_empty(&c->tell_node))
        list_add_tail(&kv->telling, &c->tell_node);
}

static void parts_ready(struct pikv *kv, struct part *p, uint32_t up_to)
{
    for (; p->call->tells && p->landed < up_to; p->landed++)
        p->call->ready[part_item(p, p->landed)] =
            !p->call->spreads ||
            spread_tells(kv, p->call, part_item(p, p->landed));
    p->landed = up_to;
    if (p->call->tells)
        parts_tell(kv, p->call);
}

/* Over shm the daemon tells only when it has. */
bool parts_came(const struct part *p, uint32_t i)
{
    return p->conn->ops->registers ||
           p->dests[i].got >= part_result(p, i)->moved;
}

void parts_land(struct pikv *kv, struct part *p)
{
    uint64_t budget = LAND_INLINE;
    uint32_t i = p->landed;

    if (!p->call || !p->call->tells || p->state != PART_SENT || p->busy)
        return;
    for (; i < p->announced && parts_came(p, i); i++) {
        uint64_t bytes = reply_land_bytes(p, i);

        if (bytes > budget) {
            list_del(&p->node);
            list_add_tail(&kv->landing, &p->node);
            break;
        }
        budget -= bytes;
        reply_land(kv, p, i);
    }
    parts_ready(kv, p, i);
}

bool parts_event(struct pikv *kv, struct part *p, const struct message *m)
{
    const uint8_t *at = m->records;
    uint32_t n = m->frame.record_n;

    if (!p->call || !p->call->tells || p->replied)
        return true;
    if (m->frame.data_idx != p->announced || n == 0 || n > p->n - p->announced)
        return false;
    for (uint32_t i = 0; i < n; i++, at += WIRE_RECORD) {
        struct slice none = {0};
        struct wire_result w;

        memcpy(&w, at, sizeof(w));
        if (!reply_item(kv, p, p->announced, &w, &none))
            return false;
        p->announced++;
    }
    parts_land(kv, p);
    return true;
}

void parts_ended(struct pikv *kv, struct part *p)
{
    if (p->call && p->call->tells)
        parts_ready(kv, p, p->n);
}

/* ---- landing without the lock ---- */

/* The part goes on with what happened while it was busy. */
static void parts_unbusy(struct pikv *kv, struct part *p)
{
    struct call *c = p->call;

    if (c->late) { /* its deadline found it busy: asked again from the start */
        c->late = false;
        p->asked = 0;
        c->due_ns = kv->due_ns = kv->now_ns;
    }
    if (p->lost) {
        if (!p->tp_pending)
            conn_part_ends(p->conn, p, p->status);
    } else if (p->replied) {
        if (p->conn->ops->complete(p->conn, p))
            conn_finish(p->conn, p);
    } else {
        parts_land(kv, p);
    }
}

void parts_progress(struct pikv *kv, struct part *p)
{
    uint32_t i = p->landed, end = p->n;
    uint64_t bytes = 0, most = p->call->tells ? LAND_CHUNK : UINT64_MAX;

    if (p->state == PART_SENT)
        for (end = i; end < p->announced && parts_came(p, end); end++)
            ;
    p->busy = true;
    pthread_mutex_unlock(&kv->mu);
    for (; i < end && bytes < most; i++) {
        bytes += reply_land_bytes(p, i);
        reply_land(kv, p, i);
    }
    pthread_mutex_lock(&kv->mu);
    kv->now_ns = now_ns();
    p->busy = false;
    parts_ready(kv, p, i);
    if (p->state == PART_SENT)
        parts_unbusy(kv, p);
    else if (p->landed < p->n)
        list_add_head(&kv->landing, &p->node);
    else
        call_part_ended(kv, p, p->status);
}

/* ---- telling ---- */

bool parts_begin(struct call *c)
{
    c->tells = true;
    if (!part_room((void **)&c->ready, &c->ready_cap, c->n, 1))
        return false;
    memset(c->ready, 0, c->n);
    return true;
}

void parts_finish(struct pikv *kv, struct call *c)
{
    if (!c->tells)
        return;
    if (!c->status)
        memset(c->ready, 1, c->n);
    parts_tell(kv, c);
}

bool parts_take(struct pikv *kv, struct pikv_completion *out)
{
    struct call *c;

    if (list_empty(&kv->telling))
        return false;
    c = container_of(kv->telling.next, struct call, tell_node);
    *out = (struct pikv_completion){
        .id = c->id,
        .user = c->user,
        .part = true,
        .item = c->told_n,
        .status = c->results[c->told_n].status,
        .n = c->n,
        .results = c->results,
    };
    if (++c->told_n == c->ready_n)
        list_del(&c->tell_node);
    return true;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests from the caller's items: cut into parts by lane and limits, their
 * bytes placed. build_write.c then writes the messages.
 *
 *     plan      lane of each item = slot of its route mod lanes; a part is
 *               closed when the message, key or credit limit is reached
 *     place     per item: a layout that the lane knows needs but the number of
 *               the block; memory that the lane knows is named by segments;
 *               other memory gets a stand-in in the staging area, or in a
 *               region of its own when the part is larger than that area
 *     caps      PREFETCH: what may be brought in all is divided among the parts
 *               by their keys, because no lane knows of the others
 *
 * Sizes are counted here and used up exactly in build_write.c. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "client/peer.h"
#include "client/spread.h"

enum { SEGS_MAX = 1024, STAGE_ALIGN = 64 };

/* ---- plan ---- */

uint32_t build_slot(const struct ns *space, const struct pikv_key *k)
{
    const struct pikv_bytes *route = k->route.len ? &k->route : &k->key;

    return hash_slot(space->slot_seed, route->p, route->len);
}

uint32_t build_lane(const struct pikv *kv, const struct ns *space,
                    const struct pikv_key *k)
{
    return build_slot(space, k) % kv->peers[0]->lane_n;
}

bool build_item_has_attr(const struct pikv_put *p)
{
    return p->page || p->token_end || p->token_n || p->ttl_ms ||
           p->pin_ttl_ms || p->affinity || p->priority || p->durable ||
           p->client_keeps_copy || p->replicas || p->labels[0] ||
           p->labels[1] || p->labels[2] || p->labels[3];
}

const struct pikv_put *build_item_put(const struct request *r, uint32_t i)
{
    if (r->puts)
        return &r->puts[i];
    return r->begins ? &r->begins[i].block : NULL;
}

const struct pikv_buf *build_item_runs(const struct request *r, uint32_t i,
                                       uint32_t *n_out)
{
    static_assert(sizeof(struct pikv_buf) == sizeof(struct pikv_bytes) &&
                      offsetof(struct pikv_buf, len) ==
                          offsetof(struct pikv_bytes, len),
                  "read alike");
    const void *one, *list;

    if (r->op == OP_PUT) {
        one = &r->puts[i].data;
        list = r->puts[i].iov;
        *n_out = r->puts[i].iov_n;
    } else if (r->op == OP_PUT_WRITE) {
        one = &r->writes[i].data;
        list = r->writes[i].iov;
        *n_out = r->writes[i].iov_n;
    } else {
        one = &r->gets[i].data;
        list = r->gets[i].iov;
        *n_out = r->gets[i].iov_n;
    }
    if (*n_out)
        return list;
    *n_out = 1;
    return one;
}

uint64_t build_item_bytes(const struct request *r, uint32_t i)
{
    uint64_t sum = 0;
    uint32_t n;
    const struct pikv_buf *runs;

    if (!op_moves(r->op))
        return 0;
    if (r->lay) {
        struct lay_range g;

        lay_range(r, i, &g);
        return g.len;
    }
    runs = build_item_runs(r, i, &n);
    for (uint32_t k = 0; k < n; k++)
        sum += runs[k].len;
    return sum;
}

struct pikv_buf dest_run(const struct part *p, const struct dest *d, uint32_t k)
{
    if (d->iov_n)
        return p->iov[d->iov_first + k];
    return (struct pikv_buf){d->p, d->len};
}

/* Are all its runs in memory that the lane knows? */
static bool dest_registered(struct pikv *kv, const struct part *p,
                            const struct dest *d)
{
    uint32_t n = dest_run_n(d);

    if (n > SEGS_MAX)
        return false;
    for (uint32_t k = 0; k < n; k++) {
        struct pikv_buf b = dest_run(p, d, k);

        if (!region_find(kv, p->conn->line, b.p, b.len))
            return false;
    }
    return true;
}

static bool part_keep_runs(struct part *p, struct dest *d,
                           const struct pikv_buf *runs, uint32_t n)
{
    if (n == 1) {
        d->p = runs[0].p;
        return true;
    }
    if (!part_room((void **)&p->iov, &p->iov_cap, p->iov_n + n, sizeof(*runs)))
        return false;
    memcpy(p->iov + p->iov_n, runs, n * sizeof(*runs));
    d->iov_first = p->iov_n;
    d->iov_n = n;
    p->iov_n += n;
    return true;
}

/* The runs of an item: the caller's, or what its layout means. */
static bool part_runs(const struct request *r, struct part *p, struct dest *d,
                      uint32_t i)
{
    const struct pikv_buf *runs;
    struct lay_range g;
    uint32_t n;

    if (!r->lay) {
        runs = build_item_runs(r, i, &n);
        return part_keep_runs(p, d, runs, n);
    }
    if (p->layout && !p->call->verify)
        return true; /* nobody asks where they are */
    lay_range(r, i, &g);
    return lay_expand(r->lay, &g, p, d);
}

/* Where the bytes of an item go or come from. */
static bool part_place(struct pikv *kv, const struct request *r, struct part *p,
                       uint32_t i, uint64_t bytes)
{
    struct dest *d;

    if (!op_moves(r->op))
        return true;
    if (!part_room((void **)&p->dests, &p->dest_cap, p->n + 1, sizeof(*d)))
        return false;
    d = &p->dests[p->n];
    *d = (struct dest){.len = bytes, .staged = DIRECT};
    if (r->op == OP_GET) {
        d->whole = r->gets[i].off == 0;
        d->loan = r->gets[i].loan;
    }
    if (bytes == 0)
        return true;
    if (!part_runs(r, p, d, i))
        return false;
    if (!p->conn->ops->registers && p->kind != LEG_HEDGE)
        return true;
    if (p->kind != LEG_HEDGE && (p->layout || dest_registered(kv, p, d))) {
        d->segs = p->layout ? 1 : dest_run_n(d);
        p->direct = true;
    } else {
        d->segs = p->conn->ops->registers;
        d->staged = p->staged_bytes;
        p->staged_bytes += align_up(bytes, STAGE_ALIGN);
    }
    return true;
}

static uint32_t item_keys_len(const struct request *r, uint32_t i)
{
    const struct pikv_key *k = request_key(r, i);
    const struct pikv_put *put = build_item_put(r, i);
    size_t n = k->key.len + k->route.len;

    return (uint32_t)(n + (put ? put->parent.len : 0));
}

/* Would the item make the part larger than its connection allows? */
static bool part_is_full(const struct request *r, const struct part *p,
                         uint32_t i, uint64_t bytes)
{
    const struct conn *c = p->conn;
    uint32_t iov = 0;
    uint64_t len;

    if (p->n == 0)
        return false;
    if (r->lay)
        iov = p->layout ? 1 : r->lay->l.pieces;
    else if (op_moves(r->op))
        (void)build_item_runs(r, i, &iov);
    len = sizeof(struct wire_frame) +
          (p->record_n + UINT64_C(2)) * WIRE_RECORD + p->keys_len +
          item_keys_len(r, i) +
          (min_u64(iov, SEGS_MAX) + 1) * sizeof(struct wire_seg);
    return p->n >= c->limits.batch_keys || len > c->limits.message_bytes ||
           p->bytes + bytes > c->credit_bytes;
}

static bool part_add(struct pikv *kv, const struct request *r, struct part *p,
                     uint32_t i, uint64_t bytes)
{
    const struct pikv_put *put = build_item_put(r, i);

    if (!part_place(kv, r, p, i, bytes))
        return false;
    if (p->has_idx) {
        if (!part_room((void **)&p->idx, &p->idx_cap, p->n + 1,
                       sizeof(*p->idx)))
            return false;
        p->idx[p->n] = i;
    } else if (p->n == 0) {
        p->first = i;
    }
    p->record_n += put && build_item_has_attr(put) ? 2 : 1;
    p->keys_len += item_keys_len(r, i);
    if (p->n < p->dest_cap && op_moves(r->op))
        p->keys_len += p->dests[p->n].segs * (uint32_t)sizeof(struct wire_seg);
    p->bytes += bytes;
    p->n++;
    return true;
}

struct part *build_part(struct pikv *kv, const struct request *r,
                        struct call *c, uint32_t line)
{
    struct part *p = part_take(kv, c, kv->conns[line]);

    if (!p)
        return NULL;
    p->ns = (uint32_t)(r->space - kv->ns);
    p->has_idx = (kv->many || kv->line_n > 1) && !r->everywhere;
    p->incarnation = p->conn->incarnation;
    p->layout = r->lay ? r->lay->ids[line] : 0;
    p->cols = (uint16_t)r->cols;
    p->record_n = 1 + r->cols + r->extra_n;
    if (r->label)
        p->record_n++;
    if (r->op == OP_EVICT && r->select == PIKV_PATTERN)
        p->keys_len = (uint32_t)request_key(r, 0)->key.len;
    return p;
}

bool build_add(struct pikv *kv, const struct request *r, struct call *c,
               struct part **p, uint32_t i)
{
    uint64_t bytes = build_item_bytes(r, i);

    if (part_is_full(r, *p, i, bytes)) {
        struct part *full = *p;

        *p = build_part(kv, r, c, full->conn->line);
        if (*p) {
            (*p)->kind = full->kind;
            (*p)->sided = full->sided;
        }
    }
    return *p && part_add(kv, r, *p, i, bytes);
}

int build_line(struct pikv *kv, const struct request *r, struct call *c,
               uint32_t line)
{
    struct part *p = build_part(kv, r, c, line);

    for (uint32_t i = 0; p && i < r->n; i++)
        if (!build_add(kv, r, c, &p, i))
            return ERR_NO_MEMORY;
    return p ? OK : ERR_NO_MEMORY;
}

static int plan_lanes(struct pikv *kv, const struct request *r, struct call *c)
{
    struct part *open[LANES_MAX] = {0};

    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t lane = build_lane(kv, r->space, request_key(r, i));

        if (!open[lane])
            open[lane] = build_part(kv, r, c, lane);
        if (!open[lane] || !build_add(kv, r, c, &open[lane], i))
            return ERR_NO_MEMORY;
    }
    return OK;
}

/* A stand-in for the bytes that are not registered. */
static int plan_staging(struct pikv *kv, struct part *p)
{
    uint64_t bytes = p->staged_bytes;
    void *addr;
    int fd, e;

    if (bytes == 0 || p->conn->state != CONN_UP)
        return OK;
    if (!p->conn->ops->registers) {
        p->aside = malloc(bytes);
        return p->aside ? OK : ERR_NO_MEMORY;
    }
    if (staging_take(&kv->staging, bytes, &p->stage))
        return OK;
    if (bytes <= (uint64_t)kv->staging.units * STAGE_UNIT ||
        p->kind == LEG_HEDGE)
        return ERR_BUSY;
    bytes = align_up(bytes, STAGE_UNIT);
    e = region_memfd(bytes, &addr, &fd);
    if (e)
        return e;
    p->own = region_new(kv, fd, 0, bytes, addr, true, false);
    if (!p->own)
        return ERR_NO_MEMORY;
    p->gate = GATE_REGION;
    region_tell(kv, p->own, p->conn, false);
    return OK;
}

static void plan_sizes(const struct request *r, struct part *p)
{
    if (p->cols && p->n != r->n) {
        p->record_n -= p->cols - 1u;
        p->cols = 1;
    }
    if (op_sends(r->op) && p->conn->ops->inlines && p->bytes <= WIRE_EAGER_MAX)
        p->inline_bytes = p->bytes;
    p->msg_len = (uint32_t)(sizeof(struct wire_frame) +
                            (size_t)p->record_n * WIRE_RECORD + p->keys_len +
                            p->inline_bytes);
}

/* Each part gets what its keys are of all keys; the sums of these shares differ
 * from one part to the next by whole MiB, so that nothing of the cap is lost. A
 * part without any is not sent: 0 would mean no cap. */
void build_caps(const struct request *r, struct call *c)
{
    uint64_t keys = 0, before = 0;

    if (r->cap_mib == 0)
        return;
    LIST_FOREACH(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);
        uint64_t sum;

        keys += p->n;
        sum = r->cap_mib * keys / r->n;
        p->cap_mib = (uint32_t)(sum - before);
        before = sum;
    }
}

int build_close(struct pikv *kv, const struct request *r, struct part *p)
{
    int e = plan_staging(kv, p);

    plan_sizes(r, p);
    if (!e && p->msg_len - p->inline_bytes > p->conn->limits.message_bytes)
        e = ERR_LIMIT;
    return e;
}

int build_plan(struct pikv *kv, const struct request *r, struct call *c)
{
    uint32_t lanes = kv->peers[0]->lane_n;
    int e = OK;

    if (!r->everywhere && lanes > 1)
        e = plan_lanes(kv, r, c);
    else if (!r->everywhere)
        e = build_line(kv, r, c, 0);
    else
        for (uint32_t lane = 0; lane < lanes && !e; lane++)
            e = build_line(kv, r, c, lane);
    build_caps(r, c);
    LIST_FOREACH(l, &c->parts)
    {
        if (!e)
            e = build_close(kv, r, container_of(l, struct part, call_node));
    }
    return e;
}

/* ---- bytes into staging ---- */

uint8_t *part_staging(struct pikv *kv, const struct part *p)
{
    if (p->aside)
        return p->aside;
    if (p->own)
        return p->own->addr;
    return kv->staging.region->addr + (size_t)p->stage.first * STAGE_UNIT;
}

void build_stage(struct pikv *kv, struct part *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        const struct dest *d = &p->dests[i];
        uint8_t *to;

        if (d->staged == DIRECT)
            continue;
        to = part_staging(kv, p) + d->staged;
        for (uint32_t k = 0; k < dest_run_n(d); k++) {
            struct pikv_buf b = dest_run(p, d, k);

            if (b.len)
                memcpy(to, b.p, b.len);
            to += b.len;
        }
    }
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The view as bytes. A whole view is written as the difference to an empty one,
 * so that there is one form, one writer and one reader.
 *
 *   u32 magic  u16 version  u16 is a delta
 *   u64 cluster  u32 generation  u64 epoch  u64 base epoch (whole: 0)
 *   u32 nodes  u32 n, n times: u16 index, node      rising indexes
 *   u32 flushes  u32 n, n times: u16 index, u64 name, u64 count
 *   slots, in runs until all 65,536 are told:
 *       u16 = kind << 13 | count - 1
 *       SKIP               as in the base
 *       OWNERS, OWNERS_x   count rows, or one row count times: 3 u16
 *       ROWS, ROWS_x       the same with whole struct slot: 12 bytes
 *   u32 crc32c of all before
 *
 * 16 nodes with random owners: 384 KiB; a few slots: tens of bytes.
 *
 * Reading is all or nothing and copies no view: a draft collects the new nodes
 * and flushes and checks everything, slots included, against what the view will
 * be; only then the slots are read a second time, into the view. What cannot be
 * decoded is a stranger's: BAD_REQUEST without words. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/view_impl.h"

enum {
    VIEW_MAGIC = 0x56564b50, /* "PKVV" */
    VIEW_VERSION = 1,
    RUN_SKIP = 0,
    RUN_OWNERS = 1,
    RUN_OWNERS_X = 2,
    RUN_ROWS = 3,
    RUN_ROWS_X = 4,
    RUN_SHIFT = 13,
    RUN_MAX = 1 << RUN_SHIFT,
    OWNERS_BYTES = VIEW_COPIES * sizeof(uint16_t),
    NODE_DRAINED = 1,
    NODE_VOTER = 2,
    FLUSH_BYTES = 18,
};

/* ---- Nodes ---- */

static void pack(struct slice_out *o, const void *p, size_t n)
{
    MUST(slice_put(o, p, n));
}

static void pack_text(struct slice_out *o, const char *text, size_t cap)
{
    size_t n = strnlen(text, cap - 1);
    uint8_t len = (uint8_t)n;

    pack(o, &len, 1);
    pack(o, text, n);
}

size_t node_pack(const struct node *n, uint8_t out[NODE_BYTES_MAX])
{
    struct slice_out o = {out, 0, NODE_BYTES_MAX, false};
    uint8_t flags = (uint8_t)((n->drained ? NODE_DRAINED : 0) |
                              (n->voter ? NODE_VOTER : 0));

    pack(&o, &n->uuid, 8);
    pack(&o, &n->host, 8);
    pack(&o, &n->incarnation, 4);
    pack(&o, &n->weight, 4);
    pack(&o, &n->speaks, 4);
    pack(&o, &n->lane_n, 2);
    pack(&o, &n->state, 1);
    pack(&o, &flags, 1);
    pack_text(&o, n->name, sizeof(n->name));
    pack_text(&o, n->zone, sizeof(n->zone));
    pack_text(&o, n->rack, sizeof(n->rack));
    pack_text(&o, n->peer, sizeof(n->peer));
    pack_text(&o, n->shm, sizeof(n->shm));
    pack_text(&o, n->ucx, sizeof(n->ucx));
    return o.len;
}

void bytes_put_node(struct bytes *b, const struct node *n)
{
    uint8_t buf[NODE_BYTES_MAX];

    bytes_put(b, buf, node_pack(n, buf));
}

void bytes_get_node(struct slice *s, struct node *n)
{
    uint8_t flags;

    *n = (struct node){0};
    n->uuid = bytes_get_u64(s);
    n->host = bytes_get_u64(s);
    n->incarnation = bytes_get_u32(s);
    n->weight = bytes_get_u32(s);
    n->speaks = bytes_get_u32(s);
    n->lane_n = bytes_get_u16(s);
    n->state = bytes_get_u8(s);
    flags = bytes_get_u8(s);
    n->drained = flags & NODE_DRAINED;
    n->voter = flags & NODE_VOTER;
    bytes_get_text(s, n->name, sizeof(n->name));
    bytes_get_text(s, n->zone, sizeof(n->zone));
    bytes_get_text(s, n->rack, sizeof(n->rack));
    bytes_get_text(s, n->peer, sizeof(n->peer));
    bytes_get_text(s, n->shm, sizeof(n->shm));
    bytes_get_text(s, n->ucx, sizeof(n->ucx));
    if (flags > (NODE_DRAINED | NODE_VOTER) || view_node_wrong(n))
        s->bad = true;
}

bool node_equal(const struct node *a, const struct node *b)
{
    uint8_t x[NODE_BYTES_MAX], y[NODE_BYTES_MAX];
    size_t n;

    if (memcmp(a, b, sizeof(*a)) == 0)
        return true;
    n = node_pack(a, x);
    return n == node_pack(b, y) && memcmp(x, y, n) == 0;
}

/* ---- Slots: writing ---- */

static bool row_equal(const struct slot *a, const struct slot *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static bool row_plain(const struct slot *s)
{
    return s->from == NODE_NONE && s->to == NODE_NONE && !s->heat && !s->spare;
}

static void run_put(struct bytes *b, uint32_t kind, uint32_t n)
{
    bytes_put_u16(b, (uint16_t)(kind << RUN_SHIFT | (n - 1)));
}

static void row_put(struct bytes *b, const struct slot *s, bool plain)
{
    bytes_put(b, s, plain ? (size_t)OWNERS_BYTES : sizeof(*s));
}

/* How many rows from at on are as in the base. */
static uint32_t run_skip(const struct view *base, const struct view *v,
                         uint32_t at)
{
    uint32_t n = 0;

    while (at + n < WIRE_SLOTS && n < RUN_MAX &&
           row_equal(&base->slots[at + n], &v->slots[at + n]))
        n++;
    return n;
}

static uint32_t run_same(const struct view *v, uint32_t at)
{
    uint32_t n = 1;

    while (at + n < WIRE_SLOTS && n < RUN_MAX &&
           row_equal(&v->slots[at], &v->slots[at + n]))
        n++;
    return n;
}

/* How many rows from at on are of one form and of no better run. */
static uint32_t run_rows(const struct view *base, const struct view *v,
                         uint32_t at, bool plain)
{
    uint32_t n = 1;

    for (; at + n < WIRE_SLOTS && n < RUN_MAX; n++) {
        const struct slot *s = &v->slots[at + n];

        if (row_plain(s) != plain || row_equal(&base->slots[at + n], s) ||
            run_same(v, at + n) > 1)
            break;
    }
    return n;
}

static void slots_put(struct bytes *b, const struct view *base,
                      const struct view *v)
{
    uint32_t n;

    for (uint32_t at = 0; at < WIRE_SLOTS; at += n) {
        bool plain = row_plain(&v->slots[at]);

        n = run_skip(base, v, at);
        if (n) {
            run_put(b, RUN_SKIP, n);
            continue;
        }
        n = run_same(v, at);
        if (n > 1) {
            run_put(b, plain ? RUN_OWNERS_X : RUN_ROWS_X, n);
            row_put(b, &v->slots[at], plain);
            continue;
        }
        n = run_rows(base, v, at, plain);
        run_put(b, plain ? RUN_OWNERS : RUN_ROWS, n);
        for (uint32_t i = 0; i < n; i++)
            row_put(b, &v->slots[at + i], plain);
    }
}

/* ---- The whole: writing ---- */

static void nodes_put(struct bytes *b, const struct view *base,
                      const struct view *v)
{
    size_t at;
    uint32_t n = 0;

    bytes_put_u32(b, v->node_n);
    at = b->len;
    bytes_put_u32(b, 0);
    for (uint32_t i = 0; i < v->node_n; i++) {
        if (i < base->node_n && node_equal(&base->nodes[i], &v->nodes[i]))
            continue;
        bytes_put_u16(b, (uint16_t)i);
        bytes_put_node(b, &v->nodes[i]);
        n++;
    }
    if (!b->bad)
        memcpy(b->p + at, &n, sizeof(n));
}

static void flushes_put(struct bytes *b, const struct view *base,
                        const struct view *v)
{
    size_t at;
    uint32_t n = 0;

    bytes_put_u32(b, v->flush_n);
    at = b->len;
    bytes_put_u32(b, 0);
    for (uint32_t i = 0; i < v->flush_n; i++) {
        if (i < base->flush_n && memcmp(&base->flushes[i], &v->flushes[i],
                                        sizeof(v->flushes[i])) == 0)
            continue;
        bytes_put_u16(b, (uint16_t)i);
        bytes_put_u64(b, v->flushes[i].name);
        bytes_put_u64(b, v->flushes[i].count);
        n++;
    }
    if (!b->bad)
        memcpy(b->p + at, &n, sizeof(n));
}

static void put(struct bytes *b, const struct view *base, const struct view *v,
                bool delta)
{
    size_t start = b->len;

    bytes_put_u32(b, VIEW_MAGIC);
    bytes_put_u16(b, VIEW_VERSION);
    bytes_put_u16(b, delta);
    bytes_put_u64(b, v->cluster);
    bytes_put_u32(b, v->generation);
    bytes_put_u64(b, v->epoch);
    bytes_put_u64(b, base->epoch);
    nodes_put(b, base, v);
    flushes_put(b, base, v);
    slots_put(b, base, v);
    bytes_seal(b, start);
}

void view_encode(const struct view *v, struct bytes *out)
{
    struct view none;

    if (view_init(&none) == OK)
        put(out, &none, v, false);
    else
        out->bad = true;
    view_fini(&none);
}

void view_delta(const struct view *from, const struct view *to,
                struct bytes *out)
{
    MUST(from->cluster == to->cluster && from->generation == to->generation);
    MUST(from->node_n <= to->node_n && from->flush_n <= to->flush_n);
    put(out, from, to, true);
}

/* ---- Reading ---- */

struct draft {
    uint32_t node_n, fresh_n;
    struct node *fresh; /* told by the bytes; at points into it or the view */
    uint16_t *fresh_at;
    uint32_t flush_n, flush_fresh_n;
    struct slice flushes; /* checked */
    bool left;            /* a node can no longer hold what it held */
    bool named;           /* names must be compared */
    uint8_t states[NODES_MAX];
    const struct node *at[NODES_MAX];
};

static bool holds(uint8_t state)
{
    return state != NODE_JOINING && state != NODE_REMOVED;
}

/* Takes node i into the draft. */
static void draft_node(struct draft *d, const struct view *v, uint16_t i,
                       const struct node *n)
{
    const struct node *old = i < v->node_n ? &v->nodes[i] : NULL;

    if (old && holds(old->state) && !holds(n->state))
        d->left = true;
    if (!old || strcmp(old->name, n->name) != 0 || old->state == NODE_REMOVED)
        d->named = true;
    d->at[i] = n;
    d->states[i] = n->state;
}

/* The indexes rise, and whoever is new to the view is told. */
static bool draft_index(uint32_t i, uint32_t *next, uint32_t had, uint32_t n)
{
    bool ok = i >= *next && i < n && !(i > had && i > *next);

    *next = i + 1;
    return ok;
}

/* Has the last of the new ones been told? */
static bool draft_whole(uint32_t next, uint32_t had, uint32_t n)
{
    return n == had || (n > had && next == n);
}

static enum err draft_nodes(struct draft *d, const struct view *v,
                            struct slice *s)
{
    uint32_t next = 0, n;

    d->node_n = bytes_get_u32(s);
    n = bytes_get_u32(s);
    if (s->bad || d->node_n > NODES_MAX || n > d->node_n ||
        n > s->len / (2 + NODE_BYTES_MIN))
        return ERR_BAD_REQUEST;
    for (uint32_t i = 0; i < v->node_n && i < d->node_n; i++) {
        d->at[i] = &v->nodes[i];
        d->states[i] = v->nodes[i].state;
    }
    if (n && !fault_here("view_draft")) {
        d->fresh = calloc(n, sizeof(*d->fresh));
        d->fresh_at = calloc(n, sizeof(*d->fresh_at));
    }
    if (n && (!d->fresh || !d->fresh_at))
        return ERR_NO_MEMORY;
    for (; d->fresh_n < n; d->fresh_n++) {
        struct node *node = &d->fresh[d->fresh_n];
        uint16_t i = bytes_get_u16(s);

        bytes_get_node(s, node);
        if (s->bad || !draft_index(i, &next, v->node_n, d->node_n))
            return ERR_BAD_REQUEST;
        d->fresh_at[d->fresh_n] = i;
        draft_node(d, v, i, node);
    }
    if (!draft_whole(next, v->node_n, d->node_n) ||
        (d->named && !names_differ(d->at, d->node_n)))
        return ERR_BAD_REQUEST;
    return OK;
}

static enum err draft_flushes(struct draft *d, const struct view *v,
                              struct slice *s)
{
    uint32_t next = 0;

    d->flush_n = bytes_get_u32(s);
    d->flush_fresh_n = bytes_get_u32(s);
    if (s->bad || d->flush_n > VIEW_FLUSHES_MAX ||
        d->flush_fresh_n > d->flush_n ||
        d->flush_fresh_n > s->len / FLUSH_BYTES)
        return ERR_BAD_REQUEST;
    d->flushes = *s;
    for (uint32_t i = 0; i < d->flush_fresh_n; i++) {
        uint16_t at = bytes_get_u16(s);

        slice_take(s, FLUSH_BYTES - 2);
        if (s->bad || !draft_index(at, &next, v->flush_n, d->flush_n))
            return ERR_BAD_REQUEST;
    }
    return draft_whole(next, v->flush_n, d->flush_n) ? OK : ERR_BAD_REQUEST;
}

static void row_get(struct slice *s, struct slot *to, bool plain)
{
    *to = (struct slot){.from = NODE_NONE, .to = NODE_NONE};
    slice_copy(s, to, plain ? (size_t)OWNERS_BYTES : sizeof(*to));
}

static bool row_fits(const struct draft *d, const struct slot *s)
{
    return !view_slot_wrong(s, d->states, d->node_n);
}

/* The rows as they stay; they were right, and are so still unless somebody
 * left. */
static bool skip_fits(const struct draft *d, const struct slot *rows,
                      uint32_t n)
{
    for (uint32_t i = 0; d->left && i < n; i++)
        if (!row_fits(d, &rows[i]))
            return false;
    return true;
}

/* Reads one run for the rows from here on, count of which are left. Returns how
 * many there were, 0: s is bad. Writes only if told to, else it checks. */
static uint32_t run_get(const struct draft *d, struct slice *s,
                        struct slot *rows, uint32_t left, bool write)
{
    uint16_t head = bytes_get_u16(s);
    uint32_t kind = head >> RUN_SHIFT;
    uint32_t n = (head & (RUN_MAX - 1u)) + 1;
    bool plain = kind == RUN_OWNERS || kind == RUN_OWNERS_X;
    bool same = kind == RUN_OWNERS_X || kind == RUN_ROWS_X;
    struct slot row;

    if (kind > RUN_ROWS_X || n > left)
        s->bad = true;
    if (kind == RUN_SKIP && !write && !skip_fits(d, rows, n))
        s->bad = true;
    for (uint32_t i = 0; kind != RUN_SKIP && !s->bad && i < n; i++) {
        if (!same || i == 0) {
            row_get(s, &row, plain);
            if (!s->bad && !write && !row_fits(d, &row))
                s->bad = true;
        }
        if (!s->bad && write)
            rows[i] = row;
        if (same && !write)
            break;
    }
    return s->bad ? 0 : n;
}

static bool slots_get(const struct draft *d, struct view *v, struct slice s,
                      bool write)
{
    uint32_t at = 0, n;

    for (; at < WIRE_SLOTS; at += n) {
        n = run_get(d, &s, &v->slots[at], WIRE_SLOTS - at, write);
        if (!n)
            return false;
    }
    return bytes_end(&s);
}

struct head {
    bool delta;
    uint64_t cluster, epoch, base_epoch;
    uint32_t generation;
};

static enum err head_get(struct slice *s, const uint8_t *p, size_t n,
                         struct head *h)
{
    uint32_t magic;
    uint16_t version, delta;

    if (!bytes_unseal(s, p, n))
        return ERR_BAD_REQUEST;
    magic = bytes_get_u32(s);
    version = bytes_get_u16(s);
    delta = bytes_get_u16(s);
    h->delta = delta;
    h->cluster = bytes_get_u64(s);
    h->generation = bytes_get_u32(s);
    h->epoch = bytes_get_u64(s);
    h->base_epoch = bytes_get_u64(s);
    if (s->bad || magic != VIEW_MAGIC || delta > 1)
        return ERR_BAD_REQUEST;
    if (version != VIEW_VERSION)
        return ERR_BAD_VERSION;
    return h->epoch < h->base_epoch ? ERR_BAD_REQUEST : OK;
}

/* Nothing fails any more: the draft was checked and there is room. */
static void commit(struct view *v, struct draft *d, struct slice slots,
                   const struct head *h)
{
    for (uint32_t i = 0; i < d->fresh_n; i++)
        v->nodes[d->fresh_at[i]] = d->fresh[i];
    v->node_n = d->node_n;
    for (uint32_t i = 0; i < d->flush_fresh_n; i++) {
        struct view_flush *f = &v->flushes[bytes_get_u16(&d->flushes)];

        f->name = bytes_get_u64(&d->flushes);
        f->count = bytes_get_u64(&d->flushes);
    }
    v->flush_n = d->flush_n;
    MUST(slots_get(d, v, slots, true));
    v->cluster = h->cluster;
    v->generation = h->generation;
    v->epoch = h->epoch;
}

static enum err apply(struct view *v, struct slice s, const struct head *h)
{
    struct draft *d = fault_here("view_draft") ? NULL : calloc(1, sizeof(*d));
    enum err e = d ? draft_nodes(d, v, &s) : ERR_NO_MEMORY;

    if (e == OK)
        e = draft_flushes(d, v, &s);
    if (e == OK && !slots_get(d, v, s, false))
        e = ERR_BAD_REQUEST;
    if (e == OK)
        e = view_room(v, d->node_n);
    if (e == OK)
        e = view_flush_room(v, d->flush_n);
    if (e == OK)
        commit(v, d, s, h);
    if (d) {
        free(d->fresh);
        free(d->fresh_at);
    }
    free(d);
    return e;
}

enum err view_decode(struct view *v, const uint8_t *p, size_t n)
{
    struct view fresh = {0};
    struct head h;
    struct slice s;
    enum err e = head_get(&s, p, n, &h);

    if (e == OK && (h.delta || h.base_epoch))
        e = ERR_BAD_REQUEST;
    if (e == OK)
        e = view_init(&fresh);
    if (e == OK)
        e = apply(&fresh, s, &h);
    if (e == OK) {
        view_fini(v);
        *v = fresh;
    } else {
        view_fini(&fresh);
    }
    return e;
}

enum err view_apply_delta(struct view *v, const uint8_t *p, size_t n)
{
    struct head h;
    struct slice s;
    enum err e = head_get(&s, p, n, &h);

    if (e != OK)
        return e;
    if (!h.delta || h.cluster != v->cluster)
        return ERR_BAD_REQUEST;
    if (h.generation != v->generation || h.base_epoch != v->epoch)
        return ERR_STALE_EPOCH;
    return apply(v, s, &h);
}

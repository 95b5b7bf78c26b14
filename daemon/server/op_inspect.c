/* SPDX-License-Identifier: Apache-2.0
 *
 * STAT and INSPECT: looking without touching. STAT sums the counters of all
 * lanes (atomic reads); INSPECT sees this lane only, a client asks each.
 *
 *   INSPECT KEY      one block's life
 *   INSPECT KEYS     a page of keys from a cursor
 *   INSPECT CLIENTS  this lane's connections */
#include <string.h>

#include "server/control.h"
#include "server/peer.h"

enum { STAT_ITEMS = 1024, INSPECT_KEYS_MAX = 256, INSPECT_BUDGET = 4096 };

/* A page of keys holds so many packed bytes, or less if messages are smaller;
 * of one block: its numbers and texts, and with its key and parent. */
enum {
    INSPECT_PAGE_BYTES = 128 << 10,
    INSPECT_FIXED_BYTES = 512,
    INSPECT_BLOCK_BYTES = INSPECT_FIXED_BYTES + 2 * WIRE_KEY_MAX,
};
static_assert(INSPECT_PAGE_BYTES + INSPECT_KEYS_MAX * INSPECT_FIXED_BYTES <=
                  OP_MSG_BYTES,
              "a page fits the arena");

struct stat_walk {
    struct op *op;
    const char *prefix;
    Pikv__StatReply rep;
    Pikv__StatItem *items[STAT_ITEMS];
};

static void stat_item(const char *name, uint64_t value, void *arg)
{
    struct stat_walk *w = arg;
    Pikv__StatItem *item;

    if (strncmp(name, w->prefix, strlen(w->prefix)) != 0 ||
        w->rep.n_items == STAT_ITEMS)
        return;
    item = arena_alloc(&w->op->arena, sizeof *item);
    if (!item)
        return;
    pikv__stat_item__init(item);
    item->name = msg_str(&w->op->arena, name);
    item->value = value;
    if (item->name)
        w->items[w->rep.n_items++] = item;
}

static void stat_tick(struct op *op)
{
    const Pikv__StatRequest *m = op_unpack(op, &pikv__stat_request__descriptor);
    struct stat_walk *w = arena_zalloc(&op->arena, sizeof *w);
    struct metrics *sum = arena_zalloc(&op->arena, sizeof *sum);
    const struct control *c = op->lane->control;

    if (!m) {
        op_reply(op, ERR_BAD_REQUEST);
        return;
    }
    MUST(w && sum);
    for (uint32_t i = 0; i < c->lane_n; i++)
        metrics_sum(sum, &c->lanes[i]->metrics);
    w->op = op;
    w->prefix = m->prefix;
    pikv__stat_reply__init(&w->rep);
    w->rep.items = w->items;
    metrics_walk(sum, stat_item, w);
    op_reply_msg(op, OK, &w->rep);
}

struct inspect {
    struct op *op;
    uint32_t ns, limit;
    uint64_t bytes; /* of the page, packed, at most */
    Pikv__InspectReply rep;
    Pikv__BlockInfo *blocks[INSPECT_KEYS_MAX];
    Pikv__ClientInfo *clients[INSPECT_KEYS_MAX];
};

static ProtobufCBinaryData bytes_of(struct op *op, const void *p, size_t n)
{
    ProtobufCBinaryData d = {n, n ? arena_alloc(&op->arena, n) : NULL};

    MUST(d.data || n == 0); /* a page is bounded: inspect_keys */
    if (n)
        memcpy(d.data, p, n);
    return d;
}

static void labels_of(Pikv__BlockInfo *b, struct op *op,
                      const struct wire_attr *a)
{
    const uint64_t labels[4] = {a->label0, a->label1, a->label2, a->label3};

    b->labels = arena_alloc(&op->arena, sizeof labels);
    for (uint32_t i = 0; b->labels && i < countof(labels); i++)
        if (labels[i])
            b->labels[b->n_labels++] = labels[i];
}

static const char *found_name(enum store_found f)
{
    switch (f) {
    case FOUND_HIT:
        return "LIVE";
    case FOUND_PENDING:
        return "OPEN";
    case FOUND_MISS_NEVER:
    case FOUND_MISS_EVICTED:
    case FOUND_MISS_EXPIRED:
    case FOUND_MISS_NOT_ADMITTED:
    case FOUND_MISS_LATE:
    case FOUND_MISS_DROPPED:
    case FOUND_MISS_CORRUPT:
        break;
    }
    return "GONE";
}

static void block_msg(struct inspect *in, uint32_t block)
{
    static const uint8_t no_scope[16];
    struct op *op = in->op;
    Pikv__BlockInfo *b = arena_alloc(&op->arena, sizeof *b);
    struct store_info i;

    MUST(b && in->rep.n_blocks < INSPECT_KEYS_MAX);
    store_info(op->lane->store, block, &i);
    in->bytes += (uint64_t)INSPECT_FIXED_BYTES + i.key.key_len + i.parent_len;
    pikv__block_info__init(b);
    b->key = bytes_of(op, i.key.key, i.key.key_len);
    b->group = i.key.group;
    b->cls = i.key.cls;
    if (memcmp(i.key.scope, no_scope, sizeof no_scope) != 0)
        b->scope = bytes_of(op, i.key.scope, sizeof no_scope);
    b->state = msg_str(&op->arena, found_name(i.found));
    b->tier = msg_str(&op->arena, "dram");
    b->version = i.version;
    b->len = i.len;
    b->crc = i.crc;
    b->pins = i.pins;
    b->children = i.children;
    b->parent = bytes_of(op, i.parent, i.parent_len);
    b->page = i.attr.page;
    b->affinity = i.attr.affinity;
    b->token_end = i.attr.token_end;
    b->token_n = i.attr.token_n;
    labels_of(b, op, &i.attr);
    b->age_ms = i.age_ms;
    b->idle_ms = i.idle_ms;
    b->hits = i.hits;
    b->ttl_left_ms = i.ttl_left_ms;
    b->extents = i.extents;
    b->lane = op->lane->idx;
    b->slot = hash_slot(op->lane->ns[in->ns].slot_seed,
                        i.key.route_len ? i.key.route : i.key.key,
                        i.key.route_len ? i.key.route_len : i.key.key_len);
    MUST(b->labels && b->state && b->tier);
    in->blocks[in->rep.n_blocks++] = b;
}

static enum err inspect_key(struct inspect *in, const Pikv__InspectRequest *m)
{
    static uint8_t no_scope[16];
    struct store *s = in->op->lane->store;
    enum store_found why;
    struct store_key k = {.ns = m->ns,
                          .group = (uint16_t)m->group,
                          .key = m->key.data,
                          .key_len = (uint16_t)m->key.len,
                          .scope = no_scope};
    uint32_t block;

    if (m->key.len == 0 || m->key.len > WIRE_KEY_MAX ||
        (m->scope.len && m->scope.len != sizeof no_scope))
        return ERR_LIMIT;
    if (m->scope.len)
        k.scope = m->scope.data;
    store_key_hash(s, &k);
    block = store_find(s, &k, &why);
    if (!block)
        return why == FOUND_PENDING ? ERR_PENDING : ERR_MISS;
    block_msg(in, block);
    return OK;
}

static void inspect_visit(struct store *s, uint32_t block, void *arg)
{
    struct inspect *in = arg;
    struct store_info i;

    store_info(s, block, &i);
    if (i.key.ns == in->ns && i.found == FOUND_HIT)
        block_msg(in, block);
}

/* A page is what a bounded walk finds: it may be empty and not the last. */
static enum err inspect_keys(struct inspect *in, const Pikv__InspectRequest *m)
{
    uint64_t room = min_u64(in->op->lane->limits.message_bytes,
                            INSPECT_PAGE_BYTES);
    uint64_t cursor = m->cursor;
    uint32_t seen = 0;

    do {
        cursor = store_walk(in->op->lane->store, cursor, 1, inspect_visit, in);
        seen++;
    } while (cursor && seen < INSPECT_BUDGET && in->rep.n_blocks < in->limit &&
             in->bytes + INSPECT_BLOCK_BYTES <= room);
    in->rep.next_cursor = cursor;
    return OK;
}

void peer_describe(const struct peer *p, Pikv__ClientInfo *c)
{
    const struct lane *l = p->lane;

    pikv__client_info__init(c);
    c->client = p->client;
    c->pid = p->pid;
    c->uid = p->tp->cred.uid;
    c->ops = p->op_total;
    c->bytes_in = p->bytes_in;
    c->bytes_out = p->bytes_out;
    c->pinned_bytes = p->pinned_bytes;
    c->loan_bytes = p->loan_bytes;
    c->inflight = p->op_n;
    c->connected_ms = (l->env.now_ns - p->connected_ns) / NS_PER_MS;
    c->lane = l->idx;
    c->memories = p->memories;
}

static enum err inspect_clients(struct inspect *in)
{
    struct op *op = in->op;

    LIST_FOREACH(n, &op->lane->peer_list)
    {
        struct peer *p = container_of(n, struct peer, node);
        Pikv__ClientInfo *c = arena_alloc(&op->arena, sizeof *c);

        if (!c || in->rep.n_clients == INSPECT_KEYS_MAX)
            break;
        if (!p->tp)
            continue;
        peer_describe(p, c);
        c->engine = msg_str(&op->arena, p->engine);
        c->transport = msg_str(&op->arena, p->tp->t->ops->name);
        if (c->engine && c->transport)
            in->clients[in->rep.n_clients++] = c;
    }
    return OK;
}

static enum err inspect_do(struct inspect *in, const Pikv__InspectRequest *m)
{
    const struct registry_ns *ns;
    enum err e;

    if (m->what == PIKV__INSPECT_REQUEST__WHAT__CLIENTS)
        return inspect_clients(in);
    e = lane_ns_find(in->op->lane, m->ns, m->generation, &ns);
    if (e)
        return e;
    in->ns = ns->id;
    in->limit = m->limit ? (uint32_t)min_u64(m->limit, INSPECT_KEYS_MAX)
                         : INSPECT_KEYS_MAX;
    if (m->what == PIKV__INSPECT_REQUEST__WHAT__KEY)
        return inspect_key(in, m);
    if (m->what == PIKV__INSPECT_REQUEST__WHAT__KEYS)
        return inspect_keys(in, m);
    return ERR_UNSUPPORTED;
}

static void inspect_tick(struct op *op)
{
    const Pikv__InspectRequest *m =
        op_unpack(op, &pikv__inspect_request__descriptor);
    struct inspect *in = arena_zalloc(&op->arena, sizeof *in);
    enum err e;

    if (!m) {
        op_reply(op, ERR_BAD_REQUEST);
        return;
    }
    MUST(in);
    in->op = op;
    pikv__inspect_reply__init(&in->rep);
    in->rep.blocks = in->blocks;
    in->rep.clients = in->clients;
    e = inspect_do(in, m);
    if (e)
        op_reply(op, e);
    else
        op_reply_msg(op, OK, &in->rep);
}

const struct op_machine stat_machine = {stat_tick, {{"DO", 0}}};
const struct op_machine inspect_machine = {inspect_tick, {{"DO", 0}}};

/* SPDX-License-Identifier: Apache-2.0
 *
 * STAT and INSPECT: looking without touching. STAT sums the counters of all
 * lanes (atomic reads); INSPECT sees this lane only, a client asks each.
 *
 *   INSPECT KEY      one block's life
 *   INSPECT KEYS     a page of keys from a cursor
 *   INSPECT CLIENTS  this lane's connections
 *
 *   START -> WALK -> REPLY
 *            |  ^
 *            +--+ the key bytes of a block on the SSD are read from its record,
 *                 a few at a time
 *
 * Records being read are counted in op->pending. A deadline that passes ends
 * the page before the first record that has not come: its cursor says where to
 * go on. If that leaves nothing of the page, TIMEOUT. */
#include <string.h>

#include "server/control.h"
#include "server/peer.h"

enum { START, WALK, REPLY };

enum {
    STAT_ITEMS = 1024,
    INSPECT_KEYS_MAX = 256,
    INSPECT_BUDGET = 4096,
    INSPECT_PEEKS = 8,
    INSPECT_RETRY_US = 100,
};

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
    lanes_metrics(c, sum);
    w->op = op;
    w->prefix = m->prefix;
    pikv__stat_reply__init(&w->rep);
    w->rep.items = w->items;
    metrics_walk(sum, stat_item, w);
    op_reply_msg(op, OK, &w->rep);
}

struct inspect_peek {
    struct store_peek peek;
    struct inspect *in;
    uint64_t cursor; /* where the walk met it */
    bool busy;
};

struct inspect {
    struct op *op;
    const Pikv__InspectRequest *m;
    uint32_t ns, limit, seen;
    uint64_t bytes; /* of the page, packed, at most */
    uint64_t cursor;
    bool ended; /* nothing more is looked at */
    bool again; /* a record could not be read now */
    enum err err;
    struct inspect_peek peeks[INSPECT_PEEKS];
    Pikv__InspectReply rep;
    Pikv__BlockInfo *blocks[INSPECT_KEYS_MAX];
    uint64_t at[INSPECT_KEYS_MAX]; /* cursors where the walk met them */
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

static const char *state_name(const struct store *s, uint32_t block,
                              enum store_found f)
{
    switch (f) {
    case FOUND_HIT:
        break;
    case FOUND_PENDING:
        return "OPEN";
    case FOUND_MISS_NEVER:
    case FOUND_MISS_EVICTED:
    case FOUND_MISS_EXPIRED:
    case FOUND_MISS_NOT_ADMITTED:
    case FOUND_MISS_LATE:
    case FOUND_MISS_DROPPED:
    case FOUND_MISS_CORRUPT:
    case FOUND_MISS_MOVED:
        return "GONE";
    }
    switch (store_where(s, block)) {
    case WHERE_MEMORY:
        return "LIVE";
    case WHERE_LOADING:
        return "LOADING";
    case WHERE_SSD:
        return "COLD";
    }
    return "?";
}

static void block_msg(struct inspect *in, uint32_t block, uint64_t at,
                      const struct store_info *info)
{
    static const uint8_t no_scope[16];
    struct op *op = in->op;
    const struct store *s = op->lane->store;
    Pikv__BlockInfo *b = arena_alloc(&op->arena, sizeof *b);
    struct store_info i = *info;

    MUST(b && in->rep.n_blocks < INSPECT_KEYS_MAX);
    in->bytes += (uint64_t)INSPECT_FIXED_BYTES + i.key.key_len + i.parent_len;
    pikv__block_info__init(b);
    b->key = bytes_of(op, i.key.key, i.key.key_len);
    b->route = bytes_of(op, i.key.route, i.key.route_len);
    b->group = i.key.group;
    b->cls = i.key.cls;
    if (i.key.scope && memcmp(i.key.scope, no_scope, sizeof no_scope) != 0)
        b->scope = bytes_of(op, i.key.scope, sizeof no_scope);
    b->state = msg_str(&op->arena, state_name(s, block, i.found));
    b->tier = msg_str(&op->arena,
                      store_where(s, block) == WHERE_MEMORY ? "dram" : "ssd");
    b->version = i.version;
    b->len = i.len;
    b->crc = i.crc;
    b->pins = i.pins;
    b->children = i.children;
    b->parent = bytes_of(op, i.parent, i.parent_len);
    b->hash = bytes_of(op, &i.key.hash, sizeof i.key.hash);
    b->page = i.attr.page;
    b->affinity = i.attr.affinity;
    b->priority = i.attr.priority;
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
    in->at[in->rep.n_blocks] = at;
    in->blocks[in->rep.n_blocks++] = b;
}

/* ---- Blocks: in memory at once, on the SSD when their record is read ------
 */

static uint32_t inspect_room(const struct inspect *in)
{
    return in->limit - (uint32_t)in->rep.n_blocks - in->op->pending;
}

static void inspect_tick(struct op *op);

static void inspect_peeked(struct store_peek *peek)
{
    struct inspect_peek *p = container_of(peek, struct inspect_peek, peek);
    struct inspect *in = p->in;

    p->busy = false;
    in->op->pending--;
    if (!peek->err)
        block_msg(in, peek->block, p->cursor, &peek->info);
    else if (in->m->what == PIKV__INSPECT_REQUEST__WHAT__KEY)
        in->err = ERR_MISS;
    inspect_tick(in->op);
}

static void inspect_block(struct inspect *in, uint32_t block)
{
    struct store *s = in->op->lane->store;
    struct inspect_peek *p = in->peeks;
    struct store_info i;

    if (store_where(s, block) == WHERE_MEMORY) {
        store_info(s, block, &i);
        block_msg(in, block, in->cursor, &i);
        return;
    }
    while (p < in->peeks + INSPECT_PEEKS && p->busy)
        p++;
    in->again = true;
    if (p == in->peeks + INSPECT_PEEKS)
        return;
    *p = (struct inspect_peek){
        .peek.done = inspect_peeked, .in = in, .cursor = in->cursor};
    if (store_peek(s, block, &p->peek))
        return;
    in->again = false;
    p->busy = true;
    in->op->pending++;
}

static enum err inspect_key(struct inspect *in)
{
    static uint8_t no_scope[16];
    const Pikv__InspectRequest *m = in->m;
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
    inspect_block(in, block);
    in->ended = !in->again;
    return OK;
}

static void inspect_visit(struct store *s, uint32_t block, void *arg)
{
    struct inspect *in = arg;
    struct store_info i;

    store_info(s, block, &i);
    if (i.key.ns == in->ns && i.found == FOUND_HIT)
        inspect_block(in, block);
}

/* A page is what a bounded walk finds: it may be empty and not the last. */
static enum err inspect_keys(struct inspect *in)
{
    uint64_t room =
        min_u64(in->op->lane->limits.message_bytes, INSPECT_PAGE_BYTES);

    while (!in->ended && inspect_room(in) > 0 &&
           in->bytes + (in->op->pending + 1) * (uint64_t)INSPECT_BLOCK_BYTES <=
               room) {
        uint64_t next =
            store_walk(in->op->lane->store, in->cursor, 1, inspect_visit, in);

        if (in->again)
            return OK;
        in->cursor = next;
        in->ended = next == 0 || ++in->seen == INSPECT_BUDGET;
    }
    in->ended |= in->op->pending == 0; /* full */
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
    in->ended = true;
    return OK;
}

static enum err inspect_do(struct inspect *in)
{
    const Pikv__InspectRequest *m = in->m;
    const struct registry_ns *ns;
    enum err e;

    in->again = false;
    if (m->what == PIKV__INSPECT_REQUEST__WHAT__CLIENTS)
        return inspect_clients(in);
    e = lane_ns_find(in->op->lane, m->ns, m->generation, &ns);
    if (e)
        return e;
    in->ns = ns->id;
    if (m->what == PIKV__INSPECT_REQUEST__WHAT__KEY)
        return inspect_key(in);
    if (m->what == PIKV__INSPECT_REQUEST__WHAT__KEYS)
        return inspect_keys(in);
    return ERR_UNSUPPORTED;
}

static bool inspect_start(struct op *op)
{
    const Pikv__InspectRequest *m =
        op_unpack(op, &pikv__inspect_request__descriptor);
    struct inspect *in = arena_zalloc(&op->arena, sizeof *in);

    if (!m)
        return false;
    MUST(in);
    op->body = in;
    in->op = op;
    in->m = m;
    in->cursor = m->cursor;
    in->limit = m->limit ? (uint32_t)min_u64(m->limit, INSPECT_KEYS_MAX)
                         : INSPECT_KEYS_MAX;
    pikv__inspect_reply__init(&in->rep);
    in->rep.blocks = in->blocks;
    in->rep.clients = in->clients;
    return true;
}

/* Late or gone: what has not been read by now is not waited for. */
static void inspect_cut(struct op *op, struct inspect *in)
{
    uint64_t end = UINT64_MAX;
    uint32_t n = 0;

    for (struct inspect_peek *p = in->peeks; p < in->peeks + INSPECT_PEEKS;
         p++) {
        if (!p->busy)
            continue;
        store_peek_cancel(op->lane->store, &p->peek);
        p->busy = false;
        op->pending--;
        end = min_u64(end, p->cursor);
    }
    if (end == UINT64_MAX)
        return;
    for (uint32_t i = 0; i < in->rep.n_blocks; i++)
        if (in->at[i] < end)
            in->blocks[n++] = in->blocks[i];
    in->rep.n_blocks = n;
    in->cursor = end;
    if (n == 0)
        in->err = ERR_TIMEOUT;
}

/* true: nothing is being read and no more is wanted. */
static bool inspect_walk(struct op *op, struct inspect *in)
{
    if (op->late || op->gone)
        inspect_cut(op, in);
    if (!in->ended && !in->err && !op->late && !op->gone)
        in->err = inspect_do(in);
    if (op->pending)
        return false;
    if (in->again && !in->err && !op->late && !op->gone) {
        op_again(op, INSPECT_RETRY_US * NS_PER_US);
        return false;
    }
    return true;
}

static void inspect_tick(struct op *op)
{
    struct inspect *in = op->body;

    for (;;) {
        switch (op->state) {
        case START:
            if (!inspect_start(op)) {
                op_reply(op, ERR_BAD_REQUEST);
                return;
            }
            in = op->body;
            op_goto(op, WALK);
            break;
        case WALK:
            if (!inspect_walk(op, in))
                return;
            op_goto(op, REPLY);
            break;
        case REPLY:
            if (in->m->what == PIKV__INSPECT_REQUEST__WHAT__KEYS)
                in->rep.next_cursor = in->cursor;
            else if (!in->err && in->again)
                in->err = ERR_TIMEOUT;
            if (in->err)
                op_reply(op, in->err);
            else
                op_reply_msg(op, OK, &in->rep);
            return;
        }
    }
}

const struct op_machine stat_machine = {stat_tick, {{"DO", 0}}};
const struct op_machine inspect_machine = {
    .tick = inspect_tick,
    .states =
        {
            [START] = {"START", NEXT(WALK)},
            [WALK] = {"WALK", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};

/* SPDX-License-Identifier: Apache-2.0
 *
 * LIST: the blocks of some slots that this lane has, with all that a PUT of
 * them elsewhere needs but their bytes: for other daemons, which fetch those
 * with GET (puller.h).
 *
 *   START -> WALK -> REPLY
 *            |  ^
 *            +--+ a bounded part of the catalog each turn; the key bytes of a
 *                 block on the SSD are read from its record, a few at a time
 *
 * The walk looks at the slot of every entry (catalog.h, routes), however few
 * slots are wanted: so the request names them all, as a bitmap. A page is full,
 * or the whole budget of a request was looked at, or it is late: the reply says
 * where to go on. Blocks stored behind the cursor meanwhile are not met; who
 * must have them all lists again when no more are stored here.
 *
 * Who may ask. What is answered says whose blocks these are, keys included, and
 * is worth as much as the blocks: over shm only the daemon's own user and root
 * may (op_operator, the kernel vouches). Over ucx everybody who reaches the
 * port is trusted with the process already (config.tbl, listen.ucx); a name
 * given at HELLO would prove nothing. */
#include <string.h>

#include "server/peer.h"

enum { START, WALK, REPLY };

enum {
    LIST_STEP = 8192,  /* places looked at in a turn */
    LIST_STEPS = 256,  /* of them for a request */
    LIST_BLOCKS = 512, /* of a page at most */
    LIST_SPACES = 8,   /* namespaces of a page */
    LIST_KEYS = 64,    /* of a request for single ones */
    LIST_PAGE_BYTES = 96 << 10,
    LIST_FIXED_BYTES = 192,    /* packed, of a block beside key and parent */
    LIST_OPEN_BYTES = 4 << 10, /* packed, of what opens a namespace */
    LIST_PEEKS = 8,
    LIST_RETRY_US = 100,
    LIST_WORDS = WIRE_SLOTS / 64,
};

struct list_op;

struct list_peek {
    struct store_peek peek;
    struct list_op *in;
    bool busy;
};

struct list_space {
    Pikv__ListSpace msg;
    uint32_t ns;
};

struct list_row {
    Pikv__ListBlock msg;
    uint32_t block, space;
    uint64_t labels[4];
};

struct list_op {
    struct op *op;
    const Pikv__ListRequest *m;
    uint32_t max, n, space_n, steps;
    uint32_t ns, key_i; /* of single keys */
    uint64_t bytes;     /* of the page, packed, at most */
    uint64_t room;
    uint64_t cursor; /* the next place: a block's number is its place */
    bool ended;      /* nothing more is looked at */
    bool again;      /* a record could not be read now */
    uint64_t slots[LIST_WORDS];
    struct list_peek peeks[LIST_PEEKS];
    struct list_space spaces[LIST_SPACES];
    struct list_row rows[LIST_BLOCKS];
};
/* Beside it the keys, what opens each namespace, pointers, and all of it
 * packed. */
static_assert(sizeof(struct list_op) + LIST_SPACES * OP_OPEN_BYTES +
                      2 * LIST_PAGE_BYTES + 16 * LIST_BLOCKS <=
                  OP_MSG_BYTES,
              "a page fits the arena");

static void *list_alloc(struct list_op *in, size_t n)
{
    void *p = arena_zalloc(&in->op->arena, n);

    MUST(p); /* a page is bounded */
    return p;
}

static ProtobufCBinaryData list_bytes(struct list_op *in, const void *p,
                                      size_t n)
{
    ProtobufCBinaryData d = {n, n ? list_alloc(in, n) : NULL};

    if (n)
        memcpy(d.data, p, n);
    return d;
}

/* ---- One block ----------------------------------------------------------- */

/* The namespace's place in the page; LIST_SPACES: there is none left. */
static uint32_t list_space(struct list_op *in, uint32_t ns)
{
    const struct registry_ns *r = &in->op->lane->ns[ns];
    struct list_space *s = in->spaces;

    while (s < in->spaces + in->space_n && s->ns != ns)
        s++;
    if (s == in->spaces + LIST_SPACES || s < in->spaces + in->space_n)
        return (uint32_t)(s - in->spaces);
    pikv__list_space__init(&s->msg);
    s->ns = s->msg.id = ns;
    s->msg.open = op_open_msg(in->op, r);
    s->msg.name = s->msg.open->name;
    in->bytes += pikv__open__get_packed_size(s->msg.open) + REGISTRY_NAME;
    return in->space_n++;
}

static uint32_t list_copies(const struct list_op *in, uint32_t replicas)
{
    return replicas ? replicas : (uint32_t)in->op->lane->cfg->cluster.replicas;
}

static void list_attr(struct list_row *r, const struct wire_attr *a)
{
    Pikv__ListBlock *b = &r->msg;
    const uint64_t labels[4] = {a->label0, a->label1, a->label2, a->label3};

    b->page = a->page;
    b->affinity = a->affinity;
    b->token_end = a->token_end;
    b->token_n = a->token_n;
    b->priority = a->priority;
    b->replicas = a->replicas;
    b->place = a->place;
    b->flags = a->flags;
    memcpy(r->labels, labels, sizeof labels);
    b->labels = r->labels;
    for (uint32_t i = 0; i < countof(labels); i++)
        if (labels[i])
            b->n_labels = i + 1;
}

static void list_row(struct list_op *in, uint32_t block, uint32_t space,
                     const struct store_info *info)
{
    static const uint8_t no_scope[16];
    const struct store *s = in->op->lane->store;
    struct store_info i = *info;
    struct list_row *r = &in->rows[in->n];

    if (list_copies(in, i.attr.replicas) < in->m->replicas_min)
        return;
    MUST(in->n < LIST_BLOCKS);
    in->n++;
    *r = (struct list_row){.block = block, .space = space};
    pikv__list_block__init(&r->msg);
    r->msg.key = list_bytes(in, i.key.key, i.key.key_len);
    r->msg.route = list_bytes(in, i.key.route, i.key.route_len);
    if (i.key.scope && memcmp(i.key.scope, no_scope, sizeof no_scope) != 0)
        r->msg.scope = list_bytes(in, i.key.scope, sizeof no_scope);
    r->msg.parent = list_bytes(in, i.parent, i.parent_len);
    r->msg.group = i.key.group;
    r->msg.cls = i.key.cls;
    r->msg.len = i.len;
    r->msg.version = i.version;
    r->msg.crc = i.crc;
    r->msg.ttl_left_ms = i.ttl_left_ms;
    r->msg.tier = store_where(s, block) == WHERE_MEMORY ? 0 : 1;
    r->msg.slot = store_route(s, block);
    list_attr(r, &i.attr);
    in->bytes += (uint64_t)LIST_FIXED_BYTES + i.key.key_len + i.parent_len;
}

static void list_tick(struct op *op);

static void list_peeked(struct store_peek *peek)
{
    struct list_peek *p = container_of(peek, struct list_peek, peek);
    struct list_op *in = p->in;
    struct op *op = in->op;
    const struct registry_ns *ns;

    p->busy = false;
    op->pending--;
    /* Flushed meanwhile, it is nobody's. */
    if (!peek->err && !lane_ns_find(op->lane, peek->info.key.ns, 0, &ns))
        list_row(in, peek->block, list_space(in, ns->id), &peek->info);
    list_tick(op);
}

/* false: no record can be read now. */
static bool list_peek(struct list_op *in, uint32_t block)
{
    struct list_peek *p = in->peeks;

    while (p < in->peeks + LIST_PEEKS && p->busy)
        p++;
    if (p == in->peeks + LIST_PEEKS)
        return false;
    *p = (struct list_peek){.peek.done = list_peeked, .in = in};
    if (store_peek(in->op->lane->store, block, &p->peek))
        return false;
    p->busy = true;
    in->op->pending++;
    return true;
}

/* ---- WALK ---------------------------------------------------------------- */

/* Is there room for what is being read, and one more? */
static bool list_room(const struct list_op *in)
{
    uint32_t more = in->op->pending + 1;

    return in->n + more <= in->max &&
           in->bytes + LIST_OPEN_BYTES +
                   (uint64_t)more * (LIST_FIXED_BYTES + 2 * WIRE_KEY_MAX) <=
               in->room;
}

static bool list_visit(struct store *s, uint32_t block, void *arg)
{
    struct list_op *in = arg;
    struct store_info info;
    uint32_t space;

    store_info(s, block, &info);
    if (info.found != FOUND_HIT)
        return true;
    if (in->m->replicas_min > 1 && store_attr_known(s, block) &&
        list_copies(in, info.attr.replicas) < in->m->replicas_min)
        return true;
    if (!list_room(in)) { /* what is being read may turn out unwanted */
        in->ended = in->op->pending == 0;
        return false;
    }
    space = list_space(in, info.key.ns);
    in->ended = space == LIST_SPACES;
    if (in->ended)
        return false;
    if (store_where(s, block) == WHERE_MEMORY) {
        list_row(in, block, space, &info);
        return true;
    }
    in->again = !list_peek(in, block);
    return !in->again;
}

/* Of single keys: what is here of them. */
static void list_keys(struct list_op *in)
{
    struct store *s = in->op->lane->store;

    while (!in->ended && !in->again && in->key_i < in->m->n_keys) {
        const Pikv__ListKey *key = in->m->keys[in->key_i];
        enum store_found why;
        struct store_key k = {.ns = in->ns,
                              .group = (uint16_t)key->group,
                              .key = key->key.data,
                              .key_len = (uint16_t)key->key.len,
                              .scope = key->scope.len ? key->scope.data : NULL};
        uint32_t block;

        store_key_hash(s, &k);
        block = store_find(s, &k, &why);
        if (block)
            (void)list_visit(s, block, in);
        in->key_i += !in->again;
    }
    in->ended |= in->key_i == in->m->n_keys;
}

static void list_step(struct list_op *in)
{
    in->again = false;
    if (in->m->n_keys) {
        list_keys(in);
        return;
    }
    in->cursor = store_walk_routes(in->op->lane->store, in->cursor, LIST_STEP,
                                   in->slots, list_visit, in);
    in->ended |= in->cursor == 0 || ++in->steps == LIST_STEPS;
}

/* Late or gone: what has not been read by now is not waited for; the page ends
 * before the first of it. */
static void list_cut(struct op *op, struct list_op *in)
{
    uint64_t end = UINT64_MAX;
    uint32_t n = 0;

    in->ended = true;
    for (struct list_peek *p = in->peeks; p < in->peeks + LIST_PEEKS; p++) {
        if (!p->busy)
            continue;
        store_peek_cancel(op->lane->store, &p->peek);
        p->busy = false;
        op->pending--;
        end = min_u64(end, p->peek.block);
    }
    if (end == UINT64_MAX)
        return;
    for (uint32_t i = 0; i < in->n; i++)
        if (in->rows[i].block < end)
            in->rows[n++] = in->rows[i];
    for (uint32_t i = 0; i < n; i++) /* rows may have moved */
        in->rows[i].msg.labels = in->rows[i].labels;
    in->n = n;
    in->cursor = end;
}

/* true: nothing is being read and no more is wanted. */
static bool list_walk(struct op *op, struct list_op *in)
{
    if (op->late || op->gone)
        list_cut(op, in);
    if (!in->ended)
        list_step(in);
    if (op->pending)
        return false;
    if (!in->ended)
        op_again(op, in->again ? LIST_RETRY_US * NS_PER_US : 0);
    return in->ended;
}

/* ---- The whole ----------------------------------------------------------- */

static enum err list_slots(struct list_op *in)
{
    const ProtobufCBinaryData *b = &in->m->slots;

    if (b->len == 0 && in->m->slot < WIRE_SLOTS) {
        in->slots[in->m->slot / 64] = UINT64_C(1) << in->m->slot % 64;
        return OK;
    }
    if (b->len != sizeof in->slots)
        return ERR_BAD_REQUEST;
    memcpy(in->slots, b->data, sizeof in->slots);
    return OK;
}

/* OK with nothing to look at, if there is no such namespace here. */
static enum err list_take_keys(struct list_op *in)
{
    const struct lane *l = in->op->lane;

    if (in->m->n_keys > LIST_KEYS)
        return ERR_LIMIT;
    for (size_t i = 0; i < in->m->n_keys; i++) {
        const Pikv__ListKey *k = in->m->keys[i];

        if (k->key.len == 0 || k->key.len > WIRE_KEY_MAX ||
            (k->scope.len && k->scope.len != 16) || k->group > UINT16_MAX)
            return ERR_BAD_REQUEST;
    }
    for (uint32_t id = 1; id <= l->ns_max && !in->ns; id++)
        if (l->ns[id].id && strcmp(l->ns[id].name, in->m->space) == 0)
            in->ns = id;
    in->ended = !in->ns;
    in->cursor = 0;
    return OK;
}

static enum err list_start(struct op *op)
{
    const Pikv__ListRequest *m;
    struct list_op *in;

    if (op->peer->tp->cred.pid && !op_operator(op))
        return ERR_DENIED;
    m = op_unpack(op, &pikv__list_request__descriptor);
    in = arena_zalloc(&op->arena, sizeof *in);
    if (!m)
        return ERR_BAD_REQUEST;
    MUST(in);
    op->body = in;
    in->op = op;
    in->m = m;
    in->cursor = m->cursor;
    in->max = m->max ? (uint32_t)min_u64(m->max, LIST_BLOCKS) : LIST_BLOCKS;
    in->room = min_u64(op->lane->limits.message_bytes - 2 * WIRE_RECORD,
                       LIST_PAGE_BYTES);
    return m->n_keys ? list_take_keys(in) : list_slots(in);
}

static void list_reply(struct op *op, struct list_op *in)
{
    Pikv__ListReply rep = PIKV__LIST_REPLY__INIT;
    Pikv__ListSpace *spaces[LIST_SPACES];

    for (uint32_t k = 0; k < in->space_n; k++) {
        Pikv__ListSpace *s = &in->spaces[k].msg;

        for (uint32_t i = 0; i < in->n; i++)
            s->n_blocks += in->rows[i].space == k;
        s->blocks = list_alloc(in, (s->n_blocks + 1) * sizeof *s->blocks);
        s->n_blocks = 0;
        for (uint32_t i = 0; i < in->n; i++)
            if (in->rows[i].space == k)
                s->blocks[s->n_blocks++] = &in->rows[i].msg;
        spaces[k] = s;
    }
    rep.spaces = spaces;
    rep.n_spaces = in->space_n;
    rep.next_cursor = in->cursor;
    rep.epoch = op->lane->epoch;
    op_reply_msg(op, OK, &rep);
}

static void list_tick(struct op *op)
{
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = list_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            op_goto(op, WALK);
            break;
        case WALK:
            if (!list_walk(op, op->body))
                return;
            op_goto(op, REPLY);
            break;
        case REPLY:
            list_reply(op, op->body);
            return;
        }
    }
}

const struct op_machine list_machine = {
    .tick = list_tick,
    .states =
        {
            [START] = {"START", NEXT(WALK)},
            [WALK] = {"WALK", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};

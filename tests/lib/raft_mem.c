/* SPDX-License-Identifier: Apache-2.0
 *
 * See raft_mem.h. Events are a binary heap by (time, order of making); an event
 * of a node that has crashed since is void. A disk request is a raft_mem_op in
 * the node's queue and an event that says when it ends: requests of the ordered
 * kind end in order, since each starts when the one before it has ended. */
#include "lib/raft_mem.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum op_kind { OP_APPEND, OP_TRUNCATE, OP_INSTALL, OP_SNAPSHOT, OP_GET };

struct raft_mem_op {
    struct list in;
    enum op_kind kind;
    bool failed;
    raft_index index;                 /* TRUNCATE */
    const struct raft_entry *entries; /* APPEND: libraft's till the callback */
    unsigned n;
    unsigned trailing;
    const struct raft_snapshot *snapshot;
    struct raft_io_append *append;
    struct raft_io_snapshot_put *put;
    struct raft_io_snapshot_get *get;
    raft_io_snapshot_get_cb got;
};

enum event_kind { EVENT_TICK, EVENT_DISK, EVENT_NET };

struct raft_mem_event {
    uint64_t at_ms, order;
    enum event_kind kind;
    uint32_t node, life, from;
    struct raft_mem_op *op;
    uint8_t *p;
    size_t n;
};

/* ---- Chance and time ----------------------------------------------------- */

uint32_t raft_mem_chance(struct raft_mem *w, uint32_t n)
{
    uint64_t z = w->seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return n ? (uint32_t)((z ^ z >> 31) >> 8) % n : 0;
}

static bool earlier(const struct raft_mem_event *a,
                    const struct raft_mem_event *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

static void heap_swap(struct raft_mem *w, uint32_t a, uint32_t b)
{
    struct raft_mem_event e = w->heap[a];

    w->heap[a] = w->heap[b];
    w->heap[b] = e;
}

static void event_add(struct raft_mem *w, struct raft_mem_event e)
{
    uint32_t i = w->heap_n++;

    if (w->heap_n > w->heap_cap) {
        w->heap_cap = w->heap_cap ? 2 * w->heap_cap : 64;
        w->heap = realloc(w->heap, w->heap_cap * sizeof *w->heap);
        MUST(w->heap);
    }
    e.order = w->order++;
    w->heap[i] = e;
    for (; i && earlier(&w->heap[i], &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap_swap(w, i, (i - 1) / 2);
}

static struct raft_mem_event event_pop(struct raft_mem *w)
{
    struct raft_mem_event e = w->heap[0];
    uint32_t i = 0;

    w->heap[0] = w->heap[--w->heap_n];
    for (;;) {
        uint32_t least = i, l = 2 * i + 1, r = l + 1;

        if (l < w->heap_n && earlier(&w->heap[l], &w->heap[least]))
            least = l;
        if (r < w->heap_n && earlier(&w->heap[r], &w->heap[least]))
            least = r;
        if (least == i)
            return e;
        heap_swap(w, i, least);
        i = least;
    }
}

/* ---- The disk's content -------------------------------------------------- */

static void *copied(const void *p, size_t n)
{
    void *to = malloc(n + 1);

    MUST(to);
    if (n)
        memcpy(to, p, n);
    return to;
}

static void disk_cut(struct raft_mem_disk *d, raft_index index)
{
    uint32_t keep = index > d->first ? (uint32_t)(index - d->first) : 0;

    for (uint32_t i = keep; i < d->n; i++)
        free(d->entries[i].data);
    if (keep < d->n)
        d->n = keep;
}

static void disk_append(struct raft_mem_disk *d, const struct raft_entry *e,
                        unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (d->n == d->cap) {
            d->cap = d->cap ? 2 * d->cap : 32;
            d->entries = realloc(d->entries, d->cap * sizeof *d->entries);
            MUST(d->entries);
        }
        d->entries[d->n++] = (struct raft_mem_entry){
            e[i].term, e[i].type, (uint32_t)e[i].buf.len,
            copied(e[i].buf.base, e[i].buf.len)};
    }
}

/* Drops the entries up to index. */
static void disk_forget(struct raft_mem_disk *d, raft_index index)
{
    uint32_t n = index < d->first ? 0 : (uint32_t)(index - d->first + 1);

    MUST(n <= d->n);
    for (uint32_t i = 0; i < n; i++)
        free(d->entries[i].data);
    memmove(d->entries, d->entries + n, (d->n - n) * sizeof *d->entries);
    d->n -= n;
    d->first += n;
}

static void disk_snapshot(struct raft_mem_disk *d,
                          const struct raft_snapshot *s, unsigned trailing)
{
    struct raft_buffer conf;

    free(d->snapshot.conf);
    free(d->snapshot.data);
    MUST(s->n_bufs == 1);
    MUST(raft_configuration_encode(&s->configuration, &conf) == 0);
    d->snapshot = (struct raft_mem_snapshot){
        .index = s->index,
        .conf_index = s->configuration_index,
        .term = s->term,
        .conf = copied(conf.base, conf.len),
        .conf_n = conf.len,
        .data = copied(s->bufs[0].base, s->bufs[0].len),
        .n = s->bufs[0].len,
    };
    raft_free(conf.base);
    if (trailing == 0) {
        disk_cut(d, d->first);
        d->first = s->index + 1;
    } else if (s->index > trailing) {
        disk_forget(d, s->index - trailing);
    }
}

static void disk_free(struct raft_mem_disk *d)
{
    disk_cut(d, d->first);
    free(d->entries);
    free(d->snapshot.conf);
    free(d->snapshot.data);
    *d = (struct raft_mem_disk){.first = 1};
}

static void conf_read(const struct raft_mem_snapshot *s,
                      struct raft_configuration *out)
{
    const uint8_t *p = (const uint8_t *)s->conf + 1;
    uint64_t n, id;

    raft_configuration_init(out);
    memcpy(&n, p, sizeof n);
    p += sizeof n;
    while (n--) {
        const char *address;

        memcpy(&id, p, sizeof id);
        address = (const char *)p + sizeof id;
        p += sizeof id + strlen(address) + 1;
        MUST(raft_configuration_add(out, id, address, *p++) == 0);
    }
}

static struct raft_snapshot *snapshot_read(const struct raft_mem_snapshot *s)
{
    struct raft_snapshot *out;

    if (!s->index)
        return NULL;
    out = raft_malloc(sizeof *out);
    MUST(out);
    *out = (struct raft_snapshot){.index = s->index,
                                  .term = s->term,
                                  .configuration_index = s->conf_index,
                                  .n_bufs = 1};
    out->bufs = raft_malloc(sizeof *out->bufs);
    MUST(out->bufs);
    out->bufs[0].len = s->n;
    out->bufs[0].base = raft_malloc(s->n + 1);
    MUST(out->bufs[0].base);
    memcpy(out->bufs[0].base, s->data, s->n);
    conf_read(s, &out->configuration);
    return out;
}

/* ---- Requests ------------------------------------------------------------ */

static struct raft_mem_node *node_of(struct raft_io *io)
{
    return io->impl;
}

static bool write_fails(struct raft_mem_node *d)
{
    return d->fail_in >= 0 && d->fail_in-- == 0;
}

static uint32_t takes(struct raft_mem_node *d, uint32_t most)
{
    return d->steady || most < 2 ? most : 1 + raft_mem_chance(d->world, most);
}

/* In order: behind the last of the queue. */
static void op_add(struct raft_mem_node *d, struct raft_mem_op op)
{
    struct raft_mem *w = d->world;
    struct raft_mem_op *o = malloc(sizeof *o);
    uint64_t at = w->now_ms;

    MUST(o);
    *o = op;
    list_add_tail(&d->queue, &o->in);
    if (op.kind <= OP_INSTALL)
        at = d->queue_ms = max_u64(d->queue_ms, at) + takes(d, d->disk_ms);
    else
        at += takes(d, 2 * d->disk_ms);
    event_add(w, (struct raft_mem_event){.at_ms = at,
                                         .kind = EVENT_DISK,
                                         .node = d->at,
                                         .life = d->life,
                                         .op = o});
}

static void op_write(struct raft_mem_node *d, struct raft_mem_op *o)
{
    switch (o->kind) {
    case OP_APPEND:
        disk_append(&d->disk, o->entries, o->n);
        break;
    case OP_TRUNCATE:
        disk_cut(&d->disk, o->index);
        break;
    case OP_INSTALL:
    case OP_SNAPSHOT:
        disk_snapshot(&d->disk, o->snapshot, o->trailing);
        break;
    case OP_GET:
        break;
    }
}

static void op_done(struct raft_mem_node *d, struct raft_mem_op *o, int status)
{
    struct raft_mem_op op = *o;

    list_del(&o->in);
    free(o);
    switch (op.kind) {
    case OP_APPEND:
        op.append->cb(op.append, status);
        break;
    case OP_TRUNCATE:
        break;
    case OP_INSTALL:
    case OP_SNAPSHOT:
        op.put->cb(op.put, status);
        break;
    case OP_GET:
        op.got(op.get, status ? NULL : snapshot_read(&d->disk.snapshot),
               status);
        break;
    }
}

static void op_end(struct raft_mem_node *d, struct raft_mem_op *o)
{
    if (!o->failed)
        op_write(d, o);
    op_done(d, o, o->failed ? RAFT_IOERR : 0);
}

static int mem_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    (void)id;
    (void)address;
    return 0;
}

/* Nothing is written any more: crash and stop have seen to the disk. */
static void mem_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_mem_node *d = node_of(io);

    while (!list_empty(&d->queue))
        op_done(d, container_of(d->queue.next, struct raft_mem_op, in),
                RAFT_CANCELED);
    d->up = false;
    d->life++;
    cb(io);
}

static void entries_read(const struct raft_mem_disk *d,
                         struct raft_entry **entries)
{
    size_t bytes = 1;
    uint8_t *at;

    for (uint32_t i = 0; i < d->n; i++)
        bytes += d->entries[i].n;
    *entries = raft_calloc(d->n, sizeof **entries);
    at = raft_malloc(bytes);
    MUST(*entries && at);
    for (uint32_t i = 0; i < d->n; i++) {
        const struct raft_mem_entry *e = &d->entries[i];

        (*entries)[i].term = e->term;
        (*entries)[i].type = e->type;
        (*entries)[i].buf = (struct raft_buffer){at, e->n};
        (*entries)[i].batch = (*entries)[0].buf.base;
        memcpy(at, e->data, e->n);
        at += e->n;
    }
}

static int mem_load(struct raft_io *io, raft_term *term, raft_id *vote,
                    struct raft_snapshot **snapshot, raft_index *start,
                    struct raft_entry **entries, size_t *n)
{
    struct raft_mem_node *d = node_of(io);

    *term = d->disk.term;
    *vote = d->disk.vote;
    *snapshot = snapshot_read(&d->disk.snapshot);
    *start = d->disk.first;
    *n = d->disk.n;
    *entries = NULL;
    d->next_index = d->disk.first + d->disk.n;
    MUST(d->next_index > d->disk.snapshot.index);
    if (d->disk.n)
        entries_read(&d->disk, entries);
    return 0;
}

static int mem_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                     raft_io_recv_cb recv)
{
    struct raft_mem_node *d = node_of(io);

    (void)recv;
    d->tick = tick;
    d->tick_ms = msecs;
    event_add(d->world,
              (struct raft_mem_event){.at_ms = d->world->now_ms + 1 + d->at,
                                      .kind = EVENT_TICK,
                                      .node = d->at,
                                      .life = d->life});
    return 0;
}

static int mem_bootstrap(struct raft_io *io,
                         const struct raft_configuration *conf)
{
    struct raft_mem_disk *d = &node_of(io)->disk;
    struct raft_entry e = {.term = 1, .type = RAFT_CHANGE};

    if (d->term)
        return RAFT_CANTBOOTSTRAP;
    MUST(raft_configuration_encode(conf, &e.buf) == 0);
    d->term = 1;
    disk_append(d, &e, 1);
    raft_free(e.buf.base);
    return 0;
}

/* As raft_uv: one more entry, a change to that configuration. */
static int mem_recover(struct raft_io *io,
                       const struct raft_configuration *conf)
{
    struct raft_mem_node *d = node_of(io);
    struct raft_entry e = {.term = d->disk.term, .type = RAFT_CHANGE};

    if (write_fails(d))
        return RAFT_IOERR;
    MUST(raft_configuration_encode(conf, &e.buf) == 0);
    disk_append(&d->disk, &e, 1);
    raft_free(e.buf.base);
    return 0;
}

static int mem_set_term(struct raft_io *io, raft_term term)
{
    struct raft_mem_node *d = node_of(io);

    if (write_fails(d))
        return RAFT_IOERR;
    d->disk.term = term;
    d->disk.vote = 0;
    return 0;
}

static int mem_set_vote(struct raft_io *io, raft_id id)
{
    struct raft_mem_node *d = node_of(io);

    if (write_fails(d))
        return RAFT_IOERR;
    d->disk.vote = id;
    return 0;
}

static int mem_append(struct raft_io *io, struct raft_io_append *req,
                      const struct raft_entry entries[], unsigned n,
                      raft_io_append_cb cb)
{
    struct raft_mem_node *d = node_of(io);

    req->cb = cb;
    d->next_index += n;
    op_add(d, (struct raft_mem_op){.kind = OP_APPEND,
                                   .failed = write_fails(d),
                                   .entries = entries,
                                   .n = n,
                                   .append = req});
    return 0;
}

static int mem_truncate(struct raft_io *io, raft_index index)
{
    struct raft_mem_node *d = node_of(io);

    MUST(index > 0 && index < d->next_index);
    if (write_fails(d))
        return RAFT_IOERR;
    d->next_index = index;
    op_add(d, (struct raft_mem_op){.kind = OP_TRUNCATE, .index = index});
    return 0;
}

static int mem_snapshot_put(struct raft_io *io, unsigned trailing,
                            struct raft_io_snapshot_put *req,
                            const struct raft_snapshot *snapshot,
                            raft_io_snapshot_put_cb cb)
{
    struct raft_mem_node *d = node_of(io);

    req->cb = cb;
    if (trailing == 0)
        d->next_index = snapshot->index + 1;
    op_add(d, (struct raft_mem_op){.kind = trailing ? OP_SNAPSHOT : OP_INSTALL,
                                   .failed = write_fails(d),
                                   .trailing = trailing,
                                   .snapshot = snapshot,
                                   .put = req});
    return 0;
}

static int mem_snapshot_get(struct raft_io *io,
                            struct raft_io_snapshot_get *req,
                            raft_io_snapshot_get_cb cb)
{
    op_add(node_of(io),
           (struct raft_mem_op){.kind = OP_GET, .get = req, .got = cb});
    return 0;
}

static raft_time mem_time(struct raft_io *io)
{
    return node_of(io)->world->now_ms;
}

static int mem_random(struct raft_io *io, int min, int max)
{
    struct raft_mem_node *d = node_of(io);

    if (d->timeout_ms)
        return (int)d->timeout_ms;
    return min + (int)raft_mem_chance(d->world, (uint32_t)(max - min));
}

/* ---- The world ----------------------------------------------------------- */

void raft_mem_init(struct raft_mem *w, uint64_t seed,
                   raft_mem_deliver_fn *deliver, void *arg)
{
    *w = (struct raft_mem){.seed = seed, .deliver = deliver, .arg = arg};
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        struct raft_mem_node *d = &w->node[i];

        d->world = w;
        d->at = i;
        d->disk.first = 1;
        d->disk_ms = 10;
        d->net_ms = 15;
        d->fail_in = -1;
        list_init(&d->queue);
    }
}

void raft_mem_fini(struct raft_mem *w)
{
    while (w->heap_n) {
        struct raft_mem_event e = event_pop(w);

        free(e.p);
    }
    free(w->heap);
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        MUST(!w->node[i].up);
        disk_free(&w->node[i].disk);
    }
}

struct raft_io *raft_mem_boot(struct raft_mem *w, uint32_t node)
{
    struct raft_mem_node *d = &w->node[node];

    MUST(!d->up);
    d->up = true;
    d->life++;
    d->queue_ms = 0;
    d->fail_in = -1;
    d->io = (struct raft_io){
        .version = 1,
        .impl = d,
        .init = mem_init,
        .close = mem_close,
        .load = mem_load,
        .start = mem_start,
        .bootstrap = mem_bootstrap,
        .recover = mem_recover,
        .set_term = mem_set_term,
        .set_vote = mem_set_vote,
        .append = mem_append,
        .truncate = mem_truncate,
        .snapshot_put = mem_snapshot_put,
        .snapshot_get = mem_snapshot_get,
        .time = mem_time,
        .random = mem_random,
    };
    return &d->io;
}

/* The first n of the ordered queue reach the disk; an own snapshot by chance.
 */
static void node_down(struct raft_mem *w, uint32_t node, bool all)
{
    struct raft_mem_node *d = &w->node[node];
    uint32_t n = raft_mem_chance(w, 4);
    bool broken = d->forgetful && !all;

    LIST_FOREACH(l, &d->queue)
    {
        struct raft_mem_op *o = container_of(l, struct raft_mem_op, in);

        broken |= o->failed;
        if (o->kind > OP_INSTALL) {
            if (o->kind == OP_SNAPSHOT && !o->failed && !broken && all)
                op_write(d, o);
        } else if (!broken && (all || n)) {
            op_write(d, o);
            n -= n > 0;
        } else {
            broken = true;
        }
    }
    d->life++;
}

void raft_mem_crash(struct raft_mem *w, uint32_t node)
{
    node_down(w, node, false);
}

void raft_mem_stop(struct raft_mem *w, uint32_t node)
{
    node_down(w, node, true);
}

void raft_mem_wipe(struct raft_mem *w, uint32_t node)
{
    MUST(!w->node[node].up);
    disk_free(&w->node[node].disk);
}

void raft_mem_send(struct raft_mem *w, uint32_t from, uint32_t to,
                   const uint8_t *p, size_t n)
{
    struct raft_mem_node *d = &w->node[from];

    if (d->cut[to] || raft_mem_chance(w, 100) < d->loss_pct)
        return;
    event_add(w,
              (struct raft_mem_event){.at_ms = w->now_ms + takes(d, d->net_ms),
                                      .kind = EVENT_NET,
                                      .node = to,
                                      .from = from,
                                      .p = copied(p, n),
                                      .n = n});
}

void raft_mem_cut(struct raft_mem *w, uint32_t a, uint32_t b, bool cut)
{
    w->node[a].cut[b] = w->node[b].cut[a] = cut;
}

void raft_mem_heal(struct raft_mem *w)
{
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        memset(w->node[i].cut, 0, sizeof w->node[i].cut);
        w->node[i].loss_pct = 0;
        w->node[i].fail_in = -1;
    }
}

static void event_play(struct raft_mem *w, struct raft_mem_event *e)
{
    struct raft_mem_node *d = &w->node[e->node];
    bool mine = d->up && e->life == d->life;

    switch (e->kind) {
    case EVENT_TICK:
        if (!mine)
            return;
        event_add(w, (struct raft_mem_event){.at_ms = w->now_ms + d->tick_ms,
                                             .kind = EVENT_TICK,
                                             .node = d->at,
                                             .life = d->life});
        d->tick(&d->io);
        return;
    case EVENT_DISK:
        if (mine)
            op_end(d, e->op);
        return;
    case EVENT_NET:
        if (d->up && !w->node[e->from].cut[e->node])
            w->deliver(w->arg, e->node, e->from, e->p, e->n);
        free(e->p);
        return;
    }
}

bool raft_mem_step(struct raft_mem *w, uint64_t end_ms)
{
    struct raft_mem_event e;
    uint64_t what[4];

    if (!w->heap_n || w->heap[0].at_ms > end_ms) {
        w->now_ms = max_u64(w->now_ms, end_ms);
        return false;
    }
    e = event_pop(w);
    w->now_ms = e.at_ms;
    what[0] = w->trace;
    what[1] = e.at_ms << 8 | (uint64_t)e.kind;
    what[2] = (uint64_t)e.node << 32 | e.from;
    what[3] = e.n;
    w->trace = hash_64(1, what, sizeof what);
    event_play(w, &e);
    return true;
}

void raft_mem_run(struct raft_mem *w, uint64_t ms)
{
    uint64_t end = w->now_ms + ms;

    while (raft_mem_step(w, end))
        ;
}

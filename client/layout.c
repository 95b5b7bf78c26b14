/* SPDX-License-Identifier: Apache-2.0
 *
 * Layouts of the handle (pikv_layout_*): checked here against the memory that
 * they lie in, then told to every connection that knows that memory.
 *
 *     told to a lane    a part names the layout, an item its block's number;
 *                       the daemon finds the bytes (base/layout.h at both ends)
 *     not (yet) told    an old or full server, a long table, ucx: the items'
 *                       runs are written out here instead (build.c)
 *
 * Ids of the server end with the connection; they are asked for again when the
 * memory is known again (region.c). A layout whose memory was unregistered
 * names nothing any more: NO_MEM. With kv->mu, but for the public functions. */
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "pikv.pb-c.h"

enum { TELL_MS = 1000 };

struct lay *lay_find(struct pikv *kv, uint32_t id)
{
    struct lay *a = id ? kv->layouts[id % LAYOUTS_MAX] : NULL;

    return a && a->id == id ? a : NULL;
}

/* ---- telling ---- */

/* A LAYOUT in flight: the layout may be gone when it is answered. */
struct lay_asked {
    uint32_t id, incarnation;
    struct conn *conn;
};

/* Nobody waits for the answer; the connection's end forgets it too. */
static void lay_forget_id(struct pikv *kv, struct conn *conn, uint32_t id)
{
    Pikv__LayoutRegister m = PIKV__LAYOUT_REGISTER__INIT;
    uint8_t env[16];

    if (conn->state != CONN_UP || kv->closing)
        return;
    m.forget = id;
    (void)call_msg(kv, conn, OP_LAYOUT, env,
                   pikv__layout_register__pack(&m, env), -1,
                   now_ns() + TELL_MS * NS_PER_MS, NULL, NULL);
}

/* A refusal is no error: the runs are written out then. */
static void lay_told(struct pikv *kv, struct call *c, int status,
                     const void *env, size_t env_len, int fd)
{
    struct lay_asked *q = c->arg;
    struct lay *a = lay_find(kv, q->id);
    bool here = q->conn->incarnation == q->incarnation;
    Pikv__LayoutReply *m = NULL;

    (void)fd;
    if (!status)
        m = pikv__layout_reply__unpack(NULL, env_len, env);
    if (a)
        a->told = --a->asked == 0;
    if (m && here && a)
        a->ids[q->conn->line] = m->id;
    else if (m && here)
        lay_forget_id(kv, q->conn, m->id);
    if (m)
        pikv__layout_reply__free_unpacked(m, NULL);
    free(q);
    pthread_cond_broadcast(&kv->cond);
}

/* The packed message, malloc'ed; NULL: no memory. */
static uint8_t *lay_pack(const struct lay *a, uint32_t mem, size_t *len_out)
{
    Pikv__LayoutRegister m = PIKV__LAYOUT_REGISTER__INIT;
    Pikv__Run runs[LAYOUT_RUNS], *list[LAYOUT_RUNS];
    uint8_t *env;

    for (uint32_t i = 0; i < a->l.run_n; i++) {
        const struct layout_run *r = &a->l.runs[i];

        pikv__run__init(&runs[i]);
        runs[i].off = r->off;
        runs[i].len = r->len;
        runs[i].stride = r->stride;
        runs[i].n = (uint32_t)r->n;
        list[i] = &runs[i];
    }
    m.mem = mem;
    m.n_runs = a->l.run_n;
    m.runs = list;
    m.block_n = a->l.block_n;
    m.block_stride = a->l.block_stride;
    m.pool_off = a->l.pool_off;
    if (a->table) {
        m.n_table = a->l.block_n;
        m.table = a->table;
    }
    *len_out = pikv__layout_register__get_packed_size(&m);
    env = malloc(*len_out);
    if (env)
        (void)pikv__layout_register__pack(&m, env);
    return env;
}

static void lay_tell(struct pikv *kv, struct lay *a, struct conn *c)
{
    struct lay_asked *q = malloc(sizeof(*q));
    size_t len = 0;
    uint8_t *env = lay_pack(a, a->region->ids[c->line] - 1, &len);
    int e = ERR_NO_MEMORY;

    if (q && env &&
        len + sizeof(struct wire_frame) <= c->limits.message_bytes) {
        *q = (struct lay_asked){a->id, c->incarnation, c};
        a->asked++;
        e = call_msg(kv, c, OP_LAYOUT, env, len, -1,
                     now_ns() + TELL_MS * NS_PER_MS, lay_told, q);
        if (e)
            a->asked--;
    }
    if (e)
        free(q);
    free(env);
}

static bool lay_tells(const struct lay *a, const struct conn *c)
{
    return (c->features & FEATURE_LAYOUT) && a->region &&
           a->region->ids[c->line] != 0;
}

void lay_region_known(struct pikv *kv, const struct region *r, struct conn *c)
{
    for (uint32_t i = 0; i < LAYOUTS_MAX; i++) {
        struct lay *a = kv->layouts[i];

        if (a && a->region == r && lay_tells(a, c))
            lay_tell(kv, a, c);
    }
}

void lay_region_gone(struct pikv *kv, const struct region *r)
{
    for (uint32_t i = 0; i < LAYOUTS_MAX; i++)
        if (kv->layouts[i] && kv->layouts[i]->region == r)
            kv->layouts[i]->region = NULL;
}

void lay_conn_gone(struct pikv *kv, uint32_t line)
{
    for (uint32_t i = 0; i < LAYOUTS_MAX; i++)
        if (kv->layouts[i])
            kv->layouts[i]->ids[line] = 0;
}

/* ---- register ---- */

static void lay_free(struct pikv *kv, struct lay *a)
{
    kv->layouts[a->id % LAYOUTS_MAX] = NULL;
    free(a->table);
    free(a->ids);
    free(a);
}

void lay_free_all(struct pikv *kv)
{
    for (uint32_t i = 0; i < LAYOUTS_MAX; i++)
        if (kv->layouts[i])
            lay_free(kv, kv->layouts[i]);
}

/* A slot, and an id that was not used before in it. */
static struct lay *lay_new(struct pikv *kv)
{
    struct lay *a = NULL;

    for (uint32_t i = 1; i <= LAYOUTS_MAX && !a; i++) {
        uint32_t id = kv->layout_serial + i;

        if (id == 0 || kv->layouts[id % LAYOUTS_MAX])
            continue;
        a = calloc(1, sizeof(*a));
        if (a)
            a->ids = calloc(kv->line_cap, sizeof(*a->ids));
        if (!a || !a->ids) {
            free(a);
            return NULL;
        }
        a->id = kv->layout_serial = id;
        kv->layouts[id % LAYOUTS_MAX] = a;
    }
    return a;
}

static int lay_init(struct lay *a, const struct pikv_layout *d)
{
    struct layout_run runs[LAYOUT_RUNS];
    uint64_t off = (uint64_t)((uint8_t *)d->addr - a->region->addr);

    if (d->run_n > LAYOUT_RUNS)
        return ERR_LIMIT;
    for (uint32_t i = 0; i < d->run_n; i++)
        runs[i] = (struct layout_run){d->runs[i].off, d->runs[i].len,
                                      d->runs[i].stride, d->runs[i].n, 0};
    if (d->table && d->block_n) {
        a->table = malloc(d->block_n * sizeof(*a->table));
        if (!a->table)
            return ERR_NO_MEMORY;
        memcpy(a->table, d->table, d->block_n * sizeof(*a->table));
    }
    return layout_init(&a->l, runs, d->run_n, off, d->block_stride, a->table,
                       d->block_n, a->region->len);
}

/* All lanes that know the memory, waited for. */
static void lay_register(struct pikv *kv, struct lay *a)
{
    a->waited = true;
    a->asked = 1; /* until all are asked */
    for (uint32_t i = 0; i < kv->line_n; i++)
        if (kv->conns[i]->state == CONN_UP && lay_tells(a, kv->conns[i]))
            lay_tell(kv, a, kv->conns[i]);
    a->told = --a->asked == 0;
    progress_submitted(kv, now_ns());
    progress_wait(kv, &a->told);
    a->waited = false;
}

int pikv_layout_register(struct pikv *kv, const struct pikv_layout *layout,
                         uint32_t *id_out)
{
    struct region *g;
    struct lay *a;
    int e = handle_check(kv);

    if (e)
        return e;
    if (layout->run_n && !layout->runs)
        return ERR_BAD_REQUEST;
    pthread_mutex_lock(&kv->mu);
    g = region_around(kv, layout->addr);
    a = g ? lay_new(kv) : NULL;
    e = a ? OK : g ? ERR_LIMIT : ERR_NO_MEM;
    if (a) {
        a->region = g;
        e = lay_init(a, layout);
        if (e)
            lay_free(kv, a);
    }
    if (!e) {
        *id_out = a->id;
        lay_register(kv, a);
    }
    progress_event(kv);
    pthread_mutex_unlock(&kv->mu);
    return e;
}

int pikv_layout_unregister(struct pikv *kv, uint32_t id)
{
    int e = handle_check(kv);
    struct lay *a;

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    a = lay_find(kv, id);
    if (a && a->waited)
        a = NULL; /* its id was not given to anybody yet */
    for (uint32_t i = 0; a && i < kv->line_n; i++)
        if (a->ids[i])
            lay_forget_id(kv, kv->conns[i], a->ids[i]);
    if (a)
        lay_free(kv, a);
    progress_event(kv);
    pthread_mutex_unlock(&kv->mu);
    return a ? OK : ERR_NO_LAYOUT;
}

/* ---- what an item names ---- */

uint32_t lay_block(const struct request *r, uint32_t i)
{
    if (r->op == OP_PUT)
        return r->puts[i].block;
    return r->op == OP_GET ? r->gets[i].block : r->writes[i].block;
}

void lay_range(const struct request *r, uint32_t i, struct lay_range *out)
{
    uint64_t len = 0;

    *out = (struct lay_range){.block = lay_block(r, i)};
    switch (r->op) {
    case OP_PUT_WRITE:
        out->off = r->writes[i].off;
        len = r->writes[i].len;
        break;
    case OP_GET:
        out->off = r->gets[i].off;
        len = r->gets[i].len;
        break;
    }
    out->len = len ? len : r->lay->l.bytes - min_u64(out->off, r->lay->l.bytes);
}

int lay_bind(struct pikv *kv, struct request *r)
{
    if (!request_has_layout(r))
        return OK;
    r->lay = lay_find(kv, r->call->layout);
    if (!r->lay)
        return ERR_NO_LAYOUT;
    if (!r->lay->region)
        return ERR_NO_MEM;
    for (uint32_t i = 0; i < r->n; i++) {
        struct lay_range g;

        lay_range(r, i, &g);
        if (g.block >= r->lay->l.block_n || g.off >= r->lay->l.bytes ||
            g.len > r->lay->l.bytes - g.off)
            return ERR_BAD_REQUEST;
    }
    return OK;
}

bool lay_expand(const struct lay *a, const struct lay_range *g, struct part *p,
                struct dest *d)
{
    uint64_t base = layout_base(&a->l, g->block), end = g->off + g->len;
    uint32_t first = p->iov_n;

    for (uint64_t pos = g->off; pos < end;) {
        uint64_t off, n = layout_piece(&a->l, base, pos, &off);

        n = min_u64(n, end - pos);
        if (!part_room((void **)&p->iov, &p->iov_cap, p->iov_n + 1,
                       sizeof(*p->iov)))
            return false;
        p->iov[p->iov_n++] = (struct pikv_buf){a->region->addr + off, n};
        pos += n;
    }
    d->iov_first = first;
    d->iov_n = p->iov_n - first;
    if (d->iov_n == 1) {
        d->p = p->iov[first].p;
        d->iov_n = 0;
        p->iov_n = first;
    }
    return true;
}

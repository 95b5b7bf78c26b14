/* SPDX-License-Identifier: Apache-2.0
 *
 * Namespaces as the handle knows them: a local number -> the server's id,
 * generation and slot seed. OPEN goes to lane 0, which answers when all lanes
 * know it. Opening a name again gives the same number and takes over the new
 * generation. After a restart of the server (another boot id) the packed OPEN
 * is sent again while the connection is set up; a namespace that the server
 * then refuses answers NO_NAMESPACE until it is opened again. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/call.h"
#include "rpc/msg.h"

enum { GROUPS_MAX = 16, ARENA_BYTES = 64 << 10, REOPEN_MS = 1000 };

struct ns *ns_find(struct pikv *kv, uint32_t ns)
{
    if (ns >= NAMESPACES_MAX || kv->ns[ns].state != NS_OPEN)
        return NULL;
    return &kv->ns[ns];
}

void ns_free_all(struct pikv *kv)
{
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++) {
        free(kv->ns[i].name);
        free(kv->ns[i].open_msg);
    }
}

/* ---- OPEN ---- */

static void open_groups(const struct pikv_namespace *d, struct arena *a,
                        Pikv__Open *m)
{
    Pikv__Group **list = arena_zalloc(a, d->group_n * sizeof(*list));

    m->groups = list;
    for (uint32_t i = 0; list && i < d->group_n; i++) {
        const struct pikv_group *from = &d->groups[i];
        Pikv__Group *g = arena_alloc(a, sizeof(*g));

        if (!g)
            return;
        pikv__group__init(g);
        g->id = from->id;
        g->kind = msg_str(a, from->kind);
        g->layers = from->layers;
        g->kv_heads = from->kv_heads;
        g->head_dim = from->head_dim;
        g->dtype = msg_str(a, from->dtype);
        g->order = msg_str(a, from->order);
        g->tokens_per_block = from->tokens_per_block;
        g->block_bytes = from->block_bytes;
        list[m->n_groups++] = g;
    }
}

/* Who makes nothing and says nothing of the fingerprint takes it as it is. */
static bool open_any(const struct pikv_namespace *d)
{
    const char *const said[] = {
        d->model, d->weights_version, d->tokenizer_hash, d->hash_seed,
        d->dtype, d->scale_format,    d->parallel_layout};

    for (uint32_t i = 0; i < countof(said); i++)
        if (said[i] && said[i][0])
            return false;
    return !d->create && !d->group_n;
}

/* The packed Open, malloc'ed. LIMIT: more text than any server takes. */
static int open_pack(const struct pikv_namespace *d, uint8_t **msg_out,
                     size_t *len_out)
{
    Pikv__Fingerprint f;
    Pikv__Settings s;
    Pikv__Open m;
    uint8_t *space = malloc(2 * (size_t)ARENA_BYTES);
    struct arena a;
    void *packed;

    if (!space)
        return ERR_NO_MEMORY;
    arena_init(&a, space, 2 * (size_t)ARENA_BYTES);
    pikv__open__init(&m);
    pikv__fingerprint__init(&f);
    pikv__settings__init(&s);
    m.name = msg_str(&a, d->name);
    f.model = msg_str(&a, d->model);
    f.weights_version = msg_str(&a, d->weights_version);
    f.tokenizer_hash = msg_str(&a, d->tokenizer_hash);
    f.hash_seed = msg_str(&a, d->hash_seed);
    f.dtype = msg_str(&a, d->dtype);
    f.scale_format = msg_str(&a, d->scale_format);
    f.parallel_layout = msg_str(&a, d->parallel_layout);
    s.policy = msg_str(&a, d->policy);
    s.loans = msg_str(&a, d->loans);
    s.dram = msg_str(&a, d->dram);
    s.codec = msg_str(&a, NULL);
    s.share = d->share;
    s.quota_bytes = d->quota_bytes;
    s.ttl_ms = d->ttl_ms;
    m.fingerprint = open_any(d) ? NULL : &f;
    m.settings = &s;
    m.create = d->create;
    open_groups(d, &a, &m);
    /* Every string came before: one that did not fit leaves no room here. */
    packed = a.used + 16 > a.cap || m.n_groups != d->group_n
                 ? NULL
                 : msg_pack(&m, &a, len_out);
    if (packed)
        memmove(space, packed, *len_out);
    else
        free(space);
    *msg_out = packed ? space : NULL;
    return packed ? OK : ERR_LIMIT;
}

static Pikv__OpenReply *open_reply(const void *env, size_t len, struct arena *a,
                                   void *buf)
{
    arena_init(a, buf, ARENA_BYTES);
    return msg_unpack(&pikv__open_reply__descriptor, a, env, len);
}

static void ns_take(struct ns *s, const Pikv__OpenReply *m, uint64_t boot)
{
    s->id = m->id;
    s->generation = m->generation;
    s->slot_seed = m->slot_seed;
    s->boot = boot;
    s->state = NS_OPEN;
}

/* The place of a name: its own, or a free one. */
static struct ns *ns_place(struct pikv *kv, const char *name)
{
    struct ns *room = NULL;

    for (uint32_t i = 0; i < NAMESPACES_MAX; i++) {
        struct ns *s = &kv->ns[i];

        if (s->name && strcmp(s->name, name) == 0)
            return s;
        if (!s->name && !room)
            room = s;
    }
    return room;
}

static int ns_store(struct pikv *kv, const char *name, uint8_t **msg,
                    size_t len, const Pikv__OpenReply *m, uint32_t *ns_out)
{
    struct ns *s = ns_place(kv, name);

    if (!s)
        return last_error_set(ERR_LIMIT, "more than %d namespaces in a handle",
                              NAMESPACES_MAX);
    if (!s->name)
        s->name = strdup(name);
    if (!s->name)
        return ERR_NO_MEMORY;
    free(s->open_msg);
    s->open_msg = *msg;
    s->open_len = len;
    *msg = NULL;
    ns_take(s, m, kv->conns[0]->boot);
    *ns_out = (uint32_t)(s - kv->ns);
    return OK;
}

static int open_check(const struct pikv_namespace *d)
{
    if (!d->name || !d->name[0])
        return last_error_set(ERR_BAD_REQUEST, "a namespace needs a name");
    if (d->group_n > GROUPS_MAX || (d->group_n && !d->groups))
        return last_error_set(ERR_LIMIT, "at most %d groups", GROUPS_MAX);
    return OK;
}

static uint64_t ns_deadline(uint16_t op, const struct pikv_call *call)
{
    return call_deadline_ns(op, call ? call->deadline_us : 0, 0, now_ns());
}

/* Words for what OPEN answered. */
static int open_failed(int e, const char *name, const Pikv__OpenReply *m)
{
    if (e == ERR_MISMATCH && m)
        return last_error_set(e, "namespace %s: %s is \"%s\", not \"%s\"", name,
                              m->mismatch_field, m->mismatch_have,
                              m->mismatch_want);
    if (m && m->mismatch_field[0]) /* the server names the field */
        return last_error_set(e, "namespace %s: %s", name, m->mismatch_field);
    return last_error_set(e, "namespace %s: %s", name, err_text(e));
}

int pikv_namespace_open(struct pikv *kv, const struct pikv_namespace *d,
                        uint32_t *ns_out, const struct pikv_call *call)
{
    uint8_t *msg = NULL, *buf = malloc(ARENA_BYTES);
    Pikv__OpenReply *m = NULL;
    void *reply = NULL;
    struct arena a;
    size_t len = 0, reply_len = 0;
    int e = handle_check(kv);

    last_error_clear();
    if (!e)
        e = open_check(d);
    if (!e && !buf)
        e = ERR_NO_MEMORY;
    if (!e)
        e = open_pack(d, &msg, &len);
    if (!e) {
        pthread_mutex_lock(&kv->mu);
        e = call_msg_wait(kv, kv->conns[0], OP_OPEN, msg, len, -1,
                          ns_deadline(OP_OPEN, call), &reply, &reply_len);
        m = reply || !e ? open_reply(reply, reply_len, &a, buf) : NULL;
        if (!e && !m)
            e = ERR_BAD_REQUEST;
        if (e)
            (void)open_failed(e, d->name, m);
        else
            e = ns_store(kv, d->name, &msg, len, m, ns_out);
        pthread_mutex_unlock(&kv->mu);
    }
    free(reply);
    free(msg);
    free(buf);
    return e;
}

/* ---- after a restart of the server ---- */

static void ns_reopened(struct pikv *kv, struct call *call, int status,
                        const void *env, size_t env_len, int fd)
{
    struct ns *s = call->arg;
    struct conn *c = kv->conns[0];
    void *buf = malloc(ARENA_BYTES);
    struct arena a;
    Pikv__OpenReply *m = NULL;

    (void)fd;
    if (!status && buf)
        m = open_reply(env, env_len, &a, buf);
    if (m)
        ns_take(s, m, c->boot);
    else
        s->state = NS_OPENING;
    free(buf);
    conn_setup_done(c);
}

void ns_reopen_all(struct pikv *kv, struct conn *c)
{
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++) {
        struct ns *s = &kv->ns[i];

        if (!s->open_msg || s->boot == c->boot)
            continue;
        c->setup_pending++;
        if (call_msg(kv, c, OP_OPEN, s->open_msg, s->open_len, -1,
                     now_ns() + REOPEN_MS * NS_PER_MS, ns_reopened, s))
            c->setup_pending--;
    }
}

/* ---- bump, ids ---- */

static int bump_take(struct ns *s, const void *reply, size_t len)
{
    uint8_t *buf = malloc(ARENA_BYTES);
    Pikv__NamespaceReply *m = NULL;
    struct arena a;
    int e = ERR_BAD_REQUEST;

    if (!buf)
        return ERR_NO_MEMORY;
    arena_init(&a, buf, ARENA_BYTES);
    m = msg_unpack(&pikv__namespace_reply__descriptor, &a, reply, len);
    if (m && m->n_namespaces == 1) {
        s->generation = m->namespaces[0]->generation;
        e = OK;
    }
    free(buf);
    return e;
}

int pikv_namespace_bump(struct pikv *kv, uint32_t ns,
                        const struct pikv_call *call)
{
    Pikv__NamespaceRequest m;
    struct ns *s = NULL;
    void *reply = NULL;
    uint8_t *env;
    size_t len = 0;
    int e = handle_check(kv);

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    s = ns_find(kv, ns);
    pikv__namespace_request__init(&m);
    m.name = s ? s->name : NULL;
    m.bump = 1;
    env = s ? malloc(pikv__namespace_request__get_packed_size(&m)) : NULL;
    e = s ? ERR_NO_MEMORY : ERR_NO_NAMESPACE;
    if (env)
        e = call_msg_wait(kv, kv->conns[0], OP_NAMESPACE, env,
                          pikv__namespace_request__pack(&m, env), -1,
                          ns_deadline(OP_NAMESPACE, call), &reply, &len);
    if (!e)
        e = bump_take(s, reply, len);
    pthread_mutex_unlock(&kv->mu);
    free(env);
    free(reply);
    return e;
}

int pikv_namespace_id(struct pikv *kv, uint32_t ns, uint32_t *id_out,
                      uint64_t *generation_out)
{
    struct ns *s;
    int e = handle_check(kv);

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    s = ns_find(kv, ns);
    if (s) {
        *id_out = s->id;
        *generation_out = s->generation;
    }
    pthread_mutex_unlock(&kv->mu);
    return s ? OK : ERR_NO_NAMESPACE;
}

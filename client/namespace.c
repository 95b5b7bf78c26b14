/* SPDX-License-Identifier: Apache-2.0
 *
 * Namespaces as the handle knows them: a local number -> for each node its id
 * and generation, and the slot seed, which all nodes of a cluster agree on.
 * OPEN goes to lane 0, which answers when all lanes know it. Opening a name
 * again gives the same number and takes over the new generation. After a
 * restart of the server (another boot id) the packed OPEN is sent again while
 * the connection is set up; a namespace that the server then refuses answers
 * NO_NAMESPACE until it is opened again.
 *
 * With a view one node is asked and waited for, the others get the same OPEN
 * when they are first needed (ns_want), and again when the name is opened
 * again; what a node refuses, only the items that go there hear. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/call.h"
#include "client/nodes.h"
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
        free(kv->ns[i].at);
        free(kv->ns[i].loans);
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

static void ns_take(struct ns *s, const Pikv__OpenReply *m,
                    const struct conn *c)
{
    s->at[c->peer->index] = (struct ns_at){
        .id = m->id,
        .generation = m->generation,
        .boot = c->boot,
        .known = true,
    };
    s->slot_seed = m->slot_seed;
    s->state = NS_OPEN;
}

/* A name that is new here: its arrays. */
static bool ns_init(const struct pikv *kv, struct ns *s, const char *name)
{
    if (!s->at)
        s->at = calloc(kv->peer_cap, sizeof(*s->at));
    if (!s->loans)
        s->loans = calloc(kv->line_cap, sizeof(*s->loans));
    if (s->at && s->loans)
        s->name = strdup(name);
    return s->name != NULL;
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

/* In a cluster a namespace is made on each node when it is first met there: the
 * one that knows it says how. Without memory the caller's own words stay. */
static void open_elsewhere(const Pikv__OpenReply *m, uint8_t **msg, size_t *len)
{
    uint8_t *packed;

    if (!m->elsewhere)
        return;
    packed = malloc(pikv__open__get_packed_size(m->elsewhere) + 1);
    if (!packed)
        return;
    free(*msg);
    *len = pikv__open__pack(m->elsewhere, packed);
    *msg = packed;
}

static int ns_store(struct pikv *kv, const struct conn *c, const char *name,
                    uint8_t **msg, size_t len, const Pikv__OpenReply *m,
                    uint32_t *ns_out)
{
    struct ns *s = ns_place(kv, name);

    if (!s)
        return last_error_set(ERR_LIMIT, "more than %d namespaces in a handle",
                              NAMESPACES_MAX);
    if (!s->name && !ns_init(kv, s, name))
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < kv->peer_n; i++)
        s->at[i].known = false;
    free(s->open_msg);
    s->open_msg = *msg;
    s->open_len = len;
    *msg = NULL;
    ns_take(s, m, c);
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
        struct conn *c;

        pthread_mutex_lock(&kv->mu);
        c = nodes_any(kv);
        e = call_msg_wait(kv, c, OP_OPEN, msg, len, -1,
                          ns_deadline(OP_OPEN, call), &reply, &reply_len);
        m = reply || !e ? open_reply(reply, reply_len, &a, buf) : NULL;
        if (!e && !m)
            e = ERR_BAD_REQUEST;
        if (e)
            (void)open_failed(e, d->name, m);
        else
            open_elsewhere(m, &msg, &len);
        if (!e)
            e = ns_store(kv, c, d->name, &msg, len, m, ns_out);
        pthread_mutex_unlock(&kv->mu);
    }
    free(reply);
    free(msg);
    free(buf);
    return e;
}

/* ---- at other nodes, and after a restart of the server ---- */

/* What an OPEN in flight carries. */
struct ns_asked {
    struct ns *ns;
    struct conn *conn;
    uint32_t incarnation;
    bool in_setup;
};

static void ns_refused(struct pikv *kv, struct ns *s, const struct conn *c,
                       int status)
{
    struct ns_at *at = &s->at[c->peer->index];

    if (!kv->many) {
        s->state = NS_OPENING;
    } else if (err_who(status) != WHO_RETRY) {
        at->boot = c->boot;
        at->refused = status;
    }
}

static void ns_reopened(struct pikv *kv, struct call *call, int status,
                        const void *env, size_t env_len, int fd)
{
    struct ns_asked *a = call->arg;
    struct ns *s = a->ns;
    struct conn *c = a->conn;
    bool here = c->incarnation == a->incarnation;
    void *buf = malloc(ARENA_BYTES);
    struct arena arena;
    Pikv__OpenReply *m = NULL;

    (void)fd;
    s->at[c->peer->index].asked = false;
    if (!status && buf)
        m = open_reply(env, env_len, &arena, buf);
    if (m && here)
        ns_take(s, m, c);
    else if (here)
        ns_refused(kv, s, c, status ? status : ERR_BAD_REQUEST);
    free(buf);
    if (a->in_setup && here)
        conn_setup_done(c);
    free(a);
    nodes_stir(kv);
}

static bool ns_ask(struct pikv *kv, struct ns *s, struct conn *c, bool in_setup)
{
    struct ns_at *at = &s->at[c->peer->index];
    struct ns_asked *a = malloc(sizeof(*a));

    if (!a)
        return false;
    *a = (struct ns_asked){s, c, c->incarnation, in_setup};
    at->asked = true;
    at->refused = 0;
    if (!call_msg(kv, c, OP_OPEN, s->open_msg, s->open_len, -1,
                  now_ns() + REOPEN_MS * NS_PER_MS, ns_reopened, a))
        return true;
    at->asked = false;
    free(a);
    return false;
}

void ns_reopen_all(struct pikv *kv, struct conn *c)
{
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++) {
        struct ns *s = &kv->ns[i];

        if (!s->open_msg || ns_at(s, c))
            continue;
        c->setup_pending++;
        if (!ns_ask(kv, s, c, true))
            c->setup_pending--;
    }
}

void ns_want(struct pikv *kv, struct ns *s, struct conn *c)
{
    if (c->state == CONN_UP && !s->at[c->peer->index].asked)
        (void)ns_ask(kv, s, c, false);
}

/* ---- bump, ids ---- */

/* The new generation of one node. */
static int bump_take(struct ns_at *at, const void *reply, size_t len,
                     bool *everywhere)
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
        at->generation = m->namespaces[0]->generation;
        *everywhere = m->everywhere;
        e = OK;
    }
    free(buf);
    return e;
}

static int bump_at(struct pikv *kv, struct ns *s, struct conn *c,
                   uint64_t deadline_ns, bool *everywhere)
{
    Pikv__NamespaceRequest m;
    void *reply = NULL;
    uint8_t *env;
    size_t len = 0;
    int e = ERR_NO_MEMORY;

    pikv__namespace_request__init(&m);
    m.name = s->name;
    m.bump = 1;
    env = malloc(pikv__namespace_request__get_packed_size(&m));
    if (env)
        e = call_msg_wait(kv, c, OP_NAMESPACE, env,
                          pikv__namespace_request__pack(&m, env), -1,
                          deadline_ns, &reply, &len);
    if (!e)
        e = bump_take(&s->at[c->peer->index], reply, len, everywhere);
    free(env);
    free(reply);
    return e;
}

/* One node makes it everybody's where it can: the others are asked again for
 * the generation that they have then. Else each is told. */
static int bump_many(struct pikv *kv, struct ns *s, uint64_t deadline_ns)
{
    struct conn *c = nodes_any(kv);
    bool everywhere = false;
    int e = nodes_wait_line(kv, c, s, deadline_ns);

    if (!e)
        e = bump_at(kv, s, c, deadline_ns, &everywhere);
    if (e)
        return e;
    for (uint32_t i = 0; everywhere && i < kv->peer_n; i++)
        s->at[i].known &= i == c->peer->index;
    return everywhere ? OK : nodes_each(kv, s, c, deadline_ns, bump_at);
}

int pikv_namespace_bump(struct pikv *kv, uint32_t ns,
                        const struct pikv_call *call)
{
    uint64_t deadline;
    bool everywhere;
    struct ns *s;
    int e = handle_check(kv);

    if (e)
        return e;
    deadline = ns_deadline(OP_NAMESPACE, call);
    pthread_mutex_lock(&kv->mu);
    s = ns_find(kv, ns);
    if (!s)
        e = ERR_NO_NAMESPACE;
    else if (kv->many)
        e = bump_many(kv, s, deadline);
    else
        e = bump_at(kv, s, kv->conns[0], deadline, &everywhere);
    pthread_mutex_unlock(&kv->mu);
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
        const struct ns_at *at = &s->at[nodes_any(kv)->peer->index];

        *id_out = at->id;
        *generation_out = at->generation;
    }
    pthread_mutex_unlock(&kv->mu);
    return s ? OK : ERR_NO_NAMESPACE;
}

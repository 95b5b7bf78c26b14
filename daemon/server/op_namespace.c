/* SPDX-License-Identifier: Apache-2.0
 *
 * OPEN, NAMESPACE, RELOAD: what the control thread decides for all lanes.
 *
 *   ASK -> (mail to control, which tells every lane) -> ANSWER
 *
 * The op sleeps until control answers and does not watch its deadline: control
 * always answers, and what it did must not be reported as undone. */
#include <stdio.h>
#include <string.h>

#include "server/ctl_mail.h"
#include "server/peer.h"

enum { ASK, ANSWER };

enum { NAMESPACES_PER_REPLY = 64 };

struct ask {
    struct ctl_call call;
    struct op *op;
    struct ctl_reload reload;
    struct ctl_ns ns[NAMESPACES_PER_REPLY];
};

/* A namespace of a reply: its structs, its texts, and what aligning each of
 * them may cost. */
enum {
    NAMESPACE_TEXTS = 16 + 3 * STORE_GROUPS,
    NAMESPACE_STRUCTS = 5 + STORE_GROUPS,
    NAMESPACE_BYTES =
        sizeof(Pikv__NamespaceInfo) + sizeof(Pikv__Fingerprint) +
        sizeof(Pikv__Settings) + sizeof(struct registry_ns) +
        (STORE_GROUPS + 1) * (sizeof(Pikv__Group) + sizeof(Pikv__Group *)) +
        (NAMESPACE_TEXTS + NAMESPACE_STRUCTS) * 16,
};
static_assert(sizeof(struct ask) +
                      NAMESPACES_PER_REPLY *
                          (NAMESPACE_BYTES + sizeof(void *)) <=
                  OP_MSG_BYTES,
              "the largest answer fits");

static void ask_answered(struct mail *m, void *lane)
{
    struct ask *ask = container_of(ctl_call_of(m), struct ask, call);

    (void)lane;
    op_done_one(ask->op);
}

/* Sends the question; false if the request does not parse. */
static bool ask_post(struct op *op, enum ctl_what what, const void *descriptor,
                     uint32_t ns_cap)
{
    struct ask *ask = arena_zalloc(&op->arena, sizeof *ask);

    MUST(ask);
    op->body = ask;
    ask->op = op;
    ask->call.lane = op->lane;
    ask->call.what = what;
    ask->call.done = ask_answered;
    ask->call.ns = ask->ns;
    ask->call.ns_cap = ns_cap;
    ask->call.reload = &ask->reload;
    if (descriptor) {
        ask->call.request = op_unpack(op, descriptor);
        if (!ask->call.request)
            return false;
    }
    op->pending = 1;
    op_goto(op, ANSWER);
    ctl_call_post(&ask->call);
    return true;
}

static void *zalloc(struct op *op, size_t n)
{
    void *p = arena_zalloc(&op->arena, n);

    MUST(p); /* OP_MSG_BYTES covers NAMESPACES_PER_REPLY of the largest */
    return p;
}

static char *text(struct op *op, const char *s)
{
    char *copy = msg_str(&op->arena, s);

    MUST(copy);
    return copy;
}

static Pikv__Settings *settings_msg(struct op *op,
                                    const struct registry_settings *s)
{
    Pikv__Settings *m = zalloc(op, sizeof *m);

    pikv__settings__init(m);
    m->policy = text(op, s->policy->name);
    m->share = s->share;
    m->quota_bytes = s->quota_bytes;
    m->loans = text(op, registry_loans_name(s->loans));
    m->ttl_ms = s->ttl_ms;
    m->dram = text(op, registry_dram_name(s->dram));
    return m;
}

static Pikv__Group **groups_msg(struct op *op, const struct registry_ns *ns)
{
    Pikv__Group **list = zalloc(op, (ns->group_n + 1) * sizeof *list);

    for (uint32_t i = 0; i < ns->group_n; i++) {
        const struct registry_group *g = &ns->groups[i];
        Pikv__Group *m = zalloc(op, sizeof *m);

        pikv__group__init(m);
        m->id = g->id;
        m->kind = text(op, g->kind);
        m->layers = g->layers;
        m->kv_heads = g->kv_heads;
        m->head_dim = g->head_dim;
        m->dtype = text(op, g->dtype);
        m->order = text(op, g->order);
        m->tokens_per_block = g->tokens_per_block;
        m->block_bytes = g->block_bytes;
        list[i] = m;
    }
    return list;
}

static Pikv__Fingerprint *fingerprint_msg(struct op *op,
                                          const struct registry_fingerprint *f)
{
    Pikv__Fingerprint *m = zalloc(op, sizeof *m);

    pikv__fingerprint__init(m);
    m->model = text(op, f->model);
    m->weights_version = text(op, f->weights_version);
    m->tokenizer_hash = text(op, f->tokenizer_hash);
    m->hash_seed = text(op, f->hash_seed);
    m->dtype = text(op, f->dtype);
    m->scale_format = text(op, f->scale_format);
    m->parallel_layout = text(op, f->parallel_layout);
    return m;
}

static_assert(NAMESPACE_BYTES + sizeof(Pikv__Open) + 16 <= OP_OPEN_BYTES,
              "op_open_msg fits");

Pikv__Open *op_open_msg(struct op *op, const struct registry_ns *ns)
{
    Pikv__Open *m = zalloc(op, sizeof *m);

    pikv__open__init(m);
    m->name = text(op, ns->name);
    m->fingerprint = fingerprint_msg(op, &ns->fingerprint);
    m->n_groups = ns->group_n;
    m->groups = groups_msg(op, ns);
    m->create = true;
    m->settings = settings_msg(op, &ns->settings);
    return m;
}

static void open_answer(struct op *op, struct ask *ask)
{
    Pikv__OpenReply rep = PIKV__OPEN_REPLY__INIT;
    const struct registry_ns *ns = &ask->ns[0].ns;

    if (ask->call.err == ERR_MISMATCH) {
        rep.mismatch_field = ask->call.mismatch.field;
        rep.mismatch_have = ask->call.mismatch.have;
        rep.mismatch_want = ask->call.mismatch.want;
    } else if (ask->call.err) {
        rep.mismatch_field = ask->call.msg.text;
    } else {
        rep.id = ns->id;
        rep.generation = ns->generation;
        rep.slot_seed = ns->slot_seed;
        rep.n_groups = ns->group_n;
        rep.groups = groups_msg(op, ns);
        rep.settings = settings_msg(op, &ns->settings);
        rep.created = ask->call.created;
        if (op->lane->view)
            rep.elsewhere = op_open_msg(op, ns);
    }
    op_reply_msg(op, ask->call.err, &rep);
}

static Pikv__NamespaceInfo *namespace_msg(struct op *op,
                                          const struct ctl_ns *from)
{
    Pikv__NamespaceInfo *m = zalloc(op, sizeof *m);

    pikv__namespace_info__init(m);
    m->name = text(op, from->ns.name);
    m->id = from->ns.id;
    m->generation = from->ns.generation;
    m->fingerprint = fingerprint_msg(op, &from->ns.fingerprint);
    m->n_groups = from->ns.group_n;
    m->groups = groups_msg(op, &from->ns);
    m->settings = settings_msg(op, &from->ns.settings);
    m->blocks = from->usage.blocks;
    m->bytes = from->usage.bytes;
    m->share_bytes = from->usage.share_bytes;
    return m;
}

static void namespace_answer(struct op *op, struct ask *ask)
{
    Pikv__NamespaceReply rep = PIKV__NAMESPACE_REPLY__INIT;

    rep.error = ask->call.msg.text;
    rep.everywhere = ask->call.everywhere;
    rep.n_namespaces = ask->call.err ? 0 : ask->call.ns_n;
    rep.namespaces =
        zalloc(op, (rep.n_namespaces + 1) * sizeof *rep.namespaces);
    for (size_t i = 0; i < rep.n_namespaces; i++)
        rep.namespaces[i] = namespace_msg(op, &ask->ns[i]);
    op_reply_msg(op, ask->call.err, &rep);
}

static char **paths(struct op *op, const struct config_row *const *rows,
                    uint32_t n)
{
    char **list = zalloc(op, (n + 1) * sizeof *list);

    for (uint32_t i = 0; i < n; i++)
        list[i] = text(op, rows[i]->path);
    return list;
}

static void reload_answer(struct op *op, struct ask *ask)
{
    Pikv__ReloadReply rep = PIKV__RELOAD_REPLY__INIT;
    const struct ctl_reload *r = &ask->reload;

    rep.error = ask->call.msg.text;
    rep.n_changed = r->changed_n;
    rep.changed = paths(op, r->changed, r->changed_n);
    rep.n_needs_restart = r->restart_n;
    rep.needs_restart = paths(op, r->restart, r->restart_n);
    op_reply_msg(op, ask->call.err, &rep);
}

static void open_tick(struct op *op)
{
    if (op->state == ASK) {
        if (!ask_post(op, CTL_OPEN, &pikv__open__descriptor, 1))
            op_reply(op, ERR_BAD_REQUEST);
    } else if (op->pending == 0) {
        open_answer(op, op->body);
    }
}

static void namespace_tick(struct op *op)
{
    if (op->state == ASK) {
        if (!ask_post(op, CTL_NAMESPACE, &pikv__namespace_request__descriptor,
                      NAMESPACES_PER_REPLY))
            op_reply(op, ERR_BAD_REQUEST);
    } else if (op->pending == 0) {
        namespace_answer(op, op->body);
    }
}

static void reload_tick(struct op *op)
{
    if (op->state == ASK && !op_operator(op))
        op_reply(op, ERR_DENIED);
    else if (op->state == ASK)
        (void)ask_post(op, CTL_RELOAD, NULL, 0);
    else if (op->pending == 0)
        reload_answer(op, op->body);
}

#define ASK_STATES                                                             \
    {                                                                          \
        {"ASK", NEXT(ANSWER)},                                                 \
        {                                                                      \
            "ANSWER", 0                                                        \
        }                                                                      \
    }
const struct op_machine open_machine = {open_tick, ASK_STATES};
const struct op_machine namespace_machine = {namespace_tick, ASK_STATES};
const struct op_machine reload_machine = {reload_tick, ASK_STATES};

/* SPDX-License-Identifier: Apache-2.0
 *
 * What a caller asks and tells beside its blocks. Nothing depends on either: no
 * block is moved, no answer of another call changes its meaning.
 *
 *     explain   one key --EXPLAIN--> its lane --> why it is or is not there;
 *               waits for the answer
 *     session   one label --FEEDBACK--> every lane; nobody waits, because an
 *               engine says it where it must not stop. What a lane does not
 *               get is lost: it then treats the blocks as if nothing was said
 *
 * Sent only to connections that are UP and know the namespace: an id of before
 * a restart of the server could be another namespace's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "client/nodes.h"
#include "rpc/msg.h"

enum { REPLY_BYTES = 16 << 10, SESSION_STATES = 3 };

static uint64_t hint_deadline(uint16_t op, const struct pikv_call *call)
{
    return call_deadline_ns(op, call ? call->deadline_us : 0, 0, now_ns());
}

/* Does the lane take the namespace's id? */
static int hint_conn_check(const struct conn *c, const struct ns *space)
{
    if (c->state != CONN_UP)
        return ERR_NO_SERVER;
    return ns_at(space, c) ? OK : ERR_RETRY;
}

/* ---- explain ---- */

/* The packed request, malloc'ed. */
static uint8_t *explain_pack(uint32_t id, const struct pikv_key *k,
                             size_t *len_out)
{
    Pikv__ExplainRequest m;
    uint8_t *env;

    pikv__explain_request__init(&m);
    m.ns = id;
    m.group = k->group;
    /* protobuf-c has no const; packing only reads. */
    m.key = (ProtobufCBinaryData){k->key.len, (uint8_t *)(uintptr_t)k->key.p};
    if (k->scope)
        m.scope = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)k->scope};
    env = malloc(pikv__explain_request__get_packed_size(&m));
    if (env)
        *len_out = pikv__explain_request__pack(&m, env);
    return env;
}

static int explain_take(const void *reply, size_t len,
                        struct pikv_explanation *out)
{
    uint8_t *buf = malloc(REPLY_BYTES);
    Pikv__ExplainReply *m = NULL;
    struct arena a;

    if (!buf)
        return ERR_NO_MEMORY;
    arena_init(&a, buf, REPLY_BYTES);
    m = msg_unpack(&pikv__explain_reply__descriptor, &a, reply, len);
    if (m && !m->reason[0])
        m = NULL;
    if (m) {
        *out = (struct pikv_explanation){.when_ms = m->when_ms,
                                         .eta_us = m->eta_us};
        snprintf(out->reason, sizeof(out->reason), "%s", m->reason);
        snprintf(out->tier, sizeof(out->tier), "%s", m->tier);
        snprintf(out->advice, sizeof(out->advice), "%s", m->advice);
    }
    free(buf);
    return m ? OK : ERR_BAD_REQUEST;
}

/* The lane that serves a key, connected. */
static int explain_lane(struct pikv *kv, struct ns *space,
                        const struct pikv_key *key, uint64_t deadline_ns,
                        struct conn **c_out)
{
    uint32_t slot = build_slot(space, key);
    struct peer *p;

    if (!kv->many) {
        *c_out = kv->conns[build_lane(kv, space, key)];
        return hint_conn_check(*c_out, space);
    }
    p = nodes_peer(kv, cview_serving(&kv->nodes->view, slot));
    if (!p)
        return ERR_NO_SERVER;
    *c_out = nodes_line(kv, p, slot);
    return nodes_wait_line(kv, *c_out, space, deadline_ns);
}

/* With kv->mu, which is let go while it waits. */
static int explain_ask(struct pikv *kv, struct ns *space,
                       const struct pikv_key *key, const struct pikv_call *call,
                       void **reply_out, size_t *len_out)
{
    uint64_t deadline_ns = hint_deadline(OP_EXPLAIN, call);
    struct conn *c = NULL;
    size_t len = 0;
    uint8_t *env;
    int e = explain_lane(kv, space, key, deadline_ns, &c);

    if (e)
        return e;
    env = explain_pack(ns_at(space, c)->id, key, &len);
    if (!env)
        return ERR_NO_MEMORY;
    e = call_msg_wait(kv, c, OP_EXPLAIN, env, len, -1, deadline_ns, reply_out,
                      len_out);
    free(env);
    return e;
}

int pikv_explain(struct pikv *kv, uint32_t ns, const struct pikv_key *key,
                 const struct pikv_call *call, struct pikv_explanation *out)
{
    struct ns *space;
    void *reply = NULL;
    size_t len = 0;
    int e = handle_check(kv);

    if (!e)
        e = data_check_key(key);
    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    space = ns_find(kv, ns);
    e = space ? explain_ask(kv, space, key, call, &reply, &len)
              : ERR_NO_NAMESPACE;
    pthread_mutex_unlock(&kv->mu);
    if (!e)
        e = explain_take(reply, len, out);
    free(reply);
    return e;
}

/* ---- session ---- */

static char word_open[] = "open", word_idle[] = "idle",
            word_closed[] = "closed";
static char *const session_words[SESSION_STATES] = {
    [PIKV_SESSION_OPEN] = word_open,
    [PIKV_SESSION_IDLE] = word_idle,
    [PIKV_SESSION_CLOSED] = word_closed,
};

/* To every lane that can take it; the first reason why one cannot. */
static int session_tell(struct pikv *kv, const struct ns *space,
                        Pikv__Feedback *m, uint64_t deadline_ns)
{
    uint8_t env[64];
    int first = OK;

    for (uint32_t line = 0; line < kv->line_n; line++) {
        struct conn *c = kv->conns[line];
        int e;

        if (c->peer->gone)
            continue;
        e = hint_conn_check(c, space);
        if (!e) {
            m->ns = ns_at(space, c)->id;
            e = call_msg(kv, c, OP_FEEDBACK, env, pikv__feedback__pack(m, env),
                         -1, deadline_ns, NULL, NULL);
        }
        if (e && !first)
            first = e;
    }
    return first;
}

int pikv_session(struct pikv *kv, uint32_t ns, uint64_t session,
                 enum pikv_session_state state, const struct pikv_call *call)
{
    Pikv__Feedback m;
    struct ns *space;
    int e = handle_check(kv);

    if (e)
        return e;
    if (session == 0 || (uint32_t)state >= SESSION_STATES)
        return ERR_BAD_REQUEST;
    pthread_mutex_lock(&kv->mu);
    space = ns_find(kv, ns);
    e = ERR_NO_NAMESPACE;
    if (space && !kv->closing) {
        uint64_t now = now_ns();

        nodes_reach(kv, space);
        pikv__feedback__init(&m);
        m.session = session;
        m.session_state = session_words[state];
        e = session_tell(kv, space, &m, hint_deadline(OP_FEEDBACK, call));
        progress_submitted(kv, now);
    }
    pthread_mutex_unlock(&kv->mu);
    return e;
}

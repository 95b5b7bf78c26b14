/* SPDX-License-Identifier: Apache-2.0
 *
 * libraft's messages as Peer__Raft (proto/peer.proto), and back.
 *
 *   kind               a              b              c              d  flags
 *   APPEND_ENTRIES     prev index     prev term      leader commit     entries
 *   .._RESULT          rejected       last index
 *   REQUEST_VOTE       last index     last term                        disrupt,
 *                                                                      pre-vote
 *   .._RESULT          tribool                                         granted
 *   INSTALL_SNAPSHOT   last index     last term      conf index        conf,
 *                                                                      snapshot
 *   TIMEOUT_NOW        last index     last term
 *
 * Reading: peer_msg.c has checked lengths and counts; here every field that
 * libraft believes without looking is looked at. Indexes and terms stay below
 * NUMBER_MAX, so that no sum of two overflows; a term of an entry is not 0 nor
 * beyond the message's; configurations are decoded once to see that they can
 * be. What depends on the node's state is the guard's (raft_guard.c, rule 5).
 * A refused message is dropped: whoever sent it is broken or hostile, and Raft
 * lives with loss.
 *
 * Memory: one block for all the data of a message's entries, since libraft
 * frees entries[0].batch. */
#include <stdlib.h>
#include <string.h>

#include "cluster/coord_impl.h"
#include "cluster/peer_msg.h"
#include "cluster/raft_guard.h"

static const uint64_t NUMBER_MAX = UINT64_C(1) << 60;

enum {
    ENTRY_BYTES = 32,     /* around an entry's data, at most */
    MESSAGE_BYTES = 1024, /* around all entries, at most */
};

/* ---- Out ----------------------------------------------------------------- */

struct packing {
    Peer__Raft msg;
    Peer__RaftEntry *entries, **list;
    struct raft_buffer conf;
};

static enum err pack_entries(struct packing *k,
                             const struct raft_append_entries *a)
{
    size_t bytes = MESSAGE_BYTES;
    unsigned n = 0;

    for (; n < a->n_entries && n < PEER_RAFT_ENTRIES_MAX; n++) {
        bytes += a->entries[n].buf.len + ENTRY_BYTES;
        if (bytes > COORD_MESSAGE_MAX)
            break;
    }
    if (!n)
        return a->n_entries ? ERR_LIMIT : OK;
    k->entries = malloc(n * sizeof *k->entries);
    k->list = malloc(n * sizeof *k->list);
    if (!k->entries || !k->list)
        return ERR_NO_MEMORY;
    for (unsigned i = 0; i < n; i++) {
        peer__raft_entry__init(&k->entries[i]);
        k->entries[i].term = a->entries[i].term;
        k->entries[i].type = a->entries[i].type;
        k->entries[i].data.data = a->entries[i].buf.base;
        k->entries[i].data.len = a->entries[i].buf.len;
        k->list[i] = &k->entries[i];
    }
    k->msg.entries = k->list;
    k->msg.n_entries = n;
    return OK;
}

static enum err pack_append(struct packing *k,
                            const struct raft_append_entries *a)
{
    k->msg.term = a->term;
    k->msg.a = a->prev_log_index;
    k->msg.b = a->prev_log_term;
    k->msg.c = a->leader_commit;
    return pack_entries(k, a);
}

static enum err pack_install(struct packing *k,
                             const struct raft_install_snapshot *s)
{
    k->msg.term = s->term;
    k->msg.a = s->last_index;
    k->msg.b = s->last_term;
    k->msg.c = s->conf_index;
    k->msg.snapshot.data = s->data.base;
    k->msg.snapshot.len = s->data.len;
    if (s->data.len > COORD_SNAPSHOT_MAX)
        return ERR_LIMIT;
    if (raft_configuration_encode(&s->conf, &k->conf))
        return ERR_NO_MEMORY;
    k->msg.conf.data = k->conf.base;
    k->msg.conf.len = k->conf.len;
    return OK;
}

static void pack_vote(Peer__Raft *p, const struct raft_request_vote *v)
{
    p->term = v->term;
    p->a = v->last_log_index;
    p->b = v->last_log_term;
    p->flag = v->disrupt_leader;
    p->flag2 = v->pre_vote;
}

static enum err pack_any(struct packing *k, const struct raft_message *m)
{
    Peer__Raft *p = &k->msg;

    switch (m->type) {
    case RAFT_IO_APPEND_ENTRIES:
        return pack_append(k, &m->append_entries);
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        p->term = m->append_entries_result.term;
        p->a = m->append_entries_result.rejected;
        p->b = m->append_entries_result.last_log_index;
        return OK;
    case RAFT_IO_REQUEST_VOTE:
        pack_vote(p, &m->request_vote);
        return OK;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        p->term = m->request_vote_result.term;
        p->a = m->request_vote_result.pre_vote;
        p->flag = m->request_vote_result.vote_granted;
        return OK;
    case RAFT_IO_INSTALL_SNAPSHOT:
        return pack_install(k, &m->install_snapshot);
    case RAFT_IO_TIMEOUT_NOW:
        p->term = m->timeout_now.term;
        p->a = m->timeout_now.last_log_index;
        p->b = m->timeout_now.last_log_term;
        return OK;
    default:
        return ERR_UNSUPPORTED;
    }
}

enum err coord_raft_pack(uint64_t from, const struct raft_message *m,
                         struct bytes *out)
{
    struct packing k = {0};
    enum err e;

    peer__raft__init(&k.msg);
    k.msg.kind = m->type;
    k.msg.from = from;
    e = pack_any(&k, m);
    if (e == OK)
        e = peer_msg_pack(PEER_RAFT, &k.msg, out);
    free(k.entries);
    free(k.list);
    raft_free(k.conf.base);
    return e;
}

/* ---- In ------------------------------------------------------------------ */

static bool number(uint64_t v)
{
    return v < NUMBER_MAX;
}

static bool entry_ok(const Peer__RaftEntry *e, uint64_t term)
{
    struct raft_configuration conf;
    bool ok;

    if (!e->term || e->term > term || e->type < RAFT_COMMAND ||
        e->type > RAFT_CHANGE || e->data.len % 8)
        return false;
    if (e->type != RAFT_CHANGE)
        return true;
    raft_configuration_init(&conf);
    ok = raft_conf_decode(e->data.data, e->data.len, &conf);
    raft_configuration_close(&conf);
    return ok;
}

/* One block for all data, at least a byte. */
static bool unpack_entries(const Peer__Raft *p, struct raft_append_entries *a)
{
    size_t bytes = 1;
    uint8_t *at;

    for (size_t i = 0; i < p->n_entries; i++) {
        if (!entry_ok(p->entries[i], p->term))
            return false;
        bytes += p->entries[i]->data.len;
    }
    if (!p->n_entries)
        return true;
    a->entries = raft_calloc(p->n_entries, sizeof *a->entries);
    at = a->entries ? raft_malloc(bytes) : NULL;
    if (!at) {
        raft_free(a->entries);
        return false;
    }
    a->n_entries = (unsigned)p->n_entries;
    for (unsigned i = 0; i < a->n_entries; i++) {
        const Peer__RaftEntry *e = p->entries[i];
        struct raft_entry *to = &a->entries[i];

        to->term = e->term;
        to->type = (unsigned short)e->type;
        to->buf = (struct raft_buffer){at, e->data.len};
        to->batch = a->entries[0].buf.base;
        if (e->data.len)
            memcpy(at, e->data.data, e->data.len);
        at += e->data.len;
    }
    return true;
}

static bool unpack_append(const Peer__Raft *p, struct raft_append_entries *a)
{
    a->prev_log_index = p->a;
    a->prev_log_term = p->b;
    a->leader_commit = p->c;
    if (p->b > p->term || !p->a != !p->b)
        return false;
    return unpack_entries(p, a);
}

static bool unpack_install(const Peer__Raft *p, struct raft_install_snapshot *s)
{
    s->last_index = p->a;
    s->last_term = p->b;
    s->conf_index = p->c;
    if (!p->a || !p->b || p->b > p->term || !p->c || p->c > p->a ||
        p->snapshot.len > COORD_SNAPSHOT_MAX)
        return false;
    raft_configuration_init(&s->conf);
    if (!raft_conf_decode(p->conf.data, p->conf.len, &s->conf))
        return false;
    s->data.len = p->snapshot.len;
    s->data.base = raft_malloc(p->snapshot.len + 1);
    if (!s->data.base) {
        raft_configuration_close(&s->conf);
        return false;
    }
    if (p->snapshot.len)
        memcpy(s->data.base, p->snapshot.data, p->snapshot.len);
    return true;
}

static void unpack_vote(const Peer__Raft *p, struct raft_request_vote *v)
{
    v->candidate_id = p->from;
    v->last_log_index = p->a;
    v->last_log_term = p->b;
    v->disrupt_leader = p->flag;
    v->pre_vote = p->flag2;
}

/* The term is the first field of every message. */
static bool unpack_any(const Peer__Raft *p, struct raft_message *m)
{
    m->append_entries.term = p->term;
    switch (p->kind) {
    case RAFT_IO_APPEND_ENTRIES:
        return unpack_append(p, &m->append_entries);
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        m->append_entries_result.rejected = p->a;
        m->append_entries_result.last_log_index = p->b;
        return true;
    case RAFT_IO_REQUEST_VOTE:
        unpack_vote(p, &m->request_vote);
        return !p->a == !p->b;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        m->request_vote_result.vote_granted = p->flag;
        m->request_vote_result.pre_vote = (raft_tribool)p->a;
        return p->a <= raft_tribool_false;
    case RAFT_IO_INSTALL_SNAPSHOT:
        return unpack_install(p, &m->install_snapshot);
    case RAFT_IO_TIMEOUT_NOW:
        m->timeout_now.last_log_index = p->a;
        m->timeout_now.last_log_term = p->b;
        return true;
    default:
        return false;
    }
}

_Static_assert(offsetof(struct raft_request_vote, term) == 0 &&
                   offsetof(struct raft_request_vote_result, term) == 0 &&
                   offsetof(struct raft_append_entries_result, term) == 0 &&
                   offsetof(struct raft_install_snapshot, term) == 0 &&
                   offsetof(struct raft_timeout_now, term) == 0,
               "unpack_any sets it for all");

bool coord_raft_unpack(uint64_t from, const uint8_t *p, size_t n,
                       struct raft_message *m)
{
    Peer__Raft *r = peer_msg_unpack(PEER_RAFT, p, n);
    struct raft_message got = {0};
    bool ok;

    if (!r)
        return false;
    ok = from && r->from == from && r->term && number(r->term) &&
         number(r->a) && number(r->b) && number(r->c) && unpack_any(r, &got);
    if (ok) {
        got.type = (unsigned short)r->kind;
        got.server_id = from;
        got.server_address = "";
        *m = got;
    }
    peer_msg_free(r);
    return ok;
}

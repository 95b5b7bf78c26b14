/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_view.h. */
#include "tests/lib/fake_view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "pikv.pb-c.h"
#include "tests/lib/fake_impl.h"

/* Looked at here, in the test's thread: a fake may end before another. */
static void where(struct fake_view *v, uint32_t i)
{
    const struct fake *at = v->nodes[i].at;

    v->where[i].lane_n = at ? at->lane_n : 1;
    for (uint32_t k = 0; k < v->where[i].lane_n; k++)
        snprintf(v->where[i].shm[k], sizeof(v->where[i].shm[k]), "%s%s",
                 v->nodes[i].addr ? "" : "shm:",
                 v->nodes[i].addr ? v->nodes[i].addr
                 : at             ? at->lanes[k].path
                                  : "");
}

void fake_set_view(struct fake *f, const struct fake_view *v, uint32_t self)
{
    struct fake_view *mine = malloc(sizeof(*mine)), *before;

    *mine = *v;
    mine->self = self;
    for (uint32_t i = 0; i < v->node_n; i++)
        where(mine, i);
    pthread_mutex_lock(&f->mu);
    before = f->view;
    f->view = mine;
    f->ns_id = 7 + self;
    pthread_mutex_unlock(&f->mu);
    free(before);
}

static bool serves(const struct fake_view *v, uint16_t node)
{
    return node < v->node_n && (strcmp(v->nodes[node].state, "up") == 0 ||
                                strcmp(v->nodes[node].state, "draining") == 0);
}

static uint32_t slot_of(const struct key_ref *k)
{
    return k->rec.route_len ? hash_slot(99, k->route, k->rec.route_len)
                            : hash_slot(99, k->key, k->rec.key_len);
}

static uint16_t serving(const struct fake_view *v, uint32_t slot)
{
    for (uint32_t i = 0; i < 3; i++)
        if (serves(v, v->rows[slot].owner[i]))
            return v->rows[slot].owner[i];
    return FAKE_NONE;
}

static bool unasked(const struct fake_view *v, const struct wire_batch *head)
{
    return !v || head->flags & BATCH_HERE || head->epoch > v->epoch;
}

int fake_view_miss(struct lane *l, const struct wire_batch *head,
                   const struct key_ref *k, struct wire_result *r)
{
    const struct fake_view *v = l->f->view;
    uint16_t node;

    if (unasked(v, head))
        return OK;
    node = serving(v, slot_of(k));
    if (node == v->self || node == FAKE_NONE)
        return OK;
    l->f->redirects++;
    r->owner = node;
    return ERR_WRONG_NODE;
}

int fake_view_put(struct lane *l, const struct wire_batch *head,
                  const struct key_ref *k, struct wire_result *r)
{
    const struct fake_view *v = l->f->view;

    for (uint32_t i = 0; !unasked(v, head) && i < 3; i++)
        if (v->rows[slot_of(k)].owner[i] == v->self)
            return OK;
    return fake_view_miss(l, head, k, r);
}

/* Rows as VIEW has them. */
static uint32_t encode(const struct fake_view *v, uint8_t *out)
{
    uint32_t n = 0;

    for (uint32_t slot = 0, end; slot < WIRE_SLOTS; slot = end) {
        uint16_t more;

        for (end = slot + 1;
             end < WIRE_SLOTS &&
             memcmp(&v->rows[slot], &v->rows[end], sizeof(v->rows[0])) == 0;
             end++)
            ;
        more = (uint16_t)(end - slot - 1);
        memcpy(out + n, &more, 2);
        memcpy(out + n + 2, &v->rows[slot], sizeof(v->rows[0]));
        n += 14;
    }
    return n;
}

enum { PIECE_MAX = 90000 /* fits the ring */ };

struct words {
    Pikv__ViewNode node;
    Pikv__Lane lanes[LANES], *list[LANES];
    char shm[LANES][160], name[16], state[16];
};

static void node_words(const struct fake_view *v, uint32_t i, struct words *w)
{
    static char none[] = "";

    pikv__view_node__init(&w->node);
    snprintf(w->name, sizeof(w->name), "node%u", i);
    snprintf(w->state, sizeof(w->state), "%s", v->nodes[i].state);
    w->node.index = i;
    w->node.name = w->name;
    w->node.state = w->state;
    w->node.zone = w->node.peer = w->node.rack = none;
    w->node.host = v->nodes[i].host;
    w->node.n_lanes = v->where[i].lane_n;
    w->node.lanes = w->list;
    for (uint32_t k = 0; k < w->node.n_lanes; k++) {
        w->list[k] = &w->lanes[k];
        pikv__lane__init(&w->lanes[k]);
        snprintf(w->shm[k], sizeof(w->shm[k]), "%s", v->where[i].shm[k]);
        w->lanes[k].shm = w->shm[k];
        w->lanes[k].ucx = none;
    }
}

void fake_do_view(struct lane *l, struct fake_conn *c,
                  const struct message *msg)
{
    const struct fake_view *v = l->f->view;
    Pikv__ViewRequest *q =
        pikv__view_request__unpack(NULL, msg->frame.env_len, msg->env);
    struct words *w = calloc(FAKE_NODES, sizeof(*w));
    Pikv__ViewNode *nodes[FAKE_NODES];
    Pikv__ViewReply m;
    uint8_t *code = malloc(WIRE_SLOTS * 14);
    uint8_t *env;
    uint32_t n, at;
    bool same, more;

    MUST(q != NULL && v != NULL);
    l->f->views++;
    pikv__view_reply__init(&m);
    m.epoch = v->epoch;
    m.generation = v->generation;
    m.self = v->self;
    same = q->have_epoch == v->epoch && q->have_generation == v->generation;
    more = same && q->offset > 0;
    if (!same || more) {
        n = encode(v, code);
        at = more ? (uint32_t)q->offset : 0;
        MUST(at < n);
        m.offset = at;
        m.slots_bytes = n;
        m.slots.data = code + at;
        m.slots.len =
            min_u64(v->piece_bytes ? v->piece_bytes : PIECE_MAX, n - at);
        for (uint32_t i = 0; !more && i < v->node_n; i++) {
            node_words(v, i, &w[i]);
            nodes[i] = &w[i].node;
        }
        m.nodes = nodes;
        m.n_nodes = more ? 0 : v->node_n;
    }
    env = malloc(pikv__view_reply__get_packed_size(&m));
    n = (uint32_t)pikv__view_reply__pack(&m, env);
    fake_reply(c, &msg->frame, 0, env, 0, n);
    pikv__view_request__free_unpacked(q, NULL);
    free(env);
    free(code);
    free(w);
}

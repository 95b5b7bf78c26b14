/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands about members: who joins, what becomes of it, who votes. The table
 * of moves between states is in state.h, before enum cmd_kind. */
#include <string.h>

#include "cluster/state_impl.h"
#include "cluster/view_impl.h"

static uint32_t voter_count(const struct view *v)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < v->node_n; i++)
        n += v->nodes[i].voter;
    return n;
}

/* ---- Joining ---- */

/* A uuid of 0 is not known yet: a node of a static list, until it comes. */

size_t state_node_bytes(const struct view *v, uint16_t but)
{
    uint8_t buf[NODE_BYTES_MAX];
    size_t sum = 0;

    for (uint32_t i = 0; i < v->node_n; i++)
        if (i != but)
            sum += node_pack(&v->nodes[i], buf);
    return sum;
}

/* Would all members with this one in place i still fit a snapshot? */
static bool names_fit(const struct view *v, uint16_t i, const struct node *n)
{
    uint8_t buf[NODE_BYTES_MAX];

    return state_node_bytes(v, i) + node_pack(n, buf) <= STATE_NODE_BYTES_MAX;
}

static enum err too_much(struct work *w)
{
    return errmsg_set(w->m, ERR_LIMIT,
                      "the names and addresses of all members, removed ones "
                      "too, are limited to 1 MiB; form a second cluster");
}

static enum err join_allowed(struct work *w)
{
    const struct view *v = &w->s->view;
    const struct node *n = &w->c->node;

    if (n->speaks < w->s->feature_level)
        return errmsg_set(w->m, ERR_BAD_VERSION,
                          "%s speaks feature level %u, the cluster is at %u; "
                          "install a newer pikvd there",
                          n->name, n->speaks, w->s->feature_level);
    for (uint32_t i = 0; i < v->node_n; i++) {
        const struct node *o = &v->nodes[i];

        if (o->state == NODE_REMOVED || !n->uuid || o->uuid != n->uuid ||
            strcmp(o->name, n->name) == 0)
            continue;
        return errmsg_set(w->m, ERR_DENIED,
                          "%s has the identity of the member %s: a copied "
                          "state_dir or another name for it; pikvctl node "
                          "remove %s first, or give this node a fresh "
                          "state_dir",
                          n->name, o->name, o->name);
    }
    return OK;
}

static enum err join_new(struct work *w)
{
    struct view *v = &w->s->view;
    struct node n = w->c->node;

    if (v->node_n == NODES_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "all %d node indexes of this cluster are used, "
                          "removed nodes' too; form a second cluster",
                          NODES_MAX);
    if (n.voter && voter_count(v) >= VIEW_VOTERS_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "%s wants to vote but there are %d voters already; "
                          "leave it out of cluster.voters",
                          n.name, VIEW_VOTERS_MAX);
    if (!names_fit(v, NODE_NONE, &n))
        return too_much(w);
    n.state = NODE_JOINING;
    n.drained = false;
    w->value = v->node_n;
    v->nodes[v->node_n++] = n;
    w->changed = true;
    return OK;
}

/* The same incarnation again: said twice, or by a clone of the machine. */
static enum err join_twice(struct work *w, const struct node *o)
{
    const struct node *n = &w->c->node;

    if (o->host == n->host && strcmp(o->peer, n->peer) == 0)
        return OK;
    return errmsg_set(w->m, ERR_DENIED,
                      "%s is known at %s and now comes from %s with the same "
                      "identity: a copied state_dir; give this node its own "
                      "node.name and a fresh state_dir",
                      n->name, o->peer, n->peer);
}

static void come_back(struct node *n)
{
    n->state = n->drained ? NODE_DRAINING : NODE_UP;
    n->drained = false;
}

static enum err join_again(struct work *w, uint16_t i)
{
    struct node *o = &w->s->view.nodes[i];
    struct node n = w->c->node;

    w->value = i;
    if (o->uuid && o->uuid != n.uuid)
        return errmsg_set(w->m, ERR_DENIED,
                          "another machine is the member %s (%s, %s); pikvctl "
                          "node remove %s first, or give this node its own "
                          "node.name",
                          n.name, o->peer,
                          node_state_name((enum node_state)o->state), n.name);
    if (n.incarnation == o->incarnation)
        return join_twice(w, o);
    if (n.incarnation < o->incarnation)
        return errmsg_set(w->m, ERR_STALE,
                          "%s comes with incarnation %u but was seen with %u: "
                          "its state_dir was rolled back; pikvctl node remove "
                          "%s, then start it with a fresh state_dir",
                          n.name, n.incarnation, o->incarnation, n.name);
    if (!names_fit(&w->s->view, i, &n))
        return too_much(w);
    n.state = o->state;
    n.drained = o->drained;
    n.voter = o->voter;
    if (n.state == NODE_DOWN)
        come_back(&n);
    *o = n;
    w->changed = true;
    return OK;
}

enum err state_join(struct work *w)
{
    enum err e = join_allowed(w);
    uint16_t i = view_find(&w->s->view, w->c->node.name);

    if (e != OK)
        return e;
    return i == NODE_NONE ? join_new(w) : join_again(w, i);
}

/* ---- Its state ---- */

/* Takes the node out of a slot: owners move up; a slot that loses its last one
 * goes to the node that has its blocks. */
static bool slot_leave(struct slot *s, uint16_t node)
{
    struct slot was = *s;
    uint32_t n = 0;

    for (uint32_t i = 0; i < VIEW_COPIES; i++)
        if (s->owner[i] != node)
            s->owner[n++] = s->owner[i];
    while (n < VIEW_COPIES)
        s->owner[n++] = NODE_NONE;
    if (s->from == node)
        s->from = NODE_NONE;
    if (s->to == node)
        s->to = NODE_NONE;
    if (s->owner[0] == NODE_NONE)
        s->owner[0] = s->from != NODE_NONE ? s->from : s->to;
    if (s->owner[0] == s->from)
        s->from = NODE_NONE;
    if (s->owner[0] == s->to || s->owner[0] == NODE_NONE)
        s->to = NODE_NONE;
    return memcmp(&was, s, sizeof(was)) != 0;
}

static void leave(struct work *w, uint16_t node)
{
    struct state *s = w->s;

    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        if (slot_leave(&s->view.slots[i], node))
            s->slot_epoch[i] = w->index;
    state_experts_drop(s, node);
    s->view.nodes[node].voter = false;
    s->view.nodes[node].drained = false;
}

static enum err no_way(struct work *w, const struct node *n, const char *fix)
{
    return errmsg_set(w->m, ERR_DENIED, "%s is %s and cannot become %s: %s",
                      n->name, node_state_name((enum node_state)n->state),
                      node_state_name((enum node_state)w->c->new_state), fix);
}

static enum err from_joining(struct work *w, struct node *n)
{
    if (w->c->new_state == NODE_DRAINING || w->c->flag)
        return no_way(w, n, "wait until it is UP by itself");
    n->state = w->c->new_state;
    return OK;
}

static enum err from_up(struct work *w, struct node *n)
{
    if (w->c->new_state == NODE_REMOVED)
        return no_way(w, n, "pikvctl node drain it first, or stop it");
    n->state = w->c->new_state;
    return OK;
}

static enum err from_draining(struct work *w, struct node *n)
{
    n->drained = w->c->new_state == NODE_DOWN;
    n->state = w->c->new_state;
    return OK;
}

static enum err from_down(struct work *w, struct node *n)
{
    if (w->c->new_state == NODE_REMOVED)
        n->state = NODE_REMOVED;
    else if (w->c->new_state == NODE_DRAINING)
        n->drained = true;
    else if (w->c->flag)
        n->drained = false;
    else
        come_back(n);
    return OK;
}

static enum err move(struct work *w, struct node *n)
{
    if (w->c->new_state == n->state)
        return OK;
    if (w->c->new_state == NODE_JOINING)
        return no_way(w, n, "only a new node joins");
    switch ((enum node_state)n->state) {
    case NODE_JOINING:
        return from_joining(w, n);
    case NODE_UP:
        return from_up(w, n);
    case NODE_DRAINING:
        return from_draining(w, n);
    case NODE_DOWN:
        return from_down(w, n);
    case NODE_REMOVED:
        return no_way(w, n, "start it again, it then joins as a new member");
    }
    MUST(false); /* no node has another state */
    return ERR_INTERNAL;
}

static enum err no_node(struct work *w)
{
    return errmsg_set(w->m, ERR_BAD_REQUEST,
                      "there is no node %u; pikvctl cluster nodes lists them",
                      w->c->index);
}

enum err state_set_state(struct work *w)
{
    struct view *v = &w->s->view;
    uint16_t i = w->c->index;
    struct node *n, was;
    enum err e;

    if (i >= v->node_n)
        return no_node(w);
    n = &v->nodes[i];
    if (w->c->incarnation != n->incarnation)
        return errmsg_set(w->m, ERR_STALE,
                          "%s is at incarnation %u, this is about %u: it was "
                          "started again meanwhile; look again",
                          n->name, n->incarnation, w->c->incarnation);
    was = *n;
    e = move(w, n);
    if (e != OK)
        return e;
    w->changed = was.state != n->state || was.drained != n->drained;
    if (w->changed && n->state == NODE_REMOVED)
        leave(w, i);
    return OK;
}

/* ---- Voters ---- */

enum err state_voter(struct work *w)
{
    struct view *v = &w->s->view;
    uint32_t voters = voter_count(v);
    struct node *n;

    if (w->c->index >= v->node_n)
        return no_node(w);
    n = &v->nodes[w->c->index];
    if (n->voter == w->c->flag)
        return OK;
    if (n->state == NODE_REMOVED)
        return errmsg_set(w->m, ERR_DENIED,
                          "%s was removed and cannot vote; choose a member",
                          n->name);
    if (w->c->flag && voters >= VIEW_VOTERS_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "there are %u voters already; take one off first",
                          voters);
    if (!w->c->flag && voters == 1)
        return errmsg_set(w->m, ERR_DENIED,
                          "%s is the last voter; make another node one first",
                          n->name);
    n->voter = w->c->flag;
    w->changed = true;
    return OK;
}

static enum err check_voters(struct work *w)
{
    const struct view *v = &w->s->view;
    const struct cmd *c = w->c;

    if (c->voter_n % 2 == 0)
        return errmsg_set(w->m, ERR_BAD_REQUEST,
                          "%u voters: an even number survives no more losses "
                          "than one less; list 1, 3, 5 or 7",
                          c->voter_n);
    for (uint32_t i = 0; i < c->voter_n; i++) {
        if (c->voters[i] >= v->node_n ||
            v->nodes[c->voters[i]].state == NODE_REMOVED)
            return errmsg_set(w->m, ERR_BAD_REQUEST,
                              "voter %u is no member; pikvctl cluster nodes "
                              "lists them",
                              c->voters[i]);
        for (uint32_t k = 0; k < i; k++)
            if (c->voters[k] == c->voters[i])
                return errmsg_set(w->m, ERR_BAD_REQUEST,
                                  "voter %s is listed twice; list each once",
                                  v->nodes[c->voters[i]].name);
    }
    return OK;
}

enum err state_generation(struct work *w)
{
    struct view *v = &w->s->view;
    enum err e = check_voters(w);

    if (e != OK)
        return e;
    if (w->c->level && w->c->level != v->generation)
        return errmsg_set(w->m, ERR_STALE,
                          "planned on generation %u but it is %u: somebody "
                          "else recovered the cluster; look again",
                          w->c->level, v->generation);
    for (uint32_t i = 0; i < v->node_n; i++)
        v->nodes[i].voter = false;
    for (uint32_t i = 0; i < w->c->voter_n; i++)
        v->nodes[w->c->voters[i]].voter = true;
    v->generation++;
    w->changed = true;
    return OK;
}

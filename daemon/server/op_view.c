/* SPDX-License-Identifier: Apache-2.0
 *
 * VIEW: who is in the cluster and who has which slot, as this lane knows it.
 * One tick, no sleep.
 *
 *   have = what the lane has   epoch and generation, nothing else
 *   no view (a single node)    epoch 0
 *   else                       nodes from first_node on, as many as fit; when
 *                              all of them are told, slots from offset on
 *
 * A client asks until next_node is 0 and it has slots_bytes of slots, each time
 * from where it is and naming the epoch of the first piece; if the view changed
 * meanwhile it is told from the beginning, by another epoch. Removed nodes are
 * not told: no slot and no result names them. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "server/peer.h"

enum {
    VIEW_ROW = 2 + sizeof(struct slot), /* u16 count - 1, then the slot */
    VIEW_NODE_BYTES = 128, /* packed, beside its texts and lanes */
    VIEW_LANE_BYTES = 24,
    VIEW_FIXED_BYTES = 256,
};

struct view_op {
    struct op *op;
    const struct view *v;
    size_t room; /* bytes of the reply that are left */
    Pikv__ViewReply rep;
    Pikv__ViewNode *nodes[NODES_MAX];
};
static_assert(sizeof(struct view_op) + WIRE_RECORD <= OP_MSG_BYTES / 4,
              "leaves room for what it points to");

/* ---- Nodes --------------------------------------------------------------- */

/* "PATH" of lane 0, "PATH.i" of the others. */
static char *view_shm(struct arena *a, const struct node *n, uint32_t lane)
{
    char text[NODE_ADDR_MAX + 16];

    snprintf(text, sizeof text, lane && n->shm[0] ? "%s.%u" : "%s", n->shm,
             lane);
    return msg_str(a, text);
}

/* The port of lane 0, and the next ones. */
static char *view_ucx(struct arena *a, const struct node *n, uint32_t lane)
{
    const char *colon = strrchr(n->ucx, ':');
    char text[NODE_ADDR_MAX + 16] = "";
    unsigned port;

    if (colon && sscanf(colon + 1, "%5u", &port) == 1)
        snprintf(text, sizeof text, "%.*s:%u", (int)(colon - n->ucx), n->ucx,
                 port + lane);
    return msg_str(a, text);
}

static size_t view_node_bytes(const struct node *n)
{
    return VIEW_NODE_BYTES + strlen(n->name) + strlen(n->zone) +
           strlen(n->rack) + strlen(n->peer) +
           n->lane_n * (VIEW_LANE_BYTES + strlen(n->shm) + strlen(n->ucx));
}

/* NULL: the arena is full. */
static Pikv__Lane **view_lanes(struct arena *a, const struct node *n)
{
    Pikv__Lane **lanes = arena_alloc(a, n->lane_n * sizeof *lanes);

    for (uint32_t i = 0; lanes && i < n->lane_n; i++) {
        lanes[i] = arena_alloc(a, sizeof **lanes);
        if (!lanes[i])
            return NULL;
        pikv__lane__init(lanes[i]);
        lanes[i]->shm = view_shm(a, n, i);
        lanes[i]->ucx = view_ucx(a, n, i);
        lanes[i]->numa_node = -1;
        if (!lanes[i]->shm || !lanes[i]->ucx)
            return NULL;
    }
    return lanes;
}

static char *view_state(struct arena *a, enum node_state s)
{
    char *text = msg_str(a, node_state_name(s));

    for (char *c = text; c && *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return text;
}

Pikv__ViewNode *view_node_msg(struct arena *a, const struct node *n,
                              uint32_t index)
{
    Pikv__ViewNode *m = arena_alloc(a, sizeof *m);

    if (!m)
        return NULL;
    pikv__view_node__init(m);
    m->index = index;
    m->name = msg_str(a, n->name);
    m->lanes = view_lanes(a, n);
    m->n_lanes = n->lane_n;
    m->zone = msg_str(a, n->zone);
    m->rack = msg_str(a, n->rack);
    m->peer = msg_str(a, n->peer);
    m->state = view_state(a, (enum node_state)n->state);
    m->incarnation = n->incarnation;
    m->host = n->host;
    m->weight_mib = n->weight;
    m->voter = n->voter;
    return m->name && m->lanes && m->zone && m->rack && m->peer && m->state
               ? m
               : NULL;
}

/* false: not all of them fitted, next_node says where to go on. */
static bool view_nodes(struct view_op *vo, uint32_t first)
{
    for (uint32_t i = first; i < vo->v->node_n; i++) {
        const struct node *n = &vo->v->nodes[i];
        size_t bytes = view_node_bytes(n);
        Pikv__ViewNode *m;

        if (n->state == NODE_REMOVED)
            continue;
        m = bytes <= vo->room ? view_node_msg(&vo->op->arena, n, i) : NULL;
        if (!m) {
            vo->rep.next_node = i;
            return false;
        }
        vo->room -= bytes;
        vo->nodes[vo->rep.n_nodes++] = m;
    }
    return true;
}

/* ---- Slots --------------------------------------------------------------- */

static uint32_t view_run(const struct slot *slots, uint32_t at)
{
    uint32_t n = 1;

    while (at + n < WIRE_SLOTS &&
           memcmp(&slots[at], &slots[at + n], sizeof *slots) == 0)
        n++;
    return n;
}

static void view_row(uint8_t *to, uint32_t run, const struct slot *s)
{
    uint16_t n = (uint16_t)(run - 1);

    memcpy(to, &n, sizeof n);
    memcpy(to + sizeof n, s, sizeof *s);
}

/* From byte offset on as much as there is room for. */
static void view_slots(struct view_op *vo, uint64_t offset)
{
    uint64_t first = offset / VIEW_ROW, rows = vo->room / VIEW_ROW, row = 0;
    uint8_t *to = arena_alloc(&vo->op->arena, rows * VIEW_ROW);
    uint64_t told = 0;

    if (!to) /* said again from here on, with fewer nodes beside it */
        rows = 0;
    for (uint32_t at = 0; at < WIRE_SLOTS; row++) {
        uint32_t run = view_run(vo->v->slots, at);

        if (row >= first && told < rows)
            view_row(to + told++ * VIEW_ROW, run, &vo->v->slots[at]);
        at += run;
    }
    vo->rep.slots.data = to;
    vo->rep.slots.len = told * VIEW_ROW;
    vo->rep.offset = first * VIEW_ROW;
    vo->rep.slots_bytes = row * VIEW_ROW;
}

/* ---- The whole ----------------------------------------------------------- */

static void view_tell(struct view_op *vo, const Pikv__ViewRequest *m)
{
    const struct view *v = vo->v;
    bool same =
        m->have_epoch == v->epoch && m->have_generation == v->generation;
    bool piece = m->offset || m->first_node;
    uint64_t offset = same ? m->offset : 0;
    uint32_t first = same ? m->first_node : 0;

    vo->rep.epoch = v->epoch;
    vo->rep.generation = v->generation;
    vo->rep.cluster = v->cluster;
    vo->rep.self = vo->op->lane->self_node;
    if (same && !piece)
        return;
    if (same && m->offset && !m->first_node)
        first = v->node_n; /* they are known */
    if (view_nodes(vo, first))
        view_slots(vo, offset);
}

static void view_tick(struct op *op)
{
    const Pikv__ViewRequest *m = op_unpack(op, &pikv__view_request__descriptor);
    struct view_op *vo = arena_zalloc(&op->arena, sizeof *vo);

    MUST(vo);
    if (!m) {
        op_reply(op, ERR_BAD_REQUEST);
        return;
    }
    vo->op = op;
    vo->v = op->lane->view;
    vo->room = min_u64(op->lane->limits.message_bytes, OP_MSG_BYTES / 4) -
               VIEW_FIXED_BYTES;
    pikv__view_reply__init(&vo->rep);
    vo->rep.nodes = vo->nodes;
    if (vo->v)
        view_tell(vo, m);
    op_reply_msg(op, OK, &vo->rep);
}

const struct op_machine view_machine = {view_tick, {{"DO", 0}}};

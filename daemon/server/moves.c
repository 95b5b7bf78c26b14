/* SPDX-License-Identifier: Apache-2.0
 *
 * Moving slots as lanes and the puller see them (moves.h). */
#include "server/moves.h"

#include "server/lane.h"
#include "server/owner.h"

enum {
    MOVES_STEP = 4096, /* places looked at in a turn */
    MOVES_DROPS = 64,  /* blocks dropped in it */
};

void moves_set(uint64_t *words, uint32_t slot, bool on)
{
    uint64_t bit = UINT64_C(1) << slot % 64;

    if (on)
        __atomic_fetch_or(&words[slot / 64], bit, __ATOMIC_RELEASE);
    else
        __atomic_fetch_and(&words[slot / 64], ~bit, __ATOMIC_RELEASE);
}

/* ---- the view's rules ---- */

uint32_t moves_rank(const struct view *v, uint32_t slot, uint16_t self)
{
    uint32_t k = 0;

    while (k < VIEW_COPIES && v->slots[slot].owner[k] != self)
        k++;
    return k;
}

bool moves_holds(const struct view *v, uint32_t slot, uint16_t self)
{
    const struct slot *s = &v->slots[slot];

    if (self == NODE_NONE)
        return true; /* not known yet: nothing is let go */
    return moves_rank(v, slot, self) < VIEW_COPIES || s->from == self ||
           s->to == self;
}

static bool answers(const struct view *v, uint16_t node)
{
    return node < v->node_n && node_serves(&v->nodes[node]);
}

/* The home itself may have lost them (its predecessor is gone for good): then
 * the other owners have those with copies. */
static uint16_t other_owner(const struct view *v, uint32_t slot)
{
    for (uint32_t k = 1; k < VIEW_COPIES; k++)
        if (answers(v, v->slots[slot].owner[k]))
            return v->slots[slot].owner[k];
    return NODE_NONE;
}

struct moves_need moves_need(const struct view *v, uint32_t slot, uint16_t self)
{
    const struct slot *s = &v->slots[slot];
    uint32_t rank = moves_rank(v, slot, self);
    uint16_t home = view_serving(v, slot);
    struct moves_need n = {MOVES_NOTHING, NODE_NONE, 1};

    if (self == NODE_NONE)
        return n;
    if (s->to == self && home != self) {
        n = (struct moves_need){MOVES_IN, home, 1};
    } else if (rank == 0 && s->from != NODE_NONE) {
        n = (struct moves_need){MOVES_REST,
                                answers(v, s->from) ? s->from : NODE_NONE, 1};
    } else if (rank == 0) {
        n = (struct moves_need){MOVES_COPY, other_owner(v, slot), 2};
    } else if (rank < VIEW_COPIES && home != self) {
        n = (struct moves_need){MOVES_COPY, home,
                                s->heat >= rank ? 1 : (uint8_t)(rank + 1)};
    }
    if (n.source == NODE_NONE || n.source == self)
        n.why = MOVES_NOTHING;
    return n;
}

/* ---- a lane's part ---- */

enum err moves_lane_init(struct lane *l)
{
    return drops_init(&l->mv.drops);
}

void moves_lane_fini(struct lane *l)
{
    drops_fini(&l->mv.drops);
}

void moves_dropped(struct lane *l, const struct wire_batch *head,
                   const struct store_key *k)
{
    if (l->moves && !(head->flags & BATCH_DEMOTE) &&
        moves_bit(l->moves->brings, owner_slot(&l->ns[k->ns], k)))
        drops_key(&l->mv.drops, k, l->env.now_ns);
}

static bool brings_any(const struct moves *m)
{
    for (uint32_t i = 0; i < MOVES_WORDS; i++)
        if (__atomic_load_n(&m->brings[i], __ATOMIC_RELAXED))
            return true;
    return false;
}

void moves_dropped_by(struct lane *l, const struct wire_batch *head,
                      const uint64_t *labels, const uint8_t *scope)
{
    if (l->moves && !(head->flags & BATCH_DEMOTE) &&
        head->select != SELECT_KEYS && brings_any(l->moves))
        drops_select(&l->mv.drops, head->ns, (enum wire_select)head->select,
                     labels, scope, l->env.now_ns);
}

enum err moves_check(struct lane *l, const struct store_key *k,
                     const struct wire_attr *attr)
{
    enum err e = OK;

    if (l->moves)
        e = drops_check(&l->mv.drops, k, attr, l->env.now_ns);
    if (e)
        metric_add(&l->metrics.pull_refused, 1);
    return e;
}

bool moves_stale(const struct lane *l, const struct wire_batch *head,
                 const struct store_key *k)
{
    uint16_t all[VIEW_COPIES + 2];

    if (!l->view || head->flags & BATCH_HERE || head->epoch == 0 ||
        head->epoch >= l->epoch)
        return false;
    return view_holders(l->view, owner_slot(&l->ns[k->ns], k), all) > 1 ||
           all[0] != l->self_node;
}

/* ---- the sweep ---- */

struct moves_sweep {
    struct lane *l;
    uint32_t left;
};

/* What was copied here for its heat only; of a block on the SSD whose record
 * says more than its key it is not known, and that one stays. */
static bool sweep_cooled(const struct lane *l, uint32_t block, uint32_t rank)
{
    struct store_info i;
    uint64_t copies;

    if (!store_attr_known(l->store, block))
        return false;
    store_info(l->store, block, &i);
    copies = i.attr.replicas ? i.attr.replicas : l->cfg->cluster.replicas;
    return i.found == FOUND_HIT && copies <= rank;
}

static bool sweep_visit(struct store *s, uint32_t block, void *arg)
{
    struct moves_sweep *w = arg;
    const struct lane *l = w->l;
    uint32_t slot = store_route(s, block);
    uint32_t rank = moves_rank(l->view, slot, l->self_node);
    bool go = !moves_holds(l->view, slot, l->self_node);

    if (w->left == 0)
        return false;
    if (!go && rank > 0 && rank < VIEW_COPIES &&
        l->view->slots[slot].heat < rank && moves_bit(l->moves->cools, slot))
        go = sweep_cooled(l, block, rank);
    if (go) {
        w->left--;
        store_drop_moved(s, block);
    }
    return true;
}

static void sweep_begin(struct lane *l, uint64_t sweep)
{
    struct lane_moves *mv = &l->mv;

    mv->seen = sweep;
    mv->cursor = 0;
    mv->sweeping = true;
    for (uint32_t i = 0; i < MOVES_WORDS; i++)
        mv->slots[i] = __atomic_load_n(&l->moves->leaves[i], __ATOMIC_RELAXED) |
                       __atomic_load_n(&l->moves->cools[i], __ATOMIC_RELAXED);
}

bool moves_turn(struct lane *l)
{
    struct lane_moves *mv = &l->mv;
    struct moves_sweep w = {l, MOVES_DROPS};
    uint64_t sweep;

    if (!l->moves || !l->view || l->closing)
        return false;
    sweep = __atomic_load_n(&l->moves->sweep, __ATOMIC_ACQUIRE);
    if (sweep != mv->seen)
        sweep_begin(l, sweep); /* anew: slots may have come to it */
    if (!mv->sweeping)
        return false;
    mv->cursor = store_walk_routes(l->store, mv->cursor, MOVES_STEP, mv->slots,
                                   sweep_visit, &w);
    mv->sweeping = mv->cursor != 0;
    return mv->sweeping;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the view asks for, slot by slot, and what lanes are told of it
 * (moves.h).
 *
 *     view --moves_need--> slot_job: DUE ... DONE
 *     view --moves_holds-> away since; a grace later: leaves
 *     heat fell ---------> cools
 *
 * A slot whose need did not change keeps its state over a new view: one that
 * is DONE is said again, for who was told may not be there any more. */
#include "server/puller_impl.h"

static uint32_t now_s(const struct puller *p)
{
    return (uint32_t)(p->now_ns / NS_PER_S) + 1;
}

static void sweep(struct puller *p)
{
    __atomic_fetch_add(&p->moves.sweep, 1, __ATOMIC_RELEASE);
}

static void tell(struct puller *p, uint32_t slot, uint64_t epoch)
{
    if (p->cfg.moved)
        p->cfg.moved(p->cfg.arg, slot, epoch);
}

static void brings(struct puller *p, uint32_t slot)
{
    const struct slot_job *j = &p->slots[slot];

    moves_set(p->moves.brings, slot,
              j->why != MOVES_NOTHING &&
                  (j->why != MOVES_COPY || j->state != SLOT_DONE));
}

/* ---- a new view ---- */

static void review_need(struct puller *p, uint32_t slot, const struct view *v,
                        bool was_home)
{
    struct slot_job *j = &p->slots[slot];
    struct moves_need n = moves_need(v, slot, p->self);

    /* Who was the home has what its copies have. */
    if (n.why == MOVES_COPY && was_home)
        n.why = MOVES_NOTHING;
    if (n.why == j->why &&
        (n.why == MOVES_NOTHING ||
         (n.source == j->source && n.copies_min >= j->copies_min))) {
        if (j->state == SLOT_DONE && n.why != MOVES_COPY && n.why)
            tell(p, slot, v->epoch);
        j->copies_min = n.copies_min;
        return;
    }
    j->why = n.why;
    j->source = n.source;
    j->copies_min = n.copies_min;
    j->tries = 0;
    j->state = n.why ? SLOT_DUE : SLOT_IDLE;
    if (n.why == MOVES_COPY && p->copy_due_ns <= p->now_ns)
        p->copy_due_ns = p->now_ns + PULLER_COPY_MS * NS_PER_MS;
    brings(p, slot);
}

/* At the first view this daemon has just begun: what it found on its SSDs and
 * is another's goes at once. */
static void review_away(struct puller *p, uint32_t slot, const struct view *v)
{
    struct slot_job *j = &p->slots[slot];

    if (!moves_holds(v, slot, p->self)) {
        if (!j->away_s)
            j->away_s = p->has_view ? now_s(p) : 1;
        return;
    }
    j->away_s = 0;
    moves_set(p->moves.leaves, slot, false);
}

static bool was_hot_here(const struct puller *p, uint32_t slot, uint32_t rank)
{
    return p->has_view && p->view.slots[slot].heat >= rank &&
           moves_rank(&p->view, slot, p->self) == rank;
}

/* true: its blocks that were copied here for heat may go. */
static bool review_heat(struct puller *p, uint32_t slot, const struct view *v)
{
    uint32_t rank = moves_rank(v, slot, p->self);
    bool copies = rank > 0 && rank < VIEW_COPIES;
    bool cooled =
        copies && v->slots[slot].heat < rank && was_hot_here(p, slot, rank);

    if (!copies || v->slots[slot].heat >= rank)
        moves_set(p->moves.cools, slot, false);
    if (cooled)
        moves_set(p->moves.cools, slot, true);
    return cooled;
}

static uint64_t flushes(const struct view *v)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < v->flush_n; i++)
        n += v->flushes[i].count;
    return n;
}

static void review_flushes(struct puller *p, const struct view *v)
{
    if (p->has_view && flushes(v) == flushes(&p->view))
        return;
    p->serial++;
    p->flush_epoch = v->epoch;
}

void slots_view(struct puller *p, const struct view *v, uint16_t self)
{
    bool cooled = false;

    if (p->self != self)
        p->has_view = false;
    p->self = self;
    review_flushes(p, v);
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        bool was_home = p->has_view && moves_rank(&p->view, i, self) == 0;

        review_need(p, i, v, was_home);
        review_away(p, i, v);
        cooled |= review_heat(p, i, v);
    }
    if (view_copy(&p->view, v)) /* as if it had not been told */
        return;
    p->has_view = true;
    p->second_ns = p->look_ns = 0;
    if (cooled)
        sweep(p);
}

/* ---- once a second ---- */

void slots_tick(struct puller *p)
{
    uint64_t grace_s = p->cfg.cfg->cluster.move_grace_us / 1000000;
    uint32_t left = 0;
    bool more = false;

    for (uint32_t i = 0; p->has_view && i < WIRE_SLOTS; i++) {
        const struct slot_job *j = &p->slots[i];

        left += j->why && j->why != MOVES_COPY && j->state != SLOT_DONE;
        if (!j->away_s || (j->away_s > 1 && now_s(p) - j->away_s < grace_s) ||
            moves_bit(p->moves.leaves, i))
            continue;
        moves_set(p->moves.leaves, i, true);
        more = true;
    }
    __atomic_store_n(&p->stats.slots_left, left, __ATOMIC_RELAXED);
    if (more)
        sweep(p);
}

/* ---- passes ---- */

static bool job_due(const struct puller *p, const struct slot_job *j)
{
    return j->state == SLOT_DUE &&
           (j->why != MOVES_COPY || p->now_ns >= p->copy_due_ns);
}

/* The source can be asked now. */
static struct link *job_link(struct puller *p, const struct slot_job *j)
{
    struct link *l = link_get(p, j->source);

    if (!l)
        return NULL;
    link_want_open(l);
    return l->state == LINK_OPEN && p->now_ns >= l->retry_ns ? l : NULL;
}

/* Slots that move go before copies. */
static const struct slot_job *job_find(struct puller *p, bool copies,
                                       struct link **link_out)
{
    uint16_t vain = NODE_NONE;

    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        uint32_t slot = (p->source_hand + i) % WIRE_SLOTS;
        const struct slot_job *j = &p->slots[slot];

        if (j->source == vain || (j->why == MOVES_COPY) != copies ||
            !job_due(p, j))
            continue;
        *link_out = job_link(p, j);
        if (*link_out) {
            p->source_hand = slot + 1;
            return j;
        }
        vain = j->source; /* the next one is of another, as a rule */
    }
    return NULL;
}

bool slots_pass(struct puller *p)
{
    struct link *l = NULL;
    const struct slot_job *first;
    struct pass *s = &p->pass;

    if (p->now_ns < p->look_ns)
        return false;
    first = job_find(p, false, &l);
    if (!first)
        first = job_find(p, true, &l);
    if (!first) {
        p->look_ns = p->now_ns + PULLER_LOOK_MS * NS_PER_MS;
        return false;
    }
    *s = (struct pass){.active = true,
                       .link = l,
                       .copies_min = first->copies_min,
                       .min_epoch = p->flush_epoch};
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        struct slot_job *j = &p->slots[i];

        if (!job_due(p, j) || j->source != first->source ||
            j->copies_min != first->copies_min ||
            (j->why == MOVES_COPY) != (first->why == MOVES_COPY))
            continue;
        j->state = SLOT_BUSY;
        s->slots[i / 64] |= UINT64_C(1) << i % 64;
        /* What came late comes no more once it knows that it is no home. */
        if (j->why == MOVES_REST)
            s->min_epoch = p->view.epoch;
    }
    return true;
}

void slots_done(struct puller *p, const struct pass *s)
{
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        struct slot_job *j = &p->slots[i];

        if (!(s->slots[i / 64] >> i % 64 & 1) || j->state != SLOT_BUSY)
            continue; /* or it is another's by now */
        if (s->broken || (s->partial && ++j->tries < PULLER_TRIES)) {
            j->state = SLOT_DUE;
            continue;
        }
        j->state = SLOT_DONE;
        brings(p, i);
        if (j->why != MOVES_COPY)
            tell(p, i, p->view.epoch); /* by it, too, nothing changed */
    }
}

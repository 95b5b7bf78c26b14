/* SPDX-License-Identifier: Apache-2.0
 *
 * The fan-out tree (fanout.h). An order is index * odd modulo a power of two: a
 * bijection, undone by the inverse, that scatters the places without a node. */
#include "cluster/fanout.h"

struct tree {
    const struct view *v;
    uint32_t mask, degree, inverse;
    uint16_t self;
    uint16_t *out;
    uint32_t n;
};

static const uint32_t orders[FANOUT_TURNS] = {1, 0x6a5, 0xb57, 0x3ad};

/* Of an odd number modulo 2^32: Newton's steps double the right bits. */
static uint32_t inverse_of(uint32_t odd)
{
    uint32_t x = odd;

    for (uint32_t i = 0; i < 4; i++)
        x *= 2 - odd * x;
    return x;
}

/* The places first .. first + degree - 1, or what is below those that are not
 * taken. As deep as the tree at most: first grows by the degree each time. */
static void add_places(struct tree *t, uint64_t first)
{
    for (uint64_t p = first; p < first + t->degree && p <= t->mask; p++) {
        uint32_t i = ((uint32_t)p * t->inverse) & t->mask;

        if (i < t->v->node_n && node_serves(&t->v->nodes[i])) {
            if (i != t->self)
                t->out[t->n++] = (uint16_t)i;
        } else {
            add_places(t, t->degree * (p + 1));
        }
    }
}

uint32_t fanout_children(const struct view *v, uint16_t self, bool root,
                         uint32_t degree, uint16_t *out)
{
    uint32_t order = orders[v->epoch % FANOUT_TURNS];
    struct tree t = {v, 1, degree, inverse_of(order), self, out, 0};

    MUST(degree >= 1 && degree <= FANOUT_DEGREE_MAX);
    while (t.mask < v->node_n)
        t.mask *= 2;
    t.mask--;
    if (root)
        add_places(&t, 0);
    if (self < v->node_n && node_serves(&v->nodes[self]))
        add_places(&t, (uint64_t)degree * (((self * order) & t.mask) + 1));
    return t.n;
}

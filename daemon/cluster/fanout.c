/* SPDX-License-Identifier: Apache-2.0
 *
 * The fan-out tree (fanout.h). */
#include "cluster/fanout.h"

static uint32_t places(const struct view *v, uint16_t *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < v->node_n; i++)
        if (node_serves(&v->nodes[i]))
            out[n++] = (uint16_t)i;
    return n;
}

uint32_t fanout_children(const struct view *v, uint16_t self, bool root,
                         uint32_t degree, uint16_t *out)
{
    uint16_t at[NODES_MAX];
    uint32_t n = places(v, at), n_out = 0, own = UINT32_MAX;
    uint32_t turn = (uint32_t)(v->epoch % FANOUT_TURNS) * n / FANOUT_TURNS;

    MUST(degree >= 1 && degree <= FANOUT_DEGREE_MAX);
    for (uint32_t i = 0; i < n && own == UINT32_MAX; i++)
        if (at[i] == self)
            own = (i + n - turn) % n;
    for (uint32_t p = 0; root && p < degree && p < n; p++)
        if (p != own)
            out[n_out++] = at[(p + turn) % n];
    for (uint32_t k = 0; own != UINT32_MAX && k < degree; k++) {
        uint64_t p = (uint64_t)degree * (own + 1) + k;

        if (p < n)
            out[n_out++] = at[(p + turn) % n];
    }
    return n_out;
}

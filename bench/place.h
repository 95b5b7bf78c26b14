/* SPDX-License-Identifier: Apache-2.0
 *
 * The two halves of `pikv-bench place` share a view that is driven by hand. */
#ifndef BENCH_PLACE_H
#define BENCH_PLACE_H

#include "cluster/balance.h"

enum { PLACE_NODES_MAX = 64 };

/* Nodes of equal weight, all slots placed; one more node lies ready behind
 * v->node_n. False: no memory (free it all the same). */
bool place_view(struct view *v, uint32_t nodes);
void place_view_free(struct view *v);
/* All moves that are under way are done. */
void place_moves_end(struct view *v);

int bench_place_trace(const char *path, uint32_t nodes);

#endif

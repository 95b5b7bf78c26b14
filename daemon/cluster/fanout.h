/* SPDX-License-Identifier: Apache-2.0
 *
 * The tree by which a new view travels from the leader to everybody.
 *
 *     leader --> places 0 .. d-1 --> places d .. d*d+d-1 --> ...
 *
 * Places are the members that serve, in index order, turned by a quarter with
 * each epoch: who is slow or cut off stands above others in one of four trees
 * only, and nobody needs links to more than four times the degree. A place p
 * hands on to the places d*(p+1) .. d*(p+1)+d-1. The leader has its own place
 * as well and does what it asks.
 *
 * Pure: everybody computes it from the view that is handed on. A push that is
 * lost is repaired by the next BeatReply (cluster_view.c). */
#ifndef CLUSTER_FANOUT_H
#define CLUSTER_FANOUT_H

#include "cluster/view.h"

enum { FANOUT_TURNS = 4, FANOUT_DEGREE_MAX = 64 };

/* To whom self hands v on; root: self is the leader and begins. out has
 * 2 * degree places; self is never among them. Returns how many. */
uint32_t fanout_children(const struct view *v, uint16_t self, bool root,
                         uint32_t degree, uint16_t *out);

#endif

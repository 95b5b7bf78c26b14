/* SPDX-License-Identifier: Apache-2.0
 *
 * The tree by which a new view travels from the leader to everybody.
 *
 *     leader --> places 0 .. d-1 --> places d .. d*d+d-1 --> ...
 *
 * A place p hands on to the places d*(p+1) .. d*(p+1)+d-1. There are as many
 * places as the next power of two of the nodes' indexes; a node's place follows
 * from its index and from the epoch, which takes turns between four orders: who
 * is slow or cut off stands above others in some of them only. Where nobody
 * stands who serves, the place above does its work. So a node that comes or
 * goes changes only its own links in the tree, and nobody needs many more than
 * four times the degree. The leader has a place as well and does what it asks.
 *
 * Pure: everybody computes it from the view that is handed on. A push that is
 * lost is repaired by the next BeatReply (cluster_view.c). */
#ifndef CLUSTER_FANOUT_H
#define CLUSTER_FANOUT_H

#include "cluster/view.h"

enum { FANOUT_TURNS = 4, FANOUT_DEGREE_MAX = 64 };

/* To whom self hands v on; root: self is the leader and begins. out has
 * NODES_MAX places; self is never among them. Returns how many. */
uint32_t fanout_children(const struct view *v, uint16_t self, bool root,
                         uint32_t degree, uint16_t *out);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Between nodes_view.c, which fetches the view, and nodes.c. */
#ifndef CLIENT_NODES_VIEW_H
#define CLIENT_NODES_VIEW_H

#include "client/nodes.h"

/* The view in force is another one: what of the peers is not as it was. */
void nodes_follow(struct pikv *kv, const struct cview *before);

#endif

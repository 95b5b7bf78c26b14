/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the view, of commands and of the state share: a node as
 * bytes, and the check of names. */
#ifndef CLUSTER_VIEW_IMPL_H
#define CLUSTER_VIEW_IMPL_H

#include "cluster/view.h"

enum {
    NODE_FIXED = 32,                 /* bytes of the integers */
    NODE_BYTES_MIN = NODE_FIXED + 6, /* six texts */
    NODE_BYTES_MAX = NODE_FIXED + 3 * NODE_NAME_MAX + 3 * NODE_ADDR_MAX,
};

/* Integers, then texts with a byte of length; returns how many bytes. */
size_t node_pack(const struct node *n, uint8_t out[NODE_BYTES_MAX]);
void bytes_put_node(struct bytes *b, const struct node *n);
/* s is bad unless a node was there that view_node_wrong accepts. */
void bytes_get_node(struct slice *s, struct node *n);
bool node_equal(const struct node *a, const struct node *b);

/* Do members that are not REMOVED all have names of their own? */
bool names_differ(const struct node *const *at, uint32_t n);

#endif

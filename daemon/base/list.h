/* SPDX-License-Identifier: Apache-2.0
 *
 * Intrusive doubly linked list. A node is in at most one list; an unlinked
 * node points to itself, so list_del() twice is harmless. The owner of the
 * struct that embeds the node owns the node. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/base.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_add_tail(struct list *head, struct list *n)
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}

static inline void list_add_head(struct list *head, struct list *n)
{
    list_add_tail(head->next, n);
}

static inline void list_del(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

/* First node removed, or NULL. */
static inline struct list *list_pop(struct list *head)
{
    struct list *n = head->next;

    if (n == head)
        return NULL;
    list_del(n);
    return n;
}

#define LIST_FOREACH(n, head)                                                  \
    for (struct list *n = (head)->next; n != (head); n = n->next)
/* The body may unlink n. */
#define LIST_FOREACH_SAFE(n, head)                                             \
    for (struct list *n = (head)->next, *n##_next = n->next; n != (head);      \
         n = n##_next, n##_next = n->next)

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The only door between threads: a list under a mutex. The mutex is held for a
 * few stores, never while a message runs and never while the receiver is
 * woken.
 *
 *  1. n is the length of q and at most cap.
 *  2. A message is in one mailbox at most; it is unlinked before its fn runs,
 *     so fn may post it again, here or elsewhere, or give its memory back.
 *  3. Messages of one sender run in the order they were posted.
 *
 * wake runs on the sender's thread for the first message into an empty
 * mailbox: the receiver is asked to run until mailbox_run() returns less than
 * its max, so later messages need no second wake. */
#include "base/mailbox.h"

void mailbox_init(struct mailbox *b, uint32_t cap, void (*wake)(void *),
                  void *wake_arg)
{
    MUST(cap > 0);
    *b = (struct mailbox){.cap = cap, .wake = wake, .wake_arg = wake_arg};
    MUST(pthread_mutex_init(&b->mu, NULL) == 0);
    list_init(&b->q);
}

/* Messages still inside would be lost with their senders waiting: a MUST. */
void mailbox_fini(struct mailbox *b)
{
    if (b->cap == 0)
        return;
    MUST(b->n == 0);
    MUST(pthread_mutex_destroy(&b->mu) == 0);
    *b = (struct mailbox){0};
}

enum err mailbox_post(struct mailbox *b, struct mail *m)
{
    bool full, first;

    MUST(m->fn);
    pthread_mutex_lock(&b->mu);
    full = b->n == b->cap;
    first = b->n == 0;
    if (!full) {
        list_add_tail(&b->q, &m->node);
        b->n++;
    }
    pthread_mutex_unlock(&b->mu);
    if (full)
        return ERR_BUSY;
    if (first && b->wake)
        b->wake(b->wake_arg);
    return OK;
}

static struct mail *mailbox_take(struct mailbox *b)
{
    struct list *node;

    pthread_mutex_lock(&b->mu);
    node = list_pop(&b->q);
    if (node)
        b->n--;
    pthread_mutex_unlock(&b->mu);
    return node ? container_of(node, struct mail, node) : NULL;
}

uint32_t mailbox_run(struct mailbox *b, void *receiver, uint32_t max)
{
    struct mail *m;
    uint32_t ran = 0;

    while (ran < max && (m = mailbox_take(b))) {
        m->fn(m, receiver);
        ran++;
    }
    return ran;
}

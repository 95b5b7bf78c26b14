/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded queue of messages from many threads to one: the only door between
 * threads. Messages are embedded in their sender's struct; ownership passes
 * with the post and comes back when the receiver posts it back or runs done.
 * The wake callback is uv_async_send in the daemon and nothing in the
 * simulator. */
#ifndef BASE_MAILBOX_H
#define BASE_MAILBOX_H

#include <pthread.h>

#include "base/err.h"
#include "base/list.h"

struct mail;
typedef void mail_fn(struct mail *m, void *receiver);

struct mail {
    struct list node;
    mail_fn *fn; /* run by the receiver's thread */
};

struct mailbox {
    pthread_mutex_t mu;
    struct list q;
    uint32_t n, cap;
    void (*wake)(void *arg);
    void *wake_arg;
};

void mailbox_init(struct mailbox *b, uint32_t cap, void (*wake)(void *),
                  void *wake_arg);
void mailbox_fini(struct mailbox *b);
/* Any thread. ERR_BUSY when full: the message stays the sender's. */
must_check enum err mailbox_post(struct mailbox *b, struct mail *m);
/* The receiver's thread: runs at most max messages, returns how many. */
uint32_t mailbox_run(struct mailbox *b, void *receiver, uint32_t max);

#endif

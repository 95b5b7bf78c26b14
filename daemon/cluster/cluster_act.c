/* SPDX-License-Identifier: Apache-2.0
 *
 * Actions of the node core: a ring, and one buffer with the bytes that they
 * send. The buffer begins anew when a step finds no actions left, so bytes of a
 * taken action are valid until the next step; adding may move the buffer, which
 * is why cluster_next computes the pointers.
 *
 * No memory: the action is lost, like a message on a link that broke; answers
 * to tickets are then lost too, and the shell's own deadline ends the call. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/cluster_impl.h"

void cl_act_begin(struct cluster *c)
{
    if (c->acts.n == 0)
        c->acts.bytes.len = 0;
    c->acts.bytes.bad = false;
}

static struct cl_act *act_new(struct cluster *c, enum cluster_action_kind kind)
{
    struct cl_acts *a = &c->acts;
    struct cl_act *to;

    if (a->n == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 64;
        struct cl_act *ring =
            fault_here("cl_act") ? NULL : calloc(cap, sizeof(*ring));

        if (!ring)
            return NULL;
        for (uint32_t i = 0; i < a->n; i++)
            ring[i] = a->ring[(a->first + i) % a->cap];
        free(a->ring);
        a->ring = ring;
        a->first = 0;
        a->cap = cap;
    }
    to = &a->ring[(a->first + a->n++) % a->cap];
    *to = (struct cl_act){.kind = kind};
    return to;
}

/* Outside of a step the shell must be told that there is something. */
static void act_wake(struct cluster *c)
{
    if (c->cfg.wake)
        c->cfg.wake(c->cfg.wake_arg);
}

static void act_bytes(struct cluster *c, struct cl_act *a, const void *p,
                      size_t n)
{
    a->at = c->acts.bytes.len;
    bytes_put(&c->acts.bytes, p, n);
    a->n = n;
}

void cl_act_send(struct cluster *c, uint64_t link, uint16_t msg, const void *p,
                 size_t n)
{
    struct bytes *b = &c->acts.bytes;
    size_t at = b->len;
    struct cl_act *a;

    bytes_put(b, p, n);
    a = b->bad ? NULL : act_new(c, CLUSTER_SEND);
    if (!a) {
        b->len = at;
        b->bad = false;
        return;
    }
    a->link = link;
    a->msg = msg;
    a->at = at;
    a->n = n;
    act_wake(c);
}

void cl_act_pack(struct cluster *c, uint64_t link, uint16_t msg, const void *pb)
{
    struct bytes *b = &c->acts.bytes;
    size_t at = b->len;
    struct cl_act *a = NULL;

    if (peer_msg_pack(msg, pb, b) == OK)
        a = act_new(c, CLUSTER_SEND);
    if (!a) {
        b->len = at;
        b->bad = false;
        return;
    }
    a->link = link;
    a->msg = msg;
    a->at = at;
    a->n = b->len - at;
    act_wake(c);
}

static void act_text(struct cluster *c, struct cl_act *a, const char *text)
{
    if (!a)
        return;
    act_bytes(c, a, text, strlen(text) + 1);
    if (c->acts.bytes.bad) {
        c->acts.bytes.bad = false;
        c->acts.n--;
        return;
    }
    act_wake(c);
}

void cl_act_dial(struct cluster *c, const char *peer)
{
    act_text(c, act_new(c, CLUSTER_DIAL), peer);
}

void cl_act_hang_up(struct cluster *c, uint64_t link, const char *why)
{
    struct cl_act *a = act_new(c, CLUSTER_HANG_UP);

    if (a)
        a->link = link;
    act_text(c, a, why);
}

void cl_act_answer(struct cluster *c, uint64_t ticket,
                   const struct answer *answer)
{
    struct answer *copy =
        fault_here("cl_act_answer") ? NULL : malloc(sizeof(*copy));
    struct cl_act *a = copy ? act_new(c, CLUSTER_ANSWERED) : NULL;

    if (!a) {
        free(copy);
        return;
    }
    *copy = *answer;
    a->ticket = ticket;
    a->answer = copy;
    act_wake(c);
}

void cl_act_say(struct cluster *c, int level, const char *fmt, ...)
{
    struct cl_act *a = act_new(c, CLUSTER_SAY);
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (a)
        a->level = level;
    act_text(c, a, text);
}

void cl_act_fatal(struct cluster *c, const char *why)
{
    act_text(c, act_new(c, CLUSTER_FATAL), why);
}

static void take_text(char *to, size_t cap, const uint8_t *p)
{
    snprintf(to, cap, "%s", (const char *)p);
}

static void act_fill(struct cluster *c, const struct cl_act *a,
                     struct cluster_action *out)
{
    const uint8_t *p = c->acts.bytes.p + a->at;

    out->link = a->link;
    switch (a->kind) {
    case CLUSTER_DIAL:
        take_text(out->peer, sizeof(out->peer), p);
        break;
    case CLUSTER_SEND:
        out->msg = a->msg;
        out->p = p;
        out->n = a->n;
        break;
    case CLUSTER_HANG_UP:
    case CLUSTER_SAY:
    case CLUSTER_FATAL:
        out->level = a->level;
        take_text(out->text, sizeof(out->text), p);
        break;
    case CLUSTER_ANSWERED:
        out->ticket = a->ticket;
        out->answer = *a->answer;
        free(a->answer);
        break;
    case CLUSTER_PUBLISH:
        break;
    }
}

bool cluster_next(struct cluster *c, struct cluster_action *out)
{
    struct cl_acts *a = &c->acts;

    out->link = out->ticket = 0;
    out->p = NULL;
    out->n = 0;
    out->peer[0] = out->text[0] = '\0';
    if (a->publish) {
        a->publish = false;
        out->kind = CLUSTER_PUBLISH;
        out->view = cl_view(c);
        return true;
    }
    if (a->n == 0)
        return false;
    out->kind = a->ring[a->first].kind;
    out->view = NULL;
    act_fill(c, &a->ring[a->first], out);
    a->first = (a->first + 1) % a->cap;
    a->n--;
    return true;
}

void cl_act_fini(struct cluster *c)
{
    struct cl_acts *a = &c->acts;

    for (uint32_t i = 0; i < a->n; i++)
        free(a->ring[(a->first + i) % a->cap].answer);
    free(a->ring);
    bytes_fini(&a->bytes);
    *a = (struct cl_acts){0};
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See shm_fix.h. The events check the contract as they come: nothing inside a
 * call, nothing after closed(). */
#include "tests/lib/shm_fix.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fix fix;

static uint32_t fds_before;

static enum err fix_opened(void *lane, struct tp_peer *tp)
{
    struct fix *f = lane;
    struct fix_peer *p;

    ck_assert(!f->in_call);
    if (f->refuse)
        return f->refuse;
    ck_assert_uint_lt(f->peer_n, FIX_PEERS);
    p = &f->peers[f->peer_n++];
    p->tp = tp;
    p->fd = -1;
    tp->session = p;
    return OK;
}

static void fix_message(void *lane, struct tp_peer *tp, const struct message *m,
                        int fd)
{
    struct fix *f = lane;
    struct fix_peer *p = tp->session;

    ck_assert(!f->in_call && p->tp == tp);
    p->messages++;
    p->last = m->frame;
    if (m->frame.env_len <= sizeof(p->env))
        memcpy(p->env, m->env, m->frame.env_len);
    if (p->fd >= 0)
        close(p->fd);
    p->fd = fd;
    if (f->echo)
        fix_send(p, m->frame.req, 8, -1);
}

static void fix_bad(void *lane, struct tp_peer *tp, const struct message *m,
                    enum err e)
{
    struct fix_peer *p = tp->session;

    (void)lane;
    p->bads++;
    p->bad = e;
    if (m->frame.req)
        fix_send(p, m->frame.req, 0, -1);
}

static void fix_closed(void *lane, struct tp_peer *tp)
{
    struct fix *f = lane;
    struct fix_peer *p = tp->session;

    ck_assert(!f->in_call && p->tp == tp);
    for (uint32_t i = 0; i < f->send_n; i++)
        ck_assert(f->sends[i].p != p || f->sends[i].dones == 1);
    p->tp = NULL;
    p->closes++;
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

static const struct tp_events fix_events = {fix_opened, fix_message, fix_bad,
                                            fix_closed};

enum err fix_open(void)
{
    return transport_shm_open(&fix.cfg, &fix.base, &fix.t, &fix.msg);
}

void fix_setup(void)
{
    memset(&fix, 0, sizeof(fix));
    fds_before = fix_fds();
    snprintf(fix.dir, sizeof(fix.dir), "/tmp/shm-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(fix.dir));
    snprintf(fix.path, sizeof(fix.path), "%s/s", fix.dir);
    fix.limits = (struct frame_limits){8192, 64, 0, 1 << 30};
    fix.base = (struct transport){.events = &fix_events,
                                  .lane = &fix,
                                  .env = &fix.env,
                                  .metrics = &fix.metrics,
                                  .limits = &fix.limits};
    fix.cfg = (struct transport_shm_cfg){.path = fix.path,
                                         .mode = 0600,
                                         .ring_bytes = 32 << 10,
                                         .peers_max = FIX_PEERS,
                                         .memories_per_peer = 5,
                                         .registered_bytes_per_peer = 1 << 30,
                                         .copy_slice_bytes = 1 << 20};
    for (uint32_t i = 0; i < FIX_CLIENTS; i++)
        fix.c[i].sock = -1;
    ck_assert_msg(fix_open() == OK, "%s", fix.msg.text);
}

void fix_teardown(void)
{
    transport_shm_close(fix.t);
    for (uint32_t i = 0; i < fix.peer_n; i++)
        ck_assert_uint_eq(fix.peers[i].closes, 1);
    for (uint32_t i = 0; i < FIX_CLIENTS; i++)
        if (fix.c[i].sock >= 0)
            shm_client_close(&fix.c[i]);
    rmdir(fix.dir); /* stays, and shows, if a file was left in it */
    ck_assert_int_ne(access(fix.dir, F_OK), 0);
    ck_assert_uint_eq(fix_fds(), fds_before);
}

void fix_run(void)
{
    int idle = 0;

    for (int i = 0; i < 100000 && idle < 100; i++)
        idle = fix.t->ops->progress(fix.t) ? 0 : idle + 1;
}

struct fix_peer *fix_connect(uint32_t i)
{
    uint32_t n = fix.peer_n;

    ck_assert(shm_client_connect(&fix.c[i], fix.path));
    fix_run();
    ck_assert_int_eq(shm_client_welcome(&fix.c[i]), OK);
    ck_assert_uint_eq(fix.peer_n, n + 1);
    return &fix.peers[n];
}

static void fix_sent(struct tp_send *s, enum err e)
{
    struct fix_send *f = container_of(s, struct fix_send, s);

    ck_assert(!fix.in_call && f->p->tp);
    f->dones++;
    f->e = e;
}

struct fix_send *fix_send(struct fix_peer *p, uint64_t req, uint32_t env_len,
                          int fd)
{
    static uint8_t body[64 << 10];
    struct fix_send *f = &fix.sends[fix.send_n++];
    bool outer = fix.in_call;

    ck_assert_uint_le(fix.send_n, FIX_SENDS);
    memset(f, 0, sizeof(*f));
    f->p = p;
    f->s.fd = fd;
    f->s.body = body;
    f->s.done = fix_sent;
    f->s.frame.kind = WIRE_REPLY;
    f->s.frame.op = OP_PING;
    f->s.frame.req = req;
    f->s.frame.env_len = env_len;
    frame_seal(&f->s.frame, body, env_len);
    fix.in_call = true;
    p->tp->t->ops->send(p->tp, &f->s);
    fix.in_call = outer;
    return f;
}

static void fix_moved(struct tp_xfer *x, enum err e)
{
    struct fix_xfer *f = container_of(x, struct fix_xfer, x);

    ck_assert(!fix.in_call && f->p->tp);
    f->dones++;
    f->e = e;
    f->order = ++fix.completions;
}

void fix_xfer(struct fix_peer *p, struct fix_xfer *x, bool push)
{
    x->p = p;
    x->dones = 0;
    x->x.done = fix_moved;
    fix.in_call = true;
    if (push)
        p->tp->t->ops->push(p->tp, &x->x);
    else
        p->tp->t->ops->pull(p->tp, &x->x);
    fix.in_call = false;
}

void fix_close(struct fix_peer *p, bool at_once)
{
    fix.in_call = true;
    p->tp->t->ops->close(p->tp, at_once);
    fix.in_call = false;
}

uint32_t fix_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    uint32_t n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * libpikv as a driver of the load loop (load.h).
 *
 *   LOAD_SPIN   no thread of the library; pikv_poll in a loop
 *   LOAD_SLEEP  the library's thread moves bytes; poll(2) on the eventfd
 *   LOAD_WAIT   no thread of the library; pikv_wait for the oldest call */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "client/pikv.h"
#include "bench/load.h"

struct pikv_req {
    uint64_t id, seq;
    bool flying;
    struct pikv_key keys[LOAD_BATCH_MAX];
    struct pikv_get gets[LOAD_BATCH_MAX];
    struct pikv_put puts[LOAD_BATCH_MAX];
    struct pikv_result results[LOAD_BATCH_MAX];
};

struct pikv_conn {
    struct load_conn base;
    struct pikv *kv;
    uint32_t ns;
    uint64_t seq;
    bool loan, wait, durable;
    struct pikv_req reqs[LOAD_DEPTH_MAX];
};

static struct pikv_conn *conn_of(struct load_conn *c)
{
    return (struct pikv_conn *)(void *)c;
}

static struct load_conn *pikv_conn_open(const struct load_target *t)
{
    struct pikv_conn *c = calloc(1, sizeof *c);
    struct pikv_options opt = {.address = t->address,
                               .engine = "pikv-bench",
                               .staging_bytes = t->staged ? t->data_bytes : 0,
                               .no_progress_thread = t->idle != LOAD_SLEEP};
    struct pikv_group group = {.kind = "opaque", .block_bytes = t->size};
    struct pikv_namespace ns = {.name = t->space,
                                .model = "bench",
                                .groups = &group,
                                .group_n = 1,
                                .create = true,
                                .loans = t->loan ? "any" : "off"};
    void *data = NULL;
    int e;

    if (!c)
        bench_die("out of memory");
    e = pikv_open(&opt, &c->kv);
    if (e == PIKV_UNSUPPORTED) {
        free(c);
        return NULL;
    }
    if (!e)
        e = pikv_namespace_open(c->kv, &ns, &c->ns, NULL);
    if (!e && t->staged)
        data = load_mem(t->data_bytes);
    else if (!e)
        e = pikv_mem_alloc(c->kv, t->data_bytes, &data);
    if (e)
        bench_die("%s: %s (%s)", t->address ? t->address : "pikvd",
                  pikv_error_text(e), pikv_last_error());
    memset(data, 1, t->data_bytes);
    c->base.data = data;
    c->loan = t->loan;
    c->durable = t->durable;
    c->wait = t->idle == LOAD_WAIT;
    return &c->base;
}

static void pikv_conn_close(struct load_conn *base)
{
    struct pikv_conn *c = conn_of(base);

    pikv_close(c->kv);
    free(c);
}

static int submit_get(struct pikv_conn *c, struct load_req *r,
                      const struct pikv_call *call)
{
    struct pikv_req *p = &c->reqs[r->slot];

    for (uint32_t i = 0; i < r->n; i++)
        p->gets[i] = (struct pikv_get){.key = {.key = {r->keys[i], LOAD_KEY}},
                                       .data = {r->data + i * r->size, r->size},
                                       .loan = c->loan};
    return pikv_get(c->kv, c->ns, p->gets, r->n, call, p->results, &p->id);
}

static int submit_put(struct pikv_conn *c, struct load_req *r,
                      const struct pikv_call *call)
{
    struct pikv_req *p = &c->reqs[r->slot];

    for (uint32_t i = 0; i < r->n; i++)
        p->puts[i] =
            (struct pikv_put){.key = {.key = {r->keys[i], LOAD_KEY}},
                              .data = {r->data + i * r->size, r->size},
                              .durable = c->durable};
    return pikv_put(c->kv, c->ns, p->puts, r->n, call, p->results, &p->id);
}

static int submit_lookup(struct pikv_conn *c, struct load_req *r,
                         const struct pikv_call *call)
{
    struct pikv_req *p = &c->reqs[r->slot];

    for (uint32_t i = 0; i < r->n; i++)
        p->keys[i] = (struct pikv_key){.key = {r->keys[i], LOAD_KEY}};
    return pikv_lookup(c->kv, c->ns, p->keys, r->n, NULL, 1, NULL, call,
                       p->results, &p->id);
}

static void pikv_conn_submit(struct load_conn *base, struct load_req *r)
{
    struct pikv_conn *c = conn_of(base);
    struct pikv_call call = {.user = r, .deadline_us = 10000000};
    int e = r->op == LOAD_GET   ? submit_get(c, r, &call)
            : r->op == LOAD_PUT ? submit_put(c, r, &call)
                                : submit_lookup(c, r, &call);

    if (e)
        bench_die("submit: %s: %s", pikv_error_name(e), pikv_error_text(e));
    c->reqs[r->slot].seq = c->seq++;
    c->reqs[r->slot].flying = true;
}

static struct load_req *ended(struct pikv_conn *c,
                              const struct pikv_completion *done)
{
    struct load_req *r = done->user;

    if (done->status)
        bench_die("a call failed: %s: %s", pikv_error_name(done->status),
                  pikv_error_text(done->status));
    c->reqs[r->slot].flying = false;
    r->served = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const struct pikv_result *res = &c->reqs[r->slot].results[i];

        r->served += res->status == PIKV_OK ||
                     (r->op == LOAD_LOOKUP && res->status == PIKV_MISS);
        if (r->op == LOAD_GET && res->loan)
            r->at[i] = res->loan;
    }
    return r;
}

static int wait_oldest(struct pikv_conn *c, struct pikv_completion *out)
{
    struct pikv_req *oldest = NULL;

    for (uint32_t i = 0; i < LOAD_DEPTH_MAX; i++) {
        struct pikv_req *p = &c->reqs[i];

        if (p->flying && (!oldest || p->seq < oldest->seq))
            oldest = p;
    }
    if (!oldest)
        return 0;
    (void)pikv_wait(c->kv, oldest->id, out);
    return 1;
}

static uint32_t pikv_conn_poll(struct load_conn *base, struct load_req **done,
                               uint32_t max)
{
    struct pikv_conn *c = conn_of(base);
    struct pikv_completion ends[LOAD_DEPTH_MAX];
    int n = base->spin || c->wait ? pikv_poll(c->kv, ends, (int)max)
                                  : pikv_drain(c->kv, ends, (int)max);

    if (n == 0 && c->wait) {
        n = wait_oldest(c, ends);
    } else if (n == 0 && !base->spin) {
        struct pollfd fd = {.fd = pikv_event_fd(c->kv), .events = POLLIN};

        (void)poll(&fd, 1, 100);
    }
    if (n < 0)
        bench_die("poll: %s", pikv_error_name(n));
    for (int i = 0; i < n; i++)
        done[i] = ended(c, &ends[i]);
    return (uint32_t)n;
}

static void pikv_conn_release(struct load_conn *base, struct load_req *r)
{
    struct pikv_conn *c = conn_of(base);

    if (r->op != LOAD_GET || !c->loan)
        return;
    for (uint32_t i = 0; i < r->n; i++)
        if (c->reqs[r->slot].results[i].loan)
            (void)pikv_loan_release(c->kv, c->ns, &c->reqs[r->slot].results[i]);
}

const struct load_driver load_pikv = {
    .name = "pikvd",
    .open = pikv_conn_open,
    .close = pikv_conn_close,
    .submit = pikv_conn_submit,
    .poll = pikv_conn_poll,
    .release = pikv_conn_release,
};

/* SPDX-License-Identifier: Apache-2.0
 *
 * Handles to other daemons and to the own one, and what of them blocks: opened,
 * asked and closed by workers.
 *
 *     NONE --want_open--> OPENING --ok--> OPEN --idle, gone, addresses-->
 * CLOSING ^                     |             ^  | | |                     |
 * +--+ libpikv connects again      |
 *      +----- backoff -------+              by itself                       |
 *      +--------------------------------------------------------------------+
 *
 * A node of this host is reached over shm where its socket can be connected
 * and lets us ask (LIST is for the daemon's user), else over ucx. The handles
 * do not follow the view: they are for this one node.
 *
 * A namespace is opened in a handle when it is first needed, at the source by
 * its name; after a flush again, once the source says to have the view that
 * told of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/puller_impl.h"

enum {
    LINK_CONNECT_MS = 1000,
    LINK_STAGING = 1 << 20, /* all bytes are in registered memory */
    LINK_ASK_US = 1000000,
};

/* ---- one link ---- */

enum err link_init(struct puller *p, struct link *l, uint16_t node)
{
    *l = (struct link){.p = p, .node_idx = node};
    list_init(&l->node);
    list_init(&l->wants);
    if (node != NODE_NONE)
        return OK;
    memcpy(l->addr[0], p->cfg.self_shm, sizeof l->addr[0]);
    l->addr_n = 1;
    return OK;
}

/* Where it says to be now. */
static void link_address(struct link *l)
{
    const struct puller *p = l->p;
    const struct node *n = &p->view.nodes[l->node_idx];

    l->addr_n = 0;
    if (n->shm[0] && n->host == p->cfg.host && !l->no_shm)
        memcpy(l->addr[l->addr_n++], n->shm, sizeof n->shm);
    if (n->ucx[0])
        memcpy(l->addr[l->addr_n++], n->ucx, sizeof n->ucx);
    l->addr_i = 0;
}

static struct link *link_find(struct puller *p, uint16_t node)
{
    LIST_FOREACH(n, &p->links)
    {
        struct link *l = container_of(n, struct link, node);

        if (l->node_idx == node)
            return l;
    }
    return NULL;
}

struct link *link_get(struct puller *p, uint16_t node)
{
    struct link *l = link_find(p, node);

    if (l || node >= p->view.node_n)
        return l;
    l = malloc(sizeof *l);
    if (!l)
        return NULL;
    (void)!link_init(p, l, node);
    list_add_tail(&p->links, &l->node);
    return l;
}

/* DENIED: LIST over shm is for the daemon's own user; over ucx it must let us.
 */
void link_failed(struct link *l, int err)
{
    uint64_t least = PULLER_BACKOFF_MS * NS_PER_MS;

    l->backoff_ns = l->backoff_ns ? min_u64(2 * l->backoff_ns,
                                            PULLER_BACKOFF_MAX_MS * NS_PER_MS)
                                  : least;
    l->retry_ns = l->p->now_ns + l->backoff_ns;
    l->no_shm |= err == ERR_DENIED;
    LOG(LOG_INFO, "puller_source", "node=%u address=%s error=%s", l->node_idx,
        LOG_STR(l->addr[l->addr_i]), pikv_error_name(err));
}

/* ---- opening ---- */

struct open_job {
    struct job job;
    struct link *link;
    char addr[NODE_ADDR_MAX];
    struct pikv *kv;
    struct pikv_info info;
};

static void open_run(struct job *j)
{
    struct open_job *o = container_of(j, struct open_job, job);
    struct pikv_options opt = {
        .address = o->addr,
        .engine = "pikvd puller",
        .connect_ms = LINK_CONNECT_MS,
        .staging_bytes = LINK_STAGING,
        .no_view = true,
    };

    j->err = pikv_open(&opt, &o->kv);
    if (!j->err)
        j->err = pikv_info(o->kv, &o->info);
    if (!j->err)
        j->err =
            pikv_mem_register_fd(o->kv, j->p->mem_fd, 0,
                                 (size_t)PULLER_HAULS * PULLER_HAUL, j->p->mem);
    if (j->err) {
        pikv_close(o->kv);
        o->kv = NULL;
    }
}

static void open_done(struct mail *m, void *arg)
{
    struct open_job *o =
        container_of(container_of(m, struct job, mail), struct open_job, job);
    struct link *l = o->link;

    (void)arg;
    l->users--;
    l->state = o->kv ? LINK_OPEN : LINK_NONE;
    l->kv = o->kv;
    l->lanes = o->info.lanes;
    l->block_bytes_max = o->info.block_bytes_max;
    l->used_ns = l->p->now_ns;
    l->space_n = 0;
    if (o->kv)
        l->backoff_ns = 0;
    else if (l->addr_i + 1 < l->addr_n)
        l->addr_i++;
    else
        link_failed(l, o->job.err);
    free(o);
}

void link_want_open(struct link *l)
{
    struct puller *p = l->p;
    struct open_job *o;

    l->used_ns = p->now_ns;
    if (l->state != LINK_NONE || p->now_ns < l->retry_ns)
        return;
    if (l->node_idx != NODE_NONE && (!l->addr_n || l->backoff_ns))
        link_address(l);
    o = l->addr_n && !copy_memory(p) ? calloc(1, sizeof *o) : NULL;
    if (!o) {
        link_failed(l, l->addr_n ? ERR_NO_MEMORY : ERR_NO_SERVER);
        return;
    }
    o->link = l;
    memcpy(o->addr, l->addr[l->addr_i], sizeof o->addr);
    o->job.run = open_run;
    l->state = LINK_OPENING;
    l->users++;
    puller_job(p, &o->job, open_done);
}

/* ---- closing ---- */

struct close_job {
    struct job job;
    struct link *link;
    struct pikv *kv;
};

static void close_run(struct job *j)
{
    pikv_close(container_of(j, struct close_job, job)->kv);
}

static void close_done(struct mail *m, void *arg)
{
    struct close_job *c =
        container_of(container_of(m, struct job, mail), struct close_job, job);

    (void)arg;
    c->link->users--;
    c->link->state = LINK_NONE;
    c->link->space_n = 0;
    free(c);
}

/* Nobody uses it. */
static void link_close(struct link *l)
{
    struct close_job *c = calloc(1, sizeof *c);

    if (!c)
        return; /* another time */
    *c = (struct close_job){.job.run = close_run, .link = l, .kv = l->kv};
    copy_memory_forget(l->p, l->kv);
    l->kv = NULL;
    l->state = LINK_CLOSING;
    l->users++;
    puller_job(l->p, &c->job, close_done);
}

/* Has the node other addresses than the link was opened with? */
static bool link_moved(const struct link *l)
{
    const struct puller *p = l->p;
    const struct node *n;

    if (l->node_idx == NODE_NONE || !p->has_view)
        return false;
    if (l->node_idx >= p->view.node_n ||
        (l->no_shm && strncmp(l->addr[l->addr_i], "shm:", 4) == 0))
        return true;
    n = &p->view.nodes[l->node_idx];
    return strcmp(l->addr[l->addr_i], n->shm) != 0 &&
           strcmp(l->addr[l->addr_i], n->ucx) != 0;
}

void link_tick(struct puller *p)
{
    LIST_FOREACH(x, &p->links)
    {
        struct link *l = container_of(x, struct link, node);

        if (l->state == LINK_OPEN && l->users == 0 &&
            (link_moved(l) ||
             p->now_ns - l->used_ns > PULLER_IDLE_MS * NS_PER_MS)) {
            l->addr_n = 0;
            link_close(l);
        }
    }
}

void link_close_all(struct puller *p)
{
    struct list *n;

    while ((n = list_pop(&p->links))) {
        struct link *l = container_of(n, struct link, node);

        pikv_close(l->kv);
        free(l);
    }
    pikv_close(p->own.kv);
    p->own.kv = NULL;
}

/* ---- LIST ---- */

static void list_ask(struct list_job *j, const void *request, size_t len)
{
    struct pikv_call call = {.deadline_us = LINK_ASK_US};
    void *reply = NULL;
    size_t reply_len = 0;

    j->job.err = pikv_admin(j->link->kv, "list", (int)j->lane, request, len,
                            &reply, &reply_len, &call);
    if (!j->job.err) {
        j->reply = pikv__list_reply__unpack(NULL, reply_len, reply);
        if (!j->reply)
            j->job.err = ERR_BAD_REQUEST;
    }
    pikv_reply_free(reply);
}

static void list_run(struct job *job)
{
    struct list_job *j = container_of(job, struct list_job, job);

    list_ask(j, j->request, j->request_len);
    free(j->request);
    j->request = NULL;
}

void link_list(struct list_job *j, mail_fn *done)
{
    j->job.run = list_run;
    j->link->users++;
    puller_job(j->link->p, &j->job, done);
}

/* ---- namespaces ---- */

struct space_job {
    struct job job;
    struct link *link;
    struct pikv *kv;
    uint32_t idx, serial, id;
    bool source;        /* not the own daemon */
    uint64_t min_epoch; /* of its view */
    char name[PULLER_NAME];
    Pikv__Open *open; /* or NULL; ours */
};

static void space_describe(const Pikv__Open *o, struct pikv_namespace *d,
                           struct pikv_group groups[16])
{
    const Pikv__Fingerprint *f = o->fingerprint;
    const Pikv__Settings *s = o->settings;

    d->create = true;
    if (f) {
        d->model = f->model;
        d->weights_version = f->weights_version;
        d->tokenizer_hash = f->tokenizer_hash;
        d->hash_seed = f->hash_seed;
        d->dtype = f->dtype;
        d->scale_format = f->scale_format;
        d->parallel_layout = f->parallel_layout;
    }
    if (s) {
        d->policy = s->policy;
        d->loans = s->loans;
        d->dram = s->dram;
        d->share = s->share;
        d->ttl_ms = s->ttl_ms;
        d->quota_bytes = s->quota_bytes;
    }
    d->groups = groups;
    d->group_n = (uint32_t)min_u64(o->n_groups, 16);
    for (uint32_t i = 0; i < d->group_n; i++) {
        const Pikv__Group *g = o->groups[i];

        groups[i] = (struct pikv_group){
            .id = g->id,
            .kind = g->kind,
            .layers = g->layers,
            .kv_heads = g->kv_heads,
            .head_dim = g->head_dim,
            .tokens_per_block = g->tokens_per_block,
            .dtype = g->dtype,
            .order = g->order,
            .block_bytes = g->block_bytes,
        };
    }
}

/* Is its view as new as ours was when we heard of the last flush? */
static int space_epoch(struct space_job *s)
{
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;
    struct list_job j = {.link = s->link};
    uint8_t buf[64];
    uint64_t epoch = 0;

    if (!s->source)
        return OK;
    m.max = 1;
    list_ask(&j, buf, pikv__list_request__pack(&m, buf));
    if (j.reply)
        epoch = j.reply->epoch;
    pikv__list_reply__free_unpacked(j.reply, NULL);
    if (j.job.err)
        return j.job.err;
    return epoch >= s->min_epoch ? OK : ERR_STALE_EPOCH;
}

/* Loans may not be had here: then without. */
static void space_run(struct job *j)
{
    struct space_job *s = container_of(j, struct space_job, job);
    struct pikv_namespace d = {.name = s->name};
    struct pikv_group groups[16];

    j->err = space_epoch(s);
    if (j->err)
        return;
    if (s->open)
        space_describe(s->open, &d, groups);
    j->err = pikv_namespace_open(s->kv, &d, &s->id, NULL);
    if (j->err == ERR_UNSUPPORTED && s->open) {
        d.loans = NULL;
        j->err = pikv_namespace_open(s->kv, &d, &s->id, NULL);
    }
}

static void space_done(struct mail *m, void *arg)
{
    struct space_job *s =
        container_of(container_of(m, struct job, mail), struct space_job, job);
    struct link *l = s->link;
    struct space *x = &l->spaces[s->idx];

    (void)arg;
    l->users--;
    x->state = s->job.err ? SPACE_NONE : SPACE_OPEN;
    x->id = s->id;
    x->serial = s->serial;
    x->err = s->job.err;
    x->retry_ns = l->p->now_ns + 4 * PULLER_BACKOFF_MS * NS_PER_MS;
    if (s->job.err)
        LOG(LOG_INFO, "puller_namespace", "node=%u name=%s error=%s",
            l->node_idx, LOG_STR(s->name), pikv_error_name(s->job.err));
    if (s->open)
        pikv__open__free_unpacked(s->open, NULL);
    free(s);
}

static Pikv__Open *open_copy(const Pikv__Open *o)
{
    size_t n = pikv__open__get_packed_size(o);
    uint8_t *buf = malloc(n);
    Pikv__Open *copy = NULL;

    if (buf)
        copy = pikv__open__unpack(NULL, pikv__open__pack(o, buf), buf);
    free(buf);
    return copy;
}

static void space_open(struct link *l, struct space *x, const Pikv__Open *open)
{
    struct space_job *s = calloc(1, sizeof *s);

    if (!s)
        return; /* the next look tries again */
    s->job.run = space_run;
    s->link = l;
    s->kv = l->kv;
    s->idx = (uint32_t)(x - l->spaces);
    s->serial = l->p->serial;
    s->source = l->node_idx != NODE_NONE;
    s->min_epoch = l->p->flush_epoch;
    memcpy(s->name, x->name, sizeof s->name);
    s->open = open ? open_copy(open) : NULL;
    if (open && !s->open) {
        free(s);
        return;
    }
    x->state = SPACE_OPENING;
    l->users++;
    puller_job(l->p, &s->job, space_done);
}

static struct space *space_get(struct link *l, const char *name)
{
    struct space *x = l->spaces;

    while (x < l->spaces + l->space_n && strcmp(x->name, name) != 0)
        x++;
    if (x < l->spaces + l->space_n)
        return x;
    if (l->space_n == PULLER_SPACES || strlen(name) >= sizeof x->name)
        return NULL;
    *x = (struct space){.state = SPACE_NONE};
    snprintf(x->name, sizeof x->name, "%s", name);
    l->space_n++;
    return x;
}

const struct space *link_space(struct link *l, const char *name,
                               const Pikv__Open *open, int *err_out)
{
    struct space *x = space_get(l, name);

    *err_out = OK;
    if (!x) {
        *err_out = ERR_LIMIT;
        return NULL;
    }
    if (x->state == SPACE_OPEN && x->serial == l->p->serial)
        return x;
    if (x->state == SPACE_OPENING)
        return NULL;
    if (l->p->now_ns < x->retry_ns && x->err) {
        *err_out = x->err;
        return NULL;
    }
    space_open(l, x, open);
    return NULL;
}

void link_space_stale(struct link *l, uint32_t id)
{
    for (uint32_t i = 0; i < l->space_n; i++)
        if (l->spaces[i].id == id && l->spaces[i].state == SPACE_OPEN) {
            l->spaces[i].state = SPACE_NONE;
            l->spaces[i].err = OK;
        }
}

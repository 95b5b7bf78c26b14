/* SPDX-License-Identifier: Apache-2.0
 *
 * Wants of lanes: single keys that are asked for at the slot's last home now.
 *
 *     want_take --> link.wants --LIST of these keys--> haul --> want_answer
 *                     |  those of one namespace and lane together
 *                     +-- no source, no time: answered at once
 *
 * The LIST says of each key whether it is there, and everything but its bytes.
 * A want whose time is over is answered; what is under way for it goes on. */
#include <stdlib.h>
#include <string.h>

#include "server/lane.h"
#include "server/puller_impl.h"

enum { WANT_KEYS = 32 };

void want_answer(struct pull *x, enum err e)
{
    struct puller_want *w = x->w;

    if (x->b)
        x->b->pulls[x->row] = NULL;
    list_del(&x->all);
    list_del(&x->node);
    if (e == OK)
        stat_add(&x->b->p->stats.want_hits, 1);
    free(x);
    w->err = e;
    w->own = NULL;
    w->mail.fn = w->done;
    MUST(mailbox_post(&w->lane->mailbox, &w->mail) == OK);
}

void want_end_all(struct puller *p, enum err e)
{
    struct list *n;

    while ((n = p->pulls.next) != &p->pulls)
        want_answer(container_of(n, struct pull, all), e);
}

/* Who may have it, as the puller's view says; the lane's may be another. */
static struct link *want_link(struct puller *p, const struct puller_want *w)
{
    if (!p->has_view || w->from >= p->view.node_n ||
        !node_serves(&p->view.nodes[w->from]))
        return NULL;
    return link_get(p, w->from);
}

void want_take(struct mail *m, void *arg)
{
    struct puller_want *w = container_of(m, struct puller_want, mail);
    struct puller *p = arg;
    struct pull *x = calloc(1, sizeof *x);
    struct link *l = want_link(p, w);

    stat_add(&p->stats.wants, 1);
    if (!x || !l || p->now_ns < l->retry_ns) {
        free(x);
        w->err = ERR_NO_SERVER;
        w->mail.fn = w->done;
        MUST(mailbox_post(&w->lane->mailbox, &w->mail) == OK);
        return;
    }
    x->w = w;
    w->own = x;
    list_add_tail(&p->pulls, &x->all);
    list_add_tail(&l->wants, &x->node);
}

/* ---- asking ---- */

struct want_job {
    struct list_job list; /* first */
    struct haul *haul;
    uint32_t n;
    struct puller_want *wants[WANT_KEYS]; /* looked up in pulls: may be over */
    char space[PULLER_NAME];
    uint32_t from_ns, own_ns, serial;
};

static struct pull *pull_find(struct puller *p, const struct want_job *j,
                              uint32_t k)
{
    LIST_FOREACH(n, &p->pulls)
    {
        struct pull *x = container_of(n, struct pull, all);

        if (x->w == j->wants[k] && x->job == j)
            return x;
    }
    return NULL;
}

static bool want_is(const struct puller_want *w, const Pikv__ListBlock *r)
{
    static const uint8_t no_scope[16];
    const uint8_t *scope = r->scope.len == 16 ? r->scope.data : no_scope;

    return w->key_len == r->key.len && w->group == r->group &&
           memcmp(w->key, r->key.data, r->key.len) == 0 &&
           memcmp(w->scope, scope, sizeof w->scope) == 0;
}

/* Takes the rows that still have a want; what does not fit is asked again. */
static void want_row(struct want_job *j, struct pull *x,
                     const Pikv__ListBlock *r)
{
    struct haul *b = j->haul;

    if (x->b || !haul_row_good(r, b->link->block_bytes_max) ||
        !want_is(x->w, r))
        return;
    if (b->n && b->bytes + r->len > PULLER_HAUL) {
        x->job = NULL;
        list_add_tail(&b->link->wants, &x->node);
        return;
    }
    x->b = b;
    x->row = b->n;
    b->pulls[b->n] = x;
    b->rows[b->n] = r;
    b->at[b->n++] = b->bytes;
    b->bytes += align_up(r->len, 64);
}

static void want_rows(struct want_job *j)
{
    const Pikv__ListSpace *sp = j->haul->space;

    for (size_t i = 0; i < sp->n_blocks; i++)
        for (uint32_t k = 0; k < j->n; k++) {
            struct pull *x = pull_find(j->haul->p, j, k);

            if (x)
                want_row(j, x, sp->blocks[i]);
        }
}

/* The haul goes on its way, or is free again. */
static void want_haul(struct want_job *j)
{
    struct haul *b = j->haul;
    struct page *g = calloc(1, sizeof *g);

    if (!g) {
        b->state = HAUL_FREE;
        return;
    }
    *g = (struct page){.msg = j->list.reply, .refs = 1};
    j->list.reply = NULL;
    b->link = j->list.link;
    b->page = g;
    b->space = g->msg->spaces[0];
    b->from_ns = j->from_ns;
    b->own_ns = j->own_ns;
    b->bytes = 0;
    want_rows(j);
    if (b->n && haul_mem(b, b->bytes)) {
        b->link->users++;
        haul_start(b);
        return;
    }
    for (uint32_t i = 0; i < b->n; i++) { /* no memory for it now */
        b->pulls[i]->b = NULL;
        b->pulls[i]->job = NULL;
        list_add_tail(&b->link->wants, &b->pulls[i]->node);
    }
    b->state = HAUL_FREE;
    page_unref(g);
}

/* Those that are in no haul now, and not asked again, are not there. */
static void want_listed(struct mail *m, void *arg)
{
    struct list_job *lj =
        container_of(container_of(m, struct job, mail), struct list_job, job);
    struct want_job *j = (struct want_job *)(void *)lj;
    struct puller *p = arg;
    enum err e = ERR_MISS;

    lj->link->users--;
    if (lj->job.err) {
        link_failed(lj->link, lj->job.err);
        e = ERR_NO_SERVER;
    } else if (lj->reply->n_spaces && j->serial == p->serial &&
               lj->reply->epoch >= p->flush_epoch) {
        want_haul(j);
    }
    if (j->haul->state == HAUL_ASKED)
        j->haul->state = HAUL_FREE;
    for (uint32_t k = 0; k < j->n; k++) {
        struct pull *x = pull_find(p, j, k);

        if (x && !x->b)
            want_answer(x, e);
    }
    pikv__list_reply__free_unpacked(lj->reply, NULL);
    free(j);
}

static bool want_pack(struct want_job *j)
{
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;
    Pikv__ListKey keys[WANT_KEYS], *list[WANT_KEYS];

    for (uint32_t k = 0; k < j->n; k++) {
        struct puller_want *w = j->wants[k];

        pikv__list_key__init(&keys[k]);
        keys[k].key = (ProtobufCBinaryData){w->key_len, w->key};
        keys[k].scope = (ProtobufCBinaryData){sizeof w->scope, w->scope};
        keys[k].group = w->group;
        list[k] = &keys[k];
    }
    m.space = j->space;
    m.keys = list;
    m.n_keys = j->n;
    j->list.request = malloc(pikv__list_request__get_packed_size(&m));
    if (j->list.request)
        j->list.request_len = pikv__list_request__pack(&m, j->list.request);
    return j->list.request;
}

/* Takes the wants of one namespace and lane from the link's. */
static void want_collect(struct link *l, struct want_job *j)
{
    const struct pull *first = container_of(l->wants.next, struct pull, node);

    j->list.lane = first->w->slot % l->lanes;
    memcpy(j->space, first->w->space, sizeof j->space);
    LIST_FOREACH_SAFE(n, &l->wants)
    {
        struct pull *x = container_of(n, struct pull, node);

        if (j->n == WANT_KEYS || x->w->slot % l->lanes != j->list.lane ||
            strcmp(x->w->space, j->space) != 0)
            continue;
        list_del(&x->node);
        x->job = j;
        j->wants[j->n++] = x->w;
    }
}

static void want_none(struct link *l, enum err e)
{
    struct list *n;

    while ((n = l->wants.next) != &l->wants)
        want_answer(container_of(n, struct pull, node), e);
}

/* One LIST of a link's wants; false: nothing to do now. */
static bool want_ask(struct puller *p, struct link *l)
{
    const char *name = container_of(l->wants.next, struct pull, node)->w->space;
    const struct space *from, *own;
    struct want_job *j;
    struct haul *b;
    int e_from, e_own;

    from = link_space(l, name, NULL, &e_from);
    own = link_space(&p->own, name, NULL, &e_own);
    if (e_from || e_own) {
        want_none(l, ERR_MISS);
        return false;
    }
    b = from && own ? haul_new(p, true) : NULL;
    j = b ? calloc(1, sizeof *j) : NULL;
    if (!j)
        return false;
    b->state = HAUL_ASKED;
    j->haul = b;
    j->list.link = l;
    j->from_ns = from->id;
    j->own_ns = own->id;
    j->serial = p->serial;
    want_collect(l, j);
    if (!want_pack(j)) {
        for (uint32_t k = 0; k < j->n; k++)
            want_answer(pull_find(p, j, k), ERR_MISS);
        b->state = HAUL_FREE;
        free(j);
        return false;
    }
    link_list(&j->list, want_listed);
    return !list_empty(&l->wants);
}

void want_tick(struct puller *p)
{
    LIST_FOREACH_SAFE(n, &p->pulls)
    {
        struct pull *x = container_of(n, struct pull, all);

        if (p->now_ns >= x->w->deadline_ns)
            want_answer(x, ERR_TIMEOUT);
    }
    LIST_FOREACH(n, &p->links)
    {
        struct link *l = container_of(n, struct link, node);

        if (list_empty(&l->wants))
            continue;
        link_want_open(l);
        link_want_open(&p->own);
        if (l->state != LINK_OPEN && p->now_ns < l->retry_ns)
            want_none(l, ERR_NO_SERVER);
        while (l->state == LINK_OPEN && p->own.state == LINK_OPEN &&
               !list_empty(&l->wants) && want_ask(p, l))
            ;
    }
}

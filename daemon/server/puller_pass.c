/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass: everything that one source has of the slots that are wanted from it.
 *
 *     lane 0: LIST, LIST, ... cursor 0; lane 1: ...        (pages ahead: 2)
 *       page --namespace by namespace--> hauls --> ... --> all have ended
 *                                                             |
 *                              slots_done: DONE, or once more <
 *
 * One pass at a time: the rate is this node's, and each takes what there is of
 * its source at that moment. A page of a source with an older view than is
 * wanted (a flush, a hand-over) ends the pass; so does a link that fails. What
 * was brought until then is here and is not brought again. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/puller_impl.h"

void page_unref(struct page *g)
{
    if (!g || --g->refs)
        return;
    pikv__list_reply__free_unpacked(g->msg, NULL);
    free(g);
}

/* ---- pages ---- */

static struct page *page_new(Pikv__ListReply *msg)
{
    struct page *g = malloc(sizeof *g);

    if (g)
        *g = (struct page){.msg = msg, .refs = 1};
    else
        pikv__list_reply__free_unpacked(msg, NULL);
    return g;
}

static void pass_broken(struct pass *s, int err)
{
    if (!s->broken)
        link_failed(s->link, err);
    s->broken = true;
}

static void pass_page(struct pass *s, struct list_job *j)
{
    struct page *g;

    if (j->job.err || j->reply->epoch < s->min_epoch) {
        pikv__list_reply__free_unpacked(j->reply, NULL);
        pass_broken(s, j->job.err ? j->job.err : ERR_STALE_EPOCH);
        return;
    }
    s->cursor = j->reply->next_cursor;
    if (!s->cursor)
        s->lane++;
    s->listed = s->lane == s->link->lanes;
    g = page_new(j->reply);
    if (g)
        s->pages[s->page_n++] = g;
    else
        s->broken = true;
}

static void pass_listed(struct mail *m, void *arg)
{
    struct list_job *j =
        container_of(container_of(m, struct job, mail), struct list_job, job);
    struct puller *p = arg;

    j->link->users--;
    p->pass.listing = false;
    pass_page(&p->pass, j);
    free(j);
}

/* As bytes: bit i % 8 of byte i / 8 is bit i % 64 of word i / 64 here. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "one bitmap");

static void pass_list(struct puller *p)
{
    struct pass *s = &p->pass;
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;
    struct list_job *j;

    if (s->listing || s->listed || s->broken || s->page_n == PULLER_PAGES)
        return;
    m.cursor = s->cursor;
    m.replicas_min = s->copies_min;
    m.slots.data = (uint8_t *)s->slots;
    m.slots.len = sizeof s->slots;
    j = calloc(1, sizeof *j);
    if (j)
        j->request = malloc(pikv__list_request__get_packed_size(&m));
    if (!j || !j->request) {
        free(j);
        s->broken = true;
        return;
    }
    j->request_len = pikv__list_request__pack(&m, j->request);
    j->link = s->link;
    j->lane = s->lane;
    s->listing = true;
    link_list(j, pass_listed);
}

/* ---- hauls from pages ---- */

static void page_done(struct pass *s)
{
    page_unref(s->pages[0]);
    s->pages[0] = s->pages[1];
    s->pages[1] = NULL;
    s->page_n--;
}

/* The namespace's rows cannot be brought: it is not to be had here or there. */
static void space_skip(struct puller *p, struct page *g, int err)
{
    Pikv__ListSpace *sp = g->msg->spaces[g->space];

    stat_add(&p->stats.failed, sp->n_blocks - g->row);
    LOG(LOG_WARN, "puller_skips", "namespace=%s blocks=%zu error=%s",
        LOG_STR(sp->name), sp->n_blocks - g->row, pikv_error_name(err));
    g->space++;
    g->row = 0;
}

/* What cannot get better by itself within a moment. */
static bool space_hopeless(int err)
{
    return err == ERR_MISMATCH || err == ERR_LIMIT || err == ERR_DENIED ||
           err == ERR_UNSUPPORTED || err == ERR_BAD_REQUEST;
}

/* Both handles' ids of the namespace at hand; false: not now. */
static bool space_ready(struct puller *p, struct page *g, uint32_t *from_out,
                        uint32_t *own_out)
{
    struct pass *s = &p->pass;
    const Pikv__ListSpace *sp = g->msg->spaces[g->space];
    const struct space *from, *own;
    int e_from, e_own;

    from = link_space(s->link, sp->name, NULL, &e_from);
    own = link_space(&p->own, sp->name, sp->open, &e_own);
    if (from && own) {
        *from_out = from->id;
        *own_out = own->id;
        return true;
    }
    if (space_hopeless(e_own))
        space_skip(p, g, e_own);
    else if (e_own) /* this node is not ready; it is asked again */
        s->partial = true;
    if (e_from)
        pass_broken(s, e_from);
    return false;
}

/* Rows from the page while they fit one haul. */
static void rows_take(struct haul *b, struct page *g)
{
    const Pikv__ListSpace *sp = g->msg->spaces[g->space];
    uint64_t bytes = 0;

    for (; b->n < PULLER_KEYS && g->row < sp->n_blocks; g->row++) {
        const Pikv__ListBlock *r = sp->blocks[g->row];

        if (!haul_row_good(r, b->link->block_bytes_max)) {
            stat_add(&b->p->stats.failed, 1);
            continue;
        }
        if (b->n && bytes + r->len > PULLER_HAUL)
            break;
        b->rows[b->n] = r;
        b->at[b->n++] = bytes;
        bytes += align_up(r->len, 64);
    }
    b->bytes = bytes;
}

/* One haul from the first page; false: nothing can be begun now. */
static bool pass_haul(struct puller *p)
{
    struct pass *s = &p->pass;
    struct page *g = s->pages[0];
    uint32_t from, own;
    struct haul *b;

    if (!g || s->broken)
        return false;
    if (g->space == g->msg->n_spaces) {
        page_done(s);
        return true;
    }
    if (g->row == g->msg->spaces[g->space]->n_blocks) {
        g->space++;
        g->row = 0;
        return true;
    }
    if (p->own.state != LINK_OPEN) {
        link_want_open(&p->own);
        return false;
    }
    if (!space_ready(p, g, &from, &own) || !(b = haul_new(p, false)))
        return false;
    b->pass = s;
    b->link = s->link;
    b->page = g;
    b->space = g->msg->spaces[g->space];
    b->from_ns = from;
    b->own_ns = own;
    rows_take(b, g);
    if (!haul_mem(b, b->bytes)) {
        g->row -= b->n; /* bad ones in between are met again */
        b->state = HAUL_FREE;
        return false;
    }
    g->refs++;
    s->hauls++;
    s->link->users++;
    haul_start(b);
    return true;
}

/* ---- the whole ---- */

static bool pass_over(const struct pass *s)
{
    if (s->listing || s->hauls)
        return false;
    return s->broken || (s->listed && s->page_n == 0);
}

static void pass_end(struct puller *p)
{
    struct pass *s = &p->pass;

    while (s->page_n)
        page_done(s);
    if (s->broken || s->partial) /* not at once again */
        p->look_ns = p->now_ns + PULLER_LOOK_MS * NS_PER_MS;
    s->link->users--;
    s->active = false;
    stat_add(&p->stats.passes, 1);
    slots_done(p, s);
}

void pass_tick(struct puller *p)
{
    struct pass *s = &p->pass;

    if (!p->has_view)
        return;
    if (!s->active) {
        if (!slots_pass(p))
            return;
        s->link->users++;
    }
    s->link->used_ns = p->own.used_ns = p->now_ns;
    pass_list(p);
    while (pass_haul(p))
        ;
    pass_list(p);
    if (pass_over(s))
        pass_end(p);
}

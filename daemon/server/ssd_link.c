/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests, headers and bad news between lanes; what a log asks of its owner
 * (ssd_link.h). A struct mail is the receiver's from its post until the
 * receiver posts it back: a request carries its own, the owner's questions lie
 * in arrays with one for each device and lane. */
#include "server/ssd_link.h"

#include "base/log.h"
#include "base/mem.h"
#include "server/ctl_mail.h"
#include "server/lane.h"

const char *ssd_state_name(enum seglog_state state)
{
    switch (state) {
    case SEGLOG_CLOSED:
        return "closed";
    case SEGLOG_OPENING:
        return "opening";
    case SEGLOG_OPEN:
        return "open";
    case SEGLOG_READ_ONLY:
        return "read_only";
    case SEGLOG_FAILED:
        return "failed";
    case SEGLOG_RETIRING:
        return "retiring";
    case SEGLOG_RETIRED:
        return "retired";
    }
    return "?";
}

static void post(const struct ssd_node *node, uint32_t lane, struct mail *m)
{
    MUST(mailbox_post(&node->lanes[lane]->mailbox, m) == OK);
}

/* ---- Requests ------------------------------------------------------------ */

static void submit_away(struct ssd_link *k, struct seg_req *r);

/* Requester's thread. */
static void req_returned(struct mail *m, void *lane)
{
    struct seg_req *r = container_of(m, struct seg_req, mail);
    struct ssd_link *k = &((struct lane *)lane)->link;
    struct list *n;

    k->away--;
    n = list_pop(&k->waiting);
    if (n)
        submit_away(k, container_of(n, struct seg_req, node));
    r->done = r->home;
    r->done(r);
}

/* Owner's thread: the log is done with a request of another lane. */
static void req_done(struct seg_req *r)
{
    struct ssd_link *k = r->carrier;

    r->mail.fn = req_returned;
    post(k->node, k->lane->idx, &r->mail);
}

/* Owner's thread. Without a log (one that was to be replaced and could not be
 * made) nothing is stored. */
static void req_arrived(struct mail *m, void *lane)
{
    struct seg_req *r = container_of(m, struct seg_req, mail);
    struct lane *l = lane;

    if (l->link.logs[r->dev].log) {
        seglog_submit(l->link.logs[r->dev].log, r);
        return;
    }
    r->err = ERR_BUSY;
    req_done(r);
}

static void submit_away(struct ssd_link *k, struct seg_req *r)
{
    k->away++;
    r->carrier = k;
    r->home = r->done;
    r->done = req_done;
    r->mail.fn = req_arrived;
    post(k->node, ssd_owner(k->node, r->dev), &r->mail);
}

static void link_submit(struct ssd *ssd, struct seg_req *r)
{
    struct ssd_link *k = ssd->arg;

    MUST(r->dev < ssd->n);
    if (k->logs[r->dev].log) {
        seglog_submit(k->logs[r->dev].log, r);
    } else if (k->away < SSD_LINK_REQS) {
        submit_away(k, r);
    } else {
        list_init(&r->node);
        list_add_tail(&k->waiting, &r->node);
    }
}

/* ---- Headers shown ------------------------------------------------------- */

static struct ssd_ask *ask_of(struct mail *m)
{
    return container_of(m, struct ssd_ask, mail);
}

/* Back at the owner. */
static void show_returned(struct mail *m, void *lane)
{
    struct ssd_ask *a = ask_of(m);
    struct ssd_log *g = &a->owner->logs[a->dev];

    (void)lane;
    if (--g->shown_left == 0)
        seglog_reclaimed(g->log);
}

static void show_arrived(struct mail *m, void *lane)
{
    struct ssd_ask *a = ask_of(m);
    struct ssd_link *owner = a->owner;

    store_reclaim(((struct lane *)lane)->store, &owner->logs[a->dev].shown);
    a->mail.fn = show_returned;
    post(owner->node, owner->lane->idx, &a->mail);
}

/* All lanes at once, the own one by mail too: nothing is answered inside. */
static void log_reclaim(void *arg, const struct seg_reclaim *r)
{
    struct ssd_log *g = arg;
    struct ssd_link *k = g->link;
    uint32_t lanes = k->node->lane_n;

    MUST(g->shown_left == 0);
    g->shown = *r;
    g->shown_left = lanes;
    for (uint32_t i = 0; i < lanes; i++) {
        struct ssd_ask *a = &k->shows[g->dev * lanes + i];

        *a = (struct ssd_ask){
            .mail.fn = show_arrived, .owner = k, .dev = g->dev};
        post(k->node, i, &a->mail);
    }
}

/* ---- Devices lost -------------------------------------------------------- */

static void lost_post(struct ssd_ask *a);

static void lost_returned(struct mail *m, void *lane)
{
    struct ssd_ask *a = ask_of(m);

    (void)lane;
    a->out = false;
    if (a->again)
        lost_post(a);
}

static void lost_arrived(struct mail *m, void *lane)
{
    struct ssd_ask *a = ask_of(m);

    store_ssd_lost(((struct lane *)lane)->store, a->dev);
    a->mail.fn = lost_returned;
    post(a->owner->node, a->owner->lane->idx, &a->mail);
}

static void lost_post(struct ssd_ask *a)
{
    a->again = false;
    a->out = true;
    a->mail.fn = lost_arrived;
    post(a->owner->node, a->lane, &a->mail);
}

static void log_lost(struct ssd_log *g)
{
    struct ssd_link *k = g->link;
    uint32_t lanes = k->node->lane_n;

    for (uint32_t i = 0; i < lanes; i++) {
        struct ssd_ask *a = &k->losts[g->dev * lanes + i];

        a->owner = k;
        a->dev = g->dev;
        a->lane = i;
        if (a->out) /* the lane may have looked already */
            a->again = true;
        else
            lost_post(a);
    }
}

static void log_changed(void *arg, enum seglog_state to, const char *why)
{
    struct ssd_log *g = arg;
    struct ssd_dev *d = &g->link->node->devs[g->dev];

    __atomic_store_n(&d->why, why, __ATOMIC_RELEASE);
    LOG(to == SEGLOG_RETIRING || to == SEGLOG_RETIRED ? LOG_NOTICE : LOG_ERROR,
        "ssd_state", "ssd=%s state=%s why=%s", LOG_STR(d->path),
        ssd_state_name(to), LOG_STR(why));
    if (to == SEGLOG_FAILED || to == SEGLOG_RETIRED)
        log_lost(g);
}

/* ---- Opening and closing ------------------------------------------------- */

/* The lane that has a key of this namespace and generation, or NULL. */
static struct lane *lane_of_key(const struct ssd_node *node,
                                const struct store_key *k, uint64_t generation)
{
    const struct registry_ns *ns;
    uint32_t slot;

    if (lane_ns_find(node->lanes[0], k->ns, generation, &ns))
        return NULL;
    slot = hash_slot(ns->slot_seed, k->route_len ? k->route : k->key,
                     k->route_len ? k->route_len : k->key_len);
    return node->lanes[slot % node->lane_n];
}

static void log_record(void *arg, const struct seg_meta *m, struct seg_place p)
{
    struct ssd_log *g = arg;
    struct lane *l = lane_of_key(g->link->node, &m->key, m->ns_generation);

    if (l)
        (void)store_adopt(l->store, m, &p);
}

static void log_check(void *arg, const struct seg_check *c)
{
    const struct ssd_node *node = ((struct ssd_log *)arg)->link->node;

    if (c->lane < node->lane_n)
        (void)store_adopt_check(node->lanes[c->lane]->store, c);
}

/* A tomb does not say the route: whose it is only the hash knows. */
static void log_tomb(void *arg, const struct seg_tomb *t)
{
    const struct ssd_node *node = ((struct ssd_log *)arg)->link->node;

    for (uint32_t i = 0; i < node->lane_n; i++)
        store_adopt_tomb(node->lanes[i]->store, t);
}

static void log_opened(void *arg, enum err e, const struct errmsg *m)
{
    struct ssd_log *g = arg;

    g->opened = true;
    g->err = e;
    if (e && m)
        g->msg = *m;
    if (!e)
        __atomic_store_n(&g->link->node->devs[g->dev].why, "",
                         __ATOMIC_RELEASE);
    if (g->asked)
        ctl_ack(g->asked, e);
    g->asked = NULL;
}

static bool log_check_next(void *arg, struct seg_check *out)
{
    struct ssd_log *g = arg;
    const struct ssd_node *node = g->link->node;

    while (g->check_lane < node->lane_n) {
        if (store_check_next(node->lanes[g->check_lane]->store, g->dev,
                             &g->cursor, out)) {
            out->lane = (uint16_t)g->check_lane;
            return true;
        }
        g->check_lane++;
        g->cursor = 0;
    }
    return false;
}

static void log_closed(void *arg, enum err e)
{
    struct ssd_log *g = arg;

    g->closed = true;
    g->err = e;
}

static struct seglog_cfg log_cfg(const struct config *c,
                                 const struct ssd_dev *d, uint32_t dev,
                                 uint32_t lanes)
{
    uint64_t rate = 0;

    MUST(config_ssd_budget(c->ssd.write_budget, d->bytes, &rate));
    return (struct seglog_cfg){
        .dev = dev,
        .lanes = lanes,
        .bytes = d->bytes,
        .segment_bytes = c->ssd.segment_bytes,
        .group_bytes = MIB(16),
        .linger_ns = c->ssd.linger_us * NS_PER_US,
        .write_rate = rate,
        .write_burst = max_u64(c->ssd.segment_bytes, rate),
        .again_pct = (uint32_t)c->ssd.reinsert_pct,
        .scrub_rate = c->ssd.scrub_bytes,
        .hang_ns = c->ssd.io_timeout_us * NS_PER_US,
        .discard = c->ssd.discard && !d->is_file,
        .writer = "pikvd " PIKV_VERSION,
    };
}

enum err ssd_link_open(struct ssd_link *k, uint32_t dev,
                       enum seglog_open_how how, const uint8_t uuid[16],
                       struct errmsg *m)
{
    struct lane *l = k->lane;
    struct ssd_log *g = &k->logs[dev];
    struct ssd_dev *d = &k->node->devs[dev];
    struct seglog_cfg cfg = log_cfg(l->cfg, d, dev, k->node->lane_n);
    struct seglog_host host = {
        .arg = g,
        .record = log_record,
        .check = log_check,
        .tomb = log_tomb,
        .opened = log_opened,
        .reclaim = log_reclaim,
        .check_next = log_check_next,
        .closed = log_closed,
        .changed = log_changed,
    };
    enum err e;

    MUST(ssd_owner(k->node, dev) == l->idx && !g->log);
    *g = (struct ssd_log){.link = k, .dev = dev};
    e = seglog_new(&g->log, &cfg, k->ssd.disk, &l->env, &l->metrics, &l->trace,
                   &d->map, &host);
    if (e)
        return errmsg_set(m, e, "ssd.paths: %s: %s", d->path,
                          e == ERR_LIMIT ? "too small for 8 segments"
                                         : "no memory for its tables");
    seglog_open(g->log, how, uuid);
    return OK;
}

void ssd_link_close(struct ssd_link *k, bool checkpoint)
{
    for (uint32_t i = 0; i < k->ssd.n; i++) {
        struct ssd_log *g = &k->logs[i];

        if (!g->log)
            continue;
        g->closed = false;
        g->check_lane = 0;
        g->cursor = 0;
        seglog_close(g->log, checkpoint);
    }
}

bool ssd_link_closed(const struct ssd_link *k)
{
    for (uint32_t i = 0; i < k->ssd.n; i++)
        if (k->logs[i].log && !k->logs[i].closed)
            return false;
    return true;
}

bool ssd_link_quiet(const struct ssd_link *k)
{
    return k->ssd.n == 0 || (k->ssd.disk->in_flight == 0 && k->away == 0 &&
                             list_empty(&k->waiting));
}

/* ---- What an operator asks (ctl_mail.h) ---------------------------------- */

void lane_ssd_info_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    const struct ssd_link *k = &((struct lane *)lane)->link;

    for (uint32_t d = 0; d < k->ssd.n; d++) {
        if (!k->logs[d].log)
            continue;
        seglog_info(k->logs[d].log, &ask->job->ssds[d].info);
        ask->job->ssds[d].msg = k->logs[d].msg;
    }
    ctl_ack(ask, OK);
}

void lane_ssd_retire_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    const struct ssd_link *k = &((struct lane *)lane)->link;
    uint32_t d = ask->job->ssd_dev;
    enum err e = OK;

    if (k->logs[d].log && !seg_map_writable(k->ssd.maps[d]))
        e = ERR_BAD_REQUEST;
    else if (k->logs[d].log)
        seglog_retire(k->logs[d].log);
    ctl_ack(ask, e);
}

/* Only of a device that is out of service: nobody reads it any more. */
void lane_ssd_forget_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    struct lane *l = lane;
    uint32_t d = ask->job->ssd_dev;

    switch (seg_map_state(l->link.ssd.maps[d])) {
    case SEGLOG_CLOSED: /* could not be opened, or not be replaced */
    case SEGLOG_FAILED:
    case SEGLOG_RETIRED:
        store_ssd_lost(l->store, d);
        ctl_ack(ask, OK);
        return;
    case SEGLOG_OPENING:
    case SEGLOG_OPEN:
    case SEGLOG_READ_ONLY:
    case SEGLOG_RETIRING:
        ctl_ack(ask, ERR_BAD_REQUEST);
        return;
    }
}

/* Lanes that were told of its loss and have not answered: what they forget must
 * not be of the log that comes. */
static bool lost_out(const struct ssd_link *k, uint32_t dev)
{
    for (uint32_t i = 0; i < k->node->lane_n; i++)
        if (k->losts[dev * k->node->lane_n + i].out)
            return true;
    return false;
}

static bool has_readers(const struct seg_map *map)
{
    for (uint32_t i = 0; map->readers && i < map->segments; i++)
        if (__atomic_load_n(&map->readers[i], __ATOMIC_ACQUIRE))
            return true;
    return false;
}

/* A new log in place of the old one. It takes its tables from the system, once
 * for every time that an operator asks. */
void lane_ssd_replace_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    struct ssd_link *k = &((struct lane *)lane)->link;
    uint32_t d = ask->job->ssd_dev;
    struct ssd_log *g = &k->logs[d];
    struct errmsg why;
    enum err e = OK;

    if (ssd_owner(k->node, d) != k->lane->idx) {
        ctl_ack(ask, OK);
        return;
    }
    if (g->log && (!seglog_idle(g->log) || g->shown_left || lost_out(k, d) ||
                   has_readers(k->ssd.maps[d]))) {
        ctl_ack(ask, ERR_BUSY);
        return;
    }
    seglog_free(g->log);
    g->log = NULL; /* stays so if there is no memory: replace once more */
    e = ssd_link_open(k, d, SEGLOG_FORMAT, ask->job->ssd_uuid, &why);
    if (e) {
        LOG(LOG_ERROR, "ssd_not_replaced", "error=%s", LOG_STR(why.text));
        ctl_ack(ask, e);
        return;
    }
    g->asked = ask;
}

/* ---- Turns --------------------------------------------------------------- */

bool ssd_link_turn(struct ssd_link *k)
{
    bool more;

    if (k->ssd.n == 0)
        return false;
    more = k->ssd.disk->ops->progress(k->ssd.disk);
    for (uint32_t d = 0; d < k->ssd.n; d++)
        if (k->logs[d].log)
            more |= seglog_tick(k->logs[d].log);
    return more;
}

bool ssd_link_flush(struct ssd_link *k)
{
    return k->ssd.n && k->ssd.disk->in_flight &&
           k->ssd.disk->ops->progress(k->ssd.disk);
}

uint64_t ssd_link_next_ns(const struct ssd_link *k)
{
    uint64_t next = DEADLINE_NEVER;

    for (uint32_t d = 0; d < k->ssd.n; d++)
        if (k->logs[d].log)
            next = min_u64(next, seglog_next_ns(k->logs[d].log));
    return next;
}

/* ---- Life ---------------------------------------------------------------- */

static size_t asks_bytes(const struct ssd_link *k)
{
    return (size_t)DISK_DEVS * k->node->lane_n * sizeof(struct ssd_ask);
}

/* Blocks being written and loaded cannot be evicted: a slow SSD must not hold
 * so much memory that PUTs wait for it, whatever the windows are. */
enum err ssd_link_init(struct ssd_link *k, struct lane *l,
                       struct ssd_node *node, struct disk *disk)
{
    uint64_t part = l->dram_bytes / l->lanes;

    MUST(node->n > 0 && node->n <= DISK_DEVS && node->lane_n == l->lanes);
    *k = (struct ssd_link){
        .ssd = {.disk = disk,
                .n = node->n,
                .lane = l->idx,
                .lanes = l->lanes,
                .submit = link_submit,
                .arg = k,
                .write_window =
                    min_u64(l->cfg->ssd.write_window_bytes, part / 4),
                .load_window =
                    min_u64(l->cfg->ssd.load_window_bytes, part / 2)},
        .node = node,
        .lane = l,
    };
    list_init(&k->waiting);
    for (uint32_t i = 0; i < node->n; i++)
        k->ssd.maps[i] = &node->devs[i].map;
    ssd_link_config(k, l->cfg);
    k->shows = mem_reserve(asks_bytes(k));
    k->losts = mem_reserve(asks_bytes(k));
    if (!k->shows || !k->losts)
        return ERR_NO_MEMORY;
    return store_ssd_set(l->store, &k->ssd);
}

void ssd_link_fini(struct ssd_link *k)
{
    if (!k->node)
        return;
    for (uint32_t d = 0; d < k->ssd.n; d++)
        seglog_free(k->logs[d].log);
    mem_release(k->shows, asks_bytes(k));
    mem_release(k->losts, asks_bytes(k));
    *k = (struct ssd_link){0};
}

void ssd_link_config(struct ssd_link *k, const struct config *c)
{
    k->ssd.second_touch = c->ssd.promote == PROMOTE_SECOND_TOUCH;
}

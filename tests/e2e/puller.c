/* SPDX-License-Identifier: Apache-2.0
 *
 * The puller between two real daemons and a view made by hand.
 *
 *     e2e_puller fill ADDRESS [name=value ...]   stores blocks
 *     e2e_puller check ADDRESS ...               all are there, byte for byte,
 *                                                with what was said of them
 *     e2e_puller count ADDRESS ...               how many are there
 *     e2e_puller pull FROM OWN ...               brings them from FROM to OWN
 *     e2e_puller want FROM OWN ...               asks for each, as a lane does
 *     e2e_puller drop ADDRESS ...                EVICT of each
 *     e2e_puller flush ADDRESS ...               a new generation of both
 *       n=N size=N   blocks, and bytes of the longest
 *       first=N      of the blocks, the first one's number
 *       how=in|rest|copy2|hot   why they are pulled (moves.h)
 *       part=N       pull: only slots below N; the others are FROM's alone
 *       rate=N       bytes a second
 *       demote=1     fill: they go to the SSD
 *       gone=1       check: none is there
 *       view=1       by the cluster's view: a client as others
 *       step=N       every Nth block only
 *       absent=N     want: so many keys that nobody has, besides
 *       seconds=N    at most (20)
 *
 * A block's bytes, length and attributes follow from its number: every third
 * is in a second namespace with groups, every fifth has a route of its own,
 * every seventh a scope, every fourth a parent, every tenth a time to live.
 * stdout: one line of name=value pairs. Status 0 if all is as it must be, 3 if
 * bytes or attributes are wrong, 2 for everything else. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/pikv.h"
#include "base/hash.h"
#include "pikv.pb-c.h"
#include "server/lane.h"
#include "server/puller.h"

enum { SPACES = 2, NAME = 32 };

struct test {
    uint64_t n, size, first, part, rate, demote, gone, absent, seconds, view,
        step;
    const char *how;
    struct pikv *kv;
    uint32_t ns[SPACES];
    uint8_t *buf;
};

static void die(const char *what, int e)
{
    fprintf(stderr, "%s: %s: %s\n", what, pikv_error_name(e),
            pikv_last_error());
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- a block by its number ---- */

struct block {
    char key[NAME], route[NAME], parent[NAME];
    uint8_t scope[16];
    uint64_t len;
    uint32_t space;
    struct pikv_put put;
};

static uint64_t mix(uint64_t v)
{
    v *= UINT64_C(0x9e3779b97f4a7c15);
    return v ^ v >> 29;
}

static void block_of(const struct test *t, uint64_t i, struct block *b)
{
    struct pikv_key *k = &b->put.key;

    memset(b, 0, sizeof(*b));
    snprintf(b->key, NAME, "block-%" PRIu64, i);
    b->len = 1 + mix(i) % t->size;
    if (i % 11 == 0)
        b->len = t->size;
    b->space = i % 3 == 0;
    k->key = (struct pikv_bytes){b->key, strlen(b->key)};
    k->group = b->space ? (uint16_t)(i % 2) : 0;
    k->cls = (uint8_t)(i % 13 == 0 ? 2 : 0);
    if (i % 5 == 0) {
        snprintf(b->route, NAME, "way-%" PRIu64, i / 10);
        k->route = (struct pikv_bytes){b->route, strlen(b->route)};
    }
    if (i % 7 == 0) {
        memset(b->scope, (int)(1 + i % 200), sizeof(b->scope));
        k->scope = b->scope;
    }
    if (i % 4 == 0 && i >= 12) {
        snprintf(b->parent, NAME, "block-%" PRIu64, i - 12);
        b->put.parent = (struct pikv_bytes){b->parent, strlen(b->parent)};
    }
    b->put.ttl_ms = i % 10 == 0 ? 600000 : 0;
    b->put.page = (uint32_t)i;
    b->put.token_end = (uint32_t)(16 * i);
    b->put.token_n = 16;
    b->put.affinity = i % 6;
    b->put.priority = (uint8_t)(i % 9);
    b->put.labels[0] = i % 8;
    b->put.labels[2] = 1000 + i;
    b->put.replicas = (uint8_t)(i % 4 == 1 ? 2 : i % 4 == 2 ? 3 : 0);
}

static void fill_bytes(uint8_t *p, uint64_t n, uint64_t i)
{
    uint64_t v = mix(i + 77);

    for (uint64_t k = 0; k < n; k++) {
        if (k % 8 == 0)
            v = mix(v + k);
        p[k] = (uint8_t)(v >> k % 8 * 8);
    }
}

/* ---- clients ---- */

static void open_spaces(struct test *t, bool create)
{
    static const struct pikv_group groups[] = {
        {.id = 0, .kind = "attention", .layers = 4, .dtype = "bf16"},
        {.id = 1, .kind = "sliding", .layers = 2, .tokens_per_block = 16}};
    struct pikv_namespace one = {.name = "plain", .create = create};
    struct pikv_namespace two = {.name = "model/x", .create = create};
    int e;

    if (create) {
        two.model = "x-7b";
        two.dtype = "bf16";
        two.parallel_layout = "tp=1";
        two.groups = groups;
        two.group_n = 2;
        two.share = 7;
    }
    e = pikv_namespace_open(t->kv, &one, &t->ns[0], NULL);
    if (!e)
        e = pikv_namespace_open(t->kv, &two, &t->ns[1], NULL);
    if (e)
        die("namespace", e);
}

static void connect_to(struct test *t, const char *address, bool create)
{
    struct pikv_options o = {.address = address, .no_view = !t->view};
    int e = pikv_open(&o, &t->kv);

    if (e)
        die(address, e);
    t->buf = malloc(t->size);
    if (!t->buf)
        die("memory", PIKV_NO_MEMORY);
    open_spaces(t, create);
}

static int fill(struct test *t, const char *address)
{
    struct pikv_call call = {.deadline_us = 5000000, .here = !t->view};
    struct pikv_result r;
    struct block b;

    connect_to(t, address, true);
    for (uint64_t i = t->first; i < t->first + t->n; i += t->step) {
        int e;

        block_of(t, i, &b);
        fill_bytes(t->buf, b.len, i);
        b.put.data = (struct pikv_bytes){t->buf, b.len};
        e = pikv_put_sync(t->kv, t->ns[b.space], &b.put, 1, &call, &r);
        if (e || r.status)
            die("put", e ? e : r.status);
    }
    for (uint32_t s = 0; t->demote && s < SPACES; s++) {
        struct pikv_call away = {.deadline_us = 20000000, .demote = true};
        uint64_t id;
        int e = pikv_evict(t->kv, t->ns[s], PIKV_NAMESPACE, NULL, 0, 0, &away,
                           NULL, &id);

        if (!e)
            e = pikv_wait(t->kv, id, NULL);
        if (e)
            die("demote", e);
    }
    printf("stored=%" PRIu64 "\n", t->n);
    return 0;
}

/* What INSPECT says of it; NULL: it is not there. */
static Pikv__InspectReply *inspect(struct test *t, const struct block *b,
                                   uint32_t lane)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
    Pikv__InspectReply *rep = NULL;
    uint8_t buf[512];
    void *reply;
    size_t len;
    int e;

    if (pikv_namespace_id(t->kv, t->ns[b->space], &m.ns, &m.generation))
        die("id", PIKV_INTERNAL);
    m.key.data = (uint8_t *)(uintptr_t)b->key;
    m.key.len = strlen(b->key);
    m.group = b->put.key.group;
    if (b->put.key.scope) {
        m.scope.data = (uint8_t *)(uintptr_t)b->scope;
        m.scope.len = sizeof(b->scope);
    }
    e = pikv_admin(t->kv, "inspect", (int)lane, buf,
                   pikv__inspect_request__pack(&m, buf), &reply, &len, NULL);
    if (!e)
        rep = pikv__inspect_reply__unpack(NULL, len, reply);
    pikv_reply_free(reply);
    return rep;
}

static bool same_attr(const struct block *b, const Pikv__BlockInfo *i)
{
    const struct pikv_put *p = &b->put;
    bool ttl = p->ttl_ms ? i->ttl_left_ms > p->ttl_ms / 2 &&
                               i->ttl_left_ms <= p->ttl_ms
                         : i->ttl_left_ms == 0;

    return ttl && i->page == p->page && i->token_end == p->token_end &&
           i->token_n == p->token_n && i->affinity == p->affinity &&
           i->priority == p->priority && i->cls == p->key.cls &&
           i->parent.len == p->parent.len &&
           memcmp(i->parent.data ? (const char *)i->parent.data : "", b->parent,
                  p->parent.len) == 0 &&
           i->route.len == p->key.route.len &&
           memcmp(i->route.data ? (const char *)i->route.data : "", b->route,
                  p->key.route.len) == 0 &&
           i->n_labels > 0 && i->labels[i->n_labels - 1] == p->labels[2];
}

/* -1: wrong, 0: not there, 1: there and right. */
static int look(struct test *t, uint64_t i, uint32_t lanes)
{
    struct pikv_call call = {.deadline_us = 5000000, .here = !t->view};
    struct pikv_get get = {0};
    struct pikv_result r;
    struct block b;
    bool good = false;
    uint8_t *want;
    int e;

    block_of(t, i, &b);
    get.key = b.put.key;
    get.data = (struct pikv_buf){t->buf, t->size};
    e = pikv_get_sync(t->kv, t->ns[b.space], &get, 1, &call, &r);
    if (e || (r.status && r.status != PIKV_MISS))
        die("get", e ? e : r.status);
    if (r.status)
        return 0;
    want = malloc(b.len);
    if (!want)
        die("memory", PIKV_NO_MEMORY);
    fill_bytes(want, b.len, i);
    good = r.len == b.len && memcmp(want, t->buf, b.len) == 0;
    free(want);
    for (uint32_t lane = 0; good && lane < lanes; lane++) {
        Pikv__InspectReply *rep = inspect(t, &b, lane);

        if (!rep)
            continue;
        good = rep->n_blocks == 1 && same_attr(&b, rep->blocks[0]);
        pikv__inspect_reply__free_unpacked(rep, NULL);
    }
    if (!good)
        fprintf(stderr, "wrong: %s len %" PRIu64 " of %" PRIu64 "\n", b.key,
                r.len, b.len);
    return good ? 1 : -1;
}

static int check(struct test *t, const char *address, bool counts)
{
    uint64_t there = 0, wrong = 0, asked = 0;
    struct pikv_info info;

    connect_to(t, address, false);
    if (pikv_info(t->kv, &info))
        die("info", PIKV_INTERNAL);
    for (uint64_t i = t->first; i < t->first + t->n; i += t->step) {
        int found = look(t, i, counts || t->view ? 0 : info.lanes);

        asked++;

        there += found > 0;
        wrong += found < 0;
    }
    printf("there=%" PRIu64 " wrong=%" PRIu64 "\n", there, wrong);
    if (wrong)
        return 3;
    return counts || there == (t->gone ? 0 : asked) ? 0 : 3;
}

static int drop(struct test *t, const char *address)
{
    struct pikv_call call = {.deadline_us = 5000000};
    uint64_t gone = 0, missed = 0, again = 0;

    connect_to(t, address, false);
    for (uint64_t i = t->first; i < t->first + t->n; i += t->step) {
        struct pikv_result r;
        struct block b;
        uint64_t id;
        int e;

        block_of(t, i, &b);
        e = pikv_evict(t->kv, t->ns[b.space], PIKV_KEYS, &b.put.key, 1, 0,
                       &call, &r, &id);
        if (!e)
            e = pikv_wait(t->kv, id, NULL);
        if (!e && r.status && r.status != PIKV_MISS)
            e = r.status;
        /* The view changed under it, more than once: to be said again, and
         * counted, for the library could not settle it. */
        if (e == PIKV_STALE_EPOCH && again < 100 * t->n) {
            again++;
            i -= t->step;
            continue;
        }
        if (e)
            die("drop", e);
        gone += r.status == 0;
        missed += r.status != 0;
    }
    printf("gone=%" PRIu64 " missed=%" PRIu64 " again=%" PRIu64 "\n", gone,
           missed, again);
    return 0;
}

static int flush(struct test *t, const char *address)
{
    connect_to(t, address, false);
    for (uint32_t i = 0; i < SPACES; i++) {
        int e = pikv_namespace_bump(t->kv, t->ns[i], NULL);

        if (e)
            die("flush", e);
    }
    return 0;
}

/* ---- pulling ---- */

static struct config cfg;
static uint8_t told[WIRE_SLOTS];
static uint32_t told_n;

static void moved(void *arg, uint32_t slot, uint64_t epoch)
{
    (void)arg;
    (void)epoch;
    if (!__atomic_exchange_n(&told[slot], 1, __ATOMIC_RELAXED))
        __atomic_fetch_add(&told_n, 1, __ATOMIC_RELEASE);
}

static void node_of(struct node *n, const char *address)
{
    *n = (struct node){.state = NODE_UP, .lane_n = 1, .weight = 1, .host = 1};
    snprintf(strncmp(address, "shm:", 4) ? n->ucx : n->shm, NODE_ADDR_MAX, "%s",
             address);
}

static uint32_t make_view(const struct test *t, struct view *v,
                          const char *from, const char *own)
{
    uint32_t all = t->part ? (uint32_t)t->part : WIRE_SLOTS;

    if (view_init(v) || view_room(v, 2))
        die("view", PIKV_NO_MEMORY);
    v->node_n = 2;
    node_of(&v->nodes[0], from);
    node_of(&v->nodes[1], own);
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        struct slot *s = &v->slots[i];

        s->owner[0] = 0;
        if (i >= all)
            continue;
        if (strcmp(t->how, "in") == 0) {
            s->to = 1;
        } else if (strcmp(t->how, "rest") == 0) {
            s->owner[0] = 1;
            s->from = 0;
        } else {
            s->owner[1] = 1;
            s->heat = strcmp(t->how, "hot") == 0;
        }
    }
    return t->how[0] == 'i' || t->how[0] == 'r' ? all : 0;
}

static struct puller *puller_for(const struct test *t, const char *own)
{
    struct puller_cfg pc = {.cfg = &cfg, .host = 1, .moved = moved};
    struct puller *p;
    struct errmsg m;

    config_defaults(&cfg);
    cfg.cluster.move_rate_bytes = t->rate ? t->rate : UINT64_C(1) << 40;
    snprintf(pc.self_shm, sizeof(pc.self_shm), "%s", own);
    if (puller_open(&pc, &p, &m))
        die(m.text, PIKV_INTERNAL);
    return p;
}

static void print_stats(const struct puller *p, uint64_t begin_ns)
{
    struct puller_stats s;

    puller_stats(p, &s);
    printf("moved=%u blocks=%" PRIu64 " bytes=%" PRIu64 " exists=%" PRIu64
           " failed=%" PRIu64 " refused=%" PRIu64 " passes=%" PRIu64
           " wants=%" PRIu64 " hits=%" PRIu64 " seconds=%.3f\n",
           __atomic_load_n(&told_n, __ATOMIC_ACQUIRE), s.blocks, s.bytes,
           s.exists, s.failed, s.refused, s.passes, s.wants, s.want_hits,
           (double)(now_ns() - begin_ns) / 1e9);
}

/* Copies are not told: done is when nothing came for a while after a pass. */
static bool pulled(const struct puller *p, uint32_t want)
{
    struct puller_stats s;

    if (want)
        return __atomic_load_n(&told_n, __ATOMIC_ACQUIRE) == want;
    puller_stats(p, &s);
    return s.passes > 0;
}

/* Bytes a second from the first blocks on: without connecting. */
struct pace {
    uint64_t bytes, ns;
};

static void pace_look(struct pace *r, const struct puller *p, bool last)
{
    struct puller_stats s;

    if (r->ns && !last)
        return;
    puller_stats(p, &s);
    if (!last && s.bytes)
        *r = (struct pace){s.bytes, now_ns()};
    else if (last && r->ns)
        printf("pace=%" PRIu64 " ",
               (uint64_t)((double)(s.bytes - r->bytes) * 1e9 /
                          (double)(now_ns() - r->ns)));
}

static int pull(struct test *t, const char *from, const char *own)
{
    struct puller *p = puller_for(t, own);
    uint64_t begin_ns = now_ns();
    struct pace pace = {0};
    struct view v;
    uint32_t want = make_view(t, &v, from, own);
    bool done;

    puller_view(p, &v, 1);
    while (!(done = pulled(p, want)) &&
           now_ns() - begin_ns < t->seconds * NS_PER_S) {
        pace_look(&pace, p, false);
        usleep(200);
    }
    pace_look(&pace, p, true);
    print_stats(p, begin_ns);
    puller_close(p);
    view_fini(&v);
    return done ? 0 : 2;
}

/* ---- wants ---- */

static struct lane lane;
static uint32_t hits, misses;

static void wanted(struct mail *m, void *arg)
{
    struct puller_want *w = container_of(m, struct puller_want, mail);

    (void)arg;
    if (w->err == OK)
        hits++;
    else
        misses++;
}

static void want_one(struct test *t, struct puller *p, uint64_t i,
                     struct puller_want *w)
{
    struct block b;

    block_of(t, i, &b);
    *w = (struct puller_want){
        .lane = &lane,
        .from = 0,
        .group = b.put.key.group,
        .cls = b.put.key.cls,
        .key_len = (uint16_t)b.put.key.key.len,
        .deadline_ns = now_ns() + t->seconds * NS_PER_S,
        .done = wanted,
    };
    snprintf(w->space, sizeof(w->space), "%s", b.space ? "model/x" : "plain");
    memcpy(w->key, b.key, w->key_len);
    memcpy(w->scope, b.scope, sizeof(w->scope));
    /* Which lane there has it follows from the slot: ask as if for each. */
    w->slot = (uint32_t)(i % 64);
    puller_want(p, w);
}

static int want(struct test *t, const char *from, const char *own)
{
    uint32_t n = (uint32_t)(t->n + t->absent);
    struct puller_want *w = calloc(n, sizeof(*w));
    uint64_t begin_ns = now_ns();
    struct puller *p;
    struct view v;

    if (!w)
        die("memory", PIKV_NO_MEMORY);
    t->how = "rest";
    connect_to(t, own, true); /* a lane has the namespaces it is asked for */
    p = puller_for(t, own);
    t->part = 1; /* next to nothing is moved */
    (void)make_view(t, &v, from, own);
    puller_view(p, &v, 1);
    mailbox_init(&lane.mailbox, n, NULL, NULL);
    for (uint32_t i = 0; i < n; i++)
        want_one(t, p, t->first + i, &w[i]);
    while (hits + misses < n && now_ns() - begin_ns < t->seconds * NS_PER_S)
        if (!mailbox_run(&lane.mailbox, &lane, n))
            usleep(500);
    print_stats(p, begin_ns);
    puller_close(p);
    (void)mailbox_run(&lane.mailbox, &lane, n);
    view_fini(&v);
    pikv_close(t->kv);
    free(t->buf);
    free(w);
    printf("answered=%u hits=%u\n", hits + misses, hits);
    return hits == t->n && hits + misses == n ? 0 : 2;
}

/* ---- arguments ---- */

static void argument(struct test *t, const char *arg)
{
    static const struct {
        const char *name;
        size_t off;
    } rows[] = {
        {"n=", offsetof(struct test, n)},
        {"size=", offsetof(struct test, size)},
        {"first=", offsetof(struct test, first)},
        {"part=", offsetof(struct test, part)},
        {"rate=", offsetof(struct test, rate)},
        {"demote=", offsetof(struct test, demote)},
        {"gone=", offsetof(struct test, gone)},
        {"absent=", offsetof(struct test, absent)},
        {"seconds=", offsetof(struct test, seconds)},
        {"view=", offsetof(struct test, view)},
        {"step=", offsetof(struct test, step)},
    };

    if (strncmp(arg, "how=", 4) == 0)
        t->how = arg + 4;
    for (size_t i = 0; i < countof(rows); i++)
        if (strncmp(arg, rows[i].name, strlen(rows[i].name)) == 0)
            *(uint64_t *)(void *)((char *)t + rows[i].off) =
                strtoull(arg + strlen(rows[i].name), NULL, 10);
}

int main(int argc, char **argv)
{
    struct test t = {
        .n = 1000, .size = 20000, .seconds = 20, .step = 1, .how = "in"};
    const char *what = argc > 1 ? argv[1] : "";

    for (int i = 3; i < argc; i++)
        argument(&t, argv[i]);
    if (argc > 2 && strcmp(what, "fill") == 0)
        return fill(&t, argv[2]);
    if (argc > 2 && strcmp(what, "check") == 0)
        return check(&t, argv[2], false);
    if (argc > 2 && strcmp(what, "count") == 0)
        return check(&t, argv[2], true);
    if (argc > 2 && strcmp(what, "drop") == 0)
        return drop(&t, argv[2]);
    if (argc > 2 && strcmp(what, "flush") == 0)
        return flush(&t, argv[2]);
    if (argc > 3 && strcmp(what, "pull") == 0)
        return pull(&t, argv[2], argv[3]);
    if (argc > 3 && strcmp(what, "want") == 0)
        return want(&t, argv[2], argv[3]);
    fprintf(stderr, "usage: see the top of puller.c\n");
    return 2;
}

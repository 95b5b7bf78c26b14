/* SPDX-License-Identifier: Apache-2.0
 *
 * A handle from pikv_open to pikv_close, and the small public functions: info,
 * error words, administration. The rest of the public interface is in data.c
 * (blocks), progress.c (completions), region.c (memory), namespace.c, loan.c.
 *
 *     open    the addresses given, one after the other: lane 0 is connected and
 *             greeted; it tells the other lanes, which are connected as well,
 *             and the view, if there is one. A lane that does not answer in
 *             time is tried on in the background: lane 0 decides over success.
 *     close   the thread ends; calls in flight are given up as at a deadline;
 *             connections are hung up; everything is freed.
 *
 * Fork: the kernel wipes the page `alive` in the child, so every public
 * function answers FORKED there and touches nothing. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/hash.h"
#include "client/call.h"
#include "client/nodes.h"
#include "client/spread.h"

enum {
    CONNECT_MS = 1000,
    INFLIGHT = 256,
    INFLIGHT_MAX = 65535,
    STAGING_MIB = 64,
    CLOSE_MS = 1000,
};

/* One enum twice: a row that differs stops the build. The row VERSION would
 * name the macro of the library's version, hence its longer name. */
#undef PIKV_VERSION
#define PIKV_VERSION PIKV_VERSION_DIFFERS
#define ERR(name, code, who, text)                                             \
    static_assert(PIKV_##name == (code), "pikv.h and errors.tbl: " #name);
#include "proto/errors.tbl"

static __thread char last_error[512];

int last_error_set(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(last_error, sizeof(last_error), fmt, ap);
    va_end(ap);
    return code;
}

void last_error_clear(void)
{
    last_error[0] = '\0';
}

const char *pikv_last_error(void)
{
    return last_error;
}

const char *pikv_error_name(int code)
{
    return err_name(code);
}

const char *pikv_error_text(int code)
{
    return err_text(code);
}

enum pikv_who pikv_error_who(int code)
{
    static_assert((int)WHO_NOBODY == PIKV_WHO_NOBODY &&
                      (int)WHO_RETRY == PIKV_WHO_RETRY &&
                      (int)WHO_OTHER == PIKV_WHO_OTHER &&
                      (int)WHO_GIVEUP == PIKV_WHO_GIVEUP,
                  "one list");
    return (enum pikv_who)err_who(code);
}

uint32_t pikv_crc32c(uint32_t crc, const void *p, size_t n)
{
    return crc32c(crc, p, n);
}

int handle_check(const struct pikv *kv)
{
    if (!kv)
        return ERR_CLOSED;
    return __atomic_load_n(kv->alive, __ATOMIC_RELAXED) ? OK : ERR_FORKED;
}

/* ---- open ---- */

static int open_alive(struct pikv *kv)
{
    void *p = mmap(NULL, STAGE_UNIT, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return ERR_NO_MEMORY;
    kv->alive = p;
    if (madvise(p, STAGE_UNIT, MADV_WIPEONFORK))
        return ERR_UNSUPPORTED;
    *kv->alive = 1;
    return OK;
}

static int open_locks(struct pikv *kv)
{
    pthread_condattr_t a;

    pthread_mutex_init(&kv->mu, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&kv->cond, &a);
    pthread_condattr_destroy(&a);
    return OK;
}

static int open_calls(struct pikv *kv, uint32_t n)
{
    n = n ? (uint32_t)min_u64(n, INFLIGHT_MAX) : INFLIGHT;
    kv->calls = calloc(n, sizeof(struct call *));
    kv->call_free = calloc(n, sizeof(*kv->call_free));
    if (!kv->calls || !kv->call_free)
        return ERR_NO_MEMORY;
    kv->call_cap = kv->call_free_n = n;
    for (uint32_t i = 0; i < n; i++)
        kv->call_free[i] = n - 1 - i;
    return OK;
}

static int open_fds(struct pikv *kv)
{
    kv->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    kv->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return kv->event_fd < 0 || kv->wake_fd < 0 ? ERR_NO_MEMORY : OK;
}

static int open_words(struct pikv *kv, const struct pikv_options *o,
                      const char *addr)
{
    if (strlen(addr) >= sizeof(kv->address) ||
        (strncmp(addr, "shm:", 4) != 0 && strncmp(addr, "ucx:", 4) != 0))
        return last_error_set(ERR_BAD_REQUEST,
                              "address %.100s: want shm:PATH or ucx:HOST:PORT",
                              addr);
    memcpy(kv->address, addr, strlen(addr) + 1);
    kv->is_ucx = strncmp(addr, "ucx:", 4) == 0;
    snprintf(kv->engine, sizeof(kv->engine), "%s",
             o->engine ? o->engine : program_invocation_short_name);
    snprintf(kv->model, sizeof(kv->model), "%s", o->model ? o->model : "");
    kv->dp_rank = o->dp_rank;
    kv->tp_rank = o->tp_rank;
    kv->pp_rank = o->pp_rank;
    kv->no_view = o->no_view;
    kv->hedge = (uint8_t)o->hedge;
    if (getrandom(&kv->client, sizeof(kv->client), 0) !=
        (ssize_t)sizeof(kv->client))
        return ERR_IO;
    return OK;
}

static struct pikv *open_new(void)
{
    struct pikv *kv = calloc(1, sizeof(*kv));

    if (!kv)
        return NULL;
    kv->event_fd = kv->wake_fd = -1;
    kv->due_ns = DEADLINE_NEVER;
    list_init(&kv->regions);
    list_init(&kv->inflight);
    list_init(&kv->done);
    list_init(&kv->telling);
    list_init(&kv->landing);
    list_init(&kv->free_calls);
    list_init(&kv->free_parts);
    list_init(&kv->rerouted);
    list_init(&kv->waiting);
    open_locks(kv);
    return kv;
}

/* Progress until every lane is up or has failed, or the time is over. */
static int open_connect(struct pikv *kv, uint64_t until)
{
    struct conn *first = kv->conns[0];
    bool started = false;

    for (;;) {
        uint64_t now = now_ns();
        bool all;

        (void)progress_once(kv, now);
        if (first->state == CONN_UP && !started) {
            started = true;
            for (uint32_t i = 1; i < kv->peers[0]->lane_n; i++)
                if (kv->conns[i]->state == CONN_DOWN)
                    conn_dial(kv->conns[i], now);
        }
        if (first->state == CONN_DOWN && first->status != ERR_BUSY)
            return first->status;
        all = !nodes_asking(kv);
        for (uint32_t i = 0; i < kv->peers[0]->lane_n; i++)
            all &= kv->conns[i]->state == CONN_UP ||
                   (i && kv->conns[i]->state == CONN_DOWN &&
                    kv->conns[i]->status != ERR_BUSY);
        if (all && started)
            return OK;
        if (now >= until)
            return started                     ? OK
                   : first->status == ERR_BUSY ? ERR_BUSY
                                               : ERR_TIMEOUT;
        kv->look = true;
        progress_nap(kv, until, now);
    }
}

static int open_all(struct pikv *kv, const struct pikv_options *o,
                    const char *addr, uint64_t until)
{
    struct peer *first;
    int e = open_words(kv, o, addr);

    if (!e)
        e = open_alive(kv);
    if (!e)
        e = open_fds(kv);
    if (!e)
        e = open_calls(kv, o->inflight_max);
    first = e ? NULL : peer_new(kv, 1);
    if (!e && !first)
        e = ERR_NO_MEMORY;
    if (!e && !kv->is_ucx)
        e = staging_init(kv, o->staging_bytes ? o->staging_bytes
                                              : MIB(STAGING_MIB));
    if (!e && kv->is_ucx)
        e = ucx_open(kv);
    if (e)
        return e;
    if (!conn_new(kv, first, 0, kv->address))
        return ERR_NO_MEMORY;
    pthread_mutex_lock(&kv->mu);
    conn_dial(kv->conns[0], now_ns());
    e = open_connect(kv, until);
    pthread_mutex_unlock(&kv->mu);
    return e ? e : progress_start(kv, !o->no_progress_thread);
}

/* One handle for one of the addresses. */
static int open_at(const struct pikv_options *o, const char *addr,
                   uint64_t until, struct pikv **kv_out)
{
    struct pikv *kv = open_new();
    int e;

    if (!kv)
        return ERR_NO_MEMORY;
    last_error_clear();
    e = open_all(kv, o, addr, until);
    if (!e) {
        *kv_out = kv;
        return OK;
    }
    if (!last_error[0])
        (void)last_error_set(e, "%s: %s", addr, err_text(e));
    pikv_close(kv);
    return e;
}

/* In turn; each that is left has an equal part of the time that is left. */
int pikv_open(const struct pikv_options *options, struct pikv **kv_out)
{
    static const struct pikv_options defaults;
    const struct pikv_options *o = options ? options : &defaults;
    const char *at = o->address ? o->address : getenv("PIKV_ADDRESS");
    uint64_t ms = o->connect_ms ? o->connect_ms : CONNECT_MS, now = now_ns();
    uint64_t until = now + ms * NS_PER_MS;
    uint32_t left = 1;
    int e;

    last_error_clear();
    if (!at || !at[0])
        at = "shm:/run/pikvd/pikvd.sock";
    for (const char *p = at; *p; p++)
        left += *p == ',';
    for (;; at += strcspn(at, ",") + 1) {
        char addr[ADDR_MAX + 1];
        size_t n = strcspn(at, ",");

        now = now_ns();
        snprintf(addr, sizeof(addr), "%.*s", (int)min_u64(n, ADDR_MAX), at);
        e = open_at(o, addr, now + (until - min_u64(now, until)) / left,
                    kv_out);
        if (!e || !at[n] || e == ERR_BAD_REQUEST)
            return e;
        left--;
    }
}

/* ---- close ---- */

/* Ends all calls as if their deadline had passed now. */
static void close_calls(struct pikv *kv)
{
    uint64_t now = now_ns(), until = now + CLOSE_MS * NS_PER_MS;

    LIST_FOREACH(l, &kv->inflight)
    {
        struct call *c = container_of(l, struct call, node);

        c->due_ns = min_u64(c->due_ns, now);
        c->deadline_ns = min_u64(c->deadline_ns, now);
    }
    kv->due_ns = now;
    while ((!list_empty(&kv->inflight) || !list_empty(&kv->landing)) &&
           now < until) {
        (void)progress_once(kv, now);
        if (!list_empty(&kv->inflight))
            progress_nap(kv, until, now);
        now = now_ns();
    }
}

static void close_conns(struct pikv *kv)
{
    uint64_t until = now_ns() + CLOSE_MS * NS_PER_MS, now;
    bool quiet = false;

    for (uint32_t i = 0; i < kv->line_n; i++)
        conn_down(kv->conns[i], ERR_CLOSED);
    while (!quiet && (now = now_ns()) < until) {
        quiet = true;
        for (uint32_t i = 0; i < kv->line_n; i++) {
            (void)kv->conns[i]->ops->progress(kv->conns[i], false);
            quiet &= kv->conns[i]->ops->quiet(kv->conns[i]);
        }
        if (!quiet)
            progress_nap(kv, until, now);
    }
}

static void close_call_free(struct call *c)
{
    list_del(&c->node);
    list_del(&c->tell_node);
    free(c->columns);
    free(c->ready);
    spread_free(c->spread);
    free(c);
}

static void close_memory(struct pikv *kv)
{
    struct list *l;

    while (!list_empty(&kv->done))
        call_give(kv, container_of(kv->done.next, struct call, node));
    while (!list_empty(&kv->inflight))
        close_call_free(container_of(kv->inflight.next, struct call, node));
    while (!list_empty(&kv->free_calls))
        close_call_free(container_of(kv->free_calls.next, struct call, node));
    while ((l = list_pop(&kv->free_parts))) {
        struct part *p = container_of(l, struct part, node);

        free(p->idx);
        free(p->dests);
        free(p->iov);
        free(p->msg);
        free(p->frames);
        free(p->side);
        free(p->aside);
        free(p);
    }
    while (!list_empty(&kv->regions))
        region_drop(kv, container_of(kv->regions.next, struct region, node));
    lay_free_all(kv);
    staging_fini(kv);
    loan_unmap_all(kv);
    ns_free_all(kv);
    free(kv->calls);
    free(kv->call_free);
}

void pikv_close(struct pikv *kv)
{
    /* In a forked child everything belongs to the parent. */
    if (!kv || (kv->alive && handle_check(kv)))
        return;
    progress_stop(kv);
    pthread_mutex_lock(&kv->mu);
    kv->closing = true;
    close_calls(kv);
    close_conns(kv);
    pthread_mutex_unlock(&kv->mu);
    close_memory(kv);
    peers_free(kv);
    nodes_fini(kv);
    ucx_close(kv);
    if (kv->event_fd >= 0)
        close(kv->event_fd);
    if (kv->wake_fd >= 0)
        close(kv->wake_fd);
    if (kv->alive)
        munmap(kv->alive, STAGE_UNIT);
    pthread_cond_destroy(&kv->cond);
    pthread_mutex_destroy(&kv->mu);
    free(kv);
}

/* ---- the rest ---- */

int pikv_info(struct pikv *kv, struct pikv_info *out)
{
    int e = handle_check(kv);

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    *out = kv->info;
    nodes_info(kv, out);
    pthread_mutex_unlock(&kv->mu);
    return OK;
}

static uint16_t admin_op(const char *name)
{
    static const struct {
        const char *name;
        uint16_t id;
    } ops[] = {
#define OP_MSG(id, name) {name, id},
#define OP_BATCH(id, name)
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc)                \
    OP_##body(id, #name)
#include "proto/ops.tbl"
    };

    for (uint32_t i = 0; i < countof(ops); i++)
        if (strcmp(ops[i].name, name) == 0)
            return ops[i].id;
    return 0;
}

int pikv_admin(struct pikv *kv, const char *op, int lane, const void *request,
               size_t request_len, void **reply_out, size_t *reply_len_out,
               const struct pikv_call *call)
{
    uint16_t id = admin_op(op);
    int e = handle_check(kv);

    if (e)
        return e;
    if (id == 0)
        return last_error_set(ERR_UNSUPPORTED, "no operation %s", op);
    *reply_out = NULL;
    *reply_len_out = 0;
    pthread_mutex_lock(&kv->mu);
    lane = lane < 0 ? 0 : lane;
    e = ERR_BAD_REQUEST;
    if ((uint32_t)lane < kv->info.lanes)
        e = call_msg_wait(
            kv, kv->conns[lane], id, request, request_len, -1,
            call_deadline_ns(id, call ? call->deadline_us : 0, 0, now_ns()),
            reply_out, reply_len_out);
    pthread_mutex_unlock(&kv->mu);
    return e;
}

void pikv_reply_free(void *reply)
{
    free(reply);
}

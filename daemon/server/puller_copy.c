/* SPDX-License-Identifier: Apache-2.0
 *
 * Hauls: some blocks of one namespace on their way here.
 *
 *     FREE -> LOOKUP here -> HELD (rate) -> GET there -> PUT here -> FREE
 *              | all are here already                     |  ^
 *              +----------------------------------> FREE  +--+ without durable
 *
 * The bytes lie in memory that both daemons know: the source writes it, the own
 * lane reads it; the crc32c that came with a block goes with it, so bytes that
 * changed on the way are refused. Attributes are those of the source's LIST:
 * the time to live is what is left of it.
 *
 * What becomes of a block is counted once: brought; exists; refused (a drop
 * went before it); failed. If it may come later (BUSY, TIMEOUT, RETRY and the
 * like) its slot gets another pass (pass.partial). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fault.h"
#include "server/puller_impl.h"

enum { COPY_LOOKUP_MS = 1000, COPY_RATE_MS = 50 };

/* ---- memory ---- */

static void *memory_map(uint64_t bytes, int *fd_out)
{
    int fd =
        fault_here("puller_memory")
            ? -1
            : memfd_create("pikvd-puller", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *p = MAP_FAILED;

    if (fd < 0)
        return NULL;
    if (ftruncate(fd, (off_t)bytes) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0)
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        close(fd);
        return NULL;
    }
    *fd_out = fd;
    return p;
}

/* The hauls' memory, before the first link. */
enum err copy_memory(struct puller *p)
{
    if (!p->mem)
        p->mem = memory_map((uint64_t)PULLER_HAULS * PULLER_HAUL, &p->mem_fd);
    return p->mem ? OK : ERR_NO_MEMORY;
}

static void big_free(struct big *g)
{
    if (!g->p)
        return;
    munmap(g->p, g->bytes);
    close(g->fd);
    *g = (struct big){.fd = -1};
}

/* After the links are closed. */
void copy_memory_free(struct puller *p)
{
    for (uint32_t i = 0; i < PULLER_BIGS; i++)
        big_free(&p->bigs[i]);
    if (!p->mem)
        return;
    munmap(p->mem, (size_t)PULLER_HAULS * PULLER_HAUL);
    close(p->mem_fd);
    p->mem = NULL;
}

static void big_unregister(struct puller *p, struct big *g)
{
    if (g->with)
        (void)pikv_mem_unregister(g->with, g->p);
    if (g->p && p->own.kv)
        (void)pikv_mem_unregister(p->own.kv, g->p);
    g->with = NULL;
}

void copy_memory_forget(struct puller *p, const struct pikv *kv)
{
    for (uint32_t i = 0; i < PULLER_BIGS; i++)
        if (p->bigs[i].with == kv)
            p->bigs[i].with = NULL;
}

static bool big_grow(struct puller *p, struct big *g, uint64_t bytes)
{
    if (g->bytes >= bytes)
        return true;
    big_unregister(p, g);
    big_free(g);
    g->p = memory_map(align_up(bytes, 2 << 20), &g->fd);
    if (!g->p)
        return false;
    g->bytes = align_up(bytes, 2 << 20);
    if (!pikv_mem_register_fd(p->own.kv, g->fd, 0, g->bytes, g->p))
        return true;
    big_free(g);
    return false;
}

/* Both daemons know it then. It waits for them: a block this long takes longer.
 */
static bool big_ready(struct haul *b, struct big *g, uint64_t bytes)
{
    struct pikv *kv = b->link->kv;

    if (!big_grow(b->p, g, bytes))
        return false;
    if (g->with == kv)
        return true;
    if (g->with)
        (void)pikv_mem_unregister(g->with, g->p);
    g->with = NULL;
    if (pikv_mem_register_fd(kv, g->fd, 0, g->bytes, g->p))
        return false;
    g->with = kv;
    return true;
}

/* false: not now. */
bool haul_mem(struct haul *b, uint64_t bytes)
{
    struct puller *p = b->p;

    b->big = -1;
    b->mem = p->mem + (size_t)(b - p->hauls) * PULLER_HAUL;
    b->mem_bytes = PULLER_HAUL;
    if (bytes <= PULLER_HAUL)
        return true;
    for (int i = 0; i < PULLER_BIGS; i++)
        if (!p->bigs[i].used && big_ready(b, &p->bigs[i], bytes)) {
            p->bigs[i].used = true;
            b->big = i;
            b->mem = p->bigs[i].p;
            b->mem_bytes = p->bigs[i].bytes;
            return true;
        }
    return false;
}

/* ---- a haul's life ---- */

struct haul *haul_new(struct puller *p, bool want)
{
    for (uint32_t i = 0; i < (want ? PULLER_HAULS : PULLER_MOVING); i++) {
        struct haul *b = &p->hauls[want ? PULLER_HAULS - 1 - i : i];

        if (b->state != HAUL_FREE)
            continue;
        b->pass = NULL;
        b->n = b->items = 0;
        b->big = -1;
        b->serial = p->serial;
        memset(b->pulls, 0, sizeof b->pulls);
        memset(b->live, 1, sizeof b->live);
        return b;
    }
    return NULL;
}

void hauls_forget(struct puller *p)
{
    for (uint32_t i = 0; i < PULLER_HAULS; i++) {
        struct haul *b = &p->hauls[i];

        if (b->state != HAUL_FREE && b->state != HAUL_ASKED)
            page_unref(b->page);
        b->state = HAUL_FREE;
    }
}

static void haul_end(struct haul *b)
{
    if (b->big >= 0)
        b->p->bigs[b->big].used = false;
    if (b->pass)
        b->pass->hauls--;
    b->link->users--;
    page_unref(b->page);
    b->state = HAUL_FREE;
}

/* May it come another time? */
static bool err_passes(int e)
{
    return e == ERR_BUSY || e == ERR_TIMEOUT || e == ERR_RETRY ||
           e == ERR_NO_SERVER || e == ERR_PEER_GONE || e == ERR_DRAINING ||
           e == ERR_STALE_GENERATION || e == ERR_NO_NAMESPACE ||
           e == ERR_NO_MEM || e == ERR_CANCELED || e == ERR_CORRUPT ||
           e == ERR_NO_MEMORY || e == ERR_MEM_FAULT;
}

/* The end of one block's way. */
static void row_end(struct haul *b, uint32_t i, int e)
{
    struct puller_stats *st = &b->p->stats;

    b->live[i] = false;
    if (e == OK) {
        stat_add(&st->blocks, 1);
        stat_add(&st->bytes, b->got[i].len);
    } else if (e == ERR_EXISTS || e == ERR_PENDING) {
        stat_add(&st->exists, 1);
    } else if (e != ERR_MISS) {
        stat_add(&st->failed, 1);
        if (b->pass && err_passes(e))
            b->pass->partial = true;
    }
    if (b->pulls[i])
        want_answer(b->pulls[i], e == ERR_EXISTS ? OK
                                 : e == OK || e == ERR_MISS || e == ERR_TIMEOUT
                                     ? (enum err)e
                                     : ERR_MISS);
}

static void haul_fail(struct haul *b, int e)
{
    for (uint32_t i = 0; i < b->n; i++)
        if (b->live[i])
            row_end(b, i, e);
    haul_end(b);
}

static struct pikv_key row_key(const Pikv__ListBlock *r)
{
    return (struct pikv_key){
        .key = {r->key.data, r->key.len},
        .route = {r->route.data, r->route.len},
        .scope = r->scope.len ? r->scope.data : NULL,
        .group = (uint16_t)r->group,
        .cls = (uint8_t)r->cls,
    };
}

bool haul_row_good(const Pikv__ListBlock *r, uint64_t block_bytes_max)
{
    return r->key.len > 0 && r->key.len <= WIRE_KEY_MAX &&
           r->route.len <= WIRE_ROUTE_MAX && r->parent.len <= WIRE_KEY_MAX &&
           (r->scope.len == 0 || r->scope.len == 16) &&
           r->group <= UINT16_MAX && r->cls <= CLASS_BLOB &&
           r->len <= block_bytes_max;
}

static struct pikv_call haul_call(struct haul *b, uint32_t ms)
{
    return (struct pikv_call){
        .deadline_us = ms * 1000, .here = true, .user = b};
}

/* ---- LOOKUP ---- */

static void haul_lookup(struct haul *b)
{
    struct pikv_call call = haul_call(b, COPY_LOOKUP_MS);
    int e;

    for (uint32_t i = 0; i < b->n; i++)
        b->keys[i] = row_key(b->rows[i]);
    b->state = HAUL_LOOKUP;
    e = pikv_lookup(b->p->own.kv, b->own_ns, b->keys, b->n, NULL, 1, NULL,
                    &call, b->results, NULL);
    if (e)
        haul_fail(b, e);
}

static void haul_looked(struct haul *b)
{
    for (uint32_t i = 0; i < b->n; i++) {
        const struct pikv_result *r = &b->results[i];

        if (r->state || r->status == ERR_PENDING)
            row_end(b, i, ERR_EXISTS);
        else if (r->status != ERR_MISS && r->status != ERR_WRONG_NODE)
            row_end(b, i, r->status);
    }
}

/* ---- GET ---- */

static uint32_t live_count(const struct haul *b)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->n; i++)
        n += b->live[i];
    return n;
}

static uint64_t live_bytes(const struct haul *b)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < b->n; i++)
        n += b->live[i] ? b->rows[i]->len : 0;
    return n;
}

static void haul_get(struct haul *b)
{
    struct pikv_call call = haul_call(b, PULLER_DEADLINE_MS);
    int e;

    b->items = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!b->live[i])
            continue;
        b->map[b->items] = i;
        b->gets[b->items++] =
            (struct pikv_get){.key = row_key(b->rows[i]),
                              .data = {b->mem + b->at[i], b->rows[i]->len}};
    }
    b->state = HAUL_GET;
    b->p->tokens -= (int64_t)live_bytes(b);
    e = pikv_get(b->link->kv, b->from_ns, b->gets, b->items, &call, b->results,
                 NULL);
    if (e)
        haul_fail(b, e);
}

/* The block may be another one than was listed, by now. */
static int got_status(const struct haul *b, uint32_t row,
                      const struct pikv_result *r)
{
    if (r->status)
        return r->status == ERR_WRONG_NODE ? ERR_MISS : r->status;
    return r->len == b->rows[row]->len && r->moved == r->len ? OK : ERR_RETRY;
}

static void haul_got(struct haul *b)
{
    for (uint32_t k = 0; k < b->items; k++) {
        uint32_t i = b->map[k];
        int e = got_status(b, i, &b->results[k]);

        b->got[i] = b->results[k];
        if (e == ERR_STALE_GENERATION || e == ERR_NO_NAMESPACE)
            link_space_stale(b->link, b->from_ns);
        if (e)
            row_end(b, i, e);
    }
}

/* ---- PUT ---- */

static struct pikv_put row_put(const struct haul *b, uint32_t i)
{
    const Pikv__ListBlock *r = b->rows[i];
    struct pikv_put put = {
        .key = row_key(r),
        .data = {b->mem + b->at[i], r->len},
        .parent = {r->parent.data, r->parent.len},
        .crc32c = &b->got[i].crc32c,
        .page = r->page,
        .token_end = r->token_end,
        .token_n = r->token_n,
        .ttl_ms = r->ttl_left_ms,
        .affinity = r->affinity,
        .priority = (uint8_t)r->priority,
        .replicas = (uint8_t)r->replicas,
        .durable = (r->flags & ATTR_DURABLE) && !b->p->no_durable,
        .client_keeps_copy = r->flags & ATTR_CLIENT_COPY,
    };

    for (size_t k = 0; k < r->n_labels && k < countof(put.labels); k++)
        put.labels[k] = r->labels[k];
    return put;
}

static void haul_put(struct haul *b)
{
    struct pikv_call call = haul_call(b, PULLER_DEADLINE_MS);
    int e;

    b->items = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!b->live[i])
            continue;
        b->map[b->items] = i;
        b->puts[b->items++] = row_put(b, i);
    }
    b->state = HAUL_PUT;
    e = pikv_put(b->p->own.kv, b->own_ns, b->puts, b->items, &call, b->results,
                 NULL);
    if (e)
        haul_fail(b, e);
}

/* true: some are to be put once more, not durable. */
static bool haul_stored(struct haul *b)
{
    bool again = false;

    for (uint32_t k = 0; k < b->items; k++) {
        uint32_t i = b->map[k];
        int e = b->results[k].status;

        if (e == ERR_UNSUPPORTED && b->puts[k].durable) {
            again = b->p->no_durable = true;
            continue;
        }
        if (e == ERR_NOT_DURABLE)
            e = OK;              /* it is here, as far as it can be */
        if (e == ERR_CANCELED) { /* dropped: nothing was lost */
            stat_add(&b->p->stats.refused, 1);
            e = ERR_MISS;
        }
        if (e == ERR_STALE_GENERATION || e == ERR_NO_NAMESPACE)
            link_space_stale(&b->p->own, b->own_ns);
        row_end(b, i, e);
    }
    return again;
}

/* ---- the whole ---- */

static void haul_hold(struct haul *b)
{
    b->state = HAUL_HELD;
    if (!b->pass || b->p->tokens > 0)
        haul_get(b);
}

void haul_start(struct haul *b)
{
    if (b->pass)
        haul_lookup(b);
    else
        haul_hold(b);
}

/* A flush that came meanwhile: nothing of before may be stored. */
static bool haul_stale(const struct haul *b)
{
    return b->serial != b->p->serial;
}

void haul_completion(struct puller *p, const struct pikv_completion *c)
{
    struct haul *b = c->user;

    (void)p;
    switch (b->state) {
    case HAUL_LOOKUP:
        haul_looked(b);
        break;
    case HAUL_GET:
        haul_got(b);
        break;
    case HAUL_PUT:
        if (haul_stored(b) && !haul_stale(b)) {
            haul_put(b);
            return;
        }
        break;
    case HAUL_FREE:
    case HAUL_ASKED:
    case HAUL_HELD:
        MUST(false);
    }
    if (haul_stale(b) || !live_count(b))
        haul_fail(b, ERR_STALE_GENERATION);
    else if (b->state == HAUL_LOOKUP)
        haul_hold(b);
    else
        haul_put(b);
}

static void tokens_add(struct puller *p)
{
    uint64_t rate = p->cfg.cfg->cluster.move_rate_bytes;
    uint64_t ns = min_u64(p->now_ns - p->tokens_ns, NS_PER_S);
    int64_t most = (int64_t)(rate / 1000 * COPY_RATE_MS);

    p->tokens_ns = p->now_ns;
    p->tokens += (int64_t)((double)rate * (double)ns / 1e9);
    if (p->tokens > most)
        p->tokens = most > 1 ? most : 1;
}

void haul_tick(struct puller *p)
{
    tokens_add(p);
    for (uint32_t i = 0; i < PULLER_HAULS && p->tokens > 0; i++)
        if (p->hauls[i].state == HAUL_HELD)
            haul_get(&p->hauls[i]);
}

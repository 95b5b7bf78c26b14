/* SPDX-License-Identifier: Apache-2.0
 *
 * Loans: blocks read in place, in memory that a lane lends for one namespace.
 *
 *     first GET with loan: LOAN_ATTACH, the call waits behind it (GATE_LOANS)
 *     its reply: the memory's fd -> mapped read-only, gate open
 *     GET: result says offset and id -> pointer
 *     release: OK, or STALE if the lane took back loans up to that id
 *
 *  1. A pointer once given to the caller stays readable until pikv_close: when
 *     the connection ends, the mapping is replaced in place by zero pages (so
 *     that the daemon's memory is let go), and release answers STALE.
 *  2. Only memory that is sealed against shrinking is mapped: reading a loan
 *     never faults.
 *  3. An id given to the caller also says line and incarnation, because a
 *     connection's end ends its loans.
 * With kv->mu. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client/call.h"
#include "client/peer.h"
#include "pikv.pb-c.h"

enum { ATTACH_MS = 1000, LOAN_ID_BITS = 46, LOAN_LINE_SHIFT = 54 };
static_assert(LINES_MAX <= 1 << (64 - LOAN_LINE_SHIFT), "a loan says its line");

/* What a LOAN_ATTACH in flight carries. */
struct loan_asked {
    uint32_t ns, incarnation;
    struct conn *conn;
};

/* Over the old mapping if it is as large, so that addresses are used again. */
static int loan_map_fd(struct loan_map *map, int fd, uint64_t bytes)
{
    void *at = map->addr && map->bytes == bytes ? map->addr : NULL;
    struct stat st;
    int seals;
    void *p;

    if (fd < 0 || bytes == 0 || fstat(fd, &st) || (uint64_t)st.st_size < bytes)
        return ERR_BAD_REQUEST;
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return ERR_DENIED;
    p = mmap(at, bytes, PROT_READ, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
    if (p == MAP_FAILED)
        return ERR_NO_MEMORY;
    /* A smaller or larger one stays: the caller may hold pointers into it. */
    map->addr = p;
    map->bytes = bytes;
    map->live = true;
    return OK;
}

/* Opens the gate of what waited for the attach; without a mapping the lane is
 * asked for a copy instead. */
static void loan_open_gates(struct conn *c, uint32_t ns, bool mapped)
{
    LIST_FOREACH(l, &c->backlog)
    {
        struct part *p = container_of(l, struct part, node);

        if (p->gate != GATE_LOANS || p->ns != ns)
            continue;
        p->gate = p->own ? GATE_REGION : GATE_NONE;
        if (!mapped)
            build_no_loans(p);
    }
    conn_run_backlog(c);
}

static void loan_attached(struct pikv *kv, struct call *call, int status,
                          const void *env, size_t env_len, int fd)
{
    struct loan_asked *a = call->arg;
    struct loan_map *map = &kv->ns[a->ns].loans[a->conn->line];
    Pikv__LoanAttachReply *m = NULL;

    if (!status) {
        m = pikv__loan_attach_reply__unpack(NULL, env_len, env);
        status = m ? loan_map_fd(map, fd, m->bytes) : ERR_BAD_REQUEST;
    }
    if (m)
        pikv__loan_attach_reply__free_unpacked(m, NULL);
    if (a->conn->incarnation == a->incarnation) {
        map->asked = false;
        map->refused = status != OK;
        map->status = status;
        loan_open_gates(a->conn, a->ns, status == OK);
    }
    free(a);
}

static int loan_attach(struct pikv *kv, uint32_t ns, struct conn *c)
{
    Pikv__LoanAttach m = PIKV__LOAN_ATTACH__INIT;
    struct loan_asked *a = malloc(sizeof(*a));
    uint8_t env[16];
    int e;

    if (!a)
        return ERR_NO_MEMORY;
    *a = (struct loan_asked){ns, c->incarnation, c};
    m.ns = kv->ns[ns].at[c->peer->index].id;
    kv->ns[ns].loans[c->line].asked = true;
    e = call_msg(kv, c, OP_LOAN_ATTACH, env, pikv__loan_attach__pack(&m, env),
                 -1, now_ns() + ATTACH_MS * NS_PER_MS, loan_attached, a);
    if (e) {
        kv->ns[ns].loans[c->line].asked = false;
        free(a);
    }
    return e;
}

void loan_want(struct pikv *kv, struct part *p)
{
    struct loan_map *map = &kv->ns[p->ns].loans[p->conn->line];
    bool wanted = false;

    for (uint32_t i = 0; i < p->n; i++)
        wanted |= p->dests[i].loan;
    if (!wanted || map->live || p->conn->state != CONN_UP)
        return;
    p->no_loans = map->refused || !p->conn->ops->registers;
    if (!p->conn->ops->registers)
        map->status = ERR_UNSUPPORTED;
    if (p->no_loans)
        return;
    p->gate = GATE_LOANS;
    if (!map->asked && loan_attach(kv, p->ns, p->conn)) {
        p->no_loans = true;
        p->gate = p->own ? GATE_REGION : GATE_NONE;
    }
}

const uint8_t *loan_bytes(struct pikv *kv, struct part *p, uint64_t off,
                          uint64_t len)
{
    const struct loan_map *map = &kv->ns[p->ns].loans[p->conn->line];

    if (!map->live || len > map->bytes || off > map->bytes - len)
        return NULL;
    return map->addr + off;
}

uint64_t loan_id_public(const struct conn *c, uint64_t id)
{
    return (uint64_t)c->line << LOAN_LINE_SHIFT |
           (uint64_t)(c->incarnation & 0xff) << LOAN_ID_BITS |
           (id & ((UINT64_C(1) << LOAN_ID_BITS) - 1));
}

void loan_unmap(struct ns *ns, uint32_t line)
{
    struct loan_map *map = ns->loans ? &ns->loans[line] : NULL;

    if (!map)
        return;
    if (map->live)
        (void)mmap(map->addr, map->bytes, PROT_READ,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                   0);
    map->live = map->asked = map->refused = false;
}

void loan_unmap_all(struct pikv *kv)
{
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++)
        for (uint32_t line = 0; kv->ns[i].loans && line < kv->line_n; line++)
            if (kv->ns[i].loans[line].addr)
                munmap(kv->ns[i].loans[line].addr, kv->ns[i].loans[line].bytes);
}

/* Nobody waits for the answer: OK or STALE was decided by the epoch word. */
static void loan_tell(struct pikv *kv, struct ns *ns, struct conn *c,
                      uint64_t id)
{
    const struct ns_at *at = &ns->at[c->peer->index];
    struct wire_batch b = {
        .ns = at->id, .generation = at->generation, .key_n = 1};
    struct wire_key k = {.key_len = 1, .token = id};
    uint8_t body[2 * WIRE_RECORD + 1] = {0};

    memcpy(body, &b, sizeof(b));
    memcpy(body + WIRE_RECORD, &k, sizeof(k));
    (void)call_records(kv, c, OP_LOAN_RELEASE, body, 2, 1,
                       now_ns() + ATTACH_MS * NS_PER_MS);
}

int pikv_loan_release(struct pikv *kv, uint32_t ns,
                      const struct pikv_result *result)
{
    uint32_t line = (uint32_t)(result->loan_id >> LOAN_LINE_SHIFT);
    uint64_t id = result->loan_id & ((UINT64_C(1) << LOAN_ID_BITS) - 1);
    int e = handle_check(kv);
    struct conn *c;
    struct ns *space;

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    space = ns_find(kv, ns);
    c = line < kv->line_n ? kv->conns[line] : NULL;
    if (!space || !c || !result->loan) {
        e = ERR_BAD_REQUEST;
    } else if (c->state != CONN_UP ||
               loan_id_public(c, id) != result->loan_id ||
               c->ops->loan_epoch(c) >= id) {
        e = ERR_STALE;
    } else {
        loan_tell(kv, space, c, id);
    }
    pthread_mutex_unlock(&kv->mu);
    return e;
}

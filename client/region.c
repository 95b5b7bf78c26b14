/* SPDX-License-Identifier: Apache-2.0
 *
 * Registered memory: the caller's (pikv_mem_*), the staging area, and memory
 * of one large request. A region is known to a line once that line's MEM_
 * REGISTER reply came; ids end with the connection and are asked for again in
 * SETUP. Memory that a lane does not know is not an error: its bytes go
 * through staging there.
 *
 * An address alone is registered by way of the file that is mapped there
 * (mapping.c).
 *
 * Our own regions are memfds sealed against shrinking, so the daemon may map
 * them. With kv->mu, except where a public function says so. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/call.h"
#include "pikv.pb-c.h"

enum { REGISTER_MS = 1000 };

int region_memfd(uint64_t bytes, void **addr_out, int *fd_out)
{
    int fd = memfd_create("pikv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *p;

    if (fd < 0)
        return ERR_NO_MEMORY;
    if (ftruncate(fd, (off_t)bytes) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
        goto undo_fd;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        goto undo_fd;
    *addr_out = p;
    *fd_out = fd;
    return OK;
undo_fd:
    close(fd);
    return ERR_NO_MEMORY;
}

struct region *region_new(struct pikv *kv, int fd, uint64_t off, uint64_t len,
                          void *addr, bool ours, bool callers)
{
    struct region *r = calloc(1, sizeof(*r));

    if (r)
        r->ids = calloc(kv->line_cap, sizeof(*r->ids));
    if (!r || !r->ids) {
        free(r);
        if (ours)
            munmap(addr, len);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    r->addr = addr;
    r->len = len;
    r->fd = fd;
    r->fd_off = off;
    r->ours = ours;
    r->callers = callers;
    r->serial = ++kv->region_serial;
    list_add_tail(&kv->regions, &r->node);
    return r;
}

struct region *region_find(struct pikv *kv, uint32_t line, const void *p,
                           uint64_t len)
{
    uintptr_t at = (uintptr_t)p;

    LIST_FOREACH(l, &kv->regions)
    {
        struct region *r = container_of(l, struct region, node);
        uintptr_t base = (uintptr_t)r->addr;

        if (r->callers && r->ids[line] && at >= base && len <= r->len &&
            at - base <= r->len - len)
            return r;
    }
    return NULL;
}

struct region *region_around(struct pikv *kv, const void *addr)
{
    uintptr_t at = (uintptr_t)addr;

    LIST_FOREACH(l, &kv->regions)
    {
        struct region *r = container_of(l, struct region, node);

        if (r->callers && at >= (uintptr_t)r->addr &&
            at - (uintptr_t)r->addr < r->len)
            return r;
    }
    return NULL;
}

struct region *region_at(struct pikv *kv, const void *addr)
{
    LIST_FOREACH(l, &kv->regions)
    {
        struct region *r = container_of(l, struct region, node);

        if (r->callers && !r->waited && r->addr == addr)
            return r;
    }
    return NULL;
}

/* What a MEM_REGISTER in flight carries: the region may be dropped meanwhile,
 * so it is looked up by its number, and the request has its own descriptor. */
struct region_asked {
    uint64_t serial;
    int fd;
    struct conn *conn;
    uint32_t incarnation;
    bool in_setup;
};

static struct region *asked_region(struct pikv *kv,
                                   const struct region_asked *a)
{
    LIST_FOREACH(l, &kv->regions)
    {
        struct region *r = container_of(l, struct region, node);

        if (r->serial == a->serial)
            return r;
    }
    return NULL;
}

/* Nobody waits for the answer; the connection's end forgets it too. */
static void region_forget_id(struct pikv *kv, struct conn *conn, uint32_t id)
{
    Pikv__MemUnregister m = PIKV__MEM_UNREGISTER__INIT;
    uint8_t env[16];

    if (conn->state != CONN_UP || kv->closing)
        return;
    m.id = id;
    (void)call_msg(kv, conn, OP_MEM_UNREGISTER, env,
                   pikv__mem_unregister__pack(&m, env), -1,
                   now_ns() + REGISTER_MS * NS_PER_MS, NULL, NULL);
}

static void region_told(struct pikv *kv, struct call *c, int status,
                        const void *env, size_t env_len, int fd)
{
    struct region_asked *a = c->arg;
    struct region *r = asked_region(kv, a);
    Pikv__MemRegisterReply *m = NULL;
    struct conn *conn = a->conn;

    (void)fd;
    if (!status) {
        m = pikv__mem_register_reply__unpack(NULL, env_len, env);
        status = m ? OK : ERR_BAD_REQUEST;
    }
    if (r) {
        r->told = --r->asked == 0;
        if (status)
            r->status = status;
        else if (conn->incarnation == a->incarnation)
            r->ids[conn->line] = m->id + 1;
    } else if (!status && conn->incarnation == a->incarnation) {
        region_forget_id(kv, conn, m->id);
    }
    if (m)
        pikv__mem_register_reply__free_unpacked(m, NULL);
    if (r && r->ids[conn->line])
        lay_region_known(kv, r, conn);
    if (a->in_setup && conn->incarnation == a->incarnation)
        conn_setup_done(conn);
    else
        conn_run_backlog(conn);
    close(a->fd);
    free(a);
    pthread_cond_broadcast(&kv->cond);
}

void region_tell(struct pikv *kv, struct region *r, struct conn *c,
                 bool in_setup)
{
    Pikv__MemRegister m = PIKV__MEM_REGISTER__INIT;
    struct region_asked *a = malloc(sizeof(*a));
    int fd = a ? fcntl(r->fd, F_DUPFD_CLOEXEC, 3) : -1;
    uint8_t env[64];
    int e;

    m.kind = PIKV__MEM_REGISTER__KIND__MEMFD;
    if (fcntl(r->fd, F_GET_SEALS) < 0)
        m.kind = PIKV__MEM_REGISTER__KIND__FILE;
    m.offset = r->fd_off;
    m.length = r->len;
    m.writable = 1;
    if (fd >= 0) {
        *a = (struct region_asked){r->serial, fd, c, c->incarnation, in_setup};
        r->asked++;
        e = call_msg(kv, c, OP_MEM_REGISTER, env,
                     pikv__mem_register__pack(&m, env), fd,
                     now_ns() + REGISTER_MS * NS_PER_MS, region_told, a);
        if (!e)
            return;
        r->asked--;
        close(fd);
    }
    free(a);
    r->status = ERR_NO_MEMORY;
    if (in_setup)
        conn_setup_done(c);
}

void region_drop(struct pikv *kv, struct region *r)
{
    for (uint32_t i = 0; i < kv->line_n; i++)
        if (r->ids[i])
            region_forget_id(kv, kv->conns[i], r->ids[i] - 1);
    lay_region_gone(kv, r);
    list_del(&r->node);
    if (r->ours)
        munmap(r->addr, r->len);
    if (r->fd >= 0)
        close(r->fd);
    free(r->ids);
    free(r);
}

/* Tells all lanes and waits. Known to one lane is enough. */
static int region_register(struct pikv *kv, struct region *r)
{
    bool known = false;

    r->waited = true;
    for (uint32_t i = 0; i < kv->line_n; i++)
        if (kv->conns[i]->ops->registers && kv->conns[i]->state == CONN_UP)
            region_tell(kv, r, kv->conns[i], false);
    r->told = r->asked == 0;
    progress_submitted(kv, now_ns());
    progress_wait(kv, &r->told);
    r->waited = false;
    for (uint32_t i = 0; i < kv->line_n; i++)
        known |= r->ids[i] != 0 || !kv->conns[i]->ops->registers;
    return known ? OK : r->status ? r->status : ERR_NO_SERVER;
}

int pikv_mem_alloc(struct pikv *kv, size_t bytes, void **addr_out)
{
    struct region *r;
    void *addr;
    int e = handle_check(kv), fd;

    if (e)
        return e;
    if (bytes == 0)
        return ERR_BAD_REQUEST;
    bytes = (size_t)align_up(bytes, STAGE_UNIT);
    e = region_memfd(bytes, &addr, &fd);
    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    r = region_new(kv, fd, 0, bytes, addr, true, true);
    e = r ? region_register(kv, r) : ERR_NO_MEMORY;
    if (e && r)
        region_drop(kv, r);
    pthread_mutex_unlock(&kv->mu);
    if (!e)
        *addr_out = addr;
    return e;
}

void pikv_mem_free(struct pikv *kv, void *addr)
{
    if (addr)
        (void)pikv_mem_unregister(kv, addr);
}

/* The caller's memory, mapped by the caller. fd is taken. */
static int region_add(struct pikv *kv, int fd, uint64_t off, uint64_t bytes,
                      void *addr)
{
    struct region *r;
    int e;

    pthread_mutex_lock(&kv->mu);
    r = region_new(kv, fd, off, bytes, addr, false, true);
    e = r ? region_register(kv, r) : ERR_NO_MEMORY;
    if (e && r)
        region_drop(kv, r);
    pthread_mutex_unlock(&kv->mu);
    return e;
}

int pikv_mem_register_fd(struct pikv *kv, int fd, uint64_t offset, size_t bytes,
                         void *addr)
{
    int e = handle_check(kv), dup_fd;

    if (e)
        return e;
    if (bytes == 0 || !addr)
        return ERR_BAD_REQUEST;
    dup_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (dup_fd < 0)
        return ERR_BAD_REQUEST;
    return region_add(kv, dup_fd, offset, bytes, addr);
}

/* Over ucx nothing is told to anybody, so any memory will do. */
int pikv_mem_register(struct pikv *kv, void *addr, size_t bytes)
{
    uint64_t off = 0;
    int e = handle_check(kv), fd = -1;

    if (e)
        return e;
    if (bytes == 0 || !addr)
        return ERR_BAD_REQUEST;
    e = mapping_find(addr, bytes, &fd, &off);
    if (e && !(e == ERR_UNSUPPORTED && kv->is_ucx))
        return e;
    return region_add(kv, fd, off, bytes, addr);
}

int pikv_mem_unregister(struct pikv *kv, void *addr)
{
    struct region *r;
    int e = handle_check(kv);

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    r = region_at(kv, addr);
    if (r)
        region_drop(kv, r);
    pthread_mutex_unlock(&kv->mu);
    return r ? OK : ERR_NO_MEM;
}

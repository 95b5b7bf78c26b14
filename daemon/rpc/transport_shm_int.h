/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the shm transport share:
 *
 *   transport_shm.c         open, close, epoll, the turn, the table of ops
 *   transport_shm_listen.c  the socket's file, accepting, the handshake
 *   transport_shm_peer.c    one connection: messages in, messages out, its end
 *   transport_shm_mem.c     registered memory and the copies to and from it */
#ifndef RPC_TRANSPORT_SHM_INT_H
#define RPC_TRANSPORT_SHM_INT_H

#include <sys/types.h>

#include "base/mem.h"
#include "rpc/ring.h"
#include "rpc/shm_wire.h"
#include "rpc/transport_shm.h"

enum { /* what an epoll event is about: (peer index << 2) | this */
       SHM_EV_LISTEN = 0,
       SHM_EV_SOCK = 1,
       SHM_EV_RING = 2,
};

enum { SHM_PATH_MAX = 107 }; /* sockaddr_un holds no more */

/* How a registered memory is reached. */
enum shm_via {
    SHM_VIA_MAP,  /* mapped and used directly: it cannot shrink */
    SHM_VIA_FD,   /* pread, pwrite: a fault is an error code */
    SHM_VIA_SELF, /* huge pages: mapped, but copied by the kernel, which may
                     find that there is no page left */
};

struct shm_mem {
    uint32_t id;  /* 0: free */
    uint32_t gen; /* of this slot: makes ids that never come again */
    enum shm_via via;
    int fd; /* SHM_VIA_FD */
    bool writable;
    uint64_t off, len; /* of the file */
    uint8_t *p;        /* the byte at off; the others */
    uint8_t *map;      /* page-aligned */
    size_t map_bytes;
};

/* Where the first transfer of a peer's queue stands. */
struct shm_cursor {
    bool begun;
    uint32_t seg, span;
    uint64_t seg_off, span_off;
};

/* One connection. In shm->hot: its rings are looked at in every turn. In
 * shm->cold: it sleeps, asleep is set in its request ring. */
struct shm_peer {
    struct tp_peer tp; /* first */
    struct shm *s;
    struct list node;
    struct list sends, xfers, canceled;
    struct ring req, rep;
    struct shm_cursor cur;
    struct ring_shared *sh;
    int sock, req_fd, wake_fd;
    int wake_client_fd; /* kept, so that a write never finds no reader */
    uint32_t idx, idle_turns;
    bool hot;
    bool sock_ready; /* packets may be waiting */
    bool sock_full;  /* until EPOLLOUT */
    bool closing;    /* ends when nothing is left to send */
    bool dead;       /* ends now */
    bool wake;       /* the reply ring has something new */
    struct shm_mem *mems;
    uint32_t mem_n, mem_top; /* in use; slots ever used */
    uint64_t registered_bytes, loan_epoch;
};

struct shm {
    struct transport t; /* first */
    struct transport_shm_cfg cfg;
    char path[SHM_PATH_MAX + 1];
    ino_t ino; /* of path, while it is ours */
    dev_t dev;
    int listen_fd, epoll_fd;
    int spare_fd; /* given up to refuse connections when fds run out */
    struct pool peers;
    struct shm_mem *mems;
    size_t mems_bytes;
    uint8_t *scratch; /* one message or packet */
    uint32_t scratch_bytes;
    struct list hot, cold;
    uint32_t hot_n, turns;
    uint64_t polled_ns;
    bool poll_due, accept_ready;
};

enum { SHM_POLL_PEERS = 16 }; /* so many are looked at even when idle */

static inline struct shm *shm_of(struct transport *t)
{
    return (struct shm *)t;
}

static inline struct shm_peer *shm_peer_of(struct tp_peer *p)
{
    return (struct shm_peer *)p;
}

/* transport_shm.c */
void shm_heat(struct shm_peer *p); /* cold -> hot; no-op if hot */
void shm_cool(struct shm_peer *p); /* hot -> cold: it has announced its sleep */

/* transport_shm_listen.c */
must_check enum err shm_listen(struct shm *s, struct errmsg *m);
void shm_unlisten(struct shm *s);
/* Accepts a few; sets accept_ready to whether there may be more. */
void shm_accept(struct shm *s);

/* transport_shm_peer.c */
/* One turn of one peer; true if something was done or is left to do. May free
 * the peer. */
bool shm_peer_turn(struct shm_peer *p);
/* Nothing to do but to wait? Announces the sleep in the rings. */
bool shm_peer_sleep(struct shm_peer *p);
void shm_peer_end(struct shm_peer *p);
void shm_peer_free(struct shm_peer *p); /* fds, rings, slot */

/* transport_shm_mem.c */
must_check enum err shm_mem_register(struct shm_peer *p, int fd, uint64_t off,
                                     uint64_t len, bool writable,
                                     uint32_t *id_out, bool *mapped_out);
must_check enum err shm_mem_unregister(struct shm_peer *p, uint32_t id);
must_check enum err shm_mem_bytes(const struct shm_peer *p, uint32_t id,
                                  uint64_t *out);
void shm_mem_drop_all(struct shm_peer *p);
/* Goes on with the transfer at p->cur until *budget is used up (by a piece more
 * at most). OK and *done_out: complete. */
must_check enum err shm_xfer_step(struct shm_peer *p, struct tp_xfer *x,
                                  uint64_t *budget, bool *done_out);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a libpikv handle: what the files of client/ share.
 *
 *     pikv          one per pikv_open: connections, memory, namespaces, calls,
 *                   finished calls behind one eventfd
 *      +- peer      one per node that was ever asked, peer.h
 *          +- conn  one per lane, conn.h: UP, or DOWN with a time to try again
 *      +- call      one submit of the caller, or one internal MSG request
 *          +- part  what of a call one request carries to one lane
 *
 *     call:  submit --> parts queued or sent --> each part ends --> done queue
 *     part:  QUEUED --> SENT --> (LANDING) --> freed
 *               |         |
 *               +---------+-- deadline: the call ends without it; a SENT part
 *                             stays, without call, until its reply is dropped
 *                             or its connection has ended (ABANDONED)
 *
 * A line is a lane of a node: an index into kv->conns. A node has the lines
 * [first, first + lane_n), the first node those from 0 on; what is known per
 * connection (ids of memory, layouts, loans) is kept in arrays by line, which
 * grow together (peer.c). Without a view there is one node, and spread.h, which
 * sends a call to many, is never called.
 *
 * Invariants
 *  1. kv->mu guards everything here. It is let go only around waiting and
 *     around big copies (staging, landing); what is touched then belongs to a
 *     part that nobody else can reach at that time.
 *  2. A part has a slot of its connection while SENT. The request id holds the
 *     slot number, so that the cancel words of ring.h are never shared.
 *  3. Staging bytes are free again only when their part is freed: a late daemon
 *     writes into staging that nobody reads.
 *  4. A call completes once, when its last part has ended or was abandoned.
 *  5. A peer's bytes never reach a MUST and never a length without a check.
 *
 * Threads: any caller, and the progress thread (progress.c). A child after
 * fork sees alive == 0 (wiped by the kernel) and touches nothing. */
#ifndef CLIENT_HANDLE_H
#define CLIENT_HANDLE_H

#include <pthread.h>

#include "base/err.h"
#include "base/layout.h"
#include "base/list.h"
#include "client/pikv.h"
#include "proto/wire.h"

struct conn;
struct call;
struct peer;
struct spread;
struct nodes;

enum {
    LANES_MAX = 64,   /* of a node */
    LINES_MAX = 1024, /* of all nodes that a handle uses */
    NAMESPACES_MAX = 256,
    LAYOUTS_MAX = 256,
    GRACE_MS = 10, /* a reply that the memory's safety waits for */
    STAGE_UNIT = 4096,
    LAND_INLINE = 64 << 10, /* copied without letting kv->mu go */
    COLS_MAX = 256,         /* members of a LOOKUP */
    ADDR_MAX = 160,
};

/* Registered memory: the caller's, the staging area, or that of one call. */
struct region {
    struct list node; /* kv->regions */
    uint8_t *addr;
    uint64_t len, fd_off;
    int fd;
    bool ours;    /* mapped here: unmapped when freed */
    bool callers; /* named in the caller's items */
    bool told;    /* nothing is asked */
    bool waited;  /* its registration is, by a thread: nobody drops it */
    uint64_t serial;
    uint32_t asked; /* registrations not answered yet */
    int status;     /* of the last registration that failed */
    uint32_t *ids;  /* by line: id + 1 on that connection; 0 none */
};

/* A registered layout. */
struct lay {
    uint32_t id;
    const struct region *region; /* NULL: it was unregistered */
    struct layout l;             /* offsets are in the region */
    uint64_t *table;
    bool told;      /* nothing is asked */
    bool waited;    /* its registration is, by a thread */
    uint32_t asked; /* registrations not answered yet */
    uint32_t *ids;  /* by line: of that connection; 0 none */
};

/* Bytes of the staging area; n units from first, n 0: none. */
struct stage {
    uint32_t first, n;
};

struct staging {
    struct region *region;
    uint64_t *used; /* a bit per unit */
    uint32_t units, used_n, next;
};

/* Where one item's bytes are: the caller's run or list, and its stand-in. */
struct dest {
    uint8_t *p;
    uint64_t len;
    uint32_t iov_first, iov_n; /* in part->iov, iov_n 0: the one run */
    uint64_t staged;           /* offset in the part's staging; or DIRECT */
    uint64_t got;              /* ucx GET: bytes that have arrived */
    uint32_t segs;
    bool whole, loan;
};
#define DIRECT UINT64_MAX

enum part_state {
    PART_FREE,
    PART_PLANNED,
    PART_QUEUED,
    PART_SENT,
    PART_LANDING
};
/* What a queued part waits for before it may be sent. */
enum part_gate { GATE_NONE, GATE_REGION, GATE_LOANS };

struct part {
    struct list node;      /* backlog, landing or free list */
    struct list call_node; /* call->parts */
    struct call *call;     /* NULL: abandoned */
    struct conn *conn;
    enum part_state state;
    enum part_gate gate;
    uint16_t op, cols;
    bool direct;  /* names memory of the caller */
    bool replied; /* ucx: reply seen, bytes still arrive */
    bool zombie;  /* ended; freed when tp_pending is 0 */
    int fd;       /* goes along, or -1 */
    uint64_t req, bytes;
    uint32_t slot, ns, incarnation;
    uint32_t n, first; /* items: idx[0..n), or first.. if has_idx is 0 */
    uint32_t cap_mib;  /* PREFETCH: its part of the cap; 0 none */
    bool has_idx;
    uint8_t kind; /* enum leg_kind (spread.h) */
    bool sided;   /* its answers go to side, not to the caller's results */
    struct pikv_result *side;
    struct part *twin; /* hedge.c: the other one of two */
    bool hedged,
        came;       /* was looked at for a twin; the twin's bytes are there */
    uint8_t *aside; /* ucx: where a twin's bytes land */
    uint32_t side_cap;
    uint32_t *idx;
    struct dest *dests;
    struct pikv_buf *iov;
    uint32_t idx_cap, dest_cap, iov_cap, iov_n;
    struct stage stage;
    struct region *own; /* region of this part alone */
    uint64_t staged_bytes;
    uint32_t record_n, keys_len;
    uint64_t inline_bytes;
    void *frames; /* ucx: headers of its data messages */
    uint32_t frames_cap;
    uint8_t *msg; /* frame + body when not built in the ring */
    uint32_t msg_cap, msg_len;
    uint64_t sent_ns;
    int status;    /* how it ended, while LANDING or tp_pending */
    uint8_t asked; /* to end, at the deadline (1) and after (2) */
    bool no_loans; /* built without KEY_LOAN */
    /* parts.c: items from the first on whose results are known, whose bytes are
     * in place; bytes are being moved without kv->mu; meanwhile the connection
     * was lost */
    uint32_t announced, landed;
    bool busy, lost;
    uint32_t layout;     /* the server's id of it; 0: items have segments */
    uint32_t tp_pending; /* ucx requests that still use it */
    uint32_t rndv;       /* of them: into the caller's memory */
};

typedef void call_done_fn(struct pikv *kv, struct call *call, int status,
                          const void *env, size_t env_len, int fd);

struct call {
    struct list node;      /* kv->inflight, then kv->done or a waiter's */
    struct list tell_node; /* kv->telling: parts wait to be taken */
    struct list parts;
    uint64_t id; /* 0: internal */
    void *user;
    uint16_t op;
    uint32_t open_parts, slot;
    uint64_t begin_ns, deadline_ns, due_ns;
    bool late, waited, done, verify, everywhere;
    int status;
    uint32_t n, prefix, count;
    struct pikv_result *results;
    uint32_t cols; /* LOOKUP */
    struct pikv_column *columns;
    uint32_t columns_cap;
    uint8_t *stops;
    call_done_fn *on_done; /* MSG */
    void *arg;
    uint8_t *lanes; /* scratch of submit: lane per item */
    uint32_t lanes_cap;
    /* parts.c: by item, is it done; so many in a row are; so many were taken */
    bool tells;
    uint8_t *ready;
    uint32_t ready_cap, ready_n, told_n;
    struct spread *spread; /* over many nodes; kept for the next call */
    bool spreads;
};

enum ns_state { NS_FREE, NS_OPENING, NS_OPEN };

struct loan_map {
    uint8_t *addr;
    uint64_t bytes;
    bool live; /* mapped, and the lane's connection is up */
    bool asked;
    bool refused; /* status says why; asked again after a new connection */
    int status;
};

/* A namespace at one node. */
struct ns_at {
    uint32_t id;
    uint64_t generation;
    uint64_t boot; /* of the run of the server that said so */
    bool known;    /* it has said so */
    bool asked;    /* an OPEN is under way */
    int refused;   /* by the run of that boot: why */
};

struct ns {
    enum ns_state state;
    char *name;
    uint8_t *open_msg; /* packed Open, to open again after a restart */
    size_t open_len;
    uint64_t slot_seed;
    struct ns_at *at;       /* by peer */
    struct loan_map *loans; /* by line */
};

struct pikv {
    uint32_t *alive; /* a page that fork wipes */
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool closing;

    char address[ADDR_MAX], engine[64], model[128];
    uint32_t dp_rank, tp_rank, pp_rank;
    uint64_t client; /* random id */
    bool is_ucx;     /* the address given is; then all connections are */

    struct conn **conns; /* by line */
    uint32_t line_n, line_cap;
    struct peer **peers; /* the first is the one that was opened */
    uint32_t peer_n, peer_cap;
    struct nodes *nodes; /* nodes.h; NULL: no node has spoken of a view */
    bool many;           /* there is a view */
    bool no_view;        /* option: and none is looked at */
    uint8_t hedge;       /* option */
    bool stirred; /* calls that wait for a line or a view are looked at */
    struct list rerouted, waiting; /* calls (spread.h) */
    struct pikv_info info;

    struct list regions;
    uint64_t region_serial;
    struct lay *layouts[LAYOUTS_MAX]; /* by id modulo */
    uint32_t layout_serial;
    struct staging staging;
    struct ns ns[NAMESPACES_MAX];

    struct call **calls; /* slot -> call */
    uint32_t *call_free;
    uint32_t call_cap, call_free_n;
    uint64_t call_serial, event_ids;
    uint32_t event_streams; /* subscriptions open */
    uint32_t *event_polls;  /* by line */
    struct list inflight, done, telling, landing, free_calls, free_parts;
    uint64_t due_ns; /* no call in flight is due before */
    uint64_t now_ns; /* when progress last looked at the clock */

    struct pikv_op_stats counts[PIKV_STATS_OPS];
    uint64_t reconnects, redirects, failovers, copies_failed, hedges,
        hedges_won;

    int event_fd, wake_fd;
    bool event_set;
    bool has_thread, stop;
    pthread_t thread;
    bool callers_poll; /* pikv_poll moves the bytes, the thread steps aside */
    uint32_t polls, streak;
    uint64_t thread_wakes_ns; /* when the sleeping thread will look again */
    uint64_t active_ns;       /* last submit */
    uint64_t socket_ns;       /* last look at the sockets */
    bool look;                /* look at them now */
    void *ucx;                /* conn_ucx.c */
};

uint64_t now_ns(void);
/* OK, or FORKED, CLOSED: first thing of every public function. */
int handle_check(const struct pikv *kv);
/* pikv_last_error's text. */
int last_error_set(int code, const char *fmt, ...) printf_like(2, 3);
void last_error_clear(void);

/* region.c */
struct region *region_new(struct pikv *kv, int fd, uint64_t off, uint64_t len,
                          void *addr, bool ours, bool callers);
int region_memfd(uint64_t bytes, void **addr_out, int *fd_out);
/* The registered memory that holds all of p..p+len and that line knows. */
struct region *region_find(struct pikv *kv, uint32_t line, const void *p,
                           uint64_t len);
struct region *region_at(struct pikv *kv, const void *addr);
/* The registered memory that addr lies in. */
struct region *region_around(struct pikv *kv, const void *addr);
/* Registers it with one connection, in the background. */
void region_tell(struct pikv *kv, struct region *r, struct conn *c,
                 bool in_setup);
void region_drop(struct pikv *kv, struct region *r);

/* layout.c */
struct lay *lay_find(struct pikv *kv, uint32_t id);
/* The connection knows the memory: it is told of the layouts in it. */
void lay_region_known(struct pikv *kv, const struct region *r, struct conn *c);
void lay_region_gone(struct pikv *kv, const struct region *r);
void lay_conn_gone(struct pikv *kv, uint32_t line);
void lay_free_all(struct pikv *kv);

/* mapping.c: a descriptor of the file behind addr..addr+len, to be closed, and
 * where in it addr is. UNSUPPORTED: private memory. Without kv->mu. */
int mapping_find(const void *addr, uint64_t len, int *fd_out,
                 uint64_t *off_out);

/* stats.c: a call of the caller has completed */
void stats_count(struct pikv *kv, const struct call *c);

/* staging.c */
int staging_init(struct pikv *kv, uint64_t bytes);
void staging_fini(struct pikv *kv);
bool staging_take(struct staging *s, uint64_t bytes, struct stage *out);
void staging_give(struct staging *s, struct stage *st);

/* namespace.c */
struct ns *ns_find(struct pikv *kv, uint32_t ns);
/* In SETUP of a node's first lane: opens all namespaces that this run of the
 * server has not been told of. */
void ns_reopen_all(struct pikv *kv, struct conn *c);
/* Asks c's node to open it, unless that is under way. */
void ns_want(struct pikv *kv, struct ns *s, struct conn *c);
void ns_free_all(struct pikv *kv);

/* loan.c */
void loan_want(struct pikv *kv, struct part *p);
/* Bytes of a loan, or NULL. */
const uint8_t *loan_bytes(struct pikv *kv, struct part *p, uint64_t off,
                          uint64_t len);
uint64_t loan_id_public(const struct conn *c, uint64_t id);
void loan_unmap(struct ns *ns, uint32_t line); /* the connection ended */
void loan_unmap_all(struct pikv *kv);

/* conn_ucx_open.c */
int ucx_open(struct pikv *kv);
void ucx_close(struct pikv *kv);

/* progress.c */
int progress_start(struct pikv *kv, bool thread);
void progress_stop(struct pikv *kv);
/* With kv->mu: moves what can be moved; true if more is to be done now. */
bool progress_once(struct pikv *kv, uint64_t now);
/* After a submit: the thread must know of the new deadline. */
void progress_submitted(struct pikv *kv, uint64_t now);
/* Makes the eventfd say whether completions wait. */
void progress_event(struct pikv *kv);
/* Waits until *done; with kv->mu held. */
void progress_wait(struct pikv *kv, const bool *done);
void progress_wait_until(struct pikv *kv, const bool *done, uint64_t until);
/* Waits for a call and takes it; returns its status. */
int progress_wait_call(struct pikv *kv, struct call *c,
                       struct pikv_completion *out);
void progress_kick(struct pikv *kv);
/* Sleeps, with kv->mu let go, until something happens or a moment passed. */
void progress_nap(struct pikv *kv, uint64_t until, uint64_t now);

#endif

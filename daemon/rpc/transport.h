/* SPDX-License-Identifier: Apache-2.0
 *
 * The one contract behind which messages and block bytes move. Providers:
 * transport_shm.c (same host), transport_ucx.c (fabrics, tcp), and the
 * simulator's. A provider knows frames and bytes, no keys and no blocks.
 *
 * One struct transport per lane and provider; one struct tp_peer per
 * connection, embedded by the provider in its own struct.
 *
 *   message in    events->message: a whole message (frame, body, maybe an fd),
 *                 in a buffer borrowed until the handler returns
 *   message out   send(): frame + body, kept by the caller until done
 *   bytes in      pull(): client -> spans of an extent (PUT)
 *   bytes out     push(): spans -> client (GET)
 *   end           events->closed, once, after every send, pull and push of the
 *                 peer has completed (ERR_PEER_GONE, ERR_CANCELED)
 *
 * Rules
 *  1. No completion and no event is delivered inside a call that the lane made
 *     into the transport; they come from progress().
 *  2. Each send, pull, push completes exactly once, also when the peer dies or
 *     close() is called. After its completion the transport touches neither
 *     the struct nor the spans.
 *  3. Spans given to a pull are fresh extents: bytes may arrive in them until
 *     the completion, whatever it says.
 *  4. cancel(): the caller no longer wants a pull or push. It completes soon
 *     with ERR_CANCELED; where bytes are in flight (a UCX rendezvous) that
 *     costs the whole connection, and its other requests end as well. It may
 *     be said again, and of one whose completion waits to be told.
 *  5. progress() does a bounded amount and says if there is more.
 *
 * How the bytes move
 *  shm: the request's wire_seg list says where in registered client memory;
 *     pull and push copy there. Nothing but the request and the reply travels.
 *  ucx: PUT up to inline_max bytes in all: the bytes are inline data of the
 *     request. Larger: the client sends, after the request and in key order,
 *     one WIRE_DATA active message per key whose header is a wire_frame (req,
 *     data_idx, data_off 0, data_len); eager up to WIRE_EAGER_MAX, rendezvous
 *     above. The server matches them by (req, data_idx); skip() drops one
 *     unreceived, and waits for one that never comes if the bytes were inline.
 *     GET up to inline_max in all: inline data of the reply, in key order.
 *     Larger: WIRE_DATA messages: eager, pieces of PIECE_BYTES with data_off,
 *     or rendezvous by size (UCX.md 7), all sent before the reply; the client
 *     counts bytes per key against result.moved.
 *     The client's buffers stay the client's: late pieces are dropped by req
 *     id, a rendezvous in flight at a deadline costs the endpoint. */
#ifndef RPC_TRANSPORT_H
#define RPC_TRANSPORT_H

#include "base/env.h"
#include "base/err.h"
#include "base/layout.h"
#include "base/list.h"
#include "base/metrics.h"
#include "base/span.h"
#include "base/trace.h"
#include "rpc/frame.h"

enum {
    TP_PIECE_BYTES = 56 << 10, /* measured: UCX.md 3 and 7 */
    TP_RNDV_MIN = 512 << 10, /* GET: pieces below, rendezvous from here */
};

struct transport;
struct tp_peer;
struct tp_send;
struct tp_xfer;

typedef void tp_send_fn(struct tp_send *s, enum err e);
typedef void tp_xfer_fn(struct tp_xfer *x, enum err e);

/* One outgoing message. The caller owns it and all it points to until done. */
struct tp_send {
    struct list node; /* the transport's, while in flight */
    struct wire_frame frame;
    const void *body; /* records | keys | envelope, frame_body_len bytes */
    const struct span *data; /* inline data, data_n spans; 0 on shm */
    uint32_t data_n;
    int fd; /* goes along (shm), or -1; stays the caller's */
    tp_send_fn *done;
    void *tp; /* the transport's */
};

/* The bytes of one key. The caller owns it until done. */
struct tp_xfer {
    struct list node; /* the transport's, while in flight */
    struct tp_peer *peer;
    uint64_t req;    /* request id and index of the key in it */
    uint32_t idx;
    uint32_t seg_n;  /* shm: where in the client's memory */
    const uint8_t *segs; /* packed wire_seg; or: */
    const struct layout *layout; /* bytes layout_pos .. + len of the block */
    uint64_t layout_base, layout_pos; /* that begins here */
    const struct span *spans;
    uint32_t span_n;
    bool is_push, want_crc; /* pull with want_crc: crc of the bytes stored */
    uint32_t crc;    /* out */
    uint64_t len;    /* bytes to move = sum of spans */
    uint64_t moved;  /* out */
    tp_xfer_fn *done;
    uint64_t tp_pos; /* the transport's */
    void *tp;        /* the transport's */
};

/* Who is there: for `pikvctl clients`, logs, loans. */
struct tp_cred {
    uint32_t uid, gid, pid; /* shm: SO_PEERCRED; pid 0: nobody vouches */
    char addr[64];          /* ucx: host:port */
};

struct tp_peer {
    struct transport *t;
    void *session;   /* the server's struct peer; NULL before opened() */
    struct tp_cred cred;
    uint32_t id;     /* unique within the lane's run */
    uint64_t inline_max; /* bytes of block data a message may carry; 0: none */
};

struct tp_ops {
    const char *name; /* "shm", "ucx", "sim" */
    void (*send)(struct tp_peer *p, struct tp_send *s);
    void (*pull)(struct tp_peer *p, struct tp_xfer *x);
    void (*push)(struct tp_peer *p, struct tp_xfer *x);
    void (*skip)(struct tp_peer *p, uint64_t req, uint32_t idx);
    void (*cancel)(struct tp_xfer *x);
    /* shm, else NULL: registered memory. fd is taken (closed) on OK. */
    enum err (*mem_register)(struct tp_peer *p, int fd, uint64_t off,
                             uint64_t len, bool writable, uint32_t *id_out,
                             bool *mapped_out);
    enum err (*mem_unregister)(struct tp_peer *p, uint32_t id);
    /* Bytes of a registered memory: NO_MEM. NULL: no layouts here. */
    enum err (*mem_bytes)(struct tp_peer *p, uint32_t id, uint64_t *out);
    /* shm: loans up to this id are taken back: release answers STALE. Returns
     * after the client can see it. NULL: no loans on this transport. */
    void (*loans_end)(struct tp_peer *p, uint64_t up_to);
    /* Orderly, or at once: what is in flight is cut. closed() follows. */
    void (*close)(struct tp_peer *p, bool at_once);
    bool (*progress)(struct transport *t);
    /* The lane is about to sleep: arm wake-ups. false: do not sleep. */
    bool (*arm)(struct transport *t);
    void (*awake)(struct transport *t);
};

struct tp_events {
    /* A new connection: set p->session or refuse with an error. */
    enum err (*opened)(void *lane, struct tp_peer *p);
    /* fd -1 or one the handler takes over. m is valid until return. */
    void (*message)(void *lane, struct tp_peer *p, const struct message *m,
                    int fd);
    /* Malformed bytes: counted. If m->frame.req is known (magic and crc were
     * right) the lane answers it and the connection goes on; else the
     * transport closes it after this. */
    void (*bad)(void *lane, struct tp_peer *p, const struct message *m,
                enum err e);
    void (*closed)(void *lane, struct tp_peer *p);
};

struct transport {
    const struct tp_ops *ops;
    const struct tp_events *events;
    void *lane; /* passed to the events */
    struct env *env;
    struct metrics *metrics;
    struct trace *trace;
    const struct frame_limits *limits;
};

#endif

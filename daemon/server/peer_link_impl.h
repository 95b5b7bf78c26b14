/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of peer_link*.c.
 *
 *   peer_link.c         the listener, timers, limits, what users call
 *   peer_link_dial.c    addresses to connections
 *   peer_link_conn.c    bytes of a connection, its end
 *   peer_link_greet.c   hello, names, which of two links stays
 *   peer_link_frame.c   frames, pure
 *   peer_link_tls.c     OpenSSL on memory BIOs
 *   peer_link_refuse.c  the log of strangers
 *
 *   RESOLVING -> DIALING -> SECURING -> GREETING -> UP -----> CLOSING -> freed
 *                   ^          |           |         ^           ^
 *    accepted ------|----------+           +-> SPARE +           |
 *                   next address                 any of them ----+
 *
 * Lifetime of a struct conn: it is in links->conns from conn_new to conn_free.
 * It is freed by the last of: its handle's close callback, its name look-up's
 * callback, the telling of its end. Whoever calls user code looks at
 * links->closing and c->state afterwards. */
#ifndef SERVER_PEER_LINK_IMPL_H
#define SERVER_PEER_LINK_IMPL_H

#include <uv.h>

#include "base/list.h"
#include "cluster/peer_msg.h"
#include "server/peer_link.h"
#include "server/peer_link_tls.h"

enum {
    FRAME_HEAD = 8,
    KIND_HERE = 0, /* "still here": of the links' own */
    NAME_MAX_LEN = 64,
    ADDRESS_MAX = 128,
    DIAL_TRIES = 4,             /* addresses of one name */
    READ_BYTES = 65536,         /* of one read of a socket */
    STRANGER_BYTES = 128 << 10, /* of all that is read before UP */
    LINGER_MS = 1000,           /* for the other side to take our last words */
    LINGER_CLOSE_MS = 250,
    REFUSALS = 256, /* addresses whose refusals are remembered */
    REFUSAL_MS = 60000,
};

enum conn_state {
    CONN_RESOLVING,
    CONN_DIALING,
    CONN_SECURING,
    CONN_GREETING,
    CONN_SPARE, /* waits for the acceptor to end the other one */
    CONN_UP,
    CONN_CLOSING,
};

struct conn {
    struct list node;       /* links->conns */
    struct list ended_node; /* links->ended until the user is told */
    struct peer_links *links;
    enum conn_state state;
    uint32_t slot;            /* links->slots */
    uint64_t id;              /* once UP, else 0 */
    bool ours;                /* we dialed */
    bool told;                /* nobody waits to hear of its end */
    bool telling;             /* somebody just hears of it */
    char dialed[ADDRESS_MAX]; /* ours, or an address that led to it: "" none */
    char address[64];         /* of the socket, without port */
    char name[NAME_MAX_LEN];

    uv_tcp_t tcp;
    bool open;      /* tcp is to be closed yet, or its callback to come */
    bool closing;   /* uv_close was called */
    bool resolving; /* resolve's callback is to come */
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    uv_shutdown_t shutdown;
    uv_write_t write;
    struct sockaddr_storage to[DIAL_TRIES];
    uint32_t to_n, to_at;

    struct peer_session *tls; /* NULL: plain */
    struct bytes in;          /* not yet taken frames, in plain */
    struct bytes out;         /* to be written, as it goes on the wire */
    struct bytes flight;      /* being written: libuv's until the callback */
    bool writing, want_shut;
    struct bytes hello;   /* SPARE: the peer's */
    uint64_t got;         /* bytes read, before UP */
    uint64_t deadline_ms; /* of states with one, else UINT64_MAX */
    uint64_t heard_ms, said_ms;

    enum err why;
    char words[256];
};

struct refusal {
    char address[64];
    uint64_t at_ms;
    uint64_t n; /* since the line */
};

struct peer_links {
    struct peer_links_cfg cfg;
    char self[NAME_MAX_LEN], host[ADDRESS_MAX];
    char *ca, *cert, *key, *psk_file;
    struct peer_tls *tls; /* NULL: plain */
    uv_tcp_t listener;
    uv_timer_t tick, later;
    uint32_t handles; /* of the three that are open */
    bool stalled;     /* a connection waits to be accepted: no memory */
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
    struct list conns, ended;
    uint32_t conn_n, pending_n; /* pending: accepted and not yet UP */
    struct conn **slots;
    uint32_t slot_n, slot_next;
    uint64_t seq;
    uint8_t *read_buf; /* READ_BYTES: filled and emptied within a read */
    struct peer_links_stats stats;
    struct refusal refusals[REFUSALS];
};

/* ---- peer_link.c ---- */

/* A connection without a socket; NULL: too many, or no memory. */
struct conn *conn_new(struct peer_links *l, bool ours);
/* Frees it if nothing of it is under way any more. */
void conn_unref(struct conn *c);
uint64_t links_now(const struct peer_links *l);
/* The user is told of c's end soon (conn_tell). */
void links_tell_later(struct peer_links *l, struct conn *c);
/* Now: never within a call of the user. */
void conn_tell(struct conn *c);

/* ---- peer_link_dial.c ---- */

void conn_dial(struct conn *c);
/* It has no answer in time: the next address, or the end. */
void conn_dial_late(struct conn *c);
/* The next address of those it has; false: there is none left. */
bool conn_dial_next(struct conn *c);
bool address_is_loopback(const struct sockaddr *a);
uint16_t address_port(const struct sockaddr *a);
/* Without port; "?" if it cannot be told. */
void address_text(const struct sockaddr *a, char *to, size_t cap);

/* ---- peer_link_conn.c ---- */

/* The socket is connected: TLS, or the greeting. */
void conn_begin(struct conn *c);
/* A spare is UP now: what it has said meanwhile is taken. */
void conn_listen(struct conn *c);
void conn_send(struct conn *c, uint16_t kind, const uint8_t *p, size_t n);
/* The end, with words for the user or for the log of strangers; further calls
 * do nothing. polite: what is queued goes out first, and the other side is
 * given time to read it. */
void conn_end(struct conn *c, bool polite, enum err e, const char *fmt, ...)
    printf_like(4, 5);
/* As conn_end, and says so to the other side by a Bye. */
void conn_end_bye(struct conn *c, enum err e, const char *fmt, ...)
    printf_like(3, 4);
/* Closes the socket at once. */
void peer_conn_close(struct conn *c);

/* ---- peer_link_greet.c ---- */

/* It is secured. The dialer speaks first. */
void conn_greet(struct conn *c);
/* A frame that came; returns with c in any state. */
void conn_frame(struct conn *c, uint16_t kind, const uint8_t *p, size_t n);
/* c is no more: the spare of its name, if there is one, is told UP. */
void conn_promote(struct peer_links *l, const char *name);

/* ---- peer_link_refuse.c ---- */

/* A stranger at that address: counted, and said once a minute. */
void refuse_log(struct peer_links *l, const char *address, const char *why);

/* ---- peer_link_frame.c ---- */

void peer_frame_head(uint8_t to[FRAME_HEAD], uint16_t kind, size_t n);

#endif

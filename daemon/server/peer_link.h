/* SPDX-License-Identifier: Apache-2.0
 *
 * Links between daemons: libuv streams, TLS 1.3 by OpenSSL memory BIOs, and
 * frames of bounded size on them. Knows nothing of what the frames mean but
 * hello and bye.
 *
 *   listen --> ACCEPTED --TLS--> SECURED --hello ok--> UP --> CLOSING --> freed
 *   dial   --> DIALING ---^                                      ^
 *           from each: deadline, EOF, frame too long, hello refused
 *
 * Security, by cluster.security:
 *   tls    TLS 1.3, both sides with a certificate of cluster.tls.ca; one of its
 *          subject alternative names (DNS) is the name that hello says
 *   psk    TLS 1.3 with a pre-shared key (cluster.tls.psk_file: lines of at
 *          least 32 random bytes in hex; the first is used to dial, all are
 *          accepted, so that a key can be replaced node by node). Who has it
 *          may take any name
 *   plain  only between loopback addresses, and only when set so: any process
 *          of this machine may take any name, and say again what it heard
 *
 * A frame: u32 length of what follows, u16 kind, u16 flags 0, message of
 * at most cfg.frame_max bytes, before UP of at most what a hello takes. Replays
 * and truncation are TLS's to see; a truncated plain stream ends the link. Kind
 * 0 is the links' own: "still here", said where a third of idle_ms was silent.
 * Strangers cost at most cfg.handshake_ms and one of cfg.pending_max places,
 * one address half of them; what is refused is logged once per address and
 * minute.
 *
 * The dialer says hello first; the other side answers once it has checked it.
 *
 * One link per pair of names, by a rule that both sides follow without asking:
 *   1. of two that were dialed from different sides, the one dialed by the
 *      smaller name (bytewise) stays;
 *   2. of two that the same side dialed, the acceptor keeps the newer, and the
 *      dialer tells of the second only when the acceptor has ended the first
 *      (the peer was restarted, or it is dialed by two addresses).
 * What loses is told `down` before what wins is told `up`; a dial that loses is
 * told down with link 0 and ERR_EXISTS, and its address counts as the winner's
 * from then on.
 *
 * Everything runs on the loop's thread; callbacks never run inside a call of
 * the user. */
#ifndef SERVER_PEER_LINK_H
#define SERVER_PEER_LINK_H

#include "base/err.h"

struct peer_links;
typedef struct uv_loop_s uv_loop_t;

enum peer_security {
    PEER_SECURITY_TLS,
    PEER_SECURITY_PSK,
    PEER_SECURITY_PLAIN
};

struct peer_links_cfg {
    uv_loop_t *loop;
    const char *self; /* our name, as our hello says it */
    const char *host; /* to listen on: cluster.host, an address */
    uint16_t port;    /* cluster.port; 0: any (peer_links_port) */
    enum peer_security security;
    const char *ca, *cert, *key;     /* paths; tls */
    const char *psk_file;            /* path; psk */
    uint32_t frame_max;              /* bytes; 0: 4 MiB */
    uint32_t handshake_ms;           /* 0: 2000 */
    uint32_t dial_ms;                /* 0: 1000 */
    uint32_t idle_ms;                /* nothing received for so long: closed;
                                      * 0: 10000 */
    uint32_t queue_max;              /* unsent bytes of a link; more closes it;
                                      * 0: 16 MiB */
    uint32_t links_max, pending_max; /* 0: 4096, 64 */
    /* Bytes of our hello, appended to out (malloc'ed, freed by the links). */
    void (*hello)(void *arg, uint8_t **p_out, size_t *n_out);
    /* The peer's hello: judge it. name_out: who it says it is, which must be
     * what its certificate says. Not OK: Bye with m's words, then closed. */
    enum err (*check)(void *arg, const uint8_t *p, size_t n, char name_out[64],
                      struct errmsg *m);
    /* UP: both hellos were good. dialed: the address we dialed, NULL if the
     * peer did. hello stays valid during the call only. */
    void (*up)(void *arg, uint64_t link, const char *name, const char *dialed,
               const uint8_t *hello, size_t n);
    void (*message)(void *arg, uint64_t link, uint16_t kind, const uint8_t *p,
                    size_t n);
    /* After up; or a dial that came to nothing (link 0, dialed set). */
    void (*down)(void *arg, uint64_t link, const char *dialed, enum err e,
                 const char *why);
    void *arg;
};

struct peer_links_stats {
    uint64_t up, dialed, accepted, refused, frames_in, frames_out, bytes_in,
        bytes_out;
};

/* Listens. CONFIG names the key of the configuration that is wrong and the
 * fix (no such file, key does not fit the certificate, address in use). */
must_check enum err peer_links_open(const struct peer_links_cfg *cfg,
                                    struct peer_links **out, struct errmsg *m);
/* Certificates and keys are read from their paths again, for links from now on;
 * a failure leaves the old ones. */
must_check enum err peer_links_reload(struct peer_links *p, struct errmsg *m);
uint16_t peer_links_port(const struct peer_links *p);
/* Closes all, with a Bye; no callback runs from now on but closed, once every
 * handle is (within a second or so, also with peers that are gone; a look-up of
 * a name that is under way is waited for). p may be NULL: closed does not run.
 * closed may be NULL. */
void peer_links_close(struct peer_links *p, void (*closed)(void *arg),
                      void *arg);
/* Tries to have a link to that address (HOST:PORT, names are resolved); one
 * that is under way or up to it already is left alone. */
void peer_links_dial(struct peer_links *p, const char *address);
/* Copies. A link that is gone, or whose queue is full: nothing is sent. */
void peer_links_send(struct peer_links *p, uint64_t link, uint16_t kind,
                     const uint8_t *msg, size_t n);
void peer_links_hang_up(struct peer_links *p, uint64_t link, const char *why);
void peer_links_stats(const struct peer_links *p, struct peer_links_stats *out);

/* Frames from bytes, for links and the fuzzer: returns bytes consumed, 0 more
 * are needed, or -1: nonsense (too long, flags). Pure. */
long peer_frame_take(const uint8_t *p, size_t n, uint32_t frame_max,
                     uint16_t *kind_out, const uint8_t **msg_out,
                     size_t *len_out);

#endif

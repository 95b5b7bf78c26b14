/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS 1.3 of peer links, without sockets: bytes of the wire go in and come out
 * of memory BIOs, so that one thread drives all by libuv.
 *
 *   peer_session_feed   what the socket gave
 *   peer_session_shake  until it is done or has failed
 *   peer_session_read   what the peer said
 *   peer_session_write  what we say
 *   peer_session_drain  what the socket is to be given, after each of these
 *
 * No earlier version, no tickets, no early data: every link has a handshake of
 * its own, so recorded bytes are worth nothing. tls: both sides must show a
 * certificate of our authority. psk: both must know the key; a handshake that
 * did not use it has failed.
 *
 * A context is shared by its sessions and lives until the last of them is
 * freed. One thread. */
#ifndef SERVER_PEER_LINK_TLS_H
#define SERVER_PEER_LINK_TLS_H

#include "cluster/bytes.h"
#include "server/peer_link.h"

struct peer_tls;
struct peer_session;

/* Reads the files that cfg names and proves them: CONFIG with the key of the
 * configuration and the fix. Not for plain. */
must_check enum err peer_tls_open(const struct peer_links_cfg *cfg,
                                  struct peer_tls **out, struct errmsg *m);
void peer_tls_unref(struct peer_tls *t); /* NULL ok */

struct peer_session *peer_session_new(struct peer_tls *t, bool server);
void peer_session_free(struct peer_session *s); /* NULL ok */

bool peer_session_feed(struct peer_session *s, const void *p, size_t n);
/* 1 done, 0 needs more, -1 failed: peer_session_why. */
int peer_session_shake(struct peer_session *s);
/* Bytes read; 0 needs more, -1 ended in order, -2 failed. */
long peer_session_read(struct peer_session *s, void *to, size_t cap);
bool peer_session_write(struct peer_session *s, const void *p, size_t n);
/* Says that nothing more will be said. */
void peer_session_shut(struct peer_session *s);
/* Appends to out; false: no memory. */
bool peer_session_drain(struct peer_session *s, struct bytes *out);
/* Does the peer's certificate have that name? psk: yes. */
bool peer_session_named(const struct peer_session *s, const char *name);
const char *peer_session_why(const struct peer_session *s);

#endif

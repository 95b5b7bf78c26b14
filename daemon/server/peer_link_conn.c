/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection of peer links: bytes in, frames out of them, bytes out, and
 * its end (peer_link_impl.h has the states).
 *
 *     socket --read--> TLS --plain--> c->in --frames--> conn_frame
 *     conn_send --> TLS --> c->out --one write at a time--> socket
 *
 * 1. Frames are taken while the connection is in a state that may have them;
 *    what is left in c->in afterwards is less than one frame.
 * 2. At most one uv_write is under way; what is said meanwhile gathers in out.
 *    Both together are held against cfg.queue_max.
 * 3. conn_end is the only way out: it fixes the words, tells the user later,
 *    and closes. A polite end lets out drain, shuts the sending side and reads
 *    on, to nowhere, until the peer closes too or LINGER_MS are over: closing
 *    a socket with unread bytes would take our last words away from the peer.
 * 4. Nothing here calls the user's functions but by conn_frame. */
#include "server/peer_link_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"

static void conn_flush(struct conn *c);

/* ---- The end ---- */

static void on_closed(uv_handle_t *h)
{
    struct conn *c = container_of(h, struct conn, tcp);

    c->open = c->closing = false;
    if (c->state == CONN_DIALING && conn_dial_next(c))
        return;
    if (c->state == CONN_CLOSING)
        conn_unref(c);
    else
        conn_end(c, false, c->why, "%s", c->words);
}

void peer_conn_close(struct conn *c)
{
    if (c->open && !c->closing) {
        c->closing = true;
        uv_close((uv_handle_t *)&c->tcp, on_closed);
    } else if (!c->open) {
        conn_unref(c);
    }
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct conn *c = container_of(req, struct conn, shutdown);

    if (status < 0)
        peer_conn_close(c);
}

static void conn_shut(struct conn *c)
{
    c->want_shut = false;
    if (uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown) != 0)
        peer_conn_close(c);
}

static void conn_linger(struct conn *c)
{
    struct peer_links *l = c->links;
    uint64_t until = links_now(l) + (l->closing ? LINGER_CLOSE_MS : LINGER_MS);

    c->deadline_ms = min_u64(c->deadline_ms, until);
    if (c->tls) {
        peer_session_shut(c->tls);
        if (!peer_session_drain(c->tls, &c->out)) {
            peer_conn_close(c);
            return;
        }
    }
    c->want_shut = true;
    conn_flush(c);
}

void conn_end(struct conn *c, bool polite, enum err e, const char *fmt, ...)
{
    bool connected = c->state >= CONN_SECURING;
    char words[sizeof(c->words)];
    va_list ap;

    if (c->state == CONN_CLOSING)
        return;
    va_start(ap, fmt);
    vsnprintf(words, sizeof(words), fmt, ap);
    va_end(ap);
    memcpy(c->words, words, sizeof(words));
    c->why = e;
    c->state = CONN_CLOSING;
    if (!c->ours && !c->name[0] && !c->links->closing)
        refuse_log(c->links, c->address, c->words);
    links_tell_later(c->links, c);
    if (polite && connected && c->open && !c->closing)
        conn_linger(c);
    else
        peer_conn_close(c);
}

void conn_end_bye(struct conn *c, enum err e, const char *fmt, ...)
{
    Peer__Bye bye = PEER__BYE__INIT;
    struct bytes b = {0};
    char words[sizeof(c->words)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof(words), fmt, ap);
    va_end(ap);
    bye.err = e;
    bye.why = words;
    if (c->state > CONN_SECURING && c->state < CONN_CLOSING &&
        peer_msg_pack(PEER_BYE, &bye, &b) == OK)
        conn_send(c, PEER_BYE, b.p, b.len);
    bytes_fini(&b);
    conn_end(c, true, e, "%s", words);
}

/* ---- Out ---- */

/* Room that a burst took is not kept for ever. */
static void bytes_empty(struct bytes *b)
{
    if (b->cap > 4 * READ_BYTES)
        bytes_fini(b);
    b->len = 0;
}

static void conn_write_failed(struct conn *c, int status)
{
    if (c->state == CONN_CLOSING)
        peer_conn_close(c);
    else
        conn_end(c, false, ERR_PEER_GONE, "cannot write: %s",
                 uv_strerror(status));
}

static void on_write(uv_write_t *req, int status)
{
    struct conn *c = container_of(req, struct conn, write);

    c->writing = false;
    c->links->stats.bytes_out += c->flight.len;
    bytes_empty(&c->flight);
    if (status < 0)
        conn_write_failed(c, status);
    else
        conn_flush(c);
}

static void conn_flush(struct conn *c)
{
    struct bytes swap = c->flight;
    uv_buf_t buf;
    int rc;

    if (c->writing || !c->open || c->closing)
        return;
    if (!c->out.len) {
        if (c->want_shut)
            conn_shut(c);
        return;
    }
    c->flight = c->out;
    c->out = swap;
    buf = uv_buf_init((char *)c->flight.p, (unsigned)c->flight.len);
    rc = fault_here("peer_write")
             ? UV_ENOMEM
             : uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_write);
    if (rc == 0) {
        c->writing = true;
        c->said_ms = links_now(c->links);
    } else {
        conn_write_failed(c, rc);
    }
}

/* What TLS has to say goes out; false: no memory, c is at its end. */
static bool conn_drain(struct conn *c)
{
    if (peer_session_drain(c->tls, &c->out))
        return true;
    conn_end(c, false, ERR_NO_MEMORY, "no memory for what is to be sent");
    return false;
}

static bool conn_put(struct conn *c, const uint8_t *p, size_t n)
{
    if (c->tls)
        return peer_session_write(c->tls, p, n) &&
               peer_session_drain(c->tls, &c->out);
    bytes_put(&c->out, p, n);
    return !c->out.bad;
}

void conn_send(struct conn *c, uint16_t kind, const uint8_t *p, size_t n)
{
    uint8_t head[4096]; /* with a short message: one TLS record */
    size_t with = n <= sizeof(head) - FRAME_HEAD ? n : 0;
    uint64_t queued = c->out.len + c->flight.len;

    if (queued && queued + n > c->links->cfg.queue_max) {
        conn_end(c, false, ERR_BUSY, "%llu bytes are not taken by the peer",
                 (unsigned long long)queued);
        return;
    }
    peer_frame_head(head, kind, n);
    if (with)
        memcpy(head + FRAME_HEAD, p, with);
    if (!conn_put(c, head, FRAME_HEAD + with) ||
        (n > with && !conn_put(c, p, n))) {
        conn_end(c, false, ERR_NO_MEMORY, "no memory for what is to be sent");
        return;
    }
    c->links->stats.frames_out++;
    conn_flush(c);
}

/* ---- In ---- */

static bool conn_takes(const struct conn *c)
{
    return c->state == CONN_GREETING || c->state == CONN_UP;
}

static void conn_take(struct conn *c)
{
    size_t at = 0;

    while (conn_takes(c) && at < c->in.len) {
        uint32_t max = c->state == CONN_UP ? c->links->cfg.frame_max
                                           : (uint32_t)peer_msg_max(PEER_HELLO);
        const uint8_t *msg;
        uint16_t kind;
        size_t len;
        long n = peer_frame_take(c->in.p + at, c->in.len - at, max, &kind, &msg,
                                 &len);

        if (n < 0)
            conn_end(c, true, ERR_BAD_REQUEST,
                     "not a frame of peers, or one longer than %u bytes", max);
        if (n <= 0)
            break;
        at += (size_t)n;
        c->links->stats.frames_in++;
        conn_frame(c, kind, msg, len);
    }
    c->in.len -= at;
    if (at && c->in.len)
        memmove(c->in.p, c->in.p + at, c->in.len);
    if (!c->in.len)
        bytes_empty(&c->in);
}

/* Bytes that the peer said. */
static void conn_plain(struct conn *c, const uint8_t *p, size_t n)
{
    bytes_put(&c->in, p, n);
    if (c->in.bad)
        conn_end(c, false, ERR_NO_MEMORY, "no memory for what the peer says");
    else
        conn_take(c);
}

static void conn_shake(struct conn *c)
{
    int rc = peer_session_shake(c->tls);

    if (!conn_drain(c))
        return;
    if (rc < 0)
        conn_end(c, true, ERR_DENIED, "%s", peer_session_why(c->tls));
    else if (rc > 0)
        conn_greet(c);
    if (rc >= 0)
        conn_flush(c);
}

static void conn_read_tls(struct conn *c)
{
    struct peer_links *l = c->links;
    long n;

    while (conn_takes(c)) {
        n = peer_session_read(c->tls, l->read_buf, READ_BYTES);
        if (n == 0)
            break;
        if (n > 0)
            conn_plain(c, l->read_buf, (size_t)n);
        else if (n == -1)
            conn_end(c, false, ERR_PEER_GONE, "the peer closed the link");
        else
            conn_end(c, true, ERR_DENIED, "%s", peer_session_why(c->tls));
    }
    if (conn_takes(c) && conn_drain(c)) /* key updates are answered */
        conn_flush(c);
}

static void conn_eof(struct conn *c, int status)
{
    if (status != UV_EOF)
        conn_end(c, false, ERR_PEER_GONE, "%s", uv_strerror(status));
    else if (c->in.len)
        conn_end(c, false, ERR_PEER_GONE, "the stream was cut within a frame");
    else if (c->state < CONN_UP)
        conn_end(c, false, ERR_PEER_GONE, "it hung up before its hello");
    else if (c->tls)
        conn_end(c, false, ERR_PEER_GONE,
                 "the stream was cut: TLS did not end it");
    else
        conn_end(c, false, ERR_PEER_GONE, "the peer closed the link");
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct conn *c = container_of(h, struct conn, tcp);

    (void)hint;
    *buf = uv_buf_init((char *)c->links->read_buf, READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = container_of(stream, struct conn, tcp);

    if (n == 0)
        return;
    if (n < 0 || c->state == CONN_CLOSING) {
        if (n < 0 && c->state == CONN_CLOSING)
            peer_conn_close(c);
        else if (n < 0)
            conn_eof(c, (int)n);
        return;
    }
    c->heard_ms = links_now(c->links);
    c->links->stats.bytes_in += (uint64_t)n;
    c->got += (uint64_t)n;
    if (c->state < CONN_SPARE && c->got > STRANGER_BYTES) {
        conn_end(c, false, ERR_LIMIT, "too many bytes before its hello");
        return;
    }
    if (!c->tls) {
        conn_plain(c, (const uint8_t *)buf->base, (size_t)n);
        return;
    }
    if (!peer_session_feed(c->tls, buf->base, (size_t)n)) {
        conn_end(c, false, ERR_NO_MEMORY, "no memory for what the peer says");
        return;
    }
    if (c->state == CONN_SECURING)
        conn_shake(c);
    conn_read_tls(c);
}

void conn_listen(struct conn *c)
{
    conn_take(c);
    if (c->tls)
        conn_read_tls(c);
    if (conn_takes(c) &&
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        conn_end(c, false, ERR_IO, "cannot read from the socket");
}

void conn_begin(struct conn *c)
{
    struct peer_links *l = c->links;

    c->state = CONN_SECURING;
    c->deadline_ms = links_now(l) + l->cfg.handshake_ms;
    uv_tcp_nodelay(&c->tcp, 1);
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0) {
        conn_end(c, false, ERR_IO, "cannot read from the socket");
        return;
    }
    if (!l->tls) {
        conn_greet(c);
        return;
    }
    c->tls = peer_session_new(l->tls, !c->ours);
    if (!c->tls)
        conn_end(c, false, ERR_NO_MEMORY, "no memory for TLS");
    else if (c->ours)
        conn_shake(c);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Hello, and which of two links with one name stays (peer_link.h has the rule).
 *
 *   dialer    GREETING: says hello --------------> checks, answers hello, UP
 *             checks, UP or SPARE <---------------
 *
 * A hello has to be judged good by the user, to be of the name that the
 * certificate has, and of another name than ours. Then links of that name that
 * are UP are looked at: at most one is, so that one comparison decides.
 *
 * SPARE: both were dialed by us. The acceptor keeps the newer, by its own
 * order; we cannot know that order, so the second waits, unread, until the
 * first ends, and is UP then; or it ends itself, at the latest at its deadline.
 *
 * Here the user's functions are called: never from within a call of the user,
 * since all comes from reading, or from the timer. */
#include "server/peer_link_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

static struct conn *conn_of(struct peer_links *l, const char *name,
                            enum conn_state state, const struct conn *but)
{
    LIST_FOREACH(n, &l->conns)
    {
        struct conn *c = container_of(n, struct conn, node);

        if (c != but && c->state == state && strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

static bool conn_hello_send(struct conn *c)
{
    struct peer_links *l = c->links;
    uint8_t *p = NULL;
    size_t n = 0;

    l->cfg.hello(l->cfg.arg, &p, &n);
    if (p && n <= peer_msg_max(PEER_HELLO))
        conn_send(c, PEER_HELLO, p, n);
    else
        conn_end(c, false, ERR_NO_MEMORY, "there is no hello to say");
    free(p);
    return c->state != CONN_CLOSING;
}

void conn_greet(struct conn *c)
{
    c->state = CONN_GREETING;
    if (c->ours)
        conn_hello_send(c);
}

static void conn_up(struct conn *c, const uint8_t *hello, size_t n)
{
    struct peer_links *l = c->links;

    c->state = CONN_UP;
    c->deadline_ms = UINT64_MAX;
    c->heard_ms = links_now(l);
    c->id = ++l->seq << 16 | c->slot;
    l->stats.up++;
    if (!c->ours)
        l->pending_n--;
    l->cfg.up(l->cfg.arg, c->id, c->name, c->ours ? c->dialed : NULL, hello, n);
}

/* The loser's end is told first, so that the user never sees two. */
static void conn_lose(struct conn *loser, struct conn *winner)
{
    if (!winner->dialed[0] && loser->ours)
        memcpy(winner->dialed, loser->dialed, sizeof(winner->dialed));
    conn_end_bye(loser, ERR_EXISTS, "another link with %s stays", loser->name);
    if (loser->id)
        conn_tell(loser);
}

static void conn_spare(struct conn *c, const uint8_t *hello, size_t n)
{
    bytes_put(&c->hello, hello, n);
    if (c->hello.bad) {
        conn_end(c, false, ERR_NO_MEMORY, "no memory for its hello");
        return;
    }
    c->state = CONN_SPARE;
    uv_read_stop((uv_stream_t *)&c->tcp);
}

void conn_promote(struct peer_links *l, const char *name)
{
    struct conn *c =
        name[0] && !l->closing ? conn_of(l, name, CONN_SPARE, NULL) : NULL;

    if (!c || conn_of(l, name, CONN_UP, c))
        return;
    conn_up(c, c->hello.p, c->hello.len);
    bytes_fini(&c->hello);
    if (c->state == CONN_UP)
        conn_listen(c);
}

/* Another of c's name: a spare, while there is one, else the one that is UP. */
static struct conn *conn_rival(const struct conn *c)
{
    struct conn *spare = conn_of(c->links, c->name, CONN_SPARE, c);

    return spare ? spare : conn_of(c->links, c->name, CONN_UP, c);
}

/* The end of one of that name that the user is yet to hear of: there is at most
 * one, since it is told before the next is UP. */
static void conn_tell_ended(struct peer_links *l, const char *name)
{
    LIST_FOREACH(n, &l->ended)
    {
        struct conn *c = container_of(n, struct conn, ended_node);

        if (c->id && strcmp(c->name, name) == 0) {
            conn_tell(c);
            return;
        }
    }
}

/* Both hellos are good: does c stay? */
static void conn_decide(struct conn *c, const uint8_t *hello, size_t n)
{
    struct peer_links *l = c->links;
    bool ours_stays = strcmp(l->self, c->name) < 0;
    struct conn *old;

    conn_tell_ended(l, c->name);
    old = conn_rival(c);
    if (old && old->ours && c->ours) {
        conn_spare(c, hello, n);
        return;
    }
    if (old && old->ours != c->ours && c->ours != ours_stays) {
        conn_lose(c, old);
        return;
    }
    while (!l->closing && (old = conn_rival(c)))
        conn_lose(old, c);
    if (c->state == CONN_GREETING)
        conn_up(c, hello, n);
}

static void conn_hello(struct conn *c, const uint8_t *p, size_t n)
{
    struct peer_links *l = c->links;
    char name[NAME_MAX_LEN] = "";
    struct errmsg m = {""};
    enum err e = l->cfg.check(l->cfg.arg, p, n, name, &m);

    if (c->state == CONN_CLOSING) /* the user closed all */
        return;
    if (e) {
        conn_end_bye(c, e, "%s", m.text[0] ? m.text : err_text(e));
        return;
    }
    name[sizeof(name) - 1] = 0;
    if (c->tls && !peer_session_named(c->tls, name)) {
        conn_end_bye(c, ERR_DENIED,
                     "it says it is \"%s\", but no DNS name of its certificate "
                     "is that; fix: a certificate with subjectAltName=DNS:%s",
                     name, name);
        return;
    }
    if (strcmp(name, l->self) == 0) {
        conn_end_bye(c, ERR_DENIED,
                     "it says it is \"%s\", which is this node; fix: a "
                     "node.name of its own, or another address",
                     name);
        return;
    }
    if (!c->ours && l->conn_n - l->pending_n >= l->cfg.links_max) {
        conn_end_bye(c, ERR_BUSY, "no place for another link (at most %u)",
                     l->cfg.links_max);
        return;
    }
    memcpy(c->name, name, sizeof(c->name));
    if (c->ours || conn_hello_send(c))
        conn_decide(c, p, n);
}

/* Why the peer ends it: its words, as a line. */
static void conn_bye(struct conn *c, const uint8_t *p, size_t n)
{
    Peer__Bye *bye = peer_msg_unpack(PEER_BYE, p, n);
    enum err e = ERR_PEER_GONE;

    if (!bye) {
        conn_end(c, false, ERR_BAD_REQUEST, "a malformed Bye");
        return;
    }
    for (char *s = bye->why; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = '?';
    if (bye->err < 0 && strcmp(err_name(bye->err), "UNKNOWN") != 0)
        e = (enum err)bye->err;
    conn_end(c, false, e, "the peer says: %s", bye->why);
    peer_msg_free(bye);
}

void conn_frame(struct conn *c, uint16_t kind, const uint8_t *p, size_t n)
{
    struct peer_links *l = c->links;
    bool greeting = c->state == CONN_GREETING;

    if (kind == PEER_BYE)
        conn_bye(c, p, n);
    else if (greeting && kind == PEER_HELLO)
        conn_hello(c, p, n);
    else if (greeting || kind == PEER_HELLO)
        conn_end_bye(c, ERR_BAD_REQUEST, "a frame of kind %u %s hello", kind,
                     greeting ? "before its" : "after its");
    else if (kind != KIND_HERE)
        l->cfg.message(l->cfg.arg, c->id, kind, p, n);
}

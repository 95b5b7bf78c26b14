/* SPDX-License-Identifier: Apache-2.0
 *
 * Daemons' links in a test: a loop, nodes with what they were told,
 * certificates and keys in a directory, and raw sockets of strangers.
 *
 *   pfix_open(); struct pnode *a = pnode_open("a", NULL), *b = ...;
 *   pnode_dial(a, b); PFIX_UNTIL(a->link && b->link); ... pfix_close();
 *
 * PFIX_UNTIL turns the loop and the pipes until the condition holds; a limit of
 * time ends the test only when it hangs. One thread, one fixture. */
#ifndef TESTS_PEER_FIX_H
#define TESTS_PEER_FIX_H

#include <uv.h>

#include "cluster/peer_msg.h"
#include "server/peer_link.h"

enum { PFIX_NODES = 80, PFIX_LINKS = 80 };

struct pnode {
    struct peer_links *links;
    struct peer_links_cfg cfg;
    char name[64];
    char address[64];
    uint64_t link;              /* of the last `up` that is not down, 0: none */
    char peer[64];              /* its name */
    bool dialed;                /* by us */
    uint32_t live;              /* links up now */
    uint32_t ups, downs, fails; /* fails: dials that came to nothing */
    uint32_t checks;            /* hellos that were judged */
    enum err why;               /* of the last end */
    char words[256];
    uint64_t messages, bytes;
    uint16_t kind;   /* of the last message */
    uint8_t first;   /* its first byte */
    enum err refuse; /* check answers this */
    bool closed;
    void (*on_message)(struct pnode *n, uint64_t link);
    void (*on_up)(struct pnode *n, uint64_t link);
    void (*on_down)(struct pnode *n, uint64_t link);
    struct errmsg m; /* of open */
};

extern uv_loop_t pfix_loop;
extern char pfix_dir[128];
extern char pfix_log[65536]; /* lines since pfix_open */

/* tls: DIR/ca.*, and a certificate for each node that opens; psk: DIR/psk. */
void pfix_open(enum peer_security security);
/* Closes all nodes and sees that the loop is empty. */
void pfix_close(void);
const char *pfix_path(const char *name); /* in the directory; a few at a time */
void pfix_write(const char *name, const char *text, unsigned mode);
bool pfix_turn(void); /* once; aborts the test after a long while */
#define PFIX_UNTIL(cond)                                                       \
    do {                                                                       \
        while (!(cond))                                                        \
            pfix_turn();                                                       \
    } while (0)
/* Turns until so many milliseconds of the loop are over. */
void pfix_wait(uint32_t ms);
uint32_t pfix_log_n(const char *text); /* how often it was logged */

/* The node's cfg, to be changed before pnode_start. */
struct pnode *pnode_new(const char *name);
enum err pnode_start(struct pnode *n);
struct pnode *pnode_open(const char *name); /* both, and it must work */
void pnode_close(struct pnode *n);          /* begins; until n->closed */
void pnode_dial(struct pnode *n, const struct pnode *to);
struct peer_links_stats pnode_stats(const struct pnode *n);
/* A hello of that name, in a frame. */
size_t pfix_hello(const char *name, uint8_t *to, size_t cap);

/* ---- Strangers: a socket that does not block ---- */

int raw_connect(const struct pnode *to, const char *from);
void raw_send(int fd, const void *p, size_t n);
/* Everything until the other side closed; returns how many bytes came. */
size_t raw_until_closed(int fd, uint8_t *to, size_t cap);

/* ---- A pipe between a dialer and a node, that can be cut ---- */

struct ppipe {
    int listener, in, out; /* -1: not there */
    char address[64];
    const struct pnode *to;
    bool held;     /* nothing passes */
    size_t pass;   /* bytes that may yet pass to the node, then it is cut */
    uint8_t *seen; /* what the dialer said */
    size_t seen_n, seen_cap;
};

void ppipe_open(struct ppipe *p, const struct pnode *to);
void ppipe_cut(struct ppipe *p);
void ppipe_close(struct ppipe *p);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the fake pikvd: what fake_pikvd.c (connections, lanes, BATCH
 * operations) and fake_msg.c (MSG operations) share. */
#ifndef TESTS_FAKE_IMPL_H
#define TESTS_FAKE_IMPL_H

#include <pthread.h>

#include "base/base.h"
#include "rpc/frame.h"
#include "rpc/ring.h"
#include "tests/lib/fake_events.h"
#include "tests/lib/fake_open.h"
#include "tests/lib/fake_parts.h"
#include "tests/lib/fake_pikvd.h"
#include "tests/lib/fake_view.h"

enum {
    LANES = 8,
    CONNS = 16,
    MEMS = 64,
    RING_BYTES = 1 << 18,
    HELD = 512,
    LOAN_BYTES = 1 << 20,
};

struct block {
    struct block *next;
    uint32_t lane, key_len, crc;
    uint64_t len, version;
    uint8_t key[WIRE_KEY_MAX];
    uint8_t *bytes;
};

struct mem {
    uint8_t *p; /* the byte at the offset that was named */
    uint64_t len, pad;
};

struct fake_conn {
    int sock, req_fd, rep_fd;
    struct ring_shared *sh;
    struct ring req, rep;
    struct mem mems[MEMS];
    uint32_t mem_n;
    uint64_t loans;
};

struct held {
    uint32_t conn;
    uint32_t len;
    uint8_t *msg;
};

struct lane {
    struct fake *f;
    uint32_t idx;
    int listen;
    pthread_t thread;
    char path[128];
    struct fake_conn conns[CONNS];
    struct held held[HELD];
    uint32_t held_n, requests;
    struct fake_seen seen;
    struct fake_feed feed;
    enum fake_mode mode;
    int loan_fd;
    uint8_t *loan;
    uint64_t loan_used;
    uint32_t restarts;
};

struct fake {
    pthread_mutex_t mu;
    uint32_t wanted; /* atomic: by the test's threads, who go first */
    bool stop, pipe;
    uint32_t spins, given_up, lane_n, hellos, segs, stored, restarts, loans_end,
        in_flight_max;
    uint32_t credit_ops;
    int durable;
    enum fake_tells tells;
    uint64_t credit_bytes, boot, generation;
    char dir[64], address[200];
    struct lane lanes[LANES];
    struct block *blocks;
    struct fake_opens opens;
    uint64_t versions;
    struct fake_view *view; /* NULL: a single node */
    uint32_t ns_id, ns_opens, views, redirects, pings, evicted, bumps;
    int refuses_open;
    bool down;
};

/* fake_pikvd.c */
void fake_reply(struct fake_conn *c, const struct wire_frame *req, int status,
                const void *body, uint32_t record_n, uint32_t env_len);
void fake_reply_fd(struct fake_conn *c, const struct wire_frame *req,
                   const void *env, uint32_t env_len, int fd);

/* fake_msg.c */
void fake_do_hello(struct lane *l, struct fake_conn *c,
                   const struct wire_frame *req);
void fake_do_open(struct lane *l, struct fake_conn *c,
                  const struct message *msg);
void fake_do_register(struct fake_conn *c, const struct message *msg, int fd);
void fake_do_attach(struct lane *l, struct fake_conn *c,
                    const struct message *msg);
void fake_do_namespace(struct lane *l, struct fake_conn *c,
                       const struct message *msg);
void fake_do_feedback(struct lane *l, struct fake_conn *c,
                      const struct message *msg);
bool fake_is_cold(const void *key, size_t len);
void fake_do_explain(struct lane *l, struct fake_conn *c,
                     const struct message *msg);

#endif

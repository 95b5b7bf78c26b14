/* SPDX-License-Identifier: Apache-2.0
 *
 * One lane with its control and a transport that a test holds in its hand: for
 * tests of single operations. Requests are built record by record, run to rest,
 * and their replies read back; bytes move at once, or when the test lets them.
 *
 * With a media (lib/disk_mem.h) set before node_start the node has an SSD, or
 * as many as the media has devices. What outlives a node, as it outlives a
 * daemon, are the media and the registry's text: node_again starts the next
 * life. */
#ifndef TESTS_NODE_H
#define TESTS_NODE_H

#include "lib/disk_mem.h"
#include "rpc/msg.h"
#include "server/control.h"
#include "server/lane.h"
#include "server/peer.h"

enum { NODE_KEYS = 64, NODE_BUF = 1 << 22 };

/* A connection of the test. */
struct node_peer {
    struct tp_peer tp; /* first */
    struct test_node *node;
    uint8_t *bytes[NODE_KEYS]; /* the client's memory, by key index */
    uint8_t *memory;           /* for layouts: memory 1, or NULL */
    uint64_t memory_bytes;
    struct list xfers;         /* held */
    struct list unread;        /* sends */
    bool closed, told;
};

struct node_reply {
    struct wire_frame frame;
    struct wire_batch head;
    struct wire_result r[NODE_KEYS];
    const uint8_t *keys, *env, *data; /* in bytes */
    size_t len;
    uint8_t bytes[1 << 18];
    bool there;
};

/* Part completions, in the order of the batch or else it is bad. */
struct node_events {
    uint32_t n, told; /* frames; keys that they told */
    bool bad;
    struct wire_result r[NODE_KEYS];
};

struct test_node {
    struct config cfg;
    struct control control;
    struct lane lane;
    struct lane *lanes[1];
    struct unit_pool pool;
    void *memory;
    uint64_t dram_bytes;
    struct transport t;
    struct list done; /* struct node_done: what progress() will tell */
    bool hold;        /* transfers wait for node_let() */
    bool hold_sends;  /* replies are not read */
    uint32_t ns;
    uint64_t generation;
    struct node_reply reply; /* the last one read */
    uint32_t replies;
    struct node_events events; /* since the last batch_send */
    uint32_t skips;               /* tp_ops.skip calls */
    struct mem_media *media;      /* the test's; NULL: no SSD */
    struct disk_mem_cfg disk_cfg; /* node_config: no latency */
    struct disk_mem disk;
    struct ssd_node ssd;
    char *registry; /* saved text, or NULL */
    uint64_t lives; /* before this one */
};

/* dram_bytes of memory; change cfg between node_config and node_start. */
void node_config(struct test_node *n, uint64_t dram_bytes);
void node_start(struct test_node *n);
/* Closes all peers, MUSTs that every pool is full again, closes the SSDs in
 * order (checkpoint by cfg.ssd.checkpoint), frees. */
void node_stop(struct test_node *n);
/* After node_stop: as node_config, and the namespaces are still there. */
void node_again(struct test_node *n, struct mem_media *media);
void node_forget(struct test_node *n); /* the registry's text */
/* Turns until nothing is left at this instant. */
void node_settle(struct test_node *n);
/* Lets time pass, timers included. */
void node_sleep(struct test_node *n, uint64_t ns);

/* A connection, greeted if hello. NULL if it was refused. */
struct node_peer *node_connect(struct test_node *n, bool hello);
void node_hangup(struct node_peer *p);
void node_free_peer(struct node_peer *p); /* after it was told closed */
/* Held transfers go on: bytes move if ok, else they end with ERR_PEER_GONE. */
void node_let(struct node_peer *p);
void node_let_one(struct node_peer *p, uint32_t idx); /* that of this key */
/* Opens the namespace "test" with a policy and keeps its id and generation. */
void node_open(struct test_node *n, struct node_peer *p, const char *policy);

/* A batch request under construction. */
struct node_batch {
    struct wire_frame frame;
    struct wire_batch head;
    struct slice_out records, keys;
    uint8_t rec[1 << 15], key[1 << 15];
};
void batch_new(struct node_batch *b, struct test_node *n, enum op_id op);
/* rec.key_len and parent_len are filled in; attr, parent may be NULL. */
void batch_key(struct node_batch *b, const char *key, struct wire_key rec,
               const char *parent, const struct wire_attr *attr);
/* Right after its batch_key, rec.seg_n of them. */
void batch_seg(struct node_batch *b, uint32_t mem, uint64_t off, uint64_t len);
void batch_column(struct node_batch *b, uint8_t rule, uint16_t trailing);
/* Sends and settles. The reply, if it came, is in n->reply. */
void batch_send(struct node_batch *b, struct node_peer *p, const uint8_t *data,
                uint64_t data_len);
/* MSG operations; the reply's envelope unpacked (arena of the node). */
void node_msg(struct node_peer *p, enum op_id op, const void *msg);

/* One-key shortcuts: the key's status, or the whole request's if not OK. */
int node_put(struct node_peer *p, const char *key, uint64_t len);
int node_get(struct node_peer *p, const char *key, uint64_t room);

#endif

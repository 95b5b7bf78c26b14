/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of operations over an SSD: one node of 16 MiB memory with one SSD
 * and one client, and each request a line. The bytes of a block follow from its
 * key, so that a test sees another block's. Fails the test, not the caller. */
#ifndef TESTS_NODE_SSD_H
#define TESTS_NODE_SSD_H

#include "lib/node.h"

#define SSD_BYTES MIB(64)

extern struct test_node n;
extern struct node_peer *p;
extern struct mem_media *media;
extern uint8_t *buf[NODE_KEYS]; /* the client's memory, by key index */

/* The fixture. */
void up(void);
void down(void);
/* Another life of the daemon on the same SSD, after an orderly stop. */
void again(bool checkpoint);
/* And with a write budget. */
void again_budget(bool checkpoint, const char *budget);

void fill(uint8_t *to, const char *key, uint64_t len);
/* Do these bytes belong to the key? */
bool same(const uint8_t *at, const char *key, uint64_t len);
/* The key's status, 1 while there is no answer. */
int put_attr(const char *key, uint64_t len, const struct wire_attr *attr,
             const char *parent);
int put(const char *key, uint64_t len);
int get(const char *key, uint64_t len);
int get_same(const char *key, uint64_t len); /* CORRUPT: other bytes */
/* A batch of one key, and time to answer. */
int key_op(enum op_id op, uint32_t flags, const char *key);
/* Stored, written to the SSD, and out of memory. */
void put_cold_attr(const char *key, uint64_t len, const struct wire_attr *attr,
                   const char *parent);
void put_cold(const char *key, uint64_t len);
/* block_out 0: not found. */
enum store_where where(const char *key, uint32_t *block_out);
/* The last reply's envelope, until the next. */
const void *unpack(const void *descriptor);
/* Every byte of the first segment but its head is another one. */
void spoil(void);

#endif

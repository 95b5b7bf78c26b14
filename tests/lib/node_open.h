/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of blocks by several writers: each request a line, on the node of
 * node_ssd.h. Answers are the key's status, 1 while there is none. */
#ifndef TESTS_NODE_OPEN_H
#define TESTS_NODE_OPEN_H

#include "lib/node_ssd.h"

/* The bytes of the block that is being written, fill()ed by open_block. */
extern uint8_t *whole;

void open_up(void); /* fixture, with node_ssd's */
void open_down(void);

/* Another life of the node, for so many clients. */
void open_again(uint32_t clients);
/* Another client; its end. */
struct node_peer *join(void);
void leave(struct node_peer *q);

int open_attr(struct node_peer *q, const char *key, uint64_t len,
              uint32_t writers, uint32_t open_ms, const struct wire_attr *attr);
int open_block(struct node_peer *q, const char *key, uint64_t len,
               uint32_t writers);
/* The token that the last of these was answered with. */
uint64_t token(void);
int write_at(struct node_peer *q, const char *key, uint64_t tok, uint64_t off,
             uint64_t len);
int commit(struct node_peer *q, const char *key, uint64_t tok, uint32_t writer);
int give_up(struct node_peer *q, const char *key, uint64_t tok);
/* What LOOKUP says: enum wire_state. */
int state_of(const char *key);
/* No open block, and no byte of one, is left. */
void nothing_is_left(const char *key);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Fakes that are a cluster (fake_view.h), and a handle on it: what the tests of
 * libpikv with many nodes share. Runs of 16 slots are owned by nodes i, i + 1,
 * i + 2 modulo how many there are; the test changes the view and tells whom it
 * wants. */
#ifndef TESTS_FAKE_CLUSTER_H
#define TESTS_FAKE_CLUSTER_H

#include "client/pikv.h"
#include "tests/lib/fake_view.h"

extern struct fake *fakes[FAKE_NODES];
extern struct fake_view view;
extern struct pikv *kv;
extern uint32_t ns;
/* None of the tests is about deadlines; sanitizers are slow. */
extern const struct pikv_call patient;

void cluster_fakes(uint32_t n, uint32_t lanes); /* nobody is connected yet */
void fakes_open(uint32_t n, uint32_t lanes, struct pikv_options o);
void cluster_end(void);
/* The view as it stands now, to one or all. */
void cluster_tell(uint32_t node);
void cluster_tell_all(void);

struct pikv_key key_of(const char *s);
uint32_t slot_of_key(const char *s);
/* A key, "k<i>" with i from *at on, whose home is node. */
const char *key_at(uint32_t node, char out[16], uint32_t *at);

int fakes_put(const char *key, const void *p, size_t n);
int put_copies(const char *key, const void *p, size_t n, uint8_t replicas);
int fakes_get(const char *key, void *p, size_t n, struct pikv_result *r);
int get_within(const char *key, void *p, size_t n, uint32_t us,
               struct pikv_result *r);
/* Until it is true, at most some seconds. */
bool comes(bool (*is)(void));
uint64_t clock_ms(void);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The other end of transport_ucx for tests: a bare UCX client that sends
 * whatever it is told and writes down what comes. It has a UCX context of its
 * own, so it lives in the process of the server under test or in a forked one;
 * UCX does not survive a fork, so the fork comes first.
 *
 * Calls that fail because the server is gone set failed and do nothing else.
 * Everything that UCX holds is counted in busy. */
#ifndef TESTS_LIB_UCX_CLIENT_H
#define TESTS_LIB_UCX_CLIENT_H

#include <ucp/api/ucp.h>

#include "base/base.h"
#include "proto/wire.h"

enum { UCXC_KEYS = 64, UCXC_REPLY_MAX = 1 << 17 };

/* Where the bytes of one key of a GET go. */
struct ucxc_key {
    uint8_t *to;
    uint64_t room, moved;
    uint32_t parts, rndvs, errors;
};

struct ucxc {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
    bool failed;
    uint32_t busy;         /* requests in UCX's hands */
    uint32_t sent, unsent; /* sends completed well, with an error */
    uint32_t replies;
    struct wire_frame reply; /* the last one */
    uint8_t body[UCXC_REPLY_MAX];
    uint64_t body_len;
    struct ucxc_key keys[UCXC_KEYS]; /* by data_idx */
};

void ucxc_open(struct ucxc *c, uint16_t port);
void ucxc_close(struct ucxc *c); /* by force */
unsigned ucxc_progress(struct ucxc *c);
/* Sends bytes as they are: header of any length, flags of ucp_am_send_nbx. */
void ucxc_raw(struct ucxc *c, const void *header, size_t header_len,
              const void *p, size_t n, unsigned flags);
/* A sealed request of op with env_len bytes of body and inline data behind it
 * in one buffer p. */
void ucxc_request(struct ucxc *c, uint64_t req, uint16_t op, const void *p,
                  uint32_t env_len, uint64_t data_len);
/* The bytes of one key of a PUT, eager or rendezvous by size. */
void ucxc_data(struct ucxc *c, uint64_t req, uint32_t idx, const void *p,
               uint64_t len);

#endif

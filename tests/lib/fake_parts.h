/* SPDX-License-Identifier: Apache-2.0
 *
 * Part completions of the scripted pikvd: what it tells of the keys of a GET
 * before it answers, well or not. Set before pikv_open: HELLO says whether the
 * server tells at all. */
#ifndef TESTS_FAKE_PARTS_H
#define TESTS_FAKE_PARTS_H

#include "base/base.h"
#include "proto/wire.h"

enum fake_tells {
    TELLS_NOT, /* a server of before */
    TELLS_EACH,
    TELLS_ALL,   /* in one event */
    TELLS_HALF,  /* the others come with the reply */
    TELLS_DIES,  /* half, then the connection ends */
    TELLS_HOLDS, /* half, and never an answer */
    TELLS_LATE,  /* after the reply */
    /* nonsense from here on */
    TELLS_TWICE,
    TELLS_GAP,     /* not the first one */
    TELLS_MORE,    /* than there are */
    TELLS_NOBODY,  /* an event without a result */
    TELLS_PUT,     /* of another operation */
    TELLS_LIES,    /* more bytes moved than there is room for */
    TELLS_REFUSES, /* half, then BUSY for all */
    TELLS_N,
};

struct fake;
void fake_set_tells(struct fake *f, enum fake_tells how);

/* The lane's side: event number step for a request of n keys with results r, as
 * a message in out (n results and a frame fit); its length, 0: no more. */
uint32_t parts_event_make(enum fake_tells how, uint32_t step,
                          const struct wire_frame *req,
                          const struct wire_result *r, uint32_t n,
                          uint8_t *out);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * A scripted pikvd for tests of libpikv: the real shm handshake and rings, a
 * dictionary for a store, and a mode that says how the answers to BATCH
 * operations and EXPLAIN go wrong. Keys that start with "cold" are on an SSD.
 * One thread per lane. */
#ifndef TESTS_FAKE_PIKVD_H
#define TESTS_FAKE_PIKVD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum fake_mode {
    FAKE_SERVES,
    FAKE_HOLDS, /* keeps requests unanswered; fake_mode(SERVES) answers them */
    FAKE_DOUBLES, /* every reply twice, and one with an invented id */
    FAKE_CUTS,    /* the reply lacks its last record */
    FAKE_GARBLES, /* random bytes in place of the reply */
    FAKE_FLIPS,   /* one bit of a block's bytes is wrong */
    FAKE_DIES,    /* closes the connection instead of answering */
    FAKE_REFUSES, /* status BUSY for the whole request */
    FAKE_LIES,    /* more bytes moved than there is room for */
    FAKE_LENDS,   /* GET: a loan that nobody asked for, of more bytes */
    FAKE_BOASTS,  /* a count of more keys than there are */
    FAKE_DEAF,    /* takes what comes and answers nothing, PING neither */
};

struct fake;

/* Serves under a fresh directory. */
struct fake *fake_start(uint32_t lanes);
void fake_stop(struct fake *f);
const char *fake_address(const struct fake *f); /* "shm:..." of lane 0 */
void fake_set_mode(struct fake *f, enum fake_mode mode);
void fake_set_lane_mode(struct fake *f, uint32_t lane, enum fake_mode mode);
/* What durable PUTs answer; UNSUPPORTED from the start. */
void fake_set_durable(struct fake *f, int status);
/* New connections get a pipe without a reader in place of the eventfd. */
void fake_set_pipe(struct fake *f);
void fake_set_refuses_open(struct fake *f, int status); /* OPEN's answer */
void fake_set_credits(struct fake *f, uint32_t ops, uint64_t bytes);
/* All connections end and new ones are hung up at once, until it is up again;
 * what is stored stays. */
void fake_set_down(struct fake *f, bool down);
/* All connections end; new ones see another boot id and an empty store. */
void fake_restart(struct fake *f);
void fake_loans_end(struct fake *f); /* takes all loans back */

/* The events of a lane (fake_events.h), and what guards them. */
struct fake_feed;
struct fake_feed *fake_feed(struct fake *f, uint32_t lane,
                            pthread_mutex_t **mu_out);

/* What the lane saw last of the hints and of EVICT. */
struct fake_seen {
    uint32_t cap_mib, soft_us; /* PREFETCH */
    uint32_t prefetches;       /* requests since the start */
    uint32_t explains;
    uint32_t feedbacks;
    uint64_t session;
    char session_state[16];
    uint32_t batch_flags, select; /* EVICT */
    uint64_t writers;             /* PUT_BEGIN */
    uint32_t open_ms, token_n, parent_len;
    uint64_t epoch;    /* of the last batch */
    uint32_t replicas; /* of the last PUT */
    char pattern[64];
    char policy[16], dram[16]; /* OPEN */
};
void fake_seen(const struct fake *f, uint32_t lane, struct fake_seen *out);

/* Counted since the start. */
uint32_t fake_requests(const struct fake *f, uint32_t lane);
uint32_t fake_held(const struct fake *f);
uint32_t fake_hellos(const struct fake *f);
uint32_t fake_ns_opens(const struct fake *f);
uint32_t fake_redirects(const struct fake *f); /* items sent away */
uint32_t fake_pings(const struct fake *f);
uint32_t fake_evicted(const struct fake *f); /* keys dropped */
uint32_t fake_bumps(const struct fake *f);
uint32_t fake_given_up(const struct fake *f); /* cancel words of ended conns */
uint32_t fake_segs(const struct fake *f);     /* segments seen */
uint32_t fake_stored(const struct fake *f);   /* blocks in the dictionary */
uint32_t
fake_in_flight_max(const struct fake *f);   /* most requests unanswered */
bool fake_spins_seen(const struct fake *f); /* FRAME_SPINS in a request */

#endif

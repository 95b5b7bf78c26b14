/* SPDX-License-Identifier: Apache-2.0
 *
 * A segment log on a small device in memory, with a model of what was asked of
 * it, for tests of what a crash or a bad device leaves (test_seglog_crash.c,
 * test_seglog_image.c).
 *
 * Every put has a version of its own, its index in rig_puts + 1, so that what
 * recovery reports can be looked up: it must be one of them, as it was. The
 * callbacks of a rig assert that. Drops do as a store does: what is neither on
 * the SSD nor on its way needs no tomb.
 *
 * One writer at a time (the model is global); any number of rigs that look. */
#ifndef TESTS_LOGRIG_H
#define TESTS_LOGRIG_H

#include "store/seglog_impl.h"
#include "tests/lib/disk_mem.h"

enum {
    RIG_SEGMENTS = 8,
    RIG_SEGMENT = 1 << 20,
    RIG_BYTES = SEG_DATA + RIG_SEGMENTS * RIG_SEGMENT,
    RIG_KEYS = 24,
    RIG_PUTS = 600,
};

struct rig_put {
    struct seg_req req; /* first: done() gets it */
    uint8_t key[8];
    struct span span;
    uint32_t k;
    bool answered, placed; /* placed: its place is good */
};

struct rig_drop {
    struct seg_req req;
    uint32_t k;
    bool answered;
};

struct rig {
    struct mem_media *media;
    struct disk_mem disk;
    struct env env;
    struct metrics metrics;
    struct seg_map map;
    struct seglog *g;
    bool opened, closed;
    enum err err, close_err;
    struct errmsg msg;
    const struct seg_reclaim *reclaim;
    uint32_t lanes, cursor, records, checks, tombs;
    uint64_t found[RIG_KEYS], tomb[RIG_KEYS]; /* versions */
    struct seg_place place[RIG_KEYS];
};

struct rig_work {
    uint32_t ops, put_max, durable_pct, drop_pct, steps;
};

extern struct rig_put rig_puts[RIG_PUTS];
extern struct rig_drop rig_drops[RIG_PUTS];
extern uint32_t rig_put_n, rig_drop_n;
extern uint64_t rig_last[RIG_KEYS];  /* version of the newest put */
extern uint64_t rig_asked[RIG_KEYS]; /* a drop up to this was begun */
extern uint64_t rig_dead[RIG_KEYS];  /* and answered */
extern uint64_t rig_rng;             /* of chance() */
extern const uint8_t rig_uuid[17];   /* two stores: +0, and +1 to format */
/* An image to damage and look at; how many were looked at. */
extern struct mem_media *rig_scratch;
extern uint64_t rig_images;
/* Called by rig_go before each step after which the device has changed. */
extern void (*rig_hook)(const struct rig *w);

uint32_t chance(uint32_t n); /* 0 to n - 1, of rig_rng */
/* From the environment, or a default; slow: that of sanitized builds. */
uint32_t rig_setting(const char *name, uint32_t otherwise, uint32_t slow);
void rig_setup(void);
void rig_teardown(void);

/* batch 0: a rig that looks. r->lanes is kept (0: 1). */
void rig_init(struct rig *r, struct mem_media *media, uint32_t batch);
void rig_fini(struct rig *r); /* as if it was killed */
/* One step of the world; false: nothing will happen any more. */
bool rig_pump(struct rig *r);
void rig_open(struct rig *r, enum seglog_open_how how);
/* Is the payload of what was found as it was put? */
bool rig_intact(const struct rig *r, uint32_t k);
bool rig_alive(const struct rig *r, uint32_t k);
void rig_put(struct rig *w, uint32_t k, uint32_t len, bool durable);
void rig_drop(struct rig *w, uint32_t k);
void rig_go(struct rig *w, uint32_t steps);
void rig_work(struct rig *w, const struct rig_work *k);
void rig_begin(struct rig *w, struct mem_media *media);
void rig_finish(struct rig *w, bool checkpoint);
/* Copies from another image of the same size to rig_scratch. */
void rig_page_back(const uint8_t *from, uint64_t off, uint64_t len);
void rig_meta_back(const uint8_t *from); /* all that an open writes to */

#endif

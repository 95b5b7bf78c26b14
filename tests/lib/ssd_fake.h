/* SPDX-License-Identifier: Apache-2.0
 *
 * A store with an SSD for tests: an sfix, a disk in memory, and instead of the
 * segment log one that does as it is told: it groups what was submitted, writes
 * payloads and headers into the image at once and answers in fssd_run. So a
 * test says what is held back, what fails, when the budget binds and which
 * segment is to be emptied. Blocks are filled with bytes that follow from their
 * key, and have the crc32c that PUT would give them. */
#ifndef TESTS_SSD_FAKE_H
#define TESTS_SSD_FAKE_H

#include "store/mover.h"
#include "tests/lib/disk_mem.h"
#include "tests/lib/sfix.h"

enum { FAKE_SEGMENTS = 64, FAKE_SEGMENT_PAGES = 512, FAKE_HEADERS = 8192 };

struct fake_header {
    uint32_t dev, page;
};

struct fake_ssd {
    struct sfix f;
    struct mem_media *media;
    struct disk_mem disk;
    struct ssd ssd;
    struct seg_map maps[DISK_DEVS];
    uint32_t readers[DISK_DEVS][FAKE_SEGMENTS];
    uint32_t next_page[DISK_DEVS];
    struct list queue;                     /* seg_req.node */
    bool hold;                             /* answers nothing */
    enum err fail;                         /* the answer to PUT from now on */
    enum err fail_order;                   /* and to TOMB and FLUSH */
    uint32_t puts, agains, tombs, flushes; /* answered with OK */
    struct seg_tomb last_tomb;
    struct fake_header headers[FAKE_HEADERS];
    uint32_t header_n;
    bool inside; /* of submit */
};

/* A pool of so many units and so many SSDs; namespace 1, generation 1. */
void fssd_open(struct fake_ssd *x, uint32_t units, uint32_t devs,
               const struct evict_ops *policy);
/* In steps, for another f.cfg and for what may fail. */
void fssd_init(struct fake_ssd *x, uint32_t units, uint32_t devs);
enum err fssd_start(struct fake_ssd *x);
void fssd_close(struct fake_ssd *x);
/* As after kill -9: a fresh store over what is on the device. Nothing is
 * adopted yet. */
void fssd_restart(struct fake_ssd *x);
/* Hands every record on the devices to store_adopt, in order, and ends it. */
void fssd_adopt(struct fake_ssd *x);

/* Turns until nothing moves any more; time passes. */
void fssd_run(struct fake_ssd *x);
/* One turn. */
void fssd_turn(struct fake_ssd *x);

enum err fssd_put(struct fake_ssd *x, const char *name, const char *parent,
                  const struct wire_attr *attr, uint64_t len);
/* The same, and it is on the SSD. */
void fssd_put_written(struct fake_ssd *x, const char *name, const char *parent,
                      uint64_t len);
/* On the SSD and nowhere else. */
uint32_t fssd_put_cold(struct fake_ssd *x, const char *name, const char *parent,
                       uint64_t len);
bool fssd_same(struct fake_ssd *x, uint32_t block);

/* Begins a load of this key with w; OK or BUSY. */
enum err fssd_load(struct fake_ssd *x, const char *name, struct store_wait *w);
/* A whole GET: found, used, loaded, compared, let go. OK, or MISS. */
enum err fssd_get(struct fake_ssd *x, const char *name);
/* Counts done() calls in w->block's stead: */
extern uint32_t fssd_dones;
void fssd_done(struct store_wait *w);

/* Shows the headers of a segment to the store; bytes it may take along. */
uint64_t fssd_reclaim(struct fake_ssd *x, uint32_t dev, uint32_t segment,
                      uint64_t again_bytes);
uint32_t fssd_segment_of(struct fake_ssd *x, uint32_t block);
/* The bytes of a block's payload, or of its header, on the device. */
uint8_t *fssd_payload(struct fake_ssd *x, uint32_t block);
uint8_t *fssd_header(struct fake_ssd *x, uint32_t block);
struct seg_place fssd_place(struct fake_ssd *x, uint32_t block);

#endif

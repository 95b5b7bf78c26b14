/* SPDX-License-Identifier: Apache-2.0
 *
 * Disks in memory: a media (the devices, shared by all lanes of a node) and
 * struct disk over it (one per lane), with a virtual latency, faults, a record
 * of every io, and what a crash leaves.
 *
 *   submit -> queued --(env->now_ns reaches due_ns)--> progress(): applied,
 *             done()
 *
 * What a write holds is copied when it is submitted and reaches the image when
 * it completes. A media that records keeps, per device, what is stable (made
 * so by a FLUSH) and every write since; mem_media_crash makes the media that a
 * power cut, or kill -9, leaves behind.
 *
 * Images are reserved address space: a large device costs what is written to
 * it. Tests only: malloc, aborts when there is no memory. One thread. */
#ifndef TESTS_DISK_MEM_H
#define TESTS_DISK_MEM_H

#include "store/disk.h"

/* One io as it happened; ticks count submissions and completions of the media,
 * so that a.done < b.began says a had completed when b was submitted. */
struct mem_event {
    enum disk_what what;
    enum err err;
    uint32_t dev;
    uint64_t off, len;
    uint64_t began, done; /* ticks; done 0: in flight (or hung) */
    bool stable;          /* flushed */
    uint8_t *data;        /* of a WRITE that is not stable */
};

struct mem_media {
    uint32_t dev_n;
    uint64_t bytes; /* of each device */
    bool hurt;      /* a READ failed, or bytes changed by themselves */
    uint8_t *image[DISK_DEVS], *stable[DISK_DEVS];
    bool record;
    struct mem_event *events; /* of all disks, by began; recording only */
    uint32_t event_n, event_cap;
    uint32_t fresh; /* events before are stable or forgotten */
    uint64_t ticks;
    uint64_t written_bytes[DISK_DEVS], reads, writes, flushes, discards;
};

struct mem_media *mem_media_new(uint32_t dev_n, uint64_t bytes, bool record);
void mem_media_free(struct mem_media *m); /* NULL ok */
/* Forgets the events so far (not what a crash needs to know). */
void mem_media_forget(struct mem_media *m);

/* Did a FLUSH begin after tick from and complete until tick to? */
bool mem_media_flushed(const struct mem_media *m, uint64_t from, uint64_t to);

enum mem_crash {
    MEM_CRASH_KILL,  /* kill -9: what completed is there, of what was in
                        flight any part of 512-byte sectors */
    MEM_CRASH_POWER, /* what was flushed is there; of everything later each
                        write wholly, in part or not at all, in any order */
};
/* A recording media after a crash at this moment, chosen by seed. The old one
 * is unchanged. With keep_pct 0 no unflushed write survives, with 100 each. */
struct mem_media *mem_media_crash(const struct mem_media *m, enum mem_crash how,
                                  uint32_t keep_pct, uint64_t seed);

struct disk_mem_cfg {
    struct env *env;                /* now_ns is its clock */
    uint64_t latency_ns, spread_ns; /* each io: latency + random(spread) */
    uint64_t ns_per_mib; /* and the device is busy for so long with its bytes */
    bool shuffle;        /* those that are due complete in random order */
    uint64_t seed;
    uint32_t batch; /* completions per progress() at most; 0: 64 */
};

/* Faults: ios of the kinds in mask (bits 1 << enum disk_what) are counted from
 * the arming on; the nth (1 is the next) and, if forever, all later ones fail.
 */
struct disk_mem_fault {
    uint32_t mask, nth;
    bool forever;
    bool hang;     /* never completes (until disk_mem_unhang) */
    bool partial;  /* a failed WRITE left its first half */
    enum err err;  /* ERR_IO or ERR_NO_SPACE */
    uint32_t hits; /* out */
};
enum {
    MEM_READS = 1 << DISK_READ,
    MEM_WRITES = 1 << DISK_WRITE,
    MEM_FLUSHES = 1 << DISK_FLUSH,
    MEM_DISCARDS = 1 << DISK_DISCARD,
    MEM_ALL = 15,
};

struct disk_mem {
    struct disk disk; /* first */
    struct mem_media *media;
    struct disk_mem_cfg cfg;
    struct disk_mem_fault fault;
    struct list queue; /* disk_io.node */
    uint64_t rng, busy_ns[DISK_DEVS];
    bool inside; /* of submit: completions from there would be a bug */
};

void disk_mem_init(struct disk_mem *d, struct mem_media *m,
                   const struct disk_mem_cfg *cfg);
/* Ios still in flight are dropped without done(): the process died. */
void disk_mem_fini(struct disk_mem *d);
/* When the next io is due; DEADLINE_NEVER if none is. */
uint64_t disk_mem_next_ns(const struct disk_mem *d);
/* Hung ios complete at the next progress(). */
void disk_mem_unhang(struct disk_mem *d);

#endif

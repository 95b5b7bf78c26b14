/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the mover, for mover*.c only.
 *
 *   mover.c        set-up, the tick, devices, waits that end in a tick
 *   mover_write.c  write-behind: queue, admission, requests; persist, drops
 *   mover_load.c   loads: from COLD to LIVE, what waits for them, their end
 *   mover_read.c   the reads behind loads: gathering, merging, header pages
 *   mover_again.c  reclaim: what is taken along, and peek
 *
 *   load  wants  payload + header page (rich records only)
 *   read  one disk_io: neighbouring parts of one or several loads
 *   head  one header page, for all loads and peeks that want it at the time
 *
 *            store_load           tick                  io          crc
 *   (none) ------------> FRESH ----------> READING -----------> LIVE or MISS
 *                          | cancelled: back to COLD
 *
 * Memory: all of it is reserved when the SSD is set and touched as far as it
 * is used. What is under way is bounded by the pools and by the windows. */
#ifndef STORE_MOVER_IMPL_H
#define STORE_MOVER_IMPL_H

#include "base/mem.h"
#include "store/mover.h"
#include "store/store_impl.h"

enum {
    MOVER_RING = 1 << 20, /* blocks that wait to be written at most */
    MOVER_WRITES = 512,   /* requests to write under way at most */
    MOVER_REQS = 1024,    /* tombs and flushes */
    MOVER_LOADS = 2048,   /* blocks being loaded */
    MOVER_READS = 256,    /* reads under way */
    MOVER_HEADS = 1024,   /* header pages being read */
    MOVER_PEEKS = 16,
    HEAD_BUCKETS = 256,
    READ_PARTS = 64,      /* of one read */
    READ_MERGE = 2 << 20, /* bytes up to which neighbours are merged */
    FLUSH_PARTS = 256,    /* sorted at a time */
    TICK_WRITES = 64,     /* blocks taken from the ring in a tick */
    ETA_SIZES = 20,       /* by the logarithm of the pages */
    LOAD_CLASSES = LOAD_AGAIN + 1,
};

/* Waits in the ring; stale if the block is another by now. */
struct queued {
    uint32_t block, version; /* low half */
};

/* A PUT request. Holds a ref on its block. */
struct write {
    struct seg_req req;
    struct mover *m;
    struct list node;    /* mover.writes */
    struct list flushes; /* struct order: persists that wait for it */
    uint32_t block;
    uint64_t bytes;
    struct span spans[STORE_SPANS_MAX];
};

/* A TOMB or a FLUSH, and who waits for it. */
struct order {
    struct seg_req req;
    struct mover *m;
    struct list all;         /* mover.orders */
    struct list node;        /* write.flushes or mover.ended */
    struct store_wait *wait; /* or NULL */
    enum err err;
};

enum head_state { HEAD_FRESH, HEAD_READING, HEAD_DONE };

struct head {
    struct mover *m;
    struct list node;  /* of its bucket, until it is done */
    struct list loads; /* struct load by head_node */
    struct list peeks;
    enum head_state state;
    uint32_t dev, page, refs;
    enum err err;
    uint8_t *buf; /* a page */
};

struct load {
    struct mover *m;
    struct list node;      /* mover.fresh[cls] or mover.loading */
    struct list waits;     /* struct store_wait */
    struct list head_node; /* head.loads while that is being read */
    struct head *head;     /* NULL: not rich */
    uint32_t block;
    struct seg_place place;
    uint32_t pages;
    enum store_load_class cls;
    uint32_t ios;  /* reads and header that have not ended */
    bool flying;   /* not FRESH any more */
    bool dead;     /* its device went and all were told */
    bool prefetch; /* nobody waited when it began */
    enum err err;
    uint64_t began_ns;
};

/* Part of a read: the payload of a load, or a header page. */
struct part {
    struct load *load;
    struct head *head; /* load NULL */
    uint32_t dev, page, pages;
};

struct read {
    struct disk_io io;
    struct list node; /* mover.reads of its device, the oldest first */
    struct mover *m;
    uint32_t part_n;
    struct part parts[READ_PARTS];
    struct span spans[DISK_IO_SPANS];
};

struct peek {
    struct list node; /* head.peeks */
    struct store_peek *p;
    struct head *head;
    uint32_t block;
    struct hash128 hash;
    uint64_t version;
    uint32_t idx; /* in its group */
    uint32_t len, crc, children, expires_s, ns;
};

struct mover {
    struct store *s;
    struct ssd *ssd;

    struct queued *ring;
    uint32_t ring_cap, ring_from, ring_n;
    struct list writes;
    uint64_t write_bytes; /* of requests under way */
    struct pool write_pool, order_pool;
    struct list orders; /* under way */

    struct list fresh[LOAD_CLASSES], loading;
    struct list heads[HEAD_BUCKETS];
    struct list reads[DISK_DEVS];
    uint64_t load_bytes, fresh_bytes; /* under way; of these not yet read */
    struct pool load_pool, read_pool, head_pool, peek_pool;
    uint8_t *head_pages;
    struct span spans[STORE_SPANS_MAX]; /* scratch */
    struct part parts[FLUSH_PARTS];     /* scratch */

    struct list missed; /* struct store_wait: told MISS in the next tick */
    struct list ended;  /* struct order: told NOT_DURABLE in the next tick */
    uint64_t eta_ns[ETA_SIZES]; /* measured: a load by its size; 0 none yet */
    uint64_t page_ns;           /* and per page, of all */
    uint32_t dead;              /* devices whose end was told to all, bits */
    bool tomb_lost; /* a device failed under a tomb: drops may come undone */
};

static inline bool dev_writable(const struct mover *m, uint32_t dev)
{
    return dev < m->ssd->n && !(m->s->lost >> dev & 1) &&
           seg_map_writable(m->ssd->maps[dev]);
}

static inline struct load *load_of(const struct store *s, const struct hot *h)
{
    return pool_at(&s->mover->load_pool, h->load);
}

/* Empties from into to, which needs no init. */
static inline void list_move(struct list *to, struct list *from)
{
    struct list *n;

    list_init(to);
    while ((n = list_pop(from)))
        list_add_tail(to, n);
}

/* ---- mover.c */
/* One thing that w waits for has ended. */
void wait_end(struct store_wait *w, enum err e);

/* ---- mover_write.c */
bool writes_pump(struct mover *m); /* true: there is more to do now */
void orders_ended(struct mover *m);
/* Whoever waits for something on this device is told NOT_DURABLE. */
void orders_dead(struct mover *m, uint32_t dev);
/* Nobody is told; false: w waits for none of them. */
bool orders_forget(struct mover *m, const struct store_wait *w);
/* Marks the device and wakes its owner with a flush, which sees the mark. */
void order_suspect(struct mover *m, uint32_t dev);
/* Tells the log that the block must not come back; nobody waits. */
void tomb_quietly(struct store *s, const struct entry *e);

/* ---- mover_load.c */
enum err load_new(struct store *s, uint32_t block, const struct store_key *k,
                  const struct wire_attr *attr, const uint8_t *parent,
                  uint16_t parent_len, bool described,
                  enum store_load_class cls);
/* One of the load's ios ended; the last one ends the load. */
void load_io_done(struct load *l, enum err e);
void loads_dead(struct mover *m, uint32_t dev);
void load_forget(struct mover *m, struct store_wait *w);
/* Out of what a header page says of the record; false: it is another one. */
bool head_record(const struct head *h, uint32_t idx, struct hash128 hash,
                 uint64_t version, struct seg_meta *out);

/* ---- mover_read.c */
/* Submits reads for FRESH loads; true if some must wait for a later tick. */
bool reads_flush(struct mover *m);
struct head *head_get(struct mover *m, uint32_t dev, uint32_t page); /* NULL */
void head_put(struct head *h);
/* Reads it at once; false: no read is free. */
bool head_send(struct head *h);
/* Marks devices whose oldest read hangs as suspect. */
void reads_watch(struct mover *m);

/* ---- mover_again.c */
void peeks_done(struct head *h);
void peeks_dead(struct mover *m, uint32_t dev);

#endif

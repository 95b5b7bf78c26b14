/* SPDX-License-Identifier: Apache-2.0
 *
 * A closed loop of requests at a depth, over whatever can serve blocks: pikvd,
 * a rival, or a copy loop. The loop chooses keys, makes and checks bytes and
 * takes the times; a driver only moves the request, so all are measured alike.
 *
 *     load_run:  issue --submit--> driver --poll--> check, time, issue again
 *
 * A connection belongs to one thread at a time. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "bench/bench.h"

enum {
    LOAD_KEY = 20, /* bytes of every key, whoever stores it */
    LOAD_DEPTH_MAX = 64,
    LOAD_BATCH_MAX = 256,
    LOAD_CLIENTS_MAX = 64,
    LOAD_STAMP = 64, /* bytes checked of every block in a timed run */
};

enum load_op { LOAD_GET, LOAD_PUT, LOAD_LOOKUP, LOAD_MIXED };

/* What one run does. */
struct load_shape {
    enum load_op op;
    uint64_t size;
    uint32_t depth, batch;
    uint64_t keys;  /* blocks of the arena: ids 0 .. keys - 1 */
    double seconds; /* ends a run, or: */
    uint64_t count; /* items, if not 0 */
    bool in_order;  /* ids 0, 1, 2 ..: to fill the arena */
    bool miss;      /* LOOKUP of keys that are nowhere */
    bool touch;     /* GET: read every cache line of what came */
    bool verify;    /* make and check all bytes, not LOAD_STAMP of them */
};

struct load_result {
    uint64_t calls, items, bytes;
    uint64_t failed, wrong; /* items: not served; with other bytes */
    double seconds;
    double cpu_s; /* of the calling thread: this client */
    struct bench_lat lat;
};

struct load_conn;

struct load_req {
    struct load_conn *conn;
    uint32_t slot, n;
    enum load_op op; /* GET, PUT or LOOKUP */
    uint64_t size;
    uint8_t *data; /* n * size bytes */
    uint64_t begun_ns;
    uint32_t served;                   /* the driver's answer */
    const uint8_t *at[LOAD_BATCH_MAX]; /* where GET's bytes are now */
    uint64_t ids[LOAD_BATCH_MAX];
    char keys[LOAD_BATCH_MAX][LOAD_KEY];
};

/* Where to go; a driver reads what it knows. */
struct load_target {
    const struct load_driver *driver;
    const char *address;
    const char *space; /* namespace */
    uint64_t size;     /* of its blocks */
    size_t data_bytes; /* room for the data of all requests in flight */
    bool loan, staged;
    bool durable; /* PUTs are answered when they are on the SSD */
    enum { LOAD_SLEEP, LOAD_SPIN, LOAD_WAIT } idle;
    uint8_t *arena; /* copy loops */
    size_t arena_bytes;
};

struct load_driver {
    const char *name;
    bool overwrites; /* PUT replaces a block of the arena, else adds one */
    /* Or ends the program with a reason; NULL: cannot be used here. */
    struct load_conn *(*open)(const struct load_target *t);
    void (*close)(struct load_conn *c);
    void (*submit)(struct load_conn *c, struct load_req *r);
    /* Requests that ended, at most max; may sleep, may return 0. */
    uint32_t (*poll)(struct load_conn *c, struct load_req **done, uint32_t max);
    void (*release)(struct load_conn *c, struct load_req *r); /* or NULL */
};

struct load_conn {
    const struct load_driver *driver;
    uint8_t *data;
    size_t data_bytes;
    bool spin;
    uint64_t seed, fresh; /* the next id that nobody stored yet */
    struct load_req *reqs;
};

extern const struct load_driver load_pikv;

/* The loop's part of a connection. client tells ids and seeds apart. */
struct load_conn *load_open(const struct load_target *t, uint32_t client);
void load_close(struct load_conn *c); /* NULL ok */
/* out keeps the memory of its latencies from run to run; zero it first. */
void load_run(struct load_conn *c, const struct load_shape *s,
              struct load_result *out);
/* n connections in n threads, begun together; sums and all latencies. */
void load_run_many(struct load_conn **conns, uint32_t n,
                   const struct load_shape *s, struct load_result *out);
/* "block:" and 14 hex digits, no terminating zero. */
void load_key(uint64_t id, char key[LOAD_KEY]);
/* CPU seconds of a process with all its threads, exact; 0 if it is gone. */
double load_cpu_s(int pid);
/* Shared memory of the program, touched. */
void *load_mem(size_t bytes);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the door: what the files of daemon/door share. All of it
 * belongs to the door's thread, except what ask.c's worker is given.
 *
 *     door.c  thread, listening, what wakes whom
 *     conn.c  one connection: reading, parsing, order, end
 *     out.c   its replies
 *     cmd.c   which commands there are; those that need no data
 *     data.c  GET, EXISTS, DEL ...   set.c  SET, MSET   ask.c  SCAN, INFO ...
 *
 * A connection does one command at a time (or one run of GETs or SETs that were
 * sent together), and what it waits for is its state:
 *
 *     NOTHING --> CALL    libpikv's completion
 *       ^     --> ROOM    memory: in door->waiting, FIFO, up to the deadline
 *       |     --> LOCK    another SET of the same key: in its waiters, FIFO
 *       |     --> OUT     its own client, to read replies
 *       |     --> LATER   the clock: another writer is at it, or BUSY
 *       +-----+-- ASK     the worker: in door->askers, FIFO
 *
 * Invariants
 *  1. The input buffer is not read into, moved or freed while a command is
 *     under way: keys and small values are used where they lie.
 *  2. Who waits for ROOM holds none but replies that are on their way out, so
 *     every holder gets on without the waiters.
 *  3. Who waits for a LOCK holds none.
 *  4. A connection that died lives on until its completion has come: libpikv
 *     may touch its memory until then. */
#ifndef DOOR_IMPL_H
#define DOOR_IMPL_H

#include <pthread.h>
#include <uv.h>

#include "base/hash.h"
#include "base/list.h"
#include "base/metrics.h"
#include "client/pikv.h"
#include "door/door.h"
#include "door/resp.h"
#include "door/space.h"

enum {
    DOOR_ARG_MAX = 16 << 10, /* longer arguments pass outside the buffer */
    DOOR_IN_MIN = 32 << 10,
    DOOR_KEY_MAX = 1024,
    DOOR_BATCH = 64, /* items of a call */
    DOOR_PIECES = 256,
    DOOR_NAME = 64,
    DOOR_LOCKS = 1024,    /* buckets */
    DOOR_COPY_MAX = 4096, /* of a reply, to have its memory back */
    DOOR_GUESSES = 64,
    DOOR_LATER_MS = 1,
    DOOR_PASSWORD = 512,
};

/* ---- Replies: text, and values where they lie ---- */

struct piece {
    uint64_t len;
    struct room room; /* n 0: the next len bytes of text */
    uint64_t off;     /* of it, sent */
};

struct out {
    uint8_t *text;
    uint32_t begin, end, cap;
    struct piece pieces[DOOR_PIECES]; /* ring */
    uint32_t first, n;
    uint64_t bytes; /* of all pieces */
    bool broken;    /* no memory for text: the connection ends */
};

/* ---- What a command does in the store ---- */

enum item_state { ITEM_OPEN, ITEM_DROP, ITEM_DONE };

struct key_lock {
    struct list node;    /* door->locks[] while held */
    struct list waiters; /* connections, FIFO */
    struct list riders;  /* those that end as this one ends */
    uint64_t hash;
};

struct item {
    const uint8_t *key, *data;
    uint32_t key_len;
    uint32_t head; /* GET: n + 1 of the array that begins here; 0 none */
    uint64_t len;  /* SET: of the value; GET: known from a first try, or 0 */
    struct room room;
    /* SET */
    struct key_lock lock;
    enum item_state state;
    uint32_t ttl_ms;
    bool nx;
    int status; /* OK, EXISTS: nx and there; else an error */
};

struct batch {
    uint32_t n, at;           /* items; GET: the first that has no reply */
    uint32_t m;               /* of the call under way */
    uint32_t tries;           /* GET: of the first one without a reply */
    uint32_t locked;          /* SET: items whose key is locked */
    bool filled;              /* SET: those that follow have been looked at */
    bool dropping;            /* SET: the call is the EVICT */
    bool again;               /* SET: something was PENDING */
    uint32_t idx[DOOR_BATCH]; /* SET: item of each of the call's */
    struct item items[DOOR_BATCH];
    union {
        struct pikv_put puts[DOOR_BATCH];
        struct pikv_get gets[DOOR_BATCH];
        struct pikv_key keys[DOOR_BATCH];
    };
    struct pikv_result results[DOOR_BATCH];
};

/* ---- A connection ---- */

enum conn_wait {
    WAIT_NOTHING,
    WAIT_CALL,
    WAIT_ROOM,
    WAIT_LOCK,
    WAIT_OUT,
    WAIT_LATER,
    WAIT_ASK,
};

struct conn;
/* Goes on with a command: true when it is done, else it waits. */
typedef bool cmd_fn(struct conn *c);

struct cmd {
    const char *name;
    uint32_t args_min, args_max; /* with its name; max 0: any number */
    cmd_fn *run;
    bool unauthenticated; /* allowed before AUTH */
};

struct conn {
    struct list node; /* door->conns */
    struct list wait_node;
    struct door *door;
    uv_poll_t poll;
    int fd, armed; /* events that libuv watches */
    uint64_t id;
    char name[DOOR_NAME + 1];
    bool authenticated;
    bool resp3;  /* HELLO 3: nil and maps have signs of their own */
    bool ending; /* reads no more; ends when its replies are out */
    bool linger; /* they are; until the client ends too, or time is up */
    bool eof, dead, closed;
    uint64_t in_ms, out_ms, since_ms;

    uint8_t *in;
    uint32_t in_begin, in_end, in_cap;
    struct resp resp;
    bool has_value; /* SET's value passes outside */
    bool in_value;  /* and is being read */
    struct room value;
    uint64_t value_len, value_got;

    bool have;             /* a command is parsed and not consumed */
    const struct cmd *cmd; /* its row, NULL: unknown */
    cmd_fn *run;           /* under way */
    enum conn_wait wait;
    void (*done)(struct conn *c, const struct pikv_completion *done);
    uint32_t arg; /* the next of cmd's to be looked at */
    uint64_t sum; /* EXISTS, DEL, STRLEN */
    int failed;   /* the first error of a command of many parts */
    uint64_t until_ms;
    uint64_t room_until_ms; /* it waits for memory since a while; 0: no */
    struct batch batch;
    struct out out;
};

/* ---- The door ---- */

enum ask_kind { ASK_SCAN, ASK_SIZE, ASK_TTL, ASK_INFO };

/* What the worker is asked: one at a time. */
struct ask {
    uv_work_t work;
    struct conn *conn; /* NULL: nothing is asked, or its connection died */
    bool busy;
    enum ask_kind kind;
    struct door *door; /* kv, ns and cfg of it only */
    uint32_t lanes;
    uint8_t text[DOOR_KEY_MAX]; /* key, or pattern */
    uint32_t text_len;
    uint64_t cursor, count;
    bool found, millis;
    uint64_t blocks, bytes, ttl_ms;
    int status;
    uint8_t *keys; /* each its length in two bytes, then it */
    uint32_t key_n, keys_len, keys_cap;
};

struct door {
    struct config cfg;
    struct resp_limits limits, limits_before; /* AUTH */
    char password[DOOR_PASSWORD];
    uint32_t password_len;
    struct metrics *metrics;
    int listen_fd;
    pthread_t thread;
    bool draining, stop; /* atomic */

    uv_loop_t uv;
    uv_async_t wake;
    uv_poll_t accept, events;
    uv_timer_t connect, tick, later;
    bool serving;
    bool deaf; /* accepts none until the next tick */
    uint64_t conn_id;
    uv_work_t opening; /* the namespace again, on a worker */
    bool is_opening;

    struct pikv *kv;
    struct pikv_info info;
    uint32_t ns;
    void *memory;
    struct space space;
    struct list conns, dead, waiting, askers, laters;
    struct list ready; /* have got the lock they waited for */
    struct conn *turn; /* the first of waiting, which tries now */
    bool freed;        /* memory, since the last settle */
    uint32_t conn_n;
    struct list locks[DOOR_LOCKS];
    struct ask ask;
    uint64_t guess, guess_max; /* of a GET's room */
    uint32_t guess_n;
};

/* door.c */
uint64_t door_now_ms(const struct door *d);
/* Memory for c: false if there is none now, or others came first. */
bool door_take(struct conn *c, uint64_t bytes, struct room *out);
void door_give(struct door *d, struct room *r); /* none is fine */
/* At the end of each turn: lets those who wait for memory try, in order. */
void door_settle(struct door *d);
/* Does this status say that the namespace is to be opened again, since it was
 * flushed or made anew? That is begun then; until it is done nothing is there.
 */
bool door_stale(struct door *d, int status);
/* Blocks: at the begin, and on a worker. */
int door_open_namespace(struct door *d);
/* There is someone in laters. */
void door_later(struct door *d);

/* conn.c */
void conn_open(struct door *d, int fd);
/* It is freed when neither libuv nor libpikv uses it any more. */
void conn_close(struct conn *c);
void conn_free(struct conn *c);
/* Goes as far as it can without waiting. */
void conn_run(struct conn *c);
/* false, for cmd_fn to answer. */
bool conn_wait(struct conn *c, enum conn_wait what);
/* Looks ahead: is the next command, parsed if it was not, one for this? */
bool conn_next_is(struct conn *c, cmd_fn *run);
/* cmd is done with: what it said may be overwritten after the run. */
void conn_consume(struct conn *c);
void conn_tick(struct conn *c, uint64_t now_ms);
/* The completion for it has come. */
void conn_called(struct conn *c, const struct pikv_completion *done);
struct pikv_bytes conn_arg(const struct conn *c, uint32_t i);
bool conn_arg_is(const struct conn *c, uint32_t i, const char *word);
struct pikv_call conn_call(struct conn *c);

/* out.c */
void out_raw(struct conn *c, const void *p, uint64_t n);
void out_text(struct conn *c, const char *fmt, ...) printf_like(2, 3);
void out_error(struct conn *c, const char *fmt, ...) printf_like(2, 3);
/* An error of libpikv in Redis' words. */
void out_code(struct conn *c, int code);
void out_int(struct conn *c, int64_t v);
void out_head(struct conn *c, char kind, uint64_t n);
void out_nil(struct conn *c);
/* n pairs follow. */
void out_map(struct conn *c, uint64_t n);
void out_bulk(struct conn *c, const void *p, uint64_t n);
/* A bulk of memory that is given back when it is sent. */
void out_room(struct conn *c, struct room *room, uint64_t len);
bool out_full(const struct conn *c);
/* Writes what the socket takes; false: the connection is broken. */
bool out_flush(struct conn *c);
void out_fini(struct conn *c);

/* cmd.c */
const struct cmd *cmd_find(const struct conn *c);
/* Says why not, if it may not run; else true. */
bool cmd_allowed(struct conn *c, const struct cmd *cmd);

/* data.c */
cmd_fn data_get, data_exists, data_strlen, data_del;
bool data_key_ok(struct conn *c, struct pikv_bytes key);
void data_release(struct conn *c);
/* A GET has waited for memory too long: OOM. */
void data_no_room(struct conn *c);

/* set.c */
cmd_fn set_one, set_many;
/* Who waits for one of its keys gets it. */
void set_unlock(struct conn *c);

/* ask.c */
cmd_fn ask_scan, ask_size, ask_ttl, ask_pttl, ask_info;
void ask_fini(struct ask *a);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * libpikv: the client of pikvd. Asynchronous, batch first, one eventfd per
 * handle, a deadline on every call.
 *
 *     struct pikv *kv;
 *     if (pikv_open(NULL, &kv) != PIKV_OK) ...  // shm:/run/pikvd/pikvd.sock
 *     struct pikv_namespace d = {.name = "demo", .create = true};
 *     uint32_t ns;
 *     pikv_namespace_open(kv, &d, &ns, NULL);
 *     struct pikv_put p = {.key = {.key = {"k1", 2}}, .data = {buf, len}};
 *     struct pikv_result r;
 *     pikv_put_sync(kv, ns, &p, 1, NULL, &r);
 *
 * Buffers. Any pointer works. Memory registered with pikv_mem_alloc() or
 * pikv_mem_register_fd() is read and written by a daemon on the same host
 * directly (one copy in all); other memory goes through a staging area of the
 * library (one copy more). Sizes are bytes.
 *
 * Ownership. Item arrays, keys, buffers and the result array of a call belong
 * to the caller and must stay valid and unchanged until the call's completion
 * is taken with pikv_drain() or pikv_poll() (item arrays and key bytes may go
 * as soon as the submitting call returned). After the completion nothing of the
 * caller's is touched, a timeout included: late bytes are dropped. One window
 * is left, on shm and for registered memory only: a daemon that is stopped
 * (SIGSTOP, debugger) inside the copy of a slice of at most 256 KiB ends that
 * slice when it goes on. A PUT given up at its deadline is never stored from
 * bytes that the caller changed afterwards.
 *
 * Threads. Every function may be called from any thread, except pikv_close(),
 * which must be the last. A progress thread per handle moves bytes and makes
 * the eventfd readable; a caller that spins uses pikv_poll() instead, which
 * takes over the progress while it is called. Nothing blocks in a submit.
 *
 * Host process. No signal handlers, no environment changes, no abort, no
 * output. UCX (libucp) is opened at run time, only for "ucx:" addresses
 * (README.md says what it does to a process). After fork() the child's calls on
 * the parent's handle answer PIKV_FORKED.
 *
 * Nodes. Any node of a cluster may be opened: the handle gets the view from it,
 * who has which key, and talks to all of them, each connected when it is first
 * needed. A key goes to the node that serves its slot. What a node sends away,
 * because the view was old, is sent once more, within the deadline, and then is
 * RETRY. What a node that does not answer should have done is asked once of the
 * next owner in order; where there is none, NO_SERVER or RETRY. A silent node
 * costs the calls under way their deadline and later ones nothing until it
 * answers a probe. Only reads of hot slots are spread over those that have
 * copies.
 *
 * Errors are 0 or negative; pikv_error_who() says who acts: nobody, retry
 * later, ask another node, give up. A miss is always a legal answer. */
#ifndef PIKV_H
#define PIKV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PIKV_VERSION "0.1.0"

/* The rows of docs/reference/errors.md; checked against it when built. */
enum pikv_error {
    PIKV_OK = 0,
    PIKV_MISS = -1,
    PIKV_EXISTS = -2,
    PIKV_PENDING = -3,
    PIKV_PARTIAL = -4,
    PIKV_TIMEOUT = -5,
    PIKV_BUSY = -6,
    PIKV_RETRY = -7,
    PIKV_VERSION_DIFFERS = -8,
    PIKV_MISMATCH = -9,
    PIKV_BAD_REQUEST = -10,
    PIKV_LIMIT = -11,
    PIKV_UNSUPPORTED = -12,
    PIKV_BAD_VERSION = -13,
    PIKV_NO_NAMESPACE = -14,
    PIKV_STALE_GENERATION = -15,
    PIKV_NO_LAYOUT = -16,
    PIKV_NO_MEM = -17,
    PIKV_MEM_FAULT = -18,
    PIKV_DENIED = -19,
    PIKV_PIN_LIMIT = -20,
    PIKV_TOO_SMALL = -21,
    PIKV_CORRUPT = -22,
    PIKV_NO_SPACE = -23,
    PIKV_STALE = -24,
    PIKV_WRONG_NODE = -25,
    PIKV_STALE_EPOCH = -26,
    PIKV_CANCELED = -27,
    PIKV_PEER_GONE = -28,
    PIKV_NO_SERVER = -29,
    PIKV_NO_BASIS = -30,
    PIKV_FORKED = -31,
    PIKV_CLOSED = -32,
    PIKV_NO_MEMORY = -33,
    PIKV_IO = -34,
    PIKV_CONFIG = -35,
    PIKV_DRAINING = -36,
    PIKV_INTERNAL = -37,
    PIKV_NOT_DURABLE = -38, /* stored in memory, not on the SSD */
    PIKV_NO_QUORUM = -39,   /* the cluster's voters have no majority */
};

enum pikv_who {
    PIKV_WHO_NOBODY, /* a normal answer */
    PIKV_WHO_RETRY,  /* the same call later */
    PIKV_WHO_OTHER,  /* another node, or open again */
    PIKV_WHO_GIVEUP, /* a person must act */
};

const char *pikv_error_name(int code);
const char *pikv_error_text(int code);
enum pikv_who pikv_error_who(int code);

/* ---- handle ---- */

struct pikv; /* opaque */

/* A GET that takes longer than 95 of 100 did lately may be asked of another
 * node too, at most one GET in ten; who answers first counts. */
enum pikv_hedge {
    PIKV_HEDGE_REPLICAS, /* only where others have the block: hot slots */
    PIKV_HEDGE_NEVER,
    PIKV_HEDGE_ALWAYS, /* the next owner in any case: it has what was put with
                        * replicas */
};

struct pikv_options {
    const char *address; /* "shm:PATH" or "ucx:HOST:PORT", or several with
                          * commas between: tried in turn, any node of a
                          * cluster will do; NULL: $PIKV_ADDRESS or
                          * shm:/run/pikvd/pikvd.sock */
    const char *engine;  /* your name, for `pikvctl clients`; NULL: program */
    const char *model;
    uint32_t dp_rank, tp_rank, pp_rank;
    uint32_t connect_ms;     /* 0: 1000 */
    uint32_t inflight_max;   /* calls submitted and not yet drained, more
                              * answer BUSY; 0: 256, at most 65535 */
    uint64_t staging_bytes;  /* for unregistered buffers; 0: 64 MiB */
    bool no_progress_thread; /* the caller drives with pikv_poll() only */
    bool no_view;            /* this one node only: no view is fetched and no
                              * redirect followed (daemons, operators) */
    enum pikv_hedge hedge;
};

/* Connects and says HELLO. Blocks at most connect_ms. options may be NULL.
 * NO_SERVER, TIMEOUT, BAD_VERSION, DENIED, NO_MEMORY. */
int pikv_open(const struct pikv_options *options, struct pikv **kv_out);
/* Ends the handle: calls in flight complete with CANCELED internally, their
 * buffers are no longer touched on return. NULL ok. */
void pikv_close(struct pikv *kv);
/* Words about the last failed open or namespace call of this thread, such as
 * the differing fingerprint field; "" if none. */
const char *pikv_last_error(void);

struct pikv_info {
    char server[64];   /* "pikvd 0.1.0" */
    char transport[8]; /* "shm" or "ucx" */
    uint32_t lanes;
    uint32_t batch_keys_max; /* items per call */
    uint64_t block_bytes_max;
    uint32_t pin_ttl_ms_max;
    uint64_t boot;  /* random id of the daemon's run */
    uint32_t nodes; /* of the cluster; 0: there is no view */
    uint64_t epoch; /* of the view */
};
int pikv_info(struct pikv *kv, struct pikv_info *out);

struct pikv_node {
    char name[64];
    char state[12];    /* joining, up, draining, down */
    char transport[8]; /* "shm" or "ucx"; "": not used by this handle yet */
    uint32_t index;    /* pikv_event.node */
    uint32_t lanes, lanes_up; /* connections of this handle */
    uint32_t slots;           /* of 65536 that it is the home of */
    bool broken; /* it did not answer: not asked until a probe comes back */
};
/* The nodes of the view: how many there are, of which up to max are filled in;
 * 0: there is no view. */
int pikv_nodes(struct pikv *kv, struct pikv_node *out, uint32_t max);

/* ---- memory ---- */

/* Allocates shared memory, maps and registers it. Freed by pikv_mem_free or
 * with the handle (the mapping goes too). */
int pikv_mem_alloc(struct pikv *kv, size_t bytes, void **addr_out);
void pikv_mem_free(struct pikv *kv, void *addr);
/* Registers memory that the caller has mapped from fd at offset (a memfd, a
 * file on tmpfs or disk). Sealed memfds (F_SEAL_SHRINK) are mapped by the
 * daemon; others are used through the fd, so that truncating them harms only
 * the caller. fd is duplicated. */
int pikv_mem_register_fd(struct pikv *kv, int fd, uint64_t offset, size_t bytes,
                         void *addr);
/* Registers memory that the caller has mapped somehow: the file behind a shared
 * mapping (memfd, /dev/shm, a file) is found by itself. UNSUPPORTED: the memory
 * is private to the process (malloc, anonymous mmap, pinned by a driver): it is
 * still good for every call, by way of the staging area. */
int pikv_mem_register(struct pikv *kv, void *addr, size_t bytes);
int pikv_mem_unregister(struct pikv *kv, void *addr);

/* A layout says once where blocks lie in registered memory, for pools whose
 * blocks are not one run: a block is run_n runs, each of n pieces of len bytes,
 * off + i * stride from its base. The base of block b is table[b], or
 * b * block_stride without a table. Example, layer-first pool [layers][pages]
 * [page_bytes]: one run {0, page_bytes, pages * page_bytes, layers},
 * block_stride page_bytes. A PUT or GET with call.layout names blocks by number
 * (item.block) instead of data or iov; byte k of the stored block is byte k of
 * the pieces in order, so a range (item.off, item.len) of it moves alone. */
struct pikv_run {
    uint64_t off, len, stride; /* bytes; stride is not looked at if n is 1 */
    uint32_t n;
};

struct pikv_layout {
    void *addr; /* start of the pool, inside one registered memory */
    const struct pikv_run *runs;
    uint32_t run_n; /* 1 to 16; pieces of a block: at most 1024 */
    uint64_t block_stride;
    const uint64_t *table; /* NULL, or block_n offsets of bases */
    uint32_t block_n;
};

/* Checks that all blocks lie within the memory. Copies what it is given. id_out
 * is handle-local. BAD_REQUEST, LIMIT, NO_MEM (addr is not registered). */
int pikv_layout_register(struct pikv *kv, const struct pikv_layout *layout,
                         uint32_t *id_out);
int pikv_layout_unregister(struct pikv *kv, uint32_t id);

/* ---- namespaces ---- */

struct pikv_group {
    uint32_t id;      /* 0 to 15 */
    const char *kind; /* "attention", "mla", "sliding", "recurrent", "indexer",
                       * "draft", "opaque" */
    uint32_t layers, kv_heads, head_dim, tokens_per_block;
    const char *dtype, *order;
    uint64_t block_bytes; /* registered size: gets an exact size class */
};

struct pikv_namespace {
    const char *name;
    /* Fingerprint: what must be equal to share blocks. NULL is "". All "" and
     * no groups, without create: whatever they are, to look only. */
    const char *model, *weights_version, *tokenizer_hash, *hash_seed, *dtype,
        *scale_format, *parallel_layout;
    const struct pikv_group *groups;
    uint32_t group_n;
    bool create;
    /* Settings on creation; NULL / 0: the server's defaults. */
    const char *policy, *loans;
    uint32_t share, ttl_ms;
    uint64_t quota_bytes;
    /* "cache": blocks stay in memory as long as the policy keeps them there.
     * "write_buffer": they leave it once they are on the SSD. */
    const char *dram;
};

/* What a call may carry beside its items. NULL or zeros: defaults. */
struct pikv_call {
    uint32_t deadline_us; /* whole call; 0: the op's default (reference/ops) */
    uint32_t soft_us;     /* GET: after this, answer what is ready (PARTIAL);
                           * PREFETCH: what is not begun by then is given up */
    uint32_t pin_ttl_ms;  /* LOOKUP, PIN */
    bool promote;         /* LOOKUP: bring hits on SSD to DRAM */
    bool verify;          /* GET: check the crc of whole blocks (loans too) */
    uint8_t accept_lossy; /* GET: 1 takes lossy blocks up to max_err */
    bool demote;          /* EVICT: out of DRAM, to the SSD, not dropped */
    bool parts;           /* GET: a completion for each item as well, in the
                           * order asked (layer-wise loading) */
    bool here;        /* daemons and operators: what the node that was opened
                       * has counts, whoever owns the key; PUT: stored
                       * there, no copies elsewhere */
    uint32_t layout;  /* PUT, PUT_WRITE, GET: items name blocks of this
                       * layout; 0 none */
    uint32_t open_ms; /* PUT_BEGIN: the block must be committed by then;
                       * 0: the server's limits.open_time */
    float max_err;
    uint64_t trace; /* opaque, for logs */
    void *user;     /* comes back in the completion */
};

/* Blocking; the deadline of call applies. MISMATCH: pikv_last_error() names
 * the field. ns_out is a handle-local id. */
int pikv_namespace_open(struct pikv *kv, const struct pikv_namespace *ns,
                        uint32_t *ns_out, const struct pikv_call *call);
/* Flush: a new generation, O(1); old blocks are never found again. */
int pikv_namespace_bump(struct pikv *kv, uint32_t ns,
                        const struct pikv_call *call);

/* ---- data ---- */

struct pikv_bytes {
    const void *p;
    size_t len;
};

struct pikv_buf {
    void *p;
    size_t len;
};

/* A key within a namespace. */
struct pikv_key {
    struct pikv_bytes key;   /* 1 to 1024 bytes */
    struct pikv_bytes route; /* 0 to 32 bytes; none: the key is the route */
    const uint8_t *scope;    /* 16 bytes of salt, or NULL */
    uint16_t group;
    uint8_t cls; /* 0 kv, 1 expert, 2 blob */
};

struct pikv_put {
    struct pikv_key key;          /* .key = {.key = {"k1", 2}} */
    struct pikv_bytes data;       /* one run, or: */
    const struct pikv_bytes *iov; /* gather list, iov_n > 0 */
    uint32_t iov_n;
    struct pikv_bytes parent; /* key bytes of the preceding block, if any */
    const uint32_t *crc32c;   /* of the bytes: the server refuses others */
    uint32_t page, token_end, token_n, ttl_ms, pin_ttl_ms;
    uint64_t affinity;
    uint64_t labels[4];
    uint8_t priority;
    uint8_t replicas; /* copies in all, 1 to 3; 0: the server's default. Put to
                       * the slot's owners at the same time; the item's answer
                       * is the first one's, or OK if that one did not answer
                       * and another has it. pikv_stats counts those that
                       * could not be made */
    uint32_t block;   /* call.layout: which block of it; data and iov unused */
    bool durable;     /* answered when it is on the SSD and flushed: OK. Else
                       * NOT_DURABLE: stored in memory only, the SSD is failing,
                       * or read-only, or had no time; UNSUPPORTED: this server
                       * has no SSD, nothing was stored. Give it more than the
                       * default deadline: a flush may take tens of ms */
    bool client_keeps_copy;
};

struct pikv_get {
    struct pikv_key key;
    struct pikv_buf data;       /* one run, or: */
    const struct pikv_buf *iov; /* scatter list, iov_n > 0 */
    uint32_t iov_n;
    uint64_t off;        /* range start; length = room in the buffer */
    uint64_t len;        /* call.layout: bytes of the range, 0 to the end */
    uint32_t block;      /* call.layout: which block of it */
    uint64_t if_version; /* 0 any */
    bool loan;           /* shm: lend the block instead of a copy */
};

/* One item's answer.
 *
 * tier and eta_us are for the choice that only the caller can make: to read a
 * block may take longer than to compute it again. eta_us of a LOOKUP's hit is
 * what reading this block is expected to take now, with the wait behind others,
 * from the service times that its tier showed lately; 0: it is in memory. A
 * batch takes at least the longest of its eta_us, and the bytes their time over
 * the link. Where that is more than the prefill of these tokens, prefer to
 * recompute: GET the part of the prefix that is in memory and leave the rest.
 * For what is wanted later there is pikv_prefetch, or promote: then eta_us
 * falls to 0. */
struct pikv_result {
    int status;    /* enum pikv_error */
    uint8_t state; /* LOOKUP: 0 MISS, 1 PENDING, 2 HIT */
    uint8_t tier;  /* 0 dram, 1 ssd, 2 hbm */
    bool pinned;
    bool lossy;
    uint64_t version;
    uint64_t len;     /* stored length of the whole block */
    uint64_t moved;   /* bytes delivered into the buffer */
    uint32_t crc32c;  /* of the whole block */
    uint32_t eta_us;  /* LOOKUP, PREFETCH: expected time to read it; 0 now */
    const void *loan; /* GET with loan: the bytes, read-only, len bytes */
    uint64_t loan_id;
    uint64_t token; /* PUT_BEGIN: names the open block */
};

struct pikv_completion {
    uint64_t id;
    void *user;
    bool part; /* call.parts: only item `item` is done; the call's own
                * completion comes after all of these */
    uint32_t item;
    int status;      /* of the whole call; per item in the results */
    uint32_t n;      /* items */
    uint32_t prefix; /* LOOKUP: longest restorable prefix, in positions */
    uint32_t count;  /* EVICT: blocks dropped or demoted; PREFETCH: begun */
    struct pikv_result *results; /* the array given at submit */
};

/* Submit: returns 0 and an id, or an error at once (nothing was sent, no
 * completion comes): BUSY (calls or staging area used up), LIMIT, BAD_REQUEST,
 * NO_NAMESPACE, FORKED, CLOSED. A call's status is OK when every lane that it
 * went to answered; items have their own. An item whose lane did not answer has
 * the lane's error: TIMEOUT, RETRY (the connection ended under it), NO_SERVER
 * (it is down, answered at once); the call has the first of these. */
int pikv_put(struct pikv *kv, uint32_t ns, const struct pikv_put *items,
             uint32_t n, const struct pikv_call *call,
             struct pikv_result *results, uint64_t *id_out);
int pikv_get(struct pikv *kv, uint32_t ns, const struct pikv_get *items,
             uint32_t n, const struct pikv_call *call,
             struct pikv_result *results, uint64_t *id_out);

/* ---- one block by several writers (PUT_BEGIN / WRITE / COMMIT / ABORT)
 *
 * For a block whose bytes come from several processes (tensor-parallel ranks),
 * or one after the other (layer by layer). Nobody sees it before it is whole.
 *
 *     begin --> OPEN --> last commit, all bytes written --> visible
 *                |
 *                +--> abort by any writer, open_ms passed, EVICT of the key,
 *                     bump, or a writer's connection ended before its commit
 *                     --> nothing is left
 *
 * Each writer begins the same key with the same len and writers; the first
 * makes the block, the others join it and get the same token. Each writes its
 * ranges and commits with its own number. The last commit makes the block
 * visible; the commits before it answer PENDING. A commit when all have
 * committed and bytes are missing answers PARTIAL, and the block is aborted.
 *
 * Attributes, durable among them, are those of the first begin. Who writes with
 * a token that it has from another writer is a writer too. Several writers of
 * one handle share its connection: it has committed when the last thing said of
 * the block is a commit. While it is open, LOOKUP, GET and PUT of the key
 * answer PENDING. */
struct pikv_begin {
    struct pikv_put block; /* key and attributes; data, iov, crc32c unused */
    uint64_t len;          /* of the whole block */
    uint32_t writers;      /* 1 to 64; 0 is 1 */
};
/* Items: OK and a token; EXISTS (it is stored already, whether durable or not:
 * nothing to do); PENDING (a plain PUT is storing it); MISMATCH (open with
 * another len or writers); BUSY (limits.open_blocks or open_share, or no memory
 * by the deadline); LIMIT (len, writers, or more than 64 connections), NO_SPACE
 * as PUT; UNSUPPORTED (durable without an SSD). Said again it gives the token
 * again. */
int pikv_put_begin(struct pikv *kv, uint32_t ns, const struct pikv_begin *items,
                   uint32_t n, const struct pikv_call *call,
                   struct pikv_result *results, uint64_t *id_out);

struct pikv_write {
    struct pikv_key key; /* as in begin */
    uint64_t token;
    uint64_t off;           /* of the bytes in the block */
    struct pikv_bytes data; /* one run, or: */
    const struct pikv_bytes *iov;
    uint32_t iov_n;
    const uint32_t *crc32c; /* of these bytes, or NULL */
    uint32_t block;         /* call.layout */
    uint64_t len;           /* call.layout: bytes, 0 to the end */
};
/* Ranges are written once: a range that is there already answers EXISTS, one
 * that overlaps another BAD_REQUEST, one that another call writes now PENDING.
 * MISS: no such open block (committed, aborted or out of time). LIMIT: more
 * than 1024 ranges that do not touch, or more than 64 connections; BUSY: so
 * many are on their way. A range that answers anything else is not there and
 * may be written again. */
int pikv_put_write(struct pikv *kv, uint32_t ns, const struct pikv_write *items,
                   uint32_t n, const struct pikv_call *call,
                   struct pikv_result *results, uint64_t *id_out);

struct pikv_finish {
    struct pikv_key key;
    uint64_t token;
    uint32_t writer; /* 0 to writers - 1: who commits */
};
/* Commit: OK (visible), PENDING (other writers are to commit), PARTIAL, MISS.
 * It waits for ranges on their way; TIMEOUT: they were not there by then, and
 * the commit counts all the same. Said again by the same writer it answers the
 * same, as long as the server remembers. A durable block: the last commit is
 * answered as a durable PUT is, OK or NOT_DURABLE. Abort: OK, MISS. */
int pikv_put_commit(struct pikv *kv, uint32_t ns,
                    const struct pikv_finish *items, uint32_t n,
                    const struct pikv_call *call, struct pikv_result *results,
                    uint64_t *id_out);
int pikv_put_abort(struct pikv *kv, uint32_t ns,
                   const struct pikv_finish *items, uint32_t n,
                   const struct pikv_call *call, struct pikv_result *results,
                   uint64_t *id_out);

/* What one member needs for a position to be restorable. */
struct pikv_column {
    uint8_t rule; /* 0 all, 1 trailing n, 2 optional */
    uint16_t trailing;
};

/* keys: positions x cols, row by row. columns may be NULL for cols = 1, rule
 * all. stops: NULL, or (positions + 7) / 8 bytes; bit p is set if the sequence
 * can be restored up to and including position p. */
int pikv_lookup(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
                uint32_t positions, const struct pikv_column *columns,
                uint32_t cols, uint8_t *stops, const struct pikv_call *call,
                struct pikv_result *results, uint64_t *id_out);

enum pikv_select {
    PIKV_KEYS,      /* these keys */
    PIKV_CHAIN,     /* these keys and all their descendants */
    PIKV_LABEL,     /* blocks that carry label */
    PIKV_SCOPE,     /* blocks of keys[0].scope */
    PIKV_NAMESPACE, /* all blocks of the namespace */
    PIKV_PATTERN,   /* blocks whose key bytes match keys[0].key, in which * is
                     * any bytes and ? any one; group and scope do not matter */
};
/* A drop is final: a block that is on an SSD does not come back after a crash.
 * The call is answered when that is so; NOT_DURABLE: they are gone now, but
 * some could come back after a crash, because the SSD is failing, or a node of
 * the cluster that may have some could not be reached; TIMEOUT: not all was
 * done by the deadline, or it was not known to be durable by then. With
 * call->demote blocks leave memory and stay on the SSD, to which those that are
 * not there are written first; UNSUPPORTED without an SSD. In a cluster keys
 * are dropped at all nodes that may have them, and everything else at all
 * nodes; the completion's count is that of all, so a block with copies counts
 * for each. */
int pikv_evict(struct pikv *kv, uint32_t ns, enum pikv_select select,
               const struct pikv_key *keys, uint32_t n, uint64_t label,
               const struct pikv_call *call, struct pikv_result *results,
               uint64_t *id_out);
int pikv_pin(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
             uint32_t n, const struct pikv_call *call,
             struct pikv_result *results, uint64_t *id_out);
int pikv_unpin(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
               uint32_t n, const struct pikv_call *call,
               struct pikv_result *results, uint64_t *id_out);
int pikv_touch(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
               uint32_t n, const struct pikv_call *call,
               struct pikv_result *results, uint64_t *id_out);
/* Brings blocks from the SSD to memory, for a GET that comes later. keys: the
 * most wanted first. cap_mib: at most so many MiB in all, 0 no cap; the keys of
 * each lane get their share of it. What is not begun when call->soft_us has
 * passed is given up. Demand goes first: a prefetch yields to every GET, and
 * one that a GET overtakes is that GET's. Answered when all is begun or given
 * up, not when it is there. Items: OK (in memory, or on its way), MISS, PARTIAL
 * (not begun: cap or time). */
int pikv_prefetch(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
                  uint32_t n, uint32_t cap_mib, const struct pikv_call *call,
                  struct pikv_result *results, uint64_t *id_out);
/* Ends a loan. OK: the bytes read before this call were the block's. STALE: the
 * daemon took the loan back meanwhile, they do not count. Never blocks. */
int pikv_loan_release(struct pikv *kv, uint32_t ns,
                      const struct pikv_result *result);

/* ---- routers ----
 *
 * Which node a key is on: slot = hash(namespace, route) mod 65536, and the
 * cluster's view says who has the slot. The route is up to 32 bytes beside the
 * key (pikv_key.route). Keys of one route are on one node, in one lane of it.
 * Each call for a key must name the route that it was stored with, so all users
 * of a namespace take the same router with the same numbers. A router is a
 * function that makes these bytes; one of yours is as good.
 *
 *   name       the route is                             what it is for
 *   hash       nothing: the server takes the key        the default: all even
 *   prefix     the key of the block at position         a conversation stays
 *              min(position, depth - 1) of its          together from block
 *              sequence                                 depth - 1 on
 *   paper      affinity e, and PiKV's shard: (p mod     pages of one affinity
 *              n_tok) xor (e mod n_exp), of page p =    (expert, rank) spread
 *              token / page_tokens                      over n_tok shards
 *   paper_xor  that shard without e                     the formula as printed:
 *                                                       all e in each shard
 *   affinity   affinity e                               one reader, one place
 *
 * Sources: PiKV, arXiv 2508.06526, for the shard; it is taken of pages, since
 * of tokens each neighbour would be on another shard (512 tokens: 511 changes;
 * in pages of 64: at most 8 shards). n_tok and n_exp should be powers of two:
 * then shards are even. prefix with depth 1 sends all sequences that begin with
 * one system prompt to one node; the depth must reach beyond what all share. */
enum {
    PIKV_ROUTE_MAX = 32,
    PIKV_ROUTE_SHARDS = 1 << 30, /* most of n_tok, n_exp */
};

struct pikv_route { /* what routers look at; each at its own part only */
    const struct pikv_bytes *chain; /* prefix: keys of the sequence's blocks,
                                     * from the first to this one; those after
                                     * the depth-th may be left out */
    uint32_t chain_n, depth;
    uint64_t token;       /* paper, paper_xor: the block's first token */
    uint32_t page_tokens; /* 0: 1 */
    uint32_t n_tok, n_exp;
    uint64_t affinity; /* paper, paper_xor, affinity */
};

/* Writes the route, returns its length (0: the key is the route), or
 * BAD_REQUEST: depth, chain, n_tok or n_exp missing, or too large. */
int pikv_route_hash(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX]);
int pikv_route_prefix(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX]);
int pikv_route_paper(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX]);
int pikv_route_paper_xor(const struct pikv_route *in,
                         uint8_t out[PIKV_ROUTE_MAX]);
int pikv_route_affinity(const struct pikv_route *in,
                        uint8_t out[PIKV_ROUTE_MAX]);
/* The page of the token, and PiKV's shard of it, or BAD_REQUEST. */
uint64_t pikv_route_page(const struct pikv_route *in);
int pikv_route_shard(const struct pikv_route *in);

struct pikv_router {
    const char *name, *formula;
    int (*route)(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX]);
};
/* By name, or NULL. By number 0, 1, ...: NULL ends the list. */
const struct pikv_router *pikv_router_find(const char *name);
const struct pikv_router *pikv_router_at(uint32_t i);

/* ---- asking and telling ---- */

struct pikv_explanation {
    /* here, never_seen, evicted, not_admitted, late, expired, dropped, corrupt,
     * moved; newer servers may have other words */
    char reason[32];
    char tier[8];     /* of here: "dram" or "ssd" */
    uint64_t when_ms; /* stored, or gone, so long ago; 0 not known */
    uint32_t eta_us;  /* of here: expected time to read it */
    char advice[256]; /* one sentence for a person */
};
/* Why a key is, or is not, there. From a bounded memory of what left: a block
 * that left long ago is never_seen. Asks the key's lane and waits. */
int pikv_explain(struct pikv *kv, uint32_t ns, const struct pikv_key *key,
                 const struct pikv_call *call, struct pikv_explanation *out);

enum pikv_session_state {
    PIKV_SESSION_OPEN,   /* in use: its blocks are wanted soon */
    PIKV_SESSION_IDLE,   /* waits for its user: other blocks come first */
    PIKV_SESSION_CLOSED, /* over: its blocks may go first */
};
/* A hint: the blocks that carry session as one of their labels are worth more
 * or less from now on. Sent to every lane; never blocks, no completion comes,
 * and whether the server made use of it is not told. Said once per change; to
 * be said again after a restart of the server. NO_SERVER, RETRY: a lane could
 * not be told now; the others were. session 0 is BAD_REQUEST. */
int pikv_session(struct pikv *kv, uint32_t ns, uint64_t session,
                 enum pikv_session_state state, const struct pikv_call *call);

/* ---- events ---- */

enum pikv_event_kind {
    PIKV_EVENT_STORED,  /* visible: lookups find it */
    PIKV_EVENT_REMOVED, /* gone from the last tier that had it */
    PIKV_EVENT_MOVED,   /* from another tier to .tier */
    PIKV_EVENT_CLEARED, /* the namespace was flushed (bump): what .lane had of
                         * it is gone; each lane tells it. .version is the new
                         * generation */
    PIKV_EVENT_LOST, /* list the keys of .lane again. .count events, from .seq
                      * on and of all namespaces, were overwritten before
                      * they were read; count 0: the server was started anew
                      * (.boot is its new one), and what it has kept from
                      * before it does not tell */
};

struct pikv_event {
    enum pikv_event_kind kind;
    uint32_t lane; /* of the handle's: in a cluster those of the node that was
                    * opened, then those of others */
    uint32_t node; /* pikv_node.index; 0 without a view */
    uint64_t seq;  /* of this lane: 1, 2, 3, ... over all namespaces; starts
                    * anew when the server does (.boot differs) */
    uint64_t boot;
    uint64_t count;                /* LOST */
    struct pikv_bytes key, parent; /* empty if not known: the key bytes of a
                                    * block that only the SSD has are not in
                                    * memory; then .hash names it */
    uint8_t hash[16];              /* the server's name of the block */
    uint16_t group;
    uint8_t cls, tier; /* 0 dram, 1 ssd, 2 hbm; of REMOVED: that it was in */
    uint8_t scope[16];
    uint64_t len, version;
    uint32_t page, token_end, token_n;
    uint64_t labels[4];
    uint64_t when_ms; /* wall clock, milliseconds since 1970 */
};

struct pikv_events; /* opaque: one subscription, one thread at a time */

/* Follows what happens to the blocks of a namespace. from_seq: NULL (from now
 * on), or for each lane the next seq wanted (0 or 1: all that the ring still
 * has); one that was kept from another boot than pikv_info's means nothing.
 * Does not block; the server is asked in the background. LIMIT: more than 16 of
 * a handle. */
int pikv_events_open(struct pikv *kv, uint32_t ns, const uint64_t *from_seq,
                     struct pikv_events **ev_out);
/* Up to max events, waiting at most wait_ms for the first. Returns how many, or
 * an error: UNSUPPORTED (the server keeps none: limits.events), NO_NAMESPACE (a
 * server that was started anew does not have it). In order of seq per lane;
 * lanes are not ordered among each other. What out points to stays valid until
 * the next call. While the server is away it returns 0 and goes on when it is
 * back. A caller that does not call holds up nobody: it finds LOST. */
int pikv_events_next(struct pikv_events *ev, struct pikv_event *out, int max,
                     uint32_t wait_ms);
void pikv_events_close(struct pikv_events *ev); /* NULL ok; before the handle */

/* ---- what this handle did: for the metrics of an engine ---- */

enum { PIKV_STATS_OPS = 16, PIKV_STATS_BUCKETS = 24 };

struct pikv_op_stats {
    char name[16];  /* "get", "put", "lookup", ...; "" ends the list */
    uint64_t calls; /* completed */
    uint64_t items;
    uint64_t bytes;  /* moved */
    uint64_t hits;   /* items OK (LOOKUP: HIT) */
    uint64_t misses; /* items MISS */
    uint64_t exists; /* items EXISTS or PENDING: nothing was sent */
    uint64_t timeouts, busy, down, errors; /* items, by what they answered:
                                            * timeouts also PARTIAL, down is
                                            * NO_SERVER and RETRY; of a call
                                            * without items, its status */
    uint64_t sum_us;                       /* submit to completion */
    uint64_t buckets[PIKV_STATS_BUCKETS];  /* calls that took up to 2^i us, each
                                            * in one; the last takes the rest */
};

struct pikv_stats {
    struct pikv_op_stats ops[PIKV_STATS_OPS];
    uint64_t inflight, staging_bytes, registered_bytes;
    uint32_t lanes, lanes_up;
    uint64_t reconnects;
    /* Of a cluster: items that a node sent elsewhere (an old view), items that
     * went to the next owner because a node did not answer, copies that were
     * not made (pikv_put.replicas), GETs asked of a second node and how often
     * that one was first, nodes that are not asked now. */
    uint64_t redirects, failovers, copies_failed, hedges, hedges_won;
    uint32_t breaker_open;
};
int pikv_stats(struct pikv *kv, struct pikv_stats *out);

/* ---- completions ---- */

/* Readable while completions wait. Do not read or close it. */
int pikv_event_fd(struct pikv *kv);
/* Takes up to max completions; returns how many, or an error. Never blocks. */
int pikv_drain(struct pikv *kv, struct pikv_completion *out, int max);
/* Moves bytes in the calling thread first, then drains: for spinning. */
int pikv_poll(struct pikv *kv, struct pikv_completion *out, int max);
/* Blocks until the call id completes, at most until its deadline (and 10 ms, if
 * the server does not answer and the call names registered memory). Takes that
 * completion; others stay. out may be NULL. Returns the call's status;
 * BAD_REQUEST if id is not in flight, or taken, or waited for elsewhere. */
int pikv_wait(struct pikv *kv, uint64_t id, struct pikv_completion *out);

/* Submit and wait; return the call's status. */
int pikv_put_sync(struct pikv *kv, uint32_t ns, const struct pikv_put *items,
                  uint32_t n, const struct pikv_call *call,
                  struct pikv_result *results);
int pikv_get_sync(struct pikv *kv, uint32_t ns, const struct pikv_get *items,
                  uint32_t n, const struct pikv_call *call,
                  struct pikv_result *results);

/* ---- administration (pikvctl) ---- */

/* One MSG operation by its name in reference/ops with its envelope given and
 * answered as packed protobuf (proto/pikv.proto). lane -1: the first. Blocking.
 * reply_out is malloc'ed, free it with pikv_reply_free. */
int pikv_admin(struct pikv *kv, const char *op, int lane, const void *request,
               size_t request_len, void **reply_out, size_t *reply_len_out,
               const struct pikv_call *call);
void pikv_reply_free(void *reply);
/* The server's id and generation of an open namespace. */
int pikv_namespace_id(struct pikv *kv, uint32_t ns, uint32_t *id_out,
                      uint64_t *generation_out);
/* crc32c of bytes, continued from crc (0 to start). */
uint32_t pikv_crc32c(uint32_t crc, const void *p, size_t n);

#ifdef __cplusplus
}
#endif
#endif

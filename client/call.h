/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls and parts (handle.h), and what a submit hands down. With kv->mu. */
#ifndef CLIENT_CALL_H
#define CLIENT_CALL_H

#include "client/conn.h"

/* One submit as the public function got it; borrowed until it returns. */
struct request {
    uint16_t op;
    uint32_t ns, n;
    const void *items; /* struct pikv_key first in each */
    size_t stride;
    const struct pikv_put *puts;
    const struct pikv_get *gets;
    const struct pikv_begin *begins;
    const struct pikv_write *writes;
    const struct pikv_finish *finishes;
    const struct pikv_column *columns;
    uint32_t cols;
    uint8_t *stops;
    enum pikv_select select;
    uint64_t label;
    uint32_t extra_n; /* EVICT without keys: records to send */
    uint32_t cap_mib; /* PREFETCH: for all lanes; 0 none */
    bool everywhere;  /* every lane gets all items */
    bool waits;       /* nobody will take parts */
    const struct pikv_call *call;
    struct pikv_result *results;
    uint64_t deadline_ns;
    const struct ns *space;
    const struct lay *lay; /* call.layout, or NULL; lay_bind finds it */
};

static inline const struct pikv_key *request_key(const struct request *r,
                                                 uint32_t i)
{
    return (const struct pikv_key *)(const void *)((const char *)r->items +
                                                   (size_t)i * r->stride);
}

/* Do bytes of the caller's go out, or any move at all? */
static inline bool op_sends(uint16_t op)
{
    return op == OP_PUT || op == OP_PUT_WRITE;
}

static inline bool op_moves(uint16_t op)
{
    return op_sends(op) || op == OP_GET;
}

static inline bool request_has_layout(const struct request *r)
{
    return r->call && r->call->layout && op_moves(r->op);
}

static inline uint32_t part_item(const struct part *p, uint32_t i)
{
    return p->has_idx ? p->idx[i] : p->first + i;
}

/* Where the answer for a part's item goes. */
static inline struct pikv_result *part_result(const struct part *p, uint32_t i)
{
    return p->sided ? &p->side[i] : &p->call->results[part_item(p, i)];
}

/* call.c */
uint64_t call_deadline_ns(uint16_t op, uint64_t deadline_us, uint64_t bytes,
                          uint64_t now);
struct call *call_take(struct pikv *kv, bool internal);
void call_give(struct pikv *kv, struct call *c);
void call_begin(struct pikv *kv, struct call *c);
/* Gives back the count that kept a call open meanwhile. */
void call_unhold(struct pikv *kv, struct call *c);
void call_part_ended(struct pikv *kv, struct part *p, int status);
/* Ends what is due. Returns the next time something is. */
uint64_t call_expire(struct pikv *kv, uint64_t now);
struct part *part_take(struct pikv *kv, struct call *c, struct conn *conn);
void part_give(struct pikv *kv, struct part *p);
bool part_room(void **array, uint32_t *cap, uint32_t n, size_t item);
/* An internal MSG request; done is called once, with kv->mu, never inside. */
int call_msg(struct pikv *kv, struct conn *conn, uint16_t op, const void *env,
             size_t env_len, int fd, uint64_t deadline_ns, call_done_fn *done,
             void *arg);
/* An internal BATCH request whose answer nobody waits for. */
int call_records(struct pikv *kv, struct conn *conn, uint16_t op,
                 const void *body, uint32_t record_n, uint32_t keys_len,
                 uint64_t deadline_ns);
/* An MSG request, waited for. reply_out malloc'ed (may be NULL if not wanted).
 */
int call_msg_wait(struct pikv *kv, struct conn *conn, uint16_t op,
                  const void *env, size_t env_len, int fd, uint64_t deadline_ns,
                  void **reply_out, size_t *len_out);
/* Status of the call is s for all its items that have none yet. */
void call_fail_items(struct part *p, int status);

/* build.c */
uint64_t build_item_bytes(const struct request *r, uint32_t i);
uint32_t build_slot(const struct ns *space, const struct pikv_key *k);
/* Without a view: the lane that has a key. */
uint32_t build_lane(const struct pikv *kv, const struct ns *space,
                    const struct pikv_key *k);
/* The caller's runs of item i, in the shape of pikv_buf. */
const struct pikv_buf *build_item_runs(const struct request *r, uint32_t i,
                                       uint32_t *n_out);
bool build_item_has_attr(const struct pikv_put *p);
/* What makes a block of item i: attributes and parent; NULL: it makes none. */
const struct pikv_put *build_item_put(const struct request *r, uint32_t i);
/* Cuts the request into parts, sized and staged; none sent yet. For a handle
 * without a view. */
int build_plan(struct pikv *kv, const struct request *r, struct call *c);
/* Its steps: a part for a line; item i into it, or into another one that takes
 * its place when it is full; its size and staging when all are in. NULL, false:
 * no memory. */
struct part *build_part(struct pikv *kv, const struct request *r,
                        struct call *c, uint32_t line);
bool build_add(struct pikv *kv, const struct request *r, struct call *c,
               struct part **p, uint32_t i);
int build_close(struct pikv *kv, const struct request *r, struct part *p);
/* All items to one line, in as many parts as it takes. */
int build_line(struct pikv *kv, const struct request *r, struct call *c,
               uint32_t line);
void build_caps(const struct request *r, struct call *c);
/* Where the part's stand-in bytes begin. */
uint8_t *part_staging(struct pikv *kv, const struct part *p);
void build_stage(struct pikv *kv, struct part *p);
/* The runs of the caller's memory that a dest is. */
static inline uint32_t dest_run_n(const struct dest *d)
{
    return d->iov_n ? d->iov_n : 1;
}
struct pikv_buf dest_run(const struct part *p, const struct dest *d,
                         uint32_t k);

/* build_write.c */
/* Writes frame and body of a planned part to msg (p->msg_len bytes). */
void build_message(struct pikv *kv, const struct request *r, struct part *p,
                   uint8_t *msg);
/* Puts the region id of the part's own memory into its segments. */
void build_patch(struct part *p, uint32_t mem);
/* Takes KEY_LOAN out of a queued message: the lane lends nothing. */
void build_no_loans(struct part *p);

/* reply.c */
/* A checked BATCH reply: results into the caller's array. false: nonsense. */
bool reply_batch(struct pikv *kv, struct part *p, const struct message *m);
/* One result; data: what is left of the reply's bytes. false: nonsense. */
bool reply_item(struct pikv *kv, struct part *p, uint32_t i,
                const struct wire_result *w, struct slice *data);
/* Copies item i out of staging to the caller and checks its crc; needs no
 * kv->mu. */
void reply_land(struct pikv *kv, struct part *p, uint32_t i);
bool reply_lands(const struct part *p);
/* How many bytes that touches. */
uint64_t reply_land_bytes(const struct part *p, uint32_t i);
void reply_lookup(struct call *c);
/* Bytes of an item as they come: at off of what was asked for; checked. */
void reply_bytes(struct part *p, struct dest *d, uint64_t off,
                 const uint8_t *from, uint64_t len);

/* parts.c */
bool parts_begin(struct call *c); /* false: no memory */
/* An EVENT for p. false: nonsense. */
bool parts_event(struct pikv *kv, struct part *p, const struct message *m);
/* Have all bytes of item i come, now that its result is known? */
bool parts_came(const struct part *p, uint32_t i);
/* Lands what was announced and has come. */
void parts_land(struct pikv *kv, struct part *p);
/* The next chunk of a part of kv->landing, without kv->mu. */
void parts_progress(struct pikv *kv, struct part *p);
void parts_ended(struct pikv *kv, struct part *p);  /* well, all of it */
void parts_finish(struct pikv *kv, struct call *c); /* before its completion */
bool parts_take(struct pikv *kv, struct pikv_completion *out);

/* layout.c: what of a layout an item names */
struct lay_range {
    uint32_t block;
    uint64_t off, len; /* of the block's bytes */
};
/* Finds the request's layout, if it has one, and checks its items. */
int lay_bind(struct pikv *kv, struct request *r);
/* Of an item, without looking at the layout: it may be gone when a message is
 * written, for staging lets kv->mu go. */
uint32_t lay_block(const struct request *r, uint32_t i);
void lay_range(const struct request *r, uint32_t i, struct lay_range *out);
/* Writes the runs of a range to the part's list. false: no memory. */
bool lay_expand(const struct lay *a, const struct lay_range *g, struct part *p,
                struct dest *d);

/* data.c */
int data_check_key(const struct pikv_key *k);
int data_submit(struct pikv *kv, struct request *r, bool wait,
                uint64_t *id_out);
/* A planned part, its staging filled: goes out, or queues, or ends. */
void data_start(struct pikv *kv, const struct request *r, struct part *p,
                uint64_t now);

#endif

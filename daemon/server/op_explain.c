/* SPDX-License-Identifier: Apache-2.0
 *
 * EXPLAIN: where a block is, or what became of it, as far as this lane
 * remembers; and what a person could do about it. One tick, no sleep. The
 * memory of what is gone is bounded (store_cfg.ghosts): what it has forgotten
 * is never_seen. */
#include <string.h>

#include "server/peer.h"

struct reason {
    const char *name, *advice;
};

/* No default: a new reason must say what to do. */
static struct reason explain_reason(enum store_found found)
{
    switch (found) {
    case FOUND_HIT:
        return (struct reason){"here", "Nothing to do."};
    case FOUND_PENDING:
        return (struct reason){"here",
                               "A writer is storing it now; ask again."};
    case FOUND_MISS_NEVER:
        return (struct reason){
            "never_seen",
            "It was not stored here, or so long ago that it is forgotten: "
            "check the key, the scope, the group and the lane."};
    case FOUND_MISS_EVICTED:
        return (struct reason){
            "evicted",
            "It had to make room: `pikvctl size` says what more capacity "
            "would bring, a namespace's share and a key's priority what "
            "stays."};
    case FOUND_MISS_NOT_ADMITTED:
        return (struct reason){
            "not_admitted",
            "The SSD's write budget was used up and its reuse was not "
            "foreseen: raise ssd.write_budget, or dram.capacity."};
    case FOUND_MISS_LATE:
        return (struct reason){
            "late", "It left memory before it was written to the SSD: raise "
                    "dram.capacity or ssd.write_window, or spread the load."};
    case FOUND_MISS_EXPIRED:
        return (struct reason){
            "expired", "Its time to live passed: put it with a longer one."};
    case FOUND_MISS_DROPPED:
        return (struct reason){"dropped", "A client dropped it with EVICT."};
    case FOUND_MISS_CORRUPT:
        return (struct reason){
            "corrupt",
            "It could not be read back from the SSD as it was written: look "
            "at `pikvctl ssd list` and the log, and think of replacing it."};
    case FOUND_MISS_MOVED:
        return (struct reason){
            "moved", "Its slot lives on another node now: ask that one "
                     "(`pikvctl cluster slots`)."};
    }
    return (struct reason){"never_seen", ""};
}

static void explain_here(struct op *op, uint32_t block, Pikv__ExplainReply *rep)
{
    static char dram[] = "dram", ssd[] = "ssd";
    struct store *s = op->lane->store;
    struct store_info i;

    rep->tier = store_where(s, block) == WHERE_MEMORY ? dram : ssd;
    rep->eta_us = store_eta_us(s, block);
    store_info(s, block, &i);
    rep->when_ms = i.age_ms;
}

static enum err explain_key(struct op *op, const Pikv__ExplainRequest *m,
                            Pikv__ExplainReply *rep)
{
    static const uint8_t no_scope[16];
    struct store *s = op->lane->store;
    enum store_found why = FOUND_HIT;
    struct store_key k = {.ns = m->ns,
                          .group = (uint16_t)m->group,
                          .key = m->key.data,
                          .key_len = (uint16_t)m->key.len,
                          .scope = m->scope.len ? m->scope.data : no_scope};
    struct reason r;
    uint32_t block;

    if (m->key.len == 0 || m->key.len > WIRE_KEY_MAX ||
        (m->scope.len && m->scope.len != sizeof no_scope))
        return ERR_LIMIT;
    store_key_hash(s, &k);
    block = store_find(s, &k, &why);
    if (block) {
        why = FOUND_HIT;
        explain_here(op, block, rep);
    } else if (why != FOUND_PENDING) {
        why = store_ghost(s, &k, &rep->when_ms);
    }
    r = explain_reason(why);
    rep->reason = msg_str(&op->arena, r.name);
    rep->advice = msg_str(&op->arena, r.advice);
    MUST(rep->reason && rep->advice); /* OP_MSG_BYTES */
    return OK;
}

static void explain_tick(struct op *op)
{
    const Pikv__ExplainRequest *m =
        op_unpack(op, &pikv__explain_request__descriptor);
    Pikv__ExplainReply rep = PIKV__EXPLAIN_REPLY__INIT;
    const struct registry_ns *ns;
    enum err e = ERR_BAD_REQUEST;

    if (m)
        e = lane_ns_find(op->lane, m->ns, 0, &ns);
    if (!e)
        e = explain_key(op, m, &rep);
    if (e)
        op_reply(op, e);
    else
        op_reply_msg(op, OK, &rep);
}

const struct op_machine explain_machine = {explain_tick, {{"DO", 0}}};

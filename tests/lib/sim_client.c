/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated clients: each has one connection to one lane, says HELLO and OPEN,
 * then keeps a few random calls in flight and compares every answer with the
 * oracle. They speak the wire themselves, so that they can also speak it
 * badly. A client that lost its connection comes back.
 *
 *   AWAY -> HELLO -> OPEN -> BUSY -+-> AWAY
 *                             ^----+   (flushed: OPEN again) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "lib/sim_client.h"
#include "rpc/msg.h"

static void client_work(struct sim *s, void *arg);

/* ---- buffers and calls ----------------------------------------------------
 */

static struct sim_call *call_find(struct sim_client *c, uint64_t req)
{
    for (uint32_t i = 0; i < SIM_CALLS; i++)
        if (req && c->calls[i].req == req)
            return &c->calls[i];
    return NULL;
}

uint8_t *sim_client_buffer(struct sim_client *c, uint64_t req, uint32_t idx,
                           uint64_t *len_out)
{
    struct sim_call *call = call_find(c, req);

    if (!call || idx >= call->n || !call->buf[idx])
        return NULL;
    *len_out = call->len[idx];
    return call->buf[idx];
}

static void call_end(struct sim_call *call)
{
    for (uint32_t i = 0; i < SIM_BATCH; i++) {
        free(call->buf[i]);
        call->buf[i] = NULL;
    }
    call->req = 0;
}

/* The connection went: the answers are lost. */
void sim_client_closed(struct sim_client *c)
{
    struct sim *s = c->s;

    for (uint32_t i = 0; i < SIM_CALLS; i++) {
        if (c->calls[i].req && c->state == SIM_BUSY)
            s->calls_lost++;
        call_end(&c->calls[i]);
    }
    c->peer = NULL;
    c->state = SIM_AWAY;
    sim_at(s, s->now_ns + NS_PER_MS + sim_random(s, 5 * NS_PER_MS), client_work,
           c);
}

bool sim_client_idle(const struct sim_client *c)
{
    for (uint32_t i = 0; i < SIM_CALLS; i++)
        if (c->calls[i].req)
            return false;
    return true;
}

/* ---- requests
 * ---------------------------------------------------------------*/

struct sim_call *sim_call_begin(struct sim_client *c, uint32_t op)
{
    for (uint32_t i = 0; i < SIM_CALLS; i++) {
        struct sim_call *call = &c->calls[i];

        if (call->req)
            continue;
        memset(call, 0, sizeof *call);
        call->req = ++c->reqs;
        call->op = op;
        call->generation = c->generation;
        call->begun_ns = c->s->now_ns;
        call->number = ++c->s->calls_begun;
        call->frame = (struct wire_frame){
            .kind = WIRE_REQUEST, .op = (uint16_t)op, .req = call->req};
        call->frame.deadline_us = (uint32_t)(1000 + sim_random(c->s, 100000));
        return call;
    }
    return NULL;
}

/* Every call is answered by its deadline, or its connection goes: a second is
 * far beyond the deadline, the slow-reader limit and all latencies. */
static void call_overdue(struct sim *s, void *arg)
{
    struct sim_client *c = arg;

    for (uint32_t i = 0; i < SIM_CALLS; i++)
        MUST(!c->calls[i].req || s->now_ns - c->calls[i].begun_ns < NS_PER_S);
}

static void call_send(struct sim_client *c, struct sim_call *call,
                      size_t body_len, const uint8_t *data)
{
    struct sim *s = c->s;

    frame_seal(&call->frame, call->bytes, body_len);
    sim_send(c->peer, &call->frame, call->bytes, body_len, data);
    sim_at(s, s->now_ns + NS_PER_S + 1, call_overdue, c);
}

/* NULL: no call is to be had. */
static struct sim_call *call_send_msg(struct sim_client *c, uint32_t op,
                                      const void *msg)
{
    struct sim_call *call = sim_call_begin(c, op);
    uint8_t buf[4096];
    struct arena a;
    size_t len;
    void *p;

    if (!call)
        return NULL;
    arena_init(&a, buf, sizeof buf);
    p = msg_pack(msg, &a, &len);
    MUST(p && len <= SIM_BODY);
    memcpy(call->bytes, p, len);
    call->frame.env_len = (uint32_t)len;
    call->frame.deadline_us = 200000;
    call_send(c, call, len, NULL);
    return call;
}

static uint32_t key_text(uint32_t key, char text[32])
{
    return (uint32_t)snprintf(text, 32, "key-%u", key);
}

static bool key_is_here(const struct sim_client *c, uint32_t key)
{
    char text[32];
    uint32_t n = key_text(key, text);

    return hash_slot(c->s->slot_seed, text, n) % c->s->lane_n == c->lane;
}

/* A key of this client's lane, low numbers more often. */
uint32_t sim_key_own(struct sim_client *c)
{
    struct sim *s = c->s;

    for (;;) {
        uint64_t top = 1 + sim_random(s, MODEL_KEYS);
        uint32_t key = (uint32_t)sim_random(s, top);

        if (key_is_here(c, key))
            return key;
    }
}

/* Now and then a key of another lane. */
static uint32_t key_pick(struct sim_client *c)
{
    if (sim_random(c->s, 200) == 0)
        return (uint32_t)sim_random(c->s, MODEL_KEYS);
    return sim_key_own(c);
}

void sim_build_begin(struct sim_builder *b, struct sim_client *c,
                     struct sim_call *call)
{
    b->call = call;
    b->head =
        (struct wire_batch){.ns = c->s->ns_id, .generation = call->generation};
    b->records = (struct slice_out){b->rec_buf, 0, sizeof b->rec_buf, false};
    b->keys = (struct slice_out){b->key_buf, 0, sizeof b->key_buf, false};
    (void)slice_grow(&b->records, WIRE_RECORD); /* the head, at the end */
}

void sim_build_key(struct sim_builder *b, struct wire_key rec, uint32_t key,
                   bool chained, const struct wire_attr *attr)
{
    char text[32];

    rec.key_len = (uint16_t)key_text(key, text);
    (void)slice_put(&b->keys, text, rec.key_len);
    if (chained && key % SIM_CHAIN) {
        rec.parent_len = (uint16_t)key_text(key - 1, text);
        (void)slice_put(&b->keys, text, rec.parent_len);
    }
    if (attr)
        rec.flags |= KEY_HAS_ATTR;
    (void)slice_put(&b->records, &rec, sizeof rec);
    if (attr)
        (void)slice_put(&b->records, attr, sizeof *attr);
    b->call->key[b->call->n++] = key;
    b->head.key_n++;
}

void sim_build_send(struct sim_builder *b, struct sim_client *c,
                    const uint8_t *data, uint64_t data_len)
{
    struct sim_call *call = b->call;

    MUST(!b->records.bad && !b->keys.bad);
    memcpy(b->rec_buf, &b->head, sizeof b->head);
    memcpy(call->bytes, b->rec_buf, b->records.len);
    memcpy(call->bytes + b->records.len, b->key_buf, b->keys.len);
    call->frame.record_n = (uint32_t)(b->records.len / WIRE_RECORD);
    call->frame.keys_len = (uint32_t)b->keys.len;
    call->frame.data_len = data_len;
    call_send(c, call, b->records.len + b->keys.len, data);
}

static uint64_t random_len(struct sim *s)
{
    switch (sim_random(s, 16)) {
    case 0:
        return 1 + sim_random(s, 4096);
    case 1:
        return MIB(1) + sim_random(s, MIB(3));
    case 2:
    case 3:
        return KIB(64) + sim_random(s, KIB(448));
    default:
        return KIB(4) * (1 + sim_random(s, 16));
    }
}

static void do_put(struct sim_client *c, struct sim_call *call)
{
    struct sim *s = c->s;
    uint32_t n = 1 + (uint32_t)sim_random(s, 6);
    uint64_t total = 0, label = 1 + sim_random(s, 3);
    uint8_t *data = NULL;
    struct sim_builder b;

    sim_build_begin(&b, c, call);
    for (uint32_t i = 0; i < n; i++) {
        struct wire_attr attr = {.label0 = label, .token_n = 512};
        uint32_t key = s->cfg.ssds ? sim_key_own(c) : key_pick(c);
        struct wire_key rec = {.len = random_len(s), .flags = KEY_CRC};
        bool attrs = sim_random(s, 2);

        attr.pin_ttl_ms = sim_random(s, 20) ? 0 : 100;
        attr.ttl_ms = sim_random(s, 20) ? 0 : 1000;
        attr.flags = sim_random(s, 4) ? 0 : ATTR_DURABLE;
        call->durable[i] = attrs && attr.flags && !attr.ttl_ms;
        call->put[i] =
            model_put_begin(s->model, key, call->generation, rec.len, &rec.crc);
        call->len[i] = rec.len;
        call->buf[i] = malloc(rec.len);
        MUST(call->buf[i]);
        model_fill(call->put[i], 0, call->buf[i], rec.len);
        if (sim_random(s, 50) == 0) /* the bytes change under way */
            call->buf[i][sim_random(s, rec.len)] ^= 1;
        total += rec.len;
        sim_build_key(&b, rec, key, true, attrs ? &attr : NULL);
    }
    if (s->nets[c->lane].inline_data && total <= WIRE_EAGER_MAX) {
        uint64_t at = 0;

        data = malloc(total);
        MUST(data);
        for (uint32_t i = 0; i < n; i++, at += call->len[i - 1])
            memcpy(data + at, call->buf[i], call->len[i]);
    }
    sim_build_send(&b, c, data, data ? total : 0);
    free(data);
}

static void do_get(struct sim_client *c, struct sim_call *call)
{
    struct sim *s = c->s;
    uint32_t n = 1 + (uint32_t)sim_random(s, 8), base = key_pick(c);
    struct sim_builder b;

    sim_build_begin(&b, c, call);
    if (sim_random(s, 10) == 0)
        b.head.soft_us = (uint32_t)sim_random(s, 2000);
    call->parts = sim_random(s, 3) == 0;
    b.head.flags = call->parts ? BATCH_PARTS : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct wire_key rec = {.len = KIB(512)};

        if (sim_random(s, 8) == 0)
            rec.off = sim_random(s, KIB(8));
        if (sim_random(s, 8) == 0)
            rec.len = 1 + sim_random(s, KIB(16));
        call->off[i] = rec.off;
        call->len[i] = rec.len;
        call->buf[i] = malloc(rec.len);
        MUST(call->buf[i]);
        sim_build_key(&b, rec, i % 2 ? key_pick(c) : (base + i) % MODEL_KEYS,
                      false, NULL);
    }
    sim_build_send(&b, c, NULL, 0);
}

static void do_lookup(struct sim_client *c, struct sim_call *call)
{
    struct sim *s = c->s;
    uint32_t base = key_pick(c);
    struct wire_column cols[2] = {
        {.rule = RULE_ALL}, {.rule = (uint8_t)sim_random(s, 3), .trailing = 2}};
    struct sim_builder b;

    sim_build_begin(&b, c, call);
    call->cols = 1 + (uint32_t)sim_random(s, 2);
    b.head.cols = (uint16_t)call->cols;
    b.head.pin_ttl_ms = sim_random(s, 4) ? 0 : 50;
    b.head.flags = sim_random(s, 4) ? 0 : BATCH_PROMOTE;
    for (uint32_t i = 0; i < call->cols; i++)
        (void)slice_put(&b.records, &cols[i], sizeof cols[i]);
    for (uint32_t i = 0; i < 5 * call->cols; i++)
        sim_build_key(&b, (struct wire_key){0}, (base + i) % MODEL_KEYS, false,
                      NULL);
    sim_build_send(&b, c, NULL, 0);
}

/* A pattern that a few keys have in common. */
static void build_pattern(struct sim_builder *b, uint32_t key,
                          const struct wire_attr *attr)
{
    char text[32];
    struct wire_key rec = {
        .key_len = (uint16_t)snprintf(text, sizeof text, "key-%u*", key / 10)};

    (void)slice_put(&b->keys, text, rec.key_len);
    rec.flags = KEY_HAS_ATTR;
    (void)slice_put(&b->records, &rec, sizeof rec);
    (void)slice_put(&b->records, attr, sizeof *attr);
    b->call->key[b->call->n++] = key;
    b->head.key_n++;
}

static void do_evict(struct sim_client *c, struct sim_call *call)
{
    struct sim *s = c->s;
    struct wire_attr attr = {.label0 = 1 + sim_random(s, 3)};
    struct sim_builder b;

    sim_build_begin(&b, c, call);
    /* What drops much leaves nothing that must be found. */
    b.head.select = SELECT_KEYS;
    if (sim_random(s, s->media ? 16 : 4) == 0)
        b.head.select = (uint8_t)sim_random(s, 6);
    if (sim_random(s, 4) == 0)
        b.head.flags = BATCH_DEMOTE;
    if (b.head.select == SELECT_PATTERN)
        build_pattern(&b, key_pick(c), &attr);
    else
        sim_build_key(&b, (struct wire_key){0},
                      s->cfg.ssds ? sim_key_own(c) : key_pick(c), false, &attr);
    call->drops = b.head.select == SELECT_KEYS && !b.head.flags;
    call->drops_any = b.head.select != SELECT_KEYS && !b.head.flags;
    if (call->drops)
        model_drop_begin(s->model, call->key[0], call->number);
    if (call->drops_any)
        model_drop_any_begin(s->model);
    sim_build_send(&b, c, NULL, 0);
}

static void do_prefetch(struct sim_client *c, struct sim_call *call)
{
    struct sim *s = c->s;
    uint32_t base = key_pick(c);
    struct sim_builder b;

    sim_build_begin(&b, c, call);
    b.head.soft_us = sim_random(s, 2) ? 0 : (uint32_t)sim_random(s, 5000);
    b.head.count = (uint32_t)sim_random(s, 3);
    for (uint32_t i = 0; i < 8; i++)
        sim_build_key(&b, (struct wire_key){0}, (base + i) % MODEL_KEYS, false,
                      NULL);
    sim_build_send(&b, c, NULL, 0);
}

static void do_keys(struct sim_client *c, struct sim_call *call)
{
    struct sim_builder b;

    sim_build_begin(&b, c, call);
    b.head.pin_ttl_ms = 20;
    for (uint32_t i = 0; i < 3; i++)
        sim_build_key(&b, (struct wire_key){0}, key_pick(c), false, NULL);
    sim_build_send(&b, c, NULL, 0);
}

static void do_namespace(struct sim_client *c)
{
    static const char *const policies[] = {"lru", "s3fifo", "arc", "lhd"};
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    Pikv__Settings set = PIKV__SETTINGS__INIT;
    char name[] = "sim", policy[16];
    struct sim_call *call;

    m.name = name;
    if (sim_random(c->s, c->s->media ? 24 : 8) == 0) {
        m.bump = true;
    } else {
        snprintf(policy, sizeof policy, "%s",
                 policies[sim_random(c->s, countof(policies))]);
        set.policy = policy;
        m.change = &set;
    }
    call = call_send_msg(c, OP_NAMESPACE, &m);
    if (call && m.bump) {
        call->drops_any = true;
        model_drop_any_begin(c->s->model);
    }
}

static void do_explain(struct sim_client *c)
{
    Pikv__ExplainRequest m = PIKV__EXPLAIN_REQUEST__INIT;
    char text[32];

    m.ns = c->s->ns_id;
    m.key.len = key_text(key_pick(c), text);
    m.key.data = (uint8_t *)text;
    (void)call_send_msg(c, OP_EXPLAIN, &m);
}

static void do_feedback(struct sim_client *c)
{
    static const char *const states[] = {"open", "idle", "closed"};
    Pikv__Feedback m = PIKV__FEEDBACK__INIT;
    char state[16];

    snprintf(state, sizeof state, "%s",
             states[sim_random(c->s, countof(states))]);
    m.ns = c->s->ns_id;
    m.session = 1 + sim_random(c->s, 3);
    m.session_state = state;
    (void)call_send_msg(c, OP_FEEDBACK, &m);
}

static void do_subscribe(struct sim_client *c)
{
    Pikv__Subscribe m;
    uint64_t from = sim_events_ask(c->s, c->lane, &m);
    struct sim_call *call = call_send_msg(c, OP_SUBSCRIBE, &m);

    if (call)
        call->off[0] = from;
}

static void do_look(struct sim_client *c)
{
    Pikv__InspectRequest in = PIKV__INSPECT_REQUEST__INIT;
    Pikv__StatRequest st = PIKV__STAT_REQUEST__INIT;

    in.ns = c->s->ns_id;
    in.what = (Pikv__InspectRequest__What)(1 + sim_random(c->s, 2));
    in.limit = 10;
    if (sim_random(c->s, 2))
        (void)call_send_msg(c, OP_INSPECT, &in);
    else
        (void)call_send_msg(c, OP_STAT, &st);
}

static void client_open(struct sim_client *c)
{
    Pikv__Open m = PIKV__OPEN__INIT;
    Pikv__Fingerprint f = PIKV__FINGERPRINT__INIT;
    Pikv__Settings set = PIKV__SETTINGS__INIT;
    char name[] = "sim", model[] = "m", policy[16];

    c->state = SIM_OPEN;
    snprintf(policy, sizeof policy, "%s", c->s->cfg.policy);
    f.model = model;
    set.policy = policy;
    m.name = name;
    m.fingerprint = &f;
    m.settings = &set;
    m.create = true;
    (void)call_send_msg(c, OP_OPEN, &m);
}

static void client_hello(struct sim_client *c)
{
    Pikv__Hello m = PIKV__HELLO__INIT;
    char engine[] = "sim";

    c->lane = c->idx % c->s->lane_n;
    c->peer = sim_connect(&c->s->nets[c->lane], c);
    if (!c->peer) {
        sim_at(c->s, c->s->now_ns + 10 * NS_PER_MS, client_work, c);
        return;
    }
    c->state = SIM_HELLO;
    m.features = FEATURE_PARTS;
    m.version = WIRE_VERSION;
    m.engine = engine;
    m.client = c->idx + 1;
    (void)call_send_msg(c, OP_HELLO, &m);
}

static void client_look(struct sim_client *c)
{
    switch (sim_random(c->s, 8)) {
    case 0:
        do_namespace(c);
        return;
    case 1:
    case 2:
        do_explain(c);
        return;
    case 3:
        do_feedback(c);
        return;
    case 4:
    case 5:
        do_subscribe(c);
        return;
    default:
        do_look(c);
        return;
    }
}

static void client_call(struct sim_client *c)
{
    static const struct {
        uint32_t weight, op;
        void (*fn)(struct sim_client *c, struct sim_call *call);
    } mix[] = {
        {32, OP_PUT, do_put},       {35, OP_GET, do_get},
        {14, OP_LOOKUP, do_lookup}, {4, OP_EVICT, do_evict},
        {3, OP_PIN, do_keys},       {2, OP_UNPIN, do_keys},
        {3, OP_TOUCH, do_keys},     {3, OP_PREFETCH, do_prefetch},
    };
    uint64_t pick = sim_random(c->s, 100);
    struct sim_call *call;

    if (pick >= 96) {
        client_look(c);
        return;
    }
    if (sim_random(c->s, 5) == 0) {
        sim_open_step(c);
        return;
    }
    for (uint32_t i = 0; i < countof(mix); i++) {
        if (pick < mix[i].weight) {
            call = sim_call_begin(c, mix[i].op);
            if (call)
                mix[i].fn(c, call);
            return;
        }
        pick -= mix[i].weight;
    }
}

static void client_work(struct sim *s, void *arg)
{
    struct sim_client *c = arg;

    if (s->stopping)
        return;
    if (s->down) { /* nobody listens; later perhaps */
        sim_at(s, s->now_ns + NS_PER_MS, client_work, c);
        return;
    }
    if (c->state == SIM_AWAY) {
        if (!c->peer)
            client_hello(c);
        return;
    }
    if (c->state != SIM_BUSY)
        return;
    if (sim_fault(s) && sim_random(s, 20) == 0) {
        sim_hangup(c->peer); /* killed, in whatever phase its calls are */
        return;
    }
    client_call(c);
    sim_at(s, s->now_ns + 1000 + sim_random(s, 200000), client_work, c);
}

/* ---- replies
 * ------------------------------------------------------------------*/

static void put_answered(struct sim *s, struct sim_call *call,
                         const struct wire_result *r, uint32_t i)
{
    if (r->status == OK) {
        s->puts_ok++;
        model_put_committed(s->model, call->key[i], call->put[i], r->version);
        if (call->durable[i])
            model_put_durable(s->model, call->key[i], call->put[i]);
    } else if (r->status != ERR_NOT_DURABLE) { /* that one is in memory */
        model_put_refused(s->model, call->key[i], call->put[i]);
    }
}

static void check_result(struct sim *s, const struct sim_call *call,
                         const struct wire_result *r, uint32_t i, bool bytes)
{
    struct model_seen seen = {
        .key = call->key[i],
        .crc = r->crc,
        .no_crc = !bytes && r->tier == 1, /* only its record knows */
        .generation = call->generation,
        .version = r->version,
        .len = r->len,
        .begun_ns = call->begun_ns,
    };

    model_check(s->model, &seen, call->off[i], bytes ? call->buf[i] : NULL,
                bytes ? r->moved : 0);
}

static void get_answered(struct sim *s, struct sim_call *call,
                         const struct wire_result *r, uint32_t i)
{
    uint64_t want = min_u64(call->len[i], r->len - call->off[i]);

    if (r->status)
        return;
    MUST(r->moved == want);
    s->gets_ok++;
    s->gets_ssd += r->tier == 1;
    check_result(s, call, r, i, true);
}

static void lookup_answered(struct sim *s, struct sim_call *call,
                            const struct wire_batch *head,
                            const struct wire_result *r)
{
    uint32_t prefix = 0;

    for (uint32_t i = 0; i < call->n; i++)
        if (r[i].state == STATE_HIT)
            check_result(s, call, &r[i], i, false);
    if (call->cols != 1)
        return;
    while (prefix < call->n && r[prefix].state == STATE_HIT)
        prefix++;
    MUST(head->prefix == prefix);
}

/* Tells the model that an EVICT or a bump is over. */
static void drop_answered(struct sim *s, struct sim_call *call, bool dropped)
{
    if (call->drops)
        model_drop_done(s->model, call->key[0], call->number, dropped,
                        s->now_ns);
    if (call->drops_any)
        model_drop_any_done(s->model);
}

/* Inline data of a GET lies in the reply, in key order. */
static void take_inline(struct sim_call *call, const struct message *m,
                        const struct wire_result *r)
{
    const uint8_t *from = m->data;

    for (uint32_t i = 0; from && i < call->n; i++) {
        if (r[i].status || r[i].moved == 0)
            continue;
        MUST(r[i].moved <= call->len[i]);
        memcpy(call->buf[i], from, r[i].moved);
        from += r[i].moved;
    }
}

static uint32_t part_crc(const struct sim_call *call, uint32_t i)
{
    const struct wire_result *r = &call->told_r[i];

    return r->moved ? crc32c(0, call->buf[i], r->moved) : 0;
}

/* Keys of a GET are told in order, once, before its reply; the same frame may
 * come twice. Their bytes are there. */
static void event_told(struct sim_call *call, const struct message *m)
{
    uint32_t first = m->frame.data_idx, n = m->frame.record_n;

    MUST(call && call->parts && m->frame.op == OP_GET && n > 0);
    if (first < call->told) {
        MUST(first + n == call->told);
        return;
    }
    MUST(first == call->told && n <= call->n - first);
    memcpy(&call->told_r[first], m->records, n * sizeof *call->told_r);
    for (; call->told < first + n; call->told++)
        call->told_crc[call->told] = part_crc(call, call->told);
}

/* The reply says the same, and nobody wrote there since. */
static void told_stays(const struct sim_call *call, const struct wire_result *r)
{
    for (uint32_t i = 0; i < call->told; i++) {
        MUST(memcmp(&r[i], &call->told_r[i], sizeof r[i]) == 0);
        MUST(part_crc(call, i) == call->told_crc[i]);
    }
}

static void batch_answered(struct sim_client *c, struct sim_call *call,
                           const struct message *m)
{
    struct sim *s = c->s;
    struct wire_batch head;
    struct wire_result r[SIM_BATCH];

    MUST(m->frame.record_n == call->n + 1 && call->n <= SIM_BATCH);
    memcpy(&head, m->records, sizeof head);
    memcpy(r, m->records + WIRE_RECORD, call->n * sizeof *r);
    take_inline(call, m, r);
    told_stays(call, r);
    for (uint32_t i = 0; i < call->n; i++) {
        s->statuses[-r[i].status]++;
        if (call->op == OP_PUT)
            put_answered(s, call, &r[i], i);
        if (call->op == OP_GET)
            get_answered(s, call, &r[i], i);
        if (sim_is_open_op(call->op))
            sim_open_answered(c, call, &r[i], i);
    }
    if (call->op == OP_LOOKUP)
        lookup_answered(s, call, &head, r);
    if (call->op == OP_EVICT)
        drop_answered(s, call, r[0].status == OK);
}

static void open_answered(struct sim_client *c, const struct message *m)
{
    uint8_t buf[8192];
    struct arena a;
    const Pikv__OpenReply *rep;

    arena_init(&a, buf, sizeof buf);
    rep =
        msg_unpack(&pikv__open_reply__descriptor, &a, m->env, m->frame.env_len);
    MUST(rep);
    c->s->ns_id = rep->id;
    c->s->slot_seed = rep->slot_seed;
    c->generation = rep->generation;
    c->state = SIM_BUSY;
    sim_at(c->s, c->s->now_ns + 1000, client_work, c);
}

static bool is_batch(uint32_t op)
{
    return op == OP_PUT || op == OP_GET || op == OP_LOOKUP || op == OP_EVICT ||
           op == OP_PIN || op == OP_UNPIN || op == OP_TOUCH ||
           op == OP_PREFETCH || sim_is_open_op(op);
}

/* Nothing was stored, unless the flush met a PUT that was half done. */
static void put_failed(struct sim *s, struct sim_call *call, int32_t status)
{
    for (uint32_t i = 0; i < call->n; i++)
        if (call->put[i] && status != ERR_STALE_GENERATION)
            model_put_refused(s->model, call->key[i], call->put[i]);
}

void sim_client_reply(struct sim_client *c, const struct message *m)
{
    struct sim_call *call = call_find(c, m->frame.req);
    struct sim *s = c->s;
    uint32_t op;

    if (m->frame.kind == WIRE_EVENT) {
        event_told(call, m);
        s->parts_told++;
        return;
    }
    if (!call)
        return; /* doubled */
    op = call->op;
    s->statuses[-m->frame.status]++;
    s->calls_done++;
    if ((op == OP_HELLO || op == OP_OPEN) && m->frame.status) {
        MUST(m->frame.status == ERR_BUSY);
        sim_hangup(c->peer); /* comes back later */
        return;
    }
    if (op == OP_HELLO || op == OP_OPEN) {
        call_end(call);
        if (op == OP_HELLO)
            client_open(c);
        else
            open_answered(c, m);
        return;
    }
    if (m->frame.status == OK && op == OP_SUBSCRIBE)
        sim_events_answered(s, call->off[0], m);
    if (m->frame.status == OK && is_batch(op)) {
        batch_answered(c, call, m);
    } else {
        drop_answered(s, call, false);
        if (m->frame.status)
            put_failed(s, call, m->frame.status);
    }
    call_end(call);
    if (m->frame.status == ERR_STALE_GENERATION && c->state == SIM_BUSY)
        client_open(c);
}

struct sim_client *sim_client_new(struct sim *s, uint32_t idx)
{
    struct sim_client *c = calloc(1, sizeof *c);

    MUST(c);
    c->s = s;
    c->idx = idx;
    return c;
}

void sim_client_free(struct sim_client *c)
{
    for (uint32_t i = 0; i < SIM_CALLS; i++)
        call_end(&c->calls[i]);
    free(c);
}

void sim_client_start(struct sim_client *c)
{
    sim_at(c->s, c->s->now_ns + sim_random(c->s, NS_PER_MS), client_work, c);
}

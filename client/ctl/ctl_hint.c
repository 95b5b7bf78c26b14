/* SPDX-License-Identifier: Apache-2.0
 *
 * explain, prefetch, session: what an engine asks and tells, by hand. */
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

/* ---- explain ---- */

int verb_explain(struct ctl *c)
{
    struct pikv_explanation x;
    struct pikv_key k;
    json_t *o;
    int code, s = key_of_args(c, c->args[0], &k);

    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    code = pikv_explain(c->kv, c->ns, &k, &c->call, &x);
    if (code)
        return ctl_fail_code(code, "explain %s", c->args[0]);
    o = json_object();
    json_object_set_new(o, "key", key_json(k.key.p, k.key.len));
    json_object_set_new(o, "reason", out_text(x.reason));
    json_object_set_new(o, "tier", x.tier[0] ? out_text(x.tier) : json_null());
    json_object_set_new(o, "when_ms",
                        x.when_ms ? out_u64(x.when_ms) : json_null());
    json_object_set_new(o, "eta_us",
                        x.tier[0] ? out_u64(x.eta_us) : json_null());
    json_object_set_new(o, "advice", out_text(x.advice));
    return out_object(c, o);
}

/* ---- prefetch ---- */

static json_t *prefetch_row(const struct pikv_key *k,
                            const struct pikv_result *r)
{
    json_t *o = json_object();
    bool there = r->status == PIKV_OK;

    json_object_set_new(o, "key", key_json(k->key.p, k->key.len));
    json_object_set_new(o, "status", json_string(pikv_error_name(r->status)));
    json_object_set_new(o, "tier",
                        there ? json_string(ctl_tier(r->tier)) : json_null());
    json_object_set_new(o, "eta_us", there ? out_u64(r->eta_us) : json_null());
    return o;
}

static int prefetch_print(const struct ctl *c, json_t *rows, uint32_t begun)
{
    static const struct column columns[] = {
        {"key", false}, {"status", false}, {"tier", false}, {"eta_us", true}};
    json_t *o;

    if (!c->json)
        return out_rows(c, columns, countof(columns), rows);
    o = json_object();
    json_object_set_new(o, "begun", out_u64(begun));
    json_object_set_new(o, "keys", rows);
    return out_object(c, o);
}

static int prefetch_keys(struct ctl *c, uint32_t cap, struct pikv_key *keys,
                         struct pikv_result *results)
{
    struct pikv_completion done;
    json_t *rows;
    uint64_t id;
    int code, s = CTL_OK;
    bool all = true;

    for (uint32_t i = 0; i < c->arg_n && !s; i++)
        s = key_of_args(c, c->args[i], &keys[i]);
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    code = pikv_prefetch(c->kv, c->ns, keys, c->arg_n, cap, &c->call, results,
                         &id);
    if (!code)
        code = pikv_wait(c->kv, id, &done);
    if (code)
        return ctl_fail_code(code, "prefetch %s", c->args[0]);
    rows = json_array();
    for (uint32_t i = 0; i < c->arg_n; i++) {
        all &= results[i].status == PIKV_OK;
        json_array_append_new(rows, prefetch_row(&keys[i], &results[i]));
    }
    s = prefetch_print(c, rows, done.count);
    return s ? s : all ? CTL_OK : CTL_MISS;
}

int verb_prefetch(struct ctl *c)
{
    struct pikv_key *keys = calloc(c->arg_n, sizeof(*keys));
    struct pikv_result *results = calloc(c->arg_n, sizeof(*results));
    uint64_t cap;
    int s = opt_number(c, OPT_CAP, 0, UINT32_MAX, &cap);

    if (!s)
        s = keys && results ? prefetch_keys(c, (uint32_t)cap, keys, results)
                            : ctl_fail_code(PIKV_NO_MEMORY, "prefetch");
    free(keys);
    free(results);
    return s;
}

/* ---- session ---- */

/* By the operation itself: libpikv's call would not tell what a lane said. */
int verb_session(struct ctl *c)
{
    Pikv__Feedback m;
    uint64_t generation;
    int code, s;

    pikv__feedback__init(&m);
    m.session_state = c->args[1];
    s = parse_number("session", c->args[0], UINT64_MAX, &m.session);
    if (!s && m.session == 0)
        s = ctl_fail(CTL_USAGE, "session 0: 0 means no label; use another "
                                "number");
    if (!s && strcmp(c->args[1], "open") != 0 &&
        strcmp(c->args[1], "idle") != 0 && strcmp(c->args[1], "closed") != 0)
        s = ctl_fail(CTL_USAGE, "session %s: open, idle or closed is possible",
                     c->args[1]);
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    code = pikv_namespace_id(c->kv, c->ns, &m.ns, &generation);
    for (uint32_t lane = 0; lane < c->info.lanes && !code; lane++)
        link_free(link_ask(c, "feedback", lane, &m.base,
                           &pikv__empty__descriptor, &code));
    return code ? ctl_fail_code(code, "session %s", c->args[0]) : CTL_OK;
}

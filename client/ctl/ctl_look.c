/* SPDX-License-Identifier: Apache-2.0
 *
 * Verbs that look and change nothing, and reload. What only one lane knows is
 * asked of all lanes and put together here. */
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"

/* ---- stat ---- */

int look_stat(struct ctl *c, const char *prefix, json_t **out)
{
    Pikv__StatRequest m;
    char text[128];
    Pikv__StatReply *r;
    int s;

    pikv__stat_request__init(&m);
    snprintf(text, sizeof(text), "%s", prefix);
    m.prefix = text;
    r = link_get(c, "stat", 0, &m.base, &pikv__stat_reply__descriptor, &s);
    if (!r)
        return s;
    *out = json_object();
    for (size_t i = 0; i < r->n_items; i++)
        json_object_set_new(*out, r->items[i]->name,
                            out_u64(r->items[i]->value));
    link_free(r);
    return CTL_OK;
}

int verb_stat(struct ctl *c)
{
    json_t *o;
    int s = look_stat(c, c->arg_n ? c->args[0] : "", &o);
    bool none = !s && json_object_size(o) == 0;

    s = s ? s : out_object(c, o);
    return s ? s : none ? CTL_MISS : CTL_OK;
}

/* ---- inspect, keys ---- */

static json_t *labels_json(const Pikv__BlockInfo *b)
{
    json_t *list = json_array();

    for (size_t i = 0; i < b->n_labels; i++)
        json_array_append_new(list, out_hex64(b->labels[i]));
    return list;
}

const char *ctl_class(uint32_t cls)
{
    static const char *const names[] = {"kv", "expert", "blob"};

    return cls < countof(names) ? names[cls] : "unknown";
}

static json_t *block_json(const Pikv__BlockInfo *b)
{
    json_t *o = json_object();

    json_object_set_new(o, "key", key_json(b->key.data, b->key.len));
    json_object_set_new(o, "route",
                        b->route.len ? key_json(b->route.data, b->route.len)
                                     : json_null());
    json_object_set_new(o, "group", out_u64(b->group));
    json_object_set_new(o, "scope",
                        b->scope.len ? hex_json(b->scope.data, b->scope.len)
                                     : json_null());
    json_object_set_new(o, "class", json_string(ctl_class(b->cls)));
    json_object_set_new(o, "state", out_text(b->state));
    json_object_set_new(o, "tier", out_text(b->tier));
    json_object_set_new(o, "len", out_u64(b->len));
    json_object_set_new(o, "version", out_u64(b->version));
    json_object_set_new(o, "hash",
                        b->hash.len ? hex_json(b->hash.data, b->hash.len)
                                    : json_null());
    json_object_set_new(o, "crc32c", json_sprintf("%08x", b->crc));
    json_object_set_new(o, "parent",
                        b->parent.len ? key_json(b->parent.data, b->parent.len)
                                      : json_null());
    json_object_set_new(o, "children", out_u64(b->children));
    json_object_set_new(o, "pins", out_u64(b->pins));
    json_object_set_new(o, "hits", out_u64(b->hits));
    json_object_set_new(o, "age_ms", out_u64(b->age_ms));
    json_object_set_new(o, "idle_ms", out_u64(b->idle_ms));
    json_object_set_new(o, "ttl_left_ms", out_u64(b->ttl_left_ms));
    json_object_set_new(o, "page", out_u64(b->page));
    json_object_set_new(o, "token_end", out_u64(b->token_end));
    json_object_set_new(o, "token_n", out_u64(b->token_n));
    json_object_set_new(o, "affinity", out_hex64(b->affinity));
    json_object_set_new(o, "priority", out_u64(b->priority));
    json_object_set_new(o, "labels", labels_json(b));
    json_object_set_new(o, "slot", out_u64(b->slot));
    json_object_set_new(o, "lane", out_u64(b->lane));
    json_object_set_new(o, "extents", out_u64(b->extents));
    return o;
}

/* The route is not known, so neither is the lane: each is asked. */
static int inspect_lanes(struct ctl *c, const Pikv__InspectRequest *m)
{
    int code = PIKV_MISS;

    for (uint32_t lane = 0; lane < c->info.lanes && code == PIKV_MISS; lane++) {
        Pikv__InspectReply *r =
            link_ask(c, "inspect", lane, &m->base,
                     &pikv__inspect_reply__descriptor, &code);
        json_t *o = r && !code && r->n_blocks ? block_json(r->blocks[0]) : NULL;

        link_free(r);
        if (o)
            return out_object(c, o);
        code = code ? code : PIKV_MISS;
    }
    return ctl_fail_code(code, "inspect %s", c->args[0]);
}

int verb_inspect(struct ctl *c)
{
    Pikv__InspectRequest m;
    struct pikv_key k;
    int code, s = key_of_args(c, c->args[0], &k);

    pikv__inspect_request__init(&m);
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    code = pikv_namespace_id(c->kv, c->ns, &m.ns, &m.generation);
    if (code)
        return ctl_fail_code(code, "inspect %s", c->args[0]);
    m.what = PIKV__INSPECT_REQUEST__WHAT__KEY;
    /* protobuf-c has no const; packing only reads. */
    m.key = (ProtobufCBinaryData){k.key.len, (uint8_t *)(uintptr_t)k.key.p};
    m.group = k.group;
    if (k.scope)
        m.scope = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)k.scope};
    return inspect_lanes(c, &m);
}

struct keys_page {
    json_t *rows;
    uint64_t limit;
    bool more;
};

static bool keys_visit(const Pikv__BlockInfo *b, void *arg)
{
    struct keys_page *page = arg;

    page->more = json_array_size(page->rows) == page->limit;
    if (!page->more)
        json_array_append_new(page->rows, block_json(b));
    return !page->more;
}

int verb_keys(struct ctl *c)
{
    static const struct column columns[] = {
        {"key", false},  {"group", true},  {"len", true},  {"version", true},
        {"tier", false}, {"pins", true},   {"hits", true}, {"idle_ms", true},
        {"lane", true},  {"parent", false}};
    struct keys_page page = {0};
    int s = opt_number(c, OPT_LIMIT, 1000, UINT32_MAX, &page.limit);

    page.limit = page.limit ? page.limit : UINT64_MAX;
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    page.rows = json_array();
    s = link_blocks(c, keys_visit, &page);
    if (s) {
        json_decref(page.rows);
        return s;
    }
    s = out_rows(c, columns, countof(columns), page.rows);
    if (page.more && !c->json)
        fprintf(stderr, "pikvctl: keys: there are more; --limit 0 lists all\n");
    return s;
}

/* ---- clients ---- */

static json_t *client_json(const Pikv__ClientInfo *i)
{
    json_t *o = json_object();

    json_object_set_new(o, "client", out_hex64(i->client));
    json_object_set_new(o, "engine", out_text(i->engine));
    json_object_set_new(o, "transport", out_text(i->transport));
    json_object_set_new(o, "pid", out_u64(i->pid));
    json_object_set_new(o, "uid", out_u64(i->uid));
    json_object_set_new(o, "connected_ms", out_u64(i->connected_ms));
    return o;
}

static void client_add(json_t *o, const char *name, uint64_t n)
{
    uint64_t have = (uint64_t)json_integer_value(json_object_get(o, name));

    json_object_set_new(o, name, out_u64(have + n));
}

/* The connections of one handle carry its id: they are one row. */
static void client_count(json_t *rows, const Pikv__ClientInfo *i)
{
    json_t *id = out_hex64(i->client), *row, *o = NULL;
    size_t r;

    json_array_foreach(rows, r, row)
    {
        if (i->client && json_equal(json_object_get(row, "client"), id))
            o = row;
    }
    if (!o) {
        o = client_json(i);
        json_array_append_new(rows, o);
    }
    json_decref(id);
    client_add(o, "connections", 1);
    client_add(o, "ops", i->ops);
    client_add(o, "inflight", i->inflight);
    client_add(o, "bytes_in", i->bytes_in);
    client_add(o, "bytes_out", i->bytes_out);
    client_add(o, "pinned_bytes", i->pinned_bytes);
    client_add(o, "loan_bytes", i->loan_bytes);
    client_add(o, "memories", i->memories);
}

int look_clients(struct ctl *c, json_t **rows_out)
{
    Pikv__InspectRequest m;
    json_t *rows = json_array();
    int s = link_open(c);

    pikv__inspect_request__init(&m);
    m.what = PIKV__INSPECT_REQUEST__WHAT__CLIENTS;
    for (uint32_t lane = 0; !s && lane < c->info.lanes; lane++) {
        Pikv__InspectReply *r = link_get(c, "inspect", lane, &m.base,
                                         &pikv__inspect_reply__descriptor, &s);

        for (size_t i = 0; r && i < r->n_clients; i++)
            client_count(rows, r->clients[i]);
        link_free(r);
    }
    if (s)
        json_decref(rows);
    else
        *rows_out = rows;
    return s;
}

int verb_clients(struct ctl *c)
{
    static const struct column columns[] = {
        {"client", false},   {"engine", false},      {"transport", false},
        {"pid", true},       {"uid", true},          {"connections", true},
        {"ops", true},       {"inflight", true},     {"bytes_in", true},
        {"bytes_out", true}, {"pinned_bytes", true}, {"loan_bytes", true},
        {"memories", true},  {"connected_ms", true}};
    json_t *rows;
    int s = look_clients(c, &rows);

    return s ? s : out_rows(c, columns, countof(columns), rows);
}

/* ---- ping, reload ---- */

int verb_ping(struct ctl *c)
{
    json_t *o;
    double start, worst = 0;
    int code, s = link_open(c);

    if (s)
        return s;
    for (uint32_t lane = 0; lane < c->info.lanes; lane++) {
        start = link_now_s();
        link_free(
            link_ask(c, "ping", lane, NULL, &pikv__empty__descriptor, &code));
        if (code)
            return ctl_fail_code(code, "ping: lane %u", lane);
        if (link_now_s() - start > worst)
            worst = link_now_s() - start;
    }
    o = json_object();
    json_object_set_new(o, "server", out_text(c->info.server));
    json_object_set_new(o, "transport", out_text(c->info.transport));
    json_object_set_new(o, "lanes", out_u64(c->info.lanes));
    json_object_set_new(o, "boot", out_hex64(c->info.boot));
    json_object_set_new(o, "slowest_us", out_u64((uint64_t)(worst * 1e6)));
    json_object_set_new(o, "block_bytes_max", out_u64(c->info.block_bytes_max));
    json_object_set_new(o, "batch_keys_max", out_u64(c->info.batch_keys_max));
    return out_object(c, o);
}

static json_t *words_json(char *const *words, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, out_text(words[i]));
    return list;
}

int verb_reload(struct ctl *c)
{
    Pikv__ReloadReply *r;
    json_t *o;
    int code, s = link_open(c);

    if (s)
        return s;
    r = link_ask(c, "reload", 0, NULL, &pikv__reload_reply__descriptor, &code);
    if (code) {
        s = r && r->error[0]
                ? ctl_fail(ctl_status(code), "reload: %s; nothing was changed",
                           r->error)
                : ctl_fail_code(code, "reload");
        link_free(r);
        return s;
    }
    o = json_object();
    json_object_set_new(o, "changed", words_json(r->changed, r->n_changed));
    json_object_set_new(o, "needs_restart",
                        words_json(r->needs_restart, r->n_needs_restart));
    link_free(r);
    return out_object(c, o);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * events: what happens to the blocks of a namespace, one line each, as it
 * happens. With -o json a document per line, so that a reader need not wait for
 * an end that does not come. */
#include <stdio.h>
#include <time.h>

#include "client/ctl/ctl.h"

enum { LOOK_MS = 1000, EVENTS_MAX = 256, LANES_MAX = 64 };

static const char *event_kind(enum pikv_event_kind kind)
{
    switch (kind) {
    case PIKV_EVENT_STORED:
        return "STORED";
    case PIKV_EVENT_REMOVED:
        return "REMOVED";
    case PIKV_EVENT_MOVED:
        return "MOVED";
    case PIKV_EVENT_CLEARED:
        return "CLEARED";
    case PIKV_EVENT_LOST:
        return "LOST";
    }
    return "unknown";
}

static json_t *event_bytes(struct pikv_bytes b)
{
    return b.len ? key_json(b.p, b.len) : json_null();
}

static json_t *event_labels(const struct pikv_event *e)
{
    json_t *list = json_array();

    for (size_t i = 0; i < countof(e->labels); i++)
        if (e->labels[i])
            json_array_append_new(list, out_hex64(e->labels[i]));
    return list;
}

static json_t *event_scope(const struct pikv_event *e)
{
    for (size_t i = 0; i < sizeof(e->scope); i++)
        if (e->scope[i])
            return hex_json(e->scope, sizeof(e->scope));
    return json_null();
}

static void event_block(json_t *o, const struct pikv_event *e)
{
    json_object_set_new(o, "key", event_bytes(e->key));
    json_object_set_new(o, "hash", hex_json(e->hash, sizeof(e->hash)));
    json_object_set_new(o, "tier", json_string(ctl_tier(e->tier)));
    json_object_set_new(o, "len", out_u64(e->len));
    json_object_set_new(o, "parent", event_bytes(e->parent));
    json_object_set_new(o, "group", out_u64(e->group));
    json_object_set_new(o, "class", json_string(ctl_class(e->cls)));
    json_object_set_new(o, "scope", event_scope(e));
    json_object_set_new(o, "page", out_u64(e->page));
    json_object_set_new(o, "token_end", out_u64(e->token_end));
    json_object_set_new(o, "token_n", out_u64(e->token_n));
    json_object_set_new(o, "labels", event_labels(e));
}

static json_t *event_json(const struct pikv_event *e)
{
    json_t *o = json_object();

    json_object_set_new(o, "kind", json_string(event_kind(e->kind)));
    json_object_set_new(o, "lane", out_u64(e->lane));
    json_object_set_new(o, "seq", out_u64(e->seq));
    json_object_set_new(o, "boot", out_hex64(e->boot));
    if (e->kind == PIKV_EVENT_LOST) {
        json_object_set_new(o, "count", out_u64(e->count));
        return o;
    }
    json_object_set_new(o, "when_ms", out_u64(e->when_ms));
    json_object_set_new(o, "version", out_u64(e->version));
    if (e->kind != PIKV_EVENT_CLEARED)
        event_block(o, e);
    return o;
}

/* "12:30:59.123 STORED  lane 0 seq 5  dram  65536  key" */
static void event_line(const struct pikv_event *e)
{
    time_t s = (time_t)(e->when_ms / 1000);
    char clock[16] = "--:--:--", key[2200];
    struct tm tm;
    json_t *name;

    if (e->when_ms && localtime_r(&s, &tm))
        strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
    printf("%s.%03u %-7s %2u %8llu", clock, (unsigned)(e->when_ms % 1000),
           event_kind(e->kind), e->lane, (unsigned long long)e->seq);
    if (e->kind == PIKV_EVENT_LOST) {
        if (e->count)
            printf("  %llu events were overwritten; list the keys again\n",
                   (unsigned long long)e->count);
        else
            printf("  the daemon was started anew; list the keys again\n");
        return;
    }
    if (e->kind == PIKV_EVENT_CLEARED) {
        printf("  generation %llu\n", (unsigned long long)e->version);
        return;
    }
    name = e->key.len ? key_json(e->key.p, e->key.len)
                      : hex_json(e->hash, sizeof(e->hash));
    printf("  %-4s %10llu  %s%s\n", ctl_tier(e->tier),
           (unsigned long long)e->len, e->key.len ? "" : "hash ",
           out_cell(name, key, sizeof(key)));
    json_decref(name);
}

static void event_print(const struct ctl *c, const struct pikv_event *e)
{
    json_t *o;

    if (!c->json) {
        event_line(e);
        return;
    }
    o = event_json(e);
    json_dumpf(o, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(o);
}

static int events_follow(struct ctl *c, struct pikv_events *ev, uint64_t left)
{
    struct pikv_event *out = ctl_keep(EVENTS_MAX * sizeof(*out));

    if (!out)
        return ctl_fail_code(PIKV_NO_MEMORY, "events");
    while (left) {
        int max = (int)min_u64(left, EVENTS_MAX);
        int n = pikv_events_next(ev, out, max, LOOK_MS);

        if (n < 0)
            return ctl_fail_code(n, "events %s", link_namespace_name(c));
        for (int i = 0; i < n; i++)
            event_print(c, &out[i]);
        left -= (uint64_t)n;
        if (n && fflush(stdout))
            return out_flush(CTL_OK); /* nobody reads any more */
    }
    return CTL_OK;
}

int verb_events(struct ctl *c)
{
    uint64_t from, count, all[LANES_MAX];
    struct pikv_events *ev;
    int code, s = opt_number(c, OPT_FROM, 0, UINT64_MAX, &from);

    s = s ? s : opt_number(c, OPT_COUNT, UINT64_MAX, UINT64_MAX, &count);
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    for (uint32_t i = 0; i < LANES_MAX; i++)
        all[i] = from;
    code = pikv_events_open(c->kv, c->ns, c->opt[OPT_FROM] ? all : NULL, &ev);
    if (code)
        return ctl_fail_code(code, "events %s", link_namespace_name(c));
    s = events_follow(c, ev, count);
    pikv_events_close(ev);
    return s;
}

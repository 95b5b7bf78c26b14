/* SPDX-License-Identifier: Apache-2.0
 *
 * ssd list, retire, replace. SSDs are named by the paths of the configuration;
 * the daemon knows all of them, whichever lane owns them, so one lane is asked.
 *
 *     retire    it is emptied; what is worth it moves to the other SSDs
 *     replace   a retired or failed one is formatted: everything on it is
 *               forgotten, so this wants to be sure */
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"

static json_t *ssd_json(const Pikv__SsdInfo *i)
{
    json_t *o = json_object();

    json_object_set_new(o, "path", out_text(i->path));
    json_object_set_new(o, "state", out_text(i->state));
    json_object_set_new(o, "why", out_text(i->why));
    json_object_set_new(o, "engine", out_text(i->engine));
    json_object_set_new(o, "uuid", hex_json(i->uuid.data, i->uuid.len));
    json_object_set_new(o, "lane", out_u64(i->lane));
    json_object_set_new(o, "bytes", out_u64(i->bytes));
    json_object_set_new(o, "segment_bytes", out_u64(i->segment_bytes));
    json_object_set_new(o, "segments", out_u64(i->segments));
    json_object_set_new(o, "free_segments", out_u64(i->free_segments));
    json_object_set_new(o, "written_bytes", out_u64(i->written_bytes));
    json_object_set_new(o, "payload_bytes", out_u64(i->payload_bytes));
    json_object_set_new(o, "write_rate", out_u64(i->write_rate));
    json_object_set_new(o, "binding", json_boolean(i->binding));
    json_object_set_new(o, "queued_bytes", out_u64(i->queued_bytes));
    json_object_set_new(o, "recovered_records", out_u64(i->recovered_records));
    json_object_set_new(o, "recovered_ms", out_u64(i->recovered_ms));
    json_object_set_new(o, "from_checkpoint", json_boolean(i->from_checkpoint));
    return o;
}

static int ssd_print(const struct ctl *c, const Pikv__SsdReply *r)
{
    static const struct column columns[] = {
        {"path", false},         {"state", false},   {"engine", false},
        {"lane", true},          {"bytes", true},    {"segments", true},
        {"free_segments", true}, {"binding", false}, {"written_bytes", true},
        {"queued_bytes", true},  {"why", false}};
    json_t *rows = json_array();

    for (size_t i = 0; i < r->n_ssds; i++)
        json_array_append_new(rows, ssd_json(r->ssds[i]));
    return out_rows(c, columns, countof(columns), rows);
}

static Pikv__SsdReply *ssd_ask(struct ctl *c, Pikv__SsdRequest__What what,
                               char *path, int *code_out)
{
    Pikv__SsdRequest m;

    pikv__ssd_request__init(&m);
    m.what = what;
    m.path = path;
    return link_ask(c, "ssd", 0, &m.base, &pikv__ssd_reply__descriptor,
                    code_out);
}

static char no_path[] = "";

/* The reply, or NULL and the failure said. */
static Pikv__SsdReply *ssd_all(struct ctl *c, int *status_out)
{
    Pikv__SsdReply *r = NULL;
    int code;

    *status_out = link_open(c);
    if (*status_out)
        return NULL;
    r = ssd_ask(c, PIKV__SSD_REQUEST__WHAT__LIST, no_path, &code);
    if (!code)
        return r;
    link_free(r);
    *status_out = ctl_fail_code(code, "ssd list");
    return NULL;
}

int verb_ssd_list(struct ctl *c)
{
    int s;
    Pikv__SsdReply *r = ssd_all(c, &s);

    if (!r)
        return s;
    s = ssd_print(c, r);
    link_free(r);
    return s;
}

static const Pikv__SsdInfo *ssd_find(const Pikv__SsdReply *r, const char *path)
{
    for (size_t i = 0; i < r->n_ssds; i++)
        if (strcmp(r->ssds[i]->path, path) == 0)
            return r->ssds[i];
    return NULL;
}

/* A dry run still wants the SSD to be there. */
static int ssd_dry_run(struct ctl *c, const char *what)
{
    int s;
    Pikv__SsdReply *r = ssd_all(c, &s);
    const Pikv__SsdInfo *i;

    if (!r)
        return s;
    i = ssd_find(r, c->args[0]);
    if (i)
        s = out_would(c,
                      "%s %s, which is %s and has %llu of %llu segments in "
                      "use",
                      what, i->path, i->state,
                      (unsigned long long)(i->segments - i->free_segments),
                      (unsigned long long)i->segments);
    else
        s = ctl_fail(CTL_MISS,
                     "ssd %s %s: no such SSD; pikvctl ssd list shows those "
                     "there are",
                     what, c->args[0]);
    link_free(r);
    return s;
}

/* The words of an error come from the daemon, where it has some. */
static int ssd_change(struct ctl *c, const char *what,
                      Pikv__SsdRequest__What code_of)
{
    Pikv__SsdReply *r;
    int code, s = link_open(c);

    if (s)
        return s;
    r = ssd_ask(c, code_of, c->args[0], &code);
    if (code && r && r->error[0])
        s = ctl_fail(ctl_status(code), "ssd %s %s: %s", what, c->args[0],
                     r->error);
    else if (code)
        s = ctl_fail_code(code, "ssd %s %s", what, c->args[0]);
    else
        s = ssd_print(c, r);
    link_free(r);
    return s;
}

int verb_ssd_retire(struct ctl *c)
{
    if (c->opt[OPT_DRY_RUN])
        return ssd_dry_run(c, "retire");
    return ssd_change(c, "retire", PIKV__SSD_REQUEST__WHAT__RETIRE);
}

int verb_ssd_replace(struct ctl *c)
{
    int s;

    if (c->opt[OPT_DRY_RUN])
        return ssd_dry_run(c, "replace");
    s = ctl_confirm(c, "format, and so forget all that is on,", "ssd replace");
    return s ? s : ssd_change(c, "replace", PIKV__SSD_REQUEST__WHAT__REPLACE);
}

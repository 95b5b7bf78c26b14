/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection of pikvctl, its namespace, and MSG operations as messages.
 *
 * A namespace is opened with the fingerprint it has: pikvctl looks at blocks of
 * any engine and must not need to know what its model is called. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl/ctl.h"

double link_now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int link_open(struct ctl *c)
{
    struct pikv_options o = {
        .address = c->opt[OPT_ADDRESS],
        .engine = "pikvctl",
        .connect_ms = (c->call.deadline_us + 999) / 1000,
    };
    const char *why;
    int code, s;

    if (c->kv)
        return CTL_OK;
    code = pikv_open(&o, &c->kv);
    if (!code)
        code = pikv_info(c->kv, &c->info);
    if (!code)
        return CTL_OK;
    s = code == PIKV_TIMEOUT ? CTL_NO_SERVER : ctl_status(code);
    why = pikv_last_error();
    return ctl_fail(code == PIKV_BAD_REQUEST ? CTL_USAGE : s, "%s%s",
                    why[0] ? why : pikv_error_text(code),
                    s == CTL_NO_SERVER ? "; is pikvd running? systemctl start "
                                         "pikvd, or give --address"
                                       : "");
}

void link_close(struct ctl *c)
{
    pikv_close(c->kv);
    c->kv = NULL;
}

/* ---- messages ---- */

void link_free(void *reply)
{
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
}

void *link_ask(struct ctl *c, const char *op, uint32_t lane,
               const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *reply, int *code_out)
{
    size_t n = request ? protobuf_c_message_get_packed_size(request) : 0;
    uint8_t *packed = malloc(n + 1);
    void *bytes = NULL, *m = NULL;

    *code_out = PIKV_NO_MEMORY;
    if (!packed)
        return NULL;
    if (request)
        protobuf_c_message_pack(request, packed);
    *code_out =
        pikv_admin(c->kv, op, (int)lane, packed, n, &bytes, &n, &c->call);
    if (bytes || *code_out == PIKV_OK)
        m = protobuf_c_message_unpack(reply, NULL, bytes ? n : 0, bytes);
    if (!m && *code_out == PIKV_OK)
        *code_out = PIKV_BAD_REQUEST;
    pikv_reply_free(bytes);
    free(packed);
    return m;
}

void *link_get(struct ctl *c, const char *op, uint32_t lane,
               const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *reply, int *status_out)
{
    void *m;
    int code;

    *status_out = link_open(c);
    if (*status_out)
        return NULL;
    m = link_ask(c, op, lane, request, reply, &code);
    if (code) {
        link_free(m);
        *status_out = ctl_fail_code(code, "%s", op);
        return NULL;
    }
    return m;
}

/* ---- namespaces ---- */

const char *link_namespace_name(const struct ctl *c)
{
    return c->opt[OPT_NAMESPACE] ? c->opt[OPT_NAMESPACE] : "default";
}

int link_find(struct ctl *c, const char *name, int *code_out,
              Pikv__NamespaceReply **out)
{
    Pikv__NamespaceRequest m;
    char *copy = strdup(name);
    int s = link_open(c);

    pikv__namespace_request__init(&m);
    *out = NULL;
    if (s || !copy) {
        free(copy);
        return s ? s : ctl_fail_code(PIKV_NO_MEMORY, "namespace %s", name);
    }
    m.name = copy;
    *out = link_ask(c, "namespace", 0, &m.base,
                    &pikv__namespace_reply__descriptor, code_out);
    free(copy);
    return CTL_OK;
}

int link_describe(struct ctl *c, const char *name, Pikv__NamespaceReply **out)
{
    int code, s = link_find(c, name, &code, out);

    if (s || !code)
        return s;
    link_free(*out);
    *out = NULL;
    return ctl_fail_code(code, "namespace %s", name);
}

int link_namespace(struct ctl *c, bool create)
{
    struct pikv_namespace d = {.name = link_namespace_name(c)};
    Pikv__NamespaceReply *m = NULL;
    int code, s = link_find(c, d.name, &code, &m);

    if (s)
        return s;
    if (!code && m->n_namespaces == 1 && m->namespaces[0]->fingerprint) {
        const Pikv__Fingerprint *f = m->namespaces[0]->fingerprint;

        d.model = f->model;
        d.weights_version = f->weights_version;
        d.tokenizer_hash = f->tokenizer_hash;
        d.hash_seed = f->hash_seed;
        d.dtype = f->dtype;
        d.scale_format = f->scale_format;
        d.parallel_layout = f->parallel_layout;
    }
    d.create = create && code == PIKV_NO_NAMESPACE;
    if (!code || d.create)
        code = pikv_namespace_open(c->kv, &d, &c->ns, &c->call);
    link_free(m);
    return code ? ctl_fail_code(code, "namespace %s", d.name) : CTL_OK;
}

/* ---- blocks ---- */

static int lane_blocks(struct ctl *c, uint32_t lane, Pikv__InspectRequest *m,
                       link_block_fn *fn, void *arg, bool *more)
{
    m->cursor = 0;
    do {
        Pikv__InspectReply *r;
        int s;

        r = link_get(c, "inspect", lane, &m->base,
                     &pikv__inspect_reply__descriptor, &s);
        if (!r)
            return s;
        for (size_t i = 0; i < r->n_blocks && *more; i++)
            *more = fn(r->blocks[i], arg);
        m->cursor = r->next_cursor;
        link_free(r);
    } while (m->cursor && *more);
    return CTL_OK;
}

int link_blocks(struct ctl *c, link_block_fn *fn, void *arg)
{
    Pikv__InspectRequest m;
    bool more = true;
    int code, s = CTL_OK;

    pikv__inspect_request__init(&m);
    code = pikv_namespace_id(c->kv, c->ns, &m.ns, &m.generation);
    if (code)
        return ctl_fail_code(code, "namespace %s", link_namespace_name(c));
    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    for (uint32_t lane = 0; lane < c->info.lanes && more && !s; lane++)
        s = lane_blocks(c, lane, &m, fn, arg, &more);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * put, get, lookup. A block's bytes are held in memory whole: they are at most
 * the daemon's limits.block. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"

enum { READ_STEP = 1 << 20, GET_TRIES = 4 };

static bool is_standard(const char *file)
{
    return !file || strcmp(file, "-") == 0;
}

static const char *file_of_args(const struct ctl *c)
{
    return c->arg_n > 1 ? c->args[1] : NULL;
}

/* ---- put ---- */

/* Reads until the end of fd, or until more than max bytes are there. */
static int read_all(int fd, uint64_t max, uint8_t **p_out, size_t *n_out)
{
    size_t cap = READ_STEP, n = 0;
    uint8_t *p = malloc(cap), *bigger;
    ssize_t got = 1;

    while (p && n <= max && got > 0) {
        if (n == cap) {
            bigger = realloc(p, cap *= 2);
            if (!bigger)
                free(p);
            p = bigger;
            continue;
        }
        got = read(fd, p + n, cap - n);
        n += got > 0 ? (size_t)got : 0;
        if (got < 0 && errno == EINTR)
            got = 1;
    }
    if (!p || got < 0) {
        free(p);
        return p ? errno : ENOMEM;
    }
    *p_out = p;
    *n_out = n;
    return 0;
}

static int read_file(const char *file, uint64_t max, uint8_t **p_out,
                     size_t *n_out)
{
    const char *name = is_standard(file) ? "standard input" : file;
    int fd =
        is_standard(file) ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    int e = fd < 0 ? errno : read_all(fd, max, p_out, n_out);

    if (fd > STDIN_FILENO)
        close(fd);
    if (e)
        return ctl_fail(CTL_ERROR, "%s: %s", name, strerror(e));
    if (*n_out > max)
        return ctl_fail(CTL_ERROR,
                        "%s: more than %llu bytes, the daemon's limits.block; "
                        "store it in parts",
                        name, (unsigned long long)max);
    return CTL_OK;
}

static int put_item(const struct ctl *c, struct pikv_put *p)
{
    uint64_t us;
    int s = key_of_args(c, c->args[0], &p->key);

    s = s ? s : opt_us(c, OPT_TTL, 0, &us);
    if (!s && c->opt[OPT_PARENT])
        s = key_parse(c->opt[OPT_PARENT], &p->parent);
    if (s)
        return s;
    if (us / 1000 > UINT32_MAX || (c->opt[OPT_TTL] && us < 1000))
        return ctl_fail(CTL_USAGE, "--ttl %s: 1ms to 49 days are possible",
                        c->opt[OPT_TTL]);
    p->ttl_ms = (uint32_t)(us / 1000);
    p->durable = c->opt[OPT_DURABLE] != NULL;
    memcpy(p->labels, c->labels, sizeof(p->labels));
    return CTL_OK;
}

static int put_dry_run(struct ctl *c, const struct pikv_put *p)
{
    const char *name = link_namespace_name(c);
    Pikv__NamespaceReply *m = NULL;
    struct pikv_result r = {0};
    uint64_t id;
    int code, s = link_find(c, name, &code, &m);

    link_free(m);
    if (!s && code == PIKV_NO_NAMESPACE && !c->opt[OPT_NO_CREATE])
        return out_would(c, "create namespace %s and store %zu bytes in it",
                         name, p->data.len);
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    code =
        pikv_lookup(c->kv, c->ns, &p->key, 1, NULL, 1, NULL, &c->call, &r, &id);
    if (!code)
        code = pikv_wait(c->kv, id, NULL);
    if (code)
        return ctl_fail_code(code, "put %s", c->args[0]);
    if (r.state == 2)
        return out_would(c, "store nothing: the block is there");
    return out_would(c, "store %zu bytes in namespace %s", p->data.len, name);
}

static int put_print(const struct ctl *c, const struct pikv_put *p,
                     const struct pikv_result *r)
{
    json_t *o = json_object();

    json_object_set_new(o, "key", key_json(p->key.key.p, p->key.key.len));
    json_object_set_new(
        o, "status",
        json_string(r->status ? pikv_error_name(r->status) : "STORED"));
    json_object_set_new(o, "len", out_u64(p->data.len));
    json_object_set_new(
        o, "crc32c",
        json_sprintf("%08x", pikv_crc32c(0, p->data.p, p->data.len)));
    json_object_set_new(o, "version", out_u64(r->version));
    return out_object(c, o);
}

static int put_bytes(struct ctl *c, struct pikv_put *p)
{
    struct pikv_result r = {0};
    uint32_t crc = pikv_crc32c(0, p->data.p, p->data.len);
    int code, s;

    if (c->opt[OPT_DRY_RUN])
        return put_dry_run(c, p);
    s = link_namespace(c, !c->opt[OPT_NO_CREATE]);
    if (s)
        return s;
    p->crc32c = &crc;
    code = pikv_put_sync(c->kv, c->ns, p, 1, &c->call, &r);
    if (!code && r.status != PIKV_EXISTS)
        code = r.status;
    return code ? ctl_fail_code(code, "put %s", c->args[0])
                : put_print(c, p, &r);
}

int verb_put(struct ctl *c)
{
    struct pikv_put p = {0};
    uint8_t *bytes = NULL;
    int s = put_item(c, &p);

    s = s ? s : link_open(c);
    if (!s)
        s = read_file(file_of_args(c), c->info.block_bytes_max, &bytes,
                      &p.data.len);
    p.data.p = bytes;
    s = s ? s : put_bytes(c, &p);
    free(bytes);
    return s;
}

/* ---- get ---- */

struct get_range {
    uint64_t off, len; /* len UINT64_MAX: to the end */
    uint8_t *p;
    size_t n; /* bytes there */
};

/* What the block's length leaves of the range. */
static int get_room(struct ctl *c, const struct pikv_result *r,
                    struct get_range *range, struct pikv_get *g)
{
    if (range->off > r->len ||
        (range->len != UINT64_MAX && range->len > r->len - range->off))
        return ctl_fail(CTL_USAGE,
                        "get %s: the range ends beyond the block's %llu bytes",
                        c->args[0], (unsigned long long)r->len);
    range->n = min_u64(range->len, r->len - range->off);
    free(range->p);
    range->p = malloc(range->n + 1);
    if (!range->p)
        return ctl_fail_code(PIKV_NO_MEMORY, "get %s", c->args[0]);
    g->data = (struct pikv_buf){range->p, range->n};
    g->if_version = r->version;
    return CTL_OK;
}

/* The length by LOOKUP, then the bytes of that version; a block that is
 * replaced in between is tried again. */
static int get_bytes(struct ctl *c, struct pikv_get *g, struct get_range *range)
{
    int code = PIKV_VERSION_DIFFERS, s;

    for (int i = 0; i < GET_TRIES && code == PIKV_VERSION_DIFFERS; i++) {
        struct pikv_result r = {0};
        uint64_t id;

        code = pikv_lookup(c->kv, c->ns, &g->key, 1, NULL, 1, NULL, &c->call,
                           &r, &id);
        if (!code)
            code = pikv_wait(c->kv, id, NULL);
        if (!code && r.state != 2)
            code = r.state == 1 ? PIKV_PENDING : PIKV_MISS;
        if (code)
            break;
        s = get_room(c, &r, range, g);
        if (s)
            return s;
        if (range->n == 0)
            return CTL_OK;
        code = pikv_get_sync(c->kv, c->ns, g, 1, &c->call, &r);
        code = code ? code : r.status;
    }
    return code ? ctl_fail_code(code, "get %s", c->args[0]) : CTL_OK;
}

static int write_all(int fd, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t put = write(fd, p, n);

        if (put < 0 && errno != EINTR)
            return errno;
        p += put > 0 ? put : 0;
        n -= put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static int write_file(const char *file, const struct get_range *range)
{
    bool standard = is_standard(file);
    int fd = standard
                 ? STDOUT_FILENO
                 : open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int e = fd < 0 ? errno : write_all(fd, range->p, range->n);

    if (!standard && fd >= 0 && close(fd) != 0 && !e)
        e = errno;
    if (e == EPIPE && standard)
        return CTL_OK;
    return e ? ctl_fail(CTL_ERROR, "%s: %s",
                        standard ? "standard output" : file, strerror(e))
             : CTL_OK;
}

int verb_get(struct ctl *c)
{
    struct pikv_get g = {0};
    struct get_range range = {0};
    int s = key_of_args(c, c->args[0], &g.key);

    s = s ? s : opt_bytes(c, OPT_OFFSET, 0, &range.off);
    s = s ? s : opt_bytes(c, OPT_LENGTH, UINT64_MAX, &range.len);
    if (!s && c->opt[OPT_VERIFY] && (c->opt[OPT_OFFSET] || c->opt[OPT_LENGTH]))
        s = ctl_fail(CTL_USAGE, "get: --verify checks whole blocks; leave out "
                                "--offset and --length");
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    g.off = range.off;
    c->call.verify = c->opt[OPT_VERIFY] != NULL;
    s = get_bytes(c, &g, &range);
    s = s ? s : write_file(file_of_args(c), &range);
    free(range.p);
    return s;
}

/* ---- lookup ---- */

static const char *const state_names[] = {"MISS", "PENDING", "HIT"};

static json_t *lookup_row(const struct pikv_key *k, const struct pikv_result *r)
{
    json_t *o = json_object();
    bool hit = r->state == 2;

    json_object_set_new(o, "key", key_json(k->key.p, k->key.len));
    json_object_set_new(o, "state",
                        json_string(state_names[r->state < 3 ? r->state : 0]));
    json_object_set_new(o, "tier",
                        hit ? json_string(ctl_tier(r->tier)) : json_null());
    json_object_set_new(o, "len", hit ? out_u64(r->len) : json_null());
    json_object_set_new(o, "version", hit ? out_u64(r->version) : json_null());
    json_object_set_new(o, "eta_us", hit ? out_u64(r->eta_us) : json_null());
    return o;
}

static int lookup_keys(struct ctl *c, struct pikv_key *keys,
                       struct pikv_result *results)
{
    static const struct column columns[] = {
        {"key", false}, {"state", false},  {"tier", false},
        {"len", true},  {"version", true}, {"eta_us", true}};
    json_t *rows;
    bool all = true;
    uint64_t id;
    int code, s = CTL_OK;

    for (uint32_t i = 0; i < c->arg_n && !s; i++)
        s = key_of_args(c, c->args[i], &keys[i]);
    s = s ? s : link_namespace(c, false);
    if (s)
        return s;
    code = pikv_lookup(c->kv, c->ns, keys, c->arg_n, NULL, 1, NULL, &c->call,
                       results, &id);
    if (!code)
        code = pikv_wait(c->kv, id, NULL);
    if (code)
        return ctl_fail_code(code, "lookup %s", c->args[0]);
    rows = json_array();
    for (uint32_t i = 0; i < c->arg_n; i++) {
        if (results[i].status && results[i].status != PIKV_MISS &&
            results[i].status != PIKV_PENDING)
            s = ctl_fail_code(results[i].status, "lookup %s", c->args[i]);
        all &= results[i].state == 2;
        json_array_append_new(rows, lookup_row(&keys[i], &results[i]));
    }
    code = out_rows(c, columns, countof(columns), rows);
    return s || code ? CTL_ERROR : all ? CTL_OK : CTL_MISS;
}

int verb_lookup(struct ctl *c)
{
    struct pikv_key *keys = calloc(c->arg_n, sizeof(*keys));
    struct pikv_result *results = calloc(c->arg_n, sizeof(*results));
    int s = keys && results ? lookup_keys(c, keys, results)
                            : ctl_fail_code(PIKV_NO_MEMORY, "lookup");

    free(keys);
    free(results);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * export: the blocks of a namespace into a file (block_file.h).
 *
 *     for each lane:   INSPECT pages -> list -> parents first
 *                      GET batch n | write batch n - 1
 *     end of the file, fsync, rename
 *
 * The daemon goes on working meanwhile: what it stores later is not in the
 * file, and what it drops between being listed and being read is counted as
 * lost, in the file and in what is printed. The bytes are checked against the
 * checksum of their PUT by libpikv.
 *
 * The file grows under a name of its own beside the wanted one and takes that
 * in the end; an error or a signal removes it. Standard output, and what is no
 * regular file, is written straight; there the missing end tells a cut file.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client/ctl/ctl_export.h"

struct batch {
    struct bulk_mem mem;
    struct pikv_get items[BULK_ITEMS];
    struct pikv_result results[BULK_ITEMS];
    uint32_t which[BULK_ITEMS]; /* of the list */
    uint32_t n;
    uint64_t id;
    bool flying;
};

struct export
{
    struct ctl *c;
    const char *file; /* as it was asked for, for messages */
    int fd;
    struct bf_writer w;
    struct export_list list;
    struct batch batches[2];
    uint64_t listed, total; /* bytes: of the lanes so far, and a guess */
};

/* ---- the file under its temporary name ---- */

static char temporary[4096];

static void on_signal(int signum)
{
    unlink(temporary);
    signal(signum, SIG_DFL);
    raise(signum);
}

static void remove_on_signals(bool on)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

    for (size_t i = 0; i < countof(signals); i++)
        signal(signals[i], on ? on_signal : SIG_DFL);
}

static int file_failed(const char *file)
{
    return ctl_fail(CTL_ERROR, "%s: %s", file, strerror(errno));
}

static int file_open(struct export *x)
{
    struct stat st;

    if (strcmp(x->file, "-") == 0) {
        x->fd = STDOUT_FILENO;
        return isatty(x->fd) ? ctl_fail(CTL_USAGE, "export -: standard output "
                                                   "is a terminal")
                             : CTL_OK;
    }
    if (stat(x->file, &st) == 0 && !S_ISREG(st.st_mode)) {
        x->fd = open(x->file, O_WRONLY | O_CLOEXEC);
        return x->fd < 0 ? file_failed(x->file) : CTL_OK;
    }
    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.XXXXXX", x->file) >=
        sizeof(temporary))
        return ctl_fail(CTL_USAGE, "%.60s...: too long a name", x->file);
    x->fd = mkostemp(temporary, O_CLOEXEC);
    if (x->fd < 0) {
        temporary[0] = '\0';
        return file_failed(x->file);
    }
    remove_on_signals(true);
    return CTL_OK;
}

/* status: of all before. The name is the wanted one only after all is there. */
static int file_close(struct export *x, int status)
{
    if (!temporary[0]) {
        if (x->fd > STDOUT_FILENO && close(x->fd) != 0 && !status)
            status = file_failed(x->file);
        return status;
    }
    if (!status && fsync(x->fd) != 0)
        status = file_failed(x->file);
    close(x->fd);
    if (!status && rename(temporary, x->file) != 0)
        status = file_failed(x->file);
    if (status)
        unlink(temporary);
    remove_on_signals(false);
    temporary[0] = '\0';
    return status;
}

static int write_runs(struct export *x, struct iovec *v, int n)
{
    while (n > 0) {
        ssize_t put = writev(x->fd, v, n);

        if (put < 0 && errno != EINTR)
            return file_failed(x->file);
        for (put = put < 0 ? 0 : put; n > 0 && (size_t)put >= v->iov_len; n--)
            put -= (ssize_t)(v++)->iov_len;
        if (n > 0) {
            v->iov_base = (char *)v->iov_base + put;
            v->iov_len -= (size_t)put;
        }
    }
    return CTL_OK;
}

static int write_one(struct export *x, void *p, size_t n)
{
    struct iovec v = {p, n};

    return write_runs(x, &v, 1);
}

/* ---- reading blocks and writing them ---- */

static bool is_gone(int status)
{
    return status == PIKV_MISS || status == PIKV_VERSION_DIFFERS ||
           status == PIKV_CORRUPT;
}

/* The answer for item i, asked again alone while that may help. */
static int batch_status(struct export *x, struct batch *b, uint32_t i,
                        int whole)
{
    struct pikv_result *r = &b->results[i];
    uint32_t tries = 0;

    if (!r->status && whole)
        r->status = whole;
    while (bulk_again(r->status, &tries)) {
        int code =
            pikv_get_sync(x->c->kv, x->c->ns, &b->items[i], 1, &x->c->call, r);

        if (code && !r->status)
            r->status = code;
    }
    return r->status;
}

/* Records and bytes of what came. */
static int batch_write(struct export *x, struct batch *b, int whole)
{
    struct iovec v[2 * BULK_ITEMS];
    int n = 0;

    for (uint32_t i = 0; i < b->n; i++) {
        struct bf_rec *rec = list_rec(&x->list, b->which[i]);
        int code = batch_status(x, b, i, whole);

        if (is_gone(code)) {
            x->w.lost++;
            continue;
        }
        if (code)
            return ctl_fail_code(code, "export: block %u of a lane", i);
        rec->bytes_crc = rec->len ? b->results[i].crc32c : 0;
        bf_seal(&x->w, rec);
        v[n++] = (struct iovec){rec, bf_rec_bytes(rec)};
        v[n++] = (struct iovec){b->items[i].data.p, rec->len};
    }
    return write_runs(x, v, n);
}

/* Waits for a batch that flies and writes it. */
static int batch_land(struct export *x, struct batch *b)
{
    int s = CTL_OK;

    if (b->flying)
        s = batch_write(x, b, pikv_wait(x->c->kv, b->id, NULL));
    bar_show(x->w.bytes, x->total, x->w.blocks);
    b->flying = false;
    b->n = 0;
    b->mem.used = 0;
    return s;
}

/* Sends it off, then sees to the other one. */
static int batch_fly(struct export *x, struct batch *b, struct batch *other)
{
    uint32_t tries = 0;
    int code;

    do {
        code = pikv_get(x->c->kv, x->c->ns, b->items, b->n, &x->c->call,
                        b->results, &b->id);
    } while (bulk_again(code, &tries));
    if (code)
        return ctl_fail_code(code, "export");
    b->flying = true;
    return batch_land(x, other);
}

static bool batch_add(struct export *x, struct batch *b, uint32_t which)
{
    const struct bf_rec *rec = list_rec(&x->list, which);
    uint32_t most = (uint32_t)min_u64(BULK_ITEMS, x->c->info.batch_keys_max);
    struct pikv_put like;
    uint8_t *p = b->n < most ? bulk_room(x->c, &b->mem, rec->len) : NULL;

    if (!p)
        return false;
    bf_put(rec, (const uint8_t *)(rec + 1), &like);
    b->items[b->n] = (struct pikv_get){
        .key = like.key,
        .data = {p, rec->len},
        .if_version = x->list.items[which].version,
    };
    b->results[b->n] = (struct pikv_result){0};
    b->which[b->n++] = which;
    return true;
}

static int export_blocks(struct export *x)
{
    struct batch *b = &x->batches[0], *other = &x->batches[1], *t;
    int s = CTL_OK;

    for (uint32_t i = 0; i < x->list.item_n && !s; i++) {
        if (batch_add(x, b, x->list.order[i]))
            continue;
        if (b->n == 0)
            return ctl_fail_code(PIKV_NO_MEMORY, "export");
        s = batch_fly(x, b, other);
        t = b;
        b = other;
        other = t;
        i--; /* the same block into the empty batch */
    }
    if (!s && b->n)
        s = batch_fly(x, b, other);
    s = s ? s : batch_land(x, b);
    return s ? s : batch_land(x, other);
}

/* ---- listing ---- */

static int list_page(struct export *x, uint32_t lane, Pikv__InspectRequest *m)
{
    Pikv__InspectReply *r;
    uint32_t tries = 0;
    bool room = true;
    int code;

    do {
        r = link_ask(x->c, "inspect", lane, &m->base,
                     &pikv__inspect_reply__descriptor, &code);
    } while (!r && bulk_again(code, &tries));
    if (code) {
        link_free(r);
        return ctl_fail_code(code, "export: listing lane %u", lane);
    }
    for (size_t i = 0; i < r->n_blocks && room; i++)
        room = list_add(&x->list, r->blocks[i]);
    m->cursor = r->next_cursor;
    link_free(r);
    return room ? CTL_OK
                : ctl_fail(CTL_ERROR,
                           "export: no memory for the list of lane "
                           "%u's blocks",
                           lane);
}

static int export_lane(struct export *x, uint32_t lane)
{
    Pikv__InspectRequest m;
    int code, s = CTL_OK;

    pikv__inspect_request__init(&m);
    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    code = pikv_namespace_id(x->c->kv, x->c->ns, &m.ns, &m.generation);
    if (code)
        return ctl_fail_code(code, "export");
    do {
        s = list_page(x, lane, &m);
    } while (m.cursor && !s);
    if (!s && !list_order(&x->list))
        s = ctl_fail_code(PIKV_NO_MEMORY, "export");
    x->listed += x->list.bytes;
    x->total = x->listed / (lane + 1) * x->c->info.lanes;
    s = s ? s : export_blocks(x);
    list_fini(&x->list);
    return s;
}

/* ---- the whole ---- */

static int export_head(struct export *x)
{
    struct bulk_space space;
    json_t *json;
    uint8_t *head = NULL;
    size_t n = 0;
    int code, s = bulk_space_find(x->c, &space, &code);

    if (s || code)
        return s ? s : ctl_fail_code(code, "export");
    json = bf_space_json(&space.d, x->c->info.server);
    if (json)
        head = bf_begin(&x->w, json, &n);
    s = head ? write_one(x, head, n)
             : ctl_fail(CTL_ERROR, "export: the namespace's texts are not "
                                   "UTF-8, or there is no memory");
    free(head);
    json_decref(json);
    bulk_space_fini(&space);
    return s;
}

static int export_all(struct export *x)
{
    struct bf_end end;
    int s = export_head(x);

    for (uint32_t lane = 0; lane < x->c->info.lanes && !s; lane++)
        s = export_lane(x, lane);
    bf_finish(&x->w, &end);
    return s ? s : write_one(x, &end, sizeof(end));
}

static int export_print(const struct export *x, double seconds)
{
    json_t *o;

    if (x->w.lost)
        fprintf(stderr,
                "pikvctl: export: %llu blocks left the daemon before they were "
                "read; they are not in the file\n",
                (unsigned long long)x->w.lost);
    if (x->fd == STDOUT_FILENO || x->c->opt[OPT_QUIET])
        return CTL_OK;
    o = json_object();
    json_object_set_new(o, "namespace", out_text(link_namespace_name(x->c)));
    json_object_set_new(o, "file", out_text(x->file));
    json_object_set_new(o, "blocks", out_u64(x->w.blocks));
    json_object_set_new(o, "bytes", out_u64(x->w.bytes));
    json_object_set_new(o, "lost", out_u64(x->w.lost));
    json_object_set_new(o, "seconds", json_real(seconds));
    return out_object(x->c, o);
}

int verb_export(struct ctl *c)
{
    struct export *x = calloc(1, sizeof(*x));
    double began = link_now_s();
    int s = link_namespace(c, false);

    if (!x)
        return ctl_fail_code(PIKV_NO_MEMORY, "export");
    *x = (struct export){.c = c, .file = c->args[0], .fd = -1};
    bulk_deadline(c);
    c->call.verify = true;
    s = s ? s : file_open(x);
    if (!s) {
        bar_begin(c, "export");
        s = file_close(x, export_all(x));
        bar_end();
    }
    if (!s)
        s = export_print(x, link_now_s() - began);
    for (uint32_t i = 0; i < countof(x->batches); i++) {
        if (x->batches[i].flying)
            pikv_wait(c->kv, x->batches[i].id, NULL);
        bulk_free(c, &x->batches[i].mem);
    }
    free(x);
    return s;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * import: the blocks of an exported file (block_file.h) into a namespace.
 *
 *     file           read whole and checked, then read again and put
 *     pipe           each block is checked before it is put
 *
 *     head -> namespace: its fingerprint must be the file's, or it is made
 *     blocks -> PUT batch n | read batch n + 1
 *
 * A block that is there already (EXISTS) counts as done, so an import that was
 * cut short is simply said again. Blocks are put in the order of the file, in
 * which parents come before their children. The memory used does not depend on
 * what the file claims: a block longer than the daemon takes is refused. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client/ctl/ctl_export.h"

enum { FILE_BUFFER = 1 << 20 };

struct batch {
    struct bulk_mem mem;
    struct pikv_put items[BULK_ITEMS];
    struct pikv_result results[BULK_ITEMS];
    struct bf_rec recs[BULK_ITEMS];
    uint8_t (*names)[BF_NAMES_MAX];
    uint32_t n;
    uint64_t id;
    bool flying;
};

struct import {
    struct ctl *c;
    const char *file;
    FILE *in;
    struct bf_reader r;
    struct bf_space space;
    struct batch batches[2];
    uint64_t size; /* of the file; 0 not known */
    uint64_t stored, there, memory_only;
};

/* ---- reading ---- */

static ssize_t read_file(void *arg, void *to, size_t n)
{
    FILE *in = arg;
    size_t got = fread(to, 1, n, in);

    return ferror(in) ? -1 : (ssize_t)got;
}

static int read_failed(const struct import *m, enum bf_next got)
{
    return got == BF_BAD
               ? ctl_fail(CTL_ERROR, "%s: %s", m->file, m->r.why)
               : ctl_fail(CTL_ERROR, "%s: %s", m->file, strerror(errno));
}

static int import_open(struct import *m)
{
    struct stat st;

    m->in = strcmp(m->file, "-") == 0 ? stdin : fopen(m->file, "rbe");
    if (!m->in)
        return ctl_fail(CTL_ERROR, "%s: %s", m->file, strerror(errno));
    setvbuf(m->in, NULL, _IOFBF, FILE_BUFFER);
    if (fstat(fileno(m->in), &st) == 0 && S_ISREG(st.st_mode))
        m->size = (uint64_t)st.st_size;
    return CTL_OK;
}

static int head_open(struct import *m)
{
    enum bf_next got = bf_open(&m->r, read_file, m->in, &m->space);

    return got == BF_BLOCK ? CTL_OK : read_failed(m, got);
}

/* All blocks and the end, into nowhere. */
static int check_blocks(struct import *m, uint8_t *buf)
{
    enum bf_next got;

    while ((got = bf_next(&m->r)) == BF_BLOCK) {
        while (m->r.left && got == BF_BLOCK)
            got = bf_bytes(&m->r, buf, min_u64(m->r.left, FILE_BUFFER));
        if (got != BF_BLOCK)
            break;
        bar_show(m->r.at, m->size, m->r.blocks);
    }
    return got == BF_OVER ? CTL_OK : read_failed(m, got);
}

/* Reads the whole file before anything of it is put; then from its start. */
static int import_check(struct import *m)
{
    uint8_t *buf = malloc(FILE_BUFFER);
    int s = buf ? head_open(m) : ctl_fail_code(PIKV_NO_MEMORY, "import");

    bar_begin(m->c, "check ");
    s = s ? s : check_blocks(m, buf);
    bar_end();
    free(buf);
    bf_space_fini(&m->space);
    if (!s && fseeko(m->in, 0, SEEK_SET) != 0)
        s = ctl_fail(CTL_ERROR, "%s: %s", m->file, strerror(errno));
    return s;
}

/* ---- the namespace ---- */

static int space_same(const struct import *m, const struct pikv_namespace *have)
{
    const char *here, *there, *field;

    field = bf_space_differs(have, &m->space.d, &here, &there);
    if (!field || m->c->opt[OPT_FORCE])
        return CTL_OK;
    return ctl_fail(CTL_ERROR,
                    "%s: its blocks are of another fingerprint: %s is "
                    "\"%s\" in namespace %s, \"%s\" in the file; --force "
                    "puts them there all the same",
                    m->file, field, here, link_namespace_name(m->c), there);
}

/* There already: fingerprints are compared. Not there: made as it was. */
static int import_space(struct import *m)
{
    struct ctl *c = m->c;
    struct bulk_space have;
    int code, s;

    if (!c->opt[OPT_NAMESPACE])
        c->opt[OPT_NAMESPACE] = m->space.d.name;
    s = bulk_space_find(c, &have, &code);
    if (s)
        return s;
    if (!code) {
        s = space_same(m, &have.d);
        bulk_space_fini(&have);
        return s ? s : link_namespace(c, false);
    }
    if (code != PIKV_NO_NAMESPACE || c->opt[OPT_NO_CREATE])
        return ctl_fail_code(code, "namespace %s", link_namespace_name(c));
    if (c->opt[OPT_DRY_RUN])
        return CTL_OK;
    m->space.d.name = link_namespace_name(c);
    m->space.d.create = true;
    code = pikv_namespace_open(c->kv, &m->space.d, &c->ns, &c->call);
    return code ? ctl_fail(ctl_status(code), "%s", pikv_last_error()) : CTL_OK;
}

/* ---- putting ---- */

static int put_failed(const struct import *m, int code)
{
    return ctl_fail_code(code,
                         "import: after %llu blocks (say it again: what is "
                         "there is left out)",
                         (unsigned long long)(m->stored + m->there));
}

static int batch_status(struct import *m, struct batch *b, uint32_t i,
                        int whole)
{
    struct pikv_result *r = &b->results[i];
    uint32_t tries = 0;

    if (!r->status && whole)
        r->status = whole;
    while (bulk_again(r->status, &tries)) {
        int code =
            pikv_put_sync(m->c->kv, m->c->ns, &b->items[i], 1, &m->c->call, r);

        if (code && !r->status)
            r->status = code;
    }
    return r->status;
}

static int batch_land(struct import *m, struct batch *b)
{
    int whole = b->flying ? pikv_wait(m->c->kv, b->id, NULL) : PIKV_OK;
    int code = PIKV_OK;

    for (uint32_t i = 0; b->flying && i < b->n && !code; i++) {
        code = batch_status(m, b, i, whole);
        m->there += code == PIKV_EXISTS;
        m->stored += code == PIKV_OK || code == PIKV_NOT_DURABLE;
        m->memory_only += code == PIKV_NOT_DURABLE;
        if (code == PIKV_EXISTS || code == PIKV_NOT_DURABLE)
            code = PIKV_OK;
    }
    b->flying = false;
    b->n = 0;
    b->mem.used = 0;
    bar_show(m->r.at, m->size, m->r.blocks);
    return code ? put_failed(m, code) : CTL_OK;
}

static int batch_fly(struct import *m, struct batch *b)
{
    uint32_t tries = 0;
    int code;

    if (b->n == 0)
        return CTL_OK;
    do {
        code = pikv_put(m->c->kv, m->c->ns, b->items, b->n, &m->c->call,
                        b->results, &b->id);
    } while (bulk_again(code, &tries));
    b->flying = !code;
    return code ? put_failed(m, code) : CTL_OK;
}

/* The block that the reader stands before. p: where its bytes go. */
static int batch_take(struct import *m, struct batch *b, uint8_t *p)
{
    struct pikv_put *put = &b->items[b->n];
    enum bf_next got = BF_BLOCK;
    uint64_t n = m->r.left;

    b->recs[b->n] = m->r.rec;
    memcpy(b->names[b->n], m->r.names,
           bf_rec_bytes(&m->r.rec) - sizeof(m->r.rec));
    if (n)
        got = bf_bytes(&m->r, p, n);
    if (got != BF_BLOCK)
        return read_failed(m, got);
    bf_put(&b->recs[b->n], b->names[b->n], put);
    put->data = (struct pikv_bytes){p, n};
    put->crc32c = &b->recs[b->n].bytes_crc;
    put->durable = m->c->opt[OPT_DURABLE] != NULL;
    b->results[b->n++] = (struct pikv_result){0};
    return CTL_OK;
}

static int block_too_long(const struct import *m)
{
    return ctl_fail(CTL_ERROR,
                    "%s: block %llu has %llu bytes; the daemon's limits.block "
                    "is %llu",
                    m->file, (unsigned long long)m->r.blocks,
                    (unsigned long long)m->r.left,
                    (unsigned long long)m->c->info.block_bytes_max);
}

/* Reads on until batch b is full or the file ends. */
static int import_blocks(struct import *m)
{
    struct batch *b = &m->batches[0], *other = &m->batches[1], *t;
    uint32_t most = (uint32_t)min_u64(BULK_ITEMS, m->c->info.batch_keys_max);
    enum bf_next got;
    int s = CTL_OK;

    while (!s && (got = bf_next(&m->r)) == BF_BLOCK) {
        uint8_t *p = NULL;

        if (m->r.left > m->c->info.block_bytes_max)
            return block_too_long(m);
        if (b->n < most)
            p = bulk_room(m->c, &b->mem, m->r.left);
        if (!p && b->n) {
            s = batch_fly(m, b);
            s = s ? s : batch_land(m, other);
            t = b;
            b = other;
            other = t;
            p = s ? NULL : bulk_room(m->c, &b->mem, m->r.left);
        }
        if (!p && !s)
            s = ctl_fail_code(PIKV_NO_MEMORY, "import");
        s = s ? s : batch_take(m, b, p);
    }
    if (s)
        return s;
    /* What came before a cut is whole: put it, then tell. */
    s = batch_fly(m, b);
    s = s ? s : batch_land(m, other);
    s = s ? s : batch_land(m, b);
    return s ? s : got == BF_OVER ? CTL_OK : read_failed(m, got);
}

/* ---- the whole ---- */

static int import_print(const struct import *m, double seconds)
{
    const struct bf_reader *r = &m->r;
    json_t *o;

    if (r->end.lost)
        fprintf(stderr,
                "pikvctl: import: %llu blocks were lost when the file was "
                "written; it does not have them\n",
                (unsigned long long)r->end.lost);
    if (m->memory_only)
        return ctl_fail_code(PIKV_NOT_DURABLE, "import: %llu blocks",
                             (unsigned long long)m->memory_only);
    if (m->c->opt[OPT_QUIET])
        return CTL_OK;
    o = json_object();
    json_object_set_new(o, "namespace", out_text(link_namespace_name(m->c)));
    json_object_set_new(o, "file", out_text(m->file));
    json_object_set_new(o, "blocks", out_u64(r->blocks));
    json_object_set_new(o, "bytes", out_u64(r->bytes));
    json_object_set_new(o, "stored", out_u64(m->stored));
    json_object_set_new(o, "there", out_u64(m->there));
    json_object_set_new(o, "lost", out_u64(r->end.lost));
    json_object_set_new(o, "seconds", json_real(seconds));
    return out_object(m->c, o);
}

static int import_dry(struct import *m)
{
    uint64_t blocks = m->r.blocks, bytes = m->r.bytes;
    int s = head_open(m);

    s = s ? s : import_space(m);
    return s ? s
             : out_would(m->c,
                         "store %llu blocks of %llu bytes in namespace %s",
                         (unsigned long long)blocks, (unsigned long long)bytes,
                         link_namespace_name(m->c));
}

static int import_all(struct import *m)
{
    int s = import_open(m);

    if (!s && m->c->opt[OPT_DRY_RUN] && !m->size)
        s = ctl_fail(CTL_USAGE,
                     "import --dry-run: reads the file twice; %s is "
                     "no file",
                     m->file);
    if (!s && m->size)
        s = import_check(m);
    if (!s && m->c->opt[OPT_DRY_RUN])
        return import_dry(m);
    s = s ? s : head_open(m);
    s = s ? s : import_space(m);
    if (s)
        return s;
    bar_begin(m->c, "import");
    s = import_blocks(m);
    bar_end();
    return s;
}

static void import_fini(struct import *m)
{
    for (uint32_t i = 0; i < countof(m->batches); i++) {
        struct batch *b = &m->batches[i];

        if (b->flying)
            pikv_wait(m->c->kv, b->id, NULL);
        bulk_free(m->c, &b->mem);
        free(b->names);
    }
    link_close(m->c);
    bf_space_fini(&m->space);
    if (m->in && m->in != stdin)
        fclose(m->in);
    free(m);
}

int verb_import(struct ctl *c)
{
    struct import *m = calloc(1, sizeof(*m));
    double began = link_now_s();
    int s = m ? link_open(c) : ctl_fail_code(PIKV_NO_MEMORY, "import");

    if (s) {
        free(m);
        return s;
    }
    m->c = c;
    m->file = c->args[0];
    bulk_deadline(c);
    for (uint32_t i = 0; i < countof(m->batches) && !s; i++) {
        m->batches[i].names = malloc(BULK_ITEMS * sizeof(*m->batches[i].names));
        if (!m->batches[i].names)
            s = ctl_fail_code(PIKV_NO_MEMORY, "import");
    }
    s = s ? s : import_all(m);
    if (!s && !c->opt[OPT_DRY_RUN])
        s = import_print(m, link_now_s() - began);
    import_fini(m);
    return s;
}

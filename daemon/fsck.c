/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-fsck: looks at the store on an SSD or in a file while no daemon uses it.
 *
 *   check    are superblocks, head pages, headers (and with --verify payloads)
 *            as they were written, and what is there
 *   dump     one line for each record and tomb
 *   salvage  the bytes of every intact newest block into files
 *
 * Two walks over the image: the first collects all records and tombs, so that
 * it is known which record of a key is the newest and which are dead; the
 * second prints or copies. Memory: 80 bytes a record.
 *
 * Which namespace generations are current is not on the SSD but in the node's
 * state: what is newest here may belong to a namespace that was flushed since.
 *
 * Exit status: 0 all is well, 1 something is not, 2 cannot be read at all. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fsck_finds.h"
#include "fsck_image.h"

enum { EXIT_CLEAN = 0, EXIT_PROBLEMS = 1, EXIT_CANNOT = 2 };
enum { PROBLEMS_SHOWN = 100, HEAD_DAMAGED = SEG_TOMBS + 1 };

struct tally {
    uint64_t heads[SEG_TOMBS + 2]; /* free, by enum seg_kind, damaged */
    uint64_t groups, records, tombs, check_entries;
    uint64_t fates[FATE_N], live_bytes, verified, corrupt, saved;
    uint64_t problems;
};

struct fsck {
    const char *verb, *path, *dir;
    bool json, verify;
    uint32_t segment;
    struct image im;
    struct finds finds;
    struct tally tally;
    json_t *problems;
    uint64_t walk; /* second walk: the record it is at */
    FILE *index;
};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "pikv-fsck: %s\n", what);
    exit(EXIT_CANNOT);
}

/* ---- first walk */

static void on_problem(void *arg, uint32_t segment, uint32_t page,
                       const char *what)
{
    struct fsck *f = arg;

    if (f->tally.problems++ >= PROBLEMS_SHOWN)
        return;
    if (f->json)
        json_array_append_new(
            f->problems, json_pack("{s:i,s:I,s:s}", "segment", (int)segment,
                                   "page", (json_int_t)page, "what", what));
    else
        fprintf(stderr, "problem: segment %u page %u: %s\n", segment, page,
                what);
}

static void on_head(void *arg, uint32_t segment, enum err e,
                    const struct seg_head *h)
{
    struct fsck *f = arg;

    (void)segment;
    f->tally.heads[e == OK ? h->kind : e == ERR_MISS ? 0 : HEAD_DAMAGED]++;
}

static void on_group(void *arg, uint32_t segment, const struct seg_group *g)
{
    struct fsck *f = arg;

    (void)segment;
    (void)g;
    f->tally.groups++;
}

static void verify(struct fsck *f, struct found *r, uint32_t segment)
{
    enum err e = image_payload(&f->im, r->page, r->len, r->crc, -1);

    f->tally.verified++;
    if (e == OK)
        return;
    r->bad = true;
    f->tally.corrupt++;
    on_problem(f, segment, r->page,
               e == ERR_CORRUPT ? "payload differs from its checksum"
                                : "payload cannot be read");
}

static void on_record(void *arg, const struct image_record *r)
{
    struct fsck *f = arg;
    struct found *n = finds_add(&f->finds);

    if (!n)
        die("out of memory");
    *n = (struct found){
        .hash = r->m->key.hash,
        .version = r->m->version,
        .generation = r->generation,
        .page = r->page,
        .len = r->m->len,
        .crc = r->m->crc,
    };
    f->tally.records++;
    if (f->verify)
        verify(f, n, r->segment);
}

static void on_tomb(void *arg, uint32_t segment, const struct seg_tomb *t)
{
    struct fsck *f = arg;

    (void)segment;
    f->tally.tombs++;
    if (!finds_add_tomb(&f->finds, t))
        die("out of memory");
}

static void decide(struct fsck *f)
{
    if (!finds_decide(&f->finds))
        die("out of memory");
    for (uint64_t i = 0; i < f->finds.n; i++) {
        const struct found *r = &f->finds.found[i];

        f->tally.fates[r->fate]++;
        if (r->fate == FATE_LIVE)
            f->tally.live_bytes += r->len;
    }
}

/* ---- words */

static void print_hex(char *to, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        snprintf(to + 2 * i, 3, "%02x", p[i]);
}

/* Plain text as it is, anything else as hex: and digits (as pikvctl). */
static const char *key_text(const uint8_t *key, size_t n, char *buf)
{
    bool plain = n > 0;

    for (size_t i = 0; i < n; i++)
        plain = plain && key[i] > ' ' && key[i] < 127;
    if (plain && (n < 4 || memcmp(key, "hex:", 4) != 0)) {
        memcpy(buf, key, n);
        buf[n] = 0;
    } else {
        memcpy(buf, "hex:", 5);
        print_hex(buf + 4, key, n);
    }
    return buf;
}

enum { KEY_TEXT = 2 * WIRE_KEY_MAX + 8 };

static json_t *record_json(const struct image_record *r, const struct found *n)
{
    const struct seg_meta *m = r->m;
    char key[KEY_TEXT], hash[40];
    json_t *o;

    snprintf(hash, sizeof(hash), "%016" PRIx64 "%016" PRIx64, m->key.hash.hi,
             m->key.hash.lo);
    o = json_pack("{s:s,s:i,s:I,s:i,s:I,s:i,s:s,s:I,s:I,s:I,s:I,s:I}", "state",
                  n->bad ? "corrupt" : fate_name(n->fate), "segment",
                  (int)r->segment, "page", (json_int_t)r->page, "namespace",
                  (int)m->key.ns, "generation", (json_int_t)m->ns_generation,
                  "group", (int)m->key.group, "hash", hash, "version",
                  (json_int_t)m->version, "bytes", (json_int_t)m->len, "crc",
                  (json_int_t)m->crc, "born_s", (json_int_t)m->born_s,
                  "expires_s", (json_int_t)m->expires_s);
    if (!o)
        die("out of memory");
    key_text(m->key.key, m->key.key_len, key);
    json_object_set_new(o, "key", json_string(key));
    if (m->key.route_len) {
        key_text(m->key.route, m->key.route_len, key);
        json_object_set_new(o, "route", json_string(key));
    }
    if (m->parent_len) {
        key_text(m->parent, m->parent_len, key);
        json_object_set_new(o, "parent", json_string(key));
    }
    return o;
}

/* ---- dump */

static void print_json(FILE *to, json_t *o)
{
    json_dumpf(o, to, JSON_COMPACT);
    putc('\n', to);
    json_decref(o);
}

static void dump_record(void *arg, const struct image_record *r)
{
    struct fsck *f = arg;
    const struct found *n = &f->finds.found[f->walk++];
    const struct seg_meta *m = r->m;
    char key[KEY_TEXT];

    if (f->json) {
        print_json(stdout, record_json(r, n));
        return;
    }
    printf("%-7s segment=%u page=%u namespace=%u generation=%" PRIu64
           " group=%u version=%" PRIu64 " bytes=%u crc=%08x key=%s",
           n->bad ? "corrupt" : fate_name(n->fate), r->segment, r->page,
           m->key.ns, m->ns_generation, m->key.group, m->version, m->len,
           m->crc, key_text(m->key.key, m->key.key_len, key));
    if (m->parent_len)
        printf(" parent=%s", key_text(m->parent, m->parent_len, key));
    if (m->expires_s)
        printf(" expires_s=%u", m->expires_s);
    putchar('\n');
}

static void dump_tomb(void *arg, uint32_t segment, const struct seg_tomb *t)
{
    struct fsck *f = arg;
    char hash[40];

    snprintf(hash, sizeof(hash), "%016" PRIx64 "%016" PRIx64, t->hash.hi,
             t->hash.lo);
    if (f->json)
        print_json(stdout,
                   json_pack("{s:s,s:i,s:i,s:I,s:s,s:I}", "state", "tomb",
                             "segment", (int)segment, "namespace", (int)t->ns,
                             "generation", (json_int_t)t->ns_generation, "hash",
                             hash, "version", (json_int_t)t->version));
    else
        printf("%-7s segment=%u namespace=%u generation=%" PRIu64
               " version=%" PRIu64 " hash=%s\n",
               "tomb", segment, t->ns, t->ns_generation, t->version, hash);
}

/* ---- salvage */

static void salvage_record(void *arg, const struct image_record *r)
{
    struct fsck *f = arg;
    struct found *n = &f->finds.found[f->walk++];
    const struct hash128 *h = &r->m->key.hash;
    char name[100], path[4096];
    enum err e;
    json_t *o;
    int fd;

    if (n->fate != FATE_LIVE || n->bad)
        return;
    snprintf(name, sizeof(name),
             "%u-%" PRIu64 "-%016" PRIx64 "%016" PRIx64 ".bin", r->m->key.ns,
             r->m->ns_generation, h->hi, h->lo);
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", f->dir, name) >=
        sizeof(path))
        die("the name of the directory is too long");
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    e = fd < 0 ? ERR_IO : image_payload(&f->im, n->page, n->len, n->crc, fd);
    if (fd < 0 || close(fd) != 0 || e == ERR_NO_SPACE) {
        fprintf(stderr, "pikv-fsck: %s: %s\n", path, strerror(errno));
        exit(EXIT_CANNOT);
    }
    if (e != OK) {
        unlink(path);
        on_problem(f, r->segment, n->page, "payload changed while it was read");
        return;
    }
    o = record_json(r, n);
    json_object_set_new(o, "file", json_string(name));
    fputs(f->tally.saved++ ? ",\n " : "[\n ", f->index);
    json_dumpf(o, f->index, JSON_COMPACT);
    json_decref(o);
}

static void salvage_begin(struct fsck *f)
{
    char path[4096];

    if (mkdir(f->dir, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "pikv-fsck: %s: %s\n", f->dir, strerror(errno));
        exit(EXIT_CANNOT);
    }
    if ((size_t)snprintf(path, sizeof(path), "%s/index.json", f->dir) >=
        sizeof(path))
        die("the name of the directory is too long");
    f->index = fopen(path, "w");
    if (!f->index) {
        fprintf(stderr, "pikv-fsck: %s: %s\n", path, strerror(errno));
        exit(EXIT_CANNOT);
    }
}

static void salvage_end(struct fsck *f)
{
    fputs(f->tally.saved ? "\n]\n" : "[]\n", f->index);
    if (fclose(f->index) != 0)
        die("index.json could not be written");
}

/* ---- summary */

static const char *life(const struct image *im)
{
    if (im->guessed)
        return "superblocks lost";
    if (im->super.flags & SEG_RETIRED)
        return "retired";
    return im->super.flags & SEG_CLEAN ? "clean" : "not closed";
}

static const char *super_word(const struct image *im, int i)
{
    if (im->super_err[i] == OK)
        return "ok";
    return im->super_err[i] == ERR_MISS ? "missing" : "damaged";
}

static void summary_text(const struct fsck *f, const char *uuid)
{
    const struct tally *t = &f->tally;
    const struct seg_super *s = &f->im.super;

    printf("store        %s, %s, written by %s, format %u.%u\n", uuid,
           life(&f->im), s->writer[0] ? s->writer : "?", s->major, s->minor);
    printf("superblocks  A %s (%" PRIu64 "), B %s (%" PRIu64 ")\n",
           super_word(&f->im, 0), f->im.super_seq[0], super_word(&f->im, 1),
           f->im.super_seq[1]);
    printf("segments     %u of %" PRIu64 " bytes: %" PRIu64 " log, %" PRIu64
           " checkpoint, %" PRIu64 " tombs only, %" PRIu64 " free, %" PRIu64
           " damaged\n",
           s->segments, s->segment_bytes, t->heads[SEG_LOG],
           t->heads[SEG_CHECKPOINT], t->heads[SEG_TOMBS], t->heads[0],
           t->heads[HEAD_DAMAGED]);
    printf("records      %" PRIu64 " in %" PRIu64 " groups: %" PRIu64
           " live (%" PRIu64 " bytes), %" PRIu64 " old, %" PRIu64
           " dead; %" PRIu64 " tombs\n",
           t->records, t->groups, t->fates[FATE_LIVE], t->live_bytes,
           t->fates[FATE_OLD], t->fates[FATE_DEAD], t->tombs);
    if (s->flags & SEG_CLEAN)
        printf("checkpoint   %" PRIu64 " of %" PRIu64 " entries\n",
               t->check_entries, s->check_records);
    if (f->verify)
        printf("payloads     %" PRIu64 " read, %" PRIu64 " corrupt\n",
               t->verified, t->corrupt);
    if (f->index)
        printf("salvaged     %" PRIu64 " blocks\n", t->saved);
    printf("problems     %" PRIu64 "\n", t->problems);
}

static void summary_json(const struct fsck *f, const char *uuid)
{
    const struct tally *t = &f->tally;
    const struct seg_super *s = &f->im.super;
    json_t *o = json_pack(
        "{s:s,s:s,s:s,s:s,s:[s,s],s:I,s:I,s:{s:I,s:I,s:I,s:I,s:I},s:I,s:I}",
        "uuid", uuid, "state", life(&f->im), "writer", s->writer, "path",
        f->path, "superblocks", super_word(&f->im, 0), super_word(&f->im, 1),
        "major", (json_int_t)s->major, "minor", (json_int_t)s->minor,
        "segments", "free", (json_int_t)t->heads[0], "log",
        (json_int_t)t->heads[SEG_LOG], "checkpoint",
        (json_int_t)t->heads[SEG_CHECKPOINT], "tombs_only",
        (json_int_t)t->heads[SEG_TOMBS], "damaged",
        (json_int_t)t->heads[HEAD_DAMAGED], "segment_bytes",
        (json_int_t)s->segment_bytes, "groups", (json_int_t)t->groups);
    json_t *more = json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:O}", "records",
        (json_int_t)t->records, "live", (json_int_t)t->fates[FATE_LIVE],
        "live_bytes", (json_int_t)t->live_bytes, "old",
        (json_int_t)t->fates[FATE_OLD], "dead", (json_int_t)t->fates[FATE_DEAD],
        "tombs", (json_int_t)t->tombs, "verified", (json_int_t)t->verified,
        "corrupt", (json_int_t)t->corrupt, "salvaged", (json_int_t)t->saved,
        "problems", (json_int_t)t->problems, "problem_list", f->problems);

    if (!o || !more || json_object_update(o, more) != 0)
        die("out of memory");
    json_decref(more);
    print_json(stdout, o);
}

static void summary(const struct fsck *f)
{
    char uuid[33];

    print_hex(uuid, f->im.super.uuid, 16);
    if (f->json)
        summary_json(f, uuid);
    else
        summary_text(f, uuid);
}

/* ---- verbs */

static void collect(struct fsck *f)
{
    const struct image_visitor v = {.arg = f,
                                    .head = on_head,
                                    .group = on_group,
                                    .record = on_record,
                                    .tomb = on_tomb,
                                    .problem = on_problem};

    for (int i = 0; i < 2; i++)
        if (f->im.super_err[i] != OK)
            on_problem(f, 0, i ? SEG_SUPER_B / SEG_PAGE : 0,
                       "damaged or missing superblock");
    if (f->im.bytes < f->im.super.bytes)
        on_problem(f, 0, (uint32_t)(f->im.bytes / SEG_PAGE),
                   "the image ends here, before the store does");
    image_walk(&f->im, f->segment, &v);
    if (f->im.super.flags & SEG_CLEAN && !f->im.guessed)
        image_checkpoint(&f->im, &v, &f->tally.check_entries);
    decide(f);
}

static void run(struct fsck *f)
{
    struct image_visitor v = {.arg = f};

    collect(f);
    if (strcmp(f->verb, "dump") == 0) {
        v.record = dump_record;
        v.tomb = dump_tomb;
        image_walk(&f->im, f->segment, &v);
        return;
    }
    if (strcmp(f->verb, "salvage") == 0) {
        salvage_begin(f);
        v.record = salvage_record;
        image_walk(&f->im, f->segment, &v);
        salvage_end(f);
    }
    summary(f);
}

static const char usage[] =
    "usage: pikv-fsck [--json] [--verify] [--segment N] check IMAGE\n"
    "       pikv-fsck [--json] [--verify] [--segment N] dump IMAGE\n"
    "       pikv-fsck [--json] [--segment N] -o DIR salvage IMAGE\n"
    "IMAGE: the file or block device of an SSD tier that no pikvd uses\n";

static void options(struct fsck *f, int argc, char **argv)
{
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'},
        {"verify", no_argument, NULL, 'v'},
        {"segment", required_argument, NULL, 's'},
        {"output", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0}};
    char *end;
    int c;

    f->segment = UINT32_MAX;
    while ((c = getopt_long(argc, argv, "o:hV", longs, NULL)) != -1) {
        if (c == 'j') {
            f->json = true;
        } else if (c == 'v') {
            f->verify = true;
        } else if (c == 'o') {
            f->dir = optarg;
        } else if (c == 's') {
            unsigned long n = strtoul(optarg, &end, 10);

            if (*end || end == optarg || n >= UINT32_MAX)
                die("--segment wants a number");
            f->segment = (uint32_t)n;
        } else if (c == 'h' || c == 'V') {
            fputs(c == 'h' ? usage : "pikv-fsck " PIKV_VERSION "\n", stdout);
            exit(EXIT_CLEAN);
        } else {
            fputs(usage, stderr);
            exit(EXIT_CANNOT);
        }
    }
    if (argc - optind != 2 ||
        (strcmp(argv[optind], "check") && strcmp(argv[optind], "dump") &&
         strcmp(argv[optind], "salvage"))) {
        fputs(usage, stderr);
        exit(EXIT_CANNOT);
    }
    f->verb = argv[optind];
    f->path = argv[optind + 1];
    if ((strcmp(f->verb, "salvage") == 0) != (f->dir != NULL))
        die("salvage needs -o DIR, the other verbs do not take it");
    f->verify |= f->dir != NULL;
}

int main(int argc, char **argv)
{
    struct fsck f = {0};
    struct errmsg m;

    options(&f, argc, argv);
    if (image_open(&f.im, f.path, &m) != OK)
        die(m.text);
    if (f.segment != UINT32_MAX && f.segment >= f.im.super.segments)
        die("there is no such segment");
    f.problems = json_array();
    run(&f);
    if (fflush(stdout) != 0 || ferror(stdout))
        die("standard output could not be written");
    image_close(&f.im);
    finds_free(&f.finds);
    json_decref(f.problems);
    return f.tally.problems ? EXIT_PROBLEMS : EXIT_CLEAN;
}

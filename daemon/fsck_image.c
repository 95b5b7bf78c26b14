/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading an image for pikv-fsck: the lock, the superblocks, the walk. Reads
 * with pread through two buffers; a page that cannot be read or is missing
 * (the file is short) is a problem of its group, and the walk goes on with the
 * next header of the segment that can be believed, as recovery does. */
#include "fsck_image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool read_at(struct image *im, uint64_t off, void *to, size_t n)
{
    size_t have = 0;

    while (have < n) {
        ssize_t k =
            pread(im->fd, (char *)to + have, n - have, (off_t)(off + have));

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        have += (size_t)k;
    }
    return true;
}

static bool read_page(struct image *im, uint32_t page)
{
    return read_at(im, (uint64_t)page * SEG_PAGE, im->page, SEG_PAGE);
}

/* ---- opening */

static enum err open_file(struct image *im, const char *path, struct errmsg *m)
{
    struct stat st;

    im->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (im->fd < 0 || fstat(im->fd, &st) != 0)
        return errmsg_set(m, ERR_IO, "%s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode))
        im->bytes = (uint64_t)st.st_size;
    else if (!S_ISBLK(st.st_mode))
        return errmsg_set(m, ERR_CONFIG,
                          "%s: neither a file nor a block device", path);
    else if (ioctl(im->fd, BLKGETSIZE64, &im->bytes) != 0)
        return errmsg_set(m, ERR_IO, "%s: %s", path, strerror(errno));
    if (flock(im->fd, LOCK_EX | LOCK_NB) == 0)
        return OK;
    if (errno == EWOULDBLOCK)
        return errmsg_set(m, ERR_CONFIG,
                          "%s: in use by a running pikvd; fix: stop it first",
                          path);
    return errmsg_set(m, ERR_IO, "%s: cannot lock: %s", path, strerror(errno));
}

/* Any head page of a segment but the first tells store and segment size. */
static bool guess(struct image *im)
{
    static const uint64_t stride = SEG_BYTES_MIN;

    for (uint64_t off = SEG_DATA + stride; off + SEG_PAGE <= im->bytes;
         off += stride) {
        struct seg_head h;
        uint64_t size;

        if (!read_at(im, off, im->page, SEG_PAGE))
            continue;
        memcpy(&h, im->page, sizeof(h));
        if (h.magic != SEG_MAGIC_HEAD || h.segment == 0 ||
            (off - SEG_DATA) % h.segment != 0 ||
            seg_head_read(im->page, h.uuid, h.segment, &h) != OK)
            continue;
        size = (off - SEG_DATA) / h.segment;
        if (size < SEG_BYTES_MIN || size > SEG_BYTES_MAX || size % SEG_PAGE)
            continue;
        im->super = (struct seg_super){
            .major = SEG_MAJOR,
            .bytes = im->bytes,
            .segment_bytes = size,
            .segments = (uint32_t)((im->bytes - SEG_DATA) / size),
        };
        memcpy(im->super.uuid, h.uuid, sizeof(h.uuid));
        im->guessed = true;
        return true;
    }
    return false;
}

static enum err read_supers(struct image *im, const char *path,
                            struct errmsg *m)
{
    struct seg_super s = {0};
    bool found = false;

    for (int i = 0; i < 2; i++) {
        enum err e = ERR_IO;

        if (read_at(im, i ? SEG_SUPER_B : 0, im->page, SEG_PAGE))
            e = seg_super_read(im->page, &s);
        im->super_err[i] = e;
        if (e == ERR_UNSUPPORTED)
            return errmsg_set(m, e,
                              "%s: written by %s with format %u.%u, this "
                              "pikv-fsck reads up to %u.x; fix: use that "
                              "version's pikv-fsck",
                              path, s.writer, s.major, s.minor, SEG_MAJOR);
        if (e != OK)
            continue;
        im->super_seq[i] = s.seq;
        if (!found || s.seq > im->super.seq)
            im->super = s;
        found = true;
    }
    if (found || guess(im))
        return OK;
    if (im->super_err[0] == ERR_IO && im->super_err[1] == ERR_IO)
        return errmsg_set(m, ERR_IO, "%s: cannot be read", path);
    return errmsg_set(m, ERR_CONFIG, "%s: not a pikvd store", path);
}

enum err image_open(struct image *im, const char *path, struct errmsg *m)
{
    enum err e;

    *im = (struct image){.fd = -1};
    im->page = malloc(SEG_PAGE);
    im->buf = malloc(IMAGE_BUF);
    if (!im->page || !im->buf)
        e = errmsg_set(m, ERR_NO_MEMORY, "out of memory");
    else
        e = open_file(im, path, m);
    if (e == OK)
        e = read_supers(im, path, m);
    if (e)
        image_close(im);
    return e;
}

void image_close(struct image *im)
{
    if (im->fd >= 0)
        close(im->fd);
    free(im->page);
    free(im->buf);
    *im = (struct image){.fd = -1};
}

/* ---- walking */

static uint32_t first_page(const struct image *im, uint32_t segment)
{
    return (uint32_t)((SEG_DATA + segment * im->super.segment_bytes) /
                      SEG_PAGE);
}

static void tell_group(const struct image_visitor *v, const uint8_t *page,
                       uint32_t segment, const struct seg_group *g)
{
    uint32_t cursor = 0;

    if (v->group)
        v->group(v->arg, segment, g);
    for (uint32_t i = 0; i < g->record_n; i++) {
        struct seg_meta m;
        struct seg_tomb t;
        struct image_record r = {
            .segment = segment,
            .page = g->page + 1 + i * g->record_pages,
            .generation = g->generation,
            .m = &m,
        };

        if (g->kind == SEG_GROUP_TOMBS) {
            seg_group_next_tomb(page, &cursor, &t);
            if (v->tomb)
                v->tomb(v->arg, segment, &t);
        } else {
            seg_group_next(page, &cursor, &m);
            if (v->record)
                v->record(v->arg, &r);
        }
    }
}

static void problem(const struct image_visitor *v, uint32_t segment,
                    uint32_t page, const char *what)
{
    if (v->problem)
        v->problem(v->arg, segment, page, what);
}

/* The next header of this walk behind a damaged one, or end. */
static uint32_t seek(struct image *im, uint64_t generation, uint32_t seq,
                     uint32_t at, uint32_t end)
{
    struct seg_group g;

    for (; at < end; at++)
        if (read_page(im, at) &&
            seg_group_read(im->page, im->super.uuid, generation, at, UINT32_MAX,
                           &g) == OK &&
            g.seq >= seq && g.pages <= end - at)
            return at;
    return end;
}

/* generation 0: that of the headers is not known. */
static void walk_groups(struct image *im, uint32_t segment,
                        const struct seg_head *h, const struct image_visitor *v)
{
    uint8_t header[SEG_PAGE]; /* visitors may read through the image */
    uint32_t at = first_page(im, segment) + 1, seq = 0;
    uint32_t end = first_page(im, segment + 1);
    struct image_visitor tombs = *v;
    bool learned = h->generation > 0, sought = false;

    if (h->kind != SEG_LOG) {
        tombs.record = NULL;
        v = &tombs;
    }
    while (at < end) {
        struct seg_group g;
        enum err e = ERR_IO;

        if (read_page(im, at)) {
            memcpy(header, im->page, sizeof(header));
            e = seg_group_read(header, im->super.uuid, h->generation, at,
                               UINT32_MAX, &g);
        }
        if (e == OK &&
            (g.pages > end - at ||
             (h->generation && !sought ? g.seq != seq : g.seq < seq)))
            e = ERR_CORRUPT;
        if (e == ERR_MISS && learned)
            return;
        if (e == OK) {
            tell_group(v, header, segment, &g);
            learned = true;
            sought = false;
            seq = g.seq + 1;
            at += g.pages;
            continue;
        }
        if (e != ERR_MISS)
            problem(v, segment, at,
                    e == ERR_IO ? "group header cannot be read"
                                : "damaged group header");
        sought = true;
        at = seek(im, h->generation, seq, at + 1, end);
    }
}

/* What its headers say of a segment whose head page is bad: of the life that
 * the page still names, or tombs. */
static void head_guess(struct image *im, uint32_t segment, enum err e,
                       struct seg_head *h, const struct image_visitor *v)
{
    uint64_t claim = e == ERR_CORRUPT ? h->generation : 0;
    uint32_t at = first_page(im, segment) + 1;
    uint32_t end = first_page(im, segment + 1);

    *h = (struct seg_head){.kind = SEG_TOMBS};
    if (claim && seek(im, claim, 0, at, end) < end)
        *h = (struct seg_head){.kind = SEG_LOG, .generation = claim};
    else
        problem(v, segment, at - 1, "of this segment only tombs are believed");
}

void image_walk(struct image *im, uint32_t segment,
                const struct image_visitor *v)
{
    for (uint32_t i = 0; i < im->super.segments; i++) {
        struct seg_head h = {0};
        enum err e = ERR_IO;

        if (segment != UINT32_MAX && segment != i)
            continue;
        if (read_page(im, first_page(im, i)))
            e = seg_head_read(im->page, im->super.uuid, i, &h);
        if (v->head)
            v->head(v->arg, i, e, &h);
        if (e == ERR_MISS)
            continue;
        if (e != OK)
            problem(v, i, first_page(im, i),
                    e == ERR_CORRUPT ? "damaged head page"
                                     : "head page cannot be read");
        if (e != OK)
            head_guess(im, i, e, &h, v);
        if (h.kind != SEG_CHECKPOINT)
            walk_groups(im, i, &h, v);
    }
}

/* The segment of kind CHECKPOINT with this generation, or UINT32_MAX. */
static uint32_t check_segment(struct image *im, uint64_t generation)
{
    for (uint32_t i = 0; i < im->super.segments; i++) {
        struct seg_head h;

        if (read_page(im, first_page(im, i)) &&
            seg_head_read(im->page, im->super.uuid, i, &h) == OK &&
            h.kind == SEG_CHECKPOINT && h.generation == generation)
            return i;
    }
    return UINT32_MAX;
}

void image_checkpoint(struct image *im, const struct image_visitor *v,
                      uint64_t *entries_out)
{
    const struct seg_super *s = &im->super;
    uint64_t left = s->check_records;
    uint32_t at = 0, end = 0, segment = 0;

    *entries_out = 0;
    for (uint64_t k = 0; left > 0; at++) {
        uint32_t n = 0;

        if (at == end) {
            if (k == s->check_segments ||
                (segment = check_segment(im, s->check_generation + k)) ==
                    UINT32_MAX) {
                problem(v, s->check_segment, 0,
                        "a segment of the checkpoint is missing");
                return;
            }
            k++;
            at = first_page(im, segment) + 1;
            end = first_page(im, segment + 1);
        }
        if (!read_page(im, at) ||
            seg_check_read(im->page, s->check_generation + k - 1, at, &n) ||
            n == 0 || n > left) {
            problem(v, segment, at, "damaged checkpoint page");
            return;
        }
        left -= n;
        *entries_out += n;
    }
}

static bool write_all(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

enum err image_payload(struct image *im, uint32_t page, uint64_t len,
                       uint32_t crc, int to)
{
    uint64_t off = (uint64_t)page * SEG_PAGE;
    uint32_t got = 0;

    while (len > 0) {
        size_t n = (size_t)min_u64(len, IMAGE_BUF);

        if (!read_at(im, off, im->buf, n))
            return ERR_IO;
        got = crc32c(got, im->buf, n);
        if (to >= 0 && !write_all(to, im->buf, n))
            return ERR_NO_SPACE;
        off += n;
        len -= n;
    }
    return got == crc ? OK : ERR_CORRUPT;
}

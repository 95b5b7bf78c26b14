/* SPDX-License-Identifier: Apache-2.0
 *
 * See disk_mem.h. The queue is a plain list: progress() takes what is due,
 * the earliest first or, shuffled, any. A write that overlaps an io in flight
 * of the same disk aborts: nobody may write what is being read or written. But
 * a log that cannot read a header does not learn whose places it empties
 * (store/seglog_reclaim.c): on a media that is hurt a read of what was there
 * may meet a write of what comes, and its checksum tells. */
#include "tests/lib/disk_mem.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* What disk_io.disk_pos and disk_io.disk mean here. */
static uint64_t due_of(const struct disk_io *io)
{
    return io->disk_pos;
}

static struct mem_event *event_of(struct disk_mem *d, const struct disk_io *io)
{
    return d->media->record ? &d->media->events[(uintptr_t)io->disk] : NULL;
}

static uint64_t next_random(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* ---- media */

struct mem_media *mem_media_new(uint32_t dev_n, uint64_t bytes, bool record)
{
    struct mem_media *m = calloc(1, sizeof(*m));

    MUST(m && dev_n <= DISK_DEVS && bytes % DISK_PAGE == 0);
    m->dev_n = dev_n;
    m->bytes = bytes;
    m->record = record;
    for (uint32_t i = 0; i < dev_n; i++) {
        m->image[i] = mem_reserve(bytes);
        m->stable[i] = record ? mem_reserve(bytes) : NULL;
        MUST(m->image[i] && (m->stable[i] || !record));
    }
    return m;
}

void mem_media_free(struct mem_media *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->dev_n; i++) {
        mem_release(m->image[i], m->bytes);
        mem_release(m->stable[i], m->bytes);
    }
    for (uint32_t i = 0; i < m->event_n; i++)
        free(m->events[i].data);
    free(m->events);
    free(m);
}

void mem_media_forget(struct mem_media *m)
{
    uint32_t keep = m->event_n - m->fresh;

    if (!m->fresh)
        return;
    for (uint32_t i = m->fresh; i < m->event_n; i++)
        if (!m->events[i].done)
            return; /* its io knows it by number */
    memmove(m->events, m->events + m->fresh, keep * sizeof(*m->events));
    m->event_n = keep;
    m->fresh = 0;
}

static uint32_t event_new(struct mem_media *m, const struct disk_io *io)
{
    struct mem_event *e;
    uint64_t at = 0;

    if (m->event_n == m->event_cap) {
        m->event_cap = m->event_cap ? 2 * m->event_cap : 256;
        m->events = realloc(m->events, m->event_cap * sizeof(*m->events));
        MUST(m->events);
    }
    e = &m->events[m->event_n];
    *e = (struct mem_event){.what = io->what,
                            .dev = io->dev,
                            .off = io->off,
                            .len = io->len,
                            .began = ++m->ticks};
    if (io->what == DISK_WRITE) {
        e->data = malloc(io->len);
        MUST(e->data);
        for (uint32_t i = 0; i < io->span_n; i++) {
            memcpy(e->data + at, io->spans[i].p, io->spans[i].len);
            at += io->spans[i].len;
        }
    }
    return m->event_n++;
}

/* Copies what is not zero: an image keeps its holes. */
static void copy_image(uint8_t *to, const uint8_t *from, uint64_t bytes)
{
    static const uint8_t zeros[DISK_PAGE];

    for (uint64_t off = 0; off < bytes; off += DISK_PAGE)
        if (memcmp(from + off, zeros, DISK_PAGE))
            memcpy(to + off, from + off, DISK_PAGE);
}

/* pct % of the event's sectors. */
static void apply_part(uint8_t *image, const struct mem_event *e, uint64_t pct,
                       uint64_t *rng)
{
    for (uint64_t off = 0; off < e->len; off += 512) {
        if (next_random(rng) % 100 >= pct)
            continue;
        if (e->data)
            memcpy(image + e->off + off, e->data + off, 512);
        else
            memset(image + e->off + off, 0, 512);
    }
}

bool mem_media_flushed(const struct mem_media *m, uint64_t from, uint64_t to)
{
    for (uint32_t i = 0; i < m->event_n; i++) {
        const struct mem_event *e = &m->events[i];

        if (e->what == DISK_FLUSH && e->err == OK && e->began > from &&
            e->done && e->done <= to)
            return true;
    }
    return false;
}

static bool is_change(const struct mem_event *e)
{
    return !e->stable && (e->what == DISK_WRITE || e->what == DISK_DISCARD);
}

/* What was flushed before tick is stable from now on. */
static void flushed(struct mem_media *m, uint32_t dev, uint64_t tick)
{
    uint64_t rng = 0;

    for (uint32_t i = m->fresh; i < m->event_n; i++) {
        struct mem_event *e = &m->events[i];

        if (e->dev != dev || !e->done || e->done > tick || !is_change(e))
            continue;
        apply_part(m->stable[dev], e, 100, &rng);
        free(e->data);
        e->data = NULL;
        e->stable = true;
    }
    while (m->fresh < m->event_n && m->events[m->fresh].done &&
           !is_change(&m->events[m->fresh]))
        m->fresh++;
}

struct mem_media *mem_media_crash(const struct mem_media *m, enum mem_crash how,
                                  uint32_t keep_pct, uint64_t seed)
{
    struct mem_media *c = mem_media_new(m->dev_n, m->bytes, true);
    uint64_t rng = seed;

    MUST(m->record);
    c->hurt = m->hurt; /* a checkpoint may know old places */
    for (uint32_t d = 0; d < m->dev_n; d++)
        copy_image(c->image[d],
                   how == MEM_CRASH_KILL ? m->image[d] : m->stable[d],
                   m->bytes);
    for (uint32_t i = m->fresh; i < m->event_n; i++) {
        const struct mem_event *e = &m->events[i];
        bool whole = next_random(&rng) % 100 < keep_pct;
        bool part = keep_pct && next_random(&rng) % 2;

        if (!is_change(e) || (how == MEM_CRASH_KILL && e->done))
            continue;
        if (whole)
            apply_part(c->image[e->dev], e, 100, &rng);
        else if (part)
            apply_part(c->image[e->dev], e, 50, &rng);
    }
    for (uint32_t d = 0; d < m->dev_n; d++)
        copy_image(c->stable[d], c->image[d], m->bytes);
    return c;
}

/* ---- disk */

/* May the two be in flight beside each other, wherever they lie? */
static bool are_friends(const struct disk_mem *d, const struct disk_io *a,
                        const struct disk_io *b)
{
    bool reads_a = a->what == DISK_READ, reads_b = b->what == DISK_READ;

    return a->dev != b->dev || (reads_a && reads_b) ||
           (d->media->hurt && (reads_a || reads_b));
}

static void check_io(struct disk_mem *d, const struct disk_io *io)
{
    uint64_t sum = 0;

    MUST(io->dev < d->media->dev_n);
    MUST(io->off % DISK_PAGE == 0 && io->len % DISK_PAGE == 0);
    MUST(io->off + io->len <= d->media->bytes);
    if (io->what == DISK_READ || io->what == DISK_WRITE) {
        MUST(io->len && io->len <= DISK_IO_BYTES);
        MUST(io->span_n && io->span_n <= DISK_IO_SPANS);
        for (uint32_t i = 0; i < io->span_n; i++) {
            MUST((uintptr_t)io->spans[i].p % DISK_PAGE == 0);
            MUST(io->spans[i].len && io->spans[i].len % DISK_PAGE == 0);
            sum += io->spans[i].len;
        }
        MUST(sum == io->len);
    }
    LIST_FOREACH(n, &d->queue)
    {
        const struct disk_io *o = container_of(n, struct disk_io, node);

        MUST(o != io);
        if (!are_friends(d, o, io))
            MUST(o->off + o->len <= io->off || io->off + io->len <= o->off);
    }
}

static bool is_hit(struct disk_mem *d, enum disk_what what)
{
    struct disk_mem_fault *f = &d->fault;

    if (!(f->mask >> what & 1) || !f->nth)
        return false;
    if (f->nth > 1) {
        f->nth--;
        return false;
    }
    if (!f->forever)
        f->nth = 0;
    f->hits++;
    return true;
}

static void mem_submit(struct disk *disk, struct disk_io *io)
{
    struct disk_mem *d = container_of(disk, struct disk_mem, disk);
    uint64_t now = env_fresh_ns(d->cfg.env), due;

    d->inside = true;
    check_io(d, io);
    io->began_ns = now;
    due = max_u64(now, d->busy_ns[io->dev]) +
          io->len * d->cfg.ns_per_mib / MIB(1);
    d->busy_ns[io->dev] = due;
    due += d->cfg.latency_ns;
    if (d->cfg.spread_ns)
        due += next_random(&d->rng) % d->cfg.spread_ns;
    io->err = OK;
    if (is_hit(d, io->what)) {
        io->err = d->fault.err ? d->fault.err : ERR_IO;
        if (d->fault.hang)
            due = DEADLINE_NEVER;
    }
    io->disk_pos = due;
    io->disk = NULL;
    if (d->media->record)
        io->disk = (void *)(uintptr_t)event_new(d->media, io);
    list_add_tail(&d->queue, &io->node);
    disk->in_flight++;
    d->inside = false;
}

static void transfer(struct disk_mem *d, struct disk_io *io, uint64_t limit)
{
    uint8_t *p = d->media->image[io->dev] + io->off;

    for (uint32_t i = 0; i < io->span_n && limit; i++) {
        uint64_t n = min_u64(limit, io->spans[i].len);

        if (io->what == DISK_READ)
            memcpy(io->spans[i].p, p, n);
        else
            memcpy(p, io->spans[i].p, n);
        p += n;
        limit -= n;
    }
}

static void perform(struct disk_mem *d, struct disk_io *io)
{
    struct mem_media *m = d->media;
    struct mem_event *e = event_of(d, io);

    switch (io->what) {
    case DISK_READ:
        m->reads++;
        if (io->err == OK)
            transfer(d, io, io->len);
        else
            m->hurt = true;
        break;
    case DISK_WRITE:
        m->writes++;
        m->written_bytes[io->dev] += io->len;
        if (io->err == OK)
            transfer(d, io, io->len);
        else if (d->fault.partial)
            transfer(d, io, io->len / 2);
        break;
    case DISK_FLUSH:
        m->flushes++;
        if (io->err == OK && e)
            flushed(m, io->dev, e->began);
        break;
    case DISK_DISCARD:
        m->discards++;
        if (io->err == OK)
            memset(m->image[io->dev] + io->off, 0, io->len);
        break;
    }
    if (e) {
        e->done = ++m->ticks;
        e->err = io->err;
    }
}

/* The io to complete now, or NULL. */
static struct disk_io *take_due(struct disk_mem *d)
{
    uint64_t now = env_fresh_ns(d->cfg.env);
    struct disk_io *best = NULL;
    uint32_t n = 0;

    LIST_FOREACH(p, &d->queue)
    {
        struct disk_io *io = container_of(p, struct disk_io, node);

        if (due_of(io) > now)
            continue;
        n++;
        if (!best || (d->cfg.shuffle ? next_random(&d->rng) % n == 0
                                     : due_of(io) < due_of(best)))
            best = io;
    }
    return best;
}

static bool mem_progress(struct disk *disk)
{
    struct disk_mem *d = container_of(disk, struct disk_mem, disk);
    uint32_t n = d->cfg.batch ? d->cfg.batch : 64;

    MUST(!d->inside);
    for (; n; n--) {
        struct disk_io *io = take_due(d);

        if (!io)
            return false;
        list_del(&io->node);
        disk->in_flight--;
        perform(d, io);
        io->done(io);
    }
    return take_due(d) != NULL;
}

static bool mem_arm(struct disk *disk)
{
    return take_due(container_of(disk, struct disk_mem, disk)) == NULL;
}

static void mem_awake(struct disk *disk)
{
    (void)disk;
}

static const struct disk_ops mem_ops = {
    .name = "memory",
    .submit = mem_submit,
    .progress = mem_progress,
    .arm = mem_arm,
    .awake = mem_awake,
};

void disk_mem_init(struct disk_mem *d, struct mem_media *m,
                   const struct disk_mem_cfg *cfg)
{
    *d = (struct disk_mem){.media = m, .cfg = *cfg, .rng = cfg->seed};
    d->disk.ops = &mem_ops;
    d->disk.dev_n = m->dev_n;
    for (uint32_t i = 0; i < m->dev_n; i++)
        d->disk.dev_bytes[i] = m->bytes;
    list_init(&d->queue);
}

void disk_mem_fini(struct disk_mem *d)
{
    if (!d->media)
        return;
    while (list_pop(&d->queue))
        ;
    *d = (struct disk_mem){0};
}

uint64_t disk_mem_next_ns(const struct disk_mem *d)
{
    uint64_t next = DEADLINE_NEVER;

    LIST_FOREACH(n, &d->queue)
    next = min_u64(next, due_of(container_of(n, struct disk_io, node)));
    return next;
}

void disk_mem_unhang(struct disk_mem *d)
{
    LIST_FOREACH(n, &d->queue)
    {
        struct disk_io *io = container_of(n, struct disk_io, node);

        if (due_of(io) == DEADLINE_NEVER)
            io->disk_pos = 0;
    }
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See ssd_fake.h. A request is answered in the turn after the one in which it
 * came; groups are made of what is queued at that time, in its order. */
#include "tests/lib/ssd_fake.h"

#include <string.h>

#include "base/mem.h"
#include "store/store_impl.h"

static const uint8_t fssd_uuid[16] = "a test's store";

/* ---- the log */

static void fssd_submit(struct ssd *ssd, struct seg_req *r)
{
    struct fake_ssd *x = ssd->arg;
    uint64_t sum = 0;

    MUST(!x->inside && r->done && r->dev < ssd->n);
    for (uint32_t i = 0; i < r->span_n; i++) {
        MUST((uintptr_t)r->spans[i].p % SEG_PAGE == 0);
        MUST(r->spans[i].len % SEG_PAGE == 0);
        sum += r->spans[i].len;
    }
    if (r->what == SEG_REQ_PUT)
        MUST(sum == (uint64_t)seg_pages(r->meta.len) * SEG_PAGE);
    list_add_tail(&x->queue, &r->node);
}

static struct seg_req *first(struct list *l)
{
    return container_of(l->next, struct seg_req, node);
}

/* Payloads do not cross the end of a segment; page 0 of one is its head. */
static uint32_t place_group(struct fake_ssd *x, uint32_t dev, uint32_t pages)
{
    uint32_t data = x->maps[dev].data_page, in;
    uint32_t all = x->maps[dev].segment_pages;

    MUST(pages < all);
    in = (x->next_page[dev] - data) % all;
    if (in == 0 || in + pages > all)
        x->next_page[dev] += (all - in) % all + 1;
    x->next_page[dev] += pages;
    MUST(x->next_page[dev] <= data + FAKE_SEGMENTS * FAKE_SEGMENT_PAGES);
    return x->next_page[dev] - pages;
}

static void payload_write(struct fake_ssd *x, const struct seg_req *r,
                          uint32_t page)
{
    uint8_t *at = x->media->image[r->dev] + (uint64_t)page * SEG_PAGE;

    for (uint32_t i = 0; i < r->span_n; i++) {
        memcpy(at, r->spans[i].p, r->spans[i].len);
        at += r->spans[i].len;
    }
    for (uint64_t i = 0; i < -(uint64_t)r->meta.len % SEG_PAGE; i++)
        MUST(at[-1 - (int64_t)i] == 0);
}

/* As many as make one group, from the front. */
static void group_write(struct fake_ssd *x, struct list *out)
{
    struct seg_req *r = first(&x->queue);
    uint32_t pages = seg_pages(r->meta.len), dev = r->dev, n = 0, at;
    static uint8_t page[SEG_PAGE];

    list_init(out);
    seg_group_begin(page, SEG_GROUP_RECORDS);
    while (!list_empty(&x->queue)) {
        r = first(&x->queue);
        if (r->what != SEG_REQ_PUT || r->dev != dev || n == SEG_RECORDS ||
            seg_pages(r->meta.len) != pages ||
            1 + (n + 1) * pages >= x->maps[dev].segment_pages ||
            !seg_group_add(page, &r->meta))
            break;
        list_del(&r->node);
        list_add_tail(out, &r->node);
        n++;
    }
    at = place_group(x, dev, 1 + n * pages);
    seg_group_seal(page, fssd_uuid, 1, at, 0, pages);
    memcpy(x->media->image[dev] + (uint64_t)at * SEG_PAGE, page, SEG_PAGE);
    MUST(x->header_n < FAKE_HEADERS);
    x->headers[x->header_n++] = (struct fake_header){dev, at};
    n = 0;
    LIST_FOREACH(node, out)
    {
        r = container_of(node, struct seg_req, node);
        r->place = (struct seg_place){at + 1 + n * pages, seg_tag(dev, n)};
        payload_write(x, r, r->place.page);
        n++;
    }
}

static void puts_answer(struct fake_ssd *x)
{
    struct list group, *n;

    if (x->fail) {
        list_init(&group);
        n = list_pop(&x->queue);
        list_add_tail(&group, n);
    } else {
        group_write(x, &group);
    }
    while ((n = list_pop(&group))) {
        struct seg_req *r = container_of(n, struct seg_req, node);

        r->err = x->fail;
        x->puts += !x->fail;
        x->agains += !x->fail && r->again;
        r->done(r);
    }
}

static void order_answer(struct fake_ssd *x)
{
    struct seg_req *r = container_of(list_pop(&x->queue), struct seg_req, node);

    r->err = x->fail_order;
    if (r->what == SEG_REQ_TOMB) {
        x->tombs += !r->err;
        x->last_tomb = r->tomb;
    } else {
        x->flushes += !r->err;
    }
    r->done(r);
}

static void log_turn(struct fake_ssd *x)
{
    if (x->hold)
        return;
    for (uint32_t i = 0; i < 64 && !list_empty(&x->queue); i++) {
        if (first(&x->queue)->what == SEG_REQ_PUT)
            puts_answer(x);
        else
            order_answer(x);
    }
}

/* ---- set-up */

static void maps_init(struct fake_ssd *x, uint32_t devs)
{
    for (uint32_t i = 0; i < devs; i++) {
        x->next_page[i] = SEG_DATA / SEG_PAGE;
        x->maps[i] = (struct seg_map){.dev = i,
                                      .state = SEGLOG_OPEN,
                                      .segments = FAKE_SEGMENTS,
                                      .segment_pages = FAKE_SEGMENT_PAGES,
                                      .data_page = SEG_DATA / SEG_PAGE,
                                      .readers = x->readers[i]};
        x->ssd.maps[i] = &x->maps[i];
    }
}

void fssd_init(struct fake_ssd *x, uint32_t units, uint32_t devs)
{
    uint64_t bytes =
        SEG_DATA + (uint64_t)FAKE_SEGMENTS * FAKE_SEGMENT_PAGES * SEG_PAGE;

    memset(x, 0, sizeof *x);
    sfix_init(&x->f, units);
    x->f.cfg.ssd_blocks_max = 1 << 16;
    x->media = mem_media_new(devs, bytes, false);
    disk_mem_init(&x->disk, x->media,
                  &(struct disk_mem_cfg){.env = &x->f.env,
                                         .latency_ns = 50 * NS_PER_US,
                                         .seed = 1});
    list_init(&x->queue);
    x->ssd = (struct ssd){.disk = &x->disk.disk,
                          .n = devs,
                          .lanes = 1,
                          .submit = fssd_submit,
                          .arg = x,
                          .write_window = MIB(8),
                          .load_window = MIB(64)};
    maps_init(x, devs);
}

enum err fssd_start(struct fake_ssd *x)
{
    enum err e = sfix_start(&x->f);

    if (e)
        return e;
    e = store_ssd_set(x->f.s, &x->ssd);
    if (!e)
        return OK;
    store_free(x->f.s);
    x->f.s = NULL;
    return e;
}

void fssd_open(struct fake_ssd *x, uint32_t units, uint32_t devs,
               const struct evict_ops *policy)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, policy);

    fssd_init(x, units, devs);
    MUST(fssd_start(x) == OK);
    MUST(store_ns_set(x->f.s, &ns) == OK);
}

void fssd_close(struct fake_ssd *x)
{
    if (x->f.s) {
        x->hold = false;
        fssd_run(x);
    }
    sfix_close(&x->f);
    disk_mem_fini(&x->disk);
    mem_media_free(x->media);
}

void fssd_restart(struct fake_ssd *x)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);

    MUST(store_ssd_idle(x->f.s));
    store_free(x->f.s);
    memset(&x->f.metrics, 0, sizeof x->f.metrics);
    x->f.env.boot_us += 1000000;
    MUST(fssd_start(x) == OK);
    MUST(store_ns_set(x->f.s, &ns) == OK);
}

void fssd_adopt(struct fake_ssd *x)
{
    for (uint32_t i = 0; i < x->header_n; i++) {
        struct fake_header h = x->headers[i];
        const uint8_t *page =
            x->media->image[h.dev] + (uint64_t)h.page * SEG_PAGE;
        struct seg_group g;
        uint32_t cursor = 0;

        MUST(!seg_group_read(page, fssd_uuid, 1, h.page, UINT32_MAX, &g));
        for (uint32_t k = 0; k < g.record_n; k++) {
            struct seg_place p = {h.page + 1 + k * g.record_pages,
                                  seg_tag(h.dev, k)};
            struct seg_meta m;

            seg_group_next(page, &cursor, &m);
            store_adopt(x->f.s, &m, &p);
        }
    }
    store_adopted(x->f.s);
}

/* ---- turns */

void fssd_turn(struct fake_ssd *x)
{
    x->f.env.now_ns += 10 * NS_PER_US;
    log_turn(x);
    x->disk.disk.ops->progress(&x->disk.disk);
    store_tick(x->f.s);
}

void fssd_run(struct fake_ssd *x)
{
    for (int i = 0; i < 20; i++)
        fssd_turn(x);
    for (int i = 0; !store_ssd_idle(x->f.s) && i < 10000; i++)
        fssd_turn(x);
}

/* ---- blocks */

static uint8_t byte_at(struct hash128 h, uint64_t i)
{
    return (uint8_t)((h.lo + i * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static uint32_t fill(struct fake_ssd *x, uint32_t b, struct hash128 h)
{
    static struct span spans[STORE_SPANS_MAX];
    uint32_t n =
        store_spans(x->f.s, b, 0, store_len(x->f.s, b), spans, STORE_SPANS_MAX);
    uint32_t crc = 0;
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        for (uint64_t k = 0; k < spans[i].len; k++)
            spans[i].p[k] = byte_at(h, at++);
        crc = crc32c(crc, spans[i].p, spans[i].len);
    }
    return crc;
}

bool fssd_same(struct fake_ssd *x, uint32_t b)
{
    static struct span spans[STORE_SPANS_MAX];
    struct hash128 h = entry_at(x->f.s, b)->hash;
    uint32_t n =
        store_spans(x->f.s, b, 0, store_len(x->f.s, b), spans, STORE_SPANS_MAX);
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < spans[i].len; k++)
            if (spans[i].p[k] != byte_at(h, at++))
                return false;
    return true;
}

enum err fssd_put(struct fake_ssd *x, const char *name, const char *parent,
                  const struct wire_attr *attr, uint64_t len)
{
    struct store_key k = sfix_key(&x->f, 1, name);
    uint32_t b = 0;
    enum err e =
        store_reserve(x->f.s, &k, attr, (const uint8_t *)parent,
                      (uint16_t)(parent ? strlen(parent) : 0), len, &b);

    if (e)
        return e;
    store_commit(x->f.s, b, fill(x, b, k.hash));
    store_unref(x->f.s, b);
    return OK;
}

void fssd_put_written(struct fake_ssd *x, const char *name, const char *parent,
                      uint64_t len)
{
    MUST(fssd_put(x, name, parent, NULL, len) == OK);
    fssd_run(x);
    MUST(store_on_ssd(x->f.s, sfix_find(&x->f, 1, name)));
}

uint32_t fssd_put_cold(struct fake_ssd *x, const char *name, const char *parent,
                       uint64_t len)
{
    fssd_put_written(x, name, parent, len);
    store_demote(x->f.s, sfix_find(&x->f, 1, name));
    MUST(store_where(x->f.s, sfix_find(&x->f, 1, name)) == WHERE_SSD);
    return sfix_find(&x->f, 1, name);
}

uint32_t fssd_dones;

void fssd_done(struct store_wait *w)
{
    MUST(!w->pending);
    fssd_dones++;
}

enum err fssd_load(struct fake_ssd *x, const char *name, struct store_wait *w)
{
    struct store_key k = sfix_key(&x->f, 1, name);
    enum store_found why;
    uint32_t b = store_find(x->f.s, &k, &why);

    MUST(b);
    if (w)
        *w = (struct store_wait){.done = fssd_done};
    return store_load(x->f.s, b, &k, LOAD_DEMAND, w);
}

enum err fssd_get(struct fake_ssd *x, const char *name)
{
    uint32_t b = sfix_find(&x->f, 1, name);
    struct store_wait w = {0};
    enum err e = OK;

    if (!b)
        return ERR_MISS;
    store_use(x->f.s, b);
    if (store_where(x->f.s, b) == WHERE_MEMORY) {
        store_ref(x->f.s, b);
    } else {
        e = fssd_load(x, name, &w);
        for (int i = 0; w.pending && i < 10000; i++)
            fssd_turn(x);
        MUST(!w.pending);
        if (!e)
            e = w.err;
    }
    if (e)
        return e;
    e = fssd_same(x, b) ? OK : ERR_CORRUPT;
    store_unref(x->f.s, b);
    return e;
}

/* ---- places */

struct seg_place fssd_place(struct fake_ssd *x, uint32_t b)
{
    const struct entry *e = entry_at(x->f.s, b);

    MUST(e->ssd);
    return (struct seg_place){e->ssd, e->tag};
}

uint8_t *fssd_payload(struct fake_ssd *x, uint32_t b)
{
    struct seg_place p = fssd_place(x, b);

    return x->media->image[seg_dev(p.tag)] + (uint64_t)p.page * SEG_PAGE;
}

uint8_t *fssd_header(struct fake_ssd *x, uint32_t b)
{
    struct seg_place p = fssd_place(x, b);

    return x->media->image[seg_dev(p.tag)] +
           (uint64_t)seg_header_page(p, store_len(x->f.s, b)) * SEG_PAGE;
}

uint32_t fssd_segment_of(struct fake_ssd *x, uint32_t b)
{
    struct seg_place p = fssd_place(x, b);

    return seg_map_segment(&x->maps[seg_dev(p.tag)], p.page);
}

uint64_t fssd_reclaim(struct fake_ssd *x, uint32_t dev, uint32_t segment,
                      uint64_t again_bytes)
{
    uint64_t left = again_bytes;

    for (uint32_t i = 0; i < x->header_n; i++) {
        struct fake_header h = x->headers[i];
        struct seg_reclaim r = {.dev = dev,
                                .segment = segment,
                                .page = x->media->image[dev] +
                                        (uint64_t)h.page * SEG_PAGE,
                                .first_page = h.page + 1,
                                .again_bytes = left,
                                .again_left = &left};

        if (h.dev == dev && seg_map_segment(&x->maps[dev], h.page) == segment)
            store_reclaim(x->f.s, &r);
    }
    return again_bytes - left;
}

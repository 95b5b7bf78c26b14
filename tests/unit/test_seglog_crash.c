/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto
 *
 * Crash enumeration: before every step of a workload, the device as a crash
 * would leave it, with every subset of what was not flushed (or many, and parts
 * of writes, where there are too many subsets), is opened and held against what
 * had been answered by then. SUBSETS=n: up to 2^n images at each point. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/logrig.h"
#include "tests/lib/sure.h"

static struct rig writer;
static uint64_t scratch_flushes; /* of the image that rig_scratch is now */
static uint32_t crash_bits;

/* Must this version be there after any crash from now on? */
static bool promised(const struct rig *w, const struct rig_put *p)
{
    uint32_t s;

    if (!p->req.durable || !p->placed || rig_asked[p->k] >= p->req.meta.version)
        return false;
    s = seg_map_segment(&w->map, p->req.place.page);
    return w->g->segs[s].state == SEG_HEAD || w->g->segs[s].state == SEG_FULL;
}

/* Opens the scratch device and holds it against what was answered. */
static void check_crash(const struct rig *w)
{
    static struct rig r;

    rig_init(&r, rig_scratch, 0);
    rig_open(&r, SEGLOG_OPEN_OR_FORMAT);
    SURE_MSG(r.err == OK, "%s", r.msg.text);
    seglog_check(r.g);
    for (uint32_t k = 0; k < RIG_KEYS; k++)
        if (rig_alive(&r, k))
            SURE_MSG(r.found[k] > rig_dead[k],
                     "key %u: %lu was dropped up to %lu", k, r.found[k],
                     rig_dead[k]);
    for (uint32_t i = 0; i < rig_put_n; i++) {
        uint32_t k = rig_puts[i].k;

        if (!promised(w, &rig_puts[i]))
            continue;
        SURE_MSG(rig_alive(&r, k) && r.found[k] > i,
                 "key %u: %u was durable, %lu found, tomb %lu", k, i + 1,
                 r.found[k], r.tomb[k]);
        if (r.found[k] == i + 1)
            SURE(rig_intact(&r, k));
    }
    rig_images++;
    rig_fini(&r);
}

static void apply(const struct mem_event *e, bool part)
{
    for (uint64_t off = 0; off < e->len; off += 512)
        if (!part || chance(2))
            memcpy(rig_scratch->image[0] + e->off + off, e->data + off, 512);
}

/* Every subset of what is not flushed, or, if there are too many, some, with
 * parts of writes. */
static void crash_here(const struct rig *w)
{
    const struct mem_media *m = w->media;
    const struct mem_event *e[64];
    uint32_t n = 0, bits = crash_bits;

    if (scratch_flushes != m->flushes)
        rig_page_back(m->stable[0], 0, RIG_BYTES);
    scratch_flushes = m->flushes;
    for (uint32_t i = m->fresh; i < m->event_n && n < 64; i++)
        if (m->events[i].data && !m->events[i].stable)
            e[n++] = &m->events[i];
    for (uint32_t s = 0; s < 1u << (n < bits ? n : bits); s++) {
        for (uint32_t i = 0; i < n; i++)
            if (n <= bits)
                (s >> i & 1) ? apply(e[i], false) : (void)0;
            else if (s == 0 || chance(3))
                apply(e[i], s > 0 && chance(4) == 0);
        check_crash(w);
        for (uint32_t i = 0; i < n; i++)
            rig_page_back(m->stable[0], e[i]->off, e[i]->len);
        rig_meta_back(m->stable[0]);
    }
}

/* What the writer knows after a restart: what was found. What was not found
 * must never be seen again. */
static void relearn(struct rig *w)
{
    for (uint32_t i = 0; i < rig_put_n; i++) {
        rig_puts[i].answered = true;
        rig_puts[i].placed = false;
    }
    for (uint32_t k = 0; k < RIG_KEYS; k++) {
        rig_asked[k] = max_u64(rig_asked[k], rig_dead[k]);
        if (rig_alive(w, k)) {
            rig_puts[w->found[k] - 1].placed = true;
            rig_puts[w->found[k] - 1].req.place = w->place[k];
            rig_last[k] = w->found[k];
        } else {
            rig_dead[k] = rig_asked[k] = rig_last[k];
        }
    }
}

static void crash_run(const struct rig_work *k, bool close, bool again)
{
    struct mem_media *m = mem_media_new(1, RIG_BYTES, true), *c;

    crash_bits = rig_setting("SUBSETS", 4, 2);
    rig_hook = crash_here;
    scratch_flushes = UINT64_MAX;
    rig_begin(&writer, m);
    rig_work(&writer, k);
    if (close) {
        rig_go(&writer, UINT32_MAX);
        rig_finish(&writer, true);
        rig_go(&writer, 4);
    }
    if (again) {
        c = mem_media_crash(m, MEM_CRASH_POWER, 50, chance(1 << 30));
        rig_fini(&writer);
        mem_media_free(m);
        m = c;
        scratch_flushes = UINT64_MAX;
        for (uint32_t i = 0; i < rig_put_n; i++)
            rig_puts[i].placed = false; /* checked by the open below */
        rig_begin(&writer, m);
        relearn(&writer);
        rig_work(&writer, k);
    }
    rig_fini(&writer);
    mem_media_free(m);
    printf("%lu crash images\n", rig_images);
    SURE(rig_images > 50);
}

START_TEST(crash_while_blocks_are_written)
{
    crash_run(&(struct rig_work){40, 60000, 0, 0, 6}, false, false);
}
END_TEST

START_TEST(crash_while_durable_blocks_and_drops_are_written)
{
    crash_run(&(struct rig_work){60, 20000, 60, 40, 6}, false, false);
}
END_TEST

START_TEST(crash_while_segments_are_reclaimed)
{
    crash_run(&(struct rig_work){200, 220000, 20, 30, 12}, false, false);
}
END_TEST

START_TEST(crash_in_and_after_a_close_in_order)
{
    crash_run(&(struct rig_work){40, 60000, 30, 30, 8}, true, true);
}
END_TEST

START_TEST(crash_in_the_life_after_a_crash)
{
    crash_run(&(struct rig_work){60, 100000, 40, 30, 8}, false, true);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("seglog_crash");
    TCase *t = tcase_create("images");

    tcase_add_checked_fixture(t, rig_setup, rig_teardown);
    tcase_set_timeout(t, 3600);
    tcase_add_test(t, crash_while_blocks_are_written);
    tcase_add_test(t, crash_while_durable_blocks_and_drops_are_written);
    tcase_add_test(t, crash_while_segments_are_reclaimed);
    tcase_add_test(t, crash_in_and_after_a_close_in_order);
    tcase_add_test(t, crash_in_the_life_after_a_crash);
    suite_add_tcase(s, t);
    return s;
}

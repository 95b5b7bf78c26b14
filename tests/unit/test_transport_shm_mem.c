/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "tests/lib/shm_fix.h"

enum { MEM = 4 << 20, EXT = 4 << 20 };

/* The memories a client may bring. */
enum brought { SEALED, UNSEALED, FILE_ON_DISK, BROUGHT };

static uint8_t *ext; /* the daemon's extent */
static uint8_t *mem; /* the client's mapping of what it registered */
static int mem_fd;

static int bring(enum brought how)
{
    int fd = how == FILE_ON_DISK ? open("/tmp", O_TMPFILE | O_RDWR, 0600)
                                 : memfd_create("t", MFD_ALLOW_SEALING);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, MEM), 0);
    if (how == SEALED)
        ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    return fd;
}

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        memcpy(p + i, &seed, 8);
    }
}

static enum err reg(struct fix_peer *p, int fd, uint64_t off, uint64_t len,
                    bool writable, uint32_t *id, bool *mapped)
{
    return fix.t->ops->mem_register(p->tp, fd, off, len, writable, id, mapped);
}

/* A memory of the kind, registered whole; mem and mem_fd are set. */
static uint32_t registered(struct fix_peer *p, enum brought how)
{
    uint32_t id = 0;
    bool mapped;

    mem_fd = bring(how);
    mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED, mem_fd, 0);
    fill(mem, MEM, 1);
    ck_assert_int_eq(reg(p, dup(mem_fd), 0, MEM, true, &id, &mapped), OK);
    ck_assert_int_eq(mapped, how == SEALED);
    return id;
}

static void setup(void)
{
    fix_setup();
    ext = malloc(EXT);
    fill(ext, EXT, 2);
    mem = NULL;
    mem_fd = -1;
}

static void teardown(void)
{
    if (mem)
        munmap(mem, MEM);
    if (mem_fd >= 0)
        close(mem_fd);
    fix_teardown();
    free(ext);
}

static struct fix_xfer one;
static struct wire_seg seg;
static struct span span;

/* One segment, one span, req 1. */
static struct fix_xfer *prepare(uint32_t id, uint64_t off, uint64_t len)
{
    seg = (struct wire_seg){id, 0, off, len};
    span = (struct span){ext, len};
    one = (struct fix_xfer){.x = {.req = 1,
                                  .seg_n = 1,
                                  .segs = (const uint8_t *)&seg,
                                  .spans = &span,
                                  .span_n = 1,
                                  .want_crc = true,
                                  .len = len}};
    return &one;
}

static enum err moved(struct fix_peer *p, struct fix_xfer *x, bool push)
{
    fix_xfer(p, x, push);
    fix_run();
    ck_assert_uint_eq(x->dones, 1);
    return x->e;
}

START_TEST(sealed_memory_is_mapped_and_other_is_used_through_its_fd)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t fds = fix_fds(), id;
    bool mapped;

    ck_assert_int_eq(reg(p, bring(SEALED), 4096, 100, false, &id, &mapped), OK);
    ck_assert(mapped);
    ck_assert_uint_eq(fix_fds(), fds);
    ck_assert_int_eq(reg(p, bring(UNSEALED), 0, MEM, true, &id, &mapped), OK);
    ck_assert(!mapped);
    ck_assert_int_eq(reg(p, bring(FILE_ON_DISK), 3, 7, true, &id, &mapped), OK);
    ck_assert(!mapped);
    ck_assert_uint_eq(fix_fds(), fds + 2);
    shm_client_close(&fix.c[0]);
    fix_run();
    ck_assert_uint_lt(fix_fds(), fds);
}
END_TEST

START_TEST(ids_are_never_used_again)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t seen[200], id;
    bool mapped;

    for (uint32_t i = 0; i < 200; i++) {
        ck_assert_int_eq(reg(p, bring(SEALED), 0, 64, true, &id, &mapped), OK);
        for (uint32_t j = 0; j < i; j++)
            ck_assert_uint_ne(seen[j], id);
        seen[i] = id;
        ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, id), OK);
        ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, id), ERR_NO_MEM);
    }
    ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, 0), ERR_NO_MEM);
    ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, UINT32_MAX), ERR_NO_MEM);
}
END_TEST

/* A refused descriptor stays the caller's. */
static void refused(struct fix_peer *p, int fd, uint64_t off, uint64_t len,
                    bool writable, enum err e)
{
    uint32_t id = 99;
    bool mapped;

    ck_assert_int_eq(reg(p, fd, off, len, writable, &id, &mapped), e);
    ck_assert_uint_eq(id, 99);
    ck_assert_int_eq(close(fd), fd < 0 ? -1 : 0);
}

START_TEST(what_could_block_or_is_not_readable_is_refused)
{
    struct fix_peer *p = fix_connect(0);
    int ends[2];
    char path[64];

    ck_assert_int_eq(pipe(ends), 0);
    refused(p, ends[0], 0, 1, false, ERR_BAD_REQUEST);
    refused(p, ends[1], 0, 1, false, ERR_BAD_REQUEST);
    refused(p, open("/dev/zero", O_RDWR), 0, 1, true, ERR_BAD_REQUEST);
    refused(p, open("/tmp", O_RDONLY), 0, 1, false, ERR_BAD_REQUEST);
    refused(p, socket(AF_UNIX, SOCK_STREAM, 0), 0, 1, false, ERR_BAD_REQUEST);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", mem_fd = bring(UNSEALED));
    refused(p, open(path, O_PATH), 0, 1, false, ERR_BAD_REQUEST);
    refused(p, open(path, O_WRONLY), 0, 1, false, ERR_DENIED);
    refused(p, open(path, O_RDONLY), 0, 1, true, ERR_DENIED);
    refused(p, open(path, O_RDWR | O_APPEND), 0, 1, true, ERR_DENIED);
    refused(p, open(path, O_RDWR), 0, 0, true, ERR_BAD_REQUEST);
    refused(p, open(path, O_RDWR), 1, UINT64_MAX, true, ERR_BAD_REQUEST);
    refused(p, open(path, O_RDWR), 1ull << 63, 1, true, ERR_BAD_REQUEST);
    refused(p, open(path, O_RDWR), 1, MEM, true, ERR_MEM_FAULT);
    ck_assert_int_eq(
        fcntl(mem_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
    refused(p, open(path, O_RDWR), 0, MEM, true, ERR_DENIED);
    refused(p, -1, 0, 1, false, ERR_BAD_REQUEST);
}
END_TEST

START_TEST(memories_and_their_bytes_are_limited)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id, i;
    bool mapped;

    for (i = 0; i < fix.cfg.memories_per_peer; i++)
        ck_assert_int_eq(reg(p, bring(SEALED), 0, MEM, true, &id, &mapped), OK);
    refused(p, bring(SEALED), 0, 1, true, ERR_BUSY);
    fix_close(p, true);
    fix_run();
    transport_shm_close(fix.t);
    fix.cfg.registered_bytes_per_peer = MEM + 5;
    ck_assert_int_eq(fix_open(), OK);
    shm_client_close(&fix.c[0]);
    p = fix_connect(0);
    refused(p, bring(SEALED), 0, MEM + 6, true, ERR_MEM_FAULT);
    ck_assert_int_eq(reg(p, bring(SEALED), 0, MEM, true, &id, &mapped), OK);
    refused(p, bring(SEALED), 0, 6, true, ERR_BUSY);
    ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, id), OK);
    ck_assert_int_eq(reg(p, bring(SEALED), 0, MEM, true, &id, &mapped), OK);
}
END_TEST

/* The same sequence in every run. */
static uint32_t rnd_state;

static uint32_t rnd(uint32_t n)
{
    rnd_state = rnd_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)rnd_state * n >> 32);
}

/* Cuts [0, len) into n pieces of random lengths, some empty. */
static void cut(uint64_t *lens, uint32_t n, uint64_t len)
{
    for (uint32_t i = 0; i < n; i++) {
        lens[i] = i + 1 == n ? len : rnd((uint32_t)(len / (n - i) * 2 + 1));
        if (rnd(8) == 0 && i + 1 < n)
            lens[i] = 0;
        len -= lens[i];
    }
}

START_TEST(bytes_and_crc_are_right_for_any_segments_and_spans)
{
    enum { N = 40 };
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, (enum brought)(_i % BROUGHT));
    bool push = _i >= BROUGHT;
    uint8_t *flat = malloc(MEM);

    rnd_state = 3;
    for (int round = 0; round < 60; round++) {
        uint32_t seg_n = 1 + rnd(N);
        uint32_t span_n = 1 + rnd(N);
        uint64_t len = 1 + rnd(round % 4 ? 90000 : 3000000);
        uint64_t a[N], b[N], at = rnd(1000), done = 0;
        struct wire_seg segs[N];
        struct span spans[N];
        struct fix_xfer *x = prepare(id, 0, 0);

        cut(a, seg_n, len);
        cut(b, span_n, len);
        for (uint32_t i = 0; i < seg_n; i++) { /* segments from the end on */
            at += a[i];
            segs[i] = (struct wire_seg){id, 0, MEM - at, a[i]};
            memcpy(flat + done, mem + MEM - at, a[i]);
            done += a[i];
        }
        for (uint32_t i = 0, off = 0; i < span_n; i++) {
            spans[i] = (struct span){ext + off, b[i]};
            off += (uint32_t)b[i];
        }
        x->x.segs = (const uint8_t *)segs;
        x->x.seg_n = seg_n;
        x->x.spans = spans;
        x->x.span_n = span_n;
        x->x.len = len;
        if (push)
            fill(ext, EXT, (uint64_t)round);
        ck_assert_int_eq(moved(p, x, push), OK);
        ck_assert_uint_eq(x->x.moved, len);
        for (uint32_t i = 0, off = 0; push && i < seg_n; i++) {
            memcpy(flat + off, mem + segs[i].off, a[i]);
            off += (uint32_t)a[i];
        }
        ck_assert_int_eq(memcmp(flat, ext, len), 0);
        ck_assert_uint_eq(x->x.crc, push ? 0 : crc32c(0, ext, len));
    }
    free(flat);
}
END_TEST

START_TEST(a_transfer_that_is_not_right_moves_nothing)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, SEALED), ro;
    bool mapped;

    ck_assert_int_eq(reg(p, bring(SEALED), 0, MEM, false, &ro, &mapped), OK);
    ck_assert_int_eq(moved(p, prepare(id + 3, 0, 9), true), ERR_NO_MEM);
    ck_assert_int_eq(moved(p, prepare(0, 0, 9), true), ERR_NO_MEM);
    ck_assert_int_eq(moved(p, prepare(id, MEM - 8, 9), true), ERR_BAD_REQUEST);
    ck_assert_int_eq(moved(p, prepare(id, UINT64_MAX, 9), true),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(moved(p, prepare(ro, 0, 9), true), ERR_DENIED);
    ck_assert_int_eq(moved(p, prepare(ro, 0, 9), false), OK);
    prepare(id, 0, 10);
    seg.len = 9;
    ck_assert_int_eq(moved(p, &one, true), ERR_BAD_REQUEST);
    prepare(id, 0, 1);
    one.x.seg_n = 0;
    ck_assert_int_eq(moved(p, &one, true), ERR_BAD_REQUEST);
    ck_assert_uint_eq(one.x.moved, 0);
    fill(ext, MEM, 1);
    ck_assert_int_eq(memcmp(mem, ext, MEM), 0);
    ck_assert_int_eq(moved(p, prepare(id, 0, 0), false), OK);
}
END_TEST

START_TEST(a_client_that_truncates_its_memory_gets_a_fault)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, (enum brought)(UNSEALED + _i));

    ck_assert_int_eq(ftruncate(mem_fd, 4096), 0);
    ck_assert_int_eq(moved(p, prepare(id, 0, 8192), false), ERR_MEM_FAULT);
    ck_assert_int_eq(moved(p, prepare(id, 8192, 8192), false), ERR_MEM_FAULT);
    ck_assert_int_eq(moved(p, prepare(id, 0, 4096), false), OK);
    /* Writing makes the file longer again: the client's own affair. */
    ck_assert_int_eq(moved(p, prepare(id, 0, 8192), true), OK);
}
END_TEST

START_TEST(a_client_cannot_truncate_what_is_mapped)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, SEALED);

    ck_assert_int_eq(ftruncate(mem_fd, 0), -1);
    ck_assert_int_eq(fallocate(mem_fd, FALLOC_FL_PUNCH_HOLE |
                                           FALLOC_FL_KEEP_SIZE, 0, MEM), 0);
    ck_assert_int_eq(moved(p, prepare(id, 0, MEM), false), OK);
    ck_assert_uint_eq(ext[0], 0);
}
END_TEST

/* No huge page is free on most machines, so its bytes cannot be had: the way a
 * hole in such memory looks. Where there are pages, the bytes are zeros. */
START_TEST(huge_pages_that_are_not_there_are_a_fault_and_no_signal)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = 0;
    bool mapped = true;
    enum err e;

    mem_fd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);
    if (mem_fd < 0 || ftruncate(mem_fd, MEM) != 0)
        return; /* a kernel without huge pages */
    ck_assert_int_eq(fcntl(mem_fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    ck_assert_int_eq(reg(p, dup(mem_fd), 4096, 8192, true, &id, &mapped), OK);
    ck_assert(!mapped);
    e = moved(p, prepare(id, 0, 8192), false);
    ck_assert(e == ERR_MEM_FAULT || (e == OK && ext[0] == 0));
    e = moved(p, prepare(id, 0, 8192), true);
    ck_assert(e == ERR_MEM_FAULT || e == OK);
}
END_TEST

START_TEST(a_large_transfer_does_not_hold_the_others)
{
    struct fix_peer *p = fix_connect(0), *q = fix_connect(1);
    uint32_t id = registered(p, (enum brought)_i), id2;
    struct wire_seg seg2, seg1;
    struct span span2 = {ext, 4096}, span1 = {ext, MEM};
    struct fix_xfer large = *prepare(id, 0, MEM), small;
    bool mapped;
    uint32_t turns = 0;

    ck_assert_int_eq(reg(q, dup(mem_fd), 0, MEM, true, &id2, &mapped), OK);
    seg1 = (struct wire_seg){id, 0, 0, MEM};
    large.x.segs = (const uint8_t *)&seg1;
    large.x.spans = &span1;
    small = *prepare(id2, 0, 4096);
    seg2 = (struct wire_seg){id2, 0, 0, 4096};
    small.x.segs = (const uint8_t *)&seg2;
    small.x.spans = &span2;
    fix_xfer(p, &large, true);
    fix_xfer(q, &small, true);
    while (!large.dones) {
        ck_assert(fix.t->ops->progress(fix.t));
        turns++;
    }
    ck_assert_uint_eq(small.order, 1);
    ck_assert_uint_ge(turns, MEM / fix.cfg.copy_slice_bytes);
    ck_assert_uint_eq(large.x.moved, MEM);
}
END_TEST

START_TEST(tiny_segments_are_paid_for)
{
    enum { N = 8192 };
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, UNSEALED), turns = 0;
    struct wire_seg *segs = malloc(N * sizeof(*segs));

    prepare(id, 0, N);
    for (uint32_t i = 0; i < N; i++)
        segs[i] = (struct wire_seg){id, 0, i * 7, 1};
    one.x.segs = (const uint8_t *)segs;
    one.x.seg_n = N;
    fix_xfer(p, &one, false);
    while (!one.dones) {
        fix.t->ops->progress(fix.t);
        turns++;
    }
    ck_assert_int_eq(one.e, OK);
    ck_assert_uint_ge(turns, N * 4096 / fix.cfg.copy_slice_bytes);
    free(segs);
}
END_TEST

START_TEST(a_cancelled_transfer_completes_once_and_others_go_on)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, SEALED);
    struct fix_xfer a = *prepare(id, 0, MEM), b = a, c = a;

    fix_xfer(p, &a, false);
    fix_xfer(p, &b, false);
    fix_xfer(p, &c, false);
    fix.t->ops->progress(fix.t);
    fix.in_call = true;
    fix.t->ops->cancel(&a.x); /* under way */
    fix.t->ops->cancel(&c.x); /* waiting */
    fix.in_call = false;
    fix_run();
    ck_assert_int_eq(a.e, ERR_CANCELED);
    ck_assert_int_eq(c.e, ERR_CANCELED);
    ck_assert_int_eq(b.e, OK);
    ck_assert_uint_eq(b.x.moved, MEM);
    ck_assert_uint_eq(b.x.crc, crc32c(0, mem, MEM));
    ck_assert_uint_eq(a.dones + b.dones + c.dones, 3);
}
END_TEST

START_TEST(what_the_client_gave_up_is_not_completed)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, SEALED);
    uint64_t *word = &fix.c[0].sh->cancel[700 % RING_CANCELS];

    prepare(id, 0, MEM);
    one.x.req = 700;
    fix_xfer(p, &one, _i);
    while (one.x.tp_pos == 0)
        fix.t->ops->progress(fix.t);
    __atomic_store_n(word, 700 + RING_CANCELS, __ATOMIC_SEQ_CST);
    fix.t->ops->progress(fix.t);
    ck_assert_uint_eq(one.dones, 0); /* that was another request */
    __atomic_store_n(word, 700, __ATOMIC_SEQ_CST);
    fix_run();
    ck_assert_uint_eq(one.dones, 1);
    ck_assert_int_eq(one.e, ERR_CANCELED);
    ck_assert_uint_lt(one.x.moved, MEM);
}
END_TEST

START_TEST(death_in_mid_transfer_completes_everything_once)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, (enum brought)(_i % BROUGHT));
    struct fix_xfer x[8];

    for (int i = 0; i < 8; i++) {
        x[i] = *prepare(id, 0, MEM);
        fix_xfer(p, &x[i], i % 2);
        fix_send(p, 1, 4000, -1);
    }
    for (int i = 0; i < 6; i++)
        fix.t->ops->progress(fix.t);
    ck_assert_uint_eq(x[0].dones, 1);
    if (_i < BROUGHT)
        shm_client_close(&fix.c[0]);
    else
        fix_close(p, true);
    fix_run();
    ck_assert_uint_eq(p->closes, 1);
    for (int i = 0; i < 8; i++)
        ck_assert_uint_eq(x[i].dones, 1);
    ck_assert_int_eq(x[7].e, ERR_PEER_GONE);
    for (int i = 0; i < 8; i++)
        ck_assert_uint_eq(fix.sends[i].dones, 1);
}
END_TEST

START_TEST(unregistering_under_a_transfer_ends_it)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, (enum brought)_i), other;
    bool mapped;

    fix_xfer(p, prepare(id, 0, MEM), true);
    while (one.x.tp_pos == 0)
        fix.t->ops->progress(fix.t);
    ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, id), OK);
    ck_assert_int_eq(reg(p, bring(SEALED), 0, MEM, true, &other, &mapped), OK);
    fix_run();
    ck_assert_int_eq(one.e, ERR_NO_MEM);
    ck_assert_uint_eq(one.dones, 1);
}
END_TEST

START_TEST(an_orderly_close_waits_for_transfers)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t id = registered(p, SEALED);

    fix_xfer(p, prepare(id, 0, MEM), false);
    fix_close(p, false);
    fix_run();
    ck_assert_int_eq(one.e, OK);
    ck_assert_uint_eq(p->closes, 1);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(each_failure_of_a_registration_or_copy_has_its_error)
{
    struct fix_peer *p = fix_connect(0);
    uint32_t fds = fix_fds(), n, id;
    bool hit = true, mapped;

    for (n = 1; hit; n++) {
        int fd = bring((enum brought)_i);
        enum err e;

        fault_arm(n);
        e = reg(p, fd, 0, MEM, true, &id, &mapped);
        if (!e) {
            e = moved(p, prepare(id, 0, 100), false);
            ck_assert_int_eq(fix.t->ops->mem_unregister(p->tp, id), OK);
        } else {
            close(fd);
        }
        hit = fault_hit();
        fault_arm(0);
        ck_assert_int_eq(e != OK, hit);
        ck_assert_uint_eq(fix_fds(), fds);
    }
    ck_assert_uint_gt(n, 3);
}
END_TEST
#endif

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("transport_shm_mem");
    TCase *t = tcase_create("transport_shm_mem");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t,
                   sealed_memory_is_mapped_and_other_is_used_through_its_fd);
    tcase_add_test(t, ids_are_never_used_again);
    tcase_add_test(t, what_could_block_or_is_not_readable_is_refused);
    tcase_add_test(t, memories_and_their_bytes_are_limited);
    tcase_add_loop_test(t, bytes_and_crc_are_right_for_any_segments_and_spans,
                        0, 2 * BROUGHT);
    tcase_add_test(t, a_transfer_that_is_not_right_moves_nothing);
    tcase_add_loop_test(t, a_client_that_truncates_its_memory_gets_a_fault, 0,
                        2);
    tcase_add_test(t, a_client_cannot_truncate_what_is_mapped);
    tcase_add_test(t, huge_pages_that_are_not_there_are_a_fault_and_no_signal);
    tcase_add_loop_test(t, a_large_transfer_does_not_hold_the_others, 0,
                        BROUGHT);
    tcase_add_test(t, tiny_segments_are_paid_for);
    tcase_add_test(t, a_cancelled_transfer_completes_once_and_others_go_on);
    tcase_add_loop_test(t, what_the_client_gave_up_is_not_completed, 0, 2);
    tcase_add_loop_test(t, death_in_mid_transfer_completes_everything_once, 0,
                        2 * BROUGHT);
    tcase_add_loop_test(t, unregistering_under_a_transfer_ends_it, 0, BROUGHT);
    tcase_add_test(t, an_orderly_close_waits_for_transfers);
#ifdef PIKV_FAULTS
    tcase_add_loop_test(t, each_failure_of_a_registration_or_copy_has_its_error,
                        0, BROUGHT);
#endif
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}

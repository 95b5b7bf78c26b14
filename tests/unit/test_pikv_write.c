/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* pikv_put_begin to pikv_put_abort against a scripted daemon: what goes over
 * the wire, by every way that bytes can go, and what is refused before. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "client/pikv.h"
#include "tests/lib/fake_pikvd.h"

enum { LEN = 300000 };

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;
static uint8_t in[LEN], out[LEN];

static const struct pikv_call patient = {.deadline_us = 20000000};

static struct pikv *handle(uint64_t staging)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_options o = {.address = fake_address(fake),
                             .staging_bytes = staging};
    struct pikv *h;

    ck_assert_int_eq(pikv_open(&o, &h), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(h, &d, &ns, NULL), PIKV_OK);
    return h;
}

static void open_lanes(uint32_t lanes)
{
    fake = fake_start(lanes);
    kv = handle(0);
    for (size_t i = 0; i < LEN; i++)
        in[i] = (uint8_t)(i * 31 + (i >> 8));
}

static void end(void)
{
    pikv_close(kv);
    fake_stop(fake);
}

static struct pikv_key key_of(const char *s)
{
    return (struct pikv_key){.key = {s, strlen(s)}};
}

/* The call's status, or that of its one item. */
static int done(struct pikv *h, int e, uint64_t id, const struct pikv_result *r)
{
    if (!e)
        e = pikv_wait(h, id, NULL);
    return e ? e : r->status;
}

static int begin(struct pikv *h, const char *key, uint64_t len,
                 uint32_t writers, uint64_t *token)
{
    struct pikv_begin b = {
        .block = {.key = key_of(key)}, .len = len, .writers = writers};
    struct pikv_result r = {0};
    uint64_t id;
    int e = pikv_put_begin(h, ns, &b, 1, &patient, &r, &id);

    e = done(h, e, id, &r);
    *token = r.token;
    return e;
}

static int write_at(struct pikv *h, const char *key, uint64_t token,
                    uint64_t off, uint64_t len)
{
    struct pikv_write w = {.key = key_of(key),
                           .token = token,
                           .off = off,
                           .data = {in + off, len}};
    struct pikv_result r = {0};
    uint64_t id;
    int e = pikv_put_write(h, ns, &w, 1, &patient, &r, &id);

    e = done(h, e, id, &r);
    ck_assert(e || r.moved == len);
    return e;
}

static int commit(struct pikv *h, const char *key, uint64_t token,
                  uint32_t writer)
{
    struct pikv_finish f = {
        .key = key_of(key), .token = token, .writer = writer};
    struct pikv_result r = {0};
    uint64_t id;
    int e = pikv_put_commit(h, ns, &f, 1, &patient, &r, &id);

    return done(h, e, id, &r);
}

static int get(const char *key, size_t n)
{
    struct pikv_get item = {.key = key_of(key), .data = {out, n}};
    struct pikv_result r;
    int e;

    memset(out, 0, n);
    e = pikv_get_sync(kv, ns, &item, 1, &patient, &r);
    if (!e && !r.status)
        ck_assert_mem_eq(in, out, n);
    return e ? e : r.status;
}

START_TEST(two_handles_make_one_block)
{
    struct pikv *other;
    uint64_t token, again;

    open_lanes(1);
    other = handle(0);
    ck_assert_int_eq(begin(kv, "k", LEN, 2, &token), PIKV_OK);
    ck_assert_uint_ne(token, 0);
    ck_assert_int_eq(begin(other, "k", LEN, 2, &again), PIKV_OK);
    ck_assert_uint_eq(token, again);
    ck_assert_int_eq(write_at(kv, "k", token, 0, 1000), PIKV_OK);
    ck_assert_int_eq(write_at(other, "k", token, 1000, LEN - 1000), PIKV_OK);
    ck_assert_int_eq(commit(kv, "k", token, 0), PIKV_PENDING);
    ck_assert_int_eq(get("k", LEN), PIKV_MISS);
    ck_assert_int_eq(commit(other, "k", token, 1), PIKV_OK);
    ck_assert_int_eq(get("k", LEN), PIKV_OK);
    ck_assert_int_eq(begin(kv, "k", LEN, 2, &token), PIKV_EXISTS);
    ck_assert_uint_eq(token, 0);
    pikv_close(other);
    end();
}
END_TEST

/* Registered, staged, and larger than the staging area; one run or many. */
START_TEST(bytes_go_every_way)
{
    struct pikv *small;
    uint64_t token, id;
    struct pikv_result r[3] = {0};
    struct pikv_bytes iov[2];
    struct pikv_write w[3];
    void *mem;

    open_lanes(1);
    pikv_close(kv);
    kv = small = handle(1 << 16);
    ck_assert_int_eq(pikv_mem_alloc(small, LEN, &mem), PIKV_OK);
    memcpy(mem, in, LEN);
    ck_assert_int_eq(begin(small, "k", LEN, 1, &token), PIKV_OK);
    iov[0] = (struct pikv_bytes){in + 5000, 1000};
    iov[1] = (struct pikv_bytes){in + 6000, 4000};
    w[0] = (struct pikv_write){
        .key = key_of("k"), .token = token, .data = {(uint8_t *)mem, 5000}};
    w[1] = (struct pikv_write){.key = key_of("k"),
                               .token = token,
                               .off = 5000,
                               .iov = iov,
                               .iov_n = 2};
    w[2] = (struct pikv_write){
        .key = key_of("k"), .token = token + 1, .data = {in, 10}};
    ck_assert_int_eq(pikv_put_write(small, ns, w, 3, &patient, r, &id), 0);
    ck_assert_int_eq(pikv_wait(small, id, NULL), PIKV_OK);
    ck_assert_int_eq(r[0].status, PIKV_OK);
    ck_assert_int_eq(r[1].status, PIKV_OK);
    ck_assert_int_eq(r[2].status, PIKV_MISS);
    ck_assert_int_eq(write_at(small, "k", token, 10000, LEN - 10000), PIKV_OK);
    ck_assert_int_eq(commit(small, "k", token, 0), PIKV_OK);
    ck_assert_int_eq(get("k", LEN), PIKV_OK);
    end();
}
END_TEST

START_TEST(a_checksum_goes_along)
{
    uint32_t crc, wrong;
    struct pikv_result r = {0};
    uint64_t token, id;

    open_lanes(1);
    crc = pikv_crc32c(0, in, 100);
    wrong = crc ^ 1;
    ck_assert_int_eq(begin(kv, "k", 100, 1, &token), PIKV_OK);
    for (int good = 0; good < 2; good++) {
        struct pikv_write w = {.key = key_of("k"),
                               .token = token,
                               .data = {in, 100},
                               .crc32c = good ? &crc : &wrong};
        int e = pikv_put_write(kv, ns, &w, 1, &patient, &r, &id);

        ck_assert_int_eq(done(kv, e, id, &r), good ? PIKV_OK : PIKV_CORRUPT);
    }
    end();
}
END_TEST

START_TEST(what_begin_says_goes_along)
{
    struct pikv_begin b = {
        .block = {.key = key_of("k"), .parent = {"parent", 6}, .token_n = 512},
        .len = 10,
        .writers = 64};
    struct pikv_call call = {.deadline_us = 20000000, .open_ms = 1234};
    struct pikv_result r = {0};
    struct fake_seen seen;
    uint64_t id;
    int e;

    open_lanes(1);
    e = pikv_put_begin(kv, ns, &b, 1, &call, &r, &id);
    ck_assert_int_eq(done(kv, e, id, &r), PIKV_OK);
    fake_seen(fake, 0, &seen);
    ck_assert_uint_eq(seen.writers, 64);
    ck_assert_uint_eq(seen.open_ms, 1234);
    ck_assert_uint_eq(seen.token_n, 512);
    ck_assert_uint_eq(seen.parent_len, 6);
    end();
}
END_TEST

START_TEST(given_up_is_gone)
{
    struct pikv_finish f = {.key = key_of("k")};
    struct pikv_result r = {0};
    uint64_t id;

    open_lanes(1);
    ck_assert_int_eq(begin(kv, "k", 100, 1, &f.token), PIKV_OK);
    for (int again = 0; again < 2; again++) {
        int e = pikv_put_abort(kv, ns, &f, 1, &patient, &r, &id);

        ck_assert_int_eq(done(kv, e, id, &r), again ? PIKV_MISS : PIKV_OK);
    }
    ck_assert_int_eq(write_at(kv, "k", f.token, 0, 100), PIKV_MISS);
    end();
}
END_TEST

/* Each item goes to the lane of its key, with that lane's token. */
START_TEST(batches_are_split_over_the_lanes)
{
    enum { N = 40, EACH = 500 };
    static char names[N][16];
    struct pikv_begin b[N] = {0};
    struct pikv_write w[N] = {0};
    struct pikv_finish f[N] = {0};
    struct pikv_result r[N];
    uint64_t id;

    open_lanes(3);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "key%u", i);
        b[i].block.key = w[i].key = f[i].key = key_of(names[i]);
        b[i].len = EACH;
        w[i].data = (struct pikv_bytes){in, EACH};
    }
    ck_assert_int_eq(pikv_put_begin(kv, ns, b, N, &patient, r, &id), 0);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(r[i].status, PIKV_OK);
        w[i].token = f[i].token = r[i].token;
    }
    ck_assert_int_eq(pikv_put_write(kv, ns, w, N, &patient, r, &id), 0);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    ck_assert_int_eq(pikv_put_commit(kv, ns, f, N, &patient, r, &id), 0);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(r[i].status, PIKV_OK);
        ck_assert_int_eq(get(names[i], EACH), PIKV_OK);
    }
    for (uint32_t lane = 0; lane < 3; lane++)
        ck_assert_uint_gt(fake_requests(fake, lane), 3);
    end();
}
END_TEST

static int try_begin(struct pikv_begin b)
{
    struct pikv_result r;
    uint64_t id;

    return pikv_put_begin(kv, ns, &b, 1, NULL, &r, &id);
}

static int try_write(struct pikv_write w)
{
    struct pikv_result r;
    uint64_t id;

    return pikv_put_write(kv, ns, &w, 1, NULL, &r, &id);
}

START_TEST(nonsense_is_refused_at_once)
{
    struct pikv_key k = key_of("k");
    struct pikv_finish f = {.key = k, .writer = 64};
    struct pikv_result r;
    uint64_t id;

    open_lanes(1);
    ck_assert_int_eq(try_begin((struct pikv_begin){.block.key = k}),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(try_begin((struct pikv_begin){.len = 1}),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(
        try_begin((struct pikv_begin){.block.key = k, .len = 1, .writers = 65}),
        PIKV_LIMIT);
    ck_assert_int_eq(try_write((struct pikv_write){.key = k}),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(
        try_write((struct pikv_write){.key = k, .data = {NULL, 1}}),
        PIKV_BAD_REQUEST);
    ck_assert_int_eq(try_write((struct pikv_write){.key = k, .iov_n = 1}),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(try_write((struct pikv_write){
                         .key = k, .off = UINT64_MAX, .data = {in, 1}}),
                     PIKV_LIMIT);
    ck_assert_int_eq(pikv_put_commit(kv, ns, &f, 1, NULL, &r, &id),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_put_commit(kv, ns, &f, 0, NULL, &r, &id),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_put_abort(kv, ns, &f, 1, NULL, NULL, &id),
                     PIKV_BAD_REQUEST);
    f.writer = 0;
    ck_assert_int_eq(pikv_put_commit(kv, ns + 7, &f, 1, NULL, &r, &id),
                     PIKV_NO_NAMESPACE);
    ck_assert_uint_eq(fake_requests(fake, 0), 0);
    end();
}
END_TEST

START_TEST(a_write_without_an_answer_times_out)
{
    struct pikv_write w = {.key = key_of("k"), .data = {in, LEN}};
    struct pikv_call hasty = {.deadline_us = 20000};
    struct pikv_result r = {0};
    uint64_t id;
    int e;

    open_lanes(1);
    ck_assert_int_eq(begin(kv, "k", LEN, 1, &w.token), PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    e = pikv_put_write(kv, ns, &w, 1, &hasty, &r, &id);
    ck_assert_int_eq(done(kv, e, id, &r), PIKV_TIMEOUT);
    ck_assert_int_eq(r.status, PIKV_TIMEOUT);
    fake_set_mode(fake, FAKE_SERVES);
    end();
}
END_TEST

START_TEST(every_bad_answer_is_survived)
{
    static const enum fake_mode modes[] = {
        FAKE_DOUBLES, FAKE_CUTS, FAKE_GARBLES, FAKE_DIES, FAKE_REFUSES};
    struct pikv_begin b = {.block.key = key_of("k"), .len = LEN};
    struct pikv_write w = {.key = key_of("k"), .data = {in, LEN}};
    struct pikv_finish f = {.key = key_of("k")};
    struct pikv_call call = {.deadline_us = 3000000};
    struct pikv_result r;
    uint64_t id;

    for (uint32_t i = 0; i < countof(modes); i++) {
        int e[4];

        open_lanes(1);
        fake_set_mode(fake, modes[i]);
        e[0] = pikv_put_begin(kv, ns, &b, 1, &call, &r, &id);
        e[0] = done(kv, e[0], id, &r);
        e[1] = pikv_put_write(kv, ns, &w, 1, &call, &r, &id);
        e[1] = done(kv, e[1], id, &r);
        e[2] = pikv_put_commit(kv, ns, &f, 1, &call, &r, &id);
        e[2] = done(kv, e[2], id, &r);
        e[3] = pikv_put_abort(kv, ns, &f, 1, &call, &r, &id);
        e[3] = done(kv, e[3], id, &r);
        for (uint32_t k = 0; k < 4; k++)
            ck_assert_int_le(e[k], 0);
        end();
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_write");
    TCase *t = tcase_create("pikv_write");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, two_handles_make_one_block);
    tcase_add_test(t, bytes_go_every_way);
    tcase_add_test(t, a_checksum_goes_along);
    tcase_add_test(t, what_begin_says_goes_along);
    tcase_add_test(t, given_up_is_gone);
    tcase_add_test(t, batches_are_split_over_the_lanes);
    tcase_add_test(t, nonsense_is_refused_at_once);
    tcase_add_test(t, a_write_without_an_answer_times_out);
    tcase_add_test(t, every_bad_answer_is_survived);
    suite_add_tcase(s, t);
    return s;
}

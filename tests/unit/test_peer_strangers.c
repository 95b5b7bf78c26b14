/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server cluster base proto
 *
 * What is no peer, or one that may not be: it is refused, the log says why once
 * per address and minute, and nothing else changes: a link that is UP goes on,
 * nobody is told anything, no hello of it is looked at. */
#include <check.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "lib/certs.h"
#include "lib/peer_fix.h"

static const enum peer_security all[] = {PEER_SECURITY_TLS, PEER_SECURITY_PSK,
                                         PEER_SECURITY_PLAIN};

static struct pnode *a, *b; /* linked, all the time */

static void setup_two(enum peer_security how)
{
    pfix_open(how);
    a = pnode_open("a");
    b = pnode_open("b");
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
}

/* b has refused so many, has said so that often, and is otherwise the same. */
static void refused(uint64_t n, uint32_t lines, const char *why)
{
    PFIX_UNTIL(pnode_stats(b).refused >= n);
    ck_assert_uint_eq(pnode_stats(b).refused, n);
    ck_assert_msg(pfix_log_n("peer_refused") == lines, "%s", pfix_log);
    ck_assert_msg(strstr(pfix_log, why), "%s", pfix_log);
    ck_assert_uint_eq(b->ups, 1);
    ck_assert_uint_eq(b->downs + b->fails, 0);
    b->messages = 0;
    peer_links_send(a->links, a->link, PEER_BEAT, NULL, 0);
    PFIX_UNTIL(b->messages == 1);
}

/* ---- No TLS ---- */

START_TEST(bytes_that_are_no_tls_are_refused_at_once)
{
    static const char http[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    uint8_t junk[3000], hello[256];
    size_t n = pfix_hello("c", hello, sizeof(hello));
    int fd;

    setup_two(all[_i]);
    fd = raw_connect(b, NULL);
    raw_send(fd, http, sizeof(http) - 1);
    ck_assert_uint_eq(raw_until_closed(fd, junk, sizeof(junk)), 0);
    refused(1, 1, "its first bytes are not TLS's");
    fd = raw_connect(b, NULL);
    raw_send(fd, hello, n);
    ck_assert_uint_eq(raw_until_closed(fd, junk, sizeof(junk)), 0);
    refused(2, 1, "no peer"); /* within the minute: one line */
    srand(7);
    for (uint32_t i = 0; i < 50; i++) {
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)rand();
        junk[0] = i % 2 ? 22 : junk[0];
        fd = raw_connect(b, "127.0.0.2");
        raw_send(fd, junk, sizeof(junk));
        raw_until_closed(fd, NULL, 0);
    }
    refused(52, 2, "127.0.0.2");
    ck_assert_uint_eq(b->checks, 1);
    pfix_close();
}
END_TEST

START_TEST(nonsense_on_a_plain_link_is_refused)
{
    static const uint8_t bad[][12] = {
        {3, 0, 0, 0, 1, 0, 0, 0},          /* shorter than its head */
        {0xff, 0xff, 0xff, 0x7f, 1, 0},    /* too long */
        {4, 0, 0, 0, 1, 0, 1, 0},          /* flags */
        {4, 0, 0, 0, 3, 0, 0, 0},          /* a beat before hello */
        {6, 0, 0, 0, 1, 0, 0, 0, 0x0a, 9}, /* no hello */
        {5, 0, 0, 0, 2, 0, 0, 0, 0xff},    /* no Bye */
        {5, 16, 0, 0, 1, 0, 0, 0},         /* longer than a hello may be */
    };
    uint8_t out[512];

    setup_two(PEER_SECURITY_PLAIN);
    for (size_t i = 0; i < countof(bad); i++) {
        int fd = raw_connect(b, NULL);

        raw_send(fd, bad[i], sizeof(bad[i]));
        raw_until_closed(fd, out, sizeof(out));
        refused(i + 1, 1, "not a frame of peers");
    }
    pfix_close();
}
END_TEST

START_TEST(nonsense_or_a_reset_after_hello_ends_that_link_only)
{
    static const uint8_t twice[] = {4, 0, 0, 0, 1, 0, 0, 0};
    static const uint8_t long_one[] = {5, 0, 64, 0, 3, 0, 0, 0};
    uint8_t hello[256], out[512];
    size_t n = pfix_hello("c", hello, sizeof(hello));
    int fd;

    setup_two(PEER_SECURITY_PLAIN);
    fd = raw_connect(b, NULL);
    raw_send(fd, hello, n);
    PFIX_UNTIL(b->live == 2);
    if (_i == 2) { /* a reset */
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0},
                   sizeof(struct linger));
        close(fd);
    } else {
        raw_send(fd, _i ? twice : long_one, sizeof(twice));
        raw_until_closed(fd, out, sizeof(out));
    }
    PFIX_UNTIL(b->downs == 1);
    ck_assert_int_eq(b->why, _i == 2 ? ERR_PEER_GONE : ERR_BAD_REQUEST);
    ck_assert_uint_eq(b->live, 1);
    ck_assert_uint_eq(pnode_stats(b).refused, 0); /* it was a peer */
    pfix_close();
}
END_TEST

START_TEST(a_name_that_is_ours_or_refused_gets_a_bye_with_the_reason)
{
    uint8_t hello[256], out[512];
    size_t n = pfix_hello("b", hello, sizeof(hello)), got;
    int fd;

    setup_two(PEER_SECURITY_PLAIN);
    fd = raw_connect(b, NULL);
    raw_send(fd, hello, n);
    got = raw_until_closed(fd, out, sizeof(out));
    ck_assert_ptr_nonnull(memmem(out, got, "which is this node", 18));
    refused(1, 1, "which is this node");
    b->refuse = ERR_DENIED;
    n = pfix_hello("c", hello, sizeof(hello));
    fd = raw_connect(b, "127.0.0.3");
    raw_send(fd, hello, n);
    got = raw_until_closed(fd, out, sizeof(out));
    ck_assert_ptr_nonnull(memmem(out, got, "another cluster", 15));
    refused(2, 2, "another cluster");
    pfix_close();
}
END_TEST

/* ---- Time and number ---- */

START_TEST(who_says_nothing_or_one_byte_at_a_time_has_handshake_ms)
{
    uint8_t hello[256], out[64];
    size_t n, at = 0;
    uint64_t since;
    int fd, loris;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_new("b");
    b->cfg.handshake_ms = 300;
    ck_assert_int_eq(pnode_start(b), OK);
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    n = pfix_hello("c", hello, sizeof(hello));
    hello[0] = all[_i] == PEER_SECURITY_PLAIN ? hello[0] : 22;
    since = uv_now(&pfix_loop);
    fd = raw_connect(b, NULL);
    loris = raw_connect(b, "127.0.0.2");
    while (pnode_stats(b).refused < 2) {
        if (at < n - 1) /* never the last one */
            raw_send(loris, hello + at++, 1);
        pfix_turn();
    }
    ck_assert_uint_ge(uv_now(&pfix_loop) - since, 290);
    raw_until_closed(fd, out, sizeof(out));
    raw_until_closed(loris, out, sizeof(out));
    refused(2, 2, "no hello of it within 300 ms");
    pfix_close();
}
END_TEST

START_TEST(many_that_say_nothing_leave_room_for_others)
{
    enum { PENDING = 8 };
    int fd[PENDING];
    struct pnode *c;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_open("a");
    b = pnode_new("b");
    b->cfg.pending_max = PENDING;
    ck_assert_int_eq(pnode_start(b), OK);
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    for (int i = 0; i < PENDING; i++)
        fd[i] = raw_connect(b, "127.0.0.2");
    refused(PENDING / 2, 1, "too many that have not said hello");
    c = pnode_open("c"); /* from another address */
    pnode_dial(c, b);
    PFIX_UNTIL(c->link);
    for (int i = 0; i < PENDING; i++)
        close(fd[i]);
    PFIX_UNTIL(pnode_stats(b).refused == PENDING);
    pfix_close();
}
END_TEST

START_TEST(links_max_is_kept_by_both_sides)
{
    struct pnode *c;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_new("a");
    b = pnode_new("b");
    a->cfg.links_max = b->cfg.links_max = 1;
    ck_assert_int_eq(pnode_start(a) | pnode_start(b), OK);
    c = pnode_open("c");
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    pnode_dial(a, c);
    PFIX_UNTIL(a->fails == 1);
    ck_assert_int_eq(a->why, ERR_LIMIT);
    pnode_dial(c, b);
    PFIX_UNTIL(c->fails == 1);
    ck_assert_int_eq(c->why, ERR_BUSY);
    ck_assert_uint_eq(b->live, 1);
    ck_assert_uint_eq(pnode_stats(b).refused, 1);
    ck_assert_uint_eq(pfix_log_n("no place for another link"), 1);
    pfix_close();
}
END_TEST

/* One waits to be accepted, all others end, then there is memory again. */
START_TEST(who_waits_for_memory_is_accepted_also_when_nobody_else_is_left)
{
    int first, second;

    pfix_open(PEER_SECURITY_PLAIN);
    b = pnode_open("b");
    first = raw_connect(b, NULL);
    PFIX_UNTIL(pnode_stats(b).accepted == 1);
    fault_arm_forever(1);
    second = raw_connect(b, NULL);
    PFIX_UNTIL(fault_hit());
    ck_assert_str_eq(fault_point(), "peer_conn");
    close(first);
    PFIX_UNTIL(pnode_stats(b).refused == 1);
    pfix_wait(100);
    ck_assert_uint_eq(pnode_stats(b).accepted, 1);
    fault_arm(0);
    PFIX_UNTIL(pnode_stats(b).accepted == 2);
    close(second);
    pfix_close();
}
END_TEST

/* ---- TLS of others ---- */

/* A client with that context: shakes hands, says a hello of name, and reads
 * until it is cut off. True: it got a hello in return. */
static bool tls_stranger(SSL_CTX *ctx, const char *name)
{
    SSL *ssl = SSL_new(ctx);
    uint8_t hello[256], in[512];
    size_t n = pfix_hello(name, hello, sizeof(hello));
    int fd = raw_connect(b, NULL), rc = -1, got = 0;
    bool said = false, over = false;

    SSL_set_fd(ssl, fd);
    SSL_set_connect_state(ssl);
    while (!over) {
        pfix_turn();
        ERR_clear_error();
        if (said) {
            rc = SSL_read(ssl, in + got, (int)sizeof(in) - got);
            got += rc > 0 ? rc : 0;
        } else {
            rc = SSL_write(ssl, hello, (int)n);
            said = rc > 0;
        }
        over = (rc <= 0 && SSL_get_error(ssl, rc) != SSL_ERROR_WANT_READ &&
                SSL_get_error(ssl, rc) != SSL_ERROR_WANT_WRITE) ||
               (got >= 8 && in[4] == PEER_HELLO);
    }
    if (got >= 8)
        SSL_shutdown(ssl); /* in order, where there was a link */
    SSL_free(ssl);
    close(fd);
    return got >= 8 && in[4] == PEER_HELLO;
}

static SSL_CTX *stranger_ctx(const char *file)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    char path[256];

    if (!file)
        return ctx;
    snprintf(path, sizeof(path), "%s/%s.crt", pfix_dir, file);
    ck_assert_int_eq(SSL_CTX_use_certificate_chain_file(ctx, path), 1);
    snprintf(path, sizeof(path), "%s/%s.key", pfix_dir, file);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM),
                     1);
    return ctx;
}

static const struct {
    const char *file, *name, *why;
    int max; /* version of TLS */
} strangers[] = {
    {"foreign", "c", "unable to get local issuer certificate", 0},
    {"selfsigned", "c", "self-signed certificate", 0},
    {"expired", "c", "certificate has expired", 0},
    {"early", "c", "certificate is not yet valid", 0},
    {NULL, "c", "peer did not return a certificate", 0},
    {"good", "d", "no DNS name of its certificate", 0},
    {"good", "C", "no DNS name of its certificate", 0},
    {"noname", "c", "no DNS name of its certificate", 0},
    {"wild", "c.x", "no DNS name of its certificate", 0},
    {"good", "c", "unsupported protocol", TLS1_2_VERSION},
};

START_TEST(a_certificate_that_is_not_good_is_refused_with_its_reason)
{
    SSL_CTX *ctx;

    setup_two(PEER_SECURITY_TLS);
    certs_ca(pfix_dir, "other");
    certs_ca(pfix_dir, "selfsigned");
    certs_node(pfix_dir, "other", "foreign", "c", 0, 10);
    certs_node(pfix_dir, "ca", "expired", "c", -20, -10);
    certs_node(pfix_dir, "ca", "early", "c", 10, 20);
    certs_node(pfix_dir, "ca", "noname", NULL, 0, 10);
    certs_node(pfix_dir, "ca", "wild", "*.x", 0, 10);
    certs_node(pfix_dir, "ca", "good", "c", 0, 10);
    ctx = stranger_ctx(strangers[_i].file);
    SSL_CTX_set_max_proto_version(ctx, strangers[_i].max);
    ck_assert(!tls_stranger(ctx, strangers[_i].name));
    refused(1, 1, strangers[_i].why);
    SSL_CTX_free(ctx);
    ctx = stranger_ctx("good"); /* and that is what was missing */
    ck_assert(tls_stranger(ctx, "c"));
    ck_assert_uint_eq(b->ups, 2);
    PFIX_UNTIL(b->downs == 1);
    ck_assert_str_eq(b->words, "the peer closed the link");
    SSL_CTX_free(ctx);
    pfix_close();
}
END_TEST

START_TEST(another_psk_or_none_is_refused_by_both_sides)
{
    struct pnode *c;
    SSL_CTX *ctx;

    setup_two(PEER_SECURITY_PSK);
    pfix_write("psk.c",
               "ff112233445566778899aabbccddeeff"
               "00112233445566778899aabbccddee01\n",
               0600);
    c = pnode_new("c");
    c->cfg.psk_file = pfix_path("psk.c");
    ck_assert_int_eq(pnode_start(c), OK);
    pnode_dial(c, b);
    PFIX_UNTIL(c->fails == 1);
    ck_assert_int_eq(c->why, ERR_DENIED);
    refused(1, 1, "another pre-shared key (cluster.tls.psk_file)");
    pnode_dial(a, c);
    PFIX_UNTIL(a->fails == 1);
    certs_ca(pfix_dir, "other");
    certs_node(pfix_dir, "other", "good", "c", 0, 10);
    ctx = stranger_ctx("good");
    ck_assert(!tls_stranger(ctx, "c"));
    refused(2, 2, "peer_refused"); /* with c's own line about a */
    SSL_CTX_free(ctx);
    pfix_close();
}
END_TEST

START_TEST(the_dialer_refuses_a_server_of_another_authority_or_without_one)
{
    struct pnode *c;

    setup_two(PEER_SECURITY_TLS);
    certs_ca(pfix_dir, "other");
    certs_node(pfix_dir, "other", "foreign", "c", 0, 10);
    c = pnode_new("c");
    c->cfg.ca = pfix_path("other.crt");
    c->cfg.cert = pfix_path("foreign.crt");
    c->cfg.key = pfix_path("foreign.key");
    ck_assert_int_eq(pnode_start(c), OK);
    pnode_dial(a, c);
    PFIX_UNTIL(a->fails == 1);
    ck_assert_int_eq(a->why, ERR_DENIED);
    ck_assert_msg(strstr(a->words, "its certificate is not good"), "%s",
                  a->words);
    c = pnode_new("d");
    c->cfg.security = PEER_SECURITY_PSK;
    ck_assert_int_eq(pnode_start(c), OK);
    pnode_dial(a, c);
    PFIX_UNTIL(a->fails == 2);
    ck_assert_int_eq(a->why, ERR_DENIED);
    c = pnode_new("e");
    c->cfg.security = PEER_SECURITY_PLAIN;
    ck_assert_int_eq(pnode_start(c), OK);
    pnode_dial(a, c);
    PFIX_UNTIL(a->fails == 3);
    ck_assert_uint_eq(c->ups, 0);
    pfix_close();
}
END_TEST

/* What a dialer said, recorded on the wire, said again: to the same node, and,
 * cut, in all of its beginnings. */
START_TEST(recorded_bytes_open_nothing)
{
    struct ppipe p;
    uint64_t n = 0;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    peer_links_send(a->links, a->link, PEER_BEAT, (const uint8_t *)"x", 1);
    PFIX_UNTIL(b->messages == 1);
    for (size_t len = p.seen_n; len > 0; len -= len > 40 ? 40 : len) {
        int fd = raw_connect(b, NULL);

        raw_send(fd, p.seen, len);
        shutdown(fd, SHUT_WR);
        raw_until_closed(fd, NULL, 0);
        PFIX_UNTIL(pnode_stats(b).refused == ++n);
    }
    ck_assert_uint_eq(b->ups, 1);
    ck_assert_uint_eq(b->checks, 1);
    ck_assert_uint_eq(b->messages, 1);
    ck_assert_uint_eq(b->downs, 0);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

/* Within a link, too: a record said twice is not one of TLS's numbers. */
START_TEST(a_byte_changed_on_the_way_ends_the_link)
{
    struct ppipe p;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    raw_send(p.out, p.seen + (p.seen_n > 100 ? p.seen_n - 100 : 0), 100);
    PFIX_UNTIL(b->downs == 1);
    ck_assert_int_eq(b->why, ERR_DENIED);
    ck_assert_uint_eq(b->messages, 0);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("peer_strangers");
    TCase *t = tcase_create("strangers");

    tcase_set_timeout(t, 90);
    tcase_add_loop_test(t, bytes_that_are_no_tls_are_refused_at_once, 0, 2);
    tcase_add_test(t, nonsense_on_a_plain_link_is_refused);
    tcase_add_loop_test(t, nonsense_or_a_reset_after_hello_ends_that_link_only,
                        0, 3);
    tcase_add_test(t,
                   a_name_that_is_ours_or_refused_gets_a_bye_with_the_reason);
    tcase_add_loop_test(
        t, who_says_nothing_or_one_byte_at_a_time_has_handshake_ms, 0, 3);
    tcase_add_test(t, many_that_say_nothing_leave_room_for_others);
    tcase_add_test(t, links_max_is_kept_by_both_sides);
    tcase_add_test(
        t, who_waits_for_memory_is_accepted_also_when_nobody_else_is_left);
    tcase_add_loop_test(
        t, a_certificate_that_is_not_good_is_refused_with_its_reason, 0,
        (int)countof(strangers));
    tcase_add_test(t, another_psk_or_none_is_refused_by_both_sides);
    tcase_add_test(
        t, the_dialer_refuses_a_server_of_another_authority_or_without_one);
    tcase_add_loop_test(t, recorded_bytes_open_nothing, 0, 2);
    tcase_add_loop_test(t, a_byte_changed_on_the_way_ends_the_link, 0, 2);
    suite_add_tcase(s, t);
    return s;
}

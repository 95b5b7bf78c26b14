/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server cluster base proto
 *
 * Links between daemons on a real loop and real sockets of loopback: both ends
 * are ours here (strangers: test_peer_strangers.c). */
#include <check.h>
#include <netinet/in.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "lib/certs.h"
#include "lib/peer_fix.h"

static const enum peer_security all[] = {PEER_SECURITY_TLS, PEER_SECURITY_PSK,
                                         PEER_SECURITY_PLAIN};

/* ---- Up, and what is said ---- */

START_TEST(two_nodes_are_up_by_one_link_that_both_are_told_of)
{
    struct pnode *a, *b;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    pnode_dial(a, b);
    ck_assert_uint_eq(a->ups, 0); /* not within the call */
    PFIX_UNTIL(a->link && b->link);
    ck_assert_str_eq(a->peer, "b");
    ck_assert_str_eq(b->peer, "a");
    ck_assert(a->dialed && !b->dialed);
    ck_assert_uint_eq(pnode_stats(a).up, 1);
    ck_assert_uint_eq(pnode_stats(b).accepted, 1);
    ck_assert_uint_eq(pnode_stats(b).refused, 0);
    pfix_close();
}
END_TEST

START_TEST(messages_of_any_size_pass_both_ways_in_order)
{
    static uint8_t big[PEER_MSG_BYTES];
    struct pnode *a, *b;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    for (size_t i = 0; i < 300; i++) {
        big[0] = (uint8_t)i;
        peer_links_send(a->links, a->link, PEER_BEAT, big, i * 37);
    }
    big[0] = 77;
    peer_links_send(a->links, a->link, PEER_RAFT, big, sizeof(big));
    peer_links_send(b->links, b->link, PEER_BYE + 1, NULL, 0);
    PFIX_UNTIL(b->messages == 301 && a->messages == 1);
    ck_assert_uint_eq(b->kind, PEER_RAFT);
    ck_assert_uint_eq(b->first, 77);
    ck_assert_uint_eq(b->bytes, 37 * 300 * 299 / 2 + sizeof(big));
    ck_assert_uint_eq(pnode_stats(b).frames_in, 302); /* with hello */
    ck_assert_uint_eq(pnode_stats(b).frames_out, 2);
    pfix_close();
}
END_TEST

START_TEST(a_dial_to_where_a_link_is_or_begins_does_nothing)
{
    struct pnode *a, *b;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_open("a");
    b = pnode_open("b");
    pnode_dial(a, b);
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    pnode_dial(a, b);
    pfix_wait(50);
    ck_assert_uint_eq(pnode_stats(a).dialed, 1);
    ck_assert_uint_eq(pnode_stats(b).accepted, 1);
    ck_assert_uint_eq(b->ups, 1);
    pfix_close();
}
END_TEST

START_TEST(a_name_is_resolved)
{
    struct pnode *a, *b;
    char address[64];

    pfix_open(PEER_SECURITY_PLAIN);
    a = pnode_open("a");
    b = pnode_open("b");
    snprintf(address, sizeof(address), "localhost:%u",
             peer_links_port(b->links));
    peer_links_dial(a->links, address);
    PFIX_UNTIL(a->link && b->link);
    pfix_close();
}
END_TEST

START_TEST(a_dial_that_comes_to_nothing_is_told_with_its_address)
{
    struct pnode *a, *gone;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_open("a");
    gone = pnode_open("gone");
    pnode_close(gone);
    PFIX_UNTIL(gone->closed);
    pnode_dial(a, gone);
    ck_assert_uint_eq(a->fails, 0);
    PFIX_UNTIL(a->fails == 1);
    ck_assert_int_eq(a->why, ERR_NO_SERVER);
    ck_assert_ptr_nonnull(strstr(a->words, gone->address));
    ck_assert_ptr_nonnull(strstr(a->words, "refused"));
    peer_links_dial(a->links, "nonsense");
    PFIX_UNTIL(a->fails == 2);
    ck_assert_int_eq(a->why, ERR_BAD_REQUEST);
    peer_links_dial(a->links, "127.0.0.1:70000");
    peer_links_dial(a->links, "[::1");
    peer_links_dial(a->links, ":1");
    PFIX_UNTIL(a->fails == 5);
    pfix_close();
}
END_TEST

START_TEST(a_peer_that_never_says_hello_is_given_up_after_handshake_ms)
{
    struct pnode *a, *b;
    struct ppipe p;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_new("a");
    a->cfg.handshake_ms = 100;
    ck_assert_int_eq(pnode_start(a), OK);
    b = pnode_open("b");
    ppipe_open(&p, b);
    p.held = true;
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->fails == 1);
    ck_assert_int_eq(a->why, ERR_TIMEOUT);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

START_TEST(an_address_that_swallows_packets_is_given_up_after_dial_ms)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof(at);
    int full = socket(AF_INET, SOCK_STREAM, 0), fd[4];
    struct pnode *a;
    char address[64];

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_new("a");
    a->cfg.dial_ms = 200;
    ck_assert_int_eq(pnode_start(a), OK);
    ck_assert_int_eq(bind(full, (struct sockaddr *)&at, n), 0);
    ck_assert_int_eq(listen(full, 0), 0); /* one, and nobody accepts */
    ck_assert_int_eq(getsockname(full, (struct sockaddr *)&at, &n), 0);
    for (size_t i = 0; i < countof(fd); i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fd[i], (struct sockaddr *)&at, n);
    }
    snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(at.sin_port));
    peer_links_dial(a->links, address);
    PFIX_UNTIL(a->fails == 1);
    ck_assert_int_eq(a->why, ERR_TIMEOUT);
    ck_assert_ptr_nonnull(strstr(a->words, "no answer in 200 ms"));
    for (size_t i = 0; i < countof(fd); i++)
        close(fd[i]);
    close(full);
    pfix_close();
}
END_TEST

START_TEST(links_go_over_ipv6_where_there_is_some)
{
    struct pnode *a, *b;
    char address[64];

    pfix_open(PEER_SECURITY_PLAIN);
    a = pnode_open("a");
    b = pnode_new("b");
    b->cfg.host = "::1";
    if (pnode_start(b) == OK) {
        snprintf(address, sizeof(address), "[::1]:%u",
                 peer_links_port(b->links));
        peer_links_dial(a->links, address);
        PFIX_UNTIL(a->link && b->link);
    }
    pfix_close();
}
END_TEST

/* ---- One link per pair of names ---- */

START_TEST(of_two_dials_at_once_the_smaller_name_s_stays)
{
    struct pnode *a, *b;

    pfix_open(all[_i % 3]);
    a = pnode_open("a");
    b = pnode_open("b");
    if (_i < 3) {
        pnode_dial(a, b);
        pnode_dial(b, a);
    } else {
        pnode_dial(b, a);
        pnode_dial(a, b);
    }
    PFIX_UNTIL(a->link && b->link && b->fails + b->downs == 1);
    ck_assert(a->dialed && !b->dialed);
    ck_assert_int_eq(b->why, ERR_EXISTS);
    ck_assert_uint_eq(a->live, 1);
    ck_assert_uint_eq(b->live, 1);
    ck_assert_uint_eq(a->fails, 0);
    peer_links_send(b->links, b->link, PEER_BEAT, NULL, 0);
    PFIX_UNTIL(a->messages == 1);
    ck_assert_uint_eq(pnode_stats(a).refused + pnode_stats(b).refused, 0);
    pnode_dial(b, a); /* its address is known as the link's */
    pnode_dial(a, b);
    pfix_wait(50);
    ck_assert_uint_eq(a->live + b->live, 2);
    ck_assert_uint_eq(pnode_stats(b).dialed, 1);
    pfix_close();
}
END_TEST

/* Each is told of the old one's end before it hears of the new one. */
static void never_two(struct pnode *n, uint64_t link)
{
    (void)link;
    ck_assert_uint_le(n->live, 1);
}

START_TEST(a_later_dial_of_the_smaller_name_takes_the_place)
{
    struct pnode *a, *b;

    pfix_open(PEER_SECURITY_TLS);
    a = pnode_open("a");
    b = pnode_open("b");
    a->on_up = b->on_up = never_two;
    pnode_dial(b, a);
    PFIX_UNTIL(a->link && b->link);
    ck_assert(b->dialed);
    pnode_dial(a, b);
    PFIX_UNTIL(a->ups == 2 && b->ups == 2);
    ck_assert(a->dialed && !b->dialed);
    PFIX_UNTIL(a->downs == 1 && b->downs == 1);
    ck_assert_uint_eq(a->live + b->live, 2);
    pfix_close();
}
END_TEST

START_TEST(of_two_addresses_of_one_peer_one_link_stays)
{
    struct pnode *a, *b;
    struct ppipe p;

    pfix_open(PEER_SECURITY_TLS);
    a = pnode_open(_i ? "z" : "a");
    b = pnode_open("b");
    a->on_up = b->on_up = never_two;
    ppipe_open(&p, b);
    pnode_dial(a, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(b->ups == 2 && b->live == 1 && a->link && a->ups == 2);
    ck_assert_uint_eq(a->live, 1);
    peer_links_send(b->links, b->link, PEER_BEAT, NULL, 0);
    PFIX_UNTIL(a->messages == 1);
    ck_assert_uint_eq(a->fails, 0);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

/* The end of the first is on its way to the dialer, who hears the second's
 * hello before: it waits, unread, until it hears, or its time is over. */
START_TEST(a_second_link_of_ours_waits_until_the_first_is_known_to_have_ended)
{
    struct pnode *a, *b;
    struct ppipe p;

    pfix_open(all[_i % 3]);
    a = pnode_new("a");
    a->cfg.handshake_ms = _i < 3 ? 20000 : 300;
    ck_assert_int_eq(pnode_start(a), OK);
    b = pnode_open("b");
    a->on_up = b->on_up = never_two;
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    p.held = true;
    pnode_dial(a, b);
    PFIX_UNTIL(b->ups == 2);
    peer_links_send(b->links, b->link, PEER_BEAT, NULL, 0);
    if (_i < 3) {
        PFIX_UNTIL(a->checks == 2);
        pfix_wait(20);
        ck_assert_uint_eq(a->ups, 1);
        p.held = false;
        PFIX_UNTIL(a->ups == 2 && a->messages == 1);
        ck_assert_uint_eq(a->downs, 1);
        ck_assert_uint_eq(b->live, 1);
    } else {
        PFIX_UNTIL(a->fails == 1 && !b->live);
        ck_assert_int_eq(a->why, ERR_EXISTS);
        ck_assert_uint_eq(a->live, 1);
    }
    ppipe_close(&p);
    pfix_close();
}
END_TEST

START_TEST(a_peer_that_came_back_takes_the_place_of_its_dead_link)
{
    struct pnode *a, *b, *again;
    struct ppipe p;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_open("a");
    b = pnode_open("b");
    b->on_up = never_two;
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    p.held = true; /* a is gone without a word */
    again = pnode_open("a");
    pnode_dial(again, b);
    PFIX_UNTIL(again->link && b->ups == 2);
    ck_assert_uint_eq(b->downs, 1);
    ck_assert_int_eq(b->why, ERR_EXISTS);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

START_TEST(a_node_that_dials_itself_is_told_so)
{
    struct pnode *a;

    pfix_open(PEER_SECURITY_TLS);
    a = pnode_open("a");
    pnode_dial(a, a);
    PFIX_UNTIL(a->fails == 1);
    ck_assert_int_eq(a->why, ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(a->words, "this node"));
    ck_assert_uint_eq(a->ups, 0);
    pfix_close();
}
END_TEST

START_TEST(many_nodes_are_all_linked_once_though_all_dial_all)
{
    enum { N = 12 };
    struct pnode *n[N];

    pfix_open(all[_i]);
    for (int i = 0; i < N; i++) {
        char name[16];

        snprintf(name, sizeof(name), "n%02d", i);
        n[i] = pnode_open(name);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            if ((i * 5) % N != j)
                pnode_dial(n[(i * 5) % N], n[j]);
    for (int i = 0; i < N; i++)
        PFIX_UNTIL(n[i]->live == N - 1 && pnode_stats(n[i]).up == N - 1);
    pfix_wait(100);
    for (int i = 0; i < N; i++) {
        ck_assert_uint_eq(n[i]->live, N - 1);
        ck_assert_msg(pnode_stats(n[i]).refused == 0, "%s", pfix_log);
    }
    pfix_close();
}
END_TEST

/* ---- Ends ---- */

START_TEST(hang_up_tells_both_with_its_words)
{
    struct pnode *a, *b;
    uint64_t link;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    link = a->link;
    peer_links_hang_up(a->links, link, "no longer needed\n");
    ck_assert_uint_eq(a->downs, 0); /* not within the call */
    peer_links_send(a->links, link, PEER_BEAT, NULL, 0); /* to nobody */
    PFIX_UNTIL(a->downs == 1 && b->downs == 1);
    ck_assert_str_eq(b->words, "the peer says: no longer needed?");
    peer_links_send(a->links, link, PEER_BEAT, NULL, 0);
    peer_links_hang_up(a->links, link, "twice");
    pfix_wait(20);
    ck_assert_uint_eq(b->messages, 0);
    ck_assert_uint_eq(a->downs, 1);
    pfix_close();
}
END_TEST

START_TEST(what_was_said_before_the_end_arrives)
{
    static uint8_t big[1 << 20];
    struct pnode *a, *b;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    for (int i = 0; i < 8; i++)
        peer_links_send(a->links, a->link, PEER_RAFT, big, sizeof(big));
    peer_links_hang_up(a->links, a->link, "done");
    PFIX_UNTIL(b->downs == 1);
    ck_assert_uint_eq(b->messages, 8);
    ck_assert_str_eq(b->words, "the peer says: done");
    pfix_close();
}
END_TEST

static void talk_back(struct pnode *n, uint64_t link)
{
    static uint8_t big[100000];

    peer_links_send(n->links, link, PEER_RAFT, big, sizeof(big));
}

START_TEST(close_under_traffic_ends_every_handle)
{
    struct pnode *a, *b, *c;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    c = pnode_open("c");
    a->on_message = b->on_message = talk_back;
    pnode_dial(a, b);
    pnode_dial(b, c);
    PFIX_UNTIL(a->link && b->live == 2);
    talk_back(a, a->link);
    talk_back(a, a->link);
    PFIX_UNTIL(b->messages > 20);
    peer_links_dial(a->links, "localhost:1"); /* a look-up under way */
    pnode_dial(c, a);                         /* and a handshake */
    pnode_close(a);
    PFIX_UNTIL(a->closed);
    PFIX_UNTIL(b->live == 1);
    ck_assert_int_eq(b->why, ERR_DRAINING);
    pfix_close(); /* sees that the loop has nothing left */
}
END_TEST

static void close_now(struct pnode *n, uint64_t link)
{
    (void)link;
    if (n->links && !n->closed)
        pnode_close(n);
    n->on_up = n->on_down = n->on_message = NULL;
}

START_TEST(close_from_within_any_callback_is_safe)
{
    struct pnode *a, *b;

    pfix_open(PEER_SECURITY_PSK);
    a = pnode_open("a");
    b = pnode_open("b");
    if (_i == 0)
        b->on_up = close_now;
    if (_i == 1)
        b->on_message = close_now;
    if (_i == 2)
        b->on_down = close_now;
    pnode_dial(a, b);
    PFIX_UNTIL(a->ups || a->fails);
    if (_i && a->link)
        peer_links_send(a->links, a->link, PEER_BEAT, NULL, 0);
    if (_i == 2)
        PFIX_UNTIL(b->messages == 1);
    if (_i == 2)
        peer_links_hang_up(a->links, a->link, "end");
    PFIX_UNTIL(b->closed && !a->link);
    pfix_close();
}
END_TEST

START_TEST(links_close_of_nothing_is_fine)
{
    peer_links_close(NULL, NULL, NULL);
}
END_TEST

/* ---- Silence, slowness, cuts ---- */

START_TEST(a_silent_link_is_kept_by_still_here_and_ended_when_it_is_dead)
{
    struct pnode *a, *b;
    struct ppipe p;

    pfix_open(PEER_SECURITY_TLS);
    a = pnode_new("a");
    b = pnode_new("b");
    a->cfg.idle_ms = b->cfg.idle_ms = 900;
    ck_assert_int_eq(pnode_start(a) | pnode_start(b), OK);
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    PFIX_UNTIL(pnode_stats(a).frames_in >= 7); /* hello, and six times here */
    ck_assert_uint_eq(a->downs + b->downs, 0);
    ck_assert_uint_eq(a->messages, 0); /* nobody else is told of these */
    p.held = true;
    PFIX_UNTIL(a->downs == 1 && b->downs == 1);
    ck_assert_int_eq(a->why, ERR_TIMEOUT);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

START_TEST(a_peer_that_reads_nothing_costs_queue_max_at_most)
{
    static uint8_t big[1 << 20];
    struct pnode *a, *b;
    struct ppipe p;
    uint64_t sent = 0;

    pfix_open(all[_i]);
    a = pnode_new("a");
    a->cfg.queue_max = 8 << 20;
    ck_assert_int_eq(pnode_start(a), OK);
    b = pnode_open("b");
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    p.held = true;
    while (a->link) {
        peer_links_send(a->links, a->link, PEER_RAFT, big, sizeof(big));
        sent += sizeof(big);
        pfix_turn();
        ck_assert_uint_lt(sent, 64u << 20);
    }
    ck_assert_int_eq(a->why, ERR_BUSY);
    ppipe_close(&p);
    pfix_close();
}
END_TEST

/* Cuts after every so many bytes of what the dialer says, from the first to
 * those of a message: nobody is UP twice, no message is half, all ends. */
START_TEST(a_stream_cut_anywhere_ends_the_link_and_tells_no_half_message)
{
    static const size_t step[] = {211, 61, 7};
    static uint8_t msg[600];
    struct pnode *a, *b;
    struct ppipe p;
    bool whole = false;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    ppipe_open(&p, b);
    for (size_t cut = 0; !whole; cut += step[_i]) {
        uint32_t ends = a->downs + a->fails;
        uint64_t had = b->messages, bytes = b->bytes;

        p.pass = cut;
        peer_links_dial(a->links, p.address);
        PFIX_UNTIL(a->link || a->downs + a->fails > ends);
        if (a->link)
            peer_links_send(a->links, a->link, PEER_BEAT, msg, sizeof(msg));
        PFIX_UNTIL(b->messages > had || a->downs + a->fails > ends);
        whole = b->messages > had;
        ck_assert_uint_eq(b->bytes - bytes, whole ? sizeof(msg) : 0);
        PFIX_UNTIL(whole || !b->live);
    }
    ppipe_close(&p);
    pfix_close();
}
END_TEST

START_TEST(a_tls_stream_that_ends_without_its_close_is_called_cut)
{
    struct pnode *a, *b;
    struct ppipe p;

    pfix_open(all[_i]);
    a = pnode_open("a");
    b = pnode_open("b");
    ppipe_open(&p, b);
    peer_links_dial(a->links, p.address);
    PFIX_UNTIL(a->link && b->link);
    ppipe_cut(&p);
    PFIX_UNTIL(a->downs && b->downs);
    ck_assert_int_eq(b->why, ERR_PEER_GONE);
    ck_assert_ptr_nonnull(
        strstr(b->words, all[_i] == PEER_SECURITY_PLAIN ? "closed" : "cut"));
    ppipe_close(&p);
    pfix_close();
}
END_TEST

/* ---- The configuration ---- */

static void wrong(struct pnode *n, const char *key, const char *says)
{
    enum err e = pnode_start(n);

    ck_assert_int_eq(e, ERR_CONFIG);
    ck_assert_msg(strncmp(n->m.text, key, strlen(key)) == 0, "%s", n->m.text);
    ck_assert_msg(strstr(n->m.text, says), "%s", n->m.text);
    ck_assert_msg(strstr(n->m.text, "fix: "), "%s", n->m.text);
    ck_assert_ptr_null(n->links);
}

START_TEST(a_wrong_certificate_setting_is_named_with_its_fix)
{
    struct pnode *n;

    pfix_open(PEER_SECURITY_TLS);
    certs_ca(pfix_dir, "other");
    certs_node(pfix_dir, "other", "foreign", "a", 0, 10);
    certs_node(pfix_dir, "ca", "old", "a", -20, -10);
    certs_node(pfix_dir, "ca", "noname", NULL, 0, 10);
    n = pnode_new("a");
    n->cfg.ca = "";
    wrong(n, "cluster.tls.ca:", "is empty");
    n = pnode_new("a");
    n->cfg.ca = pfix_path("nothing");
    wrong(n, "cluster.tls.ca:", "No such file");
    n = pnode_new("a");
    n->cfg.ca = n->cfg.key;
    wrong(n, "cluster.tls.ca:", "PEM");
    n = pnode_new("a");
    n->cfg.cert = n->cfg.key;
    wrong(n, "cluster.tls.cert:", "PEM");
    n = pnode_new("a");
    n->cfg.cert = n->cfg.ca; /* may not be used by both, and no fitting key */
    wrong(n, "cluster.tls.key:", "mismatch");
    n = pnode_new("a");
    ck_assert_int_eq(chmod(n->cfg.key, 0640), 0);
    wrong(n, "cluster.tls.key:", "chmod 600");
    n = pnode_new("a");
    n->cfg.cert = pfix_path("foreign.crt");
    n->cfg.key = pfix_path("foreign.key");
    wrong(n, "cluster.tls.cert:", "issuer");
    n = pnode_new("a");
    n->cfg.cert = pfix_path("old.crt");
    n->cfg.key = pfix_path("old.key");
    wrong(n, "cluster.tls.cert:", "expired");
    n = pnode_new("a");
    n->cfg.cert = pfix_path("noname.crt");
    n->cfg.key = pfix_path("noname.key");
    wrong(n, "cluster.tls.cert:", "subjectAltName=DNS:a");
    pfix_close();
}
END_TEST

START_TEST(a_wrong_key_file_is_named_with_its_fix)
{
    static const char *const bad[] = {
        "", "\n\n", "0011223344\n", "not hex at all, though it is long enough",
        "0011223344556677889900112233445566778899001122334455667788990011\nxx"};
    struct pnode *n;

    pfix_open(PEER_SECURITY_PSK);
    for (size_t i = 0; i < countof(bad); i++) {
        pfix_write("bad", bad[i], 0600);
        n = pnode_new("a");
        n->cfg.psk_file = pfix_path("bad");
        wrong(n, "cluster.tls.psk_file:", "openssl rand -hex 32");
    }
    pfix_write("bad", bad[4], 0644);
    n = pnode_new("a");
    n->cfg.psk_file = pfix_path("bad");
    wrong(n, "cluster.tls.psk_file:", "chmod 600");
    n = pnode_new("a");
    n->cfg.psk_file = "";
    wrong(n, "cluster.tls.psk_file:", "is empty");
    pfix_close();
}
END_TEST

START_TEST(plain_is_for_loopback_only_to_listen_and_to_dial)
{
    struct pnode *n;

    pfix_open(PEER_SECURITY_PLAIN);
    n = pnode_new("a");
    n->cfg.host = "0.0.0.0";
    wrong(n, "cluster.security:", "set cluster.security to tls or psk");
    n = pnode_open("a");
    peer_links_dial(n->links, "192.0.2.1:7441");
    PFIX_UNTIL(n->fails == 1);
    ck_assert_int_eq(n->why, ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(n->words, "set cluster.security"));
    pfix_close();
}
END_TEST

START_TEST(a_port_in_use_is_named_with_its_fix)
{
    struct pnode *a, *b;

    pfix_open(PEER_SECURITY_PLAIN);
    a = pnode_open("a");
    b = pnode_new("b");
    b->cfg.port = peer_links_port(a->links);
    ck_assert_int_eq(pnode_start(b), ERR_BUSY);
    ck_assert_ptr_nonnull(strstr(b->m.text, "cluster.port"));
    pfix_close();
}
END_TEST

START_TEST(a_key_is_replaced_node_by_node_by_a_second_line)
{
#define OLD "aa112233445566778899aabbccddeeff00112233445566778899aabbccddee01\n"
#define NEW "bb112233445566778899aabbccddeeff00112233445566778899aabbccddee02\n"
    static const char *const stages[][2] = {
        {OLD, OLD NEW}, {NEW OLD, OLD NEW}, {NEW OLD, NEW}, {NEW, NEW}};
    struct pnode *a, *b;

    pfix_open(PEER_SECURITY_PSK);
    pfix_write("psk.a", OLD, 0600);
    pfix_write("psk.b", OLD, 0600);
    a = pnode_new("a");
    a->cfg.psk_file = pfix_path("psk.a");
    b = pnode_new("b");
    b->cfg.psk_file = pfix_path("psk.b");
    ck_assert_int_eq(pnode_start(a) | pnode_start(b), OK);
    for (size_t i = 0; i < 2 * countof(stages); i++) {
        struct pnode *from = i % 2 ? a : b, *to = i % 2 ? b : a;

        pfix_write("psk.a", stages[i / 2][0], 0600);
        pfix_write("psk.b", stages[i / 2][1], 0600);
        ck_assert_int_eq(peer_links_reload(a->links, &a->m), OK);
        ck_assert_int_eq(peer_links_reload(b->links, &b->m), OK);
        pnode_dial(from, to);
        PFIX_UNTIL(a->link && b->link);
        peer_links_hang_up(a->links, a->link, "next");
        PFIX_UNTIL(!a->live && !b->live);
    }
    pfix_write("psk.a", "no", 0600);
    ck_assert_int_eq(peer_links_reload(a->links, &a->m), ERR_CONFIG);
    pnode_dial(a, b); /* with the old ones */
    PFIX_UNTIL(a->link && b->link);
    pfix_close();
}
END_TEST

/* ---- Faults ---- */

static bool end_to_end(void)
{
    struct pnode *a = pnode_new("a"), *b = pnode_new("b");
    bool up;

    if (pnode_start(a) || pnode_start(b))
        return false;
    pnode_dial(a, b);
    for (int i = 0; i < 40 && !a->link && !a->fails; i++)
        pfix_turn();
    if (a->link)
        peer_links_send(a->links, a->link, PEER_BEAT, (uint8_t[4]){0}, 4);
    for (int i = 0; i < 40 && !b->messages; i++)
        pfix_turn();
    up = b->messages == 1;
    return up;
}

START_TEST(every_failing_step_ends_a_link_and_nothing_else)
{
    bool done = false;

    for (uint32_t i = 1; !done; i++) {
        pfix_open(all[_i]);
        fault_arm(i);
        if (!end_to_end())
            ck_assert_msg(fault_hit(), "without a fault");
        done = !fault_hit();
        fault_arm(0);
        pfix_close();
        ck_assert_uint_lt(i, 200);
    }
}
END_TEST

/* ---- What the book says ---- */

/* The commands of docs/OPERATING.md between its marks are run as they stand,
 * and what they make is good for links. */
START_TEST(the_commands_of_operating_md_make_a_cluster_s_certificates)
{
    struct pnode *a, *b;
    char cmd[1024], here[512];

    pfix_open(PEER_SECURITY_TLS);
    ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
    snprintf(cmd, sizeof(cmd),
             "mkdir '%s/book' && cd '%s/book' && sed -n '/^<!-- cluster-keys "
             "-->/,/^<!-- end -->/"
             "s/^    //p' '%s/docs/OPERATING.md' > run.sh && "
             "grep -q . run.sh && sh -e run.sh > run.log 2>&1",
             pfix_dir, pfix_dir, here);
    ck_assert_int_eq(system(cmd), 0);
    a = pnode_new("node1");
    b = pnode_new("node2");
    a->cfg.ca = b->cfg.ca = pfix_path("book/pikvd-ca.crt");
    a->cfg.cert = pfix_path("book/node1.crt");
    a->cfg.key = pfix_path("book/node1.key");
    b->cfg.cert = pfix_path("book/node2.crt");
    b->cfg.key = pfix_path("book/node2.key");
    ck_assert_msg(pnode_start(a) == OK, "%s", a->m.text);
    ck_assert_msg(pnode_start(b) == OK, "%s", b->m.text);
    pnode_dial(a, b);
    PFIX_UNTIL(a->link && b->link);
    a = pnode_new("x");
    a->cfg.security = PEER_SECURITY_PSK;
    a->cfg.psk_file = pfix_path("book/peer.psk");
    ck_assert_msg(pnode_start(a) == OK, "%s", a->m.text);
    pfix_close();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("peer_link");
    TCase *t = tcase_create("up");

    tcase_set_timeout(t, 90);
    tcase_add_loop_test(t, two_nodes_are_up_by_one_link_that_both_are_told_of,
                        0, 3);
    tcase_add_loop_test(t, messages_of_any_size_pass_both_ways_in_order, 0, 3);
    tcase_add_test(t, a_dial_to_where_a_link_is_or_begins_does_nothing);
    tcase_add_test(t, a_name_is_resolved);
    tcase_add_test(t, a_dial_that_comes_to_nothing_is_told_with_its_address);
    tcase_add_test(t,
                   a_peer_that_never_says_hello_is_given_up_after_handshake_ms);
    tcase_add_test(t,
                   an_address_that_swallows_packets_is_given_up_after_dial_ms);
    tcase_add_test(t, links_go_over_ipv6_where_there_is_some);
    suite_add_tcase(s, t);

    t = tcase_create("one link");
    tcase_set_timeout(t, 90);
    tcase_add_loop_test(t, of_two_dials_at_once_the_smaller_name_s_stays, 0, 6);
    tcase_add_test(t, a_later_dial_of_the_smaller_name_takes_the_place);
    tcase_add_loop_test(t, of_two_addresses_of_one_peer_one_link_stays, 0, 2);
    tcase_add_loop_test(
        t, a_second_link_of_ours_waits_until_the_first_is_known_to_have_ended,
        0, 6);
    tcase_add_test(t, a_peer_that_came_back_takes_the_place_of_its_dead_link);
    tcase_add_test(t, a_node_that_dials_itself_is_told_so);
    tcase_add_loop_test(t, many_nodes_are_all_linked_once_though_all_dial_all,
                        0, 3);
    suite_add_tcase(s, t);

    t = tcase_create("ends");
    tcase_set_timeout(t, 90);
    tcase_add_loop_test(t, hang_up_tells_both_with_its_words, 0, 3);
    tcase_add_loop_test(t, what_was_said_before_the_end_arrives, 0, 3);
    tcase_add_loop_test(t, close_under_traffic_ends_every_handle, 0, 3);
    tcase_add_loop_test(t, close_from_within_any_callback_is_safe, 0, 3);
    tcase_add_test(t, links_close_of_nothing_is_fine);
    tcase_add_test(
        t, a_silent_link_is_kept_by_still_here_and_ended_when_it_is_dead);
    tcase_add_loop_test(t, a_peer_that_reads_nothing_costs_queue_max_at_most, 0,
                        3);
    tcase_add_loop_test(
        t, a_stream_cut_anywhere_ends_the_link_and_tells_no_half_message, 0, 3);
    tcase_add_loop_test(
        t, a_tls_stream_that_ends_without_its_close_is_called_cut, 0, 3);
    suite_add_tcase(s, t);

    t = tcase_create("configuration");
    tcase_set_timeout(t, 90);
    tcase_add_test(t, a_wrong_certificate_setting_is_named_with_its_fix);
    tcase_add_test(t, a_wrong_key_file_is_named_with_its_fix);
    tcase_add_test(t, plain_is_for_loopback_only_to_listen_and_to_dial);
    tcase_add_test(t, a_port_in_use_is_named_with_its_fix);
    tcase_add_test(t, a_key_is_replaced_node_by_node_by_a_second_line);
    tcase_add_loop_test(t, every_failing_step_ends_a_link_and_nothing_else, 0,
                        3);
    tcase_add_test(t,
                   the_commands_of_operating_md_make_a_cluster_s_certificates);
    suite_add_tcase(s, t);
    return s;
}

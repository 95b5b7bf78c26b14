/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/mailbox.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>

enum { CAP = 8 };

struct letter {
    struct mail mail;
    uint32_t from, no;
};

struct reader {
    uint32_t next[4]; /* per sender: the number expected */
    uint32_t n;
};

static void letter_read(struct mail *m, void *receiver)
{
    struct letter *l = container_of(m, struct letter, mail);
    struct reader *r = receiver;

    ck_assert_uint_eq(l->no, r->next[l->from]);
    r->next[l->from]++;
    r->n++;
}

static uint32_t wakes;

static void count_wake(void *arg)
{
    (void)arg;
    wakes++;
}

START_TEST(messages_run_in_order_in_the_receiver)
{
    struct letter l[CAP];
    struct reader r = {0};
    struct mailbox b;

    mailbox_init(&b, CAP, NULL, NULL);
    for (uint32_t i = 0; i < CAP; i++) {
        l[i] = (struct letter){{.fn = letter_read}, 0, i};
        ck_assert_int_eq(mailbox_post(&b, &l[i].mail), OK);
    }
    ck_assert_uint_eq(r.n, 0);
    ck_assert_uint_eq(mailbox_run(&b, &r, 3), 3);
    ck_assert_uint_eq(mailbox_run(&b, &r, 100), CAP - 3);
    ck_assert_uint_eq(mailbox_run(&b, &r, 100), 0);
    ck_assert_uint_eq(r.n, CAP);
    mailbox_fini(&b);
}
END_TEST

START_TEST(full_mailbox_is_busy_and_leaves_the_message)
{
    struct letter l[CAP + 1];
    struct reader r = {0};
    struct mailbox b;

    mailbox_init(&b, CAP, NULL, NULL);
    for (uint32_t i = 0; i <= CAP; i++)
        l[i] = (struct letter){{.fn = letter_read}, 0, i};
    for (uint32_t i = 0; i < CAP; i++)
        ck_assert_int_eq(mailbox_post(&b, &l[i].mail), OK);
    ck_assert_int_eq(mailbox_post(&b, &l[CAP].mail), ERR_BUSY);
    ck_assert_uint_eq(mailbox_run(&b, &r, 1), 1);
    ck_assert_int_eq(mailbox_post(&b, &l[CAP].mail), OK);
    ck_assert_uint_eq(mailbox_run(&b, &r, 100), CAP);
    mailbox_fini(&b);
}
END_TEST

START_TEST(only_the_first_message_wakes)
{
    struct letter l[3];
    struct reader r = {0};
    struct mailbox b;

    wakes = 0;
    mailbox_init(&b, CAP, count_wake, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        l[i] = (struct letter){{.fn = letter_read}, 0, i};
        ck_assert_int_eq(mailbox_post(&b, &l[i].mail), OK);
    }
    ck_assert_uint_eq(wakes, 1);
    ck_assert_uint_eq(mailbox_run(&b, &r, 100), 2);
    l[2] = (struct letter){{.fn = letter_read}, 0, 2};
    ck_assert_int_eq(mailbox_post(&b, &l[2].mail), OK);
    ck_assert_uint_eq(wakes, 2);
    mailbox_run(&b, &r, 100);
    mailbox_fini(&b);
}
END_TEST

static void post_back(struct mail *m, void *receiver)
{
    m->fn = letter_read;
    ck_assert_int_eq(mailbox_post(receiver, m), OK);
}

START_TEST(fn_may_post_its_message_on)
{
    struct letter l = {{.fn = post_back}, 0, 0};
    struct mailbox there, back;
    struct reader r = {0};

    mailbox_init(&there, 1, NULL, NULL);
    mailbox_init(&back, 1, NULL, NULL);
    ck_assert_int_eq(mailbox_post(&there, &l.mail), OK);
    ck_assert_uint_eq(mailbox_run(&there, &back, 10), 1);
    ck_assert_uint_eq(mailbox_run(&back, &r, 10), 1);
    ck_assert_uint_eq(r.n, 1);
    mailbox_fini(&there);
    mailbox_fini(&back);
}
END_TEST

START_TEST(fini_accepts_zeros)
{
    struct mailbox b = {0};

    mailbox_fini(&b);
}
END_TEST

START_TEST(fini_with_mail_inside_aborts)
{
    struct letter l = {{.fn = letter_read}, 0, 0};
    struct mailbox b;

    mailbox_init(&b, 1, NULL, NULL);
    ck_assert_int_eq(mailbox_post(&b, &l.mail), OK);
    mailbox_fini(&b);
}
END_TEST

enum { SENDERS = 4, LETTERS = 5000 };

struct sender {
    struct mailbox *b;
    struct letter *letters;
    uint32_t from;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;

    for (uint32_t i = 0; i < LETTERS; i++) {
        s->letters[i] = (struct letter){{.fn = letter_read}, s->from, i};
        while (mailbox_post(s->b, &s->letters[i].mail) == ERR_BUSY)
            sched_yield();
    }
    return NULL;
}

/* What ThreadSanitizer watches: each letter is written by its sender, then
 * read by the receiver, with nothing but the mailbox between. */
START_TEST(many_senders_lose_and_reorder_nothing)
{
    struct sender senders[SENDERS];
    struct reader r = {0};
    struct mailbox b;
    pthread_t threads[SENDERS];

    mailbox_init(&b, 16, NULL, NULL);
    for (uint32_t i = 0; i < SENDERS; i++) {
        senders[i] =
            (struct sender){&b, calloc(LETTERS, sizeof(struct letter)), i};
        ck_assert_ptr_nonnull(senders[i].letters);
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    while (r.n < SENDERS * LETTERS)
        if (mailbox_run(&b, &r, 5) == 0)
            sched_yield();
    for (uint32_t i = 0; i < SENDERS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_uint_eq(r.next[i], LETTERS);
        free(senders[i].letters);
    }
    mailbox_fini(&b);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("mailbox");
    TCase *t = tcase_create("mailbox");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, messages_run_in_order_in_the_receiver);
    tcase_add_test(t, full_mailbox_is_busy_and_leaves_the_message);
    tcase_add_test(t, only_the_first_message_wakes);
    tcase_add_test(t, fn_may_post_its_message_on);
    tcase_add_test(t, fini_accepts_zeros);
    tcase_add_test_raise_signal(t, fini_with_mail_inside_aborts, SIGABRT);
    tcase_add_test(t, many_senders_lose_and_reorder_nothing);
    suite_add_tcase(s, t);
    return s;
}

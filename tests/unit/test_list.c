/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/list.h"

#include <check.h>

struct item {
    int no;
    struct list node;
};

static struct list head;
static struct item items[4];

static void list_make(void)
{
    list_init(&head);
    for (int i = 0; i < 4; i++) {
        items[i].no = i;
        list_init(&items[i].node);
    }
}

static int list_digits(void)
{
    int n = 0;

    LIST_FOREACH(node, &head)
    n = n * 10 + container_of(node, struct item, node)->no + 1;
    return n;
}

START_TEST(tail_keeps_and_head_turns_the_order)
{
    ck_assert(list_empty(&head));
    list_add_tail(&head, &items[1].node);
    list_add_tail(&head, &items[2].node);
    list_add_head(&head, &items[0].node);
    ck_assert_int_eq(list_digits(), 123);
    ck_assert(!list_empty(&head));
}
END_TEST

START_TEST(deleting_twice_is_harmless)
{
    for (int i = 0; i < 3; i++)
        list_add_tail(&head, &items[i].node);
    list_del(&items[1].node);
    list_del(&items[1].node);
    ck_assert_int_eq(list_digits(), 13);
    ck_assert(list_empty(&items[1].node));
}
END_TEST

START_TEST(pop_takes_from_the_front_until_null)
{
    for (int i = 0; i < 3; i++)
        list_add_tail(&head, &items[i].node);
    for (int i = 0; i < 3; i++)
        ck_assert_ptr_eq(list_pop(&head), &items[i].node);
    ck_assert_ptr_null(list_pop(&head));
    ck_assert(list_empty(&head));
}
END_TEST

START_TEST(the_safe_walk_may_unlink)
{
    for (int i = 0; i < 4; i++)
        list_add_tail(&head, &items[i].node);
    LIST_FOREACH_SAFE(node, &head)
    if (container_of(node, struct item, node)->no % 2)
        list_del(node);
    ck_assert_int_eq(list_digits(), 13);
    LIST_FOREACH_SAFE(node, &head)
    list_del(node);
    ck_assert(list_empty(&head));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("list");
    TCase *t = tcase_create("list");

    tcase_add_checked_fixture(t, list_make, NULL);
    tcase_add_test(t, tail_keeps_and_head_turns_the_order);
    tcase_add_test(t, deleting_twice_is_harmless);
    tcase_add_test(t, pop_takes_from_the_front_until_null);
    tcase_add_test(t, the_safe_walk_may_unlink);
    suite_add_tcase(s, t);
    return s;
}

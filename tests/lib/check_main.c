/* SPDX-License-Identifier: Apache-2.0
 *
 * main() of every unit test: runs the suite that the test file defines and
 * prints Check's summary line. CK_FORK=no (Check's own variable) keeps tests
 * in one process for gdb; tests that expect a signal then do not run. */
#include <check.h>
#include <stdlib.h>

Suite *suite(void);

int main(void)
{
    SRunner *sr = srunner_create(suite());
    int failed;

    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

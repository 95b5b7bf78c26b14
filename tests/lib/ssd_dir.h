/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory for tests that need files as an SSD tier has them. */
#ifndef TESTS_LIB_SSD_DIR_H
#define TESTS_LIB_SSD_DIR_H

#include <stdbool.h>

/* A fresh one on a file system with O_DIRECT that is not in memory, in
 * $TMPDIR, ./out or /tmp. false, with words on stderr: there is none. */
bool ssd_dir_new(char dir[200]);
void ssd_dir_free(const char *dir); /* and all that is in it; "" ok */

#endif

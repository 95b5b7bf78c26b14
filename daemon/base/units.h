/* SPDX-License-Identifier: Apache-2.0
 *
 * "24GiB", "64KiB", "250ms", "2s" to numbers and back. Binary units only for
 * bytes (KiB MiB GiB TiB, or plain B); us ms s m h for time. */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H

#include "base/err.h"

must_check enum err units_bytes(const char *text, uint64_t *bytes_out);
must_check enum err units_us(const char *text, uint64_t *us_out);
/* Shortest exact form; returns buf. buf holds at least 32 bytes. */
char *units_print_bytes(uint64_t bytes, char *buf);
char *units_print_us(uint64_t us, char *buf);

#endif
